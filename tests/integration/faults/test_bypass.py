"""An ordinary role tries to lose, forge or misattribute a change."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import declarative_base

from audit_app import AuditLogger, errors
from tests.trail import Trail

GARBAGE = [
    "off", "false", "", "0", "{", "[]", "null", "3", '"x"', '{"metadata": 5, "client_addr": []}',
    '{"client_addr": "no address"}', '{"actor_id": "\\u0000"}', "9999999999999999999999", "1 {}",
    '{"actor_id": {"a": 1}}', "x" * 100_000, '{"actor_id": "' + "é" * 9000 + '"}', "-1 ", "7 ",
]  # fmt: skip


@pytest.mark.parametrize("value", GARBAGE)
def test_settings_set_to_garbage(article: Trail, mallory: Trail, value: str) -> None:
    """A role sets each of our settings, and some that other libraries obey, to anything."""
    with mallory.engine.begin() as connection:
        for name in (
            "audit_app.context",
            "audit_app.transaction",
            "audit_app.suspension",
            "audit_app.enabled",
            "postgresql_audit.enable_versioning",
        ):
            connection.execute(
                sa.text("SELECT set_config(:name, :value, false)"), {"name": name, "value": value}
            )
        connection.execute(sa.text("INSERT INTO article VALUES (1, 'x', 1)"))
    assert [c.verb for c in article.changes()] == ["insert"]
    assert article.transactions()[0].session_user_name.endswith("mallory")


@pytest.mark.parametrize(
    ("context", "kept"),
    [
        (
            '{"actor_id": "ada", "client_addr": "x", "metadata": {"a": 1}}',
            {"a": 1, "client_addr": "x"},
        ),
        ('{"actor_id": "ada", "client_addr": "x", "metadata": [1]}', {"client_addr": "x"}),
        ('{"actor_id": "ada", "client_addr": "10.0.0.1", "metadata": {"a": 1}}', {"a": 1}),
        ('{"actor_id": "ada"', {"invalid_context": '{"actor_id": "ada"'}),
        ('["actor_id"]', {"invalid_context": '["actor_id"]'}),
        ('"actor_id"', {"invalid_context": '"actor_id"'}),
        ("null", {"invalid_context": "null"}),
    ],
)
def test_a_context_that_is_partly_garbage(
    article: Trail, context: str, kept: dict[str, Any]
) -> None:
    """What is no claim is kept as what it was, beside the claims that are."""
    with sa.create_engine(article.url).begin() as connection:
        connection.execute(
            sa.text("SELECT set_config('audit_app.context', :context, true)"), {"context": context}
        )
        connection.execute(sa.text("INSERT INTO article VALUES (1, 'x', 1)"))
        connection.execute(sa.text("UPDATE article SET n = 2"))
    (transaction,) = article.transactions()
    assert transaction.meta == kept
    assert transaction.actor_id == (None if "invalid_context" in kept else "ada")
    assert transaction.client_addr == ("10.0.0.1" if "10.0.0.1" in context else None)


@pytest.mark.parametrize(
    "setting",
    [
        "session_replication_role = replica",
        "row_security = off",
        "plpgsql.variable_conflict = error",
        "search_path = pg_temp, public",
        "default_transaction_read_only = off",
        "standard_conforming_strings = off",
        "quote_all_identifiers = on",
        "transform_null_equals = on",
        "array_nulls = off",
        "check_function_bodies = off",
        "plpgsql.extra_errors = 'all'",
        "plpgsql.extra_warnings = 'all'",
        "debug_parallel_query = on",
        "work_mem = '64kB'",
        "plan_cache_mode = force_generic_plan",
        "enable_hashjoin = off; SET enable_mergejoin = off; SET enable_seqscan = off",
    ],
)
def test_server_settings(article: Trail, mallory: Trail, setting: str) -> None:
    """A role changes a setting that another trigger would stumble over."""
    with mallory.engine.connect() as connection:
        try:
            connection.exec_driver_sql(f"SET {setting}")
            connection.commit()
        except sa.exc.ProgrammingError:  # not granted, and that is as good
            connection.rollback()
        for statement in (
            "INSERT INTO public.article VALUES (1, 'x', 1)",
            "UPDATE public.article SET name = 'y'",
            "DELETE FROM public.article",
        ):
            connection.exec_driver_sql(statement)
        connection.commit()
    assert [c.verb for c in article.changes()] == ["insert", "update", "delete"]


def test_the_owner_replicates(article: Trail) -> None:
    """A superuser's session applies changes with session_replication_role = replica."""
    with article.engine.begin() as connection:
        connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        connection.exec_driver_sql("INSERT INTO article VALUES (1, 'x', 1)")
        connection.exec_driver_sql("TRUNCATE article")
    assert [c.verb for c in article.changes()] == ["insert", "truncate"]


def test_temporary_tables_in_our_names(article: Trail, mallory: Trail) -> None:
    """CREATE TEMP TABLE activity, transaction, old_table, new_table, pg_attribute."""
    with mallory.engine.begin() as connection:
        for name in ("activity", "transaction", "old_table", "new_table", "pg_attribute"):
            connection.exec_driver_sql(
                f"CREATE TEMP TABLE {name} (id int, name text, n numeric, attrelid oid)"
            )
        connection.exec_driver_sql("INSERT INTO article VALUES (1, 'x', 1)")
        connection.exec_driver_sql("UPDATE article SET name = 'y'")
    assert [c.verb for c in article.changes()] == ["insert", "update"]


def test_hostile_functions_and_operators(article: Trail, mallory: Trail) -> None:
    """Functions, operators and casts of an attacker's in public, first in the search_path."""
    boom = "LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''called''; END'"
    mallory.script(
        f"CREATE FUNCTION public.to_jsonb(anyelement) RETURNS jsonb {boom};"
        f"CREATE FUNCTION public.to_jsonb(text) RETURNS jsonb {boom};"
        f"CREATE FUNCTION public.concat(text, text) RETURNS text {boom};"
        f"CREATE FUNCTION public.current_setting(text, boolean) RETURNS text {boom};"
        f"CREATE FUNCTION public.set_config(text, text, boolean) RETURNS text {boom};"
        f"CREATE FUNCTION public.octet_length(text) RETURNS int {boom};"
        f"CREATE FUNCTION public.int_boom(int, int) RETURNS boolean {boom};"
        f"CREATE FUNCTION public.text_boom(text, text) RETURNS boolean {boom};"
        f"CREATE FUNCTION public.jsonb_boom(jsonb, text) RETURNS jsonb {boom};"
        "CREATE OPERATOR public.> (LEFTARG = int, RIGHTARG = int, FUNCTION = public.int_boom);"
        "CREATE OPERATOR public.= (LEFTARG = int, RIGHTARG = int, FUNCTION = public.int_boom);"
        "CREATE OPERATOR public.= (LEFTARG = text, RIGHTARG = text, FUNCTION = public.text_boom);"
        "CREATE OPERATOR public.<> (LEFTARG = text, RIGHTARG = text, FUNCTION = public.text_boom);"
        "CREATE OPERATOR public.- (LEFTARG = jsonb, RIGHTARG = text, FUNCTION = public.jsonb_boom)"
    )
    with mallory.engine.begin() as connection:
        connection.exec_driver_sql("SET LOCAL search_path = public, pg_catalog")
        connection.exec_driver_sql("INSERT INTO article VALUES (1, 'x', 1)")
        connection.exec_driver_sql("UPDATE article SET name = NULL, n = 1.0")
        connection.exec_driver_sql("TRUNCATE article")
    assert [c.verb for c in article.changes()] == ["insert", "update", "truncate"]


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM audit.activity",
        "INSERT INTO audit.transaction (native_transaction_id, issued_at, session_user_name, "
        "role_name) VALUES (pg_current_xact_id(), now(), 'postgres', 'postgres')",
        "UPDATE audit.activity SET verb = 'x'",
        "DELETE FROM audit.activity",
        "TRUNCATE audit.activity",
        "SELECT audit.suspend()",
        "SELECT audit.resume(1)",
        "SELECT audit.transaction_id()",
        "SELECT audit.capture_public_article()",
        "SELECT audit.audit_table('article')",
        "SELECT audit.unaudit_table('article')",
        "SELECT audit.hand_over(current_user)",
        "SELECT nextval('audit.activity_id_seq')",
        "ALTER TABLE article DISABLE TRIGGER ALL",
        'DROP TRIGGER "00_audit_update" ON article',
        "ALTER FUNCTION audit.capture_public_article() RENAME TO x",
        "DROP SCHEMA audit CASCADE",
        "CREATE TABLE audit.mine ()",
        "LOCK TABLE audit.activity",
        "COMMENT ON SCHEMA audit IS ''",
    ],
)
def test_the_trail_is_out_of_reach(article: Trail, mallory: Trail, statement: str) -> None:
    """A role without grants reads, writes, forges, suspends, uninstalls."""
    with pytest.raises(sa.exc.ProgrammingError, match="permission denied|must be owner"):
        mallory.run(statement)
    mallory.run("INSERT INTO article VALUES (1, 'x', 1)")
    assert [c.verb for c in article.changes()] == ["insert"]


def test_a_forged_suspension(article: Trail, mallory: Trail) -> None:
    """The setting of the suspension names a real suspension: another's, or one that has ended."""
    with article.engine.begin() as connection:
        with article.logger.disable(connection):
            connection.execute(sa.text("INSERT INTO article VALUES (1, 'hidden', 1)"))
        name = connection.scalar(
            sa.text("SELECT concat(id, ctid) FROM audit.activity WHERE verb = 'suspend'")
        )
        connection.execute(
            sa.text("SELECT set_config('audit_app.suspension', :id, false)"), {"id": name}
        )
        connection.execute(sa.text("INSERT INTO article VALUES (2, 'seen', 1)"))
    with mallory.engine.begin() as connection:
        connection.execute(
            sa.text("SELECT set_config('audit_app.suspension', :id, false)"), {"id": name}
        )
        connection.execute(sa.text("INSERT INTO article VALUES (3, 'seen too', 1)"))
    assert [c.verb for c in article.changes()] == ["suspend", "resume", "insert", "insert"]


def test_a_claimed_actor_is_beside_the_real_role(article: Trail, mallory: Trail) -> None:
    """A role claims to be somebody: the claim stands beside what the database knows."""
    with mallory.logger.context(actor_id="ada", actor_label="Ada"):
        mallory.run("INSERT INTO article VALUES (1, 'x', 1)")
    (row,) = article.transactions()
    assert row.actor_id == "ada"
    assert row.session_user_name.endswith("mallory")
    assert row.role_name.endswith("mallory")


def test_set_role_is_recorded(article: Trail, role: str) -> None:
    """A session acts under another role."""
    article.script(f'GRANT ALL ON article TO "{role}"')
    with article.engine.begin() as connection:
        connection.exec_driver_sql(f'SET LOCAL ROLE "{role}"')
        connection.exec_driver_sql("INSERT INTO article VALUES (1, 'x', 1)")
    (row,) = article.transactions()
    assert (row.session_user_name, row.role_name) == ("postgres", role)
    article.script(f'DROP OWNED BY "{role}"')


@pytest.mark.parametrize(
    "verb", ["UPDATE audit.{} SET id = DEFAULT", "DELETE FROM audit.{}", "TRUNCATE audit.{}"]
)
@pytest.mark.parametrize("table", ["activity", "transaction"])
def test_not_even_the_owner_rewrites_history(article: Trail, verb: str, table: str) -> None:
    """UPDATE, DELETE or TRUNCATE on the trail by a role that has the rights."""
    article.run("INSERT INTO article VALUES (1, 'x', 1)")
    with pytest.raises(sa.exc.ProgrammingError, match=r"append-only[\s\S]*Nothing was changed"):
        article.run(verb.format(table))
    assert len(article.changes()) == 1


def test_a_default_that_calls_the_attackers_function(article: Trail, mallory: Trail) -> None:
    """A column's check or a domain calls a function that tampers with our settings mid-statement."""
    mallory.script(
        "CREATE FUNCTION public.tamper(text) RETURNS text LANGUAGE sql AS $$"
        "SELECT set_config('audit_app.suspension', '1', false) || "
        "set_config('audit_app.transaction', '1 ', false) || $1 $$"
    )
    mallory.run("INSERT INTO article SELECT g, tamper('x'), 1 FROM generate_series(1, 3) g")
    assert [c.verb for c in article.changes()] == ["insert"] * 3


SQUATS = [
    'CREATE SCHEMA audit AUTHORIZATION "{role}"',
    "CREATE SCHEMA audit; CREATE TABLE audit.activity (id bigint); "
    'ALTER TABLE audit.activity OWNER TO "{role}"',
    "CREATE SCHEMA audit; CREATE FUNCTION audit.transaction_id() RETURNS bigint LANGUAGE sql "
    "AS 'SELECT 1::bigint'; ALTER FUNCTION audit.transaction_id() OWNER TO \"{role}\"",
]


@pytest.mark.parametrize("squat", SQUATS)
def test_the_schema_is_prepared_by_somebody_else(database_url: str, role: str, squat: str) -> None:
    """A role makes the schema, or a table or function in it, before the trail is installed."""
    engine = sa.create_engine(database_url)
    with engine.begin() as connection:
        connection.exec_driver_sql(squat.format(role=role))
    with engine.connect() as connection:
        logger = AuditLogger()
        logger.init(declarative_base())
        with pytest.raises(errors.InstallationConflictError, match="belongs to .*Drop it, or"):
            logger.install(connection)
        connection.rollback()
    with engine.begin() as connection:
        connection.exec_driver_sql(f'DROP OWNED BY "{role}" CASCADE')
    engine.dispose()
