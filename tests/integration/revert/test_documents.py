"""A plan as text and as JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from audit_app import AuditLogger
from audit_app.errors import (
    ConfigurationError,
    PlanError,
)
from tests.integration.revert.books import Library


def test_a_plan_as_text(library: Library) -> None:
    id_ = library.run("UPDATE article SET title = 'x' WHERE id = 1", "INSERT INTO tag VALUES (5)")
    library.run("UPDATE article SET title = 'y' WHERE id = 1")
    plan = library.undo(id_)
    lines = str(plan).splitlines()
    assert lines[0] == f"Undo transaction {id_}"
    assert lines[3:] == [
        "1. update public.article 1",
        '     title: "y" → "one"',
        "2. delete public.tag 5",
        "     id: 5",
        "     name: null",
        "",
        "Conflicts:",
        '  c1 public.article 1: title has changed since, and is "y" now [choose skip or force]',
    ]
    (record, _) = plan.records
    assert (record.verb, str(record.record), record.conflicts) == (
        "update",
        "public.article 1",
        plan.conflicts,
    )
    with pytest.raises(PlanError, match="no conflict 'c9': this plan has c1"):
        plan.resolve("c9", "skip")
    with pytest.raises(PlanError, match="resolved with 'force' already"):
        plan.resolve("c1", "force").resolve("c1", "skip")


def test_a_plan_as_json(library: Library) -> None:
    library.run("DELETE FROM author WHERE id = 1")
    plan = library.undelete(library.author, 1)
    text = plan.to_json()
    again = library.logger.plan_from_json(text)
    assert again == plan
    assert again.to_json() == text
    assert '["price", null, 1.50]' in text


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("format",), "other", "not a plan of version 1"),
        (("version",), 2, "not a plan of version 1"),
        (("version",), True, "not a plan of version 1"),
        (("more",), 1, "parts"),
        (("title",), 1, "a title is not a text"),
        (("made_at",), "yesterday", "not a moment"),
        (("made_at",), "2026-01-01", "no time zone"),
        (("reverts",), {"everything": 1}, "part of reverts"),
        (("reverts",), {"transaction": "1"}, "not a number"),
        (("steps",), {}, "steps is not a list"),
        (("steps", 0, "record", "table"), "pg_authid", "no tracked model"),
        (("steps", 0, "record", "schema"), "audit", "no tracked model"),
        (("steps", 0, "record", "key", 0, 0), "ctid", "column 'ctid'"),
        (("steps", 0, "changes", 0, 0), "x\" = 1; --", "which its model has not"),
        (("steps", 0, "changes", 0), ["title"], "a field and two values"),
        (("steps", 0, "changes"), [], "what it is about"),
        (("steps", 0, "changes", 1), ["title", 1, 2], "changes a field twice"),
        (("steps", 0, "verb"), "truncate", "is not a verb"),
        (("steps", 0, "needs"), [5], "order of its steps"),
        (("steps", 0, "id"), True, "not a number"),
        (("steps", 0, "subject"), 2**70, "not a number"),
        (("guards",), [], "a step has no guard"),
        (("guards", 0, "subject"), 9, "a step has no guard"),
        (("conflicts", 0, "kind"), "other", "kind of conflict"),
        (("conflicts", 0, "resolution"), "maybe", "is not a resolution"),
        (("conflicts", 0, "skips"), ["record"], "is not a extent"),
        (("conflicts", 0, "record"), {}, "parts schema table key"),
        (("deferred",), [["a"]], "a constraint has not"),
    ],
)  # fmt: skip
def test_a_damaged_plan_is_refused(
    library: Library, path: tuple[Any, ...], value: Any, message: str
) -> None:
    id_ = library.run("UPDATE article SET title = 'x', price = 1 WHERE id = 1")
    library.run("UPDATE article SET title = 'y' WHERE id = 1")
    document = json.loads(library.undo(id_).to_json())
    target = document
    for part in path[:-1]:
        target = target[part]
    target[path[-1]] = value
    with pytest.raises(PlanError, match=message):
        library.logger.plan_from_json(json.dumps(document))


@pytest.mark.parametrize("text", ["", "{", "[]", "NaN", "null", "[" * 100_000, '{"a": NaN}'])
def test_what_is_no_plan_is_refused(library: Library, text: str) -> None:
    with pytest.raises(PlanError):
        library.logger.plan_from_json(text)


def test_nobody_may_restore_unless_it_is_said() -> None:
    assert AuditLogger().can_restore is None
    assert AuditLogger(can_restore=bool).can_restore is bool
    with pytest.raises(ConfigurationError, match="can_restore=1 cannot be called"):
        AuditLogger(can_restore=1)  # type: ignore[arg-type]
