"""One role that owns everything, or three: what each may do after ``flask audit grant``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy

from audit_app import AuditLogger, errors
from tests.server import Server
from tests.trail import Trail


@dataclass
class Cast:
    """The roles of one test; the names are cluster-wide, so each worker has its own."""

    owner: str
    migrator: str
    app: str
    reader: str


@pytest.fixture
def cast(server: Server, trail: Trail) -> Iterator[Cast]:
    """The trail in a new database, and roles without any rights; ``owner`` does not exist yet."""
    names = [f"audit_test_{server.name}_{part}" for part in ("owner", "migrator", "app", "reader")]
    roles = Cast(*names)
    server.execute("; ".join(f'DROP ROLE IF EXISTS "{name}"' for name in names))
    for name in names[1:]:
        server.execute(f"CREATE ROLE \"{name}\" LOGIN PASSWORD 'secret'")
    trail.script(
        f'CREATE SCHEMA shop AUTHORIZATION "{roles.migrator}";'
        f'GRANT USAGE ON SCHEMA shop TO "{roles.app}";'
        f'ALTER DEFAULT PRIVILEGES FOR ROLE "{roles.migrator}" IN SCHEMA shop '
        f'GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON TABLES TO "{roles.app}"'
    )
    yield roles
    for name in names:
        if trail.value("SELECT count(*) FROM pg_roles WHERE rolname = :n", n=name):
            trail.script(f'REASSIGN OWNED BY "{name}" TO CURRENT_USER; DROP OWNED BY "{name}"')
    server.execute("; ".join(f'DROP ROLE IF EXISTS "{name}"' for name in names))


@pytest.fixture
def app(trail: Trail) -> Iterator[Flask]:
    db: Any = SQLAlchemy()
    logger = AuditLogger()
    logger.init(db.Model)

    class Item(db.Model):  # type: ignore[misc]
        __tablename__ = "item"
        __table_args__: ClassVar[dict[str, Any]] = {"schema": "shop"}
        __versioned__: ClassVar[dict[str, Any]] = {}
        id = db.Column(db.Integer, primary_key=True)
        name = db.Column(db.Text)

    app = Flask("shop")
    app.config["SQLALCHEMY_DATABASE_URI"] = trail.url
    db.init_app(app)
    logger.init_app(app)
    app.extensions["models"] = Item
    yield app
    with app.app_context():
        db.engine.dispose()


def connect(trail: Trail, role: str) -> Trail:
    url = sa.make_url(trail.url).set(username=role, password="secret")
    return Trail(url.render_as_string(hide_password=False))


def test_three_roles(trail: Trail, cast: Cast, app: Flask) -> None:
    options = ["--owner", cast.owner, "--role", cast.app, "--reader", cast.reader]
    result = app.test_cli_runner().invoke(args=["audit", "grant", *options])
    assert (result.exit_code, result.output) == (0, "The roles are set up.\n")
    trail.script(f'GRANT "{cast.owner}" TO "{cast.migrator}"')

    migrator, application, reader = (
        connect(trail, r) for r in (cast.migrator, cast.app, cast.reader)
    )
    migrator.create("CREATE TABLE shop.item (id int PRIMARY KEY, name text)", "shop.item")
    with application.logger.context(actor_id="ada"):
        application.run(
            "INSERT INTO shop.item VALUES (1, 'a')",
            "UPDATE shop.item SET name = 'b'",
            "DELETE FROM shop.item",
            "TRUNCATE shop.item",
        )
    assert [(c.verb, c.actor) for c in reader.changes()] == [
        ("insert", "ada"), ("update", "ada"), ("delete", "ada"), ("truncate", "ada"),
    ]  # fmt: skip
    assert {t.session_user_name for t in reader.transactions()} == {cast.app}
    owners = trail.value(
        "SELECT array_agg(DISTINCT CAST(pg_get_userbyid(o.owner) AS text)) FROM ("
        "SELECT relowner FROM pg_class WHERE relnamespace = CAST('audit' AS regnamespace) "
        "UNION ALL "
        "SELECT proowner FROM pg_proc WHERE pronamespace = CAST('audit' AS regnamespace)) o (owner)"
    )
    assert owners == [cast.owner]
    with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
        application.run("SELECT * FROM audit.activity")
    with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
        reader.run("INSERT INTO audit.transaction DEFAULT VALUES")
    with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
        reader.run("UPDATE shop.item SET name = 'x'")
    # Everything is as it should be, and stays so when it is done again.
    checked = app.test_cli_runner().invoke(args=["audit", "check"])
    assert checked.exit_code == 0
    assert f"warning  member  {cast.migrator}  may sign in, and is a member of" in checked.output
    checked = app.test_cli_runner().invoke(args=["audit", "check", "--trust", cast.migrator])
    assert (checked.exit_code, checked.output) == (0, "Everything is as it should be.\n")
    again = app.test_cli_runner().invoke(args=["audit", "grant", *options])
    assert again.exit_code == 0
    for opened in (migrator, application, reader):
        opened.close()


def test_suspending_must_be_granted(trail: Trail, cast: Cast, app: Flask) -> None:
    trail.create("CREATE TABLE shop.item (id int PRIMARY KEY, name text)", "shop.item")
    trail.script(f'GRANT ALL ON shop.item TO "{cast.app}"')
    application = connect(trail, cast.app)
    with application.engine.connect() as connection:
        with pytest.raises(errors.NotGrantedError, match="EXECUTE on its functions suspend"):
            with application.logger.disable(connection):
                pass
    assert (
        app.test_cli_runner().invoke(args=["audit", "grant", "--suspend", cast.app]).exit_code == 0
    )
    with application.engine.begin() as connection:
        with application.logger.disable(connection, reason="import"):
            connection.execute(sa.text("INSERT INTO shop.item VALUES (1, 'hidden')"))
        connection.execute(sa.text("INSERT INTO shop.item VALUES (2, 'seen')"))
    assert [c.verb for c in trail.changes()] == ["suspend", "resume", "insert"]
    with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
        application.run("SELECT * FROM audit.activity")
    application.close()


def test_recording_exports_must_be_granted(trail: Trail, cast: Cast, app: Flask) -> None:
    call = "SELECT audit.record_export('csv', CAST(:filter AS jsonb), 12, 'complete')"
    application = connect(trail, cast.app)
    with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
        application.run(call, filter="{}")
    result = app.test_cli_runner().invoke(args=["audit", "grant", "--export", cast.app])
    assert result.exit_code == 0, result.output
    with application.logger.context(actor_id="ada"):
        application.run(call, filter='{"table": "item"}')
    (mark,) = trail.changes()
    assert (mark.verb, mark.actor) == ("export", "ada")
    assert mark.changed == {
        "format": "csv", "filter": {"table": "item"}, "rows": 12, "outcome": "complete",
    }  # fmt: skip
    assert [t.role_name for t in trail.transactions()] == [cast.app]
    # Nothing else came with it, and the check takes no offence.
    for statement in ("SELECT * FROM audit.activity", "SELECT audit.suspend('x')"):
        with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
            application.run(statement)
    checked = app.test_cli_runner().invoke(args=["audit", "check", "--json"])
    assert [f for f in json.loads(checked.stdout) if f["code"] == "grant"] == []
    application.close()


@pytest.mark.parametrize(
    ("form", "given"), [("csv", "[]"), ("csv", "null"), (None, "{}"), ("x" * 201, "{}"),
                        ("csv", json.dumps({"a": "x" * 100_000}))],
)  # fmt: skip
def test_a_mark_of_an_export_is_bounded(trail: Trail, form: str | None, given: str) -> None:
    with pytest.raises(sa.exc.DBAPIError, match="this is no export"):
        trail.run(
            "SELECT audit.record_export(CAST(:form AS text), CAST(:given AS jsonb))",
            form=form, given=given,
        )  # fmt: skip
    assert trail.changes() == []


def test_an_application_that_owns_its_tables_is_warned_about(
    trail: Trail, cast: Cast, app: Flask
) -> None:
    trail.create("CREATE TABLE shop.item (id int PRIMARY KEY, name text)", "shop.item")
    trail.script(f'ALTER TABLE shop.item OWNER TO "{cast.app}"')
    result = app.test_cli_runner().invoke(args=["audit", "grant", "--role", cast.app])
    assert result.exit_code == 0
    assert f"warning: {cast.app} owns the tracked table shop.item" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--role", "nobody-here"], "There is no role 'nobody-here': create it"),
        (["--role", "postgres"], "owns the audit schema"),
        (["--reader"], "requires an argument"),
    ],
)
def test_bad_input_gets_a_message_and_exit_code_2(
    app: Flask, arguments: list[str], says: str
) -> None:
    result = app.test_cli_runner().invoke(args=["audit", "grant", *arguments])
    assert result.exit_code == 2
    assert says in result.output + result.stderr


def test_check_names_what_is_wrong(trail: Trail, cast: Cast, app: Flask) -> None:
    runner = app.test_cli_runner()
    missing = json.loads(runner.invoke(args=["audit", "check", "--json"]).output)
    assert [(f["code"], f["table"]) for f in missing] == [("missing", '"shop"."item"')]
    trail.run("CREATE TABLE shop.item (id int PRIMARY KEY, name text)")
    untracked = runner.invoke(args=["audit", "check"])
    assert untracked.exit_code == 1
    assert "error  untracked  shop.item  has no trigger of the trail" in untracked.output
    assert 'audit_table(\'"shop"."item"\'::regclass' in untracked.output
    trail.track("shop.item", ["name"])
    assert findings(runner) == {"options"}
    trail.track("shop.item")
    assert findings(runner) == set()
    trail.run("ALTER TABLE shop.item ADD COLUMN more text")
    assert findings(runner) == {"drift"}
    trail.track("shop.item")
    trail.run('ALTER TABLE shop.item DISABLE TRIGGER "00_audit_update"')
    assert findings(runner) == {"trigger"}
    trail.track("shop.item")
    trail.run("DROP TRIGGER zz_audit_truncate ON shop.item")
    assert findings(runner) == {"trigger"}
    trail.track("shop.item")
    trail.run("ALTER FUNCTION audit.capture_shop_item() SECURITY INVOKER")
    assert findings(runner) == {"function"}
    trail.run("ALTER FUNCTION audit.capture_shop_item() SECURITY DEFINER")
    trail.script(f'ALTER FUNCTION audit.capture_shop_item() OWNER TO "{cast.app}"')
    assert findings(runner) == {"owner"}


def findings(runner: Any) -> set[str]:
    output = runner.invoke(args=["audit", "check", "--json"]).output
    return {finding["code"] for finding in json.loads(output)}


def test_granting_takes_what_could_replace_the_triggers(
    trail: Trail, cast: Cast, app: Flask
) -> None:
    """GRANT ALL holds TRIGGER, by which a role replaces our triggers by its own."""
    trail.create("CREATE TABLE shop.item (id int PRIMARY KEY, name text)", "shop.item")
    trail.script(f'GRANT ALL ON shop.item TO "{cast.app}"; GRANT USAGE ON SCHEMA shop TO PUBLIC')
    assert findings(app.test_cli_runner()) == {"privilege"}
    result = app.test_cli_runner().invoke(args=["audit", "grant", "--role", cast.app])
    assert (result.exit_code, result.stderr) == (0, "")
    assert findings(app.test_cli_runner()) == set()
    application = connect(trail, cast.app)
    with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
        application.script(
            "CREATE FUNCTION pg_temp.noop() RETURNS trigger LANGUAGE plpgsql "
            "AS 'BEGIN RETURN NULL; END';"
            'CREATE OR REPLACE TRIGGER "00_audit_insert" AFTER INSERT ON shop.item '
            "EXECUTE FUNCTION pg_temp.noop()"
        )
    application.run("INSERT INTO shop.item VALUES (1, 'x')")
    assert [c.verb for c in trail.changes()] == ["insert"]
    application.close()
    trail.script("GRANT TRIGGER ON shop.item TO PUBLIC")
    result = app.test_cli_runner().invoke(args=["audit", "grant", "--role", cast.app])
    assert "through another role or PUBLIC: REVOKE TRIGGER, REFERENCES" in result.stderr
