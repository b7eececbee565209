"""RDS as moto imitates it, filled with databases for the tests of the fleet, and made to refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ClientError
from botocore.loaders import Loader
from moto.core.botocore_stubber import MockRawResponse
from moto.rds.models import rds_backends

ACCOUNT, REGION = "123456789012", "eu-central-1"
ON = {"reaper": "on"}


_MODELS = Loader()


def know_the_services() -> None:
    """Have this test's session use the descriptions of AWS's services that an earlier one read,
    which takes long.
    """
    boto3._get_default_session()._session.register_component("data_loader", _MODELS)


def rds() -> Any:
    return boto3.client("rds")


def tags(given: dict[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in given.items()]


def instance(name: str, engine: str = "mysql", marks: dict[str, str] = ON, **more: Any) -> str:
    """A DB instance that takes IAM logins, tagged to be swept."""
    rds().create_db_instance(
        DBInstanceIdentifier=name,
        Engine=engine,
        DBInstanceClass=more.pop("DBInstanceClass", "db.t3.micro"),
        Tags=tags(marks),
        **(
            {}
            if "DBClusterIdentifier" in more
            else {"EnableIAMDatabaseAuthentication": True, **ALONE}
        )
        | more,
    )
    return name


ALONE = {"MasterUsername": "boss", "MasterUserPassword": "a-word-of-moto", "AllocatedStorage": 20}


def cluster(
    name: str,
    members: tuple[str, ...],
    engine: str = "aurora-mysql",
    marks: dict[str, str] = ON,
    **more: Any,
) -> None:
    """An Aurora cluster; the tags are its own, its instances have none."""
    if not more.get("ManageMasterUserPassword"):
        more["MasterUserPassword"] = ALONE["MasterUserPassword"]
    rds().create_db_cluster(
        DBClusterIdentifier=name,
        Engine=engine,
        MasterUsername="boss",
        EnableIAMDatabaseAuthentication=True,
        Tags=tags(marks),
        **more,
    )
    for member in members:
        instance(member, engine, {}, DBClusterIdentifier=name, DBInstanceClass="db.serverless")


def become(name: str, **facts: Any) -> None:
    """Change what RDS says of an instance, where moto has no way to bring that about."""
    for fact, value in facts.items():
        setattr(rds_backends[ACCOUNT][REGION].databases[name], fact, value)


def proxy(
    name: str, before: str, interfaces: int = 2, kind: str = "DBInstanceIdentifiers"
) -> tuple[list[str], list[str]]:
    """An RDS Proxy in front of an instance or cluster; its addresses, and its subnets' networks."""
    ec2 = boto3.client("ec2")
    subnets = ec2.describe_subnets()["Subnets"][:2]
    rds().create_db_proxy(
        DBProxyName=name,
        EngineFamily="MYSQL",
        Auth=[
            {
                "AuthScheme": "SECRETS",
                "SecretArn": "arn:aws:secretsmanager:eu-central-1:123456789012:secret:x",
            }
        ],
        RoleArn="arn:aws:iam::123456789012:role/proxy",
        VpcSubnetIds=[subnet["SubnetId"] for subnet in subnets],
    )
    rds().register_db_proxy_targets(DBProxyName=name, **{kind: [before]})
    made = [
        ec2.create_network_interface(
            SubnetId=subnets[place % 2]["SubnetId"],
            Description=f"Network interface for DBProxy {name}",
        )
        for place in range(interfaces)
    ]
    addresses = [found["NetworkInterface"]["PrivateIpAddress"] for found in made]
    return sorted(addresses), sorted(subnet["CidrBlock"] for subnet in subnets)


def refuse(operation: str, code: str = "AccessDenied") -> None:
    """Have every call of an operation, such as `rds.DescribeDBClusters`, end in an error that is
    final.
    """

    def refused(**_: Any) -> None:
        name = operation.rpartition(".")[2]
        raise ClientError({"Error": {"Code": code, "Message": "not you"}}, name or operation)

    boto3._get_default_session().events.register(f"before-call.{operation}", refused)


THROTTLED = (
    "<ErrorResponse><Error><Type>Sender</Type><Code>Throttling</Code><Message>Rate "
    "exceeded</Message></Error>"
    "<RequestId>1</RequestId></ErrorResponse>"
)


def throttle(operation: str, times: float, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Have RDS refuse that many attempts at an operation as too many; the waits that this costs,
    unslept.
    """
    waits: list[float] = []
    left = [times]

    def throttled(request: Any, **_: Any) -> AWSResponse | None:
        left[0] -= 1
        return (
            AWSResponse(request.url, 400, {}, MockRawResponse(THROTTLED)) if left[0] >= 0 else None
        )

    class Clock:
        sleep: Callable[[float], None] = waits.append

    monkeypatch.setattr("botocore.endpoint.time", Clock)
    boto3._get_default_session().events.register(f"before-send.{operation}", throttled)
    return waits


class Queue:
    """The fleet's queue and its dead-letter queue, as the template makes them."""

    def __init__(self, tries: int = 3, visibility: int = 360) -> None:
        sqs = boto3.client("sqs")
        fifo = {"FifoQueue": "true"}
        self.dead = sqs.create_queue(QueueName="dead.fifo", Attributes=fifo)["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=self.dead, AttributeNames=["QueueArn"])[
            "Attributes"
        ]["QueueArn"]
        redrive = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": tries})
        attributes = fifo | {"RedrivePolicy": redrive, "VisibilityTimeout": str(visibility)}
        self.url = sqs.create_queue(QueueName="fleet.fifo", Attributes=attributes)["QueueUrl"]

    def receive(self, url: str | None = None) -> list[dict[str, Any]]:
        """At most ten messages, which nobody else gets until they are deleted or released."""
        answer = boto3.client("sqs").receive_message(
            QueueUrl=url or self.url, MaxNumberOfMessages=10, MessageSystemAttributeNames=["All"]
        )
        return list(answer.get("Messages", []))

    def drained(self, url: str | None = None) -> list[dict[str, Any]]:
        """All messages, of each group those that are not behind another one."""
        found: list[dict[str, Any]] = []
        while more := self.receive(url):
            found += more
        return found

    def delete(self, messages: list[dict[str, Any]]) -> None:
        for message in messages:
            boto3.client("sqs").delete_message(
                QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"]
            )

    def release(self, messages: list[dict[str, Any]]) -> None:
        """What the visibility timeout does in the end."""
        for message in messages:
            boto3.client("sqs").change_message_visibility(
                QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=0
            )
