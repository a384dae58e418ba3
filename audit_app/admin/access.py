"""What one visitor may see: the policies of the AuditLogger, asked about one actor."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from audit_app import directory, history, selection
from audit_app.admin.reading import present

if TYPE_CHECKING:
    from sqlalchemy import orm

    from audit_app.admin.reading import Logger

ROUNDS: Final = 10
"""How often a page reads on because the visitor may not see what it read."""


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

    :ivar tables: the tables that lists show; None for all.
    """

    logger: Logger
    actor: Any
    tables: selection.Tables | None = None
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
            for row in session.execute(directory.recent_tables(logger.activity_cls))
        }
        allowed = {pair for pair in known if access.sees_table(*pair)}
        # A name that may mean another table as well is none by which to tell.
        texts = {text for pair in allowed for text in _texts(pair)}
        texts -= {text for pair in known - allowed for text in _texts(pair)}
        tables = selection.Tables(tuple(sorted(allowed)), tuple(sorted(texts)))
        return dataclasses.replace(access, tables=tables)

    @property
    def by_row(self) -> bool:
        """Whether single changes have to be asked about."""
        return self.logger.can_view_activity is not None

    @property
    def is_limited(self) -> bool:
        """Whether there may be something that this actor must not see."""
        return self.by_row or self.logger.can_view_table is not None

    def restrict(self, filters: selection.Filters) -> selection.Filters:
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
            its size is read for the policies, all at once.
        """
        shown = [present(self.logger, row) for row in rows]
        if not self.is_limited:
            return shown
        shown = [row for row in shown if row.id is None or self._sees_table_of(row)]
        policy = self.logger.can_view_activity
        if policy is not None:
            shown = [row for row in shown if row.id is not None]
        large = [row for row in shown if row.is_large and (policy or row.verb in _ABOUT_TABLES)]
        whole = self._documents(session, large)
        shown = [row for row in shown if self._sees_mark(row, whole)]
        if policy is None:
            return shown
        return [_without_kept(r) for r in shown if policy(self.actor, self._change(r, whole))]

    def ids_of(self, session: orm.Session, ids: Iterable[int]) -> set[int]:
        """Return those of the activities' ids that the actor may see."""
        found = list(ids)
        if not found:
            return set()
        activity, transaction = self.logger.activity_cls, self.logger.transaction_cls
        query = history.activities_by_id(activity, transaction, found)
        return {row.id for row in self.only(session, session.execute(query).all())}

    def seen(self, session: orm.Session, rows: Iterable[Any]) -> list[tuple[Any, str]]:
        """As :meth:`only`, of rows that have ``found_key`` as well."""
        found = list(rows)
        shown = {row.id: row for row in self.only(session, found)}
        return [(shown[row.id], row.found_key) for row in found if row.id in shown]

    def known(self, session: orm.Session, rows: Iterable[Any]) -> list[Any]:
        """Return those of the rows, whatever their columns, whose ids the actor may see.

        Without a policy this takes no query.
        """
        found = list(rows)
        if not self.is_limited:
            return found
        allowed = self.ids_of(session, [row.id for row in found])
        return [row for row in found if row.id in allowed]

    def sees_row(self, newest: Any, row: Mapping[str, Any]) -> bool:
        """Tell whether the actor may see a row as its table holds it now.

        :param newest: the record's newest change, of which they may see.
        """
        policy = self.logger.can_view_activity
        if policy is None:
            return True
        change = self._change(newest, {newest.id: (None, row)})
        return bool(policy(self.actor, change))

    def _sees_table_of(self, row: Any) -> bool:
        return self.sees_table(row.schema_name, row.table_name)

    def _sees_mark(self, row: Any, whole: Mapping[int, tuple[Any, Any]]) -> bool:
        """Tell whether the tables may be seen that a mark tells of, as in selection.is_among()."""
        if self.logger.can_view_table is None or row.verb not in _ABOUT_TABLES:
            return True
        facts = whole.get(row.id, (row.old_data, row.changed_data))[1]
        if self.tables is None or not isinstance(facts, Mapping):
            return False
        if row.verb == "rewrite":
            places = [facts]
            if facts.get("operation") == "rename_table":
                places.append(facts.get("arguments") or {})
            return all((p.get("schema"), p.get("table")) in self.tables.names for p in places)
        if row.verb in selection.RETENTION:
            places = facts.get("places") or []
            is_about_some = bool(facts.keys() & set(selection.RETENTION_SECRETS))
            return not is_about_some and set(map(str, places)) <= set(self.tables.texts)
        given = facts.get("filter")
        if not isinstance(given, Mapping) or given.keys() & set(selection.EXPORT_SECRETS):
            return False
        names = [str(given[name]) for name in ("schema", "table") if given.get(name) is not None]
        is_about_one = bool(given.keys() & set(selection.EXPORT_TABLES))
        return not is_about_one or ".".join(names) in self.tables.texts

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
        for _round in range(ROUNDS if self.is_limited else 1):
            rows = session.execute(page(after)).all()
            shown += self.only(session, rows[:limit])
            if len(shown) > limit or (len(shown) == limit and len(rows) > limit):
                return shown[:limit], shown[limit - 1].id
            if len(rows) <= limit:
                return shown, None
            after = rows[limit - 1].id
        return shown, after

    def neighbours(
        self, session: orm.Session, row: Any, key: str | None = None
    ) -> tuple[int | None, int | None]:
        """Return the ids of the previous and next change of a record that the actor may see.

        :param key: how the record is called; by default as it was before the change.
        """
        key = row.object_key if key is None else key
        if key is None:
            return None, None
        place = self.logger.place(row.schema_name, row.table_name)

        def around(id_: int) -> Any:
            query = history.neighbours(
                self.logger.activity_cls, place.schema, place.name, key, id_,
                formerly=place.formerly,
            )  # fmt: skip
            return session.execute(query).one()

        first = around(row.id)
        found: dict[str, int | None] = {"previous": first.previous, "next": first.next}
        if self.is_limited:
            for way, id_ in found.items():
                for _round in range(ROUNDS):
                    if id_ is None or self.ids_of(session, [id_]):
                        break
                    id_ = getattr(around(id_), way)  # noqa: PLW2901
                else:
                    id_ = None  # noqa: PLW2901
                found[way] = id_
        return found["previous"], found["next"]


_ABOUT_TABLES: Final = frozenset({"rewrite", "export", *selection.RETENTION})
"""Marks of the trail that tell of other tables."""


def _texts(pair: tuple[str, str]) -> tuple[str, str]:
    schema, name = pair
    return name, f"{schema}.{name}"


def _without_kept(row: Any) -> Any:
    """A rewriting's mark without the values that it kept: they are of other changes."""
    if row.verb != "rewrite" or row.old_data is None:
        return row
    return SimpleNamespace(**{**row._mapping, "old_data": None})


def may_export(logger: Logger) -> bool:
    """Tell whether the present actor, who may see the pages, may export from them."""
    return logger.can_export is None or bool(logger.can_export(logger.current_actor()))
