"""How Alembic reaches the database and the models; run by ``python manage.py db ...``."""

from __future__ import annotations

import logging
from logging.config import fileConfig
from typing import TYPE_CHECKING, Any

from alembic import context
from flask import current_app

if TYPE_CHECKING:
    from collections.abc import Sequence

config = context.config
migrate = current_app.extensions["migrate"]
logger = logging.getLogger("alembic.env")

if "quiet" not in context.get_x_argument(as_dictionary=True):
    fileConfig(str(config.config_file_name), disable_existing_loggers=False)


def skip_empty(_context: object, _revision: object, directives: Sequence[Any]) -> None:
    """Write no revision where autogeneration found nothing to do."""
    if getattr(config.cmd_opts, "autogenerate", False) and directives[0].upgrade_ops.is_empty():
        directives[:] = []  # type: ignore[index]
        logger.info("No changes in schema detected.")


options = {
    "target_metadata": migrate.db.metadata,
    "process_revision_directives": skip_empty,
    **migrate.configure_args,
}


def run_offline() -> None:
    """Print the SQL instead of running it (``--sql``)."""
    url = migrate.db.engine.url.render_as_string(hide_password=False)
    context.configure(url=url, literal_binds=True, **options)
    with context.begin_transaction():
        context.run_migrations()


def run_online() -> None:
    """Run against the application's database."""
    with migrate.db.engine.connect() as connection:
        context.configure(connection=connection, **options)
        with context.begin_transaction():
            context.run_migrations()


if context.is_offline_mode():
    run_offline()
else:
    run_online()
