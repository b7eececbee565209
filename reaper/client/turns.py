"""Whose turn it is: one connection, used by one thread at a time, and by nobody while it is
lent.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from reaper.client.deadline import Deadline, DeadlineExceeded

_NO_TURN = "no time left waiting for the thread that has the connection"


class Turns:
    """A lock with an owner's words for it.

    A forked child starts with a lock of its own, whoever held the parent's.
    """

    def __init__(self) -> None:
        self.process = os.getpid()
        self.occupied = ""
        """What has the connection to itself now, in words for an error; empty: nothing."""
        # The thread whose turn it is, or was last.
        self._occupant = 0
        self._lock = threading.Condition()

    @property
    def are_of_this_process(self) -> bool:
        """False in a forked child that has not taken a turn yet."""
        return self.process == os.getpid()

    @contextmanager
    def turn(self, deadline: Deadline) -> Iterator[None]:
        """Hold the lock. Raises DeadlineExceeded where it did not become free in time."""
        self.take(deadline)
        try:
            yield
        finally:
            self.release()

    def take(self, deadline: Deadline) -> None:
        """Begin this thread's turn, once nobody else's is under way and nobody has the connection.

        Raises DeadlineExceeded where that takes too long.
        """
        if not self.are_of_this_process:
            self.process, self._lock, self.occupied = os.getpid(), threading.Condition(), ""
        lock, me = self._lock, threading.get_ident()
        if not lock.acquire(blocking=False) and not lock.acquire(timeout=_patience(deadline)):
            raise DeadlineExceeded(_NO_TURN)
        is_lent = self.occupied and self._occupant != me
        if is_lent and not lock.wait_for(lambda: not self.occupied, _patience(deadline)):
            lock.release()
            raise DeadlineExceeded(_NO_TURN)
        self._occupant = me

    def release(self) -> None:
        """End this thread's turn."""
        self._lock.release()

    @contextmanager
    def held(self) -> Iterator[None]:
        """The lock alone, for whoever gives back what was lent, from whichever thread."""
        with self._lock:
            yield

    def vacate(self) -> None:
        """Nothing has the connection to itself any more; whoever waits for it goes on."""
        self.occupied = ""
        self._lock.notify_all()


def _patience(deadline: Deadline) -> float:
    return min(deadline.remaining(), threading.TIMEOUT_MAX)
