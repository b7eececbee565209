"""psycopg 3: PostgreSQL and Aurora PostgreSQL."""

from __future__ import annotations

import contextlib
from typing import Any

import psycopg
from psycopg.rows import dict_row

from reaper.client.deadline import Deadline, DeadlineExceeded
from reaper.client.drivers.base import (
    KEEPALIVE_COUNT,
    KEEPALIVE_IDLE,
    KEEPALIVE_INTERVAL,
    USER_TIMEOUT,
    Connection,
    check_ca,
    has_news,
)
from reaper.client.faults import Fault
from reaper.client.target import Target, Tls

# By SQLSTATE, then by its class. PostgreSQL's appendix A.
_FAULTS = {
    "53300": Fault.TOO_MANY,
    "28P01": Fault.CREDENTIALS,
    "28000": Fault.CREDENTIALS,
    "3D000": Fault.CONFIGURATION,
    "57P01": Fault.LOST,
    "57P02": Fault.LOST,
    "57P03": Fault.UNREACHABLE,
    "57P05": Fault.LOST,
    "25P03": Fault.LOST,
    "08": Fault.LOST,
}

# libpq hands a failed connect over without its SQLSTATE, so the text is all there is.
_CONNECT_TEXTS = (
    ("too many clients already", Fault.TOO_MANY),
    ("remaining connection slots are reserved", Fault.TOO_MANY),
    ("too many connections for", Fault.TOO_MANY),
    ("authentication failed", Fault.CREDENTIALS),
    ("no password supplied", Fault.CREDENTIALS),
    ('role "', Fault.CREDENTIALS),
    ("certificate", Fault.CONFIGURATION),
    ("does not support SSL", Fault.CONFIGURATION),
    ("pg_hba.conf", Fault.CONFIGURATION),
    ('database "', Fault.CONFIGURATION),
    ("the connection is closed", Fault.LOST),
    ("consuming input failed", Fault.LOST),
)

_SSLMODES = {Tls.OFF: "disable", Tls.REQUIRE: "require", Tls.VERIFY: "verify-full"}


class _Connection(psycopg.Connection[Any]):
    """psycopg's connection with the deadline over every wait; psycopg itself has no query timeout."""

    deadline: Deadline

    def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
        kwargs["timeout"] = max(self.deadline.remaining(), 0.001)
        try:
            return super().wait(gen, *args, **kwargs)
        except psycopg.errors._WaitTimeout:
            self.pgconn.finish()  # a reply still to come would answer the next question
            raise DeadlineExceeded("no time left waiting for the server") from None


class _Postgres:
    def connect(self, target: Target, password: str | None, deadline: Deadline, *, batch: bool = False) -> Connection:  # noqa: ARG002  the simple protocol takes several statements as it is
        check_ca(target)
        deadline.check(f"to connect to {target.name}")
        connection = _Connection.connect(
            host=target.host,
            port=target.port,
            user=target.user,
            password=password,
            dbname=target.database or "postgres",
            application_name="reaper",
            autocommit=True,
            row_factory=dict_row,
            prepare_threshold=None,
            # libpq takes whole seconds and psycopg no less than 2: the deadline's reserve pays the difference.
            connect_timeout=max(2, int(min(deadline.remaining(), 3600))),
            sslmode=_SSLMODES[target.effective_tls],
            sslrootcert=target.ca,
            keepalives_idle=KEEPALIVE_IDLE,
            keepalives_interval=KEEPALIVE_INTERVAL,
            keepalives_count=KEEPALIVE_COUNT,
            tcp_user_timeout=USER_TIMEOUT * 1000,
        )
        connection.deadline = deadline
        return connection

    def is_alive(self, connection: Connection) -> bool:
        if connection.closed:
            return False
        fd = connection.pgconn.socket
        if not has_news(fd):
            return True
        # A pending NOTIFY makes a healthy socket readable: take it in, then look again. After a FATAL
        # the first call reads it and the second meets the end of the stream.
        with contextlib.suppress(psycopg.Error):
            connection.pgconn.consume_input()
            return not has_news(fd)
        return False

    def close(self, connection: Connection) -> None:
        with contextlib.suppress(psycopg.Error, OSError):
            connection.close()

    def fault(self, error: BaseException) -> Fault:
        if isinstance(error, DeadlineExceeded | psycopg.errors.ConnectionTimeout):
            return Fault.TIMEOUT
        if not isinstance(error, psycopg.Error):
            return Fault.OTHER
        if state := error.sqlstate:
            return _FAULTS.get(state) or _FAULTS.get(state[:2], Fault.OTHER)
        for text, fault in _CONNECT_TEXTS:
            if text in str(error):
                return fault
        return Fault.UNREACHABLE if isinstance(error, psycopg.OperationalError) else Fault.OTHER


DRIVER = _Postgres()
