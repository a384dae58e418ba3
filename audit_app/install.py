"""Installing the trail over a live connection. The catalog is the truth: ask it, then act."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from audit_app.errors import (
    AuditError,
    InstallationConflictError,
    InvalidOptionError,
    MissingPrimaryKeyError,
    NotInstalledError,
    TableBusyError,
    UnknownColumnError,
    UnsupportedDatabaseError,
)

if TYPE_CHECKING:
    from audit_app.ddl import AuditedTable, Trail

_LOCK_NOT_AVAILABLE = "55P03"
_UNDEFINED = frozenset({"3F000", "42P01", "42883"})  # schema, table, function
_ERRORS: dict[str, type[AuditError]] = {
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
            raise _explain(error, trail.schema_name) from error


def _exists(connection: sa.Connection, name: str) -> bool:
    query = sa.text("SELECT pg_catalog.to_regclass(CAST(:name AS text)) IS NOT NULL")
    return bool(connection.scalar(query, {"name": name}))


def install_tables(connection: sa.Connection, tables: Iterable[AuditedTable]) -> None:
    """Start to track each of ``tables`` that exists in the database.

    :raises NotInstalledError: if the trail is not installed.
    :raises InstallationConflictError: if a table has a trigger of ours that is somebody else's.
    """
    for table in tables:
        if _exists(connection, table.regclass):
            _run(
                connection,
                table,
                "audit_table",
                sa.cast(sa.literal(list(table.exclude), sa.ARRAY(sa.Text)), sa.ARRAY(sa.Text)),
                _jsonb(table.options.as_dict()),
            )


def uninstall_table(connection: sa.Connection, table: AuditedTable) -> None:
    """Stop to track ``table``. What was recorded stays.

    :raises NotInstalledError: if the trail is not installed.
    """
    _run(connection, table, "unaudit_table")


def _check_functions(connection: sa.Connection, trail: Trail) -> list[Finding]:
    """Compare the functions of the trail with those of this version of the package."""
    query = sa.text(
        "SELECT CAST(proname AS text) AS name, prosrc AS body FROM pg_catalog.pg_proc "
        "WHERE pronamespace OPERATOR(pg_catalog.=) CAST("
        "pg_catalog.to_regnamespace(pg_catalog.quote_ident(CAST(:name AS text))) AS oid)"
    )
    rows = connection.execute(query, {"name": trail.schema_name})
    installed: dict[str, str] = {row.name: row.body for row in rows}
    findings = []
    for name, body in trail.function_bodies.items():
        where = f"{trail.schema_name}.{name}()"
        if name not in installed:
            findings.append(Finding("missing", where, "is not installed", _AGAIN))
        elif installed[name] != body:
            message = "is another version's, or was altered"
            findings.append(Finding("altered", where, message, _AGAIN))
    return findings


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
        for attempt in range(1, attempts + 1):
            try:
                with engine.begin() as connection:
                    connection.execute(sa.text(f"SET LOCAL lock_timeout = {int(lock_timeout)}"))
                    install_tables(connection, [table])
            except sa.exc.OperationalError as error:
                if sqlstate(error) != _LOCK_NOT_AVAILABLE:
                    raise
                if attempt == attempts:
                    raise TableBusyError(
                        f"{table.regclass} was busy in {attempts} attempts: end the transactions "
                        "that hold it (pg_stat_activity shows them), and install again."
                    ) from error
                progress(f"{table.regclass}: busy, attempt {attempt} of {attempts}")
                time.sleep(lock_timeout / 1000)
            else:
                progress(f"{table.regclass}: tracked")
                break


@dataclass(frozen=True)
class Finding:
    """Something about the installation that is not as it should be.

    :ivar code: what kind of thing: ``untracked``, ``drift``, ``partition``, …
    :ivar table: the table it is about.
    :ivar message: what is wrong.
    :ivar remedy: what to do.
    """

    code: str
    table: str
    message: str
    remedy: str

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


_AGAIN = "Install the trail again: flask audit install."
_REMEDIES = {
    "grant": "Take it away: REVOKE … FROM …, or flask audit grant --role ….",
    "append_only": _AGAIN,
    "missing": "Create the table, or stop tracking it.",
    "order": "Rename that trigger, so that ours comes first and records causes before effects.",
    "owner": "Let the owner of the trail install it: flask audit grant --owner ….",
    "type": "Give the type to the owner of the table: ALTER TYPE … OWNER TO ….",
    "child": "Track the child too: it needs a primary key and audit_table().",
    "subscription": "Track it with __versioned__ = {'level': 'row'}.",
}


def check(
    connection: sa.Connection, trail: Trail, tables: Iterable[AuditedTable]
) -> tuple[Finding, ...]:
    """Compare the installation with ``tables``. Reads the catalog, changes nothing.

    :return: what is not as it should be, in the order of the tables; nothing if all is well.
    :raises NotInstalledError: if the trail is not installed.
    """
    if not is_installed(connection, trail):
        raise not_installed(trail.schema_name)
    functions = getattr(sa.func, trail.schema_name)
    findings = _check_functions(connection, trail)
    if any(finding.code == "missing" for finding in findings):
        return tuple(findings)  # an older version: what would tell more is not there
    columns = ("code", "relation", "message")
    for row in connection.execute(sa.select(functions.check_trail().table_valued(*columns))):
        remedy = _REMEDIES.get(row.code, "")
        findings.append(Finding(row.code, row.relation, row.message, remedy))
    for table in tables:
        name = table.regclass
        if not _exists(connection, name):
            findings.append(Finding("missing", name, "does not exist", _REMEDIES["missing"]))
            continue
        again = f"Track it again: {table.create_sql};"
        findings += [
            Finding(row.code, row.relation, row.message, _REMEDIES.get(row.code, again))
            for row in check_table(connection, table)
        ]
    return tuple(findings)


def check_table(connection: sa.Connection, table: AuditedTable) -> Sequence[Any]:
    """Compare the tracking of ``table``, which exists, with what is declared.

    :return: rows with ``code``, ``relation`` and ``message``.
    """
    options = {"exclude": list(table.exclude), **table.options.as_dict()}
    function = getattr(sa.func, table.audit_schema).check_table
    call = function(_regclass(table.regclass), _jsonb(options))
    return connection.execute(sa.select(call.table_valued("code", "relation", "message"))).all()


def _run(
    connection: sa.Connection, table: AuditedTable, function: str, *arguments: sa.Cast[Any]
) -> None:
    call = getattr(getattr(sa.func, table.audit_schema), function)
    try:
        with connection.begin_nested():
            connection.execute(sa.select(call(_regclass(table.regclass), *arguments)))
    except sa.exc.DBAPIError as error:
        raise _explain(error, table.audit_schema) from error


def _regclass(name: str) -> sa.Cast[Any]:
    return sa.cast(sa.literal(name, sa.Text), REGCLASS)


def _jsonb(value: object) -> sa.Cast[Any]:
    return sa.cast(sa.literal(json.dumps(value), sa.Text), postgresql.JSONB)


def _explain(error: sa.exc.DBAPIError, schema_name: str) -> Exception:
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
