"""What no other test would notice, found by taking the protections out one at a time."""

from __future__ import annotations

import base64
import json
import random

import pytest
import sqlalchemy as sa
from flask import Flask

from audit_app.context import ContextSource, Options, attach
from tests.trail import Trail

FOREIGN_ROW = (
    "INSERT INTO audit.transaction (native_transaction_id, issued_at, actor_id, session_user_name, "
    "role_name) VALUES ('1', transaction_timestamp(), 'bo', current_user, current_user) "
    "RETURNING id, ctid"
)


def test_money_in_another_locale(trail: Trail) -> None:
    """lc_monetary is the client's; the locale is one that every server has."""
    trail.run("CREATE TABLE thing (id int PRIMARY KEY, m money)")
    trail.track("thing", options={"when": "current_setting('lc_monetary') = 'C'"})
    with trail.engine.begin() as connection:
        connection.exec_driver_sql("SET LOCAL lc_monetary = 'POSIX'")
        connection.exec_driver_sql("INSERT INTO thing VALUES (1, 1)")
    assert [c.verb for c in trail.changes()] == ["insert"]


def test_equal_values_beside_a_null(trail: Trail) -> None:
    """10 becomes 10.0 in the same update in which another column becomes NULL."""
    trail.create("CREATE TABLE thing (id int PRIMARY KEY, v numeric, w text, x text)", "thing")
    trail.run("INSERT INTO thing VALUES (1, 10, 'w', 'x')", "UPDATE thing SET v = 10.0, w = NULL")
    assert sorted(trail.changes()[1].changed) == ["v", "w"]


def test_a_suspension_of_the_same_microsecond(article: Trail) -> None:
    """Two transactions began in the same microsecond, and one of them suspended the capture."""
    with article.engine.begin() as connection:
        connection.exec_driver_sql(
            f"WITH t AS ({FOREIGN_ROW}), a AS (INSERT INTO audit.activity (transaction_id, "
            "native_transaction_id, issued_at, relid, depth, schema_name, table_name, verb) "
            "SELECT id, '1', now(), 0, 0, 'audit', 'activity', 'suspend' FROM t RETURNING id, ctid) "
            "SELECT set_config('audit_app.suspension', concat(id, ctid), true) FROM a"
        )
        connection.exec_driver_sql("INSERT INTO article VALUES (1, 'x', 1)")
    assert [c.verb for c in article.changes()] == ["suspend", "insert"]


def test_a_memo_of_the_same_microsecond(article: Trail) -> None:
    """Two transactions began in the same microsecond, and the memo names the row of the other."""
    with article.engine.begin() as connection:
        connection.exec_driver_sql(
            f"WITH t AS ({FOREIGN_ROW}) "
            "SELECT set_config('audit_app.transaction', concat(ctid, ' '), true) FROM t"
        )
        connection.exec_driver_sql("INSERT INTO article VALUES (1, 'x', 1)")
    assert [(c.verb, c.actor) for c in article.changes()] == [("insert", None)]


def test_an_actor_longer_than_an_index_entry(article: Trail, mallory: Trail) -> None:
    """A claimed actor that no index could hold, not even compressed: it must not fail the write."""
    actor = base64.b64encode(random.Random(0).randbytes(9000)).decode()
    with mallory.engine.begin() as connection:
        connection.execute(
            sa.text("SELECT set_config('audit_app.context', :context, true)"),
            {"context": json.dumps({"actor_id": actor})},
        )
        connection.exec_driver_sql("INSERT INTO article VALUES (1, 'x', 1)")
    assert [c.actor for c in article.changes()] == [actor[:500]]


@pytest.mark.parametrize("table", ["activity", "transaction"])
@pytest.mark.parametrize("verb", ["DELETE FROM", "TRUNCATE"])
def test_history_is_rewritten_as_a_replica(article: Trail, verb: str, table: str) -> None:
    """A superuser sets session_replication_role, which silences ordinary triggers."""
    article.run("INSERT INTO article VALUES (1, 'x', 1)")
    with pytest.raises(sa.exc.ProgrammingError, match="append-only"):
        article.script(
            f"SET LOCAL session_replication_role = replica; {verb} audit.{table} "
            + ("CASCADE" if verb == "TRUNCATE" else "")
        )
    assert len(article.changes()) == 1


@pytest.mark.parametrize(
    "call",
    [
        "suspend()",
        "resume(1)",
        "transaction_id()",
        "audit_table('article')",
        "unaudit_table('article')",
        "hand_over(current_user)",
    ],
)
def test_a_reader_calls_what_only_the_owner_may(
    article: Trail, mallory: Trail, role: str, call: str
) -> None:
    """A role that may look into the schema of the trail tries what is in there."""
    article.script(f'GRANT USAGE ON SCHEMA audit TO "{role}"')
    with pytest.raises(sa.exc.ProgrammingError, match="permission denied for function"):
        mallory.run(f"SELECT audit.{call}")


def test_a_capture_function_on_the_attackers_table(
    article: Trail, mallory: Trail, role: str
) -> None:
    """A reader of the trail gives a table of its own our capture function, to forge history."""
    article.script(f'GRANT USAGE ON SCHEMA audit TO "{role}"')
    mallory.script("CREATE SCHEMA mine; CREATE TABLE mine.article (id int, name text, n numeric)")
    with pytest.raises(sa.exc.ProgrammingError, match="permission denied for function"):
        mallory.script(
            "CREATE TRIGGER t AFTER INSERT ON mine.article REFERENCING NEW TABLE AS new_table "
            "EXECUTE FUNCTION audit.capture_public_article()"
        )


def test_the_actors_name_is_asked_for_once(article: Trail) -> None:
    """A commit expires the actor's object, and each transaction would query its name anew."""
    asked: list[str] = []

    def label(actor: str) -> str:
        asked.append(actor)
        return actor.title()

    engine = sa.create_engine(article.url)
    attach(engine, ContextSource(Options(get_actor_id=lambda: "ada", get_actor_label=label)))
    with Flask("gaps").app_context():
        for number in range(3):
            with engine.begin() as connection:
                connection.exec_driver_sql(f"INSERT INTO article VALUES ({number}, 'x', 1)")
    engine.dispose()
    assert [row.actor_label for row in article.transactions()] == ["Ada"] * 3
    assert asked == ["ada"]


def test_finding_out_who_acts_writes(article: Trail) -> None:
    """The application notes when somebody was last seen, and by that asks again who acts."""
    article.run(
        "CREATE TABLE login (name text PRIMARY KEY, times int)",
        "INSERT INTO login VALUES ('ada', 0)",
    )
    engine = sa.create_engine(article.url)
    with engine.connect() as connection:

        def actor() -> str:
            query = "UPDATE login SET times = times + 1 RETURNING name"
            return str(connection.exec_driver_sql(query).scalar_one())

        attach(engine, ContextSource(Options(get_actor_id=actor)))
        connection.exec_driver_sql("INSERT INTO article VALUES (1, 'x', 1)")
        connection.commit()
    engine.dispose()
    assert [c.actor for c in article.changes()] == ["ada"]
    assert article.value("SELECT times FROM login") == 1


def test_another_actor_within_a_named_one(article: Trail) -> None:
    """The name of the outer context's actor does not stick to the inner one's."""
    context = article.logger.context
    with context(actor_id="ada", actor_label="Ada"), context(actor_id="robot"):
        article.run("INSERT INTO article VALUES (1, 'x', 1)")
    (row,) = article.transactions()
    assert (row.actor_id, row.actor_label) == ("robot", None)
