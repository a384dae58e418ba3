"""How one stored value looks: what it is, its text, whether it has to be folded."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, Literal

from audit_app.diff import ABSENT, Path, number_text

Kind = Literal[
    "absent", "null", "empty", "boolean", "number", "text", "json", "code", "binary", "masked"
]

SHORT: Final = 60
"""Characters up to which a value stands in a line of the feed."""

LONG: Final = 400
"""Characters from which a value is folded."""

_MOST_LINES = 7

_AMBIGUOUS = re.compile(r"(?:null|true|false|none|-?[0-9][0-9.,eE+-]*|[\[{\"“].*)\s*", re.DOTALL)


@dataclass(frozen=True)
class Value:
    """One stored value.

    :ivar text: what to print; for the kinds ``absent``, ``null``, ``empty`` and ``masked`` the kind
        says all. Of a ``binary`` its size.
    :ivar quoted: a text that would read as another kind of value without its quotes.
    :ivar label: what it means to people, beside the stored value; may be empty.
    :ivar url: the record that it points at; may be empty.
    :ivar digest: of a ``binary`` its SHA-256, in hexadecimal.
    """

    kind: Kind
    text: str
    quoted: bool = False
    label: str = ""
    url: str = ""
    digest: str = ""

    @property
    def is_short(self) -> bool:
        """Whether it fits into a line."""
        return len(self.text) <= SHORT and "\n" not in self.text

    @property
    def is_long(self) -> bool:
        """Whether it has to be folded."""
        return len(self.text) > LONG or self.text.count("\n") > _MOST_LINES

    @property
    def head(self) -> str:
        """The beginning, for the line that unfolds the rest."""
        return " ".join(self.text[: 2 * SHORT].split())[:SHORT]


MASKED: Final = {"$audit": "masked"}
"""What the trail holds in place of the value of a masked column."""


def stored_value(value: Any) -> Value:
    """Return how the value of a column looks; the trail's mark for a masked one as such."""
    return Value("masked", "") if value == MASKED else value_of(value)


def value_of(value: Any) -> Value:  # noqa: PLR0911 - one return for each kind
    """Return how ``value`` looks: null, absent, "", false, 0 and "0" all differ."""
    if value is ABSENT:
        return Value("absent", "")
    if value is None:
        return Value("null", "null")
    if isinstance(value, bool):
        return Value("boolean", "true" if value else "false")
    if isinstance(value, int | float | Decimal):
        return Value("number", number_text(value))
    if isinstance(value, str):
        if not value:
            return Value("empty", "")
        doubtful = _AMBIGUOUS.fullmatch(value) is not None or value != value.strip()
        return Value("text", value, quoted=doubtful)
    if isinstance(value, Mapping | list):
        text = json_text(value)
        return Value("json", text if len(text) > SHORT else json_text(value, indent=None))
    return Value("text", str(value))


@dataclass(frozen=True)
class Raw:
    """A JSON document that is printed as it is stored."""

    text: str


_NUMBER = re.compile(r'"\\u0000([^"\\]*)\\u0000"')


def json_line(value: Any) -> str:
    """Return ``value`` as JSON in one line, as :func:`json_text` does, and many times faster.

    The encoder knows no exact numbers: they pass as texts between two NULs, which no text of the
    database can hold.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, default=_marked)
    except (TypeError, RecursionError):
        return json_text(value, indent=None)
    return _NUMBER.sub(r"\1", text) if "\\u0000" in text else text


def _marked(value: object) -> str:
    if isinstance(value, Decimal):
        return f"\x00{number_text(value)}\x00"
    raise TypeError


_INDENT_LIMIT = 40
"""Levels that are indented; deeper ones would be mostly blanks."""


def json_text(value: Any, *, indent: int | None = 2) -> str:
    """Return ``value`` as JSON, with numbers as they are stored; depth is no limit."""
    return "".join(_json_pieces(value, indent))


def _json_pieces(value: Any, indent: int | None) -> Iterator[str]:
    def newline(level: int) -> str:
        return "" if indent is None else "\n" + " " * (indent * min(level, _INDENT_LIMIT))

    # Pieces still to print, the next one last: texts as they are, values with their level.
    waiting: list[tuple[Any, int | None]] = [(value, 0)]
    while waiting:
        item, level = waiting.pop()
        if level is None:
            yield item
        elif isinstance(item, Mapping) and item:
            pieces = [
                (f"{newline(level + 1)}{_quote(key)}: ", entry) for key, entry in item.items()
            ]
            waiting.extend(_members("{", pieces, f"{newline(level)}}}", level + 1, indent))
        elif isinstance(item, list) and item:
            pieces = [(newline(level + 1), entry) for entry in item]
            waiting.extend(_members("[", pieces, f"{newline(level)}]", level + 1, indent))
        else:
            yield _scalar_text(item)


def _members(
    opening: str, pieces: list[tuple[str, Any]], closing: str, level: int, indent: int | None
) -> Iterable[tuple[Any, int | None]]:
    comma = "," if indent is not None else ", "
    stack: list[tuple[Any, int | None]] = [(opening, None)]
    for number, (before, entry) in enumerate(pieces):
        stack.append(((comma if number else "") + before, None))
        stack.append((entry, level))
    stack.append((closing, None))
    stack.reverse()
    return stack


def _quote(text: object) -> str:
    return json.dumps(str(text), ensure_ascii=False)


def _scalar_text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int | float | Decimal):
        return number_text(value)
    if isinstance(value, Raw):
        return value.text
    if isinstance(value, Mapping):
        return "{}"
    return "[]" if isinstance(value, list) else _quote(value)


_PLAIN_KEY = re.compile(r"[^\W\d][\w-]*")
_PATH_ENDS = 12  # parts of a long path that are shown at either end


def path_text(path: Path) -> str:
    """Return a path into a JSON document: ``address.lines[0]["post code"]``.

    The middle of a very long one is left out.
    """
    if len(path) > 3 * _PATH_ENDS:
        left_out = len(path) - 2 * _PATH_ENDS
        return f"{path_text(path[:_PATH_ENDS])} … ({left_out}) … {path_text(path[-_PATH_ENDS:])}"
    text = ""
    for part in path:
        if isinstance(part, str) and _PLAIN_KEY.fullmatch(part):
            text += f".{part}" if text else part
        else:
            text += f"[{part}]" if isinstance(part, int) else f"[{_quote(part)}]"
    return text
