"""The links that lead to a preview of the way back, and from what was taken back to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from audit_app import history, models
from audit_app.admin.access import Access
from audit_app.admin.i18n import gettext as _

if TYPE_CHECKING:
    from sqlalchemy import orm

    from audit_app.admin.links import Links
    from audit_app.admin.reading import Logger

_WRITTEN: Final = frozenset({"insert", "update", "delete", "truncate"})


def may_restore(logger: Logger) -> bool:
    """Tell whether the present actor, who may see the pages, may bring back what they show."""
    return logger.can_restore is not None and bool(logger.can_restore(logger.current_actor()))


@dataclass(frozen=True)
class Way:
    """A link to a preview."""

    text: str
    url: str


def way_back(
    logger: Logger, links: Links, row: Any, *, is_newest: bool, is_gone: bool = False
) -> Way | None:
    """Return the link that a version or change of a record has; None without one.

    :param row: an activity, or anything else with its ``id``, ``verb`` and names.
    :param is_newest: whether the record did not change after it.
    :param is_gone: whether the record is not there any more.
    """
    if not may_restore(logger) or table_of(logger, row.schema_name, row.table_name) is None:
        return None
    if row.verb == "delete":
        # What was deleted before the last time is a version like any other.
        return Way(_("Undelete"), links.undelete(row.id)) if is_newest else None
    if row.verb not in {"insert", "update", "baseline"} or (is_newest and not is_gone):
        return None
    return Way(_("Restore this version"), links.restore(row.id))


def way_of_transaction(logger: Logger, links: Links, id_: int, shown: Sequence[Any]) -> Way | None:
    """Return the link that a transaction's page has; None without one."""
    is_known = any(
        row.verb in _WRITTEN and table_of(logger, row.schema_name, row.table_name) is not None
        for row in shown
    )
    if not is_known or not may_restore(logger):
        return None
    return Way(_("Undo this transaction"), links.undo(id_))


def reverted(meta: Any, links: Links) -> tuple[Way, ...]:
    """Return links to what a transaction took back, from its metadata."""
    found = meta.get("reverts") if isinstance(meta, Mapping) else None
    if not isinstance(found, Mapping):
        return ()
    given = found.get("transactions") or [found.get("transaction")]
    ids = [id_ for id_ in given if _is_id(id_)] if isinstance(given, list) else []
    ways = [Way(_("transaction %(id)s", id=id_), links.transaction(id_)) for id_ in ids[:_FEW]]
    given = found.get("activities")
    ids = [id_ for id_ in given if _is_id(id_)] if isinstance(given, list) else []
    ways += [Way(_("change %(id)s", id=id_), links.activity(id_)) for id_ in ids[:_FEW]]
    return tuple(ways)


_FEW: Final = 5
"""Links to what was taken back; the rest is in the metadata."""


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def undone_by(
    session: orm.Session, access: Access, links: Links, id_: int, shown: Sequence[Any]
) -> Way | None:
    """Return the link to the transaction that took another one back, as far as it is near.

    It is looked for among the next changes of one record of the page.
    """
    row = next((row for row in shown if row.verb in _WRITTEN and row.object_key is not None), None)
    if row is None:
        return None
    logger = access.logger
    place = logger.place(row.schema_name, row.table_name)
    query = history.undone_by(
        logger.activity_cls, logger.transaction_cls, place,
        row.new_object_key or row.object_key, after=row.id, transaction_id=id_,
    )  # fmt: skip
    found = session.execute(query).first()
    if found is None or not access.known(session, [found]):
        return None
    text = _("transaction %(id)s", id=found.transaction_id)
    return Way(text, links.transaction(found.transaction_id))


def table_of(logger: Logger, schema: str | None, name: str | None) -> sa.Table | None:
    """Return the tracked table that a name, present or former, stands for."""
    if schema is None or name is None:
        return None
    place = logger.place(schema, name)
    if not logger.is_tracked(place.schema, place.name):
        return None
    metadata: sa.MetaData = logger.base.metadata
    return models.find_table(metadata, place.schema, place.name)
