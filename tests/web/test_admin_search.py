"""The search box: what it understands, when it goes straight to the page, what it offers else."""

from __future__ import annotations

from urllib.parse import quote

import pytest
import sqlalchemy as sa

from audit_app import directory, selection
from audit_app.admin import AuditView
from tests.web.conftest import MakeSite
from tests.web.site import HOSTILE, Site


@pytest.fixture
def full(site: Site) -> Site:
    """Records, people and requests, some of one name."""
    site.write("INSERT INTO article (id, title) VALUES (1, 'One'), (2, 'Two'), (77, 'Seven')")
    site.write("INSERT INTO slug VALUES ('2', 'x'), ('a/b', 'y'), ('slug/9', 'z'), ('9', 'z')")
    site.write("INSERT INTO rate VALUES ('GB', 'GBP', 1)", actor="ada", label="Ada Lindqvist")
    site.write("UPDATE slug SET id = 'moved' WHERE id = '9'", actor="77", label="Bo Ek")
    site.write("UPDATE rate SET value = 2", actor="bo", label="Bo Berg")
    site.write("UPDATE rate SET value = 3", actor="bo", label="Bo Berg")
    site.rewrite("UPDATE audit.transaction SET request_id = 'r-' || id / 3 WHERE id > 1")
    return site


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("article/2", "/audit/records/public/article/2"),
        ("public.article/2", "/audit/records/public/article/2"),
        ("slug/2", "/audit/records/public/slug/2"),
        ("1", "/audit/records/public/article/1"),
        (" 1 ", "/audit/records/public/article/1"),
        ("a/b", "/audit/records/public/slug/a/b"),
        ("slug/a/b", "/audit/records/public/slug/a/b"),
        ("GB, GBP", "/audit/records/public/rate/%5B%22GB%22,%20%22GBP%22%5D"),
        ("rate/GB,GBP", "/audit/records/public/rate/%5B%22GB%22,%20%22GBP%22%5D"),
        ("moved", "/audit/records/public/slug/moved"),
        ("ada", "/audit/actors/ada"),
        ("lindqvist", "/audit/actors/ada"),
        ("r-0", "/audit/transactions/2"),
        ("r-2", "/audit/transactions/6"),
        ("r-1", "/audit/?request=r-1"),
    ],
)
def test_the_only_answer_is_opened(full: Site, text: str, path: str) -> None:
    response = full.client.get(f"/audit/search/?q={quote(text)}")
    assert response.status_code == 302, response.text
    assert response.location == path
    assert full.client.get(response.location).status_code == 200


@pytest.mark.parametrize(
    ("text", "records", "people"),
    [
        ("2", ["article 2 Two", "slug 2"], []),
        ("77", ["article 77 Seven"], ["BE Bo Ek 77"]),
        ("slug/9", ["slug 9", "slug slug/9"], []),
        ("bo", [], ["BB Bo Berg bo", "BE Bo Ek 77"]),
    ],
)
def test_several_answers_are_offered(
    full: Site, text: str, records: list[str], people: list[str]
) -> None:
    page = full.get(f"/audit/search/?q={quote(text)}")
    shown: dict[str, list[str]] = {}
    for section in page.all("section", "au-section"):
        shown[section.one("h2").text] = sorted(
            a.all("span")[0].text for a in section.all("a") if a.all("span")
        )
    assert [" ".join(t.split()) for t in shown.get("Records", [])] == records
    got = [
        " ".join(
            f"{li.one('span', 'au-avatar').text} {li.one('span', 'au-people-name').text}".split()
        )
        for li in page.all("li")
        if li.all("span", "au-avatar")
    ]
    assert sorted(got) == people
    for section in page.all("section", "au-section"):
        for a in section.all("a"):
            full.get(a.attributes["href"])


@pytest.mark.parametrize("text", ["nothing", "article/", "/", "article/404", "%", "_", "9" * 5000])
def test_nothing_found_is_said(full: Site, text: str) -> None:
    page = full.get(f"/audit/search/?q={quote(text)}")
    assert "Nothing found" in page.words or "What to write" in page.words or len(text) > 1000


def test_a_table_alone_is_not_taken_for_another(full: Site) -> None:
    """The key exists, but not in the table that the text names."""
    page = full.get("/audit/search/?q=rate/77")
    assert "Nothing found" in page.words


def test_an_empty_search_explains_itself(full: Site) -> None:
    assert "What to write" in full.get("/audit/search/").words
    assert "What to write" in full.get("/audit/search/?q=+").words


@pytest.mark.parametrize("text", ["%00", "a%00b"])
def test_what_no_text_can_hold_is_not_found(full: Site, text: str) -> None:
    full.get(f"/audit/search/?q={text}", status=404)


def test_requests_are_looked_for_as_far_as_the_page_says(
    full: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "SCAN", 1)
    page = full.get("/audit/search/?q=r-0")
    assert "Nothing found" in page.words
    further = page.link("Requests with this id, further back")
    assert "request=r-0" in further
    full.get(further)


def test_many_records_of_one_key_are_cut(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "NAMESAKES", 3)
    with site.engine.begin() as connection:
        connection.execute(
            sa.text(
                "INSERT INTO audit.activity (transaction_id, native_transaction_id, issued_at,"
                " relid, depth, schema_name, table_name, verb, object_id) SELECT 1, '1', now(), 1,"
                " 1, s, 't' || g, 'update', 'k'"
                " FROM generate_series(1, 3) g, unnest(ARRAY['a','b']) s"
            )
        )
    page = site.get("/audit/search/?q=k")
    titles = [a.one("span", "au-table").text for a in page.all("a") if a.all("span", "au-table")]
    assert titles == ["b.t1", "a.t1", "b.t2"]
    assert "More records have this key" in page.words


def test_the_zone_goes_along(full: Site) -> None:
    response = full.client.get("/audit/search/?q=1&tz=Asia/Tokyo")
    assert response.location.endswith("?tz=Asia/Tokyo")
    page = full.get("/audit/search/?q=2&tz=Asia/Tokyo")
    assert {t.attributes["datetime"][-6:] for t in page.all("time")} == {"+09:00"}
    form = page.one("form", "au-search")
    assert {n.attributes["name"]: n.attributes["value"] for n in form.all("input")} == {
        "tz": "Asia/Tokyo", "q": "2",
    }  # fmt: skip


def test_what_was_searched_for_is_inert(site: Site) -> None:
    page = site.get(f"/audit/search/?q={quote(HOSTILE)}")
    assert HOSTILE not in page.html


def test_the_box_is_on_every_page_wherever_it_is_mounted(make_site: MakeSite) -> None:
    from flask_admin import Admin

    site = make_site(mount=lambda app: Admin(app).add_view(AuditView()))
    site.write("INSERT INTO article (id) VALUES (1)")
    for path in ("", "actors/", "tables/", "records/public/article/1", "activities/1"):
        form = site.get(f"/admin/audit/{path}").one("form", "au-search")
        assert form.attributes["action"] == "/admin/audit/search/"
    response = site.client.get("/admin/audit/search/?q=1")
    assert response.location == "/admin/audit/records/public/article/1"


def test_the_search_is_closed_like_every_page(make_site: MakeSite) -> None:
    site = make_site(can_view=None)
    site.write("INSERT INTO article (id) VALUES (1)")
    site.get("/audit/search/?q=1", status=403)
