"""The commands for operators: ``flask audit status | uninstall | sql | backfill``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from flask import Flask

from demo import programs
from tests.server import Server
from tests.trail import Trail


def run(app: Flask, *arguments: str) -> Any:
    return app.test_cli_runner().invoke(args=["audit", *arguments])


def lines(app: Flask, *arguments: str) -> list[list[str]]:
    result = run(app, *arguments)
    assert result.exit_code == 0, result.output + result.stderr
    return [line.split() for line in result.output.splitlines()]


# -- the group ------------------------------------------------------------------------------------


def test_a_web_process_imports_no_commands() -> None:
    code = "import sys, audit_app; print([n for n in sys.modules if n.startswith('audit_app.cli')])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"


def test_the_help_lists_all_commands(app: Flask) -> None:
    found = run(app, "--help").output.partition("Commands:\n")[2]
    assert [line.split()[0] for line in found.splitlines()] == [
        "archive", "backfill", "check", "grant", "hold", "import-trail", "install", "maintain",
        "partition", "prune", "restore-archive", "sql", "status", "uninstall",
    ]  # fmt: skip


# -- status ---------------------------------------------------------------------------------------


def test_status(app: Flask, shop: Trail) -> None:
    shop.run("INSERT INTO article VALUES (1, 'a')", "CREATE TABLE extra (id int PRIMARY KEY)")
    shop.track("extra")
    shop.run("ANALYZE article", "DROP TABLE event")
    shop.run('ALTER TABLE article DISABLE TRIGGER "00_audit_insert"')
    found = lines(app, "status")
    assert found[0][:2] == ["schema", "audit,"]
    assert found[1][:3] == ["version", "this", "version"]
    assert found[4] == ["table", "state", "rows", "size", "last", "change"]
    assert [row[:3] for row in found[5:]] == [
        ['"article"', "partly", "~1"], ['"event"', "missing", "-"],
        ["public.extra", "orphan", "-"],
    ]  # fmt: skip
    assert len(found[5]) == 7  # with the moment of its last change


def test_status_for_machines(app: Flask, shop: Trail) -> None:
    shop.run("INSERT INTO event VALUES (1, 'a')")
    document = json.loads(run(app, "status", "--json").output)
    assert document["is_installed"] is True
    assert document["is_current"] is True
    article, event = document["tables"]
    assert (article["state"], article["last_change"], article["partitions"]) == ("tracked", None, 0)
    assert (event["state"], event["partitions"]) == ("tracked", 1)
    assert event["last_change"] is not None
    assert event["bytes"] > 0
    shop.run("COMMENT ON SCHEMA audit IS 'audit_app sha256=old'")
    assert "another version: flask audit install" in run(app, "status").output
    assert json.loads(run(app, "status", "--json").output)["installed_digest"] is None


# -- uninstall ------------------------------------------------------------------------------------


def test_uninstall_stops_and_keeps(app: Flask, shop: Trail) -> None:
    shop.run("INSERT INTO article VALUES (1, 'a')", "INSERT INTO event VALUES (1, 'a')")
    result = run(app, "uninstall", "event")
    assert (result.exit_code, result.output) == (
        0, "public.event: not tracked any more\nWhat was recorded is still there.\n",
    )  # fmt: skip
    shop.run("UPDATE article SET name = 'b'", "UPDATE event SET name = 'b'")
    assert [c.table for c in shop.changes()] == ["article", "event", "article"]
    shop.run("CREATE TABLE extra (id int PRIMARY KEY)")
    shop.track("extra")
    assert run(app, "uninstall").exit_code == 0
    assert shop.value("SELECT count(*) FROM pg_trigger WHERE tgname LIKE '%_audit_%'") == 0
    assert shop.value("SELECT count(*) FROM pg_proc WHERE proname LIKE 'capture_public%'") == 0
    assert len(shop.changes()) == 3
    assert run(app, "install").exit_code == 0
    assert run(app, "check").exit_code == 0


def test_uninstall_drops_the_trail_if_that_is_confirmed(app: Flask, shop: Trail) -> None:
    for arguments, says in (
        (["--drop-trail"], "Confirm with --confirm audit"),
        (["--drop-trail", "--confirm", "yes"], "Nothing was dropped"),
        (["--drop-trail", "--confirm", "audit", "article"], "leave the tables out"),
        (["--confirm", "audit"], "which is not given"),
        (["nothing"], "'nothing' is not a tracked table; tracked: public.article"),
        (["article", "nothing"], "'nothing' is not a tracked table"),
    ):
        result = run(app, "uninstall", *arguments)
        assert result.exit_code == 2
        assert says in result.stderr
        assert run(app, "check").exit_code == 0
    assert run(app, "uninstall", "--drop-trail", "--confirm", "audit").exit_code == 0
    assert shop.value("SELECT to_regnamespace('audit') IS NULL")
    shop.run("INSERT INTO article VALUES (1, 'a')")
    assert run(app, "uninstall").exit_code == 2


def test_uninstall_of_a_busy_table(app: Flask, shop: Trail) -> None:
    with shop.engine.connect() as writer:
        writer.exec_driver_sql("INSERT INTO article VALUES (1)")
        result = run(app, "uninstall", "article", "--lock-timeout", "50", "--attempts", "2")
        assert result.exit_code == 2
        assert "public.article was busy in 2 attempts" in result.stderr


# -- sql ------------------------------------------------------------------------------------------


def test_the_script_runs_in_psycopg2(app: Flask, shop: Trail) -> None:
    script = run(app, "sql").output
    shop.run("DROP SCHEMA audit CASCADE")
    connection = psycopg2.connect(Server.dsn(shop.url))
    try:
        for _ in range(2):  # and may be repeated
            with connection, connection.cursor() as cursor:
                cursor.execute(script)
    finally:
        connection.close()
    assert run(app, "check").output == "Everything is as it should be.\n"


def test_the_script_runs_in_psql(app: Flask, shop: Trail, tmp_path: Path) -> None:
    file = tmp_path / "install.sql"
    file.write_text(run(app, "sql").output, encoding="utf-8")
    shop.run("DROP SCHEMA audit CASCADE")
    programs.run(
        "psql",
        ["-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", "-d", Server.dsn(shop.url), "-f", str(file)],
        programs.Account(None, os.geteuid(), os.getegid()),
    )
    assert run(app, "check").output == "Everything is as it should be.\n"


# -- backfill -------------------------------------------------------------------------------------


@pytest.fixture
def filled(shop: Trail) -> Trail:
    """Rows that were there before."""
    shop.run("SELECT audit.unaudit_table('article')", "SELECT audit.unaudit_table('event')")
    shop.run(
        "INSERT INTO article SELECT i, 'a' FROM generate_series(1, 5) AS i",
        "INSERT INTO event SELECT i, 'a' FROM generate_series(1, 3) AS i",
    )
    shop.track("article")
    shop.track("event")
    return shop


def test_backfill(app: Flask, filled: Trail) -> None:
    result = run(app, "backfill", "public.article", "--batch-size", "2")
    assert (result.exit_code, result.stdout) == (0, '"article": 5 rows, 5 of them recorded now\n')
    assert result.stderr.splitlines() == [
        '"article": 0 of 5, 0 added', '"article": 2 of 5, 2 added',
        '"article": 4 of 5, 4 added', '"article": 5 of 5, 5 added',
    ]  # fmt: skip
    again = json.loads(run(app, "backfill", "--json").stdout)
    assert again == [
        {"table": '"article"', "rows": 5, "added": 0},
        {"table": '"event"', "rows": 3, "added": 3},
    ]
    assert {c.verb for c in filled.changes()} == {"baseline"}
    assert len(filled.changes()) == 8


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nothing"], "'nothing' is not a tracked table: use one of public.article, public.event"),
        (["--batch-size", "0"], "Invalid value for '--batch-size'"),
    ],
)
def test_bad_input(app: Flask, filled: Trail, arguments: list[str], says: str) -> None:
    result = run(app, "backfill", *arguments)
    assert result.exit_code == 2
    assert says in result.stderr
    assert filled.changes() == []


def test_backfill_of_an_altered_table(app: Flask, filled: Trail) -> None:
    filled.run("ALTER TABLE article ADD COLUMN more text")
    result = run(app, "backfill")
    assert result.exit_code == 2
    assert "was altered after it was tracked: Bring its triggers up to date" in result.stderr
