"""The initial load: more than 5,000 rows by a background job, in a few bulk transactions."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from demo import catalogue
from demo.models import Base, Country, Currency, Editor, Subdivision, audit_logger, db

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

FEED_LABEL = "ISO feed"


def load(say: Callable[[str], object] = print) -> bool:
    """Fill the empty tables with the state before all changes.

    A table that holds rows is left alone, so an interrupted load goes on where it stopped.

    :param say: gets a line per transaction, with the number of rows and the time it took.
    :return: whether anything was loaded.
    """
    state = catalogue.before()
    rows = {table: list(by_key.values()) for table, by_key in state.items()}
    done = [
        _fill(
            [(Currency, rows["currency"]), (Country, rows["country"])],
            "First import of ISO 4217 currencies and ISO 3166-1 countries",
            say,
        ),
        _fill(
            [(Subdivision, group) for group in catalogue.by_parent(state["subdivision"])],
            "First import of ISO 3166-2 subdivisions",
            say,
        ),
        _fill(
            [(Base.metadata.tables["country_currency"], rows["country_currency"])],
            "First import of ISO 4217 list one: legal tender by country",
            say,
        ),
        _hire_editors(state["editor"].values(), say),
    ]
    return any(done)


def _fill(
    parts: Sequence[tuple[Any, list[catalogue.Row]]], reason: str, say: Callable[[str], object]
) -> bool:
    if _has_rows(parts[0][0]):
        return False
    started = time.perf_counter()
    with audit_logger.context(
        actor_id=catalogue.FEED, actor_label=FEED_LABEL, reason=reason, job="initial-load"
    ):
        for target, rows in parts:
            db.session.execute(sa.insert(target), rows)
        db.session.commit()
    count = sum(len(rows) for _, rows in parts)
    say(f"  {count:>5} rows in {time.perf_counter() - started:4.1f} s  {reason}")
    return True


def _hire_editors(rows: Iterable[catalogue.Row], say: Callable[[str], object]) -> bool:
    if _has_rows(Editor):
        return False
    passwords = {account.username: account.password for account in catalogue.EDITORS}
    ordered = {row["username"]: row for row in rows}
    with audit_logger.context(
        actor_id="setup", actor_label="Set-up", reason="The desk's editors", job="initial-load"
    ):
        for username, password in passwords.items():
            editor = Editor(**ordered[username])
            editor.set_password(password)
            db.session.add(editor)
            db.session.flush()  # one by one, so that the ids follow the order
        db.session.commit()
    say(f"  {len(passwords):>5} editors")
    return True


def _has_rows(target: Any) -> bool:
    found = db.session.scalar(sa.select(sa.select(sa.literal(1)).select_from(target).exists()))
    db.session.rollback()
    return bool(found)
