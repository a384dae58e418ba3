"""A record's page: its story by transactions, with what happened to its related records."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from audit_app import history, identity, story
from audit_app.admin import differences, documents, forms, pages
from audit_app.admin.access import ROUNDS, Access
from audit_app.admin.comparing import Choice, choice_of, version_of
from audit_app.admin.describing import Describer, documents_of
from audit_app.admin.i18n import gettext as _
from audit_app.admin.reading import Logger, column_order, reading
from audit_app.errors import InvalidCursorError, RecordNotFoundError
from audit_app.story import Followed

if TYPE_CHECKING:
    from sqlalchemy import orm

    from audit_app.admin.links import Links
    from audit_app.follow import Related
    from audit_app.formerly import Place


@dataclass(frozen=True)
class Visit:
    """A request for a page about a record.

    :ivar found: the visitor's filters; of them the time zone counts here.
    :ivar table_url: returns the address of the feed of a table.
    """

    logger: Logger
    links: Links
    arguments: Mapping[str, str]
    found: forms.Filtering
    table_url: Callable[[Place], str]

    @property
    def before(self) -> int | None:
        """The id of the last activity of the page before.

        :raises InvalidCursorError: if it can be none.
        """
        return history.parse_id(self.arguments["before"]) if "before" in self.arguments else None


@dataclass(frozen=True)
class Subject:
    """The record that a page is about.

    :ivar table_title: what the application calls the table, or the database.
    :ivar key: its identity, as people write it; ``list_key`` is cut to the length of a line.
    :ivar latest: the record under its present key and label.
    :ivar gone: why it is not there any more; empty if it is.
    :ivar gone_url: the change that took it away.
    :ivar emptied_by: the id of that change, where it took all rows of the table.
    :ivar newest: the newest change of it.
    :ivar parameters: what a form has to send to come back to this record.
    :ivar zone: the visitor's time zone.
    """

    schema: str
    table: str
    table_title: str
    table_url: str
    url: str
    key: str
    list_key: str
    latest: pages.Record | None
    gone: str
    gone_url: str
    emptied_by: int | None
    newest: Any
    parameters: tuple[tuple[str, str], ...]
    zone: str

    @property
    def table_name(self) -> str:
        """The table, with its schema where that is not the usual one."""
        return pages.full_name(self.schema, self.table)

    @property
    def is_renamed(self) -> bool:
        """Whether the record has another key now."""
        return self.latest is not None and self.latest.key != self.list_key


@dataclass(frozen=True)
class Entry:
    """One change in the story.

    :ivar relation: the relationship that leads to it; empty for the record's own changes.
    :ivar alias: the key that the record had then, where it was another one.
    :ivar version_url: the whole row after the change; empty where there is none.
    :ivar chips: what a new or deleted related record says besides its key and whose it is.
    """

    change: differences.Change
    relation: str
    alias: pages.Record | None
    version_url: str
    chips: tuple[pages.Chip, ...]


@dataclass(frozen=True)
class Chapter:
    """What one transaction did to the record and its related records.

    :ivar goes_on: whether more of it is on the next page.
    """

    id: int
    url: str
    actor: pages.Actor
    moment: pages.Moment
    reason: str
    entries: tuple[Entry, ...]
    goes_on: bool


@dataclass(frozen=True)
class StoryPage:
    """A page of a record's story.

    :ivar choice: of two versions to compare; None where there are no two.
    :ivar follows: the relationships that are followed; empty if there are none.
    :ivar beginning: how the story begins; empty on pages before the last.
    :ivar notices: what was not looked at.
    :ivar further_url: the same page, with a search that goes further back.
    :ivar document: the page for machines.
    """

    subject: Subject
    chapters: tuple[Chapter, ...]
    choice: Choice | None
    follows: tuple[str, ...]
    is_alone: bool
    all_url: str
    alone_url: str
    beginning: str
    notices: tuple[str, ...]
    further_url: str
    first_url: str
    more_url: str
    document: Mapping[str, Any]


@dataclass(frozen=True)
class _Search:
    """What was found of related records, and what was not looked at."""

    followed: tuple[Followed, ...]
    notices: tuple[str, ...] = ()
    end: Any = None


@dataclass(frozen=True)
class _Part:
    """What was read of a story.

    :ivar own: what the record's columns held, activity by activity.
    :ivar rows: the activities that may be seen.
    :ivar rest: of those beyond the page.
    :ivar further: the id of the last activity that was read, if there are more.
    """

    own: Sequence[Any]
    search: _Search
    rows: Sequence[Any]
    rest: Sequence[Any] = ()
    further: int | None = None


def story_page(visit: Visit, place: Place, key: str) -> StoryPage:
    """Read a page of a record's story.

    :raises RecordNotFoundError: if the trail holds nothing about it.
    :raises InvalidCursorError: if the address names a place that cannot be.
    """
    logger, links, arguments = visit.logger, visit.links, visit.arguments
    before, reach = visit.before, _reach(arguments)
    is_alone = arguments.get("only", "") not in {"", "0"}
    with reading(logger) as session:
        access = Access.of(logger, session)
        related = tuple(
            item
            for item in logger.related(place.schema, place.name)
            if access.sees_table(item.place.schema, item.place.name)
        )
        describes = Describer(access, links)
        subject = read_subject(session, visit, place, key, describes)
        part = _read_on(
            session, access, place, key, () if is_alone else related, before=before,
            reach=story.REACH[reach], emptied_by=subject.emptied_by,
        )  # fmt: skip
        shown, rest = part.rows, part.rest
        describes.look_up(session, documents_of(shown))
        lost = session.execute(history.pruned(logger.activity_cls, place)).first()
    search, oldest = part.search, part.own[-1] if part.own else None
    is_more = part.further is not None
    notices = list(search.notices)
    further = ""
    if search.end is not None and oldest is not None:
        needed = part.further if part.further is not None else oldest.id
        if search.end.id > needed:
            notices.append(_not_searched(search.end, visit.found))
            if reach + 1 < len(story.REACH):
                further = _url(links, place, key, arguments, search=str(reach + 2))
    more = _url(links, place, key, arguments, before=str(part.further)) if is_more else ""
    return StoryPage(
        subject=subject,
        chapters=_chapters(visit, shown, rest, search.followed, subject, describes=describes),
        choice=choice_of(
            place,
            key,
            links,
            [
                version_of(row, links, visit.found.zone)
                for row in shown
                if row.relation == story.OWN and row.object_key is not None
            ],
            before=arguments.get("before"),
        ),
        follows=tuple(item.name for item in related),
        is_alone=is_alone,
        all_url=links.record(place.schema, place.name, key),
        alone_url=links.record(place.schema, place.name, key, only=1),
        beginning="" if is_more else _beginning(oldest, lost, visit.found),
        notices=tuple(notices),
        further_url=further,
        first_url=_url(links, place, key, arguments, before=None) if before is not None else "",
        more_url=more,
        document={
            "schema_name": place.schema,
            "table_name": place.name,
            "object_id": key,
            "is_deleted": bool(subject.gone),
            "follows": [item.name for item in related],
            "activities": [
                {
                    **documents.with_transaction(row, documents.listed_change(row, links)),
                    "relation": None
                    if row.relation == story.OWN
                    else search.followed[row.relation].related.name,
                }
                for row in shown
            ],
            "notices": notices,
            "next": documents.place_document(more, part.further)
            if part.further is not None
            else None,
        },
    )


def _read_on(
    session: orm.Session,
    access: Access,
    place: Place,
    key: str,
    related: tuple[Related, ...],
    *,
    before: int | None,
    reach: int,
    emptied_by: int | None,
) -> _Part:
    """Read a page; where single changes may be hidden, read on until it is full."""
    shown: list[Any] = []
    notices: dict[str, None] = {}
    for _round in range(ROUNDS if access.is_limited else 1):
        part = _read(
            session, access, place, key, related, before=before, reach=reach, emptied_by=emptied_by
        )
        notices.update(dict.fromkeys(part.search.notices))
        shown += part.rows
        if part.further is None or len(shown) >= history.PAGE:
            break
        before = part.further
    further, rest = part.further, part.rest
    if len(shown) > history.PAGE:
        shown, rest = shown[: history.PAGE], [*shown[history.PAGE :], *rest]
        further = shown[-1].id
    search = dataclasses.replace(part.search, notices=tuple(notices))
    return dataclasses.replace(part, rows=shown, rest=rest, further=further, search=search)


def _read(
    session: orm.Session,
    access: Access,
    place: Place,
    key: str,
    related: tuple[Related, ...],
    *,
    before: int | None,
    reach: int,
    emptied_by: int | None,
) -> _Part:
    activity, transaction = access.logger.activity_cls, access.logger.transaction_cls
    columns = list(dict.fromkeys(name for item in related for name in item.own_columns))
    # Whom the record belonged to tell only those of its changes that may be seen.
    own = access.known(
        session, session.execute(story.own(activity, place, key, columns, before=before)).all()
    )
    search = _Search(())
    if related:
        followed = tuple(
            Followed(item, story.periods(own, [columns.index(n) for n in item.own_columns]))
            for item in related
        )
        search = _search(session, access, followed, own, before=before, reach=reach)
    query = story.page(
        activity, transaction, place, key, search.followed, before=before, emptied_by=emptied_by
    )
    rows = session.execute(query).all()
    shown = access.only(session, rows[: history.PAGE])
    rest = access.only(session, rows[history.PAGE :])
    further = rows[history.PAGE - 1].id if len(rows) > history.PAGE else None
    return _Part(own, search, shown, rest, further)


def read_subject(
    session: orm.Session, visit: Visit, place: Place, key: str, describes: Describer
) -> Subject:
    """Read what a record is now.

    :raises RecordNotFoundError: if the trail holds nothing about it.
    """
    links, activity, access = visit.links, visit.logger.activity_cls, describes.access
    newest = newest_change(session, access, place, key)
    if newest is None:
        raise no_record(place.name, key)
    emptied = session.execute(story.emptied(activity, place, after=newest.id)).first()
    if emptied is not None and not access.known(session, [emptied]):
        emptied = None
    gone, gone_url, emptied_by = "", "", None
    if newest.verb == "delete":
        gone, gone_url = _("deleted"), links.activity(newest.id)
    elif emptied is not None:
        gone, gone_url = _("deleted with all rows of the table"), links.activity(emptied.id)
        emptied_by = emptied.id
    text = pages.key_text(key)
    parameters = {"schema": place.schema, "table": place.name, "identity": key, "tz": links.zone}
    return Subject(
        schema=place.schema,
        table=place.name,
        table_title=describes.table(place.schema, place.name)
        or pages.full_name(place.schema, place.name),
        table_url=visit.table_url(place),
        url=links.record(place.schema, place.name, key),
        key=text,
        list_key=pages.cut(text),
        latest=pages.record_of(newest, links, describes),
        gone=gone,
        gone_url=gone_url,
        emptied_by=emptied_by,
        newest=newest,
        parameters=tuple((name, value) for name, value in parameters.items() if value is not None),
        zone=visit.found.zone_name,
    )


def newest_change(session: orm.Session, access: Access, place: Place, key: str) -> Any:
    """Return a record's newest change that may be seen; None without one."""
    logger, limit = access.logger, history.PAGE if access.is_limited else 1

    def page(before: int | None) -> Any:
        return history.record_page(
            logger.activity_cls, logger.transaction_cls, place.schema, place.name, key,
            before=before, limit=limit, formerly=place.formerly,
        )  # fmt: skip

    rows, _rest = access.read_on(session, page, after=None, limit=limit)
    return rows[0] if rows else None


def no_record(table: str, key: str) -> RecordNotFoundError:
    """Return the same error for a record that is not there and for one that may not be seen."""
    return RecordNotFoundError(
        _("The trail holds no change of %(table)s %(key)s.", table=table, key=pages.key_text(key))
    )


def with_field_urls(change: differences.Change, row: Any, links: Links) -> differences.Change:
    """Let the fields' names lead to their own histories."""
    if row.object_key is None:
        return change
    key = row.new_object_key or row.object_key

    def linked(field: differences.Field) -> differences.Field:
        url = links.record(row.schema_name, row.table_name, key, field=field.name)
        return dataclasses.replace(field, url=url)

    return dataclasses.replace(change, fields=tuple(map(linked, change.fields)))


def version_url(row: Any, links: Links) -> str:
    """Return the address of the whole row after an activity; empty where there was none."""
    return links.version(row.id) if row.object_key is not None else ""


# -- The search for related records --------------------------------------------------------------


def _search(
    session: orm.Session,
    access: Access,
    followed: tuple[Followed, ...],
    own: Sequence[Any],
    *,
    before: int | None,
    reach: int,
) -> _Search:
    activity = access.logger.activity_cls
    notices: list[str] = []
    keys: list[dict[str, None]] = []
    for item in followed:
        known = story.known_keys(item)
        if known is None:
            known = _present_keys(session, item, notices)
        keys.append(dict.fromkeys(known))
    transactions = [row.transaction_id for row in own]
    if any(item.periods for item in followed):
        query = story.mentions(activity, followed, transactions, before=before, reach=reach)
        mentioned = session.execute(query).all()
        if len(mentioned) >= story.RECORDS:
            notices.append(
                _("More than %(num)s related records were found in recent changes; some are not "
                  "here.", num=story.RECORDS - 1)
            )  # fmt: skip
        for row in mentioned:
            for item, known_keys in zip(followed, keys, strict=True):
                if (row.schema_name, row.table_name) in item.related.place.names:
                    known_keys[row.object_key] = None
    if access.by_row and notices:  # how many there are is not for everybody
        notices = [_("Some related records were not looked for.")]
    end = session.execute(story.end_of_search(activity, before=before, reach=reach)).first()
    return _Search(
        tuple(
            dataclasses.replace(item, keys=tuple(known_keys))
            for item, known_keys in zip(followed, keys, strict=True)
        ),
        tuple(notices),
        # What names its related records by itself needs no search.
        end if any(story.known_keys(item) is None for item in followed) else None,
    )


def _present_keys(session: orm.Session, item: Followed, notices: list[str]) -> tuple[str, ...]:
    name = item.related.name
    if not item.periods:
        return ()
    try:
        with session.begin_nested():
            rows = session.execute(story.present_keys(item)).all()
    except sa.exc.DBAPIError:
        # No privilege, no such table here, or a value that its column cannot hold any more.
        notices.append(
            _("%(name)s: the table %(table)s could not be read, so only what recent changes tell "
              "of is here.", name=name, table=item.related.place.name)
        )  # fmt: skip
        return ()
    if len(rows) > story.RECORDS:
        notices.append(
            _("%(name)s: there are more than %(num)s; of the others only recent changes are here.",
              name=name, num=story.RECORDS)
        )  # fmt: skip
    found = (identity.encode(tuple(row)) for row in rows[: story.RECORDS])
    return tuple(key for key in found if key is not None)


def _reach(arguments: Mapping[str, str]) -> int:
    text = arguments.get("search", "1")
    if text not in {str(number + 1) for number in range(len(story.REACH))}:
        raise InvalidCursorError
    return int(text) - 1


def _not_searched(end: Any, found: forms.Filtering) -> str:
    return _(
        "Related records that are gone, and were never changed together with this one, were looked "
        "for back to %(moment)s. Their changes before that are not here.",
        moment=pages.moment_of(end.issued_at, found.zone).full,
    )


# -- From rows to values ---------------------------------------------------------------------------


def _chapters(
    visit: Visit,
    shown: Sequence[Any],
    rest: Sequence[Any],
    followed: Sequence[Followed],
    subject: Subject,
    *,
    describes: Describer,
) -> tuple[Chapter, ...]:
    logger, links, zone = visit.logger, visit.links, visit.found.zone
    budget = differences.Budget()
    groups: dict[int, list[Any]] = {}
    for row in shown:
        groups.setdefault(row.transaction_id, []).append(row)
    chapters = []
    for transaction_id, members in groups.items():
        first = members[0]
        entries = []
        for row in members:
            change = differences.change_of(
                row, links, zone, budget, describes=describes, order=column_order(logger, row)
            )
            is_own = row.relation == story.OWN
            record = change.row.record
            related = None if is_own else followed[row.relation].related
            entries.append(
                Entry(
                    change=with_field_urls(change, row, links),
                    relation=related.name if related else "",
                    alias=record if is_own and record and record.key != subject.list_key else None,
                    version_url=version_url(row, links),
                    chips=_chips(change.row, related),
                )
            )
        entries.sort(key=lambda entry: bool(entry.relation))  # the record's own come first
        chapters.append(
            Chapter(
                id=transaction_id,
                url=links.transaction(transaction_id),
                actor=pages.actor_of(first.t_actor_id, first.t_actor_label, links),
                moment=pages.moment_of(first.issued_at, zone),
                reason=first.t_reason or "",
                entries=tuple(entries),
                goes_on=any(row.transaction_id == transaction_id for row in rest),
            )
        )
    return tuple(chapters)


def _chips(row: pages.Row, related: Related | None) -> tuple[pages.Chip, ...]:
    known = {*related.columns, *(column.name for column in related.key)} if related else set()
    return tuple(chip for chip in row.chips if chip.field not in known)


def _beginning(oldest: Any, lost: Any, found: forms.Filtering) -> str:
    """Say how a story begins.

    :param lost: what the table lost by retention, as :func:`audit_app.history.pruned` tells it.
    """
    # What began after that is whole.
    if lost is not None and not (
        oldest is not None and oldest.verb == "insert" and oldest.issued_at >= lost.before
    ):
        return _(
            "Changes before %(before)s were removed by the retention policy on %(moment)s.",
            before=pages.moment_of(lost.before, found.zone).full,
            moment=pages.moment_of(lost.at, found.zone).full,
        )
    if oldest is None or oldest.verb == "insert":
        return _("Nothing before this is on record.")
    moment = pages.moment_of(oldest.issued_at, found.zone).full
    return _(
        "Nothing before this is on record. What the record was before %(moment)s is not known.",
        moment=moment,
    )


def _url(
    links: Links, place: Place, key: str, arguments: Mapping[str, str], **changed: str | None
) -> str:
    kept = {name: arguments[name] for name in ("only", "search", "before") if name in arguments}
    return links.record(place.schema, place.name, key, **{**kept, **changed})
