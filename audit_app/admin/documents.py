"""The answers for machines: which are asked for, and what the trail looks like as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from flask import Response, request

from audit_app.admin.forms import InvalidFilterError
from audit_app.admin.i18n import gettext as _
from audit_app.admin.values import Raw, json_line
from audit_app.models import Undecoded

if TYPE_CHECKING:
    from audit_app.admin.links import Links
    from audit_app.admin.problems import Problem
    from audit_app.admin.search import Results
    from audit_app.admin.tables import TablesRead
    from audit_app.history import Cursor

FORMATS: Final = ("html", "json")

PROBLEM: Final = "application/problem+json"


# -- Which answer ------------------------------------------------------------------------------


def check_format() -> None:
    """Refuse a parameter ``format`` that means nothing.

    :raises InvalidFilterError: if it does.
    """
    given = request.args.get("format", "html")
    if given not in FORMATS:
        raise InvalidFilterError(
            _("There is no format “%(name)s”: write json or html.", name=given[:60])
        )


def wants_json() -> bool:
    """Tell whether JSON is asked for: by the address, the parameter ``format`` or the header.

    A record's key may itself end in ``.json``, so the addresses of records say it by the other
    two. Whoever accepts both alike, as a browser does, gets the page.
    """
    if (request.endpoint or "").endswith("_json"):
        return True
    given = request.args.get("format")
    if given in FORMATS:
        return given == "json"
    accepted = request.accept_mimetypes
    types = ("application/json", PROBLEM)
    best = accepted.best_match(["text/html", *types])
    return best in types and accepted.quality(best) > accepted["text/html"]


def answer(document: Mapping[str, Any], status: int = 200, mimetype: str = "") -> Response:
    """Return a document as a response. Numbers keep every digit that is stored."""
    text = json_line(document) + "\n"
    return Response(text, status, mimetype=mimetype or "application/json")


def problem_document(problem: Problem, errors: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return a problem as RFC 9457 has it.

    :param errors: what is wrong with the parameters, by their names.
    """
    found: dict[str, Any] = {
        "type": "about:blank",
        "title": problem.title,
        "status": problem.status,
        "detail": problem.text,
        "instance": request.path,
    }
    if problem.code:
        found["remedy"] = problem.code
    if errors:
        found["errors"] = dict(errors)
    return found


# -- The trail ---------------------------------------------------------------------------------


def moment_text(value: datetime) -> str:
    """Return a moment in UTC, to the microsecond."""
    return value.astimezone(UTC).isoformat(timespec="microseconds")


def change_document(row: Any) -> dict[str, Any]:
    """Return one change, of a row of :func:`audit_app.history.activity_columns`."""
    return {
        "id": row.id,
        "transaction_id": row.transaction_id,
        "issued_at": moment_text(row.issued_at),
        "schema_name": row.schema_name,
        "table_name": row.table_name,
        "verb": row.verb,
        "object_id": row.object_key,
        "new_object_id": row.new_object_key,
        "old_data": _stored(row.old_data),
        "changed_data": _stored(row.changed_data),
    }


def listed_change(row: Any, links: Links) -> dict[str, Any]:
    """Return one change of a list: large ones come without their values."""
    return {
        **change_document(row),
        "is_large": bool(row.is_large),
        "field_names": list(row.field_names) if row.field_names is not None else None,
        "href": links.activity(row.id),
    }


def transaction_document(row: Any) -> dict[str, Any]:
    """Return the transaction of a row; None where the trail has lost it."""
    return {
        "id": row.t_id,
        "native_transaction_id": _text(row.t_native_transaction_id),
        "issued_at": moment_text(row.t_issued_at),
        "actor_id": row.t_actor_id,
        "actor_label": row.t_actor_label,
        "client_addr": _text(row.t_client_addr),
        "session_user_name": row.t_session_user_name,
        "role_name": row.t_role_name,
        "application_name": row.t_application_name,
        "request_id": row.t_request_id,
        "method": row.t_method,
        "url": row.t_url,
        "reason": row.t_reason,
        "metadata": _stored(row.t_meta),
    }


def with_transaction(row: Any, change: dict[str, Any]) -> dict[str, Any]:
    """Add its transaction to a change; null where it is not there any more."""
    return {**change, "transaction": transaction_document(row) if row.t_id is not None else None}


def _stored(document: Any) -> Any:
    """A stored document; one that Python cannot hold, as its text."""
    return Raw(document.raw) if isinstance(document, Undecoded) else document


def _text(value: object) -> str | None:
    return None if value is None else str(value)


# -- Pages -------------------------------------------------------------------------------------


def feed_document(
    groups: Sequence[Sequence[Any]],
    links: Links,
    *,
    most: int,
    following: Mapping[str, str] | None,
    preceding: Mapping[str, str] | None,
) -> dict[str, Any]:
    """Return a page of the feed.

    :param groups: the rows of each transaction, one more than ``most`` if there are more.
    """
    transactions = []
    for rows in groups:
        changes = [row for row in rows if row.id is not None]
        transactions.append(
            {
                **transaction_document(rows[0]),
                "activities": [listed_change(row, links) for row in changes[:most]],
                "has_more_activities": len(changes) > most,
                "href": links.transaction(rows[0].t_id),
            }
        )
    return {"transactions": transactions, "next": following, "previous": preceding}


def results_document(results: Results) -> dict[str, Any]:
    """Return what a search found."""
    return {
        "query": results.text,
        "records": [
            {
                "schema_name": found.record.schema,
                "table_name": found.record.table,
                "object_id": found.key,
                "label": found.record.label or None,
                "verb": found.verb,
                "issued_at": moment_text(datetime.fromisoformat(found.moment.iso)),
                "href": found.record.url,
            }
            for found in results.records
        ],
        "has_more_records": results.has_more,
        "actors": [
            {"id": actor.id, "label": actor.name, "href": actor.url} for actor in results.people
        ],
        "request_href": results.request_url or None,
    }


def place_document(url: str, cursor: Cursor | int | str) -> dict[str, str]:
    """Return where a list goes on: the address, and the cursor in it."""
    return {"href": url, "cursor": str(cursor)}


def tables_document(read: TablesRead, links: Links) -> dict[str, Any]:
    """Return what is tracked, and what is wrong with it."""
    tables = []
    for table in read.tables:
        found = table.as_dict()
        last = table.last_change
        found["last_change"] = moment_text(last) if last is not None else None
        href = links.activity(table.last_activity_id) if table.last_activity_id else None
        tables.append({**found, "last_change_href": href})
    return {
        "schema_name": read.state.schema_name,
        "is_current": read.state.is_current,
        "is_checked": not read.notice,
        "tables": tables,
        "findings": [finding.as_dict() for finding in read.findings],
    }


# -- The description ---------------------------------------------------------------------------


@cache
def _openapi() -> str:
    return resources.files("audit_app").joinpath("openapi.json").read_text(encoding="utf-8")


def openapi_document(url: str) -> dict[str, Any]:
    """Return the OpenAPI description, for the place where the pages are mounted."""
    found: dict[str, Any] = json.loads(_openapi())
    found["servers"] = [{"url": url.rstrip("/") or "/"}]
    return found
