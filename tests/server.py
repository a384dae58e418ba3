"""The PostgreSQL server of a test run: one for all workers, databases cloned from templates."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg2
import sqlalchemy as sa

import demo.server
from demo.errors import ServerError

_SETTINGS = {
    # Durability is of no use to a test, and its cost is most of a commit.
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    # What some faults of the catalogue need.
    "max_prepared_transactions": "10",
    "wal_level": "logical",
    # A test that waits for itself fails instead of hanging.
    "lock_timeout": "20s",
}
_MEMORY = Path("/dev/shm")
_ROOM = 2 << 30  # bytes that a run may need: a few databases of 8 MB, and the WAL
_PREFIX = "audit-tests-"


@dataclass
class Server:
    """A running server in which this process may create databases.

    :ivar url: of a database to connect to for administration.
    :ivar name: tells the databases of this worker from those of another.
    """

    url: sa.URL
    name: str
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _connection: Any = None
    _templates: dict[Hashable, str] = field(default_factory=dict)

    @contextlib.contextmanager
    def database(self, template: str = "template0") -> Iterator[str]:
        """Create a database for the block, and yield its SQLAlchemy URL."""
        database = self._create(template)
        try:
            yield self.url_of(database)
        finally:
            self._drop(database)

    def template(
        self, key: Hashable, prepare: Callable[[str], object], of: str = "template0"
    ) -> str:
        """Return the name of a database to clone, which ``prepare`` fills at its first use.

        :param key: tells what ``prepare`` does from what others do.
        :param prepare: gets the URL of the database, and leaves no connection open.
        :param of: the template that the new one is a clone of.
        """
        if key not in self._templates:
            database = self._create(of)
            try:
                prepare(self.url_of(database))
            except BaseException:
                self._drop(database)
                raise
            self._templates[key] = database
        return self._templates[key]

    def _create(self, template: str) -> str:
        database = f"audit_test_{self.name}_{os.getpid()}_{next(self._numbers)}"
        # Copying files is less work than the WAL of their pages; without fsync it needs no waiting.
        self.execute(f'CREATE DATABASE "{database}" TEMPLATE "{template}" STRATEGY FILE_COPY')
        return database

    def _drop(self, database: str) -> None:
        self.execute(f'DROP DATABASE "{database}" WITH (FORCE)')

    def url_of(self, database: str) -> str:
        return self.url.set(database=database).render_as_string(hide_password=False)

    def execute(self, statement: str) -> None:
        """Execute a statement as the server's user, outside of any transaction."""
        if self._connection is None or self._connection.closed:
            self._connection = psycopg2.connect(self.dsn(self.url))
            self._connection.autocommit = True
        with self._connection.cursor() as cursor:
            cursor.execute(statement)

    def close(self) -> None:
        for database in self._templates.values():
            self._drop(database)
        if self._connection is not None:
            self._connection.close()

    @staticmethod
    def dsn(url: sa.URL | str) -> str:
        """Return the URL as libpq reads it."""
        plain = sa.make_url(url).set(drivername="postgresql")
        return plain.render_as_string(hide_password=False)


@contextlib.contextmanager
def running(run_id: str, name: str) -> Iterator[Server]:
    """Use the server of ``AUDIT_DATABASE_URL``, or an embedded one, for the block.

    :param run_id: tells one test run from another; all workers of a run share a server.
    :param name: of the worker.
    """
    directory = place() / f"{_PREFIX}{run_id}"
    _sweep(directory)
    url = sa.make_url(demo.server.start(directory, _SETTINGS)).set(drivername="postgresql+psycopg2")
    server = Server(url, name)
    try:
        yield server
    finally:
        server.close()
        demo.server.stop(directory)
        with contextlib.suppress(ServerError):  # another worker still uses it
            demo.server.delete(directory)
            shutil.rmtree(directory, ignore_errors=True)


def place() -> Path:
    """The directory for servers: in memory, where there is room; short enough for sockets' paths.

    Every test makes and drops a database of some 300 files. ext4 takes ever longer for that: it
    looks for an inode that was not freed within the last seconds.
    """
    # Not below pytest's own directory, which is closed to the account that the server runs under.
    if os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > _ROOM:
        return _MEMORY
    temporary = tempfile.gettempdir()
    return Path(temporary if len(temporary) < 60 else "/tmp")


def _sweep(own: Path) -> None:
    """Delete what killed runs left, which would hold memory until the machine is restarted."""
    for left in own.parent.glob(f"{_PREFIX}*"):
        if left != own:
            with contextlib.suppress(ServerError, OSError):  # another run uses it
                demo.server.delete(left)
