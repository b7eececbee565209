"""All that is used of psycopg's private names: a connection whose waits ask their guard, opened
within an exact deadline.

Written against psycopg 3.3.6 to 3.3.9.
"""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import waiting
from psycopg.adapt import AdaptersMap
from psycopg.conninfo import make_conninfo

from reaper.client.deadline import Deadline, DeadlineExceeded
from reaper.client.drivers.base import share
from reaper.client.drivers.connection import Guard
from reaper.client.internals import require, unfit

VERSIONS = ">=3.3.6"

try:
    from psycopg._conninfo_attempts import conninfo_attempts
    from psycopg.errors import _WaitTimeout
except ImportError as missing:
    raise unfit("psycopg", VERSIONS, str(missing.name or missing)) from missing
require("psycopg", VERSIONS, psycopg.Connection, ("wait", "_connect_gen"))


class GuardedConnection(psycopg.Connection[Any]):
    """psycopg's connection with a guard over every wait; psycopg itself limits no query's time."""

    guard: Guard

    def wait(
        self,
        gen: Any,
        interval: float = 0.1,
        timeout: float | None = None,  # noqa: ARG002  the guard's time counts instead
    ) -> Any:
        """Wait for the generator's end; DeadlineExceeded where the guard's time is over."""
        try:
            return super().wait(gen, interval, max(self.guard.time_to_run(), 0.001))
        except _WaitTimeout:
            return self._stopped(gen, interval)

    def _stopped(self, gen: Any, interval: float) -> Any:
        """What the wait comes to once the server was asked to stop the statement."""
        try:
            # The same wait goes on: the answer says whether the request came too late.
            if self.guard.try_to_stop():
                return super().wait(gen, interval, max(self.guard.deadline.remaining(), 0.001))
        except _WaitTimeout:
            pass
        # A reply still to come would be taken for the answer to the next statement.
        self.pgconn.finish()
        raise DeadlineExceeded("no time left waiting for the server") from None


def connect(guard: Guard, deadline: Deadline, params: dict[str, Any]) -> GuardedConnection:
    """`psycopg.connect`, whose shortest timeout is two whole seconds, within the exact deadline.

    Raises DeadlineExceeded, or psycopg's error of the last address that was tried.
    """
    refused: Exception | None = None
    attempts = conninfo_attempts({k: v for k, v in params.items() if v is not None})
    for at, attempt in enumerate(attempts):
        opening = GuardedConnection._connect_gen(make_conninfo("", **attempt))
        try:
            left = share(deadline, len(attempts) - at)
            connection = waiting.wait_conn(opening, interval=0.1, timeout=left)
        except _WaitTimeout:
            refused = DeadlineExceeded(f"no time left to connect to {params['host']}")
        except psycopg.Error as error:
            refused = error
        else:
            connection.guard = guard
            return connection
    raise refused or psycopg.OperationalError("failed to resolve host: no address")


def swap_adapters(connection: psycopg.Connection[Any], adapters: AdaptersMap) -> AdaptersMap:
    """Have the connection convert values by these adapters; return those it had.

    psycopg offers only to change a connection's map, which would outlast the borrower.
    """
    before = connection.adapters
    connection._adapters = adapters
    return before
