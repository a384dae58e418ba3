"""The pages of a record that has had other names."""

from __future__ import annotations

from typing import Any

import pytest

from tests.web.site import Site


@pytest.fixture
def renamed(site: Site) -> Site:
    """``article`` is called that since its last change; before it was ``post`` with a headline."""
    site.Article.__versioned__ = {
        "formerly": {"table": ["post"], "columns": {"title": ["headline"]}}
    }
    site.write(
        "ALTER TABLE article RENAME COLUMN title TO headline",
        "ALTER TABLE article RENAME TO post",
    )
    site.write("INSERT INTO post (id, headline, body) VALUES (1, 'One', 'text')")
    site.write("UPDATE post SET headline = 'Two'", actor="7")
    site.write(
        "ALTER TABLE post RENAME TO article",
        "ALTER TABLE article RENAME COLUMN headline TO title",
    )
    site.write("UPDATE article SET title = 'Three'")
    site.logger._forget_places()
    return site


def test_the_timeline_is_one_story_under_the_present_names(renamed: Site) -> None:
    page = renamed.get("/audit/records/public/article/1")
    assert len(page.all(cls="au-event-head")) == 3
    assert "headline" not in page.words
    for text in ("One", "Two", "Three", "title"):
        assert text in page.words


def test_a_story_under_two_names_compiles_nothing_twice(renamed: Site) -> None:
    renamed.compiled_by("/audit/records/public/article/1")
    assert renamed.compiled_by("/audit/records/public/article/1") == []


def test_the_former_name_leads_to_the_present_one(renamed: Site) -> None:
    for path in (
        "/audit/records/public/post/1?tz=Asia/Tokyo",
        "/audit/records/?schema=public&table=post&identity=1&tz=Asia/Tokyo",
    ):
        response = renamed.client.get(path)
        assert response.status_code == 302
        assert response.location.startswith("/audit/records/public/article/1?")
        assert "tz=Asia" in response.location
    unsafe = renamed.client.get("/audit/records/?schema=public&table=post&identity=..&before=9")
    assert unsafe.status_code == 302
    assert "table=article" in unsafe.location
    assert "before=9" in unsafe.location


def test_a_change_has_its_neighbours_under_the_other_name(renamed: Site) -> None:
    last = renamed.activity_id("article")
    page = renamed.get(f"/audit/activities/{last}")
    former = renamed.activity_id("post")
    assert f"/audit/activities/{former}" in page.hrefs
    page = renamed.get(f"/audit/activities/{former}")
    assert f"/audit/activities/{last}" in page.hrefs
    assert "headline" not in page.words
    assert "title" in page.words


def test_lists_show_the_present_names_of_columns(renamed: Site) -> None:
    assert "headline" not in renamed.get("/audit/").words
    id_ = renamed.scalar("SELECT max(transaction_id) FROM audit.activity WHERE table_name = 'post'")
    words = renamed.get(f"/audit/transactions/{id_}").words
    assert "headline" not in words
    assert "title" in words


def test_large_values_too(renamed: Site) -> None:
    renamed.write(
        "ALTER TABLE article RENAME COLUMN title TO headline",
        "ALTER TABLE article RENAME TO post",
    )
    renamed.write(
        "UPDATE post SET headline = (SELECT string_agg(md5(n::text), ' ') "
        "FROM generate_series(1, 3000) AS n)"
    )
    assert "headline" not in renamed.get("/audit/").words


def test_a_version_by_the_applications_session(renamed: Site) -> None:
    moment: Any = renamed.scalar("SELECT max(issued_at) FROM audit.activity WHERE verb = 'insert'")
    with renamed.app.app_context():
        found = renamed.logger.version_at(renamed.Article, 1, when=moment)
    assert found is not None
    assert found["title"] == "One"
