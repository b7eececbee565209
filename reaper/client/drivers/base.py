"""What the client asks of a driver, and what both drivers do alike."""

from __future__ import annotations

import socket
from typing import Protocol

from reaper.client.deadline import Deadline
from reaper.client.drivers.connection import Address, Connection
from reaper.client.faults import Fault
from reaper.client.fields import ConfigurationError
from reaper.client.target import Target, Tls

KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_COUNT = 10, 5, 3
USER_TIMEOUT = KEEPALIVE_IDLE + KEEPALIVE_INTERVAL * KEEPALIVE_COUNT

CA_HINT = (
    "fetch https://truststore.pki.rds.amazonaws.com/global/global-bundle.pem and name the file as "
    "ca; or say tls=require (encrypted, not verified) or tls=off"
)


class Driver(Protocol):
    """Opens connections, and knows what the driver's errors mean. Stateless."""

    def connect(
        self,
        target: Target,
        password: str | None,
        deadline: Deadline,
        *,
        application: str = "reaper",
        batch: bool = False,
        proxy: bool = False,
        address: Address | None = None,
    ) -> Connection:
        """A new connection in autocommit mode, every read and write of which keeps to the deadline.

        `batch` allows several statements in one packet, where the engine has to be told. `proxy`
        says that RDS Proxy stands between, which for many things would reserve a connection of the
        database's for this client alone ("pin" it). `address` is where the target's host is this
        time; without one each of the addresses of its name gets its share of the time. Raises
        ConfigurationError before any packet is sent, DeadlineExceeded, or the driver's own error.
        """

    def fault(self, error: BaseException) -> Fault:
        """What the error means, by its code first."""


def check_ca(target: Target) -> None:
    """Raise ConfigurationError where TLS is to be verified and no authority is named."""
    if target.effective_tls is Tls.VERIFY and not target.ca:
        raise ConfigurationError(
            f"target {target.name!r}: TLS is to be verified but no ca is given; {CA_HINT}"
        )


def dial(host: str, port: int, deadline: Deadline) -> socket.socket:
    """A connected socket, to the first of the name's addresses that answers; each gets its share of
    the time, so that one that swallows packets leaves some to the next.

    Raises OSError, of the last address that was tried.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    refused: OSError | None = None
    for at, (family, kind, protocol, _, address) in enumerate(found):
        sock = socket.socket(family, kind, protocol)
        sock.settimeout(share(deadline, len(found) - at))
        try:
            sock.connect(address)
        except BaseException as error:
            sock.close()
            if not isinstance(error, OSError):
                raise
            refused = error
        else:
            return sock
    raise refused or OSError(f"{host} has no address")


def share(deadline: Deadline, among: int) -> float:
    """Seconds for the next of so many addresses."""
    return max(deadline.remaining() / among, 0.001)


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
