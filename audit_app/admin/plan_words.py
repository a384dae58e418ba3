"""What a preview says: the plan's steps, conflicts and choices, in the language of the pages."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Final, Literal

from audit_app.admin import pages
from audit_app.admin.i18n import gettext as _
from audit_app.admin.i18n import ngettext, number_text

if TYPE_CHECKING:
    from audit_app.revert.plan import Conflict, Plan

Kind = Literal["restore", "undelete", "undo"]


def has_fields(kind: Kind, plan: Plan) -> bool:
    """Tell whether single fields may be chosen: a record that is gone comes back as a whole."""
    return kind == "restore" and all(step.verb == "update" for step in plan.steps)


def lead_of(kind: Kind, plan: Plan) -> str:
    num = len(plan.records)
    if not num:
        return ""
    if has_fields(kind, plan):
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


def button_texts(kind: Kind, plan: Plan) -> tuple[str, str]:
    """Return what the button says for one and for more."""
    if has_fields(kind, plan):
        return _("Restore 1 field"), _("Restore %(num)s fields")
    if kind == "undo":
        return _("Undo 1 change"), _("Undo %(num)s changes")
    return _("Bring 1 record back"), _("Bring %(num)s records back")


def badge(verb: str) -> pages.Badge:
    """Return what is done with a record; the usual badges tell what was done."""
    known = pages.badge_of(verb)
    labels = {
        "insert": _("Comes back"), "update": _("Is changed back"), "delete": _("Is deleted"),
    }  # fmt: skip
    return dataclasses.replace(known, label=labels.get(verb, _("Stays as it is")))


def deeds_of(plan: Plan) -> tuple[tuple[pages.Badge, str], ...]:
    verbs = [record.verb for record in plan.records]
    return tuple((badge(verb), number_text(verbs.count(verb))) for verb in dict.fromkeys(verbs))


def note_text(note: str, *, is_limited: bool) -> str:
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


def words_of(conflict: Conflict, verb: str, names: str) -> str:
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


DETAILED: Final = frozenset({"taken", "parent_gone", "child_blocks", "cycle", "unknown"})
"""Kinds whose message says more than the words; it may name other records."""

EXPLAINED: Final = frozenset({"changed_since", "gone", "exists"})
"""Kinds that the record's newest change explains."""


def option_text(conflict: Conflict, choice: str, verb: str, names: str) -> str:
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
