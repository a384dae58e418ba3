"""The application factory of the demo."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from flask import Flask, request
from flask_babel import Babel

from audit_app import audit_bp
from demo import auth, backoffice, pages
from demo.models import audit_logger, db, migrate

if TYPE_CHECKING:
    from pathlib import Path


LANGUAGES = ["en", "de"]
"""What the demo speaks, its Flask-Admin and the audit pages alike."""


def _locale() -> str | None:
    return request.accept_languages.best_match(LANGUAGES)


def create_app(database_url: str, *, secret_key: str | None = None) -> Flask:
    """Create the demo application.

    :param database_url: a ``postgresql+psycopg2://`` address.
    :param secret_key: signs the session cookies; None for a random one (sessions end with the
        process).
    """
    app = Flask("demo", instance_relative_config=False)
    app.config.update(
        SQLALCHEMY_DATABASE_URI=database_url,
        SECRET_KEY=secret_key or secrets.token_hex(32),
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_COOKIE_HTTPONLY=True,
    )
    db.init_app(app)
    migrate.init_app(app, db, directory="migrations")
    auth.init_app(app)
    Babel(app, locale_selector=_locale)
    audit_logger.init_app(app)
    app.register_blueprint(pages.bp)
    app.register_blueprint(auth.bp)
    app.register_blueprint(audit_bp)
    backoffice.init_app(app)
    return app


def stored_secret_key(directory: Path) -> str:
    """Return the secret key kept below ``directory``, made at the first call.

    Kept, so that people stay signed in when the demo is started again.
    """
    file = directory / "secret-key"
    if not file.exists():
        directory.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)
        file.write_text(secrets.token_hex(32), encoding="utf-8")
    return file.read_text(encoding="utf-8").strip()
