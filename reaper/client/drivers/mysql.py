"""PyMySQL: MySQL, MariaDB and Aurora MySQL."""

from __future__ import annotations

import contextlib
import re
import time
from typing import Any

import pymysql
from pymysql.constants import CLIENT, ER, SERVER_STATUS
from pymysql.cursors import Cursor

from reaper.client import tls
from reaper.client.deadline import Deadline, DeadlineExceeded
from reaper.client.drivers.base import check_ca, keep_alive
from reaper.client.drivers.connection import (
    Address,
    Another,
    Guard,
    Params,
    Result,
    SocketWatch,
    State,
    WrongServer,
    out_of_time,
)
from reaper.client.drivers.mysql_faults import fault
from reaper.client.drivers.pymysql_internals import GuardedConnection
from reaper.client.faults import Fault
from reaper.client.fields import ConfigurationError
from reaper.client.statements import only_reads
from reaper.client.target import Target

_AUTOCOMMIT = SERVER_STATUS.SERVER_STATUS_AUTOCOMMIT
_AT_REST = _AUTOCOMMIT | SERVER_STATUS.SERVER_MORE_RESULTS_EXISTS
# Under completion_type = RELEASE a plain COMMIT ends the session, under CHAIN it begins the next
# transaction.
COMMIT, ROLLBACK = "COMMIT AND NO CHAIN NO RELEASE", "ROLLBACK AND NO CHAIN NO RELEASE"
# Of SHOW VARIABLES sql_select_limit may leave no more than a row.
_GET_FACTS = """
SELECT @@wait_timeout AS idle, @@max_allowed_packet AS packet, @@sql_select_limit AS most,
       CONCAT_WS(':', @@hostname, @@port, @@server_id{uid}) AS server
"""
_NO_ROW_LIMIT = 2**64 - 1
# A savepoint's name of our own.
_MARK = "reaper_client_mark"


class MySQLConnection:
    """A session on MySQL or MariaDB."""

    def __init__(self, raw: GuardedConnection, *, behind_proxy: bool) -> None:
        self.raw = raw
        self.guard = raw.guard
        # MySQL forgets a transaction whose COMMIT it answered.
        self.can_ask_commits: bool | None = False
        self._is_mariadb = "MariaDB" in str(raw.get_server_info())  # type: ignore[no-untyped-call]  # stubs
        # SELECTs carry their time limit instead of being stopped.
        self._hints_limit = behind_proxy and not self._is_mariadb
        # What `identify` learned; the server's own words for which it is.
        self.server: str | None = None
        self._idle_limit: float | None = None
        self._row_limit: int | None = None
        self._packet_limit: int | None = None
        # Reused between statements, since creating a cursor costs a tenth of a query.
        self._cursor: Cursor | None = None
        self._watch: SocketWatch | None = None

    @property
    def id(self) -> int:
        return int(self.raw.thread_id())  # type: ignore[no-untyped-call]  # untyped in the stubs

    def run(self, sql: str, params: Params = None) -> Result:
        guard = self.guard
        guard.sent = False
        guard.about_to_run(sql)
        began = time.monotonic()
        if self._hints_limit:
            sql = with_limit(sql, guard.deadline.remaining())
        try:
            result = self.answer(sql, params)
        except pymysql.Error as error:
            meaning = fault(error)
            if meaning is Fault.LOST:
                self._raise_if_too_large(error)
            if meaning is Fault.TIMEOUT or self._has_stopped_it(meaning):
                stopped = meaning is not Fault.TIMEOUT
                raise out_of_time(sql, time.monotonic() - began, stopped=stopped) from error
            raise
        # MySQL ends SLEEP() with an answer, the wrong one.
        if guard.stopping and result.rows and only_reads(sql, is_mysql=True):
            raise out_of_time(sql, time.monotonic() - began, stopped=True)
        return result

    def answer(self, sql: str, params: Params = None) -> Result:
        # Past PyMySQL's cursor, of which only the way it writes parameters is needed.
        if self._cursor is None:
            self._cursor = self.raw.cursor()
        self.raw.query(self._cursor.mogrify(sql, params))
        result = self.raw.result
        rows = _dicts(result) if result.rows else []
        # A procedure has several results; the last says how many rows were changed.
        while result.has_next:
            self.raw.next_result()
            result = self.raw.result
        return Result(rows, result.affected_rows, result.insert_id or None)

    def _raise_if_too_large(self, lost: pymysql.Error) -> None:
        """A server hangs up on a statement above its max_allowed_packet while it is being sent, and
        would again.
        """
        size, limit = self.raw.statement_size, self._packet_limit
        if limit is not None and size > limit:
            raise pymysql.OperationalError(
                ER.NET_PACKET_TOO_LARGE,
                f"the statement has {size} bytes, and the server takes at most {limit} "
                "(max_allowed_packet); send less at a time, or raise that",
            ) from lost

    def _has_stopped_it(self, meaning: Fault) -> bool:
        by_its_limit = self._hints_limit and meaning is Fault.QUERY_TIMEOUT
        return self.guard.has_stopped_it(meaning) or by_its_limit

    def size(self, sql: str, params: Params) -> int:
        with self.raw.cursor() as cursor:
            return len(cursor.mogrify(sql, params).encode())

    def stop(self, another: Another, deadline: Deadline) -> None:
        # The name may lead elsewhere by now, where this number is another session's.
        second = another(deadline, self.raw.peer)
        try:
            second.identify()
            if not isinstance(second, MySQLConnection) or second.server != self.server:
                raise WrongServer("the second connection led to another server")
            second.answer(f"KILL QUERY {self.id}")
        finally:
            second.close()

    def identify(self) -> None:
        uid = ", @@server_uid" if self._is_mariadb else ", @@server_uuid"
        try:
            (row,) = self.run(_GET_FACTS.format(uid=uid)).rows
        except pymysql.Error as error:
            if error.args[:1] != (ER.UNKNOWN_SYSTEM_VARIABLE,):
                raise
            # MariaDB before 10.11 has no number of its own.
            (row,) = self.run(_GET_FACTS.format(uid="")).rows
        self.server = row["server"]
        self._idle_limit, self._row_limit = float(row["idle"]), int(row["most"])
        self._packet_limit = int(row["packet"])

    def idle_limit(self) -> float | None:
        if self._idle_limit is None:
            self.identify()
        return self._idle_limit

    def row_limit(self) -> int | None:
        if self._row_limit is None:
            self.identify()
        return None if self._row_limit == _NO_ROW_LIMIT else self._row_limit

    def is_replica(self) -> bool:
        # Its errors tell a server that takes no writes from a transaction that was begun read only.
        return True

    def limit_idle(self, seconds: int) -> None:
        self.run(f"SET SESSION wait_timeout = {seconds:d}")

    def ping(self) -> None:
        self.guard.unstoppable = True
        self.raw.ping(reconnect=False)

    def begin(self) -> None:
        # Under sql_mode = ORACLE MariaDB takes BEGIN for the beginning of a block.
        self.run("START TRANSACTION")

    def commit(self) -> None:
        self.run(COMMIT)

    def roll_back(self) -> None:
        self.run(ROLLBACK)

    def state(self) -> State:
        raw = self.raw
        if not raw.is_in_step or self.guard.stopping or raw.is_streaming:
            return State.UNUSABLE
        if not raw.is_status_known:
            return State.UNKNOWN
        status = raw.server_status
        if status & SERVER_STATUS.SERVER_STATUS_IN_TRANS:
            return State.IN_TRANSACTION
        return State.IDLE if status & _AT_REST == _AUTOCOMMIT else State.UNUSABLE

    def mark_transaction(self) -> None:
        self.answer(f"SAVEPOINT {_MARK}")

    def is_same_transaction(self) -> bool:
        try:
            self.answer(f"RELEASE SAVEPOINT {_MARK}")
        except pymysql.Error as error:
            if error.args[:1] != (ER.SP_DOES_NOT_EXIST,):
                raise
            return False
        return True

    def in_transaction(self) -> bool:
        return bool(self.raw.server_status & SERVER_STATUS.SERVER_STATUS_IN_TRANS)

    def has_failed(self) -> bool:
        # A failed statement undoes itself alone.
        return False

    def was_sent(self, error: BaseException) -> bool:  # noqa: ARG002  the guard knows it exactly
        return self.guard.sent

    def is_alive(self) -> bool:
        socket = self.raw.open_socket
        if socket is None:
            return False
        if self._watch is None:
            self._watch = SocketWatch(socket.fileno())
        # Bytes waiting on an idle MySQL socket are bad news too: the server's goodbye.
        return not self._watch.has_news()

    def is_idle(self) -> bool:
        return self.raw.has_answered

    def lend(self) -> None:
        self._cursor = None

    def close(self) -> None:
        # The deadline may have passed long ago; this is five bytes into an empty buffer.
        self.guard.deadline = Deadline.after(1.0)
        with contextlib.suppress(pymysql.Error, OSError):
            self.raw.close()


def _dicts(result: Any) -> list[dict[str, Any]]:
    names = [field.name for field in result.fields]
    # The second column of a name is told by its table, as PyMySQL's DictCursor does.
    if len(set(names)) < len(names):
        for at, field in enumerate(result.fields):
            if field.name in names[:at]:
                names[at] = f"{field.table_name}.{field.name}"
    return [dict(zip(names, row)) for row in result.rows]  # noqa: B905  as many, or PyMySQL had failed


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
        address: Address | None = None,
    ) -> MySQLConnection:
        check_ca(target)
        deadline.check(f"to connect to {target.name}")
        raw = GuardedConnection(
            Guard(deadline),
            host=target.host,
            port=target.port,
            user=target.user,
            # A text would go out in latin1, or its error would carry the password.
            password=(password or "").encode(),
            database=target.database,
            # Set with the character set, in the same round trip.
            autocommit=None,
            charset="utf8mb4",
            connect_timeout=min(deadline.remaining(), 3600),
            client_flag=CLIENT.MULTI_STATEMENTS if batch else 0,
            defer_connect=True,
            program_name=application,
            **tls.for_pymysql(target),
        )
        host, port = address or (target.host, target.port)
        try:
            raw.connect(raw.dialled(host, port, deadline))
        except pymysql.Error as error:
            if fault(error) is Fault.TIMEOUT:
                raise DeadlineExceeded(f"no time left to connect to {target.host}") from error
            raise
        except RuntimeError as missing:
            # PyMySQL: sha2 over plain text needs a package of its own. Anything else is somebody's
            # who was in the middle of something, a signal's handler.
            if "cryptography" not in str(missing):
                raise
            raise ConfigurationError(
                f"target {target.name!r}: {missing}; TLS would do without"
            ) from None
        if raw.open_socket is not None:
            keep_alive(raw.open_socket)
        return MySQLConnection(raw, behind_proxy=proxy)

    def fault(self, error: BaseException) -> Fault:
        return fault(error)


def with_limit(sql: str, seconds: float) -> str:
    """A SELECT with the hint that has MySQL stop it by itself; anything else unchanged, for there
    the hint does nothing.

    A hint is no session state, so RDS Proxy does not pin for it; a statement that has hints already
    is left alone.
    """
    limit = max(1, int(seconds * 900))
    return _SELECT.sub(rf"\g<0> /*+ MAX_EXECUTION_TIME({limit}) */", sql)


_SELECT = re.compile(r"^\s*SELECT\b(?!\s*/\*\+)", re.IGNORECASE)


DRIVER = _MySQL()
