"""Advice on real servers: set wrongly each rule fires, and what it prints, run as it stands,
silences it.
"""

from __future__ import annotations

import datetime
import json
import shlex
import socket
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest

from lab.servers import Server, Sessions, Unavailable, free_port, start
from lab.targets import target
from reaper import cli
from reaper.advice import Advice, Rule
from reaper.advising import advise_rds_proxy, advise_target
from reaper.client.deadline import Deadline
from reaper.model import Outcome, SweepTarget
from reaper.sizing import GIB
from tests.aws import Asked, aws
from tests.conftest import Servers
from tests.harness import Lambda, settle, sweep

from .account import printed, split
from .test_cli import dsn, reaper

# a fixture, asked for by its name
__all__ = ["aws"]

OWN = ("postgres16", "postgres18", "mariadb", "mysql")
TIMES = {
    "postgres16": {"idle_session_timeout", "idle_in_transaction_session_timeout", "tcp_keepalives"},
    "postgres18": {
        "idle_session_timeout", "idle_in_transaction_session_timeout", "tcp_keepalives",
        "transaction_timeout",
    },
    "mariadb": {"wait_timeout", "interactive_timeout"},
    "mysql": {"wait_timeout", "interactive_timeout"},
}  # fmt: skip
UNREADABLE = {"idle_upper_bound", "named_locks_unseen", "transactions_unseen"}


def rules(advice: Advice) -> set[str]:
    return {finding.rule.value for finding in advice.findings}


def advised(server: Server, user: str = "reaper", memory: float | None = None) -> Advice:
    """What is advised while two applications are connected."""
    with Sessions(server) as sessions:
        sessions.sleeping(1)
        sessions.sleeping(1, user="other")
        advice = advise_target(sweep(server, user), memory)
    assert advice.error is None
    return advice


def obeyed(server: Server, user: str, but: Collection[str] = ()) -> set[str]:
    """Do what is advised, but for some rules, until nothing is; all the rules that fired."""
    fired: set[str] = set()
    for _ in range(3):
        advice = advised(server, user)
        if not advice.findings:
            return fired
        fired |= rules(advice)
        for finding in advice.findings:
            if finding.rule not in but:
                for statement in finding.statement.splitlines():
                    server.query(statement.removesuffix(";"))
        if (
            any("restart" in finding.advice for finding in advice.findings)
            and server.engine == "postgres"
        ):
            server.restart()
    raise AssertionError(f"still advised: {advised(server, user).findings}")


@pytest.mark.parametrize("name", OWN)
def test_what_is_advised_is_enough(name: str) -> None:
    """A server as it comes is told what is wrong; with every statement run as printed there is
    nothing to change.

    First for an account that may kill, then for one that may nothing.
    """
    try:
        server = start(name)
    except Unavailable as problem:
        pytest.skip(str(problem))
    with server:
        if server.engine == "postgres":
            assert obeyed(server, "reaper") == TIMES[name] | {"connection_limit", "reserved_slot"}
            assert obeyed(server, "blind") == {"blind", "no_right_to_terminate"}
        else:
            slots = {"reserved_slot", "connection_limit", "user_limits_unseen"}
            assert obeyed(server, "reaper_rds", but=["reserved_slot"]) == TIMES[name] | slots
            unreadable = UNREADABLE if name == "mysql" else set()
            assert (
                obeyed(server, "blind")
                == {"blind", "no_right_to_terminate", "user_limits_unseen"} | unreadable
            )


def test_no_rule_is_left_out() -> None:
    """Each fires somewhere here, on what is set wrongly."""
    here = Path(__file__).read_text(encoding="utf-8")
    assert [rule.value for rule in Rule if f'"{rule}"' not in here] == []


def test_max_connections_against_memory(server: Server) -> None:
    """300 connections are too many for 1 GiB and not for 64; where nobody says how much there is
    nothing is said.
    """
    assert "max_connections" in rules(advised(server, memory=GIB))
    assert "max_connections" not in rules(advised(server, memory=64 * GIB))
    assert "max_connections" not in rules(advised(server))


def test_performance_schema(servers: Servers) -> None:
    """Told where it is off; what cannot be read without it is not told besides."""
    assert "performance_schema" in rules(advised(servers["mysql_nops"], "norights"))
    assert not UNREADABLE & rules(advised(servers["mysql_nops"], "norights"))
    assert "performance_schema" not in rules(advised(servers["mysql"], "norights"))


def test_an_account_that_others_use(server: Server) -> None:
    """Where the application logs in as the reaper all its sessions would be spared, and that is
    told first; with the account that the command's SQL makes, a sweep ends them.
    """
    with Sessions(server) as sessions:
        sessions.sleeping(6, user="reaper", database="shop" if server.engine == "postgres" else "")
        first = advise_target(sweep(server)).findings[0]
        assert first.rule == "own_account_shared"
        command, another = first.statement, "reaper_own"
        assert f" --user {another}" in command
        settle(server)
        try:
            for statement in split(
                printed(*shlex.split(command)[2:]).replace("'…'", f"'{server.password}'")
            ):
                server.query(statement)
            report = sweep(server, another, idle_seconds=0, allow_users=["reaper"]).run()
        finally:
            server.query(f"DROP USER IF EXISTS {another}")
    assert (report.error, dict(report.outcomes)) == (None, {Outcome.TERMINATED: 6})


def test_a_host_that_is_a_proxy(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its name, wherever that leads; the same server by its own address is not told so."""
    if server.host != "127.0.0.1":
        pytest.skip("has a certificate for its own name")
    name = "orders.proxy-abc123.eu-central-1.rds.amazonaws.com"
    resolve = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *more, **named: resolve(server.host, *more, **named)
    )
    # For libpq, which resolves by itself
    monkeypatch.setenv("PGHOSTADDR", server.host)
    direct = sweep(server)
    behind = replace(direct, target=SweepTarget.from_mapping(target(server, host=name, tls="off")))
    assert rules(advise_target(behind)) - rules(advise_target(direct)) == {"target_is_proxy"}
    assert "target_is_proxy" not in rules(advise_target(direct))


def test_a_kept_seat_reads_the_server_s_settings(server: Server, function: Lambda) -> None:
    """The reaper's own connection has limits of its own, which are not the server's; advice
    terminates nobody.
    """
    lost = {
        "name": "lost",
        "engine": "mysql",
        "host": "127.0.0.1",
        "port": free_port(),
        "user": "reaper",
    }
    function.configure(
        target(server, name="orders"), lost, REAPER_DRY_RUN="false", REAPER_IDLE_SECONDS="0"
    )
    with Sessions(server) as sessions:
        (client,) = sessions.sleeping(1)
        first = function.invoke({"advise": True})
        again = function.invoke({"advise": True, "targets": ["orders"]})
        assert client.alive()
    assert set(first) == {"trigger", "advice"}
    orders, unreachable = first["advice"]
    assert again == {"trigger": "manual", "advice": [orders]}
    assert orders["target"] == "orders"
    limit = "idle_session_timeout" if server.engine == "postgres" else "wait_timeout"
    assert limit in {finding["rule"] for finding in orders["findings"]}
    assert unreachable["error"]["kind"] == "unreachable"
    assert function.metrics == {}
    assert [line["target"] for line in function.logged("advice")] == ["orders", "lost", "orders"]


def test_the_command(servers: Servers) -> None:
    """Findings are no failure, a server that cannot be read is; paragraphs fit 80 columns."""
    server = servers["postgres16"]
    told = reaper("advise", dsn(server), "--instance-class", "db.t4g.micro")
    assert (told.returncode, told.stderr) == (0, "")
    for words in (
        "things to change",
        "high idle_session_timeout",
        "medium max_connections",
        "https://",
    ):
        assert words in told.stdout
    # By itself on its line, to be copied
    assert "ALTER SYSTEM SET max_connections = 112;" in told.stdout
    assert all(len(line) <= 80 for line in told.stdout.splitlines() if not line.startswith("    "))
    lost = f"postgresql://reaper@127.0.0.1:{free_port()}/"
    both = reaper("advise", dsn(server), lost, "--json")
    assert both.returncode == 1
    advice = json.loads(both.stdout)["advice"]
    assert [found["error"] and found["error"]["kind"] for found in advice] == [None, "unreachable"]
    finding = advice[0]["findings"][0]
    assert list(finding) == ["rule", "severity", "evidence", "advice", "statement", "source"]
    shown = reaper("advise", lost)
    assert (shown.returncode, len(shown.stderr.splitlines()), shown.stdout) == (1, 1, "")


def make_proxy(**pool: Any) -> None:
    rds = boto3.client("rds")
    rds.create_db_proxy(
        DBProxyName="orders",
        EngineFamily="MYSQL",
        Auth=[{"AuthScheme": "SECRETS"}],
        RoleArn="arn:aws:iam::123456789012:role/proxy",
        VpcSubnetIds=[boto3.client("ec2").describe_subnets()["Subnets"][0]["SubnetId"]],
        IdleClientTimeout=pool.pop("IdleClientTimeout", 1800),
    )
    rds.modify_db_proxy_target_group(
        TargetGroupName="default", DBProxyName="orders", ConnectionPoolConfig=pool
    )


def count(**sums: float) -> None:
    """What CloudWatch has counted a minute ago."""
    at = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=1)
    dimensions = [{"Name": "ProxyName", "Value": "orders"}]
    boto3.client("cloudwatch").put_metric_data(
        Namespace="AWS/RDS",
        MetricData=[
            {"MetricName": name, "Dimensions": dimensions, "Timestamp": at, "Value": value}
            for name, value in sums.items()
        ],
    )


def test_a_proxy_as_it_comes(aws: Asked) -> None:
    """RDS's defaults, an idle limit of hours and pinned connections are told, by what the API and
    CloudWatch say.
    """
    make_proxy(IdleClientTimeout=28800)
    count(DatabaseConnections=10, DatabaseConnectionsCurrentlySessionPinned=8)
    advice = advise_rds_proxy("orders", Deadline.after(60))
    assert rules(advice) == {
        "proxy_idle_client_timeout", "proxy_borrow_timeout", "proxy_max_connections",
        "proxy_pinning",
    }  # fmt: skip
    assert "80%" in next(
        finding.evidence for finding in advice.findings if finding.rule == "proxy_pinning"
    )


def test_a_proxy_set_well(aws: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing to change; without traffic nothing is said of pinning."""
    make_proxy(MaxConnectionsPercent=90, ConnectionBorrowTimeout=10)
    assert cli.app(["advise", "--proxy", "orders"], standalone_mode=False) == 0
    assert capsys.readouterr().out == "orders: nothing to change\n"


def test_a_proxy_that_is_not_there(aws: Asked) -> None:
    """AWS's own word for it stands in the error."""
    error = advise_rds_proxy("ordres", Deadline.after(60)).error
    assert error is not None
    assert (error.kind, "ordres" in error.message) == ("configuration", True)
