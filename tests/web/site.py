"""A small application with the audit pages, and a way to read what they show."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine.interfaces import CacheStats
from sqlalchemy.orm import DeclarativeBase

from audit_app import AuditLogger, audit_bp

HOSTILE = "<script>alert('it')</script>"


class Site:
    """An application on a database of its own, with a few tracked tables.

    :ivar url: of the database.
    :ivar extra: what ``extend`` returned: it may make further models.
    :ivar statements: the SQL that was sent since :meth:`watch`.
    """

    def __init__(
        self,
        url: str,
        *,
        can_view: Callable[[Any], bool] | None = lambda actor: True,
        mount: Callable[[Flask], Any] | None = lambda app: app.register_blueprint(audit_bp),
        create: bool = True,
        extend: Callable[[Any], Any] | None = None,
        babel: bool = True,
        **options: Any,
    ) -> None:
        # What is written in capitals configures the application, the rest the logger.
        config = {name: value for name, value in options.items() if name.isupper()}
        own = {name: value for name, value in options.items() if name not in config}

        class Base(DeclarativeBase):
            pass

        self.url = url
        self.db = SQLAlchemy(model_class=Base)
        self.logger = AuditLogger(can_view=can_view, **own)
        self.logger.init(self.db.Model)
        self.Article, self.Rate, self.Slug = _models(self.db)
        self.extra: Any = extend(self.db) if extend is not None else None
        self.app = Flask("site")
        self.app.config.update(SQLALCHEMY_DATABASE_URI=url, SECRET_KEY="test", TESTING=True)
        self.app.config.update(config)
        # Where flask-babel is installed, Flask-Admin's own pages ask for it.
        if babel:
            from flask_babel import Babel

            Babel(self.app)
        self.db.init_app(self.app)
        self.logger.init_app(self.app)
        if mount is not None:
            mount(self.app)
        self.statements: list[str] = []
        with self.app.app_context():
            self.engine = self.db.engine
            if create:
                self.db.create_all()
        self.client = self.app.test_client()

    def close(self) -> None:
        with self.app.app_context():
            self.db.session.remove()
        self.engine.dispose()
        # SQLAlchemy keeps a base alive for its listeners: models without end, for the collector.
        for listener in (self.logger._check_mapper, self.logger._forget_places):
            if sa.event.contains(self.db.Model, "mapper_configured", listener):
                sa.event.remove(self.db.Model, "mapper_configured", listener)

    # -- Writing ----------------------------------------------------------------------------------

    def write(
        self, *statements: Any, actor: str | None = None, label: str | None = None, **context: Any
    ) -> int:
        """Execute the statements in one transaction; return the id of its row in the trail."""
        transaction = self.logger.transaction_cls
        with self.app.app_context():
            with self.logger.context(actor_id=actor, actor_label=label, **context):
                for statement in statements:
                    if isinstance(statement, str):
                        statement = sa.text(statement)  # noqa: PLW2901
                    self.db.session.execute(statement)
                self.db.session.commit()
            return int(self.db.session.scalar(sa.select(sa.func.max(transaction.id))) or 0)

    def add_transactions(self, *moments: str, actor: str | None = "1", rows: int = 1) -> list[int]:
        """Put transactions at given times into the trail, as they would be there after a while.

        :param moments: when, as PostgreSQL reads it.
        :param rows: activities of each.
        """
        ids = []
        with self.engine.begin() as connection:
            for moment in moments:
                id_ = connection.scalar(
                    sa.text(
                        "INSERT INTO audit.transaction (native_transaction_id, issued_at, actor_id,"
                        " actor_label, session_user_name, role_name) VALUES ('1', :at, :actor,"
                        " 'Person ' || :actor, 'app', 'app') RETURNING id"
                    ),
                    {"at": moment, "actor": actor},
                )
                for number in range(rows):
                    connection.execute(
                        sa.text(
                            "INSERT INTO audit.activity (transaction_id, native_transaction_id,"
                            " issued_at, relid, depth, schema_name, table_name, verb, object_id,"
                            " old_data, changed_data) VALUES (:t, '1', :at, 1, 1, 'public',"
                            " 'article', 'update', :key, '{\"title\": \"a\"}',"
                            ' \'{"title": "b"}\')'
                        ),
                        {"t": id_, "at": moment, "key": str(number)},
                    )
                ids.append(int(id_))
        return ids

    def rewrite(self, statement: str) -> None:
        """Change what the trail holds, which its guards refuse to everybody else."""
        with self.engine.begin() as connection:
            connection.execute(sa.text("ALTER TABLE audit.transaction DISABLE TRIGGER USER"))
            connection.execute(sa.text(statement))

    def scalar(self, query: str, **parameters: Any) -> Any:
        with self.engine.connect() as connection:
            return connection.scalar(sa.text(query), parameters)

    def activity_id(self, table: str, verb: str = "update") -> int:
        """Return the id of the newest activity of a table and verb."""
        return int(
            self.scalar(
                "SELECT max(id) FROM audit.activity WHERE table_name = :t AND verb = :v",
                t=table,
                v=verb,
            )
        )

    # -- Reading ----------------------------------------------------------------------------------

    def get(self, path: str, *, status: int = 200, **options: Any) -> Page:
        """Open a page of the trail."""
        response = self.client.get(path, **options)
        assert response.status_code == status, (path, response.status_code, response.text[:2000])
        return Page(response.text, dict(response.headers))

    def watch(self) -> list[str]:
        """Record the SQL that is sent from now on."""
        self.statements.clear()

        def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            self.statements.append(statement)

        sa.event.listen(self.engine, "before_cursor_execute", note)
        return self.statements

    def compiled_by(self, path: str) -> list[str]:
        """Open a page; return its reads of the trail that SQLAlchemy had not compiled before."""
        compiled: list[str] = []

        def note(_c: Any, _cursor: Any, statement: str, _p: Any, context: Any, *_: Any) -> None:
            if " audit." in statement and context.cache_hit is not CacheStats.CACHE_HIT:
                compiled.append(statement)

        sa.event.listen(self.engine, "before_cursor_execute", note)
        try:
            # A search that fits one record leads to it.
            assert self.client.get(path).status_code in {200, 302}, path
        finally:
            sa.event.remove(self.engine, "before_cursor_execute", note)
        return compiled


def _models(db: Any) -> tuple[Any, Any, Any]:
    class Article(db.Model):  # type: ignore[misc]
        __tablename__ = "article"
        __versioned__: dict[str, Any] = {}  # noqa: RUF012
        id = sa.Column(sa.Integer, primary_key=True)
        title = sa.Column(sa.Text)
        body = sa.Column(sa.Text)
        price = sa.Column(sa.Numeric)
        published = sa.Column(sa.Boolean)
        settings = sa.Column(JSONB)

    class Rate(db.Model):  # type: ignore[misc]
        __tablename__ = "rate"
        __versioned__: dict[str, Any] = {}  # noqa: RUF012
        country = sa.Column(sa.Text, primary_key=True)
        currency = sa.Column(sa.Text, primary_key=True)
        value = sa.Column(sa.Numeric)

    class Slug(db.Model):  # type: ignore[misc]
        __tablename__ = "slug"
        __versioned__: dict[str, Any] = {}  # noqa: RUF012
        id = sa.Column(sa.Text, primary_key=True)
        value = sa.Column(sa.Text)

    return Article, Rate, Slug


# -- What a page holds ----------------------------------------------------------------------------

_VOID = frozenset({"meta", "link", "img", "input", "br", "hr"})


@dataclass
class Node:
    """An element of a page."""

    tag: str
    attributes: dict[str, str]
    children: list[Node | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All text inside, exactly as it stands there."""
        return "".join(c if isinstance(c, str) else c.text for c in self.children)

    @property
    def classes(self) -> list[str]:
        return self.attributes.get("class", "").split()

    def walk(self) -> Iterator[Node]:
        yield self
        for child in self.children:
            if isinstance(child, Node):
                yield from child.walk()

    def all(self, tag: str | None = None, cls: str | None = None) -> list[Node]:
        return [
            node
            for node in self.walk()
            if (tag is None or node.tag == tag) and (cls is None or cls in node.classes)
        ]

    def one(self, tag: str | None = None, cls: str | None = None) -> Node:
        found = self.all(tag, cls)
        assert len(found) == 1, (tag, cls, len(found))
        return found[0]


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Node("", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(node)
        if tag not in _VOID:
            self.open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


class Page(Node):
    """A whole page; its tags are checked to be balanced."""

    def __init__(self, html: str, headers: dict[str, str]) -> None:
        parser = _Parser()
        parser.feed(html)
        parser.close()
        assert len(parser.open) == 1, f"<{parser.open[-1].tag}> is never closed"
        super().__init__("", {}, parser.root.children)
        self.html = html
        self.headers = headers

    @property
    def heading(self) -> str:
        return " ".join(self.one("h1").text.split())

    @property
    def words(self) -> str:
        """The text of the main part, with single blanks."""
        return " ".join(self.one("main").text.split())

    @property
    def hrefs(self) -> list[str]:
        return [node.attributes["href"] for node in self.walk() if "href" in node.attributes]

    def link(self, text: str) -> str:
        """Return the address of the link with this text."""
        found = [n.attributes["href"] for n in self.all("a") if " ".join(n.text.split()) == text]
        assert found, (text, [" ".join(n.text.split()) for n in self.all("a")])
        return found[0]

    def transactions(self) -> list[str]:
        """Return the addresses of the transactions that a feed shows, in their order."""
        return [node.attributes["href"].partition("?")[0] for node in self.all("a", "au-tx")]
