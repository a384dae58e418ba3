"""Where the pages can be mounted."""

from __future__ import annotations

import html
import re
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Blueprint, Flask
from flask_admin import Admin, AdminIndexView
from flask_admin import babel as admin_babel
from flask_admin.contrib.sqla import ModelView

from audit_app import AuditLogger, audit_bp
from audit_app.admin import AuditView, HistoryMixin, add_history_links, history_url
from audit_app.admin.i18n import host_gettext
from tests.web.conftest import MakeSite
from tests.web.site import Site

EVERY_PAGE = (
    "", "actors/", "actors/7", "tables/", "records/public/article/1",
    "records/public/article/1?only=1", "records/public/article/1?field=title",
    "records/public/article/1?at=2999-01-01", "versions/{activity}", "activities/{activity}",
    "transactions/{transaction}",
)  # fmt: skip


def fill(site: Site) -> dict[str, int]:
    transaction = site.write(
        "INSERT INTO article (id, title) VALUES (1, 'old')",
        "UPDATE article SET title = 'new' WHERE id = 1",
        actor="7",
        label="Ada",
    )
    return {"transaction": transaction, "activity": site.activity_id("article")}


def fill_again(site: Site) -> dict[str, int]:
    transaction = site.write("UPDATE article SET title = 'newer'", actor="7", label="Ada")
    return {"transaction": transaction, "activity": site.activity_id("article")}


def assert_all_pages(site: Site, prefix: str) -> None:
    """Every page opens, and every link of every page leads to one that opens."""
    ids, seen = fill(site), set()
    for path in EVERY_PAGE:
        seen |= set(site.get(prefix + path.format(**ids)).hrefs)
    for href in sorted(seen):
        assert href.startswith((prefix, "#", "/admin")), href
        if href.startswith(prefix):
            assert "//" not in href
            site.get(href) if "/assets/" not in href else site.client.get(href).close()


def test_the_blueprint_alone_serves_the_pages(site: Site) -> None:
    assert_all_pages(site, "/audit/")


def test_the_blueprint_may_come_before_the_logger(make_site: MakeSite) -> None:
    site = make_site(mount=None)
    app = Flask("early")
    app.config.update(SQLALCHEMY_DATABASE_URI=site.url, SECRET_KEY="test", TESTING=True)
    app.register_blueprint(audit_bp)
    site.db.init_app(app)
    site.logger.init_app(app)
    assert app.test_client().get("/audit/").status_code == 200
    with app.app_context():
        site.db.engine.dispose()


@pytest.mark.parametrize("prefix", ["/ops/history", "/ops/history/"])
def test_another_prefix(make_site: MakeSite, prefix: str) -> None:
    site = make_site(mount=lambda app: app.register_blueprint(audit_bp, url_prefix=prefix))
    assert_all_pages(site, "/ops/history/")
    ids = fill_again(site)
    for path in EVERY_PAGE:
        assert "/audit" not in site.get("/ops/history/" + path.format(**ids)).html


def test_below_a_parent_blueprint(make_site: MakeSite) -> None:
    parent = Blueprint("ops", __name__, url_prefix="/ops")
    parent.register_blueprint(audit_bp)
    assert_all_pages(make_site(mount=lambda app: app.register_blueprint(parent)), "/ops/audit/")


def test_twice_under_different_names(make_site: MakeSite) -> None:
    def mount(app: Flask) -> None:
        app.register_blueprint(audit_bp)
        app.register_blueprint(audit_bp, name="second", url_prefix="/second")

    site = make_site(mount=mount)
    fill(site)
    for prefix in ("/audit/", "/second/"):
        assert all(href.startswith((prefix, "#")) for href in site.get(prefix).hrefs), site.get(
            prefix
        ).hrefs


def test_at_the_root_of_the_site_other_addresses_stay_the_hosts(make_site: MakeSite) -> None:
    site = make_site(mount=lambda app: app.register_blueprint(audit_bp, url_prefix="/"))
    fill(site)
    assert site.get("/").heading == "Activity"
    site.get("/actors/7")
    response = site.client.get("/elsewhere")
    assert response.status_code == 404
    assert "There is no such page" not in response.text


def test_two_applications_in_one_process(make_site: MakeSite, database_url: str) -> None:
    first, second = make_site(), make_site(database_url)
    first.write("INSERT INTO article (id, title) VALUES (1, 'in the first')")
    second.write("INSERT INTO article (id, title) VALUES (2, 'in the second')")
    assert "in the second" not in first.get("/audit/").html
    assert "in the second" in second.get("/audit/").html


def test_the_pages_inside_of_a_hosts_admin(make_site: MakeSite) -> None:
    def mount(app: Flask) -> None:
        admin = Admin(app, name="Back office", index_view=AdminIndexView(url="/admin"))
        admin.add_view(AuditView(name="What happened"))

    site = make_site(mount=mount)
    assert_all_pages(site, "/admin/audit/")
    page = site.get("/admin/audit/")
    assert "Back office" in page.html
    assert page.link("What happened") == "/admin/audit/"
    assert page.heading == "Activity"


def test_the_menu_entry_is_for_those_who_may_see_the_trail(make_site: MakeSite) -> None:
    def mount(app: Flask) -> None:
        Admin(app).add_view(AuditView(name="What happened"))

    site = make_site(mount=mount, can_view=lambda actor: False)
    assert "What happened" not in site.get("/admin/").html


@pytest.mark.parametrize("way", ["helper", "mixin"])
@pytest.mark.parametrize("mounted", ["blueprint", "view"])
def test_rows_of_a_model_view_link_to_their_history(
    make_site: MakeSite, way: str, mounted: str
) -> None:
    class Linked(HistoryMixin, ModelView):  # type: ignore[misc]
        pass

    site = make_site(mount=None)
    with site.app.app_context():
        admin = Admin(site.app)
        for model in (site.Article, site.Rate):
            view = Linked if way == "mixin" else ModelView
            admin.add_view(view(model, site.db))
        if mounted == "view":
            admin.add_view(AuditView())
        else:
            site.app.register_blueprint(audit_bp)
    if way == "helper":
        add_history_links(admin)
        add_history_links(admin)  # a second call adds nothing
    site.write(
        "INSERT INTO article (id, title) VALUES (1, 'a')",
        "INSERT INTO rate VALUES ('a/b', 'c, d', 1)",
    )
    for name, heading in (("article", "article 1"), ("rate", "rate a/b, c, d")):
        links = [h for h in site.get(f"/admin/{name}/").hrefs if "/records/" in h]
        assert len(links) == 1
        assert site.get(links[0]).heading == heading


@pytest.mark.parametrize("way", ["helper", "mixin", "helper before the application"])
@pytest.mark.parametrize("modal", [False, True])
def test_details_of_a_model_view_link_to_the_history(
    make_site: MakeSite, way: str, modal: bool
) -> None:
    class Plain(ModelView):  # type: ignore[misc]
        can_view_details = True
        details_modal = modal

    class Linked(HistoryMixin, Plain):
        pass

    site = make_site(mount=None)
    view = (Linked if way == "mixin" else Plain)(site.Slug, site.db)
    with site.app.app_context():
        admin = Admin() if "before" in way else Admin(site.app)
        admin.add_view(view)
        if way != "mixin":
            add_history_links(admin)
            add_history_links(admin)
        if "before" in way:
            admin.init_app(site.app)
        site.app.register_blueprint(audit_bp)
    key = "a/b,c"
    site.write(sa.insert(site.Slug).values(id=key, value="found"))
    listed = site.get("/admin/slug/")
    details = next(h for h in listed.hrefs if "/details/" in h)
    page = site.client.get(details)
    assert page.status_code == 200
    links = set(re.findall(r'href="(/audit/[^"]*)"', page.text))
    assert len(links) == 1
    assert site.get(html.unescape(links.pop())).heading == f"slug {key}"
    assert "found" in page.text


def test_who_may_not_see_the_trail_and_what_is_not_tracked_get_no_link(
    make_site: MakeSite,
) -> None:
    open_to: list[bool] = []

    def models(db: Any) -> Any:
        class Memo(db.Model):  # type: ignore[misc]
            __tablename__ = "memo"
            id = sa.Column(sa.Integer, primary_key=True)

        return Memo

    class Detailed(ModelView):  # type: ignore[misc]
        can_view_details = True

    def can_view(actor: Any) -> bool:
        asked.append(1)
        return bool(open_to)

    asked: list[int] = []
    site = make_site(mount=None, extend=models, can_view=can_view)
    with site.app.app_context():
        admin = Admin(site.app)
        for model in (site.Article, site.extra):
            admin.add_view(Detailed(model, site.db))
        admin.add_view(AuditView(name="What happened"))
    add_history_links(admin)
    site.write(
        "INSERT INTO article (id, title) SELECT n, 'a' FROM generate_series(1, 9) AS n",
        "INSERT INTO memo VALUES (1)",
    )
    pages = ("/admin/article/", "/admin/article/details/?id=1", "/admin/memo/",
             "/admin/memo/details/?id=1")  # fmt: skip
    for path in pages:
        assert "/records/" not in site.get(path).html
    open_to.append(True)
    for path in pages:
        assert ("/records/" in site.get(path).html) == ("article" in path)
    asked.clear()
    site.get("/admin/article/")
    assert len(asked) == 2  # for the menu, and once for all rows


def test_the_link_of_a_joined_inheritance_is_the_tracked_tables(make_site: MakeSite) -> None:
    def models(db: Any) -> Any:
        class Person(db.Model):  # type: ignore[misc]
            __tablename__ = "person"
            __versioned__: dict[str, Any] = {}  # noqa: RUF012
            id = sa.Column(sa.Integer, primary_key=True)

        class Author(Person):
            __tablename__ = "author"
            __versioned__ = None  # type: ignore[assignment]
            id: Any = sa.Column(sa.ForeignKey("person.id"), primary_key=True)

        return Author

    site = make_site(extend=models)
    with site.app.test_request_context():
        author = site.extra(id=5)
        assert history_url(author) is None  # never stored
        site.db.session.add(author)
        site.db.session.commit()
        assert history_url(author) == "/audit/records/public/person/5"
        assert history_url(object()) is None


def test_model_views_work_where_the_pages_are_not_mounted(make_site: MakeSite) -> None:
    site = make_site(mount=None)
    with site.app.app_context():
        admin = Admin(site.app)
        admin.add_view(ModelView(site.Article, site.db))
    add_history_links(admin)
    site.write("INSERT INTO article (id, title) VALUES (1, 'a')")
    assert "History" not in site.get("/admin/article/").html


@pytest.mark.parametrize("error", [KeyError("babel"), RuntimeError("no context"), None])
def test_every_state_of_flask_babel(
    make_site: MakeSite, monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    """Flask-Admin's own messages go through it, ours have their own catalogue."""

    def gettext(message: str, **_: Any) -> str:
        if error is not None:
            raise error
        return f"[{message}]"

    site = make_site(mount=lambda app: Admin(app).add_view(AuditView()))
    monkeypatch.setattr(admin_babel, "gettext", gettext)
    monkeypatch.setattr(admin_babel, "ngettext", lambda one, many, num: gettext(many))
    assert host_gettext("gettext")("%(a)s b", a=1) == ("[%(a)s b]" if error is None else "1 b")
    assert host_gettext("ngettext")("one", "many", 1) == ("[many]" if error is None else "one")
    assert host_gettext("ngettext")("one", "many", 2) == ("[many]" if error is None else "many")
    ids = fill(site)
    for path in EVERY_PAGE:
        page = site.get("/admin/audit/" + path.format(**ids))
        title = page.one("head").one("title").text
        assert title.endswith("Audit trail · Admin")


@pytest.mark.parametrize("level", ["AUTOCOMMIT", "SERIALIZABLE"])
def test_an_engine_with_another_isolation(make_site: MakeSite, level: str) -> None:
    site = make_site(create=True, SQLALCHEMY_ENGINE_OPTIONS={"isolation_level": level})
    ids = fill(site)
    for path in (*EVERY_PAGE, "tables/"):
        site.get("/audit/" + path.format(**ids))
    # Its own connections stay as they are.
    with site.engine.connect() as connection:
        if level == "AUTOCOMMIT":
            assert getattr(connection.connection.driver_connection, "autocommit", False)
        else:
            assert connection.get_isolation_level() == level


def test_without_a_logger_the_page_says_what_is_missing() -> None:
    app = Flask("bare")
    app.register_blueprint(audit_bp)
    response = app.test_client().get("/audit/")
    assert response.status_code == 503
    assert "audit_logger.init_app(app)" in response.text


def test_the_logger_is_the_one_of_the_application(make_site: MakeSite) -> None:
    site = make_site()
    assert isinstance(site.app.extensions["audit_app"], AuditLogger)
