"""What a plan is: steps, conflicts, and what has to be unchanged when it is applied. Pure values.

A plan holds values of the trail, and no SQL. It can be printed, shown by a page, and sent around as
JSON; whoever takes a plan from elsewhere reads it with :func:`audit_app.revert.document.load`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from typing import Any, Final, Literal, TypeVar

from audit_app.errors import PlanError
from audit_app.revert.values import dump

FORMAT: Final = "audit_app.plan"
VERSION: Final = 1

Verb = Literal["insert", "update", "delete"]
Choice = Literal["skip", "force"]
Through = Literal["orm", "sql"]

VERBS: tuple[Verb, ...] = ("insert", "update", "delete")
CHOICES: tuple[Choice, ...] = ("skip", "force")
KINDS = (
    "changed_since", "gone", "exists", "taken", "parent_gone", "child_blocks", "column_gone",
    "column_required", "not_recorded", "masked", "too_large", "does_not_fit", "unknown",
    "truncated", "incomplete", "not_tracked", "cycle",
)  # fmt: skip
"""Every kind of conflict."""


@dataclass(frozen=True)
class Record:
    """A row, by its table and key.

    :ivar schema: as the trail knows it.
    :ivar key: the key columns with their JSON values.
    """

    schema: str
    table: str
    key: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        values = [value if isinstance(value, str) else dump(value) for _, value in self.key]
        return f"{self.schema}.{self.table} {', '.join(values)}".rstrip()


@dataclass(frozen=True)
class FieldStep:
    """What becomes of one field, in the JSON values of the trail.

    :ivar old: None for an insert.
    :ivar new: None for a delete.
    """

    field: str
    old: Any
    new: Any


@dataclass(frozen=True)
class Step:
    """One statement: an insert, an update or a delete of one record.

    :ivar id: its place in the plan.
    :ivar subject: tells the record; an update that needs two phases has two steps of one subject.
    :ivar record: under the key that it has before the plan; for an insert, that it will have.
    :ivar needs: ids of the steps without which this one cannot be.
    """

    id: int
    subject: int
    verb: Verb
    record: Record
    changes: tuple[FieldStep, ...]
    needs: tuple[int, ...] = ()

    @property
    def new_values(self) -> dict[str, Any]:
        return {change.field: change.new for change in self.changes}


@dataclass(frozen=True)
class Conflict:
    """Something that somebody has to decide.

    :ivar id: to name it to :meth:`Plan.resolve`.
    :ivar kind: one of :data:`KINDS`.
    :ivar subject: of the steps that it is about; None if it is about none.
    :ivar fields: those that it is about; empty for the record as a whole.
    :ivar choices: what may be chosen.
    :ivar skips: what ``skip`` leaves out: the ``record``, the ``fields``, or ``nothing`` that the
        plan could have done.
    :ivar sets_null: whether ``force`` writes NULL into the fields.
    :ivar resolution: what was chosen.
    :ivar is_preset: whether the plan's own aim has chosen it, and somebody may choose otherwise.
    """

    id: str
    kind: str
    subject: int | None
    record: Record
    fields: tuple[str, ...]
    message: str
    choices: tuple[Choice, ...]
    skips: Literal["record", "fields", "nothing"] = "record"
    sets_null: bool = False
    resolution: Choice | None = None
    is_preset: bool = False

    @property
    def is_open(self) -> bool:
        """Whether somebody may decide it still."""
        return self.resolution is None or self.is_preset


@dataclass(frozen=True)
class Guard:
    """What must be the newest activity of a record still, when the plan is applied.

    :ivar keys: the texts of ``object_id`` that the record has had; empty for truncations of the
        table.
    :ivar activity_id: None where there was none.
    :ivar subject: of the steps that it is for; None for all steps of the table.
    """

    schema: str
    table: str
    keys: tuple[str, ...]
    activity_id: int | None
    subject: int | None = None


@dataclass(frozen=True)
class RecordPlan:
    """What becomes of one record, for a page.

    :ivar changes: each field once, also where it is written in two steps.
    """

    subject: int
    verb: Verb
    record: Record
    changes: tuple[FieldStep, ...]
    conflicts: tuple[Conflict, ...]


Applier = Callable[..., int]
_Found = TypeVar("_Found")


@dataclass(frozen=True)
class Plan:
    """A way back, to look at before it is gone.

    ::

        plan = audit_logger.plan_undo(transaction_id=4711)
        print(plan)
        plan = plan.resolve("c1", "skip")
        plan.apply(db.session, reason="The import was of last year's file")

    :ivar title: what it does, in words.
    :ivar made_at: when the database was looked at.
    :ivar reverts: what it goes back on: ``{"transaction": id}``, ``{"transactions": [id, …]}`` or
        ``{"activities": [id, …]}``.
    :ivar steps: in the order in which they are done.
    :ivar notes: what is worth knowing and needs no decision.
    :ivar deferred: the constraints that are checked at the end, as schema and name.
    """

    title: str
    made_at: datetime
    reverts: dict[str, Any]
    steps: tuple[Step, ...] = ()
    conflicts: tuple[Conflict, ...] = ()
    guards: tuple[Guard, ...] = ()
    notes: tuple[str, ...] = ()
    deferred: tuple[tuple[str, str], ...] = ()
    applier: Applier | None = field(default=None, repr=False, compare=False)

    # -- Looking at it ------------------------------------------------------------------------

    @property
    def unresolved(self) -> tuple[Conflict, ...]:
        """The conflicts that nobody has decided yet."""
        return tuple(conflict for conflict in self.conflicts if conflict.resolution is None)

    @property
    def by_subject(self) -> dict[int, list[Step]]:
        """The steps of each record."""
        found: dict[int, list[Step]] = {}
        for step in self.steps:
            found.setdefault(step.subject, []).append(step)
        return found

    @property
    def records(self) -> tuple[RecordPlan, ...]:
        """What becomes of each record, in the order of the steps.

        A record that only has conflicts is not among them.
        """
        found = []
        for subject, steps in self.by_subject.items():
            main = next((step for step in steps if step.verb != "update"), steps[0])
            changed: dict[str, FieldStep] = {}
            for step in steps:
                for change in step.changes:
                    first = changed.get(change.field, change)
                    # What is set to NULL on the way to its deletion shows what it was.
                    new = change.new if step.verb != "delete" else None
                    changed[change.field] = FieldStep(change.field, first.old, new)
            conflicts = tuple(c for c in self.conflicts if c.subject == subject)
            changes = tuple(changed.values())
            found.append(RecordPlan(subject, main.verb, main.record, changes, conflicts))
        return tuple(found)

    def __str__(self) -> str:
        lines = [self.title, f"made at {self.made_at.isoformat(timespec='seconds')}", ""]
        for number, step in enumerate(self.steps, 1):
            lines.append(f"{number}. {step.verb} {step.record}")
            lines += [f"     {_line(step.verb, change)}" for change in step.changes]
        if not self.steps:
            lines.append("Nothing to do.")
        if self.conflicts:
            lines += ["", "Conflicts:"]
        for conflict in self.conflicts:
            chosen = conflict.resolution or f"choose {' or '.join(conflict.choices)}"
            if conflict.is_preset:
                others = [choice for choice in conflict.choices if choice != conflict.resolution]
                chosen = f"{chosen}, unless you choose {' or '.join(others)}"
            lines.append(f"  {conflict.id} {conflict.record}: {conflict.message} [{chosen}]")
        if self.notes:
            lines += ["", *(f"Note: {note}" for note in self.notes)]
        return "\n".join(lines)

    # -- Deciding -----------------------------------------------------------------------------

    def resolve(self, conflict_id: str, choice: str) -> Plan:
        """Return a plan in which a conflict is decided.

        :param choice: ``"skip"`` leaves the record, or the fields, as they are, together with what
            cannot be done without them; ``"force"`` goes on all the same.
        :raises PlanError: if there is no such conflict, or it does not have this choice.
        """
        conflict = _one(self.conflicts, lambda item: item.id == conflict_id)
        if conflict is None:
            known = ", ".join(item.id for item in self.conflicts) or "none"
            raise PlanError(f"There is no conflict {conflict_id!r}: this plan has {known}.")
        if choice not in conflict.choices:
            raise PlanError(
                f"The conflict {conflict_id} cannot be resolved with {choice!r}: use "
                f"{' or '.join(conflict.choices)}."
            )
        if not conflict.is_open and conflict.resolution != choice:
            raise PlanError(
                f"The conflict {conflict_id} is resolved with {conflict.resolution!r} already: "
                "start from the plan as it was made."
            )
        chosen = CHOICES[CHOICES.index(choice)]
        decided = replace(conflict, resolution=chosen, is_preset=False)
        plan = replace(
            self,
            conflicts=tuple(decided if item is conflict else item for item in self.conflicts),
        )
        if choice == "force":
            return plan._with_nulls(decided) if decided.sets_null else plan
        if decided.skips == "record" and decided.subject is not None:
            return plan._without_subjects({decided.subject})
        if decided.skips == "fields" and decided.subject is not None:
            return plan._without_fields(decided.subject, decided.fields)
        return plan

    def only(self, names: Iterable[str]) -> Plan:
        """Return a plan that changes only these fields of records that exist.

        Records are neither inserted nor deleted by it.

        :raises PlanError: if nothing is left.
        """
        wanted = {names} if isinstance(names, str) else set(names)
        plan = self._without_subjects({s.subject for s in self.steps if s.verb != "update"})
        for subject, steps in plan.by_subject.items():
            there = {change.field for step in steps for change in step.changes}
            plan = plan._without_fields(subject, there - wanted)
        if not plan.steps:
            raise PlanError(f"No step of this plan changes {', '.join(sorted(wanted))}.")
        kept = {step.subject for step in plan.steps}
        conflicts = tuple(
            item
            for item in plan.conflicts
            if item.subject is None
            or (item.subject in kept and (not item.fields or set(item.fields) & wanted))
        )
        return replace(plan, conflicts=conflicts)

    def _without_subjects(self, subjects: Collection[int]) -> Plan:
        """Leave records out, and what needs them."""
        gone = {step.id for step in self.steps if step.subject in subjects}
        subjects = set(subjects)
        # A step needs only earlier ones, but the two steps of a subject stand and fall together.
        while True:
            more = {
                step.id
                for step in self.steps
                if step.id not in gone and (step.subject in subjects or gone & set(step.needs))
            }
            if not more:
                break
            gone |= more
            subjects |= {step.subject for step in self.steps if step.id in more}
        return replace(
            self,
            steps=tuple(step for step in self.steps if step.id not in gone),
            conflicts=tuple(
                replace(item, resolution="skip", is_preset=False)
                if item.subject in subjects and item.is_open
                else item
                for item in self.conflicts
            ),
        )

    def _without_fields(self, subject: int, names: Collection[str]) -> Plan:
        steps = tuple(
            replace(step, changes=tuple(c for c in step.changes if c.field not in names))
            if step.subject == subject
            else step
            for step in self.steps
        )
        plan = replace(self, steps=steps)
        mine = [step for step in steps if step.subject == subject]
        if all(not step.changes for step in mine):
            return plan._without_subjects({subject})
        empty = {step.id for step in mine if not step.changes and step.verb == "update"}
        # Who waited for a key or a reference that is now left as it is cannot go on.
        if empty:
            waiting = {s.subject for s in steps if empty & set(s.needs) and s.subject != subject}
            plan = replace(plan, steps=tuple(s for s in steps if s.id not in empty))
            plan = plan._without_subjects(waiting) if waiting else plan
        return plan

    def _with_nulls(self, conflict: Conflict) -> Plan:
        return replace(
            self,
            steps=tuple(
                replace(
                    step,
                    changes=tuple(
                        replace(c, new=None) if c.field in conflict.fields else c
                        for c in step.changes
                    ),
                )
                if step.subject == conflict.subject
                else step
                for step in self.steps
            ),
        )

    # -- Doing it -----------------------------------------------------------------------------

    def apply(self, session: Any, *, reason: str, through: Through = "orm") -> int:
        """Do it, inside of the session's transaction, which the caller commits.

        The rows are locked in a fixed order and looked at again first. Everything or nothing is
        written: an error leaves the transaction as it was.

        :param session: a ``Session`` or ``db.session``; for ``through="sql"`` also a
            ``Connection``.
        :param reason: why; kept in ``transaction.reason``.
        :param through: ``"orm"`` lets the events of the models happen (tables without a model are
            written by SQL); ``"sql"`` writes the values exactly and nothing else.
        :return: the id of the ``transaction`` of the trail that this is recorded under.
        :raises UnresolvedConflictsError: if a conflict is not decided.
        :raises PlanOutdatedError: if a record has changed since the plan was made.
        :raises PlanFailedError: if the database refuses a step.
        :raises PlanError: if the reason is empty, or there is nothing to do.
        """
        if self.applier is None:
            raise PlanError("This plan belongs to no AuditLogger: read it with plan_from_json().")
        return self.applier(self, session, reason=reason, through=through)

    def to_json(self) -> str:
        """Return the plan as JSON, for :meth:`audit_app.AuditLogger.plan_from_json`.

        Whoever can change this text can make the plan write something else: keep it on the
        server, or sign it.
        """
        return dump(
            {
                "format": FORMAT,
                "version": VERSION,
                "title": self.title,
                "made_at": self.made_at.isoformat(),
                "reverts": self.reverts,
                "steps": [_step(step) for step in self.steps],
                "conflicts": [_conflict(conflict) for conflict in self.conflicts],
                "guards": [
                    {f.name: getattr(guard, f.name) for f in fields(Guard)} for guard in self.guards
                ],
                "notes": self.notes,
                "deferred": self.deferred,
            }
        )


def _step(step: Step) -> dict[str, Any]:
    return {
        "id": step.id,
        "subject": step.subject,
        "verb": step.verb,
        "record": _record(step.record),
        "changes": [[change.field, change.old, change.new] for change in step.changes],
        "needs": step.needs,
    }


def _conflict(conflict: Conflict) -> dict[str, Any]:
    found = {f.name: getattr(conflict, f.name) for f in fields(Conflict)}
    return {**found, "record": _record(conflict.record)}


def _record(record: Record) -> dict[str, Any]:
    return {"schema": record.schema, "table": record.table, "key": record.key}


def _line(verb: Verb, change: FieldStep) -> str:
    old, new = _short(change.old), _short(change.new)
    texts = {"insert": new, "delete": old, "update": f"{old} → {new}"}
    return f"{change.field}: {texts[verb]}"


def _short(value: Any) -> str:
    text = dump(value)
    return text if len(text) <= 200 else f"{text[:200]}… ({len(text)} characters)"


def _one(items: Iterable[_Found], test: Callable[[_Found], bool]) -> _Found | None:
    return next((item for item in items if test(item)), None)
