"""The lock that keeps two sweeps apart, and the locks that others hold outside of transactions."""

from __future__ import annotations

from collections.abc import Collection

from reaper.client.drivers.connection import Connection
from reaper.engines.base import Holder
from reaper.engines.mysql.facts import Facts
from reaper.engines.mysql.lists import ProcessList
from reaper.engines.mysql.queries import query, query_if_allowed
from reaper.engines.rows import Fetched, number

# Named locks are the whole server's, so its own name need not be in it
_LOCK = "reaper.sweep"


def take_lock(connection: Connection) -> bool:
    """Take the sweep's lock without waiting for it; whether it was free."""
    (row,) = query(connection, f"SELECT GET_LOCK('{_LOCK}', 0) AS taken")
    return bool(row["taken"])


def release_lock(connection: Connection) -> None:
    """Release the sweep's lock."""
    query(connection, f"SELECT RELEASE_LOCK('{_LOCK}')")


def lock_holder(connection: Connection, facts: Facts, lists: ProcessList) -> Holder | None:
    """Who holds the sweep's lock, where that can be seen."""
    (held,) = query(connection, f"SELECT IS_USED_LOCK('{_LOCK}') AS id")
    if held["id"] is None:
        return None
    rows = lists.read([held["id"]])
    return next((Holder(r["Id"], r["User"] == facts.user, _asleep(r)) for r in rows), None)


def held_locks(
    connection: Connection, facts: Facts, in_transaction: Collection[int]
) -> list[Fetched] | None:
    """Locks that outlive transactions: GET_LOCK, LOCK TABLES, FLUSH TABLES WITH READ LOCK, HANDLER.

    None where they cannot be seen, which is so unless a lock of our own shows in the same look.
    `in_transaction` are the sessions with an open transaction, which holds locks of its own on
    every table that it touched; those do not count.
    """
    if not facts.has_performance_schema:
        return None
    probe = f"reaper.look.{facts.connection_id:d}"
    query(connection, f"SELECT GET_LOCK('{probe}', 0)")
    try:
        rows = query_if_allowed(connection, GET_LOCKS)
    finally:
        query(connection, f"SELECT RELEASE_LOCK('{probe}')")
    if not any(_is_ours(row, facts) for row in rows or ()):
        return None
    rows = [row for row in rows or () if row["processlist_id"] != facts.connection_id]
    return [
        {"processlist_id": row["processlist_id"]}
        for row in rows
        if row["is_named"] or row["processlist_id"] not in in_transaction
    ]


def _is_ours(row: Fetched, facts: Facts) -> bool:
    return bool(row["processlist_id"] == facts.connection_id and row["is_named"])


def _asleep(row: Fetched) -> float | None:
    return number(row["Time"]) if row["Command"] == "Sleep" else None


# One session can hold tens of thousands of locks: they become one or two rows before any join.
GET_LOCKS = """
SELECT t.PROCESSLIST_ID AS processlist_id, l.is_named
FROM (SELECT DISTINCT OWNER_THREAD_ID, OBJECT_TYPE = 'USER LEVEL LOCK' AS is_named
        FROM performance_schema.metadata_locks WHERE LOCK_STATUS = 'GRANTED') AS l
JOIN performance_schema.threads AS t ON t.THREAD_ID = l.OWNER_THREAD_ID
WHERE t.PROCESSLIST_COMMAND = 'Sleep' OR t.PROCESSLIST_ID = CONNECTION_ID()
"""
