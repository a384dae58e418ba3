"""Who may do what: the grants of a set-up with roles of their own.

The small application has one role that owns everything. The larger one has three: a role without
login that owns the trail, a migrating role that owns the tables and is a member of the first, and
the application's role, which may write the tables and has nothing in the audit schema.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from audit_app import sql
from audit_app.errors import ConfigurationError
from audit_app.sql import quote_identifier, quote_literal

_READING = (
    "as_of", "version_of", "known_since", "past_place", "past_query", "row_as",
    "under_present_names", "hstore_text", "object_id", "was_emptied", "pruned_before",
)  # fmt: skip
"""The functions that read the past: they work with the rights of their caller."""

_PRUNING = (
    "prune_floor", "holds", "prune_window", "prune_extent", "prune_preview", "archive_batch",
    "prune_batch", "prune_transactions", "prunable_partitions", "prune_partition",
    "prune_transaction_partition",
)  # fmt: skip
"""The functions that prune. They keep what is held, or younger than the floor."""

_HOLDING = ("holds", "add_hold", "release_hold")


@dataclass(frozen=True)
class Roles:
    """The names of the database roles.

    :ivar owner: gets the trail; is created, without login, if it does not exist.
    :ivar applications: lose everything in the audit schema, and what could replace its triggers.
        Where the trail is partitioned, they may have the next partitions made, and nothing else.
    :ivar readers: may read the trail, and with it the past of the tables that they may read.
    :ivar suspenders: may suspend the capture.
    :ivar exporters: may record an export, and so may export where the pages let them.
    :ivar pruners: may prune, and by that read what may go.
    :ivar holders: may add and release legal holds.
    """

    owner: str | None = None
    applications: Sequence[str] = ()
    readers: Sequence[str] = ()
    suspenders: Sequence[str] = ()
    exporters: Sequence[str] = ()
    pruners: Sequence[str] = ()
    holders: Sequence[str] = ()


def statements(schema_name: str, roles: Roles, *, is_partitioned: bool = False) -> tuple[str, ...]:
    """Return the statements that make ``roles`` true; each may be repeated.

    :param is_partitioned: whether the applications make the partitions that are missing.
    """
    schema = quote_identifier(schema_name)
    tables = f"{schema}.transaction, {schema}.activity"
    functions = ", ".join(f"{schema}.{name}" for name in _READING)
    found = [
        f"REVOKE ALL ON SCHEMA {schema} FROM PUBLIC",
        f"REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM PUBLIC",
        f"REVOKE ALL ON ALL FUNCTIONS IN SCHEMA {schema} FROM PUBLIC",
    ]
    if roles.owner is not None:
        found.append(f"SELECT {schema}.hand_over({quote_literal(roles.owner)})")
    for role in map(quote_identifier, roles.applications):
        found += [
            f"REVOKE ALL ON ALL {kind} IN SCHEMA {schema} FROM {role}"
            for kind in ("TABLES", "SEQUENCES", "FUNCTIONS")
        ]
        found.append(f"REVOKE ALL ON SCHEMA {schema} FROM {role}")
        if is_partitioned:
            found += [
                f"GRANT USAGE ON SCHEMA {schema} TO {role}",
                f"GRANT EXECUTE ON FUNCTION {schema}.keep_partitions() TO {role}",
            ]
    for role in map(quote_identifier, roles.readers):
        found += [
            f"GRANT USAGE ON SCHEMA {schema} TO {role}",
            f"GRANT SELECT ON {tables} TO {role}",
            f"GRANT EXECUTE ON FUNCTION {functions} TO {role}",
        ]
    for role in map(quote_identifier, roles.suspenders):
        found += [
            f"GRANT USAGE ON SCHEMA {schema} TO {role}",
            f"GRANT EXECUTE ON FUNCTION {schema}.suspend(text), {schema}.resume(bigint) TO {role}",
        ]
    for names, granted in ((_PRUNING, roles.pruners), (_HOLDING, roles.holders)):
        functions = ", ".join(f"{schema}.{name}" for name in names)
        for role in map(quote_identifier, granted):
            found += [
                f"GRANT USAGE ON SCHEMA {schema} TO {role}",
                f"GRANT EXECUTE ON FUNCTION {functions} TO {role}",
            ]
    for role in map(quote_identifier, roles.exporters):
        found += [
            f"GRANT USAGE ON SCHEMA {schema} TO {role}",
            f"GRANT EXECUTE ON FUNCTION {export_function(schema_name)} TO {role}",
        ]
    return tuple(found)


def export_function(schema_name: str) -> str:
    """Return the function that records an export, as GRANT names it."""
    return f"{quote_identifier(schema_name)}.record_export(text, jsonb, bigint, text, bigint)"


def grant(connection: sa.Connection, schema_name: str, roles: Roles) -> tuple[str, ...]:
    """Make ``roles`` true, in the caller's transaction.

    :return: warnings: what still lets a role get around the trail.
    :raises ConfigurationError: if a role does not exist, or an application's role owns the trail.
    """
    named = [
        *roles.applications, *roles.readers, *roles.suspenders, *roles.exporters, *roles.pruners,
        *roles.holders,
    ]  # fmt: skip
    missing = sorted(set(named) - _existing(connection, named))
    if missing:
        raise ConfigurationError(
            f"There is no role {missing[0]!r}: create it, or correct the name."
        )
    is_partitioned = _is_partitioned(connection, schema_name)
    for statement in statements(schema_name, roles, is_partitioned=is_partitioned):
        connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
    warnings = []
    for role in roles.applications:
        if _has_role(connection, role, _owner(connection, schema_name)):
            raise ConfigurationError(
                f"The role {role!r} owns the audit schema, so no grant can keep it out: name "
                "another owner (--owner audit_owner) and make it no member of that role."
            )
        warnings += [
            f"{role} owns the tracked table {table} and can drop its triggers: "
            f"ALTER TABLE {table} OWNER TO another role"
            for table in _owned_tables(connection, schema_name, role)
        ]
        # GRANT ALL gives these, and TRIGGER is enough to replace our triggers by others.
        for table in _replaceable(connection, schema_name, role):
            statement = f"REVOKE TRIGGER, REFERENCES ON {table} FROM {quote_identifier(role)}"
            connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
        warnings += [
            f"{role} has TRIGGER or REFERENCES on the tracked table {table} through another role "
            f"or PUBLIC: REVOKE TRIGGER, REFERENCES ON {table} FROM that role"
            for table in _replaceable(connection, schema_name, role)
        ]
    return tuple(warnings)


def set_prune_floor(connection: sa.Connection, schema_name: str, amount: str) -> None:
    """Say how old a row must be at least before it may be pruned, in the caller's transaction.

    :param amount: as :func:`audit_app.retention.check_amount` returns it.
    """
    function = getattr(sa.func, schema_name).set_prune_floor
    connection.execute(sa.select(function(sa.cast(sa.cast(amount, sa.Text), sa.Interval))))


def _existing(connection: sa.Connection, roles: Iterable[str]) -> set[str]:
    query = sa.text(
        "SELECT CAST(rolname AS text) FROM pg_catalog.pg_roles "
        "WHERE CAST(rolname AS text) OPERATOR(pg_catalog.=) ANY (CAST(:roles AS text[]))"
    )
    return set(connection.scalars(query, {"roles": list(roles)}))


def _owner(connection: sa.Connection, schema_name: str) -> str:
    query = sa.text(
        "SELECT pg_catalog.pg_get_userbyid(nspowner) FROM pg_catalog.pg_namespace "
        "WHERE CAST(nspname AS text) OPERATOR(pg_catalog.=) CAST(:name AS text)"
    )
    return str(connection.scalar(query, {"name": schema_name}))


def _is_partitioned(connection: sa.Connection, schema_name: str) -> bool:
    query = sa.text(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n "
        "ON n.oid OPERATOR(pg_catalog.=) c.relnamespace "
        "WHERE CAST(n.nspname AS text) OPERATOR(pg_catalog.=) CAST(:name AS text) "
        "AND CAST(c.relname AS text) OPERATOR(pg_catalog.=) CAST('activity' AS text) "
        "AND c.relkind OPERATOR(pg_catalog.=) CAST('p' AS \"char\"))"
    )
    return bool(connection.scalar(query, {"name": schema_name}))


def _has_role(connection: sa.Connection, role: str, other: str) -> bool:
    query = sa.text(
        "SELECT pg_catalog.pg_has_role("
        "CAST(:role AS name), CAST(:other AS name), CAST('MEMBER' AS text))"
    )
    return bool(connection.scalar(query, {"role": role, "other": other}))


_TRACKED = sa.text(sql.query("tracked_by_role"))


def _owned_tables(connection: sa.Connection, schema_name: str, role: str) -> list[str]:
    """The tracked tables that ``role`` owns, quoted."""
    rows = connection.execute(_TRACKED, {"schema": schema_name, "role": role})
    return [row.name for row in rows if row.is_owned]


def _replaceable(connection: sa.Connection, schema_name: str, role: str) -> list[str]:
    """The tracked tables of others whose triggers ``role`` may replace, quoted."""
    rows = connection.execute(_TRACKED, {"schema": schema_name, "role": role})
    return [row.name for row in rows if row.is_replaceable and not row.is_owned]
