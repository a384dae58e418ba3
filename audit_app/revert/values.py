"""JSON values without loss: ``10.00`` stays ``10.00`` on the way in and out. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from audit_app.models import _parse_int


def parse(text: str) -> Any:
    """Return the value of a JSON text, its numbers exact.

    :raises ValueError: if it is no JSON; NaN and Infinity are none.
    :raises RecursionError: if it is nested too deeply.
    """
    return json.loads(
        text, parse_float=Decimal, parse_int=_parse_int, parse_constant=_refuse_constant
    )


def dump(value: Any) -> str:
    """Return the one JSON text of a value; two values are the same if their texts are."""
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, Mapping):
        items = sorted((str(key), item) for key, item in value.items())
        body = ", ".join(f"{json.dumps(key, ensure_ascii=False)}: {dump(v)}" for key, v in items)
        return f"{{{body}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(dump, value))}]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def same(one: Any, other: Any) -> bool:
    """Tell whether two values are the same to the last digit."""
    return dump(one) == dump(other)


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")
