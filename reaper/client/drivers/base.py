"""What the client asks of a driver."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from reaper.client.deadline import Deadline, DeadlineExceeded
from reaper.client.faults import Fault
from reaper.client.statements import kind
from reaper.client.target import ConfigurationError, Target, Tls

# The driver's own connection; both follow the DB-API
Connection = Any

KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_COUNT = 10, 5, 3
USER_TIMEOUT = KEEPALIVE_IDLE + KEEPALIVE_INTERVAL * KEEPALIVE_COUNT

CA_HINT = (
    "fetch https://truststore.pki.rds.amazonaws.com/global/global-bundle.pem and name the file as "
    "ca; "
    "or say tls=require (encrypted, not verified) or tls=off"
)


@dataclass(frozen=True, slots=True)
class Result:
    """What a statement brought: rows (of a read, or RETURNING), how many it changed, MySQL's last
    AUTO_INCREMENT.
    """

    rows: list[dict[str, Any]]
    rowcount: int
    lastrowid: int | None = None


class Guarded:
    """The part of either driver's connection that keeps to the deadline, and stops on the server
    what runs past it.
    """

    stop: Callable[[Deadline], None] | None = None
    """Ends the running statement on the server; None where there is no way, as behind RDS Proxy."""
    stopping = False
    """It was asked to end the running statement, and the answer may have come all the same."""
    unstoppable = False
    """What runs now must not be stopped: a COMMIT, of which only its own answer tells what came; a ping."""

    _deadline: Deadline
    # None until somebody asks
    _stops_at: float | None = None

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
        """Ask the server, once, to end the running statement; whether that has been understood."""
        if self.stop is None or self.unstoppable or self.stopping:
            return False
        self.stopping = True
        try:
            self.stop(self.deadline)
        except Exception:  # noqa: BLE001  then it goes on there, and the deadline's error says so
            return False
        return True

    def has_stopped_it(self, meaning: Fault) -> bool:
        """Whether an error of this meaning is the answer to our request to stop."""
        confirmed = self.stopping and meaning is Fault.CANCELLED
        self.stopping &= not confirmed
        return confirmed

    own_cursor: Any = None
    """Used for one statement after the other: to make one costs a tenth of a query. None after the user had the
    connection, who may have changed what cursors are made with."""

    _poller: select.poll | None = None

    def has_news(self) -> bool:
        """Whether its idle socket became readable or hung up.

        To ask costs less than to make what asks.
        """
        if self._poller is None:
            self._poller = poller(self._socket_number())
        return bool(self._poller.poll(0))

    def _socket_number(self) -> int:
        raise NotImplementedError

    def is_idle(self) -> bool:
        """Whether no statement is half sent or unanswered, so that a goodbye would be understood.

        Takes no lock.
        """
        raise NotImplementedError

    def about_to_run(self, sql: str) -> None:
        """Before each statement of the client's own."""
        self.unstoppable, self._stops_at = kind(sql) == "COMMIT", None


def _time_to_stop(left: float) -> float:
    """The share of the time left that pays for stopping the statement that begins now."""
    return 0.5 if left >= 2.5 else max(left / 5, min(0.1, left / 2))


def out_of_time(sql: str, seconds: float, stopped: bool) -> DeadlineExceeded:
    """The error of a statement that ran into the deadline."""
    what = "it was stopped on the server and undone" if stopped else "the server may still be at it"
    return DeadlineExceeded(
        f"no time left: {kind(sql)} had no answer after {seconds:.2f} s; {what}", stopped=stopped
    )


class Driver(Protocol):
    """Connect, run, is it alive, what does this error mean, what had been sent. Stateless."""

    def connect(
        self,
        target: Target,
        password: str | None,
        deadline: Deadline,
        *,
        application: str = "reaper",
        batch: bool = False,
        proxy: bool = False,
    ) -> Connection:
        """A new connection in autocommit mode, every read and write of which keeps to the deadline.

        `batch` allows several statements in one packet, where the engine has to be told. `proxy`
        says that RDS Proxy stands between, which would give a connection of the database's to
        nobody else ("pin" it) for many things. Raises ConfigurationError before any packet is sent,
        DeadlineExceeded, or the driver's own error.
        """

    def run(self, connection: Connection, sql: str, params: Any = None) -> Result:
        """One statement and all of its rows."""

    def stop(
        self, connection: Connection, another: Callable[[Deadline], Connection], deadline: Deadline
    ) -> None:
        """Have the server end the statement that runs on the connection, with `another` connection
        if need be.
        """

    def size(self, connection: Connection, sql: str, params: Any) -> int:
        """How many bytes the statement has as it is sent."""

    def idle_limit(self, connection: Connection) -> float | None:
        """After how many idle seconds the server hangs up; None where it never does.

        One round trip.
        """

    def limit_idle(self, connection: Connection, seconds: int) -> None:
        """Have the server hang up after so many idle seconds; does nothing where it has no such
        limit.
        """

    def ping(self, connection: Connection) -> None:
        """One round trip; raises the driver's error where nobody answers."""

    def in_transaction(self, connection: Connection) -> bool:
        """Whether a transaction is open, by what the last answer said; no round trip."""

    def has_failed(self, connection: Connection) -> bool:
        """Whether the open transaction can only be rolled back, so that COMMIT would quietly do
        that.
        """

    def was_sent(self, connection: Connection, error: BaseException) -> bool:
        """Whether the server may have got the last statement whole.

        False only where that is proven.
        """

    def is_alive(self, connection: Connection) -> bool:
        """Whether no goodbye of the server has arrived. Costs no round trip, sees no silent death."""

    def close(self, connection: Connection) -> None:
        """End the session; never waits and never raises."""

    def fault(self, error: BaseException) -> Fault:
        """What the error means, by code first."""


def check_ca(target: Target) -> None:
    """TLS that is to be verified needs somebody to trust."""
    if target.effective_tls is Tls.VERIFY and not target.ca:
        raise ConfigurationError(
            f"target {target.name!r}: TLS is to be verified but no ca is given; {CA_HINT}"
        )


def poller(fd: int) -> select.poll:
    """What tells whether an idle socket became readable or hung up."""
    found = select.poll()
    found.register(fd, select.POLLIN | getattr(select, "POLLRDHUP", 0))
    return found


def keep_alive(sock: socket.socket) -> None:
    """Let the kernel notice a silent peer in seconds instead of two hours."""
    for option, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL),
        ("TCP_KEEPCNT", KEEPALIVE_COUNT),
        ("TCP_USER_TIMEOUT", USER_TIMEOUT * 1000),
    ):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
