"""The contestants on Flask and SQLAlchemy: the bare table, the floor, and three packages.

All run the same application: bulk writes as a job does them, and single rows in a request of a
person who is signed in by Flask-Login, which is where all three packages find the actor without
further ado.
"""

from __future__ import annotations

import gc
import http.client
import json
import statistics
import threading
import time
from collections.abc import Sequence
from typing import Any, ClassVar

import psycopg2
import sqlalchemy as sa
from flask import Flask
from flask_login import LoginManager, UserMixin, login_user
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import declarative_base
from werkzeug.serving import WSGIRequestHandler, make_server

from audit_app import AuditLogger, audit_bp, history, selection
from audit_app.history import Cursor
from audit_app.selection import Filters
from benchmarks import fill
from benchmarks.workers.base import ACTOR, PLANNED, TABLE, Worker


class _Person(UserMixin):  # type: ignore[misc]
    """Who is signed in: no mapped object, which each commit would have to load again."""

    id = ACTOR


class FlaskWorker(Worker):
    """The application without a trail, which is the bare table."""

    info: ClassVar[dict[str, Any]] = {}
    versioned: ClassVar[dict[str, Any]] = {}

    def __init__(self, url: str) -> None:
        super().__init__(url)
        # Objects stay loaded after a commit, so that no read is timed with the writes.
        self.db: Any = SQLAlchemy(session_options={"expire_on_commit": False})
        self.before_models()
        self.article = self._models()
        self.app = Flask("bench")
        self.app.secret_key = "benchmark"  # noqa: S105
        self.app.config["SQLALCHEMY_DATABASE_URI"] = url
        self.app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {
            "creator": lambda: psycopg2.connect(self.dsn())
        }
        self.db.init_app(self.app)
        LoginManager(self.app).user_loader(lambda user_id: _Person())
        self.after_models()
        self._context: Any = self.app.app_context()
        self._context.push()
        self._object: Any = None
        self._clean: list[Any] = []

    def before_models(self) -> None:
        """What the package wants done before there are models."""

    def after_models(self) -> None:
        """What the package wants done after them."""

    def _models(self) -> Any:
        db, worker = self.db, self

        class User(db.Model):  # type: ignore[misc, name-defined]
            __tablename__ = "user"
            id = sa.Column(sa.Integer, primary_key=True)
            name = sa.Column(sa.Text)

        class Article(db.Model):  # type: ignore[misc, name-defined]
            __tablename__ = TABLE
            __table_args__ = {"info": worker.info}  # noqa: RUF012
            __versioned__ = worker.versioned
            id = sa.Column(sa.Integer, primary_key=True, autoincrement=False)
            title = sa.Column(sa.Text, nullable=False)
            body = sa.Column(sa.Text, nullable=False)
            rating = sa.Column(sa.Numeric(12, 3), nullable=False)
            at = sa.Column(sa.DateTime(timezone=True), nullable=False)
            n = sa.Column(sa.Integer, nullable=False)

        db.Model.registry.configure()
        self._user = User
        return Article

    def enter(self, kind: str) -> None:
        """Be in a request of a person who is signed in, or in none."""
        self.disconnect()
        self._context.pop()
        if kind == "single":
            self._context = self.app.test_request_context(
                "/articles/1", method="POST", environ_base={"REMOTE_ADDR": "127.0.0.1"}
            )
        else:
            self._context = self.app.app_context()
        self._context.push()
        if kind == "single":
            login_user(_Person())

    def create(self) -> None:
        self.db.create_all()
        self.maintain(f"INSERT INTO \"user\" VALUES ({ACTOR}, 'Person {ACTOR}')")

    def run(self, statements: Sequence[str]) -> None:
        try:
            for statement in statements:
                self.db.session.execute(sa.text(statement))
            self.db.session.commit()
        except sa.exc.DBAPIError:
            self.db.session.rollback()
            raise

    def server_process(self) -> int:
        connection = self.db.session.connection().connection.dbapi_connection
        self.db.session.rollback()  # it goes back to the pool, and is the next one to be taken
        return int(connection.info.backend_pid)

    def open(self, key: int) -> None:
        self._object = self.db.session.get(self.article, key)
        self.db.session.commit()

    def change(self, value: int) -> None:
        self._object.title, self._object.n = f"title {value}", value
        self.db.session.commit()

    def disconnect(self) -> None:
        self._object, self._clean = None, []
        self.db.session.remove()
        self.db.engine.dispose()

    def close(self) -> None:
        super().close()
        self._context.pop()

    def flush(self, clean: int, times: int) -> float | None:
        """Return the median of the seconds of flush and commit of one changed object."""
        if len(self._clean) != clean + 1:
            self.enter("single")
            self.reset(clean + 1)
            query = sa.select(self.article).order_by(self.article.id)
            self._clean = list(self.db.session.scalars(query))
            self.db.session.commit()
            gc.freeze()  # the collector would walk the objects at its own times
            for _ in range(PLANNED):
                self._flush_one()
        return statistics.median(self._flush_one() for _ in range(times))

    def _flush_one(self) -> float:
        self._clean[0].n += 1
        begin = time.perf_counter()
        self.db.session.flush()
        self.db.session.commit()
        return time.perf_counter() - begin


_CLAIMS = {
    "actor_id": str(ACTOR),
    "client_addr": "127.0.0.1",
    "method": "POST",
    "url": "http://localhost/articles/1",
    "request_id": "0" * 32,
}
"""What audit_app sends in the request of a single-row transaction."""


class Floor(FlaskWorker):
    """No trail, but the rows of one: what any trigger that writes them must pay."""

    trail = ("audit.activity", "audit.transaction")

    def create(self) -> None:
        super().create()
        logger = AuditLogger()
        logger.init(declarative_base())
        with self.db.engine.begin() as connection:
            logger.install(connection)
        columns = {
            table.name: ", ".join(column.name for column in table.columns if column.name != "id")
            for table in logger.trail.tables
        }
        self._insert = {
            name: f"INSERT INTO audit.{name} ({listed}) SELECT {listed} FROM ready_"
            for name, listed in columns.items()
        }

    def prepare(self, rows: int) -> None:
        """Keep the rows that audit_app's own triggers write, to write them again and again."""
        self.reset(rows)
        self.maintain(
            "DROP TABLE IF EXISTS ready_insert, ready_update, ready_delete, ready_transaction",
            f"SELECT audit.audit_table('{TABLE}')",
        )
        for verb, first in (("insert", rows + 1), ("update", 1), ("delete", 1)):
            self.maintain(*super().bulk_statements(verb, first, first + rows - 1))
            self.maintain(
                f"CREATE TABLE ready_{verb} AS SELECT * FROM audit.activity "
                f"WHERE verb = '{verb}' ORDER BY id",
                f"VACUUM ANALYZE ready_{verb}",
            )
        self.maintain(
            "CREATE TABLE ready_transaction AS SELECT * FROM audit.transaction LIMIT 1",
            "BEGIN",
            f"SELECT set_config('audit_app.context', '{json.dumps(_CLAIMS)}', true)",
            *super().bulk_statements("update", rows + 1, rows + 1),
            "COMMIT",
            "DROP TABLE IF EXISTS ready_one, ready_person",
            "CREATE TABLE ready_one AS SELECT * FROM audit.activity ORDER BY id DESC LIMIT 1",
            "CREATE TABLE ready_person AS SELECT * FROM audit.transaction ORDER BY id DESC LIMIT 1",
            "CREATE OR REPLACE FUNCTION floor_of_one() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$BEGIN {self._insert['transaction']}person; "
            f"{self._insert['activity']}one; RETURN NULL; END$$",
            f"SELECT audit.unaudit_table('{TABLE}')",
        )

    def enter(self, kind: str) -> None:
        super().enter(kind)
        self.maintain(f"DROP TRIGGER IF EXISTS floor ON {TABLE}")
        if kind == "single":
            # Its plans are kept as a trigger's are; two INSERTs of the client's would be planned
            # each time.
            self.maintain(
                f"CREATE TRIGGER floor AFTER UPDATE ON {TABLE} "
                "FOR EACH STATEMENT EXECUTE FUNCTION floor_of_one()"
            )

    def bulk_statements(self, verb: str, first: int, last: int) -> list[str]:
        statements = [
            *super().bulk_statements(verb, first, last),
            f"{self._insert['transaction']}transaction",
            f"{self._insert['activity']}{verb} LIMIT {last - first + 1}",
        ]
        return [";\n".join(statements)]  # one message, as a trigger costs none of its own


class AuditApp(FlaskWorker):
    """This package, as its README has it."""

    trail = ("audit.activity", "audit.transaction")
    actor_sql = (
        "SELECT t.actor_id FROM audit.activity AS a "
        "JOIN audit.transaction AS t ON t.id = a.transaction_id ORDER BY a.id DESC LIMIT 1"
    )

    def before_models(self) -> None:
        self.logger = AuditLogger(can_view=lambda actor: True)
        self.logger.init(self.db.Model)

    def after_models(self) -> None:
        self.logger.init_app(self.app)
        self.app.register_blueprint(audit_bp)

    def load(self, trail: fill.Size) -> None:
        fill.fill(self.maintenance, trail)

    def queries(self, trail: fill.Size) -> dict[str, str]:
        """Those of the pages, as the package itself makes them, and two that others share."""
        activity, transaction = self.logger.activity_cls, self.logger.transaction_cls
        since, until = trail.month
        month = Filters(actor_id=str(trail.actor), since=since, until=until)
        deep = sa.select(transaction.issued_at, transaction.id).where(
            transaction.id == trail.transactions - trail.deep // fill.PER_TRANSACTION
        )
        moment, number = self.db.session.execute(deep).one()
        cursor = Cursor(moment, number)
        record = history.record_page(activity, transaction, "public", TABLE, str(trail.record))
        changes = (
            sa.select(activity, transaction)
            .join(transaction, activity.transaction_id == transaction.id, isouter=True)
            .order_by(activity.id.desc())
            .limit(50)
        )
        older = changes.where(activity.id < trail.activities - trail.deep)
        count = (
            sa.select(sa.func.count())
            .join_from(transaction, activity, activity.transaction_id == transaction.id)
            .where(transaction.actor_id == str(trail.actor))
            .where(transaction.issued_at >= since, transaction.issued_at < until)
        )
        return {
            "record": _compiled(record),
            "actor": _compiled(selection.feed(activity, transaction, month)),
            "newest": _compiled(changes),
            "deep": _compiled(older),
            "feed": _compiled(selection.feed(activity, transaction, Filters())),
            "feed-deep": _compiled(selection.feed(activity, transaction, Filters(), before=cursor)),
            "count": _compiled(count),
        }

    def pages(self, trail: fill.Size, times: int) -> dict[str, list[float]] | None:
        since, until = trail.month
        middle = trail.transactions // 2
        pages = {
            "feed": "/audit/",
            "record": f"/audit/records/public/{TABLE}/{trail.record}",
            "actor": f"/audit/actors/{trail.actor}?from={since:%Y-%m-%d}&to={until:%Y-%m-%d}",
            "transaction": f"/audit/transactions/{middle}",
        }
        server = make_server("127.0.0.1", 0, self.app, threaded=True, request_handler=_Silent)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found = {}
        try:
            client = http.client.HTTPConnection("127.0.0.1", server.server_port)
            for name, path in pages.items():
                found[name] = [_get(client, path) for _ in range(times + 3)][3:]
        finally:
            server.shutdown()
        return found


class _Silent(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"  # the connection stays

    def log_request(self, *_: Any) -> None:
        """Say nothing."""


def _get(client: http.client.HTTPConnection, path: str) -> float:
    begin = time.perf_counter()
    client.request("GET", path)
    response = client.getresponse()
    response.read()
    taken = (time.perf_counter() - begin) * 1000
    if response.status != 200:
        raise RuntimeError(f"{path} answered {response.status}")
    return taken


def _compiled(query: sa.Select[Any]) -> str:
    dialect = postgresql.psycopg2.dialect()  # type: ignore[no-untyped-call]
    text = str(query.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
    return text.replace("%%", "%")  # no parameters are bound


_ACTOR_OF_ACTIVITY = (
    "SELECT t.actor_id::text FROM activity AS a "
    "JOIN transaction AS t ON t.id = a.transaction_id ORDER BY a.id DESC LIMIT 1"
)


class PostgreSQLAudit(FlaskWorker):
    """PostgreSQL-Audit by its Flask extension; the manager as the documentation has it."""

    trail = ("activity", "transaction")
    actor_sql = _ACTOR_OF_ACTIVITY
    is_statement = True

    def before_models(self) -> None:
        from postgresql_audit.flask import VersioningManager

        self.manager = VersioningManager(use_statement_level_triggers=self.is_statement)
        self.manager.init(self.db.Model)

    def create(self) -> None:
        with self.db.engine.begin() as connection:
            self.manager.transaction_cls.__table__.create(connection)
            self.manager.activity_cls.__table__.create(connection)
            self.db.metadata.create_all(connection)
        self.maintain(f"INSERT INTO \"user\" VALUES ({ACTOR}, 'Person {ACTOR}')")

    def load(self, trail: fill.Size) -> None:
        fill.load_activity_table(self.maintenance, trail, schema_column="schema_name", xid="xid8")

    def queries(self, trail: fill.Size) -> dict[str, str]:
        return _activity_queries(trail)


class PostgreSQLAuditRow(PostgreSQLAudit):
    """The same with its row-level triggers."""

    is_statement = False


class FlaskAuditLogger(FlaskWorker):
    """flask-audit-logger, made after the models as its README has it."""

    trail = ("activity", "transaction")
    actor_sql = _ACTOR_OF_ACTIVITY
    info: ClassVar[dict[str, Any]] = {"audit_logged": True}

    def after_models(self) -> None:
        from flask_audit_logger import AuditLogger as Peer

        self.logger = Peer(self.db)

    def create(self) -> None:
        # What its Alembic operations do.
        with self.db.engine.begin() as connection:
            connection.execute(self.logger.pg_btree_gist_extension.create_sql)
            self.db.metadata.create_all(connection)
            for function in self.logger.pg_functions:
                connection.execute(function.create_sql)
            for trigger in self.logger.pg_triggers:
                connection.execute(trigger.create_sql)
        self.maintain(f"INSERT INTO \"user\" VALUES ({ACTOR}, 'Person {ACTOR}')")

    def load(self, trail: fill.Size) -> None:
        # Its transactions differ in (number, the hour before): the constraint wants that.
        fill.load_activity_table(self.maintenance, trail, schema_column="schema", xid="bigint")

    def queries(self, trail: fill.Size) -> dict[str, str]:
        return _activity_queries(trail)


def _activity_queries(trail: fill.Size) -> dict[str, str]:
    """The reads of the two packages with one ``activity`` table.

    A record is found as PostgreSQL-Audit's documentation shows it, by ``Activity.data['id']``.
    """
    since, until = trail.month
    joined = "FROM activity AS a LEFT JOIN transaction AS t ON t.id = a.transaction_id"
    of_actor = (
        f"t.actor_id = {trail.actor} AND t.issued_at >= '{since:%Y-%m-%d}' "
        f"AND t.issued_at < '{until:%Y-%m-%d}'"
    )
    newest = "ORDER BY a.id DESC LIMIT 50"
    return {
        "record": f"SELECT a.*, t.* {joined} WHERE a.table_name = '{TABLE}' AND "
        f"CAST((a.old_data || a.changed_data) ->> 'id' AS int) = {trail.record} {newest}",
        "actor": f"SELECT a.*, t.* {joined} WHERE {of_actor} {newest}",
        "newest": f"SELECT a.*, t.* {joined} {newest}",
        "deep": f"SELECT a.*, t.* {joined} WHERE a.id < {trail.activities - trail.deep} {newest}",
        "count": f"SELECT count(*) {joined} WHERE {of_actor}",
    }


WORKERS = {
    "bare": FlaskWorker,
    "floor": Floor,
    "audit_app": AuditApp,
    "postgresql-audit": PostgreSQLAudit,
    "postgresql-audit-row": PostgreSQLAuditRow,
    "flask-audit-logger": FlaskAuditLogger,
}
