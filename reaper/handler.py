"""The reaper's Lambda entry point, in four steps: parse the event, plan, run the sweeps, tell."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

from reaper.client.deadline import LambdaContext
from reaper.client.redaction import hide_passwords
from reaper.invocation import Invocation
from reaper.log import logged_as, logger
from reaper.metrics import Tally, publish_report, publish_tally
from reaper.report import ErrorKind, Report
from reaper.request.events import AdviceRequest, Batch, SweepRequest, Trigger, parse
from reaper.request.plan import Plan, plan_advice, plan_batch, plan_sweeps
from reaper.running import run_side_by_side
from reaper.settings import StackSettings
from reaper.sweep import Sweep


class AllSweepsFailed(RuntimeError):
    """Every swept target ended in an error; the reports tell which."""


def lambda_handler(event: Any, context: LambdaContext | None) -> dict[str, Any]:
    """Sweep what the event asks for, or give the advice it asks for.

    Raises ConfigurationError for an event that is not understood, before anything is touched, and
    AllSweepsFailed, after metrics and logs are out, where no target could be swept.
    """
    invocation = Invocation.begin(context)
    stack = StackSettings.from_environ(os.environ)
    match parse(event):
        case SweepRequest() as request:
            return _sweep_targets(request, stack, invocation)
        case Batch() as batch:
            return _sweep_batch(batch, stack, invocation)
        case AdviceRequest() as request:
            return _advise(request, stack, invocation)


def _sweep_targets(
    request: SweepRequest, stack: StackSettings, invocation: Invocation
) -> dict[str, Any]:
    plan = plan_sweeps(request, stack)
    with logged_as(invocation.id, plan.trigger):
        reports = run_side_by_side(Sweep.run, plan.jobs, stack, invocation)
        _tell(reports, stack)
    if reports and all(_has_failed(report) for report in reports):
        raise AllSweepsFailed(
            "; ".join(f"{r.target}: {r.error.kind}: {r.error.message}" for r in reports if r.error)
        )
    return _answer(plan, reports)


def _sweep_batch(batch: Batch, stack: StackSettings, invocation: Invocation) -> dict[str, Any]:
    """Bad messages and those whose sweeps failed are returned to SQS, which delivers them again;
    nothing is raised.
    """
    plan = plan_batch(batch, stack, time.time())
    with logged_as(invocation.id, plan.trigger):
        _tell_messages(plan)
        reports = run_side_by_side(Sweep.run, plan.jobs, stack, invocation)
        _tell(reports, stack)
    jobs = zip(plan.jobs, reports, strict=True)
    failed = {job.message_id for job, report in jobs if _has_failed(report)}
    ids = [message.id for message in plan.bad]
    ids += [message.id for message in batch.messages if message.id in failed]
    if ids or plan.stale:
        publish_tally(Tally(failed=len(ids), skipped=len(plan.stale)), stack.stack)
    return _answer(plan, reports) | {"batchItemFailures": [{"itemIdentifier": id_} for id_ in ids]}


def _advise(request: AdviceRequest, stack: StackSettings, invocation: Invocation) -> dict[str, Any]:
    """What to change about the servers. This is no sweep, so it has no metrics, and its errors are
    in the answer only.
    """
    # Imported here because it takes a good part of a cold start and no sweep needs it.
    from reaper.advising import advise_target

    jobs = plan_advice(request, stack)
    found = run_side_by_side(advise_target, jobs, stack, invocation)
    advice = [one.to_json() for one in found]
    with logged_as(invocation.id, Trigger.MANUAL):
        for one in advice:
            logger().info("advice", extra=one)
    return {"trigger": Trigger.MANUAL, "advice": advice}


def _answer(plan: Plan, reports: Sequence[Report]) -> dict[str, Any]:
    return {
        "trigger": plan.trigger,
        "dry_run": plan.dry_run,
        "targets": [report.to_json() for report in reports],
    }


def _tell_messages(plan: Plan) -> None:
    """Write one log line for each message that has no sweep."""
    for late in plan.stale:
        logger().warning("stale message", extra={"message_id": late.id, **_named(late.names)})
    for bad in plan.bad:
        said = {"message_id": bad.id, "problem": bad.problem, **_named(bad.names)}
        logger().error("bad message", extra=said)


def _named(names: Sequence[str] | None) -> dict[str, Any]:
    """A message's targets for the log. Their names are unchecked: somebody may have sent a DSN."""
    shown = [hide_passwords(name) for name in names or ()]
    return ({"targets": shown} if shown else {}) | ({"target": shown[0]} if len(shown) == 1 else {})


def _tell(reports: Sequence[Report], stack: StackSettings) -> None:
    """For each report write one log line per session that was acted on, one for the sweep, and the
    metrics.
    """
    for report in reports:
        named = {"target": report.target, "trigger": report.trigger}
        for victim in report.victims:
            if victim.outcome is not None and not report.dry_run:
                logger().info("session", extra={**named, **victim.to_json()})
        summary = {key: value for key, value in report.to_json().items() if key != "victims"}
        log = logger().error if _has_failed(report) else logger().info
        log("sweep", extra=summary)
        publish_report(report, stack.stack, stack.target_metrics)


def _has_failed(report: Report) -> bool:
    return report.error is not None and report.error.kind is not ErrorKind.BUSY
