"""What stands in the way of a plan, each with what may be chosen."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import sqlalchemy as sa

from audit_app.revert import shapes
from audit_app.revert.ordering import Wish, after
from audit_app.revert.plan import Choice, Conflict, Record
from audit_app.revert.shapes import ForeignKey, Row, Shape, Unique
from audit_app.revert.story import Thread
from audit_app.revert.values import dump, same

_BOTH: tuple[Choice, ...] = ("skip", "force")
_SKIP: tuple[Choice, ...] = ("skip",)


@dataclass
class Found:
    """The conflicts and notes of a plan in the making."""

    conflicts: dict[tuple[Any, ...], Conflict] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(  # noqa: PLR0917 - what a conflict, or a record, consists of
        self,
        kind: str,
        subject: int | None,
        record: Record,
        fields: Iterable[str],
        message: str,
        choices: tuple[Choice, ...],
        skips: Literal["record", "fields", "nothing"] = "record",
        *,
        sets_null: bool = False,
        preset: Choice | None = None,
    ) -> None:
        conflict = Conflict(
            "", kind, subject, record, tuple(fields), message, choices, skips, sets_null,
            preset, preset is not None,
        )  # fmt: skip
        about = (kind, subject, str(record), conflict.fields, message)
        self.conflicts.setdefault(about, conflict)

    def numbered(self) -> tuple[Conflict, ...]:
        """Return the conflicts with ids, those of one record together."""
        ordered = sorted(self.conflicts.values(), key=lambda item: item.subject or 0)
        return tuple(replace(item, id=f"c{n}") for n, item in enumerate(ordered, 1))


@dataclass(frozen=True)
class Usable:
    """The part of a stored row that can be written today, and why the rest cannot.

    :ivar issues: the kind of conflict for each field of the rest.
    """

    row: Row
    issues: dict[str, str]

    def fitting(self, row: Row, bad: frozenset[str]) -> Usable:
        """Return it with its values as the database casts them."""
        return Usable(row, {**self.issues, **dict.fromkeys(sorted(bad), "does_not_fit")})


def usable(shape: Shape, row: Row) -> Usable:
    """Return what of a stored row the table can take."""
    kept: Row = {}
    issues: dict[str, str] = {}
    for name, value in row.items():
        column = shape.by_name.get(name)
        if column is None:
            if value is not None:
                issues[name] = "column_gone"
        elif _is_mark(value, "masked", is_document=column.json and name not in shape.unrecorded):
            issues[name] = "masked"
        elif _is_mark(value, "too large", is_document=column.json):
            issues[name] = "too_large"
        elif name in shape.unrecorded:
            issues[name] = "not_recorded"
        elif column.type == "json" and _is_text_of_json(value):
            issues[name] = "does_not_fit"
        elif not column.generated:
            kept[name] = value
    return Usable(kept, issues)


def _is_mark(value: Any, mark: str, *, is_document: bool) -> bool:
    """Tell what the trail put in place of a value.

    A document that looks exactly like the mark of a masked value is taken for one: it may have been
    written when the column was masked.
    """
    if not isinstance(value, dict) or value.get("$audit") != mark:
        return False
    return len(value) == 1 if is_document else True


def _is_text_of_json(value: Any) -> bool:
    """Tell what the trail keeps as text because jsonb cannot hold it, from a JSON string.

    The two look the same if a string holds such a document; then nobody can tell.
    """
    if not isinstance(value, str) or not re.search(r"\\u|[eE]|[0-9]{1000}", value):
        return False
    try:
        json.loads(value)
    except (ValueError, RecursionError):
        return False
    return True


_WHY = {
    "column_gone": "the column {names} does not exist any more",
    "masked": "{names} is masked: the trail does not hold its value",
    "too_large": "the value of {names} was too large for the trail, which holds only its beginning",
    "not_recorded": "{names} is not recorded: the trail does not hold its value",
    "does_not_fit": "the former value of {names} is none that can be written to the column now",
}


def wish(  # noqa: PLR0917 - what a conflict, or a record, consists of
    found: Found,
    subject: int,
    shape: Shape,
    thread: Thread,
    known: Row,
    goal: Usable,
    live: Row | None,
) -> Wish | None:
    """Return what a record is to become; None if that is what it is.

    :param known: its last row as the trail has it.
    :param goal: the former row for a record that is gone, else the former values.
    :param live: its row as the database has it.
    """
    record = _record(shape, live or known)
    if thread.ended_by == "own":
        return None if thread.born else _insert(found, subject, shape, goal)
    if thread.ended_by == "truncate":
        return None
    if live is None:
        if not thread.born and thread.goals:
            found.add("gone", subject, record, (), "the record is gone since", _SKIP)
        return None
    if thread.born:
        _changed_since_birth(found, subject, record, thread=thread, known=known, live=live)
        return Wish(subject, shape, live, None)
    return _update(found, subject, shape, thread, known, goal, live)


def _insert(found: Found, subject: int, shape: Shape, goal: Usable) -> Wish | None:
    record = _record(shape, goal.row)
    if not record.key:
        found.add(
            "column_gone", subject, record, shape.key,
            "the trail does not hold the record under the key that the table has now", _SKIP,
        )  # fmt: skip
        return None
    issues = dict(goal.issues)
    for name in sorted(shape.unrecorded - issues.keys()):
        issues[name] = "masked" if name in shape.audited.options.mask else "not_recorded"
    for kind in dict.fromkeys(issues.values()):
        names = [name for name, value in issues.items() if value == kind]
        blocked = [n for n in names if n in shape.by_name and _is_required(shape, n)]
        why = _WHY[kind].format(names=_listed(names))
        if blocked:
            why += f"; {_listed(blocked)} needs a value, so the record cannot come back"
        elif kind != "column_gone":
            why += "; the record can come back with the default of the column"
        found.add(kind, subject, record, names, why, _SKIP if blocked else _BOTH)
    new = [
        column.name
        for column in shape.readable
        if column.name not in goal.row
        and column.name not in issues
        and _is_required(shape, column.name)
    ]
    if new:
        found.add(
            "column_required", subject, record, new,
            f"{_listed(new)} is new since and needs a value, so the record cannot come back", _SKIP,
        )  # fmt: skip
    return Wish(subject, shape, None, goal.row)


def _update(  # noqa: PLR0917 - what a conflict, or a record, consists of
    found: Found,
    subject: int,
    shape: Shape,
    thread: Thread,
    known: Row,
    goal: Usable,
    live: Row,
) -> Wish | None:
    record = _record(shape, live)
    hidden = usable(shape, thread.hidden)
    issues = {**goal.issues, **{n: kind for n, kind in hidden.issues.items() if kind == "masked"}}
    for kind in dict.fromkeys(issues.values()):
        names = [name for name, value in issues.items() if value == kind]
        why = f"{_WHY[kind].format(names=_listed(names))}; it stays as it is"
        found.add(kind, subject, record, names, why, _SKIP, "fields")
    lost = sorted(hidden.row.keys() - goal.row.keys())
    if lost:
        found.notes.append(
            f"{record}: {_listed(lost)} changed in a way that the trail does not show, and stays "
            "as it is."
        )
    for name, value in goal.row.items():
        if same(value, live.get(name)):
            continue
        disputed = name in thread.disputed
        if disputed or (name in known and not same(known[name], live.get(name))):
            found.add(
                "changed_since", subject, record, (name,),
                f"{name} has changed since, and is {_short(live.get(name))} now", _BOTH, "fields",
            )  # fmt: skip
        elif name in thread.later:
            found.add(
                "changed_since", subject, record, (name,),
                f"{name} was changed later, last {thread.later[name]}", _BOTH, "fields",
                preset="force",
            )  # fmt: skip
    wish = Wish(subject, shape, live, goal.row)
    return wish if wish.changes else None


def _changed_since_birth(
    found: Found, subject: int, record: Record, *, thread: Thread, known: Row, live: Row
) -> None:
    names = [
        name
        for name, value in live.items()
        if name in thread.disputed or (name in known and not same(known[name], value))
    ]
    if names:
        found.add(
            "changed_since", subject, record, names,
            f"{_listed(names)} has changed since the record was made", _BOTH,
        )  # fmt: skip


def stuck(found: Found, wishes: Sequence[Wish]) -> None:
    """Note that records wait for each other, and neither a constraint nor a NULL helps."""
    names = ", ".join(sorted(str(wish.record) for wish in wishes))
    found.add(
        "cycle", wishes[0].subject, wishes[0].record, (),
        f"{names} can only be written at the same time, and the constraints between them cannot be "
        "deferred: make one of them DEFERRABLE, or do it by hand", _SKIP,
    )  # fmt: skip


def check(
    found: Found, connection: sa.Connection, audit_schema: str, wishes: Sequence[Wish]
) -> None:
    """Ask the database what the constraints would say."""
    lookup = _Lookup(wishes)
    for same_table in lookup.by_relation.values():
        shape = same_table[0].shape
        for unique in shape.uniques:
            _check_unique(found, connection, lookup, unique, same_table)
        for key in shape.parents:
            _check_parents(found, connection, audit_schema, lookup, key, same_table)
    for wish, key, children, many in blocking_children(connection, audit_schema, wishes):
        _child_blocks(found, wish, key, children, many=many)


class _Lookup:
    def __init__(self, wishes: Sequence[Wish]) -> None:
        self.by_relation: dict[str, list[Wish]] = {}
        for wish in wishes:
            self.by_relation.setdefault(wish.shape.relation, []).append(wish)

    def values(
        self, relation: str, value: Callable[[Row | None], str | None]
    ) -> tuple[set[str], set[str]]:
        """Return what the records of a table give up, and what they have at the end."""
        given, kept = set(), set()
        for wish in self.by_relation.get(relation, ()):
            now, then = value(wish.now), value(after(wish))
            if now is not None and now != then:
                given.add(now)
            if then is not None:
                kept.add(then)
        return given, kept


def _check_unique(
    found: Found,
    connection: sa.Connection,
    lookup: _Lookup,
    unique: Unique,
    wishes: Sequence[Wish],
) -> None:
    given, _ = lookup.values(wishes[0].shape.relation, unique.value)
    seen: set[str] = set()
    asked = []
    for wish in wishes:
        value = unique.value(after(wish))
        if value is None or value == unique.value(wish.now):
            continue
        if value in seen:
            _taken(found, wish, unique, None)
        elif value not in given:
            asked.append(wish)
        seen.add(value)
    rows = [after(wish) or {} for wish in asked]
    for wish, holder in zip(
        asked, shapes.taken(connection, wishes[0].shape, unique, rows), strict=True
    ):
        if holder is not None:
            _taken(found, wish, unique, holder)


def _taken(found: Found, wish: Wish, unique: Unique, holder: Row | None) -> None:
    values = ", ".join(_short((after(wish) or {})[name]) for name in unique.columns)
    if unique.primary:
        kind, why = "exists", f"there is a record with the key {values} again"
    else:
        by = "another record" if holder is None else str(_record(wish.shape, holder))
        kind, why = "taken", f"{_listed(unique.columns)} = {values} belongs to {by} now"
    if wish.now is None:
        found.add(kind, wish.subject, wish.record, unique.columns, why, _SKIP)
    else:
        found.add(kind, wish.subject, wish.record, unique.columns, why, _SKIP, "fields")


def _check_parents(  # noqa: PLR0917 - what a conflict, or a record, consists of
    found: Found,
    connection: sa.Connection,
    audit_schema: str,
    lookup: _Lookup,
    key: ForeignKey,
    wishes: Sequence[Wish],
) -> None:
    given, kept = lookup.values(key.parent, key.provided)
    asked = []
    for wish in wishes:
        value = key.referred(after(wish))
        if value is None or value in kept or value == key.referred(wish.now):
            continue
        if value in given:
            _parent_gone(found, wish, key)
        else:
            asked.append(wish)
    values = [[(after(wish) or {})[name] for name in key.child_columns] for wish in asked]
    there = shapes.existing_parents(connection, audit_schema, key, values)
    for wish, exists in zip(asked, there, strict=True):
        if not exists:
            _parent_gone(found, wish, key)


def _parent_gone(found: Found, wish: Wish, key: ForeignKey) -> None:
    row = after(wish) or {}
    value = ", ".join(_short(row[name]) for name in key.child_columns)
    why = f"{key.parent} {value} is gone, and {_listed(key.child_columns)} refers to it"
    if wish.now is not None:
        found.add("parent_gone", wish.subject, wish.record, key.child_columns, why, _SKIP, "fields")
    elif key.nulled:
        found.add(
            "parent_gone", wish.subject, wish.record, key.nulled,
            f"{why}; the record can come back without it", _BOTH, sets_null=True,
        )  # fmt: skip
    else:
        found.add("parent_gone", wish.subject, wish.record, key.child_columns, why, _SKIP)


def blocking_children(
    connection: sa.Connection, audit_schema: str, wishes: Sequence[Wish]
) -> Iterator[tuple[Wish, ForeignKey, list[Row], bool]]:
    """Find the rows that refer to what a plan takes away, and that it leaves where they are."""
    lookup = _Lookup(wishes)
    for same_table in lookup.by_relation.values():
        for key in same_table[0].shape.children:
            taking = [
                wish
                for wish in same_table
                if key.provided(wish.now) is not None
                and key.provided(wish.now) != key.provided(after(wish))
                # Those who refer to a key that changes follow it.
                and not (wish.then is not None and key.on_update == "c")
            ]
            values = [[(w.now or {})[name] for name in key.parent_columns] for w in taking]
            moving = {
                dump([(wish.now or {}).get(name) for name in key.child_key])
                for wish in lookup.by_relation.get(key.child, ())
                if key.referred(wish.now) != key.referred(after(wish))
            }
            limit = shapes.CHILDREN + len(moving)
            rows = shapes.existing_children(connection, audit_schema, key, values, limit)
            by_wish: dict[int, list[Row]] = {}
            for number, row in rows:
                if not key.child_key or dump([row[n] for n in key.child_key]) not in moving:
                    by_wish.setdefault(number, []).append(row)
            for number, children in by_wish.items():
                yield taking[number], key, children, len(rows) == limit


def _child_blocks(
    found: Found, wish: Wish, key: ForeignKey, children: Sequence[Row], *, many: bool
) -> None:
    count = f"{len(children)}{' or more' if many else ''}"
    first = ", ".join(_short(children[0][name]) for name in key.child_key)
    action = key.on_delete if wish.then is None else key.on_update
    effect = {
        "c": "they would be deleted with it",
        "n": "they would lose their reference",
        "d": "they would get the default reference",
    }.get(action, "they have to go first")
    why = f"{count} of {key.child} refer to it (such as {first}): {effect}"
    choices = _BOTH if action in {"c", "n", "d"} else _SKIP
    if wish.then is None:
        found.add("child_blocks", wish.subject, wish.record, (), why, choices)
    else:
        found.add(
            "child_blocks", wish.subject, wish.record, key.parent_columns, why, choices, "fields"
        )


def _is_required(shape: Shape, name: str) -> bool:
    column = shape.by_name[name]
    return column.required and not column.default and not column.generated


def _record(shape: Shape, row: Row) -> Record:
    return Record(shape.audited.schema, shape.audited.name, shape.key_of(row))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def _short(value: Any) -> str:
    text = dump(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
