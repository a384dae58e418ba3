"""A primary and a streaming standby of its own, which a test may stop, pause and disturb."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg2
import pytest
import sqlalchemy as sa

import demo.server
from demo.errors import ServerError
from demo.programs import Account, account_for, run
from tests import server as servers
from tests.server import Server

_PRIMARY = {
    "fsync": "off",
    "autovacuum": "off",  # a test cleans up when it wants a conflict
    "wal_level": "replica",
    "shared_buffers": "16MB",
}
_STANDBY = {
    "hot_standby_feedback": "off",
    "max_standby_streaming_delay": "100ms",
    "wal_receiver_status_interval": "1s",
    "wal_retrieve_retry_interval": "100ms",
}
_TIMEOUT = 20  # seconds


@dataclass(frozen=True)
class Pair:
    """A primary, and the standby that follows it.

    :ivar primary: to create databases on.
    :ivar directory: the standby's data, and its socket.
    :ivar source: how the standby connects to the primary.
    """

    primary: Server
    directory: Path
    account: Account
    source: str

    def url_of(self, database: str) -> str:
        """Return the address of a database on the standby."""
        return f"postgresql+psycopg2://postgres@/{database}?host={quote(str(self.directory))}"

    def start(self) -> None:
        log = str(self.directory / "server.log")
        try:
            run("pg_ctl", ["-D", str(self.directory), "-w", "-l", log, "start"], self.account)
        except ServerError as error:
            raise ServerError(Path(log).read_text(encoding="utf-8")) from error

    def stop(self) -> None:
        run("pg_ctl", ["-D", str(self.directory), "-w", "-m", "fast", "stop"], self.account)

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        self.stop()
        try:
            yield
        finally:
            self.start()

    def ask(self, query: str, database: str = "postgres") -> Any:
        """Return the value of a query on the standby, in a session of its own."""
        return _ask(self.url_of(database), query)

    def ask_primary(self, query: str, database: str = "postgres") -> Any:
        return _ask(self.primary.url_of(database), query)

    def catch_up(self) -> None:
        """Wait until the standby has replayed what the primary has written."""
        position = self.ask_primary("SELECT pg_current_wal_lsn()")
        self.until(f"SELECT pg_last_wal_replay_lsn() >= '{position}'")

    def until(self, query: str) -> None:
        """Wait until a query is true on the standby."""
        deadline = time.monotonic() + _TIMEOUT
        while not self.ask(query):
            assert time.monotonic() < deadline, query
            time.sleep(0.02)

    def cut_off(self) -> None:
        """Let the standby receive nothing any more."""
        self.ask("ALTER SYSTEM SET primary_conninfo = ''")
        self.ask("SELECT pg_reload_conf()")
        self.until("SELECT NOT EXISTS (SELECT FROM pg_stat_wal_receiver)")

    def connect(self) -> None:
        """Let it follow the primary again."""
        self.ask(f"ALTER SYSTEM SET primary_conninfo = '{self.source}'")
        self.ask("SELECT pg_reload_conf()")
        self.until("SELECT EXISTS (SELECT FROM pg_stat_wal_receiver)")

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Receive, and replay nothing."""
        self.ask("SELECT pg_wal_replay_pause()")
        try:
            self.until("SELECT pg_get_wal_replay_pause_state() = 'paused'")
            yield
        finally:
            self.ask("SELECT pg_wal_replay_resume()")


def _ask(url: str, query: str) -> Any:
    connection = psycopg2.connect(Server.dsn(url))
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(query)
            row = cursor.fetchone() if cursor.description else None
            return None if row is None else row[0]
    finally:
        connection.close()


@contextlib.contextmanager
def running() -> Iterator[Pair]:
    """Run a primary and its standby for the block, from the wheel whatever the tests run on."""
    directory = Path(tempfile.mkdtemp(prefix="audit-pair-", dir=servers.place()))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("AUDIT_DATABASE_URL", raising=False)
        url = sa.make_url(demo.server.start(directory, _PRIMARY))
    primary = Server(url.set(drivername="postgresql+psycopg2"), "pair")
    try:
        pair = _follow(primary, directory)
        pair.start()
        try:
            yield pair
        finally:
            pair.stop()
    finally:
        primary.close()
        demo.server.stop(directory)
        demo.server.delete(directory)
        shutil.rmtree(directory, ignore_errors=True)


def _follow(primary: Server, directory: Path) -> Pair:
    """Copy the primary into a standby that connects to it by its Unix socket."""
    account = account_for(directory / "postgres")
    data = directory / "standby"
    data.mkdir(mode=0o700)
    if account.name is not None:
        os.chown(data, account.uid, account.gid)
    source = f"host={primary.url.query['host']} user=postgres application_name=standby"
    options = ["--checkpoint=fast", "--no-sync", "--wal-method=stream", "--write-recovery-conf"]
    # initdb's pg_hba.conf lets replication in by the socket.
    run("pg_basebackup", ["-D", str(data), "-d", source, *options], account)
    for name in (".s.PGSQL.5432.lock", "server.log"):  # the primary's
        (data / name).unlink()
    with (data / "postgresql.auto.conf").open("a", encoding="utf-8") as settings:
        settings.write(f"unix_socket_directories = '{data}'\n")
        settings.writelines(f"{name} = {value}\n" for name, value in _STANDBY.items())
    return Pair(primary, data, account, source)
