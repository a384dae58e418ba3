"""Who and what is in the trail: people, records by their key, requests, tables.

Every function returns a ``Select`` that the caller executes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import aliased

from audit_app import selection
from audit_app.history import (
    KEY_NAMES,
    LARGE,
    activity_columns,
    another,
    bare_columns,
    listed,
    transaction_columns,
)
from audit_app.selection import Filters, Tables, chosen, is_among, key_tables

EXAMPLES: Final = 20
"""Transactions of an actor, and changes of each, by which it is told whether somebody may know of
the actor."""

RECENT: Final = 5_000
"""Activities among which tables are looked for that the application does not track any more."""


def recent_tables(activity: Any) -> sa.Select[Any]:
    """Return the query for schema and name of each table among the :data:`RECENT` activities."""
    newest = (
        sa.select(activity.schema_name, activity.table_name)
        .order_by(activity.id.desc())
        .limit(RECENT)
        .subquery("newest")
    )
    return sa.select(newest.c.schema_name, newest.c.table_name).distinct()


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
    :param tables: only what these tables tell of the actors, as far as their newest
        :data:`audit_app.selection.SCAN` transactions tell.
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
    :param tables: the newest that changed one of these, among
        :data:`audit_app.selection.SCAN` transactions.
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
        actor = listed("actor", {"actor_id": sa.Text()}, [(k,) for k in known])
        own = aliased(transaction)
        theirs = _newest(own, own.actor_id == actor.c.actor_id).lateral("theirs")
        parts.append(sa.select(*theirs.c).select_from(actor.join(theirs, sa.true())))
    if None in actor_ids:
        own = aliased(transaction)
        parts.append(sa.select(*_newest(own, own.actor_id.is_(None)).subquery("unknown").c))
    newest = sa.union_all(*parts).subquery("newest")
    change = (
        chosen(activity, filters, newest.c.t_id)
        .with_only_columns(*bare_columns(activity, large=LARGE))
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
    columns = [column.label(f"t_{name}") for name, column in transaction_columns(transaction)]
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
        .limit(selection.SCAN)
        .correlate(of)
        .lateral("mine")
    )
    match = (
        chosen(activity, Filters(tables=tables), mine.c.id)
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
    for name in KEY_NAMES:
        places, one = key_tables(activity, name, keys), another(activity)
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

    Among the newest :data:`audit_app.selection.SCAN` ones, for no index leads from a request to
    them.
    """
    seen = (
        sa.select(transaction.id, transaction.issued_at, transaction.request_id)
        .order_by(transaction.issued_at.desc(), transaction.id.desc())
        .limit(selection.SCAN)
        .subquery("seen")
    )
    return (
        sa.select(seen.c.id, seen.c.issued_at)
        .where(seen.c.request_id == request_id)
        .order_by(seen.c.issued_at.desc(), seen.c.id.desc())
        .limit(limit)
    )
