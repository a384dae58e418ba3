"""Reading the application's own tables for the pages: the present row, and what keys point at.

Every function returns a ``Select`` that the caller executes, with the search_path that finds
PostgreSQL's own functions alone: so tables are named with their schema.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa

CAPTURE_SETTINGS: Final = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "lc_monetary": "C",
}
"""The settings under which values enter the trail, and so a present value can be compared."""

_LARGEST = 4_000_000  # bytes of a row
_LONGEST_TEXT = 200  # characters of a column, for a label
_FIRST_OF_OTHERS = 16384  # FirstNormalObjectId: types below are PostgreSQL's own


class _Named(sa.types.UserDefinedType[Any]):
    """One of PostgreSQL's own types, by its name in the catalog."""

    cache_ok = True

    def __init__(self, name: str) -> None:
        self.name = name

    def get_col_spec(self, **_: Any) -> str:
        return 'pg_catalog."' + self.name.replace('"', '""') + '"'


def settings() -> sa.Select[Any]:
    """Return the query that makes :data:`CAPTURE_SETTINGS` hold for this transaction."""
    return sa.select(
        *(sa.func.set_config(name, value, True) for name, value in CAPTURE_SETTINGS.items())  # noqa: FBT003
    )


def columns(schema_name: str, table_name: str) -> sa.Select[Any]:
    """Return the query for the columns of a table: ``name``, ``form`` and ``base``.

    ``form`` tells how a value can be read without calling a cast that the owner of its type may
    have made: ``plain`` (of PostgreSQL's own types, or a domain over ``base``), ``text``,
    ``texts`` (an array), or ``unknown``.
    """
    attribute, relation, namespace, type_ = (
        sa.table(name, *(sa.column(c) for c in names), schema="pg_catalog")
        for name, names in (
            ("pg_attribute", ("attrelid", "attname", "attnum", "atttypid", "attisdropped")),
            ("pg_class", ("oid", "relname", "relnamespace")),
            ("pg_namespace", ("oid", "nspname")),
            ("pg_type", ("oid", "typname", "typtype", "typcategory", "typbasetype", "typelem")),
        )
    )
    base, element = type_.alias("base"), type_.alias("element")
    own = sa.func.coalesce(base.c.oid, type_.c.oid) < _FIRST_OF_OTHERS
    is_text = type_.c.typcategory.in_(("E", "S", "R"))
    is_texts = sa.and_(type_.c.typcategory == "A", element.c.typcategory.in_(("E", "S", "R")))
    form = sa.case((own, "plain"), (is_text, "text"), (is_texts, "texts"), else_="unknown")
    return (
        sa.select(
            sa.cast(attribute.c.attname, sa.Text).label("name"),
            form.label("form"),
            sa.cast(base.c.typname, sa.Text).label("base"),
        )
        .select_from(attribute)
        .join(relation, relation.c.oid == attribute.c.attrelid)
        .join(namespace, namespace.c.oid == relation.c.relnamespace)
        .join(type_, type_.c.oid == attribute.c.atttypid)
        .outerjoin(base, base.c.oid == sa.func.nullif(type_.c.typbasetype, 0))
        .outerjoin(element, element.c.oid == sa.func.nullif(type_.c.typelem, 0))
        .where(
            namespace.c.nspname == schema_name,
            relation.c.relname == table_name,
            attribute.c.attnum > 0,
            ~attribute.c.attisdropped,
        )
        .order_by(attribute.c.attnum)
    )


def row(
    schema_name: str, table: sa.Table, key: Mapping[str, Any], found: Sequence[Any]
) -> sa.Select[Any]:
    """Return the query for a present row, its values as texts of JSON in the trail's forms.

    :param schema_name: the table's schema, as the trail knows it.
    :param key: the record's identity by column.
    :param found: the wanted rows of :func:`columns`; those of the form ``unknown`` are left out.
    :return: a text by column; all are null in a row that is too large, which ``is_large`` tells.
    """
    types = {column.name: column.type for column in table.primary_key.columns}
    names = dict.fromkeys([*key, *(c.name for c in found)])
    source = sa.table(
        table.name, *(sa.column(name, types.get(name)) for name in names), schema=schema_name
    ).alias("present")
    readable = [c for c in found if c.form != "unknown"]
    sizes = [sa.func.coalesce(sa.func.pg_column_size(source.c[c.name]), 0) for c in readable]
    size = sum(sizes[1:], sizes[0]) if sizes else sa.literal(0)
    is_large = size > _LARGEST
    return sa.select(
        is_large.label("is_large"),
        *(
            sa.case((~is_large, sa.cast(_as_jsonb(source.c[c.name], c), sa.Text))).label(
                f"c_{number}"
            )
            for number, c in enumerate(readable)
        ),
    ).where(*(source.c[name] == value for name, value in key.items()))


def _as_jsonb(reference: Any, column: Any) -> Any:
    if column.base is not None and column.form == "plain":
        reference = sa.cast(reference, _Named(column.base))
    if column.form in {"text", "texts"}:
        text: Any = sa.func.concat(reference)
        if column.form == "texts":
            text = sa.cast(text, sa.ARRAY(sa.Text))
        return sa.case((reference.is_not(None), sa.func.to_jsonb(text)))
    return sa.func.to_jsonb(reference)


def targets(
    table: sa.Table,
    wanted: Mapping[sa.Column[Any], Iterable[Any]],
    shown: Iterable[sa.Column[Any]],
) -> sa.Select[Any]:
    """Return the query for the rows that foreign keys point at.

    :param wanted: values by the column that they point at.
    :param shown: further columns to read; of long texts the beginning.
    """
    pointed_at = list(wanted)
    needed = dict.fromkeys((*table.primary_key.columns, *pointed_at))
    extra = [c for c in shown if c not in needed]
    labelled = [
        sa.func.left(c, _LONGEST_TEXT).label(f"c_{c.name}")
        if isinstance(c.type, sa.String) and not isinstance(c.type, sa.Enum)
        else c.label(f"c_{c.name}")
        for c in extra
    ]
    return sa.select(*(c.label(f"c_{c.name}") for c in needed), *labelled).where(
        sa.or_(*(column.in_(list(values)) for column, values in wanted.items()))
    )
