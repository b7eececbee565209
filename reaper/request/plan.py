"""What is done about a request: which targets are swept, by which rules, and whether that is dry.

Pure. A plan is complete before any database is touched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from enum import Enum, auto

from reaper.client.fields import ConfigurationError
from reaper.client.redaction import hint, shown
from reaper.message import DiscoveredTarget, Notice
from reaper.model import SweepTarget
from reaper.request.alarms import Dimension
from reaper.request.events import (
    AdviceRequest,
    BadMessage,
    Batch,
    QueuedSweep,
    SweepRequest,
    Trigger,
)
from reaper.rules import Rules, RulesPatch
from reaper.settings import StackSettings

# The names of the targets that are a cluster's instances, by its identifier
Clusters = Mapping[str, AbstractSet[str]]


@dataclass(frozen=True)
class Job:
    """One target to sweep by its final rules, and the id of the message that asked for it, if one
    did.

    `notices` are warnings that its report must carry. A target that came with its message is not
    listed.
    """

    trigger: Trigger
    target: SweepTarget
    rules: Rules
    message_id: str | None = None
    notices: Sequence[Notice] = ()
    is_listed: bool = True


@dataclass(frozen=True)
class Plan:
    """What is done for one event: its jobs, and the messages for which there is none.

    `dry_run` is true if none of its jobs can terminate a session. `bad` messages go back to the
    queue, `stale` ones are dropped.
    """

    trigger: Trigger
    dry_run: bool
    jobs: Sequence[Job] = ()
    bad: Sequence[BadMessage] = ()
    stale: Sequence[QueuedSweep] = ()


def plan_sweeps(request: SweepRequest, stack: StackSettings) -> Plan:
    """A request's sweeps.

    Raises ConfigurationError for a target that is unknown, and for a request to kill that the stack
    does not allow.
    """
    return _plan(request.trigger, _jobs(request, stack), stack)


def plan_advice(request: AdviceRequest, stack: StackSettings) -> list[Job]:
    """The targets to look at; raise ConfigurationError for one that is unknown."""
    targets = _named(request.targets, stack.targets)
    return [Job(Trigger.MANUAL, target, stack.rules) for target in targets]


def plan_command(
    request: SweepRequest, targets: Sequence[SweepTarget], stack: RulesPatch
) -> list[Job]:
    """The sweeps of these targets that the command line asks for; `stack` is what the variables
    say.

    Raises ConfigurationError for a `kill` where anybody says that a run is dry.
    """
    jobs = []
    for target in targets:
        dry_run = decide_dry_run(Decider.COMMAND_LINE, request, stack, target)
        rules = request.rules.applied_to(target.rules.applied_to(stack.applied_to(Rules())))
        jobs.append(Job(request.trigger, target, replace(rules, dry_run=dry_run)))
    return jobs


def plan_batch(batch: Batch, stack: StackSettings, now: float) -> Plan:
    """The sweeps of all messages that are understood and not stale; `now` is in seconds since the
    epoch. A problem of one message does not affect the others.
    """
    jobs: list[Job] = []
    bad: list[BadMessage] = []
    stale: list[QueuedSweep] = []
    for message in batch.messages:
        if isinstance(message, BadMessage):
            bad.append(message)
        elif message.is_stale(now):
            stale.append(message)
        else:
            try:
                jobs += _message_jobs(message, stack)
            except ConfigurationError as problem:
                bad.append(BadMessage(message.id, str(problem), message.names))
    return _plan(Trigger.QUEUE, jobs, stack, bad, stale)


def _plan(
    trigger: Trigger,
    jobs: Sequence[Job],
    stack: StackSettings,
    bad: Sequence[BadMessage] = (),
    stale: Sequence[QueuedSweep] = (),
) -> Plan:
    dry_run = all(job.rules.dry_run for job in jobs) if jobs else stack.rules.dry_run
    return Plan(trigger, dry_run, jobs, bad, stale)


def _message_jobs(message: QueuedSweep, stack: StackSettings) -> list[Job]:
    if message.discovered is None:
        return _jobs(message.request, stack, message.id)
    return [_discovered_job(message, message.discovered, stack)]


def _jobs(request: SweepRequest, stack: StackSettings, message_id: str | None = None) -> list[Job]:
    """A request's sweeps of listed targets. The target's rules take precedence over the stack's,
    the event's over both.
    """
    jobs = []
    for target in choose(request, stack.targets):
        dry_run = _is_dry(request, target, stack)
        rules = request.rules.applied_to(target.rules.applied_to(stack.rules))
        rules = replace(rules, dry_run=dry_run)
        jobs.append(Job(request.trigger, target, rules, message_id))
    return jobs


def _discovered_job(
    message: QueuedSweep, discovered: DiscoveredTarget, stack: StackSettings
) -> Job:
    """The sweep of a target that came with its message; its rules remove none of the stack's
    protections.
    """
    request, target = message.request, discovered.target
    rules = target.rules.applied_keeping_protections(stack.rules)
    rules = request.rules.applied_keeping_protections(rules)
    return Job(
        request.trigger,
        replace(target, target=replace(target.target, ca=stack.ca)),
        replace(rules, dry_run=_is_dry(request, target, stack)),
        message.id,
        discovered.notices,
        is_listed=False,
    )


def _is_dry(request: SweepRequest, target: SweepTarget, stack: StackSettings) -> bool:
    return decide_dry_run(
        Decider.REAPER, request, stack.rules, target, manual_kill=stack.manual_kill
    )


class Decider(Enum):
    """Which part of the program asks whether a run is dry."""

    # The function that sweeps
    REAPER = auto()
    # The function that plans: what it decides travels with its messages
    PLANNER = auto()
    # The operator's commands: a `kill` that would be dry is refused instead
    COMMAND_LINE = auto()


_HOW_TO_KILL = {
    Decider.REAPER: (
        "the event says dry_run false but the stack says REAPER_DRY_RUN true; set "
        "REAPER_DRY_RUN=false, or REAPER_MANUAL_KILL=true to let manual events with "
        '"dry_run": false kill'
    ),
    Decider.PLANNER: (
        "the event says dry_run false but the stack says REAPER_DRY_RUN true; set it to false"
    ),
    Decider.COMMAND_LINE: (
        "REAPER_DRY_RUN is true, so nothing is terminated; unset it, or use scan"
    ),
}


def decide_dry_run(
    decider: Decider,
    request: SweepRequest,
    stack: Rules | RulesPatch,
    target: SweepTarget | None = None,
    *,
    manual_kill: bool = False,
) -> bool:
    """Whether a run may only report: if the stack, the target, the request or the request's rules
    say so. This is the only place where that is decided.

    A run that was asked to kill is never quietly dry. Raises ConfigurationError for a request that
    says false where the stack says true; only for the reaper, a manual request with exactly
    `"dry_run": false` takes precedence over the stack where REAPER_MANUAL_KILL (`manual_kill`)
    allows that. Also raises for a `kill` on the command line where the options or the target say
    true. A `scan` is a request that says true, and is always dry.
    """
    is_command = decider is Decider.COMMAND_LINE
    if is_command and request.dry_run:
        return True
    asks_to_kill = is_command or False in (request.dry_run, request.rules.dry_run)
    may_lift = decider is Decider.REAPER and manual_kill and _is_manual_kill(request)
    stack_is_dry = _says_dry(stack, is_command)
    if stack_is_dry and asks_to_kill and not may_lift:
        raise ConfigurationError(_HOW_TO_KILL[decider])
    if is_command:
        _check_kill(request, target)
    if True in (request.dry_run, request.rules.dry_run, _of_target(target)):
        return True
    return stack_is_dry and not may_lift


def _says_dry(stack: Rules | RulesPatch, is_command: bool) -> bool:
    """What the stack says. If REAPER_DRY_RUN is not set, the default counts for the functions, and
    nothing for the command line.
    """
    if stack.dry_run is None:
        return Rules().dry_run and not is_command
    return stack.dry_run


def _of_target(target: SweepTarget | None) -> bool | None:
    return target.rules.dry_run if target else None


def _is_manual_kill(request: SweepRequest) -> bool:
    return request.trigger is Trigger.MANUAL and request.dry_run is False


def _check_kill(request: SweepRequest, target: SweepTarget | None) -> None:
    if request.rules.dry_run:
        raise ConfigurationError(
            "--rules says dry_run true, so nothing is terminated; leave it out, or use scan"
        )
    if target and target.rules.dry_run:
        raise ConfigurationError(
            f"target {target.name!r} says dry_run true in its own rules; use scan"
        )


def choose(
    request: SweepRequest, targets: Sequence[SweepTarget], clusters: Clusters | None = None
) -> list[SweepTarget]:
    """The targets that a request selects, in the order of the list; none for an alarm that is not
    in ALARM.

    Raises ConfigurationError for a name or an alarm's dimension that matches none.
    """
    if not request.is_due:
        return []
    if not request.alarmed:
        return _named(request.targets, targets)
    wanted: set[str] = set()
    for dimension, value in request.alarmed:
        wanted |= _alarmed(dimension, value, targets, clusters or {})
    return [target for target in targets if target.name in wanted]


def _named(names: Sequence[str] | None, targets: Sequence[SweepTarget]) -> list[SweepTarget]:
    """The targets of these names; all for None."""
    if names is None:
        return list(targets)
    known = [target.name for target in targets]
    for name in names:
        if name not in known:
            raise ConfigurationError(f"unknown target {shown('target', name)}{hint(name, known)}")
    return [target for target in targets if target.name in names]


def _alarmed(
    dimension: Dimension, value: str, targets: Sequence[SweepTarget], clusters: Clusters
) -> set[str]:
    """The names of the targets that a dimension selects; of a cluster all instances, since each has
    sessions of its own.
    """
    called = [
        (target.name if dimension is Dimension.TARGET else target.resource, target.name)
        for target in targets
    ]
    found = {name for known, name in called if known == value}
    # The retry client calls a target by its host's first label, which for a cluster's endpoint is
    # the cluster's name.
    names_clusters = dimension is Dimension.CLUSTER or (dimension is Dimension.TARGET and not found)
    if names_clusters:
        found |= clusters.get(value, set())
    if not found:
        known = [*(name for name, _ in called), *(clusters if names_clusters else ())]
        raise ConfigurationError(
            f"the alarm's {dimension} {shown(dimension, value)} is no target{hint(value, known)}"
        )
    return found
