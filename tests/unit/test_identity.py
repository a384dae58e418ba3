"""Identities between the trail's text and the model's values."""

from __future__ import annotations

import enum
import uuid
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from audit_app import identity


class Colour(enum.Enum):
    RED = "r"


SOME_UUID = uuid.UUID("7b1c4c1e-3c5e-4d34-9a0e-3c1a2b3c4d5e")

PAIRS: list[tuple[Any, sa.types.TypeEngine[Any], str]] = [
    (1, sa.Integer(), "1"),
    (-(2**62), sa.BigInteger(), str(-(2**62))),
    ("a/b", sa.Text(), "a/b"),
    (SOME_UUID, sa.Uuid(), str(SOME_UUID)),
    (SOME_UUID, postgresql.UUID(as_uuid=True), str(SOME_UUID)),
    (date(2024, 2, 29), sa.Date(), "2024-02-29"),
    (datetime(2024, 1, 2, 3, 4, 5, 60000), sa.DateTime(), "2024-01-02 03:04:05.06"),
    (datetime(2024, 1, 2, 3, tzinfo=UTC), sa.DateTime(timezone=True), "2024-01-02 03:00:00+00"),
    (True, sa.Boolean(), "true"),
    (Decimal("1.50"), sa.Numeric(), "1.50"),
    (b"\xde\xad", sa.LargeBinary(), "\\xdead"),
    (Colour.RED, sa.Enum(Colour), "RED"),
]


@pytest.mark.parametrize(("value", "type_", "text"), PAIRS)
def test_a_single_key(value: Any, type_: Any, text: str) -> None:
    assert identity.encode(value) == text
    assert identity.decode(text, [sa.Column("id", type_)]) == value


def test_a_zone_does_not_matter() -> None:
    there = datetime(2024, 1, 2, 5, tzinfo=timezone(timedelta(hours=2)))
    assert identity.encode(there) == "2024-01-02 03:00:00+00"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ((1, "x"), '["1", "x"]'),
        ((1, 'quo"te\\'), '["1", "quo\\"te\\\\"]'),
        ((1, "ü\n\x01\x7f"), '["1", "ü\\n\\u0001\x7f"]'),
    ],
)
def test_a_composite_key(value: Any, text: str) -> None:
    key: list[sa.Column[Any]] = [sa.Column("a", sa.Integer), sa.Column("b", sa.Text)]
    assert identity.encode(value) == text
    assert identity.encode(list(value)) == text
    assert identity.decode(text, key) == value


def test_a_tuple_of_one_is_its_element() -> None:
    assert identity.encode((5,)) == "5"


def test_what_does_not_fit_the_key_stays_as_it_is() -> None:
    number: list[sa.Column[Any]] = [sa.Column("a", sa.Integer)]
    pair: list[sa.Column[Any]] = [sa.Column("a", sa.Integer), sa.Column("b")]
    assert identity.decode("x", number) == "x"
    assert identity.decode("x", pair) == "x"
    assert identity.decode("5", pair) == "5"
    assert identity.decode('["1", "2", "3"]', pair) == ("1", "2", "3")
    assert identity.decode(None, number) is None
    assert identity.encode(None) is None


@pytest.mark.parametrize(
    ("stored", "type_", "value"),
    [
        ("2024-02-29", sa.Date(), date(2024, 2, 29)),
        (Decimal("10.0"), sa.Numeric(), Decimal("10.0")),
        (10, sa.Numeric(), Decimal(10)),
        (Decimal("1.5"), sa.Float(), 1.5),
        ([1, 2], sa.ARRAY(sa.Integer), [1, 2]),
        ({"a": 1}, postgresql.JSONB(), {"a": 1}),
        ("24:00:00", sa.Interval(), timedelta(hours=24)),
        (None, sa.Integer(), None),
        (True, sa.Boolean(), True),
        ("no date", sa.Date(), "no date"),
    ],
)
def test_a_stored_value_comes_back_as_the_columns_type(stored: Any, type_: Any, value: Any) -> None:
    found = identity.from_json(stored, type_)
    assert found == value
    assert type(found) is type(value)


def test_a_type_of_the_hosts_own_is_asked() -> None:
    class Upper(sa.TypeDecorator[str]):
        impl = sa.Text
        cache_ok = True

        def process_result_value(self, value: Any, dialect: Any) -> str:
            return str(value).upper()

    assert identity.from_json("a", Upper()) == "A"
    assert identity.decode("a", [sa.Column("id", Upper())]) == "A"
