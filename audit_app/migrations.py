"""Revisions that write themselves: Alembic's autogeneration learns to see the trail.

Importing this module is enough (Flask-Migrate's users need not: :meth:`AuditLogger.init` does it).
What a revision holds is the full SQL of both directions, as it was that day: it reads no model, and
nothing of this package.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from alembic import util as alembic_util
from alembic.autogenerate import comparators, renderers
from alembic.operations import Operations, ops

from audit_app import evolution as _evolution  # noqa: F401 - registers its operations
from audit_app import sql
from audit_app.ddl import LOGGERS, AuditedTable, Trail, track_sql, untrack_sql
from audit_app.install import check_table, is_installed

_STALE = frozenset(
    {"drift", "duplicate", "function", "options", "owner", "partition", "trigger", "untracked"}
)
"""What ``check`` finds of a table, and tracking it again mends."""


class AuditOp(ops.MigrateOperation):
    """A step of a revision.

    :ivar comment: what it does, and what its reverse does.
    :ivar upgrade_sql: the statements, and those of the way back; either may be empty.
    """

    def __init__(self, comment: tuple[str, str], upgrade_sql: str, downgrade_sql: str) -> None:
        self.comment = comment
        self.upgrade_sql = upgrade_sql
        self.downgrade_sql = downgrade_sql

    def reverse(self) -> AuditOp:
        return AuditOp(self.comment[::-1], self.downgrade_sql, self.upgrade_sql)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        return ("audit", self.comment[0])


@Operations.implementation_for(AuditOp)
def _run(operations: Operations, operation: AuditOp) -> None:
    if operation.upgrade_sql:
        operations.execute(operation.upgrade_sql)


@renderers.dispatch_for(AuditOp)
def _render(_: Any, operation: AuditOp) -> list[str]:
    if not operation.upgrade_sql:
        return []
    # A literal for each line: Alembic indents what it renders, and no function's body may change.
    lines = operation.upgrade_sql.splitlines(keepends=True)
    text = "\n".join(f"    {line!r}" for line in lines)
    comment = " ".join(operation.comment[0].splitlines())  # a table's name may hold anything
    return [f"# {comment}", f"op.execute(\n{text}\n)"]


@dataclass(frozen=True)
class Installed:
    """What the catalog says of a trail.

    :ivar schema_name: of the trail.
    :ivar comment: on the schema.
    :ivar functions: name and definition of each, those of the tracked tables aside.
    :ivar bodies: the source of each function, by its name.
    :ivar tables: the quoted name of each tracked table, with the options it is tracked with.
    """

    schema_name: str
    comment: str | None = None
    functions: Sequence[tuple[str, str]] = ()
    bodies: Mapping[str, str] = field(default_factory=dict)
    tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def functions_sql(self) -> str:
        """The statements that bring back exactly these functions."""
        definitions = "".join(f"{definition.strip()};\n" for _, definition in self.functions)
        comment = "NULL" if self.comment is None else sql.quote_literal(self.comment)
        schema = sql.quote_identifier(self.schema_name)
        return (
            # Functions that name each other cannot be checked while they are being made.
            f"SET LOCAL check_function_bodies = off;\n{definitions}"
            + _leftovers(self.schema_name, {name for name, _ in self.functions})
            + f"COMMENT ON SCHEMA {schema} IS {comment};\n"
            "SET LOCAL check_function_bodies = on;\n"
        )

    def track_sql(self, table: str) -> str:
        """The statement that tracks ``table`` as it is tracked now."""
        return f"{track_sql(self.schema_name, table, self.tables[table])};\n"


def compare(autogen_context: Any, upgrade_ops: Any, _schemas: Any) -> Any:
    """Add to ``upgrade_ops`` what the trails of the models need; called by Alembic."""
    connection = autogen_context.connection
    metadata = autogen_context.metadata
    for part in metadata if isinstance(metadata, list | tuple) else [metadata]:
        for logger in () if part is None else part.info.get(LOGGERS, ()):
            is_online = connection is not None and connection.dialect.name == "postgresql"
            tables = _trail_tables(connection if is_online else None, logger.trail)
            _leave_tables_to_us(upgrade_ops, tables, logger.schema_name)
            if is_online:
                _leave_entities_to_us(autogen_context, upgrade_ops, logger.trail)
                _compare(connection, upgrade_ops, logger)
    result = getattr(alembic_util, "PriorityDispatchResult", None)
    return None if result is None else result.CONTINUE


def _register() -> None:
    # After Alembic's own comparison of the tables: which are created and dropped decides on ours.
    priority = getattr(alembic_util, "DispatchPriority", None)
    options = {} if priority is None else {"priority": priority.LAST}
    comparators.dispatch_for("schema", **options)(compare)


def _trail_tables(
    connection: sa.Connection | None, trail: Trail, schema_name: str | None = None
) -> set[str]:
    """The names of the trail's own tables, and of what holds their rows or did.

    :param schema_name: where the trail is, if it is to be renamed.
    """
    found = {table.name for table in trail.tables}
    if connection is not None:
        found |= set(connection.scalars(_PARTITIONS, {"schema": schema_name or trail.schema_name}))
    return found


def _leave_tables_to_us(upgrade_ops: Any, tables: Iterable[str], schema_name: str) -> None:
    """The trail's own tables are made by its SQL, and never dropped by a comparison."""
    names = {(schema_name, name) for name in tables}
    upgrade_ops.ops[:] = [
        op
        for op in upgrade_ops.ops
        if (getattr(op, "schema", None), getattr(op, "table_name", None)) not in names
    ]


def _leave_entities_to_us(autogen_context: Any, upgrade_ops: Any, trail: Trail) -> None:
    """alembic_utils drops what is not registered with it: not our functions and triggers."""
    module = sys.modules.get("alembic_utils.replaceable_entity")
    if module is None:
        return
    connection: sa.Connection = autogen_context.connection
    # That of a trail that is about to be renamed, too.
    schemas = {row.name for row in connection.execute(_SCHEMAS) if _is_trail(row.comment)}
    schemas.add(trail.schema_name)
    definitions = [row.definition for row in connection.execute(_TRIGGERS) if row.schema in schemas]
    triggers: set[str] = set()

    def is_ours(entity: Any) -> bool:
        if not isinstance(entity, module.ReplaceableEntity):
            return False
        if entity.schema in schemas:
            return entity.type_ in {"function", "grant_table", "trigger"}
        if entity.type_ != "trigger":
            return False
        if not triggers:  # as alembic_utils reads them from the database
            triggers.update(entity.from_sql(text).identity for text in definitions)
        return entity.identity in triggers

    upgrade_ops.ops[:] = [
        op
        for op in upgrade_ops.ops
        if not is_ours(getattr(op, "target", None)) or op.to_diff_tuple()[0] != "drop_entity"
    ]
    # An Alembic without priorities may run the other comparison after this one.
    autogen_context._object_filters.append(
        lambda item, _name, _type, reflected, _to: not (reflected and is_ours(item))
    )


def _compare(connection: sa.Connection, upgrade_ops: Any, logger: Any) -> None:
    trail: Trail = logger.trail
    tables: tuple[AuditedTable, ...] = logger.audited_tables()
    there = {table: _name_in_database(connection, table) for table in tables}
    created = {
        (op.schema, op.table_name) for op in upgrade_ops.ops if isinstance(op, ops.CreateTableOp)
    }
    wanted = [
        table for table in tables if there[table] or (table.explicit_schema, table.name) in created
    ]
    installed = read(connection, trail.schema_name)
    before: list[AuditOp] = []
    after: list[AuditOp] = []
    # Where the functions of the trail are replaced, every tracked table's own is made anew by that.
    is_replaced = True

    former = None if is_installed(connection, trail) else _former(connection, trail, there.values())
    if former is not None:
        names = _trail_tables(connection, trail, former.schema_name)
        _leave_tables_to_us(upgrade_ops, names, former.schema_name)
        before.append(_rename(trail, former))
        installed = Installed(trail.schema_name, tables=former.tables)
    # A trail that a downgrade left has its guard, and nothing that could be brought back.
    elif not is_installed(connection, trail) or set(installed.bodies) <= {"refuse"}:
        after.append(_install(trail))
    elif not _is_current(connection, trail, installed):
        before.append(_update(trail, installed, _additions(connection, trail)))
    else:
        is_replaced = False

    declared = {name for name in there.values() if name}
    known = _known_names(connection, logger.metadata, upgrade_ops)
    for name in installed.tables:
        if name in known and name not in declared:
            before.append(_untrack(installed, name))
    altered = _altered(upgrade_ops)
    for table in wanted:
        present = there[table] or ""
        options = installed.tables.get(present)
        if options is None:
            after.append(_track_new(table))
        elif (
            options != table.wanted
            or (table.explicit_schema, table.name) in altered
            or (not is_replaced and _is_stale(connection, trail, table))
        ):
            # A capture function is made for the columns that are there: each way ends with it.
            before.append(_track_again_on_the_way_back(installed, table, present))
            after.append(_track_again(table))
    upgrade_ops.ops[:0] = before
    upgrade_ops.ops.extend(after)


# -- The steps ---------------------------------------------------------------------------------


def _install(trail: Trail) -> AuditOp:
    return AuditOp(
        ("Install the audit trail.", "Take the audit trail's functions and triggers away."),
        trail.schema_sql + trail.install_sql,
        sql.render("uninstall.sql", trail.schema_name),
    )


def _update(trail: Trail, installed: Installed, additions: tuple[str, str]) -> AuditOp:
    add, take_away = additions
    return AuditOp(
        ("Bring the audit trail's functions up to date.", "Bring the former functions back."),
        # Those too that the models do not know: their capture functions call these.
        add + _functions_sql(trail) + _track_all(trail.schema_name, installed),
        _untrack_all(trail.schema_name, installed)
        + installed.functions_sql
        + take_away
        + _track_all(trail.schema_name, installed),
    )


def _rename(trail: Trail, former: Installed) -> AuditOp:
    old, new = former.schema_name, trail.schema_name
    there, back = sql.quote_identifier(new), sql.quote_identifier(old)
    # The capture functions name the schema: they are made anew in both directions.
    return AuditOp(
        (f"Rename the audit schema {old!r} to {new!r}.", f"Rename it back to {old!r}."),
        f"ALTER SCHEMA {back} RENAME TO {there};\n"
        + _functions_sql(trail)
        + _track_all(new, former),
        _untrack_all(new, former)
        + f"ALTER SCHEMA {there} RENAME TO {back};\n"
        + former.functions_sql
        + _track_all(old, former),
    )


def _track_new(table: AuditedTable) -> AuditOp:
    return AuditOp(
        (f"Track the changes of {table.regclass}.", f"Stop to track {table.regclass}."),
        f"{table.create_sql};\n",
        f"{table.drop_sql};\n",
    )


def _track_again(table: AuditedTable) -> AuditOp:
    return AuditOp((f"Track {table.regclass} anew.", ""), f"{table.create_sql};\n", "")


def _track_again_on_the_way_back(installed: Installed, table: AuditedTable, name: str) -> AuditOp:
    return AuditOp(("", f"Track {table.regclass} as before."), "", installed.track_sql(name))


def _untrack(installed: Installed, name: str) -> AuditOp:
    return AuditOp(
        (f"Stop to track {name}; what was recorded stays.", f"Track {name} again."),
        f"{untrack_sql(installed.schema_name, name)};\n",
        installed.track_sql(name),
    )


def _track_all(schema_name: str, installed: Installed) -> str:
    """Make every table's capture function anew, with the functions that are there by then."""
    return "".join(
        f"{track_sql(schema_name, name, options)};\n" for name, options in installed.tables.items()
    )


def _untrack_all(schema_name: str, installed: Installed) -> str:
    """What precedes the return to former functions: they may not know the triggers' names."""
    return "".join(f"{untrack_sql(schema_name, name)};\n" for name in installed.tables)


def _functions_sql(trail: Trail) -> str:
    return (
        trail.functions_sql
        + _leftovers(trail.schema_name, trail.function_bodies)
        + trail.comment_sql
    )


def _leftovers(schema_name: str, names: Iterable[str]) -> str:
    array = ", ".join(sql.quote_literal(name) for name in sorted(names))
    return sql.render("leftovers.sql", schema_name).replace("@names@", f"ARRAY[{array}]")


# -- What the catalog says ---------------------------------------------------------------------

_FUNCTIONS = sa.text(sql.query("installed_functions"))
_TABLES = sa.text(sql.query("installed_tables"))
_SCHEMAS = sa.text(sql.query("schemas"))
_TRIGGERS = sa.text(sql.query("capture_triggers"))
_RELATION = sa.text(sql.query("relation"))
_PARTITIONS = sa.text(sql.query("partition_tables"))


def read(connection: sa.Connection, schema_name: str) -> Installed:
    """Return what is installed in the schema ``schema_name``: nothing if it does not exist."""
    for row in connection.execute(_SCHEMAS):
        if row.name == schema_name:
            functions = connection.execute(_FUNCTIONS, {"schema": row.oid}).all()
            tables = connection.execute(_TABLES, {"schema": row.oid}).all()
            return Installed(
                schema_name,
                row.comment,
                [(f.name, f.definition) for f in functions],
                {f.name: f.body for f in functions},
                {t.name: _recorded_options(t.comment) for t in sorted(tables, key=_by_name)},
            )
    return Installed(schema_name)


def _by_name(row: Any) -> str:
    return str(row.name)


def _recorded_options(comment: str | None) -> Mapping[str, Any]:
    try:
        options = json.loads(comment or "")["audit_app"]["options"]
    except (ValueError, KeyError, TypeError):
        return {"exclude": []}
    return options if isinstance(options, dict) else {"exclude": []}


def _former(
    connection: sa.Connection, trail: Trail, names: Iterable[str | None]
) -> Installed | None:
    """The trail under another name: an audit schema of ours that tracks tables of these models."""
    wanted = set(names)
    found = [
        read(connection, row.name)
        for row in connection.execute(_SCHEMAS)
        if row.name != trail.schema_name and _is_trail(row.comment)
    ]
    candidates = [trail_ for trail_ in found if wanted & set(trail_.tables)]
    return candidates[0] if len(candidates) == 1 else None


def _is_trail(comment: str | None) -> bool:
    """Whether the comment on a schema says that it holds a trail of this package."""
    return (comment or "").startswith("audit_app sha256=")


def _altered(upgrade_ops: Any) -> set[tuple[str | None, str]]:
    """Schema and name of each table whose columns or key this revision alters."""
    kinds = (
        ops.AddColumnOp,
        ops.AlterColumnOp,
        ops.CreatePrimaryKeyOp,
        ops.DropColumnOp,
        ops.DropConstraintOp,
    )
    return {
        (op.schema, op.table_name)
        for op in upgrade_ops.ops
        if isinstance(op, ops.ModifyTableOps) and any(isinstance(step, kinds) for step in op.ops)
    }


def _is_current(connection: sa.Connection, trail: Trail, installed: Installed) -> bool:
    if installed.bodies != trail.function_bodies or trail.digest not in (installed.comment or ""):
        return False
    if any(_additions(connection, trail)):
        return False
    functions = getattr(sa.func, trail.schema_name)
    guards = functions.check_trail().table_valued("code", "relation", "message")
    return all(row.code != "append_only" for row in connection.execute(sa.select(guards)))


def _additions(connection: sa.Connection, trail: Trail) -> tuple[str, str]:
    """What gives the trail's own tables the columns and indexes that they lack, and takes them."""
    inspector, schema = sa.inspect(connection), trail.schema_name
    there: dict[str, set[str | None]] = {}
    for table in (table.name for table in trail.tables):
        there[table] = {column["name"] for column in inspector.get_columns(table, schema)}
        there[table] |= {index["name"] for index in inspector.get_indexes(table, schema)}
    return trail.additions(there)


def _is_stale(connection: sa.Connection, trail: Trail, table: AuditedTable) -> bool:
    """Whether the triggers or the capture function of a tracked table are not what they should be.

    Asked only where the functions of the trail, which know, are the current ones.
    """
    return any(row.code in _STALE for row in check_table(connection, table))


def _name_in_database(connection: sa.Connection, table: AuditedTable) -> str | None:
    name = connection.scalar(_RELATION, {"name": table.regclass})
    return None if name is None else str(name)


def _known_names(connection: sa.Connection, metadata: sa.MetaData, upgrade_ops: Any) -> set[str]:
    """The tables that the models have, or had until this revision: no others are ours to judge."""
    places = [(table.schema, table.name) for table in metadata.tables.values()]
    places += [
        (op.schema, op.table_name) for op in upgrade_ops.ops if isinstance(op, ops.DropTableOp)
    ]
    quote: Callable[[str], str] = sql.quote_identifier
    names = (".".join(quote(part) for part in place if part) for place in places)
    found = (connection.scalar(_RELATION, {"name": name}) for name in names)
    return {str(name) for name in found if name is not None}


_register()
