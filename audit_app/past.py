"""Reading the past: queries for what a table or a record was, and instances of it.

Like those of :mod:`audit_app.history`, the functions here return a ``Select`` that the caller
executes. A whole table at a moment comes from the function ``as_of()`` of the trail
(``sql/past.sql``), in the types of the columns; what concerns one record is read by its index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import aliased
from sqlalchemy.sql import visitors

from audit_app import history
from audit_app import identity as identities
from audit_app.ddl import AuditedTable
from audit_app.errors import InvalidOptionError, ReadOnlyError, UnknownColumnError
from audit_app.formerly import Place
from audit_app.install import as_jsonb
from audit_app.models import BASELINE, VERBS, StoredRow, StoredValue

_THERE = ("insert", "update", BASELINE)
_RECORDED = (*VERBS, BASELINE)


# -- When --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Moment:
    """A place in the trail: exactly one of the three is set.

    :ivar at: what had been issued by then counts: the moment at which each statement began.
    :ivar activity_id: this activity and those before it count, in the order of the ids.
    :ivar transaction_id: the last activity of this transaction, and those before it, count.
    """

    at: datetime | None = None
    activity_id: int | None = None
    transaction_id: int | None = None

    @classmethod
    def parse(cls, when: Any, transaction_id: int | None, models: tuple[type, type]) -> Moment:
        """Return the moment that the arguments of the public functions mean.

        :param models: the mapped classes of activities and transactions.
        :raises InvalidOptionError: if it is not clear.
        """
        activity, transaction = models
        if (when is None) == (transaction_id is None):
            raise InvalidOptionError("Say when: pass either when=… or transaction_id=….")
        if transaction_id is not None:
            return cls(transaction_id=transaction_id)
        if isinstance(when, transaction):
            return cls(transaction_id=when.id)  # type: ignore[attr-defined]
        if isinstance(when, activity):
            return cls(activity_id=when.id)  # type: ignore[attr-defined]
        if isinstance(when, int) and not isinstance(when, bool):
            return cls(activity_id=when)
        if not isinstance(when, datetime):
            raise InvalidOptionError(
                f"when={when!r} is no moment: pass a datetime with a time zone, the id of an "
                "activity, an activity or a transaction."
            )
        if when.tzinfo is None:
            raise InvalidOptionError(
                f"when={when!r} has no time zone: give it one, as in datetime(…, tzinfo=UTC)."
            )
        return cls(at=when)

    def last_id(self, activity: Any) -> Any:
        """Return the id of the last activity that counts; an expression for a transaction."""
        if self.transaction_id is None:
            return self.activity_id
        of = aliased(activity)
        return (
            sa.select(sa.func.max(of.id))
            .where(of.transaction_id == self.transaction_id)
            .scalar_subquery()
        )

    def limit(self, activity: Any) -> Any:
        """Return what :func:`audit_app.history.version_at` takes."""
        return self.at if self.at is not None else self.last_id(activity)

    def counts(self, activity: Any) -> sa.ColumnElement[bool]:
        """Return the condition that an activity is not later."""
        condition: sa.ColumnElement[bool] = (
            activity.issued_at <= self.at
            if self.at is not None
            else activity.id <= self.last_id(activity)
        )
        return condition


# -- One record --------------------------------------------------------------------------------


def versions(activity: Any, transaction: Any, place: Place, key: str) -> sa.Select[Any]:
    """Return the query for the versions of a record, the oldest first.

    One row for each activity: ``number`` (from 1), ``previous_id``, ``id``, ``next_id``,
    ``valid_from``, ``valid_to`` (the first moment at which it was not valid any more; NULL for what
    still is), ``verb``, ``transaction_id``, ``actor_id``, ``actor_label``, ``reason``,
    ``object_key``, ``new_object_key``, ``data`` (the row since then under its present names; NULL
    after a delete or a truncation). A truncation that the record fell victim to is a row, too.

    :param key: the text of ``activity.object_key``.
    """
    own, cut = history.story(activity, place, key, _facts), _truncations(activity, place, _facts)
    story = sa.union_all(sa.select(own.subquery("own")), cut).subquery("story")
    before = sa.func.max(story.c.id).filter(story.c.verb != "truncate")
    placed = sa.select(
        story, before.over(order_by=story.c.id, rows=(None, -1)).label("before")
    ).subquery("placed")
    state = aliased(activity)
    taken = (
        sa.select(_was_emptied(activity, placed.c.relid, _present(state, place)))
        .where(state.id == placed.c.before, state.verb.in_(_THERE))
        .scalar_subquery()
    )
    # The rest of the table may have been truncated without this record.
    seen = (
        sa.select(
            placed,
            sa.func.row_number()
            .over(partition_by=(placed.c.before, placed.c.verb), order_by=placed.c.id)
            .label("again"),
        )
        .where(sa.case((placed.c.verb == "truncate", taken), else_=sa.true()))
        .subquery("seen")
    )
    ordered: dict[str, Any] = {"order_by": seen.c.id}
    version = (
        sa.select(
            sa.func.row_number().over(**ordered).label("number"),
            sa.func.lag(seen.c.id).over(**ordered).label("previous_id"),
            seen.c.id,
            sa.func.lead(seen.c.id).over(**ordered).label("next_id"),
            seen.c.issued_at.label("valid_from"),
            # A statement that began earlier may come later in the order of the ids, and then what
            # was between them was never the last one that had been issued.
            sa.func.min(seen.c.issued_at).over(**ordered, rows=(1, None)).label("valid_to"),
        )
        .where(sa.or_(seen.c.verb != "truncate", seen.c.again == 1))
        .subquery("version")
    )
    # One look by its key for each, whatever the planner takes their number for.
    row = (
        sa.select(
            activity.verb.label("verb"),
            activity.transaction_id.label("transaction_id"),
            activity.object_key.label("object_key"),
            activity.new_object_key.label("new_object_key"),
            sa.type_coerce(
                sa.case((activity.verb.in_(_THERE), _present(activity, place))), StoredRow
            ).label("data"),
        )
        .where(activity.id == version.c.id)
        .limit(1)
        .lateral("row")
    )
    return (
        sa.select(
            version.c.number,
            version.c.previous_id,
            version.c.id,
            version.c.next_id,
            version.c.valid_from,
            version.c.valid_to,
            row.c.verb,
            row.c.transaction_id,
            *_actor(transaction),
            row.c.object_key,
            row.c.new_object_key,
            row.c.data,
        )
        .select_from(version.join(row, sa.true()))
        .outerjoin(transaction, transaction.id == row.c.transaction_id)
        .order_by(version.c.number)
    )


def summary(activity: Any, transaction: Any, place: Place, key: str) -> Any:
    """Return the query for the number of a record's ``versions`` and their ``first`` and ``last``
    moment; one row."""
    version = versions(activity, transaction, place, key).order_by(None).subquery("version")
    return sa.select(
        sa.func.count().label("versions"),
        sa.func.min(version.c.valid_from).label("first"),
        sa.func.max(version.c.valid_from).label("last"),
    ).select_from(version)


def field_history(
    activity: Any, transaction: Any, place: Place, key: str, column: sa.Column[Any]
) -> sa.Select[Any]:
    """Return the query for the values that a field of a record had, the oldest first.

    Columns ``id``, ``verb``, ``issued_at``, ``transaction_id``, ``actor_id``, ``actor_label``,
    ``reason``, ``old`` and ``new`` (in the type of the column; NULL where there was no row, too).
    Changes that left the field alone are not among them.
    """
    names = [
        sa.literal(name, sa.Text)
        for name in (column.name, *dict(place.formerly.columns).get(column.name, ()))
    ]

    def documents(found: Any) -> tuple[Any, Any, Any]:
        old, changed = _jsonb(found.old_data), _jsonb(found.changed_data)
        whole = sa.func.coalesce(old, changed, type_=postgresql.JSONB)
        return old, changed, sa.case(*((whole.has_key(name), name) for name in names))

    def columns(found: Any) -> list[Any]:
        old, changed, name = documents(found)
        new = sa.case((found.verb != "delete", changed.op("->")(name)))
        value = StoredValue(column.type)
        return [
            *_facts(found)[:3],
            found.transaction_id.label("transaction_id"),
            sa.type_coerce(old.op("->")(name), value).label("old"),
            sa.type_coerce(new, value).label("new"),
        ]

    def concerns(found: Any) -> Any:
        _old, changed, name = documents(found)
        return sa.case((found.verb == "update", changed.has_key(name)), else_=name.is_not(None))

    story = history.story(activity, place, key, columns, concerns).subquery("story")
    return (
        sa.select(story, *_actor(transaction))
        .outerjoin(transaction, transaction.id == story.c.transaction_id)
        .order_by(story.c.id)
    )


def was_tracked(activity: Any, place: Place, moment: Moment) -> sa.Select[Any]:
    """Return the query for whether anything of a table had been recorded by a moment."""
    found = sa.select(activity.id).where(_of(activity, place), moment.counts(activity))
    return sa.select(found.exists())


def is_partition(relation: int) -> sa.Select[Any]:
    """Return the query for whether a relation is a partition of a table today."""
    catalog = sa.table(
        "pg_class", sa.column("oid"), sa.column("relispartition"), schema="pg_catalog"
    )
    return sa.select(catalog.c.relispartition).where(catalog.c.oid == relation)


# -- Tables ------------------------------------------------------------------------------------


def as_of(
    schema_name: str, audited: AuditedTable, table: sa.Table, moment: Moment, key: str | None = None
) -> sa.Subquery:
    """Return a table as it was, with the columns of ``table``.

    :param schema_name: the schema of the trail.
    :param key: restricts it to one record, as the trail names it; its key then may have been
        another.
    """
    call = getattr(sa.func, schema_name).as_of(
        sa.literal_column(f"CAST(NULL AS {audited.regclass})"),
        sa.cast(moment.at, sa.DateTime(timezone=True)),
        sa.cast(moment.activity_id, sa.BigInteger),
        sa.cast(moment.transaction_id, sa.BigInteger),
        _formerly(audited.place),
        sa.cast(key, sa.Text),
    )
    rows = call.table_valued(*(sa.column(c.name, c.type) for c in table.c), name="past")
    # By the empty half, the columns stand for those of the table: what is written for the model
    # can be read from here.
    return sa.union_all(
        sa.select(*table.c).where(sa.false()), sa.select(*(rows.c[c.name] for c in table.c))
    ).subquery()


def joined_as_of(mapper: orm.Mapper[Any], read: Callable[[sa.Table], sa.Subquery]) -> sa.Subquery:
    """Return the tables of a mapper as they were, joined as its inheritance joins them.

    :param read: returns one of the tables as it was.
    """
    tables = [table for table in mapper.tables if isinstance(table, sa.Table)]
    parts = {table: read(table) for table in tables}
    if len(tables) == 1:
        return parts[tables[0]]

    def replace(element: Any, **_: Any) -> Any:
        part = parts.get(getattr(element, "table", None))  # type: ignore[arg-type]
        return None if part is None else part.corresponding_column(element)

    line = [m for m in reversed(list(mapper.iterate_to_root())) if m.local_table in parts]
    source: Any = parts[line[0].local_table]
    seen = {line[0].local_table}
    for child in line[1:]:
        if child.local_table not in seen:
            seen.add(child.local_table)
            condition = visitors.replacement_traverse(child.inherit_condition, {}, replace)
            source = source.join(parts[child.local_table], condition)
    columns = [column for table in seen for column in parts[table].c]
    return sa.select(*columns).select_from(source).subquery()


def deleted(activity: Any, transaction: Any, place: Place) -> sa.Select[Any]:
    """Return the query for the records that are deleted now, the newest deletion first.

    Columns ``id`` (of the activity that ended it), ``object_key``, ``deleted_at``, ``verb``
    (``delete`` or ``truncate``), ``transaction_id``, ``actor_id``, ``actor_label``, ``reason``,
    ``data`` (the last state). A truncation names only what the trail knew of by then.
    """
    last, later, moved = activity, aliased(activity), aliased(activity)
    key = sa.func.coalesce(last.new_object_key, last.object_key)
    cut = _truncations(activity, place, _facts).subquery("cut")
    first_cut = (
        sa.select(sa.func.min(cut.c.id))
        .where(cut.c.id > last.id, _was_emptied(activity, cut.c.relid, _present(last, place)))
        .scalar_subquery()
    )
    last_cut = sa.select(sa.func.max(cut.c.id)).scalar_subquery()
    gone = (
        sa.select(
            last.id.label("last_id"),
            sa.case((last.verb == "delete", last.id), else_=first_cut).label("end_id"),
            key.label("object_key"),
        )
        .where(
            _of(last, place),
            last.object_key.is_not(None),
            last.verb.in_(_RECORDED),
            sa.or_(last.verb == "delete", last.id < last_cut),
            ~sa.exists().where(later.object_key == key, later.id > last.id, _of(later, place)),
            ~sa.exists().where(moved.new_object_key == key, moved.id > last.id, _of(moved, place)),
        )
        .subquery("gone")
    )
    end, state = aliased(activity), aliased(activity)
    return (
        sa.select(
            end.id.label("id"),
            gone.c.object_key,
            end.issued_at.label("deleted_at"),
            end.verb.label("verb"),
            end.transaction_id.label("transaction_id"),
            *_actor(transaction),
            _present(state, place).label("data"),
        )
        .select_from(gone)
        .join(end, end.id == gone.c.end_id)
        .join(state, state.id == gone.c.last_id)  # an end is NULL for what is there still
        .outerjoin(transaction, transaction.id == end.transaction_id)
        .order_by(gone.c.end_id.desc(), gone.c.last_id.desc())
    )


def changes_between(
    activity: Any, transaction: Any, since: Moment, until: Moment, place: Place | None
) -> sa.Select[Any]:
    """Return the query for the activities after ``since`` and not after ``until``, in their order.

    Rows of an activity and its ``actor_id``, ``actor_label`` and ``reason``.

    :param place: restricts it to one table.
    """
    query = (
        sa.select(activity, *_actor(transaction))
        .outerjoin(transaction, transaction.id == activity.transaction_id)
        .where(activity.verb.in_(_RECORDED), until.counts(activity), ~since.counts(activity))
        .order_by(activity.id)
    )
    return query if place is None else query.where(_of(activity, place))


def related(name: str, parent: Any, target: Any, secondary: sa.Subquery | None) -> sa.Select[Any]:
    """Return the query for what a relationship led to; the columns are those of the target.

    :param parent: the alias of the model over the record as it was.
    :param target: the alias of the related model over its table as it was.
    :param secondary: the association table as it was.
    """
    found = sa.inspect(target).selectable
    relationship = sa.inspect(parent).mapper.relationships[name]
    query = sa.select(*found.c).select_from(parent)
    if secondary is None:
        query = query.join(getattr(parent, name).of_type(target))
    else:
        source = sa.inspect(parent).selectable

        def pairs(given: Any, side: Any) -> Any:
            return sa.and_(
                *(
                    side.corresponding_column(left) == secondary.corresponding_column(right)
                    for left, right in given
                )
            )

        query = query.join(secondary, pairs(relationship.synchronize_pairs, source)).join(
            target, pairs(relationship.secondary_synchronize_pairs, found)
        )
    key = [found.corresponding_column(c) for c in relationship.mapper.primary_key]
    return query.order_by(*key)


def hidden_columns(audited: AuditedTable, table: sa.Table) -> tuple[str, ...]:
    """Return the names of the columns whose values the trail does not hold, in their order."""
    options = audited.options
    return tuple(
        column.name
        for column in table.c
        if column.name in options.exclude
        or column.name in options.mask
        or not (options.include is None or column.name in options.include or column.primary_key)
        or (column.computed is not None and column.computed.persisted is False)
    )


def _facts(activity: Any) -> list[Any]:
    return [
        activity.id.label("id"),
        activity.verb.label("verb"),
        activity.issued_at.label("issued_at"),
        activity.relid.label("relid"),
    ]


def _actor(transaction: Any) -> list[Any]:
    return [
        transaction.actor_id.label("actor_id"),
        transaction.actor_label.label("actor_label"),
        transaction.reason.label("reason"),
    ]


def _truncations(
    activity: Any, place: Place, columns: Callable[[Any], Sequence[Any]]
) -> sa.Select[Any]:
    found = aliased(activity)
    # They have no identity, and by that a place of their own in the index.
    return sa.select(*columns(found)).where(
        found.object_key.is_(None), found.verb == "truncate", _of(found, place)
    )


def _of(activity: Any, place: Place) -> sa.ColumnElement[bool]:
    return sa.and_(
        activity.table_name.in_(sorted({name for _schema, name in place.names})),
        sa.tuple_(activity.schema_name, activity.table_name).in_(place.names),
    )


def _present(activity: Any, place: Place) -> Any:
    """The row after an activity under the present names of its columns."""
    if not place.formerly.columns:
        return activity.data
    functions = getattr(sa.func, sa.inspect(activity).mapper.local_table.schema)
    names = as_jsonb({present: list(old) for present, old in place.formerly.columns})
    data = sa.type_coerce(activity.data, postgresql.JSONB)
    return sa.type_coerce(functions.under_present_names(data, names), StoredRow)


def _was_emptied(activity: Any, relation: Any, data: Any) -> Any:
    functions = getattr(sa.func, sa.inspect(activity).mapper.local_table.schema)
    return functions.was_emptied(relation, sa.type_coerce(data, postgresql.JSONB), type_=sa.Boolean)


def _formerly(place: Place) -> Any:
    return as_jsonb(
        {
            "tables": [list(name) for name in place.formerly.tables],
            "columns": {present: list(old) for present, old in place.formerly.columns},
        }
    )


def _jsonb(column: Any) -> Any:
    return sa.type_coerce(column, postgresql.JSONB)


# -- Values and instances ----------------------------------------------------------------------


def typed(
    table: sa.Table, data: Mapping[str, Any] | None, hidden: Sequence[str] = ()
) -> dict[str, Any] | None:
    """Return a stored row as the columns of ``table`` have it.

    A field that no column knows is left out; a column that the row does not hold is not in it.

    :param hidden: names of columns that are not to be told, even if they were recorded once.
    """
    if data is None:
        return None
    return {
        column.name: None
        if column.name in hidden or _is_mark(data[column.name])
        else identities.from_json(data[column.name], column.type)
        for column in table.c
        if column.name in data
    }


def _is_mark(value: Any) -> bool:
    """Whether a value is no value but a mark of the capture's."""
    return isinstance(value, dict) and value.get("$audit") in {"masked", "too large"}


class ReadOnly:
    """What an instance of the past is, besides an instance of its model.

    :ivar audit_missing: names of the attributes that are None because the trail does not hold them.
    """

    audit_missing: tuple[str, ...]

    @property
    def _sa_instance_state(self) -> Any:
        # The way into a session.
        raise ReadOnlyError(
            f"{type(self).__name__} is what a record was: it belongs to no session, and cannot be "
            "added to one. Create a new object from its values."
        )

    def __setattr__(self, name: str, value: Any) -> None:
        raise ReadOnlyError

    def __delattr__(self, name: str) -> None:
        raise ReadOnlyError


class _Value:
    """An attribute of an instance of the past, in the place of the model's own."""

    def __init__(self, model: type[Any], name: str) -> None:
        self._model, self._name = model, name

    def __get__(self, instance: Any, owner: type[Any]) -> Any:
        if instance is None:
            return getattr(self._model, self._name)
        try:
            return instance.__dict__[self._name]
        except KeyError:
            raise ReadOnlyError(
                f"{self._name} is not part of the recorded row: read what a relationship led to "
                "with audit_logger.related_at()."
            ) from None

    def __set__(self, instance: Any, value: Any) -> None:
        raise ReadOnlyError


_classes: WeakKeyDictionary[type[Any], type[Any]] = WeakKeyDictionary()


def _read_only(model: type[Any]) -> type[Any]:
    found = _classes.get(model)
    if found is None:
        attributes = {key: _Value(model, key) for key in sa.inspect(model).attrs.keys()}  # noqa: SIM118
        namespace = {"__abstract__": True, "__module__": model.__module__, **attributes}
        metaclass: Any = type(model)
        found = metaclass(f"Past{model.__name__}", (ReadOnly, model), namespace)
        _classes[model] = found
    return found


def instance(model: type[Any], values: Mapping[str, Any] | None, hidden: Sequence[str] = ()) -> Any:
    """Return a row of the past as a read-only instance of ``model``; None for None.

    :param values: by the names of the columns, in their types.
    :param hidden: names of the columns that the trail does not hold.
    """
    if values is None:
        return None
    mapper: orm.Mapper[Any] = sa.inspect(model)
    if mapper.polymorphic_on is not None:  # single-table inheritance: the discriminator tells
        value = values.get(getattr(mapper.polymorphic_on, "name", ""))
        mapper = mapper.polymorphic_map.get(value, mapper)
    found: dict[str, Any] = {}
    missing = []
    for column in mapper.columns:
        if isinstance(column, sa.Column):
            key = mapper.get_property_by_column(column).key
            found[key] = values.get(column.name)
            if column.name in hidden or column.name not in values:
                missing.append(key)
    for composite in mapper.composites:
        parts = [found.get(part.key) for part in composite.props]
        made: Any = composite.composite_class
        found[composite.key] = None if parts.count(None) == len(parts) else made(*parts)
    cls: type[Any] = _read_only(mapper.class_)
    past = object.__new__(cls)
    past.__dict__.update(found, audit_missing=tuple(missing))
    return past


def instances(
    model: type[Any], table: sa.Table, rows: Iterable[Any], hidden: Sequence[str]
) -> list[Any]:
    """Return rows as instances: those of :func:`as_of`, or those that have a ``data`` as the
    queries for one record do."""
    found = []
    for row in rows:
        values = getattr(row, "_mapping", row)
        if "data" in values and "data" not in table.c:
            found.append(instance(model, typed(table, values["data"], hidden), hidden))
        else:
            names = {column.name: values[key] for key, column in table.c.items() if key in values}
            found.append(instance(model, names or values, hidden))
    return found


def find_column(mapper: orm.Mapper[Any] | None, table: sa.Table, field: Any) -> sa.Column[Any]:
    """Return the column that ``field`` names: an attribute, its name, or the column's.

    :raises UnknownColumnError: if there is none.
    """
    name = str(getattr(field, "key", field))
    if mapper is not None and name in mapper.columns:
        return mapper.columns[name]
    if name in table.c:
        return table.c[name]
    raise UnknownColumnError(
        f"The table {table.fullname!r} has no column {name!r}: use one of "
        f"{', '.join(sorted(table.c.keys()))}."
    )
