"""Installing on a database in use, and tampering with what is installed."""

from __future__ import annotations

import threading
import time

import pytest
import sqlalchemy as sa

from audit_app import checks, errors, install
from audit_app.ddl import AuditedTable
from tests.trail import Trail

ARTICLE = AuditedTable("audit", None, "article")
TAG = AuditedTable("audit", None, "tag")


@pytest.fixture
def shop(trail: Trail) -> Trail:
    trail.run("CREATE TABLE article (id int PRIMARY KEY)", "CREATE TABLE tag (id int PRIMARY KEY)")
    return trail


def test_install_on_a_hot_table(shop: Trail) -> None:
    """A writer keeps its transaction open: others wait no longer than the limit, and it succeeds."""
    lines: list[str] = []
    waited: list[float] = []
    with shop.engine.connect() as writer:
        writer.exec_driver_sql("INSERT INTO article VALUES (1)")
        installing = threading.Thread(
            target=install.install_online,
            args=(
                sa.create_engine(shop.url, poolclass=sa.NullPool),
                shop.logger.trail,
                [ARTICLE, TAG],
            ),
            kwargs={"lock_timeout": 200, "attempts": 100, "progress": lines.append},
        )
        installing.start()
        for number in range(2, 8):
            start = time.monotonic()
            shop.run(f"INSERT INTO article VALUES ({number})")
            waited.append(time.monotonic() - start)
            time.sleep(0.15)
        assert not any("tracked" in line for line in lines)
        writer.commit()
    installing.join(30)
    assert lines[0].startswith('"article": busy, attempt 1 of 100')
    assert lines[-2:] == ['"article": tracked', '"tag": tracked']
    assert max(waited) < 5  # without a limit: as long as the writer is open
    shop.run("INSERT INTO article VALUES (100)")
    assert [c.object_id for c in shop.changes()] == ["100"]


def test_a_table_that_stays_busy(shop: Trail) -> None:
    """The writer never ends: a clear error, and the tables before it are installed."""
    with shop.engine.connect() as writer:
        writer.exec_driver_sql("INSERT INTO tag VALUES (1)")
        with pytest.raises(errors.TableBusyError, match='"tag" was busy in 2 attempts: end'):
            install.install_online(
                shop.engine, shop.logger.trail, [ARTICLE, TAG], lock_timeout=50, attempts=2
            )
    with shop.engine.connect() as connection:
        found = checks.check(connection, shop.logger.trail, [ARTICLE, TAG])
    assert [(f.code, f.table) for f in found] == [("untracked", "public.tag")]


TAMPERING = [
    ('ALTER TABLE article DISABLE TRIGGER "00_audit_insert"', "trigger"),
    ('ALTER TABLE article ENABLE TRIGGER "00_audit_insert"', "trigger"),
    ("ALTER TABLE article DISABLE TRIGGER ALL", "trigger"),
    ('DROP TRIGGER "00_audit_delete" ON article', "trigger"),
    (
        "CREATE FUNCTION noop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; "
        'CREATE OR REPLACE TRIGGER "00_audit_update" AFTER UPDATE ON article EXECUTE FUNCTION noop()',
        "trigger",
    ),
    (
        "CREATE OR REPLACE FUNCTION audit.capture_public_article() RETURNS trigger LANGUAGE plpgsql "
        "SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'BEGIN RETURN NULL; END'",
        "drift",
    ),
    ("ALTER FUNCTION audit.capture_public_article() SET search_path = public", "function"),
    (
        "CREATE OR REPLACE FUNCTION audit.transaction_id() RETURNS bigint LANGUAGE plpgsql "
        "AS 'BEGIN RETURN 1; END'",
        "altered",
    ),
    ("DROP FUNCTION audit.query_text()", "missing"),
    ("GRANT INSERT ON audit.activity TO PUBLIC", "grant"),
    ("GRANT SELECT ON audit.activity TO PUBLIC", "grant"),
    ("GRANT USAGE ON SCHEMA audit TO PUBLIC", "grant"),
    ("GRANT EXECUTE ON FUNCTION audit.suspend(text) TO PUBLIC", "grant"),
    ("ALTER TABLE audit.activity DISABLE TRIGGER append_only", "append_only"),
    ("DROP TRIGGER append_only ON audit.transaction", "append_only"),
    ('CREATE TRIGGER "000" AFTER UPDATE ON article EXECUTE FUNCTION audit.refuse()', "order"),
]


@pytest.mark.parametrize(("statements", "code"), TAMPERING)
def test_check_names_the_tampering(shop: Trail, statements: str, code: str) -> None:
    """Triggers disabled, dropped, replaced; functions altered; grants widened."""
    shop.track("article")
    with shop.engine.connect() as connection:
        assert checks.check(connection, shop.logger.trail, [ARTICLE]) == ()
    shop.script(statements)
    with shop.engine.connect() as connection:
        found = checks.check(connection, shop.logger.trail, [ARTICLE])
    assert {finding.code for finding in found} == set(code.split())
    assert all(finding.message and finding.remedy for finding in found)
    if code in {"grant", "order"}:  # not for us to take away
        return
    shop.script(
        "DROP FUNCTION IF EXISTS noop() CASCADE; "
        "ALTER FUNCTION audit.capture_public_article() SET search_path = pg_catalog, pg_temp"
    )
    install.install_online(shop.engine, shop.logger.trail, [ARTICLE])
    with shop.engine.connect() as connection:
        assert checks.check(connection, shop.logger.trail, [ARTICLE]) == ()
