"""What a server is, and what does not change while a connection to it lives."""

from __future__ import annotations

from dataclasses import dataclass

from reaper.client.drivers.connection import Connection
from reaper.engines.mysql import statements
from reaper.engines.mysql.queries import query
from reaper.model import Flavour

# Above 0 since the server's start, some holders of locks do not show, and never will.
LOCKS_LOST = "Performance_schema_metadata_lock_lost"


@dataclass(frozen=True)
class Facts:
    """What does not change while a connection lives."""

    flavour: Flavour
    # Names this server, where the address may lead to another one next time
    server: str
    connection_id: int
    # As user@host
    current_user: str
    max_connections: int
    # performance_schema is on and may be read, so idle times are exact. Never on MariaDB, whose
    # process list is exact by itself.
    sees_statements: bool
    # performance_schema is on, whatever of it plays and may be read
    has_performance_schema: bool

    @property
    def is_mariadb(self) -> bool:
        """Whether it is MariaDB."""
        return self.flavour is Flavour.MARIADB

    @property
    def user(self) -> str:
        """The reaper's own user, without its host."""
        return self.current_user.rpartition("@")[0]


def read_facts(connection: Connection) -> Facts:
    """Ask the server what it is.

    Brings the session settings first that every statement here relies on: a server's own defaults,
    or its init_connect, would hide rows, end transactions or change what SQL means.
    """
    query(connection, _SETTLE)
    (row,) = query(connection, _GET_FACTS)
    aurora = query(connection, "SHOW GLOBAL VARIABLES LIKE 'aurora_version'")
    flavour = _flavour(row["version"], is_aurora=bool(aurora))
    query(connection, _SETTLE_MARIADB if flavour is Flavour.MARIADB else _SETTLE_MYSQL)
    has_statements = bool(row["performance_schema"]) and flavour is not Flavour.MARIADB
    return Facts(
        flavour=flavour,
        server=row["server"],
        connection_id=row["connection_id"],
        current_user=row["current_user"],
        max_connections=row["max_connections"],
        sees_statements=has_statements and statements.can_be_read(connection),
        has_performance_schema=bool(row["performance_schema"]),
    )


def read_counters(connection: Connection) -> dict[str, int]:
    """Threads_connected, Uptime in seconds, and how many metadata locks performance_schema lost."""
    names = ", ".join(f"'{name}'" for name in ("Threads_connected", "Uptime", LOCKS_LOST))
    rows = query(connection, f"SHOW GLOBAL STATUS WHERE Variable_name IN ({names})")
    return {row["Variable_name"]: int(row["Value"]) for row in rows}


def _flavour(version: str, *, is_aurora: bool) -> Flavour:
    if "mariadb" in version.lower():
        return Flavour.MARIADB
    return Flavour.AURORA_MYSQL if is_aurora else Flavour.MYSQL


# InnoDB writes trx_started in the system's zone, whatever zone the server or a session is set to.
# A server-wide sql_select_limit would hide sessions and their transactions.
_SETTLE = """
SET time_zone = 'SYSTEM', sql_mode = '', sql_select_limit = 18446744073709551615,
    completion_type = 0, group_concat_max_len = 1048576, sql_safe_updates = 0
"""
# Other levels ignore WITH CONSISTENT SNAPSHOT, by which a list of transactions is dated.
_SETTLE_MYSQL = "SET max_execution_time = 0, transaction_isolation = 'REPEATABLE-READ'"
_SETTLE_MARIADB = "SET max_statement_time = 0, tx_isolation = 'REPEATABLE-READ'"
_GET_FACTS = """
SELECT VERSION() AS version, CONNECTION_ID() AS connection_id, CURRENT_USER() AS `current_user`,
       @@GLOBAL.max_connections AS max_connections,
       @@GLOBAL.performance_schema AS performance_schema,
       CONCAT_WS(':', @@hostname, @@port, @@server_id) AS server
"""
