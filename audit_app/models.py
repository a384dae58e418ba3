"""``Activity`` and ``Transaction``: the two tables of the trail, mapped on the host's own base."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import base as postgresql_base
from sqlalchemy.ext import hybrid
from sqlalchemy.orm import declared_attr, foreign, relationship, remote

from audit_app import identity
from audit_app.errors import ActorClassError
from audit_app.formerly import Place

if TYPE_CHECKING:
    from sqlalchemy.orm import Mapped, Mapper

VERBS = ("insert", "update", "delete", "truncate")
"""The verbs of business writes, as ``activity.verb`` stores them."""

BASELINE = "baseline"
"""The verb of a row that was there before its table was tracked (``flask audit backfill``)."""

MARKS = (
    "suspend", "resume", "gap", "export", "rewrite", "partition", "prune", "hold", "release",
    "restore", "floor",
)  # fmt: skip
"""The trail's own marks: capture was suspended or resumed, a change could not be recorded, a part
of the trail was exported, what was recorded of a table was rewritten to follow its schema, rows
were moved into partitions of their own, what a policy had outlived was pruned, held, released or
restored from an archive, or it was said how old a row must be to be pruned."""

PERIODS = ("month", "week")
"""What the trail may be partitioned by."""


class XID8(sa.types.UserDefinedType[int]):
    """PostgreSQL's 64-bit transaction id, an ``int`` in Python."""

    cache_ok = True

    def get_col_spec(self, **kw: Any) -> str:
        return "XID8"

    def bind_processor(self, dialect: sa.Dialect) -> Callable[[Any], Any]:
        # As text: a driver that binds on the server would send a bigint, which has no cast to xid8.
        return lambda value: None if value is None else str(value)

    def bind_expression(self, bindvalue: sa.BindParameter[Any]) -> sa.ColumnElement[Any]:
        return sa.cast(sa.cast(bindvalue, sa.Text), self)

    def result_processor(self, dialect: sa.Dialect, coltype: object) -> Callable[[Any], Any]:
        return lambda value: None if value is None else int(value)


# So that reflection, and with it Alembic's autogeneration, knows the type.
postgresql_base.ischema_names["xid8"] = XID8


class Undecoded(dict[str, Any]):
    """A stored row whose JSON Python cannot hold (nested thousands of levels deep): kept as text.

    :ivar raw: the JSON document.
    """

    def __init__(self, raw: str) -> None:
        super().__init__()
        self.raw = raw


class StoredRow(sa.TypeDecorator[dict[str, Any]]):
    """A ``jsonb`` object read without loss: ``10.00`` stays ``Decimal('10.00')``.

    The drivers' own decoding turns numbers into floats, which would show two different stored
    values as the same one; so the document is read as text and decoded here.
    """

    impl = postgresql.JSONB
    cache_ok = True

    def column_expression(self, column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        return sa.type_coerce(sa.cast(column, sa.Text), self)

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Any:
        return decode(value) if isinstance(value, str) else value


def decode(text: str) -> Any:
    """Return what a JSON text holds, its numbers exact; a document too deep to hold as its text."""
    try:
        return json.loads(text, parse_float=Decimal, parse_int=_parse_int)
    except (RecursionError, ArithmeticError):
        return Undecoded(text)


class StoredValue(sa.TypeDecorator[Any]):
    """One value of a stored row, read in the type of its column."""

    impl = postgresql.JSONB
    cache_ok = True

    def __init__(self, column_type: sa.types.TypeEngine[Any]) -> None:
        super().__init__()
        self.column_type = column_type

    def column_expression(self, column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        return sa.type_coerce(sa.cast(column, sa.Text), self)

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Any:
        if not isinstance(value, str):
            return value
        try:
            found = json.loads(value, parse_float=Decimal, parse_int=_parse_int)
        except (RecursionError, ArithmeticError):
            return Undecoded(value)
        return identity.from_json(found, self.column_type)


def _parse_int(text: str) -> int | Decimal:
    # int() refuses texts that are longer than this limit, to bound the time that they take.
    return int(text) if len(text) < sys.int_info.default_max_str_digits else Decimal(text)


class _IdentityComparator(hybrid.Comparator[Any]):
    """Lets ``Activity.object_id == ("GB", "GBP")`` bind the text that the trail stores."""

    def operate(self, op: Any, *other: Any, **kwargs: Any) -> Any:
        return op(self.__clause_element__(), *(self._bind(value) for value in other), **kwargs)

    @staticmethod
    def _bind(value: Any) -> Any:
        if isinstance(value, sa.ClauseElement) or hasattr(value, "__clause_element__"):
            return value
        if isinstance(value, list | set | frozenset):  # in_() takes a list of identities
            return [identity.encode(item) for item in value]
        return identity.encode(value)


@dataclass(frozen=True)
class ModelSet:
    """The two mapped classes of one AuditLogger."""

    activity: type[Any]
    transaction: type[Any]


class TransactionMixin:
    """One database transaction and the context it ran in.

    A second actor within the same database transaction gets a second row.
    """

    if TYPE_CHECKING:
        id: Mapped[int]
        native_transaction_id: Mapped[int]
        issued_at: Mapped[datetime]
        actor_id: Mapped[str | None]
        actor_label: Mapped[str | None]
        client_addr: Mapped[str | None]
        session_user_name: Mapped[str]
        role_name: Mapped[str]
        application_name: Mapped[str | None]
        request_id: Mapped[str | None]
        method: Mapped[str | None]
        url: Mapped[str | None]
        reason: Mapped[str | None]
        activities: Mapped[list[Any]]
    else:
        id = sa.Column(sa.BigInteger, sa.Identity(always=True), primary_key=True)
        native_transaction_id = sa.Column(XID8, nullable=False)
        issued_at = sa.Column(sa.DateTime(timezone=True), nullable=False)
        # No foreign key to the actors: deleting a person must succeed, and the trail keeps names.
        actor_id = sa.Column(sa.Text)
        actor_label = sa.Column(sa.Text)
        client_addr = sa.Column(postgresql.INET)
        session_user_name = sa.Column(sa.Text, nullable=False)
        role_name = sa.Column(sa.Text, nullable=False)
        application_name = sa.Column(sa.Text)
        request_id = sa.Column(sa.Text)
        method = sa.Column(sa.Text)
        url = sa.Column(sa.Text)
        reason = sa.Column(sa.Text)
        # "metadata" is a name that declarative classes keep for themselves.
        meta = sa.Column("metadata", StoredRow)

    @property
    def actor(self) -> Any:
        """The acting person's own object; None where it is unknown, gone, or no model exists."""
        return None

    @property
    def actor_name(self) -> str | None:
        """How the trail names the actor: the label of that moment, else the id."""
        return self.actor_label or self.actor_id

    def __repr__(self) -> str:
        return f"<{type(self).__name__} id={self.id!r} issued_at={self.issued_at!r}>"


class ActivityMixin:
    """One change of one record (or one truncation of one table)."""

    if TYPE_CHECKING:
        id: Mapped[int]
        transaction_id: Mapped[int]
        native_transaction_id: Mapped[int]
        issued_at: Mapped[datetime]
        relid: Mapped[int]
        depth: Mapped[int]
        schema_name: Mapped[str]
        table_name: Mapped[str]
        verb: Mapped[str]
        object_key: Mapped[str | None]
        new_object_key: Mapped[str | None]
        old_data: Mapped[dict[str, Any] | None]
        changed_data: Mapped[dict[str, Any] | None]
        query_text: Mapped[str | None]
        transaction: Mapped[Any]
        metadata: sa.MetaData
        registry: Any
    else:
        id = sa.Column(sa.BigInteger, sa.Identity(always=True), primary_key=True)
        # No foreign key: its check would cost more per row than everything else in the trigger.
        transaction_id = sa.Column(sa.BigInteger, nullable=False)
        native_transaction_id = sa.Column(XID8, nullable=False)
        issued_at = sa.Column(sa.DateTime(timezone=True), nullable=False)
        relid = sa.Column(postgresql.OID, nullable=False)
        depth = sa.Column(sa.SmallInteger, nullable=False)
        schema_name = sa.Column(sa.Text, nullable=False)
        table_name = sa.Column(sa.Text, nullable=False)
        verb = sa.Column(sa.Text, nullable=False)
        object_key = sa.Column("object_id", sa.Text)
        # Where an update changed the key: the identity under which the history goes on.
        new_object_key = sa.Column("new_object_id", sa.Text)
        old_data = sa.Column(StoredRow)
        changed_data = sa.Column(StoredRow)
        query_text = sa.Column(sa.Text)

    @hybrid.hybrid_property
    def data(self) -> dict[str, Any]:
        """The row after the change; for a delete the row that was deleted."""
        return {**(self.old_data or {}), **(self.changed_data or {})}

    @data.inplace.expression
    @classmethod
    def _data_expression(cls) -> sa.ColumnElement[Any]:
        empty = sa.literal_column("'{}'::jsonb", postgresql.JSONB)
        old, changed = (
            sa.func.coalesce(sa.type_coerce(column, postgresql.JSONB), empty)
            for column in (cls.old_data, cls.changed_data)
        )
        return sa.type_coerce(old.op("||")(changed), StoredRow)

    @hybrid.hybrid_property
    def object_id(self) -> Any:
        """The record's identity as its model has it: ``1``, a ``UUID``, ``("GB", "GBP")``."""
        return self._decode(self.object_key)

    @object_id.inplace.comparator
    @classmethod
    def _object_id_comparator(cls) -> _IdentityComparator:
        return _IdentityComparator(cls.object_key)

    @hybrid.hybrid_property
    def new_object_id(self) -> Any:
        """The identity after an update that changed the key; None for every other change."""
        return self._decode(self.new_object_key)

    @new_object_id.inplace.comparator
    @classmethod
    def _new_object_id_comparator(cls) -> _IdentityComparator:
        return _IdentityComparator(cls.new_object_key)

    @property
    def object(self) -> Any:
        """The record after the change (for a delete: before it) as an instance of its model.

        The instance belongs to no session. None where no model is mapped to the table, and for
        truncations. Columns that are not in the trail are left unset.
        """
        mapper = self._mapper()
        if mapper is None or self.object_key is None:
            return None
        return rebuild(mapper, self.data)

    _place = staticmethod(Place)
    """Tells the present name of a table; an AuditLogger knows those that were renamed."""

    def _table(self) -> sa.Table | None:
        place = self._place(self.schema_name, self.table_name)
        return find_table(self.metadata, place.schema, place.name)

    def _mapper(self) -> Mapper[Any] | None:
        found: Mapper[Any] | None = find_mapper(self.registry, self._table(), self.data)
        return found

    def _decode(self, text: str | None) -> Any:
        table = self._table()
        key = [] if table is None else list(table.primary_key)
        return identity.decode(text, key) if key else text

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} id={self.id!r} verb={self.verb!r} "
            f"table_name={self.table_name!r} object_id={self.object_key!r}>"
        )


def build_models(base: type[Any], schema_name: str, *, is_partitioned: bool = False) -> ModelSet:
    """Map the two tables on ``base``, in the schema ``schema_name``.

    The classes are registered as ``AuditTransaction`` and ``AuditActivity``, so that an
    application may have a ``Transaction`` of its own; those of a bind with its key behind the name.

    :param is_partitioned: whether ``db.create_all()`` and the first migration make the tables
        partitioned. The classes are the same: an id is the identity of its row either way.
    """
    options: dict[str, Any] = {"schema": schema_name}
    if is_partitioned:
        options["postgresql_partition_by"] = "RANGE (issued_at)"
    bind_key = base.metadata.info.get("bind_key")
    suffix = "" if bind_key is None else f"_{bind_key}"
    transaction: Any = type(
        f"AuditTransaction{suffix}",
        (TransactionMixin, base),
        {
            **_keys(is_partitioned=is_partitioned),
            "__module__": __name__,
            "__tablename__": "transaction",
            "__table_args__": (
                sa.Index("transaction_issued_at_idx", "issued_at", "id"),
                sa.Index("transaction_actor_idx", "actor_id", "issued_at", "id"),
                options,
            ),
        },
    )

    def _transaction(cls: Any) -> Any:
        return relationship(
            transaction,
            primaryjoin=lambda: foreign(cls.transaction_id) == transaction.id,
            viewonly=True,
            back_populates="activities",
        )

    activity: Any = type(
        f"AuditActivity{suffix}",
        (ActivityMixin, base),
        {
            **_keys(is_partitioned=is_partitioned),
            "__module__": __name__,
            "__tablename__": "activity",
            "__table_args__": (
                # Record first: measured cheaper to write than the table first, and as fast to read.
                sa.Index("activity_object_idx", "object_id", "table_name", "id"),
                sa.Index(
                    "activity_new_object_idx",
                    "new_object_id",
                    "table_name",
                    "id",
                    postgresql_where=sa.text("new_object_id IS NOT NULL"),
                ),
                sa.Index("activity_transaction_idx", "transaction_id", "id"),
                options,
            ),
            "transaction": declared_attr(_transaction),
        },
    )
    transaction.activities = relationship(
        activity,
        primaryjoin=lambda: remote(foreign(activity.transaction_id)) == transaction.id,
        order_by=lambda: activity.id,
        viewonly=True,
        back_populates="transaction",
    )
    return ModelSet(activity=activity, transaction=transaction)


def _keys(*, is_partitioned: bool) -> dict[str, Any]:
    """What a class over a partitioned table has besides: a key in the database that holds the
    column of the partitions, and the identity of the other classes."""
    if not is_partitioned:
        return {}

    def _mapper_args(cls: Any) -> dict[str, Any]:
        return {"primary_key": [cls.__table__.c.id]}

    # Both, so that the id comes first: by it alone, too, a row is found by the key's index.
    return {
        "id": sa.Column(sa.BigInteger, sa.Identity(always=True), primary_key=True),
        "issued_at": sa.Column(sa.DateTime(timezone=True), primary_key=True),
        "__mapper_args__": declared_attr.directive(_mapper_args),
    }


def find_table(metadata: sa.MetaData, schema_name: str, table_name: str) -> sa.Table | None:
    """Return the ``Table`` that the names in the trail stand for; None if the metadata has none.

    A table without a schema in the metadata is found under ``public``.
    """
    table = metadata.tables.get(f"{schema_name}.{table_name}")
    if table is None and schema_name == "public":
        table = metadata.tables.get(table_name)
    return table


def find_mapper(registry: Any, table: sa.Table | None, data: Mapping[str, Any]) -> Any:
    """Return the mapper of a table's row; None if no model is mapped to the table.

    :param registry: of the declarative base.
    :param data: the row as the trail holds it: with single-table inheritance it tells the class.
    """
    candidates: list[Mapper[Any]] = [
        m for m in registry.mappers if table is not None and m.local_table is table
    ]
    if len(candidates) > 1:
        base = next(m for m in candidates if m.inherits not in candidates)
        on = base.polymorphic_on
        value = data.get(on.name) if on is not None else None
        return base.polymorphic_map.get(value, base)
    return candidates[0] if candidates else None


def rebuild(mapper: Mapper[Any], data: Mapping[str, Any]) -> Any:
    """Return an instance of a model with the values that the trail holds, in no session."""
    instance = mapper.class_manager.new_instance()
    for column in mapper.columns:
        if column.name in data:
            value = identity.from_json(data[column.name], column.type)
            key = mapper.get_property_by_column(column).key
            sa.orm.attributes.set_committed_value(instance, key, value)
    return instance


def resolve_actor_class(base: type[Any], actor_cls: type[Any] | str) -> type[Any] | None:
    """Return the mapped class that ``actor_cls`` names on ``base``; None if there is none."""
    if isinstance(actor_cls, type):
        return actor_cls
    found = [mapper for mapper in base.registry.mappers if mapper.class_.__name__ == actor_cls]
    # The binds of an application share the registry: this database's own class comes first.
    found.sort(
        key=lambda mapper: getattr(mapper.local_table, "metadata", None) is not base.metadata
    )
    return found[0].class_ if found else None


def relate_actor(transaction_cls: Any, actor_cls: type[Any]) -> None:
    """Give ``transaction_cls`` the relationship ``actor`` to ``actor_cls``.

    ``actor_id`` is text that may hold anything ("cron"), and the actor's key a number or a UUID.
    The text is turned into the key only where it has the form of one, so that the lookup uses the
    index of the actors and never fails.

    :raises ActorClassError: if the class is not mapped or its key has several columns.
    """
    mapper = sa.inspect(actor_cls, raiseerr=False)
    if mapper is None or not getattr(mapper, "is_mapper", False):
        raise ActorClassError(
            f"actor_cls={actor_cls.__name__} is not a mapped class: pass the model of your "
            "users, its name, or actor_cls=None to do without one."
        )
    if len(mapper.primary_key) != 1:
        raise ActorClassError(
            f"actor_cls={actor_cls.__name__} has a key of {len(mapper.primary_key)} columns, and "
            "an actor id is one value: pass actor_cls=None and label actors with get_actor_label."
        )
    key = mapper.primary_key[0]
    transaction_cls.actor = relationship(
        actor_cls,
        primaryjoin=lambda: remote(key) == _as_key(foreign(transaction_cls.actor_id), key.type),
        viewonly=True,
        uselist=False,
    )


_KEY_FORMS: Sequence[tuple[type[sa.types.TypeEngine[Any]], str]] = (
    (sa.Integer, r"^-?[0-9]{1,18}$"),
    (sa.Uuid, r"^[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}$"),
)


def _as_key(column: Any, type_: sa.types.TypeEngine[Any]) -> sa.ColumnElement[Any]:
    # A lazy load puts a literal in the column's place, which must not be read as a number before
    # its form is known.
    actor_id = sa.cast(column, sa.Text)
    for kind, form in _KEY_FORMS:
        if isinstance(type_, kind):
            target = sa.BigInteger() if kind is sa.Integer else type_
            return sa.case((actor_id.op("~")(form), sa.cast(actor_id, target)))
    return actor_id if isinstance(type_, sa.String) else sa.cast(actor_id, type_)
