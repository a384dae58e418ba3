"""Who may see the pages, and what they say where they cannot be shown."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_admin import Admin

from audit_app import selection
from audit_app.admin import AuditView
from tests.web.conftest import MakeSite
from tests.web.site import Site

PATHS = [
    "", "?table=article", "actors/", "actors/1", "records/public/article/1", "records/?schema=a",
    "activities/1", "transactions/1", "activities/x", "elsewhere", "tables/", "export.csv",
]  # fmt: skip


@pytest.mark.parametrize("can_view", [None, lambda actor: False, lambda actor: actor])
@pytest.mark.parametrize("path", PATHS)
def test_every_page_is_closed(make_site: MakeSite, can_view: Any, path: str) -> None:
    site = make_site(can_view=can_view)
    site.write("INSERT INTO article (id, title) VALUES (1, 'secret')")
    page = site.get(f"/audit/{path}", status=403)
    assert page.heading == "No access"
    assert "secret" not in page.html
    assert "can_view" not in page.html


def test_a_view_in_a_hosts_admin_is_closed_too(make_site: MakeSite) -> None:
    site = make_site(can_view=None, mount=lambda app: Admin(app).add_view(AuditView()))
    for path in PATHS:
        site.get(f"/admin/audit/{path}", status=403)


def test_in_debug_mode_the_page_says_how_to_open_it(make_site: MakeSite) -> None:
    site = make_site(can_view=None, DEBUG=True)
    assert "AuditLogger(can_view=" in site.get("/audit/", status=403).words


def test_a_policy_that_says_no_is_not_explained_in_debug_mode(make_site: MakeSite) -> None:
    site = make_site(can_view=lambda actor: False, DEBUG=True)
    assert "can_view" not in site.get("/audit/", status=403).html


def test_the_policy_is_asked_about_the_actor(make_site: MakeSite) -> None:
    asked: list[Any] = []

    def policy(actor: Any) -> bool:
        asked.append(actor)
        return True

    site = make_site(can_view=policy)
    site.get("/audit/")
    assert asked == [None]


def test_a_host_can_ask_for_more(make_site: MakeSite) -> None:
    class Never(AuditView):
        def is_accessible(self) -> bool:
            return False

    site = make_site(mount=lambda app: Admin(app).add_view(Never()))
    site.get("/admin/audit/", status=403)


def test_visitors_are_shown_where_to_sign_in(make_site: MakeSite) -> None:
    flask_login = pytest.importorskip("flask_login")
    site = make_site(can_view=lambda actor: False)
    manager = flask_login.LoginManager(site.app)
    manager.login_view = "sign_in"
    manager.user_loader(lambda _id: None)
    site.app.add_url_rule("/sign-in", "sign_in", lambda: "")
    page = site.get("/audit/?table=article", status=403)
    assert page.link("Sign in") == "/sign-in?next=/audit/?table%3Darticle"


def test_style_sheet_and_script_are_for_everybody(make_site: MakeSite) -> None:
    site = make_site(can_view=None)
    page = site.get("/audit/", status=403)
    assets = [node.attributes["src"] for node in page.all("script")]
    assets += [node.attributes["href"] for node in page.all("link")]
    assert len(assets) == 3
    for address in assets:
        with site.client.get(address) as response:
            assert response.status_code == 200
            assert "immutable" in response.headers["Cache-Control"]
    for address in ("/audit/assets/none.css", "/audit/assets/../views.py"):
        assert site.client.get(address).status_code in {403, 404}


def test_our_pages_have_their_headers(site: Site) -> None:
    site.write("INSERT INTO article (id, title) VALUES (1, 'a')")
    for path, status in (("/audit/", 200), ("/audit/activities/x", 404), ("/audit/?verb=x", 400)):
        headers = site.get(path, status=status).headers
        policy = headers["Content-Security-Policy"]
        for part in ("default-src 'self'", "script-src 'self'", "style-src 'self'",
                     "frame-ancestors 'none'"):  # fmt: skip
            assert part in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "same-origin"
        assert headers["Cache-Control"] == "no-store"


def test_no_page_needs_inline_scripts_or_styles(site: Site) -> None:
    site.write("INSERT INTO article (id, title) VALUES (1, 'a')", actor="7", label="Ada")
    id_ = site.activity_id("article", "insert")
    for path in ("", "actors/", "actors/7", f"activities/{id_}", "records/public/article/1"):
        page = site.get(f"/audit/{path}")
        assert page.all("style") == []
        assert all(node.text == "" for node in page.all("script"))
        for node in page.walk():
            assert not [name for name in node.attributes if name == "style" or name[:2] == "on"]


def test_pages_have_a_language_one_heading_and_one_main(site: Site) -> None:
    site.write("INSERT INTO article (id, title) VALUES (1, 'a')", actor="7", label="Ada")
    id_ = site.activity_id("article", "insert")
    for path, status in (
        ("", 200), ("?table=x", 400), ("actors/", 200), ("actors/7", 200), ("transactions/1", 200),
        (f"activities/{id_}", 200), ("records/public/article/1", 200), ("nothing", 404),
    ):  # fmt: skip
        page = site.get(f"/audit/{path}", status=status)
        assert page.one("html").attributes["lang"]
        assert page.one("h1").text.strip()
        assert page.one("main").attributes["id"] == page.one("a", "au-skip").attributes["href"][1:]
        labels = {n.attributes.get("aria-labelledby") for n in page.walk()} - {None}
        ids = [n.attributes["id"] for n in page.walk() if "id" in n.attributes]
        assert labels <= set(ids)
        assert len(ids) == len(set(ids))


def test_a_missing_schema_is_explained(make_site: MakeSite, database_url: str) -> None:
    site = make_site(database_url, create=False)
    for path in ("", "actors/", "actors/1", "activities/1", "transactions/1",
                 "records/public/article/1"):  # fmt: skip
        page = site.get(f"/audit/{path}", status=503)
        assert "flask db upgrade" in page.words


def test_a_database_that_does_not_answer_is_explained(make_site: MakeSite) -> None:
    site = make_site("postgresql+psycopg2://nobody@127.0.0.1:1/none", create=False)
    assert "try again" in site.get("/audit/", status=503).words


def test_a_search_that_takes_too_long_is_stopped(
    make_site: MakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = make_site(AUDIT_STATEMENT_TIMEOUT=50)
    monkeypatch.setattr(selection, "feed", lambda *_, **__: sa.select(sa.func.pg_sleep(5)))
    page = site.get("/audit/", status=503)
    assert "Narrow the period" in page.words
    # Neither the host's session nor the next page suffer from it.
    with site.app.app_context():
        assert site.db.session.scalar(sa.text("SHOW statement_timeout")) == "0"
    site.get("/audit/actors/")


def test_pages_read_only(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "feed", lambda *_, **__: sa.text("CREATE TABLE evil (id int)"))
    with pytest.raises(sa.exc.InternalError, match="read-only"):
        site.get("/audit/")


def test_the_hosts_open_transaction_stays_as_it_is(site: Site) -> None:
    with site.app.test_request_context():
        site.db.session.execute(sa.text("INSERT INTO article (id) VALUES (9)"))
        site.get("/audit/")
        assert site.db.session.scalar(sa.text("SELECT count(*) FROM article")) == 1
        assert site.db.session.scalar(sa.text("SHOW statement_timeout")) == "0"
        site.db.session.rollback()


def test_a_session_that_is_bound_to_a_connection(site: Site) -> None:
    """As savepoint-based tests bind it: the pages see its writes, and leave it alone."""
    with site.engine.connect() as connection:
        outer = connection.begin()
        with site.app.app_context():
            site.app.extensions["sqlalchemy"].engines[None] = connection
            site.db.session.execute(sa.text("INSERT INTO article (id, title) VALUES (9, 'seen')"))
        assert "seen" in site.get("/audit/").html
        site.get("/audit/activities/99999", status=404)
        assert connection.scalar(sa.text("SHOW statement_timeout")) == "0"
        assert connection.scalar(sa.text("SHOW transaction_read_only")) == "off"
        assert outer.is_active
        outer.rollback()
    with site.app.app_context():
        site.app.extensions["sqlalchemy"].engines[None] = site.engine


def test_a_defect_is_not_hidden(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise TypeError("a defect")

    monkeypatch.setattr(selection, "feed", broken)
    with pytest.raises(TypeError, match="a defect"):
        site.get("/audit/")
    app: Flask = site.app
    app.config.update(TESTING=False, PROPAGATE_EXCEPTIONS=False)
    app.logger.disabled = True
    assert site.client.get("/audit/").status_code == 500


@pytest.mark.parametrize("path", ["", "actors/", "records/public/article/1", "tables/"])
def test_a_page_calls_nothing_that_another_role_made(site: Site, path: str) -> None:
    """Functions that fit better than PostgreSQL's own would run as whoever reads the trail."""
    boom = "LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''called''; END'"
    site.write(
        "INSERT INTO article (id, title) VALUES (1, 'x')",
        f"CREATE FUNCTION public.pg_column_size(jsonb) RETURNS int {boom}",
        f"CREATE FUNCTION public.array_agg(text) RETURNS text[] {boom}",
        f"CREATE FUNCTION public.max(bigint) RETURNS bigint {boom}",
        f"CREATE FUNCTION public.obj_description(regnamespace, text) RETURNS text {boom}",
        f"CREATE FUNCTION public.to_regclass(varchar) RETURNS regclass {boom}",
    )
    site.get(f"/audit/{path}")


def test_pages_have_no_plan_compiled(site: Site) -> None:
    sent = site.watch()
    site.get("/audit/")
    assert "SET LOCAL jit = off" in sent
    assert sent.index("SET LOCAL jit = off") < min(
        number for number, statement in enumerate(sent) if "audit.activity" in statement
    )
