"""What is tracked: the state of each table, and what is wrong with the installation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import sqlalchemy as sa

from audit_app import history, install
from audit_app.admin import pages
from audit_app.admin.access import Access
from audit_app.admin.i18n import gettext as _
from audit_app.admin.i18n import ngettext, number_text
from audit_app.admin.reading import Logger, reading
from audit_app.errors import NotInstalledError
from audit_app.status import SCAN, Status, TableStatus, status

if TYPE_CHECKING:
    from sqlalchemy import orm

    from audit_app.admin.forms import Filtering
    from audit_app.admin.links import Links
    from audit_app.checks import Finding

_CANNOT = {"42501": "privilege", "57014": "time", "42883": "version", "42703": "version"}


@dataclass(frozen=True)
class TrackedTable:
    """A table in the list.

    :ivar label: what the application calls it; may be empty.
    :ivar url: its changes; empty where the filters do not know the table.
    :ivar tone: ``good``, ``bad`` or ``plain``, for the colour beside the word.
    :ivar last_url: the page of its last change.
    """

    title: str
    label: str
    url: str
    state: str
    tone: str
    details: tuple[str, ...]
    rows: str
    size: str
    last: pages.Moment | None
    last_url: str


@dataclass(frozen=True)
class TablesPage:
    """What the page shows.

    :ivar findings: what the check found, errors first.
    :ivar verdict: the result of the check in a sentence.
    :ivar notice: why the check could not be made; empty if it was.
    :ivar facts: the trail as a whole, as titles and texts.
    """

    tables: tuple[TrackedTable, ...]
    findings: tuple[Finding, ...]
    verdict: str
    notice: str
    facts: tuple[tuple[str, str], ...]
    scan: str
    zone: str


@dataclass(frozen=True)
class TablesRead:
    """What was read: the state of the trail, and what the visitor may see of it.

    :ivar findings: what the check found, errors first.
    :ivar notice: why the check could not be made; empty if it was.
    :ivar is_limited: whether there may be tables that the visitor may not see.
    """

    state: Status
    tables: tuple[TableStatus, ...]
    findings: tuple[Finding, ...]
    notice: str
    is_limited: bool = False


def tables_page(
    read: TablesRead,
    links: Links,
    found: Filtering,
    url: Callable[[str, str], str],
    label: Callable[[str, str], str],
) -> TablesPage:
    """Return what the page shows.

    :param url: the address of a table's changes, from its schema and name.
    :param label: what the application calls a table, from the same.
    """
    findings = read.findings
    wrong = {finding.table for finding in findings if finding.severity == "error"}
    return TablesPage(
        tables=tuple(
            _table(table, wrong, links, found, url=url, label=label) for table in read.tables
        ),
        findings=findings,
        verdict="" if read.notice else _verdict(findings, is_limited=read.is_limited),
        notice=read.notice,
        facts=() if read.is_limited else _facts(read.state),
        scan=number_text(SCAN),
        zone=found.zone_name,
    )


def read_tables(logger: Logger) -> TablesRead:
    """Read what is tracked, in a number of queries that does not depend on the number of tables.

    :raises NotInstalledError: if the trail is not installed.
    """
    with reading(logger, search_path=True) as session:
        connection = session.connection()
        state = status(connection, logger.trail, logger.audited_tables())
        if not state.is_installed:
            raise install.not_installed(logger.schema_name)
        findings, notice = _findings(logger, connection)
    found = tuple(sorted(findings, key=lambda finding: finding.severity))
    if not Access(logger, logger.current_actor()).is_limited:
        return TablesRead(state, state.tables, found, notice)
    with reading(logger) as session:
        tables = _limited(Access.of(logger, session), session, state.tables)
    if logger.can_view_table is None:
        return TablesRead(state, tables, found, notice)
    # What is said of the trail as a whole counts and names what must not be seen.
    names = {name for table in tables for name in (table.name, table.relation)}
    findings = tuple(finding for finding in found if finding.table in names)
    return TablesRead(state, tables, findings, notice, is_limited=True)


def _limited(
    access: Access, session: orm.Session, tables: Sequence[TableStatus]
) -> tuple[TableStatus, ...]:
    """The tables that may be seen, with the last change where that may be seen."""
    logger = access.logger
    declared = {table.regclass: table for table in logger.audited_tables()}

    def is_seen(table: TableStatus) -> bool:
        if table.schema_name is not None and table.table_name is not None:
            return access.sees_table(table.schema_name, table.table_name)
        own = declared.get(table.name)  # it does not exist: only the application knows it
        return own is not None and access.sees_table(own.schema, own.name)

    shown = tuple(table for table in tables if is_seen(table))
    if not access.by_row:
        return shown
    ids = [table.last_activity_id for table in shown if table.last_activity_id is not None]
    query = history.activities_by_id(logger.activity_cls, logger.transaction_cls, ids)
    allowed = {row.id for row in access.only(session, session.execute(query).all())}
    return tuple(
        table
        if table.last_activity_id in allowed
        else replace(table, last_change=None, last_activity_id=None)
        for table in shown
    )


def _findings(logger: Logger, connection: sa.Connection) -> tuple[tuple[Finding, ...], str]:
    """The check calls functions that an application's role may not have been granted."""
    savepoint = connection.begin_nested()
    try:
        return logger.check(connection), ""
    except sa.exc.DBAPIError as error:
        reason = _CANNOT.get(install.sqlstate(error) or "")
    except NotInstalledError:
        reason = "version"
    finally:
        if savepoint.is_active:
            savepoint.rollback()
    texts = {
        "privilege": _(
            "The application's database role may read the trail, and not check it in full: the "
            "states below come from the catalog alone. As the owner of the trail, run"
        ),
        "time": _("The full check took too long and was stopped. On the server, run"),
        "version": _("The functions of the trail are of another version. On the server, run"),
    }
    if reason is None:
        raise install.not_installed(logger.schema_name)
    return (), texts[reason]


def _verdict(findings: tuple[Finding, ...], *, is_limited: bool) -> str:
    errors = sum(finding.severity == "error" for finding in findings)
    warnings = len(findings) - errors
    parts = []
    if errors:
        parts.append(ngettext("%(num)s error", "%(num)s errors", errors))
    if warnings:
        parts.append(ngettext("%(num)s warning", "%(num)s warnings", warnings))
    if is_limited and not parts:
        return _("The tables that you may see are as they should be.")
    return ", ".join(parts) or _("Everything is as it should be.")


def _table(
    table: TableStatus,
    wrong: set[str],
    links: Links,
    found: Filtering,
    *,
    url: Callable[[str, str], str],
    label: Callable[[str, str], str],
) -> TrackedTable:
    states = {
        "tracked": (_("Tracked"), "good"),
        "partly": (_("Incomplete"), "bad"),
        "untracked": (_("Not tracked"), "bad"),
        "missing": (_("Does not exist"), "bad"),
        "orphan": (_("Not declared"), "plain"),
    }
    state, tone = states[table.state]
    if tone == "good" and table.relation in wrong:
        state, tone = _("Needs attention"), "bad"
    schema, name = table.schema_name or "", table.table_name or table.name
    moment = pages.moment_of(table.last_change, found.zone) if table.last_change else None
    return TrackedTable(
        title=name if schema in {"", "public"} else f"{schema}.{name}",
        label=label(schema, name),
        url=url(schema, name),
        state=state,
        tone=tone,
        details=_details(table),
        rows=_about(table.rows_estimate),
        size=pages.size_text(table.bytes),
        last=moment,
        last_url=links.activity(table.last_activity_id) if table.last_activity_id else "",
    )


def _about(number: int | None) -> str:
    return "" if number is None else _("about %(num)s", num=number_text(number))


def _details(table: TableStatus) -> tuple[str, ...]:
    """What is recorded of the table otherwise than usually."""
    found = []
    if table.partitions:
        found.append(ngettext("%(num)s partition", "%(num)s partitions", table.partitions))
    words = {
        "exclude": _("without"), "include": _("only"), "mask": _("masked"), "on": _("on"),
    }  # fmt: skip
    for option, word in words.items():
        value = table.options.get(option)
        if isinstance(value, list) and value:
            found.append(f"{word} {', '.join(map(str, value))}")
    if table.options.get("when"):
        found.append(_("when %(condition)s", condition=pages.cut(str(table.options["when"]))))
    if table.options.get("level") == "row":
        found.append(_("row by row"))
    return tuple(found)


def _facts(state: Status) -> tuple[tuple[str, str], ...]:
    version = _("this version") if state.is_current else _("another version than the application")
    return (
        (_("Schema"), state.schema_name),
        (_("Owner"), state.owner or ""),
        (_("Changes on record"), _about(state.activities_estimate) or _("not known yet")),
        (_("Size of the trail"), pages.size_text(state.bytes)),
        (_("Functions"), version),
    )
