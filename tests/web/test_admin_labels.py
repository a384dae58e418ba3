"""How an application calls its tables, fields and records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from flask_admin import Admin
from flask_admin.contrib.sqla import ModelView
from markupsafe import Markup

from tests.web.catalogue import Catalogue
from tests.web.conftest import MakeSite
from tests.web.site import HOSTILE, Node, Page
from tests.web.test_admin_values import field, shown


def name_of(node: Node) -> str:
    return " ".join(node.one(cls="au-field-name").text.split())


@pytest.fixture
def catalogue(make_site: MakeSite) -> Catalogue:
    return Catalogue(make_site)


AddView = Callable[..., Page]


@pytest.fixture
def with_view(catalogue: Catalogue) -> AddView:
    """Give the host's ``Admin`` a view for products; return the page of a change of the price."""

    def add(**options: Any) -> Page:
        view = type("ProductView", (ModelView,), options)
        admin = Admin(catalogue.site.app, url="/desk")
        admin.add_view(view(catalogue.Product, catalogue.site.db))
        return catalogue.site.get(catalogue.change({"price": 10}, {"price": 11, "title": "New"}))

    return add


class TestOption:
    def test_labels_stand_beside_the_names_that_support_asks_for(
        self, catalogue: Catalogue
    ) -> None:
        page = catalogue.site.get(catalogue.change({"title": "One"}, {"title": "Two"}))
        assert name_of(field(page, "title")) == "Headline title"
        assert page.heading == "~Updated Product 1"
        assert page.one("h1").one(cls="au-table").attributes["title"] == "product"

    def test_they_are_on_every_page(self, catalogue: Catalogue) -> None:
        catalogue.change({"title": "One"}, {"title": "Two"})
        feed = catalogue.site.get("/audit/")
        chip = next(n for n in feed.all(cls="au-chip-name") if n.text == "Headline")
        assert chip.attributes["title"] == "title"
        for address in (
            "/audit/records/public/product/1",
            feed.transactions()[0],
            f"/audit/compare/public/product/1?from={catalogue.site.activity_id('product') - 1}",
        ):
            page = catalogue.site.get(address)
            assert "Headline title" in page.words
            assert "Product 1" in page.words

    def test_a_table_is_chosen_by_its_label(self, catalogue: Catalogue) -> None:
        catalogue.change({"title": "One"}, {"title": "Two"})
        page = catalogue.site.get("/audit/?table=product")
        options = {
            n.attributes["value"]: n.text for n in page.all("option") if "value" in n.attributes
        }
        assert options["product"] == "Product"
        assert "Table: Product" in page.one("a", "au-pill").text
        row = next(n for n in catalogue.site.get("/audit/tables/").all("th") if "Product" in n.text)
        assert (row.one("a").text, row.one("code").text) == ("Product", "product")

    def test_without_one_the_name_is_what_it_was(self, catalogue: Catalogue) -> None:
        page = catalogue.site.get(catalogue.change({"stock": 1}, {"stock": 2}))
        assert name_of(field(page, "stock")) == "stock"


class TestRecordLabels:
    def test_the_model_says_what_its_record_is_called(self, catalogue: Catalogue) -> None:
        catalogue.Product.__audit_label__ = lambda self: f"{self.title} at {self.price}"
        catalogue.Maker.__audit_label__ = lambda self: f"{self.name} ({self.id})"
        page = catalogue.site.get(
            catalogue.change({"price": 10, "maker_id": 1}, {"price": 11, "maker_id": 2})
        )
        assert page.one(cls="au-sub").text == "A product at 11"
        assert shown(field(page, "maker_id"))[:2] == ("1 Ada Works (1)", "2 Böhm & Co (2)")
        assert "A product at 11" in catalogue.site.get("/audit/").words
        assert "A product at 11" in catalogue.site.get("/audit/records/public/product/1").words

    def test_a_model_with_one_opens_its_table_to_the_pages(self, catalogue: Catalogue) -> None:
        catalogue.Secret.__audit_label__ = lambda self: f"no. {self.id}"
        page = catalogue.site.get(catalogue.change({"secret_id": 1}, {"secret_id": 2}))
        node = field(page, "secret_id")
        assert shown(node)[:2] == ("1 no. 1", "2 no. 2")
        links = [a.attributes["href"] for a in node.all("a")]
        assert all("field=" in str(href) for href in links)  # it has no record in the trail

    def test_it_does_not_see_what_is_not_recorded(self, catalogue: Catalogue) -> None:
        catalogue.Maker.__audit_label__ = lambda self: f"{self.name} <{self.email}>"
        page = catalogue.site.get(catalogue.change({"maker_id": 1}, {"maker_id": 2}))
        assert shown(field(page, "maker_id"))[0] == "1 Ada Works <None>"

    @pytest.mark.parametrize(
        "hook", [lambda self: 1 / 0, lambda self: None, lambda self: "", lambda self: self.none.x]
    )
    def test_one_that_fails_or_says_nothing_leaves_the_usual_name(
        self, catalogue: Catalogue, hook: Any
    ) -> None:
        catalogue.Product.__audit_label__ = catalogue.Maker.__audit_label__ = hook
        page = catalogue.site.get(catalogue.change({"maker_id": 1}, {"maker_id": 2}))
        assert page.one(cls="au-sub").text == "A product"
        assert shown(field(page, "maker_id"))[0] == "1 Ada Works"


class TestFlaskAdmin:
    def test_column_labels_are_taken_over(self, with_view: AddView) -> None:
        page = with_view(column_labels={"price": "Price in euro", "title": "Name"})
        assert name_of(field(page, "price")) == "Price in euro price"
        assert name_of(field(page, "title")) == "Headline title"  # our own option comes first

    def test_formatters_add_what_they_make_of_the_old_and_the_new_value(
        self, with_view: AddView
    ) -> None:
        page = with_view(
            column_formatters={
                "price": lambda view, context, model, name: f"{getattr(model, name):.2f} EUR"
            }
        )
        assert shown(field(page, "price")) == ("10 10.00 EUR", "11 11.00 EUR", "+1")

    def test_their_markup_is_read_as_text(self, with_view: AddView) -> None:
        page = with_view(
            column_formatters={
                "price": lambda view, context, model, name: Markup("<b>%s</b> EUR") % model.price,
                "title": lambda view, context, model, name: HOSTILE,
            }
        )
        assert shown(field(page, "price"))[:2] == ("10 10 EUR", "11 11 EUR")
        assert page.one("main").all("b") == []
        assert page.one("main").all("script") == []

    @pytest.mark.parametrize(
        "formatter",
        [
            lambda view, context, model, name: 1 / 0,
            lambda view, context, model, name: context["row"],
            lambda view, context, model, name: model.maker.name,
            lambda view, context: "wrong",
            "not a function",
            lambda view, context, model, name: None,
        ],
    )
    def test_one_that_fails_takes_nothing_away(self, with_view: AddView, formatter: Any) -> None:
        page = with_view(column_formatters={"price": formatter})
        assert shown(field(page, "price")) == ("10", "11", "+1")

    def test_one_that_fails_is_asked_once_for_a_page(
        self, catalogue: Catalogue, with_view: AddView
    ) -> None:
        asked = []

        def fail(view: Any, context: Any, model: Any, name: str) -> str:
            asked.append(name)
            raise LookupError

        with_view(column_formatters={"price": fail})
        catalogue.site.write(*(f"UPDATE product SET price = {number}" for number in range(5)))
        asked.clear()
        catalogue.site.get("/audit/records/public/product/1")
        assert asked == ["price"]

    def test_the_sessions_of_the_application_are_not_used(
        self, catalogue: Catalogue, with_view: AddView
    ) -> None:
        seen = []

        def look(view: Any, context: Any, model: Any, name: str) -> str:
            seen.append(sa.orm.object_session(model))
            return ""

        with_view(column_formatters={"price": look})
        assert seen
        assert set(seen) == {None}
