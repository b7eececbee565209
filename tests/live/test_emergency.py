"""The database is full: the reaper gets in, makes room, goes no further than the target, and
tells.
"""

from __future__ import annotations

import json
import select
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest

from lab.frozen import arguments
from lab.servers import Server, Sessions, processes, until
from lab.targets import target
from reaper.client.deadline import Deadline
from reaper.handler import AllSweepsFailed
from reaper.model import Mode, Outcome, Reason
from tests.conftest import Servers, names
from tests.harness import Lambda, settle, sweep
from tests.live.emergency import (
    AT_TARGET,
    LIMIT,
    SLOTS,
    frozen,
    is_full,
    ordinary,
    privileged,
    small,
)

SCHEDULE, ALARM = {"trigger": "schedule"}, {"trigger": "alarm"}
# Seconds: the threshold under pressure
PRESSURE = 0.2


@pytest.fixture(
    scope="module", params=[name for name in names() if name not in ("postgres18", "mysql_nops")]
)
def full(request: pytest.FixtureRequest, servers: Servers) -> Iterator[Server]:
    """A server that is easily filled, shared by the tests of this module."""
    like = servers[request.param]
    if not like.own:
        pytest.skip(f"{like.name} is not ours to fill")
    with small(like) as server:
        yield server


def rest(server: Server) -> None:
    """Wait until all that sleep have slept for longer than the threshold, and the server shows what
    they did.
    """
    settle(server)
    time.sleep(PRESSURE)


def deployed(function: Lambda, server: Server, user: str, **rules: str) -> None:
    """The function for one target, live, for which nobody is a zombie but under pressure."""
    environ = {
        "DRY_RUN": "false",
        "IDLE_SECONDS": "86400",
        "PRESSURE_IDLE_SECONDS": str(PRESSURE),
    } | rules
    function.configure(
        target(server, user), **{f"REAPER_{name}": value for name, value in environ.items()}
    )


def check_relief(report: dict[str, Any], ids: Collection[int]) -> None:
    """As many frozen sessions ended as bring the server from what was used to the target, and no
    others.
    """
    assert report["error"] is None
    assert report["mode"] == "pressure"
    assert report["pressure_remains"] is False
    assert report["holding"] == {}
    assert {victim["id"] for victim in report["victims"]} <= set(ids)
    needed = report["connections"]["used"] - AT_TARGET
    assert (report["outcomes"], report["freed"]) == ({"terminated": needed}, needed)


@pytest.fixture
def show(capsys: pytest.CaptureFixture[str]) -> Callable[[Server, dict[str, Any]], None]:
    """Print how fast the first slot came free."""

    def line(server: Server, report: dict[str, Any]) -> None:
        how = (
            f"{report['entry']}, used {report['connections']['used']} of {SLOTS}, freed "
            f"{report['freed']}"
        )
        with capsys.disabled():
            print(
                f" {server.name}: {how}, first slot free after "
                f"{report['first_freed_seconds']:.3f} s"
            )

    return line


def test_a_warm_reaper_sits_inside(full: Server, function: Lambda, show: Any) -> None:
    """Every slot but the reaper's seat taken by frozen functions, and no right to another: it makes
    room from there.

    A scheduled sweep that finds pressure acts as an alarm's would.
    """
    deployed(function, full, ordinary(full))
    assert function.invoke(SCHEDULE)["targets"][0]["entry"] == "login"
    with frozen(full, SLOTS - 1) as ids:
        assert is_full(full)
        rest(full)
        (report,) = function.invoke(SCHEDULE)["targets"]
        show(full, report)
        assert report["entry"] == "seat"
        check_relief(report, ids)
        assert not is_full(full)
    metrics = function.metrics[full.name]
    assert (metrics["LockedOut"], metrics["PressureRemains"], metrics["Utilization"]) == (0, 0, 100)
    assert 0 < metrics["FirstFreedSeconds"] <= metrics["SweepSeconds"] + 1


def test_a_cold_reaper_has_a_reserved_slot(full: Server, function: Lambda, show: Any) -> None:
    """Every slot taken, and nobody inside: the account with a slot beyond them gets in and makes
    room.
    """
    deployed(function, full, privileged(full))
    with frozen(full, SLOTS) as ids:
        assert is_full(full)
        rest(full)
        (report,) = function.invoke(ALARM)["targets"]
        show(full, report)
        assert (report["entry"], report["connections"]["used"]) == ("reserved", SLOTS + 1)
        check_relief(report, ids)
        assert not is_full(full)


@contextmanager
def coming_and_going(server: Server, clients: int) -> Iterator[None]:
    """Clients that stay for a moment and leave for another, refused or not."""
    stop = threading.Event()

    def client() -> None:
        while not stop.wait(0.1):
            try:
                with closing(server.connect("app")):
                    stop.wait(0.1)
            except server.kind.errors:
                continue

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_cold_reaper_waits_for_a_slot(full: Server, function: Lambda, show: Any) -> None:
    """Without any right to a slot the login is tried until somebody leaves; then there is room for
    all.
    """
    deployed(function, full, ordinary(full))
    with frozen(full, SLOTS - 2) as ids, coming_and_going(full, 4):
        rest(full)
        (report,) = function.invoke(ALARM)["targets"]
        show(full, report)
        assert report["entry"] == "login"
        assert report["error"] is None
        assert report["freed"] >= report["connections"]["used"] - AT_TARGET
        assert {victim["id"] for victim in report["victims"]} <= set(ids)


def test_slots_that_never_come_free(full: Server, function: Lambda) -> None:
    """Nobody leaves and there is no right to a slot: locked out, before the deadline; told, counted
    and raised.
    """
    deployed(function, full, ordinary(full))
    with frozen(full, SLOTS):
        assert is_full(full)
        with pytest.raises(AllSweepsFailed, match=r"locked_out: no slot came free in \d+ attempts"):
            function.invoke(ALARM, seconds=3)
    (line,) = function.logged("sweep")
    assert line["error"]["kind"] == "locked_out"
    assert line["duration_seconds"] < 3
    metrics = function.metrics[full.name]
    assert (metrics["LockedOut"], metrics["SweepFailed"], metrics["Freed"]) == (1, 1, 0)
    assert "Utilization" not in metrics


CLIENTS = 30


@dataclass
class Storm:
    """Clients that hammer a server with logins, in a process of their own."""

    server: Server
    process: processes.Process = field(init=False)

    def __enter__(self) -> Storm:
        script = Path(__file__).with_name("storm.py")
        self.process = processes.spawn(
            [sys.executable, "-I", str(script)], stdin=PIPE, stdout=PIPE, bufsize=0
        )
        connect = arguments(self.server.dsn("app"), "storm")
        if self.server.engine == "mysql":
            # PyMySQL would load the system's certificates for every login
            connect["ssl_disabled"] = True
        order = {"engine": self.server.engine, "connect": connect}
        self._say(json.dumps({**order, "clients": CLIENTS}))
        return self

    def since(self) -> Counter[str]:
        """What came of the logins since it was asked last."""
        self._say("?")
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], 60)[0], "the storm has died down"
        return Counter(json.loads(self.process.stdout.readline()))

    def _say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")

    def __exit__(self, *exc: object) -> None:
        processes.end(self.process, signal.SIGKILL)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


def test_in_a_storm_of_logins(
    full: Server, function: Lambda, show: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Thirty clients hammer a full server: the reaper gets in, they are served again, and nobody
    busy is hurt.
    """
    deployed(function, full, privileged(full), PRESSURE_IDLE_SECONDS="1", TARGET_UTILIZATION="0.2")
    with Sessions(full) as sessions, frozen(full, SLOTS - 6) as ids:
        # And the holder of the lock that they wait for
        busy = sessions.active(5)
        assert is_full(full)
        with Storm(full) as storm:
            assert until(lambda: storm.since()["refused"])
            time.sleep(1)
            before = storm.since()
            (report,) = function.invoke(ALARM)["targets"]
            meanwhile = storm.since()
            time.sleep(0.5)
            after = storm.since()
        show(full, report)
        with capsys.disabled():
            print(f" {full.name}: logins before {dict(before)}, after {dict(after)}")
        assert before["served"] == 0
        assert before["refused"] > CLIENTS
        assert after["served"] > 9 * after["refused"]
        assert before["lost"] + meanwhile["lost"] + after["lost"] == 0
        assert {victim["id"] for victim in report["victims"]} <= set(ids)
        sessions.release_active()
        assert all(client.run("SELECT 1") == [(1,)] for client in busy)


def test_it_stops_at_the_target(full: Server, function: Lambda) -> None:
    """95 % used, nobody over idle_seconds: those idle longest die, exactly as many as the target
    takes.
    """
    stops_at_the_target(full, function)


def test_it_stops_at_the_target_where_idle_times_are_upper_bounds(
    servers: Servers, function: Lambda
) -> None:
    """The same on MySQL without performance_schema, where it takes a second look."""
    if not (like := servers["mysql_nops"]).own:
        pytest.skip(f"{like.name} is not ours to fill")
    with small(like) as server:
        stops_at_the_target(server, function)


def stops_at_the_target(full: Server, function: Lambda) -> None:
    deployed(function, full, ordinary(full))
    with Sessions(full) as sessions:
        # And the reaper
        clients = sessions.sleeping(SLOTS * 95 // 100 - 1)
        rest(full)
        (report,) = function.invoke(ALARM)["targets"]
        assert report["connections"] == {"used": 38, "max": SLOTS, "utilization": 0.95}
        check_relief(report, [client.id for client in clients])
        assert [victim["id"] for victim in report["victims"]] == [
            client.id for client in clients[: 38 - AT_TARGET]
        ]
        assert all(client.alive() for client in clients[38 - AT_TARGET :])
        assert report["spared"]["target_reached"] == AT_TARGET - 1


def test_a_user_at_its_own_limit(full: Server) -> None:
    """On a server that is not full a user at its own limit is pressure for that user only, to the
    end of the sweep.
    """
    with Sessions(full) as sessions:
        others = sessions.sleeping(18)
        limited = sessions.sleeping(LIMIT, user="limited")
        rest(full)
        report = sweep(
            full, trigger="alarm", idle_seconds=3600, pressure_idle_seconds=PRESSURE
        ).run()
        assert (report.error, report.mode, report.pressure_remains) == (None, Mode.PRESSURE, False)
        assert [victim.session.id for victim in report.victims] == [
            client.id for client in limited[:4]
        ]
        assert report.outcomes == {Outcome.TERMINATED: 4}
        assert all(client.alive() for client in [*others, *limited[4:]])


def test_a_rollback_keeps_its_slot(full: Server) -> None:
    """200,000 uncommitted rows: `signalled` while they are rolled back, and no slot is counted that
    is not free.
    """
    with Sessions(full) as sessions:
        (large,) = sessions.sleeping(1)
        large.run("CREATE TABLE big (a int)")
        large.run("BEGIN")
        large.run("INSERT INTO big SELECT 0 FROM items x, items y, items z WHERE z.id <= 20")
        (small,) = sessions.sleeping(1)
        rest(full)
        rules: dict[str, Any] = {
            "in_transaction": "terminate",
            "in_transaction_seconds": 0,
            "max_rollback_rows": 10**6,
        }
        # Ten times as fast: the tenth of a second that is left for the verification is too short
        # for the rollback.
        deadline = Deadline.after(600, lambda: 10 * time.monotonic())
        report = replace(sweep(full, idle_seconds=0, **rules), deadline=deadline).run()
        outcomes = {victim.session.id: victim.outcome for victim in report.victims}
        # Which only has to forget
        if full.engine == "postgres":
            assert outcomes == dict.fromkeys([large.id, small.id], Outcome.TERMINATED)
            return
        assert _rolls_back(full, large.id)
        assert outcomes == {large.id: Outcome.SIGNALLED, small.id: Outcome.TERMINATED}
        assert report.freed == 1
        assert until(lambda: not _rolls_back(full, large.id))
        assert sweep(full, idle_seconds=0, **rules).run().victims == ()


def _rolls_back(server: Server, id_: int) -> bool:
    # a younger copy of innodb_trx
    time.sleep(0.15)
    return bool(
        server.query(
            f"SELECT 1 FROM information_schema.innodb_trx WHERE trx_mysql_thread_id = {id_}"
        )
    )


class Hurry:
    """The clock of somebody who skips the long waits, and looks around in each."""

    def __init__(self, look_around: Callable[[], None]) -> None:
        self._look_around = look_around
        self._skipped = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self._skipped

    def sleep(self, seconds: float) -> None:
        if seconds < 1:
            time.sleep(seconds)
            return
        self._look_around()
        self._skipped += seconds


def test_kills_are_spread(full: Server) -> None:
    """With spread_seconds each user's sessions end a few at a time, evenly, longest idle first."""
    with Sessions(full) as sessions:
        app, other = sessions.sleeping(6), sessions.sleeping(3, user="other")
        rest(full)
        seen: list[tuple[list[int], list[int]]] = []

        def look_around() -> None:
            states = full.states()
            alive = [
                [place for place, client in enumerate(group) if client.id in states]
                for group in (app, other)
            ]
            seen.append((alive[0], alive[1]))

        hurry = Hurry(look_around)
        deadline = Deadline.after(60, hurry)
        spread = sweep(full, trigger="schedule", idle_seconds=0, spread_seconds=30)
        report = replace(spread, deadline=deadline, clock=hurry, sleep=hurry.sleep).run()
        assert report.outcomes == {Outcome.TERMINATED: 9}
        assert seen == [
            ([1, 2, 3, 4, 5], [1, 2]),
            ([2, 3, 4, 5], [1, 2]),
            ([3, 4, 5], [2]),
            ([4, 5], [2]),
            ([5], []),
        ]


def test_what_holds_the_slots_is_told(full: Server, function: Lambda) -> None:
    """Where pressure remains the report says who holds the slots, and the metric that it
    remains.
    """
    deployed(function, full, ordinary(full), PROTECT_USERS="other")
    with Sessions(full) as sessions:
        sessions.active(10)
        sessions.in_transaction(5)
        sessions.sleeping(18, user="other")
        rest(full)
        (report,) = function.invoke(ALARM)["targets"]
        assert report["pressure_remains"] is True
        kinds = (Reason.ACTIVE, Reason.IN_TRANSACTION, Reason.OWN_ACCOUNT)
        assert [report["holding"].get(kind) for kind in kinds] == [10, 5, 1]
        # And the one that blocks the active, unless its lock is seen
        assert report["holding"]["protected"] >= 18
    assert function.metrics[full.name]["PressureRemains"] == 1
