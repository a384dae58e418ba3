"""The read side: every function returns a ``Select`` that the caller executes.

Pages are cut by key, never by offset, and nothing counts the trail: a page costs the same at any
depth and at any size. The mapped classes are passed in, so that this module knows no logger.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from audit_app import identity as identities
from audit_app.errors import InvalidCursorError, UnknownVersionError
from audit_app.formerly import NEVER, Formerly, Place

PAGE: Final = 50
"""Rows of a page."""


LARGE: Final = 32_768
"""Bytes, as stored, above which a list shows a change's fields without their values."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CURSOR = re.compile(r"(-?[0-9]{1,18})\.(-?[0-9]{1,19})", re.ASCII)
LARGEST_ID = 2**63 - 1
SMALLEST_ID = -(2**63)  # what was imported has ids below zero


@dataclass(frozen=True)
class Cursor:
    """A place between two transactions, in the order of ``(issued_at, id)``."""

    issued_at: datetime
    id: int

    def __str__(self) -> str:
        return f"{(self.issued_at - _EPOCH) // timedelta(microseconds=1)}.{self.id}"

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Return the cursor that ``str()`` wrote.

        :raises InvalidCursorError: if it did not write this text.
        """
        match = _CURSOR.fullmatch(text)
        if match is None:
            raise InvalidCursorError
        try:
            issued_at = _EPOCH + timedelta(microseconds=int(match[1]))
        except OverflowError as error:
            raise InvalidCursorError from error
        return cls(issued_at, parse_id(match[2]))


def parse_id(text: str) -> int:
    """Return the id of an activity or transaction that a page address holds.

    :raises InvalidCursorError: if it is not a number that the trail could have given.
    """
    if not re.fullmatch(r"-?[0-9]{1,19}", text, re.ASCII):
        raise InvalidCursorError
    if not SMALLEST_ID <= int(text) <= LARGEST_ID:
        raise InvalidCursorError
    return int(text)


# -- Records -----------------------------------------------------------------------------------


def of_record(
    activity: Any,
    schema_name: str,
    table_name: str,
    identity: Any,
    *,
    formerly: Formerly = NEVER,
) -> sa.Select[Any]:
    """Return the query for a record's activities, the newest first.

    The story goes on through changes of the key, in both directions, and through the former names
    of the table.

    :param identity: as the model has it, or the text of ``activity.object_key``; None for all
        activities of the table.
    :param formerly: the former names of the table.
    """
    place = Place(schema_name, table_name, formerly)
    query = sa.select(activity).order_by(activity.id.desc())
    if identity is None:
        return query.where(is_of_place(activity, place))
    spans = keys_of_record(activity, place, identities.encode(identity) or "")
    found = another(activity)
    return query.where(
        activity.id.in_(
            sa.select(found.id).join(
                spans, sa.and_(is_of_place(found, place), _within(found, spans))
            )
        )
    )


def record_page(
    activity: Any,
    transaction: Any,
    schema_name: str,
    table_name: str,
    key: str,
    *,
    before: int | None = None,
    limit: int = PAGE,
    formerly: Formerly = NEVER,
) -> sa.Select[Any]:
    """Return the query for a page of a record's timeline, the newest first.

    One row more than ``limit`` tells that there is another page. Rows are those of
    :func:`activity_columns`.

    :param key: the text of ``activity.object_key``.
    :param before: the id of the last activity of the page before.
    :param formerly: the former names of the table. The documents stay as they were recorded:
        :meth:`audit_app.formerly.Formerly.present_row` shows them under the present names.
    """
    place = Place(schema_name, table_name, formerly)
    spans = keys_of_record(activity, place, key)
    ids = ids_of_record(activity, place, spans, before=before, limit=limit + 1).subquery("page")
    return (
        sa.select(*activity_columns(activity, transaction, large=LARGE))
        .join(ids, ids.c.id == activity.id)
        .outerjoin(transaction, transaction.id == activity.transaction_id)
        .order_by(activity.id.desc())
    )


def record_versions(
    activity: Any,
    transaction: Any,
    place: Place,
    key: str,
    *,
    ids: Sequence[int],
    large: int,
) -> sa.Select[Any]:
    """Return the query for those of a record's activities that have the given ids.

    Rows are those of :func:`activity_columns`; an id of another record has none.
    """
    spans = keys_of_record(activity, place, key)
    found = another(activity)
    own = sa.select(found.id).where(
        found.id.in_(ids),
        is_of_place(found, place),
        sa.exists().where(_within(found, spans)).correlate(found.id.table),
    )
    return (
        sa.select(*activity_columns(activity, transaction, large=large))
        .outerjoin(transaction, transaction.id == activity.transaction_id)
        .where(activity.id.in_(own))
    )


def version_names(
    activity: Any,
    transaction: Any,
    place: Place,
    key: str,
    *,
    before: int | None = None,
    limit: int = PAGE,
) -> sa.Select[Any]:
    """Return the query for a page of a record's versions without their documents.

    Columns ``id``, ``issued_at``, ``verb``, ``object_key``, ``new_object_key``, ``t_actor_id``,
    ``t_actor_label``; the newest first.
    """
    spans = keys_of_record(activity, place, key)
    ids = ids_of_record(activity, place, spans, before=before, limit=limit).subquery("page")
    return (
        sa.select(
            activity.id.label("id"),
            activity.issued_at.label("issued_at"),
            activity.verb.label("verb"),
            activity.object_key.label("object_key"),
            activity.new_object_key.label("new_object_key"),
            transaction.actor_id.label("t_actor_id"),
            transaction.actor_label.label("t_actor_label"),
        )
        .select_from(activity)
        .join(ids, ids.c.id == activity.id)
        .outerjoin(transaction, transaction.id == activity.transaction_id)
        .order_by(activity.id.desc())
    )


def neighbours(
    activity: Any,
    schema_name: str,
    table_name: str,
    key: str,
    id: int,  # noqa: A002
    *,
    formerly: Formerly = NEVER,
) -> sa.Select[Any]:
    """Return the query for the ids of a record's previous and next activity around ``id``.

    One row: ``previous``, ``next``; null at either end of the story.
    """
    place = Place(schema_name, table_name, formerly)
    spans = keys_of_record(activity, place, key)
    earlier = ids_of_record(activity, place, spans, before=id, limit=1)
    later = ids_of_record(activity, place, spans, after=id, limit=1)
    return sa.select(
        earlier.scalar_subquery().label("previous"), later.scalar_subquery().label("next")
    )


def story(
    activity: Any, place: Place, key: str, columns: Callable[[Any], Sequence[Any]], *conditions: Any
) -> sa.Select[Any]:
    """Return the query for what :func:`of_record` finds, the oldest first, by the index alone.

    :param columns: returns the columns that are wanted of an activity, ``id`` among them.
    :param conditions: functions that return a further condition on an activity.
    """
    spans, found = keys_of_record(activity, place, key), another(activity)
    # Lateral and sorted, so that it stays a look into the index for each key that the record had:
    # the planner takes these for many, and would read the trail instead.
    one = (
        sa.select(*columns(found))
        .where(_within(found, spans), is_of_place(found, place))
        .where(*(condition(found) for condition in conditions))
        .order_by(found.id)
        .lateral("found")
    )
    return (
        sa.select(*one.c)
        .select_from(spans.join(one, sa.true()))
        .distinct()  # what the record had twice: a key may have come back
        .order_by(one.c.id)
    )


def version_at(
    activity: Any,
    schema_name: str,
    table_name: str,
    key: str,
    when: Any,
    *,
    formerly: Formerly = NEVER,
) -> sa.Select[Any]:
    """Return the query for what the trail knows of a record at a moment.

    At most four rows, columns ``part``, ``id``, ``issued_at``, ``verb``, ``relid``, ``old_data``,
    ``changed_data``: the record's last activity up to then (``last``), the table's last truncation
    up to then (``emptied``), the record's first activity after it (``next``), and where a record
    had this very key then, its last activity (``holder``): another one may have had it before or
    after. Where history was pruned, ``whole_from`` is the moment from which on it is whole, and
    ``is_pruned`` tells whether that is later: what was kept from before does not count.
    :func:`state_of` tells what they mean.

    :param key: the text of ``activity.object_key``.
    :param when: with a time zone; or the id of the last activity that counts, or an expression for
        it.
    :param formerly: the former names of the table.
    """
    place = Place(schema_name, table_name, formerly)
    spans = keys_of_record(activity, place, key)
    truncated = another(activity)
    whole_from = pruned(activity, place).with_only_columns(_before(activity)).scalar_subquery()
    if isinstance(when, datetime):
        moment: Any = sa.literal(when, sa.DateTime(timezone=True))
        last = ids_of_record(activity, place, spans, until=when, limit=1)
        following = ids_of_record(activity, place, spans, since=when, limit=1)
        counts = truncated.issued_at <= when
        past = activity.issued_at <= when
    else:
        last = ids_of_record(activity, place, spans, before=when + 1, limit=1)
        following = ids_of_record(activity, place, spans, after=when, limit=1)
        counts = truncated.id <= when
        past = activity.id <= when
        newest = another(activity)
        moment = (
            sa.select(newest.issued_at)
            .where(newest.id <= when)
            .order_by(newest.id.desc())
            .limit(1)
            .scalar_subquery()
        )
    emptied = (
        sa.select(truncated.id)
        # Truncations have no identity, and by that a place of their own in the index.
        .where(
            truncated.object_key.is_(None),
            is_of_place(truncated, place),
            truncated.verb == "truncate",
            counts,
        )
        .order_by(truncated.id.desc())
        .limit(1)
    )
    parts = sa.union_all(
        *(
            sa.select(sa.literal(name, sa.Text).label("part"), ids.scalar_subquery().label("id"))
            for name, ids in (
                ("last", last),
                ("emptied", emptied),
                ("next", following),
                ("holder", _holder(activity, place, key, past)),
            )
        )
    ).subquery("part")
    columns = ("issued_at", "verb", "relid", "old_data", "changed_data")
    facts = sa.select(
        whole_from.label("whole_from"),
        sa.func.coalesce(moment < whole_from, sa.and_(moment.is_(None), whole_from.is_not(None)))
        .label("is_pruned"),
    ).cte("retention")  # fmt: skip
    return (
        sa.select(
            parts.c.part, activity.id, *(getattr(activity, name) for name in columns), *facts.c
        )
        .join(parts, parts.c.id == activity.id)
        .join(facts, sa.true())
        .where(
            sa.or_(
                facts.c.whole_from.is_(None),
                activity.issued_at >= facts.c.whole_from,
                parts.c.part == "next",
            )
        )
    )


def pruned(activity: Any, place: Place) -> sa.Select[Any]:
    """Return the query for what a table lost by retention: at most one row, ``before`` and ``at``.

    From ``before`` on its history is whole; ``at`` is when the rest was removed. What is restored
    from an archive for now counts as if it had never been removed.
    """
    schema = activity.__table__.schema
    mark, again = activity, another(activity)
    keys = [
        sa.func.concat(sa.func.quote_ident(s), ".", sa.func.quote_ident(t)) for s, t in place.names
    ]

    def is_mark(found: Any, verb: str) -> Any:
        return sa.and_(
            found.table_name == "activity", found.schema_name == schema, found.verb == verb
        )

    facts, later = (sa.type_coerce(found.changed_data, JSONB) for found in (mark, again))
    restored = sa.select(again.id).where(
        again.object_key == mark.object_key,
        is_mark(again, "restore"),
        later["run"].astext == facts["run"].astext,
        sa.cast(later["keep_until"].astext, sa.DateTime(timezone=True)) > sa.func.now(),
    )
    before = _before(mark)
    return (
        sa.select(before.label("before"), mark.issued_at.label("at"))
        .where(
            mark.object_key.in_(keys),
            is_mark(mark, "prune"),
            before.is_not(None),
            sa.not_(restored.exists()),
        )
        .order_by(before.desc(), mark.id)
        .limit(1)
    )


def _before(mark: Any) -> Any:
    facts = sa.type_coerce(mark.changed_data, JSONB)
    return sa.cast(facts["before"].astext, sa.DateTime(timezone=True))


def state_of(
    rows: Iterable[Any], formerly: Formerly = NEVER, *, is_tracked: bool = False
) -> dict[str, Any] | None:
    """Return a record's row at the moment that the rows of :func:`version_at` are about.

    :param is_tracked: whether the table is known to have been tracked at that moment: then what the
        record was before its first recorded change is what it had been all the time.
    :return: the row under the present names of its columns; None if it did not exist.
    :raises UnknownVersionError: if the trail does not reach back to that moment.
    """
    parts = {row.part: row for row in rows}
    for row in parts.values():
        if getattr(row, "is_pruned", False):
            raise UnknownVersionError(
                "What the record was then is not known: history before "
                f"{row.whole_from} was removed by the retention policy. Restore it from its "
                "archive (flask audit restore-archive), or ask for a later moment."
            )
    last = parts.get("holder") or parts.get("last")
    emptied, following = parts.get("emptied"), parts.get("next")
    if emptied is not None and (last is None or emptied.id > last.id):
        return None
    if last is None:
        if following is not None and following.verb == "insert":
            return None
        if following is not None and is_tracked:
            whole = following.changed_data if following.verb == "baseline" else following.old_data
            return dict(formerly.present(whole, None)[0])
        since = "nothing of it" if following is None else f"its story from {following.issued_at} on"
        raise UnknownVersionError(
            f"What the record was then is not known: the trail holds {since}. Ask for a moment "
            "after its first recorded change."
        )
    if last.verb == "delete":
        return None
    old_data, changed_data = formerly.present(last.old_data, last.changed_data)
    return {**(old_data or {}), **(changed_data or {})}


def _holder(activity: Any, place: Place, key: str, past: Any) -> sa.Select[Any]:
    """The id of the last activity under a key, if it left a record there."""
    touched = sa.union_all(
        *(
            sa.select(
                sa.select(activity.id)
                .where(column == key, is_of_place(activity, place), past)
                .order_by(activity.id.desc())
                .limit(1)
                .scalar_subquery()
                .label("id")
            )
            for column in (activity.object_key, activity.new_object_key)
        )
    ).subquery("touched")
    found = another(activity)
    return sa.select(found.id).where(
        found.id == sa.select(sa.func.max(touched.c.id)).scalar_subquery(),
        found.verb != "delete",
        sa.func.coalesce(found.new_object_key, found.object_key) == key,
    )


def keys_of_record(activity: Any, place: Place, key: str) -> sa.CTE:
    """Return the keys that a record has had, each with the range of activity ids it had it for.

    A key may have belonged to another record before or after; following a change of the key back,
    only what came before that change belongs to the story, and following it on, what came after.
    ``way`` is the direction that may be followed: -1 back, 1 on, 0 both.
    """
    lowest, highest = (
        sa.literal(SMALLEST_ID, sa.BigInteger),
        sa.literal(LARGEST_ID, sa.BigInteger),
    )
    spans = sa.select(
        sa.cast(sa.literal(key, sa.Text), sa.Text).label("key"),
        sa.cast(lowest, sa.BigInteger).label("low"),
        sa.cast(highest, sa.BigInteger).label("high"),
        sa.cast(sa.literal(0, sa.Integer), sa.Integer).label("way"),
    ).cte("span", recursive=True)
    came, went = another(activity), another(activity)

    back = sa.select(
        came.object_key.label("key"),
        lowest.label("low"),
        came.id.label("high"),
        sa.literal(-1, sa.Integer).label("way"),
    ).where(
        came.new_object_key == spans.c.key,
        came.id.between(spans.c.low, spans.c.high),
        spans.c.way <= 0,
        is_of_place(came, place),
    )
    on = sa.select(
        went.new_object_key.label("key"),
        went.id.label("low"),
        highest.label("high"),
        sa.literal(1, sa.Integer).label("way"),
    ).where(
        went.object_key == spans.c.key,
        went.new_object_key.is_not(None),
        # The change that led here is the lower end of the span, and another record's.
        went.id > spans.c.low,
        went.id <= spans.c.high,
        spans.c.way >= 0,
        is_of_place(went, place),
    )
    both = sa.union_all(back, on).lateral("change")
    return spans.union(
        sa.select(both.c.key, both.c.low, both.c.high, both.c.way)
        .select_from(spans)
        .join(both, sa.true())
    )


def another(activity: Any) -> Any:
    """Return another reference to the trail's activities, with the attributes of the model.

    ``sqlalchemy.orm.aliased`` would do, and copies what a mapped column carries: with it, the
    statements of a page took three times as long to write, and longer than to run.
    """
    table = activity.__table__
    columns = {
        attribute.key: attribute.columns[0] for attribute in activity.__mapper__.column_attrs
    }
    if _LIGHT not in table.info:
        light = (sa.column(column.name, column.type) for column in columns.values())
        table.info[_LIGHT] = sa.table(table.name, *light, schema=table.schema)
    found = table.info[_LIGHT].alias().c
    return SimpleNamespace(**{key: found[column.name] for key, column in columns.items()})


_LIGHT: Final = "audit_app_light"  # in Table.info: the table without what only DDL needs


def is_of_place(activity: Any, place: Place) -> Any:
    """Return the condition that an activity is about a table, under any of its names."""
    names = place.names
    if len(names) == 1:
        return sa.and_(activity.schema_name == place.schema, activity.table_name == place.name)
    return sa.and_(
        # What the index holds on its own; the pair then tells namesakes in other schemas apart.
        activity.table_name.in_(sorted({name for _schema, name in names})),
        sa.tuple_(activity.schema_name, activity.table_name).in_(names),
    )


def _within(activity: Any, spans: Any) -> Any:
    return sa.and_(
        activity.object_key == spans.c.key, activity.id.between(spans.c.low, spans.c.high)
    )


def listed(
    name: str, columns: Mapping[str, sa.types.TypeEngine[Any]], rows: Iterable[Sequence[Any]]
) -> sa.TableValuedAlias:
    """Return ``rows``, of which there is one at least, as a table of a query.

    Of arrays and not of VALUES, which SQLAlchemy compiles anew for each statement.
    """
    arrays = [
        sa.cast(sa.literal(list(values), ARRAY(type_)), ARRAY(type_))
        for values, type_ in zip(zip(*rows, strict=True), columns.values(), strict=True)
    ]
    shape = [sa.column(column, type_) for column, type_ in columns.items()]
    return sa.func.unnest(*arrays).table_valued(*shape, name=name).render_derived()


def ids_of_record(
    activity: Any,
    place: Place,
    spans: sa.CTE,
    *,
    before: Any = None,
    after: Any = None,
    until: datetime | None = None,
    since: datetime | None = None,
    limit: int,
) -> sa.Select[Any]:
    """Return the query for the ids of a page of a record's activities, the newest first.

    From ``after`` on, the oldest first. Each key, under each name of the table, is cut to the
    page's size by the index before they are merged.

    :param spans: what :func:`keys_of_record` returned.
    """
    found = another(activity)
    one = sa.select(found.id).where(_within(found, spans))
    keys: Any = spans
    if len(place.names) == 1:
        one = one.where(is_of_place(found, place))
    else:
        columns = {"schema_name": sa.Text(), "table_name": sa.Text()}
        names = listed("name", columns, place.names)
        one = one.where(
            found.schema_name == names.c.schema_name, found.table_name == names.c.table_name
        )
        keys = spans.join(names, sa.true())
    if before is not None:
        one = one.where(found.id < before)
    if after is not None:
        one = one.where(found.id > after)
    if until is not None:
        one = one.where(found.issued_at <= until)
    if since is not None:
        one = one.where(found.issued_at > since)
    forward = after is not None or since is not None
    order = found.id.asc() if forward else found.id.desc()
    ids = one.order_by(order).limit(limit).lateral("found")
    id_ = ids.c.id
    return (
        sa.select(id_)
        .select_from(keys.join(ids, sa.true()))
        .distinct()
        .order_by(id_.asc() if forward else id_.desc())
        .limit(limit)
    )


# -- Single rows -------------------------------------------------------------------------------


def activity_columns(activity: Any, transaction: Any, *, large: int) -> list[Any]:
    """Return the columns by which a page shows one activity.

    ``is_large`` tells that ``old_data`` and ``changed_data`` were left out, because they are
    larger than ``large`` bytes as stored; ``field_names`` are then the changed fields.
    """
    return [
        *bare_columns(activity, large=large),
        *(column.label(f"t_{name}") for name, column in transaction_columns(transaction)),
    ]


_ACTIVITY_NAMES = (
    "id", "transaction_id", "issued_at", "schema_name", "table_name", "verb", "object_key",
    "new_object_key", "depth",
)  # fmt: skip
_TRANSACTION_NAMES = (
    "id", "native_transaction_id", "issued_at", "actor_id", "actor_label", "client_addr",
    "session_user_name", "role_name", "application_name", "request_id", "method", "url", "reason",
    "meta",
)  # fmt: skip


def bare_columns(activity: Any, *, large: int) -> list[Any]:
    columns = [getattr(activity, name).label(name) for name in _ACTIVITY_NAMES]
    stored = activity.old_data.type
    size = sa.func.coalesce(sa.func.pg_column_size(activity.old_data), 0) + sa.func.coalesce(
        sa.func.pg_column_size(activity.changed_data), 0
    )
    is_large = size > large
    document = sa.func.coalesce(
        as_jsonb(activity.changed_data), as_jsonb(activity.old_data), type_=sa.JSON
    )
    keys = sa.func.jsonb_object_keys(document).column_valued("field")
    names = sa.func.array(sa.select(keys).scalar_subquery(), type_=sa.ARRAY(sa.Text))
    return [
        *columns,
        sa.type_coerce(sa.case((is_large, sa.null()), else_=activity.old_data), stored).label(
            "old_data"
        ),
        sa.type_coerce(sa.case((is_large, sa.null()), else_=activity.changed_data), stored).label(
            "changed_data"
        ),
        is_large.label("is_large"),
        sa.case((is_large, names), else_=sa.null()).label("field_names"),
    ]


def as_jsonb(column: Any) -> Any:
    return sa.type_coerce(column, sa.dialects.postgresql.JSONB)


def transaction_columns(transaction: Any) -> list[tuple[str, Any]]:
    return [(name, getattr(transaction, name)) for name in _TRANSACTION_NAMES]


def activity_by_id(activity: Any, transaction: Any, id: int, *, large: int) -> sa.Select[Any]:  # noqa: A002
    """Return the query for one activity, with the columns of :func:`activity_columns`."""
    return (
        sa.select(*activity_columns(activity, transaction, large=large))
        .outerjoin(transaction, transaction.id == activity.transaction_id)
        .where(activity.id == id)
        # There is one; the planner, of a partitioned trail, takes it for one in each partition.
        .limit(1)
    )


def activities_by_id(activity: Any, transaction: Any, ids: Iterable[int]) -> sa.Select[Any]:
    """Return the query for some activities, with the columns of :func:`activity_columns`."""
    return (
        sa.select(*activity_columns(activity, transaction, large=LARGE))
        .outerjoin(transaction, transaction.id == activity.transaction_id)
        .where(activity.id.in_(list(ids)))
    )


def newest_of_keys(
    activity: Any, transaction: Any, place: Place, keys: Iterable[str]
) -> sa.Select[Any]:
    """Return the query for the newest change of each record that has one of ``keys``.

    With the columns of :func:`activity_columns`, and ``found_key``.
    """
    wanted = listed("wanted", {"key": sa.Text()}, [(key,) for key in keys])
    parts = []
    for name in KEY_NAMES:
        one = another(activity)
        newest = (
            sa.select(one.id)
            .where(getattr(one, name) == wanted.c.key, is_of_place(one, place))
            .order_by(one.id.desc())
            .limit(1)
            .lateral(f"newest_{name}")
        )
        parts.append(
            sa.select(wanted.c.key, newest.c.id).select_from(wanted.join(newest, sa.true()))
        )
    both = sa.union_all(*parts).subquery("both")
    last = (
        sa.select(both.c.key, sa.func.max(both.c.id).label("id"))
        .group_by(both.c.key)
        .subquery("last")
    )
    return (
        sa.select(
            last.c.key.label("found_key"), *activity_columns(activity, transaction, large=LARGE)
        )
        .select_from(last)
        .join(activity, activity.id == last.c.id)
        .outerjoin(transaction, transaction.id == activity.transaction_id)
    )


def transaction_by_id(transaction: Any, id: int) -> sa.Select[Any]:  # noqa: A002
    """Return the query for one transaction; its columns are named ``t_…``."""
    columns = [column.label(f"t_{name}") for name, column in transaction_columns(transaction)]
    return sa.select(*columns).where(transaction.id == id)


KEY_NAMES = ("object_key", "new_object_key")


# -- Exports -----------------------------------------------------------------------------------


def export_of_record(activity: Any, transaction: Any, place: Place, key: str) -> sa.Select[Any]:
    """Return the query for a record's activities, whole, the newest first.

    :param key: the text of ``activity.object_key``.
    """
    spans = keys_of_record(activity, place, key)
    found = another(activity)
    ids = sa.select(found.id).join(spans, sa.and_(is_of_place(found, place), _within(found, spans)))
    return (
        sa.select(*activity_columns(activity, transaction, large=LARGEST_ID))
        .outerjoin(transaction, transaction.id == activity.transaction_id)
        .where(activity.id.in_(ids))
        .order_by(activity.id.desc())
    )


def documents(activity: Any, ids: Iterable[int]) -> sa.Select[Any]:
    """Return the query for the stored documents of these activities: id and both."""
    columns = [getattr(activity, name).label(name) for name in ("id", "old_data", "changed_data")]
    return sa.select(*columns).where(activity.id.in_(list(ids)))


def undone_by(
    activity: Any, transaction: Any, place: Place, key: str, *, after: int, transaction_id: int
) -> sa.Select[Any]:
    """Return the query for the transaction that took another one back.

    It is looked for among the next changes of one record; with the id of the change.

    :param key: the text of ``activity.object_key``.
    :param after: the id of a change of the record in the transaction that was taken back.
    """
    near = (
        sa.select(activity.id, activity.transaction_id)
        .where(
            is_of_place(activity, place),
            sa.or_(activity.object_key == key, activity.new_object_key == key),
            activity.id > after,
        )
        .order_by(activity.id)
        .limit(PAGE)
        .subquery("near")
    )
    reverts = sa.type_coerce(transaction.meta, JSONB)["reverts"]["transaction"].astext
    return (
        sa.select(near.c.id, near.c.transaction_id)
        .join(transaction, transaction.id == near.c.transaction_id)
        .where(reverts == str(transaction_id))
        .order_by(near.c.id)
        .limit(1)
    )
