"""The clients to compare, each in a process that reads lines of JSON and answers each with one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from subprocess import PIPE
from typing import Any, Protocol
from urllib.parse import urlsplit

from lab.context import Context
from lab.servers import Server, Unavailable, processes

OURS = "reaper.client"
OF_ENGINE = {
    "mysql": (OURS, "SQLAlchemy", "serverless-mysql"),
    "postgres": (OURS, "SQLAlchemy", "psycopg_pool", "serverless-postgres"),
}
ALONE = {"mysql": ("PyMySQL", "mysql2"), "postgres": ("psycopg", "pg")}
UNDER_NODE = ("serverless-mysql", "serverless-postgres", "mysql2", "pg")
VERSIONS = {"SQLAlchemy": "SQLAlchemy, pool_pre_ping", "psycopg_pool": "psycopg_pool, check"}
# Seconds that an invocation has left
REMAINING = 12.0
NODE_MODULES = "REAPER_BENCH_NODE"


@dataclass(frozen=True)
class Account:
    """What a client logs in with: a password, which for clients that read secrets may be in a
    secret as well.
    """

    user: str = "app"
    password: str = field(default="", repr=False)
    environ: Mapping[str, str] = field(default_factory=dict)


class Subject(Protocol):
    def run(self, sql: str) -> Any: ...
    def pair(self, first: str, second: str) -> None: ...


class Worker:
    """One client in its process. `ask` returns its answer, or an error if there was none
    in time.
    """

    def __init__(
        self, name: str, server: Server, host: str, port: int, account: Account | None = None
    ) -> None:
        self.name = name
        account = account or Account()
        environ = {**os.environ, **account.environ}
        if name in UNDER_NODE:
            node, modules = shutil.which("node"), os.environ.get(NODE_MODULES, "")
            if node is None or not (Path(modules) / "node_modules" / name).exists():
                raise Unavailable(f"{name}: node, or its package in {NODE_MODULES}, is missing")
            environ["NODE_PATH"] = str(Path(modules) / "node_modules")
            script = str(Path(__file__).with_name("subjects.cjs"))
            command = [node, script, name, host, str(port), account.user, "shop", account.password]
        else:
            if not find_spec(MODULES[name]):
                raise Unavailable(f"{name} is not installed")
            # Without TLS this client sends MySQL no password; the others encrypt it themselves.
            tls = (
                {"tls": "require"}
                if name == OURS and account.password and server.flavour == "mysql"
                else {}
            )
            dsn = replace(server, host=host, port=port, password=account.password).dsn(
                account.user, **tls
            )
            command = [sys.executable, "-m", "benchmarks.subjects", name, dsn]
        self._process = processes.spawn(
            command, env=environ, stdin=PIPE, stdout=PIPE, stderr=subprocess.DEVNULL
        )
        self._answers: list[dict[str, Any]] = []
        self._more = threading.Condition()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in self._process.stdout or ():
            with self._more:
                self._answers.append(json.loads(line))
                self._more.notify_all()
        with self._more:
            self._answers.append({"error": "its process ended"})
            self._more.notify_all()

    def tell(self, **asked: Any) -> None:
        if self._process.stdin is None:
            raise RuntimeError(f"{self.name} cannot be told anything")
        # That it has ended is told as its answer
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(asked).encode() + b"\n")
            self._process.stdin.flush()

    def hear(self, seconds: float = 15.0) -> dict[str, Any]:
        with self._more:
            if not self._more.wait_for(lambda: self._answers, seconds):
                return {"error": f"no answer in {seconds:g} s"}
            return self._answers.pop(0)

    def ask(self, seconds: float = 15.0, **asked: Any) -> dict[str, Any]:
        self.tell(**asked)
        return self.hear(seconds)

    def freeze(self) -> None:
        processes.freeze(self._process)

    def thaw(self) -> None:
        processes.thaw(self._process)

    def close(self) -> None:
        processes.end(self._process)


def opened(
    names: tuple[str, ...], server: Server, host: str = "", port: int = 0
) -> tuple[list[Worker], list[str]]:
    """A worker for each client that is installed, and why the others are missing."""
    workers, missing = [], []
    for name in names:
        try:
            workers.append(Worker(name, server, host or server.host, port or server.port))
        except Unavailable as why:
            missing.append(str(why))
    return workers, missing


class _Ours:
    def __init__(self, dsn: str) -> None:
        database = import_module("reaper.client").Database(
            dsn, secret=os.environ.get("DATABASE_SECRET")
        )
        self._database, self._invoke = database, database.handler(lambda event, _: event())

    def run(self, sql: str) -> Any:
        verb = self._database.query if sql.startswith("SELECT") else self._database.execute
        return self._invoke(lambda: verb(sql), Context(REMAINING))

    def pair(self, first: str, second: str) -> None:
        def work(tx: Any) -> None:
            tx.execute(first)
            pause()
            tx.execute(second)

        self._invoke(lambda: self._database.transaction(work), Context(REMAINING))


class _SQLAlchemy:
    def __init__(self, dsn: str) -> None:
        scheme, _, rest = dsn.partition("://")
        dialect = "mysql+pymysql" if scheme == "mysql" else "postgresql+psycopg"
        sqlalchemy = import_module("sqlalchemy")
        # Without TLS, as the others on the loopback interface
        plain = {"ssl_disabled": True} if scheme == "mysql" else {}
        self._engine = sqlalchemy.create_engine(
            f"{dialect}://{rest}", pool_pre_ping=True, pool_size=1, connect_args=plain
        )

    def run(self, sql: str) -> Any:
        if sql.startswith("SELECT"):
            with self._engine.connect() as connection:
                return connection.exec_driver_sql(sql).mappings().all()
        with self._engine.begin() as connection:
            return connection.exec_driver_sql(sql).rowcount

    def pair(self, first: str, second: str) -> None:
        with self._engine.begin() as connection:
            connection.exec_driver_sql(first)
            pause()
            connection.exec_driver_sql(second)


class _Pool:
    def __init__(self, dsn: str) -> None:
        pools, rows = import_module("psycopg_pool"), import_module("psycopg.rows")
        self._pool = pools.ConnectionPool(
            dsn,
            min_size=1,
            max_size=1,
            open=True,
            timeout=10,
            check=pools.ConnectionPool.check_connection,
            kwargs={"row_factory": rows.dict_row, "prepare_threshold": None},
        )

    def run(self, sql: str) -> Any:
        with self._pool.connection() as connection:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else cursor.rowcount

    def pair(self, first: str, second: str) -> None:
        with self._pool.connection() as connection:
            connection.execute(first)
            pause()
            connection.execute(second)


def _alone(dsn: str) -> Subject:
    parts = urlsplit(dsn)
    connect: Callable[..., Any]
    if parts.scheme == "mysql":
        connect, rows = (
            import_module("pymysql").connect,
            import_module("pymysql.cursors").DictCursor,
        )
        options = {
            "cursorclass": rows,
            "ssl_disabled": True,
            "database": parts.path[1:],
            "read_timeout": 60,
        }
    else:
        connect, rows = import_module("psycopg").connect, import_module("psycopg.rows").dict_row
        options = {"row_factory": rows, "prepare_threshold": None, "dbname": parts.path[1:]}
    return _Alone(
        connect(
            host=parts.hostname, port=parts.port, user=parts.username, autocommit=True, **options
        )
    )


class _Alone:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def run(self, sql: str) -> Any:
        with self._connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else cursor.rowcount

    def pair(self, first: str, second: str) -> None:
        raise NotImplementedError("a driver alone has no transaction of several attempts")


MAKERS: dict[str, Callable[[str], Subject]] = {
    OURS: _Ours,
    "SQLAlchemy": _SQLAlchemy,
    "psycopg_pool": _Pool,
    "PyMySQL": _alone,
    "psycopg": _alone,
}
MODULES = {
    OURS: "reaper.client",
    "SQLAlchemy": "sqlalchemy",
    "psycopg_pool": "psycopg_pool",
    "PyMySQL": "pymysql",
    "psycopg": "psycopg",
}


def pause() -> None:
    """Say so, and go on at the next line. Only once: a transaction that is run again is not paused
    again.
    """
    if _paused:
        return
    _paused.append(True)
    say({"paused": True})
    sys.stdin.readline()


_paused: list[bool] = []


def say(told: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


def answer(subject: Subject, asked: dict[str, Any]) -> dict[str, Any]:
    match asked["do"]:
        case "pair":
            _paused.clear()
            subject.pair(*asked["sql"])
            return {"ok": True}
        case "run":
            found = subject.run(asked["sql"])
            return {"ok": True, "rows": len(found) if isinstance(found, list) else None}
        case "both":
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(subject.run, [asked["sql"]] * 2))
            return {"ok": True}
    began = time.perf_counter()
    for _ in range(asked["n"]):
        subject.run(asked["sql"])
    return {"ok": True, "result": (time.perf_counter() - began) / asked["n"] * 1e6}


def main(name: str, dsn: str) -> None:
    subject = MAKERS[name](dsn)
    for line in sys.stdin:
        try:
            say(answer(subject, json.loads(line)))
        except Exception as error:  # noqa: BLE001  told to whoever asked
            say({"error": type(error).__name__})


if __name__ == "__main__":
    main(*sys.argv[1:])
