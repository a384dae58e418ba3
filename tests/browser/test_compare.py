"""Comparing two versions in a browser: without JavaScript, under the policy, on a narrow screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import TIMEOUT
from tests.browser.test_demo import sign_in

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.xdist_group("browser")


def test_two_versions_are_chosen_and_compared_without_javascript(
    chromium: Browser, desk: str
) -> None:
    context = chromium.new_context(
        java_script_enabled=False, viewport={"width": 375, "height": 800}, locale="en-GB"
    )
    context.set_default_timeout(TIMEOUT)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    sign_in(page, desk, "/audit/records/public/country/NL")
    page.get_by_text("Look back, or compare").click()
    form = page.get_by_role("form", name="Compare two versions")
    older = form.get_by_role("combobox", name="Compare")
    newer = form.get_by_role("combobox", name="with")
    oldest = older.locator("option").last.get_attribute("value")
    older.select_option(oldest)
    newer.select_option("now")
    form.get_by_role("button", name="Compare").click()
    page.wait_for_url(f"**/compare/public/country/NL?from={oldest}&to=now")
    expect(page.get_by_role("heading", level=1)).to_contain_text("Two versions of country NL")
    main = page.get_by_role("main")
    expect(main.get_by_role("heading", name="Differences")).to_be_visible()
    expect(main).to_contain_text("the row in the table")
    assert complaints == []
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_a_narrow_screen(chromium: Browser, desk: str, scheme: str) -> None:
    context = chromium.new_context(
        viewport={"width": 375, "height": 800},
        color_scheme="dark" if scheme == "dark" else "light",
    )
    context.set_default_timeout(TIMEOUT)
    page = context.new_page()
    sign_in(page, desk, "/audit/records/public/country/NL")
    for address in ("/audit/records/public/country/NL", "/audit/compare/public/country/NL"):
        page.goto(desk + address)
        assert page.evaluate("document.documentElement.scrollWidth") == 375
    context.close()
