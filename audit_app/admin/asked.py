"""What a request asks for: tables, records and ids as its address and parameters name them."""

from __future__ import annotations

from collections.abc import Mapping

from flask import request

from audit_app import history, models
from audit_app.admin.access import Access
from audit_app.admin.i18n import gettext as _
from audit_app.admin.reading import Logger, current_logger
from audit_app.errors import InvalidCursorError, RecordNotFoundError
from audit_app.formerly import Place


def named_record() -> list[str]:
    """The schema, table and identity that the parameters name; empty unless all three do."""
    names = ("schema", "table", "identity")
    found = [request.args[name] for name in names if name in request.args]
    return found if len(found) == len(names) else []


def known_tables(logger: Logger) -> list[tuple[str, str]]:
    """Tables to choose from in the filters: those that the code tracks and the visitor may see."""
    access = Access(logger, logger.current_actor())
    return [
        (table.schema, table.name)
        for table in logger.audited_tables()
        if access.sees_table(table.schema, table.name)
    ]


def place_of(schema: str, table: str) -> Place:
    """The table that an address means; one that may not be seen like one that nobody knows."""
    logger = current_logger()
    place = logger.place(schema, table)
    is_seen = Access(logger, logger.current_actor()).sees_table(place.schema, place.name)
    return place if is_seen else Place(schema, table)


def others(arguments: Mapping[str, str]) -> dict[str, str]:
    """The parameters that do not name the record."""
    names = {"schema", "table", "identity"}
    return {name: value for name, value in arguments.items() if name not in names}


def table_parameter(logger: Logger, schema: str, table: str) -> str | None:
    """The filter's word for a table; None for one that is not to be chosen there."""
    known = known_tables(logger)
    if (schema, table) not in known:
        return None
    return table if [name for _s, name in known].count(table) == 1 else f"{schema}.{table}"


def known_fields(logger: Logger) -> list[str]:
    """Fields to suggest in the filters: the columns of what the code tracks."""
    metadata, names = logger.base.metadata, set[str]()
    for schema, name in known_tables(logger):
        table = models.find_table(metadata, schema, name)
        names.update(table.columns.keys() if table is not None else ())
    return sorted(names)


def former_fields(schema: str, table: str, name: str) -> tuple[str, ...]:
    """The former names of a column."""
    columns = dict(current_logger().place(schema, table).formerly.columns)
    return tuple(columns.get(name, ()))


def known_id(text: str) -> int:
    """The id in an address.

    :raises RecordNotFoundError: if it is none.
    """
    try:
        return history.parse_id(text)
    except InvalidCursorError as error:
        raise RecordNotFoundError(_("“%(id)s” is no id of the trail.", id=text[:60])) from error


def cursor_id(name: str) -> int | None:
    """The id that a parameter gives; None without it.

    :raises InvalidCursorError: if it is none.
    """
    text = request.args.get(name)
    return None if text is None else history.parse_id(text)


def check_text(*texts: str | None) -> None:
    """Refuse what PostgreSQL's text cannot hold, so that no such record can exist.

    :raises RecordNotFoundError: if one of ``texts`` is such.
    """
    if any(text is not None and "\x00" in text for text in texts):
        raise RecordNotFoundError
    try:
        "".join(text or "" for text in texts).encode()
    except UnicodeEncodeError as error:
        raise RecordNotFoundError from error
