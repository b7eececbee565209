"""The Extensions API: environments that are told before they end, because an external extension is
registered.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from lab.servers import processes, until

from .lambdas import INIT_SECONDS, Call, Code, Environment, Reply, Routes

# Variables that Lambda sets for the runtime only, not for extensions.
HIDDEN = {
    "AWS_EXECUTION_ENV",
    "AWS_LAMBDA_LOG_GROUP_NAME",
    "AWS_LAMBDA_LOG_STREAM_NAME",
    "LAMBDA_TASK_ROOT",
    "_HANDLER",
}
RUNTIME_SECONDS, ALL_SECONDS = 0.3, 2.0
# Allowance for a busy test machine, in addition to Lambda's own limits
SLACK = 5


class Extended(Environment):
    """An environment with the external extensions of a layer.

    It ends as the documentation and AWS's emulator say: thaw, SIGTERM to the runtime, then SHUTDOWN
    to the extensions, and SIGKILL to whichever takes too long. A timeout ends it in the same way.
    """

    def __init__(self, code: Code, layer: Path) -> None:
        self.programs = sorted((layer / "extensions").iterdir())
        self.extensions: dict[str, processes.Process] = {}
        self.events: dict[str, list[str]] = {}
        """What each extension has registered for."""
        self.init_seconds = 0.0
        """How long the extensions took to register, which nothing else may begin before."""
        self.seconds = 0.0
        """How long the shutdown took."""
        self.last_words: list[str] = []
        """What was printed since the last invocation."""
        self._identifiers: dict[str, str] = {}
        self._waiting: set[str] = set()
        self._retiring = False
        self._shutdown = False
        super().__init__(code)

    def routes(self) -> Routes:
        extension = "/2020-01-01/extension"
        return {
            **super().routes(),
            ("POST", f"{extension}/register"): self._register,
            ("GET", f"{extension}/event/next"): self._next_event,
        }

    def start(self) -> None:
        """Start the extensions and, when all have registered, the runtime."""
        begun = time.monotonic()
        for program in self.programs:
            self.extensions[program.name] = self._launched(program)
        assert self.wait(lambda: len(self.events) == len(self.programs), INIT_SECONDS), (
            "who has not registered?"
        )
        self.init_seconds = time.monotonic() - begun
        super().start()

    def _launched(self, program: Path) -> processes.Process:
        environ = {name: value for name, value in self.environ.items() if name not in HIDDEN}
        extension = processes.spawn(
            [str(program)],
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        self.members.append(extension)
        return extension

    @property
    def idle(self) -> bool:
        return super().idle and len(self._waiting) == len(self.programs)

    @property
    def ended(self) -> bool:
        return self.closed or (super().ended and not self._retiring)

    @property
    def statuses(self) -> Mapping[str, int | None]:
        """The exit statuses of the processes; negative if one was ended by that signal."""
        return {"runtime": self.runtime.returncode} | {
            name: process.returncode for name, process in self.extensions.items()
        }

    def close(self) -> None:
        if not self.ended:
            self._retire()
        super().close()

    def _retire(self) -> None:
        self._retiring = True
        self.thaw()
        if self.idle:
            until(lambda: at_rest(self.runtime.pid))
        begun = time.monotonic()
        processes.end(self.runtime, signal.SIGTERM, RUNTIME_SECONDS * SLACK)
        self._shutdown = True
        self.announce()
        for extension in self.extensions.values():
            with suppress(subprocess.TimeoutExpired):
                extension.wait(ALL_SECONDS * SLACK)
        self.seconds = time.monotonic() - begun
        self.last_words = self._printed()

    def _register(self, call: Call) -> Reply:
        name = call.headers["Lambda-Extension-Name"]
        if name in self.events or name not in {program.name for program in self.programs}:
            return Reply(403, b'{"errorType": "Extension.InvalidExtensionState"}')
        identifier = str(uuid.uuid4())
        self._identifiers[identifier] = name
        self.events[name] = json.loads(call.body)["events"]
        self.announce()
        answer = {
            "functionName": "reaper",
            "functionVersion": "$LATEST",
            "handler": self.code.handler,
        }
        return Reply(200, json.dumps(answer).encode(), {"Lambda-Extension-Identifier": identifier})

    def _next_event(self, call: Call) -> Reply:
        name = self._identifiers.get(call.headers["Lambda-Extension-Identifier"])
        if name is None:
            return Reply(403, b'{"errorType": "Extension.UnknownExtensionIdentifier"}')
        self._waiting.add(name)
        self.announce()
        self.wait(lambda: self._shutdown, float("inf"))
        deadline = int((time.time() + ALL_SECONDS) * 1000)
        event = {"eventType": "SHUTDOWN", "shutdownReason": "spindown", "deadlineMs": deadline}
        return Reply(200, json.dumps(event).encode())


def at_rest(pid: int) -> bool:
    """Whether all threads of a process wait for something.

    Python runs a signal's handler when its main thread wakes. On a thawed machine it does; a
    process that is digesting SIGCONT may have the signal delivered to another thread, and one that
    has only just become idle may be about to wait for a lock, signal or not.
    """
    states = (
        stat.read_text().rpartition(")")[2].split()[0]
        for stat in Path(f"/proc/{pid}/task").glob("*/stat")
    )
    return all(state == "S" for state in states)
