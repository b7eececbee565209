"""MariaDB and MySQL: those installed on this machine, or any that a DSN names."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path

import pymysql
from pymysql.constants import COMMAND

from . import processes
from .base import Client, Connection, Once, Rows, Server, Unavailable, launched
from .sockets import hung_up

SETTINGS = {
    "bind_address": "127.0.0.1",
    # In the data folder; a full path may be too long for a socket
    "socket": "mysqld.sock",
    "pid_file": "mysqld.pid",
    "skip_name_resolve": "ON",
    "innodb_buffer_pool_size": "64M",
    "innodb_flush_log_at_trx_commit": "2",
    "innodb_flush_method": "nosync",
    "log_bin": "binlog",
    "sync_binlog": "0",
    "server_id": "1",
    "max_connections": "300",
}
MYSQL_SETTINGS = {"mysqlx": "OFF", "secure_file_priv": "NULL", "innodb_redo_log_capacity": "8M"}
MARIADB_SETTINGS = {"innodb_log_file_size": "8M"}

FIRST = (
    "CREATE USER IF NOT EXISTS root@'%'; GRANT ALL PRIVILEGES ON *.* TO root@'%' WITH GRANT OPTION;"
)

ACCOUNTS = {
    "app": ["ALL ON shop.*"],
    "other": ["ALL ON shop.*"],
    "reaper": ["PROCESS ON *.*", "{connection_admin} ON *.*"],
    "reaper_rds": ["PROCESS ON *.*", "EXECUTE ON PROCEDURE mysql.rds_kill"],
    "norights": ["PROCESS ON *.*"],
    "blind": [],
    "rdsadmin": [],
    "replicator": ["REPLICATION SLAVE ON *.*"],
}
SCHEMA_TABLES = (
    "threads",
    "events_statements_current",
    "events_transactions_current",
    "metadata_locks",
    "session_connect_attrs",
)

# The procedure as RDS publishes it, except for the host: there rdsadmin logs in from localhost,
# here from 127.0.0.1.
RDS_KILL = """
CREATE PROCEDURE mysql.rds_kill(IN thread BIGINT) SQL SECURITY DEFINER READS SQL DATA
BEGIN
  DECLARE l_user VARCHAR(32);
  DECLARE l_host VARCHAR(64);
  DECLARE foo VARCHAR(255);
  SELECT user, host INTO l_user, l_host FROM information_schema.processlist WHERE id = thread;
  IF l_user IN ('rdsadmin', 'rdsrepladmin') THEN
    SELECT `ERROR (RDS): CANNOT KILL RDSADMIN SESSION` INTO foo;
  ELSE
    KILL thread;
  END IF;
END
"""
SHOP = (
    "CREATE TABLE IF NOT EXISTS shop.items (id INT PRIMARY KEY, value INT NOT NULL) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS shop.scratch (value INT NOT NULL) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS shop.gate (id INT PRIMARY KEY) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS shop.stock (id INT PRIMARY KEY) ENGINE=InnoDB",
    "INSERT IGNORE INTO shop.items VALUES " + ", ".join(f"({item}, 0)" for item in range(1, 101)),
    "INSERT IGNORE INTO shop.gate VALUES (1)",
)
# It exists already, or the administrator of a managed server may not grant this; the tests do
# without it there.
TOLERATED = {1304, 1044, 1045, 1142, 1146, 1227, 1410}


class MySQL:
    """One server program and the settings that make it what it is."""

    engine = "mysql"
    root = "root"
    stop_signal = signal.SIGTERM
    # One process and throwaway data, so SIGKILL loses nothing
    abort_signal = signal.SIGKILL
    errors: tuple[type[Exception], ...] = (pymysql.err.Error,)

    def __init__(
        self,
        flavour: str,
        program: str = "",
        settings: Mapping[str, str] | None = None,
        template: Callable[[], Path] | None = None,
    ) -> None:
        self.flavour = flavour
        self.program = program
        self.settings = {**SETTINGS, **(settings or {})}
        self.template = template or Once(self._make_template)

    def _make_template(self) -> Path:
        """Make a data folder with the accounts in it."""
        data = processes.run().folder / f"template-{self.flavour}"
        data.mkdir()
        self._initialise(data)
        first = data / "first.sql"
        first.write_text(FIRST)
        with launched(
            "template", self, data, {"init_file": "first.sql", "log_bin": "OFF"}
        ) as server:
            self.install(server)
            server.halt()
            assert server.folder is not None
            shutil.rmtree(data)
            (server.folder / "data").rename(data)
        # Every copy then generates its own @@server_uuid
        (data / "auto.cnf").unlink(missing_ok=True)
        return data

    def _initialise(self, data: Path) -> None:
        settings = {key: value for key, value in self.settings.items() if key != "log_bin"}
        mode, statements = ("--initialize-insecure", "")
        if self.flavour == "mariadb":
            mode, statements = ("--bootstrap", mariadb_system_tables(self.program))
        command = self._program(data, settings, mode)
        done = subprocess.run(
            command, input=statements, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise Unavailable(
                f"{self.flavour}: no data folder: {' '.join(done.stderr.split())[-300:]}"
            )

    def _program(self, data: Path, settings: Mapping[str, str], *more: str) -> list[str]:
        # A starting MariaDB deletes the files of every server that shares the folder
        scratch = data.with_name(data.name + "-tmp")
        scratch.mkdir(exist_ok=True)
        fixed = [
            self.program,
            "--no-defaults",
            f"--datadir={data}",
            f"--tmpdir={scratch}",
            *as_root(),
            *more,
        ]
        if self.flavour == "mysql":
            fixed.append(f"--basedir={base_folder(Path(self.program))}")
        return [*fixed, *(f"--{key}={value}" for key, value in settings.items())]

    def command(self, data: Path, port: int, settings: Mapping[str, str]) -> list[str]:
        return self._program(data, {**self.settings, "port": str(port), **settings})

    def discard(self, data: Path) -> None:
        """Nothing to do: all of it lies in its folder."""

    def connect(
        self, server: Server, user: str, database: str, application: str | None
    ) -> Connection:
        return pymysql.connect(
            host=server.host,
            port=server.port,
            user=user,
            password=server.password,
            database=database or None,
            autocommit=True,
            connect_timeout=10,
            read_timeout=60,
            program_name=application,
            # PyMySQL prefers TLS, and loading the system's certificates takes it 16 ms each time
            ssl_disabled=server.own,
        )

    def client(self, connection: Connection, user: str) -> Client:
        return MySQLClient(connection, user)

    def data_folder(self, connection: Connection) -> str:
        return str(rows(connection, "SELECT @@datadir")[0][0])

    def states(self, connection: Connection) -> dict[int, str]:
        return {row[0]: row[4] for row in rows(connection, "SHOW FULL PROCESSLIST")}

    def install(self, server: Server) -> None:
        """Create the standard accounts and the database if they are missing."""
        with closing(server.admin()) as connection:
            password = f" IDENTIFIED BY {connection.escape(server.password)}"
            rows(connection, "CREATE DATABASE IF NOT EXISTS shop")
            for statement in (RDS_KILL, *self._accounts(password), *SHOP):
                try:
                    rows(connection, statement)
                except pymysql.err.Error as error:
                    if server.own or error.args[0] not in TOLERATED:
                        raise

    def _accounts(self, password: str) -> Iterable[str]:
        connection_admin = "CONNECTION ADMIN" if self.flavour == "mariadb" else "CONNECTION_ADMIN"
        for user, grants in ACCOUNTS.items():
            yield f"CREATE USER IF NOT EXISTS {user}@'%'{password}"
            yield from (
                f"GRANT {grant.format(connection_admin=connection_admin)} TO {user}@'%'"
                for grant in grants
            )
        yield f"CREATE USER IF NOT EXISTS rdsadmin@localhost{password}"
        for user in ("reaper", "reaper_rds"):
            yield from (
                f"GRANT SELECT ON performance_schema.{table} TO {user}@'%'"
                for table in SCHEMA_TABLES
            )


class MySQLClient:
    """A PyMySQL connection as a Client."""

    def __init__(self, connection: Connection, user: str) -> None:
        self.connection = connection
        self.id: int = connection.thread_id()
        self.user = user
        self.pending = False

    def run(self, sql: str) -> Rows:
        return rows(self.connection, sql)

    def start(self, sql: str) -> None:
        self.connection._execute_command(COMMAND.COM_QUERY, sql)
        self.pending = True

    def finish(self) -> None:
        """Wait for the end of the statement that `start` sent; raise if it failed."""
        self.pending = False
        self.connection._read_query_result()

    def alive(self) -> bool:
        if self.pending:
            return not hung_up(self.connection._sock.fileno())
        try:
            self.run("SELECT 1")
        except pymysql.err.Error:
            return False
        return True

    def close(self) -> None:
        if self.connection.open:
            self.connection.close()


def rows(connection: Connection, sql: str) -> Rows:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall())


def mariadb() -> MySQL:
    program = found("mariadbd", "MariaDB: mariadbd not found; install mariadb-server-core")
    return MySQL("mariadb", program, MARIADB_SETTINGS)


def mysql(
    settings: Mapping[str, str] | None = None, template: Callable[[], Path] | None = None
) -> MySQL:
    program = os.environ.get("REAPER_TEST_MYSQLD", "")
    if not os.access(program, os.X_OK):
        raise Unavailable("MySQL: set REAPER_TEST_MYSQLD to a mysqld")
    return MySQL("mysql", program, {**MYSQL_SETTINGS, **(settings or {})}, template)


def found(program: str, otherwise: str) -> str:
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"))
    if place := shutil.which(program, path=path):
        return place
    raise Unavailable(otherwise)


def base_folder(program: Path) -> Path:
    """Where this mysqld keeps its share folder: beside a wrapper script's unpacked root, or above
    its bin folder.
    """
    unpacked = program.parent / "root" / "usr"
    return unpacked if unpacked.is_dir() else program.resolve().parent.parent


def mariadb_system_tables(program: str) -> str:
    """What mariadb-install-db feeds to `mariadbd --bootstrap`, without the help texts and the sys
    schema.

    The script itself needs my_print_defaults, which Debian keeps in the client's package.
    """
    share = base_folder(Path(program)) / "share"
    names = (
        "mysql_system_tables.sql",
        "mysql_performance_tables.sql",
        "mysql_system_tables_data.sql",
    )
    for folder in (share / "mysql", share / "mariadb", share):
        if all((folder / name).exists() for name in names):
            scripts = [(folder / name).read_text() for name in names]
            return "\n".join(
                ["CREATE DATABASE mysql;", "USE mysql;", "SET @auth_root_socket = NULL;", *scripts]
            )
    raise Unavailable(f"MariaDB: no {names[0]} under {share}; install mariadb-server-core")


def as_root() -> list[str]:
    return [] if os.geteuid() else ["--user=root"]
