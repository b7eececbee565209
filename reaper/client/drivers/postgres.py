"""psycopg 3: PostgreSQL and Aurora PostgreSQL."""

from __future__ import annotations

import contextlib
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from reaper.client.deadline import Deadline, DeadlineExceeded
from reaper.client.drivers.base import (
    KEEPALIVE_COUNT,
    KEEPALIVE_IDLE,
    KEEPALIVE_INTERVAL,
    USER_TIMEOUT,
    Connection,
    Result,
    check_ca,
    has_news,
)
from reaper.client.drivers.postgres_faults import fault
from reaper.client.faults import Fault
from reaper.client.target import Target, Tls

_SSLMODES = {Tls.OFF: "disable", Tls.REQUIRE: "require", Tls.VERIFY: "verify-full"}


class _Connection(psycopg.Connection[Any]):
    """psycopg's connection with the deadline over every wait; psycopg itself has no query timeout."""

    deadline: Deadline
    sent = True

    def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
        kwargs["timeout"] = max(self.deadline.remaining(), 0.001)
        try:
            return super().wait(gen, *args, **kwargs)
        except psycopg.errors._WaitTimeout:
            self.pgconn.finish()  # a reply still to come would answer the next question
            raise DeadlineExceeded("no time left waiting for the server") from None


class _Postgres:
    def connect(
        self,
        target: Target,
        password: str | None,
        deadline: Deadline,
        *,
        application: str = "reaper",
        batch: bool = False,  # noqa: ARG002  the simple protocol takes several statements as it is
    ) -> Connection:
        check_ca(target)
        deadline.check(f"to connect to {target.name}")
        connection = _Connection.connect(
            host=target.host,
            port=target.port,
            user=target.user,
            password=password,
            dbname=target.database or "postgres",
            application_name=application,
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

    def run(self, connection: Connection, sql: str, params: Any = None) -> Result:
        connection.sent = False
        if connection.closed:
            raise psycopg.OperationalError("the connection is closed")
        connection.sent = True  # libpq hides what it could not write, so from here on anything may have arrived
        cursor = connection.execute(sql, params)
        return Result(cursor.fetchall() if cursor.description else [], cursor.rowcount)

    def ping(self, connection: Connection) -> None:
        connection.execute("")

    def in_transaction(self, connection: Connection) -> bool:
        return connection.info.transaction_status in (TransactionStatus.INTRANS, TransactionStatus.INERROR)

    def has_failed(self, connection: Connection) -> bool:
        return bool(connection.info.transaction_status == TransactionStatus.INERROR)

    def was_sent(self, connection: Connection, error: BaseException) -> bool:
        # The server says of these that the session was idle when it was ended.
        return bool(connection.sent) and getattr(error, "sqlstate", None) not in ("57P05", "25P03")

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
        return fault(error)


DRIVER = _Postgres()
