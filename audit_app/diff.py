"""What changed, as values: fields, words within a text, leaves within a JSON document.

Pure functions. How a difference looks is the business of the pages.
"""

from __future__ import annotations

import difflib
import re
import time
from collections import deque
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import Any, Final, Literal, NamedTuple

from diff_match_patch import diff_match_patch

ChangeKind = Literal["added", "removed", "changed", "unchanged", "moved"]
SegmentKind = Literal["equal", "insert", "delete"]
TextMethod = Literal["words", "lines", "ends"]
Path = tuple[str | int, ...]


class _Absent(Enum):
    """A type of one value, so that ``is ABSENT`` narrows for type checkers."""

    ABSENT = "ABSENT"

    def __repr__(self) -> str:
        return "ABSENT"

    def __bool__(self) -> bool:
        return False


ABSENT: Final = _Absent.ABSENT
"""Stands where there is no value at all, which is not the same as a stored null."""


@dataclass(frozen=True)
class FieldChange:
    """One field of a changed row.

    :ivar old: the value before; :data:`ABSENT` if the field did not exist.
    :ivar new: the value after; :data:`ABSENT` if the field does not exist any more.
    """

    field: str
    old: Any
    new: Any
    kind: ChangeKind


@dataclass(frozen=True)
class LeafChange:
    """One changed leaf of a JSON document.

    :ivar path: keys and list positions from the root; positions are those of the new document,
        for a removed item those of the old one.
    :ivar moved_from: the position that an item had in its list before it was moved.
    """

    path: Path
    old: Any
    new: Any
    kind: ChangeKind
    moved_from: int | None = None


@dataclass(frozen=True)
class Segment:
    """A stretch of text that was kept, inserted or deleted."""

    kind: SegmentKind
    text: str


@dataclass(frozen=True)
class TextDiff:
    """Two texts compared.

    :ivar method: how: word by word; by whole lines, because the texts are long; or only between
        their common beginning and end, because even that would take too long.
    """

    segments: tuple[Segment, ...]
    method: TextMethod

    @property
    def old(self) -> str:
        """The old text, reassembled."""
        return "".join(s.text for s in self.segments if s.kind != "insert")

    @property
    def new(self) -> str:
        """The new text, reassembled."""
        return "".join(s.text for s in self.segments if s.kind != "delete")


# -- Fields ------------------------------------------------------------------------------------


def changes(
    verb: str,
    old_data: Mapping[str, Any] | None,
    changed_data: Mapping[str, Any] | None,
    *,
    unchanged: bool = False,
) -> tuple[FieldChange, ...]:
    """Return the fields that an activity changed.

    An insert and a baseline are all additions, a delete all removals. An update compares
    ``old_data`` with ``old_data || changed_data``: what ``changed_data`` names has changed, because
    the trigger compares stored images and so sees more than Python's ``==`` does (10 and 10.0).

    :param verb: ``activity.verb``; truncations and marks change no field.
    :param unchanged: whether the fields that an update left alone follow the changed ones.
    """
    old, new = old_data or {}, changed_data or {}
    if verb in {"insert", "baseline"}:
        return tuple(FieldChange(field, ABSENT, value, "added") for field, value in new.items())
    if verb == "delete":
        return tuple(FieldChange(field, value, ABSENT, "removed") for field, value in old.items())
    if verb != "update":
        return ()
    changed = tuple(
        FieldChange(field, old.get(field, ABSENT), value, "changed" if field in old else "added")
        for field, value in new.items()
    )
    if not unchanged:
        return changed
    return changed + tuple(
        FieldChange(field, value, value, "unchanged")
        for field, value in old.items()
        if field not in new
    )


def between(
    old: Mapping[str, Any] | None, new: Mapping[str, Any] | None, *, unchanged: bool = False
) -> tuple[FieldChange, ...]:
    """Compare two states of a row.

    :param old: None where the row did not exist.
    :param new: None where the row does not exist any more.
    :param unchanged: whether the fields that are alike follow the others.
    """
    a, b = old or {}, new or {}
    tokens = _Tokens()
    changed, same = [], []
    for name in [*a, *(name for name in b if name not in a)]:
        before, after = a.get(name, ABSENT), b.get(name, ABSENT)
        if before is ABSENT:
            changed.append(FieldChange(name, before, after, "added"))
        elif after is ABSENT:
            changed.append(FieldChange(name, before, after, "removed"))
        elif tokens.of(before) != tokens.of(after):
            changed.append(FieldChange(name, before, after, "changed"))
        else:
            same.append(FieldChange(name, before, after, "unchanged"))
    return (*changed, *same) if unchanged else tuple(changed)


# -- Text --------------------------------------------------------------------------------------

_WORDS = re.compile(r"\w+|\s+|[^\w\s]")
_LINES = re.compile(r"[^\n]*\n|[^\n]+")
_LONGEST_TEXT = 200_000  # characters that still differ, to cut into words
_MOST_TOKENS = (
    20_000  # to compare; above, the algorithm's steps between two looks at the clock grow
)
_FEWEST_LINES = 4  # below, a comparison by lines would find nothing


def text_diff(old: str, new: str, *, seconds: float = 0.5) -> TextDiff:
    """Compare two texts word by word; by lines or only at their ends where they are too long.

    Whatever the method, :attr:`TextDiff.old` and :attr:`TextDiff.new` are the given texts.

    :param seconds: after this time what is left is shown as replaced.
    """
    prefix = _common_prefix(old, new)
    suffix = _common_prefix(old[prefix:][::-1], new[prefix:][::-1])
    # Back to the nearest ends of words, so that a word is replaced as a whole.
    prefix = _word_start(old, new, prefix)
    suffix = _word_end(old, new, suffix, prefix)
    middle = old[prefix : len(old) - suffix], new[prefix : len(new) - suffix]
    method, segments = _compare(*middle, seconds=seconds)
    if prefix:
        segments.insert(0, Segment("equal", old[:prefix]))
    if suffix:
        segments.append(Segment("equal", old[len(old) - suffix :]))
    return TextDiff(tuple(_aligned(list(_tidy(segments)))), method)


def _compare(old: str, new: str, *, seconds: float) -> tuple[TextMethod, list[Segment]]:
    if seconds > 0 and len(old) + len(new) <= _LONGEST_TEXT:
        old_words, new_words = _WORDS.findall(old), _WORDS.findall(new)
        if len(old_words) + len(new_words) <= _MOST_TOKENS:
            return "words", _diff_tokens(old_words, new_words, seconds)
    old_lines, new_lines = _LINES.findall(old), _LINES.findall(new)
    if seconds > 0 and _FEWEST_LINES <= len(old_lines) + len(new_lines) <= _MOST_TOKENS:
        return "lines", _diff_tokens(old_lines, new_lines, seconds)
    return "ends", _replaced(old, new)


def _replaced(old: str, new: str) -> list[Segment]:
    pair = [Segment("delete", old), Segment("insert", new)]
    return [segment for segment in pair if segment.text]


def _diff_tokens(old: list[str], new: list[str], seconds: float) -> list[Segment]:
    kinds: dict[int, SegmentKind] = {-1: "delete", 0: "equal", 1: "insert"}
    segments, i, j = [], 0, 0
    for op, length in _runs(old, new, seconds):
        tokens = new[j : j + length] if op == 1 else old[i : i + length]
        segments.append(Segment(kinds[op], "".join(tokens)))
        i, j = i + (length if op <= 0 else 0), j + (length if op >= 0 else 0)
    return segments


def _runs(
    old: Sequence[Hashable], new: Sequence[Hashable], seconds: float
) -> list[tuple[int, int]]:
    """Run the character algorithm over one character for each different token.

    :return: runs of tokens that were deleted (-1), kept (0) or inserted (1), with their lengths.
    """
    codes: dict[Hashable, str] = {}
    for token in (*old, *new):
        codes.setdefault(token, chr(len(codes) + 1))
    engine = diff_match_patch()
    engine.Diff_Timeout = seconds
    found = engine.diff_main(
        "".join(codes[token] for token in old),
        "".join(codes[token] for token in new),
        False,  # noqa: FBT003 - the library's signature: no first pass over lines
    )
    return [(op, len(text)) for op, text in found]


def _tidy(segments: list[Segment]) -> Iterator[Segment]:
    """Join neighbours: between two replaced words a lone space is part of what was replaced."""
    deleted: list[str] = []
    inserted: list[str] = []
    for index, segment in enumerate(segments):
        if segment.kind == "delete":
            deleted.append(segment.text)
        elif segment.kind == "insert":
            inserted.append(segment.text)
        elif deleted and inserted and segment.text.isspace() and _replaces(segments, index + 1):
            deleted.append(segment.text)
            inserted.append(segment.text)
        else:
            yield from _replaced("".join(deleted), "".join(inserted))
            deleted, inserted = [], []
            yield segment
    yield from _replaced("".join(deleted), "".join(inserted))


def _aligned(segments: list[Segment]) -> list[Segment]:
    """Let a lone insertion or deletion begin with its word, and not with the space before it."""
    for index in range(1, len(segments) - 1):
        before, edit, after = segments[index - 1 : index + 2]
        if edit.kind == "equal" or before.kind != "equal" or after.kind != "equal":
            continue
        space = edit.text[: len(edit.text) - len(edit.text.lstrip(" "))]
        if space and space != edit.text and after.text.startswith(space):
            segments[index - 1] = Segment("equal", before.text + space)
            segments[index] = Segment(edit.kind, edit.text[len(space) :] + space)
            segments[index + 1] = Segment("equal", after.text[len(space) :])
    return [segment for segment in segments if segment.text]


def _replaces(segments: list[Segment], index: int) -> bool:
    kinds = {segment.kind for segment in segments[index : index + 2]}
    return kinds == {"delete", "insert"}


def _common_prefix(a: Sequence[Any], b: Sequence[Any]) -> int:
    """Return the length of the common beginning, by bisection: slices compare at C speed."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


_LONGEST_WORD = 200  # characters to go back for the end of a word


def _word_start(old: str, new: str, at: int) -> int:
    position = at
    while position and at - position < _LONGEST_WORD and _inside_word(old, new, position):
        position -= 1
    return at if at - position == _LONGEST_WORD else position


def _inside_word(old: str, new: str, at: int) -> bool:
    """Tell whether a cut at ``at`` would go through a word of one of the texts."""
    before = old[at - 1].isalnum()
    return before and any(at < len(text) and text[at].isalnum() for text in (old, new))


def _word_end(old: str, new: str, length: int, prefix: int) -> int:
    position = length
    while position and length - position < _LONGEST_WORD:
        first = old[len(old) - position]
        cuts = [len(text) - position - 1 for text in (old, new)]
        whole = not any(
            cut >= prefix and text[cut].isalnum()
            for cut, text in zip(cuts, (old, new), strict=True)
        )
        if not first.isalnum() or whole:
            return position
        position -= 1
    return length if length - position == _LONGEST_WORD else position


# -- JSON --------------------------------------------------------------------------------------

_MOST_PAIRS = 250_000  # comparisons to align two lists; above, the algorithm for texts does it


def identical(a: Any, b: Any) -> bool:
    """Tell whether two JSON values are stored alike: 10 is not 10.0, 1 is not true."""
    tokens = _Tokens()
    return tokens.of(a) == tokens.of(b)


def json_diff(old: Any, new: Any, *, seconds: float = 0.5) -> Iterator[LeafChange]:
    """Yield the changed leaves of two JSON documents, in document order.

    An object or list that exists on one side only is one leaf; an item that stands elsewhere in
    its list is one leaf of the kind ``moved``. Depth is no limit: nothing here recurses.

    :param seconds: to align long lists; after that, items are paired by position.
    """
    tokens, ends = _Tokens(), time.monotonic() + seconds
    waiting: list[_Pair] = [_Pair((), old, new)]
    while waiting:
        path, a, b, moved_from = waiting.pop()
        if moved_from is not None:
            yield LeafChange(path, a, b, "moved", moved_from)
        elif a is ABSENT or b is ABSENT:
            kind: ChangeKind = "added" if a is ABSENT else "removed"
            yield LeafChange(path, a, b, kind)
        elif tokens.of(a) == tokens.of(b):
            continue
        elif isinstance(a, Mapping) and isinstance(b, Mapping):
            keys = [*a, *(key for key in b if key not in a)]
            pairs = [_Pair((*path, key), a.get(key, ABSENT), b.get(key, ABSENT)) for key in keys]
            waiting.extend(reversed(pairs))
        elif isinstance(a, list) and isinstance(b, list):
            waiting.extend(reversed(list(_pair_items(path, a, b, tokens, ends))))
        else:
            yield LeafChange(path, a, b, "changed")


class _Pair(NamedTuple):
    path: Path
    old: Any
    new: Any
    moved_from: int | None = None


def _pair_items(
    path: Path, a: list[Any], b: list[Any], tokens: _Tokens, ends: float
) -> Iterator[_Pair]:
    ids = [tokens.of(item) for item in a], [tokens.of(item) for item in b]
    ranges = list(_replaced_ranges(*ids, ends))
    moves = _moves(*ids, ranges)
    gone = set(moves.values())
    for a_from, a_to, b_from, b_to in ranges:
        left = iter([i for i in range(a_from, a_to) if i not in gone])
        for j in range(b_from, b_to):
            if j in moves:
                yield _Pair((*path, j), a[moves[j]], b[j], moves[j])
                continue
            i = next(left, None)
            yield _Pair((*path, j), ABSENT if i is None else a[i], b[j])
        for i in left:
            yield _Pair((*path, i), a[i], ABSENT)


def _moves(
    a: Sequence[int], b: Sequence[int], ranges: Sequence[tuple[int, int, int, int]]
) -> dict[int, int]:
    """Return the new positions of items that left one place and came to another, with the old."""
    left: dict[int, deque[int]] = {}
    for a_from, a_to, _, _ in ranges:
        for i in range(a_from, a_to):
            left.setdefault(a[i], deque()).append(i)
    return {
        j: left[b[j]].popleft()
        for _, _, b_from, b_to in ranges
        for j in range(b_from, b_to)
        if left.get(b[j])
    }


def _replaced_ranges(
    a: Sequence[int], b: Sequence[int], ends: float
) -> Iterator[tuple[int, int, int, int]]:
    first = _common_prefix(a, b)
    last = _common_prefix(a[first:][::-1], b[first:][::-1])
    a, b = a[first : len(a) - last], b[first : len(b) - last]
    seconds = ends - time.monotonic()
    if len(a) * len(b) <= _MOST_PAIRS:
        matcher = difflib.SequenceMatcher(None, a, b, autojunk=False)
        ranges = [codes for tag, *codes in matcher.get_opcodes() if tag != "equal"]
    elif seconds > 0 and len(a) + len(b) <= _MOST_TOKENS:
        ranges = _ranges_of(_runs(a, b, seconds))
    else:
        same = min(len(a), len(b))
        ranges = [[k, k + 1, k, k + 1] for k in range(same) if a[k] != b[k]]
        ranges.append([same, len(a), same, len(b)])
    for a_from, a_to, b_from, b_to in ranges:
        yield first + a_from, first + a_to, first + b_from, first + b_to


def _ranges_of(runs: list[tuple[int, int]]) -> list[list[int]]:
    ranges: list[list[int]] = []
    i = j = 0
    replaces = False
    for op, length in runs:
        if op == 0:
            i, j, replaces = i + length, j + length, False
            continue
        if not replaces:
            ranges.append([i, i, j, j])
        i, j, replaces = i + (length if op < 0 else 0), j + (length if op > 0 else 0), True
        ranges[-1][1], ranges[-1][3] = i, j
    return ranges


class _Tokens:
    """Numbers JSON values so that two have the same number exactly if they are stored alike.

    Each value is visited once, however often it is asked for: comparing at every level of a deep
    document would take the square of its size.
    """

    def __init__(self) -> None:
        self._numbers: dict[Any, int] = {}
        self._known: dict[int, int] = {}  # by id(): the documents outlive this object
        self._kept: list[Any] = []

    def of(self, value: Any) -> int:
        if not isinstance(value, Mapping | list):
            return self._number(_scalar(value))
        if id(value) in self._known:
            return self._known[id(value)]
        self._kept.append(value)
        waiting = [value]
        while waiting:
            current = waiting[-1]
            items = list(current.values()) if isinstance(current, Mapping) else current
            unknown = [
                item
                for item in items
                if isinstance(item, Mapping | list) and id(item) not in self._known
            ]
            if unknown:
                waiting.extend(unknown)
                continue
            waiting.pop()
            numbers = tuple(self._of_known(item) for item in items)
            if isinstance(current, Mapping):
                shape: Any = ("object", frozenset(zip(current, numbers, strict=True)))
            else:
                shape = ("list", numbers)
            self._known[id(current)] = self._number(shape)
        return self._known[id(value)]

    def _of_known(self, item: Any) -> int:
        if isinstance(item, Mapping | list):
            return self._known[id(item)]
        return self._number(_scalar(item))

    def _number(self, shape: Any) -> int:
        return self._numbers.setdefault(shape, len(self._numbers))


def _scalar(value: Any) -> tuple[str, str]:
    # By text: Decimal("10.0") and Decimal("10.00") are equal, have one hash, and are two values.
    return type(value).__name__, value if isinstance(value, str) else repr(value)


# -- Texts of JSON values ----------------------------------------------------------------------


def number_text(value: float | Decimal) -> str:
    """Return a stored number as PostgreSQL prints it: digits, never an exponent."""
    if isinstance(value, Decimal) and value.is_finite():
        return format(value, "f")
    return str(value)
