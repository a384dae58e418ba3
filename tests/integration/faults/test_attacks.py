"""What attacks in earnest got through with, once: each is closed, and stays so."""

from __future__ import annotations

import json
import threading

import pytest
import sqlalchemy as sa

from audit_app import AuditLogger, checks, roles
from audit_app.ddl import AuditedTable
from tests.trail import Trail

BOOM = "LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'called as %', current_user; END$$"


# -- What another role owns, called with the rights of the trail's owner -------------------------

CASTS = [
    ("mood", "'sad'", "sad"),
    ("mood[]", "'{sad,NULL,glad}'", ["sad", None, "glad"]),
    ("pair", "('sad', 1)", "(sad,1)"),
    ("ours", "('sad', 1)", "(sad,1)"),
    ("moods", "'[sad,glad]'", "[sad,glad]"),
    ("mood_domain", "'sad'", "sad"),
]  # fmt: skip


@pytest.fixture
def types(article: Trail, mallory: Trail) -> Trail:
    """Types of mallory's, with casts to json and text that betray who calls them."""
    mallory.script(
        "CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE TYPE pair AS (m mood, n int);"
        "CREATE TYPE moods AS RANGE (subtype = mood); CREATE DOMAIN mood_domain AS mood;"
    )
    article.script("CREATE TYPE ours AS (m mood, n int)")
    for type_ in ("mood", "pair", "moods"):
        for target in ("json", "text", "jsonb"):
            mallory.script(
                f"CREATE FUNCTION to_{target}_of_{type_}({type_}) RETURNS {target} {BOOM};"
                f"CREATE CAST ({type_} AS {target}) "
                f"WITH FUNCTION to_{target}_of_{type_}({type_}) AS IMPLICIT"
            )
    return article


@pytest.mark.parametrize(("type_", "value", "stored"), CASTS)
def test_a_cast_of_the_types_owner(types: Trail, type_: str, value: str, stored: object) -> None:
    """A tracked column has another role's type, with a cast to json, jsonb and text."""
    types.create(f"CREATE TABLE thing (id int PRIMARY KEY, v {type_})", "thing")
    types.run(
        f"INSERT INTO thing VALUES (1, {value})", "UPDATE thing SET v = NULL", "DELETE FROM thing"
    )
    insert, update, delete = types.changes()
    assert insert.changed == {"id": 1, "v": stored}
    assert (update.old["v"], update.changed, delete.old["v"]) == (stored, {"v": None}, None)


def test_a_field_that_is_added_to_a_type(types: Trail, mallory: Trail) -> None:
    """A composite type of built-in parts gets a field of the type that has the cast, later on."""
    mallory.script("CREATE TYPE point3 AS (x int, y int)")
    types.create("CREATE TABLE thing (id int PRIMARY KEY, v point3)", "thing")
    mallory.script("ALTER TYPE point3 ADD ATTRIBUTE m mood")
    types.run("INSERT INTO thing VALUES (1, CAST((1, 2, 'sad') AS point3))")
    assert [c.changed["v"] for c in types.changes()] == ["(1,2,sad)"]


@pytest.mark.parametrize(
    ("type_", "value"), [("pair", "('sad', 2)"), ("pair[]", "ARRAY[('sad', 2)]")]
)
def test_a_cast_of_a_container_in_a_condition(types: Trail, type_: str, value: str) -> None:
    """The condition itself casts a composite, or an array of them, to text."""
    types.run(f"CREATE TABLE thing (id int PRIMARY KEY, v {type_})")
    types.track("thing", options={"when": "CAST(NEW.v AS text) <> ''"})
    types.run(f"INSERT INTO thing VALUES (1, CAST({value} AS {type_}))")
    assert [c.object_id for c in types.changes()] == ["1"]


@pytest.mark.parametrize("level", ["statement", "row"])
def test_a_domain_over_a_composite_type(article: Trail, mallory: Trail, level: str) -> None:
    """A composite of ours with json inside, under a domain whose owner adds a check later."""
    article.script("CREATE TYPE couple AS (a json, b int)")
    mallory.script("CREATE DOMAIN wrapped AS couple")
    article.run("CREATE TABLE thing (id int PRIMARY KEY, v wrapped)")
    article.track("thing", options={"level": level})
    article.script(f'GRANT ALL ON thing TO "{sa.make_url(mallory.url).username}"')
    mallory.script(
        f"CREATE FUNCTION tell(couple) RETURNS boolean {BOOM};"
        "ALTER DOMAIN wrapped ADD CHECK (current_user <> 'postgres' OR tell(VALUE)) NOT VALID"
    )
    mallory.run("INSERT INTO thing VALUES (1, ROW('{}', 2))")
    assert [c.verb for c in article.changes()] == ["insert"]


def test_check_names_a_type_of_another_role(types: Trail) -> None:
    """Its owner can rename its values, and drop the column with it."""
    types.create("CREATE TABLE thing (id int PRIMARY KEY, v mood)", "thing")
    with types.engine.connect() as connection:
        table = AuditedTable("audit", None, "thing")
        found = checks.check(connection, types.logger.trail, [table])
    # The fixture's own table is tracked, and not declared here.
    (finding,) = [finding for finding in found if finding.code != "orphan"]
    assert (finding.code, finding.message.split(": ")[1]) == ("type", "v public.mood")


def test_domains_over_plain_types(article: Trail, mallory: Trail) -> None:
    """A domain of another role's over a built-in type is stored as that type is, also as a key."""
    mallory.script(
        "CREATE DOMAIN flag AS bool; CREATE DOMAIN code AS char(5); CREATE DOMAIN num AS int"
    )
    for number, type_ in enumerate(("flag", "bool", "code", "char(5)", "num", "int")):
        article.create(f"CREATE TABLE t{number} (id {type_} PRIMARY KEY)", f"t{number}")
        article.run(f"INSERT INTO t{number} VALUES ('1')")
    found = [(c.object_id, c.changed) for c in article.changes()]
    assert found[0::2] == found[1::2]
    assert found[4] == ("1", {"id": 1})


def test_what_an_administrator_runs(article: Trail, mallory: Trail, role: str) -> None:
    """Functions and operators that fit better than PostgreSQL's own, where install and check look."""
    mallory.script(
        f"CREATE FUNCTION public.obj_description(regnamespace, text) RETURNS text {BOOM};"
        f"CREATE FUNCTION public.to_regclass(varchar) RETURNS regclass {BOOM};"
        f"CREATE FUNCTION public.pg_has_role(text, text, text) RETURNS boolean {BOOM};"
        f"CREATE FUNCTION public.pg_has_role(text, oid, text) RETURNS boolean {BOOM};"
        f"CREATE FUNCTION public.has_table_privilege(text, oid, text) RETURNS boolean {BOOM};"
        f"CREATE FUNCTION public.oeq(oid, regnamespace) RETURNS boolean {BOOM};"
        f"CREATE FUNCTION public.neq(name, text) RETURNS boolean {BOOM};"
        "CREATE OPERATOR public.= (LEFTARG = oid, RIGHTARG = regnamespace, FUNCTION = public.oeq);"
        f"CREATE FUNCTION public.concat(text, text, text, name, text, name, text) RETURNS text {BOOM}"
    )
    with article.engine.begin() as connection:
        article.logger.install(connection)
        assert (
            checks.check(connection, article.logger.trail, [AuditedTable("audit", None, "article")])
            == ()
        )
        roles.grant(connection, "audit", roles.Roles(applications=[role]))
    with pytest.raises(sa.exc.ProgrammingError, match="append-only"):
        article.run("DELETE FROM audit.activity")


def test_a_cast_of_the_keys_type(types: Trail) -> None:
    """The key has such a type, alone and beside another column."""
    types.create("CREATE TABLE thing (id mood PRIMARY KEY)", "thing")
    types.create("CREATE TABLE other (a mood, b int, PRIMARY KEY (a, b))", "other")
    types.run("INSERT INTO thing VALUES ('sad')", "INSERT INTO other VALUES ('glad', 1)")
    assert [c.object_id for c in types.changes()] == ["sad", '["glad", "1"]']


def test_a_cast_in_a_condition(types: Trail) -> None:
    """A condition compares a column of such a type, so that an implicit cast would be found."""
    types.run("CREATE TABLE thing (id int PRIMARY KEY, v mood)")
    types.track("thing", options={"when": "length(NEW.v) = 3"})
    types.run("INSERT INTO thing VALUES (1, 'sad'), (2, 'glad'), (3, NULL)")
    assert [c.object_id for c in types.changes()] == ["1"]


def test_a_domain_whose_check_is_hostile(article: Trail, mallory: Trail) -> None:
    """A condition on a table with a domain, which its owner altered to call a function of theirs."""
    mallory.script("CREATE DOMAIN small AS int")
    article.run("CREATE TABLE thing (id int PRIMARY KEY, v small)")
    article.track("thing", options={"when": "NEW.v = 1 OR OLD.v = 1"})
    mallory.script(
        f"CREATE FUNCTION tell(int) RETURNS boolean {BOOM};"
        "ALTER DOMAIN small ADD CHECK (current_user <> 'postgres' OR tell(VALUE)) NOT VALID"
    )
    article.script(f'GRANT ALL ON thing TO "{sa.make_url(mallory.url).username}"')
    mallory.run("INSERT INTO thing VALUES (1, 1), (2, 2)", "DELETE FROM thing")
    assert [(c.verb, c.object_id) for c in article.changes()] == [("insert", "1"), ("delete", "1")]


def test_the_trigger_privilege(article: Trail, mallory: Trail, role: str) -> None:
    """TRIGGER suffices to replace our triggers: check names it, also for PUBLIC."""
    table = AuditedTable("audit", None, "article")
    for privilege, grantee in (("TRIGGER", f'"{role}"'), ("REFERENCES", "PUBLIC")):
        article.script(f"GRANT {privilege} ON article TO {grantee}")
        with article.engine.connect() as connection:
            (finding,) = checks.check(connection, article.logger.trail, [table])
        assert (finding.code, finding.message.split()[0]) == ("privilege", privilege)
        article.script(f"REVOKE {privilege} ON article FROM {grantee}")


# -- A fault that the session makes on purpose ---------------------------------------------------


def test_read_only_in_the_middle_of_a_write(article: Trail, mallory: Trail) -> None:
    """With on_error "degrade": the statement itself makes the transaction read-only."""
    article.track("article", options={"on_error": "degrade"})
    with pytest.raises(sa.exc.DBAPIError, match="read-only"):
        mallory.run(
            "INSERT INTO article SELECT 1, set_config('transaction_read_only', 'on', true), 1"
        )
    assert article.value("SELECT count(*) FROM article") == len(article.changes()) == 0


def test_a_stack_that_is_used_up(article: Trail, mallory: Trail) -> None:
    """With on_error "degrade": writes at every depth of a recursion, to the end of the stack."""
    article.track("article", options={"on_error": "degrade"})
    mallory.script(
        "CREATE FUNCTION dive(depth int) RETURNS void LANGUAGE plpgsql AS $$"
        "BEGIN "
        "  BEGIN PERFORM dive(depth + 1); EXCEPTION WHEN statement_too_complex THEN NULL; END;"
        "  BEGIN INSERT INTO article VALUES (depth, 'x', 1);"
        "  EXCEPTION WHEN statement_too_complex THEN NULL; END; "
        "END$$"
    )
    article.run("ALTER TABLE article DROP CONSTRAINT article_pkey")
    for kilobytes in range(400, 420):  # so that the end comes at different places
        with article.engine.begin() as connection:
            connection.exec_driver_sql(f"SET LOCAL max_stack_depth = '{kilobytes}kB'")
            connection.exec_driver_sql("SELECT dive(1)")
    written = article.value("SELECT count(*) FROM article")
    assert written > 20
    assert written == sum(c.verb in {"insert", "gap"} for c in article.changes())


def test_the_message_of_a_gap_holds_no_secret(article: Trail) -> None:
    """With on_error "degrade" and a mask: the error's message would quote the masked value."""
    article.track(
        "article",
        options={"on_error": "degrade", "mask": ["name"], "when": "CAST(NEW.name AS integer) > 0"},
    )
    article.run("INSERT INTO article VALUES (1, 's3cret', 1)")
    (gap,) = article.changes()
    assert (gap.verb, gap.changed["sqlstate"], gap.changed["message"]) == ("gap", "22P02", None)


def test_a_memo_that_a_setting_lets_through(article: Trail, mallory: Trail) -> None:
    """Backslashes in our patterns would mean something else with standard_conforming_strings off."""
    article.track("article", options={"on_error": "degrade"})
    with sa.create_engine(mallory.url, poolclass=sa.NullPool).begin() as connection:
        connection.exec_driver_sql("SET standard_conforming_strings = off")
        connection.exec_driver_sql("SELECT set_config('audit_app.transaction', '0,1 ', false)")
        connection.exec_driver_sql("INSERT INTO article VALUES (1, 'x', 1)")
    assert [c.verb for c in article.changes()] == ["insert"]


def test_an_error_message_of_a_gigantic_size(article: Trail, mallory: Trail) -> None:
    """With on_error "degrade": the error's message is too long for the gap record."""
    article.track(
        "article", options={"on_error": "degrade", "when": "CAST(NEW.name AS integer) > 0"}
    )
    mallory.script("INSERT INTO article VALUES (1, repeat(repeat('x', 1000), 270000), 1)")
    (gap,) = article.changes()
    assert (gap.verb, len(gap.changed["message"])) == ("gap", 1000)


def test_a_context_that_no_memo_can_hold(article: Trail, mallory: Trail) -> None:
    """With on_error "degrade": a context of a gigabyte, so that the memo would exceed the limit."""
    article.track("article", options={"on_error": "degrade"})
    mallory.script(
        "DO $$ BEGIN PERFORM set_config('audit_app.context', repeat(repeat('x', 10), 107374177), true); "
        "INSERT INTO article VALUES (1, 'x', 1); PERFORM set_config('audit_app.context', '', true); END $$"
    )
    assert [c.verb for c in article.changes()] == ["insert"]


# -- Conditions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "condition"),
    [
        ("standard_conforming_strings = off", r"NEW.name <> 'a\b'"),
        ("transform_null_equals = on", "(NEW.n = NULL) IS NULL"),
        ("array_nulls = off", "CAST('{NULL}' AS text[]) = ARRAY[NULL]::text[]"),
        (
            "default_text_search_config = english",
            "CAST(to_tsvector('runs') AS text) LIKE '''runs%'",
        ),
    ],
)
def test_a_setting_that_changes_a_condition(
    article: Trail, mallory: Trail, setting: str, condition: str
) -> None:
    """The session sets how strings, NULLs or arrays are read, and by that what "when" means."""
    article.track("article", options={"when": condition})
    value = "ab" if "strings" in setting else "x"
    with mallory.engine.begin() as connection:
        connection.exec_driver_sql(f"SET LOCAL {setting}")
        connection.execute(
            sa.text("INSERT INTO article VALUES (1, :name, 1)"),
            {"name": value.replace("ab", "a\x08")},
        )
    assert [c.verb for c in article.changes()] == ["insert"]


@pytest.mark.parametrize("level", ["statement", "row"])
def test_types_and_tables_that_the_owner_cannot_see(trail: Trail, role: str, level: str) -> None:
    """The trail's owner has rights neither on the types' schema nor on the table; then it drifts."""
    trail.script(
        "CREATE SCHEMA private; CREATE TYPE private.mood AS ENUM ('sad', 'glad');"
        "CREATE DOMAIN private.filled AS text NOT NULL CHECK (VALUE <> '');"
        "CREATE TABLE private.thing (id int PRIMARY KEY, m private.mood, f private.filled)"
    )
    trail.script(f'GRANT CREATE ON DATABASE "{sa.make_url(trail.url).database}" TO "{role}"')
    trail.script(f'GRANT SELECT ON private.thing TO "{role}"')  # of no use without the schema
    trail.run(f"SELECT audit.hand_over('{role}')")
    condition = "NEW.m = 'sad' OR OLD.m = 'sad'"
    trail.track("private.thing", options={"when": condition, "level": level})
    trail.run(
        "INSERT INTO private.thing VALUES (1, 'sad', 'x'), (2, 'glad', 'x')",
        "UPDATE private.thing SET f = 'y'",
        "ALTER TABLE private.thing ADD COLUMN more int",
        "UPDATE private.thing SET more = 1",
        "ALTER TABLE private.thing RENAME COLUMN m TO mood",
        "UPDATE private.thing SET more = 2",
        "DELETE FROM private.thing",
        "TRUNCATE private.thing",
    )
    assert [(c.verb, c.object_id) for c in trail.changes()] == [
        ("insert", "1"), ("update", "1"), ("update", "1"),
        # The condition no longer fits the table: everything is recorded.
        ("update", "1"), ("update", "2"), ("delete", "1"), ("delete", "2"), ("truncate", None),
    ]  # fmt: skip
    assert trail.changes()[-1].old in ({"rows": 0}, {"rows_estimated": 0}, {"rows_estimated": 2})
    trail.script(f'REASSIGN OWNED BY "{role}" TO CURRENT_USER; DROP OWNED BY "{role}"')


# -- Order, truncations, suspensions, roles ------------------------------------------------------


@pytest.mark.parametrize("level", ["statement", "row"])
def test_a_trigger_that_writes_the_same_row(article: Trail, level: str) -> None:
    """A trigger of the application's changes the row again: cause comes before effect."""
    article.track("article", options={"level": level})
    article.script(
        "CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "UPDATE article SET n = n + 1 WHERE n < 3; RETURN NULL; END $$;"
        f'CREATE TRIGGER "1st" AFTER UPDATE ON article FOR EACH {level} '
        "WHEN (pg_trigger_depth() < 2) EXECUTE FUNCTION again()"
    )
    article.run("INSERT INTO article VALUES (1, 'x', 0)", "UPDATE article SET n = 1")
    assert [(c.old or {}).get("n") for c in article.changes()] == [None, 0, 1, 2]
    assert [c.changed["n"] for c in article.changes()] == [0, 1, 2, 3]


def test_a_second_truncation_in_one_statement(trail: Trail) -> None:
    """A function truncates the parent, fills a partition, and truncates that one."""
    trail.script(
        "CREATE TABLE log (id int PRIMARY KEY) PARTITION BY RANGE (id);"
        "CREATE TABLE log_1 PARTITION OF log FOR VALUES FROM (0) TO (100);"
    )
    trail.track("log")
    trail.script(
        "CREATE FUNCTION twice() RETURNS void LANGUAGE plpgsql AS $$ BEGIN "
        "TRUNCATE log; INSERT INTO log VALUES (1), (2); TRUNCATE log_1; END $$"
    )
    trail.run("SELECT twice()")
    assert [(c.verb, (c.old or {}).get("rows")) for c in trail.changes()] == [
        ("truncate", 0), ("insert", None), ("insert", None), ("truncate", 2),
    ]  # fmt: skip


def test_a_second_truncation_that_nothing_recorded_precedes(trail: Trail) -> None:
    """The same where inserts are not recorded."""
    trail.script(
        "CREATE TABLE log (id int PRIMARY KEY) PARTITION BY RANGE (id);"
        "CREATE TABLE log_1 PARTITION OF log FOR VALUES FROM (0) TO (100);"
    )
    trail.track("log", options={"on": ["delete", "truncate"]})
    trail.script("TRUNCATE log; INSERT INTO log VALUES (1), (2); TRUNCATE log_1")
    assert [c.old for c in trail.changes()] == [{"rows": 0}, {"rows": 2}]


def test_a_partition_that_is_not_tracked_yet_is_truncated(trail: Trail) -> None:
    """A partition that was attached later records nothing itself: so its parent does."""
    trail.run("CREATE TABLE log (id int PRIMARY KEY) PARTITION BY RANGE (id)")
    trail.track("log")
    trail.run(
        "CREATE TABLE log_1 PARTITION OF log FOR VALUES FROM (0) TO (100)",
        "INSERT INTO log VALUES (1), (2)",
        "TRUNCATE log",
    )
    assert [c.old for c in trail.changes() if c.verb == "truncate"] == [{"rows": 2}]


def test_a_trigger_that_writes_before_a_truncation(article: Trail) -> None:
    """A BEFORE TRUNCATE trigger of the application's inserts a row, which is truncated too."""
    article.script(
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "INSERT INTO article VALUES (7, 'x', 1); RETURN NULL; END $$;"
        "CREATE TRIGGER z BEFORE TRUNCATE ON article EXECUTE FUNCTION f()"
    )
    article.run("TRUNCATE article")
    assert [(c.verb, (c.old or {}).get("rows")) for c in article.changes()] == [
        ("insert", None), ("truncate", 1),
    ]  # fmt: skip


def test_a_suspension_that_is_kept_from_its_end(article: Trail) -> None:
    """The setting that names the open suspensions is emptied before resume(), and put back after."""
    with article.engine.begin() as connection:
        suspension = connection.scalar(sa.text("SELECT audit.suspend('job')"))
        stack = connection.scalar(sa.text("SELECT current_setting('audit_app.suspension')"))
        setting = sa.text("SELECT set_config('audit_app.suspension', :value, true)")
        connection.execute(setting, {"value": ""})
        connection.execute(sa.text("SELECT audit.resume(:id)"), {"id": suspension})
        connection.execute(setting, {"value": stack})
        connection.exec_driver_sql("INSERT INTO article VALUES (1, 'x', 1)")
    assert [c.verb for c in article.changes()] == ["suspend", "resume", "insert"]


def test_a_role_taken_on_in_mid_transaction(article: Trail, role: str) -> None:
    """SET ROLE after the first write: the later ones stand under the later role."""
    article.script(f'GRANT ALL ON article TO "{role}"')
    with article.engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO article VALUES (1, 'x', 1)")
        connection.exec_driver_sql(f'SET LOCAL ROLE "{role}"')
        connection.exec_driver_sql("INSERT INTO article VALUES (2, 'x', 1)")
    assert [row.role_name for row in article.transactions()] == ["postgres", role]
    article.script(f'DROP OWNED BY "{role}"')


def test_a_security_definer_function_of_another_role(
    article: Trail, mallory: Trail, role: str
) -> None:
    """Somebody else's statement runs a function that writes with its owner's rights."""
    mallory.script(
        "CREATE TABLE inbox (id int); GRANT INSERT ON inbox TO PUBLIC;"
        "CREATE FUNCTION t() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN "
        "INSERT INTO public.article VALUES (666, current_user, 1); RETURN NEW; END $$;"
        "CREATE TRIGGER t BEFORE INSERT ON inbox FOR EACH ROW EXECUTE FUNCTION t()"
    )
    article.run("INSERT INTO inbox VALUES (1)")
    (row,) = article.transactions()
    assert (row.session_user_name, row.role_name) == ("postgres", role)


def test_an_index_expression_that_writes(article: Trail, mallory: Trail, role: str) -> None:
    """ANALYZE, by an administrator or by autovacuum, evaluates a function of the table's owner."""
    mallory.script(
        "CREATE TABLE bait (id int); INSERT INTO bait SELECT generate_series(1, 100);"
        "CREATE FUNCTION really() RETURNS int LANGUAGE plpgsql AS $$ BEGIN "
        "IF session_user = 'postgres' AND NOT EXISTS (SELECT FROM public.article WHERE id = 666) "
        "THEN INSERT INTO public.article VALUES (666, current_user, 1); END IF; RETURN 1; END $$;"
        "CREATE FUNCTION f(i int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN "
        "PERFORM public.really(); RETURN i; END $$; CREATE INDEX ON bait (f(id))"
    )
    with sa.create_engine(article.url, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.exec_driver_sql("ANALYZE bait")
    (row,) = article.transactions()
    assert (row.session_user_name, row.role_name) == ("postgres", role)


def test_a_suspension_after_another_roles_write(article: Trail, role: str) -> None:
    """Suspending is recorded under the role that does it, not under the last writer."""
    article.script(
        f'GRANT ALL ON article TO "{role}"; GRANT USAGE ON SCHEMA audit TO "{role}";'
        f'GRANT EXECUTE ON FUNCTION audit.suspend(text) TO "{role}"'
    )
    with article.engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO article VALUES (1, 'x', 1)")
        connection.exec_driver_sql(f'SET LOCAL ROLE "{role}"')
        connection.exec_driver_sql("SELECT audit.suspend('why')")
    assert [row.role_name for row in article.transactions()] == ["postgres", role]
    article.script(f'DROP OWNED BY "{role}"')


@pytest.mark.parametrize(
    "memo",
    ["(0,1) ", "(0,2) ", "(0,0) ", "(999999999,9999) ", "(4294967295,1) ", "(0,1)", "(x,1) "],
)
def test_a_memo_that_names_another_place(article: Trail, mallory: Trail, memo: str) -> None:
    """The setting that saves a search names another's row, or a place where nothing is."""
    with article.logger.context(actor_id="ada"):
        article.run("INSERT INTO article VALUES (1, 'hers', 1)")
    raw = sa.create_engine(mallory.url, poolclass=sa.NullPool)  # sends no context of ours
    with raw.begin() as connection:
        connection.execute(
            sa.text("SELECT set_config('audit_app.transaction', :memo, false)"), {"memo": memo}
        )
        connection.exec_driver_sql("INSERT INTO article VALUES (2, 'his', 1)")
    assert [c.actor for c in article.changes()] == ["ada", None]


def test_serializable_writers_do_not_disturb_each_other(article: Trail) -> None:
    """SERIALIZABLE transactions write different tables at the same time, one as two actors."""
    article.create("CREATE TABLE other (id int PRIMARY KEY)", "other")
    engine = article.engine.execution_options(isolation_level="SERIALIZABLE")
    with engine.connect() as one, engine.connect() as two:
        for connection, table, actor, number in (
            (one, "article", "ada", 1), (one, "article", "ada", 2),
            (two, "other", "bob", 1), (two, "other", "bob", 2),
            (one, "article", "eve", 3), (two, "other", "bob", 3),
        ):  # fmt: skip
            with article.logger.context(actor_id=actor):
                connection.exec_driver_sql(f"INSERT INTO {table} (id) VALUES ({number})")
        one.commit()
        two.commit()
    assert len(article.changes()) == 6
    assert [t.actor_id for t in article.transactions()] == ["ada", "bob", "eve"]


def test_serializable_writers_beside_a_forged_suspension(
    article: Trail, mallory: Trail, role: str
) -> None:
    """A role fills the setting of the suspensions; another's transaction must not fail by that."""
    article.create("CREATE TABLE other (id int PRIMARY KEY)", "other")
    article.run("INSERT INTO other VALUES (1)")
    level = {"isolation_level": "SERIALIZABLE"}
    raw = sa.create_engine(mallory.url, poolclass=sa.NullPool).execution_options(**level)
    with article.engine.execution_options(**level).connect() as one, raw.connect() as two:
        one.exec_driver_sql("SELECT count(*) FROM audit.activity")  # as a report would
        two.exec_driver_sql("SET LOCAL audit_app.suspension = '1(0,1)'")
        two.exec_driver_sql("INSERT INTO article VALUES (1, 'x', 1)")
        one.exec_driver_sql("TRUNCATE other")
        two.commit()
        one.commit()
    assert [c.verb for c in article.changes(table="other")] == ["insert", "truncate"]


def test_serializable_truncations_of_two_tables(article: Trail) -> None:
    """Two SERIALIZABLE transactions truncate different tables at the same time."""
    article.create("CREATE TABLE other (id int PRIMARY KEY)", "other")
    engine = article.engine.execution_options(isolation_level="SERIALIZABLE")
    with engine.connect() as one, engine.connect() as two:
        one.exec_driver_sql("TRUNCATE article")
        two.exec_driver_sql("TRUNCATE other")
        one.commit()
        two.commit()
    assert [c.verb for c in article.changes()] == ["truncate"] * 2


def test_a_context_that_outlives_its_transaction(article: Trail) -> None:
    """Somebody set the context for the session by hand; the connection went back to the pool."""
    with article.engine.connect() as connection:
        connection.exec_driver_sql(
            "SELECT set_config('audit_app.context', '{\"actor_id\": \"ada\"}', false)"
        )
        connection.commit()
        connection.exec_driver_sql("INSERT INTO article VALUES (1, 'x', 1)")
        connection.commit()
    assert [c.actor for c in article.changes()] == [None]


def test_a_context_of_a_gigantic_size(article: Trail, mallory: Trail) -> None:
    """A context of 50 MB is taken for the garbage that it is, and not stored."""
    raw = sa.create_engine(mallory.url, poolclass=sa.NullPool)
    document = json.dumps({"metadata": {"x": "y" * 50_000_000}})
    with raw.begin() as connection:
        connection.execute(
            sa.text("SELECT set_config('audit_app.context', :d, true)"), {"d": document}
        )
        connection.exec_driver_sql("INSERT INTO article VALUES (1, 'x', 1)")
    (row,) = article.transactions()
    assert len(row.meta["invalid_context"]) == 1000


# -- The statement's text ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT pg_catalog.set_config('audit_app.context', '', true);\nDELETE FROM article;\n"
        "INSERT INTO article VALUES (1, 'x', 1)",
        "SELECT pg_catalog.set_config('audit_app.context', (SELECT ''), true);\n"
        "INSERT INTO article VALUES (1, 'x', 1)",
        "/*" + "-" * 200_000 + "*/ INSERT INTO article VALUES (1, 'x', 1)",
    ],
)
def test_a_statement_that_hides(article: Trail, statement: str) -> None:
    """A statement that looks like the context's own, or is pushed out by a long comment."""
    article.track("article", options={"query_text": True})
    raw = sa.create_engine(article.url, poolclass=sa.NullPool)
    with raw.begin() as connection:
        connection.exec_driver_sql(statement)
    text = article.value("SELECT query_text FROM audit.activity WHERE verb = 'insert'")
    assert text.endswith("INSERT INTO article VALUES (1, 'x', 1)")
    if "DELETE" in statement:
        assert "DELETE FROM article" in text
    if "(SELECT" in statement:
        assert text == statement
    assert len(text) <= 100_100


# -- Keys ----------------------------------------------------------------------------------------


def test_a_number_longer_than_an_index_entry(trail: Trail) -> None:
    """A numeric key of 20,000 digits that do not compress."""
    trail.create("CREATE TABLE thing (id numeric PRIMARY KEY, v int)", "thing")
    # The table's own index cannot hold it either: so it is not one.
    trail.script("ALTER TABLE thing DROP CONSTRAINT thing_pkey")
    trail.script(
        "INSERT INTO thing SELECT CAST(string_agg(CAST(CAST(random() * 8 AS int) + 1 AS text), '') "
        "AS numeric), 1 FROM generate_series(1, 20000)"
    )
    trail.run("UPDATE thing SET v = 2")
    assert [c.verb for c in trail.changes()] == ["insert", "update"]


def test_a_key_that_changes_into_an_equal_one(trail: Trail) -> None:
    """'k' becomes 'K' in a key whose collation calls them equal: the history goes on under both."""
    try:
        trail.run(
            "CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', "
            "deterministic = false)"
        )
    except sa.exc.NotSupportedError:
        pytest.skip("this server was built without ICU; others of the matrix have it")
    trail.create("CREATE TABLE thing (id text COLLATE nocase PRIMARY KEY, v int)", "thing")
    trail.run("INSERT INTO thing VALUES ('k', 1)", "UPDATE thing SET id = 'K'")
    assert trail.value("SELECT new_object_id FROM audit.activity WHERE verb = 'update'") == "K"


def test_two_sessions_share_nothing(article: Trail) -> None:
    """Two sessions write at once, each under its own actor, through one logger."""
    logger: AuditLogger = article.logger
    barrier = threading.Barrier(2)

    def write(actor: str, first: int) -> None:
        with logger.context(actor_id=actor), article.engine.begin() as connection:
            for number in range(first, first + 5):
                barrier.wait(10)
                connection.exec_driver_sql(f"INSERT INTO article VALUES ({number}, 'x', 1)")

    threads = [threading.Thread(target=write, args=(a, n)) for a, n in (("ada", 10), ("bob", 20))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert {(c.actor, (c.object_id or "")[0]) for c in article.changes()} == {
        ("ada", "1"), ("bob", "2"),
    }  # fmt: skip
