"""What the rows of MySQL's and MariaDB's process list mean. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from reaper.client.fields import ConfigurationError
from reaper.client.redaction import shown
from reaper.client.target import EngineName
from reaper.engines.rows import (
    Row,
    limits,
    mapping,
    mark_of,
    name,
    names,
    number,
    objects,
    values,
    whole,
)
from reaper.engines.snapshot_file import RawSnapshot
from reaper.model import Flavour, Holding, Session, Snapshot, State, SweepWarning

_FLAVOURS: Mapping[str | None, Flavour] = {
    flavour.value: flavour for flavour in (Flavour.MYSQL, Flavour.MARIADB, Flavour.AURORA_MYSQL)
}
# As SHOW PROCESSLIST spells them; information_schema and saved files may spell them differently.
_COLUMNS = frozenset({"Id", "User", "Host", "db", "Command", "Time", "Info"})
_AS_SHOWN = {column.lower(): column for column in _COLUMNS}
_HANDSHAKE_USER = "unauthenticated user"
_REPLICATION = (
    "Binlog Dump",
    "Slave",
    "Replica",
    "Register Slave",
    "Register Replica",
    "Table Dump",
)
_SERVERS_OWN = ("system user", "event_scheduler")
# Seconds. No server lets anybody sleep for longer than wait_timeout, which is at most a year;
# only SET timestamp leads beyond that.
_LONGEST_SLEEP = 31_536_000
# More sessions than this under the reaper's own account means that an application is using it.
_OWN_SESSIONS = 1 + 4


def read(raw: RawSnapshot) -> Snapshot:
    """What the rows and the context mean; raise ConfigurationError for a row without an Id."""
    context = raw.context
    flavour = _FLAVOURS.get(name(context.get("flavour")), Flavour.MYSQL)
    own_id = whole(context.get("connection_id"))
    reader = _Reader(context, is_mariadb=flavour is Flavour.MARIADB)
    sessions = tuple(reader.session(row) for row in raw.rows)
    account = name(context.get("current_user")) or ""
    logged_in_as = [s.user for s in sessions if own_id is not None and s.id == own_id]
    own_users = names([account.rpartition("@")[0] or account, *logged_in_as])
    used = whole(context.get("threads_connected"))
    return Snapshot(
        engine=EngineName.MYSQL,
        flavour=flavour,
        sessions=sessions,
        own_id=own_id,
        own_users=own_users,
        used=sum(session.is_client for session in sessions) if used is None else used,
        max_connections=whole(context.get("max_connections")),
        reserved=whole(context.get("reserved_connections")) or 0,
        user_limits=limits(context, "user_limits"),
        database_limits=limits(context, "database_limits"),
        server=name(context.get("server")),
        lag_seconds=number(context.get("lag_s")) or 0.0,
        blind=not context.get("sees_all") and _is_blind(sessions, own_users, used),
        warnings=tuple(_warnings(context, sessions, own_users)),
    )


class _Reader:
    """Reads rows together with the context around them."""

    def __init__(self, context: Row, is_mariadb: bool) -> None:
        self._is_mariadb = is_mariadb
        self._uptime = number(context.get("uptime_s"))
        self._statements = {
            whole(id_): number(s) for id_, s in mapping(context, "last_statement_s").items()
        }
        self._unconfirmed = {whole(id_) for id_ in values(context, "unconfirmed")}
        self._transactions = {
            whole(t.get("trx_mysql_thread_id")): t for t in objects(context, "innodb_trx")
        }
        # Thousands of sessions share a few names: one object for each name
        self._names: dict[str | None, str | None] = {}
        self._lockers = {
            whole(lock.get("processlist_id")) for lock in objects(context, "user_level_locks")
        }

    def session(self, row: Row) -> Session:
        """One row as a session; raise ConfigurationError where it has no Id."""
        if not row.keys() >= _COLUMNS:
            row = {_AS_SHOWN.get(key.lower(), key): value for key, value in row.items()}
        id_ = whole(row.get("Id"))
        if id_ is None:
            raise ConfigurationError(
                f"snapshot: a row's Id is {shown('Id', row.get('Id'))}; it must be a number"
            )
        state, idle, at_most = self._state(row), None, None
        if state is State.IDLE:
            at_most = self._asleep(row)
            state = self._idle_state(id_, at_most)
            if at_most is not None:
                idle = None if id_ in self._unconfirmed else self._idle(id_, at_most)
        user, host = name(row.get("User")), strip_port(row.get("Host"))
        database, shared = name(row.get("db")), self._names.setdefault
        transaction = self._transactions.get(id_, {})
        return Session(
            id=id_,
            user=shared(user, user),
            host=shared(host, host),
            database=shared(database, database),
            state=state,
            idle_seconds=idle,
            idle_at_most=at_most if idle is None else None,
            transaction_seconds=number(transaction.get("age_s")),
            rollback_rows=whole(transaction.get("rows_modified")) or 0,
            holds=frozenset({Holding.LOCK}) if id_ in self._lockers else frozenset(),
            mark=mark_of(row),
        )

    def _state(self, row: Row) -> State:
        user, command = row.get("User"), row.get("Command")
        if not isinstance(command, str) or not isinstance(user, str):
            return State.UNKNOWN
        if user in _SERVERS_OWN or command == "Daemon":
            return State.BACKGROUND
        if user == _HANDSHAKE_USER or (command == "Connect" and not row.get("Info")):
            return State.HANDSHAKE
        if command == "Sleep":
            return State.UNKNOWN if row.get("Info") else State.IDLE
        return State.REPLICATION if command.startswith(_REPLICATION) else State.ACTIVE

    def _asleep(self, row: Row) -> float | None:
        """The row's Time in seconds; None where SET timestamp has falsified it or a handshake has
        none.
        """
        time = number(row.get("Time"))
        longest = _LONGEST_SLEEP if self._uptime is None else min(self._uptime + 1, _LONGEST_SLEEP)
        return None if time is None or not 0 <= time <= longest else time

    def _idle_state(self, id_: int, asleep: float | None) -> State:
        if asleep is None:
            return State.UNKNOWN
        return State.IDLE_IN_TRANSACTION if id_ in self._transactions else State.IDLE

    def _idle(self, id_: int, asleep: float) -> float:
        # MariaDB's Time counts from the end of the last command already.
        statement = None if self._is_mariadb else self._statements.get(id_)
        return asleep if statement is None else max(0.0, asleep - statement)


def strip_port(host: object) -> str | None:
    """The host of `10.0.1.15:43210`, of `::1:43210` and of a bare `localhost`."""
    if not isinstance(host, str) or not host:
        return None
    name, colon, port = host.rpartition(":")
    if not colon or not port.isdigit() or (name.endswith(":") and name != "::"):
        return host.strip("[]")
    return name.strip("[]")


def _is_blind(sessions: Sequence[Session], own_users: frozenset[str], used: int | None) -> bool:
    if any(session.user not in own_users for session in sessions):
        return False
    return used is not None and used > len(sessions)


def _warnings(
    context: Row, sessions: Sequence[Session], own_users: frozenset[str]
) -> Iterable[SweepWarning]:
    if "user_level_locks" not in context:
        yield SweepWarning.NAMED_LOCKS_UNSEEN
    if context.get("transactions_stale"):
        yield SweepWarning.TRANSACTIONS_STALE
    if context.get("transactions_unseen"):
        yield SweepWarning.TRANSACTIONS_UNSEEN
    if context.get("unconfirmed"):
        yield SweepWarning.IDLE_UPPER_BOUND
    if context.get("user_limits") is None:
        yield SweepWarning.USER_LIMITS_UNSEEN
    if sum(session.user in own_users for session in sessions) > _OWN_SESSIONS:
        yield SweepWarning.OWN_ACCOUNT_SHARED
