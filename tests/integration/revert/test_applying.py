"""Applying a plan: whole or not at all."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.orm import declarative_base

from audit_app import AuditLogger
from audit_app.errors import (
    PlanError,
    PlanFailedError,
    PlanOutdatedError,
)
from tests.integration.revert.books import Library, everything, through, track
from tests.trail import Trail


@through
def test_an_outdated_plan_names_the_records(library: Library, through: str) -> None:
    id_ = library.run(
        "UPDATE article SET title = 'x' WHERE id = 1", "UPDATE article SET title = 'x' WHERE id = 2"
    )
    plan = library.undo(id_)
    library.run("UPDATE article SET price = 7 WHERE id = 2")
    before = everything(library)
    with pytest.raises(PlanOutdatedError, match="public.article 2") as caught:
        library.apply(plan, through)
    assert caught.value.records == ("public.article 2",)
    assert everything(library) == before
    library.run("DELETE FROM article WHERE id = 2")
    with pytest.raises(PlanOutdatedError, match="public.article 2"):
        library.apply(plan, through)


def test_a_plan_whose_table_was_truncated_since(library: Library) -> None:
    id_ = library.run("DELETE FROM attic.box WHERE id = 1")
    plan = library.undo(id_)
    library.run("TRUNCATE attic.box")
    with pytest.raises(PlanOutdatedError, match="attic.box was truncated"):
        library.apply(plan)


def test_two_people_apply_one_plan(library: Library) -> None:
    id_ = library.run("UPDATE article SET title = 'x' WHERE id = 1")
    plan = library.undo(id_)
    failures: list[Exception] = []

    def second() -> None:
        try:
            library.apply(plan)
        except PlanError as error:
            failures.append(error)

    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    other = threading.Thread(target=second)
    with orm.Session(library.trail.engine) as session:
        plan.apply(session, reason="first", through="sql")
        other.start()
        with sa.create_engine(library.trail.url).connect() as connection:
            while not connection.scalar(sa.text(waiting)):
                assert other.is_alive()
                connection.rollback()
        connection.engine.dispose()
        session.commit()
    other.join()
    assert [type(error) for error in failures] == [PlanOutdatedError]
    assert library.trail.transactions()[-1].reason == "first"


@through
def test_nothing_is_half_applied(library: Library, through: str) -> None:
    id_ = library.run(
        "UPDATE article SET title = 'x' WHERE id = 1", "DELETE FROM attic.box WHERE id = 2"
    )
    plan = library.undo(id_)
    library.trail.run("ALTER TABLE article ADD CONSTRAINT c CHECK (title <> 'one')")
    with orm.Session(library.trail.engine) as session:
        session.execute(sa.text("UPDATE tag SET name = 'kept' WHERE id = 1"))
        with pytest.raises(PlanFailedError) as caught:
            plan.apply(session, reason="x", through=through)  # type: ignore[arg-type]
        session.commit()
    message = str(caught.value)
    assert message.startswith("The update of public.article 1 was refused, and nothing of the plan")
    assert 'violates check constraint "c"' in message
    assert "break a rule" in message
    assert library.rows("SELECT title FROM article WHERE id = 1") == [("x",)]
    assert library.rows("SELECT * FROM attic.box WHERE id = 2") == []
    assert library.rows("SELECT name FROM tag WHERE id = 1") == [("kept",)]
    # What is written next is not told to revert anything.
    assert library.trail.transactions()[-1].meta is None


@through
def test_a_trigger_that_stops_the_write(library: Library, through: str) -> None:
    id_ = library.run("UPDATE attic.box SET article_id = 2 WHERE id = 1")
    plan = library.undo(id_)
    library.trail.script(
        "CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        "CREATE TRIGGER stop BEFORE UPDATE ON attic.box FOR EACH ROW EXECUTE FUNCTION stop();"
    )
    with pytest.raises((PlanFailedError, orm.exc.StaleDataError)):
        library.apply(plan, through)
    assert library.rows("SELECT article_id FROM attic.box WHERE id = 1") == [(2,)]


def test_deferred_constraints_are_checked_before_it_is_done(
    trail: Trail, audit_logger: AuditLogger
) -> None:
    audit_logger.init(declarative_base())
    track(
        trail,
        audit_logger,
        "CREATE TABLE a (id int PRIMARY KEY, u int UNIQUE DEFERRABLE INITIALLY DEFERRED)",
        "a",
    )
    trail.run("INSERT INTO a VALUES (1, 1), (7, 7)", "UPDATE a SET u = 2 WHERE id = 1")
    trail.script(
        "CREATE FUNCTION seven() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN NEW.u := 7; RETURN NEW; END';"
        "CREATE TRIGGER seven BEFORE UPDATE ON a FOR EACH ROW EXECUTE FUNCTION seven();"
    )
    with orm.Session(trail.engine) as session:
        id_ = session.scalar(sa.text("SELECT max(id) FROM audit.transaction"))
        plan = audit_logger.plan_undo(id_, session=session)
        with pytest.raises(PlanFailedError, match="duplicate key"):
            plan.apply(session, reason="x", through="sql")
        session.commit()
    assert trail.value("SELECT u FROM a WHERE id = 1") == 2


def test_an_error_of_an_event_is_seen_and_nothing_is_written(library: Library) -> None:
    id_ = library.run(
        "UPDATE article SET title = 'x' WHERE id = 1", "UPDATE article SET title = 'x' WHERE id = 2"
    )
    before = everything(library)

    def refuse(mapper: Any, connection: Any, target: Any) -> None:
        if target.id == 2:
            raise ZeroDivisionError

    sa.event.listen(library.article, "before_update", refuse)
    with orm.Session(library.trail.engine) as session:
        with pytest.raises(ZeroDivisionError):
            library.logger.plan_undo(id_, session=session).apply(session, reason="x")
        session.commit()
    assert everything(library) == before


@pytest.mark.parametrize("reason", ["", "  \n", None, 7])
def test_a_reason_is_required(library: Library, reason: Any) -> None:
    plan = library.undo(library.run("UPDATE tag SET name = 'x' WHERE id = 1"))
    with pytest.raises(PlanError, match="needs a reason"):
        library.apply(plan, reason=reason)
    with pytest.raises(PlanError, match="through='both'"):
        library.apply(plan, "both")
    with pytest.raises(PlanError, match="belongs to no AuditLogger"):
        library.apply(replace(plan, applier=None))


def test_without_capture_nothing_is_applied(library: Library) -> None:
    plan = library.undo(library.run("UPDATE tag SET name = 'x' WHERE id = 1"))
    library.trail.run("SELECT audit.unaudit_table('tag')")
    with pytest.raises(PlanFailedError, match="was not recorded"):
        library.apply(plan)
    assert library.rows("SELECT name FROM tag WHERE id = 1") == [("x",)]
