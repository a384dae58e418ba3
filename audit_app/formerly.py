"""The former names of a table and of its columns, as its model declares them. Pure; no database.

History is never rewritten for a renaming: what was recorded under a former name is read under the
present one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from audit_app.errors import InvalidOptionError, UnknownColumnError


@dataclass(frozen=True)
class Formerly:
    """What a table and its columns were called.

    :ivar tables: schema and name of each former table.
    :ivar columns: the present name of a column with its former names.
    """

    tables: tuple[tuple[str, str], ...] = ()
    columns: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.tables or self.columns)

    def renames(self, fields: Collection[str]) -> dict[str, str]:
        """Return the present name of each field that a row still knows by a former name.

        :param fields: the names of all fields of the row. A row that has the present name has
            been written under it, and then a former name in it belongs to another column.
        """
        return {
            old: present
            for present, former in self.columns
            if present not in fields
            for old in former
            if old in fields
        }

    def present(
        self, old_data: Mapping[str, Any] | None, changed_data: Mapping[str, Any] | None
    ) -> tuple[Any, Any]:
        """Return the two documents of an activity under the present names, in their order."""
        whole = old_data if old_data else changed_data
        renames = self.renames(whole) if whole else {}
        if not renames:
            return old_data, changed_data
        old, changed = (
            document
            if document is None
            else {renames.get(name, name): value for name, value in document.items()}
            for document in (old_data, changed_data)
        )
        return old, changed

    def present_row(self, row: Any) -> Any:
        """Return a row of :func:`audit_app.history.activity_columns` under the present names."""
        if not self.columns or row.id is None:
            return row
        old_data, changed_data = self.present(row.old_data, row.changed_data)
        names = row.field_names
        renames = self.renames(names) if names else {}
        if old_data is row.old_data and changed_data is row.changed_data and not renames:
            return row
        if renames:
            names = [renames.get(name, name) for name in names]
        values = {**row._mapping, "old_data": old_data, "changed_data": changed_data}
        return SimpleNamespace(**{**values, "field_names": names})


NEVER = Formerly()
"""Of what was never called anything else."""


@dataclass(frozen=True)
class Place:
    """A table under its present name.

    :ivar schema: as the trail knows it.
    :ivar explicit_schema: as the application names it; None leaves it to the search_path.
    """

    schema: str
    name: str
    formerly: Formerly = NEVER
    explicit_schema: str | None = None

    @property
    def names(self) -> tuple[tuple[str, str], ...]:
        """Every schema and name under which the trail may know the table, the present one first."""
        return ((self.schema, self.name), *self.formerly.tables)


def parse(
    given: object,
    *,
    schema: str,
    name: str,
    columns: Sequence[str],
    aliases: Mapping[str, str],
    owner: str,
) -> Formerly:
    """Check ``__versioned__["formerly"]`` and return what it means.

    :param schema: the table's present schema, as the trail knows it.
    :param name: the table's present name.
    :param columns: the names of its columns.
    :param aliases: names of the model's attributes, with the columns that they stand for.
    :param owner: the model or table as error messages name it.
    :raises InvalidOptionError: for another shape.
    :raises UnknownColumnError: if a present column does not exist.
    """
    if not isinstance(given, Mapping) or set(given) - {"table", "columns"}:
        raise InvalidOptionError(
            f"{owner} has formerly = {given!r}: write {{'table': ['old_name', …], 'columns': "
            "{'present_name': ['old_name', …]}}, or one of the two."
        )
    tables = []
    for item in _names(given.get("table", ()), "formerly['table']", owner):
        place = _table(item, schema, owner)
        if place == (schema, name):
            raise InvalidOptionError(
                f"{owner} has {item!r} in formerly['table'], which is its present name: name the "
                "former ones only."
            )
        tables.append(place)
    found = {}
    renamed = given.get("columns", {})
    if not isinstance(renamed, Mapping):
        raise InvalidOptionError(
            f"{owner} has formerly['columns'] = {renamed!r}: write "
            "{'present_name': ['old_name', …]}."
        )
    for key, former in renamed.items():
        column = key if key in columns else aliases.get(key, key)
        if column not in columns:
            raise UnknownColumnError(
                f"{owner} has {key!r} in formerly['columns'], but its table has no such column: "
                f"use one of {', '.join(sorted(columns))}, and its former names as the value."
            )
        option = f"formerly['columns'][{key!r}]"
        names = tuple(_names(former, option, owner))
        if not all(isinstance(item, str) for item in names) or column in names:
            raise InvalidOptionError(
                f"{owner} has {option} = {former!r}: write a list of the column's former names."
            )
        found[column] = names
    claimed = [item for names in found.values() for item in names]
    twice = sorted({item for item in claimed if claimed.count(item) > 1})
    if twice:
        raise InvalidOptionError(
            f"{owner} has {twice[0]!r} in formerly['columns'] for two columns: only one of them "
            "can have been called that."
        )
    return Formerly(tuple(dict.fromkeys(tables)), tuple(sorted(found.items())))


def _names(given: object, option: str, owner: str) -> list[Any]:
    if isinstance(given, str | Mapping) or not isinstance(given, Iterable):
        raise InvalidOptionError(f"{owner} has {option} = {given!r}: write a list of names.")
    return list(given)


def _table(item: object, schema: str, owner: str) -> tuple[str, str]:
    """``"name"``, ``"schema.name"``, or a pair for names that hold a point themselves."""
    if isinstance(item, str):
        first, point, second = item.partition(".")
        parts: tuple[object, ...] = (first, second) if point else (schema, item)
    else:
        parts = tuple(item) if isinstance(item, tuple | list) else ()
    match parts:
        case (str() as former_schema, str() as former) if former_schema and former:
            return former_schema, former
    raise InvalidOptionError(
        f"{owner} has {item!r} in formerly['table']: write 'old_name', 'old_schema.old_name', or "
        "('old.schema', 'old.name') where a name holds a point."
    )


def check_distinct(places: Iterable[tuple[str, Place]]) -> None:
    """Refuse former names that another table has, or had: the stories could not be told apart.

    :param places: each with its owner, as error messages name it.
    :raises InvalidOptionError: if a name is claimed twice.
    """
    known = list(places)
    claimed: dict[tuple[str, str], str] = {
        (place.schema, place.name): f"it is the present name of {owner}" for owner, place in known
    }
    for owner, place in known:
        for former in place.formerly.tables:
            if former in claimed:
                raise InvalidOptionError(
                    f"{owner} has {'.'.join(former)!r} in formerly['table'], but "
                    f"{claimed[former]}: remove it from one of them."
                )
            claimed[former] = f"{owner} claims it too"
