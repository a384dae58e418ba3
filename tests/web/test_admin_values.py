"""How the values of each kind of column are shown, and what is said about their difference."""

from __future__ import annotations

import datetime as dt
import hashlib
import uuid
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import Range

from tests.web.catalogue import Catalogue, Size, State
from tests.web.conftest import MakeSite
from tests.web.site import HOSTILE, Node, Page


def field(page: Page, name: str) -> Node:
    """Return the field of a column; one with a label keeps the column's name beside it."""
    found = [
        n
        for n in page.all("div", "au-field")
        if n.one(cls="au-field-name").text.split()[-1] == name
    ]
    assert len(found) == 1, (name, len(found))
    return found[0]


def shown(node: Node) -> tuple[str, str, str]:
    """Return what stands before, after, and between."""
    distance = [" ".join(n.text.split()).removeprefix("ΔDifference: ") for n in
                node.all(cls="au-distance")]  # fmt: skip
    sides = [" ".join(n.text.split()) for n in (node.one("del"), node.one("ins"))]
    return sides[0], sides[1], distance[0] if distance else ""


@pytest.fixture
def catalogue(make_site: MakeSite) -> Catalogue:
    return Catalogue(make_site)


UTC = dt.UTC
MINUS = "\N{MINUS SIGN}"


@pytest.mark.parametrize(
    ("name", "old", "new", "wanted"),
    [
        ("stock", 10, 7, ("10", "7", f"{MINUS}3")),
        ("price", Decimal("9.90"), Decimal("12.495"), ("9.90", "12.495", "+2.595")),
        ("price", Decimal("10"), Decimal("10.0"),
         ("10", "10.0", "the same number, written with other digits")),
        ("price", Decimal("0.1"), Decimal("1e30"),
         ("0.1", "1" + "0" * 30, "+" + "9" * 30 + ".9")),
        ("price", Decimal("NaN"), Decimal(1), ("NaN", "1", "")),
        ("price", 0, None, ("0", "null", "")),
        ("weight", 1.5, 1.25, ("1.5", "1.25", f"{MINUS}0.25")),
        ("published", False, True, ("false", "true", "")),
        ("published", None, False, ("null", "false", "")),
        ("day", dt.date(2026, 2, 27), dt.date(2026, 3, 2),
         ("2026-02-27", "2026-03-02", "3 days later")),
        ("day", dt.date(2026, 2, 28), dt.date(2026, 2, 27),
         ("2026-02-28", "2026-02-27", "1 day earlier")),
        ("moment", dt.datetime(2026, 1, 1, 12, tzinfo=UTC),
         dt.datetime(2026, 1, 1, 9, 55, tzinfo=UTC),
         ("2026-01-01T12:00:00+00:00", "2026-01-01T09:55:00+00:00", "2 h 5 min earlier")),
        ("moment", dt.datetime(2026, 1, 1, tzinfo=UTC),
         dt.datetime(2026, 1, 1, 0, 0, 0, 1500, tzinfo=UTC),
         ("2026-01-01T00:00:00+00:00", "2026-01-01T00:00:00.0015+00:00", "1.5 ms later")),
        ("clock", dt.time(9, 30), dt.time(9, 30, 20), ("09:30:00", "09:30:20", "20 s later")),
        ("lasts", dt.timedelta(hours=2), dt.timedelta(days=1, hours=2),
         ("02:00:00", "1 day 02:00:00", "")),
        ("state", State.DRAFT, State.LIVE, ("DRAFT Work in progress", "LIVE For sale", "")),
        ("size", Size.S, Size.L, ("S small", "L large", "")),
        ("span", Range(1, 5), Range(1, 6), ("[1,5)", "[1,6)", "")),
        ("token", uuid.UUID(int=1), uuid.UUID(int=2),
         (str(uuid.UUID(int=1)), str(uuid.UUID(int=2)), "")),
        ("address", "10.0.0.1", "10.0.0.2", ("10.0.0.1", "10.0.0.2", "")),
        ("pin", "1", "2", ("masked", "masked", "")),
    ],
)  # fmt: skip
def test_each_kind_of_column(
    catalogue: Catalogue, name: str, old: Any, new: Any, wanted: tuple[str, str, str]
) -> None:
    page = catalogue.site.get(catalogue.change({name: old}, {name: new}))
    assert shown(field(page, name)) == wanted


def test_null_absent_empty_false_and_zero_all_differ(catalogue: Catalogue) -> None:
    values = {"null": None, "empty": "", "false": False, "zero": 0, "text": "0"}
    page = catalogue.site.get(
        catalogue.change(
            {"settings": {"kept": 1, "gone": None}}, {"settings": {"kept": 1, **values}}
        )
    )
    looks = {}
    for leaf in field(page, "settings").one("ul", "au-leaves").all("li"):
        sides = leaf.all("del") + leaf.all("ins")
        marks = [(n.tag, *n.classes) for side in sides for n in side.walk() if n is not side]
        name = leaf.one(cls="au-path").text
        looks[name] = (tuple(s.tag for s in sides), tuple(s.text for s in sides), *marks)
    assert looks["gone"][0] == ("del",)
    assert len(set(looks.values())) == len(values) + 1


def test_bytes_show_by_size_and_digest(catalogue: Catalogue) -> None:
    old, new = b"\x00" * 10_000, b"\x01" * 10_200
    page = catalogue.site.get(catalogue.change({"picture": old}, {"picture": new}))
    before, after, distance = shown(field(page, "picture"))
    assert before == f"10 kB (10,000 bytes) SHA-256 {hashlib.sha256(old).hexdigest()}"
    assert after.endswith(hashlib.sha256(new).hexdigest())
    assert distance == "+200 B"
    assert "\\x0101" not in field(page, "picture").text


def test_a_value_that_was_too_large_to_store_shows_by_size_and_digest(catalogue: Catalogue) -> None:
    stand_in = '{"$audit": "too large", "bytes": 300000000, "sha256": "ab12", "beginning": "x"}'
    with catalogue.site.engine.begin() as connection:
        id_ = connection.scalar(
            sa.text(
                "INSERT INTO audit.activity (transaction_id, native_transaction_id, issued_at,"
                " relid, depth, schema_name, table_name, verb, object_id, old_data, changed_data)"
                " SELECT transaction_id, native_transaction_id, issued_at, relid, depth,"
                " schema_name, table_name, 'update', object_id, '{\"body\": \"short\"}',"
                " jsonb_build_object('body', CAST(:value AS jsonb)) FROM audit.activity"
                " WHERE table_name = 'product' RETURNING id"
            ),
            {"value": stand_in},
        )
    path = f"/audit/activities/{id_}"
    node = field(catalogue.site.get(path), "body")
    assert node.one("ins").text == "286.1 MB (300,000,000 bytes) SHA-256 ab12"


def test_items_of_a_list_that_came_went_or_moved_are_told_apart(catalogue: Catalogue) -> None:
    old, new = ["red", "green", "blue", "round"], ["blue", "red", "amber", "green"]
    page = catalogue.site.get(catalogue.change({"tags": old}, {"tags": new}))
    leaves = field(page, "tags").one("ul", "au-leaves").all("li")
    words = {leaf.one(cls="au-path").text: " ".join(leaf.text.split()) for leaf in leaves}
    assert "moved from position 2 to 0 blue" in words["[0]"]
    assert [n.text for leaf in leaves for n in leaf.all("ins")] == ["amber"]
    assert [n.text for leaf in leaves for n in leaf.all("del")] == ["round"]
    assert len(leaves) == 3


def test_only_the_changed_leaf_shows_with_its_path_and_its_distance(catalogue: Catalogue) -> None:
    old = {"limits": {"daily": 10, "weekly": 70}, "lines": [{"a": 1}, {"a": 2, "b c": "kept"}]}
    new = {"limits": {"daily": 10, "weekly": 70}, "lines": [{"a": 1}, {"a": 2.5, "b c": "kept"}]}
    page = catalogue.site.get(catalogue.change({"settings": old}, {"settings": new}))
    node = field(page, "settings")
    assert node.one(cls="au-path").text == "lines[1].a"
    assert shown(node) == ("2", "2.5", "+0.5")
    assert "weekly" not in node.text
    assert "kept" not in node.text


def test_a_long_text_folds_what_did_not_change_at_whole_words(catalogue: Catalogue) -> None:
    words = [f"unchanging{number}" for number in range(600)]
    old, new = " ".join([*words, "five", *words]), " ".join([*words, "six", *words])
    page = catalogue.site.get(catalogue.change({"body": old}, {"body": new}))
    node = field(page, "body").one(cls="au-words")
    assert [n.one("summary").text.split()[1] for n in node.all("details", "au-gap")] == [
        "unchanged", "unchanged"
    ]  # fmt: skip
    folded = [n.one("span").text for n in node.all("details", "au-gap")]
    assert folded[0].rpartition(" ")[2] in {*words, ""}
    assert folded[1].partition(" ")[0] in {*words, ""}
    assert (node.one("del").text, node.one("ins").text) == ("five", "six")


def test_markup_is_text_wherever_it_stands(catalogue: Catalogue) -> None:
    texts: dict[str, Any] = {
        "title": HOSTILE,
        "body": f"# Heading\n\n**bold** {HOSTILE} <b>not bold</b>\n" * 30,
        "tags": [HOSTILE, "x"],
        "settings": {HOSTILE: {"<img onerror=x>": HOSTILE}},
        "maker_id": 1,
    }
    catalogue.site.write(sa.update(catalogue.Maker).values(name=HOSTILE))
    changed = {
        **texts, "title": f"{HOSTILE}!", "body": texts["body"] + HOSTILE, "tags": ["x", HOSTILE],
        "settings": {HOSTILE: {"<img onerror=x>": f"{HOSTILE}?"}}, "maker_id": 2,
    }  # fmt: skip
    path = catalogue.change(texts, changed)
    compare = f"/audit/compare/public/product/1?from={catalogue.site.activity_id('product') - 1}"
    for address in (path, "/audit/records/public/product/1", compare, f"{compare}&raw=1"):
        page = catalogue.site.get(address)
        assert page.one("main").all("img") == []
        assert all("src" in n.attributes for n in page.all("script"))
        assert HOSTILE in page.one("main").text
        assert not page.one("main").all("b")


def test_the_last_row_of_a_page_has_its_difference(catalogue: Catalogue) -> None:
    catalogue.site.write(*(f"UPDATE product SET stock = {number}" for number in range(60)))
    page = catalogue.site.get("/audit/records/public/product/1")
    last = page.all(cls="au-entry")[-1]
    assert shown(last.one(cls="au-field")) == ("9", "10", "+1")


def test_raw_json_on_request(catalogue: Catalogue) -> None:
    path = catalogue.change({"body": "x" * 150_000}, {"body": "y" * 150_000})
    page = catalogue.site.get(path)
    assert not page.all("pre")
    raw = catalogue.site.get(page.link("Show the stored JSON, which is long"))
    assert any('"body": "xxx' in node.text for node in raw.all("pre"))


class TestForeignKeys:
    def test_they_show_the_label_of_their_target_and_lead_to_its_record(
        self, catalogue: Catalogue
    ) -> None:
        path = catalogue.change({"maker_id": 1}, {"maker_id": 2})
        transaction = catalogue.site.get("/audit/").transactions()[0]
        for address in (path, "/audit/records/public/product/1", transaction):
            page = catalogue.site.get(address)
            node = next(n for n in page.all("div", "au-field") if "maker_id" in n.text)
            assert shown(node) == ("1 Ada Works", "2 Böhm & Co", "")
            assert (
                catalogue.site.get(node.one("ins").one("a").attributes["href"]).heading == "maker 2"
            )

    def test_of_a_target_that_is_gone_the_stored_value_remains(self, catalogue: Catalogue) -> None:
        path = catalogue.change({"maker_id": 1}, {"maker_id": 2})
        catalogue.site.write("UPDATE product SET maker_id = NULL", "DELETE FROM maker WHERE id = 2")
        node = field(catalogue.site.get(path), "maker_id")
        assert shown(node) == ("1 Ada Works", "2", "")
        record = catalogue.site.get(node.one("ins").one("a").attributes["href"])
        assert record.one(cls="au-state").text == "deleted"

    def test_a_table_that_is_not_tracked_is_not_read(self, catalogue: Catalogue) -> None:
        path = catalogue.change({"secret_id": 1}, {"secret_id": 2})
        statements = catalogue.site.watch()
        page = catalogue.site.get(path)
        assert shown(field(page, "secret_id")) == ("1", "2", "")
        assert "untold" not in page.html
        assert not [statement for statement in statements if "secret" in statement]

    def test_a_column_that_is_not_recorded_is_no_label(self, catalogue: Catalogue) -> None:
        catalogue.site.write("UPDATE maker SET name = NULL, email = 'ada@example.org'")
        page = catalogue.site.get(catalogue.change({"maker_id": 1}, {"maker_id": 2}))
        assert shown(field(page, "maker_id")) == ("1", "2", "")
        assert "ada@example.org" not in page.html

    def test_a_table_is_read_once_for_a_page(self, catalogue: Catalogue) -> None:
        site = catalogue.site
        site.write("INSERT INTO maker SELECT n, 'Maker ' || n FROM generate_series(3, 70) AS n")
        counts, statements = [], site.watch()
        for rows in (5, 45):
            site.write(*(f"UPDATE product SET maker_id = {n + 1}" for n in range(rows)))
            statements.clear()
            page = site.get("/audit/records/public/product/1")
            assert "Maker 5" in page.words
            counts.append(len(statements))
            assert len([s for s in statements if "FROM public.maker" in s]) == 1
        assert counts[0] == counts[1]

    def test_a_table_that_cannot_be_read_takes_nothing_away(self, catalogue: Catalogue) -> None:
        path = catalogue.change({"maker_id": 1}, {"maker_id": 2})
        catalogue.site.write("ALTER TABLE maker RENAME TO was_maker")
        assert shown(field(catalogue.site.get(path), "maker_id")) == ("1", "2", "")

    def test_a_migration_that_holds_a_table_is_not_waited_for(self, catalogue: Catalogue) -> None:
        path = catalogue.change({"maker_id": 1}, {"maker_id": 2})
        errors: list[str] = []

        def note(failure: sa.engine.ExceptionContext) -> None:
            errors.append(getattr(failure.original_exception, "pgcode", ""))

        sa.event.listen(catalogue.site.engine, "handle_error", note)
        with catalogue.site.engine.begin() as connection:
            connection.execute(sa.text("LOCK TABLE maker, product IN ACCESS EXCLUSIVE MODE"))
            page = catalogue.site.get(path)
            compare = catalogue.site.get("/audit/compare/public/product/1")
        assert shown(field(page, "maker_id")) == ("1", "2", "")
        assert "could not be read" in compare.words
        assert set(errors) == {"55P03"}  # lock_not_available
