"""Intervals and ranges from the text that PostgreSQL prints."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from audit_app import identity, stored


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("00:00:00", timedelta()),
        ("-00:00:00.5", timedelta(seconds=-0.5)),
        ("26:00:01", timedelta(hours=26, seconds=1)),
        ("1 day", timedelta(days=1)),
        ("-1 days +02:03:04.000005", timedelta(days=-1, hours=2, minutes=3, seconds=4.000005)),
        ("1 year 2 mons -3 days", timedelta(days=365 + 60 - 3)),
    ],
)
def test_an_interval(text: str, expected: timedelta) -> None:
    assert stored.interval(text) == expected


@pytest.mark.parametrize("text", ["", "soon", "1 week", "99999999999 days", "01:02"])
def test_no_interval(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        stored.interval(text)
    assert identity.from_json(text, sa.Interval()) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("empty", pg.Range(empty=True)),
        ("[1,5)", pg.Range(1, 5)),
        ("(,5]", pg.Range(None, 5, bounds="(]")),
        ("(,)", pg.Range(None, None, bounds="()")),
    ],
)
def test_a_range(text: str, expected: Any) -> None:
    assert stored.range_(text, int) == expected


def test_a_quoted_bound() -> None:
    assert stored.range_(r'["a ""b""","c\\d"]', str) == pg.Range('a "b"', "c\\d", bounds="[]")


def test_a_multirange() -> None:
    assert list(stored.multirange("{}", int)) == []
    assert list(stored.multirange("{[1,3),[5,)}", int)) == [pg.Range(1, 3), pg.Range(5, None)]


@pytest.mark.parametrize("text", ["1", "[1,2", "[1]", ""])
def test_no_range(text: str) -> None:
    for read in (stored.range_, stored.multirange):
        with pytest.raises(ValueError):  # noqa: PT011
            read(text, int)
    assert identity.from_json(text, pg.INT4RANGE()) == text


@pytest.mark.parametrize(
    ("type_", "value", "expected"),
    [
        (pg.NUMRANGE(), "[1.50,2]", pg.Range(Decimal("1.50"), Decimal(2), bounds="[]")),
        (pg.DATERANGE(), "[2026-01-01,)", pg.Range(date(2026, 1, 1), None)),
        (
            pg.TSRANGE(),
            '["2026-01-01 10:00:00",)',
            pg.Range(datetime(2026, 1, 1, 10), None),
        ),
        (pg.ARRAY(sa.Date), [["2026-01-01", None]], [[date(2026, 1, 1), None]]),
        (pg.ARRAY(pg.JSONB), [[1, 2]], [[1, 2]]),
        (pg.JSONB(), {"a": [Decimal("1.5")]}, {"a": [1.5]}),
        (pg.OID(), "7", 7),
        (pg.DOMAIN("d", sa.Date), "2026-01-01", date(2026, 1, 1)),
    ],
)
def test_values_of_their_columns(type_: Any, value: Any, expected: Any) -> None:
    found = identity.from_json(value, type_)
    assert (found, type(found)) == (expected, type(expected))
