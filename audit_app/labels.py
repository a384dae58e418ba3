"""How an application calls its tables and fields: ``AuditLogger(labels=…)``. Pure; no database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from audit_app.errors import ConfigurationError

LabelMapping = Mapping[str, Mapping[str, str]]
"""Labels by table (``"article"`` or ``"schema.article"``) and field; ``""`` is the table's own."""


@dataclass(frozen=True)
class Labels:
    """The labels of tables and fields.

    :ivar tables: as given, by the name of the table.
    """

    tables: LabelMapping = field(default_factory=dict)

    def table(self, schema_name: str, table_name: str) -> str:
        """Return a table's label; empty if it has none."""
        return self._find(schema_name, table_name, "")

    def field(self, schema_name: str, table_name: str, field_name: str) -> str:
        """Return a field's label; empty if it has none."""
        return self._find(schema_name, table_name, field_name) if field_name else ""

    def _find(self, schema_name: str, table_name: str, key: str) -> str:
        for name in (f"{schema_name}.{table_name}", table_name):
            found = self.tables.get(name, {}).get(key)
            if found is not None:
                return str(found)  # a lazy translation becomes the visitor's language here
        return ""


NONE: Final = Labels()


def parse(given: object) -> Labels:
    """Check ``labels`` and return what it means.

    :param given: ``{"article": {"": "Article", "title": "Headline"}}``; None for no labels.
    :raises ConfigurationError: for another shape.
    """
    if given is None:
        return NONE
    if not isinstance(given, Mapping):
        raise ConfigurationError(
            f"labels={given!r} is not a mapping: write "
            "{'article': {'': 'Article', 'title': 'Headline'}}."
        )
    for table, fields in given.items():
        if not isinstance(table, str) or not table or not isinstance(fields, Mapping):
            raise ConfigurationError(
                f"labels[{table!r}] = {fields!r}: the key is the name of a table, 'article' or "
                "'schema.article', and the value a mapping such as "
                "{'': 'Article', 'title': 'Headline'}."
            )
        for name, label in fields.items():
            if not isinstance(name, str) or not _is_text(label):
                raise ConfigurationError(
                    f"labels[{table!r}][{name!r}] = {label!r}: the key is the name of a column, "
                    "or '' for the table itself, and the value its label."
                )
    return Labels({table: dict(fields) for table, fields in given.items()})


def _is_text(label: object) -> bool:
    """A text, or a lazy translation: an object of its own that knows how to become one."""
    if isinstance(label, str):
        return bool(label.strip())
    if label is None or callable(label):
        return False
    if isinstance(label, int | float | bytes | Mapping | tuple | list | set | frozenset):
        return False
    return type(label).__str__ is not object.__str__
