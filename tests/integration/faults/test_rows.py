"""Rows that move, swap keys, cascade, or are written by somebody else's trigger."""

from __future__ import annotations

import io

import psycopg2
import pytest

from tests.server import Server
from tests.trail import Trail


def test_truncate_with_cascade(article: Trail) -> None:
    """TRUNCATE … CASCADE reaches tables that were not named."""
    article.create(
        "CREATE TABLE tag (article_id int REFERENCES article, name text, PRIMARY KEY (article_id, name))",
        "tag",
    )
    article.run(
        "INSERT INTO article VALUES (1, 'x', 1)", "INSERT INTO tag VALUES (1, 'a'), (1, 'b')"
    )
    article.run("TRUNCATE article CASCADE")
    truncations = [c for c in article.changes() if c.verb == "truncate"]
    assert [(c.table, c.old) for c in truncations] == [
        ("article", {"rows": 1}),
        ("tag", {"rows": 2}),
    ]


def test_a_truncation_of_unreadable_rows_is_estimated(trail: Trail) -> None:
    """The owner of the trail may not read the table that is truncated."""
    trail.create("CREATE TABLE secret (id int PRIMARY KEY)", "secret")
    trail.script("ALTER TABLE secret ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    trail.run("INSERT INTO secret VALUES (1)", "TRUNCATE secret")
    assert set(trail.changes()[-1].old) <= {"rows", "rows_estimated"}


def test_the_key_changes(article: Trail) -> None:
    """UPDATE of the primary key: one activity, under both identities."""
    article.run("INSERT INTO article VALUES (1, 'x', 1)", "UPDATE article SET id = 2")
    activity = article.logger.activity_cls
    rows = article.value(
        "SELECT jsonb_agg(jsonb_build_array(verb, object_id, new_object_id) ORDER BY id) "
        "FROM audit.activity"
    )
    assert rows == [["insert", "1", None], ["update", "1", "2"]]
    assert activity.new_object_id is not None


def test_keys_are_swapped_in_one_statement(trail: Trail) -> None:
    """Two rows exchange their keys: neither gets the other's data."""
    trail.create(
        "CREATE TABLE seat (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, who text)", "seat"
    )
    trail.run("INSERT INTO seat VALUES (1, 'ada'), (2, 'bo')", "UPDATE seat SET id = 3 - id")
    updates = [(c.object_id, c.old, c.changed) for c in trail.changes()[2:]]
    assert sorted(updates) == [
        ("1", {"id": 1, "who": "ada"}, {"id": 2}),
        ("2", {"id": 2, "who": "bo"}, {"id": 1}),
    ]


EVENTS = (
    "CREATE TABLE event (id int, part int, note text, PRIMARY KEY (id, part)) PARTITION BY LIST (part);"
    "CREATE TABLE event_1 PARTITION OF event FOR VALUES IN (1);"
    "CREATE TABLE event_2 PARTITION OF event FOR VALUES IN (2)"
)


def test_a_partition_move_that_a_trigger_vetoes(trail: Trail) -> None:
    """Rows move to another partition, and a BEFORE INSERT trigger there stops some of them."""
    trail.script(
        EVENTS + ";CREATE FUNCTION veto() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN IF NEW.id % 2 = 0 THEN RETURN NULL; END IF; RETURN NEW; END';"
        "CREATE TRIGGER veto BEFORE INSERT ON event_2 FOR EACH ROW EXECUTE FUNCTION veto()"
    )
    trail.track("event")
    trail.script("INSERT INTO event SELECT g, 1, 'n' || g FROM generate_series(1, 6) g")
    trail.run("UPDATE event SET part = 2, note = note || '!'")
    # The key holds the partition's value: a moved row has no partner, and is deleted and inserted.
    deleted = [c for c in trail.changes()[6:] if c.verb == "delete"]
    inserted = [c for c in trail.changes()[6:] if c.verb == "insert"]
    assert sorted(c.old["id"] for c in deleted) == [1, 2, 3, 4, 5, 6]
    assert all(c.old == {"id": c.old["id"], "part": 1, "note": f"n{c.old['id']}"} for c in deleted)
    assert sorted(c.changed["id"] for c in inserted) == [1, 3, 5]
    assert all(c.changed["note"] == f"n{c.changed['id']}!" for c in inserted)
    assert len(deleted) + len(inserted) == len(trail.changes()[6:])


def test_a_vetoed_move_leaves_the_other_rows_updates(trail: Trail) -> None:
    """In the same statement other rows stay where they are, and pair by their key."""
    trail.script(
        EVENTS
        + ";CREATE FUNCTION veto() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        "CREATE TRIGGER veto BEFORE INSERT ON event_2 FOR EACH ROW EXECUTE FUNCTION veto()"
    )
    trail.track("event")
    trail.run("INSERT INTO event VALUES (1, 1, 'a'), (2, 1, 'b'), (3, 1, 'c')")
    trail.run("UPDATE event SET note = note || '!', part = CASE WHEN id = 2 THEN 2 ELSE 1 END")
    assert sorted((c.verb, c.object_id, c.old["note"], c.changed) for c in trail.changes()[3:]) == [
        ("delete", '["2", "1"]', "b", None),
        ("update", '["1", "1"]', "a", {"note": "a!"}),
        ("update", '["3", "1"]', "c", {"note": "c!"}),
    ]


def test_a_partitioned_partition_is_truncated(trail: Trail) -> None:
    """TRUNCATE of a partition that has partitions itself, and of the whole: one for each table with rows."""
    trail.script(
        "CREATE TABLE event (id int, part int, PRIMARY KEY (id, part)) PARTITION BY LIST (part);"
        "CREATE TABLE event_1 PARTITION OF event FOR VALUES IN (1) PARTITION BY LIST (id);"
        "CREATE TABLE event_1a PARTITION OF event_1 FOR VALUES IN (1);"
        "CREATE TABLE event_1b PARTITION OF event_1 DEFAULT"
    )
    trail.track("event")
    for table in ("event", "event_1", "event_1b"):
        trail.run("INSERT INTO event VALUES (1, 1), (2, 1)", f"TRUNCATE {table}, event_1a")
    rows = [c.old for c in trail.changes() if c.verb == "truncate"]
    assert rows == [{"rows": 1}] * 6


def test_a_partition_with_columns_in_another_order(trail: Trail) -> None:
    """A partition that was a table of its own numbers its columns in its own way."""
    trail.script(
        "CREATE TABLE event (id int, part int, note text, PRIMARY KEY (id, part)) PARTITION BY LIST (part);"
        "CREATE TABLE event_1 (part int NOT NULL, gone int, note text, id int NOT NULL);"
        "ALTER TABLE event_1 DROP COLUMN gone, ADD PRIMARY KEY (id, part);"
        "ALTER TABLE event ATTACH PARTITION event_1 FOR VALUES IN (1)"
    )
    trail.track("event")
    assert findings(trail, "event") == []
    trail.run(
        "INSERT INTO event VALUES (1, 1, 'a')", "UPDATE event_1 SET note = 'b'", "DELETE FROM event"
    )
    row = {"id": 1, "part": 1, "note": "a"}
    assert [(c.object_id, c.old, c.changed) for c in trail.changes()] == [
        ('["1", "1"]', None, row),
        ('["1", "1"]', row, {"note": "b"}),
        ('["1", "1"]', {**row, "note": "b"}, None),
    ]


def test_a_partition_that_is_attached_later(trail: Trail) -> None:
    """ATTACH PARTITION after tracking began: captured through the parent, and named by check."""
    trail.script(EVENTS)
    trail.track("event")
    trail.script(
        "CREATE TABLE event_3 (id int, part int, note text, PRIMARY KEY (id, part));"
        "ALTER TABLE event ATTACH PARTITION event_3 FOR VALUES IN (3)"
    )
    trail.run("INSERT INTO event VALUES (1, 3, 'x')")
    assert [c.table for c in trail.changes()] == ["event"]
    assert ("partition", "public.event_3") in findings(trail, "event")
    trail.track("event")
    assert findings(trail, "event") == []
    trail.run("INSERT INTO event_3 VALUES (2, 3, 'x')")
    assert [c.table for c in trail.changes()] == ["event", "event"]


def test_a_partition_that_is_detached(trail: Trail) -> None:
    """A detached partition goes on with a history of its own, and shares nothing."""
    trail.script(EVENTS)
    trail.track("event")
    trail.run(
        "ALTER TABLE event DETACH PARTITION event_2", "INSERT INTO event_2 VALUES (1, 2, 'x')"
    )
    trail.track("event_2")
    trail.run("INSERT INTO event_2 VALUES (2, 2, 'x')", "INSERT INTO event VALUES (3, 1, 'x')")
    assert [c.table for c in trail.changes()][1:] == ["event_2", "event"]
    assert findings(trail, "event") == findings(trail, "event_2") == []


def test_a_partition_with_its_columns_in_another_order(trail: Trail) -> None:
    """It does not count as altered, which would run the generator for each statement."""
    trail.script(
        "CREATE TABLE event (id int, kind int, name text, PRIMARY KEY (id, kind))"
        " PARTITION BY LIST (kind);"
        "CREATE TABLE event_1 (name text, kind int NOT NULL, id int NOT NULL, PRIMARY KEY (id, kind));"
        "ALTER TABLE event ATTACH PARTITION event_1 FOR VALUES IN (1)"
    )
    trail.track("event")
    trail.run("ALTER FUNCTION audit.capture_statement RENAME TO generator_away")
    trail.run("INSERT INTO event_1 VALUES ('x', 1, 7)", "UPDATE event_1 SET name = 'y'")
    insert, update = trail.changes()
    assert insert.changed == {"id": 7, "kind": 1, "name": "x"}
    assert update.changed == {"name": "y"}


def test_row_level_triggers_follow_partitions(trail: Trail) -> None:
    """With level "row", PostgreSQL itself gives a new partition the triggers."""
    trail.script(EVENTS)
    trail.track("event", options={"level": "row"})
    trail.script(
        "CREATE TABLE event_3 PARTITION OF event FOR VALUES IN (3);"
        "INSERT INTO event_3 VALUES (1, 3, 'x')"
    )
    assert [(c.verb, c.table) for c in trail.changes()] == [("insert", "event")]
    assert [code for code, _ in findings(trail, "event")] in ([], ["partition"])


def test_an_inheritance_child(article: Trail) -> None:
    """A child of old inheritance: captured through the parent; written to directly, named."""
    article.run("CREATE TABLE memo (extra text) INHERITS (article)")
    assert ("child", "public.memo") in findings(article, "article")
    article.run("INSERT INTO memo VALUES (1, 'x', 1, 'e')", "UPDATE article SET name = 'y'")
    assert [(c.verb, c.changed) for c in article.changes()] == [("update", {"name": "y"})]


def test_a_user_trigger_updates_its_own_row(article: Trail) -> None:
    """An AFTER trigger of the user's updates the row again: both changes are there."""
    article.script(
        "CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN UPDATE article SET n = n + 1 WHERE id = NEW.id; RETURN NULL; END';"
        "CREATE TRIGGER again AFTER INSERT OR UPDATE OF name ON article "
        "FOR EACH ROW EXECUTE FUNCTION again()"
    )
    article.run("INSERT INTO article VALUES (1, 'x', 1)", "UPDATE article SET name = 'y'")
    changes = article.changes()
    assert sorted(c.verb for c in changes) == ["insert", "update", "update", "update"]
    assert {"n": 2} in [c.changed for c in changes]
    assert {"n": 3} in [c.changed for c in changes]
    assert {"name": "y"} in [c.changed for c in changes]


def test_a_before_trigger_changes_the_row(article: Trail) -> None:
    """What is recorded is what was stored, not what was asked for."""
    article.script(
        "CREATE FUNCTION upper_name() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN NEW.name := upper(NEW.name); RETURN NEW; END';"
        "CREATE TRIGGER up BEFORE INSERT OR UPDATE ON article "
        "FOR EACH ROW EXECUTE FUNCTION upper_name()"
    )
    article.run("INSERT INTO article VALUES (1, 'x', 1)")
    assert article.changes()[0].changed["name"] == "X"


def test_a_writable_cte_touches_a_table_twice(article: Trail) -> None:
    """INSERT, UPDATE and DELETE of one table in one statement."""
    article.run("INSERT INTO article VALUES (1, 'x', 1), (2, 'y', 2)")
    article.run(
        "WITH d AS (DELETE FROM article WHERE id = 1 RETURNING *), "
        "u AS (UPDATE article SET name = 'z' WHERE id = 2 RETURNING *) "
        "INSERT INTO article SELECT id + 10, name, n FROM d"
    )
    assert sorted((c.verb, c.object_id) for c in article.changes()[2:]) == [
        ("delete", "1"), ("insert", "11"), ("update", "2"),
    ]  # fmt: skip


def test_deferred_constraints_and_actions(trail: Trail) -> None:
    """A cascade fires inside of COMMIT's own checks: exactly once."""
    trail.create("CREATE TABLE parent (id int PRIMARY KEY)", "parent")
    trail.create(
        "CREATE TABLE child (id int PRIMARY KEY, parent_id int REFERENCES parent "
        "ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED)",
        "child",
    )
    trail.run(
        "INSERT INTO parent VALUES (1)", "INSERT INTO child VALUES (1, 1)", "DELETE FROM parent"
    )
    assert [(c.verb, c.table, c.changed) for c in trail.changes()[2:]] == [
        ("delete", "parent", None),
        ("update", "child", {"parent_id": None}),
    ]


@pytest.mark.parametrize("rows", [1, 2000])
def test_a_bulk_update_after_single_updates_is_not_quadratic(article: Trail, rows: int) -> None:
    """The plan that a session made for single rows serves a bulk update."""
    article.script("INSERT INTO article SELECT g, 'x', g FROM generate_series(1, 2000) g")
    with article.engine.begin() as connection:
        for number in range(8):
            connection.exec_driver_sql(f"UPDATE article SET name = 'y{number}' WHERE id = 1")
        connection.exec_driver_sql(f"UPDATE article SET name = 'z' WHERE id <= {rows}")
        plan = connection.exec_driver_sql(
            "SELECT prosrc FROM pg_proc WHERE proname = 'capture_public_article'"
        ).scalar_one()
    # Rows cannot be matched by a nested loop in a FULL JOIN: PostgreSQL has no such plan.
    assert "FULL JOIN" in plan
    assert len(article.changes()) == 2000 + 8 + rows


def test_two_rows_after_one(article: Trail) -> None:
    """One row has a statement of its own in the capture function; neither two nor none use it."""
    article.script("INSERT INTO article VALUES (1, 'a', 1), (2, 'b', 2)")
    article.script("UPDATE article SET name = 'x' WHERE id = 1")
    article.script("UPDATE article SET name = name || id")
    article.script("UPDATE article SET name = 'y' WHERE id = 7")
    updates = [
        (c.object_id, c.old["name"], c.changed) for c in article.changes() if c.verb == "update"
    ]
    assert updates == [
        ("1", "a", {"name": "x"}),
        ("2", "b", {"name": "b2"}),  # the row that stood first since then
        ("1", "x", {"name": "x1"}),
    ]


def test_copy_of_many_rows(article: Trail) -> None:
    """COPY fires statement triggers once, with all its rows."""
    connection = psycopg2.connect(Server.dsn(article.url))
    try:
        with connection, connection.cursor() as cursor:
            lines = "".join(f"{n}\tx\t1\n" for n in range(1000))
            cursor.copy_expert("COPY article FROM STDIN", io.StringIO(lines))
    finally:
        connection.close()
    assert len(article.changes()) == 1000
    assert len(article.transactions()) == 1


def findings(trail: Trail, table: str) -> list[tuple[str, str]]:
    """Return the code and the relation of each finding about ``table``."""
    found = trail.value(
        "SELECT jsonb_agg(jsonb_build_array(code, relation)) "
        "FROM audit.check_table(CAST(:t AS regclass), NULL)",
        t=table,
    )
    return [(code, relation) for code, relation in found or []]
