"""The connection that the reaper keeps for itself: whoever is inside already gets in when the
database is full.
"""

from __future__ import annotations

import math

from reaper.client.drivers.base import Driver
from reaper.client.drivers.connection import Connection
from reaper.client.events import GivenUp
from reaper.client.kept import REAL, Clocks, KeptConnection, Settings
from reaper.client.target import Target

# By which the server itself ends the seats of environments that Lambda has thrown away.
SERVER_ENDS_AFTER = 900

# A seat is not given up for its age, nor for a late answer: while the database is full there would
# be no other.
_KEPT = Settings(
    max_idle=SERVER_ENDS_AFTER, max_lifetime=math.inf, ping_timeout=5.0, behind_proxy=False
)


class Seat(KeptConnection):
    """One target's connection, checked before each sweep like any kept one, and never replaced
    within a sweep.
    """

    def __init__(self, target: Target, driver: Driver, clocks: Clocks = REAL) -> None:
        super().__init__(target, _KEPT, clocks, None, lambda what, why: None, driver)  # noqa: ARG005  nobody listens
        self._options = {"application": "reaper", "batch": True}

    def _prepare(self, connection: Connection) -> None:
        try:
            connection.limit_idle(SERVER_ENDS_AFTER)
        except Exception:
            # Without its limit it would outlive this environment.
            self.discard(GivenUp.NOT_PREPARED)
            raise
