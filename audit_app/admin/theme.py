"""The host's colour and logo, from its configuration.

``AUDIT_ACCENT`` is a colour like ``"#7c3aed"``; ``AUDIT_LOGO`` the address of an image of the
host's own origin. What is readable is decided here: whatever colour is given, links and buttons
keep a contrast of 4.5:1 in light and in dark.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from flask import current_app

from audit_app.errors import ConfigurationError

Colour = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""

READABLE: Final = 4.5
"""The contrast that WCAG 2.2 asks of text (success criterion 1.4.3)."""

SHEET: Final = "theme.css"
"""The name of the style sheet among the assets."""

_WHITE: Final[Colour] = (255, 255, 255)
_BLACK: Final[Colour] = (0, 0, 0)
# Those of trail.css that links stand on: --paper and --card.
_LIGHT: Final[Sequence[Colour]] = ((0xF7, 0xF8, 0xFA), _WHITE)
_DARK: Final[Sequence[Colour]] = ((0x10, 0x14, 0x1B), (0x18, 0x1D, 0x27))


def parse(text: str) -> Colour:
    """Return the colour of ``#rgb`` or ``#rrggbb``.

    :raises ConfigurationError: for another form.
    """
    match = re.fullmatch(r"#([0-9a-f]{3}|[0-9a-f]{6})", text.strip().lower())
    if match is None:
        raise ConfigurationError(f"AUDIT_ACCENT={text!r} is no colour: write it as '#2456c8'.")
    digits = match[1] if len(match[1]) == 6 else "".join(2 * digit for digit in match[1])
    red, green, blue = bytes.fromhex(digits)
    return red, green, blue


def contrast(one: Colour, other: Colour) -> float:
    """Return the contrast ratio of two colours, 1 to 21.

    Source: WCAG 2.2, the definitions of relative luminance and contrast ratio.
    """
    lighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: Colour) -> float:
    linear = [
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in (channel / 255 for channel in colour)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def mix(colour: Colour, other: Colour, share: float) -> Colour:
    """Return ``colour`` with a ``share`` of ``other``, 0 to 1."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(colour, other, strict=True))
    return red, green, blue


def readable(colour: Colour, grounds: Sequence[Colour], towards: Colour) -> Colour:
    """Return the nearest colour on the way to ``towards`` that can be read on all ``grounds``."""
    for step in range(101):
        found = mix(colour, towards, step / 100)
        if all(contrast(found, ground) >= READABLE for ground in grounds):
            return found
    return towards


def style_sheet(accent: str) -> str:
    """Return the rules that give the pages the colour ``accent``.

    :raises ConfigurationError: if it is none.
    """
    given = parse(accent)
    light = _rules(given, _LIGHT, _BLACK, tint=0.92, hover=0.96)
    dark = _rules(given, _DARK, _WHITE, tint=0.8, hover=0.9)
    return (
        f".audit {{ {light} }}\n"
        f"@media (prefers-color-scheme: dark) {{ .audit-page {{ {dark} }} }}\n"
    )


def _rules(
    given: Colour, grounds: Sequence[Colour], towards: Colour, *, tint: float, hover: float
) -> str:
    card = grounds[-1]
    behind = [mix(given, card, share) for share in (tint, hover)]
    accent = readable(given, [*grounds, *behind], towards)
    text = max((_WHITE, _BLACK), key=lambda colour: contrast(colour, accent))
    named = {"accent": accent, "on-accent": text, "tint": behind[0], "hover": behind[1]}
    return " ".join(f"--{name}: {_hex(colour)};" for name, colour in named.items())


def _hex(colour: Colour) -> str:
    return "#" + bytes(colour).hex()


def check(config: Mapping[str, Any]) -> None:
    """Refuse a colour or a logo that the pages could not show.

    :raises ConfigurationError: if ``AUDIT_ACCENT`` or ``AUDIT_LOGO`` is wrong.
    """
    if config.get("AUDIT_ACCENT"):
        parse(str(config["AUDIT_ACCENT"]))
    address = str(config.get("AUDIT_LOGO") or "/")
    if not address.startswith("/") or address.startswith("//"):
        raise ConfigurationError(
            f"AUDIT_LOGO={address!r} is no address of this site, and the pages load nothing from "
            "others: write it as '/static/logo.svg'."
        )


def configured() -> str:
    """Return the style sheet of this application's colour; empty without one."""
    accent = current_app.config.get("AUDIT_ACCENT")
    return style_sheet(str(accent)) if accent else ""


def digest() -> str:
    """Return what changes with the style sheet; empty without one."""
    text = configured()
    return hashlib.sha256(text.encode()).hexdigest()[:12] if text else ""


def logo() -> str:
    """Return the address of the host's logo; empty without one."""
    return str(current_app.config.get("AUDIT_LOGO") or "")
