"""Restore, undelete, undo on the pages: a plan that is looked at, and then confirmed.

A preview reads in a session that cannot write. What is confirmed is planned once more in the
application's own session, compared with what was looked at, applied and committed there; every
other way out rolls back.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal

import sqlalchemy as sa
from flask import current_app
from flask import session as cookie
from werkzeug.exceptions import HTTPException
from wtforms import Form, StringField
from wtforms.csrf.session import SessionCSRF

from audit_app import history, identity, install, models, selection
from audit_app.admin import differences, pages
from audit_app.admin.access import Access
from audit_app.admin.describing import Describer
from audit_app.admin.i18n import gettext as _
from audit_app.admin.i18n import ngettext, number_text
from audit_app.admin.reading import reading
from audit_app.diff import ABSENT, FieldChange
from audit_app.errors import (
    ConfigurationError,
    NotGrantedError,
    PlanError,
    PlanFailedError,
    PlanOutdatedError,
    RecordNotFoundError,
)
from audit_app.revert.values import dump

if TYPE_CHECKING:
    from datetime import tzinfo

    from sqlalchemy import orm

    from audit_app.admin.links import Links
    from audit_app.admin.reading import Logger
    from audit_app.revert.plan import Conflict, FieldStep, Plan, Record, RecordPlan

Kind = Literal["restore", "undelete", "undo"]

LONGEST_REASON: Final = 500
MOST_RECORDS: Final = 200
"""Records that a preview shows, besides those that need a decision."""

MOST_CONFLICTS: Final = 200
"""Conflicts that may be decided on one page."""

_LATEST: Final = 200
"""Changes of a record among which its fields' last ones are looked for."""

_OPEN: Final = 5
"""Records up to which all fields stand in the open."""

_PART: Final = 500  # ids that are asked about at once
_CSRF_FIELD: Final = "audit_token"
_WRITTEN: Final = frozenset({"insert", "update", "delete", "truncate"})


def may_restore(logger: Logger) -> bool:
    """Tell whether the present actor, who may see the pages, may bring back what they show."""
    return logger.can_restore is not None and bool(logger.can_restore(logger.current_actor()))


# -- Ways there ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """A link to a preview."""

    text: str
    url: str


def way_back(
    logger: Logger, links: Links, row: Any, *, is_newest: bool, is_gone: bool = False
) -> Way | None:
    """Return the link that a version or change of a record has; None without one.

    :param row: an activity, or anything else with its ``id``, ``verb`` and names.
    :param is_newest: whether the record did not change after it.
    :param is_gone: whether the record is not there any more.
    """
    if not may_restore(logger) or _table_of(logger, row.schema_name, row.table_name) is None:
        return None
    if row.verb == "delete":
        # What was deleted before the last time is a version like any other.
        return Way(_("Undelete"), links.undelete(row.id)) if is_newest else None
    if row.verb not in {"insert", "update", "baseline"} or (is_newest and not is_gone):
        return None
    return Way(_("Restore this version"), links.restore(row.id))


def way_of_transaction(logger: Logger, links: Links, id_: int, shown: Sequence[Any]) -> Way | None:
    """Return the link that a transaction's page has; None without one."""
    is_known = any(
        row.verb in _WRITTEN and _table_of(logger, row.schema_name, row.table_name) is not None
        for row in shown
    )
    if not is_known or not may_restore(logger):
        return None
    return Way(_("Undo this transaction"), links.undo(id_))


def reverted(meta: Any, links: Links) -> tuple[Way, ...]:
    """Return links to what a transaction took back, from its metadata."""
    found = meta.get("reverts") if isinstance(meta, Mapping) else None
    if not isinstance(found, Mapping):
        return ()
    given = found.get("transactions") or [found.get("transaction")]
    ids = [id_ for id_ in given if _is_id(id_)] if isinstance(given, list) else []
    ways = [Way(_("transaction %(id)s", id=id_), links.transaction(id_)) for id_ in ids[:_FEW]]
    given = found.get("activities")
    ids = [id_ for id_ in given if _is_id(id_)] if isinstance(given, list) else []
    ways += [Way(_("change %(id)s", id=id_), links.activity(id_)) for id_ in ids[:_FEW]]
    return tuple(ways)


_FEW: Final = 5
"""Links to what was taken back; the rest is in the metadata."""


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def undone_by(
    session: orm.Session, access: Access, links: Links, id_: int, shown: Sequence[Any]
) -> Way | None:
    """Return the link to the transaction that took another one back, as far as it is near.

    It is looked for among the next changes of one record of the page.
    """
    row = next((row for row in shown if row.verb in _WRITTEN and row.object_key is not None), None)
    if row is None:
        return None
    logger = access.logger
    place = logger.place(row.schema_name, row.table_name)
    query = history.undone_by(
        logger.activity_cls, logger.transaction_cls, place,
        row.new_object_key or row.object_key, after=row.id, transaction_id=id_,
    )  # fmt: skip
    found = session.execute(query).first()
    if found is None or not access.known(session, [found]):
        return None
    text = _("transaction %(id)s", id=found.transaction_id)
    return Way(text, links.transaction(found.transaction_id))


def _table_of(logger: Logger, schema: str | None, name: str | None) -> sa.Table | None:
    """Return the tracked table that a name, present or former, stands for."""
    if schema is None or name is None:
        return None
    place = logger.place(schema, name)
    if not logger.is_tracked(place.schema, place.name):
        return None
    metadata: sa.MetaData = logger.base.metadata
    return models.find_table(metadata, place.schema, place.name)


# -- What the page shows ---------------------------------------------------------------------------


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
class Aim:
    """What an address wants to bring back, and how it is planned."""

    title: str
    crumbs: tuple[tuple[str, str], ...]
    back: Way
    said: str
    make: Callable[[Any], Plan]


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


class _RefusedError(Exception):
    """Nothing is written, and the page is shown again."""

    def __init__(self, status: int, errors: Mapping[str, str], *, notice: str = "") -> None:
        super().__init__(status)
        self.status = status
        self.errors = errors
        self.notice = notice

    @property
    def is_outdated(self) -> bool:
        """Whether the plan is another one now."""
        return bool(self.notice)


class Restoring:
    """One address that brings something back, for one visitor.

    :param id_: of an activity; for an undo, of a transaction.
    """

    def __init__(self, logger: Logger, links: Links, zone: tzinfo, kind: Kind, id_: int) -> None:
        self.logger = logger
        self.links = links
        self.zone = zone
        self.kind = kind
        self.id = id_

    # -- The two answers --------------------------------------------------------------------------

    def preview(self) -> PlanPage:
        """Return the page that shows what would be done.

        :raises RecordNotFoundError: if there is nothing here that the visitor may see.
        :raises PlanError: if it cannot be planned.
        """
        return self._show(Given(), _RefusedError(200, {}))

    def submit(self, form: Any) -> PlanPage | int:
        """Do what the visitor confirmed, and commit it.

        :return: the id of the new transaction of the trail; or the page, if nothing was written.
        :raises RecordNotFoundError: if there is nothing here that the visitor may see.
        :raises PlanError: if it cannot be planned any more.
        """
        given = Given.of(form)
        try:
            return self._apply(given, _token_error(form))
        except _RefusedError as refused:
            if refused.is_outdated:  # other conflicts may have the same ids by now
                given = Given(reason=given.reason)
            return self._show(given, refused)

    # -- Doing it ---------------------------------------------------------------------------------

    def _apply(self, given: Given, token_error: str) -> int:
        aim = self._aim()
        if token_error:
            raise _RefusedError(400, {"": token_error})
        session = self.logger.session
        try:
            mapper = sa.inspect(self.logger.activity_cls)
            patience = int(current_app.config.get("AUDIT_STATEMENT_TIMEOUT", 5000))
            session.execute(
                sa.text(f"SET LOCAL lock_timeout = {patience}"),
                bind_arguments={"mapper": mapper},
            )
            with _explained():
                plan = _decidable(aim.make(session))
            with reading(self.logger) as own:
                self._check_access(own, Access.of(self.logger, own), plan)
            _check_same(plan, given)
            plan = self._chosen(plan, given)
            id_ = self._write(plan, session, given.reason)
        except BaseException:
            session.rollback()
            raise
        return id_

    def _write(self, plan: Plan, session: Any, reason: str) -> int:
        try:
            with _explained():
                id_ = plan.apply(session, reason=reason, through="orm")
                session.commit()
        except PlanOutdatedError as error:
            raise _outdated() from error
        except (PlanError, NotGrantedError) as error:
            raise _RefusedError(409, {"": self._said(str(error))}) from error
        except HTTPException:
            raise
        except Exception as error:
            # An event handler or a validator of the application's models.
            current_app.logger.exception("audit_app: a plan was not applied")
            text = pages.cut(str(error) or type(error).__name__, 300)
            text = _("The application refused this change: %(error)s", error=text)
            text = self._said(text)
            raise _RefusedError(409, {"": text}) from error
        return id_

    def _said(self, text: str) -> str:
        """Return what was said against a plan; it may name what a limited visitor may not see."""
        if not self._is_limited:
            return text
        return _("This was refused, and nothing was written. Ask somebody who may see the whole "
                 "trail.")  # fmt: skip

    @property
    def _is_limited(self) -> bool:
        return Access(self.logger, None).is_limited

    def _chosen(self, plan: Plan, given: Given) -> Plan:
        """Return the plan with everything decided.

        :raises _RefusedError: if something is missing.
        """
        errors = _reason_errors(given.reason)
        if _has_fields(self.kind, plan):
            known = {change.field for step in plan.steps for change in step.changes}
            wanted = known & (given.fields or frozenset())
            if not wanted:
                raise _RefusedError(400, {**errors, "field": _("Choose at least one field.")})
            plan = plan if wanted == known else plan.only(wanted)
        for conflict in plan.unresolved:
            # Leaving a record out decides what else there is about it.
            if any(item.id == conflict.id for item in plan.unresolved):
                choice = given.choices.get(conflict.id, "")
                if choice in self.choices(conflict):
                    plan = plan.resolve(conflict.id, choice)
                else:
                    errors[f"choice-{conflict.id}"] = _("Choose what to do.")
        if not errors and not plan.steps:
            errors[""] = _("With these choices nothing would be changed.")
        num = len(plan.records)
        if num > _confirm_from() and not given.is_confirmed:
            errors["confirmed"] = _("Confirm the number of records.")
        if errors:
            raise _RefusedError(400, errors)
        return plan

    # -- What may be seen -------------------------------------------------------------------------

    def _aim(self) -> Aim:
        """Look up what the address means, as far as the visitor may see it."""
        logger, links, id_ = self.logger, self.links, self.id
        if self.kind == "undo":
            with reading(logger) as session:
                head = self._seen_transaction(session, Access.of(logger, session))
            title = _("Transaction %(id)s", id=id_)
            did = _("what %(actor)s did on %(moment)s", **self._words_of(head))
            return Aim(
                title=_("Undo transaction %(id)s", id=id_),
                crumbs=((title, links.transaction(id_)),),
                back=Way(did, links.transaction(id_)),
                said=head.t_reason or "",
                make=lambda session: logger.plan_undo(id_, session=session),
            )
        with reading(logger) as session:
            access = Access.of(logger, session)
            query = history.activity_by_id(
                logger.activity_cls, logger.transaction_cls, id_, large=history.LARGE
            )
            row = next(iter(access.only(session, session.execute(query))), None)
            names = Describer(access, links)
        if row is None:
            raise RecordNotFoundError(_("There is no change %(id)s in the trail.", id=id_))
        is_deletion = row.verb == "delete"
        record = pages.record_of(row, links, names)
        if (
            record is None
            or is_deletion != (self.kind == "undelete")
            or row.verb not in {"insert", "update", "delete", "baseline"}
        ):
            raise RecordNotFoundError(_("Change %(id)s leads back to no version.", id=id_))
        table = _table_of(logger, row.schema_name, row.table_name)
        if table is None:
            raise PlanError(
                _("The table %(table)s is not tracked any more, so nothing can be brought back.",
                  table=record.table_name)
            )  # fmt: skip
        columns = [sa.Column(column.name, sa.Text) for column in table.primary_key.columns]
        key = identity.decode(row.new_object_key or row.object_key, columns)
        named = {"table": record.table_title, "key": record.key}
        if self.kind == "undelete":
            return Aim(
                title=_("Undelete %(table)s %(key)s", **named),
                crumbs=((f"{record.table_title} {record.key}", record.url),),
                back=Way(
                    _("deleted by %(actor)s on %(moment)s", **self._words_of(row)),
                    links.activity(id_),
                ),
                said=row.t_reason or "",
                make=lambda session: self._undelete(session, table, key),
            )
        return Aim(
            title=_("Restore %(table)s %(key)s", **named),
            crumbs=((f"{record.table_title} {record.key}", record.url),),
            back=Way(
                _("as %(actor)s left it on %(moment)s", **self._words_of(row)), links.version(id_)
            ),
            said=row.t_reason or "",
            make=lambda session: logger.plan_restore(table, key, id_, session=session),
        )

    def _words_of(self, row: Any) -> dict[str, str]:
        """Return who did what is taken back, and when."""
        actor = pages.actor_of(row.t_actor_id, row.t_actor_label, self.links)
        return {
            "actor": actor.name if actor.is_known else _("somebody unknown"),
            "moment": pages.moment_of(row.t_issued_at, self.zone).full,
        }

    def _undelete(self, session: Any, table: sa.Table, key: Any) -> Plan:
        plan = self.logger.plan_undelete(table, key, session=session)
        if self.id not in plan.reverts.get("activities", ()):
            raise PlanError(
                _("The record has come back and was deleted again since. Undelete it from its last "
                  "deletion.")
            )  # fmt: skip
        return plan

    def _seen_transaction(self, session: orm.Session, access: Access) -> Any:
        """Refuse an undo of what the visitor may not see, even if it is a part only."""
        logger, id_ = self.logger, self.id
        missing = RecordNotFoundError(_("There is no transaction %(id)s in the trail.", id=id_))
        head = session.execute(history.transaction_by_id(logger.transaction_cls, id_)).first()
        if head is None:
            raise missing
        after: int | None = None
        while access.is_limited:
            query = selection.of_transaction(
                logger.activity_cls, logger.transaction_cls, id_, after=after, limit=_PART
            )
            rows = session.execute(query).all()
            if len(access.only(session, rows)) < len(rows):
                raise missing
            if len(rows) <= _PART:
                break
            after = rows[_PART - 1].id
        return head

    def _check_access(self, session: orm.Session, access: Access, plan: Plan) -> None:
        """Refuse a plan that touches what the visitor may not see.

        :raises RecordNotFoundError: as if it was not there.
        """
        if not access.is_limited:
            return
        records = [step.record for step in plan.steps]
        records += [conflict.record for conflict in plan.conflicts]
        places = {(record.schema, record.table) for record in records}
        places |= {(guard.schema, guard.table) for guard in plan.guards}
        ids = {guard.activity_id for guard in plan.guards if guard.keys} - {None}
        ids |= set(plan.reverts.get("activities", ()))
        wanted = sorted(id_ for id_ in ids if id_ is not None)
        seen = all(access.sees_table(*place) for place in places)
        for start in range(0, len(wanted) if seen else 0, _PART):
            part = wanted[start : start + _PART]
            seen = seen and access.ids_of(session, part) == set(part)
        if not seen:
            raise RecordNotFoundError(_("There is nothing here that can be brought back."))

    def choices(self, conflict: Conflict) -> tuple[str, ...]:
        """What may be chosen; rows that nobody can name may be such as the visitor may not see."""
        if conflict.kind == "child_blocks" and self._is_limited:
            return tuple(choice for choice in conflict.choices if choice != "force")
        return conflict.choices

    # -- Showing it -------------------------------------------------------------------------------

    def _show(self, given: Given, refused: _RefusedError) -> PlanPage:
        aim = self._aim()
        with reading(self.logger, search_path=True) as session, _explained():
            plan = _decidable(aim.make(session))
        with reading(self.logger) as session:
            access = Access.of(self.logger, session)
            self._check_access(session, access, plan)
            printer = _Printer(self, plan, given, refused, access)
            records, further = printer.records(session)
        num = len(plan.records)
        fields = sum(len(record.fields) for record in records)
        one, many = _button_texts(self.kind, plan)
        count = fields if _has_fields(self.kind, plan) else num
        return PlanPage(
            status=refused.status,
            kind=self.kind,
            title=aim.title,
            lead=_lead(self.kind, plan),
            crumbs=aim.crumbs,
            back=aim.back,
            said=aim.said,
            deeds=_deeds(plan),
            action=self._action(),
            records=records,
            questions=printer.general,
            notes=tuple(_note(note, is_limited=access.is_limited) for note in plan.notes),
            further=_further(further),
            many=number_text(num) if num > _confirm_from() else "",
            button=(one if count == 1 else many % {"num": number_text(count)}) if num else "",
            button_one=one,
            button_many=many,
            tokens=(*_tokens(), ("digest", digest_of(plan))),
            reason=given.reason,
            errors=refused.errors,
            notice=refused.notice,
        )

    def _action(self) -> str:
        links = {"restore": self.links.restore, "undelete": self.links.undelete}
        return links.get(self.kind, self.links.undo)(self.id)


def _further(num: int) -> str:
    if not num:
        return ""
    return ngettext("%(num)s more record is not shown.", "%(num)s more records are not shown.", num)


def digest_of(plan: Plan) -> str:
    """Return a digest of all that a plan would do, and of what it relies on."""
    text = dataclasses.replace(plan, made_at=datetime.fromtimestamp(0, UTC)).to_json()
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _decidable(plan: Plan) -> Plan:
    """Refuse a plan that nobody could look through.

    :raises PlanError: if it has more conflicts than a page is for.
    """
    num = sum(not conflict.is_preset for conflict in plan.conflicts)
    if num > MOST_CONFLICTS:
        raise PlanError(
            _("This meets %(num)s conflicts, which is more than a page is for: take back less at "
              "once, or let a developer do it with plan_undo().", num=number_text(num))
        )  # fmt: skip
    return plan


def _check_same(plan: Plan, given: Given) -> None:
    """Refuse to do anything else than what was looked at."""
    if digest_of(plan) != given.digest:
        raise _outdated()


def _has_fields(kind: Kind, plan: Plan) -> bool:
    """Tell whether single fields may be chosen: a record that is gone comes back as a whole."""
    return kind == "restore" and all(step.verb == "update" for step in plan.steps)


def _confirm_from() -> int:
    return int(current_app.config.get("AUDIT_CONFIRM_ROWS", 20))


def _outdated() -> _RefusedError:
    notice = _("Something has changed since you looked at this, and nothing was written. This is "
               "what would be done now: please look at it again.")  # fmt: skip
    return _RefusedError(409, {}, notice=notice)


@contextmanager
def _explained() -> Iterator[None]:
    """Say what the database's refusal means."""
    try:
        yield
    except sa.exc.DBAPIError as error:
        texts = {
            "42501": _("The application's database role may not do this."),
            "55P03": _("Somebody else holds one of the records: try again in a moment."),
            "57014": _("It took too long and was stopped: try again, or take back less at once."),
            "40001": _("Somebody else wrote at the same time: try again."),
            "40P01": _("Somebody else wrote at the same time: try again."),
        }
        diagnosis = getattr(error.orig, "diag", None)
        message = getattr(diagnosis, "message_primary", None) or str(error.orig)
        known = texts.get(install.sqlstate(error) or "")
        text = known or _("The database refused it: %(text)s", text=pages.cut(message, 300))
        raise PlanFailedError(text) from error


# -- Forms -----------------------------------------------------------------------------------------


def _token_form(data: Any = None) -> Any:
    """Return a form with a token that only this visitor's session makes valid."""
    key = current_app.secret_key
    if not key:
        raise ConfigurationError(
            "The pages that restore need a SECRET_KEY: without one their forms cannot be protected."
        )
    secret = key if isinstance(key, bytes) else key.encode()

    class Confirmation(Form):  # type: ignore[misc]
        class Meta:
            csrf = True
            csrf_class = SessionCSRF
            csrf_secret = hashlib.sha256(b"audit_app.restoring" + secret).digest()
            csrf_context = cookie
            csrf_field_name = _CSRF_FIELD

        reason = StringField()

    return Confirmation(data)


def _tokens() -> tuple[tuple[str, str], ...]:
    """Return the hidden fields that protect a form: ours, and the host's where it asks for one."""
    own = (_CSRF_FIELD, str(_token_form()[_CSRF_FIELD].current_token))
    host = current_app.jinja_env.globals.get("csrf_token")
    if "csrf" not in current_app.extensions or not callable(host):
        return (own,)
    name = str(current_app.config.get("WTF_CSRF_FIELD_NAME", "csrf_token"))
    return own, (name, str(host()))


def _token_error(form: Any) -> str:
    if _token_form(form).validate():
        return ""
    return _("This form was too old, or came from elsewhere. Nothing was written: look at it once "
             "more and confirm it again.")  # fmt: skip


def _reason_errors(reason: str) -> dict[str, str]:
    if not reason:
        return {"reason": _("Say why, for those who read the trail later.")}
    if len(reason) > LONGEST_REASON:
        return {"reason": _("Use at most %(num)s characters.", num=LONGEST_REASON)}
    if "\x00" in reason:
        return {"reason": _("The reason holds a character that cannot be stored.")}
    return {}


# -- Words -----------------------------------------------------------------------------------------


def _lead(kind: Kind, plan: Plan) -> str:
    num = len(plan.records)
    if not num:
        return ""
    if _has_fields(kind, plan):
        return _("Choose the fields to bring back. Each shows what it is now, and what it will be.")
    if kind == "restore":
        return _("The record is gone. It will be inserted again, as it was then.")
    if kind == "undelete":
        return ngettext(
            "The record will be inserted again, as it was before it was deleted.",
            "The record will be inserted again, with what went away together with it: "
            "%(num)s records in all.",
            num,
        )
    return ngettext(
        "%(num)s record will be as it was before this transaction.",
        "%(num)s records will be as they were before this transaction, in this order.",
        num,
    )


def _button_texts(kind: Kind, plan: Plan) -> tuple[str, str]:
    """Return what the button says for one and for more."""
    if _has_fields(kind, plan):
        return _("Restore 1 field"), _("Restore %(num)s fields")
    if kind == "undo":
        return _("Undo 1 change"), _("Undo %(num)s changes")
    return _("Bring 1 record back"), _("Bring %(num)s records back")


def _badge(verb: str) -> pages.Badge:
    """Return what is done with a record; the usual badges tell what was done."""
    known = pages.badge_of(verb)
    labels = {
        "insert": _("Comes back"), "update": _("Is changed back"), "delete": _("Is deleted"),
    }  # fmt: skip
    return dataclasses.replace(known, label=labels.get(verb, _("Stays as it is")))


def _deeds(plan: Plan) -> tuple[tuple[pages.Badge, str], ...]:
    verbs = [record.verb for record in plan.records]
    return tuple((_badge(verb), number_text(verbs.count(verb))) for verb in dict.fromkeys(verbs))


def _note(note: str, *, is_limited: bool) -> str:
    """Return a note of a plan in the language of the pages."""
    if found := re.fullmatch(r"What the trail does not hold stays as it is: (.*)\.", note, re.S):
        return _("What the trail does not hold stays as it is: %(names)s.", names=found[1])
    if found := re.fullmatch(r"(.*) is not tracked: what was deleted of it .*", note, re.S):
        if is_limited:
            return _("Some of what was deleted is not tracked, and does not come back.")
        return _("%(table)s is not tracked: what was deleted of it does not come back.",
                 table=found[1])  # fmt: skip
    if found := re.fullmatch(r"(.*): (.*) changed in a way that the trail .*", note, re.S):
        return _("%(record)s: %(names)s changed in a way that the trail does not show, and stays "
                 "as it is.", record=found[1], names=found[2])  # fmt: skip
    return note


def _words(conflict: Conflict, verb: str, names: str) -> str:
    """Return what is in the way.

    :param verb: what is to be done with the record; empty for nothing.
    :param names: of the fields.
    """
    is_new = verb == "delete"
    texts = {
        "changed_since": _(
            "The record is new since this transaction, and was changed later: %(names)s.",
            names=names,
        )
        if is_new
        else _("%(names)s was changed later.", names=names),
        "gone": _("The record was deleted later. It stays deleted."),
        "exists": _("There is a record with this key again."),
        "taken": _("Another record has this value now: %(names)s.", names=names),
        "parent_gone": _("What %(names)s refers to is gone.", names=names),
        "child_blocks": _("Other rows refer to this record."),
        "column_gone": _("The table does not have this column any more: %(names)s.", names=names),
        "column_required": _(
            "The table needs a value now that the former record does not have: %(names)s.",
            names=names,
        ),
        "not_recorded": _(
            "The trail does not record %(names)s, so its value cannot come back.", names=names
        ),
        "masked": _(
            "%(names)s is masked in the trail, so its value cannot come back.", names=names
        ),
        "too_large": _(
            "The value of %(names)s was too large for the trail, so it cannot come back.",
            names=names,
        ),
        "does_not_fit": _(
            "The former value of %(names)s does not fit its column any more.", names=names
        ),
        "unknown": _("The trail does not reach back that far."),
        "truncated": _(
            "The whole table was emptied, and the trail does not hold its rows. They can only "
            "come from a backup."
        ),
        "incomplete": _(
            "Not everything that happened was recorded here. Only what was recorded can be taken "
            "back."
        ),
        "not_tracked": _("The table is not tracked any more, so it stays as it is."),
        "cycle": _(
            "These records can only be written at the same time, which the constraints between "
            "them do not allow."
        ),
    }
    return texts.get(conflict.kind, conflict.message)


_DETAILED: Final = frozenset({"taken", "parent_gone", "child_blocks", "cycle", "unknown"})
"""Kinds whose message says more than the words; it may name other records."""

_LATER: Final = frozenset({"changed_since", "gone", "exists"})
"""Kinds that the record's newest change explains."""


def _option_text(conflict: Conflict, choice: str, verb: str, names: str) -> str:
    if choice == "skip":
        return {
            "nothing": _("Go on without it"),
            "fields": _("Leave %(names)s as it is now", names=names),
        }.get(conflict.skips, _("Leave this record as it is now"))
    return {
        "changed_since": _("Delete it all the same")
        if verb == "delete"
        else _("Overwrite it all the same"),
        "parent_gone": _("Bring it back without this reference"),
        "child_blocks": _("Go on: these rows are deleted, or lose their reference"),
        "column_gone": _("Bring it back without this value"),
    }.get(conflict.kind, _("Bring it back with the column's default"))


class _Printer:
    """Makes the parts of one preview."""

    def __init__(
        self, desk: Restoring, plan: Plan, given: Given, refused: _RefusedError, access: Access
    ) -> None:
        self.desk = desk
        self.plan = plan
        self.given = given
        self.errors = refused.errors
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
        has_boxes = _has_fields(self.desk.kind, self.plan)
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
            badge=_badge(verb),
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
            badge=_badge("stays"),
            is_folded=False,
            record=self._named(conflicts[0].record, subject, {}),
            fields=(),
            questions=tuple(self._question(conflict, "") for conflict in conflicts),
        )

    def _order(self, record: Record) -> tuple[str, ...]:
        table = _table_of(self.desk.logger, record.schema, record.table)
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
        row = self.newest.get(conflict.subject or 0) if conflict.kind in _LATER else None
        if row is not None and len(conflict.fields) == 1:
            row = self.since.get(conflict.fields[0], row)
        text = _words(conflict, verb, names)
        if table:
            text = f"{pages.full_name(*place)}: {text}"
        return Question(
            name=name,
            text=text,
            detail=conflict.message
            if conflict.kind in _DETAILED and not self.access.is_limited
            else "",
            last=self._last(row),
            options=tuple(
                Option(
                    choice,
                    _option_text(conflict, choice, verb, names),
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
