"""The one connection that is kept between invocations: trusted, asked or replaced before each use."""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from reaper.client.credentials import Credentials
from reaper.client.deadline import Clock, Deadline
from reaper.client.drivers import driver_for
from reaper.client.drivers.base import Connection, Driver
from reaper.client.events import EventKind
from reaper.client.farewell import FAREWELL
from reaper.client.retry import Dice, Patience
from reaper.client.target import Target


@dataclass(frozen=True)
class Settings:
    """How long a connection is kept and trusted, in seconds.

    The reaper's thresholds belong above `ping_after`.
    """

    ping_after: float = 45.0
    max_idle: float = 600.0
    max_lifetime: float = 3600.0
    # Outside a handler
    timeout: float = 10.0
    ping_timeout: float = 1.0
    patience: Patience = Patience()
    # None: inside Lambda
    close_on_sigterm: bool | None = None
    # RDS Proxy; None: the host's name tells
    behind_proxy: bool | None = None


@dataclass(frozen=True)
class Means:
    """Clock, wall clock, sleep and dice: arguments, so that no test waits.

    Idleness across invocations is wall-clock time: the monotonic clock stops in a freeze.
    """

    wall: Clock = time.time
    clock: Clock = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    dice: Dice = random.random


DEFAULTS, REAL = Settings(), Means()
# Looked up once: each query asks, and until Python 3.12 that takes as long as a call
_REUSED = EventKind.REUSED


@dataclass
class _Open:
    """The connection that waits for the next statement, and what is known of it."""

    connection: Connection
    opened: float
    used: float
    process: int


def is_proxy(host: str) -> bool:
    """Whether this is an endpoint of RDS Proxy: `name.proxy-abc123.eu-central-1.rds.amazonaws.com`."""
    return re.search(r"\.proxy-[^.]+\.[^.]+\.rds\.amazonaws\.com", host) is not None


class Keeper:
    """Keeps one connection. Not thread-safe: whoever owns it holds a lock."""

    def __init__(
        self,
        target: Target,
        settings: Settings,
        means: Means,
        password: Callable[[], str] | None,
        tell: Callable[[EventKind, str], None],
    ) -> None:
        self._target = target
        self._settings = settings
        self._means = means
        self._credentials = Credentials(target, password, means.wall)
        self._tell = tell
        self._kept: _Open | None = None
        self._has_compared = False
        self.behind_proxy = (
            is_proxy(target.host) if settings.behind_proxy is None else settings.behind_proxy
        )
        self._options: dict[str, Any] = {
            "application": os.environ.get("AWS_LAMBDA_FUNCTION_NAME") or "reaper.client",
            "proxy": self.behind_proxy,
        }

    @property
    def connection(self) -> Connection | None:
        return self._kept.connection if self._kept else None

    @property
    def age_and_idle(self) -> tuple[float | None, float | None]:
        """How old the connection is and how long it has been idle, in seconds by the wall clock."""
        now = self._means.wall()
        return (now - self._kept.opened, now - self._kept.used) if self._kept else (None, None)

    @cached_property
    def _driver(self) -> Driver:
        return driver_for(self._target.engine)

    @property
    def login_can_change(self) -> bool:
        """Whether a refused login may be another one when it is read again."""
        return self._credentials.can_change

    def forget_login(self) -> None:
        """Have the secret read again for the next connection."""
        self._credentials.forget()

    def roll_back(self, connection: Connection) -> None:
        """Undo; a connection on which that fails is of no use."""
        try:
            self._driver.run(connection, "ROLLBACK", None)
        except Exception:  # noqa: BLE001  the error that led here is the one to be told
            self.discard("rollback failed")

    def ready(self, deadline: Deadline) -> Connection:
        """A connection that can take a statement: the kept one where it can be trusted, else a new
        one.
        """
        kept = self._kept
        if kept is not None and kept.process != os.getpid():
            # The parent's: closing it here would end the parent's session
            self._kept = kept = None
        if kept is not None:
            kept.connection.deadline = deadline
            if reason := self._distrust(kept, deadline):
                self.discard(reason)
            else:
                self._tell(_REUSED, "")
                return kept.connection
        return self._open(deadline)

    def _distrust(self, kept: _Open, deadline: Deadline) -> str:
        """Why the kept connection is not to be used; empty where it is.

        No round trip unless it has been idle long.
        """
        now = self._means.wall()
        idle, age = now - kept.used, now - kept.opened
        if not 0 <= idle <= self._settings.max_idle:
            return "idle too long"
        if not 0 <= age <= self._settings.max_lifetime:
            return "too old"
        if not self._driver.is_alive(kept.connection):
            return "ended by the server"
        if idle > self._settings.ping_after and not self._answers(kept.connection, deadline):
            return "does not answer"
        if self._driver.in_transaction(kept.connection):
            self.roll_back(kept.connection)
        return "" if self._kept is kept else "left in a transaction"

    def _answers(self, connection: Connection, deadline: Deadline) -> bool:
        connection.deadline = deadline.sooner(self._settings.ping_timeout)
        try:
            self._driver.ping(connection)
        except Exception:  # noqa: BLE001  whatever it is, the connection is not to be used
            return False
        connection.deadline = deadline
        return True

    def _open(self, deadline: Deadline) -> Connection:
        connection = self._connect(deadline)
        now = self._means.wall()
        self._kept = _Open(connection, now, now, os.getpid())
        FAREWELL.remember(connection, self._driver, self._settings.close_on_sigterm)
        self._tell(EventKind.CONNECTED, "")
        self._prepare(connection)
        return connection

    def _prepare(self, connection: Connection) -> None:
        """What a new connection needs beside its login."""
        # Which knows no way to stop a statement
        if not self.behind_proxy:
            connection.stop = partial(self._driver.stop, connection, self._connect)
            self._compare_idle_limits(connection)

    def _connect(self, deadline: Deadline) -> Connection:
        deadline.check(f"to connect to {self._target.name}")
        login = self._credentials.login(deadline)
        target = replace(self._target, user=login.user)
        return self._driver.connect(target, login.password, deadline, **self._options)

    def _compare_idle_limits(self, connection: Connection) -> None:
        """Tell, once, of a server that hangs up before the connection would be replaced unasked."""
        if self._has_compared:
            return
        limit = self._driver.idle_limit(connection)
        self._has_compared = True
        if limit is not None and limit < self._settings.max_idle:
            self._tell(
                EventKind.ADVISED,
                f"the server ends idle sessions after {limit:g} s, before max_idle",
            )

    def discard(self, reason: str) -> None:
        if self._kept is not None:
            self._tell(EventKind.DISCARDED, reason)
            kept, self._kept = self._kept, None
            self._driver.close(kept.connection)

    def used(self) -> None:
        if self._kept is not None:
            self._kept.used = self._means.wall()
            # Answered all the same: the stop may yet hit the next statement
            if self._kept.connection.stopping:
                self.discard("a stop is under way")

    def tidy(self, deadline: Deadline) -> None:
        """Leave no transaction open: in a freeze its locks would be held for nobody."""
        if self._kept is None or self._kept.process != os.getpid():
            return
        self._kept.connection.deadline = deadline
        if not self._driver.is_alive(self._kept.connection):
            self.discard("ended by the server")
        elif self._driver.in_transaction(self._kept.connection):
            self.roll_back(self._kept.connection)
        self.used()
