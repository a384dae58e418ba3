"""A project with Alembic: its models change, its revisions are generated and run."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from textwrap import indent
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import produce_migrations
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import Script
from sqlalchemy.orm import DeclarativeBase

from audit_app import AuditLogger

ENV = """
from alembic import context
import sqlalchemy as sa

attributes = context.config.attributes
options = {"target_metadata": attributes["metadata"], **attributes["options"]}
if context.is_offline_mode():
    context.configure(url=attributes["url"], literal_binds=True, **options)
    with context.begin_transaction():
        context.run_migrations()
else:
    engine = sa.create_engine(attributes["url"], poolclass=sa.NullPool)
    with engine.connect() as connection:
        tenant = attributes["tenant"]
        if tenant:
            connection.exec_driver_sql(f'SET search_path TO "{tenant}"')
            connection.commit()
            connection.dialect.default_schema_name = tenant
        context.configure(connection=connection, **options)
        with context.begin_transaction():
            context.run_migrations()
"""
MAKO = '''"""${message}"""
from alembic import op
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade():
    ${upgrades if upgrades else "pass"}


def downgrade():
    ${downgrades if downgrades else "pass"}
'''

Models = Callable[[type[Any]], object]


class Project:
    """The revisions of a project, over a database.

    :ivar options: of Alembic's ``configure()``.
    :ivar revisions: their ids, the oldest first.
    :ivar tenant: the schema that the models without one stand for.
    """

    def __init__(self, directory: Path, url: str, **options: Any) -> None:
        (directory / "versions").mkdir(parents=True)
        (directory / "env.py").write_text(ENV)
        (directory / "script.py.mako").write_text(MAKO)
        self.directory, self.url, self.options = directory, url, options
        self.engine = sa.create_engine(url, poolclass=sa.NullPool)
        self.logger = AuditLogger()
        self.metadata = sa.MetaData()
        self.classes: list[type[Any]] = []
        self.revisions: list[str] = []
        self.tenant: str | None = None

    def become(self, models: Models, *, schema_name: str = "audit", **options: Any) -> None:
        """Let the project have these models from now on.

        :param options: of the AuditLogger.
        """

        classes: list[type[Any]] = []  # a registry holds its classes weakly
        self.classes = classes

        class Base(DeclarativeBase):
            def __init_subclass__(cls, **options: Any) -> None:
                classes.append(cls)
                super().__init_subclass__(**options)

        self.logger = AuditLogger(schema_name=schema_name, **options)
        self.logger.init(Base)
        models(Base)
        self.metadata = Base.metadata

    @property
    def config(self) -> Config:
        config = Config(stdout=io.StringIO())
        config.set_main_option("script_location", str(self.directory))
        config.attributes.update(metadata=self.metadata, url=self.url, options=self.options)
        config.attributes["tenant"] = self.tenant
        return config

    def migrate(self, message: str, edit: Callable[[str], str] = str) -> str:
        """Generate a revision, run it, and show that a second one would be empty.

        :param edit: what the developer changes in the text of the revision.
        :return: the revision's text.
        """
        return self._run(message, edit, autogenerate=True)

    def write(self, message: str, upgrade: str, downgrade: str) -> str:
        """Run a revision that was written by hand: the statements of both directions."""

        def edit(text: str) -> str:
            first, second = (indent(body, "    ") for body in (upgrade, downgrade))
            return text.replace("    pass", first, 1).replace("    pass", second, 1)

        return self._run(message, edit, autogenerate=False)

    def _run(self, message: str, edit: Callable[[str], str], *, autogenerate: bool) -> str:
        script = command.revision(self.config, message, autogenerate=autogenerate)
        assert isinstance(script, Script)
        self.revisions.append(script.revision)
        path = Path(script.path)
        path.write_text(edit(path.read_text()))
        command.upgrade(self.config, "head")
        left = self.differences()
        assert left == [], left
        return path.read_text()

    def differences(self) -> list[Any]:
        """What autogeneration would write now."""
        with self.engine.connect() as connection:
            if self.tenant:
                connection.exec_driver_sql(f'SET search_path TO "{self.tenant}"')
                connection.dialect.default_schema_name = self.tenant
            context = MigrationContext.configure(connection, opts=self.options)
            script = produce_migrations(context, self.metadata)
        assert script.upgrade_ops is not None
        return [op.to_diff_tuple() for op in script.upgrade_ops.ops]

    def upgrade(self, revision: str = "head") -> None:
        command.upgrade(self.config, revision)

    def downgrade(self, revision: str = "-1") -> None:
        command.downgrade(self.config, revision)

    def offline(self, revisions: str) -> str:
        """Return the SQL of ``alembic upgrade … --sql``."""
        return self._offline(command.upgrade, revisions)

    def offline_downgrade(self, revisions: str) -> str:
        """Return the SQL of ``alembic downgrade … --sql``."""
        return self._offline(command.downgrade, revisions)

    def _offline(self, run: Callable[..., None], revisions: str) -> str:
        buffer = io.StringIO()
        config = self.config
        config.output_buffer = buffer
        with redirect_stdout(buffer):
            run(config, revisions, sql=True)
        return buffer.getvalue()

    def run(self, *statements: str) -> None:
        with self.engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement, execution_options={"no_parameters": True})

    def value(self, query: str) -> Any:
        with self.engine.connect() as connection:
            return connection.scalar(sa.text(query))

    def check(self) -> list[tuple[str, str]]:
        """What ``flask audit check`` would name."""
        with self.engine.connect() as connection:
            if self.tenant:
                connection.exec_driver_sql(f'SET search_path TO "{self.tenant}"')
            return [(f.code, f.message) for f in self.logger.check(connection)]

    def verbs(self, table: str) -> list[str]:
        """What was recorded of a table."""
        query = (
            f"SELECT array_agg(verb ORDER BY id) FROM {self.logger.schema_name}.activity "
            f"WHERE table_name = '{table}'"
        )
        return self.value(query) or []
