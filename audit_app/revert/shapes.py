"""Tables as the database has them now, and the values of their rows in the form of the trail.

Names of tables and columns come from the catalog and are quoted here; values are bound, as JSON,
and cast by the database to the types of their columns.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import sqlalchemy as sa

from audit_app import sql
from audit_app.ddl import AuditedTable
from audit_app.revert.values import dump, parse

Row = dict[str, Any]
"""A row as the trail stores it: the JSON value of each column."""

_SETTINGS = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
}


@dataclass(frozen=True)
class Column:
    """A column as it is now.

    :ivar type: with its length or precision, quoted.
    :ivar default: whether the database has a value where none is given.
    :ivar always: whether it is GENERATED ALWAYS AS IDENTITY.
    :ivar json: whether its values are JSON documents.
    """

    name: str
    type: str
    required: bool
    default: bool
    generated: bool
    always: bool
    json: bool


@dataclass(frozen=True)
class Unique:
    """A unique index over columns.

    :ivar constraint: its constraint, if that can be deferred.
    :ivar nulls_equal: whether two NULLs are the same.
    """

    schema: str
    name: str
    constraint: str | None
    primary: bool
    nulls_equal: bool
    columns: tuple[str, ...]

    def value(self, row: Row | None) -> str | None:
        """Return what a row takes up of it; None if nothing."""
        return _value(row, self.columns, nulls=self.nulls_equal)


@dataclass(frozen=True)
class ForeignKey:
    """A foreign key.

    :ivar deferred: whether it is INITIALLY DEFERRED.
    :ivar child: the quoted name of the table that refers.
    :ivar on_delete: as ``pg_constraint`` has it: ``a`` no action, ``r`` restrict, ``c`` cascade,
        ``n`` set null, ``d`` set default.
    :ivar child_name: its schema and name.
    :ivar child_key: the primary key of the child; empty if it has none.
    """

    schema: str
    name: str
    deferrable: bool
    deferred: bool
    full: bool
    on_delete: str
    on_update: str
    child: str
    child_name: tuple[str, str]
    parent: str
    child_columns: tuple[str, ...]
    parent_columns: tuple[str, ...]
    child_types: tuple[str, ...]
    parent_types: tuple[str, ...]
    nullable: tuple[bool, ...]
    child_key: tuple[str, ...]

    def referred(self, child: Row | None) -> str | None:
        """Return what a row of the child refers to; None if to nothing."""
        return _value(child, self.child_columns)

    def provided(self, parent: Row | None) -> str | None:
        """Return what a row of the parent can be referred to by."""
        return _value(parent, self.parent_columns)

    @property
    def nulled(self) -> tuple[str, ...]:
        """The columns to set to NULL so that a row refers to nothing; empty if it cannot."""
        free = [
            name
            for name, nullable in zip(self.child_columns, self.nullable, strict=True)
            if nullable and name not in self.child_key
        ]
        if self.full:
            return self.child_columns if len(free) == len(self.child_columns) else ()
        return tuple(free[:1])


@dataclass(frozen=True)
class Shape:
    """A table as it is now, and how it is tracked."""

    audited: AuditedTable
    relation: str
    columns: tuple[Column, ...]
    uniques: tuple[Unique, ...]
    foreign_keys: tuple[ForeignKey, ...]

    @cached_property
    def by_name(self) -> Mapping[str, Column]:
        return {column.name: column for column in self.columns}

    @cached_property
    def key(self) -> tuple[str, ...]:
        """The primary key's columns, in its order."""
        return next((unique.columns for unique in self.uniques if unique.primary), ())

    @cached_property
    def unrecorded(self) -> frozenset[str]:
        """The columns whose values the trail does not hold: excluded or masked."""
        options = self.audited.options
        return frozenset(
            column.name
            for column in self.columns
            if column.name in {*options.exclude, *options.mask}
            or (options.include is not None and column.name not in {*options.include, *self.key})
        )

    @cached_property
    def readable(self) -> tuple[Column, ...]:
        """The columns that a plan may show and write."""
        return tuple(
            column
            for column in self.columns
            if not column.generated and column.name not in self.unrecorded
        )

    def key_of(self, row: Row | None) -> tuple[tuple[str, Any], ...]:
        """Return the key in a row; empty if the row does not have all of it."""
        if row is None or not self.key or not set(self.key) <= row.keys():
            return ()
        return tuple((name, row[name]) for name in self.key)

    @property
    def parents(self) -> tuple[ForeignKey, ...]:
        """The foreign keys of this table."""
        return tuple(key for key in self.foreign_keys if key.child == self.relation)

    @property
    def children(self) -> tuple[ForeignKey, ...]:
        """The foreign keys that refer to this table."""
        return tuple(key for key in self.foreign_keys if key.parent == self.relation)


def quote(name: str) -> str:
    """Return a quoted identifier for ``sa.text()``."""
    return escape(sql.quote_identifier(name))


def escape(text: str) -> str:
    """Return SQL for ``sa.text()``, which takes ``:name`` for a parameter."""
    return text.replace(":", "\\:")


def definitions(columns: Sequence[tuple[str, str]]) -> str:
    """Return the list of columns for ``json_to_record``."""
    return ", ".join(f"{quote(name)} {escape(type_)}" for name, type_ in columns)


def statement(audit_schema: str, name: str, **parts: str) -> sa.TextClause:
    """Return the query ``name`` with its parts filled in."""
    text = sql.query(name, audit_schema)
    # In one pass, so that a name cannot hold a place of another.
    return sa.text(re.sub(r"@([a-z_]+)@", lambda match: parts.get(match[1], match[0]), text))


def read_shapes(
    connection: sa.Connection, audited: Sequence[AuditedTable]
) -> dict[tuple[str, str], Shape]:
    """Return the tables that exist, by schema and name as the trail has them."""
    if not audited:
        return {}
    query = statement(audited[0].audit_schema, "shapes")
    found = {}
    for ordinal, text in connection.execute(query, {"names": [a.regclass for a in audited]}):
        table, shape = audited[ordinal - 1], parse(text)
        keys = shape["foreign_keys"] or ()
        found[table.schema, table.name] = Shape(
            table,
            shape["relation"],
            tuple(Column(**column) for column in shape["columns"] or ()),
            tuple(Unique(**_tuples(unique)) for unique in shape["uniques"] or ()),
            tuple(ForeignKey(**_tuples(key)) for key in keys),
        )
    return found


def _tuples(document: dict[str, Any]) -> dict[str, Any]:
    return {n: tuple(v) if isinstance(v, list) else v for n, v in document.items()}


@contextmanager
def stored_form(connection: sa.Connection) -> Iterator[None]:
    """Let values be printed as the trail stores them, inside of the block."""
    functions = sa.func.pg_catalog
    names = list(_SETTINGS)
    former = connection.execute(
        sa.select(*(functions.current_setting(name) for name in names))
    ).one()
    _set(connection, _SETTINGS)
    yield
    # After an error the transaction is rolled back, and the settings with it.
    _set(connection, dict(zip(names, former, strict=True)))


def _set(connection: sa.Connection, settings: Mapping[str, str]) -> None:
    functions = sa.func.pg_catalog
    connection.execute(
        sa.select(*(functions.set_config(name, value, True) for name, value in settings.items()))  # noqa: FBT003
    )


def read_rows(
    connection: sa.Connection,
    shape: Shape,
    keys: Sequence[Mapping[str, Any]],
    *,
    lock: bool = False,
) -> list[Row | None]:
    """Return the row of each key; None where there is none.

    :param lock: whether nobody else may change them until the transaction ends.
    """
    if not keys:
        return []
    text = statement(
        shape.audited.audit_schema,
        "rows",
        columns=", ".join(f"t.{quote(column.name)}" for column in shape.readable),
        definitions=definitions([(name, shape.by_name[name].type) for name in shape.key]),
        table=escape(shape.relation),
        match=_match(shape.key, shape.key),
        order=", ".join(f"t.{quote(name)}" for name in shape.key),
    )
    if lock:
        text = sa.text(f"{text.text} FOR UPDATE OF t")
    return _collect(connection, text, keys)


def read_places(
    connection: sa.Connection, shape: Shape, keys: Sequence[Mapping[str, Any]]
) -> list[str | None]:
    """Return where the row of each key is stored, which tells two rows of one key apart."""
    if not keys:
        return []
    text = statement(
        shape.audited.audit_schema,
        "rows",
        columns="t.ctid AS place",
        definitions=definitions([(name, shape.by_name[name].type) for name in shape.key]),
        table=escape(shape.relation),
        match=_match(shape.key, shape.key),
        order="k.ordinal",
    )
    return [row["place"] if row else None for row in _collect(connection, text, keys)]


def canonical(
    connection: sa.Connection, shape: Shape, rows: Sequence[Row]
) -> list[tuple[Row, frozenset[str]]]:
    """Return each row in the present types of its columns, and the names of what does not fit.

    A value that does not fit is left out.
    """
    found: list[tuple[Row, frozenset[str]]] = [({}, frozenset())] * len(rows)
    by_names: dict[tuple[str, ...], list[int]] = {}
    for index, row in enumerate(rows):
        by_names.setdefault(tuple(sorted(row)), []).append(index)
    for names, indexes in by_names.items():
        if not names:
            continue
        batch = _cast(connection, shape, names, [rows[index] for index in indexes])
        for position, index in enumerate(indexes):
            if batch is not None:
                found[index] = (batch[position] or {}, frozenset())
            else:
                found[index] = _piecewise(connection, shape, rows[index])
    return found


def _piecewise(connection: sa.Connection, shape: Shape, row: Row) -> tuple[Row, frozenset[str]]:
    good, bad = {}, set()
    for name, value in row.items():
        one = _cast(connection, shape, (name,), [{name: value}])
        if one is None:
            bad.add(name)
        else:
            good[name] = (one[0] or {})[name]
    return good, frozenset(bad)


def _cast(
    connection: sa.Connection, shape: Shape, names: Sequence[str], rows: Sequence[Row]
) -> list[Row | None] | None:
    text = statement(
        shape.audited.audit_schema,
        "canonical",
        definitions=definitions([(name, shape.by_name[name].type) for name in names]),
    )
    savepoint = connection.begin_nested()
    try:
        found = _collect(connection, text, rows)
    except (sa.exc.DataError, sa.exc.IntegrityError, sa.exc.NotSupportedError):
        savepoint.rollback()
        return None
    savepoint.commit()
    return found


def existing_parents(
    connection: sa.Connection, audit_schema: str, key: ForeignKey, values: Sequence[Sequence[Any]]
) -> list[bool]:
    """Tell of each value whether there is a row that it can refer to."""
    if not values:
        return []
    names = [f"c{number}" for number in range(len(key.parent_columns))]
    text = statement(
        audit_schema,
        "rows",
        columns="1 AS one",
        definitions=definitions(list(zip(names, key.parent_types, strict=True))),
        table=escape(key.parent),
        match=_match(key.parent_columns, names),
        order="k.ordinal",
    )
    documents = [dict(zip(names, value, strict=True)) for value in values]
    return [row is not None for row in _collect(connection, text, documents)]


CHILDREN = 1000
"""Referring rows that are looked at besides those that the plan moves, at the most."""


def existing_children(
    connection: sa.Connection,
    audit_schema: str,
    key: ForeignKey,
    values: Sequence[Sequence[Any]],
    limit: int,
) -> list[tuple[int, Row]]:
    """Return the rows that refer to these values, each with the number of its value.

    A row is its columns of the key and of the foreign key.
    """
    if not values:
        return []
    names = [f"c{number}" for number in range(len(key.child_columns))]
    columns = dict.fromkeys((*key.child_key, *key.child_columns))
    text = statement(
        audit_schema,
        "rows",
        columns=", ".join(f"t.{quote(name)}" for name in columns),
        definitions=definitions(list(zip(names, key.child_types, strict=True))),
        table=escape(key.child),
        match=_match(key.child_columns, names),
        order=f"k.ordinal LIMIT {limit}",
    )
    documents = [dict(zip(names, value, strict=True)) for value in values]
    rows = connection.execute(text, {"documents": dump(documents)})
    return [(ordinal - 1, parse(document)) for ordinal, document in rows]


def taken(
    connection: sa.Connection, shape: Shape, unique: Unique, rows: Sequence[Row]
) -> list[Row | None]:
    """Return the key of the row that has the unique value of each of ``rows``; None if none has."""
    if not rows:
        return []
    names = [f"c{number}" for number in range(len(unique.columns))]
    types = [shape.by_name[name].type for name in unique.columns]
    operator = "IS NOT DISTINCT FROM" if unique.nulls_equal else "="
    text = statement(
        shape.audited.audit_schema,
        "rows",
        columns=", ".join(f"t.{quote(name)}" for name in shape.key),
        definitions=definitions(list(zip(names, types, strict=True))),
        table=escape(shape.relation),
        match=_match(unique.columns, names, operator),
        order="k.ordinal",
    )
    documents = [
        dict(zip(names, (row[column] for column in unique.columns), strict=True)) for row in rows
    ]
    return _collect(connection, text, documents)


def newest(
    connection: sa.Connection,
    audit_schema: str,
    guards: Sequence[tuple[Sequence[tuple[str, str]], Sequence[str]]],
) -> list[int | None]:
    """Return the newest activity for each pair of a table's names and a record's keys."""
    documents = [{"names": names, "keys": keys} for names, keys in guards]
    if not documents:
        return []
    query = statement(audit_schema, "newest")
    rows = connection.execute(query, {"documents": dump(documents)})
    return [row.id for row in rows]


def _match(columns: Sequence[str], names: Sequence[str], operator: str = "=") -> str:
    pairs = zip(columns, names, strict=True)
    return " AND ".join(f"t.{quote(column)} {operator} v.{quote(name)}" for column, name in pairs)


def _collect(
    connection: sa.Connection, text: sa.TextClause, documents: Sequence[Mapping[str, Any]]
) -> list[Row | None]:
    found: list[Row | None] = [None] * len(documents)
    for ordinal, document in connection.execute(text, {"documents": dump(documents)}):
        found[ordinal - 1] = parse(document)
    return found


def _value(row: Row | None, columns: Sequence[str], *, nulls: bool = False) -> str | None:
    if row is None or not set(columns) <= row.keys():
        return None
    values = [row[name] for name in columns]
    return None if not nulls and any(value is None for value in values) else dump(values)
