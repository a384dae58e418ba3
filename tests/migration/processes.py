"""Runs Python commands in processes of their own that need not import the large packages again.

Importing Flask, SQLAlchemy, Alembic and Flask-Admin takes longer than most commands do: one process
imports them and forks for each command; what the project under test is, each fork reads anew.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

# Flask-Migrate's own env.py calls what Flask-SQLAlchemy has deprecated.
WARNINGS = ("-W", "error", "-W", "ignore:'get_engine' is deprecated")


class Processes:
    """A process that forks for each command."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-B", *WARNINGS, "-m", __name__],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, arguments: list[str], directory: Path) -> tuple[int, str]:
        """Run ``python …`` in a directory, which is on the path as well.

        :param arguments: ``-m`` and a module with its arguments, or ``-c`` and code.
        :return: the exit code, and the output with the errors after it.
        """
        with tempfile.TemporaryDirectory() as name:
            files = [str(Path(name) / stream) for stream in ("output", "errors")]
            job = {"arguments": arguments, "directory": str(directory), "files": files}
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
            code = int(self._process.stdout.readline())
            return code, "".join(Path(file).read_text() for file in files)

    def close(self) -> None:
        self._process.communicate()


@functools.cache
def processes() -> Processes:
    """The process of this run of the tests; it ends with it."""
    made = Processes()
    atexit.register(made.close)
    return made


def main() -> None:
    """Fork for each line of standard input, and print the exit code of each."""
    # In the order of a project's module: Alembic is there before audit_app.
    import sqlalchemy.dialects.postgresql.psycopg2  # noqa: F401

    import audit_app  # noqa: F401

    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if not child:
            become(job)
            return
        _child, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def become(job: dict[str, Any]) -> None:
    """Do in this process what ``python …`` would."""
    import runpy

    for number, name in enumerate((os.devnull, *job["files"])):
        file = os.open(name, os.O_RDWR | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    os.chdir(job["directory"])
    sys.path.insert(0, job["directory"])
    kind, what, *rest = job["arguments"]
    sys.argv = [what if kind == "-m" else "-c", *rest]
    if kind == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    main()
