"""The contract of use, to the letter: the documented snippets are run as they stand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations
from flask import Flask

MODELS = """
# models.py
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from audit_app import AuditLogger

db = SQLAlchemy()
migrate = Migrate()

class Article(db.Model):
    __tablename__ = "article"
    __versioned__ = {}                      # or {"exclude": ["password_hash"]}
    id = db.Column(db.Integer, primary_key=True)
    name = db.Column(db.String)

audit_logger = AuditLogger(get_actor_id=get_current_user_id, actor_cls="User", schema_name="audit_logs")
audit_logger.init(db.Model)                 # before or after the models: both work
"""

USER = """
class User(db.Model):
    id = db.Column(db.Integer, primary_key=True)
    name = db.Column(db.String)
"""

FACTORY = """
# app factory
from audit_app import audit_bp
db.init_app(app); migrate.init_app(app, db)
audit_logger.init_app(app)                  # after the database is configured
app.register_blueprint(audit_bp)            # /audit/ ; before or after init_app; any url_prefix; nested; several apps
"""

UPGRADE = """
if audit_logger.schema_name:
    op.execute(sa.schema.DDL(audit_logger.render_tmpl("create_schema.sql")))
op.execute(sa.schema.DDL(audit_logger.render_tmpl("jsonb_change_key_name.sql")))
op.execute(sa.schema.DDL(audit_logger.operators_sql()))
op.execute(sa.schema.DDL(audit_logger.audit_table_sql()))
"""

DOWNGRADE = """
if audit_logger.schema_name:
    op.execute(sa.schema.DDL(audit_logger.render_tmpl("drop_schema.sql")))
"""


@pytest.fixture
def names(database_url: str) -> Iterator[dict[str, Any]]:
    """The namespace in which the snippets run; ``user_id`` is the list of who is signed in."""
    user_id: list[int | None] = [None]
    names: dict[str, Any] = {"get_current_user_id": lambda: user_id[0], "user_id": user_id}
    exec(MODELS, names)
    exec(USER, names)
    app = names["app"] = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = database_url
    exec(FACTORY, names)
    with app.app_context():
        yield names
        names["db"].session.remove()
        names["db"].engine.dispose()


def write_an_article(names: dict[str, Any]) -> None:
    db, article = names["db"], names["Article"]
    db.session.add(names["User"](id=7, name="Ada"))
    db.session.commit()
    names["user_id"][0] = 7
    first = article(name="one")
    db.session.add(first)
    db.session.commit()
    first.name = "two"
    db.session.commit()
    db.session.delete(first)
    db.session.commit()


def test_the_activity_reads_as_promised(names: dict[str, Any]) -> None:
    names["db"].create_all()
    write_an_article(names)
    Activity = names["audit_logger"].activity_cls  # noqa: N806 - as in the contract
    activity = Activity.query.first()
    assert activity.table_name == "article"
    assert activity.verb == "insert"
    assert activity.object_id == 1
    assert activity.old_data is None
    assert activity.changed_data == {"id": 1, "name": "one"}
    assert activity.data == {"id": 1, "name": "one"}
    assert activity.transaction.actor.name == "Ada"
    assert activity.object.name == "one"
    _, update, delete = Activity.query.order_by(Activity.id)
    assert (update.verb, update.old_data, update.changed_data, update.data) == (
        "update",
        {"id": 1, "name": "one"},
        {"name": "two"},
        {"id": 1, "name": "two"},
    )
    assert (delete.verb, delete.old_data, delete.changed_data, delete.data) == (
        "delete",
        {"id": 1, "name": "two"},
        None,
        {"id": 1, "name": "two"},
    )
    assert Activity.query.filter(Activity.data["name"].astext == "two").count() == 2
    assert Activity.query.filter_by(object_id=1).count() == 3


def test_a_hand_written_revision_installs_and_removes_everything(names: dict[str, Any]) -> None:
    db = names["db"]
    business = [names["Article"].__table__, names["User"].__table__]
    with db.engine.begin() as connection:
        for table in business:
            table.create(connection)
        names |= {"op": Operations(MigrationContext.configure(connection)), "sa": sa}
        exec(UPGRADE, names)
        connection.execute(sa.text("SELECT audit_logs.audit_table('article')"))
    write_an_article(names)
    assert names["audit_logger"].activity_cls.query.count() == 3
    db.session.remove()
    with db.engine.begin() as connection:
        names["op"] = Operations(MigrationContext.configure(connection))
        exec(DOWNGRADE, names)
        for table in business:
            table.drop(connection)
        left = connection.scalar(
            sa.text(
                "SELECT count(*) FROM (SELECT relnamespace FROM pg_class UNION ALL SELECT "
                "pronamespace FROM pg_proc UNION ALL SELECT typnamespace FROM pg_type) o (space) "
                "JOIN pg_namespace n ON n.oid = o.space WHERE n.nspname IN ('public', 'audit_logs')"
            )
        )
    assert left == 0


@pytest.mark.parametrize("wrap", [sa.text, sa.schema.DDL, str])
def test_the_sql_is_valid_in_every_wrapping(names: dict[str, Any], wrap: Any) -> None:
    with names["db"].engine.begin() as connection:
        op = Operations(MigrationContext.configure(connection))
        logger = names["audit_logger"]
        for name in ("create_schema.sql", "jsonb_change_key_name.sql"):
            op.execute(wrap(logger.render_tmpl(name)))
        # The order does not matter, and neither does a repetition.
        op.execute(wrap(logger.audit_table_sql()))
        op.execute(wrap(logger.operators_sql()))
        op.execute(wrap(logger.audit_table_sql()))
        call = sa.select(
            sa.func.audit_logs.jsonb_change_key_name(
                sa.literal_column("""'{"a": 1, "b": null}'::jsonb"""), "b", "c"
            )
        )
        assert connection.scalar(call) == {"a": 1, "c": None}


def test_the_trail_is_seen_at_its_address(names: dict[str, Any]) -> None:
    names["db"].create_all()
    client = names["app"].test_client()
    assert client.get("/audit/").status_code == 403  # closed until somebody opens it
    names["audit_logger"].can_view = lambda actor: actor == 7
    write_an_article(names)
    page = client.get("/audit/")
    assert page.status_code == 200
    assert "article" in page.text


def test_no_argument_is_needed(database_url: str) -> None:
    from flask_sqlalchemy import SQLAlchemy

    from audit_app import AuditLogger

    db: Any = SQLAlchemy()
    logger = AuditLogger()
    logger.init(db.Model)

    class Thing(db.Model):  # type: ignore[misc]
        __versioned__: ClassVar[dict[str, Any]] = {}
        id = db.Column(db.Integer, primary_key=True)

    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = database_url
    db.init_app(app)
    logger.init_app(app)
    with app.app_context():
        db.create_all()
        db.session.add(Thing())
        db.session.commit()
        activity = logger.activity_cls.query.one()
        assert activity.transaction.actor is None
        assert logger.schema_name == "audit"
        db.session.remove()  # its transaction holds locks on what is dropped
        db.drop_all()
        db.engine.dispose()


def test_a_ready_instance_exists() -> None:
    from audit_app import AuditLogger, audit_logger

    assert isinstance(audit_logger, AuditLogger)
