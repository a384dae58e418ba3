"""The whole row as it was then, and the history of one field."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from audit_app import diff, history, story
from audit_app.admin import differences, forms, pages
from audit_app.admin.describing import Describer, documents_of
from audit_app.admin.i18n import gettext as _
from audit_app.admin.reading import column_order, present, reading
from audit_app.admin.stories import Subject, Visit, read_subject, version_url
from audit_app.admin.values import Value
from audit_app.errors import RecordNotFoundError, UnknownVersionError

if TYPE_CHECKING:
    from audit_app.admin.links import Links
    from audit_app.formerly import Place

LARGEST_ROW = 4_000_000
"""Bytes of a row, as stored, up to which its page shows the values."""


@dataclass(frozen=True)
class Cell:
    """A field of a row as it was then.

    :ivar label: what the application calls it; may be empty.
    :ivar old: what it was before; None where the change did not touch it.
    """

    name: str
    label: str
    value: Value
    old: Value | None
    url: str


@dataclass(frozen=True)
class VersionPage:
    """A record as it was then.

    :ivar cells: every recorded field; none if the record did not exist.
    :ivar missing: columns of the table that this row has no value of.
    :ivar as_of: the moment that was asked for; None for the version after a change.
    :ivar notice: why there is nothing to show, or what is not known; may be empty.
    """

    subject: Subject
    title: str
    cells: tuple[Cell, ...] = ()
    missing: tuple[str, ...] = ()
    change: differences.Change | None = None
    as_of: pages.Moment | None = None
    notice: str = ""
    previous_url: str = ""
    next_url: str = ""
    first_url: str = ""
    is_deletion: bool = False


@dataclass(frozen=True)
class FieldPage:
    """When a field took which value, and by whom.

    :ivar former: the names it had before.
    :ivar further_url: where the search goes on, if it ended before the record's story did.
    """

    subject: Subject
    field: str
    former: tuple[str, ...]
    entries: tuple[tuple[differences.Change, str], ...]
    is_last: bool
    first_url: str
    more_url: str
    further_url: str


def version_page(
    visit: Visit, id_: int, *, key: str | None = None, as_of: pages.Moment | None = None
) -> VersionPage:
    """Read the row as it was after a change.

    :param key: how the address names the record; by default as it was called after the change.
    :raises RecordNotFoundError: if there is no such change, or it is about no single row.
    """
    logger, links, found = visit.logger, visit.links, visit.found
    activity, transaction = logger.activity_cls, logger.transaction_cls
    describes = Describer(logger, links)
    with reading(logger) as session:
        row = session.execute(
            history.activity_by_id(activity, transaction, id_, large=LARGEST_ROW)
        ).first()
        if row is None:
            raise RecordNotFoundError(_("There is no change %(id)s in the trail.", id=id_))
        if row.object_key is None:
            raise RecordNotFoundError(_("Change %(id)s is about no single row.", id=id_))
        row, place = present(logger, row), logger.place(row.schema_name, row.table_name)
        key = key if key is not None else row.new_object_key or row.object_key
        subject = read_subject(session, visit, place, key, describes)
        describes.look_up(
            session, [(row.schema_name, row.table_name, [row.old_data, row.changed_data])]
        )
        near = session.execute(
            history.neighbours(
                activity, place.schema, place.name, key, row.id, formerly=place.formerly
            )
        ).one()
    order = column_order(logger, row)
    change = differences.change_of(
        row, links, found.zone, differences.Budget(), describes=describes, order=order
    )
    cells = _cells(row, order, links, place, key, describes=describes)
    is_deletion = row.verb == "delete"
    return VersionPage(
        subject=subject,
        title=_("Before it was deleted") if is_deletion else _("As it was then"),
        cells=cells,
        missing=tuple(name for name in order if name not in {cell.name for cell in cells}),
        change=change,
        as_of=as_of,
        notice=_version_notice(row, change, near.previous is None),
        previous_url=links.version(near.previous) if near.previous else "",
        next_url=links.version(near.next) if near.next else "",
        is_deletion=is_deletion,
    )


def version_at_page(visit: Visit, place: Place, key: str, at: str) -> VersionPage:
    """Read a record as it was at a moment, or after the change of an id.

    :param at: the id of a change, or a date or time in the visitor's zone.
    :raises InvalidFilterError: if it is neither.
    :raises RecordNotFoundError: if the trail holds nothing about the record.
    """
    if re.fullmatch(r"-?[0-9]+", at, re.ASCII):
        return version_page(visit, history.parse_id(at))
    logger, links, found = visit.logger, visit.links, visit.found
    when = forms.moment(at, found.zone, end=True)
    is_day = len(at) == len("2026-03-29")
    try:
        moment = pages.moment_of(when - timedelta(microseconds=1) if is_day else when, found.zone)
    except OverflowError as error:  # the calendar's first or last day, in another zone
        raise forms.InvalidFilterError from error
    query = history.version_at(
        logger.activity_cls, place.schema, place.name, key, when, formerly=place.formerly
    )
    with reading(logger) as session:
        subject = read_subject(session, visit, place, key, Describer(logger, links))
        rows = session.execute(query).all()
    parts = {row.part: row for row in rows}
    following = parts.get("next")
    next_url = links.version(following.id) if following is not None else ""
    title = _("As it was on %(moment)s", moment=moment.full)
    try:
        state = history.state_of(rows, place.formerly)
    except UnknownVersionError:
        since = pages.moment_of(following.issued_at, found.zone).full if following else ""
        return VersionPage(
            subject,
            title,
            as_of=moment,
            notice=_("Unknown before %(moment)s: what the record was then was not recorded.",
                     moment=since),
            first_url=next_url,
        )  # fmt: skip
    if state is None:
        ends = [parts[name] for name in ("last", "emptied") if name in parts]
        last = max(ends, key=lambda row: row.id, default=None)
        return VersionPage(
            subject,
            title,
            as_of=moment,
            notice=_("The record did not exist then."),
            previous_url=links.activity(last.id) if last is not None else "",
            next_url=next_url,
        )
    return version_page(visit, parts["last"].id, key=key, as_of=moment)


def _cells(
    row: Any, order: Sequence[str], links: Links, place: Place, key: str, *, describes: Describer
) -> tuple[Cell, ...]:
    old, changed = row.old_data or {}, row.changed_data or {}
    is_update = row.verb == "update"
    whole = {**old, **changed}

    def shown(name: str, raw: Any) -> Value:
        return describes.value(describes.column(row.schema_name, row.table_name, name), raw)

    return tuple(
        Cell(
            name=name,
            label=describes.field(row.schema_name, row.table_name, name),
            value=shown(name, whole[name]),
            old=shown(name, old.get(name, diff.ABSENT)) if is_update and name in changed else None,
            url=links.record(place.schema, place.name, key, field=name),
        )
        for name in pages.sort_names(whole, order)
    )


def _version_notice(row: Any, change: differences.Change, is_first: bool) -> str:  # noqa: FBT001
    if row.is_large:
        return _("This row is too large for a page; its change shows which fields it has.")
    if change.row.note:
        return change.row.note
    if is_first and row.verb != "insert":
        return _(
            "Unknown before %(moment)s: recording began with this change.",
            moment=change.moment.full,
        )
    return ""


# -- One field -------------------------------------------------------------------------------------


def field_page(visit: Visit, place: Place, key: str, field: str) -> FieldPage:
    """Read a page of a field's history.

    :raises RecordNotFoundError: if the record never had such a field.
    """
    logger, links, before = visit.logger, visit.links, visit.before
    field = _present_name(place, field)
    activity, transaction, limit = logger.activity_cls, logger.transaction_cls, history.PAGE
    describes = Describer(logger, links)
    with reading(logger) as session:
        subject = read_subject(session, visit, place, key, describes)
        query = story.of_field(activity, transaction, place, key, field, before=before)
        rows = [place.formerly.present_row(row) for row in session.execute(query)]
        describes.look_up(session, documents_of(rows[:limit]))
        end = session.execute(story.end_of_field(activity, place, key, before=before)).one()
    is_end = len(rows) <= limit and (end.id is None or bool(end.is_end))
    if not rows and before is None and is_end:
        raise RecordNotFoundError(
            _("%(table)s %(key)s has no field “%(name)s” on record.",
              table=place.name, key=subject.list_key, name=pages.cut(field))
        )  # fmt: skip
    shown, budget = rows[:limit], differences.Budget()

    def url(before_id: int | None) -> str:
        return links.record(place.schema, place.name, key, field=field, before=before_id)

    return FieldPage(
        subject=subject,
        field=field,
        former=dict(place.formerly.columns).get(field, ()),
        entries=tuple(
            (
                differences.change_of(row, links, visit.found.zone, budget, describes=describes),
                version_url(row, links),
            )
            for row in shown
        ),
        is_last=is_end,
        first_url=url(None) if before is not None else "",
        more_url=url(shown[-1].id) if len(rows) > limit else "",
        further_url=url(end.id) if len(rows) <= limit and not is_end else "",
    )


def _present_name(place: Place, field: str) -> str:
    """A former name leads to the present one, as long as no column of the present has it."""
    present = dict(place.formerly.columns)
    if field in present:
        return field
    return next((name for name, former in present.items() if field in former), field)
