"""What the client asks of a driver."""

from __future__ import annotations

import select
import socket
from dataclasses import dataclass
from typing import Any, Protocol

from reaper.client.deadline import Deadline
from reaper.client.faults import Fault
from reaper.client.target import ConfigurationError, Target, Tls

Connection = Any  # the driver's own connection; both follow the DB-API

KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_COUNT = 10, 5, 3
USER_TIMEOUT = KEEPALIVE_IDLE + KEEPALIVE_INTERVAL * KEEPALIVE_COUNT

CA_HINT = (
    "fetch https://truststore.pki.rds.amazonaws.com/global/global-bundle.pem and name the file as ca; "
    "or say tls=require (encrypted, not verified) or tls=off"
)


@dataclass(frozen=True)
class Result:
    """What a statement brought: rows (of a read, or RETURNING), how many it changed, MySQL's last AUTO_INCREMENT."""

    rows: list[dict[str, Any]]
    rowcount: int
    lastrowid: int | None = None


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
    ) -> Connection:
        """A new connection in autocommit mode, every read and write of which keeps to the deadline.

        `batch` allows several statements in one packet, where the engine has to be told.
        Raises ConfigurationError before any packet is sent, DeadlineExceeded, or the driver's own error.
        """

    def run(self, connection: Connection, sql: str, params: Any = None) -> Result:
        """One statement and all of its rows."""

    def ping(self, connection: Connection) -> None:
        """One round trip; raises the driver's error where nobody answers."""

    def in_transaction(self, connection: Connection) -> bool:
        """Whether a transaction is open, by what the last answer said; no round trip."""

    def has_failed(self, connection: Connection) -> bool:
        """Whether the open transaction can only be rolled back, so that COMMIT would quietly do that."""

    def was_sent(self, connection: Connection, error: BaseException) -> bool:
        """Whether the server may have got the last statement whole. False only where that is proven."""

    def is_alive(self, connection: Connection) -> bool:
        """Whether no goodbye of the server has arrived. Costs no round trip, sees no silent death."""

    def close(self, connection: Connection) -> None:
        """End the session; never waits and never raises."""

    def fault(self, error: BaseException) -> Fault:
        """What the error means, by code first."""


def check_ca(target: Target) -> None:
    """TLS that is to be verified needs somebody to trust."""
    if target.effective_tls is Tls.VERIFY and not target.ca:
        raise ConfigurationError(f"target {target.name!r}: TLS is to be verified but no ca is given; {CA_HINT}")


def has_news(fd: int) -> bool:
    """Whether an idle socket became readable or hung up."""
    poller = select.poll()
    poller.register(fd, select.POLLIN | getattr(select, "POLLRDHUP", 0))
    return bool(poller.poll(0))


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
