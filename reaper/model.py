"""The nouns of the house: sessions as seen, the rules, verdicts and outcomes. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from ipaddress import ip_network
from typing import Any, NamedTuple, Self

from reaper.client.target import (
    ConfigurationError,
    EngineName,
    Target,
    first_label,
    nearest,
    parse_json,
    reject_unknown_keys,
    shown,
    text,
)


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


class Holding(Word):
    """What an idle session holds that a kill would take away."""

    LOCK = "lock"
    LISTEN = "listen"


# One or more for each of thousands of sessions in a sweep, and a frozen dataclass takes three times
# as long to make.
class Mark(NamedTuple):
    """What must be found again before a strike, or the session has woken or is another one.

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
    again before it strikes.
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
    flavour: str
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
    warnings: tuple[str, ...] = ()

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
    """Why a session must go or may stay. Built-in protections first; rules cannot switch those off."""

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
    FAILED = "failed"
    WOULD_TERMINATE = "would_terminate"


class Mode(StrEnum):
    ROUTINE = "routine"
    PRESSURE = "pressure"


class InTransaction(StrEnum):
    SPARE = "spare"
    TERMINATE = "terminate"


_MOST = 10**9
# Each session is compared with each, within the deadline
_MOST_NAMES, _LONGEST_NAME = 1000, 255


def _flag(value: object, where: str) -> bool:
    if not isinstance(value, bool):
        raise ConfigurationError(f"{where} is {shown(where, value)}; say true or false")
    return value


def _number(value: object, where: str, unit: str) -> float:
    # NaN fails every comparison, infinity the upper bound.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MOST:
        raise ConfigurationError(
            f"{where} is {shown(where, value)}; give {unit} as a number, 0 or more"
        )
    return value


def _seconds(value: object, where: str) -> float:
    return _number(value, where, "seconds")


def _share(value: object, where: str) -> float:
    number = _number(value, where, "a share of the connections")
    if number > 1:
        raise ConfigurationError(
            f"{where} is {shown(where, value)}; give a share from 0 to 1, such as 0.8 for 80 %"
        )
    return number


def _count(value: object, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST:
        raise ConfigurationError(
            f"{where} is {shown(where, value)}; give a whole number, 0 or more"
        )
    return value


def _names(value: object, where: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(
        isinstance(name, str) and name for name in value
    ):
        raise ConfigurationError(f"{where} is {shown(where, value)}; give a list of names or globs")
    if len(value) > _MOST_NAMES or any(len(name) > _LONGEST_NAME for name in value):
        raise ConfigurationError(
            f"{where} is too long; give at most {_MOST_NAMES} names of {_LONGEST_NAME} letters"
        )
    return tuple(value)


def _hosts(value: object, where: str) -> tuple[str, ...]:
    hosts = _names(value, where)
    for host in hosts:
        if "/" in host:
            try:
                ip_network(host, strict=False)
            except ValueError:
                raise ConfigurationError(
                    f"{where} holds {host!r}, which is no network such as 10.0.0.0/16"
                ) from None
    return hosts


def _in_transaction(value: object, where: str) -> InTransaction:
    if value not in list(InTransaction):
        raise ConfigurationError(f"{where} is {shown(where, value)}; say 'spare' or 'terminate'")
    return InTransaction(str(value))


# What dataclasses.field is typed as
def _rule(default: Any, parse: Callable[[object, str], Any]) -> Any:
    return field(default=default, metadata={"parse": parse})


@dataclass(frozen=True)
class Rules:
    """The policy's settings, and the one owner of their defaults.

    Essential, pressure, limits, who, transactions.
    """

    dry_run: bool = _rule(True, _flag)
    idle_seconds: float = _rule(900.0, _seconds)
    only_under_pressure: bool = _rule(False, _flag)

    trigger_utilization: float = _rule(0.8, _share)
    pressure_idle_seconds: float = _rule(60.0, _seconds)
    target_utilization: float = _rule(0.6, _share)

    max_kills: int = _rule(500, _count)
    min_idle_per_user: int = _rule(0, _count)
    spread_seconds: float = _rule(0.0, _seconds)

    allow_users: tuple[str, ...] = _rule((), _names)
    allow_hosts: tuple[str, ...] = _rule((), _hosts)
    allow_databases: tuple[str, ...] = _rule((), _names)
    allow_applications: tuple[str, ...] = _rule((), _names)
    protect_users: tuple[str, ...] = _rule((), _names)
    protect_hosts: tuple[str, ...] = _rule((), _hosts)
    protect_databases: tuple[str, ...] = _rule((), _names)
    protect_applications: tuple[str, ...] = _rule((), _names)

    in_transaction: InTransaction = _rule(InTransaction.SPARE, _in_transaction)
    in_transaction_seconds: float = _rule(3600.0, _seconds)
    max_rollback_rows: int = _rule(100_000, _count)

    def override(self, given: Mapping[str, Any], where: str = "rules") -> Self:
        """These rules with the given ones put over them; raise ConfigurationError for a bad key or
        value.
        """
        reject_unknown_keys(given, [f.name for f in fields(self)], where)
        named = [rule for rule in fields(self) if rule.name in given]
        return replace(
            self,
            **{
                rule.name: _parse(rule, given[rule.name], f"{where}: {rule.name}") for rule in named
            },
        )

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """Read REAPER_<RULE> variables; one that is nearly a rule's name is an error, not ignored."""
        names = {f"REAPER_{f.name.upper()}": f for f in fields(cls)}
        _reject_near_misses(environ, list(names))
        found = {variable: rule for variable, rule in names.items() if environ.get(variable)}
        return cls(
            **{
                rule.name: _parse(rule, _from_text(environ[variable], rule.default), variable)
                for variable, rule in found.items()
            }
        )


def _parse(rule: Any, value: object, where: str) -> Any:
    if value == [] and rule.name.startswith("allow_"):
        raise ConfigurationError(f"{where} is empty; leave it out to allow all")
    return rule.metadata["parse"](value, where)


def _from_text(value: str, default: object) -> object:
    """An environment variable's text as the JSON value it stands for; a list may also be a,b,c."""
    if isinstance(default, str):
        return value
    try:
        return parse_json(value)
    except ValueError:
        if isinstance(default, tuple) and not value.lstrip().startswith("["):
            return [name.strip() for name in value.split(",") if name.strip()]
        return value


def _reject_near_misses(environ: Mapping[str, str], known: list[str]) -> None:
    for variable in environ:
        if not variable.startswith("REAPER_") or variable in known:
            continue
        # Whoever meant to protect somebody must not be passed over.
        is_careful = variable.removeprefix("REAPER_").startswith(("ALLOW", "DRY", "PROTECT"))
        if near := nearest(variable, known, cutoff=0.0 if is_careful else 0.9):
            raise ConfigurationError(f"unknown setting {variable}; did you mean {near}?")


@dataclass(frozen=True)
class SweepTarget:
    """A target with its rules: `rules` holds only what the target itself overrides."""

    target: Target
    id: str | None = None
    rules: Mapping[str, Any] = field(default_factory=dict)

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
        """Read one entry of the target list; raise ConfigurationError naming the key and the value."""
        known = [*(f.name for f in fields(Target)), "id", "rules"]
        reject_unknown_keys(given, known, where)
        target = Target.from_mapping(
            {k: v for k, v in given.items() if k not in ("id", "rules")}, where
        )
        where = f"target {target.name!r}"
        rules = {} if given.get("rules") is None else given["rules"]
        Rules().override(rules, f"{where}: rules")
        return cls(target, text(given, "id", where), rules)
