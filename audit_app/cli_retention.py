"""``flask audit prune``, ``hold``, ``archive`` and ``restore-archive``."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import click
from flask import current_app
from flask.cli import AppGroup, with_appcontext

from audit_app import archive, holds, pruning, retention, unarchiving
from audit_app.cli import (
    aligned,
    attempts_option,
    chosen_engine,
    chosen_logger,
    clearly,
    json_option,
    lock_timeout_option,
    size_text,
)
from audit_app.commands import audit_cli
from audit_app.errors import ConfigurationError

_UNITS = {"": 1, "kb": 1024, "mb": 1024**2, "gb": 1024**3, "tb": 1024**4}


def _bytes(_: click.Context, __: click.Parameter, text: str | None) -> int | None:
    """Read ``1 GB``."""
    if text is None:
        return None
    found = re.fullmatch(r"([0-9]{1,9}) ?(kB|MB|GB|TB|)", text, re.IGNORECASE)
    if found is None or int(found[1]) < 1:
        raise click.BadParameter(f"{text!r} is no size: write 500 MB or 1 GB.")
    return int(found[1]) * _UNITS[found[2].lower()]


def _places() -> list[tuple[tuple[str, str], ...]]:
    return [table.place.names for table in chosen_logger().audited_tables()]


def _say(line: str) -> None:
    click.echo(line, err=True)


@audit_cli.command()
@click.option("--dry-run", is_flag=True, help="Show what would go, and change nothing.")
@click.option(
    "--archive",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Make an archive in this directory first.",
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(archive.KINDS),
    default="ndjson",
    show_default=True,
    help="Of the archive.",
)
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    default=pruning.BATCH,
    show_default=True,
    help="Rows that are looked at by one transaction.",
)
@click.option(
    "--wal-budget",
    callback=_bytes,
    metavar="SIZE",
    help="Stop when this much write-ahead log was written: 1 GB.",
)
@lock_timeout_option
@attempts_option
@click.option(
    "--pause",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Milliseconds between two batches.",
)
@json_option
@with_appcontext
@clearly
def prune(
    *, dry_run: bool, directory: Path | None, kind: str, batch: int, wal_budget: int | None,
    lock_timeout: int, attempts: int, pause: int, as_json: bool,
) -> None:  # fmt: skip
    """Delete what AUDIT_RETENTION has outlived and no hold keeps; may be interrupted, repeated."""
    policy = retention.parse(current_app.config.get("AUDIT_RETENTION"))
    options = pruning.Options(
        batch=batch, wal_budget=wal_budget, lock_timeout=lock_timeout, attempts=attempts,
        pause=pause, archive=directory, kind=kind,
    )  # fmt: skip
    engine, trail = chosen_engine(), chosen_logger().trail
    if dry_run:
        found = pruning.preview(engine, trail, policy, _places(), options)
        if as_json:
            click.echo(json.dumps(found.as_dict(), indent=2))
        else:
            for line in _preview_lines(found):
                click.echo(line)
        return
    done = pruning.prune(engine, trail, policy, _places(), options, progress=_say)
    if as_json:
        click.echo(json.dumps(done.as_dict(), indent=2))
        return
    click.echo(
        f"{done.rows} rows and {done.transactions} transactions pruned, {len(done.partitions)} "
        f"partitions dropped; {size_text(done.wal)} of write-ahead log."
    )
    if done.archive:
        click.echo(f"archive   {done.archive}")
    click.echo(f"run       {done.run}")
    click.echo(f"digest    {done.digest}")
    if not done.is_finished:
        click.echo("The WAL budget is used up: the next run goes on.")


def _preview_lines(found: pruning.Preview) -> list[str]:
    if not found.extents:
        return ["Nothing is older than the policy keeps it."]
    rows: list[Sequence[str]] = [("table", "verb", "rows", "held", "from", "to", "before")]
    rows += [
        (
            f"{e.schema}.{e.table}", e.verb, f"{e.rows:,}", f"{e.held:,}",
            *(m.date().isoformat() if m else "-" for m in (e.since, e.until)), e.before[:10],
        )
        for e in found.extents
    ]  # fmt: skip
    lines = aligned(rows)
    if found.partitions:
        lines.append(f"dropped as a whole: {', '.join(found.partitions)}")
    return [*lines, f"batches: {found.batches}"]


# -- Holds -------------------------------------------------------------------------------------

_hold_cli = AppGroup("hold", help="Legal holds: what no pruning may take.")
audit_cli.add_command(_hold_cli)


def _moment(_: click.Context, __: click.Parameter, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is no moment: write 2026-03-01 or 2026-03-01T12:00Z"
        ) from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


@_hold_cli.command("add")
@click.option("--table", help="Hold this table, by its present or a former name.")
@click.option("--record", help="Hold one record of it, by its key as the pages' addresses have it.")
@click.option("--actor", help="Hold what this actor did, by id.")
@click.option("--from", "since", callback=_moment, help="The first moment; in UTC without a zone.")
@click.option("--to", "until", callback=_moment, help="The first moment that is too late.")
@click.option("--reason", required=True, help="Why.")
@json_option
@with_appcontext
@clearly
def add_hold(
    *, table: str | None, record: str | None, actor: str | None, since: datetime | None,
    until: datetime | None, reason: str, as_json: bool,
) -> None:  # fmt: skip
    """Keep what fits from being pruned, until the hold is released."""
    id_ = holds.add(
        chosen_engine(),
        chosen_logger().trail,
        names=_names(table),
        record=record,
        actor=actor,
        since=since,
        until=until,
        reason=reason,
    )
    click.echo(json.dumps({"id": id_}) if as_json else f"Held: {id_}")


def _names(table: str | None) -> tuple[tuple[str, str], ...]:
    """All names of a table, tracked or not."""
    if table is None:
        return ()
    schema, point, name = table.partition(".")
    wanted = (schema, name) if point else ("public", table)
    for names in _places():
        if wanted in names:
            return names
    if not point:
        found = [names for names in _places() if any(n == table for _, n in names)]
        if len(found) == 1:
            return found[0]
    if not all(wanted):
        raise ConfigurationError(f"--table {table!r} is no table: write table or schema.table.")
    return (wanted,)


@_hold_cli.command("list")
@json_option
@with_appcontext
@clearly
def list_holds(*, as_json: bool) -> None:
    """Show what is held."""
    found = holds.holds(chosen_engine(), chosen_logger().trail)
    if as_json:
        click.echo(json.dumps([hold.as_dict() for hold in found], indent=2))
        return
    if not found:
        click.echo("Nothing is held.")
        return
    rows = [("id", "since", "what", "by", "reason")]
    rows += [
        (str(h.id), h.made_at.date().isoformat(), _what(h), h.by or h.role or "-", h.reason or "-")
        for h in found
    ]
    for line in aligned(rows):
        click.echo(line)


def _what(hold: holds.Hold) -> str:
    words = [
        "restored until " + (hold.ends_at or "")[:10] if hold.kind == "restore" else "",
        " ".join(hold.tables),
        f"record {hold.record}" if hold.record else "",
        f"actor {hold.actor}" if hold.actor else "",
        f"from {hold.since}" if hold.since else "",
        f"to {hold.until}" if hold.until else "",
    ]
    return ", ".join(filter(None, words))


@_hold_cli.command("release")
@click.argument("hold", type=int, metavar="ID")
@click.option("--reason", help="Why.")
@with_appcontext
@clearly
def release_hold(hold: int, reason: str | None) -> None:
    """End a hold; what it kept may be pruned again."""
    holds.release(chosen_engine(), chosen_logger().trail, hold, reason=reason)
    click.echo(f"Released: {hold}")


# -- Archives ----------------------------------------------------------------------------------

_archive_cli = AppGroup("archive", help="Archives of what was pruned.")
audit_cli.add_command(_archive_cli)

_directory_argument = click.argument(
    "directory", type=click.Path(file_okay=False, path_type=Path), metavar="DIR"
)


@_archive_cli.command("verify", with_appcontext=False)
@_directory_argument
@json_option
@clearly
def verify_archive(directory: Path, as_json: bool) -> None:  # noqa: FBT001
    """Read an archive whole, and compare it with its manifest; needs no database."""
    manifest = archive.verify(directory)
    if as_json:
        click.echo(json.dumps(manifest.as_dict(), indent=2))
        return
    click.echo(f"{manifest.rows} rows in {len(manifest.files)} files are as they were archived.")
    click.echo(f"run       {manifest.run}")
    click.echo(f"digest    {manifest.digest}")


@audit_cli.command("restore-archive")
@_directory_argument
@click.option("--keep", default="30 days", show_default=True, help="How long to leave it there.")
@json_option
@with_appcontext
@clearly
def restore_archive(directory: Path, keep: str, as_json: bool) -> None:  # noqa: FBT001
    """Bring the rows of an archive back into the trail, for a look."""
    amount = retention.check_amount("--keep", keep)
    done = unarchiving.restore(
        chosen_engine(), chosen_logger().trail, directory, keep=amount, progress=_say
    )
    if as_json:
        click.echo(json.dumps(done.as_dict(), indent=2))
        return
    click.echo(
        f"{done.rows} rows are there, {done.added} of them came now; they stay until "
        f"{done.keep_until:%Y-%m-%d}."
    )
    if not done.is_proved:
        click.echo(
            "warning: this trail has no record of their pruning with these digests", err=True
        )
