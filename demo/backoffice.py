"""The back office: Flask-Admin's own model views over the desk's tables, for signed-in editors.

The only line about the audit trail is the last one of :func:`init_app`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import redirect, request, url_for
from flask_admin import Admin, AdminIndexView
from flask_admin.contrib.sqla import ModelView
from flask_admin.contrib.sqla.form import AdminModelConverter
from flask_admin.form import SecureForm
from flask_admin.menu import MenuLink
from flask_admin.model.form import converts
from flask_admin.theme import Bootstrap4Theme
from flask_login import current_user
from wtforms import PasswordField, ValidationError

from audit_app.admin import add_history_links
from demo.models import Country, Currency, Editor, Subdivision, db

if TYPE_CHECKING:
    from flask import Flask
    from werkzeug.wrappers import Response
    from wtforms.form import Form


class EditorsOnly:
    """Sends visitors who are not signed in to the sign-in page, and back afterwards."""

    def is_accessible(self) -> bool:
        """Tell whether the visitor is signed in."""
        return bool(current_user.is_authenticated)

    def inaccessible_callback(self, name: str, **kwargs: Any) -> Response:
        """Ask to sign in."""
        return redirect(url_for("auth.sign_in", next=request.full_path.rstrip("?")))


class IndexView(EditorsOnly, AdminIndexView):  # type: ignore[misc]
    """The back office's first page."""


class OneLineConverter(AdminModelConverter):  # type: ignore[misc]
    """Text columns hold names and codes here: a line, where Flask-Admin shows a box."""

    @converts("Text")  # type: ignore[untyped-decorator]
    def conv_Text(self, **kwargs: Any) -> Any:  # noqa: N802 - Flask-Admin's name
        """Convert a text column to a field of one line."""
        return self.conv_String(**kwargs)


class DeskView(EditorsOnly, ModelView):  # type: ignore[misc]
    """What all tables have in common."""

    form_base_class = SecureForm
    page_size = 50
    can_set_page_size = True
    column_display_pk = True
    named_filter_urls = True
    model_form_converter = OneLineConverter


class CountryView(DeskView):
    """Countries, with their currencies: a many-to-many over ``country_currency``."""

    column_list = ("flag", "alpha_2", "alpha_3", "numeric", "name", "official_name", "currencies")
    column_labels = {"alpha_2": "Code", "alpha_3": "Code 3"}  # noqa: RUF012 - Flask-Admin's way
    column_searchable_list = ("alpha_2", "name", "official_name")
    column_filters = ("name", "currencies.alpha_3")
    column_default_sort = "name"
    form_columns = (
        "alpha_2", "alpha_3", "numeric", "name", "official_name", "common_name", "flag",
        "currencies",
    )  # fmt: skip
    column_formatters = {  # noqa: RUF012
        "currencies": lambda view, context, model, name: ", ".join(
            currency.alpha_3 for currency in model.currencies
        ),
    }


class SubdivisionView(DeskView):
    """Subdivisions: five thousand of them, so country and parent are searched for, not listed."""

    column_list = ("code", "name", "type", "country", "parent")
    column_searchable_list = ("code", "name")
    column_filters = ("country_code", "type")
    column_default_sort = "code"
    form_columns = ("code", "name", "type", "country", "parent")
    form_ajax_refs = {  # noqa: RUF012
        "country": {"fields": (Country.alpha_2, Country.name), "page_size": 10},
        "parent": {"fields": (Subdivision.code, Subdivision.name), "page_size": 10},
    }


class CurrencyView(DeskView):
    """Currencies."""

    column_list = ("alpha_3", "numeric", "name")
    column_labels = {"alpha_3": "Code"}  # noqa: RUF012
    column_searchable_list = ("alpha_3", "name")
    column_default_sort = "alpha_3"
    form_columns = ("alpha_3", "numeric", "name")


class EditorView(DeskView):
    """Editors; a new password is hashed, and its hash never reaches the trail."""

    column_list = ("id", "username", "name", "email")
    form_columns = ("username", "name", "email")
    form_extra_fields = {"new_password": PasswordField("New password")}  # noqa: RUF012

    def on_model_change(self, form: Form, model: Editor, is_created: bool) -> None:  # noqa: FBT001
        """Hash the password that was typed; an empty one leaves the old one alone."""
        password = form["new_password"].data
        if password:
            model.set_password(password)
        elif is_created:
            raise ValidationError("A new editor needs a password.")

    def on_model_delete(self, model: Editor) -> None:
        """Keep people from deleting themselves: their session would name nobody."""
        if model.id == current_user.id:
            raise ValidationError("You cannot delete yourself.")


def init_app(app: Flask) -> None:
    """Mount the back office at ``/admin/``."""
    admin = Admin(
        app,
        name="Back office",
        index_view=IndexView(template="desk/backoffice.html"),
        theme=Bootstrap4Theme(fluid=True, base_template="desk/admin.html"),
    )
    admin.add_view(CountryView(Country, db, name="Countries"))
    admin.add_view(SubdivisionView(Subdivision, db, name="Subdivisions"))
    admin.add_view(CurrencyView(Currency, db, name="Currencies"))
    admin.add_view(EditorView(Editor, db, name="Editors"))
    admin.add_link(MenuLink(name="Desk", endpoint="desk.home"))
    admin.add_link(MenuLink(name="Audit trail", endpoint="audit_ui.index"))
    add_history_links(admin)
