"""Exports: equal to what the filter shows, streamed, cut, defused, recorded."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa

from audit_app import selection
from audit_app.admin import exports
from tests.server import Server
from tests.web.conftest import MakeSite
from tests.web.site import Page, Site


def parsed(kind: str, text: str) -> list[dict[str, Any]]:
    """The rows of an export, with JSON values decoded; without what says that it was cut."""
    if kind == "csv":
        rows = list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"))))
        for row in rows:
            for name in ("old_data", "changed_data"):
                row[name] = decoded(row[name]) if row[name] else None
        return [row for row in rows if not row["id"].startswith("#")]
    if kind == "json":
        return list(decoded(text)["activities"])
    rows = [decoded(line) for line in text.splitlines()]
    return [row for row in rows if "id" in row]


def decoded(text: str) -> Any:
    return json.loads(text, parse_float=Decimal)


def get(site: Site, path: str, status: int = 200) -> Any:
    response = site.client.get(f"/audit/{path}")
    text = response.text  # to the end, so that nothing stays open
    assert response.status_code == status, text[:2000]
    return response


def ids(rows: list[dict[str, Any]]) -> list[int]:
    return [int(row["id"]) for row in rows]


def marks(site: Site) -> list[dict[str, Any]]:
    with site.engine.connect() as connection:
        query = "SELECT changed_data FROM audit.activity WHERE verb = 'export' ORDER BY id"
        return list(connection.scalars(sa.text(query)))


def fill(site: Site) -> None:
    site.write(
        "INSERT INTO article (id, title, price) VALUES (1, 'a', 10.00), (2, 'b', 7)",
        "INSERT INTO rate VALUES ('GB', 'GBP', 1.10)", actor="7", label="Ada", reason="=import",
    )  # fmt: skip
    site.write("UPDATE article SET title = title || '!'", actor="8", label="Ben")
    site.write("DELETE FROM article WHERE id = 2", actor="7", label="Ada")
    site.write("INSERT INTO slug VALUES ('x', 'y')")
    site.add_transactions(*["2026-01-01 12:00:00+00"] * 3, actor="9", rows=2)


def shown(site: Site, path: str) -> list[int]:
    """The ids of the activities that the pages of a feed show, in the order of an export."""
    found: list[int] = []
    page: Page | None = site.get(f"/audit/{path}")
    while page is not None:
        found += [
            int(a.attributes["href"].partition("?")[0].rsplit("/", 1)[1])
            for a in page.all("a", "au-open")
        ]
        more = [a for a in page.all("a") if a.text == "Older"]
        page = site.get(more[0].attributes["href"]) if more else None
    return found


@pytest.mark.parametrize("kind", exports.KINDS)
@pytest.mark.parametrize(
    "query",
    ["", "actor=7", "actor=Ben", "table=article", "verb=update", "unknown=1", "actor=nobody",
     "from=2026-01-01&to=2026-01-01", "table=article&verb=delete&actor=7"],
)  # fmt: skip
def test_an_export_equals_what_the_filter_shows(
    site: Site, monkeypatch: pytest.MonkeyPatch, kind: str, query: str
) -> None:
    fill(site)
    monkeypatch.setattr(exports, "BATCH", 2)
    expected = shown(site, f"?{query}")
    assert (query == "actor=nobody") == (expected == [])
    response = get(site, f"export.{kind}?{query}")
    if query in {"", "unknown=1"}:  # the mark of this very export was recorded before it
        expected.insert(0, min(id_ for id_, _ in export_rows(site)))
    assert ids(parsed(kind, response.text)) == expected


def export_rows(site: Site) -> list[tuple[int, Any]]:
    with site.engine.connect() as connection:
        query = "SELECT id, changed_data FROM audit.activity WHERE verb = 'export' ORDER BY id"
        return [(row.id, row.changed_data) for row in connection.execute(sa.text(query))]


@pytest.mark.parametrize("kind", exports.KINDS)
def test_the_values_are_those_of_the_trail(site: Site, kind: str) -> None:
    number = "123456789012345678901234567890.10"
    site.write(
        f"INSERT INTO article (id, title, price) VALUES (1, 'Grüße, \"Ada\"\n', {number})",
        actor="7", label="Ada", reason="because",
    )  # fmt: skip
    (row,) = parsed(kind, get(site, f"export.{kind}?table=article").data.decode())
    assert row["changed_data"]["title"] == 'Grüße, "Ada"\n'
    assert row["changed_data"]["price"] == Decimal(number)
    about = row if kind == "csv" else row["transaction"]
    assert (about["actor_id"], about["actor_label"], about["reason"]) == ("7", "Ada", "because")
    assert datetime.fromisoformat(row["issued_at"]).utcoffset() == datetime.now(UTC).utcoffset()


def test_large_values_are_exported_whole(site: Site) -> None:
    site.write("INSERT INTO article (id, title, body) SELECT 1, 'x', string_agg(md5(g::text), '') "
               "FROM generate_series(1, 3000) g")  # fmt: skip
    (row,) = parsed("ndjson", get(site, "export.ndjson?table=article").text)
    assert len(row["changed_data"]["body"]) == 96_000


def test_a_document_that_python_cannot_hold_is_exported_as_it_is(site: Site) -> None:
    site.write(f"INSERT INTO article (id, settings) VALUES (1, '{'[' * 3000}{']' * 3000}')")
    for kind in exports.KINDS:
        assert "[" * 3000 in get(site, f"export.{kind}?table=article").text


# -- CSV ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", ["=", "+", "-", "@", "\t", "\r", "\n", "＝"])  # noqa: RUF001
def test_every_cell_that_a_spreadsheet_would_run_is_defused(site: Site, sign: str) -> None:
    formula = f"{sign}cmd|' /C calc'!A0"
    site.write(
        sa.text("INSERT INTO slug VALUES (:value, :value)").bindparams(value=formula),
        actor=formula, label=formula, reason=formula,
    )  # fmt: skip
    with site.engine.begin() as connection:
        insert = (
            "INSERT INTO audit.transaction (native_transaction_id, issued_at, actor_id, "
            "actor_label, session_user_name, role_name, application_name, request_id, method, url, "
            "reason) SELECT '1', now(), f, f, f, f, f, f, f, f, f FROM (SELECT CAST(:f AS text) f) "
            "s RETURNING id"
        )
        id_ = connection.scalar(sa.text(insert), {"f": formula})
        connection.execute(
            sa.text(
                "INSERT INTO audit.activity (transaction_id, native_transaction_id, issued_at, "
                "relid, depth, schema_name, table_name, verb, object_id, new_object_id) "
                "VALUES (:id, '1', now(), 1, 1, :f, :f, :f, :f, :f)"
            ),
            {"id": id_, "f": formula},
        )
    text = get(site, "export.csv").data.decode("utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    forged = next(row for row in rows if row["transaction_id"] == str(id_))
    texts = set(exports.COLUMNS) - {"id", "transaction_id", "issued_at", "old_data",
                                    "changed_data", "client_addr", "metadata"}  # fmt: skip
    assert {name: forged[name] for name in texts} == dict.fromkeys(texts, f"'{formula}")
    for row in rows:
        assert list(row) == list(exports.COLUMNS)
        for value in row.values():
            assert not value.startswith(tuple("=+-@\t\r\n＝＋－＠"))  # noqa: RUF001


def test_a_csv_file_says_that_it_is_utf_8_and_has_stable_columns(site: Site) -> None:
    fill(site)
    response = get(site, "export.csv?table=article")
    assert response.data.startswith(b"\xef\xbb\xbfid,transaction_id,issued_at,actor_id,actor_label")
    assert response.headers["Content-Type"] == "text/csv; charset=utf-8; header=present"
    lines = list(csv.reader(io.StringIO(response.data.decode("utf-8-sig"), newline="")))
    assert {len(line) for line in lines} == {len(exports.COLUMNS)}
    assert "\r\n" in response.text


# -- Headers, limits, memory ----------------------------------------------------------------------


def test_the_answer_is_a_file_that_nobody_keeps(site: Site) -> None:
    for kind, mimetype in (
        ("csv", "text/csv"), ("json", "application/json"), ("ndjson", "application/x-ndjson"),
    ):  # fmt: skip
        response = get(site, f"export.{kind}")
        assert response.mimetype == mimetype
        name = f'attachment; filename="audit-{datetime.now(UTC):%Y-%m-%d}.{kind}"'
        assert response.headers["Content-Disposition"] == name
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(("limit", "is_cut"), [(5, True), (6, False)])
def test_a_cut_is_told(make_site: MakeSite, limit: int, is_cut: bool) -> None:
    site = make_site(AUDIT_EXPORT_LIMIT=limit)
    site.add_transactions(*["2026-01-01 12:00:00+00"] * 3, actor="9", rows=2)
    for kind in exports.KINDS:
        text = get(site, f"export.{kind}?actor=9").text
        assert len(parsed(kind, text)) == limit
        assert ("Cut after 5 changes" in text) == is_cut
        assert marks(site)[-1]["outcome"] == ("truncated" if is_cut else "complete")
        assert marks(site)[-1]["rows"] == limit
    whole = decoded(get(site, "export.json?actor=9").text)
    assert (whole["truncated"], whole["count"]) == (is_cut, limit)
    if is_cut:
        last = decoded(get(site, "export.ndjson?actor=9").text.splitlines()[-1])
        assert (last["truncated"], last["count"]) == (True, limit)
        rows = list(csv.reader(io.StringIO(get(site, "export.csv?actor=9").text)))
        assert rows[-1][0].startswith("# Cut after 5 changes")
        assert len(rows[-1]) == len(exports.COLUMNS)


def test_rows_come_from_a_cursor_on_the_server_in_batches(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "BATCH", 10)
    site.add_transactions(*["2026-01-01 12:00:00+00"] * 40, actor="9")
    cursors: list[Any] = []

    def note(_connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if "audit.activity" in statement and "change" in statement:
            cursors.append(cursor)

    sa.event.listen(site.engine, "after_cursor_execute", note)
    with site.client.get("/audit/export.ndjson?actor=9", buffered=False) as response:
        chunks = response.iter_encoded()
        held = [next(chunks).count(b"\n")]
        (cursor,) = cursors
        fetched = cursor.rownumber
        held += [chunk.count(b"\n") for chunk in chunks]
    assert cursor.name  # a named cursor lives on the server
    assert fetched <= 10  # of 40 rows, when the first chunk had left
    assert held == [10, 10, 10, 10, 0]


def test_a_client_that_hangs_up_leaves_nothing_behind(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "BATCH", 10)
    site.add_transactions(*["2026-01-01 12:00:00+00"] * 40, actor="9")
    response = site.client.get("/audit/export.csv?actor=9", buffered=False)
    chunks = response.iter_encoded()
    next(chunks)
    pool: Any = site.engine.pool
    assert pool.checkedout() == 1
    response.close()
    assert pool.checkedout() == 0
    begin, end = marks(site)
    assert "rows" not in begin
    assert end["outcome"] == "aborted"
    assert 0 < end["rows"] < 40


def test_an_export_that_nobody_fetches_leaves_nothing_behind(site: Site) -> None:
    site.add_transactions("2026-01-01 12:00:00+00", actor="9")

    @site.app.after_request
    def replaced(response: Any) -> Any:
        response.close()
        return site.app.response_class("something else")

    assert site.client.get("/audit/export.csv").text == "something else"
    pool: Any = site.engine.pool
    assert pool.checkedout() == 0
    assert len(marks(site)) >= 1


def test_an_export_needs_one_connection_at_a_time(make_site: MakeSite) -> None:
    site = make_site(
        SQLALCHEMY_ENGINE_OPTIONS={"pool_size": 1, "max_overflow": 0, "pool_timeout": 1}
    )
    fill(site)
    with site.app.app_context():
        site.db.session.remove()
    assert "GBP" in get(site, "export.csv").text


def test_a_search_that_takes_too_long_is_a_page(
    make_site: MakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = make_site(AUDIT_EXPORT_TIMEOUT=50)
    slow = sa.select(sa.func.pg_sleep(5))
    monkeypatch.setattr(selection, "export", lambda *_, **__: slow)
    page = site.get("/audit/export.csv", status=503)
    assert "Narrow the period" in page.words
    assert [mark.get("outcome") for mark in marks(site)] == [None, "aborted"]


def test_an_export_does_not_write_what_the_visitor_reads(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        selection, "export", lambda *_, **__: sa.select(sa.text("nextval('audit.activity_id_seq')"))
    )
    with pytest.raises(sa.exc.DBAPIError, match="read-only"):
        site.client.get("/audit/export.csv")


# -- Its own record -------------------------------------------------------------------------------


def test_an_export_is_recorded_with_who_and_what(make_site: MakeSite) -> None:
    site = make_site(get_actor_id=lambda: "7", get_actor_label=lambda actor: "Ada")
    fill(site)
    site.client.get(
        "/audit/export.csv?table=article&verb=update", headers={"X-Request-ID": "r-1"}
    ).get_data()
    (first, begin), (_second, end) = export_rows(site)
    wanted = {"table": "article", "verb": "update"}
    assert begin == {"format": "csv", "filter": wanted}
    assert end == {
        "format": "csv", "filter": wanted, "rows": 8, "outcome": "complete", "export": first,
    }  # fmt: skip
    with site.engine.connect() as connection:
        rows = connection.execute(
            sa.text(
                "SELECT t.actor_id, t.actor_label, t.request_id, t.method, t.url FROM "
                "audit.transaction t JOIN audit.activity a ON a.transaction_id = t.id "
                "WHERE a.verb = 'export'"
            )
        ).all()
    assert set(rows) == {
        ("7", "Ada", "r-1", "GET", "http://localhost/audit/export.csv"),
    }  # fmt: skip
    page = site.get("/audit/?verb=export")
    assert "CSV · complete · 8 changes · verb=update, table=article" in page.words
    assert "Exported CSV · begun · verb=update, table=article" in page.words
    detail = site.get(f"/audit/activities/{first}")
    assert detail.heading == "↧Exported"


def test_without_a_record_there_is_no_export(make_site: MakeSite, server: Server) -> None:
    role = f"audit_test_{server.name}_reader"
    server.execute(f'DROP ROLE IF EXISTS "{role}"')
    server.execute(f"CREATE ROLE \"{role}\" LOGIN PASSWORD 'secret'")
    owner = make_site()
    owner.write("INSERT INTO article (id, title) VALUES (1, 'secret')")
    owner.write(
        f'GRANT USAGE ON SCHEMA audit TO "{role}"',
        f'GRANT SELECT ON ALL TABLES IN SCHEMA audit TO "{role}"',
    )
    url = sa.make_url(owner.url).set(username=role, password="secret")
    site = make_site(url.render_as_string(hide_password=False), create=False)
    assert "secret" in site.get("/audit/").words
    for kind in exports.KINDS:
        page = site.get(f"/audit/export.{kind}", status=403)
        assert "flask audit grant --export" in page.words
        assert "secret" not in page.html
    assert marks(owner) == []
    granted = owner.app.test_cli_runner().invoke(args=["audit", "grant", "--export", role])
    assert granted.exit_code == 0, granted.output
    assert "secret" in get(site, "export.csv").text
    assert len(marks(owner)) == 2
    owner.write(f'DROP OWNED BY "{role}"')
    site.close()
    server.execute(f'DROP ROLE "{role}"')


def test_asking_for_the_headers_exports_nothing(site: Site) -> None:
    fill(site)
    response = site.client.head("/audit/export.csv")
    assert response.status_code == 200
    assert response.mimetype == "text/csv"
    assert marks(site) == []


# -- Links ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["?table=article&from=2020-01-01", "actors/7?verb=insert",
                                  "actors/%20a%2F..", "records/public/article/1",
                                  "records/public/slug/a.json"])  # fmt: skip
def test_pages_offer_their_export_without_scripts(site: Site, path: str) -> None:
    fill(site)
    site.write("INSERT INTO article (id) VALUES (3)", actor=" a/..")
    site.write("INSERT INTO slug VALUES ('a.json', 'y')", "UPDATE slug SET value = 'z'")
    page = site.get(f"/audit/{path}")
    links = [a.attributes["href"] for a in page.one("nav", "au-exports").all("a")]
    assert [link.partition("?")[0] for link in links] == [
        f"/audit/export.{kind}" for kind in exports.KINDS
    ]
    if "records" in path:
        expected = [
            int(node.attributes["href"].rsplit("/", 1)[1])
            for node in page.one("ol", "au-timeline").all("a")
            if "/activities/" in node.attributes["href"]
        ]
    else:
        expected = shown(site, path)
    assert expected
    for kind, link in zip(exports.KINDS, links, strict=True):
        assert ids(parsed(kind, site.client.get(link).text)) == expected


@pytest.mark.parametrize(
    "query",
    ["table=none", "verb=x", "from=yesterday", "tz=Mars", "actor=%00"],
)
def test_a_wrong_filter_exports_nothing(site: Site, query: str) -> None:
    for kind in exports.KINDS:
        site.get(f"/audit/export.{kind}?{query}", status=400)
    assert marks(site) == []


def test_a_name_that_fits_several_people_has_to_be_chosen_first(site: Site) -> None:
    site.write("INSERT INTO article (id) VALUES (1)", actor="1", label="Ada")
    site.write("INSERT INTO article (id) VALUES (2)", actor="2", label="Ada")
    page = site.get("/audit/export.csv?actor=ada", status=400)
    assert "Several people" in page.words


def test_nobodys_export_is_not_there(site: Site) -> None:
    site.get("/audit/export.csv?id=nobody", status=404)
    site.get("/audit/export.xls", status=404)
    for key in ("none", "%00"):
        site.get(f"/audit/export.csv?schema=public&table=article&identity={key}", status=404)
    assert marks(site) == []


def test_who_may_not_export_sees_no_button(make_site: MakeSite) -> None:
    site = make_site(can_export=lambda actor: False)
    fill(site)
    for path in ("", "actors/7", "records/public/article/1"):
        assert "export." not in site.get(f"/audit/{path}").html
    for kind in exports.KINDS:
        page = site.get(f"/audit/export.{kind}", status=403)
        assert page.heading == "No export"
    assert marks(site) == []


def test_a_session_that_is_bound_to_a_connection(site: Site) -> None:
    """As savepoint-based tests bind it: exports see its writes, and leave it alone."""
    with site.engine.connect() as connection:
        outer = connection.begin()
        with site.app.app_context():
            site.app.extensions["sqlalchemy"].engines[None] = connection
            site.db.session.execute(sa.text("INSERT INTO article (id, title) VALUES (9, 'seen')"))
        assert "seen" in get(site, "export.csv").text
        assert connection.scalar(sa.text("SHOW transaction_read_only")) == "off"
        assert connection.scalar(sa.text("SHOW search_path")) != "pg_catalog, pg_temp"
        assert outer.is_active
        outer.rollback()
    with site.app.app_context():
        site.app.extensions["sqlalchemy"].engines[None] = site.engine
    assert marks(site) == []
