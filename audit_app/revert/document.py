"""Plans that come back as JSON: believed in nothing that can be checked. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from datetime import datetime
from typing import Any, Final

from audit_app.errors import PlanError
from audit_app.revert import plan as plans
from audit_app.revert.plan import (
    FORMAT,
    VERSION,
    Conflict,
    FieldStep,
    Guard,
    Plan,
    Record,
    Step,
)
from audit_app.revert.values import dump, parse

LONGEST: Final = 50_000_000
"""Characters of a plan's JSON."""

Known = Mapping[tuple[str, str], Collection[str]]
"""The names of the columns of each table that a plan may be about, by schema and name."""

_LARGEST_ID = 2**63 - 1


def load(text: str, known: Known) -> Plan:
    """Return the plan that :meth:`audit_app.revert.plan.Plan.to_json` wrote.

    :raises PlanError: if it did not, or the plan names a table or a column that is not known.
    """
    if len(text) > LONGEST:
        raise PlanError(f"This plan is longer than {LONGEST} characters: make it anew.")
    try:
        document = parse(text)
    except (ValueError, RecursionError, ArithmeticError) as error:
        raise _damaged("it is not JSON") from error
    reader = _Reader(known)
    found = reader.record_of(
        document,
        "plan",
        "format version title made_at reverts steps conflicts guards notes deferred",
    )
    if (found["format"], dump(found["version"])) != (FORMAT, str(VERSION)):
        raise PlanError(
            f"This is not a plan of version {VERSION}: make it anew with this version of audit_app."
        )
    plan = Plan(
        title=reader.text(found["title"], "title"),
        made_at=reader.moment(found["made_at"]),
        reverts=reader.reverts(found["reverts"]),
        steps=reader.list(found["steps"], "steps", reader.step),
        conflicts=reader.list(found["conflicts"], "conflicts", reader.conflict),
        guards=reader.list(found["guards"], "guards", reader.guard),
        notes=reader.list(found["notes"], "notes", lambda item: reader.text(item, "note")),
        deferred=reader.list(found["deferred"], "deferred", reader.constraint),
    )
    _check_ids(plan)
    return plan


def _damaged(why: str) -> PlanError:
    return PlanError(f"This plan is damaged: {why}. Make it anew.")


class _Reader:
    """Checks each part of a document as it makes the value of it."""

    def __init__(self, known: Known) -> None:
        self.known = known

    def record_of(self, item: object, what: str, names: str) -> dict[str, Any]:
        if not isinstance(item, dict) or set(item) != set(names.split()):
            raise _damaged(f"a {what} does not have the parts {names}")
        return item

    def list(self, items: object, what: str, make: Callable[[Any], Any]) -> tuple[Any, ...]:
        if not isinstance(items, list):
            raise _damaged(f"{what} is not a list")
        return tuple(make(item) for item in items)

    def text(self, item: object, what: str) -> str:
        if not isinstance(item, str):
            raise _damaged(f"a {what} is not a text")
        return item

    def number(self, item: object, what: str) -> int:
        if type(item) is not int or abs(item) > _LARGEST_ID:
            raise _damaged(f"a {what} is not a number")
        return item

    def one_of(self, item: object, what: str, allowed: Collection[Any]) -> Any:
        if not isinstance(item, str | bool | None) or item not in allowed:
            raise _damaged(f"{item!r} is not a {what}")
        return item

    def moment(self, item: object) -> datetime:
        try:
            found = datetime.fromisoformat(self.text(item, "moment"))
        except ValueError as error:
            raise _damaged("made_at is not a moment") from error
        if found.tzinfo is None:
            raise _damaged("made_at has no time zone")
        return found

    def reverts(self, item: object) -> dict[str, Any]:
        if not isinstance(item, dict) or len(item) != 1:
            raise _damaged("reverts does not name what is reverted")
        ((name, value),) = item.items()
        self.one_of(name, "part of reverts", ("transaction", "transactions", "activities"))
        if name == "transaction":
            return {name: self.number(value, "transaction")}
        return {name: [*self.list(value, name, lambda id_: self.number(id_, name))]}

    def columns(self, schema: object, table: object) -> Collection[str]:
        place = (self.text(schema, "schema"), self.text(table, "table"))
        if place not in self.known:
            raise PlanError(f"This plan is about {'.'.join(place)}, which no tracked model is of.")
        return self.known[place]

    def column(self, item: object, columns: Collection[str]) -> str:
        name = self.text(item, "field")
        if name not in columns:
            raise PlanError(f"This plan is about the column {name!r}, which its model has not.")
        return name

    def record(self, item: object) -> Record:
        found = self.record_of(item, "record", "schema table key")
        columns = self.columns(found["schema"], found["table"])

        def part(pair: Any) -> tuple[str, Any]:
            if not isinstance(pair, list) or len(pair) != 2:
                raise _damaged("a key does not consist of columns and values")
            return self.column(pair[0], columns), pair[1]

        return Record(found["schema"], found["table"], self.list(found["key"], "key", part))

    def step(self, item: object) -> Step:
        found = self.record_of(item, "step", "id subject verb record changes needs")
        record = self.record(found["record"])
        columns = self.columns(record.schema, record.table)

        def change(parts: Any) -> FieldStep:
            if not isinstance(parts, list) or len(parts) != 3:
                raise _damaged("a change does not consist of a field and two values")
            return FieldStep(self.column(parts[0], columns), parts[1], parts[2])

        step = Step(
            id=self.number(found["id"], "id"),
            subject=self.number(found["subject"], "subject"),
            verb=self.one_of(found["verb"], "verb", plans.VERBS),
            record=record,
            changes=self.list(found["changes"], "changes", change),
            needs=self.list(found["needs"], "needs", lambda id_: self.number(id_, "id")),
        )
        if not record.key or not step.changes:
            raise _damaged("a step does not say what it is about")
        names = [change.field for change in step.changes]
        if len(set(names)) != len(names):
            raise _damaged("a step changes a field twice")
        return step

    def conflict(self, item: object) -> Conflict:
        found = self.record_of(item, "conflict", " ".join(f.name for f in fields(Conflict)))
        subject = found["subject"]
        choices = self.list(
            found["choices"], "choices", lambda c: self.one_of(c, "choice", plans.CHOICES)
        )
        return Conflict(
            id=self.text(found["id"], "id"),
            kind=self.one_of(found["kind"], "kind of conflict", plans.KINDS),
            subject=None if subject is None else self.number(subject, "subject"),
            # Only to be shown: it may be a table that no model knows.
            record=self._shown(found["record"]),
            fields=self.list(found["fields"], "fields", lambda name: self.text(name, "field")),
            message=self.text(found["message"], "message"),
            choices=choices,
            skips=self.one_of(found["skips"], "extent", ("record", "fields", "nothing")),
            sets_null=self.one_of(found["sets_null"], "yes or no", (True, False)),
            resolution=self.one_of(found["resolution"], "resolution", (None, *choices)),
            is_preset=self.one_of(found["is_preset"], "yes or no", (True, False)),
        )

    def _shown(self, item: object) -> Record:
        found = self.record_of(item, "record", "schema table key")
        if not isinstance(found["key"], list):
            raise _damaged("a key is not a list")
        key = tuple((self.text(p[0], "field"), p[1]) for p in found["key"] if len(p) == 2)
        return Record(self.text(found["schema"], "schema"), self.text(found["table"], "table"), key)

    def guard(self, item: object) -> Guard:
        found = self.record_of(item, "guard", "schema table keys activity_id subject")
        self.columns(found["schema"], found["table"])
        id_, subject = found["activity_id"], found["subject"]
        return Guard(
            found["schema"],
            found["table"],
            self.list(found["keys"], "keys", lambda key: self.text(key, "key")),
            None if id_ is None else self.number(id_, "activity"),
            None if subject is None else self.number(subject, "subject"),
        )

    def constraint(self, item: object) -> tuple[str, str]:
        if not isinstance(item, list) or len(item) != 2:
            raise _damaged("a constraint has not a schema and a name")
        return self.text(item[0], "schema"), self.text(item[1], "constraint")


def _check_ids(plan: Plan) -> None:
    """Each step needs earlier ones only, and is guarded."""
    seen: set[int] = set()
    guarded = {(g.schema, g.table, g.subject) for g in plan.guards}
    for step in plan.steps:
        if step.id in seen or not seen >= set(step.needs):
            raise _damaged("the order of its steps is not possible")
        seen.add(step.id)
        place = (step.record.schema, step.record.table)
        if not {(*place, step.subject), (*place, None)} <= guarded:
            raise _damaged("a step has no guard")
    ids = [conflict.id for conflict in plan.conflicts]
    if len(set(ids)) != len(ids):
        raise _damaged("two conflicts have one id")
