"""A pluggable audit trail for Flask on PostgreSQL."""

from __future__ import annotations

from audit_app.admin.blueprint import audit_bp
from audit_app.errors import AuditError
from audit_app.extension import AuditLogger

audit_logger = AuditLogger()
"""A ready instance, for applications that need no options."""

__all__ = ["AuditError", "AuditLogger", "audit_bp", "audit_logger"]
