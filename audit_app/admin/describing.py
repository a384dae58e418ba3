"""The values of a page as people read them: labels, what keys point at, how far values moved."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from audit_app import history, identity, present
from audit_app.admin import columns, pages
from audit_app.admin.access import Access
from audit_app.admin.columns import Column
from audit_app.admin.distances import number_distance, time_distance
from audit_app.admin.i18n import gettext as _
from audit_app.admin.i18n import ngettext, number_text
from audit_app.admin.links import Links
from audit_app.admin.naming import LONGEST_LABEL, Naming
from audit_app.admin.reading import aside
from audit_app.admin.values import Value, stored_value
from audit_app.ddl import AuditedTable
from audit_app.diff import FieldChange

_MOST_TARGETS = 200
"""Values that are looked up in one table for one page; what is beyond shows as stored."""

_HEX = re.compile(r"\\x(?:[0-9a-fA-F]{2})*")

_LIGHT = ("number", "boolean", "date", "datetime", "time", "enum", "code", "text")


class Describer(Naming):
    """Describes the values of one page.

    :meth:`look_up` reads what the page's foreign keys point at: one query for each table that they
    point at, whatever the number of rows. What the visitor may not see has neither label nor link.
    """

    def __init__(self, access: Access, links: Links) -> None:
        super().__init__(access.logger)
        self.access = access
        self._links = links
        self._open: dict[sa.Table, set[str]] = {}
        self._audited: dict[tuple[str, str], AuditedTable] | None = None
        self._columns: dict[tuple[str, str, str], Column] = {}
        self._targets: dict[tuple[sa.Column[Any], str], tuple[str, str]] = {}

    def column(self, schema_name: str, table_name: str, name: str) -> Column:
        """Return what is known of a field."""
        key = (schema_name, table_name, name)
        if key not in self._columns:
            table = self.find_table(schema_name, table_name)
            self._columns[key] = columns.column_of(table, name)
        return self._columns[key]

    # -- Values -----------------------------------------------------------------------------------

    def value(self, column: Column, raw: Any) -> Value:
        """Return how a stored value looks."""
        plain = _binary_value(column, raw) or stored_value(raw)
        if plain.kind in {"absent", "null", "masked", "binary"}:
            return plain
        if column.points_at is not None:
            label, url = self._target(column.points_at, raw)
            return dataclasses.replace(plain, label=label, url=url)
        if plain.kind == "text":
            if column.kind == "code":
                return dataclasses.replace(plain, kind="code", quoted=False)
            if column.kind in {"date", "datetime", "time", "enum"}:
                label = columns.enum_label(raw, column.type)
                return dataclasses.replace(plain, label=label, quoted=False)
        return plain

    def formatted_value(
        self, schema_name: str, table_name: str, value: Value, name: str, row: Mapping[str, Any]
    ) -> Value:
        """Add what the host's formatter makes of a value, where it says something else."""
        if value.label or value.kind == "absent":
            return value
        text = self.formatted(schema_name, table_name, name, row)
        text = " ".join(text.split())
        if text in {"", value.text}:
            return value
        return dataclasses.replace(value, label=pages.cut(text, 2 * LONGEST_LABEL))

    def distance(self, column: Column, change: FieldChange) -> str:
        """Return how far a changed value moved; empty where that says nothing."""
        if change.kind != "changed":
            return ""
        if column.kind in {"date", "datetime", "time"}:
            return time_distance(change.old, change.new, column.kind)
        if column.kind == "binary":
            sizes = [_size_of(value) for value in (change.old, change.new)]
            if None not in sizes and sizes[0] != sizes[1]:
                return _("%(num)s B", num=number_distance(*sizes))
            return ""
        return number_distance(change.old, change.new) if column.is_amount else ""

    # -- What foreign keys point at ---------------------------------------------------------------

    def look_up(
        self, session: Any, found: Sequence[tuple[str, str, Sequence[Mapping[str, Any] | None]]]
    ) -> None:
        """Read the targets of the foreign keys of all documents of a page.

        :param found: names of a table, and documents of its rows.
        """
        wanted: dict[sa.Table, dict[sa.Column[Any], dict[str, Any]]] = {}
        for schema_name, table_name, documents in found:
            for document in documents:
                for name, raw in (document or {}).items():
                    target = self.column(schema_name, table_name, name).points_at
                    if target is None or raw is None or not self._sees(target.table):
                        continue
                    value = columns.python_value(raw, target.type)
                    values = wanted.setdefault(target.table, {}).setdefault(target, {})
                    if value is not None and len(values) < _MOST_TARGETS:
                        values[str(identity.encode(value))] = value
        for table, by_column in wanted.items():
            self._read(session, table, by_column)

    def _read(
        self, session: Any, table: sa.Table, wanted: Mapping[sa.Column[Any], Mapping[str, Any]]
    ) -> None:
        values = {column: list(found.values()) for column, found in wanted.items() if found}
        mapper = self.find_mapper(table, {})
        has_hook = mapper is not None and hasattr(mapper.class_, "__audit_label__")
        audited = self._tracked(table)
        if not values or not (audited or has_hook):
            return
        readable = [c for c in table.columns if audited is None or _is_recorded(audited, c)]
        shown = [
            c
            for c in readable
            if (columns.column_of(table, c.name).kind in _LIGHT if has_hook
                else c.name in pages.NAME_FIELDS)
        ]  # fmt: skip
        query = present.targets(table, values, shown)
        try:
            with aside(session):
                rows = session.execute(
                    query, execution_options={"schema_translate_map": {None: "public"}}
                ).all()
        except sa.exc.SQLAlchemyError:
            rows = []  # not created, not granted: the stored values stand for themselves
        keys = list(table.primary_key.columns)
        known = {identity.encode([row._mapping[f"c_{c.name}"] for c in keys]) or "" for row in rows}
        if len(keys) == 1:  # those that are gone
            known |= wanted.get(keys[0], {}).keys()
        self._admit(session, table, audited, known)
        names = {c.name for c in shown} | {c.name for c in table.primary_key.columns}
        for row in rows:
            data = {name: row._mapping[f"c_{name}"] for name in names}
            key = identity.encode([data[c.name] for c in table.primary_key.columns]) or ""
            if audited is not None and not self._is_open(table, key):
                continue
            label = ""
            if has_hook:
                label = self.label_of(mapper, lambda data=data: _instance(mapper, data))
            if not label and audited is not None:
                label = pages.record_label(
                    {name: value for name, value in data.items() if name in pages.NAME_FIELDS}, key
                )
            url = self._record_url(audited, key)
            for column in values:
                pointed = str(identity.encode(row._mapping[f"c_{column.name}"]))
                self._targets[column, pointed] = (label, url)

    def _sees(self, table: sa.Table) -> bool:
        return self.access.sees_table(table.schema or "public", table.name)

    def _is_open(self, table: sa.Table, key: str) -> bool:
        return not self.access.by_row or key in self._open.get(table, ())

    def _admit(
        self, session: Any, table: sa.Table, audited: AuditedTable | None, keys: Iterable[str]
    ) -> None:
        """Note of which records the visitor may see the newest change."""
        found = sorted(keys)
        if not self.access.by_row or audited is None or not found:
            return
        logger = self.access.logger
        query = history.newest_of_keys(
            logger.activity_cls, logger.transaction_cls, audited.place, found
        )
        newest = session.execute(query).all()
        seen = self.access.ids_of(session, {row.id for row in newest})
        self._open[table] = {row.found_key for row in newest if row.id in seen}

    def _target(self, column: sa.Column[Any], raw: Any) -> tuple[str, str]:
        value = columns.python_value(raw, column.type)
        if value is None or not self._sees(column.table):
            return "", ""
        key = str(identity.encode(value))
        found = self._targets.get((column, key))
        if found is not None:
            return found
        # Gone: its story is still on record, where its key is what is pointed at.
        is_key = list(column.table.primary_key.columns) == [column]
        if is_key and self._is_open(column.table, key):
            return "", self._record_url(self._tracked(column.table), key)
        return "", ""

    def _record_url(self, audited: AuditedTable | None, key: str) -> str:
        return "" if audited is None else self._links.record(audited.schema, audited.name, key)

    def _tracked(self, table: sa.Table) -> AuditedTable | None:
        return self.tracked(table.schema or "public", table.name)

    def tracked(self, schema_name: str, table_name: str) -> AuditedTable | None:
        """Return how a table is tracked; None if it is not."""
        if self._audited is None:
            tables = self._logger.audited_tables()
            self._audited = {(table.schema, table.name): table for table in tables}
        return self._audited.get((schema_name, table_name))


def documents_of(rows: Iterable[Any]) -> list[tuple[str, str, list[Mapping[str, Any] | None]]]:
    """Return the documents of activities that a page shows, for :meth:`Describer.look_up`.

    Of an update what changed, with its former values; the rest is not shown.
    """
    found: list[tuple[str, str, list[Mapping[str, Any] | None]]] = []
    for row in rows:
        if row.schema_name is None:
            continue
        old, new = row.old_data, row.changed_data
        if row.verb == "update" and old and new is not None:
            old = {name: value for name, value in old.items() if name in new}
        found.append((row.schema_name, row.table_name, [old, new]))
    return found


def _is_recorded(audited: AuditedTable, column: sa.Column[Any]) -> bool:
    """Tell whether the trail holds this column: what it must not hold, its pages do not show."""
    options, name = audited.options, column.name
    if name in options.exclude or name in options.mask:
        return False
    return options.include is None or name in options.include or bool(column.primary_key)


def _instance(mapper: Any, data: Mapping[str, Any]) -> Any:
    instance = mapper.class_manager.new_instance()
    for column in mapper.columns:
        if column.name in data:
            key = mapper.get_property_by_column(column).key
            sa.orm.attributes.set_committed_value(instance, key, data[column.name])
    return instance


# -- Values that are shown by size and digest ------------------------------------------------------


def _binary_value(column: Column, raw: Any) -> Value | None:
    """Bytes, and values that were too large to store: by size and digest."""
    if column.kind == "binary" and isinstance(raw, str) and _HEX.fullmatch(raw):
        data = bytes.fromhex(raw[2:])
        return _binary(len(data), hashlib.sha256(data).hexdigest())
    if not isinstance(raw, Mapping) or raw.get("$audit") != "too large":
        return None
    size, digest = raw.get("bytes"), raw.get("sha256")
    if isinstance(size, int) and isinstance(digest, str):
        return _binary(size, digest)
    return None


def _binary(size: int, digest: str) -> Value:
    exact = ngettext("%(count)s byte", "%(count)s bytes", size, count=number_text(size))
    text = exact if size < 10_000 else f"{pages.size_text(size)} ({exact})"
    return Value("binary", text, digest=digest)


def _size_of(raw: Any) -> int | None:
    if isinstance(raw, str) and _HEX.fullmatch(raw):
        return len(raw) // 2 - 1
    size = raw.get("bytes") if isinstance(raw, Mapping) and "$audit" in raw else None
    return size if isinstance(size, int) else None
