"""Roles for the catalogue: an ordinary one, as an application or an attacker would have."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from tests.server import Server
from tests.trail import Trail


@pytest.fixture
def article(trail: Trail) -> Trail:
    """A trail with the tracked table ``article``."""
    trail.create("CREATE TABLE article (id int PRIMARY KEY, name text, n numeric)", "article")
    return trail


@pytest.fixture
def role(server: Server) -> Iterator[str]:
    """The name of a login role without any rights; it goes with the test."""
    name = f"audit_test_{server.name}_mallory"
    server.execute(f'DROP ROLE IF EXISTS "{name}"')
    server.execute(f"CREATE ROLE \"{name}\" LOGIN PASSWORD 'secret'")
    yield name
    server.execute(f'DROP ROLE "{name}"')


@pytest.fixture
def mallory(article: Trail, role: str) -> Iterator[Trail]:
    """The same database, as a role that may write ``article`` and create objects of its own."""
    article.script(
        f'GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON article TO "{role}";'
        f'GRANT ALL ON SCHEMA public TO "{role}"; GRANT ALL ON DATABASE '
        f'"{sa.make_url(article.url).database}" TO "{role}"'
    )
    url = sa.make_url(article.url).set(username=role, password="secret")
    opened = Trail(url.render_as_string(hide_password=False))
    yield opened
    opened.close()
    article.script(f'DROP OWNED BY "{role}" CASCADE')
