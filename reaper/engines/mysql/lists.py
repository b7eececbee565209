"""The process list, by the cheapest way that this server has."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pymysql

from reaper.client.drivers.connection import Connection
from reaper.engines.mysql.errors import CANNOT_CONVERT, code
from reaper.engines.mysql.facts import Facts
from reaper.engines.mysql.marks import has_ticked, mark_of
from reaper.engines.mysql.queries import listed, query
from reaper.engines.mysql.statements import StatementEnds
from reaper.engines.rows import Fetched
from reaper.model import Mark

_TRIES_WITHIN_A_SECOND = 3
# Seconds that SHOW may be behind SYSDATE: it has the time of the kernel's last tick
_LATE_CLOCK = 0.01


class Reread(NamedTuple):
    """Victims as they are now."""

    # By id, None for a session that is awake; who is not listed has gone
    marks: Mapping[int, Mark | None]
    # When the reading began, in seconds by the server's clock
    server_time: float


class ProcessList:
    """The process list of one server, whole or of a few sessions."""

    def __init__(self, connection: Connection, facts: Facts, statements: StatementEnds) -> None:
        self._connection = connection
        self._facts = facts
        self._statements = statements

    def read(self, ids: Sequence[int] = ()) -> list[Fetched]:
        """The list, or these sessions of it."""
        return self._read(self._statement(ids), ids)

    def read_for_marks(self, ids: Sequence[int] = (), *, complete: bool = False) -> list[Fetched]:
        """The same with what a mark is made of, within one second of the server's clock where that
        counts in whole seconds.

        `complete`: with the sessions that performance_schema had no room for.
        """
        for attempt in range(_TRIES_WITHIN_A_SECOND):
            if attempt:
                # Until SHOW's clock, too, has come to the new second
                time.sleep(_LATE_CLOCK)
            sql = _COMPLETE if complete else self._marking_statement(ids)
            rows = self._read(sql, ids)
            if not any(map(has_ticked, rows)):
                break
        return rows

    def reread(self, ids: Sequence[int]) -> Reread:
        """The marks of those that are still listed."""
        rows = self.read_for_marks(ids)
        began = min((float(row["began_s"]) for row in rows), default=0.0)
        return Reread({row["Id"]: mark_of(row) for row in rows}, began)

    def _statement(self, ids: Sequence[int]) -> str:
        """MySQL's performance_schema.processlist takes no global mutex and is indexed by Id, but is
        empty where performance_schema is off.
        """
        table, clocks = "information_schema.processlist", _CLOCKS
        if self._facts.is_mariadb:
            clocks = _EXACT_CLOCK
        elif self._facts.sees_statements:
            table = "performance_schema.processlist"
        columns = _FOR_A_REREAD if ids else _FOR_A_LOOK
        sql = _GET_SESSIONS.format(table=table, columns=columns, clocks=clocks)
        return sql + f"WHERE ID IN ({listed(ids)})" if ids else sql

    def _marking_statement(self, ids: Sequence[int]) -> str:
        if not ids or not self._facts.sees_statements:
            return self._statement(ids)
        sessions = ", ".join(f"ROW({id_:d}, {self._statements.thread(id_)})" for id_ in ids)
        return _GET_MARKED.format(sessions=sessions)

    def _read(self, sql: str, ids: Sequence[int]) -> list[Fetched]:
        try:
            return query(self._connection, sql)
        except pymysql.Error as error:
            if code(error) != CANNOT_CONVERT:
                raise
        return [row for row in self._shown() if not ids or row["Id"] in ids]

    def _shown(self) -> list[Fetched]:
        """The list by SHOW and as bytes, which works where somebody's statement is not utf8mb3, for
        example with an emoji.

        information_schema.processlist fails as a whole for as long as that statement runs
        [MySQL 9.7].
        """
        began_sql = f"SELECT UNIX_TIMESTAMP(SYSDATE(6)) - {_LATE_CLOCK} AS began_s"
        (began,) = query(self._connection, began_sql)
        query(self._connection, "SET character_set_results = binary")
        rows = query(self._connection, "SHOW PROCESSLIST")
        query(self._connection, "SET character_set_results = utf8mb4")
        (now,) = query(self._connection, "SELECT UNIX_TIMESTAMP(SYSDATE(6)) AS now_s")
        return [{key: _text(value) for key, value in row.items()} | began | now for row in rows]


def _text(value: object) -> object:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


_GET_SESSIONS = "SELECT ID AS Id, USER AS User, HOST AS Host, {columns}, {clocks} FROM {table} "
_FOR_A_REREAD = "COMMAND AS Command, TIME AS Time"
# What no re-read needs, and what makes MariaDB keep its list in a file. The statements of others
# can be megabytes.
_FOR_A_LOOK = f"DB AS db, {_FOR_A_REREAD}, STATE AS State, LEFT(INFO, 1024) AS Info"
# NOW is when the statement began, SYSDATE the clock itself.
_CLOCKS = "UNIX_TIMESTAMP(NOW()) AS began_s, UNIX_TIMESTAMP(SYSDATE()) AS now_s"
_COMPLETE = _GET_SESSIONS.format(
    table="information_schema.processlist", columns=_FOR_A_LOOK, clocks=_CLOCKS
)
# As doubles, for PyMySQL is slow to read decimals. A token changes with every command that a
# session runs.
_EXACT_CLOCK = (
    "UNIX_TIMESTAMP(NOW(6)) + 0e0 AS began_s, TIME_MS / 1e3 AS exact_s, QUERY_ID AS token"
)

# From each session to its last event by index, and in this order: a session that woke in between
# has begun another event. A hash join (which NO_BNL forbids) would read all events first. No other
# session ever has the same thread.
_GET_MARKED = f"""
SELECT /*+ NO_BNL(p, e) */ ID AS Id, USER AS User, HOST AS Host, {_FOR_A_REREAD}, {_CLOCKS},
       e.EVENT_ID AS token
FROM (VALUES {{sessions}}) AS v (session, thread)
STRAIGHT_JOIN performance_schema.processlist AS p ON p.ID = v.session
LEFT JOIN performance_schema.events_statements_current AS e
  ON e.THREAD_ID = v.thread AND e.NESTING_EVENT_LEVEL = 0 AND e.END_EVENT_ID IS NOT NULL
"""
