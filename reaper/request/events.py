"""What an event asks for: AWS's shapes and ours, each parsed once into a request.

Pure. What is not recognised is an error and never starts a sweep.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from reaper.client.fields import (
    ConfigurationError,
    are_names,
    choice,
    is_object,
    json_at,
    object_at,
    optional_object,
    reject_unknown_keys,
)
from reaper.client.redaction import nearest, shown
from reaper.message import DiscoveredTarget
from reaper.request import alarms
from reaper.request.alarms import Dimension
from reaper.rules import RulesPatch, check_delegated


class Trigger(StrEnum):
    """What caused the request."""

    MANUAL = "manual"
    SCHEDULE = "schedule"
    ALARM = "alarm"
    QUEUE = "queue"


@dataclass(frozen=True)
class SweepRequest:
    """One request to sweep.

    `targets` None means all; `alarmed` are the dimensions by which an alarm names its targets, each
    with its value. `is_due` is false for an alarm that is not in ALARM: it sweeps nothing.
    """

    trigger: Trigger = Trigger.MANUAL
    dry_run: bool | None = None
    targets: tuple[str, ...] | None = None
    alarmed: tuple[tuple[Dimension, str], ...] = ()
    rules: RulesPatch = RulesPatch()
    is_due: bool = True

    @property
    def is_for_all(self) -> bool:
        """Whether it names no target, which means all of them."""
        return self.targets is None and not self.alarmed


@dataclass(frozen=True)
class AdviceRequest:
    """One request for advice, which is always a manual one; `targets` None means all."""

    targets: tuple[str, ...] | None = None


@dataclass(frozen=True)
class QueuedSweep:
    """An SQS message that is understood.

    `discovered` is the target that the message brought along. After `not_after`, in seconds since
    the epoch, a message that was never tried is not worth a sweep: a newer one is already queued.
    """

    id: str
    request: SweepRequest
    discovered: DiscoveredTarget | None = None
    not_after: float | None = None
    is_retry: bool = False

    @property
    def names(self) -> tuple[str, ...] | None:
        """The targets it asks for; None for all."""
        return (self.discovered.target.name,) if self.discovered else self.request.targets

    def is_stale(self, now: float) -> bool:
        """Whether it waited too long to be worth a sweep; `now` is in seconds since the epoch."""
        return self.not_after is not None and not self.is_retry and now > self.not_after


@dataclass(frozen=True)
class BadMessage:
    """An SQS message that is not understood, and what is wrong with it.

    `names` are the targets it asks for, where that much was understood.
    """

    id: str
    problem: str
    names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Batch:
    """The messages of an SQS event, in their order."""

    messages: tuple[QueuedSweep | BadMessage, ...]


def parse(event: Any) -> SweepRequest | AdviceRequest | Batch:
    """Recognise an event.

    Raises ConfigurationError naming the key and the value for whatever is not recognised; a message
    of a queue carries its own problem instead.
    """
    if not isinstance(event, Mapping):
        raise ConfigurationError(f"the event is {shown('event', event)}, not an object with keys")
    for mark, read in _ENVELOPES.items():
        if mark in event:
            _reject_own_keys(event)
            return read(event)
    return _from_advice(event) if "advise" in event else _from_own(event)


_KEYS = ("dry_run", "targets", "rules", "trigger", "advise")
# AWS sends a dozen today.
_MOST_KEYS = 100
# The stack's batch size. SQS would send up to ten thousand, but each record is a target's sweep and
# a metric's dimension.
_MOST_RECORDS = 10
_MOST_TARGETS = 200


def _reject_own_keys(event: Mapping[str, Any]) -> None:
    """Raise ConfigurationError for one of our keys beside AWS's own, where it would be ignored: a
    "dry_run": true would not be obeyed. Keys that do not resemble ours are accepted, since AWS may
    add some to its events.
    """
    if len(event) > _MOST_KEYS:
        raise ConfigurationError(
            f"event: {len(event)} keys; AWS sends no more than {_MOST_KEYS} in one"
        )
    for key in event:
        if nearest(key, _KEYS, cutoff=0.8):
            raise ConfigurationError(
                f"event: {shown('key', key)} stands beside AWS's own keys; send it on its own"
            )


def _from_own(event: Mapping[str, Any], default: Trigger = Trigger.MANUAL) -> SweepRequest:
    """Our own shape: by hand, as a schedule's Input, or in a message of the queue."""
    reject_unknown_keys(event, _KEYS, "event")
    dry_run = event.get("dry_run")
    # A broken template sends null, which must not come to mean the stack's setting.
    if "dry_run" in event and not isinstance(dry_run, bool):
        raise ConfigurationError(
            f"event: dry_run is {shown('dry_run', dry_run)}; say true or false"
        )
    rules = RulesPatch.from_entry(event, "event")
    return SweepRequest(_trigger(event, default), dry_run, _targets(event), rules=rules)


def _from_advice(event: Mapping[str, Any]) -> AdviceRequest:
    """A sweep's keys beside `advise` are errors: they would have no effect, and whoever sent them
    might believe that they had.
    """
    reject_unknown_keys(event, _KEYS, "event")
    if event["advise"] is not True:
        raise ConfigurationError(
            f"event: advise is {shown('advise', event['advise'])}; say true, or leave it out"
        )
    reject_unknown_keys(event, ("advise", "targets"), "event that asks for advice")
    return AdviceRequest(_targets(event))


def _trigger(event: Mapping[str, Any], default: Trigger) -> Trigger:
    return choice(event, "trigger", Trigger, "event") or default


def _targets(event: Mapping[str, Any]) -> tuple[str, ...] | None:
    if "targets" not in event:
        return None
    value = event["targets"]
    if not are_names(value) or not value:
        raise ConfigurationError(
            f"event: targets is {shown('targets', value)}; give a list of names, or leave it out "
            f"for all"
        )
    if len(value) > _MOST_TARGETS:
        raise ConfigurationError(
            f"event: {len(value)} targets; name no more than {_MOST_TARGETS}, or leave targets out "
            "for all"
        )
    return tuple(dict.fromkeys(value))


def _from_event_bridge(event: Mapping[str, Any]) -> SweepRequest:
    kind, source = event["detail-type"], event.get("source")
    if kind == "Scheduled Event" and source in ("aws.events", "aws.scheduler"):
        # Without an Input, Scheduler sends the text "{}" where a rule sends an empty object.
        if event.get("detail") not in (None, {}, "{}"):
            raise ConfigurationError(
                f"event: detail is {shown('detail', event['detail'])}; use Input for keys"
            )
        return SweepRequest(Trigger.SCHEDULE)
    if kind == "CloudWatch Alarm State Change" and source == "aws.cloudwatch":
        return _from_alarm(alarms.from_action(object_at(event, "detail", "event")))
    raise ConfigurationError(
        f"event: detail-type is {shown('detail-type', kind)} from {shown('source', source)}"
    )


_ENVELOPES: dict[str, Callable[[Mapping[str, Any]], SweepRequest | Batch]] = {
    "Records": lambda event: _from_records(event["Records"]),
    "detail-type": _from_event_bridge,
    "alarmData": lambda event: _from_alarm(
        alarms.from_action(object_at(event, "alarmData", "alarm"))
    ),
}


def _from_alarm(alarm: alarms.Alarm) -> SweepRequest:
    return SweepRequest(Trigger.ALARM, alarmed=alarm.dimensions, is_due=alarm.is_on)


def _from_records(records: Any) -> SweepRequest | Batch:
    if not isinstance(records, list) or not records or not all(map(is_object, records)):
        raise ConfigurationError(
            f"event: Records is {shown('Records', records)}; give a list of SNS or SQS records"
        )
    if len(records) > _MOST_RECORDS:
        raise ConfigurationError(
            f"event: {len(records)} Records; a queue must send no more than {_MOST_RECORDS} at "
            f"once: set BatchSize to {_MOST_RECORDS} or less"
        )
    sources = {_source(record) for record in records}
    if sources == {"aws:sns"}:
        # SNS delivers one message an event; should it ever be more, none must be lost.
        texts = [object_at(record, "Sns", "record") for record in records]
        return _from_alarm(
            alarms.union([alarms.from_sns(json_at(text, "Message")) for text in texts])
        )
    if sources == {"aws:sqs"}:
        return Batch(tuple(map(_from_sqs, records)))
    raise ConfigurationError(f"event: Records come from {shown('EventSource', sorted(sources))}")


def _source(record: Mapping[str, Any]) -> str:
    # SNS writes EventSource, SQS eventSource.
    source = record.get("EventSource") or record.get("eventSource")
    return source if isinstance(source, str) else shown("EventSource", source)


def _from_sqs(record: Mapping[str, Any]) -> QueuedSweep | BadMessage:
    id_ = record.get("messageId")
    if not isinstance(id_, str) or not id_:
        raise ConfigurationError(
            "event: an SQS record has no messageId, so it could not be reported as failed"
        )
    try:
        return _from_message(id_, record)
    except ConfigurationError as problem:
        return BadMessage(id_, str(problem))


def _from_message(id_: str, record: Mapping[str, Any]) -> QueuedSweep:
    body = json_at(record, "body")
    if not isinstance(body, Mapping):
        raise ConfigurationError(f"event: body is {shown('body', body)}, not an object with keys")
    request = _queued({key: body[key] for key in body if key not in _QUEUE_KEYS})
    discovered, not_after = _discovered(body, request), _not_after(body)
    received = optional_object(record, "attributes", "record").get("ApproximateReceiveCount", "1")
    return QueuedSweep(id_, request, discovered, not_after, is_retry=received != "1")


def _queued(event: Mapping[str, Any]) -> SweepRequest:
    """The request in a message's body."""
    if "advise" in event:
        raise ConfigurationError(
            "event: nobody reads the answer to a queue's message; send advise by hand"
        )
    request = _from_own(event, Trigger.QUEUE)
    # A manual event may be allowed to kill on a dry stack; a message never is, whoever sent it.
    is_manual = request.trigger is Trigger.MANUAL
    return replace(request, trigger=Trigger.QUEUE) if is_manual else request


# The keys that only a message of the queue may have
_QUEUE_KEYS = ("target", "not_after")


def _discovered(body: Mapping[str, Any], request: SweepRequest) -> DiscoveredTarget | None:
    """The target that a message brings along. Rules beside it that only the stack may set are
    errors.
    """
    if "target" not in body:
        return None
    if request.targets is not None:
        raise ConfigurationError(
            "message: target stands beside targets; one of them says what to sweep"
        )
    check_delegated(request.rules.names, "message: rules", also=("dry_run",))
    return DiscoveredTarget.from_json(body["target"])


def _not_after(body: Mapping[str, Any]) -> float | None:
    value = body.get("not_after")
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise ConfigurationError(
            f"message: not_after is {shown('not_after', value)}; give seconds since the epoch"
        )
    return value
