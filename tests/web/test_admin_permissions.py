"""Who may see which table, which change, and who may export."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.orm import DeclarativeBase, relationship

from audit_app import AuditLogger, history
from audit_app.admin import access as policies
from audit_app.admin import exports
from audit_app.errors import ConfigurationError
from tests.web.conftest import MakeSite
from tests.web.site import Page, Site

SECRET = "needle"


def without_slug(actor: Any, table: Any) -> bool:
    return (table.schema, table.name) != ("public", "slug")


def only_shown(actor: Any, change: policies.Change) -> bool:
    return SECRET not in str(change.data) and SECRET not in str(change.old_data)


def fill(site: Site) -> None:
    """What is secret is of the table slug, or holds the secret word; the two are the same."""
    site.write(f"INSERT INTO slug VALUES ('{SECRET}', '{SECRET}')", actor="spy", label="Mata Hari")
    site.write("INSERT INTO article (id, title) VALUES (1, 'a'), (2, 'b')", actor="7", label="Ada")
    site.write(
        f"UPDATE slug SET value = '{SECRET}s'", "UPDATE article SET title = 'c' WHERE id = 1",
        actor="7", label="Ada", reason="both",
    )  # fmt: skip
    site.write(f"DELETE FROM slug WHERE value = '{SECRET}s'")


POLICIES: list[dict[str, Any]] = [
    {"can_view_table": without_slug},
    {"can_view_activity": only_shown},
    {"can_view_table": without_slug, "can_view_activity": only_shown},
]
IDS = ["by table", "by change", "by both"]


def notes(db: Any) -> Any:
    """Notes that may be seen, and point at records that may not."""
    slug = next(m.class_ for m in db.Model.registry.mappers if m.class_.__name__ == "Slug")
    slug.__audit_label__ = lambda self: self.value

    class Note(db.Model):  # type: ignore[misc]
        __tablename__ = "note"
        __versioned__: dict[str, Any] = {"follow": ["fable"]}  # noqa: RUF012
        id = sa.Column(sa.Integer, primary_key=True)
        title = sa.Column(sa.Text)
        ref: Any = sa.Column(sa.ForeignKey("slug.id"))
        fable = relationship(slug)

    return Note


def fill_notes(site: Site, *, by_change: bool) -> None:
    """Notes, what they point at, and a mark that names and holds what is secret."""
    site.write(f"INSERT INTO slug VALUES ('k1', '{SECRET}'), ('k2', '{SECRET}')", actor="spy",
               label="Mata Hari")  # fmt: skip
    site.write("INSERT INTO note VALUES (1, 'a', 'k1'), (2, 'b', 'k2')", actor="7", label="Ada")
    site.write("UPDATE note SET ref = 'k2', title = 'c' WHERE id = 1", actor="7", label="Ada")
    site.write(f"UPDATE slug SET value = '{SECRET}2'", actor="spy", label="Mata Hari")
    if by_change:
        site.write(f"UPDATE note SET title = '{SECRET}' WHERE id = 2", actor="spy",
                   label="Mata Hari")  # fmt: skip
    mark_rewriting(site, "slug", SECRET)


def mark_rewriting(site: Site, table: str, kept: str) -> int:
    (transaction,) = site.add_transactions("2026-11-20 12:00+00", actor="spy", rows=0)
    with site.engine.begin() as connection:
        return int(
            connection.execute(
                sa.text(
                    "INSERT INTO audit.activity (transaction_id, native_transaction_id, issued_at,"
                    " relid, depth, schema_name, table_name, verb, object_id, old_data,"
                    " changed_data) VALUES (:t, '1', '2026-11-20 12:00+00', 1, 1, 'audit',"
                    " 'activity', 'rewrite', :relation, CAST(:kept AS jsonb),"
                    " CAST(:facts AS jsonb)) RETURNING id"
                ),
                {
                    "t": transaction,
                    "relation": f"public.{table}",
                    "kept": json.dumps({"1": {"old_data": kept}}),
                    "facts": json.dumps(
                        {"operation": "remove_column", "schema": "public", "table": table,
                         "arguments": {"column": "value", "keep": True}, "activities": 1}
                    ),
                },
            ).scalar_one()
        )  # fmt: skip


SEARCHES = ("k1", "k2", "mat", "person", "ad", "public.slug", "note/1", "2", "1")
STORIES = tuple(
    f"/audit/{path}"
    for id_ in (1, 2)
    for path in (
        f"records/public/note/{id_}", f"records/public/note/{id_}?at=2100-01-01",
        f"records/public/note/{id_}?field=ref", f"records/public/note/{id_}?field=title",
        f"records/public/note/{id_}?only=1", f"records/public/note/{id_}?search=2",
        f"compare/public/note/{id_}", f"compare/public/note/{id_}?raw=1",
        f"compare/public/note/{id_}?from=now",
    )
)  # fmt: skip
FEEDS = tuple(
    f"/audit/?{query}"
    for query in ("record=k1", "record=1", "record=public.slug", "field=value", "field=title",
                  "reason=both", "request=r", "verb=rewrite", "verb=export", "period=365d")
)  # fmt: skip


NUMBERED = re.compile(r"/(?:activities|transactions|versions)/(\d+)")


def crawl(site: Site, start: str = "/audit/", *, more: bool = False) -> Iterator[tuple[str, str]]:
    """Open every page of the trail that a link leads to.

    Of addresses that differ in the values of their parameters alone, a few. Of the marks that the
    exports leave behind, which the crawl opens on its way, a few as well.

    :param more: begin with pages that no link leads to as well.
    """
    waiting, seen, alike = [start], set(), Counter[Any]()
    last = 20 + site.scalar(
        "SELECT greatest((SELECT max(id) FROM audit.activity),"
        " (SELECT max(id) FROM audit.transaction))"
    )
    if more:
        waiting += [*STORIES, *FEEDS, *(f"/audit/search/?q={text}" for text in SEARCHES)]
        if "json" in start:
            waiting = [_as_json(path) for path in waiting]
    while waiting:
        path = waiting.pop(0)
        parts = urlsplit(path)
        kind = (parts.path, frozenset(parse_qs(parts.query)))
        number = NUMBERED.search(parts.path)
        if path in seen or not path.startswith("/audit") or "/assets/" in path or alike[kind] > 5:
            continue
        if number and int(number[1]) > last:
            continue
        seen.add(path)
        alike[kind] += 1
        response = site.client.get(path, follow_redirects=True)
        text = response.text
        assert response.status_code == 200, (path, text[:500])
        yield path, text
        if response.mimetype == "text/html":
            waiting += Page(text, dict(response.headers)).hrefs
        elif response.mimetype == "application/json" and "export" not in path:
            waiting += list(hrefs(json.loads(text)))


def _as_json(path: str) -> str:
    return path if ".json" in path else f"{path}{'&' if '?' in path else '?'}format=json"


def hrefs(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            if key == "href" and isinstance(item, str):
                yield item
            yield from hrefs(item)
    elif isinstance(value, list):
        for item in value:
            yield from hrefs(item)


@pytest.mark.parametrize(
    ("start", "options"),
    [*(("/audit/", options) for options in POLICIES), ("/audit/activities.json", POLICIES[-1])],
    ids=[*IDS, f"{IDS[-1]}, for machines"],
)
def test_nothing_leads_to_what_must_not_be_seen(
    make_site: MakeSite, options: Any, start: str
) -> None:
    by_change = "can_view_activity" in options
    everything = make_site(extend=notes)
    fill(everything)
    fill_notes(everything, by_change=by_change)
    assert any(SECRET in text for _path, text in crawl(everything, start))
    if by_change:  # the marks of these exports name people: a policy has to know
        with everything.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE audit.activity DISABLE TRIGGER append_only")
            connection.exec_driver_sql("DELETE FROM audit.activity WHERE verb = 'export'")
    site = make_site(create=False, extend=notes, **options)
    hidden = ("spy", "Mata Hari") if "can_view_activity" in options else (SECRET, "spy")
    paths = []
    for path, text in crawl(site, start, more=True):
        paths.append(path)
        for word in (SECRET, *hidden):
            assert word not in text, (path, word)
        if "can_view_table" in options and "slug" not in path:
            assert "slug" not in text, path
            assert "fable" not in text, path
    assert len(paths) > 5
    for path in ("actors.json", "tables.json", "export.csv", "actors/", "tables/"):
        text = site.client.get(f"/audit/{path}").text
        assert SECRET not in text
        assert "spy" not in text
        assert "Mata Hari" not in text
        assert "slug" not in text or "can_view_table" not in options


@pytest.mark.parametrize("options", POLICIES, ids=IDS)
def test_people_are_those_of_whom_something_may_be_seen(make_site: MakeSite, options: Any) -> None:
    site = make_site(**options)
    fill(site)
    names = [node.text for node in site.get("/audit/actors/").all("span", "au-people-name")]
    assert [name.split()[0] for name in names] == ["Ada"]  # whoever deleted is unknown
    for text in ("spy", "Mata", "mata hari"):
        assert site.get(f"/audit/?actor={text}").transactions() == []
    assert len(site.get("/audit/?actor=ad").transactions()) == 2


@pytest.mark.parametrize("options", POLICIES, ids=IDS)
@pytest.mark.parametrize("accept", ["text/html", "application/json"])
def test_what_must_not_be_seen_is_answered_like_what_is_missing(
    make_site: MakeSite, options: Any, accept: str
) -> None:
    site = make_site(**options)
    fill(site)
    secret_activity = site.activity_id("slug", "insert")
    secret_transaction = site.scalar(
        "SELECT transaction_id FROM audit.activity WHERE id = :id", id=secret_activity
    )
    unknown = site.activity_id("slug", "delete")
    pairs = [
        (f"activities/{secret_activity}", "activities/987654"),
        (f"activities/{unknown}", "activities/987655"),
        (f"transactions/{secret_transaction}", "transactions/987656"),
        (f"transactions/{secret_transaction}?after=1", "transactions/987656?after=1"),
        (f"transactions/{secret_transaction}?after=99999", "transactions/987656?after=99999"),
        ("actors/spy", "actors/nil"),
        (f"records/public/slug/{SECRET}", "records/public/slug/absent"),
        (f"export.csv?schema=public&table=slug&identity={SECRET}",
         "export.csv?schema=public&table=slug&identity=absent"),
        ("export.csv?id=spy", "export.csv?id=nil"),
    ]  # fmt: skip
    if "can_view_table" in options:
        pairs += [
            (f"records/public/slug/{SECRET}", f"records/public/nile/{SECRET}"),
            ("?table=slug", "?table=nile"), ("?table=public.slug", "?table=public.nile"),
            ("export.csv?table=slug", "export.csv?table=nile"),
            (f"export.csv?schema=public&table=slug&identity={SECRET}",
             f"export.csv?schema=public&table=nile&identity={SECRET}"),
        ]  # fmt: skip
    for secret, missing in pairs:
        answers = []
        for path in (secret, missing):
            response = site.client.get(f"/audit/{path}", headers={"Accept": accept})
            text = response.text
            for name in (path, path.partition("?")[0], str(secret_activity), "987654", "987655",
                         str(unknown), "987656", SECRET, "absent", "spy", "nil", "public.slug",
                         "public.nile", "nile", "slug", f" {secret_transaction} "):  # fmt: skip
                text = text.replace(name, "·")
            answers.append((response.status_code, len(text.split()), response.mimetype))
        assert answers[0] == answers[1], (secret, answers)
        assert answers[0][0] == (400 if "table=" in secret and "identity" not in secret else 404)


@pytest.mark.parametrize("options", POLICIES, ids=IDS)
def test_a_transaction_is_shown_as_far_as_it_may_be_seen(make_site: MakeSite, options: Any) -> None:
    site = make_site(**options)
    fill(site)
    page = site.get("/audit/")
    assert [node.text for node in page.all("span", "au-table")] == ["article"] * 3
    url = page.transactions()[0]
    assert len(site.get(url).all("li", "au-event")) == 1


@pytest.mark.parametrize("path", ["actors/", "records/public/note/1", "activities/5"])
def test_a_policy_has_nothing_compiled_twice(make_site: MakeSite, path: str) -> None:
    site = make_site(extend=notes, can_view_activity=only_shown)
    fill_notes(site, by_change=True)
    site.compiled_by(f"/audit/{path}")
    assert site.compiled_by(f"/audit/{path}") == []


def test_with_can_view_alone_no_query_changes(make_site: MakeSite) -> None:
    plain, site = make_site(), make_site(create=False, can_export=lambda actor: True)
    fill(plain)
    watched = [one.watch() for one in (plain, site)]
    for path in ("", "?table=article", "actors/", "actors/7", "tables/", "activities/1",
                 "transactions/2", "records/public/article/1"):  # fmt: skip
        statements = []
        for one, sent in zip((plain, site), watched, strict=True):
            sent.clear()
            one.get(f"/audit/{path}")
            statements.append(list(sent))
        assert statements[0] == statements[1]
        assert not any("newest" in s and "DISTINCT" in s for s in statements[0])
        assert len(statements[0]) <= 18


def test_paging_is_exact_though_tables_are_hidden(make_site: MakeSite) -> None:
    site = make_site(can_view_table=without_slug)
    ids = []
    for number in range(3 * history.PAGE):
        ids.append(site.add_transactions("2026-11-01 12:00+00")[0])
        if number % 3 == 0:
            site.write(f"INSERT INTO slug VALUES ('{number}', 'x')")
    page: Page | None = site.get("/audit/?to=2026-11-02")
    sizes, seen = [], []
    while page is not None:
        shown = page.transactions()
        sizes.append(len(shown))
        seen += [int(url.rsplit("/", 1)[1]) for url in shown]
        more = [a.attributes["href"] for a in page.all("a") if a.text == "Older"]
        page = site.get(more[0]) if more else None
    assert sizes == [history.PAGE] * 3
    assert seen == ids[::-1]


@pytest.mark.parametrize("way", ["older", "newer"])
def test_pages_stay_full_though_changes_are_hidden(make_site: MakeSite, way: str) -> None:
    site = make_site(can_view_activity=lambda actor, change: change.transaction_id % 3 == 0)
    ids = site.add_transactions(*["2026-11-01 12:00+00"] * 330)
    expected = [id_ for id_ in reversed(ids) if id_ % 3 == 0]
    first = json.loads(site.client.get("/audit/activities.json").text)
    documents = [first]
    while documents[-1]["next"]:
        documents.append(json.loads(site.client.get(documents[-1]["next"]["href"]).text))
    if way == "newer":
        documents = documents[-1:]
        while documents[0]["previous"]:
            url = documents[0]["previous"]["href"]
            documents.insert(0, json.loads(site.client.get(url).text))
        documents = [d for d in documents if d["transactions"]]
    seen = [t["id"] for document in documents for t in document["transactions"]]
    assert seen == expected
    sizes = [len(document["transactions"]) for document in documents if document["transactions"]]
    assert sorted(sizes) == [10, 50, 50]


def test_reading_on_has_a_bound_and_can_go_on(make_site: MakeSite) -> None:
    site = make_site(can_view_activity=lambda actor, change: change.table == "slug")
    old = site.write("INSERT INTO slug VALUES ('x', 'y')")
    site.add_transactions(*["2027-01-01 12:00+00"] * (policies.ROUNDS * history.PAGE + 20))
    page = site.get("/audit/")
    assert page.transactions() == []
    assert "Searched 500 transactions" in page.words
    page = site.get(page.link("Search further"))
    assert page.transactions() == [f"/audit/transactions/{old}"]


def test_a_long_transaction_of_which_little_may_be_seen(make_site: MakeSite) -> None:
    site = make_site(can_view_activity=lambda actor, change: change.object_id in {"150", "199"})
    site.write("INSERT INTO article (id) SELECT g FROM generate_series(1, 200) g")
    page = site.get("/audit/")
    assert [node.text for node in page.all("strong")] == ["150", "199"]
    page = site.get(page.transactions()[0])
    assert len(page.all("li", "au-event")) == 2


def test_a_record_of_which_little_may_be_seen(make_site: MakeSite) -> None:
    site = make_site(can_view_activity=lambda actor, change: change.data.get("title") != "veiled")
    site.write("INSERT INTO article (id, title) VALUES (1, 'first')")
    site.write("UPDATE article SET title = 'veiled'")
    for number in range(120):
        site.write(f"UPDATE article SET body = '{number}'")
    site.write("UPDATE article SET title = 'last'")
    page = site.get("/audit/records/public/article/1")
    changes = [a.attributes["href"] for a in page.all("a", "au-event-link")]
    assert len(changes) == 2
    assert "Nothing before this is on record" in page.words
    assert page.html.count("veiled") == 1  # what the last change replaced
    # Their neighbours are further away than one looks for them.
    last = site.get(changes[0])
    assert [a for a in last.all("a") if a.attributes.get("rel") == "prev"] == []


def test_neighbours_are_those_that_may_be_seen(make_site: MakeSite) -> None:
    site = make_site(can_view_activity=lambda actor, change: change.data.get("title") != "veiled")
    site.write("INSERT INTO article (id, title) VALUES (1, 'first')")
    first = site.activity_id("article", "insert")
    for title in ("veiled", "veiled", "last"):
        site.write(f"UPDATE article SET title = '{title}', body = body || 'x'")
    last = site.activity_id("article")
    assert site.get(f"/audit/activities/{last}").link("Previous change").endswith(f"/{first}")
    assert site.get(f"/audit/activities/{first}").link("Next change").endswith(f"/{last}")


def test_a_policy_sees_large_values_though_lists_do_not(make_site: MakeSite) -> None:
    site = make_site(can_view_activity=lambda actor, change: "secret" not in change.data["body"])
    big = "(SELECT string_agg(md5(g::text), '') FROM generate_series(1, 3000) g)"
    site.write(f"INSERT INTO article (id, body) VALUES (1, 'secret' || {big}), (2, {big})")
    page = site.get("/audit/")
    assert [node.text for node in page.all("strong")] == ["2"]
    site.get("/audit/records/public/article/1", status=404)


def test_what_a_policy_is_asked(make_site: MakeSite) -> None:
    tables: set[tuple[Any, str, str]] = set()
    changes: list[policies.Change] = []

    def table(actor: Any, place: Any) -> bool:
        tables.add((actor, place.schema, place.name))
        return True

    def change(actor: Any, asked: policies.Change) -> bool:
        changes.append(asked)
        return True

    site = make_site(
        get_actor_id=lambda: "7", can_view_table=table, can_view_activity=change
    )  # fmt: skip
    site.write("INSERT INTO article (id, title) VALUES (1, 'a')", actor="8", label="Ben")
    site.write("CREATE TABLE extra (id int PRIMARY KEY)", "SELECT audit.audit_table('extra')",
               "INSERT INTO extra VALUES (1)", "DROP TABLE extra")  # fmt: skip
    site.get("/audit/")
    assert tables == {
        ("7", "public", "article"), ("7", "public", "rate"), ("7", "public", "slug"),
        ("7", "audit", "activity"), ("7", "public", "extra"),
    }  # fmt: skip
    asked = next(c for c in changes if c.table == "article")
    assert (asked.schema, asked.verb, asked.object_id) == ("public", "insert", "1")
    assert (asked.data["title"], asked.old_data) == ("a", None)
    assert (asked.actor_id, asked.actor_label) == ("8", "Ben")


def test_marks_are_asked_about_as_the_trails_own_table(make_site: MakeSite) -> None:
    site = make_site(can_view_table=lambda actor, table: table.schema != "audit")
    site.write("INSERT INTO article (id) VALUES (1)")
    mark = site.write("SELECT audit.suspend('why')")
    assert "suspended" not in site.get("/audit/").one("main").text.replace("Capture suspended", "")
    site.get(f"/audit/transactions/{mark}", status=404)
    other = make_site(create=False)
    other.get(f"/audit/transactions/{mark}")


@pytest.mark.parametrize("options", POLICIES, ids=IDS)
def test_a_rewriting_of_a_hidden_table_is_hidden(make_site: MakeSite, options: Any) -> None:
    site = make_site(**options)
    site.write("INSERT INTO article (id, title) VALUES (1, 'a')")
    hidden = mark_rewriting(site, "slug", SECRET)
    shown = mark_rewriting(site, "article", "plain")
    large = mark_rewriting(site, "slug", SECRET + "".join(map(str, range(20_000))))
    page = site.get("/audit/?verb=rewrite")
    assert len(page.transactions()) == 1
    assert "public.article" in page.words
    for id_ in (hidden, large):
        site.get(f"/audit/activities/{id_}", status=404)
        site.get(f"/audit/versions/{id_}", status=404)
    site.get("/audit/records/audit/activity/public.slug", status=404)
    site.get("/audit/compare/audit/activity/public.slug", status=404)
    assert "Nothing found" in site.get("/audit/search/?q=public.slug").words
    assert site.get("/audit/?record=public.slug").transactions() == []
    lines = site.client.get("/audit/export.ndjson?verb=rewrite").text.splitlines()
    assert [json.loads(line)["id"] for line in lines] == [shown]
    # What it kept are values of other changes, about which nobody was asked.
    kept = "plain" in site.client.get(f"/audit/activities/{shown}?format=json").text
    assert kept == ("can_view_activity" not in options)


def test_a_hidden_version_of_a_record_that_may_be_seen(make_site: MakeSite) -> None:
    site = make_site(can_view_activity=only_shown)
    site.write("INSERT INTO article (id, title) VALUES (1, 'a')")
    site.write(f"UPDATE article SET title = '{SECRET}'")
    hidden = site.activity_id("article")
    for path in (f"versions/{hidden}", f"records/public/article/1?at={hidden}",
                 f"compare/public/article/1?from={hidden}", f"activities/{hidden}"):  # fmt: skip
        for accept in ("text/html", "application/json"):
            response = site.client.get(f"/audit/{path}", headers={"Accept": accept})
            assert (response.status_code, SECRET in response.text) == (404, False), path
    for path in ("compare/public/article/1", "records/public/article/1?at=2100-01-01"):
        assert SECRET not in site.get(f"/audit/{path}").html


def test_an_export_of_what_is_hidden_is_hidden(make_site: MakeSite) -> None:
    everything = make_site()
    fill(everything)
    for query in ("table=slug", f"schema=public&table=slug&identity={SECRET}", "id=spy",
                  f"record={SECRET}", f"field=value&value={SECRET}", "reason=both",
                  "table=article&actor=7"):  # fmt: skip
        assert everything.client.get(f"/audit/export.csv?{query}").status_code == 200
    everything.client.get("/audit/export.csv?table=article&verb=update").get_data()
    everything.client.get("/audit/export.csv?schema=public&table=article&identity=1").get_data()
    site = make_site(create=False, can_view_table=without_slug)
    marks = json.loads(site.client.get("/audit/activities.json?verb=export").text)["transactions"]
    told = [c["changed_data"]["filter"] for t in marks for c in t["activities"]]
    assert told
    assert {tuple(sorted(f.items())) for f in told} == {
        (("table", "article"), ("verb", "update")),
        (("identity", "1"), ("schema", "public"), ("table", "article")),
    }
    answer = everything.client.get("/audit/activities.json?verb=export")
    ids = [t["id"] for t in json.loads(answer.text)["transactions"]]
    seen = {t["id"] for t in marks}
    for id_ in ids:
        site.get(f"/audit/transactions/{id_}", status=200 if id_ in seen else 404)


def test_totals_count_what_may_be_seen(make_site: MakeSite) -> None:
    site = make_site(can_view_table=without_slug)
    fill(site)
    page = site.get("/audit/actors/7")
    assert "slug" not in page.html
    document = json.loads(site.client.get("/audit/actors/7?format=json").text)["summary"]
    assert document["changes"] == 3
    assert [t["table_name"] for t in document["tables"]] == ["article"]
    other = make_site(create=False, can_view_activity=only_shown)
    page = other.get("/audit/actors/7")
    assert "Totals are left out" in page.words
    assert page.all("svg", "au-days") == []
    assert json.loads(other.client.get("/audit/actors/7?format=json").text)["summary"] is None


def test_addresses_are_those_of_what_may_be_seen(make_site: MakeSite) -> None:
    site = make_site(can_view_table=without_slug)
    site.write("INSERT INTO article (id) VALUES (1)", actor="7")
    site.write("INSERT INTO slug VALUES ('a', 'b')", actor="7")
    site.rewrite("UPDATE audit.transaction SET client_addr = CAST('10.0.0.' || id AS inet)")
    page = site.get("/audit/actors/7")
    assert "10.0.0.1" in page.words
    assert "10.0.0.2" not in page.html


def test_nothing_may_be_seen(make_site: MakeSite) -> None:
    site = make_site(can_view_table=lambda actor, table: False)
    fill(site)
    assert site.get("/audit/").transactions() == []
    assert "article" not in site.get("/audit/").html
    assert "Ada" not in site.get("/audit/actors/").html
    assert site.get("/audit/tables/").all("tbody") == []
    rows = site.client.get("/audit/export.ndjson").text
    assert rows == ""


def test_the_trail_as_a_whole_is_not_counted_for_who_sees_a_part(make_site: MakeSite) -> None:
    site = make_site(can_view_table=without_slug)
    site.write('ALTER TABLE slug DISABLE TRIGGER "00_audit_insert"', "ALTER TABLE rate ADD x text")
    page = site.get("/audit/tables/")
    assert "slug" not in page.html
    assert "rate" in page.words
    assert "Changes on record" not in page.words
    assert "1 error" in page.words


@pytest.mark.parametrize("kind", exports.KINDS)
def test_an_export_is_filled_though_changes_are_hidden(make_site: MakeSite, kind: str) -> None:
    site = make_site(
        can_view_activity=lambda actor, change: change.transaction_id % 2 == 0,
        AUDIT_EXPORT_LIMIT=10,
    )
    ids = site.add_transactions(*["2026-11-01 12:00+00"] * 40)
    text = site.client.get(f"/audit/export.{kind}?actor=1").text
    assert "Cut after 10 changes" in text
    for id_ in [id_ for id_ in ids[::-1] if id_ % 2 == 0][:10]:
        assert f"{id_}" in text
    assert site.scalar(
        "SELECT changed_data ->> 'rows' FROM audit.activity WHERE verb = 'export' "
        "AND changed_data ? 'rows'"
    ) == "10"  # fmt: skip


def test_a_policy_that_fails_shows_nothing(make_site: MakeSite) -> None:
    def broken(actor: Any, change: Any) -> bool:
        raise LookupError("a defect of the host's")

    site = make_site(can_view_activity=broken)
    fill(site)
    with pytest.raises(LookupError):
        site.client.get("/audit/")


@pytest.mark.parametrize("name", ["can_view_table", "can_view_activity", "can_export"])
def test_a_policy_must_be_callable(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name}='yes' cannot be called"):
        AuditLogger(**{name: "yes"})  # type: ignore[arg-type]


# -- The recipes of docs/permissions.md -----------------------------------------------------------


def recipe(title: str) -> str:
    """The code below a heading of the page."""
    from pathlib import Path

    text = Path(__file__).resolve().parents[2].joinpath("docs/permissions.md").read_text()
    return text.split(f"## {title}\n", 1)[1].split("```python\n", 1)[1].split("```", 1)[0]


class Person:
    """A user as the login extensions have them."""

    is_authenticated = is_active = True
    is_anonymous = False

    def __init__(self, id_: str, *roles: str) -> None:
        self.id, self.roles, self.name = id_, roles, id_.title()

    def get_id(self) -> str:
        return self.id

    def has_role(self, role: str) -> bool:
        return role in self.roles


PEOPLE = {
    p.id: p
    for p in (Person("admin", "admin", "auditor"), Person("editor", "editor", "auditor"),
              Person("guest"))
}  # fmt: skip

Serve = Callable[..., Any]


@pytest.fixture
def sign_in(make_site: MakeSite) -> Callable[[str], Serve]:
    """Serve the application of a recipe; returns how to ask it as somebody."""
    flask_login = pytest.importorskip("flask_login")

    def start(title: str) -> Serve:
        names: dict[str, Any] = {"DeclarativeBase": DeclarativeBase}
        exec(recipe(title), names)
        logger = names["audit_logger"]
        options = {
            name: getattr(logger, name)
            for name in ("can_view", "can_view_table", "can_view_activity", "can_export")
        }

        site = make_site(get_actor_id=logger._source.options.get_actor_id, **options)
        app: Flask = site.app
        manager = flask_login.LoginManager(app)
        manager.user_loader(PEOPLE.get)
        manager.request_loader(lambda request: PEOPLE.get(request.headers.get("X-User", "")))
        if "on_identity" in names:
            names["principal"].init_app(app)
            names["on_identity"](app)
        fill(site)

        def ask(who: str, path: str = "") -> Any:
            return site.client.get(f"/audit/{path}", headers={"X-User": who})

        return ask

    return start


@pytest.mark.parametrize("title", ["Flask-Login", "Flask-Security", "Flask-Principal"])
def test_a_recipe_does_what_it_says(sign_in: Callable[[str], Serve], title: str) -> None:
    if title == "Flask-Principal":
        pytest.importorskip("flask_principal")
    ask = sign_in(title)
    for who in ("", "guest"):
        for path in ("", "export.csv", "activities.json", "tables/"):
            assert ask(who, path).status_code == 403, who
    assert SECRET in ask("admin").text
    seen = ask("editor")
    assert seen.status_code == 200
    assert SECRET not in seen.text
    assert "article" in seen.text
    assert ask("admin", "export.csv").get_data()
    assert ask("admin", "export.csv").status_code == 200
    assert ask("editor", "export.csv").status_code == 403
