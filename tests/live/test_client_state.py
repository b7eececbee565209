"""What the client does with a connection that is not as it left it: whatever the server's defaults,
the user's code or a signal made of it, no write is reported that is not there afterwards.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from types import FrameType
from typing import Any

import psycopg
import pymysql
import pytest

from lab.context import Context
from lab.servers import Server
from reaper.client.database import Database
from reaper.client.fields import ConfigurationError
from reaper.client.transaction import Transaction
from tests.live.test_client import fresh_tables, orders

# performance_schema means nothing to the client
LEFT_OUT = ("mysql_nops",)

INSERT = "INSERT INTO orders (what) VALUES (%s)"
# What tries to leave its quotes, by whatever the server takes for an escape.
HOSTILE = ("' OR 1=1 -- ", "\\' OR 1=1 -- ", "\\", "\\\\'", '" OR ""="', "%s", "ä😀\n\x1a")


@pytest.fixture
def db(server: Server) -> Iterator[Database]:
    """A database object on empty tables."""
    fresh_tables(server)
    with closing(Database(server.dsn("app"))) as database:
        yield database


@contextmanager
def defaults(server: Server, **settings: str) -> Iterator[None]:
    """A server on which every new session of `app` begins with these settings, as SQL literals."""
    with closing(server.admin()) as connection:
        client = server.kind.client(connection, server.root)
        if server.engine == "postgres":
            for name, value in settings.items():
                client.run(f"ALTER ROLE app SET {name} = {value}")
            undo = ["ALTER ROLE app RESET ALL"]
        else:
            undo = []
            for name, value in settings.items():
                ((before,),) = client.run(f"SELECT @@GLOBAL.{name}")
                literal = before if isinstance(before, int) else f"'{before}'"
                undo.append(f"SET GLOBAL {name} = {literal}")
                client.run(f"SET GLOBAL {name} = {value}")
        try:
            yield
        finally:
            for statement in undo:
                client.run(statement)


def exam(db: Database, server: Server) -> None:
    """Writes that are reported are there, alone and in transactions; what failed is not."""
    handler = db.handler(lambda event, context: db.execute(INSERT, (event,)).rowcount)
    said = {what for what in HOSTILE if handler(what, Context()) == 1}

    def both(tx: Transaction) -> None:
        for half in ("first half", "second half"):
            tx.execute(INSERT, (half,))

    def fails(tx: Transaction) -> None:
        tx.execute(INSERT, ("undone",))
        raise LookupError("the work failed")

    db.transaction(both)
    with pytest.raises(LookupError):
        db.transaction(fails)
    # As somebody else, whose session has none of these defaults.
    with closing(server.connect(server.root)) as connection:
        client = server.kind.client(connection, server.root)
        kept = [row[0] for row in _all(client.run, "SELECT what FROM orders ORDER BY id")]
    assert said == set(HOSTILE)
    assert kept == [*HOSTILE, "first half", "second half"]
    for what in HOSTILE:
        found = db.query("SELECT count(*) AS n FROM orders WHERE id = -1 OR what = %s", (what,))
        assert found == [{"n": 1}], "a parameter left its quotes"


def _orders_of_any_letters(mysql: Server) -> None:
    fresh_tables(mysql)
    with closing(mysql.connect("app")) as connection:
        connection.cursor().execute("ALTER TABLE orders CONVERT TO CHARACTER SET utf8mb4")


def _all(run: Callable[[str], Any], sql: str) -> Any:
    with suppress(pymysql.Error, psycopg.Error):
        run("SET sql_select_limit = 18446744073709551615")
    return run(sql)


ON_MYSQL = {
    "autocommit off": {"autocommit": "0"},
    "autocommit off by init_connect": {"init_connect": "'SET autocommit = 0'"},
    "no backslash escapes": {"sql_mode": "'NO_BACKSLASH_ESCAPES'"},
    "no backslash escapes by init_connect": {"init_connect": "'SET sql_mode=NO_BACKSLASH_ESCAPES'"},
    "chained transactions": {"completion_type": "1"},
    "transactions that end the session": {"completion_type": "2"},
    "ANSI": {"sql_mode": "'ANSI,PIPES_AS_CONCAT'"},
    "one row": {"sql_select_limit": "1"},
    "utf16": {"character_set_server": "utf16", "collation_server": "utf16_general_ci"},
    "latin1": {"character_set_server": "latin1", "collation_server": "latin1_swedish_ci"},
    "read only transactions": {"transaction_read_only": "0", "autocommit": "0"},
}


@pytest.mark.own_server
@pytest.mark.parametrize("case", ON_MYSQL)
def test_mysql_servers_with_defaults_of_their_own(mysql: Server, case: str) -> None:
    """Whatever MySQL's or MariaDB's sessions begin with, the client's writes are what it says."""
    settings = dict(ON_MYSQL[case])
    if mysql.flavour == "mariadb":
        settings = {
            ("tx_read_only" if name == "transaction_read_only" else name): value
            for name, value in settings.items()
        }
    _orders_of_any_letters(mysql)
    with defaults(mysql, **settings), closing(Database(mysql.dsn("app"))) as db:
        exam(db, mysql)


@pytest.mark.own_server
def test_mariadb_with_oracles_mode(mysql: Server) -> None:
    """MariaDB's sql_mode=ORACLE changes what SQL means; the client's writes are what it says."""
    if mysql.flavour != "mariadb":
        pytest.skip("only MariaDB has the mode")
    _orders_of_any_letters(mysql)
    with defaults(mysql, sql_mode="'ORACLE'"), closing(Database(mysql.dsn("app"))) as db:
        exam(db, mysql)


ON_POSTGRES = {
    "latin1": {"client_encoding": "'LATIN1'"},
    "old strings": {"standard_conforming_strings": "off"},
    "serializable": {"default_transaction_isolation": "'serializable'"},
    "deferrable": {"default_transaction_deferrable": "on"},
}


@pytest.mark.own_server
@pytest.mark.parametrize("case", ON_POSTGRES)
def test_postgres_roles_with_defaults_of_their_own(postgres: Server, case: str) -> None:
    """Whatever a role's sessions begin with on PostgreSQL, the client's writes are what it says."""
    fresh_tables(postgres)
    with defaults(postgres, **ON_POSTGRES[case]), closing(Database(postgres.dsn("app"))) as db:
        exam(db, postgres)


def test_a_block_that_switched_autocommit_off(db: Database, server: Server) -> None:
    """After `with db.connection()` has switched autocommit off, later writes are kept all the
    same.
    """
    with db.connection() as connection:
        if db.is_mysql:
            connection.autocommit(False)
        else:
            connection.autocommit = False
        connection.cursor().execute(INSERT, ("in the block",))
        connection.commit()
    for what in ("one", "two", "three"):
        assert db.execute(INSERT, (what,)).rowcount == 1
    db.close()
    assert orders(db) == ["in the block", "one", "two", "three"]


def test_a_block_that_left_its_transaction_open(db: Database) -> None:
    """What a block began and did not commit is rolled back, and what comes after it is kept."""
    with db.connection() as connection:
        cursor = connection.cursor()
        cursor.execute("BEGIN")
        cursor.execute(INSERT, ("never committed",))
    db.execute(INSERT, ("kept",))
    db.close()
    assert orders(db) == ["kept"]


@pytest.mark.parametrize(
    "sql",
    [
        "BEGIN",
        "START TRANSACTION",
        "COMMIT",
        "ROLLBACK",
        "/* hm */ BEGIN",
        "SET autocommit = 0",
        "SET SESSION autocommit = OFF",
        "SET @@autocommit = 0",
    ],
)
def test_transactions_by_execute_are_refused(db: Database, sql: str) -> None:
    """BEGIN through execute() would mean nothing for the statements after it, so it is refused."""
    if "autocommit" in sql and not db.is_mysql:
        pytest.skip("PostgreSQL's server has no such setting")
    with pytest.raises(ConfigurationError, match=r"db\.transaction"):
        db.execute(sql)
    db.execute(INSERT, ("kept",))
    db.close()
    assert orders(db) == ["kept"]


@pytest.mark.parametrize(
    "sql", ["COPY items TO STDOUT", "COPY items FROM STDIN", "COPY (SELECT 1) TO STDOUT"]
)
def test_copy_through_execute(postgres: Server, sql: str) -> None:
    """A COPY that nobody reads leaves PostgreSQL's connection busy: it is not used again."""
    fresh_tables(postgres)
    with closing(Database(postgres.dsn("app"))) as db:
        with pytest.raises((psycopg.Error, ConfigurationError)):
            db.execute(sql)
        handler = db.handler(lambda event, context: db.query("SELECT 42 AS x"))
        assert [handler({}, Context()) for _ in range(3)] == [[{"x": 42}]] * 3


def test_a_copy_left_before_its_end(postgres: Server) -> None:
    """A block that leaves a COPY half read gives back a connection that is not used again."""
    fresh_tables(postgres)
    with closing(Database(postgres.dsn("app"))) as db:
        rows = "COPY (SELECT generate_series(1, 100)) TO STDOUT"
        with db.connection() as connection, connection.cursor().copy(rows) as copy:
            copy.read()
        assert db.query("SELECT 42 AS x") == [{"x": 42}]


def test_a_stream_that_outlives_its_block(postgres: Server) -> None:
    """A generator of rows that is still open keeps its connection busy: the next query has its
    own.
    """
    fresh_tables(postgres)
    with closing(Database(postgres.dsn("app"))) as db:
        with db.connection() as connection:
            rows = connection.cursor().stream("SELECT generate_series(1, 100) AS n")
            next(rows)
        assert db.query("SELECT 42 AS x") == [{"x": 42}]


class Soon(BaseException):
    """Raised by a signal handler, as functions warn themselves that their time is nearly over."""


@contextmanager
def interrupted(seconds: float, error: type[BaseException]) -> Iterator[None]:
    """A signal that raises `error` after so many seconds."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise error

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("error", [Soon, TimeoutError, RuntimeError, KeyboardInterrupt])
def test_a_signal_in_the_middle_of_a_statement(
    db: Database, server: Server, error: type[BaseException]
) -> None:
    """What a signal handler raises reaches the function, and no later statement gets the answer
    that was under way.
    """
    sleep = "SELECT SLEEP(2) AS slept" if db.is_mysql else "SELECT pg_sleep(2)::text AS slept"
    with pytest.raises(error), interrupted(0.3, error):
        db.query(sleep)
    handler = db.handler(lambda event, context: db.query("SELECT 42 AS x"))
    assert [handler({}, Context()) for _ in range(3)] == [[{"x": 42}]] * 3
    assert db.execute(INSERT, ("kept",)).rowcount == 1
    assert orders(db) == ["kept"]


# Python itself drops what is raised while a finalizer runs.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("error", [Soon, RuntimeError])
def test_signals_while_answers_are_read(
    db: Database, server: Server, error: type[BaseException]
) -> None:
    """Whenever a long answer is interrupted, the next statement gets its own rows."""
    many = (
        "SELECT 'old' AS x FROM items AS a CROSS JOIN items AS b CROSS JOIN "
        "(SELECT id FROM items WHERE id <= 5) AS c"
    )
    for at in range(1, 30):
        with suppress(error), interrupted(at / 1000, error):
            db.query(many)
        assert db.query("SELECT %s AS x", (f"new {at}",)) == [{"x": f"new {at}"}]


def test_a_commit_behind_a_statement(postgres: Server) -> None:
    """PostgreSQL takes several statements in one text: a COMMIT among them does not commit half."""
    fresh_tables(postgres)
    with closing(Database(postgres.dsn("app"))) as db:

        def work(tx: Transaction) -> None:
            tx.execute("INSERT INTO orders (what) VALUES ('half'); COMMIT")
            raise LookupError("undo")

        with pytest.raises(ConfigurationError, match="COMMIT"):
            db.transaction(work)
        assert orders(db) == []


HIDDEN = {
    "mysql": ["/*!50000 COMMIT */", "/*! COMMIT */"],
    "mariadb": [
        "/*!50000 COMMIT */",
        "/*M! COMMIT */",
        "SET STATEMENT max_statement_time = 5 FOR COMMIT",
        "EXECUTE IMMEDIATE 'COMMIT'",
    ],
    "postgres": ["DO $$ BEGIN COMMIT; END $$"],
}


def test_a_transaction_that_a_statement_ended(db: Database, server: Server) -> None:
    """Where a statement in a transaction ended it without looking like it, that is an error of its
    own, and the work is never run again: a part of it is committed.
    """
    for sql in HIDDEN[server.flavour]:
        db.execute("DELETE FROM orders")
        runs: list[int] = []

        def work(tx: Transaction, sql: str = sql, runs: list[int] = runs) -> None:
            runs.append(1)
            tx.execute(INSERT, ("committed too early",))
            tx.execute(sql)
            tx.execute(INSERT, ("after it",))

        with pytest.raises(Exception) as raised:  # noqa: PT011  its kind is looked at below
            db.transaction(work)
        assert len(runs) == 1, sql
        left = orders(db)
        assert left in ([], ["committed too early"]), (sql, raised.value)


def test_a_chained_commit_in_a_transaction(db: Database, server: Server) -> None:
    """COMMIT AND CHAIN, by a procedure, begins the next transaction at once: the status flag looks
    the same, and it is noticed all the same.
    """
    with closing(server.connect("app")) as connection:
        cursor = connection.cursor()
        cursor.execute("DROP PROCEDURE IF EXISTS chains")
        if db.is_mysql:
            cursor.execute("CREATE PROCEDURE chains() BEGIN COMMIT AND CHAIN; END")
        else:
            cursor.execute(
                "CREATE PROCEDURE chains() LANGUAGE plpgsql AS $$ BEGIN COMMIT AND CHAIN; END $$"
            )

    def work(tx: Transaction) -> None:
        tx.execute(INSERT, ("committed too early",))
        tx.execute("CALL chains()")
        raise LookupError("undo")

    # PostgreSQL refuses it itself: invalid transaction termination.
    expected: type[Exception] = psycopg.Error if not db.is_mysql else Exception
    with pytest.raises(expected) as raised:
        db.transaction(work)
    assert not isinstance(raised.value, LookupError), "nobody was told"
