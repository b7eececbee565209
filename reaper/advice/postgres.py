"""PostgreSQL and Aurora PostgreSQL: time limits and keepalives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from reaper.advice.base import (
    IDLE,
    LONGEST_IDLE,
    POSTGRES_MANUAL,
    Check,
    Finding,
    Rule,
    Seen,
    Severity,
    idle_advice,
    idle_severity,
    is_slightly_above,
)
from reaper.report import span

# Seconds
IN_TRANSACTION = 300
# Seconds; Lambda's own limit, so no function's transaction can be older
LONGEST_INVOCATION = 900
KEEPALIVES = {"tcp_keepalives_idle": 300, "tcp_keepalives_interval": 60, "tcp_keepalives_count": 6}

# With more roles than this, one statement for all instead of one for each
_ROLES_NAMED = 5


@dataclass(frozen=True)
class _Limit:
    """A time limit that the server, a database and a role can set, in seconds and 0 for none; what
    it should be, and why.
    """

    rule: Rule
    wanted: int
    is_right: Callable[[float], bool]
    severity: Callable[[float], Severity]
    why: Callable[[float], str]
    only_for_roles: bool = False


def _is_within_an_invocation(seconds: float) -> bool:
    return 0 < seconds <= LONGEST_INVOCATION


_LIMITS = (
    _Limit(
        Rule.IDLE_SESSION_TIMEOUT,
        IDLE,
        is_slightly_above,
        idle_severity,
        idle_advice,
    ),
    _Limit(
        Rule.IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
        IN_TRANSACTION,
        _is_within_an_invocation,
        lambda seconds: Severity.MEDIUM if seconds else Severity.HIGH,
        lambda _: (
            "A function that is frozen or cut off in a transaction keeps its locks, and VACUUM "
            "waits for it."
        ),
    ),
    _Limit(
        Rule.TRANSACTION_TIMEOUT,
        LONGEST_INVOCATION,
        _is_within_an_invocation,
        lambda _: Severity.LOW,
        lambda _: (
            f"Lambda ends an invocation after {span(LONGEST_INVOCATION)} at most, so nobody waits "
            "for an older transaction of a function. Leave out the roles of people and of long "
            "jobs."
        ),
        # Set for all, it would end dumps and maintenance as well; the manual says so
        only_for_roles=True,
    ),
)


def _limits(seen: Seen) -> Iterator[Finding]:
    for limit in _LIMITS:
        wrong = [found for found in _values(seen, limit.rule) if not limit.is_right(found[1])]
        if wrong and (seen.clients or not limit.only_for_roles):
            yield _finding(seen, limit, wrong)


def _values(seen: Seen, name: str) -> Iterator[tuple[str, float]]:
    """The setting as it applies to each user who is connected, with the user; the server's own
    where nobody is.

    A role's setting in one database takes precedence over the role's, that over the database's, and
    all of them over the server's. Where nobody is connected, but roles or databases have a setting
    of their own, the server's says little and is left out.
    """
    settings = [found for found in seen.settings.get("role_settings", ()) if found["name"] == name]
    own = {(found["role"], found["database"]): found["seconds"] for found in settings}
    nobody = [] if own else [("", None)]
    for user, database in sorted(seen.clients, key=str) or nobody:
        places = ((user, database), (user, ""), ("", database), ("", ""))
        value = next((own[place] for place in places if place in own), seen.settings.get(name))
        if value is not None:
            yield user, value


def _finding(seen: Seen, limit: _Limit, wrong: list[tuple[str, float]]) -> Finding:
    rule, users = limit.rule, sorted({user for user, _ in wrong if user})
    worst = min((value for _, value in wrong), key=lambda value: (value > 0, -value))
    why = limit.why(worst)
    if users and (len(users) <= _ROLES_NAMED or limit.only_for_roles):
        why += (
            " Set for roles, it applies from their next login on, and does not affect others, such "
            "as pools on servers."
        )
        statement = "\n".join(
            f"ALTER ROLE {seen.quoted(user)} SET {rule} = '{limit.wanted}s';" for user in users
        )
    else:
        in_milliseconds = {rule.value: 1000 * limit.wanted}
        statement = _for_all(seen, {rule.value: f"{limit.wanted}s"}, in_milliseconds)
    shown = f"{worst:g}s ({span(worst)})" if worst else "0 (no limit)"
    page = "runtime-config-client.html#GUC-" + rule.upper().replace("_", "-")
    return Finding(
        rule,
        limit.severity(worst),
        f"{rule} = {shown}" + (f" for {', '.join(users)}" if users else ""),
        why,
        statement,
        POSTGRES_MANUAL + page,
    )


def _tcp_keepalives(seen: Seen) -> Iterator[Finding]:
    idle, interval, count = (seen.settings.get(name) or 0 for name in KEEPALIVES)
    after = idle + interval * count
    if not idle or after <= LONGEST_IDLE:
        return
    yield Finding(
        Rule.TCP_KEEPALIVES,
        Severity.LOW,
        f"{idle} s, then {count} times {interval} s: a client that vanished is noticed after "
        f"{span(after)}",
        "A client whose machine vanished without closing the connection holds its slot, and its "
        "locks, until then.",
        _for_all(seen, {name: str(value) for name, value in KEEPALIVES.items()}, KEEPALIVES),
        f"{POSTGRES_MANUAL}runtime-config-connection.html#GUC-TCP-KEEPALIVES-IDLE",
    )


def _for_all(seen: Seen, values: Mapping[str, str], in_group: Mapping[str, int]) -> str:
    if seen.is_managed:
        return "\n".join(f"parameter group: {name} = {value}" for name, value in in_group.items())
    lines = [f"ALTER SYSTEM SET {name} = '{value}';" for name, value in values.items()]
    return "\n".join([*lines, "SELECT pg_reload_conf();"])


CHECKS: tuple[Check, ...] = (_limits, _tcp_keepalives)
