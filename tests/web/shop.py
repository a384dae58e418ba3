"""Models whose records are followed: orders with lines, customers and tags; categories."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import relationship

FOLLOW: dict[str, Any] = {"follow": ["lines", "customer", "tags", "parcels"]}


def models(db: Any, follow: dict[str, Any] | None = None) -> SimpleNamespace:
    """Make the models of the shop."""
    order_tag = sa.Table(
        "order_tag",
        db.metadata,
        sa.Column("order_id", sa.ForeignKey("order.id", onupdate="CASCADE"), primary_key=True),
        sa.Column("tag_id", sa.ForeignKey("tag.id"), primary_key=True),
        info={"versioned": {}},
    )

    class Customer(db.Model):  # type: ignore[misc]
        __tablename__ = "customer"
        __versioned__: dict[str, Any] = {}  # noqa: RUF012
        id = sa.Column(sa.Integer, primary_key=True)
        number = sa.Column(sa.Text, unique=True)
        name = sa.Column(sa.Text)

    class Tag(db.Model):  # type: ignore[misc]
        __tablename__ = "tag"
        id = sa.Column(sa.Integer, primary_key=True)
        name = sa.Column(sa.Text)

    class Line(db.Model):  # type: ignore[misc]
        __tablename__ = "line"
        __versioned__: dict[str, Any] = {}  # noqa: RUF012
        id = sa.Column(sa.Integer, primary_key=True)
        order_id: Any = sa.Column(
            sa.ForeignKey("order.id", onupdate="CASCADE", ondelete="CASCADE"), index=True
        )
        product = sa.Column(sa.Text)

    class Parcel(db.Model):  # type: ignore[misc]
        """Its key is two columns, and so is what it points to."""

        __tablename__ = "parcel"
        __versioned__: dict[str, Any] = {}  # noqa: RUF012
        __table_args__ = (
            sa.ForeignKeyConstraint(["shop", "order_number"], ["order.shop", "order.number"]),
        )
        depot = sa.Column(sa.Text, primary_key=True)
        code = sa.Column(sa.Text, primary_key=True)
        shop = sa.Column(sa.Text)
        order_number = sa.Column(sa.Integer)

    class Order(db.Model):  # type: ignore[misc]
        __tablename__ = "order"
        __versioned__ = FOLLOW if follow is None else follow
        __table_args__ = (sa.UniqueConstraint("shop", "number"),)
        id = sa.Column(sa.Integer, primary_key=True)
        shop = sa.Column(sa.Text)
        number = sa.Column(sa.Integer)
        note = sa.Column(sa.Text)
        customer_number: Any = sa.Column(sa.ForeignKey("customer.number"))
        customer = relationship(Customer)
        lines = relationship(Line)
        tags = relationship(Tag, secondary=order_tag)
        parcels = relationship(Parcel)

    class Category(db.Model):  # type: ignore[misc]
        __tablename__ = "category"
        __versioned__: dict[str, Any] = {"follow": ["parent", "children"]}  # noqa: RUF012
        id = sa.Column(sa.Text, primary_key=True)
        name = sa.Column(sa.Text)
        parent_id: Any = sa.Column(sa.ForeignKey("category.id"), index=True)
        parent = relationship("Category", remote_side="Category.id", back_populates="children")
        children = relationship("Category", back_populates="parent")

    return SimpleNamespace(
        Customer=Customer, Tag=Tag, Line=Line, Parcel=Parcel, Order=Order, Category=Category,
        order_tag=order_tag,
    )  # fmt: skip
