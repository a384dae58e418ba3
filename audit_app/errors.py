"""Every error that this package raises on purpose.

One base class, so that a caller can catch them all; the docstring of a subclass is its default
message. A message says what is wrong and then what to do about it.
"""

from __future__ import annotations

import inspect


class AuditError(Exception):
    """The audit trail cannot do what was asked."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or inspect.getdoc(type(self)) or "")


class ConfigurationError(AuditError):
    """The audit trail is not configured as it must be."""


class NotInitializedError(ConfigurationError):
    """The AuditLogger has no models yet: call audit_logger.init(db.Model) first."""


class AlreadyInitializedError(ConfigurationError):
    """This AuditLogger was initialised before: create a second AuditLogger instead."""


class NotRegisteredError(ConfigurationError):
    """No AuditLogger is registered with this application: call audit_logger.init_app(app)."""


class NotVersionedError(ConfigurationError):
    """This model or table is not tracked: give the model __versioned__ = {}."""


class MissingPrimaryKeyError(ConfigurationError):
    """A table without a primary key has no records to follow: add a primary key."""


class UnknownColumnError(ConfigurationError):
    """An excluded column does not exist in its table: correct the name or remove it."""


class InvalidOptionError(ConfigurationError):
    """__versioned__ holds an option that does not exist or has a wrong value."""


class InvalidRetentionError(ConfigurationError):
    """AUDIT_RETENTION holds something that is no amount of time: write '90 days' or 'forever'."""


class ActorClassError(ConfigurationError):
    """The actor class is not a mapped class with a single-column primary key."""


class UnsupportedDatabaseError(AuditError):
    """The audit trail works on PostgreSQL only: configure a postgresql+psycopg2:// address."""


class NotInstalledError(AuditError):
    """The audit schema is not installed here: run the migrations, or db.create_all()."""


class InstallationConflictError(AuditError):
    """Something that is not ours stands where the audit trail has to be installed."""


class TableBusyError(AuditError):
    """A table is in use, and its triggers could not be installed: try again later."""


class BackfillError(AuditError):
    """A table cannot be backfilled as it stands: the message says why, and what to do first."""


class PartitioningError(AuditError):
    """The trail cannot be partitioned as it stands: the message says why, and what to do first."""


class NotGrantedError(AuditError):
    """This database role has not been granted what it tried."""


class InvalidCursorError(AuditError):
    """This page address is damaged: go back to the first page."""


class RecordNotFoundError(AuditError):
    """The trail holds nothing under this address."""


class SourceTrailError(AuditError):
    """There is no trail here that could be taken over: name its schema."""


class ImportMismatchError(AuditError):
    """The imported trail does not hold as many rows as the old one: run the import again."""


class RetentionError(AuditError):
    """The trail cannot be pruned, held or restored like this: the message says why."""


class ArchiveError(AuditError):
    """This archive is damaged, or is none: nothing was changed."""


class UnknownVersionError(AuditError):
    """The trail does not reach back that far: ask for a later moment."""


class ReaderAwayError(AuditError):
    """The database that the trail is read from does not answer: try again.

    :ivar kind: ``"lost"`` if it is not there, ``"cancelled"`` if it stopped a query that was in the
        way of replication, ``"busy"`` if the application has no connection to it to spare.
    :ivar was_connected: whether there had been a connection to it.
    """

    def __init__(
        self, message: str | None = None, kind: str = "lost", *, was_connected: bool = False
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.was_connected = was_connected


class ReadOnlyError(AuditError):
    """What a record was cannot be changed: change the record itself."""


class PlanError(AuditError):
    """This plan cannot be made, changed or applied: the message says why."""


class UnresolvedConflictsError(PlanError):
    """Some conflicts of this plan are not decided: resolve each of them first."""


class PlanOutdatedError(PlanError):
    """Something has changed since this plan was made: make it anew.

    :ivar records: what has changed, in words.
    """

    def __init__(self, message: str | None = None, records: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.records = records


class PlanFailedError(PlanError):
    """The database refused a step of this plan, and nothing of it was written."""
