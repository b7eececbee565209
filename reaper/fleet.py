"""The planner: finds the databases to sweep, and asks for the sweep of each by a message of its
own.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reaper.client.credentials import aws_client
from reaper.client.deadline import Deadline, LambdaContext
from reaper.client.fields import ConfigurationError
from reaper.discovery import Discovery, Findings, Skipped, Why, discover
from reaper.environment import TARGETS, TARGETS_PARAMETER, stack_name, targets_from_environ
from reaper.invocation import Invocation
from reaper.message import DiscoveredTarget
from reaper.metrics import Tally, publish_tally
from reaper.model import SweepTarget
from reaper.rds import Aws
from reaper.request.events import SweepRequest, Trigger, parse
from reaper.request.plan import Clusters, Decider, choose, decide_dry_run
from reaper.rules import Rules, check_delegated

DISCOVER, QUEUE_URL, STALE_SECONDS = "REAPER_DISCOVER", "REAPER_QUEUE_URL", "REAPER_STALE_SECONDS"

# Seconds that the search for databases leaves for sending the messages
_FOR_SENDING = 15.0
_STALE_SECONDS = 600.0
# SQS's limits for one call, in messages and bytes; newer queues accept larger ones.
BATCH, _BATCH_BYTES = 10, 256 * 1024


class FleetIncomplete(RuntimeError):
    """Not all targets could be found or queued; the messages for the others have been sent."""


@dataclass(frozen=True)
class Fleet:
    """The targets that can be swept, in the order of their names, and those that cannot.

    `discovered` are the targets that are in no list, by name. `problems` are what AWS refused to
    tell.
    """

    targets: tuple[SweepTarget, ...] = ()
    discovered: Mapping[str, DiscoveredTarget] = field(default_factory=dict)
    clusters: Clusters = field(default_factory=dict)
    skipped: tuple[Skipped, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Message:
    """The request for one target's sweep.

    SQS hands out one message of a `group` at a time, and drops a second one with the same `id`.
    """

    target: str
    body: str
    group: str
    id: str

    @property
    def entry(self) -> dict[str, str]:
        return {
            "Id": self.id,
            "MessageBody": self.body,
            "MessageGroupId": self.group,
            "MessageDeduplicationId": self.id,
        }


def lambda_handler(event: Any, context: LambdaContext | None) -> dict[str, Any]:
    """Plan, and put a message for each target into the queue, from which the reaper sweeps.

    Raises ConfigurationError for an event that is not understood, before AWS is asked anything, and
    FleetIncomplete, after everything else is done and logged, where AWS did not tell or accept
    everything.
    """
    invocation = Invocation.begin(context)
    request = _sweeps_asked_for(event)
    dry_run = decide_dry_run(Decider.PLANNER, request, Rules.from_environ(os.environ))
    until = invocation.deadline.less(_FOR_SENDING)
    fleet = find_fleet(os.environ, until) if request.is_due else Fleet()
    stale = time.time() + _stale_seconds(os.environ)
    messages = [
        _message(request, dry_run, fleet, name, invocation.id, stale)
        for name in _chosen(request, fleet)
    ]
    unsent = _send(messages, os.environ, invocation.deadline)
    answer = {
        "trigger": request.trigger,
        "dry_run": dry_run,
        "targets": [message.target for message in messages],
        "skipped": [one.to_json() for one in fleet.skipped] if request.is_for_all else [],
        "unsent": unsent,
        "problems": list(fleet.problems),
    }
    _tell(answer, stack_name(os.environ), invocation)
    if unsent or fleet.problems:
        raise FleetIncomplete(
            "; ".join((*fleet.problems, *(f"{name}: {why}" for name, why in unsent.items())))
        )
    return answer


def _sweeps_asked_for(event: Any) -> SweepRequest:
    """The event as a request to sweep, with no rule that may not travel in a message."""
    request = parse(event)
    if not isinstance(request, SweepRequest):
        raise ConfigurationError(
            "the planner only plans sweeps; queues and advice are the reaper's function's"
        )
    check_delegated(request.rules.names, "event: rules", also=("dry_run",))
    return request


def find_fleet(environ: Mapping[str, str], deadline: Deadline) -> Fleet:
    """All targets that are listed or discovered.

    Where one of these sources fails, that is one of the fleet's problems, and the other is used all
    the same.
    """
    listed, problems = _listed(environ)
    found = _found(environ, deadline)
    names = {target.name for target in listed}
    taken = [name for one in found.targets if (name := one.target.name) in names]
    discovered = {one.target.name: one for one in found.targets if one.target.name not in names}
    targets = [*listed, *(one.target for one in discovered.values())]
    skipped = [
        *found.skipped,
        *(Skipped(name, Why.NAME, "a listed target has its name") for name in taken),
    ]
    return Fleet(
        tuple(sorted(targets, key=lambda target: target.name)),
        discovered,
        found.clusters,
        tuple(sorted(skipped, key=lambda one: one.target)),
        (*problems, *found.problems),
    )


def _listed(environ: Mapping[str, str]) -> tuple[list[SweepTarget], list[str]]:
    if not environ.get(TARGETS) and not environ.get(TARGETS_PARAMETER):
        return [], []
    try:
        return targets_from_environ(environ), []
    except ConfigurationError as problem:
        return [], [str(problem)]


def _found(environ: Mapping[str, str], deadline: Deadline) -> Findings:
    if not (text := environ.get(DISCOVER)):
        return Findings()
    wanted = Discovery.from_json(text, DISCOVER)
    return discover(wanted, Aws(deadline, wanted.role))


def _chosen(request: SweepRequest, fleet: Fleet) -> list[str]:
    """The names of the targets that the request selects; raise ConfigurationError for one that is
    unknown, or skipped.
    """
    for skipped in fleet.skipped:
        if skipped.target in (request.targets or ()):
            raise ConfigurationError(f"target {skipped.target!r} is not swept: {skipped.detail}")
    try:
        return [target.name for target in choose(request, fleet.targets, fleet.clusters)]
    except ConfigurationError:
        # It may be unknown only because AWS refused to tell of it.
        if fleet.problems:
            raise FleetIncomplete("; ".join(fleet.problems)) from None
        raise


def _message(
    request: SweepRequest, dry_run: bool, fleet: Fleet, name: str, run: str, stale: float
) -> Message:
    discovered = fleet.discovered.get(name)
    body = {
        "trigger": None if request.trigger is Trigger.MANUAL else request.trigger,
        # Never false: whether the stack is live is decided again by the sweep.
        "dry_run": True if dry_run else None,
        "rules": request.rules.to_json(),
        "targets": None if discovered else [name],
        "target": discovered and discovered.to_json(),
        "not_after": round(stale),
    }
    text = json.dumps(
        {key: value for key, value in body.items() if value not in (None, {})},
        separators=(",", ":"),
    )
    # Grouped by the trigger, too: an emergency's message must not wait behind a schedule's message
    # that failed and is tried again.
    return Message(name, text, _digest(request.trigger, name), _digest(run, name))


def _digest(*words: str) -> str:
    """An id for SQS, which does not accept every character that a name may hold."""
    return hashlib.sha256("\n".join(words).encode()).hexdigest()


def _stale_seconds(environ: Mapping[str, str]) -> float:
    text = environ.get(STALE_SECONDS) or str(_STALE_SECONDS)
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ConfigurationError(f"{STALE_SECONDS} is {text!r}; give seconds, more than 0")
    return seconds


def _send(
    messages: Sequence[Message], environ: Mapping[str, str], deadline: Deadline
) -> dict[str, str]:
    """Send all; return the reason for each target whose message could not be sent."""
    if not messages:
        return {}
    queue = environ.get(QUEUE_URL)
    if not queue:
        raise ConfigurationError(
            f"{QUEUE_URL} is not set; name the queue that the reaper sweeps from"
        )
    sqs = aws_client("sqs", deadline)
    # Start somewhere else each time: where there is too little time for all, it would always be the
    # same targets that get no message.
    start = int(time.time()) % len(messages)
    unsent: dict[str, str] = {}
    for batch in _batches([*messages[start:], *messages[:start]]):
        unsent |= _send_batch(sqs, queue, batch, deadline)
    return dict(sorted(unsent.items()))


def _batches(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """Batches as large as SQS accepts in one call."""
    batch: list[Message] = []
    size = 0
    for message in messages:
        length = len(message.body.encode())
        if batch and (len(batch) == BATCH or size + length > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(message)
        size += length
    if batch:
        yield batch


def _send_batch(
    sqs: Any, queue: str, batch: Sequence[Message], deadline: Deadline
) -> dict[str, str]:
    """Send a batch, and once more what failed; SQS drops a message that it had accepted before.

    Returns the reason for each target whose message failed twice.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    failed = {message.id: "no time was left to send it" for message in batch}
    for _ in range(2):
        if failed and deadline.remaining():
            entries = [message.entry for message in batch if message.id in failed]
            try:
                answer = sqs.send_message_batch(QueueUrl=queue, Entries=entries)
            except (BotoCoreError, ClientError) as problem:
                failed = dict.fromkeys(failed, str(problem))
            else:
                failed = {
                    found["Id"]: f"{found['Code']}: {found.get('Message')}"
                    for found in answer.get("Failed", [])
                }
    return {message.target: failed[message.id] for message in batch if message.id in failed}


def _tell(answer: Mapping[str, Any], stack: str, invocation: Invocation) -> None:
    """Write one log line for each target that is not swept, one for the plan, and the metrics."""
    # This imports Powertools, which takes long to load and which importers of this module do not
    # need.
    from reaper.log import logged_as, logger

    counts = {key: len(answer[key]) for key in ("targets", "skipped", "unsent", "problems")}
    with logged_as(invocation.id, answer["trigger"]):
        for skipped in answer["skipped"]:
            logger().info("skipped", extra=skipped)
        for name, why in answer["unsent"].items():
            logger().error("not sent", extra={"target": name, "problem": why})
        for problem in answer["problems"]:
            logger().error("not found", extra={"problem": problem})
        logger().info("plan", extra={"dry_run": answer["dry_run"], **counts})
    publish_tally(
        Tally(counts["targets"], counts["unsent"] + counts["problems"], counts["skipped"]), stack
    )
