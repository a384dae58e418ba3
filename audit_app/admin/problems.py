"""What a visitor is told when a page cannot be shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from flask import current_app, request, url_for
from werkzeug.routing import BuildError

from audit_app import install
from audit_app.admin.forms import InvalidFilterError
from audit_app.admin.i18n import gettext as _
from audit_app.errors import (
    ConfigurationError,
    InvalidCursorError,
    NotGrantedError,
    NotInstalledError,
    PlanError,
    ReaderAwayError,
    RecordNotFoundError,
)

if TYPE_CHECKING:
    from audit_app.admin.reading import Logger

_CANCELED = "57014"  # query_canceled: the statement timeout
_UNDEFINED = frozenset({"3F000", "42P01", "42703", "42883"})  # schema, table, column, function
_NO_PRIVILEGE = "42501"


@dataclass(frozen=True)
class Problem:
    """A page that explains why there is no other.

    :ivar code: a line to type or to add, shown as such; may be empty.
    :ivar retry_after: seconds after which it may be worth to try again; 0 if nobody knows.
    """

    status: int
    title: str
    text: str
    code: str = ""
    sign_in_url: str = ""
    retry_after: int = 0

    @classmethod
    def closed(cls, logger: Logger) -> Problem:
        """Return what a visitor without access is told; developers are told how to open it."""
        nobody = logger.can_view is None
        text, code = _("You do not have access to the audit trail."), ""
        if nobody and current_app.debug:
            text = _(
                "The audit trail is closed to everybody until the application says who may see "
                "it. This hint is shown in debug mode only:"
            )
            code = "AuditLogger(can_view=lambda actor: actor is not None and actor.is_admin)"
        signed_in = nobody or logger.current_actor() is not None
        return cls(403, _("No access"), text, code, "" if signed_in else _sign_in_url())

    @classmethod
    def no_export(cls) -> Problem:
        """Return what a visitor is told who may see the pages, and not export from them."""
        return cls(403, _("No export"), _("You may see the audit trail, and not export from it."))

    @classmethod
    def no_restore(cls) -> Problem:
        """Return what a visitor is told who may see the pages, and bring nothing back."""
        return cls(
            403, _("Nothing to restore"), _("You may see the audit trail, and bring nothing back.")
        )

    @classmethod
    def page_only(cls) -> Problem:
        """Return what a machine is told that asks for a preview."""
        return cls(
            406, _("A page only"), _("What is brought back is looked at and confirmed by people.")
        )

    @classmethod
    def internal(cls) -> Problem:
        """Return what is told where nothing more is known."""
        return cls(500, _("Something went wrong"), _("The page cannot be shown."))


def problem_of(error: Exception) -> Problem | None:  # noqa: PLR0911 - one return for each kind
    """Return what to tell about ``error``; None for one that is a defect and must be reported."""
    match error:
        case RecordNotFoundError():
            return Problem(404, _("Not found"), str(error))
        case InvalidCursorError() | InvalidFilterError():
            return Problem(400, _("This address is damaged"), str(error))
        case NotGrantedError():
            return Problem(
                403, _("Nothing was exported"), str(error), "flask audit grant --export ROLE"
            )
        case PlanError():
            return Problem(409, _("Nothing was changed"), str(error))
        case NotInstalledError():
            return _not_installed(str(error))
        case ReaderAwayError():
            return _reader_away(error.kind)
        case ConfigurationError():
            return Problem(503, _("The audit trail is not set up"), str(error))
        case sa.exc.DBAPIError():
            return _database_problem(error)
    return None


def _database_problem(error: sa.exc.DBAPIError) -> Problem | None:
    state = install.sqlstate(error)
    if state in _UNDEFINED:
        return _not_installed(
            _("The audit schema is missing or older than this version of audit_app.")
        )
    if state == _CANCELED:
        return Problem(
            503,
            _("This takes too long"),
            _("The search was stopped to spare the database. Narrow the period, or choose an "
              "actor or a record."),
        )  # fmt: skip
    if state == _NO_PRIVILEGE:
        return Problem(
            503,
            _("The audit trail cannot be read"),
            _("The application's database role may not read the audit schema."),
            "GRANT USAGE ON SCHEMA …; GRANT SELECT ON ALL TABLES IN SCHEMA … TO …",
        )
    if isinstance(error, sa.exc.OperationalError):
        return Problem(503, _("The database does not answer"), _("Please try again in a moment."))
    return None


def _reader_away(kind: str) -> Problem:
    """Say what became of the database of ``AUDIT_READ_BIND``, and what an operator can do."""
    if kind == "cancelled":
        return Problem(
            503,
            _("The replica stopped this query"),
            _("It was in the way of replication, twice. Nothing is lost: please try again in a "
              "moment. Where this happens often, the replica needs another setting:"),
            "hot_standby_feedback = on",
            retry_after=5,
        )  # fmt: skip
    if kind == "busy":
        return Problem(
            503,
            _("The replica is busy"),
            _("All connections to the database that the audit trail is read from are in use. "
              "Please try again in a moment."),
            retry_after=10,
        )  # fmt: skip
    return Problem(
        503,
        _("The replica does not answer"),
        _("The audit trail is read from a database of its own, which is not there at the moment. "
          "Nothing is lost, and changes are recorded as ever: please try again in a moment. Until "
          "it is back, the pages can be read from the primary:"),
        "AUDIT_READ_FALLBACK = True",
        retry_after=30,
    )  # fmt: skip


def _not_installed(text: str) -> Problem:
    return Problem(503, _("The audit trail is not installed"), text, "flask db upgrade")


def _sign_in_url() -> str:
    """Where the application's own sign-in page is, if Flask-Login knows one."""
    manager: Any = getattr(current_app, "login_manager", None)
    view = getattr(manager, "login_view", None)
    if not view:
        return ""
    try:
        return url_for(view, next=request.full_path.rstrip("?"))
    except BuildError:
        return ""
