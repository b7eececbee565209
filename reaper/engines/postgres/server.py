"""The reaper's side of PostgreSQL and Aurora PostgreSQL: one server on one connection."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import Loader

from reaper.client.deadline import Clock
from reaper.client.drivers.connection import Connection
from reaper.client.target import EngineName
from reaper.engines.base import ChunkOutcome, Holder
from reaper.engines.postgres import reading
from reaper.engines.postgres.settings import read_settings
from reaper.engines.rows import MARK, Fetched
from reaper.engines.snapshot_file import RawSnapshot
from reaper.engines.termination import LAST_CALL
from reaper.model import KillMethod, Mark, Outcome, Session, Snapshot

# Victims refused one after the other, after which the rest of a chunk is left to the next one
_REFUSALS_IN_A_ROW = 3


class PostgresServer:
    """One server."""

    method = KillMethod.PG_TERMINATE_BACKEND

    def __init__(self, connection: Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock

    def lock(self) -> bool:
        """Take the lock that keeps two sweeps of this server apart, without waiting for it."""
        (row,) = self._query(f"SELECT pg_try_advisory_lock({_LOCK}) AS taken")
        return bool(row["taken"])

    def unlock(self) -> None:
        """Release that lock."""
        self._query(f"SELECT pg_advisory_unlock({_LOCK})")

    def holder(self) -> Holder | None:
        """Who holds the lock, where that can be seen."""
        return next((Holder(**row) for row in self._query(_GET_HOLDER)), None)

    def end(self, holder: Holder) -> None:
        """Terminate a session of the reaper's own account; does nothing where it has gone."""
        self._query("SELECT pg_terminate_backend(%(pid)s)", {"pid": holder.id})

    def look(self) -> RawSnapshot:
        """All sessions and the facts around them, as the server gives them now."""
        rows = self._query(_GET_SESSIONS)
        (context,) = self._query(_GET_CONTEXT)
        for row in rows:
            row["query"] = None if row["query"] is None else row["query"].decode(errors="replace")
            row[MARK] = Mark((row.pop("backend_start"), row["state"], row.pop("state_change")))
        # Two arrays and not JSON, which must be valid in the database's encoding
        for kind in ("user_limits", "database_limits"):
            context[kind] = dict(zip(context.pop(f"{kind}_of"), context[kind], strict=True))
        context["connections_used"] = sum(map(reading.takes_a_slot, rows))
        return RawSnapshot(EngineName.POSTGRES, rows, context)

    def kill_order(self, victims: Sequence[Session]) -> Sequence[Session]:
        """As given: any order is as fast."""
        return victims

    def terminate(self, victims: Sequence[Session]) -> ChunkOutcome:
        """Terminate those that have not changed, which the same statement looks up."""
        try:
            return self._terminate(victims)
        except psycopg.errors.InsufficientPrivilege:
            # One refused victim aborts the whole statement, so find out which one it was.
            return self._terminate_each(victims)

    def _terminate(self, victims: Sequence[Session]) -> ChunkOutcome:
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

    def _terminate_each(self, victims: Sequence[Session]) -> ChunkOutcome:
        outcomes: dict[int, Outcome] = {}
        refusals, longest = 0, 0.0
        for victim in victims:
            try:
                chunk = self._terminate([victim])
                outcomes.update(chunk.outcomes)
                refusals, longest = 0, max(longest, chunk.seconds)
            except psycopg.errors.InsufficientPrivilege:
                outcomes[victim.id] = Outcome.REFUSED
                refusals += 1
            if refusals == _REFUSALS_IN_A_ROW:
                break
        return ChunkOutcome(outcomes, longest)

    def still_present(self, victims: Sequence[Session]) -> set[int]:
        """The ids of those that are still listed."""
        born = {victim.id: victim.mark.key[0] for victim in victims if victim.mark}
        rows = self._query(_GET_BIRTHS, {"pids": list(born)})
        return {row["pid"] for row in rows if row["backend_start"] == born[row["pid"]]}

    def settings(self) -> Mapping[str, object]:
        """What advice is given on, by the server's own names, times in seconds."""
        return read_settings(self._query)

    def _query(self, sql: str, values: Mapping[str, object] | None = None) -> list[Fetched]:
        rows: list[Fetched] = self._settled.raw.execute(sql, values).fetchall()
        return rows

    @cached_property
    def _settled(self) -> Connection:
        """The connection, with the session settings that the statements here rely on."""
        self._connection.raw.adapters.register_loader("text", _AnyText)
        self._connection.raw.execute(_DO_SETTLE)
        return self._connection


class _AnyText(Loader):
    """Reads names, which are the whole server's, each in the encoding of the database in which it
    was given; what cannot be read becomes U+FFFD.
    """

    def load(self, data: Buffer) -> str:
        """The text, whatever it is encoded in."""
        try:
            return str(data, "utf-8")
        except UnicodeDecodeError:
            return str(data, self._encoding(), "replace")

    def _encoding(self) -> str:
        """That of the database that the connection is to, by Python's name for it; nothing is
        converted on the way.
        """
        told = (
            self.connection.pgconn.parameter_status(b"server_encoding") if self.connection else None
        )
        name = (told or b"").decode().replace("WIN", "cp")
        try:
            return codecs.lookup(name).name
        except LookupError:
            return "ascii"


class Postgres:
    """The engine: what differs from MySQL. Stateless."""

    right_to_see = "pg_read_all_stats"
    right_to_kill = "pg_signal_backend"

    def server(self, connection: Connection, clock: Clock) -> PostgresServer:
        """A server as the sweep sees it, on this connection."""
        return PostgresServer(connection, clock)

    def read(self, raw: RawSnapshot) -> Snapshot:
        """What the rows and the context mean."""
        return reading.read(raw)


def _array(members: Iterable[object]) -> str:
    """An array as PostgreSQL reads one.

    None of our values holds a quote, and psycopg would look for one in each: 3 µs a member.
    """
    return "{" + ",".join("NULL" if member is None else f'"{member}"' for member in members) + "}"


def _is_late(row: Fetched) -> bool:
    """Whether the window had passed before it was this victim's turn."""
    return row["unchanged"] and row["signalled"] is None


def _outcome(row: Fetched) -> Outcome:
    if not row["present"]:
        return Outcome.GONE
    if not row["unchanged"]:
        return Outcome.CHANGED
    # False means that the process was no longer there to be signalled.
    return Outcome.SIGNALLED if row["signalled"] else Outcome.GONE


# What the database's owner has set for those who log in to it must not apply to the reaper. With
# another search path a schema of the owner's could precede pg_catalog, and a function there that
# fits better would be called with the reaper's rights (CVE-2018-1058); until it is set, everything
# is named with its schema. Nor may the owner say as which role the reaper works, how long a
# statement runs, how dates look or how exact a number is. Nothing is converted: names are the whole
# server's, each in an encoding of its own. A setting that this version does not know is left out.
_DO_SETTLE = """
SELECT pg_catalog.set_config(name, value, false)
FROM (VALUES ('search_path', 'pg_catalog, pg_temp'), ('role', 'none'), ('datestyle', 'ISO'),
             ('extra_float_digits', '3'), ('client_encoding', 'SQL_ASCII'),
             ('statement_timeout', '0'), ('lock_timeout', '0'),
             ('transaction_timeout', '0'), ('idle_in_transaction_session_timeout', '0'),
             ('default_transaction_deferrable', 'off'),
             ('default_transaction_isolation', 'read committed')
     ) AS ours (name, value)
WHERE pg_catalog.current_setting(name, true) IS NOT NULL
"""

# Advisory locks belong to one database: every reaper of a server connects to the same one. The
# number is "reap" in ASCII.
_LOCK = "1919246704, 1"

_GET_HOLDER = """
SELECT a.pid AS id, a.usename = current_user AS is_ours,
       CASE a.state WHEN 'idle'
            THEN extract(epoch FROM clock_timestamp() - a.state_change)::float8 END AS idle_seconds
FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted
  AND l.objsubid = 2 AND l.classid = 1919246704 AND l.objid = 1
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

# RDS reserves slots of its own by a setting that only it has, and renamed in 2024.
_GET_CONTEXT = """
SELECT pg_backend_pid() AS backend_pid, session_user::text AS current_user,
       current_setting('max_connections')::int AS max_connections,
       current_setting('superuser_reserved_connections')::int
         + coalesce(nullif(current_setting('reserved_connections', true), ''), '0')::int
         + coalesce(nullif(current_setting('rds.rds_reserved_connections', true), ''),
                    nullif(current_setting('rds.rds_superuser_reserved_connections', true), ''),
                    '0')::int AS reserved_connections,
       CASE WHEN to_regproc('aurora_version') IS NULL THEN 'postgres' ELSE 'aurora_postgres' END
         AS flavour,
       coalesce((SELECT array_agg(rolname::text ORDER BY rolname) FROM pg_roles WHERE rolsuper),
                '{}') AS superusers,
       coalesce((SELECT array_agg(DISTINCT pid) FROM pg_locks
                  WHERE locktype = 'advisory' AND granted), '{}') AS advisory_lock_pids,
       ARRAY(SELECT rolname::text FROM pg_roles WHERE rolconnlimit > 0 ORDER BY oid)
         AS user_limits_of,
       ARRAY(SELECT rolconnlimit FROM pg_roles WHERE rolconnlimit > 0 ORDER BY oid) AS user_limits,
       ARRAY(SELECT datname::text FROM pg_database WHERE datconnlimit > 0 ORDER BY oid)
         AS database_limits_of,
       ARRAY(SELECT datconnlimit FROM pg_database WHERE datconnlimit > 0 ORDER BY oid)
         AS database_limits
"""

# The inner query reads the victims' activity at the start, all of it at one moment, by the function
# behind pg_stat_activity: the view would make rows of all sessions. The CASE keeps the kill from
# every victim that changed since the snapshot, and from all of them once the window has passed.
# Columns are computed in their order: turn_s is when the kill was ordered. The answer may come much
# later, because sessions that end take the processors from the one that ends them.
_DO_TERMINATE = """
SELECT pid, present, unchanged,
       extract(epoch FROM clock_timestamp() - statement_timestamp())::float8 AS turn_s,
       CASE WHEN unchanged
             AND clock_timestamp() < statement_timestamp() + make_interval(secs => %(window)s)
            THEN pg_terminate_backend(pid) END AS signalled
FROM (SELECT v.pid, a.pid IS NOT NULL AS present,
             coalesce((a.backend_start, a.state, a.state_change) = (v.born, v.state, v.since),
                      false) AS unchanged
      FROM unnest(%(pids)s::int[], %(born)s::timestamptz[],
                  %(states)s::text[], %(since)s::timestamptz[])
             WITH ORDINALITY AS v(pid, born, state, since, place)
      LEFT JOIN LATERAL pg_stat_get_activity(v.pid) AS a ON true
      ORDER BY v.place) AS seen
"""

_GET_BIRTHS = "SELECT pid, backend_start FROM pg_stat_activity WHERE pid = ANY(%(pids)s)"

ENGINE = Postgres()
