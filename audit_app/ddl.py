"""What is installed, as values: a tracked table, and the trail itself. Nothing here does I/O."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateColumn, CreateIndex, CreateTable

from audit_app import follow, sql
from audit_app import formerly as former
from audit_app.errors import (
    ConfigurationError,
    InvalidOptionError,
    MissingPrimaryKeyError,
    UnknownColumnError,
)

_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]
LOGGERS: Final = "audit_loggers"
"""The key of ``MetaData.info`` under which the loggers of its models stand."""

_VERBS = ("insert", "update", "delete", "truncate")


@dataclass(frozen=True)
class CaptureOptions:
    """What is recorded of a table, and how: the value of ``__versioned__``.

    :ivar exclude: names of columns that are never stored.
    :ivar include: the only columns that are stored, besides the key; None stores all.
    :ivar mask: names of columns whose values are replaced by a mark.
    :ivar when: an SQL condition over OLD and NEW; what it is not true for is not recorded.
    :ivar on: the verbs that are recorded.
    :ivar level: ``"statement"``, or ``"row"`` for tables that logical replication writes to.
    :ivar query_text: whether the text of the statement is stored with each change.
    :ivar on_error: ``"strict"`` fails a write that cannot be recorded; ``"degrade"`` lets it pass
        and leaves a record of the gap.
    """

    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] | None = None
    mask: tuple[str, ...] = ()
    when: str | None = None
    on: tuple[str, ...] = _VERBS
    level: str = "statement"
    query_text: bool = False
    on_error: str = "strict"

    def as_dict(self) -> dict[str, Any]:
        """Return the options that are not the defaults, ``exclude`` aside."""
        found: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "exclude" and value != field.default:
                found[field.name] = list(value) if isinstance(value, tuple) else value
        return found


@dataclass(frozen=True)
class AuditedTable:
    """A table whose changes are recorded.

    :ivar audit_schema: the schema of the trail.
    :ivar explicit_schema: the schema as the application names it; None leaves it to the
        connection's search_path.
    :ivar name: the table's name.
    :ivar options: what is recorded of it.
    :ivar formerly: what it and its columns were called, for reading old history.
    :ivar follow: names of the relationships that the pages of its records follow.
    """

    audit_schema: str
    explicit_schema: str | None
    name: str
    options: CaptureOptions = CaptureOptions()
    # For reading only: the database never hears of them; they are no part of the SQL or digest.
    formerly: former.Formerly = former.NEVER
    follow: tuple[str, ...] = ()

    @property
    def place(self) -> former.Place:
        """Under which names the trail knows the table."""
        return former.Place(self.schema, self.name, self.formerly, self.explicit_schema)

    @property
    def schema(self) -> str:
        """The schema under which the trail knows the table."""
        return self.explicit_schema or "public"

    @property
    def exclude(self) -> tuple[str, ...]:
        """Names of the columns that are never stored, in the order of the alphabet."""
        return self.options.exclude

    @property
    def regclass(self) -> str:
        """The quoted name, as text for ``regclass``."""
        parts = [self.explicit_schema, self.name] if self.explicit_schema else [self.name]
        return ".".join(sql.quote_identifier(part) for part in parts)

    @property
    def create_sql(self) -> str:
        """The statement that starts the tracking, or brings it up to date."""
        return track_sql(self.audit_schema, self.regclass, self.wanted)

    @property
    def drop_sql(self) -> str:
        """The statement that stops the tracking; what was recorded stays."""
        return untrack_sql(self.audit_schema, self.regclass)

    @property
    def wanted(self) -> dict[str, Any]:
        """The options as the database keeps them."""
        return {"exclude": list(self.exclude), **self.options.as_dict()}

    @property
    def digest(self) -> str:
        """SHA-256 over the options, in hexadecimal."""
        return hashlib.sha256(self.create_sql.encode()).hexdigest()


def track_sql(audit_schema: str, regclass: str, options: Mapping[str, Any]) -> str:
    """Return the statement that tracks a table with ``options``, as the database keeps them.

    :param regclass: the table's quoted name.
    """
    others = {key: value for key, value in options.items() if key != "exclude"}
    columns = ", ".join(map(sql.plain_literal, options.get("exclude", ())))
    arguments = [f"{sql.plain_literal(regclass)}::regclass", f"ARRAY[{columns}]::text[]"]
    if others:
        arguments.append(f"{sql.plain_literal(json.dumps(others))}::jsonb")
    return f"SELECT {sql.quote_identifier(audit_schema)}.audit_table({', '.join(arguments)})"


def untrack_sql(audit_schema: str, regclass: str) -> str:
    """Return the statement that stops to track a table; what was recorded stays."""
    target = f"{sql.plain_literal(regclass)}::regclass"
    return f"SELECT {sql.quote_identifier(audit_schema)}.unaudit_table({target})"


@dataclass(frozen=True)
class FunctionSource:
    """A function of the trail, as far as ``check`` compares it.

    :ivar settings: as ``pg_proc.proconfig`` holds them.
    """

    body: str
    is_definer: bool
    settings: tuple[str, ...]

    @classmethod
    def parse(cls, header: str, body: str) -> FunctionSource:
        """Read what stands between a function's name and its body."""
        settings = re.findall(r"^SET (\w+) = '?(.+?)'?$", header, re.MULTILINE)
        return cls(
            body=body,
            is_definer=re.search(r"^SECURITY DEFINER$", header, re.MULTILINE) is not None,
            settings=tuple(f"{name}={value}" for name, value in settings),
        )


@dataclass(frozen=True)
class Trail:
    """The audit schema: its tables and its functions.

    :ivar tables: the ``Table`` objects of transaction and activity.
    :ivar partition_by: ``"month"``, ``"week"`` or None.
    """

    schema_name: str
    tables: tuple[sa.Table, ...]
    partition_by: str | None = None

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

    def additions(self, there: Mapping[str, Collection[str | None]]) -> tuple[str, str]:
        """Return the statements that add what the tables lack, and those that take it away again.

        :param there: the names of the columns and of the indexes of each table.
        """
        schema = sql.quote_identifier(self.schema_name)
        add, take_away = [], []
        for table in self.tables:
            name = sql.quote_identifier(table.name)
            for column in table.columns:
                if column.name not in there[table.name]:
                    specification = str(CreateColumn(column).compile(dialect=_DIALECT)).strip()
                    add.append(
                        f"ALTER TABLE {schema}.{name} ADD COLUMN IF NOT EXISTS {specification};\n"
                    )
                    text = sql.render("drop_column.sql", self.schema_name)
                    quoted = sql.quote_identifier(column.name)
                    take_away.append(text.replace("@table@", name).replace("@column@", quoted))
            for index in sorted(table.indexes, key=lambda index: str(index.name)):
                if index.name not in there[table.name]:
                    element = CreateIndex(index, if_not_exists=True)
                    add.append(f"{str(element.compile(dialect=_DIALECT)).strip()};\n")
                    take_away.append(
                        f"DROP INDEX {schema}.{sql.quote_identifier(str(index.name))};\n"
                    )
        return "".join(add), "".join(reversed(take_away))

    @cached_property
    def functions_sql(self) -> str:
        """CREATE OR REPLACE for every function, and the triggers that guard the trail."""
        files = ("jsonb_change_key_name.sql", *sql.FUNCTIONS, *sql.INSTALLERS)
        return "\n".join(sql.render(name, self.schema_name) for name in files)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the functions, in hexadecimal."""
        return hashlib.sha256(self.functions_sql.encode()).hexdigest()

    @cached_property
    def functions(self) -> Mapping[str, FunctionSource]:
        """What each function should be, by its name."""
        pattern = (
            r'^CREATE OR REPLACE FUNCTION "(?:[^"]|"")+"\.(\w+)\(((?:(?!^CREATE OR REPLACE).)*?)'
            r"^AS \$function\$(.*?)\$function\$;?$"
        )
        found = re.findall(pattern, self.functions_sql, re.DOTALL | re.MULTILINE)
        return {name: FunctionSource.parse(header, body) for name, header, body in found}

    @property
    def function_bodies(self) -> Mapping[str, str]:
        """The source of each function, by its name."""
        return {name: source.body for name, source in self.functions.items()}

    @property
    def expected(self) -> dict[str, Any]:
        """What the tables of the trail should be, as ``check_trail()`` compares it."""
        return {
            "columns": [
                {
                    "table": table.name,
                    "name": column.name,
                    "type": column.type.compile(dialect=_DIALECT).lower(),
                    "required": not column.nullable,
                }
                for table in self.tables
                for column in table.columns
            ],
            "indexes": [
                {
                    "table": table.name,
                    "name": index.name,
                    "columns": [column.name for column in index.columns],
                }
                for table in self.tables
                for index in sorted(table.indexes, key=lambda index: str(index.name))
            ],
            "functions": sorted(self.functions),
            "partition_by": self.partition_by,
        }

    def index_sql(self, name: str) -> str:
        """The statement that makes an index of the trail beside writers.

        :raises KeyError: if it is not ours.
        """
        indexes = {str(index.name): index for table in self.tables for index in table.indexes}
        element = CreateIndex(indexes[name], if_not_exists=True)
        text = str(element.compile(dialect=_DIALECT)).strip()
        return text.replace("CREATE INDEX", "CREATE INDEX CONCURRENTLY", 1)

    @property
    def comment_sql(self) -> str:
        """Leaves the digest on the schema, so that an installation can be told from another."""
        schema = sql.quote_identifier(self.schema_name)
        return f"COMMENT ON SCHEMA {schema} IS 'audit_app sha256={self.digest}';\n"

    @property
    def install_sql(self) -> str:
        """Everything but the schema itself."""
        guard = sql.render("own_schema.sql", self.schema_name)
        return (
            guard + self.tables_sql + self.functions_sql + self._partitions_sql + self.comment_sql
        )

    @property
    def _partitions_sql(self) -> str:
        """Makes the first partitions; nothing where the tables are there without any."""
        if self.partition_by is None:
            return ""
        schema, period = (
            sql.quote_identifier(self.schema_name),
            sql.quote_literal(self.partition_by),
        )
        return f"SELECT {schema}.start_partitions({period});\n"


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
    if not len(table.primary_key):
        raise MissingPrimaryKeyError(
            f"{owner} has no primary key, so its records cannot be told apart: add one to the "
            f"table {table.fullname!r}, or do not track it."
        )
    given = dict(options)
    names = former.NEVER
    if "formerly" in given:
        names = former.parse(
            given.pop("formerly"),
            schema=table.schema or "public",
            name=table.name,
            columns=[column.name for column in table.c],
            aliases=aliases or {},
            owner=owner,
        )
    followed = follow.names_of(given.pop("follow", ()), owner)
    return AuditedTable(
        audit_schema=audit_schema,
        explicit_schema=table.schema,
        name=table.name,
        options=_options(table, given, owner, aliases or {}),
        formerly=names,
        follow=followed,
    )


def merge(tables: Iterable[AuditedTable]) -> tuple[AuditedTable, ...]:
    """Join the entries of classes that share a table: what one of them excludes is excluded.

    :raises InvalidOptionError: if they contradict each other in another option.
    """
    merged: dict[tuple[str | None, str], AuditedTable] = {}
    for table in tables:
        key = (table.explicit_schema, table.name)
        other = merged.get(key, table)
        if other.options.as_dict() != table.options.as_dict():
            raise InvalidOptionError(
                f"Two models share the table {table.name!r} and disagree in __versioned__: "
                "give both the same options."
            )
        names = table.formerly or other.formerly
        if other.formerly and other.formerly != names:
            raise InvalidOptionError(
                f"Two models share the table {table.name!r} and disagree in "
                "__versioned__['formerly']: give both the same names, or only one of them."
            )
        exclude = tuple(sorted({*table.exclude, *other.exclude}))
        options = replace(table.options, exclude=exclude)
        followed = tuple(sorted({*table.follow, *other.follow}))
        merged[key] = replace(table, options=options, formerly=names, follow=followed)
    found = tuple(merged[key] for key in sorted(merged, key=lambda key: (key[0] or "", key[1])))
    former.check_distinct((f"The table {table.name!r}", table.place) for table in found)
    return found


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


def _options(
    table: sa.Table, given: Mapping[Any, Any], owner: str, aliases: Mapping[str, str]
) -> CaptureOptions:
    known = {field.name for field in fields(CaptureOptions)}
    unknown = sorted(map(str, set(given) - known))
    if unknown:
        raise InvalidOptionError(
            f"{owner} has the unknown __versioned__ option {unknown[0]!r}: "
            f"use {', '.join(sorted({*known, 'follow', 'formerly'}))}."
        )
    found: dict[str, Any] = {}
    for name in ("exclude", "include", "mask"):
        if name in given:
            found[name] = _columns(table, given[name], name, owner, aliases)
    for name, allowed in (
        ("level", ("statement", "row")),
        ("on_error", ("strict", "degrade")),
        ("query_text", (True, False)),
    ):
        if name in given:
            if given[name] not in allowed or type(given[name]) is not type(allowed[0]):
                choices = " or ".join(map(repr, allowed))
                raise InvalidOptionError(f"{owner} has {name} = {given[name]!r}: write {choices}.")
            found[name] = given[name]
    if "when" in given:
        if not isinstance(given["when"], str) or not given["when"].strip():
            raise InvalidOptionError(
                f"{owner} has when = {given['when']!r}: write an SQL condition over OLD and NEW, "
                "such as \"NEW.status <> 'draft'\"."
            )
        found["when"] = given["when"]
    if "on" in given:
        verbs = given["on"]
        if isinstance(verbs, str) or not set(verbs) or set(verbs) - set(_VERBS):
            raise InvalidOptionError(
                f"{owner} has on = {verbs!r}: write a list of {', '.join(_VERBS)}."
            )
        found["on"] = tuple(verb for verb in _VERBS if verb in verbs)
    options = CaptureOptions(**found)
    if options.query_text and (options.exclude or options.mask or options.include is not None):
        raise InvalidOptionError(
            f"{owner} has query_text beside exclude, include or mask: the statement's text would "
            "store the values that they keep out, so use one or the other."
        )
    return options


def _columns(
    table: sa.Table, given: object, option: str, owner: str, aliases: Mapping[str, str]
) -> tuple[str, ...]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise InvalidOptionError(
            f"{owner} has {option} = {given!r}: write a list of column names, as in "
            f"{{{option!r}: [{given!r}]}}."
        )
    columns = set()
    for item in given:
        name = str(getattr(item, "name", item))
        column = name if name in table.c else aliases.get(name, name)
        if column not in table.c:
            raise UnknownColumnError(
                f"{owner} has {name!r} in {option}, but the table {table.fullname!r} has no such "
                f"column: use one of {', '.join(sorted(table.c.keys()))}."
            )
        if table.c[column].primary_key and option != "include":
            raise InvalidOptionError(
                f"{owner} has {name!r} in {option}, and it belongs to the primary key: a record "
                f"without its identity has no history, so remove it from {option!r}."
            )
        columns.add(table.c[column].name)
    return tuple(sorted(columns))
