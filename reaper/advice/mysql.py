"""MySQL, MariaDB and Aurora MySQL: time limits, and what the account can see.

They have no setting for TCP keepalives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from reaper.advice.base import (
    IDLE,
    MARIADB_MANUAL,
    MYSQL_MANUAL,
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


def _wait_timeout(seen: Seen) -> Iterator[Finding]:
    value = seen.settings.get(Rule.WAIT_TIMEOUT)
    if value is not None and not is_slightly_above(value):
        yield _setting(seen, Rule.WAIT_TIMEOUT, idle_severity(value), idle_advice(value))


def _interactive_timeout(seen: Seen) -> Iterator[Finding]:
    value = seen.settings.get(Rule.INTERACTIVE_TIMEOUT)
    if value is not None and not is_slightly_above(value):
        whose = "It applies to clients that call themselves interactive, as the mysql shell does."
        yield _setting(
            seen, Rule.INTERACTIVE_TIMEOUT, Severity.LOW, f"{whose} {idle_advice(value)}"
        )


def _setting(seen: Seen, rule: Rule, severity: Severity, why: str) -> Finding:
    value = seen.settings[rule]
    if seen.is_mariadb and not seen.is_managed:
        why += " Set it in the option file as well, under [mariadbd], to keep it over a restart."
    page = f"{MARIADB_MANUAL}server-system-variables/#" if seen.is_mariadb else _VARIABLES
    return Finding(
        rule,
        severity,
        f"{rule} = {value} ({span(value)})",
        why,
        set_global(seen, rule, IDLE),
        page + rule,
    )


def set_global(seen: Seen, name: str, value: int) -> str:
    """The statement that changes a setting, or the entry in a parameter group; on MariaDB it lasts
    until the next start.
    """
    if seen.is_managed:
        return f"parameter group: {name} = {value}"
    return f"SET {'GLOBAL' if seen.is_mariadb else 'PERSIST'} {name} = {value};"


def _performance_schema(seen: Seen) -> Iterator[Finding]:
    if seen.is_mariadb or seen.settings.get("performance_schema") is not False:
        return
    place = "parameter group" if seen.is_managed else "option file, [mysqld]"
    yield Finding(
        Rule.PERFORMANCE_SCHEMA,
        Severity.MEDIUM,
        "performance_schema = OFF",
        "Without it the server does not tell when a statement ended, nor who holds a named lock: "
        "idle times are upper bounds that wait for a second look, and holders of such locks are "
        "not spared. It needs a restart, and some memory.",
        f"{place}: performance_schema = 1",
        f"{MYSQL_MANUAL}performance-schema-startup-configuration.html",
    )


def _unseen(seen: Seen) -> Iterator[Finding]:
    """The tables that the server has and the account may not read."""
    for rule, severity, tables, why, page in _READABLE:
        if seen.settings.get(f"sees_{rule}") is False:
            yield Finding(
                rule,
                severity,
                f"{seen.account} may not read "
                f"{' and '.join(table.rpartition(' ')[2] for table in tables)}",
                why,
                "\n".join(f"GRANT SELECT {table} TO {seen.grantee};" for table in tables),
                MYSQL_MANUAL + page,
            )


_VARIABLES = f"{MYSQL_MANUAL}server-system-variables.html#sysvar_"
_READABLE: Sequence[tuple[Rule, Severity, Sequence[str], str, str]] = (
    (
        Rule.IDLE_UPPER_BOUND,
        Severity.MEDIUM,
        ("ON performance_schema.threads", "ON performance_schema.events_statements_current"),
        "Without these tables a long statement that has just ended looks like a long sleep, so "
        "that the reaper waits for a second look; and it cannot see locks.",
        "performance-schema-events-statements-current-table.html",
    ),
    (
        Rule.NAMED_LOCKS_UNSEEN,
        Severity.MEDIUM,
        ("ON performance_schema.metadata_locks",),
        "Without this table holders of GET_LOCK and LOCK TABLES cannot be seen, so they are not "
        "spared.",
        "performance-schema-metadata-locks-table.html",
    ),
    (
        Rule.TRANSACTIONS_UNSEEN,
        Severity.MEDIUM,
        ("ON performance_schema.events_transactions_current",),
        "Without this table a session that has begun a transaction, and run no statement in it "
        "yet, looks idle.",
        "performance-schema-events-transactions-current-table.html",
    ),
    (
        Rule.USER_LIMITS_UNSEEN,
        Severity.LOW,
        ("(User, max_user_connections) ON mysql.user",),
        "Without this table a user at its own connection limit goes unnoticed, and is not helped.",
        "user-resources.html",
    ),
)

CHECKS: tuple[Check, ...] = (_wait_timeout, _interactive_timeout, _performance_schema, _unseen)
