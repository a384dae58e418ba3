"""Partitions of the trail: made ahead, filled from the default partition, and a trail converted.

The statements are functions in the audit schema (``sql/partitions.sql``); here is what needs
transactions of its own: patience with locks, indexes made beside writers, and steps that may be
interrupted and repeated.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from audit_app import sql
from audit_app.errors import ConfigurationError, PartitioningError, TableBusyError
from audit_app.install import BUSY, is_installed, not_installed, patiently, sqlstate
from audit_app.models import PERIODS

if TYPE_CHECKING:
    from audit_app.ddl import Trail

AHEAD: Final = 3
"""How many partitions after the present one are made."""

LOCK_TIMEOUT: Final = 200
"""Milliseconds to wait for a lock, and so to keep writers waiting who come meanwhile."""

MARGIN: Final = timedelta(seconds=10)

LEEWAY: Final = timedelta(days=7)
"""How long a conversion may take at least, before the bound that it sets could fail a write."""

_PARENTS: Final = ("transaction", "activity")
# A row came into the default partition that belongs to the one just made; or was moved meanwhile.
_RETRIED: Final = BUSY | {"23514", "40001"}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Moved:
    """Rows that got a partition of their own.

    :ivar table: ``activity`` or ``transaction``.
    :ivar partition: the quoted name of the partition.
    """

    table: str
    partition: str
    rows: int


@dataclass(frozen=True)
class Maintenance:
    """What was done.

    :ivar made: quoted names of the partitions that were made ahead.
    :ivar moved: what was moved out of the default partitions, or of the history that was split.
    """

    made: tuple[str, ...] = ()
    moved: tuple[Moved, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return what was done, for ``json``."""
        return asdict(self)


def partitioned_by(connection: sa.Connection, trail: Trail) -> str | None:
    """Return ``"month"`` or ``"week"``; None where the trail is not partitioned.

    :raises NotInstalledError: if the trail is not installed.
    """
    if not is_installed(connection, trail):
        raise not_installed(trail.schema_name)
    found: str | None = connection.scalar(_call(trail, "partitioned_by"))
    return found


def maintain(
    engine: sa.Engine,
    trail: Trail,
    *,
    ahead: int = AHEAD,
    margin: timedelta = MARGIN,
    lock_timeout: int = LOCK_TIMEOUT,
    attempts: int = 30,
    progress: Callable[[str], None] = lambda line: None,
) -> Maintenance:
    """Make the partitions to come, and give rows of the default partition their own; repeatable.

    Rows of the present period can only be moved when a partition has begun to take the new ones:
    the next run does it.

    :param ahead: how many periods after the present one get a partition.
    :param margin: how much later than now a partition begins of whose period there are rows in the
        default one; longer than a writer may have to wait for a lock.
    :param lock_timeout: milliseconds to wait for a lock.
    :raises NotInstalledError: if the trail is not installed.
    :raises PartitioningError: if it is not partitioned.
    :raises TableBusyError: if a lock could not be had; what was done before is done.
    """
    _require_partitions(engine, trail)
    step = _Steps(engine, trail, lock_timeout, attempts, progress)

    made = tuple(row.partition for row in step("extend_partitions", ahead, margin))
    for name in made:
        progress(f"{name}: made")
    moved = []
    for parent in _PARENTS:
        while True:
            (row,) = step("empty_default", parent)
            if row.partition is None:
                break
            moved.append(Moved(parent, row.partition, row.moved))
            progress(f"{row.partition}: {row.moved} rows moved")
    if made or moved:
        _analyze(engine, trail)
    return Maintenance(made, tuple(moved))


def convert(
    engine: sa.Engine,
    trail: Trail,
    period: str,
    *,
    bound: datetime | None = None,
    lock_timeout: int = LOCK_TIMEOUT,
    attempts: int = 60,
    progress: Callable[[str], None] = lambda line: None,
) -> Maintenance:
    """Partition a trail that is in use, without copying it; may be interrupted and repeated.

    What is there becomes the first partition, which goes on to take what is written until
    ``bound``. A table that is partitioned already only changes its period.

    :param period: ``"month"`` or ``"week"``.
    :param bound: where the first partition ends; by default the beginning of a period that is at
        least :data:`LEEWAY` away. A write fails that comes after it before the work is done.
    :param lock_timeout: milliseconds to wait for a lock.
    :raises ConfigurationError: if there is no such period.
    :raises NotInstalledError: if the trail is not installed.
    :raises PartitioningError: if something depends on a table that would miss newer rows then.
    :raises TableBusyError: if a table stayed busy; those before it are done.
    """
    if period not in PERIODS:
        raise ConfigurationError(f"There is no period {period!r}: use {' or '.join(PERIODS)}.")
    with engine.connect() as connection:
        partitioned_by(connection, trail)
        before = _names(connection, trail)

    step = _Steps(engine, trail, lock_timeout, attempts, progress)

    for parent in _PARENTS:
        with engine.connect() as connection:
            is_partitioned = connection.scalar(_call(trail, "is_partitioned", parent))
        if is_partitioned:
            step("set_period", parent, period)
            continue
        with _bound_while_at_it(engine, trail):
            _prepare(engine, trail, parent, step("bound_table", parent, period, bound), progress)
            step("partition_table", parent, period, f"{parent}_id_issued_at")
        progress(f"{parent}: partitioned")
    step("extend_partitions", AHEAD)
    _analyze(engine, trail)
    with engine.connect() as connection:
        after = _names(connection, trail)
    return Maintenance(tuple(name for name in after if name not in before))


def split(
    engine: sa.Engine,
    trail: Trail,
    *,
    lock_timeout: int = LOCK_TIMEOUT,
    attempts: int = 60,
    progress: Callable[[str], None] = lambda line: None,
) -> Maintenance:
    """Split what a conversion began with into a partition for each period; may be interrupted.

    Needs room for a copy of it. Each period is copied in a transaction; at the end the copies take
    the place of the whole, if they hold as many rows.

    :raises PartitioningError: if rows still go there: split it after its end.
    :raises NotInstalledError, TableBusyError: as they say.
    """
    _require_partitions(engine, trail)
    step = _Steps(engine, trail, lock_timeout, attempts, progress)

    moved = []
    for parent in _PARENTS:
        _index_moments(engine, trail, parent)
        while True:
            (row,) = step("split_history", parent)
            if row.partition is not None:
                moved.append(Moved(parent, row.partition, row.copied))
                progress(f"{row.partition}: {row.copied} rows copied")
            elif step("finish_split", parent)[0][0]:
                break
            else:
                progress(f"{parent}: rows came into the history meanwhile; copied anew")
                moved = [part for part in moved if part.table != parent]
        step("drop_history", parent)
    if moved:
        _analyze(engine, trail)
    return Maintenance(moved=tuple(moved))


class Keeper:
    """Makes the next partitions where maintenance was forgotten: asked often, it looks rarely.

    :param interval: seconds between two looks of a process.
    :param retry: seconds after a look that failed.
    """

    def __init__(self, schema_name: str, *, interval: float = 3600, retry: float = 60) -> None:
        self._call = sa.select(getattr(sa.func, schema_name).keep_partitions())
        self._interval, self._retry = interval, retry
        self._next = float("-inf")

    def __call__(self, engine: sa.Engine) -> None:
        """Look, if it is time to; never raises, and waits for no lock for long."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self._interval
        try:
            with engine.begin() as connection:
                connection.execute(self._call)
        except Exception as error:  # noqa: BLE001 - the application's work comes first
            self._next = now + self._retry
            _log.warning("The next partitions of the audit trail could not be made: %s", error)


# -- The steps ---------------------------------------------------------------------------------


def _call(trail: Trail, function: str, *arguments: Any) -> sa.Select[Any]:
    return sa.select(getattr(getattr(sa.func, trail.schema_name), function)(*arguments))


_TABLES: Final = {
    "extend_partitions": ("partition",),
    "empty_default": ("partition", "moved"),
    "split_history": ("partition", "copied"),
}
"""The columns of the functions that return rows."""


@dataclass(frozen=True)
class _Steps:
    """Calls functions of the trail, each in a transaction that gives way to others."""

    engine: sa.Engine
    trail: Trail
    lock_timeout: int
    attempts: int
    progress: Callable[[str], None]

    def __call__(self, function: str, *arguments: Any) -> Sequence[Any]:
        call = getattr(getattr(sa.func, self.trail.schema_name), function)(*arguments)
        columns = _TABLES.get(function)
        statement = sa.select(call if columns is None else call.table_valued(*columns))
        try:
            return patiently(
                self.engine,
                lambda connection: connection.execute(statement).all(),
                self.trail.schema_name,
                lock_timeout=self.lock_timeout,
                attempts=self.attempts,
                busy=_RETRIED,
                progress=self.progress,
            )
        except sa.exc.DBAPIError as error:
            diagnosis = getattr(error.orig, "diag", None)
            if sqlstate(error) == "55000" and diagnosis is not None:
                text = f"{diagnosis.message_primary}. {diagnosis.message_hint}"
                raise PartitioningError(text) from error
            raise


def _require_partitions(engine: sa.Engine, trail: Trail) -> None:
    with engine.connect() as connection:
        if partitioned_by(connection, trail) is None:
            raise PartitioningError(
                f"The trail in the schema {trail.schema_name!r} is not partitioned: convert it "
                "with flask audit partition --by month."
            )


def _names(connection: sa.Connection, trail: Trail) -> list[str]:
    found = getattr(sa.func, trail.schema_name).partitions().table_valued("relation")
    return list(connection.scalars(sa.select(sa.cast(found.c.relation, sa.Text))))


@contextmanager
def _bound_while_at_it(engine: sa.Engine, trail: Trail) -> Iterator[None]:
    """Take the bound of a conversion away if it was not done to the end."""
    try:
        yield
    except BaseException:
        with suppress(sa.exc.SQLAlchemyError, TableBusyError):
            patiently(
                engine,
                lambda c: c.execute(_call(trail, "lift_bound", sa.cast("1000 years", sa.Interval))),
                trail.schema_name,
                lock_timeout=LOCK_TIMEOUT,
            )
        raise


def _prepare(
    engine: sa.Engine, trail: Trail, parent: str, bound: Any, progress: Callable[[str], None]
) -> None:
    """What takes its time, and keeps nobody waiting."""
    schema = sql.quote_identifier(trail.schema_name)
    table, index = f"{schema}.{parent}", f"{parent}_id_issued_at"
    progress(f"{parent}: its rows end before {bound[0][0]}; looking that up")
    with _autocommit(engine) as connection:
        connection.exec_driver_sql(f"ALTER TABLE {table} VALIDATE CONSTRAINT {parent}_bound")
        progress(f"{parent}: making a key over id and issued_at")
        _drop_unfinished(connection, trail, index)
        connection.exec_driver_sql(
            f"CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS {index} ON {table} (id, issued_at)"
        )


def _index_moments(engine: sa.Engine, trail: Trail, parent: str) -> None:
    """Let the periods of the history be found without reading all of it for each."""
    schema, index = sql.quote_identifier(trail.schema_name), f"{parent}_split_idx"
    with _autocommit(engine) as connection:
        history = getattr(sa.func, trail.schema_name).history_of(parent)
        columns = history.table_valued("relation", "upper")
        relation = connection.scalar(sa.select(sa.cast(columns.c.relation, sa.Text)))
        if relation is not None:
            _drop_unfinished(connection, trail, index)
            connection.exec_driver_sql(
                f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {index} "
                f"ON {relation} USING brin (issued_at)"
            )
            connection.exec_driver_sql(f"COMMENT ON INDEX {schema}.{index} IS 'for a splitting'")


def _drop_unfinished(connection: sa.Connection, trail: Trail, index: str) -> None:
    """An index that was interrupted while it was made stays, and serves nobody."""
    query = sa.text(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_index WHERE indexrelid OPERATOR(pg_catalog.=) "
        "CAST(pg_catalog.to_regclass(CAST(:name AS text)) AS oid) AND NOT indisvalid)"
    )
    name = f"{sql.quote_identifier(trail.schema_name)}.{index}"
    if connection.scalar(query, {"name": name}):
        connection.exec_driver_sql(f"DROP INDEX CONCURRENTLY {name}")


def _analyze(engine: sa.Engine, trail: Trail) -> None:
    """Autovacuum knows the partitions, and never looks at the whole."""
    schema = sql.quote_identifier(trail.schema_name)
    with _autocommit(engine) as connection:
        for parent in _PARENTS:
            connection.exec_driver_sql(f"ANALYZE {schema}.{parent}")


@contextmanager
def _autocommit(engine: sa.Engine) -> Iterator[sa.Connection]:
    options: dict[str, Any] = {"isolation_level": "AUTOCOMMIT", "no_parameters": True}
    with engine.connect().execution_options(**options) as connection:
        yield connection
