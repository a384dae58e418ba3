"""A database under test: SQL goes in, the trail comes out as plain values."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import declarative_base

from audit_app import AuditLogger

_logger = AuditLogger()
_logger.init(declarative_base())


@dataclass(frozen=True)
class Change:
    """An activity with its transaction's actor, as tests compare them."""

    verb: str
    table: str
    object_id: str | None
    old: Any
    changed: Any
    actor: str | None = None


def install(engine: sa.Engine) -> None:
    """Install the trail into the schema ``audit``."""
    with engine.begin() as connection:
        _logger.install(connection)


class Trail:
    """One database, over an engine that carries the logger's context."""

    def __init__(self, url: str, logger: AuditLogger | None = None) -> None:
        self.url = url
        self.logger = logger or _logger
        self.engine = sa.create_engine(url, pool_size=2)
        self.logger.attach(self.engine)

    def close(self) -> None:
        self.engine.dispose()

    def run(self, *statements: str, **parameters: Any) -> None:
        """Execute each statement in a transaction of its own."""
        for statement in statements:
            with self.engine.begin() as connection:
                connection.execute(sa.text(statement), parameters)

    def script(self, statements: str) -> None:
        """Execute several statements as one message to the server, without parameters."""
        with self.engine.begin() as connection:
            connection.exec_driver_sql(statements, execution_options={"no_parameters": True})

    def value(self, query: str, **parameters: Any) -> Any:
        with self.engine.begin() as connection:
            return connection.scalar(sa.text(query), parameters)

    def track(
        self,
        table: str,
        exclude: list[str] | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.run(
            "SELECT audit.audit_table(CAST(:t AS regclass), CAST(:e AS text[]), CAST(:o AS jsonb))",
            t=table,
            e=exclude or [],
            o=json.dumps(options or {}),
        )

    def create(self, statement: str, table: str, exclude: list[str] | None = None) -> None:
        """Create a table and track it."""
        self.run(statement)
        self.track(table, exclude)

    def changes(self, *, table: str | None = None) -> list[Change]:
        """Return the whole trail in the order in which it was written."""
        activity, transaction = self.logger.activity_cls, self.logger.transaction_cls
        query = (
            sa.select(activity, transaction.actor_id)
            .join(transaction, transaction.id == activity.transaction_id)
            .order_by(activity.id)
        )
        if table is not None:
            query = query.where(activity.table_name == table)
        with sa.orm.Session(self.engine) as session:
            return [
                Change(a.verb, a.table_name, a.object_key, a.old_data, a.changed_data, actor)
                for a, actor in session.execute(query)
            ]

    def transactions(self) -> list[Any]:
        """Return the transaction rows, detached, oldest first."""
        cls = self.logger.transaction_cls
        with sa.orm.Session(self.engine, expire_on_commit=False) as session:
            return list(session.scalars(sa.select(cls).order_by(cls.id)))
