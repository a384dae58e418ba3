"""How far apart two values are, in words."""

from __future__ import annotations

import decimal
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from audit_app.admin.i18n import gettext as _
from audit_app.admin.i18n import ngettext, number_text
from audit_app.diff import number_text as digits_of

_MOST_DIGITS = 1000
"""Digits of a number up to which a difference is worked out."""


def number_distance(old: Any, new: Any) -> str:
    """Return the signed difference of two numbers, exact; empty if they are none."""
    numbers = [_number(value) for value in (old, new)]
    a, b = numbers
    if a is None or b is None:
        return ""
    digits = max(abs(n.adjusted()) + len(n.as_tuple().digits) for n in (a, b))
    if digits > _MOST_DIGITS:
        return ""
    with decimal.localcontext() as context:
        context.prec = 3 * _MOST_DIGITS
        difference = b - a
    if not difference:
        return _("the same number, written with other digits")
    sign = "+" if difference > 0 else "\N{MINUS SIGN}"
    # With a point for the decimals, as the stored values beside it have.
    return sign + digits_of(difference.copy_abs())


def _number(value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    number = Decimal(str(value))
    return number if number.is_finite() else None


def time_distance(old: Any, new: Any, kind: str) -> str:
    """Return how much later or earlier a date or time is; empty if one cannot be read.

    :param kind: ``date``, ``datetime`` or ``time``.
    """
    if not isinstance(old, str) or not isinstance(new, str):
        return ""
    try:
        difference = _moment(new, kind) - _moment(old, kind)
    except (ValueError, TypeError, OverflowError):  # "infinity", years before Christ, one zone
        return ""
    if not difference:
        return _("the same moment, written otherwise")
    span = duration(abs(difference))
    later = difference > timedelta()
    return _("%(span)s later", span=span) if later else _("%(span)s earlier", span=span)


def _moment(text: str, kind: str) -> datetime:
    if kind == "date":
        return datetime.combine(date.fromisoformat(text), time(), UTC)
    if kind == "time":
        found = time.fromisoformat(text)
        zone = found.tzinfo or UTC
        return datetime.combine(date(2000, 1, 2), found.replace(tzinfo=None), zone)
    return datetime.fromisoformat(text)


def duration(span: timedelta) -> str:
    """Return a length of time in its two largest units: ``3 days``, ``2 h 5 min``."""
    hours, rest = divmod(span.seconds, 3600)
    minutes, seconds = divmod(rest, 60)
    parts = []
    if span.days:
        parts.append(
            ngettext("%(count)s day", "%(count)s days", span.days, count=number_text(span.days))
        )
    for number, text in ((hours, _("%(num)s h")), (minutes, _("%(num)s min"))):
        parts.append(text % {"num": number} if number else "")
    fraction = f"{span.microseconds:06}".rstrip("0")
    if seconds or (span.microseconds and span >= timedelta(seconds=1)):
        parts.append(_("%(num)s s", num=f"{seconds}.{fraction}" if fraction else seconds))
    elif span.microseconds:
        parts.append(_("%(num)s ms", num=f"{span.microseconds / 1000:g}"))
    first = next(i for i, part in enumerate(parts) if part)
    return " ".join(part for part in parts[first : first + 2] if part)
