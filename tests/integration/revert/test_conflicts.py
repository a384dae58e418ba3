"""What stands in the way of a plan."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.orm import declarative_base

from audit_app import AuditLogger
from audit_app.errors import (
    PlanError,
    PlanOutdatedError,
)
from tests.integration.revert.books import Library, everything, kinds
from tests.trail import Trail


def test_changed_since(library: Library) -> None:
    id_ = library.run("UPDATE article SET title = 'x', price = 3 WHERE id = 1")
    library.run("UPDATE article SET title = 'y' WHERE id = 1")
    plan = library.undo(id_)
    assert [(c.kind, c.fields, c.choices) for c in plan.conflicts] == [
        ("changed_since", ("title",), ("skip", "force"))
    ]
    library.apply(plan.resolve("c1", "skip"))
    assert library.rows("SELECT title, price::text FROM article WHERE id = 1") == [("y", "1.50")]
    plan = library.undo(id_)
    assert [c.fields for c in plan.conflicts] == [("title",)]
    library.apply(plan.resolve("c1", "force"))
    assert library.rows("SELECT title FROM article WHERE id = 1") == [("one",)]


def test_a_restore_names_what_came_later(library: Library) -> None:
    version = library.trail.value(
        "SELECT max(id) FROM audit.activity WHERE table_name = 'article' AND object_id = '1'"
    )
    with library.logger.context(actor_id=7, actor_label="Noor"):
        library.run("UPDATE article SET title = 'x', price = 3 WHERE id = 1")
    with library.logger.context(actor_id=8, actor_label="Ben"):
        library.run("UPDATE article SET title = 'y' WHERE id = 1")
    last = library.activity()
    plan = library.restore(library.article, 1, version)
    assert [(c.kind, c.fields, c.resolution, c.is_preset) for c in plan.conflicts] == [
        ("changed_since", ("price",), "force", True),
        ("changed_since", ("title",), "force", True),
    ]
    assert f"title was changed later, last by Ben in the change {last}" in str(plan)
    assert f"price was changed later, last by Noor in the change {last - 1}" in str(plan)
    assert "[force, unless you choose skip]" in str(plan)
    assert not plan.unresolved
    kept = plan.resolve("c2", "skip")
    assert kept.conflicts[1].resolution == "skip"
    with pytest.raises(PlanError, match="resolved with 'skip' already"):
        kept.resolve("c2", "force")
    again = library.logger.plan_from_json(kept.to_json())
    assert again == kept
    library.apply(again)
    assert library.rows("SELECT title, price::text FROM article WHERE id = 1") == [("y", "1.50")]
    # Nobody came after the newest version: what differs then was changed behind the trail's back.
    library.apply(library.restore(library.article, 1, version))
    assert library.rows("SELECT title FROM article WHERE id = 1") == [("one",)]


def test_changed_behind_the_trail(library: Library) -> None:
    id_ = library.run("UPDATE article SET title = 'x' WHERE id = 1")
    with orm.Session(library.trail.engine) as session:
        with library.logger.disable(session):
            session.execute(sa.text("UPDATE article SET title = 'z' WHERE id = 1"))
        session.commit()
    plan = library.undo(id_)
    assert kinds(plan) == ["changed_since"]
    plan = plan.resolve("c1", "force")
    with orm.Session(library.trail.engine) as session:
        with library.logger.disable(session):
            session.execute(sa.text("UPDATE article SET title = 'zz' WHERE id = 1"))
        session.commit()
    with pytest.raises(PlanOutdatedError):
        library.apply(plan)


def test_a_record_that_was_changed_after_it_was_made(library: Library) -> None:
    id_ = library.run("INSERT INTO tag VALUES (5, 'five')")
    library.run("UPDATE tag SET name = 'FIVE' WHERE id = 5")
    plan = library.undo(id_)
    assert [(c.kind, c.fields, c.skips) for c in plan.conflicts] == [
        ("changed_since", ("name",), "record")
    ]
    assert plan.resolve("c1", "skip").steps == ()
    library.apply(plan.resolve("c1", "force"))
    assert library.rows("SELECT * FROM tag WHERE id = 5") == []


def test_gone_since(library: Library) -> None:
    id_ = library.run("UPDATE tag SET name = 'x' WHERE id = 1", "INSERT INTO tag VALUES (5, 'f')")
    library.run("DELETE FROM article_tag", "DELETE FROM tag WHERE id IN (1, 5)")
    plan = library.undo(id_)
    assert kinds(plan) == ["gone"]
    assert not plan.steps


def test_exists_again(library: Library) -> None:
    library.run("DELETE FROM attic.box WHERE id = 1")
    library.run("INSERT INTO attic.box VALUES (1, 2)")
    plan = library.undelete(library.box, 1)
    assert [(c.kind, c.choices) for c in plan.conflicts] == [("exists", ("skip",))]
    with pytest.raises(PlanError, match=r"cannot be resolved with 'force': use skip"):
        plan.resolve("c1", "force")


def test_a_unique_value_is_taken(library: Library) -> None:
    library.run("DELETE FROM author WHERE id = 2")
    library.run("INSERT INTO author (name) VALUES ('Ben')")
    plan = library.undelete(library.author, 2)
    assert kinds(plan) == ["not_recorded", "taken"]
    assert "belongs to public.author 3 now" in plan.conflicts[1].message
    id_ = library.run("UPDATE author SET name = 'Ada2' WHERE id = 1")
    library.run("UPDATE author SET name = 'Ada' WHERE id = 3")
    plan = library.undo(id_)
    assert kinds(plan) == ["taken"]
    assert not plan.resolve("c1", "skip").steps


def test_a_unique_value_that_the_plan_itself_gives_up(library: Library) -> None:
    before = everything(library)
    id_ = library.run(
        "UPDATE author SET name = 'A' WHERE id = 1", "UPDATE author SET name = 'Ada' WHERE id = 2"
    )
    plan = library.undo(id_)
    assert not plan.conflicts
    library.apply(plan)
    assert everything(library) == before


def test_the_parent_is_gone(library: Library) -> None:
    library.run("DELETE FROM article WHERE id = 1")
    library.run("DELETE FROM author WHERE id = 1", "DELETE FROM tag WHERE id = 1")
    plan = library.undelete(library.article, 1)
    found = {str(c.record): c for c in plan.conflicts}
    assert {c.kind for c in plan.conflicts} == {"parent_gone"}
    nullable = found["public.article 1"]
    assert nullable.choices == ("skip", "force")
    required = found["public.article_tag 1, 1"]
    assert required.choices == ("skip",)
    plan = plan.resolve(nullable.id, "force").resolve(required.id, "skip")
    library.apply(plan, "orm")
    assert library.rows("SELECT author_id, title FROM article WHERE id = 1") == [(None, "one")]
    assert library.rows("SELECT * FROM article_tag") == [(1, 2)]


def test_a_child_is_in_the_way(library: Library) -> None:
    id_ = library.run("INSERT INTO tag VALUES (5, 'five')")
    library.run("INSERT INTO article_tag VALUES (2, 5)")
    plan = library.undo(id_)
    assert [(c.kind, c.choices) for c in plan.conflicts] == [("child_blocks", ("skip",))]
    id_ = library.run("INSERT INTO author (name) VALUES ('Cy')")
    library.run("INSERT INTO article (id, author_id) VALUES (5, 3)")
    plan = library.undo(id_)
    assert [(c.kind, c.choices) for c in plan.conflicts] == [("child_blocks", ("skip", "force"))]
    assert "(such as 5): they would be deleted with it" in plan.conflicts[0].message
    library.apply(plan.resolve("c1", "force"))
    assert library.rows("SELECT * FROM article WHERE id = 5") == []


def test_a_child_that_came_after_the_plan(library: Library) -> None:
    id_ = library.run("INSERT INTO author (name) VALUES ('Cy')")
    plan = library.undo(id_)
    library.run("INSERT INTO article (id, author_id) VALUES (5, 3)")
    before = everything(library)
    for way in ("orm", "sql"):
        with pytest.raises(PlanOutdatedError, match="rows of public.article that refer to"):
            library.apply(plan, way)
    assert everything(library) == before


def test_a_child_among_many_that_the_plan_takes_away_itself(library: Library) -> None:
    id_ = library.run(
        "INSERT INTO author (name) VALUES ('Cy')",
        "INSERT INTO article (id, author_id) SELECT n, 3 FROM generate_series(10, 1200) AS n",
    )
    library.run("INSERT INTO article (id, author_id) VALUES (5000, 3)")
    plan = library.undo(id_)
    assert [(c.kind, str(c.record)) for c in plan.conflicts] == [
        ("child_blocks", "public.author 3")
    ]
    skipped = plan.resolve("c1", "skip")
    assert len(skipped.steps) == 1191
    library.apply(skipped)
    assert library.rows("SELECT id FROM article WHERE author_id = 3") == [(5000,)]


def test_columns_that_came_and_went(library: Library) -> None:
    id_ = library.run("UPDATE tag SET name = 'x' WHERE id = 1")
    library.trail.run(
        "ALTER TABLE tag DROP COLUMN name",
        "ALTER TABLE attic.box ADD COLUMN size int",
    )
    plan = library.undo(id_)
    assert [(c.kind, c.fields, c.choices) for c in plan.conflicts] == [
        ("column_gone", ("name",), ("skip",))
    ]
    library.run("DELETE FROM attic.box")
    library.trail.run("ALTER TABLE attic.box ADD COLUMN colour text NOT NULL")
    plan = library.undelete(library.box, 1)
    assert [(c.kind, c.fields, c.choices) for c in plan.conflicts] == [
        ("column_required", ("colour",), ("skip",))
    ]


def test_a_value_that_does_not_fit_any_more(library: Library) -> None:
    id_ = library.run("UPDATE tag SET name = '7' WHERE id = 1", "DELETE FROM tag WHERE id = 9")
    library.trail.run(
        "UPDATE tag SET name = '8' WHERE id = 2",
        "ALTER TABLE tag ALTER name TYPE int USING name::int",
    )
    plan = library.undo(id_)
    assert [(c.kind, c.fields) for c in plan.conflicts] == [("does_not_fit", ("name",))]
    # A value of another type that still fits is none of these.
    library.apply(library.undo(library.run("UPDATE tag SET name = 9 WHERE id = 1")))
    assert library.rows("SELECT name FROM tag WHERE id = 1") == [(7,)]


def test_masked_columns(trail: Trail) -> None:
    trail.run("CREATE TABLE person (id int PRIMARY KEY, name text, pin text, code text NOT NULL)")
    trail.track("person", options={"mask": ["pin", "code"]})
    base: Any = declarative_base()
    logger = AuditLogger(actor_cls=None)
    logger.init(base)
    table = sa.Table(
        "person", base.metadata, sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.Text), sa.Column("pin", sa.Text), sa.Column("code", sa.Text),
        info={"versioned": {"mask": ["pin", "code"]}},
    )  # fmt: skip
    trail.run("INSERT INTO person VALUES (1, 'a', '1', 'x')")
    trail.run("UPDATE person SET name = 'b', pin = '2'")
    with trail.engine.begin() as connection:
        id_ = connection.scalar(sa.text("SELECT max(id) FROM audit.transaction"))
        plan = logger.plan_undo(id_, session=connection)
        assert [(c.kind, c.fields, c.choices) for c in plan.conflicts] == [
            ("masked", ("pin",), ("skip",))
        ]
        plan.resolve("c1", "skip").apply(connection, reason="x", through="sql")
        assert connection.execute(sa.text("SELECT name, pin FROM person")).all() == [("a", "2")]
        connection.execute(sa.text("DELETE FROM person"))
        plan = logger.plan_undelete(table, 1, session=connection)
        assert [(c.kind, c.fields, c.choices) for c in plan.conflicts] == [
            ("masked", ("pin", "code"), ("skip",))
        ]


def test_a_value_that_was_too_large_for_the_trail(library: Library) -> None:
    library.run(
        "DELETE FROM attic.box", "DELETE FROM article_tag", "DELETE FROM article WHERE id = 2"
    )
    # What the trail holds of a value that jsonb cannot: a real one takes 300 MB, and its own test.
    mark = '{"$audit": "too large", "bytes": 300000000, "sha256": "00", "beginning": "tw"}'
    library.trail.run("ALTER TABLE audit.activity DISABLE TRIGGER append_only")
    library.run(
        f"UPDATE audit.activity SET old_data = jsonb_set(old_data, '{{title}}', '{mark}')"
        " WHERE verb = 'delete' AND table_name = 'article' AND object_id = '2'"
    )
    plan = library.undelete(library.article, 2)
    assert [(c.kind, c.fields, c.choices) for c in plan.conflicts] == [
        ("too_large", ("title",), ("skip", "force"))
    ]
    assert "holds only its beginning" in plan.conflicts[0].message
    library.apply(plan.resolve("c1", "force"))
    assert library.rows("SELECT title, price::text FROM article WHERE id = 2") == [
        ("untitled", "2.00")
    ]


def test_a_truncation_cannot_be_undone(library: Library) -> None:
    id_ = library.run("TRUNCATE attic.box", "UPDATE tag SET name = 'x' WHERE id = 1")
    plan = library.undo(id_)
    assert [(c.kind, str(c.record), c.skips) for c in plan.conflicts] == [
        ("truncated", "attic.box", "nothing")
    ]
    library.apply(plan.resolve("c1", "skip"))
    assert library.rows("SELECT name FROM tag WHERE id = 1") == [("red",)]


def test_tables_that_no_model_tracks(library: Library) -> None:
    library.trail.create("CREATE TABLE other (id int PRIMARY KEY)", "other")
    plan = library.undo(library.run("INSERT INTO other VALUES (1)"))
    assert kinds(plan) == ["not_tracked"]
    assert not plan.steps


def test_a_transaction_that_was_not_recorded_as_a_whole(library: Library) -> None:
    with orm.Session(library.trail.engine) as session:
        session.execute(sa.text("UPDATE tag SET name = 'x' WHERE id = 1"))
        with library.logger.disable(session):
            session.execute(sa.text("UPDATE tag SET name = 'y' WHERE id = 2"))
        session.commit()
    plan = library.undo(library.last())
    assert kinds(plan) == ["incomplete"]
    assert [str(step.record) for step in plan.steps] == ["public.tag 1"]
