"""What a page shows, as frozen values: the templates only print."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import Any, Protocol

from audit_app import diff, models
from audit_app.admin.forms import Filtering, period_labels, verb_labels
from audit_app.admin.i18n import gettext as _
from audit_app.admin.i18n import language, ngettext
from audit_app.admin.links import Links
from audit_app.admin.values import Value, stored_value
from audit_app.history import Cursor
from audit_app.selection import ROWS

# -- Time and people ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Moment:
    """A point in time.

    :ivar iso: for machines, with its offset from UTC.
    :ivar time: the time of the day, in the visitor's zone.
    :ivar full: date, time and zone.
    """

    iso: str
    time: str
    date: str
    full: str


def moment_of(value: datetime, zone: tzinfo) -> Moment:
    """Return how a moment is written in ``zone``."""
    local = value.astimezone(zone)
    day, time, offset = date_text(local), local.strftime("%H:%M:%S"), local.strftime("%z")
    return Moment(
        iso=local.isoformat(timespec="microseconds"),
        time=time,
        date=day,
        full=f"{day}, {time} {offset[:3]}:{offset[3:5]}",
    )


def date_text(day: datetime) -> str:
    """Return a date as text: ``24 November 2026``."""
    return _date_text(language(), day.year, day.month, day.day)


@lru_cache(maxsize=1000)  # a page names the same few days again and again
def _date_text(_language: str, year: int, month: int, day: int) -> str:
    months = (
        _("January"), _("February"), _("March"), _("April"), _("May"), _("June"), _("July"),
        _("August"), _("September"), _("October"), _("November"), _("December"),
    )  # fmt: skip
    # Translators set the order, and what stands between.
    return _("%(day)s %(month)s %(year)s", day=day, month=months[month - 1], year=year)


def day_heading(day: datetime, now: datetime) -> str:
    """Return the heading of a day in the feed."""
    weekdays = (
        _("Monday"), _("Tuesday"), _("Wednesday"), _("Thursday"), _("Friday"), _("Saturday"),
        _("Sunday"),
    )  # fmt: skip
    if day.date() == now.date():
        name = _("Today")
    elif day.date() == (now - timedelta(days=1)).date():
        name = _("Yesterday")
    else:
        name = weekdays[day.weekday()]
    return _("%(weekday)s, %(date)s", weekday=name, date=date_text(day))


@dataclass(frozen=True)
class Actor:
    """Who acted.

    :ivar is_known: False where nobody is known to have acted.
    :ivar hue: which of the style sheet's colours stands behind the initials.
    """

    name: str
    id: str | None
    url: str
    initials: str
    hue: int
    is_known: bool


_HUES = 8


def actor_of(actor_id: str | None, label: str | None, links: Links) -> Actor:
    """Return how an actor is shown: by the label that the trail kept, else by the id."""
    if actor_id is None and not label:
        return Actor(_("Unknown"), None, links.actor(None), "?", _HUES, is_known=False)
    name = label or actor_id or ""
    seed = hashlib.sha256((actor_id or name).encode("utf-8", "surrogatepass")).digest()[0]
    return Actor(name, actor_id, links.actor(actor_id), initials(name), seed % _HUES, is_known=True)


def initials(name: str) -> str:
    """Return one or two letters for a name; of a name without letters its first character."""
    words = [word for word in name.replace("@", " ").replace("-", " ").split() if word[0].isalnum()]
    letters = "".join(word[0] for word in (words[:1] + words[-1:] if len(words) > 1 else words))
    return (letters or name[:1]).upper()


# -- Records -----------------------------------------------------------------------------------

NAME_FIELDS = (
    "name", "title", "label", "display_name", "full_name", "username", "email", "subject", "slug",
    "code",
)  # fmt: skip


@dataclass(frozen=True)
class Record:
    """A record as a list names it.

    :ivar key: its identity, as people write it; a very long one is cut.
    :ivar label: a name that its own data gives; may be empty.
    :ivar table_label: what the application calls the table; may be empty.
    """

    schema: str
    table: str
    key: str
    url: str
    label: str = ""
    table_label: str = ""

    @property
    def table_title(self) -> str:
        """The table, with its schema where that is not the usual one."""
        return self.table_label or self.table_name

    @property
    def table_name(self) -> str:
        """The table as the database calls it."""
        return full_name(self.schema, self.table)


def key_text(key: str) -> str:
    """Return an identity as people write it: ``GB, GBP`` for a key of two columns."""
    if not key:
        return "“”"  # an empty text is a key like any other, and a link needs something to click on
    if key.startswith("["):
        try:
            parts = json.loads(key)
        except (ValueError, RecursionError):
            return key
        if isinstance(parts, list) and len(parts) > 1 and all(isinstance(p, str) for p in parts):
            return ", ".join(parts)
    return key


def cut(text: str, length: int = 80) -> str:
    """Return ``text``, cut where it is longer than a line of a list."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def size_text(number: int | None) -> str:
    """Return a number of bytes as people write it: ``1.2 MB``; empty for None."""
    if number is None:
        return ""
    size, units = float(number), ["B", "kB", "MB", "GB", "TB"]
    while size >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:.0f} {units[0]}" if units[0] in {"B", "kB"} else f"{size:.1f} {units[0]}"


def record_label(data: Mapping[str, Any], key: str) -> str:
    """Return a name for a record from its own data; empty if nothing looks like one."""
    for name in NAME_FIELDS:
        value = data.get(name)
        if isinstance(value, str) and value and value != key and "\n" not in value:
            return cut(value, 60)
    return ""


class Names(Protocol):
    """What the application calls its tables, fields and records; empty where it says nothing."""

    def table(self, schema_name: str, table_name: str) -> str: ...
    def field(self, schema_name: str, table_name: str, name: str) -> str: ...
    def record(self, schema_name: str, table_name: str, data: Mapping[str, Any]) -> str: ...


def record_of(row: Any, links: Links, names: Names | None = None) -> Record | None:
    """Return the record that an activity is about; None for truncations and marks."""
    if row.object_key is None:
        return None
    key = row.new_object_key or row.object_key
    data = {**(row.old_data or {}), **(row.changed_data or {})}
    place = (row.schema_name, row.table_name)
    return Record(
        schema=row.schema_name,
        table=row.table_name,
        key=cut(key_text(key)),
        url=links.record(row.schema_name, row.table_name, key),
        label=(names.record(*place, data) if names else "") or record_label(data, key),
        table_label=names.table(*place) if names else "",
    )


# -- Activities in lists -----------------------------------------------------------------------

_SYMBOLS = {
    "insert": "+",
    "update": "~",
    "delete": "\N{MINUS SIGN}",
    "truncate": "∅",
    "baseline": "◆",
    "suspend": "‖",
    "resume": "▸",
    "gap": "!",
    "export": "↧",
    "rewrite": "↻",
    "partition": "▤",
    "prune": "✂",
    "hold": "⚓",
    "release": "⚐",
    "restore": "↥",
    "floor": "▁",
}


@dataclass(frozen=True)
class Badge:
    """A verb: its word and a sign, so that colour is not needed to tell."""

    verb: str
    label: str
    symbol: str


def badge_of(verb: str) -> Badge:
    """Return the badge of a verb; one that this version does not know shows as it is stored."""
    return Badge(verb if verb in _SYMBOLS else "other", verb_labels().get(verb, verb),
                 _SYMBOLS.get(verb, "•"))  # fmt: skip


@dataclass(frozen=True)
class Chip:
    """A changed field in one line.

    :ivar old: the former value, where both are short enough for the line.
    :ivar label: what the application calls the field; may be empty.
    """

    field: str
    kind: str
    old: Value | None = None
    new: Value | None = None
    label: str = ""


@dataclass(frozen=True)
class Row:
    """An activity in a list."""

    id: int
    url: str
    badge: Badge
    record: Record | None
    table_title: str
    chips: tuple[Chip, ...]
    more_fields: int
    moved_from: str
    note: str
    table_name: str = ""


_MOST_CHIPS = {"insert": 4, "delete": 4, "update": 6, "baseline": 4}


def row_of(row: Any, links: Links, order: Sequence[str] = (), names: Names | None = None) -> Row:
    """Return an activity as a list shows it.

    :param order: the names of the table's columns.
    :param names: what the application calls things.
    """
    changes = sort_fields(diff.changes(row.verb, row.old_data, row.changed_data), order)
    record = record_of(row, links, names)
    if row.verb != "update":
        known = {record.key, record.label} if record is not None else set()
        changes = tuple(c for c in changes if _worth_a_chip(c, known))
    most = _MOST_CHIPS.get(row.verb, 0)
    place = (row.schema_name, row.table_name)

    def label(field: str) -> str:
        return names.field(*place, field) if names is not None else ""

    chips = [_chip(change, label(change.field)) for change in changes[:most]]
    note, more = _note(row), max(len(changes) - most, 0)
    if row.is_large:
        fields = sort_names(row.field_names or (), order)
        named = fields[:most] if row.verb == "update" else []
        chips = [Chip(name, "changed", label=label(name)) for name in named]
        more = len(fields) - len(chips)
    title = _table_title(row)
    if names is not None:
        title = title and (names.table(*place) or title)
    return Row(
        id=row.id,
        url=links.activity(row.id),
        badge=badge_of(row.verb),
        record=record,
        table_title=title,
        table_name=_table_title(row),
        chips=tuple(chips),
        more_fields=more,
        moved_from=key_text(row.object_key) if row.new_object_key else "",
        note=note,
    )


_OF_THE_TRAIL = frozenset(
    {"suspend", "resume", "export", "prune", "hold", "release", "restore", "floor"}
)


def _table_title(row: Any) -> str:
    if row.verb in _OF_THE_TRAIL:  # they are about no table but the trail's own
        return ""
    return full_name(row.schema_name, row.table_name)


def full_name(schema_name: str, table_name: str) -> str:
    """Return a table's name, with its schema where that is not the usual one."""
    return table_name if schema_name == "public" else f"{schema_name}.{table_name}"


def _worth_a_chip(change: diff.FieldChange, known: set[str]) -> bool:
    """An insert or delete names many fields: those that hold a short value say the most."""
    shown = stored_value(change.new if change.kind == "added" else change.old)
    return (
        shown.kind not in {"null", "empty", "masked"} and shown.is_short and shown.text not in known
    )


def _chip(change: diff.FieldChange, label: str) -> Chip:
    old, new = stored_value(change.old), stored_value(change.new)
    if old.is_short and new.is_short and not (old.kind == "absent" and new.kind == "absent"):
        return Chip(change.field, change.kind, old, new, label)
    return Chip(change.field, change.kind, label=label)


def _note(row: Any) -> str:
    if row.verb == "truncate":
        sizes = row.old_data or {}
        if "rows" in sizes:
            return ngettext("%(num)s row", "%(num)s rows", _whole(sizes["rows"]))
        if "rows_estimated" in sizes:
            number = _whole(sizes["rows_estimated"])
            return ngettext("about %(num)s row", "about %(num)s rows", number)
    if row.verb in _NOTES:
        return _NOTES[row.verb](row.changed_data or {})
    if row.verb in models.MARKS:
        told = row.changed_data or {}
        words = (told.get("reason"), told.get("operation"), told.get("message"))
        return cut(" · ".join(str(word) for word in words if word), 200)
    if getattr(row.old_data, "raw", None) or getattr(row.changed_data, "raw", None):
        return _("Stored values that are nested too deeply to compare")
    return _("Large values") if row.is_large else ""


def _export_note(told: Mapping[str, Any]) -> str:
    outcomes = {
        "complete": _("complete"), "truncated": _("cut at the limit"), "aborted": _("broken off"),
    }  # fmt: skip
    outcome = outcomes.get(str(told.get("outcome")), _("begun"))
    words = [str(told.get("format", "")).upper(), outcome]
    if "rows" in told:
        words.append(ngettext("%(num)s change", "%(num)s changes", _whole(told["rows"])))
    given = told.get("filter")
    if isinstance(given, Mapping):
        words.append(", ".join(f"{name}={value}" for name, value in given.items()))
    return cut(" · ".join(word for word in words if word), 200)


def _rewrite_note(told: Mapping[str, Any]) -> str:
    """What was rewritten to follow the schema, in a line."""
    arguments = told.get("arguments") or {}
    names = {
        "table": f"{told.get('schema')}.{told.get('table')}",
        "column": arguments.get("column"),
        "to": arguments.get("to") or f"{arguments.get('schema')}.{arguments.get('table')}",
    }
    texts = {
        "rename_table": _("%(table)s is called %(to)s", **names),
        "rename_column": _("%(table)s: %(column)s is called %(to)s", **names),
        "add_column": _("%(table)s: %(column)s was added", **names),
        "remove_column": _("%(table)s: %(column)s was removed", **names),
        "alter_column": _("%(table)s: %(column)s was converted", **names),
        "restore_column": _("%(table)s: %(column)s is as it was before", **names),
        "forget": _("%(table)s: what was kept of %(column)s was erased", **names),
    }
    words = [texts.get(str(told.get("operation")), "")]
    if "activities" in told:
        number = _whole(told["activities"])
        words.append(ngettext("%(num)s change", "%(num)s changes", number))
    return cut(" · ".join(word for word in words if word), 200)


def _prune_note(told: Mapping[str, Any]) -> str:
    """What was pruned, in a line."""
    words = [_places_of(told)]
    if "rows" in told:
        number = _whole(told["rows"])
        words.append(ngettext("%(num)s change", "%(num)s changes", number))
        if told.get("partition"):
            words.append(_("partition %(name)s dropped", name=told["partition"]))
        if told.get("archive"):
            words.append(_("archived in %(name)s", name=told["archive"]))
    else:
        words.append(_("changes before %(moment)s", moment=_day(told.get("before"))))
    return _joined(words)


def _hold_note(told: Mapping[str, Any]) -> str:
    """What is held or released, in a line."""
    words = [_places_of(told)]
    if "record" in told:
        words.append(_("record %(key)s", key=told["record"]))
    if "actor" in told:
        words.append(_("actor %(id)s", id=told["actor"]))
    if "since" in told:
        words.append(_("from %(moment)s", moment=_day(told["since"])))
    if "until" in told:
        words.append(_("before %(moment)s", moment=_day(told["until"])))
    if "hold" in told:
        words.append(_("hold %(id)s", id=told["hold"]))
    return _joined([*words, str(told.get("reason") or "")])


def _restore_note(told: Mapping[str, Any]) -> str:
    """What came back from an archive, in a line."""
    number = _whole(told.get("rows"))
    return _joined(
        [
            _places_of(told),
            ngettext("%(num)s change", "%(num)s changes", number),
            _("kept until %(moment)s", moment=_day(told.get("keep_until"))),
            str(told.get("archive") or ""),
        ]
    )


def _floor_note(told: Mapping[str, Any]) -> str:
    return cut(str(told.get("floor", "")), 200)


def _places_of(told: Mapping[str, Any]) -> str:
    places = told.get("places")
    found = map(str, places) if isinstance(places, list) else ()
    return ", ".join(place.removeprefix("public.") for place in found)


def _day(moment: Any) -> str:
    return str(moment or "")[:10]


def _joined(words: Iterable[str]) -> str:
    return cut(" · ".join(word for word in words if word), 200)


_NOTES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "export": _export_note,
    "rewrite": _rewrite_note,
    "prune": _prune_note,
    "hold": _hold_note,
    "release": _hold_note,
    "restore": _restore_note,
    "floor": _floor_note,
}


def _whole(value: Any) -> int:
    return int(value) if isinstance(value, int) else 0


def sort_fields(
    changes: Iterable[diff.FieldChange], order: Sequence[str]
) -> tuple[diff.FieldChange, ...]:
    """Sort fields as the table's columns stand; jsonb keeps them by length."""
    place = {name: number for number, name in enumerate(order)}
    return tuple(sorted(changes, key=lambda c: (c.kind == "unchanged", place.get(c.field, 9999))))


def sort_names(names: Iterable[str], order: Sequence[str]) -> list[str]:
    """Sort field names as the table's columns stand."""
    place = {name: number for number, name in enumerate(order)}
    return sorted(names, key=lambda name: place.get(name, 9999))


# -- The feed ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Group:
    """A transaction in a feed, with the first of its activities.

    :ivar cursor: its place in the feed.
    """

    id: int
    url: str
    actor: Actor
    moment: Moment
    reason: str
    rows: tuple[Row, ...]
    has_more: bool
    cursor: str


@dataclass(frozen=True)
class Day:
    """The transactions of one day, in the visitor's time zone."""

    heading: str
    groups: tuple[Group, ...]


def groups_of(
    rows: Sequence[Any],
    links: Links,
    zone: tzinfo,
    orders: Any = lambda row: (),
    names: Names | None = None,
) -> tuple[Group, ...]:
    """Return the transactions of :func:`audit_app.selection.feed`'s flat rows."""
    groups = []
    for _id, members in itertools.groupby(rows, key=lambda row: row.t_id):
        found = list(members)
        first = found[0]
        changes = [row for row in found if row.id is not None]
        groups.append(
            Group(
                id=first.t_id,
                url=links.transaction(first.t_id),
                actor=actor_of(first.t_actor_id, first.t_actor_label, links),
                moment=moment_of(first.t_issued_at, zone),
                reason=first.t_reason or "",
                rows=tuple(row_of(row, links, orders(row), names) for row in changes[:ROWS]),
                has_more=len(changes) > ROWS,
                cursor=str(Cursor(first.t_issued_at, first.t_id)),
            )
        )
    return tuple(groups)


def days_of(groups: Sequence[Group], zone: tzinfo, now: datetime | None = None) -> tuple[Day, ...]:
    """Group transactions by day, keeping their order."""
    today = (now or datetime.now(UTC)).astimezone(zone)
    days = []
    for _date, members in itertools.groupby(groups, key=lambda group: group.moment.date):
        found = tuple(members)
        day = datetime.fromisoformat(found[0].moment.iso)
        days.append(Day(day_heading(day, today), found))
    return tuple(days)


# -- Details of a transaction ------------------------------------------------------------------


def transaction_facts(row: Any) -> tuple[tuple[str, str], ...]:
    """Return what is known about a transaction, as titles and texts; unknown facts are left out."""
    request = " ".join(part for part in (row.t_method, row.t_url) if part)
    role = row.t_role_name
    if row.t_session_user_name != role:
        role = _("%(role)s (signed in as %(user)s)", role=role, user=row.t_session_user_name)
    facts = (
        (_("Client address"), row.t_client_addr),
        (_("Request"), request),
        (_("Request id"), row.t_request_id),
        (_("Database role"), role),
        (_("Application"), row.t_application_name),
        (_("Database transaction"), row.t_native_transaction_id),
    )
    return tuple((title, str(value)) for title, value in facts if value not in (None, ""))


# -- Filters -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class FilterChip:
    """An active filter.

    :ivar url: the same page without it.
    """

    title: str
    text: str
    url: str


def filter_chips(found: Filtering, url: Any, actor_name: str = "") -> tuple[FilterChip, ...]:
    """Return the active filters.

    :param url: builds the page's address from the filters that remain.
    """
    titles = {
        "actor": _("Actor"), "unknown": _("Actor"), "table": _("Table"), "record": _("Record"),
        "verb": _("Change"), "field": _("Field"), "value": _("Value"), "reason": _("Reason"),
        "request": _("Request"), "period": _("Period"), "from": _("From"), "to": _("To"),
        "tz": _("Time zone"),
    }  # fmt: skip
    texts = {
        "actor": actor_name, "unknown": _("unknown"),
        "table": dict(found.form.table.choices).get(found.query.get("table", ""), ""),
        "verb": verb_labels().get(found.query.get("verb", ""), ""),
        "period": period_labels().get(found.query.get("period", ""), ""),
        "from": found.query.get("from", "").replace("T", " "),
        "to": found.query.get("to", "").replace("T", " "),
    }  # fmt: skip
    return tuple(
        FilterChip(titles[name], cut(texts.get(name) or value), url(_without(found.query, name)))
        for name, value in found.query.items()
    )


def _without(query: Mapping[str, str], name: str) -> dict[str, str]:
    """A value says nothing without the field that holds it."""
    gone = {name, "value"} if name == "field" else {name}
    return {key: value for key, value in query.items() if key not in gone}
