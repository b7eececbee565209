"""One sweep of one target: look, judge, strike, verify."""

from __future__ import annotations

import gc
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from reaper.client.credentials import CredentialsUnavailable
from reaper.client.deadline import Clock, Deadline
from reaper.client.drivers import driver_for
from reaper.client.drivers.base import Driver
from reaper.client.drivers.connection import Connection
from reaper.client.events import GivenUp
from reaper.client.faults import Fault, first_line
from reaper.client.retry import Dice, Patience
from reaper.client.target import ConfigurationError, EngineName
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
from reaper.policy import Judgement, Scope, find_pressure, judge, pressure_remains
from reaper.report import Entry, ErrorKind, Report, SweepError, Victim
from reaper.rules import Rules
from reaper.seat import SERVER_ENDS_AFTER, Seat

# Seconds between two looks at a session whose true idle time the server does not tell
SECOND_LOOK = 2.0
# Seconds to wait for the victims to be gone
VERIFY = 1.0
# Seconds between two looks whether the victims are gone
_SHORTEST_STEP, _LONGEST_STEP = 0.005, 0.16
_REFUSALS_IN_A_ROW = 3
# Seconds to wait for a lock whose frozen holder was terminated
_TAKE_OVER = 1.0
# At a full server two logins a second on average, each refused at once: what many clients do all
# the time.
_AT_THE_DOOR = Patience(first_wait=0.05, longest_wait=1.0)
# Failures; the doubling of ever more would not end in a number
_LONGEST_FROM = 5

_KINDS = {
    Fault.TOO_MANY: ErrorKind.LOCKED_OUT,
    Fault.CREDENTIALS: ErrorKind.CREDENTIALS,
    Fault.CONFIGURATION: ErrorKind.CONFIGURATION,
    Fault.UNREACHABLE: ErrorKind.UNREACHABLE,
    Fault.STARTING: ErrorKind.UNREACHABLE,
    Fault.TIMEOUT: ErrorKind.DEADLINE,
}


class Sightings(dict[int, Session]):
    """Sleepers by id, each as it was when its present sleep was first seen, and on which server.

    After a failover ids mean other sessions.
    """

    server: str | None = None

    def remember(self, snapshot: Snapshot) -> None:
        """Keep the sleepers whose mark a later look can compare, and nobody else."""
        if self.server != snapshot.server:
            self.clear()
        seen = {
            session.id: self._first(session)
            for session in snapshot.sessions
            if session.mark is not None
        }
        self.clear()
        self.update(seen)
        self.server = snapshot.server

    def _first(self, session: Session) -> Session:
        before = self.get(session.id)
        return before if before and _is_same_sleep(session, before) else session


class SweepFailed(Exception):
    """Ends a sweep with an error that its report carries."""

    def __init__(self, error: SweepError) -> None:
        super().__init__(error.message)
        self.error = error


def _yes(_: Sequence[Verdict]) -> bool:
    return True


@dataclass(frozen=True)
class Observers:
    """What somebody beside the sweep may want to see or say.

    Defaults: nobody watches, nobody objects.
    """

    # Asked once, before the first kill
    approve: Callable[[Sequence[Verdict]], bool] = _yes
    looked: Callable[[RawSnapshot], None] = lambda _: None
    # Before the first look
    met: Callable[[Server], None] = lambda _: None
    struck: Callable[[int, int], None] = lambda done, of: None  # noqa: ARG005  named for the caller


@dataclass
class _Course:
    """What a sweep has found and done so far."""

    report: Report
    chosen: list[Verdict] = field(default_factory=list)
    # Of the chosen, by session
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    # When a slot was first seen to be free
    first_freed: float | None = None
    latest: Snapshot | None = None
    # The connection, for another sweep
    usable: bool = True

    @property
    def victims(self) -> tuple[Victim, ...]:
        return tuple(
            Victim(verdict, self.outcomes.get(verdict.session.id)) for verdict in self.chosen
        )

    def whose(self, outcome: Outcome | None) -> list[Session]:
        """The chosen with this outcome; None for those that were not reached yet."""
        return [
            verdict.session
            for verdict in self.chosen
            if self.outcomes.get(verdict.session.id) is outcome
        ]


@dataclass(frozen=True)
class Sweep:
    """Everything one sweep needs; `run` never raises for what the server or the network did.

    `sightings` are the sleepers of unknown idle time that this environment's previous sweep saw on
    the target. `two_looks` confirms those within this sweep: in manual runs, and always under
    pressure. `seat` is kept for the next sweep; without one a connection is opened and closed. A
    sweep's lock that its holder has slept on for `frozen_after` seconds is taken over. `invoked` is
    when the whole invocation began, on this sweep's clock. `notices` lead the report's warnings.
    """

    target: SweepTarget
    rules: Rules
    trigger: str
    deadline: Deadline
    two_looks: bool = False
    sightings: Sightings = field(default_factory=Sightings)
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
        began = self.clock()
        course = _Course(
            Report(
                target=self.target.name,
                engine=self.target.target.engine,
                trigger=self.trigger,
                dry_run=self.rules.dry_run,
            )
        )
        driver = self.drivers(self.target.target.engine)
        seat = self.seat or Seat(self.target.target, driver)
        try:
            connection = self._enter(seat, driver, course)
        except Exception as problem:  # noqa: BLE001  whatever it was is told in the report, never swallowed
            course.report = replace(course.report, error=_login_error(problem, driver))
        else:
            try:
                self._sweep(driver, connection, course)
            finally:
                if self.seat and course.usable:
                    seat.used()
                else:
                    seat.discard(GivenUp.SWEPT)
        return self._finished(course, began)

    def _finished(self, course: _Course, began: float) -> Report:
        gone = {id_ for id_, outcome in course.outcomes.items() if outcome is Outcome.TERMINATED}
        saw = course.report.saw and course.latest
        since = began if self.invoked is None else self.invoked
        return replace(
            course.report,
            victims=course.victims,
            warnings=(*self.notices, *course.report.warnings),
            pressure_remains=pressure_remains(saw, self.rules, gone) if saw else None,
            first_freed_seconds=None if course.first_freed is None else course.first_freed - since,
            duration_seconds=self.clock() - began,
        )

    def _enter(self, seat: Seat, driver: Driver, course: _Course) -> Connection:
        """The seat's connection, or a new one: a full server is asked again, with jitter, while
        there is time.
        """
        if not self.deadline.remaining():
            raise SweepFailed(SweepError(ErrorKind.DEADLINE, "no time was left for this target"))
        # The rest is for the sweep
        at_the_door = self.deadline.less(min(10.0, self.deadline.remaining() / 5))
        kept, attempts, has_read_again = seat.connection, 0, False
        while True:
            attempts += 1
            try:
                connection: Connection = seat.ready(self.deadline)
            except Exception as refused:
                fault = driver.fault(refused)
                if fault is Fault.CREDENTIALS and seat.login_can_change and not has_read_again:
                    # Rotated since it was read, perhaps: once more
                    seat.forget_login()
                    has_read_again = True
                    continue
                wait = _AT_THE_DOOR.wait(min(attempts, _LONGEST_FROM), self.dice)
                if fault is not Fault.TOO_MANY:
                    raise
                if not at_the_door.affords(wait):
                    raise SweepFailed(_locked_out(refused, attempts)) from refused
                self.sleep(wait)
            else:
                entry = Entry.SEAT if connection is kept else Entry.LOGIN
                course.report = replace(course.report, entry=entry, attempts=attempts)
                return connection

    def _sweep(self, driver: Driver, connection: Connection, course: _Course) -> None:
        """Look, judge, terminate, verify, adding to the report what each step found."""
        engine = self.engines(self.target.target.engine)
        server = engine.server(connection, self.clock)
        # Somebody thinks it over, and holds no lock meanwhile
        is_attended = self.observers.approve is not _yes
        has_lock = False
        try:
            if not self.rules.dry_run and not is_attended:
                has_lock = self._lock(server)
            self.observers.met(server)
            judgement = self._first_look(engine, server, course)
            if self.rules.dry_run:
                course.outcomes = {
                    verdict.session.id: Outcome.WOULD_TERMINATE for verdict in course.chosen
                }
            elif course.chosen and self.observers.approve(judgement.victims):
                if not connection.is_alive():
                    raise SweepFailed(
                        SweepError(ErrorKind.SERVER, "the connection ended after the look")
                    )
                has_lock = has_lock or self._lock(server)
                self._strike_until_relieved(engine, server, course)
        except Exception as problem:  # noqa: BLE001  whatever it was is told in the report, never swallowed
            course.report = replace(course.report, error=_error(problem, driver))
            course.usable = isinstance(
                problem, SweepFailed | TooSlowToTerminateError | ConfigurationError
            )
        if has_lock:
            course.usable = course.usable and self._unlocked(server)

    def _first_look(self, engine: Engine, server: Server, course: _Course) -> Judgement:
        snapshot, judgement = self._look(engine, server, self.rules)
        course.latest = snapshot
        powerless = (SweepWarning.NO_RIGHT_TO_TERMINATE,) if server.method is None else ()
        course.report = report = replace(
            course.report,
            snapshot=snapshot,
            method=server.method,
            warnings=snapshot.warnings + powerless,
        )
        if snapshot.blind:
            raise SweepFailed(blind_error(engine))
        if report.entry is Entry.LOGIN and snapshot.is_full:
            report = replace(report, entry=Entry.RESERVED)
        course.report = replace(report, mode=judgement.mode, verdicts=judgement.verdicts)
        course.chosen = list(judgement.victims)
        return judgement

    def _lock(self, server: Server) -> bool:
        """Take the lock, from a frozen environment of our own if need be; raise SweepFailed where
        another sweeps.
        """
        if server.lock():
            return True
        holder = server.holder()
        is_frozen = holder and holder.is_ours and (holder.idle_seconds or 0.0) > self.frozen_after
        if holder and is_frozen:
            server.end(holder)
            until = self.deadline.sooner(_TAKE_OVER)
            while not (taken := server.lock()) and until.affords(_LONGEST_STEP):
                self.sleep(_LONGEST_STEP)
            if taken:
                return True
        # No sweep of ours, and no reason to be silent: anybody can take such a lock
        if holder and not holder.is_ours:
            raise SweepFailed(
                SweepError(
                    ErrorKind.CONFIGURATION,
                    f"session {holder.id} of another account holds the reaper's lock; see who "
                    f"that is, "
                    "or give all reapers of this server the same account",
                )
            )
        who = f"session {holder.id}" if holder else "a session that cannot be seen"
        raise SweepFailed(SweepError(ErrorKind.BUSY, f"another sweep holds this server: {who}"))

    def _unlocked(self, server: Server) -> bool:
        """Let go of the lock; a connection on which that fails is of no further use, and its end
        frees the lock.
        """
        try:
            server.unlock()
        except Exception:  # noqa: BLE001  the sweep itself is done, and told
            return False
        return True

    def _strike_until_relieved(self, engine: Engine, server: Server, course: _Course) -> None:
        """Strike; under pressure look and strike again while that finds others to take and the
        target is not reached.

        Some of the first choice may have woken up, or hold their slots until they are rolled back.
        """
        pressed = find_pressure(course.latest, self.rules) if course.latest else ()
        self._strike_and_verify(server, course, engine.right_to_kill)
        while pressed and self.deadline.affords(VERIFY):
            rules = replace(self.rules, max_kills=self.rules.max_kills - len(course.chosen))
            course.latest, judgement = self._look(engine, server, rules, pressed)
            known = {verdict.session.id for verdict in course.chosen}
            fresh = [verdict for verdict in judgement.victims if verdict.session.id not in known]
            verdicts = {
                verdict.session.id: verdict for verdict in (*course.report.verdicts, *fresh)
            }
            course.report = replace(
                course.report, verdicts=tuple(verdicts.values()), last_verdicts=judgement.verdicts
            )
            if not fresh:
                return
            course.chosen += fresh
            self._strike_and_verify(server, course, engine.right_to_kill)

    def _look(
        self, engine: Engine, server: Server, rules: Rules, pressed: Collection[Scope] = ()
    ) -> tuple[Snapshot, Judgement]:
        with uncollected():
            look, snapshot = self._confirmed(engine, server)
            judgement = judge(snapshot, rules, pressed)
        doubted = not pressed and any(
            verdict.reason is Reason.UNCONFIRMED for verdict in judgement.verdicts
        )
        if (
            doubted
            and (self.two_looks or judgement.mode is Mode.PRESSURE)
            and self.deadline.affords(SECOND_LOOK)
        ):
            self.sleep(SECOND_LOOK)
            look, snapshot = self._confirmed(engine, server)
            judgement = judge(snapshot, rules, pressed)
        self.observers.looked(look)
        return snapshot, judgement

    def _confirmed(self, engine: Engine, server: Server) -> tuple[RawSnapshot, Snapshot]:
        """A look in which those found asleep exactly as in an earlier one count as idle since
        then.
        """
        look = server.look()
        seen = engine.read(look)
        snapshot = confirm(seen, self.sightings) if seen.server == self.sightings.server else seen
        self.sightings.remember(seen)
        if "unconfirmed" in look.context:
            doubted = [session.id for session in snapshot.sessions if session.is_unconfirmed]
            look = replace(look, context={**look.context, "unconfirmed": doubted})
        return look, snapshot

    def _strike_and_verify(self, server: Server, course: _Course, right: str) -> None:
        """Deal with all that have no outcome yet; what was struck is verified, whatever ends the
        striking.
        """
        try:
            for wave in self._waves(course.whose(None)):
                self._strike(server, course, wave, right)
                self._verify(server, course)
        except (SweepFailed, TooSlowToTerminateError):
            self._verify(server, course)
            raise
        if course.whose(None):
            raise SweepFailed(
                SweepError(ErrorKind.DEADLINE, "the time ran out before all victims were struck")
            )

    def _waves(self, victims: Sequence[Session]) -> Iterator[list[Session]]:
        """All at once, or each user's evenly over the seconds of `spread_seconds` that the deadline
        leaves.
        """
        seconds = min(self.rules.spread_seconds, max(0.0, self.deadline.remaining() - 2 * VERIFY))
        began = self.clock()
        for second, wave in sorted(spread(victims, seconds).items()):
            self.sleep(max(0.0, began + second - self.clock()))
            yield wave

    def _strike(
        self, server: Server, course: _Course, victims: Sequence[Session], right: str
    ) -> None:
        """Give each victim its outcome, in order; stop where going on is pointless."""
        refused = most_refused = 0
        for chunk in terminate_all(server, victims, self.deadline.less(VERIFY)):
            for session, outcome in chunk:
                course.outcomes[session.id] = outcome
                refused = refused + 1 if outcome is Outcome.REFUSED else 0
                most_refused = max(most_refused, refused)
            self.observers.struck(len(course.outcomes), len(course.chosen))
            # Only now: whatever else the chunk did must be told as well.
            if most_refused >= _REFUSALS_IN_A_ROW:
                raise SweepFailed(self._rights_error(right))

    def _rights_error(self, right: str) -> SweepError:
        return SweepError(
            ErrorKind.RIGHTS,
            f"{_REFUSALS_IN_A_ROW} terminations in a row were refused; "
            f"the account {self.target.target.user!r} needs {right}",
        )

    def _verify(self, server: Server, course: _Course) -> None:
        """Look again until the signalled are gone, for a second at most: only then are they
        terminated.
        """
        until, step = self.deadline.sooner(VERIFY), _SHORTEST_STEP
        while True:
            waiting = course.whose(Outcome.SIGNALLED)
            still = server.still_present(waiting) if waiting else set()
            gone = [session.id for session in waiting if session.id not in still]
            course.outcomes |= dict.fromkeys(gone, Outcome.TERMINATED)
            if gone and course.first_freed is None:
                course.first_freed = self.clock()
            if not still or not until.affords(step):
                return
            self.sleep(step)
            step = min(2 * step, _LONGEST_STEP)


@contextmanager
def uncollected() -> Iterator[None]:
    """Without Python's search for cycles, which among tens of thousands of new rows finds none and
    takes half the time.

    It is the process's: of several sweeps at once the first that ends has it searched again, and
    the others are slower.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def spread(victims: Sequence[Session], seconds: float) -> dict[int, list[Session]]:
    """The victims by the second in which they are due: each user's evenly, so that its clients come
    back bit by bit.
    """
    of_user = Counter(victim.user for victim in victims)
    so_far: Counter[str | None] = Counter()
    waves: dict[int, list[Session]] = defaultdict(list)
    for victim in victims:
        waves[int(seconds * so_far[victim.user] / of_user[victim.user])].append(victim)
        so_far[victim.user] += 1
    return waves


def confirm(snapshot: Snapshot, earlier: Mapping[int, Session]) -> Snapshot:
    """The snapshot in which sleepers that an earlier look saw in the same sleep have their idle
    time confirmed.
    """
    sessions = tuple(_confirm(session, earlier.get(session.id)) for session in snapshot.sessions)
    return replace(snapshot, sessions=sessions)


def _confirm(session: Session, before: Session | None) -> Session:
    at_most = session.idle_at_most
    if session.idle_seconds is not None or at_most is None or before is None:
        return session
    # Between two looks in quick succession a statement that ended before the first would pass for a
    # sleep.
    if not _is_same_sleep(session, before) or at_most - _time(before) < SECOND_LOOK:
        return session
    return session._replace(idle_seconds=at_most, idle_at_most=None)


def _is_same_sleep(session: Session, before: Session) -> bool:
    if session.mark is None or before.mark is None or session.state is not before.state:
        return False
    return session.mark.matches(before.mark)


def _time(session: Session) -> float:
    """How long it had slept by the server's own count, of which its statement may be a part."""
    return next(
        (
            seconds
            for seconds in (session.idle_at_most, session.idle_seconds)
            if seconds is not None
        ),
        0.0,
    )


def _error(problem: Exception, driver: Driver) -> SweepError:
    """What went wrong, in the report's words.

    Text below the first line could quote SQL, so it stays out.
    """
    match problem:
        case SweepFailed():
            return problem.error
        case ConfigurationError():
            return SweepError(ErrorKind.CONFIGURATION, str(problem))
        case CredentialsUnavailable():
            return SweepError(ErrorKind.CREDENTIALS, first_line(problem))
        case TooSlowToTerminateError():
            return SweepError(ErrorKind.SERVER, str(problem))
    return SweepError(_KINDS.get(driver.fault(problem), ErrorKind.SERVER), first_line(problem))


def _login_error(problem: Exception, driver: Driver) -> SweepError:
    """While logging in, silence means that nobody is there: a security group drops packets without
    a word.
    """
    error = _error(problem, driver)
    is_silence = error.kind is ErrorKind.DEADLINE and not isinstance(problem, SweepFailed)
    return SweepError(ErrorKind.UNREACHABLE, error.message) if is_silence else error


def _locked_out(refused: Exception, attempts: int) -> SweepError:
    return SweepError(
        ErrorKind.LOCKED_OUT, f"no slot came free in {attempts} attempts: {first_line(refused)}"
    )


def blind_error(engine: Engine) -> SweepError:
    return SweepError(
        ErrorKind.BLIND,
        f"the account cannot see the sessions of others; GRANT it {engine.right_to_see}",
    )
