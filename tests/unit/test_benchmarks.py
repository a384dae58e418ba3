"""The pure parts of the benchmarks: figures, tables, the chart, what pgbench is told."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from benchmarks import contestants, fill, replay, report
from benchmarks.bench import QUICK, SETTINGS, WORKLOADS, Bench, chosen
from benchmarks.figures import Spread, ratio, ratios, spread
from benchmarks.progress import Progress
from benchmarks.workers.__main__ import serve


def test_a_spread_is_the_median_with_the_quartiles() -> None:
    assert Spread.of([5, 1, 4, 2, 3]) == Spread(3, 2, 4)
    assert Spread.of([7]) == Spread(7, 7, 7)
    with pytest.raises(ValueError, match="No value"):
        Spread.of([])


def test_a_ratio_is_of_values_of_the_same_round() -> None:
    # The second round was disturbed, for both alike.
    measured = {"audited": [4.0, 40.0, 4.0], "bare": [2.0, 20.0, 2.0]}
    assert ratio(measured, "audited", "bare") == Spread(2, 2, 2)
    assert ratio(measured, "audited", None) is None
    assert ratio(measured, "audited", "absent") is None


def test_a_timeout_leaves_no_figure() -> None:
    assert ratios([1.0, None], [2.0, 2.0]) == [0.5, None]
    assert spread([0.5, None]) is None
    assert spread([]) is None


def test_every_contestant_is_divided_by_a_bare_table_of_its_own_side() -> None:
    for contestant in contestants.ALL:
        if contestant.bare is not None:
            assert contestants.BY_NAME[contestant.bare].side == contestant.side
            assert contestants.BY_NAME[contestant.bare].bare is None
    assert [c.name for c in chosen(["pghistory"])] == ["bare", "bare-django", "floor", "pghistory"]


def _found() -> dict[str, Any]:
    """A run of two rounds, made up."""
    names = ["bare", "floor", "audit_app", "flask-audit-logger"]
    bulk = {"bare": [1, 2], "floor": [2, 4], "audit_app": [3, 6], "flask-audit-logger": [9, 20]}
    return {
        "date": "2030-01-01T00:00+00:00",
        "command": "python -m benchmarks.bench",
        "machine": {
            "processor": "A|B", "cores": 2, "memory": 2**33, "system": "Linux", "load": 0.5,
        },
        "versions": {"PostgreSQL": "18.6"},
        "settings": SETTINGS,
        "options": {"rounds": 2, "often": 4, "rows": [100], "activities": 1000},
        "contestants": {
            name: {**vars(contestants.BY_NAME[name]), "indexes": {"a": ["btree (id)"]}}
            for name in names
        },
        "measured": {
            **{f"bulk/{verb}/100": bulk for verb in ("insert", "update", "delete")},
            **{f"bulk-cpu/{verb}/100": bulk for verb in ("insert", "update", "delete")},
            "single": {name: [value / 1000 for value in bulk[name]] for name in names},
            "trips": {name: [3.0] for name in names},
            "after-single": {"bare": [1, 1], "audit_app": [0.5, 0.5], "flask-audit-logger": [None]},
            "flush/0": bulk,
            "reads/record": {"audit_app": [1.0, 2.0], "flask-audit-logger": [100.0, 200.0]},
            "pages/feed": {"audit_app": [10.0]},
            "storage/insert": {"audit_app": [700.0], "flask-audit-logger": [600.0]},
        },
        "failed": {},
    }  # fmt: skip


def _row(text: str, heading: str, title: str) -> list[str]:
    table = text.split(f"### {heading}")[1]
    line = next(line for line in table.splitlines() if line.startswith(f"| {title} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_tables_show_ratios_to_the_bare_table_and_to_the_floor() -> None:
    text = report.markdown(_found())
    assert _row(text, "Bulk update", "audit_app")[1] == "3.00 (3.00–3.00)"
    assert _row(text, "Bulk update", "flask-audit-logger")[1] == "9.50 (9.25–9.75)"
    to_floor = text.split("### Bulk update")[1].split("Times the floor:")[1]
    assert _row("### x" + to_floor, "x", "audit_app")[1] == "1.50 (1.50–1.50)"
    cpu = text.split("### Bulk update")[1].split("CPU time")[1]
    assert _row("### x" + cpu, "x", "audit_app")[1] == "45,000 (37,500–52,500) µs"
    assert _row("### x" + cpu, "x", "flask-audit-logger")[1] == "3.17 (3.08–3.25)"
    assert _row(text, "One row", "audit_app")[2] == "3,000 (2,500–3,500)"
    assert _row(text, "One row", "audit_app")[6] == "3"
    assert _row(text, "A bulk update of 10,000", "flask-audit-logger")[1] == "over 15 s"
    assert _row(text, "A bulk update of 10,000", "floor")[1] == "–"
    assert _row(text, "Reads", "history of one record")[1:] == [
        "1.50 (1.25–1.75)", "150 (125–175)",
    ]  # fmt: skip
    assert _row(text, "Storage", "audit_app")[1] == "700"


def test_beside_every_figure_stands_what_is_stored() -> None:
    text = report.markdown(_found())
    for heading in ("Bulk insert", "One row", "A bulk update", "Flush", "Storage"):
        for name in ("audit_app", "flask-audit-logger"):
            assert _row(text, heading, name)[-1] == contestants.BY_NAME[name].stores
    assert "synchronous_commit = off" in text
    assert "of 2 interleaved rounds" in text
    assert "flushes have 8." in text
    assert "`python -m benchmarks.bench`, 2030-01-01" in text


def test_a_cell_cannot_break_its_table() -> None:
    assert report.table(["a|b"], [["c"]]).splitlines()[0] == r"| a\|b |"


def test_the_chart_is_svg_with_a_bar_for_each_contestant() -> None:
    root = ET.fromstring(report.chart(_found()))
    texts = ["".join(element.itertext()) for element in root]
    assert texts.count("audit_app") == 4
    assert "bulk delete, 100 rows" in texts
    widths = [float(element.attrib["width"]) for element in root if element.tag.endswith("rect")][
        1:4
    ]
    assert widths[0] < widths[1] < widths[2]  # floor, audit_app, flask-audit-logger


def test_only_the_part_between_the_marks_is_replaced() -> None:
    text = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
    assert report.with_section(text, "new") == (
        f"before\n{report.BEGIN}\n\nnew\n{report.END}\nafter\n"
    )
    with pytest.raises(ValueError, match="needs the line"):
        report.with_section("no marks", "new")


def test_a_run_writes_the_document_and_the_chart(tmp_path: Path) -> None:
    (tmp_path / "benchmarks.md").write_text(f"# B\n{report.BEGIN}\n{report.END}\n")
    report.write(_found(), tmp_path)
    report.write(_found(), tmp_path)
    text = (tmp_path / "benchmarks.md").read_text()
    assert text.count("### Bulk update") == text.count("(benchmarks.svg)") == 1
    assert (tmp_path / "benchmarks.svg").read_text() == report.chart(_found())


def test_recorded_messages_become_a_script_that_writes_other_rows_and_values() -> None:
    messages = [
        "BEGIN",
        "SELECT set_config('x.id', '0d36bb09-0c3a-4f0b-8a35-0a1fd4b0a1c9', true); "
        f"UPDATE article SET n = {replay.VALUE}, title = 'title {replay.VALUE}'\n"
        f"WHERE id = {replay.KEY}",
        "COMMIT",
    ]
    assert replay.as_script(messages, rows=500).splitlines() == [
        r"\set key random(1, 500)",
        r"\set value random(1, 1000000000)",
        "BEGIN;",
        r"SELECT set_config('x.id', gen_random_uuid()::text, true)\; "
        "UPDATE article SET n = :value, title = 'title :value' WHERE id = :key;",
        "COMMIT;",
    ]
    with pytest.raises(ValueError, match="update no record"):
        replay.as_script(["COMMIT"], rows=500)


def test_a_trail_to_load_holds_what_its_size_says() -> None:
    size = fill.Size(3_000_000, ends="2030-01-01")
    assert (size.transactions, size.per_record, size.deep) == (1_000_000, 15, 500_000)
    since, until = size.month
    assert (until - since).days == 30
    assert size.start < since < until < size.end


def test_a_worker_answers_every_order() -> None:
    class Doubling:
        orders = {"double": lambda number: 2 * number}  # noqa: RUF012

    answers = io.StringIO()
    orders = io.StringIO(
        '{"do": "double", "number": 4}\n{"do": "halve"}\n{"do": "double", "number": 1}\n'
    )
    serve(Doubling(), orders, answers)
    first, second, third = [json.loads(line) for line in answers.getvalue().splitlines()]
    assert (first, third) == ({"is": 8}, {"is": 2})
    assert "KeyError" in second["error"]


def test_progress_is_a_line_for_each_step_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    progress = Progress(2, stream)
    progress.step("one")
    progress.step("two")
    progress.end()
    assert [line.split()[-2:] for line in stream.getvalue().splitlines()] == [
        ["0/2", "one"], ["1/2", "two"],
    ]  # fmt: skip


def test_the_number_of_steps_is_known_before() -> None:
    bench = Bench(QUICK, [], None, None, Progress(0))  # type: ignore[arg-type]
    assert bench.steps(list(WORKLOADS)) > bench.steps(["bulk"]) == 27
