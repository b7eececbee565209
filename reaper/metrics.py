"""A report as CloudWatch metrics, in the embedded metric format."""

from __future__ import annotations

import json
from typing import Any

from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.metrics.provider.cloudwatch_emf.cloudwatch import AmazonCloudWatchEMFProvider

from reaper.model import Outcome, State
from reaper.report import ErrorKind, Report

NAMESPACE = "Reaper"


def measures(report: Report) -> dict[str, tuple[MetricUnit, float]]:
    """What a report says, by metric name. What was not read is left out; what alarms watch is always there."""
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
    return {name: (unit, round(float(value), 3)) for name, (unit, value) in found.items() if value is not None}


def embedded(report: Report, stack: str) -> dict[str, Any]:
    """One EMF document with two dimension sets, [Stack, Target] and [Stack], so that an alarm finds either."""
    # An empty service keeps Powertools from adding a dimension of that name.
    provider = AmazonCloudWatchEMFProvider(namespace=NAMESPACE, service="")
    provider.add_dimension("Stack", stack)
    provider.add_dimension("Target", report.target)
    provider.add_dimensions(Stack=stack)
    for name, (unit, value) in measures(report).items():
        provider.add_metric(name, unit, value)
    return dict(provider.serialize_metric_set())


def publish(report: Report, stack: str) -> None:
    """Print the document on standard output, from where CloudWatch Logs takes it; no endpoint is needed."""
    print(json.dumps(embedded(report, stack), separators=(",", ":")), flush=True)
