"""The database that the trail is read from: the application's own, or another one.

``AUDIT_READ_BIND`` names the other one, a replica as a rule, by its key of ``SQLALCHEMY_BINDS``.
What writes, and what acts on what it reads, stays on the application's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

import sqlalchemy as sa
from flask import current_app
from sqlalchemy import orm

from audit_app import install, sql
from audit_app.errors import ConfigurationError, ReaderAwayError

SETTING: Final = "AUDIT_READ_BIND"

_OPTION: Final = "audit_app_reader"
"""The execution option of the reader's connections: a host may use the same engine for more."""

# A statement that was in the way of replication. PostgreSQL says so in the server's language only.
_CANCELLED: Final = frozenset({"40001", "40P01"})
_LOST: Final = frozenset(
    {
        "25P03",  # idle_in_transaction_session_timeout
        "53300",  # too_many_connections
        "57P01",  # admin_shutdown
        "57P02",  # crash_shutdown
        "57P03",  # cannot_connect_now
        "57P04",  # database_dropped
        "57P05",  # idle_session_timeout
    }
)
_INVALIDATED: Final = "8s2b"  # SQLAlchemy's code of a transaction whose connection went away


@dataclass(frozen=True)
class Lag:
    """How far the reader is behind the database that is written to.

    :ivar is_standby: whether it replays what another server writes. Of others nothing is known.
    :ivar is_receiving: whether it is connected to that server.
    :ivar seconds: 0 if it has replayed all that it received, else the age of the newest transaction
        that it replayed; None if it has replayed none since it was started.
    """

    is_standby: bool
    is_receiving: bool
    seconds: float | None


def check(
    config: Mapping[str, Any],
    engines: Mapping[Any, sa.Engine],
    explain: Callable[[sa.engine.ExceptionContext], None],
) -> None:
    """Refuse a reader that is not there, and let errors of the right one be told as what they are.

    :param engines: of the application, by their bind keys.
    :param explain: told of each error, besides.
    :raises ConfigurationError: if ``AUDIT_READ_BIND`` names no bind.
    :raises UnsupportedDatabaseError: if that is not PostgreSQL.
    """
    key = config.get(SETTING)
    if key is None:
        return
    if not isinstance(key, str) or key not in engines:
        known = ", ".join(repr(name) for name in engines if name is not None) or "none"
        raise ConfigurationError(
            f"{SETTING}={key!r} is no key of SQLALCHEMY_BINDS (there: {known}): add the replica's "
            "address there, or remove the setting."
        )
    engine = engines[key]
    install.require_postgresql(engine.dialect)
    for listener in (_tell_away, explain):
        if not sa.event.contains(engine, "handle_error", listener):
            sa.event.listen(engine, "handle_error", listener)


def primary_of(logger: Any) -> sa.Engine | sa.Connection:
    """Return what the application's own session is bound to, for the trail of ``logger``.

    An engine of the host's that is in autocommit, or serialises, is used with the database's usual
    transactions: settings are to end with the page, and a reader is to be in nobody's way.
    """
    bind = logger.session.get_bind(mapper=sa.inspect(logger.activity_cls))
    if isinstance(bind, sa.Engine):
        return bind.execution_options(isolation_level="READ COMMITTED")
    found: sa.Connection = bind
    return found


def key_of() -> str | None:
    """Return the bind that the present application's pages read from; None for its own database."""
    key: str | None = current_app.config.get(SETTING)
    return key


def reader_of(key: str) -> sa.Engine:
    """Return the engine of a bind, whose connections raise :exc:`ReaderAwayError`."""
    engines: Mapping[Any, sa.Engine] = current_app.extensions["sqlalchemy"].engines
    return engines[key].execution_options(isolation_level="READ COMMITTED", **{_OPTION: key})


@contextmanager
def read_only(bind: sa.Engine | sa.Connection) -> Iterator[orm.Session]:
    """Yield a session that cannot write, and is rolled back at the end.

    Where ``bind`` is a connection (as savepoint-based tests have it), it is read through a
    savepoint, whose end takes the settings back.

    :raises ReaderAwayError: if a bind of :func:`reader_of` does not answer.
    """
    key = bind.get_execution_options().get(_OPTION)
    try:
        with orm.Session(
            bind, join_transaction_mode="create_savepoint", autoflush=False
        ) as session:
            _begin(session)
            yield session
    except sa.exc.TimeoutError as error:
        if key is None:
            raise
        raise _away("busy", key) from error
    except sa.exc.PendingRollbackError as error:
        # Somebody has caught what was told when the connection was lost.
        if key is None or error.code != _INVALIDATED:
            raise
        raise _away("lost", key) from error


def _begin(session: orm.Session) -> None:
    begin = sa.text("SET LOCAL transaction_read_only = on")
    try:
        session.execute(begin)
    except ReaderAwayError as error:
        if not error.was_connected:
            raise
        # It was lost while it waited in the pool, which has thrown away its older ones, too.
        session.rollback()
        session.execute(begin)


def lag(session: orm.Session) -> Lag:
    """Ask the reader how far it is behind."""
    row = session.execute(sa.text(sql.query("lag"))).one()
    # Two machines' clocks need not agree.
    seconds = None if row.seconds is None else max(0.0, float(row.seconds))
    return Lag(row.is_standby, row.is_receiving, seconds)


Kind = Literal["busy", "cancelled", "lost"]


def _tell_away(failure: sa.engine.ExceptionContext) -> None:
    """Raise what a failure of the reader means.

    Nobody who takes a refusal of the database for "not granted" may take this for one.
    """
    engine = failure.engine
    key = None if engine is None else engine.get_execution_options().get(_OPTION)
    kind = None if key is None else _kind(failure)
    if key is not None and kind is not None:
        is_open = failure.connection is not None
        raise _away(kind, key, was_connected=is_open) from failure.original_exception


def _kind(failure: sa.engine.ExceptionContext) -> Kind | None:
    state = install.sqlstate(failure.original_exception)
    if state in _CANCELLED:
        return "cancelled"
    if failure.is_disconnect or state in _LOST or (state or "").startswith("08"):
        return "lost"
    # What the client notices has no code, and neither has a connection that was refused.
    is_unknown = state is None or failure.connection is None
    if is_unknown and isinstance(failure.sqlalchemy_exception, sa.exc.OperationalError):
        return "lost"
    return None


def _away(kind: Kind, key: str, *, was_connected: bool = False) -> ReaderAwayError:
    text = {
        "busy": "all connections of its pool are in use: raise its pool_size, or try again.",
        "cancelled": "the query was in the way of replication, and was stopped: try again. Where "
        "this happens often, set hot_standby_feedback = on there.",
        "lost": "it does not answer: see that the server runs and lets the application in.",
    }[kind]
    return ReaderAwayError(f"{SETTING}={key!r}: {text}", kind, was_connected=was_connected)
