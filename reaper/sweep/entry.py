"""How a sweep gets its connection: the one it has kept, or a login, which a full server refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from reaper.client.deadline import Deadline
from reaper.client.drivers.base import Driver
from reaper.client.drivers.connection import Connection
from reaper.client.faults import Fault, first_line
from reaper.client.retry import Dice, Patience
from reaper.report import Entry, ErrorKind
from reaper.seat import Seat
from reaper.sweep.errors import SweepFailed

# When the server is full the login is tried again about twice a second on average; a refusal costs
# the server next to nothing.
_WHEN_FULL = Patience(first_wait=0.05, longest_wait=1.0)
# Stop doubling the wait after so many refusals: an unbounded exponent overflows a float.
_MOST_DOUBLINGS = 5


@dataclass(frozen=True)
class Entered:
    """A connection, how the reaper came by it, and how many attempts that took."""

    connection: Connection
    entry: Entry
    attempts: int


def enter(
    seat: Seat, driver: Driver, deadline: Deadline, sleep: Callable[[float], None], dice: Dice
) -> Entered:
    """The seat's connection, or a new one. While the server is full the login is tried again, with
    jitter, for as long as there is time.

    Raises SweepFailed where no time is left or no slot came free, and the driver's own error for
    any other refusal.
    """
    if not deadline.remaining():
        raise SweepFailed(ErrorKind.DEADLINE, "no time was left for this target")
    # A fifth of the time, but at most ten seconds, is kept for the sweep itself.
    login_deadline = deadline.less(min(10.0, deadline.remaining() / 5))
    kept, attempts, has_read_again = seat.connection, 0, False
    while True:
        attempts += 1
        try:
            connection = seat.ready(deadline)
        except Exception as refused:
            fault = driver.fault(refused)
            if fault is Fault.CREDENTIALS and seat.login_can_change and not has_read_again:
                # The password may have been rotated since it was read.
                seat.forget_login()
                has_read_again = True
                continue
            if fault is not Fault.TOO_MANY:
                raise
            wait = _WHEN_FULL.wait(min(attempts, _MOST_DOUBLINGS), dice)
            if not login_deadline.affords(wait):
                raise _locked_out(refused, attempts) from refused
            sleep(wait)
        else:
            entry = Entry.SEAT if connection is kept else Entry.LOGIN
            return Entered(connection, entry, attempts)


def _locked_out(refused: Exception, attempts: int) -> SweepFailed:
    return SweepFailed(
        ErrorKind.LOCKED_OUT, f"no slot came free in {attempts} attempts: {first_line(refused)}"
    )
