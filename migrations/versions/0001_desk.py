"""The desk's tables, and the audit trail on them.

Revision ID: 0001
Revises:
Create Date: 2026-11-24 20:00:00
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from flask import current_app

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = ("country_currency", "subdivision", "currency", "country", "editor")


def upgrade() -> None:
    create_tables()
    install_audit()


def downgrade() -> None:
    uninstall_audit()
    for table in TABLES:
        op.drop_table(table)


def install_audit() -> None:
    """Install the trail by hand; ``flask db migrate`` can write a revision for it as well."""
    audit_logger = current_app.extensions["audit_app"]
    if audit_logger.schema_name:
        op.execute(sa.schema.DDL(audit_logger.render_tmpl("create_schema.sql")))
        op.execute(sa.schema.DDL(audit_logger.render_tmpl("jsonb_change_key_name.sql")))
        op.execute(audit_logger.operators_sql())
        op.execute(audit_logger.audit_table_sql())
        schema = op.get_context().dialect.identifier_preparer.quote(audit_logger.schema_name)
        op.execute(f"SELECT {schema}.audit_table('country')")
        op.execute(f"SELECT {schema}.audit_table('subdivision')")
        op.execute(f"SELECT {schema}.audit_table('currency')")
        op.execute(f"SELECT {schema}.audit_table('country_currency')")
        op.execute(f"SELECT {schema}.audit_table('editor', ARRAY['password_hash'])")


def uninstall_audit() -> None:
    """Drop the schema of the trail, and the trail with it."""
    audit_logger = current_app.extensions["audit_app"]
    if audit_logger.schema_name:
        op.execute(sa.schema.DDL(audit_logger.render_tmpl("drop_schema.sql")))


def create_tables() -> None:
    op.create_table(
        "country",
        sa.Column("alpha_2", sa.Text(), nullable=False),
        sa.Column("alpha_3", sa.Text(), nullable=False),
        sa.Column("numeric", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("official_name", sa.Text()),
        sa.Column("common_name", sa.Text()),
        sa.Column("flag", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("alpha_2", name="country_pkey"),
        sa.UniqueConstraint("alpha_3", name="country_alpha_3_key"),
    )
    op.create_table(
        "currency",
        sa.Column("alpha_3", sa.Text(), nullable=False),
        sa.Column("numeric", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("alpha_3", name="currency_pkey"),
    )
    op.create_table(
        "country_currency",
        sa.Column("country_code", sa.Text(), nullable=False),
        sa.Column("currency_code", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("country_code", "currency_code", name="country_currency_pkey"),
        sa.ForeignKeyConstraint(
            ["country_code"],
            ["country.alpha_2"],
            name="country_currency_country_code_fkey",
            onupdate="CASCADE",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["currency_code"],
            ["currency.alpha_3"],
            name="country_currency_currency_code_fkey",
            onupdate="CASCADE",
        ),
    )
    op.create_index("country_currency_currency_code_idx", "country_currency", ["currency_code"])
    op.create_table(
        "subdivision",
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("country_code", sa.Text(), nullable=False),
        sa.Column("parent_code", sa.Text()),
        sa.PrimaryKeyConstraint("code", name="subdivision_pkey"),
        sa.ForeignKeyConstraint(
            ["country_code"],
            ["country.alpha_2"],
            name="subdivision_country_code_fkey",
            onupdate="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["parent_code"],
            ["subdivision.code"],
            name="subdivision_parent_code_fkey",
            onupdate="CASCADE",
        ),
    )
    op.create_index("subdivision_country_code_idx", "subdivision", ["country_code"])
    op.create_index("subdivision_parent_code_idx", "subdivision", ["parent_code"])
    op.create_table(
        "editor",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("username", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="editor_pkey"),
        sa.UniqueConstraint("username", name="editor_username_key"),
    )
