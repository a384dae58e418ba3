"""The story of a record with its related records, and of one of its fields. Selects only.

No index leads from a foreign key's value inside of ``old_data`` and ``changed_data`` to activities.
So the related records are found by their present rows, by the transactions that the record took
part in, and by a bounded look through the newest activities; each one's activities are then read by
its key, and those count that name the record as it was at that time (docs/decisions/follow.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from audit_app import history, identity
from audit_app.follow import Related
from audit_app.formerly import Formerly, Place

RECORDS: Final = 500
"""Related records of one relationship that are found by their present rows, at the most."""

REACH: Final = (20_000, 100_000, 500_000)
"""Activities, of whatever table, that are looked through for related records that are gone."""

TOGETHER: Final = 1_000
"""Changes of one transaction of the record that are looked through for related records."""

FIELD_SCAN: Final = 2_000
"""Changes of a record that one page of a field's history looks at, at the most."""

OWN: Final = -1
"""The number of the record's own activities, where those of its relationships count from 0."""

_LOWEST, _HIGHEST = -(2**62), 2**62
_NO_TRANSACTION = 0  # ids of transactions count from 1 up, imported ones from -1 down


@dataclass(frozen=True)
class Period:
    """The activities during which a record held certain values.

    :ivar values: as text.
    :ivar low: the id of the activity that brought the values.
    :ivar high: the id of the activity that replaced them.
    :ivar transactions: those two activities' transactions, which count as a whole.
    """

    values: tuple[str, ...]
    low: int
    high: int
    transactions: tuple[int, int]


@dataclass(frozen=True)
class Followed:
    """A relationship with what was found for one record.

    :ivar periods: what the record's columns of it held, and when.
    :ivar keys: related records, as texts of ``activity.object_key``.
    """

    related: Related
    periods: tuple[Period, ...]
    keys: tuple[str, ...] = ()


# -- The record itself ---------------------------------------------------------------------------


def own(
    activity: Any,
    place: Place,
    key: str,
    columns: Sequence[str],
    *,
    before: int | None = None,
    limit: int = history.PAGE,
) -> sa.Select[Any]:
    """Return the query for what a record's columns held, activity by activity, newest first.

    The activities of one page, one more, and the record's first one. Rows: ``id``,
    ``transaction_id``, ``issued_at``, ``verb``, ``old`` and ``new``: arrays of texts.

    :param columns: under their present names.
    """
    keys = history.keys_of_record(activity, place, key)
    page = history.ids_of_record(activity, place, keys, before=before, limit=limit + 1)
    first = history.ids_of_record(activity, place, keys, after=_LOWEST, limit=1)
    ids = sa.union(page.subquery("own").select(), first.subquery("first").select()).subquery("ids")
    texts = [_texts(activity, place.formerly, name) for name in columns]
    return (
        sa.select(
            activity.id,
            activity.transaction_id,
            activity.issued_at,
            activity.verb,
            _array(old for old, _new in texts).label("old"),
            _array(new for _old, new in texts).label("new"),
        )
        .join(ids, ids.c[0] == activity.id)
        .order_by(activity.id.desc())
    )


def periods(rows: Sequence[Any], numbers: Sequence[int]) -> tuple[Period, ...]:
    """Return when a record held which values.

    :param rows: of :func:`own`.
    :param numbers: which of its columns count. Values of which one is null belong to nobody.
    """
    found: list[Period] = []
    held: tuple[str | None, ...] | None = None
    since, by = _LOWEST, _NO_TRANSACTION

    def end(row: Any) -> None:
        if held is not None and None not in held:
            high, until = (
                (_HIGHEST, _NO_TRANSACTION) if row is None else (row.id, row.transaction_id)
            )
            values = tuple(str(value) for value in held)
            found.append(Period(values, since, high, (by, until)))

    for row in reversed(rows):
        old = tuple(row.old[number] for number in numbers)
        new = tuple(row.new[number] for number in numbers)
        known_before = row.verb in {"update", "delete"}
        if known_before and held != old:
            end(row)  # the activities between are not among the rows
            held = old
        if row.verb == "delete":
            end(row)
            held = None
        elif held != new:
            end(row)
            held = new
            if row.verb == "insert" or known_before:
                since, by = row.id, row.transaction_id
    end(None)
    return tuple(found)


# -- Finding related records -----------------------------------------------------------------------


def known_keys(followed: Followed) -> tuple[str, ...] | None:
    """Return the keys that the record's own values name; None where they have to be looked up."""
    columns = followed.related.columns
    order = [column.name for column in followed.related.key]
    if sorted(order) != sorted(columns):
        return None
    found = (
        identity.encode(tuple(dict(zip(columns, period.values, strict=True))[n] for n in order))
        for period in followed.periods
    )
    return tuple(dict.fromkeys(key for key in found if key is not None))


def present_keys(followed: Followed) -> sa.Select[Any]:
    """Return the query for the keys of the related records that are there now.

    One row more than :data:`RECORDS` tells that there are more. It reads the related table itself.
    """
    related = followed.related
    table = sa.table(
        related.place.name,
        *(sa.column(name) for name in {*related.columns} - {c.name for c in related.key}),
        *(sa.column(column.name, column.type) for column in related.key),
        schema=related.place.schema,
    )
    # Without a type, PostgreSQL takes a value for one of the column's own type, and its index.
    matches = (
        sa.and_(
            *(
                sa.type_coerce(table.c[name], sa.types.NullType())
                == sa.bindparam(None, value, type_=sa.types.NullType())
                for name, value in zip(related.columns, values, strict=True)
            )
        )
        for values in dict.fromkeys(period.values for period in followed.periods)
    )
    keys = [table.c[column.name] for column in related.key]
    return sa.select(*keys).where(sa.or_(*matches)).limit(RECORDS + 1)


def mentions(
    activity: Any,
    followed: Sequence[Followed],
    transactions: Iterable[int],
    *,
    before: int | None = None,
    reach: int = REACH[0],
) -> sa.Select[Any]:
    """Return the query for related records that activities tell of: schema, table and key.

    :param transactions: of the record; looked through as well.
    :param reach: how many activities below ``before`` are looked through, the newest first.
    """
    newest = _looked(activity).order_by(activity.id.desc()).limit(reach)
    if before is not None:
        newest = newest.where(activity.id < before)
    parts = [newest.subquery("newest").select()]
    ids = sorted(set(transactions))
    if ids:
        given = history.listed("given", {"id": sa.BigInteger()}, [(i,) for i in ids])
        found = history.another(activity)
        together = (
            _looked(found)
            .where(found.transaction_id == given.c.id)
            .order_by(found.id)
            .limit(TOGETHER)
            .lateral("together")
        )
        parts.append(sa.select(*together.c).select_from(given.join(together, sa.true())))
    looked = sa.union_all(*parts).subquery("looked")
    return (
        sa.select(looked.c.schema_name, looked.c.table_name, looked.c.object_key)
        .where(
            sa.or_(*(_names_record(looked.c, item, number) for number, item in enumerate(followed)))
        )
        .distinct()
        .limit(RECORDS)
    )


def end_of_search(
    activity: Any, *, before: int | None = None, reach: int = REACH[0]
) -> sa.Select[Any]:
    """Return the query for the last activity that :func:`mentions` looked at: its id and moment."""
    newest = sa.select(activity.id).order_by(activity.id.desc()).limit(reach)
    if before is not None:
        newest = newest.where(activity.id < before)
    ids = newest.subquery("newest")
    last = sa.select(sa.func.min(ids.c.id)).scalar_subquery()
    return sa.select(activity.id, activity.issued_at).where(activity.id == last)


def page(
    activity: Any,
    transaction: Any,
    place: Place,
    key: str,
    followed: Sequence[Followed],
    *,
    before: int | None = None,
    limit: int = history.PAGE,
    emptied_by: int | None = None,
) -> sa.Select[Any]:
    """Return the query for a page of the story, the newest first.

    Truncations of the followed tables are in it, and the one that took the record away.

    :param emptied_by: the id of that truncation, as :func:`emptied` found it.

    One row more than ``limit`` tells that there is another page. Rows are those of
    :func:`audit_app.history.activity_columns` with ``relation``: the number of the relationship in
    ``followed``, or :data:`OWN`.
    """
    keys = history.keys_of_record(activity, place, key)
    ids = history.ids_of_record(activity, place, keys, before=before, limit=limit + 1)
    own_ids = ids.subquery("own")
    parts = [sa.select(own_ids.c[0].label("id"), sa.literal(OWN, sa.Integer).label("relation"))]
    parts += [
        _related_ids(activity, item, number, before=before, limit=limit + 1)
        for number, item in enumerate(followed)
        if item.keys and item.periods
    ]
    parts += [
        _truncation_ids(activity, item, number, before=before, limit=limit + 1, until=emptied_by)
        for number, item in enumerate(followed)
        if item.periods
    ]
    if emptied_by is not None and (before is None or emptied_by < before):
        parts.append(sa.select(sa.literal(emptied_by, sa.BigInteger), sa.literal(OWN, sa.Integer)))
    union = sa.union_all(*parts).subquery("story")
    chosen = (
        sa.select(union.c.id, sa.func.min(union.c.relation).label("relation"))
        .group_by(union.c.id)
        .order_by(union.c.id.desc())
        .limit(limit + 1)
        .subquery("page")
    )
    return (
        sa.select(
            *history.activity_columns(activity, transaction, large=history.LARGE),
            chosen.c.relation,
        )
        .join(chosen, chosen.c.id == activity.id)
        .outerjoin(transaction, transaction.id == activity.transaction_id)
        .order_by(activity.id.desc())
    )


def emptied(activity: Any, place: Place, *, after: int) -> sa.Select[Any]:
    """Return the query for the first truncation of a table after an activity: id and moment."""
    return (
        sa.select(activity.id, activity.issued_at)
        .where(
            activity.object_key.is_(None),
            history.is_of_place(activity, place),
            activity.verb == "truncate",
            activity.id > after,
        )
        .order_by(activity.id)
        .limit(1)
    )


def _related_ids(
    activity: Any, followed: Followed, number: int, *, before: int | None, limit: int
) -> sa.Select[Any]:
    """Ids of the activities of one relationship's records that name the record of that time."""
    place = followed.related.place
    given = history.listed(f"given_{number}", {"key": sa.Text()}, [(key,) for key in followed.keys])
    keys = sa.select(sa.cast(given.c.key, sa.Text).label("key")).cte(
        f"key_{number}", recursive=True
    )
    # The keys that these records had before and got later; whose activities count is told below.
    came, went = history.another(activity), history.another(activity)
    other = sa.union_all(
        sa.select(came.object_key.label("key")).where(
            came.new_object_key == keys.c.key, history.is_of_place(came, place)
        ),
        sa.select(went.new_object_key.label("key")).where(
            went.object_key == keys.c.key,
            went.new_object_key.is_not(None),
            history.is_of_place(went, place),
        ),
    ).lateral(f"other_{number}")
    keys = keys.union(sa.select(other.c.key).select_from(keys.join(other, sa.true())))
    found = history.another(activity)
    ids = (
        sa.select(found.id)
        .where(found.object_key == keys.c.key, _names_record(found, followed, number))
        .order_by(found.id.desc())
        .limit(limit)
    )
    if before is not None:
        ids = ids.where(found.id < before)
    one = ids.lateral(f"found_{number}")
    return sa.select(one.c.id, sa.literal(number, sa.Integer)).select_from(
        keys.join(one, sa.true())
    )


def _truncation_ids(
    activity: Any,
    followed: Followed,
    number: int,
    *,
    before: int | None,
    limit: int,
    until: int | None,
) -> sa.Select[Any]:
    """Ids of the truncations of one relationship's table while the record held its values."""
    found = history.another(activity)
    query = (
        sa.select(found.id, sa.literal(number, sa.Integer))
        .where(
            found.object_key.is_(None),
            history.is_of_place(found, followed.related.place),
            found.verb == "truncate",
            sa.or_(*(found.id.between(p.low, p.high) for p in followed.periods)),
        )
        .order_by(found.id.desc())
        .limit(limit)
    )
    if before is not None:
        query = query.where(found.id < before)
    if until is not None:
        # All tables of one TRUNCATE have rows of their own, in its transaction.
        same = sa.select(activity.transaction_id).where(activity.id == until).scalar_subquery()
        query = query.where(sa.or_(found.id < until, found.transaction_id == same))
    return sa.select(*query.subquery(f"truncation_{number}").c)


def _looked(activity: Any) -> sa.Select[Any]:
    names = (
        "id", "transaction_id", "schema_name", "table_name", "object_key", "old_data",
        "changed_data",
    )  # fmt: skip
    # As they are stored: documents are decoded where they are selected, and these are not.
    return sa.select(
        *(
            sa.type_coerce(getattr(activity, name), JSONB).label(name)
            if name.endswith("_data")
            else getattr(activity, name).label(name)
            for name in names
        )
    )


def _names_record(activity: Any, followed: Followed, number: int) -> Any:
    """The condition that an activity belongs to a relationship of the record of that time."""
    related = followed.related
    if not followed.periods:
        return sa.false()
    theirs = [f"value_{index}" for index in range(len(related.columns))]
    held = sa.union_all(*(_held(period, theirs) for period in followed.periods)).subquery(
        f"held_{number}"
    )
    texts = [_texts(activity, related.place.formerly, name) for name in related.columns]
    names = [held.c[name] for name in theirs]
    old, new = (
        sa.and_(*(pair[side] == name for pair, name in zip(texts, names, strict=True)))
        for side in (0, 1)
    )
    at_that_time = sa.or_(
        activity.id.between(held.c.low, held.c.high),
        activity.transaction_id.in_([held.c.first, held.c.last]),
    )
    belongs = sa.select(sa.literal(1)).select_from(held).where(at_that_time, sa.or_(old, new))
    # CASE keeps documents of other tables from being opened.
    return sa.case(
        (history.is_of_place(activity, related.place), belongs.correlate_except(held).exists()),
        else_=sa.false(),
    )


def _held(period: Period, names: Sequence[str]) -> sa.Select[Any]:
    """A row of what a relationship's columns held, and when.

    Asked of each activity that is looked at: one such row is merged into the question itself, which
    neither VALUES of several nor an array would be.
    """
    moments = (period.low, period.high, *period.transactions)
    columns: list[sa.ColumnElement[Any]] = [
        *(
            sa.literal(value, sa.Text).label(name)
            for name, value in zip(names, period.values, strict=True)
        ),
        *(
            sa.literal(value, sa.BigInteger).label(name)
            for name, value in zip(("low", "high", "first", "last"), moments, strict=True)
        ),
    ]
    return sa.select(*columns)


def _texts(activity: Any, formerly: Formerly, name: str) -> tuple[Any, Any]:
    """A column's value before and after an activity, as text; null where there was no row."""
    names = (name, *dict(formerly.columns).get(name, ()))
    old, changed = (
        sa.type_coerce(getattr(activity, part), JSONB) for part in ("old_data", "changed_data")
    )
    before = _first(old[n].astext for n in names)
    after = sa.case(
        *((_has(changed, n), changed[n].astext) for n in names),
        else_=sa.case((activity.verb == "delete", sa.null()), else_=before)
        if hasattr(activity, "verb")
        else before,
    )
    return before, after


def _has(document: Any, name: str) -> Any:
    return document.op("?")(sa.literal(name, sa.Text))


def _first(texts: Iterable[Any]) -> Any:
    found = list(texts)
    return found[0] if len(found) == 1 else sa.func.coalesce(*found)


def _array(items: Iterable[Any]) -> Any:
    return sa.cast(sa.dialects.postgresql.array(list(items)), ARRAY(sa.Text))


# -- One field -------------------------------------------------------------------------------------


def of_field(
    activity: Any,
    transaction: Any,
    place: Place,
    key: str,
    field: str,
    *,
    before: int | None = None,
    limit: int = history.PAGE,
) -> sa.Select[Any]:
    """Return the query for a page of the activities that gave a field its values, newest first.

    One row more than ``limit`` tells that there is another page. Rows are those of
    :func:`audit_app.history.activity_columns`, with nothing but the field in their documents; its
    former names are among them.
    """
    keys = history.keys_of_record(activity, place, key)
    seen = history.ids_of_record(activity, place, keys, before=before, limit=FIELD_SCAN)
    ids = seen.subquery("seen")
    names = (field, *dict(place.formerly.columns).get(field, ()))
    old, changed = (
        sa.type_coerce(column, JSONB) for column in (activity.old_data, activity.changed_data)
    )
    touched = sa.or_(
        *(_has(changed, name) for name in names),
        sa.and_(activity.verb == "delete", sa.or_(*(_has(old, name) for name in names))),
    )
    parts = {"old_data": _only(old, names), "changed_data": _only(changed, names)}
    size: Any = sum(
        (sa.func.coalesce(sa.func.pg_column_size(part), 0) for part in parts.values()),
        sa.literal(0),
    )
    is_large = size > history.LARGE
    stored = activity.old_data.type
    replaced: Mapping[str, Any] = {
        **{
            name: sa.type_coerce(sa.case((is_large, sa.null()), else_=part), stored).label(name)
            for name, part in parts.items()
        },
        "is_large": is_large.label("is_large"),
        "field_names": sa.case((is_large, sa.literal([field], ARRAY(sa.Text)))).label(
            "field_names"
        ),
    }
    columns = history.activity_columns(activity, transaction, large=history.LARGE)
    return (
        sa.select(*(replaced.get(column.name, column) for column in columns))
        .join(ids, ids.c[0] == activity.id)
        .outerjoin(transaction, transaction.id == activity.transaction_id)
        .where(touched)
        .order_by(activity.id.desc())
        .limit(limit + 1)
    )


def end_of_field(
    activity: Any, place: Place, key: str, *, before: int | None = None
) -> sa.Select[Any]:
    """Return the query for where :func:`of_field` ended.

    One row: ``id``, null if there was nothing to look at; ``is_end`` tells that nothing is beyond.
    """
    keys = history.keys_of_record(activity, place, key)
    seen = history.ids_of_record(activity, place, keys, before=before, limit=FIELD_SCAN)
    first = history.ids_of_record(activity, place, keys, after=_LOWEST, limit=1)
    ids = seen.subquery("seen")
    lowest = sa.select(sa.func.min(ids.c[0])).scalar_subquery()
    return sa.select(lowest.label("id"), (lowest == first.scalar_subquery()).label("is_end"))


def _only(document: Any, names: Sequence[str]) -> Any:
    """A document with nothing but one field, under the first of its names that is there."""
    found = [
        (_has(document, name), sa.func.jsonb_build_object(name, document[name])) for name in names
    ]
    return sa.type_coerce(sa.case(*found), JSONB)
