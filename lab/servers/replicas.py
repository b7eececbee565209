"""Replicas as far as a process list shows: they ask for the log and read none of it."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import psycopg
from pymysql.constants import COMMAND

from .base import Connection, Server
from .mysql import rows
from .sockets import SocketClient

# In nanoseconds; only when it writes does a dump thread see that its replica has gone
HEARTBEAT = 100_000_000


def walsender(server: Server) -> SocketClient:
    """A physical replica of PostgreSQL, streaming from the current position."""
    connection = psycopg.connect(server.dsn("replicator", "", replication="true"), autocommit=True)
    position = connection.pgconn.exec_(b"IDENTIFY_SYSTEM").get_value(0, 2) or b"0/0"
    connection.pgconn.exec_(b"START_REPLICATION PHYSICAL " + position)
    return SocketClient(connection, connection.info.backend_pid, "replicator")


def binlog_dump(server: Server) -> SocketClient:
    """A replica of MySQL or MariaDB; it needs the binary log."""
    connection = server.connect("replicator", "")
    prefixes = ("master", "source") if server.flavour == "mysql" else ("master",)
    for prefix in prefixes:
        rows(
            connection,
            f"SET @{prefix}_binlog_checksum = 'NONE', @{prefix}_heartbeat_period = {HEARTBEAT}",
        )
    session = connection.thread_id()
    connection._execute_command(
        COMMAND.COM_REGISTER_SLAVE, struct.pack("<IBBBHII", session, 0, 0, 0, 0, 0, 0)
    )
    connection._read_packet()
    from_the_first_file = struct.pack("<IHI", 4, 0, session)
    connection._execute_command(COMMAND.COM_BINLOG_DUMP, from_the_first_file)
    return SocketClient(Dump(connection), session, "replicator")


@dataclass(frozen=True)
class Dump:
    """The socket of a PyMySQL connection, which would close it when it is no longer referenced
    itself.
    """

    connection: Connection

    def fileno(self) -> int:
        return int(self.connection._sock.fileno())

    def close(self) -> None:
        self.connection._force_close()
