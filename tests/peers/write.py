"""Let another package write a trail: ``python -m tests.peers.write FLAVOUR URL [SCHEMA]``.

In a process of its own, because the packages listen to every session and mapper there is.
"""

from __future__ import annotations

import sys
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm


def models(base: Any, info: dict[str, Any], versioned: Any) -> tuple[Any, Any, Any]:
    """Map three tables: a plain key, a composite one, and one that JSON writes differently."""

    class Article(base):  # type: ignore[misc]
        __tablename__ = "article"
        __table_args__ = {"info": info}  # noqa: RUF012
        __versioned__ = versioned
        id = sa.Column(sa.Integer, primary_key=True)
        title = sa.Column(sa.Text)
        price = sa.Column(sa.Numeric)
        secret = sa.Column(sa.Text)

    class Rate(base):  # type: ignore[misc]
        __tablename__ = "rate"
        __table_args__ = {"info": {"audit_logged": True}}  # noqa: RUF012
        __versioned__: Any = {}  # noqa: RUF012
        country = sa.Column(sa.Text, primary_key=True)
        currency = sa.Column(sa.Text, primary_key=True)
        value = sa.Column(sa.Numeric)

    class Event(base):  # type: ignore[misc]
        __tablename__ = "event"
        __table_args__ = {"info": {"audit_logged": True}}  # noqa: RUF012
        __versioned__: Any = {}  # noqa: RUF012
        at = sa.Column(sa.DateTime(timezone=True), primary_key=True)
        name = sa.Column(sa.Text)

    return Article, Rate, Event


def story(session: orm.Session, classes: tuple[Any, Any, Any], user: Any) -> None:
    """Write what the tests expect to find again."""
    article_cls, rate_cls, _event_cls = classes
    session.add(user(id=7, name="alice"))
    session.commit()
    article = article_cls(id=1, title="Draft", price=9.90, secret="s")
    session.add_all([article, rate_cls(country="GB", currency="GBP", value=1)])
    session.commit()
    article.title = "Final"
    session.commit()
    session.execute(sa.text("INSERT INTO event VALUES ('2026-01-02 03:04:05.5+01', 'raw')"))
    session.execute(sa.text("UPDATE article SET id = 2, price = NULL WHERE id = 1"))
    session.commit()
    session.expire_all()
    session.delete(session.get(article_cls, 2))
    session.delete(session.get(rate_cls, ("GB", "GBP")))
    session.commit()
    for number in range(30):
        session.add(article_cls(id=100 + number, title=f"Number {number}"))
    session.commit()


def postgresql_audit(url: str, schema: str | None) -> None:
    from postgresql_audit import VersioningManager  # type: ignore[import-not-found, import-untyped, unused-ignore]

    base = orm.declarative_base()

    class User(base):  # type: ignore[misc, valid-type]
        __tablename__ = "user"
        id = sa.Column(sa.Integer, primary_key=True)
        name = sa.Column(sa.Text)

    manager = VersioningManager(actor_cls=User, schema_name=schema)
    manager.init(base)
    classes = models(base, {}, {"exclude": ["secret"]})
    orm.configure_mappers()
    manager.values = {"actor_id": 7, "client_addr": "10.0.0.9"}
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        manager.transaction_cls.__table__.create(connection)
        manager.activity_cls.__table__.create(connection)
        base.metadata.create_all(connection)
    with orm.Session(engine) as session:
        story(session, classes, User)


def flask_audit_logger(url: str, schema: str | None) -> None:
    from flask import Flask
    from flask_audit_logger import (  # type: ignore[import-not-found, import-untyped, unused-ignore]
        AuditLogger,
    )
    from flask_sqlalchemy import SQLAlchemy

    app, db = Flask("peer"), SQLAlchemy()
    app.config["SQLALCHEMY_DATABASE_URI"] = url
    db.init_app(app)

    class User(db.Model):  # type: ignore[misc, name-defined]
        __tablename__ = "user"
        id = sa.Column(sa.Integer, primary_key=True)
        name = sa.Column(sa.Text)

    classes = models(db.Model, {"audit_logged": {"exclude": ["secret"]}}, {})
    logger = AuditLogger(
        db, get_actor_id=lambda: 7, get_client_addr=lambda: "10.0.0.9", actor_cls="User",
        schema=schema,
    )  # fmt: skip
    with app.app_context():
        with db.engine.begin() as connection:
            connection.execute(logger.pg_btree_gist_extension.create_sql)
            if schema:
                connection.execute(logger.render_sql_template("create_schema.sql"))
            db.metadata.create_all(connection)
            for function in logger.pg_functions:
                connection.execute(function.create_sql)
            for trigger in logger.pg_triggers:
                connection.execute(trigger.create_sql)
        # Their first transaction names an actor by a foreign key that is not there yet.
        with logger.disable(db.session):
            db.session.add(User(id=7, name="alice"))
            db.session.commit()
        story(db.session, classes, lambda **_: User(id=8, name="bob"))  # type: ignore[arg-type]


if __name__ == "__main__":
    _, flavour, target, *schemas = sys.argv
    write = {"postgresql-audit": postgresql_audit, "flask-audit-logger": flask_audit_logger}
    write[flavour](target, schemas[0] if schemas else None)
