"""History under former names, and a record's state at a moment."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.orm import declarative_base

from audit_app import AuditLogger, history
from audit_app.errors import (
    InvalidOptionError,
    NotVersionedError,
    UnknownColumnError,
    UnknownVersionError,
)
from audit_app.formerly import Formerly
from tests.trail import Trail


def declare(formerly: Any, table: str = "article", **more: Any) -> tuple[AuditLogger, Any]:
    """Return a logger with one model that has these former names."""
    base: Any = declarative_base()
    logger = AuditLogger(actor_cls=None)
    logger.init(base)

    class Article(base):  # type: ignore[misc]
        __tablename__ = table
        __versioned__: dict[str, Any] = {"formerly": formerly, **more}  # noqa: RUF012
        id = sa.Column(sa.Integer, primary_key=True)
        title = sa.Column(sa.Text)
        text = sa.Column("body", sa.Text)

    return logger, Article


RENAMED = {"table": ["post", "attic.note"], "columns": {"title": ["headline", "name"]}}


@pytest.fixture
def renamed(trail: Trail) -> tuple[Trail, AuditLogger, Any]:
    """A table that was attic.note (name), then post (headline), and is article (title) today."""
    trail.run("CREATE SCHEMA attic")
    trail.create("CREATE TABLE attic.note (id int PRIMARY KEY, name text, body text)", "attic.note")
    trail.run(
        "INSERT INTO attic.note VALUES (1, 'one', 'b'), (2, 'other', 'b')",
        "ALTER TABLE attic.note SET SCHEMA public",
        "ALTER TABLE note RENAME TO post",
        "ALTER TABLE post RENAME COLUMN name TO headline",
        "UPDATE post SET headline = 'two' WHERE id = 1",
        "UPDATE post SET id = 7 WHERE id = 1",
        "ALTER TABLE post RENAME TO article",
        "ALTER TABLE article RENAME COLUMN headline TO title",
        "UPDATE article SET title = 'three' WHERE id = 7",
        "DELETE FROM article WHERE id = 7",
    )
    logger, article = declare(RENAMED)
    return trail, logger, article


def test_the_story_goes_through_all_names(renamed: tuple[Trail, AuditLogger, Any]) -> None:
    trail, logger, article = renamed
    with orm.Session(trail.engine) as session:
        story = session.scalars(logger.history(article, 7)).all()
        assert [(a.verb, a.table_name, a.schema_name) for a in reversed(story)] == [
            ("insert", "note", "attic"),
            ("update", "post", "public"),
            ("update", "post", "public"),
            ("update", "article", "public"),
            ("delete", "article", "public"),
        ]
        assert [a.data["title"] for a in reversed(story)] == ["one", "two", "two", "three", "three"]
        assert all("name" not in a.data and "headline" not in a.data for a in story)
        assert story[-1].changed_data == {"id": 1, "title": "one", "body": "b"}
        assert story[-1].object.title == "one"
        assert story[-1].object_id == 1
        assert not session.dirty
        everything = session.scalars(logger.history(article)).all()
        assert len(everything) == 6
        session.expire_all()
        assert story[-1].changed_data["title"] == "one"


def test_pages_of_a_record_and_neighbours(renamed: tuple[Trail, AuditLogger, Any]) -> None:
    trail, logger, article = renamed
    names = logger.audited(article).formerly
    activity, transaction = logger.activity_cls, logger.transaction_cls
    with trail.engine.connect() as connection:
        pages: list[int] = []
        before = None
        while True:
            query = history.record_page(
                activity, transaction, "public", "article", "7", before=before, limit=2,
                formerly=names,
            )  # fmt: skip
            rows = connection.execute(query).all()
            pages += [row.id for row in rows[:2]]
            if len(rows) <= 2:
                break
            before = rows[1].id
        assert pages == sorted(pages, reverse=True)
        assert len(pages) == 5
        for older, newer in zip(pages[1:], pages, strict=False):
            near = connection.execute(
                history.neighbours(activity, "public", "article", "7", older, formerly=names)
            ).one()
            assert near.next == newer


def test_the_index_leads_to_a_record_under_all_its_names(trail: Trail) -> None:
    trail.run(
        "INSERT INTO audit.activity (transaction_id, native_transaction_id, issued_at, relid,"
        " depth, schema_name, table_name, verb, object_id, changed_data) SELECT n, '1', now(), 1,"
        " 1, 'public', CASE n % 2 WHEN 0 THEN 'article' ELSE 'post' END, 'insert',"
        " (n / 20)::text, '{}'"
        " FROM generate_series(1, 20000) AS n",
        "ANALYZE audit.activity",
    )
    logger, article = declare(RENAMED)
    query = history.record_page(
        logger.activity_cls, logger.transaction_cls, "public", "article", "7",
        formerly=logger.audited(article).formerly,
    )  # fmt: skip
    at = history.version_at(
        logger.activity_cls, "public", "article", "7", datetime.now(UTC),
        formerly=logger.audited(article).formerly,
    )  # fmt: skip
    with trail.engine.connect() as connection:
        for each in (query, at):
            text = each.compile(connection, compile_kwargs={"literal_binds": True})
            statement = sa.text("EXPLAIN " + str(text).replace(":", "\\:"))
            plan = "\n".join(connection.scalars(statement))
            assert "activity_object_idx" in plan
            assert "Seq Scan on activity" not in plan
            assert "Backward using activity_pkey" not in plan, plan
        assert len(connection.execute(query).all()) == 20


def test_a_new_column_of_a_former_name_is_itself() -> None:
    names = Formerly(columns=(("title", ("name",)),))
    old, changed = {"id": 1, "title": "t", "name": "n"}, {"name": "m"}
    assert names.present(old, changed) == (old, changed)
    assert names.present({"id": 1, "name": "n"}, {"name": "m"}) == (
        {"id": 1, "title": "n"},
        {"title": "m"},
    )
    assert names.present(None, None) == (None, None)
    assert names.present(None, {"name": None}) == (None, {"title": None})


def test_the_database_never_hears_of_former_names(trail: Trail) -> None:
    plain, _ = declare({})
    logger, article = declare(RENAMED)
    assert logger.audited(article).create_sql == plain.audited_tables()[0].create_sql
    assert logger.audited(article).digest == plain.audited_tables()[0].digest
    trail.run("CREATE TABLE article (id int PRIMARY KEY, title text, body text)")
    with trail.engine.begin() as connection:
        logger.install(connection)
        assert logger.check(connection) == ()


@pytest.mark.parametrize(
    ("formerly", "message"),
    [
        ("post", "Article has formerly = 'post'"),
        ({"tables": ["post"]}, "Article has formerly = "),
        ({"table": "post"}, r"formerly\['table'\] = 'post': write a list"),
        ({"table": ["article"]}, "which is its present name"),
        ({"table": ["public.article"]}, "which is its present name"),
        ({"table": [""]}, r"Article has '' in formerly\['table'\]"),
        ({"table": [("a", "b", "c")]}, "write 'old_name', 'old_schema.old_name'"),
        ({"table": [7]}, r"Article has 7 in formerly\['table'\]"),
        ({"columns": ["title"]}, r"formerly\['columns'\] = \['title'\]"),
        ({"columns": {"title": "name"}}, r"formerly\['columns'\]\['title'\] = 'name'"),
        ({"columns": {"title": [1]}}, r"formerly\['columns'\]\['title'\]"),
        ({"columns": {"title": ["title"]}}, r"formerly\['columns'\]\['title'\]"),
        ({"columns": {"title": ["x"], "id": ["x"]}}, "'x' in formerly.*two columns"),
    ],
)
def test_a_wrong_declaration_names_the_model_and_the_key(formerly: Any, message: str) -> None:
    logger, _ = declare(formerly)
    with pytest.raises(InvalidOptionError, match=message):
        logger.audited_tables()


def test_an_unknown_column() -> None:
    logger, _ = declare({"columns": {"nothing": ["x"]}})
    with pytest.raises(UnknownColumnError, match="Article has 'nothing' in formerly"):
        logger.audited_tables()
    logger, article = declare({"columns": {"text": ["content"]}, "table": [("a.b", "c.d")]})
    assert logger.audited(article).formerly == Formerly(
        (("a.b", "c.d"),), (("body", ("content",)),)
    )


def test_a_former_name_belongs_to_one_table() -> None:
    logger, article = declare({"table": ["post"]})
    other: Any = orm.registry(metadata=logger.metadata).generate_base()
    table = sa.Table(
        "post", other.metadata, sa.Column("id", sa.Integer, primary_key=True),
        info={"versioned": {}},
    )  # fmt: skip
    with pytest.raises(InvalidOptionError, match="it is the present name of"):
        logger.audited(article)
    table.info["versioned"] = None
    assert logger.place("public", "post").name == "article"
    sa.Table(
        "essay", other.metadata, sa.Column("id", sa.Integer, primary_key=True),
        info={"versioned": {"formerly": {"table": ["post"]}}},
    )  # fmt: skip
    with pytest.raises(InvalidOptionError, match="claims it too"):
        logger.audited(article)


def test_a_child_table_does_not_inherit_its_parents_former_names() -> None:
    base: Any = declarative_base()
    logger = AuditLogger(actor_cls=None)
    logger.init(base)

    class Asset(base):  # type: ignore[misc]
        __tablename__ = "asset"
        __versioned__: dict[str, Any] = {  # noqa: RUF012
            "formerly": {"table": ["thing"], "columns": {"kind": ["type"]}}
        }
        id = sa.Column(sa.Integer, primary_key=True)
        kind = sa.Column(sa.Text)
        __mapper_args__ = {"polymorphic_on": kind, "polymorphic_identity": "asset"}  # noqa: RUF012

    class Car(Asset):
        __tablename__ = "car"
        id = sa.Column(sa.ForeignKey("asset.id"), primary_key=True)
        wheels = sa.Column(sa.Integer)
        __mapper_args__ = {"polymorphic_identity": "car"}  # noqa: RUF012

    class Rental(Asset):
        __mapper_args__ = {"polymorphic_identity": "rental"}  # noqa: RUF012

    found = {table.name: table.formerly for table in logger.audited_tables()}
    assert found["asset"].tables == (("public", "thing"),)
    assert not found["car"]


# -- version_at ---------------------------------------------------------------------------------


def moments(trail: Trail) -> list[datetime]:
    """Return when each activity was recorded, in the order of writing."""
    with trail.engine.connect() as connection:
        return list(connection.scalars(sa.text("SELECT issued_at FROM audit.activity ORDER BY id")))


def test_a_version_through_renamings(renamed: tuple[Trail, AuditLogger, Any]) -> None:
    trail, logger, article = renamed
    first, _, second, third, fourth, last = moments(trail)

    def version(identity: Any, when: datetime) -> Any:
        with orm.Session(trail.engine) as session:
            return logger.version_at(article, identity, when=when, session=session)

    assert version(1, datetime(2000, 1, 1, tzinfo=UTC)) is None
    assert version(1, first) == {"id": 1, "title": "one", "body": "b"}
    assert version(1, second) == {"id": 1, "title": "two", "body": "b"}
    assert version(1, third) == {"id": 7, "title": "two", "body": "b"}
    assert version(7, fourth) == {"id": 7, "title": "three", "body": "b"}
    assert version(7, first) == {"id": 1, "title": "one", "body": "b"}
    assert version(7, last) is None
    assert version(2, last) == {"id": 2, "title": "other", "body": "b"}


def test_before_the_recording_began_nothing_is_known(trail: Trail) -> None:
    trail.run(
        "CREATE TABLE article (id int PRIMARY KEY, title text, body text)",
        "INSERT INTO article VALUES (1, 'a', NULL), (2, 'b', NULL)",
    )
    trail.track("article")
    trail.run("UPDATE article SET title = 'c' WHERE id = 1")
    logger, article = declare({})
    [changed] = moments(trail)
    with trail.engine.connect() as connection:

        def version(identity: Any, when: datetime) -> Any:
            return logger.version_at(article, identity, when=when, session=connection)

        assert version(1, changed) == {"id": 1, "title": "c", "body": None}
        with pytest.raises(UnknownVersionError, match="its story from"):
            version(1, datetime(2000, 1, 1, tzinfo=UTC))
        with pytest.raises(UnknownVersionError, match="nothing of it"):
            version(2, changed)


def test_a_truncated_record_is_gone_and_may_come_back(trail: Trail) -> None:
    trail.create("CREATE TABLE article (id int PRIMARY KEY, title text, body text)", "article")
    trail.run(
        "INSERT INTO article VALUES (1, 'a', NULL)",
        "TRUNCATE article",
        "INSERT INTO article VALUES (1, 'again', NULL)",
    )
    logger, article = declare({})
    inserted, truncated, again = moments(trail)
    with trail.engine.connect() as connection:
        found = [
            logger.version_at(article, 1, when=when, session=connection)
            for when in (inserted, truncated, again)
        ]
    assert [None if row is None else row["title"] for row in found] == ["a", None, "again"]


def test_an_instance_names_itself(trail: Trail) -> None:
    trail.create("CREATE TABLE article (id int PRIMARY KEY, title text, body text)", "article")
    trail.run("INSERT INTO article VALUES (1, 'a', NULL)")
    logger, article = declare({})
    with orm.Session(trail.engine) as session:
        instance = session.get(article, 1)
        now = datetime.now(UTC)
        assert logger.version_at(instance, when=now, session=session)["title"] == "a"
        with pytest.raises(InvalidOptionError, match="no time zone"):
            logger.version_at(instance, when=datetime(2026, 1, 1), session=session)
        with pytest.raises(InvalidOptionError, match="pass its identity"):
            logger.version_at(article, when=now, session=session)
        with pytest.raises(NotVersionedError):
            logger.version_at(logger.activity_cls, 1, when=now, session=session)


# -- The helper for those who do rewrite --------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ("'{}'", "{}"),
        ("NULL", None),
        ("'null'", "null"),
        ("'[\"a\"]'", '["a"]'),
        ("'\"a\"'", '"a"'),
        ("'{\"x\": 1}'", '{"x": 1}'),
        ('\'{"a": 1, "x": 2}\'', '{"b": 1, "x": 2}'),
        ("'{\"a\": null}'", '{"b": null}'),
        ('\'{"a": {"a": 1}}\'', '{"b": {"a": 1}}'),
        # The renamed value is the later one: it takes the place of what was there.
        ('\'{"a": 1, "b": 2}\'', '{"b": 1}'),
        ("'{\"a\": 10.00}'", '{"b": 10.00}'),
    ],
)
def test_a_key_of_a_document_is_renamed(trail: Trail, document: str, expected: str | None) -> None:
    query = f"SELECT audit.jsonb_change_key_name(CAST({document} AS jsonb), 'a', 'b')::text"
    assert trail.value(query) == expected


def test_a_key_renamed_to_itself_stays(trail: Trail) -> None:
    query = "SELECT audit.jsonb_change_key_name(CAST(:d AS jsonb), 'a', 'a')::text"
    assert trail.value(query, d='{"a": 1}') == '{"a": 1}'
    for names in ("NULL, 'b'", "'a', NULL"):
        query = f"SELECT audit.jsonb_change_key_name(CAST(:d AS jsonb), {names})::text"
        assert trail.value(query, d='{"a": 1}') == '{"a": 1}'
