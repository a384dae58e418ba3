"""Revisions that write themselves, beside Flask-Migrate and psycopg 3."""

from __future__ import annotations

from pathlib import Path

import psycopg2
import sqlalchemy as sa

from tests.migration.project import Project
from tests.migration.site import Site
from tests.migration.test_autogenerate import article, catalog
from tests.server import Server

DEFAULT = """
audit_logger = AuditLogger()
audit_logger.init(db.Model)
loggers = [audit_logger]
"""
ARTICLE = """
class Article(db.Model):
    __versioned__ = {}
    id = sa.Column(sa.Integer, primary_key=True)
    name = sa.Column(sa.Text)
"""
CLEAN = "Everything is as it should be."


def verbs(site: Site, bind: str = "") -> list[str]:
    query = "SELECT array_agg(concat(table_name, ' ', verb) ORDER BY id) FROM audit.activity"
    return site.value(query, bind) or []


# -- Flask-Migrate ---------------------------------------------------------------------------------


def test_flask_migrate(database_url: str, tmp_path: Path) -> None:
    """The ``env.py`` that ``flask db init`` writes is used as it is."""
    site = Site(tmp_path, database_url)
    before = site.catalog()
    site.become(DEFAULT + ARTICLE)
    site.flask("db", "init")
    text = site.migrate("first")
    assert text.index("create_table") < text.index("# Install") < text.index("# Track the changes")
    site.flask("db", "upgrade")
    assert site.migrate("nothing") == ""
    assert CLEAN in site.flask("audit", "check", "--strict")
    # An empty trail leaves nothing ...
    site.flask("db", "downgrade", "base")
    assert site.catalog() == before
    # ... and the way up is open.
    site.flask("db", "upgrade")
    site.python("db.session.add(Article(name='a')); db.session.commit()")
    assert verbs(site) == ["article insert"]
    site.become(DEFAULT + ARTICLE.replace("{}", '{"exclude": ["name"]}'))
    assert "# Track " in site.migrate("options")
    site.flask("db", "upgrade")
    site.run("UPDATE article SET name = 'b'")
    assert verbs(site) == ["article insert"]
    assert site.migrate("nothing") == ""
    site.flask("db", "downgrade")
    site.run("UPDATE article SET name = 'c'")
    assert verbs(site) == ["article insert", "article update"]


# -- psycopg 3 -------------------------------------------------------------------------------------


def test_psycopg(database_url: str, tmp_path: Path) -> None:
    url = sa.make_url(database_url).set(drivername="postgresql+psycopg")
    project = Project(tmp_path / "m", url.render_as_string(hide_password=False))
    assert project.engine.driver == "psycopg"
    before = catalog(project)
    # Per cent signs and colons mean something to drivers and to SQLAlchemy.
    first = {"exclude": ["secret"], "when": "NEW.name NOT LIKE 'x%:y %s'"}
    project.become(article(first))
    project.migrate("first")  # and shows that a second one is empty
    assert project.check() == []
    project.downgrade("base")
    assert catalog(project) == before
    project.run("DROP TABLE alembic_version")
    script = project.offline("head")
    with psycopg2.connect(Server.dsn(url)) as connection, connection.cursor() as cursor:
        cursor.execute(script)
    connection.close()
    assert project.check() == []
    assert project.differences() == []
    project.run("INSERT INTO article VALUES (1, 'a', 's'), (2, 'xa:y %s', 's')")
    project.become(article({"mask": ["secret"]}))
    assert '# Track "article" anew.' in project.migrate("options")
    assert project.check() == []
    project.run("UPDATE article SET secret = 't'")
    assert project.verbs("article") == ["insert", "update", "update"]
    project.downgrade()
    project.become(article(first))
    assert project.check() == []
    assert project.differences() == []
