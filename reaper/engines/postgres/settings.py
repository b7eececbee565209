"""The server's settings that advice is given on, and those of its roles and databases."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from reaper.engines.rows import Fetched, whole

Query = Callable[[str], list[Fetched]]


def read_settings(query: Query) -> Mapping[str, object]:
    """What advice is given on, by the server's own names, times in seconds.

    `role_settings` are the time limits set for roles and databases, an empty name standing for all.
    """
    (account,) = query(_GET_ACCOUNT)
    of_roles = [row | {"seconds": in_seconds(row["value"])} for row in query(_GET_ROLE_SETTINGS)]
    # What pg_settings shows of those is this account's own value, and not the server's.
    own = {
        row["name"] for row in of_roles if row["role"] in (account["role"], "") and row["is_here"]
    }
    of_server = {
        row["name"]: whole(row["value"]) for row in query(_GET_SETTINGS) if row["name"] not in own
    }
    return of_server | account | {"role_settings": of_roles}


def in_seconds(given: str) -> float | None:
    """A time limit as somebody wrote it for a role: 660s, 11min, or milliseconds without a unit.

    None for anything else.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *(us|ms|s|min|h|d)?", given.strip())
    return float(found[1]) * _UNITS[found[2] or "ms"] if found else None


_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1, "min": 60, "h": 3600, "d": 86400}

_GET_ACCOUNT = """
SELECT session_user::text AS role,
       (SELECT rolsuper FROM pg_roles WHERE rolname = session_user) AS is_superuser,
       pg_has_role(session_user, 'pg_signal_backend', 'USAGE') AS can_signal,
       (SELECT pg_has_role(session_user, oid, 'USAGE')
          FROM pg_roles WHERE rolname = 'pg_use_reserved_connections') AS can_use_reserved,
       (SELECT pg_has_role(session_user, oid, 'USAGE')
          FROM pg_roles WHERE rolname = 'rds_superuser') AS can_use_rds_reserved,
       coalesce(nullif(current_setting('rds.rds_reserved_connections', true), ''),
                nullif(current_setting('rds.rds_superuser_reserved_connections', true), ''))::int
         AS rds_reserved_connections,
       current_setting('rds.extensions', true) IS NOT NULL AS managed
"""

# As they were before this session set its own. Keepalives are those of this connection, since 0
# stands for the operating system's.
_GET_SETTINGS = """
SELECT name,
       CASE unit WHEN 'ms' THEN ceil(reset_val::float8 / 1000) ELSE setting::float8 END AS value
FROM pg_settings
WHERE name IN ('idle_session_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout',
               'tcp_keepalives_idle', 'tcp_keepalives_interval', 'tcp_keepalives_count',
               'superuser_reserved_connections', 'reserved_connections')
"""

_GET_ROLE_SETTINGS = """
SELECT coalesce(rolname::text, '') AS role, coalesce(datname::text, '') AS database,
       split_part(entry, '=', 1) AS name, substr(entry, strpos(entry, '=') + 1) AS value,
       coalesce(datname, current_database()) = current_database() AS is_here
FROM pg_db_role_setting LEFT JOIN pg_roles ON pg_roles.oid = setrole
LEFT JOIN pg_database ON pg_database.oid = setdatabase CROSS JOIN unnest(setconfig) AS entry
WHERE split_part(entry, '=', 1)
      IN ('idle_session_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout')
"""
