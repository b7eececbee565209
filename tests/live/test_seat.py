"""The reaper's seat: kept while it is good, left when it is not, and nothing it saw counts on
another server.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from lab.servers import Proxy, Server, Sessions, start, until
from lab.targets import target
from reaper import seat as seats
from reaper.client.drivers import driver_for
from reaper.client.events import GivenUp
from reaper.client.kept import Clocks
from reaper.client.target import EngineName
from reaper.model import SweepTarget
from reaper.report import Entry, Report
from reaper.seat import Seat
from tests.conftest import Servers, names
from tests.harness import Lambda, settle, sweep


@dataclass
class Wall:
    """A wall clock that can be put forward: what a freeze does to it."""

    ahead: float = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


def seat_at(server: Server, wall: Callable[[], float] = time.time) -> Seat:
    name = EngineName(server.engine)
    return Seat(
        SweepTarget.from_mapping(target(server)).target, driver_for(name), Clocks(wall=wall)
    )


def swept(server: Server, seat: Seat) -> Report:
    return replace(sweep(server, idle_seconds=3600), seat=seat).run()


def own_sessions(server: Server) -> int:
    """How many sessions the reaper has."""
    listed, named = "information_schema.processlist", "user"
    if server.engine == "postgres":
        listed, named = "pg_stat_activity", "usename"
    ((count,),) = server.query(f"SELECT count(*) FROM {listed} WHERE {named} = 'reaper'")
    return int(count)


def test_it_outlives_short_freezes(server: Server) -> None:
    """Ten minutes later the seat is asked, and good; after an hour it is replaced, and the old one
    is gone.
    """
    wall = Wall()
    seat = seat_at(server, wall)
    entries = []
    for wall.ahead in (0, 1, 600, 600 + 3600):
        report = swept(server, seat)
        assert report.error is None
        entries.append(report.entry)
    assert entries == [Entry.LOGIN, Entry.SEAT, Entry.SEAT, Entry.LOGIN]
    assert until(lambda: own_sessions(server) == 1)
    seat.discard(GivenUp.CLOSED)


def test_the_server_ends_the_seats_of_the_dead(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A seat has its own idle limit from the server, whatever the server's setting: nobody else
    would end it.
    """
    monkeypatch.setattr(seats, "SERVER_ENDS_AFTER", 1)
    seat = seat_at(server)
    assert swept(server, seat).error is None
    assert own_sessions(server) == 1
    assert until(lambda: own_sessions(server) == 0, timeout=30, pause=0.2)
    assert swept(server, seat).entry is Entry.LOGIN
    seat.discard(GivenUp.CLOSED)


def test_a_slow_answer_does_not_cost_the_seat(server: Server) -> None:
    """A server that is full is slow as well, and there may be no other way in: the seat is not
    given up lightly.
    """
    wall = Wall()
    with Proxy(server.host, server.port) as proxy:
        there = proxy.through(server)
        seat = seat_at(there, wall)
        assert swept(there, seat).entry is Entry.LOGIN
        wall.ahead = 300
        proxy.stall()
        answers = threading.Timer(1.2, proxy.resume)
        answers.start()
        assert swept(there, seat).entry is Entry.SEAT
        answers.join()
        seat.discard(GivenUp.CLOSED)


def test_a_silent_death_is_noticed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A route that was lost without a word costs the seat one unanswered ping, and the sweep is
    done on another.
    """
    monkeypatch.setattr(seats, "_KEPT", replace(seats._KEPT, ping_timeout=0.5))
    wall = Wall()
    with Proxy(server.host, server.port) as proxy:
        there = proxy.through(server)
        seat = seat_at(there, wall)
        assert swept(there, seat).entry is Entry.LOGIN
        proxy.swallow()
        # For new connections
        proxy.resume()
        wall.ahead = 300
        report = swept(there, seat)
        assert (report.error, report.entry) == (None, Entry.LOGIN)
        assert report.duration_seconds < 5 * 0.5
        seat.discard(GivenUp.CLOSED)


def test_without_a_seat_nobody_stays(server: Server, function: Lambda) -> None:
    """With REAPER_KEEP_SEAT=false the connection is closed after each sweep, a seat from before
    included.
    """
    function.configure(target(server))
    assert [function.invoke({})["targets"][0]["entry"] for _ in range(2)] == ["login", "seat"]
    assert own_sessions(server) == 1
    function.configure(target(server), REAPER_KEEP_SEAT="false")
    assert [function.invoke({})["targets"][0]["entry"] for _ in range(2)] == ["login", "login"]
    assert until(lambda: own_sessions(server) == 0)


@pytest.fixture(scope="module", params=[name for name in names() if name != "postgres18"])
def pair(request: pytest.FixtureRequest, servers: Servers) -> Iterator[tuple[Server, Server]]:
    """Two servers whose sessions have the same ids, on MySQL and MariaDB: both count from the
    start.
    """
    like = servers[request.param]
    if not like.own:
        pytest.skip(f"{like.name} is not ours to start, stop and start again")
    with start(like.name) as former, start(like.name) as successor:
        yield former, successor


def swept_once(function: Lambda, server: Server, dry_run: bool = False) -> dict[str, Any]:
    """The report of a scheduled sweep that takes everybody who is known to be idle."""
    function.configure(target(server), REAPER_DRY_RUN=str(dry_run).lower(), REAPER_IDLE_SECONDS="0")
    report: dict[str, Any] = function.invoke({"trigger": "schedule"})["targets"][0]
    assert report["error"] is None
    return report


def test_after_a_failover_old_knowledge_is_void(
    pair: tuple[Server, Server], function: Lambda
) -> None:
    """Another server at the same address: its sessions are judged by what is seen there, though the
    ids are the same.

    Where only sleep that was seen twice counts, that of the former server's sessions does not.
    """
    former, successor = pair
    is_doubtful = former.name == "mysql_nops"
    with (
        Proxy(former.host, former.port) as proxy,
        Sessions(former) as before,
        Sessions(successor) as after,
    ):
        left, came = before.sleeping(5), after.sleeping(5)
        assert former.engine == "postgres" or {client.id for client in left} & {
            client.id for client in came
        }
        settle(former)
        there = proxy.through(former)
        swept_once(function, there, dry_run=True)
        proxy.to(successor.host, successor.port)
        proxy.cut()
        # What was seen so long ago would count
        time.sleep(2.1 if is_doubtful else 0)
        report = swept_once(function, there)
        assert report["entry"] == "login"
        assert report["outcomes"] == ({} if is_doubtful else {"terminated": 5})
        assert report["spared"].get("unconfirmed", 0) == (5 if is_doubtful else 0)
        assert all(client.alive() for client in left)


def test_a_restart_costs_a_login(pair: tuple[Server, Server], function: Lambda) -> None:
    """After a restart the next sweep logs in anew and does its work, the one after it from its new
    seat.
    """
    server, _ = pair
    swept_once(function, server)
    server.kill()
    server.restart()
    with Sessions(server) as sessions:
        sessions.sleeping(3)
        settle(server)
        first = swept_once(function, server)
        time.sleep(2.1 if server.name == "mysql_nops" else 0)
        second = swept_once(function, server)
    assert (first["entry"], second["entry"]) == ("login", "seat")
    assert first["freed"] + second["freed"] == 3
