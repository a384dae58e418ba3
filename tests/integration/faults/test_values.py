"""Values that a careless trigger loses, changes, or fails on."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa

from tests.trail import Trail

# What its type calls equal: (type, before, after)
EQUALS = [
    ("numeric", "10", "10.0"),
    ("jsonb", "'{\"a\": 1}'", "'{\"a\": 1.0}'"),
    ("float8", "0", "'-0'"),
    ("interval", "'24 hours'", "'1 day'"),
    ("box", "'((0,0),(1,1))'", "'((5,5),(6,6))'"),
    ("json", "'{\"a\":1}'", "'{\"a\": 1}'"),
    ("point", "'(1,2)'", "'(2,1)'"),
    ("xml", "'<a/>'", "'<a></a>'"),
    ("char(3)", "'a'", "'b'"),
    ("text COLLATE nocase", "'A'", "'a'"),
    ("bit varying", "'01'", "'010'"),
    ("int[]", "'{1,2}'", "'[2:3]={1,2}'"),
    ("timetz", "'12:00+00'", "'13:00+01'"),
]


@pytest.mark.parametrize(("type_", "before", "after"), EQUALS)
def test_a_change_between_equal_values(trail: Trail, type_: str, before: str, after: str) -> None:
    """A value changes into one that its type calls equal, or its type has no "=" at all."""
    if "nocase" in type_:
        try:
            trail.run(
                "CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', "
                "deterministic = false)"
            )
        except sa.exc.NotSupportedError:
            pytest.skip("this server was built without ICU; others of the matrix have it")
    if type_ == "xml" and not trail.value(
        "SELECT count(*) FROM pg_config WHERE setting LIKE '%with-libxml%'"
    ):
        pytest.skip("this server was built without libxml; others of the matrix have it")
    trail.run(f"CREATE TABLE thing (id int PRIMARY KEY, v {type_})".replace(":", r"\:"))
    trail.track("thing")
    trail.script(f"INSERT INTO thing VALUES (1, {before})")
    trail.script(f"UPDATE thing SET v = {after}")
    trail.script("UPDATE thing SET v = v")
    insert, update = trail.changes()
    assert (insert.verb, sorted(insert.changed)) == ("insert", ["id", "v"])
    assert (update.verb, sorted(update.changed)) == ("update", ["v"])


def test_a_case_change_in_citext(trail: Trail) -> None:
    """citext 'A' becomes 'a'; the type and its operators live in public."""
    trail.script("CREATE EXTENSION citext; CREATE TABLE thing (id citext PRIMARY KEY, v citext)")
    trail.track("thing")
    trail.run("INSERT INTO thing VALUES ('K', 'A')", "UPDATE thing SET v = 'a'")
    trail.run("UPDATE thing SET id = 'k'")
    assert [(c.object_id, c.changed) for c in trail.changes()] == [
        ("K", {"id": "K", "v": "A"}),
        ("K", {"v": "a"}),
        ("K", {"id": "k"}),
    ]


STORED: list[tuple[str, str, Any]] = [
    ("json", r"""'{"a":"\u0000"}'""", r'{"a":"\u0000"}'),
    ("json", "'1e200000'", "1e200000"),
    ("json", '\'{"a": 1, "a": 2}\'', {"a": 2}),
    ("json[]", r"""ARRAY['{"a":"\u0000"}'::json]""", r'{"{\"a\":\"\\u0000\"}"}'),
    ("jsonb", "'null'", None),
    ("jsonb", "'\"text\"'", "text"),
    ("numeric", "'NaN'", "NaN"),
    ("numeric", "'-Infinity'", "-Infinity"),
    ("numeric", "1e130", 10**130),
    ("numeric", "0.10", Decimal("0.10")),
    ("float8", "'Infinity'", "Infinity"),
    ("float8", "0.1", Decimal("0.1")),
    ("float4", "3.4028235e38", 34028235 * 10**31),
    ("timestamptz", "'infinity'", "infinity"),
    ("date", "'-infinity'", "-infinity"),
    ("date", "'0044-03-15 BC'", "0044-03-15 BC"),
    ("bytea", r"'\xdeadbeef'", "\\xdeadbeef"),
    ("int4range", "'[1,5)'", "[1,5)"),
    ("datemultirange", "'{[2024-01-01,2024-02-01)}'", "{[2024-01-01,2024-02-01)}"),
    ("text[]", """ARRAY['a', NULL, 'b"c']""", ["a", None, 'b"c']),
    ("int[]", "'{{1,2},{3,4}}'", [[1, 2], [3, 4]]),
    ("inet", "'2001:db8::1'", "2001:db8::1"),
    ("uuid", "'7b1c4c1e-3c5e-4d34-9a0e-3c1a2b3c4d5e'", "7b1c4c1e-3c5e-4d34-9a0e-3c1a2b3c4d5e"),
    ("interval", "'1 mon 2 days 03:04:05.6'", "1 mon 2 days 03:04:05.6"),
    ("money", "'1234.5'", "$1,234.50"),
    ("regclass", "'pg_class'", "pg_class"),
    ("tsvector", "'a:1 b'", "'a':1 'b'"),
    ("text", "E'\\u2028\\t\"\\\\'", '\u2028\t"\\'),
    ("text", "''", ""),
    ("boolean", "false", False),
]


@pytest.mark.parametrize(("type_", "literal", "stored"), STORED)
def test_a_value_is_stored_right(trail: Trail, type_: str, literal: str, stored: Any) -> None:
    """Values that JSON has no form for, or that jsonb refuses."""
    trail.create(f"CREATE TABLE thing (id int PRIMARY KEY, v {type_})", "thing")
    trail.script(f"INSERT INTO thing VALUES (1, {literal}); UPDATE thing SET v = NULL; ")
    trail.script(f"UPDATE thing SET v = {literal}; DELETE FROM thing")
    insert, emptied, filled, delete = trail.changes()
    assert insert.changed["v"] == stored
    assert type(insert.changed["v"]) is type(stored)
    assert emptied.changed == {"v": None}
    assert filled.changed == {"v": stored}
    assert delete.old["v"] == stored


def test_types_of_the_applications_own(trail: Trail) -> None:
    """Enums, domains, composites, ranges and hstore, with json deep inside."""
    trail.script(
        "CREATE EXTENSION hstore; CREATE TYPE mood AS ENUM ('ok', 'it''s'); "
        "CREATE DOMAIN code AS text CHECK (value <> ''); CREATE DOMAIN doc AS json; "
        "CREATE TYPE pair AS (a int, d doc); CREATE TYPE span AS RANGE (subtype = float8); "
        "CREATE TABLE thing (id code PRIMARY KEY, m mood, h hstore, p pair, ps pair[], s span, d doc)"
    )
    trail.track("thing")
    trail.script(
        """INSERT INTO thing VALUES ('x', 'it''s', 'a=>1', '(1,"{""b"": 1}")', """
        """ARRAY['(2,"{""c"":""\\\\u0000""}")'::pair], '[1.5,2)', '[1]')"""
    )
    trail.script("UPDATE thing SET d = 'null', p = '(1,null)'")
    insert, update = trail.changes()
    assert insert.changed == {
        "id": "x",
        "m": "it's",
        "h": {"a": "1"},
        "p": {"a": 1, "d": {"b": 1}},
        "ps": insert.changed["ps"],
        "s": "[1.5,2)",
        "d": [1],
    }
    assert "\\u0000" in str(insert.changed["ps"])
    assert update.changed == {"d": None, "p": {"a": 1, "d": None}}


def test_generated_columns(trail: Trail) -> None:
    """A stored generated column is recorded; a virtual one, which reads NULL, is left out."""
    virtual = ", w int GENERATED ALWAYS AS (a + 1) VIRTUAL" if version(trail) >= 18 else ""
    trail.create(
        "CREATE TABLE thing (id int PRIMARY KEY, a int, "
        f"s int GENERATED ALWAYS AS (a * 2) STORED{virtual})",
        "thing",
    )
    trail.run("INSERT INTO thing VALUES (1, 5)", "UPDATE thing SET a = 6")
    assert [c.changed for c in trail.changes()] == [{"id": 1, "a": 5, "s": 10}, {"a": 6, "s": 12}]


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        ("text", "repeat(repeat('é', 1000), 150000)"),
        ("bytea", "decode(repeat(repeat('ab', 1000), 120000), 'hex')"),
    ],
)
def test_a_value_of_300_mb(trail: Trail, type_: str, value: str) -> None:
    """A value that is larger than a jsonb document can be: its digest and its beginning."""
    trail.create(f"CREATE TABLE thing (id int PRIMARY KEY, v {type_}, w text)", "thing")
    trail.run(f"INSERT INTO thing VALUES (1, {value}, 'small')")
    trail.run("UPDATE thing SET w = 'also small'", "UPDATE thing SET v = NULL", "DELETE FROM thing")
    trail.run("INSERT INTO thing VALUES (2, 'ab')", f"UPDATE thing SET v = {value}, w = 'x'")
    insert, other, emptied, delete, _, enlarged = trail.changes()
    large = insert.changed["v"]
    assert large["$audit"] == "too large"
    assert large["bytes"] == (300_000_000 if type_ == "text" else 120_000_000)
    assert len(large["sha256"]) == 64
    assert large["beginning"].startswith("éé" if type_ == "text" else "abab")
    assert insert.changed["w"] == "small"
    assert other.changed == {"w": "also small"}
    assert other.old["v"] == large
    assert emptied.changed == {"v": None}
    assert delete.old["v"] is None
    assert enlarged.changed == {"v": large, "w": "x"}


@pytest.mark.parametrize("columns", [1, 60, 1500])
def test_a_wide_table(trail: Trail, columns: int) -> None:
    """More columns than a function may have arguments."""
    names = [f"c{number}" for number in range(columns)]
    trail.create(
        f"CREATE TABLE thing (id int PRIMARY KEY, {', '.join(f'{n} int' for n in names)})", "thing"
    )
    trail.run("INSERT INTO thing (id, c0) VALUES (1, 1)", f"UPDATE thing SET {names[-1]} = 7")
    insert, update = trail.changes()
    assert insert.changed == {"id": 1, **dict.fromkeys(names), "c0": 1}
    assert update.changed == {names[-1]: 7}


SETTINGS = [
    "TimeZone = 'America/St_Johns'",
    "DateStyle = 'German'",
    "IntervalStyle = 'iso_8601'",
    "bytea_output = 'escape'",
    "extra_float_digits = -10",
    "lc_monetary = 'C'",
    "client_encoding = 'LATIN1'",
    "search_path = ''",
]


def test_the_clients_settings_do_not_change_what_is_stored(trail: Trail) -> None:
    """TimeZone, DateStyle, IntervalStyle, bytea_output, extra_float_digits, …"""
    trail.create(
        "CREATE TABLE thing (id timestamptz PRIMARY KEY, d date, r daterange, i interval, b bytea, "
        "f float8, x float4, t timetz, m money, c regclass)",
        "thing",
    )
    for setting in ["work_mem = '4MB'", *SETTINGS]:
        with trail.engine.begin() as connection:
            connection.exec_driver_sql(f"SET {setting}")
            connection.exec_driver_sql(
                "INSERT INTO public.thing VALUES ('2024-07-01 12:00+00', '2024-02-03', "
                "'[2024-02-03,2024-02-05)', '25 hours', '\\x00ff', 0.1234567890123, 0.3, '12:00+05', 1, "
                "'public.thing'); DELETE FROM public.thing"
            )
    rows = trail.value(
        "SELECT array_agg(DISTINCT concat(object_id, old_data, changed_data)) FROM audit.activity "
        "WHERE verb = 'insert'"
    )
    assert len(rows) == 1, rows
    assert trail.value("SELECT count(*) FROM audit.activity") == 2 * (1 + len(SETTINGS))


VALUES = {
    "timestamptz": "'2024-07-01 12:00+00'",
    "timestamp[]": "ARRAY['2024-07-01 12:00'::timestamp]",
    "date": "'2024-02-03'",
    "daterange": "'[2024-02-03,2024-02-05)'",
    "timetz": "'12:00+05'",
    "interval": "'25 hours'",
    "bytea": "'\\x00ff'",
    "float4": "0.3",
    "float8": "0.1234567890123",
    "point": "'(0.1234567890123, 0.3)'",
    "money": "1",
    "moment": "'2024-07-01 12:00+00'",
    "moments": "ROW('2024-07-01 12:00+00', '1 day')",
}
"""A value of each type that a setting can change the text of; the last two are made by the tests."""


@pytest.mark.parametrize("type_", VALUES)
@pytest.mark.parametrize("is_altered", [False, True], ids=["tracked so", "altered by hand"])
def test_settings_that_one_column_is_enough_for(trail: Trail, type_: str, is_altered: bool) -> None:
    """A function fixes what its columns need; by the slower way all that any column could."""
    trail.script(
        "CREATE DOMAIN moment AS timestamptz; CREATE TYPE moments AS (at timestamptz, after interval);"
        "CREATE TABLE thing (id int PRIMARY KEY, name text)"
    )
    if is_altered:
        trail.track("thing")
    trail.script(f"ALTER TABLE thing ADD v {type_}")
    if not is_altered:
        trail.track("thing")
    shown = []
    with trail.engine.begin() as connection:
        for setting in ["work_mem = '4MB'", *SETTINGS]:
            connection.exec_driver_sql(f"SET {setting}")
            before = {setting: connection.scalar(sa.text(f"SHOW {setting.split()[0]}"))}
            connection.exec_driver_sql(
                f"INSERT INTO public.thing VALUES (1, 'x', {VALUES[type_]}); "
                "UPDATE public.thing SET name = 'y'; DELETE FROM public.thing"
            )
            shown.append(
                before == {setting: connection.scalar(sa.text(f"SHOW {setting.split()[0]}"))}
            )
    rows = trail.value(
        "SELECT array_agg(DISTINCT concat(object_id, old_data, changed_data)) FROM audit.activity "
    )
    assert len(rows) == 3, rows
    assert all(shown)


def version(trail: Trail) -> int:
    return int(trail.value("SHOW server_version_num")) // 10000


@pytest.mark.parametrize("level", ["statement", "row"])
def test_a_composite_value_becomes_null(trail: Trail, level: str) -> None:
    """A composite with an empty field "is not null" neither is nor is not; ROW(NULL) is not NULL."""
    trail.run("CREATE TABLE addr (street text, zip text)")
    trail.run("CREATE TABLE thing (id int PRIMARY KEY, v addr, n int)")
    trail.track("thing", options={"level": level})
    trail.run(
        "INSERT INTO thing VALUES (1, ROW('a', NULL), 1)",
        "UPDATE thing SET v = NULL, n = 2",
        "UPDATE thing SET v = ROW(NULL, NULL)",
        "UPDATE thing SET v = NULL",
    )
    assert [c.changed for c in trail.changes()[1:]] == [
        {"v": None, "n": 2}, {"v": {"street": None, "zip": None}}, {"v": None},
    ]  # fmt: skip


def test_an_array_of_another_roles_type(article: Trail, mallory: Trail) -> None:
    """array_nulls decides what NULL means in an array's text."""
    mallory.script("CREATE TYPE mood AS ENUM ('sad', 'glad')")
    article.create("CREATE TABLE thing (id int PRIMARY KEY, v mood[])", "thing")
    with article.engine.begin() as connection:
        connection.exec_driver_sql("SET LOCAL array_nulls = off")
        connection.exec_driver_sql("INSERT INTO thing VALUES (1, ARRAY['sad', NULL]::mood[])")
    assert article.changes()[0].changed["v"] == ["sad", None]
