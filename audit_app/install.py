"""Installing the trail over a live connection. The catalog is the truth: ask it, then act."""

from __future__ import annotations

import json
from collections.abc import Iterable
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
    UnknownColumnError,
    UnsupportedDatabaseError,
)

if TYPE_CHECKING:
    from audit_app.ddl import AuditedTable, Trail

_UNDEFINED = frozenset({"3F000", "42P01", "42883"})  # schema, table, function
_ERRORS: dict[str, type[AuditError]] = {
    "42703": UnknownColumnError,  # undefined_column
    "42710": InstallationConflictError,  # duplicate_object
    "42P16": MissingPrimaryKeyError,  # invalid_table_definition
    "22023": InvalidOptionError,  # invalid_parameter_value
}


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
    query = sa.text("SELECT to_regclass(:activity) IS NOT NULL AND to_regclass(:other) IS NOT NULL")
    schema = '"' + trail.schema_name.replace('"', '""') + '"'
    names = {"activity": f"{schema}.activity", "other": f"{schema}.transaction"}
    return bool(connection.scalar(query, names))


def install_schema(connection: sa.Connection, trail: Trail) -> None:
    """Create the schema; nothing happens if it exists."""
    require_postgresql(connection.dialect)
    exists = connection.scalar(
        sa.text("SELECT to_regnamespace(quote_ident(:name)) IS NOT NULL"),
        {"name": trail.schema_name},
    )
    if not exists:
        connection.execute(sa.text(trail.schema_sql))


def install_trail(connection: sa.Connection, trail: Trail) -> None:
    """Create or update the tables and functions of the trail; a current one is left alone.

    :raises UnsupportedDatabaseError: if the database is not PostgreSQL.
    :raises InstallationConflictError: if the schema, or something in it, is somebody else's.
    """
    install_schema(connection, trail)
    comment = connection.scalar(
        sa.text("SELECT obj_description(to_regnamespace(quote_ident(:name)), 'pg_namespace')"),
        {"name": trail.schema_name},
    )
    if comment is None or trail.digest not in comment or not is_installed(connection, trail):
        try:
            with connection.begin_nested():
                connection.execute(sa.text(trail.install_sql))
        except sa.exc.DBAPIError as error:
            raise _explain(error, trail.schema_name) from error


def install_tables(connection: sa.Connection, tables: Iterable[AuditedTable]) -> None:
    """Start to track each of ``tables`` that exists in the database.

    :raises NotInstalledError: if the trail is not installed.
    :raises InstallationConflictError: if a table has a trigger of ours that is somebody else's.
    """
    for table in tables:
        if connection.scalar(sa.text("SELECT to_regclass(:name)"), {"name": table.regclass}):
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


_REMEDIES = {
    "missing": "Create the table, or stop tracking it.",
    "order": "Rename that trigger, so that ours comes last.",
    "owner": "Let the owner of the trail install it: flask audit grant --owner ….",
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
    check_table = getattr(sa.func, trail.schema_name).check_table
    findings = []
    for table in tables:
        name = table.regclass
        if not connection.scalar(sa.text("SELECT to_regclass(:name)"), {"name": name}):
            findings.append(Finding("missing", name, "does not exist", _REMEDIES["missing"]))
            continue
        options = {"exclude": list(table.exclude), **table.options.as_dict()}
        call = check_table(_regclass(name), _jsonb(options)).table_valued(
            "code", "relation", "message"
        )
        rows = connection.execute(sa.select(call))
        again = f"Track it again: {table.create_sql};"
        findings += [
            Finding(row.code, row.relation, row.message, _REMEDIES.get(row.code, again))
            for row in rows
        ]
    return tuple(findings)


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
