# ruff: noqa: E501 - SQL in full
"""That values come back exactly as they were."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.orm import declarative_base

from audit_app import AuditLogger
from tests.integration.revert.books import through, track
from tests.trail import Trail

TYPES = {
    "smallint": "7", "bigint": "9007199254740993", "numeric": "10.00", "numeric(20,10)": "0.1",
    "real": "0.1", "float8": "1e300", "money": "'12.30'", "text": "'a''b: %s\\n'",
    "varchar(5)": "'abc'", "char(4)": "'ab'", "bytea": "'\\x00ff'::bytea", "boolean": "true",
    "date": "'0044-03-15 BC'", "time": "'04:05:06.789'", "timetz": "'04:05:06+02'",
    "timestamp": "'infinity'", "timestamptz": "'2026-01-01 10:00:00.123456+02'",
    "interval": "'1 year -2 months 3 days 04:05:06'", "uuid": "gen_random_uuid()",
    "json": """'{"a": [null], "b": 1.50}'""", "jsonb": """'{"b": 1.50, "a": "x"}'""",
    "int[]": "'{{1,2},{3,NULL}}'", "text[]": """'{a,"b,c",NULL,""}'""", "bytea[]": "'{\"\\\\x00\"}'",
    "int4range": "'[1,5)'", "tstzrange": "'[2026-01-01 00:00+00,)'", "nummultirange": "'{[1,2.50)}'",
    "inet": "'10.0.0.1/8'", "bit(4)": "'1010'", "point": "'(1,2)'", "tsvector": "'a:1 b:2'",
    "mood": "'so: so'", '"Odd; type"': "'x'", "small": "5", "pair": "'(1,\"a,b\")'",
}  # fmt: skip


@through
def test_every_type_comes_back_exactly(trail: Trail, through: str) -> None:
    base: Any = declarative_base()
    logger = AuditLogger(actor_cls=None)
    logger.init(base)
    for setting in (
        "IntervalStyle = 'sql_standard'",
        "DateStyle = 'SQL, DMY'",
        "TimeZone = 'Asia/Tokyo'",
    ):
        database = sa.make_url(trail.url).database
        trail.run(f'ALTER DATABASE "{database}" SET {setting}')
    trail.engine.dispose()
    trail.script(
        "CREATE TYPE mood AS ENUM ('so: so', 'good'); CREATE TYPE \"Odd; type\" AS ENUM ('x', 'y');"
        "CREATE DOMAIN small AS int NOT NULL CHECK (VALUE < 10);"
        "CREATE TYPE pair AS (a int, b text);"
    )
    # SQLAlchemy reflects these without a type.
    unknown = {"pair", "point"} if through == "orm" else set()
    chosen = {name: value for name, value in TYPES.items() if name not in unknown}
    columns = ", ".join(f'"c:{n}" {name}' for n, name in enumerate(chosen))
    trail.script(f'CREATE TABLE "it\'s; 50%" (id int PRIMARY KEY, {columns})')
    trail.track('"it\'s; 50%"')
    with pytest.warns(sa.exc.SAWarning) if through == "sql" else _nothing():
        table = sa.Table("it's; 50%", base.metadata, autoload_with=trail.engine)
    table.info["versioned"] = {}
    if through == "orm":
        model: Any = type("Odd", (base,), {"__table__": table})
        base.registry.configure()
        assert model
    literals = ", ".join(chosen.values())
    trail.script(f'INSERT INTO "it\'s; 50%" VALUES (1, {literals})')
    texts = ", ".join(f'CAST("c\\:{n}" AS text)' for n in range(len(chosen)))
    image = f'SELECT ARRAY[{texts}] FROM "it\'s; 50%"'
    before = [*zip(chosen, trail.value(image), strict=True)]
    trail.run('DELETE FROM "it\'s; 50%"')
    fresh = sa.create_engine(trail.url)
    logger.attach(fresh)
    with orm.Session(fresh) as session:
        plan = logger.plan_undelete(table, 1, session=session)
        plan = logger.plan_from_json(plan.to_json())
        assert not plan.conflicts
        plan.apply(session, reason="x", through=through)  # type: ignore[arg-type]
        shown = session.scalar(sa.text("SHOW IntervalStyle"))
        session.commit()
    fresh.dispose()
    assert shown == "sql_standard"
    assert [*zip(chosen, trail.value(image), strict=True)] == before
    assert trail.changes()[-1].changed == trail.changes()[0].changed


class _nothing:  # noqa: N801
    def __enter__(self) -> None: ...

    def __exit__(self, *_: Any) -> None: ...


@through
def test_null_and_json_null(trail: Trail, through: Any) -> None:
    base: Any = declarative_base()
    logger = AuditLogger(actor_cls=None)
    logger.init(base)

    class Thing(base):  # type: ignore[misc]
        __tablename__ = "thing"
        __versioned__: ClassVar[dict[str, Any]] = {}
        id = sa.Column(sa.Integer, primary_key=True)
        document = sa.Column(sa.JSON, nullable=False)
        note = sa.Column(sa.JSON, server_default="{}")
        text = sa.Column(sa.Text, server_default="x", default="y")

    trail.run(
        "CREATE TABLE thing (id int PRIMARY KEY, document json NOT NULL, note json DEFAULT '{}',"
        " text text DEFAULT 'x')"
    )
    trail.track("thing")
    trail.run("INSERT INTO thing VALUES (1, 'null', NULL, NULL)", "DELETE FROM thing")
    with orm.Session(trail.engine) as session:
        logger.plan_undelete(Thing, 1, session=session).apply(session, reason="x", through=through)
        session.commit()
    with trail.engine.connect() as connection:
        row = connection.execute(sa.text("SELECT document::text, note, text FROM thing")).one()
    assert tuple(row) == ("null", None, None)


def test_json_that_the_trail_keeps_as_text(trail: Trail, audit_logger: AuditLogger) -> None:
    audit_logger.init(declarative_base())
    track(trail, audit_logger, "CREATE TABLE a (id int PRIMARY KEY, j json)", "a")
    table = audit_logger.metadata.tables["a"]
    trail.script("""INSERT INTO a VALUES (1, '{"x": "\\u0000"}'), (2, '"plain"')""")
    trail.run("DELETE FROM a")
    with orm.Session(trail.engine) as session:
        plan = audit_logger.plan_undelete(table, 1, session=session)
        assert [(c.kind, c.fields) for c in plan.conflicts] == [("does_not_fit", ("j",))]
        assert not audit_logger.plan_undelete(table, 2, session=session).conflicts


def test_objects_hold_less_and_the_rest_is_written_after_them(trail: Trail) -> None:
    base: Any = declarative_base()
    logger = AuditLogger(actor_cls=None)
    logger.init(base)

    class Thing(base):  # type: ignore[misc]
        __tablename__ = "thing"
        __versioned__: ClassVar[dict[str, Any]] = {}
        id = sa.Column(sa.Integer, primary_key=True)
        document = sa.Column(sa.JSON)
        term = sa.Column(sa.Interval)
        name = sa.Column(sa.Text)

    def rename(mapper: Any, connection: Any, target: Any) -> None:
        target.name = "by an event"

    sa.event.listen(Thing, "before_insert", rename)
    trail.run("CREATE TABLE thing (id int PRIMARY KEY, document json, term interval, name text)")
    trail.track("thing")
    trail.run(
        "INSERT INTO thing VALUES (1, '{\"a\"\\: 1.50}', '1 month', 'x')", "DELETE FROM thing"
    )
    with orm.Session(trail.engine) as session:
        logger.plan_undelete(Thing, 1, session=session).apply(session, reason="x", through="orm")
        session.commit()
    assert trail.value("SELECT concat(document, term, name) FROM thing") == (
        '{"a": 1.50}1 monby an event'
    )
