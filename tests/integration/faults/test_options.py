"""Conditional capture, the shapes of what is stored, and what happens when the trail fails."""

from __future__ import annotations

from typing import Any

import psycopg2
import pytest
import sqlalchemy as sa

from tests.server import Server
from tests.trail import Trail

MASKED = {"$audit": "masked"}


@pytest.fixture
def person(trail: Trail) -> Trail:
    trail.run("CREATE TABLE person (id int PRIMARY KEY, name text, secret text, state text)")
    return trail


def test_include(person: Trail) -> None:
    """Only the named columns and the key are stored; a change of others leaves nothing."""
    person.track("person", options={"include": ["name"]})
    person.run("INSERT INTO person VALUES (1, 'a', 's', 'x')", "UPDATE person SET state = 'y'")
    person.run(
        "ALTER TABLE person ADD COLUMN more text", "UPDATE person SET more = 'm', name = 'b'"
    )
    assert [(c.old, c.changed) for c in person.changes()] == [
        (None, {"id": 1, "name": "a"}),
        ({"id": 1, "name": "a"}, {"name": "b"}),
    ]


def test_mask(person: Trail) -> None:
    """That a masked column changed is recorded, and never what it was or is."""
    person.track("person", options={"mask": ["secret"]})
    person.run(
        "INSERT INTO person VALUES (1, 'a', 's3cret', 'x')",
        "UPDATE person SET secret = 's3cret too'",
        "UPDATE person SET secret = NULL",
        "UPDATE person SET name = NULL",
        "DELETE FROM person",
    )
    insert, update, emptied, other, delete = person.changes()
    assert insert.changed["secret"] == update.old["secret"] == delete.old["secret"] == MASKED
    assert update.changed == emptied.changed == {"secret": MASKED}
    assert other.changed == {"name": None}
    assert "s3cret" not in person.value(
        "SELECT string_agg(CAST(a AS text), '') FROM audit.activity a"
    )


@pytest.mark.parametrize("level", ["statement", "row"])
def test_when(person: Trail, level: str) -> None:
    """Only what the condition is true for is recorded; NULL is not true."""
    person.track(
        "person",
        options={"when": "NEW.state = 'live' OR OLD.state = 'live'", "level": level},
    )
    person.run(
        "INSERT INTO person VALUES (1, 'a', 's', 'draft'), (2, 'b', 's', 'live'), (3, 'c', 's', NULL)",
        "UPDATE person SET state = 'live' WHERE id = 1",
        "UPDATE person SET name = 'z' WHERE id = 3",
        "DELETE FROM person",
    )
    assert [(c.verb, c.object_id) for c in person.changes()] == [
        ("insert", "2"), ("update", "1"), ("delete", "2"), ("delete", "1"),
    ] or sorted((c.verb, c.object_id) for c in person.changes()) == [
        ("delete", "1"), ("delete", "2"), ("insert", "2"), ("update", "1"),
    ]  # fmt: skip


def test_on(person: Trail) -> None:
    """Only the named verbs are recorded; naming others brings their triggers, and takes some away."""
    person.track("person", options={"on": ["delete"]})
    person.run("INSERT INTO person (id) VALUES (1)", "UPDATE person SET name = 'x'")
    person.run("DELETE FROM person", "TRUNCATE person")
    assert [c.verb for c in person.changes()] == ["delete"]
    person.track("person", options={"on": ["insert", "truncate"]})
    person.run("INSERT INTO person (id) VALUES (1)", "DELETE FROM person", "TRUNCATE person")
    assert [c.verb for c in person.changes()] == ["delete", "insert", "truncate"]


def test_row_level_records_the_same(person: Trail) -> None:
    """With level "row" the same changes are recorded; going back and forth between levels works."""
    statements = (
        "INSERT INTO person VALUES (1, 'a', 's', 'x'), (2, 'b', 's', 'x')",
        "UPDATE person SET name = name || '!', secret = NULL",
        "UPDATE person SET id = id + 10",
        "UPDATE person SET id = id",
        "DELETE FROM person",
        "TRUNCATE person",
    )
    seen = []
    for level in ("statement", "row", "statement"):
        person.track("person", options={"level": level})
        before = len(person.changes())
        person.run(*statements)
        seen.append(person.changes()[before:])
    assert seen[0] == seen[1] == seen[2]
    assert len(seen[0]) == 9


def test_query_text(person: Trail) -> None:
    """The statement is stored with the change, without the context that travelled with it."""
    person.track("person", options={"query_text": True})
    with person.logger.context(actor_id="ada"):
        person.run("INSERT INTO person (id, name) VALUES (:id, 'semi;colon')", id=1)
    assert person.value("SELECT query_text FROM audit.activity") == (
        "INSERT INTO person (id, name) VALUES (1, 'semi;colon')"
    )


def test_strict_fails_the_write_clearly(person: Trail) -> None:
    """The audit insert fails: the business write is aborted, and the error says where."""
    person.track("person")
    break_the_trail(person)
    with pytest.raises(sa.exc.IntegrityError, match=r"broken[\s\S]*capture_public_person"):
        person.run("INSERT INTO person (id) VALUES (1)")
    assert person.value("SELECT count(*) FROM person") == 0


def test_degrade_lets_the_write_pass_and_records_the_gap(person: Trail) -> None:
    """The audit insert fails, and by policy the business write goes on: a gap record is left."""
    person.track("person", options={"on_error": "degrade"})
    break_the_trail(person)
    with person.logger.context(actor_id="ada"):
        person.run(
            "INSERT INTO person (id) VALUES (1)", "INSERT INTO person (id, name) VALUES (2, 'x')"
        )
    assert person.value("SELECT count(*) FROM person") == 2
    gap, insert = person.changes()
    assert (gap.verb, gap.table, gap.object_id, gap.actor) == ("gap", "person", None, "ada")
    assert (gap.changed["operation"], gap.changed["sqlstate"]) == ("insert", "23514")
    assert "broken" in gap.changed["message"]
    assert insert.changed["name"] == "x"


@pytest.mark.parametrize("policy", ["strict", "degrade"])
def test_a_truncation_that_cannot_be_recorded(person: Trail, policy: str) -> None:
    """The policy is for it, too: it fails, or passes and leaves a gap."""
    person.track("person", options={"on_error": policy})
    person.run("INSERT INTO person (id) VALUES (1)")
    person.script(
        "ALTER TABLE audit.activity ADD CONSTRAINT broken CHECK (verb <> 'truncate') NOT VALID"
    )
    if policy == "strict":
        with pytest.raises(sa.exc.IntegrityError, match="broken"):
            person.run("TRUNCATE person")
        assert person.value("SELECT count(*) FROM person") == 1
        return
    person.run("TRUNCATE person")
    assert person.value("SELECT count(*) FROM person") == 0
    gap = person.changes()[-1]
    assert (gap.verb, gap.changed["operation"]) == ("gap", "truncate")


def test_degrade_when_nothing_can_be_written(person: Trail) -> None:
    """Not even the gap record can be written: the write passes, the server's log has a warning."""
    person.track("person", options={"on_error": "degrade"})
    person.script("ALTER TABLE audit.activity ADD CONSTRAINT broken CHECK (false) NOT VALID")
    connection = psycopg2.connect(Server.dsn(person.url))  # SQLAlchemy takes the notices away
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute("INSERT INTO person (id) VALUES (1)")
        assert "insert on public.person was not recorded" in connection.notices[-1]
    finally:
        connection.close()
    assert person.value("SELECT count(*) FROM person") == 1


def test_degrade_survives_a_lost_trail(person: Trail) -> None:
    """The trail's table is gone."""
    person.track("person", options={"on_error": "degrade"})
    person.script("ALTER TABLE audit.activity RENAME TO moved")
    person.run("INSERT INTO person (id) VALUES (1)")
    assert person.value("SELECT count(*) FROM person") == 1


@pytest.mark.parametrize(
    "options",
    [
        {"exclude": "name"},
        {"mask": ["nope"]},
        {"include": ["nope"]},
        {"when": "NEW.nope = 1"},
        {"when": "no sql at all ("},
        {"when": "1); DROP TABLE person; SELECT (true"},
        {"on": ["insert", "select"]},
        {"on": []},
        {"level": "table"},
        {"query_text": "yes"},
        {"query_text": True, "mask": ["secret"]},
        {"on_error": "ignore"},
        {"unknown": 1},
    ],
)
def test_wrong_options_are_refused(person: Trail, options: dict[str, Any]) -> None:
    """An option that does not exist, or a value that it cannot have, in a hand-written call."""
    with pytest.raises(sa.exc.DBAPIError, match="person"):
        person.track("person", options=options)
    assert person.value("SELECT to_regclass('person') IS NOT NULL")
    assert person.value("SELECT count(*) FROM pg_trigger WHERE tgname LIKE '00_audit_%'") == 0


def break_the_trail(trail: Trail) -> None:
    """Make an activity of an unnamed person impossible."""
    trail.script(
        "ALTER TABLE audit.activity ADD CONSTRAINT broken CHECK "
        "(verb = 'gap' OR changed_data ->> 'name' IS NOT NULL) NOT VALID"
    )
