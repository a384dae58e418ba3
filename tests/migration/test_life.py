"""The life of a project, twelve revisions long, and all the way back.

After each step a second autogeneration is empty, the check is clean, and the history of a record
that lived through all of it reads right on its page.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import DeclarativeBase

from audit_app import AuditLogger, audit_bp, sql
from tests.migration.project import Project


@dataclass(frozen=True)
class Shape:
    """What the models are at one time: the names of the record's table and columns, and more."""

    table: str = "article"
    schema: str | None = None
    title: str = "name"
    body: str = "body"
    price: Any = sa.Text
    legacy: bool = True
    kind: bool = False
    others: bool = False
    secret: bool = False
    tags_versioned: bool = True
    options: tuple[tuple[str, Any], ...] = ()

    def __call__(self, base: Any) -> list[type[Any]]:
        values: dict[str, Any] = {
            "__tablename__": self.table,
            "__table_args__": {"schema": self.schema},
            "__versioned__": dict(self.options),
            "id": sa.Column(sa.Integer, primary_key=True),
            self.title: sa.Column(sa.Text),
            self.body: sa.Column(sa.Text),
            "price": sa.Column(self.price),
        }
        if self.legacy:
            values["legacy"] = sa.Column(sa.Text)
        if self.kind:
            values["kind"] = sa.Column(sa.Text)
        if self.secret:
            values["secret"] = sa.Column(sa.Text)
        models = [type("Article", (base,), values)]
        if self.others:
            versioned: Any = {"__versioned__": {}} if self.tags_versioned else {}
            type(
                "Tag",
                (base,),
                {
                    "__tablename__": "tag",
                    "id": sa.Column(sa.Integer, primary_key=True),
                    **versioned,
                },
            )
            sa.Table(
                "article_tag",
                base.metadata,
                sa.Column("article_id", sa.Integer, primary_key=True),
                sa.Column("tag_id", sa.Integer, sa.ForeignKey("tag.id"), primary_key=True),
                info={"versioned": {}},
            )
        return models


def swap(*pairs: tuple[str, str]) -> Callable[[str], str]:
    """Let a developer replace what autogeneration wrote: patterns, each found exactly once."""

    def edit(text: str) -> str:
        for pattern, statement in pairs:
            text, count = re.subn(pattern, statement, text, flags=re.DOTALL)
            assert count == 1, (pattern, count, text)
        return text

    return edit


def renamed_column(old: str, new: str, *, rewrite: bool) -> Callable[[str], str]:
    def rename(first: str, second: str) -> str:
        return f"op.alter_column('article', '{first}', new_column_name='{second}')"

    def history(first: str, second: str) -> str:
        return f"op.audit_rename_column('article', '{first}', '{second}')" if rewrite else "pass"

    return swap(
        (rf"op\.add_column\('article', sa\.Column\('{new}'[^\n]*", rename(old, new)),
        (rf"op\.drop_column\('article', '{old}'\)", history(old, new)),
        (rf"op\.add_column\('article', sa\.Column\('{old}'[^\n]*", rename(new, old)),
        (rf"op\.drop_column\('article', '{new}'\)", history(new, old)),
    )


def renamed_table() -> Callable[[str], str]:
    return swap(
        (r"op\.create_table\('story'.*?\n    \)", "op.rename_table('article', 'story')"),
        (r"op\.drop_table\('article'\)", "op.audit_rename_table('article', 'story')"),
        (r"op\.create_table\('article'.*?\n    \)", "op.rename_table('story', 'article')"),
        (r"op\.drop_table\('story'\)", "op.audit_rename_table('story', 'article')"),
    )


def moved_table() -> Callable[[str], str]:
    there = "op.execute('CREATE SCHEMA press; ALTER TABLE story SET SCHEMA press')"
    back = "op.execute('ALTER TABLE press.story SET SCHEMA public; DROP SCHEMA press')"
    # The table is untracked before and tracked after: where the statements stand in between does
    # not matter, but the history can only move in the other order.
    return swap(
        (r"op\.create_table\('story',((?!schema=).)*?schema='press'\n    \)", there),
        (r"op\.drop_table\('story'\)", "op.audit_move_table('story', 'press')"),
        (r"op\.create_table\('story',((?!schema=).)*?\n    \)", back),
        (
            r"op\.drop_table\('story', schema='press'\)",
            "op.audit_move_table('story', None, schema='press')",
        ),
    )


def with_history(forth: str, back: str) -> Callable[[str], str]:
    """Add an operation of ours after what each direction does to the columns."""

    def edit(text: str) -> str:
        upgrade, downgrade = text.split("def downgrade")
        marker = "    # ### end Alembic commands ###"
        assert marker in upgrade
        return (
            upgrade.replace(marker, f"    {forth}\n{marker}")
            + "def downgrade"
            + downgrade.replace(marker, f"    {back}\n{marker}")
        )

    return edit


# Words that a diff cannot take apart: the record's title at each step.
WORDS = [
    *("alfa", "bravo", "charlie", "delta", "echo", "foxtrot"),
    *("golf", "hotel", "india", "juliett", "kilo", "lima"),
]
START = Shape()
STEPS: list[tuple[str, Callable[[Shape], Shape], Callable[[str], str]]] = [
    ("set-up", lambda s: s, str),
    ("new models", lambda s: replace(s, others=True), str),
    (
        "an excluded column",
        lambda s: replace(s, secret=True, options=(("exclude", ["secret"]),)),
        str,
    ),
    (
        "masked instead",
        lambda s: replace(s, options=(("mask", ["secret"]),)),
        str,
    ),
    (
        "a column renamed",
        lambda s: replace(s, title="title"),
        renamed_column("name", "title", rewrite=True),
    ),
    (
        "a column renamed, its history mapped",
        lambda s: replace(
            s, body="text", options=(*s.options, ("formerly", {"columns": {"text": ["body"]}}))
        ),
        renamed_column("body", "text", rewrite=False),
    ),
    ("the table renamed", lambda s: replace(s, table="story"), renamed_table()),
    ("the table moved", lambda s: replace(s, schema="press"), moved_table()),
    (
        "a column altered, one added",
        lambda s: replace(s, price=sa.Numeric(10, 2), kind=True),
        lambda text: with_history(
            "op.audit_alter_column('story', 'price', \"to_jsonb((value #>> '{}')::numeric)\", "
            "schema='press')\n    "
            "op.audit_add_column('story', 'kind', 'note', schema='press')",
            "op.audit_restore_column('story', 'kind', schema='press')\n    "
            "op.audit_restore_column('story', 'price', schema='press')",
        )(
            re.sub(
                r"(type_=sa\.(Numeric|Text)\([^)]*\),)",
                r"\1 postgresql_using=('price::numeric' if 'Numeric' in '\2' else 'price::text'),",
                text,
            )
        ),
    ),
    ("a model un-versioned", lambda s: replace(s, tags_versioned=False), str),
    (
        "a column removed",
        lambda s: replace(s, legacy=False),
        with_history(
            "op.audit_remove_column('story', 'legacy', schema='press')",
            "op.audit_restore_column('story', 'legacy', schema='press')",
        ),
    ),
    ("the package upgraded", lambda s: s, str),
]


class Life:
    """A project with a site, and one record that is changed at every step."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.shape = START

    def become(self, shape: Shape) -> None:
        self.shape = shape
        self.project.become(shape)

    def write(self, number: int) -> None:
        """Change the record under its present names."""
        shape = self.shape
        name = f"{shape.schema}.{shape.table}" if shape.schema else shape.table
        if number == 0:
            values = "(1, 'alfa', 'body_0', '0.50', 'old_0')"
            columns = f"(id, {shape.title}, {shape.body}, price, legacy)"
            self.project.run(f"INSERT INTO {name} {columns} VALUES {values}")
        else:
            self.project.run(
                f"UPDATE {name} SET {shape.title} = '{WORDS[number]}', price = '{number}.50'"
            )
        if shape.secret:
            self.project.run(f"UPDATE {name} SET secret = 'secret_{number}'")

    def page(self) -> str:
        """The text of the record's timeline, as the application of this time shows it."""

        class Base(DeclarativeBase):
            pass

        db = SQLAlchemy(model_class=Base)
        logger = AuditLogger(can_view=lambda _: True, schema_name=self.project.logger.schema_name)
        logger.init(db.Model)
        models = self.shape(db.Model)  # a registry holds its classes weakly
        assert models
        app = Flask("life")
        app.config.update(SQLALCHEMY_DATABASE_URI=self.project.url, SECRET_KEY="test", TESTING=True)
        db.init_app(app)
        logger.init_app(app)
        app.register_blueprint(audit_bp)
        shape = self.shape
        address = f"/audit/records/{shape.schema or 'public'}/{shape.table}/1"
        answer = app.test_client().get(address)
        with app.app_context():
            db.session.remove()
            db.engine.dispose()
        assert answer.status_code == 200
        main = answer.get_data(as_text=True).split('<ol class="au-timeline">', 1)[1]
        main = main.split("</ol>\n", 1)[0]
        return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", main)).split())

    def reads_right(self, last: int) -> None:
        """The page tells every change up to the step ``last``, newest first, by today's names."""
        shape, text = self.shape, self.page()
        numbers = list(range(last, 0, -1))

        def shows(name: str, value: str) -> list[str]:
            """What the page shows as the former or new value of a field."""
            return re.findall(rf"\b{name}(?: \W*(?:Before|After)\W+| )({value})", text)

        titles = shows(shape.title, "|".join(WORDS))
        assert titles[: len(numbers)] == [WORDS[n - 1] for n in numbers], text
        assert len(re.findall(r"\bUpdated\b", text)) >= len(numbers)
        assert len(re.findall(r"\bCreated\b", text)) == 1
        for former in {"name", "title"} - {shape.title}:
            assert not shows(former, "|".join(WORDS))
        if shape.options and dict(shape.options).get("formerly"):
            assert shows("text", "body_0"), text
            assert not shows("body", "body_0")
        assert bool(shows("legacy", "old_0")) is shape.legacy
        assert bool(shows("kind", "note")) is shape.kind
        assert "secret_" not in text


@pytest.fixture
def life(database_url: str, tmp_path: Path) -> Life:
    return Life(
        Project(
            tmp_path / "m",
            database_url,
            include_schemas=True,
            include_name=lambda name, kind, _: kind != "schema" or name in {None, "press", "audit"},
        )
    )


def upgrade_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next version: one function has another body, and one is new."""
    real = sql._read

    def read(name: str) -> str:
        text = real(name)
        if name == "values.sql":
            text = text.replace("AS $function$", "AS $function$\n    -- The next version.", 1)
            text += (
                "CREATE OR REPLACE FUNCTION @schema@.next_version()\nRETURNS int\nLANGUAGE sql\n"
                "AS $function$\n    SELECT 2\n$function$;\n"
            )
        return text

    monkeypatch.setattr(sql, "_read", read)


def test_twelve_revisions_and_back(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    project, shapes = life.project, [START]
    for number, (message, change, edit) in enumerate(STEPS):
        shapes.append(change(shapes[-1]))
        if message == "the package upgraded":
            upgrade_the_package(monkeypatch)
        life.become(shapes[-1])
        text = project.migrate(message, edit)
        assert "import audit_app" not in text
        assert project.check() == [], message
        life.write(number)
        life.reads_right(number)
    assert project.value("SELECT audit.next_version()") == 2
    recorded = project.value("SELECT count(*) FROM audit.activity WHERE verb <> 'rewrite'")

    for number in range(11, 0, -1):
        project.downgrade()
        if number == 11:
            monkeypatch.undo()
        life.become(shapes[number])
        message = STEPS[number][0]
        assert project.check() == [], f"back from: {message}"
        assert project.differences() == [], f"back from: {message}"
        life.reads_right(11)
    assert project.value("SELECT count(*) FROM audit.activity WHERE verb <> 'rewrite'") == recorded
    project.downgrade("base")
    assert project.value("SELECT count(*) FROM audit.activity WHERE verb <> 'rewrite'") == recorded
    functions = "SELECT array_agg(proname) FROM pg_proc WHERE pronamespace = 'audit'::regnamespace"
    assert project.value(functions) == ["refuse"]
    assert project.value("SELECT count(*) FROM pg_trigger WHERE tgname LIKE '%audit%'") == 0
