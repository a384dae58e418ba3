"""Signing in and out: Flask-Login, a form with CSRF protection."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import sqlalchemy as sa
from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask_admin.form import SecureForm
from flask_login import LoginManager, current_user, login_user, logout_user
from wtforms import PasswordField, StringField
from wtforms.validators import InputRequired

from demo.catalogue import EDITORS
from demo.models import Editor, db

if TYPE_CHECKING:
    from flask import Flask
    from werkzeug.wrappers import Response

bp = Blueprint("auth", __name__)
login_manager = LoginManager()
login_manager.login_view = "auth.sign_in"
login_manager.login_message = "Please sign in first."


class SignInForm(SecureForm):  # type: ignore[misc]
    """Name and password."""

    username = StringField("Name", [InputRequired()])
    password = PasswordField("Password", [InputRequired()])


class SignOutForm(SecureForm):  # type: ignore[misc]
    """Nothing but the CSRF token."""


def init_app(app: Flask) -> None:
    """Wire Flask-Login; every template gets the form that signs out."""
    login_manager.init_app(app)

    @app.context_processor
    def _sign_out_form() -> dict[str, object]:
        return {"sign_out_form": SignOutForm if current_user.is_authenticated else None}


@login_manager.user_loader  # type: ignore[untyped-decorator]
def load_editor(editor_id: str) -> Editor | None:
    """Return the editor of a session cookie; None if they are gone."""
    return db.session.get(Editor, int(editor_id)) if editor_id.isdecimal() else None


@bp.route("/sign-in", methods=["GET", "POST"])
def sign_in() -> Response | str | tuple[str, int]:
    """Ask for name and password, go to where the visitor wanted to."""
    form = SignInForm(request.form)
    target = _safe_target(request.args.get("next"))
    if request.method == "GET":
        if current_user.is_authenticated:
            return redirect(target)
        return render_template("desk/sign_in.html", form=form, editors=EDITORS)
    if not form.validate():
        flash("The form was too old or incomplete: please try again.")
        return render_template("desk/sign_in.html", form=form, editors=EDITORS), 400
    editor = db.session.scalar(sa.select(Editor).filter_by(username=form.username.data.strip()))
    if editor is None or not editor.has_password(form.password.data):
        flash("This name and password do not belong together.")
        return render_template("desk/sign_in.html", form=form, editors=EDITORS), 401
    login_user(editor)
    return redirect(target)


@bp.post("/sign-out")
def sign_out() -> Response:
    """End the session."""
    if SignOutForm(request.form).validate():
        logout_user()
    return redirect(url_for("desk.home"))


def _safe_target(target: str | None) -> str:
    """Only a path of this application: no other site may be the target of a sign-in link."""
    parts = urlsplit((target or "").replace("\\", "/"))
    if target and not parts.scheme and not parts.netloc and parts.path.startswith("/"):
        return target
    return url_for("desk.home")
