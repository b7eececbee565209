"""psycopg 3: PostgreSQL and Aurora PostgreSQL."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import waiting
from psycopg._conninfo_attempts import conninfo_attempts
from psycopg.conninfo import make_conninfo
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from reaper.client import tls
from reaper.client.deadline import Deadline, DeadlineExceeded
from reaper.client.drivers.base import (
    KEEPALIVE_COUNT,
    KEEPALIVE_IDLE,
    KEEPALIVE_INTERVAL,
    USER_TIMEOUT,
    Connection,
    Guarded,
    Result,
    check_ca,
    out_of_time,
)
from reaper.client.drivers.postgres_faults import fault
from reaper.client.faults import Fault
from reaper.client.target import Target

_KNOWS_IDLE_LIMIT = 140000
# Rows that a cursor may hold on to until the next statement
_FEW = 100
_IN_TRANSACTION = (TransactionStatus.INTRANS, TransactionStatus.INERROR)


class _Connection(Guarded, psycopg.Connection[Any]):
    """psycopg's connection with the deadline over every wait; psycopg itself has no query timeout."""

    sent = True

    def _socket_number(self) -> int:
        return self.pgconn.socket

    def is_idle(self) -> bool:
        # psycopg's own, held from the first byte sent to the last one read
        return not self.lock.locked()

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:  # noqa: ARG002  ours goes
        try:
            return super().wait(gen, interval, max(self.time_to_run(), 0.001))
        except psycopg.errors._WaitTimeout:
            return self._stopped(gen, interval)

    def _stopped(self, gen: Any, interval: float) -> Any:
        """What comes of a wait whose time is up, once the server was asked to stop."""
        try:
            # The same wait goes on: the answer says whether the request came too late
            if self.try_to_stop():
                return super().wait(gen, interval, max(self.deadline.remaining(), 0.001))
        except psycopg.errors._WaitTimeout:
            pass
        # a reply still to come would answer the next question
        self.pgconn.finish()
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
        proxy: bool = False,
    ) -> Connection:
        check_ca(target)
        deadline.check(f"to connect to {target.name}")
        connection = _opened(
            deadline,
            host=target.host,
            port=target.port,
            user=target.user,
            password=password,
            dbname=target.database or "postgres",
            **tls.for_psycopg(target),
            keepalives_idle=KEEPALIVE_IDLE,
            keepalives_interval=KEEPALIVE_INTERVAL,
            keepalives_count=KEEPALIVE_COUNT,
            tcp_user_timeout=USER_TIMEOUT * 1000,
            # RDS Proxy refuses PGOPTIONS; what else a session is told while it starts may pin it.
            **{"options": ""} if proxy else {"application_name": application},
        )
        connection.deadline = deadline
        connection.autocommit = True
        connection.row_factory = dict_row
        connection.prepare_threshold = None
        if proxy:
            # The simple protocol: no Parse message, which may pin
            connection.cursor_factory = psycopg.ClientCursor
        return connection

    def run(self, connection: Connection, sql: str, params: Any = None) -> Result:
        connection.sent = False
        if connection.closed:
            raise psycopg.OperationalError("the connection is closed")
        # Libpq hides what it could not write, so from here on anything may have arrived
        connection.sent = True
        connection.about_to_run(sql)
        began = time.monotonic()
        cursor = connection.own_cursor
        if cursor is None:
            cursor = connection.own_cursor = connection.cursor(row_factory=dict_row)
        try:
            cursor.execute(sql, params)
        except DeadlineExceeded as error:
            raise out_of_time(sql, time.monotonic() - began, stopped=False) from error
        except psycopg.errors.QueryCanceled as error:
            if connection.has_stopped_it(fault(error)):
                raise out_of_time(sql, time.monotonic() - began, stopped=True) from error
            raise
        # `description` would describe them all
        has_rows = cursor.pgresult is not None and cursor.pgresult.nfields
        rows = cursor.fetchall() if has_rows else []
        if len(rows) > _FEW:
            connection.own_cursor = None
        return Result(rows, cursor.rowcount)

    def stop(
        self,
        connection: Connection,
        another: Callable[[Deadline], Connection],  # noqa: ARG002  libpq opens it itself
        deadline: Deadline,
    ) -> None:
        connection.cancel_safe(timeout=max(deadline.remaining(), 0.001))

    def size(self, connection: Connection, sql: str, params: Any) -> int:
        return len(psycopg.ClientCursor(connection).mogrify(sql, params).encode())

    def idle_limit(self, connection: Connection) -> float | None:
        if connection.info.server_version < _KNOWS_IDLE_LIMIT:
            return None
        query = "SELECT setting::float8 / 1000 AS seconds FROM pg_settings WHERE name = 'idle_session_timeout'"
        (row,) = self.run(connection, query).rows
        return row["seconds"] or None

    def limit_idle(self, connection: Connection, seconds: int) -> None:
        if connection.info.server_version >= _KNOWS_IDLE_LIMIT:
            self.run(connection, f"SET idle_session_timeout = '{seconds:d}s'")

    def ping(self, connection: Connection) -> None:
        connection.unstoppable = True
        connection.execute("")

    def in_transaction(self, connection: Connection) -> bool:
        return connection.pgconn.transaction_status in _IN_TRANSACTION

    def has_failed(self, connection: Connection) -> bool:
        return bool(connection.pgconn.transaction_status == TransactionStatus.INERROR)

    def was_sent(self, connection: Connection, error: BaseException) -> bool:
        # The server says of these that the session was idle when it was ended.
        return bool(connection.sent) and getattr(error, "sqlstate", None) not in ("57P05", "25P03")

    def is_alive(self, connection: Connection) -> bool:
        if connection.closed:
            return False
        if not connection.has_news():
            return True
        # A pending NOTIFY makes a healthy socket readable: take it in, then look again. After a
        # FATAL the first call reads it and the second meets the end of the stream.
        with contextlib.suppress(psycopg.Error):
            connection.pgconn.consume_input()
            return not connection.has_news()
        return False

    def close(self, connection: Connection) -> None:
        with contextlib.suppress(psycopg.Error, OSError):
            connection.close()

    def fault(self, error: BaseException) -> Fault:
        return fault(error)


def _opened(deadline: Deadline, **params: Any) -> _Connection:
    """`psycopg.connect`, whose shortest timeout is two whole seconds, with the exact deadline
    instead.
    """
    refused: Exception | None = None
    for attempt in conninfo_attempts(
        {key: value for key, value in params.items() if value is not None}
    ):
        opening = _Connection._connect_gen(make_conninfo("", **attempt))
        try:
            return waiting.wait_conn(
                opening, interval=0.1, timeout=max(deadline.remaining(), 0.001)
            )
        except psycopg.errors._WaitTimeout:
            raise DeadlineExceeded(f"no time left to connect to {params['host']}") from None
        except psycopg.Error as error:
            refused = error
    raise refused or psycopg.OperationalError("failed to resolve host: no address")


DRIVER = _Postgres()
