"""Functions that the platform froze: processes under SIGSTOP that still hold their sessions."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from .servers import processes


class Frozen:
    """A process with `connections` sessions, each of which has run one statement.

    It starts in the background: make many, then use them. `freeze` and `thaw` are what the platform
    does between two invocations.
    """

    def __init__(
        self,
        dsn: str,
        connections: int = 1,
        statement: str = "SELECT 1",
        application: str | None = "lambda",
    ) -> None:
        order = {
            "connect": arguments(dsn, application),
            "connections": connections,
            "statement": statement,
        }
        script = Path(__file__).with_name("frozen_function.py")
        pipe = subprocess.PIPE
        self.process = processes.spawn(
            [sys.executable, "-I", str(script)], stdin=pipe, stdout=pipe, bufsize=0
        )
        self.stopped = False
        self._send({"engine": "postgres" if dsn.startswith("postgres") else "mysql", **order})

    @cached_property
    def ids(self) -> list[int]:
        """Its sessions; waits until they are open."""
        ids: list[int] = self._receive()
        return ids

    def freeze(self) -> None:
        """Return when it has stopped."""
        assert self.ids, "open first"
        os.kill(self.process.pid, signal.SIGSTOP)
        _, status = os.waitpid(self.process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), f"process {self.process.pid} has ended"
        self.stopped = True

    def thaw(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)
        self.stopped = False

    def run(self, sql: str = "SELECT 1") -> list[str]:
        """Run a statement on each session: "ok" or the error's text."""
        assert not self.stopped, "a frozen process answers nothing"
        assert self.ids, "open first"
        self._send(sql)
        answers: list[str] = self._receive()
        return answers

    def _send(self, message: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message).encode() + b"\n")

    def _receive(self) -> Any:
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], 60)[0]:
            raise TimeoutError(f"process {self.process.pid} does not answer")
        line = self.process.stdout.readline()
        assert line, f"process {self.process.pid} has ended: see its error output"
        return json.loads(line)

    def close(self) -> None:
        """End it, stopped or not."""
        processes.end(self.process)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> Frozen:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def arguments(dsn: str, application: str | None) -> dict[str, Any]:
    """The driver's connect arguments, so that the function itself needs nothing of ours."""
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
