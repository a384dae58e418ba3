"""What one visitor may see: the policies of the AuditLogger, asked about one actor."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from audit_app import history
from audit_app.admin.reading import present

if TYPE_CHECKING:
    from sqlalchemy import orm

    from audit_app.admin.reading import Logger

ROUNDS: Final = 10
"""How often a page reads on because the visitor may not see what it read."""

TablePairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Change:
    """A recorded change, as ``AuditLogger(can_view_activity=…)`` is asked about it.

    Names of tables and columns are the present ones.

    :ivar object_id: the record's identity, as the trail stores it; None for a truncation.
    :ivar old_data: the row before, whole; None for an insert.
    :ivar changed_data: what was written; None for a delete.
    :ivar actor_id: who made it.
    """

    id: int
    transaction_id: int
    issued_at: datetime
    schema: str
    table: str
    verb: str
    object_id: str | None
    old_data: Mapping[str, Any] | None
    changed_data: Mapping[str, Any] | None
    actor_id: str | None
    actor_label: str | None

    @property
    def data(self) -> dict[str, Any]:
        """The row after the change; for a delete the row that was deleted."""
        return {**(self.old_data or {}), **(self.changed_data or {})}


@dataclass(frozen=True)
class Access:
    """What the present actor may see.

    :ivar tables: schema and name, present and former, of each table that lists show; None for all.
    """

    logger: Logger
    actor: Any
    tables: TablePairs | None = None
    _answers: dict[tuple[str, str], bool] = field(default_factory=dict)

    @classmethod
    def of(cls, logger: Logger, session: orm.Session) -> Access:
        """Ask the policies; without ``can_view_table`` this takes no query."""
        access = cls(logger, logger.current_actor())
        if logger.can_view_table is None:
            return access
        known = {name for table in logger.audited_tables() for name in table.place.names}
        known.add((logger.schema_name, "activity"))  # the marks are about the trail itself
        known |= {
            (row.schema_name, row.table_name)
            for row in session.execute(history.recent_tables(logger.activity_cls))
        }
        allowed = tuple(sorted(pair for pair in known if access.sees_table(*pair)))
        return dataclasses.replace(access, tables=allowed)

    @property
    def by_row(self) -> bool:
        """Whether single changes have to be asked about."""
        return self.logger.can_view_activity is not None

    @property
    def is_limited(self) -> bool:
        """Whether there may be something that this actor must not see."""
        return self.by_row or self.logger.can_view_table is not None

    def restrict(self, filters: history.Filters) -> history.Filters:
        """Return the filters, cut to the tables that may be seen."""
        return filters if self.tables is None else dataclasses.replace(filters, tables=self.tables)

    def sees_table(self, schema: str, name: str) -> bool:
        """Tell whether the actor may see a table, under a present or a former name."""
        policy = self.logger.can_view_table
        if policy is None:
            return True
        place = self.logger.place(schema, name)
        key = (place.schema, place.name)
        if key not in self._answers:
            self._answers[key] = bool(policy(self.actor, place))
        return self._answers[key]

    def only(self, session: orm.Session, rows: Iterable[Any]) -> list[Any]:
        """Return the rows that the actor may see, under the present names of their columns.

        :param rows: of :func:`audit_app.history.activity_columns`; what lists leave out because of
            its size is read for the policy, all at once.
        """
        shown = [present(self.logger, row) for row in rows]
        policy = self.logger.can_view_activity
        if policy is None:
            return [row for row in shown if row.id is None or self._sees_table_of(row)]
        shown = [row for row in shown if row.id is not None and self._sees_table_of(row)]
        whole = self._documents(session, [row for row in shown if row.is_large])
        return [row for row in shown if policy(self.actor, self._change(row, whole))]

    def _sees_table_of(self, row: Any) -> bool:
        return self.sees_table(row.schema_name, row.table_name)

    def _documents(self, session: orm.Session, rows: Sequence[Any]) -> dict[int, tuple[Any, Any]]:
        if not rows:
            return {}
        names = {row.id: self.logger.place(row.schema_name, row.table_name) for row in rows}
        found = session.execute(history.documents(self.logger.activity_cls, names))
        return {
            row.id: names[row.id].formerly.present(row.old_data, row.changed_data) for row in found
        }

    def _change(self, row: Any, whole: Mapping[int, tuple[Any, Any]]) -> Change:
        old_data, changed_data = whole.get(row.id, (row.old_data, row.changed_data))
        place = self.logger.place(row.schema_name, row.table_name)
        return Change(
            id=row.id,
            transaction_id=row.transaction_id,
            issued_at=row.issued_at,
            schema=place.schema,
            table=place.name,
            verb=row.verb,
            object_id=row.object_key,
            old_data=old_data,
            changed_data=changed_data,
            actor_id=row.t_actor_id,
            actor_label=row.t_actor_label,
        )

    def read_on(
        self,
        session: orm.Session,
        page: Callable[[int | None], Any],
        *,
        after: int | None,
        limit: int,
    ) -> tuple[list[Any], int | None]:
        """Read the activities of a record or transaction until a page is full.

        :param page: returns the query for the activities beyond an id, one more than ``limit``.
        :return: at the most ``limit`` rows, and the id to go on from; None at the end.
        """
        shown: list[Any] = []
        for _round in range(ROUNDS if self.by_row else 1):
            rows = session.execute(page(after)).all()
            shown += self.only(session, rows[:limit])
            if len(shown) > limit or (len(shown) == limit and len(rows) > limit):
                return shown[:limit], shown[limit - 1].id
            if len(rows) <= limit:
                return shown, None
            after = rows[limit - 1].id
        return shown, after


def may_export(logger: Logger) -> bool:
    """Tell whether the present actor, who may see the pages, may export from them."""
    return logger.can_export is None or bool(logger.can_export(logger.current_actor()))
