"""How long the baseline of a large table takes, on a server that writes durably.

python -m benchmarks.backfill               # a million rows
python -m benchmarks.backfill --rows 100000
"""

from __future__ import annotations

import argparse
import itertools
import time
import uuid
from unittest import mock

from audit_app.backfill import Progress, backfill
from audit_app.ddl import AuditedTable
from tests import server as servers
from tests.trail import Trail, install

_DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
_ROWS = (
    "INSERT INTO big SELECT i, 'name ' || i, i * 1.5, now(), jsonb_build_object('a', i) "
    "FROM generate_series(1, :rows) AS i"
)


def main() -> None:
    """Fill a table, track it, write its baseline, and look for more to write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    with (
        mock.patch.dict(servers._SETTINGS, _DURABLE),
        servers.running(uuid.uuid4().hex[:8], "backfill") as server,
        server.database() as url,
    ):
        trail = Trail(url)
        install(trail.engine)
        print(trail.value("SELECT version()"))
        trail.run(
            "CREATE TABLE big (id bigint PRIMARY KEY, name text, price numeric, at timestamptz, "
            "doc jsonb)"
        )
        trail.run(_ROWS, rows=rows)
        trail.track("big")
        for _ in range(2):
            _measure(trail)
        trail.close()


def _measure(trail: Trail) -> None:
    moments = [time.perf_counter()]

    def note(_: Progress) -> None:
        moments.append(time.perf_counter())

    table = AuditedTable("audit", None, "big")
    (done,) = backfill(trail.engine, trail.logger.trail, [table], progress=note)
    longest = max(b - a for a, b in itertools.pairwise(moments[1:]))
    print(
        f"{done.rows} rows, {done.added} recorded: {moments[-1] - moments[0]:.1f} s, "
        f"the longest batch {longest:.2f} s"
    )


if __name__ == "__main__":
    main()
