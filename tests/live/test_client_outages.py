"""The retry client while the server is away, full or read-only: it waits, with jitter, and then
succeeds.
"""

from __future__ import annotations

import json
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from subprocess import PIPE
from typing import Any

import psycopg
import pymysql
import pytest

from lab.servers import Proxy, Server, free_port, processes, start, until
from reaper.client.database import Database
from reaper.client.faults import Fault
from reaper.client.kept import Clocks, Settings
from tests.live.test_client import fresh_tables, orders

# performance_schema means nothing to the client
LEFT_OUT = ("mysql_nops",)

INSERT = "INSERT INTO orders (what) VALUES ('once')"


def patient(server: Server, relief: Callable[[], object], after: int = 3) -> Database:
    """A database whose third wait brings relief; nobody really sleeps."""
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == after:
            relief()

    return Database(server.dsn("app"), clocks=Clocks(sleep=sleep), settings=Settings(timeout=30))


@contextmanager
def replica(server: Server) -> Iterator[tuple[Server, Callable[[], object]]]:
    """A server as it is after a failover, with the call that makes it the writer."""
    fresh_tables(server)
    if server.engine == "mysql":
        server.query("SET GLOBAL read_only = on")
        try:
            yield server, lambda: server.query("SET GLOBAL read_only = off")
        finally:
            server.query("SET GLOBAL read_only = off")
        return
    with start(server.name) as own:
        fresh_tables(own)
        own.halt()
        assert own.folder is not None
        (own.folder / "data" / "standby.signal").touch()
        own.launch()
        yield own, lambda: own.query("SELECT pg_promote()")


@pytest.mark.own_server
def test_a_read_only_server_is_left(server: Server) -> None:
    """A write that a replica refuses drops the connection and is tried again on a new one, for
    longer than a passing fault would be.
    """
    with replica(server) as (found, promote), closing(patient(found, promote, after=12)) as db:
        db.execute(INSERT)
        assert orders(db) == ["once"]
        assert (db.stats.retried, db.stats.discarded) == (12, 12)


def _writes_where_only_reads_are_allowed(db: Database) -> None:
    if db.is_mysql:
        with db.connection() as connection:
            connection.query("START TRANSACTION READ ONLY")
            connection.query(INSERT)
    db.execute(INSERT)


@pytest.mark.own_server
def test_a_session_that_only_reads_fails_at_once(server: Server) -> None:
    """Where the session's own default refuses writes, no other server would help: no waiting."""
    fresh_tables(server)
    with closing(Database(server.dsn("app"))) as db:
        if not db.is_mysql:
            server.query("ALTER ROLE app SET default_transaction_read_only = on")
        try:
            with pytest.raises((psycopg.Error, pymysql.Error)) as caught:
                _writes_where_only_reads_are_allowed(db)
        finally:
            if not db.is_mysql:
                server.query("ALTER ROLE app RESET default_transaction_read_only")
        assert db.driver.fault(caught.value) in (Fault.OTHER, Fault.READ_ONLY)
        assert db.stats.retried == 0


@pytest.mark.own_server
def test_a_restart_is_not_noticed(server: Server) -> None:
    """A server that was restarted while the connection was idle costs a reconnect."""
    fresh_tables(server)
    with closing(Database(server.dsn("app"), settings=Settings(timeout=30))) as db:
        db.query("SELECT 1")
        server.restart()
        db.execute(INSERT)
        assert orders(db) == ["once"]


def test_a_door_with_nobody_behind_it_is_waited_at(server: Server) -> None:
    """A balancer whose server is away takes each login and hangs up: it is asked on until a server
    is back.
    """
    with Proxy(server.host, server.port) as proxy:
        proxy.to("127.0.0.1", free_port())
        behind = proxy.through(server)
        with closing(patient(behind, lambda: proxy.to(server.host, server.port), after=12)) as db:
            assert db.query("SELECT 1 AS one") == [{"one": 1}]
            assert db.stats.retried >= 12


FUNCTIONS = 50


def test_thawed_functions_notice_nothing(server: Server) -> None:
    """Real processes, frozen past the server's idle limit and thawed all at once: every first write
    is right.
    """
    fresh_tables(server)
    limit = (
        "SET SESSION wait_timeout = 1"
        if server.engine == "mysql"
        else "SET idle_session_timeout = '1s'"
    )
    command = [sys.executable, "-m", "tests.live.fleet", server.dsn("app"), limit, str(FUNCTIONS)]
    # On SIGTERM it ends its own
    fleet = processes.spawn(command, signal.SIGTERM, stdin=PIPE, stdout=PIPE, bufsize=0)
    try:
        assert answer(fleet) == ["frozen"] * FUNCTIONS
        assert until(lambda: connected(server) == 0, timeout=30)
        assert fleet.stdin is not None
        fleet.stdin.write(b"thaw\n")
        counts = answer(fleet)
    finally:
        processes.end(fleet, signal.SIGTERM)
        for pipe in (fleet.stdin, fleet.stdout):
            assert pipe is not None
            pipe.close()
    # Connected twice, the dead one discarded, nothing tried twice.
    assert counts == [{"connected": 2, "discarded": 1}] * FUNCTIONS
    with closing(Database(server.dsn("app"))) as db:
        assert orders(db) == ["once"] * FUNCTIONS


def answer(fleet: processes.Process) -> Any:
    assert fleet.stdout is not None
    assert select.select([fleet.stdout], [], [], 60)[0], "the fleet does not answer"
    return json.loads(fleet.stdout.readline())


def connected(server: Server) -> int:
    """How many sessions the application has."""
    listed = "information_schema.processlist" if server.engine == "mysql" else "pg_stat_activity"
    named = "user" if server.engine == "mysql" else "usename"
    ((count,),) = server.query(f"SELECT count(*) FROM {listed} WHERE {named} = 'app'")
    return int(count)
