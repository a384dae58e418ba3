"""``flask audit …``: the commands for operators."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click
from flask import current_app
from flask.cli import with_appcontext

from audit_app import backfill as baseline
from audit_app import checks, importing, partitioning, retention
from audit_app.commands import BIND, audit_cli
from audit_app.errors import AuditError, NotRegisteredError, NotVersionedError
from audit_app.install import drop_trail as remove_trail
from audit_app.install import install_online, uninstall_online
from audit_app.models import PERIODS
from audit_app.roles import Roles, set_prune_floor
from audit_app.roles import grant as grant_roles
from audit_app.status import Status, TableStatus
from audit_app.status import status as read_status


class _Refusal(click.ClickException):
    """Bad input or a state that does not allow the command: exit code 2."""

    exit_code = 2


def chosen_logger() -> Any:
    """Return the AuditLogger of the application, or of the ``--bind``.

    :raises NotRegisteredError: if there is none.
    """
    bind = click.get_current_context().meta.get(BIND)
    if bind is None:
        found = current_app.extensions.get("audit_app")
    else:
        found = current_app.extensions.get("audit_app_binds", {}).get(bind)
    if found is None:
        says = f"No AuditLogger is registered for the bind {bind!r}: call its init_app(app)."
        raise NotRegisteredError(says if bind else None)
    return found


def chosen_engine() -> Any:
    """Return the engine of the trail of :func:`chosen_logger`."""
    logger = chosen_logger()
    return logger.session.get_bind(mapper=logger.activity_cls.__mapper__)


def clearly(command: Callable[..., None]) -> Callable[..., None]:
    """Turn an error of ours into a message and exit code 2."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except AuditError as error:
            raise _Refusal(str(error)) from error

    return run


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print a JSON document for machines."
)
lock_timeout_option = click.option(
    "--lock-timeout", type=click.IntRange(min=1), default=1000, show_default=True,
    help="Milliseconds to wait for a table.",
)  # fmt: skip
_partition_lock_option = click.option(
    "--lock-timeout", type=click.IntRange(min=1), default=partitioning.LOCK_TIMEOUT,
    show_default=True, help="Milliseconds to wait for a lock.",
)  # fmt: skip
attempts_option = click.option(
    "--attempts", type=click.IntRange(min=1), default=30, show_default=True, help="For each table."
)


@audit_cli.command()
@click.option("--role", "roles", multiple=True, help="An application's role: it loses all access.")
@click.option("--reader", "readers", multiple=True, help="A role that may read the trail.")
@click.option("--suspend", "suspenders", multiple=True, help="A role that may suspend the capture.")
@click.option("--export", "exporters", multiple=True, help="A role that may record exports.")
@click.option("--pruner", "pruners", multiple=True, help="A role that may prune the trail.")
@click.option("--holder", "holders", multiple=True, help="A role that may add and release holds.")
@click.option(
    "--prune-floor",
    "floor",
    metavar="AMOUNT",
    help="How old a row must be at least before it may be pruned.  [at first: 30 days]",
)
@click.option("--owner", help="The role that gets the trail; made without login if missing.")
@with_appcontext
@clearly
def grant(
    *,
    roles: Sequence[str],
    readers: Sequence[str],
    suspenders: Sequence[str],
    exporters: Sequence[str],
    pruners: Sequence[str],
    holders: Sequence[str],
    floor: str | None,
    owner: str | None,
) -> None:
    """Set up the database roles around the trail."""
    wanted = Roles(owner, roles, readers, suspenders, exporters, pruners, holders)
    amount = None if floor is None else retention.check_amount("--prune-floor", floor)
    with chosen_engine().begin() as connection:
        warnings = grant_roles(connection, chosen_logger().schema_name, wanted)
        if amount is not None:
            set_prune_floor(connection, chosen_logger().schema_name, amount)
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo("The roles are set up.")


@audit_cli.command()
@lock_timeout_option
@attempts_option
@with_appcontext
@clearly
def install(lock_timeout: int, attempts: int) -> None:
    """Install the trail, or bring it up to date, on a database in use."""
    logger = chosen_logger()
    install_online(
        chosen_engine(),
        logger.trail,
        logger.audited_tables(),
        lock_timeout=lock_timeout,
        attempts=attempts,
        progress=click.echo,
    )


@audit_cli.command()
@click.option("--fix", is_flag=True, help="Repair what needs no decision, and check again.")
@click.option("--strict", is_flag=True, help="Exit 1 for warnings, too.")
@click.option("--trust", multiple=True, help="A role that is a member of the owner on purpose.")
@lock_timeout_option
@attempts_option
@json_option
@with_appcontext
@clearly
def check(
    *,
    fix: bool,
    strict: bool,
    trust: Sequence[str],
    lock_timeout: int,
    attempts: int,
    as_json: bool,
) -> None:
    """Compare the installation with what it should be; exit 1 if something is wrong."""
    logger, engine = chosen_logger(), chosen_engine()
    done: list[str] = []
    if fix:
        checks.fix(
            engine, logger.trail, logger.audited_tables(), lock_timeout=lock_timeout,
            attempts=attempts, progress=done.append if as_json else click.echo,
        )  # fmt: skip
    trusted = {*current_app.config.get("AUDIT_TRUSTED_ROLES", ()), *trust}
    with engine.connect() as connection:
        findings = checks.check(connection, logger.trail, logger.audited_tables(), trusted=trusted)
    if as_json:
        found = [finding.as_dict() for finding in findings]
        click.echo(json.dumps({"done": done, "findings": found} if fix else found, indent=2))
    elif findings:
        rows = [(f.severity, f.code, f.table, f.message) for f in findings]
        for line, finding in zip(aligned(rows), findings, strict=True):
            click.echo(line)
            click.echo(f"{'':9}{finding.remedy}")
    else:
        click.echo("Everything is as it should be.")
    if checks.has_errors(findings) or (strict and findings):
        raise SystemExit(1)


@audit_cli.command()
@json_option
@with_appcontext
@clearly
def status(as_json: bool) -> None:  # noqa: FBT001
    """Show what is installed and tracked; exit 1 if the trail is not installed."""
    logger = chosen_logger()
    with chosen_engine().connect() as connection:
        found = read_status(connection, logger.trail, logger.audited_tables())
    if as_json:
        click.echo(json.dumps(found.as_dict(), indent=2))
    else:
        for line in _status_lines(found):
            click.echo(line)
    if not found.is_installed:
        raise SystemExit(1)


def _status_lines(found: Status) -> list[str]:
    if not found.is_installed:
        return [
            f"The trail is not installed in the schema {found.schema_name}: flask audit install"
        ]
    version = "this version" if found.is_current else "another version: flask audit install"
    lines = [
        f"schema    {found.schema_name}, of {found.owner}",
        f"version   {version} (sha256 {(found.installed_digest or 'unknown')[:12]})",
        f"trail     {_about(found.activities_estimate)} activities, {size_text(found.bytes)}",
        "",
    ]
    rows = [("table", "state", "rows", "size", "last change"), *map(_status_row, found.tables)]
    return lines + aligned(rows)


def _status_row(table: TableStatus) -> tuple[str, str, str, str, str]:
    moment = table.last_change.isoformat(sep=" ", timespec="seconds") if table.last_change else "-"
    return (table.name, table.state, _about(table.rows_estimate), size_text(table.bytes), moment)


def _about(number: int | None) -> str:
    return "-" if number is None else f"~{number:,}"


def size_text(number: int | None) -> str:
    """Return a number of bytes in its largest unit; a dash for None."""
    if number is None:
        return "-"
    size, units = float(number), ["B", "kB", "MB", "GB", "TB"]
    while size >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:.0f} {units[0]}" if units[0] in {"B", "kB"} else f"{size:.1f} {units[0]}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a line for each row, its columns below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


@audit_cli.command()
@click.argument("tables", nargs=-1, metavar="[TABLE]...")
@click.option("--drop-trail", is_flag=True, help="Drop the audit schema with all that it holds.")
@click.option("--confirm", metavar="SCHEMA", help="The schema's name, to confirm --drop-trail.")
@lock_timeout_option
@attempts_option
@with_appcontext
@clearly
def uninstall(
    *,
    tables: Sequence[str],
    drop_trail: bool,
    confirm: str | None,
    lock_timeout: int,
    attempts: int,
) -> None:
    """Stop to track all tables, or those that are named. What was recorded stays."""
    logger, engine = chosen_logger(), chosen_engine()
    if drop_trail:
        if tables:
            raise _Refusal("--drop-trail is about the whole trail: leave the tables out.")
        if confirm is None and sys.stdin.isatty():
            confirm = click.prompt(
                f"All history in the schema {logger.schema_name} will be lost. "
                "Type the schema's name to go on"
            )
        if confirm != logger.schema_name:
            raise _Refusal(
                f"Nothing was dropped. Confirm with --confirm {logger.schema_name}: all history "
                "that the schema holds will be lost."
            )
    elif confirm is not None:
        raise _Refusal("--confirm confirms --drop-trail, which is not given.")
    uninstall_online(
        engine, logger.trail, tables, lock_timeout=lock_timeout, attempts=attempts,
        progress=click.echo,
    )  # fmt: skip
    if drop_trail:
        remove_trail(engine, logger.trail)
        click.echo(f"The schema {logger.schema_name} is dropped, and its history is gone.")
    else:
        click.echo("What was recorded is still there.")


@audit_cli.command()
@with_appcontext
@clearly
def sql() -> None:
    """Print the script that installs everything, for psql or a migration; nothing is executed."""
    logger = chosen_logger()
    trail = logger.trail
    click.echo(f"{trail.schema_sql.strip()}\n{trail.install_sql.strip()}")
    for table in logger.audited_tables():
        click.echo(f"{table.create_sql};")


@audit_cli.command()
@click.argument("tables", nargs=-1, metavar="[TABLE]...")
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=baseline.BATCH, show_default=True,
    help="Rows of a database transaction.",
)  # fmt: skip
@json_option
@with_appcontext
@clearly
def backfill(tables: Sequence[str], batch_size: int, as_json: bool) -> None:  # noqa: FBT001
    """Record the rows that were there before tracking; may be interrupted and run again."""
    logger = chosen_logger()
    chosen = _declared(logger, tables)
    with _ProgressLine() as line:
        done = baseline.backfill(
            chosen_engine(), logger.trail, chosen, batch_size=batch_size, progress=line.show,
            log=lambda text: click.echo(text, err=True),
        )  # fmt: skip
    if as_json:
        click.echo(json.dumps([table.as_dict() for table in done], indent=2))
        return
    for table in done:
        click.echo(f"{table.table}: {table.rows} rows, {table.added} of them recorded now")


def _declared(logger: Any, names: Sequence[str]) -> list[Any]:
    """Return the declared tables of these names, or all of them."""
    declared = logger.audited_tables()
    if not names:
        return list(declared)
    known = {
        name: table
        for table in declared
        for name in (table.regclass, f"{table.schema}.{table.name}", table.name)
    }
    missing = [name for name in names if name not in known]
    if missing:
        choices = ", ".join(sorted(f"{table.schema}.{table.name}" for table in declared))
        raise NotVersionedError(f"{missing[0]!r} is not a tracked table: use one of {choices}.")
    return [known[name] for name in dict.fromkeys(names)]


@audit_cli.command()
@click.option(
    "--ahead",
    type=click.IntRange(min=1),
    default=partitioning.AHEAD,
    show_default=True,
    help="Partitions to make after the present one.",
)
@_partition_lock_option
@attempts_option
@json_option
@with_appcontext
@clearly
def maintain(*, ahead: int, lock_timeout: int, attempts: int, as_json: bool) -> None:
    """Make the partitions to come, and fill them from the default one; for cron, repeatable."""
    done = partitioning.maintain(
        chosen_engine(),
        chosen_logger().trail,
        ahead=ahead,
        lock_timeout=lock_timeout,
        attempts=attempts,
        progress=_quiet if as_json else click.echo,
    )
    if as_json:
        click.echo(json.dumps(done.as_dict(), indent=2))
    elif not (done.made or done.moved):
        click.echo("Nothing was to be done.")


@audit_cli.command()
@click.option("--by", "period", type=click.Choice(PERIODS), help="Default: what partition_by says.")
@click.option("--split", is_flag=True, help="Split the history that a conversion began with.")
@_partition_lock_option
@attempts_option
@json_option
@with_appcontext
@clearly
def partition(
    *, period: str | None, split: bool, lock_timeout: int, attempts: int, as_json: bool
) -> None:
    """Partition a trail in use, without copying it; may be interrupted and run again."""
    logger, engine = chosen_logger(), chosen_engine()
    options: dict[str, Any] = {
        "lock_timeout": lock_timeout,
        "attempts": attempts,
        "progress": _quiet if as_json else click.echo,
    }
    if split:
        if period is not None:
            raise _Refusal("--split is about a trail that is partitioned: leave --by out.")
        done = partitioning.split(engine, logger.trail, **options)
    else:
        period = period or logger.partition_by
        if period is None:
            raise _Refusal(f"Say by what: --by {' or --by '.join(PERIODS)}.")
        done = partitioning.convert(engine, logger.trail, period, **options)
    if as_json:
        click.echo(json.dumps(done.as_dict(), indent=2))
    elif split:
        click.echo("The history is split." if done.moved else "There is nothing to split.")
    else:
        click.echo(f"The trail is partitioned by {period}.")
        if logger.partition_by != period:
            click.echo(f"warning: write AuditLogger(partition_by={period!r}), too", err=True)


def _quiet(_line: str) -> None:
    """Progress of a command that prints a document."""


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
@clearly
def import_trail(flavour: str, source_schema: str, batch_size: int, as_json: bool) -> None:  # noqa: FBT001
    """Take over the trail of another package; may be interrupted and run again."""
    logger = chosen_logger()
    with _ProgressLine() as line:
        summary = importing.import_trail(
            chosen_engine(),
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

    def show(self, progress: importing.Progress | baseline.Progress) -> None:
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
