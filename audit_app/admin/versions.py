"""The whole row as it was then, and the history of one field."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from audit_app import diff, history, models, story
from audit_app.admin import differences, documents, forms, pages
from audit_app.admin.access import ROUNDS, Access
from audit_app.admin.describing import Describer, documents_of
from audit_app.admin.i18n import gettext as _
from audit_app.admin.reading import column_order, reading
from audit_app.admin.stories import Subject, Visit, read_subject, version_url
from audit_app.admin.values import Value
from audit_app.errors import RecordNotFoundError, UnknownVersionError

if TYPE_CHECKING:
    from sqlalchemy import orm

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
    :ivar row: the activity; None where the record did not exist.
    :ivar document: the page for machines.
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
    row: Any = None
    document: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class FieldPage:
    """When a field took which value, and by whom.

    :ivar former: the names it had before.
    :ivar further_url: where the search goes on, if it ended before the record's story did.
    :ivar looked_at: how many changes a search looks at.
    :ivar document: the page for machines.
    """

    subject: Subject
    field: str
    former: tuple[str, ...]
    entries: tuple[tuple[differences.Change, str], ...]
    is_last: bool
    first_url: str
    more_url: str
    further_url: str
    looked_at: int
    document: Mapping[str, Any]


def version_page(
    visit: Visit, id_: int, *, key: str | None = None, as_of: pages.Moment | None = None
) -> VersionPage:
    """Read the row as it was after a change.

    :param key: how the address names the record; by default as it was called after the change.
    :raises RecordNotFoundError: if there is no such change, or it is about no single row.
    """
    logger, links, found = visit.logger, visit.links, visit.found
    activity, transaction = logger.activity_cls, logger.transaction_cls
    with reading(logger) as session:
        access = Access.of(logger, session)
        describes = Describer(access, links)
        query = history.activity_by_id(activity, transaction, id_, large=LARGEST_ROW)
        rows = access.only(session, session.execute(query))
        if not rows:
            raise RecordNotFoundError(_("There is no change %(id)s in the trail.", id=id_))
        row = rows[0]
        if row.object_key is None:
            raise RecordNotFoundError(_("Change %(id)s is about no single row.", id=id_))
        place = logger.place(row.schema_name, row.table_name)
        key = key if key is not None else row.new_object_key or row.object_key
        subject = read_subject(session, visit, place, key, describes)
        describes.look_up(
            session, [(row.schema_name, row.table_name, [row.old_data, row.changed_data])]
        )
        previous, following = access.neighbours(session, row, key)
        is_first = previous is None and row.verb != "insert"
        lost = session.execute(history.pruned(activity, place)).first() if is_first else None
    order = column_order(logger, row)
    change = differences.change_of(
        row, links, found.zone, differences.Budget(), describes=describes, order=order
    )
    cells = _cells(row, order, links, place, key, describes=describes)
    is_deletion = row.verb == "delete"
    notice = _version_notice(row, change, lost, is_first=is_first)
    return VersionPage(
        subject=subject,
        title=_("Before it was deleted") if is_deletion else _("As it was then"),
        cells=cells,
        missing=tuple(name for name in order if name not in {cell.name for cell in cells}),
        change=change,
        as_of=as_of,
        notice=notice,
        previous_url=links.version(previous) if previous is not None else "",
        next_url=links.version(following) if following is not None else "",
        is_deletion=is_deletion,
        row=row,
        document={
            **_about(subject, place, key, as_of),
            "exists": not is_deletion,
            "is_known": not row.is_large,
            "data": None if is_deletion else _whole(row),
            "change": documents.with_transaction(row, documents.listed_change(row, links)),
            "notice": notice or None,
            "previous": _version_link(links, previous),
            "next": _version_link(links, following),
        },
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
        access = Access.of(logger, session)
        describes = Describer(access, links)
        subject = read_subject(session, visit, place, key, describes)
        rows = session.execute(query).all()
        if access.is_limited:
            rows = _seen(session, access, rows, key)
    parts = {row.part: row for row in rows}
    following = parts.get("next")
    next_url = links.version(following.id) if following is not None else ""

    def document(notice: str, *, is_known: bool, previous: str = "") -> dict[str, Any]:
        return {
            **_about(subject, place, key, moment),
            "exists": False if is_known else None,
            "is_known": is_known,
            "data": None,
            "change": None,
            "notice": notice,
            "previous": {"id": ends[-1].id, "href": previous} if previous else None,
            "next": _version_link(links, following.id if following is not None else None),
        }

    ends = sorted(
        (parts[name] for name in ("last", "emptied") if name in parts), key=lambda row: row.id
    )
    title = _("As it was on %(moment)s", moment=moment.full)
    try:
        state = history.state_of(rows, place.formerly)
    except UnknownVersionError:
        whole_from = next((row.whole_from for row in rows if row.is_pruned), None)
        if whole_from is not None:
            notice = _removed(pages.moment_of(whole_from, found.zone))
        else:
            since = pages.moment_of(following.issued_at, found.zone).full if following else ""
            notice = _(
                "Unknown before %(moment)s: what the record was then was not recorded.",
                moment=since,
            )
        return VersionPage(
            subject,
            title,
            as_of=moment,
            notice=notice,
            first_url=next_url,
            document=document(notice, is_known=False),
        )
    if state is None:
        notice = _("The record did not exist then.")
        previous_url = links.activity(ends[-1].id) if ends else ""
        return VersionPage(
            subject,
            title,
            as_of=moment,
            notice=notice,
            previous_url=previous_url,
            next_url=next_url,
            document=document(notice, is_known=True, previous=previous_url),
        )
    return version_page(visit, parts["last"].id, key=key, as_of=moment)


def _seen(session: orm.Session, access: Access, rows: Sequence[Any], key: str) -> list[Any]:
    """What of :func:`audit_app.history.version_at` may be seen; else what stands beyond it."""
    logger = access.logger
    shown = access.ids_of(session, [row.id for row in rows])
    found = []
    for row in rows:
        if row.id in shown:
            found.append(row)
        elif row.part != "emptied":
            query = history.activity_by_id(
                logger.activity_cls, logger.transaction_cls, row.id, large=history.LARGE
            )
            hidden = session.execute(query).one()
            previous, following = access.neighbours(session, hidden, key)
            id_ = previous if row.part == "last" else following
            if id_ is not None:
                query = history.activity_by_id(
                    logger.activity_cls, logger.transaction_cls, id_, large=LARGEST_ROW
                )
                (other,) = session.execute(query).all()
                known = {name: getattr(row, name) for name in ("part", "whole_from", "is_pruned")}
                found.append(SimpleNamespace(**{**other._mapping, **known}))
    return found


def _about(subject: Subject, place: Place, key: str, as_of: pages.Moment | None) -> dict[str, Any]:
    return {
        "schema_name": place.schema,
        "table_name": place.name,
        "object_id": key,
        "is_deleted": bool(subject.gone),
        "as_of": as_of.iso if as_of is not None else None,
    }


def _version_link(links: Links, id_: int | None) -> dict[str, Any] | None:
    return None if id_ is None else {"id": id_, "href": links.version(id_)}


def _whole(row: Any) -> dict[str, Any] | None:
    """The row after a change; None where its values are not there to be put together."""
    documents_ = (row.old_data, row.changed_data)
    if row.is_large or any(isinstance(data, models.Undecoded) for data in documents_):
        return None
    return {**(row.old_data or {}), **(row.changed_data or {})}


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


def _version_notice(row: Any, change: differences.Change, lost: Any, *, is_first: bool) -> str:
    if row.is_large:
        return _("This row is too large for a page; its change shows which fields it has.")
    if change.row.note:
        return change.row.note
    if is_first and lost is not None:
        return _removed(change.moment)
    if is_first:
        return _(
            "Unknown before %(moment)s: recording began with this change.",
            moment=change.moment.full,
        )
    return ""


def _removed(since: pages.Moment) -> str:
    return _(
        "Unknown before %(moment)s: what was recorded of it was removed by the retention policy.",
        moment=since.full,
    )


# -- One field -------------------------------------------------------------------------------------


def field_page(visit: Visit, place: Place, key: str, field: str) -> FieldPage:
    """Read a page of a field's history.

    :raises RecordNotFoundError: if the record never had such a field.
    """
    logger, links, before = visit.logger, visit.links, visit.before
    field = _present_name(place, field)
    activity, transaction, limit = logger.activity_cls, logger.transaction_cls, history.PAGE
    with reading(logger) as session:
        access = Access.of(logger, session)
        describes = Describer(access, links)
        subject = read_subject(session, visit, place, key, describes)
        shown: list[Any] = []
        start = before
        for _round in range(ROUNDS if access.is_limited else 1):
            query = story.of_field(activity, transaction, place, key, field, before=start)
            rows = session.execute(query).all()
            # A policy is asked about whole changes, and these are cut to the field.
            shown += map(place.formerly.present_row, access.known(session, rows[:limit]))
            if len(rows) <= limit or len(shown) >= limit:
                break
            start = rows[limit - 1].id
        end = session.execute(story.end_of_field(activity, place, key, before=start)).one()
        describes.look_up(session, documents_of(shown[:limit]))
    is_end = len(rows) <= limit and (end.id is None or bool(end.is_end))
    more: int | None = rows[limit - 1].id if len(rows) > limit else None
    if len(shown) > limit:
        shown = shown[:limit]
        more, is_end = shown[-1].id, False
    if not shown and before is None and is_end:
        raise RecordNotFoundError(
            _("%(table)s %(key)s has no field “%(name)s” on record.",
              table=place.name, key=subject.list_key, name=pages.cut(field))
        )  # fmt: skip
    budget = differences.Budget()

    def url(before_id: int | None) -> str:
        return links.record(place.schema, place.name, key, field=field, before=before_id)

    further = end.id if more is None and not is_end else None
    following = more if more is not None else further
    former = dict(place.formerly.columns).get(field, ())
    return FieldPage(
        subject=subject,
        field=field,
        former=former,
        entries=tuple(
            (
                differences.change_of(row, links, visit.found.zone, budget, describes=describes),
                version_url(row, links),
            )
            for row in shown
        ),
        is_last=is_end,
        first_url=url(None) if before is not None else "",
        more_url=url(more) if more is not None else "",
        further_url=url(further) if further is not None else "",
        looked_at=story.FIELD_SCAN,
        document={
            "schema_name": place.schema,
            "table_name": place.name,
            "object_id": key,
            "is_deleted": bool(subject.gone),
            "field": field,
            "former_names": list(former),
            "activities": [
                documents.with_transaction(row, documents.listed_change(row, links))
                for row in shown
            ],
            "next": documents.place_document(url(following), following)
            if following is not None
            else None,
        },
    )


def _present_name(place: Place, field: str) -> str:
    """A former name leads to the present one, as long as no column of the present has it."""
    present = dict(place.formerly.columns)
    if field in present:
        return field
    return next((name for name, former in present.items() if field in former), field)
