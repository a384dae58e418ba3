# ruff: noqa: E501 - SQL in full
"""Authors, articles, tags and boxes to restore, and a way to do it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.orm import declarative_base

from audit_app import AuditLogger
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


def track(trail: Trail, logger: AuditLogger, script: str, *names: str) -> None:
    """Make tables, track them, and declare them as the database has them."""
    trail.script(script)
    for name in names:
        trail.track(name)
        table = sa.Table(name, logger.metadata, autoload_with=trail.engine)
        logger.audit_table(table)


def kinds(plan: Plan) -> list[str]:
    return [conflict.kind for conflict in plan.conflicts]


def everything(library: Library) -> list[Any]:
    return [
        library.rows(f"SELECT * FROM {table} ORDER BY 1, 2")
        for table in ("author", "article", "tag", "article_tag", "attic.box")
    ]


through = pytest.mark.parametrize("through", ["orm", "sql"])


def make_library(trail: Trail) -> Library:
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
