"""Two versions of a record beside each other."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from tests.web.catalogue import Catalogue
from tests.web.conftest import MakeSite
from tests.web.site import Page, Site

PATH = "/audit/compare/public/article/1"


def changes(page: Page) -> dict[str, tuple[str, str]]:
    """Return what stands before and after, by column."""
    section = page.one("section")
    return {
        n.one(cls="au-field-name").text: (
            "".join(side.text for side in n.all(cls="au-before")).replace("Before: ", ""),
            "".join(side.text for side in n.all(cls="au-after")).replace("After: ", ""),
        )
        for n in section.all("div", "au-field")
    }


def selected(page: Page) -> list[str]:
    """Return the chosen versions of the form."""
    return [
        next(o.attributes["value"] for o in select.all("option") if "selected" in o.attributes)
        for select in page.one("form", "au-compare").all("select")
    ]


@pytest.fixture
def article(site: Site) -> Site:
    site.write("INSERT INTO article (id, title, price) VALUES (1, 'one', 10)")
    site.write("UPDATE article SET title = 'two'")
    site.write("UPDATE article SET title = 'three', price = 10.0")
    return site


def ids(site: Site, table: str = "article") -> list[int]:
    with site.engine.connect() as connection:
        query = sa.text("SELECT id FROM audit.activity WHERE table_name = :t ORDER BY id")
        return list(connection.scalars(query, {"t": table}))


class TestVersions:
    def test_any_two_are_compared_as_a_change_is(self, article: Site) -> None:
        first, second, third = ids(article)
        page = article.get(f"{PATH}?from={first}&to={third}")
        assert changes(page) == {"title": ("one", "three"), "price": ("10", "10.0")}
        assert "the same number" in page.words
        assert selected(page) == [str(first), str(third)]
        page = article.get(f"{PATH}?from={first}&to={second}")
        assert changes(page) == {"title": ("one", "two")}
        assert "Unchanged fields (5)" in page.words

    def test_the_order_of_the_two_does_not_matter(self, article: Site) -> None:
        first, _, third = ids(article)
        for one, other in ((third, first), ("now", first)):
            page = article.get(f"{PATH}?from={one}&to={other}")
            assert changes(page)["title"] == ("one", "three")
            assert "The older version stands first." in page.words
            assert selected(page) == [str(first), str(one)]

    def test_identical_versions_say_so(self, article: Site) -> None:
        first, second, third = ids(article)
        article.write("UPDATE article SET title = 'two'", "UPDATE article SET title = 'three'")
        last = ids(article)[-1]
        for one, other in ((first, first), (third, last), (last, "now"), ("now", "now")):
            page = article.get(f"{PATH}?from={one}&to={other}")
            assert "These two versions are identical." in page.words
            assert changes(page) == {}
        assert "identical" not in article.get(f"{PATH}?from={first}&to={second}").words

    @pytest.mark.parametrize("value", ["x", "0", "999999", "1.5", "-1", "9" * 30, "%00", "NOW"])
    @pytest.mark.parametrize("name", ["from", "to"])
    def test_what_is_no_version_is_not_found(self, article: Site, name: str, value: str) -> None:
        article.get(f"{PATH}?{name}={value}", status=404)

    def test_a_version_of_another_record_is_not_found(self, article: Site) -> None:
        article.write("INSERT INTO article (id, title) VALUES (2, 'another')")
        other = ids(article)[-1]
        assert "no version" in article.get(f"{PATH}?from={other}", status=404).words
        article.get("/audit/compare/public/article/2", status=200)
        for path in ("public/article/999", "public/none/1", "nowhere/article/1"):
            article.get(f"/audit/compare/{path}", status=404)
        assert article.client.get("/audit/compare/").location == "/audit/"

    def test_a_deleted_version_is_empty(self, article: Site) -> None:
        third = ids(article)[-1]
        article.write("DELETE FROM article")
        page = article.get(f"{PATH}?from={third}&to={ids(article)[-1]}")
        assert changes(page)["title"] == ("three", "")
        assert "The record was deleted" in page.words

    def test_a_damaged_page_of_the_list_is_refused(self, article: Site) -> None:
        article.get(f"{PATH}?before=x", status=400)

    def test_versions_under_a_former_key_are_of_the_same_record(self, article: Site) -> None:
        article.write("UPDATE article SET id = 7")
        page = article.get(f"/audit/compare/public/article/7?from={ids(article)[0]}")
        assert changes(page)["id"] == ("1", "7")
        assert changes(article.get(f"{PATH}?from={ids(article)[0]}")) == changes(page)

    def test_raw_json_on_request(self, article: Site) -> None:
        page = article.get(f"{PATH}?from={ids(article)[0]}")
        assert page.all("pre") == []
        raw = article.get(page.link("Show both versions as JSON"))
        older, newer = (node.text for node in raw.all("pre"))
        assert '"title": "one"' in older
        assert '"title": "three"' in newer

    @pytest.mark.parametrize("key", ["..", "a/b", "", "a//b", "ünï", '"><script>'])
    def test_any_key_can_be_compared(self, site: Site, key: str) -> None:
        site.write(sa.insert(site.Slug).values(id=key, value="first"))
        site.write(sa.update(site.Slug).values(value="second"))
        activity = site.get(f"/audit/activities/{site.activity_id('slug')}")
        record = site.get(next(h for h in activity.hrefs if "/records/" in h))
        form = record.one("form", "au-compare")
        query: dict[str, Any] = {
            n.attributes["name"]: n.attributes["value"] for n in form.all("input")
        }
        page = site.get(form.attributes["action"], query_string=query)
        assert changes(page) == {"value": ("first", "second")}
        assert site.get(activity.link("compare with now")).words.count("identical") == 1


class TestNow:
    def test_it_is_the_row_in_the_table(self, article: Site) -> None:
        with article.app.app_context():
            with article.logger.disable(article.db.session, reason="unseen"):
                article.db.session.execute(sa.text("UPDATE article SET title = 'unseen'"))
            article.db.session.commit()
        page = article.get(f"{PATH}?from={ids(article)[0]}&to=now")
        assert changes(page)["title"] == ("one", "unseen")
        assert selected(page)[1] == "now"

    def test_of_what_is_gone_the_last_known_state_stands_there(self, article: Site) -> None:
        article.write("DELETE FROM article")
        page = article.get(f"{PATH}?from={ids(article)[0]}&to=now")
        assert changes(page)["title"] == ("one", "three")
        assert "does not exist any more" in page.words

    def test_what_cannot_be_read_is_said(self, article: Site) -> None:
        article.write("ALTER TABLE article RENAME TO was_article")
        page = article.get(f"{PATH}?from={ids(article)[0]}&to=now")
        assert changes(page)["title"] == ("one", "three")
        assert "could not be read" in page.words

    def test_every_type_is_as_the_trail_has_it(self, make_site: MakeSite) -> None:
        catalogue = Catalogue(make_site)
        site = catalogue.site
        site.write(
            "ALTER TABLE product ADD COLUMN unmapped text DEFAULT 'x',"
            " ADD COLUMN states state[], ADD COLUMN none state, ADD COLUMN nones state[],"
            " ADD COLUMN amount money, ADD COLUMN parts json"
        )
        with site.app.app_context(), site.engine.begin() as connection:
            site.logger.install(connection)
        site.write(
            """
            UPDATE product SET body = E'a\\r\\nb', stock = -1, price = 10.00, weight = 0.1,
                published = true, day = '2026-02-03', moment = '2026-02-03 04:05:06.7+09',
                clock = '23:59:59.5', lasts = '1 mon 2 days 03:04:05', state = 'LIVE', size = 'L',
                picture = '\\x00ff', tags = '{a,NULL,"b c"}', span = '[1,5)',
                token = '00000000-0000-0000-0000-00000000000a', address = '10.1.2.3/24',
                settings = '{"a": [1, 1.0, null]}', pin = '1234', maker_id = 1,
                states = '{DRAFT,LIVE}', amount = 12.5, parts = '{"b": 1, "a": 1.50}'
            """
        )
        for setting in (
            "TimeZone = 'Asia/Tokyo'", "bytea_output = escape", "IntervalStyle = iso_8601",
            "extra_float_digits = -5", "lc_monetary = 'C'",
        ):  # fmt: skip
            site.write(f"SET {setting}")
        page = site.get(f"/audit/compare/public/product/1?from={site.activity_id('product')}")
        assert changes(page) == {}
        assert "identical" in page.words
        assert "could not" not in page.words

    def test_a_column_that_is_not_recorded_is_not_read(self, make_site: MakeSite) -> None:
        catalogue = Catalogue(make_site)
        catalogue.site.write("UPDATE maker SET name = 'Other' WHERE id = 1")
        page = catalogue.site.get("/audit/compare/public/maker/1")
        assert changes(page) == {"name": ("Ada Works", "Other")}
        assert "hidden" not in page.one("main").text


class TestChoice:
    def test_the_timeline_offers_its_versions_in_a_form(self, article: Site) -> None:
        page = article.get("/audit/records/public/article/1?tz=Europe%2FParis")
        form = page.one("form", "au-compare")
        assert form.attributes["method"] == "get"
        first, _, third = ids(article)
        offered = [o.attributes["value"] for o in form.all("select")[0].all("option")]
        assert offered == ["now", *(str(id_) for id_ in reversed(ids(article)))]
        assert selected(page) == [str(first), "now"]
        assert {n.attributes["name"]: n.attributes["value"] for n in form.all("input")} == {
            "tz": "Europe/Paris"
        }
        answer = article.get(
            f"{form.attributes['action']}?from={first}&to={third}&tz=Europe%2FParis"
        )
        assert changes(answer)["title"] == ("one", "three")
        assert answer.all("option")[-1].text.partition(" · ")[2] == "Created · Unknown"

    def test_a_long_story_offers_a_page_and_compares_any(self, article: Site) -> None:
        for number in range(60):
            article.write(f"UPDATE article SET title = 'title {number}'")
        first = ids(article)[0]
        statements = article.watch()
        page = article.get(f"{PATH}?from={first}&to={ids(article)[-1]}")
        assert changes(page)["title"] == ("one", "title 59")
        assert len(page.one("form", "au-compare").all("select")[0].all("option")) == 52
        assert selected(page)[0] == str(first)
        assert not [s for s in statements if "OFFSET" in s or "count(" in s.lower()]

        second = article.get(article.get("/audit/records/public/article/1").link("Older"))
        form = second.one("form", "au-compare")
        hidden = {n.attributes["name"]: n.attributes["value"] for n in form.all("input")}
        answer = article.get(form.attributes["action"], query_string=hidden)
        assert selected(answer) == [str(first), "now"]
        assert len(answer.one("form", "au-compare").all("select")[0].all("option")) == 14
