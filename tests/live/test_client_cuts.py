"""A transaction whose connection is cut, at every point and in every way: never two effects, never
half.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from typing import cast

import pytest

from lab.context import Context
from lab.servers import Server, until
from lab.servers.proxy import Proxy, Then, Where
from reaper.client.attempt import OutcomeUnknown
from reaper.client.database import Database
from reaper.client.deadline import RESERVE
from reaper.client.kept import Clocks
from reaper.client.transaction import Transaction
from tests.conftest import Servers
from tests.live.test_client import end, fresh_tables, session

SLOW = 0.25
PATIENCE = 0.4


@dataclass(frozen=True)
class Moment:
    """before: the server does not get the statement. during: it runs it. after: its answer is on
    its way.
    """

    where: Where
    statement: str

    def __str__(self) -> str:
        return f"{self.where} {self.statement.split()[0]}"


INSERT = "INSERT INTO orders"
DURING_WORK = Moment("during", INSERT)
DURING_COMMIT = Moment("during", "COMMIT")
MOMENTS = (
    Moment("before", "BEGIN"),
    Moment("after", "BEGIN"),
    # Between two statements
    Moment("before", INSERT),
    DURING_WORK,
    Moment("before", "COMMIT"),
    DURING_COMMIT,
    Moment("after", "COMMIT"),
)


# Of each engine one that is ours: another's may speak TLS, in which no statement is found.
@pytest.fixture(params=["postgres18", "mariadb", "mysql"])
def engine(request: pytest.FixtureRequest, servers: Servers) -> Server:
    """A server with empty tables."""
    found = servers[request.param]
    fresh_tables(found)
    return found


@pytest.fixture
def proxy(engine: Server) -> Iterator[Proxy]:
    with Proxy(engine.host, engine.port) as running:
        yield running


class Stopwatch:
    """A clock that stands still until it is started, so that no deadline passes before the cut it
    is there for.
    """

    def __init__(self) -> None:
        self._began: float | None = None
        self._waits_for: threading.Event | None = None

    def start_with(self, event: threading.Event) -> None:
        self._waits_for = event

    def __call__(self) -> float:
        if self._began is None:
            if self._waits_for is None or not self._waits_for.is_set():
                return 0.0
            self._began = time.monotonic()
        return time.monotonic() - self._began


@pytest.fixture
def clock() -> Stopwatch:
    return Stopwatch()


@pytest.fixture
def db(engine: Server, proxy: Proxy, clock: Stopwatch) -> Iterator[Database]:
    """A database behind the proxy, connected."""
    with closing(
        Database(proxy.through(engine).dsn("app"), clocks=Clocks(clock=clock))
    ) as database:
        database.query("SELECT 1")
        yield database


class Work:
    """Two changes that belong together; the second takes its time, in the first run only."""

    def __init__(self, engine: Server, wait: float) -> None:
        self._first = (
            f"SLEEP({wait}) = 0"
            if engine.engine == "mysql"
            else f"(SELECT pg_sleep({wait})) IS NOT NULL"
        )
        self.runs = 0

    def __call__(self, tx: Transaction) -> str:
        self.runs += 1
        tx.execute("UPDATE items SET value = value + 1 WHERE id = 1")
        condition = self._first if self.runs == 1 else "1 = 1"
        tx.execute(f"{INSERT} (what) SELECT 'once' FROM items WHERE id = 1 AND {condition}")
        return "done"


# A COMMIT that takes its time: in the binary log's group commit, or in a deferred trigger that goes
# with the table.
SLOW_COMMITS = {
    "mysql": [f"SET GLOBAL binlog_group_commit_sync_delay = {SLOW * 1e6:.0f}"],
    "mariadb": [
        f"SET GLOBAL binlog_commit_wait_usec = {SLOW * 1e6:.0f}",
        "SET GLOBAL binlog_commit_wait_count = 9",
    ],
    "postgres": [
        "CREATE OR REPLACE FUNCTION take_time() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN PERFORM pg_sleep({SLOW}); RETURN NULL; END $$",
        "CREATE CONSTRAINT TRIGGER takes_time AFTER INSERT ON orders DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION take_time()",
    ],
}
QUICK_COMMITS = {
    "mysql": ["SET GLOBAL binlog_group_commit_sync_delay = 0"],
    "mariadb": ["SET GLOBAL binlog_commit_wait_count = 0"],
    "postgres": ["DROP TRIGGER takes_time ON orders"],
}


@contextmanager
def slow_commits(server: Server) -> Iterator[None]:
    with closing(server.connect(server.root)) as connection:
        admin = server.kind.client(connection, server.root)
        for statement in SLOW_COMMITS[server.flavour]:
            admin.run(statement)
        try:
            yield
        finally:
            for statement in QUICK_COMMITS[server.flavour]:
                admin.run(statement)


class Cut:
    """Lies in wait for the moment and ends the connection then: by the network, or by another
    session's KILL.
    """

    def __init__(self, server: Server, proxy: Proxy, id_: int, moment: Moment, how: str) -> None:
        self._server, self._proxy, self._id = server, proxy, id_
        self._moment, self._kills = moment, how == "kill"
        self._told = threading.Event()
        # On MySQL it is spelt out, for sql_mode=ORACLE takes BEGIN for a block's.
        begin = "START TRANSACTION" if server.engine == "mysql" else "BEGIN"
        pattern = moment.statement.replace("BEGIN", begin).encode()
        # What the server still says is lost, so that the client hears of nothing but the end
        if self._kills:
            where: Where = "before" if moment.where == "before" else "during"
            self.trap = proxy.cut_when(pattern, where, "silence", on=self._told)
        else:
            self.trap = proxy.cut_when(pattern, moment.where, cast(Then, how), on=self._told)

    def spring(self) -> None:
        if not self.trap.met.wait(10):
            return
        if self._kills or self._moment.where == "during":
            is_busy = self._moment.where == "during"
            until(
                lambda: (self._server.states().get(self._id) in ("active", "Query")) is is_busy,
                timeout=1,
            )
        if self._kills:
            end(self._server, self._id)
            self._proxy.cut()
        self._told.set()


@pytest.mark.parametrize("token", [None, "event-1"])
@pytest.mark.parametrize("how", ["kill", "close", "reset", "silence"])
@pytest.mark.parametrize("moment", MOMENTS, ids=str)
def test_cut(
    db: Database,
    clock: Stopwatch,
    proxy: Proxy,
    engine: Server,
    moment: Moment,
    how: str,
    token: str | None,
) -> None:
    """With a token exactly one effect; without, one or an error that says it is unknown; never two,
    never half.
    """
    first = session(db)
    cut = Cut(engine, proxy, first, moment, how)
    clock.start_with(cut.trap.met)
    springing = threading.Thread(target=cut.spring)
    work = Work(engine, SLOW if moment is DURING_WORK else 0)
    with slow_commits(engine) if moment is DURING_COMMIT else nullcontext():
        springing.start()
        came_of_it = outcome(
            db, work, token, Context(RESERVE + PATIENCE) if how == "silence" else Context()
        )
        springing.join(20)
        assert cut.trap.met.is_set()
        # Lambda's own retry of the same event
        if token and came_of_it != "done":
            assert how == "silence"
            assert outcome(db, work, token, Context()) == "done"
        assert until(lambda: first not in engine.states(), timeout=10)

    if how != "silence" and not (moment.statement == "COMMIT" and token is None and db.is_mysql):
        assert came_of_it == "done"
    assert effects(engine) in (
        [1] if token else {"done": [1], "unknown": [0, 1], "failed": [0]}[came_of_it]
    )


def outcome(db: Database, work: Work, token: str | None, context: Context) -> str:
    """What the application is told: done, unknown, or any other error, which means not done."""
    handler = db.handler(lambda event, context: db.transaction(work, token=token, name="work"))
    try:
        return str(handler({}, context))
    except OutcomeUnknown:
        return "unknown"
    except Exception:  # noqa: BLE001  whatever it is, it must mean that nothing was done
        return "failed"


def effects(server: Server) -> int:
    """How often the work is there; either half stands for it."""
    with closing(server.connect("app")) as connection:
        client = server.kind.client(connection, "app")
        ((value,),) = client.run("SELECT value FROM items WHERE id = 1")
        ((rows,),) = client.run("SELECT count(*) FROM orders")
    assert value == rows, f"half: {value} updates, {rows} rows"
    return int(rows)
