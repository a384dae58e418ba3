"""The SQL of the trail: files beside this module, with ``@schema@`` where the schema's name goes.

The rendered text is valid under ``op.execute(text)``, ``sa.text()`` and ``sa.schema.DDL()`` alike,
which treat ``%`` and ``:name`` each in their own way: so the files hold neither. (Those in the
folder ``importing`` are statements with bound parameters, for :mod:`audit_app.importing` alone;
those in ``queries`` are read by :func:`query`.)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib import resources

from audit_app.errors import ConfigurationError

FUNCTIONS: Sequence[str] = ("values.sql", "transaction_id.sql", "suspend.sql", "capture.sql")
"""What the capture functions call, in the order of their creation."""

INSTALLERS: Sequence[str] = (
    "audit_table.sql",
    "baseline.sql",
    "check.sql",
    "append_only.sql",
    "partitions.sql",
    "export.sql",
    "retention.sql",
    "evolve.sql",
    "past.sql",
    "check_trail.sql",
    "roles.sql",
)
"""What starts and stops the tracking of a table, and what keeps the trail as it is."""

_NAME_LIMIT = 63  # bytes: NAMEDATALEN - 1


def names() -> tuple[str, ...]:
    """Return the names of all SQL files."""
    return tuple(
        sorted(
            entry.name
            for entry in resources.files(__package__).iterdir()
            if entry.name.endswith(".sql")
        )
    )


def render(name: str, schema_name: str) -> str:
    """Return the SQL of the file ``name`` for the audit schema ``schema_name``.

    :raises ConfigurationError: if there is no such file.
    """
    if name not in names():
        raise ConfigurationError(f"There is no SQL file {name!r}: use one of {', '.join(names())}.")
    return _place(_read(name), schema_name)


def query(name: str, schema_name: str = "") -> str:
    """Return the query ``name`` of the folder ``queries``, for ``sa.text()``.

    One that names a schema of the trail is to run with ``search_path = pg_catalog, pg_temp``; the
    others name everything in full.
    """
    return _place(_read(f"queries/{name}.sql"), schema_name)


def _place(text: str, schema_name: str) -> str:
    return text.replace("@schema_literal@", quote_literal(schema_name)).replace(
        "@schema@", quote_identifier(schema_name)
    )


def check_schema_name(schema_name: str) -> str:
    """Return ``schema_name`` if a schema of the trail may have it.

    :raises ConfigurationError: if PostgreSQL would cut or refuse the name, or if the name holds a
        character that ``sa.text()`` or ``sa.schema.DDL()`` would take for a placeholder.
    """
    if not schema_name or len(schema_name.encode()) > _NAME_LIMIT:
        raise ConfigurationError(
            f"schema_name={schema_name!r} must be 1 to {_NAME_LIMIT} bytes long: choose another."
        )
    if re.search(r"[%:'\\$\x00]", schema_name) or schema_name.startswith("pg_"):
        raise ConfigurationError(
            f"schema_name={schema_name!r} must not hold % : ' \\ $ and not begin with pg_: "
            "choose another name for the audit schema."
        )
    return schema_name


def quote_identifier(name: str) -> str:
    """Return ``name`` as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def quote_literal(value: str) -> str:
    """Return ``value`` as an SQL string literal."""
    return "'" + value.replace("'", "''") + "'"


def plain_literal(value: str) -> str:
    """Return ``value`` as an SQL string literal without ``%`` and ``:``.

    ``sa.text()`` and ``sa.schema.DDL()`` would take these for placeholders.
    """
    if not re.search(r"[:%]", value):
        return quote_literal(value)
    escaped = value.replace("\\", "\\\\").replace(":", "\\003a").replace("%", "\\0025")
    return f"U&{quote_literal(escaped)}"


@cache
def _read(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
