"""Addresses of the pages, for whichever place they are mounted at."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from flask import url_for
from werkzeug.routing import Map, PathConverter

from audit_app.admin import theme

ASSETS = Path(__file__).resolve().parent.parent / "static" / "audit"

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def is_path_safe(*parts: str) -> bool:
    """Tell whether ``parts`` survive as a path.

    Browsers resolve ``.`` and ``..``, servers merge slashes and decode ``%2F``: what a path would
    lose travels as a parameter.
    """
    segments = [segment for part in parts for segment in part.split("/")]
    return all(
        segment not in {"", ".", ".."} and not _CONTROL.search(segment) for segment in segments
    )


@cache
def asset_digest(filename: str) -> str:
    """Return a short digest of a file of ours, so that its address changes with it."""
    return hashlib.sha256((ASSETS / filename).read_bytes()).hexdigest()[:12]


_ANY = "987654321987654321"  # stands for what is put in later
_AS_PATH = PathConverter(Map())


class Links:
    """Builds the addresses below one mounted view.

    :param endpoint: the view's endpoint.
    :param zone: the time zone that the visitor chose; it goes along from page to page.
    :param answer: ``json`` where the addresses are for machines.
    """

    def __init__(
        self, endpoint: str, *, zone: str | None = None, answer: str | None = None
    ) -> None:
        self.endpoint = endpoint
        self.zone = zone
        self.answer = answer
        # A page has hundreds of addresses, most of them several times, and building one takes
        # longer than reading its row.
        self._built: dict[tuple[Any, ...], str] = {}

    def _url(self, page: str, **values: Any) -> str:
        call = (page, *values.items())
        if call not in self._built:
            values = {"tz": self.zone or None, "format": self.answer, **values}
            given = {name: value for name, value in values.items() if value is not None}
            self._built[call] = url_for(f"{self.endpoint}.{page}", **given)
        return self._built[call]

    def _with(self, page: str, name: str, text: str, values: Mapping[str, Any]) -> str:
        """Address with ``text`` in its path: that of any other text, with this one in its place."""
        if any(_ANY in str(value) for value in values.values()):
            return self._url(page, **{name: text}, **values)
        return self._url(page, **{name: _ANY}, **values).replace(_ANY, _AS_PATH.to_url(text), 1)

    def feed(self, query: Mapping[str, str] | None = None, **values: Any) -> str:
        """Address of the feed, with the filters of ``query``."""
        return self._url("index", **_filters(query), **values)

    def record(self, schema_name: str, table_name: str, key: str, **values: Any) -> str:
        """Address of a record's timeline.

        :param key: the text of ``activity.object_key``.
        """
        return self._of_record("record", "records", schema_name, table_name, key, values)

    def compare(self, schema_name: str, table_name: str, key: str, **values: Any) -> str:
        """Address of the comparison of two versions of a record.

        :param key: the text of ``activity.object_key``.
        """
        return self._of_record("compare", "comparison", schema_name, table_name, key, values)

    def _of_record(  # noqa: PLR0917 - what names a record
        self,
        page: str,
        by_parameters: str,
        schema_name: str,
        table_name: str,
        key: str,
        values: Mapping[str, Any],
    ) -> str:
        names = {"schema": schema_name, "table": table_name}
        if is_path_safe(*names.values(), key) and "/" not in schema_name + table_name:
            return self._with(page, "identity", key, {**names, **values})
        return self._url(by_parameters, **names, identity=key, **values)

    def records(self) -> str:
        """Address that takes a record's schema, table and identity as parameters."""
        return self._url("records", tz=None)

    def activity(self, id_: int, **values: Any) -> str:
        """Address of one change."""
        return self._with("activity", "activity_id", str(id_), values)

    def version(self, id_: int, **values: Any) -> str:
        """Address of the whole row as it was after one change."""
        return self._with("version", "activity_id", str(id_), values)

    def transaction(self, id_: int, **values: Any) -> str:
        """Address of everything that one transaction changed."""
        return self._with("transaction", "transaction_id", str(id_), values)

    def restore(self, id_: int, **values: Any) -> str:
        """Address of the preview of a record as it was after one change."""
        return self._with("restore", "activity_id", str(id_), values)

    def undelete(self, id_: int, **values: Any) -> str:
        """Address of the preview of what one deletion took away."""
        return self._with("undelete", "activity_id", str(id_), values)

    def undo(self, id_: int, **values: Any) -> str:
        """Address of the preview of the way back from one transaction."""
        return self._with("undo", "transaction_id", str(id_), values)

    def actors(self, **values: Any) -> str:
        """Address of the page of who was active."""
        return self._url("actors", **values)

    def actor(
        self, actor_id: str | None, query: Mapping[str, str] | None = None, **values: Any
    ) -> str:
        """Address of one actor's feed; None for what nobody is known to have done."""
        if actor_id is None:
            return self.feed(query, unknown="1", **values)
        others = {**_filters(query), **values}
        if is_path_safe(actor_id):
            return self._url("actor", actor_id=actor_id, **others)
        return self._url("actors", id=actor_id, **others)

    def search(self, **values: Any) -> str:
        """Address of the search."""
        return self._url("search", **values)

    def tables(self, **values: Any) -> str:
        """Address of the page of what is tracked."""
        return self._url("tables", **values)

    def export(self, kind: str, query: Mapping[str, str] | None = None, **values: Any) -> str:
        """Address of an export: ``csv``, ``json`` or ``ndjson``."""
        return self._url("export", kind=kind, **_filters(query), **{"format": None, **values})

    def asset(self, filename: str) -> str:
        """Address of a style sheet, script or image of ours."""
        return self._url("assets", filename=filename, v=asset_digest(filename), tz=None)

    def theme(self) -> str:
        """Address of the style sheet with the host's colour; empty where it has none."""
        digest = theme.digest()
        return digest and self._url("assets", filename=theme.SHEET, v=digest, tz=None)


def _filters(query: Mapping[str, str] | None) -> dict[str, str | None]:
    """Filters that are given say all, about the time zone too."""
    return {} if query is None else {"tz": None, **query}
