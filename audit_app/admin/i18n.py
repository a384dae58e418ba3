"""Translation of the pages' messages, through whatever Flask-Admin uses."""

from __future__ import annotations

from typing import Any

from flask_admin import babel


def gettext(message: str, **variables: Any) -> str:
    """Return ``message`` in the visitor's language, with ``%(name)s`` filled in.

    Where flask-babel is installed but this application has not initialised it, asking it fails;
    the pages then speak English.
    """
    try:
        translated = babel.gettext(message)
    except (KeyError, RuntimeError):
        translated = message
    return str(translated % variables if variables else translated)


def ngettext(singular: str, plural: str, num: int, **variables: Any) -> str:
    """Return the form of the message that fits ``num``, which is also a variable of it."""
    try:
        translated = babel.ngettext(singular, plural, num)
    except (KeyError, RuntimeError):
        translated = singular if num == 1 else plural
    return str(translated % {"num": num, **variables} if "%(" in translated else translated)
