"""The server's settings that advice is given on, and the connection limits of its users."""

from __future__ import annotations

from collections.abc import Mapping

from reaper.client.drivers.connection import Connection
from reaper.engines.mysql.facts import Facts
from reaper.engines.mysql.locks import GET_LOCKS
from reaper.engines.mysql.queries import query, query_if_allowed
from reaper.engines.mysql.rights import may_kill, own_grants
from reaper.engines.mysql.transactions import GET_BEGUN
from reaper.model import SweepWarning


def read_settings(connection: Connection, facts: Facts) -> Mapping[str, object]:
    """What advice is given on, by the server's own names, times in seconds."""
    (found,) = query(connection, _GET_SETTINGS)
    has_performance_schema = bool(found["performance_schema"])
    settings = found | {
        "performance_schema": has_performance_schema,
        "managed": bool(found["managed"]),
        # The same right brings one slot beyond max_connections
        "can_use_reserved": may_kill(own_grants(connection)),
        "reserved_connections": 1,
        sees(SweepWarning.USER_LIMITS_UNSEEN): read_user_limits(connection) is not None,
    }
    if has_performance_schema and not facts.is_mariadb:
        settings |= {
            sees(SweepWarning.IDLE_UPPER_BOUND): facts.sees_statements,
            sees(SweepWarning.NAMED_LOCKS_UNSEEN): _can_read(connection, GET_LOCKS),
            sees(SweepWarning.TRANSACTIONS_UNSEEN): _can_read(connection, GET_BEGUN),
        }
    return settings


def read_user_limits(connection: Connection) -> dict[str, int] | None:
    """Each user's MAX_USER_CONNECTIONS where it has one; None where that cannot be read."""
    rows = query_if_allowed(connection, _GET_USER_LIMITS)
    return None if rows is None else {row["name"]: int(row["most"]) for row in rows}


def sees(warning: SweepWarning) -> str:
    """The setting that says whether the account sees what it is warned that it might not."""
    return f"sees_{warning}"


def _can_read(connection: Connection, sql: str) -> bool:
    return query_if_allowed(connection, sql) is not None


# The globals: the reaper has set limits of its own for its own session.
_GET_SETTINGS = """
SELECT @@GLOBAL.wait_timeout AS wait_timeout, @@GLOBAL.interactive_timeout AS interactive_timeout,
       @@GLOBAL.max_user_connections AS max_user_connections,
       @@GLOBAL.performance_schema AS performance_schema,
       @@basedir LIKE '/rdsdbbin%' AS managed
"""

_GET_USER_LIMITS = """
SELECT User AS name, MIN(max_user_connections) AS most FROM mysql.user
WHERE max_user_connections > 0 GROUP BY User
"""
