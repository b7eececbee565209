"""CloudWatch's Embedded Metric Format for lines of Lambda's log, and the client's events in it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from reaper.client.deadline import Clock
from reaper.client.events import Event, EventKind, GivenUp, Observer
from reaper.client.faults import Fault
from reaper.client.redaction import printable

NAMESPACE = "Reaper"

# A tuple, since an event's reason is a plain text, whose hash is not that of an enum's member.
_STALE = (GivenUp.ENDED_BY_SERVER, GivenUp.NO_ANSWER)
# Characters. Source: CloudWatch, API reference, Dimension.
_LONGEST_DIMENSION = 1024


class Unit(StrEnum):
    """The unit of a metric, as CloudWatch spells it."""

    COUNT = "Count"
    SECONDS = "Seconds"
    PERCENT = "Percent"


@dataclass(frozen=True)
class Directive:
    """Which metrics CloudWatch takes from a document: each once for every set of dimensions."""

    dimension_sets: Sequence[Sequence[str]]
    metrics: Mapping[str, Unit]

    def to_json(self, namespace: str) -> dict[str, object]:
        """The directive as CloudWatch reads it."""
        return {
            "Namespace": namespace,
            "Dimensions": [list(names) for names in self.dimension_sets],
            "Metrics": [{"Name": name, "Unit": unit} for name, unit in self.metrics.items()],
        }


def emf_document(
    directives: Sequence[Directive],
    dimensions: Mapping[str, str],
    values: Mapping[str, object],
    at: float,
    namespace: str = NAMESPACE,
) -> dict[str, object]:
    """One document, for one line of the log. `at` is the time by the wall clock, in seconds.

    `values` are the metrics by name, each a number or a list of numbers, and what else the line
    shall say. The dimensions' values are written as CloudWatch takes them.
    """
    return {
        "_aws": {
            "Timestamp": int(at * 1000),
            "CloudWatchMetrics": [each.to_json(namespace) for each in directives],
        },
        **{name: dimension(value) for name, value in dimensions.items()},
        **values,
    }


def dimension(value: str) -> str:
    """A dimension's value as CloudWatch takes it: 1 to 1024 printable letters of ASCII; others are
    written as \\xfc.
    """
    # Backslashes first, so that two names never come out as one.
    text = printable(value).replace("\\", "\\\\").encode("ascii", "backslashreplace").decode()
    return text[:_LONGEST_DIMENSION] if text.strip() else "-"


def metrics_of(event: Event) -> list[str]:
    """The metrics that count the event."""
    found = {
        "TooManyConnections": event.reason == Fault.TOO_MANY
        and event.kind in (EventKind.RETRIED, EventKind.REFUSED),
        "Retries": event.kind is EventKind.RETRIED,
        "StaleConnections": event.kind is EventKind.DISCARDED and event.reason in _STALE,
        "OutcomeUnknown": event.kind is EventKind.OUTCOME_UNKNOWN,
    }
    return [name for name, counts in found.items() if counts]


def emf(
    namespace: str = NAMESPACE, write: Callable[[str], None] = print, wall: Clock = time.time
) -> Observer:
    """An observer for `Database(on_event=emf())`: one line for each event that counts, none for the
    others.

    Dimensions are `Function` and `Target`, and `Target` alone, which is what an alarm on a database
    looks for.
    """
    function = os.environ.get("AWS_LAMBDA_FUNCTION_NAME") or "local"

    def observe(event: Event) -> None:
        if not (names := metrics_of(event)):
            return
        directive = Directive(
            [["Function", "Target"], ["Target"]], dict.fromkeys(names, Unit.COUNT)
        )
        values: dict[str, object] = {
            **dict.fromkeys(names, 1),
            "reason": event.reason,
            "request_id": event.request_id,
        }
        dimensions = {"Function": function, "Target": event.target}
        write(json.dumps(emf_document([directive], dimensions, values, wall(), namespace)))

    return observe
