"""The PostgreSQL server of a test run: one for all workers, databases cloned from templates."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

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


@dataclass
class Server:
    """A running server in which this process may create databases.

    :ivar url: of a database to connect to for administration.
    :ivar name: tells the databases of this worker from those of another.
    """

    url: sa.URL
    name: str
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @contextlib.contextmanager
    def database(self, template: str = "template0") -> Iterator[str]:
        """Create a database for the block, and yield its SQLAlchemy URL."""
        database = f"audit_test_{self.name}_{os.getpid()}_{next(self._numbers)}"
        self.execute(f'CREATE DATABASE "{database}" TEMPLATE "{template}"')
        try:
            yield self.url_of(database)
        finally:
            self.execute(f'DROP DATABASE "{database}" WITH (FORCE)')

    def url_of(self, database: str) -> str:
        return self.url.set(database=database).render_as_string(hide_password=False)

    def execute(self, statement: str) -> None:
        connection = psycopg2.connect(self.dsn(self.url))
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
        finally:
            connection.close()

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
    # Not below pytest's own directory, which is closed to the account that the server runs under.
    directory = Path(tempfile.gettempdir()) / f"audit-tests-{run_id}"
    url = sa.make_url(demo.server.start(directory, _SETTINGS)).set(drivername="postgresql+psycopg2")
    try:
        yield Server(url, name)
    finally:
        demo.server.stop(directory)
        with contextlib.suppress(ServerError):  # another worker still uses it
            demo.server.delete(directory)
            shutil.rmtree(directory, ignore_errors=True)
