"""PyMySQL: MySQL, MariaDB and Aurora MySQL."""

from __future__ import annotations

import contextlib
import io
import re
import time
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import pymysql
from pymysql.connections import Connection as PyMySQLConnection
from pymysql.constants import CLIENT, SERVER_STATUS

from reaper.client import tls
from reaper.client.deadline import Deadline, DeadlineExceeded
from reaper.client.drivers.base import Connection, Guarded, Result, check_ca, keep_alive, out_of_time
from reaper.client.drivers.mysql_faults import fault
from reaper.client.faults import Fault
from reaper.client.statements import only_reads
from reaper.client.target import ConfigurationError, Target


class _Connection(Guarded, PyMySQLConnection):
    """PyMySQL's connection with the deadline asked before each read and write."""

    def _keep_to_the_deadline(self, reader: io.BufferedIOBase | None) -> None:
        # PyMySQL makes a reader with the connection and another for TLS, each before anything was read.
        if reader is not None:
            reader.close()
        self._reader = None if reader is None else io.BufferedReader(_Stream(self))

    _reader: io.BufferedReader | None = None
    _rfile = property(attrgetter("_reader"), _keep_to_the_deadline)
    sent = True
    answered = True  # what was written last: the answer has begun
    hinted = False  # SELECTs are told their limit instead of being stopped

    def is_idle(self) -> bool:
        return self.answered

    def has_stopped_it(self, meaning: Fault) -> bool:
        return super().has_stopped_it(meaning) or (self.hinted and meaning is Fault.QUERY_TIMEOUT)

    def answer(self, sql: str, params: Any) -> Result:
        """Run the statement, past PyMySQL's cursor: of that only the way it writes parameters is needed."""
        if self.own_cursor is None:
            self.own_cursor = self.cursor()
        self.query(self.own_cursor.mogrify(sql, params))
        result: Any = self._result  # type: ignore[attr-defined]  # not in the stubs
        rows = _dicts(result) if result.rows else []
        while result.has_next:  # a procedure's; the last says how many rows were changed
            self.next_result()
            result = self._result  # type: ignore[attr-defined]
        return Result(rows, result.affected_rows, result.insert_id or None)

    def _write_bytes(self, data: bytes) -> Any:
        self.sent = self.answered = False
        left = self.time_to_run()
        if left <= 0:
            self._force_close()  # type: ignore[attr-defined]  # a reply still to come would answer the next question
            raise DeadlineExceeded("no time left to ask the server")
        self.limit_waits(left)
        super()._write_bytes(data)  # type: ignore[misc]  # not in the stubs
        self.sent = True  # the kernel has the whole packet, and a server never runs an incomplete one

    def limit_waits(self, left: float) -> None:
        """Have no wait outlast the time left. What was set before mostly still serves: setting it is a system call."""
        connection: Any = self  # its socket is not in the stubs
        limit = connection._current_timeout
        if limit is None or not left / 2 <= limit <= left:
            limit = max(0.75 * left, 0.001)
            connection._sock.settimeout(limit)
            connection._current_timeout = limit
        connection._read_timeout = connection._write_timeout = limit


class _Stream(io.RawIOBase):
    """What PyMySQL reads from, with the deadline asked before each recv: its own timeout begins anew with each."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        connection: Any = self._connection
        while (left := connection.time_to_run()) > 0 or connection.try_to_stop():
            try:
                connection.limit_waits(left)
                received: int = connection._sock.recv_into(buffer)
                connection.answered = True
                return received
            except TimeoutError:
                continue  # the answer may yet come; where a stop was asked for, it says whether that was too late
        raise TimeoutError("timed out")


def _dicts(result: Any) -> list[dict[str, Any]]:
    names: list[str] = []
    for field in result.fields:  # of two columns with one name the second keeps its table's, as in PyMySQL's DictCursor
        names.append(f"{field.table_name}.{field.name}" if field.name in names else field.name)
    return [dict(zip(names, row, strict=True)) for row in result.rows]


class _MySQL:
    def connect(
        self,
        target: Target,
        password: str | None,
        deadline: Deadline,
        *,
        application: str = "reaper",
        batch: bool = False,
        proxy: bool = False,
    ) -> Connection:
        check_ca(target)
        deadline.check(f"to connect to {target.name}")
        connection = _Connection(
            host=target.host,
            port=target.port,
            user=target.user,
            password=(password or "").encode(),  # a text would go out in latin1, or its error carry the password
            database=target.database,
            autocommit=True,
            charset="utf8mb4",
            connect_timeout=min(deadline.remaining(), 3600),
            client_flag=CLIENT.MULTI_STATEMENTS if batch else 0,
            defer_connect=True,
            program_name=application,
            **tls.for_pymysql(target),
        )
        connection.deadline = deadline
        try:
            connection.connect()
        except RuntimeError as missing:  # PyMySQL: sha2 over plain text needs a package of its own
            raise ConfigurationError(f"target {target.name!r}: {missing}; TLS would do without") from None
        keep_alive(connection._sock)  # type: ignore[attr-defined]  # not in the stubs
        connection.hinted = proxy and "MariaDB" not in connection.get_server_info()  # type: ignore[no-untyped-call]
        return connection

    def run(self, connection: Connection, sql: str, params: Any = None) -> Result:
        connection.sent = False
        connection.about_to_run(sql)
        began = time.monotonic()
        if connection.hinted:
            sql = with_limit(sql, connection.deadline.remaining())
        try:
            result: Result = connection.answer(sql, params)
        except pymysql.Error as error:
            meaning = fault(error)
            if meaning is Fault.TIMEOUT or connection.has_stopped_it(meaning):
                raise out_of_time(sql, time.monotonic() - began, stopped=meaning is not Fault.TIMEOUT) from error
            raise
        if connection.stopping and result.rows and only_reads(sql):  # MySQL ends SLEEP() with an answer, the wrong one
            raise out_of_time(sql, time.monotonic() - began, stopped=True)
        return result

    def stop(
        self, connection: Connection, another: Callable[[Deadline], Connection], deadline: Deadline
    ) -> None:
        second = another(deadline)
        try:
            second.query(f"KILL QUERY {int(connection.thread_id())}")
        finally:
            self.close(second)

    def size(self, connection: Connection, sql: str, params: Any) -> int:
        with connection.cursor() as cursor:
            return len(cursor.mogrify(sql, params).encode())

    def idle_limit(self, connection: Connection) -> float | None:
        (row,) = self.run(connection, "SELECT @@wait_timeout AS seconds").rows
        return float(row["seconds"])

    def limit_idle(self, connection: Connection, seconds: int) -> None:
        self.run(connection, f"SET SESSION wait_timeout = {seconds:d}")

    def ping(self, connection: Connection) -> None:
        connection.unstoppable = True
        connection.ping(reconnect=False)

    def in_transaction(self, connection: Connection) -> bool:
        return bool(connection.server_status & SERVER_STATUS.SERVER_STATUS_IN_TRANS)

    def has_failed(self, connection: Connection) -> bool:  # noqa: ARG002  a failed statement undoes itself alone
        return False

    def was_sent(self, connection: Connection, error: BaseException) -> bool:  # noqa: ARG002  the flag tells
        return bool(connection.sent)

    def is_alive(self, connection: Connection) -> bool:
        # Bytes waiting on an idle MySQL socket are bad news too: the server's goodbye.
        sock = connection._sock
        return sock is not None and not connection.has_news(sock.fileno())

    def close(self, connection: Connection) -> None:
        connection.deadline = Deadline.after(1.0)  # its own may have passed long ago; five bytes into an empty buffer
        with contextlib.suppress(pymysql.Error, OSError):
            connection.close()

    def fault(self, error: BaseException) -> Fault:
        return fault(error)


def with_limit(sql: str, seconds: float) -> str:
    """A SELECT with the hint that has MySQL stop it by itself; anything else as it is, for the hint does nothing there.

    A hint is no session state, so RDS Proxy does not pin for it; a statement that has hints already is left alone.
    """
    return _SELECT.sub(rf"\g<0> /*+ MAX_EXECUTION_TIME({max(1, int(seconds * 900))}) */", sql)


_SELECT = re.compile(r"^\s*SELECT\b(?!\s*/\*\+)", re.IGNORECASE)


DRIVER = _MySQL()
