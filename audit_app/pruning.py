"""Pruning: what a policy has outlived is archived, if asked for, and deleted, batch by batch.

The functions of the trail (``sql/retention.sql``) do it, and leave a record of each step. So a run
may be interrupted anywhere: what is gone is on record, and in a finished archive where there is
one; the rest is still there, and the next run goes on with it.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from audit_app import archive
from audit_app.errors import ConfigurationError, RetentionError
from audit_app.holds import explained, granted, os_user
from audit_app.install import as_jsonb, patiently
from audit_app.retention import Policy, same_names

if TYPE_CHECKING:
    from audit_app.ddl import Trail

BATCH: Final = 10_000
"""Rows that are looked at by one transaction."""

FILE_ROWS: Final = 200_000
"""Rows of an archive's file, about: they are deleted when it is finished and verified."""

Places = Sequence[tuple[tuple[str, str], ...]]
"""All names of each table that the application tracks."""


@dataclass(frozen=True)
class Options:
    """How to prune.

    :ivar batch: rows that are looked at by one transaction.
    :ivar wal_budget: bytes of write-ahead log after which the run stops; others' are counted, too.
        None does not stop.
    :ivar lock_timeout: milliseconds to wait for a lock, and so to keep others waiting.
    :ivar attempts: how often to try each step.
    :ivar pause: milliseconds between two batches.
    :ivar archive: the directory in which an archive is made first; None makes none.
    :ivar kind: the archive's format, one of :data:`audit_app.archive.KINDS`.
    :ivar file_rows: rows of an archive's file, about.
    """

    batch: int = BATCH
    wal_budget: int | None = None
    lock_timeout: int = 1000
    attempts: int = 30
    pause: int = 0
    archive: Path | None = None
    kind: str = "ndjson"
    file_rows: int = FILE_ROWS

    def check(self) -> None:
        """Refuse what cannot be meant.

        :raises ConfigurationError: if a number is too small, or the format cannot be written here.
        """
        for name in ("batch", "lock_timeout", "attempts", "file_rows"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name}={getattr(self, name)} must be 1 or more.")
        if self.pause < 0 or (self.wal_budget is not None and self.wal_budget < 1):
            raise ConfigurationError("The pause and the WAL budget must not be negative.")
        archive.require(self.kind)


@dataclass(frozen=True)
class Extent:
    """What goes, or would go, of a table and verb.

    :ivar held: rows that the policy has outlived and a hold keeps.
    :ivar before: up to when the policy lets rows go.
    :ivar since: when the first of the rows was written, and ``until`` the last one.
    """

    schema: str
    table: str
    verb: str
    rows: int
    held: int
    before: str
    since: datetime | None
    until: datetime | None

    def as_dict(self) -> dict[str, Any]:
        """Return the extent for ``json``."""
        moments = {name: getattr(self, name) for name in ("since", "until")}
        return {**asdict(self), **{n: m and m.isoformat() for n, m in moments.items()}}


@dataclass(frozen=True)
class Preview:
    """What a pruning would do.

    :ivar partitions: those that would be dropped as a whole.
    :ivar batches: how many batches the rest would take.
    """

    extents: tuple[Extent, ...]
    partitions: tuple[str, ...]
    batches: int

    def as_dict(self) -> dict[str, Any]:
        """Return the preview for ``json``."""
        return {
            "tables": [extent.as_dict() for extent in self.extents],
            "partitions": list(self.partitions),
            "batches": self.batches,
        }


@dataclass(frozen=True)
class Pruned:
    """What a pruning did.

    :ivar run: the id that its marks in the trail have in common.
    :ivar rows: how many activities went.
    :ivar transactions: how many transactions went with them.
    :ivar partitions: those that were dropped as a whole.
    :ivar digest: of the last row that was deleted by a batch, and of all before it.
    :ivar wal: bytes of write-ahead log that were written meanwhile, by whomever.
    :ivar is_finished: False if the WAL budget was used up before the end.
    :ivar skipped: rows that were archived, and then not deleted: something had changed by then.
    :ivar archive: the directory of the archive; None without one.
    """

    run: str
    rows: int = 0
    transactions: int = 0
    partitions: tuple[str, ...] = ()
    digest: str = archive.START
    wal: int = 0
    is_finished: bool = True
    skipped: int = 0
    archive: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the summary for ``json``."""
        return asdict(self)


def preview(
    engine: sa.Engine,
    trail: Trail,
    policy: Policy,
    places: Places = (),
    options: Options | None = None,
) -> Preview:
    """Return what :func:`prune` would do; nothing is changed.

    :raises ConfigurationError: if there is no policy.
    :raises RetentionError: if the policy is below the floor of the trail.
    :raises NotGrantedError: if the database role may not prune.
    :raises NotInstalledError: if the trail is not installed.
    """
    return _Run(engine, trail, policy, places, options or Options()).preview()


def prune(
    engine: sa.Engine,
    trail: Trail,
    policy: Policy,
    places: Places = (),
    options: Options | None = None,
    *,
    progress: Callable[[str], None] = lambda line: None,
) -> Pruned:
    """Delete what the policy has outlived and no hold keeps; may be interrupted and repeated.

    :param places: all names of each table that the application tracks.
    :param progress: called with a line after each step.
    :raises ConfigurationError: if there is no policy, or an option is wrong.
    :raises RetentionError: if the policy is below the floor of the trail.
    :raises ArchiveError: if an archive is not what was written; nothing of it was deleted then.
    :raises NotGrantedError: if the database role may not prune.
    :raises NotInstalledError: if the trail is not installed.
    :raises TableBusyError: if the trail stayed busy; what came before is done.
    """
    return _Run(engine, trail, policy, places, options or Options(), progress)()


@dataclass(frozen=True)
class _Window:
    """Rows of one batch in an archive: after one id, up to another."""

    after: int
    until: int
    previous: str
    digest: str
    rows: int


@dataclass(frozen=True)
class _Partition:
    parent: str
    name: str
    lower: datetime | None
    upper: datetime
    first: int | None
    last: int | None
    rows: int | None


class _BudgetSpentError(Exception):
    """The WAL budget is used up."""


@dataclass
class _Run:
    engine: sa.Engine
    trail: Trail
    policy: Policy
    places: Places
    options: Options
    progress: Callable[[str], None] = lambda line: None
    done: Pruned = field(default_factory=lambda: Pruned(str(uuid.uuid4())))
    moment: datetime = field(default_factory=lambda: datetime.now(UTC))
    _chain: str = archive.START
    _began_at: int = 0  # places in the write-ahead log
    _largest: int = 0  # what one step wrote
    _archived: archive.Manifest | None = None

    def __post_init__(self) -> None:
        self.options.check()
        if not self.policy:
            raise ConfigurationError(
                "AUDIT_RETENTION lets nothing go: set it, such as {'default': '7 years'}."
            )
        self.moments: dict[str, datetime] = granted(self.engine, self.trail, self._read_moments)
        self.rules = {
            **self.policy.rules(self.moments, self._names),
            "same": same_names(self.places),
        }
        self.functions = getattr(sa.func, self.trail.schema_name)

    # -- What there is ------------------------------------------------------------------------

    def _read_moments(self, connection: sa.Connection) -> dict[str, datetime]:
        """Return the moment that each amount reaches back to; the calendar is PostgreSQL's."""
        query = sa.text(
            "SELECT (pg_catalog.statement_timestamp() AT TIME ZONE 'UTC' OPERATOR(pg_catalog.-) "
            "CAST(:amount AS interval)) AT TIME ZONE 'UTC'"
        )
        amounts = [amount for amount in self.policy.amounts if amount is not None]
        return {amount: connection.scalar(query, {"amount": amount}) for amount in amounts}

    def _names(self, schema: str, name: str) -> tuple[tuple[str, str], ...]:
        for names in self.places:
            if (schema, name) in names:
                return names
        return ((schema, name),)

    @property
    def newest(self) -> datetime:
        """The moment after which everything is kept."""
        return max(self.moments.values())

    def _rules(self) -> Any:
        return as_jsonb(self.rules)

    def _extent(self) -> tuple[int, int] | None:
        call = self.functions.prune_extent(sa.cast(self.newest, sa.DateTime(timezone=True)))
        row = self._read(sa.select(call.table_valued("first", "last")))[0]
        return None if row.first is None or row.last is None else (row.first - 1, row.last)

    def _windows(self, after: int, until: int) -> Iterator[tuple[int, int]]:
        while True:
            call = self.functions.prune_window(_big(after), _big(until), self.options.batch)
            end = self._read(sa.select(call))[0][0]
            if end is None:
                return
            yield after, end
            after = end

    def _partitions(self) -> list[_Partition]:
        call = self.functions.prunable_partitions(
            self._rules(), sa.cast(self.newest, sa.DateTime(timezone=True))
        )
        columns = ("parent", "relation", "lower", "upper", "first", "last", "rows")
        return [_Partition(*row) for row in self._read(sa.select(call.table_valued(*columns)))]

    def _read(self, query: sa.Select[Any]) -> Sequence[Any]:
        found: Sequence[Any] = granted(
            self.engine, self.trail, lambda connection: connection.execute(query).all()
        )
        return found

    # -- Looking ------------------------------------------------------------------------------

    def preview(self) -> Preview:
        found: dict[tuple[str, str, str], Extent] = {}
        counts: Counter[str] = Counter()
        parts = [part for part in self._partitions() if part.parent == "activity" and part.rows]
        extent = self._extent()
        for after, until in self._windows(*extent) if extent else ():
            call = self.functions.prune_preview(self._rules(), _big(after), _big(until))
            columns = ("schema_name", "table_name", "verb", "rows", "held", "since", "until_at")
            rows = self._read(sa.select(call.table_valued(*columns)))
            counts["batches"] += any(row.rows for row in rows)
            for row in rows:
                key = (row.schema_name, row.table_name, row.verb)
                known = found.get(key) or Extent(*key, 0, 0, self._before(*key), None, None)
                found[key] = replace(
                    known,
                    rows=known.rows + row.rows,
                    held=known.held + row.held,
                    since=min(filter(None, (known.since, row.since)), default=None),
                    until=max(filter(None, (known.until, row.until_at)), default=None),
                )
        held = any(extent.held for extent in found.values())
        # A hold is looked for row by row as a partition goes; here one somewhere is enough.
        names = () if held else tuple(part.name for part in parts)
        return Preview(tuple(found[key] for key in sorted(found)), names, counts["batches"])

    def _before(self, schema: str, table: str, verb: str) -> str:
        own, default = self.rules["tables"].get(schema, {}).get(table, {}), self.rules["default"]
        named = (own.get(verb), own.get("default"), default.get(verb), default.get("default"))
        return str(next((moment for moment in named if moment is not None), ""))

    # -- Acting -------------------------------------------------------------------------------

    def __call__(self) -> Pruned:
        self._began_at = self._wal()
        swept = [self.moment_of_longest] if self.moment_of_longest else []
        try:
            parts = self._partitions()
            for part in parts:
                if part.parent == "activity" and self._drop(part):
                    swept.append(part.upper)
            extent = self._extent()
            if extent:
                self._prune_rows(*extent)
            if swept:
                for part in parts:
                    if part.parent == "transaction" and part.upper <= max(swept):
                        self._drop_transactions(part, max(swept))
                self._sweep(max(swept))
        except _BudgetSpentError:
            self.done = replace(self.done, is_finished=False)
        self._note(is_complete=True)
        return replace(self.done, wal=self._wal() - self._began_at)

    @property
    def moment_of_longest(self) -> datetime | None:
        """Before it the policy keeps nothing; None if it keeps something for ever."""
        return min(self.moments.values()) if self.policy.is_finite else None

    def _prune_rows(self, first: int, last: int) -> None:
        windows = self._windows(first, last)
        if self.options.archive is None:
            for after, until in windows:
                self._delete(_Window(after, until, self._chain, "", 0), expected=None)
            return
        for finished in self._archives(windows, None):
            for window in finished:
                self._delete(window, expected=window.digest)

    def _delete(self, window: _Window, expected: str | None) -> None:
        self._spend()
        call = self.functions.prune_batch(
            self._rules(), _big(window.after), _big(window.until), self.done.run,
            window.previous, _text(expected), as_jsonb(self._facts()),
        ).table_valued("rows", "transactions", "digest")  # fmt: skip
        row = self._step(sa.select(call))
        if expected is None:
            self._chain = row.digest
        elif not row.rows:
            self.done = replace(self.done, skipped=self.done.skipped + window.rows)
            self.progress(
                f"{window.rows} rows were kept: a hold or a rewriting came after they were archived"
            )
        if row.rows:
            self.done = replace(
                self.done,
                rows=self.done.rows + row.rows,
                transactions=self.done.transactions + row.transactions,
                digest=row.digest,
            )
            self.progress(f"{self.done.rows} rows pruned, up to id {window.until}")

    def _drop(self, part: _Partition) -> bool:
        """Drop a partition of activities; where that cannot be, its rows go with the others."""
        self._spend()
        previous, expected, archived = self._chain, None, 0
        if part.first is not None and part.last is not None:
            if self.options.archive is not None:
                windows = self._windows(part.first - 1, part.last)
                for finished in self._archives(windows, part):
                    archived += sum(window.rows for window in finished)
                expected = self._chain
            if self.options.archive is not None and not archived:
                return False
        call = self.functions.prune_partition(
            self._rules(), part.name, self.done.run, previous, _text(expected),
            as_jsonb(self._facts()),
        ).table_valued("rows", "digest")  # fmt: skip
        row = self._step(sa.select(call))
        if row.rows is None:
            self.progress(f"{part.name}: some of its rows are kept, so they go one by one")
            return False
        self._chain = row.digest
        self.done = replace(
            self.done,
            rows=self.done.rows + row.rows,
            partitions=(*self.done.partitions, part.name),
            digest=row.digest,
        )
        self.progress(f"{part.name}: dropped with {row.rows} rows")
        return True

    def _drop_transactions(self, part: _Partition, before: datetime) -> None:
        self._spend()
        call = self.functions.prune_transaction_partition(
            sa.cast(before, sa.DateTime(timezone=True)), part.name, self.done.run,
            as_jsonb(self._facts()),
        )  # fmt: skip
        if self._step(sa.select(call))[0]:
            self.done = replace(self.done, partitions=(*self.done.partitions, part.name))
            self.progress(f"{part.name}: dropped")

    def _sweep(self, before: datetime) -> None:
        while True:
            self._spend()
            call = self.functions.prune_transactions(
                sa.cast(before, sa.DateTime(timezone=True)), self.options.batch, self.done.run,
                as_jsonb(self._facts()),
            )  # fmt: skip
            count = self._step(sa.select(call))[0]
            if not count:
                return
            self.done = replace(self.done, transactions=self.done.transactions + count)
            self.progress(f"{self.done.transactions} transactions pruned")

    def _step(self, query: sa.Select[Any]) -> Any:
        """Run a function of the trail that changes it, and return the row that it returns."""
        before = self._wal()
        try:
            found = patiently(
                self.engine, lambda connection: connection.execute(query).one(), "The trail",
                lock_timeout=self.options.lock_timeout,
                attempts=self.options.attempts, progress=self.progress,
            )  # fmt: skip
        except sa.exc.DBAPIError as error:
            raise explained(error, self.trail) from error
        self._largest = max(self._largest, self._wal() - before)
        if self.options.pause:
            time.sleep(self.options.pause / 1000)
        return found

    def _wal(self) -> int:
        query = sa.text(
            "SELECT CAST(pg_catalog.pg_wal_lsn_diff("
            "pg_catalog.pg_current_wal_insert_lsn(), '0/0') AS bigint)"
        )
        return int(granted(self.engine, self.trail, lambda connection: connection.scalar(query)))

    def _spend(self) -> None:
        """Stop before a step that may go beyond the budget; the first one is always made."""
        budget = self.options.wal_budget
        if budget is None or not self._largest:
            return
        if self._wal() - self._began_at + self._largest > budget:
            raise _BudgetSpentError

    def _facts(self) -> dict[str, Any]:
        facts = {"os_user": os_user(), "archive": self._archived and self._directory.name}
        return {name: value for name, value in facts.items() if value}

    # -- Archiving ----------------------------------------------------------------------------

    @property
    def _directory(self) -> Path:
        """Of this run's archive."""
        base = self.options.archive or Path()
        return base / f"audit-{self.moment:%Y%m%dT%H%M%SZ}-{self.done.run[:8]}"

    def _archives(
        self, windows: Iterator[tuple[int, int]], part: _Partition | None
    ) -> Iterator[list[_Window]]:
        """Write files, and yield what each holds when it is finished and verified."""
        self._begin_archive()
        going = True
        while going:
            self._spend()
            writer = archive.Writer(
                self._directory, len(self._manifest.files) + 1, self.options.kind, self._chain
            )
            found: list[_Window] = []
            try:
                while writer.rows < self.options.file_rows:
                    window = next(windows, None)
                    if window is None:
                        going = False
                        break
                    previous, rows = writer.digest, writer.rows
                    self._copy(writer, window, part)
                    if writer.rows > rows:
                        found.append(_Window(*window, previous, writer.digest, writer.rows - rows))
                if not found:
                    continue
                file = writer.finish()
            finally:
                writer.abandon()
            self._archived = replace(self._manifest, files=(*self._manifest.files, file))
            self._note(is_complete=False)
            self._chain = file.digest
            self.progress(f"{self._directory / file.name}: {file.rows} rows, verified")
            yield found

    def _copy(
        self, writer: archive.Writer, window: tuple[int, int], part: _Partition | None
    ) -> None:
        moment = sa.DateTime(timezone=True)
        call = self.functions.archive_batch(
            self._rules(), _big(window[0]), _big(window[1]),
            sa.cast(part and part.lower, moment), sa.cast(part and part.upper, moment),
        ).table_valued("id", "issued_at", "schema_name", "table_name", "verb", "line")  # fmt: skip

        def stream(connection: sa.Connection) -> None:
            # A cursor on the server: a batch of large rows is never in memory as a whole.
            reading = connection.execution_options(yield_per=100)
            for row in reading.execute(sa.select(call)):
                writer.add(archive.Row(*row))

        granted(self.engine, self.trail, stream)

    @property
    def _manifest(self) -> archive.Manifest:
        if self._archived is None:
            self._archived = archive.Manifest(
                trail=self.trail.schema_name,
                installed=self.trail.digest,
                run=self.done.run,
                kind=self.options.kind,
                created_at=self.moment.isoformat(timespec="seconds"),
            )
        return self._archived

    def _begin_archive(self) -> None:
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RetentionError(
                f"The archive cannot be made in {self.options.archive}: {error.strerror}. "
                "Name a directory that can be written to with --archive. Nothing was deleted."
            ) from error
        self.done = replace(self.done, archive=str(self._directory))
        self._note(is_complete=False)

    def _note(self, *, is_complete: bool) -> None:
        """Write the manifest as far as it is true."""
        if self.done.archive is not None:
            self._archived = replace(self._manifest, is_complete=is_complete)
            archive.write_manifest(self._directory, self._archived)


def _big(value: int) -> Any:
    return sa.cast(value, sa.BigInteger)


def _text(value: str | None) -> Any:
    return sa.cast(value, sa.Text)
