"""What became of a COMMIT whose answer was lost: PostgreSQL remembers, and can be asked."""

from __future__ import annotations

from dataclasses import dataclass

from reaper.client.drivers.base import Connection, Driver

_GET_RIGHT = """
SELECT bool_and(coalesce(has_function_privilege(to_regprocedure(name), 'EXECUTE'), false)) AS allowed
FROM unnest('{pg_current_xact_id_if_assigned(), pg_xact_status(xid8), pg_control_system(), pg_control_checkpoint()}'
            ::text[]) AS name
"""

# The id of the transaction, null where it wrote nothing, and which server's history it belongs to:
# after a failover to a replica that had not got the COMMIT yet the same id may mean another
# transaction.
_GET_TICKET = """
SELECT pg_current_xact_id_if_assigned()::text AS id,
       (SELECT system_identifier FROM pg_control_system())::text AS system,
       (SELECT timeline_id FROM pg_control_checkpoint()) AS timeline
"""
_GET_STATUS = """
SELECT pg_xact_status(%s::text::xid8) AS status,
       (SELECT system_identifier FROM pg_control_system())::text AS system,
       (SELECT timeline_id FROM pg_control_checkpoint()) AS timeline
"""


@dataclass(frozen=True)
class Ticket:
    """What to ask for later, taken within the transaction.

    `id` None: it wrote nothing, so twice is harmless.
    """

    id: str | None
    system: str
    timeline: int


def take(driver: Driver, connection: Connection) -> Ticket | None:
    """A ticket, or none where this account or version may not ask; that is found out once a
    connection.
    """
    if not hasattr(connection, "can_be_asked"):
        # Beforehand: a refused statement would take the transaction with it.
        (row,) = driver.run(connection, _GET_RIGHT).rows
        connection.can_be_asked = row["allowed"]
    if not connection.can_be_asked:
        return None
    (row,) = driver.run(connection, _GET_TICKET).rows
    return Ticket(**row)


def status(driver: Driver, connection: Connection, ticket: Ticket) -> str | None:
    """`committed`, `aborted`, `in progress`; None where this server does not know or is another
    one.
    """
    if ticket.id is None:
        return "aborted"
    (row,) = driver.run(connection, _GET_STATUS, (ticket.id,)).rows
    if (row["system"], row["timeline"]) != (ticket.system, ticket.timeline):
        return None
    found: str | None = row["status"]
    return found
