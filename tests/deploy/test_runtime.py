"""What `sam build` made, under Lambda's own runtime client, against real servers."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from lab import ROOT
from lab.artifact import Build
from lab.cloudformation import Stack
from lab.frozen import Frozen
from lab.lambdas import Code, Function, Invocation
from lab.servers import Proxy, Server, Sessions, free_port, processes
from lab.targets import target
from tests.conftest import Servers, names
from tests.goodbyes import end_sessions
from tests.harness import settle

from .emf import Datum, extracted

Deploy = Callable[..., Function]

# Of each kind one: how the others differ is for the tests of the sweep.
SERVERS = [name for name in names() if name not in ("postgres18", "mysql_nops")]

ORDERS, BILLING = "orders", "billing"
BOTH = [ORDERS, BILLING]
# Which targets each event sweeps on a live stack, and whether the idle sessions of `orders` survive
# it.
EVENTS = {
    "alarm-action.json": ([ORDERS], False),
    "alarm-composite.json": (BOTH, False),
    "alarm-eventbridge.json": ([ORDERS], False),
    "alarm-ok.json": ([], True),
    "alarm-sns.json": ([ORDERS], False),
    "manual-dry-run.json": (BOTH, True),
    "manual-kill.json": (BOTH, False),
    "schedule-input.json": (BOTH, False),
    "schedule-rule.json": (BOTH, False),
    "schedule-scheduler.json": (BOTH, False),
    "sqs-batch.json": (BOTH, False),
}
# Sweeps nothing
ADVICE = "advise.json"


@pytest.fixture(params=SERVERS)
def database(request: pytest.FixtureRequest, servers: Servers) -> Server:
    return servers[request.param]


@pytest.fixture
def deploy(artifact: Build) -> Iterator[Deploy]:
    """The built function as the template runs it, with these targets and parameters."""
    with ExitStack() as running:

        def make(*targets: dict[str, Any], **parameters: str) -> Function:
            return running.enter_context(Function(code(artifact, *targets, **parameters)))

        yield make


def code(artifact: Build, *targets: dict[str, Any], **parameters: str) -> Code:
    stack = Stack({"Targets": json.dumps(targets), **parameters})
    return Code(
        [artifact.function.path],
        stack.function["Handler"],
        stack.environ,
        float(stack.function["Timeout"]),
    )


def event(name: str) -> Any:
    return json.loads((ROOT / "events" / name).read_text())


def test_every_event_is_known() -> None:
    """A new file in events/ is told here what it does, or it is never tried."""
    assert {*EVENTS, ADVICE} == {path.name for path in (ROOT / "events").glob("*.json")}


def test_each_event_kills_where_it_should(
    database: Server, servers: Servers, deploy: Deploy
) -> None:
    """Through the built artifact each file in events/ ends the frozen functions of the targets it
    means, the idle ones and no others, and CloudWatch accepts what it prints of that.
    """
    other = servers["postgres18"]
    function = deploy(
        target(database, name=ORDERS, id=ORDERS, rules={"protect_users": ["other"]}),
        target(other, name=BILLING, rules={"idle_seconds": 3600}),
        DryRun="false",
        IdleSeconds="0",
    )
    with Sessions(database) as here, Sessions(other) as there:
        innocent = [*here.sleeping(1, user="other"), *here.in_transaction(1), *there.sleeping(1)]
        active = here.active(2)
        for name, (swept, survives) in EVENTS.items():
            with Frozen(database.dsn(), connections=2) as zombie:
                zombie.freeze()
                settle(database)
                done = function.invoke(event(name))
                assert done.error is None, name
                reports = {report["target"]: report for report in done.answer["targets"]}
                assert list(reports) == swept, name
                if swept:
                    outcome = "would_terminate" if survives else "terminated"
                    assert reports[ORDERS]["outcomes"] == {outcome: 2}, name
                    assert {victim["id"] for victim in reports[ORDERS]["victims"]} == {
                        *zombie.ids
                    }, name
                if BILLING in swept:
                    assert reports[BILLING]["outcomes"] == {}, name
                assert published(done) == {
                    which: told(report) for which, report in reports.items()
                }, name
                zombie.thaw()
                assert (zombie.run() == ["ok", "ok"]) == survives, name
        here.release_active()
        assert all(client.alive() for client in (*innocent, *active))


def test_advice_is_given_from_inside(database: Server, deploy: Deploy) -> None:
    """The built artifact answers the event for advice with findings on its one target, and
    terminates nobody.
    """
    function = deploy(target(database, name=ORDERS), DryRun="false", IdleSeconds="0")
    with Frozen(database.dsn(), connections=1) as zombie:
        done = function.invoke(event(ADVICE))
        assert done.error is None
        (advice,) = done.answer["advice"]
        assert (advice["target"], advice["error"]) == (ORDERS, None)
        limit = "idle_session_timeout" if database.engine == "postgres" else "wait_timeout"
        assert limit in {finding["rule"] for finding in advice["findings"]}
        assert zombie.run() == ["ok"]


def told(report: dict[str, Any]) -> tuple[float, float, float]:
    """What a report says, as its metrics should."""
    return report["sessions"]["total"], report["zombies"], report["outcomes"].get("terminated", 0)


def published(done: Invocation) -> dict[str, tuple[float, ...]]:
    """The same out of the metrics, by target."""
    found: dict[str, tuple[float, ...]] = {}
    for document in done.metrics:
        values = {datum.name: datum.value for datum in extracted(document)}
        found[document["Target"]] = tuple(
            values[name] for name in ("SessionsTotal", "Zombies", "Terminated")
        )
    return found


def test_an_environment_remembers_until_its_end(servers: Servers, deploy: Deploy) -> None:
    """A warm environment knows whom it saw asleep; after a crash the next one starts cold and knows
    nobody.
    """
    server = servers["mysql_nops"]
    function = deploy(target(server), DryRun="false", IdleSeconds="0")

    def sweep() -> tuple[bool, dict[str, int], dict[str, int]]:
        done = function.invoke(event("schedule-input.json"))
        (report,) = done.answer["targets"]
        return (
            done.cold,
            report["outcomes"],
            {"unconfirmed": report["spared"].get("unconfirmed", 0)},
        )

    with Sessions(server) as sessions:
        sessions.sleeping(2)
        settle(server)
        assert sweep() == (True, {}, {"unconfirmed": 2})
        # a sleep is confirmed by two whole seconds more of it
        time.sleep(3.1)
        assert sweep() == (False, {"terminated": 2}, {"unconfirmed": 0})
        sessions.sleeping(2)
        settle(server)
        assert sweep() == (False, {}, {"unconfirmed": 2})
        processes.end(function.runtime)
        assert sweep() == (True, {}, {"unconfirmed": 2})


LOOK = {"postgres": b"pg_stat_activity", "mysql": b"_schema.processlist"}


@pytest.mark.parametrize(
    ("what", "timeout", "said"),
    [(signal.SIGKILL, "60", "Runtime.ExitError"), (signal.SIGSTOP, "4", "Sandbox.Timedout")],
    ids=["crash", "timeout"],
)
def test_an_environment_that_dies_in_a_sweep_is_not_missed(
    database: Server, deploy: Deploy, what: signal.Signals, timeout: str, said: str
) -> None:
    """A crash or a timeout in the middle of a sweep leaves nothing that hinders the next, which
    starts cold.
    """
    with (
        Proxy(database.host, database.port) as proxy,
        Sessions(database) as sessions,
        ThreadPoolExecutor(1) as pool,
    ):
        (client,) = sessions.sleeping(1)
        settle(database)
        function = deploy(target(proxy.through(database)), TimeoutSeconds=timeout, DryRun="false")
        assert function.invoke({}).cold
        looks = proxy.cut_when(LOOK[database.engine], then="silence")
        lost = pool.submit(function.invoke, {"rules": {"idle_seconds": 0}})
        assert looks.met.wait(30)
        function.runtime.send_signal(what)
        error = lost.result().error
        assert error is not None
        assert error["errorType"] == said
        assert client.alive()
        settle(database)
        done = function.invoke({"rules": {"idle_seconds": 0}})
        assert done.cold
        assert done.answer["targets"][0]["outcomes"] == {"terminated": 1}


def test_a_thawed_environment_sweeps_on(database: Server, deploy: Deploy) -> None:
    """Frozen for as long as the server cares to keep its sessions, the same environment finds the
    zombies of now.
    """
    function = deploy(target(database), DryRun="false", IdleSeconds="0")
    function.invoke({})
    pid = function.runtime.pid
    function.freeze()
    with Sessions(database) as sessions:
        sessions.sleeping(3)
        end_sessions(database, "reaper")
        settle(database)
        done = function.invoke(event("schedule-input.json"))
    assert (done.cold, function.runtime.pid) == (False, pid)
    assert done.answer["targets"][0]["outcomes"] == {"terminated": 3}


def test_the_answer_comes_before_the_timeout(deploy: Deploy, silent_port: int) -> None:
    """With a server that never answers the report, the metrics and the error are out before Lambda
    ends it all.
    """
    silent = {
        "name": ORDERS,
        "engine": "mysql",
        "host": "127.0.0.1",
        "port": silent_port,
        "user": "reaper",
    }
    function = deploy(silent, TimeoutSeconds="4")
    done = function.invoke({})
    assert done.error is not None
    assert done.error["errorType"] == "AllSweepsFailed"
    assert [line["error"]["kind"] for line in done.logged("sweep")] == ["unreachable"]
    (document,) = done.metrics
    assert {datum.value for datum in extracted(document) if datum.name == "SweepFailed"} == {1}
    assert not function.invoke({}).cold


def test_what_is_wrong_is_told_and_nothing_is_touched(servers: Servers, deploy: Deploy) -> None:
    """On the template's defaults a kill by hand is refused by the name of what forbids it; so is
    what says nothing.
    """
    server = servers["postgres16"]
    safe, idle = deploy(target(server), IdleSeconds="0"), deploy()
    wrong: list[tuple[Function, Any, str]] = [
        (safe, event("manual-kill.json"), "REAPER_DRY_RUN"),
        (safe, {"dryrun": False}, "did you mean 'dry_run'"),
        (idle, {}, "REAPER_TARGETS is []"),
    ]
    with Sessions(server) as sessions:
        (client,) = sessions.sleeping(1)
        for function, given, said in wrong:
            done = function.invoke(given)
            assert done.error is not None
            assert done.error["errorType"] == "ConfigurationError"
            assert said in done.error["errorMessage"]
        assert client.alive()


def test_the_templates_alarms_find_their_metrics(artifact: Build, deploy: Deploy) -> None:
    """Even a sweep that saw nothing publishes what the alarms watch, under the dimensions that they
    name.
    """
    nowhere = {
        "name": ORDERS,
        "engine": "postgres",
        "host": "127.0.0.1",
        "port": free_port(),
        "user": "reaper",
    }
    (document,) = deploy(nowhere).invoke({}).metrics
    data = extracted(document)
    assert {datum.dimensions for datum in data} == {
        frozenset({("Stack", "reaper")}),
        frozenset({("Stack", "reaper"), ("Target", ORDERS)}),
    }
    # What the client publishes has the target alone.
    alarms = [
        alarm
        for alarm in Stack().of_type("AWS::CloudWatch::Alarm").values()
        if STACK in alarm["Dimensions"]
    ]
    assert {"LockedOut", "Blind", "SweepFailed"} <= {alarm["MetricName"] for alarm in alarms}
    with mock_aws():
        cloudwatch = boto3.client("cloudwatch", region_name="eu-central-1")
        for datum in data:
            publish(cloudwatch, datum)
        for alarm in alarms:
            wanted = {
                key: value
                for key, value in alarm.items()
                if key not in ("AlarmDescription", "AlarmActions")
            }
            cloudwatch.put_metric_alarm(AlarmName=alarm["MetricName"], **wanted)
            metric = {key: alarm[key] for key in ("Namespace", "MetricName", "Dimensions")}
            assert cloudwatch.list_metrics(**metric)["Metrics"], alarm
            assert cloudwatch.describe_alarms_for_metric(**metric)["MetricAlarms"], alarm


STACK = {"Name": "Stack", "Value": "reaper"}


def publish(cloudwatch: Any, datum: Datum) -> None:
    dimensions = [{"Name": name, "Value": value} for name, value in sorted(datum.dimensions)]
    metric = {
        "MetricName": datum.name,
        "Dimensions": dimensions,
        "Unit": datum.unit,
        "Value": datum.value,
    }
    cloudwatch.put_metric_data(Namespace=datum.namespace, MetricData=[metric])


PROBE = """
import sys

before = {*sys.modules}
from reaper.handler import lambda_handler

def handler(event, context):
    if event is not None:
        lambda_handler(event, context)
    return {name: getattr(sys.modules[name], "__file__", None) for name in {*sys.modules} - before}
"""
DRIVER = {"postgres": {"psycopg", "psycopg_binary"}, "mysql": {"pymysql"}}


def test_only_what_is_needed_is_imported(database: Server, artifact: Build, tmp_path: Path) -> None:
    """A cold start imports Powertools, a sweep its engine's driver; nobody pays for boto3, which
    only a password in Secrets Manager, a token or a parameter needs, for the other engine, or for
    what operators use. All our own comes from the artifact.
    """
    (tmp_path / "probe.py").write_text(PROBE)
    deployed = code(artifact, target(database))
    probe = replace(deployed, folders=[*deployed.folders, tmp_path], handler="probe.handler")
    with Function(probe) as function:
        cold = imported(function.invoke(None).answer, artifact)
        warm = imported(function.invoke({}).answer, artifact)
    brought = {name.partition(".")[0] for name in cold} - {"typing_extensions"}
    assert brought == {"reaper", "aws_lambda_powertools", "jmespath"}
    for_the_sweep = {name.partition(".")[0] for name in warm} - brought - {"typing_extensions"}
    assert for_the_sweep == DRIVER[database.engine]
    (other,) = DRIVER.keys() - {database.engine}
    assert not {f"reaper.engines.{other}", f"reaper.client.drivers.{other}", "reaper.cli"} & warm


def imported(modules: dict[str, str | None], artifact: Build) -> set[str]:
    """What was imported of the artifact; of Lambda's own nothing may be but a file that Powertools
    registers with.
    """
    standard = Path(os.__file__).parent
    found = {
        name: Path(file)
        for name, file in modules.items()
        if file and not Path(file).is_relative_to(standard)
    }
    ours = {name for name, file in found.items() if file.is_relative_to(artifact.function.path)}
    assert {*found} - ours <= {"botocore"}
    return ours


APPLICATION = """
from reaper.client import Database

db = Database.from_env()

@db.handler
def handler(sql, context):
    (row,) = db.query(sql)
    return row["id"]
"""
OWN_ID = {"postgres": "SELECT pg_backend_pid() AS id", "mysql": "SELECT connection_id() AS id"}


def test_the_layer_is_all_that_an_application_needs(
    database: Server, artifact: Build, tmp_path: Path
) -> None:
    """With the layer beside it, an application's function keeps its connection, and never notices
    that it was ended while the environment was frozen.
    """
    (tmp_path / "application.py").write_text(APPLICATION)
    folders = [tmp_path, artifact.client_layer.path]
    with Function(
        Code(folders, "application.handler", {"DATABASE_URL": database.dsn()})
    ) as function:
        first, again = (function.invoke(OWN_ID[database.engine]) for _ in range(2))
        assert first.error is None
        assert first.answer == again.answer
        function.freeze()
        end_sessions(database, "app")
        thawed = function.invoke(OWN_ID[database.engine])
        assert (thawed.error, thawed.cold) == (None, False)
        assert thawed.answer != first.answer


def test_the_layer_holds_nothing_else(artifact: Build) -> None:
    """The reaper is not in the layer: as a handler it fails at init, each time in a new
    environment.
    """
    with Function(Code([artifact.client_layer.path], "reaper.handler.lambda_handler")) as function:
        for _ in range(2):
            done = function.invoke({})
            assert done.cold
            assert done.error is not None
            assert done.error["errorType"] == "Runtime.ImportModuleError"
            assert "No module named 'reaper.handler'" in done.error["errorMessage"]
