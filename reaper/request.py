"""What a trigger asked for: from an event to requests.

Pure; what is not recognised is an error, never a sweep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from reaper.client.target import (
    ConfigurationError,
    hint,
    nearest,
    parse_json,
    reject_unknown_keys,
    shown,
)
from reaper.message import FREE_RULES, Errand, check_rules
from reaper.model import Rules, SweepTarget


class Trigger(StrEnum):
    MANUAL = "manual"
    SCHEDULE = "schedule"
    ALARM = "alarm"
    QUEUE = "queue"


@dataclass(frozen=True)
class Request:
    """One request to sweep.

    `targets` None means all; `alarmed` are an alarm's own words for its targets.

    `is_due` is false for an alarm that is not in ALARM: it sweeps nothing. `advise` asks for advice
    and no sweep.
    """

    trigger: Trigger = Trigger.MANUAL
    dry_run: bool | None = None
    targets: tuple[str, ...] | None = None
    alarmed: tuple[tuple[str, str], ...] = ()
    rules: Mapping[str, Any] = field(default_factory=dict)
    is_due: bool = True
    advise: bool = False


@dataclass(frozen=True)
class Record:
    """One SQS message: its request, or what is wrong with it.

    `errand` is the target that the message brought along. After `not_after`, seconds since the
    epoch, a message that was never tried is not worth a sweep: a newer one stands behind it.
    """

    id: str
    request: Request | None = None
    problem: str | None = None
    errand: Errand | None = None
    not_after: float | None = None
    is_retry: bool = False

    @property
    def names(self) -> tuple[str, ...] | None:
        """The targets it asks for; None for all."""
        if self.errand:
            return (self.errand.target.name,)
        return self.request.targets if self.request else None

    def is_stale(self, now: float) -> bool:
        return self.not_after is not None and not self.is_retry and now > self.not_after


def parse(event: Any) -> Request | list[Record]:
    """Recognise an event: a request, or one record for each message of a queue.

    Raises ConfigurationError naming the key and the value for whatever is not recognised.
    """
    if not isinstance(event, Mapping):
        raise ConfigurationError(f"the event is {shown('event', event)}, not an object with keys")
    for mark, read in _ENVELOPES.items():
        if mark in event:
            _reject_own_keys(event)
            return read(event)
    return _from_manual(event)


_KEYS = ("dry_run", "targets", "rules", "trigger", "advise")


# a dozen today
_MOST_KEYS = 100
# SQS's own limit for a batch
_MOST_RECORDS = 10_000


def _reject_own_keys(event: Mapping[str, Any]) -> None:
    """AWS's own shapes may grow keys; ours beside them would be passed over, "dry_run": true first
    of all.
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


def _from_manual(event: Mapping[str, Any], default: Trigger = Trigger.MANUAL) -> Request:
    reject_unknown_keys(event, _KEYS, "event")
    if "advise" in event:
        return _for_advice(event)
    dry_run, rules = event.get("dry_run"), event.get("rules")
    # Null is what a broken template sends
    if "dry_run" in event and not isinstance(dry_run, bool):
        raise ConfigurationError(
            f"event: dry_run is {shown('dry_run', dry_run)}; say true or false"
        )
    Rules().override({} if rules is None else rules, "event: rules")
    return Request(_trigger(event, default), dry_run, _targets(event), rules=rules or {})


def _for_advice(event: Mapping[str, Any]) -> Request:
    """Advice terminates nobody, so a key that is a sweep's must not pass for obeyed."""
    if event["advise"] is not True:
        raise ConfigurationError(
            f"event: advise is {shown('advise', event['advise'])}; say true, or leave it out"
        )
    reject_unknown_keys(event, ("advise", "targets"), "event that asks for advice")
    return Request(targets=_targets(event), advise=True)


def _trigger(event: Mapping[str, Any], default: Trigger) -> Trigger:
    value = event.get("trigger")
    if value is None:
        return default
    if value not in list(Trigger):
        raise ConfigurationError(
            f"event: trigger is {shown('trigger', value)}; choose {', '.join(Trigger)}"
        )
    return Trigger(value)


def _targets(event: Mapping[str, Any]) -> tuple[str, ...] | None:
    if "targets" not in event:
        return None
    value = event["targets"]
    if (
        not isinstance(value, list)
        or not value
        or not all(isinstance(name, str) and name for name in value)
    ):
        raise ConfigurationError(
            f"event: targets is {shown('targets', value)}; give a list of names, or leave it out "
            f"for all"
        )
    return tuple(dict.fromkeys(value))


def _from_event_bridge(event: Mapping[str, Any]) -> Request:
    kind, source = event["detail-type"], event.get("source")
    if kind == "Scheduled Event" and source in ("aws.events", "aws.scheduler"):
        # Without an Input, Scheduler sends the text "{}" where a rule sends an empty object.
        if event.get("detail") not in (None, {}, "{}"):
            raise ConfigurationError(
                f"event: detail is {shown('detail', event['detail'])}; use Input for keys"
            )
        return Request(Trigger.SCHEDULE)
    if kind == "CloudWatch Alarm State Change" and source == "aws.cloudwatch":
        return _from_alarm(_object(event, "detail", "event"))
    raise ConfigurationError(
        f"event: detail-type is {shown('detail-type', kind)} from {shown('source', source)}"
    )


def _from_alarm(data: Mapping[str, Any]) -> Request:
    """The shape that EventBridge's detail and the Lambda action's alarmData share."""
    state = _object(data, "state", "alarm").get("value")
    # Expressions have no metric of their own; composite and log alarms have no metrics at all.
    items = _objects(_optional(data, "configuration", "alarm"), "metrics")
    metrics = [
        _optional(_optional(item, "metricStat", "alarm"), "metric", "metricStat") for item in items
    ]
    return _alarm_request(
        state, (_optional(metric, "dimensions", "metric").items() for metric in metrics)
    )


def _from_sns(message: Any) -> Request:
    """The shape that CloudWatch publishes to SNS: other names, dimensions as a list of pairs."""
    if not isinstance(message, Mapping) or "NewStateValue" not in message:
        raise ConfigurationError(
            f"event: the SNS message is {shown('Message', message)}, not a CloudWatch alarm"
        )
    trigger = _optional(message, "Trigger", "SNS message")
    stats = [_optional(item, "MetricStat", "SNS message") for item in _objects(trigger, "Metrics")]
    metrics = [trigger, *(_optional(stat, "Metric", "MetricStat") for stat in stats)]
    return _alarm_request(
        message["NewStateValue"],
        (
            [(pair.get("name"), pair.get("value")) for pair in _objects(metric, "Dimensions")]
            for metric in metrics
        ),
    )


_ENVELOPES: dict[str, Callable[[Mapping[str, Any]], Request | list[Record]]] = {
    "Records": lambda event: _from_records(event["Records"]),
    "detail-type": _from_event_bridge,
    "alarmData": lambda event: _from_alarm(_object(event, "alarmData", "alarm")),
}

_ALARM_STATES = ("OK", "ALARM", "INSUFFICIENT_DATA")
TARGET_DIMENSION = "Target"
_CLUSTER_DIMENSION = "DBClusterIdentifier"
_RESOURCE_DIMENSIONS = ("DBInstanceIdentifier", _CLUSTER_DIMENSION)


def _alarm_request(state: Any, metrics: Iterable[Iterable[tuple[Any, Any]]]) -> Request:
    if state not in _ALARM_STATES:
        raise ConfigurationError(
            f"alarm: the state is {shown('state', state)}; known: {', '.join(_ALARM_STATES)}"
        )
    ours = (TARGET_DIMENSION, *_RESOURCE_DIMENSIONS)
    named = [
        (name, _named(name, value))
        for dimensions in metrics
        for name, value in dimensions
        if name in ours
    ]
    return Request(Trigger.ALARM, alarmed=tuple(dict.fromkeys(named)), is_due=state == "ALARM")


def _named(dimension: str, value: Any) -> str:
    """What a dimension says; one that says nothing must not come to mean every target."""
    if not isinstance(value, str) or not value:
        raise ConfigurationError(
            f"alarm: {dimension} is {shown(dimension, value)}; it must name a target"
        )
    return value


def _from_records(records: Any) -> Request | list[Record]:
    if (
        not isinstance(records, list)
        or not records
        or not all(isinstance(record, Mapping) for record in records)
    ):
        raise ConfigurationError(
            f"event: Records is {shown('Records', records)}; give a list of SNS or SQS records"
        )
    if len(records) > _MOST_RECORDS:
        raise ConfigurationError(
            f"event: {len(records)} Records; AWS sends no more than {_MOST_RECORDS} at once"
        )
    # SNS writes EventSource, SQS eventSource.
    named = [record.get("EventSource") or record.get("eventSource") for record in records]
    sources = {
        source if isinstance(source, str) else shown("EventSource", source) for source in named
    }
    if sources == {"aws:sns"}:
        return _union(
            [_from_sns(_json(_object(record, "Sns", "record"), "Message")) for record in records]
        )
    if sources == {"aws:sqs"}:
        return [_from_sqs(record) for record in records]
    raise ConfigurationError(f"event: Records come from {shown('EventSource', sorted(sources))}")


def _union(requests: Sequence[Request]) -> Request:
    """SNS delivers one message an event; should it ever be more, everything in ALARM is swept."""
    due = [request for request in requests if request.is_due]
    if any(not request.alarmed for request in due):
        return Request(Trigger.ALARM)
    alarmed = tuple(dict.fromkeys(words for request in due for words in request.alarmed))
    return Request(Trigger.ALARM, alarmed=alarmed, is_due=bool(due))


def _from_sqs(record: Mapping[str, Any]) -> Record:
    id_ = record.get("messageId")
    if not isinstance(id_, str) or not id_:
        raise ConfigurationError(
            "event: an SQS record has no messageId, so it could not be reported as failed"
        )
    try:
        body = _json(record, "body")
        if not isinstance(body, Mapping):
            raise ConfigurationError(
                f"event: body is {shown('body', body)}, not an object with keys"
            )
        request = _from_manual(
            {key: body[key] for key in body if key not in _QUEUE_KEYS}, Trigger.QUEUE
        )
        if request.advise:
            raise ConfigurationError(
                "event: nobody reads the answer to a queue's message; send advise by hand"
            )
        # nobody's hand put it into a queue
        if request.trigger is Trigger.MANUAL:
            request = replace(request, trigger=Trigger.QUEUE)
        errand, not_after = _errand(body, request), _not_after(body)
        received = _optional(record, "attributes", "record").get("ApproximateReceiveCount", "1")
    except ConfigurationError as problem:
        return Record(id_, problem=str(problem))
    return Record(id_, request, errand=errand, not_after=not_after, is_retry=received != "1")


# What only a queue's message may say
_QUEUE_KEYS = ("target", "not_after")


def _errand(body: Mapping[str, Any], request: Request) -> Errand | None:
    """The target that a message brings along, with which no rule comes that only the stack may set."""
    if "target" not in body:
        return None
    if request.targets is not None:
        raise ConfigurationError(
            "message: target stands beside targets; one of them says what to sweep"
        )
    check_rules(request.rules, ("dry_run", *FREE_RULES), "message: rules")
    return Errand.from_json(body["target"])


def _not_after(body: Mapping[str, Any]) -> float | None:
    value = body.get("not_after")
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise ConfigurationError(
            f"message: not_after is {shown('not_after', value)}; give seconds since the epoch"
        )
    return value


def _json(given: Mapping[str, Any], key: str) -> Any:
    try:
        return parse_json(given.get(key))
    except (TypeError, ValueError) as problem:
        value = shown(key, given.get(key))
        raise ConfigurationError(
            f"event: {key} is {value}, which is not JSON ({problem})"
        ) from None


def _object(given: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    value = given.get(key)
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{where}: {key} is {shown(key, value)}, not an object with keys")
    return value


def _optional(given: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    return {} if given.get(key) is None else _object(given, key, where)


def _objects(given: Mapping[str, Any], key: str) -> Iterator[Mapping[str, Any]]:
    value = [] if given.get(key) is None else given[key]
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise ConfigurationError(f"alarm: {key} is {shown(key, value)}, not a list of objects")
    yield from value


# The names of the targets that are a cluster's instances, by its identifier
Clusters = Mapping[str, AbstractSet[str]]


def choose(
    request: Request, targets: Sequence[SweepTarget], clusters: Clusters | None = None
) -> list[SweepTarget]:
    """The targets a request means, in the order of the list; raise ConfigurationError for one that
    is unknown.
    """
    if not request.is_due:
        return []
    wanted = {*(request.targets or ())}
    for name in request.targets or ():
        if name not in (known := [target.name for target in targets]):
            raise ConfigurationError(f"unknown target {shown('target', name)}{hint(name, known)}")
    for dimension, value in request.alarmed:
        wanted |= _alarmed(dimension, value, targets, clusters or {})
    if request.targets is None and not request.alarmed:
        return list(targets)
    return [target for target in targets if target.name in wanted]


def _alarmed(
    dimension: str, value: str, targets: Sequence[SweepTarget], clusters: Clusters
) -> set[str]:
    """The names of those whom a dimension means; of a cluster all instances, for each has sessions
    of its own.
    """
    called = [
        (target.name if dimension == TARGET_DIMENSION else target.resource, target.name)
        for target in targets
    ]
    found = {name for known, name in called if known == value}
    # The retry client calls a target by its host's first label, which of a cluster's endpoint is
    # the cluster's name.
    names_clusters = dimension == _CLUSTER_DIMENSION or (
        dimension == TARGET_DIMENSION and not found
    )
    if names_clusters:
        found |= clusters.get(value, set())
    if not found:
        known = [*(name for name, _ in called), *(clusters if names_clusters else ())]
        raise ConfigurationError(
            f"the alarm's {dimension} {shown(dimension, value)} is no target{hint(value, known)}"
        )
    return found


def is_dry(
    request: Request, target_rules: Mapping[str, Any], stack_is_dry: bool, manual_kill: bool
) -> bool:
    """Whether a sweep may only report: if the stack, the target, the event or the event's rules say
    so.

    Raises ConfigurationError for an event that says false where the stack says true, except a
    manual one with exactly `"dry_run": false` where REAPER_MANUAL_KILL allows that.
    """
    asks_to_kill = False in (request.dry_run, request.rules.get("dry_run"))
    may_kill = manual_kill and request.trigger is Trigger.MANUAL and request.dry_run is False
    if stack_is_dry and asks_to_kill and not may_kill:
        raise ConfigurationError(
            "the event says dry_run false but the stack says REAPER_DRY_RUN true; set "
            "REAPER_DRY_RUN=false, "
            'or REAPER_MANUAL_KILL=true to let manual events with "dry_run": false kill'
        )
    others_say_dry = True in (
        request.dry_run,
        request.rules.get("dry_run"),
        target_rules.get("dry_run"),
    )
    return others_say_dry or (stack_is_dry and not may_kill)
