""" "History" on the rows of a host's model views."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from flask import current_app
from flask_admin.model.template import BaseListRowAction

from audit_app import identity
from audit_app.admin.i18n import gettext as _
from audit_app.admin.links import Links
from audit_app.admin.views import AuditPages

if TYPE_CHECKING:
    from flask_admin import Admin


class HistoryAction(BaseListRowAction):  # type: ignore[misc]
    """A link from a row to its record's timeline."""

    def render(self, context: Any, row_id: str, row: Any) -> Any:
        """Return the link; nothing where the pages are not mounted or the row has no record."""
        url = history_url(row)
        if url is None:
            return ""
        self.title = _("History")
        self.icon_class = "fa fa-history glyphicon glyphicon-time"
        return self._resolve_symbol(context, "row_actions.link")(self, url)


class HistoryMixin:
    """Adds the link "History" to every row of a ``ModelView``."""

    def get_list_row_actions(self) -> list[Any]:
        """Return the view's actions, and ours."""
        actions: list[Any] = super().get_list_row_actions()  # type: ignore[misc]
        if any(isinstance(action, HistoryAction) for action in actions):
            return actions
        return [*actions, HistoryAction()]


def add_history_links(admin: Admin) -> None:
    """Add the link "History" to the rows of every model view that ``admin`` has so far.

    The views are told apart by what they have, so that every Flask-Admin backend is served whose
    rows SQLAlchemy knows.
    """
    for view in admin._views:
        if hasattr(view, "column_extra_row_actions") and not isinstance(view, HistoryMixin):
            actions = list(view.column_extra_row_actions or ())
            if not any(isinstance(action, HistoryAction) for action in actions):
                view.column_extra_row_actions = [*actions, HistoryAction()]


def history_url(row: Any) -> str | None:
    """Return the address of a row's timeline, in the first place where the pages are mounted.

    :param row: a persistent instance of a mapped class.
    :return: None where the pages are not mounted, or ``row`` is nothing that the trail can know.
    """
    state = sa.inspect(row, raiseerr=False)
    key = identity.encode(getattr(state, "identity", None))
    mount = next(
        (
            view
            for admin in current_app.extensions.get("admin", ())
            for view in admin._views
            if isinstance(view, AuditPages)
        ),
        None,
    )
    if key is None or mount is None or state is None:
        return None
    table = state.mapper.local_table
    schema = table.schema or "public"
    return Links(mount.endpoint).record(schema, table.name, key)
