"""``python -m benchmarks.workers NAME URL``: orders on standard input, answers on standard output.

An order is a line of JSON, ``{"do": "bulk", "verb": "update", "rows": 100, "warm": true}``; its
answer is ``{"is": <value>}`` or ``{"error": "…"}``.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import traceback
from typing import IO, Any

from benchmarks.contestants import BY_NAME


def serve(worker: Any, orders: IO[str], answers: IO[str]) -> None:
    """Carry out orders until there are no more."""
    for line in orders:
        order = json.loads(line)
        try:
            answer = {"is": worker.orders[order.pop("do")](**order)}
        except Exception:  # noqa: BLE001 - whatever it is, the other side has to hear of it
            answer = {"error": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def main() -> None:
    """Become the contestant of the first argument."""
    _, name, url = sys.argv
    # Ctrl-C is for the one who gives the orders; their end is the end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Whatever a package prints must not come between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    side = importlib.import_module(f"benchmarks.workers.{BY_NAME[name].side}_side")
    serve(side.WORKERS[name](url), sys.stdin, answers)


if __name__ == "__main__":
    main()
