"""Who is in a transaction: innodb_trx and its pitfalls, and what performance_schema adds."""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from dataclasses import dataclass

from reaper.client.deadline import Clock
from reaper.client.drivers.connection import Connection
from reaper.engines.mysql.facts import Facts
from reaper.engines.mysql.queries import query, query_if_allowed
from reaper.engines.rows import Fetched

# Seconds. innodb_trx is a cache of the server's, renewed only when nobody has read it for 100 ms
# [InnoDB, trx0i_s.cc]: a session that fell asleep just now may be in a transaction that it does
# not show yet.
_LAG = 0.2
# Seconds; a list that nobody reads for so long is renewed by the next reading
_PAUSE = 0.12
_TRIES = 4
# Seconds; kill_if_idle spares whoever has slept for less long than the list is old
_OLD = 10.0
# Seconds that nobody has slept for, so all are spared
_UNKNOWN = 1e9


@dataclass(frozen=True)
class TransactionList:
    """What innodb_trx lists, None without the right to read it."""

    rows: list[Fetched] | None
    # What happened within the last so many seconds may not show yet
    lag_seconds: float = _LAG

    @property
    def is_stale(self) -> bool:
        """Whether nothing is known of its age: somebody keeps the server from renewing it."""
        return self.lag_seconds == _UNKNOWN


class Transactions:
    """The server's open transactions. Remembers when innodb_trx was read, and whom it listed: to
    read it too often keeps the server from renewing it.
    """

    def __init__(self, connection: Connection, clock: Clock, facts: Facts) -> None:
        self._connection = connection
        self._clock = clock
        self._facts = facts
        self._listed: frozenset[int] = frozenset()
        self._read_at = -math.inf
        # When the list was made that has a transaction of this session
        self._witnessed_at = -math.inf

    def look(self) -> TransactionList:
        """What InnoDB lists, and how many seconds old the list may be.

        Anybody who reads innodb_trx more often than every 100 ms keeps it from being renewed, for
        as long as that goes on. Where nothing else tells of transactions, one of our own is the
        witness: a list that has it was made after it began.
        """
        if self._facts.sees_statements:
            return TransactionList(self._read())
        began = self._clock()
        query(self._connection, "START TRANSACTION WITH CONSISTENT SNAPSHOT")
        try:
            return self._look_with_witness(began)
        finally:
            query(self._connection, "COMMIT")

    def _look_with_witness(self, began: float) -> TransactionList:
        for attempt in range(_TRIES):
            if attempt:
                # To read it sooner would keep InnoDB from renewing it
                time.sleep(_PAUSE)
            rows = self._read()
            if rows is None:
                return TransactionList(None)
            if self._facts.connection_id in self._listed:
                self._witnessed_at = began
                return TransactionList(rows, max(_LAG, self._clock() - began))
        return TransactionList(rows, _UNKNOWN)

    def begun(self, known: Collection[int]) -> list[Fetched] | None:
        """Transactions that InnoDB does not list: those of MyRocks on MariaDB, and on MySQL those
        that have begun but are without a statement yet.

        `known` are the sessions that it does list. None where a right is missing.
        """
        if self._facts.is_mariadb:
            # No such table without the plugin, and no right to read it without PROCESS.
            rows: list[Fetched] | None = query_if_allowed(self._connection, _GET_MYROCKS) or []
        else:
            rows = self._proven() if self._facts.sees_statements else []
        if rows is None:
            return None
        return [row for row in rows if row["trx_mysql_thread_id"] not in known]

    def _proven(self) -> list[Fetched] | None:
        """Those of performance_schema; None unless one of our own shows: where it does not, the
        instrument or its consumer is off, or a right is missing.
        """
        query(self._connection, "START TRANSACTION")
        try:
            rows = query_if_allowed(self._connection, GET_BEGUN) or []
        finally:
            query(self._connection, "COMMIT")
        own = self._facts.connection_id
        others = [row for row in rows if row["trx_mysql_thread_id"] != own]
        return others if len(others) < len(rows) else None

    def sessions(self) -> Collection[int]:
        """The sessions with an open transaction, those that roll back included."""
        if self._clock() - self._read_at > _PAUSE:
            self._read()
        return self._listed

    def await_renewal(self) -> None:
        """Leave innodb_trx unread for so long that kill_if_idle finds a list with the transaction
        that it begins.

        It refuses all victims while it finds a list without, such as the one by which the last
        victims were seen to be gone.
        """
        if self._facts.sees_statements or self._clock() - self._witnessed_at < _OLD:
            return
        # Reading it sooner would find the old list, and keep it from being renewed
        time.sleep(_PAUSE)
        self._witnessed_at = self._clock()

    def _read(self) -> list[Fetched] | None:
        rows = query_if_allowed(self._connection, _GET_TRANSACTIONS)
        self._listed = frozenset(row["trx_mysql_thread_id"] for row in rows or ())
        self._read_at = self._clock()
        if self._facts.connection_id not in self._listed:
            self._witnessed_at = -math.inf
        return rows


_GET_TRANSACTIONS = """
SELECT trx_mysql_thread_id, TIMESTAMPDIFF(SECOND, trx_started, NOW()) AS age_s,
       trx_rows_locked AS rows_locked, trx_rows_modified AS rows_modified
FROM information_schema.innodb_trx
WHERE trx_mysql_thread_id <> 0
"""

# It tells no age, so a rule that ends transactions spares these
_GET_MYROCKS = """
SELECT THREAD_ID AS trx_mysql_thread_id, NULL AS age_s, LOCK_COUNT AS rows_locked,
       WRITE_COUNT AS rows_modified
FROM information_schema.rocksdb_trx
"""

GET_BEGUN = """
SELECT t.PROCESSLIST_ID AS trx_mysql_thread_id, x.TIMER_WAIT / 1e12 AS age_s,
       0 AS rows_locked, 0 AS rows_modified
FROM performance_schema.events_transactions_current AS x
JOIN performance_schema.threads AS t ON t.THREAD_ID = x.THREAD_ID
WHERE x.STATE = 'ACTIVE' AND x.AUTOCOMMIT = 'NO'
  AND (t.PROCESSLIST_COMMAND = 'Sleep' OR t.PROCESSLIST_ID = CONNECTION_ID())
"""
