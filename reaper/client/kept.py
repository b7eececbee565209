"""The one connection that is kept between invocations: trusted, asked or replaced before each
use.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from reaper.client.credentials import Credentials
from reaper.client.deadline import Clock, Deadline
from reaper.client.drivers import driver_for
from reaper.client.drivers.base import Driver
from reaper.client.drivers.connection import Address, Connection, State
from reaper.client.events import EventKind, GivenUp
from reaper.client.faults import Fault
from reaper.client.fields import ConfigurationError
from reaper.client.retry import Dice, Patience
from reaper.client.shutdown import SHUTDOWN_HOOK
from reaper.client.target import Target


@dataclass(frozen=True)
class Settings:
    """How long a connection is kept and trusted, in seconds.

    The reaper's thresholds belong above `ping_after`.
    """

    ping_after: float = 45.0
    max_idle: float = 600.0
    max_lifetime: float = 3600.0
    # For a call outside a handler.
    timeout: float = 10.0
    ping_timeout: float = 1.0
    patience: Patience = Patience()
    # None: only inside Lambda.
    close_on_sigterm: bool | None = None
    # Whether RDS Proxy stands between; None: the host's name tells.
    behind_proxy: bool | None = None

    def __post_init__(self) -> None:
        for each in ("ping_after", "max_idle", "max_lifetime", "timeout", "ping_timeout"):
            value = getattr(self, each)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
                raise ConfigurationError(
                    f"Settings: {each} is {value!r}; give seconds as a number, 0 or more"
                )
        for each in ("close_on_sigterm", "behind_proxy"):
            if getattr(self, each) not in (True, False, None):
                raise ConfigurationError(
                    f"Settings: {each} is {getattr(self, each)!r}; say True, False or None"
                )
        if not isinstance(self.patience, Patience):
            raise ConfigurationError(f"Settings: patience is {self.patience!r}; give a Patience")


@dataclass(frozen=True)
class Clocks:
    """Clock, wall clock, sleep and dice: arguments, so that no test waits.

    Idleness across invocations is wall-clock time: the monotonic clock stops in a freeze.
    """

    wall: Clock = time.time
    clock: Clock = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    # Not the interpreter's own generator, which restored snapshots of one environment share.
    dice: Dice = random.SystemRandom().random


# The share of max_lifetime that chance may take away.
_LIFETIME_JITTER = 0.1
# Seconds, of those that the handler's deadline leaves to Lambda's.
_FOR_TIDYING = 0.3
DEFAULTS, REAL = Settings(), Clocks()
# Looked up once, since each query needs it and until Python 3.12 the lookup costs a call.
_REUSED = EventKind.REUSED


@dataclass
class _Open:
    """The connection that waits for the next statement, and what is known of it."""

    connection: Connection
    opened: float
    used: float
    process: int
    # Seconds; a little less than max_lifetime, so that environments that began together do not all
    # log in again at the same moment.
    lifetime: float


def is_proxy(host: str) -> bool:
    """Whether this is an endpoint of RDS Proxy:
    `name.proxy-abc123.eu-central-1.rds.amazonaws.com`.
    """
    return re.search(r"\.proxy-[^.]+\.[^.]+\.rds\.amazonaws\.com", host) is not None


class KeptConnection:
    """Keeps one connection. Not thread-safe: whoever owns it holds a lock."""

    def __init__(
        self,
        target: Target,
        settings: Settings,
        clocks: Clocks,
        password: Callable[[], str] | None,
        tell: Callable[[EventKind, str], None],
        driver: Driver | None = None,
    ) -> None:
        """`driver` None: the engine's own, loaded when the first connection is opened."""
        self._driver = driver
        self._target = target
        self._settings = settings
        self._clocks = clocks
        self._credentials = Credentials(target, password, clocks.wall)
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
        """The connection, if there is one, unchecked."""
        return self._kept.connection if self._kept else None

    @property
    def age_and_idle(self) -> tuple[float | None, float | None]:
        """How old the connection is and how long it has been idle, in seconds by the wall clock."""
        now = self._clocks.wall()
        return (now - self._kept.opened, now - self._kept.used) if self._kept else (None, None)

    @property
    def login_can_change(self) -> bool:
        """Whether reading the login again may bring another one."""
        return self._credentials.can_change

    def forget_login(self) -> None:
        """Read the secret again for the next connection."""
        self._credentials.forget()

    def roll_back(self, connection: Connection) -> None:
        """Undo; a connection on which that fails is of no use."""
        try:
            connection.roll_back()
        except Exception:  # noqa: BLE001  the error that led here is the one to be told
            self.discard(GivenUp.ROLLBACK_FAILED)

    def ready(self, deadline: Deadline) -> Connection:
        """A connection that can take a statement: the kept one where it can be trusted, else a new
        one.
        """
        kept = self._kept
        if kept is not None and kept.process != os.getpid():
            # The parent's, whose session would end if it were closed here.
            self._kept = kept = None
        if kept is not None:
            kept.connection.guard.deadline = deadline
            if reason := self._distrust(kept, deadline):
                self.discard(reason)
            else:
                self._tell(_REUSED, "")
                return kept.connection
        return self._open(deadline)

    def _distrust(self, kept: _Open, deadline: Deadline) -> GivenUp | None:
        """Why the kept connection is not to be used; None where it may be.

        No round trip unless it has been idle long.
        """
        now = self._clocks.wall()
        idle, age = now - kept.used, now - kept.opened
        if not 0 <= idle <= self._settings.max_idle:
            return GivenUp.IDLE_TOO_LONG
        if not 0 <= age <= kept.lifetime:
            return GivenUp.TOO_OLD
        if not kept.connection.is_alive():
            return GivenUp.ENDED_BY_SERVER
        if idle > self._settings.ping_after and not self._answers(kept.connection, deadline):
            return GivenUp.NO_ANSWER
        if not self._is_at_rest(kept.connection, deadline):
            return GivenUp.NOT_AT_REST
        return None if self._kept is kept else GivenUp.IN_TRANSACTION

    def _is_at_rest(self, connection: Connection, deadline: Deadline) -> bool:
        """Whether it is idle, in autocommit, outside a transaction and in step, by the server's own
        word; what can be put right for certain is.
        """
        state = connection.state()
        if state is State.IDLE:
            return True
        if state is State.UNKNOWN:
            if not self._answers(connection, deadline):
                return False
            state = connection.state()
        if state is State.IN_TRANSACTION:
            self.roll_back(connection)
            state = connection.state()
        return state is State.IDLE

    def _answers(self, connection: Connection, deadline: Deadline) -> bool:
        guard = connection.guard
        guard.deadline = deadline.sooner(self._settings.ping_timeout)
        try:
            connection.ping()
        except Exception:  # noqa: BLE001  whatever it is, the connection is not to be used
            return False
        guard.deadline = deadline
        return True

    def _open(self, deadline: Deadline) -> Connection:
        connection = self._connect(deadline)
        now = self._clocks.wall()
        lifetime = self._settings.max_lifetime * (1 - _LIFETIME_JITTER * self._clocks.dice())
        self._kept = _Open(connection, now, now, os.getpid(), lifetime)
        SHUTDOWN_HOOK.remember(connection, self._settings.close_on_sigterm)
        self._tell(EventKind.CONNECTED, "")
        self._prepare(connection)
        return connection

    def _prepare(self, connection: Connection) -> None:
        """What a new connection needs beside its login."""
        # RDS Proxy passes on no request to stop a statement.
        if not self.behind_proxy:
            connection.guard.stop = partial(connection.stop, self._connect)
            connection.identify()
            self._compare_limits(connection)

    def _connect(self, deadline: Deadline, address: Address | None = None) -> Connection:
        deadline.check(f"to connect to {self._target.name}")
        login = self._credentials.login(deadline)
        target = replace(self._target, user=login.user)
        if self._driver is None:
            self._driver = driver_for(target.engine)
        return self._driver.connect(
            target, login.password, deadline, address=address, **self._options
        )

    def _compare_limits(self, connection: Connection) -> None:
        """Tell, once, of a server that hangs up before the connection would be replaced unasked, or
        that cuts every read short.
        """
        if self._has_compared:
            return
        limit = connection.idle_limit()
        self._has_compared = True
        if limit is not None and limit < self._settings.max_idle:
            self._tell(
                EventKind.ADVISED,
                f"the server ends idle sessions after {limit:g} s, before max_idle",
            )
        if (rows := connection.row_limit()) is not None:
            self._tell(
                EventKind.ADVISED, f"the server cuts every read to {rows} rows (sql_select_limit)"
            )

    def discard(self, reason: GivenUp | Fault) -> None:
        """Close the connection, if there is one, and tell why."""
        if self._kept is not None:
            self._tell(EventKind.DISCARDED, reason)
            kept, self._kept = self._kept, None
            kept.connection.close()

    def used(self) -> None:
        """The connection has just served a statement."""
        if self._kept is not None:
            self._kept.used = self._clocks.wall()
            # It answered all the same, and the stop may yet hit the next statement.
            if self._kept.connection.guard.stopping:
                self.discard(GivenUp.STOP_UNDER_WAY)

    def tidy(self, deadline: Deadline) -> None:
        """Leave no transaction open: in a freeze its locks would be held for nobody."""
        if self._kept is None or self._kept.process != os.getpid():
            return
        connection = self._kept.connection
        connection.guard.deadline = deadline
        if not connection.is_alive():
            self.discard(GivenUp.ENDED_BY_SERVER)
        # A statement that ran into the deadline leaves no time to ask, and a little is kept for
        # this.
        elif not self._is_at_rest(connection, deadline.at_least(_FOR_TIDYING)):
            self.discard(GivenUp.NOT_AT_REST)
        self.used()
