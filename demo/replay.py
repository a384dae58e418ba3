"""The replay: what happened since 2010, performed again by the desk's people through the ORM.

Each change is a database transaction of its own, under :meth:`AuditLogger.context`, as a job or a
command outside a request does it. The trail's time is the real one, when the replay runs; the date
in the world is in the transaction's metadata.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from demo import catalogue
from demo.load import FEED_LABEL
from demo.models import Base, Country, Currency, Editor, Subdivision, audit_logger, db

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from demo.catalogue import Change, Step

_MODELS: dict[str, type[Any]] = {
    model.__tablename__: model for model in (Country, Currency, Editor, Subdivision)
}


def replay(say: Callable[[str], object] = print) -> int:
    """Perform the changes that were not performed yet, in order.

    :param say: gets one line at the end.
    :return: the number of changes performed now.
    """
    editors = {editor.username: editor for editor in db.session.scalars(sa.select(Editor))}
    people = {
        account.username: {
            "actor_id": editors[account.username].id,
            "actor_label": editors[account.username].name,
            "client_addr": account.client_addr,
        }
        for account in catalogue.EDITORS
        if account.username in editors
    }
    people[catalogue.FEED] = {
        "actor_id": catalogue.FEED, "actor_label": FEED_LABEL, "client_addr": None
    }  # fmt: skip
    done = _performed()
    db.session.rollback()
    todo = list(enumerate(catalogue.changes(), start=1))[done:]
    for number, change in todo:
        perform(change, number=number, person=people.get(change.who, {"actor_id": change.who}))
    if todo:
        say(f"  {len(todo):>5} changes since 2010 performed again, each by one of the editors")
    return len(todo)


def perform(change: Change, *, number: int, person: dict[str, Any]) -> None:
    """Perform one change as one database transaction by ``person``.

    :param number: its place among the changes, from 1; the transaction's metadata keep it.
    :param person: keywords for :meth:`AuditLogger.context`: ``actor_id`` and so on.
    """
    metadata: dict[str, Any] = {"change": number, "effective_date": change.date.isoformat()}
    if change.source:
        metadata["source"] = change.source
    with audit_logger.context(**person, reason=change.reason, **metadata):
        # Steps of one kind are flushed together; the order between kinds matters to foreign keys.
        for (verb, table), steps in itertools.groupby(change.steps, lambda s: (s.verb, s.table)):
            _PERFORM[verb](table, steps)
            db.session.flush()
        db.session.commit()
    db.session.expunge_all()


def _performed() -> int:
    """How many changes the trail says were performed; 0 for a new one."""
    transaction = audit_logger.transaction_cls
    number = sa.cast(sa.cast(transaction.meta, JSONB)["change"], sa.Integer)
    return db.session.scalar(sa.select(sa.func.max(number))) or 0


def _insert(table: str, steps: Iterable[Step]) -> None:
    for step in steps:
        if table == "country_currency":
            country, currency = _link(step)
            country.currencies.append(currency)
        else:
            db.session.add(_MODELS[table](**step.row))


def _delete(table: str, steps: Iterable[Step]) -> None:
    for step in steps:
        if table == "country_currency":
            country, currency = _link(step)
            country.currencies.remove(currency)
        else:
            key = tuple(step.row[name] for name in catalogue.KEYS[table])
            db.session.delete(db.session.get_one(_MODELS[table], key))


def _update(table: str, steps: Iterable[Step]) -> None:
    for step in steps:
        model = _MODELS[table]
        record = db.session.scalars(sa.select(model).filter_by(**step.key)).one()
        for name, value in step.becomes.items():
            setattr(record, name, value)


def _sql(table: str, steps: Iterable[Step]) -> None:
    """A statement as somebody would type it into psql: attributed like everything else."""
    for step in steps:
        db.session.execute(sa.text(step.statement))


def _reload(table: str, steps: Iterable[Step]) -> None:
    target = Base.metadata.tables[table]
    for _ in steps:
        rows = [dict(row) for row in db.session.execute(sa.select(target)).mappings()]
        db.session.execute(sa.text(f"TRUNCATE {table}"))  # the table's name is one of ours
        db.session.execute(sa.insert(target), rows)


def _link(step: Step) -> tuple[Country, Currency]:
    return (
        db.session.get_one(Country, step.row["country_code"]),
        db.session.get_one(Currency, step.row["currency_code"]),
    )


_PERFORM: dict[str, Callable[[str, Iterable[Step]], None]] = {
    "insert": _insert,
    "delete": _delete,
    "update": _update,
    "sql": _sql,
    "reload": _reload,
}
