"""A project as Flask-Migrate's users have it: an application's module and the ``flask`` command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tests.migration.processes import processes
from tests.migration.test_demo_migrations import OBJECTS

_APP = """
import sqlalchemy as sa
from flask import Flask
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy

from audit_app import AuditLogger

db = SQLAlchemy()
options = {{}}
{models}

def create_app():
    app = Flask(__name__)
    app.config.update({config})
    db.init_app(app)
    for logger in loggers:
        logger.init_app(app)
    Migrate(app, db, **options)
    return app
"""


class Site:
    """A directory with ``app.py``, over a database and those of its binds.

    Each command runs in a process of its own, as it does for a user: the module is read anew.
    """

    def __init__(self, directory: Path, url: str, **binds: str) -> None:
        self.directory = directory
        self.config = {"SQLALCHEMY_DATABASE_URI": url, "SQLALCHEMY_BINDS": binds}
        self.engines = {
            name: sa.create_engine(address, poolclass=sa.NullPool)
            for name, address in {"": url, **binds}.items()
        }

    def become(self, models: str) -> None:
        """Let the application have these models, and the AuditLoggers of the list ``loggers``."""
        text = _APP.format(models=models, config=repr(self.config))
        (self.directory / "app.py").write_text(text)

    def flask(self, *arguments: str) -> str:
        """Run ``flask …``, and return what it prints; its log, too."""
        return self._run("-m", "flask", "--app", "app", *arguments)

    def python(self, code: str) -> str:
        """Run ``code`` within the application's context, and return what it prints."""
        start = "from app import *\ncreate_app().app_context().push()\n"
        return self._run("-c", start + code)

    def migrate(self, message: str) -> str:
        """Generate a revision, and return its text; nothing if there are no changes."""
        before = set(self.directory.glob("migrations/versions/*.py"))
        said = self.flask("db", "migrate", "-m", message)
        found = set(self.directory.glob("migrations/versions/*.py")) - before
        assert bool(found) != ("No changes in schema detected." in said), said
        return "".join(file.read_text() for file in found)

    def catalog(self, bind: str = "") -> set[str]:
        """Every object of a database but for Alembic's own table."""
        with self.engines[bind].connect() as connection:
            return {
                f"{kind}: {name}"
                for kind, query in OBJECTS.items()
                for name in connection.scalars(sa.text(query))
                if name and "alembic" not in name and "pg_toast" not in name
            }

    def value(self, query: str, bind: str = "") -> Any:
        with self.engines[bind].begin() as connection:
            return connection.execute(sa.text(query)).scalar()

    def run(self, statement: str, bind: str = "") -> None:
        with self.engines[bind].begin() as connection:
            connection.execute(sa.text(statement))

    def _run(self, *arguments: str) -> str:
        code, said = processes().run(list(arguments), self.directory)
        assert code == 0, said
        return said
