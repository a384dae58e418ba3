"""The demo's data: consistent in themselves, and the replay ends in today's state."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pycountry
import pytest
import sqlalchemy as sa

from demo import catalogue
from demo.app import create_app
from demo.commands import prepare, reset
from demo.load import load
from demo.models import Base, Editor, audit_logger, db
from demo.replay import perform, replay

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask import Flask

FOREIGN_KEYS = (
    ("country_currency", "country_code", "country"),
    ("country_currency", "currency_code", "currency"),
    ("subdivision", "country_code", "country"),
    ("subdivision", "parent_code", "subdivision"),
)


@pytest.fixture
def app(database_url: str) -> Iterator[Flask]:
    app = create_app(database_url, secret_key="test")
    yield app
    with app.app_context():
        db.session.remove()
        db.engine.dispose()


@pytest.fixture
def desk(app: Flask) -> Iterator[Flask]:
    prepare(app, lambda line: None)
    with app.app_context():
        yield app


def stored_state() -> catalogue.State:
    state: catalogue.State = {}
    for table, columns in catalogue.COLUMNS.items():
        columns_of = Base.metadata.tables[table].c
        rows = db.session.execute(sa.select(*(columns_of[name] for name in columns))).mappings()
        state[table] = {
            tuple(row[name] for name in catalogue.KEYS[table]): dict(row) for row in rows
        }
    db.session.rollback()
    return state


def transactions() -> list[Any]:
    cls = audit_logger.transaction_cls
    return list(db.session.scalars(sa.select(cls).order_by(cls.id)))


class TestFacts:
    def test_legal_tender_names_known_codes(self) -> None:
        countries = {country.alpha_2 for country in pycountry.countries}
        currencies = {currency.alpha_3 for currency in pycountry.currencies}
        rows = catalogue.legal_tender()
        assert {row["country_code"] for row in rows} <= countries
        assert {row["currency_code"] for row in rows} <= currencies

    def test_legal_tender_covers_every_country_once(self) -> None:
        rows = [(row["country_code"], row["currency_code"]) for row in catalogue.legal_tender()]
        assert rows == sorted(set(rows))
        without = {country.alpha_2 for country in pycountry.countries} - {code for code, _ in rows}
        assert without == {"AQ", "GS", "PS"}  # as list one of ISO 4217 has it

    @pytest.mark.parametrize("state", [catalogue.before(), catalogue.today()])
    def test_every_reference_has_a_target(self, state: catalogue.State) -> None:
        for table, column, target in FOREIGN_KEYS:
            values = {row[column] for row in state[table].values()} - {None}
            assert values <= {key for (key,) in state[target]}

    def test_changes_lead_from_the_past_to_today(self) -> None:
        assert catalogue.before() != catalogue.today()
        assert catalogue.after() == catalogue.today()

    def test_changes_show_every_kind_of_write(self) -> None:
        changes = catalogue.changes()
        assert len(changes) >= 20
        assert [c.date for c in changes] == sorted(c.date for c in changes)
        assert {c.who for c in changes} == {"ada", "noor", "tomas", "iso-feed"}
        verbs = Counter(step.verb for change in changes for step in change.steps)
        assert set(verbs) == {"insert", "update", "delete", "sql", "reload"}

    def test_subdivisions_come_after_their_parents(self) -> None:
        seen: set[str | None] = {None}
        for group in catalogue.by_parent(catalogue.today()["subdivision"]):
            assert {row["parent_code"] for row in group} <= seen
            seen |= {row["code"] for row in group}


class TestReplay:
    def test_ends_in_todays_state(self, desk: Flask) -> None:
        assert stored_state() == catalogue.today()

    def test_second_start_changes_nothing(self, desk: Flask) -> None:
        before = len(transactions())
        lines: list[str] = []
        prepare(desk, lines.append)
        assert lines == []
        assert len(transactions()) == before

    def test_each_change_is_one_transaction_of_its_person(self, desk: Flask) -> None:
        names = {editor.username: editor.name for editor in db.session.scalars(sa.select(Editor))}
        replayed = [t for t in transactions() if "change" in (t.meta or {})]
        assert [
            (t.meta["change"], t.actor_name, t.reason, t.meta["effective_date"]) for t in replayed
        ] == [
            (n, names.get(c.who, "ISO feed"), c.reason, c.date.isoformat())
            for n, c in enumerate(catalogue.changes(), start=1)
        ]
        assert all(t.actor is not None for t in replayed if t.actor_name != "ISO feed")

    def test_the_load_is_a_few_transactions(self, desk: Flask) -> None:
        loads = [t for t in transactions() if (t.meta or {}).get("job") == "initial-load"]
        assert len(loads) == 4
        assert sum(len(t.activities) for t in loads) > 5000

    def test_an_interrupted_start_goes_on(self, app: Flask) -> None:
        with app.app_context():
            db.create_all()
            load(lambda line: None)
            first = catalogue.changes()[0]
            perform(first, number=1, person={"actor_id": first.who})
            assert replay(lambda line: None) == len(catalogue.changes()) - 1
            assert stored_state() == catalogue.today()

    def test_a_records_history_survives_its_new_code(self, desk: Flask) -> None:
        activity = audit_logger.activity_cls
        query = (
            sa.select(activity)
            .where(activity.table_name == "subdivision")
            .where(sa.or_(activity.object_key == "KZ-AST", activity.object_key == "KZ-71"))
            .order_by(activity.id)
        )
        found = [(a.verb, a.data["name"], a.data["code"]) for a in db.session.scalars(query)]
        assert found == [
            ("insert", "Astana", "KZ-AST"),
            ("update", "Nur-Sultan", "KZ-AST"),
            ("update", "Astana", "KZ-AST"),
            ("update", "Astana", "KZ-71"),
        ]

    def test_no_password_hash_reaches_the_trail(self, desk: Flask) -> None:
        activity = audit_logger.activity_cls
        editors = db.session.scalars(sa.select(activity).where(activity.table_name == "editor"))
        assert all("password_hash" not in a.data for a in editors)

    def test_reset_leaves_nothing(self, desk: Flask) -> None:
        reset(desk)
        assert sa.inspect(db.engine).get_table_names() == []
        assert audit_logger.schema_name not in sa.inspect(db.engine).get_schema_names()
