"""Acting on the past: restore a version, undelete, undo. A plan first, then its execution."""

from __future__ import annotations

from audit_app.revert.plan import Conflict, FieldStep, Guard, Plan, Record, RecordPlan, Step

__all__ = ["Conflict", "FieldStep", "Guard", "Plan", "Record", "RecordPlan", "Step"]
