"""The one form of filters: what each finds, its chip, and what a wrong value gets."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest
import sqlalchemy as sa

from audit_app import selection
from audit_app.admin import forms
from tests.web.conftest import MakeSite
from tests.web.site import Page, Site


@pytest.fixture
def told(site: Site) -> Site:
    """A site with six transactions that differ in all that can be asked for."""
    site.write("INSERT INTO article (id, title, body) VALUES (1, 'old', 'x')",
               reason="Spring clean-up of 100% of the drafts")  # fmt: skip
    site.write("INSERT INTO slug VALUES ('1', 'old')", reason="an import")
    site.write("UPDATE article SET title = 'new' WHERE id = 1", reason="Clean, then draft")
    site.write("UPDATE article SET body = 'new' WHERE id = 1")
    site.write("DELETE FROM article WHERE id = 1")
    site.write("INSERT INTO rate VALUES ('GB', 'GBP', 1)")
    site.rewrite("UPDATE audit.transaction SET request_id = 'req-' || (id % 2) WHERE id < 5")
    return site


def found(page: Page) -> list[int]:
    return [int(re.findall(r"/transactions/(\d+)", href)[0]) for href in page.transactions()]


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("record=1", [5, 4, 3, 2, 1]),
        ("record=1&table=article", [5, 4, 3, 1]),
        ("record=1&table=article&verb=update", [4, 3]),
        ("record=1&table=rate", []),
        ("record=GB, GBP", [6]),
        ('record=["GB", "GBP"]', [6]),
        ("record=GB", []),
        ("record=1&to=2000-01-01", []),
        ("field=title", [5, 3, 1]),
        ("field=body&verb=update", [4]),
        ("field=title&value=new", [5, 3]),
        ("field=title&value=old", [3, 1]),
        ("field=value&value=old", [2]),
        ("field=nothing", []),
        ("field=title&record=1&table=article&value=old", [3, 1]),
        ("reason=clean", [3, 1]),
        ("reason=CLEAN draft", [3, 1]),
        ("reason=100%", [1]),
        ("reason=1%of", []),
        ("reason=_mport", []),
        ("request=req-1", [3, 1]),
        ("request=req", []),
        ("request=req-0&table=article", [4]),
        ("request=req-1&reason=spring", [1]),
        ("period=1h", [6, 5, 4, 3, 2, 1]),
        ("period=1h&to=2000-01-01", []),
    ],
)
def test_what_each_filter_finds(told: Site, query: str, ids: list[int]) -> None:
    quoted = "&".join(f"{k}={quote(v)}" for k, v in (p.split("=", 1) for p in query.split("&")))
    assert found(told.get(f"/audit/?{quoted}")) == ids


def test_only_the_changes_that_fit_are_shown(told: Site) -> None:
    told.write("INSERT INTO article (id, title) VALUES (7, 'a'), (8, 'b')")
    page = told.get("/audit/?record=8&table=article")
    assert len(page.all("li", "au-row")) == 1
    assert page.one("li", "au-row").one("strong").text == "8"


def test_a_record_is_followed_to_the_key_it_was_given(told: Site) -> None:
    told.write("UPDATE slug SET id = 'renamed' WHERE id = '1'")
    assert found(told.get("/audit/?record=renamed")) == [7]


def test_a_former_name_of_a_field_counts_where_the_table_is_chosen(site: Site) -> None:
    site.Article.__versioned__ = {"formerly": {"columns": {"title": ["headline"]}}}
    site.write("ALTER TABLE article RENAME COLUMN title TO headline")
    first = site.write("INSERT INTO article (id, headline) VALUES (1, 'One')")
    site.write("ALTER TABLE article RENAME COLUMN headline TO title")
    site.logger._forget_places()
    last = site.write("UPDATE article SET title = 'Two'")
    assert found(site.get("/audit/?table=article&field=title")) == [last, first]
    assert found(site.get("/audit/?table=article&field=title&value=One")) == [last, first]


@pytest.mark.parametrize(
    "query",
    [
        "record=1",
        "field=title&value=b",
        "reason=ord",
        "request=r1",
        "period=365d",
        "actor=7&record=1",
    ],
)
def test_every_filter_pages_without_gaps_while_rows_arrive(site: Site, query: str) -> None:
    at = (datetime.now(UTC) - timedelta(days=2)).isoformat()
    site.add_transactions(*[at] * 60, actor="7", rows=2)
    site.add_transactions(*[at] * 60, actor="7", rows=2)
    site.rewrite("UPDATE audit.transaction SET request_id='r1', reason='words'")
    page, seen = site.get(f"/audit/?{query}"), []
    while True:
        seen += found(page)
        assert len(seen) <= 120
        site.add_transactions(datetime.now(UTC).isoformat(), actor="7", rows=2)
        if not any(a.text == "Older" for a in page.all("a")):
            break
        page = site.get(page.link("Older"))
    assert seen == list(range(120, 0, -1))


@pytest.mark.parametrize("query", ["reason=needle", "request=needle", "field=title&value=needle"])
def test_a_search_is_bounded_says_so_and_goes_on(
    site: Site, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    monkeypatch.setattr(selection, "SCAN", 10)
    old = site.write("INSERT INTO article (id, title) VALUES (1, 'needle')", reason="a needle")
    site.rewrite("UPDATE audit.transaction SET request_id = 'needle'")
    site.add_transactions(*["2027-01-01 12:00+00"] * 35)
    page, hops = site.get(f"/audit/?{query}"), 0
    while not page.transactions():
        assert "Searched 10 transactions, to 1 January 2027" in page.words
        further = page.link("Search further")
        assert parse_qs(urlsplit(further).query).keys() >= parse_qs(query).keys()
        page, hops = site.get(further), hops + 1
    assert hops == 3
    assert found(page) == [old]


def test_a_record_with_very_many_changes_is_cut_and_says_so(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "SCAN", 10)
    ids = site.add_transactions(*["2027-01-01 12:00+00"] * 15)
    page = site.get("/audit/?record=0")
    assert found(page) == ids[:4:-1]
    assert "Only the newest 10 changes of this record were searched" in page.words
    assert "Only the newest" not in site.get("/audit/?record=1").words


def test_a_lookup_by_key_walks_no_foreign_transactions(site: Site) -> None:
    site.add_transactions(*["2026-01-01 12:00+00"] * 3, rows=1)
    with site.engine.begin() as connection:
        connection.execute(
            sa.text(
                "INSERT INTO audit.transaction (native_transaction_id, issued_at, actor_id,"
                " session_user_name, role_name) SELECT '1', now(), 'p', 'a', 'a'"
                " FROM generate_series(1, 5000) g"
            )
        )
        connection.execute(
            sa.text(
                "INSERT INTO audit.activity (transaction_id, native_transaction_id, issued_at,"
                " relid, depth, schema_name, table_name, verb, object_id) SELECT id, '1',"
                " issued_at, 1, 1, 'public', 'slug', 'update', 'k' || id FROM audit.transaction"
            )
        )
    with site.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("VACUUM ANALYZE audit.transaction, audit.activity"))
        query = selection.feed(
            site.logger.activity_cls, site.logger.transaction_cls, selection.Filters(keys=("0",))
        ).compile(connection, compile_kwargs={"render_postcompile": True})
        plan = "\n".join(
            connection.exec_driver_sql(
                f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) {query}", dict(query.params)
            ).scalars()
        )
    assert "activity_object_idx" in plan
    assert "Seq Scan on activity" not in plan
    assert max(float(number) for number in re.findall(r"rows=([\d.]+)", plan)) <= 10


EVERY = {
    "actor": "1", "table": "article", "record": "1", "verb": "update", "field": "title",
    "value": "new", "reason": "clean", "request": "req-1", "period": "24h", "from": "2000-01-01",
    "to": "2100-01-01T10:30", "tz": "Europe/Rome",
}  # fmt: skip


def _query(values: dict[str, str]) -> str:
    return "&".join(f"{name}={quote(value)}" for name, value in values.items())


@pytest.mark.parametrize("path", ["/audit/", "/audit/actors/1"])
def test_every_filter_is_a_chip_that_removes_it_alone(site: Site, path: str) -> None:
    site.write("INSERT INTO article (id) VALUES (1)", actor="1")
    page = site.get(f"{path}?{_query(EVERY)}")
    chips = page.all("a", "au-pill")
    assert len(chips) == len(EVERY)
    for name, chip in zip(EVERY, _in_order(chips), strict=True):
        left = parse_qs(urlsplit(chip.attributes["href"]).query)
        gone = {name, "value"} if name == "field" else {name}
        expected = {key: [value] for key, value in EVERY.items() if key not in gone}
        if urlsplit(chip.attributes["href"]).path == "/audit/actors/1":
            left["actor"] = ["1"]
        assert left == expected
        site.get(chip.attributes["href"])


def _in_order(chips: list[Any]) -> list[Any]:
    titles = {
        "Actor": "actor", "Table": "table", "Record": "record", "Change": "verb", "Field": "field",
        "Value": "value", "Reason": "reason", "Request": "request", "Period": "period",
        "From": "from", "To": "to", "Time zone": "tz",
    }  # fmt: skip
    by_name = {titles[chip.all("span")[0].text.rstrip(":")]: chip for chip in chips}
    return [by_name[name] for name in EVERY]


def test_the_form_holds_what_the_address_says(site: Site) -> None:
    page = site.get(f"/audit/?{_query(EVERY)}")
    form = page.one("form", "au-filters")
    shown = {
        n.attributes["name"]: n.attributes.get("value", "")
        for n in form.all("input")
        if n.attributes.get("type") == "text"
    }
    for name in ("actor", "record", "field", "value", "reason", "request", "tz"):
        assert shown[name] == EVERY[name]
    chosen = {
        select.attributes["name"]: option.attributes["value"]
        for select in form.all("select")
        for option in select.all("option")
        if "selected" in option.attributes
    }
    assert chosen == {name: EVERY[name] for name in ("table", "verb", "period")}
    dates = {n.attributes["name"]: n.attributes["value"] for n in form.all("input")
             if n.attributes.get("type") == "datetime-local"}  # fmt: skip
    assert dates == {"from": "2000-01-01T00:00", "to": "2100-01-01T10:30"}
    labels = {n.attributes.get("for") for n in form.all("label")}
    for control in [*form.all("select"), *form.all("input")]:
        if control.attributes.get("type") not in {"checkbox", "hidden"}:
            assert control.attributes["id"] in labels


@pytest.mark.parametrize(
    ("query", "title"),
    [
        ("", "All time, newest first"),
        ("period=7d", "Last 7 days, newest first"),
        ("from=2026-01-02", "Since 2026-01-02, newest first"),
        ("to=2026-01-02T10:00", "Up to 2026-01-02 10:00, newest first"),
        ("from=2026-01-02&to=2026-01-03", "2026-01-02 to 2026-01-03, newest first"),
    ],
)
def test_the_period_is_stated(site: Site, query: str, title: str) -> None:
    site.write("INSERT INTO article (id) VALUES (1)")
    assert title in site.get(f"/audit/?{query}").words


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("table", "nothing"), ("verb", "drop"), ("period", "1 fortnight"), ("from", "soon"),
        ("to", "2026-13-01"), ("tz", "Mars/Olympus"), ("value", "x"), ("record", "a\x00b"),
        ("reason", "\x00"), ("actor", "\x00"), ("request", "\x00"), ("unknown", "\x00"),
        ("from", "\x00"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/audit/", "/audit/actors/1"])
def test_a_wrong_value_is_answered_beside_its_field(
    site: Site, path: str, name: str, value: str
) -> None:
    site.write("INSERT INTO article (id) VALUES (1)", actor="1")
    if name in {"actor", "unknown"}:  # a person's page has its own
        path = "/audit/"
    page = site.get(f"{path}?{_query({'reason': 'kept', name: value})}", status=400)
    at = "field" if name == "value" else name
    message = page.one("span", "au-error")
    assert message.attributes["id"] == f"au-error-{at}"
    assert message.text
    assert page.all(cls="au-errors")
    assert "open" in page.one("details", "au-period").attributes
    if name not in {"reason", "unknown"}:
        form = page.one("form", "au-filters")
        controls = [n for n in form.walk() if n.attributes.get("name") == at]
        assert controls[0].attributes["aria-describedby"] == message.attributes["id"]
        assert controls[0].attributes["aria-invalid"] == "true"
        kept = [n for n in page.all("input") if n.attributes.get("name") == "reason"]
        assert kept[0].attributes["value"] == "kept"


def test_a_period_that_ends_before_it_begins_is_told(site: Site) -> None:
    page = site.get("/audit/?from=2026-01-03&to=2026-01-01", status=400)
    assert page.one("span", "au-error").attributes["id"] == "au-error-to"


def test_a_relative_period_ends_now_and_meets_the_dates() -> None:
    now = datetime(2026, 10, 25, 12, tzinfo=UTC)

    def since(**arguments: str) -> datetime | None:
        given = {name.rstrip("_"): value for name, value in arguments.items()}
        found = forms.filtering(given, tables=[], default_zone="Europe/Rome", now=now)
        assert not found.errors
        return found.filters.since

    assert since(period="24h") == now - timedelta(hours=24)
    assert since(period="1h", from_="2026-01-01") == now - timedelta(hours=1)
    # Midnight in Rome on the day that summer time ends is 22:00 UTC.
    assert since(period="7d", from_="2026-10-25") == datetime(2026, 10, 24, 22, tzinfo=UTC)
    assert since() is None


@pytest.mark.parametrize(
    "path",
    [
        f"/audit/?{_query({**EVERY, 'actor': '1'})}",
        "/audit/?record=1", "/audit/?field=title&value=y1", "/audit/?reason=a", "/audit/?request=a",
        "/audit/?period=1h", f"/audit/actors/1?{_query({**EVERY, 'table': ''})}",
        "/audit/search/?q=article/1", "/audit/search/?q=1", "/audit/search/?q=nobody",
    ],
)  # fmt: skip
def test_no_page_counts_or_skips_or_asks_more_for_more(make_site: MakeSite, path: str) -> None:
    site = make_site()
    statements = site.watch()

    def queries(changes: int) -> int:
        for number in range(changes):
            site.write(
                "INSERT INTO article (id, title) VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET"
                f" title = 'y{number}'",
                f"INSERT INTO slug VALUES ('{changes}-{number}', '')",
                actor="1",
                reason="a",
            )
        site.client.get(path)
        statements.clear()
        assert site.client.get(path).status_code in {200, 302}
        for statement in statements:
            assert not re.search(r"\bcount\s*\(|\boffset\b", statement, re.IGNORECASE)
        return len([s for s in statements if "audit." in s])

    assert queries(10) == queries(50) > 0


@pytest.fixture
def unfiltered() -> forms.Filtering:
    return forms.filtering({}, tables=[], default_zone="UTC")


def test_nothing_is_asked_for_by_default(unfiltered: forms.Filtering) -> None:
    assert unfiltered.filters == selection.Filters()
    assert not unfiltered.filters.is_search
    assert not unfiltered.more_is_open
