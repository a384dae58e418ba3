"""The same pages for machines: negotiation, cursors, problems, digits, the description."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from audit_app import audit_bp, history, selection
from tests.web.conftest import MakeSite
from tests.web.site import Site

JSON = {"Accept": "application/json"}
BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"}


def fill(site: Site) -> None:
    site.write(
        "INSERT INTO article (id, title, price) VALUES (1, 'a', 12345678901234567890.10)",
        "INSERT INTO rate VALUES ('GB', 'GBP', 9007199254740993)",
        actor="7", label="Ada", reason="because", ticket="A-1",
    )  # fmt: skip
    site.write("UPDATE article SET title = 'b'", actor="8", label="Ben")
    site.write("INSERT INTO slug VALUES ('a.json', 'x')", actor="a/../b")


def get(site: Site, path: str, *, status: int = 200, headers: Any = None) -> Any:
    response = site.client.get(path if path[:1] == "/" else f"/audit/{path}", headers=headers)
    assert response.status_code == status, response.text[:2000]
    wanted = "application/json" if status < 400 else "application/problem+json"
    assert response.mimetype == wanted, response.mimetype
    assert "Accept" in response.headers["Vary"]
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    return json.loads(response.text, parse_float=Decimal)


# -- Negotiation ----------------------------------------------------------------------------------

PAGES = (
    "", "?table=article", "actors/", "actors/7", "activities/1", "transactions/1", "tables/",
    "records/public/article/1", "records/public/slug/a.json",
)  # fmt: skip


@pytest.mark.parametrize("path", PAGES)
def test_every_page_answers_a_machine_at_the_same_address(site: Site, path: str) -> None:
    fill(site)
    by_header = get(site, path, headers=JSON)
    mark = "&" if "?" in path else "?"
    assert get(site, f"{path}{mark}format=json", headers=BROWSER) == by_header


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize(
    "accept",
    [None, "*/*", BROWSER["Accept"], "text/html", "text/html, application/json", "image/png",
     "application/json;q=0.5, text/html;q=0.6", "application/json;q=0", "nonsense"],
)  # fmt: skip
def test_a_browser_gets_the_page(site: Site, path: str, accept: str | None) -> None:
    fill(site)
    page = site.get(f"/audit/{path}", headers={"Accept": accept} if accept else {})
    assert page.one("h1")
    assert "Accept" in page.headers["Vary"]


@pytest.mark.parametrize(
    "accept",
    ["application/json", "application/json, text/html;q=0.9", "application/problem+json",
     "application/json;q=0.2, */*;q=0.1"],
)  # fmt: skip
def test_who_prefers_json_gets_it(site: Site, accept: str) -> None:
    assert get(site, "", headers={"Accept": accept})["transactions"] == []


@pytest.mark.parametrize(
    ("suffixed", "plain"),
    [("activities.json", ""), ("actors.json", "actors/"), ("tables.json", "tables/"),
     ("activities/1.json", "activities/1"), ("transactions/1.json", "transactions/1")],
)  # fmt: skip
def test_an_address_can_ask_for_json(site: Site, suffixed: str, plain: str) -> None:
    fill(site)
    assert get(site, suffixed, headers=BROWSER) == get(site, plain, headers=JSON)


def test_a_key_that_ends_in_json_is_a_key(site: Site) -> None:
    fill(site)
    assert "a.json" in site.get("/audit/records/public/slug/a.json").heading
    assert get(site, "records/public/slug/a.json", headers=JSON)["object_id"] == "a.json"
    site.get("/audit/records/public/article/1.json", status=404)


def test_a_format_that_is_none_is_refused(site: Site) -> None:
    page = site.get("/audit/?format=xml", status=400)
    assert "xml" in page.words
    get(site, "?format=xml", status=400, headers=JSON)
    assert site.get("/audit/?format=html", headers=JSON).heading == "Activity"


# -- Contents -------------------------------------------------------------------------------------


def test_the_feed(site: Site) -> None:
    fill(site)
    document = get(site, "activities.json?table=article")
    second, first = document["transactions"]
    assert (document["next"], document["previous"]) == (None, None)
    assert (first["actor_id"], first["actor_label"], first["reason"]) == ("7", "Ada", "because")
    assert first["metadata"] == {"ticket": "A-1"}
    (change,) = first["activities"]  # the other change is of another table
    assert change["object_id"] == "1"
    assert change["changed_data"]["title"] == "a"
    assert get(site, change["href"])["id"] == change["id"]
    assert get(site, first["href"])["id"] == first["id"]
    (update,) = second["activities"]
    assert update["changed_data"] == {"title": "b"}


def test_no_digit_is_lost(site: Site) -> None:
    fill(site)
    article = get(site, f"activities/{site.activity_id('article', 'insert')}.json")
    assert article["changed_data"]["price"] == Decimal("12345678901234567890.10")
    rate = get(site, f"activities/{site.activity_id('rate', 'insert')}.json")
    assert rate["changed_data"]["value"] == 9007199254740993
    text = site.client.get("/audit/activities/1.json").text
    assert '"price": 12345678901234567890.10' in text


def test_a_large_change_comes_whole_at_its_own_address(site: Site) -> None:
    site.write("INSERT INTO article (id, body) SELECT 1, string_agg(md5(g::text), '') "
               "FROM generate_series(1, 3000) g")  # fmt: skip
    ((change,),) = [t["activities"] for t in get(site, "activities.json")["transactions"]]
    assert (change["is_large"], change["changed_data"]) == (True, None)
    assert "body" in change["field_names"]
    assert len(get(site, change["href"])["changed_data"]["body"]) == 96_000


def test_a_change_knows_its_neighbours(site: Site) -> None:
    fill(site)
    last = get(site, f"activities/{site.activity_id('article')}.json")
    assert last["next"] is None
    first = get(site, last["previous"]["href"])
    assert first["verb"] == "insert"
    assert first["next"]["id"] == last["id"]
    assert first["transaction"]["actor_label"] == "Ada"


def test_a_record_an_actor_and_the_tables(site: Site) -> None:
    fill(site)
    record = get(site, "records/?schema=public&table=article&identity=1&format=json")
    assert [c["verb"] for c in record["activities"]] == ["update", "insert"]
    assert [c["transaction"]["actor_id"] for c in record["activities"]] == ["8", "7"]
    assert record["is_deleted"] is False
    actors = get(site, "actors.json")["actors"]
    assert {a["id"]: a["label"] for a in actors} == {"7": "Ada", "8": "Ben", "a/../b": None}
    for actor in actors:
        (transaction,) = get(site, actor["href"])["transactions"]
        assert transaction["actor_id"] == actor["id"]
    tables = get(site, "tables.json")
    assert {t["table_name"]: t["state"] for t in tables["tables"]} == dict.fromkeys(
        ("article", "rate", "slug"), "tracked"
    )
    assert tables["findings"] == []


# -- Cursors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["activities.json", "activities.json?actor=7", "actors/7",
                                  "activities.json?verb=update"])  # fmt: skip
def test_following_next_shows_everything_once(site: Site, path: str) -> None:
    ids = site.add_transactions(*["2026-11-01 12:00:00.123456+00"] * 120, actor="7")
    document = get(site, path, headers=JSON)
    seen = [t["id"] for t in document["transactions"]]
    assert document["previous"] is None
    while document["next"]:
        place = document["next"]
        document = get(site, place["href"])
        assert get(site, f"activities.json?before={place['cursor']}")["transactions"]
        back = get(site, document["previous"]["href"])
        assert [t["id"] for t in back["transactions"]] == seen[-history.PAGE :]
        seen += [t["id"] for t in document["transactions"]]
    assert seen == ids[::-1]


def test_a_long_transaction_and_a_long_story_go_on(site: Site) -> None:
    site.write("INSERT INTO article (id) SELECT g FROM generate_series(1, 120) g")
    for number in range(60):
        site.write(f"UPDATE article SET title = '{number}' WHERE id = 1")
    for path, expected in (("transactions/1.json", 120),
                           ("records/public/article/1?format=json", 61)):  # fmt: skip
        document = get(site, path)
        seen = [c["id"] for c in document["activities"]]
        while document["next"]:
            document = get(site, document["next"]["href"])
            seen += [c["id"] for c in document["activities"]]
        assert len(seen) == len(set(seen)) == expected


def test_a_bounded_search_goes_on_with_next(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "SCAN", 10)
    old = site.write("INSERT INTO slug VALUES ('needle', 'x')")
    site.add_transactions(*["2027-01-01 12:00+00"] * 25)
    document, hops = get(site, "activities.json?table=slug"), 0
    while not document["transactions"]:
        document, hops = get(site, document["next"]["href"]), hops + 1
    assert hops == 2
    assert [t["id"] for t in document["transactions"]] == [old]


# -- Problems -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("activities/x.json", 404), ("activities/99999.json", 404), ("transactions/0.json", 404),
        ("records/public/article/1?format=json", 404),
        ("records/public/none/1?format=json", 404), ("actors/nobody?format=json", 404),
        ("nothing?format=json", 404), ("activities.json?before=x", 400),
        ("activities.json?after=1.1&before=1.1", 400), ("activities.json?table=none", 400),
        ("activities.json?from=yesterday", 400), ("activities.json?tz=%00", 400),
        ("transactions/1.json?after=x", 400), ("actors.json?after=%00", 404),
        ("export.json?format=json&verb=x", 400),
    ],
)  # fmt: skip
def test_what_is_wrong_is_a_problem_document(site: Site, path: str, status: int) -> None:
    site.write("INSERT INTO slug VALUES ('x', 'y')")
    problem = get(site, path, status=status)
    assert problem["status"] == status
    assert problem["type"] == "about:blank"
    assert problem["title"]
    assert problem["detail"]
    assert problem["instance"].startswith("/audit/")


def test_every_wrong_parameter_is_named(site: Site) -> None:
    problem = get(site, "activities.json?table=none&from=x&tz=Mars", status=400)
    assert set(problem["errors"]) == {"table", "from", "tz"}


def test_a_missing_schema_is_a_problem(make_site: MakeSite, database_url: str) -> None:
    site = make_site(database_url, create=False)
    problem = get(site, "activities.json", status=503)
    assert problem["remedy"] == "flask db upgrade"


@pytest.mark.parametrize("can_view", [None, lambda actor: False])
def test_machines_without_access_are_told(make_site: MakeSite, can_view: Any) -> None:
    site = make_site(can_view=can_view)
    fill(site)
    for path in (*PAGES, "activities.json", "tables.json", "openapi.json", "export.json", "x"):
        problem = get(site, path, status=403, headers=JSON)
        assert "Ada" not in str(problem)


def test_in_debug_mode_machines_are_told_how_to_open_it(make_site: MakeSite) -> None:
    site = make_site(can_view=None, DEBUG=True)
    assert "can_view=" in get(site, "activities.json", status=403)["remedy"]


CONFORMANCE: Any = [
    not_a_server_error, status_code_conformance, content_type_conformance,
    response_schema_conformance,
]  # fmt: skip


# -- The description ------------------------------------------------------------------------------


def test_the_description_is_served_for_where_the_pages_are(make_site: MakeSite) -> None:
    site = make_site(mount=lambda app: app.register_blueprint(audit_bp, url_prefix="/ops/history"))
    document = get(site, "/ops/history/openapi.json")
    assert document["servers"] == [{"url": "/ops/history"}]
    assert document["openapi"].startswith("3.1")


def test_every_address_for_machines_is_described(site: Site) -> None:
    described = set(get(site, "openapi.json")["paths"])
    routes = {
        str(rule).removeprefix("/audit")
        for rule in site.app.url_map.iter_rules()
        if str(rule).startswith("/audit/") and str(rule).endswith(".json")
    }
    routes = {route.replace("<activity_id>", "{id}") for route in routes}
    routes = {route.replace("<transaction_id>", "{id}") for route in routes}
    assert routes <= described


VALUES: dict[str, list[Any]] = {
    "schema": ["public", "none"], "table": ["article", "rate", "none"], "identity": ["1", "none"],
    "verb": ["update", "none"], "from": ["2020-01-01", "none"], "to": ["2100-01-01", "none"],
    "tz": ["Europe/Berlin", "none"], "actor": ["7", "Ada", "none"],
    "before": ["1793534400000000.9", 9, "none"], "after": ["1.1", 1, "none"],
}  # fmt: skip
"""What is worth trying for a parameter; random texts would hardly ever be answered."""


@pytest.mark.parametrize("is_open", [True, False])
def test_the_answers_are_as_described(make_site: MakeSite, is_open: bool) -> None:
    site = make_site(can_view=lambda actor: is_open)
    fill(site)
    site.add_transactions(*["2026-11-01 12:00:00+00"] * 60, actor="7", rows=10)
    document = json.loads(make_site().client.get("/audit/openapi.json").text)
    for path, item in document["paths"].items():
        for parameter in item["get"].get("parameters", ()):
            ids: list[Any] = ["7", "none"] if "actor" in path or "export" in path else [1, 2, 99999]
            known = {**VALUES, "id": ids}
            if "compare" in path:  # so many parameters hardly ever fit together by chance
                known |= {"schema": ["public"], "table": ["article"]}
            if parameter["name"] in known:
                parameter["schema"] = {"enum": known[parameter["name"]]}
    schema = schemathesis.openapi.from_dict(document)
    schema.app = site.app
    tried: set[str] = set()
    seen: set[tuple[str, int]] = set()
    for result in schema.get_all_operations():
        operation: Any = result.ok()  # type: ignore[union-attr]

        @settings(
            max_examples=40, derandomize=True, deadline=None, database=None,
            phases=(Phase.explicit, Phase.generate), suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        def run(case: Any) -> None:
            response = case.call(headers={**JSON, **(case.headers or {})})
            assert is_open or response.status_code == 403
            seen.add((case.path, response.status_code))
            case.validate_response(response, checks=CONFORMANCE)

        given(case=operation.as_strategy())(run)()
        tried.add(operation.label)
    assert len(tried) == len(document["paths"])
    assert {status for _path, status in seen} == ({200, 400, 404} if is_open else {403})
    if is_open:
        assert {path for path, status in seen if status == 200} == set(document["paths"])
