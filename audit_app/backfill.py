"""The baseline: one activity for each row that was there before its table was tracked.

A batch is a database transaction. What it does is decided by what is in the trail, so a backfill
may be interrupted, repeated, and run beside writers: nothing is written twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from audit_app.errors import BackfillError, ConfigurationError, NotGrantedError
from audit_app.install import (
    as_jsonb,
    as_regclass,
    explain,
    is_installed,
    not_installed,
    patiently,
    sqlstate,
)

if TYPE_CHECKING:
    from audit_app.ddl import AuditedTable, Trail

BATCH: Final = 10_000
"""Rows of a batch."""


@dataclass(frozen=True)
class Progress:
    """How far a backfill has come.

    :ivar relation: the table.
    :ivar done: rows that were looked at.
    :ivar total: rows that the table had at the beginning.
    :ivar added: rows that had no activity yet, and have one now.
    """

    relation: str
    done: int
    total: int
    added: int


@dataclass(frozen=True)
class Backfilled:
    """What was done for one table."""

    table: str
    rows: int
    added: int

    def as_dict(self) -> dict[str, Any]:
        """Return the summary for ``json``."""
        return asdict(self)


def backfill(
    engine: sa.Engine,
    trail: Trail,
    tables: Sequence[AuditedTable],
    *,
    batch_size: int = BATCH,
    lock_timeout: int = 500,
    attempts: int = 60,
    progress: Callable[[Progress], None] = lambda progress: None,
    log: Callable[[str], None] = lambda line: None,
) -> tuple[Backfilled, ...]:
    """Record the rows of ``tables`` that have no activity, as they stand.

    Rows are locked while their batch is written; a writer waits for that long at the most, and the
    backfill gives way to a writer after ``lock_timeout``, sooner than PostgreSQL looks for
    deadlocks.

    :param batch_size: rows of a batch.
    :param lock_timeout: milliseconds to wait for a row that somebody else is writing.
    :param attempts: how often to try each batch.
    :param progress: called after each batch.
    :param log: called with a line for each attempt that gave up.
    :raises ConfigurationError: if an argument is wrong.
    :raises NotInstalledError: if the trail is not installed.
    :raises BackfillError: if a table does not exist, is not tracked, or was altered since.
    :raises NotGrantedError: if the database role may not read the table or write the trail.
    :raises TableBusyError: if a row stayed locked; what came before it is done.
    """
    if batch_size < 1:
        raise ConfigurationError(f"batch_size={batch_size} must be 1 or more.")
    run = _Run(engine, trail.schema_name, batch_size, lock_timeout, attempts, progress, log)
    try:
        with engine.connect() as connection:
            if not is_installed(connection, trail):
                raise not_installed(trail.schema_name)
        return tuple(run(table) for table in tables)
    except sa.exc.DBAPIError as error:
        if sqlstate(error) == "42501":
            raise NotGrantedError(
                "This database role may not do the backfill: run it as the role that runs the "
                "migrations, which owns the tables and is a member of the owner of the schema "
                f"{trail.schema_name!r}."
            ) from error
        raise explain(error, trail.schema_name) from error


@dataclass(frozen=True)
class _Run:
    engine: sa.Engine
    schema_name: str
    batch_size: int
    lock_timeout: int
    attempts: int
    progress: Callable[[Progress], None]
    log: Callable[[str], None]

    def __call__(self, table: AuditedTable) -> Backfilled:
        leaves, total = self._extent(table)
        done = added = 0
        self.progress(Progress(table.regclass, done, total, added))
        for leaf in leaves:
            after: list[str] | None = None
            last: list[str] | None = None
            while (batch := self._batch(table, leaf, after, last)) is not None:
                after, last = list(batch.until), list(batch.final)
                done, added = done + batch.seen, added + batch.added
                self.progress(Progress(table.regclass, done, max(total, done), added))
        return Backfilled(table.regclass, done, added)

    def _extent(self, table: AuditedTable) -> tuple[list[str], int]:
        """Return the tables that hold the rows, and how many there are."""
        with self.engine.connect() as connection:
            exists = connection.scalar(
                sa.text("SELECT pg_catalog.to_regclass(CAST(:name AS text)) IS NOT NULL"),
                {"name": table.regclass},
            )
            if not exists:
                raise BackfillError(
                    f"The table {table.regclass} does not exist in this database: run the "
                    "migrations first (flask db upgrade)."
                )
            leaves = connection.scalars(
                sa.text(
                    "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) "
                    "FROM pg_catalog.pg_class AS c "
                    "JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) "
                    "c.relnamespace WHERE c.relkind OPERATOR(pg_catalog.=) 'r' AND ("
                    "c.oid OPERATOR(pg_catalog.=) CAST(:name AS regclass) OR c.oid IN ("
                    "SELECT t.relid FROM pg_catalog.pg_partition_tree(CAST(:name AS regclass)) "
                    "AS t)) ORDER BY 1"
                ),
                {"name": table.regclass},
            ).all()
            total = sum(
                connection.exec_driver_sql(
                    f"SELECT pg_catalog.count(*) FROM ONLY {leaf}",  # noqa: S608 - quoted above
                    execution_options={"no_parameters": True},
                ).scalar_one()
                for leaf in leaves
            )
        return list(leaves), total

    def _batch(
        self, table: AuditedTable, leaf: str, after: list[str] | None, last: list[str] | None
    ) -> Any:
        functions = getattr(sa.func, self.schema_name)
        call = functions.baseline_batch(
            as_regclass(table.regclass),
            as_regclass(leaf),
            sa.cast(after, sa.ARRAY(sa.Text)),
            sa.cast(last, sa.ARRAY(sa.Text)),
            sa.cast(self.batch_size, sa.Integer),
            as_jsonb([list(name) for name in table.place.names]),
        ).table_valued("until", "final", "seen", "added")
        return patiently(
            self.engine,
            lambda connection: connection.execute(sa.select(call)).first(),
            table.regclass,
            lock_timeout=self.lock_timeout,
            attempts=self.attempts,
            progress=self.log,
        )
