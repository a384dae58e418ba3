"""The page of what is tracked: states, findings with their remedies, sizes, last changes."""

from __future__ import annotations

import sqlalchemy as sa
from flask_admin import Admin

from audit_app.admin import AuditView
from tests.server import Server
from tests.web.conftest import MakeSite
from tests.web.site import HOSTILE, Page, Site


def rows(page: Page) -> dict[str, list[str]]:
    """The cells of each table by its name."""
    found = {}
    for row in page.one("tbody").all("tr"):
        name, *cells = [" ".join(node.text.split()) for node in row.all() if node.tag in "th td"]
        found[name] = cells
    return found


def findings(page: Page) -> list[str]:
    return [" ".join(node.text.split()) for node in page.all("li", "au-finding")]


def test_everything_is_as_it_should_be(site: Site) -> None:
    site.write("INSERT INTO article (id, title) VALUES (1, 'a')", actor="ada")
    site.write("ANALYZE article")
    page = site.get("/audit/tables/")
    assert page.heading == "Tables"
    assert "Everything is as it should be." in page.words
    shown = rows(page)
    assert set(shown) == {"article", "rate", "slug"}
    assert shown["article"][:2] == ["Tracked", "about 1"]
    assert shown["article"][2].endswith("kB")
    assert shown["rate"][3] == "not among the last 20,000"
    assert page.link("article") == "/audit/?table=article"
    last = page.link(shown["article"][3])
    assert last == f"/audit/activities/{site.activity_id('article', 'insert')}"
    assert "this version" in page.words
    assert site.get("/audit/").link("Tables") == "/audit/tables/"
    assert [n.text for n in page.all("a") if n.attributes.get("aria-current")] == ["Tables"]


def test_findings_are_named_with_their_remedies(site: Site) -> None:
    site.write(
        'ALTER TABLE article DISABLE TRIGGER "00_audit_insert"', "ALTER TABLE rate ADD more text",
        "DROP TABLE slug", "CREATE TABLE extra (id int PRIMARY KEY)",
        "SELECT audit.audit_table('extra')",
    )  # fmt: skip
    page = site.get("/audit/tables/")
    assert {name: cells[0] for name, cells in rows(page).items()} == {
        "article": "Incomplete", "rate": "Needs attention", '"slug"': "Does not exist",
        "extra": "Not declared",
    }  # fmt: skip
    assert "3 errors, 1 warning" in page.words
    shown = findings(page)
    assert shown[0].startswith("!Error public.article has no working trigger for insert")
    assert "audit_table('\"article\"'::regclass" in shown[0]
    assert "Warning" in shown[-1]
    assert "flask audit uninstall" in shown[-1]


def test_options_and_partitions_are_told(site: Site) -> None:
    site.write(
        "DROP TABLE slug",
        "CREATE TABLE slug (id text PRIMARY KEY, value text) PARTITION BY HASH (id)",
        "CREATE TABLE slug_0 PARTITION OF slug FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
        "SELECT audit.audit_table('slug', options => '{\"mask\": [\"value\"]}')",
    )
    page = site.get("/audit/tables/")
    assert "slug1 partitionmasked value" in rows(page)


def test_nothing_is_counted_and_the_queries_do_not_grow(make_site: MakeSite) -> None:
    site = make_site()
    site.add_transactions(*["2026-01-01"] * 30, rows=2)
    statements = site.watch()
    site.get("/audit/tables/")
    before = list(statements)
    site.write(
        *(
            f"CREATE TABLE t{n} (id int PRIMARY KEY); SELECT audit.audit_table('t{n}')"
            for n in range(10)
        )
    )
    statements.clear()
    assert len(rows(site.get("/audit/tables/"))) == 13
    assert len(statements) == len(before)
    assert not any("count(*) FROM audit" in s or "OFFSET" in s for s in statements)
    assert any("statement_timeout" in s for s in statements)
    assert any("transaction_read_only" in s for s in statements)


def test_names_are_inert(site: Site) -> None:
    name = '"' + HOSTILE.replace('"', '""') + '"'
    site.write(
        sa.text(f"CREATE TABLE {name} (id int PRIMARY KEY)"),
        sa.select(sa.func.audit.audit_table(sa.cast(name, sa.Text).op("::")(sa.text("regclass")))),
    )
    page = site.get("/audit/tables/")
    assert HOSTILE in rows(page)
    assert not [node for node in page.one("main").walk() if node.tag == "script"]


def test_a_role_that_may_only_read_sees_the_states(make_site: MakeSite, server: Server) -> None:
    owner = make_site()
    name = f"audit_test_{server.name}_onlooker"
    server.execute(f'DROP ROLE IF EXISTS "{name}"')
    server.execute(f"CREATE ROLE \"{name}\" LOGIN PASSWORD 'secret'")
    try:
        owner.write(
            f'GRANT USAGE ON SCHEMA audit TO "{name}"',
            f'GRANT SELECT ON audit.activity, audit.transaction TO "{name}"',
        )
        url = owner.engine.url.set(username=name, password="secret")
        site = make_site(url.render_as_string(hide_password=False), create=False)
        page = site.get("/audit/tables/")
        assert rows(page)["article"][0] == "Tracked"
        assert "may read the trail, and not check it in full" in page.words
    finally:
        owner.write(f'DROP OWNED BY "{name}"')
        for made in (owner, site):
            made.close()
        server.execute(f'DROP ROLE "{name}"')


def test_without_a_trail_the_page_says_so(site: Site) -> None:
    with site.engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA audit CASCADE")
    assert site.get("/audit/tables/", status=503).heading == "The audit trail is not installed"


def test_an_older_trail_is_no_defect(site: Site) -> None:
    site.write("DROP FUNCTION audit.check_tables(jsonb)")
    page = site.get("/audit/tables/")
    assert "audit.check_tables() is not installed" in " ".join(findings(page))


def test_the_zone_is_the_visitors(site: Site) -> None:
    site.write("INSERT INTO article (id) VALUES (1)")
    page = site.get("/audit/tables/?tz=Asia/Tokyo")
    assert "times in Asia/Tokyo" in page.words
    assert "+09:00" in rows(page)["article"][3]


def test_inside_of_a_hosts_admin(make_site: MakeSite) -> None:
    site = make_site(mount=lambda app: Admin(app).add_view(AuditView()))
    page = site.get("/admin/audit/tables/")
    assert page.link("Tables") == "/admin/audit/tables/"
    assert page.link("article") == "/admin/audit/?table=article"


def test_the_timeline_shows_where_recording_began(site: Site) -> None:
    site.write("SELECT audit.unaudit_table('article')")
    site.write("INSERT INTO article (id, title, price) VALUES (1, 'old', 10)")
    site.write("SELECT audit.audit_table('article')")
    assert site.app.test_cli_runner().invoke(args=["audit", "backfill"]).exit_code == 0
    site.write("UPDATE article SET title = 'new'", actor="ada")
    page = site.get("/audit/records/public/article/1")
    assert [b.text for b in page.all("span", "au-badge")] == ["~Updated", "◆Recording began"]
    assert "this is how it stood as recording began" in page.words
    assert "Audit baseline" in page.words
    began = page.one("article", "au-began")
    assert {n.text for n in began.all("div", "au-field-name")} == {"id", "title", "price"}
    feed = site.get("/audit/?verb=baseline")
    assert len(feed.all("li", "au-row")) == 1
    activity = site.get(f"/audit/activities/{site.activity_id('article', 'baseline')}")
    assert "Recording began" in activity.heading
