"""MySQL, MariaDB and Aurora MySQL: the process list, KILL, mysql.rds_kill and reaper.kill_if_idle."""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import starmap
from operator import attrgetter
from typing import Any, NamedTuple

import pymysql

from reaper.client.deadline import Clock
from reaper.client.drivers.connection import Connection
from reaper.client.target import EngineName
from reaper.engines import burst, procedure, processlist
from reaper.engines.base import ChunkOutcome, Holder
from reaper.engines.rows import number
from reaper.engines.snapshot_file import RawSnapshot
from reaper.engines.termination import LAST_CALL, WINDOW
from reaper.model import Flavour, KillMethod, Mark, Outcome, Session, Snapshot, SweepWarning

_COMMANDS = {KillMethod.KILL: burst.KILL, KillMethod.RDS_KILL: burst.RDS_KILL}
# Times as long as of late is what a kill may take
_MARGIN = 1.2

_NO_SUCH_THREAD = 1094
_CANNOT_CONVERT = 3854
_NO_SUCH_QUERY = 1957
_REFUSED = frozenset(
    {
        # ER_KILL_DENIED_ERROR
        1095,
        # ER_TABLEACCESS_DENIED_ERROR, inside a procedure
        1142,
        # ER_SPECIFIC_ACCESS_DENIED_ERROR
        1227,
        # ER_SP_DOES_NOT_EXIST
        1305,
        # ER_PROCACCESS_DENIED_ERROR; also said of a procedure that does not exist
        1370,
    }
)
_MEANT = {_NO_SUCH_THREAD: Outcome.GONE, _NO_SUCH_QUERY: Outcome.CHANGED} | dict.fromkeys(
    _REFUSED, Outcome.REFUSED
)
# rds_kill refuses by selecting a column named "ERROR (RDS): CANNOT KILL …"
_RDS_REFUSES = 1054
# No right to read, or no such table in this version
_DENIED = frozenset({1044, 1142, 1143, 1227, 1146, 1109})

# innodb_trx is a cache of the server's, renewed only when nobody has read it for 100 ms [InnoDB,
# trx0i_s.cc]: a session that fell asleep just now may be in a transaction that it does not show
# yet.
_TRX_LAG = 0.2
# Unread for so long it is renewed
_TRX_PAUSE = 0.12
_TRX_TRIES = 4
# Seconds; kill_if_idle spares whoever has slept for less long than the list is old
_TRX_OLD = 10.0
# Nobody has slept so long: all are spared
_TRX_UNKNOWN = 1e9
_TRIES_WITHIN_A_SECOND = 3
# Seconds that SHOW may be behind SYSDATE: it has the time of the kernel's last tick
_LATE_CLOCK = 0.01
# Kills in one packet: once sent they cannot be called back, so the clock is asked before each few
_PACKET = 8
_PICOSECOND = 1e-12
# Seconds one kill takes, before one was measured
_FIRST_GUESS = 0.001
# Seconds for one statement of kills, each looked up first: the sweep's deadline waits for it
_BURST = 0.5


@dataclass(frozen=True)
class _Facts:
    """What does not change while a connection lives."""

    flavour: Flavour
    server: str
    connection_id: int
    current_user: str
    max_connections: int
    # performance_schema is on and may be read: true idle times
    sees_statements: bool


class _End(NamedTuple):
    """A session's last statement, the thread that ran it, and how many seconds ago it ended."""

    thread: int
    event: int
    seconds_ago: float


class MySQLServer:
    def __init__(self, connection: Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock
        self._kill_seconds = _FIRST_GUESS
        # Whom innodb_trx listed when it was last read
        self._in_transaction: set[int] = set()
        self._trx_read_at = -math.inf
        # When the list was made that has a transaction of this session
        self._witnessed_at = -math.inf
        # At the last look
        self._ends: Mapping[int, _End] = {}
        # At the last look, where MariaDB tells each by its QUERY_ID
        self._known: Mapping[int, Mark | None] = {}

    def look(self) -> RawSnapshot:
        counters = self._counters()
        rows = self._list()
        is_by_query_id = self._facts.flavour is Flavour.MARIADB and self.method in _COMMANDS
        unshared = _with_a_query_id_of_their_own(rows) if is_by_query_id else set()
        self._ends = ends = self._statement_ends() if self._facts.sees_statements else {}
        transactions, lag = self._transactions()
        begun = self._begun({t["trx_mysql_thread_id"] for t in transactions or ()})
        in_transaction = [*(transactions or ()), *(begun or ())]
        locks = self._locks({t["trx_mysql_thread_id"] for t in in_transaction})
        used = counters["Threads_connected"]
        if transactions is None:
            # The lower of two counts: who came or went between count and list must not look like a
            # hidden session.
            used = min(used, self._counters()["Threads_connected"])
        context = {
            "connection_id": self._facts.connection_id,
            "current_user": self._facts.current_user,
            "flavour": self._facts.flavour,
            "server": self._facts.server,
            "max_connections": self._facts.max_connections,
            "uptime_s": counters["Uptime"],
            "threads_connected": used,
            # Reading innodb_trx takes the PROCESS privilege, with which nothing is hidden.
            "sees_all": transactions is not None,
            "innodb_trx": in_transaction,
            "lag_s": lag,
            "user_limits": self._user_limits(),
        }
        if lag == _TRX_UNKNOWN:
            context["transactions_stale"] = True
        if begun is None:
            context["transactions_unseen"] = True
        if locks is not None:
            context["user_level_locks"] = locks
        context |= self._idle_facts(rows, ends)
        self._mark_rows(rows, ends)
        self._known = {row["Id"]: row["_mark"] for row in rows if row["Id"] in unshared}
        return RawSnapshot(EngineName.MYSQL, rows, context)

    def kill_order(self, victims: Sequence[Session]) -> Sequence[Session]:
        # To KILL, MariaDB walks its list of threads from the newest on: so found at once, or behind
        # thousands.
        is_mariadb = self._facts.flavour is Flavour.MARIADB
        return sorted(victims, key=attrgetter("id"), reverse=True) if is_mariadb else victims

    def terminate(self, victims: Sequence[Session]) -> ChunkOutcome:
        if self.method is KillMethod.KILL_IF_IDLE:
            self._await_renewal()
            began = self._clock()
            return ChunkOutcome(self._kill_if_idle(victims), self._clock() - began)
        began = self._clock()
        if told_apart := self._told_apart(victims):
            # The others' turn comes when these are done.
            outcomes = self._kill_unless_begun(told_apart)
            return ChunkOutcome(outcomes, (self._clock() - began) / max(1, len(outcomes)))
        found, read_at = self._marks([victim.id for victim in victims])
        outcomes = {}
        unchanged: list[int] = []
        for victim in victims:
            mark = found.get(victim.id)
            if mark is None:
                outcomes[victim.id] = Outcome.GONE if victim.id not in found else Outcome.CHANGED
            elif _matches(mark, victim.mark):
                unchanged.append(victim.id)
            else:
                outcomes[victim.id] = Outcome.CHANGED
        if self._facts.flavour is Flavour.MARIADB and self.method in _COMMANDS:
            killed = self._kill_within_window(unchanged, read_at)
        else:
            killed = self._kill_by_packets(unchanged, began)
        return ChunkOutcome(outcomes | killed, self._clock() - began)

    def still_present(self, victims: Sequence[Session]) -> set[int]:
        ids = [victim.id for victim in victims]
        listed = self._read(ids)
        # The row of a killed session vanishes at once; the slot only when its transaction is rolled
        # back.
        if self._clock() - self._trx_read_at > _TRX_PAUSE:
            self._read_transactions()
        return {row["Id"] for row in listed} | self._in_transaction & set(ids)

    def lock(self) -> bool:
        (row,) = self._query(f"SELECT GET_LOCK('{_LOCK}', 0) AS taken")
        return bool(row["taken"])

    def unlock(self) -> None:
        self._query(f"SELECT RELEASE_LOCK('{_LOCK}')")

    def holder(self) -> Holder | None:
        (held,) = self._query(f"SELECT IS_USED_LOCK('{_LOCK}') AS id")
        rows = self._read([held["id"]]) if held["id"] is not None else []
        own_user = self._facts.current_user.rpartition("@")[0]
        return next(
            (Holder(row["Id"], row["User"] == own_user, _asleep(row)) for row in rows), None
        )

    def end(self, holder: Holder) -> None:
        try:
            # Nobody needs a right to end sessions of the own account
            self._query(f"KILL {holder.id:d}")
        except pymysql.Error as error:
            if classify(error) is not Outcome.GONE:
                raise

    @cached_property
    def method(self) -> KillMethod | None:
        if self._query(_GET_PROCEDURE.format(schema=procedure.SCHEMA, routine=procedure.ROUTINE)):
            return KillMethod.KILL_IF_IDLE
        grants = [str(value) for row in self._query("SHOW GRANTS") for value in row.values()]
        if may_kill(grants):
            return KillMethod.KILL
        return (
            KillMethod.RDS_KILL
            if self._query(_GET_PROCEDURE.format(schema="mysql", routine="rds_kill"))
            else None
        )

    @cached_property
    def _facts(self) -> _Facts:
        # InnoDB writes trx_started in the system's zone, whatever zone the server or a session is
        # set to.
        self._query("SET time_zone = 'SYSTEM'")
        (row,) = self._query(_GET_FACTS)
        aurora = self._query("SHOW GLOBAL VARIABLES LIKE 'aurora_version'")
        flavour = (
            Flavour.MARIADB
            if "mariadb" in row["version"].lower()
            else Flavour.AURORA_MYSQL
            if aurora
            else Flavour.MYSQL
        )
        readable = bool(row["performance_schema"]) and flavour is not Flavour.MARIADB
        return _Facts(
            flavour=flavour,
            server=row["server"],
            connection_id=row["connection_id"],
            current_user=row["current_user"],
            max_connections=row["max_connections"],
            sees_statements=readable
            and self._query_if_allowed(f"{_GET_STATEMENT_ENDS} LIMIT 0") is not None,
        )

    def _list(self, ids: Sequence[int] = ()) -> list[dict[str, Any]]:
        """The process list, read within one second of the server's clock where that counts in whole
        seconds.
        """
        for attempt in range(_TRIES_WITHIN_A_SECOND):
            if attempt:
                # Until SHOW's clock, too, has come to the new second
                time.sleep(_LATE_CLOCK)
            rows = self._read(ids, is_marked=True)
            if not any(map(_ticked, rows)):
                break
        return rows

    def _read(self, ids: Sequence[int] = (), is_marked: bool = False) -> list[dict[str, Any]]:
        """The process list, or these sessions of it, marked or not with each one's last statement.

        MySQL's performance_schema.processlist takes no global mutex and is indexed by Id, but is
        empty where performance_schema is off.
        """
        table, clocks = "information_schema.processlist", _CLOCKS
        if self._facts.flavour is Flavour.MARIADB:
            clocks = _EXACT_CLOCK
        elif self._facts.sees_statements:
            table = "performance_schema.processlist"
        sql = _GET_SESSIONS.format(
            table=table, also=_TOLD_AGAIN if ids else _TOLD_ONCE, clocks=clocks
        )
        if ids:
            sql += f"WHERE ID IN ({_listed(ids)})"
        if ids and is_marked and self._facts.sees_statements:
            sql = _GET_MARKED.format(
                sessions=", ".join(f"ROW({id_:d}, {self._thread(id_)})" for id_ in ids)
            )
        try:
            return self._query(sql)
        except pymysql.Error as error:
            if _code(error) != _CANNOT_CONVERT:
                raise
        return [row for row in self._shown() if not ids or row["Id"] in ids]

    def _thread(self, id_: int) -> str:
        """The thread of a session, as SQL: to find it there takes as long as all else that a
        re-read asks for.
        """
        known = self._ends.get(id_)
        return f"{known.thread:d}" if known else _THREAD_OF.format(id=id_)

    def _shown(self) -> list[dict[str, Any]]:
        """The same by SHOW, as bytes: it goes on where somebody's statement is no utf8mb3, an emoji
        for example.

        information_schema.processlist fails then as a whole, for as long as that statement runs
        [MySQL 9.7].
        """
        (began,) = self._query(f"SELECT UNIX_TIMESTAMP(SYSDATE(6)) - {_LATE_CLOCK} AS began_s")
        self._query("SET character_set_results = binary")
        rows = self._query("SHOW PROCESSLIST")
        self._query("SET character_set_results = utf8mb4")
        (now,) = self._query("SELECT UNIX_TIMESTAMP(SYSDATE(6)) AS now_s")
        return [{key: _text(value) for key, value in row.items()} | began | now for row in rows]

    def _marks(self, ids: Sequence[int]) -> tuple[dict[int, Mark | None], float]:
        """The marks of those that are still listed, None for one that is awake; and when, by the
        server's clock.
        """
        rows = self._list(ids)
        began = min((float(row["began_s"]) for row in rows), default=0.0)
        return {row["Id"]: self._mark(row) for row in rows}, began

    def _mark(self, row: Mapping[str, Any], last_statement: object = None) -> Mark | None:
        if row["Command"] != "Sleep" or row["Time"] is None:
            return None
        key = (row["User"], row["Host"], row.get("token", last_statement))
        if row.get("exact_s") is not None:
            # Pings with no statement between them leave MariaDB's QUERY_ID as it is: the sleep's
            # beginning is compared.
            return Mark(key, float(row["began_s"]) - float(row["exact_s"]), slack=0.5)
        if key[2] is not None:
            return Mark(key)
        # Whole seconds: forgiving one would take a sleep that began almost two seconds later for
        # the same.
        return None if _ticked(row) else Mark(key, int(row["now_s"]) - int(row["Time"]))

    def _statement_ends(self) -> dict[int, _End]:
        """By session the statement that it ran last, where that has ended.

        The statement that asks is itself running: its start is the present by the clock of the
        others' ends.
        """
        rows = self._query(_GET_STATEMENT_ENDS)
        now = next((row["at"] for row in rows if row["id"] == self._facts.connection_id), None)
        if now is None:
            return {}
        return {
            row["id"]: _End(row["thread"], row["event"], (now - row["at"]) * _PICOSECOND)
            for row in rows
            if row["at"] is not None
        }

    def _mark_rows(self, rows: Sequence[dict[str, Any]], ends: Mapping[int, _End]) -> None:
        """Leave the columns of SHOW FULL PROCESSLIST and each row's mark."""
        ours = _OUR_OWN & rows[0].keys() if rows else ()
        for row in rows:
            row["_mark"] = self._mark(row, ends[row["Id"]].event if row["Id"] in ends else None)
            if row["Command"] == "Sleep" and row.get("exact_s") is not None:
                row["Time"] = row["exact_s"]
            for column in ours:
                del row[column]

    def _idle_facts(
        self, rows: Iterable[Mapping[str, Any]], ends: Mapping[int, _End]
    ) -> dict[str, Any]:
        """How Time is to be corrected, and whose Time is only an upper bound of the idle time.

        MySQL counts Time from the start of the last command. The end of that command, by
        performance_schema's own clock, is exact and also immune to SET timestamp, which falsifies
        Time.
        """
        if self._facts.flavour is Flavour.MARIADB:
            return {}
        asleep = {
            row["Id"]: row["Time"]
            for row in rows
            if row["Command"] == "Sleep" and row["Time"] is not None
        }
        return {
            "last_statement_s": {
                id_: time - ends[id_].seconds_ago for id_, time in asleep.items() if id_ in ends
            },
            "unconfirmed": [id_ for id_ in asleep if id_ not in ends],
        }

    def _transactions(self) -> tuple[list[dict[str, Any]] | None, float]:
        """What InnoDB lists, and how many seconds old the list may be.

        Somebody who reads innodb_trx more often than every 100 ms keeps it from being renewed, for
        as long as he likes. Where nothing else tells of transactions, one of our own is the
        witness: a list that has it was made after it began.
        """
        if self._facts.sees_statements:
            return self._read_transactions(), _TRX_LAG
        began = self._clock()
        self._query("START TRANSACTION WITH CONSISTENT SNAPSHOT")
        try:
            for attempt in range(_TRX_TRIES):
                if attempt:
                    # To read it sooner would keep InnoDB from renewing it
                    time.sleep(_TRX_PAUSE)
                rows = self._read_transactions()
                if rows is None:
                    return None, _TRX_LAG
                if self._facts.connection_id in self._in_transaction:
                    self._witnessed_at = began
                    return rows, max(_TRX_LAG, self._clock() - began)
        finally:
            self._query("COMMIT")
        return rows, _TRX_UNKNOWN

    def _read_transactions(self) -> list[dict[str, Any]] | None:
        """What innodb_trx lists; None without the right to read it."""
        rows = self._query_if_allowed(_GET_TRANSACTIONS)
        self._in_transaction = {row["trx_mysql_thread_id"] for row in rows or ()}
        self._trx_read_at = self._clock()
        if self._facts.connection_id not in self._in_transaction:
            self._witnessed_at = -math.inf
        return rows

    def _begun(self, known: set[int]) -> list[dict[str, Any]] | None:
        """Transactions that InnoDB does not list: begun, but without a statement yet.

        None where a right is missing.
        """
        if not self._facts.sees_statements:
            return []
        rows = self._query_if_allowed(_GET_BEGUN)
        return (
            None
            if rows is None
            else [row for row in rows if row["trx_mysql_thread_id"] not in known]
        )

    def _locks(self, in_transaction: set[int]) -> list[dict[str, Any]] | None:
        """Locks that live outside transactions: GET_LOCK, LOCK TABLES, FLUSH TABLES WITH READ LOCK,
        HANDLER.
        """
        if not self._facts.sees_statements:
            return None
        rows = self._query_if_allowed(_GET_LOCKS)
        if rows is None:
            return None
        return [
            {"processlist_id": row["processlist_id"], "name": row["name"]}
            for row in rows
            if row["kind"] == "USER LEVEL LOCK" or row["processlist_id"] not in in_transaction
        ]

    def _counters(self) -> dict[str, int]:
        rows = self._query(
            "SHOW GLOBAL STATUS WHERE Variable_name IN ('Threads_connected', 'Uptime')"
        )
        return {row["Variable_name"]: int(row["Value"]) for row in rows}

    def _user_limits(self) -> dict[str, int] | None:
        rows = self._query_if_allowed(_GET_USER_LIMITS)
        return None if rows is None else {row["name"]: int(row["most"]) for row in rows}

    def settings(self) -> Mapping[str, Any]:
        (found,) = self._query(_GET_SETTINGS)
        has_performance_schema = bool(found["performance_schema"])
        grants = [str(value) for row in self._query("SHOW GRANTS") for value in row.values()]
        settings = found | {
            "performance_schema": has_performance_schema,
            "managed": bool(found["managed"]),
            # The same right brings one slot beyond max_connections
            "can_use_reserved": may_kill(grants),
            "reserved_connections": 1,
            f"sees_{SweepWarning.USER_LIMITS_UNSEEN}": self._user_limits() is not None,
        }
        if has_performance_schema and self._facts.flavour is not Flavour.MARIADB:
            settings[f"sees_{SweepWarning.IDLE_UPPER_BOUND}"] = self._facts.sees_statements
            settings[f"sees_{SweepWarning.NAMED_LOCKS_UNSEEN}"] = (
                self._query_if_allowed(_GET_LOCKS) is not None
            )
            settings[f"sees_{SweepWarning.TRANSACTIONS_UNSEEN}"] = (
                self._query_if_allowed(_GET_BEGUN) is not None
            )
        return settings

    def _told_apart(self, victims: Sequence[Session]) -> list[Session]:
        """On MariaDB those whom it knows by what they did last, if it can kill one of them within
        the window.
        """
        if _MARGIN * self._kill_seconds > WINDOW:
            return []
        return [victim for victim in victims if _matches(self._known.get(victim.id), victim.mark)]

    def _kill_unless_begun(self, victims: Sequence[Session]) -> dict[int, Outcome]:
        """MariaDB looks up what each victim did last right before its kill, so none is re-read
        here.
        """
        ids = [victim.id for victim in victims]
        began = self._clock()
        how = _COMMANDS[self.method or KillMethod.KILL]
        outcomes = self._told_by(
            burst.kill_unless_begun(ids, [_last_statement(one) for one in victims], _BURST, how),
            ids,
        )
        self._learn(began, len(outcomes))
        if changed := [id_ for id_, outcome in outcomes.items() if outcome is Outcome.CHANGED]:
            listed = {row["Id"] for row in self._read(changed)}
            outcomes |= {id_: Outcome.GONE for id_ in changed if id_ not in listed}
        return outcomes

    def _kill_within_window(self, ids: Sequence[int], read_at: float) -> dict[int, Outcome]:
        """One statement for all, none begun so late that it would not be done within the window."""
        if not ids:
            return {}
        began = self._clock()
        until = read_at + min(LAST_CALL, WINDOW - _MARGIN * self._kill_seconds)
        outcomes = self._told_by(
            burst.kill(ids, until, _COMMANDS[self.method or KillMethod.KILL]), ids
        )
        self._learn(began, len(outcomes))
        return outcomes

    def _told_by(self, kills: str, ids: Sequence[int]) -> dict[int, Outcome]:
        """What became of each; those the statement had no time for have no outcome."""
        ((answer,),) = (row.values() for row in self._query(kills))
        errors = (
            pymysql.OperationalError(code, message) if code else None
            for code, message in burst.told(answer)
        )
        return {
            id_: classify(error) if error else Outcome.SIGNALLED
            for id_, error in zip(ids, errors, strict=False)
        }

    def _kill_by_packets(self, ids: Sequence[int], began: float) -> dict[int, Outcome]:
        """A few at a time, for as long as there is time for a few more; the rest has no outcome."""
        outcomes: dict[int, Outcome] = {}
        while (left := ids[len(outcomes) :]) and (most := min(_PACKET, self._affordable(began))):
            outcomes.update(self._kill(left[:most]))
        if left and not outcomes:
            self._learn(began, 0)
        return outcomes

    def _affordable(self, began: float) -> int:
        """How many kills fit into what is left of the window, were each twice as slow as of late."""
        left = began + LAST_CALL - self._clock()
        return max(0, int(left / (2 * self._kill_seconds)))

    def _kill(self, ids: Sequence[int]) -> dict[int, Outcome]:
        """Terminate, and remember how long one kill takes here."""
        if not ids:
            return {}
        if self.method is None:
            return dict.fromkeys(ids, Outcome.REFUSED)
        began = self._clock()
        outcomes = self._kill_packet(ids)
        self._learn(began, len(outcomes))
        return outcomes

    def _learn(self, began: float, kills: int) -> None:
        """Remember how long one kill takes here.

        One stall is not for ever, and only another kill can tell.
        """
        latest = (self._clock() - began) / kills if kills else 0.0
        self._kill_seconds = (self._kill_seconds + latest) / 2

    def _kill_packet(self, ids: Sequence[int]) -> dict[int, Outcome]:
        """One packet for all; an error ends the packet, so those after it have no outcome yet."""
        command = _COMMANDS[self.method or KillMethod.KILL]
        done = 0
        try:
            with self._connection.raw.cursor() as cursor:
                cursor.execute("; ".join(command.format(f"{id_:d}") for id_ in ids))
                done += cursor.description is None
                while cursor.nextset():
                    # Only the end of a statement has no columns: a procedure may send rows before
                    # it.
                    done += cursor.description is None
        except pymysql.Error as error:
            return dict.fromkeys(ids[:done], Outcome.SIGNALLED) | {ids[done]: classify(error)}
        return dict.fromkeys(ids, Outcome.SIGNALLED)

    def _await_renewal(self) -> None:
        """Leave innodb_trx unread for so long that kill_if_idle finds a list with the transaction
        that it begins.

        It refuses everybody while it finds one without, such as the one by which the last victims
        were seen to be gone.
        """
        if self._facts.sees_statements or self._clock() - self._witnessed_at < _TRX_OLD:
            return
        # Whoever read it sooner would find the old one, and keep it from being renewed
        time.sleep(_TRX_PAUSE)
        self._witnessed_at = self._clock()

    def _kill_if_idle(self, victims: Sequence[Session]) -> dict[int, Outcome]:
        """One packet for all: the server itself looks at each right before its kill, so none is
        re-read here.
        """
        outcomes = {victim.id: Outcome.CHANGED for victim in victims if victim.mark is None}
        marked = {victim.id: victim.mark for victim in victims if victim.mark is not None}
        told = self._told("; ".join(starmap(procedure.call, marked.items()))) if marked else []
        return outcomes | dict(zip(marked, told, strict=False))

    def _told(self, calls: str) -> list[Outcome]:
        """What each call of kill_if_idle said.

        An error ends the packet, so those after it have said nothing yet.
        """
        told: list[Outcome] = []
        try:
            with self._connection.raw.cursor() as cursor:
                cursor.execute(calls)
                more = True
                while more:
                    # The end of a CALL is a result of its own, without a row.
                    told += [
                        procedure.OUTCOMES.get(row[0], Outcome.FAILED) for row in cursor.fetchall()
                    ]
                    more = cursor.nextset()
        except pymysql.Error as error:
            told.append(classify(error))
        return told

    def _query(self, sql: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._connection.answer(sql).rows
        return rows

    def _query_if_allowed(self, sql: str) -> list[dict[str, Any]] | None:
        """The rows, or None where this account or this version may not read them."""
        try:
            return self._query(sql)
        except pymysql.Error as error:
            if _code(error) in _DENIED:
                return None
            raise


class MySQL:
    right_to_see = "PROCESS"
    right_to_kill = (
        "CONNECTION_ADMIN, or EXECUTE ON PROCEDURE mysql.rds_kill"
        f" ({procedure.NAME}, where installed, refuses sessions idle for too short a time or in a "
        f"transaction)"
    )

    def server(self, connection: Connection, clock: Clock) -> MySQLServer:
        return MySQLServer(connection, clock)

    def read(self, look: RawSnapshot) -> Snapshot:
        return processlist.read(look)


def may_kill(grants: Iterable[str]) -> bool:
    """Whether SHOW GRANTS names the right to KILL the sessions of others, directly or by an active
    role.
    """
    # Before a name in quotes, which may hold these words.
    right = r"GRANT [^`'\"]*\b(CONNECTION[_ ]ADMIN|SUPER|ALL PRIVILEGES)\b[^`'\"]* ON \*\.\* TO"
    return any(re.match(right, grant, re.IGNORECASE) for grant in grants)


def classify(error: pymysql.Error) -> Outcome:
    """What a failed kill means for its victim; a lost connection is nobody's outcome and is raised
    again.
    """
    code = _code(error)
    if code == _RDS_REFUSES and "RDS" in str(error):
        return Outcome.REFUSED
    if code in _MEANT:
        return _MEANT[code]
    if isinstance(error, pymysql.InterfaceError) or (code is not None and 2000 <= code < 3000):
        raise error
    return Outcome.FAILED


def _with_a_query_id_of_their_own(rows: Sequence[Mapping[str, Any]]) -> set[int]:
    """The ids of sessions with a QUERY_ID that no other has."""
    counted = Counter(row["token"] for row in rows)
    return {row["Id"] for row in rows if row["token"] and counted[row["token"]] == 1}


def _matches(found: Mark | None, expected: Mark | None) -> bool:
    return found is not None and expected is not None and found.matches(expected)


def _last_statement(victim: Session) -> int:
    """MariaDB's QUERY_ID of what a session did last; 0, which no client has, where the server did
    not tell.
    """
    token = victim.mark.key[-1] if victim.mark else None
    return token if isinstance(token, int) else 0


def _asleep(row: Mapping[str, Any]) -> float | None:
    return number(row["Time"]) if row["Command"] == "Sleep" else None


def _text(value: Any) -> Any:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _ticked(row: Mapping[str, Any]) -> bool:
    """Whether a new second began while the list was read, so that Time may count to either."""
    return "now_s" in row and int(row["began_s"]) != int(row["now_s"])


def _code(error: pymysql.Error) -> int | None:
    return error.args[0] if error.args and isinstance(error.args[0], int) else None


def _listed(ids: Iterable[int]) -> str:
    """Ids for an IN list: integers and nothing else, since KILL clamps what it cannot read."""
    return ", ".join(f"{id_:d}" for id_ in ids)


# Named locks are the server's, so its own name need not be in it
_LOCK = "reaper.sweep"

_GET_FACTS = """
SELECT VERSION() AS version, CONNECTION_ID() AS connection_id, CURRENT_USER() AS `current_user`,
       @@GLOBAL.max_connections AS max_connections, @@GLOBAL.performance_schema AS performance_schema,
       CONCAT_WS(':', @@hostname, @@port, @@server_id) AS server
"""

_GET_SESSIONS = "SELECT ID AS Id, USER AS User, HOST AS Host, {also}, {clocks} FROM {table} "
# What no re-read needs, and what makes MariaDB keep its list in a file. The statements of others
# can be megabytes.
_TOLD_ONCE = "DB AS db, COMMAND AS Command, TIME AS Time, STATE AS State, LEFT(INFO, 1024) AS Info"
_TOLD_AGAIN = "COMMAND AS Command, TIME AS Time"
# NOW is when the statement began, SYSDATE the clock itself.
_CLOCKS = "UNIX_TIMESTAMP(NOW()) AS began_s, UNIX_TIMESTAMP(SYSDATE()) AS now_s"
# As doubles, for PyMySQL is slow to read decimals. A token changes with every command that a
# session runs.
_EXACT_CLOCK = (
    "UNIX_TIMESTAMP(NOW(6)) + 0e0 AS began_s, TIME_MS / 1e3 AS exact_s, QUERY_ID AS token"
)

# From each session to its last event by index, and in this order: who woke in between has begun
# another. A hash join (which NO_BNL forbids) would read all events first. No other session ever has
# the same thread.
_GET_MARKED = f"""
SELECT /*+ NO_BNL(p, e) */ ID AS Id, USER AS User, HOST AS Host, {_TOLD_AGAIN}, {_CLOCKS}, e.EVENT_ID AS token
FROM (VALUES {{sessions}}) AS v (session, thread)
STRAIGHT_JOIN performance_schema.processlist AS p ON p.ID = v.session
LEFT JOIN performance_schema.events_statements_current AS e
  ON e.THREAD_ID = v.thread AND e.NESTING_EVENT_LEVEL = 0 AND e.END_EVENT_ID IS NOT NULL
"""
_THREAD_OF = "(SELECT THREAD_ID FROM performance_schema.threads WHERE PROCESSLIST_ID = {id:d})"
_OUR_OWN = frozenset({"began_s", "now_s", "exact_s", "token"})

_GET_TRANSACTIONS = """
SELECT trx_mysql_thread_id, TIMESTAMPDIFF(SECOND, trx_started, NOW()) AS age_s,
       trx_rows_locked AS rows_locked, trx_rows_modified AS rows_modified
FROM information_schema.innodb_trx
WHERE trx_mysql_thread_id <> 0
"""

_GET_BEGUN = """
SELECT t.PROCESSLIST_ID AS trx_mysql_thread_id, x.TIMER_WAIT / 1e12 AS age_s, 0 AS rows_locked, 0 AS rows_modified
FROM performance_schema.events_transactions_current AS x
JOIN performance_schema.threads AS t ON t.THREAD_ID = x.THREAD_ID
WHERE x.STATE = 'ACTIVE' AND x.AUTOCOMMIT = 'NO' AND t.PROCESSLIST_COMMAND = 'Sleep'
"""

# A transaction holds metadata locks of its own on every table it touched; those are not meant.
_GET_LOCKS = """
SELECT DISTINCT t.PROCESSLIST_ID AS processlist_id, l.OBJECT_TYPE AS kind, l.OBJECT_NAME AS name
FROM performance_schema.metadata_locks AS l
JOIN performance_schema.threads AS t ON t.THREAD_ID = l.OWNER_THREAD_ID
WHERE l.LOCK_STATUS = 'GRANTED' AND t.PROCESSLIST_COMMAND = 'Sleep'
"""

# One's own is running, and tells when it began. These indexes are not what they seem: a row is
# found by reading all threads, so with them the join takes seconds at thousands of sessions;
# without, it is a hash join, of the narrow table and not of the wide one, in memory.
_GET_STATEMENT_ENDS = """
SELECT /*+ NO_INDEX(e) NO_INDEX(t) SET_VAR(join_buffer_size = 4194304) */ t.PROCESSLIST_ID AS id,
       t.THREAD_ID AS thread, e.EVENT_ID AS event, IF(e.END_EVENT_ID IS NULL, e.TIMER_START, e.TIMER_END) AS at
FROM performance_schema.threads AS t
STRAIGHT_JOIN performance_schema.events_statements_current AS e ON e.THREAD_ID = t.THREAD_ID
WHERE t.PROCESSLIST_ID IS NOT NULL AND e.NESTING_EVENT_LEVEL = 0
  AND (e.END_EVENT_ID IS NOT NULL OR t.PROCESSLIST_ID = CONNECTION_ID())
"""

# Of all sessions: the reaper has set limits of its own for itself.
_GET_SETTINGS = """
SELECT @@GLOBAL.wait_timeout AS wait_timeout, @@GLOBAL.interactive_timeout AS interactive_timeout,
       @@GLOBAL.max_user_connections AS max_user_connections, @@GLOBAL.performance_schema AS performance_schema,
       @@basedir LIKE '/rdsdbbin%' AS managed
"""

_GET_USER_LIMITS = """
SELECT User AS name, MIN(max_user_connections) AS most FROM mysql.user
WHERE max_user_connections > 0 GROUP BY User
"""

# Those that this account may execute. One that runs with the caller's rights would be somebody's
# trap.
_GET_PROCEDURE = """
SELECT 1 FROM information_schema.routines
WHERE routine_schema = '{schema}' AND routine_name = '{routine}' AND security_type = 'DEFINER'
"""

ENGINE = MySQL()
