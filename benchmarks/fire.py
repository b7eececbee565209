"""Correctness under fire: the same accidents for every client, and what became of the rows."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from typing import Any

from moto import mock_aws

from lab.amazon import Amazon
from lab.rotation import USER, Rotated, ask_for_passwords
from lab.servers import Proxy, Server, Unavailable, free_port, start, until

from .base import Effort, Section, Table
from .subjects import OF_ENGINE, OURS, VERSIONS, Account, Worker

SERVERS = ("mysql", "mariadb", "postgres18")
RESET = (
    "DROP TABLE IF EXISTS fire",
    "CREATE TABLE fire (what VARCHAR(40))",
    "DROP TABLE IF EXISTS purse",
    "CREATE TABLE purse (id INT PRIMARY KEY, value INT)",
    "INSERT INTO purse VALUES (1, 0), (2, 0)",
)
A, B = "INSERT INTO fire VALUES ('a')", "INSERT INTO fire VALUES ('b')"
SIBLINGS = 8
# Seconds. serverless-mysql kills sessions that have slept for three or more.
SIBLINGS_SLEEP = 4.0


@dataclass(frozen=True)
class Scene:
    """One client, its server, and the proxy between them."""

    worker: Worker
    server: Server
    proxy: Proxy

    def another(self, port: int = 0, account: Account | None = None) -> Worker:
        """Another process of this client that bypasses the proxy, or has another port or
        account.
        """
        return Worker(
            self.worker.name, self.server, self.server.host, port or self.server.port, account
        )

    def sessions(self, user: str = "app") -> list[int]:
        sql = (
            f"SELECT pid FROM pg_stat_activity WHERE usename = '{user}'"
            if self.server.engine == "postgres"
            else f"SELECT ID FROM information_schema.processlist WHERE USER = '{user}'"
        )
        return [row[0] for row in self.server.query(sql)]

    def kill(self, user: str = "app") -> None:
        """End every session of this user."""
        verb = "SELECT pg_terminate_backend({})" if self.server.engine == "postgres" else "KILL {}"
        for id_ in self.sessions(user):
            self.server.query(verb.format(id_))
        # By then the client has received the server's goodbye
        time.sleep(0.1)

    def rows(self, what: str) -> int:
        return int(self.all(f"SELECT count(*) FROM fire WHERE what = '{what}'")[0][0])

    def all(self, sql: str) -> list[tuple[Any, ...]]:
        with closing(self.server.connect("app")) as connection:
            return self.server.kind.client(connection, "app").run(sql)


def verdict(told: dict[str, Any], counts: Sequence[int]) -> str:
    """What the caller was told, and whether that is true of rows each of which should be there
    once.
    """
    said = "error " + told["error"] if "error" in told else "success"
    lost, doubled = sum(count == 0 for count in counts), sum(count > 1 for count in counts)
    # After an error nothing was promised, but half of a transaction is still wrong
    if "error" in told:
        torn = 0 < sum(count > 0 for count in counts) < len(counts)
        return f"{said}; {'**torn**' if torn else 'doubled' if doubled else 'nothing wrong'}"
    if lost or doubled:
        return f"**{said}; {lost} lost, {doubled} doubled**"
    return f"{said}; right"


def killed_in_a_transaction(scene: Scene) -> str:
    scene.worker.tell(do="pair", sql=[A, B])
    told = scene.worker.hear()
    scene.kill()
    if "paused" in told:
        scene.worker.tell(go=True)
        told = scene.worker.hear()
    return verdict(told, [scene.rows("a"), scene.rows("b")])


def insert_answer_lost(scene: Scene) -> str:
    scene.proxy.cut_when(b"INSERT INTO fire", "after", "close")
    return verdict(scene.worker.ask(do="run", sql=A), [scene.rows("a")])


def deadlock(scene: Scene) -> str:
    """A deadlock with a rival that has changed more rows, so that the server rolls the
    client back.
    """
    first, second = (f"UPDATE purse SET value = value + 1 WHERE id = {id_}" for id_ in (1, 2))
    scene.worker.tell(do="pair", sql=[first, second])
    scene.worker.hear()
    with closing(
        scene.server.connect("other" if scene.server.engine == "mysql" else "boss")
    ) as connection:
        rival = scene.server.kind.client(connection, "app")
        # PostgreSQL rolls back whoever looks for the deadlock first
        if scene.server.engine == "postgres":
            rival.run("SET deadlock_timeout = '60s'")
        rival.run("BEGIN")
        rival.run("INSERT INTO scratch VALUES " + ", ".join(["(0)"] * 50))
        rival.run("UPDATE purse SET value = value + 100 WHERE id = 2")
        rival.start("UPDATE purse SET value = value + 100 WHERE id = 1")
        # By then the rival waits for the row that the worker has locked
        time.sleep(0.1)
        scene.worker.tell(go=True)
        # If the rival is rolled back instead, the end of its session is enough
        with suppress(*scene.server.kind.errors):
            rival.finish()
            rival.run("COMMIT")
        told = scene.worker.hear()
    values = [int(row[0]) % 100 for row in scene.all("SELECT value FROM purse ORDER BY id")]
    return verdict(told, values)


def commit_answer_lost(scene: Scene) -> str:
    scene.worker.tell(do="pair", sql=[A, B])
    scene.worker.hear()
    scene.proxy.cut_when(b"COMMIT", "after", "close")
    scene.worker.tell(go=True)
    return verdict(scene.worker.hear(), [scene.rows("a"), scene.rows("b")])


def killed_while_idle(scene: Scene) -> str:
    scene.worker.ask(do="run", sql="SELECT 1")
    scene.kill()
    return verdict(scene.worker.ask(do="run", sql=A), [scene.rows("a")])


def account_at_its_limit(scene: Scene) -> str:
    """A client at its account's own limit should try equally hard each time, and say why
    it failed.
    """
    is_mysql = scene.server.engine == "mysql"
    limit = (
        "ALTER USER app@'%' WITH MAX_USER_CONNECTIONS {}"
        if is_mysql
        else "ALTER ROLE app CONNECTION LIMIT {}"
    )
    with ExitStack() as stack:
        scene.server.query(limit.format(1))
        stack.callback(scene.server.query, limit.format(0 if is_mysql else -1))
        # MySQL counts only sessions that were opened after the limit was set
        if is_mysql:
            stack.enter_context(closing(scene.server.connect("app")))
        worker = stack.enter_context(closing(scene.another()))
        return "; again ".join(timed(worker, do="run", sql="SELECT 1") for _ in range(2))


def refusing_port(scene: Scene) -> str:
    with closing(scene.another(free_port())) as worker:
        return timed(worker, do="both", sql="SELECT 1")


def silent_address(scene: Scene) -> str:
    """Something accepts connections at the address and never answers."""
    with ExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        worker = stack.enter_context(closing(scene.another(silent.getsockname()[1])))
        return timed(worker, do="run", sql="SELECT 1")


def stalled_server(scene: Scene) -> str:
    scene.proxy.stall()
    return timed(scene.worker, do="run", sql="SELECT 1")


def idle_siblings(scene: Scene) -> str:
    """Siblings that are healthy and have slept for four seconds, while the server is
    nearly full.
    """
    client = scene.server.kind.client
    siblings = [client(scene.server.connect("app"), "app") for _ in range(SIBLINGS)]
    most = len(scene.server.states()) + 1
    if scene.server.engine == "mysql":
        scene.server.query(f"SET GLOBAL max_connections = {max(most, 10)}")
    # Until serverless-mysql considers them zombies, which is what this case is about
    time.sleep(SIBLINGS_SLEEP)
    told = scene.worker.ask(do="run", sql="SELECT 1")
    # By then a sibling whose session was ended has received the news
    time.sleep(0.2)
    broken = sum(not sibling.alive() for sibling in siblings)
    for sibling in siblings:
        sibling.close()
    if scene.server.engine == "mysql":
        scene.server.query("SET GLOBAL max_connections = 300")
    said = f"error {told['error']}" if "error" in told else "success"
    return f"{said}; {f'**{broken} broken**' if broken else 'none broken'}"


def answer_in_single_bytes(scene: Scene) -> str:
    scene.proxy.trickle(0.05)
    return timed(scene.worker, do="run", sql="SELECT repeat('x', 400)")


def read_only_for_a_second(scene: Scene) -> str:
    """The server is read-only for a second, as during a failover."""
    orders = ["SET GLOBAL read_only = {}"]
    if scene.server.engine == "postgres":
        orders = ["ALTER SYSTEM SET default_transaction_read_only = {}", "SELECT pg_reload_conf()"]

    def be_read_only(value: str) -> None:
        for order in orders:
            scene.server.query(order.format(value))
        # PostgreSQL signals its sessions, and nothing tells when each has reread the setting
        time.sleep(0.2)

    with ExitStack() as stack:
        stack.callback(be_read_only, "off")
        be_read_only("on")
        scene.worker.tell(do="run", sql=A)
        # The accident itself, a failover of a second: meanwhile the worker tries to write
        time.sleep(1.0)
    return verdict(scene.worker.hear(), [scene.rows("a")])


def idle_limit_passed_while_frozen(scene: Scene) -> str:
    """The server's idle limit passes while Lambda keeps the function frozen."""
    limit, briefly = "SET GLOBAL wait_timeout = {}", "1"
    if scene.server.engine == "postgres":
        limit, briefly = "ALTER ROLE app SET idle_session_timeout = {}", "'1s'"
    with ExitStack() as stack:
        scene.server.query(limit.format(briefly))
        stack.callback(scene.server.query, limit.format("DEFAULT"))
        others = set(scene.sessions())
        worker = stack.enter_context(closing(scene.another()))
        worker.ask(do="run", sql="SELECT 1")
        worker.freeze()
        stack.callback(worker.thaw)
        if not until(lambda: set(scene.sessions()) <= others, timeout=10):
            raise TimeoutError("the server has kept its session beyond its idle limit")
        worker.thaw()
        return verdict(worker.ask(do="run", sql=A), [scene.rows("a")])


def password_rotated(scene: Scene) -> str:
    """Each client has the password from the start of its environment; this one may also read the
    secret.
    """
    with ExitStack() as stack:
        stack.enter_context(mock_aws())
        amazon = stack.enter_context(Amazon())
        ask_for_passwords(scene.server)
        rotated = Rotated(scene.server)
        if scene.server.engine == "postgres":
            scene.server.query(f"GRANT app TO {USER}")
        account = Account(USER, rotated.word, {**amazon.environ, "DATABASE_SECRET": rotated.secret})
        worker = stack.enter_context(closing(scene.another(account=account)))
        warm = worker.ask(do="run", sql="SELECT 1")
        if "error" in warm:
            return f"cannot begin: {warm['error']}"
        rotated.rotate()
        scene.kill(USER)
        return verdict(worker.ask(do="run", sql=A), [scene.rows("a")])


def timed(worker: Worker, **asked: str) -> str:
    """The outcome, and after how many seconds. The invocation has twelve left."""
    began = time.monotonic()
    said = worker.ask(14.0, **asked).get("error", "success")
    return (
        said if said.startswith("no answer") else f"{said} after {time.monotonic() - began:.1f} s"
    )


# What each case shows, as the page of results names it.
CASES: dict[str, Callable[[Scene], str]] = {
    "killed between two statements of a transaction": killed_in_a_transaction,
    "the answer to an INSERT is lost": insert_answer_lost,
    "a deadlock in the second statement": deadlock,
    "the answer to COMMIT is lost": commit_answer_lost,
    "killed while idle, then an INSERT": killed_while_idle,
    "the account at its own limit, asked twice": account_at_its_limit,
    "two at once, a port that refuses": refusing_port,
    "a server that says nothing": silent_address,
    "a server that stops in the middle": stalled_server,
    f"{SIBLINGS} idle siblings, the server nearly full": idle_siblings,
    "an answer a byte at a time": answer_in_single_bytes,
    "a write while the server is read-only for a second": read_only_for_a_second,
    "frozen past the server's idle limit, then an INSERT": idle_limit_passed_while_frozen,
    "its password rotated and its session ended, then an INSERT": password_rotated,
}


NOTE = (
    "An error is no fault where the row's fate is told truly: what counts is a success that is "
    "none, half of a transaction, a row that is there twice, and no answer while there is time "
    "to give one: twelve seconds remain to each invocation. Where the password is rotated each "
    "client has the one of its environment's start; none but this one reads it anew by itself "
    "(SQLAlchemy can be taught, by an event of the application's own). The round trips of an "
    "invocation stand with the client's figures. SQLAlchemy and psycopg_pool retry nothing: "
    "there every error is the caller's to handle."
)


def measure(effort: Effort) -> list[Section]:
    section = Section("Correctness under fire")
    for name in SERVERS if effort.is_full else SERVERS[:1]:
        try:
            with start(name) as server:
                _table(section, server)
        except Unavailable as missing:
            section.skipped.append(str(missing))
    section.notes.append(NOTE)
    return [section]


def _table(section: Section, server: Server) -> None:
    rows = {shown: [shown] for shown in CASES}
    head = ["case"]
    for client in OF_ENGINE[server.engine]:
        try:
            found = {shown: _played(client, server, play) for shown, play in CASES.items()}
        except Unavailable as missing:
            section.skipped.append(str(missing))
            continue
        head.append("this client" if client == OURS else VERSIONS.get(client, client))
        for shown, said in found.items():
            rows[shown].append(said)
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
