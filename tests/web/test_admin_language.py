"""The language of the pages, and what follows it: words, dates, numbers."""

from __future__ import annotations

import pytest
from flask_babel import Babel

from audit_app import audit_bp
from tests.web.conftest import MakeSite
from tests.web.site import Site


@pytest.mark.parametrize(
    ("accepted", "expected"),
    [
        ("de", "de"), ("de-AT,de;q=0.9,en;q=0.5", "de"), ("fr,de;q=0.5", "de"), ("en,de", "en"),
        ("fr", "en"), ("*", "en"), ("de;q=0,en", "en"), ("\x01;;q=a", "en"), (None, "en"),
    ],
)  # fmt: skip
def test_what_the_browser_asks_for(
    make_site: MakeSite, accepted: str | None, expected: str
) -> None:
    site = make_site(babel=False)
    headers = {"Accept-Language": accepted} if accepted is not None else {}
    page = site.get("/audit/actors/", headers=headers)
    assert page.one("html").attributes["lang"] == expected
    assert page.heading == {"de": "Personen", "en": "People"}[expected]
    assert "Accept-Language" in page.headers["Vary"]


@pytest.mark.parametrize(
    ("configured", "expected"), [("de", "de"), ("de_CH", "de"), ("DE", "de"), ("tlh", "en")]
)
def test_what_the_host_sets(make_site: MakeSite, configured: str, expected: str) -> None:
    site = make_site(AUDIT_LOCALE=configured)
    page = site.get("/audit/", headers={"Accept-Language": "fr"})
    assert page.one("html").attributes["lang"] == expected


def test_what_flask_babel_chose(make_site: MakeSite) -> None:
    site = make_site(babel=False, mount=None)
    Babel(site.app, locale_selector=lambda: "de")
    site.app.register_blueprint(audit_bp)
    page = site.get("/audit/", headers={"Accept-Language": "en"})
    assert page.one("html").attributes["lang"] == "de"


def test_dates_and_numbers_follow(make_site: MakeSite) -> None:
    site = make_site(AUDIT_LOCALE="de")
    site.add_transactions("2026-03-05 10:00:00+00", rows=1)
    site.write("INSERT INTO article (id, title) SELECT n, 'x' FROM generate_series(1, 3) n")
    site.write("TRUNCATE article")
    page = site.get("/audit/?from=2026-03-01&to=2026-03-31")
    assert "Donnerstag, 5. März 2026" in page.words
    assert "3 Zeilen" in site.get("/audit/?verb=truncate").words
    site.write("INSERT INTO article (id, title) SELECT n, 'x' FROM generate_series(1, 1200) n")
    site.write("TRUNCATE article")
    assert "1.200 Zeilen" in site.get("/audit/?verb=truncate").words


def test_a_problem_speaks_the_language_too(make_site: MakeSite) -> None:
    site = make_site(AUDIT_LOCALE="de")
    assert site.get("/audit/activities/999", status=404).heading == "Nicht gefunden"


def test_stored_values_are_never_translated(make_site: MakeSite) -> None:
    site: Site = make_site(AUDIT_LOCALE="de")
    site.write("INSERT INTO article (id, title) VALUES (1, 'Deleted')")
    page = site.get(f"/audit/activities/{site.activity_id('article', 'insert')}")
    assert "Deleted" in page.words
