"""A fleet, as it was built: the planner fills SQS, environments side by side empty it into real
servers.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import boto3
import pytest

from lab.amazon import Amazon
from lab.artifact import Build
from lab.cloudformation import Stack, environ_of
from lab.lambdas import Code, Function, Invocation
from lab.servers import Client, Server, Sessions, free_port
from lab.targets import target
from tests.aws import Asked, aws
from tests.conftest import Servers, names
from tests.fleets import Queue, instance, know_the_services, rds
from tests.harness import settle

from .emf import extracted

# The fixture, for pytest to find here
__all__ = ["aws"]

SWEPT, BROKEN = 48, 2
TRIES = 3
ENVIRONMENTS = 2


@dataclass
class Mapping:
    """Lambda's event source mapping: batches from the queue to functions, each message deleted
    unless it failed.
    """

    queue: Queue
    amazon: Amazon
    # The groups of which a message is being swept
    out: set[str] = field(default_factory=set)
    # By message
    tries: Counter[str] = field(default_factory=Counter)
    # By target
    deleted: Counter[str] = field(default_factory=Counter)
    done: list[Invocation] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, function: Function) -> None:
        while self.is_filled():
            if batch := self.next_batch():
                self.hand_over(batch, function)
            else:
                time.sleep(0.05)

    def is_filled(self) -> bool:
        counts = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        with self.amazon.lock:
            found = boto3.client("sqs").get_queue_attributes(
                QueueUrl=self.queue.url, AttributeNames=counts
            )
        return any(int(found["Attributes"][name]) for name in counts)

    def next_batch(self) -> list[dict[str, Any]]:
        with self.lock:
            with self.amazon.lock:
                batch = self.queue.receive()
            groups = {message["Attributes"]["MessageGroupId"] for message in batch}
            assert not groups & self.out, "a target is swept twice at once"
            self.out |= groups
            self.tries.update(message["MessageId"] for message in batch)
            return batch

    def hand_over(self, batch: list[dict[str, Any]], function: Function) -> None:
        invocation = function.invoke({"Records": [record(message) for message in batch]})
        assert invocation.error is None, invocation.error
        failed = {item["itemIdentifier"] for item in invocation.answer["batchItemFailures"]}
        good = [message for message in batch if message["MessageId"] not in failed]
        with self.lock, self.amazon.lock:
            self.done.append(invocation)
            self.out -= {message["Attributes"]["MessageGroupId"] for message in batch}
            self.deleted.update(asked_for(message) for message in good)
            self.queue.delete(good)
            self.queue.release([message for message in batch if message not in good])


def record(message: dict[str, Any]) -> dict[str, Any]:
    """A message of SQS's as Lambda hands it to a function."""
    return {
        "messageId": message["MessageId"],
        "receiptHandle": message["ReceiptHandle"],
        "body": message["Body"],
        "attributes": message["Attributes"],
        "eventSource": "aws:sqs",
        "eventSourceARN": "arn:aws:sqs:eu-central-1:123456789012:fleet.fifo",
        "awsRegion": "eu-central-1",
    }


def asked_for(message: dict[str, Any]) -> str:
    (name,) = json.loads(message["Body"])["targets"]
    return str(name)


class Shops:
    """Databases on the test servers, one for each target, with a frozen function's session in
    each.
    """

    def __init__(self, servers: Servers, number: int) -> None:
        self.opened = ExitStack()
        self.targets: list[dict[str, Any]] = []
        self.zombies: list[Client] = []
        # A sweep locks its server for others; on PostgreSQL, where locks are a database's, only for
        # those of the same.
        single, *several = (servers[name] for name in (names("mysql")[0], *names("postgres")))
        self._sessions = {
            server.name: self.opened.enter_context(Sessions(server))
            for server in (single, *several)
        }
        self._add(single, "shop")
        for place in range(number - 1):
            server = several[place % len(several)]
            self._make(server, name := f"fleet_{place}")
            self._add(server, name)
        self.innocent = [
            client for server in several for client in self._sessions[server.name].sleeping(1)
        ]
        settle(single)

    def _make(self, server: Server, name: str) -> None:
        server.query(f"CREATE DATABASE {name}")
        self.opened.callback(server.query, f"DROP DATABASE {name} WITH (FORCE)")

    def _add(self, server: Server, database: str) -> None:
        own = {"database": database} if server.engine == "postgres" else {}
        rules = {"allow_databases": [database], "idle_seconds": 0}
        self.targets.append(target(server, name=f"shop-{len(self.targets):02}", rules=rules, **own))
        self.zombies += self._sessions[server.name].sleeping(1, database=database)

    def __enter__(self) -> Shops:
        return self

    def __exit__(self, *exc: object) -> None:
        for sessions in self._sessions.values():
            sessions.close()
        self.opened.close()


@pytest.fixture
def amazon(aws: Asked) -> Iterator[Amazon]:
    know_the_services()
    with Amazon() as service:
        yield service


def test_fifty_databases_from_the_queue(artifact: Build, servers: Servers, amazon: Amazon) -> None:
    """Of fifty targets two are broken.

    Two schedules' worth of messages: each of the other 48 is swept twice and never at once, its
    zombie is gone and nobody else; those of the two are tried three times each and end in the
    dead-letter queue; none is lost, and whatever failed is in the metrics of its target and of the
    fleet.
    """
    queue = Queue(tries=TRIES)
    rds().stop_db_instance(DBInstanceIdentifier=instance("asleep"))
    with Shops(servers, SWEPT) as shops, ExitStack() as running:
        postgres = servers[names("postgres")[0]]
        broken = [
            target(postgres, name="gone", port=free_port()),
            target(postgres, user="nobody", name="barred"),
        ]
        stack = Stack(
            {"Fleet": "true", "Targets": json.dumps([*shops.targets, *broken]), "DryRun": "false"}
        )
        planner, *reapers = (
            running.enter_context(
                Function(Code([artifact.function.path], function["Handler"], environ))
            )
            for function, environ in (
                (
                    stack.planner,
                    environ_of(stack.planner) | amazon.environ | {"REAPER_QUEUE_URL": queue.url},
                ),
                *[(stack.function, stack.environ)] * ENVIRONMENTS,
            )
        )
        expected = sorted(one["name"] for one in (*shops.targets, *broken))
        plans = [planner.invoke({"trigger": "schedule"}) for _ in range(2)]
        for plan in plans:
            assert plan.error is None, plan.error
            assert plan.answer["targets"] == expected
            assert [one["target"] for one in plan.answer["skipped"]] == ["asleep"]
            assert summary(plan) == {"Targets": 50, "TargetsFailed": 0, "TargetsSkipped": 1}

        mapping = Mapping(queue, amazon)
        with ThreadPoolExecutor(ENVIRONMENTS) as pool:
            list(pool.map(mapping.run, reapers))

        reports = [report for done in mapping.done for report in done.answer["targets"]]
        good = Counter(report["target"] for report in reports if report["error"] is None)
        assert good == Counter({one["name"]: 2 for one in shops.targets})
        assert mapping.deleted == good
        assert sum(report["outcomes"].get("terminated", 0) for report in reports) == SWEPT
        assert not any(zombie.alive() for zombie in shops.zombies)
        assert all(client.alive() for client in shops.innocent)

        errors = Counter(
            (report["target"], report["error"]["kind"]) for report in reports if report["error"]
        )
        assert errors == Counter(
            {("gone", "unreachable"): 2 * TRIES, ("barred", "credentials"): 2 * TRIES}
        )
        dead = queue.drained(queue.dead)
        assert sorted(map(asked_for, dead)) == ["barred", "barred", "gone", "gone"]
        assert {mapping.tries[message["MessageId"]] for message in dead} == {TRIES}
        assert len(mapping.tries) == len(dead) + mapping.deleted.total() == 100

        told = [
            document for done in mapping.done for document in done.metrics if "Target" in document
        ]
        failures = Counter(
            document["Target"] for document in told if document["SweepFailed"] == [1.0]
        )
        assert failures == Counter({"gone": 2 * TRIES, "barred": 2 * TRIES})
        assert (
            sum(summary(done).get("TargetsFailed", 0) for done in mapping.done)
            == BROKEN * 2 * TRIES
        )


def summary(done: Invocation) -> dict[str, float]:
    """The fleet's metrics that an invocation sent, which are the stack's alone."""
    documents = [document for document in done.metrics if "Target" not in document]
    return {datum.name: datum.value for document in documents for datum in extracted(document)}
