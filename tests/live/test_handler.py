"""The function as Lambda runs it: events in, reports, log lines and metrics out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lab.servers import Server, Sessions, free_port
from lab.targets import target
from reaper.client.fields import ConfigurationError
from reaper.handler import AllSweepsFailed
from tests.harness import Lambda, settle

EVENTS = Path(__file__).parents[2] / "events"


def event(name: str) -> Any:
    return json.loads((EVENTS / name).read_text())


def nowhere(name: str = "nowhere") -> dict[str, Any]:
    """A target at a port that nobody listens on."""
    return {
        "name": name,
        "engine": "mysql",
        "host": "127.0.0.1",
        "port": free_port(),
        "user": "reaper",
    }


def test_one_unreachable_target_does_not_spare_the_other(
    server: Server, sessions: Sessions, function: Lambda
) -> None:
    """Of two targets one unreachable: the other is swept, the report and the metrics carry both,
    nothing is raised.
    """
    clients = sessions.sleeping(3)
    settle(server)
    function.configure(nowhere(), target(server), REAPER_DRY_RUN="false")
    answer = function.invoke({"rules": {"idle_seconds": 0}})
    lost, swept = answer["targets"]
    assert lost["error"]["kind"] == "unreachable"
    assert swept["outcomes"] == {"terminated": 3}
    assert not any(client.alive() for client in clients)
    assert function.metrics["nowhere"]["SweepFailed"] == 1
    assert "SessionsTotal" not in function.metrics["nowhere"]
    assert function.metrics[server.name]["SweepFailed"] == 0
    assert function.metrics[server.name]["Terminated"] == 3


def test_all_unreachable_raises_after_telling(function: Lambda) -> None:
    """Where no target could be swept the handler raises, with the metrics flushed and the reports
    logged.
    """
    function.configure(nowhere("orders"), nowhere("stock"))
    with pytest.raises(AllSweepsFailed, match=r"orders: unreachable: .*stock: unreachable"):
        function.invoke({})
    assert {name: found["SweepFailed"] for name, found in function.metrics.items()} == {
        "orders": 1,
        "stock": 1,
    }
    assert [line["target"] for line in function.logged("sweep")] == ["orders", "stock"]


def test_a_bad_message_is_returned_and_the_others_are_swept(
    server: Server, sessions: Sessions, function: Lambda
) -> None:
    """Of an SQS batch the bad records and the failed ones are in batchItemFailures; the others are
    swept.
    """
    sessions.sleeping(2)
    settle(server, sees_fractions=False)
    function.configure(target(server), nowhere(), REAPER_DRY_RUN="false")
    bodies = [
        json.dumps(
            {"targets": [server.name], "rules": {"idle_seconds": 0, "in_transaction": "spare"}}
        ),
        '{"dryrun": true}',
        json.dumps({"targets": ["nowhere"]}),
        json.dumps({"targets": ["unknown"]}),
        "no JSON",
    ]
    records = [
        {"messageId": str(place), "eventSource": "aws:sqs", "body": body}
        for place, body in enumerate(bodies)
    ]
    answer = function.invoke({"Records": records})
    failed = {item["itemIdentifier"] for item in answer["batchItemFailures"]}
    assert failed == {"1", "2", "3", "4"}
    assert answer["trigger"] == "queue"
    swept, lost = answer["targets"]
    assert swept["error"] is None
    assert swept["zombies"] + swept["spared"].get("unconfirmed", 0) == 2
    assert lost["error"]["kind"] == "unreachable"
    assert {line["message_id"] for line in function.logged("bad message")} == {"1", "3", "4"}


def test_every_line_says_which_request_it_is_of(servers: Any, function: Lambda) -> None:
    """Its id, who asked, and the target where there is one; the next invocation has its own."""
    server = servers["postgres16"]
    function.configure(
        target(server, name="orders"), REAPER_DRY_RUN="false", REAPER_IDLE_SECONDS="0"
    )
    with Sessions(server) as sessions:
        sessions.sleeping(1)
        function.invoke({"trigger": "schedule"})
    bodies = [{"targets": ["orders"], "trigger": "alarm"}, {"targets": ["ordres"]}, {"kill": 1}]
    stale = {"targets": ["orders"], "not_after": 1}
    records = [
        {"messageId": str(place), "eventSource": "aws:sqs", "body": json.dumps(body)}
        for place, body in enumerate([*bodies, stale])
    ]
    function.invoke({"Records": records})
    function.invoke({"advise": True})
    assert [
        (line["message"], line["request_id"], line["trigger"], line.get("target"))
        for line in function.log
    ] == [
        ("session", "request-1", "schedule", "orders"),
        ("sweep", "request-1", "schedule", "orders"),
        ("stale message", "request-2", "queue", "orders"),
        ("bad message", "request-2", "queue", "ordres"),
        ("bad message", "request-2", "queue", None),
        ("sweep", "request-2", "alarm", "orders"),
        ("advice", "request-3", "manual", "orders"),
    ]


@pytest.mark.parametrize("body", [{}, {"not_after": 1}], ids=["unknown", "stale"])
def test_a_dsn_taken_for_a_targets_name_is_logged_without_its_password(
    function: Lambda, body: dict[str, Any]
) -> None:
    """A message's names are not checked before they are logged."""
    function.configure(nowhere())
    named = body | {"targets": ["mysql://app:hunter2@db.internal/shop"]}
    record = {"messageId": "m", "eventSource": "aws:sqs", "body": json.dumps(named)}
    function.invoke({"Records": [record]})
    (line,) = function.log
    assert line["target"] == "mysql://app:***@db.internal/shop"
    assert "hunter2" not in json.dumps(line)


BAD_EVENTS = [
    ({"dryrun": False}, "'dryrun' with value False; did you mean 'dry_run'"),
    ({"targets": ["ordres"]}, "'ordres'"),
    ({"targets": "orders"}, "'orders'"),
    ({"rules": {"idle_secs": 1}}, "'idle_secs' with value 1; did you mean 'idle_seconds'"),
    ({"rules": {"idle_seconds": "60"}}, "idle_seconds is '60'"),
    ({"rules": {"idle_seconds": -1}}, "idle_seconds is -1"),
    ({"rules": {"idle_seconds": float("nan")}}, "idle_seconds is nan"),
    ({"rules": {"max_kills": True}}, "max_kills is True"),
    ({"rules": []}, "list"),
    ({"dry_run": "false"}, "dry_run is 'false'"),
    ([], "event is []"),
    ("sweep", "event is 'sweep'"),
    (None, "event is None"),
    (7, "event is 7"),
]


@pytest.mark.parametrize(("bad", "said"), BAD_EVENTS)
def test_bad_events_touch_nothing(servers: Any, function: Lambda, bad: Any, said: str) -> None:
    """An event that is not understood is one clear line naming the key and the value, and nobody is
    terminated.
    """
    server = servers["postgres16"]
    with Sessions(server) as sessions:
        (client,) = sessions.sleeping(1)
        function.configure(
            target(server, name="orders"), REAPER_DRY_RUN="false", REAPER_IDLE_SECONDS="0"
        )
        with pytest.raises(ConfigurationError) as raised:
            function.invoke(bad)
        assert said in str(raised.value)
        assert len(str(raised.value).splitlines()) == 1
        assert client.alive()
        assert function.lines == []


@pytest.mark.parametrize("name", sorted(path.name for path in EVENTS.glob("*.json")))
def test_every_sample_event_is_answered(servers: Any, function: Lambda, name: str) -> None:
    """Each file in events/ goes through the handler of a stack that is dry by default, and is swept
    or waved off.
    """
    server = servers["postgres16"]
    function.configure(target(server, name="orders", id="orders"))
    if name == "manual-kill.json":
        with pytest.raises(ConfigurationError, match="REAPER_DRY_RUN"):
            function.invoke(event(name))
        return
    answer = function.invoke(event(name))
    if name == "advise.json":
        assert [advice["error"] for advice in answer["advice"]] == [None]
        return
    assert answer["dry_run"] is True
    assert all(report["error"] is None for report in answer["targets"])
    assert bool(answer["targets"]) == (name != "alarm-ok.json")


def test_manual_kill_needs_the_stack_to_allow_it(servers: Any, function: Lambda) -> None:
    """With REAPER_MANUAL_KILL a manual event with dry_run false kills on a dry stack; a schedule
    stays dry.
    """
    server = servers["postgres16"]
    with Sessions(server) as sessions:
        (client,) = sessions.sleeping(1)
        function.configure(target(server), REAPER_MANUAL_KILL="true", REAPER_IDLE_SECONDS="0")
        (scheduled,) = function.invoke(event("schedule-input.json"))["targets"]
        assert scheduled["outcomes"] == {"would_terminate": 1}
        assert client.alive()
        (manual,) = function.invoke(event("manual-kill.json"))["targets"]
        assert manual["outcomes"] == {"terminated": 1}


def test_more_targets_than_threads_are_all_swept(servers: Any, function: Lambda) -> None:
    """Targets beyond those swept side by side wait their turn, each with its share of the time."""
    server = servers["postgres16"]
    names = [f"shop-{number}" for number in range(20)]
    function.configure(*(target(server, name=name) for name in names))
    answer = function.invoke({})
    assert [report["target"] for report in answer["targets"]] == names
    assert [report["error"] for report in answer["targets"]] == [None] * 20


def test_a_silent_server_costs_no_more_than_its_share(
    servers: Any, function: Lambda, silent_port: int
) -> None:
    """A target that accepts and never answers ends at the deadline with an error; the other is
    swept.
    """
    server = servers["postgres16"]
    silent = nowhere("silent") | {"port": silent_port}
    function.configure(silent, silent | {"name": "mute", "engine": "postgres"}, target(server))
    reports = function.invoke({}, seconds=5)["targets"]
    assert [report["error"] and report["error"]["kind"] for report in reports] == [
        "unreachable",
        "unreachable",
        None,
    ]
    assert all(report["duration_seconds"] < 5 * 5 for report in reports)
