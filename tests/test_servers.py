"""The test servers and sessions themselves are what they claim to be."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from lab.frozen import Frozen
from lab.servers import Client, Server, Sessions, start, until
from lab.servers.warden import exists
from tests.conftest import Servers

ASLEEP = {"idle", "Sleep"}
ACTIVE = {"active", "Query"}


def states(server: Server, clients: list[Client]) -> set[str | None]:
    return {server.states().get(client.id) for client in clients}


def test_standard_accounts_can_log_in(server: Server) -> None:
    """Every account that a test may name exists, without further set-up."""
    users = {"app", "other", "reaper", "blind", "rdsadmin", "replicator"}
    users |= (
        {"reaper_rds", "norights", "root"} if server.engine == "mysql" else {"boss", "postgres"}
    )
    for user in users:
        server.connect(user, server.home).close()


@pytest.mark.usefixtures("server")
def test_there_are_items(sessions: Sessions) -> None:
    """A test can prove a write, or its roll-back, by the value of 100 items."""
    (client,) = sessions.sleeping(1)
    assert client.run("SELECT count(value) FROM items") == [(100,)]


@pytest.mark.own_server
def test_settings_are_the_servers(server: Server) -> None:
    """A test can have a server with few connections."""
    with start(server.name, settings={"max_connections": "25"}) as small:
        setting = (
            "SHOW max_connections" if small.engine == "postgres" else "SELECT @@max_connections"
        )
        assert int(small.query(setting)[0][0]) == 25


def test_sleeping_sessions_are_idle(server: Server, sessions: Sessions) -> None:
    """A sleeping session is one that the server itself calls idle."""
    clients = sessions.sleeping(5)
    assert len({client.id for client in clients}) == 5
    assert states(server, clients) <= ASLEEP
    assert all(client.alive() for client in clients)


def test_terminated_sessions_are_not_alive(server: Server, sessions: Sessions) -> None:
    """`alive` tells a terminated session from the others."""
    kept, lost = sessions.sleeping(2)
    server.query(
        f"SELECT pg_terminate_backend({lost.id})"
        if server.engine == "postgres"
        else f"KILL {lost.id}"
    )
    assert until(lambda: not lost.alive())
    assert kept.alive()


def test_active_sessions_finish_after_release(server: Server, sessions: Sessions) -> None:
    """An active session is in its statement until the test lets it go on, and is usable
    afterwards.
    """
    clients = sessions.active(5)
    assert states(server, clients) <= ACTIVE
    sessions.release_active()
    assert [client.run("SELECT 7") for client in clients] == [[(7,)]] * 5
    assert until(lambda: states(server, clients) <= ASLEEP)


def test_transactions_are_open(server: Server, sessions: Sessions) -> None:
    """Sessions in a transaction do not block one another, and the server shows what they
    changed.
    """
    clients = sessions.in_transaction(3) + sessions.in_transaction(1, rows=500)
    if server.engine == "postgres":
        assert states(server, clients) == {"idle in transaction"}
    else:
        rows = server.query(
            "SELECT trx_mysql_thread_id, trx_rows_modified FROM information_schema.innodb_trx"
        )
        seen: dict[int, int] = dict(rows)
        assert [seen[client.id] for client in clients] == [1, 1, 1, 500]


def test_transactions_are_undone_when_closed(server: Server) -> None:
    """The next test finds the items as they were."""

    def items() -> list[tuple[Any, ...]]:
        with closing(server.connect()) as connection:
            return server.kind.client(connection, "app").run(
                "SELECT id, value FROM items ORDER BY id"
            )

    before = items()
    with Sessions(server) as opened:
        opened.in_transaction(2)
    assert items() == before


def test_begun_transactions_hold_nothing(server: Server, sessions: Sessions) -> None:
    """BEGIN alone is a transaction to PostgreSQL, and to MySQL just sleep."""
    expected = {"idle in transaction"} if server.engine == "postgres" else {"Sleep"}
    assert states(server, sessions.begun(2)) == expected


def test_lock_holders_keep_others_out(server: Server, sessions: Sessions) -> None:
    """A lock holder sleeps outside any transaction and keeps its lock."""
    clients = sessions.lock_holders(2)
    assert states(server, clients) <= ASLEEP
    free = (
        "pg_try_advisory_lock(1)::int" if server.engine == "postgres" else "IS_FREE_LOCK('lock 1')"
    )
    # In the same database: PostgreSQL's advisory locks belong to one
    (other,) = sessions.sleeping(1)
    assert other.run(f"SELECT {free}") == [(0,)]


def test_table_lock_holders_sleep(mysql: Server, sessions: Sessions) -> None:
    """A session with LOCK TABLES is asleep, and its table is in use."""
    assert states(mysql, sessions.table_lock_holders(1)) == {"Sleep"}
    assert [row[1] for row in mysql.query("SHOW OPEN TABLES FROM shop WHERE In_use > 0")] == [
        "stock"
    ]


def test_listeners_are_idle(postgres: Server, sessions: Sessions) -> None:
    """A listening session looks idle but for its last statement."""
    clients = sessions.listeners(2)
    assert states(postgres, clients) == {"idle"}
    assert clients[0].run("SELECT pg_listening_channels()") == [("orders",)]


def test_privileged_sessions_are_there(server: Server, sessions: Sessions) -> None:
    """The superuser's and the provider's sessions are idle, under their own names."""
    clients = sessions.superuser(1) + sessions.provider(1)
    assert states(server, clients) <= ASLEEP
    assert [client.user for client in clients] == [
        "boss" if server.engine == "postgres" else "root",
        "rdsadmin",
    ]


def test_replication_is_a_replica(server: Server, sessions: Sessions) -> None:
    """The replication session is what the server takes for a replica, not an idle client."""
    replica = sessions.replication()
    if server.engine == "postgres":
        assert server.query("SELECT pid FROM pg_stat_replication") == [(replica.id,)]
    else:
        assert server.states()[replica.id] == "Binlog Dump"
    assert replica.alive()


def test_handshakes_never_become_sessions(server: Server, sessions: Sessions) -> None:
    """A connection that does not log in stays connected and has no user."""
    clients = sessions.handshakes(2)
    assert all(client.alive() for client in clients)
    if server.engine == "mysql":
        rows = server.query("SHOW FULL PROCESSLIST")
        assert {row[0] for row in rows if row[1] == "unauthenticated user"} == {
            client.id for client in clients
        }


def test_rds_kill_ends_an_ordinary_session(mysql: Server, sessions: Sessions) -> None:
    """mysql.rds_kill works for an account that has no right to KILL."""
    (victim,) = sessions.sleeping(1)
    assert refusal(mysql, f"KILL {victim.id}") == 1095
    assert refusal(mysql, f"CALL mysql.rds_kill({victim.id})") is None
    assert until(lambda: not victim.alive())


def test_rds_kill_refuses_the_provider(mysql: Server, sessions: Sessions) -> None:
    """mysql.rds_kill spares rdsadmin with the error 1054, as RDS does."""
    (provider,) = sessions.provider(1)
    assert refusal(mysql, f"CALL mysql.rds_kill({provider.id})") == 1054
    assert provider.alive()


def test_rds_kill_knows_no_such_session(mysql: Server) -> None:
    """mysql.rds_kill answers 1094 for an id that is gone."""
    assert refusal(mysql, "CALL mysql.rds_kill(4000000)") == 1094


def refusal(server: Server, sql: str) -> int | None:
    with closing(server.connect("reaper_rds", "")) as connection:
        try:
            server.kind.client(connection, "reaper_rds").run(sql)
        except server.kind.errors as error:
            return int(error.args[0])
    return None


def test_frozen_process_keeps_its_sessions(server: Server) -> None:
    """A frozen function holds its sessions without running, and goes on with them when thawed."""
    with Frozen(server.dsn(), connections=2) as function:
        function.freeze()
        assert {server.states()[session] for session in function.ids} <= ASLEEP
        function.thaw()
        assert function.run() == ["ok", "ok"]
    assert until(lambda: server.states().keys().isdisjoint(function.ids))


@pytest.mark.own_server
def test_restart_keeps_the_data(server: Server) -> None:
    """A killed server comes back on its port, with what was committed before."""
    with start(server.name) as own:
        with closing(own.connect()) as connection:
            own.kind.client(connection, "app").run("UPDATE items SET value = 1 WHERE id = 1")
        port = own.port
        own.kill()
        with pytest.raises(own.kind.errors):
            own.connect()
        own.restart()
        assert own.port == port
        with closing(own.connect()) as connection:
            assert own.kind.client(connection, "app").run("SELECT sum(value) FROM items") == [(1,)]


@pytest.mark.own_server
def test_stop_leaves_nothing(server: Server) -> None:
    """A stopped server has no process and no folder."""
    own = start(server.name)
    pid, folder = own.pid, own.folder
    own.stop()
    assert folder is not None
    assert not folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


ORPHANS = """
import sys, time
from lab.frozen import Frozen
from lab.servers import processes, start
server = start(sys.argv[1])
function = Frozen(server.dsn())
function.freeze()
print(server.pid, function.process.pid, processes.run().folder, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("name", ["postgres16", "mariadb"])
def test_nothing_outlives_a_killed_run(servers: Servers, name: str) -> None:
    """The servers, functions and folders of a test run that is killed with SIGKILL are gone within
    seconds.
    """
    command = [sys.executable, "-c", ORPHANS, servers[name].name]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
    ) as run:
        assert run.stdout is not None
        server_pid, function_pid, folder = run.stdout.readline().split()
        run.kill()
    assert until(lambda: not exists(int(server_pid)) and not exists(int(function_pid)), timeout=30)
    assert until(lambda: not Path(folder).exists(), timeout=30)
