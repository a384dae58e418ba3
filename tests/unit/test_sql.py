"""The SQL files as text."""

from __future__ import annotations

import re

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import declarative_base

from audit_app import AuditLogger, sql

FILES = sql.names()


def test_the_files_are_all_used() -> None:
    used = {
        *sql.FUNCTIONS,
        *sql.INSTALLERS,
        "create_schema.sql",
        "drop_schema.sql",
        "own_schema.sql",
        "uninstall.sql",
        "leftovers.sql",
        "drop_column.sql",
    }
    assert used | {"jsonb_change_key_name.sql"} == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_no_character_means_something_to_the_wrappers(name: str) -> None:
    text = sql.render(name, "audit")
    assert "%" not in text
    assert not sa.text(text)._bindparams
    assert "@schema" not in text


@pytest.mark.parametrize("name", FILES)
def test_a_function_that_runs_as_its_owner_fixes_the_search_path(name: str) -> None:
    text = sql.render(name, "audit")
    definers = re.findall(r"(?m)^SECURITY DEFINER\s+(SET search_path = pg_catalog, pg_temp)?", text)
    assert all(definers)


def test_the_schema_is_quoted() -> None:
    logger = AuditLogger(schema_name='My "audit"')
    logger.init(declarative_base())
    assert 'CREATE SCHEMA IF NOT EXISTS "My ""audit"""' in logger.render_tmpl("create_schema.sql")
    assert '"My ""audit""".activity' in logger.audit_table_sql()


def test_the_digest_tells_one_version_from_another() -> None:
    first, second = AuditLogger(schema_name="a"), AuditLogger(schema_name="b")
    assert first.trail.digest == AuditLogger(schema_name="a").trail.digest
    assert first.trail.digest != second.trail.digest
