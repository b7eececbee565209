"""What a statement's text says about its safety."""

from __future__ import annotations

import pytest

from reaper.client.statements import ends_transaction, is_atomic, kind, only_reads

# What may stand around a write, and what may hide one or look like one.
AFTER = "WITH a AS (SELECT 1{}) DELETE FROM t{}"
WITHIN = "WITH a AS (SELECT 1{}) SELECT 1"


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
    assert [only_reads(sql, is_mysql) for is_mysql in (True, False)] == [expected] * 2


@pytest.mark.parametrize(
    "sql",
    [
        "with a as (delete from t returning *) select * from a",
        "WITH a AS (INSERT INTO t VALUES (1) RETURNING *) SELECT * FROM a",
        "WITH a AS (UPDATE t SET b = 1 RETURNING *) SELECT * FROM a",
        "WITH a AS (SELECT 1) MERGE INTO t USING a ON true WHEN MATCHED THEN DO NOTHING",
        "explain analyze delete from t",
        AFTER.format("", " /*! */"),
        WITHIN.format(" /*! DELETE FROM t */"),
        AFTER.format(" - 1", ""),
        AFTER.format(" /* a */", " /* b */"),
        AFTER.format("/1", " /* b */"),
        AFTER.format(", $$a$$", " WHERE b = $$c$$"),
        AFTER.format(", $1", " WHERE b = $$c$$"),
        "WITH x$ AS (SELECT 1) DELETE FROM t WHERE b = $x$c$x$",  # a name may hold a dollar
        AFTER.format(", 'a'", " WHERE b = 'c'"),
        AFTER.format(", `a`", " WHERE `b` = 1"),
        AFTER.format(r", '\''", r" WHERE b = '\''"),  # a backslash hides the quote on MySQL
        AFTER.format(r', "\""', r' WHERE b = "\""'),
        AFTER.format("--1", ""),  # MySQL's comment needs a space behind its dashes
        "WITH a AS (SELECT 1) # it's\n DELETE FROM t WHERE b = 'c'",  # a comment on MySQL
        AFTER.format(r", E'\'', '\'", " WHERE b = 'c'"),
        WITHIN.format(" /*M! DELETE FROM t */"),
        "WITH a AS (SELECT 1 AS a$x$) DELETE FROM t WHERE x$x$ = 1",  # names, not quotes
        "WITH a AS (SELECT 1 AS $x$) DELETE FROM t WHERE $x$ = 1",  # on MySQL
        "SELECT * INTO copy FROM t",
        "SELECT a FROM t INTO OUTFILE '/tmp/a'",
        "EXPLAIN ANALYZE CREATE TABLE copy AS SELECT 1",
        "EXPLAIN (ANALYZE) EXECUTE later",
        r'WITH a AS (SELECT 1 AS "\") DELETE FROM t --"',  # and is nothing on PostgreSQL
    ],
)
def test_a_write_is_seen_behind_what_is_no_text(sql: str) -> None:
    """In any case of letters, whatever literal, name or comment stands before it and after it: on the engine that
    would run it."""
    assert not all(only_reads(sql, is_mysql) for is_mysql in (True, False))


@pytest.mark.parametrize(
    "sql",
    [
        WITHIN.format(", 'it''s delete'"),
        WITHIN.format(", 'a\ndelete'"),
        WITHIN.format(', "it""s delete"'),
        WITHIN.format(", `delete`"),
        WITHIN.format(" -- delete\n"),
        WITHIN.format(" /* 1/2\n delete */"),
        WITHIN.format(", $$delete\n$$"),
        WITHIN.format(", $tag$ $ delete $tag$"),
        WITHIN.format(", $q$ q$ delete $q$"),
        WITHIN.format(", $q$ $qdelete$q$"),
        WITHIN.format(", $q$ $$ delete $q$"),
        "WITH inserted AS (SELECT 1 AS was_delete) SELECT * FROM inserted",
        WITHIN.format(" FROM t FOR NO KEY UPDATE"),
        "SELECT update FROM t",
        "SELECT 1\n\t;\r\n",
    ],
)
def test_a_word_in_a_text_is_no_write(sql: str) -> None:
    """What stands in a literal, a quoted name, a comment or a longer word writes nothing: on the engine that knows
    these."""
    assert any(only_reads(sql, is_mysql) for is_mysql in (True, False))


@pytest.mark.parametrize(("word", "expected"), [("CALL", False), ("DO", False), ("SELECT", True), ("INSERT", True)])
def test_is_atomic(word: str, expected: bool) -> None:
    """A procedure or a block may commit half and then fail."""
    assert is_atomic(word) is expected


@pytest.mark.parametrize(
    "sql",
    [
        "ALTER TABLE t ADD a int", "ANALYZE TABLE t", "CACHE INDEX t IN hot", "CHANGE REPLICATION SOURCE TO a = 1",
        "CHECK TABLE t", "CREATE INDEX i ON t (a)", "DROP TABLE t", "FLUSH TABLES", "GRANT SELECT ON t TO a",
        "INSTALL PLUGIN a SONAME 'b'", "LOCK TABLES t READ", "OPTIMIZE TABLE t", "RENAME TABLE t TO u",
        "REPAIR TABLE t", "RESET REPLICA", "REVOKE SELECT ON t FROM a", "STOP REPLICA", "TRUNCATE t",
        "UNINSTALL PLUGIN a", "UNLOCK TABLES",
    ],
)  # fmt: skip
def test_implicit_commits(sql: str) -> None:
    """MySQL commits before each of these; PostgreSQL runs it within the transaction, or knows none such."""
    assert ends_transaction(sql, is_mysql=True)
    assert not ends_transaction(sql, is_mysql=False)


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
        ("INSERT INTO t VALUES ('COMMIT')", False, False),
        ("END", True, True),
        ("ABORT", True, True),
        ("ROLLBACK TRANSACTION", True, True),
        ("SET @@autocommit = 0", True, True),
        ("set  session\n autocommit = 0", True, True),
        ("rollback  to a", False, False),
        ("Rollback\n Work  To Savepoint a", False, False),
        ("ROLLBACK  TRANSACTION\n TO a", False, False),
        ("prepare  transaction 'a'", True, True),
        ("create  temporary table t (a int)", False, False),
        ("DROP TEMPORARY TABLE t", False, False),
        # Whole words only.
        ("SET autocommitted = 1", False, False),
        ("PREPARE transactional AS SELECT 1", False, False),
        ("ROLLBACK TOGETHER", True, True),
        ("CREATE TEMPORARYTABLE t", True, False),
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
