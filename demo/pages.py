"""The home page: what this is, and what to try."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from flask import Blueprint, redirect, render_template, url_for

from demo.catalogue import EDITORS
from demo.models import Base, Country, Currency, Editor, Subdivision, db

if TYPE_CHECKING:
    from werkzeug.wrappers import Response

bp = Blueprint("desk", __name__, static_folder="static", static_url_path="/desk-static")


@bp.get("/")
def home() -> str:
    """The home page."""
    return render_template("desk/home.html", editors=EDITORS, counts=_counts())


@bp.get("/favicon.ico")
def favicon() -> Response:
    """What browsers ask for on pages that name no icon, such as the back office's."""
    return redirect(url_for("desk.static", filename="icon.svg"))


def _counts() -> list[tuple[str, int]]:
    """The number of rows of each tracked table: five thousand rows are quickly counted."""
    tables: list[tuple[str, Any]] = [
        ("countries", Country),
        ("subdivisions", Subdivision),
        ("currencies", Currency),
        ("legal tender", Base.metadata.tables["country_currency"]),
        ("editors", Editor),
    ]
    counted = [
        sa.select(sa.func.count()).select_from(table).scalar_subquery() for _, table in tables
    ]
    row = db.session.execute(sa.select(*counted)).one()
    return [(label, count) for (label, _), count in zip(tables, row, strict=True)]
