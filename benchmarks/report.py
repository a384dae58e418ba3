"""The tables and the chart of what was measured. Nothing here measures or decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Final

from benchmarks.figures import Spread, ratio, ratios, spread

BEGIN: Final = "<!-- benchmarks: what follows is written by `make bench` -->"
END: Final = "<!-- benchmarks: end -->"

_VERBS: Final = ("insert", "update", "delete")
_CHART: Final = "benchmarks.svg"
_NOTHING: Final = "–"
_OURS: Final = "audit_app"
_OFTEN: Final = "bulk writes of up to 10,000 rows, single rows and flushes"
_READS: Final = {
    "record": "history of one record",
    "actor": "last 50 of an actor in a month",
    "newest": "newest 50",
    "deep": "50, half a million back, by key",
    "count": "count for an actor in a month",
    "feed": "newest 50 transactions with their changes, as the feed shows them",
    "feed-deep": "the same, half a million changes back",
}
_PAGES: Final = {
    "feed": "the feed",
    "record": "a record",
    "actor": "an actor, a month",
    "transaction": "a transaction",
}

Cell = Callable[[str], str]
"""From a contestant's name to what stands in its row."""


@dataclass(frozen=True)
class _Results:
    """The document of a run, as the tables ask for it."""

    found: Mapping[str, Any]

    @property
    def contestants(self) -> Mapping[str, Any]:
        listed: Mapping[str, Any] = self.found["contestants"]
        return listed

    def has(self, prefix: str) -> bool:
        return any(workload.startswith(prefix) for workload in self.found["measured"])

    def rounds(self, workload: str) -> Mapping[str, Any]:
        values: Mapping[str, Any] = self.found["measured"].get(workload, {})
        return values

    def to_bare(self, workload: str, name: str) -> Spread | None:
        return ratio(self.rounds(workload), name, self.contestants[name]["bare"])

    def to_floor(self, workload: str, name: str) -> Spread | None:
        """How many times the floor's own ratio to its bare table."""
        values = self.rounds(workload)
        bare, floor = self.contestants[name]["bare"], self.contestants.get("floor")
        if bare is None or floor is None or not {name, bare, "floor", "bare"} <= values.keys():
            return None
        own = ratios(values[name], values[bare])
        return spread(ratios(own, ratios(values["floor"], values[floor["bare"]])))

    def bare_cell(self, workload: str) -> Cell:
        return lambda name: spread_text(self.to_bare(workload, name))

    def floor_cell(self, workload: str) -> Cell:
        return lambda name: spread_text(self.to_floor(workload, name))

    def names(self, *, trails_only: bool = False) -> list[str]:
        return [
            name
            for name, contestant in self.contestants.items()
            if contestant["bare"] and (contestant["distribution"] or not trails_only)
        ]


def number(value: float) -> str:
    """Return a figure with as many digits as it deserves."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def spread_text(found: Spread | None) -> str:
    """Return ``median (quartile–quartile)``."""
    if found is None:
        return _NOTHING
    return f"{number(found.median)} ({number(found.low)}–{number(found.high)})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; cells may hold anything but line breaks."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def _by_contestant(
    results: _Results, columns: Mapping[str, Cell], *, trails_only: bool = False
) -> str:
    """A row for each contestant, with what it stores at the end."""
    rows = [
        [
            results.contestants[name]["title"],
            *(cell(name) for cell in columns.values()),
            results.contestants[name]["stores"],
        ]
        for name in results.names(trails_only=trails_only)
    ]
    return table(["", *columns, "stores"], rows)


def _bulk(results: _Results) -> list[str]:
    sizes = results.found["options"]["rows"]
    parts = []
    for verb in _VERBS:
        of_size = {f"{rows:,}": f"bulk/{verb}/{rows}" for rows in sizes}
        bare = {f"{size} rows": results.bare_cell(work) for size, work in of_size.items()}
        floor = {f"{size} rows": results.floor_cell(work) for size, work in of_size.items()}
        parts += [
            f"### Bulk {verb}",
            "Times the same statement on the bare table:",
            _by_contestant(results, bare),
            "Times the floor:",
            _by_contestant(results, floor, trails_only=True),
            f"CPU time of the server's process, times that of {_OURS}, whose row has microseconds:",
            table(["", *bare], _cpu_rows(results, verb)),
        ]
    return parts


def _cpu_rows(results: _Results, verb: str) -> list[list[str]]:
    """Who is ahead of whom, as exactly as it can be told on a busy machine."""

    def cell(name: str, rows: int) -> str:
        measured = results.rounds(f"bulk-cpu/{verb}/{rows}")
        if name != _OURS:
            return spread_text(ratio(measured, name, _OURS))
        values = measured.get(name, [])
        own = spread_text(spread([value and 1e6 * value / rows for value in values]))
        return own if own == _NOTHING else f"{own} µs"

    return [
        [contestant["title"], *(cell(name, rows) for rows in results.found["options"]["rows"])]
        for name, contestant in results.contestants.items()
    ]


def _single(results: _Results) -> list[str]:
    def added(name: str) -> str:
        values, bare = results.rounds("single"), results.contestants[name]["bare"]
        if name not in values or bare not in values:
            return _NOTHING
        pairs = zip(values[name], values[bare], strict=True)
        return spread_text(spread([1e6 * (one - other) for one, other in pairs]))

    def trips(name: str) -> str:
        values = results.rounds("trips").get(name)
        return f"{values[0]:g}" if values else _NOTHING

    def alone(name: str) -> str:
        values, bare = results.rounds("clients/1"), results.contestants[name]["bare"]
        if name not in values or bare not in values:
            return _NOTHING
        return spread_text(spread(ratios(values[bare], values[name])))

    columns: dict[str, Cell] = {
        "transaction, × bare": results.bare_cell("single"),
        "more than bare, µs": added,
        "its messages alone, × bare": alone,
        "2 clients, tps kept": results.bare_cell("clients/2"),
        "8 clients, tps kept": results.bare_cell("clients/8"),
        "round trips": trips,
        "actor": lambda name: results.contestants[name]["actor"],
    }
    bare = {
        contestant["title"]: results.rounds("trips").get(name)
        for name, contestant in results.contestants.items()
        if contestant["bare"] is None
    }
    of_bare = ", ".join(f"{title} {values[0]:g}" for title, values in bare.items() if values)
    return [
        "### One row in a transaction, with its actor",
        _by_contestant(results, columns),
        f"Round trips without a trail: {of_bare}." if of_bare else "",
    ]


def _after_single(results: _Results) -> list[str]:
    def seconds(name: str) -> str:
        values = results.rounds("after-single").get(name)
        if not values:
            return _NOTHING
        if any(value is None for value in values):
            return "over 15 s"
        return spread_text(spread(values)) + " s"

    return [
        "### A bulk update of 10,000 rows after three single-row updates in the same session",
        _by_contestant(results, {"seconds": seconds}),
    ]


def _flush(results: _Results) -> list[str]:
    columns = {
        f"{clean:,} unchanged objects, × bare": results.bare_cell(f"flush/{clean}")
        for clean in (0, 30_000)
    }
    return [
        "### Flush and commit of one changed object",
        _by_contestant(results, columns),
        "Django has no unit of work, so there is nothing to compare.",
    ]


def _reads(results: _Results) -> list[str]:
    def cell(workload: str) -> Cell:
        return lambda name: spread_text(spread(results.rounds(workload).get(name, [])))

    known = [name for name in results.names() if results.contestants[name]["reads"]]
    columns = {title: cell(f"reads/{read}") for read, title in _READS.items()}
    rows = [[title, *(of_read(name) for name in known)] for title, of_read in columns.items()]
    titles = [results.contestants[name]["title"].split(",")[0] for name in known]
    return [
        f"### Reads, {results.found['options']['activities']:,} activities, milliseconds",
        table(["", *titles], rows),
        "Stored: "
        + "; ".join(
            f"{title}: {results.contestants[name]['stores']}, indexes on "
            + ", ".join(
                columns.removeprefix("btree ")
                for listed in list(results.contestants[name]["indexes"].values())[:1]
                for columns in listed
            )
            for title, name in zip(titles, known, strict=True)
        )
        + ".",
    ]


def _pages(results: _Results) -> list[str]:
    rows = [
        [title, spread_text(spread(results.rounds(f"pages/{page}").get("audit_app", [])))]
        for page, title in _PAGES.items()
    ]
    return [
        "### Pages over HTTP, milliseconds",
        table(["", "audit_app"], rows),
        "None of the others has pages of its own; django-pghistory shows events in Django's admin.",
    ]


def _storage(results: _Results) -> list[str]:
    def cell(verb: str) -> Cell:
        def text(name: str) -> str:
            values = results.rounds(f"storage/{verb}").get(name)
            return f"{values[0]:.0f}" if values else _NOTHING

        return text

    def indexes(name: str) -> str:
        listed = list(results.contestants[name]["indexes"].values())
        return str(len(listed[0])) if listed else _NOTHING

    columns: dict[str, Cell] = {verb: cell(verb) for verb in _VERBS}
    return [
        "### Storage, bytes for each changed row, indexes included",
        _by_contestant(results, {**columns, "indexes": indexes}, trails_only=True),
    ]


_PARTS: Final = {
    "bulk/": _bulk,
    "single": _single,
    "after-single": _after_single,
    "flush/": _flush,
    "reads/": _reads,
    "pages/": _pages,
    "storage/": _storage,
}


def markdown(found: Mapping[str, Any]) -> str:
    """Return what was measured as Markdown, beginning with what it depends on."""
    results = _Results(found)
    machine = found["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    settings = ", ".join(f"{name} = {value}" for name, value in found["settings"].items())
    computer = (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory'] / 2**30:.0f} GiB, "
        f"{machine['system']}; load at the start {machine['load']:.1f}."
    )
    rounds = found["options"]["rounds"]
    often = rounds * found["options"]["often"]
    parts = [
        f"`{found['command']}`, {found['date']}",
        computer,
        f"{versions}. Server: {settings}.",
        f"Medians with the quartiles, of {rounds} interleaved rounds; {_OFTEN} have {often}.",
    ]
    for prefix, part in _PARTS.items():
        if results.has(prefix) or (part is _single and results.has("clients/")):
            parts += part(results)
    return "\n\n".join(part for part in parts if part) + "\n"


def write(found: Mapping[str, Any], docs: Path) -> None:
    """Replace the measured section of ``benchmarks.md`` in ``docs``, and the chart beside it.

    :raises ValueError: if the document has no such section.
    """
    document = docs / "benchmarks.md"
    text = document.read_text(encoding="utf-8")
    section = f"![Times the bare table]({_CHART})\n\n{markdown(found)}"
    document.write_text(with_section(text, section), encoding="utf-8")
    (docs / _CHART).write_text(chart(found), encoding="utf-8")


def with_section(text: str, section: str) -> str:
    """Return a document with another text between the marks.

    :raises ValueError: if the marks are not there.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"The document needs the line {BEGIN} once, and then {END} once.")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{section}\n{END}{rest.split(END)[1]}"


# -- The chart -------------------------------------------------------------------------------------

_WIDTH, _LABEL, _BAR, _GAP, _PANEL = 760, 210, 18, 6, 46
_COLOURS: Final = {"audit_app": "#1f6feb", "floor": "#b8bfc6"}
_PEER: Final = "#8a6d9c"


def chart(found: Mapping[str, Any]) -> str:
    """Return bars of the ratios to the bare table as SVG: a panel for each of four workloads."""
    results = _Results(found)
    rows = max((size for size in found["options"]["rows"] if size <= 10_000), default=0)
    workloads = {f"bulk {verb}, {rows:,} rows": f"bulk/{verb}/{rows}" for verb in _VERBS}
    workloads["single-row update transaction"] = "single"
    top, parts = 44, []
    for title, workload in workloads.items():
        bars = [
            (name, found_ratio)
            for name in results.names()
            if (found_ratio := results.to_bare(workload, name)) is not None
        ]
        if bars:
            parts.append(_panel(results, title, bars, top))
            top += _PANEL + len(bars) * (_BAR + _GAP)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top}" role="img" '
        'font-family="system-ui, sans-serif" font-size="13">\n'
        "<title>Times the bare table: medians, with quartiles</title>\n"
        f'<rect width="{_WIDTH}" height="{top}" fill="#ffffff"/>\n'
        '<text x="12" y="26" font-size="15" font-weight="600" fill="#1f2328">'
        "Times the same work on the bare table (shorter is better)</text>\n"
        + "".join(parts)
        + "</svg>\n"
    )


def _panel(results: _Results, title: str, bars: Sequence[tuple[str, Spread]], top: int) -> str:
    longest = max(max(found.high, found.median) for _, found in bars)
    scale = (_WIDTH - _LABEL - 80) / longest
    lines = [
        f'<text x="12" y="{top + 18}" font-weight="600" fill="#1f2328">{escape(title)}</text>\n'
    ]
    for place, (name, found) in enumerate(bars):
        y = top + 28 + place * (_BAR + _GAP)
        middle, width = y + _BAR / 2, found.median * scale
        low, high = _LABEL + found.low * scale, _LABEL + found.high * scale
        label = escape(results.contestants[name]["title"])
        lines.append(
            f'<text x="{_LABEL - 8}" y="{middle + 4.5:.1f}" text-anchor="end" fill="#1f2328">'
            f"{label}</text>\n"
            f'<rect x="{_LABEL}" y="{y}" width="{width:.1f}" height="{_BAR}" '
            f'fill="{_COLOURS.get(name, _PEER)}"/>\n'
            f'<path d="M{low:.1f} {middle}H{high:.1f}" stroke="#1f2328" stroke-width="1.5"/>\n'
            f'<text x="{max(high, _LABEL + width) + 6:.1f}" y="{middle + 4.5:.1f}" '
            f'fill="#1f2328">{number(found.median)}</text>\n'
        )
    return "".join(lines)
