"""A record's story: its own changes and those of its related records, by transaction."""

from __future__ import annotations

import pytest

from audit_app import story
from tests.web import shop as shops
from tests.web.conftest import MakeSite
from tests.web.site import Node, Page, Site

ORDER = "/audit/records/public/order/1"


@pytest.fixture
def shop(make_site: MakeSite) -> Site:
    """An order of a customer with two lines, and another order."""
    made = make_site(extend=shops.models)
    made.write(
        "INSERT INTO customer VALUES (7, 'C7', 'Ada'), (8, 'C8', 'Noor')",
        "INSERT INTO tag VALUES (1, 'urgent'), (2, 'gift')",
    )
    made.write(
        "INSERT INTO \"order\" VALUES (1, 'north', 100, 'first', 'C7')",
        "INSERT INTO line VALUES (11, 1, 'pen'), (12, 1, 'ink')",
    )
    made.write(
        "INSERT INTO \"order\" VALUES (2, 'north', 200, 'second', 'C8')",
        "INSERT INTO line VALUES (21, 2, 'paper')",
    )
    return made


def chapters(page: Page) -> list[list[str]]:
    """Return the entries of each chapter of the story: the verb and the record."""
    events = [event for event in page.all("li", "au-event") if "au-start" not in event.classes]
    return [[entry(node) for node in event.all("section", "au-entry")] for event in events]


def entry(node: Node) -> str:
    return node.attributes["aria-label"]


def entries(page: Page) -> set[str]:
    return {name for chapter in chapters(page) for name in chapter}


def test_children_tell_their_part_in_one_chapter(shop: Site) -> None:
    page = shop.get(ORDER)
    assert chapters(page) == [["Created order 1", "Created line 12", "Created line 11"]]
    assert "paper" not in page.words
    shop.write("UPDATE line SET product = 'pencil' WHERE id = 11", actor="7", label="Ada")
    page = shop.get(ORDER)
    assert chapters(page)[0] == ["Updated line 11"]
    assert "lines" in [n.text for n in page.all("span", "au-relation")]
    assert "Ada" in page.words


def test_a_story_compiles_nothing_twice(shop: Site) -> None:
    shop.write("UPDATE line SET order_id = 2 WHERE id = 11")
    shop.compiled_by(ORDER)
    assert shop.compiled_by(ORDER) == []
    # However many related records there are.
    assert shop.compiled_by("/audit/records/public/order/2") == []


def test_a_deleted_child_stays_in_the_story(shop: Site) -> None:
    shop.write("DELETE FROM line WHERE id = 12")
    page = shop.get(ORDER)
    assert chapters(page)[0] == ["Deleted line 12"]
    assert "ink" in page.words


def test_a_child_belongs_to_whom_it_pointed_to_at_that_time(shop: Site) -> None:
    shop.write("UPDATE line SET product = 'before' WHERE id = 11")
    shop.write("UPDATE line SET order_id = 2 WHERE id = 11")
    shop.write("UPDATE line SET product = 'after' WHERE id = 11")
    first, second = shop.get(ORDER), shop.get("/audit/records/public/order/2")
    assert chapters(first)[:2] == [["Updated line 11"], ["Updated line 11"]]  # before, and the move
    assert "before" in first.words
    assert "after" not in first.one("ol", "au-timeline").text.replace("Before", "").split()
    assert chapters(second)[:2] == [["Updated line 11"], ["Updated line 11"]]  # the move, and after
    assert len(chapters(second)) == 3


def test_a_parent_belongs_to_the_story_while_it_is_pointed_to(shop: Site) -> None:
    shop.write("UPDATE customer SET name = 'Ada L.' WHERE id = 7")
    shop.write("UPDATE customer SET name = 'Noor H.' WHERE id = 8")
    shop.write("UPDATE \"order\" SET customer_number = 'C8' WHERE id = 1")
    shop.write("UPDATE customer SET name = 'Ada M.' WHERE id = 7")
    shop.write("UPDATE customer SET name = 'Noor I.' WHERE id = 8")
    page = shop.get(ORDER)
    assert chapters(page)[:3] == [
        ["Updated customer 8"], ["Updated order 1"], ["Updated customer 7"],
    ]  # fmt: skip
    # The order's own change shows the labels that its customers have now.
    told = " ".join(entry.text for entry in page.all(cls="au-entry-related"))
    for text, is_there in (("L.", True), ("M.", False), ("H.", True), ("I.", True)):
        # "Noor H." is what the last change replaced.
        assert (text in told) == is_there, text
    shop.write('UPDATE "order" SET customer_number = NULL WHERE id = 1')
    shop.write("UPDATE customer SET name = 'Noor J.' WHERE id = 8")
    entries_now = [entry.text for entry in shop.get(ORDER).all(cls="au-entry-related")]
    assert entries_now
    assert not any("Noor J." in text for text in entries_now)


def test_links_of_a_many_to_many_are_rows_of_its_table(shop: Site) -> None:
    shop.write("INSERT INTO order_tag VALUES (1, 1), (2, 2)")
    shop.write("DELETE FROM order_tag WHERE order_id = 1")
    page = shop.get(ORDER)
    assert chapters(page)[:2] == [["Deleted order_tag 1, 1"], ["Created order_tag 1, 1"]]
    assert "order_tag 2, 2" not in page.words


def test_a_relation_of_two_columns_to_a_record_of_two(shop: Site) -> None:
    shop.write("INSERT INTO parcel VALUES ('a/b', 'c, d', 'north', 100), ('e', 'f', 'north', 200)")
    shop.write("UPDATE parcel SET order_number = NULL WHERE code = 'c, d'")
    page = shop.get(ORDER)
    assert chapters(page)[:2] == [["Updated parcel a/b, c, d"], ["Created parcel a/b, c, d"]]
    assert "parcel e, f" not in page.words
    for href in {h for h in page.hrefs if "parcel" in h}:
        shop.get(href)


def test_a_tree_follows_parents_and_children(shop: Site) -> None:
    shop.write("INSERT INTO category VALUES ('', 'root', NULL)")
    shop.write("INSERT INTO category VALUES ('a/b', 'branch', '')")
    shop.write("INSERT INTO category VALUES ('leaf', 'leaf', 'a/b'), ('other', 'other', '')")
    shop.write("UPDATE category SET name = 'stem' WHERE id = ''")
    shop.write("DELETE FROM category WHERE id = 'leaf'")
    page = shop.get("/audit/records/public/category/a/b")
    assert chapters(page) == [
        ["Deleted category leaf"], ["Updated category “”"], ["Created category leaf"],
        ["Created category a/b"],
    ]  # fmt: skip
    relations = [node.text for node in page.all("span", "au-relation")]
    assert relations == ["children", "parent", "children"]
    root = shop.get("/audit/records/?schema=public&table=category&identity=")
    assert {"Created category a/b", "Created category other"} <= entries(root)
    assert not {name for name in entries(root) if "leaf" in name}


def test_the_story_goes_on_when_keys_change(shop: Site) -> None:
    shop.write('UPDATE "order" SET id = 10 WHERE id = 1')
    shop.write("UPDATE line SET id = 110 WHERE id = 11")
    shop.write("UPDATE line SET product = 'quill' WHERE id = 110")
    shop.write("DELETE FROM line WHERE id = 110")
    for key in ("1", "10"):
        page = shop.get(f"/audit/records/public/order/{key}")
        assert chapters(page) == [
            ["Deleted line 110"],
            ["Updated line 110"],
            ["Updated line 110"],
            ["Updated order 10", "Updated line 12", "Updated line 11"],
            ["Created order 1", "Created line 12", "Created line 11"],
        ]


def test_another_record_of_a_former_key_has_its_own_children(shop: Site) -> None:
    shop.write('UPDATE "order" SET id = 10 WHERE id = 1')
    shop.write(
        "INSERT INTO \"order\" VALUES (1, 'south', 1, 'a stranger', NULL)",
        "INSERT INTO line VALUES (91, 1, 'strange')",
    )
    page = shop.get("/audit/records/public/order/10")
    assert "strange" not in page.words
    assert "ink" in page.words


def test_a_deleted_record_takes_its_children_into_one_chapter(shop: Site) -> None:
    shop.write('DELETE FROM "order" WHERE id = 1', actor="7", label="Ada")
    page = shop.get(ORDER)
    assert set(chapters(page)[0]) == {"Deleted order 1", "Deleted line 11", "Deleted line 12"}
    assert page.one(cls="au-state").text == "deleted"
    shop.write("INSERT INTO \"order\" VALUES (3, 'n', 3, '', NULL)")
    shop.write('TRUNCATE line, "order", order_tag, parcel')
    page = shop.get("/audit/records/public/order/3")
    state = page.one("a", "au-state")
    assert state.text == "deleted with all rows of the table"
    assert "Truncated" in shop.get(state.attributes["href"]).heading
    assert sorted(chapters(page)[0]) == [
        "Truncated line", "Truncated order", "Truncated order_tag", "Truncated parcel",
    ]  # fmt: skip
    shop.write("TRUNCATE line")
    assert chapters(shop.get("/audit/records/public/order/3")) == chapters(page)


def test_this_record_only(shop: Site) -> None:
    page = shop.get(ORDER)
    alone = shop.get(page.link("This record only"))
    assert chapters(alone) == [["Created order 1"]]
    assert chapters(shop.get(alone.link("With customer, lines, parcels, tags"))) == chapters(page)


def test_a_long_story_has_pages_of_whole_entries(shop: Site) -> None:
    for number in range(20):
        shop.write(
            f"UPDATE line SET product = 'product {number}.' WHERE order_id = 1",
            f"UPDATE \"order\" SET note = 'note {number}.' WHERE id = 1",
        )
    page = shop.get(ORDER)
    seen = [name for chapter in chapters(page) for name in chapter]
    assert len(seen) == 50
    assert "More of this transaction is on the next page." in page.words
    second = shop.get(page.link("Older"))
    seen += [name for chapter in chapters(second) for name in chapter]
    assert len(seen) == 63
    assert seen.count("Updated line 11") == seen.count("Updated order 1") == 20
    assert "Nothing before this is on record" in second.words
    assert chapters(shop.get(second.link("Back to the newest"))) == chapters(page)


def test_what_was_not_looked_at_is_said_and_can_be_looked_for(
    shop: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(story, "REACH", (5, 10, 500))
    shop.write("INSERT INTO line VALUES (13, 1, 'lost')")
    shop.write("DELETE FROM line WHERE id = 13")
    for number in range(8):
        shop.write(f"UPDATE customer SET name = 'n{number}' WHERE id = 8")
    page = shop.get(ORDER)
    assert "line 13" not in page.words
    assert "were looked for back to" in page.words
    wider = shop.get(page.link("Look further back"))
    assert chapters(wider)[:2] == [["Deleted line 13"], ["Created line 13"]]
    assert "were looked for back to" in wider.words
    assert "were looked for" not in shop.get(wider.link("Look further back")).words
    for text in ("0", "4", "x", ""):
        shop.get(f"{ORDER}?search={text}", status=400)


def test_what_came_with_the_record_is_found_however_long_ago(
    shop: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(story, "REACH", (2,))
    shop.write("DELETE FROM line WHERE id = 12")
    for number in range(3):
        shop.write(f"UPDATE customer SET name = 'n{number}' WHERE id = 8")
    page = shop.get(ORDER)
    assert chapters(page)[0] == ["Deleted line 12"]
    assert "Look further back" not in page.words  # there is no longer reach


def test_children_that_are_there_bring_their_former_keys(
    shop: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(story, "REACH", (2,))
    shop.write("INSERT INTO line VALUES (13, 1, 'later')")
    shop.write("UPDATE line SET id = 130 WHERE id = 13")
    shop.write("UPDATE line SET id = 1300 WHERE id = 130")
    for number in range(3):
        shop.write(f"UPDATE customer SET name = 'n{number}' WHERE id = 8")
    assert chapters(shop.get(ORDER))[:3] == [
        ["Updated line 1300"], ["Updated line 130"], ["Created line 13"],
    ]  # fmt: skip


def test_many_children_are_cut_and_said(shop: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(story, "RECORDS", 3)
    monkeypatch.setattr(story, "REACH", (2,))
    shop.write("INSERT INTO line SELECT n, 1, 'x' FROM generate_series(100, 110) AS n")
    page = shop.get(ORDER)
    assert "lines: there are more than 3" in page.words
    assert "More than 2 related records were found in recent changes" in page.words


def test_a_table_that_cannot_be_read_costs_only_its_present_rows(shop: Site) -> None:
    shop.write("ALTER TABLE line RENAME TO moved")
    page = shop.get(ORDER)
    assert "lines: the table line could not be read" in page.words
    assert "Created line 11" in entries(page)


def test_the_number_of_queries_does_not_grow(shop: Site) -> None:
    def count() -> int:
        shop.get(ORDER)
        statements.clear()
        shop.get(ORDER)
        return len(statements)

    statements = shop.watch()
    few = count()
    shop.write("INSERT INTO line SELECT n, 1, 'x' FROM generate_series(100, 140) AS n")
    for number in range(10):
        shop.write(f"UPDATE line SET product = 'p{number}' WHERE id = 11")
    # The labels of what a page points at are read once for each table; not every page has all.
    assert count() <= few
    text = " ".join(statements).lower()
    assert "count(" not in text
    assert "offset" not in text


def test_former_names_of_a_followed_table(shop: Site) -> None:
    shop.write("ALTER TABLE line RENAME TO item", "ALTER TABLE item RENAME order_id TO order_no")
    shop.write("INSERT INTO item VALUES (14, 1, 'under the old name')")
    shop.write("DELETE FROM item WHERE id = 14")
    shop.write("ALTER TABLE item RENAME TO line", "ALTER TABLE line RENAME order_no TO order_id")
    shop.extra.Line.__versioned__ = {
        "formerly": {"table": ["item"], "columns": {"order_id": ["order_no"]}}
    }
    shop.logger._forget_places()
    page = shop.get(ORDER)
    assert chapters(page)[:2] == [["Deleted item 14"], ["Created item 14"]]
    assert "order_no" not in page.words


def test_the_other_driver_reads_the_same_story(shop: Site, make_site: MakeSite) -> None:
    shop.write("INSERT INTO parcel VALUES ('a', 'b', 'north', 100)", "DELETE FROM line")
    url = shop.url.replace("+psycopg2", "+psycopg")
    other = make_site(url, extend=shops.models, create=False)
    page = other.get(ORDER)
    assert chapters(page) == chapters(shop.get(ORDER))
    assert not page.all("p", "au-notice")
    assert "Created parcel a, b" in entries(page)
    other.get(f"{ORDER}?field=note")
    other.get(f"{ORDER}?at=2999-01-01")
