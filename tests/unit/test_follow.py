"""``__versioned__ = {"follow": […]}``: what it means, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import declarative_base, relationship

from audit_app import AuditLogger
from audit_app.errors import InvalidOptionError


def declare(
    follow: Any, *, line: Any = None, links: Any = None, **more: Any
) -> tuple[AuditLogger, Any]:
    """Return a logger with an order, its lines and its tags."""
    base: Any = declarative_base()
    logger = AuditLogger(actor_cls=None)
    logger.init(base)
    order_tag = sa.Table(
        "order_tag",
        base.metadata,
        sa.Column("order_id", sa.ForeignKey("order.id"), primary_key=True),
        sa.Column("tag_id", sa.ForeignKey("tag.id"), primary_key=True),
        info={} if links is None else {"versioned": links},
    )

    class Order(base):  # type: ignore[misc]
        __tablename__ = "order"
        __versioned__ = {"follow": follow, **more}  # noqa: RUF012
        id = sa.Column(sa.Integer, primary_key=True)
        customer_id: Any = sa.Column(sa.ForeignKey("customer.id"))
        lines = relationship("Line")
        first_lines = relationship(
            "Line", primaryjoin="and_(Order.id == Line.order_id, Line.id < 10)", viewonly=True
        )
        tags = relationship("Tag", secondary=order_tag)
        customer = relationship("Customer")

    class Line(base):  # type: ignore[misc]
        __tablename__ = "line"
        __versioned__ = line
        id = sa.Column(sa.Integer, primary_key=True)
        order_id: Any = sa.Column(sa.ForeignKey("order.id"))

    class Tag(base):  # type: ignore[misc]
        __tablename__ = "tag"
        id = sa.Column(sa.Integer, primary_key=True)

    class Customer(base):  # type: ignore[misc]
        __tablename__ = "customer"
        __versioned__: dict[str, Any] = {}  # noqa: RUF012
        id = sa.Column(sa.Integer, primary_key=True)

    base.metadata.info["kept"] = (Line, Tag, Customer)  # a registry holds its classes weakly
    return logger, Order


def test_what_is_followed_is_known_by_columns() -> None:
    logger, _order = declare(["lines", "tags", "customer"], line={}, links={})
    found = {item.name: item for item in logger.related("public", "order")}
    assert {name: item.kind for name, item in found.items()} == {
        "lines": "children", "tags": "links", "customer": "parents",
    }  # fmt: skip
    assert found["lines"].pairs == (("order_id", "id"),)
    assert found["tags"].pairs == (("order_id", "id"),)
    assert found["tags"].place.name == "order_tag"
    assert found["customer"].pairs == (("id", "customer_id"),)
    assert logger.related("public", "line") == ()


def test_it_is_for_reading_only() -> None:
    plain, _ = declare([], line={}, links={})
    follows, order = declare(["lines"], line={}, links={})
    for before, after in zip(plain.audited_tables(), follows.audited_tables(), strict=True):
        assert before.create_sql == after.create_sql
        assert before.digest == after.digest
        assert before.wanted == after.wanted
    assert follows.audited(order).follow == ("lines",)


def test_a_relationship_itself_may_be_named() -> None:
    logger, order = declare(["customer"])
    order.__versioned__ = {"follow": [order.customer]}
    assert [item.name for item in logger.related("public", "order")] == ["customer"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"follow": "lines"}, "write a list of its relationships"),
        ({"follow": 1}, "write a list of its relationships"),
        ({"follow": [1]}, "write names of relationships"),
        ({"follow": ["rows"]}, "no such relationship: use some of customer, first_lines, lines"),
        ({"follow": ["lines"]}, "'line' is not tracked: give Line __versioned__ = {}"),
        ({"follow": ["tags"]}, "secondary table 'order_tag' is not tracked: give the Table info"),
        ({"follow": ["first_lines"], "line": {}}, "joins by more than equal columns"),
        ({"follow": ["lines"], "line": {"exclude": ["order_id"]}}, "line.order_id are not rec"),
        ({"follow": ["lines"], "line": {"mask": ["order_id"]}}, "line.order_id are not recorded"),
        ({"follow": ["lines"], "line": {"include": []}}, "line.order_id are not recorded"),
        ({"follow": ["customer"], "exclude": ["customer_id"]}, "order.customer_id are not rec"),
    ],
)
def test_what_cannot_be_followed_is_refused_at_the_first_use(
    options: dict[str, Any], message: str
) -> None:
    _logger, order = declare(**options)
    with pytest.raises(InvalidOptionError, match=message.replace("(", r"\(")):
        order.registry.configure()
    order.registry.dispose()


def test_a_table_without_a_model_has_no_relationships() -> None:
    logger, _order = declare([], links={"follow": ["tags"]})
    with pytest.raises(InvalidOptionError, match="relationships belong to models"):
        logger.audited_tables()


def test_audit_table_makes_a_table_tracked() -> None:
    logger, order = declare(["tags"])
    logger.audit_table(order.metadata.tables["order_tag"])
    assert [item.name for item in logger.related("public", "order")] == ["tags"]


def test_joined_inheritance_follows_where_the_columns_are() -> None:
    base: Any = declarative_base()
    logger = AuditLogger(actor_cls=None)
    logger.init(base)

    class Person(base):  # type: ignore[misc]
        __tablename__ = "person"
        __versioned__: dict[str, Any] = {"follow": ["notes"]}  # noqa: RUF012
        id = sa.Column(sa.Integer, primary_key=True)
        kind = sa.Column(sa.Text)
        notes = relationship("Note")
        __mapper_args__ = {"polymorphic_on": kind, "polymorphic_identity": "person"}  # noqa: RUF012

    class Author(Person):
        __tablename__ = "author"
        id: Any = sa.Column(sa.ForeignKey("person.id"), primary_key=True)
        __mapper_args__ = {"polymorphic_identity": "author"}  # noqa: RUF012

    class Note(base):  # type: ignore[misc]
        __tablename__ = "note"
        __versioned__: dict[str, Any] = {}  # noqa: RUF012
        id = sa.Column(sa.Integer, primary_key=True)
        person_id: Any = sa.Column(sa.ForeignKey("person.id"))

    for table in ("person", "author"):
        (found,) = logger.related("public", table)
        assert found.pairs == (("person_id", "id"),)
    assert Author.__tablename__ == "author"
