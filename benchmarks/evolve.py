"""How long a column's new name takes to reach the history of a large table.

python -m benchmarks.evolve               # a million activities, beside as many of another table
python -m benchmarks.evolve --rows 100000
"""

from __future__ import annotations

import argparse
import time
import uuid
from unittest import mock

from benchmarks.backfill import _DURABLE
from tests import server as servers
from tests.trail import Trail, install

_ROWS = (
    "INSERT INTO {} SELECT i, 'name ' || i, i * 1.5, now(), jsonb_build_object('a', i) "
    "FROM generate_series(1, :rows) AS i"
)
_CALL = (
    "SELECT audit.evolve('rename_column', 'public', 'big', '{\"column\": \"%s\", \"to\": \"%s\"}')"
)


def main() -> None:
    """Record many inserts, rename a column in them, and back."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    with (
        mock.patch.dict(servers._SETTINGS, _DURABLE),
        servers.running(uuid.uuid4().hex[:8], "evolve") as server,
        server.database() as url,
    ):
        trail = Trail(url)
        install(trail.engine)
        print(trail.value("SELECT version()"))
        for table in ("big", "other"):
            trail.run(
                f"CREATE TABLE {table} (id bigint PRIMARY KEY, name text, price numeric, "
                "at timestamptz, doc jsonb)"
            )
            trail.track(table)
            trail.run(_ROWS.format(table), rows=rows)
        for names in (("name", "title"), ("title", "name")):
            start = time.perf_counter()
            trail.script(_CALL % names)
            print(f"{names[0]} to {names[1]}: {time.perf_counter() - start:.1f} s")
        trail.close()


if __name__ == "__main__":
    main()
