"""Tells, from its text, whether an SQL statement may write. Pure, and remembered by text.

A wrong "may write" costs a setting that nobody reads; a wrong "only reads" would cost a change its
author. So everything that is not plainly a read counts as a write.
"""

from __future__ import annotations

import re
from functools import lru_cache

_LEADING = re.compile(r"(?:\s+|--[^\n]*(?:\n|$)|/\*.*?\*/|\()*", re.DOTALL)
_WORD = re.compile(r"[a-z]+", re.IGNORECASE)
_WRITE = re.compile(
    r"\b(insert|update|delete|merge|truncate|copy|call|do|execute)\b", re.IGNORECASE
)
_CALL = re.compile(r"(\"(?:[^\"]|\"\")+\"|[a-z_][\w$]*)\s*\(", re.IGNORECASE)

_CONTROL = frozenset(
    """
    abort alter analyze begin checkpoint close comment commit create deallocate declare discard
    drop end fetch grant listen lock move notify prepare reindex release reset revoke rollback
    savepoint security set show start unlisten vacuum
    """.split()  # noqa: SIM905
)
_READ = frozenset(["explain", "select", "table", "values", "with"])
_IN_TRANSACTION = _READ | {"copy", "delete", "execute", "insert", "merge", "truncate", "update"}
_ENDS_TRANSACTION = frozenset(["abort", "commit", "end", "rollback"])

# What may stand before a parenthesis in a plain read: SQL's own words, and the functions and types
# of everyday queries. Anything else may be a function that writes.
_HARMLESS = frozenset(
    """
    all and any array as between by case cast cross cube distinct else except exists extract
    filter for from full group grouping having ilike in inner intersect interval is isnull join
    lateral left like limit materialized natural not notnull null offset on only or order over
    overlaps partition position range recursive right rollup row rows select sets similar some
    substring then trim union unique using values when where window with within
    bigint bit bpchar char character date decimal float int integer json jsonb numeric time
    timestamp timestamptz text uuid varbit varchar varying
    abs age array_agg array_append array_length array_position array_to_string avg bool_and
    bool_or btrim cardinality ceil ceiling char_length clock_timestamp coalesce concat concat_ws
    count cume_dist current_database current_schema current_setting date_part date_trunc
    dense_rank encode decode exp first_value floor format format_type gen_random_uuid
    generate_series greatest initcap json_agg json_array_elements json_build_array
    json_build_object json_each json_object_agg jsonb_agg jsonb_array_elements
    jsonb_array_length jsonb_build_array jsonb_build_object jsonb_each jsonb_extract_path
    jsonb_extract_path_text jsonb_object_agg jsonb_object_keys jsonb_path_exists
    jsonb_path_query jsonb_set jsonb_strip_nulls jsonb_typeof lag last_value lead least length
    ln log lower lpad ltrim make_date make_interval max md5 min mod now nth_value ntile nullif
    obj_description octet_length percent_rank percentile_cont percentile_disc
    pg_get_constraintdef pg_get_expr pg_get_indexdef pg_get_serial_sequence pg_table_is_visible
    plainto_tsquery power quote_ident quote_literal random rank regexp_match regexp_matches
    regexp_replace repeat replace reverse round row_number row_to_json rpad rtrim split_part
    sqrt starts_with stddev string_agg string_to_array strpos substr sum to_char to_date
    to_json to_jsonb to_number to_regclass to_regnamespace to_timestamp to_tsquery to_tsvector
    translate trunc ts_headline ts_rank unnest upper variance version websearch_to_tsquery
    width_bucket
    """.split()  # noqa: SIM905
)

_REMEMBERED = 10_000  # characters: longer statements are bulk inserts, told by their first word


def may_write(statement: str) -> bool:
    """Tell whether ``statement`` may change a row."""
    if len(statement) > _REMEMBERED:
        return _may_write(statement)
    return _may_write_remembered(statement)


def may_run_in_transaction(statement: str) -> bool:
    """Tell whether ``statement`` runs the same inside of a transaction block.

    CALL and DO may commit by themselves, which PostgreSQL allows only outside of a block.
    """
    return _first_word(statement) in _IN_TRANSACTION


def ends_transaction(statement: str) -> bool:
    """Tell whether ``statement`` is a COMMIT or a ROLLBACK, also to a savepoint."""
    return _first_word(statement[:200]) in _ENDS_TRANSACTION


def _may_write(statement: str) -> bool:
    word = _first_word(statement)
    if word not in _READ and word not in _CONTROL:
        return True
    if word in _CONTROL and ";" not in statement:
        return False
    if _WRITE.search(statement):
        return True
    return any(name.strip('"').lower() not in _HARMLESS for name in _CALL.findall(statement))


_may_write_remembered = lru_cache(maxsize=4096)(_may_write)


def _first_word(statement: str) -> str:
    start = _LEADING.match(statement)
    word = _WORD.match(statement, start.end() if start else 0)
    return word.group().lower() if word else ""
