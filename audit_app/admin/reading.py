"""A session for reading the trail that leaves the host's own session alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import sqlalchemy as sa
from flask import current_app
from sqlalchemy import orm

from audit_app import models, reader
from audit_app.admin.source import Source
from audit_app.checks import Finding
from audit_app.ddl import Trail
from audit_app.errors import NotRegisteredError
from audit_app.follow import Related
from audit_app.formerly import Place
from audit_app.labels import Labels
from audit_app.revert.plan import Plan


class Logger(Protocol):
    """What the pages use of an :class:`audit_app.AuditLogger`."""

    schema_name: str
    can_view: Callable[[Any], bool] | None
    can_view_table: Callable[[Any, Any], bool] | None
    can_view_activity: Callable[[Any, Any], bool] | None
    can_export: Callable[[Any], bool] | None
    can_restore: Callable[[Any], bool] | None
    labels: Labels

    @property
    def activity_cls(self) -> Any: ...
    @property
    def transaction_cls(self) -> Any: ...
    @property
    def base(self) -> type[Any]: ...
    @property
    def session(self) -> Any: ...
    @property
    def trail(self) -> Trail: ...
    def check(self, connection: sa.Connection) -> tuple[Finding, ...]: ...
    def audited_tables(self) -> tuple[Any, ...]: ...
    def place(self, schema_name: str, table_name: str) -> Place: ...
    def is_tracked(self, schema_name: str, table_name: str) -> bool: ...
    def related(self, schema_name: str, table_name: str) -> tuple[Related, ...]: ...
    def current_actor(self) -> Any: ...
    def plan_restore(self, target: Any, identity: Any, version: int, *, session: Any) -> Plan: ...
    def plan_undelete(self, target: Any, identity: Any, *, session: Any) -> Plan: ...
    def plan_undo(self, transaction_id: int, *, session: Any) -> Plan: ...


def current_logger() -> Logger:
    """Return the AuditLogger of the current application.

    :raises NotRegisteredError: if there is none.
    """
    logger: Logger | None = current_app.extensions.get("audit_app")
    if logger is None:
        raise NotRegisteredError
    return logger


@contextmanager
def reading(
    logger: Logger,
    *,
    search_path: bool = False,
    timeout: int | None = None,
    is_primary: bool = False,
) -> Iterator[orm.Session]:
    """Yield a session of its own for one page: read-only, bounded in time, rolled back at the end.

    PostgreSQL's own functions and operators are found, and no others: one that another role made
    would run with the rights of whoever reads the trail.

    :param search_path: keep the connection's, for a page that looks the application's tables up
        by their names; what it runs must name everything with its schema.
    :param timeout: milliseconds for a statement, instead of ``AUDIT_STATEMENT_TIMEOUT``.
    :param is_primary: read from the application's own database whatever ``AUDIT_READ_BIND`` says,
        for what is to be acted on.
    :raises ReaderAwayError: if the database of ``AUDIT_READ_BIND`` does not answer.
    """
    source = Source.of_request()
    key = None if is_primary else source.key
    bind = reader.primary_of(logger) if key is None else reader.reader_of(key)
    if timeout is None:
        timeout = int(current_app.config.get("AUDIT_STATEMENT_TIMEOUT", 5000))
    with reader.read_only(bind) as session:
        session.execute(sa.text(f"SET LOCAL statement_timeout = {timeout}"))
        # Estimates are high where nothing was analyzed yet, and to compile a plan takes longer than
        # a page may.
        session.execute(sa.text("SET LOCAL jit = off"))
        if not search_path:
            session.execute(sa.text("SET LOCAL search_path = pg_catalog, pg_temp"))
        if key is not None and source.lag is None:
            source.lag = reader.lag(session)
        yield session


@contextmanager
def aside(session: orm.Session) -> Iterator[None]:
    """Read the application's own tables in the block.

    A migration that holds one of them is not waited for, and neither an error in the block nor a
    setting that it makes outlasts it.
    """
    nested = session.begin_nested()
    try:
        session.execute(sa.text(f"SET LOCAL lock_timeout = {_PATIENCE}"))
        yield
    finally:
        nested.rollback()


_PATIENCE = 250  # milliseconds


def column_order(logger: Logger, row: Any) -> tuple[str, ...]:
    """Return the names of the columns of an activity's table, in the model's order.

    Empty where no model is mapped to the table.
    """
    if row.schema_name is None:
        return ()
    metadata: sa.MetaData = logger.base.metadata
    place = logger.place(row.schema_name, row.table_name)
    table = models.find_table(metadata, place.schema, place.name)
    return () if table is None else tuple(table.columns.keys())


def present(logger: Logger, row: Any) -> Any:
    """Return an activity's row under the present names of its table's columns."""
    if row.schema_name is None:
        return row
    return logger.place(row.schema_name, row.table_name).formerly.present_row(row)
