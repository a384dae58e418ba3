"""How long history is kept: ``AUDIT_RETENTION`` as a value. Pure; no database.

::

    AUDIT_RETENTION = {
        "default": "7 years",
        "session": "90 days",
        "desk.ticket": {"update": "1 year", "default": "3 years"},
        "contract": "forever",
    }
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from audit_app.errors import InvalidRetentionError
from audit_app.models import BASELINE, VERBS

DEFAULT: Final = "default"
"""What counts for the tables, or for the verbs, that are not named."""

_PRUNABLE_MARKS: Final = ("suspend", "resume", "gap", "export")
_VERBS: Final = (*VERBS, BASELINE, *_PRUNABLE_MARKS, DEFAULT)
_AMOUNT: Final = re.compile(r"([1-9][0-9]{0,4}) (day|week|month|year)s?")

Names = Callable[[str, str], tuple[tuple[str, str], ...]]
"""Tells all names that a table has, or had: schema and name of each, the given one among them."""


@dataclass(frozen=True)
class Policy:
    """How long what is recorded is kept, by table and verb.

    :ivar default: the amount for each verb, or for :data:`DEFAULT`; None keeps for ever.
    :ivar tables: the same for single tables, by schema and name.
    """

    default: Mapping[str, str | None] = field(default_factory=dict)
    tables: Mapping[tuple[str, str], Mapping[str, str | None]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return any(self.amounts)

    @property
    def amounts(self) -> tuple[str | None, ...]:
        """Every amount that is named, once; None where something is kept for ever."""
        found = [
            amount for rule in (self.default, *self.tables.values()) for amount in rule.values()
        ]
        return tuple(dict.fromkeys(found))

    @property
    def is_finite(self) -> bool:
        """Whether nothing that happened to a table's rows is kept for ever."""
        return DEFAULT in self.default and None not in self.amounts

    def rules(
        self, moments: Mapping[str, datetime], names: Names = lambda schema, name: ((schema, name),)
    ) -> dict[str, Any]:
        """Return the policy as the functions of the trail take it.

        :param moments: for each amount the moment that it reaches back to.
        :param names: all names of a table; what is said of one of them counts for all.
        """

        def told(rule: Mapping[str, str | None]) -> dict[str, str]:
            return {
                verb: "-infinity" if amount is None else moments[amount].isoformat()
                for verb, amount in rule.items()
            }

        tables: dict[str, dict[str, dict[str, str]]] = {}
        for place, rule in self.tables.items():
            for schema, name in names(*place):
                tables.setdefault(schema, {})[name] = told(rule)
        return {"default": told(self.default), "tables": tables}


def parse(given: object) -> Policy:
    """Check ``AUDIT_RETENTION`` and return what it means; None means that nothing is ever pruned.

    :raises InvalidRetentionError: if it is something else.
    """
    if given is None:
        return Policy()
    if not isinstance(given, Mapping):
        raise InvalidRetentionError(
            f"AUDIT_RETENTION = {given!r}: write a mapping of tables, such as "
            "{'default': '7 years', 'session': '90 days'}."
        )
    tables: dict[tuple[str, str], Mapping[str, str | None]] = {}
    default: Mapping[str, str | None] = {}
    for key, value in given.items():
        rule = _rule(key, value)
        if key == DEFAULT:
            default = rule
        else:
            tables[_place(key)] = rule
    if set(default) & set(_PRUNABLE_MARKS):
        raise InvalidRetentionError(
            "AUDIT_RETENTION['default'] names a mark of the trail's own: name it for a table, such "
            "as {'audit.activity': {'export': '5 years'}}."
        )
    return Policy(default, tables)


def _place(key: object) -> tuple[str, str]:
    """``"name"``, ``"schema.name"``, or a pair for names that hold a point themselves."""
    match key:
        case (str() as schema, str() as name) if schema and name:
            return schema, name
        case str() if key:
            schema, point, name = key.partition(".")
            if not point:
                return "public", key
            if schema and name and "." not in name:
                return schema, name
    raise InvalidRetentionError(
        f"AUDIT_RETENTION has the key {key!r}: write 'default', 'table', 'schema.table', or "
        "('a.schema', 'a.table') where a name holds a point."
    )


def _rule(key: object, value: object) -> dict[str, str | None]:
    if not isinstance(value, Mapping):
        return {DEFAULT: _amount(f"AUDIT_RETENTION[{key!r}]", value)}
    wrong = [verb for verb in value if verb not in _VERBS]
    if wrong:
        raise InvalidRetentionError(
            f"AUDIT_RETENTION[{key!r}] has the verb {wrong[0]!r}: use one of {', '.join(_VERBS)}."
        )
    return {verb: _amount(f"AUDIT_RETENTION[{key!r}][{verb!r}]", v) for verb, v in value.items()}


def _amount(where: str, value: object) -> str | None:
    """Return an amount of time as PostgreSQL reads it; None for ever."""
    if value is None or value == "forever":
        return None
    found = _AMOUNT.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise InvalidRetentionError(
            f"{where} = {value!r}: write an amount of days, weeks, months or years, such as "
            "'90 days', or 'forever'."
        )
    number, unit = found.groups()
    return f"{int(number)} {unit}" + ("" if int(number) == 1 else "s")


def check_amount(where: str, value: str) -> str:
    """Return an amount of time that is not for ever, as PostgreSQL reads it.

    :param where: what it was given for, for the message.
    :raises InvalidRetentionError: if it is none.
    """
    amount = _amount(where, value)
    if amount is None:
        raise InvalidRetentionError(f"{where} = {value!r}: write an amount, such as '90 days'.")
    return amount


def same_names(places: Iterable[tuple[tuple[str, str], ...]]) -> list[list[list[str]]]:
    """Return the names of each table that has several, for ``rules["same"]``."""
    return [[list(name) for name in names] for names in places if len(names) > 1]
