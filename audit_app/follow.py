"""``__versioned__ = {"follow": […]}``: which relationships of a model its records' pages follow.

Like the former names, this is for reading only: the database never hears of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.sql import operators, visitors

from audit_app.errors import InvalidOptionError
from audit_app.formerly import Place

Kind = Literal["children", "parents", "links"]

_KINDS: Mapping[str, Kind] = {"ONETOMANY": "children", "MANYTOONE": "parents"}


class Options(Protocol):
    """What of a table's options tells whether a column is recorded."""

    @property
    def exclude(self) -> tuple[str, ...]: ...
    @property
    def include(self) -> tuple[str, ...] | None: ...
    @property
    def mask(self) -> tuple[str, ...]: ...


class Tracked(Protocol):
    """A tracked table, as :class:`audit_app.ddl.AuditedTable` is one."""

    @property
    def place(self) -> Place: ...
    @property
    def options(self) -> Any: ...


@dataclass(frozen=True)
class Related:
    """The records that a relationship leads to, or the rows of its secondary table.

    :ivar name: the relationship's name.
    :ivar kind: ``children`` point to the record, the record points to ``parents``, and ``links``
        are rows of the secondary table of a many-to-many.
    :ivar place: their table.
    :ivar key: the columns of their primary key.
    :ivar pairs: columns of theirs with the column of the record that holds the same value, and
        that column's former names.
    """

    name: str
    kind: Kind
    place: Place
    key: tuple[sa.Column[Any], ...]
    pairs: tuple[tuple[str, str], ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Their columns."""
        return tuple(theirs for theirs, _own in self.pairs)

    @property
    def own_columns(self) -> tuple[str, ...]:
        """The record's columns."""
        return tuple(own for _theirs, own in self.pairs)


def names_of(given: object, owner: str) -> tuple[str, ...]:
    """Check the shape of ``__versioned__["follow"]``.

    :param owner: the model or table as error messages name it.
    :raises InvalidOptionError: if it is no list of names.
    """
    if isinstance(given, str | Mapping) or not isinstance(given, Iterable):
        raise InvalidOptionError(
            f"{owner} has follow = {given!r}: write a list of its relationships, as in "
            "{'follow': ['lines']}."
        )
    items = [getattr(item, "key", item) for item in given]
    names = [name for name in items if isinstance(name, str)]
    if len(names) < len(items):
        raise InvalidOptionError(f"{owner} has follow = {given!r}: write names of relationships.")
    return tuple(dict.fromkeys(names))


def related(
    mapper: orm.Mapper[Any],
    names: Iterable[str],
    tracked: Callable[[sa.Table], Tracked | None],
) -> tuple[Related, ...]:
    """Return what the relationships of a model lead to.

    :param tracked: how a table is tracked; None if it is not.
    :raises InvalidOptionError: for a relationship that does not exist or cannot be followed.
    """
    found = (_related(mapper, name, tracked) for name in names)
    return tuple(item for item in found if item is not None)


def _related(
    mapper: orm.Mapper[Any], name: str, tracked: Callable[[sa.Table], Tracked | None]
) -> Related | None:
    owner = mapper.class_.__name__
    relationships = mapper.relationships
    if name not in relationships:
        known = ", ".join(sorted(relationships.keys())) or "none: it has no relationships"
        raise InvalidOptionError(
            f"{owner} has {name!r} in follow, but no such relationship: use some of {known}."
        )
    relation = relationships[name]
    kind: Kind = "links" if relation.secondary is not None else _KINDS[relation.direction.name]
    pairs = _pairs(relation, owner)
    table = pairs[0][1].table
    if not isinstance(table, sa.Table) or any(theirs.table is not table for _own, theirs in pairs):
        raise _unfollowable(relation, owner)
    own = [_local(mapper, column) for column, _theirs in pairs]
    if any(column is None for column in own):
        # Inherited, and about another table of a joined inheritance: that one's records follow it.
        return None
    target = tracked(table)
    if target is None:
        raise InvalidOptionError(
            f"{owner} has {name!r} in follow, but its "
            f"{'secondary ' if kind == 'links' else ''}table {table.fullname!r} is not tracked: "
            f"{_how_to_track(relation, kind)}, or remove {name!r} from follow."
        )
    local = tracked(mapper.local_table) if isinstance(mapper.local_table, sa.Table) else None
    for place, columns in (
        (target, [theirs for _own, theirs in pairs]),
        (local, [column for column in own if column is not None]),
    ):
        for column in columns:
            if place is not None and not _is_recorded(place.options, column):
                raise InvalidOptionError(
                    f"{owner} has {name!r} in follow, but the values of "
                    f"{place.place.name}.{column.name} are not recorded, so nothing tells which "
                    "records belong together: record that column, or do not follow."
                )
    return Related(
        name=name,
        kind=kind,
        place=target.place,
        key=tuple(table.primary_key),
        pairs=tuple(
            (theirs.name, column.name)
            for (_own, theirs), column in zip(pairs, own, strict=True)
            if column is not None
        ),
    )


def _how_to_track(relation: orm.RelationshipProperty[Any], kind: Kind) -> str:
    if kind == "links":
        return 'give the Table info={"versioned": {}}'
    return f"give {relation.mapper.class_.__name__} __versioned__ = {{}}"


def _pairs(
    relation: orm.RelationshipProperty[Any], owner: str
) -> list[tuple[sa.Column[Any], sa.Column[Any]]]:
    """The columns by which two tables are joined: the record's, then the other one's."""
    if relation.secondary is not None:
        pairs = list(relation.synchronize_pairs or ())  # the others lead on to the target
    else:
        pairs = list(relation.local_remote_pairs or ())
    comparisons = [
        clause
        for clause in visitors.iterate(relation.primaryjoin)
        if isinstance(clause, sa.BinaryExpression)
    ]
    is_plain = all(
        clause.operator is operators.eq
        and isinstance(clause.left, sa.Column)
        and isinstance(clause.right, sa.Column)
        for clause in comparisons
    )
    if not pairs or not is_plain or len(comparisons) != len(pairs):
        raise _unfollowable(relation, owner)
    return pairs  # type: ignore[return-value]


def _unfollowable(relation: orm.RelationshipProperty[Any], owner: str) -> InvalidOptionError:
    return InvalidOptionError(
        f"{owner} has {relation.key!r} in follow, but that relationship joins by more than equal "
        "columns of two tables: follow one that is joined by a foreign key alone."
    )


def _local(mapper: orm.Mapper[Any], column: sa.Column[Any]) -> sa.Column[Any] | None:
    """The column of the mapper's own table that holds the same value."""
    candidates = [column, *mapper.get_property_by_column(column).columns]
    return next((c for c in candidates if c.table is mapper.local_table), None)


def _is_recorded(options: Options, column: sa.Column[Any]) -> bool:
    if column.primary_key:
        return True
    name = column.name
    left_out = options.include is not None and name not in options.include
    return not (left_out or name in options.exclude or name in options.mask)
