"""A warm query through the client, compared with the bare driver and with the alternatives, in turn
on one server.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from functools import partial
from itertools import cycle, islice, permutations
from typing import Any

from psycopg.rows import dict_row
from pymysql.cursors import DictCursor

from lab.servers import Proxy, Server, Unavailable, start
from reaper.client import Database
from reaper.client.deadline import Deadline
from reaper.client.target import EngineName
from reaper.model import Flavour, Session, Snapshot, State
from reaper.policy import judge
from reaper.rules import Rules

from .base import Bar, Effort, Section, Spread, Table, interleaved, ratios, rest
from .chart import chart
from .subjects import ALONE, OF_ENGINE, OURS, VERSIONS, Worker, opened

ROUNDS, QUERIES = 101, 100
AT_MOST = 1.05
SERVERS = ("postgres16", "postgres18", "mariadb", "mysql")
QUERY, PARAMS = "SELECT id, value FROM items WHERE id = %s", (7,)
WHOLE = "SELECT id, value FROM items WHERE id = 7"
INVOCATIONS = 50
ENVIRONMENTS, HOUR, SWEEP_EVERY = 100, 3600, 300
BUSY_AFTERWARDS = 10
LIMIT = 150


def measure(effort: Effort) -> list[Section]:
    sections = []
    for name in SERVERS if effort.is_full else SERVERS[-1:]:
        section = Section(f"The client: {name}")
        try:
            with start(name) as server:
                rest()
                _warm(server, effort, section)
                if name != "postgres16":
                    _beside_others(server, effort, section)
        except Unavailable as missing:
            section.skipped.append(str(missing))
        sections.append(section)
    return [*sections, an_hour()]


def alone(server: Server) -> Callable[[], Any]:
    """The query as a careful application would send it through the driver: one connection, dicts, a
    read timeout.
    """
    connection = server.connect("app")
    if server.engine == "postgres":
        connection.row_factory = dict_row
        connection.prepare_threshold = None
        return lambda: connection.execute(QUERY, PARAMS).fetchall()

    def query() -> Any:
        with connection.cursor(DictCursor) as cursor:
            cursor.execute(QUERY, PARAMS)
            return cursor.fetchall()

    return query


def checked(db: Database) -> Callable[[], Any]:
    """The check of a kept connection and one query, without the code that decides on a retry."""
    keeper = db._kept

    def query() -> Any:
        rows = keeper.ready(Deadline.after(10)).run(QUERY, PARAMS).rows
        keeper.used()
        return rows

    return query


def microseconds(queries: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    """The median of each. They alternate query by query, so that what else the machine does affects
    all alike.
    """
    taken: dict[str, list[float]] = {who: [] for who in queries}
    for order in islice(cycle(permutations(queries)), QUERIES):
        for who in order:
            began = time.perf_counter()
            queries[who]()
            taken[who].append(time.perf_counter() - began)
    return {who: statistics.median(times) * 1e6 for who, times in taken.items()}


def _warm(server: Server, effort: Effort, section: Section) -> None:
    with closing(Database(server.dsn("app"))) as db, closing(Database(server.dsn("app"))) as other:
        queries: dict[str, Callable[[], Any]] = {
            "driver": alone(server),
            "check": checked(other),
            "client": partial(db.query, QUERY, PARAMS),
        }
        if not queries["driver"]() == queries["check"]() == queries["client"]():
            raise SystemExit("they do not ask the same")
        microseconds(queries)
        rounds = [microseconds(queries) for _ in range(effort.rounds(ROUNDS))]
    taken = {who: [found[who] for found in rounds] for who in queries}
    for who, what in (("check", "the check and one query"), ("client", "a warm query")):
        section.bars.append(
            Bar(f"{what} / the driver alone", ratios(taken[who], taken["driver"]), AT_MOST)
        )
    rows = [[who, Spread(times).told(1)] for who, times in taken.items()]
    section.tables.append(
        Table("Microseconds of a warm query by primary key, in one process", ("", "µs"), rows)
    )
    section.notes.append(_LIMIT)
    section.raw["warm"] = taken


_LIMIT = (
    "`check`: whether the kept connection is still good, and the query; `client`: the same "
    "through `db.query`, "
    "which also decides what the statement may be, whose turn it is and whether to try again. "
    "Between two machines "
    "the network's time comes on top of both sides, so this is the worst case. Both ask without "
    "prepared statements: "
    "psycopg prepares after five runs unless told not to, which is faster still and not safe "
    "behind a transaction "
    "pooler. What was gained so far: one cursor for all statements, PyMySQL's packets cut from "
    "one buffer and column "
    "descriptions read once, one poll object, time-outs set only when they must change."
)


def _beside_others(server: Server, effort: Effort, section: Section) -> None:
    """Compare the clients, each in a process of its own, one after the other in every round."""
    with ExitStack() as stack:
        workers, missing = opened((*ALONE[server.engine], *OF_ENGINE[server.engine]), server)
        for worker in workers:
            stack.callback(worker.close)
        section.skipped += missing
        for worker in workers:
            told = worker.ask(do="times", n=QUERIES, sql=WHOLE)
            if "error" in told:
                raise RuntimeError(f"{worker.name}: {told['error']}")
        asked = {worker.name: partial(_times, worker) for worker in workers}
        taken = interleaved(asked, effort.rounds(21))
    trips = {name: round_trips(server, name) for name in taken}
    thaws = {
        name: recovery(server, name, effort.rounds(5))
        for name in taken
        if name in OF_ENGINE[server.engine]
    }
    head = (
        "client",
        "µs, an invocation",
        "to its driver alone",
        "round trips an invocation",
        "ms to recover",
    )
    rows = []
    for name, times in taken.items():
        base = taken[ALONE[server.engine][name.startswith(("serverless", "mysql2", "pg"))]]
        cells = [
            VERSIONS.get(name, name),
            Spread(times).told(0),
            Spread(ratios(times, base).samples).told(),
        ]
        rows.append([*cells, f"{trips[name]:.2f}", thaws.get(name, "raises")])
    title = (
        "One read per invocation; "
        "to recover: the first invocation after the session was killed in a freeze"
    )
    section.tables.append(Table(title, head, rows))
    section.bars.append(Bar("round trips per invocation", Spread([trips[OURS]]), 1.0))
    section.raw |= {"beside": taken, "round_trips": trips}


def _times(worker: Worker) -> float:
    return float(worker.ask(do="times", n=QUERIES, sql=WHOLE)["result"])


def round_trips(server: Server, name: str) -> float:
    """The requests of a warm invocation, counted by a proxy."""
    with (
        Proxy(server.host, server.port) as proxy,
        closing(Worker(name, server, "127.0.0.1", proxy.port)) as worker,
    ):
        worker.ask(do="times", n=1, sql=WHOLE)
        before = proxy.counts.requests
        worker.ask(30.0, do="times", n=INVOCATIONS, sql=WHOLE)
        return (proxy.counts.requests - before) / INVOCATIONS


def recovery(server: Server, name: str, rounds: int) -> str:
    """Milliseconds of the first invocation after its session was killed, or that it fails."""
    kill, taken = _killer(server), []
    with closing(Worker(name, server, server.host, server.port)) as worker:
        for _ in range(rounds):
            worker.ask(do="run", sql=WHOLE)
            kill()
            # Stands for the freeze: by its end the server's goodbye has arrived
            time.sleep(0.1)
            began = time.perf_counter()
            told = worker.ask(do="run", sql=WHOLE)
            if "error" in told:
                return f"raises {told['error']}"
            taken.append(1000 * (time.perf_counter() - began))
    return Spread(taken).told(1)


def _killer(server: Server) -> Callable[[], None]:
    def kill() -> None:
        if server.engine == "postgres":
            server.query(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'"
            )
            return
        for row in server.query("SELECT ID FROM information_schema.processlist WHERE USER = 'app'"):
            server.query(f"KILL {row[0]}")

    return kill


def an_hour() -> Section:
    """Connections that a hundred environments hold once the rush is over: simulated time, the
    reaper's own policy.

    For ten minutes all are busy, then a tenth of them; each is frozen between its invocations, one
    a minute. Lambda keeps the others frozen for the rest of the hour. Closed: the client's
    extension, when Lambda retires them.
    """
    held = {
        "nothing but a pool": _held(None),
        "the reaper, every 5 minutes": _held(Rules.from_json({"dry_run": False})),
        "serverless-mysql: end() of those that still run": _held_by_ends(),
    }
    section = Section("An hour of a hundred environments, simulated")
    lines = {
        name: [(minute, float(count)) for minute, count in counts.items()]
        for name, counts in held.items()
    }
    section.charts["hour.svg"] = chart(
        "Connections held", lines, "minute", "connections", is_log=False
    )
    rows = [
        [name, *(str(counts[minute]) for minute in (5, 15, 30, 45, 60))]
        for name, counts in held.items()
    ]
    section.tables.append(Table("Connections held", ("", "minute 5", "15", "30", "45", "60"), rows))
    section.notes.append(
        f"{ENVIRONMENTS} environments, max_connections = {LIMIT}. From minute 10 on "
        f"{BUSY_AFTERWARDS} of them are "
        "busy, one invocation a minute each; the rest are frozen. The reaper's rules are its "
        "defaults. "
        "serverless-mysql acts only above 80 % of the server's connections, which are not reached "
        "here, or on sessions "
        "that have slept for 900 s, in the end() of whoever runs next."
    )
    section.raw = {name: {str(m): c for m, c in counts.items()} for name, counts in held.items()}
    return section


def _used(second: int) -> dict[int, int]:
    """The time at which each environment last ran."""
    busy_until = 600
    return {
        number: second - (second + number) % 60
        if number < BUSY_AFTERWARDS
        else min(second, busy_until)
        for number in range(ENVIRONMENTS)
    }


def _held(rules: Rules | None) -> dict[int, int]:
    held, counts = set(range(ENVIRONMENTS)), {}
    for second in range(0, HOUR + 1, 60):
        last = _used(second)
        held |= {number for number, at in last.items() if second - at < 60}
        if rules and second % SWEEP_EVERY == 0:
            sessions = tuple(
                Session(
                    id=n,
                    user="app",
                    database="shop",
                    state=State.IDLE,
                    idle_seconds=float(second - last[n]),
                )
                for n in sorted(held)
            )
            snapshot = Snapshot(
                EngineName.MYSQL, Flavour.MYSQL, sessions, used=len(held), max_connections=LIMIT
            )
            held -= {verdict.session.id for verdict in judge(snapshot, rules).victims}
        counts[second // 60] = len(held)
    return counts


def _held_by_ends() -> dict[int, int]:
    """Every environment that runs kills what has slept for 900 s, that client's default."""
    counts = {}
    for second in range(0, HOUR + 1, 60):
        counts[second // 60] = sum(second - at < 900 for at in _used(second).values())
    return counts
