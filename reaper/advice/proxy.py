"""RDS Proxy: how long it waits, how much it takes, and whether it multiplexes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from reaper.advice.base import (
    AWS_MANUAL,
    IDLE,
    Finding,
    Rule,
    Severity,
    idle_advice,
    is_slightly_above,
)
from reaper.client.kept import DEFAULTS
from reaper.report import span

# Seconds, after which API Gateway has answered its caller with a timeout
LONGEST_BORROW = 30
BORROW = round(DEFAULTS.timeout)
MOST_PERCENT = 90
# The share of pinned connections beyond which a proxy multiplexes little
MOSTLY = 0.5


@dataclass(frozen=True)
class Proxy:
    """An RDS Proxy's settings, by AWS's own names, times in seconds.

    `pinned` is the share of its connections that lately belonged to one client each, None where it
    had no connections.
    """

    name: str
    engine_family: str
    idle_client_timeout: int
    connection_borrow_timeout: int
    max_connections_percent: int
    session_pinning_filters: Collection[str] = ()
    pinned: float | None = None


def _idle_client_timeout(proxy: Proxy) -> Iterator[Finding]:
    value = proxy.idle_client_timeout
    if not is_slightly_above(value):
        yield Finding(
            Rule.PROXY_IDLE_CLIENT_TIMEOUT,
            Severity.LOW,
            f"IdleClientTimeout = {value} ({span(value)})",
            idle_advice(value),
            f"aws rds modify-db-proxy --db-proxy-name {proxy.name} --idle-client-timeout {IDLE}",
            f"{_PAGE}.idleclienttimeout",
        )


def _borrow_timeout(proxy: Proxy) -> Iterator[Finding]:
    value = proxy.connection_borrow_timeout
    if not 0 < value <= LONGEST_BORROW:
        yield Finding(
            Rule.PROXY_BORROW_TIMEOUT,
            Severity.LOW,
            f"ConnectionBorrowTimeout = {value} ({span(value) if value else 'no limit'})",
            "A function that waits longer than its caller works for nobody, and is paid for. An "
            "early refusal can be tried again.",
            _pool(proxy, f"ConnectionBorrowTimeout={BORROW}"),
            f"{_PAGE}.connectionborrowtimeout",
        )


def _max_connections(proxy: Proxy) -> Iterator[Finding]:
    if proxy.max_connections_percent > MOST_PERCENT:
        yield Finding(
            Rule.PROXY_MAX_CONNECTIONS,
            Severity.MEDIUM,
            f"MaxConnectionsPercent = {proxy.max_connections_percent}",
            "The proxy may take every connection of the database; none is left for the reaper, "
            "and for people.",
            _pool(proxy, f"MaxConnectionsPercent={MOST_PERCENT}"),
            f"{_PAGE}.maxconnectionspercent",
        )


def _pinning(proxy: Proxy) -> Iterator[Finding]:
    if proxy.pinned is None or proxy.pinned <= MOSTLY:
        return
    if proxy.engine_family == "MYSQL" and not proxy.session_pinning_filters:
        what = (
            "Where session variables pin, and each request sets its own, this filter prevents it."
        )
        statement = _pool(proxy, "SessionPinningFilters=EXCLUDE_VARIABLE_SETS")
    else:
        what = "With this switched on for a while, the proxy's log names the statements that pin."
        statement = f"aws rds modify-db-proxy --db-proxy-name {proxy.name} --debug-logging"
    yield Finding(
        Rule.PROXY_PINNING,
        Severity.MEDIUM,
        f"in the last hour {proxy.pinned:.0%} of its connections were pinned to one client each",
        f"A pinned connection serves one client until that goes, as if there were no proxy. {what}",
        statement,
        f"{AWS_MANUAL}rds-proxy-pinning.html",
    )


def _pool(proxy: Proxy, setting: str) -> str:
    return (
        f"aws rds modify-db-proxy-target-group --db-proxy-name {proxy.name} "
        f"--target-group-name default --connection-pool-config {setting}"
    )


_PAGE = f"{AWS_MANUAL}rds-proxy-connections.html#rds-proxy-connection-pooling-tuning"

CHECKS: tuple[Callable[[Proxy], Iterator[Finding]], ...] = (
    _idle_client_timeout,
    _borrow_timeout,
    _max_connections,
    _pinning,
)
