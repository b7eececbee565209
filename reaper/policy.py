"""Who must go, and why: the pure decision over one snapshot."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache, lru_cache, partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from operator import attrgetter
from typing import NamedTuple

from reaper.client.target import EngineName
from reaper.model import Action, Holding, Mode, Reason, Session, Snapshot, State, Verdict
from reaper.rules import InTransaction, Rules

# Exact names: `admin` and `root` belong to the customer. Source: RDS master account documentation
# and the engines' own reserved accounts.
PROVIDER_ACCOUNTS = frozenset(
    {
        "rdsadmin",
        "rdsrepladmin",
        "rdsrepladmin_priv_checks_user",
        "rdsgrprepladmin",
        "rdsproxyadmin",
        "rdstopmgr",
        "rdswriteforwarduser",
        "system user",
        "event_scheduler",
        "unauthenticated user",
        "mysql.sys",
        "mysql.session",
        "mysql.infoschema",
        "mariadb.sys",
    }
)

_STATE_REASONS = {
    State.REPLICATION: Reason.REPLICATION,
    State.BACKGROUND: Reason.BACKGROUND,
    State.HANDSHAKE: Reason.HANDSHAKE,
    State.UNSEEN: Reason.UNSEEN,
    State.UNKNOWN: Reason.UNKNOWN,
    State.ACTIVE: Reason.ACTIVE,
}

# The first that fits is told
_HOLDING_REASONS = {
    Holding.LOCK: Reason.HOLDS_LOCK,
    Holding.BACKUP: Reason.BACKUP,
    Holding.LISTEN: Reason.LISTENING,
}

# Tuples: members of an enum are found in them by identity.
_NO_CLIENTS = (State.REPLICATION, State.BACKGROUND, State.HANDSHAKE)
_CONDEMNED = (Reason.IDLE, Reason.IDLE_IN_TRANSACTION, Reason.PRESSURE)
# Slots by which a threshold may be missed: in binary 0.6 * 95 is not quite 57.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Judgement:
    """The verdicts, and whether they were reached under pressure.

    First come the victims, in the order in which they were chosen, then the spared by id.
    """

    mode: Mode
    verdicts: tuple[Verdict, ...]

    @property
    def victims(self) -> tuple[Verdict, ...]:
        """The verdicts of those that are to be terminated."""
        return tuple(verdict for verdict in self.verdicts if verdict.action is Action.TERMINATE)


class Scope(NamedTuple):
    """Something that can run out of slots: the server (no name), one user, one database."""

    kind: str
    name: str | None = None


_SERVER = Scope("server")


def judge(snapshot: Snapshot, rules: Rules, already_pressed: Collection[Scope] = ()) -> Judgement:
    """Give every session of the snapshot its verdict. Same snapshot and rules, same answer.

    Scopes that were under pressure at an earlier look stay so until target_utilization is reached.
    """
    excess = find_pressure(snapshot, rules, already_pressed)
    repeated = {
        id_
        for id_, count in Counter(session.id for session in snapshot.sessions).items()
        if count > 1
    }
    youngest = _youngest(snapshot.sessions, rules.min_idle_per_user)
    # Thousands of sessions share a few names; each combination is compared with the patterns once.
    exclusion = cache(partial(_exclusion, rules))
    routine: list[Verdict] = []
    for_pressure: list[Verdict] = []
    spared: list[Verdict] = []
    for session in snapshot.sessions:
        reason = _reason(session, snapshot, rules, excess, repeated, exclusion)
        if reason not in _CONDEMNED:
            spared.append(Verdict(session, Action.SPARE, reason))
        elif session.id in youngest:
            spared.append(Verdict(session, Action.SPARE, Reason.MIN_IDLE_PER_USER))
        else:
            (for_pressure if reason is Reason.PRESSURE else routine).append(
                Verdict(session, Action.TERMINATE, reason)
            )
    for condemned in (routine, for_pressure):
        condemned.sort(key=lambda verdict: _longest_idle_first(verdict.session))
    chosen, left_over = _until_relieved(routine, for_pressure, excess)
    victims, over_the_cap = chosen[: rules.max_kills], chosen[rules.max_kills :]
    spared += _spare(left_over, Reason.TARGET_REACHED) + _spare(over_the_cap, Reason.MAX_KILLS)
    spared.sort(key=attrgetter("session.id"))
    return Judgement(mode=Mode.PRESSURE if excess else Mode.ROUTINE, verdicts=(*victims, *spared))


def _spare(condemned: Iterable[Verdict], reason: Reason) -> list[Verdict]:
    return [Verdict(verdict.session, Action.SPARE, reason) for verdict in condemned]


def find_pressure(
    snapshot: Snapshot, rules: Rules, already_pressed: Collection[Scope] = ()
) -> dict[Scope, float]:
    """The scopes under pressure, each with the number of slots that must come free to reach
    target_utilization.

    A user or a database at its own limit means pressure for its sessions only. Scopes that were
    under pressure at an earlier look stay so until the target is reached.
    """

    def trigger(scope: Scope) -> float:
        return rules.target_utilization if scope in already_pressed else rules.trigger_utilization

    return {
        scope: used - rules.target_utilization * limit
        for scope, used, limit in _usage(snapshot)
        if used > 0 and used >= trigger(scope) * limit - _ROUNDING
    }


def _usage(snapshot: Snapshot) -> Iterator[tuple[Scope, int, int]]:
    """Every scope that has a limit, with the slots that are used in it, and the limit.

    PostgreSQL's limits do not apply to superusers.
    """
    if snapshot.used is not None and snapshot.usable is not None:
        yield _SERVER, snapshot.used, snapshot.usable
    limits = {
        Scope("user", user): limit
        for user, limit in snapshot.user_limits.items()
        if user not in snapshot.superusers
    }
    limits |= {Scope("database", name): limit for name, limit in snapshot.database_limits.items()}
    clients = (session for session in snapshot.sessions if limits and session.is_client)
    used = Counter(scope for session in clients for scope in _scopes(session))
    for scope, limit in limits.items():
        yield scope, used[scope], limit


def pressure_remains(snapshot: Snapshot, rules: Rules, freed: Collection[int]) -> bool:
    """Whether there still is pressure when the sessions of these ids have given up their slots."""
    left = tuple(session for session in snapshot.sessions if session.id not in freed)
    used = None if snapshot.used is None else snapshot.used - (len(snapshot.sessions) - len(left))
    return bool(find_pressure(replace(snapshot, sessions=left, used=used), rules))


def _reason(
    session: Session,
    snapshot: Snapshot,
    rules: Rules,
    excess: Mapping[Scope, float],
    repeated: set[int],
    exclusion: Callable[..., Reason | None],
) -> Reason:
    if session.id in repeated:
        return Reason.UNKNOWN
    spared = _protection(session, snapshot) or exclusion(
        session.user, session.database, session.application, session.host
    )
    if spared:
        return spared
    under_pressure = bool(excess) and any(scope in excess for scope in _scopes(session))
    if session.state is State.IDLE_IN_TRANSACTION:
        return _in_transaction(session, rules, under_pressure)
    return _idle(session, rules, under_pressure)


def _protection(session: Session, snapshot: Snapshot) -> Reason | None:
    """The built-in protections, which no rule can switch off."""
    return (
        _whose(session, snapshot)
        or _STATE_REASONS.get(session.state)
        or _in_doubt(session, snapshot)
    )


def _whose(session: Session, snapshot: Snapshot) -> Reason | None:
    if session.id == snapshot.own_id or session.user in snapshot.own_users:
        return Reason.OWN_ACCOUNT
    if session.state in _NO_CLIENTS:
        return _STATE_REASONS[session.state]
    if session.user in PROVIDER_ACCOUNTS:
        return Reason.PROVIDER_ACCOUNT
    return Reason.SUPERUSER if session.user in snapshot.superusers else None


def _in_doubt(session: Session, snapshot: Snapshot) -> Reason | None:
    """An idle session of which too little is known, or which holds more than its connection."""
    # PostgreSQL shows no user where the role was dropped while its session lives on
    is_nameless = session.user is None and snapshot.engine is not EngineName.POSTGRES
    if is_nameless or (session.idle_seconds is None and session.idle_at_most is None):
        return Reason.UNKNOWN
    if _at_most(session) < snapshot.lag_seconds:
        return Reason.NOT_IDLE_LONG_ENOUGH
    if not session.holds:
        return None
    return next(reason for held, reason in _HOLDING_REASONS.items() if held in session.holds)


def _exclusion(
    rules: Rules, user: str | None, database: str | None, application: str | None, host: str | None
) -> Reason | None:
    """Why protect_* and allow_* spare a session of these names, None where they do not.

    Protection takes precedence, and where a protection cannot be decided the session is spared.
    """
    checks = (
        (user, rules.protect_users, rules.allow_users, matches_name),
        (database or "", rules.protect_databases, rules.allow_databases, matches_name),
        (application, rules.protect_applications, rules.allow_applications, matches_name),
        (host, rules.protect_hosts, rules.allow_hosts, matches_host),
    )
    protected = [matches(value, protect) for value, protect, _, matches in checks if protect]
    if True in protected:
        return Reason.PROTECTED
    if None in protected:
        return Reason.UNKNOWN
    if not all(matches(value, allow) for value, _, allow, matches in checks if allow):
        return Reason.NOT_ALLOWED
    return None


def _in_transaction(session: Session, rules: Rules, under_pressure: bool) -> Reason:
    if rules.in_transaction is InTransaction.SPARE:
        return Reason.IN_TRANSACTION
    if session.rollback_rows > rules.max_rollback_rows:
        return Reason.ROLLBACK_TOO_LARGE
    if session.transaction_seconds is None:
        return Reason.UNKNOWN
    # MySQL's Time begins with the last statement, and the transaction that it began may be younger.
    idle = min(_at_most(session), session.transaction_seconds)
    if idle < rules.in_transaction_seconds:
        return Reason.NOT_IDLE_LONG_ENOUGH
    if session.idle_seconds is None:
        return Reason.UNCONFIRMED
    if rules.only_under_pressure and not under_pressure:
        return Reason.NO_PRESSURE
    return Reason.IDLE_IN_TRANSACTION


def _idle(session: Session, rules: Rules, under_pressure: bool) -> Reason:
    long_enough = _at_most(session) >= rules.idle_seconds
    long_for_pressure = under_pressure and _at_most(session) >= rules.pressure_idle_seconds
    if not (long_enough or long_for_pressure):
        return Reason.NOT_IDLE_LONG_ENOUGH
    if session.idle_seconds is None:
        return Reason.UNCONFIRMED
    if rules.only_under_pressure and not under_pressure:
        return Reason.NO_PRESSURE
    return Reason.IDLE if long_enough else Reason.PRESSURE


def _until_relieved(
    routine: list[Verdict], for_pressure: list[Verdict], excess: Mapping[Scope, float]
) -> tuple[list[Verdict], list[Verdict]]:
    """The chosen: all routine victims, then of those that only pressure condemns as many as are
    needed to reach the target. And those that are left over.
    """
    if not excess:
        return routine, []
    needed = dict(excess)
    chosen, left_over = [], []
    for verdict in [*routine, *for_pressure]:
        scopes = [scope for scope in _scopes(verdict.session) if scope in needed]
        if verdict.reason is Reason.PRESSURE and all(
            needed[scope] <= _ROUNDING for scope in scopes
        ):
            left_over.append(verdict)
            continue
        chosen.append(verdict)
        for scope in scopes:
            needed[scope] -= 1
    return chosen, left_over


def _youngest(sessions: Iterable[Session], count: int) -> set[int]:
    """The ids of each user's `count` least idle sessions."""
    if not count:
        return set()
    idle: dict[str | None, list[Session]] = defaultdict(list)
    for session in sorted(sessions, key=_longest_idle_first):
        if session.state is State.IDLE:
            idle[session.user].append(session)
    return {session.id for of_user in idle.values() for session in of_user[-count:]}


def _scopes(session: Session) -> tuple[Scope, ...]:
    return _scopes_of(session.user, session.database)


@lru_cache(maxsize=4096)
def _scopes_of(user: str | None, database: str | None) -> tuple[Scope, ...]:
    return _SERVER, Scope("user", user), Scope("database", database)


def _at_most(session: Session) -> float:
    """The longest that the session can have been idle; 0 where nothing is known, which the built-in
    protections spare.
    """
    known = session.idle_seconds if session.idle_seconds is not None else session.idle_at_most
    return known or 0.0


def _longest_idle_first(session: Session) -> tuple[float, int]:
    return -_at_most(session), session.id


def matches_name(name: str | None, patterns: Iterable[str]) -> bool | None:
    """Whether a name equals a pattern or fits it as a glob; None where there are patterns and the
    name is not known.
    """
    if name is None:
        return None if any(patterns) else False
    return any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns)


def matches_host(host: str | None, patterns: Iterable[str]) -> bool | None:
    """Whether a host fits an address, a network or a glob; None where that cannot be told.

    A host that the server shows by name may or may not have an address in a network.
    """
    if host is None:
        return None if any(patterns) else False
    found = [_matches_one_host(host, pattern) for pattern in patterns]
    return True if True in found else None if None in found else False


def _matches_one_host(host: str, pattern: str) -> bool | None:
    # Without networks the pattern is a name or a glob.
    if not (networks := _networks(pattern)):
        return fnmatchcase(host.lower(), pattern.lower())
    if host.lower() == pattern:
        return True
    if not (addresses := _addresses(host)):
        return None
    return any(address in network for address in addresses for network in networks)


# Thousands of sessions are compared with the same hundreds of patterns, and parsing an address
# takes microseconds.
_remembered = lru_cache(maxsize=4096)


@_remembered
def _networks(pattern: str) -> tuple[IPv4Network | IPv6Network, ...]:
    return (
        (ip_network(pattern, strict=False),)
        if "/" in pattern
        else tuple(map(ip_network, _addresses(pattern)))
    )


@_remembered
def _addresses(host: str) -> tuple[IPv4Address | IPv6Address, ...]:
    """The addresses that a host spells, none for a name.

    An IPv4 client on an IPv6 socket is shown as ::ffff:10.0.1.15, which is two of them.
    """
    try:
        address = ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        return ()
    mapped = getattr(address, "ipv4_mapped", None)
    return (address, mapped) if mapped else (address,)
