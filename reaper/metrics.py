"""Reports, and a fleet's counts, as CloudWatch metrics."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass

from reaper.client.emf import Directive, Unit, emf_document
from reaper.model import Outcome, State
from reaper.report import ErrorKind, Report
from reaper.settings import TargetMetrics

Measures = dict[str, tuple[Unit, float]]


# What a target has of its own where its stack asks for few metrics: whether it fills up, was
# relieved, is not swept. The log has the rest.
FEW = ("Utilization", "Freed", "SweepFailed")


@dataclass(frozen=True)
class Tally:
    """A fleet's counts of targets. The planner knows how many it planned, and counts those that it
    could not ask for; the sweeps count those of the rest that came to grief or too late.
    """

    planned: int | None = None
    failed: int = 0
    skipped: int = 0

    def measures(self) -> Measures:
        """What the tally says, by metric name."""
        return _known(
            {
                "Targets": (Unit.COUNT, self.planned),
                "TargetsFailed": (Unit.COUNT, self.failed),
                "TargetsSkipped": (Unit.COUNT, self.skipped),
            }
        )


def measures(report: Report) -> Measures:
    """What a report says, by metric name.

    What was not read is left out; what alarms watch is always there.
    """
    error = report.error.kind if report.error else None
    saw = report.saw
    utilization = saw.utilization if saw else None
    return _known(
        {
            "SessionsTotal": (Unit.COUNT, report.total),
            "SessionsActive": (Unit.COUNT, report.count(State.ACTIVE)),
            "SessionsIdle": (Unit.COUNT, report.count(State.IDLE)),
            "SessionsIdleInTransaction": (Unit.COUNT, report.count(State.IDLE_IN_TRANSACTION)),
            "OldestIdleSeconds": (Unit.SECONDS, report.oldest_idle_seconds),
            "Utilization": (Unit.PERCENT, None if utilization is None else 100 * utilization),
            "MaxConnections": (Unit.COUNT, saw.usable if saw else None),
            "Zombies": (Unit.COUNT, report.zombies if saw else None),
            "Terminated": (Unit.COUNT, report.outcomes[Outcome.TERMINATED]),
            "Refused": (Unit.COUNT, report.outcomes[Outcome.REFUSED]),
            "Failed": (Unit.COUNT, report.outcomes[Outcome.FAILED]),
            "Freed": (Unit.COUNT, report.freed),
            "SweepSeconds": (Unit.SECONDS, report.duration_seconds),
            "LockedOut": (Unit.COUNT, error is ErrorKind.LOCKED_OUT),
            "Blind": (Unit.COUNT, error is ErrorKind.BLIND),
            "DryRun": (Unit.COUNT, report.dry_run),
            "SweepFailed": (Unit.COUNT, error not in (None, ErrorKind.BUSY)),
            "PressureRemains": (Unit.COUNT, report.pressure_remains),
            "FirstFreedSeconds": (Unit.SECONDS, report.first_freed_seconds),
        }
    )


def _known(found: Mapping[str, tuple[Unit, float | None]]) -> Measures:
    """The measures that have a value, to the third decimal."""
    return {
        name: (unit, round(float(value), 3))
        for name, (unit, value) in found.items()
        if value is not None
    }


def report_document(
    report: Report, stack: str, of_target: TargetMetrics = TargetMetrics.ALL
) -> dict[str, object]:
    """A report as one document with two dimension sets, [Stack, Target] and [Stack], so that an
    alarm finds either. With few metrics for the target the stack still has them all.
    """
    found = measures(report)
    everything = {name: unit for name, (unit, _) in found.items()}
    few = {name: unit for name, unit in everything.items() if name in FEW}
    directives = (
        [Directive([["Stack", "Target"], ["Stack"]], everything)]
        if of_target is TargetMetrics.ALL
        else [Directive([["Stack"]], everything), Directive([["Stack", "Target"]], few)]
    )
    dimensions = {"Stack": stack, "Target": report.target}
    return emf_document(directives, dimensions, _values(found), time.time())


def tally_document(tally: Tally, stack: str) -> dict[str, object]:
    """A fleet's counts as one document; they are the stack's alone."""
    found = tally.measures()
    directive = Directive([["Stack"]], {name: unit for name, (unit, _) in found.items()})
    return emf_document([directive], {"Stack": stack}, _values(found), time.time())


def _values(found: Measures) -> dict[str, list[float]]:
    return {name: [value] for name, (_, value) in found.items()}


def publish_report(
    report: Report, stack: str, of_target: TargetMetrics = TargetMetrics.ALL
) -> None:
    """Print a report's metrics on standard output, from where CloudWatch Logs takes them; no
    endpoint is needed.
    """
    _print(report_document(report, stack, of_target))


def publish_tally(tally: Tally, stack: str) -> None:
    """The same for a fleet's counts."""
    _print(tally_document(tally, stack))


def _print(document: Mapping[str, object]) -> None:
    print(json.dumps(document, separators=(",", ":")), flush=True)
