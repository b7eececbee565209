"""The servers that there are by name, and how to start one."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from functools import cache
from urllib.parse import parse_qsl, unquote, urlsplit

from .base import Kind, Server, launched
from .mysql import MySQL, mariadb, mysql
from .postgres import Postgres, programs

NAMES = ("postgres16", "postgres18", "mariadb", "mysql", "mysql_nops")
_lock = threading.Lock()


def start(
    name: str, *, settings: Mapping[str, str] | None = None, port: int | None = None
) -> Server:
    """Start a throwaway server with the standard accounts; raise Unavailable if its programs are
    missing.
    """
    with _lock:
        kind = _kind(name)
    return launched(name, kind, kind.template(), settings or {}, port)


@cache
def _kind(name: str) -> Kind:
    match name:
        case "postgres16":
            return Postgres(programs("pginstall"))
        case "postgres18":
            return Postgres(programs("pginstall18"))
        case "mariadb":
            return mariadb()
        case "mysql":
            return mysql()
        case "mysql_nops":
            return mysql({"performance_schema": "OFF"}, _kind("mysql").template)
    raise ValueError(f"no such server: {name}")


def elsewhere(engine: str) -> Server | None:
    """The server that REAPER_TEST_POSTGRES_DSN or REAPER_TEST_MYSQL_DSN names, with the standard
    accounts added.
    """
    dsn = os.environ.get(f"REAPER_TEST_{engine.upper()}_DSN")
    if not dsn:
        return None
    parts = urlsplit(dsn)
    kind: Kind = Postgres() if engine == "postgres" else MySQL("mysql")
    server = Server(
        f"{engine}-elsewhere",
        kind,
        parts.hostname or "127.0.0.1",
        parts.port or {"postgres": 5432}.get(engine, 3306),
        unquote(parts.username or kind.root),
        unquote(parts.password or ""),
        dict(parse_qsl(parts.query)),
    )
    if engine == "mysql" and "MariaDB" in server.query("SELECT VERSION()")[0][0]:
        server.kind = MySQL("mariadb")
    server.kind.install(server)
    return server
