"""Who a change is attributed to: every way of writing, every way in and out of a context."""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import flask_login
import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.dialects.postgresql import insert

from audit_app import AuditLogger


@dataclass
class World:
    """An application with a user, an article and Flask-Login."""

    db: Any
    app: Flask
    logger: AuditLogger
    User: Any
    Article: Any
    resolved: list[str] = field(default_factory=list)

    def signed_in(
        self, user_id: int | None, **environ: Any
    ) -> contextlib.AbstractContextManager[Any]:
        """A request of the user, who is loaded by a query when somebody asks."""
        return _request(self, user_id, environ)

    def actors(self) -> list[tuple[str, str | None]]:
        """The name in each change of an article, and who made it; oldest first."""
        activity = self.logger.activity_cls
        with self.app.app_context():
            rows = activity.query.filter_by(table_name="article").order_by(activity.id)
            return [(a.data["name"], a.transaction.actor_id) for a in rows]


@contextlib.contextmanager
def _request(world: World, user_id: int | None, environ: dict[str, Any]) -> Iterator[None]:
    with world.app.test_request_context(
        "/articles?token=secret",
        method="POST",
        environ_base={"REMOTE_ADDR": "192.0.2.7"},
        **environ,
    ):
        from flask import session

        if user_id is not None:
            session["_user_id"] = str(user_id)
        yield


def make_world(url: str, **options: Any) -> World:
    db: Any = SQLAlchemy(engine_options={"pool_size": 1, "max_overflow": 0, "pool_timeout": 3})
    logger = AuditLogger(**options)
    logger.init(db.Model)

    class User(flask_login.UserMixin, db.Model):  # type: ignore[misc]
        id = db.Column(db.Integer, primary_key=True)
        name = db.Column(db.Text)

    class Article(db.Model):  # type: ignore[misc]
        __versioned__: ClassVar[dict[str, Any]] = {}
        id = db.Column(db.Integer, primary_key=True)
        name = db.Column(db.Text)

    app = Flask(__name__)
    app.config |= {"SQLALCHEMY_DATABASE_URI": url, "SECRET_KEY": "test"}
    db.init_app(app)
    logger.init_app(app)
    world = World(db, app, logger, User, Article)
    login = flask_login.LoginManager(app)

    @login.user_loader  # type: ignore[untyped-decorator]
    def load(user_id: str) -> Any:
        world.resolved.append(user_id)
        return db.session.get(User, int(user_id))

    with app.app_context():
        db.create_all()
        db.session.add_all([User(id=1, name="Alice"), User(id=2, name="Bob")])
        db.session.commit()
    return world


@pytest.fixture
def make(database_url: str) -> Iterator[Any]:
    worlds: list[World] = []

    def factory(**options: Any) -> World:
        worlds.append(make_world(database_url, **options))
        return worlds[-1]

    yield factory
    for world in worlds:
        with world.app.app_context():
            world.db.session.remove()
            world.db.engine.dispose()


@pytest.fixture
def world(make: Any) -> World:
    made: World = make()
    return made


def copy(world: World, name: str) -> None:
    """COPY goes around SQLAlchemy's cursors, so the context is sent by hand."""
    world.logger.arm(world.db.session)
    cursor = world.db.session.connection().connection.cursor()
    cursor.copy_expert("COPY article (name) FROM STDIN", io.StringIO(name + "\n"))


WAYS: dict[str, Any] = {
    "flush": lambda w: w.db.session.add(w.Article(name="x")),
    "bulk_save": lambda w: w.db.session.bulk_save_objects([w.Article(name="x")]),
    "orm insert": lambda w: w.db.session.execute(sa.insert(w.Article), [{"name": "x"}]),
    "core": lambda w: w.db.session.execute(w.Article.__table__.insert().values(name="x")),
    "upsert": lambda w: w.db.session.execute(
        insert(w.Article).values(id=9, name="x").on_conflict_do_nothing()
    ),
    "text": lambda w: w.db.session.execute(sa.text("INSERT INTO article (name) VALUES ('x')")),
    "driver sql": lambda w: w.db.session.connection().exec_driver_sql(
        "INSERT INTO article (name) VALUES ('x')"
    ),
    "driver sql, parameters": lambda w: w.db.session.connection().exec_driver_sql(
        "INSERT INTO article (name) VALUES (%s)", ("x",)
    ),
    "executemany": lambda w: w.db.session.connection().exec_driver_sql(
        "INSERT INTO article (name) VALUES (%s)", [("x",)]
    ),
    "writable CTE": lambda w: w.db.session.execute(
        sa.text("WITH i AS (INSERT INTO article (name) VALUES ('x') RETURNING id) SELECT id FROM i")
    ),
    "function": lambda w: w.db.session.execute(sa.select(sa.func.add_article("x"))),
    "copy": lambda w: copy(w, "x"),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_writing_is_attributed(world: World, way: str) -> None:
    with world.app.app_context(), world.db.engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE FUNCTION add_article(text) RETURNS int LANGUAGE sql AS "
            "$$INSERT INTO article (name) VALUES ($1) RETURNING id$$"
        )
    with world.signed_in(1):
        WAYS[way](world)
        world.db.session.commit()
    assert world.actors() == [("x", "1")]


def test_the_transaction_tells_who_and_from_where(world: World) -> None:
    with world.signed_in(1, headers={"X-Request-ID": "abc-1"}):
        world.db.session.add(world.Article(name="x"))
        world.db.session.commit()
        row = world.logger.transaction_cls.query.one()
        assert (row.actor_id, row.actor_label, row.actor.name) == ("1", "Alice", "Alice")
        assert str(row.client_addr) == "192.0.2.7"
        assert (row.method, row.url) == ("POST", "http://localhost/articles")
        assert row.request_id == "abc-1"
        assert row.session_user_name == row.role_name == "postgres"
        assert row.reason is None
        assert row.meta is None
        assert row.issued_at.tzinfo is not None


def test_nothing_leaks_to_the_next_user_of_the_pool(world: World) -> None:
    with world.signed_in(1):
        world.db.session.add(world.Article(name="hers"))
        world.db.session.commit()
    with world.signed_in(None):
        world.db.session.add(world.Article(name="nobody's"))
        world.db.session.commit()
    assert world.actors() == [("hers", "1"), ("nobody's", None)]


def test_a_failed_request_leaks_nothing_either(world: World) -> None:
    with world.signed_in(1):
        world.db.session.execute(sa.text("INSERT INTO article (name) VALUES ('lost')"))
        with pytest.raises(sa.exc.DBAPIError):
            world.db.session.execute(sa.text("SELECT 1/0"))
        world.db.session.rollback()
    with world.signed_in(None), world.db.engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO article (name) VALUES ('kept')"))
    assert world.actors() == [("kept", None)]


def test_a_commit_in_the_middle_of_a_request_keeps_the_actor(world: World) -> None:
    with world.signed_in(1):
        for name in ("one", "two"):
            world.db.session.add(world.Article(name=name))
            world.db.session.commit()
        with contextlib.suppress(ValueError), world.db.session.begin_nested():
            world.db.session.add(world.Article(name="undone"))
            world.db.session.flush()
            raise ValueError
        world.db.session.add(world.Article(name="three"))
        world.db.session.commit()
        world.db.session.execute(sa.text("SAVEPOINT s"))
        world.db.session.execute(sa.text("INSERT INTO article (name) VALUES ('undone too')"))
        world.db.session.execute(sa.text("ROLLBACK TO SAVEPOINT s"))
        world.db.session.execute(sa.text("INSERT INTO article (name) VALUES ('four')"))
        world.db.session.commit()
    assert world.actors() == [("one", "1"), ("two", "1"), ("three", "1"), ("four", "1")]


def test_two_actors_in_one_transaction_each_have_their_own(world: World) -> None:
    with world.app.app_context():
        for actor in ("ada", "bo", "ada"):
            with world.logger.context(actor_id=actor):
                world.db.session.add(world.Article(name=actor))
                world.db.session.flush()
        world.db.session.commit()
    assert world.actors() == [("ada", "ada"), ("bo", "bo"), ("ada", "ada")]
    with world.app.app_context():
        rows = world.logger.transaction_cls.query.all()
        assert len({row.native_transaction_id for row in rows}) == 1


def test_contexts_nest_and_restore(world: World) -> None:
    context, seen = world.logger.context, []

    def write() -> None:
        world.db.session.add(world.Article(name="x"))
        world.db.session.commit()
        row = world.logger.transaction_cls.query.order_by(sa.desc("id")).first()
        seen.append((row.actor_id, row.actor_label, row.reason, row.meta))

    with world.signed_in(1):
        with context(reason="outer", ticket=1):
            write()
            with contextlib.suppress(ValueError):
                with context(actor_id="robot", batch={"n": [1, 2]}):
                    write()
                    raise ValueError
            write()
        write()
    assert seen == [
        ("1", "Alice", "outer", {"ticket": 1}),
        ("robot", None, "outer", {"ticket": 1, "batch": {"n": [1, 2]}}),
        ("1", "Alice", "outer", {"ticket": 1}),
        ("1", "Alice", None, None),
    ]


def test_outside_of_a_request_a_default_actor_acts(make: Any) -> None:
    world: World = make(default_actor_id="nightly", default_actor_label="Nightly job")
    with world.app.app_context():
        world.db.session.add(world.Article(name="x"))
        world.db.session.commit()
        assert world.logger.transaction_cls.query.all()[-1].actor_label == "Nightly job"
    assert world.actors() == [("x", "nightly")]


def test_the_callback_may_need_a_request(make: Any) -> None:
    from flask import session

    world: World = make(get_actor_id=lambda: session["id"], get_actor_label=lambda a: f"#{a}")
    with world.app.app_context():
        world.db.session.add(world.Article(name="job's"))
        world.db.session.commit()
    with world.app.test_request_context():
        session["id"] = 5
        world.db.session.add(world.Article(name="five's"))
        world.db.session.commit()
        assert world.logger.transaction_cls.query.all()[-1].actor_label == "#5"
    assert world.actors() == [("job's", None), ("five's", "5")]


def test_resolving_the_user_by_a_query_works_inside_of_a_flush(world: World) -> None:
    with world.signed_in(2):
        assert world.resolved == []
        world.db.session.add(world.Article(name="x"))
        world.db.session.flush()
        assert world.resolved == ["2"]
        world.db.session.commit()
    assert world.actors() == [("x", "2")]


def test_a_user_who_deletes_her_own_account_is_still_named(world: World) -> None:
    with world.signed_in(1):
        world.db.session.delete(world.db.session.get(world.User, 1))
        world.db.session.flush()
        world.db.session.add(world.Article(name="last words"))
        world.db.session.commit()
        row = world.logger.transaction_cls.query.all()[-1]
        assert (row.actor_id, row.actor_label, row.actor) == ("1", "Alice", None)


def test_threads_have_contexts_of_their_own(world: World) -> None:
    def work() -> None:
        with world.app.app_context():
            world.db.session.add(world.Article(name="thread"))
            world.db.session.commit()
            world.db.session.remove()

    with world.logger.context(actor_id="main"):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert world.actors() == [("thread", None)]


def test_greenlets_have_contexts_of_their_own(world: World) -> None:
    greenlet = pytest.importorskip("greenlet")

    def work(name: str) -> None:
        with world.app.app_context(), world.logger.context(actor_id=name):
            greenlet.getcurrent().parent.switch()  # another one runs meanwhile
            with world.db.engine.begin() as connection:
                connection.execute(sa.text(f"INSERT INTO article (name) VALUES ('{name}')"))

    first, second = greenlet.greenlet(work), greenlet.greenlet(work)
    first.switch("ada")
    second.switch("bo")
    first.switch()
    second.switch()
    assert world.actors() == [("ada", "ada"), ("bo", "bo")]


def test_autocommit_is_attributed(world: World) -> None:
    with world.app.app_context(), world.logger.context(actor_id="ada"):
        with world.db.engine.connect().execution_options(
            isolation_level="AUTOCOMMIT"
        ) as connection:
            connection.execute(sa.text("INSERT INTO article (name) VALUES ('a')"))
            connection.execute(sa.text("INSERT INTO article (name) VALUES ('b')"))
    assert world.actors() == [("a", "ada"), ("b", "ada")]


def test_reads_carry_no_context(world: World) -> None:
    sent: list[str] = []
    with world.signed_in(1):
        sa.event.listen(
            world.db.engine,
            "after_cursor_execute",
            lambda _c, _cur, statement, *_: sent.append(statement),
        )
        world.db.session.scalars(sa.select(world.Article).where(world.Article.id > 0)).all()
        world.db.session.execute(sa.select(sa.func.count()).select_from(world.Article))
        assert not any("set_config" in statement for statement in sent)
        world.db.session.add(world.Article(name="x"))
        world.db.session.flush()
        world.db.session.add(world.Article(name="y"))
        world.db.session.flush()
        assert sum("set_config" in statement for statement in sent) == 1


def test_values_that_json_cannot_hold_do_not_fail_the_write(world: World) -> None:
    with world.signed_in(1):
        with world.logger.context(
            actor_id="a\x00b", reason="\ud800", nan=float("nan"), odd={"\x00": object()}
        ):
            world.db.session.add(world.Article(name="x"))
            world.db.session.commit()
        row = world.logger.transaction_cls.query.one()
    assert (row.actor_id, row.reason) == ("a\ufffdb", "\ufffd")
    assert row.meta["nan"] == "nan"


def test_disable_suspends_nests_and_leaves_marks(world: World) -> None:
    session, disable = world.db.session, world.logger.disable
    with world.signed_in(1):
        session.add(world.Article(id=1, name="before"))
        with disable(session, reason="import"):
            session.add(world.Article(id=2, name="hidden"))
            with disable(session):
                session.execute(sa.text("INSERT INTO article VALUES (3, 'hidden')"))
            session.add(world.Article(id=4, name="hidden"))
        session.add(world.Article(id=5, name="after"))
        session.commit()
        activity = world.logger.activity_cls
        rows = activity.query.order_by(activity.id).all()
        assert rows[1].transaction.actor_label == "Alice"
    assert [(a.verb, a.object_id) for a in rows] == [
        ("insert", 1), ("suspend", None), ("suspend", None), ("resume", None), ("resume", None),
        ("insert", 5),
    ]  # fmt: skip
    assert rows[1].changed_data == {"reason": "import"}


def test_an_error_inside_of_disable_is_the_one_that_is_seen(world: World) -> None:
    session = world.db.session
    with world.app.app_context():
        with pytest.raises(sa.exc.DBAPIError, match="division by zero"):
            with world.logger.disable(session):
                session.execute(sa.text("SELECT 1/0"))
        session.rollback()
        with pytest.raises(KeyError):
            with world.logger.disable(session):
                raise KeyError
        session.add(world.Article(name="seen"))
        session.commit()
        with world.logger.disable(session):
            session.commit()
            session.add(world.Article(name="seen too"))
            session.commit()
    assert [name for name, _ in world.actors()] == ["seen", "seen too"]


def test_the_history_of_a_record(world: World) -> None:
    with world.signed_in(1):
        article = world.Article(id=5, name="a")
        world.db.session.add(article)
        world.db.session.commit()
        article.name = "b"
        world.db.session.commit()
        for query in (
            world.logger.history(article),
            world.logger.history(world.Article, 5),
            world.logger.history(world.Article.__table__, 5),
        ):
            verbs = [activity.verb for activity in world.db.session.scalars(query)]
            assert verbs == ["update", "insert"]
        assert world.db.session.scalars(world.logger.history(world.Article, 6)).all() == []
