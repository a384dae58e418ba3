""" "History" on the rows and details of a host's model views."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from flask import current_app, g, has_request_context
from flask_admin.model.template import BaseListRowAction
from jinja2 import ChoiceLoader, PackageLoader

from audit_app import identity
from audit_app.admin.access import Access
from audit_app.admin.i18n import gettext as _
from audit_app.admin.links import Links
from audit_app.admin.reading import current_logger
from audit_app.admin.views import AuditPages
from audit_app.errors import NotRegisteredError

if TYPE_CHECKING:
    from flask_admin import Admin

_DETAILS = "audit/model_details.html"


class HistoryAction(BaseListRowAction):  # type: ignore[misc]
    """A link from a row to its record's timeline."""

    def render(self, context: Any, row_id: str, row: Any) -> Any:
        """Return the link; nothing where :func:`history_url` has none."""
        url = history_url(row)
        if url is None:
            return ""
        self.title = _("History")
        self.icon_class = "fa fa-history glyphicon glyphicon-time"
        return self._resolve_symbol(context, "row_actions.link")(self, url)


class HistoryMixin:
    """Adds the link "History" to every row of a ``ModelView``, and to its details.

    ::

        class ArticleView(HistoryMixin, ModelView):
            can_view_details = True
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _link_details(self)

    def get_list_row_actions(self) -> list[Any]:
        """Return the view's actions, and ours."""
        actions: list[Any] = super().get_list_row_actions()  # type: ignore[misc]
        if any(isinstance(action, HistoryAction) for action in actions):
            return actions
        return [*actions, HistoryAction()]


def add_history_links(admin: Admin) -> None:
    """Add the link "History" to every model view that ``admin`` has so far: rows and details.

    The views are told apart by what they have, so that every Flask-Admin backend is served whose
    rows SQLAlchemy knows.
    """
    for view in admin._views:
        if hasattr(view, "column_extra_row_actions") and not isinstance(view, HistoryMixin):
            actions = list(view.column_extra_row_actions or ())
            if not any(isinstance(action, HistoryAction) for action in actions):
                view.column_extra_row_actions = [*actions, HistoryAction()]
            _link_details(view)


def history_url(row: Any) -> str | None:
    """Return the address of a row's timeline, in the first place where the visitor may see it.

    :param row: a persistent instance of a mapped class.
    :return: None where the pages are not mounted, the visitor may not see them, or the trail does
        not know ``row``: its model is not tracked, or it was never stored.
    """
    state = sa.inspect(row, raiseerr=False)
    key = identity.encode(getattr(state, "identity", None))
    if state is None or key is None:
        return None
    try:
        logger = current_logger()
    except NotRegisteredError:
        return None
    for mapper in state.mapper.iterate_to_root():
        table = mapper.local_table  # of a joined inheritance, perhaps only the base is tracked
        place = getattr(table, "schema", None) or "public", getattr(table, "name", "")
        if logger.is_tracked(*place):
            if not Access(logger, logger.current_actor()).sees_table(*place):
                return None
            endpoint = _open_endpoint()
            return None if endpoint is None else Links(endpoint).record(*place, key)
    return None


def _open_endpoint() -> str | None:
    """The endpoint of the first mounted pages that the visitor may see; asked once a request."""
    if has_request_context() and "audit_app_endpoint" in g:
        known: str | None = g.audit_app_endpoint
        return known
    found = next(
        (
            view.endpoint
            for admin in current_app.extensions.get("admin", ())
            for view in admin._views
            if isinstance(view, AuditPages) and view.is_accessible()
        ),
        None,
    )
    if has_request_context():
        g.audit_app_endpoint = found
    return found


def _link_details(view: Any) -> None:
    """Let the view's details, as a page and as a dialog, show the link as well."""
    names = ("details_template", "details_modal_template")
    given = {name: getattr(view, name, None) for name in names}
    if _DETAILS in given.values() or None in given.values():
        return
    view.audit_details, view.audit_history_url, view.audit_gettext = given, history_url, _
    for name in names:
        setattr(view, name, _DETAILS)
    if view.blueprint is not None:
        _find_templates(view.blueprint)
        return
    create = view.create_blueprint

    def create_blueprint(admin: Admin) -> Any:
        blueprint = create(admin)
        _find_templates(blueprint)
        return blueprint

    view.create_blueprint = create_blueprint


def _find_templates(blueprint: Any) -> None:
    blueprint.jinja_loader = ChoiceLoader([PackageLoader("audit_app"), blueprint.jinja_loader])
