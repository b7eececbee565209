"""The lock that keeps two sweeps of one server apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from reaper.client.deadline import Deadline
from reaper.engines.base import Holder, Server
from reaper.report import ErrorKind
from reaper.sweep.errors import SweepFailed

# Seconds to wait for the lock after its frozen holder was terminated, and between two attempts
_TAKE_OVER, _STEP = 1.0, 0.16


@dataclass
class SweepLock:
    """The lock on one server, and whether this sweep holds it.

    A holder of the reaper's own account that has been idle for more than `frozen_after` seconds is
    in a frozen environment: it is terminated, and its lock taken over.
    """

    server: Server
    deadline: Deadline
    frozen_after: float
    sleep: Callable[[float], None]
    is_held: bool = False

    def take(self) -> None:
        """Take the lock unless it is held already; raise SweepFailed where another session keeps
        it.
        """
        if self.is_held or self.server.lock():
            self.is_held = True
            return
        holder = self.server.holder()
        self.is_held = holder is not None and self._is_frozen(holder) and self._take_over(holder)
        if not self.is_held:
            raise _held_by(holder)

    def release(self) -> bool:
        """Release the lock if it is held. False where that fails: the connection is of no further
        use, and closing it frees the lock.
        """
        if self.is_held:
            try:
                self.server.unlock()
            except Exception:  # noqa: BLE001  the sweep is done, and its report complete
                return False
        return True

    def _is_frozen(self, holder: Holder) -> bool:
        return holder.is_ours and (holder.idle_seconds or 0.0) > self.frozen_after

    def _take_over(self, holder: Holder) -> bool:
        self.server.end(holder)
        until = self.deadline.sooner(_TAKE_OVER)
        while not (taken := self.server.lock()) and until.affords(_STEP):
            self.sleep(_STEP)
        return taken


def _held_by(holder: Holder | None) -> SweepFailed:
    """The error that a lock's holder means.

    Any account can take such a lock. Another account's is no sweep of ours, so it is an error that
    raises the alarm: otherwise whoever took it would silence the reaper.
    """
    if holder and not holder.is_ours:
        return SweepFailed(
            ErrorKind.CONFIGURATION,
            f"session {holder.id} of another account holds the reaper's lock; see who that is, "
            "or give all reapers of this server the same account",
        )
    who = f"session {holder.id}" if holder else "a session that cannot be seen"
    return SweepFailed(ErrorKind.BUSY, f"another sweep holds this server: {who}")
