"""What a trigger asked for: from an event to requests. Pure; what is not recognised is an error, never a sweep."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from reaper.client.target import ConfigurationError, hint, nearest, reject_unknown_keys, shown
from reaper.model import Rules, SweepTarget


class Trigger(StrEnum):
    MANUAL = "manual"
    SCHEDULE = "schedule"
    ALARM = "alarm"
    QUEUE = "queue"


@dataclass(frozen=True)
class Request:
    """One request to sweep. `targets` None means all; `alarmed` are an alarm's own words for its targets.

    `is_due` is false for an alarm that is not in ALARM: it sweeps nothing.
    """

    trigger: Trigger = Trigger.MANUAL
    dry_run: bool | None = None
    targets: tuple[str, ...] | None = None
    alarmed: tuple[tuple[str, str], ...] = ()
    rules: Mapping[str, Any] = field(default_factory=dict)
    is_due: bool = True


@dataclass(frozen=True)
class Record:
    """One SQS message: its request, or what is wrong with it."""

    id: str
    request: Request | None = None
    problem: str | None = None


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


_KEYS = ("dry_run", "targets", "rules", "trigger")


def _reject_own_keys(event: Mapping[str, Any]) -> None:
    """AWS's own shapes may grow keys; ours beside them would be passed over, "dry_run": true first of all."""
    for key in event:
        if nearest(key, _KEYS, cutoff=0.8):
            raise ConfigurationError(f"event: {shown('key', key)} stands beside AWS's own keys; send it on its own")


def _from_manual(event: Mapping[str, Any], default: Trigger = Trigger.MANUAL) -> Request:
    reject_unknown_keys(event, _KEYS, "event")
    dry_run, rules = event.get("dry_run"), event.get("rules")
    if dry_run is not None and not isinstance(dry_run, bool):
        raise ConfigurationError(f"event: dry_run is {shown('dry_run', dry_run)}; say true or false")
    Rules().override({} if rules is None else rules, "event: rules")
    return Request(_trigger(event, default), dry_run, _targets(event), rules=rules or {})


def _trigger(event: Mapping[str, Any], default: Trigger) -> Trigger:
    value = event.get("trigger")
    if value is None:
        return default
    if value not in list(Trigger):
        raise ConfigurationError(f"event: trigger is {shown('trigger', value)}; choose {', '.join(Trigger)}")
    return Trigger(value)


def _targets(event: Mapping[str, Any]) -> tuple[str, ...] | None:
    value = event.get("targets")
    if value is None:
        return None
    if not isinstance(value, list) or not value or not all(isinstance(name, str) and name for name in value):
        raise ConfigurationError(
            f"event: targets is {shown('targets', value)}; give a list of names, or leave it out for all"
        )
    return tuple(dict.fromkeys(value))


def _from_event_bridge(event: Mapping[str, Any]) -> Request:
    kind, source = event["detail-type"], event.get("source")
    if kind == "Scheduled Event" and source in ("aws.events", "aws.scheduler"):
        # Without an Input, Scheduler sends the text "{}" where a rule sends an empty object.
        if event.get("detail") not in (None, {}, "{}"):
            raise ConfigurationError(f"event: detail is {shown('detail', event['detail'])}; use Input for keys")
        return Request(Trigger.SCHEDULE)
    if kind == "CloudWatch Alarm State Change" and source == "aws.cloudwatch":
        return _from_alarm(_object(event, "detail", "event"))
    raise ConfigurationError(f"event: detail-type is {shown('detail-type', kind)} from {shown('source', source)}")


def _from_alarm(data: Mapping[str, Any]) -> Request:
    """The shape that EventBridge's detail and the Lambda action's alarmData share."""
    state = _object(data, "state", "alarm").get("value")
    configuration = _object(data, "configuration", "alarm") if data.get("configuration") else {}
    # Expressions have no metric of their own; composite and log alarms have no metrics at all.
    metrics = [m["metricStat"]["metric"] for m in _objects(configuration, "metrics") if _has_metric(m)]
    return _alarm_request(state, (_object(m, "dimensions", "metric") for m in metrics if m.get("dimensions")))


def _has_metric(item: Mapping[str, Any]) -> bool:
    stat = item.get("metricStat")
    return isinstance(stat, Mapping) and isinstance(stat.get("metric"), Mapping)


def _from_sns(message: Any) -> Request:
    """The shape that CloudWatch publishes to SNS: other names, dimensions as a list of pairs."""
    if not isinstance(message, Mapping) or "NewStateValue" not in message:
        raise ConfigurationError(f"event: the SNS message is {shown('Message', message)}, not a CloudWatch alarm")
    trigger = _object(message, "Trigger", "SNS message") if message.get("Trigger") else {}
    stats = [m["MetricStat"] for m in _objects(trigger, "Metrics") if isinstance(m.get("MetricStat"), Mapping)]
    metrics = [trigger, *(_object(stat, "Metric", "MetricStat") for stat in stats)]
    return _alarm_request(
        message["NewStateValue"],
        ({str(pair.get("name")): pair.get("value") for pair in _objects(metric, "Dimensions")} for metric in metrics),
    )


_ENVELOPES: dict[str, Callable[[Mapping[str, Any]], Request | list[Record]]] = {
    "Records": lambda event: _from_records(event["Records"]),
    "detail-type": _from_event_bridge,
    "alarmData": lambda event: _from_alarm(_object(event, "alarmData", "alarm")),
}

_ALARM_STATES = ("OK", "ALARM", "INSUFFICIENT_DATA")
TARGET_DIMENSION = "Target"
_RESOURCE_DIMENSIONS = ("DBInstanceIdentifier", "DBClusterIdentifier")


def _alarm_request(state: Any, dimensions: Iterable[Mapping[str, Any]]) -> Request:
    if state not in _ALARM_STATES:
        raise ConfigurationError(f"alarm: the state is {shown('state', state)}; known: {', '.join(_ALARM_STATES)}")
    named = [
        (name, str(found[name]))
        for found in dimensions
        for name in (TARGET_DIMENSION, *_RESOURCE_DIMENSIONS)
        if found.get(name)
    ]
    return Request(Trigger.ALARM, alarmed=tuple(dict.fromkeys(named)), is_due=state == "ALARM")


def _from_records(records: Any) -> Request | list[Record]:
    if not isinstance(records, list) or not records or not all(isinstance(record, Mapping) for record in records):
        raise ConfigurationError(f"event: Records is {shown('Records', records)}; give a list of SNS or SQS records")
    # SNS writes EventSource, SQS eventSource.
    sources = {record.get("EventSource") or record.get("eventSource") for record in records}
    if sources == {"aws:sns"}:
        return _union([_from_sns(_json(_object(record, "Sns", "record"), "Message")) for record in records])
    if sources == {"aws:sqs"}:
        return [_from_sqs(record) for record in records]
    raise ConfigurationError(f"event: Records come from {shown('EventSource', sorted(map(str, sources)))}")


def _union(requests: Sequence[Request]) -> Request:
    """SNS delivers one message an event; should it ever be more, everything in ALARM is swept."""
    due = [request for request in requests if request.is_due]
    if any(not request.alarmed for request in due):
        return Request(Trigger.ALARM)
    alarmed = tuple(dict.fromkeys(words for request in due for words in request.alarmed))
    return Request(Trigger.ALARM, alarmed=alarmed, is_due=bool(due))


def _from_sqs(record: Mapping[str, Any]) -> Record:
    id_ = str(record.get("messageId") or "")
    if not id_:
        raise ConfigurationError("event: an SQS record has no messageId, so it could not be reported as failed")
    try:
        body = _json(record, "body")
        if not isinstance(body, Mapping):
            raise ConfigurationError(f"event: body is {shown('body', body)}, not an object with keys")
        request = _from_manual(body, Trigger.QUEUE)
        if request.trigger is Trigger.MANUAL:  # nobody's hand put it into a queue
            request = replace(request, trigger=Trigger.QUEUE)
    except ConfigurationError as problem:
        return Record(id_, problem=str(problem))
    return Record(id_, request)


def _json(given: Mapping[str, Any], key: str) -> Any:
    try:
        return json.loads(given.get(key))  # type: ignore[arg-type]  # what is no text is a TypeError
    except (TypeError, ValueError, RecursionError):
        raise ConfigurationError(f"event: {key} is {shown(key, given.get(key))}, which is not JSON") from None


def _object(given: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    value = given.get(key)
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{where}: {key} is {shown(key, value)}, not an object with keys")
    return value


def _objects(given: Mapping[str, Any], key: str) -> Iterator[Mapping[str, Any]]:
    value = given.get(key) or []
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise ConfigurationError(f"alarm: {key} is {shown(key, value)}, not a list of objects")
    yield from value


def choose(request: Request, targets: Sequence[SweepTarget]) -> list[SweepTarget]:
    """The targets a request means, in the order of the list; raise ConfigurationError for one that is unknown."""
    if not request.is_due:
        return []
    wanted = {*(request.targets or ())}
    for name in wanted:
        if name not in (known := [target.name for target in targets]):
            raise ConfigurationError(f"unknown target {name!r}{hint(name, known)}")
    for dimension, value in request.alarmed:
        wanted |= _alarmed(dimension, value, targets)
    if request.targets is None and not request.alarmed:
        return list(targets)
    return [target for target in targets if target.name in wanted]


def _alarmed(dimension: str, value: str, targets: Sequence[SweepTarget]) -> set[str]:
    if dimension == TARGET_DIMENSION:
        found = {target.name for target in targets if target.name == value}
    else:
        found = {target.name for target in targets if target.resource == value}
    if not found:
        known = [target.name if dimension == TARGET_DIMENSION else target.resource for target in targets]
        raise ConfigurationError(f"the alarm's {dimension} {value!r} is no target{hint(value, known)}")
    return found


def is_dry(request: Request, target_rules: Mapping[str, Any], stack_is_dry: bool, manual_kill: bool) -> bool:
    """Whether a sweep may only report: if the stack, the target, the event or the event's rules say so.

    Raises ConfigurationError for an event that says false where the stack says true, except a manual one with
    exactly `"dry_run": false` where REAPER_MANUAL_KILL allows that.
    """
    asks_to_kill = False in (request.dry_run, request.rules.get("dry_run"))
    may_kill = manual_kill and request.trigger is Trigger.MANUAL and request.dry_run is False
    if stack_is_dry and asks_to_kill and not may_kill:
        raise ConfigurationError(
            "the event says dry_run false but the stack says REAPER_DRY_RUN true; set REAPER_DRY_RUN=false, "
            "or REAPER_MANUAL_KILL=true to let manual events with \"dry_run\": false kill"
        )
    others_say_dry = True in (request.dry_run, request.rules.get("dry_run"), target_rules.get("dry_run"))
    return others_say_dry or (stack_is_dry and not may_kill)
