"""Ten questions of a support engineer, each answered by the demo in four steps at the most."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.browser.test_demo import sign_in

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.xdist_group("browser")

MOST = 4


class Visitor:
    """Knows the feed's address and nothing else; every click and every search is a step."""

    def __init__(self, page: Page, desk: str) -> None:
        self.page, self.desk = page, desk
        self.steps = 0

    def ask(self) -> None:
        self.steps = 0
        self.page.goto(f"{self.desk}/audit/")

    def search(self, text: str) -> None:
        self.steps += 1
        box = self.page.get_by_role("searchbox")
        box.fill(text)
        box.press("Enter")
        self.page.wait_for_load_state()

    def click(self, role: str, name: str | re.Pattern[str]) -> None:
        self.steps += 1
        main = self.page.locator("body")
        main.get_by_role(role, name=name).first.click()  # type: ignore[arg-type]
        self.page.wait_for_load_state()

    def choose(self, label: str, option: str) -> None:
        self.steps += 1
        self.page.get_by_label(label, exact=True).select_option(option)

    def write(self, label: str, text: str) -> None:
        self.page.get_by_label(label, exact=True).fill(text)

    def reads(self, *texts: str) -> None:
        for text in texts:
            expect(self.page.locator("main")).to_contain_text(text)
        assert self.steps <= MOST


def test_ten_questions(page: Page, desk: str) -> None:
    sign_in(page, desk, "/audit/")
    visitor = Visitor(page, desk)

    # Who removed the currency of Croatia, and what was it before?
    visitor.ask()
    visitor.search("country/HR")
    visitor.reads("HR, HRK", "Deleted", "Tomás Ferreira", "Croatia adopts the euro")

    # Who renamed Turkey, and what is it called now?
    visitor.ask()
    visitor.search("TR")
    visitor.reads("Turkey", "Türkiye", "Ada Lindqvist", "Turkey asks to be called")

    # What did Tomás do?
    visitor.ask()
    visitor.click("link", "People")
    visitor.click("link", "Tomás Ferreira")
    visitor.reads("Tomás Ferreira", "Tables touched", "Caribbean Guilder")

    # What was the record of the Netherlands Antilles before it was deleted?
    visitor.ask()
    visitor.search("country/AN")
    visitor.click("link", re.compile("As it was before"))
    visitor.reads("Netherlands Antilles", "The row before it was deleted", "ANT")

    # When was Switzerland's numeric code which?
    visitor.ask()
    visitor.search("CH")
    visitor.click("link", "numeric")
    visitor.reads("756", "765", "Ada Lindqvist", "Noor Haddad")

    # What else changed when the Bulgarian lev went?
    visitor.ask()
    visitor.search("BGN")
    visitor.click("link", "Details")
    visitor.click("link", "the whole transaction")
    visitor.reads("Bulgaria adopts the euro", "BG, BGN", "BG, EUR")

    # What was deleted?
    visitor.ask()
    visitor.choose("Change", "delete")
    visitor.click("button", "Filter")
    visitor.reads("Deleted", "BGN", "ANG")

    # Which changes were made because of the euro?
    visitor.ask()
    visitor.steps += 1
    visitor.page.get_by_text("More filters").click()
    visitor.write("Words of the reason", "euro")
    visitor.click("button", "Filter")
    visitor.reads("adopts the euro", "Croatia")

    # What became of the old code of Astana?
    visitor.ask()
    visitor.search("KZ-AST")
    visitor.reads("KZ-71", "Astana")

    # Was anybody's e-mail address changed, and is the trail as it should be?
    visitor.ask()
    visitor.choose("Table", "editor")
    visitor.click("button", "Filter")
    visitor.reads("ada@old-desk.example", "ada@desk.example")
    visitor.click("link", "Tables")
    visitor.reads("Everything is as it should be")
