"""The desk's data as plain values: today's state, the changes, the state before them.

Nothing here touches a database. A state is a mapping from table name to the rows by key; the state
before all changes is today's state with every change undone, the latest first.
"""

from __future__ import annotations

import csv
import tomllib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pycountry

from demo.errors import DataError

if TYPE_CHECKING:
    import datetime
    from collections.abc import Iterator, Mapping

DATA = Path(__file__).parent / "data"

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "country": (
        "alpha_2", "alpha_3", "numeric", "name", "official_name", "common_name", "flag",
    ),
    "currency": ("alpha_3", "numeric", "name"),
    "country_currency": ("country_code", "currency_code"),
    "subdivision": ("code", "name", "type", "country_code", "parent_code"),
    "editor": ("username", "name", "email"),
}  # fmt: skip
"""The tables and their columns; the editors without their passwords."""

KEYS: Mapping[str, tuple[str, ...]] = {
    "country": ("alpha_2",),
    "currency": ("alpha_3",),
    "country_currency": ("country_code", "currency_code"),
    "subdivision": ("code",),
    "editor": ("username",),
}

FEED = "iso-feed"
"""The actor of the background job."""

Row = dict[str, str | None]
Key = tuple[str | None, ...]
State = dict[str, dict[Key, Row]]
Verb = Literal["insert", "update", "delete", "sql", "reload"]


@dataclass(frozen=True)
class EditorAccount:
    """A person who may sign in, with the password that the demo tells everybody."""

    username: str
    name: str
    email: str
    password: str
    client_addr: str


EDITORS = (
    EditorAccount("ada", "Ada Lindqvist", "ada@desk.example", "ada-demo", "192.0.2.11"),
    EditorAccount("noor", "Noor Haddad", "noor@desk.example", "noor-demo", "192.0.2.12"),
    EditorAccount("tomas", "Tomás Ferreira", "tomas@desk.example", "tomas-demo", "2001:db8::13"),
)
"""The desk's three editors; the addresses are of the ranges reserved for documentation."""


@dataclass(frozen=True)
class Step:
    """One step of a change; the fields that its verb does not use are empty."""

    verb: Verb
    table: str
    key: Mapping[str, Any] = field(default_factory=dict)
    row: Mapping[str, Any] = field(default_factory=dict)
    where: Mapping[str, Any] = field(default_factory=dict)
    was: Mapping[str, Any] = field(default_factory=dict)
    becomes: Mapping[str, Any] = field(default_factory=dict)
    statement: str = ""


@dataclass(frozen=True)
class Change:
    """What one person did in one database transaction.

    :ivar date: when it happened in the world (the trail's own time is when the demo replays it).
    :ivar source: where this can be looked up; None for the desk's own slips and clean-ups.
    """

    date: datetime.date
    who: str
    reason: str
    source: str | None
    steps: tuple[Step, ...]


def today() -> State:
    """Return the state of today: ``pycountry``'s, our list of legal tender, the editors.

    :raises DataError: if the list names a code that ``pycountry`` does not know.
    """
    state: State = {table: {} for table in COLUMNS}
    for table, source in (
        ("country", pycountry.countries),
        ("currency", pycountry.currencies),
        ("subdivision", pycountry.subdivisions),
    ):
        for item in source:
            _put(state, table, {name: getattr(item, name, None) for name in COLUMNS[table]})
    for row in legal_tender():
        if (row["country_code"],) not in state["country"]:
            raise DataError(f"legal_tender.csv: no country {row['country_code']}")
        if (row["currency_code"],) not in state["currency"]:
            raise DataError(f"legal_tender.csv: no currency {row['currency_code']}")
        _put(state, "country_currency", row)
    for editor in EDITORS:
        _put(state, "editor", {name: getattr(editor, name) for name in COLUMNS["editor"]})
    return state


def legal_tender() -> list[Row]:
    """Return the rows of ``legal_tender.csv``."""
    with (DATA / "legal_tender.csv").open(encoding="utf-8", newline="") as file:
        return [dict(row) for row in csv.DictReader(file)]


@cache
def changes() -> tuple[Change, ...]:
    """Return the changes of ``changes.toml``, in order.

    :raises DataError: if an entry is malformed.
    """
    with (DATA / "changes.toml").open("rb") as file:
        entries = tomllib.load(file)["change"]
    return tuple(
        Change(
            date=entry["date"],
            who=entry["who"],
            reason=entry["reason"],
            source=entry.get("source"),
            steps=tuple(_step(raw) for raw in entry["steps"]),
        )
        for entry in entries
    )


def before() -> State:
    """Return the state before all changes, from which the desk starts.

    :raises DataError: if a change cannot be undone, because the data contradict each other.
    """
    state = today()
    for change in reversed(changes()):
        for step in reversed(change.steps):
            _apply(state, _inverse(step))
    return state


def after() -> State:
    """Return the state that performing every change on :func:`before` ends in."""
    state = before()
    for change in changes():
        for step in change.steps:
            _apply(state, step)
    return state


def by_parent(rows: Mapping[Key, Row]) -> Iterator[list[Row]]:
    """Yield the subdivisions in groups, such that a parent is in a group before its children."""
    done: set[str | None] = {None}
    rest = list(rows.values())
    while rest:
        group = [row for row in rest if row["parent_code"] in done]
        if not group:
            raise DataError(f"Subdivisions with a parent that does not exist: {rest[:3]}")
        yield group
        done |= {row["code"] for row in group}
        rest = [row for row in rest if row["code"] not in done]


def _step(raw: Mapping[str, Any]) -> Step:
    if "sql" in raw:
        return Step(
            "sql",
            raw["table"],
            where=raw["where"],
            was=raw["was"],
            becomes={name: raw["set"].get(name) for name in raw["was"]},
            statement=raw["sql"],
        )
    verbs: tuple[Verb, ...] = ("insert", "update", "delete", "reload")
    verb = next((verb for verb in verbs if verb in raw), None)
    if verb is None or raw[verb] not in COLUMNS:
        raise DataError(f"changes.toml: this is no step: {dict(raw)}")
    return Step(
        verb,
        raw[verb],
        key=raw.get("key", {}),
        row=raw.get("row", {}),
        was=raw.get("was", {}),
        becomes=raw.get("set", {}),
    )


def _inverse(step: Step) -> Step:
    match step.verb:
        case "insert":
            return Step("delete", step.table, row=step.row)
        case "delete":
            return Step("insert", step.table, row=step.row)
        case "reload":
            return step
    key = {name: step.becomes.get(name, value) for name, value in step.key.items()}
    return Step(
        step.verb, step.table, key=key, where=step.where, was=step.becomes, becomes=step.was
    )


def _apply(state: State, step: Step) -> None:
    rows = state[step.table]
    match step.verb:
        case "insert":
            _put(state, step.table, step.row)
        case "delete":
            key = _key(step.table, step.row)
            if rows.get(key) != _whole(step.table, step.row):
                raise DataError(f"{step.table} {key} is {rows.get(key)}, not {dict(step.row)}")
            del rows[key]
        case "update":
            key = _key(step.table, step.key)
            if key not in rows or not _fits(rows[key], step.was):
                raise DataError(f"{step.table} {key} is {rows.get(key)}, not {dict(step.was)}")
            _put(state, step.table, {**rows.pop(key), **step.becomes})
        case "sql":
            for row in rows.values():
                if _fits(row, step.where) and _fits(row, step.was):
                    row.update(step.becomes)


def _put(state: State, table: str, row: Mapping[str, Any]) -> None:
    key = _key(table, row)
    if key in state[table]:
        raise DataError(f"{table} {key} exists already")
    state[table][key] = _whole(table, row)


def _whole(table: str, row: Mapping[str, Any]) -> Row:
    return {name: row.get(name) for name in COLUMNS[table]}


def _key(table: str, row: Mapping[str, Any]) -> Key:
    return tuple(row[name] for name in KEYS[table])


def _fits(row: Row, values: Mapping[str, Any]) -> bool:
    return all(row[name] == value for name, value in values.items())
