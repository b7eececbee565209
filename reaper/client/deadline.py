"""The one deadline of an invocation, asked before every wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

Clock = Callable[[], float]

RESERVE = 2.0


class DeadlineExceeded(TimeoutError):
    """The time given to the invocation is used up; the message says what was being done.

    `stopped` says that the server has confirmed to have stopped the statement: it is undone.
    """

    def __init__(self, message: str, *, stopped: bool = False) -> None:
        super().__init__(message)
        self.stopped = stopped


class LambdaContext(Protocol):
    """The part of Lambda's context object that tells how long the invocation may still run."""

    def get_remaining_time_in_millis(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on the monotonic clock, in seconds. Made once, then handed down."""

    at: float
    clock: Clock = time.monotonic

    @classmethod
    def after(cls, seconds: float, clock: Clock = time.monotonic) -> Deadline:
        return cls(clock() + seconds, clock)

    @classmethod
    def from_context(
        cls, context: LambdaContext, reserve: float = RESERVE, clock: Clock = time.monotonic
    ) -> Deadline:
        """Lambda's remaining time, less a reserve in seconds that pays for the report and the
        metrics.
        """
        return cls.after(context.get_remaining_time_in_millis() / 1000 - reserve, clock)

    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.at - self.clock())

    def affords(self, seconds: float) -> bool:
        """Whether a wait of so many seconds ends before the deadline."""
        return seconds < self.remaining()

    def sooner(self, seconds: float) -> Deadline:
        """This deadline, or the one so many seconds from now, whichever comes first."""
        return Deadline(min(self.at, self.clock() + seconds), self.clock)

    def less(self, seconds: float) -> Deadline:
        """A deadline so many seconds before this one, for work that something must still follow."""
        return Deadline(self.at - seconds, self.clock)

    def at_least(self, seconds: float) -> Deadline:
        """This deadline, or the one so many seconds from now, whichever comes last."""
        return Deadline(max(self.at, self.clock() + seconds), self.clock)

    def check(self, doing: str) -> None:
        """Raise DeadlineExceeded, naming what was about to be done, once no time is left."""
        if self.remaining() <= 0:
            raise DeadlineExceeded(f"no time left {doing}")
