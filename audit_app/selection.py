"""What filters select: the feed, one transaction, an export. A ``Select`` each.

Pages are cut by key, never by offset, and nothing counts the trail. What no index leads to is
looked for within a bound, and the next page goes on where it ended.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from audit_app import models
from audit_app.history import (
    KEY_NAMES,
    LARGE,
    LARGEST_ID,
    PAGE,
    Cursor,
    activity_columns,
    another,
    as_jsonb,
    bare_columns,
    transaction_columns,
)

ROWS: Final = 8
"""Changes of one transaction that the feed shows."""

SCAN: Final = 10_000
"""Transactions that one page of a feed filtered by table or verb looks at, at the most.

No index leads from a table to its transactions; this bounds the search, and the next page goes on
where it ended.
"""
_OF_ROWS: Final = ("insert", "update", "delete", models.BASELINE)


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

RETENTION: Final = ("prune", "hold", "release", "restore")
"""Marks of retention, which name tables as ``places``."""

RETENTION_SECRETS: Final = ("actor", "record", "reason")
"""What a hold may name besides."""

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
    change = chosen(activity, filters, page.c.t_id)
    columns = bare_columns(activity, large=LARGE)
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
        chosen(activity, filters, seen.c.t_id)
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
    columns = [column.label(f"t_{name}") for name, column in transaction_columns(transaction)]
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
    for name in KEY_NAMES:
        places, found = key_tables(activity, name, filters.keys), another(activity)
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


def key_tables(activity: Any, name: str, keys: Iterable[str]) -> Any:
    """The tables that have records with one of ``keys``: a loose index scan, one probe for each.

    :param name: the attribute that holds the key, which leads an index with the table.
    """
    wanted = (
        sa.func.unnest(sa.cast(list(keys), sa.ARRAY(sa.Text)))
        .table_valued(sa.column("key", sa.Text), name=f"{name}_wanted")
        .render_derived()
    )
    first, other = another(activity), another(activity)
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
    columns = [column.label(f"t_{name}") for name, column in transaction_columns(transaction)]
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


def chosen(activity: Any, filters: Filters, transaction_id: Any) -> sa.Select[Any]:
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
    old, changed = as_jsonb(activity.old_data), as_jsonb(activity.changed_data)
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
    facts = as_jsonb(activity.changed_data)
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
    places = sa.func.coalesce(facts["places"], sa.cast([], JSONB), type_=JSONB)
    retained = sa.and_(
        sa.not_(_has_any(facts, RETENTION_SECRETS)),
        places.contained_by(sa.cast(sorted(tables.texts), JSONB)),
    )
    return sa.and_(
        sa.tuple_(activity.schema_name, activity.table_name).in_(tables.names),
        sa.case(
            (activity.verb == "rewrite", rewritten),
            (activity.verb == "export", exported),
            (activity.verb.in_(RETENTION), retained),
            else_=sa.true(),
        ),
    )


def _has_any(document: Any, names: Iterable[str]) -> Any:
    return document.has_any(sa.cast(list(names), sa.ARRAY(sa.Text)))


def export(activity: Any, transaction: Any, filters: Filters) -> sa.Select[Any]:
    """Return the query for all activities that a feed shows, whole, in the order of the feed.

    Without a limit: meant for a server-side cursor, which stops where the caller does.
    """
    if filters.keys:
        query = _keyed(activity, transaction, filters, before=None, after=None, most=None)
    else:
        query = _candidates(transaction, filters, before=None, after=None, limit=None)
    seen = query.subquery("seen")
    columns = bare_columns(activity, large=LARGEST_ID)
    # A LIMIT of its own keeps the planner from sorting a join with the whole trail.
    change = (
        chosen(activity, filters, seen.c.t_id)
        .with_only_columns(*columns)
        .order_by(activity.id)
        .limit(LARGEST_ID)
        .lateral("change")
    )
    return (
        sa.select(*seen.c, *change.c)
        .select_from(seen.join(change, sa.true()))
        .where(*_told(filters, seen.c))
        .order_by(seen.c.t_issued_at.desc(), seen.c.t_id.desc(), change.c.id)
    )
