"""What is installed and tracked, at a glance: from the catalog and the newest part of the trail."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal

import sqlalchemy as sa

from audit_app import sql
from audit_app.install import is_installed, relations

if TYPE_CHECKING:
    from audit_app.ddl import AuditedTable, Trail

SCAN: Final = 20_000
"""Activities among which a table's last change is looked for, the newest first."""

State = Literal["tracked", "partly", "untracked", "missing", "orphan"]


@dataclass(frozen=True)
class TableStatus:
    """A table that is declared or tracked.

    :ivar name: quoted, as it is declared.
    :ivar relation: quoted, with its schema; None where the table does not exist.
    :ivar state: ``partly`` where a trigger is off or missing; ``orphan`` where it is tracked and
        the application does not declare it; ``missing`` where the table does not exist.
    :ivar rows_estimate: what the planner believes; None where the table does not exist.
    :ivar bytes: with its indexes and partitions.
    :ivar last_change: None if it is not among the newest :data:`SCAN` changes of the trail.
    """

    name: str
    relation: str | None
    schema_name: str | None
    table_name: str | None
    state: State
    options: dict[str, Any]
    partitions: int
    rows_estimate: int | None
    bytes: int | None
    last_change: datetime | None
    last_activity_id: int | None

    def as_dict(self) -> dict[str, Any]:
        """Return the table for ``json``."""
        found = asdict(self)
        found["last_change"] = self.last_change.isoformat() if self.last_change else None
        return found


@dataclass(frozen=True)
class Status:
    """The trail, and its tables in the order in which they are declared.

    :ivar digest: of the functions that this version of the package installs.
    :ivar installed_digest: of those that are installed; None if nobody knows.
    """

    schema_name: str
    is_installed: bool
    digest: str
    installed_digest: str | None = None
    owner: str | None = None
    bytes: int | None = None
    activities_estimate: int | None = None
    tables: tuple[TableStatus, ...] = ()

    @property
    def is_current(self) -> bool:
        """Whether what is installed is of this version."""
        return self.digest == self.installed_digest

    def as_dict(self) -> dict[str, Any]:
        """Return the status for ``json``."""
        own = {k: v for k, v in vars(self).items() if k != "tables"}
        return {
            **own,
            "is_current": self.is_current,
            "tables": [table.as_dict() for table in self.tables],
        }


def status(
    connection: sa.Connection, trail: Trail, tables: Sequence[AuditedTable], *, scan: int = SCAN
) -> Status:
    """Tell what is installed and tracked, in a number of queries that does not grow.

    Nothing counts the rows of the trail, or of a table.

    :param connection: of a role that may read the trail.
    :param scan: how many of the newest activities are looked at for the last changes.
    """
    if not is_installed(connection, trail):
        return Status(trail.schema_name, is_installed=False, digest=trail.digest)
    names = [table.regclass for table in tables]
    oids = relations(connection, names)
    # In what an administrator runs, only PostgreSQL's own functions may be found; the savepoint
    # takes the setting back.
    with connection.begin_nested() as savepoint:
        connection.execute(sa.text("SET LOCAL search_path = pg_catalog, pg_temp"))
        head = connection.execute(sa.text(sql.query("trail", trail.schema_name))).one()
        changes = connection.execute(
            sa.text(sql.query("last_changes", trail.schema_name)), {"scan": scan}
        )
        last = {(row.schema_name, row.table_name): row for row in changes}
        rows = connection.execute(
            sa.text(sql.query("tables", trail.schema_name)), {"names": names, "relations": oids}
        ).all()
        savepoint.rollback()
    found = []
    for row in rows:
        change = last.get((row.schema_name, row.table_name))
        options = _options(row.comment)
        found.append(
            TableStatus(
                name=row.name,
                relation=row.relation,
                schema_name=row.schema_name,
                table_name=row.table_name,
                state=_state(row, options),
                options=options,
                partitions=max(row.partitions or 0, 0),
                rows_estimate=row.rows_estimate,
                bytes=row.bytes,
                last_change=change.issued_at if change else None,
                last_activity_id=change.id if change else None,
            )
        )
    digest = re.search(r"sha256=([0-9a-f]{64})", head.comment or "")
    return Status(
        schema_name=trail.schema_name,
        is_installed=True,
        digest=trail.digest,
        installed_digest=digest[1] if digest else None,
        owner=head.owner,
        bytes=head.bytes,
        activities_estimate=head.activities_estimate,
        tables=tuple(found),
    )


def _state(row: Any, options: dict[str, Any]) -> State:
    if not row.exists:
        return "missing"
    if not row.triggers:
        return "untracked"
    if row.position is None:
        return "orphan"
    return "tracked" if row.working == len(options.get("on", "1234")) else "partly"


def _options(comment: str | None) -> dict[str, Any]:
    """Read the options in a capture function's comment, which anybody who owns it may have set."""
    try:
        found = json.loads(comment or "{}")["audit_app"]["options"]
    except (ValueError, KeyError, TypeError):
        return {}
    return dict(found) if isinstance(found, dict) else {}
