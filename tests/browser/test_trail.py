"""The trail's pages in a browser: filters and Back, the chart, the keyboard, without JavaScript."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest
import sqlalchemy as sa
from playwright.sync_api import expect

from demo.models import Country, db
from tests.browser.conftest import TIMEOUT
from tests.browser.test_demo import sign_in

if TYPE_CHECKING:
    from flask import Flask
    from playwright.sync_api import Browser, Page

pytestmark = [
    pytest.mark.xdist_group("browser"),
    # Flask-Admin's select field does what WTForms 3.3 deprecates.
    pytest.mark.filterwarnings("ignore:Yielding raw tuples:DeprecationWarning"),
]


@pytest.fixture
def plain(chromium: Browser) -> Iterator[Page]:
    """A page without JavaScript."""
    context = chromium.new_context(
        viewport={"width": 1280, "height": 900}, java_script_enabled=False
    )
    context.set_default_timeout(TIMEOUT)
    yield context.new_page()
    context.close()


def query(page: Page) -> dict[str, list[str]]:
    return parse_qs(urlsplit(page.url).query, keep_blank_values=True)


def test_filters_survive_back_and_bookmarks_and_chips_remove_one(page: Page, desk: str) -> None:
    sign_in(page, desk, "/audit/")
    page.get_by_label("Table", exact=True).select_option("country")
    page.get_by_label("Change", exact=True).select_option("update")
    page.get_by_text("More filters").click()
    page.get_by_label("Changed field").fill("name")
    page.get_by_role("button", name="Filter", exact=True).click()
    page.wait_for_url("**/audit/?*field=name*")
    asked = {"table": ["country"], "verb": ["update"], "field": ["name"]}
    assert query(page) == asked, "the address holds the filters, and nothing that is empty"
    chips = page.locator(".au-pill")
    expect(chips).to_have_count(3)
    bookmark = page.url

    chips.filter(has_text="Field:").click()
    page.wait_for_url(lambda url: "field" not in url)
    assert query(page) == {"table": ["country"], "verb": ["update"]}
    expect(page.get_by_label("Changed field")).to_have_value("")
    expect(page.get_by_label("Table", exact=True)).to_have_value("country")

    page.locator(".au-tx").first.click()
    page.wait_for_url("**/transactions/*")
    page.go_back()
    expect(page.locator(".au-pill")).to_have_count(2)
    page.go_back()
    expect(page.locator(".au-pill")).to_have_count(3)
    expect(page.get_by_label("Changed field")).to_have_value("name")
    expect(page.get_by_label("Change", exact=True)).to_have_value("update")

    page.goto(bookmark)
    assert query(page) == asked
    expect(page.get_by_label("Changed field")).to_have_value("name")
    page.get_by_role("link", name="Clear all").click()
    page.wait_for_url(f"{desk}/audit/")


def test_a_relative_period_and_dates_take_turns(page: Page, desk: str) -> None:
    sign_in(page, desk, "/audit/?from=2026-01-01")
    expect(page.get_by_label("From", exact=True)).to_have_value("2026-01-01T00:00")
    page.get_by_label("Period", exact=True).select_option("24h")
    expect(page.get_by_label("From", exact=True)).to_have_value("")
    page.get_by_role("button", name="Filter", exact=True).click()
    page.wait_for_url("**/audit/?period=24h")
    expect(page.locator(".au-sub")).to_contain_text("Last 24 hours, newest first")


def test_a_period_is_chosen_by_dragging_across_the_chart(page: Page, desk: str) -> None:
    violations: list[str] = []
    page.on(
        "console",
        lambda message: (
            violations.append(message.text) if "Content Security Policy" in message.text else None
        ),
    )
    sign_in(page, desk)
    page.goto(f"{desk}/audit/actors/1?table=country&period=30d")
    chart = page.locator("[data-au-days]")
    bars = chart.locator(".au-slot")
    # Thirty times 24 hours touch thirty-one days.
    days = bars.evaluate_all("bars => bars.map(bar => bar.dataset.first)")
    assert len(days) == 31
    box = chart.bounding_box()
    assert box is not None

    def x(day: int) -> float:
        return box["x"] + box["width"] * (day + 0.5) / len(days)

    y = box["y"] + 30
    page.mouse.move(x(20), y)
    page.mouse.down()
    page.mouse.move(x(12), y, steps=4)
    expect(chart.locator(".au-shade")).to_have_attribute("width", str(9 * 20))
    page.keyboard.press("Escape")
    expect(chart.locator(".au-shade")).to_have_count(0)
    page.mouse.up()
    assert "from" not in query(page)

    page.mouse.move(x(20), y)
    page.mouse.down()
    page.mouse.move(x(12), y, steps=4)
    page.mouse.up()
    page.wait_for_url("**from=*")
    assert query(page) == {"table": ["country"], "from": [days[12]], "to": [days[20]]}
    expect(page.locator(".au-slot:not(.au-slot-out)")).to_have_count(9)
    page.go_back()
    page.wait_for_url("**period=30d*")

    # A click without a drag is the day's link.
    page.mouse.click(x(30), y)
    page.wait_for_url("**from=*")
    assert query(page)["from"] == query(page)["to"] == [days[30]]
    expect(page.locator(".au-slot:not(.au-slot-out)")).to_have_count(1)
    assert violations == []


def test_the_keyboard(page: Page, desk: str) -> None:
    sign_in(page, desk)
    page.goto(f"{desk}/audit/?table=country&verb=update")
    current = page.locator(".au-current")
    expect(current).to_have_count(0)
    for key, place in (("j", 0), ("j", 1), ("j", 2), ("k", 1)):
        page.keyboard.press(key)
        expect(current).to_have_count(1)
        shown = page.locator("[data-au-item]").nth(place)
        expect(shown).to_have_class(re.compile("au-current"))
    expect(page.locator(".au-current [data-au-open]")).to_be_focused()
    target = page.locator(".au-current [data-au-open]").get_attribute("href")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**{target}")

    page.goto(f"{desk}/audit/records/public/country/CH?only=1")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url("**/activities/*")
    latest = page.url
    page.keyboard.press("[")
    page.wait_for_url(lambda url: "/activities/" in url and url != latest)
    page.keyboard.press("]")
    page.wait_for_url(latest)
    page.keyboard.press("u")
    page.wait_for_url("**/records/public/country/CH")

    page.goto(f"{desk}/audit/")
    page.keyboard.press("f")
    actor = page.get_by_label("Actor", exact=True)
    expect(actor).to_be_focused()
    page.keyboard.type("jk?/[]f")
    expect(actor).to_have_value("jk?/[]f")
    expect(current).to_have_count(0)
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.keyboard.press("Tab")
    page.keyboard.press("j")  # inside of a select
    expect(current).to_have_count(0)

    page.locator("h1").click()
    for modifier in ("Control", "Alt", "Meta"):
        page.keyboard.press(f"{modifier}+j")
    expect(current).to_have_count(0)

    page.keyboard.press("?")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    page.keyboard.press("j")
    expect(current).to_have_count(0)
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    page.get_by_role("button", name="Keyboard").click()
    dialog.get_by_role("button", name="Close").click()
    expect(dialog).to_be_hidden()

    page.keyboard.press("/")
    search = page.get_by_role("searchbox")
    expect(search).to_be_focused()
    page.keyboard.type("country/CH")
    page.keyboard.press("Enter")
    page.wait_for_url("**/records/public/country/CH")


def test_everything_works_without_javascript(plain: Page, desk: str, demo_app: Flask) -> None:
    with demo_app.app_context():
        for number in range(60):  # more than a page
            db.session.execute(sa.update(Country).where(Country.alpha_2 == "CH").values(
                official_name=f"Swiss Confederation {number}"))  # fmt: skip
            db.session.commit()
    sign_in(plain, desk, "/audit/")
    newest = plain.locator(".au-tx").first.get_attribute("href")
    plain.get_by_role("link", name="Older").click()
    plain.wait_for_url("**before=*")
    assert plain.locator(".au-tx").first.get_attribute("href") != newest
    plain.get_by_role("link", name="Newer").click()
    plain.wait_for_url("**after=*")
    assert plain.locator(".au-tx").first.get_attribute("href") == newest

    plain.get_by_label("Table", exact=True).select_option("country")
    plain.get_by_text("More filters").click()
    plain.get_by_label("Changed field").fill("name")
    plain.get_by_label("Its old or new value").fill("Eswatini")
    plain.get_by_role("button", name="Filter", exact=True).click()
    plain.wait_for_url("**field=name*")
    assert query(plain)["value"] == ["Eswatini"]
    main = plain.get_by_role("main")
    expect(main).to_contain_text("Swaziland")
    expect(plain.locator(".au-pill")).to_have_count(3)
    plain.locator(".au-pill", has_text="Value:").click()
    expect(plain.locator(".au-pill")).to_have_count(2)

    plain.get_by_role("searchbox").fill("Ada Lindqvist")
    plain.get_by_role("searchbox").press("Enter")
    plain.wait_for_url("**/audit/actors/1")
    # What only a script could do is not offered.
    expect(plain.get_by_text("Drag across the chart")).to_be_hidden()
    expect(plain.get_by_role("button", name="Keyboard")).to_be_hidden()
    plain.locator(".au-slot").last.click(position={"x": 5, "y": 100})
    plain.wait_for_url("**from=*")
    assert query(plain)["from"] == query(plain)["to"]
    plain.locator("figure.au-chart summary").click()
    expect(plain.locator("figure.au-chart table")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_a_phone(page: Page, desk: str, scheme: str) -> None:
    page.set_viewport_size({"width": 375, "height": 700})
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    sign_in(page, desk, "/audit/actors/1")
    for path in (
        "/audit/actors/1", "/audit/?from=x&verb=y&tz=Mars&value=z", "/audit/search/?q=1",
        "/audit/search/?q=nothing-like-it", f"/audit/search/?q={'long' * 60}",
    ):  # fmt: skip
        page.goto(f"{desk}{path}")
        page.locator("main details").evaluate_all("all => all.forEach(one => one.open = true)")
        assert page.evaluate("document.documentElement.scrollWidth") <= 375, path
