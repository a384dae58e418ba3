"""What the pages show about records, changes and transactions."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import quote

import pytest
import sqlalchemy as sa
from flask import url_for

from audit_app.admin.links import Links
from tests.web.site import HOSTILE, Node, Page, Site


def field(page: Page, name: str) -> Node:
    """Return the field of a difference."""
    found = [n for n in page.all("div", "au-field") if n.one(cls="au-field-name").text == name]
    assert len(found) == 1, (name, len(found))
    return found[0]


def text_of(node: Node, kind: str) -> str:
    """Return the old or the new text, reassembled from what is shown."""
    side = {"old": "au-before", "new": "au-after"}[kind]
    if node.all(cls=side):
        return node.one(cls=side).one(cls="au-text").text
    hidden = {"old": "ins", "new": "del"}[kind]
    words = node.one(cls="au-words")

    def read(part: Node | str) -> str:
        if isinstance(part, str):
            return part
        if part.tag in {hidden, "summary"}:
            return ""
        return "".join(read(child) for child in part.children)

    return read(words)


def update(site: Site, **values: Any) -> Page:
    site.write(sa.update(site.Article).where(site.Article.id == 1).values(**values))
    return site.get(f"/audit/activities/{site.activity_id('article')}")


@pytest.fixture
def article(site: Site) -> Site:
    site.write("INSERT INTO article (id, title) VALUES (1, 'old title')")
    return site


class TestDifferences:
    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("Netherlands", "The Netherlands"),
            ("one", "two"),
            (" padded ", "padded"),
            ("line one\nline two", "line one\nline 2"),
            ("a\r\nb\r\n", "a\nb\n"),
            ("\n\nstarts with lines", "\nstarts with lines"),
            (HOSTILE, f"{HOSTILE} & more"),
            ("same words again " * 200, "same words " * 100 + "but " + "same words again " * 99),
            ("tab\there", "tab here"),
            ("null", "false"),
            ("10", "10.0"),
        ],
    )  # fmt: skip
    def test_the_texts_can_be_reassembled_from_the_page(
        self, article: Site, old: str, new: str
    ) -> None:
        article.write(sa.update(article.Article).values(body=old))
        node = field(update(article, body=new), "body")
        # HTML's own rule: a carriage return reads as a line feed.
        assert text_of(node, "old") == old
        assert text_of(node, "new") == new
        assert node.all("ins") or node.all("del")

    def test_a_megabyte_shows_within_two_seconds_and_says_how(self, article: Site) -> None:
        old = " ".join(f"word{number}" for number in range(100_000))
        new = old.replace("word77", "WORD77")
        assert len(old) > 1_000_000 - 100_000
        article.write(sa.update(article.Article).values(body=old))
        started = time.monotonic()
        page = update(article, body=new)
        assert time.monotonic() - started < 2
        node = field(page, "body")
        assert "Too long to compare" in node.text
        assert (text_of(node, "old"), text_of(node, "new")) == (old, new)
        # The lists do not even load it.
        for path in ("/audit/", "/audit/records/public/article/1"):
            assert len(site_html(article, path)) < 100_000

    def test_a_nested_change_shows_its_path_and_only_the_leaf(self, article: Site) -> None:
        settings = {"limits": {"daily": 10}, "lines": [{"post code": "1011"}, {"post code": "2"}]}
        article.write(sa.update(article.Article).values(settings=settings))
        changed = {"limits": {"daily": 10}, "lines": [{"post code": "1012"}, {"post code": "2"}]}
        node = field(update(article, settings=changed), "settings")
        leaf = node.one("ul", "au-leaves").one("li")
        assert leaf.one(cls="au-path").text == 'lines[0]["post code"]'
        assert leaf.one("del").text == "1011"
        assert leaf.one("ins").text == "1012"
        assert "daily" not in node.text

    def test_a_document_that_is_too_deep_shows_raw(self, article: Site) -> None:
        deep = "[" * 5000 + "{leaf}" + "]" * 5000
        for leaf in ("1", "2"):
            article.write(
                sa.text("UPDATE article SET settings = CAST(:s AS jsonb)").bindparams(
                    s=deep.replace("{leaf}", leaf)
                )
            )
        page = article.get(f"/audit/activities/{article.activity_id('article')}")
        assert "too deeply" in page.words
        assert any("[[[1]]]" in node.text for node in page.all("pre"))
        article.get("/audit/")
        article.get("/audit/records/public/article/1")

    def test_values_of_different_kinds_look_different(self, article: Site) -> None:
        values: dict[str, Any] = {
            "null": None, "text null": "null", "empty": "", "zero": 0, "text zero": "0",
            "false": False, "text false": "false", "integer": 10, "list": [], "object": {},
            "space": " ", "word": "word",
        }  # fmt: skip
        article.write(sa.update(article.Article).values(settings={"kept": 1}))
        page = update(article, settings={"kept": 1, **values})
        shown = {}
        for leaf in field(page, "settings").one("ul", "au-leaves").all("li"):
            ins = leaf.one("ins")
            quoted = bool(ins.all(cls="au-quoted"))
            kinds = [n.tag + "".join(n.classes) for n in ins.walk() if n is not ins]
            shown[leaf.one(cls="au-path").text] = (ins.text, quoted, *kinds)
        assert len(shown) == len(values)
        assert len(set(shown.values())) == len(values)

    @pytest.mark.parametrize(("old", "new"), [("10", "10.0"), ("10.0", "10.00")])
    def test_digits_of_numbers_are_kept(self, article: Site, old: str, new: str) -> None:
        article.write(f"UPDATE article SET price = {old}")
        article.write(f"UPDATE article SET price = {new}")
        page = article.get(f"/audit/activities/{article.activity_id('article')}")
        node = field(page, "price")
        assert (node.one("del").text, node.one("ins").text) == (old, new)

    def test_absent_differs_from_null(self, article: Site) -> None:
        article.write(sa.update(article.Article).values(settings={"a": None}))
        node = field(update(article, settings={"b": None}), "settings")
        leaves = {n.one(cls="au-path").text: n for n in node.all("li")}
        assert leaves["a"].all("ins") == []
        assert leaves["b"].all("del") == []

    def test_unchanged_fields_are_folded_and_raw_values_are_there(self, article: Site) -> None:
        page = update(article, title="new title")
        folds = {
            " ".join(n.one("summary").text.split()): n for n in page.all("details", "au-section")
        }
        assert "body" in folds["Unchanged fields (5)"].text
        assert '"title": "old title"' in folds["Stored JSON"].text
        assert not [n for n in folds.values() if "open" in n.attributes]

    def test_an_update_shows_old_and_new(self, article: Site) -> None:
        node = field(update(article, published=True), "published")
        assert (node.one("del").text, node.one("ins").text) == ("null", "true")


def site_html(site: Site, path: str) -> str:
    return site.get(path).html


class TestRecords:
    def test_the_timeline_has_every_change_with_its_difference(self, article: Site) -> None:
        for number in range(3):
            update(article, title=f"title {number}")
        page = article.get("/audit/records/public/article/1")
        events = [e for e in page.all("li", "au-event") if "au-start" not in e.classes]
        assert [e.one(cls="au-badge").text[1:] for e in events] == ["Updated"] * 3 + ["Created"]
        assert all(e.all(cls="au-field") for e in events)
        assert "Nothing before this is on record" in page.words
        assert page.heading == "article 1"
        assert page.one(cls="au-state").text == "exists"

    def test_a_deleted_record_opens_and_says_so(self, article: Site) -> None:
        article.write("DELETE FROM article")
        page = article.get("/audit/records/public/article/1")
        assert page.one(cls="au-state").text == "deleted"
        assert "old title" in page.words

    @pytest.mark.parametrize("key", ["1", "20", "300"])
    def test_the_story_goes_on_through_changes_of_the_key(self, article: Site, key: str) -> None:
        article.write("UPDATE article SET id = 20")
        article.write("UPDATE article SET id = 300")
        article.write("UPDATE article SET title = 'at last'")
        page = article.get(f"/audit/records/public/article/{key}")
        assert "at last" in page.words
        assert "old title" in page.words
        assert len(page.all("li", "au-event")) == 5
        assert (key == "300") == ("now" not in page.one(cls="au-sub").text)

    def test_another_record_of_a_former_key_is_another_story(self, article: Site) -> None:
        article.write("UPDATE article SET id = 2 WHERE id = 1")
        article.write("INSERT INTO article (id, title) VALUES (1, 'a stranger')")
        article.write("UPDATE article SET title = 'a stranger, later' WHERE id = 1")
        page = article.get("/audit/records/public/article/2")
        assert "old title" in page.words
        assert "stranger" not in page.words

    def test_records_that_swap_their_keys(self, article: Site) -> None:
        article.write("INSERT INTO article (id, title) VALUES (2, 'second')")
        article.write(
            "ALTER TABLE article DROP CONSTRAINT article_pkey,"
            " ADD PRIMARY KEY (id) DEFERRABLE INITIALLY DEFERRED"
        )
        article.write("UPDATE article SET id = 3 - id")
        page = article.get("/audit/records/public/article/1")
        assert "old title" in page.words
        assert "second" in page.words

    def test_previous_and_next_lead_along_the_story(self, article: Site) -> None:
        article.write("UPDATE article SET id = 2")
        article.write("UPDATE article SET title = 'x'")
        page = article.get(f"/audit/activities/{article.activity_id('article')}")
        assert "Latest" in page.words
        steps = 0
        while "First on record" not in page.words:
            after = page
            page = article.get(page.link("Previous change"))
            assert article.get(page.link("Next change")).html == after.html
            steps += 1
        assert steps == 2

    @pytest.mark.parametrize(
        "key",
        [
            "plain", "with space", "a/b", "/leading", "trailing/", "a//b", ".", "..", "../../etc",
            "", "100%", "%2F", "#?&=;+", "ünï çødé 鍵 😀", "new\nline", "tab\t", "\x01", HOSTILE,
            '"><svg onload=x>', "['a', 'b']", '["a", "b"]', "x" * 900, "y" * 5000, "\\", "~",
            "null",
        ],
    )  # fmt: skip
    def test_records_with_any_key_open_from_everywhere(self, site: Site, key: str) -> None:
        site.write(sa.insert(site.Slug).values(id=key, value="found it"))
        site.write(sa.delete(site.Slug), actor="7")
        feed = site.get("/audit/")
        activity = site.get(f"/audit/activities/{site.activity_id('slug', 'delete')}")
        transaction = site.get(feed.transactions()[0])
        for page in (feed, activity, transaction):
            # The fields of a change lead to their own histories besides.
            links = {href for href in page.hrefs if "/records/" in href and "field=" not in href}
            assert len(links) == 1, links
            record = site.get(links.pop())
            assert "found it" in record.words
            assert record.one(cls="au-state").text == "deleted"

    def test_composite_keys_open_from_everywhere(self, site: Site) -> None:
        site.write(sa.insert(site.Rate).values(country="G/B", currency='", "', value=1))
        page = site.get("/audit/")
        link = next(href for href in page.hrefs if "/records/" in href)
        assert site.get(link).heading == 'rate G/B, ", "'

    def test_a_record_without_history_is_not_found(self, site: Site) -> None:
        for path in ("public/article/999", "public/none/1", "nowhere/article/1"):
            assert "no change" in site.get(f"/audit/records/{path}", status=404).words

    def test_a_long_story_has_pages(self, article: Site) -> None:
        for number in range(60):
            article.write(f"UPDATE article SET title = 'title {number}.'")
        page = article.get("/audit/records/public/article/1")
        seen = [e.one("time").text for e in page.all("li", "au-event")]
        assert len(seen) == 50
        second = article.get(page.link("Older"))
        assert "title 9." in second.words
        assert "title 10." not in [n.text for n in second.all("ins")]
        assert len(second.all("li", "au-event")) == 12  # with the end of the story
        assert article.get(second.link("Back to the newest")).html == page.html


class TestTransactions:
    def test_everything_of_three_tables_is_one_group(self, site: Site) -> None:
        site.write(
            "INSERT INTO article (id) VALUES (1)",
            "INSERT INTO rate VALUES ('a', 'b', 1)",
            "INSERT INTO slug VALUES ('s', 'v')",
            actor="7",
            label="Ada",
        )
        page = site.get("/audit/")
        group = page.one("article", "au-group")
        assert len(group.all("li", "au-row")) == 3
        transaction = site.get(page.transactions()[0])
        assert len(transaction.all("li", "au-event")) == 3

    def test_its_page_says_who_from_where_and_why(self, site: Site) -> None:
        id_ = site.write(
            "INSERT INTO article (id) VALUES (1)",
            actor="7", label="Ada", client_addr="203.0.113.9", reason="Ticket 4711", ticket=4711,
        )  # fmt: skip
        page = site.get(f"/audit/transactions/{id_}")
        for text in ("Ada", "203.0.113.9", "Ticket 4711", '"ticket": 4711', "postgres"):
            assert text in page.words

    def test_request_facts_are_shown(self, site: Site) -> None:
        with site.app.test_request_context(
            "/orders/5?secret=1", method="POST", headers={"X-Request-ID": "req-1"},
            environ_base={"REMOTE_ADDR": "198.51.100.7"},
        ):  # fmt: skip
            site.db.session.execute(sa.text("INSERT INTO article (id) VALUES (1)"))
            site.db.session.commit()
        page = site.get(site.get("/audit/").transactions()[0])
        for text in ("POST http://localhost/orders/5", "req-1", "198.51.100.7"):
            assert text in page.words

    def test_a_large_one_has_pages(self, site: Site) -> None:
        id_ = site.write("INSERT INTO article (id) SELECT generate_series(1, 120)")
        feed = site.get("/audit/")
        assert len(feed.all("li", "au-row")) == 8
        page = site.get(feed.link("More changes in this transaction →"))
        keys: list[str] = []
        for _ in range(3):
            keys += [n.one("strong").text for n in page.all("a", "au-record")]
            more = [a for a in page.all("a") if a.text == "More changes"]
            page = site.get(more[0].attributes["href"]) if more else page
        assert keys == [str(number) for number in range(1, 121)]
        assert (
            site.get(f"/audit/transactions/{id_}").html
            == site.get(page.link("Back to the beginning")).html
        )

    def test_truncation_and_marks(self, site: Site) -> None:
        site.write("INSERT INTO slug VALUES ('a'), ('b')")
        site.write("TRUNCATE slug")
        with site.app.app_context():
            with site.logger.disable(site.db.session, reason="night job"):
                site.db.session.execute(sa.text("INSERT INTO slug VALUES ('c')"))
            site.db.session.commit()
        page = site.get("/audit/")
        for text in (
            "Truncated slug all rows 2 rows",
            "Capture suspended night job",
            "Capture resumed",
        ):
            assert text in page.words
        for verb in ("truncate", "suspend", "resume"):
            id_ = site.scalar("SELECT id FROM audit.activity WHERE verb = :v", v=verb)
            site.get(f"/audit/activities/{id_}")


class TestPeople:
    def test_the_label_of_that_time_is_shown_and_unknown_is_not_a_name(self, site: Site) -> None:
        site.write("INSERT INTO article (id) VALUES (1)", actor="7", label="Ada Lovelace")
        site.write("INSERT INTO article (id) VALUES (2)", actor="8")
        site.write("INSERT INTO article (id) VALUES (3)")
        site.write("INSERT INTO article (id) VALUES (4)", actor="Unknown")
        page = site.get("/audit/")
        people = [(a.text, "au-unknown" in a.classes) for a in page.all("a", "au-actor")]
        assert people == [
            ("Unknown", False), ("Unknown", True), ("8", False), ("Ada Lovelace", False),
        ]  # fmt: skip
        assert [n.text for n in page.all("span", "au-avatar")] == ["U", "?", "8", "AL"]
        unknown = site.get(page.all("a", "au-unknown")[0].attributes["href"])
        assert len(unknown.transactions()) == 1

    def test_everybody_who_was_active_is_listed_by_their_last_change(self, site: Site) -> None:
        for number, actor in enumerate(("7", "8", "7", "9/x", None, "10")):
            label = {"7": "Ada"}.get(actor or "")
            site.write(f"INSERT INTO article (id) VALUES ({number})", actor=actor, label=label)
        page = site.get("/audit/actors/")
        names = [" ".join(n.text.split()) for n in page.all("span", "au-people-name")]
        assert names == ["10", "9/x", "Ada 7", "8", "Unknown"]
        for link in page.one("ul", "au-people").all("a"):
            assert site.get(link.attributes["href"]).transactions()

    def test_many_people_have_pages(self, site: Site) -> None:
        with site.engine.begin() as connection:
            connection.execute(
                sa.text(
                    "INSERT INTO audit.transaction (native_transaction_id, issued_at, actor_id,"
                    " session_user_name, role_name)"
                    " SELECT '1', now(), 'p' || g, 'a', 'a' FROM generate_series(1, 450) g"
                )
            )
        seen: list[str] = []
        page = site.get("/audit/actors/")
        for pages_left in (2, 1, 0):
            seen += [n.text for n in page.all("span", "au-people-name")]
            if pages_left:
                page = site.get(page.link("More people"))
        assert sorted(seen) == sorted(f"p{number}" for number in range(1, 451))

    @pytest.mark.parametrize("actor", ["a/b", "/a", "a//b", "..", "ünï", "100%", HOSTILE, " x "])
    def test_any_id_opens(self, site: Site, actor: str) -> None:
        site.write("INSERT INTO article (id) VALUES (1)", actor=actor)
        page = site.get("/audit/")
        own = site.get(page.all("a", "au-actor")[0].attributes["href"])
        assert len(own.transactions()) == 1
        assert own.heading == " ".join(actor.split())

    def test_somebody_who_did_nothing_is_not_found(self, site: Site) -> None:
        site.get("/audit/actors/nobody", status=404)
        site.write("INSERT INTO article (id) VALUES (1)", actor="7", label="Ada")
        # A name finds people in the filter, but is no address.
        site.get("/audit/actors/Ada", status=404)


def test_markup_in_any_place_is_inert(site: Site) -> None:
    table = f'"<b>{HOSTILE}"'
    site.write(f"""CREATE TABLE {table} (id text PRIMARY KEY, "<i>{HOSTILE}" jsonb)""")
    site.write(sa.text("SELECT audit.audit_table(CAST(:t AS regclass))").bindparams(t=table))
    context = {"actor": HOSTILE, "label": f"<img src=x>{HOSTILE}", "reason": HOSTILE, "x": HOSTILE}
    site.write(
        sa.text(f"INSERT INTO {table} VALUES (:k, CAST(:j AS jsonb))").bindparams(
            k=HOSTILE, j='{"<u>": "<s>"}'
        ),
        **context,
    )
    id_ = site.write(
        sa.text(f"""UPDATE {table} SET "<i>{HOSTILE}" = CAST(:j AS jsonb)""").bindparams(
            j='{"<u>": "<script>2</script>"}'
        ),
        **context,
    )
    activity = site.scalar("SELECT max(id) FROM audit.activity")
    feed = site.get("/audit/")
    records = [href for href in feed.hrefs if "/records/" in href]
    paths = ["/audit/", "/audit/actors/", f"/audit/actors/{quote(HOSTILE, safe='')}", records[0],
             f"/audit/activities/{activity}", f"/audit/transactions/{id_}",
             f"/audit/?actor={quote(HOSTILE)}"]  # fmt: skip
    for path in paths:
        page = site.get(path)
        assert all(node.text == "" for node in page.all("script"))
        assert len(page.all("script")) == 1
        assert len(page.all("img")) == 1  # ours
        for tag in ("b", "i", "u", "s"):
            assert page.all(tag) == []
        assert "<script>alert" not in page.html
    for path in (f"/audit/?table={quote(HOSTILE)}", f"/audit/activities/{quote(HOSTILE, safe='')}"):
        response = site.client.get(path)
        assert response.status_code in {400, 404}
        assert "<script>alert" not in response.text


@pytest.mark.parametrize("table", ["article", "987654321987654321"])
@pytest.mark.parametrize(
    "key", ["1", "a b", "ä/ö", '["GB", "GBP"]', "50%25?x=1#top", "+&;=:@!$'()*,~", "\N{SNOWMAN}"]
)
def test_the_address_of_a_record_is_as_flask_builds_it(site: Site, table: str, key: str) -> None:
    names: dict[str, Any] = {"schema": "public", "table": table, "identity": key}
    with site.app.test_request_context("/audit/"):
        links = Links("audit_ui", zone="Europe/Berlin")
        built = links.record("public", table, key)
        assert built == url_for("audit_ui.record", **names, tz="Europe/Berlin")
        assert links.record("public", table, "other").endswith("/other?tz=Europe/Berlin")
