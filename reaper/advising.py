"""Advice on one target, from a dry run and the server's settings; and on an RDS Proxy."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from reaper.advice import Advice, Proxy, Seen, advise, advise_proxy
from reaper.client.credentials import aws_client
from reaper.client.deadline import Deadline
from reaper.model import Reason, Snapshot
from reaper.policy import judge
from reaper.report import ErrorKind, SweepError
from reaper.rules import Rules
from reaper.sizing import limit_of_memory
from reaper.sweep import IdleHistory, Observers, Sweep

# Sessions that are left out of the advice: their settings are not the operator's to change, or
# they do not take a client's slot.
_NO_CLIENTS = frozenset(
    {
        Reason.OWN_ACCOUNT,
        Reason.PROVIDER_ACCOUNT,
        Reason.SUPERUSER,
        Reason.REPLICATION,
        Reason.BACKGROUND,
        Reason.HANDSHAKE,
    }
)
_PINNED_WITHIN = datetime.timedelta(hours=1)


def advise_target(sweep: Sweep, memory: float | None = None) -> Advice:
    """What to change about a sweep's target. It terminates nobody, whatever the sweep's rules say.

    `memory` is the server's, in bytes; max_connections is compared with what fits into it.
    """
    settings: dict[str, Any] = {}
    report = replace(
        sweep,
        rules=Rules(dry_run=True),
        two_looks=False,
        history=IdleHistory(),
        observers=Observers(on_server=lambda server: settings.update(server.settings())),
    ).run()
    target = sweep.target.target
    # That an account is blind is a finding, not an error.
    is_blind = report.error is not None and report.error.kind is ErrorKind.BLIND
    if report.snapshot is None or (report.error and not is_blind):
        return Advice(target.name, target.engine, error=report.error)
    flavour = report.snapshot.flavour
    fitting = None if memory is None else int(limit_of_memory(flavour, memory).value)
    seen = Seen(
        settings=settings,
        snapshot=report.snapshot,
        account=min(report.snapshot.own_users, default=target.user),
        host=target.host,
        auth=target.auth,
        method=report.method,
        clients=_clients(report.snapshot),
        fitting=fitting,
    )
    return Advice(target.name, target.engine, flavour, advise(seen))


def _clients(snapshot: Snapshot) -> frozenset[tuple[str, str | None]]:
    """Which users are connected to which databases; PostgreSQL shows that much even to a blind
    account.
    """
    return frozenset(
        (verdict.session.user, verdict.session.database)
        for verdict in judge(snapshot, Rules()).verdicts
        if verdict.session.user and verdict.reason not in _NO_CLIENTS
    )


def advise_rds_proxy(name: str, deadline: Deadline) -> Advice:
    """What to change about an RDS Proxy, by its settings and what CloudWatch counted in the last
    hour. What AWS refuses is the advice's error.
    """
    # Imported here because it is as slow to load as boto3 itself.
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    try:
        return Advice(name, "rds_proxy", findings=advise_proxy(_proxy(name, deadline)))
    except NoCredentialsError as problem:
        error = SweepError(ErrorKind.CREDENTIALS, str(problem))
    except ClientError as problem:
        error = SweepError(ErrorKind.CONFIGURATION, str(problem))
    except BotoCoreError as problem:
        error = SweepError(ErrorKind.UNREACHABLE, str(problem))
    return Advice(name, "rds_proxy", error=error)


def _proxy(name: str, deadline: Deadline) -> Proxy:
    rds = aws_client("rds", deadline)
    (proxy,) = rds.describe_db_proxies(DBProxyName=name)["DBProxies"]
    (group,) = rds.describe_db_proxy_target_groups(DBProxyName=name)["TargetGroups"]
    pool = group["ConnectionPoolConfig"]
    return Proxy(
        name=name,
        engine_family=proxy["EngineFamily"],
        idle_client_timeout=proxy["IdleClientTimeout"],
        connection_borrow_timeout=pool["ConnectionBorrowTimeout"],
        max_connections_percent=pool["MaxConnectionsPercent"],
        session_pinning_filters=tuple(pool.get("SessionPinningFilters", ())),
        pinned=_pinned(name, deadline),
    )


def _pinned(name: str, deadline: Deadline) -> float | None:
    """The share of the proxy's connections that were pinned, on average; None where it had none."""
    now = datetime.datetime.now(datetime.UTC)
    answer = aws_client("cloudwatch", deadline).get_metric_data(
        MetricDataQueries=[
            _query("pinned", name, "DatabaseConnectionsCurrentlySessionPinned"),
            _query("all", name, "DatabaseConnections"),
        ],
        StartTime=now - _PINNED_WITHIN,
        EndTime=now,
    )
    # Each of a proxy's hosts reports once a minute, so a minute's sum is the proxy's count.
    sums = {result["Id"]: sum(result["Values"]) for result in answer["MetricDataResults"]}
    return sums["pinned"] / sums["all"] if sums.get("all") else None


def _query(id_: str, proxy: str, metric: str) -> Mapping[str, Any]:
    dimensions = [{"Name": "ProxyName", "Value": proxy}]
    stat = {"Namespace": "AWS/RDS", "MetricName": metric, "Dimensions": dimensions}
    return {"Id": id_, "MetricStat": {"Metric": stat, "Period": 60, "Stat": "Sum"}}
