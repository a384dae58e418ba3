"""PgBouncer in front of the server under test, for as long as a test needs it."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
import sqlalchemy as sa

from demo.programs import Account, account_for
from tests.server import Server

_TIMEOUT = 20  # seconds
_SBIN = "/usr/sbin:/usr/local/sbin:/opt/homebrew/bin"  # not in everybody's PATH


@contextlib.contextmanager
def running(url: str, *, size: int) -> Iterator[str]:
    """Pool the database of ``url`` by transaction, and yield the URL of the pool.

    :param size: of the pool: sessions on the server.
    """
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:{_SBIN}")
    if program is None:
        pytest.skip("PgBouncer is not installed: install the package pgbouncer")
    target = sa.make_url(url)
    host = str(target.query.get("host") or target.host or "127.0.0.1")
    account = _account(host)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="audit-pool-") as name:
        directory = Path(name)
        users, configuration = directory / "users", directory / "pool.ini"
        users.write_text(f'"{target.username or _me()}" "{target.password or ""}"\n')
        configuration.write_text(
            "[databases]\n"
            f"* = host={host} port={target.port or 5432}\n"
            "[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = trust\nauth_file = {users}\n"
            f"pool_mode = transaction\ndefault_pool_size = {size}\n"
            "ignore_startup_parameters = extra_float_digits\n"
        )
        for path in (directory, users, configuration):
            if account.name is not None:
                os.chown(path, account.uid, account.gid)
        with (directory / "log").open("w+") as log:
            process = subprocess.Popen(
                [program, str(configuration)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd="/",
                user=account.name,
                group=account.gid if account.name is not None else None,
                extra_groups=[] if account.name is not None else None,
            )
            try:
                pooled = target.set(host="127.0.0.1", port=port, query={})
                _wait(process, Server.dsn(pooled), Path(log.name))
                yield pooled.render_as_string(hide_password=False)
            finally:
                process.terminate()
                process.wait(_TIMEOUT)


def _account(host: str) -> Account:
    """PgBouncer refuses to run as root; a server's socket may be closed to all but its owner."""
    if os.geteuid() == 0 and host.startswith("/") and os.stat(host).st_uid != 0:
        owner = pwd.getpwuid(os.stat(host).st_uid)
        return Account(owner.pw_name, owner.pw_uid, owner.pw_gid)
    return account_for(Path(host) / "none")


def _me() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name


def _wait(process: subprocess.Popen[bytes], dsn: str, log: Path) -> None:
    deadline = time.monotonic() + _TIMEOUT
    while True:
        try:
            psycopg2.connect(dsn).close()
        except psycopg2.OperationalError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{error}\n{log.read_text()}") from error
            time.sleep(0.05)
        else:
            return
