"""Pages cut by key, days of every length, bounded searches."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from audit_app import directory, history, selection
from audit_app.admin import forms
from audit_app.errors import InvalidCursorError
from tests.web.site import Page, Site


def walk(site: Site, page: Page) -> list[str]:
    """Return the transactions of this page and of all that follow it."""
    seen = page.transactions()
    while any(a.text == "Older" for a in page.all("a")):
        page = site.get(page.link("Older"))
        seen += page.transactions()
    return seen


def addresses(ids: list[int]) -> list[str]:
    return [f"/audit/transactions/{id_}" for id_ in ids]


@pytest.mark.parametrize(
    "path",
    ["?actor=7", "?actor=7&table=article", "?actor=person+7", "actors/7", "actors/7?verb=update"],
)
def test_filtered_feeds_show_everything_once_though_times_tie(site: Site, path: str) -> None:
    ids = site.add_transactions(*["2026-11-01 12:00:00.123456+00"] * 120, actor="7")
    site.add_transactions(*["2026-11-01 12:00:00.123456+00"] * 20, actor="8")
    assert walk(site, site.get(f"/audit/{path}")) == addresses(ids[::-1])


def test_the_order_is_that_of_time_and_then_of_writing(site: Site) -> None:
    late = site.add_transactions("2026-11-01 12:00+00", "2026-11-01 10:00+00")
    tied = site.add_transactions("2026-11-01 11:00+00", "2026-11-01 11:00+00")
    assert site.get("/audit/").transactions() == addresses([late[0], tied[1], tied[0], late[1]])


def test_a_search_by_table_is_bounded_and_can_go_on(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "SCAN", 10)
    old = site.write("INSERT INTO slug VALUES ('needle', 'x')")
    site.add_transactions(*["2027-01-01 12:00+00"] * 35)
    page, hops = site.get("/audit/?table=slug"), 0
    while not page.transactions():
        assert "Searched 10 transactions" in page.words
        page, hops = site.get(page.link("Search further")), hops + 1
    assert hops == 3
    assert page.transactions() == addresses([old])
    assert not any(a.text == "Search further" for a in page.all("a"))


def test_actors_are_found_without_reading_every_transaction(site: Site) -> None:
    with site.engine.begin() as connection:
        connection.execute(
            sa.text(
                "INSERT INTO audit.transaction (native_transaction_id, issued_at, actor_id,"
                " session_user_name, role_name) SELECT '1', now(), 'p' || g % 5, 'a', 'a'"
                " FROM generate_series(1, 20000) g"
            )
        )
    with site.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("VACUUM ANALYZE audit.transaction"))
        query = directory.actors(site.logger.transaction_cls).compile(connection)
        plan = "\n".join(
            connection.exec_driver_sql(
                f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) {query}", dict(query.params)
            ).scalars()
        )
    assert "transaction_actor_idx" in plan
    assert "Seq Scan" not in plan
    assert max(float(number) for number in re.findall(r"rows=([\d.]+)", plan)) <= 10


@pytest.mark.parametrize(
    ("day", "hours"), [("2026-03-29", 23), ("2026-10-25", 25), ("2026-11-01", 24)]
)
def test_a_day_is_the_visitors_day_however_long(site: Site, day: str, hours: int) -> None:
    noon = datetime.fromisoformat(f"{day}T12:00:00+00:00")
    moments = [(noon + timedelta(hours=hour)).isoformat() for hour in range(-30, 30)]
    site.add_transactions(*moments)
    page = site.get(f"/audit/?from={day}&to={day}&tz=Europe/Berlin")
    assert len(page.transactions()) == hours
    assert len(page.all("section", "au-day")) == 1


def test_the_hour_that_comes_twice_is_covered_whole(site: Site) -> None:
    ids = site.add_transactions("2026-10-25 00:30+00", "2026-10-25 01:30+00")
    page = site.get("/audit/?from=2026-10-25T02:15&to=2026-10-25T02:45&tz=Europe/Berlin")
    assert page.transactions() == addresses(ids[::-1])
    offsets = [node.attributes["datetime"][-6:] for node in page.all("time")]
    assert offsets == ["+01:00", "+02:00"]


@pytest.mark.parametrize(
    "path",
    [
        "?to=9999-12-31", "?from=0001-01-01&tz=Asia/Tokyo", "?to=2026-01-01T25:00", "?tz=Europe",
        "?tz=/etc/passwd", "?tz=%00", "?from=%00", "?before=1.1&after=1.1",
        "?before=1.99999999999999999999", "?before=999999999999999999.1", "?after=%00",
        "?before=-999999999999999999.1", "?before=%D9%A1.1", "transactions/1?after=--1",
        "transactions/1?after=-9999999999999999999",
        "actors/7?verb=x", "actors/7?before=x",
        "?from=0001-01-01T00:00%2B00:00&tz=America/New_York",
        "actors/7?to=0001-01-03", "actors/7?period=1", "actors/7?value=x", "?period=7",
    ],
)  # fmt: skip
def test_nonsense_is_answered_with_a_message(site: Site, path: str) -> None:
    site.write("INSERT INTO article (id) VALUES (1)", actor="7")
    page = site.get(f"/audit/{path}", status=400)
    assert page.all(cls="au-errors") or page.one(cls="au-problem")


def test_a_table_name_that_two_schemas_have() -> None:
    def table(name: str) -> tuple[str | None, str | None, bool]:
        found = forms.filtering(
            {"table": name},
            tables=[("archive", "article"), ("public", "article"), ("archive", "note")],
            default_zone="UTC",
        )
        return found.filters.schema_name, found.filters.table_name, bool(found.errors)

    assert table("article") == ("public", "article", False)
    assert table("archive.article") == ("archive", "article", False)
    assert table("note") == table("archive.note") == ("archive", "note", False)
    assert table("other")[2]


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2026, 11, 24, 12, 0, 0, 123457, tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    ],
)
def test_a_cursor_survives_its_text(moment: datetime) -> None:
    for id_ in (2**63 - 1, -(2**63)):
        cursor = history.Cursor(moment, id_)
        assert history.Cursor.parse(str(cursor)) == cursor


@pytest.mark.parametrize("text", ["", ".", "1.", ".1", "1.1.1", "1.1 ", "1.--1", "a.b", "1.²"])
def test_a_damaged_cursor_is_refused(text: str) -> None:
    with pytest.raises(InvalidCursorError):
        history.Cursor.parse(text)
