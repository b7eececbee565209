"""What the tests share: the function as Lambda would run it, and targets for the test servers."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from lab.context import Context
from lab.servers import Server
from lab.targets import target
from reaper import handler, running
from reaper.client.deadline import Deadline
from reaper.client.events import GivenUp
from reaper.model import SweepTarget
from reaper.rules import Rules
from reaper.sweep import Sweep


def sweep(server: Server, user: str = "reaper", trigger: str = "manual", **rules: Any) -> Sweep:
    """A sweep of a test server, live unless the rules say otherwise."""
    return Sweep(
        target=SweepTarget.from_mapping(target(server, user)),
        rules=Rules.from_json({"dry_run": False, **rules}),
        trigger=trigger,
        deadline=Deadline.after(60),
        two_looks=trigger == "manual",
    )


def settle(server: Server, sees_fractions: bool = True) -> None:
    """Wait until MySQL's innodb_trx cannot lag behind what the sessions did last, and Time is not
    zero.
    """
    if server.engine == "mysql":
        time.sleep(0.25 if sees_fractions and server.name != "mysql_nops" else 1.1)


class Lambda:
    """The function with its environment, and everything that it printed, line by line."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        self.lines: list[dict[str, Any]] = []
        self._invocations = 0
        self.end()

    def end(self) -> None:
        """What becomes of the environment: nothing is remembered, and its seats are left."""
        running.IDLE_HISTORIES.clear()
        while running.SEATS:
            running.SEATS.popitem()[1].discard(GivenUp.CLOSED)

    def configure(self, *targets: dict[str, Any], **environ: str) -> None:
        self._monkeypatch.setenv("REAPER_TARGETS", json.dumps(targets))
        for name, value in environ.items():
            self._monkeypatch.setenv(name, value)

    def invoke(self, event: Any, seconds: float = 60) -> dict[str, Any]:
        """The answer; the invocations' requests are called request-1, request-2 and so on."""
        self._invocations += 1
        context = Context(seconds, f"request-{self._invocations}")
        try:
            return handler.lambda_handler(event, context)
        finally:
            self.lines += [
                json.loads(line) for line in self._capsys.readouterr().out.splitlines() if line
            ]

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """The newest value of each metric, by target."""
        found: dict[str, dict[str, float]] = {}
        for line in self.lines:
            if "_aws" in line:
                names = [
                    metric["Name"] for metric in line["_aws"]["CloudWatchMetrics"][0]["Metrics"]
                ]
                found[line["Target"]] = {name: line[name][0] for name in names}
        return found

    @property
    def log(self) -> list[dict[str, Any]]:
        """Every line that is no document of metrics."""
        return [line for line in self.lines if "_aws" not in line]

    def logged(self, message: str) -> list[dict[str, Any]]:
        return [line for line in self.log if line.get("message") == message]
