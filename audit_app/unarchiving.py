"""Bringing an archive back into the trail, for a look."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from audit_app import archive
from audit_app.errors import ArchiveError
from audit_app.holds import granted, os_user
from audit_app.install import as_jsonb

if TYPE_CHECKING:
    from audit_app.ddl import Trail

BATCH: Final = 500
"""Rows of one statement."""


@dataclass(frozen=True)
class Restored:
    """What came back.

    :ivar rows: rows of the archive, and ``added`` those that were not there.
    :ivar keep_until: until when pruning leaves them alone.
    :ivar is_proved: whether the trail has the record of the pruning, with the same digests.
    """

    run: str
    rows: int
    added: int
    keep_until: datetime
    is_proved: bool

    def as_dict(self) -> dict[str, Any]:
        """Return the summary for ``json``."""
        return {**asdict(self), "keep_until": self.keep_until.isoformat()}


def restore(
    engine: sa.Engine,
    trail: Trail,
    directory: Path,
    *,
    keep: str = "30 days",
    progress: Callable[[str], None] = lambda line: None,
) -> Restored:
    """Verify an archive, and bring its rows back with their ids; all of them or none.

    :param keep: how long pruning leaves them alone, as :func:`audit_app.retention.check_amount`
        returns it.
    :param progress: called with a line after each file.
    :raises ArchiveError: if the archive is damaged, or of a trail in another schema.
    :raises RetentionError: if a row differs from the one in the trail.
    :raises NotGrantedError: if the database role does not own the trail.
    :raises NotInstalledError: if the trail is not installed.
    """
    manifest = archive.verify(directory)
    if manifest.trail != trail.schema_name:
        raise ArchiveError(
            f"{directory} is the archive of a trail in the schema {manifest.trail!r}, and this "
            f"one is in {trail.schema_name!r}: name the other with --bind."
        )
    functions = getattr(sa.func, trail.schema_name)

    def bring(connection: sa.Connection) -> Restored:
        added = 0
        for file in manifest.files:
            for lines in _batches(archive.lines_of(directory / file.name, manifest.kind)):
                call = functions.restore_lines(
                    sa.cast(sa.literal(lines, sa.ARRAY(sa.Text)), sa.ARRAY(sa.Text))
                )
                added += connection.scalar(sa.select(call)) or 0
            progress(f"{file.name}: {file.rows} rows")
        marks = set(connection.scalars(sa.select(functions.prune_marks(manifest.run))))
        facts = {
            "run": manifest.run,
            "archive": directory.resolve().name,
            "digest": manifest.digest,
            "rows": manifest.rows,
            "added": added,
            "first": min((file.first for file in manifest.files), default=0),
            "last": max((file.last for file in manifest.files), default=0),
            "os_user": os_user(),
        }
        call = functions.record_restore(
            as_jsonb(facts),
            as_jsonb([asdict(part) for part in manifest.parts]),
            sa.cast(sa.cast(keep, sa.Text), sa.Interval),
        )
        return Restored(
            run=manifest.run,
            rows=manifest.rows,
            added=added,
            keep_until=connection.execute(sa.select(call)).scalar_one(),
            is_proved=bool(manifest.files) and all(file.digest in marks for file in manifest.files),
        )

    found: Restored = granted(engine, trail, bring)
    return found


def _batches(lines: Iterator[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    for line in lines:
        batch.append(line)
        if len(batch) >= BATCH or sum(map(len, batch[-1:])) > 1_000_000:
            yield batch
            batch = []
    if batch:
        yield batch
