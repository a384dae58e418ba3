"""A site whose table has a column of every kind that the pages know."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from audit_app import labels
from tests.web.site import Site


class State(enum.Enum):
    DRAFT = "Work in progress"
    LIVE = "For sale"


class Size(enum.Enum):
    S = 1
    L = 2

    @property
    def label(self) -> str:
        return {1: "small", 2: "large"}[self.value]


class Catalogue:
    """Products of makers, with everything that a column can be.

    :ivar site: the application; further tables are tracked or not as their names tell.
    """

    def __init__(self, make_site: Callable[..., Site], **options: Any) -> None:
        self.site = site = make_site(extend=_models, **options)
        self.Maker, self.Secret, self.Product = site.extra
        site.logger.labels = labels.parse(
            {"product": {"": "Product", "title": "Headline", "maker_id": "Made by"}}
        )
        site.write("INSERT INTO maker VALUES (1, 'Ada Works', 'hidden'), (2, 'Böhm & Co', 'x')")
        site.write("INSERT INTO secret VALUES (1, 'untold name'), (2, 'another')")
        site.write("INSERT INTO product (id, title) VALUES (1, 'A product')")

    def change(self, old: dict[str, Any], new: dict[str, Any]) -> str:
        """Write ``old`` and then ``new`` into the product; return the address of the change."""
        table = self.Product.__table__
        for values in (old, new):
            self.site.write(sa.update(table).where(table.c.id == 1).values(**values))
        return f"/audit/activities/{self.site.activity_id('product')}"


def _models(db: Any) -> tuple[Any, Any, Any]:
    class Maker(db.Model):  # type: ignore[misc]
        __tablename__ = "maker"
        __versioned__ = {"exclude": ["email"]}  # noqa: RUF012
        id = sa.Column(sa.Integer, primary_key=True)
        name = sa.Column(sa.Text)
        email = sa.Column(sa.Text)

    class Secret(db.Model):  # type: ignore[misc]
        __tablename__ = "secret"
        id = sa.Column(sa.Integer, primary_key=True)
        name = sa.Column(sa.Text)

    class Product(db.Model):  # type: ignore[misc]
        __tablename__ = "product"
        __versioned__ = {"mask": ["pin"]}  # noqa: RUF012
        id = sa.Column(sa.Integer, primary_key=True)
        title = sa.Column(sa.Text)
        body = sa.Column(sa.Text)
        stock = sa.Column(sa.Integer)
        price = sa.Column(sa.Numeric)
        weight = sa.Column(sa.Float)
        published = sa.Column(sa.Boolean)
        day = sa.Column(sa.Date)
        moment = sa.Column(sa.DateTime(timezone=True))
        clock = sa.Column(sa.Time)
        lasts = sa.Column(sa.Interval)
        state: Any = sa.Column(sa.Enum(State, name="state"))
        size: Any = sa.Column(sa.Enum(Size, native_enum=False))
        picture = sa.Column(sa.LargeBinary)
        tags: Any = sa.Column(postgresql.ARRAY(sa.Text))
        span = sa.Column(postgresql.INT4RANGE)
        token = sa.Column(sa.Uuid)
        address = sa.Column(postgresql.INET)
        settings = sa.Column(postgresql.JSONB)
        pin = sa.Column(sa.Text)
        maker_id: Any = sa.Column(sa.ForeignKey("maker.id", ondelete="SET NULL"))
        secret_id: Any = sa.Column(sa.ForeignKey("secret.id"))

    return Maker, Secret, Product
