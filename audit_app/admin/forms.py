"""The one form of filters, and what it means."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import cache
from typing import Any, Final
from zoneinfo import ZoneInfo

from wtforms import BooleanField, Form, SelectField, StringField
from wtforms.validators import ValidationError

from audit_app import identity as identities
from audit_app import models, selection
from audit_app.admin.i18n import gettext as _
from audit_app.admin.i18n import language
from audit_app.errors import AuditError

PARAMETERS: Final = (
    "actor", "unknown", "table", "record", "verb", "field", "value", "reason", "request", "period",
    "from", "to", "tz",
)  # fmt: skip
"""The names of the filters in an address."""

PERIODS: Final[Mapping[str, timedelta]] = {
    "1h": timedelta(hours=1),
    "24h": timedelta(hours=24),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
    "90d": timedelta(days=90),
    "365d": timedelta(days=365),
}
"""Relative periods, up to now, as an address names them."""

COMMON_ZONES: Final = (
    "UTC", "Africa/Cairo", "Africa/Johannesburg", "Africa/Lagos", "Africa/Nairobi",
    "America/Argentina/Buenos_Aires", "America/Bogota", "America/Chicago", "America/Denver",
    "America/Los_Angeles", "America/Mexico_City", "America/New_York", "America/Sao_Paulo",
    "America/Toronto", "Asia/Bangkok", "Asia/Dubai", "Asia/Hong_Kong", "Asia/Jakarta",
    "Asia/Karachi", "Asia/Kolkata", "Asia/Manila", "Asia/Seoul", "Asia/Shanghai",
    "Asia/Singapore", "Asia/Tokyo", "Australia/Melbourne", "Australia/Perth", "Australia/Sydney",
    "Europe/Amsterdam", "Europe/Athens", "Europe/Berlin", "Europe/Dublin", "Europe/Helsinki",
    "Europe/Istanbul", "Europe/Kyiv", "Europe/Lisbon", "Europe/London", "Europe/Madrid",
    "Europe/Paris", "Europe/Rome", "Europe/Stockholm", "Europe/Vienna", "Europe/Warsaw",
    "Europe/Zurich", "Pacific/Auckland", "Pacific/Honolulu",
)  # fmt: skip
"""Suggestions; every zone of the IANA database is understood."""


class InvalidFilterError(AuditError):
    """A filter in this address makes no sense."""


def verb_labels() -> Mapping[str, str]:
    """Return each verb of the trail with the word that the pages use for it."""
    return _verb_labels(language())


@cache
def _verb_labels(_language: str) -> Mapping[str, str]:
    labels = {
        "insert": _("Created"),
        "update": _("Updated"),
        "delete": _("Deleted"),
        "truncate": _("Truncated"),
        "baseline": _("Recording began"),
        "suspend": _("Capture suspended"),
        "resume": _("Capture resumed"),
        "gap": _("Gap"),
        "export": _("Exported"),
        "rewrite": _("History rewritten"),
        "partition": _("History partitioned"),
        "prune": _("Pruned"),
        "hold": _("Held"),
        "release": _("Hold released"),
        "restore": _("Restored from archive"),
        "floor": _("Retention floor set"),
    }
    return {
        verb: labels.get(verb, verb) for verb in (*models.VERBS, models.BASELINE, *models.MARKS)
    }


def period_labels() -> dict[str, str]:
    """Return each relative period with the words that the pages use for it."""
    return {
        "1h": _("Last hour"),
        "24h": _("Last 24 hours"),
        "7d": _("Last 7 days"),
        "30d": _("Last 30 days"),
        "90d": _("Last 90 days"),
        "365d": _("Last 365 days"),
    }


def key_spellings(text: str) -> tuple[str, ...]:
    """Return the keys, as the trail has them, that a person may mean by ``text``.

    The pages write a key of several columns as ``GB, GBP``.
    """
    parts = [part.strip() for part in text.split(",")]
    composite = identities.encode(tuple(parts)) if len(parts) > 1 else None
    return (text,) if composite is None else (text, composite)


def zone_of(name: str) -> tzinfo:
    """Return the time zone of an IANA name.

    :raises InvalidFilterError: if there is none.
    """
    if name == "UTC":  # also where the system has no zone data
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise InvalidFilterError(
            _("There is no time zone “%(name)s”: write it like Europe/Berlin.", name=name[:60])
        ) from error


_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


def moment(text: str, zone: tzinfo, *, end: bool = False) -> datetime:
    """Return the moment that a ``date`` or ``datetime-local`` input of a page means.

    A day alone begins at its midnight; as an end it is meant whole. A time that the end of summer
    time repeats is the first one as a beginning and the second one as an end.

    :raises InvalidFilterError: if it is neither.
    """
    try:
        if _DAY.fullmatch(text):
            day = date.fromisoformat(text) + timedelta(days=1 if end else 0)
            local = datetime.combine(day, time())
        else:
            local = datetime.fromisoformat(text)
        aware = local if local.tzinfo else local.replace(tzinfo=zone, fold=1 if end else 0)
        utc = aware.astimezone(UTC)
        if not 1 < utc.year < 9999:  # room for a month and a time zone in either direction
            raise ValueError(text)  # noqa: TRY301
    except (ValueError, OverflowError) as error:
        raise InvalidFilterError(
            _("“%(text)s” is not a date: write it like 2026-03-29 or 2026-03-29T14:30.",
              text=text[:60])
        ) from error  # fmt: skip
    return utc


class _Select(SelectField):  # type: ignore[misc]
    """A choice whose first entry does not restrict."""

    def pre_validate(self, form: Form) -> None:
        if self.data and self.data not in dict(self.choices):
            raise ValidationError(
                _("There is no “%(value)s” to choose here.", value=str(self.data)[:60])
            )


class FilterForm(Form):  # type: ignore[misc]
    """The filters, as an address holds them."""

    class Meta:
        """Messages come from this package; WTForms' own translations are not needed."""

        locales = False

    actor = StringField()
    unknown = BooleanField()
    table = _Select(validate_choice=False)
    record = StringField()
    verb = _Select(validate_choice=False)
    field = StringField()
    value = StringField()
    reason = StringField()
    request = StringField()
    period = _Select(validate_choice=False)
    since = StringField(name="from")
    until = StringField(name="to")
    tz = StringField()


@dataclass(frozen=True)
class Filtering:
    """What the visitor asked for.

    :ivar query: the active filters as parameters of an address.
    :ivar errors: what was wrong, by parameter.
    :ivar since: what the parameter ``from`` means.
    :ivar until: what the parameter ``to`` means.
    """

    filters: selection.Filters
    zone: tzinfo
    zone_name: str
    form: Any
    query: Mapping[str, str] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)
    since: datetime | None = None
    until: datetime | None = None

    @property
    def period_text(self) -> str:
        """The chosen period in words; empty for all time."""
        since, until = (self.query.get(name, "").replace("T", " ") for name in ("from", "to"))
        if since and until:
            return _("%(since)s to %(until)s", since=since, until=until)
        if since:
            return _("Since %(since)s", since=since)
        if until:
            return _("Up to %(until)s", until=until)
        return period_labels().get(self.query.get("period", ""), "")

    @property
    def local_from(self) -> str:
        """The beginning as a ``datetime-local`` input takes it."""
        return _local(self.since, self.zone) or self.query.get("from", "")

    @property
    def local_to(self) -> str:
        """The end as a ``datetime-local`` input takes it."""
        return _local(self.until, self.zone) or self.query.get("to", "")

    @property
    def more_is_open(self) -> bool:
        """Whether one of the filters that the form folds is in use, or wrong."""
        folded = set(PARAMETERS) - {"actor", "table", "verb", "period"}
        return bool(folded & (self.query.keys() | self.errors.keys()))


def _titled(
    names: Mapping[str, tuple[str, str]], label: Callable[[str, str], str]
) -> list[tuple[str, str]]:
    """Return the tables as they are chosen: by their labels, the name beside one that is taken."""
    labels = {key: label(*pair) for key, pair in names.items()}
    taken = Counter(labels.values())
    titles = {
        key: f"{text} ({key})" if taken[text] > 1 else text for key, text in labels.items() if text
    }
    return sorted(
        ((key, titles.get(key, key)) for key in names), key=lambda choice: choice[1].casefold()
    )


def _local(value: datetime | None, zone: tzinfo) -> str:
    return value.astimezone(zone).strftime("%Y-%m-%dT%H:%M") if value else ""


def filtering(
    arguments: Mapping[str, str],
    *,
    tables: Sequence[tuple[str, str]],
    default_zone: str,
    now: datetime | None = None,
    former_fields: Callable[[str, str, str], Sequence[str]] = lambda schema, table, name: (),
    label: Callable[[str, str], str] = lambda schema, table: "",
) -> Filtering:
    """Read the filters of an address.

    :param tables: schema and name of each table to choose from.
    :param default_zone: the zone where the address names none.
    :param now: what the relative periods end with.
    :param former_fields: the former names of a field, from the schema and name of its table and
        its present name; asked where a table is chosen.
    :param label: what the application calls a table, from its schema and name; may be empty.
    """
    given = {name: str(arguments.get(name, "")).strip() for name in PARAMETERS}
    errors: dict[str, str] = {}
    for name, value in given.items():
        if not _is_text(value):  # PostgreSQL could not even be asked
            errors[name] = _("This holds a character that no stored text can hold.")
            given[name] = ""
    names = table_names(tables)
    given["table"] = next(
        # A name that several schemas have is the one in public.
        (key for key, pair in names.items() if given["table"] in _spellings(key, pair)),
        given["table"],
    )
    form = FilterForm(data=_data(given))
    form.table.choices = [("", _("All tables")), *_titled(names, label)]
    form.verb.choices = [("", _("All changes")), *verb_labels().items()]
    form.period.choices = [("", _("Any time")), *period_labels().items()]
    form.validate()
    for name in ("table", "verb", "period"):
        if form[name].errors:
            errors[name] = str(form[name].errors[0])
    zone, zone_name = _zone(given, default_zone, errors)
    given_since, until = _period(given, zone, errors)
    since = given_since
    if given["period"] in PERIODS:
        relative = (now or datetime.now(UTC)) - PERIODS[given["period"]]
        since = relative if since is None else max(since, relative)
    if given_since is not None and until is not None and given_since >= until:
        errors.setdefault("to", _("The period ends before it begins."))
    if given["value"] and not given["field"]:
        errors.setdefault("field", _("Name the field that holds this value."))
    unknown = given["unknown"] not in {"", "0"}
    schema_name, table_name = names.get(given["table"], (None, None))
    fields: tuple[str, ...] = (given["field"],) if given["field"] else ()
    if fields and schema_name and table_name:
        fields = (*fields, *former_fields(schema_name, table_name, given["field"]))
    query = {name: value for name, value in given.items() if value}
    if unknown:
        query = {**query, "unknown": "1"}
        query.pop("actor", None)
    else:
        query.pop("unknown", None)
    filters = selection.Filters(
        actor_id=None if unknown else given["actor"] or None,
        unknown_actor=unknown,
        schema_name=schema_name,
        table_name=table_name,
        verb=given["verb"] or None,
        since=since,
        until=until,
        fields=fields,
        value=given["value"] or None,
        keys=key_spellings(given["record"]) if given["record"] else (),
        request_id=given["request"] or None,
        words=tuple(given["reason"].split()),
    )
    return Filtering(filters, zone, zone_name, form, query, errors, given_since, until)


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return "\x00" not in value


def _data(given: Mapping[str, str]) -> dict[str, Any]:
    return {
        **given,
        "unknown": given["unknown"] not in {"", "0"},
        "since": given["from"],
        "until": given["to"],
    }


def table_names(tables: Sequence[tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """Name each table as short as it is unambiguous: ``article``, ``archive.article``."""
    times = [name for _schema, name in tables]
    return {
        name if times.count(name) == 1 else f"{schema}.{name}": (schema, name)
        for schema, name in sorted(tables, key=lambda pair: (pair[1], pair[0]))
    }


def find_table(text: str, names: Mapping[str, tuple[str, str]]) -> tuple[str, str] | None:
    """Return schema and name of the table that ``text`` means; None if it means none.

    A name that several schemas have is the one in public.

    :param names: as :func:`table_names` returns them.
    """
    return next((pair for key, pair in names.items() if text in _spellings(key, pair)), None)


def _spellings(key: str, pair: tuple[str, str]) -> set[str]:
    schema, name = pair
    return {key, f"{schema}.{name}"} | ({name} if schema == "public" else set())


def _zone(
    given: Mapping[str, str], default_zone: str, errors: dict[str, str]
) -> tuple[tzinfo, str]:
    try:
        name = given["tz"] or default_zone
        return zone_of(name), name
    except InvalidFilterError as error:
        errors["tz"] = str(error)
        return UTC, "UTC"


def _period(
    given: Mapping[str, str], zone: tzinfo, errors: dict[str, str]
) -> tuple[datetime | None, datetime | None]:
    moments: dict[str, datetime | None] = {"from": None, "to": None}
    for name in moments:
        try:
            moments[name] = moment(given[name], zone, end=name == "to") if given[name] else None
        except InvalidFilterError as error:
            errors[name] = str(error)
    return moments["from"], moments["to"]
