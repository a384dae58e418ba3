"""What each safety measure of the capture costs.

    python -m benchmarks.safety

Takes one measure at a time out of the installed functions, and compares with them as they are:
single-row update transactions, and a bulk update of 10,000 rows in one statement. Runs are
interleaved; printed are medians of the ratios to the same statement on a table without triggers.
Works on an embedded server of its own.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import sqlalchemy as sa
from sqlalchemy.orm import declarative_base

import demo.server
from audit_app import AuditLogger

ROWS = 10_000
TABLE = "(id int PRIMARY KEY, title text, body text, rating numeric, at timestamptz, n int)"
CAPTURE = "audit.capture_public_article()"

Variant = Callable[[str], str]


def _without(pattern: str, replacement: str = "") -> Variant:
    def change(definition: str) -> str:
        changed, times = re.subn(pattern, replacement, definition, flags=re.DOTALL)
        if not times:
            raise SystemExit(f"{pattern!r} is not in the capture function any more")
        return changed

    return change


_PINS = (
    r' SET "?(TimeZone|DateStyle|IntervalStyle|bytea_output|extra_float_digits|lc_monetary'
    r'|standard_conforming_strings|array_nulls)"? TO [^\n]+\n'
)

_LARGE = (
    r" \|\| CASE WHEN greatest\(.*? ELSE '\{\}' END"
    r"(?=,|\n| \|\| CASE WHEN num_nulls)"
)
_NULLS = r" \|\| CASE WHEN num_nulls\(.*?\]\) ELSE '\{\}' END"
_ONE_ROW = r"        IF NOT EXISTS \(SELECT FROM old_table.*?RETURN NULL;\n        END IF;\n"

VARIANTS: dict[str, Variant] = {
    "as it is": lambda definition: definition,
    "client settings not fixed": _without(_PINS),
    "no SECURITY DEFINER, no SET": lambda definition: _without(r" SET search_path TO [^\n]+\n")(
        _without(_PINS)(_without(r" SECURITY DEFINER\n")(definition))
    ),
    "no check for alterations": _without(r"TG_RELID = \d+ AND [^;]+;", "true;"),
    "no check for suspension": _without(r"    IF coalesce\(current_setting.*?END IF;\n"),
    "no limit of size": _without(_LARGE),
    "no search for nulls": _without(_NULLS),
    "no statement for one row": _without(_ONE_ROW),
}


def definition_of(cursor: Any) -> str:
    cursor.execute(f"SELECT pg_get_functiondef('{CAPTURE}'::regprocedure)")
    return str(cursor.fetchone()[0])


@contextmanager
def prepared(directory: Path) -> Iterator[Any]:
    """An open cursor on a database with a tracked table, and an untracked twin of it."""
    url = demo.server.start(directory, {"fsync": "off", "synchronous_commit": "off"})
    logger = AuditLogger()
    logger.init(declarative_base())
    engine = sa.create_engine(url)
    with engine.begin() as opened:
        logger.install(opened)
    engine.dispose()
    plain = sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    connection = psycopg2.connect(plain)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            for table in ("article", "bare"):
                cursor.execute(f"CREATE TABLE {table} {TABLE}")
                cursor.execute(
                    f"INSERT INTO {table} SELECT g, 'title ' || g, repeat('lorem ipsum ', 20), "
                    f"g / 3.0, now(), g FROM generate_series(1, {ROWS}) AS g"
                )
            cursor.execute("SELECT audit.audit_table('article')")
            yield cursor
    finally:
        connection.close()
        demo.server.stop(directory)
        demo.server.delete(directory)


def seconds(cursor: Any, table: str, rows: int) -> float:
    """Time one update: of ``rows`` rows at once, or of 200 rows in 200 transactions."""
    if rows == 1:
        start = time.perf_counter()
        for number in range(200):
            cursor.execute(f"UPDATE {table} SET n = n + 1, title = 't' WHERE id = {number + 1}")
        return (time.perf_counter() - start) / 200
    cursor.execute(f"VACUUM {table}")
    start = time.perf_counter()
    cursor.execute(f"UPDATE {table} SET n = n + 1, title = 't' || n")
    return time.perf_counter() - start


def empty_the_trail(cursor: Any) -> None:
    for table in ("activity", "transaction"):
        cursor.execute(
            f"ALTER TABLE audit.{table} DISABLE TRIGGER append_only; TRUNCATE audit.{table};"
            f"ALTER TABLE audit.{table} ENABLE ALWAYS TRIGGER append_only"
        )


def measure(cursor: Any, rounds: int) -> dict[str, dict[str, float]]:
    """Return for each variant the medians of the ratios to the untracked table."""
    original = definition_of(cursor)
    ratios: dict[str, dict[str, list[float]]] = {
        name: {"single": [], "bulk": []} for name in VARIANTS
    }
    for _ in range(rounds):
        # In another order each time: the first one would bear what the last one left behind.
        for name, variant in random.sample(list(VARIANTS.items()), len(VARIANTS)):
            cursor.execute(variant(original))
            empty_the_trail(cursor)
            for kind, rows in (("single", 1), ("bulk", ROWS)):
                seconds(cursor, "article", 1)  # plans are made
                bare = seconds(cursor, "bare", rows)
                ratios[name][kind].append(seconds(cursor, "article", rows) / bare)
    cursor.execute(original)
    return {
        name: {kind: statistics.median(values) for kind, values in kinds.items()}
        for name, kinds in ratios.items()
    }


def main() -> None:
    """Measure, and print a table or a JSON document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with prepared(Path(tempfile.mkdtemp(prefix="audit-bench-"))) as cursor:
        found = measure(cursor, options.rounds)
    if options.json:
        print(json.dumps(found, indent=2))
        return
    print(f"times an update without triggers; medians of {options.rounds} interleaved rounds")
    print(f"{'':30} single row   {ROWS:,} rows")
    for name, values in found.items():
        print(f"{name:30} {values['single']:10.2f} {values['bulk']:13.2f}")


if __name__ == "__main__":
    main()
