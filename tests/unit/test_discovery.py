"""What is found of RDS: every instance that was meant, with what its tags say, or a reason why
not.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import boto3
import pytest

from reaper.client.deadline import Deadline
from reaper.client.fields import ConfigurationError
from reaper.client.target import Auth, EngineName, Tls
from reaper.discovery import Discovery, Findings, Why, discover
from reaper.message import Notice
from reaper.rds import Aws
from tests.aws import Asked, aws
from tests.fleets import (
    ON,
    become,
    cluster,
    instance,
    know_the_services,
    proxy,
    rds,
    refuse,
    tags,
    throttle,
)

# The fixture, for pytest to find here
__all__ = ["aws"]

pytestmark = pytest.mark.usefixtures("aws")


@pytest.fixture(autouse=True)
def models(aws: Asked) -> None:
    know_the_services()


def found(wanted: Discovery | None = None, seconds: float = 60) -> Findings:
    wanted = wanted or Discovery()
    return discover(wanted, Aws(Deadline.after(seconds), wanted.role))


def names(findings: Findings) -> list[str]:
    return [one.target.name for one in findings.targets]


def skipped(findings: Findings) -> dict[str, str]:
    return {one.target: one.why for one in findings.skipped}


def rules(findings: Findings) -> dict[str, Any]:
    (one,) = findings.targets
    return dict(one.target.rules.overrides)


def test_a_large_fleet_is_found_whole(aws: Asked) -> None:
    """Of 250 tagged instances, over several pages and among others, each is found once, in an order
    that is the same every time and owes nothing to RDS's.
    """
    wanted = [f"shop-{place:03}" for place in range(250)]
    for name in reversed(wanted):
        instance(name, "postgres" if name.endswith("7") else "mysql", Port=3307)
    for place in range(5):
        instance(f"other-{place}", marks={"reaper": "off"} if place % 2 else {})
    aws.clear()
    findings = found()
    assert names(findings) == wanted
    assert (findings.skipped, findings.problems) == ((), ())
    assert aws["DescribeDBInstances"] >= 3
    assert found() == findings
    target = findings.targets[7].target
    assert (target.id, target.resource, target.target.engine) == (
        "shop-007",
        "shop-007",
        EngineName.POSTGRES,
    )
    assert target.target.host.startswith("shop-007.")
    assert (target.target.port, target.target.user, target.target.auth) == (
        3307,
        "reaper",
        Auth.IAM,
    )
    assert target.target.tls is Tls.VERIFY


def test_each_instance_of_a_cluster_is_a_target() -> None:
    """Writer and readers each have sessions of their own, and an endpoint; the cluster's endpoints
    are nobody's. A cluster's tags count for its instances, which may say otherwise.
    """
    cluster("shop", ("shop-writer", "shop-reader", "shop-private"))
    rds().add_tags_to_resource(
        ResourceName="arn:aws:rds:eu-central-1:123456789012:db:shop-private",
        Tags=tags({"reaper": "off"}),
    )
    cluster("tests", ("tests-1",), "aurora-postgresql", {})
    findings = found()
    assert names(findings) == ["shop-reader", "shop-writer"]
    assert all(one.target.target.host.startswith(f"{one.target.name}.") for one in findings.targets)
    assert all("cluster" not in one.target.target.host for one in findings.targets)
    assert findings.clusters == {"shop": {"shop-reader", "shop-writer"}}
    listed = found(Discovery(tag=None, ids=("tests", "shop-writer", "orders")))
    assert names(listed) == ["shop-writer", "tests-1"]
    assert listed.clusters == {"shop": {"shop-writer"}, "tests": {"tests-1"}}
    assert skipped(listed) == {"orders": Why.MISSING}


def test_only_those_of_the_networks_own() -> None:
    """With a VPC named, the others' databases are somebody else's, and not even mentioned."""
    (vpc,) = {subnet["VpcId"] for subnet in boto3.client("ec2").describe_subnets()["Subnets"]}
    subnets = [subnet["SubnetId"] for subnet in boto3.client("ec2").describe_subnets()["Subnets"]]
    rds().create_db_subnet_group(
        DBSubnetGroupName="here", DBSubnetGroupDescription="here", SubnetIds=subnets
    )
    instance("near", DBSubnetGroupName="here")
    instance("far")
    assert names(found(Discovery(vpc=vpc))) == ["near"]
    assert names(found(Discovery(vpc="vpc-elsewhere"))) == []
    assert found(Discovery(vpc="vpc-elsewhere")).skipped == ()


def pausing(name: str = "naps", marks: dict[str, str] = ON) -> None:
    cluster(
        name,
        (f"{name}-1",),
        marks=marks,
        ServerlessV2ScalingConfiguration={"MinCapacity": 0, "MaxCapacity": 4},
    )


# By instance: its tags or what else makes it so, the reason, and words that the sentence must hold.
SKIPS: dict[str, tuple[Callable[[str], Any], Why, str]] = {
    "sqlserver": (
        lambda name: instance(name, "sqlserver-ex", LicenseModel=PAID),
        Why.ENGINE,
        "sqlserver-ex is none of",
    ),
    "oracle": (
        lambda name: instance(name, "oracle-se2", LicenseModel=PAID),
        Why.ENGINE,
        "oracle-se2",
    ),
    "stopped": (
        lambda name: rds().stop_db_instance(DBInstanceIdentifier=instance(name)),
        Why.STATUS,
        "is stopped",
    ),
    "creating": (lambda name: become(instance(name), status="creating"), Why.STATUS, "is creating"),
    "broken": (
        lambda name: become(instance(name), status="incompatible-parameters"),
        Why.STATUS,
        "incompatible-",
    ),
    "allow": (
        lambda name: marked(name, allow_users="x"),
        Why.TAGS,
        "allow_users may not be set here; only the stack",
    ),
    "live": (
        lambda name: marked(name, dry_run="false"),
        Why.TAGS,
        "dry_run may not be set here; only the stack may",
    ),
    "dry": (lambda name: marked(name, dry_run="true"), Why.TAGS, "only the stack may set it"),
    "midway": (
        lambda name: marked(name, in_transaction="terminate"),
        Why.TAGS,
        "only the stack may set it",
    ),
    "sooner": (
        lambda name: marked(name, in_transaction_seconds="1"),
        Why.TAGS,
        "only the stack may set it",
    ),
    "undo": (
        lambda name: marked(name, max_rollback_rows="9"),
        Why.TAGS,
        "only the stack may set it",
    ),
    "typo": (lambda name: marked(name, idle_second="60"), Why.TAGS, "did you mean 'idle_seconds'"),
    "words": (
        lambda name: marked(name, idle_seconds="long"),
        Why.TAGS,
        "tag reaper:idle_seconds is 'long'; give",
    ),
    "empty": (
        lambda name: marked(name, protect_users=""),
        Why.TAGS,
        "tag reaper:protect_users is empty",
    ),
    "yes": (lambda name: marked(name, wake="yes"), Why.TAGS, "tag reaper:wake is 'yes'"),
    "closed": (
        lambda name: instance(name, EnableIAMDatabaseAuthentication=False),
        Why.LOGIN,
        "reaper:secret is missing",
    ),
    "master": (lambda name: marked(name, secret="master"), Why.LOGIN, "not allowed here"),
    "managed": (lambda name: marked(name, secret="rds!db-1"), Why.LOGIN, "not allowed here"),
    "naps-1": (lambda name: pausing("naps"), Why.ASLEEP, "tag reaper:wake=true"),
}
PAID = "license-included"


def marked(name: str, **settings: str) -> str:
    return instance(name, marks=ON | {f"reaper:{key}": value for key, value in settings.items()})


def test_what_is_skipped_says_why() -> None:
    """Each reason to leave out an instance that was meant, with a sentence; one's reason is nobody
    else's.
    """
    for name, (make, _, _) in SKIPS.items():
        make(name)
    instance("shop")
    become(instance("busy"), status="backing-up")
    findings = found()
    assert names(findings) == ["busy", "shop"]
    assert skipped(findings) == {name: why for name, (_, why, _) in sorted(SKIPS.items())}
    assert [one.target for one in findings.skipped] == sorted(SKIPS)
    for one in findings.skipped:
        assert SKIPS[one.target][2] in one.detail
    assert found() == findings


# What is refused, how the problem begins, who is swept all the same, and who is left out.
ALL = ("behind", "naps-1", "plain", "tagged")
REFUSED: list[tuple[str, str, list[str], dict[str, Why]]] = [
    ("rds.DescribeDBInstances", "describe_db_instances: ", [], {}),
    (
        "rds.DescribeDBClusters",
        "describe_db_clusters: ",
        ["behind", "plain"],
        {"tagged": Why.CLUSTER},
    ),
    ("rds.DescribeDBProxies", "describe_db_proxies: ", [], dict.fromkeys(ALL, Why.PROXY)),
    (
        "rds.DescribeDBProxyTargets",
        "describe_db_proxy_targets: ",
        [],
        dict.fromkeys(ALL, Why.PROXY),
    ),
    ("ec2", "describe_network_interfaces: ", ["naps-1", "plain", "tagged"], {"behind": Why.PROXY}),
]


@pytest.mark.parametrize(("operation", "begins", "swept", "left_out"), REFUSED)
def test_what_is_denied_is_a_problem_and_no_more(
    operation: str, begins: str, swept: list[str], left_out: dict[str, Why]
) -> None:
    """Where AWS refuses one operation the problem names it; who cannot be swept safely without is
    skipped, the others are not. Without a word on proxies nobody could tell a pool from frozen
    functions.
    """
    cluster("shop", ("tagged",), marks={})
    rds().add_tags_to_resource(
        ResourceName="arn:aws:rds:eu-central-1:123456789012:db:tagged", Tags=tags(ON)
    )
    pausing(marks=ON | {"reaper:wake": "true"})
    instance("plain")
    proxy("proxy", instance("behind"))
    refuse(operation)
    findings = found()
    assert (names(findings), skipped(findings)) == (swept, left_out)
    assert findings.problems[0].startswith(begins)
    assert "not you" in findings.problems[0]


def test_every_reason_is_tried() -> None:
    """In the tables above; and for those listed that are not there, and for names that are
    taken.
    """
    tried = {why for _, why, _ in SKIPS.values()} | {
        why for *_, left_out in REFUSED for why in left_out.values()
    }
    assert tried | {Why.MISSING, Why.NAME} == set(Why)


def test_tags_set_rules() -> None:
    """A tag is read as the environment variable of its rule is; RDS lets it hold no comma, so names
    stand apart by spaces.
    """
    instance(
        "shop",
        marks=ON
        | {"reaper:idle_seconds": "300", "reaper:protect_users": "billing  etl", "team": "x"},
    )
    assert rules(found()) == {"idle_seconds": 300, "protect_users": ("billing", "etl")}


@pytest.mark.parametrize(
    ("marks", "wanted", "login"),
    [
        ({}, Discovery(user="janitor"), ("janitor", Auth.IAM, None)),
        ({"reaper:secret": "reaper/shop"}, Discovery(), ("reaper", Auth.SECRET, "reaper/shop")),
        (
            {"reaper:secret": "master"},
            Discovery(master_secrets=True),
            ("boss", Auth.SECRET, "rds!cluster-"),
        ),
    ],
)
def test_logins(
    marks: dict[str, str], wanted: Discovery, login: tuple[str, Auth, str | None]
) -> None:
    """IAM unless a tag names a secret; the master user's, which with Aurora is the cluster's, only
    where allowed.
    """
    cluster("shop", ("shop-1",), marks=ON | marks, ManageMasterUserPassword=True)
    (one,) = found(wanted).targets
    target = one.target.target
    user, auth, secret = login
    assert (target.user, target.auth) == (user, auth)
    assert (secret or "") in (target.secret or "")


@pytest.mark.parametrize(
    ("connections", "is_swept"), [([3, 2, 2, 2], True), ([0, 0, 1, 0], False), ([], False)], ids=str
)
def test_who_sleeps_is_left_asleep(connections: list[float], is_swept: bool) -> None:
    """An Aurora Serverless that pauses itself is swept only while somebody else keeps it awake,
    frozen functions above all; the reaper's own login, which lasts a second, is nobody.
    """
    pausing()
    cloudwatch = boto3.client("cloudwatch")
    now = datetime.datetime.now(datetime.UTC)
    for minutes, value in enumerate(connections, start=1):
        datum = {
            "MetricName": "DatabaseConnections",
            "Dimensions": [{"Name": "DBInstanceIdentifier", "Value": "naps-1"}],
            "Timestamp": now - datetime.timedelta(minutes=minutes),
            "Value": value,
        }
        cloudwatch.put_metric_data(Namespace="AWS/RDS", MetricData=[datum])
    findings = found()
    assert names(findings) == (["naps-1"] if is_swept else [])
    assert skipped(findings) == ({} if is_swept else {"naps-1": Why.ASLEEP})


def test_who_may_be_woken_is_not_asked_about(aws: Asked) -> None:
    """The tag says so; CloudWatch is asked for nobody else's sake."""
    pausing(marks=ON | {"reaper:wake": "true"})
    instance("shop")
    aws.clear()
    assert names(found()) == ["naps-1", "shop"]
    assert not aws["GetMetricData"]


@pytest.mark.parametrize("kind", ["DBInstanceIdentifiers", "DBClusterIdentifiers"])
def test_a_proxys_pool_is_protected(kind: str) -> None:
    """From the addresses of a proxy in front of a target, or of its cluster, nobody is terminated,
    beside those whom a tag protects, and the report is to say so. Other targets have nothing of it.
    """
    cluster("shop", ("shop-1",), marks=ON | {"reaper:protect_hosts": "10.9.8.7"})
    instance("zoo")
    addresses, _ = proxy(
        "shop-proxy", "shop-1" if kind == "DBInstanceIdentifiers" else "shop", kind=kind
    )
    shop, zoo = found().targets
    assert dict(shop.target.rules.overrides)["protect_hosts"] == ("10.9.8.7", *addresses)
    assert shop.notices == (Notice.PROXY,)
    assert (zoo.target.rules.names, zoo.notices) == ((), ())


def test_a_proxy_without_addresses_has_its_networks_protected() -> None:
    """Where its interfaces are not to be found, all of its subnets are safe: too many rather than
    too few.
    """
    _, networks = proxy("shop-proxy", instance("shop"), interfaces=0)
    (one,) = found().targets
    assert dict(one.target.rules.overrides)["protect_hosts"] == tuple(networks)
    assert one.notices == (Notice.PROXY_SUBNETS,)


def test_throttling_is_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """RDS refuses some attempts as too many: they are made again, later each time, and nothing is
    missing.
    """
    for place in range(20):
        instance(f"shop-{place:03}")
    waits = throttle("rds.DescribeDBInstances", 3, monkeypatch)
    findings = found()
    assert (len(findings.targets), findings.problems) == (20, ())
    assert len(waits) == 3


@pytest.mark.parametrize(
    "operation", ["DescribeDBInstances", "DescribeDBClusters", "DescribeDBProxies"]
)
def test_throttling_without_end_has_one(operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operation that stays throttled is given up; it is a problem by name, and what others told
    stands.
    """
    instance("shop")
    waits = throttle(f"rds.{operation}", float("inf"), monkeypatch)
    findings = found()
    (problem,) = findings.problems
    assert "Rate exceeded" in problem
    assert operation in problem
    assert len(waits) == 5
    assert names(findings) == (["shop"] if operation == "DescribeDBClusters" else [])


def test_no_attempt_is_made_after_the_deadline(aws: Asked) -> None:
    """A search without time left asks nothing, and says that."""
    instance("shop")
    findings = found(seconds=0)
    assert names(findings) == []
    assert findings.problems
    assert all("no time left" in problem for problem in findings.problems)


def test_another_accounts_databases_are_looked_for_in_a_role(aws: Asked) -> None:
    """The role is assumed once; an IAM login would be refused over there, so a secret must be
    named.
    """
    instance(
        "shop",
        marks=ON
        | {"reaper:secret": "arn:aws:secretsmanager:eu-central-1:111122223333:secret:shop-AbCdEf"},
    )
    instance("zoo")
    wanted = Discovery(role="arn:aws:iam::123456789012:role/reaper-discovery")
    findings = found(wanted)
    assert names(findings) == ["shop"]
    assert skipped(findings) == {"zoo": Why.LOGIN}
    assert aws["AssumeRole"] == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("{", "not JSON"),
        ("[]", "list, not an object"),
        ('{"tags": "a=b"}', "unknown key 'tags'"),
        ('{"tag": "reaper"}', "tag is 'reaper'; write key=value"),
        ('{"tag": "reaper:on=x"}', "is a setting"),
        ('{"tag": ""}', "neither a tag nor ids"),
        ('{"ids": "shop"}', "ids is 'shop'"),
        ('{"master_secrets": "yes"}', "master_secrets is 'yes'"),
        ('{"user": 7}', "user is 7"),
    ],
)
def test_a_wrong_discovery_says_what_is_wrong(given: str, said: str) -> None:
    """Each mistake in REAPER_DISCOVER by its key and value, before AWS is asked."""
    with pytest.raises(ConfigurationError) as raised:
        Discovery.from_json(given, "REAPER_DISCOVER")
    assert said in str(raised.value)


def test_a_discovery_by_default() -> None:
    """Without a word it is the tag reaper=on; what the template leaves empty is as good as left
    out.
    """
    assert Discovery.from_json("{}", "x") == Discovery(tag=("reaper", "on"))
    empty = '"tag": "", "vpc": "", "role": ""'
    given = f'{{{empty}, "ids": ["a"], "user": "reaper", "master_secrets": false}}'
    assert Discovery.from_json(given, "x") == Discovery(tag=None, ids=("a",))
