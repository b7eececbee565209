"""Whether max_connections fits into the memory, and whether a slot is left for the reaper."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from reaper.advice.base import (
    AWS_MANUAL,
    MYSQL_MANUAL,
    POSTGRES_MANUAL,
    Check,
    Finding,
    Rule,
    Seen,
    Severity,
)
from reaper.advice.mysql import set_global
from reaper.model import KillMethod, SweepWarning

# Slots to leave free, for the reaper and for people who look into the problem
_SLOTS_LEFT = 3


def _max_connections(seen: Seen) -> Iterator[Finding]:
    most = seen.snapshot.max_connections
    if most is None or seen.fitting is None or most <= seen.fitting:
        return
    statement = set_global(seen, "max_connections", seen.fitting)
    if seen.is_postgres and not seen.is_managed:
        statement = f"ALTER SYSTEM SET max_connections = {seen.fitting};"
    yield Finding(
        Rule.MAX_CONNECTIONS,
        Severity.MEDIUM,
        f"max_connections = {most}; the memory is enough for {seen.fitting}, by the formula of RDS",
        "Every connection takes memory, and a server that has none left ends them all."
        + (" It needs a restart." if seen.is_postgres else ""),
        statement,
        f"{AWS_MANUAL}CHAP_Limits.html#RDS_Limits.MaxConnections",
    )


def _connection_limit(seen: Seen) -> Iterator[Finding]:
    usable = seen.snapshot.usable
    limits_are_hidden = seen.settings.get(f"sees_{SweepWarning.USER_LIMITS_UNSEEN}") is False
    if usable is None or limits_are_hidden or not seen.clients:
        return
    if _has_own_slot(seen) or _leaves_a_slot(seen):
        return
    unlimited = _unlimited(seen)
    yield Finding(
        Rule.CONNECTION_LIMIT,
        Severity.MEDIUM,
        f"{_lacking_limit(seen, unlimited)}; {usable} connections in all",
        "Nothing keeps a slot free for the reaper. Limits that add up to less than all slots do, "
        "and no user can take what the others need."
        + ("" if seen.is_postgres else " The host in the account's name may be another."),
        _limit_statements(seen, unlimited or seen.users, usable),
        f"{POSTGRES_MANUAL}sql-alterrole.html"
        if seen.is_postgres
        else f"{MYSQL_MANUAL}user-resources.html",
    )


def _lacking_limit(seen: Seen, unlimited: Sequence[str]) -> str:
    if not unlimited:
        return f"the limits add up to {_most(seen, seen.users)}"
    kind = "CONNECTION LIMIT" if seen.is_postgres else "MAX_USER_CONNECTIONS"
    return f"no {kind} for {', '.join(unlimited)}"


def _limit_statements(seen: Seen, users: Sequence[str], usable: int) -> str:
    """Limits for these users: the same part each of what the others leave."""
    others = _most(seen, [user for user in seen.users if user not in users])
    share = max(1, (usable - _SLOTS_LEFT - others) // len(users))
    return "\n".join(_limit_statement(seen, user, share) for user in users)


def _limit_statement(seen: Seen, user: str, share: int) -> str:
    if seen.is_postgres:
        return f"ALTER ROLE {seen.quoted(user)} CONNECTION LIMIT {share};"
    return f"ALTER USER {seen.quoted(user)} WITH MAX_USER_CONNECTIONS {share};"


def _reserved_slot(seen: Seen) -> Iterator[Finding]:
    if _has_own_slot(seen) or _leaves_a_slot(seen):
        return
    if seen.is_postgres:
        yield from _reserved_in_postgres(seen)
    # Not where a procedure was chosen in order to do without that right, nor where the account
    # cannot terminate at all, since that finding names the same right.
    elif seen.method is KillMethod.RDS_KILL and seen.can_grant_connection_admin:
        right, source = seen.connection_admin
        yield Finding(
            Rule.RESERVED_SLOT,
            Severity.MEDIUM,
            f"{seen.account} has no {right}",
            "With this right the reaper gets in by the one slot beyond max_connections when the "
            "database is full.",
            f"GRANT {right} ON *.* TO {seen.grantee};",
            source,
        )


def _reserved_in_postgres(seen: Seen) -> Iterator[Finding]:
    reserved = seen.settings.get("reserved_connections")
    may_use = seen.settings.get("can_use_reserved")
    # Before PostgreSQL 16 there are none, and on RDS only the provider can reserve any.
    if reserved is None or may_use is None or (seen.is_managed and not reserved):
        return
    statements = [] if reserved else ["ALTER SYSTEM SET reserved_connections = 2;"]
    if not may_use:
        statements.append(f"GRANT pg_use_reserved_connections TO {seen.grantee};")
    yield Finding(
        Rule.RESERVED_SLOT,
        Severity.MEDIUM,
        f"reserved_connections = {reserved}; {seen.account} {'may' if may_use else 'may not'} use "
        "such slots",
        "A reserved slot lets the reaper in when the database is full."
        + ("" if reserved else " reserved_connections needs a restart."),
        "\n".join(statements),
        f"{POSTGRES_MANUAL}runtime-config-connection.html#GUC-RESERVED-CONNECTIONS",
    )


_OWN_SLOTS = (
    ("is_superuser", "superuser_reserved_connections"),
    ("can_use_reserved", "reserved_connections"),
    ("can_use_rds_reserved", "rds_reserved_connections"),
)


def _has_own_slot(seen: Seen) -> bool:
    """Whether the reaper gets in where an ordinary client is refused."""
    return any(seen.settings.get(right) and seen.settings.get(slots) for right, slots in _OWN_SLOTS)


def _limit_of(seen: Seen, user: str) -> int:
    """How many simultaneous connections a user may have, 0 for any number."""
    return seen.snapshot.user_limits.get(user) or seen.settings.get("max_user_connections") or 0


def _unlimited(seen: Seen) -> list[str]:
    """The connected users that may take every slot: they have no limit of their own, and use a
    database that has none.
    """
    limited = seen.snapshot.database_limits
    return sorted(
        {
            user
            for user, database in seen.clients
            if not _limit_of(seen, user) and database not in limited
        }
    )


def _most(seen: Seen, users: Collection[str]) -> int:
    """The slots that these users can take together, by their limits and by their databases'."""
    databases = {
        database for user, database in seen.clients if user in users and not _limit_of(seen, user)
    }
    by_database = sum(
        limit for name, limit in seen.snapshot.database_limits.items() if name in databases
    )
    return by_database + sum(_limit_of(seen, user) for user in users)


def _leaves_a_slot(seen: Seen) -> bool:
    """Whether the connected users together cannot take every slot."""
    if not seen.clients or _unlimited(seen) or seen.snapshot.usable is None:
        return False
    return _most(seen, seen.users) < seen.snapshot.usable


CHECKS: tuple[Check, ...] = (_max_connections, _connection_limit, _reserved_slot)
