"""The sweep itself: enter, look, judge, terminate, verify, report."""

from __future__ import annotations

import gc
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from reaper.client.deadline import Clock, Deadline
from reaper.client.drivers import driver_for
from reaper.client.drivers.base import Driver
from reaper.client.drivers.connection import Connection
from reaper.client.events import GivenUp
from reaper.client.fields import ConfigurationError
from reaper.client.retry import Dice
from reaper.client.target import EngineName
from reaper.engines import engine_for
from reaper.engines.base import Engine, Server
from reaper.engines.snapshot_file import RawSnapshot
from reaper.engines.termination import TooSlowToTerminateError, terminate_all
from reaper.model import (
    Mode,
    Outcome,
    Reason,
    Session,
    Snapshot,
    SweepTarget,
    SweepWarning,
    Verdict,
)
from reaper.policy import Judgement, Scope, find_pressure, judge
from reaper.report import Entry, ErrorKind, Report
from reaper.rules import Rules
from reaper.seat import SERVER_ENDS_AFTER, Seat
from reaper.sweep.entry import enter
from reaper.sweep.errors import SweepFailed, blind_error, error_of, login_error_of
from reaper.sweep.history import SECOND_LOOK, IdleHistory, confirm
from reaper.sweep.lock import SweepLock
from reaper.sweep.progress import SweepProgress

# Seconds to wait for the victims to be gone
VERIFY = 1.0
# Seconds between two looks at whether the victims are gone
_SHORTEST_STEP, _LONGEST_STEP = 0.005, 0.16
# After so many refused kills in a row the account lacks the right, and the sweep ends.
_REFUSALS_IN_A_ROW = 3


def approve_all(_: Sequence[Verdict]) -> bool:
    """Approve of every kill without asking anybody."""
    return True


@dataclass(frozen=True)
class Observers:
    """What is called while a sweep runs. By default nobody watches, and nobody objects.

    `approve` is asked once, before the first kill. `on_server` is called before the first look,
    `on_snapshot` after each look, `on_progress` after each chunk of kills with the number of
    victims that were dealt with, and of all.
    """

    approve: Callable[[Sequence[Verdict]], bool] = approve_all
    on_server: Callable[[Server], None] = lambda _: None
    on_snapshot: Callable[[RawSnapshot], None] = lambda _: None
    on_progress: Callable[[int, int], None] = lambda _done, _of: None


@dataclass(frozen=True)
class Sweep:
    """Everything one sweep needs; `run` never raises for what the server or the network did.

    `history` has the sessions of unknown idle time that this environment's previous sweep saw on
    the target. `two_looks` confirms those within this sweep: in manual runs, and always under
    pressure. `seat` is kept for the next sweep; without one a connection is opened and closed. The
    lock of a holder that has been idle for `frozen_after` seconds is taken over. `invoked` is when
    the whole invocation began, on this sweep's clock. `notices` lead the report's warnings.
    """

    target: SweepTarget
    rules: Rules
    trigger: str
    deadline: Deadline
    two_looks: bool = False
    history: IdleHistory = field(default_factory=IdleHistory)
    observers: Observers = Observers()
    seat: Seat | None = None
    frozen_after: float = SERVER_ENDS_AFTER
    invoked: float | None = None
    notices: Sequence[str] = ()
    drivers: Callable[[EngineName], Driver] = driver_for
    engines: Callable[[EngineName], Engine] = engine_for
    clock: Clock = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    dice: Dice = random.random

    def run(self) -> Report:
        """Sweep the target. Whatever goes wrong is the report's error."""
        began = self.clock()
        progress = SweepProgress()
        driver = self.drivers(self.target.target.engine)
        seat = self.seat or Seat(self.target.target, driver)
        try:
            entered = enter(seat, driver, self.deadline, self.sleep, self.dice)
        except Exception as problem:  # noqa: BLE001  it is the report's error
            progress.error = login_error_of(problem, driver)
        else:
            progress.entry, progress.attempts = entered.entry, entered.attempts
            try:
                self._sweep(driver, entered.connection, progress)
            finally:
                if self.seat and progress.is_usable:
                    seat.used()
                else:
                    seat.discard(GivenUp.SWEPT)
        return self._report(progress, began)

    def _report(self, progress: SweepProgress, began: float) -> Report:
        since = began if self.invoked is None else self.invoked
        freed_at = progress.first_freed
        return Report(
            target=self.target.name,
            engine=self.target.target.engine,
            trigger=self.trigger,
            dry_run=self.rules.dry_run,
            entry=progress.entry,
            attempts=progress.attempts,
            mode=progress.mode,
            method=progress.method,
            snapshot=progress.snapshot,
            verdicts=progress.verdicts,
            last_verdicts=progress.last_verdicts,
            victims=progress.victims,
            warnings=(*self.notices, *progress.warnings),
            pressure_remains=progress.pressure_remains(self.rules),
            first_freed_seconds=None if freed_at is None else freed_at - since,
            duration_seconds=self.clock() - began,
            error=progress.error,
        )

    def _sweep(self, driver: Driver, connection: Connection, progress: SweepProgress) -> None:
        """Look, judge, terminate and verify, adding to the progress what each step found."""
        engine = self.engines(self.target.target.engine)
        server = engine.server(connection, self.clock)
        lock = SweepLock(server, self.deadline, self.frozen_after, self.sleep)
        try:
            # A person may take long to answer, and meanwhile the lock would keep others out.
            if not self.rules.dry_run and self.observers.approve is approve_all:
                lock.take()
            self.observers.on_server(server)
            judgement = self._first_look(engine, server, progress)
            if self.rules.dry_run:
                would = [verdict.session.id for verdict in progress.chosen]
                progress.outcomes = dict.fromkeys(would, Outcome.WOULD_TERMINATE)
            elif progress.chosen and self.observers.approve(judgement.victims):
                if not connection.is_alive():
                    raise SweepFailed(ErrorKind.SERVER, "the connection ended after the look")
                lock.take()
                self._terminate_until_relieved(engine, server, progress)
        except Exception as problem:  # noqa: BLE001  it is the report's error
            progress.error = error_of(problem, driver)
            progress.is_usable = isinstance(
                problem, SweepFailed | TooSlowToTerminateError | ConfigurationError
            )
        # On a connection that has failed the lock is not released: it ends with the connection.
        progress.is_usable = progress.is_usable and lock.release()

    def _first_look(self, engine: Engine, server: Server, progress: SweepProgress) -> Judgement:
        snapshot, judgement = self._look(engine, server, self.rules)
        powerless = (SweepWarning.NO_RIGHT_TO_TERMINATE,) if server.method is None else ()
        progress.snapshot = progress.latest = snapshot
        progress.method = server.method
        progress.warnings = snapshot.warnings + powerless
        if snapshot.blind:
            error = blind_error(engine)
            raise SweepFailed(error.kind, error.message)
        if progress.entry is Entry.LOGIN and snapshot.is_full:
            progress.entry = Entry.RESERVED
        progress.mode, progress.verdicts = judgement.mode, judgement.verdicts
        progress.chosen = list(judgement.victims)
        return judgement

    def _terminate_until_relieved(
        self, engine: Engine, server: Server, progress: SweepProgress
    ) -> None:
        """Terminate the chosen; under pressure look and terminate again, while that finds others to
        choose and the target is not reached.

        Some of the first choice may have woken up, or hold their slots until they are rolled back.
        """
        pressure = find_pressure(progress.latest, self.rules) if progress.latest else ()
        self._terminate_and_verify(server, progress, engine.right_to_kill)
        while pressure and self.deadline.affords(VERIFY):
            rules = replace(self.rules, max_kills=self.rules.max_kills - len(progress.chosen))
            if not progress.add_look(*self._look(engine, server, rules, pressure)):
                return
            self._terminate_and_verify(server, progress, engine.right_to_kill)

    def _look(
        self, engine: Engine, server: Server, rules: Rules, pressure: Collection[Scope] = ()
    ) -> tuple[Snapshot, Judgement]:
        """One look and its judgement, or two where the second confirms idle times.

        `pressure` is what an earlier look found; then the idle times are confirmed by that look.
        """
        with garbage_collection_paused():
            look, snapshot = self._confirmed(engine, server)
            judgement = judge(snapshot, rules, pressure)
        if not pressure and self._needs_second_look(judgement):
            self.sleep(SECOND_LOOK)
            look, snapshot = self._confirmed(engine, server)
            judgement = judge(snapshot, rules, pressure)
        self.observers.on_snapshot(look)
        return snapshot, judgement

    def _needs_second_look(self, judgement: Judgement) -> bool:
        is_wanted = self.two_looks or judgement.mode is Mode.PRESSURE
        is_affordable = self.deadline.affords(SECOND_LOOK)
        reasons = (verdict.reason for verdict in judgement.verdicts)
        return is_wanted and is_affordable and Reason.UNCONFIRMED in reasons

    def _confirmed(self, engine: Engine, server: Server) -> tuple[RawSnapshot, Snapshot]:
        """A look in which sessions that were in the same idle period earlier are confirmed."""
        look = server.look()
        seen = engine.read(look)
        snapshot = confirm(seen, self.history) if seen.server == self.history.server else seen
        self.history.remember(seen)
        if "unconfirmed" in look.context:
            doubted = [session.id for session in snapshot.sessions if session.is_unconfirmed]
            look = replace(look, context={**look.context, "unconfirmed": doubted})
        return look, snapshot

    def _terminate_and_verify(self, server: Server, progress: SweepProgress, right: str) -> None:
        """Deal with all victims that have no outcome yet. Those that were signalled are verified,
        whatever ends the killing.
        """
        try:
            for wave in self._waves(progress.chosen_with(None)):
                self._terminate(server, progress, wave, right)
                self._verify(server, progress)
        except (SweepFailed, TooSlowToTerminateError):
            self._verify(server, progress)
            raise
        if progress.chosen_with(None):
            raise SweepFailed(
                ErrorKind.DEADLINE, "the time ran out before all victims were terminated"
            )

    def _waves(self, victims: Sequence[Session]) -> Iterator[list[Session]]:
        """All victims in one list, or each user's evenly over the seconds of `spread_seconds` that
        the deadline leaves.
        """
        seconds = min(self.rules.spread_seconds, max(0.0, self.deadline.remaining() - 2 * VERIFY))
        began = self.clock()
        for second, wave in sorted(spread(victims, seconds).items()):
            self.sleep(max(0.0, began + second - self.clock()))
            yield wave

    def _terminate(
        self, server: Server, progress: SweepProgress, victims: Sequence[Session], right: str
    ) -> None:
        """Give each victim its outcome, in order; stop where going on is pointless."""
        refused = most_refused = 0
        for chunk in terminate_all(server, victims, self.deadline.less(VERIFY)):
            for session, outcome in chunk:
                progress.outcomes[session.id] = outcome
                refused = refused + 1 if outcome is Outcome.REFUSED else 0
                most_refused = max(most_refused, refused)
            self.observers.on_progress(len(progress.outcomes), len(progress.chosen))
            # Only here, so that the chunk's other outcomes are recorded as well.
            if most_refused >= _REFUSALS_IN_A_ROW:
                raise self._lacks_right(right)

    def _lacks_right(self, right: str) -> SweepFailed:
        return SweepFailed(
            ErrorKind.RIGHTS,
            f"{_REFUSALS_IN_A_ROW} terminations in a row were refused; "
            f"the account {self.target.target.user!r} needs {right}",
        )

    def _verify(self, server: Server, progress: SweepProgress) -> None:
        """Look again until the signalled are gone, for a second at most: only then are they
        terminated.
        """
        until, step = self.deadline.sooner(VERIFY), _SHORTEST_STEP
        while True:
            waiting = progress.chosen_with(Outcome.SIGNALLED)
            still = server.still_present(waiting) if waiting else set()
            gone = [session.id for session in waiting if session.id not in still]
            progress.outcomes |= dict.fromkeys(gone, Outcome.TERMINATED)
            if gone and progress.first_freed is None:
                progress.first_freed = self.clock()
            if not still or not until.affords(step):
                return
            self.sleep(step)
            step = min(2 * step, _LONGEST_STEP)


@contextmanager
def garbage_collection_paused() -> Iterator[None]:
    """Pause Python's search for reference cycles: among tens of thousands of new rows it finds none
    and takes half the time.

    The setting is the process's. Of several simultaneous sweeps the first to end switches the
    search on again, and the others are merely slower.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def spread(victims: Sequence[Session], seconds: float) -> dict[int, list[Session]]:
    """The victims by the second in which they are due: each user's evenly, so that its clients
    reconnect a few at a time.
    """
    of_user = Counter(victim.user for victim in victims)
    so_far: Counter[str | None] = Counter()
    waves: dict[int, list[Session]] = defaultdict(list)
    for victim in victims:
        waves[int(seconds * so_far[victim.user] / of_user[victim.user])].append(victim)
        so_far[victim.user] += 1
    return waves
