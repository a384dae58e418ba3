"""The host's colour and logo on the pages."""

from __future__ import annotations

import pytest

from audit_app.errors import ConfigurationError
from tests.web.conftest import MakeSite
from tests.web.site import Site


def test_colour_and_logo(make_site: MakeSite) -> None:
    site = make_site(AUDIT_ACCENT="#7c3aed", AUDIT_LOGO="/static/ours.svg")
    page = site.get("/audit/")
    sheets = [str(link.attributes["href"]) for link in page.all("link")]
    sheet = site.client.get(next(href for href in sheets if "theme.css" in href))
    assert sheet.mimetype == "text/css"
    assert "immutable" in sheet.headers["Cache-Control"]
    assert "--accent: #7c3aed" in sheet.text
    assert 'src="/static/ours.svg"' in page.html


def test_without_them(site: Site) -> None:
    page = site.get("/audit/")
    assert "theme.css" not in page.html
    assert "icon.svg" in page.html


def test_a_wrong_colour_is_told_at_once(make_site: MakeSite) -> None:
    with pytest.raises(ConfigurationError, match="AUDIT_ACCENT"):
        make_site(AUDIT_ACCENT="purple")
