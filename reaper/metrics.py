"""A report as CloudWatch metrics, in the embedded metric format."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.metrics.provider.cloudwatch_emf.cloudwatch import (
    AmazonCloudWatchEMFProvider,
)

from reaper.client.emf import dimension
from reaper.model import Outcome, State
from reaper.report import ErrorKind, Report
from reaper.settings import TargetMetrics

NAMESPACE = "Reaper"

Measures = dict[str, tuple[MetricUnit, float]]


# Which target fills up, which was relieved, which is not swept; the log has the rest.
FEW = ("Utilization", "Freed", "SweepFailed")


@dataclass(frozen=True)
class Tally:
    """A fleet's numbers. The planner counts what it planned and could not; the sweeps add what
    became of the rest.
    """

    planned: int | None = None
    failed: int = 0
    skipped: int = 0

    def measures(self) -> Measures:
        found = {
            "Targets": self.planned,
            "TargetsFailed": self.failed,
            "TargetsSkipped": self.skipped,
        }
        return {
            name: (MetricUnit.Count, float(value))
            for name, value in found.items()
            if value is not None
        }


def measures(report: Report) -> Measures:
    """What a report says, by metric name.

    What was not read is left out; what alarms watch is always there.
    """
    error = report.error.kind if report.error else None
    saw = report.saw
    utilization = saw.utilization if saw else None
    found: dict[str, tuple[MetricUnit, float | None]] = {
        "SessionsTotal": (MetricUnit.Count, report.total),
        "SessionsActive": (MetricUnit.Count, report.count(State.ACTIVE)),
        "SessionsIdle": (MetricUnit.Count, report.count(State.IDLE)),
        "SessionsIdleInTransaction": (MetricUnit.Count, report.count(State.IDLE_IN_TRANSACTION)),
        "OldestIdleSeconds": (MetricUnit.Seconds, report.oldest_idle_seconds),
        "Utilization": (MetricUnit.Percent, None if utilization is None else 100 * utilization),
        "MaxConnections": (MetricUnit.Count, saw.usable if saw else None),
        "Zombies": (MetricUnit.Count, report.zombies if saw else None),
        "Terminated": (MetricUnit.Count, report.outcomes[Outcome.TERMINATED]),
        "Refused": (MetricUnit.Count, report.outcomes[Outcome.REFUSED]),
        "Failed": (MetricUnit.Count, report.outcomes[Outcome.FAILED]),
        "Freed": (MetricUnit.Count, report.freed),
        "SweepSeconds": (MetricUnit.Seconds, report.duration_seconds),
        "LockedOut": (MetricUnit.Count, error is ErrorKind.LOCKED_OUT),
        "Blind": (MetricUnit.Count, error is ErrorKind.BLIND),
        "DryRun": (MetricUnit.Count, report.dry_run),
        "SweepFailed": (MetricUnit.Count, error not in (None, ErrorKind.BUSY)),
        "PressureRemains": (MetricUnit.Count, report.pressure_remains),
        "FirstFreedSeconds": (MetricUnit.Seconds, report.first_freed_seconds),
    }
    return {
        name: (unit, round(float(value), 3))
        for name, (unit, value) in found.items()
        if value is not None
    }


def embedded(
    report: Report, stack: str, of_target: TargetMetrics = TargetMetrics.ALL
) -> dict[str, Any]:
    """One EMF document with two dimension sets, [Stack, Target] and [Stack], so that an alarm finds
    either.
    """
    document = _document(stack, measures(report), report.target)
    return document if of_target is TargetMetrics.ALL else _with_few(document)


def _with_few(document: dict[str, Any]) -> dict[str, Any]:
    """The same document, of which CloudWatch takes all metrics for the stack and a few for the
    target.
    """
    (directive,) = document["_aws"]["CloudWatchMetrics"]
    few = [metric for metric in directive["Metrics"] if metric["Name"] in FEW]
    parted = [
        directive | {"Dimensions": [["Stack"]]},
        directive | {"Dimensions": [["Stack", "Target"]], "Metrics": few},
    ]
    return document | {"_aws": document["_aws"] | {"CloudWatchMetrics": parted}}


def embedded_tally(tally: Tally, stack: str) -> dict[str, Any]:
    """The same for a fleet's numbers, which are the stack's alone."""
    return _document(stack, tally.measures())


def _document(stack: str, measured: Measures, target: str | None = None) -> dict[str, Any]:
    # An empty service keeps Powertools from adding a dimension of that name.
    provider = AmazonCloudWatchEMFProvider(namespace=NAMESPACE, service="")
    provider.add_dimension("Stack", dimension(stack))
    if target is not None:
        provider.add_dimension("Target", dimension(target))
        provider.add_dimensions(Stack=dimension(stack))
    for name, (unit, value) in measured.items():
        provider.add_metric(name, unit, value)
    return dict(provider.serialize_metric_set())


def publish(told: Report | Tally, stack: str, of_target: TargetMetrics = TargetMetrics.ALL) -> None:
    """Print the document on standard output, from where CloudWatch Logs takes it; no endpoint is
    needed.
    """
    document = (
        embedded(told, stack, of_target)
        if isinstance(told, Report)
        else embedded_tally(told, stack)
    )
    print(json.dumps(document, separators=(",", ":")), flush=True)
