"""What the rows of pg_stat_activity mean. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from reaper.client.fields import ConfigurationError
from reaper.client.redaction import shown
from reaper.client.target import EngineName
from reaper.engines.rows import Row, limits, mark_of, name, names, number, values, whole
from reaper.engines.snapshot_file import RawSnapshot
from reaper.engines.sql_text import HIDDEN_SQL, begins_backup, listens
from reaper.model import Flavour, Holding, Session, Snapshot, State, SweepWarning

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
_ASLEEP = (State.IDLE, State.IDLE_IN_TRANSACTION)
# Stands in a name that could not be decoded
_UNREADABLE = "\ufffd"
_NOTHING: frozenset[Holding] = frozenset()
_A_LOCK = frozenset({Holding.LOCK})
# What every reaper's connection calls itself
_REAPER = "reaper"


def read(raw: RawSnapshot) -> Snapshot:
    """What the rows and the context mean; raise ConfigurationError for a row without a pid."""
    context = raw.context
    own_id = whole(context.get("backend_pid"))
    lockers = {whole(pid) for pid in values(context, "advisory_lock_pids")}
    sessions = tuple(_session(row, lockers) for row in raw.rows)
    logged_in_as = [s.user for s in sessions if own_id and s.id == own_id]
    own_users = names([context.get("current_user"), *logged_in_as])
    used = whole(context.get("connections_used"))
    return Snapshot(
        engine=EngineName.POSTGRES,
        flavour=_FLAVOURS.get(name(context.get("flavour")), Flavour.POSTGRES),
        sessions=sessions,
        own_id=own_id,
        own_users=own_users,
        used=_clients(sessions) if used is None else used,
        max_connections=whole(context.get("max_connections")),
        reserved=whole(context.get("reserved_connections")) or 0,
        superusers=names(values(context, "superusers")),
        user_limits=limits(context, "user_limits"),
        database_limits=limits(context, "database_limits"),
        blind=_is_blind(sessions, own_users, used),
        warnings=_warnings(sessions, own_users, own_id),
    )


def takes_a_slot(row: Row) -> bool:
    """Whether a row is a client.

    To an account without the right to see, a type is hidden but a database is not.
    """
    kind = row["backend_type"]
    return kind == "client backend" or (kind is None and row["datname"] is not None)


def _session(row: Row, lockers: Collection[int | None]) -> Session:
    pid = whole(row.get("pid"))
    if pid is None:
        raise ConfigurationError(
            f"snapshot: a row's pid is {shown('pid', row.get('pid'))}; it must be a number"
        )
    state = _state(row)
    idle = number(row.get("state_age_s")) if state in _ASLEEP else None
    session_age = number(row.get("backend_age_s"))
    if state in _ASLEEP and _contradicts(state, idle, session_age, row):
        state = State.UNKNOWN
    return Session(
        id=pid,
        user=name(row.get("usename")),
        host=name(row.get("client_addr")),
        database=name(row.get("datname")),
        application=name(row.get("application_name")),
        state=state,
        idle_seconds=idle,
        session_seconds=session_age,
        transaction_seconds=_transaction_age(row, idle),
        holds=_holds(row, is_locker=pid in lockers),
        mark=mark_of(row),
    )


def _transaction_age(row: Row, idle: float | None) -> float | None:
    age = number(row.get("xact_age_s"))
    # The server forgets when an aborted transaction began, which was before the session fell idle
    return idle if age is None and row.get("state") == _ABORTED else age


def _holds(row: Row, *, is_locker: bool) -> frozenset[Holding]:
    held = _A_LOCK if is_locker else _NOTHING
    if begins_backup(row.get("query")):
        held |= {Holding.BACKUP}
    return held | {Holding.LISTEN} if listens(row.get("query")) else held


def _state(row: Row) -> State:
    kind = row.get("backend_type")
    # Anybody can send that text as a statement, but then there is a state
    if row.get("query") == HIDDEN_SQL and row.get("state") is None:
        return _hidden(row)
    if kind == "walsender":
        return State.REPLICATION
    if kind is None:
        return _hidden(row) if row.get("state") is None else State.UNKNOWN
    if kind != "client backend" or row.get("leader_pid") is not None:
        return State.BACKGROUND
    return _STATES.get(str(row.get("state")), State.UNKNOWN)


def _hidden(row: Row) -> State:
    """The server's own processes are hidden from the account as well; they have no user."""
    return State.UNSEEN if row.get("usename") else State.BACKGROUND


def _contradicts(state: State, idle: float | None, session_age: float | None, row: Row) -> bool:
    """Whether the facts about a session that says it is idle are missing or cannot all be true."""
    if idle is None or idle < 0:
        return True
    # No user at all means a role that was dropped, but a row must say so.
    if "usename" not in row or not isinstance(row["usename"], str | None):
        return True
    # The name could not be decoded, so no allow or protect rule can be applied reliably.
    if _UNREADABLE in f"{row.get('usename')}{row.get('datname')}{row.get('application_name')}":
        return True
    if session_age is not None and idle > session_age + 1:
        return True
    return state is State.IDLE and row.get("xact_age_s") is not None


def _clients(sessions: Sequence[Session]) -> int:
    return sum(session.is_client for session in sessions)


def _is_blind(sessions: Sequence[Session], own_users: frozenset[str], used: int | None) -> bool:
    others = [s for s in sessions if s.user and s.user not in own_users and s.is_client]
    if others:
        return all(session.state is State.UNSEEN for session in others)
    return used is not None and used > _clients(sessions)


def _warnings(
    sessions: Sequence[Session], own_users: frozenset[str], own_id: int | None
) -> tuple[SweepWarning, ...]:
    # Somebody who is not a reaper uses the reaper's account
    is_shared = any(
        s.user in own_users and s.id != own_id and s.application != _REAPER and s.is_client
        for s in sessions
    )
    return (SweepWarning.OWN_ACCOUNT_SHARED,) if is_shared else ()
