"""What a preview shows of a plan, as frozen values, and how they are made of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from audit_app import history, identity
from audit_app.admin import differences, pages
from audit_app.admin.describing import Describer
from audit_app.admin.i18n import ngettext
from audit_app.admin.plan_words import DETAILED, EXPLAINED, badge, has_fields, option_text, words_of
from audit_app.admin.ways import table_of
from audit_app.diff import ABSENT, FieldChange
from audit_app.revert.values import dump

if TYPE_CHECKING:
    from datetime import tzinfo

    from sqlalchemy import orm

    from audit_app.admin.access import Access
    from audit_app.admin.links import Links
    from audit_app.admin.plan_words import Kind
    from audit_app.admin.reading import Logger
    from audit_app.admin.ways import Way
    from audit_app.revert.plan import Conflict, FieldStep, Plan, Record, RecordPlan

MOST_RECORDS: Final = 200
"""Records that a preview shows, besides those that need a decision."""

_LATEST: Final = 200
"""Changes of a record among which its fields' last ones are looked for."""

_OPEN: Final = 5
"""Records up to which all fields stand in the open."""


class Desk(Protocol):
    """The address that a preview is of, for one visitor."""

    logger: Logger
    links: Links
    zone: tzinfo
    kind: Kind
    id: int

    def choices(self, conflict: Conflict) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class Option:
    """A choice for a conflict."""

    value: str
    text: str
    is_chosen: bool


@dataclass(frozen=True)
class Question:
    """A conflict in words.

    :ivar name: of the radio buttons.
    :ivar detail: what the database holds, in the words of the plan; may be empty.
    :ivar last: the newest change that is in the way, where that explains it.
    :ivar error: that nothing was chosen; may be empty.
    """

    name: str
    text: str
    detail: str
    last: LastChange | None
    options: tuple[Option, ...]
    error: str = ""


@dataclass(frozen=True)
class LastChange:
    """Who changed a record last."""

    url: str
    actor: pages.Actor
    moment: pages.Moment


@dataclass(frozen=True)
class PlannedField:
    """A field of a record.

    :ivar value: of its checkbox; empty where there is none.
    :ivar last: who changed it since, where the page is about one record.
    """

    difference: differences.Field
    last: LastChange | None
    value: str
    is_chosen: bool
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class PlannedRecord:
    """What will become of one record.

    :ivar badge: what is done with it.
    :ivar is_folded: whether its fields are shown on demand only, because there are many records.
    """

    badge: pages.Badge
    is_folded: bool
    record: pages.Record
    fields: tuple[PlannedField, ...]
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class PlanPage:
    """A preview.

    :ivar lead: what will happen, in a sentence.
    :ivar back: a link to what it goes back on, with its ``said``: the reason that was given for it.
    :ivar deeds: what is done to how many records.
    :ivar crumbs: titles and addresses of the pages above.
    :ivar records: in the order in which they are written.
    :ivar further: records that are not shown.
    :ivar many: records of the plan, where there are so many that it has to be confirmed twice.
    :ivar button: one text for each number that the script may put there; empty if nothing is to be
        done.
    :ivar tokens: hidden fields.
    :ivar errors: what is wrong with the input, by its names; ``""`` is about all of it.
    """

    status: int
    kind: Kind
    title: str
    lead: str
    crumbs: tuple[tuple[str, str], ...]
    back: Way
    said: str
    deeds: tuple[tuple[pages.Badge, str], ...]
    action: str
    records: tuple[PlannedRecord, ...]
    questions: tuple[Question, ...]
    notes: tuple[str, ...]
    further: str
    many: str
    button: str
    button_one: str
    button_many: str
    tokens: tuple[tuple[str, str], ...]
    reason: str
    errors: Mapping[str, str]
    notice: str

    @property
    def undecided(self) -> int:
        """How many conflicts have more than one choice."""
        questions = [*self.questions]
        for record in self.records:
            questions += record.questions
            questions += [q for field in record.fields for q in field.questions]
        return sum(len(question.options) > 1 for question in questions)

    @property
    def undecided_text(self) -> str:
        """The same in words; empty if there are none."""
        num = self.undecided
        if not num:
            return ""
        return ngettext(
            "%(num)s conflict needs your decision.", "%(num)s conflicts need your decision.", num
        )


@dataclass(frozen=True)
class Given:
    """What a visitor sent, or nothing yet.

    :ivar choices: for conflicts, by their ids.
    :ivar fields: the chosen ones; None for all.
    """

    reason: str = ""
    digest: str = ""
    is_confirmed: bool = False
    choices: Mapping[str, str] = dataclasses.field(default_factory=dict)
    fields: frozenset[str] | None = None

    @classmethod
    def of(cls, form: Any) -> Given:
        """Read a form."""
        choices = {n.removeprefix("choice-"): v for n, v in form.items() if n.startswith("choice-")}
        return cls(
            # Browsers count a line's end as one character and send two.
            reason=form.get("reason", "").replace("\r\n", "\n").strip(),
            digest=form.get("digest", ""),
            is_confirmed=form.get("confirmed") == "1",
            choices=choices,
            fields=frozenset(form.getlist("field")),
        )


class Printer:
    """Makes the parts of one preview."""

    def __init__(
        self,
        desk: Desk,
        plan: Plan,
        given: Given,
        errors: Mapping[str, str],
        access: Access,
    ) -> None:
        self.desk = desk
        self.plan = plan
        self.given = given
        self.errors = errors
        self.describes = Describer(access, desk.links)
        self.access = access
        self.newest: dict[int, Any] = {}
        self.since: dict[str, Any] = {}
        self.general: tuple[Question, ...] = ()
        self.budget = differences.Budget()

    def records(self, session: orm.Session) -> tuple[tuple[PlannedRecord, ...], int]:
        """Return the records to show, and the number of the rest."""
        planned = self.plan.records
        shown = [
            record
            for number, record in enumerate(planned)
            if number < MOST_RECORDS or record.conflicts
        ]
        subjects = {record.subject for record in planned}
        asked: dict[int, list[Conflict]] = {}
        for conflict in self.plan.conflicts:
            if conflict.subject is not None and conflict.subject not in subjects:
                asked.setdefault(conflict.subject, []).append(conflict)
        self._read_newest(session, {record.subject for record in shown} | set(asked))
        self.describes.look_up(
            session,
            [(r.record.schema, r.record.table, [_side(r, "old"), _side(r, "new")]) for r in shown],
        )
        if len(shown) + len(asked) == 1 and shown:
            self._read_since(session, shown[0].record)
        found = [self._record(record) for record in shown]
        found += [self._asked(subject, conflicts) for subject, conflicts in asked.items()]
        self.general = tuple(
            self._question(conflict, "", table=True)
            for conflict in self.plan.conflicts
            if conflict.subject is None
        )
        return tuple(found), len(planned) - len(shown)

    def _read_newest(self, session: orm.Session, subjects: set[int]) -> None:
        ids = {
            guard.activity_id: guard.subject
            for guard in self.plan.guards
            if guard.subject in subjects and guard.activity_id is not None
        }
        if not ids:
            return
        logger = self.desk.logger
        query = history.activities_by_id(logger.activity_cls, logger.transaction_cls, ids)
        for row in self.access.only(session, session.execute(query)):
            self.newest[ids[row.id] or 0] = row

    def _read_since(self, session: orm.Session, record: Record) -> None:
        """Note who changed each field last since the version, or the transaction."""
        logger, id_ = self.desk.logger, self.desk.id
        place = logger.place(record.schema, record.table)
        query = history.record_page(
            logger.activity_cls, logger.transaction_cls, place.schema, place.name,
            _key_of(record), limit=_LATEST, formerly=place.formerly,
        )  # fmt: skip
        for row in self.access.only(session, session.execute(query)):
            if (row.transaction_id if self.desk.kind == "undo" else row.id) == id_:
                break
            for name in row.changed_data or row.field_names or ():
                self.since.setdefault(name, row)

    def _record(self, planned: RecordPlan) -> PlannedRecord:
        record, verb = planned.record, planned.verb
        place = (record.schema, record.table)
        order = self._order(record)
        changes = pages.sort_fields(map(_change_of(verb), planned.changes), order)
        states = differences.States(*place, _side(planned, "old"), _side(planned, "new"))
        has_boxes = has_fields(self.desk.kind, self.plan)
        chosen = self.given.fields
        names = {change.field for change in changes}
        by_field: dict[str, list[Question]] = {}
        rest = []
        for conflict in planned.conflicts:
            if conflict.is_preset:  # the field's checkbox decides it
                continue
            question = self._question(conflict, verb)
            if len(conflict.fields) == 1 and conflict.fields[0] in names:
                by_field.setdefault(conflict.fields[0], []).append(question)
            else:
                rest.append(question)
        fields = [
            PlannedField(
                differences.field_of(change, self.budget, self.describes, states),
                self._last(self.since.get(change.field)),
                change.field if has_boxes else "",
                chosen is None or change.field in chosen,
                tuple(by_field.get(change.field, ())),
            )
            for change in changes
            # What a new or deleted row does not have says nothing, unless it is asked about.
            if verb == "update"
            or change.field in by_field
            or (change.new if verb == "insert" else change.old) is not None
        ]
        return PlannedRecord(
            badge=badge(verb),
            is_folded=len(self.plan.records) > _OPEN and verb != "update" and not by_field,
            record=self._named(
                record, planned.subject, _side(planned, "new" if verb == "insert" else "old")
            ),
            fields=tuple(fields),
            questions=tuple(rest),
        )

    def _asked(self, subject: int, conflicts: Sequence[Conflict]) -> PlannedRecord:
        """A record that stays as it is."""
        return PlannedRecord(
            badge=badge("stays"),
            is_folded=False,
            record=self._named(conflicts[0].record, subject, {}),
            fields=(),
            questions=tuple(self._question(conflict, "") for conflict in conflicts),
        )

    def _order(self, record: Record) -> tuple[str, ...]:
        table = table_of(self.desk.logger, record.schema, record.table)
        return () if table is None else tuple(table.columns.keys())

    def _named(self, record: Record, subject: int, data: Mapping[str, Any]) -> pages.Record:
        key = _key_of(record)
        place = (record.schema, record.table)
        row = self.newest.get(subject)
        known = {**(row.old_data or {}), **(row.changed_data or {})} if row is not None else {}
        whole = {**known, **data}
        return pages.Record(
            schema=record.schema,
            table=record.table,
            key=pages.cut(pages.key_text(key)),
            url=self.desk.links.record(*place, key),
            label=self.describes.record(*place, whole) or pages.record_label(whole, key),
            table_label=self.describes.table(*place),
        )

    def _question(self, conflict: Conflict, verb: str, *, table: bool = False) -> Question:
        place = (conflict.record.schema, conflict.record.table)
        names = ", ".join(self.describes.field(*place, name) or name for name in conflict.fields)
        name = f"choice-{conflict.id}"
        choices = self.desk.choices(conflict)
        given = self.given.choices.get(conflict.id)
        row = self.newest.get(conflict.subject or 0) if conflict.kind in EXPLAINED else None
        if row is not None and len(conflict.fields) == 1:
            row = self.since.get(conflict.fields[0], row)
        text = words_of(conflict, verb, names)
        if table:
            text = f"{pages.full_name(*place)}: {text}"
        return Question(
            name=name,
            text=text,
            detail=conflict.message
            if conflict.kind in DETAILED and not self.access.is_limited
            else "",
            last=self._last(row),
            options=tuple(
                Option(
                    choice,
                    option_text(conflict, choice, verb, names),
                    is_chosen=len(choices) == 1 or choice == given,
                )
                for choice in choices
            ),
            error=self.errors.get(name, ""),
        )

    def _last(self, row: Any) -> LastChange | None:
        if row is None:
            return None
        links = self.desk.links
        return LastChange(
            url=links.activity(row.id),
            actor=pages.actor_of(row.t_actor_id, row.t_actor_label, links),
            moment=pages.moment_of(row.issued_at, self.desk.zone),
        )


def _key_of(record: Record) -> str:
    """Return a record's key as the trail stores it."""
    texts = [value if isinstance(value, str) else dump(value) for _, value in record.key]
    return identity.encode(texts) or ""


def _side(planned: RecordPlan, side: Literal["old", "new"]) -> dict[str, Any]:
    return {change.field: getattr(change, side) for change in planned.changes}


def _change_of(verb: str) -> Callable[[FieldStep], FieldChange]:
    def change(step: FieldStep) -> FieldChange:
        if verb == "insert":
            return FieldChange(step.field, ABSENT, step.new, "added")
        if verb == "delete":
            return FieldChange(step.field, step.old, ABSENT, "removed")
        return FieldChange(step.field, step.old, step.new, "changed")

    return change
