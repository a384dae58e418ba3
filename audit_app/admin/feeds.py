"""The feed: everything, or what one actor did; a page of transactions at a time."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from audit_app import directory, history, selection
from audit_app.admin import documents, forms, pages
from audit_app.admin.access import ROUNDS, Access
from audit_app.admin.i18n import gettext as _
from audit_app.admin.i18n import number_text
from audit_app.admin.naming import Naming
from audit_app.admin.reading import Logger, column_order, reading
from audit_app.errors import InvalidCursorError, RecordNotFoundError

if TYPE_CHECKING:
    from datetime import datetime

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


@dataclass(frozen=True)
class _Reading:
    """What was read of the trail.

    :ivar groups: the rows of each transaction, the newest first.
    :ivar has_extra: whether there are more beyond.
    :ivar further: where a bounded search ended; None if it came to the end, or found enough.
    :ivar looked_at: how many transactions a bounded search looked at.
    :ivar cut_at: where the search for the changes of one record ended; None at their end.
    """

    groups: Sequence[Sequence[Any]] = ()
    has_extra: bool = False
    further: history.Cursor | None = None
    looked_at: int = 0
    cut_at: datetime | None = None


@dataclass(frozen=True)
class Feed:
    """A page of the feed as it was read, for people and for machines."""

    found: forms.Filtering
    url: MakeUrl
    place: _Place
    actor_id: str | None
    person: pages.Actor | None = None
    candidates: tuple[pages.Actor, ...] = ()
    reading: _Reading = _Reading()

    def page(self, logger: Logger, links: Links) -> FeedPage:
        """Return what the page shows."""
        title = _("Activity") if self.actor_id is None else _("Actor")
        found, person, read = self.found, self.person, self.reading
        if found.errors:
            return FeedPage(title, found, pages.filter_chips(found, self.url))
        rows = list(itertools.chain.from_iterable(read.groups))
        groups = pages.groups_of(
            rows, links, found.zone, lambda row: column_order(logger, row), Naming(logger)
        )
        notice = ""
        if read.cut_at is not None:
            notice = _(
                "Only the newest %(num)s changes of this record were searched, back to %(moment)s. "
                "Its own page shows them all.",
                num=number_text(selection.SCAN),
                moment=pages.moment_of(read.cut_at, found.zone).full,
            )
        elif read.further is not None:
            notice = _(
                "Searched %(num)s transactions, to %(moment)s.",
                num=number_text(read.looked_at),
                moment=pages.moment_of(read.further.issued_at, found.zone).full,
            )
        return FeedPage(
            title=person.name if person and self.actor_id is not None else title,
            found=found,
            chips=pages.filter_chips(found, self.url, person.name if person else ""),
            days=pages.days_of(groups, found.zone),
            paging={name: url for name, (url, _cursor) in self._paging().items()},
            person=person if self.actor_id is not None else None,
            candidates=self.candidates,
            notice=notice,
        )

    def document(self, links: Links) -> dict[str, Any]:
        """Return the page for machines."""
        paging = self._paging()
        older = paging.get("older")
        newer = paging.get("newer")
        if "further" in paging:
            older, newer = (older, paging["further"]) if self.place.after else (
                paging["further"], newer
            )  # fmt: skip
        return {
            **documents.feed_document(
                self.reading.groups,
                links,
                most=selection.ROWS,
                following=documents.place_document(*older) if older else None,
                preceding=documents.place_document(*newer) if newer else None,
            ),
            "candidates": [
                {"id": actor.id, "label": actor.name, "href": actor.url}
                for actor in self.candidates
            ],
        }

    def _paging(self) -> dict[str, tuple[str, str]]:
        """Address and cursor of each page that there is around this one."""
        place, read, found, url = self.place, self.reading, self.found, self.url
        paging: dict[str, tuple[str, str]] = {}
        if place.before or place.after:
            paging["newest"] = (url(found.query), "")
        if read.groups and (place.before or (place.after and read.has_extra)):
            cursor = str(_cursor_of(read.groups[0]))
            paging["newer"] = (url(found.query, after=cursor), cursor)
        if read.groups and (place.after or read.has_extra):
            cursor = str(_cursor_of(read.groups[-1]))
            paging["older"] = (url(found.query, before=cursor), cursor)
        if read.further is not None:
            cursor = str(read.further)
            way = "after" if place.after else "before"
            paging["further"] = (url(found.query, **{way: cursor}), cursor)
        return paging


def read_feed(
    logger: Logger,
    links: Links,
    arguments: Mapping[str, str],
    found: forms.Filtering,
    url: MakeUrl,
    *,
    actor_id: str | None = None,
) -> Feed:
    """Read a page of the feed.

    :param actor_id: whose feed it is.
    :raises InvalidCursorError: if the address names a place that cannot be.
    :raises RecordNotFoundError: if nobody has this id.
    """
    place = _Place(_cursor(arguments, "before"), _cursor(arguments, "after"))
    if place.before and place.after:
        raise InvalidCursorError
    feed = Feed(found, url, place, actor_id)
    if found.errors:
        return feed
    with reading(logger) as session:
        access = Access.of(logger, session)
        filters, person, candidates = resolve(session, access, found, links, actor_id=actor_id)
        read = _read(session, access, filters, place)
    return dataclasses.replace(feed, person=person, candidates=candidates, reading=read)


def resolve(
    session: Any, access: Access, found: forms.Filtering, links: Links, *, actor_id: str | None
) -> tuple[selection.Filters, pages.Actor | None, tuple[pages.Actor, ...]]:
    """Return what a feed's filters mean: the tables that may be seen, the actor that was named.

    :param actor_id: whose feed it is.
    :return: the filters; who the actor is; and several to choose from, where a name fits them.
    :raises RecordNotFoundError: if nobody has this id.
    """
    filters = access.restrict(found.filters)
    if actor_id is not None:  # to the letter: the form's values are stripped of white space
        filters = dataclasses.replace(filters, actor_id=actor_id)
    if filters.actor_id is None:
        return filters, None, ()
    person, candidates = _resolve(session, access, filters.actor_id, links)
    if actor_id is not None and (person is None or person.id != actor_id):
        raise RecordNotFoundError(
            _("Nobody with the id “%(id)s” is in the trail.", id=pages.cut(actor_id))
        )
    if person is not None:
        filters = dataclasses.replace(filters, actor_id=person.id)
    return filters, person, candidates


# -- Reading -----------------------------------------------------------------------------------


def _read(session: Any, access: Access, filters: selection.Filters, place: _Place) -> _Reading:
    """Read a page; where single changes may be hidden, read on until it is full."""
    logger, limit, looked_at = access.logger, history.PAGE, 0
    kept: list[Sequence[Any]] = []
    most = 4 * selection.ROWS if access.by_row else selection.ROWS
    for _round in range(ROUNDS if access.by_row else 1):
        query = selection.feed(
            logger.activity_cls,
            logger.transaction_cls,
            filters,
            before=place.before,
            after=place.after,
            limit=limit,
            rows=most,
        )
        groups = _grouped(session.execute(query).all())
        has_extra = len(groups) > limit
        groups = groups[-limit:] if place.after else groups[:limit]
        looked_at += len(groups)
        shown = _shown(session, access, filters, groups, most)
        kept = [*shown, *kept] if place.after else [*kept, *shown]
        if not has_extra or len(kept) >= limit or not access.by_row:
            break
        place = _beyond(place, groups)
    is_full = len(kept) >= limit
    kept = kept[-limit:] if place.after else kept[:limit]
    # Asked for though it may not be needed, so that every page takes as many queries.
    end = _end_of_search(session, access, filters, place)
    is_cut = end is not None and end.position >= selection.SCAN
    # Of a record that may not be seen, nothing is said.
    is_told = is_cut and filters.keys and (kept or not access.by_row)
    found = _Reading(kept, cut_at=end.issued_at if is_told else None)
    if has_extra and (is_full or not access.by_row):
        return dataclasses.replace(found, has_extra=True)
    if has_extra:
        further = place.after or place.before
        return dataclasses.replace(found, further=further, looked_at=looked_at)
    if is_cut and not filters.keys:
        further = history.Cursor(end.issued_at, end.id)
        return dataclasses.replace(found, further=further, looked_at=selection.SCAN)
    return found


def newest_transactions(session: Any, access: Access, filters: selection.Filters) -> list[int]:
    """Return the ids of the newest transactions that fit, as far as one page of the feed looks."""
    found = _read(session, access, filters, _Place(None, None))
    return [group[0].t_id for group in found.groups]


def _end_of_search(session: Any, access: Access, filters: selection.Filters, place: _Place) -> Any:
    if not filters.is_search:
        return None
    logger = access.logger
    if filters.keys:
        query = selection.scanned_of_keys(logger.activity_cls, filters)
    else:
        query = selection.scanned(
            logger.transaction_cls, filters, before=place.before, after=place.after
        )
    return session.execute(query).first()


def _grouped(rows: Iterable[Any]) -> list[list[Any]]:
    return [list(members) for _id, members in itertools.groupby(rows, key=lambda row: row.t_id)]


def _shown(
    session: Any,
    access: Access,
    filters: selection.Filters,
    groups: Sequence[Sequence[Any]],
    most: int,
) -> list[list[Any]]:
    """The transactions of which something may be seen, each with that."""
    rows = access.only(session, itertools.chain.from_iterable(groups))
    seen = {group[0].t_id: group for group in _grouped(rows)}
    if not access.by_row:
        return list(seen.values())
    logger = access.logger
    for group in groups:
        found = seen.get(group[0].t_id, [])
        if len(group) > most and len(found) <= selection.ROWS:

            def page(after: int | None, id_: int = group[0].t_id) -> Any:
                return selection.of_transaction(
                    logger.activity_cls, logger.transaction_cls, id_, after=after, filters=filters
                )

            more, _after = access.read_on(session, page, after=group[-1].id, limit=history.PAGE)
            seen[group[0].t_id] = [*found, *more]
    order = (seen.get(group[0].t_id, []) for group in groups)
    return [found[: selection.ROWS + 1] for found in order if found]


def _beyond(place: _Place, groups: Sequence[Sequence[Any]]) -> _Place:
    if place.after:
        return _Place(None, _cursor_of(groups[0]))
    return _Place(_cursor_of(groups[-1]), None)


def _cursor_of(group: Sequence[Any]) -> history.Cursor:
    return history.Cursor(group[0].t_issued_at, group[0].t_id)


def _cursor(arguments: Mapping[str, str], name: str) -> history.Cursor | None:
    text = arguments.get(name)
    return None if text is None else history.Cursor.parse(text)


# -- Actors ------------------------------------------------------------------------------------


def known_actors(session: Any, access: Access, found: Sequence[Any]) -> list[tuple[Any, datetime]]:
    """Return those actors of whom the visitor may see something, each with its moment.

    :param found: rows of :func:`audit_app.directory.actors`.
    """
    if not access.by_row:
        return [(row, row.issued_at) for row in found]
    if not found:
        return []
    logger = access.logger
    query = directory.examples(
        logger.activity_cls,
        logger.transaction_cls,
        [row.actor_id for row in found],
        access.restrict(selection.Filters()),
    )
    newest: dict[str | None, Any] = {}
    for row in access.only(session, session.execute(query).all()):
        newest.setdefault(row.t_actor_id, row.t_issued_at)
    return [(row, newest[row.actor_id]) for row in found if row.actor_id in newest]


def _resolve(
    session: Any, access: Access, text: str, links: Links
) -> tuple[pages.Actor | None, tuple[pages.Actor, ...]]:
    """Find the actor that an id or a name means; several of one name are offered to choose."""
    activity, transaction = access.logger.activity_cls, access.logger.transaction_cls
    exact = session.execute(
        directory.last_of_actor(transaction, text, activity=activity, tables=access.tables)
    ).all()
    for row, _moment in known_actors(session, access, exact):
        return pages.actor_of(row.actor_id, row.actor_label, links), ()
    wanted = text.casefold()
    everybody = session.execute(
        directory.actors(transaction, limit=1000, activity=activity, tables=access.tables)
    )
    alike = [row for row in everybody if wanted in (row.actor_label or "").casefold()]
    same = [row for row in alike if row.actor_label.casefold() == wanted] or alike
    actors = [
        pages.actor_of(row.actor_id, row.actor_label, links)
        for row, _moment in known_actors(session, access, same[:20])
    ]
    return (actors[0], ()) if len(actors) == 1 else (None, tuple(actors))
