"""What a statement's text says about its safety."""

from __future__ import annotations

import pytest

from reaper.client.statements import ends_transaction, kind, only_reads


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT 1", True),
        ("  /* who */ select 1;", True),
        ("SELECT * FROM t FOR UPDATE", True),
        ("SELECT 'DELETE FROM t; x'", True),
        ("(SELECT 1) UNION (SELECT 2)", True),
        ("SHOW TABLES", True),
        ("VALUES (1)", True),
        ("EXPLAIN SELECT 1", True),
        ("EXPLAIN ANALYZE DELETE FROM t", False),
        ("WITH a AS (SELECT 1) SELECT * FROM a", True),
        ("WITH a AS (SELECT 1) SELECT * FROM a FOR UPDATE", True),
        ("WITH a AS (DELETE FROM t RETURNING *) SELECT * FROM a", False),
        ("WITH a AS (SELECT 'update') SELECT * FROM a", True),
        ("SELECT 1; DELETE FROM t", False),
        (r"SELECT '\'; DELETE FROM t; --'", False),  # one literal on MySQL, two statements on PostgreSQL
        (r"SELECT 'it\'s'", True),
        ("INSERT INTO t VALUES (1)", False),
        ("UPDATE t SET a = 1", False),
        ("CALL pay()", False),
        ("TABLE t", False),
        ("", False),
        ("/*! DELETE FROM t */", False),
    ],
)
def test_only_reads(sql: str, expected: bool) -> None:
    """`query` takes one read; a write that hides in a WITH, an EXPLAIN or behind a semicolon is none."""
    assert only_reads(sql) is expected


@pytest.mark.parametrize(
    ("sql", "on_mysql", "on_postgres"),
    [
        ("COMMIT", True, True),
        ("begin", True, True),
        ("START TRANSACTION", True, True),
        ("ROLLBACK", True, True),
        ("ROLLBACK TO SAVEPOINT a", False, False),
        ("SAVEPOINT a", False, False),
        ("SET autocommit = 1", True, True),
        ("SET @@session.autocommit = 1", True, True),
        ("SET SESSION autocommit=0", True, True),
        ("SET LOCAL statement_timeout = 1", False, False),
        ("PREPARE TRANSACTION 'a'", True, True),
        ("PREPARE a AS SELECT 1", False, False),
        ("CREATE TABLE t (a int)", True, False),
        ("CREATE TEMPORARY TABLE t (a int)", False, False),
        ("TRUNCATE t", True, False),
        ("LOCK TABLES t READ", True, False),
        ("INSERT INTO t VALUES ('COMMIT')", False, False),
    ],
)
def test_ends_transaction(sql: str, on_mysql: bool, on_postgres: bool) -> None:
    """What would commit the transaction it runs in is recognised, MySQL's implicit commits included."""
    assert (ends_transaction(sql, is_mysql=True), ends_transaction(sql, is_mysql=False)) == (on_mysql, on_postgres)


@pytest.mark.parametrize(
    ("sql", "word"),
    [("select 1", "SELECT"), ("-- c\nUPDATE t", "UPDATE"), ("'x'", "?"), ("", "?"), ("(select 1)", "SELECT")],
)
def test_kind(sql: str, word: str) -> None:
    """The first word is all that is ever shown of a statement."""
    assert kind(sql) == word
