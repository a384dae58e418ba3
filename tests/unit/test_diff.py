"""Differences as values: fields, words, leaves."""

from __future__ import annotations

import random
import time
from collections import Counter
from decimal import Decimal
from typing import Any

import pytest

from audit_app import diff
from audit_app.diff import ABSENT, FieldChange, LeafChange, Segment, text_diff


class TestChanges:
    def test_an_insert_is_all_additions(self) -> None:
        assert diff.changes("insert", None, {"id": 1, "name": None}) == (
            FieldChange("id", ABSENT, 1, "added"),
            FieldChange("name", ABSENT, None, "added"),
        )

    def test_a_delete_is_all_removals(self) -> None:
        assert diff.changes("delete", {"id": 1, "name": ""}, None) == (
            FieldChange("id", 1, ABSENT, "removed"),
            FieldChange("name", "", ABSENT, "removed"),
        )

    def test_an_update_compares_the_old_row_with_the_new_one(self) -> None:
        old = {"id": 1, "name": "Swaziland", "note": None}
        assert diff.changes("update", old, {"name": "Eswatini"}) == (
            FieldChange("name", "Swaziland", "Eswatini", "changed"),
        )

    def test_unchanged_fields_follow_where_they_are_wanted(self) -> None:
        found = diff.changes("update", {"id": 1, "name": "a"}, {"name": "b"}, unchanged=True)
        assert [(c.field, c.kind) for c in found] == [("name", "changed"), ("id", "unchanged")]

    def test_what_python_calls_equal_is_a_change_all_the_same(self) -> None:
        old: dict[str, Any] = {"a": 10, "b": 1, "c": Decimal("1.0")}
        new = {"a": Decimal("10.0"), "b": True, "c": Decimal("1.00")}
        assert [c.kind for c in diff.changes("update", old, new)] == ["changed"] * 3

    def test_a_field_that_the_old_row_did_not_have_is_added(self) -> None:
        assert diff.changes("update", {}, {"new": None}) == (
            FieldChange("new", ABSENT, None, "added"),
        )

    @pytest.mark.parametrize("verb", ["truncate", "suspend", "resume", "gap", "unheard of"])
    def test_other_verbs_change_no_field(self, verb: str) -> None:
        assert diff.changes(verb, {"rows": 3}, None) == ()

    def test_absent_is_not_none(self) -> None:
        assert ABSENT is not None
        assert not ABSENT
        assert repr(ABSENT) == "ABSENT"


def assert_reassembles(old: str, new: str, *, seconds: float = 0.5) -> diff.TextDiff:
    found = text_diff(old, new, seconds=seconds)
    assert (found.old, found.new) == (old, new)
    assert all(segment.text for segment in found.segments)
    return found


class TestTextDiff:
    def test_words_are_replaced_as_a_whole(self) -> None:
        assert text_diff("the quick brown fox", "the quiet brown fox").segments == (
            Segment("equal", "the "),
            Segment("delete", "quick"),
            Segment("insert", "quiet"),
            Segment("equal", " brown fox"),
        )

    def test_the_end_of_a_word_counts_as_well(self) -> None:
        found = text_diff("see the reading room", "see the heading room")
        assert [s.text for s in found.segments if s.kind != "equal"] == ["reading", "heading"]

    def test_an_insertion_begins_with_its_word(self) -> None:
        found = text_diff("is a sovereign state", "is a fully sovereign state")
        assert found.segments[1] == Segment("insert", "fully ")

    def test_neighbouring_words_are_one_change(self) -> None:
        found = text_diff("one two three four", "one 2 3 four")
        assert [s.text for s in found.segments if s.kind == "delete"] == ["two three"]

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("", ""), ("", "a"), ("a", ""), ("a", "a"), ("aaa", "aa"), ("ab ab", "ab ab ab"),
            ("a\r\nb", "a\nb"), (" a", "a "), ("\n", "\n\n"), ("é", "e\u0301"), ("😀x", "😀y"),
            ("a" * 500, "a" * 499 + "b"), ("word " * 300, "word " * 299), ("x", "y" * 300),
        ],
    )  # fmt: skip
    def test_both_texts_can_be_reassembled(self, old: str, new: str) -> None:
        assert_reassembles(old, new)

    def test_both_texts_can_be_reassembled_whatever_they_are(self) -> None:
        chance = random.Random(4711)
        for alphabet in ("ab", "ab ", "a b\n.", "äß\u0301 \U0001f600,-_1"):
            for _ in range(300):
                old = "".join(chance.choices(alphabet, k=chance.randrange(30)))
                new = list(old)
                for _ in range(chance.randrange(4)):
                    at = chance.randrange(len(new) + 1)
                    new[at : at + chance.randrange(3)] = chance.choices(alphabet, k=2)
                assert_reassembles(old, "".join(new))

    def test_the_unchanged_part_of_a_long_text_is_kept(self) -> None:
        words = [f"word{number}" for number in range(5000)]
        changed = [w.upper() if n % 50 == 0 else w for n, w in enumerate(words)]
        found = assert_reassembles(" ".join(words), " ".join(changed))
        assert found.method == "words"
        kept = sum(len(s.text) for s in found.segments if s.kind == "equal")
        assert kept > 0.95 * len(" ".join(words))

    @pytest.mark.parametrize(
        ("separator", "method"), [("\n", "lines"), (" ", "ends")], ids=["lines", "one line"]
    )
    def test_a_megabyte_takes_less_than_two_seconds(self, separator: str, method: str) -> None:
        words = [f"line {number} {'x' * 100}" for number in range(9_000)]
        changed = [w.replace("x", "y") if n % 100 == 7 else w for n, w in enumerate(words)]
        old, new = separator.join(words), separator.join(changed)
        assert len(old) > 1_000_000 - 50_000
        started = time.monotonic()
        found = assert_reassembles(old, new)
        assert time.monotonic() - started < 2
        assert found.method == method

    @pytest.mark.parametrize("pattern", ["a b ", "aaaa", "a\nb\n", "x y z w "])
    def test_repetitive_texts_take_less_than_two_seconds(self, pattern: str) -> None:
        old = pattern * (180_000 // len(pattern) // 2)
        new = "?" + old[: len(old) // 2] + "!" + old[len(old) // 2 + 7 :] + "."
        started = time.monotonic()
        assert_reassembles(old, new)
        assert time.monotonic() - started < 2

    def test_without_time_only_the_ends_are_compared(self) -> None:
        found = assert_reassembles("a b c d e", "a X c Y e", seconds=0)
        assert found.method == "ends"
        assert found.segments[0] == Segment("equal", "a ")
        assert found.segments[-1] == Segment("equal", " e")


class TestBetween:
    def test_two_states_of_a_row(self) -> None:
        old = {"a": 1, "b": 10, "c": None, "d": "x"}
        new = {"a": 1, "b": Decimal("10.0"), "d": "y", "e": ""}
        assert diff.between(old, new, unchanged=True) == (
            FieldChange("b", 10, Decimal("10.0"), "changed"),
            FieldChange("c", None, ABSENT, "removed"),
            FieldChange("d", "x", "y", "changed"),
            FieldChange("e", ABSENT, "", "added"),
            FieldChange("a", 1, 1, "unchanged"),
        )

    def test_a_row_that_does_not_exist_has_no_fields(self) -> None:
        assert diff.between({"a": None}, None) == (FieldChange("a", None, ABSENT, "removed"),)
        assert diff.between(None, {"a": 1}) == (FieldChange("a", ABSENT, 1, "added"),)
        assert diff.between(None, None) == ()


class TestJsonDiff:
    def leaves(self, old: Any, new: Any, *, seconds: float = 0.5) -> list[LeafChange]:
        return list(diff.json_diff(old, new, seconds=seconds))

    def test_only_the_changed_leaf_is_named_with_its_path(self) -> None:
        old = {"a": {"b": [1, {"c": "x", "d": "y"}]}, "e": 1}
        new = {"a": {"b": [1, {"c": "z", "d": "y"}]}, "e": 1}
        assert self.leaves(old, new) == [LeafChange(("a", "b", 1, "c"), "x", "z", "changed")]

    def test_an_item_in_front_moves_nothing(self) -> None:
        assert self.leaves(["a", "b", "c"], ["new", "a", "b", "c"]) == [
            LeafChange((0,), ABSENT, "new", "added")
        ]

    def test_a_removed_item_has_its_old_position(self) -> None:
        assert self.leaves(["a", "b", "c"], ["a", "c"]) == [
            LeafChange((1,), "b", ABSENT, "removed")
        ]

    def test_an_object_on_one_side_is_one_leaf(self) -> None:
        assert self.leaves({"a": {"b": 1}}, {"a": 1}) == [
            LeafChange(("a",), {"b": 1}, 1, "changed")
        ]

    def test_null_is_not_absent(self) -> None:
        assert self.leaves({"a": None}, {}) == [LeafChange(("a",), None, ABSENT, "removed")]

    @pytest.mark.parametrize(
        ("a", "b"),
        [
            (10, Decimal("10.0")), (Decimal("10.0"), Decimal("10.00")), (1, True), (0, False),
            (0, ""), ("", None), ("0", 0), ([], {}), ([1], [True]), ({"a": 1}, {"a": True}),
            ([[]], [{}]), ({"a": []}, {"a": {}}), ([1, 2], [2, 1]),
        ],
    )  # fmt: skip
    def test_values_that_are_stored_differently_differ(self, a: Any, b: Any) -> None:
        assert not diff.identical(a, b)
        assert self.leaves({"x": a}, {"x": b}) != []

    @pytest.mark.parametrize("value", [{"a": [1, None, {"b": "c"}]}, [], {}, "", 0, None])
    def test_a_value_is_identical_to_its_copy(self, value: Any) -> None:
        import copy

        assert diff.identical(value, copy.deepcopy(value))
        assert self.leaves(value, copy.deepcopy(value)) == []

    def test_the_order_of_keys_does_not_matter(self) -> None:
        assert diff.identical({"a": 1, "b": 2}, {"b": 2, "a": 1})

    def test_an_item_that_stands_elsewhere_was_moved(self) -> None:
        item = {"post code": "1011"}
        assert self.leaves([item, "b", "c"], ["b", "c", item]) == [
            LeafChange((2,), item, item, "moved", 0)
        ]

    def test_moved_inserted_and_removed_items_are_told_apart(self) -> None:
        found = self.leaves(["red", "green", "blue", "round"], ["blue", "red", "amber", "green"])
        assert found == [
            LeafChange((0,), "blue", "blue", "moved", 2),
            LeafChange((2,), ABSENT, "amber", "added"),
            LeafChange((3,), "round", ABSENT, "removed"),
        ]

    def test_of_equal_items_only_as_many_moved_as_left(self) -> None:
        found = self.leaves(["x", "a", "b", "c", "d"], ["a", "b", "c", "d", "x", "x"])
        assert sorted((leaf.kind, leaf.path) for leaf in found) == [
            ("added", (5,)),
            ("moved", (4,)),
        ]

    @pytest.mark.parametrize("seconds", [0.5, 0.0])
    @pytest.mark.parametrize("size", [5, 40, 700])
    def test_no_item_of_a_list_gets_lost(self, size: int, seconds: float) -> None:
        chance = random.Random(4711)
        for _ in range(20 if size < 700 else 3):
            old = [chance.randrange(size) for _ in range(size)]
            new = [chance.choice(old) if chance.random() < 0.3 else item for item in old]
            new[size // 2 : size // 2 + 2] = chance.choices(range(-9, 0), k=3)
            new.insert(0, new.pop())
            before, after = Counter(old), Counter(new)
            for leaf in self.leaves(old, new, seconds=seconds):
                if leaf.kind == "moved":
                    assert leaf.moved_from is not None
                    assert leaf.old == leaf.new == old[leaf.moved_from] == new[int(leaf.path[0])]
                before.subtract([leaf.old] if leaf.kind in {"removed", "changed"} else [])
                after.subtract([leaf.new] if leaf.kind in {"added", "changed"} else [])
            assert before == after

    def test_a_long_list_with_changes_at_both_ends_stays_aligned(self) -> None:
        old = list(range(2_000))
        new = [-1, *old[:-1], -2, old[-1]]
        assert self.leaves(old, new) == [
            LeafChange((0,), ABSENT, -1, "added"), LeafChange((2_000,), ABSENT, -2, "added")
        ]  # fmt: skip

    @pytest.mark.parametrize("width", [1, 2])
    def test_a_depth_of_six_thousand_is_walked(self, width: int) -> None:
        def nest(leaf: Any) -> Any:
            value = leaf
            for _ in range(3000):
                value = {"k": [value] + ["same"] * (width - 1)}
            return value

        old, new = nest("old"), nest("new")
        started = time.monotonic()
        found = self.leaves(old, new)
        assert time.monotonic() - started < 2
        assert [(leaf.old, leaf.new, len(leaf.path)) for leaf in found] == [("old", "new", 6000)]
        # Taking them apart level by level: Python's own way of freeing them recurses.
        for document in (old, new):
            value: Any = document
            while isinstance(value, dict):
                value = value.pop("k").pop(0)

    def test_long_lists_are_compared_in_reasonable_time(self) -> None:
        old = list(range(20_000))
        new = [*old[:9_000], -1, *old[9_001:]]
        started = time.monotonic()
        assert self.leaves(old, new) == [LeafChange((9_000,), 9_000, -1, "changed")]
        assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (10, "10"), (Decimal("10.0"), "10.0"), (Decimal("10.00"), "10.00"),
        (Decimal("1E+3"), "1000"), (Decimal("1E-7"), "0.0000001"), (Decimal("NaN"), "NaN"),
    ],
)  # fmt: skip
def test_numbers_are_written_as_they_are_stored(value: Any, text: str) -> None:
    assert diff.number_text(value) == text
