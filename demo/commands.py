"""The commands behind manage.py: ``demo`` and Flask-Migrate's ``db``."""

from __future__ import annotations

import errno
import functools
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar

import click
import flask_migrate
import sqlalchemy as sa
from alembic.script import ScriptDirectory
from flask.cli import FlaskGroup
from werkzeug.serving import make_server

from demo import app as factory
from demo import server
from demo.catalogue import COLUMNS, EDITORS
from demo.errors import AddressError, DatabaseError, DemoError
from demo.load import load
from demo.models import db
from demo.replay import replay

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Flask

P = ParamSpec("P")
R = TypeVar("R")

ROOT = Path(__file__).resolve().parent.parent
DIRECTORY = ROOT / ".demo"
"""Where the demo keeps its database and its secret key."""

MIGRATIONS = ROOT / "migrations"


def create_app() -> Flask:
    """Start or attach to the database and create the application, for the commands of ``flask``.

    The server is stopped when the process ends, unless another demo uses it.

    :raises ServerError: if there is no database to be had.
    """
    return factory.create_app(
        server.start(DIRECTORY), secret_key=factory.stored_secret_key(DIRECTORY)
    )


def prepare(app: Flask, say: Callable[[str], object] = print) -> None:
    """Run the migrations, load the data where there are none, replay what was not replayed yet.

    :raises DatabaseError: if the database cannot be reached.
    """
    with app.app_context():
        check_database()
        flask_migrate.upgrade(directory=str(MIGRATIONS), x_arg=["quiet=yes"])
        load(say)
        replay(say)
        db.session.remove()


def reset(app: Flask) -> None:
    """Drop the demo's tables and the whole trail from a database that is not ours to delete.

    :raises DatabaseError: if the database cannot be reached.
    """
    with app.app_context():
        check_database()
        if sa.inspect(db.engine).has_table("alembic_version"):
            flask_migrate.downgrade(directory=str(MIGRATIONS), revision="base", x_arg=["quiet=yes"])
            with db.engine.begin() as connection:
                connection.execute(sa.text("DROP TABLE IF EXISTS alembic_version"))
        db.session.remove()


def check_database() -> None:
    """Fail early and readably where the database does not answer or is somebody else's.

    :raises DatabaseError: with what the driver says, or what was found.
    """
    url = db.engine.url.render_as_string(hide_password=True)
    try:
        with db.engine.connect() as connection:
            present = set(sa.inspect(connection).get_table_names())
            revisions: set[str] = set()
            if "alembic_version" in present:
                version = sa.table("alembic_version", sa.column("version_num"))
                revisions = set(connection.scalars(sa.select(version.c.version_num)))
    except sa.exc.OperationalError as error:
        raise DatabaseError(f"No database answers at {url}\n{str(error.orig).strip()}") from error
    ours = {script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions()}
    tables = present & set(COLUMNS)
    if revisions - ours or (tables and not revisions):
        found = ", ".join(sorted(tables) or sorted(revisions))
        raise DatabaseError(
            f"The database at {url} is in use by something else ({found}): name an empty one."
        )


def check_address(host: str, port: int) -> None:
    """Fail before the work where the web server could not listen afterwards.

    :raises AddressError: if the address is in use or is not this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise AddressError(
                f"Port {port} is in use: stop what listens there, or choose another with --port."
            ) from error
        raise AddressError(f"Cannot listen on {host}, port {port}: {error.strerror}.") from error


def serve(app: Flask, host: str, port: int) -> None:
    """Serve until Ctrl-C."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    web = make_server(host, port, app, threaded=True)
    web.serve_forever()  # returns after KeyboardInterrupt, with the socket closed
    click.echo("\nStopping.")


def treat_signals_as_ctrl_c() -> None:
    """Stop cleanly, the database too, on SIGTERM and when the terminal goes away."""

    def leave(_number: int, _frame: object) -> NoReturn:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)


def in_one_line(command: Callable[P, R]) -> Callable[P, R]:
    """Turn the demo's own errors into a message on standard error and exit code 2."""

    @functools.wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except DemoError as error:
            click.echo(f"Error: {error}", err=True)
            sys.exit(2)

    return guarded


@click.group(
    cls=FlaskGroup,
    create_app=in_one_line(create_app),
    add_default_commands=False,
    add_version_option=False,
    load_dotenv=False,
    help="The demo application of audit_app and its database.",
)
def cli() -> None:
    """Group the commands; FlaskGroup adds ``db`` and ``audit`` from the installed packages."""


@cli.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", default=5000, show_default=True, type=click.IntRange(1, 65535))
@click.option("--reset", "fresh", is_flag=True, help="Start anew: drop all data and the trail.")
@click.option("--no-serve", is_flag=True, help="Prepare the database and stop.")
@in_one_line
def demo(host: str, port: int, *, fresh: bool, no_serve: bool) -> None:
    """Prepare the demo's database and serve the demo."""
    treat_signals_as_ctrl_c()
    if not no_serve:
        check_address(host, port)
    own_server = not os.environ.get("AUDIT_DATABASE_URL")
    if fresh and own_server:
        server.delete(DIRECTORY)
    click.echo("Starting PostgreSQL ..." if own_server else "Connecting to AUDIT_DATABASE_URL ...")
    try:
        app = create_app()
        if fresh and not own_server:
            reset(app)
        prepare(app, click.echo)
        if no_serve:
            click.echo("The demo's database is ready.")
            return
        click.echo(welcome(host, port))
        serve(app, host, port)
    finally:
        server.stop(DIRECTORY)


def welcome(host: str, port: int) -> str:
    """Return what the command prints once it serves."""
    name = "127.0.0.1" if host in ("", "0.0.0.0", "::") else host  # noqa: S104
    address = f"http://{f'[{name}]' if ':' in name else name}:{port}"
    people = "\n".join(
        f"      {editor.username:<6}  {editor.password:<11}  {editor.name}" for editor in EDITORS
    )
    return f"""
  The desk     {address}/
  Audit trail  {address}/audit/
  Back office  {address}/admin/

  Sign in as (name, password):
{people}

  Try: sign in, change a country in the back office, press the clock on its row.
  Stop with Ctrl-C; the data stay. Start anew with: make demo ARGS=--reset
"""


def main(**options: Any) -> None:
    """Run the command line."""
    cli.main(prog_name="manage.py", **options)
