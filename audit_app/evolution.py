"""Operations of a revision that let history follow the schema: ``op.audit_rename_column(…)``.

Each rewrites what was recorded of one table, after the revision has changed the table itself, and
leaves a record of that in the trail. The functions that do it are in the audit schema
(``sql/evolve.sql``). Nothing need be rewritten for history to be read under the present names:
``__versioned__["formerly"]`` maps them as they are read.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Final

import sqlalchemy as sa
from alembic.operations import Operations, ops
from alembic.runtime.migration import MigrationContext

from audit_app import sql
from audit_app.ddl import LOGGERS
from audit_app.errors import ConfigurationError, InvalidOptionError, NotInstalledError

BATCH: Final = 50_000
"""How many ids of activities a batch spans."""

_log = logging.getLogger(__name__)


class EvolveOp(ops.MigrateOperation):
    """A step of a revision that rewrites what was recorded of one table.

    What the operations have in common:

    * ``schema`` is the table's; None means ``public``, as the trail knows tables without one.
    * ``audit_schema`` is the trail's; None takes that of the AuditLogger of the models.
    * ``batch_size``: how many ids of activities are looked at by one statement.
    * ``commit_batches``: commit after each batch. Needs ``transaction_per_migration=True`` in
      ``env.py``; an interrupted run is continued by running the revision again.

    An :class:`InvalidOptionError` is raised for arguments that cannot be meant, and
    :class:`NotInstalledError` where the functions of the trail are missing or older.
    """

    def __init__(
        self,
        operation: str,
        table: str,
        schema: str | None,
        arguments: Mapping[str, Any],
        *,
        audit_schema: str | None = None,
        batch_size: int = BATCH,
        commit_batches: bool = False,
    ) -> None:
        if batch_size < 1:
            raise InvalidOptionError(f"batch_size={batch_size!r} must be at least 1.")
        self.operation, self.table, self.schema = operation, table, schema or "public"
        self.arguments = dict(arguments)
        self.audit_schema = audit_schema
        self.batch_size, self.commit_batches = batch_size, commit_batches

    @classmethod
    def rename_table(
        cls, operations: Operations, old_name: str, new_name: str, *,
        schema: str | None = None, **options: Any,
    ) -> None:  # fmt: skip
        """Let the activities of a table that was renamed stand under its new name.

        ``op.audit_rename_table("post", "article")``
        """
        _differ(old_name, new_name)
        arguments = {"schema": schema or "public", "table": new_name}
        operations.invoke(cls("rename_table", old_name, schema, arguments, **options))

    @classmethod
    def move_table(
        cls, operations: Operations, name: str, new_schema: str | None, *,
        schema: str | None = None, **options: Any,
    ) -> None:  # fmt: skip
        """Let the activities of a table that was moved stand under its new schema.

        ``op.audit_move_table("article", "press")``
        """
        _differ(schema or "public", new_schema or "public")
        arguments = {"schema": new_schema or "public", "table": name}
        operations.invoke(cls("rename_table", name, schema, arguments, **options))

    @classmethod
    def rename_column(
        cls, operations: Operations, table: str, old_name: str, new_name: str, *,
        schema: str | None = None, **options: Any,
    ) -> None:  # fmt: skip
        """Let the values of a column that was renamed stand under its new name.

        ``op.audit_rename_column("article", "headline", "title")``; an activity that knows both
        names stops it: another column had the new one.
        """
        _differ(old_name, new_name)
        arguments = {"column": old_name, "to": new_name}
        operations.invoke(cls("rename_column", table, schema, arguments, **options))

    @classmethod
    def add_column(
        cls, operations: Operations, table: str, column: str, value: Any = None, *,
        schema: str | None = None, **options: Any,
    ) -> None:  # fmt: skip
        """Give the recorded rows, where they lack a column that was added, a value for it.

        ``op.audit_add_column("article", "kind", "draft")``

        :param value: anything that :func:`json.dumps` takes.
        """
        arguments = {"column": column, "value": value}
        operations.invoke(cls("add_column", table, schema, arguments, **options))

    @classmethod
    def remove_column(
        cls, operations: Operations, table: str, column: str, *,
        schema: str | None = None, keep: bool = True, **options: Any,
    ) -> None:  # fmt: skip
        """Take the values of a column out of the recorded rows.

        ``op.audit_remove_column("article", "legacy")``

        :param keep: whether the record of the rewriting keeps them, so that
            ``op.audit_restore_column()`` can put them back. False erases them for good, from the
            records of earlier rewritings, too.
        """
        arguments = {"column": column, "keep": keep}
        operations.invoke(cls("remove_column", table, schema, arguments, **options))

    @classmethod
    def alter_column(
        cls, operations: Operations, table: str, column: str, using: str, *,
        schema: str | None = None, **options: Any,
    ) -> None:  # fmt: skip
        """Convert the recorded values of a column.

        ``op.audit_alter_column("article", "price", "to_jsonb((value #>> '{}')::numeric)")``

        :param using: an SQL expression over ``value``, of type ``jsonb`` both, with functions of
            ``pg_catalog`` or named with their schema. The former values are kept for
            ``op.audit_restore_column()``.
        """
        arguments = {"column": column, "using": using}
        operations.invoke(cls("alter_column", table, schema, arguments, **options))

    @classmethod
    def restore_column(
        cls, operations: Operations, table: str, column: str, *,
        schema: str | None = None, **options: Any,
    ) -> None:  # fmt: skip
        """Undo the newest adding, removing or altering of a column: the way back of these three.

        ``op.audit_restore_column("article", "legacy")``; what was recorded since stays as it is.
        """
        operations.invoke(cls("restore_column", table, schema, {"column": column}, **options))

    def reverse(self) -> EvolveOp:
        """Return the step that takes this one back.

        :raises ConfigurationError: if nothing can: values were erased, or are restored already.
        """
        options: dict[str, Any] = {
            "audit_schema": self.audit_schema,
            "batch_size": self.batch_size,
            "commit_batches": self.commit_batches,
        }
        if self.operation == "rename_table":
            arguments = {"schema": self.schema, "table": self.table}
            table, schema = self.arguments["table"], self.arguments["schema"]
            return EvolveOp("rename_table", table, schema, arguments, **options)
        if self.operation == "rename_column":
            arguments = {"column": self.arguments["to"], "to": self.arguments["column"]}
            return EvolveOp("rename_column", self.table, self.schema, arguments, **options)
        if self.operation == "restore_column" or self.arguments.get("keep") is False:
            raise ConfigurationError(f"There is no way back from {self.operation} here.")
        arguments = {"column": self.arguments["column"]}
        return EvolveOp("restore_column", self.table, self.schema, arguments, **options)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        return (f"audit_{self.operation}", self.schema, self.table, self.arguments)


for _name in (
    "rename_table", "move_table", "rename_column", "add_column", "remove_column", "alter_column",
    "restore_column",
):  # fmt: skip
    Operations.register_operation(f"audit_{_name}", _name)(EvolveOp)


@Operations.implementation_for(EvolveOp)
def _evolve(operations: Operations, operation: EvolveOp) -> None:
    context = operations.migration_context
    schema = operation.audit_schema or _audit_schema(context)
    place = [operation.schema, operation.table]
    if not context.as_sql:
        _require(operations.get_bind(), schema)
    if operation.operation == "restore_column":
        call = _call(schema, "restore_column", *place, operation.arguments["column"])
        operations.execute(f"SELECT {call}")
    elif context.as_sql:
        arguments = json.dumps(operation.arguments)
        call = _call(schema, "evolve", operation.operation, *place, arguments, operation.batch_size)
        operations.execute(f"SELECT {call}")
    elif operation.commit_batches:
        with context.autocommit_block():
            _in_batches(operations.get_bind(), schema, operation)
    else:
        _in_batches(operations.get_bind(), schema, operation)


def _in_batches(connection: sa.Connection, schema: str, operation: EvolveOp) -> None:
    place = [operation.operation, operation.schema, operation.table]
    arguments, run = json.dumps(operation.arguments), str(uuid.uuid4())

    def execute(function: str, *further: str | int) -> Any:
        call = _call(schema, function, *place, arguments, *further)
        return connection.scalar(sa.text(f"SELECT {call}"))

    changed = 0
    for after, until, last in _ranges(connection, schema, operation.batch_size):
        changed += execute("evolve_batch", run, after, until)
        _log.info("%s of %s.%s: activity %d of %d, %d changed", *place, until, last, changed)
    execute("forget_kept")


def _ranges(
    connection: sa.Connection, schema: str, batch_size: int
) -> Iterator[tuple[int, int, int]]:
    table = f"{sql.quote_identifier(schema)}.activity"
    first, last = connection.execute(sa.text(f"SELECT min(id), max(id) FROM {table}")).one()  # noqa: S608
    if first is not None:
        for after in range(first - 1, last, batch_size):
            yield after, min(after + batch_size, last), last


def _call(schema: str, function: str, *arguments: str | int) -> str:
    values = ", ".join(
        str(value) if isinstance(value, int) else sql.plain_literal(value) for value in arguments
    )
    return f"{sql.quote_identifier(schema)}.{function}({values})"


def _require(connection: sa.Connection, schema: str) -> None:
    query = sa.text("SELECT pg_catalog.to_regproc(CAST(:name AS text)) IS NOT NULL")
    if not connection.scalar(query, {"name": f"{sql.quote_identifier(schema)}.evolve_batch"}):
        raise NotInstalledError(
            f"The audit schema {schema!r} has no function evolve_batch: install the trail, or "
            "bring it up to date, in an earlier revision (flask db migrate writes it)."
        )


def _audit_schema(context: MigrationContext) -> str:
    metadata = context.opts.get("target_metadata")
    parts = metadata if isinstance(metadata, list | tuple) else [metadata]
    names = {
        logger.schema_name
        for part in parts
        if part is not None
        for logger in part.info.get(LOGGERS, ())
    }
    if len(names) != 1:
        raise ConfigurationError(
            f"The models know {len(names)} audit trails, so this operation cannot tell which one "
            "to rewrite: pass audit_schema='…'."
        )
    return str(names.pop())


def _differ(old: str, new: str) -> None:
    if old == new:
        raise InvalidOptionError(f"The old and the new name are the same, {old!r}.")
