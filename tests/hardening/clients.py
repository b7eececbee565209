"""Clients that keep a diary: what each did and when, and when its own socket said that it had been
ended.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from math import inf
from socket import SHUT_RDWR, socket

import psycopg

from lab.servers import Server, until
from lab.servers.sockets import hung_up
from tests.hardening.oracle import UNTOUCHABLE, Client, Posture

# Seconds from a victim's re-read to its kill, at most
WINDOW = 0.05
# Seconds from a kill until the client's socket shows it, on a busy machine
HEARD = 0.3

# What a server answers to a mistake: an unknown column, no rights, no database, a transaction that
# has failed.
MISTAKES = {"42703", "42501", "25P02", 1054, 1044, 1046, 1142}


@dataclass(frozen=True)
class Deed:
    """What a client can do: its statement for either engine, how long that takes, and how it stands
    afterwards.
    """

    postgres: str
    mysql: str
    lasts: float = 0.0
    stands: Mapping[str, bool] = field(default_factory=dict)


DEEDS = {
    "work": Deed("SELECT 1", "SELECT 1"),
    "nap": Deed("SELECT pg_sleep(0.3)", "SELECT SLEEP(0.3)", lasts=0.3),
    "long nap": Deed("SELECT pg_sleep(1.2)", "SELECT SLEEP(1.2)", lasts=1.2),
    "begin": Deed("BEGIN", "BEGIN", stands={"in_transaction": True, "is_bare": True}),
    "write": Deed(
        "SELECT pg_current_xact_id()",
        "INSERT INTO scratch (value) VALUES (0)",
        stands={"is_bare": False},
    ),
    "commit": Deed("COMMIT", "COMMIT", stands={"in_transaction": False}),
    "roll back": Deed("ROLLBACK", "ROLLBACK", stands={"in_transaction": False}),
    "lock": Deed(
        "SELECT pg_advisory_lock(pg_backend_pid())",
        "SELECT GET_LOCK(CONCAT('model ', CONNECTION_ID()), 0)",
        stands={"is_locking": True},
    ),
    "unlock": Deed(
        "SELECT pg_advisory_unlock_all()", "DO RELEASE_ALL_LOCKS()", stands={"is_locking": False}
    ),
    "listen": Deed("LISTEN orders", "SELECT 1", stands={"is_listening": True}),
    "fail": Deed("SELECT no_such_column", "SELECT no_such_column"),
}


class Session:
    """One client on a connection of its own."""

    def __init__(self, server: Server, user: str, application: str) -> None:
        sent = time.monotonic()
        self._server = server
        self._connection = connection = server.connect(
            user, server.home if user in UNTOUCHABLE else "shop", application
        )
        self._client = server.kind.client(connection, user)
        self._application = application
        self._postures = [Posture(sent, sent, time.monotonic())]
        self._is_napping = False
        driver = (
            connection.pgconn.socket if server.engine == "postgres" else connection._sock.fileno()
        )
        # A descriptor of our own: the driver's may be closed by now, and its number be another
        # socket's.
        self._socket = socket(fileno=os.dup(driver))
        self._was_well = time.monotonic()
        self._heard: float | None = None

    @property
    def id(self) -> int:
        return self._client.id

    @property
    def diary(self) -> Client:
        return Client(self._client.user, self._application, tuple(self._postures))

    @property
    def is_ended(self) -> bool:
        """As far as it has been heard of."""
        return self._heard is not None

    @property
    def struck(self) -> tuple[float, float]:
        """Between which two moments it was re-read for the last time and ended."""
        assert self._heard is not None
        return self._was_well - HEARD - WINDOW, self._heard

    def watch(self) -> bool:
        """Look whether it has been ended, and note when it was well for the last time."""
        now = time.monotonic()
        if not self.is_ended and hung_up(self._socket.fileno()):
            self._heard = time.monotonic()
        if not self.is_ended:
            self._was_well = now
        return self.is_ended

    def do(self, deed: Deed) -> None:
        """Send the statement; read the answer, unless that takes its time.

        Who is still at another does nothing.
        """
        if self._is_napping and time.monotonic() < self._postures[-1].earliest:
            return
        self.finish()
        before, sent = self._postures[-1], time.monotonic()
        if self.is_ended or (before.in_transaction and deed is DEEDS["begin"]):
            return
        self._postures[-1] = replace(before, until=sent)
        still = replace(
            before, sent=sent, earliest=sent + deed.lasts, latest=inf, is_listening=False
        )
        self._postures.append(replace(still, **deed.stands))
        with self._may_fail(before):
            if deed.lasts:
                self._client.start(self._sql(deed))
                self._is_napping = True
            else:
                self._client.run(self._sql(deed))
                self._answered()

    def _sql(self, deed: Deed) -> str:
        return deed.postgres if self._server.engine == "postgres" else deed.mysql

    def finish(self) -> None:
        """Read the answer that takes its time."""
        if self._is_napping:
            self._is_napping = False
            with self._may_fail(self._postures[-1]):
                try:
                    self._client.finish()
                except psycopg.Error:
                    # The end of the answer, else it is taken for the next one's
                    self._connection.pgconn.get_result()
                    raise
                self._answered()

    def _answered(self, **stands: bool) -> None:
        self._postures[-1] = replace(self._postures[-1], latest=time.monotonic(), **stands)

    @contextmanager
    def _may_fail(self, before: Posture) -> Iterator[None]:
        """A mistake changes nothing; any other error must be the end."""
        try:
            yield
        except self._server.kind.errors as error:
            if MISTAKES & {error.args[0], getattr(error, "sqlstate", None)}:
                self._answered(is_locking=before.is_locking)
            elif not until(self.watch, timeout=5):
                raise

    def leave(self, abruptly: bool = False) -> None:
        """End the connection, with a goodbye or without."""
        if abruptly:
            # It has been ended already
            with suppress(OSError):
                self._socket.shutdown(SHUT_RDWR)
        self._client.close()
        self._socket.close()
