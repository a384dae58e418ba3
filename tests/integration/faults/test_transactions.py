"""Savepoints, two-phase commit, autocommit, pools and poolers: nothing too much, nobody confused."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg2
import psycopg2.extensions
import pytest
import sqlalchemy as sa

from tests.integration.faults import pooler
from tests.trail import Trail

DRIVERS: dict[str, dict[str, Any]] = {
    "psycopg2": {},
    # A statement prepared in one server session is unknown in the next one of a pooler.
    "psycopg": {"prepare_threshold": None},
}


@pytest.fixture(params=list(DRIVERS))
def engine(article: Trail, request: pytest.FixtureRequest) -> Iterator[sa.Engine]:
    """An engine of each driver, with a pool of one connection."""
    made = connect(article, article.url, request.param, pool_size=1)
    yield made
    made.dispose()


def connect(trail: Trail, url: str, driver: str, *, pool_size: int) -> sa.Engine:
    engine = sa.create_engine(
        sa.make_url(url).set(drivername=f"postgresql+{driver}"),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=30,
        connect_args=DRIVERS[driver],
    )
    trail.logger.attach(engine)
    return engine


def insert(connection: sa.Connection, number: int, name: str = "x") -> None:
    connection.execute(
        sa.text("INSERT INTO article VALUES (:id, :name, 1)"), {"id": number, "name": name}
    )


def written(trail: Trail) -> list[tuple[str | None, str | None]]:
    """The identity in each activity, and the actor."""
    return [(change.object_id, change.actor) for change in trail.changes()]


# -- What did not happen leaves nothing --------------------------------------------------------


def test_a_rollback(article: Trail, engine: sa.Engine) -> None:
    """ROLLBACK of a transaction that wrote: neither activities nor a transaction row stay."""
    with article.logger.context(actor_id="ada"), engine.connect() as connection:
        insert(connection, 1)
        connection.rollback()
        insert(connection, 2)
        connection.commit()
        insert(connection, 3)
        connection.rollback()
    assert written(article) == [("2", "ada")]
    assert len(article.transactions()) == 1


def test_a_failed_statement(article: Trail, engine: sa.Engine) -> None:
    """A statement fails, and with it the transaction; the next one starts from nothing."""
    context = article.logger.context
    with engine.connect() as connection:
        with context(actor_id="ada"):
            insert(connection, 1)
            with pytest.raises(sa.exc.IntegrityError):
                insert(connection, 1)
        connection.rollback()
        with context(actor_id="bo"):
            insert(connection, 2)
        connection.commit()
    assert written(article) == [("2", "bo")]
    assert [row.actor_id for row in article.transactions()] == ["bo"]


def test_a_savepoint_is_rolled_back(article: Trail, engine: sa.Engine) -> None:
    """Part of a transaction is undone, and with it the first row of another actor."""
    context = article.logger.context
    with engine.begin() as connection:
        with context(actor_id="ada"):
            insert(connection, 1)
        savepoint = connection.begin_nested()
        with context(actor_id="bo"):
            insert(connection, 2)
        savepoint.rollback()
        with context(actor_id="ada"):
            insert(connection, 3)
    assert written(article) == [("1", "ada"), ("3", "ada")]
    assert [row.actor_id for row in article.transactions()] == ["ada"]


def test_the_first_write_was_undone(article: Trail, engine: sa.Engine) -> None:
    """The context was sent inside of a savepoint, whose rollback takes the setting back."""
    with article.logger.context(actor_id="ada"), engine.begin() as connection:
        savepoint = connection.begin_nested()
        insert(connection, 1)
        savepoint.rollback()
        insert(connection, 2)
    assert written(article) == [("2", "ada")]
    assert len(article.transactions()) == 1


def test_savepoints_within_savepoints(article: Trail, engine: sa.Engine) -> None:
    """A savepoint that was released goes down with the one around it."""
    with article.logger.context(actor_id="ada"), engine.begin() as connection:
        outer = connection.begin_nested()
        with connection.begin_nested():
            insert(connection, 1)
        outer.rollback()
        with connection.begin_nested():
            insert(connection, 2)
            with connection.begin_nested():
                insert(connection, 3)
    assert written(article) == [("2", "ada"), ("3", "ada")]
    assert len(article.transactions()) == 1


def test_savepoints_in_plain_sql(article: Trail, engine: sa.Engine) -> None:
    """SAVEPOINT and ROLLBACK TO as statements, unknown to SQLAlchemy."""
    with article.logger.context(actor_id="ada"), engine.begin() as connection:
        connection.exec_driver_sql("SAVEPOINT s")
        insert(connection, 1)
        connection.exec_driver_sql("ROLLBACK TO s")
        insert(connection, 2)
        connection.exec_driver_sql("RELEASE s")
        insert(connection, 3)
    assert written(article) == [("2", "ada"), ("3", "ada")]


def test_an_exception_block(article: Trail) -> None:
    """PL/pgSQL catches an error: what its block wrote before is undone, the rest is not."""
    with article.logger.context(actor_id="ada"):
        article.script(
            "DO $$ BEGIN "
            "BEGIN INSERT INTO article VALUES (1, 'x', 1); PERFORM 1 / 0; "
            "EXCEPTION WHEN division_by_zero THEN NULL; END; "
            "INSERT INTO article VALUES (2, 'x', 1); END $$"
        )
    assert [change.object_id for change in article.changes()] == ["2"]
    assert len(article.transactions()) == 1


# -- Where a transaction ends otherwise --------------------------------------------------------


def test_commits_in_between(article: Trail, engine: sa.Engine) -> None:
    """A connection commits in the middle of the work, in three ways."""
    with article.logger.context(actor_id="ada"), engine.connect() as connection:
        insert(connection, 1)
        connection.commit()
        insert(connection, 2)
        connection.exec_driver_sql("COMMIT AND CHAIN")
        insert(connection, 3)
        connection.exec_driver_sql("COMMIT")
        insert(connection, 4)
        connection.commit()
    assert written(article) == [(str(number), "ada") for number in range(1, 5)]


@pytest.fixture
def two_phase(article: Trail) -> Iterator[Trail]:
    """A server that prepares transactions; none stays, for it would keep the database."""
    if article.value("SHOW max_prepared_transactions") == "0":
        pytest.skip("this server has max_prepared_transactions = 0")
    yield article
    left = article.value(
        "SELECT array_agg(gid) FROM pg_prepared_xacts WHERE database = current_database()"
    )
    with article.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        for name in left or []:
            connection.exec_driver_sql(f"ROLLBACK PREPARED '{name}'")


@pytest.mark.parametrize("way", ["commit", "rollback"])
def test_two_phase_commit(two_phase: Trail, engine: sa.Engine, way: str) -> None:
    """PREPARE TRANSACTION: invisible until COMMIT PREPARED, gone with ROLLBACK PREPARED."""
    with two_phase.logger.context(actor_id="ada"), engine.connect() as connection:
        transaction = connection.begin_twophase()
        insert(connection, 1)
        transaction.prepare()
        assert two_phase.changes() == []
        getattr(transaction, way)()
        with connection.begin():
            insert(connection, 2)
    expected = ["1", "2"] if way == "commit" else ["2"]
    assert written(two_phase) == [(number, "ada") for number in expected]
    assert len(two_phase.transactions()) == len(expected)


def test_a_prepared_transaction_that_another_session_ends(
    two_phase: Trail, engine: sa.Engine
) -> None:
    """The session that prepared is long gone, and somebody else commits."""
    name = sa.make_url(two_phase.url).database
    with two_phase.logger.context(actor_id="ada"), engine.connect() as connection:
        insert(connection, 1)
        connection.exec_driver_sql(f"PREPARE TRANSACTION '{name}'")
    engine.dispose()
    with two_phase.logger.context(actor_id="bo"), engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.exec_driver_sql(f"COMMIT PREPARED '{name}'")
    assert written(two_phase) == [("1", "ada")]


def test_the_connection_is_lost(article: Trail, engine: sa.Engine) -> None:
    """The server ends the session in mid-transaction; the application rolls back and goes on."""
    context = article.logger.context
    with sa.orm.Session(engine) as session:
        with context(actor_id="ada"):
            insert(session.connection(), 1)
            pid = session.scalar(sa.text("SELECT pg_backend_pid()"))
            article.value("SELECT pg_terminate_backend(:pid)", pid=pid)
            with pytest.raises(sa.exc.OperationalError):
                insert(session.connection(), 2)
        session.rollback()
        with context(actor_id="bo"):
            insert(session.connection(), 3)
        session.commit()
    assert written(article) == [("3", "bo")]


def test_a_transaction_that_ends_unseen(article: Trail, engine: sa.Engine) -> None:
    """A COMMIT inside of a script: the driver knows that the transaction is over."""
    with article.logger.context(actor_id="ada"), engine.connect() as connection:
        insert(connection, 1)
        connection.exec_driver_sql("UPDATE article SET n = 2; COMMIT")
        insert(connection, 2)
        connection.commit()
    assert written(article) == [("1", "ada"), ("1", "ada"), ("2", "ada")]


# -- Autocommit --------------------------------------------------------------------------------


def test_autocommit(article: Trail, engine: sa.Engine) -> None:
    """Each statement is a transaction: in autocommit, out of it again, and without an actor."""
    context = article.logger.context
    with context(actor_id="ada"), engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        insert(connection, 1)
        insert(connection, 2)
        with context(actor_id=None):
            insert(connection, 3)
        connection.exec_driver_sql("VACUUM article")
    with context(actor_id="bo"), engine.begin() as connection:
        insert(connection, 4)
        insert(connection, 5)
    assert written(article) == [
        ("1", "ada"),
        ("2", "ada"),
        ("3", None),
        ("4", "bo"),
        ("5", "bo"),
    ]
    assert len(article.transactions()) == 4


def test_many_rows_in_autocommit(article: Trail, engine: sa.Engine) -> None:
    """executemany in autocommit: each statement, or each page of them, is a transaction."""
    rows = [{"id": number} for number in range(1, 4)]
    with article.logger.context(actor_id="ada"), engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.execute(sa.text("INSERT INTO article VALUES (:id, 'x', 1)"), rows)
    assert written(article) == [("1", "ada"), ("2", "ada"), ("3", "ada")]


def test_a_procedure_that_commits(article: Trail, engine: sa.Engine) -> None:
    """CALL of a procedure with COMMIT inside, in autocommit: it must run, and is captured."""
    article.script(
        "CREATE PROCEDURE work() LANGUAGE plpgsql AS 'BEGIN INSERT INTO article VALUES (1); "
        "COMMIT; INSERT INTO article VALUES (2); END'"
    )
    with article.logger.context(actor_id="ada"), engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.execute(sa.text("CALL work()"))
    assert [change.object_id for change in article.changes()] == ["1", "2"]


# -- Many at once ------------------------------------------------------------------------------


def test_a_pool_of_one(article: Trail, engine: sa.Engine) -> None:
    """One connection serves ada, then nobody, then bo, then nobody after a rollback."""
    context = article.logger.context
    for number, actor in enumerate(["ada", None, "bo", None]):
        with context(actor_id=actor), engine.connect() as connection:
            insert(connection, number)
            connection.commit()
            # Nothing is left for whoever goes around the engine's events with this connection.
            setting = sa.text("SELECT current_setting('audit_app.context', true)")
            assert connection.scalar(setting) == ""
            insert(connection, 100)  # never committed
    assert written(article) == [("0", "ada"), ("1", None), ("2", "bo"), ("3", None)]


def interleave(
    trail: Trail, engines: list[sa.Engine], *, writers: int, rounds: int
) -> set[tuple[int, str]]:
    """Let ``writers`` threads write at once: each row is named after the actor it belongs to.

    Every third writer is nobody. Some of the work is rolled back.

    :return: which server session (its process id) served whom.
    """
    numbers = itertools.count(1)
    together = threading.Barrier(writers)

    def work(writer: int) -> set[tuple[int, str]]:
        actor = None if writer % 3 == 2 else f"writer {writer}"
        engine = engines[writer % len(engines)]
        served = set()
        together.wait(timeout=30)
        for turn in range(rounds):
            with trail.logger.context(actor_id=actor), engine.connect() as connection:
                number = next(numbers)
                insert(connection, number, str(actor))
                pid = connection.scalar(sa.text("SELECT pg_backend_pid()"))
                served.add((pid, str(actor)))
                if turn % 4 == 3:
                    connection.rollback()
                    continue
                connection.exec_driver_sql(f"UPDATE article SET n = 2 WHERE id = {number}")
                connection.commit()
        return served

    with ThreadPoolExecutor(writers) as pool:
        return set().union(*pool.map(work, range(writers)))


def assert_nobody_was_confused(trail: Trail, *, writers: int, rounds: int) -> None:
    pairs = [((c.old or c.changed)["name"], str(c.actor)) for c in trail.changes()]
    assert [pair for pair in pairs if pair[0] != pair[1]] == []
    committed = rounds - rounds // 4
    assert len(pairs) == 2 * writers * committed
    assert len(trail.transactions()) == writers * committed


@pytest.mark.parametrize("driver", DRIVERS)
def test_eight_writers_at_once(article: Trail, driver: str) -> None:
    """Eight threads share five connections."""
    engine = connect(article, article.url, driver, pool_size=5)
    try:
        interleave(article, [engine], writers=8, rounds=12)
    finally:
        engine.dispose()
    assert_nobody_was_confused(article, writers=8, rounds=12)


@pytest.mark.parametrize("size", [1, 2])
def test_transaction_pooling(article: Trail, size: int) -> None:
    """PgBouncer gives each transaction whichever server session is free: actors never cross."""
    with pooler.running(article.url, size=size) as url:
        engines = [connect(article, url, driver, pool_size=4) for driver in DRIVERS]
        try:
            served = interleave(article, engines, writers=6, rounds=16)
        finally:
            for engine in engines:
                engine.dispose()
    assert_nobody_was_confused(article, writers=6, rounds=16)
    # Else this would have shown nothing: few sessions, each of them for several actors.
    assert len({pid for pid, _ in served}) <= size
    assert len(served) > size


# -- The cost ----------------------------------------------------------------------------------


def counted(executions: list[str]) -> Callable[..., psycopg2.extensions.cursor]:
    """A cursor of psycopg2's that notes what it executes, below SQLAlchemy."""

    class Cursor(psycopg2.extensions.cursor):
        def execute(self, query: Any, parameters: Any = None) -> None:
            executions.append(str(query))
            super().execute(query, parameters)

    return Cursor


def test_the_context_travels_with_the_first_write(article: Trail) -> None:
    """A context that costs a round trip: no execution is added, and reads carry nothing."""
    executions: list[str] = []
    engine = sa.create_engine(article.url, connect_args={"cursor_factory": counted(executions)})
    article.logger.attach(engine)
    with engine.connect() as connection:
        connection.exec_driver_sql("SELECT 1")
        connection.commit()
        executions.clear()
        with article.logger.context(actor_id="ada"):
            connection.exec_driver_sql("SELECT count(*) FROM article")
            insert(connection, 1)
            insert(connection, 2)
            connection.exec_driver_sql("UPDATE article SET n = 2")
            with article.logger.context(actor_id="bo"):
                connection.exec_driver_sql("DELETE FROM article")
            connection.commit()
    engine.dispose()
    assert len(executions) == 5
    assert ["set_config" in query for query in executions] == [False, True, False, False, True]
    assert [actor for _, actor in written(article)] == ["ada"] * 4 + ["bo"] * 2
