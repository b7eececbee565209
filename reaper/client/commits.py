"""What became of a COMMIT whose answer was lost: PostgreSQL remembers, and can be asked."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from reaper.client.drivers.connection import Connection

# Everything is named with its schema: whoever may create functions or operators in one that is
# searched first would have them run as the application.
_GET_RIGHT = """
SELECT pg_catalog.bool_and(coalesce(
  pg_catalog.has_function_privilege(pg_catalog.to_regprocedure(name), 'EXECUTE'), false
)) AS allowed
FROM pg_catalog.unnest(ARRAY[
  'pg_catalog.pg_current_xact_id_if_assigned()', 'pg_catalog.pg_xact_status(xid8)',
  'pg_catalog.pg_control_system()', 'pg_catalog.pg_control_checkpoint()'
]::pg_catalog.text[]) AS name
"""

# The id of the transaction, null where it wrote nothing, and which server's history it belongs to:
# after a failover to a replica that had not got the COMMIT yet the same id may mean another
# transaction.
_GET_PROBE = """
SELECT pg_catalog.pg_current_xact_id_if_assigned()::pg_catalog.text AS id,
       (SELECT system_identifier FROM pg_catalog.pg_control_system())::pg_catalog.text AS system,
       (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()) AS timeline
"""
_GET_STATUS = """
SELECT pg_catalog.pg_xact_status(%s::pg_catalog.text::pg_catalog.xid8) AS status,
       (SELECT system_identifier FROM pg_catalog.pg_control_system())::pg_catalog.text AS system,
       (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()) AS timeline
"""


class CommitOutcome(StrEnum):
    """What a server says of a transaction, in PostgreSQL's words (pg_xact_status)."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    IN_PROGRESS = "in progress"


@dataclass(frozen=True)
class XactStatusProbe:
    """What to ask pg_xact_status for later, read within the transaction.

    `id` is None where the transaction wrote nothing, so that running it twice is harmless.
    """

    id: str | None
    system: str
    timeline: int

    @classmethod
    def prepare(cls, connection: Connection) -> XactStatusProbe | None:
        """A probe for the open transaction; None where this account or version may not ask, which
        is found out once a connection.
        """
        if connection.can_ask_commits is None:
            # Asked beforehand: a refused statement would end the transaction.
            (row,) = connection.run(_GET_RIGHT).rows
            connection.can_ask_commits = bool(row["allowed"])
        if not connection.can_ask_commits:
            return None
        (row,) = connection.run(_GET_PROBE).rows
        return cls(**row)

    def outcome(self, connection: Connection) -> CommitOutcome | None:
        """What became of the transaction; None where this server does not know, or is another
        one.
        """
        if self.id is None:
            return CommitOutcome.ABORTED
        (row,) = connection.run(_GET_STATUS, (self.id,)).rows
        if (row["system"], row["timeline"]) != (self.system, self.timeline):
            return None
        return None if row["status"] is None else CommitOutcome(row["status"])
