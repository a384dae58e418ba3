"""What one actor did in a period: totals, charts, tables, addresses. All of it plain values.

The charts are drawn here as numbers of an SVG: the content security policy allows no style
attribute, and attributes and classes are enough.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from audit_app import directory, install, selection, summary
from audit_app.admin import forms, pages
from audit_app.admin.access import Access
from audit_app.admin.documents import moment_text
from audit_app.admin.forms import InvalidFilterError
from audit_app.admin.i18n import gettext as _
from audit_app.admin.i18n import ngettext, number_text
from audit_app.admin.reading import Logger, reading
from audit_app.errors import RecordNotFoundError

if TYPE_CHECKING:
    from audit_app.admin.feeds import MakeUrl

DAYS: Final = 30
"""Days of the chart where no period is chosen."""

_FEW_DAYS: Final = 7  # a shorter period is shown within its surroundings
_MOST_DAYS: Final = 92  # a longer one by week
_MOST_WEEKS: Final = 105  # and a very long one by month
_TABLES, _ADDRESSES = 10, 6
_UNKNOWN_ZONE = "22023"  # invalid_parameter_value


@dataclass(frozen=True)
class Segment:
    """A part of a bar: changes of one kind."""

    kind: str
    y: float
    height: float


@dataclass(frozen=True)
class Bar:
    """A day (a week, a month) of the chart.

    :ivar first: its first day, as an address writes it.
    :ivar last: its last day.
    :ivar numbers: changes by kind, in the order of :attr:`Chart.kinds`.
    :ivar is_chosen: whether the period of the filters holds it.
    """

    x: int
    first: str
    last: str
    label: str
    title: str
    url: str
    number: int
    numbers: tuple[int, ...]
    segments: tuple[Segment, ...]
    is_chosen: bool


@dataclass(frozen=True)
class Chart:
    """Changes by day.

    :ivar unit: ``day``, ``week`` or ``month``.
    :ivar kinds: class and title of each kind that occurs.
    :ivar ends: days to write below the chart, from its beginning to its end.
    :ivar uncounted: width of the part at the beginning that was not counted.
    :ivar summary: the chart in a sentence.
    """

    bars: tuple[Bar, ...]
    unit: str
    title: str
    unit_title: str
    width: int
    slot: int
    top: int
    kinds: tuple[tuple[str, str], ...]
    ends: tuple[str, ...]
    uncounted: int
    summary: str


@dataclass(frozen=True)
class Cell:
    """An hour of a day of the week.

    :ivar level: 0 for none, to 4 for the most.
    """

    x: int
    y: int
    level: int
    number: int
    title: str


@dataclass(frozen=True)
class Hours:
    """Changes by hour and day of the week.

    :ivar rows: the name of each day with its 24 cells.
    """

    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    summary: str


@dataclass(frozen=True)
class Touched:
    """A table that was changed.

    :ivar width: length of its bar, of 100.
    """

    title: str
    url: str
    number: str
    width: float
    verbs: tuple[tuple[pages.Badge, str], ...]


@dataclass(frozen=True)
class Verb:
    """Changes of one verb."""

    badge: pages.Badge
    number: str
    url: str


@dataclass(frozen=True)
class Overview:
    """What the page shows above the changes.

    :ivar period: the period in words.
    :ivar changes: how many; "more than …" where the count was cut.
    :ivar notice: how far was counted; empty if it was to the end.
    :ivar document: the same for machines.
    """

    period: str
    changes: str
    active_days: str
    first: pages.Moment | None
    last: pages.Moment | None
    chart: Chart | None
    hours: Hours | None
    verbs: tuple[Verb, ...]
    tables: tuple[Touched, ...]
    more_tables: int
    addresses: tuple[tuple[str, pages.Moment], ...]
    more_addresses: int
    notice: str
    wider_url: str
    is_default: bool
    document: Mapping[str, Any]


@dataclass(frozen=True)
class _Period:
    """Days of the visitor's calendar, both included, and the moments they begin and end at."""

    first: date
    last: date
    since: datetime | None
    until: datetime | None

    @property
    def days(self) -> int:
        return (self.last - self.first).days + 1


def overview_of(
    logger: Logger,
    actor_id: str,
    found: forms.Filtering,
    url: MakeUrl,
    table_parameter: Callable[[str, str], str | None],
    *,
    now: datetime | None = None,
) -> Overview | None:
    """Read what an actor did.

    :param url: builds the address of the actor's page from filters.
    :param table_parameter: how an address names a table; None for one that is not known.
    :param now: the end of the default period.
    :return: None where changes are hidden one by one: they cannot be counted.
    :raises InvalidFilterError: if PostgreSQL does not know the time zone.
    :raises RecordNotFoundError: if nobody has this id.
    """
    transaction = logger.transaction_cls
    now = now or datetime.now(UTC)

    def read(session: Any, tables: selection.Tables | None, period: _Period) -> summary.Summary:
        query = summary.of_actor(
            logger.activity_cls,
            transaction,
            actor_id,
            found.zone_name,
            since=period.since,
            until=period.until,
            tables=tables,
        )
        try:
            return summary.summarize(session.execute(query))
        except sa.exc.DBAPIError as error:
            if install.sqlstate(error) != _UNKNOWN_ZONE:
                raise
            raise InvalidFilterError(
                _("The database does not know the time zone “%(name)s”.", name=found.zone_name[:60])
            ) from error

    activity = logger.activity_cls
    with reading(logger) as session:
        access = Access.of(logger, session)
        if access.by_row:
            return None
        tables = access.tables
        first = session.scalar(
            summary.first_of_actor(activity, transaction, actor_id, tables=tables)
        )
        newest = session.execute(
            directory.last_of_actor(transaction, actor_id, activity=activity, tables=tables)
        ).first()
        if newest is None:
            raise RecordNotFoundError
        period, is_default = _period(found, first or newest.issued_at, newest.issued_at, now)
        told = read(session, tables, period)
        around = period if period.days >= _FEW_DAYS else _around(period, found, now)
        shown = told if around is period else read(session, tables, around)
    merged = _merge(told.tables, logger)
    return Overview(
        period=_period_text(period, found, is_default=is_default),
        changes=_number(told.changes, is_cut=told.is_cut),
        active_days=ngettext("%(num)s day", "%(num)s days", len(told.days)),
        first=pages.moment_of(first, found.zone) if first is not None else None,
        last=pages.moment_of(newest.issued_at, found.zone),
        chart=_chart(shown, around, period, found, url),
        hours=_hours(told.hours),
        verbs=_verbs(told.verbs, found, url),
        tables=_tables(merged, found, url, table_parameter),
        more_tables=max(len(merged) - _TABLES, 0),
        addresses=tuple(
            (address, pages.moment_of(moment, found.zone))
            for address, moment in told.addresses[:_ADDRESSES]
        ),
        more_addresses=max(len(told.addresses) - _ADDRESSES, 0),
        notice=_notice(told, shown, found),
        wider_url="" if is_default else url(_without_period(found.query)),
        is_default=is_default,
        document=_document(told, merged, period, first=first, last=newest.issued_at),
    )


def _document(
    told: summary.Summary,
    tables: Mapping[tuple[str, str], Mapping[str, int]],
    period: _Period,
    *,
    first: datetime | None,
    last: datetime,
) -> dict[str, Any]:
    return {
        "from": period.first.isoformat(),
        "to": period.last.isoformat(),
        "first_seen": moment_text(first) if first is not None else None,
        "last_seen": moment_text(last),
        "changes": told.changes,
        "is_cut": told.is_cut,
        "counted_back_to": moment_text(told.oldest) if told.is_cut and told.oldest else None,
        "verbs": dict(told.verbs),
        "days": [
            {"day": day.isoformat(), "verbs": dict(verbs)}
            for day, verbs in sorted(told.days.items())
        ],
        "hours": [
            {"weekday": weekday, "hour": hour, "changes": number}
            for (weekday, hour), number in sorted(told.hours.items())
        ],
        "tables": [
            {"schema_name": schema, "table_name": name, "verbs": dict(verbs)}
            for (schema, name), verbs in sorted(tables.items())
        ],
        "addresses": [
            {"address": address, "last_seen": moment_text(moment)}
            for address, moment in told.addresses
        ],
    }


# -- Periods -----------------------------------------------------------------------------------


def _midnight(day: date, found: forms.Filtering) -> datetime:
    return datetime.combine(day, time(), tzinfo=found.zone).astimezone(UTC)


def _day_of(moment: datetime, found: forms.Filtering) -> date:
    return moment.astimezone(found.zone).date()


def _period(
    found: forms.Filtering, first: datetime, last: datetime, now: datetime
) -> tuple[_Period, bool]:
    """The chosen period; without one the last days, or those up to when the actor was last seen."""
    since, until = found.filters.since, found.filters.until
    today, newest = _day_of(now, found), _day_of(last, found)
    end = max(today, newest)
    is_default = since is None and until is None
    if until is not None:
        end = min(end, _day_of(until - timedelta(microseconds=1), found))
    elif is_default and (today - newest).days >= DAYS:
        end = newest
    if since is None:
        begin = end - timedelta(days=DAYS - 1)
        since = _midnight(begin, found)
    else:
        begin = _day_of(since, found)
        if (end - begin).days >= _MOST_DAYS:  # there is nothing to see before the first change
            begin = max(begin, _day_of(first, found))
    begin = min(begin, end)
    return _Period(begin, end, since, until), is_default


def _around(period: _Period, found: forms.Filtering, now: datetime) -> _Period:
    """Thirty days with the period in their middle, as far as today allows."""
    last = min(max(_day_of(now, found), period.last), period.last + timedelta(days=DAYS // 2))
    first = last - timedelta(days=DAYS - 1)
    return _Period(first, last, _midnight(first, found), _midnight(last + timedelta(1), found))


def _without_period(query: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in query.items() if name not in {"from", "to", "period"}}


def _period_text(period: _Period, found: forms.Filtering, *, is_default: bool) -> str:
    if not is_default and found.period_text and "from" in found.query:
        return found.period_text
    if not is_default and "to" not in found.query:
        return found.period_text
    if period.last >= _day_of(datetime.now(UTC), found):
        return ngettext("Last day", "Last %(num)s days", period.days)
    return _(
        "%(num)s days up to %(day)s",
        num=period.days,
        day=_date_text(period.last),
    )


def _number(number: int, *, is_cut: bool) -> str:
    return _("more than %(num)s", num=number_text(number)) if is_cut else number_text(number)


def _notice(told: summary.Summary, shown: summary.Summary, found: forms.Filtering) -> str:
    """How far was counted: in the period, and in what the chart shows around a short one."""
    cut = told if told.is_cut else shown
    if not cut.is_cut or cut.oldest is None:
        return ""
    number, moment = number_text(cut.changes), pages.moment_of(cut.oldest, found.zone).full
    if cut is told:
        return _(
            "Only the newest %(num)s changes of the period are counted, back to %(moment)s.",
            num=number,
            moment=moment,
        )
    return _(
        "Beyond the period, the chart shows the newest %(num)s changes only, back to %(moment)s.",
        num=number,
        moment=moment,
    )


# -- The chart by day --------------------------------------------------------------------------

_SLOT, _HEIGHT = 20, 100
_DAYS_WITH_MIDDLE = 14
_KINDS = {"insert": "insert", "update": "update", "delete": "delete", "truncate": "delete"}


def _kind_titles() -> dict[str, str]:
    return {
        "insert": _("Created"),
        "update": _("Updated"),
        "delete": _("Deleted"),
        "other": _("Other"),
    }


@dataclass
class _Bucket:
    first: date
    last: date
    counts: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def number(self) -> int:
        return sum(self.counts.values())


def _buckets(period: _Period) -> tuple[str, list[_Bucket]]:
    """Days, or weeks, or months, that cover the period; those at its ends may be parts."""
    unit = "day"
    if period.days > _MOST_DAYS:
        unit = "week" if period.days <= 7 * _MOST_WEEKS else "month"

    def starts() -> Iterator[date]:
        day = period.first
        while day <= period.last:
            yield day
            if unit == "day":
                day += timedelta(days=1)
            elif unit == "week":
                day += timedelta(days=7 - day.weekday())
            else:
                day = (day.replace(day=1) + timedelta(days=32)).replace(day=1)

    firsts = list(starts())
    lasts = [day - timedelta(days=1) for day in firsts[1:]] + [period.last]
    return unit, [_Bucket(*pair) for pair in zip(firsts, lasts, strict=True)]


def _chart(
    told: summary.Summary,
    period: _Period,
    chosen: _Period,
    found: forms.Filtering,
    url: MakeUrl,
) -> Chart:
    unit, buckets = _buckets(period)
    index = 0
    for day in sorted(told.days):
        while index < len(buckets) - 1 and day > buckets[index].last:
            index += 1
        for verb, number in told.days[day].items():
            kind = _KINDS.get(verb, "other")
            buckets[index].counts[kind] = buckets[index].counts.get(kind, 0) + number
    top = max((bucket.number for bucket in buckets), default=0)
    titles = _kind_titles()
    kinds = tuple(
        (kind, title)
        for kind, title in titles.items()
        if any(bucket.counts.get(kind) for bucket in buckets)
    )
    oldest = _day_of(told.oldest, found) if told.is_cut and told.oldest else None
    uncounted = sum(bucket.last < oldest for bucket in buckets) if oldest else 0
    rest = _without_period(found.query)

    def url_of(first: str, last: str) -> str:
        return url({**rest, "from": first, "to": last})

    bars = tuple(
        _bar(
            number,
            bucket,
            kinds,
            top,
            url=url_of,
            is_chosen=bucket.last >= chosen.first and bucket.first <= chosen.last,
        )
        for number, bucket in enumerate(buckets)
    )
    return Chart(
        bars=bars,
        unit=unit,
        title={
            "day": _("Changes by day"),
            "week": _("Changes by week"),
            "month": _("Changes by month"),
        }[unit],
        unit_title={"day": _("Day"), "week": _("Week"), "month": _("Month")}[unit],
        width=_SLOT * len(bars),
        slot=_SLOT,
        top=top,
        kinds=kinds,
        ends=_ends(buckets),
        uncounted=_SLOT * uncounted,
        summary=_chart_text(bars, top),
    )


def _ends(buckets: list[_Bucket]) -> tuple[str, ...]:
    days = [buckets[0].first, buckets[-1].last]
    if len(buckets) > _DAYS_WITH_MIDDLE:
        days.insert(1, buckets[len(buckets) // 2].first)
    return tuple(_date_text(day) for day in dict.fromkeys(days))


def _date_text(day: date) -> str:
    return pages.date_text(datetime.combine(day, time()))


def _bar(
    place: int,
    bucket: _Bucket,
    kinds: tuple[tuple[str, str], ...],
    top: int,
    *,
    url: Callable[[str, str], str],
    is_chosen: bool,
) -> Bar:
    first, last = bucket.first.isoformat(), bucket.last.isoformat()
    label = _date_text(bucket.first)
    if bucket.last != bucket.first:
        end = _date_text(bucket.last)
        label = _("%(since)s to %(until)s", since=label, until=end)
    number = bucket.number
    changes = ngettext("%(num)s change", "%(num)s changes", number)
    return Bar(
        x=place * _SLOT,
        first=first,
        last=last,
        label=label,
        title=f"{label}: {changes}",
        url=url(first, last),
        number=number,
        numbers=tuple(bucket.counts.get(kind, 0) for kind, _title in kinds),
        segments=_segments(bucket, kinds, top),
        is_chosen=is_chosen,
    )


def _segments(bucket: _Bucket, kinds: tuple[tuple[str, str], ...], top: int) -> tuple[Segment, ...]:
    """The parts of a bar, from its foot; a small number is still seen."""
    segments, foot = [], float(_HEIGHT)
    for kind, _title in kinds:
        number = bucket.counts.get(kind, 0)
        if number:
            height = max(round((_HEIGHT - 4) * number / top, 2), 1.5)
            foot = round(foot - height, 2)
            segments.append(Segment(kind, foot, height))
    return tuple(segments)


def _chart_text(bars: tuple[Bar, ...], top: int) -> str:
    if not top:
        return _("No change.")
    busiest = next(bar for bar in bars if bar.number == top)
    return _(
        "Busiest: %(day)s, %(changes)s.",
        day=busiest.label,
        changes=ngettext("%(num)s change", "%(num)s changes", top),
    )


# -- The chart by hour -------------------------------------------------------------------------

_LEVELS = 4


def weekdays() -> tuple[str, ...]:
    """Return the names of the days of the week, short."""
    return _("Mon"), _("Tue"), _("Wed"), _("Thu"), _("Fri"), _("Sat"), _("Sun")


def _hours(hours: Mapping[tuple[int, int], int]) -> Hours | None:
    if not hours:
        return None
    top = max(hours.values())
    rows = []
    for weekday, name in enumerate(weekdays(), 1):
        cells = []
        for hour in range(24):
            number = hours.get((weekday, hour), 0)
            changes = ngettext("%(num)s change", "%(num)s changes", number)
            cells.append(
                Cell(
                    x=hour,
                    y=weekday - 1,
                    # By the root, so that one busy hour does not make all others look the same.
                    level=math.ceil(_LEVELS * math.sqrt(number / top)),
                    number=number,
                    title=f"{name} {hour:02}:00 to {hour:02}:59: {changes}",
                )
            )
        rows.append((name, tuple(cells)))
    (weekday, hour), _most = max(hours.items(), key=lambda item: item[1])
    return Hours(
        tuple(rows),
        _(
            "Busiest: %(day)s, %(since)s to %(until)s.",
            day=weekdays()[weekday - 1],
            since=f"{hour:02}:00",
            until=f"{hour + 1:02}:00",
        ),
    )


# -- Tables and verbs --------------------------------------------------------------------------


def _merge(
    tables: Mapping[tuple[str, str], Mapping[str, int]], logger: Logger
) -> dict[tuple[str, str], dict[str, int]]:
    """Put what was recorded under former names under the present ones."""
    merged: dict[tuple[str, str], dict[str, int]] = {}
    for (schema, name), verbs in tables.items():
        place = logger.place(schema, name)
        counts = merged.setdefault((place.schema, place.name), {})
        for verb, number in verbs.items():
            counts[verb] = counts.get(verb, 0) + number
    return merged


def _tables(
    tables: Mapping[tuple[str, str], Mapping[str, int]],
    found: forms.Filtering,
    url: MakeUrl,
    table_parameter: Callable[[str, str], str | None],
) -> tuple[Touched, ...]:
    ordered = sorted(tables.items(), key=lambda item: (-sum(item[1].values()), item[0]))
    top = sum(ordered[0][1].values()) if ordered else 1
    touched = []
    for (schema, name), verbs in ordered[:_TABLES]:
        parameter, number = table_parameter(schema, name), sum(verbs.values())
        query = {key: value for key, value in found.query.items() if key != "table"}
        touched.append(
            Touched(
                title=name if schema == "public" else f"{schema}.{name}",
                url=url({**query, "table": parameter}) if parameter else "",
                number=number_text(number),
                width=max(round(100 * number / top, 1), 1.0),
                verbs=tuple((pages.badge_of(verb), number_text(n)) for verb, n in _by_verb(verbs)),
            )
        )
    return tuple(touched)


def _verbs(verbs: Mapping[str, int], found: forms.Filtering, url: MakeUrl) -> tuple[Verb, ...]:
    query = {key: value for key, value in found.query.items() if key != "verb"}
    known = forms.verb_labels()
    return tuple(
        Verb(
            pages.badge_of(verb),
            number_text(number),
            url({**query, "verb": verb}) if verb in known else "",
        )
        for verb, number in _by_verb(verbs)
    )


def _by_verb(verbs: Mapping[str, int]) -> list[tuple[str, int]]:
    order = list(forms.verb_labels())
    return sorted(verbs.items(), key=lambda item: (order.index(item[0]) if item[0] in order else 99,
                                                   item[0]))  # fmt: skip
