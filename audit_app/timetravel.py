"""What a logger knows of other times: reading the past, and plans that act on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import sqlalchemy as sa
from sqlalchemy import orm

from audit_app import context, history, models, past
from audit_app import identity as identities
from audit_app.context import UNSET
from audit_app.errors import InvalidOptionError, NotInitializedError
from audit_app.revert import Plan, applying, document
from audit_app.revert.making import Maker

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from audit_app.ddl import AuditedTable
    from audit_app.formerly import Place


class TimeTravel:
    """The part of an :class:`audit_app.AuditLogger` that is about other times."""

    if TYPE_CHECKING:
        schema_name: str
        _models: models.ModelSet | None

        @property
        def base(self) -> type[Any]: ...
        @property
        def activity_cls(self) -> Any: ...
        @property
        def transaction_cls(self) -> Any: ...
        @property
        def metadata(self) -> sa.MetaData: ...
        @property
        def session(self) -> Any: ...
        def audited(self, target: Any) -> AuditedTable: ...
        def audited_tables(self) -> tuple[AuditedTable, ...]: ...
        def place(self, schema_name: str, table_name: str) -> Place: ...
        def context(
            self, *, reason: str | None, **metadata: Any
        ) -> AbstractContextManager[None]: ...

    # -- Reading the past ---------------------------------------------------------------------

    def version_at(
        self,
        target: Any,
        identity: Any = None,
        *,
        when: Any = None,
        transaction_id: int | None = None,
        form: Literal["data", "row", "instance"] = "data",
        session: Any = None,
    ) -> Any:
        """Return the row that a record was at a moment, as the trail holds it.

        ::

            audit_logger.version_at(Article, 1, when=datetime(2026, 5, 1, tzinfo=UTC))
            # {"id": 1, "title": "Draft", "price": Decimal("9.90")}

        :param target: an instance; or a model or ``Table``, with the record's ``identity``.
        :param when: a datetime with a time zone; or the id of an activity, an activity or a
            transaction, after which the row is meant: this is exact where moments tie.
        :param transaction_id: the same as a transaction, by its id.
        :param form: ``"data"`` for the values of ``activity.data`` by column, ``"row"`` for the
            same in the types of the columns, ``"instance"`` for a read-only instance of the model.
        :param session: a ``Session`` or ``Connection`` to read with; by default ``db.session``.
        :return: the row under the present names of its columns; None if it did not exist then.
        :raises UnknownVersionError: if the trail does not reach back to that moment.
        :raises NotVersionedError: if the table is not tracked.
        :raises InvalidOptionError: if it is not clear when is meant, or no record is named.
        """
        audited, key = self._record(target, identity, "version_at")
        moment = self._moment(when, transaction_id)
        query = history.version_at(
            self.activity_cls, audited.schema, audited.name, key, moment.limit(self.activity_cls),
            formerly=audited.formerly,
        )  # fmt: skip
        reader = self.session if session is None else session
        rows = reader.execute(query).all()
        parts = {row.part: row for row in rows}
        is_tracked = False
        if parts and not {"last", "holder"} & set(parts):
            is_tracked = any(row.whole_from is not None for row in rows) or reader.scalar(
                past.was_tracked(self.activity_cls, audited.place, moment)
            )
        data = history.state_of(rows, audited.formerly, is_tracked=is_tracked)
        if data is None and "emptied" in parts:
            # If that was a partition, this record may have been in another one.
            emptied = parts["emptied"].relid
            if reader.scalar(past.is_partition(emptied)):
                record = past.as_of(self.schema_name, audited, self._table(target), moment, key)
                if reader.execute(sa.select(record).limit(1)).first() is not None:
                    others = [row for row in rows if row.part != "emptied"]
                    data = history.state_of(others, audited.formerly, is_tracked=is_tracked)
        if form == "data":
            return data
        table = self._table(target)
        hidden = past.hidden_columns(audited, table)
        values = past.typed(table, data, hidden)
        return values if form == "row" else past.instance(_model(target), values, hidden)

    def versions(self, target: Any, identity: Any = None) -> sa.Select[Any]:
        """Return the query for the versions of a record; see :func:`audit_app.past.versions`.

        :param target: an instance; or a model or ``Table``, with the record's ``identity``.
        :raises NotVersionedError: if the table is not tracked.
        """
        audited, key = self._record(target, identity, "versions")
        return past.versions(self.activity_cls, self.transaction_cls, audited.place, key)

    def version_summary(self, target: Any, identity: Any = None) -> Any:
        """Return the query for a record's number of ``versions``, its ``first`` and ``last``."""
        audited, key = self._record(target, identity, "version_summary")
        return past.summary(self.activity_cls, self.transaction_cls, audited.place, key)

    def field_history(self, target: Any, identity: Any = None, *, field: Any) -> sa.Select[Any]:
        """Return the query for the values of a field; see :func:`audit_app.past.field_history`.

        :param field: an attribute, its name, or the name of its column.
        :raises UnknownColumnError: if there is no such field.
        :raises InvalidOptionError: if the trail does not hold its values.
        """
        audited, key = self._record(target, identity, "field_history")
        table = self._table(target)
        column = past.find_column(sa.inspect(_model(target), raiseerr=False), table, field)
        if column.name in past.hidden_columns(audited, table):
            raise InvalidOptionError(
                f"The trail does not hold the values of {column.name!r}: it is excluded, masked "
                "or computed."
            )
        return past.field_history(
            self.activity_cls, self.transaction_cls, audited.place, key, column
        )

    def as_of(
        self, target: Any, when: Any = None, *, transaction_id: int | None = None
    ) -> sa.Subquery:
        """Return a whole table as it was at a moment, to select from and to join.

        ::

            then = audit_logger.as_of(Article, datetime(2026, 5, 1, tzinfo=UTC))
            sa.select(then.c.title).where(then.c.price > 10)

        Its columns stand for those of the model, so ``aliased(Article, then)`` works, too: in a
        session that holds no present articles, or for columns of it. For instances, give rows to
        :meth:`past_instances`.

        :param target: a model or a ``Table``.
        :param when: as for :meth:`version_at`.
        :raises NotVersionedError: if the table, or another one of the model's, is not tracked.
        :raises InvalidOptionError: if it is not clear when is meant.
        """
        moment = self._moment(when, transaction_id)
        if isinstance(target, sa.Table):
            return past.as_of(self.schema_name, self.audited(target), target, moment)

        def read(table: sa.Table) -> sa.Subquery:
            return past.as_of(self.schema_name, self.audited(table), table, moment)

        self.audited(target)
        return past.joined_as_of(sa.inspect(_model(target)), read)

    def past_instances(self, model: type[Any], rows: Iterable[Any]) -> list[Any]:
        """Return rows of the past as read-only instances of ``model``, which belong to no session.

        :param rows: of a query on :meth:`as_of` or :meth:`related_at`; or of :meth:`versions` or
            :meth:`deleted`, by their ``data`` (None where there was no row).
        """
        hidden = past.hidden_columns(self.audited(model), self._table(model))
        return past.instances(model, self._table(model), rows, hidden)

    def deleted(self, target: Any) -> sa.Select[Any]:
        """Return the query for what is deleted now; see :func:`audit_app.past.deleted`."""
        place = self.audited(target).place
        return past.deleted(self.activity_cls, self.transaction_cls, place)

    def changes_between(self, since: Any, until: Any, target: Any = None) -> sa.Select[Any]:
        """Return the query for the activities after ``since`` and up to ``until``, in their order.

        What was at ``since``, with these changes, is what was at ``until``.

        :param since, until: as ``when`` of :meth:`version_at`.
        :param target: a model or ``Table`` whose changes are wanted; by default all.
        """
        return past.changes_between(
            self.activity_cls,
            self.transaction_cls,
            self._moment(since, None),
            self._moment(until, None),
            None if target is None else self.audited(target).place,
        )

    def related_at(
        self,
        target: Any,
        identity: Any = None,
        *,
        name: str,
        when: Any = None,
        transaction_id: int | None = None,
    ) -> sa.Select[Any]:
        """Return the query for what a relationship of a record led to at a moment.

        The rows have the columns of the related model. Both tables, and the association table of a
        many-to-many relationship, have to be tracked.

        :param name: of the relationship.
        :param when: as for :meth:`version_at`.
        :raises InvalidOptionError: if the model has no such relationship.
        """
        audited, key = self._record(target, identity, "related_at")
        moment = self._moment(when, transaction_id)
        model = _model(target)
        relationship = sa.inspect(model).relationships.get(name)
        if relationship is None:
            raise InvalidOptionError(f"{model.__name__} has no relationship {name!r}.")
        schema = self.schema_name
        record = past.as_of(schema, audited, self._table(target), moment, key)
        there = relationship.mapper.class_
        secondary = relationship.secondary
        return past.related(
            name,
            orm.aliased(model, record),
            orm.aliased(there, self.as_of(there, when, transaction_id=transaction_id)),
            None
            if secondary is None
            else past.as_of(schema, self.audited(secondary), secondary, moment),
        )

    def _record(self, target: Any, identity: Any, function: str) -> tuple[AuditedTable, str]:
        """The table and the key, as the trail has it, of the record that was named."""
        audited = self.audited(target)
        if identity is None and not isinstance(target, type | sa.Table):
            identity = sa.inspect(target).identity
        key = identities.encode(identity)
        if key is None:
            raise InvalidOptionError(f"{function}() needs a record: pass its identity as well.")
        return audited, key

    def _moment(self, when: Any, transaction_id: int | None) -> past.Moment:
        return past.Moment.parse(when, transaction_id, (self.activity_cls, self.transaction_cls))

    @staticmethod
    def _table(target: Any) -> sa.Table:
        table: sa.Table = target if isinstance(target, sa.Table) else target.__table__
        return table

    # -- Acting on the past -------------------------------------------------------------------

    def plan_restore(
        self,
        target: Any,
        identity: Any = None,
        version: int | datetime | None = None,
        fields: Iterable[str] | None = None,
        *,
        session: Any = None,
    ) -> Plan:
        """Plan to give a record the values that it had; nothing is written yet.

        ::

            plan = audit_logger.plan_restore(Article, 1, version=datetime(2026, 5, 1, tzinfo=UTC))
            print(plan)
            plan.apply(db.session, reason="Overwritten by mistake")

        :param target: an instance; or a model or ``Table``, with the record's ``identity``.
        :param version: the id of an activity of the record, which means the state after it; or a
            moment with a time zone.
        :param fields: the columns, or attributes, to restore; by default all but the key.
        :param session: a ``Session`` or ``Connection`` to read with; by default ``db.session``.
        :raises PlanError: if the record did not exist then.
        :raises RecordNotFoundError: if the activity is none of this record.
        :raises NotVersionedError: if the table is not tracked.
        """
        audited, identity = self._target(target, identity)
        if version is None:
            raise InvalidOptionError(
                "plan_restore() needs a version: an activity's id or a moment."
            )
        names = None if fields is None else _column_names(target, fields)
        return self._planned(
            session, lambda maker: maker.restore(audited, identity, version, names)
        )

    def plan_undelete(
        self,
        target: Any,
        identity: Any = None,
        with_children: bool = True,  # noqa: FBT001, FBT002 - it reads well by position, too
        *,
        session: Any = None,
    ) -> Plan:
        """Plan to bring a deleted record back; nothing is written yet.

        :param target: a model or ``Table``, with the record's ``identity``.
        :param with_children: whether to bring back, too, what the same transaction deleted because
            it referred to the record, and the references that it set to NULL.
        :raises PlanError: if the trail holds no deletion of the record.
        :raises NotVersionedError: if the table is not tracked.
        """
        audited, identity = self._target(target, identity)
        return self._planned(
            session, lambda maker: maker.undelete(audited, identity, with_children=with_children)
        )

    def plan_undo(
        self,
        transaction_id: int | None = None,
        *,
        actor: Any = UNSET,
        between: tuple[datetime, datetime] | None = None,
        session: Any = None,
    ) -> Plan:
        """Plan to take back a transaction, or what somebody did in a time; nothing is written yet.

        ::

            audit_logger.plan_undo(4711)
            audit_logger.plan_undo(actor=user, between=(start, end))

        :param actor: an id or an object with one; None for what nobody is known to have done.
        :param between: the first moment, and the first that is too late, with time zones.
        :raises RecordNotFoundError: if there is no such transaction, or nothing was done.
        """
        by_actor = actor is not UNSET
        if (transaction_id is None) == (not by_actor) or by_actor != (between is not None):
            raise InvalidOptionError(
                "plan_undo() needs a transaction's id, or actor=… together with between=(…, …)."
            )
        if transaction_id is not None:
            id_ = transaction_id
            return self._planned(
                session,
                lambda maker: maker.undo([id_], f"Undo transaction {id_}", {"transaction": id_}),
            )
        since, until = between or (None, None)
        if since is None or until is None or since.tzinfo is None or until.tzinfo is None:
            raise InvalidOptionError(f"between={between!r} needs two moments with a time zone.")
        actor_id = context.actor_identity(actor)
        title = f"Undo what {actor_id or 'nobody known'} did from {since} to {until}"

        def undo(maker: Maker) -> Plan:
            ids = maker.transactions_of(actor_id, since, until)
            return maker.undo(ids, title, {"transactions": ids})

        return self._planned(session, undo)

    def plan_from_json(self, text: str) -> Plan:
        """Return the plan that ``plan.to_json()`` wrote.

        Its form, its tables and its columns are checked, and its values are for the database to
        judge: a text that came through somebody else's hands needs a signature.

        :raises PlanError: if it is damaged, or names a table or column that no tracked model has.
        """
        known = {}
        for audited in self.audited_tables():
            table = models.find_table(self.metadata, audited.schema, audited.name)
            if table is not None:
                known[audited.schema, audited.name] = frozenset(column.name for column in table.c)
        return self._bound(document.load(text, known))

    def _target(self, target: Any, identity: Any) -> tuple[AuditedTable, Any]:
        if identity is None and not isinstance(target, type | sa.Table):
            identity = sa.inspect(target).identity
        return self.audited(target), identity

    def _planned(self, session: Any, make: Callable[[Maker], Plan]) -> Plan:
        pair = self._models
        if pair is None:
            raise NotInitializedError
        session = self.session if session is None else session
        flush(session)
        connection = applying.connection_of(session, pair.transaction)
        maker = Maker(connection, pair, self.audited_tables(), self.place)
        return self._bound(make(maker))

    def _bound(self, plan: Plan) -> Plan:
        return replace(plan, applier=partial(applying.apply, self))


def _model(target: Any) -> Any:
    return target if isinstance(target, type | sa.Table) else type(target)


def _column_names(target: Any, fields: Iterable[str]) -> list[str]:
    """Return the columns that names of columns or attributes stand for."""
    mapper = None if isinstance(target, sa.Table) else sa.inspect(target, raiseerr=False)
    mapper = getattr(mapper, "mapper", None)
    known = {} if mapper is None else {key: c.name for key, c in mapper.columns.items()}
    names = [fields] if isinstance(fields, str) else [*fields]
    return [known.get(name, name) for name in names]


def flush(session: Any) -> None:
    """What waits in the session belongs to the state it was added under."""
    if not isinstance(session, sa.Connection):
        session.flush()
