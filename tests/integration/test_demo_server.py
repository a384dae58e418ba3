"""The demo's own PostgreSQL server: it starts, attaches, recovers and stops."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil  # type: ignore[import-untyped]
import pytest
import sqlalchemy as sa

from demo import commands, server
from demo.errors import AddressError, ServerError
from tests import server as servers

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]

ATTACH = """
import pathlib, sys
from demo import server
print(server.start(pathlib.Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _own_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AUDIT_DATABASE_URL", raising=False)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory of our own: pytest closes those under its tmp_path to other accounts again,
    whenever another run starts."""
    with tempfile.TemporaryDirectory(prefix="demo-", dir=servers.place()) as name:
        yield Path(name)


@pytest.fixture
def directory(place: Path) -> Iterator[Path]:
    directory = place / "demo"
    yield directory
    server.stop(directory)
    server.delete(directory)


def query(url: str, statement: str) -> object:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        result = connection.execute(sa.text(statement))
        return result.scalar() if result.returns_rows else None


def pid(directory: Path) -> int:
    return int((directory / "postgres" / "postmaster.pid").read_text().splitlines()[0])


def wait_until_gone(number: int) -> None:
    deadline = time.monotonic() + 10
    while psutil.pid_exists(number) and time.monotonic() < deadline:
        if psutil.Process(number).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.05)


def attach(directory: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", ATTACH, str(directory)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("postgresql+psycopg2://")
    return process


def detach(process: subprocess.Popen[str]) -> None:
    process.communicate()
    assert process.returncode == 0


def test_data_outlive_the_server(directory: Path) -> None:
    with server.running(directory) as url:
        assert str(query(url, "SHOW server_version")).startswith("18")
        query(url, "CREATE TABLE kept AS SELECT 7 AS n")
        number = pid(directory)
    wait_until_gone(number)
    assert not (directory / "postgres" / "postmaster.pid").exists()
    with server.running(directory) as url:
        assert query(url, "SELECT n FROM kept") == 7


def test_a_path_with_spaces_and_longer_than_a_socket_allows(place: Path) -> None:
    directory = place / "it's a, desk" / ("long" * 30)
    with server.running(directory) as url:
        assert query(url, "SELECT 1") == 1
    server.delete(directory)


def test_two_directories_have_two_servers(place: Path) -> None:
    with server.running(place / "a") as a, server.running(place / "b") as b:
        query(a, "CREATE TABLE only_in_a ()")
        assert query(b, "SELECT to_regclass('only_in_a')") is None
    server.delete(place / "a")
    server.delete(place / "b")


def test_the_last_one_to_leave_stops_the_server(directory: Path) -> None:
    first = attach(directory)
    with server.running(directory) as url:
        detach(first)
        assert query(url, "SELECT 1") == 1
        number = pid(directory)
    wait_until_gone(number)
    assert not (directory / "postgres" / "postmaster.pid").exists()


def test_a_killed_demo_leaves_a_server_that_the_next_one_stops(directory: Path) -> None:
    killed = attach(directory)
    killed.kill()
    killed.communicate()
    number = pid(directory)
    with server.running(directory) as url:
        assert pid(directory) == number
        assert query(url, "SELECT 1") == 1
    assert not (directory / "postgres" / "postmaster.pid").exists()


def test_a_killed_server_is_started_again(directory: Path) -> None:
    demo = attach(directory)
    number = pid(directory)
    os.kill(number, signal.SIGKILL)
    demo.kill()
    demo.communicate()
    with server.running(directory) as url:
        assert pid(directory) != number
        assert query(url, "SELECT 1") == 1


@pytest.mark.parametrize("content", ["", "12\n", "{pid}\n{data}\n1\n5432\n{data}\n\n1 2\nready\n"])
def test_a_stale_pid_file_is_no_obstacle(directory: Path, content: str) -> None:
    with server.running(directory):
        pass
    data = directory / "postgres"
    # The number of a process that lives, but is no server.
    (data / "postmaster.pid").write_text(content.format(pid=os.getpid(), data=data))
    with server.running(directory) as url:
        assert query(url, "SELECT 1") == 1


def test_an_interrupted_first_start_is_repeated(directory: Path) -> None:
    (directory / "postgres" / "base").mkdir(parents=True)
    with server.running(directory) as url:
        assert query(url, "SELECT 1") == 1


def test_reset_is_refused_while_another_demo_runs(directory: Path) -> None:
    demo = attach(directory)
    with pytest.raises(ServerError, match="stop it"):
        server.delete(directory)
    detach(demo)
    server.delete(directory)
    assert not (directory / "postgres").exists()


def test_a_given_server_is_used_as_it_is(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = database_url.replace("postgresql+psycopg2://", "postgresql://")
    monkeypatch.setenv("AUDIT_DATABASE_URL", given)
    assert server.start(tmp_path / "unused") == database_url
    assert not (tmp_path / "unused").exists()


def test_a_port_in_use_is_said_early() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(AddressError, match="in use"):
            commands.check_address("127.0.0.1", taken.getsockname()[1])


def test_an_address_that_is_not_ours_is_said_early() -> None:
    with pytest.raises(AddressError, match=r"Cannot listen on 192\.0\.2\.1"):
        commands.check_address("192.0.2.1", 5000)


def run_manage(*arguments: str, url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env={**os.environ, "AUDIT_DATABASE_URL": url},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_an_unreachable_server_is_one_message_and_exit_code_2() -> None:
    result = run_manage("demo", "--no-serve", url="postgresql://nobody@127.0.0.1:1/none")
    assert result.returncode == 2
    assert result.stderr.startswith("Error: No database answers at")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "content",
    [
        "CREATE TABLE country (id int)",
        "CREATE TABLE alembic_version AS SELECT 'abc123' AS version_num",
    ],
)
@pytest.mark.parametrize("option", ["--no-serve", "--reset"])
def test_somebody_elses_database_is_left_alone(
    database_url: str, content: str, option: str
) -> None:
    query(database_url, content)
    result = run_manage("demo", "--no-serve", option, url=database_url)
    assert result.returncode == 2
    assert "in use by something else" in result.stderr
    assert query(database_url, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 1


def test_the_commands_on_a_given_database(database_url: str) -> None:
    first = run_manage("demo", "--no-serve", url=database_url)
    assert first.returncode == 0, first.stderr
    assert "changes since 2010" in first.stdout
    again = run_manage("demo", "--no-serve", url=database_url)
    assert "changes since 2010" not in again.stdout
    query(database_url, "CREATE TABLE not_ours ()")
    fresh = run_manage("demo", "--no-serve", "--reset", url=database_url)
    assert "changes since 2010" in fresh.stdout
    assert query(database_url, "SELECT to_regclass('not_ours')") == "not_ours"
    current = run_manage("db", "current", url=database_url)
    assert "0001 (head)" in current.stdout


def test_a_database_error_names_no_password() -> None:
    error = run_manage("demo", "--no-serve", url="postgresql://u:secret@127.0.0.1:1/none").stderr
    assert "secret" not in error
