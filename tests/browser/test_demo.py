"""The demo in a browser: sign in, change a record, look it up in the trail."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from demo.catalogue import EDITORS

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [
    pytest.mark.xdist_group("browser"),
    # Flask-Admin's select field does what WTForms 3.3 deprecates.
    pytest.mark.filterwarnings("ignore:Yielding raw tuples:DeprecationWarning"),
]

ADA = EDITORS[0]


def sign_in(page: Page, desk: str, target: str = "/") -> None:
    page.goto(f"{desk}/sign-in?next={target}")
    page.get_by_label("Name", exact=True).fill(ADA.username)
    page.get_by_label("Password", exact=True).fill(ADA.password)
    page.get_by_role("main").get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"{desk}{target}")


def test_a_change_is_found_in_the_history(page: Page, desk: str) -> None:
    sign_in(page, desk, "/admin/country/")
    page.goto(f"{desk}/admin/country/?search=Netherlands")
    page.locator("tr", has_text="NLD").get_by_title("Edit Record").click()
    page.locator("#name").fill("The Netherlands")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_text("Record was successfully saved.")).to_be_visible()

    page.goto(f"{desk}/admin/country/?search=Netherlands")
    page.locator("tr", has_text="NLD").locator("a[href*='/records/']").click()
    page.wait_for_url("**/records/public/country/NL*")
    expect(page.get_by_role("heading", level=1)).to_contain_text("NL")
    page.locator("main a[href*='/activities/']").first.click()
    page.wait_for_url("**/activities/*")
    main = page.get_by_role("main")
    expect(main).to_contain_text(ADA.name)
    expect(main).to_contain_text("name")
    expect(main.locator("ins", has_text="The").first).to_be_visible()
    expect(main).to_contain_text(re.compile(r"Netherlands.*The\s+Netherlands", re.DOTALL))


def test_a_many_to_many_edited_in_the_back_office_is_in_the_trail(page: Page, desk: str) -> None:
    sign_in(page, desk, "/admin/country/")
    page.goto(f"{desk}/admin/country/edit/?id=DK")
    page.locator("#currencies").evaluate(
        """select => {
            for (const option of select.options) option.selected = option.value === "EUR";
            jQuery(select).trigger("change");
        }"""
    )
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_text("Record was successfully saved.")).to_be_visible()
    page.goto(f"{desk}/audit/?table=country_currency")
    main = page.get_by_role("main")
    expect(main).to_contain_text(ADA.name)
    expect(main).to_contain_text("DKK")


@pytest.mark.parametrize("path", ["/audit/", "/audit/tables/", "/audit/actors/"])
def test_the_trail_is_closed_to_visitors(page: Page, desk: str, path: str) -> None:
    response = page.goto(f"{desk}{path}")
    assert response is not None
    assert response.status == 403


def test_the_back_office_asks_visitors_to_sign_in(page: Page, desk: str) -> None:
    page.goto(f"{desk}/admin/country/?search=Spain")
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
    page.get_by_label("Name", exact=True).fill(ADA.username)
    page.get_by_label("Password", exact=True).fill("wrong")
    page.get_by_role("main").get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("status")).to_contain_text("do not belong together")
    page.get_by_label("Password", exact=True).fill(ADA.password)
    page.get_by_role("main").get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/admin/country/?search=Spain")


def test_sign_in_leads_to_this_site_only(page: Page, desk: str) -> None:
    for target in ("https://example.org/", "//example.org/", "/%5Cexample.org/"):
        page.context.clear_cookies()
        page.goto(f"{desk}/sign-in?next={target}")
        page.get_by_label("Name", exact=True).fill(ADA.username)
        page.get_by_label("Password", exact=True).fill(ADA.password)
        page.get_by_role("main").get_by_role("button", name="Sign in").click()
        page.wait_for_url(f"{desk}/")


def test_every_story_of_the_home_page_opens(page: Page, desk: str) -> None:
    sign_in(page, desk)
    paths = page.locator(".cards a").evaluate_all("links => links.map(a => a.href)")
    assert len(paths) >= 5
    for path in paths:
        response = page.goto(path)
        assert response is not None
        assert response.status == 200
        expect(page.get_by_role("heading", level=1)).to_be_visible()


def test_a_countrys_story_is_told_with_its_counties(page: Page, desk: str) -> None:
    sign_in(page, desk)
    page.goto(f"{desk}/audit/records/public/country/NO")
    merged = page.locator("li.au-event", has_text="Norway merges counties")
    expect(merged.locator("section.au-entry", has_text="Deleted")).to_have_count(13)
    page.get_by_role("link", name="This record only").click()
    expect(page.locator(".au-entry-related")).to_have_count(0)
    page.set_viewport_size({"width": 375, "height": 700})
    for path in ("", "?field=name", "?at=2999-01-01"):
        page.goto(f"{desk}/audit/records/public/country/NO{path}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 375
    page.get_by_label("As it was on").fill("2999-01-01T10:00:00")
    page.get_by_role("button", name="Show").click()
    expect(page.locator(".au-cell", has_text="official_name")).to_contain_text("Kingdom of Norway")


@pytest.mark.parametrize("path", ["/", "/sign-in"])
def test_pages_fit_a_phone(page: Page, desk: str, path: str) -> None:
    page.set_viewport_size({"width": 375, "height": 700})
    page.goto(f"{desk}{path}")
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
