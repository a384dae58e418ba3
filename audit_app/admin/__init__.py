"""The pages of the audit trail, as Flask-Admin views."""

from __future__ import annotations

from audit_app.admin.blueprint import AuditBlueprint, audit_bp
from audit_app.admin.model_views import HistoryMixin, add_history_links, history_url
from audit_app.admin.views import AuditIndexView, AuditView

__all__ = [
    "AuditBlueprint",
    "AuditIndexView",
    "AuditView",
    "HistoryMixin",
    "add_history_links",
    "audit_bp",
    "history_url",
]
