"""A row as it was then, and the history of one field."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from audit_app import story
from tests.web.site import Page, Site

RECORD = "/audit/records/public/article/1"


@pytest.fixture
def article(site: Site) -> Site:
    site.write(
        "INSERT INTO article (id, title, price) VALUES (1, 'one', 10)", actor="7", label="Ada"
    )
    site.write("UPDATE article SET title = 'two'", actor="8", label="Noor")
    site.write("UPDATE article SET price = 10.0")
    return site


def ids(site: Site) -> list[int]:
    with site.engine.connect() as connection:
        query = sa.text("SELECT id FROM audit.activity ORDER BY id")
        return list(connection.scalars(query))


def cells(page: Page) -> dict[str, str]:
    """Return what the page shows of each field."""
    found = {}
    for cell in page.all("div", "au-cell"):
        value = cell.one("dd")
        shown = value.one("ins") if value.all("ins") else value
        found[cell.one("dt").text] = shown.text
    return found


class TestVersions:
    def test_every_entry_leads_to_the_whole_row_of_then(self, article: Site) -> None:
        page = article.get(RECORD)
        links = [h for h in page.hrefs if "/versions/" in h]
        assert links == [f"/audit/versions/{id_}" for id_ in reversed(ids(article))]
        assert [cells(article.get(link)) for link in links] == [
            {"id": "1", "title": "two", "body": "null", "price": "10.0", "published": "null",
             "settings": "null"},
            {"id": "1", "title": "two", "body": "null", "price": "10", "published": "null",
             "settings": "null"},
            {"id": "1", "title": "one", "body": "null", "price": "10", "published": "null",
             "settings": "null"},
        ]  # fmt: skip

    def test_the_change_is_marked_with_what_it_replaced(self, article: Site) -> None:
        page = article.get(f"/audit/versions/{ids(article)[1]}")
        changed = page.one("div", "au-cell-changed")
        assert changed.one("dt").text == "title"
        assert changed.one("del").text == "one"
        assert "Noor" in page.words
        first, last = ids(article)[0], ids(article)[2]
        assert page.link("Earlier version") == f"/audit/versions/{first}"
        assert page.link("Later version") == f"/audit/versions/{last}"
        assert not article.get(f"/audit/versions/{first}").all("div", "au-cell-changed")

    def test_a_deleted_row_is_shown_as_it_was_before(self, article: Site) -> None:
        article.write("DELETE FROM article")
        page = article.get(f"/audit/versions/{ids(article)[-1]}")
        assert "Before it was deleted" in page.words
        assert cells(page)["title"] == "two"

    def test_where_recording_began_later(self, site: Site) -> None:
        site.write("SELECT audit.unaudit_table('article')")
        site.write("INSERT INTO article (id, title) VALUES (1, 'one')")
        site.write("SELECT audit.audit_table('article')")
        site.write("UPDATE article SET title = 'two'")
        page = site.get(f"/audit/versions/{site.activity_id('article')}")
        assert "Unknown before" in page.words
        assert "What the record was before" in site.get(RECORD).words
        page = site.get(f"{RECORD}?at=2001-01-01T10:00")
        assert "Unknown before" in page.words
        assert cells(site.get(page.link("The first known version")))["title"] == "two"

    def test_at_a_moment(self, article: Site) -> None:
        issued: Any = article.scalar(
            "SELECT issued_at FROM audit.activity WHERE verb = 'update' ORDER BY id LIMIT 1"
        )
        for when, title in ((issued, "two"), (issued - timedelta(microseconds=1), "one")):
            text = when.isoformat().replace("+", "%2B")
            assert cells(article.get(f"{RECORD}?at={text}"))["title"] == title
        page = article.get(f"{RECORD}?at=2001-01-01")
        assert "did not exist then" in page.words
        assert "1 January 2001, 23:59:59 +00:00" in page.words
        assert cells(article.get(page.link("Later version")))["title"] == "one"
        article.write("DELETE FROM article")
        gone = article.get(f"{RECORD}?at=2999-01-01")
        assert "did not exist then" in gone.words
        assert "Deleted" in article.get(gone.link("Earlier version")).heading
        assert cells(article.get(f"{RECORD}?at={ids(article)[0]}"))["title"] == "one"

    def test_the_form_leads_to_the_moment_for_any_key(self, site: Site) -> None:
        site.write(sa.insert(site.Slug).values(id="", value="found"))
        page = site.get("/audit/records/?schema=public&table=slug&identity=&tz=Asia/Tokyo")
        form = page.one("form", "au-at")
        query = {n.attributes["name"]: n.attributes.get("value", "") for n in form.all("input")}
        assert query["tz"] == "Asia/Tokyo"
        query["at"] = "2999-01-01T00:00"
        found = site.get(form.attributes["action"], query_string=query)
        assert cells(found) == {"id": "", "value": "found"} | {"id": "empty text"}

    @pytest.mark.parametrize(
        ("path", "status"),
        [
            ("/audit/versions/999", 404), ("/audit/versions/x", 404), ("/audit/versions/0", 404),
            (f"{RECORD}?at=yesterday", 400), (f"{RECORD}?at=99999999999999999999", 400),
            (f"{RECORD}?at=0001-01-01T00:00%2B00:00&tz=America/New_York", 400),
            (f"{RECORD}?at=9999-12-31T23:59%2B00:00&tz=Asia/Tokyo", 400),
            (f"{RECORD}?at=9999-12-31", 400), (f"{RECORD}?at=0002-01-01T00:00", 200),
            (f"{RECORD}?at=12345", 404), (f"{RECORD}?at=%00", 404), (f"{RECORD}?at=", 200),
            ("/audit/records/public/article/9?at=2001-01-01", 404),
            ("/audit/records/public/none/9?at=2001-01-01", 404),
        ],
    )  # fmt: skip
    def test_damaged_addresses(self, article: Site, path: str, status: int) -> None:
        article.get(path, status=status)

    def test_a_truncation_has_no_row(self, article: Site) -> None:
        article.write("TRUNCATE article")
        id_ = article.activity_id("article", "truncate")
        assert "no single row" in article.get(f"/audit/versions/{id_}", status=404).words
        assert "did not exist then" in article.get(f"{RECORD}?at=2999-01-01").words


class TestFields:
    def test_the_name_of_a_field_leads_to_its_history(self, article: Site) -> None:
        article.write("DELETE FROM article", actor="9", label="Tomas")
        page = article.get(RECORD)
        history = article.get(page.link("title"))
        events = [e for e in history.all("li", "au-event") if "au-start" not in e.classes]
        assert [e.one("span", "au-badge").text[1:] for e in events] == [
            "Deleted", "Updated", "Created",
        ]  # fmt: skip
        assert [a.text for a in history.all("a", "au-actor")] == ["Tomas", "Noor", "Ada"]
        assert "Nothing before this is on record" in history.words
        assert "10" not in [n.text for n in history.all("ins")]
        assert history.heading == "article 1: title"

    def test_former_names_belong_to_it(self, site: Site) -> None:
        site.Article.__versioned__ = {"formerly": {"columns": {"title": ["headline"]}}}
        site.write("ALTER TABLE article RENAME COLUMN title TO headline")
        site.write("INSERT INTO article (id, headline) VALUES (1, 'One')")
        site.write("UPDATE article SET headline = 'Two'")
        site.write("ALTER TABLE article RENAME COLUMN headline TO title")
        site.write("UPDATE article SET title = 'Three'")
        for name in ("title", "headline"):
            page = site.get(f"{RECORD}?field={name}")
            assert page.heading == "article 1: title"
            assert "formerly headline" in page.words
            assert [n.text for n in page.all("ins")] == ["Three", "Two", "One"]

    def test_pages_by_key(self, article: Site) -> None:
        for number in range(60):
            article.write(
                f"UPDATE article SET title = 'title {number}.'",
                f"UPDATE article SET body = 'body {number}.'",
            )
        page = article.get(f"{RECORD}?field=body")
        assert len(page.all("section") + page.all("article")) == 50
        second = article.get(page.link("Older"))
        assert len(second.all("article")) == 11  # with the insert
        assert not [n.text for n in second.all("ins") if n.text.startswith("title")]
        assert article.get(second.link("Back to the newest")).html == page.html

    def test_a_page_looks_at_so_many_changes(
        self, article: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for number in range(5):
            article.write(f"UPDATE article SET title = 't{number}'")
        monkeypatch.setattr(story, "FIELD_SCAN", 3)
        page, steps = article.get(f"{RECORD}?field=body"), 0
        while not page.all("article"):
            page, steps = article.get(page.link("Look further back")), steps + 1
        assert steps == 2
        assert "Created" in page.words

    def test_large_values_are_not_loaded(self, article: Site) -> None:
        article.write(
            "UPDATE article SET body = (SELECT string_agg(md5(n::text), ' ') "
            "FROM generate_series(1, 3000) AS n), title = 'small'"
        )
        page = article.get(f"{RECORD}?field=body")
        assert len(page.html) < 20_000
        assert "Large values" in page.words
        assert "small" in article.get(f"{RECORD}?field=title").words

    @pytest.mark.parametrize(
        ("query", "status"),
        [
            ("field=nothing", 404), ("field=", 404), ("field=%00", 404),
            ("field=title&before=x", 400), ("field=title&before=1", 200), ("field=<script>", 404),
        ],
    )  # fmt: skip
    def test_damaged_addresses(self, article: Site, query: str, status: int) -> None:
        article.get(f"{RECORD}?{query}", status=status)

    def test_any_key_and_any_name(self, site: Site) -> None:
        with site.engine.begin() as connection:
            connection.exec_driver_sql('ALTER TABLE slug ADD COLUMN "a&b?c=d" text')
            connection.exec_driver_sql("SELECT audit.audit_table('slug')")
        for key in ("", "..", "a/b", "%2F"):
            site.write(sa.text("INSERT INTO slug VALUES (:k, 'v', 'odd')").bindparams(k=key))
            feed = site.get("/audit/")
            link = next(h for h in feed.hrefs if "/records/" in h)
            page = site.get(link)
            history = site.get(page.link("a&b?c=d"))
            assert "odd" in history.words
            id_ = site.activity_id("slug", "insert")
            version = site.get(history.link(f"The whole row (change {id_})"))
            assert cells(version)["a&b?c=d"] == "odd"
