"""What the demo measured: connections as the server counted them, what happened when, and every
sweep's metrics.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class Sample(NamedTuple):
    """One look at the server; `idle` of the `taken` ones had run no statement for a moment."""

    at: float
    taken: int
    idle: int

    @property
    def working(self) -> int:
        return self.taken - self.idle


class Moment(NamedTuple):
    at: float
    what: str


class Sweep(NamedTuple):
    at: float
    metrics: Mapping[str, float]


@dataclass
class Record:
    """Times are seconds since the record was begun; `limit` is how many connections applications
    may have.
    """

    server: str
    limit: int
    samples: list[Sample] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)
    sweeps: list[Sweep] = field(default_factory=list)
    clock: Callable[[], float] = time.monotonic
    began: float = field(init=False)

    def __post_init__(self) -> None:
        self.began = self.clock()

    def sample(self, taken: int, idle: int) -> None:
        self.samples.append(Sample(self._now(), taken, idle))

    def note(self, what: str) -> None:
        self.moments.append(Moment(self._now(), what))

    def swept(self, metrics: Mapping[str, float]) -> None:
        self.sweeps.append(Sweep(self._now(), metrics))

    def _now(self) -> float:
        return self.clock() - self.began

    @property
    def end(self) -> float:
        """The time of the last thing that was recorded."""
        return max(
            moment.at for moments in (self.samples, self.moments, self.sweeps) for moment in moments
        )

    def at(self, time: float) -> Sample:
        """The latest sample at that time; before the first one, the first."""
        return self.samples[
            max(0, bisect_right(self.samples, time, key=lambda sample: sample.at) - 1)
        ]
