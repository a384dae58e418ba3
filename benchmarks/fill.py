"""Makes a trail of any size, set-based: what the triggers would have written over some years.

    python -m benchmarks.fill --activities 3000000 postgresql:///shop

The trail must be installed. Its rows go in by plain INSERTs into its tables, partitioned or not,
with the indexes taken off before and made anew afterwards: nothing else should use the trail
meanwhile. What is there already stays.

Transactions hold one to sixteen changes, three on average. Each record begins with its insertion;
the young ones are changed most, and one in twenty-five is deleted. A twentieth of the transactions
has no actor.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg2

from benchmarks.progress import Progress

# The transactions of ten, by the changes that each holds.
_SIZES = (1, 1, 1, 2, 1, 4, 1, 2, 1, 16)
PER_TRANSACTION = sum(_SIZES) // len(_SIZES)
_LAST_OF_TEN = ",".join(str(place) for place, size in enumerate(_SIZES) for _ in range(size))
_CHUNK = 1_000_000  # activities in a database transaction


def _today() -> str:
    return datetime.now(UTC).date().isoformat()


@dataclass(frozen=True)
class Size:
    """How large a trail is, and what is asked of it.

    :ivar activities: how many changes.
    :ivar records: of how many records, as far as there are fifteen changes for each.
    :ivar actors: by how many people.
    :ivar years: over how many years.
    :ivar ends: the day of the last change, as ISO 8601 has it.
    """

    activities: int
    records: int = 200_000
    actors: int = 500
    years: float = 3
    ends: str = field(default_factory=_today)

    @property
    def per_record(self) -> int:
        """Changes between two new records."""
        return max(15, self.activities // self.records)

    @property
    def transactions(self) -> int:
        return -(-self.activities // sum(_SIZES)) * len(_SIZES)

    @property
    def end(self) -> datetime:
        return datetime.fromisoformat(self.ends).replace(tzinfo=UTC)

    @property
    def start(self) -> datetime:
        return self.end - timedelta(days=self.years * 365.25)

    @property
    def month(self) -> tuple[datetime, datetime]:
        """Thirty days in the middle: the first moment, and the first one after."""
        middle = self.start + (self.end - self.start) / 2
        since = middle.replace(hour=0, minute=0, second=0, microsecond=0)
        return since, since + timedelta(days=30)

    @property
    def actor(self) -> int:
        """Somebody who is neither the busiest nor the idlest."""
        return max(1, self.actors // 4)

    @property
    def record(self) -> int:
        """A record with an ordinary history: neither deleted nor among the first."""
        return max(1, self.activities // self.per_record // 3 // 25 * 25 + 2)

    @property
    def deep(self) -> int:
        """How many changes to go back."""
        return min(500_000, self.activities // 2)


def _hash(of: str, seed: int) -> str:
    """A number from 0 to 1 that is the same each time."""
    return f"((hashint8extended({of}, {seed}) & 1048575) / 1048576.0::float8)"


def transactions_sql(size: Size, first: int, last: int, shift: int = 0) -> str:
    """Return the SELECT of the transactions from ``first`` to ``last``.

    :param shift: is added to their ids.
    :return: a query for id, issued_at, actor_id (an int or NULL).
    """
    seconds = (size.end - size.start).total_seconds() / size.transactions
    return f"""
        SELECT k + {shift} AS id,
            timestamptz '{size.start.isoformat()}' + k * interval '{seconds} s' AS issued_at,
            CASE WHEN k % 20 <> 0
                THEN 1 + floor({size.actors} * power({_hash("k", 1)}, 1.5))::int END AS actor_id
        FROM generate_series({first}::bigint, {last}) AS k
    """


def activities_sql(size: Size, first: int, last: int, shift: int = 0) -> str:
    """Return the SELECT of the activities from ``first`` to ``last``.

    :param shift: is added to the transactions' ids, as in :func:`transactions_sql`.
    :return: a query for g, transaction_id, issued_at, record, verb, old_data, changed_data.
    """
    seconds = (size.end - size.start).total_seconds() / size.transactions
    per = size.per_record
    row = (
        "jsonb_build_object('id', record, 'title', 'title ' || {n}, 'body', "
        "repeat('lorem ipsum ', 20), 'rating', round({n} / 3.0, 3), 'at', "
        "timestamptz '2020-01-01 00:00+00' + record * interval '1 min', 'n', {n})"
    )
    return f"""
        SELECT g, k + {shift} AS transaction_id,
            timestamptz '{size.start.isoformat()}' + k * interval '{seconds} s' AS issued_at,
            record, verb,
            CASE WHEN verb <> 'insert' THEN {row.format(n="(g - 1)")} END AS old_data,
            CASE verb
                WHEN 'insert' THEN {row.format(n="g")}
                WHEN 'update' THEN jsonb_build_object('title', 'title ' || g, 'n', g) || CASE
                    WHEN g % 5 = 0 THEN jsonb_build_object('rating', round(g / 3.0, 3)) ELSE '{{}}'
                END
            END AS changed_data
        FROM (
            SELECT g, k, CASE
                    WHEN is_new THEN 'insert' WHEN gone IS NOT NULL THEN 'delete' ELSE 'update'
                END AS verb,
                CASE
                    WHEN is_new THEN there
                    WHEN gone IS NOT NULL THEN gone
                    -- One in twenty-five is only inserted and deleted.
                    ELSE chosen - (chosen % 25 = 0)::int
                END AS record
            FROM (
                SELECT g,
                    1 + (g - 1) / {sum(_SIZES)} * {len(_SIZES)}
                        + (ARRAY[{_LAST_OF_TEN}])[(g - 1) % {sum(_SIZES)} + 1] AS k,
                    (g - 1) % {per} = 0 AS is_new,
                    there,
                    CASE WHEN (g - 1) % {per * 25} = 3 AND (g - 1) / {per * 25} > 1
                        THEN ((g - 1) / {per * 25} - 1) * 25 END AS gone,
                    there - floor(there * power({_hash("g", 2)}, 1.5))::bigint AS chosen
                FROM (
                    SELECT g, (g - 1) / {per} + 1 AS there
                    FROM generate_series({first}::bigint, {last}) AS g
                ) AS numbered
            ) AS drawn
            OFFSET 0
        ) AS decided
    """


def fill(
    connection: Any,
    size: Size,
    *,
    schema: str = "audit",
    table: str = "public.article",
    progress: Progress | None = None,
) -> None:
    """Add a trail of ``size`` to the one in ``schema``.

    :param connection: psycopg2's, in autocommit mode, of the trail's owner.
    :param table: the table that the changes are said to be of; it need not exist.
    :raises psycopg2.Error: if the trail is not installed.
    """
    table_schema, _, table_name = table.rpartition(".")
    activity, transaction = f'"{schema}".activity', f'"{schema}".transaction'

    def of_transactions(first: int, last: int) -> str:
        return f"""
            INSERT INTO {transaction} (
                id, native_transaction_id, issued_at, actor_id, actor_label, client_addr,
                session_user_name, role_name, application_name, request_id, method, url, reason
            ) OVERRIDING SYSTEM VALUE
            SELECT id, pg_current_xact_id(), issued_at, actor_id::text, 'Person ' || actor_id,
                '10.0.0.0'::inet + id % 65536, 'shop', 'shop', 'gunicorn', md5(id::text), 'POST',
                'https://shop.example/{table_name}s/' || id % 1000,
                CASE WHEN id % 10 = 0 THEN 'ticket ' || id END
            FROM ({transactions_sql(size, first, last, shifts["transaction"])}) AS t
        """

    def of_activities(first: int, last: int) -> str:
        return f"""
            INSERT INTO {activity} (
                id, transaction_id, native_transaction_id, issued_at, relid, depth, schema_name,
                table_name, verb, object_id, old_data, changed_data
            ) OVERRIDING SYSTEM VALUE
            SELECT g + {shifts["activity"]}, transaction_id, pg_current_xact_id(), issued_at,
                coalesce(to_regclass('{table}'), 0)::oid, 1, '{table_schema or "public"}',
                '{table_name}', verb, record::text, old_data, changed_data
            FROM ({activities_sql(size, first, last, shifts["transaction"])}) AS a
        """

    with connection.cursor() as cursor:
        shifts = {}
        for name in ("activity", "transaction"):
            cursor.execute(f'SELECT coalesce(max(id), 0) FROM "{schema}".{name}')
            shifts[name] = cursor.fetchone()[0]
        with _without_indexes(cursor, (activity, transaction), progress):
            _in_chunks(cursor, size, of_transactions, of_activities, progress)
        for name in ("activity", "transaction"):
            cursor.execute(
                f"SELECT setval(pg_get_serial_sequence('{schema}.{name}', 'id'), max(id)) "
                f'FROM "{schema}".{name}'
            )


def load_activity_table(connection: Any, size: Size, *, schema_column: str, xid: str) -> None:
    """Write the same trail into the tables of PostgreSQL-Audit or flask-audit-logger.

    :param schema_column: what the column with the table's schema is called.
    :param xid: the type of their columns with the transaction's number.
    """

    def of_transactions(first: int, last: int) -> str:
        return f"""
            INSERT INTO transaction (id, native_transaction_id, issued_at, client_addr, actor_id)
            SELECT id, id::text::{xid}, issued_at AT TIME ZONE 'UTC', '10.0.0.0'::inet + id % 65536,
                actor_id
            FROM ({transactions_sql(size, first, last)}) AS t
        """

    def of_activities(first: int, last: int) -> str:
        return f"""
            INSERT INTO activity (
                id, {schema_column}, table_name, relid, issued_at, native_transaction_id, verb,
                old_data, changed_data, transaction_id
            )
            SELECT g, 'public', 'article', 'article'::regclass::oid::int,
                issued_at AT TIME ZONE 'UTC', transaction_id::text::{xid}, verb,
                coalesce(old_data, '{{}}'), coalesce(changed_data, '{{}}'), transaction_id
            FROM ({activities_sql(size, first, last)}) AS a
        """

    # Users are not loaded: nothing checks their key, nor the activities' one to the transactions.
    _load(connection, size, ("activity", "transaction"), of_transactions, of_activities)


def load_event_table(connection: Any, size: Size) -> None:
    """Write the same trail into the tables of django-pghistory: its new rows, and contexts."""

    def of_transactions(first: int, last: int) -> str:
        return f"""
            INSERT INTO pghistory_context (id, created_at, updated_at, metadata)
            SELECT md5(id::text)::uuid, issued_at, issued_at,
                jsonb_build_object('user', actor_id, 'url', '/articles/' || id % 1000)
            FROM ({transactions_sql(size, first, last)}) AS t
        """

    def of_activities(first: int, last: int) -> str:
        return f"""
            INSERT INTO shop_articleevent (
                pgh_id, pgh_created_at, pgh_label, pgh_obj_id, pgh_context_id,
                id, title, body, rating, at, n
            ) OVERRIDING SYSTEM VALUE
            SELECT g, issued_at, verb, record, md5(transaction_id::text)::uuid, record,
                r.row ->> 'title', r.row ->> 'body', (r.row ->> 'rating')::numeric,
                (r.row ->> 'at')::timestamptz, (r.row ->> 'n')::int
            FROM ({activities_sql(size, first, last)}) AS a
            CROSS JOIN LATERAL (
                SELECT coalesce(old_data, '{{}}') || coalesce(changed_data, '{{}}')
            ) AS r (row)
        """

    tables = ("shop_articleevent", "pghistory_context")
    _load(connection, size, tables, of_transactions, of_activities)


def _load(
    connection: Any, size: Size, tables: Sequence[str], of_transactions: Any, of_activities: Any
) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")
        try:
            with _without_indexes(cursor, tables, None):
                _in_chunks(cursor, size, of_transactions, of_activities, None)
        finally:
            cursor.execute("RESET session_replication_role")


def _in_chunks(
    cursor: Any,
    size: Size,
    of_transactions: Any,
    of_activities: Any,
    progress: Progress | None,
) -> None:
    for first in range(1, size.activities + 1, _CHUNK):
        last = min(first + _CHUNK - 1, size.activities)
        if progress is not None:
            progress.step(f"activities {first:,} to {last:,}")
        # Whole tens of transactions begin and end with the chunk's first and last thirty.
        begin, end = (-(-place // sum(_SIZES)) * len(_SIZES) for place in (first - 1, last))
        cursor.execute("BEGIN")
        try:
            if end > begin:
                cursor.execute(of_transactions(begin + 1, end))
            cursor.execute(of_activities(first, last))
        except BaseException:
            cursor.execute("ROLLBACK")
            raise
        cursor.execute("COMMIT")


@contextmanager
def _without_indexes(
    cursor: Any, tables: Sequence[str], progress: Progress | None
) -> Iterator[None]:
    """Drop the indexes that no constraint needs, and make them anew after the block."""
    cursor.execute(
        "SELECT i.indexrelid::regclass::text, "
        # Of a partitioned table the definition says ONLY, which would leave the partitions out.
        "replace(pg_get_indexdef(i.indexrelid), ' ON ONLY ', ' ON ') "
        "FROM pg_index AS i WHERE i.indrelid = ANY (%s::regclass[]) AND NOT EXISTS "
        "(SELECT FROM pg_constraint AS c WHERE c.conindid = i.indexrelid) ORDER BY 1",
        (list(tables),),
    )
    indexes = cursor.fetchall()
    for name, _ in indexes:
        cursor.execute(f"DROP INDEX {name}")
    try:
        yield
    finally:
        cursor.execute("SET maintenance_work_mem = '512MB'")
        for name, definition in indexes:
            if progress is not None:
                progress.step(f"index {name}")
            cursor.execute(definition)
        cursor.execute("RESET maintenance_work_mem")


def main() -> None:
    """Fill the trail of a database."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url", help="of the database; its trail is installed")
    parser.add_argument("--activities", type=int, default=3_000_000)
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--actors", type=int, default=500)
    parser.add_argument("--years", type=float, default=3)
    parser.add_argument("--schema", default="audit")
    parser.add_argument("--table", default="public.article", help="that the changes are of")
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")
    options = parser.parse_args()
    if min(options.activities, options.records, options.actors) < 1 or options.years <= 0:
        parser.error("activities, records, actors and years are more than zero")
    size = Size(options.activities, options.records, options.actors, options.years)
    begin = time.monotonic()
    progress = Progress(-(-size.activities // _CHUNK) + 6)
    try:
        connection = psycopg2.connect(options.url.replace("+psycopg2", "", 1))
        connection.autocommit = True
        fill(connection, size, schema=options.schema, table=options.table, progress=progress)
        with connection.cursor() as cursor:
            for name in ("activity", "transaction"):
                progress.step(f"vacuum {name}")
                cursor.execute(f'VACUUM ANALYZE "{options.schema}".{name}')
    except psycopg2.Error as error:
        progress.end()
        print(f"The trail was not filled: {str(error).strip()}", file=sys.stderr)
        raise SystemExit(2) from error
    progress.end()
    seconds = time.monotonic() - begin
    if options.json:
        print(json.dumps({**asdict(size), "transactions": size.transactions, "seconds": seconds}))
    else:
        print(f"{size.activities:,} activities in {seconds:.0f} s")


if __name__ == "__main__":
    main()
