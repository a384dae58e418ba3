"""What the benchmarks measure is what they say: the wire, the floor, the trail that is read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
import sqlalchemy as sa

from benchmarks import fill
from benchmarks.wire import Wire
from benchmarks.workers.base import bulk_sql
from benchmarks.workers.sqlalchemy_side import AuditApp, Floor
from tests import server as servers
from tests.trail import Trail


@pytest.fixture
def wire(database_url: str) -> Iterator[tuple[Wire, str]]:
    """A wire to the server, and the connection string of a client that uses it."""
    url = sa.make_url(database_url)
    host = url.query.get("host")
    if not isinstance(host, str) or not host.startswith("/"):
        pytest.skip("the server has no Unix socket")
    with Wire(Path(host)) as opened:
        yield opened, f"host={opened.directory} user={url.username} dbname={url.database}"


def test_the_wire_counts_how_often_a_client_waits(wire: tuple[Wire, str]) -> None:
    opened, dsn = wire
    connection = psycopg2.connect(dsn)
    opened.reset()
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")  # BEGIN goes before it
        cursor.execute("SELECT 2; SELECT repeat('x', 300000)")  # one message, an answer in pieces
        assert [len(row[0]) for row in cursor.fetchall()] == [300000]
    connection.commit()
    traffic = opened.reset()
    assert traffic.queries == [
        "BEGIN",
        "SELECT 1",
        "SELECT 2; SELECT repeat('x', 300000)",
        "COMMIT",
    ]
    assert traffic.trips == 4
    assert opened.reset().trips == 0
    connection.close()


def test_the_wire_counts_a_statement_of_the_extended_protocol_once(wire: tuple[Wire, str]) -> None:
    psycopg = pytest.importorskip("psycopg")
    opened, dsn = wire
    with psycopg.connect(dsn, autocommit=True) as connection:
        opened.reset()
        assert connection.execute("SELECT %s::int + 1", (41,)).fetchone() == (42,)
        traffic = opened.reset()
    assert (traffic.trips, traffic.queries) == (1, ["SELECT $1::int + 1"])


def test_the_floor_writes_rows_of_the_same_size_with_the_same_indexes(
    server: servers.Server,
) -> None:
    found = {}
    for cls in (AuditApp, Floor):
        with server.database() as url:
            worker = cls(url)
            worker.create()
            worker.prepare(200)
            sizes = {}
            for verb in ("insert", "update", "delete"):
                worker.bulk(verb, 200, warm=False)
                sizes[verb] = worker.value(
                    "SELECT array[count(*), avg(pg_column_size(a.*)), "
                    "(SELECT avg(pg_column_size(t.*)) FROM audit.transaction AS t)]::float[] "
                    "FROM audit.activity AS a"
                )
            found[cls.__name__] = (sizes, worker.indexes())
            worker.close()
    (ours, our_indexes), (floor, floor_indexes) = found["AuditApp"], found["Floor"]
    assert our_indexes == floor_indexes
    assert len(our_indexes["audit.activity"]) == 4
    for verb, (rows, of_row, of_transaction) in ours.items():
        assert rows == floor[verb][0] == 200
        assert of_row == pytest.approx(floor[verb][1], rel=0.02)
        assert of_transaction == pytest.approx(floor[verb][2], rel=0.1)


def test_a_filled_trail_is_one_that_the_triggers_could_have_written(trail: Trail) -> None:
    trail.create("CREATE TABLE article (id int PRIMARY KEY, title text)", "article")
    trail.run("INSERT INTO article VALUES (1, 'before')")
    before = _indexes(trail)
    size = fill.Size(6_000, ends="2030-01-01")
    connection = psycopg2.connect(servers.Server.dsn(trail.url))
    connection.autocommit = True
    fill.fill(connection, size)
    connection.close()
    assert _indexes(trail) == before
    assert trail.value("SELECT count(*) FROM audit.activity") == size.activities + 1
    assert trail.value("SELECT count(*) FROM audit.transaction") == size.transactions + 1
    # Every change has its transaction, and every transaction changes.
    assert not trail.value(
        "SELECT count(*) FROM audit.activity AS a FULL JOIN audit.transaction AS t "
        "ON t.id = a.transaction_id WHERE t.id IS NULL OR a.id IS NULL"
    )
    # A record begins with its insertion, once, and ends with its deletion.
    odd = (
        "SELECT count(*) FROM (SELECT verb, row_number() OVER w AS place, count(*) OVER "
        "(PARTITION BY object_id) AS changes FROM audit.activity WHERE id > 1 "
        "WINDOW w AS (PARTITION BY object_id ORDER BY id)) AS a "
        "WHERE (verb = 'insert') <> (place = 1) OR (verb = 'delete' AND place <> changes)"
    )
    assert not trail.value(odd)
    assert trail.value("SELECT count(*) FROM audit.activity WHERE verb = 'delete'") > 0
    # What is written afterwards goes on behind it.
    trail.run("UPDATE article SET title = 'after'")
    assert trail.value("SELECT max(id) FROM audit.activity") == size.activities + 2


def test_bulk_statements_write_as_many_rows_as_they_say(trail: Trail) -> None:
    trail.run(
        "CREATE TABLE article (id int PRIMARY KEY, title text, body text, rating numeric, "
        "at timestamptz, n int)"
    )
    with trail.engine.begin() as connection:
        for verb, last in (("insert", 30), ("update", 20), ("delete", 10)):
            assert connection.execute(sa.text(bulk_sql(verb, 1, last))).rowcount == last
    # About 300 bytes, as the design's table has it.
    assert 270 <= trail.value("SELECT avg(pg_column_size(article.*)) FROM article") <= 340


def _indexes(trail: Trail) -> list[str]:
    with trail.engine.begin() as connection:
        query = "SELECT indexdef FROM pg_indexes WHERE schemaname = 'audit' ORDER BY 1"
        return list(connection.scalars(sa.text(query)))
