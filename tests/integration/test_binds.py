"""An application with two databases: each has a trail, a logger and a context of its own."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy

from audit_app import AuditLogger, errors
from audit_app.extension import get_logger
from tests.server import Server


class Databases:
    """The models of an application: articles and people here, reports in another database."""

    def __init__(self) -> None:
        self.db: Any = SQLAlchemy()
        self.default, self.reports = AuditLogger(), AuditLogger()

        class Reporting(self.db.Model):  # type: ignore[misc,name-defined]
            __abstract__ = True
            __bind_key__ = "reports"

        self.base = Reporting
        self.article, self.report, self.user = (
            type(
                name,
                (self.db.Model,),
                {
                    "__bind_key__": bind_key,
                    "__versioned__": {},
                    "id": sa.Column(sa.Integer, primary_key=True),
                    "name": sa.Column(sa.Text),
                },
            )
            for name, bind_key in (("Article", None), ("Report", "reports"), ("User", None))
        )

    def serve(self, app: Flask, *loggers: AuditLogger) -> None:
        self.db.init_app(app)
        for logger in loggers:
            logger.init_app(app)


@pytest.fixture
def app(database_url: str, server: Server) -> Iterator[Flask]:
    app = Flask(__name__)
    with server.database() as url:
        app.config.update(SQLALCHEMY_DATABASE_URI=database_url, SQLALCHEMY_BINDS={"reports": url})
        yield app


@pytest.fixture
def databases(app: Flask) -> Iterator[Databases]:
    """With both trails installed, in an application context."""
    found = Databases()
    found.default.init(found.db.Model)
    found.reports.init(found.base)
    found.serve(app, found.default, found.reports)
    with app.app_context():
        found.db.create_all()
        yield found
        found.db.session.remove()
        for engine in found.db.engines.values():
            engine.dispose()


def recorded(databases: Databases, logger: AuditLogger) -> list[tuple[str, str]]:
    activity = logger.activity_cls
    query = sa.select(activity.table_name, activity.verb).order_by(activity.id)
    return [tuple(row) for row in databases.db.session.execute(query)]


def test_each_trail_holds_the_changes_of_its_database(databases: Databases) -> None:
    session = databases.db.session
    with databases.default.context(reason="an article"), databases.reports.context(reason="sums"):
        session.add_all([databases.article(name="a"), databases.report(name="b")])
        session.commit()
    for logger, table, reason in (
        (databases.default, "article", "an article"),
        (databases.reports, "report", "sums"),
    ):
        assert recorded(databases, logger) == [(table, "insert")]
        (transaction,) = session.scalars(sa.select(logger.transaction_cls))
        assert transaction.reason == reason
        assert logger.check() == ()
    assert [table.name for table in databases.default.audited_tables()] == ["article", "user"]
    assert [table.name for table in databases.reports.audited_tables()] == ["report"]


def test_reading_a_record_of_the_other_database(databases: Databases) -> None:
    session, report = databases.db.session, databases.report(name="b")
    session.add(report)
    session.commit()
    (activity,) = session.scalars(databases.reports.history(report))
    assert activity.object.name == "b"
    version = databases.reports.version_at(report, when=datetime.now(UTC))
    assert version == {"id": 1, "name": "b"}


def test_the_actor_may_be_in_the_first_database(databases: Databases) -> None:
    session = databases.db.session
    session.add(databases.user(name="Ada"))
    with databases.reports.context(actor_id=1):
        session.add(databases.report(name="b"))
        session.commit()
    (transaction,) = session.scalars(sa.select(databases.reports.transaction_cls))
    assert transaction.actor.name == "Ada"


def test_the_database_s_own_actors_come_first(databases: Databases) -> None:
    attributes = {"id": sa.Column(sa.Integer, primary_key=True), "__module__": "elsewhere"}
    own = type("User", (databases.base,), attributes)
    assert databases.reports.actor_cls is own
    assert databases.default.actor_cls is databases.user


def test_the_session_s_connection_to_the_trail_s_database(databases: Databases) -> None:
    """``disable()`` and ``arm()`` take a session that has connections to both."""
    session = databases.db.session
    with databases.reports.disable(session, reason="an import"):
        session.add_all([databases.article(name="a"), databases.report(name="b")])
    with databases.reports.context(reason="by hand"):
        databases.reports.arm(session)
    raw = session.connection(bind_arguments={"mapper": databases.report}).connection
    raw.cursor().execute("UPDATE report SET name = 'c'")
    session.commit()
    assert [verb for _, verb in recorded(databases, databases.reports)] == [
        "suspend",
        "resume",
        "update",
    ]
    assert recorded(databases, databases.default) == [("article", "insert")]
    reasons = session.scalars(sa.select(databases.reports.transaction_cls.reason)).all()
    assert "by hand" in reasons


def test_the_commands(app: Flask, databases: Databases) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        result = app.test_cli_runner().invoke(args=["audit", *arguments])
        return result.exit_code, result.output

    with databases.db.engines["reports"].begin() as connection:
        connection.exec_driver_sql('DROP TRIGGER "00_audit_insert" ON report')
    code, output = run("check")
    assert (code, "report" in output) == (0, False)
    code, output = run("--bind", "reports", "check")
    assert (code, "report" in output) == (1, True)
    code, output = run("--bind", "archive", "check")
    assert code == 2
    assert "for the bind 'archive'" in output


@pytest.mark.parametrize("is_default_first", [True, False])
def test_the_pages_show_the_default_database(app: Flask, is_default_first: bool) -> None:
    databases = Databases()
    databases.reports.init(databases.base)
    databases.default.init(databases.db.Model)
    loggers = (databases.default, databases.reports)
    databases.serve(app, *(loggers if is_default_first else reversed(loggers)))
    assert get_logger(app) is databases.default


def test_one_logger_for_a_database(app: Flask) -> None:
    databases = Databases()
    databases.default.init(databases.db.Model)
    databases.reports.init(databases.base)
    databases.serve(app, databases.default, databases.reports)
    databases.reports.init_app(app)  # again is harmless
    other = Databases()
    other.reports.init(other.base)
    with pytest.raises(errors.ConfigurationError, match="one for each database"):
        other.reports.init_app(app)


def test_a_database_without_a_logger() -> None:
    databases = Databases()
    databases.default.init(databases.db.Model)
    with pytest.raises(
        errors.ConfigurationError,
        match=r"Report has __versioned__ but lives in another database \(bind 'reports'\)[\s\S]*"
        r"__abstract__ = True and __bind_key__ = 'reports'",
    ):
        databases.default.audited_tables()
    other = Databases()
    other.reports.init(other.base)
    with pytest.raises(errors.ConfigurationError, match=r"Article .*call init\(db\.Model\)"):
        other.reports.audited_tables()


def test_a_table_of_another_database(databases: Databases) -> None:
    with pytest.raises(errors.ConfigurationError, match="'report' lives in another database"):
        databases.default.audit_table(databases.report)
    # A Table of a MetaData of its own says nothing of its database.
    plain = sa.Table("plain", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True))
    databases.reports.audit_table(plain)
    assert "plain" in [table.name for table in databases.reports.audited_tables()]
