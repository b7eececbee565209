"""Reaping thousands of idle sessions, compared with one raw batch of kills and with pt-kill; and
the window of the race.
"""

from __future__ import annotations

import math
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import pymysql
from pymysql.constants import CLIENT

from lab.crowd import Census, Crowd, held
from lab.servers import Server, Unavailable, processes, start
from lab.targets import target
from reaper import grants
from reaper.client.deadline import Deadline
from reaper.client.drivers import driver_for
from reaper.client.events import GivenUp
from reaper.client.target import EngineName
from reaper.engines import engine_for
from reaper.engines.base import ChunkOutcome
from reaper.model import KillMethod, Outcome, SweepTarget
from reaper.rules import Rules
from reaper.seat import Seat
from reaper.sweep import Sweep

from .base import Bar, Effort, Section, Spread, Table, interleaved, percentile, ratios, rest
from .chart import chart

SIZES = (500, 1000, 2000, 4000, 8000, 16000)
# Each session is a process of its own
POSTGRES_SIZES = (500, 1000, 2000)
# mysql.rds_kill reads the whole process list for each kill
QUADRATIC_SIZES = (500, 1000, 2000, 4000)
ROUNDS, ROUNDS_OF_SLOW = 5, 3
# Seconds. Once a way took this long, larger crowds are measured in fewer rounds.
SLOW = 2.0
# The most sessions that are not the crowd's
BESIDE = 20
SWEEPS = 5
# Seconds. A way that takes this long is not measured with larger crowds.
TOO_LONG = 30.0
OURS, RAW, PT_KILL = "the reaper", "one raw batch", "pt-kill"


class Way(Protocol):
    """One way to end all sessions of `app`; returns when it has nothing more to do."""

    def __call__(self) -> None: ...


class GaveUp(Exception):
    """A way did not finish at this size on this machine."""


@dataclass
class Windows:
    """The longest time from the start of a victim's re-read to its kill: the time of its whole
    chunk.
    """

    seconds: list[float] = field(default_factory=list)

    def add(self, struck: ChunkOutcome, looks_itself: bool) -> None:
        killed = sum(outcome is Outcome.SIGNALLED for outcome in struck.outcomes.values())
        # If the server itself looks right before each kill, a chunk is a series of windows.
        each = struck.seconds / max(1, len(struck.outcomes)) if looks_itself else struck.seconds
        self.seconds += [each] * killed


class Watched:
    """An engine whose kills are timed."""

    def __init__(self, engine: Any, windows: Windows) -> None:
        self._engine, self._windows = engine, windows

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def server(self, connection: Any, clock: Any) -> Any:
        server = self._engine.server(connection, clock)
        terminate = server.terminate

        def timed(victims: Sequence[Any]) -> ChunkOutcome:
            chunk: ChunkOutcome = terminate(victims)
            self._windows.add(chunk, server.method is KillMethod.KILL_IF_IDLE)
            return chunk

        server.terminate = timed
        return server


class Reaper:
    """Sweeps on a kept connection, as a warm function does."""

    def __init__(self, server: Server, user: str, idle_seconds: float = 0.0) -> None:
        self._target = SweepTarget.from_mapping(target(server, user))
        self._seat = Seat(self._target.target, driver_for(self._target.target.engine))
        self._seat.ready(Deadline.after(10))
        self._rules = Rules.from_json(
            {
                "dry_run": False,
                "idle_seconds": idle_seconds,
                "max_kills": 10**6,
                "allow_users": ["app"],
                # One look: under pressure it would look again afterwards
                "trigger_utilization": 1.0,
            }
        )
        self.windows = Windows()
        self.terminated = self.given_up = 0

    def __call__(self) -> None:
        """Sweep until one has finished: one that found the machine too slow to be sure is run
        again.
        """
        for _ in range(SWEEPS):
            report = self._sweep().run()
            if report.error is None:
                self.terminated = sum(
                    victim.outcome is Outcome.TERMINATED for victim in report.victims
                )
                return
            self.given_up += 1
        raise GaveUp(
            f"{SWEEPS} sweeps in a row failed, the last with: "
            f"{report.error and report.error.message}"
        )

    def _sweep(self) -> Sweep:
        return Sweep(
            self._target,
            self._rules,
            "manual",
            Deadline.after(600),
            seat=self._seat,
            engines=lambda name: Watched(engine_for(name), self.windows),
        )

    def close(self) -> None:
        self._seat.discard(GivenUp.CLOSED)


class RawMySQL:
    """The ids of all idle sessions, and their KILLs in one packet, without a second look at any of
    them.
    """

    def __init__(self, server: Server, user: str) -> None:
        self._connection = pymysql.connect(
            host=server.host,
            port=server.port,
            user=user,
            client_flag=CLIENT.MULTI_STATEMENTS,
            ssl_disabled=True,
        )

    def __call__(self) -> None:
        with self._connection.cursor() as cursor:
            cursor.execute(
                "SELECT ID FROM information_schema.processlist WHERE USER = 'app' AND COMMAND = "
                "'Sleep'"
            )
            cursor.execute("; ".join(f"KILL {row[0]:d}" for row in cursor.fetchall()))
            while cursor.nextset():
                pass

    def close(self) -> None:
        self._connection.close()


class RawPostgres:
    """One statement over all idle sessions, without a guard."""

    def __init__(self, server: Server) -> None:
        self._connection = server.connect("reaper")

    def __call__(self) -> None:
        sql = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE usename = 'app' AND state = 'idle'"
        )
        self._connection.execute(sql).fetchall()

    def close(self) -> None:
        self._connection.close()


class PtKill:
    """Percona's pt-kill, warm: it has connected and is frozen in its interval until its turn."""

    INTERVAL = 1

    def __init__(self, server: Server, user: str, *options: str) -> None:
        self._process = processes.spawn(
            [
                *(
                    self._program(),
                    f"h={server.host},P={server.port},u={user}",
                    "--no-version-check",
                ),
                *(
                    "--match-user",
                    "^app$",
                    "--match-command",
                    "^Sleep$",
                    "--victims",
                    "all",
                    "--kill",
                ),
                *("--interval", str(self.INTERVAL), *options),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        # It does not tell when it has connected; by now it has looked once
        time.sleep(2 * self.INTERVAL)
        if self._process.poll() is not None:
            raise Unavailable("pt-kill does not start: perl's DBD::mysql may be missing")
        self.stop()

    def stop(self) -> None:
        processes.freeze(self._process)
        self._ready = time.monotonic() + self.INTERVAL

    def get_ready(self) -> None:
        """Wait until its interval is over, which goes on while it is frozen: then it looks as soon
        as it is thawed.
        """
        # Its clock may differ by a few milliseconds
        time.sleep(max(0.0, self._ready - time.monotonic()) + 0.05)

    def __call__(self) -> None:
        processes.thaw(self._process)

    def close(self) -> None:
        processes.thaw(self._process)
        processes.end(self._process)

    @staticmethod
    def _program() -> str:
        if program := shutil.which("pt-kill"):
            return program
        raise Unavailable("pt-kill is not on the PATH; it is in the package percona-toolkit")

    @classmethod
    def version(cls) -> str:
        done = subprocess.run(
            [cls._program(), "--version"], capture_output=True, text=True, check=True
        )
        return done.stdout.split()[-1]


def timed(server: Server, size: int, way: Any) -> float:
    """Seconds from the start to the last session gone, with this many sessions opened for it."""
    with closing(Census(server)) as census, Crowd(server, size) as crowd:
        census.wait(lambda count: count >= census.base + size)
        crowd.doze()
        rest()
        if isinstance(way, PtKill):
            way.get_ready()
        began = time.monotonic()
        way()
        ended = census.wait_until_gone()
        if isinstance(way, PtKill):
            way.stop()
    return ended - began


Times = dict[str, dict[int, list[float]]]


def grown(
    server: Server, ways: Mapping[str, Any], sizes: Sequence[int], effort: Effort, section: Section
) -> Times:
    """Seconds by way and by size, round by round. A way that does not finish is not measured any
    further.
    """
    times: Times = {name: {} for name in ways}
    going = dict(ways)
    for way in ways.values():
        timed(server, 100, way)
    for size in sizes:
        slowest = max(
            (Spread(seconds).median for by_size in times.values() for seconds in by_size.values()),
            default=0,
        )
        rounds = effort.rounds(ROUNDS_OF_SLOW if slowest > SLOW else ROUNDS)
        taken = interleaved(
            {name: partial(_tried, server, size, way, section) for name, way in going.items()},
            rounds,
        )
        for name, seconds in taken.items():
            if math.nan not in seconds:
                times[name][size] = seconds
            if math.nan in seconds or Spread(seconds).median > TOO_LONG:
                section.notes.append(f"{name}: no larger crowd than n = {size}.")
                del going[name]
    return times


def _tried(server: Server, size: int, way: Any, section: Section) -> float:
    try:
        seconds = timed(server, size, way)
        # A sign of life, since all of this takes long
        print(f"{server.name} {type(way).__name__} n = {size}: {seconds:.2f} s", flush=True)
        return seconds
    except (GaveUp, TimeoutError) as why:
        section.notes.append(f"{type(way).__name__}, n = {size}: {why}.")
        with closing(Census(server)) as census:
            census.wait(lambda count: count <= BESIDE)
        return math.nan


def exponent(points: Mapping[int, float]) -> float:
    """The slope of the line through the points on a log-log plot: 1 is linear, 2 quadratic."""
    across, up = [math.log(n) for n in points], [math.log(value) for value in points.values()]
    middle_x, middle_y = sum(across) / len(across), sum(up) / len(up)
    below = sum((x - middle_x) ** 2 for x in across)
    rise = sum((x - middle_x) * (y - middle_y) for x, y in zip(across, up, strict=True))
    return rise / below if below else 1.0


def fit(points: Mapping[int, float]) -> tuple[float, float]:
    """Least squares of the relative errors of seconds = a·n + b·n²; b is the quadratic part."""
    weighted = [(n / seconds, n * n / seconds) for n, seconds in points.items()]
    s11, s12, s22 = (sum(a[i] * a[j] for a in weighted) for i, j in ((0, 0), (0, 1), (1, 1)))
    r1, r2 = (sum(a[i] for a in weighted) for i in (0, 1))
    determinant = s11 * s22 - s12 * s12
    if len(points) < 2 or not determinant:
        return r1 / s11, 0.0
    return (r1 * s22 - r2 * s12) / determinant, (s11 * r2 - s12 * r1) / determinant


def measure(effort: Effort) -> list[Section]:
    sections = []
    for name in effort.servers(("mariadb", "mysql")):
        sections.append(_guarded(f"Reaping: {name}", partial(_mysql, name, effort)))
    for name in effort.servers(("postgres16", "postgres18")):
        sections.append(_guarded(f"Reaping: {name}", partial(_postgres, name, effort)))
    return sections


def _guarded(title: str, run: Callable[[Section], None]) -> Section:
    section = Section(title)
    try:
        run(section)
    except Unavailable as missing:
        section.skipped.append(str(missing))
    return section


@contextmanager
def _ways(
    stack: ExitStack, section: Section, makers: Mapping[str, Callable[[], Any]]
) -> Iterator[dict[str, Any]]:
    ways: dict[str, Any] = {}
    for name, make in makers.items():
        try:
            ways[name] = stack.enter_context(closing(make()))
        except Unavailable as missing:
            section.skipped.append(str(missing))
    yield ways


def _mysql(name: str, effort: Effort, section: Section) -> None:
    sizes = effort.sizes(SIZES)
    with start(name, settings=held("mysql", sizes)) as server:
        section.raw["version"] = server.query("SELECT VERSION()")[0][0]
        windows = {}
        with ExitStack() as stack:
            makers: dict[str, Callable[[], Any]] = {
                OURS: partial(Reaper, server, "reaper"),
                RAW: partial(RawMySQL, server, "reaper"),
                PT_KILL: partial(PtKill, server, "reaper"),
            }
            with _ways(stack, section, makers) as ways:
                times = grown(server, ways, sizes, effort, section)
                windows["plain KILL"] = ways[OURS].windows
                if PT_KILL in ways:
                    section.raw["pt_kill"] = PtKill.version()
        _add_bars(section, times, {RAW: _raw_most(name), PT_KILL: lambda _: 1.0})
        _show(section, name, "plain KILL", times)
        with ExitStack() as stack:
            makers = {
                "the reaper, rds_kill": partial(Reaper, server, "reaper_rds"),
                "pt-kill --rds": partial(PtKill, server, "reaper_rds", "--rds"),
                "the reaper, KILL": partial(Reaper, server, "reaper"),
            }
            with _ways(stack, section, makers) as ways:
                by_rds = grown(server, ways, effort.sizes(QUADRATIC_SIZES), effort, section)
                by_call = ways["the reaper, rds_kill"]
                windows["mysql.rds_kill"] = by_call.windows
                if by_call.given_up:
                    section.notes.append(_GAVE_UP.format(by_call.given_up))
        _add_rds_bars(section, by_rds)
        _show(section, f"{name}-rds", "mysql.rds_kill", by_rds)
        if effort.is_full:
            windows["kill_if_idle"] = by_procedure(server)
        _add_windows(section, windows)
        section.notes.append(_LIMIT[server.flavour])


_LIMIT = {
    "mariadb": (
        "No chunk is read again: MariaDB has no index on its list, so that would scan all of it "
        "(1.6 to 2.5 "
        "raw batches up to n = 4000, and nobody at all within the window at 16,000). Instead each "
        "victim is looked up "
        "by its QUERY_ID right before its kill, in the same statement; to find somebody MariaDB "
        "walks through its "
        "threads, the n² in the fit, of which a raw batch pays half. So the newest go first, "
        "where the walk begins. "
        "What a raw batch has not at all is the judgement: rows, sessions and verdicts, some 20 "
        "to 40 µs of Python's "
        "for each session, where a kill takes the server 80 to 130. rds_kill scans the list for "
        "each kill, hence its "
        "n²; there, too, nothing is read again, for who may not KILL is still told whether a "
        "QUERY_ID is somebody's."
    ),
    "mysql": (
        "Each chunk is re-read by index first, the list and the last events in one statement. Its "
        "kills go in packets "
        "of eight, for what was sent cannot be called back once the window is over: a raw batch "
        "is one packet. A kill "
        "takes the server 0.7 ms and more on two cores, for plain KILL and rds_kill alike, so at "
        "few sessions neither "
        "can be much ahead of the other. pt-kill re-reads nothing. To find somebody by index "
        "MySQL walks through all "
        "events: at thousands of sessions the re-reads cost what is saved elsewhere, and with "
        "rds_kill, of which few "
        "fit into a window, they come on top."
    ),
}
_LIMIT["postgres"] = (
    "A window ends when the last kill of its statement was ordered, by the server's clock: none "
    "is after 40 ms. "
    "Its answer may come later, since the sessions that end take the processors: so does the next "
    "statement, and a raw "
    "batch is one. Each reads its victims' activity anew, by the function behind "
    "pg_stat_activity, for the view would "
    "make rows of everybody's each time. What a raw batch has not at all is the look, the "
    "judgement and the verifying."
)
_GAVE_UP = (
    "{} sweeps by rds_kill ended before their time, because no kill could be sure to follow its "
    "re-read within 50 ms "
    "on this machine at that moment; they were run again, and their time counts."
)


def _raw_most(name: str) -> Callable[[int], float | None]:
    """How many times as long as one raw batch the reaper may take, at each size."""
    at_most = {16000: 2.0} if name == "mariadb" else {}
    return lambda size: 1.3 if size <= 4000 else at_most.get(size)


def _add_bars(
    section: Section, times: Times, most: Mapping[str, Callable[[int], float | None]]
) -> None:
    for other, limit in most.items():
        for size, seconds in times.get(other, {}).items():
            if size in times[OURS] and (bar := limit(size)):
                section.bars.append(
                    Bar(f"{OURS} / {other}, n = {size}", ratios(times[OURS][size], seconds), bar)
                )


def _add_rds_bars(section: Section, times: Times) -> None:
    for size, ours in times["the reaper, rds_kill"].items():
        if theirs := times.get("pt-kill --rds", {}).get(size):
            section.bars.append(
                Bar(f"with rds_kill / pt-kill --rds, n = {size}", ratios(ours, theirs), 1.0)
            )
        plain = times["the reaper, KILL"].get(size)
        if plain is None:
            continue
        section.bars.append(
            Bar(f"plain KILL / rds_kill, both ours, n = {size}", ratios(plain, ours), 0.4)
        )


def _show(section: Section, name: str, how: str, times: Times) -> None:
    sizes = sorted({size for by_size in times.values() for size in by_size})
    medians = {
        way: {n: Spread(seconds).median for n, seconds in by_size.items()}
        for way, by_size in times.items()
    }
    head = ("way", *(f"n = {n}" for n in sizes), "exponent", "ms = a·n + b·n²")
    rows = []
    for way, by_size in times.items():
        if not by_size:
            continue
        a, b = fit(medians[way])
        law = f"{1000 * a:.4f}·n + {1e9 * b:.1f}e-6·n²"
        cells = [
            Spread([1000 * s for s in by_size[n]]).told(0) if n in by_size else "" for n in sizes
        ]
        rows.append([way, *cells, f"{exponent(medians[way]):.2f}", law])
    section.tables.append(Table(f"Milliseconds to the last session gone, {how}", head, rows))
    points = {
        way: [(n, 1000 * seconds) for n, seconds in by_size.items()]
        for way, by_size in medians.items()
    }
    section.charts[f"reaping-{name}.svg"] = chart(
        f"Reaping n sessions, {name}: {how}", points, "sessions", "ms"
    )
    section.raw[how] = {
        way: {str(n): seconds for n, seconds in by_size.items()} for way, by_size in times.items()
    }


def by_procedure(server: Server, size: int = 500) -> Windows:
    """The windows of kill_if_idle, which refuses sessions that slept for less than its least idle
    time.
    """
    product = grants.Product.MARIADB if server.flavour == "mariadb" else grants.Product.MYSQL
    account = grants.Account(
        EngineName.MYSQL, product, user="idler", host="%", kill_if_idle=True, least_idle=1.0
    )
    with closing(server.admin()) as connection, connection.cursor() as cursor:
        for statement in grants.statements(account):
            cursor.execute(statement.replace("BY '…'", "BY ''"))
    with closing(Reaper(server, "idler", 1.0)) as reaper, Crowd(server, size):
        # Longer than its least idle time, which it counts in whole seconds
        time.sleep(3.0)
        reaper()
        return reaper.windows


def _postgres(name: str, effort: Effort, section: Section) -> None:
    sizes = effort.sizes(POSTGRES_SIZES)
    with start(name, settings=held("postgres", sizes)) as server, ExitStack() as stack:
        section.raw["version"] = server.query("SHOW server_version")[0][0]
        ours = stack.enter_context(closing(Reaper(server, "reaper")))
        raw = stack.enter_context(closing(RawPostgres(server)))
        times = grown(server, {OURS: ours, RAW: raw}, sizes, effort, section)
        _add_bars(section, times, {RAW: lambda _: 1.2})
        _show(section, name, "pg_terminate_backend", times)
        _add_windows(section, {"pg_terminate_backend": ours.windows})
        section.notes.append(_LIMIT["postgres"])


def _add_windows(section: Section, windows: Mapping[str, Windows]) -> None:
    rows = []
    for path, found in windows.items():
        if not found.seconds:
            continue
        ms = [1000 * seconds for seconds in found.seconds]
        late = percentile(ms, 99)
        section.bars.append(
            Bar(f"re-read to kill at the 99th percentile, {path}", Spread([late]), 50.0, " ms")
        )
        rows.append(
            [
                path,
                str(len(ms)),
                *(f"{percentile(ms, p):.1f}" for p in (50, 90, 99)),
                f"{max(ms):.1f}",
            ]
        )
        section.raw[f"windows, {path}"] = {
            str(p): percentile(ms, p) for p in (1, 10, 25, 50, 75, 90, 99, 99.9)
        }
    head = ("path", "kills", "50 %", "90 %", "99 %", "longest")
    title = "The race: ms from the start of a victim's re-read to the end of its chunk"
    section.tables.append(Table(title, head, rows))
