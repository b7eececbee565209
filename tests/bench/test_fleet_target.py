"""What one target more takes of an invocation, on real servers, against what the README and the
model say.
"""

from __future__ import annotations

import pytest

from benchmarks.fleet import (
    CONNECTIONS,
    LOG_BYTES,
    MEMORY_MB,
    PROCESSOR_SECONDS,
    of_one,
    ordinary_metrics,
)
from lab.servers import until
from lab.servers.secure import secure
from reaper.metrics import FEW
from reaper.settings import TargetMetrics
from tests.conftest import Servers


@pytest.mark.parametrize(
    ("name", "of_target", "metrics"),
    [
        ("postgres16", TargetMetrics.ALL, ordinary_metrics()),
        ("mariadb", TargetMetrics.FEW, len(FEW)),
    ],
)
def test_a_target_takes_no_more_than_is_said(
    name: str, of_target: TargetMetrics, metrics: int, servers: Servers
) -> None:
    """Of ten in an invocation each has one connection, which is gone afterwards, and as many
    metrics of its own as is said; memory and log are within that, and processor time within five
    times, for this machine may be busy.
    """
    # Which says what is to be done where there is no such program
    servers[name]
    server = secure(name)
    before = server.states()
    found = of_one(server, turns=3, of_target=of_target)
    assert found["connections"] == CONNECTIONS
    assert found["metrics"] == metrics
    assert found["memory"] < MEMORY_MB
    assert found["log"] < LOG_BYTES
    assert found["processor"] < 5 * 1000 * PROCESSOR_SECONDS
    assert until(lambda: len(server.states()) <= len(before))
