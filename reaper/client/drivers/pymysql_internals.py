"""All that is used of PyMySQL's private names: the connection that asks its guard before each read
and write, and the result whose rows are cut in one loop.

Written against PyMySQL 1.2.1 to 1.2.4.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from typing import Any

import pymysql
from pymysql.charset import charset_by_name
from pymysql.connections import Connection, MySQLResult
from pymysql.constants import CR
from pymysql.protocol import FieldDescriptorPacket, MysqlPacket

from reaper.client.deadline import Deadline, DeadlineExceeded
from reaper.client.drivers.base import dial
from reaper.client.drivers.connection import Address, Guard
from reaper.client.drivers.mysql_rows import by_bytes, cut, is_end
from reaper.client.internals import require

VERSIONS = ">=1.2.1"

require(
    "PyMySQL",
    VERSIONS,
    Connection,
    (
        "_current_timeout",
        "_force_close",
        "_next_seq_id",
        "_read_bytes",
        "_read_ok_packet",
        "_read_packet",
        "_read_query_result",
        "_read_timeout",
        "_result",
        "_sock",
        "_write_bytes",
        "_write_timeout",
    ),
)
require(
    "PyMySQL",
    VERSIONS,
    MySQLResult,
    ("_check_packet_is_eof", "_read_row_from_packet", "_read_rowdata_packet"),
)

# Bytes asked of the kernel at a time.
_CHUNK = 32 * 1024
# Column descriptions that are remembered.
_COLUMNS = 256
# The first byte of an error packet.
_ERROR = 0xFF


_UPDATES = re.compile(rb"[\s(]*(UPDATE|WITH)\b", re.IGNORECASE)


class GuardedConnection(Connection):
    """PyMySQL's connection, but for its waits: each read and write first asks the guard."""

    def __init__(self, guard: Guard, **arguments: Any) -> None:
        self.guard = guard
        self.has_answered = True
        """Whether an answer to what was written last has begun."""
        self.is_in_step = True
        """Whether every answer was read to its end: the next one is the next statement's."""
        self.is_status_known = True
        """Whether `server_status` is of the last answer; an error's packet has none."""
        self._statement_size = 0
        self.before_query: Callable[[], None] | None = None
        """What to do before each statement; statements of its own do not call it again."""
        self._statement_start = b""
        self._received = _Received(self)
        self._columns: dict[tuple[bytes, str], FieldDescriptorPacket] = {}
        super().__init__(**arguments)

    @property
    def open_socket(self) -> socket.socket | None:
        """The socket, TLS included; None once the connection is closed."""
        this: Any = self
        found: socket.socket | None = this._sock
        return found

    @property
    def result(self) -> Any:
        """PyMySQL's result of the last statement."""
        this: Any = self
        return this._result

    @property
    def rows_found(self) -> int | None:
        """How many rows the last UPDATE matched, changed or not; None after anything else.

        The server tells in the text of its answer: "Rows matched: 2  Changed: 1  Warnings: 0", in
        the language of its messages.
        """
        message = getattr(self.result, "message", None) or b""
        counts = re.findall(rb"\d+", message)
        is_update = _UPDATES.match(self._statement_start) is not None
        return int(counts[0]) if is_update and len(counts) == 3 else None

    @property
    def is_streaming(self) -> bool:
        """Whether rows of an unbuffered result are still to come."""
        result = self.result
        return result is not None and bool(result.unbuffered_active)

    @property
    def peer(self) -> Address | None:
        """The address that the connection is to; None once it is closed."""
        sock = self.open_socket
        return None if sock is None else sock.getpeername()[:2]

    @property
    def statement_size(self) -> int:
        """How many bytes the last statement had."""
        return self._statement_size

    def dialled(self, host: str, port: int, deadline: Deadline) -> socket.socket:
        """A socket to connect on; raises PyMySQL's own error where there is none."""
        try:
            sock = dial(host, port, deadline)
        except OSError as error:
            refused = pymysql.OperationalError(
                CR.CR_CONN_HOST_ERROR, f"Can't connect to MySQL server on {host!r} ({error})"
            )
            refused.original_exception = error  # type: ignore[attr-defined]  # as PyMySQL does
            raise refused from error
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return sock

    def query(self, sql: str | bytes, unbuffered: bool = False) -> int:
        """PyMySQL's, with the statement's size remembered."""
        if self.before_query is not None:
            before, self.before_query = self.before_query, None
            try:
                before()
            finally:
                self.before_query = before
        text = sql.encode(self.encoding, "surrogateescape") if isinstance(sql, str) else sql
        self._statement_size, self._statement_start = len(text), text[:64]
        above: Any = super()
        changed: int = above.query(text, unbuffered)
        return changed

    def set_character_set(self, charset: str, collation: str | None = None) -> None:
        """SET NAMES with what our meaning depends on, in the round trip of every login.

        autocommit is set and never compared first: MySQL whose own default is off says in its
        greeting and its answers that it is on, until somebody has set it. The answer's flags also
        tell whether backslashes escape, which init_connect may have changed since the greeting.
        """
        collate = f" COLLATE {collation}" if collation else ""
        self.query(f"SET NAMES {charset}{collate}, autocommit = 1")
        self.charset, self.collation = charset, collation
        self.encoding = charset_by_name(charset).encoding

    def limit_waits(self, left: float) -> None:
        """Have no wait of the socket outlast the time left.

        The limit set before mostly still serves, and to set one is a system call.
        """
        this: Any = self
        limit = this._current_timeout
        if limit is None or not left / 2 <= limit <= left:
            limit = max(0.75 * left, 0.001)
            this._sock.settimeout(limit)
            this._current_timeout = limit
        this._read_timeout = this._write_timeout = limit

    def next_packet(self) -> bytes:
        """The next packet's content; raises what an error packet says."""
        packet = self._arrived()
        if packet is None:
            content: bytes = self._read_unusual_packet(MysqlPacket).get_all_data()
            return content
        return packet

    def _write_bytes(self, data: bytes) -> None:
        this: Any = self
        self.guard.sent = self.has_answered = self.is_in_step = False
        left = self.guard.time_to_run()
        if left <= 0:
            # A reply still to come would be taken for the answer to the next statement.
            this._force_close()
            raise DeadlineExceeded("no time left to ask the server")
        self.limit_waits(left)
        above: Any = super()
        above._write_bytes(data)
        # The kernel has the whole packet, and a server never runs an incomplete one.
        self.guard.sent = True

    def _read_bytes(self, num_bytes: int) -> bytes:
        this: Any = self
        try:
            data = self._received.read(num_bytes)
        except OSError as error:
            this._force_close()
            if not _is_the_sockets(error):
                raise
            raise pymysql.OperationalError(
                CR.CR_SERVER_LOST, f"Lost connection to MySQL server during query ({error})"
            ) from error
        except BaseException:
            this._force_close()
            raise
        if len(data) < num_bytes:
            this._force_close()
            raise pymysql.OperationalError(
                CR.CR_SERVER_LOST, "Lost connection to MySQL server during query"
            )
        return data

    def _read_packet(self, packet_type: Any = MysqlPacket) -> Any:
        packet = self._arrived()
        if packet is None:
            return self._read_unusual_packet(packet_type)
        if packet_type is FieldDescriptorPacket:
            return self._column(packet)
        return packet_type(packet, self.encoding)

    def _read_unusual_packet(self, packet_type: Any) -> Any:
        above: Any = super()
        try:
            return above._read_packet(packet_type)
        except pymysql.MySQLError as error:
            # The whole answer is this error, and it says nothing of the session.
            if error.args and isinstance(error.args[0], int) and not 2000 <= error.args[0] < 3000:
                self.is_in_step, self.is_status_known = True, False
            raise

    def _read_ok_packet(self) -> Any:
        above: Any = super()
        ok = above._read_ok_packet()
        self.is_in_step = self.is_status_known = True
        return ok

    def _arrived(self) -> bytes | None:
        """The next packet where it was received as a whole and in order, and says no error."""
        this: Any = self
        number: int = this._next_seq_id
        packet = self._received.packet(number)
        if packet is not None:
            this._next_seq_id = (number + 1) % 256
        return packet

    def _read_query_result(self, unbuffered: bool = False) -> int:
        this: Any = self
        if unbuffered:
            above: Any = super()
            rows: int = above._read_query_result(unbuffered)
            # PyMySQL does not read the flags at the end of the rows.
            self.is_in_step, self.is_status_known = True, False
            return rows
        this._result = None
        result: Any = _Result(self)
        result.read()
        this._result = result
        self.server_status = result.server_status
        self.is_in_step = self.is_status_known = True
        changed: int = result.affected_rows
        return changed

    def _column(self, packet: bytes) -> FieldDescriptorPacket:
        """What a column's description says; an application's columns are few, and parsing one is
        slow.
        """
        key = packet, self.encoding
        known = self._columns.get(key)
        if known is None:
            if len(self._columns) >= _COLUMNS:
                self._columns.clear()
            known = self._columns[key] = FieldDescriptorPacket(packet, self.encoding)
        return known


class _Received:
    """Bytes from the socket, with the guard asked before each recv: a socket's own timeout begins
    anew with each.
    """

    def __init__(self, connection: GuardedConnection) -> None:
        self._connection = connection
        self._data, self._at = b"", 0
        self._source: socket.socket | None = None

    def read(self, size: int) -> bytes:
        """So many bytes; fewer where the server has hung up."""
        self._drop_what_came_elsewhere()
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
        """The next packet without its header, if all of it is here, in order, and not an error."""
        data, at = self._data, self._at
        if len(data) < at + 5 or data[at + 3] != number or data[at + 4] == _ERROR:
            return None
        end = at + 4 + int.from_bytes(data[at : at + 3], "little")
        if end > len(data):
            return None
        self._at = end
        return data[at + 4 : end]

    def _drop_what_came_elsewhere(self) -> None:
        """Nothing that arrived in plain text may be read as if it had come through TLS."""
        source = self._connection.open_socket
        if source is not self._source:
            self._data, self._at, self._source = b"", 0, source

    def _receive(self) -> bytes:
        connection = self._connection
        guard = connection.guard
        while (left := guard.time_to_run()) > 0 or guard.try_to_stop():
            connection.limit_waits(left)
            try:
                received = connection.open_socket.recv(_CHUNK)  # type: ignore[union-attr]  # open: we read
            except TimeoutError as error:
                if not _is_the_sockets(error):
                    raise
                # The answer may yet come; where a stop was requested, it says if that was too late.
                continue
            connection.has_answered = True
            return received
        raise TimeoutError("timed out")


def _is_the_sockets(error: OSError) -> bool:
    """Whether a socket raised it: a signal's handler may raise TimeoutError, too, out of a recv."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    innermost = trace.tb_frame.f_globals.get("__name__") if trace is not None else None
    return innermost in (__name__, "ssl", "socket")


class _Result(MySQLResult):
    """PyMySQL's result, but for the way rows are cut."""

    def _read_rowdata_packet(self) -> None:
        this: Any = self
        converters = [by_bytes(*converter) for converter in this.converters]
        connection: GuardedConnection = this.connection
        rows = []
        while not is_end(packet := connection.next_packet()):
            row = cut(packet, converters)
            if row is None:
                row = this._read_row_from_packet(MysqlPacket(packet, connection.encoding))
            rows.append(row)
        this._check_packet_is_eof(MysqlPacket(packet, connection.encoding))
        this.connection = None
        # The session's state, which PyMySQL takes from OK packets only: a mark, two bytes of
        # warnings, two bytes of flags.
        this.server_status = int.from_bytes(packet[3:5], "little")
        this.affected_rows = len(rows)
        this.rows = tuple(rows)
