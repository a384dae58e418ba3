"""The read side: every function returns a ``Select`` that the caller executes.

Pages are cut by key, never by offset, and nothing counts the trail: a page costs the same at any
depth and at any size. The mapped classes are passed in, so that this module knows no logger.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import aliased

from audit_app import identity as identities
from audit_app import models
from audit_app.errors import InvalidCursorError, UnknownVersionError
from audit_app.formerly import NEVER, Formerly, Place

PAGE: Final = 50
"""Rows of a page."""

ROWS: Final = 8
"""Changes of one transaction that the feed shows."""

SCAN: Final = 20_000
"""Transactions that one page of a feed filtered by table or verb looks at, at the most.

No index leads from a table to its transactions; this bounds the search, and the next page goes on
where it ended.
"""

EXAMPLES: Final = 20
"""Transactions of an actor, and changes of each, by which it is told whether somebody may know of
the actor."""

RECENT: Final = 5_000
"""Activities among which tables are looked for that the application does not track any more."""

LARGE: Final = 32_768
"""Bytes, as stored, above which a list shows a change's fields without their values."""

_OF_ROWS: Final = ("insert", "update", "delete", models.BASELINE)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CURSOR = re.compile(r"(-?[0-9]{1,18})\.(-?[0-9]{1,19})", re.ASCII)
_LARGEST_ID = 2**63 - 1
_SMALLEST_ID = -(2**63)  # what was imported has ids below zero


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
    if not _SMALLEST_ID <= int(text) <= _LARGEST_ID:
        raise InvalidCursorError
    return int(text)


@dataclass(frozen=True)
class Tables:
    """Tables that may be seen.

    :ivar names: schema and name of each, present and former ones.
    :ivar texts: what the record of an export may call them.
    """

    names: tuple[tuple[str, str], ...]
    texts: tuple[str, ...] = ()


EXPORT_SECRETS: Final = ("actor", "reason", "request")
"""Parameters that an export's mark names: they may tell of changes of any table."""

EXPORT_TABLES: Final = ("schema", "table", "identity", "record", "field", "value")
"""Parameters that tell of the table that the mark names."""


@dataclass(frozen=True)
class Filters:
    """Which transactions and activities a feed shows; None does not restrict.

    :ivar unknown_actor: only what nobody is known to have done; excludes ``actor_id``.
    :ivar since: the earliest moment.
    :ivar until: the first moment that is too late.
    :ivar fields: names of one field (the present one and former ones): only changes of it.
    :ivar value: only changes to or from this text; needs ``fields``.
    :ivar keys: spellings of one record's key, as ``activity.object_key`` has it.
    :ivar words: only transactions whose reason holds each of these, in any case of letters.
    :ivar tables: the tables that may be seen.
    """

    actor_id: str | None = None
    unknown_actor: bool = False
    schema_name: str | None = None
    table_name: str | None = None
    verb: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    fields: tuple[str, ...] = ()
    value: str | None = None
    keys: tuple[str, ...] = ()
    request_id: str | None = None
    words: tuple[str, ...] = ()
    tables: Tables | None = None

    @property
    def by_activity(self) -> bool:
        """Whether single activities have to be looked at."""
        given = (self.schema_name, self.table_name, self.verb, self.tables)
        return bool(self.fields or self.keys) or any(value is not None for value in given)

    @property
    def is_search(self) -> bool:
        """Whether no index leads to the answer, so that the search is bounded."""
        return self.by_activity or self.request_id is not None or bool(self.words)


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
    found = aliased(activity)
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
    found = aliased(activity)
    own = sa.select(found.id).where(
        found.id.in_(ids),
        is_of_place(found, place),
        sa.exists().where(_within(found, spans)).correlate(found),
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
    spans, found = keys_of_record(activity, place, key), aliased(activity)
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
    after. :func:`state_of` tells what they mean.

    :param key: the text of ``activity.object_key``.
    :param when: with a time zone; or the id of the last activity that counts, or an expression for
        it.
    :param formerly: the former names of the table.
    """
    place = Place(schema_name, table_name, formerly)
    spans = keys_of_record(activity, place, key)
    truncated = aliased(activity)
    if isinstance(when, datetime):
        last = ids_of_record(activity, place, spans, until=when, limit=1)
        following = ids_of_record(activity, place, spans, since=when, limit=1)
        counts = truncated.issued_at <= when
        past = activity.issued_at <= when
    else:
        last = ids_of_record(activity, place, spans, before=when + 1, limit=1)
        following = ids_of_record(activity, place, spans, after=when, limit=1)
        counts = truncated.id <= when
        past = activity.id <= when
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
    return sa.select(
        parts.c.part, activity.id, *(getattr(activity, name) for name in columns)
    ).join(parts, parts.c.id == activity.id)


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
    found = aliased(activity)
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
        sa.literal(_SMALLEST_ID, sa.BigInteger),
        sa.literal(_LARGEST_ID, sa.BigInteger),
    )
    spans = sa.select(
        sa.cast(sa.literal(key, sa.Text), sa.Text).label("key"),
        sa.cast(lowest, sa.BigInteger).label("low"),
        sa.cast(highest, sa.BigInteger).label("high"),
        sa.cast(sa.literal(0, sa.Integer), sa.Integer).label("way"),
    ).cte("span", recursive=True)
    came, went = aliased(activity), aliased(activity)

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
    found = aliased(activity)
    one = sa.select(found.id).where(_within(found, spans))
    keys: Any = spans
    if len(place.names) == 1:
        one = one.where(is_of_place(found, place))
    else:
        columns = sa.column("schema_name", sa.Text), sa.column("table_name", sa.Text)
        names = sa.values(*columns, name="name").data(list(place.names))
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
        *_activity_columns(activity, large=large),
        *(column.label(f"t_{name}") for name, column in _transaction_columns(transaction)),
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


def _activity_columns(activity: Any, *, large: int) -> list[Any]:
    columns = [getattr(activity, name).label(name) for name in _ACTIVITY_NAMES]
    stored = activity.old_data.type
    size = sa.func.coalesce(sa.func.pg_column_size(activity.old_data), 0) + sa.func.coalesce(
        sa.func.pg_column_size(activity.changed_data), 0
    )
    is_large = size > large
    document = sa.func.coalesce(
        _as_jsonb(activity.changed_data), _as_jsonb(activity.old_data), type_=sa.JSON
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


def _as_jsonb(column: Any) -> Any:
    return sa.type_coerce(column, sa.dialects.postgresql.JSONB)


def _transaction_columns(transaction: Any) -> list[tuple[str, Any]]:
    return [(name, getattr(transaction, name)) for name in _TRANSACTION_NAMES]


def activity_by_id(activity: Any, transaction: Any, id: int, *, large: int) -> sa.Select[Any]:  # noqa: A002
    """Return the query for one activity, with the columns of :func:`activity_columns`."""
    return (
        sa.select(*activity_columns(activity, transaction, large=large))
        .outerjoin(transaction, transaction.id == activity.transaction_id)
        .where(activity.id == id)
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
    wanted = sa.values(sa.column("key", sa.Text), name="wanted").data([(key,) for key in keys])
    parts = []
    for name in _KEY_NAMES:
        one = aliased(activity)
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
    columns = [column.label(f"t_{name}") for name, column in _transaction_columns(transaction)]
    return sa.select(*columns).where(transaction.id == id)


def of_transaction(
    activity: Any,
    transaction: Any,
    id: int,  # noqa: A002
    *,
    after: int | None = None,
    limit: int = PAGE,
    filters: Filters | None = None,
) -> sa.Select[Any]:
    """Return the query for a page of a transaction's activities, in the order of writing.

    One row more than ``limit`` tells that there is another page.

    :param after: the id of the last activity of the page before.
    :param filters: what of them to show, as far as it is about activities.
    """
    query = (
        sa.select(*activity_columns(activity, transaction, large=LARGE))
        .outerjoin(transaction, transaction.id == activity.transaction_id)
        .where(activity.transaction_id == id, *_conditions(activity, filters or Filters()))
        .order_by(activity.id)
        .limit(limit + 1)
    )
    return query if after is None else query.where(activity.id > after)


# -- The feed ----------------------------------------------------------------------------------


def feed(
    activity: Any,
    transaction: Any,
    filters: Filters,
    *,
    before: Cursor | None = None,
    after: Cursor | None = None,
    limit: int = PAGE,
    rows: int = ROWS,
) -> sa.Select[Any]:
    """Return the query for a page of transactions, the newest first, each with its activities.

    One transaction more than ``limit``, and one activity more than ``rows`` in a transaction, tell
    that there are more. The rows are flat: a row for each activity, with the columns of
    :func:`activity_columns`; a transaction without activities has one row with nulls.

    :param before: only older transactions.
    :param after: only newer ones; the extra transaction is then the newest, not the oldest.
    """
    page = _matching(activity, transaction, filters, before=before, after=after, limit=limit + 1)
    change = _chosen(activity, filters, page.c.t_id)
    columns = _activity_columns(activity, large=LARGE)
    shown = (
        change.with_only_columns(*columns).order_by(activity.id).limit(rows + 1).lateral("shown")
    )
    return (
        sa.select(*page.c, *shown.c)
        .select_from(page.outerjoin(shown, sa.true()))
        .order_by(page.c.t_issued_at.desc(), page.c.t_id.desc(), shown.c.id)
    )


def scanned(
    transaction: Any,
    filters: Filters,
    *,
    before: Cursor | None = None,
    after: Cursor | None = None,
) -> sa.Select[Any]:
    """Return the query for where the search of :func:`feed` ended.

    One row: ``issued_at``, ``id``, ``position``; a position of :data:`SCAN` means that there may be
    more beyond. No row if there was nothing to look at.
    """
    seen = _candidates(transaction, filters, before=before, after=after, limit=SCAN).subquery(
        "seen"
    )
    order = _order(seen.c.t_issued_at, seen.c.t_id, forward=after is not None)
    position = sa.func.row_number().over(order_by=order).label("position")
    return (
        sa.select(seen.c.t_issued_at.label("issued_at"), seen.c.t_id.label("id"), position)
        .order_by(position.desc())
        .limit(1)
    )


def scanned_of_keys(activity: Any, filters: Filters) -> sa.Select[Any]:
    """Return the query for how far the search of :func:`feed` came where ``filters`` have keys.

    As :func:`scanned`, of activities: the newest of the record, wherever the page begins.
    """
    seen = _of_keys(activity, filters, SCAN).subquery("seen")
    position = sa.func.row_number().over(order_by=seen.c.id.desc()).label("position")
    return sa.select(seen.c.issued_at, seen.c.id, position).order_by(position.desc()).limit(1)


def _matching(
    activity: Any,
    transaction: Any,
    filters: Filters,
    *,
    before: Cursor | None,
    after: Cursor | None,
    limit: int,
) -> Any:
    forward = after is not None
    if not filters.is_search:
        query = _candidates(transaction, filters, before=before, after=after, limit=limit)
        return query.subquery("page")
    if filters.keys:
        query = _keyed(activity, transaction, filters, before=before, after=after, most=SCAN)
    else:
        query = _candidates(transaction, filters, before=before, after=after, limit=SCAN)
    seen = query.subquery("seen")
    if not filters.by_activity:
        return (
            sa.select(*seen.c)
            .where(*_told(filters, seen.c))
            .order_by(*_order(seen.c.t_issued_at, seen.c.t_id, forward=forward))
            .limit(limit)
            .subquery("page")
        )
    # A LIMIT of its own keeps the planner from turning this into a join with the whole trail.
    match = (
        _chosen(activity, filters, seen.c.t_id)
        .with_only_columns(sa.literal(1).label("one"))
        .limit(1)
        .lateral("match")
    )
    return (
        sa.select(*seen.c)
        .select_from(seen.join(match, sa.true()))
        .where(*_told(filters, seen.c))
        .order_by(*_order(seen.c.t_issued_at, seen.c.t_id, forward=forward))
        .limit(limit)
        .subquery("page")
    )


def _told(filters: Filters, columns: Any) -> list[Any]:
    """Conditions on what a transaction tells of itself and no index leads to."""
    conditions = [columns.t_reason.icontains(word, autoescape=True) for word in filters.words]
    if filters.request_id is not None:
        conditions.append(columns.t_request_id == filters.request_id)
    return conditions


def _keyed(
    activity: Any,
    transaction: Any,
    filters: Filters,
    *,
    before: Cursor | None,
    after: Cursor | None,
    most: int | None,
) -> sa.Select[Any]:
    """Transactions that changed a record, by the index that leads by its key.

    :param most: how many of its changes are looked at, the newest; None for all.
    """
    columns = [column.label(f"t_{name}") for name, column in _transaction_columns(transaction)]
    newest = _of_keys(activity, filters, most).subquery("newest")
    ids = sa.select(newest.c.transaction_id).distinct().subquery("changed")
    # A LIMIT of its own keeps the planner from walking all transactions of the period instead.
    found = (
        sa.select(*columns)
        .where(transaction.id == ids.c.transaction_id)
        .where(*_within_reach(transaction, filters, before, after))
        .limit(1)
        .lateral("found")
    )
    return sa.select(*found.c).select_from(ids.join(found, sa.true()))


def _of_keys(activity: Any, filters: Filters, most: int | None) -> sa.Select[Any]:
    """The newest changes of a record: ``id``, ``transaction_id``, ``issued_at``.

    Each key in each table is cut by the index before they are merged.
    """
    parts = []
    for name in _KEY_NAMES:
        places, found = _key_tables(activity, name, filters.keys), aliased(activity)
        newest = (
            sa.select(found.id, found.transaction_id, found.issued_at)
            .where(getattr(found, name) == places.c.key, found.table_name == places.c.table_name)
            .order_by(found.id.desc())
            .limit(most)
        )
        if filters.schema_name is not None:
            newest = newest.where(found.schema_name == filters.schema_name)
        if filters.table_name is not None:
            newest = newest.where(found.table_name == filters.table_name)
        if filters.tables is not None:
            newest = newest.where(is_among(found, filters.tables))
        cut = newest.lateral("cut")
        parts.append(sa.select(*cut.c).select_from(places.join(cut, sa.true())))
    both = sa.union_all(*parts).subquery("both")
    return sa.select(*both.c).order_by(both.c.id.desc()).limit(most)


_KEY_NAMES = ("object_key", "new_object_key")


def _key_tables(activity: Any, name: str, keys: Iterable[str]) -> Any:
    """The tables that have records with one of ``keys``: a loose index scan, one probe for each.

    :param name: the attribute that holds the key, which leads an index with the table.
    """
    wanted = (
        sa.func.unnest(sa.cast(list(keys), sa.ARRAY(sa.Text)))
        .table_valued(sa.column("key", sa.Text), name=f"{name}_wanted")
        .render_derived()
    )
    first, other = aliased(activity), aliased(activity)
    probe = (
        sa.select(sa.func.min(first.table_name))
        .where(getattr(first, name) == wanted.c.key)
        .scalar_subquery()
    )
    found = sa.select(wanted.c.key, probe.label("table_name")).cte(f"{name}_table", recursive=True)
    following = (
        sa.select(sa.func.min(other.table_name))
        .where(getattr(other, name) == found.c.key, other.table_name > found.c.table_name)
        .scalar_subquery()
    )
    return found.union_all(
        sa.select(found.c.key, following.label("table_name")).where(found.c.table_name.is_not(None))
    )


def _candidates(
    transaction: Any,
    filters: Filters,
    *,
    before: Cursor | None,
    after: Cursor | None,
    limit: int | None,
) -> sa.Select[Any]:
    """Transactions by what they know themselves: actor and time, both led by an index."""
    columns = [column.label(f"t_{name}") for name, column in _transaction_columns(transaction)]
    query = sa.select(*columns).where(*_within_reach(transaction, filters, before, after))
    order = _order(transaction.issued_at, transaction.id, forward=after is not None)
    return query.order_by(*order).limit(limit)


def _within_reach(
    transaction: Any, filters: Filters, before: Cursor | None, after: Cursor | None
) -> list[Any]:
    conditions = []
    if filters.unknown_actor:
        conditions.append(transaction.actor_id.is_(None))
    elif filters.actor_id is not None:
        conditions.append(transaction.actor_id == filters.actor_id)
    if filters.since is not None:
        conditions.append(transaction.issued_at >= filters.since)
    if filters.until is not None:
        conditions.append(transaction.issued_at < filters.until)
    place = sa.tuple_(transaction.issued_at, transaction.id)
    if before is not None:
        conditions.append(place < sa.tuple_(*_literals(before)))
    if after is not None:
        conditions.append(place > sa.tuple_(*_literals(after)))
    return conditions


def _literals(cursor: Cursor) -> tuple[Any, Any]:
    return (
        sa.literal(cursor.issued_at, sa.DateTime(timezone=True)),
        sa.literal(cursor.id, sa.BigInteger),
    )


def _order(issued_at: Any, id: Any, *, forward: bool) -> tuple[Any, Any]:  # noqa: A002
    return (issued_at.asc(), id.asc()) if forward else (issued_at.desc(), id.desc())


def _chosen(activity: Any, filters: Filters, transaction_id: Any) -> sa.Select[Any]:
    of_transaction = activity.transaction_id == transaction_id
    return sa.select(activity).where(of_transaction, *_conditions(activity, filters))


def _conditions(activity: Any, filters: Filters) -> list[Any]:
    """What an activity has to be."""
    names = ("schema_name", "table_name", "verb")
    found = [
        getattr(activity, name) == getattr(filters, name)
        for name in names
        if getattr(filters, name) is not None
    ]
    if filters.keys:
        found.append(
            sa.or_(activity.object_key.in_(filters.keys), activity.new_object_key.in_(filters.keys))
        )
    if filters.fields:
        found.append(_changes_field(activity, filters))
    if filters.tables is not None:
        found.append(is_among(activity, filters.tables))
    return found


def _changes_field(activity: Any, filters: Filters) -> Any:
    """Changes of a field; an insert and a delete change every field that they hold."""
    old, changed = _as_jsonb(activity.old_data), _as_jsonb(activity.changed_data)
    document = sa.func.coalesce(changed, old, type_=JSONB)
    conditions = []
    for name in filters.fields:
        condition = document.has_key(name)
        if filters.value is not None:
            condition = sa.and_(
                condition,
                sa.or_(changed[name].astext == filters.value, old[name].astext == filters.value),
            )
        conditions.append(condition)
    # What the trail says of itself (the size of a truncated table, a reason) is no field.
    return sa.and_(activity.verb.in_(_OF_ROWS), sa.or_(*conditions))


def is_among(activity: Any, tables: Tables) -> Any:
    """Return the condition that an activity is about tables that may be seen.

    The trail's marks of rewritings and exports tell of other tables than their own: theirs count.
    """
    if not tables.names:
        return sa.false()
    facts = _as_jsonb(activity.changed_data)
    arguments, given = facts["arguments"], facts["filter"]
    rewritten = sa.and_(
        sa.tuple_(facts["schema"].astext, facts["table"].astext).in_(tables.names),
        sa.or_(
            facts["operation"].astext != "rename_table",
            sa.tuple_(arguments["schema"].astext, arguments["table"].astext).in_(tables.names),
        ),
    )
    text = sa.func.concat_ws(".", given["schema"].astext, given["table"].astext)
    exported = sa.and_(
        sa.not_(_has_any(given, EXPORT_SECRETS)),
        sa.or_(sa.not_(_has_any(given, EXPORT_TABLES)), text.in_(tables.texts)),
    )
    return sa.and_(
        sa.tuple_(activity.schema_name, activity.table_name).in_(tables.names),
        sa.case(
            (activity.verb == "rewrite", rewritten),
            (activity.verb == "export", exported),
            else_=sa.true(),
        ),
    )


def _has_any(document: Any, names: Iterable[str]) -> Any:
    return document.has_any(sa.cast(list(names), sa.ARRAY(sa.Text)))


# -- Exports -----------------------------------------------------------------------------------


def export(activity: Any, transaction: Any, filters: Filters) -> sa.Select[Any]:
    """Return the query for all activities that a feed shows, whole, in the order of the feed.

    Without a limit: meant for a server-side cursor, which stops where the caller does.
    """
    if filters.keys:
        query = _keyed(activity, transaction, filters, before=None, after=None, most=None)
    else:
        query = _candidates(transaction, filters, before=None, after=None, limit=None)
    seen = query.subquery("seen")
    columns = _activity_columns(activity, large=_LARGEST_ID)
    # A LIMIT of its own keeps the planner from sorting a join with the whole trail.
    change = (
        _chosen(activity, filters, seen.c.t_id)
        .with_only_columns(*columns)
        .order_by(activity.id)
        .limit(_LARGEST_ID)
        .lateral("change")
    )
    return (
        sa.select(*seen.c, *change.c)
        .select_from(seen.join(change, sa.true()))
        .where(*_told(filters, seen.c))
        .order_by(seen.c.t_issued_at.desc(), seen.c.t_id.desc(), change.c.id)
    )


def export_of_record(activity: Any, transaction: Any, place: Place, key: str) -> sa.Select[Any]:
    """Return the query for a record's activities, whole, the newest first.

    :param key: the text of ``activity.object_key``.
    """
    spans = keys_of_record(activity, place, key)
    found = aliased(activity)
    ids = sa.select(found.id).join(spans, sa.and_(is_of_place(found, place), _within(found, spans)))
    return (
        sa.select(*activity_columns(activity, transaction, large=_LARGEST_ID))
        .outerjoin(transaction, transaction.id == activity.transaction_id)
        .where(activity.id.in_(ids))
        .order_by(activity.id.desc())
    )


def documents(activity: Any, ids: Iterable[int]) -> sa.Select[Any]:
    """Return the query for the stored documents of these activities: id and both."""
    columns = [getattr(activity, name).label(name) for name in ("id", "old_data", "changed_data")]
    return sa.select(*columns).where(activity.id.in_(list(ids)))


def recent_tables(activity: Any) -> sa.Select[Any]:
    """Return the query for schema and name of each table among the :data:`RECENT` activities."""
    newest = (
        sa.select(activity.schema_name, activity.table_name)
        .order_by(activity.id.desc())
        .limit(RECENT)
        .subquery("newest")
    )
    return sa.select(newest.c.schema_name, newest.c.table_name).distinct()


# -- Actors ------------------------------------------------------------------------------------


def actors(
    transaction: Any,
    *,
    after: str | None = None,
    limit: int = 200,
    activity: Any = None,
    tables: Tables | None = None,
) -> sa.Select[Any]:
    """Return the query for who was active: each actor's id, last label and last moment.

    One probe of an index for each actor, however many transactions they have. One row more than
    ``limit`` tells that there are more.

    :param after: only actor ids beyond this one, in the order of the rows (descending).
    :param activity: needed for ``tables``.
    :param tables: only what these tables tell of the actors, as far as their newest :data:`SCAN`
        transactions tell.
    """
    columns = ("actor_id", "actor_label", "issued_at", "id")

    def newest(source: Any) -> sa.Select[Any]:
        return (
            sa.select(*(getattr(source, name).label(name) for name in columns))
            .where(source.actor_id.is_not(None))
            .order_by(source.actor_id.desc(), source.issued_at.desc(), source.id.desc())
            .limit(1)
        )

    first = newest(transaction)
    if after is not None:
        first = first.where(transaction.actor_id < after)
    found = sa.select(first.subquery("first")).cte("actor", recursive=True)
    other = aliased(transaction)
    following = newest(other).where(other.actor_id < found.c.actor_id).lateral("following")
    found = found.union_all(sa.select(*following.c).select_from(found.join(following, sa.true())))
    if tables is None:
        return sa.select(found).limit(limit + 1)
    own = aliased(transaction)
    mine = own.actor_id == found.c.actor_id
    seen = _newest_among(own, activity, mine, tables, of=found).lateral("seen")
    return sa.select(*seen.c).select_from(found.join(seen, sa.true())).limit(limit + 1)


def last_of_actor(
    transaction: Any,
    actor_id: str | None,
    *,
    activity: Any = None,
    tables: Tables | None = None,
) -> sa.Select[Any]:
    """Return the query for an actor's newest transaction: id, label, moment; None for unknown.

    :param activity: needed for ``tables``.
    :param tables: the newest that changed one of these, among :data:`SCAN` transactions.
    """
    if tables is not None:
        return _newest_among(transaction, activity, _is_actor(transaction, actor_id), tables)
    return (
        sa.select(*_actor_columns(transaction))
        .where(_is_actor(transaction, actor_id))
        .order_by(transaction.actor_id.desc(), transaction.issued_at.desc(), transaction.id.desc())
        .limit(1)
    )


def examples(
    activity: Any, transaction: Any, actor_ids: Sequence[str | None], filters: Filters
) -> sa.Select[Any]:
    """Return the query for a few of the newest changes of each actor, the newest first.

    At the most :data:`EXAMPLES` transactions of an actor, and as many changes of each, with the
    columns of :func:`activity_columns`.

    :param actor_ids: None stands for the unknown actor.
    """
    known = [id_ for id_ in actor_ids if id_ is not None]
    parts = []
    if known:
        actor = sa.values(sa.column("actor_id", sa.Text), name="actor").data([(k,) for k in known])
        own = aliased(transaction)
        theirs = _newest(own, own.actor_id == actor.c.actor_id).lateral("theirs")
        parts.append(sa.select(*theirs.c).select_from(actor.join(theirs, sa.true())))
    if None in actor_ids:
        own = aliased(transaction)
        parts.append(sa.select(*_newest(own, own.actor_id.is_(None)).subquery("unknown").c))
    newest = sa.union_all(*parts).subquery("newest")
    change = (
        _chosen(activity, filters, newest.c.t_id)
        .with_only_columns(*_activity_columns(activity, large=LARGE))
        .order_by(activity.id)
        .limit(EXAMPLES)
        .lateral("change")
    )
    return (
        sa.select(*newest.c, *change.c)
        .select_from(newest.join(change, sa.true()))
        .order_by(newest.c.t_issued_at.desc(), newest.c.t_id.desc(), change.c.id)
    )


def _newest(transaction: Any, condition: Any) -> sa.Select[Any]:
    columns = [column.label(f"t_{name}") for name, column in _transaction_columns(transaction)]
    order = (transaction.issued_at.desc(), transaction.id.desc())
    return sa.select(*columns).where(condition).order_by(*order).limit(EXAMPLES)


def _newest_among(
    transaction: Any,
    activity: Any,
    condition: Any,
    tables: Tables,
    *,
    of: Any = None,
) -> sa.Select[Any]:
    """The newest transaction that changed one of these tables.

    :param of: where ``condition`` takes the actor from, in the query around.
    """
    order = (transaction.issued_at.desc(), transaction.id.desc())
    mine = (
        sa.select(*_actor_columns(transaction))
        .where(condition)
        .order_by(*order)
        .limit(SCAN)
        .correlate(of)
        .lateral("mine")
    )
    match = (
        _chosen(activity, Filters(tables=tables), mine.c.id)
        .with_only_columns(sa.literal(1).label("one"))
        .limit(1)
        .lateral("match")
    )
    return (
        sa.select(*mine.c)
        .select_from(mine.join(match, sa.true()))
        .order_by(mine.c.issued_at.desc(), mine.c.id.desc())
        .limit(1)
    )


def _actor_columns(transaction: Any) -> list[Any]:
    names = ("actor_id", "actor_label", "issued_at", "id")
    return [getattr(transaction, name).label(name) for name in names]


def _is_actor(transaction: Any, actor_id: str | None) -> Any:
    column = transaction.actor_id
    return column.is_(None) if actor_id is None else column == actor_id


# -- Looking up --------------------------------------------------------------------------------

NAMESAKES: Final = 50
"""Records with one key that a search offers to choose from."""


def records_of_keys(
    activity: Any,
    transaction: Any,
    keys: Iterable[str],
    *,
    limit: int = NAMESAKES,
    tables: Tables | None = None,
) -> sa.Select[Any]:
    """Return the query for the records that have or had one of ``keys``, in any table.

    A row for each record: the newest activity under that key, with the columns of
    :func:`activity_columns`, and ``found_key``. One row more than ``limit`` tells that there are
    more.

    :param tables: only records of these.
    """
    keys, parts = tuple(keys), []
    for name in _KEY_NAMES:
        places, one = _key_tables(activity, name, keys), aliased(activity)
        # Namesakes in two schemas share an entry of the index: enough of it is read to see both.
        found = (
            sa.select(one.id, one.schema_name)
            .where(getattr(one, name) == places.c.key, one.table_name == places.c.table_name)
            .order_by(one.id.desc())
            .limit(_NEWEST)
            .correlate(places)
        )
        if tables is not None:
            found = found.where(is_among(one, tables))
        newest = found.subquery("newest")
        last = (
            sa.select(sa.func.max(newest.c.id).label("id"), newest.c.schema_name)
            .group_by(newest.c.schema_name)
            .lateral("last")
        )
        parts.append(
            sa.select(last.c.id, places.c.key.label("found_key")).select_from(
                places.join(last, sa.true())
            )
        )
    both = sa.union_all(*parts).subquery("record")
    return (
        sa.select(both.c.found_key, *activity_columns(activity, transaction, large=LARGE))
        .select_from(both)
        .join(activity, activity.id == both.c.id)
        .outerjoin(transaction, transaction.id == activity.transaction_id)
        .order_by(activity.table_name, activity.id.desc())
        .limit(2 * limit + 1)
    )


_NEWEST = 200


def of_request(transaction: Any, request_id: str, *, limit: int = 2) -> sa.Select[Any]:
    """Return the query for the newest transactions of a request: ``id``, ``issued_at``.

    Among the newest :data:`SCAN` ones, for no index leads from a request to them.
    """
    seen = (
        sa.select(transaction.id, transaction.issued_at, transaction.request_id)
        .order_by(transaction.issued_at.desc(), transaction.id.desc())
        .limit(SCAN)
        .subquery("seen")
    )
    return (
        sa.select(seen.c.id, seen.c.issued_at)
        .where(seen.c.request_id == request_id)
        .order_by(seen.c.issued_at.desc(), seen.c.id.desc())
        .limit(limit)
    )


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
