"""The policy as a value."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from audit_app import retention
from audit_app.errors import InvalidRetentionError

SOON, LATE = datetime(2026, 1, 1, tzinfo=UTC), datetime(2019, 1, 1, tzinfo=UTC)


def test_a_policy() -> None:
    policy = retention.parse(
        {
            "default": "7 years",
            "session": "90 days",
            "desk.ticket": {"update": "1 year", "default": None},
            ("a.b", "c.d"): {"gap": "1 week"},
            "contract": "forever",
        }
    )
    assert policy.default == {"default": "7 years"}
    assert dict(policy.tables) == {
        ("public", "session"): {"default": "90 days"},
        ("desk", "ticket"): {"update": "1 year", "default": None},
        ("a.b", "c.d"): {"gap": "1 week"},
        ("public", "contract"): {"default": None},
    }
    assert policy.amounts == ("7 years", "90 days", "1 year", None, "1 week")
    assert not policy.is_finite


def test_rules_count_for_every_name_of_a_table() -> None:
    policy = retention.parse({"default": "7 years", "post": {"update": "90 days", "insert": None}})
    names = (("press", "article"), ("public", "post"))
    rules = policy.rules({"7 years": LATE, "90 days": SOON}, lambda schema, name: names)
    own = {"update": SOON.isoformat(), "insert": "-infinity"}
    assert rules == {
        "default": {"default": LATE.isoformat()},
        "tables": {"press": {"article": own}, "public": {"post": own}},
    }


@pytest.mark.parametrize(
    ("given", "finite", "some"),
    [
        (None, False, False),
        ({}, False, False),
        ({"default": "forever"}, False, False),
        ({"default": "1 day"}, True, True),
        ({"default": "1 days", "a": "2 weeks"}, True, True),
        ({"default": "1 day", "a": None}, False, True),
        ({"a": "1 month"}, False, True),
    ],
)
def test_what_a_policy_lets_go(given: Any, finite: bool, some: bool) -> None:
    policy = retention.parse(given)
    assert (policy.is_finite, bool(policy)) == (finite, some)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("7 years", "write a mapping"),
        ({"default": "7"}, "write an amount"),
        ({"default": 7}, "write an amount"),
        ({"default": "0 days"}, "write an amount"),
        ({"default": "-1 days"}, "write an amount"),
        ({"default": "1 hour"}, "write an amount"),
        ({"default": "1 year 2 days"}, "write an amount"),
        ({"default": "7 years\n"}, "write an amount"),
        ({"default": "1 day; DROP"}, "write an amount"),
        ({"a": {"updated": "1 day"}}, "has the verb 'updated'"),
        ({"a": {"prune": "1 day"}}, "has the verb 'prune'"),
        ({"default": {"export": "1 day"}}, "a mark of the trail's own"),
        ({"a.b.c": "1 day"}, "write 'default', 'table'"),
        ({"": "1 day"}, "write 'default', 'table'"),
        ({".a": "1 day"}, "write 'default', 'table'"),
        ({7: "1 day"}, "write 'default', 'table'"),
    ],
)
def test_what_is_no_policy(given: Any, says: str) -> None:
    with pytest.raises(InvalidRetentionError, match=says):
        retention.parse(given)


def test_an_amount_alone() -> None:
    assert retention.check_amount("--keep", "1 days") == "1 day"
    with pytest.raises(InvalidRetentionError, match="--keep = 'forever'"):
        retention.check_amount("--keep", "forever")
