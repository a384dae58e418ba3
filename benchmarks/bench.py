"""Our trail beside the others: the packages as they come from the index, in one run.

    make bench            # everything; half an hour or more
    make bench-quick      # less of everything, a few minutes
    python -m benchmarks.bench --only bulk single --contestants audit_app postgresql-audit

Each contestant has a process and a database of its own on one embedded server. The rounds are
interleaved, and every figure is divided by that of the bare table in the same round.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import IO, Any, Final

import psutil  # type: ignore[import-untyped]
import sqlalchemy as sa

import demo.server
from benchmarks import replay, report
from benchmarks.contestants import ALL, BY_NAME, Contestant
from benchmarks.fill import Size
from benchmarks.progress import Progress
from benchmarks.wire import Wire
from demo.errors import ServerError
from demo.programs import account_for
from tests.server import Server

SETTINGS: Final = {
    "synchronous_commit": "off",
    "shared_buffers": "1GB",
    # Neither a checkpoint nor the vacuum daemon comes in between; tables are vacuumed by hand.
    "max_wal_size": "16GB",
    "checkpoint_timeout": "1d",
    # The files of the write-ahead log are used again, as on a server that has run for a while.
    "min_wal_size": "4GB",
    "autovacuum": "off",
    "max_connections": "100",
}
VERBS: Final = ("insert", "update", "delete")
_CLEAN: Final = (0, 30_000)  # unchanged objects in the session
_AFTER_SINGLE: Final = 10_000  # rows of the bulk update after three single ones
_TIMEOUT: Final = 15  # seconds for it
_WARM: Final = 10_000  # rows up to which a bulk write is preceded by another
_DOCS: Final = Path(__file__).parent.parent / "docs"


@dataclass(frozen=True)
class Options:
    """What to measure, and how much of it."""

    rows: tuple[int, ...] = (100, 1_000, 10_000, 100_000)
    rounds: int = 5
    often: int = 4  # times as many rounds of what is short and differs by little
    single: int = 200
    seconds: int = 3
    activities: int = 3_000_000
    reads: int = 15


QUICK: Final = Options(
    rows=(100, 1_000, 10_000),
    rounds=3,
    often=1,
    single=100,
    seconds=1,
    activities=100_000,
    reads=5,
)


@dataclass
class Contender:
    """A contestant's process.

    :raises RuntimeError: from :meth:`ask`, with the process's own traceback.
    """

    contestant: Contestant
    url: str
    process: subprocess.Popen[str]

    def ask(self, do: str, **order: Any) -> Any:
        """Give an order and wait for the answer."""
        pipe_in, pipe_out = self.process.stdin, self.process.stdout
        assert pipe_in is not None  # noqa: S101 - both are pipes
        assert pipe_out is not None  # noqa: S101
        pipe_in.write(json.dumps({"do": do, **order}) + "\n")
        pipe_in.flush()
        line = pipe_out.readline()
        answer = json.loads(line) if line else {"error": "The process ended."}
        if "error" in answer:
            raise RuntimeError(f"{self.contestant.name}, {do} {order}:\n{answer['error']}")
        return answer["is"]


Measured = dict[str, dict[str, list[Any]]]
"""The values of each round, by workload and contestant."""


@dataclass
class Bench:
    """One run: its contenders, and what was measured so far."""

    options: Options
    contenders: list[Contender]
    host: Path
    account: Any
    progress: Progress
    measured: Measured = field(default_factory=dict)

    def each(
        self,
        workload: str,
        measure: Callable[[Contender], Any],
        *,
        rounds: int | None = None,
        among: Sequence[Contender] | None = None,
    ) -> None:
        """Measure a workload, and keep the values of its rounds."""
        found = self._rounds(workload, measure, rounds=rounds, among=among)
        self.measured.setdefault(workload, {}).update(found)

    def _rounds(
        self,
        workload: str,
        measure: Callable[[Contender], Any],
        *,
        rounds: int | None = None,
        among: Sequence[Contender] | None = None,
    ) -> dict[str, list[Any]]:
        """Measure a workload, round by round, each beginning with another contestant."""
        among = self.contenders if among is None else among
        found: dict[str, list[Any]] = {c.contestant.name: [] for c in among}
        for number in range(self.options.rounds if rounds is None else rounds):
            self.progress.step(f"{workload}, round {number + 1}")
            shift = number % max(len(among), 1)
            for contender in [*among[shift:], *among[:shift]]:
                found[contender.contestant.name].append(measure(contender))
        return found

    # -- Workloads ----------------------------------------------------------------------------

    def bulk(self) -> None:
        for rows in self.options.rows:
            rounds = self._bulk_rounds(rows)
            for verb in VERBS:
                # What takes a millisecond is taken several times.
                times = min(30, max(10_000 // rows, 3 if rows <= _WARM else 1))
                order = {"verb": verb, "rows": rows, "warm": rows <= _WARM, "times": times}
                both = self._rounds(
                    f"bulk/{verb}/{rows}",
                    lambda c, order=order: c.ask("bulk", **order),  # type: ignore[misc]
                    rounds=rounds,
                )
                for place, kind in enumerate(("bulk", "bulk-cpu")):
                    self.measured[f"{kind}/{verb}/{rows}"] = {
                        name: [pair[place] for pair in pairs] for name, pairs in both.items()
                    }

    @property
    def _often(self) -> int:
        return self.options.rounds * self.options.often

    def _bulk_rounds(self, rows: int) -> int:
        return self._often if rows <= _WARM else self.options.rounds

    def after_single(self) -> None:
        self.each(
            "after-single",
            lambda c: c.ask("after_single", rows=_AFTER_SINGLE, timeout=_TIMEOUT),
            rounds=min(3, self.options.rounds),
        )

    def single(self) -> None:
        self.each(
            "single", lambda c: c.ask("single", times=self.options.single), rounds=self._often
        )

    def flush(self) -> None:
        with_session = [c for c in self.contenders if c.contestant.side == "sqlalchemy"]
        for clean in _CLEAN:
            times = 50 if not clean else 20
            self.each(
                f"flush/{clean}",
                lambda c, clean=clean, times=times: c.ask("flush", clean=clean, times=times),  # type: ignore[misc]
                rounds=self._often,
                among=with_session,
            )

    def trips(self) -> None:
        self.each("trips", lambda c: self._through_wire(c)[0], rounds=1)

    def clients(self) -> None:
        scripts = {}
        for contender in self.contenders:
            messages = self._through_wire(contender)[1]
            scripts[contender.contestant.name] = replay.as_script(messages, rows=4_000)
        for clients in (1, 2, 8):
            self.each(
                f"clients/{clients}",
                lambda c, clients=clients: replay.transactions_per_second(  # type: ignore[misc]
                    scripts[c.contestant.name],
                    host=str(self.host),
                    database=str(sa.make_url(c.url).database),
                    clients=clients,
                    seconds=self.options.seconds,
                    account=self.account,
                ),
            )

    def _through_wire(self, contender: Contender) -> tuple[float, list[str]]:
        """Return the round trips of a single-row transaction, and the messages of one."""
        times = 5
        with Wire(self.host) as wire:
            contender.ask("through", host=str(wire.directory), key=replay.KEY)
            wire.reset()
            for number in range(times):
                contender.ask("change", value=1_000 + number)
            trips = wire.reset().trips / times
            contender.ask("change", value=replay.VALUE)
            messages = wire.reset().queries
            contender.ask("through", host=None, key=replay.KEY)
        return trips, messages

    def storage(self) -> None:
        rows = min(10_000, max(self.options.rows))
        among = [c for c in self.contenders if c.contestant.bare and c.contestant.name != "floor"]
        for verb in VERBS:
            self.each(
                f"storage/{verb}",
                lambda c, verb=verb: c.ask("storage", verb=verb, rows=rows),  # type: ignore[misc]
                rounds=1,
                among=among,
            )

    def reads(self) -> None:
        among = [c for c in self.contenders if c.contestant.reads]
        readers: dict[str, list[Contender]] = {}
        for contender in among:
            name = contender.contestant.name
            self.progress.step(f"{self.options.activities:,} activities for {name}")
            for read in contender.ask("load", **self._size()):
                readers.setdefault(read, []).append(contender)
        for read, those in readers.items():
            self.each(
                f"reads/{read}",
                lambda c, read=read: sorted(c.ask("read", name=read, times=3))[1],  # type: ignore[misc]
                rounds=max(3, self.options.reads // 3),
                among=those,
            )

    def pages(self) -> None:
        """Pages of the trail that :meth:`reads` filled; of nobody else's, for there are none."""
        for contender in self.contenders:
            if contender.contestant.name != "audit_app":
                continue
            if "reads/newest" not in self.measured:
                self.progress.step(f"{self.options.activities:,} activities")
                contender.ask("load", **self._size())
            self.progress.step("pages")
            found = contender.ask("pages", times=self.options.reads, **self._size())
            for name, values in found.items():
                self.measured[f"pages/{name}"] = {"audit_app": values}

    def _size(self) -> dict[str, Any]:
        return asdict(Size(self.options.activities))

    def steps(self, workloads: Sequence[str]) -> int:
        """Return about how many steps there will be."""
        rounds, reads = self.options.rounds, max(3, self.options.reads // 3)
        return sum(
            {
                "bulk": sum(3 * self._bulk_rounds(rows) for rows in self.options.rows),
                "after-single": min(3, rounds),
                "single": self._often,
                "flush": 2 * self._often,
                "trips": 1,
                "clients": 3 * rounds,
                "storage": 3,
                "reads": 7 * reads + 4,
                "pages": 1,
            }[name]
            for name in workloads
        )


WORKLOADS: Final[dict[str, Callable[[Bench], None]]] = {
    "trips": Bench.trips,
    "storage": Bench.storage,
    "single": Bench.single,
    "clients": Bench.clients,
    "flush": Bench.flush,
    "bulk": Bench.bulk,
    "after-single": Bench.after_single,
    "reads": Bench.reads,
    "pages": Bench.pages,
}
"""What can be measured, in the order in which it is."""


@contextmanager
def running(
    contestants: Sequence[Contestant], log: IO[str]
) -> Iterator[tuple[Path, Any, list[Contender]]]:
    """Start the server and a process for each contestant, with its tables.

    :param log: where the processes write what they have to say.
    """
    directory = Path(tempfile.mkdtemp(prefix="audit-bench-"))
    with ExitStack() as stack:
        url = sa.make_url(demo.server.start(directory, SETTINGS))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        stack.callback(demo.server.delete, directory)
        stack.callback(demo.server.stop, directory)
        server = Server(url, "bench")
        contenders = []
        for contestant in contestants:
            database = "bench_" + contestant.name.replace("-", "_")
            server.execute(f"CREATE DATABASE {database}")
            contenders.append(_started(contestant, server.url_of(database), log, stack))
        yield Path(str(url.query["host"])), account_for(directory / "postgres"), contenders


def _started(contestant: Contestant, url: str, log: IO[str], stack: ExitStack) -> Contender:
    process = subprocess.Popen(  # noqa: S603 - ourselves
        [sys.executable, "-m", "benchmarks.workers", contestant.name, url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        bufsize=1,
    )
    stack.callback(_end, process)
    contender = Contender(contestant, url, process)
    contender.ask("create")
    return contender


def _end(process: subprocess.Popen[str]) -> None:
    try:
        process.communicate(timeout=5)  # its orders end, and so does it
    except (BrokenPipeError, subprocess.TimeoutExpired):
        process.kill()
        process.wait()


def chosen(names: Sequence[str]) -> list[Contestant]:
    """Return the contestants of these names, and whom their figures are divided by."""
    wanted = set(names) | {"floor"}
    wanted |= {BY_NAME[name].bare or name for name in wanted}
    return [contestant for contestant in ALL if contestant.name in wanted]


def facts(contenders: Sequence[Contender], command: str) -> dict[str, Any]:
    """Return what the figures depend on: the machine, the versions, the settings."""
    versions = {}
    for contender in contenders:
        name = contender.contestant.distribution
        if name is not None:
            versions[name] = metadata.version(name)
    for name in ("Flask", "SQLAlchemy", "psycopg2-binary", "Django", "psycopg"):
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    engine = sa.create_engine(contenders[0].url)
    with engine.connect() as connection:
        server = str(connection.scalar(sa.text("SHOW server_version")))
    engine.dispose()
    return {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "command": command,
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "memory": psutil.virtual_memory().total,
            "system": platform.platform(),
            "load": os.getloadavg()[0],
        },
        "versions": {"PostgreSQL": server, "Python": platform.python_version(), **versions},
        "settings": SETTINGS,
        "contestants": {
            c.contestant.name: {**asdict(c.contestant), "indexes": c.ask("indexes")}
            for c in contenders
        },
    }


def _processor() -> str:
    with suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def measure(
    options: Options, contestants: Sequence[Contestant], workloads: Sequence[str], command: str
) -> dict[str, Any]:
    """Run the workloads and return everything as one JSON document."""
    with (
        tempfile.TemporaryFile("w+") as log,
        running(contestants, log) as (host, account, contenders),
    ):
        bench = Bench(options, contenders, host, account, Progress(0))
        bench.progress.total = bench.steps(workloads)
        found = facts(contenders, command)
        if {"bulk", "after-single", "single", "clients"} & set(workloads):
            rows = max(*options.rows, _AFTER_SINGLE)
            for contender in contenders:
                contender.ask("prepare", rows=rows)
        failed = {}
        for name in workloads:
            try:
                WORKLOADS[name](bench)
            except (RuntimeError, ValueError, ServerError) as error:
                failed[name] = str(error)  # what the others took an hour to measure is not lost
            except KeyboardInterrupt:
                failed[name] = "it was interrupted."
                break
        bench.progress.end()
    return {**found, "options": asdict(options), "measured": bench.measured, "failed": failed}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="less of everything")
    parser.add_argument("--only", nargs="+", choices=list(WORKLOADS), metavar="WORKLOAD",
                        help=f"of {', '.join(WORKLOADS)}")  # fmt: skip
    parser.add_argument("--contestants", nargs="+", choices=list(BY_NAME), metavar="NAME",
                        help=f"of {', '.join(BY_NAME)}")  # fmt: skip
    parser.add_argument("--rounds", type=int, help="how often each workload is measured")
    parser.add_argument("--rows", type=int, nargs="+", help="of the bulk writes")
    parser.add_argument("--activities", type=int, help="in the trail that is read")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured")
    parser.add_argument("--docs", action="store_true", help="write docs/benchmarks.md and .svg")
    parser.add_argument("--render", type=Path, metavar="FILE",
                        help="measure nothing: show what --json wrote")  # fmt: skip
    return parser


def main() -> None:
    """Measure, and print the tables; write them where it is asked."""
    parser = _parser()
    given = parser.parse_args()
    base = QUICK if given.quick else Options()
    options = Options(
        rows=tuple(given.rows or base.rows),
        rounds=given.rounds or base.rounds,
        often=base.often,
        single=base.single,
        seconds=base.seconds,
        activities=given.activities or base.activities,
        reads=base.reads,
    )
    if min(*options.rows, options.rounds, options.activities) < 1:
        parser.error("rows, rounds and activities are more than zero")
    if given.render is not None:
        found = json.loads(given.render.read_text(encoding="utf-8"))
    else:
        workloads = [name for name in WORKLOADS if given.only is None or name in given.only]
        command = shlex.join(["python", "-m", "benchmarks.bench", *sys.argv[1:]])
        found = measure(options, chosen(given.contestants or list(BY_NAME)), workloads, command)
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if given.docs and not found["failed"]:
        report.write(found, _DOCS)
    print(report.markdown(found))
    for name, error in found["failed"].items():
        print(f"{name} was not measured: {error}", file=sys.stderr)
    if found["failed"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
