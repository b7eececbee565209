"""What AWS says of instances, clusters, proxies and who is connected: each answer to its last page,
in bounded time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

from reaper.client.deadline import Deadline, DeadlineExceeded

# An answer of AWS's, unchanged.
Facts = Mapping[str, Any]

# The shortest time without a connection after which Aurora Serverless pauses itself.
QUIET_MINUTES = 5
# The limit of one GetMetricData call.
_MOST_QUERIES = 500


class AwsRefused(Exception):
    """AWS gave no answer, or no time was left to wait for one; the message names the call."""


@dataclass(frozen=True)
class Proxy:
    """An RDS Proxy, and the instances and clusters that it stands in front of."""

    name: str
    vpc: str
    subnets: Sequence[str]
    behind: frozenset[str]


class Aws:
    """The questions that the discovery asks AWS, with the permissions of `role` where one is given.

    Each method raises AwsRefused where AWS gives no answer before the deadline.
    """

    def __init__(self, deadline: Deadline, role: str | None = None) -> None:
        self._deadline = deadline
        self._role = role
        self._clients: dict[str, Any] = {}

    def instances(self) -> list[Facts]:
        """Every DB instance of the account and region."""
        return list(self._pages("rds", "describe_db_instances", "DBInstances"))

    def clusters(self) -> list[Facts]:
        """Every DB cluster of the account and region."""
        return list(self._pages("rds", "describe_db_clusters", "DBClusters"))

    def proxies(self) -> list[Proxy]:
        """Every RDS Proxy of the account and region."""
        return [
            Proxy(
                found["DBProxyName"],
                found["VpcId"],
                found["VpcSubnetIds"],
                self._behind(found["DBProxyName"]),
            )
            for found in self._pages("rds", "describe_db_proxies", "DBProxies")
        ]

    def _behind(self, proxy: str) -> frozenset[str]:
        targets = list(
            self._pages("rds", "describe_db_proxy_targets", "Targets", DBProxyName=proxy)
        )
        return frozenset(
            found[key]
            for found in targets
            for key in ("RdsResourceId", "TrackedClusterId")
            if found.get(key)
        )

    def addresses(self, proxy: Proxy) -> list[str]:
        """The addresses from which a proxy connects: those of its network interfaces, since RDS
        itself does not say.
        """
        # AWS documents no description of these interfaces, but this one has been in use for years.
        # Should AWS append something, the pattern still matches.
        called = f"Network interface for DBProxy {proxy.name}*"
        filters = [
            {"Name": "description", "Values": [called]},
            {"Name": "vpc-id", "Values": [proxy.vpc]},
        ]
        found = []
        for interface in self._pages(
            "ec2", "describe_network_interfaces", "NetworkInterfaces", Filters=filters
        ):
            found += [own["PrivateIpAddress"] for own in interface.get("PrivateIpAddresses", [])]
            found += [own["Ipv6Address"] for own in interface.get("Ipv6Addresses", [])]
        return sorted(found)

    def networks(self, proxy: Proxy) -> list[str]:
        """The networks in which a proxy has its addresses."""
        found = []
        for subnet in self._pages("ec2", "describe_subnets", "Subnets", SubnetIds=proxy.subnets):
            found.append(subnet["CidrBlock"])
            found += [own["Ipv6CidrBlock"] for own in subnet.get("Ipv6CidrBlockAssociationSet", [])]
        return sorted(found)

    def in_company(self, instances: Sequence[str]) -> set[str]:
        """Those of the instances to which somebody was connected in each of the last minutes. The
        reaper's own login lasts a second, and so does not count.
        """
        now = datetime.now(UTC)
        found: set[str] = set()
        for start in range(0, len(instances), _MOST_QUERIES):
            some = instances[start : start + _MOST_QUERIES]
            answers = self._pages(
                "cloudwatch",
                "get_metric_data",
                "MetricDataResults",
                MetricDataQueries=[
                    _fewest_connections(f"m{place}", name) for place, name in enumerate(some)
                ],
                StartTime=now - timedelta(minutes=QUIET_MINUTES),
                EndTime=now,
            )
            fewest = {
                some[int(answer["Id"].removeprefix("m"))]: answer["Values"] for answer in answers
            }
            found |= {name for name, values in fewest.items() if values and min(values) > 0}
        return found

    def _pages(self, service: str, operation: str, key: str, **asked: Any) -> Iterator[Facts]:
        with _told_by_aws(operation):
            for page in self._client(service).get_paginator(operation).paginate(**asked):
                yield from page[key]

    def _client(self, service: str) -> Any:
        if service not in self._clients:
            client = self._session.client(service, config=_patience())
            # Checked before every attempt, so that botocore's retries end with the deadline, too.
            client.meta.events.register(
                "before-send", lambda **_: self._deadline.check("to ask AWS")
            )
            self._clients[service] = client
        return self._clients[service]

    @cached_property
    def _session(self) -> Any:
        """What makes clients: boto3 itself, or a session with the role's credentials."""
        # Importing boto3 takes half a second on a cold start, so this module imports it late.
        import boto3

        if self._role is None:
            return boto3
        sts = boto3.client("sts", config=_patience())
        lent = sts.assume_role(RoleArn=self._role, RoleSessionName="reaper-fleet")["Credentials"]
        return boto3.Session(lent["AccessKeyId"], lent["SecretAccessKey"], lent["SessionToken"])


def _patience() -> Any:
    """The time-outs and retries of one call. RDS throttles calls that describe a large fleet, and
    accepts them again a second or two later.
    """
    from botocore.config import Config

    return Config(
        connect_timeout=2, read_timeout=5, retries={"mode": "standard", "total_max_attempts": 6}
    )


@contextmanager
def _told_by_aws(what: str) -> Iterator[None]:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError, DeadlineExceeded) as problem:
        raise AwsRefused(f"{what}: {problem}") from None


def _fewest_connections(key: str, instance: str) -> dict[str, Any]:
    dimensions = [{"Name": "DBInstanceIdentifier", "Value": instance}]
    metric = {"Namespace": "AWS/RDS", "MetricName": "DatabaseConnections", "Dimensions": dimensions}
    return {"Id": key, "MetricStat": {"Metric": metric, "Period": 60, "Stat": "Minimum"}}
