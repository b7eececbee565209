"""The planner: what is listed and what is found, a message for each, and what became of those that
have none.
"""

from __future__ import annotations

import json
import re
import time
from typing import Any

import boto3
import pytest

from lab.context import Context
from lab.samples import messages
from reaper import fleet
from reaper.client.fields import ConfigurationError
from reaper.discovery import TAG_PREFIX, Why
from reaper.fleet import FleetIncomplete, Message
from reaper.message import Notice
from reaper.metrics import Tally
from reaper.request.events import QueuedSweep, Trigger
from reaper.rules import DELEGATED_RULES
from tests.aws import Asked, aws
from tests.fleets import ON, Queue, cluster, instance, know_the_services, proxy, refuse

from .test_docs import README, names

# The fixture, for pytest to find here
__all__ = ["aws"]

LISTED = [
    {
        "name": name,
        "engine": "postgres",
        "host": f"{name}.internal",
        "user": "reaper",
        "password": "a-marked-word",
    }
    for name in ("ledger", "archive")
]


class Planner:
    """The planner with its environment and its queue, and every line that it printed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        self.queue = Queue()
        self.lines: list[dict[str, Any]] = []
        self.configure(REAPER_QUEUE_URL=self.queue.url, REAPER_DISCOVER="{}", REAPER_STACK="prod")

    def configure(self, **environ: str) -> None:
        for name, value in environ.items():
            self._monkeypatch.setenv(name, value)

    def plan(self, event: Any = None, context: Context | None = None) -> dict[str, Any]:
        try:
            return fleet.lambda_handler(
                {"trigger": "schedule"} if event is None else event,
                context or Context(120, "run-1"),
            )
        finally:
            self.lines += [
                json.loads(line) for line in self._capsys.readouterr().out.splitlines() if line
            ]

    def sent(self) -> dict[str, dict[str, Any]]:
        """What is in the queue, by target; each message is out from now on."""
        bodies = [json.loads(message["Body"]) for message in self.queue.drained()]
        return {
            body["target"]["name"] if "target" in body else body["targets"][0]: body
            for body in bodies
        }

    def logged(self, message: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line.get("message") == message]

    @property
    def tallies(self) -> list[tuple[float, ...]]:
        """Targets, TargetsFailed and TargetsSkipped of each plan, which are the stack's own and no
        target's.
        """
        found = []
        for line in self.lines:
            if "_aws" in line:
                assert line["Stack"] == "prod"
                assert line["_aws"]["CloudWatchMetrics"][0]["Dimensions"] == [["Stack"]]
                found.append(
                    tuple(line[name][0] for name in ("Targets", "TargetsFailed", "TargetsSkipped"))
                )
        return found


@pytest.fixture
def planner(
    aws: Asked, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Planner:
    know_the_services()
    return Planner(monkeypatch, capsys)


def test_each_target_has_a_message(planner: Planner, aws: Asked) -> None:
    """Listed ones go by their name, for the sweep has the list; those found are brought along,
    without a password either way. SQS is asked once for ten; the plan is in order, and told in
    numbers.
    """
    for place in range(22):
        instance(f"shop-{place:02}")
    instance("closed", EnableIAMDatabaseAuthentication=False)
    planner.configure(REAPER_TARGETS=json.dumps(LISTED))
    aws.clear()
    answer = planner.plan()
    assert answer["targets"] == ["archive", "ledger", *(f"shop-{place:02}" for place in range(22))]
    assert (answer["trigger"], answer["dry_run"], answer["unsent"]) == ("schedule", True, {})
    assert [(one["target"], one["reason"]) for one in answer["skipped"]] == [("closed", "login")]
    assert aws["SendMessageBatch"] == 3
    sent = planner.sent()
    assert sorted(sent) == answer["targets"]
    assert sent["ledger"].keys() == {"trigger", "dry_run", "targets", "not_after"}
    assert sent["shop-03"].keys() == {"trigger", "dry_run", "target", "not_after"}
    assert "a-marked-word" not in json.dumps(sent)
    assert planner.tallies == [(24, 0, 1)]
    assert [line["target"] for line in planner.logged("skipped")] == ["closed"]
    assert planner.logged("plan")[0]["targets"] == 24


def test_every_line_says_which_request_it_is_of(planner: Planner) -> None:
    """Its id, who asked, and the target where there is one; the next invocation has its own."""
    instance("shop")
    instance("closed", EnableIAMDatabaseAuthentication=False)
    fail_to_send({"shop"}, times=9)
    refuse("rds.DescribeDBClusters")
    for run, trigger in (("run-1", "schedule"), ("run-2", "alarm")):
        with pytest.raises(FleetIncomplete):
            planner.plan({"trigger": trigger}, Context(request_id=run))
    log = [line for line in planner.lines if "_aws" not in line]
    assert [
        (line["message"], line["request_id"], line["trigger"], line.get("target")) for line in log
    ] == [
        (message, run, trigger, target)
        for run, trigger in (("run-1", "schedule"), ("run-2", "alarm"))
        for message, target in (
            ("skipped", "closed"),
            ("not sent", "shop"),
            ("not found", None),
            ("plan", None),
        )
    ]


def test_what_was_found_travels(planner: Planner) -> None:
    """The message has the endpoint, the login, the tags' rules and the proxy's addresses; the same
    event gives the same message, but for its time.
    """
    cluster(
        "shop",
        ("shop-1",),
        marks=ON | {"reaper:idle_seconds": "300", "reaper:secret": "reaper/shop"},
    )
    addresses, _ = proxy("shop-proxy", "shop-1")
    planner.plan()
    assert planner.sent()["shop-1"]["target"] == {
        "name": "shop-1",
        "id": "shop-1",
        "engine": "mysql",
        "host": "shop-1.aaaaaaaaaa.eu-central-1.rds.amazonaws.com",
        "port": 3306,
        "user": "reaper",
        "auth": "secret",
        "secret": "reaper/shop",
        "rules": {"idle_seconds": 300, "protect_hosts": addresses},
        "notices": ["rds_proxy_protected"],
    }


@pytest.mark.parametrize(
    ("stack", "event", "is_dry"),
    [
        ("true", {}, True),
        ("false", {}, False),
        ("false", {"dry_run": True}, True),
        ("false", {"rules": {"dry_run": True}}, True),
        ("false", {"dry_run": False}, False),
    ],
)
def test_a_dry_run_travels_with_the_message(
    planner: Planner, stack: str, event: dict[str, Any], is_dry: bool
) -> None:
    """It says true or nothing: whether the stack is live is for the sweep to find."""
    instance("shop")
    planner.configure(REAPER_DRY_RUN=stack)
    assert planner.plan(event)["dry_run"] is is_dry
    assert planner.sent()["shop"].get("dry_run") is (True if is_dry else None)


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ({"dry_run": False}, "the stack says REAPER_DRY_RUN true"),
        ({"rules": {"dry_run": False}}, "the stack says REAPER_DRY_RUN true"),
        (
            {"rules": {"allow_users": ["x"]}},
            "allow_users may not be set here; only the stack may set it",
        ),
        ({"targets": ["shpo"]}, "unknown target 'shpo'; did you mean 'shop'"),
        ({"targets": ["closed"]}, "target 'closed' is not swept: it takes no IAM login"),
        ({"advise": True}, "only plans sweeps"),
        (
            {"Records": [{"eventSource": "aws:sqs", "messageId": "m", "body": "{}"}]},
            "only plans sweeps",
        ),
        ({"target": {}}, "unknown key 'target'"),
    ],
)
def test_a_wrong_event_sends_nothing(planner: Planner, event: dict[str, Any], said: str) -> None:
    """One clear line by key and value, and an empty queue."""
    instance("shop")
    instance("closed", EnableIAMDatabaseAuthentication=False)
    with pytest.raises(ConfigurationError) as raised:
        planner.plan(event)
    assert said in str(raised.value)
    assert planner.sent() == {}


def test_a_planner_without_a_queue_says_so(
    planner: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is to be swept has nowhere to go: the error names the variable."""
    instance("shop")
    monkeypatch.delenv(fleet.QUEUE_URL)
    with pytest.raises(ConfigurationError, match=f"{fleet.QUEUE_URL} is not set"):
        planner.plan()


def test_who_asks_for_few_gets_few(planner: Planner) -> None:
    """An event by hand and an alarm mean what they mean to the reaper itself; an alarm that is over
    means nothing.
    """
    for name in ("orders", "shop"):
        instance(name)
    asked = {"targets": ["shop"], "rules": {"idle_seconds": 60}}
    assert planner.plan(asked)["targets"] == ["shop"]
    assert planner.sent()["shop"]["rules"] == {"idle_seconds": 60}
    alarm = {"alarmData": {"state": {"value": "ALARM"}, "configuration": {"metrics": [METRIC]}}}
    answer = planner.plan(alarm, Context(120, "run-2"))
    assert (answer["targets"], answer["trigger"]) == (["orders"], Trigger.ALARM)
    alarm["alarmData"]["state"] = {"value": "OK"}
    assert planner.plan(alarm, Context(120, "run-3"))["targets"] == []


def test_a_clusters_alarm_is_for_its_instances(planner: Planner) -> None:
    """Each instance is a target of its own, and has a message; a cluster that has none of them is
    an error, and so is one that could not be read, by what RDS said.
    """
    cluster("shop", ("shop-1", "shop-2"))
    cluster("off", ("off-1",), marks={})
    instance("orders")
    answer = planner.plan(alarm_of("shop"))
    assert (answer["targets"], answer["trigger"]) == (["shop-1", "shop-2"], Trigger.ALARM)
    assert sorted(planner.sent()) == ["shop-1", "shop-2"]
    with pytest.raises(ConfigurationError, match="DBClusterIdentifier 'off' is no target"):
        planner.plan(alarm_of("off"))
    refuse("rds.DescribeDBClusters")
    with pytest.raises(FleetIncomplete, match=r"describe_db_clusters: .*not you"):
        planner.plan(alarm_of("shop"))
    assert planner.sent() == {}


def alarm_of(cluster: str) -> dict[str, Any]:
    metric = {
        "metricStat": {"metric": {"dimensions": {"DBClusterIdentifier": cluster, "Role": "WRITER"}}}
    }
    return {"alarmData": {"state": {"value": "ALARM"}, "configuration": {"metrics": [metric]}}}


METRIC = {"metricStat": {"metric": {"dimensions": {"DBInstanceIdentifier": "orders"}}}}


def test_no_target_has_two_messages_out(planner: Planner) -> None:
    """Until one is done with, SQS keeps the next schedule's for the same target back; an alarm's
    goes past it. The same run's are dropped, should Lambda repeat it.
    """
    instance("shop")
    planner.plan()
    planner.plan()
    (first,) = planner.queue.drained()
    planner.plan(context=Context(120, "run-2"))
    assert planner.queue.drained() == []
    planner.plan({"trigger": "alarm"}, Context(120, "run-3"))
    (urgent,) = planner.queue.drained()
    assert [json.loads(message["Body"])["trigger"] for message in (first, urgent)] == [
        "schedule",
        "alarm",
    ]
    planner.queue.delete([first])
    (second,) = planner.queue.drained()
    assert json.loads(second["Body"])["trigger"] == "schedule"


def fail_to_send(targets: set[str], times: float) -> None:
    """Have SQS not take these targets' messages, for so many calls."""
    left = [times]

    def fail(parsed: dict[str, Any], params: dict[str, Any] | None = None, **_: Any) -> None:
        left[0] -= 1
        if left[0] >= 0:
            parsed["Failed"] = [
                {
                    "Id": sent["Id"],
                    "Code": "InternalError",
                    "Message": "try again",
                    "SenderFault": False,
                }
                for sent in parsed["Successful"]
                if ids[sent["Id"]] in targets
            ]

    ids: dict[str, str] = {}

    def remember(params: dict[str, Any], **_: Any) -> None:
        for entry in params["Entries"]:
            ids[entry["Id"]] = json.loads(entry["MessageBody"])["target"]["name"]

    events = boto3._get_default_session().events
    events.register("provide-client-params.sqs.SendMessageBatch", remember)
    events.register("after-call.sqs.SendMessageBatch", fail)


def test_a_message_that_was_not_taken_is_sent_once_more(planner: Planner, aws: Asked) -> None:
    """SQS answers for each message of a batch; the failed ones alone are sent again, and are in the
    queue once.
    """
    for name in ("orders", "shop"):
        instance(name)
    fail_to_send({"shop"}, times=1)
    aws.clear()
    assert planner.plan()["unsent"] == {}
    assert aws["SendMessageBatch"] == 2
    assert sorted(planner.sent()) == ["orders", "shop"]
    assert planner.tallies == [(2, 0, 0)]


def test_what_cannot_be_sent_is_told_and_the_rest_is_sent(planner: Planner) -> None:
    """One target's message is never taken: the others are, and the planner fails after it has said
    so.
    """
    for name in ("orders", "shop", "zoo"):
        instance(name)
    fail_to_send({"shop"}, times=9)
    with pytest.raises(FleetIncomplete, match="shop: InternalError: try again"):
        planner.plan()
    assert {"orders", "zoo"} <= planner.sent().keys()
    assert planner.tallies == [(3, 1, 0)]
    assert [line["target"] for line in planner.logged("not sent")] == ["shop"]


@pytest.mark.parametrize(
    ("operation", "sent"),
    [
        ("rds.DescribeDBInstances", ["archive", "ledger"]),
        ("rds.DescribeDBProxies", ["archive", "ledger"]),
        ("ssm.GetParameter", ["shop"]),
        ("sqs.SendMessageBatch", []),
    ],
)
def test_what_aws_refuses_keeps_nothing_else(
    planner: Planner, operation: str, sent: list[str]
) -> None:
    """Whoever cannot be found, the listed ones are asked for, and the other way round; the planner
    fails at the end, so that its alarm rings.
    """
    instance("shop")
    boto3.client("ssm").put_parameter(Name="/targets", Type="String", Value=json.dumps(LISTED))
    planner.configure(REAPER_TARGETS_PARAMETER="/targets")
    refuse(operation)
    with pytest.raises(FleetIncomplete, match="not you"):
        planner.plan()
    assert sorted(planner.sent()) == sent
    ((_, failed, _),) = planner.tallies
    assert failed == (3 if operation.startswith("sqs") else 1)


def test_who_could_not_be_found_is_not_called_unknown(planner: Planner) -> None:
    """Asked for one by its name while RDS refuses, the planner says that RDS refused."""
    instance("shop")
    refuse("rds.DescribeDBInstances")
    with pytest.raises(FleetIncomplete, match=r"describe_db_instances: .*not you"):
        planner.plan({"targets": ["shop"]})


def test_a_listed_target_keeps_its_name(planner: Planner) -> None:
    """What is found under a listed name is skipped: two targets of one name would be one in logs
    and metrics.
    """
    instance("ledger")
    planner.configure(REAPER_TARGETS=json.dumps(LISTED))
    answer = planner.plan()
    assert [(one["target"], one["reason"]) for one in answer["skipped"]] == [("ledger", "name")]
    assert "targets" in planner.sent()["ledger"]


def test_a_message_says_until_when_it_is_worth_a_sweep(planner: Planner) -> None:
    """So long after the plan as REAPER_STALE_SECONDS says."""
    instance("shop")
    planner.configure(REAPER_STALE_SECONDS="86400")
    began = time.time()
    planner.plan()
    assert began + 86400 - 1 <= planner.sent()["shop"]["not_after"] <= time.time() + 86400 + 1


@pytest.mark.parametrize("wrong", ["soon", "0", "-1", "nan", "inf"])
def test_a_wrong_time_is_refused_by_its_name(wrong: str) -> None:
    """Seconds, more than none and less than for ever."""
    with pytest.raises(ConfigurationError, match=f"REAPER_STALE_SECONDS is '{wrong}'"):
        fleet._stale_seconds({"REAPER_STALE_SECONDS": wrong})


def test_the_readme_knows_the_fleet() -> None:
    """Its tables hold every reason to skip, every number of the fleet and every tag; its message is
    one that parses.
    """
    assert names("skipped") == [why.value for why in Why]
    assert names("metric of the fleet") == list(Tally(planned=1).measures())
    tags = [tag.removeprefix(TAG_PREFIX).partition("=")[0] for tag in names("tag")]
    assert set(tags) - set(DELEGATED_RULES) == {"secret", "wake"}
    assert set(Notice) <= set(re.findall(r"`(rds_proxy\w+)`", README))
    (shown,) = re.findall(r"```jsonc\n(.*?)```", README, re.DOTALL)
    (found,) = messages({"Records": [{"eventSource": "aws:sqs", "messageId": "m", "body": shown}]})
    assert isinstance(found, QueuedSweep), found.problem
    assert found.discovered is not None
    assert found.discovered.to_json() == json.loads(shown)["target"]


def test_batches_keep_to_sqs_limits() -> None:
    """At most ten messages and 256 KB a call; one that is too large alone is SQS's to refuse."""
    small = [Message(str(place), "x", "", "") for place in range(25)]
    assert [len(batch) for batch in fleet._batches(small)] == [10, 10, 5]
    large = [Message(str(place), "é" * 50_000, "", "") for place in range(5)]
    assert [len(batch) for batch in fleet._batches(large)] == [2, 2, 1]
    assert list(fleet._batches([])) == []
