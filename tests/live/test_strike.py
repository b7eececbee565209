"""The gap between look and kill: a session that woke, went or became another one is left alone."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic

import pytest

from lab.servers import Client, Sessions, until
from lab.servers import Server as Database
from lab.servers.mysql import MySQLClient
from reaper.client.deadline import Deadline
from reaper.engines.base import ChunkOutcome, Server
from reaper.engines.mysql import bulk_kill
from reaper.engines.mysql.kills import CompoundKill, KillPackets, Window, bulk_outcomes
from reaper.engines.mysql.queries import query
from reaper.engines.mysql.server import MySQLServer
from reaper.engines.termination import WINDOW
from reaper.model import Outcome, Session
from reaper.report import ErrorKind
from tests.conftest import Servers
from tests.harness import settle, sweep
from tests.live.stage import engine_server, seen, terminate

LONG = Deadline.after(3600)


def test_1094_ends_its_packet_only(mysql: Database, sessions: Sessions) -> None:
    """KILL of an id that ended after its re-read answers 1094: `gone`; those after it in the packet
    have no outcome.
    """
    clients = sessions.sleeping(3)
    with engine_server(mysql) as engine:
        assert isinstance(engine, MySQLServer)
        ids = [clients[0].id, 2**31, clients[1].id]
        packets = KillPackets(engine._connection, monotonic, engine._pace, bulk_kill.KILL)
        assert packets._packet(ids) == {ids[0]: Outcome.SIGNALLED, ids[1]: Outcome.GONE}
        assert clients[1].alive()
        assert packets._packet(ids[2:]) == {ids[2]: Outcome.SIGNALLED}
    assert clients[2].alive()


def test_mariadb_itself_keeps_to_the_window(servers: Servers) -> None:
    """Many kills in one statement: MariaDB ends it with the window, and one who has gone spares no
    other.
    """
    with mariadb(servers) as (sessions, engine):
        first, second, spared = sessions.sleeping(3)
        compound = CompoundKill(engine._connection, monotonic, engine._pace, bulk_kill.KILL)
        now = servers_clock(engine)
        assert compound.kill([spared.id], Window(0.0, now - WINDOW)) == {}
        no_time = bulk_kill.kill_unless_begun([spared.id], [2**40], seconds=0)
        assert bulk_outcomes(engine._connection, no_time, [spared.id]) == {}
        assert compound.kill([first.id, 2**31, second.id], Window(0.0, now + 3600)) == {
            first.id: Outcome.SIGNALLED,
            2**31: Outcome.GONE,
            second.id: Outcome.SIGNALLED,
        }
        assert [client.alive() for client in (first, second, spared)] == [False, False, True]


@pytest.mark.parametrize("user", ["reaper", "reaper_rds"])
def test_mariadb_looks_each_victim_up_right_before_its_kill(servers: Servers, user: str) -> None:
    """However long after the look: who ran anything, or pinged, since then is spared, and goes on
    undisturbed.
    """
    with mariadb(servers, user) as (sessions, engine):
        asleep, ran, runs, pinged, went = clients = sessions.sleeping(5)
        victims = seen(engine, "mysql", clients)
        ran.run("DO 0")
        runs.start("SELECT SLEEP(0.2)")
        ping(pinged)
        went.close()
        until(lambda: went.id not in servers["mariadb"].states(), timeout=30)
        assert engine.terminate(victims).outcomes == {
            asleep.id: Outcome.SIGNALLED,
            ran.id: Outcome.CHANGED,
            runs.id: Outcome.CHANGED,
            pinged.id: Outcome.CHANGED,
            went.id: Outcome.GONE,
        }
        runs.finish()
        assert [client.alive() for client in (asleep, ran, runs, pinged)] == [
            False,
            True,
            True,
            True,
        ]


@pytest.mark.parametrize("user", ["reaper", "reaper_rds"])
def test_nobody_is_mistaken_for_who_has_the_same_statement_id(servers: Servers, user: str) -> None:
    """A ping takes the QUERY_ID that somebody's next statement has, too: that statement goes on,
    whoever is terminated.
    """
    with mariadb(servers, user) as (sessions, engine):
        sleeper, wakes, *others = sessions.sleeping(4)
        for client, other in zip((sleeper, wakes), others, strict=True):
            share_a_query_id(engine, client, other)
        victims = seen(engine, "mysql", [sleeper, wakes])
        wakes.run("DO 0")
        # Now the other has that QUERY_ID for itself
        engine.look()
        assert victims[1].mark is not None
        token = victims[1].mark.key[-1]
        assert [row["Id"] for row in engine._lists.read_for_marks() if row["token"] == token] == [
            others[1].id
        ]
        assert terminate(engine, victims) == {
            victims[0]: Outcome.SIGNALLED,
            victims[1]: Outcome.CHANGED,
        }
        for other in others:
            other.finish()
        assert [client.alive() for client in (sleeper, wakes, *others)] == [False, True, True, True]


def share_a_query_id(engine: MySQLServer, sleeper: Client, other: Client) -> None:
    """The other runs a statement under the QUERY_ID that a ping has left the sleeper, if it comes
    next.
    """
    for _ in range(20):
        ping(sleeper)
        other.start("SELECT SLEEP(1)")
        of = {row["Id"]: row["token"] for row in engine._lists.read_for_marks()}
        if of[sleeper.id] == of[other.id]:
            return
        # The list was read before it began
        other.finish()
    raise AssertionError("no statement came right after its ping")


def ping(client: Client) -> None:
    assert isinstance(client, MySQLClient)
    client.connection.ping(reconnect=False)


def servers_clock(engine: MySQLServer) -> float:
    """Seconds since 1970, as the server counts them."""
    (row,) = query(engine._connection, "SELECT UNIX_TIMESTAMP(SYSDATE(6)) + 0e0 AS now")
    return float(row["now"])


@contextmanager
def mariadb(servers: Servers, user: str = "reaper") -> Iterator[tuple[Sessions, MySQLServer]]:
    with (
        Sessions(servers["mariadb"]) as sessions,
        engine_server(servers["mariadb"], user) as engine,
    ):
        assert isinstance(engine, MySQLServer)
        yield sessions, engine


def test_mariadb_reads_again_where_a_kill_outlasts_the_window(servers: Servers) -> None:
    """rds_kill scans the whole list before it kills: where that takes longer, looking before the
    call is not enough.
    """
    with mariadb(servers, "reaper_rds") as (sessions, engine):
        (client,) = sessions.sleeping(1)
        victims = seen(engine, "mysql", [client])
        engine._pace.seconds = 2 * WINDOW
        assert engine.terminate(victims).outcomes == {}
        assert client.alive()


def test_one_stall_is_not_for_ever(mysql: Database, sessions: Sessions) -> None:
    """After a kill that took far longer than the window the next ones are tried all the same."""
    clients = sessions.sleeping(10)
    settle(mysql)
    with engine_server(mysql) as engine:
        assert isinstance(engine, MySQLServer)
        engine._pace.seconds = 0.5
        victims = seen(engine, mysql.engine, clients)
        assert terminate(engine, victims) == dict.fromkeys(victims, Outcome.SIGNALLED)


def test_kills_follow_their_re_read_within_the_window(
    server: Database, sessions: Sessions, capsys: pytest.CaptureFixture[str]
) -> None:
    """No kill comes more than 50 ms after the start of its victim's re-read: measured for 200
    victims.
    """
    clients = sessions.sleeping(200)
    settle(server)
    with engine_server(server) as engine:
        measured = Measured(engine)
        outcomes = list(terminate(measured, seen(engine, server.engine, clients)).values())
    assert outcomes == [Outcome.SIGNALLED] * 200
    with capsys.disabled():
        worst, middle = max(measured.windows), statistics.median(measured.windows)
        print(
            f" {server.name}: {len(measured.windows)} chunks, {middle * 1000:.1f} ms, at most "
            f"{worst * 1000:.1f} ms"
        )
    # Our own clock is read after the last kill has been answered, so it sees more than the server
    # did.
    assert statistics.median(measured.windows) < WINDOW
    assert max(measured.windows) < 5 * WINDOW


class Measured:
    """A server that notes how long each chunk took from the start of its re-read."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.windows: list[float] = []
        self.method = server.method
        self.look, self.kill_order = server.look, server.kill_order
        self.lock, self.unlock = server.lock, server.unlock
        self.holder, self.end = server.holder, server.end
        self.still_present, self.settings = server.still_present, server.settings

    def terminate(self, victims: Sequence[Session]) -> ChunkOutcome:
        chunk = self._server.terminate(victims)
        self.windows.append(chunk.seconds)
        return chunk


def test_one_refusal_does_not_spare_its_neighbours(postgres: Database, sessions: Sessions) -> None:
    """A victim that PostgreSQL refuses (42501 aborts the statement) is `refused`; its neighbours
    are terminated.
    """
    first, boss, last = sessions.sleeping(2), sessions.superuser(1), sessions.sleeping(2)
    with engine_server(postgres) as engine:
        victims = seen(engine, "postgres", first + boss + last)
        outcomes = list(terminate(engine, victims).values())
    assert outcomes[2] is Outcome.REFUSED
    # Those signalled before the statement was aborted may have ended by the time they are asked one
    # by one.
    assert set(outcomes) - {Outcome.REFUSED} <= {Outcome.SIGNALLED, Outcome.GONE}
    assert boss[0].alive()
    assert not any(client.alive() for client in first + last)


def test_repeated_refusals_end_the_sweep(server: Database, sessions: Sessions) -> None:
    """An account that sees all but may terminate nobody is refused, and the error names the right
    it lacks.
    """
    user = "norights"
    if server.engine == "postgres":
        server.query(f"DROP ROLE IF EXISTS {user}")
        server.query(f"CREATE ROLE {user} LOGIN IN ROLE pg_read_all_stats")
    clients = sessions.sleeping(30)
    # Nor may it read performance_schema
    settle(server, sees_fractions=False)
    report = sweep(server, user, idle_seconds=0).run()
    assert report.error is not None
    assert report.error.kind is ErrorKind.RIGHTS
    assert (
        "pg_signal_backend" if server.engine == "postgres" else "CONNECTION_ADMIN"
    ) in report.error.message
    assert set(report.outcomes) == {Outcome.REFUSED}
    assert 3 <= report.outcomes[Outcome.REFUSED] < 30
    assert all(client.alive() for client in clients)


def test_rds_kill_where_kill_is_not_granted(mysql: Database, sessions: Sessions) -> None:
    """Without CONNECTION_ADMIN the account calls mysql.rds_kill, and the report says so."""
    sessions.sleeping(20)
    settle(mysql)
    dry = sweep(mysql, "reaper_rds", idle_seconds=0, dry_run=True).run()
    assert dry.method == "rds_kill"
    report = sweep(mysql, "reaper_rds", idle_seconds=0).run()
    assert report.error is None
    assert report.method == "rds_kill"
    assert report.outcomes == {Outcome.TERMINATED: 20}


def test_rds_kill_answers(mysql: Database, sessions: Sessions) -> None:
    """rds_kill says 1094 of an unknown id (`gone`) and 1054 of the provider's session
    (`refused`).
    """
    (provider,) = sessions.provider(1)
    with engine_server(mysql, "reaper_rds") as engine:
        assert isinstance(engine, MySQLServer)
        ids = [2**31, provider.id, 2**31 + 1]
        tools = (engine._connection, monotonic, engine._pace, bulk_kill.RDS_KILL)
        # Where all go in one statement
        if mysql.flavour == "mariadb":
            compound = CompoundKill(*tools)
            outcomes = compound.kill(ids, Window(0.0, servers_clock(engine) + 3600))
        else:
            packets = KillPackets(*tools)
            outcomes = {
                id_: outcome for one in ids for id_, outcome in packets._packet([one]).items()
            }
    assert list(outcomes.values()) == [Outcome.GONE, Outcome.REFUSED, Outcome.GONE]
    assert provider.alive()
