"""What an actor did in a period, summed up: days, hours, tables, verbs, addresses.

Bounded like everything that reads the trail: at most :data:`COUNTED` changes are looked at, the
newest first. The query returns a ``Select`` that the caller executes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Final

import sqlalchemy as sa

from audit_app import selection

COUNTED: Final = 10_000
"""Changes that a summary looks at, at the most."""


@dataclass(frozen=True)
class Summary:
    """The changes of a period, as far as they were counted.

    :ivar changes: how many were counted.
    :ivar is_cut: whether there are more, older than ``oldest``.
    :ivar oldest: the moment of the oldest transaction that was looked at.
    :ivar days: changes by day, in the zone that was asked for, and by verb.
    :ivar hours: changes by day of the week (1 is Monday) and hour.
    :ivar tables: changes by schema and table, and by verb.
    :ivar verbs: changes by verb.
    :ivar addresses: the last moment of each client address, the latest first.
    """

    changes: int = 0
    is_cut: bool = False
    oldest: datetime | None = None
    days: Mapping[date, Mapping[str, int]] = field(default_factory=dict)
    hours: Mapping[tuple[int, int], int] = field(default_factory=dict)
    tables: Mapping[tuple[str, str], Mapping[str, int]] = field(default_factory=dict)
    verbs: Mapping[str, int] = field(default_factory=dict)
    addresses: tuple[tuple[str, datetime], ...] = ()


def of_actor(
    activity: Any,
    transaction: Any,
    actor_id: str,
    zone_name: str,
    *,
    since: datetime | None,
    until: datetime | None,
    limit: int | None = None,
    tables: selection.Tables | None = None,
) -> sa.Select[Any]:
    """Return the query whose rows :func:`summarize` understands.

    The newest transactions are found by the actor's index, each probes for its changes, and the
    search ends with the row beyond ``limit``: the cost does not depend on the size of the trail.

    :param zone_name: the IANA name of the time zone whose days and hours count.
    :param limit: changes to look at; :data:`COUNTED` by default.
    :param tables: only changes of these count. A transaction without one is looked at, and tells
        nothing.
    """
    most = (COUNTED if limit is None else limit) + 1
    newest = sa.select(transaction.id, transaction.issued_at, transaction.client_addr).where(
        transaction.actor_id == actor_id
    )
    if since is not None:
        newest = newest.where(transaction.issued_at >= since)
    if until is not None:
        newest = newest.where(transaction.issued_at < until)
    seen = (
        newest.order_by(transaction.issued_at.desc(), transaction.id.desc())
        .limit(most)
        .subquery("seen")
    )
    # A LIMIT of its own keeps the planner from joining the whole trail.
    changes = (
        sa.select(activity.id, activity.schema_name, activity.table_name, activity.verb)
        .where(activity.transaction_id == seen.c.id)
        .limit(most)
    )
    address: Any = seen.c.client_addr
    if tables is not None:
        changes = changes.where(selection.is_among(activity, tables))
    change = changes.lateral("change")
    if tables is not None:
        address = sa.case((change.c.id.is_not(None), address), else_=sa.null())
    local = sa.func.timezone(sa.cast(zone_name, sa.Text), seen.c.issued_at, type_=sa.DateTime)
    sample = (
        sa.select(
            seen.c.issued_at,
            address.label("client_addr"),
            sa.cast(local, sa.Date).label("day"),
            sa.cast(sa.extract("isodow", local), sa.Integer).label("weekday"),
            sa.cast(sa.extract("hour", local), sa.Integer).label("hour"),
            change.c.schema_name,
            change.c.table_name,
            change.c.verb,
            sa.case((change.c.id.is_(None), 0), else_=1).label("one"),
        )
        .select_from(seen.outerjoin(change, sa.true()))
        .order_by(seen.c.issued_at.desc(), seen.c.id.desc())
        .limit(most)
        .cte("sample")
    )
    c = sample.c
    by = (c.day, c.weekday, c.schema_name, c.client_addr)
    return sa.select(
        sa.func.grouping(*by, type_=sa.Integer).label("kind"),
        c.day,
        c.weekday,
        c.hour,
        c.schema_name,
        c.table_name,
        c.verb,
        c.client_addr,
        # A sum, for the pages know no other way to count: nothing there ever counts the trail.
        sa.func.sum(c.one).label("changes"),
        sa.func.sum(1).label("rows"),
        sa.func.min(c.issued_at).label("first"),
        sa.func.max(c.issued_at).label("last"),
    ).group_by(
        sa.func.grouping_sets(
            sa.tuple_(c.day, c.verb),
            sa.tuple_(c.weekday, c.hour),
            sa.tuple_(c.schema_name, c.table_name, c.verb),
            sa.tuple_(c.client_addr),
            sa.text("()"),
        )
    )


# The bits of GROUPING(): 0 where the row is about that column.
_DAY, _HOUR, _TABLE, _ADDRESS, _ALL = 0b0111, 0b1011, 0b1101, 0b1110, 0b1111


def summarize(rows: Iterable[Any], *, limit: int | None = None) -> Summary:
    """Return what the rows of :func:`of_actor` say, read with the same ``limit``."""
    most = COUNTED if limit is None else limit
    days: dict[date, dict[str, int]] = {}
    tables: dict[tuple[str, str], dict[str, int]] = {}
    hours: dict[tuple[int, int], int] = {}
    verbs: dict[str, int] = {}
    addresses: list[tuple[str, datetime]] = []
    changes, is_cut, oldest = 0, False, None
    for row in rows:
        number = int(row.changes or 0)
        if row.kind == _ALL:
            changes, is_cut, oldest = number, (row.rows or 0) > most, row.first
        elif row.kind == _ADDRESS:
            if row.client_addr is not None:
                addresses.append((str(row.client_addr), row.last))
        elif not number:
            continue
        elif row.kind == _DAY:
            days.setdefault(row.day, {})[row.verb] = number
            verbs[row.verb] = verbs.get(row.verb, 0) + number
        elif row.kind == _HOUR:
            hours[row.weekday, row.hour] = number
        else:
            tables.setdefault((row.schema_name, row.table_name), {})[row.verb] = number
    return Summary(
        changes=min(changes, most),
        is_cut=is_cut,
        oldest=oldest,
        days=days,
        hours=hours,
        tables=tables,
        verbs=verbs,
        addresses=tuple(sorted(addresses, key=lambda pair: pair[1], reverse=True)),
    )


def first_of_actor(
    activity: Any,
    transaction: Any,
    actor_id: str,
    *,
    tables: selection.Tables | None = None,
) -> sa.Select[Any]:
    """Return the query for the moment of an actor's oldest transaction: ``issued_at``.

    :param tables: the oldest that changed one of these, among :data:`audit_app.selection.SCAN`
        transactions; no row if none of them did.
    """
    oldest = (
        sa.select(transaction.id, transaction.issued_at)
        .where(transaction.actor_id == actor_id)
        .order_by(transaction.actor_id, transaction.issued_at, transaction.id)
    )
    if tables is None:
        return oldest.with_only_columns(transaction.issued_at).limit(1)
    seen = oldest.limit(selection.SCAN).subquery("seen")
    match = (
        sa.select(sa.literal(1).label("one"))
        .where(activity.transaction_id == seen.c.id, selection.is_among(activity, tables))
        .limit(1)
        .lateral("match")
    )
    return (
        sa.select(seen.c.issued_at)
        .select_from(seen.join(match, sa.true()))
        .order_by(seen.c.issued_at, seen.c.id)
        .limit(1)
    )
