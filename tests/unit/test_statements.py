"""What a statement's text says about its safety."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reaper.client.lexer import MYSQL, POSTGRES, Doubt, lex
from reaper.client.statements import (
    controls_transaction,
    ends_transaction,
    first_word,
    is_atomic,
    keeps_transaction,
    kind,
    listens,
    only_reads,
)

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
    ("word", "expected"),
    [("CALL", False), ("DO", False), ("?", False), ("SELECT", True), ("INSERT", True)],
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


# Where the two engines read one text differently, or where a text does not say how it is read.
TRICKY = [
    # PostgreSQL's comments nest; MySQL's do not.
    ("/* /* */ SELECT 1 */ DELETE FROM t", False, False),
    ("/* /* */ SELECT 1", True, False),
    ("/* /* */ */ SELECT 1", False, True),
    ("SELECT 1 /* /* */ INTO t */", False, True),
    ("/*/* */*/ SELECT 1", False, True),
    ("/*/ SELECT 1 */ DELETE FROM t", False, False),
    ("/***/ SELECT 1", True, True),
    ("SELECT 1 //* a */ 1", True, True),
    ("WITH a AS (SELECT 1) /* /* */ DELETE FROM t -- */", False, True),
    # Without an end.
    ("SELECT 1 /* DELETE", False, False),
    ("/* SELECT 1", False, False),
    ("SELECT 'a", False, False),
    ('SELECT "a', False, False),
    ("SELECT `a", False, True),
    ("SELECT $$a", False, False),
    ("SELECT 1 */ 2", False, False),
    ("SELECT 1 */* a */ 2", True, True),
    # Run by MySQL or by MariaDB.
    ("SELECT 1 /*! INTO @a */", False, False),
    ("SELECT 1 /*!50000 , 2 */", False, False),
    ("SELECT 1 /*M! , 2 */", False, False),
    ("/*M!100000 DELETE FROM t */", False, False),
    ("SELECT '/*! a */'", True, True),
    ("SELECT 1 -- /*! a */", True, True),
    # Only the first of them may be a comment's beginning.
    ("SELECT 1 --- 2\n", True, True),
    ("SELECT 1--\x01 2\n", True, True),
    ("SELECT 1--\xa02\n", False, True),
    ("SELECT 1 -- a\r INTO t", True, False),
    # A hint's grammar is not the lexer's.
    ("SELECT /*+ MAX_EXECUTION_TIME(5) */ 1", True, True),
    ("SELECT /*+ a(`*/ INTO @a`) */ 1", False, False),
    ("SELECT /*+ a(`b`) */ 1", False, True),
    # A number or a parameter ends where the version says.
    ("SELECT 1$$a$$", False, False),
    ("SELECT $1$$a$$", False, False),
    ("SELECT 1e'a'", True, False),
    ("SELECT 1INTO t", False, False),
    ("SELECT 1.5INTO t", False, False),
    ("SELECT 1e5INTO t", False, False),
    ("SELECT a$$ FROM t", True, True),
    ("SELECT $a$ FROM t", False, False),
    ("SELECT 'a'$$b$$", False, True),
    ("SELECT $$a$$$$b$$", False, True),
    ("SELECT 1 AS a\xa0$$ INTO t -- $$", False, False),
    # A backslash escapes in '', in "" as well, or nowhere.
    (r"SELECT 1 AS '\'' INTO OUTFILE 'a' -- '", False, False),
    (r'SELECT "\" INTO OUTFILE "a\""', False, False),
    (r"SELECT E'\''", True, True),
    (r"SELECT E'a''\' INTO t -- '", False, True),
    (r"SELECT B'\' INTO t -- '", False, False),
    (r"SELECT '\' /*! , 2 */ --'", False, False),
    # A literal goes on behind a line's end, by the rules it began with.
    ("SELECT E'a'\n'\\' INTO t -- '", False, True),
    ("SELECT E'a' -- it's\n '\\' INTO t -- '", False, True),
    ("SELECT E'a' '\\' INTO t -- '", False, False),
    ("SELECT 1 \\", True, False),
    ("SELECT 1\0 INTO t", False, False),
    ("SELECT 1\0", False, False),
    # One statement only, whatever surrounds it.
    (";; SELECT 1; ;", True, True),
    ("SELECT 1; -- a", True, True),
    ("SELECT 1; SELECT 2", False, False),
    ("# a\nSELECT 1", True, False),
    ("'a' SELECT 1", False, False),
    ("WITH a AS (SELECT 1) SELECT 1 FOR\n NO KEY  UPDATE", True, True),
    # UPDATE may follow a name, but no name is FOR.
    ("WITH a AS (SELECT 1) SEARCH DEPTH FIRST BY b SET key UPDATE t SET b = 1", False, False),
    ("WITH a AS (SELECT 1) SELECT 1 AS before UPDATE", False, False),
]


@pytest.mark.parametrize(("sql", "on_mysql", "on_postgres"), TRICKY)
def test_what_is_not_certain_is_no_read(sql: str, on_mysql: bool, on_postgres: bool) -> None:
    """Each engine's own comments and quotes count, and a text that may be read otherwise is no
    read.
    """
    assert (only_reads(sql, True), only_reads(sql, False)) == (on_mysql, on_postgres)


@pytest.mark.parametrize(
    ("sql", "word"),
    [
        ("/* /* */ SELECT 1 */ DELETE FROM t", "?"),
        ("/* /* */ SELECT 1 */ SELECT 2", "SELECT"),
        ("# a\nCALL pay()", "CALL"),
        ("/*! CALL pay() */ SELECT 1", "?"),
        ("/* never closed", "?"),
        ("-- a\rSELECT 1\nDELETE FROM t", "?"),
        ("\f\v;(\nselect 1", "SELECT"),
    ],
)
def test_kind_is_the_same_on_either_engine(sql: str, word: str) -> None:
    """A first word that depends on who reads it is not shown, and is taken for a procedure's."""
    assert kind(sql) == word
    assert first_word(sql) == word.strip("?")


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT ';LISTEN a'", False),
        ("SELECT $$; LISTEN a$$", False),
        ("SELECT 1; /* /* */ */ listen a", True),
        ('SELECT "a;" ; LISTEN b', True),
        ("SELECT 'cut off; LISTEN a", False),
        (r"SELECT '\'; LISTEN a; --'", True),
        (r"SELECT '\''; LISTEN a", True),
        ("UNLISTEN/* a */ *", False),
        ("UNLISTEN a", True),
        ("SELECT 1", False),
    ],
)
def test_listens(sql: str, expected: bool) -> None:
    """A LISTEN within a literal is none, nor is what the cut end of a long text leaves open."""
    assert listens(sql) is expected


@pytest.mark.parametrize(
    ("sql", "on_mysql", "on_postgres"),
    [
        ("# a\nCOMMIT", "COMMIT", ""),
        ("/* /* */ COMMIT */ SELECT 1", "COMMIT", ""),
        ("SELECT 'a;\\'; COMMIT; --'", "", "COMMIT"),
        ("SELECT 1; COMMIT", "", "COMMIT"),
        ("SELECT $$; COMMIT$$", "", ""),
        ("START SLAVE", "", ""),
        ("START  TRANSACTION", "START", "START"),
        ("start\n slave", "", ""),
        ("START TRANSACTIONS", "", ""),
        ("begin  not\n atomic SELECT 1; END", "", "END"),
        ("BEGIN NOT ATOMICALLY", "BEGIN", "BEGIN"),
        ("BEGIN ATOMIC", "BEGIN", "BEGIN"),
        ("xa START 'a'", "XA", ""),
        ("XANADU", "", ""),
        # MySQL commits, and what it begins is over at once.
        ("CREATE TABLE t (a int)", "", ""),
    ],
)
def test_controls_transaction(sql: str, on_mysql: str, on_postgres: str) -> None:
    """The statements of a text are those that its engine would find."""
    found = controls_transaction(sql, is_mysql=True), controls_transaction(sql, is_mysql=False)
    assert found == (on_mysql, on_postgres)


@pytest.mark.parametrize(
    ("sql", "word"),
    [
        ("SELECT 1; COMMIT", "COMMIT"),
        ("SET autocommit = 1", "SET autocommit"),
        ("PREPARE TRANSACTION 'a'", "PREPARE TRANSACTION"),
        ("", ""),
        # A routine's body is no statement of the text's; whole words only.
        ("CREATE FUNCTION f() begin\n atomic SELECT 1; END", ""),
        ("CREATE FUNCTION f() BEGIN ATOMIC SELECT 1; END", ""),
        ("SELECT a_BEGIN ATOMIC; COMMIT", "COMMIT"),
        ("SELECT BEGIN ATOMICS; COMMIT", "COMMIT"),
        ("SELECT BEGIN; COMMIT", "COMMIT"),
        ("SELECT ATOMIC; COMMIT", "COMMIT"),
    ],
)
def test_the_word_that_ends_a_transaction(sql: str, word: str) -> None:
    """On PostgreSQL each statement of a text counts, and is told by its word."""
    assert ends_transaction(sql, is_mysql=False) == word


@pytest.mark.parametrize(
    "word",
    [
        "SELECT", "INSERT", "UPDATE", "DELETE", "REPLACE", "WITH", "VALUES", "TABLE", "SHOW",
        "EXPLAIN", "DESCRIBE", "DESC", "USE", "SAVEPOINT", "RELEASE", "ROLLBACK", "DECLARE",
        "FETCH", "MERGE",
    ],
)  # fmt: skip
def test_what_cannot_commit(word: str) -> None:
    """None of these ends a transaction by itself, nor by a function or a trigger that it calls."""
    assert keeps_transaction(f"{word} a", is_mysql=True)


@pytest.mark.parametrize(
    ("sql", "on_mysql", "on_postgres"),
    [
        ("INSERT INTO t VALUES (1);", True, True),
        (r"SELECT 'a\'; b'", False, False),
        (r"INSERT INTO t VALUES ('it\'s')", True, True),
        ("INSERT INTO t VALUES ('/*! a */')", True, True),
        ("INSERT INTO t VALUES (1) /*! a */", False, False),
        ("SELECT 1; SELECT 2", False, False),
        ("/* /* */ CALL pay() /* */ */ SELECT 1", False, True),
        ("CALL pay()", False, False),
        ("", False, False),
    ],
)
def test_keeps_transaction(sql: str, on_mysql: bool, on_postgres: bool) -> None:
    """What may commit is not certain to leave the transaction as it is."""
    assert (keeps_transaction(sql, True), keeps_transaction(sql, False)) == (on_mysql, on_postgres)


# Pieces of which each engine is certain when its settings are the defaults.
POSTGRES_PIECES = [
    "'it''s'", r"'\'", r"E'\''", "E'a'''", '"a""b"', "$$'$$", "$a$ $b$ $a$", "/* ' */",
    "/* /* */ ' */", "-- '\n", "--'\r", r"B'\'", '"\\"',
]  # fmt: skip
MYSQL_PIECES = [
    "'it''s'", r"'\''", r"'\\'", r'"\""', "`a``b`", r"`\`", "/* ' */", "/* /* ' */", "-- '\n",
    "# '\n", "--\t`\n",
]  # fmt: skip
CODE = ["a", "1", ",", ";", "- 1", "/ 2"]


def texts(pieces: list[str]) -> st.SearchStrategy[list[str]]:
    """Pieces between which there is always some code: two literals may be one."""
    pairs = st.tuples(st.sampled_from(pieces), st.sampled_from(CODE))
    return st.lists(pairs, max_size=6).map(lambda found: [part for pair in found for part in pair])


def code_of(part: str) -> list[str]:
    """What the lexer should leave of a piece."""
    if part in CODE:
        return part.split()
    if part.startswith(("/*", "--", "#")):
        return []
    return [part[:1].strip("'\"`$") + "''"]


@pytest.mark.parametrize("is_mysql", [True, False])
@given(data=st.data())
def test_code_is_what_stands_between(is_mysql: bool, data: st.DataObject) -> None:
    """Whatever literals, names and comments a text is made of, each is found where it ends."""
    parts = data.draw(texts(MYSQL_PIECES if is_mysql else POSTGRES_PIECES))
    lexed = lex(" ".join(parts), (MYSQL if is_mysql else POSTGRES)[0])
    assert lexed.code.split() == [word for part in parts for word in code_of(part)]
    assert not lexed.doubts


@given(st.text(alphabet="ab1E$'\"`\\/*-#!M; \n\r\xa0", max_size=60), st.booleans())
def test_any_text_has_an_end(sql: str, is_mysql: bool) -> None:
    """Whatever stands behind a read: with a doubt in any reading, or without an end in all of them,
    it is none.
    """
    text = f"SELECT 1 {sql}"
    doubts = [lex(text, reading).doubts for reading in (MYSQL if is_mysql else POSTGRES)]
    if all(doubts) or any(found - {Doubt.OPEN_QUOTE} for found in doubts):
        assert not only_reads(text, is_mysql)
