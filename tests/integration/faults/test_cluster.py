"""What happens to whole databases: dump and restore, clones, logical replication."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import sqlalchemy as sa

import demo.server
from audit_app import history
from audit_app.install import install_trail
from demo.errors import ServerError
from demo.programs import Account, run
from tests import server as servers
from tests.server import Server
from tests.trail import Trail

pytestmark = pytest.mark.xdist_group("cluster")  # the second cluster is made once

# Vacuuming would use transaction ids that a test counts on.
_SETTINGS = {"fsync": "off", "autovacuum": "off"}
_HERE = Account(None, os.geteuid(), os.getegid())
_FAR = 3_000_000  # transaction ids: more are not used up in a few seconds
_NEXT = "pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
_TIMEOUT = 60  # seconds


@pytest.fixture(scope="module")
def younger() -> Iterator[Server]:
    """A second cluster, just made: its transaction ids are low."""
    directory = Path(tempfile.mkdtemp(prefix="audit-younger-", dir=servers.place()))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("AUDIT_DATABASE_URL", raising=False)  # of the server under test
        url = sa.make_url(demo.server.start(directory, _SETTINGS))
    server = Server(url, "younger")
    try:
        yield server
    finally:
        server.close()
        demo.server.stop(directory)
        demo.server.delete(directory)
        shutil.rmtree(directory, ignore_errors=True)


def next_xid(url: str) -> int:
    """The transaction id that the cluster gives out next, if nobody else writes."""
    connection = psycopg2.connect(Server.dsn(url))
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT {_NEXT}")
            return int(cursor.fetchone()[0])  # type: ignore[index]
    finally:
        connection.close()


def use_up_xids(url: str, until: int) -> None:
    """Use up the cluster's transaction ids below ``until``, which is the next one then."""
    if until - next_xid(url) > _FAR:
        pytest.skip("the transaction ids of this server are too far ahead to repeat them")
    connection = psycopg2.connect(Server.dsn(url))
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(
                f"DO $$ BEGIN WHILE {_NEXT} < {until} LOOP "
                "PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$"
            )
    finally:
        connection.close()


def version(url: str) -> int:
    connection = psycopg2.connect(Server.dsn(url))
    try:
        return connection.server_version // 10000
    finally:
        connection.close()


def write_history(trail: Trail) -> None:
    """A history with several actors, a changed key, a suspension and a dropped column."""
    context = trail.logger.context
    with context(actor_id="ada", actor_label="Ada", reason="a start"):
        trail.run("INSERT INTO article VALUES (1, 'one', 1), (2, 'two', 2)")
    with context(actor_id="bo"):
        trail.run("UPDATE article SET id = 10 WHERE id = 1", "UPDATE article SET n = 1.0")
    with trail.engine.begin() as connection, trail.logger.disable(connection):
        connection.exec_driver_sql("UPDATE article SET name = 'hidden' WHERE id = 2")
    trail.run("DELETE FROM article WHERE id = 2")


def dump(trail: Trail, directory: Path, *options: str) -> Path:
    """Dump the database with ``pg_dump``; skip where ours is older than the server."""
    if version(trail.url) > 18:
        pytest.skip("there is no pg_dump that is as new as this server")
    file = directory / "dump"
    run("pg_dump", ["-d", Server.dsn(trail.url), "-f", str(file), *options], _HERE)
    return file


def restore_custom(file: Path, url: str) -> None:
    run("pg_restore", ["--exit-on-error", "-d", Server.dsn(url), str(file)], _HERE)


def restore_plain(file: Path, url: str) -> None:
    run(
        "psql", ["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", Server.dsn(url), "-f", str(file)], _HERE
    )


FORMATS: dict[str, tuple[str, Callable[[Path, str], None]]] = {
    "custom": ("--format=custom", restore_custom),
    "plain": ("--format=plain", restore_plain),
}


@pytest.fixture(params=list(FORMATS))
def restored(
    article: Trail, younger: Server, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Trail]:
    """A copy of a database with history, in a cluster that has yet to reach its transaction ids."""
    # Ahead of what the younger cluster has used in other tests, and needs to restore.
    use_up_xids(article.url, next_xid(younger.url_of("postgres")) + 10_000)
    write_history(article)
    option, restore = FORMATS[request.param]
    file = dump(article, tmp_path, option)
    with younger.database() as url:
        restore(file, url)
        opened = Trail(url)
        yield opened
        opened.close()


def findings(trail: Trail) -> list[str]:
    found = trail.value(
        "SELECT array_agg(concat_ws(' ', code, relation, message)) "
        "FROM audit.check_table('public.article', NULL)"
    )
    return list(found or [])


def timeline(trail: Trail, key: int) -> list[tuple[str, str | None, Any]]:
    """The record's history, oldest first, with actors."""
    query = history.of_record(trail.logger.activity_cls, "public", "article", key)
    with sa.orm.Session(trail.engine) as session:
        found = [(a.verb, a.transaction.actor_id, a.changed_data) for a in session.scalars(query)]
    return found[::-1]


def test_a_dump_is_restored(article: Trail, restored: Trail) -> None:
    """pg_dump, and restoring into another cluster: the trail is the same and goes on."""
    assert restored.changes() == article.changes()
    assert timeline(restored, 10) == timeline(article, 10)
    assert [verb for verb, *_ in timeline(restored, 10)] == ["insert", "update", "update"]
    if version(restored.url) != version(article.url):
        # The functions are written for the major on which they were made.
        restored.track("article")
    assert findings(restored) == []

    before = len(restored.changes())
    with restored.logger.context(actor_id="cleo"):
        restored.run(
            "INSERT INTO article VALUES (3, 'three', 3)",
            "UPDATE article SET name = 'ten' WHERE id = 10",
            "DELETE FROM article WHERE id = 3",
            "TRUNCATE article",
        )
    added = restored.changes()[before:]
    assert [(c.verb, c.actor) for c in added] == [
        (verb, "cleo") for verb in ("insert", "update", "delete", "truncate")
    ]
    assert timeline(restored, 10)[-1] == ("update", "cleo", {"name": "ten"})
    for statement in ("DELETE FROM audit.activity", "TRUNCATE audit.transaction"):
        with pytest.raises(sa.exc.ProgrammingError, match="append-only"):
            restored.run(statement)


def test_transaction_ids_repeat(restored: Trail) -> None:
    """The younger cluster gives out the very ids that the restored trail is full of."""
    before = restored.changes()
    rows = restored.transactions()
    rows = [next(r for r in rows if r.actor_id == name) for name in ("ada", "bo")]
    for row in rows:
        use_up_xids(restored.url, row.native_transaction_id)
        with restored.engine.begin() as connection:
            # An attacker, or chance, also has the memo name the row of the same number.
            connection.exec_driver_sql(
                "SELECT set_config('audit_app.transaction', concat(ctid, ' '), false) "
                f"FROM audit.transaction WHERE id = {row.id}"
            )
            connection.exec_driver_sql(f"INSERT INTO article VALUES ({row.id + 100}, 'new', 1)")
            assert connection.scalar(sa.text("SELECT pg_current_xact_id()::text::bigint")) == (
                row.native_transaction_id
            )
    assert restored.changes()[: len(before)] == before
    assert [(c.verb, c.actor) for c in restored.changes()[len(before) :]] == [("insert", None)] * 2
    with sa.orm.Session(restored.engine) as session:
        for row in rows:
            fresh = session.get_one(restored.logger.transaction_cls, row.id)
            assert {a.native_transaction_id for a in fresh.activities} == {
                row.native_transaction_id
            }
            assert all("new" not in str(a.changed_data) for a in fresh.activities)


def test_a_suspension_of_the_same_number(restored: Trail) -> None:
    """A suspension in the restored trail bears the id of the present transaction."""
    activity = restored.logger.activity_cls
    with sa.orm.Session(restored.engine) as session:
        mark = session.scalars(sa.select(activity).where(activity.verb == "suspend")).one()
    # Its end is not in the dump, as if the session had crashed.
    restored.script(
        "ALTER TABLE audit.activity DISABLE TRIGGER USER;"
        "DELETE FROM audit.activity WHERE verb = 'resume';"
        "ALTER TABLE audit.activity ENABLE TRIGGER USER"
    )
    use_up_xids(restored.url, mark.native_transaction_id)
    with restored.engine.begin() as connection:
        connection.exec_driver_sql(
            "SELECT set_config('audit_app.suspension', concat(id, ctid), false) "
            f"FROM audit.activity WHERE id = {mark.id}"
        )
        connection.exec_driver_sql("INSERT INTO article VALUES (200, 'seen', 1)")
        assert connection.scalar(sa.text("SELECT pg_current_xact_id()::text::bigint")) == (
            mark.native_transaction_id
        )
    assert restored.changes()[-1].object_id == "200"


def test_types_get_other_numbers(article: Trail, younger: Server, tmp_path: Path) -> None:
    """The application's own types have other oids in the restored database."""
    article.script(
        "CREATE TYPE mood AS ENUM ('ok', 'bad'); ALTER TABLE article ADD COLUMN mood mood;"
        "INSERT INTO article VALUES (1, 'x', 1, 'ok')"
    )
    article.track("article")
    file = dump(article, tmp_path)
    with younger.database() as url:
        restore_plain(file, url)
        copy = Trail(url)
        try:
            copy.run("UPDATE article SET mood = 'bad'")
            assert copy.changes()[-1].changed == {"mood": "bad"}
            if version(url) == version(article.url):
                assert findings(copy) == []
        finally:
            copy.close()


def test_a_column_was_dropped_before_the_dump(
    article: Trail, younger: Server, tmp_path: Path
) -> None:
    """A restored table numbers its columns anew where one had been dropped."""
    article.run("ALTER TABLE article DROP COLUMN name")
    article.track("article")
    assert findings(article) == []
    article.run("INSERT INTO article VALUES (1, 1)")
    file = dump(article, tmp_path)
    with younger.database() as url:
        restore_plain(file, url)
        copy = Trail(url)
        try:
            copy.run("INSERT INTO article VALUES (2, 2)", "UPDATE article SET n = 3 WHERE id = 1")
            assert [(c.object_id, c.changed) for c in copy.changes()] == [
                ("1", {"id": 1, "n": 1}),
                ("2", {"id": 2, "n": 2}),
                ("1", {"n": 3}),
            ]
            # "Drift", for the function was written for the columns' old places.
            assert [finding.split()[0] for finding in findings(copy)] == ["drift"]
            copy.track("article")
            assert findings(copy) == []
        finally:
            copy.close()


@pytest.mark.parametrize("disabled", [False, True])
def test_a_restore_of_the_data_only(
    article: Trail, younger: Server, tmp_path: Path, *, disabled: bool
) -> None:
    """--data-only into an installed trail: refused or doubled without --disable-triggers.

    With that option the data are right. PostgreSQL enables the triggers afterwards as ordinary
    ones, which check names, and installing again puts right.
    """
    write_history(article)
    schema = tmp_path / "schema"
    schema.mkdir()
    with younger.database() as url:
        restore_plain(dump(article, schema, "--schema-only"), url)
        data = dump(article, tmp_path, "--format=custom")
        options = ["--data-only", "-d", Server.dsn(url)]
        copy = Trail(url)
        try:
            if not disabled:
                with pytest.raises(ServerError, match="duplicate key"):
                    run("pg_restore", [*options, str(data)], _HERE)
                # One of the two is incomplete: COPY of the one made rows of the other.
                articles = "SELECT count(*) FROM article"
                assert copy.changes() != article.changes() or (
                    copy.value(articles) != article.value(articles)
                )
                return
            run("pg_restore", [*options, "--disable-triggers", "--exit-on-error", str(data)], _HERE)
            assert copy.changes() == article.changes()
            assert any(finding.startswith("trigger") for finding in findings(copy))
            with copy.engine.begin() as connection:  # as "flask audit install" does
                install_trail(connection, copy.logger.trail, anew=True)
            copy.track("article")
            assert findings(copy) == []
            assert copy.value("SELECT count(*) FROM pg_trigger WHERE tgenabled <> 'A'") == 0
            copy.run("INSERT INTO article VALUES (4, 'four', 4)")
            assert len(copy.changes()) == len(article.changes()) + 1
        finally:
            copy.close()


def test_a_database_is_cloned(server: Server, article: Trail) -> None:
    """CREATE DATABASE … TEMPLATE: the copy's history goes on by itself."""
    write_history(article)
    before = article.changes()
    article.engine.dispose()
    with server.database(sa.make_url(article.url).database or "") as url:
        copy = Trail(url)
        try:
            assert findings(copy) == []
            with copy.logger.context(actor_id="cleo"):
                copy.run("INSERT INTO article VALUES (3, 'three', 3)")
            assert copy.changes()[:-1] == before
            assert copy.changes()[-1].actor == "cleo"
        finally:
            copy.close()
    assert article.changes() == before


# -- Logical replication -----------------------------------------------------------------------


@pytest.fixture
def subscriber(server: Server, article: Trail, trail_template: str) -> Iterator[Trail]:
    """A database of the same cluster with its own trail, to subscribe to ``article`` from."""
    if article.value("SHOW wal_level") != "logical":
        pytest.skip("this server has another wal_level than logical")
    article.run("CREATE PUBLICATION articles FOR TABLE article")
    with server.database(trail_template) as url:
        opened = Trail(url)
        opened.run("CREATE TABLE article (id int PRIMARY KEY, name text, n numeric)")
        try:
            yield opened
        finally:
            _unsubscribe(opened, article)
            opened.close()


def _slot(subscriber: Trail) -> str:
    return f"{sa.make_url(subscriber.url).database}_slot"


def subscribe(subscriber: Trail, publisher: Trail) -> None:
    # Made by hand: CREATE SUBSCRIPTION would wait for its own transaction within one cluster.
    slot = _slot(subscriber)
    publisher.value("SELECT pg_create_logical_replication_slot(:s, 'pgoutput')", s=slot)
    dsn = Server.dsn(publisher.url).replace("'", "''")
    with subscriber.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.exec_driver_sql(
            f"CREATE SUBSCRIPTION \"{slot}\" CONNECTION '{dsn.replace('%', '%%')}' "
            f"PUBLICATION articles WITH (create_slot = false, copy_data = false, "
            f"slot_name = '{slot}')"
        )


def _unsubscribe(subscriber: Trail, publisher: Trail) -> None:
    slot = _slot(subscriber)
    with subscriber.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        if connection.scalar(sa.text("SELECT count(*) FROM pg_stat_subscription")):
            connection.exec_driver_sql(f'ALTER SUBSCRIPTION "{slot}" DISABLE')
            connection.exec_driver_sql(f'ALTER SUBSCRIPTION "{slot}" SET (slot_name = NONE)')
            connection.exec_driver_sql(f'DROP SUBSCRIPTION "{slot}"')
    gone = "SELECT count(*) = 0 FROM pg_replication_slots WHERE slot_name = :s AND active"
    wait(lambda: publisher.value(gone, s=slot))
    publisher.value(
        "SELECT count(pg_drop_replication_slot(slot_name)) FROM pg_replication_slots "
        "WHERE slot_name = :s",
        s=slot,
    )


def wait(until: Callable[[], Any]) -> None:
    deadline = time.monotonic() + _TIMEOUT
    while not until():
        assert time.monotonic() < deadline, "the replication takes too long"
        time.sleep(0.05)


def replicate(publisher: Trail, subscriber: Trail) -> None:
    """Write on one side, and wait until the other side has it."""
    publisher.run(
        "INSERT INTO article VALUES (1, 'x', 1)",
        "UPDATE article SET name = 'y'",
        "DELETE FROM article",
        "INSERT INTO article VALUES (2, 'last', 1)",
    )
    wait(lambda: subscriber.value("SELECT count(*) FROM article WHERE name = 'last'"))


def test_the_apply_worker_and_statement_triggers(article: Trail, subscriber: Trail) -> None:
    """Logical replication writes into a tracked table, which fires no statement's triggers."""
    subscriber.track("article")
    assert findings(subscriber) == []
    subscribe(subscriber, article)
    replicate(article, subscriber)
    assert subscriber.changes() == []
    assert [finding.split()[0] for finding in findings(subscriber)] == ["subscription"]


def test_the_apply_worker_and_row_triggers(article: Trail, subscriber: Trail) -> None:
    """The same with the option level = "row": everything is captured, with nobody as actor."""
    subscriber.track("article", options={"level": "row"})
    subscribe(subscriber, article)
    with article.logger.context(actor_id="ada"):
        replicate(article, subscriber)
    assert [(c.verb, c.object_id, c.actor) for c in subscriber.changes()] == [
        ("insert", "1", None),
        ("update", "1", None),
        ("delete", "1", None),
        ("insert", "2", None),
    ]
    assert findings(subscriber) == []
    assert [change.actor for change in article.changes()] == ["ada"] * 4


@pytest.mark.parametrize("free", [2, 5, 8])
def test_a_lock_table_that_is_used_up(younger: Server, free: int) -> None:
    """With on_error "degrade": the session leaves too few locks for the trail, yet enough for the write."""
    with younger.database() as url:
        article = Trail(url)
        with article.engine.begin() as connection:
            article.logger.install(connection)
        article.run("CREATE TABLE article (id int PRIMARY KEY, name text, n numeric)")
        article.track("article", options={"on_error": "degrade"})
        use_up_locks_and_write(url, free)
        written = article.value("SELECT count(*) FROM article WHERE id = 1")
        changes = article.changes()
        article.close()
    assert written == sum(c.object_id != "99" for c in changes)


def use_up_locks_and_write(url: str, free: int) -> None:
    """Insert a row while the cluster has ``free`` places left for locks, if it lets itself."""
    engine = sa.create_engine(url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as writer, engine.connect() as hog:
        run = writer.exec_driver_sql
        run("CREATE SCHEMA crowd")
        for start in range(0, 600, 100):
            run(
                f"DO $$ BEGIN FOR i IN {start}..{start + 99} LOOP "
                "EXECUTE 'CREATE TABLE crowd.t' || i || ' ()'; END LOOP; END $$"
            )
        run("PREPARE ins AS INSERT INTO article VALUES (1, 'x', 1)")
        run("INSERT INTO article VALUES (99, 'x', 1)")
        run("BEGIN")
        run("EXPLAIN UPDATE article SET name = 'y' WHERE id = 1")
        run("EXPLAIN EXECUTE ins")
        run("SELECT pg_current_xact_id()")
        run(
            "DO $$ BEGIN FOR i IN 0..599 LOOP "
            "EXECUTE 'LOCK TABLE crowd.t' || i || ' IN ACCESS SHARE MODE'; END LOOP; END $$"
        )
        hog.exec_driver_sql(
            "DO $$ BEGIN FOR i IN 1..1000000 LOOP PERFORM pg_advisory_lock(i); END LOOP; "
            "EXCEPTION WHEN out_of_memory THEN NULL; END $$"
        )
        for number in range(1, free + 1):
            hog.exec_driver_sql(f"SELECT pg_advisory_unlock({number})")
        try:
            run("EXECUTE ins")
        except sa.exc.DBAPIError:
            run("ROLLBACK")
        hog.exec_driver_sql("SELECT pg_advisory_unlock_all()")
        run("COMMIT")
