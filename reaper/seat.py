"""The connection that the reaper keeps for itself: whoever is inside already gets in when the
database is full.
"""

from __future__ import annotations

import math

from reaper.client.drivers.base import Connection, Driver
from reaper.client.kept import REAL, Keeper, Means, Settings
from reaper.client.target import Target

# By which the server itself ends the seats of environments that Lambda has thrown away.
SERVER_ENDS_AFTER = 900

# A seat is not given up for its age, nor for a late answer: while the database is full there would
# be no other.
_KEPT = Settings(
    max_idle=SERVER_ENDS_AFTER, max_lifetime=math.inf, ping_timeout=5.0, behind_proxy=False
)


class Seat(Keeper):
    """One target's connection, checked before each sweep like any kept one, and never replaced
    within a sweep.
    """

    def __init__(self, target: Target, driver: Driver, means: Means = REAL) -> None:
        super().__init__(target, _KEPT, means, None, lambda what, why: None)  # noqa: ARG005  nobody listens
        self._driver = driver
        self._options = {"application": "reaper", "batch": True}

    def _prepare(self, connection: Connection) -> None:
        try:
            self._driver.limit_idle(connection, SERVER_ENDS_AFTER)
        except Exception:
            # Without its limit it would outlive this environment
            self.discard("could not be prepared")
            raise
