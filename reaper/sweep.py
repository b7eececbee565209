"""One sweep of one target: look, judge, strike, verify."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace

from reaper.client.credentials import CredentialsUnavailable, login_for
from reaper.client.deadline import Clock, Deadline
from reaper.client.drivers import driver_for
from reaper.client.drivers.base import Connection, Driver
from reaper.client.faults import Fault, first_line
from reaper.client.target import ConfigurationError, EngineName
from reaper.engines import engine_for
from reaper.engines.base import Engine, Look, Server, TooSlowToStrikeError, strike_all
from reaper.model import Mode, Outcome, Reason, Rules, Session, Snapshot, SweepTarget, Verdict
from reaper.policy import Judgement, judge, pressure_remains
from reaper.report import ErrorKind, Report, SweepError, Victim

SECOND_LOOK = 2.0  # seconds between two looks at a session whose true idle time the server does not tell
VERIFY = 1.0  # seconds to wait for the victims to be gone
_VERIFY_STEP = 0.12  # more than the 100 ms within which reading innodb_trx again shows the same old rows
_REFUSALS_IN_A_ROW = 3

_KINDS = {
    Fault.TOO_MANY: ErrorKind.LOCKED_OUT,
    Fault.CREDENTIALS: ErrorKind.CREDENTIALS,
    Fault.CONFIGURATION: ErrorKind.CONFIGURATION,
    Fault.UNREACHABLE: ErrorKind.UNREACHABLE,
    Fault.STARTING: ErrorKind.UNREACHABLE,
    Fault.TIMEOUT: ErrorKind.DEADLINE,
}

Sightings = MutableMapping[int, Session]


class SweepFailed(Exception):
    """Ends a sweep with an error that its report carries."""

    def __init__(self, error: SweepError) -> None:
        super().__init__(error.message)
        self.error = error


def _yes(_: Sequence[Verdict]) -> bool:
    return True


@dataclass(frozen=True)
class Observers:
    """What somebody beside the sweep may want to see or say. Defaults: nobody watches, nobody objects."""

    approve: Callable[[Sequence[Verdict]], bool] = _yes  # asked once, before the first kill
    looked: Callable[[Look], None] = lambda _: None
    struck: Callable[[int, int], None] = lambda done, of: None  # noqa: ARG005  named for the caller


@dataclass(frozen=True)
class Sweep:
    """Everything one sweep needs; `run` never raises for what the server or the network did.

    `sightings` are the sleepers of unknown idle time that this environment's previous sweep saw on the target.
    `two_looks` confirms those within this sweep: in manual runs, and always under pressure.
    """

    target: SweepTarget
    rules: Rules
    trigger: str
    deadline: Deadline
    two_looks: bool = False
    sightings: Sightings = field(default_factory=dict)
    observers: Observers = Observers()
    drivers: Callable[[EngineName], Driver] = driver_for
    engines: Callable[[EngineName], Engine] = engine_for
    clock: Clock = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def run(self) -> Report:
        began = self.clock()
        report = Report(
            target=self.target.name,
            engine=self.target.target.engine,
            trigger=self.trigger,
            dry_run=self.rules.dry_run,
        )
        driver = self.drivers(self.target.target.engine)
        try:
            connection = self._connect(driver)
        except Exception as problem:  # noqa: BLE001  whatever it was is told in the report, never swallowed
            report = replace(report, error=_login_error(problem, driver))
        else:
            try:
                report = self._sweep(driver, connection, report, began)
            finally:
                driver.close(connection)
        freed = [victim.session.id for victim in report.victims if victim.outcome is Outcome.TERMINATED]
        return replace(
            report,
            pressure_remains=pressure_remains(report.saw, self.rules, freed) if report.saw else None,
            duration_seconds=self.clock() - began,
        )

    def _connect(self, driver: Driver) -> Connection:
        if not self.deadline.remaining():
            raise SweepFailed(SweepError(ErrorKind.DEADLINE, "no time was left for this target"))
        target = self.target.target
        login = login_for(target)
        return driver.connect(replace(target, user=login.user), login.password, self.deadline, batch=True)

    def _sweep(self, driver: Driver, connection: Connection, report: Report, began: float) -> Report:
        """Look, judge, strike, verify, adding to the report what each step found."""
        engine = self.engines(self.target.target.engine)
        server = engine.server(connection, self.clock)
        victims: list[Victim] = []
        freed: list[float] = []
        try:
            snapshot, judgement = self._look(engine, server)
            report = replace(report, snapshot=snapshot, method=server.method)
            powerless = ("no_right_to_terminate",) if server.method is None else ()
            report = replace(report, warnings=snapshot.warnings + powerless)
            if snapshot.blind:
                raise SweepFailed(blind_error(engine))
            report = replace(report, mode=judgement.mode, verdicts=judgement.verdicts)
            victims[:] = [Victim(verdict) for verdict in judgement.victims]
            if self.rules.dry_run:
                victims[:] = [replace(victim, outcome=Outcome.WOULD_TERMINATE) for victim in victims]
            elif victims and self.observers.approve(judgement.victims):
                if not driver.is_alive(connection):
                    raise SweepFailed(SweepError(ErrorKind.SERVER, "the connection ended after the look"))
                self._strike_and_verify(server, victims, engine.right_to_kill, freed)
        except Exception as problem:  # noqa: BLE001  whatever it was is told in the report, never swallowed
            report = replace(report, error=_error(problem, driver))
        first = freed[0] - began if freed else None
        return replace(report, victims=tuple(victims), first_freed_seconds=first)

    def _look(self, engine: Engine, server: Server) -> tuple[Snapshot, Judgement]:
        look, snapshot = self._confirmed(engine, server, self.sightings)
        judgement = judge(snapshot, self.rules)
        doubted = any(verdict.reason is Reason.UNCONFIRMED for verdict in judgement.verdicts)
        if doubted and (self.two_looks or judgement.mode is Mode.PRESSURE) and self.deadline.affords(SECOND_LOOK):
            self.sleep(SECOND_LOOK)
            look, snapshot = self._confirmed(engine, server, _by_id(snapshot))
            judgement = judge(snapshot, self.rules)
        self.sightings.clear()
        self.sightings.update(_by_id(snapshot))
        self.observers.looked(look)
        return snapshot, judgement

    def _confirmed(self, engine: Engine, server: Server, earlier: Mapping[int, Session]) -> tuple[Look, Snapshot]:
        """A look in which those found asleep exactly as in an earlier one count as idle since then."""
        look = server.look()
        snapshot = confirm(engine.read(look), earlier)
        if "unconfirmed" in look.context:
            doubted = [session.id for session in snapshot.sessions if session.is_unconfirmed]
            look = replace(look, context={**look.context, "unconfirmed": doubted})
        return look, snapshot

    def _strike_and_verify(self, server: Server, victims: list[Victim], right: str, freed: list[float]) -> None:
        try:
            self._strike(server, victims, right)
        except (SweepFailed, TooSlowToStrikeError):
            self._verify(server, victims, freed)
            raise
        self._verify(server, victims, freed)

    def _strike(self, server: Server, victims: list[Victim], right: str) -> None:
        """Give each victim its outcome, in order; stop where going on is pointless."""
        places = {victim.session.id: place for place, victim in enumerate(victims)}
        refused = most_refused = done = 0
        for chunk in strike_all(server, [victim.session for victim in victims], self.deadline.less(VERIFY)):
            for session, outcome in chunk:
                victims[places[session.id]] = Victim(victims[places[session.id]].verdict, outcome)
                refused = refused + 1 if outcome is Outcome.REFUSED else 0
                most_refused = max(most_refused, refused)
            done += len(chunk)
            self.observers.struck(done, len(victims))
            # Only now: whatever else the chunk did must be told as well.
            if most_refused >= _REFUSALS_IN_A_ROW:
                raise SweepFailed(self._rights_error(right))
        if any(victim.outcome is None for victim in victims):
            raise SweepFailed(SweepError(ErrorKind.DEADLINE, "the time ran out before all victims were struck"))

    def _rights_error(self, right: str) -> SweepError:
        return SweepError(
            ErrorKind.RIGHTS,
            f"{_REFUSALS_IN_A_ROW} terminations in a row were refused; "
            f"the account {self.target.target.user!r} needs {right}",
        )

    def _verify(self, server: Server, victims: list[Victim], freed: list[float]) -> None:
        """Look again until the signalled are gone, for a second at most: only then are they terminated."""
        until = self.deadline.sooner(VERIFY)
        while True:
            waiting = [v.session for v in victims if v.outcome is Outcome.SIGNALLED]
            still = server.lingering(waiting) if waiting else set()
            for place, victim in enumerate(victims):
                if victim.outcome is Outcome.SIGNALLED and victim.session.id not in still:
                    victims[place] = replace(victim, outcome=Outcome.TERMINATED)
                    freed.append(self.clock())
            if not still or not until.affords(_VERIFY_STEP):
                return
            self.sleep(_VERIFY_STEP)


def confirm(snapshot: Snapshot, earlier: Mapping[int, Session]) -> Snapshot:
    """The snapshot in which sleepers that an earlier look saw in the same sleep have their idle time confirmed."""
    sessions = tuple(_confirm(session, earlier.get(session.id)) for session in snapshot.sessions)
    return replace(snapshot, sessions=sessions)


def _confirm(session: Session, before: Session | None) -> Session:
    if not session.is_unconfirmed or before is None or session.mark is None or before.mark is None:
        return session
    if before.state is not session.state or not session.mark.matches(before.mark):
        return session
    return replace(session, idle_seconds=session.idle_at_most, idle_at_most=None)


def _by_id(snapshot: Snapshot) -> dict[int, Session]:
    """The sleepers whose mark a later look can compare."""
    return {s.id: s for s in snapshot.sessions if s.mark is not None}


def _error(problem: Exception, driver: Driver) -> SweepError:
    """What went wrong, in the report's words. Text below the first line could quote SQL, so it stays out."""
    match problem:
        case SweepFailed():
            return problem.error
        case ConfigurationError():
            return SweepError(ErrorKind.CONFIGURATION, str(problem))
        case CredentialsUnavailable():
            return SweepError(ErrorKind.CREDENTIALS, first_line(problem))
        case TooSlowToStrikeError():
            return SweepError(ErrorKind.SERVER, str(problem))
    return SweepError(_KINDS.get(driver.fault(problem), ErrorKind.SERVER), first_line(problem))


def _login_error(problem: Exception, driver: Driver) -> SweepError:
    """While logging in, silence means that nobody is there: a security group drops packets without a word."""
    error = _error(problem, driver)
    is_silence = error.kind is ErrorKind.DEADLINE and not isinstance(problem, SweepFailed)
    return SweepError(ErrorKind.UNREACHABLE, error.message) if is_silence else error


def blind_error(engine: Engine) -> SweepError:
    return SweepError(
        ErrorKind.BLIND, f"the account cannot see the sessions of others; GRANT it {engine.right_to_see}"
    )
