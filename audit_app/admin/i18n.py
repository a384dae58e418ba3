"""The language of the pages: ours to translate, the host's or the visitor's to choose.

The catalogues are beside this package, in ``audit_app/translations``, and are read with the
standard library: no other package is needed. Dates and numbers follow the catalogue, too, so that
a page speaks one language throughout.
"""

from __future__ import annotations

import gettext as catalogues
import re
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from flask import current_app, has_request_context, request
from flask_admin import babel

_DIRECTORY: Final = Path(__file__).parents[1] / "translations"
DOMAIN: Final = "audit_app"
SOURCE: Final = "en"
"""The language that the messages are written in."""


@cache
def languages() -> tuple[str, ...]:
    """Return the languages that the pages can speak, as codes like ``de`` or ``pt_BR``."""
    found = (path.parent.parent.name for path in _DIRECTORY.glob(f"*/LC_MESSAGES/{DOMAIN}.mo"))
    return (SOURCE, *sorted(found))


def language() -> str:
    """Return the language of this request's pages.

    In this order: ``AUDIT_LOCALE``; what Flask-Babel chose, where it is initialised; what the
    browser asks for. English where the pages do not speak it.
    """
    if not has_request_context():
        return SOURCE
    # Asked for each message, and a page has thousands.
    environ = request.environ
    found: str | None = environ.get(_CHOSEN)
    if found is None:
        found = environ[_CHOSEN] = _choose()
    return found


_CHOSEN: Final = "audit_app.language"  # in the request's WSGI environment


def _choose() -> str:
    configured = current_app.config.get("AUDIT_LOCALE")
    if configured:
        return _known(str(configured)) or SOURCE
    flask_babel = sys.modules.get("flask_babel")
    if flask_babel is not None and "babel" in current_app.extensions:
        return _known(str(flask_babel.get_locale() or "")) or SOURCE
    for wanted in request.accept_languages.values():
        if found := _known(wanted):
            return found
    return SOURCE


def _known(wanted: str) -> str | None:
    """``pt-BR`` is served by ``pt_BR``, or by ``pt``."""
    code = wanted.replace("-", "_").lower()
    by_name = {name.lower(): name for name in languages()}
    return by_name.get(code) or by_name.get(code.partition("_")[0])


@cache
def _catalogue(code: str) -> catalogues.NullTranslations:
    if code == SOURCE:
        return catalogues.NullTranslations()
    return catalogues.translation(DOMAIN, _DIRECTORY, [code])


def gettext(message: str, **variables: Any) -> str:
    """Return ``message`` in the language of the pages, with ``%(name)s`` filled in."""
    return _filled(_catalogue(language()).gettext(message), variables)


def translator() -> Callable[..., str]:
    """Return :func:`gettext` for one page: a template asks for thousands of messages."""
    translate = _catalogue(language()).gettext

    def translated(message: str, **variables: Any) -> str:
        return _filled(translate(message), variables)

    return translated


def ngettext(singular: str, plural: str, num: int, **variables: Any) -> str:
    """Return the form of the message that fits ``num``, which is also a variable of it."""
    text = _catalogue(language()).ngettext(singular, plural, num)
    return _filled(text, {"num": number_text(num), **variables})


def pgettext(context: str, message: str, **variables: Any) -> str:
    """Return ``message`` as it is said in ``context``; for words with two meanings."""
    return _filled(_catalogue(language()).pgettext(context, message), variables)


def _filled(text: str, variables: Mapping[str, Any]) -> str:
    # A message with a % of its own has no variables, and one with variables doubles it.
    return text % variables if variables and re.search(r"%[(%]", text) else text


def number_text(number: int) -> str:
    """Return a number of ours with its thousands apart: ``12,345``, in German ``12.345``.

    For counts only: stored values are shown as they are stored.
    """
    return f"{number:,}".replace(",", pgettext("between thousands", ","))


def host_gettext(name: str) -> Callable[..., str]:
    """Return Flask-Admin's ``gettext`` or ``ngettext``, for Flask-Admin's own messages.

    Where flask-babel is installed but this application has not initialised it, asking it fails;
    they are English then.
    """
    translate = getattr(babel, name)

    def safely(*arguments: Any, **variables: Any) -> str:
        try:
            return str(translate(*arguments, **variables))
        except (KeyError, RuntimeError):
            text = arguments[0] if len(arguments) < 3 or arguments[2] == 1 else arguments[1]
            return _filled(str(text), variables)

    return safely
