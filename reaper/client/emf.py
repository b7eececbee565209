"""The client's events as CloudWatch metrics: lines in the Embedded Metric Format, which Lambda's
log becomes.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable

from reaper.client.deadline import Clock
from reaper.client.events import Event, EventKind, Observer
from reaper.client.faults import Fault
from reaper.client.target import printable

STALE = frozenset({"ended by the server", "does not answer"})


def metrics_of(event: Event) -> list[str]:
    """The metrics that count the event."""
    found = {
        "TooManyConnections": event.reason == Fault.TOO_MANY
        and event.kind in (EventKind.RETRIED, EventKind.REFUSED),
        "Retries": event.kind is EventKind.RETRIED,
        "StaleConnections": event.kind is EventKind.DISCARDED and event.reason in STALE,
        "OutcomeUnknown": event.kind is EventKind.OUTCOME_UNKNOWN,
    }
    return [name for name, counts in found.items() if counts]


def dimension(value: str) -> str:
    """A dimension's value as CloudWatch takes it: 1 to 1024 printable letters of ASCII; others are
    written as \\xfc.
    """
    # Backslashes first, so that two names never come out as one.
    text = printable(value).replace("\\", "\\\\").encode("ascii", "backslashreplace").decode()
    return text[:_LONGEST_DIMENSION] if text.strip() else "-"


_LONGEST_DIMENSION = 1024


def emf(
    namespace: str = "Reaper", write: Callable[[str], None] = print, wall: Clock = time.time
) -> Observer:
    """An observer for `Database(on_event=emf())`: one line for each event that counts, none for the
    others.

    Dimensions are `Function` and `Target`, and `Target` alone: what an alarm on a database looks
    for.
    """
    function = dimension(os.environ.get("AWS_LAMBDA_FUNCTION_NAME") or "local")

    def observe(event: Event) -> None:
        if not (names := metrics_of(event)):
            return
        directive = {
            "Namespace": namespace,
            "Dimensions": [["Function", "Target"], ["Target"]],
            "Metrics": [{"Name": name, "Unit": "Count"} for name in names],
        }
        line = {
            "_aws": {"Timestamp": int(wall() * 1000), "CloudWatchMetrics": [directive]},
            "Function": function,
            "Target": dimension(event.target),
            **dict.fromkeys(names, 1),
            "reason": event.reason,
            "request_id": event.request_id,
        }
        write(json.dumps(line))

    return observe
