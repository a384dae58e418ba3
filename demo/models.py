"""The desk's tables: countries, their subdivisions, their currencies, and who edits them.

This module shows the whole contract of use: mark the models with ``__versioned__`` (a plain table
with ``info={"versioned": {}}``), create an :class:`~audit_app.AuditLogger`, hand it the base.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import sqlalchemy as sa
from flask_login import UserMixin, current_user
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from werkzeug.security import check_password_hash, generate_password_hash

from audit_app import AuditLogger


class Base(DeclarativeBase):
    """The declarative base; constraints get names that migrations can rely on."""

    metadata = sa.MetaData(
        naming_convention={
            "ix": "%(table_name)s_%(column_0_name)s_idx",
            "uq": "%(table_name)s_%(column_0_name)s_key",
            "ck": "%(table_name)s_%(constraint_name)s_check",
            "fk": "%(table_name)s_%(column_0_name)s_fkey",
            "pk": "%(table_name)s_pkey",
        }
    )


db = SQLAlchemy(model_class=Base)
migrate = Migrate()

if TYPE_CHECKING:
    Model = Base
else:
    Model = db.Model

country_currency = sa.Table(
    "country_currency",
    Base.metadata,
    sa.Column(
        "country_code",
        sa.ForeignKey("country.alpha_2", onupdate="CASCADE", ondelete="CASCADE"),
        primary_key=True,
    ),
    sa.Column(
        "currency_code",
        sa.ForeignKey("currency.alpha_3", onupdate="CASCADE"),
        primary_key=True,
        index=True,
    ),
    info={"versioned": {}},
)
"""Which currency is legal tender where: a table without a model, with a key of two columns."""


class Country(Model):
    """A country or territory of ISO 3166-1."""

    __tablename__ = "country"
    __versioned__: ClassVar[dict[str, Any]] = {"follow": ["subdivisions", "currencies"]}

    alpha_2: Mapped[str] = mapped_column(sa.Text, primary_key=True)
    alpha_3: Mapped[str] = mapped_column(sa.Text, unique=True)
    numeric: Mapped[str] = mapped_column(sa.Text)
    name: Mapped[str] = mapped_column(sa.Text)
    official_name: Mapped[str | None] = mapped_column(sa.Text)
    common_name: Mapped[str | None] = mapped_column(sa.Text)
    flag: Mapped[str] = mapped_column(sa.Text)

    subdivisions: Mapped[list[Subdivision]] = relationship(
        back_populates="country", passive_deletes="all"
    )
    currencies: Mapped[list[Currency]] = relationship(
        secondary=country_currency, back_populates="countries", order_by="Currency.alpha_3"
    )

    def __str__(self) -> str:
        return f"{self.flag} {self.name}"

    def __audit_label__(self) -> str:
        """Return what the audit pages call a country, then as now."""
        return str(self.name)


class Subdivision(Model):
    """A part of a country: a state, a province, a city; ISO 3166-2."""

    __tablename__ = "subdivision"
    __versioned__: ClassVar[dict[str, Any]] = {"follow": ["parent", "parts"]}

    code: Mapped[str] = mapped_column(sa.Text, primary_key=True)
    name: Mapped[str] = mapped_column(sa.Text)
    type: Mapped[str] = mapped_column(sa.Text)
    country_code: Mapped[str] = mapped_column(
        sa.ForeignKey("country.alpha_2", onupdate="CASCADE"), index=True
    )
    parent_code: Mapped[str | None] = mapped_column(
        sa.ForeignKey("subdivision.code", onupdate="CASCADE"), index=True
    )

    country: Mapped[Country] = relationship(back_populates="subdivisions")
    parent: Mapped[Subdivision | None] = relationship(remote_side=[code], back_populates="parts")
    parts: Mapped[list[Subdivision]] = relationship(back_populates="parent", passive_deletes="all")

    def __str__(self) -> str:
        return f"{self.code} {self.name}"


class Currency(Model):
    """A currency of ISO 4217."""

    __tablename__ = "currency"
    __versioned__: ClassVar[dict[str, Any]] = {}

    alpha_3: Mapped[str] = mapped_column(sa.Text, primary_key=True)
    numeric: Mapped[str] = mapped_column(sa.Text)
    name: Mapped[str] = mapped_column(sa.Text)

    countries: Mapped[list[Country]] = relationship(
        secondary=country_currency, back_populates="currencies", order_by="Country.name"
    )

    def __str__(self) -> str:
        return f"{self.alpha_3} {self.name}"


class Editor(UserMixin, Model):  # type: ignore[misc]
    """A person who edits the desk's data. The password's hash is never in the trail."""

    __tablename__ = "editor"
    __versioned__: ClassVar[dict[str, Any]] = {"exclude": ["password_hash"]}

    id: Mapped[int] = mapped_column(primary_key=True)
    username: Mapped[str] = mapped_column(sa.Text, unique=True)
    name: Mapped[str] = mapped_column(sa.Text)
    email: Mapped[str] = mapped_column(sa.Text)
    password_hash: Mapped[str] = mapped_column(sa.Text)

    def set_password(self, password: str) -> None:
        """Keep the hash of ``password``."""
        self.password_hash = generate_password_hash(password)

    def has_password(self, password: str) -> bool:
        """Tell whether ``password`` is the one whose hash is kept."""
        return check_password_hash(self.password_hash, password)

    def __str__(self) -> str:
        return self.name


def current_editor_id() -> int | None:
    """Return the signed-in editor's id; None for visitors, and outside a request."""
    return current_user.id if current_user and current_user.is_authenticated else None


def current_editor_name(_actor: object) -> str | None:
    """Return the name that the trail keeps beside the id, so that it outlives the editor."""
    return current_user.name if current_user and current_user.is_authenticated else None


audit_logger = AuditLogger(
    get_actor_id=current_editor_id,
    get_actor_label=current_editor_name,
    actor_cls="Editor",
    schema_name="audit",
    labels={
        "country": {"alpha_2": "Code", "alpha_3": "Code of three letters"},
        "subdivision": {"country_code": "Country", "parent_code": "Part of"},
        "country_currency": {"country_code": "Country", "currency_code": "Currency"},
    },
    # The audit pages are closed to everybody until a policy says who may look.
    can_view=lambda actor: actor is not None,
    # Nor does anybody restore, undelete or undo before a policy says who may.
    can_restore=lambda actor: actor is not None,
)
audit_logger.init(db.Model)
