"""Pruning, holds and archives, on rows of a past that is made here."""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from audit_app import AuditLogger, archive, holds, pruning, retention, unarchiving
from audit_app.errors import (
    ArchiveError,
    ConfigurationError,
    NotGrantedError,
    RetentionError,
    TableBusyError,
)
from tests.server import Server
from tests.trail import Trail

SEVEN = retention.parse({"default": "7 years"})
PLACES = ((("public", "article"), ("public", "post")), (("public", "session"),))

# One transaction for each row: number, when, table, verb, record, actor.
_PAST = """
DO $do$
DECLARE
    _past timestamptz;
    _id bigint;
    _row record;
BEGIN
    FOR _row IN {rows} LOOP
        INSERT INTO audit.transaction (
            native_transaction_id, issued_at, session_user_name, role_name, actor_id, client_addr, metadata
        ) VALUES ('3', _row.at, 'app', 'app', _row.actor, '192.0.2.7/24', '{{"n": 1.50}}')
        RETURNING id INTO _id;
        INSERT INTO audit.activity (
            transaction_id, native_transaction_id, issued_at, relid, depth, schema_name, table_name,
            verb, object_id, old_data, changed_data
        ) VALUES (
            _id, '18446744073709551615', _row.at, 'article'::regclass, 0, 'public', _row.tab, _row.verb,
            _row.key,
            CASE WHEN _row.verb <> 'insert' THEN jsonb_build_object('id', _row.key, 'price', 10.00) END,
            CASE WHEN _row.verb <> 'delete' THEN jsonb_build_object('price', 10.50, 'name', 'Ж"\\n😀') END
        );
    END LOOP;
END
$do$
"""


def past(trail: Trail, rows: str) -> None:
    """Record what ``rows`` selects: at, tab, verb, key, actor; the oldest first."""
    trail.script(
        _PAST.format(rows=f"SELECT * FROM ({rows}) AS r (at, tab, verb, key, actor) ORDER BY 1")
    )


def yearly(trail: Trail, table: str = "article", years: int = 10) -> None:
    """One insert and then one update for each year, of three records each."""
    past(
        trail,
        f"SELECT now() - make_interval(years => y) - interval '1 day', '{table}', "
        f"CASE y WHEN {years} THEN 'insert' ELSE 'update' END, k::text, 'ada' || k "
        f"FROM generate_series(1, {years}) y, generate_series(1, 3) k",
    )


@pytest.fixture
def aged(trail: Trail) -> Trail:
    trail.create("CREATE TABLE article (id int PRIMARY KEY, name text, price numeric)", "article")
    trail.create("CREATE TABLE session (id int PRIMARY KEY, name text)", "session")
    yearly(trail)
    return trail


def prune(
    trail: Trail, policy: retention.Policy = SEVEN, log: Any = lambda line: None, **options: Any
) -> pruning.Pruned:
    wanted = pruning.Options(**options)
    return pruning.prune(trail.engine, trail.logger.trail, policy, PLACES, wanted, progress=log)


def restore(trail: Trail, directory: str | Path, **options: Any) -> unarchiving.Restored:
    return unarchiving.restore(trail.engine, trail.logger.trail, Path(directory), **options)


def rows(trail: Trail, table: str = "article") -> int:
    return int(trail.value("SELECT count(*) FROM audit.activity WHERE table_name = :t", t=table))


def everything(trail: Trail) -> Any:
    """What was recorded of tables, with its transactions, as PostgreSQL has it."""
    return trail.value(
        "SELECT md5(string_agg(concat(CAST(a AS text), CAST(t AS text)), '|' ORDER BY a.id)) "
        "FROM audit.activity a JOIN audit.transaction t ON t.id = a.transaction_id "
        "WHERE a.schema_name = 'public'"
    )


def marks(trail: Trail, verb: str = "prune") -> list[Any]:
    with trail.engine.connect() as connection:
        return list(
            connection.scalars(
                sa.text("SELECT changed_data FROM audit.activity WHERE verb = :v ORDER BY id"),
                {"v": verb},
            )
        )


# -- Pruning -----------------------------------------------------------------------------------


def test_what_the_policy_has_outlived_goes_and_leaves_a_record(aged: Trail) -> None:
    before = aged.value("SELECT count(*) FROM audit.transaction")
    done = prune(aged, batch=5)
    assert (done.rows, done.transactions, done.is_finished) == (12, 12, True)
    assert rows(aged) == 18
    assert aged.value("SELECT min(issued_at) > now() - interval '7 years' FROM audit.activity "
                      "WHERE table_name = 'article'")  # fmt: skip
    # Each mark is a transaction of its own.
    found = marks(aged)
    batches = [mark for mark in found if "digest" in mark]
    assert sum(mark["rows"] for mark in batches) == 12
    assert [m["previous"] for m in batches] == [archive.START, *[m["digest"] for m in batches[:-1]]]
    assert batches[-1]["digest"] == done.digest
    assert all(mark["os_user"] == holds.os_user() for mark in batches)
    assert {(part["schema"], part["table"], part["verb"]) for m in batches for part in m["tables"]} == {
        ("public", "article", "insert"), ("public", "article", "update"),
    }  # fmt: skip
    table = [mark for mark in found if mark.get("table") == "article"]
    assert len(table) == 1
    assert aged.value("SELECT count(*) FROM audit.transaction") == before - 12 + len(batches)
    assert prune(aged).rows == 0


def test_by_table_and_verb(aged: Trail) -> None:
    past(
        aged,
        "SELECT now() - make_interval(days => d), 'session', v, d::text, NULL::text "
        "FROM generate_series(40, 200, 10) d, (VALUES ('insert'), ('delete')) AS t (v)",
    )
    policy = retention.parse(
        {"default": "forever", "session": {"insert": "90 days", "default": "6 months"}}
    )
    prune(aged, policy)
    left = {
        verb: aged.value(
            "SELECT extract(day FROM now() - min(issued_at)) FROM audit.activity "
            "WHERE table_name = 'session' AND verb = :v",
            v=verb,
        )
        for verb in ("insert", "delete")
    }
    assert left["insert"] in {80, 90}
    assert left["delete"] == 180
    assert rows(aged) == 30


def test_a_policy_for_a_table_counts_under_its_former_name(aged: Trail) -> None:
    yearly(aged, "post", 3)
    prune(aged, retention.parse({"article": "2 years"}))
    assert (rows(aged), rows(aged, "post")) == (3, 3)


def test_the_floor(aged: Trail) -> None:
    with pytest.raises(RetentionError, match="younger than the floor of this trail, 30 days"):
        prune(aged, retention.parse({"session": "1 week"}))
    aged.run("SELECT audit.set_prune_floor('2 days')")
    assert prune(aged, retention.parse({"session": "1 week"})).rows == 0
    assert marks(aged, "floor") == [{"floor": "2 days"}]
    with pytest.raises(ConfigurationError, match="lets nothing go"):
        prune(aged, retention.parse(None))


def test_the_budget_of_wal(aged: Trail) -> None:
    done = prune(aged, batch=3, wal_budget=1)
    assert not done.is_finished
    assert done.rows == 3
    assert done.wal > 0
    assert prune(aged, batch=3, wal_budget=10**9).rows == 9


def test_a_preview_changes_nothing(aged: Trail) -> None:
    state = everything(aged)
    holds.add(aged.engine, aged.logger.trail, names=PLACES[0], record="1", reason="a suit")
    found = pruning.preview(aged.engine, aged.logger.trail, SEVEN, PLACES)
    assert [(e.table, e.verb, e.rows, e.held) for e in found.extents] == [
        ("article", "insert", 2, 1), ("article", "update", 6, 3),
    ]  # fmt: skip
    assert (found.batches, found.partitions) == (1, ())
    assert everything(aged) == state


def test_transactions_that_nothing_refers_to(aged: Trail) -> None:
    for age in ("8 years", "1 year"):
        aged.run(
            "INSERT INTO audit.transaction (native_transaction_id, issued_at, session_user_name, "
            f"role_name) VALUES ('3', now() - interval '{age}', 'app', 'app')"
        )
    assert prune(aged).transactions == 13
    assert aged.value(
        "SELECT count(*) FROM audit.transaction t WHERE NOT EXISTS (SELECT FROM audit.activity a "
        "WHERE a.transaction_id = t.id)"
    ) == 1  # fmt: skip


def test_writers_and_readers_do_not_wait(aged: Trail) -> None:
    aged.run("INSERT INTO article VALUES (1, 'a')")
    with aged.engine.connect() as writer, writer.begin():
        writer.execute(sa.text("SET lock_timeout = '1s'"))
        writer.execute(sa.text("UPDATE article SET name = 'b'"))
        assert prune(aged, lock_timeout=500, attempts=1).rows == 12
    # And the other way round: in the middle of a batch.
    yearly(aged, "session", 9)
    with aged.engine.connect() as pruner, pruner.begin():
        run = pruning._Run(aged.engine, aged.logger.trail, SEVEN, PLACES, pruning.Options())
        call = sa.func.audit.prune_batch(
            run._rules(), 0, 10**9, "run", archive.START, sa.cast(None, sa.Text), sa.text("'{}'")
        )
        assert pruner.execute(sa.select(call.table_valued("rows", "digest"))).one().rows == 9
        aged.run("SET lock_timeout = '1s'; UPDATE article SET name = 'c'")
        assert rows(aged, "session") == 27


def test_prunings_exclude_each_other(aged: Trail) -> None:
    with aged.engine.connect() as other, other.begin():
        other.execute(sa.text("SELECT audit.claim_history(true)"))
        with pytest.raises(TableBusyError, match="busy in 2 attempts"):
            prune(aged, lock_timeout=10, attempts=2)
    assert rows(aged) == 30


# -- The guard ---------------------------------------------------------------------------------


def test_nothing_is_deleted_without_the_mark_of_its_own_transaction(aged: Trail) -> None:
    prune(aged)
    known = aged.value(
        "SELECT concat(id, ctid) FROM audit.activity WHERE verb = 'prune' ORDER BY id DESC LIMIT 1"
    )
    other = aged.value("SELECT concat(id, ctid) FROM audit.activity ORDER BY id DESC LIMIT 1")
    for setting in ("", "1", known, other, "1(0,1)", "on"):
        for statement in ("DELETE FROM audit.activity", "DELETE FROM audit.transaction",
                          "TRUNCATE audit.activity", "UPDATE audit.activity SET depth = 1"):  # fmt: skip
            with pytest.raises(sa.exc.ProgrammingError, match="append-only"):
                aged.script(f"SET LOCAL audit_app.rewrite = '{setting}'; {statement}")
    # A mark of another verb lets nothing be deleted, and that of a pruning nothing be rewritten.
    for verb, statement in (("rewrite", "DELETE FROM audit.activity"),
                            ("prune", "UPDATE audit.activity SET depth = 1"),
                            ("prune", "TRUNCATE audit.activity")):  # fmt: skip
        with pytest.raises(sa.exc.ProgrammingError, match="append-only"):
            aged.script(f"SELECT audit.allow('{verb}', '{{}}'); {statement}")
    # After its batch, the transaction may delete no more.
    with pytest.raises(sa.exc.ProgrammingError, match="append-only"):
        aged.script(
            'SELECT audit.prune_batch(\'{"default": {"default": "2022-01-01"}}\', 0, 1000, \'r\', '
            f"'{archive.START}', NULL, '{{}}'); DELETE FROM audit.activity"
        )


@pytest.fixture
def roles(server: Server, aged: Trail) -> Iterator[dict[str, Trail]]:
    """Roles that may prune, hold, or nothing."""
    names = {part: f"audit_test_{server.name}_{part}" for part in ("pruner", "holder", "nobody")}
    server.execute("; ".join(f'DROP ROLE IF EXISTS "{name}"' for name in names.values()))
    opened = {}
    for part, name in names.items():
        server.execute(f"CREATE ROLE \"{name}\" LOGIN PASSWORD 'secret'")
        url = sa.make_url(aged.url).set(username=name, password="secret")
        opened[part] = Trail(url.render_as_string(hide_password=False))
    from audit_app.roles import Roles, grant

    with aged.engine.begin() as connection:
        grant(connection, "audit", Roles(pruners=[names["pruner"]], holders=[names["holder"]]))
    yield opened
    for part, name in names.items():
        opened[part].close()
        aged.script(f'DROP OWNED BY "{name}"')
    server.execute("; ".join(f'DROP ROLE IF EXISTS "{name}"' for name in names.values()))


def test_who_may(aged: Trail, roles: dict[str, Trail], tmp_path: Path) -> None:
    trail = aged.logger.trail
    for part in ("nobody", "holder"):
        with pytest.raises(NotGrantedError, match="--pruner"):
            prune(roles[part])
    for part in ("nobody", "pruner"):
        with pytest.raises(NotGrantedError, match="--holder"):
            holds.add(roles[part].engine, trail, actor="ada1", reason="a suit")
    hold = holds.add(roles["holder"].engine, trail, actor="ada1", reason="a suit")
    with pytest.raises(NotGrantedError):
        holds.release(roles["pruner"].engine, trail, hold)
    done = prune(roles["pruner"], archive=tmp_path)
    assert done.rows == 8
    assert done.archive is not None
    for statement in (
        "SELECT audit.set_prune_floor('0')",
        "SELECT audit.allow('prune', '{}')",
        "SELECT audit.begin_prune('{}', 'r', '{}', '[]')",
        "SELECT audit.restore_lines('{}')",
        "DELETE FROM audit.activity",
        "SELECT * FROM audit.activity",
    ):
        with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
            roles["pruner"].run(statement)
    with pytest.raises(NotGrantedError):
        restore(roles["pruner"], done.archive)
    # Not even with rules of its own making.
    with pytest.raises(sa.exc.DBAPIError, match="floor"):
        roles["pruner"].script(
            'SELECT audit.prune_batch(\'{"tables": {"public": {"article": {"update": "infinity"}}}}\','
            f" 0, 1000, 'r', '{archive.START}', NULL, '{{}}')"
        )
    assert rows(aged) == 22
    with aged.engine.connect() as connection:
        found = _findings(aged, connection)
    assert found == []


def _findings(trail: Trail, connection: sa.Connection) -> list[Any]:
    from audit_app import checks

    return [f for f in checks.check(connection, trail.logger.trail, []) if f.code != "orphan"]


# -- Holds -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "kept"),
    [
        ({"names": PLACES[0]}, 12),
        ({"names": PLACES[0], "record": "2"}, 4),
        ({"names": PLACES[1]}, 0),
        ({"actor": "ada3"}, 4),
        ({"until": "9 years"}, 6),
        ({"since": "9 years", "until": "8 years", "actor": "ada1"}, 1),
    ],
)
def test_a_hold_keeps_what_it_is_about(aged: Trail, facts: dict[str, Any], kept: int) -> None:
    moments: dict[str, Any] = {
        name: aged.value(f"SELECT now() - interval '{facts[name]}'")
        for name in ("since", "until")
        if name in facts
    }
    hold = holds.add(
        aged.engine, aged.logger.trail, **{**facts, **moments}, reason="Smith v. Smith"
    )
    assert prune(aged, batch=4).rows == 12 - kept
    (found,) = holds.holds(aged.engine, aged.logger.trail)
    assert (found.id, found.kind, found.reason) == (hold, "hold", "Smith v. Smith")
    holds.release(aged.engine, aged.logger.trail, hold, reason="settled")
    assert holds.holds(aged.engine, aged.logger.trail) == ()
    assert prune(aged).rows == kept
    assert marks(aged, "release")[0]["hold"] == hold
    with pytest.raises(RetentionError, match="there is no hold"):
        holds.release(aged.engine, aged.logger.trail, hold)


def test_a_hold_follows_its_table(aged: Trail) -> None:
    holds.add(aged.engine, aged.logger.trail, names=[("public", "article")], reason="a suit")
    aged.run(
        """SELECT audit.evolve('rename_table', 'public', 'article',
                '{"schema": "press", "table": "piece"}')""".replace(":", "\\:")
    )
    assert prune(aged).rows == 0
    assert rows(aged, "piece") == 30


def test_what_is_no_hold(aged: Trail) -> None:
    cases: tuple[dict[str, Any], ...] = ({}, {"record": "1"}, {"actor": "a", "reason": " "})
    for wrong in cases:
        with pytest.raises(ConfigurationError):
            holds.add(aged.engine, aged.logger.trail, **{"reason": "why", **wrong})
    with pytest.raises(sa.exc.DBAPIError, match="this is no hold"):
        aged.run("SELECT audit.add_hold('{}')")


# -- Archives ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", archive.KINDS)
def test_an_archive_holds_what_was_pruned(aged: Trail, tmp_path: Path, kind: str) -> None:
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    state = everything(aged)
    done = prune(aged, archive=tmp_path, kind=kind, batch=2, file_rows=5)
    assert (done.rows, rows(aged), done.skipped) == (12, 18, 0)
    assert done.archive is not None
    directory = Path(done.archive)
    manifest = archive.verify(directory)
    assert (manifest.rows, manifest.digest, manifest.is_complete) == (12, done.digest, True)
    assert len(manifest.files) == 2
    assert [(p.verb, p.rows) for p in manifest.parts] == [("insert", 3), ("update", 9)]
    assert not [path for path in directory.iterdir() if path.name.startswith(".")]

    found = restore(aged, directory)
    assert (found.rows, found.added, found.is_proved) == (12, 12, True)
    assert everything(aged) == state
    again = restore(aged, directory)
    assert (again.rows, again.added) == (12, 0)
    # It stays for a while, and then goes again.
    assert prune(aged).rows == 0
    assert [hold.kind for hold in holds.holds(aged.engine, aged.logger.trail)] == ["restore"] * 2


def test_what_was_restored_goes_again_when_its_time_is_over(aged: Trail, tmp_path: Path) -> None:
    done = prune(aged, archive=tmp_path)
    assert restore(aged, str(done.archive), keep="0 days").added == 12
    second = prune(aged, archive=tmp_path)
    assert (second.rows, second.digest) == (12, done.digest)


def test_an_altered_archive_is_refused(aged: Trail, tmp_path: Path) -> None:
    done = prune(aged, archive=tmp_path)
    directory = Path(str(done.archive))
    manifest = archive.read_manifest(directory)
    path = directory / manifest.files[0].name
    whole = path.read_bytes()

    def refused(says: str) -> None:
        with pytest.raises(ArchiveError, match=says):
            archive.verify(directory)
        with pytest.raises(ArchiveError, match=says):
            restore(aged, directory)

    path.write_bytes(whole[:-30])
    refused("altered")
    lines = gzip.decompress(whole).replace(b"10.50", b"11.50")
    path.write_bytes(gzip.compress(lines))
    refused("altered")
    # With a manifest that was altered, too, the digest of the rows tells.
    forged = replace(manifest, files=(replace(manifest.files[0], sha256=archive._sha256(path)),))
    archive.write_manifest(directory, forged)
    refused("holds other rows")
    path.unlink()
    refused("missing")
    (directory / archive.MANIFEST).write_text("{")
    refused("damaged")
    assert rows(aged) == 18
    # And where all is forged, the record in the trail.
    chain = bytes(32)
    for line in lines.decode().splitlines():
        chain = archive.chained(chain, line)
    path.write_bytes(gzip.compress(lines))
    file = replace(
        manifest.files[0], sha256=archive._sha256(path), digest=chain.hex(),
        bytes=path.stat().st_size,
    )  # fmt: skip
    archive.write_manifest(directory, replace(manifest, files=(file,)))
    assert not restore(aged, directory).is_proved


def test_a_row_that_differs_is_not_overwritten(aged: Trail, tmp_path: Path) -> None:
    done = prune(aged, archive=tmp_path)
    restore(aged, str(done.archive), keep="0 days")
    aged.run(
        """SELECT audit.evolve('rename_column', 'public', 'article',
                '{"column": "name", "to": "title"}')""".replace(":", "\\:")
    )
    with pytest.raises(RetentionError, match="differs from the one in the trail"):
        restore(aged, str(done.archive))


def test_a_mark_is_not_restored_and_no_id_comes_from_the_future(aged: Trail) -> None:
    line = json.loads(
        aged.value("SELECT line FROM audit.archive_batch('{\"default\": {\"default\": \"2022-01-01\"}}'"
                   .replace(":", "\\:") + ", 0, 1000) LIMIT 1")
    )  # fmt: skip
    for change, says in (({"verb": "prune"}, "the trail's own"), ({"id": 10**9}, "has not given")):
        forged = json.dumps({**line, "activity": {**line["activity"], **change}})
        with pytest.raises(sa.exc.DBAPIError, match=says):
            aged.run("SELECT audit.restore_lines(CAST(:l AS text[]))", l=[forged])


def test_a_hold_between_archive_and_deletion_wins(aged: Trail, tmp_path: Path) -> None:
    def hold(line: str) -> None:
        if line.endswith("verified"):
            holds.add(aged.engine, aged.logger.trail, actor="ada1", reason="a suit")

    done = prune(aged, archive=tmp_path, log=hold)
    assert (done.rows, done.skipped) == (0, 12)
    assert rows(aged) == 30
    assert prune(aged).rows == 8


_KILLED = """
import os, signal, sys
import sqlalchemy as sa
from pathlib import Path
from audit_app import pruning
from tests.integration.test_retention import PLACES, SEVEN
from tests.trail import Trail

seen = 0
def log(line):
    global seen
    seen += sys.argv[3] in line
    if seen == 2 or (seen and sys.argv[3] == "verified"):
        os.kill(os.getpid(), signal.SIGKILL)

trail = Trail(sys.argv[1])
options = pruning.Options(batch=4, file_rows=4, archive=Path(sys.argv[2]))
pruning.prune(trail.engine, trail.logger.trail, SEVEN, PLACES, options, progress=log)
"""


@pytest.mark.parametrize(("where", "gone"), [("verified", 0), ("rows pruned", 8)])
def test_a_killed_run_loses_nothing(aged: Trail, tmp_path: Path, where: str, gone: int) -> None:
    state = everything(aged)
    command = [sys.executable, "-c", _KILLED, aged.url, str(tmp_path), where]
    killed = subprocess.run(command, check=False, capture_output=True, timeout=60)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert rows(aged) == 30 - gone
    done = prune(aged, archive=tmp_path)
    assert done.rows == 12 - gone
    directories = sorted(path for path in tmp_path.iterdir() if path.is_dir())
    assert len(directories) == 2
    for directory in directories:
        restore(aged, directory)
    assert everything(aged) == state
    assert sorted(archive.verify(d).is_complete for d in directories) == [False, True]


def test_a_directory_that_cannot_be_made(aged: Trail, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RetentionError, match="Nothing was deleted"):
        prune(aged, archive=tmp_path / "file")
    assert rows(aged) == 30


# -- Partitions --------------------------------------------------------------------------------


@pytest.fixture
def monthly(database_url: str) -> Iterator[Trail]:
    """A trail with partitions for each month of two years, and rows in them."""
    logger = AuditLogger(partition_by="month")
    logger.init(sa.orm.declarative_base())
    opened = Trail(database_url, logger)
    with opened.engine.begin() as connection:
        logger.install(connection)
    opened.create("CREATE TABLE article (id int PRIMARY KEY, name text, price numeric)", "article")
    opened.create("CREATE TABLE session (id int PRIMARY KEY, name text)", "session")
    past(
        opened,
        "SELECT date_trunc('month', now()) - make_interval(months => m) + make_interval(days => d), "
        "'article', CASE m WHEN 24 THEN 'insert' ELSE 'update' END, d::text, 'ada' || d "
        "FROM generate_series(1, 24) m, generate_series(1, 3) d",
    )
    tidy(opened)
    yield opened
    opened.close()


def tidy(trail: Trail) -> None:
    """Move what is in the default partitions into partitions of its own."""
    for parent in ("activity", "transaction"):
        while trail.value("SELECT partition FROM audit.empty_default(:p)", p=parent):
            pass


def partitions(trail: Trail) -> int:
    return int(trail.value("SELECT count(*) FROM audit.partitions() WHERE NOT is_default"))


def test_a_year_of_partitions(monthly: Trail, tmp_path: Path) -> None:
    state, before = everything(monthly), partitions(monthly)
    # A mark of long ago, in one of the partitions that go.
    monthly.script(
        "INSERT INTO audit.activity (transaction_id, native_transaction_id, issued_at, relid, depth, "
        "schema_name, table_name, verb) VALUES (0, '3', now() - interval '18 months', 0, 0, 'audit', "
        "'activity', 'suspend')"
    )
    policy = retention.parse({"default": "1 year"})
    found = pruning.preview(monthly.engine, monthly.logger.trail, policy, PLACES)
    assert len(found.partitions) in {11, 12}
    done = prune(monthly, policy, archive=tmp_path, file_rows=10)
    dropped = len(done.partitions)
    assert dropped in range(22, 26)
    assert partitions(monthly) == before - dropped
    assert done.rows + rows(monthly) == 72
    assert monthly.value("SELECT min(issued_at) > now() - interval '1 year' FROM audit.activity "
                         "WHERE table_name = 'article'")  # fmt: skip
    assert monthly.value("SELECT count(*) FROM audit.activity WHERE verb = 'suspend'") == 1
    digests = [mark["digest"] for mark in marks(monthly) if mark.get("rows")]
    manifest = archive.verify(Path(str(done.archive)))
    assert (digests[-1], manifest.rows) == (manifest.digest, done.rows)
    with monthly.engine.connect() as connection:
        assert _findings(monthly, connection) == []
    # Nothing is left for another run.
    assert prune(monthly, policy).partitions == ()

    assert restore(monthly, str(done.archive)).is_proved
    assert everything(monthly) == state
    assert prune(monthly, policy).rows == 0
    tidy(monthly)
    assert everything(monthly) == state
    with monthly.engine.connect() as connection:
        assert _findings(monthly, connection) == []


def test_a_partition_with_a_held_row_goes_row_by_row(monthly: Trail) -> None:
    holds.add(monthly.engine, monthly.logger.trail, actor="ada2", reason="a suit")
    done = prune(monthly, retention.parse({"default": "1 year"}))
    assert not [name for name in done.partitions if "activity" in name]
    assert monthly.value(
        "SELECT count(*) FROM audit.activity WHERE table_name = 'article' "
        "AND issued_at < now() - interval '1 year'"
    ) in {11, 12, 13}  # fmt: skip
    assert rows(monthly) == 72 - done.rows


def test_a_partition_waits_for_no_writer(monthly: Trail) -> None:
    with monthly.engine.connect() as writer, writer.begin():
        writer.execute(sa.text("INSERT INTO article VALUES (1, 'a')"))
        with pytest.raises(Exception, match="busy in 2 attempts"):
            prune(monthly, retention.parse({"default": "1 year"}), lock_timeout=50, attempts=2)
    assert partitions(monthly) > 48
