"""A table is altered by hand, without a migration: the next write succeeds and is captured whole."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from tests.integration.faults.test_rows import findings
from tests.integration.test_check import OURS, WHEN
from tests.trail import Trail

ALTERATIONS: list[tuple[str, str, dict[str, Any]]] = [
    ("ADD COLUMN extra text DEFAULT 'e'", "extra = 'f'", {"extra": "f"}),
    ("DROP COLUMN n", "name = 'y'", {"name": "y"}),
    ("RENAME COLUMN name TO title", "title = 'y'", {"title": "y"}),
    ("ALTER COLUMN name TYPE int USING 5", "name = 6", {"name": 6}),
    ("ALTER COLUMN n TYPE json USING to_json(n)", "n = '{\"a\":1}'", {"n": {"a": 1}}),
    ("ALTER COLUMN n TYPE text USING n", "n = 'z'", {"n": "z"}),
    (
        "ADD COLUMN at timestamptz",
        "at = '2024-01-01 12:00+05'",
        {"at": "2024-01-01T07:00:00+00:00"},
    ),
]


@pytest.mark.parametrize(("alteration", "assignment", "changed"), ALTERATIONS)
@pytest.mark.parametrize("level", ["statement", "row"])
def test_a_column_is_altered(
    article: Trail, alteration: str, assignment: str, changed: dict[str, Any], level: str
) -> None:
    """ALTER TABLE ADD, DROP, RENAME, ALTER TYPE: captured under the new names; check says so."""
    article.track("article", options={"level": level})
    article.run("INSERT INTO article VALUES (1, 'x', 1)")
    article.script(f"ALTER TABLE article {alteration}")
    with article.engine.begin() as connection:  # a session whose plans are already made
        connection.exec_driver_sql("SET LOCAL TimeZone = 'Asia/Tokyo'")
        connection.exec_driver_sql(f"UPDATE article SET {assignment} WHERE id = 1")
        connection.exec_driver_sql("INSERT INTO article (id) VALUES (2)")
        connection.exec_driver_sql("DELETE FROM article WHERE id = 2")
    _, update, insert, delete = article.changes()
    assert update.changed == changed
    columns = article.value(
        "SELECT array_agg(CAST(attname AS text)) FROM pg_attribute WHERE attnum > 0 "
        "AND NOT attisdropped AND attrelid = CAST('article' AS regclass)"
    )
    assert set(insert.changed) == set(delete.old) == set(columns)
    assert ("drift", "public.article") in findings(article, "article")
    article.track("article", options={"level": level})
    assert findings(article, "article") == []
    article.script(
        f"UPDATE article SET {assignment} WHERE id = 1; INSERT INTO article (id) VALUES (3)"
    )
    assert set(article.changes()[-1].changed) == set(columns)


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.parametrize("is_tracked_anew", [False, True], ids=["by hand", "by a migration"])
@pytest.mark.parametrize(
    ("alteration", "statement"),
    [
        ("ADD extra int DEFAULT 1", "UPDATE article SET extra = 2"),
        ("ADD extra int DEFAULT 1", "INSERT INTO article (id) VALUES (2)"),
        ("DROP n", "UPDATE article SET name = 'y'"),
        ("RENAME name TO title", "UPDATE article SET title = 'y'"),
    ],
)
def test_a_table_is_altered_while_a_transaction_keeps_an_older_view(
    article: Trail, alteration: str, statement: str, level: str, is_tracked_anew: bool
) -> None:
    """Its view of the catalog is the old one, too: it is told to repeat, and nothing is lost."""
    article.run("INSERT INTO article VALUES (1, 'x', 1)")
    engine = article.engine.execution_options(isolation_level=level)
    with engine.connect() as connection:
        connection.exec_driver_sql("SELECT count(*) FROM pg_class")
        article.script(f"ALTER TABLE article {alteration}")
        if is_tracked_anew:
            article.track("article")
        with pytest.raises(sa.exc.DBAPIError, match="was altered after this transaction began"):
            connection.exec_driver_sql(statement)
        connection.rollback()
        connection.exec_driver_sql(statement)
        connection.commit()
    assert len(article.changes()) == 2


def _write(connection: sa.Connection, number: int) -> None:
    connection.exec_driver_sql(f"UPDATE article SET n = {number}")
    connection.commit()


@pytest.mark.parametrize("level", ["statement", "row"])
def test_a_session_has_its_plans_already(article: Trail, level: str) -> None:
    """What it knows of the table is as old as its plan, which the alteration ends."""
    article.track("article", options={"level": level})
    article.run("INSERT INTO article VALUES (1, 'x', 1)")
    with article.engine.connect() as connection:
        for number in range(12):
            _write(connection, number + 10)
        article.script("ALTER TABLE article ADD extra int DEFAULT 1")
        _write(connection, 30)
        assert article.changes()[-1].old["extra"] == 1
        # Not committed, and then not even true.
        article.track("article", options={"level": level})
        _write(connection, 40)
        connection.exec_driver_sql("ALTER TABLE article ADD another int DEFAULT 2")
        connection.exec_driver_sql("UPDATE article SET n = 50")
        assert connection.scalar(
            sa.text("SELECT old_data -> 'another' FROM audit.activity ORDER BY id DESC LIMIT 1")
        )
        connection.rollback()
        _write(connection, 60)
        assert article.changes()[-1].old == {"id": 1, "name": "x", "n": 40, "extra": 1}


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_the_first_plan_of_a_session_is_made_by_one_who_keeps_an_older_view(
    article: Trail, level: str
) -> None:
    """It must not be what the next transactions of that session go by."""
    article.run("INSERT INTO article VALUES (1, 'x', 1)")
    with article.engine.connect() as connection:
        connection.exec_driver_sql(f"SET TRANSACTION ISOLATION LEVEL {level}")
        connection.exec_driver_sql("SELECT count(*) FROM pg_class")
        article.script("ALTER TABLE article ADD extra int DEFAULT 1")
        with pytest.raises(sa.exc.DBAPIError, match="was altered after this transaction began"):
            connection.exec_driver_sql("UPDATE article SET n = 2")
        connection.rollback()
        _write(connection, 3)
        assert article.changes()[-1].old == {"id": 1, "name": "x", "n": 1, "extra": 1}


@pytest.mark.parametrize(
    ("prepare", "write"),
    [
        ("PREPARE write AS UPDATE article SET n = n + 1", "EXECUTE write"),
        (
            "CREATE FUNCTION pg_temp.write() RETURNS void LANGUAGE plpgsql AS "
            "$$ BEGIN UPDATE article SET n = n + 1; END $$",
            "SELECT pg_temp.write()",
        ),
    ],
)
def test_the_table_is_altered_while_a_statement_waits_for_it(
    article: Trail, prepare: str, write: str
) -> None:
    """The statement began before the table was altered, and sees the columns that it has by now."""
    article.run("INSERT INTO article VALUES (1, 'x', 0)")
    engine = sa.create_engine(article.url, isolation_level="AUTOCOMMIT")
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    with (
        ThreadPoolExecutor(1) as pool,
        engine.connect() as watcher,
        engine.connect() as writer,
    ):
        writer.exec_driver_sql(prepare)
        writer.exec_driver_sql(write)
        with article.engine.begin() as other:
            other.exec_driver_sql("ALTER TABLE article ADD extra int DEFAULT 1")
            writing = pool.submit(writer.exec_driver_sql, write)
            while not watcher.scalar(sa.text(waiting)):
                assert not writing.done()
        writing.result(10)
    engine.dispose()
    assert article.changes()[-1].old == {"id": 1, "name": "x", "n": 1, "extra": 1}


def test_a_function_that_was_made_for_a_table_of_another_number(article: Trail) -> None:
    """As after a restore: it looks the columns up each time, and installing again makes it quick."""
    article.script(
        "CREATE TABLE copy (LIKE article INCLUDING ALL); ALTER TABLE article RENAME TO former;"
        "ALTER TABLE copy RENAME TO article;"
        + "".join(
            f'DROP TRIGGER "{name}" ON former;'
            for name in (
                "00_audit_insert",
                "00_audit_update",
                "00_audit_delete",
                "zz_audit_truncate",
            )
        )
    )
    body = "SELECT prosrc FROM pg_proc WHERE proname = 'capture_public_article'"
    made = article.value(body)
    for verb, tables in (("insert", "NEW TABLE AS new_table"),
                         ("update", "OLD TABLE AS old_table NEW TABLE AS new_table"),
                         ("delete", "OLD TABLE AS old_table")):  # fmt: skip
        article.script(
            f'CREATE TRIGGER "00_audit_{verb}" AFTER {verb} ON article REFERENCING {tables} {WHEN} {OURS}'
        )
    article.run("INSERT INTO article VALUES (1, 'x', 1)", "UPDATE article SET n = 2")
    article.run("ALTER TABLE article ADD extra int DEFAULT 1", "UPDATE article SET n = 3")
    assert [c.old for c in article.changes()] == [
        None, {"id": 1, "name": "x", "n": 1}, {"id": 1, "name": "x", "n": 2, "extra": 1},
    ]  # fmt: skip
    article.run("ALTER TABLE article DROP extra")
    assert ("drift", "public.article") not in findings(article, "article")
    article.track("article")
    assert article.value(body) != made
    assert findings(article, "article") == []


def test_the_key_is_altered(article: Trail) -> None:
    """The key column is renamed, then its type changes, then the key is another column."""
    article.run("INSERT INTO article VALUES (1, 'x', 1)", "ALTER TABLE article RENAME id TO number")
    article.run("UPDATE article SET name = 'y'")
    article.run("ALTER TABLE article ALTER number TYPE text", "UPDATE article SET name = 'z'")
    article.run(
        "ALTER TABLE article DROP CONSTRAINT article_pkey, DROP COLUMN number, ADD PRIMARY KEY (name)"
    )
    article.run("UPDATE article SET n = 2", "ALTER TABLE article DROP CONSTRAINT article_pkey")
    article.run("UPDATE article SET n = 3")
    assert [(c.object_id, c.changed) for c in article.changes()[1:]] == [
        ("1", {"name": "y"}),
        ("1", {"name": "z"}),
        ("z", {"n": 2}),
        (None, {"n": 3}) if article.changes()[-1].object_id is None else ("z", {"n": 3}),
    ]


def test_the_table_is_renamed(article: Trail) -> None:
    """RENAME and SET SCHEMA: recorded under the new name at once."""
    article.script(
        "ALTER TABLE article RENAME TO story; CREATE SCHEMA s; ALTER TABLE story SET SCHEMA s"
    )
    article.run("INSERT INTO s.story VALUES (1, 'x', 1)")
    assert [(c.verb, c.table) for c in article.changes()] == [("insert", "story")]
    article.create("CREATE TABLE article (id int PRIMARY KEY)", "article")
    article.run("INSERT INTO article VALUES (1)", "UPDATE s.story SET name = 'y'")
    assert [c.table for c in article.changes()] == ["story", "article", "story"]


@pytest.mark.parametrize("option", ["exclude", "mask"])
def test_a_protected_column_is_renamed(trail: Trail, option: str) -> None:
    """A hand-made rename does not let an excluded or masked column in under its new name."""
    trail.run("CREATE TABLE person (id int PRIMARY KEY, secret text, name text)")
    trail.track("person", options={option: ["secret"]})
    trail.run("ALTER TABLE person RENAME secret TO password")
    trail.run("ALTER TABLE person ADD COLUMN city text")
    trail.run(
        "INSERT INTO person VALUES (1, 's3cret', 'ada', 'Rome')",
        "UPDATE person SET password = 's3cret too', city = 'Oslo'",
    )
    insert, update = trail.changes()
    protected = {} if option == "exclude" else {"password": {"$audit": "masked"}}
    assert insert.changed == {"id": 1, "name": "ada", "city": "Rome", **protected}
    assert update.changed == {"city": "Oslo", **protected}
    text = trail.value("SELECT string_agg(CAST(a AS text), '') FROM audit.activity a")
    assert "s3cret" not in text


def test_a_protected_column_is_renamed_after_a_restore(trail: Trail) -> None:
    """The columns were numbered anew, so the place tells nothing: what is unknown stays out."""
    trail.script(
        "CREATE TABLE person (gone int, id int PRIMARY KEY, secret text, name text);"
        "ALTER TABLE person DROP COLUMN gone"
    )
    trail.track("person", ["secret"])
    trail.script(
        # As a dump and restore would number them.
        "CREATE TABLE copy (id int PRIMARY KEY, secret text, name text); DROP TABLE person CASCADE;"
        "ALTER TABLE copy RENAME TO person;"
        'CREATE TRIGGER "00_audit_insert" AFTER INSERT ON person REFERENCING NEW TABLE AS new_table '
        "EXECUTE FUNCTION audit.capture_public_person();"
        "ALTER TABLE person RENAME secret TO password"
    )
    trail.run("INSERT INTO person VALUES (1, 's3cret', 'ada')")
    assert trail.changes()[0].changed == {"id": 1, "name": "ada"}


def test_the_schema_is_renamed(trail: Trail) -> None:
    """A condition that no longer fits the table records everything instead of failing the write."""
    trail.run("CREATE TABLE thing (id int PRIMARY KEY, state text)")
    trail.track("thing", options={"when": "NEW.state <> 'draft'"})
    trail.run("INSERT INTO thing VALUES (1, 'draft')")
    assert trail.changes() == []
    trail.run("ALTER TABLE thing RENAME state TO status", "INSERT INTO thing VALUES (2, 'draft')")
    assert [c.object_id for c in trail.changes()] == ["2"]
