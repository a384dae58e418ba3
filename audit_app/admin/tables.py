"""What is tracked: the state of each table, and what is wrong with the installation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from audit_app import install
from audit_app.admin import pages
from audit_app.admin.i18n import gettext as _
from audit_app.admin.i18n import ngettext
from audit_app.admin.reading import Logger, reading
from audit_app.errors import NotInstalledError
from audit_app.status import SCAN, Status, TableStatus, status

if TYPE_CHECKING:
    from audit_app.admin.forms import Filtering
    from audit_app.admin.links import Links
    from audit_app.checks import Finding

_CANNOT = {"42501": "privilege", "57014": "time", "42883": "version", "42703": "version"}


@dataclass(frozen=True)
class TrackedTable:
    """A table in the list.

    :ivar url: its changes; empty where the filters do not know the table.
    :ivar tone: ``good``, ``bad`` or ``plain``, for the colour beside the word.
    :ivar last_url: the page of its last change.
    """

    title: str
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


def tables_page(
    logger: Logger, links: Links, found: Filtering, url: Callable[[str, str], str]
) -> TablesPage:
    """Read the page, in a number of queries that does not depend on the number of tables.

    :param url: the address of a table's changes, from its schema and name.
    :raises NotInstalledError: if the trail is not installed.
    """
    with reading(logger, search_path=True) as session:
        connection = session.connection()
        state = status(connection, logger.trail, logger.audited_tables())
        if not state.is_installed:
            raise install.not_installed(logger.schema_name)
        findings, notice = _findings(logger, connection)
    wrong = {finding.table for finding in findings if finding.severity == "error"}
    return TablesPage(
        tables=tuple(_table(table, wrong, links, found, url) for table in state.tables),
        findings=tuple(sorted(findings, key=lambda finding: finding.severity)),
        verdict="" if notice else _verdict(findings),
        notice=notice,
        facts=_facts(state),
        scan=f"{SCAN:,}",
        zone=found.zone_name,
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


def _verdict(findings: tuple[Finding, ...]) -> str:
    errors = sum(finding.severity == "error" for finding in findings)
    warnings = len(findings) - errors
    parts = []
    if errors:
        parts.append(ngettext("%(num)s error", "%(num)s errors", errors))
    if warnings:
        parts.append(ngettext("%(num)s warning", "%(num)s warnings", warnings))
    return ", ".join(parts) or _("Everything is as it should be.")


def _table(
    table: TableStatus,
    wrong: set[str],
    links: Links,
    found: Filtering,
    url: Callable[[str, str], str],
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
    return "" if number is None else _("about %(num)s", num=f"{number:,}")


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
