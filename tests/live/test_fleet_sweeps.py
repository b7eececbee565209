"""What the reaper does with the messages of a fleet's queue, on real servers."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from lab.servers import Server, Sessions
from lab.servers.secure import Front, authority
from lab.targets import target
from reaper import running
from tests.aws import Asked, aws
from tests.conftest import Servers
from tests.harness import Lambda, settle

# The fixture, for pytest to find here
__all__ = ["aws"]

HOST = "shop-1.abc123.eu-central-1.rds.amazonaws.com"


def batch(*bodies: dict[str, Any], received: str = "1") -> dict[str, Any]:
    """The event that brings these messages, by place."""
    records = [
        {
            "messageId": str(place),
            "eventSource": "aws:sqs",
            "body": json.dumps(body),
            "attributes": {"ApproximateReceiveCount": received},
        }
        for place, body in enumerate(bodies)
    ]
    return {"Records": records}


def tallies(function: Lambda) -> list[dict[str, float]]:
    """What was told of the fleet: the documents without a target."""
    documents = [line for line in function.lines if "_aws" in line and "Target" not in line]
    return [
        {name: line[name][0] for name in line if name.startswith("Targets")} for line in documents
    ]


class Shop:
    """A PostgreSQL behind the name and the certificate that RDS would have given it."""

    def __init__(self, server: Server) -> None:
        mine = authority("rds")
        self.server = server
        self.ca: Path = mine.ca
        self.port = Front(server, *mine.certificate(HOST)).port

    def message(self, **more: Any) -> dict[str, Any]:
        said = {
            "name": "shop-1",
            "id": "shop-1",
            "engine": "postgres",
            "host": HOST,
            "port": self.port,
        }
        return {"target": said | {"user": "reaper", "auth": "iam"} | more.pop("target", {}), **more}


@pytest.fixture
def shop(servers: Servers, function: Lambda, aws: Asked, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A live stack that lists no targets; the name leads here, as the VPC's resolver leads to the
    instance.
    """
    look_up = socket.getaddrinfo

    def resolve(host: Any, *args: Any, **more: Any) -> Any:
        return look_up("127.0.0.1" if host == HOST else host, *args, **more)

    found = Shop(servers["postgres16"])
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    function.configure(REAPER_CA=str(found.ca), REAPER_DRY_RUN="false", REAPER_IDLE_SECONDS="0")
    monkeypatch.delenv("REAPER_TARGETS")
    return found


def test_a_target_that_came_with_its_message_is_swept(shop: Shop, function: Lambda) -> None:
    """Logged in with IAM, over TLS that is verified for RDS's name; its rules go over the stack's,
    and no seat is kept.
    """
    with Sessions(shop.server) as sessions:
        (idle,) = sessions.sleeping(1)
        (mine,) = sessions.sleeping(1, user="other")
        answer = function.invoke(
            batch(shop.message(target={"rules": {"protect_users": ["other"]}}))
        )
        (report,) = answer["targets"]
        assert (report["error"], report["outcomes"]) == (None, {"terminated": 1})
        assert (idle.alive(), mine.alive()) == (False, True)
    assert answer["batchItemFailures"] == []
    assert function.metrics["shop-1"]["Terminated"] == 1
    assert tallies(function) == []
    assert not running.SEATS
    assert not running.IDLE_HISTORIES


def test_a_proxys_sessions_are_spared_and_the_report_says_so(
    shop: Shop, function: Lambda, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody who comes from the proxy's addresses is terminated, whomever the stack protects
    beside.
    """
    rules = {"protect_hosts": ["127.0.0.1"]}
    monkeypatch.setenv("REAPER_PROTECT_HOSTS", "10.0.0.0/16")
    with Sessions(shop.server) as sessions:
        (pooled,) = sessions.sleeping(1)
        message = shop.message(target={"rules": rules, "notices": ["rds_proxy_protected"]})
        (report,) = function.invoke(batch(message))["targets"]
        assert pooled.alive()
    assert report["spared"]["protected"] == 1
    assert report["warnings"] == ["rds_proxy_protected"]


@pytest.mark.parametrize("message", [{"dry_run": True}, {"rules": {"dry_run": True}}], ids=str)
def test_a_dry_message_spares_all_on_a_live_stack(
    shop: Shop, function: Lambda, message: dict[str, Any]
) -> None:
    """The planner's dry run arrives; the other way round nothing travels that could kill."""
    with Sessions(shop.server) as sessions:
        (idle,) = sessions.sleeping(1)
        (report,) = function.invoke(batch(shop.message(**message)))["targets"]
        assert idle.alive()
    assert (report["dry_run"], report["outcomes"]) == (True, {"would_terminate": 1})


def test_another_certificate_is_not_believed(
    shop: Shop, function: Lambda, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the stack trusts other certificates the login is never sent, and the message goes back
    to the queue.
    """
    monkeypatch.setenv("REAPER_CA", str(authority().ca))
    answer = function.invoke(batch(shop.message()))
    assert answer["targets"][0]["error"]["kind"] == "configuration"
    assert answer["batchItemFailures"] == [{"itemIdentifier": "0"}]
    assert tallies(function) == [{"TargetsFailed": 1, "TargetsSkipped": 0}]


def test_what_a_stale_message_asks_for_is_not_done(shop: Shop, function: Lambda) -> None:
    """It is taken off the queue, logged and counted; one that was tried before is tried again
    however old.
    """
    old = shop.message(not_after=time.time() - 1)
    with Sessions(shop.server) as sessions:
        (idle,) = sessions.sleeping(1)
        answer = function.invoke(batch(old))
        assert (answer["targets"], answer["batchItemFailures"]) == ([], [])
        assert idle.alive()
        assert [line["targets"] for line in function.logged("stale message")] == [["shop-1"]]
        assert tallies(function) == [{"TargetsFailed": 0, "TargetsSkipped": 1}]
        function.invoke(batch(old, received="2"))
        assert not idle.alive()


def test_two_messages_for_one_target_are_swept_in_turn(servers: Servers, function: Lambda) -> None:
    """Side by side the second would find the server locked, and report that it was busy."""
    server = servers["postgres16"]
    targets = target(server, name="shop"), target(server, name="zoo", database="postgres")
    function.configure(*targets, REAPER_DRY_RUN="false", REAPER_IDLE_SECONDS="3600")
    bodies = [{"targets": [name]} for name in ("shop", "shop", "zoo", "shop")]
    answer = function.invoke(batch(*bodies))
    assert [report["target"] for report in answer["targets"]] == ["shop", "shop", "zoo", "shop"]
    assert [report["error"] for report in answer["targets"]] == [None] * 4


def test_a_listed_target_without_a_list_is_a_bad_message(shop: Shop, function: Lambda) -> None:
    """One message's trouble: the others are swept."""
    answer = function.invoke(batch({"targets": ["orders"]}, shop.message()))
    assert answer["batchItemFailures"] == [{"itemIdentifier": "0"}]
    assert [report["target"] for report in answer["targets"]] == ["shop-1"]
    (line,) = function.logged("bad message")
    assert "no targets" in line["problem"]


def test_a_message_does_not_wait_for_a_second_sweep(servers: Servers, function: Lambda) -> None:
    """Where MySQL does not tell how long a session has slept, a sweep from the queue looks twice:
    the next message will meet another environment, which has seen nobody.
    """
    server = servers["mysql_nops"]
    function.configure(target(server), REAPER_DRY_RUN="false", REAPER_IDLE_SECONDS="0")
    with Sessions(server) as sessions:
        clients = sessions.sleeping(2)
        settle(server)
        (report,) = function.invoke(batch({"targets": [server.name], "trigger": "schedule"}))[
            "targets"
        ]
        assert report["outcomes"] == {"terminated": 2}
        assert not any(client.alive() for client in clients)
