"""``check``: what of the installation is not as it should be; and ``fix``: what is safe to repair.

The catalog is compared with this version of the package, not with what the database says of itself:
the trail's own functions are looked at first, because they are asked for the rest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

import sqlalchemy as sa

from audit_app import sql
from audit_app.install import (
    as_jsonb,
    install_online,
    install_trail,
    is_installed,
    not_installed,
    relations,
)

if TYPE_CHECKING:
    from audit_app.ddl import AuditedTable, Trail

Severity = Literal["error", "warning"]

HORIZON: Final = timedelta(hours=1)
"""How long a transaction may be open before ``check`` names it."""

_WARNINGS: Final = frozenset(
    {
        "default_partition", "default_rows", "member", "next_partition", "order", "orphan",
        "partitioning", "replica", "row_security", "split", "stranger", "transaction",
    }
)  # fmt: skip
_TRAIL_REPAIRS: Final = frozenset({"append_only", "altered", "function", "missing_function"})
_TABLE_REPAIRS: Final = frozenset(
    {"drift", "duplicate", "function", "options", "owner", "partition", "trigger", "untracked"}
)


@dataclass(frozen=True)
class Finding:
    """Something about the installation that is not as it should be.

    :ivar code: what kind of thing: ``untracked``, ``drift``, ``partition``, …
    :ivar table: the table, function or role that it is about.
    :ivar message: what is wrong.
    :ivar remedy: what to do.
    """

    code: str
    table: str
    message: str
    remedy: str

    @property
    def severity(self) -> Severity:
        """``error`` where changes can be lost, forged or read by the wrong people; ``warning``
        where nothing is lost, and somebody has to decide whether it is meant so."""
        return "warning" if self.code in _WARNINGS else "error"

    def as_dict(self) -> dict[str, str]:
        """Return the finding for ``json``, with its severity."""
        return {"severity": self.severity, **asdict(self)}


_AGAIN = "Install the trail again: flask audit install."
_FIX = "Put it right: flask audit check --fix."
_REMEDIES: Final = {
    "append_only": _FIX,
    "child": "Track the child too: it needs a primary key and audit_table().",
    "column": "Bring the trail's tables up to date with a migration: flask db upgrade.",
    "constraint": "Restore it as flask audit sql prints it, or drop what is not ours.",
    "conversion": "Do it to the end: flask audit partition.",
    "default_acl": "ALTER DEFAULT PRIVILEGES … REVOKE …; --fix does it for what PUBLIC gets.",
    "default_partition": "Make it: flask audit maintain.",
    "default_rows": "Give them their own: flask audit maintain.",
    "duplicate": _FIX,
    "foreign_trigger": "Find out who made it, and drop it: DROP TRIGGER … ON ….",
    "grant": "Take it away: REVOKE … FROM …, or flask audit grant --role ….",
    "index": "Make it again, beside the writers: flask audit check --fix.",
    "member": "REVOKE the owner's role from it, unless it is the role that runs the migrations: "
    "then name it in AUDIT_TRUSTED_ROLES, or with --trust.",
    "missing": "Create the table, or stop tracking it.",
    "next_partition": "Make it, and from now on by a timer: flask audit maintain.",
    "order": "Rename that trigger, so that ours comes first and records causes before effects.",
    "orphan": "Declare it with __versioned__ = {}, or stop tracking it: flask audit uninstall ….",
    "owner": "Give it back: flask audit check --fix, or flask audit grant --owner ….",
    "partitioning": "Convert it with flask audit partition --by …, or write what it is: "
    "AuditLogger(partition_by=…).",
    "privilege": "REVOKE TRIGGER, REFERENCES ON … FROM that role; --fix does it for PUBLIC.",
    "replica": "ALTER ROLE … RESET session_replication_role, or ALTER DATABASE … RESET.",
    "row_security": "ALTER TABLE … DISABLE ROW LEVEL SECURITY, unless readers are meant to see "
    "a part only.",
    "rule": "Find out who made it, and drop it: DROP RULE … ON ….",
    "session_default": "ALTER ROLE … RESET that setting, or ALTER DATABASE … RESET it.",
    "split": "Do it to the end: flask audit partition --split.",
    "stranger": "Move it to another schema, or drop it.",
    "subscription": "Track it with __versioned__ = {'level': 'row'}.",
    "transaction": "End it: pg_terminate_backend(…), or ROLLBACK PREPARED ….",
    "type": "Give the type to the owner of the table: ALTER TYPE … OWNER TO ….",
    "unlogged": "ALTER TABLE … SET LOGGED.",
}


def check(
    connection: sa.Connection,
    trail: Trail,
    tables: Iterable[AuditedTable],
    *,
    horizon: timedelta = HORIZON,
    trusted: Collection[str] = (),
) -> tuple[Finding, ...]:
    """Compare the installation with ``tables``. Reads the catalog, changes nothing.

    The number of queries does not depend on the number of tables.

    :param horizon: how long a transaction may be open.
    :param trusted: roles that may sign in and are members of the trail's owner on purpose.
    :return: what is not as it should be: the trail first, then in the order of the tables; nothing
        if all is well.
    :raises NotInstalledError: if the trail is not installed.
    """
    found = _check(connection, trail, list(tables), horizon=horizon, trusted=trusted)
    return tuple(finding for finding, _ in found)


def has_errors(findings: Iterable[Finding]) -> bool:
    """Tell whether something is wrong that is more than a warning."""
    return any(finding.severity == "error" for finding in findings)


def fix(
    engine: sa.Engine,
    trail: Trail,
    tables: Iterable[AuditedTable],
    *,
    lock_timeout: int = 1000,
    attempts: int = 30,
    progress: Callable[[str], None] = lambda line: None,
) -> None:
    """Repair what needs no decision, on a database in use.

    Functions and triggers are made again, what PUBLIC was granted is taken away, and what belongs
    to another role than the schema is given back. What somebody may have meant stays: other grants,
    foreign triggers, rules, settings of roles.

    :param progress: called with a line for each thing that was done.
    :raises NotInstalledError: if the trail is not installed.
    :raises InstallationConflictError: if something that is not ours is in the way.
    :raises TableBusyError: if a table stayed busy; what came before it is done.
    """
    declared = list(tables)
    # Owners first: a function of somebody else's is not called, and cannot be replaced.
    with engine.begin() as connection:
        if not is_installed(connection, trail):
            raise not_installed(trail.schema_name)
        connection.execute(sa.text("SET LOCAL search_path = pg_catalog, pg_temp"))
        repairs = connection.scalars(sa.text(sql.query("repairs", trail.schema_name))).all()
        for statement in repairs:
            connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
    for statement in repairs:
        progress(f"done: {statement}")
    with engine.begin() as connection:
        broken = {finding.code for finding in _check_functions(connection, trail)}
        if broken:
            install_trail(connection, trail, anew=True)
            progress("done: made the functions of the trail again")
    with engine.connect() as connection:
        found = _check(connection, trail, declared, horizon=HORIZON, trusted=())
    _fix_indexes(engine, trail, [finding for finding, _ in found], progress)
    if any(table is None and finding.code in _TRAIL_REPAIRS for finding, table in found):
        with engine.begin() as connection:
            install_trail(connection, trail, anew=True)
        progress("done: made the functions and guards of the trail again")
    again = [
        table
        for table in declared
        if any(other is table and finding.code in _TABLE_REPAIRS for finding, other in found)
    ]
    if again:
        install_online(
            engine, trail, again, lock_timeout=lock_timeout, attempts=attempts,
            progress=lambda line: progress(f"done: {line}" if "busy" not in line else line),
        )  # fmt: skip


def _fix_indexes(
    engine: sa.Engine, trail: Trail, found: Sequence[Finding], progress: Callable[[str], None]
) -> None:
    if not any(finding.code == "index" for finding in found):
        return
    schema = sql.quote_identifier(trail.schema_name)
    # CONCURRENTLY keeps nobody waiting, and wants to be alone in its transaction.
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for index in trail.expected["indexes"]:
            needle = f"has no working index {index['name']}"
            if not any(f.code == "index" and f.message.startswith(needle) for f in found):
                continue
            name = f"{schema}.{sql.quote_identifier(index['name'])}"
            whole, parts = trail.index_sql(index["name"]), _partitions(connection, trail, index)
            statements = [f"DROP INDEX CONCURRENTLY IF EXISTS {name}", whole]
            if parts:
                # Not beside writers, and so for each partition, which are joined at the end.
                statements = [f"DROP INDEX IF EXISTS {name}", *_in_parts(whole, parts, schema)]
            for statement in statements:
                connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
            progress(f"done: made the index {name} again")


def _partitions(
    connection: sa.Connection, trail: Trail, index: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """The quoted name of each partition of an index's table, and a name for the index on it."""
    partitions = getattr(sa.func, trail.schema_name).partitions().table_valued("parent", "relation")
    moment = sa.literal_column("clock_timestamp()", sa.DateTime(timezone=True))
    query = sa.select(sa.cast(partitions.c.relation, sa.Text), moment).where(
        partitions.c.parent == index["table"]
    )
    return [
        (name, f"{index['name']}_{number}_{moment:%Y%m%d%H%M%S}")
        for number, (name, moment) in enumerate(connection.execute(query))
    ]


def _in_parts(whole: str, parts: Sequence[tuple[str, str]], schema: str) -> Iterator[str]:
    """The statements that make an index of a partitioned table beside its writers."""
    head, table, definition = re.split(r" ON (\S+\.\S+) ", whole, maxsplit=1)
    yield f"{head.replace(' CONCURRENTLY', '')} ON ONLY {table} {definition}"
    parent = head.split()[-1]
    for relation, name in parts:
        yield f"CREATE INDEX CONCURRENTLY {name} ON {relation} {definition}"
        yield f"ALTER INDEX {schema}.{parent} ATTACH PARTITION {schema}.{name}"


_Located = tuple[Finding, "AuditedTable | None"]


def _check(
    connection: sa.Connection,
    trail: Trail,
    tables: Sequence[AuditedTable],
    *,
    horizon: timedelta,
    trusted: Collection[str],
) -> list[_Located]:
    if not is_installed(connection, trail):
        raise not_installed(trail.schema_name)
    found: list[_Located] = [(finding, None) for finding in _check_functions(connection, trail)]
    if any(finding.code == "missing_function" for finding, _ in found):
        # An older version: what would tell more is not there.
        return [(_as_missing(finding), None) for finding, _ in found]
    functions = getattr(sa.func, trail.schema_name)
    arguments = (as_jsonb(trail.expected), sa.cast(horizon, sa.Interval))
    columns = ("code", "relation", "message")
    rows = connection.execute(
        sa.select(functions.check_trail(*arguments).table_valued(*columns))
    ).all()
    found += [
        (Finding(row.code, row.relation, row.message, _REMEDIES.get(row.code, _AGAIN)), None)
        for row in rows
        if not (row.code == "member" and row.relation in trusted)
    ]
    call = functions.check_tables(as_jsonb(_declared(connection, tables)))
    for row in connection.execute(sa.select(call.table_valued(*columns, "position"))):
        table = None if row.position is None else tables[row.position - 1]
        again = _FIX if table is None else f"Track it again: {table.create_sql};"
        remedy = again if row.code == "owner" else _REMEDIES.get(row.code, again)
        found.append((Finding(row.code, row.relation, row.message, remedy), table))
    return found


def _declared(connection: sa.Connection, tables: Sequence[AuditedTable]) -> list[dict[str, Any]]:
    oids = relations(connection, [table.regclass for table in tables])
    return [
        {
            "name": table.regclass,
            "relation": oid,
            "options": table.wanted,
        }
        for table, oid in zip(tables, oids, strict=True)
    ]


def _check_functions(connection: sa.Connection, trail: Trail) -> list[Finding]:
    """Compare the functions of the trail with those of this version of the package."""
    query = sa.text(
        "SELECT CAST(proname AS text) AS name, prosrc AS body, prosecdef AS is_definer, "
        "CAST(coalesce(proconfig, CAST('{}' AS text[])) AS text[]) AS settings "
        "FROM pg_catalog.pg_proc WHERE pronamespace OPERATOR(pg_catalog.=) CAST("
        "pg_catalog.to_regnamespace(pg_catalog.quote_ident(CAST(:name AS text))) AS oid)"
    )
    rows = connection.execute(query, {"name": trail.schema_name}).all()
    findings = []
    for name, source in trail.functions.items():
        where = f"{trail.schema_name}.{name}()"
        installed = [row for row in rows if row.name == name]
        if not installed:
            findings.append(Finding("missing_function", where, "is not installed", _AGAIN))
        elif any(row.body != source.body for row in installed):
            message = "is another version's, or was altered"
            findings.append(Finding("altered", where, message, _AGAIN))
        elif any(
            row.is_definer != source.is_definer or tuple(row.settings) != source.settings
            for row in installed
        ):
            message = "has other attributes than ours: SECURITY DEFINER, or a setting"
            findings.append(Finding("function", where, message, _AGAIN))
    return findings


def _as_missing(finding: Finding) -> Finding:
    code = "missing" if finding.code == "missing_function" else finding.code
    return Finding(code, finding.table, finding.message, finding.remedy)
