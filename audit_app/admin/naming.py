"""How a page names tables, fields and records: the application's labels, where it gives some."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from flask import current_app

from audit_app import models
from audit_app.admin.reading import Logger

LONGEST_LABEL = 60

_log = logging.getLogger("audit_app")


class Naming:
    """The names of one page.

    In this order: ``AuditLogger(labels=…)``, ``column_labels`` of the host's ``ModelView`` for the
    model, and the name in the database.
    """

    def __init__(self, logger: Logger) -> None:
        self._logger = logger
        self._views: dict[sa.Table, Any] = {}
        self._fields: dict[tuple[str, str, str], str] = {}
        self._labelled: dict[tuple[str, str], bool] = {}
        self._failed: set[object] = set()

    def table(self, schema_name: str, table_name: str) -> str:
        """Return the label of a table; empty if it has none."""
        place = self._logger.place(schema_name, table_name)
        return self._logger.labels.table(place.schema, place.name)

    def field(self, schema_name: str, table_name: str, name: str) -> str:
        """Return the label of a field; empty if it has none, or the same as its name."""
        key = (schema_name, table_name, name)
        if key not in self._fields:
            place = self._logger.place(schema_name, table_name)
            found = self._logger.labels.field(place.schema, place.name, name)
            if not found:
                found = self._admin_label(self.find_table(schema_name, table_name), name)
            self._fields[key] = "" if found == name else found
        return self._fields[key]

    def record(self, schema_name: str, table_name: str, data: Mapping[str, Any]) -> str:
        """Return what the model's ``__audit_label__`` calls a record; may be empty."""
        key = (schema_name, table_name)
        if key not in self._labelled:
            self._labelled[key] = self._has_labels(self.find_table(*key))
        if not data or not self._labelled[key]:
            return ""
        mapper = self.find_mapper(self.find_table(*key), data)
        if not hasattr(mapper.class_, "__audit_label__"):
            return ""
        return self.label_of(mapper, lambda: models.rebuild(mapper, data))

    def label_of(self, mapper: Any, instance: Any) -> str:
        """Ask a model for the label of an instance.

        :param instance: makes the instance.
        """
        cls = mapper.class_
        if cls in self._failed:
            return ""
        try:
            text = str(instance().__audit_label__() or "")
        except Exception:  # noqa: BLE001 - the application's code, on values of any age
            _log.warning("%s.__audit_label__ failed", cls.__name__, exc_info=True)
            self._failed.add(cls)
            return ""
        text = " ".join(text.split())
        return text if len(text) <= LONGEST_LABEL else f"{text[: LONGEST_LABEL - 1]}…"

    def _has_labels(self, table: sa.Table | None) -> bool:
        registry = self._logger.base.registry
        return table is not None and any(
            hasattr(mapper.class_, "__audit_label__")
            for mapper in registry.mappers
            if mapper.local_table is table
        )

    def find_table(self, schema_name: str, table_name: str) -> sa.Table | None:
        """Return the ``Table`` that names in the trail stand for."""
        place = self._logger.place(schema_name, table_name)
        return models.find_table(self._logger.base.metadata, place.schema, place.name)

    def find_mapper(self, table: sa.Table | None, data: Mapping[str, Any]) -> Any:
        """Return the mapper of a table's row; None without one."""
        registry = self._logger.base.registry
        return models.find_mapper(registry, table, data)

    # -- The host's Flask-Admin -------------------------------------------------------------------

    def formatted(
        self, schema_name: str, table_name: str, name: str, data: Mapping[str, Any]
    ) -> str:
        """Return what the host's ``column_formatters`` make of a field, as plain text.

        Empty where there is no formatter, or it fails: it may count on a session, on a template's
        context, on values that this row does not have. One that failed is not called again.
        """
        table = self.find_table(schema_name, table_name)
        view = self._view(table)
        formatters = getattr(view, "column_formatters", None) or {}
        mapper = self.find_mapper(table, data) if formatters and data else None
        if mapper is None or table is None:
            return ""
        key = _attribute(mapper, table, name)
        formatter = formatters.get(key) or formatters.get(name)
        if not callable(formatter) or (view, key) in self._failed:
            return ""
        try:
            found = formatter(view, None, models.rebuild(mapper, data), key)
            if found is None:
                return ""
            # Markup of the host was not made for old values: its words are enough.
            text = found.striptags() if hasattr(found, "striptags") else str(found)
        except Exception:  # noqa: BLE001 - the application's code, on values of any age
            _log.info("The formatter of %s.%s failed", table_name, key, exc_info=True)
            self._failed.add((view, key))
            return ""
        return str(text)

    def _admin_label(self, table: sa.Table | None, name: str) -> str:
        labels = getattr(self._view(table), "column_labels", None) or {}
        if not isinstance(labels, Mapping) or table is None:
            return ""
        mapper = self.find_mapper(table, {})
        found = labels.get(_attribute(mapper, table, name)) if mapper is not None else None
        return str(found or labels.get(name) or "")

    def _view(self, table: sa.Table | None) -> Any:
        """Return the first model view of the host's for a table; None without one."""
        if table is None:
            return None
        if table not in self._views:
            views = (view for a in current_app.extensions.get("admin", ()) for view in a._views)
            self._views[table] = next((v for v in views if _table_of(v) is table), None)
        return self._views[table]


def _table_of(view: Any) -> Any:
    model = getattr(view, "model", None)
    mapper = sa.inspect(model, raiseerr=False) if isinstance(model, type) else None
    return getattr(mapper, "local_table", None)


def _attribute(mapper: Any, table: sa.Table, name: str) -> str:
    """Return the name of the model's attribute for a column."""
    column = next((c for c in table.columns if c.name == name), None)
    try:
        return name if column is None else str(mapper.get_property_by_column(column).key)
    except sa.orm.exc.UnmappedColumnError:
        return name
