"""The retry client on real servers: nothing noticed, nothing lost, nothing done twice."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any

import pytest

from lab.context import Context
from lab.servers import Server, free_port, start, until
from reaper.client.attempt import OutcomeUnknown
from reaper.client.database import Database
from reaper.client.deadline import DeadlineExceeded
from reaper.client.drivers.connection import Connection
from reaper.client.events import Event, EventKind
from reaper.client.fields import ConfigurationError
from reaper.client.kept import Clocks, Settings
from reaper.client.target import EngineName
from reaper.client.tokens import DDL
from reaper.client.transaction import Transaction
from tests.conftest import Servers

# performance_schema means nothing to the client
LEFT_OUT = ("mysql_nops",)


class Wall:
    """A wall clock that can be set forward, as after a freeze."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def db(server: Server, wall: Wall) -> Iterator[Database]:
    """A database object on an empty table."""
    fresh_tables(server)
    with closing(Database(server.dsn("app"), clocks=Clocks(wall=wall))) as database:
        yield database


def fresh_tables(server: Server) -> None:
    with closing(server.connect("app")) as connection:
        cursor = connection.cursor()
        cursor.execute("DROP TABLE IF EXISTS orders")
        cursor.execute("DROP TABLE IF EXISTS reaper_tokens")
        serial = "serial" if server.engine == "postgres" else "int AUTO_INCREMENT"
        cursor.execute(f"CREATE TABLE orders (id {serial} PRIMARY KEY, what varchar(40))")
        cursor.execute(DDL[EngineName(server.engine)])
        cursor.execute("UPDATE items SET value = 0")


def orders(db: Database) -> list[str]:
    return [row["what"] for row in db.query("SELECT what FROM orders ORDER BY id")]


def kept(db: Database) -> Connection:
    """The connection that it keeps."""
    connection = db._kept.connection
    assert connection is not None
    return connection


def session(db: Database) -> int:
    return kept(db).id


def end(server: Server, id_: int) -> None:
    """End a session as an administrator would, and wait until it is gone."""
    server.query(
        f"KILL {id_}" if server.engine == "mysql" else f"SELECT pg_terminate_backend({id_})"
    )
    assert until(lambda: id_ not in server.states(), timeout=10)


def dead(db: Database) -> None:
    """Wait until the server's goodbye has arrived."""
    assert until(lambda: not kept(db).is_alive(), timeout=10)


def test_rows_counts_and_keys(db: Database) -> None:
    """query gives dicts; execute gives rowcount, the new key, and RETURNING's rows where the server
    has it.
    """
    assert db.query("SELECT %s AS a, 2 AS b", (1,)) == [{"a": 1, "b": 2}]
    insert = "INSERT INTO orders (what) VALUES (%s)"
    assert db.execute(insert, ("book",)).rowcount == 1
    if db.is_mysql:
        assert db.execute(insert, ("pen",)).lastrowid == 2
    else:
        assert db.execute(insert + " RETURNING id", ("pen",)).rows == [{"id": 2}]
    assert db.execute("UPDATE orders SET what = 'x'").rowcount == 2
    assert db.query("SHOW server_version" if not db.is_mysql else "SHOW TABLES")


def test_one_connection_is_kept(db: Database) -> None:
    """Statement after statement runs on the same session."""
    db.query("SELECT 1")
    first = session(db)
    for _ in range(5):
        db.query("SELECT 1")
    assert session(db) == first
    assert (db.stats.connected, db.stats.reused) == (1, 5)


def test_query_takes_reads_only(db: Database) -> None:
    """A write does not get the retries of a read."""
    for sql in (
        "DELETE FROM orders",
        "INSERT INTO orders (what) VALUES ('x')",
        "SELECT 1; DELETE FROM orders",
    ):
        with pytest.raises(ConfigurationError, match="query"):
            db.query(sql)
    assert db.stats.connected == 0


def test_killed_while_idle_is_not_noticed(db: Database, server: Server) -> None:
    """A connection that ended while idle is replaced before the write: one row, no error,
    no retry.
    """
    db.query("SELECT 1")
    end(server, session(db))
    dead(db)
    db.execute("INSERT INTO orders (what) VALUES ('once')")
    assert orders(db) == ["once"]
    assert (db.stats.connected, db.stats.discarded, db.stats.retried) == (2, 1, 0)


def test_the_servers_own_timeout_is_not_noticed(db: Database, server: Server) -> None:
    """Ended by wait_timeout or idle_session_timeout while frozen: the next write is right, one
    reconnect.
    """
    limit = "SET SESSION wait_timeout = 1" if db.is_mysql else "SET idle_session_timeout = '1s'"
    db.execute(limit)
    dead(db)
    db.execute("INSERT INTO orders (what) VALUES ('once')")
    assert orders(db) == ["once"]
    assert db.stats.retried == 0


@pytest.mark.parametrize("seconds", [601.0, 4000.0, -10.0])
def test_an_old_connection_is_replaced_unasked(db: Database, wall: Wall, seconds: float) -> None:
    """Beyond max_idle by the wall clock, or when that has gone backwards, it is not trusted."""
    db.query("SELECT 1")
    first = session(db)
    wall.ahead += seconds
    db.query("SELECT 1")
    assert session(db) != first


def test_a_connection_in_use_is_replaced_within_its_lifetime(server: Server, wall: Wall) -> None:
    """Used again and again it is never idle for long, and yet it does not outlive max_lifetime,
    from which chance takes up to a tenth.
    """
    for chance, lives in ((0.0, 7), (0.999, 6)):
        _uses_until_replaced(server, wall, chance, lives)


def _uses_until_replaced(server: Server, wall: Wall, chance: float, lives: int) -> None:
    sessions = []
    clocks = Clocks(wall=wall, dice=lambda: chance)
    with closing(Database(server.dsn("app"), clocks=clocks)) as db:
        for _ in range(8):
            db.query("SELECT 1")
            sessions.append(session(db))
            wall.ahead += 599
    assert len(set(sessions[:lives])) == 1
    assert sessions[lives] != sessions[0]


def test_a_long_pause_costs_one_ping(db: Database, wall: Wall) -> None:
    """Beyond ping_after the connection is asked once and kept when it answers."""
    db.query("SELECT 1")
    first = session(db)
    wall.ahead += 60
    assert db.query("SELECT 1 AS a") == [{"a": 1}]
    assert session(db) == first


def test_a_hundred_invocations_cost_a_hundred_statements(db: Database, server: Server) -> None:
    """The server's own counter grows by one for each invocation of one query."""
    handler = db.handler(lambda event, context: db.query("SELECT 1"))
    handler({}, Context())
    before = questions(db)
    for _ in range(100):
        handler({}, Context())
    # And what reading the counter costs; on PostgreSQL an autovacuum may come by.
    assert 0 <= questions(db) - before - 100 <= (1 if db.is_mysql else 10)


def questions(db: Database) -> int:
    """How many statements were asked, by the server's own counter: each is a transaction on
    PostgreSQL.
    """
    if db.is_mysql:
        (row,) = db.query("SHOW SESSION STATUS LIKE 'Questions'")
        return int(row["Value"])
    db.query("SELECT pg_stat_force_next_flush()")
    (row,) = db.query("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()")
    return int(row["xact_commit"])


def test_a_transaction_is_whole(db: Database) -> None:
    """Its effects are there together, its result is the work's."""

    def work(tx: Transaction) -> int:
        tx.execute("INSERT INTO orders (what) VALUES ('a')")
        tx.execute("INSERT INTO orders (what) VALUES ('b')")
        return len(tx.query("SELECT * FROM orders"))

    assert db.transaction(work) == 2
    assert orders(db) == ["a", "b"]


def test_killed_between_statements_runs_the_whole_again(db: Database, server: Server) -> None:
    """A session killed in the middle of a transaction: both rows, from a second run of
    the whole.
    """
    runs: list[int] = []

    def work(tx: Transaction) -> None:
        runs.append(1)
        tx.execute("INSERT INTO orders (what) VALUES ('a')")
        if len(runs) == 1:
            end(server, session(db))
        tx.execute("INSERT INTO orders (what) VALUES ('b')")

    db.transaction(work)
    assert orders(db) == ["a", "b"]
    assert len(runs) == 2


def test_an_error_swallowed_by_the_work_is_never_torn(db: Database, server: Server) -> None:
    """Work that catches a lost connection and goes on does not get its second half committed
    alone.
    """
    runs: list[int] = []

    def work(tx: Transaction) -> None:
        runs.append(1)
        tx.execute("INSERT INTO orders (what) VALUES ('a')")
        if len(runs) == 1:
            end(server, session(db))
            # Careless on purpose
            with suppress(Exception):
                tx.query("SELECT 1")
            return
        tx.execute("INSERT INTO orders (what) VALUES ('b')")

    db.transaction(work)
    assert orders(db) == ["a", "b"]


@pytest.mark.own_server
def test_a_lock_timeout_that_undid_all_is_never_torn(servers: Servers) -> None:
    """With innodb_rollback_on_timeout a swallowed timeout has undone the first half: the second is
    not stored alone.
    """
    for name in ("mariadb", "mysql"):
        # Skipped, or an error, where there is none
        servers[name]
        with start(
            name, settings={"innodb_rollback_on_timeout": "ON", "innodb_lock_wait_timeout": "1"}
        ) as server:
            fresh_tables(server)
            other = server.kind.client(server.connect("app"), "app")
            other.run("BEGIN")
            other.run("UPDATE items SET value = 1 WHERE id = 1")
            runs: list[int] = []

            def work(
                tx: Transaction,
                runs: list[int] = runs,
                other: Any = other,
                # Bound here: each server has its own
            ) -> None:
                runs.append(1)
                tx.execute("INSERT INTO orders (what) VALUES ('a')")
                # Careless on purpose
                with suppress(Exception):
                    tx.execute("UPDATE items SET value = 2 WHERE id = 1")
                if len(runs) == 1:
                    other.run("ROLLBACK")
                tx.execute("INSERT INTO orders (what) VALUES ('b')")

            with closing(Database(server.dsn("app"))) as db:
                db.transaction(work)
                assert orders(db) == ["a", "b"]
            assert len(runs) == 2
            other.close()


def test_postgres_never_commits_a_failed_transaction(db: Database) -> None:
    """A statement's error caught by the work: PostgreSQL would turn COMMIT into ROLLBACK without a
    word.
    """
    if db.is_mysql:
        return

    def work(tx: Transaction) -> None:
        tx.execute("INSERT INTO orders (what) VALUES ('a')")
        # Careless on purpose
        with suppress(Exception):
            tx.execute("SELECT no_such_column FROM orders")

    with pytest.raises(Exception, match="no_such_column"):
        db.transaction(work)
    assert orders(db) == []


def test_the_works_own_error_rolls_back(db: Database) -> None:
    """An exception of the work's passes through, nothing of it is ever stored, and the next starts
    clean.
    """

    def fails(tx: Transaction) -> None:
        tx.execute("INSERT INTO orders (what) VALUES ('never')")
        raise KeyError("abort")

    with pytest.raises(KeyError, match="abort"):
        db.transaction(fails)
    db.transaction(lambda tx: tx.execute("INSERT INTO orders (what) VALUES ('second')"))
    assert orders(db) == ["second"]


def test_a_deadlock_runs_the_whole_again(db: Database, server: Server) -> None:
    """The loser of a real deadlock is run again as a whole: both changes are there, none twice."""
    other = server.kind.client(server.connect("app"), "app")
    other.run("BEGIN")
    # The server ends the cheaper one: thirty rows make the other side dear.
    other.run("INSERT INTO scratch (value) VALUES " + ", ".join(["(0)"] * 30))
    other.run("UPDATE items SET value = value + 1 WHERE id = 2")
    runs: list[int] = []

    def work(tx: Transaction) -> None:
        runs.append(1)
        tx.execute("UPDATE items SET value = value + 100 WHERE id = 1")
        if len(runs) == 1:
            other.start("UPDATE items SET value = value + 1 WHERE id = 1")
            assert until(lambda: server.states().get(other.id) in ("active", "Query"), timeout=10)
        tx.execute("UPDATE items SET value = value + 100 WHERE id = 2")
        # PostgreSQL may have chosen the other side
        if len(runs) == 1:
            other.finish()

    try:
        ender = threading.Thread(target=lambda: finish_and_commit(other, runs))
        ender.start()
        db.transaction(work)
        ender.join(timeout=30)
    finally:
        other.close()
    values = db.query("SELECT value FROM items WHERE id IN (1, 2) ORDER BY id")
    assert [row["value"] % 100 for row in values] in ([1, 1], [0, 0])
    assert [row["value"] // 100 for row in values] == [1, 1]


def finish_and_commit(other: Any, runs: list[int]) -> None:
    """End the other side's transaction once its statement has been answered."""
    until(lambda: runs, timeout=10)
    time.sleep(0.2)
    try:
        other.finish()
        other.run("COMMIT")
    except Exception:  # noqa: BLE001  it was the deadlock's victim
        return


def test_what_would_commit_is_refused(db: Database) -> None:
    """A statement that ends the transaction it runs in is refused with an explanation, and all is
    rolled back.
    """

    def work(tx: Transaction) -> None:
        tx.execute("INSERT INTO orders (what) VALUES ('never')")
        tx.execute("COMMIT")

    with pytest.raises(ConfigurationError, match="COMMIT would commit or end the transaction"):
        db.transaction(work)
    assert orders(db) == []


def test_a_token_does_it_once(db: Database) -> None:
    """The same token runs the work once; a replay returns the first result, as does another
    process's.
    """
    runs: list[int] = []

    def work(tx: Transaction) -> dict[str, int]:
        runs.append(1)
        tx.execute("INSERT INTO orders (what) VALUES ('paid')")
        return {"rows": len(runs)}

    assert db.transaction(work, token="event-1") == {"rows": 1}
    assert db.transaction(work, token="event-1") == {"rows": 1}
    assert db.transaction(work, token="event-2") == {"rows": 2}
    assert orders(db) == ["paid", "paid"]


def test_a_token_waits_for_its_twin_in_flight(db: Database, server: Server) -> None:
    """Two at once with one token: one does the work, the other waits and returns the same
    result.
    """
    inside, go_on = threading.Event(), threading.Event()
    results: list[Any] = []

    def work(tx: Transaction) -> str:
        tx.execute("INSERT INTO orders (what) VALUES ('paid')")
        inside.set()
        go_on.wait(10)
        return "done"

    with closing(Database(server.dsn("app"))) as twin:
        first = threading.Thread(
            target=lambda: results.append(db.transaction(work, token="t", name="pay"))
        )
        first.start()
        assert inside.wait(10)
        second = threading.Thread(
            target=lambda: results.append(twin.transaction(work, token="t", name="pay"))
        )
        second.start()
        go_on.set()
        first.join(20)
        second.join(20)
    assert results == ["done", "done"]
    assert orders(db) == ["paid"]


def test_nothing_else_inside_a_transaction(db: Database) -> None:
    """The database's own verbs inside its transaction would break it: refused, use tx."""

    def work(tx: Transaction) -> None:
        tx.execute("INSERT INTO orders (what) VALUES ('never')")
        db.query("SELECT 1")

    with pytest.raises(ConfigurationError, match="use what that gave you"):
        db.transaction(work)
    assert orders(db) == []


def test_a_transaction_left_open_ends_with_the_invocation(db: Database, server: Server) -> None:
    """What a handler leaves open on the driver's own connection is rolled back before the
    environment freezes.
    """

    @db.handler
    def handler(event: Any, context: Any) -> None:
        with db.connection() as connection:
            cursor = connection.cursor()
            cursor.execute("BEGIN")
            cursor.execute("INSERT INTO orders (what) VALUES ('never')")

    handler({}, Context())
    assert server.states().get(session(db)) in ("idle", "Sleep")
    assert orders(db) == []


def test_both_threads_fail_before_the_deadline(server: Server) -> None:
    """Two threads, a port that refuses: both get the driver's error in time, and none hangs."""
    scheme = "mysql" if server.engine == "mysql" else "postgresql"
    failed: list[BaseException] = []
    with closing(
        Database(f"{scheme}://app@127.0.0.1:{free_port()}/shop", settings=Settings(timeout=1.0))
    ) as nowhere:

        def ask() -> None:
            try:
                nowhere.query("SELECT 1")
            except Exception as error:  # noqa: BLE001  whatever it is, it came in time
                failed.append(error)

        threads = [threading.Thread(target=ask) for _ in range(2)]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert len(failed) == 2
    assert time.monotonic() - began < 5 * 2.0


@pytest.mark.parametrize("scheme", ["mysql", "postgresql"])
def test_a_silent_listener_costs_the_deadline_and_no_more(scheme: str, silent_port: int) -> None:
    """A listener that never answers: an error before the deadline that Lambda's context gives."""
    with closing(Database(f"{scheme}://app@127.0.0.1:{silent_port}/shop")) as silent:
        handler = silent.handler(lambda event, context: silent.query("SELECT 1"))
        began = time.monotonic()
        with pytest.raises(Exception, match="time"):
            handler({}, Context(3.0))
        assert time.monotonic() - began < 5 * 2.0


def test_events_tell_and_hide(server: Server) -> None:
    """Events carry the kind of statement, the request and the connection's age; never the SQL."""
    told: list[Event] = []
    with closing(Database(server.dsn("app"), on_event=told.append)) as db:
        db.query("SELECT 'marked'")
        end(server, session(db))
        dead(db)
        db.query("SELECT 'marked'")
    assert [event.kind for event in told] == [
        EventKind.CONNECTED,
        EventKind.DISCARDED,
        EventKind.CONNECTED,
        EventKind.DISCARDED,
    ]
    assert told[1].reason == "ended by the server"
    assert "marked" not in repr(told)


def test_a_forked_child_opens_its_own(db: Database) -> None:
    """After a fork the child does not touch the parent's session, and the parent's goes on."""
    db.query("SELECT 1")
    mine = session(db)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            db.query("SELECT 1")
            os.write(writing, str(session(db)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    theirs = int(os.read(reading, 20) or b"0")
    os.close(reading)
    os.waitpid(child, 0)
    assert theirs not in (0, mine)
    assert db.query("SELECT 1 AS a") == [{"a": 1}]
    assert session(db) == mine


def endless(db: Database) -> str:
    """A read of minutes; not SLEEP(), which MySQL ends with an answer."""
    if db.is_mysql:
        columns = "information_schema.columns"
        return (
            f"SELECT count(*) AS n FROM {columns} a CROSS JOIN {columns} b CROSS JOIN {columns} c"
        )
    return "SELECT count(*) AS n FROM generate_series(1, 20000000000)"


def running(server: Server, id_: int) -> bool:
    return server.states().get(id_) not in ("idle", "Sleep", "idle in transaction", None)


@pytest.mark.parametrize("sleeps", [False, True])
def test_the_deadline_stops_a_statement(db: Database, server: Server, sleeps: bool) -> None:
    """A read that runs out of time raises in time, is stopped on the server, and the connection
    stays.
    """
    db.query("SELECT 1")
    first = session(db)
    slow = f"SELECT {'SLEEP' if db.is_mysql else 'pg_sleep'}(5)" if sleeps else endless(db)
    began = time.monotonic()
    with pytest.raises(
        DeadlineExceeded, match=r"no time left: SELECT had no answer after 0\.\d+ s; it was stopped"
    ):
        db.handler(lambda event, context: db.query(slow))({}, Context(2.4))
    assert time.monotonic() - began < 5 * 0.4
    # It may still be cleaning up
    assert until(lambda: not running(server, first), timeout=2)
    assert db.query("SELECT 1 AS a") == [{"a": 1}]
    # An answer all the same: the stop may yet be on its way
    if not (sleeps and server.name.startswith("mysql")):
        assert session(db) == first
    assert db.stats.timed_out == 1


def slow_write(db: Database) -> str:
    # As a subquery it runs once, whatever the plan: a small table that was analyzed is scanned, row
    # by row.
    wait = "SLEEP(5) = 0" if db.is_mysql else "(SELECT pg_sleep(5)) IS NOT NULL"
    return f"UPDATE items SET value = 1 WHERE id = 1 AND {wait}"


def test_a_write_that_was_stopped_is_undone(db: Database) -> None:
    """A write that runs out of time and is stopped on the server is undone, and the error says so:
    no doubt.
    """
    db.query("SELECT 1")
    with pytest.raises(DeadlineExceeded, match=r"UPDATE .* stopped on the server and undone"):
        db.handler(lambda event, context: db.execute(slow_write(db)))({}, Context(2.4))
    assert db.query("SELECT value FROM items WHERE id = 1") == [{"value": 0}]
    assert db.stats.outcome_unknown == 0


def test_a_stopped_statement_takes_its_transaction_along(db: Database) -> None:
    """What ran before it in the transaction is rolled back, and the connection is fit for the
    next.
    """

    def work(tx: Transaction) -> None:
        tx.execute("INSERT INTO orders (what) VALUES ('never')")
        tx.execute(slow_write(db))

    db.query("SELECT 1")
    first = session(db)
    with pytest.raises(DeadlineExceeded):
        db.handler(lambda event, context: db.transaction(work))({}, Context(2.6))
    assert orders(db) == []
    assert session(db) == first


def test_a_write_that_cannot_be_stopped_is_unknown(db: Database, server: Server) -> None:
    """Behind RDS Proxy nothing can be stopped: a write without an answer in time is
    OutcomeUnknown.
    """
    with closing(Database(server.dsn("app"), settings=Settings(behind_proxy=True))) as behind:
        behind.query("SELECT 1")
        writing = session(behind)
        with pytest.raises(OutcomeUnknown, match="UPDATE") as caught:
            behind.handler(lambda event, context: behind.execute(slow_write(db)))({}, Context(2.4))
        assert isinstance(caught.value.error, DeadlineExceeded)
        assert "may still be running it" in str(caught.value.error)
        assert behind.query("SELECT 1 AS a") == [{"a": 1}]
    # Or it would write into the next test's tables
    assert until(lambda: writing not in server.states(), timeout=20)
