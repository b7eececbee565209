"""PyMySQL: MySQL, MariaDB and Aurora MySQL."""

from __future__ import annotations

import contextlib
import ssl
from typing import Any

import pymysql
from pymysql.connections import Connection as PyMySQLConnection
from pymysql.constants import CLIENT

from reaper.client.deadline import Deadline, DeadlineExceeded
from reaper.client.drivers.base import Connection, check_ca, has_news, keep_alive
from reaper.client.faults import Fault
from reaper.client.target import ConfigurationError, Target, Tls

# MySQL and MariaDB error reference; PyMySQL uses the C client's 2xxx numbers for its own errors.
_FAULTS = {
    1040: Fault.TOO_MANY,  # ER_CON_COUNT_ERROR
    1203: Fault.TOO_MANY,  # ER_TOO_MANY_USER_CONNECTIONS
    1226: Fault.TOO_MANY,  # ER_USER_LIMIT_REACHED
    1045: Fault.CREDENTIALS,  # ER_ACCESS_DENIED_ERROR
    1698: Fault.CREDENTIALS,  # ER_ACCESS_DENIED_NO_PASSWORD_ERROR
    1044: Fault.CONFIGURATION,  # ER_DBACCESS_DENIED_ERROR
    1049: Fault.CONFIGURATION,  # ER_BAD_DB_ERROR
    2026: Fault.CONFIGURATION,  # CR_SSL_CONNECTION_ERROR
    2003: Fault.UNREACHABLE,  # CR_CONN_HOST_ERROR
    2005: Fault.UNREACHABLE,  # CR_UNKNOWN_HOST
    2006: Fault.LOST,  # CR_SERVER_GONE_ERROR
    2013: Fault.LOST,  # CR_SERVER_LOST
    1053: Fault.LOST,  # ER_SERVER_SHUTDOWN
    1317: Fault.LOST,  # ER_QUERY_INTERRUPTED: our own session was killed
    1927: Fault.LOST,  # ER_CONNECTION_KILLED (MariaDB)
}


class _Connection(PyMySQLConnection):
    """PyMySQL's connection with the deadline asked before each read and write."""

    deadline: Deadline

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


class _MySQL:
    def connect(self, target: Target, password: str | None, deadline: Deadline, *, batch: bool = False) -> Connection:
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
            program_name="reaper",
            **_tls(target),
        )
        connection.deadline = deadline
        try:
            connection.connect()
        except RuntimeError as missing:  # PyMySQL: sha2 over plain text needs a package of its own
            raise ConfigurationError(f"target {target.name!r}: {missing}; TLS would do without") from None
        keep_alive(connection._sock)  # type: ignore[attr-defined]  # not in the stubs
        return connection

    def is_alive(self, connection: Connection) -> bool:
        # Bytes waiting on an idle MySQL socket are bad news too: the server's goodbye.
        return bool(connection.open) and not has_news(connection._sock.fileno())

    def close(self, connection: Connection) -> None:
        connection.deadline = connection.deadline.sooner(1.0)
        with contextlib.suppress(pymysql.Error, OSError):
            connection.close()

    def fault(self, error: BaseException) -> Fault:
        if isinstance(error, DeadlineExceeded) or isinstance(error.__context__, TimeoutError):
            return Fault.TIMEOUT
        cause = getattr(error, "original_exception", error)
        if isinstance(cause, ssl.SSLError):
            return Fault.CONFIGURATION
        if isinstance(error, pymysql.InterfaceError):
            return Fault.LOST
        code = error.args[0] if isinstance(error, pymysql.Error) and error.args else None
        return _FAULTS.get(code, Fault.OTHER) if isinstance(code, int) else Fault.OTHER


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
