"""``audit_bp``: one blueprint that mounts the pages, in any order and any number of times."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from flask import Blueprint
from flask_admin import Admin

from audit_app.admin.views import AuditIndexView

if TYPE_CHECKING:
    from flask.sansio.app import App

PREFIX: Final = "/audit"


class AuditBlueprint(Blueprint):
    """Mounts the audit pages wherever it is registered.

    ::

        app.register_blueprint(audit_bp)                              # /audit/
        app.register_blueprint(audit_bp, url_prefix="/ops/history")
        parent.register_blueprint(audit_bp)                           # below the parent's prefix
        app.register_blueprint(audit_bp, name="second", url_prefix="/second")

    Before or after ``audit_logger.init_app(app)``; in several applications of one process. The
    pages' endpoints are those of a Flask-Admin view named after the blueprint, with ``_ui``:
    ``url_for("audit_ui.index")``.
    """

    def register(self, app: App, options: dict[str, Any]) -> None:
        """Register the blueprint, and build the ``Admin`` of this registration."""
        super().register(app, options)
        prefix = options.get("url_prefix")
        if prefix is None:
            prefix = self.url_prefix or ""
        # A trailing slash would double in the addresses of the pages.
        url = "/" + prefix.strip("/")
        name = f"{options.get('name_prefix', '')}.{options.get('name', self.name)}".lstrip(".")
        endpoint = name.replace(".", "_") + "_ui"
        subdomain = options.get("subdomain") or self.subdomain
        Admin(
            app,
            name="Audit trail",
            index_view=AuditIndexView(endpoint=endpoint, url=url),
            url=url,
            subdomain=subdomain,
        )


audit_bp = AuditBlueprint("audit", __name__, url_prefix=PREFIX)
"""The blueprint to register."""
