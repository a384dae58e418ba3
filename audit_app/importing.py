"""Taking over the trail that PostgreSQL-Audit, or its Flask fork, has written.

Their rows get ids below zero, so that they come before everything that this trail recorded itself,
whether it was in use already or not. An id is computed from theirs alone: whatever is there stays,
whatever is missing comes, so an import may be interrupted, repeated and continued.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from audit_app.errors import (
    ConfigurationError,
    ImportMismatchError,
    NotGrantedError,
    SourceTrailError,
)
from audit_app.install import is_installed, not_installed, sqlstate
from audit_app.sql import quote_identifier, quote_literal

if TYPE_CHECKING:
    from audit_app.ddl import Trail

FLAVOURS: Final = ("postgresql-audit", "flask-audit-logger")
"""The packages whose trails can be taken over."""

BATCH: Final = 10_000
"""Rows of a batch; each is a database transaction."""

_BLOCK: Final = 10**15
"""The ids that a source may use; a second source gets the block below."""

_UNATTRIBUTED: Final = 5 * 10**14
"""Where in a block the transactions begin that had to be made up."""

_COLUMNS: Final[Mapping[str, frozenset[str]]] = {
    "transaction": frozenset({"id", "native_transaction_id", "issued_at"}),
    "activity": frozenset(
        {
            "id", "table_name", "relid", "issued_at", "native_transaction_id", "verb", "old_data",
            "changed_data", "transaction_id",
        }
    ),
}  # fmt: skip

FormerNames = Callable[[str, str], "tuple[str | None, str, Mapping[str, Sequence[str]]]"]
"""Tells the present schema and name of a table, and the former names of its columns."""


@dataclass(frozen=True)
class Progress:
    """How far an import has come.

    :ivar relation: ``transaction`` or ``activity``.
    :ivar done: rows of the source that were looked at.
    :ivar total: rows that it had at the beginning.
    :ivar added: rows that were missing so far, and came.
    """

    relation: str
    done: int
    total: int
    added: int


@dataclass(frozen=True)
class Count:
    """The activities of a table and verb that are now here, as many as there."""

    schema_name: str
    table_name: str
    verb: str
    rows: int


@dataclass(frozen=True)
class Summary:
    """What an import did.

    :ivar added: rows that this run added, for each relation.
    :ivar counts: all that was taken over from this source, by this run and those before.
    :ivar guessed: tables that have no primary key in the database any more: their records are told
        apart by a column ``id``, where there was one, or not at all.
    :ivar recording: tables on which the old triggers still record.
    """

    flavour: str
    source_schema: str
    added: Mapping[str, int]
    counts: tuple[Count, ...]
    guessed: tuple[str, ...]
    recording: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def import_trail(
    engine: sa.Engine,
    trail: Trail,
    flavour: str,
    *,
    source_schema: str = "public",
    batch_size: int = BATCH,
    former_names: FormerNames = lambda schema, table: (schema, table, {}),
    progress: Callable[[Progress], None] = lambda progress: None,
) -> Summary:
    """Take over the trail of another package; may be interrupted and repeated.

    :param trail: our trail.
    :param flavour: one of :data:`FLAVOURS`.
    :param source_schema: the schema of their ``transaction`` and ``activity``.
    :param former_names: the present names of a table that their rows know by a former one.
    :param progress: called after each batch.
    :raises ConfigurationError: if an argument is wrong.
    :raises NotInstalledError: if our trail is not installed.
    :raises SourceTrailError: if there is no such trail in that schema.
    :raises NotGrantedError: if the database role may not add to our trail, or not read theirs.
    :raises ImportMismatchError: if the counts are not equal at the end.
    """
    _check(flavour, source_schema, trail.schema_name, batch_size)
    try:
        with engine.connect() as connection:
            if not is_installed(connection, trail):
                raise not_installed(trail.schema_name)
            run = _Run(connection, trail.schema_name, flavour, source_schema)
            return run(batch_size, former_names, progress)
    except sa.exc.ProgrammingError as error:
        if sqlstate(error) != "42501":
            raise
        raise NotGrantedError(
            "This database role may not do the import: run it as the owner of the schema "
            f"{trail.schema_name!r}, with SELECT on the tables in {source_schema!r}."
        ) from error


def _check(flavour: str, source_schema: str, schema_name: str, batch_size: int) -> None:
    if flavour not in FLAVOURS:
        raise ConfigurationError(f"There is no import from {flavour!r}: use {_or(FLAVOURS)}.")
    if source_schema == schema_name:
        raise ConfigurationError(
            f"The schema {source_schema!r} is that of this trail: give the old one another name "
            "before this one is installed (ALTER SCHEMA … RENAME TO …), and name that."
        )
    if batch_size < 1:
        raise ConfigurationError(f"batch_size={batch_size} must be 1 or more.")


class _Run:
    """One import: what the statements need, and the steps."""

    def __init__(
        self, connection: sa.Connection, schema_name: str, flavour: str, source_schema: str
    ) -> None:
        self.connection = connection
        self.flavour, self.source = flavour, source_schema
        self.names: dict[str, str] = {}
        self.parameters: dict[str, Any] = {"flavour": flavour, "source": source_schema}
        columns = self._source_columns()
        self.names = {
            "schema": quote_identifier(schema_name),
            "source": quote_identifier(source_schema),
            "schema_column": quote_identifier(
                "schema_name" if "schema_name" in columns["activity"] else "schema"
            ),
            "transaction_issued_at": _moment("t", columns["transaction"]["issued_at"]),
            "activity_issued_at": _moment("a", columns["activity"]["issued_at"]),
        }
        self.names["key_of_old"] = self._render("key_of", {"row": "a.old_data"})
        self.names["key_of_new"] = self._render(
            "key_of", {"row": "(coalesce(a.old_data, '{}') || coalesce(a.changed_data, '{}'))"}
        )

    def __call__(
        self,
        batch_size: int,
        former_names: FormerNames,
        progress: Callable[[Progress], None],
    ) -> Summary:
        keys, guessed = self._keys(former_names)
        low = self._block()
        self.parameters |= {
            "low": low,
            "high": low + _BLOCK,
            "unattributed": low + _UNATTRIBUTED,
            "keys": json.dumps(keys),
        }
        self.connection.rollback()
        added = {
            relation: self._copy(relation, batch_size, progress)
            for relation in ("transaction", "activity")
        }
        with self.connection.begin():
            # One moment for both sides, or a write in between would look like a loss.
            self.connection.execute(
                sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            )
            self._prove()
            counts = tuple(
                Count(row.schema_name, row.table_name, row.verb, row.rows)
                for row in self._execute("counts")
            )
            recording = tuple(self._execute("recorders").scalars())
        return Summary(self.flavour, self.source, added, counts, guessed, recording)

    def _source_columns(self) -> dict[str, dict[str, str]]:
        columns: dict[str, dict[str, str]] = {"transaction": {}, "activity": {}}
        for row in self._execute("source"):
            columns[row.relation][row.name] = row.type
        for relation, needed in _COLUMNS.items():
            missing = sorted(needed - columns[relation].keys())
            if missing:
                what = (
                    f"no table {relation!r}"
                    if not columns[relation]
                    else f"no column {missing[0]!r} in its table {relation!r}"
                )
                raise SourceTrailError(
                    f"The schema {self.source!r} holds no trail of {self.flavour}: it has {what}. "
                    "Name the schema that holds it with --source-schema."
                )
        if not {"schema_name", "schema"} & columns["activity"].keys():
            raise SourceTrailError(
                f"The table 'activity' in {self.source!r} has neither a column 'schema_name' nor "
                "'schema': this is a version that cannot be taken over."
            )
        return columns

    def _keys(self, former_names: FormerNames) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
        """Say for each table in the source what the columns of its key are called there."""
        keys, guessed = [], []
        for row in self._execute("tables").all():
            schema, table = row.schema_name, row.table_name
            present_schema, present, columns = former_names(schema, table)
            relation = quote_identifier(present)
            if present_schema:
                relation = f"{quote_identifier(present_schema)}.{relation}"
            parts = [
                {"names": [row.name, *columns.get(row.name, ())], "type": row.type}
                for row in self._execute("key", relation=relation)
            ]
            if not parts:
                guessed.append(f"{schema}.{table}")
                parts = [{"names": ["id"], "type": ""}]
            keys.append({"schema_name": schema, "table_name": table, "parts": parts})
        return keys, tuple(guessed)

    def _block(self) -> int:
        """Return the id below all ids of this source, in a block that is its own."""
        extent = self._execute("extent").one()
        if extent.lowest < 1 or extent.highest >= _UNATTRIBUTED:
            raise SourceTrailError(
                f"The trail in {self.source!r} has ids from {extent.lowest} to {extent.highest}, "
                f"and they must be between 1 and {_UNATTRIBUTED - 1}: renumber it first."
            )
        low = -_BLOCK
        while True:
            source = self._execute("block", low=low, high=low + _BLOCK).scalar()
            if source in {None, self.source}:
                return low
            low -= _BLOCK

    def _copy(self, relation: str, batch_size: int, progress: Callable[[Progress], None]) -> int:
        statements = {
            "transaction": ["transactions"],
            "activity": ["unattributed", "activities"],
        }[relation]
        with self.connection.begin():
            total = self._execute("total", {"relation": relation}).scalar_one()
        after, done, added = 0, 0, 0
        while True:
            with self.connection.begin():
                # As the owner of the trail, call nothing that another role may have made.
                self.connection.execute(sa.text("SET LOCAL search_path = pg_catalog, pg_temp"))
                # An identity is the text of its value in this zone.
                self.connection.execute(sa.text("SET LOCAL TimeZone = 'UTC'"))
                self.connection.execute(sa.text("SET LOCAL DateStyle = 'ISO'"))
                batch = self._execute(
                    "batch", {"relation": relation}, after=after, size=batch_size
                ).one()
                if batch.until is None:
                    return added
                for name in statements:
                    count = self._execute(name, after=after, until=batch.until).rowcount
                added += count
            after, done = batch.until, done + batch.rows
            progress(Progress(relation, done, max(total, done), added))

    def _prove(self) -> None:
        differences = self._execute("differences").all()
        if differences:
            first = differences[0]
            where = ".".join(part for part in (first.schema_name, first.table_name) if part)
            raise ImportMismatchError(
                f"{len(differences)} counts are not equal, the first for {where} {first.verb}: "
                f"{first.source_rows} in {self.source!r}, {first.rows} here. Run the import again: "
                "it adds what is missing. If that does not help, the old trail was pruned or "
                "changed after an earlier import."
            )

    def _execute(
        self, name: str, more: Mapping[str, str] | None = None, **parameters: Any
    ) -> sa.CursorResult[Any]:
        statement = sa.text(self._render(name, more))
        wanted = {**self.parameters, **parameters}
        return self.connection.execute(
            statement, {key: wanted[key] for key in statement._bindparams}
        )

    def _render(self, name: str, more: Mapping[str, str] | None = None) -> str:
        files = resources.files("audit_app.sql").joinpath("importing")
        text = files.joinpath(f"{name}.sql").read_text("utf-8")
        for place, value in {**self.names, **(more or {})}.items():
            # A colon in a name would be taken for a parameter.
            text = text.replace(f"@{place}@", re.sub("(?=:)", r"\\", value))
        return text


def _moment(alias: str, type_: str) -> str:
    """They keep moments in UTC, without saying so; some applications have changed that."""
    if type_ == "timestamp with time zone":
        return f"{alias}.issued_at"
    return f"({alias}.issued_at AT TIME ZONE {quote_literal('UTC')})"


def _or(names: Sequence[str]) -> str:
    return " or ".join(map(repr, names))
