"""The connection in the client's own words: what it can do, and the guard that keeps its waits to a
deadline.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Protocol

from reaper.client.deadline import Deadline, DeadlineExceeded
from reaper.client.faults import Fault
from reaper.client.statements import kind

Params = Any
"""What goes into a statement's placeholders: a sequence, a mapping, or None."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a statement returned: rows (of a read, or RETURNING), how many rows it changed, and
    MySQL's last AUTO_INCREMENT value.
    """

    rows: list[dict[str, Any]]
    rowcount: int
    lastrowid: int | None = None


class Guard:
    """Keeps a driver's waits to the deadline, and stops on the server what would outlast it.

    Each driver's connection asks its guard before every read and write.
    """

    def __init__(self, deadline: Deadline) -> None:
        self.stop: Callable[[Deadline], None] | None = None
        """Ends the running statement on the server; None where that is impossible, as behind RDS
        Proxy."""
        self.stopping = False
        """The server was asked to end the running statement, which may have ended by itself."""
        self.unstoppable = False
        """The running statement must not be stopped: a ping, or a COMMIT, whose outcome only its
        own answer tells."""
        self.sent = True
        """The server may have received the last statement whole; false only where that is
        impossible."""
        self._deadline = deadline
        # When the running statement is to be stopped; None until it is first asked for.
        self._stops_at: float | None = None

    @property
    def deadline(self) -> Deadline:
        """When all must be over; the last of the time pays for stopping what still runs then."""
        return self._deadline

    @deadline.setter
    def deadline(self, given: Deadline) -> None:
        self._deadline, self._stops_at = given, None

    def time_to_run(self) -> float:
        """Seconds until the running statement is to be stopped, or until the deadline where it
        cannot be.
        """
        at, now = self._deadline.at, self._deadline.clock()
        if self.stop is None or self.stopping or self.unstoppable:
            return at - now
        if self._stops_at is None:
            self._stops_at = at - _time_to_stop(at - now)
        return self._stops_at - now

    def try_to_stop(self) -> bool:
        """Ask the server, once, to end the running statement; true where the request was
        accepted.
        """
        if self.stop is None or self.unstoppable or self.stopping:
            return False
        self.stopping = True
        try:
            self.stop(self.deadline)
        except Exception:  # noqa: BLE001  the statement goes on, and the deadline's error says so
            return False
        return True

    def has_stopped_it(self, meaning: Fault) -> bool:
        """Whether an error of this meaning is the answer to our request to stop."""
        confirmed = self.stopping and meaning is Fault.CANCELLED
        self.stopping &= not confirmed
        return confirmed

    def about_to_run(self, sql: str) -> None:
        """To be called before each statement of the client's own."""
        self.unstoppable, self._stops_at = kind(sql) == "COMMIT", None


def _time_to_stop(left: float) -> float:
    """The share of the time left that pays for stopping the statement that begins now."""
    return 0.5 if left >= 2.5 else max(left / 5, min(0.1, left / 2))


class State(Enum):
    """What a connection is in between two statements, by the server's own last answer."""

    IDLE = auto()
    """In autocommit, outside a transaction, every answer read: fit for anything."""
    IN_TRANSACTION = auto()
    UNKNOWN = auto()
    """The last answer did not say; a ping would."""
    UNUSABLE = auto()
    """An answer may still be under way, or a setting that our meaning depends on was changed."""


class Connection(Protocol):
    """One session on a server, around the driver's own connection. Stateful, not thread-safe."""

    guard: Guard
    raw: Any
    """The driver's own connection, which users of `Database.connection()` and the ORM work on."""
    can_ask_commits: bool | None
    """Whether this account may ask what became of a COMMIT; None until that was found out."""

    @property
    def id(self) -> int:
        """The server's number of this session."""

    def run(self, sql: str, params: Params = None) -> Result:
        """One statement and all of its rows.

        Raises DeadlineExceeded where there was no answer in time, or the driver's own error.
        """

    def answer(self, sql: str, params: Params = None) -> Result:
        """The same with the driver's own errors only, for whoever does not retry."""

    def size(self, sql: str, params: Params) -> int:
        """How many bytes the statement has as it is sent."""

    def stop(self, another: Another, deadline: Deadline) -> None:
        """Have the server end the statement that runs here, with `another` connection where the
        protocol needs one.

        Raises WrongServer where that leads elsewhere, as behind a load balancer.
        """

    def identify(self) -> None:
        """Ask which server this is, where the protocol does not say; at most one round trip."""

    def idle_limit(self) -> float | None:
        """After how many idle seconds the server hangs up; None where it never does.

        At most one round trip.
        """

    def row_limit(self) -> int | None:
        """How many rows the session's settings cut every read to; None where they do not.

        At most one round trip.
        """

    def is_replica(self) -> bool:
        """Whether a refused write means that this server is not, or not yet, the writer."""

    def limit_idle(self, seconds: int) -> None:
        """Have the server hang up after so many idle seconds; does nothing where it has no such
        limit.
        """

    def ping(self) -> None:
        """One round trip; raises the driver's error where nobody answers."""

    def begin(self) -> None:
        """Begin a transaction."""

    def commit(self) -> None:
        """Commit it, and stay connected outside a transaction whatever the session's settings."""

    def roll_back(self) -> None:
        """Undo it, and stay connected outside a transaction whatever the session's settings."""

    def state(self) -> State:
        """What it is in, by what the last answer said; no round trip."""

    def in_transaction(self) -> bool:
        """Whether a transaction is open, by what the last answer said; no round trip."""

    def mark_transaction(self) -> None:
        """Before a statement that might end the open transaction and begin another."""

    def is_same_transaction(self) -> bool:
        """Whether the transaction that was marked is still the open one; asked once a mark."""

    def has_failed(self) -> bool:
        """Whether the open transaction can only be rolled back, so that COMMIT would quietly do
        that.
        """

    def was_sent(self, error: BaseException) -> bool:
        """Whether the server may have received the last statement whole.

        False only where that is proven.
        """

    def is_alive(self) -> bool:
        """Whether no goodbye of the server has arrived. No round trip; a silent death is not
        seen.
        """

    def is_idle(self) -> bool:
        """Whether no statement is half sent or unanswered, so that a goodbye would be understood.

        Takes no lock.
        """

    def lend(self) -> None:
        """The user gets the driver's connection: what is remembered of it may be wrong later."""

    def close(self) -> None:
        """End the session; never waits and never raises."""


Another = Callable[[Deadline, "Address | None"], Connection]
"""Opens one more connection to the same target; to this very address, where one is given."""
Address = tuple[str, int]
"""An IP address and a port."""


class WrongServer(Exception):
    """A second connection led to another server, where the same number is somebody else's."""


class SocketWatch:
    """Tells whether an idle socket became readable or was hung up, at the cost of one system
    call.
    """

    def __init__(self, descriptor: int) -> None:
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN | getattr(select, "POLLRDHUP", 0))

    def has_news(self) -> bool:
        """Whether there is something to read, the end of the stream included."""
        return bool(self._poll.poll(0))


def out_of_time(sql: str, seconds: float, stopped: bool) -> DeadlineExceeded:
    """The error of a statement that ran into the deadline."""
    what = (
        "it was stopped on the server and undone"
        if stopped
        else "the server may still be running it"
    )
    return DeadlineExceeded(
        f"no time left: {kind(sql)} had no answer after {seconds:.2f} s; {what}", stopped=stopped
    )
