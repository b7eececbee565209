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
        # One literal on MySQL, two statements on PostgreSQL
        (r"SELECT '\'; DELETE FROM t; --'", False),
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
    """`query` takes one read; a write that hides in a WITH, an EXPLAIN or behind a semicolon is
    none.
    """
    assert [only_reads(sql, is_mysql) for is_mysql in (True, False)] == [expected] * 2


# Writes behind what is no text, and words in texts that are none: on MySQL, on PostgreSQL, or on
# both.
HIDDEN = [
    ("both", "with a as (delete from t returning *) select * from a"),
    ("both", "WITH a AS (INSERT INTO t VALUES (1) RETURNING *) SELECT * FROM a"),
    ("both", "WITH a AS (UPDATE t SET b = 1 RETURNING *) SELECT * FROM a"),
    ("both", "WITH a AS (SELECT 1) MERGE INTO t USING a ON true WHEN MATCHED THEN DO NOTHING"),
    ("both", "WITH a AS (SELECT 1) MERGE t USING a ON true WHEN MATCHED THEN DO NOTHING"),
    ("both", "explain analyze delete from t"),
    ("both", AFTER.format("", " /*! */")),
    ("both", WITHIN.format(" /*! DELETE FROM t */")),
    ("both", WITHIN.format(" /*M! DELETE FROM t */")),
    ("both", AFTER.format(" - 1", "")),
    ("both", AFTER.format(" -(-1)", " - 1")),
    ("both", AFTER.format(" /* a */", " /* b */")),
    ("both", AFTER.format("/1", " /* b */")),
    ("both", AFTER.format(" /* it's */", " /* it's */")),
    ("both", AFTER.format(", 'a'", " WHERE b = 'c'")),
    ("both", AFTER.format(', "a"', ' WHERE b = "c"')),
    # a backslash may hide the quote, or not
    ("both", AFTER.format(r", '\''", r" WHERE b = '\''")),
    ("both", AFTER.format(r", '\'", r" WHERE b = '\'")),
    ("both", AFTER.format(r', "\""', r' WHERE b = "\""')),
    ("both", r'WITH a AS (SELECT 1 AS "\") DELETE FROM t -- "'),
    ("both", "SELECT * into copy FROM t"),
    ("both", "SELECT a FROM t INTO OUTFILE '/tmp/a'"),
    ("both", "EXPLAIN ANALYZE create TABLE copy AS SELECT 1"),
    ("both", "EXPLAIN (ANALYZE) EXECUTE later"),
    ("both", "explain analyze refresh materialized view v"),
    ("mysql", AFTER.format(", `a`", " WHERE `b` = 1")),
    ("mysql", AFTER.format(", `it's`", " WHERE `it's` = 1")),
    # a comment needs a space behind its dashes
    ("mysql", AFTER.format("--1", "")),
    ("mysql", "WITH a AS (SELECT 1) # it's\n DELETE FROM t WHERE b = 'c'"),
    ("mysql", "WITH a AS (SELECT 1) -- it's\n DELETE FROM t WHERE b = 'c'"),
    # a name may begin with a dollar
    ("mysql", "WITH a AS (SELECT 1 AS $x$) DELETE FROM t WHERE $x$ = 1"),
    ("postgres", AFTER.format(", $$a$$", " WHERE b = $$c$$")),
    ("postgres", AFTER.format(", $1", " WHERE b = $$c$$")),
    ("postgres", AFTER.format(", $$it's$$", " WHERE b = $$it's$$")),
    ("postgres", AFTER.format(", $a$it's$a$", " WHERE b = $b$it's$b$")),
    # Or hold one
    ("postgres", "WITH x$ AS (SELECT 1) DELETE FROM t WHERE b = $x$c$x$"),
    ("postgres", "WITH a AS (SELECT 1 AS a$x$) DELETE FROM t WHERE x$x$ = 1"),
    ("postgres", "WITH a AS (SELECT 1 AS a$$) DELETE FROM t WHERE x$$ = 1"),
    ("postgres", AFTER.format(r", E'\'', '\'", " WHERE b = 'c'")),
    ("postgres", AFTER.format(r", e'it\'s'", r" WHERE b = e'it\'s'")),
    # That e is the end of a word
    ("postgres", AFTER.format(r", type'\'", r" WHERE b = 'c'")),
    ("postgres", "WITH a AS (SELECT 1) --it's\n DELETE FROM t WHERE b = 'c'"),
    ("postgres", AFTER.format(" #- 1", "")),
]
NO_WRITE = [
    ("both", WITHIN.format(", 'it''s delete'")),
    ("both", WITHIN.format(", 'a\ndelete'")),
    ("both", WITHIN.format(', "it""s delete"')),
    ("both", WITHIN.format(" -- delete\n")),
    ("both", WITHIN.format(" /* 1/2\n delete */")),
    ("both", WITHIN.format(" /* a */ /* delete */")),
    ("both", "WITH inserted AS (SELECT 1 AS was_delete) SELECT * FROM inserted"),
    ("both", WITHIN.format(" FROM t FOR NO KEY UPDATE")),
    ("both", "SELECT update FROM t"),
    ("both", "SELECT converted_into, into_what FROM t"),
    ("both", "EXPLAIN SELECT created, executed, refreshed, recreate, unexecute FROM t"),
    ("both", "WITH a AS (SELECT created) SELECT refresh, execute FROM a"),
    ("both", "SELECT 1\n\t;\r\n"),
    ("mysql", WITHIN.format(", `delete`")),
    ("mysql", WITHIN.format(" # delete\n")),
    ("mysql", WITHIN.format(" --\tdelete\n")),
    ("mysql", "WITH a AS (SELECT 1) SELECT 1 --"),
    ("postgres", WITHIN.format(" --delete\n")),
    ("postgres", WITHIN.format(r", E'a delete \'b'")),
    ("postgres", WITHIN.format(r", E'\'a delete'")),
    ("postgres", WITHIN.format(", $$delete\n$$")),
    ("postgres", WITHIN.format(", $tag$ $ delete $tag$")),
    ("postgres", WITHIN.format(", $q$ q$ delete $q$")),
    ("postgres", WITHIN.format(", $q$ $qdelete$q$")),
    ("postgres", WITHIN.format(", $q$ $$ delete $q$")),
    ("postgres", WITHIN.format(", $q$a$q$, $q$delete$q$")),
]
ENGINES = {"both": (True, False), "mysql": (True,), "postgres": (False,)}


@pytest.mark.parametrize(("where", "sql"), HIDDEN)
def test_a_write_is_seen_behind_what_is_no_text(where: str, sql: str) -> None:
    """In any case of letters, whatever literal, name or comment stands before it and after it."""
    assert not any(only_reads(sql, is_mysql) for is_mysql in ENGINES[where])


@pytest.mark.parametrize(("where", "sql"), NO_WRITE)
def test_a_word_in_a_text_is_no_write(where: str, sql: str) -> None:
    """What stands in a literal, a quoted name, a comment or a longer word writes nothing."""
    assert all(only_reads(sql, is_mysql) for is_mysql in ENGINES[where])


@pytest.mark.parametrize(
    ("word", "expected"), [("CALL", False), ("DO", False), ("SELECT", True), ("INSERT", True)]
)
def test_is_atomic(word: str, expected: bool) -> None:
    """A procedure or a block may commit half and then fail."""
    assert is_atomic(word) is expected


@pytest.mark.parametrize(
    "sql",
    [
        "ALTER TABLE t ADD a int", "ANALYZE TABLE t", "CACHE INDEX t IN hot",
        "CHANGE REPLICATION SOURCE TO a = 1", "CHECK TABLE t", "CREATE INDEX i ON t (a)",
        "DROP TABLE t", "FLUSH TABLES", "GRANT SELECT ON t TO a", "INSTALL PLUGIN a SONAME 'b'",
        "LOCK TABLES t READ", "OPTIMIZE TABLE t", "RENAME TABLE t TO u", "REPAIR TABLE t",
        "RESET REPLICA", "REVOKE SELECT ON t FROM a", "STOP REPLICA", "TRUNCATE t",
        "UNINSTALL PLUGIN a", "UNLOCK TABLES",
    ],
)  # fmt: skip
def test_implicit_commits(sql: str) -> None:
    """MySQL commits before each of these; PostgreSQL runs it within the transaction, or knows none
    such.
    """
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
        ("SET LOCAL autocommit=0", True, True),
        ("SET @@local.autocommit := 0", True, True),
        ("SET sql_mode = '', autocommit = 1", True, True),
        ("SET @autocommit = 1", False, False),
        ("UPDATE t SET autocommit = 1", False, False),
        ("SET @before = @@autocommit", False, False),
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
    """What would commit the transaction it runs in is recognised, MySQL's implicit commits
    included.
    """
    assert tuple(bool(ends_transaction(sql, is_mysql)) for is_mysql in (True, False)) == (
        on_mysql,
        on_postgres,
    )


@pytest.mark.parametrize(
    ("sql", "word"),
    [
        ("select 1", "SELECT"),
        ("-- c\nUPDATE t", "UPDATE"),
        ("'x'", "?"),
        ("", "?"),
        ("(select 1)", "SELECT"),
    ],
)
def test_kind(sql: str, word: str) -> None:
    """The first word is all that is ever shown of a statement."""
    assert kind(sql) == word
