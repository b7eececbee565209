"""What the test suite of serverless-mysql, the best-known such client for JavaScript, asks of it,
asked of this client.

The numbers at the end of a docstring are that suite's cases. Left out is what is particular to its
driver, mysql2: `dateStrings` and the driver's other options (an option that is not ours is
refused), `changeUser` on an open connection (an account and a database belong to a Database
object), the substituted SQL on results and errors (SQL text reaches nobody here), `SET ?` (a
mapping gives named parameters instead), and streaming. What that suite shows of transactions is in
the test_client modules beside this one.
"""

from __future__ import annotations

import datetime
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pymysql
import pytest

from lab.context import Context
from lab.servers import Server, until
from reaper.client.attempt import OutcomeUnknown
from reaper.client.database import Database
from reaper.client.deadline import RESERVE, DeadlineExceeded
from reaper.client.events import Event, EventKind
from reaper.client.fields import ConfigurationError
from reaper.client.kept import Clocks, Settings
from reaper.client.retry import Patience
from reaper.client.transaction import Transaction
from tests.live.test_client import dead, end, fresh_tables, kept, orders, session

# performance_schema means nothing to the client
LEFT_OUT = ("mysql_nops",)

INSERT = "INSERT INTO orders (what) VALUES (%s)"


@pytest.fixture
def db(server: Server) -> Iterator[Database]:
    """A database object on empty tables; no wait takes time."""
    fresh_tables(server)
    with closing(
        Database(server.dsn("app"), clocks=Clocks(sleep=lambda seconds: None))
    ) as database:
        yield database


def code(error: BaseException) -> Any:
    """MySQL's number, PostgreSQL's SQLSTATE."""
    return error.args[0] if isinstance(error, pymysql.Error) else getattr(error, "sqlstate", None)


# How it is configured


def test_a_dsn_reads_back() -> None:
    """Host, database, user and password are what was said; the port is a number. (U1, U2.)"""
    target = Database("mysql://user:password@localhost:3306/database").target
    assert (target.host, target.database, target.user, target.password) == (
        "localhost",
        "database",
        "user",
        "password",
    )
    assert target.port == 3306


@pytest.mark.parametrize(
    ("dsn", "words"),
    [
        # No host
        ("mysql://:3306/database", "has no host"),
        ("mysql://:3306", "has no host"),
        # Not a DSN at all
        ("invalid-connection-string", "'invalid-connection-string': begin it with mysql://"),
        ("invalid:hidden@string", "begin it with mysql://"),
        # A password and no host
        ("mysql://user:hidden@", "has no host"),
        # Better told now than by the server
        ("mysql://localhost:3306/", "has no user"),
        # Options of another driver
        ("mysql://user:hidden@localhost/shop?connectTimeout=10000", "unknown key 'connectTimeout'"),
        ("mysql://user:hidden@localhost/shop?dateStrings=true", "unknown key 'dateStrings'"),
    ],
)
def test_a_bad_dsn_is_told_at_once(dsn: str, words: str) -> None:
    """A ValueError where the object is made, which names the DSN and not its password.
    (U3 to U7.)
    """
    with pytest.raises(ValueError, match="DSN") as caught:
        Database(dsn)
    assert isinstance(caught.value, ConfigurationError)
    assert words in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_a_dsn_is_decoded() -> None:
    """User, password and options are percent-decoded and have types. (U7.)"""
    target = Database("mysql://us%40er:p%3Aw%2Fd@localhost/shop?tls=require").target
    assert (target.user, target.password, target.tls) == ("us@er", "p:w/d", "require")


def test_retries_are_configured(server: Server) -> None:
    """Attempts and waits are settings; one that does not exist is an error. (I6.)"""
    patience = Patience(attempts=4, first_wait=0.05, longest_wait=0.5)
    with closing(Database(server.dsn("app"), settings=Settings(patience=patience))) as db:
        assert db.query("SELECT 1 AS value") == [{"value": 1}]
    with pytest.raises(TypeError, match="backoff"):
        Patience(backoff="decorrelated-jitter")  # type: ignore[call-arg]


# What it answers


def test_from_the_environment(server: Server) -> None:
    """The first query on a database named by its DSN. (I1, I7, I9.)"""
    with closing(Database.from_env({"DATABASE_URL": server.dsn("app")})) as db:
        assert db.query("SELECT 1 AS value") == [{"value": 1}]


def test_one_after_the_other(db: Database) -> None:
    """Two queries, two answers, one session. (I2.)"""
    sql = "SELECT {} AS value, {} AS id".format(
        "%s", "connection_id()" if db.is_mysql else "pg_backend_pid()"
    )
    first, second = db.query(sql, (1,)), db.query(sql, (2,))
    assert (first[0]["value"], second[0]["value"]) == (1, 2)
    assert first[0]["id"] == second[0]["id"]


def test_five_at_once(db: Database) -> None:
    """Five threads get five answers, each its own. (I3, I13.)"""
    sleep = "SLEEP(0.05)" if db.is_mysql else "length(pg_sleep(0.05)::text)"
    answers: dict[int, Any] = {}

    def ask(number: int) -> None:
        answers[number] = db.query(f"SELECT {sleep} AS slept, %s AS number", (number,))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert answers == {number: [{"slept": 0, "number": number}] for number in range(5)}


def test_invocation_after_invocation(db: Database) -> None:
    """The session of one invocation is the next one's, and the count of reuses grows. (I4.)"""
    handler = db.handler(lambda event, context: db.query("SELECT 1"))
    handler({}, Context())
    first = session(db)
    for _ in range(3):
        handler({}, Context())
    assert session(db) == first
    assert (db.stats.connected, db.stats.reused) == (1, 3)


def test_rows_in_order(db: Database) -> None:
    """Three rows by one statement: counted, and read back in order. (I10.)"""
    assert (
        db.execute("INSERT INTO orders (what) VALUES (%s), (%s), (%s)", ("a", "b", "c")).rowcount
        == 3
    )
    assert orders(db) == ["a", "b", "c"]


def test_parameters(db: Database) -> None:
    """A date travels as the driver sends it; a mapping gives named parameters. (I23, I24.)"""
    new_year = datetime.datetime(2020, 1, 1)
    (row,) = db.query(
        "SELECT CAST(%(day)s AS date) AS day, %(word)s AS word", {"day": new_year, "word": "it's"}
    )
    assert row == {"day": new_year.date(), "word": "it's"}


def test_the_applications_own_error_is_unchanged(db: Database) -> None:
    """An unknown column is the driver's error with its number, after a single attempt, without a
    note. (I25.)
    """
    with pytest.raises((psycopg.Error, pymysql.Error)) as caught:
        db.query("SELECT no_such_column FROM orders")
    assert code(caught.value) == (1054 if db.is_mysql else "42703")
    assert getattr(caught.value, "__notes__", []) == []
    assert db.stats.retried == 0


def test_an_account_that_does_not_exist(server: Server) -> None:
    """Refused credentials keep their code, whoever asks and however often. (I18.)"""
    with closing(Database(server.dsn("nobody"))) as db:
        for _ in range(2):
            with pytest.raises((psycopg.Error, pymysql.Error), match="nobody") as caught:
                db.query("SELECT 1")
            # a refused login has no SQLSTATE in libpq
            assert code(caught.value) in (1045, 1698, None)
        assert db.stats.refused == 2


def test_another_database_lasts_as_long_as_the_session(server: Server) -> None:
    """USE (search_path) holds for the session; a new one is in the configured place, and events
    tell of it. (I14.)
    """
    told: list[Event] = []
    with closing(Database(server.dsn("app"), on_event=told.append)) as db:
        where = f"SELECT {'database()' if db.is_mysql else 'current_schema()'} AS here"
        home = db.query(where)
        db.execute(
            "USE information_schema" if db.is_mysql else "SET search_path TO information_schema"
        )
        assert db.query(where) == [{"here": "information_schema"}]
        end(server, session(db))
        dead(db)
        told.clear()
        assert db.query(where) == home
    assert [event.kind for event in told][:2] == [EventKind.DISCARDED, EventKind.CONNECTED]


# Transactions


def test_a_failed_transaction_leaves_nothing(db: Database) -> None:
    """The second statement fails: its own error, no row of the first, and no transaction left open.
    (I12.)
    """

    def work(tx: Transaction) -> None:
        tx.execute(INSERT, ("never",))
        tx.execute("INSERT INTO no_such_table (what) VALUES ('x')")

    with pytest.raises((psycopg.Error, pymysql.Error)) as caught:
        db.transaction(work)
    assert code(caught.value) == (1146 if db.is_mysql else "42P01")
    assert not kept(db).in_transaction()
    assert orders(db) == []


FLAKY = {
    "mysql": """
CREATE PROCEDURE flaky(IN the_key VARCHAR(40), IN fails INT, IN number INT)
BEGIN
  DECLARE seen INT;
  INSERT INTO calls (name, n) VALUES (the_key, 1) ON DUPLICATE KEY UPDATE n = n + 1;
  SELECT n INTO seen FROM calls WHERE name = the_key;
  IF seen <= fails THEN SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = number, MESSAGE_TEXT = 'flaky';
  END IF;
  INSERT INTO orders (what) VALUES (the_key);
END
""",
    "postgres": """
CREATE PROCEDURE flaky(the_key text, fails int, state text) LANGUAGE plpgsql AS $$
DECLARE seen int;
BEGIN
  INSERT INTO calls (name, n) VALUES (the_key, 1) ON CONFLICT (name) DO UPDATE SET n = calls.n + 1;
  SELECT n INTO seen FROM calls WHERE name = the_key;
  COMMIT;
  IF seen <= fails THEN RAISE EXCEPTION 'flaky' USING ERRCODE = state; END IF;
  INSERT INTO orders (what) VALUES (the_key);
END $$
""",
}


@pytest.fixture
def flaky(db: Database, server: Server) -> None:
    """A procedure that fails the first times it is called with a key, having committed that it was
    called.
    """
    for statement in (
        "DROP PROCEDURE IF EXISTS flaky",
        "DROP TABLE IF EXISTS calls",
        "CREATE TABLE calls (name varchar(40) PRIMARY KEY, n int NOT NULL)",
        FLAKY[server.engine],
    ):
        db.execute(statement)


DEADLOCK = {True: "1213", False: "'40P01'"}
LOCK_TIMEOUT = {True: "1205", False: "'55P03'"}


@pytest.mark.usefixtures("flaky")
def test_a_procedure_that_succeeds_at_the_third_call(db: Database) -> None:
    """Two deadlocks, then success: called three times, two retries told, one row.

    The caller allowed it. (I15.)
    """
    db.execute(f"CALL flaky('a', 2, {DEADLOCK[db.is_mysql]})", idempotent=True)
    assert db.stats.retried == 2
    assert db.query("SELECT n FROM calls") == [{"n": 3}]
    assert orders(db) == ["a"]


@pytest.mark.usefixtures("flaky")
def test_a_procedure_is_called_once(db: Database) -> None:
    """Without the caller's word: a procedure may have committed half before its error, so it is not
    repeated. (I15.)
    """
    with pytest.raises((psycopg.Error, pymysql.Error), match="flaky"):
        db.execute(f"CALL flaky('a', 2, {DEADLOCK[db.is_mysql]})")
    assert db.query("SELECT n FROM calls") == [{"n": 1}]
    assert db.stats.retried == 0


@pytest.mark.usefixtures("flaky")
def test_a_transaction_that_succeeds_in_the_third_run(db: Database) -> None:
    """In a transaction: an error that only claims to have rolled all back does not leave a half
    behind. (I15.)
    """
    runs: list[int] = []

    def work(tx: Transaction) -> None:
        runs.append(1)
        tx.execute(INSERT, ("first half",))
        if len(runs) < 3:
            tx.execute(raises(db))
        tx.execute(INSERT, ("second half",))

    db.transaction(work)
    assert orders(db) == ["first half", "second half"]
    assert db.stats.retried == 2


def raises(db: Database) -> str:
    """A statement that fails with a deadlock's code, though none has happened."""
    if db.is_mysql:
        return "SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213"
    return "DO $$ BEGIN RAISE EXCEPTION 'flaky' USING ERRCODE = '40P01'; END $$"


@pytest.mark.usefixtures("flaky")
def test_giving_up(server: Server, db: Database) -> None:
    """It never succeeds: as many calls as allowed, the last error with its code and a note, no row.
    (I16.)
    """
    patient = Settings(patience=Patience(attempts=4))
    with closing(
        Database(server.dsn("app"), settings=patient, clocks=Clocks(sleep=lambda seconds: None))
    ) as limited:
        with pytest.raises((psycopg.Error, pymysql.Error)) as caught:
            limited.execute(f"CALL flaky('b', 99, {LOCK_TIMEOUT[db.is_mysql]})", idempotent=True)
        assert code(caught.value) == (1205 if db.is_mysql else "55P03")
        assert any("4 attempts" in note for note in caught.value.__notes__)
        assert limited.stats.retried == 3
    assert db.query("SELECT n FROM calls") == [{"n": 4}]
    assert orders(db) == []


# Time


HEAVY = "items a, items b, items c, items d WHERE a.value + b.value + c.value + d.value < 0"
# a fifth of it is for the stopping, on a busy machine; the original's 50 ms would test the machine
LIMIT = 2.0


def test_a_query_out_of_time(db: Database, server: Server) -> None:
    """An error in time, the statement stopped on the server, the next one right. (I5.)"""
    db.query("SELECT 1")
    first = session(db)
    handler = db.handler(lambda event, context: db.query(f"SELECT count(*) AS n FROM {HEAVY}"))
    began = time.monotonic()
    with pytest.raises(Exception, match="time"):
        handler({}, Context(RESERVE + LIMIT))
    assert time.monotonic() - began < 5 * LIMIT
    assert_stopped(server, first)
    assert db.query("SELECT 1 AS a") == [{"a": 1}]
    assert db.stats.timed_out == 1


def test_a_write_out_of_time(db: Database, server: Server) -> None:
    """For a write: stopped on the server as well, so that nothing of it is ever there. (I5.)"""
    db.query("SELECT 1")
    first = session(db)
    write = f"INSERT INTO orders (what) SELECT coalesce(max('x'), 'once') FROM {HEAVY}"
    handler = db.handler(lambda event, context: db.execute(write))
    with pytest.raises((OutcomeUnknown, DeadlineExceeded, psycopg.Error, pymysql.Error)):
        handler({}, Context(RESERVE + LIMIT))
    assert_stopped(server, first)
    assert orders(db) == []


def assert_stopped(server: Server, session_id: int) -> None:
    """It runs no more, within a second; if it does it is ended, lest it burden the tests that
    follow.
    """
    stopped = until(lambda: server.states().get(session_id) not in ("active", "Query"), timeout=1)
    if not stopped:
        end(server, session_id)
    assert stopped, "the statement went on"
