"""Every event shape, what an alarm means, and the malformed ones."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from lab.samples import event, messages
from reaper.client.fields import ConfigurationError
from reaper.model import SweepTarget
from reaper.request.alarms import Dimension
from reaper.request.events import (
    AdviceRequest,
    BadMessage,
    Batch,
    QueuedSweep,
    SweepRequest,
    Trigger,
    parse,
)
from reaper.request.plan import choose
from reaper.rules import RulesPatch

ORDERS = SweepTarget.from_mapping(
    {"name": "orders", "engine": "mysql", "host": "db-1.internal", "user": "u", "id": "orders"}
)
BILLING = SweepTarget.from_mapping(
    {
        "name": "billing",
        "engine": "postgres",
        "host": "invoices.abc.eu-central-1.rds.amazonaws.com",
        "user": "u",
    }
)
SHOP = SweepTarget.from_mapping(
    {"name": "shop", "engine": "mysql", "host": "orders.internal", "user": "u", "id": "shop-1"}
)
TARGETS = [ORDERS, BILLING, SHOP]

INSTANCE = ((Dimension.INSTANCE, "orders"),)


def patch(**given: object) -> RulesPatch:
    return RulesPatch.from_json(given)


@pytest.mark.parametrize(
    ("name", "request_"),
    [
        ("manual-dry-run", SweepRequest(Trigger.MANUAL, dry_run=True)),
        ("manual-kill", SweepRequest(Trigger.MANUAL, dry_run=False)),
        ("schedule-input", SweepRequest(Trigger.SCHEDULE)),
        ("schedule-rule", SweepRequest(Trigger.SCHEDULE)),
        ("schedule-scheduler", SweepRequest(Trigger.SCHEDULE)),
        ("alarm-action", SweepRequest(Trigger.ALARM, alarmed=INSTANCE)),
        ("alarm-eventbridge", SweepRequest(Trigger.ALARM, alarmed=INSTANCE)),
        ("alarm-sns", SweepRequest(Trigger.ALARM, alarmed=INSTANCE)),
        ("alarm-composite", SweepRequest(Trigger.ALARM)),
        ("alarm-ok", SweepRequest(Trigger.ALARM, alarmed=INSTANCE, is_due=False)),
        (
            "sqs-batch",
            Batch(
                (
                    QueuedSweep(
                        "059f36b4-87a3-44ab-83d2-661975830a7d",
                        SweepRequest(Trigger.QUEUE, targets=("orders",)),
                    ),
                    QueuedSweep(
                        "2e1424d4-f796-459a-8184-9c92662be6da",
                        SweepRequest(
                            Trigger.QUEUE, targets=("billing",), rules=patch(idle_seconds=120)
                        ),
                    ),
                )
            ),
        ),
    ],
)
def test_samples(name: str, request_: SweepRequest | Batch) -> None:
    """Every sample event means exactly this."""
    assert parse(event(name)) == request_


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, SweepRequest()),
        ({"rules": None, "trigger": None}, SweepRequest()),
        ({"targets": ["b", "a", "b"]}, SweepRequest(targets=("b", "a"))),
        (
            {"rules": {"idle_seconds": 120, "dry_run": True}},
            SweepRequest(rules=patch(idle_seconds=120, dry_run=True)),
        ),
        *(({"trigger": word.value}, SweepRequest(word)) for word in Trigger),
        ({"trigger": "queue"}, SweepRequest(Trigger.QUEUE)),
        ({"advise": True}, AdviceRequest()),
        ({"advise": True, "targets": ["a"]}, AdviceRequest(("a",))),
    ],
)
def test_manual_events(given: dict[str, Any], expected: SweepRequest | AdviceRequest) -> None:
    """Every key is optional, and an empty event asks for everything by the configured rules."""
    assert parse(given) == expected


def test_a_schedule_needs_no_detail() -> None:
    """A rule sends an empty object, Scheduler its text, and some sender nothing."""
    given = event("schedule-rule")
    del given["detail"]
    assert parse(given) == SweepRequest(Trigger.SCHEDULE)


def test_keys_that_only_resemble_ours_are_awss() -> None:
    """AWS may add keys to its events; what nobody would type for one of ours is left alone."""
    assert parse(
        event("schedule-rule") | {"device": "advise", "target-group": "targets"}
    ) == SweepRequest(Trigger.SCHEDULE)


@pytest.mark.parametrize(("keys", "is_one"), [(100, True), (101, False)])
def test_an_event_has_few_keys(keys: int, is_one: bool) -> None:
    """Each is compared with ours, which takes its time; AWS sends a dozen."""
    given = event("schedule-rule")
    given |= {f"x{n}": n for n in range(keys - len(given))}
    if is_one:
        assert parse(given) == SweepRequest(Trigger.SCHEDULE)
    else:
        with pytest.raises(ConfigurationError, match="101 keys"):
            parse(given)


@pytest.mark.parametrize(("count", "are_few"), [(10, True), (11, False)])
def test_a_batch_has_no_more_than_the_stacks_queue_sends(count: int, are_few: bool) -> None:
    """Each record is a sweep, so a forged event must not make thousands of them."""
    given = {"Records": [{"messageId": "m", "eventSource": "aws:sqs", "body": "{"}] * count}
    if are_few:
        assert len(messages(given)) == count
    else:
        with pytest.raises(ConfigurationError, match="11 Records"):
            parse(given)


@pytest.mark.parametrize(("count", "are_few"), [(200, True), (201, False)])
@pytest.mark.parametrize("keys", [{}, {"advise": True}])
def test_an_event_names_few_targets(count: int, are_few: bool, keys: dict[str, Any]) -> None:
    """Each name is looked for among the targets, and each that is found is a sweep."""
    given = {"targets": [f"t{n}" for n in range(count)]} | keys
    if are_few:
        assert len(parse(given).targets) == count  # type: ignore[union-attr,arg-type]  # no batch
    else:
        with pytest.raises(ConfigurationError, match="201 targets"):
            parse(given)


# What an alarm means


def action(*dimensions: dict[str, str], state: str = "ALARM") -> dict[str, Any]:
    """The sample alarm with metric math over metrics of these dimensions."""
    found: dict[str, Any] = event("alarm-action")
    expression, metric = found["alarmData"]["configuration"]["metrics"]
    metrics = [expression]
    for place, given in enumerate(dimensions):
        stat = metric["metricStat"] | {
            "metric": metric["metricStat"]["metric"] | {"dimensions": given}
        }
        metrics.append(metric | {"id": f"m{place}", "metricStat": stat})
    found["alarmData"]["configuration"]["metrics"] = metrics
    found["alarmData"]["state"]["value"] = state
    return found


def sns(message: dict[str, Any]) -> dict[str, Any]:
    """The sample SNS event with these keys of its message replaced."""
    found: dict[str, Any] = event("alarm-sns")
    sns_ = found["Records"][0]["Sns"]
    sns_["Message"] = json.dumps(json.loads(sns_["Message"]) | message)
    return found


def chosen(given: dict[str, Any]) -> list[str]:
    request = parse(given)
    assert isinstance(request, SweepRequest)
    return [target.name for target in choose(request, TARGETS)]


METRIC_MATH = {
    "Period": 60,
    "Metrics": [
        {"Expression": "100*m1/200", "Id": "e1", "Label": "used", "ReturnData": True},
        {
            "Id": "m1",
            "ReturnData": False,
            "MetricStat": {
                "Metric": {
                    "Dimensions": [{"value": "billing", "name": "Target"}],
                    "MetricName": "x",
                    "Namespace": "Reaper",
                },
                "Period": 60,
                "Stat": "Maximum",
            },
        },
    ],
}


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (event("alarm-action"), ["orders"]),
        (event("alarm-eventbridge"), ["orders"]),
        (event("alarm-sns"), ["orders"]),
        (event("alarm-ok"), []),
        (event("alarm-composite"), ["orders", "billing", "shop"]),
        (action({"Target": "shop"}), ["shop"]),
        (action({"Stack": "prod", "Target": "shop"}), ["shop"]),
        # By id, not by its host's label
        (action({"DBInstanceIdentifier": "shop-1"}), ["shop"]),
        # No id: its host's first label
        (action({"DBInstanceIdentifier": "invoices"}), ["billing"]),
        (action({"DBClusterIdentifier": "invoices", "Role": "WRITER"}), ["billing"]),
        # The union, listed order
        (action({"Target": "shop"}, {"DBInstanceIdentifier": "orders"}), ["orders", "shop"]),
        (action({"Target": "orders"}, {"DBInstanceIdentifier": "orders"}), ["orders"]),
        # None of the three dimensions
        (action({"Stack": "prod"}), ["orders", "billing", "shop"]),
        (action({}), ["orders", "billing", "shop"]),
        (action(), ["orders", "billing", "shop"]),
        (action({"Target": "shop"}, state="OK"), []),
        (action({"Target": "shop"}, state="INSUFFICIENT_DATA"), []),
        (action({"Target": "nobody"}, state="OK"), []),
        (sns({"NewStateValue": "OK"}), []),
        (sns({"NewStateValue": "INSUFFICIENT_DATA"}), []),
        (sns({"Trigger": METRIC_MATH}), ["billing"]),
        (sns({"Trigger": {"Dimensions": []}}), ["orders", "billing", "shop"]),
        (sns({"Trigger": None}), ["orders", "billing", "shop"]),
        ({"targets": ["shop", "orders"]}, ["orders", "shop"]),
        ({}, ["orders", "billing", "shop"]),
    ],
)
def test_whom_an_event_means(given: dict[str, Any], names: list[str]) -> None:
    """By dimension Target, by identifier, the union; none of them means all; not in ALARM means
    nobody.
    """
    assert chosen(given) == names


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"targets": ["ordres"]}, "unknown target 'ordres'; did you mean 'orders'?"),
        ({"targets": ["orders", "x"]}, "unknown target 'x'; known: orders, billing, shop"),
        (
            action({"Target": "shop-1"}),
            "the alarm's Target 'shop-1' is no target; did you mean 'shop'?",
        ),
        (
            action({"DBInstanceIdentifier": "shop"}),
            "the alarm's DBInstanceIdentifier 'shop' is no target; did you mean 'shop-1'?",
        ),
        (
            action({"Target": "shop"}, {"DBClusterIdentifier": "x"}),
            "the alarm's DBClusterIdentifier 'x' is no target; known: orders, invoices, shop-1",
        ),
    ],
)
def test_an_unknown_target_is_an_error(given: dict[str, Any], words: str) -> None:
    """A name or a dimension that matches nothing is an error, also where others match."""
    with pytest.raises(ConfigurationError) as caught:
        chosen(given)
    assert str(caught.value) == words


CLUSTERS = {"shop-cluster": {"shop", "billing"}, "orders": {"shop"}}


@pytest.mark.parametrize(
    ("dimensions", "names"),
    [
        ({"DBClusterIdentifier": "shop-cluster"}, ["billing", "shop"]),
        # Who that is may change
        ({"DBClusterIdentifier": "shop-cluster", "Role": "WRITER"}, ["billing", "shop"]),
        # And a target that is listed under its name
        ({"DBClusterIdentifier": "orders"}, ["orders", "shop"]),
        ({"DBClusterIdentifier": "invoices"}, ["billing"]),
        # As the retry client calls a cluster's endpoint
        ({"Target": "shop-cluster"}, ["billing", "shop"]),
        # a target's own name goes over a cluster's
        ({"Target": "orders"}, ["orders"]),
    ],
)
def test_a_cluster_is_its_instances(dimensions: dict[str, str], names: list[str]) -> None:
    """An alarm that names a cluster means each of its instances that is a target, and nobody
    else.
    """
    request = parse(action(dimensions))
    assert isinstance(request, SweepRequest)
    assert [target.name for target in choose(request, TARGETS, CLUSTERS)] == names


@pytest.mark.parametrize(
    ("dimensions", "words"),
    [
        # a cluster is no instance
        ({"DBInstanceIdentifier": "shop-cluster"}, "known: orders, invoices, shop-1"),
        ({"DBClusterIdentifier": "shop-clusters"}, "did you mean 'shop-cluster'?"),
        ({"Target": "shop-clusters"}, "did you mean 'shop-cluster'?"),
    ],
)
def test_a_cluster_that_is_unknown_is_an_error(dimensions: dict[str, str], words: str) -> None:
    """It sweeps nothing, also where other clusters are known, and those are what the message
    offers.
    """
    request = parse(action(dimensions))
    assert isinstance(request, SweepRequest)
    with pytest.raises(ConfigurationError, match=re.escape(words)):
        choose(request, TARGETS, CLUSTERS)


def test_several_sns_records_are_swept_together() -> None:
    """Everything in ALARM is swept; what is OK adds nothing; one that names nobody means all."""
    orders = sns({})["Records"]
    billing = sns({"Trigger": METRIC_MATH})["Records"]
    fine = sns(
        {"NewStateValue": "OK", "Trigger": {"Dimensions": [{"name": "Target", "value": "shop"}]}}
    )["Records"]
    everybody = sns({"Trigger": None})["Records"]
    assert chosen({"Records": orders + fine + billing}) == ["orders", "billing"]
    assert chosen({"Records": fine + fine}) == []
    assert chosen({"Records": orders + everybody}) == ["orders", "billing", "shop"]


# Malformed events


def rules(**given: Any) -> dict[str, Any]:
    return {"rules": given}


def altered(name: str, change: Callable[[Any], object]) -> Any:
    found = event(name)
    change(found)
    return found


@pytest.mark.parametrize(
    ("given", "key", "value"),
    [
        ({"dryrun": True}, "'dryrun'", "True; did you mean 'dry_run'?"),
        ({"target": "orders"}, "'target'", "'orders'; did you mean 'targets'?"),
        ({"kill": "all"}, "'kill'", "'all'; known: dry_run, targets, rules, trigger"),
        ({"a\nb": 1}, r"'a\nb'", "1"),
        ({"dry_run": "false"}, "dry_run", "'false'; say true or false"),
        ({"dry_run": None}, "dry_run", "None; say true or false"),
        ({"targets": None}, "targets", "None; give a list of names, or leave it out for all"),
        ({"dry_run": 0}, "dry_run", "0"),
        ({"dry_run": []}, "dry_run", "[]"),
        ({"targets": "orders"}, "targets", "'orders'"),
        ({"targets": []}, "targets", "[]"),
        ({"targets": [5]}, "targets", "[5]"),
        ({"targets": [""]}, "targets", "['']"),
        ({"targets": ["orders", 5]}, "targets", "['orders', 5]"),
        ({"targets": ["", "orders"]}, "targets", "['', 'orders']"),
        ({"advise": "yes"}, "advise", "'yes'; say true, or leave it out"),
        ({"advise": False}, "advise", "False"),
        ({"advise": True, "dry_run": True}, "'dry_run'", "True"),
        ({"trigger": "cron"}, "trigger", "'cron'; choose manual, schedule, alarm, queue"),
        ({"trigger": ["manual"]}, "trigger", "['manual']"),
        ({"rules": []}, "rules", "list"),
        ({"rules": "idle_seconds=5"}, "rules", "str"),
        (rules(idle_second=5), "'idle_second'", "5; did you mean 'idle_seconds'?"),
        (rules(idle_seconds="600"), "idle_seconds", "'600'"),
        (rules(idle_seconds=-1), "idle_seconds", "-1"),
        (rules(idle_seconds=float("nan")), "idle_seconds", "nan"),
        (rules(idle_seconds=float("inf")), "idle_seconds", "inf"),
        (rules(idle_seconds=float("-inf")), "idle_seconds", "-inf"),
        (rules(idle_seconds=10**10), "idle_seconds", "10000000000"),
        (rules(idle_seconds=10**5000), "idle_seconds", "a huge int"),
        (rules(idle_seconds=True), "idle_seconds", "True"),
        (rules(idle_seconds=None), "idle_seconds", "None"),
        (rules(target_utilization=60), "target_utilization", "60"),
        (rules(max_kills=True), "max_kills", "True"),
        (rules(max_kills=1.5), "max_kills", "1.5"),
        (rules(dry_run="true"), "dry_run", "'true'"),
        (rules(allow_users="app"), "allow_users", "'app'"),
        (rules(allow_users=[]), "allow_users", "empty"),
        (rules(protect_users=[""]), "protect_users", "['']"),
        (
            rules(protect_users=["a"] * 1001),
            "protect_users",
            "too long; give at most 1000 names of 255 letters",
        ),
        (rules(protect_users=["a" * 256]), "protect_users", "too long"),
        (rules(protect_hosts=["10.0.0.0/33"]), "protect_hosts", "'10.0.0.0/33'"),
        (rules(in_transaction="kill"), "in_transaction", "'kill'"),
        (None, "event", "None"),
        ([{"dry_run": True}], "event", "[{'dry_run': True}]"),
        ("orders", "event", "'orders'"),
        (5, "event", "5"),
        (True, "event", "True"),
        ({"Records": []}, "Records", "[]; give a list"),
        ({"Records": {}}, "Records", "{}"),
        ({"Records": ["x"]}, "Records", "['x']"),
        ({"Records": 5}, "Records", "5; give a list"),
        ({"Records": [{"eventSource": "aws:sqs", "messageId": "m"}, "x"]}, "Records", "'x'"),
        ({"Records": [{"eventSource": "aws:s3"}]}, "Records", "['aws:s3']"),
        ({"Records": [{}]}, "Records", "['None']"),
        (
            {"Records": event("alarm-sns")["Records"] + event("sqs-batch")["Records"]},
            "Records",
            "['aws:sns', 'aws:sqs']",
        ),
        (
            altered("alarm-sns", lambda e: e["Records"][0]["Sns"].update(Message="hello")),
            "event",
            "'hello'",
        ),
        (
            altered("alarm-sns", lambda e: e["Records"][0]["Sns"].update(Message='{"a": 1}')),
            "SNS message",
            "{'a': 1}",
        ),
        (
            altered("alarm-sns", lambda e: e["Records"][0]["Sns"].update(Message="5")),
            "SNS message",
            "5",
        ),
        (altered("alarm-sns", lambda e: e["Records"][0].update(Sns=None)), "Sns", "None"),
        (sns({"NewStateValue": "FULL"}), "state", "'FULL'"),
        (sns({"Trigger": {"Dimensions": "orders"}}), "Dimensions", "'orders'"),
        (action(state="alarm"), "state", "'alarm'"),
        (action({"Target": ""}), "Target", "''; it must name a target"),
        (action({"Target": 5}), "Target", "5"),  # type: ignore[dict-item]  # as somebody's template might say
        (altered("alarm-action", lambda e: e.update(alarmData=None)), "alarmData", "None"),
        (altered("alarm-action", lambda e: e["alarmData"].pop("state")), "state", "None"),
        (
            altered("alarm-action", lambda e: e["alarmData"]["configuration"].update(metrics=5)),
            "metrics",
            "5",
        ),
        (
            altered("alarm-action", lambda e: e["alarmData"]["configuration"].update(metrics=[5])),
            "metrics",
            "[5]",
        ),
        (altered("alarm-eventbridge", lambda e: e.update(detail="{}")), "detail", "'{}'"),
        (
            altered("alarm-eventbridge", lambda e: e.update({"detail-type": "Other"})),
            "detail-type",
            "'Other'",
        ),
        (
            altered("alarm-eventbridge", lambda e: e.update(source="aws.ec2")),
            "detail-type",
            "'aws.ec2'",
        ),
        (altered("schedule-rule", lambda e: e.update(source="my.app")), "detail-type", "'my.app'"),
        (
            altered("schedule-rule", lambda e: e.update(detail={"dry_run": False})),
            "detail",
            "{'dry_run': False}",
        ),
        (
            altered("schedule-rule", lambda e: e.update({"detail-type": "Other"})),
            "detail-type",
            "'Other'",
        ),
        (altered("sqs-batch", lambda e: e["Records"][0].pop("messageId")), "messageId", "no"),
        (altered("sqs-batch", lambda e: e["Records"][0].update(messageId="")), "messageId", "no"),
        (altered("sqs-batch", lambda e: e["Records"][0].update(messageId=5)), "messageId", "no"),
    ],
)
def test_what_is_not_recognised_is_an_error(given: Any, key: str, value: str) -> None:
    """A malformed event is one line that names the key and the value, before anything is
    touched.
    """
    with pytest.raises(ConfigurationError) as caught:
        parse(given)
    message = str(caught.value)
    assert key in message
    assert value in message
    assert message.splitlines() == [message]


def metrics(*given: Any) -> Any:
    return altered(
        "alarm-action", lambda e: e["alarmData"]["configuration"].update(metrics=[*given])
    )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"alarmData": 5}, "alarm: alarmData is 5"),
        ({"alarmData": {"state": 5}}, "alarm: state is 5"),
        (
            altered("alarm-action", lambda e: e["alarmData"].update(configuration=5)),
            "alarm: configuration is 5",
        ),
        (metrics({"metricStat": 5}), "alarm: metricStat is 5"),
        (metrics({"metricStat": {"metric": 5}}), "metricStat: metric is 5"),
        (metrics({"metricStat": {"metric": {"dimensions": 5}}}), "metric: dimensions is 5"),
        (altered("alarm-eventbridge", lambda e: e.update(detail=5)), "event: detail is 5"),
        ({"Records": [{"EventSource": "aws:sns", "Sns": 5}]}, "record: Sns is 5"),
        (sns({"Trigger": 5}), "SNS message: Trigger is 5"),
        (sns({"Trigger": {"Metrics": [{"MetricStat": 5}]}}), "SNS message: MetricStat is 5"),
        (sns({"Trigger": {"Metrics": [{"MetricStat": {"Metric": 5}}]}}), "MetricStat: Metric is 5"),
    ],
)
def test_what_is_no_object_is_named_with_its_place(given: Any, words: str) -> None:
    """Whoever reads the error finds the key in the event, however deep."""
    with pytest.raises(ConfigurationError) as caught:
        parse(given)
    assert str(caught.value) == f"{words}, not an object with keys"


@pytest.mark.parametrize(
    ("request_", "is_for_all"),
    [
        (SweepRequest(), True),
        (SweepRequest(targets=("orders",)), False),
        (SweepRequest(alarmed=INSTANCE), False),
    ],
)
def test_a_request_that_names_nobody_is_for_all(request_: SweepRequest, is_for_all: bool) -> None:
    """Neither by name nor by an alarm's dimension."""
    assert request_.is_for_all is is_for_all


def test_advice_takes_no_key_of_a_sweep() -> None:
    """The error says that it is the advice which has no such key; one that no event has is the
    event's.
    """
    with pytest.raises(ConfigurationError, match=r"^event: unknown key 'kill'"):
        parse({"advise": True, "kill": 1})
    with pytest.raises(
        ConfigurationError, match=r"^event that asks for advice: unknown key 'rules'"
    ):
        parse({"advise": True, "rules": {}})


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("{", "event: body is '{', which is not JSON"),
        (None, "event: body is None, which is not JSON"),
        ("[" * 100_000, f"event: body is '{'[' * 56}..., which is not JSON"),
        ("[]", "event: body is [], not an object with keys"),
        (
            '{"dryrun": true}',
            "event: unknown key 'dryrun' with value True; did you mean 'dry_run'?",
        ),
        (
            '{"rules": {"idle_seconds": NaN}}',
            "event: rules: idle_seconds is nan; give seconds as a number, 0 or more",
        ),
        (
            json.dumps(event("alarm-action")),
            "event: unknown key 'source' with value 'aws.cloudwatch'",
        ),
        ('{"advise": true}', "event: nobody reads the answer to a queue's message"),
    ],
)
def test_one_bad_message_does_not_spoil_the_batch(body: str | None, words: str) -> None:
    """A bad SQS record carries its problem; the others are requests."""
    bad, good = messages(altered("sqs-batch", lambda e: e["Records"][0].update(body=body)))
    assert isinstance(bad, BadMessage)
    assert bad.id == "059f36b4-87a3-44ab-83d2-661975830a7d"
    assert bad.problem.startswith(words)
    assert good == messages(event("sqs-batch"))[1]


# Messages


def test_a_message_is_nobodys_hand() -> None:
    """A message that calls itself manual is still a queue's: no message kills on a dry stack."""
    body = json.dumps({"trigger": "manual", "dry_run": False})
    (record,) = messages({"Records": [{"messageId": "1", "eventSource": "aws:sqs", "body": body}]})
    assert isinstance(record, QueuedSweep)
    assert record.request.trigger is Trigger.QUEUE
    # Nor one that was tried, where SQS does not say so
    assert not record.is_retry


def test_what_is_said_of_a_message_is_an_object() -> None:
    """Attributes of another kind are that message's problem."""
    bad = {"messageId": "1", "eventSource": "aws:sqs", "body": "{}", "attributes": 5}
    assert messages({"Records": [bad]}) == (
        BadMessage("1", "record: attributes is 5, not an object with keys"),
    )


@pytest.mark.parametrize("key", ["dry_run", "dryrun", "targets", "rules", "trigger"])
@pytest.mark.parametrize(
    "name", ["alarm-action", "alarm-eventbridge", "alarm-sns", "schedule-rule", "sqs-batch"]
)
def test_own_keys_beside_an_envelope_are_errors(name: str, key: str) -> None:
    """A key of ours put beside AWS's own would be passed over, so it is an error."""
    with pytest.raises(ConfigurationError, match=f"'{key}' stands beside"):
        parse(event(name) | {key: True})
