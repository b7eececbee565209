"""Functions that the platform froze: stopped processes that still hold their sessions."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Self, cast
from urllib.parse import unquote, urlsplit

from .servers import processes


class FreezableScript:
    """A Python script in a process of its own that plays one Lambda environment.

    It is sent lines and answers in JSON lines. `freeze` and `thaw` are what Lambda does between two
    invocations. The script runs with `-I`: like an application, it knows nothing of the reaper.
    """

    def __init__(self, script: Path, patience: float = 60.0) -> None:
        self._patience = patience
        self.is_frozen = False
        self.process = processes.spawn(
            [sys.executable, "-I", str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self._commands = cast(IO[bytes], self.process.stdin)
        self._answers = cast(IO[bytes], self.process.stdout)

    def send(self, line: str) -> None:
        """Send a line; that the process has ended is told by `receive`."""
        with suppress(BrokenPipeError):
            self._commands.write(line.encode() + b"\n")

    def receive(self) -> Any:
        """Its next answer.

        Raise TimeoutError if there is none in time, and EOFError if the process has ended.
        """
        if not select.select([self._answers], [], [], self._patience)[0]:
            raise TimeoutError(f"did not answer within {self._patience:.0f} s")
        if not (line := self._answers.readline()):
            raise EOFError("has ended; its error output says why")
        return json.loads(line)

    def freeze(self) -> None:
        """Return when it stands still; raise EOFError if it has ended instead."""
        if not processes.freeze(self.process):
            raise EOFError("ended instead of freezing")
        self.is_frozen = True

    def thaw(self) -> None:
        """Let it go on where it was stopped."""
        processes.thaw(self.process)
        self.is_frozen = False

    def close(self) -> None:
        """End it, frozen or not."""
        processes.end(self.process)
        self._commands.close()
        self._answers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Frozen(FreezableScript):
    """A process with `connections` sessions, each of which has run one statement.

    It starts in the background: make many, then use them.
    """

    def __init__(
        self,
        dsn: str,
        connections: int = 1,
        statement: str = "SELECT 1",
        application: str | None = "lambda",
    ) -> None:
        super().__init__(Path(__file__).with_name("frozen_function.py"))
        order = {
            "engine": "postgres" if dsn.startswith("postgres") else "mysql",
            "connect": arguments(dsn, application),
            "connections": connections,
            "statement": statement,
        }
        self.send(json.dumps(order))

    @cached_property
    def ids(self) -> list[int]:
        """Its sessions; waits until they are open."""
        ids: list[int] = self.receive()
        return ids

    def freeze(self) -> None:
        """Return when it stands still, which it does with all its sessions open."""
        assert self.ids, "open first"
        super().freeze()

    def run(self, sql: str = "SELECT 1") -> list[str]:
        """Run a statement on each session: "ok" or the error's text."""
        assert not self.is_frozen, "a frozen process answers nothing"
        assert self.ids, "open first"
        self.send(json.dumps(sql))
        answers: list[str] = self.receive()
        return answers


def arguments(dsn: str, application: str | None) -> dict[str, Any]:
    """The driver's connect arguments, so that the script itself imports nothing of this project."""
    if dsn.startswith("postgres"):
        return {"conninfo": dsn, "autocommit": True, "application_name": application or ""}
    parts = urlsplit(dsn)
    return {
        "host": parts.hostname,
        "port": parts.port or 3306,
        "user": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "database": parts.path.lstrip("/") or None,
        "autocommit": True,
        "program_name": application,
    }
