"""No page reads or sorts more of the trail than it shows, with and without partitions."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg2
import pytest
import sqlalchemy as sa

from benchmarks.fill import Size, fill
from tests.server import Server
from tests.web.site import Site

pytestmark = pytest.mark.xdist_group("plans")

ACTIVITIES = 40_000
SORTED = 1_000
"""Rows that a sort of a page may hold: fifty transactions with eight changes each, and one more."""


@pytest.fixture(scope="module", params=[None, "month"], ids=["one table", "partitions"])
def filled(request: pytest.FixtureRequest, server: Server) -> Iterator[tuple[Site, Size]]:
    """A site whose trail is large enough for the planner to prefer its indexes."""
    with server.database() as url:
        site = Site(url, partition_by=request.param)
        # In the months to come, for which there are partitions.
        end = datetime.now(UTC) + timedelta(days=80)
        size = Size(ACTIVITIES, records=2_000, actors=50, years=0.2, ends=end.date().isoformat())
        connection = psycopg2.connect(Server.dsn(url))
        connection.autocommit = True
        fill(connection, size)
        with connection.cursor() as cursor:
            cursor.execute("VACUUM ANALYZE")
        connection.close()
        yield site, size
        site.close()


def addresses(site: Site, size: Size) -> dict[str, str]:
    """Return each kind of page, by its name."""
    with site.engine.connect() as connection:
        one = connection.execute(
            sa.text(
                "SELECT min(id), max(id), max(transaction_id), max(issued_at)"
                " FROM audit.activity WHERE object_id = :key"
            ),
            {"key": str(size.record)},
        ).one()
    first, last, transaction, moment = one
    record = f"/audit/records/public/article/{size.record}"
    early = f"{size.start + (size.end - size.start) / 3:%Y-%m-%dT%H:%M}"
    return {
        "feed": "/audit/",
        "feed, far back": f"/audit/?to={early}",
        "feed of a record": f"/audit/?table=article&record={size.record}",
        "actor": f"/audit/actors/{size.actor}?period=24h",
        "people": "/audit/actors/",
        "record": record,
        "record at a moment": f"{record}?at={moment:%Y-%m-%dT%H:%M:%S}",
        "field": f"{record}?field=title",
        "version": f"/audit/versions/{last}",
        "comparison": f"/audit/compare/public/article/{size.record}?from={first}&to={last}",
        "change": f"/audit/activities/{last}",
        "transaction": f"/audit/transactions/{transaction}",
        "search": f"/audit/search/?q={size.record}",
    }


PAGES = (
    "feed", "feed, far back", "feed of a record", "actor", "people", "record",
    "record at a moment", "field", "version", "comparison", "change", "transaction", "search",
)  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
def test_a_page_reads_by_indexes_and_sorts_no_more_than_it_shows(
    filled: tuple[Site, Size], page: str
) -> None:
    site, size = filled
    address = addresses(site, size)[page]
    sent: list[tuple[str, Any]] = []

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        sent.append((statement, parameters))

    sa.event.listen(site.engine, "before_cursor_execute", note)
    try:
        # A search that fits one record leads to it.
        assert site.client.get(address).status_code in {200, 302}
    finally:
        sa.event.remove(site.engine, "before_cursor_execute", note)
    # Beside a query that calls functions goes the context that they would need if they wrote.
    queries = [(s.rpartition(";\n")[2], p) for s, p in sent if " audit." in s]
    assert queries
    for statement, parameters in queries:
        for node in nodes(site, statement, parameters):
            name = str(node.get("Relation Name", ""))
            of_the_trail = name.startswith(("activity", "transaction"))
            is_empty = not node.get("Actual Rows") and not node.get("Rows Removed by Filter")
            assert not (node["Node Type"] == "Seq Scan" and of_the_trail and not is_empty), (
                name,
                statement,
            )
            if "Sort" in node["Node Type"] and node["Actual Loops"]:
                assert node["Actual Rows"] <= SORTED, (node, statement)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_compiles_nothing_twice(filled: tuple[Site, Size], page: str) -> None:
    site, size = filled
    address = addresses(site, size)[page]
    site.compiled_by(address)
    assert site.compiled_by(address) == []


def nodes(site: Site, statement: str, parameters: Any) -> Iterator[dict[str, Any]]:
    """Run a query of a page as the page does; yield the nodes of its plan."""
    with site.engine.connect() as connection:
        connection.execute(sa.text("SET LOCAL search_path = pg_catalog, pg_temp"))
        explained = connection.exec_driver_sql(
            f"EXPLAIN (ANALYZE, FORMAT JSON, TIMING OFF) {statement}", parameters
        ).scalar_one()
    waiting = [explained[0]["Plan"]]
    while waiting:
        node = waiting.pop()
        waiting += node.get("Plans", [])
        yield node
