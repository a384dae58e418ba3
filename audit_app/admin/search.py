"""The search box: a record, a person or a request, by what people copy and type."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from audit_app import directory, selection
from audit_app.admin import forms, pages
from audit_app.admin.access import Access
from audit_app.admin.feeds import known_actors, newest_transactions
from audit_app.admin.i18n import gettext as _
from audit_app.admin.i18n import number_text
from audit_app.admin.reading import Logger, reading

if TYPE_CHECKING:
    from audit_app.admin.links import Links

_MOST_PEOPLE = 20
_LONGEST = 1200  # characters: more than any key, id or name that the trail keeps


@dataclass(frozen=True)
class FoundRecord:
    """A record whose key was looked for.

    :ivar key: the key, whole.
    :ivar verb: of its last change, as stored.
    :ivar moment: when it changed last, as far as this key tells.
    """

    record: pages.Record
    key: str
    verb: str
    badge: pages.Badge
    moment: pages.Moment


@dataclass(frozen=True)
class Results:
    """What a search found.

    :ivar only_url: the page of the only answer; empty where there are several or none.
    :ivar request_url: the changes of the request with this id; empty if there are none.
    :ivar has_more: whether more records have this key than are shown.
    :ivar elsewhere: titles and addresses of slower searches for the same text.
    """

    text: str
    records: tuple[FoundRecord, ...] = ()
    people: tuple[pages.Actor, ...] = ()
    request_url: str = ""
    only_url: str = ""
    has_more: bool = False
    elsewhere: tuple[tuple[str, str], ...] = ()
    scan: str = field(default_factory=lambda: number_text(selection.SCAN))

    @property
    def is_empty(self) -> bool:
        """Whether nothing was found."""
        return not (self.records or self.people or self.request_url)


def look_up(logger: Logger, links: Links, text: str, found: forms.Filtering) -> Results:
    """Look for ``text``: as ``table/key``, key, id or name of an actor, id of a request.

    Always the same queries, each led by an index but the last, which is bounded.
    """
    text = text.strip()
    if not text or len(text) > _LONGEST:
        return Results(text[:_LONGEST])
    activity, transaction = logger.activity_cls, logger.transaction_cls
    with reading(logger) as session:
        access = Access.of(logger, session)
        names = forms.table_names(
            [
                (table.schema, table.name)
                for table in logger.audited_tables()
                if access.sees_table(table.schema, table.name)
            ]
        )
        wanted = _wanted(text, names)
        keys = [key for key, _table in wanted]
        query = directory.records_of_keys(activity, transaction, keys, tables=access.tables)
        rows = access.seen(session, session.execute(query).all())
        people = _people(session, access, text, links)
        requests = _requests(session, access, text)
    records = _records(rows, wanted, logger, links, found)
    request_url = ""
    if len(requests) == 1:
        request_url = links.transaction(requests[0])
    elif requests:
        request_url = links.feed(request=text)
    urls = [r.record.url for r in records] + [a.url for a in people]
    urls += [request_url] if request_url else []
    return Results(
        text=text,
        records=records[: directory.NAMESAKES],
        people=people,
        request_url=request_url,
        only_url=urls[0] if len(urls) == 1 else "",
        has_more=len(records) > directory.NAMESAKES,
        elsewhere=(
            (_("Reasons that mention it"), links.feed(reason=text)),
            (_("Requests with this id, further back"), links.feed(request=text)),
        ),
    )


def _wanted(
    text: str, names: dict[str, tuple[str, str]]
) -> list[tuple[str, tuple[str, str] | None]]:
    """Keys to look for, each with the table that the text names; None is any table."""
    wanted: dict[tuple[str, tuple[str, str] | None], None] = {}
    for key in forms.key_spellings(text):
        wanted[key, None] = None
    table, slash, key_text = text.partition("/")
    pair = forms.find_table(table.strip(), names)
    if slash and pair is not None:
        for key in forms.key_spellings(key_text.strip()):
            wanted[key, pair] = None
    return list(wanted)


def _records(
    rows: Any,
    wanted: list[tuple[str, tuple[str, str] | None]],
    logger: Logger,
    links: Links,
    found: forms.Filtering,
) -> tuple[FoundRecord, ...]:
    """Records, each once, though it had the key under two names of its table, or came to it."""
    records: dict[tuple[str, str, str], FoundRecord] = {}
    for row, found_key in rows:
        place = logger.place(row.schema_name, row.table_name)
        identity = (place.schema, place.name, found_key)
        tables = [table for key, table in wanted if key == found_key]
        if None not in tables and identity[:2] not in tables:
            continue
        moment = pages.moment_of(row.issued_at, found.zone)
        known = records.get(identity)
        if known is not None and known.moment.iso >= moment.iso:
            continue
        data = {**(row.old_data or {}), **(row.changed_data or {})}
        records[identity] = FoundRecord(
            record=pages.Record(
                schema=place.schema,
                table=place.name,
                key=pages.cut(pages.key_text(found_key)),
                url=links.record(*identity),
                label=pages.record_label(data, found_key),
            ),
            key=found_key,
            verb=row.verb,
            badge=pages.badge_of(row.verb),
            moment=moment,
        )
    return tuple(records.values())


def _people(session: Any, access: Access, text: str, links: Links) -> tuple[pages.Actor, ...]:
    """The actor with this id, and those whose name holds the text."""
    transaction = access.logger.transaction_cls
    only: dict[str, Any] = {"activity": access.logger.activity_cls, "tables": access.tables}
    exact = session.execute(directory.last_of_actor(transaction, text, **only)).all()
    rows = session.execute(directory.actors(transaction, limit=1000, **only)).all()
    wanted = text.casefold()
    alike = [row for row in rows if wanted in (row.actor_label or "").casefold()]
    people = list({row.actor_id: row for row in [*exact, *alike]}.values())[:_MOST_PEOPLE]
    return tuple(
        pages.actor_of(row.actor_id, row.actor_label, links)
        for row, _moment in known_actors(session, access, people)
    )


def _requests(session: Any, access: Access, text: str) -> list[int]:
    """The newest transactions of the request with this id; two tell that there are more."""
    if access.is_limited:
        filters = access.restrict(selection.Filters(request_id=text))
        return newest_transactions(session, access, filters)[:2]
    query = directory.of_request(access.logger.transaction_cls, text)
    return [row.id for row in session.execute(query)]
