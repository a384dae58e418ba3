"""What every contestant's process can do; how it does it is the subclasses' affair."""

from __future__ import annotations

import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import psycopg2
import psycopg2.errors
import sqlalchemy as sa

from benchmarks import fill

ACTOR = 7
"""The id of the person who acts."""

TABLE = "article"
SINGLE_ROWS = 10_000
"""Rows in the table while single rows are updated."""

_EARLIER = 1_000  # transactions that are in the trail before single ones are timed
PLANNED = 10
"""Executions after which the plans of a session are the ones that it keeps."""

# The tree of a table that is not partitioned is empty.
_WITH_PARTITIONS = (
    "SELECT DISTINCT unnest(ARRAY[listed.relid] || ARRAY("
    "SELECT p.relid FROM pg_partition_tree(listed.relid) AS p)) "
    "FROM unnest(%s::regclass[]) AS listed (relid)"
)
_ROW = "'title ' || g, repeat('lorem ipsum ', 20), g / 3.0, now(), g"


def rows_sql(first: int, last: int) -> str:
    """Return the INSERT of the article rows from ``first`` to ``last``, about 300 bytes each."""
    return (
        f"INSERT INTO {TABLE} (id, title, body, rating, at, n) "
        f"SELECT g, {_ROW} FROM generate_series({first}, {last}) AS g"
    )


def bulk_sql(verb: str, first: int, last: int) -> str:
    """Return the one statement that writes the rows from ``first`` to ``last``."""
    within = f"WHERE id BETWEEN {first} AND {last}"
    return {
        "insert": rows_sql(first, last),
        "update": f"UPDATE {TABLE} SET title = 'changed ' || n, n = n + 1 {within}",
        "delete": f"DELETE FROM {TABLE} {within}",
    }[verb]


class Worker(ABC):
    """One contestant on a database of its own.

    :param url: of the database, as SQLAlchemy reads it.
    :ivar trail: the quoted names of the tables that the package keeps, the big one first.
    :ivar actor_sql: a query for who made the latest change, as text.
    """

    trail: ClassVar[tuple[str, ...]] = ()
    actor_sql: ClassVar[str | None] = None

    def __init__(self, url: str) -> None:
        self.url = sa.make_url(url)
        self.host = str(self.url.query["host"])
        self.timeout = 0
        self._is_single = False
        self._reads: Mapping[str, str] = {}
        self.maintenance = psycopg2.connect(self._dsn(self.host))
        self.maintenance.autocommit = True

    # -- What a contestant says ---------------------------------------------------------------

    @abstractmethod
    def create(self) -> None:
        """Create the tables, and what the package needs, as its documentation recommends."""

    @abstractmethod
    def run(self, statements: Sequence[str]) -> None:
        """Execute SQL in one transaction, with nobody signed in."""

    @abstractmethod
    def server_process(self) -> int:
        """Return the number of the process that serves the connection of :meth:`run`."""

    @abstractmethod
    def open(self, key: int) -> None:
        """Load the article that :meth:`change` changes, into an otherwise empty session."""

    @abstractmethod
    def change(self, value: int) -> None:
        """Change two columns of it and commit, with the package's own attribution of the actor."""

    @abstractmethod
    def disconnect(self) -> None:
        """Close every connection; the next one goes to :attr:`host` with :attr:`timeout`."""

    def close(self) -> None:
        """Leave the database."""
        self.disconnect()
        self.maintenance.close()

    def prepare(self, rows: int) -> None:  # noqa: B027 - most have nothing to do
        """Make ready for bulk writes of up to ``rows`` rows."""

    def enter(self, kind: str) -> None:  # noqa: B027
        """Make ready for ``"bulk"`` writes by a job, or ``"single"`` ones of somebody signed in."""

    def bulk_statements(self, verb: str, first: int, last: int) -> list[str]:
        return [bulk_sql(verb, first, last)]

    def flush(self, clean: int, times: int) -> float | None:
        """Return the seconds of flush and commit of one changed object among ``clean`` others."""
        return None

    def load(self, trail: fill.Size) -> None:
        """Fill the trail's own tables."""
        raise NotImplementedError

    def queries(self, trail: fill.Size) -> dict[str, str]:
        """Return the SQL of the reads, by their names."""
        raise NotImplementedError

    def pages(self, trail: fill.Size, times: int) -> dict[str, list[float]] | None:
        """Return the milliseconds of each page over HTTP; None without pages."""
        return None

    # -- What the orders are ------------------------------------------------------------------

    @property
    def orders(self) -> Mapping[str, Callable[..., Any]]:
        return {
            "create": self.create,
            "prepare": self.prepare,
            "bulk": self.bulk,
            "after_single": self.after_single,
            "single": self.single,
            "change": self.change,
            "through": self.through,
            "flush": self.flush,
            "storage": self.storage,
            "indexes": self.indexes,
            "load": lambda **size: self.load_reads(fill.Size(**size)),
            "read": self.read,
            "pages": lambda times, **size: self.pages(fill.Size(**size), times),
        }

    def bulk(
        self, verb: str, rows: int, *, warm: bool, times: int = 1
    ) -> tuple[float, float | None]:
        """Return the seconds of one statement that writes ``rows`` rows, committed.

        The second figure is the seconds of CPU that the server's process took for it; None where
        the system does not tell.

        :param warm: run the same statement on as many other rows before, so that plans and caches
            are made: of up to a thousand rows as often as it takes for the plans to be kept.
        :param times: how many to run, each on rows of its own; the median is returned.
        """
        self.enter("bulk")
        before = (PLANNED if rows <= 1_000 else 1) if warm else 0
        there = (before + times) * rows
        # Not in between; and before the tables are written anew, because the first touch of a page
        # after a checkpoint writes all of it into the log.
        self.maintain("CHECKPOINT")
        self.reset(there)
        self.run(["SELECT 1"])  # the connection stands
        process = self.server_process()
        taken, busy = [], []
        for number in range(before + times):
            start = number * rows + 1 + (there if verb == "insert" else 0)
            statements = self.bulk_statements(verb, start, start + rows - 1)
            begin, begin_busy = time.perf_counter(), _cpu_time(process)
            self.run(statements)
            taken.append(time.perf_counter() - begin)
            end_busy = _cpu_time(process)
            if begin_busy is not None and end_busy is not None:
                busy.append(end_busy - begin_busy)
        of_server = busy[before:]
        return (
            statistics.median(taken[before:]),
            statistics.median(of_server) if of_server else None,
        )

    def after_single(self, rows: int, timeout: int) -> float | None:
        """Return the seconds of a bulk update after three updates of one row in its session.

        :param timeout: seconds; None is returned for what takes longer.
        """
        self.enter("bulk")
        self.timeout = timeout
        self.reset(rows)
        try:
            for key in range(1, 4):
                self.run(self.bulk_statements("update", key, key))
            statements = self.bulk_statements("update", 1, rows)
            begin = time.perf_counter()
            self.run(statements)
            return time.perf_counter() - begin
        except Exception as error:
            if not _is_timeout(error):
                raise
            return None
        finally:
            self.timeout = 0
            self.disconnect()

    def single(self, times: int) -> float:
        """Return the median of the seconds that a transaction of one updated row takes."""
        self._open_single()
        taken = []
        for number in range(times):
            begin = time.perf_counter()
            self.change(number)
            taken.append(time.perf_counter() - begin)
        return statistics.median(taken)

    def _open_single(self) -> None:
        """Bring about a trail of some length, and a session that has its plans."""
        if self._is_single:
            return
        self.enter("single")
        self.reset(SINGLE_ROWS)
        self.open(1)
        for number in range(_EARLIER):
            self.change(-number)
        # Plans that were made for an empty trail are nobody's: a new session on a trail that was
        # analyzed, as the vacuum daemon would have done, which is off here.
        self.analyze()
        self._reopen(1)
        if self.actor_sql is not None and self.value(self.actor_sql) != str(ACTOR):
            raise RuntimeError("The trail does not name the actor: it is set up wrongly.")
        self._is_single = True

    def _reopen(self, key: int) -> None:
        self.disconnect()
        self.open(key)
        for number in range(PLANNED):
            self.change(number)

    def through(self, host: str | None, key: int) -> None:
        """Connect through another socket directory, and load the article ``key`` there."""
        self._open_single()
        self.host = host or str(self.url.query["host"])
        self._reopen(key)

    def storage(self, verb: str, rows: int) -> float:
        """Return the trail's bytes for each row that a bulk write changed, with all indexes."""
        self.enter("bulk")
        self.reset(2 * rows)
        begin = self._size()
        first = 2 * rows + 1 if verb == "insert" else 1
        self.run(self.bulk_statements(verb, first, first + rows - 1))
        return (self._size() - begin) / rows

    def _size(self) -> int:
        with self.maintenance.cursor() as cursor:
            cursor.execute(
                "SELECT coalesce(sum(pg_total_relation_size(r.relid)), 0) "
                f"FROM ({_WITH_PARTITIONS}) AS r (relid)",
                (list(self.trail),),
            )
            row = cursor.fetchone()
        return int(row[0]) if row else 0

    def indexes(self) -> dict[str, list[str]]:
        """Return the columns of each index of the trail's tables."""
        found = {}
        for table in self.trail:
            with self.maintenance.cursor() as cursor:
                cursor.execute(
                    "SELECT regexp_replace(pg_get_indexdef(indexrelid), '^.*? USING ', '') "
                    "FROM pg_index WHERE indrelid = %s::regclass ORDER BY indisprimary DESC, 1",
                    (table,),
                )
                found[table] = [row[0] for row in cursor.fetchall()]
        return found

    def load_reads(self, trail: fill.Size) -> list[str]:
        """Fill the trail and return the names of the reads."""
        self.reset(0)
        self.load(trail)
        self.analyze()
        self._reads = self.queries(trail)
        return list(self._reads)

    def read(self, name: str, times: int) -> list[float]:
        """Return the milliseconds that a read took, warm, each time."""
        taken = []
        with self.maintenance.cursor() as cursor:
            for _ in range(times + 1):
                begin = time.perf_counter()
                cursor.execute(self._reads[name])
                cursor.fetchall()
                taken.append((time.perf_counter() - begin) * 1000)
        return taken[1:]

    # -- Maintenance, behind the package's back -----------------------------------------------

    def maintain(self, *statements: str) -> None:
        with self.maintenance.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def analyze(self) -> None:
        for table in self.trail:
            self.maintain(f"VACUUM ANALYZE {table}")

    def value(self, query: str) -> Any:
        with self.maintenance.cursor() as cursor:
            cursor.execute(query)
            row = cursor.fetchone()
        return row[0] if row else None

    def reset(self, rows: int) -> None:
        """Empty the trail, and leave ``rows`` articles of which it knows nothing."""
        self.disconnect()
        self._is_single = False
        tables = (TABLE, *self.trail)
        with self.maintenance.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute(
                "SELECT t.tgrelid::regclass::text, quote_ident(t.tgname), t.tgenabled "
                f"FROM ({_WITH_PARTITIONS}) AS r (relid) "
                "JOIN pg_trigger AS t ON t.tgrelid = r.relid AND NOT t.tgisinternal",
                (list(tables),),
            )
            triggers = cursor.fetchall()
            for table, name, _ in triggers:
                cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER {name}")
            cursor.execute(f"TRUNCATE {', '.join(tables)} RESTART IDENTITY CASCADE")
            cursor.execute(rows_sql(1, rows))
            for table, name, enabled in triggers:
                mode = {"A": "ENABLE ALWAYS", "R": "ENABLE REPLICA", "D": "DISABLE"}
                cursor.execute(f"ALTER TABLE {table} {mode.get(enabled, 'ENABLE')} TRIGGER {name}")
            cursor.execute("COMMIT")
        self.maintain(f"VACUUM ANALYZE {TABLE}")

    def _dsn(self, host: str) -> str:
        return f"host={host} user={self.url.username} dbname={self.url.database}"

    def dsn(self) -> str:
        """Return the connection string for the package's own connections."""
        return f"{self._dsn(self.host)} options='-c statement_timeout={self.timeout}s'"


def _cpu_time(process: int) -> float | None:
    """Return the seconds of CPU that a process of this machine has taken; None if that is unknown.

    Of Linux, in nanoseconds: https://docs.kernel.org/scheduler/sched-stats.html
    """
    try:
        text = Path(f"/proc/{process}/schedstat").read_text(encoding="ascii")
    except OSError:
        return None
    return int(text.split()[0]) / 1e9


def _is_timeout(error: BaseException) -> bool:
    cause: BaseException | None = error
    while cause is not None:
        code = getattr(cause, "pgcode", None) or getattr(cause, "sqlstate", None)
        if code == "57014":  # query_canceled
            return True
        cause = getattr(cause, "orig", None) or cause.__cause__
    return False
