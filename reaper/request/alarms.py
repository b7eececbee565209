"""CloudWatch's alarms, in the shapes of EventBridge, of the Lambda action and of SNS. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from reaper.client.fields import ConfigurationError, object_at, objects_at, optional_object
from reaper.client.redaction import shown


class Dimension(StrEnum):
    """The dimensions of a metric that name a target: our own, and RDS's."""

    TARGET = "Target"
    INSTANCE = "DBInstanceIdentifier"
    CLUSTER = "DBClusterIdentifier"


@dataclass(frozen=True)
class Alarm:
    """Whether an alarm is in ALARM, and the dimensions by which it names its targets."""

    is_on: bool
    dimensions: tuple[tuple[Dimension, str], ...] = ()


def from_action(data: Mapping[str, Any]) -> Alarm:
    """The shape that EventBridge's detail and the Lambda action's alarmData share."""
    state = object_at(data, "state", "alarm").get("value")
    # Expressions have no metric of their own; composite and log alarms have no metrics at all.
    items = objects_at(optional_object(data, "configuration", "alarm"), "metrics")
    metrics = [
        optional_object(optional_object(item, "metricStat", "alarm"), "metric", "metricStat")
        for item in items
    ]
    return _alarm(
        state, (optional_object(metric, "dimensions", "metric").items() for metric in metrics)
    )


def from_sns(message: Any) -> Alarm:
    """The shape that CloudWatch publishes to SNS: other names, dimensions as a list of pairs."""
    if not isinstance(message, Mapping) or "NewStateValue" not in message:
        raise ConfigurationError(
            f"event: the SNS message is {shown('Message', message)}, not a CloudWatch alarm"
        )
    trigger = optional_object(message, "Trigger", "SNS message")
    stats = [
        optional_object(item, "MetricStat", "SNS message")
        for item in objects_at(trigger, "Metrics")
    ]
    metrics = [trigger, *(optional_object(stat, "Metric", "MetricStat") for stat in stats)]
    return _alarm(
        message["NewStateValue"],
        (
            [(pair.get("name"), pair.get("value")) for pair in objects_at(metric, "Dimensions")]
            for metric in metrics
        ),
    )


_ALARM_STATES = ("OK", "ALARM", "INSUFFICIENT_DATA")


def _alarm(state: Any, metrics: Iterable[Iterable[tuple[Any, Any]]]) -> Alarm:
    if state not in _ALARM_STATES:
        raise ConfigurationError(
            f"alarm: the state is {shown('state', state)}; known: {', '.join(_ALARM_STATES)}"
        )
    known = list(Dimension)
    named = [
        (Dimension(name), _named(name, value))
        for dimensions in metrics
        for name, value in dimensions
        if name in known
    ]
    return Alarm(state == "ALARM", tuple(dict.fromkeys(named)))


def _named(dimension: str, value: Any) -> str:
    """A dimension's value; an empty one must not come to mean every target."""
    if not isinstance(value, str) or not value:
        raise ConfigurationError(
            f"alarm: {dimension} is {shown(dimension, value)}; it must name a target"
        )
    return value


def union(alarms: Sequence[Alarm]) -> Alarm:
    """What several alarms ask for together: the targets of all that are in ALARM; every target
    where one of those names none.
    """
    on = [alarm for alarm in alarms if alarm.is_on]
    if not all(alarm.dimensions for alarm in on):
        return Alarm(is_on=True)
    named = dict.fromkeys(words for alarm in on for words in alarm.dimensions)
    return Alarm(bool(on), tuple(named))
