"""The storm: what befalls a server, the way to it and its clients' processes, in an order that one
seed decides.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from lab.servers import Server
from lab.servers.proxy import Proxy, Then, Where
from reaper.client.deadline import Deadline
from reaper.client.drivers import driver_for
from reaper.client.events import GivenUp
from reaper.client.target import EngineName
from reaper.report import Report
from reaper.seat import Seat
from reaper.sweep import IdleHistory
from tests.harness import sweep

# Who takes the slots; the sweeps leave it alone, or there would soon be room again
CROWD = "other"
# Seconds between two troubles of a kind
CALM = (0.2, 0.6)
LASTS = (0.3, 1.5)


class Trouble(StrEnum):
    CUT = "cut"
    RESET = "reset"
    STALL = "stall"
    # a lost route: the sessions stay behind
    SWALLOW = "swallow"
    REFUSE = "refuse"
    # a NAT that keeps the server's goodbyes to itself
    FORGET = "forget"
    # Every free slot is taken
    CROWD = "crowd"
    RESTART = "restart"
    KILL = "kill"


@dataclass(frozen=True)
class Blow:
    """One trouble as the dice have it: after so long a calm, for so long."""

    kind: Trouble
    after: float
    lasts: float


def blows(dice: random.Random) -> Iterator[Blow]:
    """Each kind once a round, without end."""
    while True:
        for kind in dice.sample(list(Trouble), len(Trouble)):
            yield Blow(kind, after=dice.uniform(*CALM), lasts=dice.uniform(*LASTS))


STATEMENTS = (
    "BEGIN",
    "UPDATE accounts",
    "INSERT INTO entries",
    "INSERT INTO reaper_tokens",
    "COMMIT",
    "COMMIT",
)
WHERES: Sequence[Where] = ("before", "during", "after")
THENS: Sequence[Then] = ("close", "reset", "silence", "lost")


class Log:
    """A file of JSON lines that threads may share: each is one write, and goes to the end."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, **what: Any) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(what) + "\n")


class Storm:
    """Blows upon one server until `over` is set; what it did stands in the log, by the clock all
    processes share.
    """

    def __init__(
        self, server: Server, proxy: Proxy, tellers: Sequence[int], seed: str, folder: Path
    ) -> None:
        self._server = server
        self._proxy = proxy
        self._tellers = tellers
        self._seed = seed
        self._log = Log(folder / "troubles.jsonl")
        self._sweeps = Log(folder / "sweeps.jsonl")
        self.over = threading.Event()
        self.reports: list[Report] = []
        self._ways: Mapping[Trouble, Callable[[float], None]] = {
            Trouble.CUT: lambda _: proxy.cut(),
            Trouble.RESET: lambda _: proxy.reset(),
            Trouble.STALL: lasting(proxy.stall, proxy.resume),
            Trouble.SWALLOW: lasting(proxy.swallow, proxy.resume),
            Trouble.REFUSE: lasting(proxy.refuse, proxy.accept),
            Trouble.FORGET: lasting(proxy.hide_fin, lambda: proxy.hide_fin(False)),
            Trouble.CROWD: self._crowd,
            Trouble.RESTART: lambda _: server.restart(),
            Trouble.KILL: lasting(server.kill, server.restart),
        }

    def blow(self, seconds: float) -> None:
        """For so long, and at least until every kind of trouble has come once."""
        until = time.monotonic() + seconds
        dice = random.Random(f"{self._seed} storm")
        for count, blow in enumerate(blows(dice)):
            if count >= len(Trouble) and time.monotonic() >= until:
                return
            time.sleep(blow.after)
            began = time.monotonic()
            self._ways[blow.kind](blow.lasts)
            self._log(**asdict(blow), began=began, ended=time.monotonic())

    def trap(self) -> None:
        """End connections at a statement of the dice's choosing, over and over, one at a time."""
        dice = random.Random(f"{self._seed} traps")
        while not self.over.wait(dice.uniform(*CALM)):
            statement, where, then = (
                dice.choice(STATEMENTS),
                dice.choice(WHERES),
                dice.choice(THENS),
            )
            self._proxy.cut_when(statement.encode(), where, then)
            self._log(
                kind="trap", statement=statement, where=where, then=then, began=time.monotonic()
            )

    def _crowd(self, seconds: float) -> None:
        """Take every slot there is, and each that comes free."""
        until = time.monotonic() + seconds
        with ExitStack() as stack:
            while time.monotonic() < until:
                with suppress(*self._server.kind.errors):
                    stack.enter_context(closing(self._server.connect(CROWD)))
                    continue
                # full
                time.sleep(0.02)

    def freeze(self) -> None:
        """Stop some of the tellers for a while, over and over, wherever they are in their work."""
        dice = random.Random(f"{self._seed} frost")
        while not self.over.wait(dice.uniform(*CALM)):
            chosen = sorted(
                dice.sample(range(len(self._tellers)), dice.randint(1, 1 + len(self._tellers) // 5))
            )
            began = time.monotonic()
            try:
                self._signal(chosen, signal.SIGSTOP)
                time.sleep(dice.uniform(*LASTS))
            finally:
                self._signal(chosen, signal.SIGCONT)
            self._log(kind="freeze", tellers=chosen, began=began, ended=time.monotonic())

    def _signal(self, tellers: Sequence[int], which: signal.Signals) -> None:
        for teller in tellers:
            os.kill(self._tellers[teller], which)

    def sweep(self) -> None:
        """Sweep with the lowest thresholds there are, over and over, every other time amid
        transactions.
        """
        dice = random.Random(f"{self._seed} sweeps")
        server, history = self._server, IdleHistory()
        first = sweep(server)
        seat = Seat(first.target.target, driver_for(EngineName(server.engine)))
        lowest = {"idle_seconds": 0, "pressure_idle_seconds": 0, "in_transaction_seconds": 0}
        rules: dict[str, Any] = {**lowest, "protect_users": [CROWD]}
        for count in itertools.count():
            if self.over.wait(dice.uniform(*CALM)):
                break
            in_transaction = ("spare", "terminate")[count % 2]
            swept = replace(
                sweep(server, trigger="schedule", in_transaction=in_transaction, **rules),
                deadline=Deadline.after(5),
                seat=seat,
                history=history,
            ).run()
            self.reports.append(swept)
            self._sweeps(**_shown(swept))
        seat.discard(GivenUp.CLOSED)


def lasting(begin: Callable[[], None], end: Callable[[], None]) -> Callable[[float], None]:
    """A trouble with a beginning and an end, which comes whatever happens."""

    def trouble(seconds: float) -> None:
        begin()
        try:
            time.sleep(seconds)
        finally:
            end()

    return trouble


def _shown(report: Report) -> Mapping[str, Any]:
    return {"ended": time.monotonic(), **report.to_json()}
