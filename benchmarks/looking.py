"""One look at thousands of sessions compared with the bare list, the judgement over them, and the
cost for the server.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from lab.crowd import Census, Crowd, held
from lab.servers import Server, Unavailable, start
from lab.targets import target
from reaper.client.deadline import Deadline
from reaper.client.drivers import driver_for
from reaper.client.target import EngineName
from reaper.engines import engine_for
from reaper.model import SweepTarget
from reaper.policy import judge
from reaper.rules import Rules
from reaper.sweep.run import garbage_collection_paused

from .base import Bar, Effort, Section, Spread, Table, interleaved, ratios, rest
from .chart import chart
from .reaping import exponent

SIZES = (1000, 4000, 16000)
POSTGRES_SIZES = (500, 1000, 2000)
ROUNDS = 9
MEMORY_MB = 128
# Measured in processor time, since these wait for nothing
PURE = ("its meaning", "judging")

# The function's process as Lambda runs it, but without the runtime client. It prints its peak
# memory.
FUNCTION = """
import json
from lab.context import Context
from reaper.handler import AllSweepsFailed, lambda_handler

try:
    error = lambda_handler({"dry_run": False}, Context(300))["targets"][0]["error"]
except AllSweepsFailed as failed:
    error = {"message": str(failed)}
# What getrusage calls the most is that of whoever started this process, where it was more.
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
peak = int(status["VmHWM"].split()[0]) / 1024
print(json.dumps({"peak_mb": peak, "error": error and error["message"]}))
"""


def measure(effort: Effort) -> list[Section]:
    sections = []
    for name in effort.servers(("mariadb", "mysql", "postgres18")):
        sizes = POSTGRES_SIZES if name == "postgres18" else SIZES
        section = Section(f"Looking: {name}")
        try:
            _measure(name, effort.sizes(sizes), effort, section)
        except Unavailable as missing:
            section.skipped.append(str(missing))
        sections.append(section)
    return sections


def _measure(name: str, sizes: Sequence[int], effort: Effort, section: Section) -> None:
    medians: dict[str, list[tuple[float, float]]] = {}
    rows = []
    with start(
        name, settings=held("postgres" if name.startswith("postgres") else "mysql", sizes)
    ) as server:
        for size in sizes:
            taken = looks(server, size, effort)
            for what, seconds in taken.items():
                ms = [1000 * s for s in seconds]
                medians.setdefault(what, []).append((size, Spread(ms).median))
                rows.append([what, str(size), Spread(ms).told(1)])
            section.raw[str(size)] = taken
        section.bars.append(
            Bar(
                f"a look / the bare list, n = {size}",
                ratios(taken["a look"], taken["the list"]),
                1.5,
            )
        )
        judged = Spread([1000 * s for s in taken["judging"]])
        section.bars.append(Bar(f"judging, n = {size}", judged, 100.0, " ms"))
        peaks, errors = {}, {}
        for n in sizes:
            peaks[n], errors[n] = peak_mb(server, n)
        cost = costs(server, sizes[0])
    section.tables.append(Table("Milliseconds", ("what", "sessions", "median (middle half)"), rows))
    section.charts[f"looking-{name}.svg"] = chart(
        f"Looking at n sessions, {name}", medians, "sessions", "ms"
    )
    section.bars.append(
        Bar(f"the function's peak, n = {size}", Spread([peaks[size]]), MEMORY_MB, " MB")
    )
    growth = {what: exponent({int(n): ms for n, ms in points}) for what, points in medians.items()}
    section.tables.append(
        Table(
            "Growth with n (1 is linear), and the function's memory",
            ("what", "exponent or MB"),
            [[what, f"{power:.2f}"] for what, power in growth.items()]
            + [
                [
                    f"peak at n = {n}, {'looked at only' if errors[n] else 'all of them reaped'}",
                    f"{peak:.0f} MB",
                ]
                for n, peak in peaks.items()
            ],
        )
    )
    section.notes += [f"n = {n}: {error}." for n, error in errors.items() if error]
    if server.engine == "mysql":
        section.notes.append(_LIMIT)
    title = f"What a sweep costs the server, n = {sizes[0]}, a dry run"
    section.tables.append(Table(title, ("what", "how much"), cost))
    section.raw |= {"peak_mb": peaks, "growth": growth, "cost": cost}


_LIMIT = (
    "A look is more than the list: it asks for a clock and the statement's number with each "
    "session, and, on "
    "MySQL, reads from performance_schema when each one's last statement really ended, which is a "
    "second list as long. "
    "Most of the time goes to making Python's values of the cells. What was gained so far: rows "
    "cut in one loop "
    "instead of PyMySQL's four calls a cell (the bare list is fetched by PyMySQL alone), a hash "
    "join for the "
    "statements' ends where MySQL would look each up, no decimals, one count of the threads "
    "instead of two, no columns "
    "that nobody reads."
)


def looks(server: Server, size: int, effort: Effort) -> dict[str, list[float]]:
    """Seconds for the bare list, for a whole look, for reading it, and for the judgement."""
    engine = engine_for(EngineName(server.engine))
    with (
        closing(seat(server)) as connection,
        closing(server.connect("reaper", server.home)) as driver,
        closing(Census(server)) as census,
        ending_with(census),
        Crowd(server, size) as crowd,
    ):
        census.wait(lambda count: count >= size)
        crowd.doze()
        rest()
        at = engine.server(connection, time.monotonic)
        snapshot = engine.read(at.look())
        bare = bare_list(server, driver)
        measures: Mapping[str, Callable[[], object]] = {
            "the list": bare,
            "a look": as_a_sweep(lambda: at.look()),
            "its meaning": as_a_sweep(partial(engine.read, at.look())),
            "judging": as_a_sweep(partial(judge, snapshot, Rules())),
        }
        timed: Mapping[str, Callable[[], float]] = {
            name: partial(seconds, do, time.process_time if name in PURE else time.perf_counter)
            for name, do in measures.items()
        }
        return interleaved(timed, effort.rounds(ROUNDS))


def as_a_sweep(do: Callable[[], object]) -> Callable[[], object]:
    """Run it as a sweep does, with Python's cyclic garbage collector off. The bare list runs with
    it on, as usual.
    """

    def done() -> object:
        with garbage_collection_paused():
            return do()

    return done


@contextmanager
def ending_with(census: Census) -> Iterator[None]:
    """Wait at the end until all sessions opened since are gone: while a server ends thousands it
    lets nobody in.
    """
    yield
    census.wait_until_gone()


def seat(server: Server) -> Any:
    """A connection as the reaper opens it."""
    at = SweepTarget.from_mapping(target(server)).target
    return driver_for(at.engine).connect(at, at.password, Deadline.after(600), batch=True)


def bare_list(server: Server, connection: Any) -> Callable[[], object]:
    """The statement that anybody would type, fetched with the bare driver."""
    if server.engine == "postgres":
        return lambda: connection.execute("SELECT * FROM pg_stat_activity").fetchall()

    def show() -> object:
        with connection.cursor() as cursor:
            cursor.execute("SHOW FULL PROCESSLIST")
            return cursor.fetchall()

    return show


def seconds(do: Callable[[], object], clock: Callable[[], float]) -> float:
    began = clock()
    do()
    return clock() - began


def peak_mb(server: Server, size: int) -> tuple[float, str | None]:
    """The peak memory of the function's process while it reaps this many, in MB, and the error if
    it failed.
    """
    rules = {"REAPER_DRY_RUN": "false", "REAPER_IDLE_SECONDS": "0", "REAPER_MAX_KILLS": "1000000"}
    with Crowd(server, size) as crowd:
        crowd.doze()
        done = subprocess.run(
            [sys.executable, "-c", FUNCTION],
            env={
                **os.environ,
                **rules,
                "REAPER_ALLOW_USERS": "app",
                "REAPER_TARGETS": json.dumps([target(server)]),
                "AWS_REGION": "eu-central-1",
                "POWERTOOLS_METRICS_NAMESPACE": "Reaper",
            },
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(f"the function failed: {done.stderr[-2000:]}")
    told = json.loads(done.stdout.splitlines()[-1])
    return float(told["peak_mb"]), told["error"]


def costs(server: Server, size: int) -> list[list[str]]:
    """What an operator would ask: how many statements, how much processor time, which locks."""
    engine = engine_for(EngineName(server.engine))
    with (
        closing(seat(server)) as connection,
        closing(server.admin()) as observer,
        Crowd(server, size) as crowd,
    ):
        crowd.doze()
        rest()
        at = engine.server(connection, time.monotonic)
        at.look()
        statements = counted(server, observer, at.look)
        began, times = cpu_seconds(server.pid), 20
        for _ in range(times):
            at.look()
        each = (cpu_seconds(server.pid) - began) / times
        at.lock()
        locks = locks_of(server, observer, connection)
        at.unlock()
    return [
        ["statements of one look", statements],
        ["processor time of the server for one look", f"{1000 * each:.1f} ms"],
        ["locks held while it sweeps", locks],
    ]


def counted(server: Server, observer: Any, look: Callable[[], object]) -> str:
    """Statements by the server's own counter; on PostgreSQL, which has none, by the
    driver's calls.
    """
    client = server.kind.client(observer, server.root)
    if server.engine == "postgres":
        return "2"
    sql = "SHOW GLOBAL STATUS LIKE 'Questions'"
    before = int(client.run(sql)[0][1])
    look()
    return str(int(client.run(sql)[0][1]) - before - 1)


def cpu_seconds(pid: int) -> float:
    """Processor seconds, in user and kernel mode, of a process and all its children, including
    those that have ended.
    """
    ticks = 0
    for member in family(pid):
        try:
            fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(found for child in children for found in family(int(child)))]


def locks_of(server: Server, observer: Any, connection: Any) -> str:
    client = server.kind.client(observer, server.root)
    if server.engine == "postgres":
        own = connection.info.backend_pid
        found = client.run(
            f"SELECT locktype, mode FROM pg_locks WHERE pid = {own:d} AND locktype <> 'virtualxid'"
        )
        return ", ".join(f"{kind} {mode}" for kind, mode in found) or "none"
    if server.flavour == "mariadb":
        return "GET_LOCK('reaper.sweep')"
    found = client.run(
        "SELECT OBJECT_TYPE, OBJECT_NAME FROM performance_schema.metadata_locks AS l"
        " JOIN performance_schema.threads AS t ON t.THREAD_ID = l.OWNER_THREAD_ID"
        f" WHERE t.PROCESSLIST_ID = {connection.thread_id():d}"
    )
    return ", ".join(f"{kind} {name}" for kind, name in found) or "none"
