"""The reaper's Lambda entry point: read the event, sweep every target, tell."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import ceil
from typing import Any, TypeVar

from reaper.client.deadline import RESERVE, Deadline, LambdaContext
from reaper.client.drivers import driver_for
from reaper.client.events import GivenUp
from reaper.client.target import ConfigurationError, Target
from reaper.environment import stack_name, targets_from_environ
from reaper.log import logger as _logger
from reaper.message import put_over
from reaper.metrics import Tally, TargetMetrics, publish
from reaper.model import Rules, SweepTarget
from reaper.report import ErrorKind, Report
from reaper.request import Record, Request, Trigger, choose, is_dry, parse
from reaper.seat import Seat
from reaper.sweep import Sightings, Sweep

# Sweeps at once: each waits for its server most of the time
SIDE_BY_SIDE = 16

_Answer = TypeVar("_Answer")
# Seconds for a call by hand that brings no context
_WITHOUT_LAMBDA = 60.0
# a lock's holder that has slept so much longer than an invocation lasts is frozen
_SLACK = 5.0


class AllSweepsFailed(RuntimeError):
    """Every swept target ended in an error; the reports tell which."""


@dataclass(frozen=True)
class Settings:
    """The stack's own settings, read from the environment anew for each invocation."""

    environ: Mapping[str, str] = field(repr=False)
    rules: Rules
    stack: str
    manual_kill: bool
    keep_seat: bool
    target_metrics: TargetMetrics
    # Of the targets that messages bring along
    ca: str | None

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Settings:
        return cls(
            environ=environ,
            rules=Rules.from_environ(environ),
            stack=stack_name(environ),
            manual_kill=_flag(environ, "REAPER_MANUAL_KILL", "false"),
            keep_seat=_flag(environ, "REAPER_KEEP_SEAT", "true"),
            target_metrics=_target_metrics(environ),
            ca=environ.get("REAPER_CA") or None,
        )

    @cached_property
    def targets(self) -> Sequence[SweepTarget]:
        """Those that are listed; a fleet's sweeps may have no list, for each message brings its own
        target.
        """
        return targets_from_environ(self.environ)


def _flag(environ: Mapping[str, str], variable: str, default: str) -> bool:
    value = environ.get(variable) or default
    if value not in ("true", "false"):
        raise ConfigurationError(f"{variable} is {value!r}; say true or false")
    return value == "true"


def _target_metrics(environ: Mapping[str, str]) -> TargetMetrics:
    value = environ.get("REAPER_TARGET_METRICS") or TargetMetrics.ALL
    if value not in list(TargetMetrics):
        raise ConfigurationError(
            f"REAPER_TARGET_METRICS is {value!r}; choose {' or '.join(TargetMetrics)}"
        )
    return TargetMetrics(value)


class _Invoked:
    """When this invocation began, and how long it may take; a little less than the function's
    timeout.
    """

    def __init__(self, context: LambdaContext | None) -> None:
        self.at = time.monotonic()
        self.deadline = (
            Deadline.from_context(context) if context else Deadline.after(_WITHOUT_LAMBDA)
        )
        self.seconds = self.deadline.remaining() + RESERVE


@dataclass(frozen=True)
class _Job:
    """One sweep to do, and the message that asked for it where one did."""

    request: Request
    target: SweepTarget
    rules: Rules
    message_id: str | None = None
    notices: Sequence[str] = ()
    is_listed: bool = True


@dataclass
class _Plan:
    jobs: list[_Job] = field(default_factory=list)
    bad_messages: list[str] = field(default_factory=list)
    stale: int = 0


# What this environment saw asleep in its previous sweep of each target; only MySQL without
# performance_schema asks.
_SIGHTINGS: dict[str, Sightings] = {}
_SEATS: dict[Target, Seat] = {}


def lambda_handler(event: Any, context: LambdaContext | None) -> dict[str, Any]:
    """Sweep what the event asks for, or give the advice it asks for.

    Raises for an event that is not understood, before anything is touched, and AllSweepsFailed,
    after metrics and logs are out, where no target could be swept.
    """
    invoked = _Invoked(context)
    settings = Settings.from_environ(os.environ)
    asked = parse(event)
    if isinstance(asked, Request) and asked.advise:
        return _advise(asked, settings, invoked)
    plan = (
        _plan_messages(asked, settings)
        if isinstance(asked, list)
        else _Plan(_jobs(asked, settings))
    )
    reports = _side_by_side(Sweep.run, plan.jobs, settings, invoked)
    reports = [
        replace(report, warnings=(*job.notices, *report.warnings))
        for job, report in zip(plan.jobs, reports, strict=True)
    ]
    for report in reports:
        _tell(report, settings)
    answer = _answer(asked, settings, plan, reports)
    if isinstance(asked, list):
        failed = {
            job.message_id
            for job, report in zip(plan.jobs, reports, strict=True)
            if _has_failed(report)
        }
        items = [*plan.bad_messages, *(record.id for record in asked if record.id in failed)]
        if items or plan.stale:
            publish(Tally(failed=len(items), skipped=plan.stale), settings.stack)
        return answer | {"batchItemFailures": [{"itemIdentifier": id_} for id_ in items]}
    if reports and all(_has_failed(report) for report in reports):
        raise AllSweepsFailed(
            "; ".join(f"{r.target}: {r.error.kind}: {r.error.message}" for r in reports if r.error)
        )
    return answer


def _jobs(request: Request, settings: Settings, message_id: str | None = None) -> list[_Job]:
    """A request's sweeps with their rules: defaults, stack, target, event, each over the one
    before.
    """
    jobs = []
    for target in choose(request, settings.targets):
        dry_run = is_dry(request, target.rules, settings.rules.dry_run, settings.manual_kill)
        rules = settings.rules.override(target.rules).override(request.rules)
        jobs.append(_Job(request, target, replace(rules, dry_run=dry_run), message_id))
    return jobs


def _message_jobs(record: Record, request: Request, settings: Settings) -> list[_Job]:
    """A message's sweeps. The rules of one that brings its target along lift none of the stack's
    protections.
    """
    if record.errand is None:
        return _jobs(request, settings, record.id)
    target, notices = record.errand.target, record.errand.notices
    rules = put_over(put_over(settings.rules, target.rules), request.rules)
    dry_run = is_dry(request, target.rules, settings.rules.dry_run, settings.manual_kill)
    target = replace(target, target=replace(target.target, ca=settings.ca))
    return [
        _Job(request, target, replace(rules, dry_run=dry_run), record.id, notices, is_listed=False)
    ]


def _plan_messages(records: Sequence[Record], settings: Settings) -> _Plan:
    """The sweeps of all good messages; a bad one is logged and left to the queue, a stale one
    logged and dropped.
    """
    plan = _Plan()
    now = time.time()
    for record in records:
        problem = record.problem
        if record.is_stale(now):
            _logger().warning(
                "stale message", extra={"message_id": record.id, "targets": record.names}
            )
            plan.stale += 1
        elif record.request:
            try:
                plan.jobs += _message_jobs(record, record.request, settings)
            except ConfigurationError as found:
                problem = str(found)
        if problem:
            _logger().error("bad message", extra={"message_id": record.id, "problem": problem})
            plan.bad_messages.append(record.id)
    return plan


def _seats(jobs: Sequence[_Job], settings: Settings) -> list[Seat | None]:
    """Each job's seat; none for a second one on the same target, nor for a target that nobody has
    listed.

    Seats of targets that are no more are given up.
    """
    if not any(job.is_listed for job in jobs):
        return [None] * len(jobs)
    wanted = {target.target for target in settings.targets} if settings.keep_seat else set()
    for target in _SEATS.keys() - wanted:
        _SEATS.pop(target).discard(GivenUp.NOT_WANTED)
    seats: list[Seat | None] = []
    for job in jobs:
        target = job.target.target
        seat = (
            _SEATS.setdefault(target, Seat(target, driver_for(target.engine)))
            if target in wanted
            else None
        )
        # Given away
        wanted.discard(target)
        seats.append(seat)
    return seats


def _advise(request: Request, settings: Settings, invoked: _Invoked) -> dict[str, Any]:
    """What to change about the servers: no sweep, so it has no metrics, and its errors stand in the
    answer alone.
    """
    # a good part of a cold start, and no sweep needs it
    from reaper.consult import consult

    jobs = [_Job(request, target, settings.rules) for target in choose(request, settings.targets)]
    advice = [found.to_json() for found in _side_by_side(consult, jobs, settings, invoked)]
    for found in advice:
        _logger().info("advice", extra=found)
    return {"trigger": request.trigger, "advice": advice}


def _side_by_side(
    do: Callable[[Sweep], _Answer], jobs: Sequence[_Job], settings: Settings, invoked: _Invoked
) -> list[_Answer]:
    """Do it for all, each with its share of the time; one failure neither spares the rest nor
    vanishes.
    """
    seats = _seats(jobs, settings)
    if not jobs:
        return []
    # Two messages may ask for the same target: it is swept twice, never at once
    chains: dict[str, list[int]] = {}
    for place, job in enumerate(jobs):
        chains.setdefault(job.target.name, []).append(place)
    share = invoked.deadline.remaining() / ceil(len(chains) / SIDE_BY_SIDE)
    answers: dict[int, _Answer] = {}

    def in_turn(places: list[int]) -> None:
        for place in places:
            answers[place] = do(_sweep(jobs[place], seats[place], invoked, share))

    with ThreadPoolExecutor(min(len(chains), SIDE_BY_SIDE)) as pool:
        # The list has their exceptions raised here
        list(pool.map(in_turn, chains.values()))
    return [answers[place] for place in range(len(jobs))]


def _sweep(job: _Job, seat: Seat | None, invoked: _Invoked, share: float) -> Sweep:
    return Sweep(
        target=job.target,
        rules=job.rules,
        trigger=job.request.trigger,
        deadline=invoked.deadline.sooner(share),
        # The next message for the same target will find another environment, which has seen nobody.
        two_looks=job.request.trigger is Trigger.MANUAL or job.message_id is not None,
        sightings=Sightings()
        if job.message_id
        else _SIGHTINGS.setdefault(job.target.name, Sightings()),
        seat=seat,
        frozen_after=invoked.seconds + _SLACK,
        invoked=invoked.at,
    )


def _has_failed(report: Report) -> bool:
    return report.error is not None and report.error.kind is not ErrorKind.BUSY


def _tell(report: Report, settings: Settings) -> None:
    """One log line for each session that was struck or refused, one for the sweep, and the metrics."""
    for victim in report.victims:
        if victim.outcome is not None and not report.dry_run:
            _logger().info("session", extra={"target": report.target, **victim.to_json()})
    summary = {key: value for key, value in report.to_json().items() if key != "victims"}
    log = _logger().error if _has_failed(report) else _logger().info
    log("sweep", extra=summary)
    publish(report, settings.stack, settings.target_metrics)


def _answer(
    asked: Request | list[Record], settings: Settings, plan: _Plan, reports: Sequence[Report]
) -> dict[str, Any]:
    trigger = Trigger.QUEUE if isinstance(asked, list) else asked.trigger
    dry_run = all(job.rules.dry_run for job in plan.jobs) if plan.jobs else settings.rules.dry_run
    return {
        "trigger": trigger,
        "dry_run": dry_run,
        "targets": [report.to_json() for report in reports],
    }
