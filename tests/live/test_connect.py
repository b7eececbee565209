"""Connecting and noticing the end: TLS, deadlines, and the check that costs no round trip."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from lab.servers import Server, until
from lab.targets import target
from reaper.client.deadline import Deadline, DeadlineExceeded
from reaper.client.drivers import driver_for
from reaper.client.faults import Fault
from reaper.client.fields import ConfigurationError
from reaper.client.target import EngineName, Target
from reaper.model import SweepTarget
from tests.conftest import Servers


def at(server: Server, **more: Any) -> Target:
    return SweepTarget.from_mapping(target(server, **more)).target


def test_alive_until_the_servers_goodbye(server: Server) -> None:
    """A fresh connection is alive; after the server ended it the check says so without a round
    trip.
    """
    driver = driver_for(EngineName(server.engine))
    connection = driver.connect(at(server), server.password, Deadline.after(60))
    assert connection.is_alive()
    mine = connection.id
    server.query(
        f"SELECT pg_terminate_backend({mine})" if server.engine == "postgres" else f"KILL {mine}"
    )
    assert until(lambda: not connection.is_alive(), timeout=10)
    connection.close()
    assert not connection.is_alive()


def test_a_pending_notification_is_no_death(postgres: Server) -> None:
    """A NOTIFY that waits on the socket makes it readable, and the connection is alive all the
    same.
    """
    driver = driver_for(EngineName.POSTGRES)
    connection = driver.connect(at(postgres), postgres.password, Deadline.after(60))
    connection.raw.execute("LISTEN news")
    other = postgres.connect("app")
    other.execute("NOTIFY news")
    poller = socket.socket(fileno=connection.raw.pgconn.socket)
    try:
        poller.settimeout(10)
        assert poller.recv(1, socket.MSG_PEEK)
    finally:
        poller.setblocking(False)
        poller.detach()
    assert connection.is_alive()
    other.close()
    connection.close()


def test_a_statement_keeps_to_the_deadline(server: Server) -> None:
    """A statement that runs too long ends with DeadlineExceeded, and its connection is not used
    again.
    """
    driver = driver_for(EngineName(server.engine))
    connection = driver.connect(at(server), server.password, Deadline.after(60))
    connection.guard.deadline = Deadline.after(0.3)
    began = time.monotonic()
    with pytest.raises((DeadlineExceeded, Exception)) as caught:
        connection.raw.cursor().execute(
            "SELECT pg_sleep(5)" if server.engine == "postgres" else "SELECT SLEEP(5)"
        )
    assert driver.fault(caught.value) is Fault.TIMEOUT
    assert time.monotonic() - began < 5 * 0.3
    assert not connection.is_alive()


@pytest.mark.parametrize("engine", list(EngineName))
def test_a_silent_handshake_keeps_to_the_deadline(engine: EngineName, silent_port: int) -> None:
    """A server that accepts and says nothing costs no more than the deadline, libpq's floor of two
    seconds apart.
    """
    driver = driver_for(engine)
    silent = Target.from_mapping(
        {"engine": engine.value, "host": "127.0.0.1", "port": silent_port, "user": "reaper"}
    )
    began = time.monotonic()
    with pytest.raises(Exception, match=r"time") as caught:
        driver.connect(silent, None, Deadline.after(1.0))
    assert driver.fault(caught.value) is Fault.TIMEOUT
    assert time.monotonic() - began < 5 * 2.0


def test_closing_never_waits_for_a_silent_server(server: Server) -> None:
    """close() returns at once although nobody answers."""
    with Mute(server.port) as mute:
        driver = driver_for(EngineName(server.engine))
        connection = driver.connect(at(server, port=mute.port), server.password, Deadline.after(60))
        mute.swallow()
        began = time.monotonic()
        connection.close()
        assert time.monotonic() - began < 5 * 1.0


class Mute:
    """A way to a server that can stop carrying anything."""

    def __init__(self, port: int) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._to = port
        self._mute = threading.Event()
        self._sockets: list[socket.socket] = [self._listening]

    def __enter__(self) -> Mute:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def _accept(self) -> None:
        client, _ = self._listening.accept()
        server = socket.create_connection(("127.0.0.1", self._to))
        self._sockets += [client, server]
        for source, sink in ((client, server), (server, client)):
            threading.Thread(target=self._carry, args=(source, sink.sendall), daemon=True).start()

    def _carry(self, source: socket.socket, send: Callable[[bytes], None]) -> None:
        try:
            while piece := source.recv(65536):
                if not self._mute.is_set():
                    send(piece)
        except OSError:
            return

    def swallow(self) -> None:
        self._mute.set()

    def __exit__(self, *exc: object) -> None:
        for opened in self._sockets:
            with suppress(OSError):
                # Wakes the thread that reads it; close alone would not
                opened.shutdown(socket.SHUT_RDWR)
            opened.close()


def test_tls_is_verified_unless_told_otherwise(server: Server) -> None:
    """Away from loopback TLS is verified; without a CA the error comes before any packet and says
    how to get one.
    """
    driver = driver_for(EngineName(server.engine))
    with pytest.raises(
        ConfigurationError, match=r"no ca is given; fetch https://.*global-bundle\.pem"
    ):
        driver.connect(at(server, host="192.0.2.1"), None, Deadline.after(5))


@pytest.mark.own_server
def test_tls_that_cannot_be_had_is_an_error(server: Server) -> None:
    """tls=require on a server without TLS is refused, never quietly plain text; with TLS the
    session is encrypted.
    """
    driver = driver_for(EngineName(server.engine))
    if server.flavour == "mysql":
        connection = driver.connect(at(server, tls="require"), None, Deadline.after(60))
        cursor = connection.raw.cursor()
        cursor.execute("SHOW SESSION STATUS LIKE 'Ssl_cipher'")
        assert cursor.fetchone()[1] != ""
        connection.close()
        return
    with pytest.raises(Exception, match=r"SSL") as caught:
        driver.connect(at(server, tls="require"), None, Deadline.after(60))
    assert driver.fault(caught.value) is Fault.CONFIGURATION


def test_a_certificate_for_another_name_is_refused(servers: Servers) -> None:
    """With the right CA but a certificate that does not name the host nothing is sent, not even the
    login.
    """
    # The one that makes itself certificates
    mysql = servers["mysql"]
    assert mysql.folder is not None
    driver = driver_for(EngineName.MYSQL)
    known = at(mysql, tls="verify", ca=str(mysql.folder / "data" / "ca.pem"))
    with pytest.raises(Exception, match=r"certificate verify failed|Hostname mismatch") as caught:
        driver.connect(known, None, Deadline.after(60))
    assert driver.fault(caught.value) is Fault.CONFIGURATION
