"""Each catalogue is complete: no message of the pages is left in English by oversight."""

from __future__ import annotations

import gettext
import re
import string
import tomllib
from pathlib import Path
from typing import Any

import pytest
from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po

from audit_app.admin.i18n import DOMAIN, SOURCE, languages

ROOT = Path(__file__).resolve().parents[2]
KEYWORDS = {"_": None, "t": None, "ngettext": (1, 2), "tn": (1, 2), "pgettext": ((1, "c"), 2)}
OTHERS = sorted(set(languages()) - {SOURCE})


def path(language: str) -> Path:
    return ROOT / "audit_app" / "translations" / language / "LC_MESSAGES" / f"{DOMAIN}.po"


def catalogue(language: str) -> Catalog:
    with path(language).open("rb") as file:
        return read_po(file)


@pytest.fixture(scope="module")
def messages() -> set[tuple[str | None, Any]]:
    """Context and text of every message of the code."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    mappings = [(m["pattern"], m["method"]) for m in config["tool"]["babel"]["mappings"]]
    found = extract_from_dir(ROOT, mappings, {}, KEYWORDS)
    return {(context, text) for _file, _line, text, _comments, context in found}


def test_another_language_is_there() -> None:
    assert "de" in OTHERS


@pytest.mark.parametrize("language", OTHERS)
def test_the_catalogue_has_every_message_and_no_other(
    language: str, messages: set[tuple[str | None, Any]]
) -> None:
    found = {(m.context, m.id) for m in catalogue(language) if m.id}
    assert found == messages, "make messages updates the catalogues"


@pytest.mark.parametrize("language", OTHERS)
def test_every_message_is_translated(language: str) -> None:
    for message in catalogue(language):
        if not message.id:
            continue
        assert not message.fuzzy, message.id
        texts, sources = forms(message.string), forms(message.id)
        assert all(texts), message.id
        for text, source in zip(texts, sources, strict=True):
            assert variables(text) == variables(source), message.id
            if source[-1] in string.punctuation and source[-1] not in "/":
                assert text[-1] == source[-1] or source == ",", message.id


def forms(text: Any) -> list[str]:
    """The singular and the plural of a message, or its only form."""
    return [str(form) for form in text] if isinstance(text, list | tuple) else [str(text)]


def variables(text: str) -> set[str]:
    return set(re.findall(r"%\((\w+)\)s", text))


@pytest.mark.parametrize("language", OTHERS)
def test_the_compiled_catalogue_is_the_present_one(language: str) -> None:
    """As the pages read it: by the standard library, whatever compiled it."""
    with path(language).with_suffix(".mo").open("rb") as file:
        compiled = gettext.GNUTranslations(file)
    for message in catalogue(language):
        if not message.id:
            continue
        sources, texts = forms(message.id), forms(message.string)
        if message.context:
            found = [compiled.pgettext(message.context, sources[0])]
        elif len(sources) > 1:
            found = [compiled.ngettext(sources[0], sources[1], number) for number in (1, 2)]
        else:
            found = [compiled.gettext(sources[0])]
        assert found == texts, "make messages"
