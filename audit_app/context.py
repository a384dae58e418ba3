"""Who, from where and why: from the request to the transaction-local setting that triggers read.

The setting ``audit_app.context`` holds a JSON object. It is sent with the first statement of a
database transaction that may write, in the same round trip where the driver allows it, and again
only when the context has changed. It is local to the transaction, so that nothing is left for the
next user of a pooled connection.
"""

from __future__ import annotations

import json
import math
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa
from flask import current_app, g, has_app_context, has_request_context, request

from audit_app import identity
from audit_app.statements import ends_transaction, may_run_in_transaction, may_write

try:
    import flask_login
except ImportError:  # pragma: no cover - the extra "login" is not installed
    flask_login = None

SETTING: Final = "audit_app.context"
"""The setting's name. Its value is a claim: any database role can set it."""

UNSET: Final[Any] = object()
"""Stands for "not said", where None says "nobody"."""

_ARMED = "audit_app.armed"  # key of Connection.info: what this transaction's setting holds
_REQUEST_ID = re.compile(r"[\w.:/+=-]{1,128}")
_LIMITS: Final = {
    "actor_id": 500, "actor_label": 500, "request_id": 128, "method": 20, "url": 2000,
    "client_addr": 100, "reason": 10_000,
}  # fmt: skip
"""The characters that are kept of each fact."""


@dataclass(frozen=True)
class Options:
    """How to learn the context.

    :ivar get_actor_id: returns the id of the acting person; None means Flask-Login's
        ``current_user`` where it is installed.
    :ivar get_actor_label: returns the name to keep beside the id, given the actor.
    :ivar get_client_addr: returns the client's address; None means ``request.remote_addr``.
    :ivar default_actor_id: who acts where nobody else is known, such as a job's name.
    """

    get_actor_id: Callable[[], Any] | None = None
    get_actor_label: Callable[[Any], str | None] | None = None
    get_client_addr: Callable[[], str | None] | None = None
    default_actor_id: Any = None
    default_actor_label: str | None = None


@dataclass
class ContextSource:
    """Answers, at any moment, what the present context is."""

    options: Options = field(default_factory=Options)
    _overrides: ContextVar[Mapping[str, Any]] = field(
        default_factory=lambda: ContextVar("audit_app_overrides", default={})  # noqa: B039
    )
    _resolving: ContextVar[bool] = field(
        default_factory=lambda: ContextVar("audit_app_resolving", default=False)
    )

    @contextmanager
    def override(self, *, metadata: Mapping[str, Any], **values: Any) -> Iterator[None]:
        """Use ``values`` inside of the block, over those of an outer block."""
        outer = self._overrides.get()
        merged = {**outer, **{key: value for key, value in values.items() if value is not UNSET}}
        if values.get("actor_id", UNSET) is not UNSET and values.get("actor_label") is UNSET:
            merged["actor_label"] = None  # the outer actor's name does not fit another actor
        merged["metadata"] = {**outer.get("metadata", {}), **metadata}
        token = self._overrides.set(merged)
        try:
            yield
        finally:
            self._overrides.reset(token)

    def current_actor(self) -> Any:
        """Return the signed-in person: Flask-Login's user, else what get_actor_id says, else None.

        Flask-Login's user is the object itself, so that policies can ask it for roles.
        """
        if self.options.get_actor_id is not None:
            return self._ask(self.options.get_actor_id)
        return _login_user()

    def document(self) -> str:
        """Return the present context as the setting's text; empty if nothing is known."""
        if self._resolving.get():
            return ""  # a query that finds out who acts is nobody's act
        token = self._resolving.set(True)
        try:
            facts = {**self._request_facts(), **self._actor_facts(), **self._overrides.get()}
        finally:
            self._resolving.reset(token)
        return render(facts)

    def _actor_facts(self) -> dict[str, Any]:
        if "actor_id" in self._overrides.get():
            return {}
        actor = self.current_actor()
        actor_id = actor_identity(actor)
        if actor_id is None:
            return {
                "actor_id": identity.encode(self.options.default_actor_id),
                "actor_label": self.options.default_actor_label,
            }
        return {"actor_id": actor_id, "actor_label": self._label(actor_id, actor)}

    def _label(self, actor_id: str, actor: Any) -> str | None:
        """Ask for the name once: after a commit it would take a query each time."""
        labels: dict[str, str | None] = {}
        if has_app_context():
            labels = g.setdefault("_audit_labels", labels)
        if actor_id not in labels:
            get_label = self.options.get_actor_label or default_label
            labels[actor_id] = get_label(actor)
        return labels[actor_id]

    def _request_facts(self) -> Mapping[str, Any]:
        if not has_request_context():
            return {}
        known: tuple[Any, Mapping[str, Any]] | None = g.get("_audit_request")
        current = request._get_current_object()  # type: ignore[attr-defined]
        if known is None or known[0] is not current:
            get_client_addr = self.options.get_client_addr or (lambda: request.remote_addr)
            facts = {
                "client_addr": get_client_addr(),
                "method": request.method,
                # Without the query: that is where tokens and searches travel.
                "url": request.base_url,
                "request_id": request_id(),
            }
            g._audit_request = known = (current, facts)
        return known[1]

    @staticmethod
    def _ask(get_actor_id: Callable[[], Any]) -> Any:
        try:
            actor = get_actor_id()
        except RuntimeError:
            # A callback that reads the request has nothing to read in a job or a command.
            if has_request_context():
                raise
            return None
        unwrap = getattr(actor, "_get_current_object", None)  # a LocalProxy
        return unwrap() if unwrap is not None else actor


def request_id() -> str:
    """Return the request's id: the X-Request-ID that a proxy sent, else a new one."""
    given = request.headers.get("X-Request-ID", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def actor_identity(actor: Any) -> str | None:
    """Return the id of an actor as the trail stores it.

    :param actor: an id, or an object: a mapped instance, or one with ``id`` or ``get_id()``.
    """
    if actor is None or isinstance(actor, str | int | uuid.UUID):
        return identity.encode(actor)
    state = sa.inspect(actor, raiseerr=False)
    if state is not None and getattr(state, "identity", None):
        return identity.encode(state.identity)  # known without a query, even when expired
    for name in ("id", "get_id"):
        value = getattr(actor, name, None)
        if value is not None:
            return identity.encode(value() if callable(value) else value)
    return identity.encode(actor)


def default_label(actor: Any) -> str | None:
    """Return a name for ``actor``: its own ``__str__``, else the first attribute that is a name."""
    if actor is None or isinstance(actor, str | int | uuid.UUID):
        return None
    if getattr(type(actor), "__str__", None) is not object.__str__:
        return str(actor)
    for name in ("display_name", "full_name", "name", "username", "email"):
        value = getattr(actor, name, None)
        if isinstance(value, str) and value:
            return value
    return None


def render(facts: Mapping[str, Any]) -> str:
    """Return ``facts`` as the JSON document that the triggers read; empty if there are none."""
    document: dict[str, Any] = {}
    for key, limit in _LIMITS.items():
        value = facts.get(key)
        if value is not None and value != "":
            text = identity.encode(value) if key == "actor_id" else str(value)
            document[key] = _clean_text(text or "")[:limit]
    if facts.get("metadata"):
        document["metadata"] = _clean(facts["metadata"])
    return json.dumps(document) if document else ""


def _login_user() -> Any:
    if flask_login is None or not has_request_context():
        return None
    if not hasattr(current_app, "login_manager"):
        return None
    user = flask_login.current_user._get_current_object()
    return user if user is not None and user.is_authenticated else None


def _clean(value: Any) -> Any:
    """Make ``value`` one that jsonb can hold."""
    match value:
        case None | bool() | int():
            return value
        case str():
            return _clean_text(value)
        case float():
            return value if math.isfinite(value) else str(value)
        case Mapping():
            return {_clean_text(str(key)): _clean(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_clean(item) for item in value]
        case _:
            return _clean_text(str(value))


def _clean_text(text: str) -> str:
    """Replace what PostgreSQL's text cannot hold: NUL, and halves of surrogate pairs."""
    if text.isascii() and "\x00" not in text:
        return text
    text = text.replace("\x00", "\ufffd")
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def attach(engine: sa.Engine, source: ContextSource) -> None:
    """Make every write through ``engine`` carry the context of ``source``.

    Works below the session: the ORM, Core, ``text()`` and ``exec_driver_sql`` are all seen. A raw
    driver cursor (COPY) is not: call :func:`arm` before.
    """

    def before_cursor_execute(  # noqa: PLR0917
        connection: sa.Connection,
        cursor: Any,
        statement: str,
        parameters: Any,
        context: Any,
        executemany: bool,  # noqa: FBT001 - SQLAlchemy's signature
    ) -> tuple[str, Any]:
        if not may_write(statement):
            if ends_transaction(statement):  # to a savepoint: the setting may be gone with it
                connection.info.pop(_ARMED, None)
            return statement, parameters
        is_autocommit = _is_autocommit(cursor.connection)
        if is_autocommit and not may_run_in_transaction(statement):
            return statement, parameters  # a procedure that commits could not be run any more
        document = source.document()
        if not _needs_arming(connection, document):
            return statement, parameters
        can_join = (
            connection.dialect.driver == "psycopg2"
            and not executemany
            and not getattr(cursor, "name", None)  # a server-side cursor wants its SELECT alone
            and not (context and context.execution_options.get("no_parameters"))
        )
        if can_join:
            return _join(statement, parameters, document)
        if not is_autocommit:
            _send(cursor.connection, document)
        elif context:
            context.audit_app_document = document  # for the handler below
        return statement, parameters

    def in_transaction(run: str) -> Callable[..., bool]:
        """Execute what could not be joined in autocommit mode: in a transaction of its own."""

        def execute(cursor: Any, *arguments: Any) -> bool:
            context = arguments[-1]
            document = getattr(context, "audit_app_document", None)
            if document is None:
                return False
            with cursor.connection.cursor() as control:
                control.execute("BEGIN")
                try:
                    _set(control, document)
                    getattr(context.dialect, run)(cursor, *arguments)
                    control.execute("COMMIT")
                except BaseException:
                    control.execute("ROLLBACK")
                    raise
            return True

        return execute

    sa.event.listen(engine, "before_cursor_execute", before_cursor_execute, retval=True)
    for run in ("do_execute", "do_executemany", "do_execute_no_params"):
        sa.event.listen(engine, run, in_transaction(run))


def arm(connection: sa.Connection, source: ContextSource) -> None:
    """Send the context now, for writes that go around SQLAlchemy: COPY through a driver cursor."""
    document = source.document()
    if _needs_arming(connection, document):
        _send(connection.connection.dbapi_connection, document)


def _needs_arming(connection: sa.Connection, document: str) -> bool:
    """Note ``document`` as sent; tell whether it has to be."""
    info, driver = connection.info, connection.connection.dbapi_connection
    if _is_idle(driver):
        # Ended, by whatever means: SQLAlchemy, a script with a COMMIT inside, autocommit.
        info.pop(_ARMED, None)
    # Even without a context one is sent: somebody may have set another for the whole session, and
    # the connection came back from the pool with it.
    if info.get(_ARMED) == document:
        return False
    info[_ARMED] = document
    return True


def _is_autocommit(driver: Any) -> bool:
    return bool(getattr(driver, "autocommit", False))


def _is_idle(driver: Any) -> bool:
    """Tell whether no transaction is open; psycopg2 and psycopg both know."""
    status = getattr(getattr(driver, "info", None), "transaction_status", None)
    return status is not None and int(status) == 0


def _join(statement: str, parameters: Any, document: str) -> tuple[str, Any]:
    """Put the setting before ``statement``, in one message to the server.

    On a line of its own, so that the server's error messages still quote the statement.
    """
    if isinstance(parameters, Mapping):
        prefix = f"SELECT pg_catalog.set_config('{SETTING}', %(audit_app_context)s, true);\n"
        return prefix + statement, {**parameters, "audit_app_context": document}
    prefix = f"SELECT pg_catalog.set_config('{SETTING}', %s, true);\n"
    return prefix + statement, (document, *parameters)


def _send(driver: Any, document: str) -> None:
    with driver.cursor() as cursor:
        _set(cursor, document)


def _set(cursor: Any, document: str) -> None:
    cursor.execute(f"SELECT pg_catalog.set_config('{SETTING}', %s, true)", (document,))
