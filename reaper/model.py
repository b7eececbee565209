"""The nouns of a sweep: sessions as seen, verdicts, outcomes and targets. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, NamedTuple, Self

from reaper.client.fields import reject_unknown_keys, text
from reaper.client.target import EngineName, Target, first_label
from reaper.rules import RulesPatch


class Word(StrEnum):
    """Hashed as the text that it is: Enum's own hash is a call into Python, several times for each
    session.
    """

    __hash__ = str.__hash__


class State(Word):
    """What a session is doing, as far as the server told."""

    ACTIVE = "active"
    IDLE = "idle"
    IDLE_IN_TRANSACTION = "idle_in_transaction"
    # Has not logged in yet
    HANDSHAKE = "handshake"
    REPLICATION = "replication"
    # The server's own: no client, no slot
    BACKGROUND = "background"
    # The account may not see what it does
    UNSEEN = "unseen"
    # Facts are missing or contradict each other
    UNKNOWN = "unknown"


class Flavour(Word):
    """Which server it is among those that speak an engine's protocol, as reports name it."""

    MYSQL = "mysql"
    MARIADB = "mariadb"
    AURORA_MYSQL = "aurora_mysql"
    POSTGRES = "postgres"
    AURORA_POSTGRES = "aurora_postgres"

    @property
    def is_aurora(self) -> bool:
        """Whether it is Amazon Aurora."""
        return self in (Flavour.AURORA_MYSQL, Flavour.AURORA_POSTGRES)


class KillMethod(Word):
    """How an account terminates the sessions of others, as reports name it."""

    KILL = "kill"
    RDS_KILL = "rds_kill"
    # The stored procedure that `reaper grants --kill-if-idle` prints
    KILL_IF_IDLE = "kill_if_idle"
    PG_TERMINATE_BACKEND = "pg_terminate_backend"


class SweepWarning(Word):
    """Why a sweep could not see or do all that it would on another server, or how it was limited.

    These are all the warnings that a report can carry.
    """

    IDLE_UPPER_BOUND = "idle_upper_bound"
    NAMED_LOCKS_UNSEEN = "named_locks_unseen"
    TRANSACTIONS_UNSEEN = "transactions_unseen"
    TRANSACTIONS_STALE = "transactions_stale"
    OWN_ACCOUNT_SHARED = "own_account_shared"
    USER_LIMITS_UNSEEN = "user_limits_unseen"
    NO_RIGHT_TO_TERMINATE = "no_right_to_terminate"
    RDS_PROXY_PROTECTED = "rds_proxy_protected"
    RDS_PROXY_SUBNETS_PROTECTED = "rds_proxy_subnets_protected"


class Holding(Word):
    """What an idle session holds that a kill would take away."""

    LOCK = "lock"
    LISTEN = "listen"
    # A base backup of PostgreSQL
    BACKUP = "backup"


# One or more for each of thousands of sessions in a sweep, and a frozen dataclass takes three times
# as long to make.
class Mark(NamedTuple):
    """What must be found again before a kill, or the session has woken or is another one.

    `since` is when its present sleep began, by the server's clock; `slack` what that clock's
    rounding forgives.
    """

    key: tuple[object, ...]
    since: float = 0.0
    slack: float = 0.0

    def matches(self, other: Mark) -> bool:
        return self.key == other.key and abs(self.since - other.since) <= self.slack


class Session(NamedTuple):
    """One server-side connection. Seconds by the server's clock; None where the server did not say.

    `idle_seconds` is time since the last statement ended. Where only an upper bound is known it
    stands in `idle_at_most` until a second look confirms it. `mark` is what the engine must find
    again before it terminates the session.
    """

    id: int
    user: str | None = None
    host: str | None = None
    database: str | None = None
    application: str | None = None
    state: State = State.UNKNOWN
    idle_seconds: float | None = None
    idle_at_most: float | None = None
    session_seconds: float | None = None
    transaction_seconds: float | None = None
    rollback_rows: int = 0
    holds: frozenset[Holding] = frozenset()
    mark: Mark | None = None

    @property
    def is_client(self) -> bool:
        """Whether it takes a slot that a client could use."""
        return self.state not in (State.BACKGROUND, State.REPLICATION)

    @property
    def is_unconfirmed(self) -> bool:
        """Asleep for nobody knows how long: only an upper bound was read."""
        return self.idle_seconds is None and self.idle_at_most is not None


@dataclass(frozen=True)
class Snapshot:
    """All sessions and the server's counts and limits at one moment.

    `max_connections` is the server's setting, `reserved` the slots of it that an ordinary client
    cannot use.
    """

    engine: EngineName
    flavour: Flavour
    sessions: tuple[Session, ...]
    own_id: int | None = None
    own_users: frozenset[str] = frozenset()
    used: int | None = None
    max_connections: int | None = None
    reserved: int = 0
    superusers: frozenset[str] = frozenset()
    user_limits: Mapping[str, int] = field(default_factory=dict)
    database_limits: Mapping[str, int] = field(default_factory=dict)
    # Which one this was, where the address may lead to another next time
    server: str | None = None
    # What happened within the last so many seconds may not show yet
    lag_seconds: float = 0.0
    blind: bool = False
    warnings: tuple[SweepWarning, ...] = ()

    @property
    def usable(self) -> int | None:
        """What an ordinary client can use of max_connections."""
        return (
            None if self.max_connections is None else max(0, self.max_connections - self.reserved)
        )

    @property
    def utilization(self) -> float | None:
        if self.used is None or not self.usable:
            return None
        return self.used / self.usable

    @property
    def is_full(self) -> bool:
        """Whether an ordinary client would be refused."""
        return self.used is not None and self.usable is not None and self.used > self.usable

    def in_state(self, *states: State) -> list[Session]:
        return [session for session in self.sessions if session.state in states]


class Reason(Word):
    """Why a session must go or may stay.

    Built-in protections come first; rules cannot switch those off.
    """

    OWN_ACCOUNT = "own_account"
    PROVIDER_ACCOUNT = "provider_account"
    SUPERUSER = "superuser"
    REPLICATION = "replication"
    BACKGROUND = "background"
    HANDSHAKE = "handshake"
    UNSEEN = "unseen"
    UNKNOWN = "unknown"
    ACTIVE = "active"
    HOLDS_LOCK = "holds_lock"
    LISTENING = "listening"
    BACKUP = "backup"
    PROTECTED = "protected"
    NOT_ALLOWED = "not_allowed"
    IN_TRANSACTION = "in_transaction"
    ROLLBACK_TOO_LARGE = "rollback_too_large"
    UNCONFIRMED = "unconfirmed"
    NOT_IDLE_LONG_ENOUGH = "not_idle_long_enough"
    NO_PRESSURE = "no_pressure"
    MIN_IDLE_PER_USER = "min_idle_per_user"
    MAX_KILLS = "max_kills"
    TARGET_REACHED = "target_reached"
    IDLE = "idle"
    IDLE_IN_TRANSACTION = "idle_in_transaction"
    PRESSURE = "pressure"


class Action(Word):
    TERMINATE = "terminate"
    SPARE = "spare"


class Verdict(NamedTuple):
    session: Session
    action: Action
    reason: Reason


class Outcome(Word):
    """What became of a victim. Only what was seen is claimed."""

    # Verified gone, nothing rolling back
    TERMINATED = "terminated"
    # Sent, not yet gone when last seen
    SIGNALLED = "signalled"
    # Had already ended
    GONE = "gone"
    # Woke up or is another session now: spared at the last moment
    CHANGED = "changed"
    # No right
    REFUSED = "refused"
    # MySQL: its account has SYSTEM_USER, which only another one with it may terminate; spared
    SYSTEM_USER = "system_user"
    FAILED = "failed"
    WOULD_TERMINATE = "would_terminate"


class Mode(StrEnum):
    ROUTINE = "routine"
    PRESSURE = "pressure"


@dataclass(frozen=True)
class SweepTarget:
    """A target, and the rules that it overrides itself."""

    target: Target
    id: str | None = None
    rules: RulesPatch = RulesPatch()

    @property
    def name(self) -> str:
        return self.target.name

    @property
    def resource(self) -> str:
        """What an alarm's DBInstanceIdentifier or DBClusterIdentifier calls it: its id, else its
        host's first label.
        """
        return self.id or first_label(self.target.host)

    @classmethod
    def from_dsn(cls, dsn: str) -> Self:
        return cls(Target.from_dsn(dsn))

    @classmethod
    def from_mapping(cls, given: Mapping[str, Any], where: str = "target") -> Self:
        """Read one entry of the target list, or what a message brings of a target.

        Raises ConfigurationError naming the key and the value.
        """
        known = [*(f.name for f in fields(Target)), "id", "rules"]
        reject_unknown_keys(given, known, where)
        target = Target.from_mapping(
            {k: v for k, v in given.items() if k not in ("id", "rules")}, where
        )
        where = f"target {target.name!r}"
        rules = RulesPatch.from_entry(given, where)
        return cls(target, text(given, "id", where), rules)
