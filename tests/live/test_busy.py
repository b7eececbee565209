"""Sessions that work between short pauses are never hurt, however often they are swept."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass, field

import pytest

from lab.servers import Client, Server, Sessions
from reaper.client.drivers.connection import SocketWatch
from reaper.model import Outcome
from reaper.report import Report
from tests.harness import sweep

THRESHOLD = 1.0
SECONDS = 8.0


@dataclass
class Worker:
    """A client that sleeps and runs a statement in turn, and notes what became of it."""

    sessions: Sessions
    shortest: float
    longest: float
    dice: random.Random
    client: Client = field(init=False)
    wrongly: list[str] = field(default_factory=list)
    while_idle: int = 0
    after_begin: int = 0

    def work(self, until: float) -> None:
        self.client = self._open()
        while time.monotonic() < until:
            ended = time.monotonic()
            time.sleep(self.dice.uniform(self.shortest, self.longest))
            was_dead = SocketWatch(_socket(self.client)).has_news()
            slept = time.monotonic() - ended
            if self._ran():
                continue
            if slept < THRESHOLD:
                self.wrongly.append(f"killed after {slept:.3f} s")
            self.while_idle += was_dead
            self.after_begin += not was_dead
            self.client = self._open()

    def _ran(self) -> bool:
        try:
            return self.client.run("SELECT 1") == [(1,)]
        except self.sessions.server.kind.errors:
            return False

    def _open(self) -> Client:
        return self.sessions.sleeping(1)[0]


def _socket(client: Client) -> int:
    connection = client.connection  # type: ignore[attr-defined]  # both engines' clients have one
    return int(
        connection.pgconn.socket if hasattr(connection, "pgconn") else connection._sock.fileno()
    )


def test_pauses_under_the_threshold_are_safe(
    server: Server, sessions: Sessions, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sweeps with idle_seconds 1 run without pause: whoever pauses less than that never fails.

    For those that cross it the failures are counted, split by whether a statement had begun.
    """
    workers = [Worker(sessions, 0.01, 0.6, random.Random(seed)) for seed in range(6)]
    crossing = [Worker(sessions, 0.7, 2.5, random.Random(100 + seed)) for seed in range(6)]
    until = time.monotonic() + SECONDS
    threads = [threading.Thread(target=worker.work, args=(until,)) for worker in workers + crossing]
    for thread in threads:
        thread.start()
    reports: list[Report] = []
    while time.monotonic() < until:
        reports.append(sweep(server, idle_seconds=THRESHOLD).run())
    for thread in threads:
        thread.join()

    assert [report.error for report in reports if report.error] == []
    assert [wrong for worker in workers + crossing for wrong in worker.wrongly] == []
    struck = [
        victim
        for report in reports
        for victim in report.victims
        if victim.outcome is Outcome.TERMINATED
    ]
    idle = [victim.session.idle_seconds for victim in struck]
    # A victim's mark at its re-read was that of the look, so it had been idle at least as long as
    # then.
    assert all(seconds is not None and seconds >= THRESHOLD for seconds in idle)
    while_idle, after = sum(w.while_idle for w in crossing), sum(w.after_begin for w in crossing)
    with capsys.disabled():
        print(
            f" {server.name}: {len(reports)} sweeps, {len(struck)} terminated: {while_idle} idle, "
            f"{after} had begun"
        )
