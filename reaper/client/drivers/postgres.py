"""psycopg 3: PostgreSQL and Aurora PostgreSQL."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from reaper.client import tls
from reaper.client.deadline import Deadline, DeadlineExceeded
from reaper.client.drivers import psycopg_internals
from reaper.client.drivers.base import (
    KEEPALIVE_COUNT,
    KEEPALIVE_IDLE,
    KEEPALIVE_INTERVAL,
    USER_TIMEOUT,
    check_ca,
)
from reaper.client.drivers.connection import (
    Address,
    Another,
    Guard,
    Params,
    Result,
    SocketWatch,
    State,
    out_of_time,
)
from reaper.client.drivers.postgres_faults import fault
from reaper.client.drivers.psycopg_internals import GuardedConnection
from reaper.client.faults import Fault
from reaper.client.target import Target

_KNOWS_IDLE_LIMIT = 140000
# Rows that a cursor may hold on to until the next statement.
_FEW = 100
_IN_TRANSACTION = (TransactionStatus.INTRANS, TransactionStatus.INERROR)
# idle_session_timeout and idle_in_transaction_session_timeout: the server says of these that the
# session was idle when it was ended.
_ENDED_WHILE_IDLE = ("57P05", "25P03")
# Command tags; a ROLLBACK TO has the same as ROLLBACK.
_ENDS_OR_BEGINS = frozenset(
    {"BEGIN", "START TRANSACTION", "COMMIT", "ROLLBACK", "PREPARE TRANSACTION"}
)
# Named with its schema: what somebody put into one that is searched first would run as ours.
_GET_IDLE_LIMIT = """
SELECT setting::pg_catalog.float8 OPERATOR(pg_catalog./) 1000::pg_catalog.float8 AS seconds
FROM pg_catalog.pg_settings WHERE name OPERATOR(pg_catalog.=) 'idle_session_timeout'
"""


class PostgresConnection:
    """A session on PostgreSQL."""

    def __init__(self, raw: GuardedConnection) -> None:
        self.raw = raw
        self.guard = raw.guard
        self.can_ask_commits: bool | None = None
        # Reused between statements, since creating a cursor costs a tenth of a query.
        self._cursor: Any = None
        # What the last text's statements were, as the server named them.
        self._tags: tuple[str | None, ...] = ()
        self._watch: SocketWatch | None = None

    @property
    def id(self) -> int:
        return self.raw.info.backend_pid

    def run(self, sql: str, params: Params = None) -> Result:
        guard = self.guard
        guard.sent = False
        if self.raw.closed:
            raise psycopg.OperationalError("the connection is closed")
        # libpq hides what it could not write, so from here on anything may have arrived.
        guard.sent = True
        guard.about_to_run(sql)
        began = time.monotonic()
        try:
            return self.answer(sql, params)
        except DeadlineExceeded as error:
            raise out_of_time(sql, time.monotonic() - began, stopped=False) from error
        except psycopg.errors.QueryCanceled as error:
            if guard.has_stopped_it(fault(error)):
                raise out_of_time(sql, time.monotonic() - began, stopped=True) from error
            raise

    def answer(self, sql: str, params: Params = None) -> Result:
        cursor = self._cursor
        if cursor is None:
            cursor = self._cursor = self.raw.cursor(row_factory=dict_row)
        cursor.execute(sql, params)
        # `description` would describe all columns.
        has_rows = cursor.pgresult is not None and cursor.pgresult.nfields
        rows = cursor.fetchall() if has_rows else []
        result = Result(rows, cursor.rowcount)
        self._tags = (cursor.statusmessage,)
        # Several statements in one text: one answer each.
        while cursor.nextset():
            self._tags += (cursor.statusmessage,)
        if len(rows) > _FEW:
            self._cursor = None
        return result

    def size(self, sql: str, params: Params) -> int:
        return len(psycopg.ClientCursor(self.raw).mogrify(sql, params).encode())

    def stop(
        self,
        another: Another,  # noqa: ARG002  libpq opens its own
        deadline: Deadline,
    ) -> None:
        self.raw.cancel_safe(timeout=max(deadline.remaining(), 0.001))

    def identify(self) -> None:
        # A request to cancel carries a key that no other session has.
        pass

    def row_limit(self) -> int | None:
        return None

    def is_replica(self) -> bool:
        # Told by PostgreSQL 14 and later; default_transaction_read_only refuses as well.
        return self.raw.pgconn.parameter_status(b"in_hot_standby") != b"off"

    def idle_limit(self) -> float | None:
        if self.raw.info.server_version < _KNOWS_IDLE_LIMIT:
            return None
        (row,) = self.run(_GET_IDLE_LIMIT).rows
        return row["seconds"] or None

    def limit_idle(self, seconds: int) -> None:
        if self.raw.info.server_version >= _KNOWS_IDLE_LIMIT:
            self.run(f"SET idle_session_timeout = '{seconds:d}s'")

    def ping(self) -> None:
        self.guard.unstoppable = True
        self.raw.execute("")

    def begin(self) -> None:
        self.run("BEGIN")

    def commit(self) -> None:
        self.run("COMMIT")

    def roll_back(self) -> None:
        self.run("ROLLBACK")

    def state(self) -> State:
        pgconn = self.raw.pgconn
        status = pgconn.transaction_status
        if status in _IN_TRANSACTION:
            return State.IN_TRANSACTION
        is_idle = status == TransactionStatus.IDLE and not self.guard.stopping
        return State.IDLE if is_idle and self.raw.autocommit else State.UNUSABLE

    def mark_transaction(self) -> None:
        # Nothing is needed: the answers name each command.
        pass

    def is_same_transaction(self) -> bool:
        return not any(tag in _ENDS_OR_BEGINS for tag in self._tags)

    def in_transaction(self) -> bool:
        return self.raw.pgconn.transaction_status in _IN_TRANSACTION

    def has_failed(self) -> bool:
        return bool(self.raw.pgconn.transaction_status == TransactionStatus.INERROR)

    def was_sent(self, error: BaseException) -> bool:
        return self.guard.sent and getattr(error, "sqlstate", None) not in _ENDED_WHILE_IDLE

    def is_alive(self) -> bool:
        if self.raw.closed:
            return False
        if self._watch is None:
            self._watch = SocketWatch(self.raw.pgconn.socket)
        if not self._watch.has_news():
            return True
        # A pending NOTIFY makes a healthy socket readable: take it in, then look again. After a
        # FATAL the first call reads it and the second meets the end of the stream.
        with contextlib.suppress(psycopg.Error):
            self.raw.pgconn.consume_input()
            return not self._watch.has_news()
        return False

    def is_idle(self) -> bool:
        # psycopg's own lock, held from the first byte sent to the last one read.
        return not self.raw.lock.locked()

    def lend(self) -> None:
        self._cursor = None

    def close(self) -> None:
        with contextlib.suppress(psycopg.Error, OSError):
            self.raw.close()


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
        address: Address | None = None,  # noqa: ARG002  nobody asks for one
    ) -> PostgresConnection:
        check_ca(target)
        deadline.check(f"to connect to {target.name}")
        raw = psycopg_internals.connect(
            Guard(deadline),
            deadline,
            {
                "host": target.host,
                "port": target.port,
                "user": target.user,
                "password": password,
                "dbname": target.database or "postgres",
                # Names and texts of any letters, whatever the role's own default is.
                "client_encoding": None if proxy else "UTF8",
                **tls.for_psycopg(target),
                "keepalives_idle": KEEPALIVE_IDLE,
                "keepalives_interval": KEEPALIVE_INTERVAL,
                "keepalives_count": KEEPALIVE_COUNT,
                "tcp_user_timeout": USER_TIMEOUT * 1000,
                # RDS Proxy refuses PGOPTIONS; what else a session is told while it starts may pin.
                **({"options": ""} if proxy else {"application_name": application}),
            },
        )
        raw.autocommit = True
        raw.row_factory = dict_row
        raw.prepare_threshold = None
        if proxy:
            # The simple protocol: no Parse message, which may pin.
            raw.cursor_factory = psycopg.ClientCursor
        return PostgresConnection(raw)

    def fault(self, error: BaseException) -> Fault:
        return fault(error)


DRIVER = _Postgres()
