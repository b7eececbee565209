"""A report as CloudWatch receives it: two dimension sets, the agreed names, zeros where alarms need
them.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from lab.samples import report, server, sleeper, struck
from reaper.client.fields import ConfigurationError
from reaper.metrics import FEW, Tally, publish_report, publish_tally, report_document
from reaper.model import Outcome
from reaper.report import ErrorKind, Report, SweepError
from reaper.settings import StackSettings, TargetMetrics

ALWAYS = {
    "Terminated",
    "Refused",
    "Failed",
    "Freed",
    "LockedOut",
    "Blind",
    "SweepFailed",
    "SweepSeconds",
    "DryRun",
}
WHERE_SEEN = {
    "SessionsTotal",
    "SessionsActive",
    "SessionsIdle",
    "SessionsIdleInTransaction",
    "OldestIdleSeconds",
    "Utilization",
    "MaxConnections",
    "Zombies",
}


def values(report_: Report) -> dict[str, float]:
    """The metrics that the document declares, each with the one value it carries."""
    document: Any = report_document(report_, "prod")
    found = {}
    for metric in document["_aws"]["CloudWatchMetrics"][0]["Metrics"]:
        (found[metric["Name"]],) = document[metric["Name"]]
    return found


def failed(kind: ErrorKind, **facts: Any) -> Report:
    return Report("orders", "mysql", "alarm", dry_run=False, error=SweepError(kind, "why"), **facts)


@pytest.mark.parametrize("service", [None, "payments"])
def test_two_dimension_sets_and_no_others(
    service: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[Stack, Target] and [Stack]: with a `service` added, which Powertools' own metrics do, no
    alarm would find them.
    """
    monkeypatch.delenv("POWERTOOLS_SERVICE_NAME", raising=False)
    if service:
        monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", service)
    document: Any = report_document(report(), "prod")
    (directive,) = document["_aws"]["CloudWatchMetrics"]
    assert sorted(sorted(dimensions) for dimensions in directive["Dimensions"]) == [
        ["Stack"],
        ["Stack", "Target"],
    ]
    assert directive["Namespace"] == "Reaper"
    assert (document["Stack"], document["Target"]) == ("prod", "orders")
    assert "service" not in document


def test_one_document_does_not_leak_into_the_next() -> None:
    """Dimensions and metrics of one report are in no other's document."""
    report_document(report(), "prod")
    document: Any = report_document(failed(ErrorKind.LOCKED_OUT), "test")
    assert document["Stack"] == "test"
    assert values(failed(ErrorKind.LOCKED_OUT)).keys() == ALWAYS


def test_what_came_of_the_pressure() -> None:
    """Whether pressure remains is told of every sweep that saw the server, the first freed slot
    where one was.
    """
    told = values(replace(report(), pressure_remains=True, first_freed_seconds=0.25))
    assert (told["PressureRemains"], told["FirstFreedSeconds"]) == (1, 0.25)
    assert values(replace(report(), pressure_remains=False))["PressureRemains"] == 0
    assert not {"PressureRemains", "FirstFreedSeconds"} & values(report()).keys()


def test_names_and_values() -> None:
    """Every name of the design with the value of the report."""
    assert values(report()) == {
        "SessionsTotal": 6,
        "SessionsActive": 1,
        "SessionsIdle": 3,
        "SessionsIdleInTransaction": 1,
        "OldestIdleSeconds": 2000,
        "Utilization": 60,
        "MaxConnections": 10,
        "Zombies": 2,
        "Terminated": 1,
        "Refused": 0,
        "Failed": 0,
        "Freed": 1,
        "SweepSeconds": 0.123,
        "LockedOut": 0,
        "Blind": 0,
        "DryRun": 0,
        "SweepFailed": 0,
    }


def test_units() -> None:
    """A share is sent as Percent, times as Seconds, the rest as Count."""
    document: Any = report_document(report(), "prod")
    metrics = document["_aws"]["CloudWatchMetrics"][0]["Metrics"]
    units = {metric["Name"]: metric["Unit"] for metric in metrics}
    assert units == dict.fromkeys(ALWAYS | WHERE_SEEN, "Count") | {
        "Utilization": "Percent",
        "OldestIdleSeconds": "Seconds",
        "SweepSeconds": "Seconds",
    }


def test_an_empty_server_is_not_an_unseen_one() -> None:
    """Zero sessions seen are reported as zero; only what has no value, as the oldest of none, is
    left out.
    """
    found = values(Report("orders", "mysql", "manual", dry_run=True, snapshot=server()))
    assert found.keys() == ALWAYS | WHERE_SEEN - {"OldestIdleSeconds"}
    assert {found[name] for name in found} == {0.0, 1.0, 1000.0}
    assert (found["DryRun"], found["MaxConnections"]) == (1, 1000)


def test_outcomes() -> None:
    """Each alarm's outcome is counted apart."""
    outcomes = (
        [Outcome.TERMINATED] * 3
        + [Outcome.REFUSED] * 2
        + [Outcome.FAILED, Outcome.GONE, Outcome.SIGNALLED, None]
    )
    found = values(report(victims=struck(*outcomes)))
    assert [found[name] for name in ("Terminated", "Freed", "Refused", "Failed")] == [3, 3, 2, 1]


@pytest.mark.parametrize(
    ("kind", "flags"),
    [
        (ErrorKind.LOCKED_OUT, (1, 0, 1)),
        (ErrorKind.BLIND, (0, 1, 1)),
        # Another sweep is at work: no failure
        (ErrorKind.BUSY, (0, 0, 0)),
        (ErrorKind.UNREACHABLE, (0, 0, 1)),
        (ErrorKind.CREDENTIALS, (0, 0, 1)),
        (ErrorKind.CONFIGURATION, (0, 0, 1)),
        (ErrorKind.RIGHTS, (0, 0, 1)),
        (ErrorKind.DEADLINE, (0, 0, 1)),
        (ErrorKind.SERVER, (0, 0, 1)),
    ],
)
def test_a_sweep_that_saw_nothing(kind: ErrorKind, flags: tuple[int, int, int]) -> None:
    """What was not read is left out, never zero; what alarms watch is there."""
    found = values(failed(kind))
    assert found.keys() == ALWAYS
    assert tuple(found[name] for name in ("LockedOut", "Blind", "SweepFailed")) == flags
    assert [found[name] for name in ("Terminated", "Refused", "Failed", "Freed")] == [0, 0, 0, 0]


def test_blind_is_never_nothing_idle() -> None:
    """A blind account gives Blind 1 and neither Zombies nor sessions."""
    found = values(failed(ErrorKind.BLIND, snapshot=server(sleeper(), blind=True)))
    assert found["Blind"] == 1
    assert found.keys() == ALWAYS


def test_a_target_may_have_few_metrics() -> None:
    """Then the stack has all of them still, and the target those few: one document with a directive
    for each.
    """
    document: Any = report_document(report(), "prod", TargetMetrics.FEW)
    found = {
        tuple(dimensions): [metric["Name"] for metric in directive["Metrics"]]
        for directive in document["_aws"]["CloudWatchMetrics"]
        for dimensions in directive["Dimensions"]
    }
    assert found == {("Stack",): list(values(report())), ("Stack", "Target"): list(FEW)}
    everything: Any = report_document(report(), "prod")
    assert {key: document[key] for key in document if key != "_aws"} == {
        key: everything[key] for key in everything if key != "_aws"
    }


def test_the_few_are_told_of_a_failed_sweep_too() -> None:
    """A failure is seen in the metric of its own target, whatever was not read."""
    document: Any = report_document(failed(ErrorKind.UNREACHABLE), "prod", TargetMetrics.FEW)
    (_, of_target) = document["_aws"]["CloudWatchMetrics"]
    assert [metric["Name"] for metric in of_target["Metrics"]] == ["Freed", "SweepFailed"]
    assert document["SweepFailed"] == [1.0]


def test_how_many_is_all_or_few() -> None:
    """All unless it is said, and nothing but those two words."""
    assert StackSettings.from_environ({}).target_metrics is TargetMetrics.ALL
    assert (
        StackSettings.from_environ({"REAPER_TARGET_METRICS": "few"}).target_metrics
        is TargetMetrics.FEW
    )
    with pytest.raises(
        ConfigurationError, match="REAPER_TARGET_METRICS is 'none'; choose all or few"
    ):
        StackSettings.from_environ({"REAPER_TARGET_METRICS": "none"})


def test_publish_prints_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """CloudWatch Logs takes the document from standard output, one line each."""
    publish_report(report(), "prod")
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["Zombies"] == [2.0]


def test_a_tally_is_the_stacks_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """One line, one dimension; what was not counted is left out, and zeros are told."""
    publish_tally(Tally(failed=2), "prod")
    document = json.loads(capsys.readouterr().out)
    (directive,) = document.pop("_aws")["CloudWatchMetrics"]
    assert directive["Dimensions"] == [["Stack"]]
    assert document == {"Stack": "prod", "TargetsFailed": [2.0], "TargetsSkipped": [0.0]}
