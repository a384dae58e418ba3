"""Taking over trails that the other packages themselves have written."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import DeclarativeBase

from audit_app import AuditLogger, audit_bp, cli, importing
from audit_app.errors import (
    ConfigurationError,
    ImportMismatchError,
    NotGrantedError,
    NotInstalledError,
    SourceTrailError,
)
from tests import server as servers
from tests.trail import Trail

SOURCES = [
    ("postgresql-audit", "public"),
    ("postgresql-audit", "old_audit"),
    ("flask-audit-logger", "public"),
    ("flask-audit-logger", "old_audit"),
]
ACTIVITIES = 37
TRANSACTIONS = 4


def write(flavour: str, url: str, schema: str) -> None:
    names = [] if schema == "public" else [schema]
    command = [sys.executable, "-m", "tests.peers.write", flavour, url, *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@dataclass
class Old:
    """A database with an old trail in it."""

    flavour: str
    schema: str
    url: str


@pytest.fixture(scope="module", params=SOURCES, ids="-".join)
def template(request: pytest.FixtureRequest, server: servers.Server) -> Iterator[Old]:
    with server.database() as url:
        flavour, schema = request.param
        write(flavour, url, schema)
        yield Old(flavour, schema, url)


@pytest.fixture
def old(template: Old, server: servers.Server) -> Iterator[Old]:
    with server.database(sa.make_url(template.url).database or "") as url:
        yield Old(template.flavour, template.schema, url)


class Project:
    """The project after its switch: the same tables, our trail."""

    def __init__(self, old: Old) -> None:
        class Base(DeclarativeBase):
            pass

        self.old = old
        self.db = SQLAlchemy(model_class=Base)
        self.logger = AuditLogger(can_view=lambda _actor: True)
        self.logger.init(self.db.Model)
        model: Any = self.db.Model

        class Article(model):  # type: ignore[misc]
            __tablename__ = "article"
            __versioned__: dict[str, Any] = {"exclude": ["secret"]}  # noqa: RUF012
            id = sa.Column(sa.Integer, primary_key=True)
            title = sa.Column(sa.Text)
            price = sa.Column(sa.Numeric)
            secret = sa.Column(sa.Text)

        self.Article: Any = Article
        self.app = Flask("project")
        self.app.config.update(SQLALCHEMY_DATABASE_URI=old.url, TESTING=True)
        self.db.init_app(self.app)
        self.logger.init_app(self.app)
        self.app.register_blueprint(audit_bp)
        with self.app.app_context():
            self.engine = self.db.engine
        self.trail = Trail(old.url, self.logger)

    def install(self) -> None:
        with self.engine.begin() as connection:
            self.logger.install(connection)

    def close(self) -> None:
        self.engine.dispose()
        self.trail.close()

    def run(self, **options: Any) -> importing.Summary:
        options = {"source_schema": self.old.schema, **options}
        return importing.import_trail(
            self.engine,
            self.logger.trail,
            self.old.flavour,
            former_names=self.logger.former_names,
            **options,
        )

    def command(self, *arguments: str) -> Any:
        return self.app.test_cli_runner().invoke(
            args=[
                "audit", "import-trail", "--from", self.old.flavour, "--source-schema",
                self.old.schema, *arguments,
            ]
        )  # fmt: skip


@pytest.fixture
def project(old: Old) -> Iterator[Project]:
    made = Project(old)
    made.install()
    yield made
    made.close()


def test_everything_arrives_in_our_form_and_before_our_own(project: Project) -> None:
    project.trail.run(
        "ALTER TABLE article DISABLE TRIGGER audit_trigger_insert",
        "INSERT INTO article (id, title) VALUES (1000, 'ours')",
    )
    summary = project.run()
    changes = project.trail.changes()
    assert len(changes) == ACTIVITIES + 1
    assert changes[-1].object_id == "1000"
    price = json.loads("9.9", parse_float=Decimal)
    draft = {"id": 1, "price": price, "title": "Draft"}
    final = {**draft, "title": "Final"}
    pair = {"value": 1, "country": "GB", "currency": "GBP"}
    found = [(c.verb, c.table, c.object_id, c.old, c.changed, c.actor) for c in changes[:7]]
    assert found == [
        ("insert", "article", "1", None, draft, "7"),
        ("insert", "rate", '["GB", "GBP"]', None, pair, "7"),
        ("update", "article", "1", draft, {"title": "Final"}, "7"),
        ("insert", "event", "2026-01-02 02:04:05.5+00", None,
         {"at": "2026-01-02T02:04:05.5+00:00", "name": "raw"}, None),
        ("update", "article", "1", final, {"id": 2, "price": None}, None),
        ("delete", "article", "2", {**final, "id": 2, "price": None}, None, "7"),
        ("delete", "rate", '["GB", "GBP"]', pair, None, "7"),
    ]  # fmt: skip
    assert sum(count.rows for count in summary.counts) == ACTIVITIES
    assert summary.added == {"transaction": TRANSACTIONS, "activity": ACTIVITIES}
    assert not summary.guessed
    assert "article" in summary.recording


def test_a_transaction_keeps_what_was_known_of_it(project: Project) -> None:
    project.run()
    schema = project.old.schema
    rows = project.trail.transactions()
    known = {row.meta["id"]: row for row in rows}
    first = known[1]
    assert first.meta == {"imported_from": project.old.flavour, "schema": schema, "id": 1}
    assert (first.actor_id, str(first.client_addr)) == ("7", "10.0.0.9")
    agrees = project.trail.value(
        f"SELECT t.issued_at AT TIME ZONE 'UTC' = s.issued_at AND "
        f"CAST(t.native_transaction_id AS text) = CAST(s.native_transaction_id AS text) "
        f"FROM audit.transaction t, {schema}.transaction s WHERE t.id = :id AND s.id = 1",
        id=first.id,
    )
    assert agrees
    raw = known[None]
    assert raw.actor_id is None
    assert len(rows) == TRANSACTIONS + 1


def test_a_change_of_the_key_goes_on(project: Project) -> None:
    project.run()
    with sa.orm.Session(project.engine) as session:
        story = session.scalars(project.logger.history(project.Article, 2)).all()
    assert [a.verb for a in story] == ["delete", "update", "update", "insert"]


def test_an_interrupted_import_goes_on_where_it_ended(project: Project) -> None:
    class StopHereError(Exception):
        pass

    seen: list[importing.Progress] = []

    def interrupt(progress: importing.Progress) -> None:
        seen.append(progress)
        if progress.relation == "activity" and progress.done == 20:
            raise StopHereError

    with pytest.raises(StopHereError):
        project.run(batch_size=10, progress=interrupt)
    assert project.trail.value("SELECT count(*) FROM audit.activity") == 20
    assert seen[-1] == importing.Progress("activity", 20, ACTIVITIES, 20)
    assert project.run(batch_size=7).added == {
        "transaction": 0, "activity": ACTIVITIES - 20,
    }  # fmt: skip
    assert project.run().added == {"transaction": 0, "activity": 0}
    assert project.trail.value("SELECT count(*) FROM audit.activity") == ACTIVITIES


def test_what_was_recorded_meanwhile_comes_with_the_next_run(project: Project) -> None:
    project.run()
    # The old triggers are still there: so it is in both trails.
    project.trail.run("UPDATE article SET title = 'late' WHERE id = 100")
    assert project.run().added == {"transaction": 0, "activity": 1}
    changes = project.trail.changes()
    assert [c.changed for c in changes[-2:]] == [{"title": "late"}] * 2


def test_another_source_gets_ids_of_its_own(project: Project) -> None:
    project.run()
    source = project.old.schema
    project.trail.run("CREATE SCHEMA older")
    for table in ("transaction", "activity"):
        project.trail.run(f"CREATE TABLE older.{table} AS SELECT * FROM {source}.{table}")
    assert project.run(source_schema="older").added["activity"] == ACTIVITIES
    assert project.run().added["activity"] == 0
    assert project.run(source_schema="older").added["activity"] == 0
    assert len(project.trail.changes()) == 2 * ACTIVITIES


def test_a_table_that_is_gone_or_has_another_name(project: Project) -> None:
    project.trail.run("DROP TABLE rate", "DROP TABLE article")
    summary = project.run()
    assert set(summary.guessed) == {"public.article", "public.rate"}
    keys = {c.table: c.object_id for c in project.trail.changes()}
    assert keys["article"] == "129"
    assert keys["rate"] is None


def test_the_declared_former_names_lead_to_the_key(project: Project) -> None:
    project.trail.run("ALTER TABLE rate RENAME TO price")
    project.trail.run("ALTER TABLE price RENAME COLUMN country TO land")
    model: Any = project.db.Model

    class Price(model):  # type: ignore[misc]
        __tablename__ = "price"
        __versioned__: dict[str, Any] = {  # noqa: RUF012
            "formerly": {"table": ["rate"], "columns": {"land": ["country"]}}
        }
        land = sa.Column(sa.Text, primary_key=True)
        currency = sa.Column(sa.Text, primary_key=True)
        value = sa.Column(sa.Numeric)

    assert not project.run().guessed
    with sa.orm.Session(project.engine) as session:
        story = session.scalars(project.logger.history(Price, ("GB", "GBP"))).all()
    assert [a.verb for a in story] == ["delete", "insert"]
    assert story[0].old_data == {"land": "GB", "currency": "GBP", "value": 1}
    assert story[0].object_id == ("GB", "GBP")


def test_a_difference_is_an_error(project: Project) -> None:
    project.run()
    schema = project.old.schema
    project.trail.run(f"DELETE FROM {schema}.activity WHERE id = 3")
    with pytest.raises(ImportMismatchError, match="article update: 1 in"):
        project.run()


def test_the_pages_show_it(project: Project) -> None:
    project.run()
    client = project.app.test_client()
    assert client.get("/audit/").status_code == 200
    page = client.get("/audit/records/public/article/1")
    assert page.status_code == 200
    assert page.text.count("au-event-head") == 4
    lowest = project.trail.value("SELECT min(id) FROM audit.activity")
    first = client.get(f"/audit/activities/{lowest}")
    assert first.status_code == 200
    assert "Draft" in first.text
    following = project.trail.value("SELECT min(id) FROM audit.activity WHERE verb = 'update'")
    assert f"/audit/activities/{following}" in first.text
    transaction = project.trail.value("SELECT min(id) FROM audit.transaction")
    assert client.get(f"/audit/transactions/{transaction}").status_code == 200
    paged = client.get(f"/audit/records/public/article/1?before={following}")
    assert paged.text.count("au-event-head") == 1
    moment = project.trail.value(
        "SELECT CAST(extract(epoch FROM issued_at) * 1000000 AS bigint) FROM audit.transaction "
        "ORDER BY issued_at, id OFFSET 1 LIMIT 1"
    )
    assert client.get(f"/audit/?before={moment}.{transaction + 1}").status_code == 200


def test_the_command(project: Project) -> None:
    done = project.command()
    assert done.exit_code == 0, done.output
    assert f"activity: {ACTIVITIES} of {ACTIVITIES}, {ACTIVITIES} added" in done.stderr
    assert "the old triggers still record article" in done.stderr
    assert "public.article insert: 31" in done.stdout
    assert f"{ACTIVITIES} activities are here" in done.stdout
    again = json.loads(project.command("--json", "--batch-size", "5").stdout)
    assert again["added"] == {"transaction": 0, "activity": 0}
    assert again["source_schema"] == project.old.schema


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with cli._ProgressLine() as line:
        line.show(importing.Progress("transaction", 4, 4, 4))
        for done in (10, 20):
            line.show(importing.Progress("activity", done, 20, done))
    shown = terminal.getvalue()
    assert "transaction" in shown
    assert "activity" in shown
    assert "100%" in shown


def guide(marker: str) -> str:
    """Return the SQL that the guide tells people to run."""
    text = (Path(__file__).parents[2] / "docs" / "moving-in.md").read_text(encoding="utf-8")
    blocks: list[tuple[str, str]] = re.findall(
        r'"""\n(DO .*?)"""|```sql\n(.*?)```', text, re.DOTALL
    )
    [found] = [one or other for one, other in blocks if marker in (one or other)]
    return found


def test_the_guide_from_the_switch_to_the_removal(old: Old) -> None:
    project, schema = Project(old), f"{old.schema}."
    write = "INSERT INTO article (id, title) VALUES (:id, 'x')"
    project.trail.run(write, id=500)
    with project.engine.begin() as connection:
        switch = guide("DROP TRIGGER").replace("public.", schema)
        connection.exec_driver_sql(switch, execution_options={"no_parameters": True})
        project.logger.install(connection)
    project.trail.run(write, id=501)
    summary = project.run()
    assert summary.recording == ()
    found = [c.object_id for c in project.trail.changes() if c.object_id in {"500", "501"}]
    assert found == ["500", "501"]
    removal = guide("DROP TABLE")
    for statement in filter(None, map(str.strip, removal.split(";"))):
        # The operator and what it needs are in public wherever the trail is.
        is_shared = re.search(r"OPERATOR|jsonb_subtract|jsonb_change", statement)
        if not is_shared:
            statement = statement.replace("public.", schema)  # noqa: PLW2901
        project.trail.run(statement)
    project.trail.run(write, id=502)
    assert project.trail.changes()[-1].object_id == "502"
    left = project.trail.value(
        "SELECT string_agg(p.oid::regprocedure::text, ', ') FROM pg_proc p JOIN pg_namespace n "
        "ON n.oid = p.pronamespace LEFT JOIN pg_depend d ON d.objid = p.oid AND d.deptype = 'e' "
        "WHERE n.nspname = 'public' AND d.objid IS NULL AND p.proname <> 'get_setting'"
    )
    assert left is None
    project.close()


def test_a_schema_of_any_name(project: Project) -> None:
    name = """Old: 100% "it's" :x"""
    schema = '"' + name.replace('"', '""') + '"'
    tables = (f"{schema}.{t} AS SELECT * FROM {project.old.schema}.{t}" for t in importing._COLUMNS)
    project.trail.script(
        f"CREATE SCHEMA {schema};" + ";".join(f"CREATE TABLE {table}" for table in tables)
    )
    assert project.run(source_schema=name).added["activity"] == ACTIVITIES
    assert project.run(source_schema=name).added["activity"] == 0


def test_what_an_application_had_changed_of_its_trail(project: Project) -> None:
    table = f"{project.old.schema}.transaction"
    activity = f"{project.old.schema}.activity"
    project.trail.run(
        f"ALTER TABLE {table} ADD request_id text, ADD note text",
        f"UPDATE {table} SET request_id = 'r1' WHERE id = 1",
        f"ALTER TABLE {activity} ALTER issued_at TYPE timestamptz USING issued_at AT TIME ZONE"
        " 'UTC'",
        f"UPDATE {activity} SET old_data = 'null', changed_data = NULL, relid = -5,"
        " native_transaction_id = NULL WHERE id = 4",
    )
    project.run()
    first = next(row for row in project.trail.transactions() if row.meta["id"] == 1)
    assert first.meta["columns"] == {"request_id": "r1"}
    agrees = project.trail.value(
        f"SELECT count(*) FROM audit.activity a JOIN {activity} s ON s.issued_at = a.issued_at "
        "AND a.id = s.id - CAST(1e15 AS bigint)"
    )
    assert agrees == ACTIVITIES
    empty = project.trail.changes()[3]
    assert (empty.old, empty.changed, empty.object_id) == (None, None, None)
    assert project.trail.value("SELECT max(relid) FROM audit.activity") == 2**32 - 5


def test_the_other_driver(project: Project) -> None:
    url = sa.make_url(project.old.url).set(drivername="postgresql+psycopg")
    engine = sa.create_engine(url)
    try:
        summary = importing.import_trail(
            engine, project.logger.trail, project.old.flavour, source_schema=project.old.schema
        )
    finally:
        engine.dispose()
    assert summary.added["activity"] == ACTIVITIES


def test_bad_input(project: Project) -> None:
    for arguments in (["--source-schema", "nowhere"], ["--source-schema", "audit"]):
        done = project.command(*arguments)
        assert done.exit_code == 2
        assert "Error" in done.output
    with pytest.raises(SourceTrailError, match="no table 'transaction'"):
        project.run(source_schema="nowhere")
    with pytest.raises(ConfigurationError, match="that of this trail"):
        project.run(source_schema="audit")
    with pytest.raises(ConfigurationError, match="batch_size"):
        project.run(batch_size=0)


def test_without_our_trail_there_is_nothing_to_import_to(old: Old) -> None:
    made = Project(old)
    with pytest.raises(NotInstalledError):
        made.run()
    made.close()


def test_a_role_without_rights_is_told_which(project: Project, server: servers.Server) -> None:
    role = f"audit_import_{server.name}"
    server.execute(f'DROP ROLE IF EXISTS "{role}"')
    server.execute(f"CREATE ROLE \"{role}\" LOGIN PASSWORD 'secret'")
    url = sa.make_url(project.old.url).set(username=role, password="secret")
    engine = sa.create_engine(url)
    try:
        with pytest.raises(NotGrantedError, match="as the owner of the schema 'audit'"):
            importing.import_trail(
                engine, project.logger.trail, project.old.flavour,
                source_schema=project.old.schema,
            )  # fmt: skip
    finally:
        engine.dispose()
        server.execute(f'DROP ROLE "{role}"')
