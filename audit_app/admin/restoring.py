"""Restore, undelete, undo on the pages: a plan that is looked at, and then confirmed.

A preview reads in a session that cannot write, from the application's own database: a replica may
not know yet what stands in the way. What is confirmed is planned once more in the
application's own session, compared with what was looked at, applied and committed there; every
other way out rolls back.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from flask import current_app
from flask import session as cookie
from werkzeug.exceptions import HTTPException
from wtforms import Form, StringField
from wtforms.csrf.session import SessionCSRF

from audit_app import history, identity, install, selection
from audit_app.admin import pages
from audit_app.admin.access import Access
from audit_app.admin.describing import Describer
from audit_app.admin.i18n import gettext as _
from audit_app.admin.i18n import ngettext, number_text
from audit_app.admin.plan_words import button_texts, deeds_of, has_fields, lead_of, note_text
from audit_app.admin.planned import Given, PlanPage, Printer
from audit_app.admin.reading import reading
from audit_app.admin.ways import Way, table_of
from audit_app.errors import (
    ConfigurationError,
    NotGrantedError,
    PlanError,
    PlanFailedError,
    PlanOutdatedError,
    RecordNotFoundError,
)

if TYPE_CHECKING:
    from datetime import tzinfo

    from sqlalchemy import orm

    from audit_app.admin.links import Links
    from audit_app.admin.plan_words import Kind
    from audit_app.admin.reading import Logger
    from audit_app.revert.plan import Conflict, Plan

LONGEST_REASON: Final = 500
MOST_CONFLICTS: Final = 200
"""Conflicts that may be decided on one page."""

_PART: Final = 500  # ids that are asked about at once
_CSRF_FIELD: Final = "audit_token"


@dataclass(frozen=True)
class Aim:
    """What an address wants to bring back, and how it is planned."""

    title: str
    crumbs: tuple[tuple[str, str], ...]
    back: Way
    said: str
    make: Callable[[Any], Plan]


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
            for setting in (f"lock_timeout = {patience}", "jit = off"):
                session.execute(sa.text(f"SET LOCAL {setting}"), bind_arguments={"mapper": mapper})
            with _explained():
                plan = _decidable(aim.make(session))
            with reading(self.logger, is_primary=True) as own:
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
        if has_fields(self.kind, plan):
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
            with reading(logger, is_primary=True) as session:
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
        with reading(logger, is_primary=True) as session:
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
        table = table_of(logger, row.schema_name, row.table_name)
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
        with reading(self.logger, search_path=True, is_primary=True) as session, _explained():
            plan = _decidable(aim.make(session))
        with reading(self.logger, is_primary=True) as session:
            access = Access.of(self.logger, session)
            self._check_access(session, access, plan)
            printer = Printer(self, plan, given, refused.errors, access)
            records, further = printer.records(session)
        num = len(plan.records)
        fields = sum(len(record.fields) for record in records)
        one, many = button_texts(self.kind, plan)
        count = fields if has_fields(self.kind, plan) else num
        return PlanPage(
            status=refused.status,
            kind=self.kind,
            title=aim.title,
            lead=lead_of(self.kind, plan),
            crumbs=aim.crumbs,
            back=aim.back,
            said=aim.said,
            deeds=deeds_of(plan),
            action=self._action(),
            records=records,
            questions=printer.general,
            notes=tuple(note_text(note, is_limited=access.is_limited) for note in plan.notes),
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
