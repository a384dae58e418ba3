"""The pages that restore, undelete and undo: looked at first, written only when all is said."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask, abort, request
from sqlalchemy.orm import validates
from werkzeug.test import TestResponse

from tests.web.conftest import MakeSite
from tests.web.site import HOSTILE, Node, Page, Site


def anybody(_actor: Any) -> bool:
    return True


@pytest.fixture
def desk(make_site: MakeSite) -> Site:
    """A site where everybody may restore."""
    return make_site(can_restore=anybody)


def write_story(site: Site) -> int:
    """Write an article that two others edited; return the id of the version before."""
    site.write("INSERT INTO article (id, title, body) VALUES (1, 'one', 'first')", actor="1")
    version = site.activity_id("article", "insert")
    site.write("UPDATE article SET title = 'two' WHERE id = 1", actor="2", label="Noor")
    site.write("UPDATE article SET body = 'second' WHERE id = 1", actor="3", label="Tomás")
    return version


def newest_transaction(site: Site) -> int:
    return int(site.scalar("SELECT max(id) FROM audit.transaction"))


def article(site: Site, id_: int = 1) -> dict[str, Any] | None:
    found = site.scalar("SELECT to_jsonb(a) FROM article a WHERE id = :id", id=id_)
    return None if found is None else dict(found)


def fields_of(page: Page) -> dict[str, Any]:
    """What the form would send as it stands."""
    form = next(n for n in page.all("form") if n.attributes.get("method") == "post")
    sent: dict[str, Any] = {}
    for node in form.all("input"):
        kind, name = node.attributes.get("type"), node.attributes["name"]
        if kind in {"checkbox", "radio"} and "checked" not in node.attributes:
            continue
        if name == "field":
            sent.setdefault(name, []).append(node.attributes["value"])
        else:
            sent[name] = node.attributes["value"]
    sent["reason"] = form.one("textarea").text
    return sent


def send(
    site: Site,
    path: str,
    page: Page | None = None,
    choices: dict[str, str] | None = None,
    **changed: Any,
) -> TestResponse:
    """Open a preview and send its form, changed.

    :param choices: for the conflicts.
    """
    sent = fields_of(page or site.get(path)) | {"reason": "By mistake"}
    sent |= {**(choices or {}), **changed}
    return site.client.post(path, data={k: v for k, v in sent.items() if v is not None})


def done(response: TestResponse) -> str:
    """Return where a form that was accepted leads."""
    assert response.status_code == 303, (response.status_code, Page(response.text, {}).words)
    return response.location


def refused(site: Site, response: TestResponse, status: int) -> Page:
    """Return the page that a form comes back to."""
    assert response.status_code == status, (response.status_code, response.text[:3000])
    return Page(response.text, dict(response.headers))


def button(page: Page) -> str:
    (found,) = [n for n in page.all("button") if "data-au-many" in n.attributes]
    return found.text


def chosen(page: Page) -> list[tuple[str, str]]:
    return [
        (n.attributes["name"], n.attributes["value"])
        for n in page.all("input")
        if n.attributes.get("type") == "radio" and "checked" in n.attributes
    ]


def questions(page: Page) -> list[Node]:
    return page.all("fieldset", "au-question")


# -- Restore -------------------------------------------------------------------------------------


def test_a_version_is_looked_at_and_restored(desk: Site) -> None:
    version = write_story(desk)
    before = newest_transaction(desk)
    path = desk.get(f"/audit/versions/{version}").link("Restore this version")
    assert desk.get(f"/audit/activities/{version}").link("Restore this version") == path
    page = desk.get(path)
    assert page.heading == "Restore article 1"
    assert button(page) == "Restore 2 fields"
    names = [" ".join(n.text.split()) for n in page.all("div", "au-field-name")]
    assert names == ["title", "body"]
    assert [n.text for n in page.all("del")] == ["two", "second"]
    assert [n.text for n in page.all("ins")] == ["one", "first"]
    assert "Changed later by Noor" in page.words
    assert "Changed later by Tomás" in page.words
    assert newest_transaction(desk) == before

    after = done(send(desk, path, page, reason=f" {HOSTILE} "))
    assert article(desk)["title"] == "one"  # type: ignore[index]
    shown = desk.get(after)
    assert HOSTILE in shown.words
    assert f"It goes back on: change {version}" in shown.words
    assert shown.link(f"change {version}") == f"/audit/activities/{version}"


def test_only_the_chosen_fields_are_restored(desk: Site) -> None:
    version = write_story(desk)
    path = f"/audit/restore/{version}"
    done(send(desk, path, field=["body"]))
    row = article(desk)
    assert row is not None
    assert (row["title"], row["body"]) == ("two", "first")
    page = refused(desk, send(desk, path, field=None), 400)
    assert "Choose at least one field." in page.words
    assert [n for n in page.all("input") if n.attributes.get("name") == "field"]
    assert (article(desk) or {})["title"] == "two"


def test_nothing_to_do_says_so(desk: Site) -> None:
    write_story(desk)
    page = desk.get(f"/audit/restore/{desk.activity_id('article')}")
    assert "There is nothing to do" in page.words
    assert not [n for n in page.all("form") if n.attributes.get("method") == "post"]
    newest = desk.get(f"/audit/versions/{desk.activity_id('article')}")
    assert "Restore this version" not in newest.words


def test_a_version_of_a_record_that_is_gone_comes_back_whole(desk: Site) -> None:
    version = write_story(desk)
    desk.write("DELETE FROM article")
    path = desk.get(f"/audit/versions/{version}").link("Restore this version")
    page = desk.get(path)
    assert button(page) == "Bring 1 record back"
    assert "field" not in fields_of(page)
    done(send(desk, path, page))
    assert (article(desk) or {})["title"] == "one"


def test_a_composite_key_and_a_key_of_json_are_found(desk: Site) -> None:
    desk.write("INSERT INTO rate VALUES ('GB', 'a/b', 1)", "INSERT INTO slug VALUES ('[1]', 'a')")
    ids = [desk.activity_id(table, "insert") for table in ("rate", "slug")]
    desk.write("UPDATE rate SET value = 2", "UPDATE slug SET value = 'b'")
    for id_ in ids:
        done(send(desk, f"/audit/restore/{id_}"))
    assert desk.scalar("SELECT value FROM rate") == 1
    assert desk.scalar("SELECT value FROM slug") == "a"


def test_what_the_trail_does_not_hold_is_said(make_site: MakeSite) -> None:
    site = make_site(can_restore=anybody, extend=_secretive)
    site.write("INSERT INTO person VALUES (1, 'a', 'pin', 'note')")
    version = site.activity_id("person", "insert")
    site.write("UPDATE person SET name = 'b'")
    page = site.get(f"/audit/restore/{version}")
    assert "What the trail does not hold stays as it is: note, pin." in page.words
    site.write("DELETE FROM person")
    page = site.get(f"/audit/undelete/{site.activity_id('person', 'delete')}")
    assert "pin is masked in the trail" in page.words
    assert "The trail does not record note" in page.words
    names = [n.attributes["name"] for n in page.all("input") if n.attributes["type"] == "radio"]
    done(send(site, f"/audit/undelete/{site.activity_id('person', 'delete')}", page,
              choices=dict.fromkeys(names, "force")))  # fmt: skip
    assert site.scalar("SELECT row(name, pin, note)::text FROM person") == "(b,,)"


def _secretive(db: Any) -> Any:
    class Person(db.Model):  # type: ignore[misc]
        __tablename__ = "person"
        __versioned__ = {"mask": ["pin"], "exclude": ["note"]}  # noqa: RUF012
        id = sa.Column(sa.Integer, primary_key=True)
        name = sa.Column(sa.Text)
        pin = sa.Column(sa.Text)
        note = sa.Column(sa.Text)

    return Person


# -- Undelete ------------------------------------------------------------------------------------


def family(db: Any) -> SimpleNamespace:
    class Parent(db.Model):  # type: ignore[misc]
        __tablename__ = "parent"
        __versioned__: dict[str, Any] = {}  # noqa: RUF012
        id = sa.Column(sa.Integer, primary_key=True)
        name = sa.Column(sa.Text, unique=True)

    class Child(db.Model):  # type: ignore[misc]
        __tablename__ = "child"
        __versioned__: dict[str, Any] = {}  # noqa: RUF012
        id = sa.Column(sa.Integer, primary_key=True)
        parent_id: Any = sa.Column(sa.ForeignKey("parent.id", ondelete="CASCADE"))

    return SimpleNamespace(Parent=Parent, Child=Child)


def test_a_deleted_record_comes_back_with_its_children(make_site: MakeSite) -> None:
    site = make_site(can_restore=anybody, extend=family)
    site.write("INSERT INTO parent VALUES (1, 'a')", "INSERT INTO child VALUES (7, 1), (8, 1)")
    site.write("DELETE FROM parent", actor="5", label="Eve", reason="tidying")
    deletion = site.activity_id("parent", "delete")
    path = f"/audit/undelete/{deletion}"
    for address in ("records/public/parent/1", f"activities/{deletion}", f"versions/{deletion}"):
        assert site.get(f"/audit/{address}").link("Undelete") == path
    page = site.get(path)
    assert "deleted by Eve" in page.words
    assert "tidying" in page.words
    assert button(page) == "Bring 3 records back"
    records = [" ".join(n.text.split()) for n in page.all("a", "au-record")]
    assert records == ["parent 1 a", "child 7", "child 8"]
    done(send(site, path, page))
    assert site.scalar("SELECT count(*) FROM child") == 2
    assert "Undelete" not in site.get(f"/audit/activities/{deletion}").words


def test_a_deletion_that_is_not_the_last_is_refused(desk: Site) -> None:
    desk.write("INSERT INTO slug VALUES ('a', '1')")
    desk.write("DELETE FROM slug")
    first = desk.activity_id("slug", "delete")
    desk.write("INSERT INTO slug VALUES ('a', '2')")
    desk.write("DELETE FROM slug")
    assert "was deleted again since" in desk.get(f"/audit/undelete/{first}", status=409).words
    page = desk.get(f"/audit/undelete/{desk.activity_id('slug', 'delete')}")
    assert button(page) == "Bring 1 record back"


def test_what_a_truncation_took_is_restored_from_its_last_version(desk: Site) -> None:
    version = write_story(desk)
    desk.write("TRUNCATE article")
    way = desk.get("/audit/records/public/article/1").link("Restore this version")
    assert way == f"/audit/restore/{desk.activity_id('article')}" != f"/audit/restore/{version}"
    done(send(desk, way))
    assert (article(desk) or {})["body"] == "second"


# -- Undo ----------------------------------------------------------------------------------------


def test_an_undo_asks_about_conflicts_and_keeps_what_was_entered(desk: Site) -> None:
    desk.write("INSERT INTO article (id, title, body) VALUES (1, 'a', 'x')")
    wrong = desk.write("UPDATE article SET title = 'b', body = 'y'", reason="import")
    desk.write("UPDATE article SET title = 'c'", actor="2", label="Noor")
    path = desk.get(f"/audit/transactions/{wrong}").link("Undo this transaction")
    page = desk.get(path)
    (question,) = questions(page)
    assert "title was changed later." in question.text
    assert "Noor" in question.text
    assert chosen(page) == []
    assert "1 conflict needs your decision." in page.words

    page = refused(desk, send(desk, path, page, reason="Wrong file"), 400)
    assert "Choose what to do." in page.words
    assert page.one("textarea").text == "Wrong file"
    assert (article(desk) or {})["body"] == "y"

    name = next(n.attributes["name"] for n in questions(page)[0].all("input"))
    page = refused(desk, send(desk, path, page, reason="", choices={name: "skip"}), 400)
    assert chosen(page) == [(name, "skip")]
    assert "Say why" in page.words
    done(send(desk, path, page, choices={name: "skip"}))
    row = article(desk) or {}
    assert (row["title"], row["body"]) == ("c", "x")


def test_force_overwrites(desk: Site) -> None:
    desk.write("INSERT INTO article (id, title) VALUES (1, 'a')")
    wrong = desk.write("UPDATE article SET title = 'b'")
    desk.write("UPDATE article SET title = 'c'")
    path = f"/audit/transactions/{wrong}/undo"
    page = refused(desk, send(desk, path, choices={"choice-c1": "skip"}), 400)
    assert "With these choices nothing would be changed." in page.words
    refused(desk, send(desk, path, choices={"choice-c1": "destroy"}), 400)
    done(send(desk, path, choices={"choice-c1": "force"}))
    assert (article(desk) or {})["title"] == "a"


def test_the_only_choice_is_made_already(desk: Site) -> None:
    desk.write("INSERT INTO article (id, title) VALUES (1, 'a'), (2, 'b')")
    wrong = desk.write("UPDATE article SET title = 'z'")
    desk.write("DELETE FROM article WHERE id = 2")
    page = desk.get(f"/audit/transactions/{wrong}/undo")
    assert "The record was deleted later." in page.words
    assert [value for _name, value in chosen(page)] == ["skip"]
    assert "needs your decision" not in page.words
    done(send(desk, f"/audit/transactions/{wrong}/undo", page))
    assert (article(desk) or {})["title"] == "a"


def test_an_undo_is_undone(desk: Site) -> None:
    desk.write("INSERT INTO article (id, title) VALUES (1, 'a')")
    wrong = desk.write("UPDATE article SET title = 'b'")
    undo = done(send(desk, f"/audit/transactions/{wrong}/undo"))
    assert (article(desk) or {})["title"] == "a"
    id_ = undo.rpartition("/")[2]
    assert (
        f"It was taken back by: transaction {id_}" in desk.get(f"/audit/transactions/{wrong}").words
    )
    page = desk.get(undo)
    assert page.link(f"transaction {wrong}") == f"/audit/transactions/{wrong}"
    done(send(desk, page.link("Undo this transaction")))
    assert (article(desk) or {})["title"] == "b"


def test_many_records_are_confirmed_twice(make_site: MakeSite) -> None:
    site = make_site(can_restore=anybody, AUDIT_CONFIRM_ROWS=2)
    wrong = site.write("INSERT INTO article (id) VALUES (1), (2), (3)")
    few = site.write("INSERT INTO slug VALUES ('a', 'b'), ('c', 'd')")
    path = f"/audit/transactions/{wrong}/undo"
    page = site.get(path)
    assert "Yes, this changes 3 records." in page.words
    assert button(page) == "Undo 3 changes"
    page = refused(site, send(site, path, page), 400)
    assert "Confirm the number of records." in page.words
    assert site.scalar("SELECT count(*) FROM article") == 3
    done(send(site, path, page, confirmed="1"))
    assert site.scalar("SELECT count(*) FROM article") == 0
    done(send(site, f"/audit/transactions/{few}/undo"))


def test_an_emptied_table_can_only_be_regretted(desk: Site) -> None:
    write_story(desk)
    wrong = desk.write("TRUNCATE article")
    page = desk.get(f"/audit/transactions/{wrong}/undo")
    assert "article: The whole table was emptied" in page.words
    assert "There is nothing that could be done." in page.words


def test_more_conflicts_than_a_page_is_for(make_site: MakeSite) -> None:
    site = make_site(can_restore=anybody)
    wrong = site.write("INSERT INTO article (id) SELECT generate_series(1, 201)")
    site.write("UPDATE article SET title = 'x'")
    page = site.get(f"/audit/transactions/{wrong}/undo", status=409)
    assert "This meets 201 conflicts" in page.words


def test_a_long_plan_is_cut(desk: Site) -> None:
    wrong = desk.write("INSERT INTO article (id) SELECT generate_series(1, 203)")
    page = desk.get(f"/audit/transactions/{wrong}/undo")
    assert len(page.all("li", "au-plan-record")) == 200
    assert "3 more records are not shown." in page.words
    done(send(desk, f"/audit/transactions/{wrong}/undo", page, confirmed="1"))
    assert desk.scalar("SELECT count(*) FROM article") == 0


# -- What a form has to bring ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("", "Say why"),
        (" \n ", "Say why"),
        ("x" * 501, "Use at most 500 characters."),
        ("a\x00b", "cannot be stored"),
    ],
)
def test_a_reason_is_needed(desk: Site, reason: str, message: str) -> None:
    path = f"/audit/restore/{write_story(desk)}"
    page = refused(desk, send(desk, path, reason=reason, field=["body"]), 400)
    assert message in page.words
    boxes = {n.attributes["value"]: "checked" in n.attributes
             for n in page.all("input") if n.attributes["name"] == "field"}  # fmt: skip
    assert boxes == {"title": False, "body": True}
    assert (article(desk) or {})["body"] == "second"


def test_a_reason_of_500_characters_with_line_ends_will_do(desk: Site) -> None:
    path = f"/audit/restore/{write_story(desk)}"
    done(send(desk, path, reason="x" * 498 + "\r\ny"))


@pytest.mark.parametrize("token", [None, "", "20990101000000##0000", "other"])
def test_a_form_without_its_token_writes_nothing(desk: Site, token: str | None) -> None:
    path = f"/audit/restore/{write_story(desk)}"
    if token == "other":  # of another visitor's session
        stranger = Page(desk.app.test_client().get(path).text, {})
        token = fields_of(stranger)["audit_token"]
    page = refused(desk, send(desk, path, audit_token=token, reason="Because"), 400)
    assert "This form was too old, or came from elsewhere." in page.words
    assert page.one("textarea").text == "Because"
    assert (article(desk) or {})["body"] == "second"


def test_the_token_of_the_host_comes_along(make_site: MakeSite) -> None:
    """As Flask-WTF's CSRFProtect asks for it: of every POST, before the view is called."""
    site = make_site(can_restore=anybody, WTF_CSRF_FIELD_NAME="host_token")
    site.app.extensions["csrf"] = object()
    site.app.jinja_env.globals["csrf_token"] = lambda: "of the host"

    @site.app.before_request
    def protect() -> None:
        if request.method == "POST" and request.form.get("host_token") != "of the host":
            abort(400)

    path = f"/audit/restore/{write_story(site)}"
    assert send(site, path, host_token=None).status_code == 400
    page = refused(site, send(site, path, audit_token="x"), 400)
    done(send(site, path, page))


def test_without_a_secret_key_there_is_no_form(make_site: MakeSite) -> None:
    site = make_site(can_restore=anybody, SECRET_KEY=None)
    path = f"/audit/restore/{write_story(site)}"
    assert "SECRET_KEY" in site.get(path, status=503).words


@pytest.mark.parametrize("digest", ["", None, "0" * 64])
def test_only_what_was_looked_at_is_done(desk: Site, digest: str | None) -> None:
    path = f"/audit/restore/{write_story(desk)}"
    page = refused(desk, send(desk, path, digest=digest), 409)
    assert "Something has changed since you looked at this" in page.words
    assert (article(desk) or {})["body"] == "second"


def test_a_change_in_between_is_shown_and_confirmed_anew(desk: Site) -> None:
    desk.write("INSERT INTO article (id, title, body) VALUES (1, 'a', 'x')")
    wrong = desk.write("UPDATE article SET title = 'b', body = 'y'")
    desk.write("UPDATE article SET title = 'c'")
    path = f"/audit/transactions/{wrong}/undo"
    page = desk.get(path)
    desk.write("UPDATE article SET body = 'z'")
    newest = newest_transaction(desk)
    page = refused(desk, send(desk, path, page, choices={"choice-c1": "force"}), 409)
    assert "Something has changed since you looked at this" in page.words
    assert page.one("textarea").text == "By mistake"
    assert chosen(page) == []
    assert len(questions(page)) == 2
    assert newest_transaction(desk) == newest
    done(send(desk, path, page, choices={"choice-c1": "force", "choice-c2": "force"}))
    row = article(desk) or {}
    assert (row["title"], row["body"]) == ("a", "x")


def test_a_change_while_it_is_written_is_found(desk: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from audit_app.admin import restoring

    path = f"/audit/restore/{write_story(desk)}"
    page = desk.get(path)
    check = restoring._check_same

    def late(plan: Any, given: Any) -> None:
        check(plan, given)
        with desk.engine.begin() as connection:
            connection.execute(sa.text("UPDATE article SET title = 'late'"))

    monkeypatch.setattr(restoring, "_check_same", late)
    page = refused(desk, send(desk, path, page), 409)
    assert "Something has changed since you looked at this" in page.words
    assert "late" in page.words
    assert (article(desk) or {})["body"] == "second"


# -- Who may -------------------------------------------------------------------------------------


@pytest.mark.parametrize("can_restore", [None, lambda actor: False])
def test_restoring_is_closed_by_default(make_site: MakeSite, can_restore: Any) -> None:
    open_, site = make_site(can_restore=anybody), make_site(can_restore=can_restore)
    version = write_story(open_)
    wrong = newest_transaction(open_)
    for path in (f"versions/{version}", f"activities/{version}", f"transactions/{wrong}"):
        words = site.get(f"/audit/{path}").words
        assert "Restore this version" not in words
        assert "Undo this transaction" not in words
    for path in (f"/audit/restore/{version}", "/audit/restore/99", "/audit/undelete/1",
                 f"/audit/transactions/{wrong}/undo"):  # fmt: skip
        site.get(path, status=403)
        assert site.client.post(path, data={"reason": "x"}).status_code == 403
    token = fields_of(open_.get(f"/audit/restore/{version}"))
    assert site.client.post(f"/audit/restore/{version}", data=token).status_code == 403
    assert (article(open_) or {})["body"] == "second"


def test_who_may_not_see_the_trail_may_not_restore(make_site: MakeSite) -> None:
    site = make_site(can_view=lambda actor: False, can_restore=anybody)
    version = write_story(site)
    site.get(f"/audit/restore/{version}", status=403)
    assert site.client.post(f"/audit/restore/{version}").status_code == 403


NO_SLUG: list[dict[str, Any]] = [
    {"can_view_table": lambda actor, table: table.name != "slug"},
    {"can_view_activity": lambda actor, change: change.table != "slug"},
]


@pytest.mark.parametrize("options", NO_SLUG, ids=["by table", "by change"])
def test_what_may_not_be_seen_is_not_there(make_site: MakeSite, options: dict[str, Any]) -> None:
    open_ = make_site(can_restore=anybody)
    site = make_site(can_restore=anybody, **options)
    both = open_.write(
        "INSERT INTO slug VALUES ('a', '1')", "INSERT INTO article (id, title) VALUES (1, 'a')"
    )
    hidden = open_.activity_id("slug", "insert")
    open_.write("UPDATE slug SET value = '2'")
    mine = open_.write("UPDATE article SET title = 'b'")
    none = site.get("/audit/restore/999", status=404).words.replace("999", str(hidden))
    assert site.get(f"/audit/restore/{hidden}", status=404).words == none
    path = f"/audit/transactions/{both}/undo"
    none = site.get("/audit/transactions/999/undo", status=404).words.replace("999", str(both))
    assert site.get(path, status=404).words == none
    sent = fields_of(open_.get(path)) | {"reason": "x"}
    assert site.client.post(path, data=sent).status_code == 404
    assert open_.scalar("SELECT count(*) FROM slug") == 1
    done(send(site, f"/audit/transactions/{mine}/undo"))


@pytest.mark.parametrize(
    "options",
    [
        {"can_view_table": lambda actor, table: table.name != "child"},
        {"can_view_activity": lambda actor, change: change.table != "child"},
    ],
    ids=["by table", "by change"],
)
def test_hidden_children_are_neither_named_nor_touched(
    make_site: MakeSite, options: dict[str, Any]
) -> None:
    open_ = make_site(can_restore=anybody, extend=family)
    site = make_site(can_restore=anybody, extend=family, **options)
    made = open_.write("INSERT INTO parent VALUES (1, 'a')")
    path = f"/audit/transactions/{made}/undo"
    open_.write("INSERT INTO child VALUES (7, 1)")
    assert "child" in open_.get(path).words
    page = site.get(path)
    assert "Other rows refer to this record." in page.words
    assert "child" not in page.words
    assert [value for _name, value in chosen(page)] == ["skip"]
    (name,) = {name for name, _value in chosen(page)}
    refused(site, send(site, path, page, choices={name: "force"}), 400)
    assert open_.scalar("SELECT count(*) FROM child") == 1
    # What went with a record comes back with it, or not at all.
    open_.write("DELETE FROM parent")
    deletion = open_.activity_id("parent", "delete")
    open_.get(f"/audit/undelete/{deletion}")
    assert site.get(f"/audit/undelete/{deletion}", status=404)


def test_a_record_whose_present_state_is_hidden_stays(make_site: MakeSite) -> None:
    open_ = make_site(can_restore=anybody)
    site = make_site(
        can_restore=anybody,
        can_view_activity=lambda actor, change: "needle" not in str(change.data),
    )
    version = write_story(open_)
    site.get(f"/audit/restore/{version}")
    open_.write("UPDATE article SET title = 'needle'")
    words = site.get(f"/audit/restore/{version}", status=404).words
    assert "needle" not in words


# -- Addresses and machines ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["restore/9", "restore/x", "undelete/9", "undelete/-", "transactions/9/undo",
             "transactions/x/undo", "restore/99999999999999999999"],
)  # fmt: skip
def test_addresses_that_lead_nowhere(desk: Site, path: str) -> None:
    desk.get(f"/audit/{path}", status=404)
    assert desk.client.post(f"/audit/{path}", data={"reason": "x"}).status_code == 404


def test_each_address_is_for_its_kind_of_change(desk: Site) -> None:
    version = write_story(desk)
    desk.get(f"/audit/undelete/{version}", status=404)
    desk.write("DELETE FROM article")
    desk.get(f"/audit/restore/{desk.activity_id('article', 'delete')}", status=404)
    desk.write("TRUNCATE article")
    desk.get(f"/audit/restore/{desk.activity_id('article', 'truncate')}", status=404)


def test_machines_are_told_that_it_is_for_people(desk: Site) -> None:
    path = f"/audit/restore/{write_story(desk)}"
    answer = desk.client.get(path, headers={"Accept": "application/json"})
    assert (answer.status_code, answer.mimetype) == (406, "application/problem+json")
    answer = desk.client.post(f"{path}?format=json", data=fields_of(desk.get(path)))
    assert answer.status_code == 406
    assert (article(desk) or {})["body"] == "second"
    assert desk.client.put(path).status_code == 405


def test_the_time_zone_goes_along(desk: Site) -> None:
    version = write_story(desk)
    way = desk.get(f"/audit/versions/{version}?tz=Asia/Tokyo").link("Restore this version")
    page = desk.get(way)
    assert "+09:00" in page.words
    form = next(n for n in page.all("form") if n.attributes.get("method") == "post")
    assert "tz=Asia" in done(send(desk, form.attributes["action"], page))


def test_a_table_that_is_not_tracked_any_more(make_site: MakeSite) -> None:
    first = make_site(can_restore=anybody, extend=family)
    wrong = first.write("INSERT INTO parent VALUES (1, 'a')")
    version = first.activity_id("parent", "insert")
    site = make_site(can_restore=anybody)
    assert "Restore this version" not in site.get(f"/audit/versions/{version}").words
    assert "Undo this transaction" not in site.get(f"/audit/transactions/{wrong}").words
    assert "is not tracked any more" in site.get(f"/audit/restore/{version}", status=409).words
    assert "is not tracked any more" in site.get(f"/audit/transactions/{wrong}/undo").words


# -- When it fails -------------------------------------------------------------------------------


def test_a_refusal_of_the_database_is_explained(desk: Site) -> None:
    path = f"/audit/restore/{write_story(desk)}"
    with desk.engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE article ADD CHECK (title <> 'one') NOT VALID"))
    newest = newest_transaction(desk)
    page = refused(desk, send(desk, path, reason="Again"), 409)
    assert "violates check constraint" in page.words
    assert page.one("textarea").text == "Again"
    assert newest_transaction(desk) == newest
    done(send(desk, path, page, field=["body"]))


def test_a_refusal_names_nothing_that_is_hidden(make_site: MakeSite) -> None:
    site = make_site(can_restore=anybody, can_view_table=lambda actor, table: True)
    path = f"/audit/restore/{write_story(site)}"
    with site.engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE article ADD CHECK (title <> 'one') NOT VALID"))
    page = refused(site, send(site, path), 409)
    assert "This was refused, and nothing was written." in page.words
    assert "constraint" not in page.words


def test_a_refusal_at_the_commit_is_explained(desk: Site) -> None:
    path = f"/audit/restore/{write_story(desk)}"
    with desk.engine.begin() as connection:
        connection.execute(
            sa.text(
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
                " $$BEGIN RAISE 'not today'; END$$;"
                "CREATE CONSTRAINT TRIGGER late AFTER UPDATE ON article DEFERRABLE INITIALLY"
                " DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()"
            )
        )
    page = refused(desk, send(desk, path), 409)
    assert "The database refused it: not today" in page.words
    assert (article(desk) or {})["body"] == "second"


def test_a_table_that_the_role_may_not_touch(desk: Site) -> None:
    path = f"/audit/restore/{write_story(desk)}"
    page = desk.get(path)
    with desk.engine.begin() as connection:
        connection.execute(
            sa.text(
                "CREATE ROLE desk_reader; GRANT USAGE ON SCHEMA audit TO desk_reader;"
                "GRANT SELECT ON ALL TABLES IN SCHEMA audit, public TO desk_reader;"
                "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA audit TO desk_reader"
            )
        )
    try:

        @sa.event.listens_for(desk.engine, "begin")
        def become(connection: Any) -> None:
            connection.exec_driver_sql("SET LOCAL ROLE desk_reader")

        page = refused(desk, send(desk, path, page), 409)
        assert "may not" in page.words
        sa.event.remove(desk.engine, "begin", become)
        with desk.engine.begin() as connection:
            connection.execute(sa.text("REVOKE SELECT ON article FROM desk_reader"))
        sa.event.listen(desk.engine, "begin", become)
        assert "database role may not do this" in desk.get(path, status=409).words
        sa.event.remove(desk.engine, "begin", become)
    finally:
        with desk.engine.begin() as connection:
            connection.execute(sa.text("DROP OWNED BY desk_reader; DROP ROLE desk_reader"))


def test_a_record_that_somebody_holds(make_site: MakeSite) -> None:
    site = make_site(can_restore=anybody, AUDIT_STATEMENT_TIMEOUT=300)
    path = f"/audit/restore/{write_story(site)}"
    with site.engine.begin() as connection:
        connection.execute(sa.text("SELECT FROM article FOR UPDATE"))
        page = refused(site, send(site, path), 409)
    assert "try again later" in page.words
    done(send(site, path, page))


def test_a_restore_has_no_plan_compiled(make_site: MakeSite) -> None:
    site = make_site(can_restore=anybody)
    path = f"/audit/restore/{write_story(site)}"
    sent = site.watch()
    done(send(site, path))
    begin = sent.index("SET LOCAL lock_timeout = 5000")
    written = next(n for n, statement in enumerate(sent) if "UPDATE" in statement)
    assert begin < sent.index("SET LOCAL jit = off", begin) < written


def test_an_error_of_the_application_is_shown_and_rolled_back(make_site: MakeSite) -> None:
    site = make_site(can_restore=anybody, extend=_picky)
    site.write("INSERT INTO picky VALUES (1, 'bad')")
    version = site.activity_id("picky", "insert")
    site.write("UPDATE picky SET name = 'good'")
    page = refused(site, send(site, f"/audit/restore/{version}"), 409)
    assert "The application refused this change" in page.words
    assert "no bad names" in page.words
    assert site.scalar("SELECT name FROM picky") == "good"


def _picky(db: Any) -> Any:
    class Picky(db.Model):  # type: ignore[misc]
        __tablename__ = "picky"
        __versioned__: dict[str, Any] = {}  # noqa: RUF012
        id = sa.Column(sa.Integer, primary_key=True)
        name = sa.Column(sa.Text)

        @validates("name")
        def check(self, _key: str, value: str) -> str:
            if value == "bad":
                raise ValueError("no bad names")
            return value

    return Picky


def test_nothing_of_the_hosts_session_is_written_on_the_way(desk: Site) -> None:
    """What the host has pending is its own: a preview leaves it, a refusal rolls it back."""
    path = f"/audit/restore/{write_story(desk)}"

    def pend() -> None:
        desk.db.session.add(desk.Article(id=99))

    desk.app.before_request_funcs.setdefault(None, []).append(pend)
    send(desk, path, reason="")
    assert article(desk, 99) is None


# -- How it is served ------------------------------------------------------------------------------


def test_the_answers_are_guarded(desk: Site) -> None:
    path = f"/audit/restore/{write_story(desk)}"
    for response in (desk.client.get(path), send(desk, path, reason=""), send(desk, path)):
        assert response.headers["Cache-Control"] == "no-store"
        assert "form-action 'self'" in response.headers["Content-Security-Policy"]


def test_values_are_escaped(desk: Site) -> None:
    desk.write(sa.insert(desk.Article).values(id=1, title=HOSTILE))
    version = desk.activity_id("article", "insert")
    desk.write(sa.update(desk.Article).values(title=f"{HOSTILE}2"))
    page = desk.get(f"/audit/restore/{version}")
    assert not re.search(r"<script>alert", page.html)
    page = refused(desk, send(desk, f"/audit/restore/{version}", page, reason=HOSTILE * 20), 400)
    assert not re.search(r"<script>alert", page.html)


def test_a_preview_takes_a_fixed_number_of_queries(desk: Site) -> None:
    few = desk.write("INSERT INTO article (id) VALUES (1), (2)")
    many = desk.write("INSERT INTO article (id) SELECT generate_series(3, 60)")
    statements = desk.watch()
    desk.get(f"/audit/transactions/{few}/undo")
    number = len(statements)
    statements.clear()
    desk.get(f"/audit/transactions/{many}/undo")
    assert len(statements) == number


def test_it_works_inside_of_a_hosts_admin(make_site: MakeSite) -> None:
    from flask_admin import Admin

    from audit_app.admin import AuditView

    def mount(app: Flask) -> None:
        Admin(app).add_view(AuditView(url="/trail"))

    site = make_site(can_restore=anybody, mount=mount)
    path = f"/trail/restore/{write_story(site)}"
    page = site.get(path)
    assert done(send(site, path, page)).startswith("/trail/transactions/")
