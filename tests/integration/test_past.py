"""Reading the past: versions, tables at a moment, what related, instances."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, ClassVar

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.orm import declarative_base

from audit_app import AuditLogger, history, past, roles
from audit_app import identity as identities
from audit_app.errors import (
    InvalidOptionError,
    NotVersionedError,
    ReadOnlyError,
    UnknownColumnError,
    UnknownVersionError,
)
from tests.trail import Trail

PAST = datetime(2000, 1, 1, tzinfo=UTC)
FUTURE = datetime(2100, 1, 1, tzinfo=UTC)


class Shop:
    """A base with models that relate to each other in every way."""

    def __init__(self) -> None:
        base: Any = declarative_base()
        self.base = base
        self.logger = AuditLogger(actor_cls=None)
        self.logger.init(base)

        label = sa.Table(
            "label",
            base.metadata,
            sa.Column("article_id", sa.ForeignKey("article.id"), primary_key=True),
            sa.Column("tag_id", sa.ForeignKey("tag.id"), primary_key=True),
            info={"versioned": {}},
        )

        class Author(base):  # type: ignore[misc]
            __tablename__ = "author"
            __versioned__: ClassVar[dict[str, Any]] = {}
            id = sa.Column(sa.Integer, primary_key=True)
            name = sa.Column(sa.Text)
            articles = orm.relationship("Article", back_populates="author")

        class Tag(base):  # type: ignore[misc]
            __tablename__ = "tag"
            __versioned__: ClassVar[dict[str, Any]] = {}
            id = sa.Column(sa.Integer, primary_key=True)
            name = sa.Column(sa.Text)

        class Article(base):  # type: ignore[misc]
            __tablename__ = "article"
            __versioned__: ClassVar[dict[str, Any]] = {"exclude": ["secret"], "mask": ["pin"]}
            id = sa.Column(sa.Integer, primary_key=True)
            title = sa.Column(sa.Text)
            text = sa.Column("body", sa.Text)
            price = sa.Column(sa.Numeric(10, 2))
            secret = sa.Column(sa.Text)
            pin = sa.Column(sa.Integer)
            author_id: Any = sa.Column(sa.ForeignKey("author.id"))
            parent_id: Any = sa.Column(sa.ForeignKey("article.id"))
            author = orm.relationship("Author", back_populates="articles")
            parent = orm.relationship(
                "Article", remote_side="Article.id", back_populates="children"
            )
            children = orm.relationship("Article", back_populates="parent")
            tags = orm.relationship("Tag", secondary=label)

            @property
            def shout(self) -> str:
                return str(self.title).upper()

        self.author, self.article, self.tag, self.label = Author, Article, Tag, label

    def create(self, trail: Trail) -> None:
        self.logger.attach(trail.engine)
        self.base.metadata.create_all(trail.engine)


@pytest.fixture
def shop(trail: Trail) -> Shop:
    made = Shop()
    made.create(trail)
    return made


def ids(trail: Trail) -> list[int]:
    with trail.engine.connect() as connection:
        return list(connection.scalars(sa.text("SELECT id FROM audit.activity ORDER BY id")))


def last_id(trail: Trail) -> int:
    return max(ids(trail))


def rows(trail: Trail, query: Any) -> list[Any]:
    with orm.Session(trail.engine) as session:
        return list(session.execute(query).all())


def titles(trail: Trail, shop: Shop, when: Any, **more: Any) -> dict[int, str]:
    then = shop.logger.as_of(shop.article, when, **more)
    return dict(rows(trail, sa.select(then.c.id, then.c.title)))


def unrecorded(trail: Trail, statement: str) -> None:
    """Run a statement that leaves nothing in the trail."""
    with trail.engine.begin() as connection:
        connection.execute(sa.text("SELECT audit.suspend()"))
        connection.execute(sa.text(statement))


# -- A whole table -----------------------------------------------------------------------------


def test_a_table_at_each_activity_is_what_it_was(trail: Trail, shop: Shop) -> None:
    """Replayed against the live table after every step: inserts, updates, keys, truncation."""
    states = []
    for statement in (
        "INSERT INTO article (id, title) VALUES (1, 'a'), (2, 'b'), (3, 'c')",
        "UPDATE article SET title = 'A' WHERE id = 1",
        "DELETE FROM article WHERE id = 2",
        "UPDATE article SET id = 7 WHERE id = 1",
        "INSERT INTO article (id, title) VALUES (1, 'another')",
        "UPDATE article SET id = 8 WHERE id = 7",
        "UPDATE article SET id = id + 10",
        "INSERT INTO article (id, title) VALUES (2, 'again')",
        "TRUNCATE article, label",
        "INSERT INTO article (id, title) VALUES (3, 'new')",
        "UPDATE article SET title = 'newer'",
    ):
        trail.run(statement)
        live = {row.id: row.title for row in rows(trail, sa.text("SELECT id, title FROM article"))}
        transaction = trail.value("SELECT max(id) FROM audit.transaction")
        states.append((last_id(trail), transaction, datetime.now(UTC), live))
    for activity_id, transaction_id, moment, live in states:
        assert titles(trail, shop, activity_id) == live
        assert titles(trail, shop, None, transaction_id=transaction_id) == live
        assert titles(trail, shop, moment) == live
    assert titles(trail, shop, PAST) == {}
    assert titles(trail, shop, FUTURE) == states[-1][-1]
    # The same of each record by itself, and from SQL.
    with trail.engine.connect() as connection:
        for activity_id, _, _, live in states:
            for key in (*live, 99):
                query = f"SELECT * FROM audit.version_of(NULL::article, '{key}', activity => :id)"
                found = connection.execute(sa.text(query), {"id": activity_id}).all()
                if key == 99:
                    assert found == []
                else:
                    assert [row.title for row in found] == [live[key]]
                    row = shop.logger.version_at(
                        shop.article, key, when=activity_id, session=connection
                    )
                    assert row["title"] == live[key]


def test_rows_from_before_the_tracking(trail: Trail) -> None:
    shop = Shop()
    trail.run(
        "CREATE TABLE author (id int PRIMARY KEY, name text)",
        "INSERT INTO author VALUES (1, 'never changed'), (2, 'old'), (3, 'to go'), (4, 'old key')",
    )
    trail.track("author")

    def names(when: Any) -> dict[int, str]:
        then = shop.logger.as_of(shop.author, when)
        return dict(rows(trail, sa.select(then.c.id, then.c.name)))

    # Nothing was ever recorded: only the present is known.
    assert names(PAST) == {}
    assert len(names(FUTURE)) == 4
    trail.run("INSERT INTO author VALUES (5, 'first')")
    first = last_id(trail)
    trail.run(
        "UPDATE author SET name = 'new' WHERE id = 2",
        "DELETE FROM author WHERE id = 3",
        "UPDATE author SET id = 9 WHERE id = 4",
        "INSERT INTO author VALUES (4, 'another')",
    )
    before = {1: "never changed", 2: "old", 3: "to go", 4: "old key", 5: "first"}
    assert names(first) == before
    assert names(PAST) == {}
    assert names(last_id(trail)) == {
        1: "never changed", 2: "new", 4: "another", 5: "first", 9: "old key",
    }  # fmt: skip
    since = trail.value("SELECT audit.known_since(NULL::author)")
    assert names(since) == before
    assert names(since - timedelta(microseconds=1)) == {}
    with trail.engine.connect() as connection:

        def version(identity: int, when: Any) -> Any:
            return shop.logger.version_at(shop.author, identity, when=when, session=connection)

        assert version(2, first) == {"id": 2, "name": "old"}
        assert version(9, first) == {"id": 4, "name": "old key"}
        with pytest.raises(UnknownVersionError):
            version(2, first - 1)
    query = "SELECT name FROM audit.version_of(NULL::author, '1', activity => :id)"
    assert trail.value(query, id=first) == "never changed"
    assert trail.value(query, id=first - 1) is None
    changed = query.replace("'1'", "'2'")
    assert trail.value(changed, id=first) == "old"
    assert trail.value(changed, id=first - 1) is None
    # What was truncated without a trace of its own is lost, and nothing else takes its place.
    trail.run("TRUNCATE author", "INSERT INTO author VALUES (1, 'after')")
    unrecorded(trail, "INSERT INTO author VALUES (77, 'unrecorded')")
    assert names(first) == {k: v for k, v in before.items() if k != 1}
    assert names(last_id(trail)) == {1: "after"}


def test_a_baseline_tells_what_was_there_since_the_tracking_began(trail: Trail) -> None:
    shop = Shop()
    trail.run(
        "CREATE TABLE author (id int PRIMARY KEY, name text)",
        "INSERT INTO author VALUES (1, 'one')",
    )
    trail.track("author")
    trail.run("INSERT INTO author VALUES (2, 'two')")
    first = last_id(trail)
    with trail.engine.begin() as connection:
        connection.execute(
            sa.text("SELECT * FROM audit.baseline_batch('author', 'author', NULL, NULL, 100)")
        ).all()
    trail.run("DELETE FROM author")
    then = shop.logger.as_of(shop.author, first)
    assert sorted(rows(trail, sa.select(then.c.name))) == [("one",), ("two",)]
    with trail.engine.connect() as connection:
        found = shop.logger.version_at(shop.author, 1, when=first, session=connection)
    assert found == {"id": 1, "name": "one"}


def test_what_is_not_recorded_is_null_also_in_rows_that_never_changed(
    trail: Trail, shop: Shop
) -> None:
    shop.base.metadata.drop_all(trail.engine, tables=[shop.label, shop.article.__table__])
    article: Any = shop.article.__table__
    trail.run(
        "CREATE TABLE article (id int PRIMARY KEY, title text, body text, price numeric, "
        "secret text, pin int, author_id int, parent_id int)",
        "INSERT INTO article (id, title, secret, pin) VALUES (1, 'a', 's', 1), (2, 'b', 's', 2)",
    )
    trail.run(shop.logger.audited(article).create_sql)
    trail.run("UPDATE article SET title = 'c', pin = 3 WHERE id = 2")
    assert shop.logger.audited(article).exclude == ("secret",)
    found = rows(trail, sa.select(shop.logger.as_of(shop.article, FUTURE)))
    assert [(r.id, r.title, r.secret, r.pin) for r in sorted(found)] == [
        (1, "a", None, None),
        (2, "c", None, None),
    ]
    assert past.hidden_columns(shop.logger.audited(article), article) == ("secret", "pin")
    one, two = shop.logger.past_instances(shop.article, sorted(found))
    assert one.audit_missing == two.audit_missing == ("secret", "pin")
    assert two.secret is None


def test_a_mark_of_the_capture_is_no_value(trail: Trail) -> None:
    trail.run("CREATE TABLE thing (id int PRIMARY KEY, name text, data jsonb)")
    trail.track("thing", options={"mask": ["name"]})
    trail.run("INSERT INTO thing VALUES (1, 'a', '{\"$audit\"\\: \"mine\"}')")
    trail.track("thing")  # nothing is masked any more
    [row] = rows(trail, sa.text("SELECT * FROM audit.as_of(NULL::thing, now())"))
    assert tuple(row) == (1, None, {"$audit": "mine"})


def test_what_was_excluded_later_is_not_told_any_more(trail: Trail, shop: Shop) -> None:
    trail.run("SELECT audit.audit_table('article')")
    trail.run("INSERT INTO article (id, title, secret, pin) VALUES (1, 'a', 's', 7)")
    when = last_id(trail)
    trail.run(shop.logger.audited(shop.article).create_sql, "DELETE FROM article")
    [row] = rows(trail, sa.select(shop.logger.as_of(shop.article, when)))
    assert (row.title, row.secret, row.pin) == ("a", None, None)
    with trail.engine.connect() as connection:

        def version(form: Any) -> Any:
            return shop.logger.version_at(shop.article, 1, when=when, form=form, session=connection)

        assert (version("row")["secret"], version("instance").secret) == (None, None)
        assert version("data")["secret"] == "s"


def test_it_joins_filters_and_nests(trail: Trail, shop: Shop) -> None:
    trail.run(
        "INSERT INTO author VALUES (1, 'Ada')",
        "INSERT INTO article (id, title, author_id, price)"
        " VALUES (1, 'a', 1, 9.5), (2, 'b', 1, 20)",
        "UPDATE author SET name = 'Lovelace'",
        "UPDATE article SET price = 30",
    )
    when = ids(trail)[2]
    article, author = (shop.logger.as_of(m, when) for m in (shop.article, shop.author))
    query = (
        sa.select(author.c.name, article.c.title)
        .join(article, article.c.author_id == author.c.id)
        .where(article.c.price > Decimal(10))
    )
    assert rows(trail, query) == [("Ada", "b")]
    now = shop.article.__table__
    grown = sa.select(now.c.id, (now.c.price - article.c.price).label("more")).join(
        article, article.c.id == now.c.id
    )
    assert sorted(rows(trail, grown)) == [(1, Decimal("20.50")), (2, Decimal("10.00"))]
    then = orm.aliased(shop.article, article)
    with orm.Session(trail.engine) as session:
        loaded = session.scalars(sa.select(then).where(then.text.is_(None)).order_by(then.id)).all()
        assert [(a.title, a.price) for a in loaded] == [("a", Decimal("9.50")), ("b", 20)]
        assert {type(a) for a in loaded} == {shop.article}


def test_joined_and_single_table_inheritance(trail: Trail) -> None:
    base: Any = declarative_base()
    logger = AuditLogger(actor_cls=None)
    logger.init(base)

    class Asset(base):  # type: ignore[misc]
        __tablename__ = "asset"
        __versioned__: ClassVar[dict[str, Any]] = {}
        id = sa.Column(sa.Integer, primary_key=True)
        kind = sa.Column(sa.Text)
        name = sa.Column(sa.Text)
        __mapper_args__: ClassVar[Any] = {"polymorphic_on": kind, "polymorphic_identity": "asset"}

    class Car(Asset):
        __tablename__ = "car"
        id = sa.Column(sa.ForeignKey("asset.id"), primary_key=True)
        wheels = sa.Column(sa.Integer)
        __mapper_args__: ClassVar[Any] = {"polymorphic_identity": "car"}

    class Desk(Asset):
        __mapper_args__: ClassVar[Any] = {"polymorphic_identity": "desk"}

    base.metadata.create_all(trail.engine)
    trail.run(
        "INSERT INTO asset VALUES (1, 'car', 'old car'), (2, 'desk', 'desk')",
        "INSERT INTO car VALUES (1, 3)",
    )
    when = last_id(trail)
    trail.run("UPDATE asset SET name = 'new'", "UPDATE car SET wheels = 4", "DELETE FROM car")
    car = orm.aliased(Car, logger.as_of(Car, when))
    assert rows(trail, sa.select(car.id, car.name, car.wheels)) == [(1, "old car", 3)]
    desk = orm.aliased(Desk, logger.as_of(Desk, when))
    assert rows(trail, sa.select(desk.name)) == [("desk",)]
    found = logger.past_instances(Asset, rows(trail, sa.select(logger.as_of(Asset, when))))
    assert {type(a).__mro__[2] for a in found} == {Car, Desk}


def test_former_names(trail: Trail) -> None:
    base: Any = declarative_base()
    logger = AuditLogger(actor_cls=None)
    logger.init(base)

    class Article(base):  # type: ignore[misc]
        __tablename__ = "article"
        __versioned__: ClassVar[dict[str, Any]] = {
            "formerly": {"table": ["attic.note"], "columns": {"title": ["headline", "name"]}}
        }
        id = sa.Column(sa.Integer, primary_key=True)
        title = sa.Column(sa.Text)
        name = sa.Column(sa.Text)  # a new column under the former name of another

    trail.run("CREATE SCHEMA attic")
    trail.create("CREATE TABLE attic.note (id int PRIMARY KEY, name text)", "attic.note")
    trail.run("INSERT INTO attic.note VALUES (1, 'one'), (2, 'two')")
    first = last_id(trail)
    trail.run(
        "ALTER TABLE attic.note SET SCHEMA public",
        "ALTER TABLE note RENAME TO article",
        "ALTER TABLE article RENAME COLUMN name TO title",
        "ALTER TABLE article ADD COLUMN name text",
        "UPDATE article SET title = 'uno', name = 'n' WHERE id = 1",
        "UPDATE article SET id = 5 WHERE id = 1",
    )
    then = logger.as_of(Article, first)
    found = sorted(rows(trail, sa.select(then.c.id, then.c.title, then.c.name)))
    assert found == [(1, "one", None), (2, "two", None)]
    now = logger.as_of(Article, last_id(trail))
    found = sorted(rows(trail, sa.select(now.c.id, now.c.title, now.c.name)))
    assert found == [(2, "two", None), (5, "uno", "n")]
    story = rows(trail, logger.versions(Article, 5))
    assert [(v.data["id"], v.data["title"], v.data.get("name")) for v in story] == [
        (1, "one", None), (1, "uno", "n"), (5, "uno", "n"),
    ]  # fmt: skip
    values = rows(trail, logger.field_history(Article, 5, field=Article.title))
    assert [(v.old, v.new) for v in values] == [(None, "one"), ("one", "uno")]


def test_a_value_that_no_longer_fits_is_null_and_the_rest_is_there(trail: Trail) -> None:
    trail.create("CREATE TABLE thing (id int PRIMARY KEY, size text, name text)", "thing")
    trail.run("INSERT INTO thing VALUES (1, 'large', 'a'), (2, '7', 'b')")
    when = last_id(trail)
    trail.run("ALTER TABLE thing ALTER size TYPE int USING nullif(size, 'large')::int")
    query = "SELECT array_agg(t ORDER BY id)::text FROM audit.as_of(NULL::thing, activity => :id) t"
    assert trail.value(query, id=when) == '{"(1,,a)","(2,7,b)"}'


def test_a_truncated_partition_takes_its_own_rows_only(trail: Trail) -> None:
    trail.run("CREATE TABLE event (id int PRIMARY KEY, name text) PARTITION BY RANGE (id)")
    trail.run("CREATE TABLE event_1 PARTITION OF event FOR VALUES FROM (0) TO (10)")
    trail.run("CREATE TABLE event_2 PARTITION OF event FOR VALUES FROM (10) TO (20)")
    trail.run("INSERT INTO event VALUES (3, 'never changed'), (13, 'never changed')")
    trail.track("event")
    trail.run("INSERT INTO event VALUES (1, 'a'), (11, 'b')")
    first = last_id(trail)
    trail.run("TRUNCATE event_1")
    second = last_id(trail)
    unrecorded(trail, "INSERT INTO event VALUES (4, 'unrecorded')")
    query = "SELECT count(*) FROM audit.as_of(NULL::event, activity => :id) WHERE id IN (4, 13)"
    assert [trail.value(query, id=when) for when in (first, second)] == [1, 1]
    trail.run("INSERT INTO event VALUES (2, 'c')", "TRUNCATE event")

    def found(when: int) -> str:
        query = (
            "SELECT string_agg(id::text, ' ' ORDER BY id)"
            " FROM audit.as_of(NULL::event, activity => :id)"
        )
        return str(trail.value(query, id=when))

    assert found(first) == "1 11"  # 3 and 13 were truncated without a trace
    assert found(second) == "11"
    assert found(last_id(trail)) == "None"

    base: Any = declarative_base()
    logger = AuditLogger(actor_cls=None)
    logger.init(base)
    columns = sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.Text)
    event = sa.Table("event", base.metadata, *columns, info={"versioned": {}})
    assert [v.verb for v in rows(trail, logger.versions(event, 1))] == ["insert", "truncate"]
    assert [v.verb for v in rows(trail, logger.versions(event, 11))] == ["insert", "truncate"]
    [_, end] = rows(trail, logger.versions(event, 11))
    assert end.id > second
    with trail.engine.connect() as connection:

        def version(identity: int, when: int) -> Any:
            return logger.version_at(event, identity, when=when, session=connection)

        assert version(1, first) == {"id": 1, "name": "a"}
        assert version(1, second) is None
        assert version(11, second) == {"id": 11, "name": "b"}
        assert version(11, last_id(trail)) is None
    trail.run("INSERT INTO event VALUES (12, 'd')", "TRUNCATE event_1")
    assert [d.object_key for d in rows(trail, logger.deleted(event))] == ["11", "2", "1"]
    with pytest.raises(sa.exc.ProgrammingError, match="the parent's"):
        trail.run("SELECT * FROM audit.as_of(NULL::event_1, now())")


# -- When --------------------------------------------------------------------------------------


def test_when_is_a_moment_an_activity_or_a_transaction(trail: Trail, shop: Shop) -> None:
    trail.run(
        "INSERT INTO article (id, title) VALUES (1, 'a')",
        "UPDATE article SET title = 'b'; UPDATE article SET title = 'c'",
        "UPDATE article SET title = 'd'",
    )
    _, middle, end, _ = ids(trail)
    logger = shop.logger
    with orm.Session(trail.engine) as session:
        # Two statements in one message began at the same moment: only ids tell them apart.
        activity: Any = session.get(logger.activity_cls, middle)
        assert activity.issued_at == session.get_one(logger.activity_cls, end).issued_at

        def title(when: Any = None, **more: Any) -> str:
            found = logger.version_at(shop.article, 1, when=when, session=session, **more)
            then = logger.as_of(shop.article, when, **more)
            assert session.scalar(sa.select(then.c.title)) == found["title"]
            return str(found["title"])

        assert title(middle) == title(activity) == "b"
        assert title(end) == title(activity.transaction) == "c"
        assert title(transaction_id=activity.transaction_id) == "c"
        assert title(activity.issued_at) == "c"
        for when in (datetime(2026, 1, 1), "2026-01-01", True, None):
            with pytest.raises(InvalidOptionError):
                logger.as_of(shop.article, when)
            with pytest.raises(InvalidOptionError):
                logger.version_at(shop.article, 1, when=when, session=session)
        with pytest.raises(InvalidOptionError):
            logger.as_of(shop.article, end, transaction_id=1)
        with pytest.raises(NotVersionedError):
            logger.as_of(logger.activity_cls, end)
        with pytest.raises(InvalidOptionError, match="versions.. needs a record"):
            logger.versions(shop.article)
    with pytest.raises(sa.exc.DataError, match="as of when"):
        trail.run("SELECT * FROM audit.as_of(NULL::article, transaction => 12345)")


# -- One record --------------------------------------------------------------------------------


def test_versions_are_valid_when_version_at_finds_them(trail: Trail, shop: Shop) -> None:
    trail.run(
        "INSERT INTO article (id, title) VALUES (1, 'a')",
        "UPDATE article SET title = 'b'; UPDATE article SET title = 'c'",
        "UPDATE article SET id = 2",
        "TRUNCATE article, label",
        "TRUNCATE article, label",
        "INSERT INTO article (id, title) VALUES (2, 'd')",
        "DELETE FROM article",
    )
    logger = shop.logger
    found = rows(trail, logger.versions(shop.article, 2))
    assert [(v.number, v.verb, v.data and v.data["title"]) for v in found] == [
        (1, "insert", "a"), (2, "update", "b"), (3, "update", "c"), (4, "update", "c"),
        (5, "truncate", None), (6, "insert", "d"), (7, "delete", None),
    ]  # fmt: skip
    assert [v.previous_id for v in found] == [None, *(v.id for v in found[:-1])]
    assert [v.next_id for v in found] == [*(v.id for v in found[1:]), None]
    assert found[1].valid_from == found[1].valid_to  # it was never the last one at any moment
    with trail.engine.connect() as connection:
        for version in found:
            if version.valid_from == version.valid_to:
                continue
            for when in (version.valid_from, version.valid_to or FUTURE):
                at = when - timedelta(microseconds=1) if when == version.valid_to else when
                row = logger.version_at(shop.article, 2, when=at, session=connection)
                assert row == version.data
    [summary] = rows(trail, logger.version_summary(shop.article, 2))
    assert (summary.versions, summary.first, summary.last) == (
        7, found[0].valid_from, found[-1].valid_from,
    )  # fmt: skip


def test_a_statement_that_began_earlier_may_come_later(trail: Trail, shop: Shop) -> None:
    trail.run("INSERT INTO article (id, title) VALUES (1, 'a')")
    with trail.engine.begin() as slow:
        start = slow.scalar(sa.text("SELECT statement_timestamp()"))
        trail.run("UPDATE article SET title = 'b'")
        # As a long statement would that had begun before.
        late_one = (
            "INSERT INTO audit.activity (transaction_id, native_transaction_id, issued_at, relid,"
            " depth, schema_name, table_name, verb, object_id, old_data, changed_data)"
            " SELECT 0, native_transaction_id, :start, relid, 1, schema_name, table_name, 'update',"
            " '1', old_data || changed_data, jsonb_build_object('title', 'c')"
            " FROM audit.activity ORDER BY id DESC LIMIT 1"
        )
        slow.execute(sa.text(late_one), {"start": start})
    insert, never, late = rows(trail, shop.logger.versions(shop.article, 1))
    assert insert.valid_to == late.valid_from == start
    assert never.valid_to < never.valid_from
    for when in (start, never.valid_from, FUTURE):
        assert titles(trail, shop, when) == {1: "c"}
        with trail.engine.connect() as connection:
            row = shop.logger.version_at(shop.article, 1, when=when, session=connection)
        assert row["title"] == "c"


def test_the_values_of_a_field(trail: Trail, shop: Shop) -> None:
    trail.run(
        "INSERT INTO article (id, price) VALUES (1, 9.90)",
        "UPDATE article SET title = 'x'",
        "UPDATE article SET price = NULL",
        "UPDATE article SET price = 12",
        "DELETE FROM article",
    )
    logger = shop.logger
    found = rows(trail, logger.field_history(shop.article, 1, field="price"))
    assert [(f.verb, f.old, f.new) for f in found] == [
        ("insert", None, Decimal("9.90")), ("update", Decimal("9.90"), None),
        ("update", None, Decimal("12.00")), ("delete", Decimal("12.00"), None),
    ]  # fmt: skip
    assert rows(trail, logger.field_history(shop.article, 1, field=shop.article.text))
    with pytest.raises(UnknownColumnError):
        logger.field_history(shop.article, 1, field="nothing")
    for hidden in ("secret", "pin"):
        with pytest.raises(InvalidOptionError, match="does not hold"):
            logger.field_history(shop.article, 1, field=hidden)


def test_one_record_is_read_by_the_index(trail: Trail, shop: Shop) -> None:
    trail.run(
        "INSERT INTO audit.activity (transaction_id, native_transaction_id, issued_at, relid,"
        " depth, schema_name, table_name, verb, object_id, changed_data) SELECT n, '1', now(), 1,"
        " 1, 'public', 'article', 'insert', (n / 20)::text, '{}'"
        " FROM generate_series(1, 20000) AS n",
        "ANALYZE audit.activity",
    )
    logger = shop.logger
    queries = {
        "versions": logger.versions(shop.article, 7),
        "summary": logger.version_summary(shop.article, 7),
        "field": logger.field_history(shop.article, 7, field="title"),
        "at an id": history.version_at(logger.activity_cls, "public", "article", "7", 100),
        "at a moment": history.version_at(logger.activity_cls, "public", "article", "7", FUTURE),
    }
    for name, query in queries.items():
        text = query.compile(trail.engine, compile_kwargs={"literal_binds": True})
        with trail.engine.begin() as connection:
            connection.execute(sa.text("SET LOCAL enable_seqscan = off"))
            plan = "\n".join(connection.exec_driver_sql(
                f"EXPLAIN {text}", execution_options={"no_parameters": True}
            ).scalars())  # fmt: skip
        assert "activity_object_idx" in plan, name
        # By the index of the records, or by a key: nowhere the whole of the trail.
        scans = [line for line in plan.splitlines() if " on activity" in line]
        assert scans
        assert plan.count("Index Cond:") >= len(scans), f"{name}: {plan}"
        assert "Seq Scan on activity" not in plan
    # The function reads a few entries of the index, and not the table.
    read = sa.text(
        "SELECT pg_stat_get_xact_tuples_returned('audit.activity'::regclass)"
        " + pg_stat_get_xact_tuples_fetched('audit.activity'::regclass)"
    )
    with trail.engine.begin() as connection:
        before = connection.scalar(read)
        single = "SELECT * FROM audit.version_of(NULL::article, '7', 'infinity')"
        assert len(connection.execute(sa.text(single)).all()) == 1
        assert connection.scalar(read) - before < 500


# -- Between, deleted, related -----------------------------------------------------------------


def test_changes_between_lead_from_one_state_to_the_other(trail: Trail, shop: Shop) -> None:
    trail.run("INSERT INTO article (id, title) VALUES (1, 'a'), (2, 'b')")
    since = last_id(trail)
    trail.run(
        "INSERT INTO author VALUES (1, 'Ada')",
        "UPDATE article SET title = 'c' WHERE id = 1",
        "DELETE FROM article WHERE id = 2",
        "INSERT INTO article (id, title) VALUES (3, 'd')",
    )
    until = last_id(trail)
    trail.run("UPDATE article SET title = 'later'")
    state = titles(trail, shop, since)
    for row in rows(trail, shop.logger.changes_between(since, until, shop.article)):
        change = row[0]
        if change.verb == "delete":
            del state[change.object_id]
        else:
            state[change.object_id] = change.data["title"]
    assert state == titles(trail, shop, until) == {1: "c", 3: "d"}
    everything = rows(trail, shop.logger.changes_between(since, until))
    assert [row[0].table_name for row in everything] == ["author", "article", "article", "article"]
    moments = [row[0].issued_at for row in everything]
    assert len(rows(trail, shop.logger.changes_between(moments[0], moments[-1]))) == 3


def test_what_is_deleted_now(trail: Trail, shop: Shop) -> None:
    logger = shop.logger
    with trail.engine.begin() as connection, logger.context(actor_id="ada", reason="cleanup"):
        connection.execute(
            sa.text(
                "INSERT INTO article (id, title) SELECT n, 't' || n FROM generate_series(1, 5) n"
            )
        )
        connection.execute(sa.text("UPDATE article SET title = 'last' WHERE id = 1"))
        connection.execute(sa.text("UPDATE article SET id = 20 WHERE id = 2"))
        for key in (1, 3, 20, 4):
            connection.execute(sa.text("DELETE FROM article WHERE id = :id"), {"id": key})
        connection.execute(sa.text("INSERT INTO article (id, title) VALUES (3, 'again')"))
    found = rows(trail, logger.deleted(shop.article))
    assert [(d.object_key, d.verb, d.data["title"]) for d in found] == [
        ("4", "delete", "t4"), ("20", "delete", "t2"), ("1", "delete", "last"),
    ]  # fmt: skip
    assert {d.reason for d in found} == {"cleanup"}
    [instance, *_] = logger.past_instances(shop.article, found)
    assert (instance.id, instance.title) == (4, "t4")
    trail.run("TRUNCATE article, label", "INSERT INTO article (id, title) VALUES (5, 'x')")
    found = rows(trail, logger.deleted(shop.article).limit(1))
    assert [(d.object_key, d.verb, d.data["title"]) for d in found] == [("3", "truncate", "again")]
    assert [d.object_key for d in rows(trail, logger.deleted(shop.article))] == [
        "3",
        "4",
        "20",
        "1",
    ]


def test_what_was_related(trail: Trail, shop: Shop) -> None:
    trail.run(
        "INSERT INTO author VALUES (1, 'Ada'), (2, 'Bob')",
        "INSERT INTO tag VALUES (1, 'red'), (2, 'blue')",
        "INSERT INTO article (id, title, author_id, parent_id) VALUES (1, 'a', 1, NULL)",
        "INSERT INTO article (id, title, author_id, parent_id) VALUES (2, 'b', 1, 1)",
        "INSERT INTO label VALUES (1, 1), (1, 2), (2, 2)",
    )
    then = last_id(trail)
    trail.run(
        "UPDATE author SET name = 'Lovelace' WHERE id = 1",
        "UPDATE article SET author_id = 2, parent_id = NULL",
        "DELETE FROM label WHERE tag_id = 2",
        "UPDATE tag SET name = 'crimson' WHERE id = 1",
    )
    now = last_id(trail)
    logger = shop.logger

    def names(model: Any, identity: int, name: str, when: int) -> list[str]:
        query = logger.related_at(model, identity, name=name, when=when)
        return [getattr(r, "title", None) or r.name for r in rows(trail, query)]

    assert names(shop.article, 1, "author", then) == ["Ada"]
    assert names(shop.article, 1, "author", now) == ["Bob"]
    assert names(shop.author, 1, "articles", then) == ["a", "b"]
    assert names(shop.author, 1, "articles", now) == []
    assert names(shop.article, 1, "tags", then) == ["red", "blue"]
    assert names(shop.article, 1, "tags", now) == ["crimson"]
    assert names(shop.article, 2, "parent", then) == ["a"]
    assert names(shop.article, 1, "children", then) == ["b"]
    assert names(shop.article, 1, "children", now) == []
    with pytest.raises(InvalidOptionError, match="no relationship 'nothing'"):
        logger.related_at(shop.article, 1, name="nothing", when=now)


# -- Instances ---------------------------------------------------------------------------------


def test_instances_of_the_past_are_read_only_and_belong_to_no_session(
    trail: Trail, shop: Shop
) -> None:
    trail.run("INSERT INTO article (id, title, body, price) VALUES (1, 'a', 't', 9.9)",
              "UPDATE article SET title = 'b'")  # fmt: skip
    when = ids(trail)[0]
    with orm.Session(trail.engine) as session:
        live: Any = session.get(shop.article, 1)
        past_: Any = shop.logger.version_at(live, when=when, form="instance", session=session)
        assert issubclass(type(past_), shop.article)
        assert (past_.title, past_.text, past_.price, past_.shout) == (
            "a",
            "t",
            Decimal("9.90"),
            "A",
        )
        assert past_.secret is None
        assert past_.audit_missing == ("secret", "pin")
        assert live.title == "b"
        for attempt in (
            lambda: setattr(past_, "title", "x"),
            lambda: setattr(past_, "other", "x"),
            lambda: delattr(past_, "title"),
            lambda: past_.author,
            lambda: session.add(past_),
            lambda: session.merge(past_),
            lambda: session.delete(past_),
            lambda: sa.inspect(past_),
        ):
            with pytest.raises(ReadOnlyError):
                attempt()
        row = shop.logger.version_at(live, when=when, form="row", session=session)
        assert row == {"id": 1, "title": "a", "body": "t", "price": Decimal("9.90"),
                       "pin": None, "author_id": None, "parent_id": None}  # fmt: skip
        assert shop.logger.version_at(live, when=when - 1, form="instance", session=session) is None
        then = shop.logger.as_of(shop.article, when)
        found: Any
        [found] = shop.logger.past_instances(shop.article, session.execute(sa.select(then)))
        assert (found.title, found.text) == ("a", "t")
        versions = session.execute(shop.logger.versions(live))
        assert [v.title for v in shop.logger.past_instances(shop.article, versions)] == ["a", "b"]
        live.title = "still writable"
        session.commit()
        assert session.get_one(shop.article, 1).title == "still writable"


# -- Rights ------------------------------------------------------------------------------------


def test_a_reader_may_and_others_may_not(trail: Trail, shop: Shop) -> None:
    trail.run("INSERT INTO article (id, title) VALUES (1, 'a')", "UPDATE article SET title = 'b'")
    for role in ("past_reader", "past_other"):
        trail.run(f"DROP ROLE IF EXISTS {role}", f"CREATE ROLE {role}")
        trail.run(f"GRANT SELECT ON article, label TO {role}")
    when = ids(trail)[0]
    query = sa.text("SELECT title FROM audit.as_of(NULL::article, activity => :id)")
    single = sa.text("SELECT title FROM audit.version_of(NULL::article, '1', activity => :id)")
    try:
        with trail.engine.begin() as connection:
            roles.grant(connection, "audit", roles.Roles(readers=["past_reader"]))
            assert shop.logger.check(connection) == ()
            connection.execute(sa.text("SET LOCAL ROLE past_reader"))
            assert connection.scalar(query, {"id": when}) == "a"
            assert connection.scalar(single, {"id": when}) == "a"
            then = shop.logger.as_of(shop.article, when)
            assert connection.scalar(sa.select(then.c.title)) == "a"
            assert connection.scalar(sa.text("SELECT audit.known_since(NULL::article)"))
            labels = "SELECT count(*) FROM audit.as_of(NULL::label, now())"
            assert connection.scalar(sa.text(labels)) == 0
            for query_ in (
                shop.logger.versions(shop.article, 1),
                shop.logger.deleted(shop.article),
            ):
                connection.execute(query_).all()
        with trail.engine.begin() as connection:
            connection.execute(sa.text("SET LOCAL ROLE past_other"))
            with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
                connection.execute(query, {"id": when})
        # A right on the function is none on the trail.
        trail.run("GRANT USAGE ON SCHEMA audit TO past_other")
        trail.run("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA audit TO past_other")
        with trail.engine.begin() as connection:
            connection.execute(sa.text("SET LOCAL ROLE past_other"))
            with pytest.raises(sa.exc.ProgrammingError, match="denied for table activity"):
                connection.execute(query, {"id": when})
        # Nor on the table.
        trail.run("REVOKE SELECT ON article FROM past_reader")
        with trail.engine.begin() as connection:
            connection.execute(sa.text("SET LOCAL ROLE past_reader"))
            with pytest.raises(sa.exc.ProgrammingError, match="denied for table article"):
                connection.execute(query, {"id": when})
    finally:
        trail.run("DROP OWNED BY past_reader, past_other", "DROP ROLE past_reader, past_other")


def test_rows_that_are_hidden_are_not_left_out_silently(trail: Trail, shop: Shop) -> None:
    trail.run(
        "INSERT INTO article (id) VALUES (1)",
        "DROP ROLE IF EXISTS past_hidden",
        "CREATE ROLE past_hidden",
    )
    trail.run(
        "ALTER TABLE article ENABLE ROW LEVEL SECURITY", "GRANT SELECT ON article TO past_hidden"
    )
    try:
        with trail.engine.begin() as connection:
            roles.grant(connection, "audit", roles.Roles(readers=["past_hidden"]))
            connection.execute(sa.text("SET LOCAL ROLE past_hidden"))
            with pytest.raises(sa.exc.DBAPIError, match="row-level security"):
                connection.execute(sa.text("SELECT * FROM audit.as_of(NULL::article, now())"))
    finally:
        trail.run("DROP OWNED BY past_hidden", "DROP ROLE past_hidden")


def test_the_checks_of_another_roles_domain_are_not_called(trail: Trail) -> None:
    trail.run("DROP ROLE IF EXISTS past_domain", "CREATE ROLE past_domain")
    try:
        trail.run("CREATE DOMAIN trap AS int", "ALTER DOMAIN trap OWNER TO past_domain")
        trail.create("CREATE TABLE thing (id int PRIMARY KEY, size trap)", "thing")
        trail.run("INSERT INTO thing VALUES (1, 1)")
        # The trail's owner is a superuser here, of whom every role may be a member.
        trail.run(
            "DROP ROLE IF EXISTS past_owner",
            "CREATE ROLE past_owner",
            "ALTER SCHEMA audit OWNER TO past_owner",
        )
        with pytest.raises(sa.exc.DBAPIError, match="another role's"):
            trail.run("SELECT * FROM audit.as_of(NULL::thing, now())")
    finally:
        trail.run(
            "DROP TABLE IF EXISTS thing",
            "DROP DOMAIN trap",
            "REASSIGN OWNED BY past_owner TO CURRENT_USER",
            "DROP OWNED BY past_owner",
            "DROP ROLE past_domain, past_owner",
        )


# -- Names, keys and settings ------------------------------------------------------------------


def test_odd_names_composite_keys_and_the_settings_of_a_client(trail: Trail) -> None:
    base: Any = declarative_base()
    logger = AuditLogger(actor_cls=None, schema_name='My "trail"')
    logger.init(base)
    trail.run('CREATE SCHEMA "o""dd"')
    table = sa.Table(
        'Ta"ble é',
        base.metadata,
        sa.Column("at", sa.DateTime(timezone=True), primary_key=True),
        sa.Column("k e'y", sa.Text, key="text_key", primary_key=True),
        sa.Column("length", sa.Interval),
        sa.Column('va"lue', sa.LargeBinary, key="value"),
        schema='o"dd',
        info={"versioned": {}},
    )
    table.create(trail.engine)
    moment = datetime(2026, 5, 4, 10, 30, 0, 500000, tzinfo=UTC)
    untouched = {"at": moment, "text_key": 'a, "b"', "length": timedelta(days=40, seconds=1)}
    with trail.engine.begin() as connection:
        connection.execute(sa.insert(table), [{**untouched, "value": b"\x00\xff"}])
        logger.install(connection)
        connection.execute(
            sa.insert(table),
            [
                {"at": moment, "text_key": "x", "value": b"1"},
                {"at": moment, "text_key": "y", "value": b"1"},
            ],
        )
        connection.execute(sa.update(table).where(table.c.text_key == "x").values(value=b"2"))
        connection.execute(sa.delete(table).where(table.c.text_key == "y"))
    with trail.engine.begin() as connection:
        for setting in (
            "TimeZone TO 'Asia/Tokyo'",
            "DateStyle TO 'SQL, DMY'",
            "bytea_output TO escape",
            "search_path TO pg_catalog",
        ):
            connection.execute(sa.text(f"SET LOCAL {setting}"))
        first = connection.scalar(sa.select(sa.func.min(logger.activity_cls.id)))
        now = logger.as_of(table, FUTURE)
        query = sa.select(now.c.text_key, now.c.value, now.c.length, now.c.at == moment).order_by(
            now.c.text_key
        )
        assert connection.execute(query).all() == [
            ('a, "b"', b"\x00\xff", timedelta(days=40, seconds=1), True),
            ("x", b"2", None, True),
        ]
        then = logger.as_of(table, first)
        values = dict(connection.execute(sa.select(then.c.text_key, then.c.value)).all())
        assert values == {'a, "b"': b"\x00\xff", "x": b"1"}
        for text_key, value in values.items():
            key = (moment, text_key)
            record = past.as_of(
                logger.schema_name, logger.audited(table), table, past.Moment(activity_id=first),
                identities.encode(key),
            )  # fmt: skip
            assert connection.execute(sa.select(record.c.value)).all() == [(value,)]
        # The driver itself reads dates in one style only.
        connection.execute(sa.text("SET LOCAL DateStyle TO ISO"))
        row = logger.version_at(table, (moment, "x"), when=first, form="row", session=connection)
        assert row == {"at": moment, "k e'y": "x", "length": None, 'va"lue': b"1"}
        story = connection.execute(logger.versions(table, (moment, "y"))).all()
        assert [v.verb for v in story] == ["insert", "delete"]
        assert [d.object_key for d in connection.execute(logger.deleted(table))] == [
            identities.encode((moment, "y"))
        ]


def test_a_key_of_another_shape_is_still_found(trail: Trail) -> None:
    trail.create("CREATE TABLE thing (id text PRIMARY KEY, name text)", "thing")
    trail.run("INSERT INTO thing VALUES ('k1', 'a')")
    first = last_id(trail)
    trail.run("DELETE FROM thing", "ALTER TABLE thing ALTER id TYPE int USING 0")
    single = "SELECT count(name) FROM audit.version_of(NULL::thing, :key, activity => :id)"
    assert trail.value(single, key="k1", id=first) == 1
    assert trail.value(single, key="k1", id=first + 1) == 0
    assert trail.value(single, key=None, id=first) == 0


def test_an_instance_has_its_composite_attributes(trail: Trail) -> None:
    base: Any = declarative_base()
    logger = AuditLogger(actor_cls=None)
    logger.init(base)

    @dataclass
    class Point:
        x: int
        y: int

    class Place(base):  # type: ignore[misc]
        __tablename__ = "place"
        __versioned__: ClassVar[dict[str, Any]] = {}
        id = sa.Column(sa.Integer, primary_key=True)
        at = orm.composite(Point, sa.Column("x", sa.Integer), sa.Column("y", sa.Integer))

    base.metadata.create_all(trail.engine)
    trail.run("INSERT INTO place VALUES (1, 2, 3), (2, NULL, NULL)")
    then = logger.as_of(Place, FUTURE)
    one, two = logger.past_instances(Place, rows(trail, sa.select(then).order_by(then.c.id)))
    assert (one.at, two.at) == (Point(2, 3), None)
