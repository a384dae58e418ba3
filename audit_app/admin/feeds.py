"""The feed: everything, or what one actor did; a page of transactions at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from audit_app import history
from audit_app.admin import forms, pages
from audit_app.admin.i18n import gettext as _
from audit_app.admin.naming import Naming
from audit_app.admin.reading import Logger, column_order, present, reading
from audit_app.errors import InvalidCursorError, RecordNotFoundError

if TYPE_CHECKING:
    from audit_app.admin.links import Links

MakeUrl = Callable[..., str]
"""Builds the feed's address from the filters, and from a cursor as a keyword."""


@dataclass(frozen=True)
class FeedPage:
    """What the feed shows.

    :ivar person: whose feed it is; None for everybody's.
    :ivar candidates: actors to choose from, where a name fits several.
    :ivar paging: addresses by ``newest``, ``newer``, ``older``, ``further``, as far as there are.
    :ivar notice: how far a bounded search came; may be empty.
    """

    title: str
    found: forms.Filtering
    chips: tuple[pages.FilterChip, ...]
    days: tuple[pages.Day, ...] = ()
    paging: Mapping[str, str] = dataclasses.field(default_factory=dict)
    person: pages.Actor | None = None
    candidates: tuple[pages.Actor, ...] = ()
    notice: str = ""
    zones: tuple[str, ...] = forms.COMMON_ZONES


@dataclass(frozen=True)
class _Place:
    """Where a page begins."""

    before: history.Cursor | None
    after: history.Cursor | None


def feed_page(
    logger: Logger,
    links: Links,
    arguments: Mapping[str, str],
    found: forms.Filtering,
    url: MakeUrl,
    *,
    actor_id: str | None = None,
) -> FeedPage:
    """Read a page of the feed.

    :param actor_id: whose feed it is.
    :raises InvalidCursorError: if the address names a place that cannot be.
    :raises RecordNotFoundError: if nobody has this id.
    """
    place = _Place(_cursor(arguments, "before"), _cursor(arguments, "after"))
    if place.before and place.after:
        raise InvalidCursorError
    title = _("Activity") if actor_id is None else _("Actor")
    if found.errors:
        return FeedPage(title, found, pages.filter_chips(found, url))
    limit, filters = history.PAGE, found.filters
    person: pages.Actor | None = None
    candidates: tuple[pages.Actor, ...] = ()
    if actor_id is not None:  # to the letter: the form's values are stripped of white space
        filters = dataclasses.replace(filters, actor_id=actor_id)
    with reading(logger) as session:
        if filters.actor_id is not None:
            person, candidates = _resolve(session, logger, filters.actor_id, links)
            if actor_id is not None and (person is None or person.id != actor_id):
                raise RecordNotFoundError(
                    _("Nobody with the id “%(id)s” is in the trail.", id=pages.cut(actor_id))
                )
            if person is not None:
                filters = dataclasses.replace(filters, actor_id=person.id)
        query = history.feed(
            logger.activity_cls,
            logger.transaction_cls,
            filters,
            before=place.before,
            after=place.after,
            limit=limit,
        )
        rows = [present(logger, row) for row in session.execute(query)]
        end = None
        if filters.keys:
            query = history.scanned_of_keys(logger.activity_cls, filters)
            end = session.execute(query).first()
        elif filters.is_search:
            query = history.scanned(
                logger.transaction_cls, filters, before=place.before, after=place.after
            )
            end = session.execute(query).first()
    groups = pages.groups_of(
        rows, links, found.zone, lambda row: column_order(logger, row), Naming(logger)
    )
    has_extra = len(groups) > limit
    groups = groups[-limit:] if place.after else groups[:limit]
    paging = _paging(groups, place, found, url, has_extra=has_extra)
    notice = ""
    if end is not None and end.position >= history.SCAN and filters.keys:
        notice = _(
            "Only the newest %(num)s changes of this record were searched, back to %(moment)s. "
            "Its own page shows them all.",
            num=f"{history.SCAN:,}",
            moment=pages.moment_of(end.issued_at, found.zone).full,
        )
    elif end is not None and end.position >= history.SCAN and not has_extra:
        further = str(history.Cursor(end.issued_at, end.id))
        paging["further"] = url(found.query, **{"after" if place.after else "before": further})
        notice = _(
            "Searched %(num)s transactions, to %(moment)s.",
            num=f"{history.SCAN:,}",
            moment=pages.moment_of(end.issued_at, found.zone).full,
        )
    return FeedPage(
        title=person.name if person and actor_id is not None else title,
        found=found,
        chips=pages.filter_chips(found, url, person.name if person else ""),
        days=pages.days_of(groups, found.zone),
        paging=paging,
        person=person if actor_id is not None else None,
        candidates=candidates,
        notice=notice,
    )


def _paging(
    groups: tuple[pages.Group, ...],
    place: _Place,
    found: forms.Filtering,
    url: MakeUrl,
    *,
    has_extra: bool,
) -> dict[str, str]:
    paging: dict[str, str] = {}
    if place.before or place.after:
        paging["newest"] = url(found.query)
    if groups and (place.before or (place.after and has_extra)):
        paging["newer"] = url(found.query, after=groups[0].cursor)
    if groups and (place.after or has_extra):
        paging["older"] = url(found.query, before=groups[-1].cursor)
    return paging


def _cursor(arguments: Mapping[str, str], name: str) -> history.Cursor | None:
    text = arguments.get(name)
    return None if text is None else history.Cursor.parse(text)


def _resolve(
    session: Any, logger: Logger, text: str, links: Links
) -> tuple[pages.Actor | None, tuple[pages.Actor, ...]]:
    """Find the actor that an id or a name means; several of one name are offered to choose."""
    transaction = logger.transaction_cls
    exact = session.execute(history.last_of_actor(transaction, text)).first()
    if exact is not None:
        return pages.actor_of(exact.actor_id, exact.actor_label, links), ()
    wanted = text.casefold()
    alike = [
        pages.actor_of(row.actor_id, row.actor_label, links)
        for row in session.execute(history.actors(transaction, limit=1000))
        if wanted in (row.actor_label or "").casefold()
    ]
    same = [actor for actor in alike if actor.name.casefold() == wanted] or alike
    return (same[0], ()) if len(same) == 1 else (None, tuple(same[:20]))
