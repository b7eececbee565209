"""The reaper's seat: the connection to a target that it keeps between its sweeps.

A database that is full lets nobody in, so the reaper has to be inside already.
"""

from __future__ import annotations

import math

from reaper.client.drivers.base import Driver
from reaper.client.drivers.connection import Connection
from reaper.client.events import EventKind, GivenUp
from reaper.client.kept import REAL, Clocks, KeptConnection, Settings
from reaper.client.target import Target

# Seconds of idleness after which the server ends a seat, since environments that Lambda has thrown
# away do not close theirs.
SERVER_ENDS_AFTER = 900

# A seat is given up neither for its age nor for a slow answer: while the database is full, there
# would be no other connection.
_KEPT = Settings(
    max_idle=SERVER_ENDS_AFTER, max_lifetime=math.inf, ping_timeout=5.0, behind_proxy=False
)


class Seat(KeptConnection):
    """One target's connection, checked before each sweep like any kept one, and never replaced
    within a sweep.
    """

    def __init__(self, target: Target, driver: Driver, clocks: Clocks = REAL) -> None:
        super().__init__(target, _KEPT, clocks, None, _tell_nobody, driver)
        self._options = {"application": "reaper", "batch": True}

    def _prepare(self, connection: Connection) -> None:
        try:
            connection.limit_idle(SERVER_ENDS_AFTER)
        except Exception:
            # Without the limit it would outlive this environment.
            self.discard(GivenUp.NOT_PREPARED)
            raise


def _tell_nobody(what: EventKind, why: str) -> None:
    """The seat's events are no concern of anybody's: the sweep's report says how it entered."""
