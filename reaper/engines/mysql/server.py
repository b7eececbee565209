"""The reaper's side of MySQL, MariaDB and Aurora MySQL: one server on one connection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from operator import attrgetter

import pymysql

from reaper.client.deadline import Clock
from reaper.client.drivers.connection import Connection
from reaper.client.target import EngineName
from reaper.engines.base import ChunkOutcome, Holder
from reaper.engines.mysql import kill_if_idle, locks, reading
from reaper.engines.mysql.errors import classify
from reaper.engines.mysql.facts import LOCKS_LOST, Facts, read_counters, read_facts
from reaper.engines.mysql.kills import (
    COMMANDS,
    CompoundKill,
    KillByQueryId,
    KillIfIdle,
    KillPackets,
    NoKill,
    Pace,
    QueryIds,
    RereadThenKill,
    Way,
)
from reaper.engines.mysql.lists import ProcessList
from reaper.engines.mysql.marks import idle_facts, mark_rows
from reaper.engines.mysql.queries import query
from reaper.engines.mysql.rights import kill_method
from reaper.engines.mysql.settings import read_settings, read_user_limits
from reaper.engines.mysql.statements import StatementEnds
from reaper.engines.mysql.transactions import TransactionList, Transactions
from reaper.engines.rows import Fetched
from reaper.engines.snapshot_file import RawSnapshot
from reaper.model import KillMethod, Outcome, Session, Snapshot


class MySQLServer:
    """One server. What it is and what the account may do is found out when it is first needed."""

    def __init__(self, connection: Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock
        self._pace = Pace(clock)
        self._query_ids = QueryIds()

    def lock(self) -> bool:
        """Take the lock that keeps two sweeps of this server apart, without waiting for it."""
        return locks.take_lock(self._connection)

    def unlock(self) -> None:
        """Release that lock."""
        locks.release_lock(self._connection)

    def holder(self) -> Holder | None:
        """Who holds the lock, where that can be seen."""
        return locks.lock_holder(self._connection, self._facts, self._lists)

    def end(self, holder: Holder) -> None:
        """Terminate a session of the reaper's own account; does nothing where it has gone."""
        try:
            # Nobody needs a right to end sessions of the own account
            query(self._connection, f"KILL {holder.id:d}")
        except pymysql.Error as error:
            if classify(error) is not Outcome.GONE:
                raise

    @cached_property
    def method(self) -> KillMethod | None:
        """How this account terminates sessions here, None where it may not."""
        return kill_method(self._connection)

    def look(self) -> RawSnapshot:
        """All sessions and the facts around them, as the server gives them now."""
        # Made first, since that settles the session: a server-wide sql_select_limit cuts what SHOW
        # returns as well.
        lists = self._lists
        counters = read_counters(self._connection)
        rows = lists.read_for_marks()
        if len(rows) < counters["Threads_connected"] and self._facts.sees_statements:
            # performance_schema has no room for more threads, and does not list the others.
            rows = lists.read_for_marks(complete=True)
        with_own_query_id = _with_own_query_id(rows) if self._kills_by_query_id else ()
        ends = self._statements.read() if self._facts.sees_statements else {}
        context = self._context(counters, self._transactions.look())
        if not self._facts.is_mariadb:
            context |= idle_facts(rows, ends)
        mark_rows(rows, ends)
        self._query_ids.remember(row for row in rows if row["Id"] in with_own_query_id)
        return RawSnapshot(EngineName.MYSQL, rows, context)

    def _context(self, counters: Mapping[str, int], listed: TransactionList) -> dict[str, object]:
        known = _sessions(listed.rows)
        begun = self._transactions.begun(known)
        held = None
        if not counters.get(LOCKS_LOST):
            held = locks.held_locks(self._connection, self._facts, known | _sessions(begun))
        # Reading innodb_trx takes the PROCESS privilege, with which nothing is hidden.
        sees_all = listed.rows is not None
        context = {
            "connection_id": self._facts.connection_id,
            "current_user": self._facts.current_user,
            "flavour": self._facts.flavour,
            "server": self._facts.server,
            "max_connections": self._facts.max_connections,
            "uptime_s": counters["Uptime"],
            "threads_connected": self._connected(counters, sees_all=sees_all),
            "sees_all": sees_all,
            "innodb_trx": [*(listed.rows or ()), *(begun or ())],
            "lag_s": listed.lag_seconds,
            "user_limits": read_user_limits(self._connection),
        }
        if listed.is_stale:
            context["transactions_stale"] = True
        if begun is None:
            context["transactions_unseen"] = True
        if held is not None:
            context["user_level_locks"] = held
        return context

    def _connected(self, counters: Mapping[str, int], *, sees_all: bool) -> int:
        """How many are connected; the lower of two counts where sessions may be hidden, so that one
        that came or went between count and list does not look like a hidden one.
        """
        connected = counters["Threads_connected"]
        if sees_all:
            return connected
        return min(connected, read_counters(self._connection)["Threads_connected"])

    def kill_order(self, victims: Sequence[Session]) -> Sequence[Session]:
        """On MariaDB the newest first, else as given."""
        # For a KILL MariaDB walks its list of threads from the newest on, so a thread is found
        # immediately or behind thousands.
        if self._facts.is_mariadb:
            return sorted(victims, key=attrgetter("id"), reverse=True)
        return victims

    def terminate(self, victims: Sequence[Session]) -> ChunkOutcome:
        """Terminate those that have not changed, in the way that was chosen for this server."""
        return self._way.terminate(victims)

    def still_present(self, victims: Sequence[Session]) -> set[int]:
        """The ids of those that are listed or still rolling back."""
        ids = {victim.id for victim in victims}
        listed = {row["Id"] for row in self._lists.read(sorted(ids))}
        # The row of a killed session vanishes immediately, its slot comes free only when its
        # transaction is rolled back.
        return listed | ids.intersection(self._transactions.sessions())

    def settings(self) -> Mapping[str, object]:
        """What advice is given on, by the server's own names, times in seconds."""
        return read_settings(self._connection, self._facts)

    @property
    def _kills_by_query_id(self) -> bool:
        return self._facts.is_mariadb and self.method in COMMANDS

    @cached_property
    def _facts(self) -> Facts:
        return read_facts(self._connection)

    @cached_property
    def _statements(self) -> StatementEnds:
        return StatementEnds(self._connection, self._facts.connection_id)

    @cached_property
    def _lists(self) -> ProcessList:
        return ProcessList(self._connection, self._facts, self._statements)

    @cached_property
    def _transactions(self) -> Transactions:
        return Transactions(self._connection, self._clock, self._facts)

    @cached_property
    def _way(self) -> Way:
        """How this account terminates sessions on this server."""
        if self.method is KillMethod.KILL_IF_IDLE:
            return KillIfIdle(self._connection, self._clock, self._transactions)
        if self.method is None:
            return RereadThenKill(self._clock, self._lists, NoKill())
        same = (self._connection, self._clock, self._pace, COMMANDS[self.method])
        if not self._kills_by_query_id:
            return RereadThenKill(self._clock, self._lists, KillPackets(*same))
        by_reread = RereadThenKill(self._clock, self._lists, CompoundKill(*same))
        return KillByQueryId(*same, self._lists, self._query_ids, otherwise=by_reread)


class MySQL:
    """The engine: what differs from PostgreSQL. Stateless."""

    right_to_see = "PROCESS"
    right_to_kill = (
        "CONNECTION_ADMIN, or EXECUTE ON PROCEDURE mysql.rds_kill"
        f" ({kill_if_idle.NAME}, where installed, refuses sessions idle for too short a time or in "
        "a transaction)"
    )

    def server(self, connection: Connection, clock: Clock) -> MySQLServer:
        """A server as the sweep sees it, on this connection."""
        return MySQLServer(connection, clock)

    def read(self, raw: RawSnapshot) -> Snapshot:
        """What the rows and the context mean."""
        return reading.read(raw)


def _with_own_query_id(rows: Sequence[Fetched]) -> Collection[int]:
    """The ids of sessions with a QUERY_ID, which only MariaDB tells, that no other session has."""
    sessions = Counter(row.get("token") for row in rows)
    return {row["Id"] for row in rows if row.get("token") and sessions[row["token"]] == 1}


def _sessions(transactions: Sequence[Fetched] | None) -> set[int]:
    return {row["trx_mysql_thread_id"] for row in transactions or ()}


ENGINE = MySQL()
