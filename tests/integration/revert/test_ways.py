# ruff: noqa: E501 - SQL in full
"""What a plan does: restore, undelete, undo."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm

from audit_app.errors import (
    InvalidOptionError,
    PlanError,
    RecordNotFoundError,
    UnresolvedConflictsError,
)
from tests.integration.revert.books import Library, everything, kinds, through

# -- Restore ------------------------------------------------------------------------------------


@through
def test_restore_to_an_activity(library: Library, through: str) -> None:
    library.run("UPDATE article SET title = 'wrong', price = 9.99 WHERE id = 1")
    first = library.trail.value(
        "SELECT id FROM audit.activity WHERE table_name = 'article' AND object_id = '1' ORDER BY 1 LIMIT 1"
    )
    plan = library.restore(library.article, 1, version=first)
    assert [(c.field, c.old, str(c.new)) for c in plan.steps[0].changes] == [
        ("title", "wrong", "one"),
        ("price", plan.steps[0].changes[1].old, "1.50"),
    ]
    id_ = library.apply(plan, through)
    assert library.rows("SELECT title, price::text, upper_title FROM article WHERE id = 1") == [
        ("one", "1.50", "ONE")
    ]
    found = library.trail.transactions()[-1]
    assert (found.id, found.reason, found.meta) == (
        id_,
        "a mistake",
        {"reverts": {"activities": [first]}},
    )
    assert library.events == (["before_update"] if through == "orm" else [])
    with pytest.raises(PlanError, match="nothing to do"):
        library.apply(library.restore(library.article, 1, version=first))


def test_restore_to_a_moment_and_only_some_fields(library: Library) -> None:
    when = library.trail.value("SELECT clock_timestamp()")
    library.run("UPDATE article SET title = 'wrong', price = 9.99 WHERE id = 1")
    plan = library.restore(library.article, 1, version=when, fields=["heading"])
    assert [c.field for c in plan.steps[0].changes] == ["title"]
    whole = library.restore(library.article, 1, version=when)
    assert whole.only(["title"]).steps[0].changes == plan.steps[0].changes
    with pytest.raises(PlanError, match="No step of this plan changes upper_title"):
        whole.only("upper_title")
    library.apply(plan)
    assert library.rows("SELECT title, price::text FROM article WHERE id = 1") == [("one", "9.99")]


def test_restore_follows_the_key_and_leaves_it(library: Library) -> None:
    when = library.trail.value("SELECT clock_timestamp()")
    library.run("UPDATE article SET id = 7, title = 'moved' WHERE id = 2")
    plan = library.restore(library.article, 7, version=when)
    library.apply(plan, "orm")
    assert library.rows("SELECT id, title FROM article WHERE id <> 1") == [(7, "two")]
    with_key = library.restore(library.article, 7, version=when, fields=["id"])
    library.apply(with_key, "orm")
    assert library.rows("SELECT id, title FROM article WHERE id <> 1") == [(2, "two")]


@through
def test_restore_of_a_record_that_is_gone_inserts_it(library: Library, through: str) -> None:
    version = library.activity()
    library.run("DELETE FROM attic.box WHERE id = 2")
    library.apply(library.restore(library.box, 2, version=version), through)
    assert library.rows("SELECT * FROM attic.box WHERE id = 2") == [(2, None)]


def test_what_cannot_be_restored(library: Library) -> None:
    early = datetime(2020, 1, 1, tzinfo=UTC)
    with pytest.raises(PlanError, match="did not exist"):
        library.restore(library.article, 1, version=early)
    with pytest.raises(RecordNotFoundError, match="none of article 2"):
        library.restore(library.article, 2, version=1)
    with pytest.raises(InvalidOptionError, match="no time zone"):
        library.restore(library.article, 1, version=datetime(2026, 1, 1))
    with pytest.raises(InvalidOptionError, match="needs a version"):
        library.restore(library.article, 1)
    with pytest.raises(PlanError, match="'secret' cannot be restored"):
        library.restore(library.author, 1, version=1, fields=["secret"])


def test_a_record_without_a_past(library: Library) -> None:
    library.trail.run("CREATE TABLE old (id int PRIMARY KEY)", "INSERT INTO old VALUES (1)")
    library.trail.track("old")
    table = sa.Table("old", library.logger.metadata, sa.Column("id", sa.Integer, primary_key=True))
    library.logger.audit_table(table)
    plan = library.restore(table, 1, version=datetime(2020, 1, 1, tzinfo=UTC))
    assert kinds(plan) == ["unknown"]
    assert plan.conflicts[0].choices == ("skip",)
    assert not plan.steps


def test_the_excluded_column_stays_and_the_plan_says_so(library: Library) -> None:
    version = library.trail.value("SELECT min(id) FROM audit.activity")
    library.run("UPDATE author SET name = 'Eve', secret = 's3' WHERE id = 1")
    plan = library.restore(library.author, 1, version=version)
    assert plan.notes == ("What the trail does not hold stays as it is: secret.",)
    assert "s3" not in plan.to_json()
    library.apply(plan)
    assert library.rows("SELECT name, secret FROM author WHERE id = 1") == [("Ada", "s3")]


# -- Undelete -----------------------------------------------------------------------------------


@through
def test_undelete_brings_the_whole_subtree_back(library: Library, through: str) -> None:
    library.run("UPDATE author SET secret = NULL")
    before = everything(library)
    library.run("DELETE FROM author WHERE id = 1")
    plan = library.undelete(library.author, 1)
    assert [f"{s.verb} {s.record}" for s in plan.steps] == [
        "insert public.author 1",
        "insert public.article 1",
        "insert public.article 2",
        "insert public.article_tag 1, 1",
        "insert public.article_tag 1, 2",
        "update attic.box 1",
    ]
    assert kinds(plan) == ["not_recorded"]
    with pytest.raises(UnresolvedConflictsError, match="secret is not recorded"):
        library.apply(plan, through)
    library.apply(plan.resolve("c1", "force"), through)
    assert everything(library) == before
    assert library.events.count("before_insert") == (2 if through == "orm" else 0)


def test_undelete_without_children(library: Library) -> None:
    library.run("DELETE FROM author WHERE id = 1")
    plan = library.undelete(library.author, 1, with_children=False)
    assert [str(step.record) for step in plan.steps] == ["public.author 1"]
    with pytest.raises(PlanError, match="no deletion of author 2"):
        library.undelete(library.author, 2)


def test_skipping_a_parent_skips_what_needs_it(library: Library) -> None:
    library.run("DELETE FROM author WHERE id = 1")
    plan = library.undelete(library.author, 1)
    assert plan.resolve("c1", "skip").steps == ()


def test_children_that_nobody_tracks_do_not_come_back(library: Library) -> None:
    library.trail.run("CREATE TABLE page (id int REFERENCES article ON DELETE CASCADE)")
    library.run("DELETE FROM article WHERE id = 2")
    plan = library.undelete(library.article, 2)
    assert plan.notes == ("public.page is not tracked: what was deleted of it does not come back.",)


def test_undelete_leaves_the_sequence_alone(library: Library) -> None:
    sequence = "SELECT last_value FROM author_id_seq"
    before = library.rows(sequence)
    library.run("DELETE FROM author WHERE id = 2")
    library.apply(library.undelete(library.author, 2).resolve("c1", "force"), "orm")
    assert library.rows(sequence) == before
    assert library.rows("SELECT id, name FROM author WHERE id = 2") == [(2, "Ben")]


def test_undelete_after_a_truncation(library: Library) -> None:
    library.run("TRUNCATE attic.box")
    library.apply(library.undelete(library.box, 1))
    assert library.rows("SELECT * FROM attic.box") == [(1, 1)]


# -- Undo ---------------------------------------------------------------------------------------


@through
def test_undo_and_undo_of_the_undo(library: Library, through: str) -> None:
    before = everything(library)
    id_ = library.run(
        "INSERT INTO author (name) VALUES ('Cy')",
        "INSERT INTO article (id, author_id, title) VALUES (3, 3, 'three')",
        "INSERT INTO article_tag VALUES (3, 1)",
        "UPDATE article SET title = 'a' WHERE id = 1",
        "UPDATE article SET title = 'b', price = NULL WHERE id = 1",
        "UPDATE article SET id = 20, author_id = 3 WHERE id = 2",
        "DELETE FROM attic.box WHERE id = 2",
        "INSERT INTO tag VALUES (9, 'gone')",
        "DELETE FROM tag WHERE id = 9",
        "INSERT INTO attic.box VALUES (2, 3)",
    )
    after = everything(library)
    plan = library.undo(id_)
    assert not plan.conflicts
    undo = library.apply(plan, through)
    assert everything(library) == before
    assert library.trail.transactions()[-1].meta == {"reverts": {"transaction": id_}}
    again = library.undo(undo)
    assert kinds(again) == ["not_recorded"]
    library.apply(again.resolve("c1", "force"), through)
    assert everything(library) == after
    assert library.trail.transactions()[-1].meta == {"reverts": {"transaction": undo}}


def test_undo_of_what_somebody_did(library: Library) -> None:
    before = everything(library)
    start = library.trail.value("SELECT clock_timestamp()")
    with library.logger.context(actor_id=7):
        library.run("UPDATE article SET title = 'x' WHERE id = 1")
        library.run("UPDATE article SET title = 'y' WHERE id = 1")
    with library.logger.context(actor_id=8):
        library.run("UPDATE article SET price = 5 WHERE id = 1")
    end = library.trail.value("SELECT clock_timestamp()")
    plan = library.undo(actor=7, between=(start, end))
    assert [c.field for c in plan.steps[0].changes] == ["title"]
    library.apply(plan)
    library.apply(library.undo(actor="8", between=(start, end)))
    assert everything(library) == before
    for options in ({}, {"actor": 7}, {"between": (start, end)}, {"transaction_id": 1, "actor": 7}):
        with pytest.raises(InvalidOptionError, match="needs a transaction's id"):
            library.undo(**options)
    with pytest.raises(InvalidOptionError, match="time zone"):
        library.undo(actor=7, between=(datetime(2026, 1, 1), end))
    with pytest.raises(RecordNotFoundError):
        library.undo(actor="nobody", between=(start, end))
    with pytest.raises(RecordNotFoundError):
        library.undo(99999)


def test_the_actor_of_an_outer_context_stays(library: Library) -> None:
    id_ = library.run("UPDATE article SET title = 'x' WHERE id = 1")
    with library.logger.context(actor_id=5, actor_label="Eva", reason="outer", ticket="T-1"):
        library.apply(library.undo(id_), reason="  inner ")
    found = library.trail.transactions()[-1]
    assert (found.actor_id, found.actor_label, found.reason) == ("5", "Eva", "inner")
    assert found.meta == {"ticket": "T-1", "reverts": {"transaction": id_}}


def test_the_caller_decides_on_the_transaction(library: Library) -> None:
    id_ = library.run("UPDATE article SET title = 'x' WHERE id = 1")
    with orm.Session(library.trail.engine) as session:
        article: Any = session.get(library.article, 1)
        library.logger.plan_undo(id_, session=session).apply(session, reason="no")
        assert article.heading == "one"
        session.rollback()
        assert article.heading == "x"
    with library.trail.engine.begin() as connection:
        plan = library.logger.plan_undo(id_, session=connection)
        with pytest.raises(PlanError, match="needs a Session"):
            plan.apply(connection, reason="no", through="orm")
        plan.apply(connection, reason="yes", through="sql")
    assert library.rows("SELECT title FROM article WHERE id = 1") == [("one",)]


def test_deleted_and_inserted_anew_is_one_change(library: Library) -> None:
    id_ = library.run("DELETE FROM attic.box WHERE id = 2", "INSERT INTO attic.box VALUES (2, 2)")
    plan = library.undo(id_)
    assert [(s.verb, [(c.field, c.old, c.new) for c in s.changes]) for s in plan.steps] == [
        ("update", [("article_id", 2, None)])
    ]


def test_what_others_changed_before_a_deletion_stays(library: Library) -> None:
    start = library.trail.value("SELECT clock_timestamp()")
    with library.logger.context(actor_id=7):
        library.run("UPDATE attic.box SET article_id = 2 WHERE id = 2")
    with library.logger.context(actor_id=8):
        library.run("UPDATE attic.box SET article_id = 1 WHERE id = 2")
    with library.logger.context(actor_id=7):
        library.run("DELETE FROM attic.box WHERE id = 2")
    end = library.trail.value("SELECT clock_timestamp()")
    library.apply(library.undo(actor=7, between=(start, end)))
    assert library.rows("SELECT article_id FROM attic.box WHERE id = 2") == [(1,)]
