"""Every page of the demo, as assistive technology and a strict policy see it."""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING, Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from flask import g

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask import Flask, Response
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.xdist_group("browser")

COUNTRY = "/audit/records/public/country/TR"
FIXED = (
    "/audit/",
    "/audit/?from=2026-13-01&table=none",
    "/audit/?verb=delete&tz=Europe/Berlin",
    "/audit/actors/",
    "/audit/tables/",
    "/audit/search/?q=CH",
    "/audit/search/?q=nothing+at+all",
    COUNTRY,
    f"{COUNTRY}?only=1",
    f"{COUNTRY}?field=name",
    f"{COUNTRY}?at=2020-01-01",
    "/audit/records/public/currency/BGN",
    "/audit/activities/999999999",
)
"""Pages whose address is known; those of the first link of each kind come besides."""

KINDS = {
    "activity": r"/audit/activities/\d+$",
    "transaction": r"/audit/transactions/\d+$",
    "actor": r"/audit/actors/[^?]+$",
    "version": r"/audit/versions/\d+$",
    "comparison": r"/audit/compare/",
}


def sign_in(page: Page, desk: str) -> None:
    page.goto(f"{desk}/sign-in")
    page.fill("[name=username]", "ada")
    page.fill("[name=password]", "ada-demo")
    page.click("form [type=submit]")


def every_page(page: Page, desk: str) -> Iterator[str]:
    """Visit each page; the browser shows it when its path comes."""
    found: dict[str, str] = {}
    paths = list(FIXED)
    for path in paths:  # grows as links are found
        page.goto(desk + path)
        for href in page.eval_on_selector_all("a", "all => all.map(a => a.getAttribute('href'))"):
            for kind, pattern in KINDS.items():
                if kind not in found and href and re.search(pattern, href):
                    found[kind] = href
                    paths.append(href)
        yield path
    assert set(found) == set(KINDS)


@pytest.fixture(params=[("light", 1280), ("dark", 375)], ids=["light", "dark, narrow"])
def visitor(chromium: Browser, desk: str, request: pytest.FixtureRequest) -> Iterator[Page]:
    scheme, width = request.param
    context = chromium.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, reduced_motion="reduce"
    )
    page = context.new_page()
    sign_in(page, desk)
    yield page
    context.close()


def test_axe_finds_nothing_serious(visitor: Page, desk: str) -> None:
    axe, found = Axe(), []
    for path in every_page(visitor, desk):
        for violation in axe.run(visitor).response["violations"]:
            if violation["impact"] in {"serious", "critical"}:
                nodes = [node["html"][:200] for node in violation["nodes"][:3]]
                found.append((path, violation["id"], nodes))
        assert visitor.locator("html[lang]").count() == 1, path
        assert visitor.locator("h1").count() == 1, path
        assert visitor.locator("main").count() == 1, path
        assert visitor.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
    assert found == []


def test_the_closed_door_too(chromium: Browser, desk: str) -> None:
    context = chromium.new_context()
    page = context.new_page()
    page.goto(f"{desk}/audit/")
    serious = [
        violation["id"]
        for violation in Axe().run(page).response["violations"]
        if violation["impact"] in {"serious", "critical"}
    ]
    context.close()
    assert serious == []


def test_a_policy_of_nonces_is_kept(page: Page, desk: str, demo_app: Flask) -> None:
    """No page tries what ``script-src 'nonce-…'; style-src 'self'`` forbids."""

    def nonce() -> str:
        if "nonce" not in g:
            g.nonce = secrets.token_urlsafe()
        return str(g.nonce)

    def strict(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = (
            f"default-src 'self'; script-src 'nonce-{nonce()}'; style-src 'self'"
        )
        return response

    demo_app.config["AUDIT_CSP_NONCE"] = nonce
    demo_app.after_request_funcs.setdefault(None, []).insert(0, strict)
    told: list[Any] = []
    page.on("console", lambda message: told.append(message.text))
    sign_in(page, desk)
    told.clear()  # of the demo's own pages
    for path in every_page(page, desk):
        # The script ran: it shows what only it can serve.
        assert page.locator("[data-au-script]:not([hidden])").count() > 0, path
    assert [text for text in told if "Content Security Policy" in text] == []
