"""Lambda as a function sees it: environments with a runtime API, frozen, thawed and ended as the
platform does.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from lab.context import Context
from lab.servers import processes

# What Lambda's Python contains beside the standard library: the runtime client, boto3, and their
# dependencies.
PROVIDED = (
    "awslambdaric",
    "simplejson",
    "snapshot-restore-py",
    "boto3",
    "botocore",
    "jmespath",
    "python-dateutil",
    "s3transfer",
    "six",
    "urllib3",
)
# Lambda allows 10; a busy test machine gets more
INIT_SECONDS = 60
# How often it is checked whether an environment has died
SIGHT = 0.05


@dataclass(frozen=True)
class Code:
    """What is deployed: the folders of the function and its layers, the entry point, the
    variables.
    """

    folders: Sequence[Path]
    handler: str
    environ: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 60


@dataclass(frozen=True)
class Invocation:
    """What the caller gets, and what the log group received meanwhile."""

    answer: Any
    error: Mapping[str, Any] | None
    lines: Sequence[str]
    cold: bool
    # Includes the init phase of a cold start
    seconds: float

    @property
    def documents(self) -> list[dict[str, Any]]:
        """The lines of the log, each of which must be a JSON object."""
        return [json.loads(line) for line in self.lines]

    @property
    def metrics(self) -> list[dict[str, Any]]:
        return [document for document in self.documents if "_aws" in document]

    def logged(self, message: str) -> list[dict[str, Any]]:
        return [document for document in self.documents if document.get("message") == message]


class Function:
    """A deployed function with one environment at a time; the next invocation after its end starts
    another.
    """

    def __init__(self, code: Code, make: Callable[[Code], Environment] | None = None) -> None:
        self.code = code
        self._make = make or Environment
        self.environment: Environment | None = None

    def invoke(self, event: Any) -> Invocation:
        cold = self.environment is None or self.environment.ended
        if cold:
            self.close()
            self.environment = self._make(self.code)
        assert self.environment is not None
        return self.environment.invoke(event, cold)

    def freeze(self) -> None:
        assert self.environment is not None, "invoke first"
        self.environment.freeze()

    def thaw(self) -> None:
        assert self.environment is not None, "invoke first"
        self.environment.thaw()

    @property
    def runtime(self) -> processes.Process:
        assert self.environment is not None, "invoke first"
        return self.environment.runtime

    def close(self) -> None:
        if self.environment is not None:
            self.environment.close()
            self.environment = None

    def __enter__(self) -> Function:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@dataclass(frozen=True)
class Call:
    """A request to the environment's API."""

    # What the groups in the route's pattern matched
    parts: Sequence[str]
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Reply:
    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


Route = Callable[[Call], Reply]
# By method and by the pattern that the whole path must match
Routes = Mapping[tuple[str, str], Route]


# An answer, or an error
Outcome = tuple[Any, Mapping[str, Any] | None]


class Ended(Exception):
    """What was waited for cannot happen any more: a process has ended, or the environment is
    closed.
    """


@dataclass(frozen=True)
class _Event:
    id: str
    body: bytes
    # By the wall clock, as the runtime is told
    deadline: float


class Environment:
    """One execution environment: an API on a port of its own, and the runtime client as a child
    process.

    A subclass may add `routes`, and processes beside the runtime in `start`: what `spawn` made is
    frozen, thawed and ended with it, once `idle`. A route waits by `wait` for what other routes do
    and `announce`.
    """

    def __init__(self, code: Code) -> None:
        self.code = code
        self.changed = threading.Condition()
        self.closed = False
        self.frozen = False
        self.members: list[processes.Process] = []
        # The runtime has asked for its next event
        self._asks = False
        self._event: _Event | None = None
        self._outcome: Outcome | None = None
        self._folder = Path(tempfile.mkdtemp(prefix="lambda-", dir=processes.run().folder))
        self._log = (self._folder / "log").open("ab")
        self._read = 0
        self._api = _Api(self.routes())
        self.start()

    def routes(self) -> Routes:
        invocation = "/2018-06-01/runtime/invocation"
        return {
            ("GET", f"{invocation}/next"): self._next,
            ("POST", f"{invocation}/([^/]+)/response"): self._response,
            ("POST", f"{invocation}/([^/]+)/error"): self._error,
            ("POST", "/2018-06-01/runtime/init/error"): self._error,
        }

    def start(self) -> None:
        """Start the processes, the runtime last."""
        # -S: only the standard library, what Lambda provides and what is deployed can be imported
        self.runtime = self.spawn([sys.executable, "-S", "-m", "awslambdaric", self.code.handler])

    def spawn(self, command: Sequence[str]) -> processes.Process:
        member = processes.spawn(
            command,
            env=self.environ,
            cwd=self.code.folders[0],
            stdin=subprocess.DEVNULL,
            # a file, not a pipe: what was printed before an answer is there when the answer is
            stdout=self._log,
            stderr=self._log,
        )
        self.members.append(member)
        return member

    @property
    def environ(self) -> dict[str, str]:
        """The whole environment of the processes."""
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "PYTHONPATH": os.pathsep.join(map(str, [*self.code.folders, provided()])),
            # What is deployed is read-only
            "PYTHONDONTWRITEBYTECODE": "1",
            "TZ": ":UTC",
            "_HANDLER": self.code.handler,
            "LAMBDA_TASK_ROOT": str(self.code.folders[0]),
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self._api.server_port}",
            # With an unknown value awslambdaric never calls the handler
            "AWS_EXECUTION_ENV": "AWS_Lambda_python3.13",
            "AWS_LAMBDA_FUNCTION_NAME": "reaper",
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "256",
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_LAMBDA_LOG_FORMAT": "JSON",
            "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/reaper",
            "AWS_LAMBDA_LOG_STREAM_NAME": "2026/11/20/[$LATEST]0",
            "AWS_REGION": "eu-central-1",
            "AWS_DEFAULT_REGION": "eu-central-1",
            "AWS_ACCESS_KEY_ID": "testing",
            # AWS is not reachable; moto accepts any key
            "AWS_SECRET_ACCESS_KEY": "testing",
            **self.code.environ,
        }

    def wait(self, condition: Callable[[], object], seconds: float) -> bool:
        """Whether the condition came true in time; raise Ended if it cannot come true any more."""
        deadline = time.monotonic() + seconds
        with self.changed:
            while not condition():
                if self.ended:
                    raise Ended
                if (left := deadline - time.monotonic()) <= 0:
                    return False
                self.changed.wait(min(left, SIGHT))
        return True

    def announce(self) -> None:
        """Wake every thread that waits."""
        with self.changed:
            self.changed.notify_all()

    @property
    def idle(self) -> bool:
        """Whether all processes have asked for their next event, so that the platform may freeze
        them.
        """
        return self._asks

    @property
    def ended(self) -> bool:
        return self.closed or any(member.poll() is not None for member in self.members)

    def invoke(self, event: Any, cold: bool = False) -> Invocation:
        """Thaw, hand over the event, and wait until the environment is idle again; close it if it
        never will be.
        """
        self.thaw()
        begun = time.monotonic()
        try:
            answer, error = self._init_failure() or self._handled(event)
        except Ended:
            answer, error = self._outcome or self._exited()
        if self.ended or not self.idle:
            self.close()
        self._outcome = None
        return Invocation(answer, error, self._printed(), cold, time.monotonic() - begun)

    def _init_failure(self) -> Outcome | None:
        if not self.wait(lambda: self.idle or self._outcome, INIT_SECONDS):
            raise TimeoutError(f"no init within {INIT_SECONDS} s; printed: {self._printed()}")
        return self._outcome

    def _handled(self, event: Any) -> Outcome:
        timeout = self.code.timeout
        given = _Event(str(uuid.uuid4()), json.dumps(event).encode(), time.time() + timeout)
        with self.changed:
            self._event, self._asks = given, False
            self.changed.notify_all()
        self.wait(lambda: self._outcome and self.idle, timeout)
        return self._outcome or _failed(
            "Sandbox.Timedout", f"{given.id}: Task timed out after {timeout:.2f} seconds"
        )

    def _exited(self) -> Outcome:
        status = next(member.returncode for member in self.members if member.poll() is not None)
        how = f"exit status {status}" if status >= 0 else f"signal: {signal.Signals(-status).name}"
        return _failed("Runtime.ExitError", f"Runtime exited with error: {how}")

    def _printed(self) -> list[str]:
        """The lines that all processes wrote since the last call."""
        with Path(self._log.name).open("rb") as log:
            log.seek(self._read)
            text = log.read()
        self._read += len(text)
        return [line for line in text.decode(errors="replace").split("\n") if line]

    def freeze(self) -> None:
        """Stop all processes between two invocations; return when they stand still."""
        assert self.wait(lambda: self.idle, INIT_SECONDS), "the environment is not idle"
        for member in self.members:
            # One that has ended instead is noticed at the next invocation
            processes.freeze(member)
        self.frozen = True

    def thaw(self) -> None:
        for member in self.members if self.frozen else ():
            processes.thaw(member)
        self.frozen = False

    def close(self) -> None:
        """End everything without a warning, as the platform retires an environment without
        extensions.
        """
        for member in self.members:
            processes.end(member)
        if not self.closed:
            self.closed = True
            self.announce()
            self._api.close()
            self._log.close()

    def _next(self, _call: Call) -> Reply:
        with self.changed:
            self._asks = True
            self.changed.notify_all()
        self.wait(lambda: self._event, float("inf"))
        given, self._event = self._event, None
        assert given is not None
        headers = {
            "Content-Type": "application/json",
            "Lambda-Runtime-Aws-Request-Id": given.id,
            "Lambda-Runtime-Deadline-Ms": str(int(given.deadline * 1000)),
            "Lambda-Runtime-Invoked-Function-Arn": Context.invoked_function_arn,
        }
        return Reply(200, given.body, headers)

    def _response(self, call: Call) -> Reply:
        return self._done(json.loads(call.body), None)

    def _error(self, call: Call) -> Reply:
        return self._done(None, json.loads(call.body))

    def _done(self, answer: Any, error: Mapping[str, Any] | None) -> Reply:
        with self.changed:
            self._outcome = (answer, error)
            self.changed.notify_all()
        return Reply(202, b'{"status": "OK"}')


def _failed(kind: str, message: str) -> Outcome:
    return None, {"errorType": kind, "errorMessage": message}


class _Api(ThreadingHTTPServer):
    """The HTTP server that the runtime, and any extension, talks to."""

    daemon_threads = True

    def __init__(self, routes: Routes) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self._routes = [
            (method, re.compile(path), route) for (method, path), route in routes.items()
        ]
        threading.Thread(target=self.serve_forever, args=(SIGHT,), daemon=True).start()

    def reply(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        for known, pattern, route in self._routes:
            if known == method and (match := pattern.fullmatch(path)):
                return route(Call(match.groups(), headers, body))
        return Reply(404, f"no such route: {method} {path}".encode())

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Api

    def handle(self) -> None:
        # The process that asked has been killed meanwhile
        with suppress(Ended, ConnectionError):
            super().handle()

    def _converse(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        reply = self.server.reply(self.command, self.path, dict(self.headers), body)
        self.send_response(reply.status)
        for name, value in {**reply.headers, "Content-Length": str(len(reply.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.body)

    do_GET = do_POST = _converse  # noqa: N815  names that http.server prescribes

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@cache
def provided() -> Path:
    """A folder with what Lambda's Python provides, copied from this environment, and nothing else
    of it.
    """
    folder = processes.run().folder / "provided"
    folder.mkdir()
    for name in PROVIDED:
        package = distribution(name)
        tops = {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}
        for top in tops:
            (folder / top).symlink_to(Path(str(package.locate_file(top))).resolve())
    return folder
