"""Hundreds of invocations of one environment, frozen between each two: nothing grows that is not
given back.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from lab.artifact import Build
from lab.lambdas import Code, Function, Invocation
from lab.servers import Server, Sessions
from lab.targets import target
from tests.conftest import Servers, names
from tests.goodbyes import end_sessions, sessions_of

from .test_runtime import code

TURNS = int(os.environ.get("REAPER_TEST_SOAK", "200"))
SAMPLES = 40
# Until all code has been run and all caches are full; what Python's allocator takes in one step is
# 1 MiB.
WARM = TURNS // 4
MB = 1024 * 1024
# a leak of a row, an error or a line of the log in each turn is more
MOST_GROWTH = 1.5 * MB + TURNS * 512

# Of each kind one, as for the other tests of the runtime.
SERVERS = [name for name in names() if name not in ("postgres18", "mysql_nops")]


@dataclass(frozen=True)
class Sample:
    """What an environment holds between two invocations, and how many of its sessions the server
    has.
    """

    turn: int
    memory: int
    files: int
    threads: int
    sessions: int


Turn = Callable[[int], Invocation]


@pytest.fixture(params=SERVERS)
def database(request: pytest.FixtureRequest, servers: Servers) -> Server:
    return servers[request.param]


def test_the_reaper_does_not_grow(
    database: Server, artifact: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sweeps that terminate, sweeps that find nobody, seats that were lost while frozen, events
    that are no events: memory, files, threads and sessions stay as they are.
    """
    deployed = code(artifact, target(database), DryRun="false", IdleSeconds="0", AllowUsers="app")
    with Sessions(database) as victims, Function(deployed) as function:
        ended = 0

        def turn(number: int) -> Invocation:
            nonlocal ended
            if number % 10 == 3:
                victims.sleeping(2)
            if number % 40 == 11:
                end_sessions(database, "reaper")
            if number % 25 == 7:
                return function.invoke({"no such key": number})
            done = function.invoke({"trigger": "schedule"})
            assert done.error is None
            ended += done.answer["targets"][0]["outcomes"].get("terminated", 0)
            return done

        samples = soaked(function, turn, database, "reaper")
    assert ended >= TURNS // 10
    tell(capsys, f"reaper on {database.name}, {ended} ended", samples)
    assert_steady(samples)


APPLICATION = """
from reaper.client import Database

db = Database.from_env()

@db.handler
def handler(sql, context):
    return db.transaction(lambda tx: tx.query(sql), token=None)
"""


def test_a_function_with_the_layer_does_not_grow(
    database: Server, artifact: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Transactions on a kept connection, connections ended while frozen, statements that fail:
    likewise.
    """
    (tmp_path / "application.py").write_text(APPLICATION)
    environ = {"DATABASE_URL": database.dsn("app")}
    deployed = Code([tmp_path, artifact.client_layer.path], "application.handler", environ)
    with Function(deployed) as function:

        def turn(number: int) -> Invocation:
            if number % 40 == 11:
                end_sessions(database, "app")
            if number % 25 == 7:
                return function.invoke("SELECT no such thing")
            done = function.invoke("SELECT 1 AS one")
            assert done.error is None
            assert done.answer == [{"one": 1}]
            return done

        samples = soaked(function, turn, database, "app")
    tell(capsys, f"layer on {database.name}", samples)
    assert_steady(samples)


def soaked(function: Function, turn: Turn, server: Server, user: str) -> list[Sample]:
    """Take all turns in one environment, frozen from each to the next; look at it now and then."""
    found: list[Sample] = []
    for number in range(TURNS):
        done = turn(number)
        assert done.cold == (number == 0)
        function.freeze()
        if number % (TURNS // SAMPLES) == 0:
            found.append(sample(function, number, server, user))
    return found


def sample(function: Function, number: int, server: Server, user: str) -> Sample:
    process = psutil.Process(function.runtime.pid)
    # Its own: pages of shared libraries come and go
    memory = process.memory_full_info().uss
    return Sample(
        number, memory, process.num_fds(), process.num_threads(), sessions_of(server, user)
    )


def growth(samples: Sequence[Sample]) -> float:
    """By how much memory would grow in all turns, by a line through the samples of a warm
    environment.
    """
    warm = [sample for sample in samples if sample.turn >= WARM]
    line = statistics.linear_regression(
        [sample.turn for sample in warm], [sample.memory for sample in warm]
    )
    return line.slope * TURNS


def quarters(samples: Sequence[Sample], name: str) -> tuple[float, float]:
    """What was usual in the first quarter, and in the last."""
    found = [getattr(sample, name) for sample in samples]
    part = len(found) // 4
    return statistics.median(found[:part]), statistics.median(found[-part:])


def assert_steady(samples: Sequence[Sample]) -> None:
    for name in ("files", "threads", "sessions"):
        first, last = quarters(samples, name)
        assert last <= first, name
    assert growth(samples) < MOST_GROWTH


def tell(capsys: pytest.CaptureFixture[str], what: str, samples: Sequence[Sample]) -> None:
    """The figures, for who runs `make soak` to see them."""
    if TURNS < 1000:
        return
    rows = {name: quarters(samples, name) for name in ("memory", "files", "threads", "sessions")}
    shown = ", ".join(
        f"{name} {first:g} to {last:g}" for name, (first, last) in rows.items() if name != "memory"
    )
    memory = "{:.2f} to {:.2f}".format(*(figure / MB for figure in rows["memory"]))
    with capsys.disabled():
        print(
            f"\n{what}: memory {memory} MB, by its line {growth(samples) / MB:+.2f} in {TURNS}; "
            f"{shown}"
        )


@pytest.mark.parametrize(("each", "is_steady"), [(0, True), (20_000, False)])
def test_a_leak_is_seen(each: int, is_steady: bool) -> None:
    """The judgement itself: steady memory in steps of an allocator passes, 20 kB a turn do not."""
    samples = [
        Sample(turn, 50 * MB + turn * each + turn % 3 * 4096, 9, 1, 1) for turn in range(TURNS)
    ]
    assert (growth(samples) < MOST_GROWTH) == is_steady
