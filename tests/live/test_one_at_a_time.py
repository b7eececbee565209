"""Two sweeps of one server at once: one works, the other says `busy`; the dead and the frozen hold
nobody up.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from subprocess import PIPE
from typing import Any

import pytest

from lab.servers import Client, Server, Sessions, processes, until
from lab.targets import target
from reaper.model import Outcome
from reaper.report import ErrorKind, Report
from tests.conftest import Servers, names
from tests.harness import Lambda, settle, sweep

RULES: dict[str, Any] = {"dry_run": False, "idle_seconds": 0}


@dataclass
class Midway:
    """Another environment, in the middle of its sweep of a server."""

    server: Server
    process: processes.Process = field(init=False)

    def __enter__(self) -> Midway:
        command = [sys.executable, "-m", "tests.live.midway"]
        self.process = processes.spawn(command, stdin=PIPE, stdout=PIPE, bufsize=0)
        self._say(json.dumps({"target": target(self.server), "rules": RULES}))
        assert self._hear() == "midway"
        return self

    def send(self, sent: signal.Signals) -> None:
        os.kill(self.process.pid, sent)

    def go_on(self) -> Any:
        """Its report."""
        self._say("go on")
        return self._hear()

    def _say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")

    def _hear(self) -> Any:
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], 60)[0], (
            "the other reaper does not answer"
        )
        return json.loads(self.process.stdout.readline())

    def __exit__(self, *exc: object) -> None:
        processes.end(self.process)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


def swept(server: Server, frozen_after: float = 900) -> Report:
    return replace(sweep(server, **RULES), frozen_after=frozen_after).run()


def is_busy(report: Report) -> bool:
    return report.error is not None and report.error.kind is ErrorKind.BUSY


def swept_in_the_end(server: Server, frozen_after: float = 900) -> Report:
    """The report of the first sweep that is not told to leave it to the other."""
    reports: list[Report] = []

    def goes_through() -> bool:
        reports.append(swept(server, frozen_after))
        return not is_busy(reports[-1])

    assert until(goes_through, timeout=30), "the lock does not come free"
    return reports[-1]


# Whose locks are mysql's
@pytest.fixture(params=[name for name in names() if name != "mysql_nops"])
def there(request: pytest.FixtureRequest, servers: Servers) -> Server:
    return servers[request.param]


@pytest.fixture
def clients(there: Server) -> Iterator[Sequence[Client]]:
    """Three that any sweep would take."""
    with Sessions(there) as sessions:
        opened = sessions.sleeping(3)
        settle(there)
        yield opened


def test_one_sweeps_the_other_is_busy(
    there: Server, clients: Sequence[Client], function: Lambda
) -> None:
    """Alarm and schedule in the same second: the later does nothing and says `busy`, which is no
    failure.
    """
    function.configure(target(there), REAPER_DRY_RUN="false", REAPER_IDLE_SECONDS="0")
    with Midway(there) as other:
        (report,) = function.invoke({"trigger": "alarm"})["targets"]
        assert report["error"]["kind"] == "busy"
        assert report["victims"] == []
        assert there.states().keys() >= {client.id for client in clients}
        metrics = function.metrics[there.name]
        assert (metrics["SweepFailed"], metrics["LockedOut"], metrics["Terminated"]) == (0, 0, 0)
        first = other.go_on()
    assert (first["error"], first["outcomes"]) == (None, {"terminated": 3})
    (report,) = function.invoke({"trigger": "schedule"})["targets"]
    assert (report["error"], report["entry"]) == (None, "seat")


@pytest.mark.usefixtures("clients")
def test_a_killed_holder_frees_the_lock(there: Server) -> None:
    """After kill -9 of the one that sweeps the next one does."""
    with Midway(there) as other:
        assert is_busy(swept(there))
        other.send(signal.SIGKILL)
        assert swept_in_the_end(there).outcomes == {Outcome.TERMINATED: 3}


@pytest.mark.usefixtures("clients")
def test_a_frozen_holder_is_taken_over(there: Server) -> None:
    """One that was frozen in the middle holds nobody up for ever; thawed, it harms nobody."""
    with Sessions(there) as sessions, Midway(there) as other:
        other.send(signal.SIGSTOP)
        assert is_busy(swept(there))
        assert swept_in_the_end(there, frozen_after=1).outcomes == {Outcome.TERMINATED: 3}
        newcomers = sessions.sleeping(3)
        other.send(signal.SIGCONT)
        thawed = other.go_on()
        assert thawed["error"]["kind"] == "server"
        assert thawed["outcomes"] == {}
        assert all(client.alive() for client in newcomers)
