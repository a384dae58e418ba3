"""One person's page: totals, charts by day and by hour, addresses, and what bounds them."""

from __future__ import annotations

import itertools
import re
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import sqlalchemy as sa

from audit_app import summary
from tests.web.conftest import MakeSite
from tests.web.site import Node, Page, Site


def add(
    site: Site,
    at: str,
    *changes: tuple[str, str],
    actor: str = "7",
    addr: str | None = None,
) -> int:
    """Put a transaction into the trail: ``changes`` are tables and verbs."""
    with site.engine.begin() as connection:
        id_ = connection.scalar(
            sa.text(
                "INSERT INTO audit.transaction (native_transaction_id, issued_at, actor_id,"
                " actor_label, client_addr, session_user_name, role_name) VALUES ('1', :at, :actor,"
                " 'Person ' || :actor, CAST(:addr AS inet), 'app', 'app') RETURNING id"
            ),
            {"at": at, "actor": actor, "addr": addr},
        )
        for number, (table, verb) in enumerate(changes):
            connection.execute(
                sa.text(
                    "INSERT INTO audit.activity (transaction_id, native_transaction_id, issued_at,"
                    " relid, depth, schema_name, table_name, verb, object_id, old_data,"
                    " changed_data) VALUES (:t, '1', :at, 1, 1, 'public', :table, :verb, :key,"
                    ' \'{"title": "a"}\', \'{"title": "b"}\')'
                ),
                {"t": id_, "at": at, "table": table, "verb": verb, "key": str(number)},
            )
    return int(id_ or 0)


def tile(page: Page, title: str) -> str:
    """Return the text of one of the figures at the top."""
    found = [
        " ".join(node.one("dd").text.split())
        for node in page.one("dl", "au-tiles").children
        if isinstance(node, Node) and node.one("dt").text == title
    ]
    assert len(found) == 1, title
    return found[0]


def bars(page: Page) -> dict[str, Node]:
    """Return the bars of the chart by the first day of each."""
    chart = page.one("svg", "au-days")
    return {node.attributes["data-first"]: node for node in chart.all("a", "au-slot")}


def counted(page: Page) -> dict[str, int]:
    """Return the bars that are not empty, by their first day."""
    numbers = {}
    for first, bar in bars(page).items():
        number = re.search(r": (\d+) changes?$", bar.one("title").text)
        assert number is not None
        if int(number[1]):
            numbers[first] = int(number[1])
            assert bar.all("rect")[1:], "a bar that is not empty has a part"
    return numbers


def test_what_a_person_did_is_summed_up(site: Site) -> None:
    add(site, "2026-03-02 09:10+00", ("article", "insert"), ("article", "update"),
        addr="192.0.2.1")  # fmt: skip
    add(site, "2026-03-02 09:50+00", ("article", "update"), ("slug", "delete"), addr="192.0.2.2")
    add(site, "2026-03-04 23:10+00", ("slug", "update"), addr="192.0.2.1")
    add(site, "2026-03-03 10:00+00", ("rate", "update"), actor="8", addr="192.0.2.9")
    add(site, "2026-01-01 10:00+00", ("rate", "update"), addr="192.0.2.3")
    page = site.get("/audit/actors/7?from=2026-03-01&to=2026-03-08")
    assert tile(page, "Changes") == "5 on 2 days"
    assert tile(page, "First seen").startswith("1 January 2026")
    assert tile(page, "Last seen").startswith("4 March 2026")
    assert counted(page) == {"2026-03-02": 4, "2026-03-04": 1}
    assert len(bars(page)) == 8
    verbs = [" ".join(n.text.split()) for n in page.one("ul", "au-verbs").all("a")]
    assert verbs == ["+Created 1", "~Updated 3", "\N{MINUS SIGN}Deleted 1"]
    tables = [
        (n.one("span", "au-touched-name").text, n.one("span", "au-number").text)
        for n in page.one("ul", "au-touched").all("li")
    ]
    assert tables == [("article", "3"), ("slug", "2")]
    addresses = [n.one("code").text for n in page.one("ul", "au-addresses").all("li")]
    assert addresses == ["192.0.2.1", "192.0.2.2"]
    assert "Mon 09:00 to 09:59: 4 changes" in page.html
    assert "Wed 23:00 to 23:59: 1 change<" in page.html


def test_charts_can_be_read_as_tables_and_hold_no_style(site: Site) -> None:
    add(site, "2026-03-02 09:10+00", ("article", "insert"), ("article", "update"))
    add(site, "2026-03-03 09:10+00", ("article", "delete"))
    page = site.get("/audit/actors/7?from=2026-03-01&to=2026-03-10")
    assert "style=" not in page.html
    days = page.one("figure", "au-chart").one("table")
    assert [th.text for th in days.one("thead").all("th")] == [
        "Day", "Created", "Updated", "Deleted", "All"
    ]  # fmt: skip
    rows = [[cell.text for cell in tr.walk() if cell.tag in {"th", "td"}]
            for tr in days.one("tbody").all("tr")]  # fmt: skip
    assert rows == [["2 March 2026", "1", "1", "0", "2"], ["3 March 2026", "0", "0", "1", "1"]]
    hours = page.one("figure", "au-hours").one("table")
    monday = hours.one("tbody").all("tr")[0]
    assert [td.text for td in monday.all("td")][9] == "2"
    # What is drawn is hidden from those who hear the page; they have the tables.
    for svg in page.one("main").all("svg"):
        hidden = svg.attributes.get("aria-hidden") == "true"
        assert hidden or page.one("div", "au-heat").attributes["aria-hidden"] == "true"
    assert all(bar.attributes["tabindex"] == "-1" for bar in bars(page).values())


def test_each_day_is_a_link_that_keeps_the_other_filters(site: Site) -> None:
    add(site, "2026-03-02 09:10+00", ("article", "insert"))
    page = site.get("/audit/actors/7?from=2026-03-01&to=2026-03-10&table=article&tz=Asia/Tokyo")
    href = bars(page)["2026-03-02"].attributes["href"]
    assert urlsplit(href).path == "/audit/actors/7"
    assert parse_qs(urlsplit(href).query) == {
        "from": ["2026-03-02"], "to": ["2026-03-02"], "table": ["article"], "tz": ["Asia/Tokyo"],
    }  # fmt: skip
    day = site.get(href)
    assert tile(day, "Changes") == "1 on 1 day"
    assert len(day.transactions()) == 1
    # A single day stands within its surroundings, so that the next can be chosen.
    chosen = [first for first, bar in bars(day).items() if "au-slot-out" not in bar.classes]
    assert chosen == ["2026-03-02"]
    assert len(bars(day)) == 30


def test_days_and_hours_are_the_visitors_across_daylight_saving(site: Site) -> None:
    # In Rome, 2024-03-31 begins at 23:00 UTC and ends at 22:00 UTC; its hours jump from 2 to 3.
    add(site, "2024-03-30 22:59:59+00", ("article", "update"))
    add(site, "2024-03-30 23:00:00+00", ("article", "update"))
    add(site, "2024-03-31 00:59:59+00", ("article", "update"))
    add(site, "2024-03-31 01:00:00+00", ("article", "update"))
    add(site, "2024-03-31 21:59:59+00", ("article", "update"))
    add(site, "2024-03-31 22:00:00+00", ("article", "update"))
    page = site.get("/audit/actors/7?from=2024-03-28&to=2024-04-03&tz=Europe/Rome")
    assert counted(page) == {"2024-03-30": 1, "2024-03-31": 4, "2024-04-01": 1}
    for hour in ("00", "01", "03", "23"):
        assert f"Sun {hour}:00 to {hour}:59: 1 change<" in page.html
    assert "Sun 02:00 to 02:59: 0 changes" in page.html
    assert {t.attributes["datetime"][-6:] for t in page.all("time")} == {"+01:00", "+02:00"}
    utc = site.get("/audit/actors/7?from=2024-03-28&to=2024-04-03&tz=UTC")
    assert counted(utc) == {"2024-03-30": 2, "2024-03-31": 4}


def test_without_a_period_the_chart_shows_the_last_days(site: Site) -> None:
    now = datetime.now(UTC)
    add(site, (now - timedelta(minutes=1)).isoformat(), ("article", "update"))
    add(site, (now - timedelta(days=40)).isoformat(), ("article", "update"))
    page = site.get("/audit/actors/7")
    assert (
        page.one("h2", None)
        if False
        else page.one("div", "au-overview-head").one("h2").text == ("Last 30 days")
    )
    assert len(bars(page)) == 30
    assert tile(page, "Changes") == "1 on 1 day"
    assert len(page.transactions()) == 2, "the list itself is of all time, and says so"
    assert "All time, newest first" in page.words


def test_somebody_gone_is_shown_as_they_were(site: Site) -> None:
    add(site, "2020-05-03 12:00+00", ("article", "update"))
    page = site.get("/audit/actors/7")
    assert page.one("div", "au-overview-head").one("h2").text == "30 days up to 3 May 2020"
    assert counted(page) == {"2020-05-03": 1}


@pytest.mark.parametrize(
    ("query", "unit", "number"),
    [
        ("from=2026-01-01&to=2026-04-02", "Day", 92),
        ("from=2026-01-01&to=2026-04-03", "Week", 14),
        ("from=2023-01-01&to=2026-01-31", "Month", 37),
        ("from=0002-01-01&to=2026-01-31", "Month", 37),
        ("from=2025-12-31&to=9990-01-01", None, None),
    ],
)
def test_long_periods_are_shown_by_week_or_month(
    site: Site, query: str, unit: str | None, number: int | None
) -> None:
    add(site, "2023-01-01 12:00+00", ("article", "update"))
    add(site, "2026-01-15 12:00+00", ("article", "update"))
    page = site.get(f"/audit/actors/7?{query}")
    found = list(bars(page).values())
    assert len(found) < 1500
    if number is not None:
        assert len(found) == number
        assert page.one("figure", "au-chart").all("th")[0].text == unit
    # The parts follow each other without a gap.
    for one, following in itertools.pairwise(found):
        last = date.fromisoformat(one.attributes["data-last"])
        assert date.fromisoformat(following.attributes["data-first"]) == last + timedelta(days=1)


def test_the_count_is_bounded_and_says_so(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summary, "COUNTED", 10)
    for day in range(1, 9):
        add(site, f"2026-03-0{day} 12:00+00", ("article", "update"), ("slug", "update"))
    page = site.get("/audit/actors/7?from=2026-03-01&to=2026-03-08")
    assert tile(page, "Changes").startswith("more than 10 on")
    assert (
        "Only the newest 10 changes of the period are counted, back to 3 March 2026" in page.words
    )
    assert float(page.one("rect", "au-uncounted").attributes["width"]) == 2 * 20
    assert max(counted(page)) == "2026-03-08"
    exact = site.get("/audit/actors/7?from=2026-03-04&to=2026-03-08")
    assert tile(exact, "Changes") == "10 on 5 days"
    assert "Beyond the period, the chart shows the newest 10 changes only" in exact.words
    assert "Only the newest" not in exact.words


def test_the_summary_reads_no_more_than_its_bound(site: Site) -> None:
    """Neither many transactions nor a huge one are read to their end."""
    with site.engine.begin() as connection:
        connection.execute(
            sa.text(
                "INSERT INTO audit.transaction (native_transaction_id, issued_at, actor_id,"
                " session_user_name, role_name) SELECT '1', now() - g * interval '1 minute',"
                " (g % 30)::text, 'a', 'a' FROM generate_series(1, 6000) g"
            )
        )
        connection.execute(
            sa.text(
                "INSERT INTO audit.activity (transaction_id, native_transaction_id, issued_at,"
                " relid, depth, schema_name, table_name, verb, object_id) SELECT t.id, '1',"
                " t.issued_at, 1, 1, 'public', 'article', 'update', g::text"
                " FROM audit.transaction t,"
                " generate_series(1, CASE WHEN t.id % 600 = 7 THEN 20000 ELSE 2 END) g"
            )
        )
    with site.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("VACUUM ANALYZE audit.transaction, audit.activity"))
        query = summary.of_actor(
            site.logger.activity_cls, site.logger.transaction_cls, "7", "UTC",
            since=None, until=None, limit=100,
        ).compile(connection)  # fmt: skip
        plan = "\n".join(
            connection.exec_driver_sql(
                f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) {query}", dict(query.params)
            ).scalars()
        )
    assert "transaction_actor_idx" in plan
    assert "activity_transaction_idx" in plan
    assert "Seq Scan" not in plan
    assert max(float(number) for number in re.findall(r"rows=([\d.]+)", plan)) <= 101


def test_a_zone_that_only_python_knows_is_refused(site: Site, monkeypatch: Any) -> None:
    add(site, "2026-03-02 09:10+00", ("article", "insert"))
    monkeypatch.setattr("audit_app.admin.forms.zone_of", lambda name: UTC)
    page = site.get("/audit/actors/7?tz=Mars/Olympus", status=400)
    assert "Mars/Olympus" in page.words


def test_the_form_leads_to_another_person(site: Site) -> None:
    add(site, "2026-03-02 09:10+00", ("article", "insert"))
    add(site, "2026-03-02 09:10+00", ("article", "insert"), actor="..")
    same = site.get("/audit/actors/7?actor=7&table=article")
    assert same.heading == "Person 7"
    other = site.client.get("/audit/actors/7?actor=8&table=article&verb=")
    assert other.status_code == 302
    assert parse_qs(urlsplit(other.location).query) == {"actor": ["8"], "table": ["article"]}
    none = site.client.get("/audit/actors/7?actor=&verb=insert")
    assert parse_qs(urlsplit(none.location).query) == {"verb": ["insert"]}
    # An id that no path can carry goes along in the form.
    odd = site.get("/audit/actors/?id=..")
    form = odd.one("form", "au-filters")
    assert form.attributes["action"] == "/audit/actors/"
    assert [n.attributes["value"] for n in form.all("input") if n.attributes["name"] == "id"] == [
        ".."
    ]


def test_the_overview_is_for_the_first_page_only(site: Site) -> None:
    site.add_transactions(*["2026-11-01 12:00+00"] * 60, actor="7")
    page = site.get("/audit/actors/7")
    assert page.all("svg", "au-days")
    assert not site.get(page.link("Older")).all("svg", "au-days")


def test_queries_do_not_depend_on_what_a_person_did(make_site: MakeSite) -> None:
    site = make_site()
    statements = site.watch()

    def queries(tables: int, changes: int) -> int:
        now = datetime.now(UTC)
        for number in range(changes):
            at = (now - timedelta(hours=7 * number)).isoformat()
            add(site, at, (f"table{number % tables}", "update"), addr=f"192.0.2.{number}")
        site.get("/audit/actors/7")
        statements.clear()
        page = site.get("/audit/actors/7")
        assert page.all("svg", "au-days")
        for statement in statements:
            assert not re.search(r"\bcount\s*\(|\boffset\b", statement, re.IGNORECASE)
        return len(statements)

    assert queries(2, 10) == queries(20, 50)
