"""Values that JSON has no form for, from the text that PostgreSQL prints. Pure; no database."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from sqlalchemy.dialects.postgresql.ranges import MultiRange, Range

_BOUND = r'(?:"((?:[^"\\]|\\.|"")*)"|([^",\[\]()]*))'
_RANGE = re.compile(rf"([\[(]){_BOUND},{_BOUND}([\])])")
_DAYS = {"year": 365, "mon": 30, "day": 1}  # as the drivers count them


def interval(text: str) -> timedelta:
    """Return what ``IntervalStyle = postgres`` printed, months and years in days.

    :raises ValueError: if it is no interval, or one that a timedelta cannot hold.
    """
    match = re.fullmatch(
        r"((?:[+-]?[0-9]+ (?:year|mon|day)s? ?)*)(?:([+-]?)([0-9]+):([0-9]{2}):([0-9.]+))?", text
    )
    if match is None or not text:
        raise ValueError(text)
    parts = re.findall(r"([+-]?[0-9]+) (year|mon|day)", match[1])
    days = sum(int(number) * _DAYS[unit] for number, unit in parts)
    time = timedelta()
    if match[3]:
        time = timedelta(hours=int(match[3]), minutes=int(match[4]), seconds=float(match[5]))
    try:
        return timedelta(days=days) + (-time if match[2] == "-" else time)
    except OverflowError as error:
        raise ValueError(text) from error


def range_(text: str, decode: Callable[[str], Any]) -> Range[Any]:
    """Return a range.

    :param decode: turns the text of a bound into its value.
    :raises ValueError: if it is no range.
    """
    if text == "empty":
        return Range(empty=True)
    match = _RANGE.fullmatch(text)
    if match is None:
        raise ValueError(text)
    return _range(match, decode)


def multirange(text: str, decode: Callable[[str], Any]) -> MultiRange[Any]:
    """Return a multirange; see :func:`range_`."""
    if not (text.startswith("{") and text.endswith("}")):
        raise ValueError(text)
    return MultiRange(_range(match, decode) for match in _RANGE.finditer(text))


def _range(match: re.Match[str], decode: Callable[[str], Any]) -> Range[Any]:
    lower, upper = (_bound(match[n], match[n + 1], decode) for n in (2, 4))
    bounds: Any = match[1] + match[6]
    return Range(lower, upper, bounds=bounds)


def _bound(quoted: str | None, plain: str | None, decode: Callable[[str], Any]) -> Any:
    if quoted is not None:
        return decode(re.sub(r'\\(.)|"(")', lambda match: match[1] or match[2], quoted))
    return decode(plain) if plain else None
