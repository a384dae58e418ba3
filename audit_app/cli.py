"""``flask audit …``: the commands for operators."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click
from flask import current_app
from flask.cli import AppGroup, with_appcontext

from audit_app import importing
from audit_app.errors import AuditError, NotRegisteredError
from audit_app.install import install_online
from audit_app.roles import Roles
from audit_app.roles import grant as grant_roles

audit_cli = AppGroup("audit", help="The audit trail: its installation, its roles, its state.")


class _Refusal(click.ClickException):
    """Bad input or a state that does not allow the command: exit code 2."""

    exit_code = 2


def _logger() -> Any:
    found = current_app.extensions.get("audit_app")
    if found is None:
        raise NotRegisteredError
    return found


def _engine() -> Any:
    return _logger().session.get_bind(mapper=_logger().activity_cls.__mapper__)


def _clearly(command: Callable[..., None]) -> Callable[..., None]:
    """Turn an error of ours into a message and exit code 2."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except AuditError as error:
            raise _Refusal(str(error)) from error

    return run


@audit_cli.command()
@click.option("--role", "roles", multiple=True, help="An application's role: it loses all access.")
@click.option("--reader", "readers", multiple=True, help="A role that may read the trail.")
@click.option("--suspend", "suspenders", multiple=True, help="A role that may suspend the capture.")
@click.option("--owner", help="The role that gets the trail; made without login if missing.")
@with_appcontext
@_clearly
def grant(
    roles: Sequence[str], readers: Sequence[str], suspenders: Sequence[str], owner: str | None
) -> None:
    """Set up the database roles around the trail."""
    wanted = Roles(owner, roles, readers, suspenders)
    with _engine().begin() as connection:
        warnings = grant_roles(connection, _logger().schema_name, wanted)
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo("The roles are set up.")


@audit_cli.command()
@click.option("--lock-timeout", default=1000, show_default=True, help="Milliseconds.")
@click.option("--attempts", default=30, show_default=True, help="For each table.")
@with_appcontext
@_clearly
def install(lock_timeout: int, attempts: int) -> None:
    """Install the trail, or bring it up to date, on a database in use."""
    logger = _logger()
    install_online(
        _engine(),
        logger.trail,
        logger.audited_tables(),
        lock_timeout=lock_timeout,
        attempts=attempts,
        progress=click.echo,
    )


@audit_cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document for machines.")
@with_appcontext
@_clearly
def check(as_json: bool) -> None:  # noqa: FBT001 - click's way
    """Compare the installation with what it should be; exit 1 if something is wrong."""
    with _engine().connect() as connection:
        findings = _logger().check(connection)
    if as_json:
        click.echo(json.dumps([finding.as_dict() for finding in findings], indent=2))
    else:
        for finding in findings:
            click.echo(f"{finding.code}: {finding.table}: {finding.message}\n  {finding.remedy}")
        if not findings:
            click.echo("Everything is as it should be.")
    if findings:
        raise SystemExit(1)


@audit_cli.command("import-trail")
@click.option(
    "--from",
    "flavour",
    type=click.Choice(importing.FLAVOURS),
    required=True,
    help="The package that wrote the old trail.",
)
@click.option(
    "--source-schema", default="public", show_default=True, help="The schema of the old trail."
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=importing.BATCH,
    show_default=True,
    help="Rows of a database transaction.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document for machines.")
@with_appcontext
@_clearly
def import_trail(flavour: str, source_schema: str, batch_size: int, as_json: bool) -> None:  # noqa: FBT001
    """Take over the trail of another package; may be interrupted and run again."""
    logger = _logger()
    with _ProgressLine() as line:
        summary = importing.import_trail(
            _engine(),
            logger.trail,
            flavour,
            source_schema=source_schema,
            batch_size=batch_size,
            former_names=logger.former_names,
            progress=line.show,
        )
    if as_json:
        click.echo(json.dumps(summary.as_dict(), indent=2))
        return
    for count in summary.counts:
        click.echo(f"{count.schema_name}.{count.table_name} {count.verb}: {count.rows}")
    for table in summary.guessed:
        click.echo(f"warning: {table} has no primary key here any more: column id taken", err=True)
    for table in summary.recording:
        click.echo(f"warning: the old triggers still record {table}: drop them", err=True)
    total = sum(count.rows for count in summary.counts)
    added = summary.added["activity"]
    click.echo(f"{total} activities are here, as many as there; {added} came in this run.")


class _ProgressLine:
    """Progress on the error output: a bar on a terminal, a line for each batch in a log."""

    def __init__(self) -> None:
        self._relation = ""
        self._bar: Any = None

    def __enter__(self) -> _ProgressLine:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def show(self, progress: importing.Progress) -> None:
        if not sys.stderr.isatty():
            click.echo(
                f"{progress.relation}: {progress.done} of {progress.total}, {progress.added} added",
                err=True,
            )
            return
        if progress.relation != self._relation:
            self._close()
            self._relation = progress.relation
            self._bar = click.progressbar(
                length=progress.total, label=progress.relation, file=sys.stderr
            )
            self._bar.__enter__()
        self._bar.update(progress.done - self._bar.pos)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
            self._bar = None
