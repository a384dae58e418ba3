"""Whatever is configured wrongly gets an error of ours that says what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import declarative_base

from audit_app import AuditError, AuditLogger, errors
from tests.trail import Trail


@pytest.fixture
def app(database_url: str) -> Flask:
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = database_url
    return app


@pytest.fixture
def db(app: Flask) -> Iterator[Any]:
    db: Any = SQLAlchemy()
    db.init_app(app)
    with app.app_context():
        yield db
        db.session.remove()
        for engine in db.engines.values():
            engine.dispose()


def model(db: Any, versioned: Any, **attributes: Any) -> Any:
    return type(
        "Article",
        (db.Model,),
        {
            "__versioned__": versioned,
            "id": sa.Column(sa.Integer, primary_key=True),
            "secret": sa.Column("password_hash", sa.Text),
            **attributes,
        },
    )


def logger_of(db: Any, **options: Any) -> AuditLogger:
    logger = AuditLogger(**options)
    logger.init(db.Model)
    return logger


@pytest.mark.parametrize(
    ("versioned", "kind", "says"),
    [
        ({"exclude": ["password"]}, errors.UnknownColumnError, "'password' in exclude, but"),
        ({"exclude": "secret"}, errors.InvalidOptionError, r"\{'exclude': \['secret'\]\}"),
        ({"exclude": 3}, errors.InvalidOptionError, "write a list"),
        ({"exclude": ["id"]}, errors.InvalidOptionError, "primary key"),
        ({"exlude": []}, errors.InvalidOptionError, "unknown __versioned__ option 'exlude'"),
        (True, errors.InvalidOptionError, "__versioned__ = True"),
        ({"include": ["nope"]}, errors.UnknownColumnError, "'nope' in include"),
        ({"mask": "secret"}, errors.InvalidOptionError, r"\{'mask': \['secret'\]\}"),
        ({"mask": ["id"]}, errors.InvalidOptionError, "'id' in mask.* primary key"),
        ({"when": 5}, errors.InvalidOptionError, "when = 5.*OLD and NEW"),
        ({"when": " "}, errors.InvalidOptionError, "when = ' '"),
        ({"on": "insert"}, errors.InvalidOptionError, "on = 'insert'.*list"),
        ({"on": ["select"]}, errors.InvalidOptionError, "insert, update, delete, truncate"),
        ({"on": []}, errors.InvalidOptionError, r"on = \[\]"),
        ({"level": "table"}, errors.InvalidOptionError, "'statement' or 'row'"),
        ({"query_text": 1}, errors.InvalidOptionError, "query_text = 1: write True or False"),
        ({"query_text": True, "mask": ["secret"]}, errors.InvalidOptionError, "beside exclude"),
        ({"on_error": "ignore"}, errors.InvalidOptionError, "'strict' or 'degrade'"),
    ],
)
def test_a_wrong_option_names_the_model_and_the_key(
    db: Any, versioned: Any, kind: type[Exception], says: str
) -> None:
    logger_of(db)
    article = model(db, versioned)
    with pytest.raises(kind, match=says) as caught:
        article()  # the first use configures the models
    assert "Article" in str(caught.value)
    assert isinstance(caught.value, AuditError)


def test_an_excluded_column_may_be_named_by_its_attribute(db: Any) -> None:
    logger = logger_of(db)
    article = model(db, {"exclude": ["secret"]})
    assert article.__table__.c.password_hash is not None
    assert logger.audited_tables()[0].exclude == ("password_hash",)


def test_options_reach_the_database(app: Flask, db: Any) -> None:
    logger = logger_of(db)
    logger.init_app(app)
    options = {
        "mask": ["secret"],
        "when": "NEW.id > 1 OR OLD.id > 1",
        "on": ["insert", "delete"],
        "level": "row",
        "on_error": "degrade",
    }
    article = model(db, options)
    db.create_all()
    db.session.add_all([article(id=1, secret="s3cret"), article(id=2, secret="s3cret")])
    db.session.commit()
    (activity,) = logger.activity_cls.query
    assert activity.object_id == 2
    assert activity.data["password_hash"] == {"$audit": "masked"}
    with db.engine.connect() as connection:
        assert logger.check(connection) == ()
    kept = logger.audited_tables()[0].options.as_dict()
    assert kept == {**options, "mask": ["password_hash"]}


def test_a_condition_that_does_not_fit_is_an_error_of_ours(db: Any, app: Flask) -> None:
    logger = logger_of(db)
    logger.init_app(app)
    article = model(db, {"when": "NEW.nothing = 1"})
    with pytest.raises(errors.InvalidOptionError, match=r"NEW\.nothing = 1 does not fit the table"):
        db.create_all()
    assert article.__tablename__ == "article"


def test_an_unversioned_model_has_no_history(db: Any) -> None:
    logger = logger_of(db)
    article = type("Article", (db.Model,), {"id": sa.Column(sa.Integer, primary_key=True)})
    with pytest.raises(errors.NotVersionedError, match="Article is not tracked: give the model"):
        logger.audited(article)
    with pytest.raises(errors.NotVersionedError):
        logger.history(article, 1)
    with pytest.raises(errors.NotVersionedError):
        logger.history(article(id=1))
    with pytest.raises(errors.NotVersionedError, match="pass a Table or a model"):
        logger.audit_table("article")


def test_a_table_without_a_primary_key(db: Any, trail: Trail) -> None:
    logger = logger_of(db)
    table = db.Table("log", sa.Column("line", sa.Text))
    with pytest.raises(errors.MissingPrimaryKeyError, match="'log' has no primary key"):
        logger.audit_table(table)
    with pytest.raises(errors.UnknownColumnError, match="'x' in exclude"):
        logger.audit_table(db.Table("b", sa.Column("i", sa.Integer, primary_key=True)), ["x"])
    trail.run("CREATE TABLE log (line text)")
    with pytest.raises(sa.exc.DBAPIError, match=r"has no primary key[\s\S]*Add a primary key"):
        trail.track("log")


@pytest.mark.parametrize("actor_cls", ["Usr", int])
def test_a_wrong_actor_class(db: Any, actor_cls: Any) -> None:
    logger = logger_of(db, actor_cls=actor_cls)
    with pytest.raises(errors.ActorClassError, match="actor_cls="):
        logger.activity_cls.query.first()


def test_an_actor_with_a_composite_key(db: Any) -> None:
    logger_of(db, actor_cls="Member")

    class Member(db.Model):  # type: ignore[misc]
        a = sa.Column(sa.Integer, primary_key=True)
        b = sa.Column(sa.Integer, primary_key=True)

    with pytest.raises(errors.ActorClassError, match="key of 2 columns"):
        Member()


def test_another_projects_wrong_actor_class_is_its_own_affair(db: Any) -> None:
    AuditLogger(actor_cls="Nobody").init(declarative_base())
    logger_of(db).activity_cls()


def test_another_database_system() -> None:
    app, db = Flask(__name__), SQLAlchemy()
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"
    db.init_app(app)
    logger = logger_of(db)
    with pytest.raises(errors.UnsupportedDatabaseError, match=r"is sqlite: set .*psycopg2://"):
        logger.init_app(app)
    with app.app_context(), pytest.raises(errors.UnsupportedDatabaseError):
        db.create_all()


def test_a_database_without_the_trail(app: Flask, db: Any) -> None:
    logger = logger_of(db)
    logger.init_app(app)
    says = r"schema 'audit' is not installed .* \(flask db upgrade\)"
    with pytest.raises(errors.NotInstalledError, match=says):
        logger.activity_cls.query.first()
    db.session.rollback()
    with pytest.raises(errors.NotInstalledError, match=says):
        with logger.disable(db.session):
            pass
    db.session.rollback()
    article = model(db, {})  # held: the registry keeps no strong reference
    with db.engine.begin() as connection:
        article.__table__.create(connection)
        from audit_app import install

        with pytest.raises(errors.NotInstalledError, match=says):
            install.install_tables(connection, logger.audited_tables())


def test_the_order_of_the_calls(app: Flask) -> None:
    db, logger = SQLAlchemy(), AuditLogger()
    with pytest.raises(errors.NotInitializedError, match=r"audit_logger.init\(db.Model\)"):
        logger.init_app(app)
    with pytest.raises(errors.NotInitializedError):
        _ = logger.activity_cls
    logger.init(db.Model)
    with pytest.raises(errors.ConfigurationError, match=r"call db.init_app\(app\) before"):
        logger.init_app(app)
    with pytest.raises(errors.AlreadyInitializedError):
        logger.init(db.Model)


def test_one_logger_for_an_application(app: Flask, db: Any) -> None:
    logger = logger_of(db)
    logger.init_app(app)
    logger.init_app(app)  # again is harmless
    other: Any = SQLAlchemy()
    second = logger_of(other)
    with pytest.raises(errors.ConfigurationError, match="Another AuditLogger"):
        second.init_app(app)


def test_a_model_of_another_database(app: Flask, db: Any) -> None:
    logger = logger_of(db)
    article = model(db, {}, __bind_key__="elsewhere")
    with pytest.raises(errors.ConfigurationError, match="bind 'elsewhere'"):
        logger.audited_tables()
    assert article.__table__.metadata is not db.metadata


@pytest.mark.parametrize(
    "options",
    [
        {"schema_name": "a%b"},
        {"schema_name": "x" * 64},
        {"schema_name": "pg_audit"},
        {"get_actor_id": 5},
        {"can_view": True},
    ],
)
def test_wrong_options(options: dict[str, Any]) -> None:
    with pytest.raises(errors.ConfigurationError):
        AuditLogger(**options)


def test_a_trigger_of_somebody_elses_stays(trail: Trail) -> None:
    trail.script(
        "CREATE TABLE article (id int PRIMARY KEY);"
        "CREATE FUNCTION theirs() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        'CREATE TRIGGER "00_audit_update" AFTER UPDATE ON article EXECUTE FUNCTION theirs()'
    )
    with pytest.raises(sa.exc.DBAPIError, match=r"00_audit_update that is not ours[\s\S]*Rename"):
        trail.track("article")
    assert trail.value(
        "SELECT array_agg(CAST(tgname AS text)) FROM pg_trigger "
        "WHERE tgrelid = CAST('article' AS regclass)"
    ) == ["00_audit_update"]


@pytest.mark.parametrize(
    ("create", "target", "says"),
    [
        ("CREATE VIEW thing AS SELECT 1 AS id", "thing", "is not a permanent table"),
        ("SELECT 1", "audit.activity", "belongs to the audit trail itself"),
        ("SELECT 1", "nothing", 'relation "nothing" does not exist'),
    ],
)
def test_what_cannot_be_tracked(trail: Trail, create: str, target: str, says: str) -> None:
    trail.run(create)
    with pytest.raises(sa.exc.DBAPIError, match=says):
        trail.track(target)


def test_an_unknown_sql_file() -> None:
    with pytest.raises(errors.ConfigurationError, match=r"use one of .*create_schema\.sql"):
        AuditLogger().render_tmpl("../secrets.sql")


@pytest.mark.parametrize("kind", sorted(vars(errors).values(), key=str))
def test_every_error_has_a_message(kind: Callable[[], Exception]) -> None:
    if isinstance(kind, type) and issubclass(kind, AuditError):
        assert len(str(kind())) > 20
