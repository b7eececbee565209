"""The cases that a retry client is known to fail at: full servers, moved servers, frozen servers,
rotated passwords.
"""

from __future__ import annotations

import os
import random
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest

from lab.context import Context
from lab.rotation import READ, USER, Rotated, ask_for_passwords
from lab.servers import Client, Proxy, Server, Sessions, start, until
from reaper.client.attempt import OutcomeUnknown
from reaper.client.database import Database
from reaper.client.deadline import RESERVE
from reaper.client.kept import Clocks, Settings
from reaper.client.retry import Patience
from reaper.client.transaction import Transaction
from tests.aws import Asked, aws
from tests.conftest import Servers
from tests.live.test_client import dead, end, fresh_tables, orders, session

# The fixture, for pytest to find here
__all__ = ["aws"]

# performance_schema means nothing to the client
LEFT_OUT = ("mysql_nops",)

INSERT = "INSERT INTO orders (what) VALUES ('once')"
ERRORS = (psycopg.Error, pymysql.Error)
SLOTS = 10


class Clock:
    """A monotonic clock on which sleeping takes no time."""

    def __init__(self) -> None:
        self.slept = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.slept

    def sleep(self, seconds: float) -> None:
        self.slept += seconds


@pytest.fixture(scope="module", params=["postgres16", "mariadb", "mysql"])
def small(request: pytest.FixtureRequest, servers: Servers) -> Iterator[Server]:
    """A server of our own with ten slots for the application, and a few more for whoever may use
    the reserved ones.
    """
    # Skips where it cannot be started
    like = servers[request.param]
    # MySQL's one comes on top
    reserved = 3 if like.engine == "postgres" else 0
    with start(like.name, settings={"max_connections": str(SLOTS + reserved)}) as server:
        yield server


@pytest.fixture
def db(server: Server) -> Iterator[Database]:
    fresh_tables(server)
    with closing(Database(server.dsn("app"))) as database:
        database.query("SELECT 1")
        yield database


def app(server: Server, sql: str) -> Any:
    """Run a statement as the application would, on a connection of its own."""
    with closing(server.connect("app")) as connection:
        return server.kind.client(connection, "app").run(sql)


def stored(server: Server) -> list[str]:
    return [what for (what,) in app(server, "SELECT what FROM orders ORDER BY id")]


# Full


@pytest.mark.parametrize("seed", range(4))
def test_no_slot_for_three_seconds(small: Server, seed: int) -> None:
    """Every slot is taken for three seconds: whatever the dice say, the login is tried until one is
    free.
    """
    fresh_tables(small)
    clock, dice = Clock(), random.Random(seed).random
    with Sessions(small) as sessions:
        clients = filled(SLOTS, sessions.sleeping)

        def sleep(seconds: float) -> None:
            clock.sleep(seconds)
            if clock.slept >= 3:
                leave(small, clients[:3])

        clocks, settings = Clocks(clock=clock, sleep=sleep, dice=dice), Settings(timeout=30)
        with closing(Database(small.dsn("app"), clocks=clocks, settings=settings)) as db:
            db.execute(INSERT)
            assert orders(db) == ["once"]
            assert db.stats.connected == 1


def filled(slots: int, opens: Callable[[int], list[Client]]) -> list[Client]:
    """So many sessions; those of whoever was there before may hold slots for a moment yet."""
    clients: list[Client] = []

    def one_more() -> bool:
        with suppress(*ERRORS):
            clients.extend(opens(1))
        return len(clients) == slots

    assert until(one_more, timeout=10)
    return clients


def leave(server: Server, clients: Sequence[Client]) -> None:
    """End these sessions. More than one, for those of whoever looks take a moment to be gone,
    too.
    """
    for client in clients:
        client.close()
    assert until(lambda: {client.id for client in clients}.isdisjoint(server.states()), timeout=10)


@pytest.mark.parametrize("small", ["postgres16"], indirect=True)
def test_not_even_a_reserved_slot(small: Server) -> None:
    """With the superuser's slots taken as well PostgreSQL says so in other words: waited out all
    the same.
    """
    with Sessions(small) as sessions:
        clients = [*filled(SLOTS, sessions.sleeping), *filled(3, sessions.superuser)]
        told: list[str] = []

        def sleep(seconds: float) -> None:
            told.append(refusal(small))
            leave(small, clients)

        with closing(Database(small.dsn("app"), clocks=Clocks(sleep=sleep))) as db:
            assert db.query("SELECT 1 AS a") == [{"a": 1}]
    assert "too many clients already" in told[0]


def refusal(server: Server) -> str:
    """What the server tells an ordinary client that asks for a slot; empty where it gets one."""
    try:
        server.connect("app").close()
    except ERRORS as error:
        return str(error)
    return ""


@pytest.mark.own_server
def test_an_exhausted_call_leaves_the_next_its_retries(server: Server) -> None:
    """The account's own limit, held: each call tries as often as the one before, and its error
    keeps its code.
    """
    capped = "capped" if server.engine == "postgres" else "capped@'%'"
    server.query(
        "CREATE ROLE capped LOGIN CONNECTION LIMIT 1"
        if server.engine == "postgres"
        else f"CREATE USER {capped} WITH MAX_USER_CONNECTIONS 1"
    )
    try:
        database = "postgres" if server.engine == "postgres" else ""
        with closing(server.connect("capped", database)) as holder:
            clock = Clock()
            clocks = Clocks(clock=clock, sleep=clock.sleep, dice=lambda: 0.5)
            db = Database(
                server.dsn("capped", database),
                clocks=clocks,
                settings=Settings(patience=Patience(logins=4)),
            )
            retries = []
            for _ in range(3):
                before = db.stats.retried
                with pytest.raises(ERRORS) as caught:
                    db.query("SELECT 1")
                retries.append(db.stats.retried - before)
                assert is_user_limit(caught.value)
            assert retries == [3, 3, 3]
            holder_id = server.kind.client(holder, "capped").id
        assert until(lambda: holder_id not in server.states(), timeout=10)
        assert db.query("SELECT 1 AS a") == [{"a": 1}]
        last = session(db)
        db.close()
        assert until(lambda: last not in server.states(), timeout=10)
    finally:
        server.query(f"DROP {'ROLE' if server.engine == 'postgres' else 'USER'} {capped}")


def is_user_limit(error: BaseException) -> bool:
    return (
        error.args[0] == 1226
        if isinstance(error, pymysql.Error)
        else "too many connections for role" in str(error)
    )


def test_no_sibling_is_broken(small: Server) -> None:
    """Eight idle siblings on a server that is nearly full, then full: every one of them stays what
    it was.
    """
    fresh_tables(small)
    with Sessions(small) as sessions, closing(Database(small.dsn("app"))) as db:
        siblings = filled(8, sessions.sleeping)
        handler = db.handler(lambda event, context: db.query("SELECT 1 AS a"))
        for _ in range(5):
            assert handler({}, Context()) == [{"a": 1}]
            end(small, session(db))
        more = filled(2, sessions.sleeping)
        with pytest.raises(ERRORS):
            handler({}, Context(RESERVE + 0.3))
        assert all(client.alive() for client in [*siblings, *more])
        assert {client.id for client in siblings} <= set(small.states())


# Moved


@contextmanager
def as_replica(server: Server) -> Iterator[None]:
    """Read-only as after a failover: MySQL from one moment to the next, for the sessions that are
    open, too; PostgreSQL after a restart, which ends them.
    """
    if server.engine == "mysql":
        server.query("SET GLOBAL read_only = on")
        try:
            yield
        finally:
            server.query("SET GLOBAL read_only = off")
        return
    server.halt()
    assert server.folder is not None
    (server.folder / "data" / "standby.signal").touch()
    server.launch()
    try:
        yield
    finally:
        server.query("SELECT pg_promote()")
        assert until(lambda: server.query("SELECT pg_is_in_recovery()") == [(False,)], timeout=10)


@pytest.fixture
def writer(small: Server, servers: Servers) -> Server:
    """The server that takes over from `small`."""
    found = servers[small.name]
    for server in (small, found):
        fresh_tables(server)
    return found


def test_the_address_moves_and_the_old_server_is_read_only(small: Server, writer: Server) -> None:
    """A failover that leaves the connection open: the old server refuses the write, the address
    leads to the new.
    """
    with (
        Proxy(small.host, small.port) as proxy,
        closing(Database(proxy.through(small).dsn("app"))) as db,
    ):
        db.query("SELECT 1")
        with as_replica(small):
            proxy.to(writer.host, writer.port)
            db.execute(INSERT)
            db.transaction(lambda tx: tx.execute(INSERT))
            assert (db.stats.retried, db.stats.connected) == (1 if db.is_mysql else 0, 2)
        assert (stored(small), stored(writer)) == ([], ["once", "once"])


def test_the_address_moves_in_the_middle_of_a_transaction(small: Server, writer: Server) -> None:
    """The old server becomes read-only between two statements: the whole is run again on the new
    one.
    """
    with (
        Proxy(small.host, small.port) as proxy,
        closing(Database(proxy.through(small).dsn("app"))) as db,
    ):
        runs: list[int] = []

        def work(tx: Transaction) -> None:
            runs.append(1)
            tx.execute(INSERT)
            if len(runs) == 1:
                end(small, session(db))
                proxy.to(writer.host, writer.port)
            tx.execute(INSERT)

        db.transaction(work)
    assert (stored(small), stored(writer)) == ([], ["once", "once"])


def test_the_old_server_stops_and_the_address_moves_later(small: Server, writer: Server) -> None:
    """A failover in which nobody answers for a while: connects are tried again until the new server
    is there.
    """
    clock = Clock()
    with Proxy(small.host, small.port) as proxy:

        def sleep(seconds: float) -> None:
            clock.sleep(seconds)
            if clock.slept >= 1:
                proxy.to(writer.host, writer.port)

        clocks = Clocks(clock=clock, sleep=sleep, dice=lambda: 0.5)
        with closing(Database(proxy.through(small).dsn("app"), clocks=clocks)) as db:
            db.query("SELECT 1")
            small.halt()
            try:
                db.execute(INSERT)
                assert orders(db) == ["once"]
            finally:
                small.launch()
    assert (stored(small), stored(writer)) == ([], ["once"])


# Frozen


def stop(process: int) -> None:
    """Return when each thread has stopped: until the first has seen the signal another may still
    answer.
    """
    os.kill(process, signal.SIGSTOP)

    def states() -> set[str]:
        stats = [each / "stat" for each in Path(f"/proc/{process}/task").iterdir()]
        return {stat.read_text().rpartition(")")[2].split()[0] for stat in stats}

    assert until(lambda: states() == {"T"})


@pytest.mark.own_server
def test_a_frozen_server_costs_the_deadline(db: Database, server: Server) -> None:
    """The process that answers is stopped: an error in time, nothing to wait for when letting go,
    then life.
    """
    process = session(db) if server.engine == "postgres" else server.pid
    stop(process)
    try:
        began = time.monotonic()
        with pytest.raises(Exception, match="time"):
            db.handler(lambda event, context: db.query("SELECT 1"))({}, Context(RESERVE + 0.5))
        assert time.monotonic() - began < 5 * 0.5
        began = time.monotonic()
        db.close()
        assert time.monotonic() - began < 5 * 0.05
    finally:
        os.kill(process, signal.SIGCONT)
    assert db.query("SELECT 1 AS a") == [{"a": 1}]


# Rotated


@pytest.fixture
def rotated(aws: Asked, small: Server) -> Rotated:
    ask_for_passwords(small)
    return Rotated(small)


def test_a_rotated_password_is_read_again_once(aws: Asked, small: Server, rotated: Rotated) -> None:
    """The password was rotated between two invocations: the secret is read once more, and nobody
    notices.
    """
    # MySQL's own way to check a password needs TLS.
    dsn = small.dsn(
        USER, "" if small.engine == "mysql" else "postgres", **TLS.get(small.flavour, {})
    )
    with closing(Database(dsn, secret=rotated.secret)) as db:
        handler = db.handler(lambda event, context: db.query("SELECT 1 AS a"))
        handler({}, Context())
        assert aws[READ] == 1
        rotated.rotate()
        end(small, session(db))
        dead(db)
        assert handler({}, Context()) == [{"a": 1}]
        assert aws[READ] == 2
        assert db.stats.retried == 1

        rotated.diverge()
        end(small, session(db))
        dead(db)
        with pytest.raises(ERRORS) as caught:
            handler({}, Context())
        assert USER in str(caught.value)
        assert aws[READ] == 3
        assert db.stats.retried == 2


TLS = {"mysql": {"tls": "require"}}


# Ended by the server, at other moments


@pytest.mark.parametrize("before", ["a statement", "the commit"])
def test_killed_in_a_pause_of_the_work(db: Database, server: Server, before: str) -> None:
    """A session whose end has arrived before the next statement, COMMIT included, is sent: no
    doubt, a second run.
    """
    runs: list[int] = []

    def work(tx: Transaction) -> None:
        runs.append(1)
        tx.execute(INSERT)
        if len(runs) == 1:
            end(server, session(db))
            dead(db)
        if before == "a statement":
            tx.query("SELECT 1")

    db.transaction(work)
    assert orders(db) == ["once"]
    assert len(runs) == 2


@pytest.fixture
def pg(postgres: Server) -> Iterator[Database]:
    fresh_tables(postgres)
    with closing(Database(postgres.dsn("app"))) as database:
        database.query("SELECT 1")
        yield database


@pytest.mark.parametrize("before", ["a statement", "the commit"])
def test_idle_in_transaction_session_timeout(pg: Database, before: str) -> None:
    """25P03: the server ended a transaction that waited too long: the whole is run again, once."""
    runs: list[int] = []

    def work(tx: Transaction) -> None:
        runs.append(1)
        if len(runs) == 1:
            tx.execute("SET LOCAL idle_in_transaction_session_timeout = '50ms'")
        tx.execute(INSERT)
        if len(runs) == 1:
            dead(pg)
        if before == "a statement":
            tx.query("SELECT 1")

    pg.transaction(work)
    assert orders(pg) == ["once"]
    assert (len(runs), pg.stats.retried, pg.stats.outcome_unknown) == (2, 1, 0)


def test_transaction_timeout(pg: Database, postgres: Server) -> None:
    """25P04: the server's limit on a transaction is passed on and not tried again; the next
    statement is right.
    """
    if postgres.query("SELECT current_setting('server_version_num')::int < 170000")[0][0]:
        pytest.skip("since PostgreSQL 17")

    def work(tx: Transaction) -> None:
        tx.execute(INSERT)
        tx.execute("SET LOCAL transaction_timeout = '50ms'")
        tx.query("SELECT pg_sleep(10)")

    with pytest.raises(psycopg.Error) as caught:
        pg.transaction(work)
    assert caught.value.sqlstate == "25P04"
    assert orders(pg) == []
    assert pg.stats.retried == 0


def test_a_pending_notify_is_no_death(pg: Database, postgres: Server) -> None:
    """A notification makes an idle socket readable: the connection is kept, and the notification
    with it.
    """
    pg.execute("LISTEN orders")
    first = session(pg)
    app(postgres, "NOTIFY orders")
    connection = pg._kept.connection
    assert connection is not None
    assert select.select([connection.raw.pgconn.socket], [], [], 10)[0]
    assert pg.query("SELECT 1 AS a") == [{"a": 1}]
    assert (session(pg), pg.stats.discarded) == (first, 0)
    with pg.connection() as conn:
        assert [notice.channel for notice in conn.notifies(timeout=0)] == ["orders"]


# A COMMIT that waits: its transaction is "in progress" until it has been waited for.


@pytest.fixture
def waiting_commits(postgres: Server) -> Iterator[Callable[[], None]]:
    """Commits wait for a replica that does not exist; the call ends that."""
    if not postgres.own:
        pytest.skip(f"{postgres.name} is not ours to configure")

    def to(names: str) -> None:
        postgres.query(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
        postgres.query("SELECT pg_reload_conf()")
        assert until(
            lambda: postgres.query("SHOW synchronous_standby_names") == [(names,)], timeout=10
        )

    fresh_tables(postgres)
    to("nobody")
    try:
        yield lambda: to("")
    finally:
        to("")


@pytest.mark.parametrize("way", ["killed", "cut"])
def test_a_commit_in_progress_is_waited_for(
    postgres: Server, waiting_commits: Callable[[], None], way: str
) -> None:
    """A COMMIT that the server has done but not answered yet: asked until it says so, and not run
    again.
    """
    runs: list[int] = []
    with (
        Proxy(postgres.host, postgres.port) as proxy,
        closing(Database(proxy.through(postgres).dsn("app"))) as db,
    ):
        db.query("SELECT 1")
        first = session(db)

        def work(tx: Transaction) -> str:
            runs.append(1)
            tx.execute(INSERT)
            return "done"

        def interfere() -> None:
            waits = (
                f"SELECT count(*) FROM pg_stat_activity WHERE pid = {first} AND wait_event = "
                f"'SyncRep'"
            )
            assert until(lambda: postgres.query(waits) == [(1,)], timeout=10)
            if way == "killed":
                end(postgres, first)
            else:
                proxy.cut()
                asks = (
                    "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_xact_status%' "
                    "AND usename = 'app'"
                )
                assert until(lambda: postgres.query(asks) == [(1,)], timeout=10)
                waiting_commits()

        interfering = threading.Thread(target=interfere)
        interfering.start()
        assert db.transaction(work) == "done"
        interfering.join(20)
    assert stored(postgres) == ["once"]
    assert len(runs) == 1


def test_a_commit_in_progress_at_the_deadline_is_unknown(
    postgres: Server, waiting_commits: Callable[[], None]
) -> None:
    """What the server is still doing when the time is up may come to either end."""
    with (
        Proxy(postgres.host, postgres.port) as proxy,
        closing(Database(proxy.through(postgres).dsn("app"))) as db,
    ):
        db.query("SELECT 1")
        proxy.cut_when(b"COMMIT", "during")
        handler = db.handler(
            lambda event, context: db.transaction(lambda tx: tx.execute(INSERT).rowcount)
        )
        began = time.monotonic()
        with pytest.raises(OutcomeUnknown):
            handler({}, Context(RESERVE + 0.5))
        assert time.monotonic() - began < 5 * 0.5
    waiting_commits()
    assert until(lambda: stored(postgres) == ["once"], timeout=10)
