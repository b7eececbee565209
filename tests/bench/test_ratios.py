"""What of the benchmarks is the same on every machine: statements, round trips, allocations, and
how they grow.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from lab.servers import Proxy, Server, Sessions
from reaper.client import Database
from reaper.client.target import EngineName
from reaper.engines import engine_for
from reaper.engines.snapshot_file import RawSnapshot
from reaper.model import Outcome
from reaper.policy import judge
from reaper.rules import Rules
from tests.conftest import Servers
from tests.harness import settle, sweep
from tests.live.stage import engine_server, seen, terminate

ROOT = Path(__file__).parents[2]
INVOCATIONS = 20


@contextmanager
def through(server: Server) -> Iterator[tuple[Server, Callable[[], int]]]:
    """The same server behind a proxy, and how many round trips there have been."""
    with Proxy(server.host, server.port) as proxy:
        yield proxy.through(server), lambda: proxy.counts.requests


def sleepers(count: int) -> RawSnapshot:
    """As many rows as MariaDB would give, all asleep."""
    rows = [
        {
            "Id": n + 10,
            "User": "app",
            "Host": f"10.0.0.1:{n}",
            "db": "shop",
            "Command": "Sleep",
            "Time": n % 3600,
        }
        for n in range(count)
    ]
    context = {
        "flavour": "mariadb",
        "current_user": "reaper@%",
        "threads_connected": count,
        "uptime_s": 10**6,
    }
    return RawSnapshot(
        EngineName.MYSQL,
        rows,
        context | {"sees_all": True, "innodb_trx": [], "max_connections": 10**5},
    )


def test_a_warm_statement_is_one_round_trip(server: Server) -> None:
    """A kept connection is checked without asking anybody: a read costs what it costs the driver
    alone.
    """
    if server.options:
        pytest.skip("what is encrypted cannot be counted")
    with through(server) as (near, trips), closing(Database(near.dsn("app"))) as db:
        db.query("SELECT 1 AS one")
        before = trips()
        for _ in range(INVOCATIONS):
            db.query("SELECT 1 AS one")
        assert trips() - before == INVOCATIONS


def test_a_look_does_not_grow_with_the_sessions(server: Server, sessions: Sessions) -> None:
    """However many sleep, a dry run asks the same few questions."""

    def asked() -> int:
        with through(server) as (near, trips):
            assert sweep(near, trigger="schedule", dry_run=True).run().error is None
            return trips()

    few = asked()
    sessions.sleeping(30)
    settle(server)
    # a list that was read across the turn of a second is read again
    assert asked() <= few + 2


def test_kills_go_in_chunks(server: Server, sessions: Sessions) -> None:
    """Four times the victims are not four times the round trips: one re-read and one packet serve
    many.
    """
    if server.name == "mysql_nops":
        pytest.skip("where idle times are bounds, a sweep waits for its second look")

    def asked(victims: int) -> int:
        clients = sessions.sleeping(victims)
        for client in clients:
            client.run("SELECT 1")
        settle(server)
        with through(server) as (near, trips):
            report = sweep(
                near, trigger="schedule", idle_seconds=0, allow_users=["app"], trigger_utilization=1
            ).run()
            assert report.error is None
            return trips()

    few, many = asked(10), asked(40)
    assert many <= 2 * few


def test_a_chunk_on_mariadb_is_one_statement(servers: Servers) -> None:
    """Nothing is read again between look and kill: the first chunk is of eight, the second of all
    the others.
    """
    server = servers["mariadb"]
    with (
        Sessions(server) as sessions,
        through(server) as (near, trips),
        engine_server(near) as engine,
    ):
        victims = seen(engine, server.engine, sessions.sleeping(40))
        before = trips()
        assert set(terminate(engine, victims).values()) == {Outcome.SIGNALLED}
        assert trips() - before == 2


@pytest.mark.parametrize("work", ["read", "judge"])
def test_memory_grows_with_the_sessions_and_no_faster(work: str) -> None:
    """Eight times the sessions take eight times the memory, and one takes less than four
    kilobytes.
    """
    engine = engine_for(EngineName.MYSQL)

    def peak(count: int) -> int:
        look = sleepers(count)
        do: Callable[[], Any] = lambda: engine.read(look)  # noqa: E731  either of two
        if work == "judge":
            snapshot = engine.read(look)
            do = lambda: judge(snapshot, Rules())  # noqa: E731
        gc.collect()
        tracemalloc.start()
        try:
            do()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    # What is remembered for later is no part of it
    peak(10)
    # Small tuples come from a store of thousands, which nothing counts
    small, large = peak(4000), peak(32000)
    assert large < 12 * small
    assert large / 32000 < 4096
