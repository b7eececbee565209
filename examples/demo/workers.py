"""Real processes that play Lambda environments: invoked, kept busy, frozen, thawed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lab.frozen import FreezableScript

PATIENCE = 30.0


class DemoFailed(Exception):
    """The demo did not see what it promised; the message says what, in one line."""


def check(held: bool, otherwise: str) -> None:
    """Raise DemoFailed with these words unless it held."""
    if not held:
        raise DemoFailed(otherwise)


class Environment(FreezableScript):
    """One process with one function in it.

    It starts in the background and connects when first invoked. `sessions` and `orders` are what it
    says of its work: the server's sessions that it used, the orders that it booked.
    """

    def __init__(self, name: str, function: dict[str, Any]) -> None:
        super().__init__(Path(__file__).with_name("function.py"), PATIENCE)
        self.name = name
        self.sessions: set[int] = set()
        self.orders = 0
        self.send(json.dumps(function))

    def invoke(self) -> str | None:
        """Have it book one order; return the error its caller would see."""
        self.send("invoke")
        return self._answer()

    def work(self) -> None:
        """Have it book one order, which must succeed."""
        error = self.invoke()
        check(error is None, f"{self.name} could not work: {error}")

    def start_work(self) -> None:
        """Run statement after statement until `finish_work`."""
        self.send("work")

    def finish_work(self) -> str | None:
        """Let it end the statement it is at; return the error that stopped it earlier."""
        self.send("stop")
        return self._answer()

    def freeze(self) -> None:
        """Return when it stands still; raise DemoFailed if it has ended instead."""
        try:
            super().freeze()
        except EOFError as problem:
            raise DemoFailed(f"{self.name} {problem}") from problem

    def _answer(self) -> str | None:
        try:
            answer = self.receive()
        except (TimeoutError, EOFError) as problem:
            raise DemoFailed(f"{self.name} {problem}") from problem
        self.sessions.update(answer["sessions"])
        self.orders += answer["orders"]
        error: str | None = answer["error"]
        return error
