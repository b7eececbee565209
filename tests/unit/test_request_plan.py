"""What is done about a request: whether it is dry, by which rules each target is swept, and the
messages for which nothing is done.
"""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from lab import ROOT
from reaper.client.fields import ConfigurationError
from reaper.message import DiscoveredTarget
from reaper.model import SweepTarget
from reaper.request.events import (
    AdviceRequest,
    BadMessage,
    Batch,
    QueuedSweep,
    SweepRequest,
    Trigger,
)
from reaper.request.plan import (
    Decider,
    decide_dry_run,
    plan_advice,
    plan_batch,
    plan_command,
    plan_sweeps,
)
from reaper.rules import Rules, RulesPatch
from reaper.settings import StackSettings

# Dry or not

DRY, LIVE, ERROR = "dry", "live", "error"
SAYS = (None, True, False)

# What the event's dry_run (row) and that of its rules (column) come to, each None, True, False, on
# a target that says nothing; written by hand from the design, not computed.
Table = tuple[tuple[str, str, str], ...]
LIVE_STACK: Table = (
    (LIVE, DRY, LIVE),
    (DRY, DRY, DRY),
    (LIVE, DRY, LIVE),
)
DRY_STACK: Table = (
    (DRY, DRY, ERROR),
    (DRY, DRY, ERROR),
    (ERROR, ERROR, ERROR),
)
DRY_STACK_THAT_LETS_MANUAL_EVENTS_KILL: Table = (
    (DRY, DRY, ERROR),
    (DRY, DRY, ERROR),
    (LIVE, DRY, LIVE),
)
# On the command line true is a scan, everything else a kill.
COMMAND: Table = (
    (LIVE, ERROR, LIVE),
    (DRY, DRY, DRY),
    (LIVE, ERROR, LIVE),
)
COMMAND_ON_A_DRY_STACK: Table = (
    (ERROR, ERROR, ERROR),
    (DRY, DRY, DRY),
    (ERROR, ERROR, ERROR),
)


def expected(
    decider: Decider, stack: bool | None, manual_kill: bool, trigger: Trigger, target: bool | None
) -> Table:
    if decider is Decider.COMMAND_LINE:
        # REAPER_DRY_RUN that is not set says nothing there; elsewhere it means dry.
        table = COMMAND_ON_A_DRY_STACK if stack else COMMAND
    elif stack is False:
        table = LIVE_STACK
    elif decider is Decider.REAPER and manual_kill and trigger is Trigger.MANUAL:
        table = DRY_STACK_THAT_LETS_MANUAL_EVENTS_KILL
    else:
        table = DRY_STACK
    if target is not True:
        return table
    instead = ERROR if decider is Decider.COMMAND_LINE else DRY
    return tuple(
        (*(instead if cell == LIVE else cell for cell in row),)  # type: ignore[misc]  # three cells
        for row in table
    )


@pytest.mark.parametrize("target", SAYS)
@pytest.mark.parametrize("trigger", list(Trigger))
@pytest.mark.parametrize("manual_kill", [True, False])
@pytest.mark.parametrize("stack", SAYS)
@pytest.mark.parametrize("decider", list(Decider))
def test_dry_run(
    decider: Decider, stack: bool | None, manual_kill: bool, trigger: Trigger, target: bool | None
) -> None:
    """Any of stack, target, event and its rules makes a run dry; only a manual "dry_run": false,
    where allowed, lifts the stack's, and to the reaper alone; any other false against it is an
    error; no target lifts anything; on the command line a kill that would be dry is an error.
    """
    table = expected(decider, stack, manual_kill, trigger, target)
    found = {
        (event, rules): outcome(decider, stack, manual_kill, trigger, target, event, rules)
        for event, rules in product(SAYS, SAYS)
    }
    assert found == {
        (event, rules): table[row][column]
        for (row, event), (column, rules) in product(enumerate(SAYS), enumerate(SAYS))
    }


def outcome(
    decider: Decider,
    stack: bool | None,
    manual_kill: bool,
    trigger: Trigger,
    target: bool | None,
    event: bool | None,
    rules: bool | None,
) -> str:
    request = SweepRequest(trigger, event, rules=said(rules))
    swept = SweepTarget.from_mapping(LISTED[0] | {"rules": said(target).to_json()})
    try:
        is_dry = decide_dry_run(decider, request, said(stack), swept, manual_kill=manual_kill)
    except ConfigurationError:
        return ERROR
    return DRY if is_dry else LIVE


def said(dry_run: bool | None) -> RulesPatch:
    return RulesPatch.from_json({} if dry_run is None else {"dry_run": dry_run})


@pytest.mark.parametrize(
    ("decider", "words"),
    [
        (
            Decider.REAPER,
            "set REAPER_DRY_RUN=false, or REAPER_MANUAL_KILL=true to let manual events with "
            '"dry_run": false kill',
        ),
        (Decider.PLANNER, "set it to false"),
        (Decider.COMMAND_LINE, "unset it, or use scan"),
    ],
)
def test_the_error_for_a_false_against_the_stack_names_the_parameters(
    decider: Decider, words: str
) -> None:
    """Never a quiet dry run: the error says which settings would let it kill."""
    with pytest.raises(ConfigurationError, match=r"REAPER_DRY_RUN (is )?true") as caught:
        decide_dry_run(decider, SweepRequest(dry_run=False), Rules())
    assert str(caught.value).endswith(f"; {words}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("decider", list(Decider))
@pytest.mark.parametrize("dry_run", [True, False])
def test_it_can_be_decided_before_the_targets_are_known(decider: Decider, dry_run: bool) -> None:
    """As the planner does, whose messages leave what a target says to the sweep."""
    request = SweepRequest(dry_run=dry_run)
    assert decide_dry_run(decider, request, Rules(dry_run=False)) is dry_run


def test_a_kill_names_who_says_that_it_is_dry() -> None:
    """The option, or the target by its name."""
    kill = SweepRequest(dry_run=False)
    with pytest.raises(ConfigurationError, match=r"^--rules says dry_run true"):
        decide_dry_run(Decider.COMMAND_LINE, replace(kill, rules=said(True)), RulesPatch())
    dry = SweepTarget.from_mapping(LISTED[0] | {"rules": {"dry_run": True}})
    with pytest.raises(ConfigurationError, match=r"^target 'orders' says dry_run true in its own"):
        decide_dry_run(Decider.COMMAND_LINE, kill, RulesPatch(), dry)


# What was decided already, by the expression that it is read from. A sweep's rules are a job's.
DECIDED = {"report", "plan", "self", "self.rules"}
OWNER = "request/plan.py"


def undecided(source: str) -> set[str]:
    """Where a module reads what a source says of a dry run, or overrides a decision."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(value, "dry_run", ast.Load()) if ast.unparse(value) not in DECIDED:
                found.add(ast.unparse(node))
            case ast.Call(ast.Name("replace"), _, words) if "dry_run" in [w.arg for w in words]:
                found.add(ast.unparse(node))
            case ast.Constant("REAPER_DRY_RUN"):
                found.add("REAPER_DRY_RUN")
    return found


def test_dry_run_has_one_owner() -> None:
    """No other module reads what stack, target, event or rules say of it, or makes a live run dry
    or a dry one live; they read what was decided.
    """
    package = ROOT / "reaper"
    found = {
        str(path.relative_to(package)): undecided(path.read_text(encoding="utf-8"))
        for path in sorted(package.rglob("*.py"))
    }
    assert len(found.pop(OWNER)) > 3
    assert {module: where for module, where in found.items() if where} == {}


@pytest.mark.parametrize(
    "source",
    [
        "stack.rules.dry_run or request.dry_run",
        "target.rules.dry_run",
        "replace(rules, dry_run=True)",
        "environ.get('REAPER_DRY_RUN')",
    ],
)
def test_a_second_owner_is_found(source: str) -> None:
    """The test above would prove nothing if it saw none of these."""
    assert undecided(source)
    assert not undecided("report.dry_run and self.rules.dry_run")


# Plans

LISTED: list[dict[str, Any]] = [
    {"name": name, "engine": "mysql", "host": f"{name}.internal", "user": "u"}
    for name in ("orders", "billing")
]
FOUND = {
    "name": "shop-1",
    "engine": "mysql",
    "host": "shop-1.abc123.eu-central-1.rds.amazonaws.com",
    "user": "reaper",
    "auth": "iam",
    "rules": {"idle_seconds": 300, "protect_users": ["etl"]},
    "notices": ["rds_proxy_protected"],
}


def stack(*, rules: dict[str, Any] | None = None, **environ: str) -> StackSettings:
    """A live stack of two targets, the first with rules of its own."""
    targets = [LISTED[0] | {"rules": rules or {}}, LISTED[1]]
    given = {"REAPER_TARGETS": json.dumps(targets), "REAPER_DRY_RUN": "false"}
    return StackSettings.from_environ(given | environ)


def patch(**given: object) -> RulesPatch:
    return RulesPatch.from_json(given)


def test_the_events_rules_take_precedence_over_the_targets_and_those_over_the_stacks() -> None:
    """Each source overrides what it names and nothing else; a protection is replaced like any
    other.
    """
    settings = stack(
        rules={"idle_seconds": 200, "max_kills": 2, "protect_users": ["a"]},
        REAPER_IDLE_SECONDS="100",
        REAPER_MIN_IDLE_PER_USER="1",
        REAPER_PROTECT_USERS="root",
    )
    request = SweepRequest(Trigger.SCHEDULE, rules=patch(idle_seconds=300))
    plan = plan_sweeps(request, settings)
    orders, billing = plan.jobs
    assert orders.rules == Rules(
        dry_run=False, idle_seconds=300, max_kills=2, min_idle_per_user=1, protect_users=("a",)
    )
    assert billing.rules == Rules(
        dry_run=False, idle_seconds=300, min_idle_per_user=1, protect_users=("root",)
    )
    assert [job.target.name for job in plan.jobs] == ["orders", "billing"]
    assert {(job.trigger, job.message_id, job.is_listed) for job in plan.jobs} == {
        (Trigger.SCHEDULE, None, True)
    }
    assert (plan.trigger, plan.bad, plan.stale) == (Trigger.SCHEDULE, (), ())


def test_a_plan_is_dry_where_all_of_it_is() -> None:
    """One live job makes it live; without any it is what the stack is."""
    settings = stack(rules={"dry_run": True})
    both = plan_sweeps(SweepRequest(), settings)
    assert ([job.rules.dry_run for job in both.jobs], both.dry_run) == ([True, False], False)
    assert plan_sweeps(SweepRequest(targets=("orders",)), settings).dry_run
    over = SweepRequest(Trigger.ALARM, is_due=False)
    assert not plan_sweeps(over, settings).dry_run
    assert plan_sweeps(over, stack(REAPER_DRY_RUN="true")).dry_run


def test_the_stack_may_let_a_manual_event_kill() -> None:
    """REAPER_MANUAL_KILL is the stack's to set."""
    kill = SweepRequest(targets=("billing",), dry_run=False)
    (job,) = plan_sweeps(kill, stack(REAPER_DRY_RUN="true", REAPER_MANUAL_KILL="true")).jobs
    assert not job.rules.dry_run
    with pytest.raises(ConfigurationError, match="REAPER_MANUAL_KILL=true"):
        plan_sweeps(kill, stack(REAPER_DRY_RUN="true"))


def test_a_target_that_came_with_its_message_keeps_the_stacks_protections(tmp_path: Path) -> None:
    """Its own and the message's are added; its certificates are the stack's; it is not listed, and
    its report says what the message says of it.
    """
    ca = tmp_path / "ca.pem"
    ca.touch()
    request = SweepRequest(Trigger.SCHEDULE, rules=patch(protect_users=["dba"], max_kills=5))
    message = QueuedSweep("m", request, DiscoveredTarget.from_json(FOUND))
    plan = plan_batch(Batch((message,)), stack(REAPER_PROTECT_USERS="root", REAPER_CA=str(ca)), 0)
    (job,) = plan.jobs
    assert job.rules == Rules(
        dry_run=False, idle_seconds=300, max_kills=5, protect_users=("root", "etl", "dba")
    )
    assert (job.target.target.ca, job.target.name) == (str(ca), "shop-1")
    assert (job.trigger, job.message_id, job.is_listed) == (Trigger.SCHEDULE, "m", False)
    assert job.notices == ("rds_proxy_protected",)
    assert (plan.trigger, plan.dry_run) == (Trigger.QUEUE, False)


@pytest.mark.parametrize(
    ("event", "rules", "dry_run"),
    [(None, {}, False), (True, {}, True), (None, {"dry_run": True}, True)],
)
def test_a_discovered_target_is_swept_dry_where_its_message_says_so(
    event: bool | None, rules: dict[str, Any], dry_run: bool
) -> None:
    """The planner's decision arrives."""
    request = SweepRequest(Trigger.QUEUE, event, rules=patch(**rules))
    message = QueuedSweep("m", request, DiscoveredTarget.from_json(FOUND))
    (job,) = plan_batch(Batch((message,)), stack(), 0).jobs
    assert job.rules.dry_run is dry_run


def test_one_messages_trouble_is_its_own() -> None:
    """A bad message, one that asks for an unknown target and a stale one have no job; the others
    do, in their order.
    """
    nonsense = BadMessage("a", "no JSON")
    unknown = QueuedSweep("b", SweepRequest(Trigger.QUEUE, targets=("ordres",)))
    late = QueuedSweep("c", SweepRequest(Trigger.QUEUE), not_after=99.0)
    good = QueuedSweep("d", SweepRequest(Trigger.QUEUE, targets=("billing",)), not_after=100.0)
    plan = plan_batch(Batch((nonsense, unknown, late, good)), stack(), now=100.0)
    assert [(job.message_id, job.target.name) for job in plan.jobs] == [("d", "billing")]
    assert plan.stale == [late]
    first, second = plan.bad
    assert first == nonsense
    assert (second.id, second.names) == ("b", ("ordres",))
    assert "unknown target 'ordres'" in second.problem


def test_advice_is_for_all_or_for_those_that_are_named() -> None:
    """A name that is unknown is an error, as it is for a sweep."""
    settings = stack()
    assert [job.target.name for job in plan_advice(AdviceRequest(), settings)] == [
        "orders",
        "billing",
    ]
    (job,) = plan_advice(AdviceRequest(("billing",)), settings)
    assert (job.target.name, job.trigger, job.rules) == ("billing", Trigger.MANUAL, settings.rules)
    with pytest.raises(ConfigurationError, match="unknown target 'ordres'"):
        plan_advice(AdviceRequest(("ordres",)), settings)


def test_the_command_line_has_final_rules() -> None:
    """By the same precedence as an event's; live for a kill, and dry for a scan, whatever the
    defaults are.
    """
    target = SweepTarget.from_mapping(LISTED[0] | {"rules": {"max_kills": 2, "idle_seconds": 1}})
    variables = RulesPatch.from_environ({"REAPER_MAX_KILLS": "9", "REAPER_MIN_IDLE_PER_USER": "1"})
    asked = SweepRequest(dry_run=False, rules=patch(idle_seconds=5))
    (job,) = plan_command(asked, [target], variables)
    assert job.rules == Rules(dry_run=False, idle_seconds=5, max_kills=2, min_idle_per_user=1)
    assert (job.target, job.trigger) == (target, Trigger.MANUAL)
    (look,) = plan_command(replace(asked, dry_run=True), [target], variables)
    assert look.rules == replace(job.rules, dry_run=True)
