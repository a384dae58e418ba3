"""Exports: what the filter shows, streamed, cut at a limit, and recorded in the trail itself."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from flask import Response, current_app, has_request_context, request, stream_with_context
from sqlalchemy import orm
from sqlalchemy.dialects.postgresql import JSONB

from audit_app import install, reader
from audit_app.admin import documents
from audit_app.admin.access import ROUNDS, Access
from audit_app.admin.i18n import gettext as _
from audit_app.admin.reading import Logger, reading
from audit_app.admin.values import json_line
from audit_app.errors import NotGrantedError

if TYPE_CHECKING:
    from collections.abc import Generator

BATCH: Final = 200
"""Rows that are in memory at a time."""

KINDS: Final = ("csv", "json", "ndjson")

COLUMNS: Final = (
    "id", "transaction_id", "issued_at", "actor_id", "actor_label", "schema_name", "table_name",
    "verb", "object_id", "new_object_id", "old_data", "changed_data", "reason", "client_addr",
    "method", "url", "request_id", "session_user_name", "role_name", "application_name",
    "metadata",
)  # fmt: skip
"""The columns of a CSV file. New ones are added at the end."""

_DANGEROUS = tuple("=+-@\t\r\n＝＋－＠")  # noqa: RUF001 - spreadsheets take the wide ones, too
_CANNOT_RECORD = frozenset({"42501", "25006"})  # no privilege; a read-only server


# -- Formats -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Writer:
    """A format: what stands before, between and behind the rows.

    :ivar row: gets a row and its number, from 0.
    :ivar tail: gets the number of rows, and whether there would have been more.
    """

    mimetype: str
    head: str
    row: Callable[[Any, int], str]
    tail: Callable[[int, bool], str]


def writer(kind: str) -> Writer:
    """Return the writer for a kind of :data:`KINDS`."""
    return {"csv": _CSV, "json": _JSON, "ndjson": _NDJSON}[kind]


def _whole(row: Any) -> dict[str, Any]:
    return documents.with_transaction(row, documents.change_document(row))


def cut_text(count: int) -> str:
    """Return what an export says that was cut."""
    return _(
        "Cut after %(num)s changes, and there are more: narrow the filter, or raise "
        "AUDIT_EXPORT_LIMIT.",
        num=count,
    )


def _csv_line(cells: list[Any]) -> str:
    text = io.StringIO()
    csv.writer(text).writerow([defused(cell) for cell in cells])
    return text.getvalue()


def defused(cell: Any) -> Any:
    """Return a text that a spreadsheet takes for a text, and not for a formula."""
    if isinstance(cell, str) and cell.startswith(_DANGEROUS):
        return f"'{cell}"
    return cell


def _csv_row(row: Any, _number: int) -> str:
    change = documents.change_document(row)
    known = documents.transaction_document(row) if row.t_id is not None else {}
    found = {**known, **change}
    for name in ("old_data", "changed_data", "metadata"):
        value = found.get(name)
        found[name] = None if value is None else json_line(value)
    return _csv_line([found.get(name) for name in COLUMNS])


def _csv_tail(count: int, is_cut: bool) -> str:  # noqa: FBT001 - as Writer calls it
    blank = [""] * (len(COLUMNS) - 1)
    return _csv_line([f"# {cut_text(count)}", *blank]) if is_cut else ""


def _json_row(row: Any, number: int) -> str:
    return (",\n" if number else "\n") + json_line(_whole(row))


def _json_tail(count: int, is_cut: bool) -> str:  # noqa: FBT001
    end: dict[str, Any] = {"count": count, "truncated": is_cut}
    if is_cut:
        end["message"] = cut_text(count)
    return "\n], " + json_line(end)[1:] + "\n"


def _ndjson_row(row: Any, _number: int) -> str:
    return json_line(_whole(row)) + "\n"


def _ndjson_tail(count: int, is_cut: bool) -> str:  # noqa: FBT001
    end = {"truncated": True, "count": count, "message": cut_text(count)}
    return json_line(end) + "\n" if is_cut else ""


# The mark at the beginning tells spreadsheets that the file is UTF-8.
_CSV = Writer("text/csv", "\ufeff" + _csv_line(list(COLUMNS)), _csv_row, _csv_tail)
_JSON = Writer("application/json", '{"activities": [', _json_row, _json_tail)
_NDJSON = Writer("application/x-ndjson", "", _ndjson_row, _ndjson_tail)


# -- Exporting ---------------------------------------------------------------------------------


def export(logger: Logger, kind: str, given: Mapping[str, str], query: sa.Select[Any]) -> Response:
    """Return an export as a response that is streamed.

    It is recorded before a row is read, and once more at the end with the number of rows.

    :param given: the parameters that say what is exported, for the record.
    :param query: for rows of :func:`audit_app.history.activity_columns`, without a limit.
    :raises NotGrantedError: if the database does not let it be recorded.
    """
    if request.method == "HEAD":
        return _response(kind, ())
    mark = record(logger, kind, given)
    stream = _stream(logger, kind, given, query, mark)
    first = next(stream)  # what the query cannot do is told by a page, not by half a file
    response = _response(kind, stream_with_context(_joined(first, stream)))
    # Should nobody ever ask for the second part.
    response.call_on_close(stream.close)
    return response


def record(
    logger: Logger,
    kind: str,
    given: Mapping[str, str],
    *,
    rows: int | None = None,
    outcome: str | None = None,
    mark: int | None = None,
) -> int:
    """Leave a mark of an export in the trail, and return its id.

    :param outcome: at the end: ``complete``, ``truncated`` or ``aborted``.
    :param mark: at the end: the id of the mark at the beginning.
    :raises NotGrantedError: if the database does not let it be recorded.
    """
    function = getattr(sa.func, logger.schema_name).record_export
    bind = reader.primary_of(logger)  # a replica takes no marks
    call = sa.select(
        function(
            sa.cast(kind, sa.Text),
            sa.cast(sa.cast(json_line(dict(given)), sa.Text), JSONB),
            sa.cast(rows, sa.BigInteger),
            sa.cast(outcome, sa.Text),
            sa.cast(mark, sa.BigInteger),
        )
    )
    try:
        with orm.Session(bind, join_transaction_mode="create_savepoint") as session:
            id_ = int(session.execute(call).scalar_one())
            session.commit()
            return id_
    except sa.exc.DBAPIError as error:
        if install.sqlstate(error) in _CANNOT_RECORD:
            raise NotGrantedError(
                _("Every export is recorded in the trail, and the application's database role may "
                  "not record one. As the owner of the trail, run")
            ) from error  # fmt: skip
        raise


def _stream(
    logger: Logger, kind: str, given: Mapping[str, str], query: sa.Select[Any], mark: int
) -> Generator[bytes, None, None]:
    limit = int(current_app.config.get("AUDIT_EXPORT_LIMIT", 100_000))
    timeout = int(current_app.config.get("AUDIT_EXPORT_TIMEOUT", 60_000))
    form, text = writer(kind), [writer(kind).head]
    count, outcome = 0, "aborted"
    try:
        with reading(logger, timeout=timeout) as session:
            access = Access.of(logger, session)
            # Where single changes are hidden, more has to be read than is shown.
            most = limit * ROUNDS if access.by_row else limit
            found = session.execute(query.limit(most + 1), execution_options={"yield_per": BATCH})
            looked_at, is_cut = 0, False
            for batch in found.partitions():
                seen = access.only(session, batch)
                looked_at += len(batch)
                is_cut = len(seen) > limit - count or looked_at > most
                for row in seen[: limit - count]:
                    text.append(form.row(row, count))
                    count += 1
                if is_cut:
                    break
                yield "".join(text).encode()
                text = []
            found.close()
        yield "".join([*text, form.tail(count, is_cut)]).encode()
        outcome = "truncated" if is_cut else "complete"
    finally:
        # Outside of a request nobody knows who it was: the first mark then stands alone.
        if has_request_context():
            try:
                record(logger, kind, given, rows=count, outcome=outcome, mark=mark)
            except (sa.exc.SQLAlchemyError, NotGrantedError):
                current_app.logger.exception("The end of export %s could not be recorded.", mark)


def _joined(first: bytes, stream: Generator[bytes, None, None]) -> Iterator[bytes]:
    try:
        yield from itertools.chain((first,), stream)
    finally:
        stream.close()


def _response(kind: str, body: Any) -> Response:
    response = Response(body, mimetype=writer(kind).mimetype)
    if kind == "csv":
        response.headers["Content-Type"] = "text/csv; charset=utf-8; header=present"
    name = f"audit-{datetime.now(UTC):%Y-%m-%d}.{kind}"
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return response
