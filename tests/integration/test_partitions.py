"""Partitions of the trail: the tables, what makes them, a trail converted in use, the plans."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import declarative_base

from audit_app import AuditLogger, history, partitioning, selection
from audit_app.errors import ConfigurationError, PartitioningError
from tests.server import Server
from tests.trail import Trail
from tests.web.site import Site


def logger_by(period: str | None) -> AuditLogger:
    logger = AuditLogger(actor_cls=None, partition_by=period)
    logger.init(declarative_base())
    return logger


@contextmanager
def prepared(server: Server, period: str | None) -> Iterator[str]:
    """The name of a database to clone: a trail with a tracked table."""
    with server.database() as url:
        opened = Trail(url, logger_by(period))
        with opened.engine.begin() as connection:
            opened.logger.install(connection)
        opened.create("CREATE TABLE article (id int PRIMARY KEY, name text)", "article")
        opened.close()
        yield sa.make_url(url).database or ""


@pytest.fixture(scope="module")
def template(server: Server) -> Iterator[str]:
    with prepared(server, "month") as name:
        yield name


@pytest.fixture
def monthly(server: Server, template: str) -> Iterator[Trail]:
    """A trail by month with a tracked table."""
    with server.database(template) as url:
        opened = Trail(url, logger_by("month"))
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def plain_template(server: Server) -> Iterator[str]:
    with prepared(server, None) as name:
        yield name


@pytest.fixture
def plain(server: Server, plain_template: str) -> Iterator[Trail]:
    """A trail without partitions, with a tracked table."""
    with server.database(plain_template) as url:
        opened = Trail(url, logger_by(None))
        yield opened
        opened.close()


def application(opened: Trail, period: str | None) -> Flask:
    """An application over the database, which declares the table."""
    db: Any = SQLAlchemy()
    logger = AuditLogger(actor_cls=None, partition_by=period)
    logger.init(db.Model)

    class Article(db.Model):  # type: ignore[misc]
        __tablename__ = "article"
        __versioned__: ClassVar[dict[str, Any]] = {}
        id = db.Column(db.Integer, primary_key=True)
        name = db.Column(db.Text)

    app = Flask("shop")
    app.config["SQLALCHEMY_DATABASE_URI"] = opened.url
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {"poolclass": sa.NullPool}
    db.init_app(app)
    logger.init_app(app)
    app.extensions["model"] = Article  # a registry holds its classes weakly

    @app.route("/")
    def index() -> str:
        return "ok"

    return app


def run(app: Flask, *arguments: str) -> Any:
    return app.test_cli_runner().invoke(args=["audit", *arguments])


def findings(opened: Trail, period: str | None) -> list[tuple[str, str]]:
    app = application(opened, period)
    with app.app_context():
        found = app.extensions["audit_app"].check()
    return [(finding.code, finding.table) for finding in found]


def partitions(opened: Trail, parent: str = "activity") -> list[tuple[str, Any, Any]]:
    query = (
        "SELECT CAST(relation AS text), lower, upper FROM audit.partitions() "
        "WHERE parent = :parent AND NOT is_default"
    )
    with opened.engine.begin() as connection:
        return [tuple(row) for row in connection.execute(sa.text(query), {"parent": parent})]


def place_of(opened: Trail, key: str) -> list[str]:
    """The partitions that hold the activities of a record, in the order of their ids."""
    query = (
        "SELECT array_agg(CAST(CAST(tableoid AS regclass) AS text) ORDER BY id) "
        "FROM audit.activity WHERE object_id = :key"
    )
    return opened.value(query, key=key) or []


def month_of(moment: datetime, later: int = 0) -> datetime:
    number = moment.year * 12 + moment.month - 1 + later
    return datetime(number // 12, number % 12 + 1, 1, tzinfo=UTC)


def forget(opened: Trail, *names: str) -> None:
    """Drop partitions, as if nobody had ever made them."""
    opened.run(*(f"DROP TABLE {name}" for name in names))


SLACK = 1.0
"""Seconds that a loaded machine may add to what a writer waits for a lock."""


class Writer(threading.Thread):
    """Writes a row in two statements, again and again, and keeps what took the longest."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url, self.stop = url, threading.Event()
        self.count, self.longest = 0, 0.0
        self.error: Exception | None = None

    def run(self) -> None:
        opened = Trail(self.url)
        try:
            while not self.stop.is_set():
                began = time.monotonic()
                with opened.engine.begin() as connection:
                    for statement in (
                        "INSERT INTO article VALUES (:id, 'x')",
                        "UPDATE article SET name = 'y' WHERE id = :id",
                    ):
                        connection.execute(sa.text(statement), {"id": 1000 + self.count})
                self.longest = max(self.longest, time.monotonic() - began)
                self.count += 1
        except Exception as error:  # noqa: BLE001 - what it was is told to the test
            self.error = error
        finally:
            opened.close()

    def __enter__(self) -> Writer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.join()


# -- Made ahead ----------------------------------------------------------------------------------


def test_a_period_that_is_none() -> None:
    with pytest.raises(ConfigurationError, match="'year' is no period: use 'month', 'week'"):
        AuditLogger(partition_by="year")


def test_a_new_trail_has_its_partitions(monthly: Trail) -> None:
    now = datetime.now(UTC)
    wanted = [
        (f"audit.activity_p{start:%Y_%m}", start, month_of(start, 1))
        for start in (month_of(now, later) for later in range(4))
    ]
    assert partitions(monthly) == wanted
    with monthly.logger.context(actor_id="ada"):
        monthly.run("INSERT INTO article VALUES (1, 'a')", "UPDATE article SET name = 'b'")
    assert place_of(monthly, "1") == [wanted[0][0]] * 2
    assert [(c.verb, c.actor) for c in monthly.changes()] == [("insert", "ada"), ("update", "ada")]
    with sa.orm.Session(monthly.engine) as session:
        found = session.get(monthly.logger.activity_cls, 1)
        assert found is not None
        assert found.transaction.actor_id == "ada"
    assert findings(monthly, "month") == []


def test_weeks_are_those_of_the_calendar_in_utc(plain: Trail) -> None:
    partitioning.convert(plain.engine, plain.logger.trail, "week")
    (_first, _lower, bound), *others = partitions(plain)
    assert bound.astimezone(UTC).isocalendar().weekday == 1
    for name, lower, upper in others:
        year, week, day = lower.astimezone(UTC).isocalendar()
        assert (name, day) == (f"audit.activity_p{year}_w{week:02}", 1)
        assert upper - lower == timedelta(days=7)
    # 2026 has 53 weeks, and the last one ends in 2027.
    name = plain.value("SELECT audit.partition_name('activity', 'week', '2026-12-28 00:00+00')")
    assert name == "activity_p2026_w53"


def test_maintenance_makes_what_is_missing_and_moves_what_is_in_the_default(monthly: Trail) -> None:
    app = application(monthly, "month")
    (this, next_), old = partitions(monthly)[:2], "2020-02-29 12:00+00"
    forget(monthly, this[0], next_[0])
    monthly.run("INSERT INTO article VALUES (1, 'a')")
    # As an import brings old rows.
    monthly.run(
        "INSERT INTO audit.activity (transaction_id, native_transaction_id, issued_at, relid, "
        "depth, schema_name, table_name, verb, object_id) "
        f"SELECT 0, pg_current_xact_id(), CAST('{old}' AS timestamptz) + n * interval '1 day', 0, "
        "1, 'public', 'article', 'update', '1' FROM generate_series(0, 1) AS n"
    )
    assert place_of(monthly, "1") == ["audit.activity_default"] * 3
    assert set(findings(monthly, "month")) == {
        ("next_partition", "audit.activity"),
        ("default_rows", "audit.activity_default"),
    }
    # What is to come has its partitions at once; what is over is moved.
    done = partitioning.maintain(
        monthly.engine, monthly.logger.trail, ahead=4, margin=timedelta(seconds=1)
    ).as_dict()
    assert len(done["made"]) == 4  # this month's for activity, next month's, and two fourth ones
    assert done["moved"] == (
        {"table": "activity", "partition": "audit.activity_p2020_02", "rows": 1},
        {"table": "activity", "partition": "audit.activity_p2020_03", "rows": 1},
    )
    assert place_of(monthly, "1") == [
        "audit.activity_default", "audit.activity_p2020_02", "audit.activity_p2020_03",
    ]  # fmt: skip
    # The marks of the moving are in the default partition, too: the new one begins a moment later.
    begin = next(p[1] for p in partitions(monthly) if p[0] == this[0])
    time.sleep(max(0, (begin - datetime.now(UTC)).total_seconds()) + 0.1)
    monthly.run("INSERT INTO article VALUES (2, 'b')")
    assert place_of(monthly, "2") == [this[0]]
    result = run(app, "maintain")
    assert result.output == f"{this[0]}_2: 3 rows moved\n"
    assert place_of(monthly, "1")[0] == f"{this[0]}_2"
    assert run(app, "maintain").output == "Nothing was to be done.\n"
    assert findings(monthly, "month") == []
    marks = [c for c in monthly.changes() if c.verb == "partition"]
    assert [m.changed["rows"] for m in marks] == [1, 1, 3]
    with pytest.raises(sa.exc.ProgrammingError, match="append-only"):
        monthly.run("DELETE FROM audit.activity_default")


def test_an_application_makes_the_partitions_that_were_forgotten(monthly: Trail) -> None:
    app = application(monthly, "month")
    (this, next_) = partitions(monthly)[:2]
    forget(monthly, *(name for name, _, _ in partitions(monthly)))
    forget(monthly, *(name for name, _, _ in partitions(monthly, "transaction")))
    monthly.run("INSERT INTO article VALUES (1, 'a')")  # nothing fails
    client = app.test_client()
    reader = "LOCK TABLE audit.activity_default IN ACCESS SHARE MODE"
    with monthly.engine.begin() as connection:
        connection.execute(sa.text(reader))
        began = time.monotonic()
        assert client.get("/").status_code == 200  # in vain, and nobody is told
        assert time.monotonic() - began < 3
        assert partitions(monthly) == []
    assert client.get("/").status_code == 200  # too early for another look
    assert partitions(monthly) == []
    assert application(monthly, "month").test_client().get("/").status_code == 200
    assert [name for name, _, _ in partitions(monthly)] == [this[0], next_[0]]


def test_a_writer_may_have_the_next_partitions_made_and_no_others(
    server: Server, monthly: Trail
) -> None:
    role = f"audit_test_{server.name}_part"
    server.execute(f"DROP ROLE IF EXISTS {role}; CREATE ROLE {role} LOGIN PASSWORD 'secret'")
    try:
        monthly.run(f"GRANT SELECT, INSERT ON article TO {role}")
        app = application(monthly, "month")
        assert run(app, "grant", "--role", role).exit_code == 0
        next_ = partitions(monthly)[1]
        forget(monthly, next_[0])
        url = sa.make_url(monthly.url).set(username=role, password="secret")
        writer = Trail(url.render_as_string(hide_password=False))
        assert writer.value("SELECT audit.keep_partitions()") == 1
        assert next_ in partitions(monthly)
        assert writer.value("SELECT audit.keep_partitions()") == 0
        for call in ("extend_partitions()", "empty_default('activity')", "partitions()"):
            with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
                writer.run(f"SELECT audit.{call}")
        writer.close()
        owner = monthly.value(
            "SELECT tableowner FROM pg_tables WHERE schemaname = 'audit' AND tablename = :name",
            name=next_[0].removeprefix("audit."),
        )
        assert owner not in {None, role}
        assert findings(monthly, "month") == []
    finally:
        monthly.run(f"DROP OWNED BY {role}")
        server.execute(f"DROP ROLE {role}")


def test_a_partition_is_append_only(monthly: Trail) -> None:
    monthly.run("INSERT INTO article VALUES (1, 'a')")
    this = partitions(monthly)[0][0]
    for statement in ("UPDATE {} SET verb = 'x'", "DELETE FROM {}", "TRUNCATE {}"):
        for table in (this, "audit.activity_default", "audit.activity"):
            with pytest.raises(sa.exc.ProgrammingError, match="append-only"):
                monthly.run(statement.format(table))
    monthly.run(f"ALTER TABLE {this} DISABLE TRIGGER append_only")
    assert findings(monthly, "month") == [("append_only", this)]
    assert run(application(monthly, "month"), "check", "--fix").exit_code == 0
    assert findings(monthly, "month") == []


def test_an_index_of_all_partitions_is_made_again(monthly: Trail) -> None:
    monthly.run("DROP INDEX audit.activity_object_idx")
    assert findings(monthly, "month") == [("index", "audit.activity")]
    result = run(application(monthly, "month"), "check", "--fix")
    assert result.exit_code == 0, result.output
    assert findings(monthly, "month") == []
    is_valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)"
    assert monthly.value(is_valid, name="audit.activity_object_idx")


def test_writers_go_on_while_partitions_are_made(monthly: Trail) -> None:
    last = partitions(monthly)[-1]
    forget(monthly, last[0])
    made: list[Any] = []

    def maintain() -> None:
        made.append(partitioning.maintain(monthly.engine, monthly.logger.trail))

    with Writer(monthly.url) as writer:
        with monthly.engine.begin() as reader:
            # Whoever reads the whole trail holds the default partition, which attaching needs.
            reader.execute(sa.text("SELECT count(*) FROM audit.activity"))
            maintenance = threading.Thread(target=maintain)
            maintenance.start()
            maintenance.join(1.0)
            assert maintenance.is_alive()
        maintenance.join(20)
    assert made[0].made == (last[0],)
    assert writer.error is None
    assert writer.count > 3
    assert writer.longest < 0.2 + SLACK


def test_two_who_maintain_take_turns(monthly: Trail) -> None:
    made: list[Any] = []

    def maintain() -> None:
        made.append(partitioning.maintain(monthly.engine, monthly.logger.trail, ahead=4))

    with monthly.engine.begin() as connection:
        connection.execute(sa.text("SELECT audit.extend_partitions(4)"))
        other = threading.Thread(target=maintain)
        other.start()
        other.join(0.4)
        assert other.is_alive()
    other.join(20)
    assert made == [partitioning.Maintenance()]


# -- Converting ----------------------------------------------------------------------------------


def test_a_trail_in_use_is_converted_while_it_is_written(plain: Trail) -> None:
    plain.run("INSERT INTO article SELECT n, 'a' FROM generate_series(1, 500) AS n")
    plain.run("COMMENT ON COLUMN audit.activity.verb IS 'what'")
    app = application(plain, "month")
    assert ("partitioning", "audit.activity") in findings(plain, "month")
    with Writer(plain.url) as writer:
        while writer.count < 3:
            time.sleep(0.01)
        result = run(app, "partition", "--by", "month")
        assert result.exit_code == 0, result.output
        before = writer.count
        while writer.count < before + 3 and writer.is_alive():
            time.sleep(0.01)
    assert writer.error is None
    assert writer.longest < 0.2 + SLACK
    written = 500 + 2 * writer.count
    assert plain.value("SELECT count(*) FROM audit.activity") == written
    assert plain.value("SELECT count(DISTINCT id) FROM audit.activity") == written
    assert plain.value("SELECT col_description(CAST('audit.activity' AS regclass), attnum) "
                       "FROM pg_attribute WHERE attrelid = CAST('audit.activity' AS regclass) "
                       "AND attname = 'verb'") == "what"  # fmt: skip
    assert findings(plain, "month") == []
    first = partitions(plain)[0]
    assert first[1] is None
    assert first[2] >= datetime.now(UTC) + timedelta(days=7)
    # Again, there is nothing to do.
    assert run(app, "partition").output == "The trail is partitioned by month.\n"
    assert json.loads(run(app, "maintain", "--json").output) == {"made": [], "moved": []}


@pytest.mark.parametrize("step", ["VALIDATE", "CREATE UNIQUE", "partition_table"])
def test_a_conversion_that_is_interrupted(plain: Trail, step: str) -> None:
    plain.run("INSERT INTO article VALUES (1, 'a')")
    engine = sa.create_engine(plain.url, poolclass=sa.NullPool)

    @sa.event.listens_for(engine, "before_cursor_execute")
    def interrupt(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if step in statement and "activity" in str(_[0] or statement):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        partitioning.convert(engine, plain.logger.trail, "month")
    engine.dispose()
    plain.run("INSERT INTO article VALUES (2, 'b')")
    assert not plain.value("SELECT count(*) FROM pg_constraint WHERE conname LIKE '%_bound'")
    partitioning.convert(plain.engine, plain.logger.trail, "month")
    plain.run("INSERT INTO article VALUES (3, 'c')")
    assert [c.object_id for c in plain.changes()] == ["1", "2", "3"]
    assert findings(plain, "month") == []


def test_a_bound_that_a_killed_conversion_left_is_named_and_lifted(plain: Trail) -> None:
    plain.run("SELECT audit.bound_table('activity', 'month', now() + interval '2 days')")
    assert ("conversion", "audit.activity") in findings(plain, None)
    plain.run("SELECT audit.keep_partitions()")
    assert findings(plain, None) == []


def test_what_depends_on_the_trail_stops_a_conversion(plain: Trail) -> None:
    plain.run("CREATE VIEW newest AS SELECT max(id) FROM audit.activity")
    with pytest.raises(PartitioningError, match="rule _RETURN on view public.newest"):
        partitioning.convert(plain.engine, plain.logger.trail, "month")
    plain.run("INSERT INTO article VALUES (1, 'a')", "DROP VIEW newest")
    partitioning.convert(plain.engine, plain.logger.trail, "month")
    assert findings(plain, "month") == []


def test_the_history_is_split(plain: Trail) -> None:
    plain.run(
        "INSERT INTO audit.activity (transaction_id, native_transaction_id, issued_at, relid, "
        "depth, schema_name, table_name, verb, object_id) "
        "SELECT 0, pg_current_xact_id(), n, 0, 1, 'public', 'article', 'update', '1' "
        "FROM generate_series(CAST('2024-12-30 00:00+00' AS timestamptz), "
        "'2025-03-02 00:00+00', interval '6 hours') AS n"
    )
    rows = plain.value("SELECT count(*) FROM audit.activity")
    bound = datetime.now(UTC) + timedelta(seconds=2)
    partitioning.convert(plain.engine, plain.logger.trail, "month", bound=bound)
    app = application(plain, "month")
    early = run(app, "partition", "--split")
    assert (early.exit_code, "is added to until" in early.output) == (2, True)
    time.sleep(max(0, (bound - datetime.now(UTC)).total_seconds()) + 0.05)
    plain.run("SELECT audit.split_history('activity')")  # and then it was interrupted
    assert ("split", "audit.activity_p2024_12") in findings(plain, "month")
    with pytest.raises(sa.exc.DBAPIError, match="is being split"):
        plain.run("SELECT audit.evolve('rename_table', 'public', 'article', "
                  "CAST('{\"schema\": \"public\", \"table\": \"x\"}' AS jsonb))")  # fmt: skip
    # Old rows come in after their part was copied.
    plain.run(
        "INSERT INTO audit.activity (transaction_id, native_transaction_id, issued_at, relid, "
        "depth, schema_name, table_name, verb, object_id) VALUES "
        "(0, pg_current_xact_id(), '2024-12-31 00:00+00', 0, 1, 'public', 'article', 'update', '1')"
    )
    result = run(app, "partition", "--split")
    assert result.exit_code == 0, result.output
    assert "rows came into the history meanwhile" in result.output
    names = [name for name, _, _ in partitions(plain)]
    assert names[:4] == [
        f"audit.activity_p{m}" for m in ("2024_12", "2025_01", "2025_02", "2025_03")
    ]
    assert plain.value("SELECT count(*) FROM audit.activity WHERE verb = 'update'") == rows + 1
    assert plain.value("SELECT count(*) FROM audit.activity_p2025_01") == 31 * 4
    assert findings(plain, "month") == []
    assert run(app, "partition", "--split").output == "There is nothing to split.\n"


# -- Reading -------------------------------------------------------------------------------------


OLD = """
DO $do$
DECLARE
    _lower timestamptz;
    _parent text;
BEGIN
    FOR _step IN 1..23 LOOP
        _lower := audit.period_start('month', now(), -_step);
        FOREACH _parent IN ARRAY ARRAY['transaction', 'activity'] LOOP
            PERFORM audit.attach_table(
                _parent,
                audit.make_table(_parent, audit.partition_name(_parent, 'month', _lower)),
                _lower, audit.period_start('month', _lower, 1)
            );
        END LOOP;
    END LOOP;
END
$do$;
INSERT INTO audit.transaction
    (native_transaction_id, issued_at, actor_id, session_user_name, role_name)
SELECT '1', now() - n * interval '10 hours', n % 20, 'a', 'b' FROM generate_series(1, 1600) AS n;
INSERT INTO audit.activity
    (transaction_id, native_transaction_id, issued_at, relid, depth, schema_name, table_name,
     verb, object_id)
SELECT t.id, '1', t.issued_at, 0, 1, 'public', 'article', 'update', t.id % 50
FROM audit.transaction AS t;
ANALYZE audit.transaction;
ANALYZE audit.activity;
"""


@pytest.fixture(scope="module")
def old_template(server: Server, template: str) -> Iterator[str]:
    """A database to clone: a trail of 24 months, with some rows in each."""
    with server.database(template) as url:
        opened = Trail(url, logger_by("month"))
        opened.script(OLD)
        opened.close()
        yield sa.make_url(url).database or ""


@pytest.fixture
def old(server: Server, old_template: str) -> Iterator[Trail]:
    """A trail of 24 months, with some rows in each."""
    with server.database(old_template) as url:
        opened = Trail(url, logger_by("month"))
        yield opened
        opened.close()


def plan_of(opened: Trail, query: sa.Select[Any]) -> str:
    text = query.compile(
        dialect=sa.dialects.postgresql.dialect(),  # type: ignore[no-untyped-call]
        compile_kwargs={"literal_binds": True},
    )
    with opened.engine.connect() as connection:
        # The question is whether there is a way without them; that of so few rows would be another.
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        connection.exec_driver_sql("SET LOCAL enable_bitmapscan = off")
        lines = connection.exec_driver_sql(
            f"EXPLAIN {text}", execution_options={"no_parameters": True}
        )
        return "\n".join(lines.scalars())


def test_the_main_queries_use_the_indexes_of_all_partitions(old: Trail) -> None:
    activity, transaction = old.logger.activity_cls, old.logger.transaction_cls
    since = month_of(datetime.now(UTC), -5)
    month = selection.Filters(actor_id="7", since=since, until=month_of(since, 1))
    queries = {
        "activity": history.activity_by_id(activity, transaction, 5, large=1000),
        "transaction": history.transaction_by_id(transaction, 5),
        "its activities": selection.of_transaction(activity, transaction, 5),
        "feed": selection.feed(activity, transaction, selection.Filters()),
        "actor": selection.feed(activity, transaction, month),
        "record": history.record_page(activity, transaction, "public", "article", "7"),
    }
    for name, query in queries.items():
        plan = plan_of(old, query)
        assert "Seq Scan" not in plan, (name, plan)
        if name == "feed":
            assert "Merge Append" in plan, plan
            # What is sorted is the page.
            assert "Sort  (" not in plan.replace("Incremental Sort  (", ""), plan
    # A month needs its own partition, and the default one.
    plan = plan_of(old, queries["actor"])
    assert f"transaction_p{since:%Y_%m}" in plan
    assert f"transaction_p{month_of(since, 1):%Y_%m}" not in plan


def test_what_a_transaction_remembers_is_looked_for_in_one_partition(old: Trail) -> None:
    # As the functions ask, whose plans are made once for all partitions.
    old.run("INSERT INTO article VALUES (1, 'a')")
    for name, condition in {
        "transaction_id": "FROM audit.transaction AS t WHERE t.ctid = $1 "
        "AND t.issued_at = transaction_timestamp()",
        "refuse": "FROM audit.activity AS t WHERE t.ctid = $1 "
        "AND t.issued_at >= transaction_timestamp()",
    }.items():
        with old.engine.connect() as connection:
            connection.exec_driver_sql("SET LOCAL plan_cache_mode = force_generic_plan")
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")  # as they have it
            connection.exec_driver_sql(f"PREPARE {name} (tid) AS SELECT t.id {condition}")
            lines = connection.exec_driver_sql(
                f"EXPLAIN (ANALYZE, COSTS OFF) EXECUTE {name} ('(0,1)')"
            )
            plan = "\n".join(lines.scalars())
        assert plan.count("Tid Scan") == {"transaction_id": 1, "refuse": 5}[name], plan
        assert "Subplans Removed" in plan


def test_rows_at_the_same_place_of_two_partitions_are_not_confused(old: Trail) -> None:
    """The first row of each partition has the same ctid: a memo and a mark name one of them."""
    suspended = (
        "SELECT audit.suspend('maintenance')", "INSERT INTO article VALUES (1, 'a')",
        "UPDATE article SET name = 'b'",
    )  # fmt: skip
    with old.engine.begin() as connection:
        for statement in suspended:
            connection.execute(sa.text(statement))
    with old.engine.begin() as connection:
        for number in range(3):
            connection.execute(sa.text(f"INSERT INTO article VALUES (1{number}, 'a')"))
    found = old.value(
        "SELECT array_agg(DISTINCT transaction_id) FROM audit.activity WHERE object_id LIKE '1_' "
        "AND verb = 'insert' AND relid <> 0"
    )
    assert len(found) == 1
    changes = [c for c in old.changes() if c.table == "article" and c.verb == "insert"]
    assert [c.object_id for c in changes] == ["10", "11", "12"]


ADDRESSES = ("", "records/public/article/1", "activities/1", "transactions/1", "tables/")


def told(value: Any) -> Any:
    """What a page tells, without the moments, sizes and numbers of this database."""
    if isinstance(value, dict):
        left_out = {"bytes", "client_addr", "last_change", "request_id", "native_transaction_id"}
        return {k: told(v) for k, v in value.items() if k not in left_out and "_at" not in k}
    return [told(item) for item in value] if isinstance(value, list) else value


def story_of(site: Site) -> dict[str, Any]:
    """What is written, and what the pages and queries say of it."""
    site.write("INSERT INTO article (title) VALUES ('a'), ('b')", actor="1", label="Ada")
    site.write("UPDATE article SET title = 'c' WHERE id = 1", actor="2", reason="why")
    before = datetime.now(UTC)
    site.write("DELETE FROM article WHERE id = 2", actor="1")
    site.add_transactions("2020-01-01 00:00+00", rows=2)
    found: dict[str, Any] = {}
    for address in ADDRESSES:
        answer = site.client.get(f"/audit/{address}", headers={"Accept": "application/json"})
        found[address] = (answer.status_code, told(answer.json))
        assert site.client.get(f"/audit/{address}").status_code == 200
    exported = site.client.get("/audit/export.ndjson")
    found["export"] = (exported.status_code, exported.text.count("\n"))
    with site.app.app_context():
        row = site.logger.as_of(site.Article, before)
        found["as_of"] = sorted(site.db.session.scalars(sa.select(row.c.title)))
        versions = site.db.session.execute(site.logger.versions(site.Article, 1))
        found["versions"] = [(v.number, v.verb, v.actor_id) for v in versions]
    checked = site.app.test_cli_runner().invoke(args=["audit", "check"])
    found["check"] = checked.output
    return found


def test_pages_exports_and_the_past_are_the_same(server: Server) -> None:
    stories = []
    for period in (None, "month"):
        with server.database() as url:
            site = Site(url, partition_by=period)
            stories.append(story_of(site))
            site.close()
    plain, partitioned = stories
    assert [plain[name][0] for name in (*ADDRESSES, "export")] == [200] * 6
    # The old rows have no partition of their own yet, which is told and is all that is.
    assert "activity_default" in partitioned.pop("check")
    assert plain.pop("check") == "Everything is as it should be.\n"
    plain.pop("tables/"), partitioned.pop("tables/")
    assert partitioned == plain
