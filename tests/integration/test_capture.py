"""What the triggers record: every verb, every way of writing."""

from __future__ import annotations

import io
from typing import Any

import psycopg2
import pytest
import sqlalchemy as sa

from tests.server import Server
from tests.trail import Change, Trail

ARTICLE = "CREATE TABLE article (id int PRIMARY KEY, name text, rating numeric)"


@pytest.fixture
def article(trail: Trail) -> Trail:
    trail.create(ARTICLE, "article")
    return trail


def test_each_verb_leaves_one_activity(article: Trail) -> None:
    article.run(
        "INSERT INTO article VALUES (1, 'a', 1.50)",
        "UPDATE article SET name = 'b'",
        "DELETE FROM article",
        "TRUNCATE article",
    )
    first = {"id": 1, "name": "a", "rating": pytest.approx(1.5)}
    assert article.changes() == [
        Change("insert", "article", "1", None, first),
        Change("update", "article", "1", first, {"name": "b"}),
        Change("delete", "article", "1", {**first, "name": "b"}, None),
        Change("truncate", "article", None, {"rows": 0}, None),
    ]


def test_a_write_that_changes_nothing_leaves_nothing(article: Trail) -> None:
    article.run("INSERT INTO article VALUES (1, 'a', 1)")
    article.run(
        "UPDATE article SET name = 'a'",
        "UPDATE article SET name = 'x' WHERE false",
        "DELETE FROM article WHERE false",
        "INSERT INTO article SELECT 2, 'x', 1 WHERE false",
    )
    assert len(article.changes()) == 1
    assert len(article.transactions()) == 1


def test_a_null_is_recorded_as_a_null(article: Trail) -> None:
    article.run("INSERT INTO article VALUES (1, 'a', 1)", "UPDATE article SET name = NULL")
    assert article.changes()[1].changed == {"name": None}
    article.run("UPDATE article SET name = 'b'")
    assert article.changes()[2].old["name"] is None
    assert article.changes()[2].changed == {"name": "b"}


def test_bulk_statements_record_each_row_with_its_own_values(article: Trail) -> None:
    article.run(
        "INSERT INTO article SELECT g, 'n' || g, g FROM generate_series(1, 500) g",
        "UPDATE article SET name = name || '!', rating = rating + 1 WHERE id % 2 = 0",
        "DELETE FROM article WHERE id > 400",
    )
    changes = article.changes()
    inserts = [c for c in changes if c.verb == "insert"]
    updates = [c for c in changes if c.verb == "update"]
    assert [int(c.object_id or "") for c in inserts] == list(range(1, 501))
    assert len(updates) == 250
    for update in updates:
        number = int(update.object_id or "")
        assert update.old == {"id": number, "name": f"n{number}", "rating": number}
        assert update.changed == {"name": f"n{number}!", "rating": number + 1}
    assert len([c for c in changes if c.verb == "delete"]) == 100
    assert len(article.transactions()) == 3


def test_upserts_and_merges_are_what_they_did(article: Trail) -> None:
    article.run(
        "INSERT INTO article VALUES (1, 'a', 1)",
        "INSERT INTO article VALUES (1, 'b', 1), (2, 'c', 2) "
        "ON CONFLICT (id) DO UPDATE SET name = excluded.name",
        "INSERT INTO article VALUES (1, 'z', 9) ON CONFLICT DO NOTHING",
        "MERGE INTO article a USING (VALUES (1, 'm'), (2, NULL), (3, 'n')) v(id, name) "
        "ON a.id = v.id WHEN MATCHED AND v.name IS NULL THEN DELETE "
        "WHEN MATCHED THEN UPDATE SET name = v.name "
        "WHEN NOT MATCHED THEN INSERT (id, name) VALUES (v.id, v.name)",
    )
    seen = [(c.verb, c.object_id) for c in article.changes()]
    assert seen[0] == ("insert", "1")
    assert sorted(seen[1:3]) == [("insert", "2"), ("update", "1")]
    assert sorted(seen[3:]) == [("delete", "2"), ("insert", "3"), ("update", "1")]


def test_copy_is_captured(article: Trail) -> None:
    connection = psycopg2.connect(Server.dsn(article.url))
    try:
        with connection, connection.cursor() as cursor:
            cursor.copy_expert("COPY article FROM STDIN", io.StringIO("1\ta\t1\n2\tb\t2\n"))
    finally:
        connection.close()
    assert [(c.verb, c.object_id) for c in article.changes()] == [("insert", "1"), ("insert", "2")]


def test_cascades_are_captured(trail: Trail) -> None:
    trail.run(ARTICLE)
    trail.create(
        "CREATE TABLE tag (article_id int REFERENCES article ON DELETE CASCADE ON UPDATE CASCADE, "
        "name text, PRIMARY KEY (article_id, name))",
        "tag",
    )
    trail.track("article")
    trail.run(
        "INSERT INTO article VALUES (1, 'a', 1)",
        "INSERT INTO tag VALUES (1, 'x'), (1, 'y')",
        "UPDATE article SET id = 2",
        "DELETE FROM article",
    )
    seen = [(c.verb, c.table, c.object_id) for c in trail.changes()]
    assert sorted(seen[3:6]) == [
        ("update", "article", "1"),
        ("update", "tag", '["1", "x"]'),
        ("update", "tag", '["1", "y"]'),
    ]
    assert sorted(seen[6:]) == [
        ("delete", "article", "2"),
        ("delete", "tag", '["2", "x"]'),
        ("delete", "tag", '["2", "y"]'),
    ]


def test_excluded_columns_are_never_stored_and_never_count(trail: Trail) -> None:
    trail.create(
        "CREATE TABLE person (id int PRIMARY KEY, name text, secret text)", "person", ["secret"]
    )
    trail.run(
        "INSERT INTO person VALUES (1, 'a', 's3cret')",
        "UPDATE person SET secret = 's3cret too'",
        "UPDATE person SET name = 'b', secret = 's3cret three'",
        "DELETE FROM person",
    )
    assert [(c.verb, c.old, c.changed) for c in trail.changes()] == [
        ("insert", None, {"id": 1, "name": "a"}),
        ("update", {"id": 1, "name": "a"}, {"name": "b"}),
        ("delete", {"id": 1, "name": "b"}, None),
    ]
    assert not trail.value(
        "SELECT count(*) FROM audit.activity a WHERE CAST(a AS text) LIKE '%s3cret%'"
    )


@pytest.mark.parametrize(
    ("type_", "literal", "stored"),
    [
        ("uuid", "'7b1c4c1e-3c5e-4d34-9a0e-3c1a2b3c4d5e'", "7b1c4c1e-3c5e-4d34-9a0e-3c1a2b3c4d5e"),
        ("text", "'a/b \"c\" ü'", 'a/b "c" ü'),
        ("date", "'2024-02-29'", "2024-02-29"),
        ("boolean", "true", "true"),
        ("bigint", "9223372036854775807", "9223372036854775807"),
        ("timestamptz", "'2024-01-01 12:00+02'", "2024-01-01 10:00:00+00"),
        ("bytea", "'\\xdeadbeef'", "\\xdeadbeef"),
    ],
)
def test_any_type_may_be_the_key(trail: Trail, type_: str, literal: str, stored: str) -> None:
    trail.create(f"CREATE TABLE thing (id {type_} PRIMARY KEY)", "thing")
    with trail.engine.begin() as connection:
        connection.exec_driver_sql("SET TimeZone = 'Asia/Tokyo'; SET bytea_output = 'escape'")
        connection.exec_driver_sql(f"INSERT INTO thing VALUES ({literal})")
    assert trail.changes()[0].object_id == stored


def test_a_key_longer_than_an_index_entry_is_stored_by_its_digest(trail: Trail) -> None:
    trail.create("CREATE TABLE thing (id text PRIMARY KEY, n int)", "thing")
    key = "".join(chr(0x4E00 + (i * 7919) % 20000) for i in range(850))  # 2,550 bytes
    trail.run("INSERT INTO thing VALUES (:key, 1)", key=key)
    (change,) = trail.changes()
    assert change.object_id is not None
    assert change.object_id.startswith(key[:100] + "… sha256=")
    assert change.changed["id"] == key
    with sa.orm.Session(trail.engine) as session:
        activity = trail.logger.activity_cls
        assert session.scalars(sa.select(activity).where(activity.object_id == key)).one()


HOSTILE = [
    ('"default"', '"rabbits;"', ["id", "it's", "a,b", "Mixed Case", "order"]),
    ('"Ünï"', '"§ @schema@"', ["_table_name", "ordinal", "n", "o", "r", "tg_op", "w", "c1"]),
    ("public", '"%s"', ["%(x)s", ":name", 'quo"te', "back\\slash", "$1", "_operation"]),
    ("public", '"' + "x" * 63 + '"', ["tg_relid", "_excluded", "relid", "verb", "object_id"]),
]


@pytest.mark.parametrize(("schema", "table", "columns"), HOSTILE)
def test_hostile_names_work(trail: Trail, schema: str, table: str, columns: list[str]) -> None:
    quoted = ['"' + column.replace('"', '""') + '"' for column in columns]
    definition = ", ".join(f"{column} text" for column in quoted)
    trail.script(
        f"CREATE SCHEMA IF NOT EXISTS {schema};"
        f'CREATE TABLE {schema}.{table} ("key\'s" int PRIMARY KEY, {definition}, '
        '"never, \'ever" text)'
    )
    trail.track(f"{schema}.{table}", ["never, 'ever"])
    trail.script(
        f"INSERT INTO {schema}.{table} VALUES (1, {', '.join(['NULL'] * len(quoted))}, 'x')"
    )
    trail.script(
        f"UPDATE {schema}.{table} SET "
        + ", ".join(f"{column} = 'v{index}'" for index, column in enumerate(quoted))
    )
    trail.script(f'UPDATE {schema}.{table} SET "key\'s" = 2')
    trail.script(f"DELETE FROM {schema}.{table}; TRUNCATE {schema}.{table}")
    insert, update, rekey, delete, truncate = trail.changes()
    values = {column: f"v{index}" for index, column in enumerate(columns)}
    assert insert.changed == {"key's": 1, **dict.fromkeys(columns)}
    assert update.changed == values
    assert rekey.changed == {"key's": 2}
    assert delete.old == {"key's": 2, **values}
    assert truncate.old == {"rows": 0}


def test_partitions_are_captured_however_they_are_written_to(trail: Trail) -> None:
    trail.script(
        "CREATE TABLE event (id int, day date, note text, PRIMARY KEY (id, day)) "
        "PARTITION BY RANGE (day);"
        "CREATE TABLE event_2023 PARTITION OF event "
        "FOR VALUES FROM ('2023-01-01') TO ('2024-01-01');"
        "CREATE TABLE event_2024 PARTITION OF event "
        "FOR VALUES FROM ('2024-01-01') TO ('2025-01-01')"
    )
    trail.track("event")
    trail.run(
        "INSERT INTO event VALUES (1, '2023-05-05', 'a')",
        "INSERT INTO event_2023 VALUES (2, '2023-06-06', 'b')",
        "UPDATE event SET day = '2024-05-05' WHERE id = 1",
        "UPDATE event_2024 SET note = 'c'",
        "DELETE FROM event_2023",
        "TRUNCATE event",
    )
    seen: list[tuple[Any, ...]] = [(c.verb, c.table, c.object_id) for c in trail.changes()]
    assert seen == [
        ("insert", "event", '["1", "2023-05-05"]'),
        ("insert", "event", '["2", "2023-06-06"]'),
        ("update", "event", '["1", "2023-05-05"]'),
        ("update", "event", '["1", "2024-05-05"]'),
        ("delete", "event", '["2", "2023-06-06"]'),
        ("truncate", "event", None),  # one for each partition, which lost its own rows
        ("truncate", "event", None),
    ]
    trail.run("TRUNCATE event_2023")
    assert [c.table for c in trail.changes()[7:]] == ["event"]
