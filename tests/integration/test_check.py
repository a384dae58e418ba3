"""What ``flask audit check`` names, what ``--fix`` repairs, and what is left to decide."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask

from audit_app import checks, errors
from audit_app.ddl import AuditedTable
from tests.server import Server
from tests.trail import Trail

ARTICLE = AuditedTable("audit", None, "article")
EVENT = AuditedTable("audit", None, "event")


@pytest.fixture
def role(server: Server, shop: Trail) -> Iterator[str]:
    """A role without rights; it goes with the test."""
    name = f"audit_test_{server.name}_eve"
    server.execute(f'DROP ROLE IF EXISTS "{name}"')
    server.execute(f'CREATE ROLE "{name}" LOGIN')
    yield name
    shop.script(f'REASSIGN OWNED BY "{name}" TO CURRENT_USER; DROP OWNED BY "{name}"')
    server.execute(f'DROP ROLE "{name}"')


def found(trail: Trail, **options: Any) -> tuple[checks.Finding, ...]:
    with trail.engine.connect() as connection:
        return checks.check(connection, trail.logger.trail, [ARTICLE, EVENT], **options)


def codes(trail: Trail) -> set[str]:
    return {finding.code for finding in found(trail)}


FUNCTION = "CREATE FUNCTION noop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
OURS = "EXECUTE FUNCTION audit.capture_public_article()"
WHEN = "WHEN (pg_catalog.set_config('audit_app.writer', current_user, true) IS NOT NULL)"

REPAIRED = {
    "trigger disabled": ('ALTER TABLE article DISABLE TRIGGER "00_audit_insert"', "trigger"),
    "trigger not in replicas": ('ALTER TABLE article ENABLE TRIGGER "00_audit_insert"', "trigger"),
    "trigger dropped": ('DROP TRIGGER "zz_audit_truncate" ON article', "trigger"),
    "trigger of some columns": (
        'DROP TRIGGER "00_audit_update" ON article; CREATE TRIGGER "00_audit_update" AFTER '
        f"UPDATE OF name ON article FOR EACH ROW {WHEN} {OURS};"
        'ALTER TABLE article ENABLE ALWAYS TRIGGER "00_audit_update"',
        "trigger",
    ),
    "trigger without rows": (
        'DROP TRIGGER "00_audit_delete" ON article; CREATE TRIGGER "00_audit_delete" AFTER DELETE '
        f"ON article {WHEN} {OURS}; ALTER TABLE article ENABLE ALWAYS TRIGGER "
        '"00_audit_delete"',
        "trigger",
    ),
    "trigger at another time": (
        'DROP TRIGGER "zz_audit_truncate" ON article; CREATE TRIGGER "zz_audit_truncate" AFTER '
        f"TRUNCATE ON article {WHEN} {OURS}; ALTER TABLE article ENABLE ALWAYS TRIGGER "
        '"zz_audit_truncate"',
        "trigger",
    ),
    "trigger with a condition": (
        'CREATE OR REPLACE TRIGGER "00_audit_insert" AFTER INSERT ON article REFERENCING NEW TABLE '
        f"AS new_table WHEN (current_user <> 'eve') {OURS};"
        'ALTER TABLE article ENABLE ALWAYS TRIGGER "00_audit_insert"',
        "trigger",
    ),
    "trigger of another table": (
        'CREATE OR REPLACE TRIGGER "00_audit_insert" AFTER INSERT ON article REFERENCING NEW TABLE '
        f"AS new_table {WHEN} EXECUTE FUNCTION audit.capture_public_event();"
        'ALTER TABLE article ENABLE ALWAYS TRIGGER "00_audit_insert"',
        "trigger",
    ),
    "trigger twice": (
        f'CREATE TRIGGER zz AFTER INSERT ON article REFERENCING NEW TABLE AS new_table {OURS}',
        "duplicate",
    ),
    "partition's trigger": ('DROP TRIGGER "00_audit_insert" ON event_1', "partition"),
    "partition attached": (
        "CREATE TABLE event_2 PARTITION OF event FOR VALUES FROM (10) TO (20)",
        "partition",
    ),
    "column added": ("ALTER TABLE article ADD COLUMN more text", "drift"),
    "capture function replaced": (
        "CREATE OR REPLACE FUNCTION audit.capture_public_article() RETURNS trigger LANGUAGE plpgsql"
        " SECURITY DEFINER AS 'BEGIN RETURN NULL; END'",
        "drift function",
    ),
    "capture function's rights": (
        "ALTER FUNCTION audit.capture_public_article() SECURITY INVOKER",
        "function",
    ),
    "capture function's settings": (
        "ALTER FUNCTION audit.capture_public_article() SET search_path = public",
        "function",
    ),
    "capture function's comment": (
        "COMMENT ON FUNCTION audit.capture_public_article() IS 'no json'",
        "options",
    ),
    "capture function's owner": (
        'ALTER FUNCTION audit.capture_public_article() OWNER TO "{role}"',
        "owner",
    ),
    "function altered": (
        "CREATE OR REPLACE FUNCTION audit.transaction_id() RETURNS bigint LANGUAGE plpgsql "
        "AS 'BEGIN RETURN 1; END'",
        "altered",
    ),
    "function's rights": ("ALTER FUNCTION audit.transaction_id() SECURITY DEFINER", "function"),
    "function's settings": ("ALTER FUNCTION audit.suspend(text) RESET ALL", "function"),
    "function dropped": ("DROP FUNCTION audit.query_text()", "missing"),
    "function's owner": ('ALTER FUNCTION audit.transaction_id() OWNER TO "{role}"', "owner"),
    "table's owner": ('ALTER TABLE audit.transaction OWNER TO "{role}"', "owner"),
    "guard disabled": ("ALTER TABLE audit.activity DISABLE TRIGGER append_only", "append_only"),
    "guard dropped": ("DROP TRIGGER append_only ON audit.transaction", "append_only"),
    "guard of some columns": (
        "CREATE OR REPLACE TRIGGER append_only BEFORE UPDATE OF id ON audit.activity "
        "EXECUTE FUNCTION audit.refuse(); ALTER TABLE audit.activity ENABLE ALWAYS TRIGGER "
        "append_only",
        "append_only",
    ),
    "table granted": ("GRANT INSERT ON audit.activity TO PUBLIC", "grant"),
    "column granted": ("GRANT UPDATE (old_data) ON audit.activity TO PUBLIC", "grant"),
    "sequence granted": ("GRANT USAGE ON SEQUENCE audit.activity_id_seq TO PUBLIC", "grant"),
    "schema granted": ("GRANT USAGE ON SCHEMA audit TO PUBLIC", "grant"),
    "function granted": ("GRANT EXECUTE ON FUNCTION audit.suspend(text) TO PUBLIC", "grant"),
    "grants to come": (
        "ALTER DEFAULT PRIVILEGES IN SCHEMA audit GRANT ALL ON TABLES TO PUBLIC",
        "default_acl",
    ),
    "trigger right": ("GRANT TRIGGER ON article TO PUBLIC", "privilege"),
    "references right": ("GRANT REFERENCES (id) ON article TO PUBLIC", "privilege"),
    "index dropped": ("DROP INDEX audit.activity_object_idx", "index"),
    "index of other columns": (
        "DROP INDEX audit.activity_transaction_idx; "
        "CREATE INDEX activity_transaction_idx ON audit.activity (id)",
        "index",
    ),
}  # fmt: skip

FOR_DECISION = {
    "grant to a role": ('GRANT DELETE ON audit.activity TO "{role}"', "grant"),
    "column granted to a role": ('GRANT UPDATE (verb) ON audit.activity TO "{role}"', "grant"),
    "grants to come for a role": (
        'ALTER DEFAULT PRIVILEGES IN SCHEMA audit GRANT INSERT ON TABLES TO "{role}"',
        "default_acl",
    ),
    "trigger right of a role": ('GRANT TRIGGER ON article TO "{role}"', "privilege"),
    "foreign trigger": (
        f"{FUNCTION} CREATE TRIGGER t BEFORE INSERT ON audit.activity FOR EACH ROW "
        "EXECUTE FUNCTION noop()",
        "foreign_trigger",
    ),
    "rule": (
        "CREATE RULE r AS ON INSERT TO audit.activity WHERE new.verb = 'delete' DO INSTEAD NOTHING",
        "rule",
    ),
    "row-level security": ("ALTER TABLE audit.activity FORCE ROW LEVEL SECURITY", "row_security"),
    "unlogged": ("ALTER TABLE audit.activity SET UNLOGGED", "unlogged"),
    "column dropped": ("ALTER TABLE audit.activity DROP COLUMN query_text", "column"),
    "column's type": (
        "ALTER TABLE audit.transaction ALTER COLUMN reason TYPE varchar",
        "column",
    ),
    "column nullable": ("ALTER TABLE audit.activity ALTER COLUMN verb DROP NOT NULL", "column"),
    "key dropped": ("ALTER TABLE audit.activity DROP CONSTRAINT activity_pkey", "constraint"),
    "identity dropped": ("ALTER TABLE audit.activity ALTER id DROP IDENTITY", "constraint"),
    "constraint added": (
        "ALTER TABLE audit.activity ADD CONSTRAINT c CHECK (verb <> 'delete')",
        "constraint",
    ),
    "stranger": ("CREATE TABLE audit.notes (id int)", "stranger"),
    "orphan": ("CREATE TABLE extra (id int PRIMARY KEY); SELECT audit.audit_table('extra')",
               "orphan"),
    "child": ("CREATE TABLE child () INHERITS (article)", "child"),
    "order": (
        f'{FUNCTION} CREATE TRIGGER "000" AFTER UPDATE ON article EXECUTE FUNCTION noop()',
        "order",
    ),
    "default actor of a role": (
        'ALTER ROLE "{role}" IN DATABASE "{database}" '
        'SET audit_app.context = \'{{"actor_id": "1"}}\'',
        "session_default",
    ),
    "replica role": (
        'ALTER ROLE "{role}" IN DATABASE "{database}" SET session_replication_role = replica',
        "replica",
    ),
    "member": ('GRANT "{owner}" TO "{role}"', "member"),
}  # fmt: skip


def tamper(shop: Trail, statements: str, role: str) -> None:
    # What is set for a role in every database would be named in those of other tests, too.
    statements = statements.replace("{database}", str(sa.make_url(shop.url).database))
    if "{owner}" in statements:
        owner = f"{role}_owner"
        shop.script(f"SELECT audit.hand_over('{owner}')")
        statements = statements.replace("{owner}", owner)
    shop.script(statements.replace("{role}", role).replace("{{", "{").replace("}}", "}"))


@pytest.mark.parametrize("kind", REPAIRED)
def test_tampering_is_named_and_repaired(shop: Trail, role: str, kind: str) -> None:
    statements, code = REPAIRED[kind]
    assert found(shop) == ()
    tamper(shop, statements, role)
    named = found(shop)
    assert {finding.code for finding in named} == set(code.split())
    assert checks.has_errors(named)
    assert all(finding.message and finding.remedy for finding in named)
    done: list[str] = []
    checks.fix(shop.engine, shop.logger.trail, [ARTICLE, EVENT], progress=done.append)
    assert done
    assert found(shop) == ()
    before = len(shop.changes())
    shop.run(
        "INSERT INTO article VALUES (1, 'a')", "UPDATE article SET name = 'b'",
        "DELETE FROM article", "INSERT INTO event_1 VALUES (1, 'a')",
    )  # fmt: skip
    assert [c.verb for c in shop.changes()[before:]] == ["insert", "update", "delete", "insert"]


@pytest.mark.parametrize("kind", FOR_DECISION)
def test_what_needs_a_decision_is_named_and_stays(shop: Trail, role: str, kind: str) -> None:
    statements, code = FOR_DECISION[kind]
    tamper(shop, statements, role)
    try:
        named = found(shop)
        assert {finding.code for finding in named} == {code}
        assert all(finding.message and finding.remedy for finding in named)
        checks.fix(shop.engine, shop.logger.trail, [ARTICLE, EVENT])
        assert codes(shop) == {code}
    finally:
        if kind == "member":
            shop.script(
                f'REASSIGN OWNED BY "{role}_owner" TO CURRENT_USER; DROP OWNED BY "{role}_owner"; '
                f'DROP ROLE "{role}_owner"'
            )
        shop.script(
            f'ALTER ROLE "{role}" RESET ALL; ALTER DEFAULT PRIVILEGES IN SCHEMA audit '
            f'REVOKE ALL ON TABLES FROM "{role}"'
        )


def test_defaults_of_the_database_are_named(shop: Trail) -> None:
    database = sa.make_url(shop.url).database
    shop.script(
        f'ALTER DATABASE "{database}" SET session_replication_role = replica;'
        f"ALTER DATABASE \"{database}\" SET audit_app.context = 'x'"
    )
    assert codes(shop) == {"replica", "session_default"}


def test_a_transaction_that_stays_open_is_a_warning(shop: Trail) -> None:
    with shop.engine.connect() as writer:
        writer.exec_driver_sql("INSERT INTO article VALUES (1)")
        assert found(shop) == ()
        (finding,) = found(shop, horizon=timedelta(0))
        assert (finding.code, finding.severity) == ("transaction", "warning")
        writer.rollback()
    with shop.engine.connect() as writer:
        writer.exec_driver_sql("INSERT INTO article VALUES (2)")
        writer.exec_driver_sql("PREPARE TRANSACTION 'waiting'")
        writer.rollback()
    (finding,) = found(shop, horizon=timedelta(0))
    assert finding.table == "prepared transaction 'waiting'"
    with shop.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ROLLBACK PREPARED 'waiting'")


def test_the_number_of_queries_does_not_grow(shop: Trail) -> None:
    statements: list[str] = []
    sa.event.listen(
        shop.engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2])
    )
    with shop.engine.connect() as connection:
        checks.check(connection, shop.logger.trail, [ARTICLE])
        one = len(statements)
        checks.check(connection, shop.logger.trail, [ARTICLE, EVENT] * 5)
    assert len(statements) == 2 * one


# -- The command, and the health endpoint ---------------------------------------------------------


def run(app: Flask, *arguments: str) -> Any:
    return app.test_cli_runner().invoke(args=["audit", *arguments])


def test_the_command_repairs_and_says_what_it_did(app: Flask, shop: Trail, role: str) -> None:
    shop.script(
        'ALTER TABLE article DISABLE TRIGGER "00_audit_insert";'
        f'GRANT DELETE ON audit.activity TO PUBLIC, "{role}"'
    )
    result = run(app, "check")
    assert result.exit_code == 1
    assert re.search(r"(?m)^error +trigger +public.article +has no working trigger", result.output)
    result = run(app, "check", "--fix")
    assert result.exit_code == 1
    assert "done: REVOKE ALL ON TABLE audit.activity FROM PUBLIC" in result.output
    assert 'done: "article": tracked' in result.output
    assert f"DELETE is granted to {role}" in result.output
    document = json.loads(run(app, "check", "--fix", "--json").output)
    assert document["done"] == []
    assert [(f["severity"], f["code"]) for f in document["findings"]] == [("error", "grant")]
    shop.script(f'REVOKE ALL ON audit.activity FROM "{role}"')
    assert run(app, "check").output == "Everything is as it should be.\n"


def test_warnings_alone_are_no_failure(app: Flask, shop: Trail) -> None:
    shop.run("CREATE TABLE extra (id int PRIMARY KEY)")
    shop.track("extra")
    assert run(app, "check").exit_code == 0
    assert run(app, "check", "--strict").exit_code == 1


def test_a_health_endpoint_needs_no_connection(app: Flask, shop: Trail) -> None:
    with app.app_context():
        assert app.extensions["test_logger"].check() == ()
        shop.run("DROP TRIGGER append_only ON audit.activity")
        (finding,) = app.extensions["test_logger"].check()
    assert finding.as_dict()["severity"] == "error"


def test_there_is_nothing_to_check_or_repair_without_a_trail(app: Flask, shop: Trail) -> None:
    shop.run("DROP SCHEMA audit CASCADE")
    for arguments in (["check"], ["check", "--fix"], ["uninstall"], ["backfill"]):
        result = run(app, *arguments)
        assert result.exit_code == 2
        assert "is not installed in this database" in result.stderr
    assert run(app, "status").exit_code == 1
    with pytest.raises(errors.NotInstalledError):
        checks.fix(shop.engine, shop.logger.trail, [ARTICLE])
