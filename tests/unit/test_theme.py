"""The host's colour: readable whatever it is."""

from __future__ import annotations

import re

import pytest

from audit_app.admin import theme
from audit_app.errors import ConfigurationError

CARDS = ("#ffffff", "#181d27")


@pytest.mark.parametrize("accent", ["#7c3aed", "#ff0", "#000", "#FFFFFF", "#888888", "#00ff00"])
def test_every_colour_can_be_read(accent: str) -> None:
    sheets = theme.style_sheet(accent).split("@media")
    assert len(sheets) == 2
    for sheet, card in zip(sheets, CARDS, strict=True):
        found = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", sheet))
        colours = {name: theme.parse(colour) for name, colour in found.items()}
        assert set(colours) == {"accent", "on-accent", "tint", "hover"}
        for ground in ("on-accent", "tint", "hover"):
            assert theme.contrast(colours["accent"], colours[ground]) >= theme.READABLE
        assert theme.contrast(colours["accent"], theme.parse(card)) >= theme.READABLE


def test_a_readable_colour_stays() -> None:
    assert "--accent: #2456c8;" in theme.style_sheet("#2456c8")


def test_contrast() -> None:
    assert theme.contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    # #767676 on white is the lightest grey that may be text.
    assert theme.contrast((0x76, 0x76, 0x76), (255, 255, 255)) == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("accent", ["red", "#12", "#12345g", "#123456; } body { x: y", "url(x)"])
def test_what_is_no_colour(accent: str) -> None:
    with pytest.raises(ConfigurationError, match="#2456c8"):
        theme.check({"AUDIT_ACCENT": accent})


@pytest.mark.parametrize("logo", ["https://elsewhere.example/x.svg", "//elsewhere.example", "x"])
def test_a_logo_of_another_site(logo: str) -> None:
    with pytest.raises(ConfigurationError, match="this site"):
        theme.check({"AUDIT_LOGO": logo})
