"""Real processes that play Lambda environments: invoked, kept busy, frozen, thawed."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

from lab.servers import processes

PATIENCE = 30.0


class DemoFailed(Exception):
    """The demo did not see what it promised; the message says what, in one line."""


def check(held: bool, otherwise: str) -> None:
    if not held:
        raise DemoFailed(otherwise)


class Environment:
    """One process with one function in it.

    It starts in the background and connects when first invoked.

    `sessions` and `orders` are what it says of its work: the server's sessions it used, the orders
    it booked.
    """

    def __init__(self, name: str, function: dict[str, Any]) -> None:
        self.name = name
        self.sessions: set[int] = set()
        self.orders = 0
        script = Path(__file__).with_name("function.py")
        pipe = subprocess.PIPE
        # `-I`: an application's process, which knows nothing of the reaper.
        self.process = processes.spawn(
            [sys.executable, "-I", str(script)], stdin=pipe, stdout=pipe, bufsize=0
        )
        self._commands, self._answers = (
            cast(IO[bytes], self.process.stdin),
            cast(IO[bytes], self.process.stdout),
        )
        self._send(json.dumps(function))

    def invoke(self) -> str | None:
        """Have it book one order; return the error its caller would see."""
        self._send("invoke")
        return self._answer()

    def work(self) -> None:
        """Have it book one order, which must succeed."""
        error = self.invoke()
        check(error is None, f"{self.name} could not work: {error}")

    def start_work(self) -> None:
        """Run statement after statement until `finish_work`."""
        self._send("work")

    def finish_work(self) -> str | None:
        """Let it end the statement it is at; return the error that stopped it earlier."""
        self._send("stop")
        return self._answer()

    def freeze(self) -> None:
        """Stop the process as Lambda does between invocations; return when it stands still."""
        os.kill(self.process.pid, signal.SIGSTOP)
        _, status = os.waitpid(self.process.pid, os.WUNTRACED)
        check(os.WIFSTOPPED(status), f"{self.name} ended instead of freezing")

    def thaw(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    def close(self) -> None:
        """End it, frozen or not."""
        processes.end(self.process)
        self._commands.close()
        self._answers.close()

    def _send(self, line: str) -> None:
        # It has ended, which the missing answer will tell
        with suppress(BrokenPipeError):
            self._commands.write(line.encode() + b"\n")

    def _answer(self) -> str | None:
        answers = bool(select.select([self._answers], [], [], PATIENCE)[0])
        check(answers, f"{self.name} did not answer within {PATIENCE:.0f} s")
        line = self._answers.readline()
        check(bool(line), f"{self.name} has ended")
        answer = json.loads(line)
        self.sessions.update(answer["sessions"])
        self.orders += answer["orders"]
        error: str | None = answer["error"]
        return error
