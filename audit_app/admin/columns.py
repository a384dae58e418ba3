"""What a model says of the fields of its table: their type, and what they point at."""

from __future__ import annotations

import enum
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from audit_app import identity

ColumnKind = Literal[
    "", "text", "number", "boolean", "date", "datetime", "time", "enum", "binary", "json", "code"
]
"""``code`` is what reads as one piece: UUIDs, ranges, network addresses, intervals."""

_KINDS: tuple[tuple[tuple[type[Any], ...], ColumnKind], ...] = (
    ((sa.Enum,), "enum"),
    ((sa.Interval, postgresql.INTERVAL), "code"),
    ((sa.Boolean,), "boolean"),
    ((sa.DateTime,), "datetime"),
    ((sa.Date,), "date"),
    ((sa.Time,), "time"),
    ((sa.Numeric, sa.Integer), "number"),
    ((sa.LargeBinary,), "binary"),
    ((sa.JSON, sa.ARRAY, postgresql.HSTORE), "json"),
    (
        (
            sa.Uuid, postgresql.INET, postgresql.CIDR, postgresql.MACADDR, postgresql.BIT,
            postgresql.ranges.AbstractRange,
        ),
        "code",
    ),
    ((sa.String,), "text"),
)  # fmt: skip


@dataclass(frozen=True)
class Column:
    """A field of a recorded row.

    :ivar kind: empty where no model tells.
    :ivar is_key: whether it belongs to the primary key.
    :ivar points_at: the column that a foreign key of this field alone refers to.
    """

    name: str
    kind: ColumnKind = ""
    type: sa.types.TypeEngine[Any] | None = None
    is_key: bool = False
    points_at: sa.Column[Any] | None = None

    @property
    def is_amount(self) -> bool:
        """Whether the distance of two of its numbers says anything."""
        return not self.is_key and self.points_at is None

    @property
    def is_prose(self) -> bool:
        """Whether its texts are worth comparing word by word."""
        return self.kind in {"", "text", "json"} and self.points_at is None


def column_of(table: sa.Table | None, name: str) -> Column:
    """Return what the model says of a field; next to nothing where there is none."""
    column = None if table is None else _by_name(table).get(name)
    if column is None:
        return Column(name)
    return Column(
        name, _kind(column.type), column.type, bool(column.primary_key), _points_at(column)
    )


def _by_name(table: sa.Table) -> Mapping[str, sa.Column[Any]]:
    return {column.name: column for column in table.columns}  # a column's key may be another


def _kind(type_: sa.types.TypeEngine[Any]) -> ColumnKind:
    while isinstance(type_, sa.TypeDecorator) and not isinstance(type_, sa.Interval):
        type_ = type_.impl_instance
    return next((kind for types, kind in _KINDS if isinstance(type_, types)), "")


def _points_at(column: sa.Column[Any]) -> sa.Column[Any] | None:
    for key in column.foreign_keys:
        constraint = key.constraint
        if constraint is not None and len(constraint.elements) > 1:
            continue  # one of several columns says nothing on its own
        try:
            return key.column
        except sa.exc.SQLAlchemyError:  # the other table is not in this metadata
            continue
    return None


def python_value(raw: Any, type_: sa.types.TypeEngine[Any]) -> Any:
    """Return a stored value as its column has it, ready to be compared with the column.

    :return: None where the stored value does not fit the column's type (any more).
    """
    try:
        value = identity.from_json(raw, type_)
        wanted = type_.python_type
    except Exception:  # noqa: BLE001 - a type of the application may raise what it likes
        return None
    if wanted is str and isinstance(value, uuid.UUID):
        value = str(value)
    if wanted is int and isinstance(value, int) and not -(2**63) <= value < 2**63:
        return None
    if isinstance(value, str) and "\x00" in value:
        return None
    return value if isinstance(value, wanted) else None


def key_values(key: str, columns: Iterable[sa.Column[Any]]) -> dict[str, Any] | None:
    """Return the values by column that the text of an identity stands for.

    :return: None where the text does not fit the key.
    """
    found = list(columns)
    decoded = identity.decode(key, found)
    parts = (decoded,) if len(found) == 1 else decoded
    if not found or not isinstance(parts, tuple) or len(parts) != len(found):
        return None
    values: dict[str, Any] = {}
    for column, part in zip(found, parts, strict=True):
        value = part if not isinstance(part, str) else python_value(part, column.type)
        if value is None or identity.encode(value) is None:
            return None
        values[column.name] = value
    return values


def enum_label(raw: Any, type_: sa.types.TypeEngine[Any] | None) -> str:
    """Return what a member of a Python ``Enum`` says besides its stored name; may be empty.

    Its ``label``, as enumerations with texts for people have; else its value.
    """
    if type_ is None or not isinstance(raw, str):
        return ""
    try:
        member = identity.from_json(raw, type_)
        if not isinstance(member, enum.Enum):
            return ""
        label = getattr(member, "label", None)
        if label is None or callable(label):
            label = member.value if isinstance(member.value, str | int) else ""
        text = str(label)
    except Exception:  # noqa: BLE001 - an enumeration of the application may raise what it likes
        return ""
    return "" if text == raw else text
