"""Thousands of idle sessions: bare sockets that log in, many at a time, and then stay silent."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from lab.servers import Server

# Logins in progress at a time; fewer than any server's listen backlog
_WAVE = 64
_LONG = 60.0
# Equal counts in a row that are taken as stable
_STILL = 5

# MySQL's capability flags: protocol 4.1, secure connection, plugin authentication, and a database
# named at login.
_CAPABILITIES = 0x00000200 | 0x00008000 | 0x00080000 | 0x00000008
_UTF8MB4 = 45


# Seconds, above every threshold that the benchmarks set
_DOZE = 0.4


class Crowd:
    """A number of sessions of one user on one server, idle since their login. `close` ends those
    that are still connected.
    """

    def __init__(self, server: Server, size: int, user: str = "app") -> None:
        self._server, self._user = server, user
        self._sockets: list[socket.socket] = []
        log_in = self._postgres_wave if server.engine == "postgres" else self._mysql_wave
        while (missing := size - len(self._sockets)) > 0:
            log_in(min(_WAVE, missing))

    def doze(self) -> None:
        """Wait until a sweep may terminate these sessions."""
        # MySQL's innodb_trx lags by up to a fifth of a second. Until then a session may be in a
        # transaction that does not show yet, so it is spared.
        time.sleep(_DOZE)

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        for connection in self._sockets:
            connection.close()
        self._sockets.clear()

    def _opened(self, size: int, source: str) -> list[socket.socket]:
        opened = []
        for _ in range(size):
            connection = socket.socket()
            connection.settimeout(_LONG)
            # The server closes first, so its side of the connection stays in TIME_WAIT for a
            # minute. Each source address has a range of ports of its own.
            connection.bind((source, 0))
            connection.connect((self._server.host, self._server.port))
            opened.append(connection)
        self._sockets += opened
        return opened

    def _mysql_wave(self, size: int) -> None:
        wave = self._opened(size, f"127.0.0.{2 + len(self._sockets) // _WAVE % 200}")
        for connection in wave:
            greeting = _packet(connection)
            plugin = greeting.rstrip(b"\0").rpartition(b"\0")[2]
            answer = struct.pack("<IIB23x", _CAPABILITIES, 1 << 24, _UTF8MB4)
            answer += self._user.encode() + b"\0" + b"\0" + b"shop\0" + plugin + b"\0"
            connection.sendall(struct.pack("<I", len(answer))[:3] + b"\1" + answer)
        for connection in wave:
            answer = _packet(connection)
            if answer[0] != 0:
                raise ConnectionRefusedError(f"{self._server.name} refused a login: {answer[3:]!r}")
            # The idle time of a session that never ran a statement cannot be determined
            connection.sendall(b"\5\0\0\0\3DO 0")
        for connection in wave:
            _packet(connection)

    def _postgres_wave(self, size: int) -> None:
        # The only address that the server's pg_hba.conf trusts
        wave = self._opened(size, "127.0.0.1")
        options = {"user": self._user, "database": "shop", "application_name": "lambda"}
        words = b"".join(f"{word}\0".encode() for pair in options.items() for word in pair) + b"\0"
        for connection in wave:
            connection.sendall(struct.pack("!II", len(words) + 8, 196608) + words)
        for connection in wave:
            answer = b""
            while not answer.endswith(b"Z\0\0\0\x05I"):
                received = connection.recv(4096)
                if not received or (received[:1] == b"E" and not answer):
                    raise ConnectionRefusedError(
                        f"{self._server.name} refused a login: {received!r}"
                    )
                answer += received


def _packet(connection: socket.socket) -> bytes:
    """One packet of MySQL's protocol, without its header."""
    received = b""
    while len(received) < 4 or len(received) < 4 + int.from_bytes(received[:3], "little"):
        more = connection.recv(4096)
        if not more:
            raise ConnectionRefusedError("the server hung up during a login")
        received += more
    return received[4:]


class Census:
    """Counts sessions on a connection of its own, by the counter that is cheapest for the
    server.
    """

    def __init__(self, server: Server) -> None:
        self._connection = server.admin()
        self._client = server.kind.client(self._connection, server.root)
        self._is_postgres = server.engine == "postgres"
        self.base = self._settled()

    def __call__(self) -> int:
        if self._is_postgres:
            sql = (
                "SELECT coalesce(sum(numbackends), 0) FROM pg_stat_database WHERE datname = 'shop'"
            )
            return int(self._client.run(sql)[0][0])
        return int(self._client.run("SHOW GLOBAL STATUS LIKE 'Threads_connected'")[0][1])

    def _settled(self) -> int:
        """The count once it is stable: a session that has just disconnected is still counted for a
        moment.
        """
        last, same = self(), 0
        while same < _STILL:
            # Nothing signals that the last sessions are gone, so the counter is polled
            time.sleep(0.01)
            count = self()
            last, same = count, same + 1 if count == last else 0
        return last

    def wait(
        self, until: Callable[[int], bool], seconds: float = 60.0, pause: float = 0.002
    ) -> float:
        """The time, by the monotonic clock, at which the count fulfilled the condition; raise
        TimeoutError if it never did.
        """
        give_up = time.monotonic() + seconds
        while not until(self()):
            if time.monotonic() > give_up:
                raise TimeoutError(f"{self()} sessions are still there")
            # Polling without a pause would take processor time from what is measured
            time.sleep(pause)
        return time.monotonic()

    def wait_until_gone(self) -> float:
        return self.wait(lambda count: count <= self.base)

    def close(self) -> None:
        with suppress(Exception):
            self._connection.close()


def held(engine: str, sizes: Sequence[int]) -> dict[str, str]:
    """Server settings that allow as many sessions as the largest of these sizes."""
    most = {"max_connections": str(max(sizes) + 100)}
    return most if engine == "postgres" else {**most, "back_log": "2000", "table_open_cache": "400"}
