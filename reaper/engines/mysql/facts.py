"""What a server is, and what does not change while a connection to it lives."""

from __future__ import annotations

from dataclasses import dataclass

from reaper.client.drivers.connection import Connection
from reaper.engines.mysql import statements
from reaper.engines.mysql.queries import query
from reaper.model import Flavour


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

    @property
    def is_mariadb(self) -> bool:
        """Whether it is MariaDB."""
        return self.flavour is Flavour.MARIADB

    @property
    def user(self) -> str:
        """The reaper's own user, without its host."""
        return self.current_user.rpartition("@")[0]


def read_facts(connection: Connection) -> Facts:
    """Ask the server what it is. Sets the session's time zone, which `Transactions` relies on."""
    # InnoDB writes trx_started in the system's zone, whatever zone the server or a session is
    # set to.
    query(connection, "SET time_zone = 'SYSTEM'")
    (row,) = query(connection, _GET_FACTS)
    aurora = query(connection, "SHOW GLOBAL VARIABLES LIKE 'aurora_version'")
    flavour = _flavour(row["version"], is_aurora=bool(aurora))
    has_statements = bool(row["performance_schema"]) and flavour is not Flavour.MARIADB
    return Facts(
        flavour=flavour,
        server=row["server"],
        connection_id=row["connection_id"],
        current_user=row["current_user"],
        max_connections=row["max_connections"],
        sees_statements=has_statements and statements.can_be_read(connection),
    )


def read_counters(connection: Connection) -> dict[str, int]:
    """Threads_connected and Uptime, in seconds."""
    rows = query(
        connection, "SHOW GLOBAL STATUS WHERE Variable_name IN ('Threads_connected', 'Uptime')"
    )
    return {row["Variable_name"]: int(row["Value"]) for row in rows}


def _flavour(version: str, *, is_aurora: bool) -> Flavour:
    if "mariadb" in version.lower():
        return Flavour.MARIADB
    return Flavour.AURORA_MYSQL if is_aurora else Flavour.MYSQL


_GET_FACTS = """
SELECT VERSION() AS version, CONNECTION_ID() AS connection_id, CURRENT_USER() AS `current_user`,
       @@GLOBAL.max_connections AS max_connections,
       @@GLOBAL.performance_schema AS performance_schema,
       CONCAT_WS(':', @@hostname, @@port, @@server_id) AS server
"""
