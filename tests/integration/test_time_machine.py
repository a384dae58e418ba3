"""Whatever is done is undone: random histories against a copy of every state that was committed.

``AUDIT_EXAMPLES=5000`` runs as many histories; the default is a few.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

import hypothesis
import pytest
import sqlalchemy as sa
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from sqlalchemy import orm
from sqlalchemy.orm import declarative_base

from audit_app import AuditLogger
from audit_app.errors import PlanError, PlanOutdatedError, UnresolvedConflictsError
from audit_app.revert import Plan
from tests.trail import Trail

EXAMPLES = int(os.environ.get("AUDIT_EXAMPLES", "40"))

SCHEMA = """
CREATE TABLE region (code text PRIMARY KEY, name text);
CREATE TABLE firm (
    id int PRIMARY KEY,
    region text REFERENCES region ON DELETE SET NULL ON UPDATE CASCADE,
    boss int REFERENCES firm ON DELETE SET NULL ON UPDATE CASCADE,
    email text UNIQUE
);
CREATE TABLE item (
    firm_id int REFERENCES firm ON DELETE CASCADE ON UPDATE CASCADE,
    no int,
    name text,
    PRIMARY KEY (firm_id, no)
);
CREATE TABLE part (
    id int PRIMARY KEY,
    firm_id int,
    item_no int,
    FOREIGN KEY (firm_id, item_no) REFERENCES item ON DELETE CASCADE ON UPDATE CASCADE
);
CREATE TABLE note (
    id int PRIMARY KEY,
    region text NOT NULL REFERENCES region,
    part int REFERENCES part ON DELETE SET NULL
);
"""
COLUMNS = {
    "region": ("code", "name"),
    "firm": ("id", "region", "boss", "email"),
    "item": ("firm_id", "no", "name"),
    "part": ("id", "firm_id", "item_no"),
    "note": ("id", "region", "part"),
}
KEYS = {"region": 1, "firm": 1, "item": 2, "part": 1, "note": 1}

State = dict[str, list[tuple[Any, ...]]]


def declare() -> tuple[AuditLogger, dict[str, Any]]:
    """Return a logger with a model for each table but one."""
    base: Any = declarative_base()
    logger = AuditLogger(actor_cls=None)
    logger.init(base)
    versioned: dict[str, Any] = {}

    class Firm(base):  # type: ignore[misc]
        __tablename__ = "firm"
        __versioned__: ClassVar[dict[str, Any]] = versioned
        id = sa.Column(sa.Integer, primary_key=True)
        region: Any = sa.Column(sa.ForeignKey("region.code"))
        boss: Any = sa.Column(sa.ForeignKey("firm.id"))
        email = sa.Column(sa.Text)
        items = orm.relationship("Item")

    class Item(base):  # type: ignore[misc]
        __tablename__ = "item"
        __versioned__: ClassVar[dict[str, Any]] = versioned
        firm_id: Any = sa.Column(sa.ForeignKey("firm.id"), primary_key=True)
        no = sa.Column(sa.Integer, primary_key=True, autoincrement=False)
        name = sa.Column(sa.Text)

    class Part(base):  # type: ignore[misc]
        __tablename__ = "part"
        __versioned__: ClassVar[dict[str, Any]] = versioned
        id = sa.Column(sa.Integer, primary_key=True)
        firm_id = sa.Column(sa.Integer)
        item_no = sa.Column(sa.Integer)

    class Note(base):  # type: ignore[misc]
        __tablename__ = "note"
        __versioned__: ClassVar[dict[str, Any]] = versioned
        id = sa.Column(sa.Integer, primary_key=True)
        region: Any = sa.Column(sa.ForeignKey("region.code"), nullable=False)
        part: Any = sa.Column(sa.ForeignKey("part.id"))

    region = sa.Table(
        "region",
        base.metadata,
        sa.Column("code", sa.Text, primary_key=True),
        sa.Column("name", sa.Text),
        info={"versioned": {}},
    )
    return logger, {"region": region, "firm": Firm, "item": Item, "part": Part, "note": Note}


def _rows(connection: sa.Connection, query: Any) -> list[tuple[Any, ...]]:
    return sorted((tuple(row) for row in connection.execute(query)), key=repr)


@dataclass
class World:
    """The database, and what can be done in it."""

    trail: Trail
    logger: AuditLogger
    targets: dict[str, Any]

    def clear(self) -> None:
        self.trail.run("TRUNCATE region, firm, item, part, note")
        for table in COLUMNS:
            self.trail.run(f"ALTER TABLE {table} DROP COLUMN IF EXISTS extra")

    def state(self) -> State:
        with self.trail.engine.connect() as connection:
            return {
                table: _rows(connection, sa.text(f"SELECT {', '.join(columns)} FROM {table}"))
                for table, columns in COLUMNS.items()
            }

    def newest(self) -> int | None:
        """The id of the last activity."""
        found: int | None = self.trail.value("SELECT max(id) FROM audit.activity")
        return found

    def past(self, activity_id: int) -> State:
        """The state after an activity, as the trail tells it."""
        with self.trail.engine.connect() as connection:
            found: State = {}
            for table, columns in COLUMNS.items():
                then = self.logger.as_of(self.targets[table], activity_id)
                found[table] = _rows(connection, sa.select(*(then.c[name] for name in columns)))
            return found

    def commit(self, *statements: str) -> int | None:
        """Run statements in one transaction, without those that the database refuses.

        :return: the id of the transaction in the trail; None if nothing was recorded.
        """
        with self.trail.engine.begin() as connection:
            before = connection.scalar(sa.text("SELECT max(id) FROM audit.activity"))
            for statement in statements:
                with suppress(sa.exc.DBAPIError), connection.begin_nested():
                    connection.execute(sa.text(statement))
            found: int | None = connection.scalar(
                sa.text("SELECT max(transaction_id) FROM audit.activity WHERE id > :id"),
                {"id": before or 0},
            )
            return found

    def plan(self, **options: Any) -> Plan:
        with orm.Session(self.trail.engine) as session:
            if "undelete" in options:
                table, identity = options["undelete"]
                return self.logger.plan_undelete(self.targets[table], identity, session=session)
            return self.logger.plan_undo(options["transaction_id"], session=session)

    def apply(self, plan: Plan, through: Any) -> int:
        # A plan in JSON is about columns that the models know.
        if "extra" not in plan.to_json():
            plan = self.logger.plan_from_json(plan.to_json())
        with orm.Session(self.trail.engine) as session:
            id_ = plan.apply(session, reason="test", through=through)
            session.commit()
        return id_


@pytest.fixture
def world(trail: Trail) -> World:
    logger, targets = declare()
    trail.script(SCHEMA)
    for table in COLUMNS:
        trail.track(table)
    logger.attach(trail.engine)
    return World(trail, logger, targets)


# -- Random histories --------------------------------------------------------------------------

NUMBERS = st.integers(1, 4)
CODES = st.sampled_from(["a", "b", "c"])
TEXTS = st.sampled_from(["x", "y", "z", None])


def values(table: str, column: str) -> st.SearchStrategy[Any]:
    if (table, column) in {("region", "code"), ("note", "region")}:
        return CODES
    if (table, column) == ("firm", "region"):
        return CODES | st.none()
    if column in {"name", "email"}:
        return TEXTS
    if column in {"boss", "part"} or (table == "part" and column != "id"):
        return NUMBERS | st.none()
    return NUMBERS


def literal(value: Any) -> str:
    if value is None:
        return "NULL"
    return str(value) if isinstance(value, int) else f"'{value}'"


@st.composite
def statements(draw: st.DrawFn) -> str:
    table = draw(st.sampled_from(sorted(COLUMNS)))
    columns = COLUMNS[table]
    key = columns[: KEYS[table]]
    verb = draw(st.sampled_from(["insert"] * 6 + ["update"] * 5 + ["delete"] * 3 + ["mass"]))
    if verb == "insert":
        row = [literal(draw(values(table, column))) for column in columns]
        return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join(row)})"
    where = " AND ".join(f"{name} = {literal(draw(values(table, name)))}" for name in key)
    if verb == "delete":
        return f"DELETE FROM {table} WHERE {where}"
    column = draw(st.sampled_from(columns))
    value = literal(draw(values(table, column)))
    if verb == "update":
        return f"UPDATE {table} SET {column} = {value} WHERE {where}"
    return draw(
        st.sampled_from(
            [
                f"TRUNCATE {table} CASCADE",
                f"DELETE FROM {table}",
                "UPDATE firm SET id = id + 4",
                "UPDATE item SET no = no + 2",
                f"UPDATE {table} SET {column} = {value}",
                "UPDATE region SET code = code || 'b'",
            ]
        )
    )


TRANSACTIONS = st.lists(statements(), min_size=1, max_size=6)
THROUGH = st.sampled_from(["orm", "sql"])


class TimeMachine(RuleBasedStateMachine):
    """Keeps every committed state, and goes back to them."""

    world: ClassVar[World]

    def __init__(self) -> None:
        super().__init__()
        self.world.clear()
        self.states: list[State] = [self.world.state()]
        self.activities = [self.world.newest()]  # after which each state was reached
        self.transactions: list[tuple[int, bool]] = []  # with: does it truncate?

    def note(self, id_: int | None, *, truncates: bool = False) -> None:
        if id_ is not None:
            self.transactions.append((id_, truncates))
            self.states.append(self.world.state())
            self.activities.append(self.world.newest())

    @rule(statements=TRANSACTIONS)
    def work(self, statements: list[str]) -> None:
        id_ = self.world.commit(*statements)
        self.note(id_, truncates=any("TRUNCATE" in text for text in statements))

    @rule(data=st.data())
    def look_back(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(0, len(self.states) - 1))
        id_ = self.activities[number]
        if id_ is not None:
            assert self.world.past(id_) == self.states[number]

    @rule(table=st.sampled_from(sorted(COLUMNS)))
    def alter(self, table: str) -> None:
        """A column comes that nobody asked for, or goes; the capture is not told."""
        has_it = self.world.trail.value(
            "SELECT count(*) FROM pg_attribute WHERE attrelid = to_regclass(:table) "
            "AND attname = 'extra' AND NOT attisdropped",
            table=table,
        )
        change = "DROP COLUMN extra" if has_it else "ADD COLUMN extra int"
        self.world.trail.script(f"ALTER TABLE {table} {change}")

    @precondition(lambda self: self.transactions)
    @rule(through=THROUGH)
    def undo(self, through: str) -> None:
        id_, truncates = self.transactions[-1]
        plan = self.world.plan(transaction_id=id_)
        if not self.try_(plan, through, allowed={"truncated"} if truncates else set()):
            return
        assert self.states[-1] == self.states[-3], str(plan)

    @precondition(lambda self: self.transactions)
    @rule(one=THROUGH, two=THROUGH)
    def undo_twice(self, one: str, two: str) -> None:
        before = self.states[-1]
        id_, truncates = self.transactions[-1]
        if truncates or not self.try_(self.world.plan(transaction_id=id_), one):
            return
        again = self.world.plan(transaction_id=self.transactions[-1][0])
        if self.try_(again, two):
            assert self.states[-1] == before, str(again)

    @rule(data=st.data(), through=THROUGH)
    def delete_and_undelete(self, data: st.DataObject, through: str) -> None:
        rows = [(table, row) for table in COLUMNS for row in self.states[-1][table]]
        if not rows:
            return
        table, row = data.draw(st.sampled_from(rows))
        key = row[: KEYS[table]]
        names = COLUMNS[table][: KEYS[table]]
        where = " AND ".join(f"{n} = {literal(v)}" for n, v in zip(names, key, strict=True))
        id_ = self.world.commit(f"DELETE FROM {table} WHERE {where}")
        if id_ is None:  # something refers to it
            return
        self.note(id_)
        plan = self.world.plan(undelete=(table, key))
        assert self.try_(plan, through)
        assert self.states[-1] == self.states[-3], str(plan)

    @precondition(lambda self: self.transactions)
    @rule(data=st.data(), statements=TRANSACTIONS, through=THROUGH)
    def come_too_late(self, data: st.DataObject, statements: list[str], through: str) -> None:
        id_, _ = data.draw(st.sampled_from(self.transactions))
        plan = self.world.plan(transaction_id=id_)
        for conflict in plan.conflicts:
            if plan.unresolved:
                choice = data.draw(st.sampled_from(conflict.choices))
                current = next(c for c in plan.conflicts if c.id == conflict.id)
                if current.resolution is None:
                    plan = plan.resolve(conflict.id, choice)
        self.work(statements)
        before = self.states[-1]
        try:
            self.note(self.world.apply(plan, through))
        except PlanError:
            assert self.world.state() == before, str(plan)

    def try_(self, plan: Plan, through: str, allowed: set[str] = frozenset()) -> bool:  # type: ignore[assignment]
        """Apply a plan without conflicts; make sure that one with conflicts does nothing."""
        kinds = {conflict.kind for conflict in plan.unresolved}
        assert kinds <= {*allowed, "cycle"}, str(plan)
        if kinds:
            with pytest.raises(UnresolvedConflictsError):
                self.world.apply(plan, through)
            assert self.world.state() == self.states[-1]
            return False
        if not plan.steps:
            assert self.states[-1] == self.states[-2], str(plan)
            return False
        hypothesis.note(str(plan))
        self.note(self.world.apply(plan, through))
        return True


def test_the_time_machine(world: World) -> None:
    machine = type("Machine", (TimeMachine,), {"world": world})
    settings = hypothesis.settings(
        max_examples=EXAMPLES,
        stateful_step_count=12,
        deadline=None,
        derandomize="AUDIT_EXAMPLES" not in os.environ,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        print_blob=False,
    )
    run_state_machine_as_test(machine, settings=settings)


# -- What it found -----------------------------------------------------------------------------


def test_a_record_that_was_changed_before_its_table_was_truncated(world: World) -> None:
    world.commit("INSERT INTO firm VALUES (1, NULL, 1, 'y')")
    id_ = world.commit("UPDATE firm SET id = id + 4", "TRUNCATE firm CASCADE")
    assert {conflict.kind for conflict in world.plan(transaction_id=id_).conflicts} == {"truncated"}


def test_a_plan_that_comes_too_late(world: World) -> None:
    id_ = world.commit("INSERT INTO region VALUES ('a', 'x')")
    plan = world.plan(transaction_id=id_)
    world.commit("UPDATE region SET name = 'y'")
    with pytest.raises(PlanOutdatedError, match="public.region a"):
        world.apply(plan, "sql")
    assert world.state()["region"] == [("a", "y")]
