"""What this account may do to the sessions of others."""

from __future__ import annotations

import re
from collections.abc import Iterable

from reaper.client.drivers.connection import Connection
from reaper.engines.mysql import kill_if_idle
from reaper.engines.mysql.queries import query
from reaper.model import KillMethod


def kill_method(connection: Connection) -> KillMethod | None:
    """How this account terminates sessions here, None where it may not."""
    if _has_procedure(connection, kill_if_idle.SCHEMA, kill_if_idle.ROUTINE):
        return KillMethod.KILL_IF_IDLE
    if may_kill(own_grants(connection)):
        return KillMethod.KILL
    return KillMethod.RDS_KILL if _has_procedure(connection, "mysql", "rds_kill") else None


def own_grants(connection: Connection) -> list[str]:
    """What SHOW GRANTS says of this account."""
    return [str(value) for row in query(connection, "SHOW GRANTS") for value in row.values()]


def may_kill(grants: Iterable[str]) -> bool:
    """Whether SHOW GRANTS names the right to KILL the sessions of others, directly or by an active
    role.
    """
    # Before a name in quotes, which may hold these words.
    right = r"GRANT [^`'\"]*\b(CONNECTION[_ ]ADMIN|SUPER|ALL PRIVILEGES)\b[^`'\"]* ON \*\.\* TO"
    return any(re.match(right, grant, re.IGNORECASE) for grant in grants)


def _has_procedure(connection: Connection, schema: str, routine: str) -> bool:
    return bool(query(connection, _GET_PROCEDURE.format(schema=schema, routine=routine)))


# Those that this account may execute. Only SECURITY DEFINER procedures: one that runs with the
# caller's rights could have been planted to borrow ours.
_GET_PROCEDURE = """
SELECT 1 FROM information_schema.routines
WHERE routine_schema = '{schema}' AND routine_name = '{routine}' AND security_type = 'DEFINER'
"""
