"""The feed: filters, chips, paging by key, and the shape of the SQL behind it."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from tests.web.conftest import MakeSite
from tests.web.site import Node, Site

RETITLE = (
    "INSERT INTO article (id, title) VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET title = 'y{}'"
)

BOGUS = [
    ("/audit/?before=nonsense", 400),
    ("/audit/?after=", 400),
    ("/audit/?before=2024-01-01T00:00:00%2B00:00~99999999999999999999999", 400),
    ("/audit/?before=1&after=2", 400),
    ("/audit/?from=yesterday-ish", 400),
    ("/audit/?to=2024-13-45", 400),
    ("/audit/?from=99999-01-01", 400),
    ("/audit/?tz=Mars/Olympus", 400),
    ("/audit/?tz=../../etc/passwd", 400),
    ("/audit/?table=pg_catalog.pg_authid", 400),
    ("/audit/?table=' OR 1=1 --", 400),
    ("/audit/?verb=drop", 400),
    ("/audit/?actor=a%00b", 400),
    ("/audit/activities/0", 404),
    ("/audit/activities/-1", 404),
    ("/audit/activities/99999999999999999999999", 404),
    ("/audit/activities/abc", 404),
    ("/audit/transactions/9223372036854775808", 404),
    ("/audit/transactions/1e3", 404),
    ("/audit/records/public/article/nothing", 404),
    ("/audit/records/public/nothing/1", 404),
    ("/audit/records/public/article/1?before=x", 400),
    ("/audit/actors/?after=%00", 400),
    ("/audit/nothing/here", 404),
]


@pytest.mark.parametrize(("path", "status"), BOGUS)
def test_bad_input_gets_a_page_that_says_so(site: Site, path: str, status: int) -> None:
    site.write("INSERT INTO article (id) VALUES (1)")
    response = site.client.get(path)
    assert response.status_code in {status, 404}, response.text[:300]
    assert "Internal Server Error" not in response.text


@pytest.fixture
def busy(site: Site) -> Site:
    """A site with changes of two people and nobody, to two tables."""
    site.write("INSERT INTO article (id, title) VALUES (1, 'a'), (2, 'b')", actor="1", label="Ada")
    site.write("UPDATE article SET title = 'c'", actor="2", label="Bo")
    site.write("INSERT INTO slug VALUES ('x', 'y')", actor="2", label="Bo")
    site.write("DELETE FROM article WHERE id = 2")
    return site


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("", [4, 3, 2, 1]),
        ("?actor=2", [3, 2]),
        ("?actor=Ada", [1]),
        ("?actor=bo", [3, 2]),
        ("?unknown=1", [4]),
        ("?table=article", [4, 2, 1]),
        ("?table=slug", [3]),
        ("?verb=delete", [4]),
        ("?verb=update&actor=2", [2]),
        ("?table=slug&verb=update", []),
        ("?from=2000-01-01", [4, 3, 2, 1]),
        ("?to=2000-01-01", []),
        ("?actor=nobody-at-all", []),
    ],
)
def test_filters(busy: Site, query: str, ids: list[int]) -> None:
    page = busy.get(f"/audit/{query}")
    assert [int(re.findall(r"/transactions/(\d+)", href)[0]) for href in page.transactions()] == ids


def test_every_filter_is_a_chip_that_can_be_removed(busy: Site) -> None:
    page = busy.get("/audit/?actor=2&table=article&verb=update&from=2000-01-01&tz=Europe/Rome")
    chips = [node for node in page.all("a") if "\N{MULTIPLICATION SIGN}" in node.text]
    assert len(chips) >= 4
    given = set(parse_qs("actor=2&table=article&verb=update&from=2000-01-01&tz=Europe/Rome"))
    for chip in chips:
        left = set(parse_qs(urlsplit(chip.attributes["href"]).query))
        assert left < given
        busy.get(chip.attributes["href"])
    kept = {node.attributes.get("name"): node.attributes.get("value") for node in page.all("input")}
    assert kept["actor"] == "2"


def test_the_zone_is_honoured_across_a_change_of_daylight_saving(site: Site) -> None:
    # In Rome, 2024-03-31 had 23 hours: 02:00 became 03:00 (from +01 to +02).
    _first, second, third = site.add_transactions(
        "2024-03-30 22:59:59+00", "2024-03-30 23:00:00+00", "2024-03-31 21:59:59+00"
    )
    site.add_transactions("2024-03-31 22:00:00+00")
    page = site.get("/audit/?from=2024-03-31&to=2024-03-31&tz=Europe/Rome")
    assert [f"/transactions/{n}" for n in (third, second)] == [
        href[href.index("/transactions/") :].split("?")[0] for href in page.transactions()
    ]
    times = [
        node.attributes["datetime"]
        for node in page.all("time")
        if "T" in node.attributes["datetime"]
    ]
    assert {time[-6:] for time in times} == {"+01:00", "+02:00"}


def test_paging_neither_skips_nor_repeats_while_rows_arrive_and_times_tie(site: Site) -> None:
    ids = site.add_transactions(*["2024-01-01 00:00:00+00"] * 70, *["2024-01-02 00:00:00+00"] * 65)
    seen: list[int] = []
    page, number = site.get("/audit/"), 0
    while True:
        seen += [int(re.findall(r"/transactions/(\d+)", href)[0]) for href in page.transactions()]
        number += 1
        site.add_transactions("2024-02-01 00:00:00+00")  # somebody writes meanwhile
        older = [n for n in page.all("a") if n.text.strip().startswith("Older")]
        if not older:
            break
        page = site.get(older[0].attributes["href"])
    assert seen == list(reversed(ids))
    assert number > 2


def test_the_way_back_is_the_same(site: Site) -> None:
    site.add_transactions(*[f"2024-01-01 00:00:{n % 60:02}+00" for n in range(120)])
    first = site.get("/audit/")
    second = site.get(_link(first, "Older"))
    assert site.get(_link(second, "Newer")).transactions() == first.transactions()
    assert not set(first.transactions()) & set(second.transactions())


@pytest.mark.parametrize(
    "path",
    [
        "/audit/",
        "/audit/?table=article&verb=update&actor=1&from=2000-01-01",
        "/audit/actors/1",
        "/audit/actors/",
        "/audit/records/public/article/1",
        "/audit/activities/1",
        "/audit/transactions/1",
    ],
)
def test_no_page_counts_or_skips_rows_or_asks_more_for_more(make_site: MakeSite, path: str) -> None:
    site = make_site()
    statements = site.watch()

    def queries(changes: int) -> list[str]:
        for number in range(changes):
            site.write(RETITLE.format(number), actor="1")
        site.get(path)  # what is asked once for a process
        statements.clear()
        site.get(path)
        return [s for s in statements if "audit." in s]

    few = queries(3)
    many = queries(60)
    assert few
    assert len(few) == len(many)
    for statement in few + many:
        assert not re.search(r"\bcount\s*\(", statement, re.IGNORECASE)
        assert not re.search(r"\boffset\b", statement, re.IGNORECASE)


def test_the_last_row_of_a_page_has_its_difference(site: Site) -> None:
    for number in range(60):
        site.write(RETITLE.format(number))
    page = site.get("/audit/records/public/article/1")
    last: Any = page.all("li")[-1] if page.all("li") else page
    assert page.all("ins")
    assert page.all("del")
    assert isinstance(last, Node)


def test_a_timeline_tolerates_changes_in_an_odd_order(site: Site) -> None:
    """A trigger of the user's updates its own row: its change is recorded before the outer one."""
    with site.engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS "
            "'BEGIN UPDATE article SET price = 1 WHERE id = NEW.id; RETURN NULL; END';"
            "CREATE TRIGGER again AFTER INSERT ON article FOR EACH ROW EXECUTE FUNCTION again()"
        )
    site.write("INSERT INTO article (id, title) VALUES (1, 'x')")
    page = site.get("/audit/records/public/article/1")
    assert "exists" in page.words
    assert sorted(badge.text[1:] for badge in page.all(cls="au-badge")) == ["Created", "Updated"]
    for number in (1, 2):
        site.get(f"/audit/activities/{number}")


def test_an_address_with_a_hostile_table_filter_is_escaped(site: Site) -> None:
    page = site.client.get("/audit/?table=" + quote("<script>alert(1)</script>"))
    assert "<script>alert" not in page.text


def _link(page: Any, text: str) -> str:
    found = [n.attributes["href"] for n in page.all("a") if n.text.strip().startswith(text)]
    assert found, text
    return str(found[0])
