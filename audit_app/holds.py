"""Legal holds: what no pruning may take. Each is a mark in the trail, and so is its release."""

from __future__ import annotations

import getpass
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from audit_app.errors import ConfigurationError, NotGrantedError, RetentionError
from audit_app.install import as_jsonb, explain, is_installed, not_installed, sqlstate

if TYPE_CHECKING:
    from audit_app.ddl import Trail


@dataclass(frozen=True)
class Hold:
    """A hold, or what was restored for a while.

    :ivar kind: ``hold`` or ``restore``.
    :ivar tables: all names of the table that it is about; empty for every table.
    :ivar record: the key of the one record that it is about.
    :ivar actor: whose changes it is about.
    :ivar since: the first moment that it is about, and ``until`` the first that is too late.
    :ivar ends_at: when it ends by itself.
    :ivar by: who made it, and ``role`` with which role of the database.
    """

    id: int
    kind: str
    made_at: datetime
    tables: tuple[str, ...]
    record: str | None
    actor: str | None
    since: str | None
    until: str | None
    ends_at: str | None
    reason: str
    by: str | None
    role: str | None

    def as_dict(self) -> dict[str, Any]:
        """Return the hold for ``json``."""
        return {**asdict(self), "made_at": self.made_at.isoformat()}


def add(
    engine: sa.Engine,
    trail: Trail,
    *,
    names: Sequence[tuple[str, str]] = (),
    record: str | None = None,
    actor: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    reason: str,
) -> int:
    """Keep what fits from being pruned, and return the id of the hold.

    :param names: all names of one table.
    :param record: the text of ``activity.object_key``; with a table only.
    :raises ConfigurationError: if it is not said what to keep, or why.
    :raises NotGrantedError: if the database role may not hold.
    :raises NotInstalledError: if the trail is not installed.
    """
    if not (names or actor or since or until):
        raise ConfigurationError("Say what to hold: --table, --actor, --from or --to.")
    if record is not None and not names:
        raise ConfigurationError("A record needs its table: add --table.")
    if not reason.strip():
        raise ConfigurationError("A hold needs its reason: --reason.")
    if since is not None and until is not None and since >= until:
        raise ConfigurationError("The hold ends before it begins: --from must be before --to.")
    facts = {
        "names": [list(name) for name in names] or None,
        "record": record,
        "actor": actor,
        "since": since and since.isoformat(),
        "until": until and until.isoformat(),
        "reason": reason,
        "os_user": os_user(),
    }
    known = {name: value for name, value in facts.items() if value is not None}
    return _call(engine, trail, "add_hold", as_jsonb(known))


def release(engine: sa.Engine, trail: Trail, hold: int, *, reason: str | None = None) -> int:
    """End a hold, and return the id of the mark that says so.

    :raises RetentionError: if there is no such hold.
    :raises NotGrantedError: if the database role may not hold.
    :raises NotInstalledError: if the trail is not installed.
    """
    facts = {"os_user": os_user(), **({"reason": reason} if reason else {})}
    return _call(engine, trail, "release_hold", sa.cast(hold, sa.BigInteger), as_jsonb(facts))


def holds(engine: sa.Engine, trail: Trail) -> tuple[Hold, ...]:
    """Return what is held now, the oldest first.

    :raises NotGrantedError: if the database role may neither hold nor prune.
    :raises NotInstalledError: if the trail is not installed.
    """
    columns = ("id", "issued_at", "verb", "facts", "names", "actor", "role_name")

    def read(connection: sa.Connection) -> tuple[Hold, ...]:
        call = getattr(sa.func, trail.schema_name).holds().table_valued(*columns)
        return tuple(_hold(row) for row in connection.execute(sa.select(call)))

    found: tuple[Hold, ...] = granted(engine, trail, read)
    return found


def _hold(row: Any) -> Hold:
    facts = row.facts
    return Hold(
        id=row.id,
        kind=row.verb,
        made_at=row.issued_at,
        tables=tuple(".".join(name) for name in row.names or ()),
        record=facts.get("record"),
        actor=facts.get("actor"),
        since=facts.get("since"),
        until=facts.get("until"),
        ends_at=facts.get("keep_until"),
        reason=facts.get("reason") or "",
        by=row.actor or facts.get("os_user"),
        role=row.role_name,
    )


def os_user() -> str:
    """Return who runs this, as the operating system knows them; empty where it does not."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user need not have a name
        return ""


def granted(engine: sa.Engine, trail: Trail, step: Any) -> Any:
    """Run ``step`` in a transaction, and say what its refusal means.

    :raises RetentionError: if the trail refuses what was asked.
    :raises NotGrantedError: if the database role may not do it.
    :raises NotInstalledError: if the trail is not installed.
    """
    try:
        with engine.begin() as connection:
            if not is_installed(connection, trail):
                raise not_installed(trail.schema_name)
            return step(connection)
    except sa.exc.DBAPIError as error:
        raise explained(error, trail) from error


def explained(error: sa.exc.DBAPIError, trail: Trail) -> Exception:
    """Return the error of ours that says what ``error`` means; the same where it says all."""
    code, diagnosis = sqlstate(error), getattr(error.orig, "diag", None)
    if code == "42501":
        return NotGrantedError(
            "This database role may not do this: run it as the owner of the trail, or have it "
            "granted: flask audit grant --pruner ROLE, or --holder ROLE."
        )
    if code in {"22023", "P0002", "55000", "55006"} and diagnosis is not None:
        return RetentionError(f"{diagnosis.message_primary}: {diagnosis.message_hint}")
    return explain(error, trail.schema_name)


def _call(engine: sa.Engine, trail: Trail, function: str, *arguments: Any) -> int:
    call = getattr(getattr(sa.func, trail.schema_name), function)(*arguments)
    return int(granted(engine, trail, lambda connection: connection.scalar(sa.select(call))))
