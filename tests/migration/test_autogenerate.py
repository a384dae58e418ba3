"""Revisions that write themselves: each change of the models, up and down, and nothing twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from audit_app import models
from tests.migration.project import Project
from tests.migration.test_demo_migrations import OBJECTS


def article(options: dict[str, Any] | None) -> Any:
    def models(base: Any) -> None:
        values: dict[str, Any] = {
            "__tablename__": "article",
            "id": sa.Column(sa.Integer, primary_key=True),
            "name": sa.Column(sa.Text),
            "secret": sa.Column(sa.Text),
        }
        if options is not None:
            values["__versioned__"] = options
        type("Article", (base,), values)

    return models


def nothing(base: Any) -> None:
    """A project without models."""


@pytest.fixture(params=["schemas", "default schema"])
def project(database_url: str, tmp_path: Path, request: pytest.FixtureRequest) -> Project:
    return Project(tmp_path / "m", database_url, include_schemas=request.param == "schemas")


def catalog(project: Project) -> dict[str, set[str]]:
    """Every object of the database but for Alembic's own table."""
    with project.engine.connect() as connection:
        return {
            kind: {
                name
                for name in connection.scalars(sa.text(query))
                if name and "alembic" not in name and "pg_toast" not in name
            }
            for kind, query in OBJECTS.items()
        }


def test_a_new_project(project: Project) -> None:
    """The first revision makes the trail and tracks the table; down to base, nothing is left."""
    before = catalog(project)
    project.become(article({"exclude": ["secret"]}))
    text = project.migrate("first")
    assert project.check() == []
    assert "audit_app" not in text.split("def upgrade")[0]
    assert text.index("create_table") < text.index("# Track the changes")
    project.run("INSERT INTO article VALUES (1, 'a', 's')", "UPDATE article SET secret = 't'")
    assert project.verbs("article") == ["insert"]
    # Nothing is dropped unasked ...
    project.downgrade("base")
    assert project.value("SELECT count(*) FROM audit.activity") == 1
    assert project.value("SELECT count(*) FROM pg_proc WHERE proname LIKE 'capture%'") == 0
    with pytest.raises(sa.exc.ProgrammingError, match="append-only"):
        project.run("DELETE FROM audit.activity")
    # ... the way up goes on with it ...
    project.upgrade()
    assert project.check() == []
    project.run("INSERT INTO article VALUES (1, 'a', 's')")
    assert project.verbs("article") == ["insert"] * 2
    # ... and what was asked for leaves nothing.
    with project.engine.begin() as connection:
        database = connection.exec_driver_sql("SELECT current_database()").scalar()
        connection.exec_driver_sql(f'ALTER DATABASE "{database}" SET audit_app.drop_trail = on')
    project.downgrade("base")
    assert catalog(project) == before


def test_an_empty_trail_leaves_nothing(project: Project) -> None:
    before = catalog(project)
    project.become(article({}))
    project.migrate("first")
    project.downgrade("base")
    assert catalog(project) == before


def test_a_table_is_versioned_later_and_no_longer(project: Project) -> None:
    project.become(article(None))
    project.migrate("the trail alone")
    assert project.value("SELECT count(*) FROM audit.activity") == 0
    project.become(article({"mask": ["secret"]}))
    text = project.migrate("versioned")
    assert "# Track the changes of" in text
    assert "create_table" not in text
    project.run("INSERT INTO article VALUES (1, 'a', 's')")
    project.become(article(None))
    project.migrate("no longer")
    project.run("UPDATE article SET name = 'b'")
    assert project.verbs("article") == ["insert"]
    assert (
        project.value(
            "SELECT count(*) FROM pg_proc WHERE prorettype = 'trigger'::regtype AND "
            "proname LIKE 'capture%'"
        )
        == 0
    )
    project.downgrade()
    project.run("UPDATE article SET name = 'c'")
    assert project.verbs("article") == ["insert", "update"]
    project.become(article({"mask": ["secret"]}))
    assert project.check() == []


def test_options_change(project: Project) -> None:
    project.become(article({"exclude": ["secret"]}))
    project.migrate("first")
    options = {"when": "NEW.name LIKE 'a%:x'", "on": ["insert"], "mask": ["secret"]}
    project.become(article(options))
    text = project.migrate("options")
    assert '# Track "article" anew.' in text
    project.run("INSERT INTO article VALUES (1, 'ab:x', 's'), (2, 'b', 's')")
    assert project.verbs("article") == ["insert"]
    project.downgrade()
    project.become(article({"exclude": ["secret"]}))
    assert project.check() == []
    assert project.differences() == []


def test_columns_come_and_go(project: Project) -> None:
    """A capture function is made for the columns that are there, on the way back, too."""

    def shape(options: dict[str, Any], *names: str) -> Any:
        def make(base: Any) -> None:
            columns = {name: sa.Column(sa.Text) for name in names}
            id_ = sa.Column(sa.Integer, primary_key=True)
            values = {"__tablename__": "article", "__versioned__": options, "id": id_, **columns}
            type("Article", (base,), values)

        return make

    first, second = shape({"mask": ["pin"]}, "name", "pin"), shape({"exclude": ["key"]}, "key")
    project.become(first)
    project.migrate("first")
    project.become(second)
    project.migrate("a masked column goes, an excluded one comes")
    assert project.check() == []
    project.become(shape({"exclude": ["key"]}, "key", "name"))
    project.migrate("a column comes, the options stay")
    assert project.check() == []
    project.run("INSERT INTO article VALUES (1, 'k', 'n')")
    for step in (second, first):
        project.downgrade()
        project.become(step)
        assert project.check() == []
        assert project.differences() == []
    project.run("UPDATE article SET pin = '1', name = 'm'")
    stored = project.value("SELECT changed_data FROM audit.activity ORDER BY id DESC LIMIT 1")
    assert stored["name"] == "m"
    assert stored["pin"] != "1"


def test_a_tracked_table_is_dropped(project: Project) -> None:
    project.become(article({}))
    project.migrate("first")
    project.run("INSERT INTO article VALUES (1, 'a', 's')")
    project.become(nothing)
    text = project.migrate("dropped")
    assert text.index("# Stop to track") < text.index("drop_table")
    assert project.value("SELECT count(*) FROM pg_proc WHERE proname LIKE 'capture_public%'") == 0
    assert project.verbs("article") == ["insert"]
    project.downgrade()
    project.become(article({}))
    assert project.check() == []


def test_tampering_is_mended(project: Project) -> None:
    """A trigger that was disabled, a function of a table and one of the trail that were altered."""
    project.become(article({}))
    project.migrate("first")
    noop = (
        "CREATE OR REPLACE FUNCTION audit.capture_public_article() RETURNS trigger "
        "LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
    )
    for tampering in (
        'ALTER TABLE article DISABLE TRIGGER "00_audit_insert"',
        "DROP TRIGGER zz_audit_truncate ON article",
        noop,
        "CREATE OR REPLACE FUNCTION audit.query_text() RETURNS text LANGUAGE sql AS 'SELECT NULL'",
        "DROP FUNCTION audit.query_text()",
        "DROP TRIGGER append_only ON audit.activity",
        "CREATE FUNCTION audit.extra() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "COMMENT ON SCHEMA audit IS NULL",
    ):
        project.run(tampering)
        assert project.differences(), tampering
        project.migrate("mended")
        assert project.check() == [], tampering


def test_the_schema_is_renamed(project: Project) -> None:
    project.become(article({"exclude": ["secret"]}))
    project.migrate("first")
    project.run("INSERT INTO article VALUES (1, 'a', 's')")
    project.become(article({"exclude": ["secret"]}), schema_name="Trail of it")
    text = project.migrate("renamed")
    assert 'ALTER SCHEMA "audit" RENAME TO "Trail of it"' in text
    assert project.check() == []
    project.run("UPDATE article SET name = 'b'")
    assert project.value('SELECT count(*) FROM "Trail of it".activity') == 2
    project.downgrade()
    project.become(article({"exclude": ["secret"]}))
    assert project.check() == []
    assert project.differences() == []
    project.run("UPDATE article SET name = 'c'")
    assert project.verbs("article") == ["insert", "update", "update"]


def test_offline(project: Project) -> None:
    """``--sql`` prints a script that does the same."""
    project.become(article({"mask": ["secret"]}))
    project.migrate("first")
    project.downgrade("base")
    project.run("DROP TABLE alembic_version")
    script = project.offline("head")
    connection = project.engine.raw_connection()
    connection.cursor().execute(script)
    connection.commit()
    connection.close()
    assert project.check() == []
    assert project.differences() == []


def test_tables_that_the_models_do_not_have(project: Project) -> None:
    """A table that was tracked by hand and that no model knows is left alone."""
    project.become(article({}))
    project.migrate("first")
    project.run("CREATE TABLE other (id int PRIMARY KEY)", "SELECT audit.audit_table('other')")
    assert (
        "audit",
        "Stop to track public.other; what was recorded stays.",
    ) in project.differences()
    project.options["include_object"] = lambda _, name, *__: name != "other"
    assert project.differences() == []


def test_two_trails_in_two_schemas(project: Project) -> None:
    """Tenants: the same table in two schemas, each tracked under its own name."""

    def models(base: Any) -> None:
        for schema in ("one", "two"):
            type(
                f"Thing{schema}",
                (base,),
                {
                    "__tablename__": "thing",
                    "__table_args__": {"schema": schema},
                    "__versioned__": {},
                    "id": sa.Column(sa.Integer, primary_key=True),
                },
            )

    project.run("CREATE SCHEMA one; CREATE SCHEMA two")
    if not project.options["include_schemas"]:
        project.run(
            "CREATE TABLE one.thing (id int PRIMARY KEY)",
            "CREATE TABLE two.thing (id int PRIMARY KEY)",
        )
        pytest.skip("without include_schemas Alembic takes other schemas' tables for missing")
    project.become(models)
    project.migrate("tenants")
    assert project.check() == []
    project.run("INSERT INTO one.thing VALUES (1)", "INSERT INTO two.thing VALUES (2)")
    assert project.value("SELECT array_agg(schema_name ORDER BY id) FROM audit.activity") == [
        "one",
        "two",
    ]


def test_a_schema_for_each_tenant(database_url: str, tmp_path: Path) -> None:
    """The same revisions run once for each tenant, by the search_path; the trail is theirs all."""
    project = Project(tmp_path / "m", database_url)
    project.become(article({"exclude": ["secret"]}))
    project.run("CREATE SCHEMA a; CREATE SCHEMA b")
    project.tenant = "a"
    project.migrate("first")
    project.tenant = "b"
    assert project.differences() != []
    project.upgrade()
    for project.tenant in ("a", "b"):
        assert project.differences() == []
        # The other tenant's table is none that these models declare.
        assert [code for code, _ in project.check()] == ["orphan"]
        project.run(f"INSERT INTO {project.tenant}.article VALUES (1, '{project.tenant}')")
    # One tenant leaves: the other is tracked all the same.
    project.downgrade("base")
    project.tenant = "a"
    assert project.check() == []
    project.run("UPDATE a.article SET name = 'c'")
    query = "SELECT array_agg(concat(schema_name, ' ', verb) ORDER BY id) FROM audit.activity"
    assert project.value(query) == ["a insert", "b insert", "a update"]
    project.downgrade("base")
    assert project.value("SELECT count(*) FROM pg_proc WHERE proname = 'audit_table'") == 0


def test_an_older_version_is_brought_up_to_date(project: Project) -> None:
    """A trail of an older version of the package: an ordinary revision, and back."""
    frozen = Path(__file__).with_name("installed_2026_11_24.sql").read_text()
    project.run("CREATE TABLE article (id int PRIMARY KEY, name text, secret text)")
    project.run(frozen)
    project.run(
        "SELECT audit.audit_table('article', ARRAY['secret'])",
        "INSERT INTO article VALUES (1, 'a', 's')",
    )
    # Tracked by hand, and no model's: its capture function calls the trail's, too.
    project.run(
        "CREATE SCHEMA other; CREATE TABLE other.thing (id int PRIMARY KEY)",
        "SELECT audit.audit_table('other.thing')",
    )
    project.options["include_name"] = lambda name, kind, _: kind != "schema" or name != "other"
    older = functions(project)
    project.become(article({"exclude": ["secret"]}))
    text = project.migrate("update")
    assert "# Bring the audit trail's functions up to date." in text
    assert {code for code, _ in project.check()} == {"orphan"}
    project.run("UPDATE article SET name = 'b'", "INSERT INTO other.thing VALUES (1)")
    assert project.verbs("article") == ["insert", "update"]
    assert project.verbs("thing") == ["insert"]
    assert project.value("SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'zzz%'") == 0
    project.downgrade()
    assert functions(project) == older
    project.run("UPDATE article SET name = 'c'")
    assert project.verbs("article") == ["insert", "update", "update"]
    project.upgrade()
    assert {code for code, _ in project.check()} == {"orphan"}
    assert project.differences() == []


def test_a_version_with_another_column(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a later version adds to the trail's own tables comes and goes like the rest."""
    project.become(article({}))
    project.migrate("first")
    project.run("INSERT INTO article VALUES (1, 'a', 's')")
    monkeypatch.setattr(models.TransactionMixin, "shard", sa.Column(sa.Text), raising=False)
    project.become(article({}))
    project.logger.transaction_cls.__table__.indexes.add(
        sa.Index("transaction_shard_idx", project.logger.transaction_cls.__table__.c.shard)
    )
    text = project.migrate("a column")
    assert "create_table" not in text
    assert "ADD COLUMN IF NOT EXISTS shard" in text
    assert project.check() == []
    project.run("UPDATE article SET name = 'b'")
    monkeypatch.undo()
    project.downgrade()
    project.become(article({}))
    assert project.check() == []
    assert project.differences() == []
    project.run("UPDATE article SET name = 'c'")
    assert project.verbs("article") == ["insert", "update", "update"]
    # What was recorded in it stays.
    project.upgrade()
    assert project.check() == []
    project.run(
        "ALTER TABLE audit.transaction DISABLE TRIGGER append_only",
        "UPDATE audit.transaction SET shard = 's'",
        "ALTER TABLE audit.transaction ENABLE ALWAYS TRIGGER append_only",
    )
    project.downgrade()
    project.upgrade()
    assert project.value("SELECT shard FROM audit.transaction LIMIT 1") == "s"


def functions(project: Project) -> dict[str, str]:
    """The definition of every function of the trail, by its signature."""
    with project.engine.connect() as connection:
        query = sa.text(
            "SELECT CAST(CAST(oid AS regprocedure) AS text), pg_get_functiondef(oid) FROM pg_proc "
            "WHERE pronamespace = CAST('audit' AS regnamespace)"
        )
        return {row[0]: row[1] for row in connection.execute(query)}


def test_names_and_conditions_with_colons(project: Project) -> None:
    """Neither ``:name`` nor ``%`` in a name or a condition means something to SQLAlchemy."""

    def models(base: Any) -> None:
        type(
            "Odd",
            (base,),
            {
                "__tablename__": "rabbits; :a %s",
                "__versioned__": {"when": r"NEW.name <> 'a:b :c: 100% \:d'"},
                "id": sa.Column(sa.Integer, primary_key=True),
                "name": sa.Column(sa.Text),
            },
        )

    project.become(models)
    project.migrate("odd")
    assert project.check() == []
    project.run("""INSERT INTO "rabbits; :a %s" VALUES (1, 'a:b :c: 100% \\:d'), (2, 'x')""")
    assert project.value("SELECT array_agg(object_id) FROM audit.activity") == ["2"]


def test_the_models_of_another_database(project: Project) -> None:
    """A bind's own metadata: its revisions do not mention the trail."""
    project.become(article({}))
    own, project.metadata = project.metadata, sa.MetaData()
    sa.Table("elsewhere", project.metadata, sa.Column("id", sa.Integer, primary_key=True))
    assert [difference[0] for difference in project.differences()] == ["add_table"]
    project.metadata = own
    assert "audit" in [difference[0] for difference in project.differences()]


def test_partitions_are_not_for_a_revision_to_drop(project: Project) -> None:
    before = catalog(project)
    project.become(article({}), partition_by="month")
    project.migrate("first")  # shows that a second one would be empty
    assert project.check() == []
    project.run("INSERT INTO article VALUES (1, 'a')")
    assert project.value("SELECT count(*) FROM audit.partitions() WHERE is_default") == 2
    project.run("SET audit_app.drop_trail = on")
    project.downgrade("base")
    assert project.value("SELECT count(*) FROM audit.activity") == 1
    project.run("DROP SCHEMA audit CASCADE")
    assert catalog(project) == before
