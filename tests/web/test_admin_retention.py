"""What the pages say of history that was pruned, held and brought back."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from audit_app.errors import ConfigurationError, UnknownVersionError
from tests.web.conftest import MakeSite
from tests.web.site import Site

YEAR = timedelta(days=365)
RECORD = "/audit/records/public/article/0"


@pytest.fixture
def old(make_site: MakeSite) -> Site:
    """An article that was changed once a year, for ten years."""
    site = make_site(AUDIT_RETENTION={"default": "7 years"})
    now = datetime.now(UTC)
    moments = [(now - age * YEAR - timedelta(days=9)).isoformat() for age in range(10, 0, -1)]
    site.add_transactions(*moments)
    return site


def run(site: Site, *arguments: str, code: int = 0) -> str:
    result = site.app.test_cli_runner().invoke(args=["audit", *arguments])
    assert result.exit_code == code, result.output
    return result.stdout


def test_a_story_says_that_its_beginning_was_removed(old: Site, tmp_path: Path) -> None:
    assert "removed by the retention policy" not in old.get(RECORD).words
    preview = json.loads(run(old, "prune", "--dry-run", "--json"))
    assert [(t["table"], t["verb"], t["rows"]) for t in preview["tables"]] == [
        ("article", "update", 4)
    ]
    assert "public.article" in run(old, "prune", "--dry-run")
    done = json.loads(run(old, "prune", "--archive", str(tmp_path), "--json"))
    assert done["rows"] == 4

    page = old.get(RECORD)
    horizon = datetime.now(UTC).year - 7
    assert re.search(
        rf"Changes before \d+ \w+ {horizon}, .* were removed by the retention", page.words
    )
    assert "Nothing before this is on record" not in page.words
    # A record that began after that has all of its story.
    old.write("INSERT INTO article (id, title) VALUES (5, 'new')")
    assert "Nothing before this is on record" in old.get("/audit/records/public/article/5").words
    first = old.scalar("SELECT min(id) FROM audit.activity WHERE object_id = '0'")
    assert "removed by the retention policy" in old.get(f"/audit/versions/{first}").words
    assert "removed by the retention policy" in old.get(_at(old, horizon - 1)).words

    feed = old.get("/audit/").words
    assert "Pruned" in feed
    assert "article · changes before" in feed
    assert "article · 4 changes · archived in audit-" in feed

    # With the archive, everything is as it was.
    assert "4 rows in 1 files" in run(old, "archive", "verify", done["archive"])
    assert "4 of them came now" in run(old, "restore-archive", done["archive"])
    page = old.get(RECORD)
    assert "Nothing before this is on record" in page.words
    assert "Restored from archive" in old.get("/audit/").words
    assert "removed by" not in old.get(_at(old, horizon - 1)).words


def _at(site: Site, year: int) -> str:
    return f"{RECORD}?at={year}-01-01"


def test_the_past_before_the_horizon_is_unknown(old: Site) -> None:
    old.write("INSERT INTO article (id, title) VALUES (0, 'b')")
    at = datetime.now(UTC) - 8 * YEAR
    logger: Any = old.logger

    def version(age: float) -> Any:
        with old.app.app_context():
            return logger.version_at(old.Article, 0, when=datetime.now(UTC) - age * YEAR)

    def as_of(age: float) -> int:
        return int(
            old.scalar(
                "SELECT count(*) FROM audit.as_of(NULL\\:\\:article, :at)",
                at=datetime.now(UTC) - age * YEAR,
            )
        )

    assert version(8) == {"title": "b"}
    assert as_of(8) == 1
    # What a hold keeps tells nothing of the time between.
    run(old, "hold", "add", "--to", (at - YEAR).date().isoformat(), "--reason", "a suit")
    run(old, "prune")
    assert old.scalar("SELECT count(*) FROM audit.activity WHERE object_id = '0'") in {8, 9}
    for age in (8, 7.5, 20):
        with pytest.raises(UnknownVersionError, match="removed by the retention policy"):
            version(age)
        assert as_of(age) == 0
    # After the horizon, what the next change replaced is what there was.
    assert version(6.9) == {"title": "b"} or version(6.9) == {"title": "a"}
    assert as_of(6.9) == 1
    assert version(0.001) == {"title": "b"}
    assert old.scalar("SELECT audit.known_since(NULL\\:\\:article)") > at


def test_what_a_hold_keeps_does_not_tell_what_was_later(make_site: MakeSite) -> None:
    site = make_site(AUDIT_RETENTION={"default": "7 years"})
    for age, actor, title, former in ((9, "1", "held", "a"), (8, "2", "lost", "held"),
                                      (1, "2", "z", "lost")):  # fmt: skip
        site.add_transactions((datetime.now(UTC) - age * YEAR).isoformat(), actor=actor, rows=0)
        site.rewrite(
            "INSERT INTO audit.activity (transaction_id, native_transaction_id, issued_at, relid, "
            "depth, schema_name, table_name, verb, object_id, old_data, changed_data) SELECT t.id, "
            "'1', t.issued_at, 1, 1, 'public', 'article', 'update', '0', "
            f"jsonb_build_object('id', 0, 'title', '{former}'), "
            f"jsonb_build_object('title', '{title}') FROM audit.transaction t "
            "ORDER BY t.id DESC LIMIT 1"
        )
    site.write("INSERT INTO article (id, title) VALUES (0, 'z')")
    run(site, "hold", "add", "--actor", "1", "--reason", "a suit")
    run(site, "prune")
    at = datetime.now(UTC) - 5 * YEAR
    assert site.scalar("SELECT title FROM audit.as_of(NULL\\:\\:article, :at)", at=at) == "lost"
    one = "SELECT title FROM audit.version_of(NULL\\:\\:article, '0', :at)"
    assert site.scalar(one, at=at) == "lost"
    with site.app.app_context():
        logger: Any = site.logger
        assert logger.version_at(site.Article, 0, when=at)["title"] == "lost"


def test_holds_and_prunings_by_table(make_site: MakeSite) -> None:
    site = make_site(
        can_view_table=lambda actor, table: table.name != "slug",
        AUDIT_RETENTION={"default": "1 year"},
    )
    for table in ("article", "slug"):
        run(site, "hold", "add", "--table", table, "--record", "7", "--reason", f"about {table}")
    site.add_transactions("2019-01-01")
    site.rewrite("INSERT INTO audit.activity (transaction_id, native_transaction_id, issued_at, "
                 "relid, depth, schema_name, table_name, verb) VALUES "
                 "(1, '1', '2019-01-01', 1, 1, 'public', 'slug', 'delete')")  # fmt: skip
    run(site, "prune")
    feed = site.get("/audit/").words
    assert "slug" not in feed
    # A hold names a record and a reason: it is shown to those who may see everything.
    assert "about article" not in feed
    assert "article · changes before" in feed
    everything = make_site(create=False)
    feed = everything.get("/audit/").words
    assert "about slug" in feed
    assert "record 7" in feed
    assert "Held" in feed


def test_the_commands_say_what_is_wrong(make_site: MakeSite, tmp_path: Path) -> None:
    site = make_site()
    assert "AUDIT_RETENTION lets nothing go" in _error(site, "prune")
    assert "no archive in" in _error(site, "archive", "verify", str(tmp_path))
    assert "Say what to hold" in _error(site, "hold", "add", "--reason", "why")
    assert "there is no hold 1" in _error(site, "hold", "release", "1")
    assert "no size" in _error(site, "prune", "--wal-budget", "much")
    assert "write an amount" in _error(site, "grant", "--prune-floor", "long")
    assert run(site, "hold", "list") == "Nothing is held.\n"
    hold = json.loads(run(site, "hold", "add", "--table", "article", "--reason", "why", "--json"))
    assert "article" in run(site, "hold", "list")
    (found,) = json.loads(run(site, "hold", "list", "--json"))
    assert (found["id"], found["tables"]) == (hold["id"], ["public.article"])
    assert run(site, "hold", "release", str(hold["id"])) == f"Released: {hold['id']}\n"
    run(site, "grant", "--prune-floor", "1 day")
    assert "Retention floor set" in site.get("/audit/").words
    with pytest.raises(ConfigurationError, match="write an amount of days"):
        make_site(AUDIT_RETENTION={"default": "soon"}, create=False)


def _error(site: Site, *arguments: str) -> str:
    result = site.app.test_cli_runner().invoke(args=["audit", *arguments])
    assert result.exit_code == 2
    return str(result.stderr)
