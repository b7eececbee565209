"""A fleet's fan-out as discrete events: schedules, a FIFO queue, sweeps.

Pure: the same seed gives the same run.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from math import ceil
from random import Random


@dataclass(frozen=True)
class Product:
    """The stack's settings. Times are in seconds here and everywhere below."""

    # Between two schedules
    period: float
    # Timeout of an invocation
    timeout: float
    # The part of it that the handler reserves for what comes after the sweeps
    reserve: float
    # Sweeps that an invocation runs side by side
    side_by_side: int
    # Messages in an invocation
    batch: int
    # Messages in one call of the planner
    sent_at_once: int
    # The most invocations that run at the same time
    concurrency: int
    visibility: float
    tries: int
    stale: float

    @property
    def share(self) -> float:
        """Seconds that a sweep may take, given how many sweeps of a batch the handler runs at the
        same time.
        """
        return (self.timeout - self.reserve) / ceil(self.batch / self.side_by_side)


@dataclass(frozen=True)
class Platform:
    """What AWS adds. How a FIFO queue's pollers scale is not documented; this is what is documented
    for standard queues.
    """

    # Invocations that start when messages come after a pause
    at_once: int = 5
    more_a_second: float = 5.0
    # Measured: see README under "Cost"
    cold_start: float = 2.8
    # How long an idle environment is kept: not documented, minutes in all reports
    keeps_warm: float = 600.0
    # From the queue to the handler
    handover: float = 0.1
    # Until the planner sends its first call
    planning: float = 3.0
    # For each of its calls
    sending: float = 0.03
    # Share of a core that comes with the function's memory
    processor_share: float = 1024 / 1769


@dataclass(frozen=True)
class Database:
    """How long its sweeps take: `usual` seconds in the median, plus `extra` each time. `hangs` says
    when it never answers.
    """

    usual: float
    extra: float = 0.0
    # Standard deviation of the logarithm
    spread: float = 0.6
    processor: float = 0.03
    hangs: tuple[float, float] = (0.0, 0.0)

    def seconds(self, now: float, dice: Random) -> float | None:
        """The seconds of a sweep that begins now; None if the database never answers."""
        began, ended = self.hangs
        # Drawn in any case, so that a database that hangs changes nothing for the others
        noise = dice.lognormvariate(0.0, self.spread)
        return None if began <= now < ended else self.extra + self.usual * noise


class Fate(StrEnum):
    SWEPT = "swept"
    # It was tried as often as allowed and is in the dead-letter queue
    FAILED = "failed"
    STALE = "stale"


@dataclass
class Message:
    number: int
    database: int
    planned: float
    sent: float
    tries: int = 0


@dataclass(frozen=True)
class Done:
    """`at` is the end of the sweep itself; its message stays in flight as long as others of its
    batch run.
    """

    message: Message
    fate: Fate
    at: float


@dataclass
class Batch:
    """The messages of one invocation: when each sweep ended, which failed, which were dropped
    without a sweep.
    """

    messages: Sequence[Message]
    received: float
    began: float
    ended: float = 0.0
    swept: dict[int, float] = field(default_factory=dict)
    failed: set[int] = field(default_factory=set)

    @property
    def seconds(self) -> float:
        return self.ended - self.began


class Queue:
    """An SQS FIFO queue: while messages of a group are in flight, the group's other
    messages wait.
    """

    def __init__(self) -> None:
        self.waiting = 0
        self._groups: dict[int, deque[Message]] = {}
        self._out: Counter[int] = Counter()
        # Groups that may be received, by the sequence number of their first message
        self._ready: list[tuple[int, int]] = []

    def __bool__(self) -> bool:
        return bool(self._ready)

    def put(self, message: Message) -> None:
        group = self._groups.setdefault(message.database, deque())
        group.append(message)
        self.waiting += 1
        if len(group) == 1:
            self._offer(message.database)

    def receive(self, most: int) -> list[Message]:
        """Take as many of one group as there is room for, then of the next: SQS returns few groups
        rather than many.
        """
        taken: list[Message] = []
        while self._ready and len(taken) < most:
            _, database = heapq.heappop(self._ready)
            group = self._groups[database]
            mine = [group.popleft() for _ in range(min(most - len(taken), len(group)))]
            self._out[database] += len(mine)
            taken += mine
        self.waiting -= len(taken)
        for message in taken:
            message.tries += 1
        return taken

    def delete(self, message: Message) -> None:
        self._out[message.database] -= 1
        self._offer(message.database)

    def put_back(self, messages: Sequence[Message]) -> None:
        """Put messages back to where they were, in their order."""
        for message in reversed(messages):
            self._groups[message.database].appendleft(message)
            self._out[message.database] -= 1
        self.waiting += len(messages)
        for database in dict.fromkeys(message.database for message in messages):
            self._offer(database)

    def _offer(self, database: int) -> None:
        if self._groups[database] and not self._out[database]:
            heapq.heappush(self._ready, (self._groups[database][0].number, database))


@dataclass
class Run:
    """What became of every message, and how many were waiting at each time."""

    product: Product
    databases: Sequence[Database]
    sent: int = 0
    done: list[Done] = field(default_factory=list)
    batches: list[Batch] = field(default_factory=list)
    waiting: list[tuple[float, int]] = field(default_factory=list)

    @property
    def fates(self) -> Counter[Fate]:
        return Counter(done.fate for done in self.done)

    @property
    def billed(self) -> float:
        """The seconds of all invocations that Lambda charges for, cold starts included."""
        return sum(batch.seconds for batch in self.batches)

    def sweep_all(self) -> dict[float, float]:
        """For each schedule, the seconds until every database that answers was swept; infinite if
        one was not.
        """
        seconds: dict[float, float] = {}
        for done in self.done:
            planned = done.message.planned
            began, ended = self.databases[done.message.database].hangs
            # Databases that hang are judged by the backlog instead
            if not (began <= done.at and planned < ended):
                took = done.at - planned if done.fate is Fate.SWEPT else float("inf")
                seconds[planned] = max(seconds.get(planned, 0.0), took)
        return dict(sorted(seconds.items()))


class Fanout:
    """Simulates schedules, the queue, and as many invocations at the same time as are allowed."""

    def __init__(
        self, product: Product, platform: Platform, databases: Sequence[Database], seed: int
    ) -> None:
        self.run = Run(product, databases)
        self._product, self._platform = product, platform
        self._dice = Random(seed)  # noqa: S311  seeded dice, not cryptography
        self._queue = Queue()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._now = 0.0
        self._count = 0
        self._busy = 0
        self._active_since: float | None = None
        # Until when each idle environment is kept, in ascending order
        self._warm: list[float] = []

    def simulate(self, schedules: int) -> Run:
        """Simulate this many schedules, and go on until no message is left."""
        for turn in range(schedules):
            self._at(turn * self._product.period, self._plan)
        while self._events:
            self._now, _, happen = heapq.heappop(self._events)
            happen()
            self._hand_out()
            self.run.waiting.append((self._now, self._queue.waiting))
        return self.run

    def _at(self, when: float, happen: Callable[[], None]) -> None:
        # Of two events at the same time the one that was made first comes first
        self._count += 1
        heapq.heappush(self._events, (when, self._count, happen))

    def _plan(self) -> None:
        """The planner sends a message for each database, call after call, each time starting at
        another one.
        """
        planned, platform = self._now, self._platform
        count = len(self.run.databases)
        start = self._dice.randrange(count)
        order = [(start + place) % count for place in range(count)]
        for call, first in enumerate(range(0, count, self._product.sent_at_once)):
            some = order[first : first + self._product.sent_at_once]
            sent = planned + platform.planning + (call + 1) * platform.sending
            self._at(sent, partial(self._send, some, planned))

    def _send(self, databases: Sequence[int], planned: float) -> None:
        for database in databases:
            self._queue.put(Message(self.run.sent, database, planned, self._now))
            self.run.sent += 1

    def _hand_out(self) -> None:
        """Start as many invocations as there are messages for and Lambda allows."""
        if not self._queue:
            return
        if self._active_since is None:
            self._active_since = self._now
        while self._queue and self._busy < self._product.concurrency:
            wait = (self._busy + 1 - self._platform.at_once) / self._platform.more_a_second
            if (opens := self._active_since + wait) > self._now:
                # Nothing is done at that time but another attempt to receive
                self._at(opens, lambda: None)
                return
            self._invoke(self._queue.receive(self._product.batch))

    def _invoke(self, messages: Sequence[Message]) -> None:
        batch = Batch(messages, self._now, self._now + self._platform.handover)
        self._sweep(batch, batch.began + (0.0 if self._is_warm() else self._platform.cold_start))
        self._busy += 1
        self.run.batches.append(batch)
        self._at(batch.ended, partial(self._finish, batch))

    def _is_warm(self) -> bool:
        """Whether an idle environment is available; if so it is taken."""
        self._warm = [until for until in self._warm if until > self._now]
        if not self._warm:
            return False
        self._warm.pop()
        return True

    def _sweep(self, batch: Batch, began: float) -> None:
        """Sweep as the handler does: targets side by side, messages of one target in turn, stale
        ones dropped.
        """
        last = began + self._product.share
        ends: dict[int, float] = {}
        processor = 0.0
        for message in batch.messages:
            if message.tries == 1 and began > message.planned + self._product.stale:
                continue
            database, begins = (
                self.run.databases[message.database],
                ends.get(message.database, began),
            )
            seconds = database.seconds(begins, self._dice)
            ended = last if seconds is None else min(last, begins + seconds)
            if ended == last:
                batch.failed.add(message.number)
            else:
                batch.swept[message.number] = ended
            ends[message.database] = ended
            processor += database.processor
        batch.ended = max(*ends.values(), began, began + processor / self._platform.processor_share)

    def _finish(self, batch: Batch) -> None:
        self._busy -= 1
        self._warm.append(self._now + self._platform.keeps_warm)
        for message in batch.messages:
            if message.number in batch.swept:
                self._end(message, Fate.SWEPT, batch.swept[message.number])
            elif message.number not in batch.failed:
                self._end(message, Fate.STALE, self._now)
        if failed := [message for message in batch.messages if message.number in batch.failed]:
            self._at(
                max(batch.received + self._product.visibility, self._now),
                partial(self._reappear, failed),
            )
        if not self._busy and not self._queue:
            self._active_since = None

    def _reappear(self, messages: Sequence[Message]) -> None:
        for message in messages:
            if message.tries == self._product.tries:
                self._end(message, Fate.FAILED, self._now)
        self._queue.put_back(
            [message for message in messages if message.tries < self._product.tries]
        )

    def _end(self, message: Message, fate: Fate, at: float) -> None:
        self._queue.delete(message)
        self.run.done.append(Done(message, fate, at))


def every(run: Run, seconds: float) -> Iterator[tuple[float, int]]:
    """The number of waiting messages at regular intervals."""
    at, count = 0.0, 0
    for when, waiting in run.waiting:
        while at < when:
            yield at, count
            at += seconds
        count = waiting
