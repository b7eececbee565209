"""The README is true: every name that users rely on stands in its table there, and nothing else
does.
"""

from __future__ import annotations

import json
import re
from dataclasses import fields, replace
from enum import StrEnum
from typing import Any

import pytest
import typer.core
import typer.main

from benchmarks.prices import METRIC
from lab import ROOT
from lab.cloudformation import source
from lab.samples import report
from reaper import advice, cli
from reaper.advice.base import IDLE, LONGEST_IDLE
from reaper.advice.postgres import IN_TRANSACTION, LONGEST_INVOCATION
from reaper.advice.proxy import LONGEST_BORROW, MOST_PERCENT
from reaper.cli.render import WARNINGS
from reaper.client.events import EventKind
from reaper.client.kept import DEFAULTS
from reaper.client.target import Target
from reaper.message import Notice
from reaper.metrics import FEW, measures
from reaper.model import Outcome, Reason, SweepWarning
from reaper.report import ErrorKind
from reaper.request.events import AdviceRequest, BadMessage, Batch, SweepRequest, Trigger, parse
from reaper.rules import Rules, RulesPatch

README = (ROOT / "README.md").read_text(encoding="utf-8")
EVENTS = sorted(path.name for path in (ROOT / "events").iterdir())

Row = tuple[str, ...]


def table(header: str) -> list[Row]:
    """The rows of the table whose first column is called so; there is exactly one."""
    (found,) = re.findall(
        rf"^\| {re.escape(header)} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", README, re.MULTILINE
    )
    return [
        tuple(cell.strip() for cell in line.strip("|").split(" | ")) for line in found.splitlines()
    ]


def names(header: str) -> list[str]:
    """What stands in backquotes at the start of each row."""
    return [row[0].split("`")[1] for row in table(header)]


def default(value: Any) -> str:
    """A rule's default as JSON, the way a person writes it: 900, not 900.0."""
    value = list(value) if isinstance(value, tuple) else value
    return json.dumps(int(value) if isinstance(value, float) and value.is_integer() else value)


def commands() -> dict[str, typer.core.TyperCommand]:
    group = typer.main.get_command(cli.app)
    assert isinstance(group, typer.core.TyperGroup)
    return {
        name: command
        for name, command in group.commands.items()
        if isinstance(command, typer.core.TyperCommand)
    }


def options() -> dict[str, set[str]]:
    """The commands that take each option, by its spelling."""
    found: dict[str, set[str]] = {}
    for name, command in {**commands(), "reaper": typer.main.get_command(cli.app)}.items():
        for parameter in command.params:
            for spelling in parameter.opts if isinstance(parameter, typer.core.TyperOption) else ():
                found.setdefault(spelling, set()).add(name)
    return found


def loads(name: str) -> Any:
    return json.loads((ROOT / "events" / name).read_text(encoding="utf-8"))


def test_every_rule_with_its_default() -> None:
    """The rules table holds every rule, in order, with the default that the code has, and a
    meaning.
    """
    expected = [(f"`{rule.name}`", f"`{default(rule.default)}`") for rule in fields(Rules)]
    rows = table("rule")
    assert [row[:2] for row in rows] == expected
    assert all(row[3] for row in rows)


@pytest.mark.parametrize(
    ("header", "kinds"),
    [("reason", Reason), ("outcome of a victim", Outcome), ("error", ErrorKind)],
)
def test_every_word_of_a_report(header: str, kinds: type[StrEnum]) -> None:
    """Each reason, outcome and error kind has a row with its meaning."""
    assert names(header) == [kind.value for kind in kinds]
    assert all(cell for row in table(header) for cell in row)


def test_the_last_reasons_condemn() -> None:
    """The README says which reasons condemn; the others spare."""
    assert "The last three condemn" in README
    assert names("reason")[-3:] == [Reason.IDLE, Reason.IDLE_IN_TRANSACTION, Reason.PRESSURE]


def test_every_warning() -> None:
    """Each warning that the package can give has a row, and the command line explains it."""
    assert sorted(names("warning")) == sorted(SweepWarning) == sorted(WARNINGS)
    assert set(Notice) <= set(SweepWarning)


def test_every_metric_with_its_unit() -> None:
    """The metrics table holds every name that can be sent, with its unit; those always sent are
    marked.
    """
    full = measures(replace(report(), pressure_remains=True, first_freed_seconds=1.0))
    nothing_read = measures(report(snapshot=None))
    rows = table("metric")
    assert names("metric") == list(full)
    assert [row[1] for row in rows] == [unit.value for unit, _ in full.values()]
    assert {row[0].strip("`") for row in rows if row[2].startswith("•")} == nothing_read.keys()


def test_the_few_metrics_of_a_target() -> None:
    """The page names those that a target keeps where it has few."""
    (told,) = re.findall(r"With `TargetMetrics=few` a target has ([^.]*?) of its own", README)
    assert tuple(re.findall(r"`(\w+)`", told)) == FEW


def test_every_key_of_a_target() -> None:
    """Each key that an entry of the target list may have has a row."""
    assert sorted(names("key of a target")) == sorted(
        [*(f.name for f in fields(Target)), "id", "rules"]
    )


def test_every_variable() -> None:
    """Each environment variable that the package names has a row; the rules' own follow their
    pattern.
    """
    sources = "\n".join(path.read_text() for path in (ROOT / "reaper").rglob("*.py"))
    rules = {f"REAPER_{rule.name.upper()}" for rule in fields(Rules)}
    named = set(re.findall(r"\bREAPER_[A-Z_]*[A-Z]\b", sources))
    assert len(named) >= 4
    assert named - rules == set(names("variable")) - rules
    assert set(re.findall(r"\bREAPER_(?!TEST_)[A-Z_]*[A-Z]\b", README)) <= named | rules


def test_every_parameter_with_its_default() -> None:
    """The parameters table holds the template's, in order, with their defaults; the rules' own
    follow their pattern.
    """
    parameters = source()["Parameters"]
    rules = {
        rule.name.title().replace("_", ""): rule.default
        for rule in fields(Rules)
        if rule.name != "dry_run"
    }
    rows = {
        name: row[1].strip("`")
        for name, row in zip(names("parameter"), table("parameter"), strict=True)
    }
    others = {
        name: str(found["Default"]) or "empty"
        for name, found in parameters.items()
        if name not in rules
    }
    assert list(rows.items()) == list(others.items())
    assert all(row[2] for row in table("parameter"))
    assert {name: parameters[name]["Default"] for name in rules} == {
        name: ""
        if value == ()
        else default(value).strip('"')
        if isinstance(value, str | bool)
        else value
        for name, value in rules.items()
    }


def test_the_cost_counts_the_metrics() -> None:
    """The estimate multiplies as many metrics as an ordinary sweep sends, by the list price of the
    first ones.
    """
    ordinary = len(measures(replace(report(), pressure_remains=False)))
    (_, price), *_ = METRIC
    one = ordinary * price
    assert re.findall(
        r"\| metrics \| \$([\d.]+) \| (\d+) a sweep . 2 dimension sets . \$([\d.]+); "
        r"each further database (\d+) . \$([\d.]+) = \$([\d.]+) \|",
        README,
    ) == [
        tuple(
            f"{found:.2f}".removesuffix(".00")
            for found in (2 * one, ordinary, price, ordinary, price, one)
        )
    ]


def test_every_command_and_option() -> None:
    """Each command has a row, and each option one that says whose it is."""
    assert [name.split()[1] for name in names("command")] == list(commands())
    written: dict[str, set[str]] = {}
    for row in table("option"):
        owners = set(commands()) if row[1] == "all" else set(row[1].split(", "))
        written |= dict.fromkeys(re.findall(r"(?<=`)--?[a-z-]+", row[0]), owners)
    assert written == options()


def test_every_exit_status() -> None:
    """The page says what each means."""
    (told,) = re.findall(r"Exit status: ([^.]*)\.", README)
    assert [int(number) for number in re.findall(r"\d+", told)] == [
        cli.DONE, cli.SWEEP_FAILED, cli.BAD_USAGE, cli._INTERRUPTED,
    ]  # fmt: skip


def test_every_rule_of_advice() -> None:
    """Each rule has a row, in the code's order, with the server it is asked of; its bounds are the
    code's.
    """
    assert names("advice rule") == [rule.value for rule in advice.Rule]
    assert all(cell for row in table("advice rule") for cell in row)
    said = {row[0].strip("`"): row[2] for row in table("advice rule")}
    assert f"{DEFAULTS.max_idle:g} s" in said["wait_timeout"]
    assert f"above {LONGEST_IDLE // 60} minutes; {IDLE} s" in said["wait_timeout"]
    assert (
        f"above {LONGEST_INVOCATION // 60} minutes" in said["idle_in_transaction_session_timeout"]
    )
    assert f"; {IN_TRANSACTION // 60} minutes" in said["idle_in_transaction_session_timeout"]
    assert f"above {LONGEST_BORROW} s" in said["proxy_borrow_timeout"]
    assert f"above {MOST_PERCENT}" in said["proxy_max_connections"]


def test_every_command_that_is_shown_exists() -> None:
    """No example uses a command that is not there yet."""
    shown = set(re.findall(r"[`$] ?reaper ([a-z]+)", README))
    assert shown == set(commands())


def test_every_event_has_a_row_with_its_trigger() -> None:
    """The events table links every sample and names the trigger that the parser finds in it; all
    triggers occur.
    """
    expected = {name: f"`{trigger_of(parse(loads(name)))}`" for name in EVENTS}
    assert {row[0]: row[1] for row in table("sample")} == {
        f"[{name}](events/{name})": trigger for name, trigger in expected.items()
    }
    assert set(expected.values()) == {f"`{trigger}`" for trigger in Trigger}


def trigger_of(asked: SweepRequest | AdviceRequest | Batch) -> Trigger:
    match asked:
        case SweepRequest():
            return asked.trigger
        case AdviceRequest():
            return Trigger.MANUAL
        case Batch(messages):
            assert [one.problem for one in messages if isinstance(one, BadMessage)] == []
            return Trigger.QUEUE


@pytest.mark.parametrize("name", EVENTS)
def test_events_are_recognised(name: str) -> None:
    """Every file in events/ is JSON that the handler understands."""
    assert name.endswith(".json")
    assert parse(loads(name))


def json_blocks() -> list[Any]:
    return [json.loads(block) for block in re.findall(r"```json\n(.*?)```", README, re.DOTALL)]


def test_the_event_example_is_understood() -> None:
    """The event that the README writes out parses, and uses every key there is."""
    example, _ = json_blocks()
    assert parse(example) == SweepRequest(
        Trigger.SCHEDULE,
        dry_run=True,
        targets=("orders",),
        rules=RulesPatch.from_json({"idle_seconds": 120}),
    )


def test_the_report_example_has_every_key() -> None:
    """The report that the README shows has the keys of a report and of a victim, in their order."""
    _, shown = json_blocks()
    real: Any = report().to_json()
    assert list(shown) == list(real)
    assert list(shown["victims"][0]) == list(real["victims"][0])
    assert [list(shown[key]) for key in ("connections", "sessions")] == [
        list(real[key]) for key in ("connections", "sessions")
    ]


def test_every_event_of_the_client() -> None:
    """The table holds the events that on_event can be given, in the code's order."""
    assert [row[0] for row in table("event")] == [f"`{kind}`" for kind in EventKind]
