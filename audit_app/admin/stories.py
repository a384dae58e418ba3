"""A record's page: its story by transactions, with what happened to its related records."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from audit_app import history, identity, story
from audit_app.admin import differences, forms, pages
from audit_app.admin.comparing import Choice, choice_of, version_of
from audit_app.admin.describing import Describer, documents_of
from audit_app.admin.i18n import gettext as _
from audit_app.admin.reading import Logger, column_order, present, reading
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


@dataclass(frozen=True)
class _Search:
    """What was found of related records, and what was not looked at."""

    followed: tuple[Followed, ...]
    notices: tuple[str, ...] = ()
    end: Any = None


def story_page(visit: Visit, place: Place, key: str) -> StoryPage:
    """Read a page of a record's story.

    :raises RecordNotFoundError: if the trail holds nothing about it.
    :raises InvalidCursorError: if the address names a place that cannot be.
    """
    logger, links, arguments = visit.logger, visit.links, visit.arguments
    before, reach = visit.before, _reach(arguments)
    related = logger.related(place.schema, place.name)
    is_alone = arguments.get("only", "") not in {"", "0"}
    activity, transaction = logger.activity_cls, logger.transaction_cls
    columns = list(dict.fromkeys(name for item in related for name in item.own_columns))
    describes = Describer(logger, links)
    with reading(logger) as session:
        subject = read_subject(session, visit, place, key, describes)
        own = session.execute(
            story.own(activity, place, key, [] if is_alone else columns, before=before)
        ).all()
        search = _Search(())
        if related and not is_alone:
            followed = tuple(
                Followed(item, story.periods(own, [columns.index(n) for n in item.own_columns]))
                for item in related
            )
            search = _search(
                session, logger, followed, own, before=before, reach=story.REACH[reach]
            )
        query = story.page(
            activity, transaction, place, key, search.followed, before=before,
            emptied_by=subject.emptied_by,
        )  # fmt: skip
        rows = [present(logger, row) for row in session.execute(query)]
        shown, rest = rows[: history.PAGE], rows[history.PAGE :]
        describes.look_up(session, documents_of(shown))
    oldest = own[-1] if own else None
    notices = list(search.notices)
    further = ""
    if search.end is not None and oldest is not None:
        needed = shown[-1].id if rest else oldest.id
        if search.end.id > needed:
            notices.append(_not_searched(search.end, visit.found))
            if reach + 1 < len(story.REACH):
                further = _url(links, place, key, arguments, search=str(reach + 2))
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
        beginning="" if rest else _beginning(oldest, visit.found),
        notices=tuple(notices),
        further_url=further,
        first_url=_url(links, place, key, arguments, before=None) if before is not None else "",
        more_url=_url(links, place, key, arguments, before=str(shown[-1].id)) if rest else "",
    )


def read_subject(
    session: orm.Session, visit: Visit, place: Place, key: str, describes: Describer
) -> Subject:
    """Read what a record is now.

    :raises RecordNotFoundError: if the trail holds nothing about it.
    """
    logger, links = visit.logger, visit.links
    activity = logger.activity_cls
    newest = session.execute(
        history.record_page(
            activity, logger.transaction_cls, place.schema, place.name, key, limit=1,
            formerly=place.formerly,
        )
    ).first()  # fmt: skip
    if newest is None:
        raise RecordNotFoundError(
            _("The trail holds no change of %(table)s %(key)s.",
              table=place.name, key=pages.key_text(key))
        )  # fmt: skip
    emptied = session.execute(story.emptied(activity, place, after=newest.id)).first()
    newest = present(logger, newest)
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
        parameters=tuple((name, value) for name, value in parameters.items() if value is not None),
        zone=visit.found.zone_name,
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
    logger: Logger,
    followed: tuple[Followed, ...],
    own: Sequence[Any],
    *,
    before: int | None,
    reach: int,
) -> _Search:
    activity = logger.activity_cls
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


def _beginning(oldest: Any, found: forms.Filtering) -> str:
    """Say how a story begins."""
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
