"""What a client sends for one transaction, sent again by pgbench: the server's part alone.

With several clients at once, Python's own work on a small machine would be most of what is
measured. So the messages of each package are taken from the wire and sent by pgbench, message by
message, with another record and other values each time.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from demo.programs import Account, run

KEY = 4242
"""The id of the record in recorded messages."""

VALUE = 434343
"""The value written in recorded messages."""

_UUID = re.compile(r"'[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}'")


def as_script(messages: Sequence[str], rows: int) -> str:
    """Return pgbench's script for the messages of a transaction.

    :param rows: ids from 1 to this one are updated.
    :raises ValueError: if no message names :data:`KEY` and :data:`VALUE`.
    """
    lines = [rf"\set key random(1, {rows})", r"\set value random(1, 1000000000)"]
    for message in messages:
        text = re.sub(rf"\b{KEY}\b", ":key", message.strip().rstrip(";"))
        text = re.sub(rf"\b{VALUE}\b", ":value", text)
        # One that is given out anew by each context.
        text = _UUID.sub("gen_random_uuid()::text", text)
        text = " ".join(text.split("\n"))
        # What came as one message goes as one message.
        lines.append(re.sub(r";\s+", r"\\; ", text) + ";")
    script = "\n".join(lines) + "\n"
    if ":key" not in script or ":value" not in script:
        raise ValueError(f"These messages update no record that is known: {messages}")
    return script


def transactions_per_second(
    script: str, *, host: str, database: str, clients: int, seconds: int, account: Account
) -> float:
    """Run a script by pgbench, and return how many transactions it made in a second.

    :raises demo.errors.ServerError: if pgbench fails.
    :raises RuntimeError: if some of its transactions failed.
    """
    with tempfile.TemporaryDirectory(prefix="audit-bench-") as directory:
        Path(directory).chmod(0o755)
        path = Path(directory) / "script.sql"
        path.write_text(script, encoding="utf-8")
        path.chmod(0o644)
        threads = str(min(clients, 2))
        arguments = ["-n", "-M", "simple", "-c", str(clients), "-j", threads, "-T", str(seconds)]
        arguments += ["-f", str(path), "-h", host, "-U", "postgres", database]
        output = run("pgbench", arguments, account)
    found = re.search(r"^tps = ([0-9.]+)", output, re.MULTILINE)
    if found is None or "ERROR" in output:
        raise RuntimeError(f"pgbench did not finish: {output}")
    return float(found[1])
