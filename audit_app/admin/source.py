"""Where a request reads the trail from, and what its page says about that."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from flask import current_app, has_request_context, request
from flask import session as cookie

from audit_app.admin.i18n import gettext as _
from audit_app.admin.i18n import ngettext
from audit_app.errors import ReaderAwayError
from audit_app.reader import Lag, key_of

FALLBACK: Final = "AUDIT_READ_FALLBACK"

PINNED: Final = 60
"""Seconds for which those who have written read from the primary: they look for what they wrote."""

_SOURCE: Final = "audit_app.source"  # in the request's WSGI environment
_WROTE: Final = "audit_wrote"  # in the visitor's session
_SAFE: Final = frozenset({"GET", "HEAD"})
_T = TypeVar("_T")


@dataclass
class Source:
    """Where a request reads from.

    :ivar key: the bind; None for the application's own database.
    :ivar lag: how far that is behind, once it was asked.
    :ivar is_away: whether the primary stands in for the bind.
    :ivar is_pinned: whether the primary is read because the visitor has just written.
    """

    key: str | None = None
    lag: Lag | None = None
    is_away: bool = False
    is_pinned: bool = False

    @classmethod
    def of_request(cls) -> Source:
        """Return where the present request reads from."""
        if not has_request_context():
            return cls(key_of())
        found: Source | None = request.environ.get(_SOURCE)
        if found is None:
            key = key_of()
            is_pinned = key is not None and _has_written()
            found = request.environ[_SOURCE] = cls(None if is_pinned else key, is_pinned=is_pinned)
        return found


def read(view: Callable[[], _T]) -> _T:
    """Return what ``view`` returns; where the reader did not answer, ask it once more.

    After that the primary stands in, where ``AUDIT_READ_FALLBACK`` allows it.

    :raises ReaderAwayError: if nobody answered.
    """
    try:
        return view()
    except ReaderAwayError as error:
        if request.method not in _SAFE:
            raise
        failure = error
    source = Source.of_request()
    source.lag = None
    if failure.kind != "busy":  # that was waited for already
        try:
            return view()
        except ReaderAwayError as error:
            failure = error
    current_app.logger.warning("audit_app: %s (%s)", failure, failure.__cause__)
    source.lag = None
    if not current_app.config.get(FALLBACK):
        raise failure
    source.key, source.is_away = None, True
    return view()


def remember_write() -> None:
    """Let the visitor read from the primary for a while."""
    if key_of() is not None:
        cookie[_WROTE] = int(time.time())


def _has_written() -> bool:
    moment = cookie.get(_WROTE)
    return isinstance(moment, int) and 0 <= time.time() - moment < PINNED


# -- What is said about it ---------------------------------------------------------------------


def headers() -> dict[str, str]:
    """Return the headers that say where an answer was read from; none without a read bind."""
    source = Source.of_request()
    if source.is_away or source.is_pinned:
        return {"Audit-Read-From": "primary"}
    if source.lag is None:
        return {}
    if not source.lag.is_standby:
        return {"Audit-Read-From": "bind"}
    found = {"Audit-Read-From": "replica"}
    if source.lag.seconds is not None:
        found["Audit-Read-Lag"] = f"{source.lag.seconds:.3f}"
    return found


def note() -> str:
    """Return the same in words, for the foot of a page; empty where there is nothing to say."""
    source = Source.of_request()
    if source.is_away:
        return _("The replica does not answer: read from the primary.")
    if source.is_pinned:
        return _("Read from the primary, because you have just changed something.")
    lag = source.lag
    if lag is None or not lag.is_standby:
        return ""
    if lag.seconds is None:
        return _("Read from a replica; how far it is behind is not known.")
    age = duration_text(lag.seconds)
    if not lag.is_receiving:
        return _("Read from a replica that is cut off from its primary: its newest change was "
                 "made %(age)s ago.", age=age)  # fmt: skip
    return _("Read from a replica, %(age)s behind.", age=age)


def duration_text(seconds: float) -> str:
    """Return a span of time in its largest unit of which there are at least two."""
    whole = int(seconds)
    if whole < 120:
        return ngettext("%(num)s second", "%(num)s seconds", whole)
    if whole < 7200:
        return ngettext("%(num)s minute", "%(num)s minutes", whole // 60)
    return ngettext("%(num)s hour", "%(num)s hours", whole // 3600)
