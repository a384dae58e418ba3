"""Archives of what was pruned: directories with files of lines and a manifest. No database.

A line is an activity with its transaction in JSON, as ``archive_batch()`` of the trail wrote it.
The digest of a row goes over its line and the digest of the row before, so that the last one of a
file proves all of it, and stands in the mark that the pruning left in the trail.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

from audit_app.errors import ArchiveError, ConfigurationError

KINDS: Final = ("ndjson", "parquet")
"""Gzip-compressed JSON lines, or Parquet (with the extra ``parquet``)."""

MANIFEST: Final = "manifest.json"

VERSION: Final = 1
"""Of the manifest's form."""

START: Final = "0" * 64
"""The digest before the first row."""

_ROW_GROUP = 1_000  # rows that are in memory at a time
_ENDINGS = {"ndjson": "ndjson.gz", "parquet": "parquet"}


def chained(digest: bytes, line: str) -> bytes:
    """Return the digest of a line and of all before it; the SQL is ``chained()`` of the trail."""
    return hashlib.sha256(digest + hashlib.sha256(line.encode()).digest()).digest()


@dataclass(frozen=True)
class Part:
    """How many rows of a table and verb an archive holds."""

    schema: str
    table: str
    verb: str
    rows: int


@dataclass(frozen=True)
class File:
    """A file of an archive.

    :ivar sha256: of the file's bytes.
    :ivar first: the lowest id of an activity, and ``last`` the highest.
    :ivar since: the first moment, as ISO 8601, and ``until`` the last one.
    :ivar previous: the digest of what came before the file.
    :ivar digest: the digest of its last row.
    """

    name: str
    rows: int
    bytes: int
    sha256: str
    first: int
    last: int
    since: str
    until: str
    previous: str
    digest: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Manifest:
    """What an archive holds.

    :ivar trail: the schema of the trail, and ``installed`` the digest of its functions.
    :ivar run: the id of the pruning, as its marks have it.
    :ivar is_complete: whether the pruning came to its end.
    """

    trail: str
    installed: str
    run: str
    kind: str
    created_at: str
    files: tuple[File, ...] = ()
    is_complete: bool = False
    version: int = VERSION

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)

    @property
    def digest(self) -> str:
        """The digest of the last row."""
        return self.files[-1].digest if self.files else START

    @property
    def parts(self) -> tuple[Part, ...]:
        """The rows of all files by table and verb."""
        counts: Counter[tuple[str, str, str]] = Counter()
        for file in self.files:
            for part in file.parts:
                counts[part.schema, part.table, part.verb] += part.rows
        return tuple(Part(*key, counts[key]) for key in sorted(counts))

    def as_dict(self) -> dict[str, Any]:
        """Return the manifest for ``json``."""
        return {
            **asdict(self),
            "rows": self.rows,
            "digest": self.digest,
            "since": min((file.since for file in self.files), default=None),
            "until": max((file.until for file in self.files), default=None),
            "parts": [asdict(part) for part in self.parts],
        }


@dataclass(frozen=True)
class Row:
    """A row on its way into an archive."""

    id: int
    issued_at: datetime
    schema: str
    table: str
    verb: str
    line: str


class _Sink(Protocol):
    def add(self, row: Row) -> None: ...

    def close(self) -> None: ...


class Writer:
    """Writes one file: under a temporary name, until it is whole and on the disk."""

    def __init__(self, directory: Path, number: int, kind: str, previous: str) -> None:
        self.path = directory / f"part-{number:04}.{_ENDINGS[kind]}"
        self._temporary = self.path.with_name(f".{self.path.name}.unfinished")
        self._kind, self._previous = kind, previous
        self._chain = bytes.fromhex(previous)
        self._sink: _Sink = (_Lines if kind == "ndjson" else _Parquet)(self._temporary)
        self._counts: Counter[tuple[str, str, str]] = Counter()
        self._ids: list[int] = []
        self._moments: list[datetime] = []

    @property
    def rows(self) -> int:
        return self._counts.total()

    @property
    def digest(self) -> str:
        """The digest of the last row so far."""
        return self._chain.hex()

    def add(self, row: Row) -> None:
        self._sink.add(row)
        self._chain = chained(self._chain, row.line)
        self._counts[row.schema, row.table, row.verb] += 1
        self._ids = [min([row.id, *self._ids]), max([row.id, *self._ids])]
        self._moments = [
            min([row.issued_at, *self._moments]),
            max([row.issued_at, *self._moments]),
        ]

    def finish(self) -> File:
        """Put the file in its place, read it again, and return what it holds.

        :raises ArchiveError: if what was read is not what was written.
        """
        self._sink.close()
        _sync(self._temporary)
        self._temporary.replace(self.path)
        _sync(self.path.parent)
        file = File(
            name=self.path.name,
            rows=self.rows,
            bytes=self.path.stat().st_size,
            sha256=_sha256(self.path),
            first=self._ids[0],
            last=self._ids[1],
            since=self._moments[0].astimezone(UTC).isoformat(),
            until=self._moments[1].astimezone(UTC).isoformat(),
            previous=self._previous,
            digest=self.digest,
            parts=tuple(Part(*key, self._counts[key]) for key in sorted(self._counts)),
        )
        check_file(self.path.parent, file, self._kind)
        return file

    def abandon(self) -> None:
        """Remove what was written; after :meth:`finish` there is nothing to remove."""
        with suppress(Exception):
            self._sink.close()
        self._temporary.unlink(missing_ok=True)


class _Lines:
    """JSON lines; gzip without a time, so that the same rows make the same file."""

    def __init__(self, path: Path) -> None:
        self._raw = path.open("wb")
        self._file = gzip.GzipFile(filename="", mode="wb", fileobj=self._raw, mtime=0)

    def add(self, row: Row) -> None:
        self._file.write(row.line.encode() + b"\n")

    def close(self) -> None:
        self._file.close()
        self._raw.close()


class _Parquet:
    """Columns to look for rows by, and the line, from which alone rows are restored."""

    def __init__(self, path: Path) -> None:
        pa, pq = _pyarrow()
        text = pa.string()
        self._schema = pa.schema(
            [
                ("id", pa.int64()),
                ("issued_at", pa.timestamp("us", "UTC")),
                ("schema_name", text),
                ("table_name", text),
                ("verb", text),
                ("object_id", text),
                ("actor_id", text),
                ("line", pa.large_string()),
            ]
        )
        self._pa, self._waiting = pa, list[Row]()
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")

    def add(self, row: Row) -> None:
        self._waiting.append(row)
        if len(self._waiting) >= _ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        rows, self._waiting = self._waiting, []
        found = [_columns(row) for row in rows]
        self._writer.write_table(self._pa.Table.from_pylist(found, schema=self._schema))

    def close(self) -> None:
        if self._waiting:
            self._flush()
        self._writer.close()


def _columns(row: Row) -> dict[str, Any]:
    object_id = actor_id = None
    with suppress(RecursionError, ValueError):  # nested too deeply for Python
        found = json.loads(row.line, parse_int=str, parse_float=str)
        object_id = found["activity"]["object_id"]
        actor_id = (found["transaction"] or {}).get("actor_id")
    return {
        "id": row.id,
        "issued_at": row.issued_at,
        "schema_name": row.schema,
        "table_name": row.table,
        "verb": row.verb,
        "object_id": object_id,
        "actor_id": actor_id,
        "line": row.line,
    }


def require(kind: str) -> None:
    """Refuse a format that cannot be written here.

    :raises ConfigurationError: if it does not exist, or needs a package that is not installed.
    """
    if kind not in KINDS:
        raise ConfigurationError(f"There is no archive format {kind!r}: use {' or '.join(KINDS)}.")
    if kind == "parquet":
        _pyarrow()


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ConfigurationError(
            "Parquet needs pyarrow: install audit-app[parquet], or use --format ndjson."
        ) from error
    return pyarrow, parquet


# -- Reading -----------------------------------------------------------------------------------


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Put the manifest in its place, in one step."""
    temporary = directory / f".{MANIFEST}.unfinished"
    temporary.write_text(json.dumps(manifest.as_dict(), indent=2) + "\n", encoding="utf-8")
    _sync(temporary)
    temporary.replace(directory / MANIFEST)
    _sync(directory)


def read_manifest(directory: Path) -> Manifest:
    """Return what an archive says that it holds.

    :raises ArchiveError: if there is no manifest, or one of another form.
    """
    path = directory / MANIFEST
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["version"] != VERSION or found["kind"] not in KINDS:
            raise ArchiveError(
                f"{path} is of another form than this version reads: update audit-app."
            )
        files = tuple(
            File(**{**file, "parts": tuple(Part(**part) for part in file["parts"])})
            for file in found["files"]
        )
        names = ("trail", "installed", "run", "kind", "created_at", "is_complete", "version")
        manifest = Manifest(**{name: found[name] for name in names}, files=files)
    except OSError as error:
        raise ArchiveError(
            f"There is no archive in {directory}: name the directory that holds {MANIFEST}."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ArchiveError(f"{path} is damaged: take it from a copy of the archive.") from error
    if any(not re.fullmatch(r"part-[0-9]+\.[a-z.]+", file.name) for file in files):
        raise ArchiveError(f"{path} names a file that is none of an archive.")
    return manifest


def verify(directory: Path) -> Manifest:
    """Read an archive whole, and return its manifest if it holds what that says.

    :raises ArchiveError: if a file is missing, altered, or does not follow the one before.
    """
    manifest = read_manifest(directory)
    previous = START
    for file in manifest.files:
        if file.previous != previous:
            raise ArchiveError(
                f"{directory / file.name} does not follow the file before it: one is missing."
            )
        check_file(directory, file, manifest.kind)
        previous = file.digest
    return manifest


def check_file(directory: Path, file: File, kind: str) -> None:
    """Read a file whole, and compare it with what is known of it.

    :raises ArchiveError: if it differs.
    """
    path = directory / file.name
    try:
        if _sha256(path) != file.sha256:
            raise ArchiveError(
                f"{path} was altered: its SHA-256 is not the manifest's. Take it from a copy."
            )
        chain, rows = bytes.fromhex(file.previous), 0
        for line in lines_of(path, kind):
            chain, rows = chained(chain, line), rows + 1
    except (OSError, ValueError, EOFError) as error:
        raise ArchiveError(f"{path} is missing or damaged: take it from a copy.") from error
    if (chain.hex(), rows) != (file.digest, file.rows):
        raise ArchiveError(
            f"{path} holds other rows than the manifest says: {rows} with the digest "
            f"{chain.hex()}. Take both from a copy."
        )


def lines_of(path: Path, kind: str) -> Iterator[str]:
    """Return the lines of a file, one at a time."""
    if kind == "ndjson":
        with gzip.open(path, "rb") as file:
            for line in file:
                yield line.removesuffix(b"\n").decode()
        return
    _, pq = _pyarrow()
    with pq.ParquetFile(path) as found:
        for batch in found.iter_batches(batch_size=100, columns=["line"]):
            yield from batch.column(0).to_pylist()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a directory, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
