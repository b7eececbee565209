"""PyMySQL: MySQL, MariaDB and Aurora MySQL."""

from __future__ import annotations

import contextlib
import io
import ssl
from typing import Any

import pymysql
from pymysql.connections import Connection as PyMySQLConnection
from pymysql.constants import CLIENT, SERVER_STATUS
from pymysql.cursors import DictCursor

from reaper.client.deadline import Deadline, DeadlineExceeded
from reaper.client.drivers.base import Connection, Result, check_ca, has_news, keep_alive
from reaper.client.drivers.mysql_faults import fault
from reaper.client.faults import Fault
from reaper.client.target import ConfigurationError, Target, Tls


class _Connection(PyMySQLConnection):
    """PyMySQL's connection with the deadline asked before each read and write."""

    deadline: Deadline
    sent = True

    def _execute_command(self, *args: Any) -> Any:
        # When this returns the kernel has the whole packet; a server never runs an incomplete one.
        self.sent = False
        super()._execute_command(*args)  # type: ignore[misc]  # not in the stubs
        self.sent = True

    def _read_packet(self, *args: Any, **kwargs: Any) -> Any:
        self._ask_the_deadline()
        return super()._read_packet(*args, **kwargs)  # type: ignore[no-untyped-call]

    def _write_bytes(self, data: bytes) -> Any:
        self._ask_the_deadline()
        return super()._write_bytes(data)  # type: ignore[misc]  # not in the stubs

    def _ask_the_deadline(self) -> None:
        left = self.deadline.remaining()
        if left <= 0:
            self._force_close()  # type: ignore[attr-defined]  # a reply still to come would answer the next question
            raise DeadlineExceeded("no time left waiting for the server")
        # PyMySQL applies these before its next recv and send (1.2.1 and later).
        self._read_timeout = self._write_timeout = left


class _Stream(io.RawIOBase):
    """What PyMySQL reads from, with the deadline asked before each recv: its own timeout begins anew with each."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._connection.deadline.remaining()
        if left <= 0:
            raise TimeoutError("timed out")
        self._connection._sock.settimeout(left)
        self._connection._current_timeout = left
        received: int = self._connection._sock.recv_into(buffer)
        return received


class _MySQL:
    def connect(
        self,
        target: Target,
        password: str | None,
        deadline: Deadline,
        *,
        application: str = "reaper",
        batch: bool = False,
    ) -> Connection:
        check_ca(target)
        deadline.check(f"to connect to {target.name}")
        connection = _Connection(
            host=target.host,
            port=target.port,
            user=target.user,
            password=password or "",
            database=target.database,
            autocommit=True,
            charset="utf8mb4",
            connect_timeout=min(deadline.remaining(), 3600),
            client_flag=CLIENT.MULTI_STATEMENTS if batch else 0,
            defer_connect=True,
            program_name=application,
            **_tls(target),
        )
        connection.deadline = deadline
        try:
            connection.connect()
        except RuntimeError as missing:  # PyMySQL: sha2 over plain text needs a package of its own
            raise ConfigurationError(f"target {target.name!r}: {missing}; TLS would do without") from None
        keep_alive(connection._sock)  # type: ignore[attr-defined]  # not in the stubs
        # Nothing is buffered now: the login's last answer has been read, and the server speaks when asked.
        connection._rfile = io.BufferedReader(_Stream(connection))  # type: ignore[attr-defined]  # not in the stubs
        return connection

    def run(self, connection: Connection, sql: str, params: Any = None) -> Result:
        connection.sent = False
        with connection.cursor(DictCursor) as cursor:
            cursor.execute(sql, params)
            rows = list(cursor.fetchall()) if cursor.description else []
            return Result(rows, cursor.rowcount, cursor.lastrowid or None)

    def ping(self, connection: Connection) -> None:
        connection.ping(reconnect=False)

    def in_transaction(self, connection: Connection) -> bool:
        return bool(connection.server_status & SERVER_STATUS.SERVER_STATUS_IN_TRANS)

    def has_failed(self, connection: Connection) -> bool:  # noqa: ARG002  a failed statement undoes itself alone
        return False

    def was_sent(self, connection: Connection, error: BaseException) -> bool:  # noqa: ARG002  the flag tells
        return bool(connection.sent)

    def is_alive(self, connection: Connection) -> bool:
        # Bytes waiting on an idle MySQL socket are bad news too: the server's goodbye.
        return bool(connection.open) and not has_news(connection._sock.fileno())

    def close(self, connection: Connection) -> None:
        connection.deadline = connection.deadline.sooner(1.0)
        with contextlib.suppress(pymysql.Error, OSError):
            connection.close()

    def fault(self, error: BaseException) -> Fault:
        return fault(error)


def _tls(target: Target) -> dict[str, Any]:
    """PyMySQL's TLS arguments. `ssl_ca` alone would encrypt without verifying, so hand over a whole context."""
    match target.effective_tls:
        case Tls.OFF:
            return {"ssl_disabled": True}
        case Tls.REQUIRE:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        case Tls.VERIFY:
            context = ssl.create_default_context(cafile=target.ca)
            # The provider's roots lack an extension that Python 3.13 demands by default.
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return {"ssl": context}


DRIVER = _MySQL()
