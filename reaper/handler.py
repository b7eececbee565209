"""The reaper's Lambda entry point: read the event, sweep every target, tell."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from math import ceil
from typing import Any, TextIO, cast

from aws_lambda_powertools import Logger

from reaper.client.deadline import Deadline, LambdaContext
from reaper.client.target import ConfigurationError
from reaper.fleet import targets_from_environ
from reaper.metrics import publish
from reaper.model import Rules, SweepTarget
from reaper.report import ErrorKind, Report
from reaper.request import Record, Request, Trigger, choose, is_dry, parse
from reaper.sweep import Sightings, Sweep

SIDE_BY_SIDE = 16  # sweeps at once: each waits for its server most of the time

_WITHOUT_LAMBDA = 60.0  # seconds for a call by hand that brings no context


class AllSweepsFailed(RuntimeError):
    """Every swept target ended in an error; the reports tell which."""


@dataclass(frozen=True)
class Settings:
    """The stack's own settings, read from the environment anew for each invocation."""

    rules: Rules
    targets: Sequence[SweepTarget]
    stack: str
    manual_kill: bool

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Settings:
        manual_kill = environ.get("REAPER_MANUAL_KILL") or "false"
        if manual_kill not in ("true", "false"):
            raise ConfigurationError(f"REAPER_MANUAL_KILL is {manual_kill!r}; say true or false")
        return cls(
            rules=Rules.from_environ(environ),
            targets=targets_from_environ(environ),
            stack=environ.get("REAPER_STACK") or environ.get("AWS_LAMBDA_FUNCTION_NAME") or "reaper",
            manual_kill=manual_kill == "true",
        )


@dataclass(frozen=True)
class _Job:
    """One sweep to do, and the message that asked for it where one did."""

    request: Request
    target: SweepTarget
    rules: Rules
    message_id: str | None = None


@dataclass
class _Plan:
    jobs: list[_Job] = field(default_factory=list)
    bad_messages: list[str] = field(default_factory=list)


# What this environment saw asleep in its previous sweep of each target; only MySQL without performance_schema asks.
_SIGHTINGS: dict[str, Sightings] = {}


def lambda_handler(event: Any, context: LambdaContext | None) -> dict[str, Any]:
    """Sweep what the event asks for. Raises for an event that is not understood, before anything is touched,
    and AllSweepsFailed, after metrics and logs are out, where no target could be swept."""
    deadline = Deadline.from_context(context) if context else Deadline.after(_WITHOUT_LAMBDA)
    settings = Settings.from_environ(os.environ)
    asked = parse(event)
    plan = _plan_messages(asked, settings) if isinstance(asked, list) else _Plan(_jobs(asked, settings))
    reports = _sweep_all(plan.jobs, deadline)
    for report in reports:
        _tell(report, settings.stack)
    answer = _answer(asked, settings, plan, reports)
    if isinstance(asked, list):
        failed = {job.message_id for job, report in zip(plan.jobs, reports, strict=True) if _has_failed(report)}
        items = [*plan.bad_messages, *(record.id for record in asked if record.id in failed)]
        return answer | {"batchItemFailures": [{"itemIdentifier": id_} for id_ in items]}
    if reports and all(_has_failed(report) for report in reports):
        raise AllSweepsFailed("; ".join(f"{r.target}: {r.error.kind}: {r.error.message}" for r in reports if r.error))
    return answer


def _jobs(request: Request, settings: Settings, message_id: str | None = None) -> list[_Job]:
    """A request's sweeps with their rules: defaults, stack, target, event, each over the one before."""
    jobs = []
    for target in choose(request, settings.targets):
        dry_run = is_dry(request, target.rules, settings.rules.dry_run, settings.manual_kill)
        rules = settings.rules.override(target.rules).override(request.rules)
        jobs.append(_Job(request, target, replace(rules, dry_run=dry_run), message_id))
    return jobs


def _plan_messages(records: Sequence[Record], settings: Settings) -> _Plan:
    """The sweeps of all good messages; a bad one is logged and left to the queue."""
    plan = _Plan()
    for record in records:
        problem = record.problem
        if record.request:
            try:
                plan.jobs += _jobs(record.request, settings, record.id)
            except ConfigurationError as found:
                problem = str(found)
        if problem:
            _logger().error("bad message", extra={"message_id": record.id, "problem": problem})
            plan.bad_messages.append(record.id)
    return plan


def _sweep_all(jobs: Sequence[_Job], deadline: Deadline) -> list[Report]:
    """Sweep side by side, each with its share of the time; one failure neither spares the rest nor vanishes."""
    if not jobs:
        return []
    rounds = ceil(len(jobs) / SIDE_BY_SIDE)
    share = deadline.remaining() / rounds
    with ThreadPoolExecutor(min(len(jobs), SIDE_BY_SIDE)) as pool:
        return list(pool.map(lambda job: _sweep(job, deadline.sooner(share)), jobs))


def _sweep(job: _Job, deadline: Deadline) -> Report:
    return Sweep(
        target=job.target,
        rules=job.rules,
        trigger=job.request.trigger,
        deadline=deadline,
        two_looks=job.request.trigger is Trigger.MANUAL,
        sightings=_SIGHTINGS.setdefault(job.target.name, {}),
    ).run()


def _has_failed(report: Report) -> bool:
    return report.error is not None and report.error.kind is not ErrorKind.BUSY


def _tell(report: Report, stack: str) -> None:
    """One log line for each session that was struck or refused, one for the sweep, and the metrics."""
    for victim in report.victims:
        if victim.outcome is not None and not report.dry_run:
            _logger().info("session", extra={"target": report.target, **victim.to_json()})
    summary = {key: value for key, value in report.to_json().items() if key != "victims"}
    log = _logger().error if _has_failed(report) else _logger().info
    log("sweep", extra=summary)
    publish(report, stack)


def _answer(
    asked: Request | list[Record], settings: Settings, plan: _Plan, reports: Sequence[Report]
) -> dict[str, Any]:
    trigger = Trigger.QUEUE if isinstance(asked, list) else asked.trigger
    dry_run = all(job.rules.dry_run for job in plan.jobs) if plan.jobs else settings.rules.dry_run
    return {"trigger": trigger, "dry_run": dry_run, "targets": [report.to_json() for report in reports]}


class _StandardOutput:
    """Standard output as it is now; a logger keeps the stream it was made with, which may be closed by then."""

    def write(self, text: str) -> int:
        return sys.stdout.write(text)

    def flush(self) -> None:
        sys.stdout.flush()


@cache
def _logger() -> Logger:
    return Logger(service="reaper", stream=cast(TextIO, _StandardOutput()))
