"""The baseline: what was there before tracking, once, in order, beside writers."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import sqlalchemy as sa

from audit_app import backfill, errors
from audit_app.ddl import AuditedTable, CaptureOptions
from audit_app.formerly import Formerly
from tests.server import Server
from tests.trail import Trail

ARTICLE = AuditedTable("audit", None, "article")


def run(trail: Trail, *tables: AuditedTable, **options: Any) -> list[tuple[int, int]]:
    done = backfill.backfill(trail.engine, trail.logger.trail, tables or (ARTICLE,), **options)
    return [(table.rows, table.added) for table in done]


@pytest.fixture
def article(trail: Trail) -> Trail:
    """Seven rows that were there before the table was tracked."""
    trail.run(
        "CREATE TABLE article (id int PRIMARY KEY, name text, n numeric)",
        "INSERT INTO article SELECT i, 'a' || i, i FROM generate_series(1, 7) AS i",
    )
    trail.track("article")
    return trail


def test_each_row_gets_one(article: Trail) -> None:
    article.run(
        "UPDATE article SET n = 0 WHERE id = 2",
        "UPDATE article SET id = 30 WHERE id = 3",
        "INSERT INTO article VALUES (8, 'new', 8)",
        "DELETE FROM article WHERE id = 4",
    )
    before = len(article.changes())
    with article.logger.context(actor_id="ada"):
        assert run(article, batch_size=2) == [(7, 4)]
    added = article.changes()[before:]
    assert [(c.verb, c.object_id, c.old, c.changed) for c in added] == [
        ("baseline", str(i), None, {"id": i, "name": f"a{i}", "n": i}) for i in (1, 5, 6, 7)
    ]
    assert {c.actor for c in added} == {"audit-baseline"}
    (transaction, *_) = article.transactions()[-1:]
    assert transaction.actor_label == "Audit baseline"
    assert transaction.meta == {"baseline": "public.article"}
    assert run(article) == [(7, 0)]
    assert len(article.changes()) == before + 4


def test_the_context_of_the_caller_is_left_alone(article: Trail) -> None:
    call = (
        "SELECT * FROM audit.baseline_batch(CAST('article' AS regclass), "
        "CAST('article' AS regclass), NULL, NULL, 10)"
    )
    with article.logger.context(actor_id="ada"), article.engine.begin() as connection:
        connection.execute(sa.text("UPDATE article SET n = 9 WHERE id = 1"))
        assert connection.execute(sa.text(call)).one() == (["7"], ["7"], 7, 6)
        connection.execute(sa.text("UPDATE article SET n = 9 WHERE id = 2"))
    assert [c.actor for c in article.changes()] == ["ada", *["audit-baseline"] * 6, "ada"]


def test_it_may_be_interrupted(article: Trail) -> None:
    def stop(progress: backfill.Progress) -> None:
        if progress.done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(article, batch_size=2, progress=stop)
    assert len(article.changes()) == 4
    seen: list[backfill.Progress] = []
    assert run(article, batch_size=3, progress=seen.append) == [(7, 3)]
    assert [(p.done, p.total, p.added) for p in seen] == [
        (0, 7, 0),
        (3, 7, 0),
        (6, 7, 2),
        (7, 7, 3),
    ]


@pytest.mark.parametrize(
    ("options", "stored"),
    [
        ({"exclude": ["name"]}, {"id": 1, "n": 1}),
        ({"include": ["name"]}, {"id": 1, "name": "a1"}),
        ({"mask": ["name"]}, {"id": 1, "name": {"$audit": "masked"}, "n": 1}),
        ({"on": ["update"], "query_text": True}, {"id": 1, "name": "a1", "n": 1}),
        ({"level": "row"}, {"id": 1, "name": "a1", "n": 1}),
    ],
)
def test_the_options_are_those_of_the_capture(
    article: Trail, options: dict[str, Any], stored: dict[str, Any]
) -> None:
    article.track("article", options=options)
    assert run(article) == [(7, 7)]
    assert article.changes()[0].changed == stored


def test_what_the_condition_leaves_out_stays_out(article: Trail) -> None:
    article.track("article", options={"when": "NEW.n > 5"})
    assert run(article) == [(7, 2)]
    assert [c.object_id for c in article.changes()] == ["6", "7"]


def test_a_baseline_is_what_an_insert_would_have_stored(trail: Trail) -> None:
    """Byte for byte, whatever the session has set."""
    trail.run(
        "CREATE TABLE thing (id int PRIMARY KEY, a timestamptz, b interval, c bytea, d float8, "
        "e json, f numeric[], g int GENERATED ALWAYS AS (id + 1) STORED)",
        "INSERT INTO thing VALUES (1, '2024-01-01 12:00+05', '1 day 2 hours', '\\x00ff', 0.1, "
        "'{\"x\": \"\\u0000\"}', '{1.0,NULL}')",
    )
    trail.track("thing")
    trail.run(f'ALTER DATABASE "{sa.make_url(trail.url).database}" SET TimeZone = "Asia/Tokyo"')
    trail.engine.dispose()
    assert run(trail, AuditedTable("audit", None, "thing")) == [(1, 1)]
    trail.run("DELETE FROM thing WHERE id = 1")
    baseline, delete = trail.changes()
    assert baseline.changed == delete.old
    texts = "SELECT CAST({} AS text) FROM audit.activity WHERE verb = '{}'"
    assert trail.value(texts.format("changed_data", "baseline")) == trail.value(
        texts.format("old_data", "delete")
    )


KEYS = {
    "composite": ("a int, b text, PRIMARY KEY (b, a)", "(1, 'x'), (2, 'x'), (1, 'y''\"')"),
    "uuid": ("a uuid PRIMARY KEY", "(gen_random_uuid()), (gen_random_uuid())"),
    "text": ("a text PRIMARY KEY", "(''), ('a,b'), ('%s :x'), (repeat('k', 2000))"),
    "collated": ('a text COLLATE "C" PRIMARY KEY', "('b'), ('A'), ('a')"),
    "timestamp": ("a timestamptz PRIMARY KEY", "('2024-01-01'), ('infinity'), ('1000-01-01 BC')"),
    "float": ("a float8 PRIMARY KEY", "(0.1), ('NaN'), ('-infinity'), (1e-300)"),
    "numeric": ("a numeric PRIMARY KEY", "(10.00), (1e50), (-3)"),
    "char": ("a char(5) PRIMARY KEY", "('ab'), ('b')"),
    "bytea": ("a bytea PRIMARY KEY", "('\\x00'), ('\\xff00')"),
    "boolean and date": ("a boolean, b date, PRIMARY KEY (a, b)", "(true, '2024-01-01'), "
                         "(false, 'infinity')"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KEYS)
def test_every_kind_of_key(trail: Trail, kind: str) -> None:
    columns, rows = KEYS[kind]
    trail.script(
        f'CREATE SCHEMA "default"; CREATE TABLE "default"."rabbits;" ({columns}, "it\'s" int);'
        f'INSERT INTO "default"."rabbits;" VALUES {rows}'
    )
    trail.track('"default"."rabbits;"')
    table = AuditedTable("audit", "default", "rabbits;")
    count = trail.value('SELECT count(*) FROM "default"."rabbits;"')
    assert run(trail, table, batch_size=1) == [(count, count)]
    assert run(trail, table, batch_size=1) == [(count, 0)]
    assert len({c.object_id for c in trail.changes()}) == count
    trail.run('DELETE FROM "default"."rabbits;"')
    baselines, deletes = trail.changes()[:count], trail.changes()[count:]
    assert {c.object_id for c in baselines} == {c.object_id for c in deletes}


def test_a_partitioned_table(trail: Trail) -> None:
    trail.script(
        "CREATE TABLE event (id int, region text, n int, PRIMARY KEY (region, id)) "
        "PARTITION BY LIST (region);"
        "CREATE TABLE event_a PARTITION OF event FOR VALUES IN ('a');"
        # A partition whose columns stand otherwise.
        "CREATE TABLE event_b (gone int, n int, region text NOT NULL, id int NOT NULL);"
        "ALTER TABLE event_b DROP COLUMN gone;"
        "ALTER TABLE event ATTACH PARTITION event_b FOR VALUES IN ('b');"
        "INSERT INTO event SELECT i, r, i FROM generate_series(1, 3) i, unnest('{a,b}'::text[]) r"
    )
    trail.track("event")
    trail.run("UPDATE event_b SET n = 9 WHERE id = 1")
    assert run(trail, AuditedTable("audit", None, "event"), batch_size=2) == [(6, 5)]
    changes = trail.changes()
    assert {c.table for c in changes} == {"event"}
    assert changes[-1].changed == {"id": 3, "region": "b", "n": 3}
    assert len({c.object_id for c in changes}) == 6


def test_rows_that_come_meanwhile_are_not_run_after(article: Trail) -> None:
    """They are captured; whoever looked at them, too, might never arrive."""

    def add(progress: backfill.Progress) -> None:
        article.run("INSERT INTO article SELECT max(id) + 1 FROM article")

    assert run(article, batch_size=1, progress=add) == [(8, 7)]  # one came before the first batch


def test_tables_without_rows_and_former_names(trail: Trail) -> None:
    trail.run("CREATE TABLE story (id int PRIMARY KEY)")
    trail.track("story")
    trail.run("INSERT INTO story VALUES (1), (2)", "ALTER TABLE story RENAME TO article")
    trail.run("CREATE TABLE tag (id int PRIMARY KEY)")
    trail.track("tag")
    renamed = AuditedTable(
        "audit", None, "article", formerly=Formerly(tables=(("public", "story"),))
    )
    tag = AuditedTable("audit", None, "tag")
    assert run(trail, renamed, tag) == [(2, 0), (0, 0)]


def test_a_writer_comes_first(article: Trail) -> None:
    """An update that is open when the backfill comes by: its activity is the record's first."""
    lines: list[str] = []
    with article.engine.connect() as writer:
        writer.exec_driver_sql("UPDATE article SET n = 100 WHERE id = 3")
        filling = threading.Thread(
            target=run,
            args=(article,),
            kwargs={"lock_timeout": 100, "attempts": 100, "log": lines.append},
        )
        filling.start()
        time.sleep(0.5)
        assert [c.verb for c in article.changes()] == []
        writer.commit()
    filling.join(20)
    assert "busy, attempt 1 of 100" in lines[0]
    story = [(c.verb, c.changed) for c in article.changes() if c.object_id == "3"]
    assert story == [("update", {"n": 100})]
    assert len(article.changes()) == 7
    with article.engine.connect() as writer:
        writer.exec_driver_sql("SELECT FROM article WHERE id = 3 FOR UPDATE")
        assert run(article, lock_timeout=50, attempts=1) == [(7, 0)]  # it has one, so no lock


def test_a_row_that_stays_locked(article: Trail) -> None:
    with article.engine.connect() as writer:
        writer.exec_driver_sql("SELECT FROM article WHERE id = 3 FOR UPDATE")
        with pytest.raises(errors.TableBusyError, match="busy in 2 attempts"):
            run(article, batch_size=2, lock_timeout=50, attempts=2)
    assert run(article) == [(7, 5)]


def test_beside_writers_nothing_is_lost_or_doubled(trail: Trail) -> None:
    trail.run(
        "CREATE TABLE article (id int PRIMARY KEY, name text)",
        "INSERT INTO article SELECT i, '' FROM generate_series(1, 2000) AS i",
    )
    trail.track("article")
    stop = threading.Event()
    failures: list[BaseException] = []

    def write(number: int) -> None:
        engine = sa.create_engine(trail.url, poolclass=sa.NullPool)
        turn = 0
        while not stop.is_set():
            turn += 1
            id_ = (turn * 7919 + number * 131) % 2000 + 1
            try:
                with engine.begin() as connection:
                    connection.exec_driver_sql(
                        f"UPDATE article SET name = name || 'x' WHERE id IN ({id_}, {2001 - id_});"
                        f"INSERT INTO article VALUES ({number * 100000 + turn}, 'new');"
                        f"DELETE FROM article WHERE id = {turn * 13 % 2000 + 1} AND {number} = 1"
                    )
            except sa.exc.OperationalError as error:
                if "deadlock" not in str(error):  # between the writers
                    failures.append(error)

    writers = [threading.Thread(target=write, args=(number,)) for number in (1, 2)]
    for writer in writers:
        writer.start()
    fillers = [
        threading.Thread(target=run, args=(trail,), kwargs={"batch_size": size})
        for size in (100, 70)
    ]
    for filler in fillers:
        filler.start()
    for filler in fillers:
        filler.join(60)
    assert not any(filler.is_alive() for filler in fillers)
    stop.set()
    for writer in writers:
        writer.join(20)
    assert failures == []
    wrong = trail.value(
        """
        SELECT count(*) FROM (
            SELECT object_id,
                count(*) FILTER (WHERE verb = 'baseline') AS baselines,
                min(id) FILTER (WHERE verb = 'baseline') > min(id) AS is_late
            FROM audit.activity GROUP BY object_id
        ) AS a WHERE a.baselines > 1 OR a.is_late
        """
    )
    assert wrong == 0
    # The state that the trail tells is the state of the table.
    differing = trail.value(
        """
        SELECT count(*) FROM (
            SELECT DISTINCT ON (object_id) object_id, verb,
                coalesce(old_data, '{}') || coalesce(changed_data, '{}') AS data
            FROM audit.activity ORDER BY object_id, id DESC
        ) AS a
        FULL JOIN article ON CAST(article.id AS text) = a.object_id
        WHERE CASE WHEN a.verb = 'delete' THEN article.id IS NOT NULL
            ELSE a.data IS DISTINCT FROM to_jsonb(article) END
        """
    )
    assert differing == 0


def test_a_table_that_cannot_be_backfilled(article: Trail) -> None:
    other = AuditedTable("audit", None, "other")
    with pytest.raises(errors.BackfillError, match="does not exist"):
        run(article, other)
    article.run("CREATE TABLE other (id int PRIMARY KEY)", "INSERT INTO other VALUES (1)")
    with pytest.raises(errors.BackfillError, match="is not tracked: Track it first"):
        run(article, other)
    with pytest.raises(errors.ConfigurationError, match="batch_size=0"):
        run(article, batch_size=0)


def test_a_protected_column_that_was_renamed_is_not_stored(article: Trail) -> None:
    article.track("article", ["name"])
    article.run("ALTER TABLE article RENAME name TO password")
    with pytest.raises(errors.BackfillError, match="was altered after it was tracked"):
        run(article)
    assert article.changes() == []


def test_the_migrating_role_does_it(server: Server, trail: Trail) -> None:
    owner, migrator = (f"audit_test_{server.name}_{part}" for part in ("keeper", "mover"))
    server.execute(f'DROP ROLE IF EXISTS "{owner}"; DROP ROLE IF EXISTS "{migrator}"')
    server.execute(f"CREATE ROLE \"{migrator}\" LOGIN PASSWORD 'secret'")
    try:
        trail.script(
            f"CREATE SCHEMA shop AUTHORIZATION \"{migrator}\"; SELECT audit.hand_over('{owner}');"
            f'GRANT "{owner}" TO "{migrator}"'
        )
        url = sa.make_url(trail.url).set(username=migrator, password="secret")
        mover = Trail(url.render_as_string(hide_password=False))
        mover.run("CREATE TABLE shop.item (id int PRIMARY KEY)", "INSERT INTO shop.item VALUES (1)")
        mover.track("shop.item")
        table = AuditedTable("audit", "shop", "item", CaptureOptions())
        trail.script(f'REVOKE "{owner}" FROM "{migrator}"')
        with pytest.raises(errors.NotGrantedError, match="run it as the role"):
            run(mover, table)
        trail.script(f'GRANT "{owner}" TO "{migrator}"')
        assert run(mover, table) == [(1, 1)]
        assert trail.transactions()[-1].role_name == migrator
        mover.close()
    finally:
        trail.script(
            f'REASSIGN OWNED BY "{owner}", "{migrator}" TO CURRENT_USER; '
            f'DROP OWNED BY "{owner}", "{migrator}"; DROP ROLE "{owner}", "{migrator}"'
        )
