"""Revisions that write themselves, beside Flask-Migrate, binds, alembic_utils and psycopg 3."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
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
BOUND = """
class Reporting(db.Model):
    __abstract__ = True
    __bind_key__ = "reports"

reports_logger = AuditLogger()
reports_logger.init(Reporting)
loggers.append(reports_logger)
"""
REPORT = """
class Report(db.Model):
    __bind_key__ = "reports"
    __versioned__ = {}
    id = sa.Column(sa.Integer, primary_key=True)
    name = sa.Column(sa.Text)
"""
UNTRACKED = "    __versioned__ = {}\n"

CLEAN = "Everything is as it should be."
TRAILS = "SELECT count(*) FROM pg_namespace WHERE nspname = 'audit'"


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


@pytest.fixture
def reports_url(server: Server) -> Iterator[str]:
    """The URL of a second new, empty database."""
    with server.database() as url:
        yield url


@pytest.mark.parametrize("tracked", [{""}, {"reports"}, {"", "reports"}], ids=", ".join)
def test_binds(database_url: str, reports_url: str, tmp_path: Path, tracked: set[str]) -> None:
    """Each database has its own trail, or none, and its revisions know no other."""
    site = Site(tmp_path, database_url, reports=reports_url)
    before = {bind: site.catalog(bind) for bind in site.engines}
    site.become(
        (DEFAULT + ARTICLE if "" in tracked else "loggers = []" + ARTICLE.replace(UNTRACKED, ""))
        + (BOUND + REPORT if "reports" in tracked else REPORT.replace(UNTRACKED, ""))
    )
    site.flask("db", "init", "--multidb")
    text = site.migrate("first")
    for bind, table in {"": "article", "reports": "report"}.items():
        steps = text.split(f"def upgrade_{bind}():")[1].split("\ndef ")[0]
        assert f"create_table('{table}'" in steps
        assert ("# Install the audit trail." in steps) == (bind in tracked)
        assert ("audit" in steps) == (bind in tracked)
        assert (f'# Track the changes of "{table}".' in steps) == (bind in tracked)
    site.flask("db", "upgrade")
    assert site.migrate("nothing") == ""
    for bind in tracked:
        option = ["--bind", bind] if bind else []
        assert CLEAN in site.flask("audit", *option, "check", "--strict")
    site.flask("db", "downgrade", "base")
    assert {bind: site.catalog(bind) for bind in site.engines} == before
    site.flask("db", "upgrade")
    site.python("db.session.add_all([Article(name='a'), Report(name='b')]); db.session.commit()")
    for bind, table in {"": "article", "reports": "report"}.items():
        assert site.value(TRAILS, bind) == (bind in tracked)
        if bind in tracked:
            assert verbs(site, bind) == [f"{table} insert"]


# -- alembic_utils ---------------------------------------------------------------------------------

IMPORTS = """
from alembic_utils.pg_function import PGFunction
from alembic_utils.pg_trigger import PGTrigger
from alembic_utils.pg_view import PGView
from alembic_utils.replaceable_entity import register_entities
"""
ENTITIES = """
register_entities([
    PGFunction("public", "is_draft(text)", "RETURNS bool LANGUAGE sql AS $$SELECT $1 = 'draft'$$"),
    PGFunction(
        "public", "shout()", "RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN NEW.name := upper(NEW.name); RETURN NEW; END$$",
    ),
    PGTrigger(
        "public", "shout", "BEFORE UPDATE ON public.article FOR EACH ROW "
        "EXECUTE FUNCTION public.shout()", on_entity="public.article",
    ),
    PGView("public", "titles", "SELECT name FROM article"),
    PGView("audit", "latest", "SELECT max(id) AS id FROM audit.activity"),
])
"""
VIEWS = ENTITIES[ENTITIES.index("    PGView(") : ENTITIES.index("])")]
ENTITY_COUNTS = (
    "SELECT concat((SELECT count(*) FROM pg_proc WHERE proname IN ('is_draft', 'shout')), "
    "(SELECT count(*) FROM pg_trigger WHERE tgname = 'shout'), "
    "(SELECT count(*) FROM pg_views WHERE viewname IN ('titles', 'latest')))"
)


@pytest.mark.parametrize("schemas", ["", "options['include_schemas'] = True\n"])
def test_alembic_utils(database_url: str, tmp_path: Path, schemas: str) -> None:
    """Neither package takes the other's functions, triggers and views for its own."""
    site = Site(tmp_path, database_url)
    site.become(DEFAULT + ARTICLE + schemas)
    site.flask("db", "init")
    site.migrate("the trail")
    site.flask("db", "upgrade")
    site.run("GRANT SELECT ON audit.activity TO pg_monitor")
    # The capture may use what the other package made in the same revision.
    when = ARTICLE.replace("{}", '{"when": "NOT public.is_draft(NEW.name)"}')
    site.become(IMPORTS + DEFAULT + when + ENTITIES + schemas)
    text = site.migrate("entities").split("def downgrade")[0]
    assert text.count("op.create_entity(") == 5
    assert "drop_entity" not in text
    assert text.count("op.execute(") == 1
    site.flask("db", "upgrade")
    assert site.migrate("nothing") == ""
    said = site.flask("audit", "check")
    assert re.findall(r"^(?:error|warning) +(\S+ +\S+)", said, re.M) == ["stranger  audit.latest"]
    assert site.value(ENTITY_COUNTS) == "212"
    site.run("INSERT INTO article VALUES (1, 'draft'), (2, 'b')")
    assert site.value("SELECT array_agg(object_id) FROM audit.activity") == ["2"]
    # What is registered no longer is still dropped, and nothing besides.
    site.become(IMPORTS + DEFAULT + when + ENTITIES.replace(VIEWS, "") + schemas)
    text = site.migrate("fewer").split("def downgrade")[0]
    dropped = {"public_titles"} | ({"audit_latest"} if schemas else set())
    assert set(re.findall(r"op\..*", text)) == {f"op.drop_entity({name})" for name in dropped}
    site.flask("db", "downgrade", "base")
    assert site.value(ENTITY_COUNTS) == "000"


def test_alembic_utils_and_a_renamed_trail(database_url: str, tmp_path: Path) -> None:
    """The trail under its former name is ours, too."""
    site = Site(tmp_path, database_url)
    schemas = "options['include_schemas'] = True\n"
    site.become(DEFAULT + ARTICLE + schemas)
    site.flask("db", "init")
    site.migrate("the trail")
    site.flask("db", "upgrade")
    renamed = DEFAULT.replace("AuditLogger()", 'AuditLogger(schema_name="The trail")')
    site.become(renamed + ARTICLE + IMPORTS + ENTITIES.replace(VIEWS, "") + schemas)
    text = site.migrate("renamed").split("def downgrade")[0]
    assert 'ALTER SCHEMA "audit" RENAME TO "The trail"' in text
    assert "drop_entity" not in text
    site.flask("db", "upgrade")
    assert site.migrate("nothing") == ""
    assert CLEAN in site.flask("audit", "check", "--strict")


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
