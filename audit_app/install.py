"""Installing the trail over a live connection. The catalog is the truth: ask it, then act."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from audit_app import sql
from audit_app.errors import (
    AuditError,
    BackfillError,
    InstallationConflictError,
    InvalidOptionError,
    MissingPrimaryKeyError,
    NotInstalledError,
    NotVersionedError,
    TableBusyError,
    UnknownColumnError,
    UnsupportedDatabaseError,
)

T = TypeVar("T")

if TYPE_CHECKING:
    from audit_app.ddl import AuditedTable, Trail

BUSY = frozenset({"55P03", "40P01"})
"""What PostgreSQL says where others were first: lock_not_available, deadlock_detected."""

_UNDEFINED = frozenset({"3F000", "42P01", "42883"})  # schema, table, function
_ERRORS: dict[str, type[AuditError]] = {
    "55000": BackfillError,  # object_not_in_prerequisite_state
    "42703": UnknownColumnError,  # undefined_column
    "42710": InstallationConflictError,  # duplicate_object
    "42P16": MissingPrimaryKeyError,  # invalid_table_definition
    "22023": InvalidOptionError,  # invalid_parameter_value
}


# In what an administrator runs, everything is qualified: another role may have made a function or
# an operator that fits the arguments better than PostgreSQL's own.
_NAMESPACE = "pg_catalog.to_regnamespace(pg_catalog.quote_ident(CAST(:name AS text)))"


def require_postgresql(dialect: sa.Dialect) -> None:
    """Refuse a database that cannot hold the trail.

    :raises UnsupportedDatabaseError: if it is not PostgreSQL.
    """
    if dialect.name != "postgresql":
        raise UnsupportedDatabaseError(
            f"The audit trail works on PostgreSQL only, and this application's database is "
            f"{dialect.name}: set SQLALCHEMY_DATABASE_URI to a postgresql+psycopg2:// address."
        )


def is_installed(connection: sa.Connection, trail: Trail) -> bool:
    """Tell whether the tables of the trail exist in this database."""
    query = sa.text(
        "SELECT pg_catalog.to_regclass(CAST(:activity AS text)) IS NOT NULL "
        "AND pg_catalog.to_regclass(CAST(:other AS text)) IS NOT NULL"
    )
    schema = '"' + trail.schema_name.replace('"', '""') + '"'
    names = {"activity": f"{schema}.activity", "other": f"{schema}.transaction"}
    return bool(connection.scalar(query, names))


def install_schema(connection: sa.Connection, trail: Trail) -> None:
    """Create the schema; nothing happens if it exists."""
    require_postgresql(connection.dialect)
    exists = connection.scalar(
        sa.text(f"SELECT {_NAMESPACE} IS NOT NULL"),
        {"name": trail.schema_name},
    )
    if not exists:
        connection.execute(sa.text(trail.schema_sql))


def install_trail(connection: sa.Connection, trail: Trail, *, anew: bool = False) -> None:
    """Create or update the tables and functions of the trail; a current one is left alone.

    :param anew: make the functions again even if their version is the current one.
    :raises UnsupportedDatabaseError: if the database is not PostgreSQL.
    :raises InstallationConflictError: if the schema, or something in it, is somebody else's.
    """
    install_schema(connection, trail)
    comment = connection.scalar(
        sa.text(
            f"SELECT pg_catalog.obj_description(CAST({_NAMESPACE} AS oid), "
            "CAST('pg_namespace' AS name))"
        ),
        {"name": trail.schema_name},
    )
    is_current = comment is not None and trail.digest in comment
    if anew or not is_current or not is_installed(connection, trail):
        try:
            with connection.begin_nested():
                connection.execute(sa.text(trail.install_sql))
        except sa.exc.DBAPIError as error:
            raise explain(error, trail.schema_name) from error


def install_tables(connection: sa.Connection, tables: Iterable[AuditedTable]) -> None:
    """Start to track each of ``tables`` that exists in the database.

    :raises NotInstalledError: if the trail is not installed.
    :raises InstallationConflictError: if a table has a trigger of ours that is somebody else's.
    """
    for table in tables:
        if relations(connection, [table.regclass]) != [None]:
            _run(
                connection,
                table,
                "audit_table",
                sa.cast(sa.literal(list(table.exclude), sa.ARRAY(sa.Text)), sa.ARRAY(sa.Text)),
                as_jsonb(table.options.as_dict()),
            )


def uninstall_table(connection: sa.Connection, table: AuditedTable) -> None:
    """Stop to track ``table``. What was recorded stays.

    :raises NotInstalledError: if the trail is not installed.
    """
    _run(connection, table, "unaudit_table")


def install_online(
    engine: sa.Engine,
    trail: Trail,
    tables: Iterable[AuditedTable],
    *,
    lock_timeout: int = 1000,
    attempts: int = 30,
    progress: Callable[[str], None] = lambda line: None,
) -> None:
    """Install on a database in use: a transaction for each table, and no waiting in its way.

    Making a trigger waits for open writers, and whoever writes next waits behind it. So the wait is
    cut short, and tried again after a pause in which the others go on.

    :param lock_timeout: milliseconds to wait for a table, and so to keep others waiting.
    :param attempts: how often to try each table.
    :param progress: called with a line for each table, and for each attempt that gave up.
    :raises TableBusyError: if a table stayed busy; those before it are installed.
    """
    with engine.begin() as connection:
        install_trail(connection, trail, anew=True)
    for table in tables:
        patiently(
            engine,
            lambda connection, table=table: install_tables(connection, [table]),  # type: ignore[misc]
            table.regclass,
            lock_timeout=lock_timeout,
            attempts=attempts,
            progress=progress,
        )
        progress(f"{table.regclass}: tracked")


def uninstall_online(
    engine: sa.Engine,
    trail: Trail,
    names: Sequence[str] = (),
    *,
    lock_timeout: int = 1000,
    attempts: int = 30,
    progress: Callable[[str], None] = lambda line: None,
) -> None:
    """Stop to track tables on a database in use. What was recorded stays.

    :param names: the tables, as SQL writes them; none means all that are tracked, declared or not.
    :raises NotInstalledError: if the trail is not installed.
    :raises NotVersionedError: if one of ``names`` is not tracked; nothing was changed then.
    :raises TableBusyError: if a table stayed busy; those before it are done.
    """
    with engine.connect() as connection:
        if not is_installed(connection, trail):
            raise not_installed(trail.schema_name)
        tracked: dict[int | None, str] = {
            row.oid: row.name for row in connection.execute(_TRACKED, {"schema": trail.schema_name})
        }
        oids = relations(connection, names)
    for name, oid in zip(names, oids, strict=True):
        if oid not in tracked:
            known = ", ".join(sorted(tracked.values())) or "none is"
            raise NotVersionedError(f"{name!r} is not a tracked table; tracked: {known}.")
    function = getattr(getattr(sa.func, trail.schema_name), "unaudit_table")  # noqa: B009
    for oid in oids if names else tracked:
        call = sa.select(function(as_regclass(tracked[oid])))
        patiently(
            engine,
            lambda connection, call=call: connection.execute(call),  # type: ignore[misc]
            tracked[oid],
            lock_timeout=lock_timeout,
            attempts=attempts,
            progress=progress,
        )
        progress(f"{tracked[oid]}: not tracked any more")


def drop_trail(engine: sa.Engine, trail: Trail) -> None:
    """Drop the audit schema with all history, and see that it is gone.

    :raises NotInstalledError: if the trail is not installed.
    """
    with engine.begin() as connection:
        if not is_installed(connection, trail):
            raise not_installed(trail.schema_name)
        connection.execute(sa.text(trail.drop_sql))
        if is_installed(connection, trail):
            raise InstallationConflictError(
                f"The schema {trail.schema_name!r} is still there: something keeps it from going."
            )


_TRACKED = sa.text(sql.query("tracked"))


def patiently(
    engine: sa.Engine,
    step: Callable[[sa.Connection], T],
    name: str,
    *,
    lock_timeout: int = 1000,
    attempts: int = 30,
    busy: Collection[str] = BUSY,
    progress: Callable[[str], None] = lambda line: None,
) -> T:
    """Run ``step`` in a transaction that waits for locks no longer than ``lock_timeout``.

    :param name: of the table, for the messages.
    :param busy: PostgreSQL's codes for the errors after which it is tried again.
    :raises TableBusyError: if the table stayed busy in every attempt.
    """
    for attempt in range(1, attempts + 1):
        try:
            with engine.begin() as connection:
                connection.execute(sa.text(f"SET LOCAL lock_timeout = {int(lock_timeout)}"))
                return step(connection)
        except sa.exc.DBAPIError as error:
            if sqlstate(error) not in busy:
                raise
            if attempt == attempts:
                raise TableBusyError(
                    f"{name} was busy in {attempts} attempts: end the transactions "
                    "that hold it (pg_stat_activity shows them), and run this again."
                ) from error
            progress(f"{name}: busy, attempt {attempt} of {attempts}")
            time.sleep(lock_timeout / 1000)
    raise TableBusyError(f"attempts={attempts} must be 1 or more.")


def check_table(connection: sa.Connection, table: AuditedTable) -> Sequence[Any]:
    """Compare the tracking of ``table``, which exists, with what is declared.

    :return: rows with ``code``, ``relation`` and ``message``.
    """
    function = getattr(sa.func, table.audit_schema).check_table
    call = function(as_regclass(table.regclass), as_jsonb(table.wanted))
    return connection.execute(sa.select(call.table_valued("code", "relation", "message"))).all()


def _run(
    connection: sa.Connection, table: AuditedTable, function: str, *arguments: sa.Cast[Any]
) -> None:
    call = getattr(getattr(sa.func, table.audit_schema), function)
    # In autocommit, a statement is a transaction of its own, and has no use for a savepoint.
    is_alone = getattr(connection.connection.driver_connection, "autocommit", False)
    try:
        with nullcontext() if is_alone else connection.begin_nested():
            connection.execute(sa.select(call(as_regclass(table.regclass), *arguments)))
    except sa.exc.DBAPIError as error:
        raise explain(error, table.audit_schema) from error


def relations(connection: sa.Connection, names: Sequence[str]) -> list[int | None]:
    """Resolve quoted names by the connection's search_path; None for what does not exist."""
    query = sa.text(
        "SELECT CAST(CAST(pg_catalog.to_regclass(n.name) AS oid) AS bigint) AS oid "
        "FROM pg_catalog.unnest(CAST(:names AS text[])) WITH ORDINALITY AS n (name, position) "
        "ORDER BY n.position"
    )
    return list(connection.scalars(query, {"names": list(names)}))


def as_regclass(name: str) -> sa.Cast[Any]:
    """Bind the quoted name of a relation, to be resolved by PostgreSQL."""
    return sa.cast(sa.literal(name, sa.Text), REGCLASS)


def as_jsonb(value: object) -> sa.Cast[Any]:
    """Bind a value as ``jsonb``."""
    return sa.cast(sa.literal(json.dumps(value), sa.Text), postgresql.JSONB)


def explain(error: sa.exc.DBAPIError, schema_name: str) -> Exception:
    """Return the error of ours that says what ``error`` means; the same where it says all."""
    if is_missing(error, schema_name):
        return not_installed(schema_name)
    kind = _ERRORS.get(sqlstate(error) or "")
    diagnosis = getattr(error.orig, "diag", None)
    if kind is None or diagnosis is None:
        return error
    return kind(f"{diagnosis.message_primary}: {diagnosis.message_hint}")


def sqlstate(error: BaseException | None) -> str | None:
    """Return the five-character code that PostgreSQL gave ``error``; None if it gave none."""
    original = getattr(error, "orig", error)
    # The name of the attribute in psycopg and in psycopg2.
    return getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)


def is_missing(error: BaseException, schema_name: str) -> bool:
    """Tell whether a statement failed because the trail in ``schema_name`` does not exist."""
    diagnosis = getattr(getattr(error, "orig", error), "diag", None)
    if sqlstate(error) not in _UNDEFINED or diagnosis is None:
        return False
    # Whatever the server's language, the message quotes the name of what it looked for.
    message = str(diagnosis.message_primary)
    return any(
        form in message for form in (f'"{schema_name}"', f'"{schema_name}.', f" {schema_name}.")
    )


def not_installed(schema_name: str) -> NotInstalledError:
    """Return the error for a database without the trail."""
    return NotInstalledError(
        f"The audit schema {schema_name!r} is not installed in this database: run the migrations "
        "(flask db upgrade), or db.create_all() for a database without migrations."
    )


class REGCLASS(sa.types.UserDefinedType[str]):
    """The name of a relation, resolved by PostgreSQL."""

    cache_ok = True

    def get_col_spec(self, **kw: object) -> str:
        return "REGCLASS"
