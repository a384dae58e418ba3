# ruff: noqa: E501 - SQL in full
"""In which order a plan writes."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.orm import declarative_base

from audit_app import AuditLogger
from audit_app.revert import Plan
from tests.integration.revert.books import kinds, track
from tests.trail import Trail


def there_and_back(trail: Trail, logger: AuditLogger, names: list[str], *statements: str) -> Plan:
    """Undo statements at once, and undo that; return the first plan."""

    def state() -> list[Any]:
        with trail.engine.connect() as connection:
            return [
                sorted(map(repr, connection.execute(sa.text(f"SELECT * FROM {name}"))))
                for name in names
            ]

    def undo() -> Plan:
        with orm.Session(trail.engine) as session:
            id_ = session.scalar(sa.text("SELECT max(id) FROM audit.transaction"))
            plan = logger.plan_undo(id_, session=session)
            assert not plan.conflicts, str(plan)
            logger.plan_from_json(plan.to_json()).apply(session, reason="x", through="sql")
            session.commit()
        return plan

    before = state()
    with trail.engine.begin() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))
    after = state()
    assert after != before
    plan = undo()
    assert state() == before
    undo()
    assert state() == after
    return plan


def test_records_that_refer_to_each_other(trail: Trail, audit_logger: AuditLogger) -> None:
    audit_logger.init(declarative_base())
    track(
        trail,
        audit_logger,
        "CREATE TABLE a (id int PRIMARY KEY, b int); CREATE TABLE b (id int PRIMARY KEY, a int"
        " NOT NULL REFERENCES a); ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES b;",
        "a",
        "b",
    )
    trail.run("INSERT INTO a VALUES (1, NULL)", "INSERT INTO b VALUES (1, 1)")
    trail.run("UPDATE a SET b = 1")
    plan = there_and_back(
        trail, audit_logger, ["a", "b"], "UPDATE a SET b = NULL", "DELETE FROM b", "DELETE FROM a"
    )
    assert [f"{s.verb} {s.record.table}" for s in plan.steps] == [
        "insert a",
        "insert b",
        "update a",
    ]
    assert [len(r.changes) for r in plan.records] == [2, 2]


def test_records_that_only_a_deferred_constraint_lets_in(
    trail: Trail, audit_logger: AuditLogger
) -> None:
    audit_logger.init(declarative_base())
    track(
        trail,
        audit_logger,
        "CREATE TABLE a (id int PRIMARY KEY, b int NOT NULL); CREATE TABLE b (id int PRIMARY KEY,"
        ' a int NOT NULL REFERENCES a); ALTER TABLE a ADD CONSTRAINT "a:b" FOREIGN KEY (b)'
        " REFERENCES b DEFERRABLE;",
        "a",
        "b",
    )
    plan = there_and_back(
        trail,
        audit_logger,
        ["a", "b"],
        "SET CONSTRAINTS ALL DEFERRED",
        "INSERT INTO a VALUES (1, 1)",
        "INSERT INTO b VALUES (1, 1)",
    )
    assert plan.deferred == (("public", "a:b"),)


def test_a_circle_without_a_way_out(trail: Trail, audit_logger: AuditLogger) -> None:
    audit_logger.init(declarative_base())
    track(
        trail,
        audit_logger,
        "CREATE TABLE a (id int PRIMARY KEY, other int NOT NULL REFERENCES a)",
        "a",
    )
    trail.run("INSERT INTO a VALUES (1, 2), (2, 1), (3, 3)")
    with trail.engine.connect() as connection:
        id_ = connection.scalar(sa.text("SELECT max(id) FROM audit.transaction"))
        plan = audit_logger.plan_undo(id_, session=connection)
    assert kinds(plan) == ["cycle"]
    assert "public.a 1, public.a 2" in plan.conflicts[0].message
    # Its own parent is nobody's obstacle.
    assert [str(s.record) for s in plan.resolve("c1", "skip").steps] == ["public.a 3"]


def test_whoever_leaves_a_circle_takes_all_of_it_along(
    trail: Trail, audit_logger: AuditLogger
) -> None:
    audit_logger.init(declarative_base())
    track(
        trail,
        audit_logger,
        "CREATE TABLE a (id int PRIMARY KEY, other int NOT NULL REFERENCES a)",
        "a",
    )
    trail.run("INSERT INTO a VALUES (5, 4), (4, 3), (3, 5), (1, 4), (2, 1), (9, 9)")
    with trail.engine.connect() as connection:
        id_ = connection.scalar(sa.text("SELECT max(id) FROM audit.transaction"))
        plan = audit_logger.plan_undo(id_, session=connection).resolve("c1", "skip")
    # Those who only refer to the circle can go.
    assert {str(s.record) for s in plan.steps} == {"public.a 1", "public.a 2", "public.a 9"}


def test_a_chain_within_a_table(trail: Trail, audit_logger: AuditLogger) -> None:
    audit_logger.init(declarative_base())
    track(trail, audit_logger, "CREATE TABLE a (id int PRIMARY KEY, up int REFERENCES a)", "a")
    plan = there_and_back(
        trail, audit_logger, ["a"], "INSERT INTO a VALUES (3, NULL), (1, 3), (2, 1)"
    )
    assert [str(step.record) for step in plan.steps] == ["public.a 2", "public.a 1", "public.a 3"]


def test_keys_that_swap(trail: Trail, audit_logger: AuditLogger) -> None:
    audit_logger.init(declarative_base())
    track(
        trail,
        audit_logger,
        "CREATE TABLE a (id int CONSTRAINT k PRIMARY KEY DEFERRABLE, name text)",
        "a",
    )
    trail.run("INSERT INTO a VALUES (1, 'one'), (2, 'two')")
    plan = there_and_back(trail, audit_logger, ["a"], "UPDATE a SET id = 3 - id")
    assert plan.deferred == (("public", "k"),)


@pytest.mark.parametrize("constraint", ["", "DEFERRABLE"])
def test_a_key_that_others_do_not_follow(
    trail: Trail, audit_logger: AuditLogger, constraint: str
) -> None:
    audit_logger.init(declarative_base())
    track(
        trail,
        audit_logger,
        "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY, a int"
        f" REFERENCES a {constraint})",
        "a",
        "b",
    )
    trail.run("INSERT INTO a VALUES (1)", "INSERT INTO b VALUES (1, 1)")
    plan = there_and_back(
        trail,
        audit_logger,
        ["a", "b"],
        "UPDATE b SET a = NULL",
        "UPDATE a SET id = 2",
        "UPDATE b SET a = 2",
    )
    assert len(plan.steps) == (2 if constraint else 3)
    assert bool(plan.deferred) == bool(constraint)


def test_partitions(trail: Trail, audit_logger: AuditLogger) -> None:
    audit_logger.init(declarative_base())
    track(
        trail,
        audit_logger,
        "CREATE TABLE a (id int, day date, note text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);"
        "CREATE TABLE a_1 PARTITION OF a FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');"
        "CREATE TABLE a_2 PARTITION OF a FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');"
        "CREATE TABLE c (id int PRIMARY KEY, a int, day date, FOREIGN KEY (a, day) REFERENCES a"
        " ON DELETE CASCADE ON UPDATE CASCADE)",
        "a",
        "c",
    )
    trail.run("INSERT INTO a VALUES (1, '2026-01-05', 'x'), (2, '2026-02-05', 'y')")
    trail.run("INSERT INTO c VALUES (1, 1, '2026-01-05')")
    there_and_back(trail, audit_logger, ["a", "c"], "UPDATE a SET day = day + 1, note = 'z'")
    there_and_back(trail, audit_logger, ["a", "c"], "DELETE FROM a")
