"""PgBouncer before one of the lab's PostgreSQL servers, in session or transaction mode."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote, urlencode

from . import processes
from .base import Server, Unavailable, free_port, until
from .postgres import demoted

# The accounts of the lab's servers have no passwords. With auth_type = any PgBouncer has to be told
# as whom to log in, as many installations do: whoever comes, the server sees one account.
_CONFIGURATION = """\
[databases]
shop = host={host} port={port} dbname=shop user={user}
postgres = host={host} port={port} dbname=postgres user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
admin_users = postgres
max_client_conn = 100
default_pool_size = {size}
ignore_startup_parameters = extra_float_digits
"""
# Where `make test` unpacks it without installing a service.
_UNPACKED = Path(sys.executable).parents[1] / "pgbouncer" / "usr" / "sbin"


class PgBouncer:
    """A pooler of the lab's own, from Debian's package; ends with the test that started it.

    Raises Unavailable where the program is missing.
    """

    def __init__(
        self, server: Server, mode: str = "transaction", size: int = 1, forced_user: str = "app"
    ) -> None:
        places = f"{os.environ.get('PATH', '')}:/usr/sbin:{_UNPACKED}"
        program = shutil.which("pgbouncer", path=places)
        if program is None:
            raise Unavailable("PgBouncer is missing; to have it: make pgbouncer, as root")
        self._server = server
        self._folder = Path(tempfile.mkdtemp(prefix="pgbouncer-", dir=processes.run().folder))
        self.host, self.port = "127.0.0.1", free_port()
        configuration = self._folder / "pgbouncer.ini"
        configuration.write_text(
            _CONFIGURATION.format(
                host=server.host,
                port=server.port,
                user=forced_user,
                listen=self.port,
                mode=mode,
                size=size,
            )
        )
        with (self._folder / "log").open("ab") as log:
            self._process = processes.spawn(
                [*demoted(), program, str(configuration)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
            )
        if not until(self._listens):
            self.close()
            raise RuntimeError(f"PgBouncer does not start:\n{self.log[-2000:]}")

    @property
    def log(self) -> str:
        return (self._folder / "log").read_text(errors="replace")

    def dsn(self, user: str = "app", database: str = "shop", **options: str) -> str:
        query = f"?{urlencode(options)}" if options else ""
        return f"postgresql://{quote(user)}@{self.host}:{self.port}/{database}{query}"

    def _listens(self) -> bool:
        with suppress(OSError), socket.create_connection((self.host, self.port), timeout=1):
            return True
        return False

    def close(self) -> None:
        processes.end(self._process)
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> PgBouncer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
