# ruff: noqa: E501 - SQL in full
"""Restore, undelete and undo: what a plan says, and what it does."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, ClassVar

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.orm import declarative_base

from audit_app import AuditLogger
from audit_app.errors import (
    ConfigurationError,
    InvalidOptionError,
    PlanError,
    PlanFailedError,
    PlanOutdatedError,
    RecordNotFoundError,
    UnresolvedConflictsError,
)
from audit_app.revert import Plan
from tests.trail import Trail

SCHEMA = """
CREATE TABLE author (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text UNIQUE, secret text);
CREATE TABLE article (
    id int PRIMARY KEY,
    author_id int REFERENCES author ON DELETE CASCADE,
    title text NOT NULL DEFAULT 'untitled',
    price numeric(10, 2),
    upper_title text GENERATED ALWAYS AS (upper(title)) STORED
);
CREATE TABLE tag (id int PRIMARY KEY, name text);
CREATE TABLE article_tag (
    article_id int REFERENCES article ON DELETE CASCADE,
    tag_id int REFERENCES tag,
    PRIMARY KEY (article_id, tag_id)
);
CREATE SCHEMA attic;
CREATE TABLE attic.box (id int PRIMARY KEY, article_id int REFERENCES public.article ON DELETE SET NULL);
"""


@dataclass
class Library:
    """A database with authors, articles, tags and boxes, tracked, and its logger."""

    trail: Trail
    logger: AuditLogger
    author: Any
    article: Any
    tag: Any
    article_tag: sa.Table
    box: Any
    events: list[str]

    def run(self, *statements: str) -> int:
        """Run statements in one transaction; return the transaction of the trail."""
        with self.trail.engine.begin() as connection:
            for statement in statements:
                connection.execute(sa.text(statement))
        return self.last()

    def last(self) -> int:
        return int(self.trail.value("SELECT max(id) FROM audit.transaction"))

    def activity(self) -> int:
        return int(self.trail.value("SELECT max(id) FROM audit.activity"))

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with self.trail.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(sa.text(query))]

    def undo(self, transaction_id: int | None = None, **options: Any) -> Plan:
        with orm.Session(self.trail.engine) as session:
            return self.logger.plan_undo(transaction_id, session=session, **options)

    def restore(self, *arguments: Any, **options: Any) -> Plan:
        with orm.Session(self.trail.engine) as session:
            return self.logger.plan_restore(*arguments, session=session, **options)

    def undelete(self, *arguments: Any, **options: Any) -> Plan:
        with orm.Session(self.trail.engine) as session:
            return self.logger.plan_undelete(*arguments, session=session, **options)

    def apply(self, plan: Plan, through: Any = "sql", reason: str = "a mistake") -> int:
        with orm.Session(self.trail.engine) as session:
            id_ = plan.apply(session, reason=reason, through=through)
            session.commit()
        return id_


def declare(**options: Any) -> tuple[AuditLogger, dict[str, Any]]:
    base: Any = declarative_base()
    logger = AuditLogger(actor_cls=None, **options)
    logger.init(base)
    versioned: dict[str, Any] = {}

    class Author(base):  # type: ignore[misc]
        __tablename__ = "author"
        __versioned__: ClassVar[dict[str, Any]] = {"exclude": ["secret"]}
        id = sa.Column(sa.Integer, sa.Identity(always=True), primary_key=True)
        name = sa.Column(sa.Text)
        secret = sa.Column(sa.Text)
        articles = orm.relationship("Article")

    class Article(base):  # type: ignore[misc]
        __tablename__ = "article"
        __versioned__: ClassVar[dict[str, Any]] = versioned
        id = sa.Column(sa.Integer, primary_key=True)
        author_id: Any = sa.Column(sa.ForeignKey("author.id"))
        heading = sa.Column("title", sa.Text, server_default="untitled", nullable=False)
        price = sa.Column(sa.Numeric(10, 2))
        upper_title = sa.Column(sa.Text, sa.Computed("upper(title)"))
        tags = orm.relationship("Tag", secondary="article_tag")

    class Tag(base):  # type: ignore[misc]
        __tablename__ = "tag"
        __versioned__: ClassVar[dict[str, Any]] = versioned
        id = sa.Column(sa.Integer, primary_key=True)
        name = sa.Column(sa.Text)

    class Box(base):  # type: ignore[misc]
        __tablename__ = "box"
        __table_args__: ClassVar[dict[str, Any]] = {"schema": "attic"}
        __versioned__: ClassVar[dict[str, Any]] = versioned
        id = sa.Column(sa.Integer, primary_key=True)
        article_id: Any = sa.Column(sa.ForeignKey("article.id"))

    article_tag = sa.Table(
        "article_tag",
        base.metadata,
        sa.Column("article_id", sa.ForeignKey("article.id"), primary_key=True),
        sa.Column("tag_id", sa.ForeignKey("tag.id"), primary_key=True),
        info={"versioned": {}},
    )
    return logger, {
        "author": Author,
        "article": Article,
        "tag": Tag,
        "box": Box,
        "article_tag": article_tag,
    }


@pytest.fixture
def library(trail: Trail) -> Library:
    logger, targets = declare()
    trail.script(SCHEMA)
    trail.track("author", exclude=["secret"])
    for table in ("article", "tag", "article_tag", "attic.box"):
        trail.track(table)
    # The Trail's own logger carries no context of ours: an engine has one.
    trail.engine.dispose()
    trail.engine = sa.create_engine(trail.url)
    logger.attach(trail.engine)
    events: list[str] = []
    for name in ("before_insert", "before_update", "before_delete"):
        sa.event.listen(
            targets["article"], name, lambda m, c, target, name=name: events.append(name)
        )
    found = Library(trail, logger, events=events, **targets)
    found.run(
        "INSERT INTO author (name, secret) VALUES ('Ada', 's1'), ('Ben', 's2')",
        "INSERT INTO tag VALUES (1, 'red'), (2, 'blue')",
        "INSERT INTO article (id, author_id, title, price) VALUES (1, 1, 'one', 1.50), (2, 1, 'two', 2)",
        "INSERT INTO article_tag VALUES (1, 1), (1, 2)",
        "INSERT INTO attic.box VALUES (1, 1), (2, NULL)",
    )
    return found


def kinds(plan: Plan) -> list[str]:
    return [conflict.kind for conflict in plan.conflicts]


def everything(library: Library) -> list[Any]:
    return [
        library.rows(f"SELECT * FROM {table} ORDER BY 1, 2")
        for table in ("author", "article", "tag", "article_tag", "attic.box")
    ]


through = pytest.mark.parametrize("through", ["orm", "sql"])


# -- Restore -----------------------------------------------------------------------------------


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


# -- Undelete ----------------------------------------------------------------------------------


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


# -- Undo --------------------------------------------------------------------------------------


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


# -- Conflicts ---------------------------------------------------------------------------------


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


# -- Order -------------------------------------------------------------------------------------


def track(trail: Trail, logger: AuditLogger, script: str, *names: str) -> None:
    """Make tables, track them, and declare them as the database has them."""
    trail.script(script)
    for name in names:
        trail.track(name)
        table = sa.Table(name, logger.metadata, autoload_with=trail.engine)
        logger.audit_table(table)


def there_and_back(trail: Trail, logger: AuditLogger, names: list[str], *statements: str) -> Plan:
    """Undo statements at once, and undo that; return the first plan."""

    def state() -> list[Any]:
        with trail.engine.connect() as connection:
            return [
                sorted(map(repr, connection.execute(sa.text(f"SELECT * FROM {name}"))))
                for name in names
            ]

    def undo() -> Plan:
        with orm.Session(trail.engine) as session:
            id_ = session.scalar(sa.text("SELECT max(id) FROM audit.transaction"))
            plan = logger.plan_undo(id_, session=session)
            assert not plan.conflicts, str(plan)
            logger.plan_from_json(plan.to_json()).apply(session, reason="x", through="sql")
            session.commit()
        return plan

    before = state()
    with trail.engine.begin() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))
    after = state()
    assert after != before
    plan = undo()
    assert state() == before
    undo()
    assert state() == after
    return plan


def test_records_that_refer_to_each_other(trail: Trail, audit_logger: AuditLogger) -> None:
    audit_logger.init(declarative_base())
    track(
        trail,
        audit_logger,
        "CREATE TABLE a (id int PRIMARY KEY, b int); CREATE TABLE b (id int PRIMARY KEY, a int"
        " NOT NULL REFERENCES a); ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES b;",
        "a",
        "b",
    )
    trail.run("INSERT INTO a VALUES (1, NULL)", "INSERT INTO b VALUES (1, 1)")
    trail.run("UPDATE a SET b = 1")
    plan = there_and_back(
        trail, audit_logger, ["a", "b"], "UPDATE a SET b = NULL", "DELETE FROM b", "DELETE FROM a"
    )
    assert [f"{s.verb} {s.record.table}" for s in plan.steps] == [
        "insert a",
        "insert b",
        "update a",
    ]
    assert [len(r.changes) for r in plan.records] == [2, 2]


def test_records_that_only_a_deferred_constraint_lets_in(
    trail: Trail, audit_logger: AuditLogger
) -> None:
    audit_logger.init(declarative_base())
    track(
        trail,
        audit_logger,
        "CREATE TABLE a (id int PRIMARY KEY, b int NOT NULL); CREATE TABLE b (id int PRIMARY KEY,"
        ' a int NOT NULL REFERENCES a); ALTER TABLE a ADD CONSTRAINT "a:b" FOREIGN KEY (b)'
        " REFERENCES b DEFERRABLE;",
        "a",
        "b",
    )
    plan = there_and_back(
        trail,
        audit_logger,
        ["a", "b"],
        "SET CONSTRAINTS ALL DEFERRED",
        "INSERT INTO a VALUES (1, 1)",
        "INSERT INTO b VALUES (1, 1)",
    )
    assert plan.deferred == (("public", "a:b"),)


def test_a_circle_without_a_way_out(trail: Trail, audit_logger: AuditLogger) -> None:
    audit_logger.init(declarative_base())
    track(
        trail,
        audit_logger,
        "CREATE TABLE a (id int PRIMARY KEY, other int NOT NULL REFERENCES a)",
        "a",
    )
    trail.run("INSERT INTO a VALUES (1, 2), (2, 1), (3, 3)")
    with trail.engine.connect() as connection:
        id_ = connection.scalar(sa.text("SELECT max(id) FROM audit.transaction"))
        plan = audit_logger.plan_undo(id_, session=connection)
    assert kinds(plan) == ["cycle"]
    assert "public.a 1, public.a 2" in plan.conflicts[0].message
    # Its own parent is nobody's obstacle.
    assert [str(s.record) for s in plan.resolve("c1", "skip").steps] == ["public.a 3"]


def test_whoever_leaves_a_circle_takes_all_of_it_along(
    trail: Trail, audit_logger: AuditLogger
) -> None:
    audit_logger.init(declarative_base())
    track(
        trail,
        audit_logger,
        "CREATE TABLE a (id int PRIMARY KEY, other int NOT NULL REFERENCES a)",
        "a",
    )
    trail.run("INSERT INTO a VALUES (5, 4), (4, 3), (3, 5), (1, 4), (2, 1), (9, 9)")
    with trail.engine.connect() as connection:
        id_ = connection.scalar(sa.text("SELECT max(id) FROM audit.transaction"))
        plan = audit_logger.plan_undo(id_, session=connection).resolve("c1", "skip")
    # Those who only refer to the circle can go.
    assert {str(s.record) for s in plan.steps} == {"public.a 1", "public.a 2", "public.a 9"}


def test_a_chain_within_a_table(trail: Trail, audit_logger: AuditLogger) -> None:
    audit_logger.init(declarative_base())
    track(trail, audit_logger, "CREATE TABLE a (id int PRIMARY KEY, up int REFERENCES a)", "a")
    plan = there_and_back(
        trail, audit_logger, ["a"], "INSERT INTO a VALUES (3, NULL), (1, 3), (2, 1)"
    )
    assert [str(step.record) for step in plan.steps] == ["public.a 2", "public.a 1", "public.a 3"]


def test_keys_that_swap(trail: Trail, audit_logger: AuditLogger) -> None:
    audit_logger.init(declarative_base())
    track(
        trail,
        audit_logger,
        "CREATE TABLE a (id int CONSTRAINT k PRIMARY KEY DEFERRABLE, name text)",
        "a",
    )
    trail.run("INSERT INTO a VALUES (1, 'one'), (2, 'two')")
    plan = there_and_back(trail, audit_logger, ["a"], "UPDATE a SET id = 3 - id")
    assert plan.deferred == (("public", "k"),)


@pytest.mark.parametrize("constraint", ["", "DEFERRABLE"])
def test_a_key_that_others_do_not_follow(
    trail: Trail, audit_logger: AuditLogger, constraint: str
) -> None:
    audit_logger.init(declarative_base())
    track(
        trail,
        audit_logger,
        "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY, a int"
        f" REFERENCES a {constraint})",
        "a",
        "b",
    )
    trail.run("INSERT INTO a VALUES (1)", "INSERT INTO b VALUES (1, 1)")
    plan = there_and_back(
        trail,
        audit_logger,
        ["a", "b"],
        "UPDATE b SET a = NULL",
        "UPDATE a SET id = 2",
        "UPDATE b SET a = 2",
    )
    assert len(plan.steps) == (2 if constraint else 3)
    assert bool(plan.deferred) == bool(constraint)


def test_partitions(trail: Trail, audit_logger: AuditLogger) -> None:
    audit_logger.init(declarative_base())
    track(
        trail,
        audit_logger,
        "CREATE TABLE a (id int, day date, note text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);"
        "CREATE TABLE a_1 PARTITION OF a FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');"
        "CREATE TABLE a_2 PARTITION OF a FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');"
        "CREATE TABLE c (id int PRIMARY KEY, a int, day date, FOREIGN KEY (a, day) REFERENCES a"
        " ON DELETE CASCADE ON UPDATE CASCADE)",
        "a",
        "c",
    )
    trail.run("INSERT INTO a VALUES (1, '2026-01-05', 'x'), (2, '2026-02-05', 'y')")
    trail.run("INSERT INTO c VALUES (1, 1, '2026-01-05')")
    there_and_back(trail, audit_logger, ["a", "c"], "UPDATE a SET day = day + 1, note = 'z'")
    there_and_back(trail, audit_logger, ["a", "c"], "DELETE FROM a")


# -- Values ------------------------------------------------------------------------------------

TYPES = {
    "smallint": "7", "bigint": "9007199254740993", "numeric": "10.00", "numeric(20,10)": "0.1",
    "real": "0.1", "float8": "1e300", "money": "'12.30'", "text": "'a''b: %s\\n'",
    "varchar(5)": "'abc'", "char(4)": "'ab'", "bytea": "'\\x00ff'::bytea", "boolean": "true",
    "date": "'0044-03-15 BC'", "time": "'04:05:06.789'", "timetz": "'04:05:06+02'",
    "timestamp": "'infinity'", "timestamptz": "'2026-01-01 10:00:00.123456+02'",
    "interval": "'1 year -2 months 3 days 04:05:06'", "uuid": "gen_random_uuid()",
    "json": """'{"a": [null], "b": 1.50}'""", "jsonb": """'{"b": 1.50, "a": "x"}'""",
    "int[]": "'{{1,2},{3,NULL}}'", "text[]": """'{a,"b,c",NULL,""}'""", "bytea[]": "'{\"\\\\x00\"}'",
    "int4range": "'[1,5)'", "tstzrange": "'[2026-01-01 00:00+00,)'", "nummultirange": "'{[1,2.50)}'",
    "inet": "'10.0.0.1/8'", "bit(4)": "'1010'", "point": "'(1,2)'", "tsvector": "'a:1 b:2'",
    "mood": "'so: so'", '"Odd; type"': "'x'", "small": "5", "pair": "'(1,\"a,b\")'",
}  # fmt: skip


@through
def test_every_type_comes_back_exactly(trail: Trail, through: str) -> None:
    base: Any = declarative_base()
    logger = AuditLogger(actor_cls=None)
    logger.init(base)
    for setting in (
        "IntervalStyle = 'sql_standard'",
        "DateStyle = 'SQL, DMY'",
        "TimeZone = 'Asia/Tokyo'",
    ):
        database = sa.make_url(trail.url).database
        trail.run(f'ALTER DATABASE "{database}" SET {setting}')
    trail.engine.dispose()
    trail.script(
        "CREATE TYPE mood AS ENUM ('so: so', 'good'); CREATE TYPE \"Odd; type\" AS ENUM ('x', 'y');"
        "CREATE DOMAIN small AS int NOT NULL CHECK (VALUE < 10);"
        "CREATE TYPE pair AS (a int, b text);"
    )
    # SQLAlchemy reflects these without a type.
    unknown = {"pair", "point"} if through == "orm" else set()
    chosen = {name: value for name, value in TYPES.items() if name not in unknown}
    columns = ", ".join(f'"c:{n}" {name}' for n, name in enumerate(chosen))
    trail.script(f'CREATE TABLE "it\'s; 50%" (id int PRIMARY KEY, {columns})')
    trail.track('"it\'s; 50%"')
    with pytest.warns(sa.exc.SAWarning) if through == "sql" else _nothing():
        table = sa.Table("it's; 50%", base.metadata, autoload_with=trail.engine)
    table.info["versioned"] = {}
    if through == "orm":
        model: Any = type("Odd", (base,), {"__table__": table})
        base.registry.configure()
        assert model
    literals = ", ".join(chosen.values())
    trail.script(f'INSERT INTO "it\'s; 50%" VALUES (1, {literals})')
    texts = ", ".join(f'CAST("c\\:{n}" AS text)' for n in range(len(chosen)))
    image = f'SELECT ARRAY[{texts}] FROM "it\'s; 50%"'
    before = [*zip(chosen, trail.value(image), strict=True)]
    trail.run('DELETE FROM "it\'s; 50%"')
    fresh = sa.create_engine(trail.url)
    logger.attach(fresh)
    with orm.Session(fresh) as session:
        plan = logger.plan_undelete(table, 1, session=session)
        plan = logger.plan_from_json(plan.to_json())
        assert not plan.conflicts
        plan.apply(session, reason="x", through=through)  # type: ignore[arg-type]
        shown = session.scalar(sa.text("SHOW IntervalStyle"))
        session.commit()
    fresh.dispose()
    assert shown == "sql_standard"
    assert [*zip(chosen, trail.value(image), strict=True)] == before
    assert trail.changes()[-1].changed == trail.changes()[0].changed


class _nothing:  # noqa: N801
    def __enter__(self) -> None: ...

    def __exit__(self, *_: Any) -> None: ...


@through
def test_null_and_json_null(trail: Trail, through: Any) -> None:
    base: Any = declarative_base()
    logger = AuditLogger(actor_cls=None)
    logger.init(base)

    class Thing(base):  # type: ignore[misc]
        __tablename__ = "thing"
        __versioned__: ClassVar[dict[str, Any]] = {}
        id = sa.Column(sa.Integer, primary_key=True)
        document = sa.Column(sa.JSON, nullable=False)
        note = sa.Column(sa.JSON, server_default="{}")
        text = sa.Column(sa.Text, server_default="x", default="y")

    trail.run(
        "CREATE TABLE thing (id int PRIMARY KEY, document json NOT NULL, note json DEFAULT '{}',"
        " text text DEFAULT 'x')"
    )
    trail.track("thing")
    trail.run("INSERT INTO thing VALUES (1, 'null', NULL, NULL)", "DELETE FROM thing")
    with orm.Session(trail.engine) as session:
        logger.plan_undelete(Thing, 1, session=session).apply(session, reason="x", through=through)
        session.commit()
    with trail.engine.connect() as connection:
        row = connection.execute(sa.text("SELECT document::text, note, text FROM thing")).one()
    assert tuple(row) == ("null", None, None)


def test_json_that_the_trail_keeps_as_text(trail: Trail, audit_logger: AuditLogger) -> None:
    audit_logger.init(declarative_base())
    track(trail, audit_logger, "CREATE TABLE a (id int PRIMARY KEY, j json)", "a")
    table = audit_logger.metadata.tables["a"]
    trail.script("""INSERT INTO a VALUES (1, '{"x": "\\u0000"}'), (2, '"plain"')""")
    trail.run("DELETE FROM a")
    with orm.Session(trail.engine) as session:
        plan = audit_logger.plan_undelete(table, 1, session=session)
        assert [(c.kind, c.fields) for c in plan.conflicts] == [("does_not_fit", ("j",))]
        assert not audit_logger.plan_undelete(table, 2, session=session).conflicts


def test_objects_hold_less_and_the_rest_is_written_after_them(trail: Trail) -> None:
    base: Any = declarative_base()
    logger = AuditLogger(actor_cls=None)
    logger.init(base)

    class Thing(base):  # type: ignore[misc]
        __tablename__ = "thing"
        __versioned__: ClassVar[dict[str, Any]] = {}
        id = sa.Column(sa.Integer, primary_key=True)
        document = sa.Column(sa.JSON)
        term = sa.Column(sa.Interval)
        name = sa.Column(sa.Text)

    def rename(mapper: Any, connection: Any, target: Any) -> None:
        target.name = "by an event"

    sa.event.listen(Thing, "before_insert", rename)
    trail.run("CREATE TABLE thing (id int PRIMARY KEY, document json, term interval, name text)")
    trail.track("thing")
    trail.run(
        "INSERT INTO thing VALUES (1, '{\"a\"\\: 1.50}', '1 month', 'x')", "DELETE FROM thing"
    )
    with orm.Session(trail.engine) as session:
        logger.plan_undelete(Thing, 1, session=session).apply(session, reason="x", through="orm")
        session.commit()
    assert trail.value("SELECT concat(document, term, name) FROM thing") == (
        '{"a": 1.50}1 monby an event'
    )


# -- Applying ----------------------------------------------------------------------------------


@through
def test_an_outdated_plan_names_the_records(library: Library, through: str) -> None:
    id_ = library.run(
        "UPDATE article SET title = 'x' WHERE id = 1", "UPDATE article SET title = 'x' WHERE id = 2"
    )
    plan = library.undo(id_)
    library.run("UPDATE article SET price = 7 WHERE id = 2")
    before = everything(library)
    with pytest.raises(PlanOutdatedError, match="public.article 2") as caught:
        library.apply(plan, through)
    assert caught.value.records == ("public.article 2",)
    assert everything(library) == before
    library.run("DELETE FROM article WHERE id = 2")
    with pytest.raises(PlanOutdatedError, match="public.article 2"):
        library.apply(plan, through)


def test_a_plan_whose_table_was_truncated_since(library: Library) -> None:
    id_ = library.run("DELETE FROM attic.box WHERE id = 1")
    plan = library.undo(id_)
    library.run("TRUNCATE attic.box")
    with pytest.raises(PlanOutdatedError, match="attic.box was truncated"):
        library.apply(plan)


def test_two_people_apply_one_plan(library: Library) -> None:
    id_ = library.run("UPDATE article SET title = 'x' WHERE id = 1")
    plan = library.undo(id_)
    failures: list[Exception] = []

    def second() -> None:
        try:
            library.apply(plan)
        except PlanError as error:
            failures.append(error)

    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    other = threading.Thread(target=second)
    with orm.Session(library.trail.engine) as session:
        plan.apply(session, reason="first", through="sql")
        other.start()
        with sa.create_engine(library.trail.url).connect() as connection:
            while not connection.scalar(sa.text(waiting)):
                assert other.is_alive()
                connection.rollback()
        connection.engine.dispose()
        session.commit()
    other.join()
    assert [type(error) for error in failures] == [PlanOutdatedError]
    assert library.trail.transactions()[-1].reason == "first"


@through
def test_nothing_is_half_applied(library: Library, through: str) -> None:
    id_ = library.run(
        "UPDATE article SET title = 'x' WHERE id = 1", "DELETE FROM attic.box WHERE id = 2"
    )
    plan = library.undo(id_)
    library.trail.run("ALTER TABLE article ADD CONSTRAINT c CHECK (title <> 'one')")
    with orm.Session(library.trail.engine) as session:
        session.execute(sa.text("UPDATE tag SET name = 'kept' WHERE id = 1"))
        with pytest.raises(PlanFailedError) as caught:
            plan.apply(session, reason="x", through=through)  # type: ignore[arg-type]
        session.commit()
    message = str(caught.value)
    assert message.startswith("The update of public.article 1 was refused, and nothing of the plan")
    assert 'violates check constraint "c"' in message
    assert "break a rule" in message
    assert library.rows("SELECT title FROM article WHERE id = 1") == [("x",)]
    assert library.rows("SELECT * FROM attic.box WHERE id = 2") == []
    assert library.rows("SELECT name FROM tag WHERE id = 1") == [("kept",)]
    # What is written next is not told to revert anything.
    assert library.trail.transactions()[-1].meta is None


@through
def test_a_trigger_that_stops_the_write(library: Library, through: str) -> None:
    id_ = library.run("UPDATE attic.box SET article_id = 2 WHERE id = 1")
    plan = library.undo(id_)
    library.trail.script(
        "CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        "CREATE TRIGGER stop BEFORE UPDATE ON attic.box FOR EACH ROW EXECUTE FUNCTION stop();"
    )
    with pytest.raises((PlanFailedError, orm.exc.StaleDataError)):
        library.apply(plan, through)
    assert library.rows("SELECT article_id FROM attic.box WHERE id = 1") == [(2,)]


def test_deferred_constraints_are_checked_before_it_is_done(
    trail: Trail, audit_logger: AuditLogger
) -> None:
    audit_logger.init(declarative_base())
    track(
        trail,
        audit_logger,
        "CREATE TABLE a (id int PRIMARY KEY, u int UNIQUE DEFERRABLE INITIALLY DEFERRED)",
        "a",
    )
    trail.run("INSERT INTO a VALUES (1, 1), (7, 7)", "UPDATE a SET u = 2 WHERE id = 1")
    trail.script(
        "CREATE FUNCTION seven() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN NEW.u := 7; RETURN NEW; END';"
        "CREATE TRIGGER seven BEFORE UPDATE ON a FOR EACH ROW EXECUTE FUNCTION seven();"
    )
    with orm.Session(trail.engine) as session:
        id_ = session.scalar(sa.text("SELECT max(id) FROM audit.transaction"))
        plan = audit_logger.plan_undo(id_, session=session)
        with pytest.raises(PlanFailedError, match="duplicate key"):
            plan.apply(session, reason="x", through="sql")
        session.commit()
    assert trail.value("SELECT u FROM a WHERE id = 1") == 2


def test_an_error_of_an_event_is_seen_and_nothing_is_written(library: Library) -> None:
    id_ = library.run(
        "UPDATE article SET title = 'x' WHERE id = 1", "UPDATE article SET title = 'x' WHERE id = 2"
    )
    before = everything(library)

    def refuse(mapper: Any, connection: Any, target: Any) -> None:
        if target.id == 2:
            raise ZeroDivisionError

    sa.event.listen(library.article, "before_update", refuse)
    with orm.Session(library.trail.engine) as session:
        with pytest.raises(ZeroDivisionError):
            library.logger.plan_undo(id_, session=session).apply(session, reason="x")
        session.commit()
    assert everything(library) == before


@pytest.mark.parametrize("reason", ["", "  \n", None, 7])
def test_a_reason_is_required(library: Library, reason: Any) -> None:
    plan = library.undo(library.run("UPDATE tag SET name = 'x' WHERE id = 1"))
    with pytest.raises(PlanError, match="needs a reason"):
        library.apply(plan, reason=reason)
    with pytest.raises(PlanError, match="through='both'"):
        library.apply(plan, "both")
    with pytest.raises(PlanError, match="belongs to no AuditLogger"):
        library.apply(replace(plan, applier=None))


def test_without_capture_nothing_is_applied(library: Library) -> None:
    plan = library.undo(library.run("UPDATE tag SET name = 'x' WHERE id = 1"))
    library.trail.run("SELECT audit.unaudit_table('tag')")
    with pytest.raises(PlanFailedError, match="was not recorded"):
        library.apply(plan)
    assert library.rows("SELECT name FROM tag WHERE id = 1") == [("x",)]


# -- The plan as a value -----------------------------------------------------------------------


def test_a_plan_as_text(library: Library) -> None:
    id_ = library.run("UPDATE article SET title = 'x' WHERE id = 1", "INSERT INTO tag VALUES (5)")
    library.run("UPDATE article SET title = 'y' WHERE id = 1")
    plan = library.undo(id_)
    lines = str(plan).splitlines()
    assert lines[0] == f"Undo transaction {id_}"
    assert lines[3:] == [
        "1. update public.article 1",
        '     title: "y" → "one"',
        "2. delete public.tag 5",
        "     id: 5",
        "     name: null",
        "",
        "Conflicts:",
        '  c1 public.article 1: title has changed since, and is "y" now [choose skip or force]',
    ]
    (record, _) = plan.records
    assert (record.verb, str(record.record), record.conflicts) == (
        "update",
        "public.article 1",
        plan.conflicts,
    )
    with pytest.raises(PlanError, match="no conflict 'c9': this plan has c1"):
        plan.resolve("c9", "skip")
    with pytest.raises(PlanError, match="resolved with 'force' already"):
        plan.resolve("c1", "force").resolve("c1", "skip")


def test_a_plan_as_json(library: Library) -> None:
    library.run("DELETE FROM author WHERE id = 1")
    plan = library.undelete(library.author, 1)
    text = plan.to_json()
    again = library.logger.plan_from_json(text)
    assert again == plan
    assert again.to_json() == text
    assert '["price", null, 1.50]' in text


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("format",), "other", "not a plan of version 1"),
        (("version",), 2, "not a plan of version 1"),
        (("version",), True, "not a plan of version 1"),
        (("more",), 1, "parts"),
        (("title",), 1, "a title is not a text"),
        (("made_at",), "yesterday", "not a moment"),
        (("made_at",), "2026-01-01", "no time zone"),
        (("reverts",), {"everything": 1}, "part of reverts"),
        (("reverts",), {"transaction": "1"}, "not a number"),
        (("steps",), {}, "steps is not a list"),
        (("steps", 0, "record", "table"), "pg_authid", "no tracked model"),
        (("steps", 0, "record", "schema"), "audit", "no tracked model"),
        (("steps", 0, "record", "key", 0, 0), "ctid", "column 'ctid'"),
        (("steps", 0, "changes", 0, 0), "x\" = 1; --", "which its model has not"),
        (("steps", 0, "changes", 0), ["title"], "a field and two values"),
        (("steps", 0, "changes"), [], "what it is about"),
        (("steps", 0, "changes", 1), ["title", 1, 2], "changes a field twice"),
        (("steps", 0, "verb"), "truncate", "is not a verb"),
        (("steps", 0, "needs"), [5], "order of its steps"),
        (("steps", 0, "id"), True, "not a number"),
        (("steps", 0, "subject"), 2**70, "not a number"),
        (("guards",), [], "a step has no guard"),
        (("guards", 0, "subject"), 9, "a step has no guard"),
        (("conflicts", 0, "kind"), "other", "kind of conflict"),
        (("conflicts", 0, "resolution"), "maybe", "is not a resolution"),
        (("conflicts", 0, "skips"), ["record"], "is not a extent"),
        (("conflicts", 0, "record"), {}, "parts schema table key"),
        (("deferred",), [["a"]], "a constraint has not"),
    ],
)  # fmt: skip
def test_a_damaged_plan_is_refused(
    library: Library, path: tuple[Any, ...], value: Any, message: str
) -> None:
    id_ = library.run("UPDATE article SET title = 'x', price = 1 WHERE id = 1")
    library.run("UPDATE article SET title = 'y' WHERE id = 1")
    document = json.loads(library.undo(id_).to_json())
    target = document
    for part in path[:-1]:
        target = target[part]
    target[path[-1]] = value
    with pytest.raises(PlanError, match=message):
        library.logger.plan_from_json(json.dumps(document))


@pytest.mark.parametrize("text", ["", "{", "[]", "NaN", "null", "[" * 100_000, '{"a": NaN}'])
def test_what_is_no_plan_is_refused(library: Library, text: str) -> None:
    with pytest.raises(PlanError):
        library.logger.plan_from_json(text)


def test_nobody_may_restore_unless_it_is_said() -> None:
    assert AuditLogger().can_restore is None
    assert AuditLogger(can_restore=bool).can_restore is bool
    with pytest.raises(ConfigurationError, match="can_restore=1 cannot be called"):
        AuditLogger(can_restore=1)  # type: ignore[arg-type]


# -- Models of other kinds ---------------------------------------------------------------------


@through
def test_inheritance_and_versions(trail: Trail, through: Any) -> None:
    base: Any = declarative_base()
    logger = AuditLogger(actor_cls=None)
    logger.init(base)
    seen: list[str] = []

    class Animal(base):  # type: ignore[misc]
        __tablename__ = "animal"
        __versioned__: ClassVar[dict[str, Any]] = {}
        id = sa.Column(sa.Integer, primary_key=True)
        kind = sa.Column(sa.Text)
        version = sa.Column(sa.Integer, nullable=False)
        legs = sa.Column(sa.Integer)
        __mapper_args__: ClassVar[dict[str, Any]] = {
            "polymorphic_on": kind,
            "polymorphic_identity": "animal",
            "version_id_col": version,
        }

    class Dog(Animal):
        __mapper_args__: ClassVar[dict[str, Any]] = {"polymorphic_identity": "dog"}

    class Vehicle(base):  # type: ignore[misc]
        __tablename__ = "vehicle"
        __versioned__: ClassVar[dict[str, Any]] = {}
        id = sa.Column(sa.Integer, primary_key=True)
        kind = sa.Column(sa.Text)
        __mapper_args__: ClassVar[dict[str, Any]] = {
            "polymorphic_on": kind,
            "polymorphic_identity": "vehicle",
        }

    class Car(Vehicle):
        __tablename__ = "car"
        __versioned__: ClassVar[dict[str, Any]] = {}
        id = sa.Column(sa.ForeignKey("vehicle.id"), primary_key=True)
        doors = sa.Column(sa.Integer)
        __mapper_args__: ClassVar[dict[str, Any]] = {"polymorphic_identity": "car"}

    sa.event.listen(Dog, "before_insert", lambda m, c, target: seen.append(type(target).__name__))
    base.metadata.create_all(trail.engine)
    with orm.Session(trail.engine) as session:
        session.add_all([Dog(id=1, legs=4), Car(id=1, doors=5)])
        session.commit()
        seen.clear()
        session.delete(session.get(Dog, 1))
        session.delete(session.get(Car, 1))
        session.commit()
        id_ = session.scalar(sa.text("SELECT max(id) FROM audit.transaction"))
        plan = logger.plan_undo(id_, session=session)
        assert [step.record.table for step in plan.steps] == ["animal", "vehicle", "car"]
        plan.apply(session, reason="x", through=through)
        session.commit()
        assert seen == (["Dog"] if through == "orm" else [])
        dog: Any = session.get_one(Animal, 1)
        car: Any = session.get_one(Vehicle, 1)
        assert (type(dog), dog.version, type(car), car.doors) == (Dog, 1, Car, 5)
        dog.legs = 3
        session.commit()
        id_ = session.scalar(sa.text("SELECT max(id) FROM audit.transaction"))
        logger.plan_undo(id_, session=session).apply(session, reason="x", through=through)
        session.commit()
        # Who still holds the changed dog must not be able to write it.
        assert (dog.legs, dog.version) == (4, 3 if through == "orm" else 1)


@through
def test_former_names(trail: Trail, through: Any) -> None:
    base: Any = declarative_base()
    logger = AuditLogger(actor_cls=None)
    logger.init(base)

    class Article(base):  # type: ignore[misc]
        __tablename__ = "article"
        __versioned__: ClassVar[dict[str, Any]] = {
            "formerly": {"table": ["post"], "columns": {"title": ["headline"]}}
        }
        id = sa.Column(sa.Integer, primary_key=True)
        title = sa.Column(sa.Text)

    trail.create("CREATE TABLE post (id int PRIMARY KEY, headline text)", "post")
    trail.run("INSERT INTO post VALUES (1, 'one'), (2, 'two')", "UPDATE post SET headline = 'x'")
    id_ = trail.value("SELECT max(id) FROM audit.transaction")
    trail.run("ALTER TABLE post RENAME TO article")
    trail.run("ALTER TABLE article RENAME headline TO title")
    trail.run("DELETE FROM article WHERE id = 1", "UPDATE article SET title = 'y' WHERE id = 2")
    with orm.Session(trail.engine) as session:
        plan = logger.plan_undo(id_, session=session)
        assert [(c.kind, str(c.record)) for c in plan.conflicts] == [
            ("gone", "public.article 1"),
            ("changed_since", "public.article 2"),
        ]
        plan = plan.resolve("c1", "skip").resolve("c2", "force")
        plan.apply(session, reason="x", through=through)
        logger.plan_undelete(Article, 1, session=session).apply(
            session, reason="x", through=through
        )
        version = session.scalar(sa.text("SELECT min(id) FROM audit.activity"))
        logger.plan_restore(Article, 1, version=version, session=session).apply(
            session, reason="x", through=through
        )
        found: Any = session.execute(sa.select(Article.id, Article.title).order_by("id")).all()
        assert [tuple(row) for row in found] == [(1, "one"), (2, "two")]
        session.commit()
