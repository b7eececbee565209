"""PostgreSQL and Aurora PostgreSQL: pg_stat_activity and pg_terminate_backend."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import Loader

from reaper.client.deadline import Clock
from reaper.client.drivers.connection import Connection
from reaper.client.target import ConfigurationError, EngineName, shown
from reaper.engines.base import ChunkOutcome, Holder
from reaper.engines.rows import limits, name, number, values, whole
from reaper.engines.snapshot_file import RawSnapshot
from reaper.engines.sql_text import HIDDEN_SQL, listens
from reaper.engines.termination import LAST_CALL
from reaper.model import (
    Flavour,
    Holding,
    KillMethod,
    Mark,
    Outcome,
    Session,
    Snapshot,
    State,
    SweepWarning,
)

_FLAVOURS: Mapping[str | None, Flavour] = {
    flavour.value: flavour for flavour in (Flavour.POSTGRES, Flavour.AURORA_POSTGRES)
}
_ABORTED = "idle in transaction (aborted)"
_STATES = {
    "idle": State.IDLE,
    "idle in transaction": State.IDLE_IN_TRANSACTION,
    _ABORTED: State.IDLE_IN_TRANSACTION,
    "active": State.ACTIVE,
    "fastpath function call": State.ACTIVE,
    # PostgreSQL 18
    "starting": State.HANDSHAKE,
}
_INSUFFICIENT_PRIVILEGE = "42501"
_REFUSALS_IN_A_ROW = 3


class PostgresServer:
    method = KillMethod.PG_TERMINATE_BACKEND

    def __init__(self, connection: Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock

    def lock(self) -> bool:
        (row,) = self._query(f"SELECT pg_try_advisory_lock({_LOCK}) AS taken")
        return bool(row["taken"])

    def unlock(self) -> None:
        self._query(f"SELECT pg_advisory_unlock({_LOCK})")

    def holder(self) -> Holder | None:
        return next((Holder(**row) for row in self._query(_GET_HOLDER)), None)

    def end(self, holder: Holder) -> None:
        self._query("SELECT pg_terminate_backend(%(pid)s)", {"pid": holder.id})

    def look(self) -> RawSnapshot:
        rows = self._query(_GET_SESSIONS)
        (context,) = self._query(_GET_CONTEXT)
        for row in rows:
            row["query"] = None if row["query"] is None else row["query"].decode(errors="replace")
            row["_mark"] = Mark((row.pop("backend_start"), row["state"], row.pop("state_change")))
        # No JSON, which must be valid in the database's encoding
        for kind in ("user_limits", "database_limits"):
            context[kind] = dict(zip(context.pop(f"{kind}_of"), context[kind], strict=True))
        return RawSnapshot(
            EngineName.POSTGRES, rows, context | {"connections_used": sum(map(_takes_a_slot, rows))}
        )

    def kill_order(self, victims: Sequence[Session]) -> Sequence[Session]:
        return victims

    def terminate(self, victims: Sequence[Session]) -> ChunkOutcome:
        try:
            return self._strike(victims)
        except psycopg.errors.InsufficientPrivilege:
            # One refused victim aborts the whole statement, so find out whose it was.
            return self._strike_each(victims)

    def _strike(self, victims: Sequence[Session]) -> ChunkOutcome:
        began = self._clock()
        keys = [victim.mark.key for victim in victims if victim.mark]
        rows = self._query(
            _DO_TERMINATE,
            {
                "pids": _array(victim.id for victim in victims),
                "born": _array(key[0] for key in keys),
                "states": _array(key[1] for key in keys),
                "since": _array(key[2] for key in keys),
                "window": LAST_CALL,
            },
        )
        in_time = [row for row in rows if not _is_late(row)]
        last = max((row["turn_s"] for row in in_time), default=self._clock() - began)
        return ChunkOutcome({row["pid"]: _outcome(row) for row in in_time}, last)

    def _strike_each(self, victims: Sequence[Session]) -> ChunkOutcome:
        outcomes: dict[int, Outcome] = {}
        refusals, longest = 0, 0.0
        for victim in victims:
            try:
                struck = self._strike([victim])
                outcomes.update(struck.outcomes)
                refusals, longest = 0, max(longest, struck.seconds)
            except psycopg.errors.InsufficientPrivilege:
                outcomes[victim.id] = Outcome.REFUSED
                refusals += 1
            if refusals == _REFUSALS_IN_A_ROW:
                break
        return ChunkOutcome(outcomes, longest)

    def still_present(self, victims: Sequence[Session]) -> set[int]:
        born = {victim.id: victim.mark.key[0] for victim in victims if victim.mark}
        rows = self._query(_GET_BIRTHS, {"pids": list(born)})
        return {row["pid"] for row in rows if row["backend_start"] == born[row["pid"]]}

    def settings(self) -> Mapping[str, Any]:
        (account,) = self._query(_GET_ACCOUNT)
        of_roles = [
            row | {"seconds": in_seconds(row["value"])} for row in self._query(_GET_ROLE_SETTINGS)
        ]
        # What was read of those is this account's own, and not the server's.
        own = {
            row["name"]
            for row in of_roles
            if row["role"] in (account["role"], "") and row["is_here"]
        }
        of_server = {
            row["name"]: whole(row["value"])
            for row in self._query(_GET_SETTINGS)
            if row["name"] not in own
        }
        return of_server | account | {"role_settings": of_roles}

    def _query(self, sql: str, values: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._settled.raw.execute(sql, values).fetchall()
        return rows

    @cached_property
    def _settled(self) -> Connection:
        """The connection, deaf to what a database's owner has set for those who log in to it."""
        self._connection.raw.adapters.register_loader("text", _AnyText)
        self._connection.raw.execute(_DO_SETTLE)
        return self._connection


class _AnyText(Loader):
    """Names are the whole server's, each in the encoding of the database where it was given;
    unreadable: U+FFFD.
    """

    def load(self, data: Buffer) -> str:
        try:
            return str(data, "utf-8")
        except UnicodeDecodeError:
            return str(
                data, self.connection.info.encoding if self.connection else "ascii", "replace"
            )


class Postgres:
    right_to_see = "pg_read_all_stats"
    right_to_kill = "pg_signal_backend"

    def server(self, connection: Connection, clock: Clock) -> PostgresServer:
        return PostgresServer(connection, clock)

    def read(self, look: RawSnapshot) -> Snapshot:
        context = look.context
        own_id = whole(context.get("backend_pid"))
        lockers = {whole(pid) for pid in values(context, "advisory_lock_pids")}
        sessions = tuple(_session(row, lockers) for row in look.rows)
        own_users = frozenset(
            user
            for user in (
                name(context.get("current_user")),
                *(s.user for s in sessions if s.id == own_id and own_id),
            )
            if user
        )
        used = whole(context.get("connections_used"))
        return Snapshot(
            engine=EngineName.POSTGRES,
            flavour=_FLAVOURS.get(name(context.get("flavour")), Flavour.POSTGRES),
            sessions=sessions,
            own_id=own_id,
            own_users=own_users,
            used=sum(s.is_client for s in sessions) if used is None else used,
            max_connections=whole(context.get("max_connections")),
            reserved=whole(context.get("reserved_connections")) or 0,
            superusers=frozenset(user for user in map(name, values(context, "superusers")) if user),
            user_limits=limits(context, "user_limits"),
            database_limits=limits(context, "database_limits"),
            blind=_is_blind(sessions, own_users, used),
            warnings=(SweepWarning.OWN_ACCOUNT_SHARED,)
            if _is_shared(sessions, own_users, own_id)
            else (),
        )


def in_seconds(given: str) -> float | None:
    """A time limit as somebody wrote it for a role: 660s, 11min, or milliseconds without a unit."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *(us|ms|s|min|h|d)?", given.strip())
    return float(found[1]) * _UNITS[found[2] or "ms"] if found else None


_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1, "min": 60, "h": 3600, "d": 86400}


def _session(row: Mapping[str, Any], lockers: set[int | None]) -> Session:
    pid = whole(row.get("pid"))
    if pid is None:
        raise ConfigurationError(
            f"snapshot: a row's pid is {shown('pid', row.get('pid'))}; it must be a number"
        )
    state = _state(row)
    idle = (
        number(row.get("state_age_s")) if state in (State.IDLE, State.IDLE_IN_TRANSACTION) else None
    )
    session_age, transaction_age = number(row.get("backend_age_s")), number(row.get("xact_age_s"))
    # The server forgets when it began: before it slept
    if transaction_age is None and row.get("state") == _ABORTED:
        transaction_age = idle
    if _contradicts(state, idle, session_age, row):
        state = State.UNKNOWN
    holds = {Holding.LOCK} if pid in lockers else set()
    if listens(row.get("query")):
        holds.add(Holding.LISTEN)
    return Session(
        id=pid,
        user=name(row.get("usename")),
        host=name(row.get("client_addr")),
        database=name(row.get("datname")),
        application=name(row.get("application_name")),
        state=state,
        idle_seconds=idle,
        session_seconds=session_age,
        transaction_seconds=transaction_age,
        holds=frozenset(holds),
        mark=row.get("_mark"),
    )


def _state(row: Mapping[str, Any]) -> State:
    kind = row.get("backend_type")
    # Anybody can send that text as a statement
    if row.get("query") == HIDDEN_SQL and row.get("state") is None:
        return _hidden(row)
    if kind == "walsender":
        return State.REPLICATION
    if kind is None:
        return _hidden(row) if row.get("state") is None else State.UNKNOWN
    if kind != "client backend" or row.get("leader_pid") is not None:
        return State.BACKGROUND
    return _STATES.get(str(row.get("state")), State.UNKNOWN)


def _hidden(row: Mapping[str, Any]) -> State:
    """The server's own processes are hidden from the account as well; they have no user."""
    return State.UNSEEN if row.get("usename") else State.BACKGROUND


def _takes_a_slot(row: Mapping[str, Any]) -> bool:
    """Whether a row is a client. Without the right to see, a type is hidden but a database is not."""
    kind = row["backend_type"]
    return kind == "client backend" or (kind is None and row["datname"] is not None)


def _contradicts(
    state: State, idle: float | None, session_age: float | None, row: Mapping[str, Any]
) -> bool:
    if state not in (State.IDLE, State.IDLE_IN_TRANSACTION):
        return False
    return (
        idle is None
        or idle < 0
        # Whom no rule can be sure to know by name.
        or _UNREADABLE in f"{row.get('usename')}{row.get('datname')}{row.get('application_name')}"
        or (session_age is not None and idle > session_age + 1)
        or (state is State.IDLE and row.get("xact_age_s") is not None)
    )


def _is_blind(sessions: Sequence[Session], own_users: frozenset[str], used: int | None) -> bool:
    others = [s for s in sessions if s.user and s.user not in own_users and s.is_client]
    if others:
        return all(session.state is State.UNSEEN for session in others)
    return used is not None and used > sum(s.is_client for s in sessions)


def _is_shared(sessions: Sequence[Session], own_users: frozenset[str], own_id: int | None) -> bool:
    """Whether somebody who is no reaper uses the reaper's account."""
    return any(
        s.user in own_users and s.id != own_id and s.application != "reaper" and s.is_client
        for s in sessions
    )


def _array(members: Iterable[object]) -> str:
    """As PostgreSQL reads one.

    None of ours holds a quote, and psycopg would look for some in each: 3 µs a member.
    """
    return "{" + ",".join("NULL" if member is None else f'"{member}"' for member in members) + "}"


def _is_late(row: Mapping[str, Any]) -> bool:
    """Whether the window had passed before it was this victim's turn."""
    return row["unchanged"] and row["signalled"] is None


def _outcome(row: Mapping[str, Any]) -> Outcome:
    if not row["present"]:
        return Outcome.GONE
    if not row["unchanged"]:
        return Outcome.CHANGED
    # False means that the process was no longer there to be signalled.
    return Outcome.SIGNALLED if row["signalled"] else Outcome.GONE


_UNREADABLE = "\ufffd"

# Without it a schema of theirs goes before pg_catalog, and with any other path a function of theirs
# that fits better is called, with the reaper's rights (CVE-2018-1058). Nor may they say how long a
# statement runs or how dates look.
_DO_SETTLE = """
SELECT pg_catalog.set_config(name, value, false)
FROM (VALUES ('search_path', 'pg_catalog, pg_temp'), ('statement_timeout', '0'), ('datestyle', 'ISO'))
     AS ours (name, value)
"""

# Advisory locks are a database's: every reaper of a server connects to the same one.
# "reap"
_LOCK = "1919246704, 1"

_GET_HOLDER = """
SELECT a.pid AS id, a.usename = current_user AS is_ours,
       CASE a.state WHEN 'idle' THEN extract(epoch FROM clock_timestamp() - a.state_change)::float8 END AS idle_seconds
FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 AND l.classid = 1919246704 AND l.objid = 1
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""

_GET_SESSIONS = """
SELECT pid, usename::text, datname::text, application_name, host(client_addr) AS client_addr,
       backend_type, leader_pid, state, substring(textsend(query) FROM 1 FOR 1024) AS query,
       extract(epoch FROM clock_timestamp() - state_change)::float8 AS state_age_s,
       extract(epoch FROM clock_timestamp() - xact_start)::float8 AS xact_age_s,
       extract(epoch FROM clock_timestamp() - backend_start)::float8 AS backend_age_s,
       backend_start, state_change
FROM pg_stat_activity
"""

# rds_superuser's own reserved slots are a setting that only RDS knows.
_GET_CONTEXT = """
SELECT pg_backend_pid() AS backend_pid, session_user::text AS current_user,
       current_setting('max_connections')::int AS max_connections,
       current_setting('superuser_reserved_connections')::int
         + coalesce(nullif(current_setting('reserved_connections', true), ''), '0')::int
         + coalesce(nullif(current_setting('rds.rds_superuser_reserved_connections', true), ''), '0')::int
         AS reserved_connections,
       CASE WHEN to_regproc('aurora_version') IS NULL THEN 'postgres' ELSE 'aurora_postgres' END AS flavour,
       coalesce((SELECT array_agg(rolname::text ORDER BY rolname) FROM pg_roles WHERE rolsuper), '{}') AS superusers,
       coalesce((SELECT array_agg(DISTINCT pid) FROM pg_locks WHERE locktype = 'advisory' AND granted), '{}')
         AS advisory_lock_pids,
       ARRAY(SELECT rolname::text FROM pg_roles WHERE rolconnlimit > 0 ORDER BY oid) AS user_limits_of,
       ARRAY(SELECT rolconnlimit FROM pg_roles WHERE rolconnlimit > 0 ORDER BY oid) AS user_limits,
       ARRAY(SELECT datname::text FROM pg_database WHERE datconnlimit > 0 ORDER BY oid) AS database_limits_of,
       ARRAY(SELECT datconnlimit FROM pg_database WHERE datconnlimit > 0 ORDER BY oid) AS database_limits
"""

_GET_ACCOUNT = """
SELECT session_user::text AS role,
       (SELECT rolsuper FROM pg_roles WHERE rolname = session_user) AS is_superuser,
       pg_has_role(session_user, 'pg_signal_backend', 'USAGE') AS can_signal,
       (SELECT pg_has_role(session_user, oid, 'USAGE') FROM pg_roles WHERE rolname = 'pg_use_reserved_connections')
         AS can_use_reserved,
       (SELECT pg_has_role(session_user, oid, 'USAGE') FROM pg_roles WHERE rolname = 'rds_superuser')
         AS can_use_rds_reserved,
       nullif(current_setting('rds.rds_superuser_reserved_connections', true), '')::int AS rds_reserved_connections,
       current_setting('rds.extensions', true) IS NOT NULL AS managed
"""

# As they were before this session set its own. Keepalives are those of this connection, since 0 is
# the system's.
_GET_SETTINGS = """
SELECT name, CASE unit WHEN 'ms' THEN ceil(reset_val::float8 / 1000) ELSE setting::float8 END AS value
FROM pg_settings
WHERE name IN ('idle_session_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout',
               'tcp_keepalives_idle', 'tcp_keepalives_interval', 'tcp_keepalives_count',
               'superuser_reserved_connections', 'reserved_connections')
"""

_GET_ROLE_SETTINGS = """
SELECT coalesce(rolname::text, '') AS role, coalesce(datname::text, '') AS database,
       split_part(entry, '=', 1) AS name, substr(entry, strpos(entry, '=') + 1) AS value,
       coalesce(datname, current_database()) = current_database() AS is_here
FROM pg_db_role_setting LEFT JOIN pg_roles ON pg_roles.oid = setrole
LEFT JOIN pg_database ON pg_database.oid = setdatabase CROSS JOIN unnest(setconfig) AS entry
WHERE split_part(entry, '=', 1)
      IN ('idle_session_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout')
"""

# The inner query reads the victims' activity at the start, all of it at one moment, by the function
# behind pg_stat_activity: the view would make rows of everybody's. The CASE keeps the kill from
# whoever changed since the snapshot, and from everybody once the window has passed. Columns are
# computed in their order: turn_s is when the kill was ordered. The answer may come much later, for
# sessions that end take the processors from who ends them.
_DO_TERMINATE = """
SELECT pid, present, unchanged,
       extract(epoch FROM clock_timestamp() - statement_timestamp())::float8 AS turn_s,
       CASE WHEN unchanged AND clock_timestamp() < statement_timestamp() + make_interval(secs => %(window)s)
            THEN pg_terminate_backend(pid) END AS signalled
FROM (SELECT v.pid, a.pid IS NOT NULL AS present,
             coalesce((a.backend_start, a.state, a.state_change) = (v.born, v.state, v.since), false) AS unchanged
      FROM unnest(%(pids)s::int[], %(born)s::timestamptz[], %(states)s::text[], %(since)s::timestamptz[])
             WITH ORDINALITY AS v(pid, born, state, since, place)
      LEFT JOIN LATERAL pg_stat_get_activity(v.pid) AS a ON true
      ORDER BY v.place) AS seen
"""

_GET_BIRTHS = "SELECT pid, backend_start FROM pg_stat_activity WHERE pid = ANY(%(pids)s)"

ENGINE = Postgres()
