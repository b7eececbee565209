"""A database server to test against: its address, its accounts, and its process if the tests
started it.
"""

from __future__ import annotations

import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlencode

from . import processes

Connection = Any
Rows = list[tuple[Any, ...]]


class Unavailable(Exception):
    """This server cannot be started here; the message says why in one line."""


class Client(Protocol):
    """One session, as its client sees it."""

    id: int
    user: str

    def run(self, sql: str) -> Rows: ...
    def start(self, sql: str) -> None: ...
    def finish(self) -> None: ...
    def alive(self) -> bool: ...
    def close(self) -> None: ...


class Once:
    """A folder that the first call makes, while other threads wait for it."""

    def __init__(self, make: Callable[[], Path]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: Path | None = None

    def __call__(self) -> Path:
        with self._lock:
            if self._made is None:
                self._made = self._make()
            return self._made


class Kind(Protocol):
    """What differs between engines, and between the servers of one engine."""

    engine: str
    flavour: str
    root: str
    stop_signal: signal.Signals
    abort_signal: signal.Signals
    errors: tuple[type[Exception], ...]

    @property
    def template(self) -> Callable[[], Path]: ...
    def command(self, data: Path, port: int, settings: Mapping[str, str]) -> list[str]: ...
    def discard(self, data: Path) -> None: ...
    def connect(
        self, server: Server, user: str, database: str, application: str | None
    ) -> Connection: ...
    def client(self, connection: Connection, user: str) -> Client: ...
    def data_folder(self, connection: Connection) -> str: ...
    def states(self, connection: Connection) -> dict[int, str]: ...
    def install(self, server: Server) -> None: ...


@dataclass
class Server:
    name: str
    kind: Kind
    host: str
    port: int
    root: str
    password: str = field(default="", repr=False)
    options: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    process: processes.Process | None = field(default=None, repr=False)

    @property
    def own(self) -> bool:
        """Whether the tests started it, and may fill, stop or kill it."""
        return self.folder is not None

    @property
    def engine(self) -> str:
        return self.kind.engine

    @property
    def flavour(self) -> str:
        return self.kind.flavour

    @property
    def home(self) -> str:
        """The database to connect to where none is required."""
        return "postgres" if self.engine == "postgres" else ""

    @property
    def pid(self) -> int:
        assert self.process is not None, f"{self.name} is not running"
        return self.process.pid

    def dsn(self, user: str = "app", database: str | None = None, **options: str) -> str:
        scheme = {"postgres": "postgresql"}.get(self.engine, self.engine)
        login = quote(user, safe="") + (
            f":{quote(self.password, safe='')}" if self.password else ""
        )
        database = "shop" if database is None else database
        query = urlencode({**self.options, **options})
        return f"{scheme}://{login}@{self.host}:{self.port}/{database}" + (
            f"?{query}" if query else ""
        )

    def connect(
        self, user: str = "app", database: str = "shop", application: str | None = None
    ) -> Connection:
        """Open a driver's connection in autocommit mode; the database may be empty (MySQL)."""
        return self.kind.connect(self, user, database, application)

    def admin(self) -> Connection:
        return self.connect(self.root, self.home)

    def query(self, sql: str) -> Rows:
        """Run one statement as the administrator, on a connection that is closed again."""
        with closing(self.admin()) as connection:
            return self.kind.client(connection, self.root).run(sql)

    def states(self) -> dict[int, str]:
        """Every session by id, with the server's own word for its state: idle or active, Sleep or
        Query.
        """
        with closing(self.admin()) as connection:
            return self.kind.states(connection)

    def launch(self, attempts: int = 5) -> None:
        """Start the process on the existing data folder; return when logins work."""
        assert self.folder is not None
        for attempt in range(attempts):
            if self._launched():
                return
            # What the previous process held, a port or shared memory, may take a moment to be free
            time.sleep(0.1 * attempt)
        log = (self.folder / "log").read_text(errors="replace")
        raise RuntimeError(f"{self.name} does not start:\n{log[-3000:]}")

    def _launched(self) -> bool:
        assert self.folder is not None
        command = self.kind.command(self.folder / "data", self.port, self.settings)
        with (self.folder / "log").open("ab") as log:
            self.process = processes.spawn(
                command,
                self.kind.abort_signal,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )
        if until(lambda: self._ready() or not self._runs()) and self._runs():
            return True
        self._end(signal.SIGKILL)
        return False

    def _runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def _ready(self) -> bool:
        try:
            with closing(self.admin()) as connection:
                folder = self.kind.data_folder(connection)
        except self.kind.errors:
            return False
        assert self.folder is not None
        if Path(folder).resolve() == (self.folder / "data").resolve():
            return True
        # A server of another process has answered on this port
        self._end(signal.SIGKILL)
        return False

    def _end(self, with_signal: signal.Signals) -> None:
        if self.process is not None:
            processes.end(self.process, with_signal)
            self.process = None

    def halt(self) -> None:
        """Shut the server down as an operator would and keep the data; `launch` starts it again."""
        self._end(self.kind.stop_signal)

    def restart(self) -> None:
        """End the process if it runs; start it again on the same port and data."""
        self.halt()
        self.launch()

    def kill(self) -> None:
        """End the process with SIGKILL and keep the data; `restart` starts it again."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End the process and remove everything that it wrote."""
        if self.folder is None:
            return
        self._end(self.kind.abort_signal)
        self.kind.discard(self.folder / "data")
        until(lambda: self.folder is None or removed(self.folder), timeout=10)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


def removed(folder: Path) -> bool:
    # The children of a killed PostgreSQL may still be writing
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()


def launched(
    name: str, kind: Kind, data: Path, settings: Mapping[str, str], port: int | None = None
) -> Server:
    """Run a new server on a copy of `data`."""
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=processes.run().folder))
    shutil.copytree(data, folder / "data", symlinks=True)
    server = Server(
        name, kind, "127.0.0.1", port or free_port(), kind.root, settings=settings, folder=folder
    )
    for attempt in range(3):
        try:
            server.launch(attempts=1)
            break
        except RuntimeError:
            if attempt == 2:
                server.stop()
                raise
            server.port = port or free_port()
    return server


def free_port() -> int:
    """A port that nobody listens on, below the range that the kernel uses for outgoing connections.

    A port from bind(0) may become a client's own port while a server restarts on it.
    """
    while True:
        port = random.randrange(15000, 32000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def until(condition: Callable[[], object], timeout: float = 60, pause: float = 0.02) -> bool:
    """Wait for a condition; say whether it came true in time."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True
