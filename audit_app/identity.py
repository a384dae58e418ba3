"""A record's identity, between the text in the trail and the values of its model.

The trail keeps an identity as text: a single-column key as PostgreSQL prints it, a composite key
as a JSON array of such texts in key order. Python code wants what the model has: ``1``, a
``UUID``, ``("GB", "GBP")``. Pure functions; no database.
"""

from __future__ import annotations

import enum
import hashlib
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, TypeGuard

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql.ranges import AbstractMultiRange, AbstractSingleRange

from audit_app import stored

_LONGEST_KEY = 1000  # bytes
_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]


def encode(identity: object) -> str | None:
    """Return ``identity`` as the trail stores it.

    :param identity: one value, or a tuple or list with a value per key column.
    :return: the text of ``activity.object_id``; None for None.
    """
    if identity is None:
        return None
    if isinstance(identity, tuple | list):
        if len(identity) == 1:
            return encode(identity[0])
        # The separators and escapes are those of PostgreSQL's jsonb output.
        parts = [_encode_value(value) for value in identity]
        return _shorten(json.dumps(parts, ensure_ascii=False))
    return _shorten(_encode_value(identity))


def _shorten(key: str) -> str:
    """As the function object_id() of the trail does with a key too long for an index entry."""
    data = key.encode()
    if len(data) <= _LONGEST_KEY:
        return key
    return f"{key[:100]}… sha256={hashlib.sha256(data).hexdigest()}"


def decode(text: str | None, key: Sequence[sa.Column[Any]]) -> Any:
    """Return the identity that ``text`` stands for, in the types of the ``key`` columns.

    A text that does not fit the key (the key had another shape when the row was written) comes
    back as it is, so that old history stays readable.

    :return: a single value for a single-column key, a tuple for a composite one.
    """
    if text is None:
        return None
    if len(key) == 1:
        return _decode_or_text(text, key[0].type)
    try:
        parts = json.loads(text)
    except ValueError:
        return text
    if not isinstance(parts, list):
        return text
    if len(parts) != len(key):
        return tuple(parts)
    columns = zip(parts, key, strict=True)
    return tuple(_decode_or_text(part, column.type) for part, column in columns)


def from_json(value: Any, type_: sa.types.TypeEngine[Any]) -> Any:
    """Return a value of the stored JSON as the Python type of its column.

    Values of types that JSON has no form for (dates, decimals, UUIDs, enums, ranges, intervals,
    bytea) are stored as text; a value that does not fit the type is returned unchanged.
    """
    if value is None:
        return None
    if _is_decorated(type_):
        inner = from_json(value, type_.impl_instance)
        return type_.process_result_value(inner, _DIALECT)
    if isinstance(type_, postgresql.DOMAIN):
        return from_json(value, type_.data_type)
    if isinstance(type_, sa.JSON):
        return _as_decoded(value)
    if isinstance(type_, sa.ARRAY) and isinstance(value, list):
        return [_item_from_json(item, type_) for item in value]
    return _decode_or_text(value, type_) if isinstance(value, _SCALARS) else value


_SCALARS = (str, int, float, Decimal)


def _item_from_json(item: Any, type_: sa.ARRAY[Any]) -> Any:
    # One type stands for all dimensions: an item that is a list is one of its rows.
    is_row = isinstance(item, list) and not isinstance(type_.item_type, (sa.JSON, sa.ARRAY))
    return from_json(item, type_ if is_row else type_.item_type)


def _is_decorated(type_: sa.types.TypeEngine[Any]) -> TypeGuard[sa.TypeDecorator[Any]]:
    # Interval is one only for databases without intervals.
    return isinstance(type_, sa.TypeDecorator) and not isinstance(type_, sa.Interval)


def _encode_value(value: object) -> str:  # noqa: PLR0911 - one return for each type
    match value:
        case bool():
            return "true" if value else "false"
        case enum.Enum():
            return str(value.name)
        case datetime():
            return _encode_datetime(value)
        case bytes() | memoryview():
            return "\\x" + bytes(value).hex()
        case Decimal():
            return format(value, "f")
        case float():
            return repr(value).removesuffix(".0")
        case _:
            return str(value)


def _encode_datetime(value: datetime) -> str:
    """As PostgreSQL prints it in UTC: no trailing zeros in the fraction, ``+00`` for the zone."""
    zone = ""
    if value.tzinfo is not None:
        value, zone = value.astimezone(UTC), "+00"
    text = value.replace(tzinfo=None).isoformat(" ")
    return (text.rstrip("0") if "." in text else text) + zone


def _decode_or_text(text: Any, type_: sa.types.TypeEngine[Any]) -> Any:
    if _is_decorated(type_):
        inner = _decode_or_text(text, type_.impl_instance)
        return type_.process_result_value(inner, _DIALECT)
    try:
        if isinstance(type_, AbstractMultiRange | AbstractSingleRange):
            return _decode_range(text, type_)
        if isinstance(type_, sa.Enum | postgresql.BIT):
            process = type_.result_processor(_DIALECT, None)
            return process(text) if process else text
        python_type: Any = _python_type(type_)
        if python_type is Decimal or (python_type is float and isinstance(type_, sa.Numeric)):
            python_type = Decimal if type_.asdecimal else float  # type: ignore[attr-defined]
        convert = _DECODERS.get(python_type)
        return convert(text) if convert else text
    except (ValueError, TypeError, LookupError, ArithmeticError, NotImplementedError):
        return text


def _as_decoded(value: Any) -> Any:
    """A document as the drivers decode it; the trail's own is read without loss."""
    if isinstance(value, dict):
        return {key: _as_decoded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_decoded(item) for item in value]
    return float(value) if isinstance(value, Decimal) else value


def _decode_bool(text: Any) -> bool:
    return text if isinstance(text, bool) else {"true": True, "false": False}[str(text)]


def _decode_bytes(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("\\x"))


def _decode_uuid(text: str) -> uuid.UUID:
    return uuid.UUID(text)


def _python_type(type_: sa.types.TypeEngine[Any]) -> type[Any]:
    if isinstance(type_, sa.Uuid):
        return uuid.UUID
    return int if isinstance(type_, postgresql.OID) else type_.python_type


def _decode_range(text: str, type_: sa.types.TypeEngine[Any]) -> Any:
    bound = next(inner for kind, inner in _BOUNDS if isinstance(type_, kind))
    is_single = isinstance(type_, AbstractSingleRange)
    read: Callable[[str, Callable[[str], Any]], Any] = (
        stored.range_ if is_single else stored.multirange
    )
    return read(text, _DECODERS[bound])


_BOUNDS: Sequence[tuple[tuple[type, ...], type]] = (
    (
        (
            postgresql.INT4RANGE,
            postgresql.INT8RANGE,
            postgresql.INT4MULTIRANGE,
            postgresql.INT8MULTIRANGE,
        ),
        int,
    ),
    ((postgresql.NUMRANGE, postgresql.NUMMULTIRANGE), Decimal),
    ((postgresql.DATERANGE, postgresql.DATEMULTIRANGE), date),
    ((object,), datetime),
)


_DECODERS: Mapping[type, Callable[[Any], Any]] = {
    bool: _decode_bool,
    int: int,
    float: float,
    Decimal: lambda value: Decimal(str(value)),
    uuid.UUID: _decode_uuid,
    date: date.fromisoformat,
    datetime: datetime.fromisoformat,
    time: time.fromisoformat,
    timedelta: stored.interval,
    bytes: _decode_bytes,
}
