"""The option ``labels``: what it means, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from audit_app import AuditLogger, labels
from audit_app.errors import ConfigurationError


class Lazy:
    """A translation that is looked up when it is printed."""

    def __str__(self) -> str:
        return "Überschrift"


def test_a_table_is_found_by_its_name_or_with_its_schema() -> None:
    found = labels.parse(
        {"article": {"": "Article", "title": "Headline"}, "shop.article": {"title": "Product name"}}
    )
    assert found.table("public", "article") == "Article"
    assert found.field("public", "article", "title") == "Headline"
    assert found.field("shop", "article", "title") == "Product name"
    assert found.table("shop", "article") == "Article"
    assert found.field("public", "article", "body") == ""
    assert found.field("public", "article", "") == ""
    assert found.table("public", "other") == ""


def test_a_lazy_translation_becomes_text_when_it_is_shown() -> None:
    lazy: Any = Lazy()
    assert labels.parse({"a": {"b": lazy}}).field("public", "a", "b") == "Überschrift"


def test_without_labels_there_are_none() -> None:
    assert labels.parse(None).table("public", "article") == ""
    assert AuditLogger().labels == labels.NONE


@pytest.mark.parametrize(
    "given",
    [
        [], "article", 1, {"article": "Article"}, {"article": None}, {1: {}}, {"": {}},
        {"article": {"title": 1}}, {"article": {"title": None}}, {"article": {"title": ""}},
        {"article": {1: "x"}}, {"article": {"title": ["x"]}}, {"article": {"title": str}},
        {"article": {"title": object()}}, {"article": {"title": b"x"}},
    ],
)  # fmt: skip
def test_another_shape_is_refused_with_the_right_one(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="labels"):
        AuditLogger(labels=given)
