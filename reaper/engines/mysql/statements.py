"""When each session's last statement ended, as performance_schema tells it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from reaper.client.drivers.connection import Connection
from reaper.engines.mysql.queries import query, query_if_allowed

_PICOSECOND = 1e-12


class StatementEnd(NamedTuple):
    """A session's last statement, the thread that ran it, and how many seconds ago it ended."""

    thread: int
    event: int
    seconds_ago: float


class StatementEnds:
    """The last statements of all sessions; knows each session's thread from the latest reading."""

    def __init__(self, connection: Connection, own_id: int) -> None:
        self._connection = connection
        self._own_id = own_id
        self._latest: Mapping[int, StatementEnd] = {}

    def read(self) -> Mapping[int, StatementEnd]:
        """By session the statement that it ran last, where that has ended."""
        rows = query(self._connection, _GET_STATEMENT_ENDS)
        # The asking statement is itself running: by the clock of the others' ends, its start is
        # the present. Where it does not show as running, what shows of others is old: a consumer
        # or an instrument is off.
        now = next(
            (row["at"] for row in rows if row["id"] == self._own_id and row["is_running"]), None
        )
        self._latest = (
            {}
            if now is None
            else {
                row["id"]: StatementEnd(
                    row["thread"], row["event"], (now - row["at"]) * _PICOSECOND
                )
                for row in rows
                if row["at"] is not None
            }
        )
        return self._latest

    def thread(self, id_: int) -> str:
        """A session's thread as SQL: its number where the latest reading told it.

        To look a thread up takes the server as long as all else that a re-read asks for.
        """
        known = self._latest.get(id_)
        return f"{known.thread:d}" if known else _THREAD_OF.format(id=id_)


def can_be_read(connection: Connection) -> bool:
    """Whether this account may read the last statements of others."""
    return query_if_allowed(connection, f"{_GET_STATEMENT_ENDS} LIMIT 0") is not None


_THREAD_OF = "(SELECT THREAD_ID FROM performance_schema.threads WHERE PROCESSLIST_ID = {id:d})"

# One's own statement is running, and tells when it began. Do not use these indexes: they look
# selective but scan every thread, so that with them the join takes seconds at thousands of
# sessions. Without them it is a hash join in memory, of the narrow table and not of the wide one.
_GET_STATEMENT_ENDS = """
SELECT /*+ NO_INDEX(e) NO_INDEX(t) SET_VAR(join_buffer_size = 4194304) */ t.PROCESSLIST_ID AS id,
       t.THREAD_ID AS thread, e.EVENT_ID AS event, e.END_EVENT_ID IS NULL AS is_running,
       IF(e.END_EVENT_ID IS NULL, e.TIMER_START, e.TIMER_END) AS at
FROM performance_schema.threads AS t
STRAIGHT_JOIN performance_schema.events_statements_current AS e ON e.THREAD_ID = t.THREAD_ID
WHERE t.PROCESSLIST_ID IS NOT NULL AND e.NESTING_EVENT_LEVEL = 0 AND t.INSTRUMENTED = 'YES'
  AND (e.END_EVENT_ID IS NOT NULL OR t.PROCESSLIST_ID = CONNECTION_ID())
"""
