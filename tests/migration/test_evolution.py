"""Operations that let history follow the schema: each touches what it names, and comes back."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from audit_app.errors import ConfigurationError, InvalidOptionError, NotInstalledError
from audit_app.evolution import EvolveOp
from tests.migration.project import Project


def models(base: Any) -> None:
    for schema in (None, "press"):
        type(
            f"Article{schema or ''}",
            (base,),
            {
                "__tablename__": "article",
                "__table_args__": {"schema": schema},
                "__versioned__": {},
                "id": sa.Column(sa.Integer, primary_key=True),
                "title": sa.Column(sa.Text),
                "price": sa.Column(sa.Text),
            },
        )


@pytest.fixture
def project(database_url: str, tmp_path: Path) -> Project:
    """Two tables of one name in two schemas, and a history of each."""
    project = Project(
        tmp_path / "m", database_url, include_schemas=True, transaction_per_migration=True
    )
    project.become(models)
    project.run("CREATE SCHEMA press")
    project.migrate("first")
    for table in ("article", "press.article"):
        project.run(
            f"INSERT INTO {table} VALUES (1, 'a', '1.50'), (2, NULL, NULL)",
            f"UPDATE {table} SET title = 'b' WHERE id = 1",
            f"UPDATE {table} SET price = '2' WHERE id = 2",
            f"DELETE FROM {table} WHERE id = 1",
            f"TRUNCATE {table}",
        )
    return project


def trail(project: Project) -> list[tuple[Any, ...]]:
    """Every activity of a table, to the last bit."""
    query = sa.text(
        "SELECT id, schema_name, table_name, verb, object_id, CAST(old_data AS text), "
        "CAST(changed_data AS text) FROM audit.activity WHERE verb <> 'rewrite' ORDER BY id"
    )
    with project.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(query)]


def marks(project: Project) -> list[dict[str, Any]]:
    query = "SELECT jsonb_agg(changed_data ORDER BY id) FROM audit.activity WHERE verb = 'rewrite'"
    return project.value(query) or []


def documents(project: Project, schema: str = "public", table: str = "article") -> list[Any]:
    """Both documents of each activity of a table."""
    query = sa.text(
        "SELECT old_data, changed_data FROM audit.activity "
        "WHERE (schema_name, table_name) = (:schema, :table) ORDER BY id"
    )
    with project.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(query, {"schema": schema, "table": table})]


OPERATIONS = {
    "rename table": (
        'op.audit_rename_table("article", "story")',
        'op.audit_rename_table("story", "article")',
    ),
    "move table": (
        'op.audit_move_table("article", "attic")',
        'op.audit_move_table("article", None, schema="attic")',
    ),
    "rename column": (
        'op.audit_rename_column("article", "title", "odd: %(name)s @ \\\\\'")',
        'op.audit_rename_column("article", "odd: %(name)s @ \\\\\'", "title")',
    ),
    "add column": (
        'op.audit_add_column("article", "kind", {"a": ["@ %s", None]})',
        'op.audit_restore_column("article", "kind")',
    ),
    "remove column": (
        'op.audit_remove_column("article", "title")',
        'op.audit_restore_column("article", "title")',
    ),
    "alter column": (
        "op.audit_alter_column('article', 'price', \"to_jsonb((value #>> '{}')::numeric)\")",
        'op.audit_restore_column("article", "price")',
    ),
}


@pytest.mark.parametrize("offline", [False, True], ids=["online", "offline"])
@pytest.mark.parametrize("kind", OPERATIONS)
def test_an_operation_and_its_way_back(project: Project, kind: str, *, offline: bool) -> None:
    before, others = trail(project), documents(project, "press")
    up, down = OPERATIONS[kind]
    project.write("evolve", up, down)
    after = trail(project)
    assert after != before
    assert documents(project, "press") == others
    # The truncation has a table, and no columns.
    assert [mark["activities"] for mark in marks(project)] == [6 if "table" in kind else 5]
    first, second = project.revisions
    if offline:
        project.run(project.offline_downgrade(f"{second}:{first}"))
    else:
        project.downgrade()
    assert trail(project) == before
    assert project.check() == []
    if offline:
        project.run(project.offline(f"{first}:{second}"))
        assert trail(project) == after


def test_what_each_operation_writes(project: Project) -> None:
    project.write(
        "evolve",
        'op.audit_rename_column("article", "title", "headline")\n'
        'op.audit_add_column("article", "kind", "draft")\n'
        "op.audit_alter_column('article', 'price', \"to_jsonb((value #>> '{}')::numeric)\")\n"
        'op.audit_remove_column("article", "id")\n'
        'op.audit_rename_table("article", "story")\n'
        'op.audit_move_table("story", "press")',
        "pass",
    )
    assert documents(project) == []
    row = {"headline": "a", "price": 1.50, "kind": "draft"}
    empty = {"headline": None, "price": None, "kind": "draft"}
    assert documents(project, "press", "story") == [
        (None, row),
        (None, empty),
        (row, {"headline": "b"}),
        (empty, {"price": 2}),
        ({**row, "headline": "b"}, None),
        ({"rows": 1}, None),
    ]


def test_documents_that_are_none(project: Project) -> None:
    """``{}``, NULL, a JSON null, an array that "has" the key: left as they are."""
    project.run(
        "INSERT INTO audit.activity (transaction_id, native_transaction_id, issued_at, relid, "
        "depth, schema_name, table_name, verb, old_data, changed_data) SELECT 1, "
        "pg_current_xact_id(), now(), 0, 0, 'public', 'article', 'update', o, c FROM (VALUES "
        "('{}'::jsonb, NULL::jsonb), ('null', '{}'), ('[\"title\"]', '\"title\"'), "
        "('{\"title\": null}', '{\"title\": 1}')) AS v (o, c)"
    )
    project.write(
        "evolve",
        'op.audit_rename_column("article", "title", "headline")',
        'op.audit_remove_column("article", "headline")\nop.audit_remove_column("article", "title")',
    )
    assert documents(project)[-4:] == [
        ({}, None),
        (None, {}),
        (["title"], "title"),
        ({"headline": None}, {"headline": 1}),
    ]
    project.downgrade()
    assert documents(project)[-2:] == [(["title"], "title"), ({}, {})]


def test_batches(project: Project, caplog: pytest.LogCaptureFixture) -> None:
    """Batch after batch, each committed where that was asked for; a line of the log for each."""
    with caplog.at_level(logging.INFO, logger="audit_app"):
        project.write(
            "evolve",
            'op.audit_rename_column("article", "title", "headline", batch_size=2, '
            "commit_batches=True)",
            'op.audit_rename_column("article", "headline", "title", batch_size=1)',
        )
    assert sum(mark["activities"] for mark in marks(project)) == 5
    assert len(marks(project)) == 3
    assert len({mark["run"] for mark in marks(project)}) == 1
    assert len([r for r in caplog.records if "of public.article" in r.getMessage()]) == 6
    transactions = "SELECT count(DISTINCT transaction_id) FROM audit.activity WHERE verb='rewrite'"
    assert project.value(transactions) == 3
    project.downgrade()
    assert project.value(transactions) == 4
    assert sum(mark["activities"] for mark in marks(project)) == 10


def test_restoring_leaves_what_came_later(project: Project) -> None:
    project.write("add", 'op.audit_add_column("article", "price2", 0)', "pass")
    project.run("ALTER TABLE article ADD price2 int", "INSERT INTO article VALUES (9, 'x', '', 5)")
    project.run("ALTER TABLE article DROP price2")
    with project.engine.begin() as connection:
        restore = "SELECT audit.restore_column('public', 'article', 'price2')"
        assert connection.scalar(sa.text(restore)) == 5
        assert connection.scalar(sa.text(restore)) == 0
    assert [new.get("price2") for _, new in documents(project) if new] == [None] * 4 + [5]


def test_restoring_takes_the_newest_first(project: Project) -> None:
    before = trail(project)
    project.write("twice", "\n".join(2 * [
        "op.audit_alter_column('article', 'title', \"to_jsonb(concat(value #>> '{}', '!'))\")"
    ]), 'op.audit_restore_column("article", "title")\n' * 2)  # fmt: skip
    assert documents(project)[0][1]["title"] == "a!!"
    project.run("SELECT audit.restore_column('public', 'article', 'title')")
    assert documents(project)[0][1]["title"] == "a!"
    project.downgrade()
    assert trail(project) == before


@pytest.mark.parametrize(
    "erase",
    [
        'op.audit_remove_column("article", "title", keep=False)',
        "op.execute(\"SELECT audit.evolve('remove_column', 'public', 'article', \"\n"
        '  "\'{\\"column\\" \\\\: \\"title\\", \\"keep\\" \\\\: false}\')")',
    ],
    ids=["operation", "function"],
)
def test_removal_for_good(project: Project, erase: str) -> None:
    """Values that must go are gone: from the records of earlier rewritings, too."""
    project.write(
        "erase",
        "op.audit_alter_column('article', 'title', \"to_jsonb(upper(value #>> '{}'))\")\n"
        'op.audit_remove_column("article", "title")\n'
        'op.audit_restore_column("article", "title")\n' + erase,
        "pass",
    )
    query = (
        "SELECT count(*) FROM audit.activity WHERE (schema_name, table_name) <> "
        "('press', 'article') AND (concat(old_data, changed_data) ~ '\"(a|b|A|B)\"')"
    )
    assert project.value(query) == 0
    assert [mark["operation"] for mark in marks(project)][-1] == "forget"
    assert project.value("SELECT audit.restore_column('public', 'article', 'title')") == 0


def test_two_columns_of_one_name(project: Project) -> None:
    """Renaming onto a name that another column had would lose its values: refused."""
    before = trail(project)
    with pytest.raises(sa.exc.ProgrammingError, match="knows both title and price"):
        project.write("clash", 'op.audit_rename_column("article", "title", "price")', "pass")
    assert trail(project) == before
    assert marks(project) == []


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        ('op.audit_rename_column("article", "title", "title")', InvalidOptionError, "the same"),
        ('op.audit_rename_table("article", "article")', InvalidOptionError, "the same"),
        ('op.audit_move_table("article", None)', InvalidOptionError, "the same"),
        ('op.audit_add_column("a", "b", batch_size=0)', InvalidOptionError, "at least 1"),
        ('op.audit_add_column("a", "b", audit_schema="none")', NotInstalledError, "flask db"),
        ('op.audit_restore_column("a", "b", audit_schema="none")', NotInstalledError, "flask db"),
        (
            "op.execute(\"SELECT audit.evolve('drop', 'a', 'b', '{}')\")",
            sa.exc.DataError,
            "cannot evolve by drop",
        ),
        (
            "op.execute(\"SELECT audit.evolve('add_column', 'a', 'b', '{}')\")",
            sa.exc.DataError,
            "each with its arguments",
        ),
    ],
)
def test_what_cannot_be_meant(
    project: Project, call: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        project.write("wrong", call, "pass")


def test_the_trail_must_be_known(project: Project) -> None:
    project.metadata = sa.MetaData()
    with pytest.raises(ConfigurationError, match="pass audit_schema"):
        project.write("whose", 'op.audit_rename_table("article", "story")', "pass")


def test_no_way_back(project: Project) -> None:
    assert project.logger
    for operation, arguments in (
        ("remove_column", {"column": "a", "keep": False}),
        ("restore_column", {"column": "a"}),
    ):
        with pytest.raises(ConfigurationError, match="no way back"):
            EvolveOp(operation, "t", None, arguments).reverse()
    for operation, there, back in (
        ("rename_table", {"schema": "s", "table": "u"}, {"schema": "public", "table": "t"}),
        ("rename_column", {"column": "a", "to": "b"}, {"column": "b", "to": "a"}),
        ("remove_column", {"column": "a", "keep": True}, {"column": "a"}),
    ):
        assert EvolveOp(operation, "t", None, there).reverse().arguments == back


def test_the_guard_stays(project: Project) -> None:
    """Only an update beside a record of the rewriting, of this very transaction, gets through."""
    project.write("evolve", 'op.audit_rename_column("article", "title", "headline")', "pass")
    mark = project.value(
        "SELECT concat(id, ctid) FROM audit.activity WHERE verb = 'rewrite' ORDER BY id LIMIT 1"
    )
    other = project.value(
        "SELECT concat(id, ctid) FROM audit.activity WHERE verb = 'insert' ORDER BY id LIMIT 1"
    )
    for claim in (mark, other, "x", "1(0,1)", ""):
        for statement in (
            "UPDATE audit.activity SET verb = 'x'",
            "DELETE FROM audit.activity",
            "UPDATE audit.transaction SET actor_id = 'x'",
        ):
            with pytest.raises(sa.exc.ProgrammingError, match="append-only"):
                project.run(f"SET LOCAL audit_app.rewrite = '{claim}'; {statement}")
    # An activity of this transaction is no such record.
    with pytest.raises(sa.exc.ProgrammingError, match="append-only"):
        project.run(
            "INSERT INTO article VALUES (7)",
            "SELECT set_config('audit_app.rewrite', (SELECT concat(id, ctid) FROM audit.activity "
            "ORDER BY id DESC LIMIT 1), true)",
            "UPDATE audit.activity SET verb = 'x'",
        )
    for statement in (
        "DELETE FROM audit.activity",
        "TRUNCATE audit.activity",
        "UPDATE audit.transaction SET actor_id = 'x'",
    ):
        with pytest.raises(sa.exc.ProgrammingError, match="append-only"):
            project.run("SELECT audit.begin_rewrite('a', NULL, '{}')", statement)
    # The mark ends with the rewriting, not with the transaction.
    with pytest.raises(sa.exc.ProgrammingError, match="append-only"):
        project.run(
            "SELECT audit.evolve('add_column', 'public', 'article', '{\"column\": \"x\", "
            '"value": 1}\')',
            "UPDATE audit.activity SET verb = 'x'",
        )


def test_a_mark_that_another_transaction_has_just_left(project: Project) -> None:
    """It is not older than the transaction that claims it, and not its own."""
    claim = "SELECT set_config('audit_app.rewrite', (SELECT concat(id, ctid) FROM audit.activity "
    claim += "ORDER BY id DESC LIMIT 1), true)"
    with project.engine.begin() as connection:
        connection.exec_driver_sql("SELECT 1")
        project.run("SELECT audit.begin_rewrite('a', NULL, '{}')")
        connection.exec_driver_sql(claim)
        with pytest.raises(sa.exc.ProgrammingError, match="append-only"), connection.begin_nested():
            connection.exec_driver_sql("UPDATE audit.activity SET verb = 'x'")


def test_nobody_else_may(project: Project) -> None:
    functions = "'begin_rewrite', 'evolve', 'evolve_batch', 'restore_column', 'forget_kept'"
    query = (
        "SELECT array_agg(proname ORDER BY proname) FROM pg_proc WHERE pronamespace = "
        f"'audit'::regnamespace AND proname IN ({functions}) "
        "AND NOT has_function_privilege('public', oid, 'EXECUTE')"
    )
    assert len(project.value(query)) == 5
