"""Takes the protections of the trail out, one at a time, and shows that a test fails for each.

    python -m tests.mutations                    # all of them
    python -m tests.mutations memo-xid full-join # these

Each mutation is made in a copy of the tree. A server is started for all of them, and stopped and
deleted whatever happens.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Final, TextIO

import demo.server
from demo.errors import ServerError
from tests import server as servers

ROOT: Final = Path(__file__).resolve().parents[1]
_TIMEOUT = 300  # seconds, for the tests of one mutation
_PYTEST = ("-m", "pytest", "-x", "-q", "-p", "no:cacheprovider")


class MutationError(Exception):
    """A mutation that cannot be made, or whose tests cannot tell anything."""


@dataclass(frozen=True)
class Mutation:
    """One protection, and how to take it out.

    :ivar name: what is taken out.
    :ivar file: below ``audit_app``.
    :ivar old: the text to replace.
    :ivar new: what replaces it.
    :ivar tests: what is expected to fail, below ``tests``, as pytest's arguments.
    :ivar count: how often ``old`` occurs; all occurrences are replaced.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    count: int = 1

    @property
    def selection(self) -> list[str]:
        return [f"tests/{test}" for test in self.tests]

    def apply(self, tree: Path) -> None:
        """Make the mutation in ``tree``.

        :raises MutationError: if the text does not occur as often as it should.
        """
        path = tree / "audit_app" / self.file
        text = path.read_text(encoding="utf-8")
        found = text.count(self.old)
        if found != self.count:
            raise MutationError(f"the text occurs {found} times in {self.file}, not {self.count}")
        path.write_text(text.replace(self.old, self.new), encoding="utf-8")


@dataclass(frozen=True)
class Result:
    """What the tests said of one mutation.

    :ivar outcome: ``killed``, ``SURVIVED``, or ``error``: the tests told nothing.
    :ivar by: the test that failed and its message, or what is wrong.
    """

    name: str
    outcome: str
    by: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.outcome:8}  {self.name:28} {self.seconds:5.1f} s  {self.by}"


_BYPASS = "integration/faults/test_bypass.py"
_CLUSTER = "integration/faults/test_cluster.py"
_DRIFT = "integration/faults/test_drift.py"
_GAPS = "integration/faults/test_gaps.py"
_OPTIONS = "integration/faults/test_options.py"
_ROWS = "integration/faults/test_rows.py"
_TRANSACTIONS = "integration/faults/test_transactions.py"
_VALUES = "integration/faults/test_values.py"
_ATTACKS = "integration/faults/test_attacks.py"
_ATTRIBUTION = "integration/test_attribution.py"
_CAPTURE = "integration/test_capture.py"
_ERRORS = "integration/test_errors.py"
_ROLES = "integration/test_roles.py"
_EVOLUTION = "migration/test_evolution.py"
_PARTITIONS = "integration/test_partitions.py"
_RETENTION, _PRUNE = "integration/test_retention.py", "sql/retention.sql"

_SETTINGS_TEST = f"{_VALUES}::test_the_clients_settings_do_not_change_what_is_stored"
_GARBAGE_TEST = f"{_BYPASS}::test_settings_set_to_garbage"
_EQUALS_TEST = f"{_VALUES}::test_a_change_between_equal_values"
_STORED_TEST = f"{_VALUES}::test_a_value_is_stored_right"
_VETO_TESTS = f"{_ROWS}::test_a_partition_move_that_a_trigger_vetoes"
_OWNER_TEST = f"{_BYPASS}::test_not_even_the_owner_rewrites_history"
_NEVER = "WHEN division_by_zero THEN"  # an exception that does not happen

_TABLE, _TEXT, _SUSPEND = "sql/audit_table.sql", "sql/capture.sql", "sql/suspend.sql"
_ROW, _ONLY, _PUBLIC = "sql/transaction_id.sql", "sql/append_only.sql", "sql/roles.sql"
_EVOLVE, _PARTS = "sql/evolve.sql", "sql/partitions.sql"
_VALUE, _CONTEXT, _STATEMENTS = "sql/values.sql", "context.py", "statements.py"


def _m(name: str, file: str, old: str, new: str, *tests: str, count: int = 1) -> Mutation:
    return Mutation(name, file, old, new, tests, count)


# fmt: off
MUTATIONS: Final[Sequence[Mutation]] = (
    # -- What the capture functions run with
    _m("security-definer", _TABLE, "'LANGUAGE plpgsql SECURITY DEFINER '", "'LANGUAGE plpgsql '",
       _GARBAGE_TEST),
    _m("search-path", _TABLE, "ARRAY['search_path=pg_catalog, pg_temp'] ||", "ARRAY[]::text[] ||",
       f"{_BYPASS}::test_temporary_tables_in_our_names",
       f"{_BYPASS}::test_hostile_functions_and_operators"),
    _m("time-zone", _TABLE, "'TimeZone=UTC', ", "", _SETTINGS_TEST),
    _m("date-style", _TABLE, "'DateStyle=ISO, YMD', ", "", _SETTINGS_TEST),
    _m("interval-style", _TABLE, "'IntervalStyle=postgres',", "", _SETTINGS_TEST),
    _m("bytea-output", _TABLE, "'bytea_output=hex', ", "", _SETTINGS_TEST),
    _m("extra-float-digits", _TABLE, "'extra_float_digits=1',", "", _SETTINGS_TEST),
    _m("lc-monetary", _TABLE, "'lc_monetary=C', ", "",
       f"{_GAPS}::test_money_in_another_locale"),
    _m("use-column", _TEXT, "#variable_conflict use_column", "#variable_conflict use_variable",
       f"{_OPTIONS}::test_when"),

    # -- Who may do what
    _m("enable-always", _TABLE, "' ENABLE ALWAYS TRIGGER '", "' ENABLE TRIGGER '",
       f"{_BYPASS}::test_the_owner_replicates"),
    _m("append-only-activity", _ONLY, "activity ENABLE ALWAYS", "activity DISABLE", _OWNER_TEST),
    _m("append-only-transaction", _ONLY, "transaction ENABLE ALWAYS", "transaction DISABLE",
       _OWNER_TEST),
    _m("append-only-always", _ONLY, "ENABLE ALWAYS", "ENABLE",
       f"{_GAPS}::test_history_is_rewritten_as_a_replica", count=2),
    _m("revoke-functions", _PUBLIC, "REVOKE ALL ON ALL FUNCTIONS IN SCHEMA @schema@ FROM PUBLIC;",
       "", f"{_GAPS}::test_a_reader_calls_what_only_the_owner_may"),
    _m("revoke-hand-over", _PUBLIC, "REVOKE ALL ON FUNCTION @schema@.hand_over(text) FROM PUBLIC;",
       "", f"{_GAPS}::test_a_reader_calls_what_only_the_owner_may"),
    _m("revoke-capture", _TABLE,
       "EXECUTE concat('REVOKE ALL ON FUNCTION @schema@.', quote_ident(_function), "
       "'() FROM PUBLIC');", "",
       f"{_GAPS}::test_a_capture_function_on_the_attackers_table"),

    # -- Exports
    _m("export-definer", "sql/export.sql", "SECURITY DEFINER\n", "",
       f"{_ROLES}::test_recording_exports_must_be_granted"),
    _m("export-bound", "sql/export.sql", "octet_length(filter::text) > 100000", "false",
       f"{_ROLES}::test_a_mark_of_an_export_is_bounded"),

    # -- The rewriting
    _m("rewrite-record", _ONLY, "          AND a.verb = _verb\n", "",
       f"{_EVOLUTION}::test_the_guard_stays"),
    _m("rewrite-xid", _ONLY, "          AND a.native_transaction_id = pg_current_xact_id()\n", "",
       f"{_EVOLUTION}::test_a_mark_that_another_transaction_has_just_left"),
    _m("rewrite-update", _ONLY, "TG_OP = 'UPDATE' AND ", "", f"{_EVOLUTION}::test_the_guard_stays"),
    _m("prune-record", _ONLY, "THEN 'prune'", "THEN 'rewrite'",
       f"{_RETENTION}::test_nothing_is_deleted_without_the_mark_of_its_own_transaction"),
    _m("prune-holds", _PRUNE, "true) AS o WHERE NOT o.is_held ORDER BY", "true) AS o ORDER BY",
       f"{_RETENTION}::test_a_hold_keeps_what_it_is_about"),
    _m("prune-floor", _PRUNE, "    PERFORM @schema@.require_rules(rules);\n", "",
       f"{_RETENTION}::test_the_floor"),
    _m("prune-archived", _PRUNE, "_ids = '{}' OR expected <> digest", "_ids = '{}'",
       f"{_RETENTION}::test_a_hold_between_archive_and_deletion_wins"),
    _m("prune-alone", _PRUNE, "NOT pg_try_advisory_xact_lock(1096108356, _key)", "false",
       f"{_RETENTION}::test_prunings_exclude_each_other"),
    _m("restore-marks", _PRUNE, "IF NOT _activity.verb IN (",
       "IF false AND NOT _activity.verb IN (",
       f"{_RETENTION}::test_a_mark_is_not_restored_and_no_id_comes_from_the_future"),
    _m("restore-differing", _PRUNE, "ELSIF _there.text <> row_to_json(_activity)::text THEN",
       "ELSIF false THEN", f"{_RETENTION}::test_a_row_that_differs_is_not_overwritten"),
    _m("pruned-past", "sql/past.sql", "WHERE ', _place, _whole, ' AND e.key IS NOT NULL",
       "WHERE ', _place, ' AND e.key IS NOT NULL",
       "web/test_admin_retention.py::test_what_a_hold_keeps_does_not_tell_what_was_later"),
    _m("rewrite-activity", _ONLY, " AND TG_TABLE_NAME = 'activity' THEN", " THEN",
       f"{_EVOLUTION}::test_the_guard_stays"),
    _m("rewrite-ends", _EVOLVE,
       "PERFORM set_config('audit_app.rewrite', '', true);\n    RETURN card", "RETURN card",
       f"{_EVOLUTION}::test_the_guard_stays"),
    _m("rewrite-objects", _EVOLVE,
       "pg_catalog.jsonb_typeof(data) OPERATOR(pg_catalog.=) 'object' AND data", "data",
       f"{_EVOLUTION}::test_documents_that_are_none"),
    _m("rewrite-table", _EVOLVE, "<= $2 AND a.schema_name = $3 AND", "<= $2 AND",
       f"{_EVOLUTION}::test_an_operation_and_its_way_back"),
    _m("rewrite-clash", _EVOLVE, "IF _clash IS NOT NULL", "IF false",
       f"{_EVOLUTION}::test_two_columns_of_one_name"),
    _m("rewrite-forgets", _EVOLVE, "PERFORM @schema@.forget_kept(", "PERFORM concat(",
       f"{_EVOLUTION}::test_removal_for_good"),
    _m("rewrite-forgets-online", "evolution.py",
       'execute("forget_kept")', "",
       f"{_EVOLUTION}::test_removal_for_good"),

    # -- Partitions
    _m("partition-guard", _PARTS, "    PERFORM @schema@.guard(_name::regclass);\n", "",
       f"{_PARTITIONS}::test_a_partition_is_append_only"),
    _m("partition-definer", _PARTS, "SECURITY DEFINER\n", "",
       f"{_PARTITIONS}::test_a_writer_may_have_the_next_partitions_made_and_no_others"),
    _m("partition-later", _PARTS, "clock_timestamp() + margin", "clock_timestamp() - margin",
       f"{_PARTITIONS}::test_maintenance_makes_what_is_missing_and_moves_what_is_in_the_default"),
    _m("partition-copies", _ONLY, "_verb = 'rewrite' AND EXISTS", "false AND EXISTS",
       f"{_PARTITIONS}::test_the_history_is_split"),
    _m("partition-count", _PARTS, "IF _there <> _rows THEN", "IF false THEN",
       f"{_PARTITIONS}::test_the_history_is_split"),

    # -- Suspension, the memo, the context
    _m("suspension-xid", _SUSPEND,
       "          AND a.native_transaction_id = pg_catalog.pg_current_xact_id()\n", "",
       f"{_GAPS}::test_a_suspension_of_the_same_microsecond", count=2),
    _m("suspension-time", _SUSPEND,
       "          AND t.issued_at = pg_catalog.transaction_timestamp()\n", "",
       f"{_CLUSTER}::test_a_suspension_of_the_same_number"),
    _m("suspension-resumed", _SUSPEND, "AND r.verb = 'resume'", "AND r.verb = 'never'",
       f"{_BYPASS}::test_a_forged_suspension"),
    _m("memo-xid", _ROW,
       "          AND t.native_transaction_id = pg_catalog.pg_current_xact_id()\n", "",
       f"{_GAPS}::test_a_memo_of_the_same_microsecond"),
    _m("memo-time", _ROW,
       "AND t.issued_at = pg_catalog.transaction_timestamp()\n          -- A session", "--",
       f"{_CLUSTER}::test_transaction_ids_repeat"),
    _m("memo-context", _ROW, " AND substr(_memo, strpos(_memo, ' ') + 1) = _context", "",
       f"{_ATTRIBUTION}::test_two_actors_in_one_transaction_each_have_their_own"),
    _m("memo-role", _ROW, "AND t.role_name = _role;", "AND true;",
       f"{_ATTACKS}::test_a_role_taken_on_in_mid_transaction"),
    _m("memo-by-place", _ROW, "WHERE t.ctid = split_part(_memo, ' ', 1)::tid",
       "WHERE t.id = (SELECT max(x.id) FROM @schema@.transaction AS x)",
       f"{_ATTACKS}::test_serializable_writers_do_not_disturb_each_other"),
    _m("suspension-in-the-trail", _SUSPEND, "IF NOT @schema@.is_open(suspension) THEN",
       "IF NOT suspension::text = ANY (_open) THEN",
       f"{_ATTACKS}::test_a_suspension_that_is_kept_from_its_end"),
    _m("gigantic-context", _ROW, "_claims := CASE WHEN octet_length(_context) <= 1000000",
       "_claims := CASE WHEN true",
       f"{_ATTACKS}::test_a_context_of_a_gigantic_size"),
    _m("garbage-context", _ROW, "WHEN OTHERS THEN\n            -- Whoever",
       f"{_NEVER}\n            -- Whoever", _GARBAGE_TEST),
    _m("garbage-address", _ROW, "IF _claims IS NOT NULL THEN", "IF false THEN",
       f"{_BYPASS}::test_a_context_that_is_partly_garbage"),
    _m("context-of-another-kind", _ROW, "CASE jsonb_typeof(_claims)", "CASE 'object'",
       f"{_BYPASS}::test_a_context_that_is_partly_garbage"),
    _m("actor-limit", _ROW, "left(_claims ->> 'actor_id', 500)", "_claims ->> 'actor_id'",
       f"{_GAPS}::test_an_actor_longer_than_an_index_entry"),

    # -- What other roles made
    _m("trusted-types", _TEXT, "WHERE t.oid >= 16384\n          AND NOT pg_has_role(",
       "WHERE false\n          AND NOT pg_has_role(",
       f"{_ATTACKS}::test_a_cast_of_the_types_owner"),
    _m("trusted-composites", _TEXT, "WHERE t.oid >= 16384\n          AND NOT pg_has_role(",
       "WHERE t.oid >= 16384 AND t.typtype <> 'c'\n          AND NOT pg_has_role(",
       f"{_ATTACKS}::test_a_field_that_is_added_to_a_type"),
    _m("trusted-arrays-and-domains", _TEXT, "WHERE t.oid >= 16384\n          AND NOT pg_has_role(",
       "WHERE t.oid >= 16384 AND t.typtype <> 'd'\n          AND NOT pg_has_role(",
       f"{_ATTACKS}::test_a_domain_over_a_composite_type"),
    _m("plain-types", _TEXT, "WHERE base.base = 0 AND base.oid < 16384), type)",
       "WHERE false), type)", f"{_ATTACKS}::test_domains_over_plain_types"),
    _m("types-are-named", "sql/check.sql", "AND NOT @schema@.is_trusted(@schema@.plain_type(",
       "AND false AND NOT @schema@.is_trusted(@schema@.plain_type(",
       f"{_ATTACKS}::test_check_names_a_type_of_another_role"),
    _m("writer", _TABLE,
       "' WHEN (pg_catalog.set_config(''audit_app.writer'', current_user, true) IS NOT NULL)',",
       "'',", f"{_ATTACKS}::test_a_security_definer_function_of_another_role"),
    _m("writer-of-a-suspension", _SUSPEND,
       "PERFORM set_config('audit_app.writer', @schema@.caller(), true);", "",
       f"{_ATTACKS}::test_a_suspension_after_another_roles_write"),
    _m("refusal-search-path", _ONLY, "SET search_path = pg_catalog, pg_temp\n", "",
       f"{_ATTACKS}::test_what_an_administrator_runs"),
    _m("administrators-catalog", "install.py",
       "SELECT pg_catalog.obj_description(CAST({_NAMESPACE} AS oid), ",
       "SELECT obj_description(to_regnamespace(quote_ident(:name)), ",
       f"{_ATTACKS}::test_what_an_administrator_runs"),
    _m("administrators-operators", "checks.py", "pronamespace OPERATOR(pg_catalog.=) CAST(",
       "pronamespace = (", f"{_ATTACKS}::test_what_an_administrator_runs"),
    _m("readers-catalog", "admin/reading.py", "if not search_path:", "if False:",
       "web/test_admin_access.py::test_a_page_calls_nothing_that_another_role_made"),
    _m("trusted-parts", _TEXT, "FROM @schema@.parts_of(type) AS part (oid)\n        JOIN",
       "FROM (SELECT type) AS part (oid)\n        JOIN",
       f"{_ATTACKS}::test_a_cast_of_the_types_owner"),
    _m("key-without-casts", _TEXT, "WHEN @schema@.plain_type(type) < 16384 THEN concat(",
       "WHEN true THEN concat(",
       f"{_ATTACKS}::test_a_cast_of_the_keys_type"),
    _m("operand-without-casts", _TEXT, "WHEN @schema@.is_trusted(@schema@.plain_type(type)) THEN",
       "WHEN true THEN", f"{_ATTACKS}::test_a_cast_in_a_condition"),
    _m("privileges-are-named", "sql/check.sql", "a.privilege_type IN ('TRIGGER', 'REFERENCES')",
       "false", f"{_ATTACKS}::test_the_trigger_privilege"),
    _m("triggers-first", _TABLE, "pg_catalog.concat('00_audit_'", "pg_catalog.concat('zz_audit_'",
       f"{_ATTACKS}::test_a_trigger_that_writes_the_same_row"),

    # -- Which rows differ, and in what
    _m("image-of-row", _TEXT, "'record_image_ne(ROW(' ||", "'record_ne(ROW(' ||", _EQUALS_TEST),
    _m("image-of-column", _TEXT, "concat('record_image_ne(ROW(',", "concat('record_ne(ROW(',",
       _EQUALS_TEST),
    _m("image-beside-a-null", _TEXT, "concat('record_image_ne(ROW(',", "concat('record_ne(ROW(',",
       f"{_GAPS}::test_equal_values_beside_a_null"),
    _m("identical-if-equal", _TEXT, "int8, oid,", "int8, numeric, oid,", _EQUALS_TEST),
    _m("one-row-only", _TEXT, "IF NOT EXISTS (SELECT FROM old_table OFFSET 1) THEN", "IF true THEN",
       f"{_ROWS}::test_two_rows_after_one"),
    _m("nulls", _TEXT, "@schema@.nulls_expression(s.names, s.may_be_nulled, s.is_nulled)", "''",
       f"{_CAPTURE}::test_a_null_is_recorded_as_a_null"),
    _m("json-nulls", _TEXT, "WHEN @schema@.is_json_document(b.type)", "WHEN false",
       f"{_VALUES}::test_types_of_the_applications_own"),
    _m("full-join", _TEXT, "E'\\nFULL JOIN (SELECT ', _columns", "E'\\nJOIN (SELECT ', _columns",
       f"{_ROWS}::test_a_bulk_update_after_single_updates_is_not_quadratic"),
    _m("full-join-by-key", _TEXT, "FULL JOIN (SELECT r.*", "JOIN (SELECT r.*", _VETO_TESTS),
    _m("update-by-key", _TEXT, "_operation := ''UPDATE BY KEY'';", "_operation := ''UPDATE'';",
       _VETO_TESTS),

    # -- Tables, their partitions and their keys
    _m("partition-triggers", _TABLE, "pg_partition_tree(target_table) AS p\n        ORDER BY",
       "pg_partition_tree(target_table) AS p WHERE false\n        ORDER BY",
       f"{_CAPTURE}::test_partitions_are_captured_however_they_are_written_to"),
    _m("truncate-trigger", _TABLE, "FOREACH _verb IN ARRAY _verbs LOOP",
       "FOREACH _verb IN ARRAY _verbs[1:3] LOOP", f"{_ROWS}::test_truncate_with_cascade"),
    _m("detached-partition", _TABLE, "AND other.tgrelid <> target_table", "AND false",
       f"{_ROWS}::test_a_partition_that_is_detached"),
    _m("foreign-trigger", _TABLE, "IF FOUND THEN\n        RAISE dup",
       "IF false THEN\n        RAISE dup", f"{_ERRORS}::test_a_trigger_of_somebody_elses_stays"),
    _m("primary-key", _TABLE, "IF NOT EXISTS (SELECT FROM pg_index", "IF false AND NOT EXISTS "
       "(SELECT FROM pg_index", f"{_ERRORS}::test_a_table_without_a_primary_key"),
    _m("long-key", _VALUE, "(pg_catalog.<=) 1000 THEN", "(pg_catalog.<=) 1000000000 THEN",
       f"{_CAPTURE}::test_a_key_longer_than_an_index_entry_is_stored_by_its_digest"),
    _m("long-key-in-python", "identity.py", "_LONGEST_KEY = 1000 ", "_LONGEST_KEY = 10**9 ",
       f"{_CAPTURE}::test_a_key_longer_than_an_index_entry_is_stored_by_its_digest"),

    # -- Altered by hand
    _m("present-shape", _TEXT, "IF NOT @schema@.present_shape(TG_RELID) IN (", "IF false AND NOT "
       "@schema@.present_shape(TG_RELID) IN (",
       f"{_DRIFT}::test_a_function_that_was_made_for_a_table_of_another_number"),
    _m("planned-shape", _TEXT, "_is_known := TG_RELID = ", "_is_known := true OR TG_RELID = ",
       f"{_DRIFT}::test_a_column_is_altered"),
    _m("planned-number", _TEXT, "_is_known := TG_RELID = ', _planned, ' AND ", "_is_known := ",
       f"{_DRIFT}::test_a_function_that_was_made_for_a_table_of_another_number"),
    _m("planned-in-an-old-view", _TEXT, "    IF NOT _keeps_view THEN\n        _is_known",
       "    IF true THEN\n        _is_known",
       f"{_DRIFT}::test_the_first_plan_of_a_session_is_made_by_one_who_keeps_an_older_view"),
    _m("settings-by-the-slower-way", _TEXT,
       "_settings := @schema@.exchange_settings(@schema@.fixed_settings());", "",
       f"{_VALUES}::test_settings_that_one_column_is_enough_for"),
    _m("settings-put-back", _TEXT, "PERFORM @schema@.exchange_settings(_settings);", "",
       f"{_VALUES}::test_settings_that_one_column_is_enough_for"),
    _m("settings-of-times", _TABLE, "THEN ARRAY['TimeZone', 'DateStyle']",
       "THEN ARRAY['DateStyle']",
       f"{_VALUES}::test_settings_that_one_column_is_enough_for"),
    _m("settings-of-other-types", _TABLE, "THEN ARRAY['extra_float_digits']\n    END",
       "THEN ARRAY['extra_float_digits']\n        ELSE ARRAY[]::text[]\n    END",
       f"{_VALUES}::test_settings_that_one_column_is_enough_for"),
    _m("older-view", _TEXT, "IN (''repeatable read'', ''serializable'')", "IN (''none'')",
       f"{_DRIFT}::test_a_table_is_altered_while_a_transaction_keeps_an_older_view"),
    _m("older-view-new-column", _TEXT,
       "IF has_column_privilege(relation, _next, 'SELECT') IS NOT NULL THEN", "IF false THEN",
       f"{_DRIFT}::test_a_table_is_altered_while_a_transaction_keeps_an_older_view"),
    _m("older-view-gone-column", _TEXT,
       "PERFORM has_column_privilege(relation, a.attname::text, 'SELECT')", "PERFORM",
       f"{_DRIFT}::test_a_table_is_altered_while_a_transaction_keeps_an_older_view"),
    _m("renamed-by-place", _TEXT, '((installed ->> p.name)::int = l.attnum OR renumbered."all")',
       'renumbered."all"', f"{_DRIFT}::test_a_protected_column_is_renamed"),
    _m("renamed-and-renumbered", _TEXT, ' OR renumbered."all")', ")",
       f"{_DRIFT}::test_a_protected_column_is_renamed_after_a_restore"),
    _m("fitting-condition", _TEXT,
       "EXCEPTION WHEN undefined_column OR undefined_function OR datatype_mismatch THEN",
       f"EXCEPTION {_NEVER}",
       f"{_DRIFT}::test_the_schema_is_renamed"),
    _m("drift-is-found", "sql/check.sql", "IF _is_altered THEN", "IF false THEN",
       f"{_DRIFT}::test_a_column_is_altered"),

    # -- The options
    _m("exclude", _TEXT, "AND NOT coalesce(p.is_exclude, false)", "",
       f"{_CAPTURE}::test_excluded_columns_are_never_stored_and_never_count"),
    _m("mask-of-a-null", _TEXT, "WHEN b.is_masked THEN NULL", "WHEN false THEN NULL",
       f"{_OPTIONS}::test_mask"),
    _m("mask", _TEXT, "WHEN l.is_masked THEN '''", "WHEN false THEN '''", f"{_OPTIONS}::test_mask"),
    _m("when", _TEXT,
       "target, CASE operation WHEN 'BASELINE' THEN 'INSERT' ELSE operation END, options\n",
       "target, 'INSERT', options - 'when'\n", f"{_OPTIONS}::test_when"),
    _m("on", _TABLE, "NOT options ? 'on' OR options -> 'on' ? lower(_verb)", "true",
       f"{_OPTIONS}::test_on"),
    _m("degrade", _TEXT, "EXCEPTION WHEN OTHERS THEN\n        PERFORM",
       f"EXCEPTION {_NEVER.replace('division_by_zero', 'no_data_found')}\n        PERFORM",
       f"{_OPTIONS}::test_degrade_lets_the_write_pass_and_records_the_gap"),
    _m("query-text", _TEXT, "'^SELECT pg_catalog", "'^never SELECT pg_catalog",
       f"{_OPTIONS}::test_query_text"),
    _m("degrade-read-only", _TEXT, "        OR disk_full OR io_error",
       "        OR read_only_sql_transaction OR disk_full OR io_error",
       f"{_ATTACKS}::test_read_only_in_the_middle_of_a_write"),
    _m("degrade-without-stack", _TEXT, "        OR disk_full OR io_error",
       "        OR statement_too_complex OR disk_full OR io_error",
       f"{_ATTACKS}::test_a_stack_that_is_used_up"),
    _m("degrade-without-locks", _TEXT, "        OR disk_full OR io_error",
       "        OR out_of_memory OR disk_full OR io_error",
       f"{_CLUSTER}::test_a_lock_table_that_is_used_up"),
    _m("degrade-without-a-gap", _TEXT, "OR insufficient_privilege OR check_violation OR",
       "OR",
       f"{_OPTIONS}::test_degrade_when_nothing_can_be_written"),
    _m("gap-message", _TEXT, "'message', left(error_message, 1000))", "'message', error_message)",
       f"{_ATTACKS}::test_an_error_message_of_a_gigantic_size"),
    _m("gigantic-memo", _ROW, "CASE WHEN octet_length(_context) <= 1000000 THEN\n",
       "CASE WHEN true THEN\n",
       f"{_ATTACKS}::test_a_context_that_no_memo_can_hold"),
    _m("memo-pattern", _ROW, "'^[(][0-9]{1,9},[0-9]{1,4}[)] '", "'^[(]?[0-9]{1,9},[0-9]{1,4}[)]? '",
       f"{_ATTACKS}::test_a_memo_that_a_setting_lets_through"),
    _m("truncate-by-partition", _TEXT, "IF (SELECT c.relkind = 'p' FROM",
       "IF false AND (SELECT c.relkind = 'p' FROM",
       f"{_CAPTURE}::test_partitions_are_captured_however_they_are_written_to"),
    _m("truncate-of-the-untracked", _TEXT,
       "WHERE t.tgrelid = p.relid AND t.tgname = @schema@.trigger_name('truncate')", "WHERE true",
       f"{_ATTACKS}::test_a_partition_that_is_not_tracked_yet_is_truncated"),
    _m("truncate-last", _TABLE, "'zz_audit_truncate'", "'00_audit_truncate'",
       f"{_ATTACKS}::test_a_trigger_that_writes_before_a_truncation"),
    _m("suspension-by-place", _SUSPEND,
       "a.ctid = substr(open.token, strpos(open.token, '('))::tid\n                  AND", "",
       f"{_ATTACKS}::test_serializable_writers_beside_a_forged_suspension"),
    _m("text-search-in-conditions", _TABLE, ", 'default_text_search_config=pg_catalog.simple'", "",
       f"{_ATTACKS}::test_a_setting_that_changes_a_condition"),
    _m("composite-nulls", _TEXT,
       "' IS NOT DISTINCT FROM NULL AND ', b.old, ' IS DISTINCT FROM NULL)'",
       "' IS NULL AND ', b.old, ' IS NOT NULL)'",
       f"{_VALUES}::test_a_composite_value_becomes_null"),
    _m("gap-without-values", _TEXT, "WHEN options -> 'exclude' = '[]' AND NOT options ?|",
       "WHEN true OR NOT options ?|",
       f"{_ATTACKS}::test_the_message_of_a_gap_holds_no_secret"),
    _m("strings-in-conditions", _TABLE, "'standard_conforming_strings=on', ", "",
       f"{_ATTACKS}::test_a_setting_that_changes_a_condition"),
    _m("nulls-in-conditions", _TABLE, "'transform_null_equals=off', ", "",
       f"{_ATTACKS}::test_a_setting_that_changes_a_condition"),
    _m("arrays-in-conditions", _TABLE, ", 'array_nulls=on'", "",
       f"{_ATTACKS}::test_a_setting_that_changes_a_condition"),
    _m("truncate-readable", _TEXT, "AND has_schema_privilege(", "OR has_schema_privilege(",
       f"{_ATTACKS}::test_types_and_tables_that_the_owner_cannot_see"),
    _m("query-text-end", _TEXT, "concat(left(s.text, 50000), ' … ', right(s.text, 50000))",
       "left(s.text, 100000)", f"{_ATTACKS}::test_a_statement_that_hides"),
    _m("session-context", _CONTEXT, "if info.get(_ARMED) == document:",
       'if info.get(_ARMED, "") == document:',
       f"{_ATTACKS}::test_a_context_that_outlives_its_transaction"),
    _m("query-text-of-secrets", _TABLE, "IF options @> '{\"query_text\": true}' AND (",
       "IF false AND (", f"{_OPTIONS}::test_wrong_options_are_refused"),

    # -- Values
    _m("large-values-of-changes", _TEXT,
       "@schema@.large_values_expression(s.has_large, s.changed_large_entries)",
       "''", f"{_VALUES}::test_a_value_of_300_mb"),
    _m("large-values", _TEXT, "200000000 / greatest", "200000000000 / greatest",
       f"{_VALUES}::test_a_value_of_300_mb"),
    _m("jsonb-or-text", _VALUE,
       "WHEN data_exception OR program_limit_exceeded OR statement_too_complex THEN", _NEVER,
       _STORED_TEST),
    _m("valid-jsonb", _TEXT, "'CASE WHEN pg_input_is_valid(', reference, '::text, ''jsonb'')',",
       "'CASE WHEN true',", _STORED_TEST),
    _m("json-inside", _TEXT, "SELECT 'pg_catalog.json'::regtype IN", "SELECT false AND "
       "'pg_catalog.json'::regtype IN", _STORED_TEST),
    _m("virtual-columns", _TEXT, "l.attgenerated <> 'v'", "true",
       f"{_VALUES}::test_generated_columns"),
    _m("no-placeholders", _VALUE, "-- How values", "-- 100% How values",
       "unit/test_sql.py::test_no_character_means_something_to_the_wrappers"),

    # -- The context, from Python
    _m("forget-sql-rollback", _CONTEXT, "if ends_transaction(statement):", "if False:",
       f"{_TRANSACTIONS}::test_savepoints_in_plain_sql"),
    _m("forget-when-idle", _CONTEXT, "if _is_idle(driver):", "if False:",
       f"{_TRANSACTIONS}::test_a_transaction_that_ends_unseen"),
    _m("autocommit-separately", _CONTEXT, "if document is None:", "if True:",
       f"{_TRANSACTIONS}::test_many_rows_in_autocommit"),
    _m("autocommit-of-procedures", _CONTEXT,
       "if is_autocommit and not may_run_in_transaction(statement):", "if False:",
       f"{_TRANSACTIONS}::test_a_procedure_that_commits"),
    _m("local-setting", _CONTEXT, "%(audit_app_context)s, true)", "%(audit_app_context)s, false)",
       f"{_TRANSACTIONS}::test_a_pool_of_one"),
    _m("local-setting-sent", _CONTEXT, "('{SETTING}', %s, true)\", (document,))",
       "('{SETTING}', %s, false)\", (document,))", f"{_TRANSACTIONS}::test_a_pool_of_one"),
    _m("label-cache", _CONTEXT, "if actor_id not in labels:", "if True:",
       f"{_GAPS}::test_the_actors_name_is_asked_for_once"),
    _m("label-of-another", _CONTEXT, 'merged["actor_label"] = None', "pass",
       f"{_GAPS}::test_another_actor_within_a_named_one"),
    _m("actor-while-resolving", _CONTEXT, "if self._resolving.get():", "if False:",
       f"{_GAPS}::test_finding_out_who_acts_writes"),
    _m("first-word-only", _STATEMENTS, "    if _WRITE.search(statement):\n        return True\n"
       "    return any(", "    return False and any(",
       "unit/test_statements.py::test_a_statement_that_may_write"),
    _m("functions-may-write", _STATEMENTS, "    return any(", "    return False and any(",
       f"{_ATTRIBUTION}::test_every_way_of_writing_is_attributed"),
    _m("scripts-may-write", _STATEMENTS, 'if word in _CONTROL and ";" not in statement:',
       "if word in _CONTROL:", "unit/test_statements.py::test_a_statement_that_may_write"),
    _m("own-schema", "sql/own_schema.sql", "IF _schema.rolname <> current_user",
       "IF false AND _schema.rolname <> current_user",
       f"{_BYPASS}::test_the_schema_is_prepared_by_somebody_else"),
    _m("own-objects", "sql/own_schema.sql", "IF FOUND THEN", "IF false THEN",
       f"{_BYPASS}::test_the_schema_is_prepared_by_somebody_else"),
    _m("other-databases", "install.py", 'if dialect.name != "postgresql":', "if False:",
       f"{_ERRORS}::test_another_database_system"),
)
# fmt: on


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the mutations, and print a line for each.

    :return: the exit code: 0 if all were killed, 1 if one survived or told nothing, 2 for a wrong
        command line, or for tests that fail without any mutation.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutations",
        description="Take each protection out and show that a test fails.",
    )
    parser.add_argument("names", nargs="*", help="of mutations; default: all")
    parser.add_argument("--json", action="store_true", help="print a JSON document for machines")
    parser.add_argument("--list", action="store_true", help="print the names and run nothing")
    options = parser.parse_args(arguments)
    known = {mutation.name: mutation for mutation in MUTATIONS}
    if unknown := sorted(set(options.names) - set(known)):
        parser.error(f"no mutation {', '.join(unknown)}; see --list")
    if options.list:
        _say("\n".join(known))
        return 0
    # So that a terminated run stops its server, too.
    signal.signal(signal.SIGTERM, _terminate)
    chosen = [known[name] for name in dict.fromkeys(options.names or known)]
    progress = sys.stderr if options.json else sys.stdout
    results = []
    with _server() as url:
        try:
            _check_unmutated(chosen, url)
        except MutationError as error:
            _say(f"The tests fail without any mutation.\n{error}", sys.stderr)
            return 2
        for mutation in chosen:
            results.append(result := attempt(mutation, url))
            _say(str(result), progress)
    if options.json:
        _say(json.dumps([asdict(result) for result in results], indent=2))
    counts = {
        kind: [r.name for r in results if r.outcome == kind] for kind in ("SURVIVED", "error")
    }
    killed = len(results) - sum(map(len, counts.values()))
    _say(f"{killed} of {len(results)} killed", progress)
    for kind, names in counts.items():
        if names:
            _say(f"{kind}: {', '.join(names)}", progress)
    return 0 if killed == len(results) else 1


def attempt(mutation: Mutation, url: str) -> Result:
    """Make ``mutation`` in a copy of the tree, and run its tests there.

    :param url: of the server to run them on.
    """
    started = time.monotonic()
    try:
        with _copy() as tree:
            mutation.apply(tree)
            outcome, by = _judge(*_run_tests(tree, mutation.selection, url))
    except MutationError as error:
        outcome, by = "error", str(error)
    return Result(mutation.name, outcome, by, round(time.monotonic() - started, 1))


def _check_unmutated(mutations: Sequence[Mutation], url: str) -> None:
    tests = list(dict.fromkeys(test for m in mutations for test in m.selection))
    with _copy() as tree:
        code, output = _run_tests(tree, tests, url, timeout=_TIMEOUT * 4)
    if code:
        raise MutationError(output[-4000:])


def _judge(code: int, output: str) -> tuple[str, str]:
    """What the exit code and the output of pytest say: the outcome, and by what."""
    if code == 0:
        # A skipped test has not passed, but it has not failed either.
        return "SURVIVED", output.strip().rsplit("\n", 1)[-1]
    if failed := re.search(r"(?m)^FAILED (.*)$", output):
        return "killed", failed.group(1).removeprefix("tests/integration/")[:120]
    if code == _TIMED_OUT:
        return "killed", f"not done after {_TIMEOUT} s"
    # An error in a fixture: more is broken than what was to be taken out.
    found = re.search(r"(?m)^(?:ERROR|E  ) (.*)$", output)
    return "error", f"exit code {code}: {found.group(1)[:200] if found else output[-200:]}"


_TIMED_OUT = -1  # in place of an exit code


def _run_tests(
    tree: Path, tests: Sequence[str], url: str, *, timeout: int = _TIMEOUT
) -> tuple[int, str]:
    """Run ``tests`` in ``tree`` and return pytest's exit code and output."""
    environment = {
        **os.environ,
        "AUDIT_DATABASE_URL": url,
        "PYTHONPATH": str(tree),
        "PYTHONDONTWRITEBYTECODE": "1",
    }

    def python(*arguments: str, limit: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=tree,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=limit,
            check=False,
        )

    # The package may be installed from another place: that one would prove nothing.
    look = "import importlib.util; print(importlib.util.find_spec('audit_app').origin)"
    origin = python("-c", look, limit=60).stdout.strip()
    if origin != str(tree / "audit_app" / "__init__.py"):
        raise MutationError(f"the tests would import {origin}")
    try:
        done = python(*_PYTEST, *tests, limit=timeout)
    except subprocess.TimeoutExpired:
        return _TIMED_OUT, ""
    return done.returncode, done.stdout


@contextmanager
def _copy() -> Iterator[Path]:
    """Copy the tree, without what is ignored, into a directory for the block."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    with tempfile.TemporaryDirectory(prefix="audit-mutation-") as name:
        tree = Path(name).resolve()
        for file in filter(None, listed.split("\0")):
            source, target = ROOT / file, tree / file
            if source.is_file():  # else deleted and not yet committed
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
        yield tree


@contextmanager
def _server() -> Iterator[str]:
    """Run a server for the block; ``AUDIT_DATABASE_URL`` names another one to use."""
    directory = Path(tempfile.mkdtemp(prefix="audit-mutations-", dir=servers.place()))
    try:
        yield demo.server.start(directory, servers._SETTINGS)
    finally:
        demo.server.stop(directory)
        try:
            demo.server.delete(directory)
        except ServerError as error:
            _say(str(error), sys.stderr)
        shutil.rmtree(directory, ignore_errors=True)


def _say(text: str, stream: TextIO | None = None) -> None:
    stream = stream or sys.stdout
    stream.write(text + "\n")
    stream.flush()


def _terminate(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
