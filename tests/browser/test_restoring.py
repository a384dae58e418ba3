"""A country is edited by two people; a third looks at what was, decides, and brings it back."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from demo.catalogue import EDITORS
from tests.browser.conftest import TIMEOUT
from tests.browser.test_demo import sign_in

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [
    pytest.mark.xdist_group("browser"),
    # Flask-Admin's select field does what WTForms 3.3 deprecates.
    pytest.mark.filterwarnings("ignore:Yielding raw tuples:DeprecationWarning"),
]

ADA, NOOR, TOMAS = EDITORS[:3]
RECORD = "/audit/records/public/country/NL"


def edit(chromium: Browser, desk: str, number: int, **values: str) -> None:
    """Change a country in the back office, as one of the editors."""
    editor = EDITORS[number]
    context = chromium.new_context(locale="en-GB")
    context.set_default_timeout(TIMEOUT)
    page = context.new_page()
    page.goto(f"{desk}/sign-in?next=/admin/country/edit/%3Fid=NL")
    page.get_by_label("Name", exact=True).fill(editor.username)
    page.get_by_label("Password", exact=True).fill(editor.password)
    page.get_by_role("main").get_by_role("button", name="Sign in").click()
    for name, value in values.items():
        page.locator(f"#{name}").fill(value)
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_text("Record was successfully saved.")).to_be_visible()
    context.close()


def field(page: Page, desk: str, name: str) -> str:
    """Return what a field of the country holds now."""
    page.goto(f"{desk}/admin/country/edit/?id=NL")
    return page.locator(f"#{name}").input_value()


@pytest.mark.parametrize("javascript", [True, False], ids=["with JavaScript", "without"])
def test_a_country_is_restored_after_two_others_edited_it(
    chromium: Browser, desk: str, javascript: bool
) -> None:
    edit(chromium, desk, 1, name="Holland", official_name="Holland and more")
    edit(chromium, desk, 2, name="Low Countries")
    context = chromium.new_context(
        java_script_enabled=javascript, viewport={"width": 1280, "height": 900}, locale="en-GB"
    )
    context.set_default_timeout(TIMEOUT)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    sign_in(page, desk, RECORD)

    # Noor's transaction is undone: Tomás changed one of its fields again, which is asked about.
    page.locator(".au-event", has_text="Holland and more").locator(".au-event-link").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Transaction")
    noors = page.url
    page.get_by_role("link", name="Undo this transaction").click()
    main = page.get_by_role("main")
    conflict = main.get_by_role("group", name="name was changed later.")
    expect(conflict).to_have_count(1)
    expect(conflict).to_contain_text(TOMAS.name)
    expect(main.get_by_role("radio", checked=True)).to_have_count(0)
    if javascript:
        serious = [
            violation["id"]
            for violation in Axe().run(page).response["violations"]
            if violation["impact"] in {"serious", "critical"}
        ]
        assert serious == []
    main.get_by_label("Reason").fill("Not what the country is called")
    main.get_by_role("button", name="Undo 1 change").click()
    expect(main).to_contain_text("Choose what to do.")
    expect(main.get_by_label("Reason")).to_have_value("Not what the country is called")
    conflict.get_by_label("Leave name as it is now").check()
    main.get_by_role("button", name="Undo 1 change").click()
    page.wait_for_url("**/audit/transactions/*")
    expect(main).to_contain_text("Not what the country is called")
    expect(main).to_contain_text("It goes back on:")
    main.get_by_role("link", name=re.compile("^transaction ")).click()
    page.wait_for_url(noors)
    expect(main).to_contain_text("It was taken back by:")
    assert field(page, desk, "official_name") == "Kingdom of the Netherlands"
    assert field(page, desk, "name") == "Low Countries"

    # Noor's version comes back, but for the field that is left out.
    page.goto(desk + RECORD)
    event = page.locator(".au-event", has_text="Holland and more").last
    event.get_by_role("link", name="As it was then").first.click()
    page.get_by_role("link", name="Restore this version").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Restore country NL")
    expect(main).to_contain_text(f"Changed later by {TOMAS.name}")
    expect(main.get_by_role("button", name="Restore 2 fields")).to_be_visible()
    main.get_by_label("Restore official_name").uncheck()
    if javascript:
        expect(main.get_by_role("button", name="Restore 1 field")).to_be_visible()
    main.get_by_label("Reason").fill("Noor was right about the name")
    main.locator("[data-au-many]").click()
    page.wait_for_url("**/audit/transactions/*")
    page.goto(f"{desk}/audit/")
    group = page.locator(".au-group").first
    expect(group).to_contain_text(ADA.name)
    expect(group).to_contain_text("Noor was right about the name")
    expect(group).to_contain_text("Holland")
    assert field(page, desk, "name") == "Holland"
    assert field(page, desk, "official_name") == "Kingdom of the Netherlands"
    assert [text for text in complaints if "Content Security Policy" in text] == []
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_preview_fits_a_narrow_screen(chromium: Browser, desk: str, scheme: str) -> None:
    context = chromium.new_context(
        viewport={"width": 375, "height": 800},
        color_scheme="dark" if scheme == "dark" else "light",
    )
    context.set_default_timeout(TIMEOUT)
    page = context.new_page()
    sign_in(page, desk, "/audit/records/public/currency/BGN")
    page.get_by_role("link", name="Undelete").click()
    expect(page.get_by_role("button", name="Bring 2 records back")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    serious = [
        violation["id"]
        for violation in Axe().run(page).response["violations"]
        if violation["impact"] in {"serious", "critical"}
    ]
    assert serious == []
    context.close()
