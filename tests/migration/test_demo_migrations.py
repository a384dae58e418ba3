"""The demo's revision: up, nothing left to generate, down without a trace, up again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import flask_migrate
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from demo.app import create_app
from demo.models import Base, audit_logger, db

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask import Flask

MIGRATIONS = str(Path(__file__).resolve().parents[2] / "migrations")
QUIET = ["quiet=yes"]  # env.py then leaves the logging alone

OBJECTS = {
    "schemas": "SELECT nspname FROM pg_namespace",
    "relations": "SELECT relnamespace::regnamespace || '.' || relname FROM pg_class",
    "functions": "SELECT oid::regprocedure::text FROM pg_proc",
    "types": "SELECT typnamespace::regnamespace || '.' || typname FROM pg_type",
    "operators": "SELECT oid::regoperator::text FROM pg_operator",
    "triggers": "SELECT tgrelid::regclass || '.' || tgname FROM pg_trigger",
    "constraints": "SELECT conrelid::regclass || '.' || conname FROM pg_constraint",
    "casts": "SELECT castsource::regtype || '>' || casttarget::regtype FROM pg_cast",
    "extensions": "SELECT extname FROM pg_extension",
    "event triggers": "SELECT evtname FROM pg_event_trigger",
}


@pytest.fixture
def app(database_url: str) -> Iterator[Flask]:
    app = create_app(database_url, secret_key="test")
    with app.app_context():
        yield app
        db.session.remove()
        db.engine.dispose()


def catalog() -> dict[str, set[str]]:
    """Every object of the database, but for Alembic's own table and what stores long values."""
    with db.engine.connect() as connection:
        connection.execute(sa.text("DROP TABLE IF EXISTS alembic_version"))
        connection.commit()
        return {
            kind: {
                name
                for name in connection.scalars(sa.text(query))
                if name and "pg_toast" not in name and not name.startswith("pg_temp")
            }
            for kind, query in OBJECTS.items()
        }


def upgrade() -> None:
    flask_migrate.upgrade(directory=MIGRATIONS, x_arg=QUIET)


def downgrade() -> None:
    flask_migrate.downgrade(directory=MIGRATIONS, revision="base", x_arg=QUIET)


def is_tracked(table: str) -> bool:
    with db.engine.connect() as connection:
        count = connection.scalar(
            sa.text(
                "SELECT count(*) FROM pg_trigger WHERE tgrelid = CAST(:name AS regclass) "
                "AND NOT tgisinternal"
            ),
            {"name": table},
        )
        return bool(count)


def write_a_currency(code: str) -> list[Any]:
    table = Base.metadata.tables["currency"]
    db.session.execute(sa.insert(table).values(alpha_3=code, numeric="000", name="Test"))
    db.session.commit()
    activity = audit_logger.activity_cls
    found = list(db.session.scalars(sa.select(activity).where(activity.object_key == code)))
    db.session.remove()  # what is left open would block the downgrade
    return found


def test_there_is_one_head() -> None:
    assert len(ScriptDirectory(MIGRATIONS).get_heads()) == 1


def test_upgrade_installs_tables_and_triggers(app: Flask) -> None:
    upgrade()
    for table in audit_logger.audited_tables():
        assert is_tracked(table.name)
    (activity,) = write_a_currency("TST")
    assert activity.verb == "insert"


def test_the_schema_equals_the_models(app: Flask) -> None:
    upgrade()
    schema = audit_logger.schema_name
    with db.engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "include_object": lambda item, name, kind, reflected, other: (
                    kind != "table" or item.schema != schema
                ),
                "compare_server_default": True,
            },
        )
        assert compare_metadata(context, Base.metadata) == []


def test_a_second_revision_would_be_empty(app: Flask) -> None:
    upgrade()
    flask_migrate.migrate(directory=MIGRATIONS, x_arg=QUIET, rev_id="9999")
    written = {file: file.read_text() for file in Path(MIGRATIONS).glob("versions/9999*")}
    for file in written:
        file.unlink()
    assert written == {}


def test_downgrade_leaves_nothing_behind(app: Flask) -> None:
    before = catalog()
    upgrade()
    write_a_currency("TST")
    downgrade()
    assert catalog() == before


def test_upgrade_again(app: Flask) -> None:
    upgrade()
    write_a_currency("TST")
    downgrade()
    upgrade()
    (activity,) = write_a_currency("TST")
    assert activity.data["name"] == "Test"
