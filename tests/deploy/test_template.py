"""The template: it passes the tools, what it makes is wired together, and it grants no more than is
needed.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from lab import ROOT
from lab.artifact import SAM
from lab.cloudformation import Resource, Stack, environ_of, source
from lab.samples import report
from reaper.client.emf import NAMESPACE, emf
from reaper.client.events import Event, EventKind
from reaper.client.faults import Fault
from reaper.discovery import Discovery
from reaper.environment import targets_from_environ
from reaper.metrics import Tally, report_document, tally_document
from reaper.request.events import SweepRequest, Trigger, parse
from reaper.request.plan import choose
from reaper.rules import InTransaction, Rules
from reaper.settings import StackSettings, TargetMetrics

ACCOUNT = "eu-central-1:111122223333"
SECRET = f"arn:aws:secretsmanager:{ACCOUNT}:secret:reaper-AbCdEf"
OTHER_SECRET = f"arn:aws:ssm:{ACCOUNT}:parameter/billing"
DB_USER = f"arn:aws:rds-db:{ACCOUNT}:dbuser:db-ABC123/reaper"
KEY = f"arn:aws:kms:{ACCOUNT}:key/1234abcd-12ab-34cd-56ef-1234567890ab"
INSTANCE = "orders.abc123.eu-central-1.rds.amazonaws.com"
WRITER = "orders.cluster-abc123.eu-central-1.rds.amazonaws.com"

PLAIN = {"Host": INSTANCE, "SecretArns": SECRET}
FULL = PLAIN | {
    "SecretArns": f"{SECRET},{OTHER_SECRET}",
    "DbUserArns": DB_USER,
    "KmsKeyArns": KEY,
    "TargetsParameter": "/reaper/targets",
    "MaxConnections": "200",
    "SubnetIds": "subnet-0a1b2c3d4e5f60718,subnet-1a1b2c3d4e5f60718",
    "SecurityGroupIds": "sg-0a1b2c3d4e5f60718",
    "ErrorLogGroup": "/aws/rds/instance/orders/postgresql",
    "AlarmEmail": "oncall@example.com",
    "ProxyName": "orders-proxy",
    "ProxyMaxClients": "1000",
}

FLEET = FULL | {
    "Fleet": "true",
    "FleetTag": "reaper=blue",
    "FleetIdentifiers": "billing,shop-cluster",
    "FleetVpcId": "vpc-0a1b2c3d4e5f60718",
    "FleetSecretPrefix": "reaper/",
    "FleetMasterSecrets": "true",
}
ABROAD = "arn:aws:iam::444455556666:role/reaper-discovery"

# Metrics of AWS that alarms and dashboard may name, by namespace.
AWS_METRICS = {
    "AWS/Lambda": {"Errors", "Throttles"},
    "AWS/SQS": {"ApproximateNumberOfMessagesVisible", "ApproximateAgeOfOldestMessage"},
    "AWS/RDS": {
        "ClientConnections",
        "DatabaseConnections",
        "DatabaseConnectionsBorrowLatency",
        "DatabaseConnectionsCurrentlyBorrowed",
        "DatabaseConnectionsCurrentlySessionPinned",
        "QueryDatabaseResponseLatency",
        "QueryResponseLatency",
    },
}


@pytest.fixture
def bundle(tmp_path: Path) -> str:
    """A file in the place of the CA bundle: a target's `ca` must exist."""
    path = tmp_path / "bundle.pem"
    path.touch()
    return str(path)


def run_offline(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a tool without credentials, and with no way out of the machine that it would find."""
    nowhere = "http://127.0.0.1:9"
    environ = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environ |= {"HTTPS_PROXY": nowhere, "HTTP_PROXY": nowhere, "AWS_EC2_METADATA_DISABLED": "true"}
    environ |= {
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "SAM_CLI_TELEMETRY": "0",
    }
    environ |= {"AWS_DEFAULT_REGION": "eu-central-1"}
    return subprocess.run(
        command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False
    )


def test_sam_validates_and_lints_it_offline() -> None:
    """`sam validate --lint` passes without network and credentials."""
    if not SAM.exists():
        reason = f"the SAM CLI is not in {SAM.parent}; `make test` installs it"
        (pytest.fail if os.environ.get("REAPER_TEST_REQUIRE") == "all" else pytest.skip)(reason)
    done = run_offline(str(SAM), "validate", "--lint", "--template", "template.yaml")
    assert done.returncode == 0, done.stderr + done.stdout
    assert "is a valid SAM Template" in done.stdout


def test_cfn_lint_has_nothing_to_say() -> None:
    """cfn-lint finds no error, no warning, and nothing worth a mention."""
    cfn_lint = Path(sys.executable).with_name("cfn-lint")
    done = run_offline(str(cfn_lint), "--include-checks", "I", "--template", "template.yaml")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def parameters() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = source()["Parameters"]
    return found


def accepts(parameter: Mapping[str, Any], value: str) -> bool:
    """Whether CloudFormation would take the value."""
    if "AllowedValues" in parameter:
        return value in [str(allowed) for allowed in parameter["AllowedValues"]]
    if parameter["Type"] == "Number":
        return bool(
            parameter["MinValue"] <= float(value) <= parameter.get("MaxValue", float("inf"))
        )
    return re.fullmatch(parameter["AllowedPattern"], value) is not None


@pytest.mark.parametrize("name", parameters())
def test_parameters_are_explained_and_checked(name: str) -> None:
    """Each has a description, a check, a default that passes it, and one place in the console's
    groups.
    """
    parameter = parameters()[name]
    assert parameter["Description"]
    assert accepts(parameter, str(parameter["Default"]))
    groups = source()["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    assert [member for group in groups for member in group["Parameters"]].count(name) == 1


@pytest.mark.parametrize("name", FLEET)
def test_the_values_used_here_would_be_accepted(name: str) -> None:
    """What these tests deploy is what CloudFormation would let through."""
    assert accepts(parameters()[name], FLEET[name])
    assert accepts(parameters()["FleetRoleArn"], ABROAD)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SecretArns", "*"),
        ("SecretArns", f"arn:aws:secretsmanager:{ACCOUNT}:secret:*"),
        ("SecretArns", f"{SECRET},"),
        ("DbUserArns", f"arn:aws:rds-db:{ACCOUNT}:dbuser:*/reaper"),
        ("DbUserArns", f"arn:aws:rds-db:{ACCOUNT}:dbuser:db-ABC123/*"),
        ("KmsKeyArns", f"arn:aws:kms:{ACCOUNT}:key/*"),
        ("TargetsParameter", "/reaper/*"),
        ("TargetsParameter", "reaper"),
        ("Host", 'orders", "tls": "off'),
        ("User", 'reaper", "tls": "off'),
        ("User", "*"),
        ("FleetTag", "reaper"),
        ("FleetTag", 'reaper=on", "master_secrets": true, "x": "'),
        ("FleetIdentifiers", 'shop", "zoo'),
        ("FleetRoleArn", "arn:aws:iam::111122223333:role/*"),
        ("FleetSecretPrefix", "*"),
        ("FleetSecretPrefix", "reaper"),
        ("FleetSecretPrefix", "rds!db/"),
        ("FleetConcurrency", "1"),
        ("CaBundle", '/x", "tls": "off'),
        ("Port", "0"),
        ("DryRun", "no"),
        ("TargetMetrics", "none"),
        ("ReservedConcurrency", "0"),
    ],
)
def test_parameters_refuse(name: str, value: str) -> None:
    """No wildcard comes in by a parameter, nothing breaks out of the target's JSON, nothing is off
    by accident.
    """
    assert not accepts(parameters()[name], value)


@pytest.mark.parametrize(
    ("given", "objection"),
    [
        ({}, "Name a database by Host"),
        ({"Host": INSTANCE}, "Give the login's secret"),
        ({"Targets": "[]"}, None),
        ({"Fleet": "true"}, None),
        ({"Fleet": "true", "FleetTag": ""}, "Give the fleet's tag"),
        ({"Fleet": "true", "FleetTag": "", "FleetIdentifiers": "shop"}, None),
        (FLEET, None),
        ({"TargetsParameter": "/reaper/targets"}, None),
        ({"Host": INSTANCE, "DbUserArns": DB_USER}, None),
        (PLAIN | {"SubnetIds": "subnet-1"}, "SubnetIds and SecurityGroupIds both"),
        (PLAIN | {"SecurityGroupIds": "sg-1"}, "SubnetIds and SecurityGroupIds both"),
        (PLAIN | {"Runtime": "python3.11"}, "x86_64"),
        (PLAIN | {"Runtime": "python3.11", "Architecture": "x86_64"}, None),
        (PLAIN, None),
        (FULL, None),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_made(
    given: dict[str, str], objection: str | None
) -> None:
    """The template's rules say in a sentence what is missing."""
    objections = Stack(given).objections
    assert len(objections) == bool(objection)
    assert all(objection in said for said in objections if objection)


def test_a_stack_is_dry_and_has_the_rules_of_the_code(bundle: str) -> None:
    """Deployed with as little as possible: one target, dry, no manual kill, every rule at its
    default.
    """
    settings = StackSettings.from_environ(Stack(PLAIN | {"CaBundle": bundle}).environ)
    assert settings.rules == Rules()
    assert settings.rules.dry_run
    assert not settings.manual_kill
    assert settings.stack == "reaper"
    (swept,) = settings.targets
    assert (swept.name, swept.resource) == ("orders", "orders")
    assert (swept.target.secret, swept.target.port) == (SECRET, 5432)


def test_every_rule_is_a_parameter() -> None:
    """Each rule can be set by the parameter of its name, and reaches the code; lists as a,b."""
    other: dict[str, Any] = {}
    for rule in fields(Rules):
        match rule.default:
            case bool():
                other[rule.name] = not rule.default
            case InTransaction():
                other[rule.name] = InTransaction.TERMINATE
            case tuple():
                other[rule.name] = ("10.0.0.1", "10.1.*")
            case _:
                other[rule.name] = 1
    given = {camel(name): spelt(value) for name, value in other.items()}
    assert given.keys() <= parameters().keys()
    assert Rules.from_environ(Stack(PLAIN | given).environ) == Rules(**other)


def test_whatever_the_function_reads_can_be_set() -> None:
    """Each variable that the code names is in a function's environment, and none that it does not
    know.
    """
    sources = "\n".join(path.read_text() for path in (ROOT / "reaper").glob("*.py"))
    rules = {f"REAPER_{rule.name.upper()}" for rule in fields(Rules)}
    known = rules | set(re.findall(r'"(REAPER_[A-Z_]*[A-Z])"', sources))
    planners = {name for name in environ_of(Stack(FLEET).planner) if name.startswith("REAPER_")}
    given = {name for name in Stack(PLAIN).environ if name.startswith("REAPER_")}
    assert given | planners == known
    assert planners - given == {"REAPER_DISCOVER", "REAPER_QUEUE_URL", "REAPER_STALE_SECONDS"}


def camel(name: str) -> str:
    return "".join(part.title() for part in name.split("_"))


def spelt(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case tuple():
            return ",".join(value)
    return str(value)


def test_the_ways_to_name_targets(bundle: str) -> None:
    """One with a secret, with IAM, at another port; a list goes over it; a parameter's name is left
    to the code.
    """
    iam = {
        "Host": INSTANCE,
        "DbUserArns": DB_USER,
        "Engine": "mysql",
        "Port": "3307",
        "CaBundle": bundle,
    }
    (target,) = targets_from_environ(Stack(iam).environ)
    assert (target.target.auth, target.target.port, target.target.user) == ("iam", 3307, "reaper")
    listed = '[{"name": "a", "engine": "mysql", "host": "127.0.0.1", "user": "u"}]'
    assert [
        found.name for found in targets_from_environ(Stack(PLAIN | {"Targets": listed}).environ)
    ] == ["a"]
    named = Stack(PLAIN | {"TargetsParameter": "/reaper/targets"}).environ
    assert (named["REAPER_TARGETS"], named["REAPER_TARGETS_PARAMETER"]) == ("", "/reaper/targets")


def test_the_function() -> None:
    """Python and processor by parameter, for the layers as well; its own log in JSON; nothing tried
    twice.
    """
    stack = Stack(PLAIN | {"Architecture": "x86_64", "Runtime": "python3.12"})
    assert stack.function["Handler"] == "reaper.handler.lambda_handler"
    assert (stack.function["Runtime"], stack.function["Architectures"]) == (
        "python3.12",
        ["x86_64"],
    )
    assert stack.function["LoggingConfig"] == {"LogFormat": "JSON", "LogGroup": "<LogGroup>"}
    for name, layer in stack.of_type("AWS::Lambda::LayerVersion").items():
        assert (layer["CompatibleRuntimes"], layer["CompatibleArchitectures"]) == (
            ["python3.12"],
            ["x86_64"],
        ), name
    metadata = source()["Resources"]["ClientLayer"]["Metadata"]
    assert stack.value([metadata["BuildMethod"], metadata["BuildArchitecture"]]) == [
        "python3.12",
        "x86_64",
    ]
    (invoked,) = stack.of_type("AWS::Lambda::EventInvokeConfig").values()
    assert invoked["MaximumRetryAttempts"] == 0
    assert invoked["DestinationConfig"] == {"OnFailure": {"Destination": "<Failures.Arn>"}}
    (log,) = stack.of_type("AWS::Logs::LogGroup").values()
    assert log["RetentionInDays"] == "30"


@pytest.mark.parametrize(
    ("given", "kind", "present"),
    [
        ({}, "AWS::SNS::Topic", []),
        ({"AlarmEmail": "a@example.com"}, "AWS::SNS::Topic", ["AlarmTopic"]),
        ({}, "AWS::Logs::MetricFilter", []),
        ({"ErrorLogGroup": "/aws/rds/x"}, "AWS::Logs::MetricFilter", ["RefusedFilter"]),
        ({}, "AWS::Lambda::Permission", ["ClientRefusedAlarmCalls"]),
        ({"Host": ""}, "AWS::Lambda::Permission", []),
        (
            {"MaxConnections": "9"},
            "AWS::Lambda::Permission",
            ["ClientRefusedAlarmCalls", "ConnectionsAlarmCalls"],
        ),
        ({"MaxConnections": "9", "Host": ""}, "AWS::Lambda::Permission", []),
    ],
)
def test_what_is_optional_is_there_on_demand(
    given: dict[str, str], kind: str, present: list[str]
) -> None:
    """Conditions on and off: mail, the filter on the error log, the alarms that call."""
    assert sorted(Stack(PLAIN | given).of_type(kind)) == present


def test_network_and_concurrency_are_optional() -> None:
    """Without subnets no VPC; with them the function is in it; concurrency is reserved unless there
    is none to give.
    """
    assert "VpcConfig" not in Stack(PLAIN).function
    assert Stack(FULL).function["VpcConfig"] == {
        "SubnetIds": FULL["SubnetIds"].split(","),
        "SecurityGroupIds": FULL["SecurityGroupIds"].split(","),
    }
    assert Stack(PLAIN).function["ReservedConcurrentExecutions"] == "2"
    assert (
        "ReservedConcurrentExecutions"
        not in Stack(PLAIN | {"ReservedConcurrency": "none"}).function
    )


def test_the_proxys_alarms_come_with_its_name() -> None:
    """With an RDS Proxy named: pinning over half, clients near their number, two latencies; else
    none of it.
    """
    proxy = {name for name in alarms(Stack(FULL)) if name.startswith("Proxy")}
    assert proxy == {"ProxyPinnedAlarm", "ProxyClientsAlarm", "ProxyBorrowAlarm", "ProxyQueryAlarm"}
    assert not any(name.startswith("Proxy") for name in alarms(Stack(PLAIN)))
    assert "orders-proxy" in dashboard_text(Stack(FULL))
    assert "ProxyName" not in dashboard_text(Stack(PLAIN))


def test_the_schedule_reaches_the_function() -> None:
    """It calls this function, may call nothing else, and says that it is the schedule; it can be
    switched off.
    """
    stack = Stack(PLAIN | {"ScheduleState": "DISABLED"})
    (schedule,) = stack.of_type("AWS::Scheduler::Schedule").values()
    assert (schedule["ScheduleExpression"], schedule["State"]) == ("rate(5 minutes)", "DISABLED")
    assert schedule["Target"]["Arn"] == "<ReaperFunction.Arn>"
    assert parse(json.loads(schedule["Target"]["Input"])) == SweepRequest(Trigger.SCHEDULE)
    role = stack.resources[schedule["Target"]["RoleArn"].strip("<>").split(".")[0]]["Properties"]
    assert [(found["Action"], found["Resource"]) for found in statements(role)] == [
        ("lambda:InvokeFunction", "<ReaperFunction.Arn>")
    ]


def alarms(stack: Stack) -> dict[str, Resource]:
    return stack.of_type("AWS::CloudWatch::Alarm")


def calling(stack: Stack) -> dict[str, Resource]:
    return {
        name: found
        for name, found in alarms(stack).items()
        if "<ReaperFunction.Arn>" in actions(found)
    }


def actions(alarm: Resource) -> list[str]:
    found: list[str] = alarm.get("AlarmActions", [])
    return found


def test_the_alarms_reach_the_function() -> None:
    """Three alarms call it; each has a permission of its own, for this account; nothing else is let
    in.
    """
    stack = Stack(FULL)
    assert set(calling(stack)) == {"ConnectionsAlarm", "RefusedAlarm", "ClientRefusedAlarm"}
    assert sorted(map(str, stack.of_type("AWS::Lambda::Permission").values())) == sorted(
        str(
            {
                "FunctionName": "<ReaperFunction>",
                "Action": "lambda:InvokeFunction",
                "Principal": "lambda.alarms.cloudwatch.amazonaws.com",
                "SourceAccount": "111122223333",
                "SourceArn": f"<{name}.Arn>",
            }
        )
        for name in calling(stack)
    )


@pytest.mark.parametrize("host", [INSTANCE, WRITER])
@pytest.mark.parametrize("name", ["ConnectionsAlarm", "RefusedAlarm", "ClientRefusedAlarm"])
def test_the_handler_finds_the_alarms_target(name: str, host: str, bundle: str) -> None:
    """The event that CloudWatch sends for each of these alarms means the database that the stack
    was deployed for.
    """
    stack = Stack(FULL | {"Host": host, "TargetsParameter": "", "CaBundle": bundle})
    asked = parse(event_of(calling(stack)[name]))
    assert isinstance(asked, SweepRequest)
    assert [
        target.target.host for target in choose(asked, targets_from_environ(stack.environ))
    ] == [host]
    # a log's metric has no dimension: it means every target
    if name != "RefusedAlarm":
        assert asked.alarmed


def event_of(alarm: Resource) -> dict[str, Any]:
    """What CloudWatch hands to the function: the shape of events/alarm-action.json, with this
    alarm's metrics.
    """
    sample: dict[str, Any] = json.loads((ROOT / "events" / "alarm-action.json").read_text())
    sample["alarmData"]["configuration"]["metrics"] = [
        {
            "id": "m",
            "metricStat": {"metric": metric, "period": 60, "stat": "Maximum"},
            "returnData": True,
        }
        for metric in metrics_of(alarm)
    ]
    return sample


def metrics_of(alarm: Resource) -> Iterator[dict[str, Any]]:
    """The metrics an alarm watches, as its events name them."""
    items = [
        item["MetricStat"]["Metric"]
        for item in alarm.get("Metrics", [alarm])
        if "MetricStat" in item
    ]
    for metric in items or [alarm]:
        dimensions = {pair["Name"]: pair["Value"] for pair in metric.get("Dimensions", [])}
        yield {
            "namespace": metric["Namespace"],
            "name": metric["MetricName"],
            "dimensions": dimensions,
        }


def test_the_connections_alarm_watches_an_instance_or_a_writer() -> None:
    """An instance by its identifier; of a cluster whoever is its writer, for that changes; percent
    of the maximum.
    """
    for host, dimensions in (
        (INSTANCE, {"DBInstanceIdentifier": "orders"}),
        (WRITER, {"DBClusterIdentifier": "orders", "Role": "WRITER"}),
    ):
        alarm = alarms(Stack(FULL | {"Host": host}))["ConnectionsAlarm"]
        assert [found["dimensions"] for found in metrics_of(alarm)] == [dimensions]
        assert [item["Expression"] for item in alarm["Metrics"] if item["ReturnData"]] == [
            "100 * connections / 200"
        ]
        assert alarm["Threshold"] == "80"


def test_people_are_told() -> None:
    """With an address every alarm sends a mail; those of the reaper's own are there without one,
    too.
    """
    assert all("<AlarmTopic>" in actions(found) for found in alarms(Stack(FLEET)).values())
    told = alarms(Stack({"Targets": "[]"}))
    assert set(told) == {
        "LockedOutAlarm",
        "BlindAlarm",
        "SweepFailedAlarm",
        "ErrorsAlarm",
        "FailuresAlarm",
    }
    assert not any(actions(found) for found in told.values())


@pytest.mark.parametrize(
    ("line", "rings"),
    [
        (
            "2021-03-31T12:29:15.297826Z 38356 [Warning] [MY-000000] [Server] Too many connections",
            True,
        ),
        (
            "2026-11-20 09:00:00 UTC:10.0.0.5(4711):app@shop:[123]:FATAL:  sorry, too many "
            "clients already",
            True,
        ),
        (
            "FATAL:  remaining connection slots are reserved for roles with privileges of the "
            '"rds_reserved" role',
            True,
        ),
        ('FATAL:  too many connections for role "app"', True),
        ("LOG:  connection authorized: user=app database=shop", False),
    ],
)
def test_the_error_logs_filter(line: str, rings: bool) -> None:
    """It knows what each engine writes when it refuses a connection. ?"a" ?"b" means a or b, in the
    letters given.
    """
    (found,) = Stack(FULL).of_type("AWS::Logs::MetricFilter").values()
    terms = re.findall(r'\?"([^"]+)"', found["FilterPattern"])
    assert " ".join(f'?"{term}"' for term in terms) == found["FilterPattern"]
    assert any(term in line for term in terms) == rings


def dashboard_text(stack: Stack) -> str:
    (found,) = stack.of_type("AWS::CloudWatch::Dashboard").values()
    return str(found["DashboardBody"])


def panels(stack: Stack) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(dashboard_text(stack))["widgets"]
    return found


def metrics_shown(stack: Stack) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Namespace, name and dimensions of each metric on the dashboard."""
    for panel in panels(stack):
        for row in panel["properties"].get("metrics", []):
            if isinstance(row[0], dict):
                search = re.match(
                    r"SEARCH\('\{(\S+)\} .*MetricName=\"(\w+)\"", row[0]["expression"]
                )
                if search:
                    namespace, *dimensions = search[1].split(",")
                    yield namespace, search[2], tuple(sorted(dimensions))
            else:
                words = [word for word in row if isinstance(word, str)]
                yield words[0], words[1], tuple(sorted(words[2::2]))


def published(of_target: TargetMetrics) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Namespace, name and dimensions of what reaper and client send when everything happens at
    once.
    """
    lines: list[str] = []
    emf(write=lines.append)(Event(EventKind.REFUSED, "orders", Fault.TOO_MANY))
    full = replace(report(), pressure_remains=True, first_freed_seconds=1.0)
    for document in (
        report_document(full, "reaper", of_target),
        tally_document(Tally(1), "reaper"),
        *map(json.loads, lines),
    ):
        for directive in document["_aws"]["CloudWatchMetrics"]:
            for metric in directive["Metrics"]:
                for dimensions in directive["Dimensions"]:
                    yield directive["Namespace"], metric["Name"], tuple(sorted(dimensions))


@pytest.mark.parametrize("of_target", TargetMetrics)
def test_every_metric_exists_with_its_dimensions(of_target: TargetMetrics) -> None:
    """What alarms and dashboard name is published by reaper, client, the template's filter or AWS,
    just so; also where targets have few metrics of their own.
    """
    stack = Stack(FLEET | {"TargetMetrics": of_target})
    assert StackSettings.from_environ(stack.environ).target_metrics is of_target
    watched = [
        (metric["namespace"], metric["name"], tuple(sorted(metric["dimensions"])))
        for alarm in alarms(stack).values()
        for metric in metrics_of(alarm)
    ]
    shown = list(metrics_shown(stack))
    assert len(watched) >= 12
    assert len(shown) >= 20
    (filtered,) = stack.of_type("AWS::Logs::MetricFilter")["RefusedFilter"]["MetricTransformations"]
    own = {*published(of_target), (filtered["MetricNamespace"], filtered["MetricName"], ())}
    for metric in watched + shown:
        namespace, name, _ = metric
        assert metric in own or name in AWS_METRICS.get(namespace, ())
    assert NAMESPACE in {namespace for namespace, _, _ in watched}


@pytest.mark.parametrize("given", [PLAIN, FULL, FLEET, {"Targets": "[]"}])
def test_the_dashboard_shows_every_alarm(given: dict[str, str]) -> None:
    """Whatever is switched on or off it is JSON, and its first panel lists just the alarms there
    are.
    """
    stack = Stack(given)
    listed = panels(stack)[0]["properties"]["alarms"]
    assert sorted(listed) == sorted(f"<{name}.Arn>" for name in alarms(stack))


def test_the_dashboard_draws_the_limit_and_the_alarms_line() -> None:
    """Connections against their maximum, with the line at which the alarm rings."""
    (panel,) = [
        panel
        for panel in panels(Stack(FULL))
        if panel["properties"]["title"] == "Connections of orders"
    ]
    lines = [
        row[0]["expression"] for row in panel["properties"]["metrics"] if isinstance(row[0], dict)
    ]
    assert lines == ["TIME_SERIES(200)", "limit * 80 / 100"]


# How each kind of resource is named. One without a name of ours gets a unique one from
# CloudFormation.
NAMES = {
    "AWS::CloudWatch::Alarm": "AlarmName",
    "AWS::CloudWatch::Dashboard": "DashboardName",
    "AWS::IAM::Role": "RoleName",
    "AWS::Lambda::EventInvokeConfig": None,
    "AWS::Lambda::EventSourceMapping": None,
    "AWS::Lambda::Function": "FunctionName",
    "AWS::Lambda::LayerVersion": "LayerName",
    "AWS::Lambda::Permission": None,
    "AWS::Logs::LogGroup": "LogGroupName",
    "AWS::Logs::MetricFilter": "FilterName",
    "AWS::SNS::Topic": "TopicName",
    "AWS::SQS::Queue": "QueueName",
    "AWS::SQS::QueuePolicy": None,
    "AWS::Scheduler::Schedule": "Name",
}


def test_two_stacks_do_not_collide() -> None:
    """Every name that the template gives differs between two stacks; the dashboard's, known
    everywhere, by region.
    """

    def given_names(stack: Stack) -> set[str]:
        found = {
            (item["Type"], item["Properties"].get(NAMES[item["Type"]]))
            for item in stack.resources.values()
        }
        return {f"{kind} {name}" for kind, name in found if name}

    one, other = given_names(Stack(FLEET, "one")), given_names(Stack(FLEET, "other"))
    assert {
        "AWS::Lambda::LayerVersion one-client",
        "AWS::CloudWatch::Dashboard one-eu-central-1",
    } <= one
    assert not one & other
    assert Stack(FULL, "one").environ["REAPER_STACK"] == "one"


# Resources that nobody can name more narrowly, with the actions, by the role that may do them and
# why.
WILDCARDS = [
    # Lambda asks for its own interfaces' rights on all of them; the code is shut out by a
    # condition.
    (
        "Role",
        "*",
        {
            "ec2:CreateNetworkInterface",
            "ec2:DescribeNetworkInterfaces",
            "ec2:DescribeSubnets",
            "ec2:DeleteNetworkInterface",
            "ec2:AssignPrivateIpAddresses",
            "ec2:UnassignPrivateIpAddresses",
        },
    ),
    # A fleet's databases are not known when it is deployed: in all of them the reaper's account and
    # no other, ...
    ("Role", f"arn:aws:rds-db:{ACCOUNT}:dbuser:*/reaper", {"rds-db:connect"}),
    # ... the secrets of one folder, ...
    (
        "Role",
        f"arn:aws:secretsmanager:{ACCOUNT}:secret:reaper/*",
        {"secretsmanager:GetSecretValue"},
    ),
    # ... and, where the parameter asks for it, those that RDS keeps.
    ("Role", f"arn:aws:secretsmanager:{ACCOUNT}:secret:rds!*", {"secretsmanager:GetSecretValue"}),
    # Whoever looks for databases cannot name them, and most of these know no resources. They only
    # read.
    (
        "FleetRole",
        "*",
        {
            "rds:DescribeDBInstances",
            "rds:DescribeDBClusters",
            "rds:DescribeDBProxies",
            "rds:DescribeDBProxyTargets",
            "ec2:DescribeNetworkInterfaces",
            "ec2:DescribeSubnets",
            "cloudwatch:GetMetricData",
        },
    ),
]


def statements(role: Resource) -> Iterator[Resource]:
    for policy in role["Policies"]:
        yield from policy["PolicyDocument"]["Statement"]


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def test_no_wildcard_that_could_be_narrower() -> None:
    """With everything on: no managed policy, no wildcard in an action, and in a resource only those
    with a reason.
    """
    for name, role in Stack(FLEET).of_type("AWS::IAM::Role").items():
        assert role.keys() <= {"AssumeRolePolicyDocument", "Policies"}, name
        for statement in statements(role):
            assert statement["Effect"] == "Allow"
            assert not any("*" in action for action in listed(statement["Action"]))
            for resource in listed(statement["Resource"]):
                if "*" in resource:
                    assert (name, resource, {*listed(statement["Action"])}) in WILDCARDS
                    if (name, resource) == ("Role", "*"):
                        assert statement["Condition"] == {
                            "Null": {"lambda:SourceFunctionArn": "true"}
                        }


def test_the_function_may_do_what_it_was_deployed_for() -> None:
    """Its log, its queue, and by the way it logs in that one secret or that one account; the rest
    on demand only.
    """

    def may(given: dict[str, str]) -> dict[str, list[str]]:
        role = Stack(given).of_type("AWS::IAM::Role")["Role"]
        return {
            " ".join(listed(found["Action"])): listed(found["Resource"])
            for found in statements(role)
        }

    always = {
        "logs:CreateLogStream logs:PutLogEvents": ["<LogGroup.Arn>"],
        "sqs:SendMessage": ["<Failures.Arn>"],
    }
    secret = {"secretsmanager:GetSecretValue ssm:GetParameter": [SECRET]}
    assert may(PLAIN) == always | secret
    assert may({"Host": INSTANCE, "DbUserArns": DB_USER}) == always | {"rds-db:connect": [DB_USER]}
    full = may(FULL)
    assert full["secretsmanager:GetSecretValue ssm:GetParameter"] == [SECRET, OTHER_SECRET]
    assert full["ssm:GetParameter"] == [f"arn:aws:ssm:{ACCOUNT}:parameter/reaper/targets"]
    assert full["kms:Decrypt"] == [KEY]


def may(given: dict[str, str], role: str) -> dict[str, list[str]]:
    """What a role may do, and with what."""
    found = statements(Stack(given).of_type("AWS::IAM::Role")[role])
    return {" ".join(listed(one["Action"])): listed(one["Resource"]) for one in found}


def test_the_planner_may_look_and_send() -> None:
    """No database, no secret; a role and a parameter only where they are named."""
    plain = {"Fleet": "true"}
    look = (
        "rds:DescribeDBInstances rds:DescribeDBClusters rds:DescribeDBProxies "
        "rds:DescribeDBProxyTargets"
    )
    look += " ec2:DescribeNetworkInterfaces ec2:DescribeSubnets cloudwatch:GetMetricData"
    always = {
        "logs:CreateLogStream logs:PutLogEvents": ["<LogGroup.Arn>"],
        "sqs:SendMessage": ["<FleetQueue.Arn>", "<Failures.Arn>"],
        look: ["*"],
    }
    assert may(plain, "FleetRole") == always
    assert may(plain | {"FleetRoleArn": ABROAD}, "FleetRole") == always | {
        "sts:AssumeRole": [ABROAD]
    }
    parameter = {"ssm:GetParameter": [f"arn:aws:ssm:{ACCOUNT}:parameter/reaper/targets"]}
    assert may(FLEET, "FleetRole") == always | parameter | {"kms:Decrypt": [KEY]}


def test_the_reaper_may_sweep_a_fleet() -> None:
    """Beside what it may without one: read the queue, and log in everywhere as itself, in this
    account; with secrets and as the master user only where a parameter says so.
    """
    plain = {"Fleet": "true"}
    read = {"sqs:ReceiveMessage sqs:DeleteMessage sqs:GetQueueAttributes": ["<FleetQueue.Arn>"]}
    connect = {"rds-db:connect": [f"arn:aws:rds-db:{ACCOUNT}:dbuser:*/reaper"]}
    secrets = f"arn:aws:secretsmanager:{ACCOUNT}:secret"
    alone = may({"Host": INSTANCE, "SecretArns": ""}, "Role")
    assert may(plain, "Role") == alone | read | connect
    assert may(plain | {"FleetRoleArn": ABROAD}, "Role") == alone | read
    assert may(plain | {"FleetSecretPrefix": "reaper/"}, "Role") == alone | read | connect | {
        "secretsmanager:GetSecretValue": [f"{secrets}:reaper/*"]
    }
    assert may(plain | {"FleetMasterSecrets": "true"}, "Role") == alone | read | connect | {
        "secretsmanager:GetSecretValue": [f"{secrets}:rds!*"]
    }


def test_a_fleet_is_planned_queued_and_swept() -> None:
    """The schedule calls the planner and no longer the reaper; the queue hands out a target's
    messages one by one, its failures go to a queue of their own after three tries; the reaper
    reports which failed, and keeps no seats.
    """
    stack = Stack(FLEET)
    schedules = stack.of_type("AWS::Scheduler::Schedule")
    states = {found["Target"]["Arn"]: found["State"] for found in schedules.values()}
    assert states == {"<ReaperFunction.Arn>": "DISABLED", "<FleetFunction.Arn>": "ENABLED"}
    assert all(
        parse(json.loads(found["Target"]["Input"])) == SweepRequest(Trigger.SCHEDULE)
        for found in schedules.values()
    )
    queue = stack.of_type("AWS::SQS::Queue")["FleetQueue"]
    assert (
        queue["FifoQueue"] is stack.of_type("AWS::SQS::Queue")["FleetFailures"]["FifoQueue"] is True
    )
    assert queue["RedrivePolicy"] == {
        "deadLetterTargetArn": "<FleetFailures.Arn>",
        "maxReceiveCount": 3,
    }
    assert int(queue["VisibilityTimeout"]) == 6 * int(stack.function["Timeout"])
    (mapping,) = stack.of_type("AWS::Lambda::EventSourceMapping").values()
    assert mapping == {
        "FunctionName": "<ReaperFunction>",
        "EventSourceArn": "<FleetQueue.Arn>",
        "BatchSize": 10,
        "FunctionResponseTypes": ["ReportBatchItemFailures"],
        "ScalingConfig": {"MaximumConcurrency": "10"},
    }
    assert stack.function["ReservedConcurrentExecutions"] == "10"
    assert (stack.environ["REAPER_KEEP_SEAT"], Stack(FULL).environ["REAPER_KEEP_SEAT"]) == (
        "false",
        "true",
    )
    (policy,) = stack.of_type("AWS::SQS::QueuePolicy").values()
    (denial,) = policy["PolicyDocument"]["Statement"]
    assert (denial["Effect"], denial["Principal"], denial["Action"]) == (
        "Deny",
        "*",
        "sqs:SendMessage",
    )
    assert denial["Condition"] == {"ArnNotEquals": {"aws:PrincipalArn": "<FleetRole.Arn>"}}


def test_the_planner() -> None:
    """The reaper's own code, in no VPC, for whose endpoints it would have to pay; it looks for what
    the parameters say, and is as dry as the stack.
    """
    stack = Stack(FLEET)
    planner, environ = stack.planner, environ_of(stack.planner)
    assert (planner["Handler"], planner["Code"]) == (
        "reaper.fleet.lambda_handler",
        stack.function["Code"],
    )
    assert "VpcConfig" not in planner
    assert "VpcConfig" in stack.function
    wanted = Discovery.from_json(environ["REAPER_DISCOVER"], "REAPER_DISCOVER")
    assert wanted == Discovery(
        tag=("reaper", "blue"),
        ids=("billing", "shop-cluster"),
        vpc="vpc-0a1b2c3d4e5f60718",
        user="reaper",
        master_secrets=True,
    )
    plain = environ_of(Stack({"Fleet": "true"}).planner)
    assert Discovery.from_json(plain["REAPER_DISCOVER"], "REAPER_DISCOVER") == Discovery()
    assert plain["REAPER_DRY_RUN"] == "true"
    assert environ["REAPER_QUEUE_URL"] == "<FleetQueue>"
    assert environ["REAPER_TARGETS_PARAMETER"] == stack.environ["REAPER_TARGETS_PARAMETER"]


def test_without_a_fleet_there_is_nothing_of_it() -> None:
    """Nor is there a target of no host, where a fleet is all there is."""
    assert not any("Fleet" in name for name in Stack(FULL).resources)
    assert Stack({"Fleet": "true"}).environ["REAPER_TARGETS"] == ""


def test_the_version_is_the_packages() -> None:
    """The Serverless Application Repository is told the package's own version, licence and
    read-me.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    told = source()["Metadata"]["AWS::ServerlessRepo::Application"]
    assert (told["SemanticVersion"], told["SpdxLicenseId"]) == (
        project["version"],
        project["license"],
    )
    assert all((ROOT / told[key]).is_file() for key in ("ReadmeUrl", "LicenseUrl"))
