"""How far apart two values are, in words."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from audit_app.admin.distances import duration, number_distance, time_distance

MINUS = "\N{MINUS SIGN}"
SAME = "the same number, written with other digits"


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        (1, 3, "+2"), (3, 1, f"{MINUS}2"), (Decimal("10"), Decimal("10.0"), SAME),
        (0, Decimal("0.0"), SAME),
        (Decimal("0.1"), Decimal("0.3"), "+0.2"), (0.1, 0.3, "+0.2"), (Decimal("-0.0"), 0, SAME),
        (10**40, 10**40 + 1, "+1"), (Decimal("1e-40"), 0, MINUS + "0." + "0" * 39 + "1"),
        (Decimal("NaN"), 1, ""), (1, True, ""), ("1", 2, ""), (None, 1, ""),
        (Decimal("1e100000"), 1, ""), (Decimal("1e-100000"), 1, ""),
    ],
)  # fmt: skip
def test_numbers_differ_exactly(old: Any, new: Any, text: str) -> None:
    assert number_distance(old, new) == text


@pytest.mark.parametrize(
    ("kind", "old", "new", "text"),
    [
        ("date", "2024-02-28", "2024-03-01", "2 days later"),
        ("date", "2026-01-02", "2026-01-01", "1 day earlier"),
        ("date", "0001-01-01", "9999-12-31", "3,652,058 days later"),
        ("date", "infinity", "2026-01-01", ""), ("date", "0044-03-15 BC", "2026-01-01", ""),
        ("datetime", "2026-03-29T00:30:00", "2026-03-29T03:30:00", "3 h later"),
        ("datetime", "2026-03-29T00:30:00+01:00", "2026-03-29T03:30:00+02:00", "2 h later"),
        ("datetime", "2026-01-01T01:00:00+01:00", "2026-01-01T00:00:00+00:00",
         "the same moment, written otherwise"),
        ("datetime", "2026-01-01T00:00:00", "2026-01-01T00:00:00+00:00", ""),
        ("time", "23:00:00", "01:00:00", "22 h earlier"),
        ("time", "10:00:00+02:00", "10:00:00+01:00", "1 h later"),
        ("date", None, "2026-01-01", ""),
    ],
)  # fmt: skip
def test_times_are_so_far_apart(kind: str, old: Any, new: Any, text: str) -> None:
    assert time_distance(old, new, kind) == text


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (timedelta(days=400), "400 days"), (timedelta(days=1, hours=2, minutes=3), "1 day 2 h"),
        (timedelta(days=1, minutes=3), "1 day"), (timedelta(hours=2, minutes=5), "2 h 5 min"),
        (timedelta(minutes=1, seconds=1.5), "1 min 1.5 s"), (timedelta(seconds=59), "59 s"),
        (timedelta(seconds=1.25), "1.25 s"), (timedelta(microseconds=250), "0.25 ms"),
        (timedelta(hours=1, microseconds=1), "1 h"),
        (timedelta(minutes=5, microseconds=7), "5 min 0.000007 s"),
    ],
)  # fmt: skip
def test_a_length_of_time_has_its_two_largest_units(span: timedelta, text: str) -> None:
    assert duration(span) == text
