"""The differences of an activity, as frozen values: fields, words, leaves."""

from __future__ import annotations

import dataclasses
import itertools
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import tzinfo
from typing import Any, Literal

from audit_app import diff, models
from audit_app.admin.describing import Describer
from audit_app.admin.distances import number_distance
from audit_app.admin.i18n import gettext as _
from audit_app.admin.i18n import number_text
from audit_app.admin.links import Links
from audit_app.admin.pages import Actor, Moment, Row, actor_of, moment_of, row_of, sort_fields
from audit_app.admin.values import Value, json_text, path_text, value_of


@dataclass(frozen=True)
class Stretch:
    """A stretch of a text.

    :ivar folded: too long to stand in the open.
    """

    kind: str
    text: str
    folded: bool = False

    @property
    def size(self) -> str:
        """Its length, for the line that unfolds it."""
        return number_text(len(self.text))


Layout = Literal["plain", "sides", "words", "leaves"]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Two values, and how their difference is shown.

    :ivar layout: ``plain`` values, two ``sides`` of a short text, the ``words`` of a long one in
        one flow, or the ``leaves`` of a JSON value.
    :ivar distance: how far the value moved, in words; may be empty.
    :ivar note: what the eye may miss, or how the comparison was shortened; may be empty.
    :ivar url: its own history; may be empty.
    """

    kind: str
    old: Value
    new: Value
    layout: Layout = "plain"
    before: tuple[Stretch, ...] = ()
    after: tuple[Stretch, ...] = ()
    words: tuple[Stretch, ...] = ()
    distance: str = ""
    note: str = ""
    url: str = ""


@dataclass(frozen=True, kw_only=True)
class Leaf(Difference):
    """A changed leaf of a JSON value.

    :ivar moved: where an item of a list was and is; may be empty.
    """

    path: str
    moved: str = ""


@dataclass(frozen=True, kw_only=True)
class Field(Difference):
    """A field of a changed row.

    :ivar name: of the column.
    :ivar label: what the application calls it; may be empty.
    """

    name: str
    label: str = ""
    leaves: tuple[Leaf, ...] = ()


_MOST_LEAVES = 200
_SIDE = 120  # characters up to which both texts stand side by side
_CONTEXT = 160  # unchanged characters that stay open around a change
_FOLD_FROM = 600
_LONGEST_WORDS = 20_000  # inserted or deleted characters that stand in the open


@dataclass
class Budget:
    """The seconds that a page may spend on comparing texts."""

    seconds: float = 1.0
    _ends: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._ends = time.monotonic() + self.seconds

    @property
    def left(self) -> float:
        """What is left, for one text half a second at the most."""
        return max(0.0, min(0.5, self._ends - time.monotonic()))


@dataclass(frozen=True)
class States:
    """A row before and after, with the table that it is of."""

    schema_name: str
    table_name: str
    old: Mapping[str, Any]
    new: Mapping[str, Any]


def field_of(
    change: diff.FieldChange, budget: Budget, describes: Describer, states: States
) -> Field:
    """Return how the difference of one field is shown."""
    place = (states.schema_name, states.table_name)
    column = describes.column(*place, change.field)
    old, new = describes.value(column, change.old), describes.value(column, change.new)
    plain = Field(
        name=change.field,
        label=describes.field(*place, change.field),
        kind=change.kind,
        old=describes.formatted_value(*place, old, change.field, states.old),
        new=describes.formatted_value(*place, new, change.field, states.new),
        distance=describes.distance(column, change),
    )
    if change.kind != "changed" or {"binary", "masked"} & {old.kind, new.kind}:
        return plain
    if column.is_prose and _are_texts(change.old, change.new):
        return dataclasses.replace(plain, **_compared(change.old, change.new, budget))
    both = (change.old, change.new)
    if all(isinstance(value, Mapping) for value in both) or all(
        isinstance(value, list) for value in both
    ):
        return _json_field(change, plain, budget)
    return plain


def _are_texts(old: Any, new: Any) -> bool:
    return isinstance(old, str) and isinstance(new, str) and bool(old) and bool(new)


def _compared(old: str, new: str, budget: Budget) -> dict[str, Any]:
    """Compare two texts; return the attributes of the difference that tell about it."""
    found = diff.text_diff(old, new, seconds=budget.left)
    segments = found.segments
    kept = sum(len(s.text.replace(" ", "")) for s in segments if s.kind == "equal")
    longest = max(len(old), len(new))
    if longest <= _SIDE and "\n" not in old + new:
        if kept * 4 < longest:
            return {}  # next to nothing in common: marking words would only be noise
        stretches = tuple(Stretch(s.kind, s.text) for s in segments)
        return {
            "layout": "sides",
            "before": tuple(s for s in stretches if s.kind != "insert"),
            "after": tuple(s for s in stretches if s.kind != "delete"),
            "note": _invisible(old, new),
        }
    notes = {
        "words": "",
        "lines": _("Long texts: compared line by line."),
        "ends": _("Too long to compare: everything between the common beginning and end is shown "
                  "as replaced."),
    }  # fmt: skip
    return {
        "layout": "words",
        "words": tuple(_stretches(segments)),
        "note": notes[found.method] or _invisible(old, new),
    }


def _invisible(old: str, new: str) -> str:
    """Say so where two texts look alike."""
    if old.replace("\r\n", "\n") == new.replace("\r\n", "\n"):
        return _("Only the line endings differ.")
    if "".join(old.split()) == "".join(new.split()):
        return _("Only white space differs.")
    printable = ["".join(c for c in text if c.isprintable()) for text in (old, new)]
    return _("Only invisible characters differ.") if printable[0] == printable[1] else ""


def _word_end(text: str, at: int) -> int:
    """Return where the word ends that ``at`` stands in; ``at`` for a very long one."""
    end = re.compile(r"\S{0,40}").match(text, at)
    return at if end is None or end.end() - at == 40 else end.end()


def _stretches(segments: Sequence[diff.Segment]) -> Iterable[Stretch]:
    """Fold what is unchanged and far from a change, and what is very long."""
    for number, segment in enumerate(segments):
        text = segment.text
        if segment.kind != "equal":
            yield Stretch(segment.kind, text, folded=len(text) > _LONGEST_WORDS)
            continue
        head = _word_end(text, _CONTEXT) if number else 0
        tail = _word_end(text[: -3 * _CONTEXT : -1], _CONTEXT) if number < len(segments) - 1 else 0
        if len(text) - head - tail < _FOLD_FROM:
            yield Stretch("equal", text)
            continue
        if head:
            yield Stretch("equal", text[:head])
        yield Stretch("equal", text[head : len(text) - tail], folded=True)
        if tail:
            yield Stretch("equal", text[len(text) - tail :])


def _json_field(change: diff.FieldChange, plain: Field, budget: Budget) -> Field:
    found = list(
        itertools.islice(
            diff.json_diff(change.old, change.new, seconds=budget.left), _MOST_LEAVES + 1
        )
    )
    if not found:
        return plain
    note = ""
    if len(found) > _MOST_LEAVES:
        note = _("The first %(num)s changes of many; the raw values are below.", num=_MOST_LEAVES)
    leaves = tuple(_leaf(leaf, budget) for leaf in found[:_MOST_LEAVES])
    return dataclasses.replace(plain, layout="leaves", leaves=leaves, note=note)


def _leaf(leaf: diff.LeafChange, budget: Budget) -> Leaf:
    moved, distance = "", ""
    compared: dict[str, Any] = {}
    if leaf.moved_from is not None:
        moved = _("moved from position %(old)s to %(new)s",
                  old=leaf.moved_from, new=leaf.path[-1])  # fmt: skip
    elif leaf.kind == "changed":
        distance = number_distance(leaf.old, leaf.new)
        if _are_texts(leaf.old, leaf.new):
            compared = _compared(leaf.old, leaf.new, budget)
    return Leaf(
        path=path_text(leaf.path) or "·",
        kind=leaf.kind,
        old=value_of(leaf.old),
        new=value_of(leaf.new),
        moved=moved,
        distance=distance,
        **compared,
    )


@dataclass(frozen=True)
class Raw:
    """A stored document.

    :ivar is_open: the only thing that can be shown, so not folded.
    """

    title: str
    text: str
    is_open: bool


@dataclass(frozen=True)
class Change:
    """An activity with its differences.

    :ivar raw_url: where the stored documents are shown that are too long for every visit.
    """

    row: Row
    moment: Moment
    actor: Actor
    transaction_url: str
    reason: str
    fields: tuple[Field, ...]
    unchanged: tuple[Field, ...]
    raw: tuple[Raw, ...] = ()
    raw_url: str = ""
    id: int = 0


def change_of(
    row: Any,
    links: Links,
    zone: tzinfo,
    budget: Budget,
    *,
    describes: Describer,
    order: Sequence[str] = (),
    whole: bool = False,
    long_raw: bool = False,
) -> Change:
    """Return an activity with its differences.

    :param describes: what is known of the values.
    :param whole: whether the unchanged fields and the stored documents are wanted.
    :param long_raw: whether they are wanted even if they are long.
    """
    # What a mark holds reads like a new row.
    verb = "insert" if row.verb in models.MARKS else row.verb
    found = sort_fields(diff.changes(verb, row.old_data, row.changed_data, unchanged=whole), order)
    if not whole and row.verb != "update":
        found = tuple(c for c in found if c.new is not None or c.old not in (None, diff.ABSENT))
    old = row.old_data or {}
    states = States(row.schema_name, row.table_name, old, {**old, **(row.changed_data or {})})
    fields = tuple(field_of(change, budget, describes, states) for change in found)
    raw = _raw(row) if whole else ()
    too_long = not long_raw and sum(len(r.text) for r in raw if not r.is_open) > _LONGEST_RAW
    return Change(
        id=row.id,
        row=row_of(row, links, order, describes),
        moment=moment_of(row.issued_at, zone),
        actor=actor_of(row.t_actor_id, row.t_actor_label, links),
        transaction_url=links.transaction(row.transaction_id),
        reason=row.t_reason or "",
        fields=tuple(f for f in fields if f.kind != "unchanged"),
        unchanged=tuple(f for f in fields if f.kind == "unchanged"),
        raw=tuple(r for r in raw if r.is_open or not too_long),
        raw_url=links.activity(row.id, raw=1) if too_long else "",
    )


_LONGEST_RAW = 200_000
"""Characters of the stored documents up to which every visit gets them."""


def _raw(row: Any) -> tuple[Raw, ...]:
    documents = (("old_data", row.old_data), ("changed_data", row.changed_data))
    return tuple(
        Raw(title, getattr(data, "raw", None) or json_text(data), is_open=hasattr(data, "raw"))
        for title, data in documents
        if data is not None
    )
