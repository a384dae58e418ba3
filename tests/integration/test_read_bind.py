"""The pages on a real streaming standby: what they read there, and what becomes of them without."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from werkzeug.test import TestResponse

from audit_app import AuditLogger
from audit_app.admin import source
from audit_app.errors import ConfigurationError, ReaderAwayError, UnsupportedDatabaseError
from tests import standby
from tests.web import shop
from tests.web.site import Page, Site
from tests.web.test_admin_restoring import fields_of

pytestmark = pytest.mark.xdist_group("standby")  # it is made once

JSON = {"Accept": "application/json"}
ROLE = "audit_reader_only"


@pytest.fixture(scope="module")
def pair() -> Iterator[standby.Pair]:
    with standby.running() as running:
        yield running


@pytest.fixture(scope="module")
def replicated(pair: standby.Pair) -> Iterator[Site]:
    """A site whose pages read from the standby, with something to read."""

    def extend(db: Any) -> Any:
        class Draft(db.Model):  # type: ignore[misc]
            __versioned__: dict[str, Any] = {}  # noqa: RUF012
            __table_args__ = {"prefixes": ["UNLOGGED"]}  # noqa: RUF012
            id = sa.Column(sa.Integer, primary_key=True)
            name = sa.Column(sa.Text)

        return shop.models(db), Draft

    with pair.primary.database() as url:
        database = sa.make_url(url).database or ""
        site = Site(
            url,
            extend=extend,
            can_restore=lambda actor: True,
            AUDIT_READ_BIND="replica",
            SQLALCHEMY_BINDS={"replica": pair.url_of(database)},
        )
        site.write(
            "CREATE TABLE scratch (id int)",
            "INSERT INTO customer VALUES (1, 'C-1', 'Carla')",
            "INSERT INTO \"order\" VALUES (7, 'north', 1, 'urgent', 'C-1')",
            "INSERT INTO line VALUES (1, 7, 'tea')",
            "INSERT INTO article (id, title, price) VALUES (1, 'one', 9.90)",
            "INSERT INTO draft VALUES (1, 'draft')",
            actor="7", label="Ada", reason="a start",
        )  # fmt: skip
        site.write("UPDATE article SET title = 'two'", actor="8", label="Ben")
        site.write("DELETE FROM line", actor="8", label="Ben")
        pair.catch_up()
        yield site
        with site.app.app_context():
            site.db.engines["replica"].dispose()
        site.close()


@pytest.fixture
def site(replicated: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """The same site for one test: without cookies, with listeners that end with the test."""
    replicated.client = replicated.app.test_client()
    listeners: list[tuple[Any, ...]] = []
    listen = sa.event.listen

    def note(*arguments: Any, **options: Any) -> None:
        listeners.append(arguments)
        listen(*arguments, **options)

    monkeypatch.setattr(sa.event, "listen", note)
    yield replicated
    for arguments in listeners:
        if sa.event.contains(*arguments):
            sa.event.remove(*arguments)


def reader(site: Site) -> sa.Engine:
    with site.app.app_context():
        engine: sa.Engine = site.db.engines["replica"]
    return engine


def database_of(site: Site) -> str:
    return site.engine.url.database or ""


def foot(page: Page) -> str:
    """What a page says of where it was read from."""
    return " ".join(" ".join(n.text for n in page.all("p", "au-source")).split())


def statements(engine: sa.Engine) -> list[str]:
    found: list[str] = []
    sa.event.listen(
        engine, "before_cursor_execute", lambda _c, _cursor, statement, *_: found.append(statement)
    )
    return found


# -- Reading --------------------------------------------------------------------------------------

PAGES = (
    "", "?table=article&verb=update", "?field=title&value=two", "?reason=start", "?period=24h",
    "?actor=Ben", "actors/", "actors/8", "activities/{article}", "transactions/{transaction}",
    "records/public/article/1", "records/public/order/7", "records/public/article/1?field=title",
    "records/public/article/1?at=2100-01-01", "versions/{article}", "search/?q=two",
    "compare/public/article/1", "compare/public/article/1?from={article}&to=now",
    "compare/public/order/7?to=now", "compare/public/draft/1?to=now", "tables/",
)  # fmt: skip


def address(site: Site, path: str) -> str:
    ids = {"article": site.activity_id("article"), "transaction": 1}
    return "/audit/" + path.format(**ids)


def test_every_page_is_read_from_the_standby(site: Site) -> None:
    """And from nowhere else: the primary is not asked."""
    found = {path: address(site, path) for path in PAGES}
    written = statements(site.engine)
    read = statements(reader(site))
    for path, url in found.items():
        read.clear()
        page = site.get(url)
        assert page.headers["Audit-Read-From"] == "replica", path
        assert foot(page) == "Read from a replica, 0 seconds behind.", path
        assert read, path
    answer = site.client.get("/audit/", headers=JSON)
    assert answer.headers["Audit-Read-From"] == "replica"
    assert float(answer.headers["Audit-Read-Lag"]) < 1
    assert written == []


def test_what_the_pages_say_is_all_there(site: Site) -> None:
    """Labels of foreign keys, the present row and related records are the standby's, too."""
    assert "Carla" in site.get("/audit/records/public/order/7").words
    assert "tea" in site.get("/audit/records/public/order/7").words
    compared = site.get("/audit/compare/public/article/1?to=now").words
    assert "could not be read" not in compared
    assert "Everything is as it should be." in site.get("/audit/tables/").words


def test_a_table_that_is_not_replicated_is_told_by_its_last_state(site: Site) -> None:
    page = site.get("/audit/compare/public/draft/1?to=now")
    assert "The present row could not be read" in page.words


@pytest.mark.parametrize("kind", ["csv", "json", "ndjson"])
def test_an_export_is_read_there_and_recorded_on_the_primary(site: Site, kind: str) -> None:
    marks = "SELECT count(*) FROM audit.activity WHERE verb = 'export'"
    before = site.scalar(marks)
    read = statements(reader(site))
    answer = site.client.get(f"/audit/export.{kind}?table=article")
    assert answer.status_code == 200
    assert "two" in answer.text
    assert answer.headers["Audit-Read-From"] == "replica"
    assert any("FROM audit.activity" in statement for statement in read)
    assert not any("record_export" in statement for statement in read)
    assert site.scalar(marks) == before + 2


def test_one_query_more_is_all_that_a_page_costs(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, written = statements(reader(site)), statements(site.engine)
    for path in ("/audit/", "/audit/actors/8", "/audit/tables/"):
        read.clear()
        site.get(path)
        with monkeypatch.context() as patch:
            patch.setitem(site.app.config, "AUDIT_READ_BIND", None)
            written.clear()
            page = site.get(path)
        assert foot(page) == ""
        assert "Audit-Read-From" not in page.headers
        assert len(read) == len(written) + 1, path
        assert not any("pg_is_in_recovery" in statement for statement in written)


def test_the_reader_is_in_nobodys_way(site: Site, pair: standby.Pair) -> None:
    site.get("/audit/")
    leftover = (
        "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in%' "
        f"AND datname = '{database_of(site)}'"
    )
    assert pair.ask(leftover) == 0


# -- The lag --------------------------------------------------------------------------------------


def test_an_idle_primary_makes_no_lag(site: Site, pair: standby.Pair) -> None:
    site.write("UPDATE article SET price = price + 1", actor="8")
    pair.catch_up()
    time.sleep(1.1)
    assert foot(site.get("/audit/")) == "Read from a replica, 0 seconds behind."


def test_a_standby_that_lags_says_how_far(site: Site, pair: standby.Pair) -> None:
    site.write("UPDATE article SET price = price + 1", actor="8")
    pair.catch_up()
    with pair.paused():
        id_ = site.write("UPDATE article SET price = price + 1", actor="8", label="Ben")
        pair.until("SELECT pg_last_wal_receive_lsn() > pg_last_wal_replay_lsn()")
        time.sleep(1.1)
        page = site.get("/audit/")
        assert f"/audit/transactions/{id_}" not in page.hrefs
        assert float(page.headers["Audit-Read-Lag"]) > 1
        assert "second" in foot(page)
        assert foot(page) != "Read from a replica, 0 seconds behind."
        # What is not there yet may have a reason, and that stands beside it.
        missing = site.get(f"/audit/transactions/{id_}", status=404)
        assert foot(missing).startswith("Read from a replica, ")
    pair.catch_up()
    assert f"/audit/transactions/{id_}" in site.get("/audit/").hrefs


def test_a_standby_that_is_cut_off_does_not_claim_to_be_up_to_date(
    site: Site, pair: standby.Pair
) -> None:
    try:
        pair.cut_off()
        page = site.get("/audit/")
        assert "cut off from its primary" in foot(page)
        assert float(page.headers["Audit-Read-Lag"]) > 0
    finally:
        pair.connect()


def test_long_lags_are_told_in_minutes_and_hours(site: Site) -> None:
    with site.app.test_request_context():
        spans = {1: "1 second", 119.9: "119 seconds", 120: "2 minutes", 7200: "2 hours"}
        assert {seconds: source.duration_text(seconds) for seconds in spans} == spans


# -- Writing --------------------------------------------------------------------------------------


def test_what_is_restored_is_planned_from_the_primary_and_then_seen(
    site: Site, pair: standby.Pair
) -> None:
    site.write("INSERT INTO rate VALUES ('GB', 'GBP', 1)", actor="7")
    version = site.activity_id("rate", "insert")
    site.write("UPDATE rate SET value = 2", actor="8")
    pair.catch_up()
    with pair.paused():
        site.write("UPDATE rate SET value = 3", actor="8")  # the standby does not know of it
        read = statements(reader(site))
        page = site.get(f"/audit/restore/{version}")
        assert "3" in page.one("main").text
        answer = site.client.post(
            f"/audit/restore/{version}", data={**fields_of(page), "reason": "By mistake"}
        )
        assert answer.status_code == 303, answer.text
        assert read == []
        assert site.scalar("SELECT value FROM rate") == 1
        # Whoever has written sees what they wrote; others see the standby.
        own = site.get(answer.location)
        assert foot(own) == "Read from the primary, because you have just changed something."
        assert own.headers["Audit-Read-From"] == "primary"
        assert site.app.test_client().get(answer.location).status_code == 404


def test_it_ends_after_a_while(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    with site.client.session_transaction() as cookie:
        cookie["audit_wrote"] = int(time.time()) - source.PINNED + 30
    assert site.get("/audit/").headers["Audit-Read-From"] == "primary"
    with site.client.session_transaction() as cookie:
        cookie["audit_wrote"] = int(time.time()) - source.PINNED - 1
    assert site.get("/audit/").headers["Audit-Read-From"] == "replica"


# -- When it goes wrong ---------------------------------------------------------------------------


def disturb(
    site: Site, part: str, disturbance: Callable[[Any], str | None], times: int
) -> list[str]:
    """Do something to the reader when it is about to execute a statement that holds ``part``.

    :param disturbance: gets the driver's connection, and may return what to wrap the query in.
    :return: the statements that were disturbed, so far.
    """
    disturbed: list[str] = []

    def before(
        _connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any
    ) -> tuple[str, Any]:
        if part in statement and len(disturbed) < times:
            disturbed.append(statement)
            wrapping = disturbance(cursor.connection)
            if wrapping is not None:
                return wrapping.format(statement), parameters
        return statement, parameters

    sa.event.listen(reader(site), "before_cursor_execute", before, retval=True)
    return disturbed


_SLOW = "SELECT q.* FROM ({}) AS q, (SELECT pg_catalog.pg_sleep(20)) AS slow"


@contextmanager
def conflicts(site: Site, pair: standby.Pair) -> Iterator[None]:
    """Clean up on the primary what a query on the standby may still see, whenever one sleeps."""
    database = database_of(site)
    is_asleep = (
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' "
        f"AND datname = '{database}'"
    )
    over = threading.Event()

    def clean() -> None:
        while not over.is_set():
            if pair.ask(is_asleep):
                pair.ask_primary("INSERT INTO scratch SELECT generate_series(1, 10)", database)
                pair.ask_primary("DELETE FROM scratch", database)
                pair.ask_primary("VACUUM scratch", database)
            over.wait(0.05)

    thread = threading.Thread(target=clean, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


FEED = "audit.transaction"


def test_a_query_that_is_cancelled_is_repeated(site: Site, pair: standby.Pair) -> None:
    disturbed = disturb(site, FEED, lambda connection: _SLOW, times=1)
    with conflicts(site, pair):
        page = site.get("/audit/")
    assert len(disturbed) == 1
    assert page.headers["Audit-Read-From"] == "replica"
    assert page.all("a", "au-tx")


def test_a_query_that_is_cancelled_twice_is_a_clear_answer(site: Site, pair: standby.Pair) -> None:
    disturbed = disturb(site, FEED, lambda connection: _SLOW, times=2)
    with conflicts(site, pair):
        page = site.get("/audit/", status=503)
    assert len(disturbed) == 2
    assert page.heading == "The replica stopped this query"
    assert "hot_standby_feedback = on" in page.words
    assert page.headers["Retry-After"] == "5"
    site.get("/audit/")


def test_a_cancelled_query_in_a_savepoint_is_not_taken_for_a_refusal(
    site: Site, pair: standby.Pair
) -> None:
    """PostgreSQL ends the session then; what is read of the host's tables must not be left out."""
    disturbed = disturb(site, "FROM public.article", lambda connection: _SLOW, times=1)
    with conflicts(site, pair):
        page = site.get("/audit/compare/public/article/1?to=now")
    assert len(disturbed) == 1
    assert "could not be read" not in page.words


@pytest.mark.parametrize(
    ("path", "step"), [("actors/8", 5), ("compare/public/article/1?to=now", 2)]
)
def test_a_lost_connection_is_replaced(
    site: Site, pair: standby.Pair, path: str, step: int
) -> None:
    """At whichever of the page's statements it is lost, those in savepoints included."""
    url = f"/audit/{path}"
    read = statements(reader(site))
    whole = site.get(url)
    count, turn = len(read), 0

    def kill(connection: Any) -> None:
        if len(read) == turn:
            pair.ask(f"SELECT pg_terminate_backend({connection.info.backend_pid}, 5000)")

    disturb(site, "", kill, times=10_000)
    for turn in range(1, count + 1, step):
        read.clear()
        page = site.get(url)
        assert page.words == whole.words, turn
        assert len(read) > count, turn


def test_connections_of_a_restarted_standby_are_replaced(site: Site, pair: standby.Pair) -> None:
    site.get("/audit/")
    with pair.stopped():
        pass
    assert site.get("/audit/").headers["Audit-Read-From"] == "replica"


def test_without_the_standby_there_is_a_clear_answer(
    site: Site, pair: standby.Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks = "SELECT count(*) FROM audit.activity WHERE verb = 'export'"
    before = site.scalar(marks)
    found = [address(site, path) for path in PAGES]
    site.get("/audit/")
    written = statements(site.engine)
    with pair.stopped():
        for url in found:
            page = site.get(url, status=503)
            assert page.heading == "The replica does not answer"
            assert "AUDIT_READ_FALLBACK = True" in page.words
            assert page.headers["Retry-After"] == "30"
            assert page.headers["Content-Security-Policy"]
            assert foot(page) == ""
            answer = site.client.get(url, headers=JSON)
            assert (answer.status_code, answer.mimetype) == (503, "application/problem+json")
            assert json.loads(answer.text)["remedy"] == "AUDIT_READ_FALLBACK = True"
            assert answer.headers["Retry-After"] == "30"
        with monkeypatch.context() as patch:
            patch.setitem(site.app.config, "AUDIT_LOCALE", "de")
            german = site.get("/audit/", status=503)
        assert german.heading == "Das Replikat antwortet nicht"
        export = site.client.get("/audit/export.csv")
        assert (export.status_code, export.headers["Retry-After"]) == (503, "30")
        assert written == []
        # What is planned and written does not need it.
        version = site.activity_id("article", "insert")
        site.get(f"/audit/restore/{version}")
    assert site.scalar(marks) == before
    site.get("/audit/")


def test_the_primary_stands_in_where_that_is_wanted(
    site: Site, pair: standby.Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(site.app.config, "AUDIT_READ_FALLBACK", True)
    with pair.stopped():
        page = site.get("/audit/")
        assert page.all("a", "au-tx")
        assert foot(page) == "The replica does not answer: read from the primary."
        answer = site.client.get("/audit/", headers=JSON)
        assert answer.headers["Audit-Read-From"] == "primary"
        assert "two" in site.client.get("/audit/export.csv?table=article").text
    assert site.get("/audit/").headers["Audit-Read-From"] == "replica"


def test_an_export_that_is_cut_off_says_so_in_the_trail(site: Site, pair: standby.Pair) -> None:
    """Once a part of it is sent, it cannot be repeated: the recipient sees a broken download."""
    site.write("INSERT INTO slug SELECT g::text, 'x' FROM generate_series(1, 900) g", actor="7")
    pair.catch_up()
    answer = site.client.get("/audit/export.ndjson?table=slug", buffered=False)
    parts = answer.iter_encoded()
    assert next(parts)
    pair.ask(
        "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity "
        f"WHERE datname = '{database_of(site)}' AND state LIKE 'idle in%'"
    )
    with pytest.raises(ReaderAwayError):
        list(parts)
    last = site.scalar(
        "SELECT changed_data->>'outcome' FROM audit.activity WHERE verb = 'export' "
        "ORDER BY id DESC LIMIT 1"
    )
    assert last == "aborted"


def test_a_pool_without_a_free_connection_is_a_clear_answer(site: Site) -> None:
    engine = reader(site)
    pool = engine.pool
    engine.pool = sa.pool.QueuePool(pool._creator, pool_size=1, max_overflow=0, timeout=0.1)
    try:
        with engine.connect():
            page = site.get("/audit/", status=503)
        assert page.heading == "The replica is busy"
        site.get("/audit/")
    finally:
        engine.pool.dispose()
        engine.pool = pool


def test_a_slow_query_is_not_a_missing_reader(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(site.app.config, "AUDIT_STATEMENT_TIMEOUT", 100)
    disturbed = disturb(site, FEED, lambda connection: _SLOW, times=5)
    page = site.get("/audit/", status=503)
    assert page.heading == "This takes too long"
    assert len(disturbed) == 1


def test_an_error_of_the_hosts_own_on_the_same_engine_is_left_alone(
    site: Site, pair: standby.Pair
) -> None:
    engine = reader(site)
    engine.dispose()
    with pair.stopped():
        with pytest.raises(sa.exc.OperationalError):
            engine.connect()


# -- Python ---------------------------------------------------------------------------------------


def test_the_read_api_reads_there_too(site: Site, pair: standby.Pair) -> None:
    article, logger = site.Article, site.logger
    pair.catch_up()
    with pair.paused(), site.app.app_context():
        site.db.session.execute(sa.text("UPDATE article SET title = 'three'"))
        site.db.session.commit()
        written = statements(site.engine)
        with logger.reader() as session:
            titles = [a.data["title"] for a in session.scalars(logger.history(article, 1))]
            assert "three" not in titles
            assert "two" in titles
            now = session.scalar(sa.select(sa.func.now()))
            version = logger.version_at(article, 1, when=now, session=session)
            assert version["title"] == "two"
            then = logger.as_of(article, now)
            assert session.execute(sa.select(then.c.title)).scalar_one() == "two"
            with pytest.raises(sa.exc.DBAPIError, match="read-only"):
                session.execute(sa.text("UPDATE article SET title = 'no'"))
        assert written == []
        # The caller's own session sees what the caller wrote.
        assert logger.version_at(article, 1, when=_latest(site))["title"] == "three"
        site.db.session.remove()


def _latest(site: Site) -> int:
    return site.activity_id("article")


def test_the_read_api_replaces_a_connection_that_was_lost_in_the_pool(
    site: Site, pair: standby.Pair
) -> None:
    query = site.logger.history(site.Article, 1)
    with site.app.app_context():
        with site.logger.reader() as session:
            session.execute(query)
        with pair.stopped():
            pass
        with site.logger.reader() as session:
            assert session.execute(query).first()


def test_the_read_api_says_that_the_reader_is_away(site: Site, pair: standby.Pair) -> None:
    with pair.stopped(), site.app.app_context():
        with pytest.raises(ReaderAwayError, match="AUDIT_READ_BIND='replica'") as told:
            with site.logger.reader() as session:
                session.execute(site.logger.history(site.Article, 1))
    assert told.value.kind == "lost"


def test_without_a_read_bind_the_read_api_reads_from_the_primary(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(site.app.config, "AUDIT_READ_BIND", None)
    read = statements(reader(site))
    with site.app.app_context(), site.logger.reader() as session:
        assert session.scalars(site.logger.history(site.Article, 1)).all()
        with pytest.raises(sa.exc.DBAPIError, match="read-only"):
            session.execute(sa.text("UPDATE article SET title = 'no'"))
    assert read == []


# -- Other binds ----------------------------------------------------------------------------------


def test_a_role_that_may_only_read_is_a_reader_too(site: Site, pair: standby.Pair) -> None:
    """On the same server, which is no standby: there is no lag to tell."""
    database = database_of(site)
    url = sa.make_url(pair.primary.url_of(database)).set(username=ROLE)
    pair.ask_primary(f"CREATE ROLE {ROLE} LOGIN")
    try:
        for statement in (
            f"GRANT USAGE ON SCHEMA audit TO {ROLE}",
            f"GRANT SELECT ON ALL TABLES IN SCHEMA audit, public TO {ROLE}",
        ):
            pair.ask_primary(statement, database)
        other = Site(
            pair.primary.url_of(database), create=False,
            AUDIT_READ_BIND="reader",
            SQLALCHEMY_BINDS={"reader": url.render_as_string(hide_password=False)},
        )  # fmt: skip
        page = other.get("/audit/")
        assert page.all("a", "au-tx")
        assert foot(page) == ""
        assert page.headers["Audit-Read-From"] == "bind"
        assert "Audit-Read-Lag" not in page.headers
        assert "may read the trail, and not check it in full" in other.get("/audit/tables/").words
        assert other.client.get("/audit/export.csv").status_code == 200  # the mark is the primary's
        with other.app.app_context():
            other.db.engines["reader"].dispose()
        other.close()
    finally:
        pair.ask_primary(f"DROP OWNED BY {ROLE}", database)
        pair.ask_primary(f"DROP ROLE {ROLE}")


@pytest.mark.parametrize("key", ["replica", "", None, 1])
def test_a_bind_that_is_not_there_is_refused(pair: standby.Pair, key: Any) -> None:
    app, logger, db = Flask("site"), AuditLogger(), SQLAlchemy()
    url = pair.primary.url_of("postgres")
    app.config.update(SQLALCHEMY_DATABASE_URI=url, SQLALCHEMY_BINDS={"reports": url})
    app.config["AUDIT_READ_BIND"] = key
    logger.init(db.Model)
    db.init_app(app)
    if key is None:
        logger.init_app(app)
        return
    with pytest.raises(ConfigurationError, match="SQLALCHEMY_BINDS .there: 'reports'.*: add the"):
        logger.init_app(app)


def test_a_bind_that_is_not_postgresql_is_refused(pair: standby.Pair) -> None:
    app, logger, db = Flask("site"), AuditLogger(), SQLAlchemy()
    app.config.update(
        SQLALCHEMY_DATABASE_URI=pair.primary.url_of("postgres"),
        SQLALCHEMY_BINDS={"replica": "sqlite://"},
        AUDIT_READ_BIND="replica",
    )
    logger.init(db.Model)
    db.init_app(app)
    with pytest.raises(UnsupportedDatabaseError):
        logger.init_app(app)


def test_the_headers_are_described(site: Site) -> None:
    document = json.loads(site.client.get("/audit/openapi.json").text)
    headers = document["components"]["headers"]
    assert set(headers) == {"AuditReadFrom", "AuditReadLag", "RetryAfter"}
    answer: TestResponse = site.client.get("/audit/activities.json")
    described = document["paths"]["/activities.json"]["get"]["responses"]["200"]["headers"]
    for name in ("Audit-Read-From", "Audit-Read-Lag"):
        assert name in answer.headers
        assert name in described
