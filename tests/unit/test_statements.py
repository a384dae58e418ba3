"""Which statements carry the context."""

from __future__ import annotations

import pytest

from audit_app.statements import ends_transaction, may_write

WRITES = """
INSERT INTO a VALUES (1)
update a set b = 1
DELETE FROM a
MERGE INTO a USING b ON true WHEN MATCHED THEN DELETE
TRUNCATE a
COPY a FROM STDIN
CALL archive()
DO $$ BEGIN END $$
EXECUTE prepared(1)
 -- a comment
 INSERT INTO a VALUES (1)
/* a comment */ (SELECT my_function())
WITH x AS (DELETE FROM a RETURNING *) SELECT * FROM x
SELECT my_function(1)
SELECT * FROM my_schema.my_function(1)
SELECT "My Function"(1)
SELECT id, touch(id) FROM a
EXPLAIN ANALYZE UPDATE a SET b = 1
SELECT 1; UPDATE a SET b = 1
BEGIN; UPDATE a SET b = 1
SELECT * FROM a FOR UPDATE
""".strip().split("\n")

READS = [
    "SELECT * FROM a WHERE b IN (1, 2) AND c = ANY (%(x)s)",
    "SELECT count(*), coalesce(max(a.b), 0) FROM a GROUP BY (a.c)",
    "SELECT CAST(a AS VARCHAR(20)), now() FROM a ORDER BY row_number() OVER (PARTITION BY b)",
    "WITH RECURSIVE t(n) AS (VALUES (1)) SELECT n FROM t",
    "SHOW server_version",
    "BEGIN",
    "SAVEPOINT x",
    "SET LOCAL a = 1",
    "CREATE TABLE a (id int)",
    "VALUES (1)",
    "-- a comment\nSELECT 1",
]


def joined() -> list[str]:
    """A comment belongs to the statement on the next line."""
    statements: list[str] = []
    for line in WRITES:
        if statements and statements[-1].splitlines()[-1].lstrip().startswith("--"):
            statements[-1] += "\n" + line
        else:
            statements.append(line)
    return statements


@pytest.mark.parametrize("statement", joined())
def test_a_statement_that_may_write(statement: str) -> None:
    assert may_write(statement)


@pytest.mark.parametrize("statement", READS)
def test_a_statement_that_only_reads(statement: str) -> None:
    # "WITH t(n)" names columns; a name with a parenthesis costs a needless setting, no more.
    assert may_write(statement) is statement.startswith("WITH")


def test_a_long_statement_is_told_without_being_remembered() -> None:
    assert may_write("INSERT INTO a VALUES " + ", ".join(["(1)"] * 5000))


@pytest.mark.parametrize("statement", ["COMMIT", " rollback to savepoint x", "/**/ END", "ABORT"])
def test_the_end_of_a_transaction(statement: str) -> None:
    assert ends_transaction(statement)


def test_not_the_end_of_a_transaction() -> None:
    assert not ends_transaction("SELECT 1")
    assert not ends_transaction("RELEASE SAVEPOINT x")
