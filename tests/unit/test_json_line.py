"""JSON in one line: as exact as the slow way."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from audit_app.admin.values import Raw, json_line, json_text


def deep() -> Any:
    value: Any = Decimal("1.0")
    for _ in range(5000):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        {}, [], "", None, True, 0, 10**40, -5, Decimal("10.00"), Decimal("1E+3"), Decimal("-0.0"),
        {"a": [Decimal("1.10"), {"b": Decimal("0.000000000000000000001")}], "c": None},
        {"text": '"\\u00001\\u0000"', "more": "\\u0000", "Grüße": "\u2028\u007f\n\t"},
        ['\\"\\u0000', '"', "\\"], {'"\\u0000': Decimal(1)}, Raw("[1, 2]"), {"a": Raw("{}")},
    ],
    ids=repr,
)  # fmt: skip
def test_it_is_as_exact_as_the_slow_way(value: Any) -> None:
    assert json_line(value) == json_text(value, indent=None)


def test_depth_is_no_limit() -> None:
    assert json_line(deep()) == "[" * 5000 + "1.0" + "]" * 5000


def test_no_text_is_taken_for_a_number() -> None:
    for text in ('"\\u00001\\u0000"', "\\u00001\\u0000", '\\"\\u00001\\u0000\\"'):
        assert json.loads(json_line({text: text})) == {text: text}
