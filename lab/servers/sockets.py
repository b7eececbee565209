"""Bare sockets: handshakes that never end, and a way to see whether a connection is closed without
touching it.
"""

from __future__ import annotations

import select
import socket
from typing import Protocol

from .base import Rows


def hung_up(fileno: int) -> bool:
    """Whether the other side has closed, even if there is data that has not been read."""
    poll = select.poll()
    poll.register(fileno, getattr(select, "POLLRDHUP", select.POLLHUP))
    return bool(poll.poll(0))


class Socket(Protocol):
    """A socket, or a driver's connection around one."""

    def fileno(self) -> int: ...
    def close(self) -> None: ...


class SocketClient:
    """A connection on which no statement can run, as a Client: a stuck handshake, a replica."""

    def __init__(self, connection: Socket, session: int = 0, user: str = "") -> None:
        self.connection = connection
        self.id = session
        self.user = user

    def run(self, sql: str) -> Rows:
        raise NotImplementedError("this session takes no statements")

    def start(self, sql: str) -> None:
        raise NotImplementedError("this session takes no statements")

    def finish(self) -> None:
        raise NotImplementedError("this session takes no statements")

    def alive(self) -> bool:
        return not hung_up(self.connection.fileno())

    def close(self) -> None:
        self.connection.close()


def handshake(host: str, port: int, engine: str) -> SocketClient:
    """Connect and send nothing. MySQL's greeting contains the session's id; PostgreSQL has not
    assigned one yet.
    """
    connection = socket.create_connection((host, port), timeout=10)
    if engine == "postgres":
        return SocketClient(connection)
    greeting = connection.recv(4096)
    after_version = greeting.index(b"\0", 5) + 1
    return SocketClient(
        connection, int.from_bytes(greeting[after_version : after_version + 4], "little")
    )
