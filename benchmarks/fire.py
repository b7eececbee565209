"""Correctness under fire: the same accidents for every client, and what became of the rows."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from typing import Any

from tests.servers import Proxy, Server, Unavailable, start

from .base import Effort, Section, Table
from .subjects import OF_ENGINE, OURS, VERSIONS, Worker

SERVERS = ("mysql", "mariadb", "postgres18")
RESET = ("DROP TABLE IF EXISTS fire", "CREATE TABLE fire (what VARCHAR(40))", "DROP TABLE IF EXISTS purse",
         "CREATE TABLE purse (id INT PRIMARY KEY, value INT)", "INSERT INTO purse VALUES (1, 0), (2, 0)")  # fmt: skip
A, B = "INSERT INTO fire VALUES ('a')", "INSERT INTO fire VALUES ('b')"
SIBLINGS = 8
SIBLINGS_SLEEP = 4.0  # seconds; for serverless-mysql a zombie has slept for three or more


@dataclass(frozen=True)
class Scene:
    """One client, its server, and the proxy between them."""

    worker: Worker
    server: Server
    proxy: Proxy

    def sessions(self) -> list[int]:
        """The sessions of `app`."""
        sql = (
            "SELECT pid FROM pg_stat_activity WHERE usename = 'app'"
            if self.server.engine == "postgres"
            else "SELECT ID FROM information_schema.processlist WHERE USER = 'app'"
        )
        return [row[0] for row in self.server.query(sql)]

    def kill(self) -> None:
        """End every session of the client's."""
        verb = "SELECT pg_terminate_backend({})" if self.server.engine == "postgres" else "KILL {}"
        for id_ in self.sessions():
            self.server.query(verb.format(id_))
        time.sleep(0.1)  # its goodbye has arrived when the client goes on

    def rows(self, what: str) -> int:
        return int(self.all(f"SELECT count(*) FROM fire WHERE what = '{what}'")[0][0])

    def all(self, sql: str) -> list[tuple[Any, ...]]:
        with closing(self.server.connect("app")) as connection:
            return self.server.kind.client(connection, "app").run(sql)


def verdict(told: dict[str, Any], counts: Sequence[int]) -> str:
    """What became of rows that were each to be there once, beside what the caller was told."""
    said = "error " + told["error"] if "error" in told else "success"
    lost, doubled = sum(count == 0 for count in counts), sum(count > 1 for count in counts)
    if "error" in told:  # nobody promised anything; half of a transaction is still wrong
        torn = 0 < sum(count > 0 for count in counts) < len(counts)
        return f"{said}; {'**torn**' if torn else 'doubled' if doubled else 'nothing wrong'}"
    if lost or doubled:
        return f"**{said}; {lost} lost, {doubled} doubled**"
    return f"{said}; right"


def k1(scene: Scene) -> str:
    scene.worker.tell(do="pair", sql=[A, B])
    told = scene.worker.hear()
    scene.kill()
    if "paused" in told:
        scene.worker.tell(go=True)
        told = scene.worker.hear()
    return verdict(told, [scene.rows("a"), scene.rows("b")])


def k2(scene: Scene) -> str:
    scene.proxy.cut_when(b"INSERT INTO fire", "after", "close")
    return verdict(scene.worker.ask(do="run", sql=A), [scene.rows("a")])


def k3(scene: Scene) -> str:
    """The rival has changed more rows, so that the client is the one to be undone."""
    first, second = (f"UPDATE purse SET value = value + 1 WHERE id = {id_}" for id_ in (1, 2))
    scene.worker.tell(do="pair", sql=[first, second])
    scene.worker.hear()
    with closing(scene.server.connect("other" if scene.server.engine == "mysql" else "boss")) as connection:
        rival = scene.server.kind.client(connection, "app")
        if scene.server.engine == "postgres":  # there whoever looks for the cycle first is undone
            rival.run("SET deadlock_timeout = '60s'")
        rival.run("BEGIN")
        rival.run("INSERT INTO scratch VALUES " + ", ".join(["(0)"] * 50))
        rival.run("UPDATE purse SET value = value + 100 WHERE id = 2")
        rival.start("UPDATE purse SET value = value + 100 WHERE id = 1")
        time.sleep(0.1)  # by then it waits for the row that the worker has locked
        scene.worker.tell(go=True)
        with suppress(*scene.server.kind.errors):  # if it is undone instead, the end of its session will do
            rival.finish()
            rival.run("COMMIT")
        told = scene.worker.hear()
    values = [int(row[0]) % 100 for row in scene.all("SELECT value FROM purse ORDER BY id")]
    return verdict(told, values)


def k4(scene: Scene) -> str:
    scene.worker.tell(do="pair", sql=[A, B])
    scene.worker.hear()
    scene.proxy.cut_when(b"COMMIT", "after", "close")
    scene.worker.tell(go=True)
    return verdict(scene.worker.hear(), [scene.rows("a"), scene.rows("b")])


def k5(scene: Scene) -> str:
    scene.worker.ask(do="run", sql="SELECT 1")
    scene.kill()
    return verdict(scene.worker.ask(do="run", sql=A), [scene.rows("a")])


def k8(scene: Scene) -> str:
    """Twelve seconds remain to the invocation, and nobody at the address says a word."""
    with ExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        worker = stack.enter_context(closing(Worker(scene.worker.name, scene.server, *silent.getsockname())))
        began = time.monotonic()
        told = worker.ask(14.0, do="run", sql="SELECT 1")
        return f"{told.get('error', 'success')} after {time.monotonic() - began:.1f} s"


def k10(scene: Scene) -> str:
    """Healthy siblings that have slept for four seconds, while the server is nearly full."""
    client = scene.server.kind.client
    siblings = [client(scene.server.connect("app"), "app") for _ in range(SIBLINGS)]
    most = len(scene.server.states()) + 1
    if scene.server.engine == "mysql":
        scene.server.query(f"SET GLOBAL max_connections = {max(most, 10)}")
    time.sleep(SIBLINGS_SLEEP)  # until the rival takes them for zombies, which is what is measured
    told = scene.worker.ask(do="run", sql="SELECT 1")
    time.sleep(0.2)  # a sibling that was ended has heard of it
    broken = sum(not sibling.alive() for sibling in siblings)
    for sibling in siblings:
        sibling.close()
    if scene.server.engine == "mysql":
        scene.server.query("SET GLOBAL max_connections = 300")
    said = f"error {told['error']}" if "error" in told else "success"
    return f"{said}; {f'**{broken} broken**' if broken else 'none broken'}"


CASES: dict[str, tuple[str, Callable[[Scene], str]]] = {
    "K1": ("killed between two statements of a transaction", k1),
    "K2": ("the answer to an INSERT is lost", k2),
    "K3": ("a deadlock in the second statement", k3),
    "K4": ("the answer to COMMIT is lost", k4),
    "K5": ("killed while idle, then an INSERT", k5),
    "K8": ("a server that says nothing", k8),
    "K10": (f"{SIBLINGS} idle siblings, the server nearly full", k10),
}


def measure(effort: Effort) -> list[Section]:
    section = Section("Correctness under fire")
    for name in SERVERS if effort.is_full else SERVERS[:1]:
        try:
            with start(name) as server:
                _table(section, server)
        except Unavailable as missing:
            section.skipped.append(str(missing))
    section.notes.append(
        "An error is no fault where the row's fate is told truly: what counts is a success that is none, half of a "
        "transaction, and a row that is there twice. K6, K7, K9 and K11 to K15 are run against this client alone, by "
        "`make test`. SQLAlchemy and psycopg_pool retry nothing: there every error is the caller's to handle."
    )
    return [section]


def _table(section: Section, server: Server) -> None:
    rows = {key: [f"{key}: {what}"] for key, (what, _) in CASES.items()}
    head = ["case"]
    for client in OF_ENGINE[server.engine]:
        try:
            found = {key: _played(client, server, play) for key, (_, play) in CASES.items()}
        except Unavailable as missing:
            section.skipped.append(str(missing))
            continue
        head.append("this client" if client == OURS else VERSIONS.get(client, client))
        for key, said in found.items():
            rows[key].append(said)
        section.raw.setdefault(server.name, {})[client] = found
    section.tables.append(Table(f"On {server.name}", head, list(rows.values())))


def _played(client: str, server: Server, play: Callable[[Scene], str]) -> str:
    with closing(server.connect("app")) as connection:
        for statement in RESET:
            server.kind.client(connection, "app").run(statement)
    with ExitStack() as stack:
        proxy = stack.enter_context(Proxy(server.host, server.port))
        worker = stack.enter_context(closing(Worker(client, server, "127.0.0.1", proxy.port)))
        warm = worker.ask(do="run", sql="SELECT 1")
        if "error" in warm:
            return f"cannot begin: {warm['error']}"
        return play(Scene(worker, server, proxy))
