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
from pymysql.protocol import FieldDescriptorPacket, MysqlPacket

from reaper.client import tls
from reaper.client.deadline import Deadline, DeadlineExceeded
from reaper.client.drivers.base import (
    Connection,
    Guarded,
    Result,
    check_ca,
    keep_alive,
    out_of_time,
)
from reaper.client.drivers.mysql_faults import fault
from reaper.client.drivers.mysql_rows import Answer
from reaper.client.faults import Fault
from reaper.client.statements import only_reads
from reaper.client.target import ConfigurationError, Target

# Bytes asked of the kernel
_AT_ONCE = 32 * 1024
# Descriptions that are remembered
_COLUMNS = 256
# The first byte of a packet that says so
_ERROR = 0xFF


class _Connection(Guarded, PyMySQLConnection):
    """PyMySQL's connection with the deadline asked before each read and write."""

    def _keep_to_the_deadline(self, reader: io.BufferedIOBase | None) -> None:
        # PyMySQL makes a reader with the connection and another for TLS, each before anything was
        # read.
        if reader is not None:
            reader.close()
        self._incoming = None if reader is None else _Incoming(self)

    _incoming: _Incoming | None = None
    _rfile = property(attrgetter("_incoming"), _keep_to_the_deadline)
    _columns: dict[tuple[bytes, str], FieldDescriptorPacket]
    sent = True
    # What was written last: the answer has begun
    answered = True
    # SELECTs are told their limit instead of being stopped
    hinted = False

    def _socket_number(self) -> int:
        number: int = self._sock.fileno()  # type: ignore[attr-defined]  # not in the stubs
        return number

    def is_idle(self) -> bool:
        return self.answered

    def has_stopped_it(self, meaning: Fault) -> bool:
        return super().has_stopped_it(meaning) or (self.hinted and meaning is Fault.QUERY_TIMEOUT)

    def answer(self, sql: str, params: Any = None) -> Result:
        """Run the statement, past PyMySQL's cursor: of that only the way it writes parameters is
        needed.
        """
        if self.own_cursor is None:
            self.own_cursor = self.cursor()
        self.query(self.own_cursor.mogrify(sql, params))
        result: Any = self._result
        rows = _dicts(result) if result.rows else []
        # a procedure's; the last says how many rows were changed
        while result.has_next:
            self.next_result()
            result = self._result
        return Result(rows, result.affected_rows, result.insert_id or None)

    def _write_bytes(self, data: bytes) -> Any:
        self.sent = self.answered = False
        left = self.time_to_run()
        if left <= 0:
            self._force_close()  # type: ignore[attr-defined]  # a reply still to come would answer the next question
            raise DeadlineExceeded("no time left to ask the server")
        self.limit_waits(left)
        super()._write_bytes(data)  # type: ignore[misc]  # not in the stubs
        # The kernel has the whole packet, and a server never runs an incomplete one
        self.sent = True

    def _read_packet(self, packet_type: Any = MysqlPacket) -> Any:
        packet = self._arrived()
        if packet is None:
            return super()._read_packet(packet_type)  # type: ignore[no-untyped-call]  # untyped in the stubs
        if packet_type is FieldDescriptorPacket:
            return self._column(packet)
        return packet_type(packet, self.encoding)

    def next_packet(self) -> bytes:
        """The next packet's bytes; raises what an error packet says."""
        packet = self._arrived()
        if packet is None:
            packet = super()._read_packet().get_all_data()  # type: ignore[no-untyped-call]  # untyped in the stubs
        return packet

    def _arrived(self) -> bytes | None:
        number: int = self._next_seq_id  # type: ignore[has-type]  # not in the stubs
        packet = self._incoming.packet(number) if self._incoming else None
        if packet is not None:
            self._next_seq_id = (number + 1) % 256
        return packet

    def _read_query_result(self, unbuffered: bool = False) -> int:
        if unbuffered:
            rows: int = super()._read_query_result(unbuffered)  # type: ignore[misc]  # not in the stubs
            return rows
        self._result = None
        result: Any = Answer(self)
        result.read()
        self._result = result
        if result.server_status is not None:
            self.server_status = result.server_status
        changed: int = result.affected_rows
        return changed

    def _column(self, packet: bytes) -> FieldDescriptorPacket:
        """What a column's description says.

        An application's columns are few, and to read one takes a while.
        """
        key = packet, self.encoding
        known = self._columns.get(key)
        if known is None:
            if len(self._columns) >= _COLUMNS:
                self._columns.clear()
            known = self._columns[key] = FieldDescriptorPacket(packet, self.encoding)
        return known

    def limit_waits(self, left: float) -> None:
        """Have no wait outlast the time left.

        What was set before mostly still serves: setting it is a system call.
        """
        # Its socket is not in the stubs
        connection: Any = self
        limit = connection._current_timeout
        if limit is None or not left / 2 <= limit <= left:
            limit = max(0.75 * left, 0.001)
            connection._sock.settimeout(limit)
            connection._current_timeout = limit
        connection._read_timeout = connection._write_timeout = limit


class _Incoming:
    """What PyMySQL reads from, with the deadline asked before each recv: its own timeout begins
    anew with each.
    """

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        # Received, and how much of it has been read
        self._data, self._at = b"", 0

    def read(self, size: int) -> bytes:
        """So many bytes; fewer where the server has hung up."""
        parts = [self._data[self._at : self._at + size]]
        self._at += size
        missing = self._at - len(self._data)
        if missing <= 0:
            return parts[0]
        self._data, self._at = b"", 0
        while missing > 0 and (received := self._receive()):
            parts.append(received)
            missing -= len(received)
        if missing < 0:
            self._data, self._at = received, len(received) + missing
            parts[-1] = received[:missing]
        return b"".join(parts)

    def packet(self, number: int) -> bytes | None:
        """The next packet, without its header, if it is here as a whole and in order, and says no
        error.
        """
        data, at = self._data, self._at
        if len(data) < at + 5 or data[at + 3] != number or data[at + 4] == _ERROR:
            return None
        end = at + 4 + int.from_bytes(data[at : at + 3], "little")
        if end > len(data):
            return None
        self._at = end
        return data[at + 4 : end]

    def close(self) -> None:
        """What was received and not read is of no use any more."""
        self._data, self._at = b"", 0

    def _receive(self) -> bytes:
        connection: Any = self._connection
        while (left := connection.time_to_run()) > 0 or connection.try_to_stop():
            try:
                connection.limit_waits(left)
                received: bytes = connection._sock.recv(_AT_ONCE)
                connection.answered = True
                return received
            except TimeoutError:
                # The answer may yet come; where a stop was asked for, it says whether that was too
                # late
                continue
        raise TimeoutError("timed out")


def _dicts(result: Any) -> list[dict[str, Any]]:
    names = [field.name for field in result.fields]
    # The second of a name is told by its table, as PyMySQL's DictCursor does
    if len(set(names)) < len(names):
        for at, field in enumerate(result.fields):
            if field.name in names[:at]:
                names[at] = f"{field.table_name}.{field.name}"
    return [dict(zip(names, row)) for row in result.rows]  # noqa: B905  as many, or PyMySQL would have failed


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
            # a text would go out in latin1, or its error carry the password
            password=(password or "").encode(),
            database=target.database,
            autocommit=True,
            charset="utf8mb4",
            connect_timeout=min(deadline.remaining(), 3600),
            client_flag=CLIENT.MULTI_STATEMENTS if batch else 0,
            defer_connect=True,
            program_name=application,
            **tls.for_pymysql(target),
        )
        connection._columns = {}
        connection.deadline = deadline
        try:
            connection.connect()
        # PyMySQL: sha2 over plain text needs a package of its own
        except RuntimeError as missing:
            raise ConfigurationError(
                f"target {target.name!r}: {missing}; TLS would do without"
            ) from None
        keep_alive(connection._sock)  # type: ignore[attr-defined]  # not in the stubs
        connection.hinted = proxy and "MariaDB" not in connection.get_server_info()  # type: ignore[no-untyped-call]  # untyped in the stubs
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
                raise out_of_time(
                    sql, time.monotonic() - began, stopped=meaning is not Fault.TIMEOUT
                ) from error
            raise
        # MySQL ends SLEEP() with an answer, the wrong one.
        if connection.stopping and result.rows and only_reads(sql, is_mysql=True):
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
        return connection._sock is not None and not connection.has_news()

    def close(self, connection: Connection) -> None:
        # Its own may have passed long ago; five bytes into an empty buffer
        connection.deadline = Deadline.after(1.0)
        with contextlib.suppress(pymysql.Error, OSError):
            connection.close()

    def fault(self, error: BaseException) -> Fault:
        return fault(error)


def with_limit(sql: str, seconds: float) -> str:
    """A SELECT with the hint that has MySQL stop it by itself; anything else as it is, for the hint
    does nothing there.

    A hint is no session state, so RDS Proxy does not pin for it; a statement that has hints already
    is left alone.
    """
    return _SELECT.sub(rf"\g<0> /*+ MAX_EXECUTION_TIME({max(1, int(seconds * 900))}) */", sql)


_SELECT = re.compile(r"^\s*SELECT\b(?!\s*/\*\+)", re.IGNORECASE)


DRIVER = _MySQL()
