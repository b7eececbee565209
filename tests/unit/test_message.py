"""What a message may bring along: a target as RDS names it, and nothing that sends a password or a
kill astray.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from lab.samples import messages
from reaper.client.fields import ConfigurationError
from reaper.client.target import Tls
from reaper.message import DiscoveredTarget, Notice
from reaper.request.events import BadMessage, QueuedSweep, SweepRequest, Trigger, parse
from reaper.rules import RulesPatch

TARGET = {
    "name": "shop-1",
    "id": "shop-1",
    "engine": "mysql",
    "host": "shop-1.abc123.eu-central-1.rds.amazonaws.com",
    "port": 3307,
    "user": "reaper",
    "auth": "iam",
}
RICH: dict[str, Any] = TARGET | {
    "auth": "secret",
    "secret": "reaper/shop",
    "rules": {"idle_seconds": 300, "protect_hosts": ["10.0.0.7"]},
    "notices": ["rds_proxy_protected"],
}


def message(body: dict[str, Any], received: str = "1") -> QueuedSweep | BadMessage:
    """The message as the event of a queue brings it."""
    sqs = {"messageId": "m", "eventSource": "aws:sqs", "body": json.dumps(body)}
    attributes = {"ApproximateReceiveCount": received}
    (found,) = messages({"Records": [sqs | {"attributes": attributes}]})
    return found


def good(body: dict[str, Any], received: str = "1") -> QueuedSweep:
    found = message(body, received)
    assert isinstance(found, QueuedSweep)
    return found


def problem(body: dict[str, Any]) -> str:
    """What is wrong with a bad message."""
    found = message(body)
    assert isinstance(found, BadMessage)
    return found.problem


@pytest.mark.parametrize("given", [TARGET, RICH])
def test_a_target_travels_whole(given: dict[str, Any]) -> None:
    """What the planner writes is what the sweep reads; its TLS is verified, and neither says by
    which certificates.
    """
    found = DiscoveredTarget.from_json(given)
    assert json.loads(json.dumps(found.to_json())) == given
    assert DiscoveredTarget.from_json(found.to_json()) == found
    assert (found.target.target.tls, found.target.target.ca) == (Tls.VERIFY, None)
    rules = {"dry_run": True, "idle_seconds": 60}
    asked = good({"target": given, "rules": rules, "trigger": "schedule"})
    assert asked.discovered == found
    assert asked.request == SweepRequest(Trigger.SCHEDULE, rules=RulesPatch.from_json(rules))
    assert asked.names == ("shop-1",)


@pytest.mark.parametrize(
    ("body", "names"),
    [({"targets": ["shop", "orders"]}, ("shop", "orders")), ({}, None), ({"kill": "all"}, None)],
)
def test_whom_a_message_without_a_target_names(
    body: dict[str, Any], names: tuple[str, ...] | None
) -> None:
    """Its targets, by name; all of them, or nobody for a bad one, is no name."""
    assert message(body).names == names


@pytest.mark.parametrize(
    "host",
    [
        "shop-1.abc123.eu-central-1.rds.amazonaws.com",
        "shop.a.us-gov-west-1.rds.amazonaws.com",
        "shop.a.ap-southeast-12.rds.amazonaws.com",
        "shop.abc123.rds.cn-north-1.amazonaws.com.cn",
        "shop.abc123.rds.cn-northwest-12.amazonaws.com.cn",
    ],
)
def test_an_instances_endpoint_is_one_in_every_partition(host: str) -> None:
    """GovCloud's regions have a word more, China's endpoints another order."""
    assert DiscoveredTarget.from_json(TARGET | {"host": host}).target.target.host == host


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"host": "evil.example.com"}, "no RDS instance's endpoint"),
        (
            {"host": "shop.abc123.eu-central-1.rds.amazonaws.com.evil.example"},
            "no RDS instance's endpoint",
        ),
        (
            {"host": "evil.example/shop.abc123.eu-central-1.rds.amazonaws.com"},
            "no RDS instance's endpoint",
        ),
        (
            {"host": "shop.cluster-abc123.eu-central-1.rds.amazonaws.com"},
            "no RDS instance's endpoint",
        ),
        (
            {"host": "shop.cluster-ro-abc123.eu-central-1.rds.amazonaws.com"},
            "no RDS instance's endpoint",
        ),
        (
            {"host": "shop.proxy-abc123.eu-central-1.rds.amazonaws.com"},
            "no RDS instance's endpoint",
        ),
        ({"host": "127.0.0.1"}, "no RDS instance's endpoint"),
        ({"host": "1shop.abc123.eu-central-1.rds.amazonaws.com"}, "no RDS instance's endpoint"),
        ({"host": "shop.abc123.rds.eu-central-1.amazonaws.com.cn"}, "no RDS instance's endpoint"),
        ({"host": None}, "host is '', which is no RDS instance's endpoint"),
        ({"tls": "off"}, "unknown key 'tls'"),
        ({"ca": "mine.pem"}, "unknown key 'ca'"),
        ({"password": "a-marked-word"}, "unknown key 'password' with value ***"),
        ({"auth": "password"}, "auth is 'password'; say iam or secret"),
        ({"auth": None}, "say iam or secret"),
        ({"rules": {"dry_run": False}}, "dry_run may not be set here; only the stack may set it"),
        ({"rules": {"allow_users": ["*"]}}, "allow_users may not be set here"),
        ({"rules": {"in_transaction": "terminate"}}, "in_transaction may not be set here"),
        ({"rules": {"idle_seconds": "now"}}, "idle_seconds is 'now'"),
        ({"notices": ["all is well"]}, "notices is ['all is well']"),
        ({"notices": [{}]}, "notices is [{}]"),
        ({"notices": {"rds_proxy_protected": 1}}, "notices is {'rds_proxy_protected': 1}"),
        ({"notices": 5}, "notices is 5"),
    ],
)
def test_a_forged_target_is_refused(change: dict[str, Any], said: str) -> None:
    """Whoever may write to the queue cannot have a login sent to a server of his own, nor in clear,
    nor take whom the stack would not; the message is a bad one, and says why.
    """
    found = problem({"target": TARGET | change})
    assert said in found
    assert "a-marked-word" not in found


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"target": TARGET, "targets": ["shop-1"]}, "target stands beside targets"),
        (
            {"target": TARGET, "rules": {"allow_users": ["*"]}},
            "message: rules: allow_users may not be set here",
        ),
        ({"target": "shop-1"}, "message: target is str, not an object"),
        ({"not_after": "soon"}, "not_after is 'soon'"),
        ({"not_after": True}, "not_after is True"),
    ],
)
def test_a_wrong_message_says_what_is_wrong(body: dict[str, Any], said: str) -> None:
    """What contradicts itself or is of a wrong kind is a bad message by its key and value."""
    assert said in problem(body)


@pytest.mark.parametrize("key", ["target", "not_after"])
def test_only_a_queues_message_brings_a_target(key: str) -> None:
    """An event by hand, by a schedule or an alarm means targets that the stack knows."""
    with pytest.raises(ConfigurationError, match=f"unknown key '{key}'"):
        parse({key: 1})


def test_a_message_that_waited_too_long_is_stale_unless_it_was_tried() -> None:
    """Behind it stands a newer one.

    One that failed before is tried again, and ends in the dead-letter queue.
    """
    body = {"targets": ["shop-1"], "not_after": 1000}
    assert [good(body).is_stale(now) for now in (999.0, 1000.0, 1001.0)] == [False, False, True]
    assert not good(body, received="2").is_stale(2000.0)
    assert not good({"targets": ["shop-1"]}).is_stale(1e12)


def test_the_notices() -> None:
    """What a message may have a report say."""
    assert [*Notice] == ["rds_proxy_protected", "rds_proxy_subnets_protected"]
