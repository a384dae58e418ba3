"""What is installed, as values: a tracked table, and the trail itself. Nothing here does I/O."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from audit_app import sql
from audit_app.errors import (
    ConfigurationError,
    InvalidOptionError,
    MissingPrimaryKeyError,
    UnknownColumnError,
)

_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]
_OPTIONS = frozenset({"exclude"})


@dataclass(frozen=True)
class AuditedTable:
    """A table whose changes are recorded.

    :ivar audit_schema: the schema of the trail.
    :ivar explicit_schema: the schema as the application names it; None leaves it to the
        connection's search_path.
    :ivar name: the table's name.
    :ivar exclude: names of the columns that are never stored, in the order of the alphabet.
    """

    audit_schema: str
    explicit_schema: str | None
    name: str
    exclude: tuple[str, ...] = ()

    @property
    def schema(self) -> str:
        """The schema under which the trail knows the table."""
        return self.explicit_schema or "public"

    @property
    def regclass(self) -> str:
        """The quoted name, as text for ``regclass``."""
        parts = [self.explicit_schema, self.name] if self.explicit_schema else [self.name]
        return ".".join(sql.quote_identifier(part) for part in parts)

    @property
    def create_sql(self) -> str:
        """The statement that starts the tracking, or brings it up to date."""
        columns = ", ".join(sql.quote_literal(column) for column in self.exclude)
        exclude = f", ARRAY[{columns}]::text[]" if columns else ""
        return f"SELECT {self._function('audit_table')}({self._target}{exclude})"

    @property
    def drop_sql(self) -> str:
        """The statement that stops the tracking; what was recorded stays."""
        return f"SELECT {self._function('unaudit_table')}({self._target})"

    @property
    def digest(self) -> str:
        """SHA-256 over the options, in hexadecimal."""
        return hashlib.sha256(self.create_sql.encode()).hexdigest()

    @property
    def _target(self) -> str:
        return sql.quote_literal(self.regclass) + "::regclass"

    def _function(self, name: str) -> str:
        return f"{sql.quote_identifier(self.audit_schema)}.{name}"


@dataclass(frozen=True)
class Trail:
    """The audit schema: its tables and its functions.

    :ivar tables: the ``Table`` objects of transaction and activity.
    """

    schema_name: str
    tables: tuple[sa.Table, ...]

    @property
    def schema_sql(self) -> str:
        return sql.render("create_schema.sql", self.schema_name)

    @property
    def drop_sql(self) -> str:
        return sql.render("drop_schema.sql", self.schema_name)

    @property
    def tables_sql(self) -> str:
        """CREATE … IF NOT EXISTS for the tables and their indexes."""
        statements: list[str] = []
        for table in self.tables:
            elements: list[Any] = [CreateTable(table, if_not_exists=True)]
            elements += [
                CreateIndex(index, if_not_exists=True)
                for index in sorted(table.indexes, key=lambda index: str(index.name))
            ]
            statements += [str(element.compile(dialect=_DIALECT)).strip() for element in elements]
        return "".join(f"{statement};\n" for statement in statements)

    @cached_property
    def functions_sql(self) -> str:
        """CREATE OR REPLACE for every function, and the triggers that guard the trail."""
        files = ("jsonb_change_key_name.sql", *sql.FUNCTIONS, *sql.INSTALLERS)
        return "\n".join(sql.render(name, self.schema_name) for name in files)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the functions, in hexadecimal."""
        return hashlib.sha256(self.functions_sql.encode()).hexdigest()

    @property
    def comment_sql(self) -> str:
        """Leaves the digest on the schema, so that an installation can be told from another."""
        schema = sql.quote_identifier(self.schema_name)
        return f"COMMENT ON SCHEMA {schema} IS 'audit_app sha256={self.digest}';\n"

    @property
    def install_sql(self) -> str:
        """Everything but the schema itself."""
        return self.tables_sql + self.functions_sql + self.comment_sql


def audited_table(
    audit_schema: str,
    table: sa.Table,
    options: object,
    *,
    owner: str,
    aliases: Mapping[str, str] | None = None,
) -> AuditedTable:
    """Check a table's options and return what they mean.

    :param options: the value of ``__versioned__`` or of ``info["versioned"]``.
    :param owner: the model or table as error messages name it.
    :param aliases: names of the model's attributes, with the columns that they stand for.
    :raises InvalidOptionError, UnknownColumnError, MissingPrimaryKeyError: as they say.
    """
    if not isinstance(options, Mapping):
        raise InvalidOptionError(
            f"{owner} has __versioned__ = {options!r}: write {{}} or {{'exclude': ['column', …]}}."
        )
    unknown = sorted(map(str, set(options) - _OPTIONS))
    if unknown:
        raise InvalidOptionError(
            f"{owner} has the unknown __versioned__ option {unknown[0]!r}: "
            f"use {', '.join(sorted(_OPTIONS))}."
        )
    if not len(table.primary_key):
        raise MissingPrimaryKeyError(
            f"{owner} has no primary key, so its records cannot be told apart: add one to the "
            f"table {table.fullname!r}, or do not track it."
        )
    return AuditedTable(
        audit_schema=audit_schema,
        explicit_schema=table.schema,
        name=table.name,
        exclude=_excluded_columns(table, options.get("exclude", ()), owner, aliases or {}),
    )


def merge(tables: Iterable[AuditedTable]) -> tuple[AuditedTable, ...]:
    """Join the entries of classes that share a table: what one of them excludes is excluded."""
    merged: dict[tuple[str | None, str], AuditedTable] = {}
    for table in tables:
        key = (table.explicit_schema, table.name)
        exclude = set(table.exclude) | set(merged[key].exclude if key in merged else ())
        merged[key] = AuditedTable(
            table.audit_schema, table.explicit_schema, table.name, tuple(sorted(exclude))
        )
    return tuple(merged[key] for key in sorted(merged, key=lambda key: (key[0] or "", key[1])))


def check_trail_tables(tables: Sequence[sa.Table], audited: Iterable[AuditedTable]) -> None:
    """Refuse to let the trail record itself.

    :raises ConfigurationError: if one of ``audited`` is a table of the trail.
    """
    own = {(table.schema, table.name) for table in tables}
    for table in audited:
        if (table.explicit_schema, table.name) in own:
            raise ConfigurationError(
                f"{table.regclass} is a table of the audit trail: track your own tables."
            )


def _excluded_columns(
    table: sa.Table, exclude: object, owner: str, aliases: Mapping[str, str]
) -> tuple[str, ...]:
    if isinstance(exclude, str) or not isinstance(exclude, Iterable):
        raise InvalidOptionError(
            f"{owner} has exclude = {exclude!r}: write a list of column names, as in "
            f"{{'exclude': [{exclude!r}]}}."
        )
    columns = set()
    for given in exclude:
        name = str(getattr(given, "name", given))
        column = name if name in table.c else aliases.get(name, name)
        if column not in table.c:
            raise UnknownColumnError(
                f"{owner} excludes {name!r}, but the table {table.fullname!r} has no such column: "
                f"use one of {', '.join(sorted(table.c.keys()))}."
            )
        if table.c[column].primary_key:
            raise InvalidOptionError(
                f"{owner} excludes {name!r}, which belongs to the primary key: a record without "
                "its identity has no history, so remove it from 'exclude'."
            )
        columns.add(table.c[column].name)
    return tuple(sorted(columns))
