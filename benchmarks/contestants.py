"""Who takes part, and what each of them stores. Their code is in ``benchmarks.workers``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Contestant:
    """One way to keep a trail.

    :ivar name: on the command line and in the JSON.
    :ivar title: in the tables.
    :ivar side: the module of its worker: ``"sqlalchemy"`` or ``"django"``.
    :ivar bare: the name of the same client code without a trail, which its figures are divided by.
    :ivar stores: what is in the trail after an update, in a few words.
    :ivar actor: how the acting person gets there.
    :ivar distribution: the package's name on the index.
    :ivar reads: whether its tables are read; a second mode over the same tables is not.
    """

    name: str
    title: str
    side: str
    bare: str | None
    stores: str
    actor: str = "none"
    distribution: str | None = None
    reads: bool = False


ALL = (
    Contestant("bare", "bare table", "sqlalchemy", None, "nothing"),
    Contestant("bare-django", "bare table, Django", "django", None, "nothing"),
    Contestant(
        "floor",
        "floor",
        "sqlalchemy",
        "bare",
        "ready-made rows of audit_app's, by a plain INSERT … SELECT",
        "a ready-made transaction row",
    ),
    Contestant(
        "audit_app",
        "audit_app",
        "sqlalchemy",
        "bare",
        "whole old row, changed columns, key, database role",
        "Flask-Login's user with request, sent with the first write",
        "audit-app",
        reads=True,
    ),
    Contestant(
        "postgresql-audit",
        "PostgreSQL-Audit, statement",
        "sqlalchemy",
        "bare",
        "whole old row, changed columns",
        "Flask-Login's user, by a statement before each flush; none for SQL of one's own",
        "PostgreSQL-Audit",
        reads=True,
    ),
    Contestant(
        "postgresql-audit-row",
        "PostgreSQL-Audit, row",
        "sqlalchemy",
        "bare",
        "whole old row, changed columns",
        "as in its statement mode",
        "PostgreSQL-Audit",
    ),
    Contestant(
        "flask-audit-logger",
        "flask-audit-logger",
        "sqlalchemy",
        "bare",
        "whole old row, changed columns",
        "Flask-Login's user, by a statement before each flush; none for SQL text of one's own",
        "flask-audit-logger",
        reads=True,
    ),
    Contestant(
        "pghistory",
        "django-pghistory, row",
        "django",
        "bare-django",
        "new row only (a deletion: the old one)",
        "pghistory.context(user=…), sent with each write",
        "django-pghistory",
        reads=True,
    ),
    Contestant(
        "pghistory-statement",
        "django-pghistory, statement",
        "django",
        "bare-django",
        "new row only (a deletion: the old one)",
        "as in its row mode",
        "django-pghistory",
    ),
)

BY_NAME = {contestant.name: contestant for contestant in ALL}
