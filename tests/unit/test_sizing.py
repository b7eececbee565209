"""The arithmetic of connections: AWS's formulas and tables, Little's law, and what is left for
functions.
"""

from __future__ import annotations

import pytest

from reaper.client.fields import ConfigurationError
from reaper.model import Flavour
from reaper.rules import Rules
from reaper.sizing import (
    GIB,
    Load,
    Sizing,
    Step,
    limit_of_capacity,
    limit_of_memory,
    memory_of,
    peak,
    size,
)

HUNDRED = Step("max_connections", 100, "as you say")


def sized(*loads: Load, limit: Step = HUNDRED, reserved: int = 0, others: int = 5) -> Sizing:
    return size(limit, reserved, others, loads, Rules())


def values(sizing: Sizing) -> dict[str, float]:
    return {step.name: step.value for step in sizing.steps}


@pytest.mark.parametrize(
    ("flavour", "gib", "connections"),
    [
        (Flavour.MYSQL, 1, 85),
        (Flavour.MYSQL, 8, 682),
        (Flavour.MARIADB, 8, 341),
        (Flavour.MARIADB, 1024, 12000),
        (Flavour.POSTGRES, 8, 901),
        (Flavour.POSTGRES, 64, 5000),
        (Flavour.AURORA_POSTGRES, 4, 450),
        (Flavour.AURORA_MYSQL, 4, 90),
        (Flavour.AURORA_MYSQL, 16, 1000),
        (Flavour.AURORA_MYSQL, 24, 1000),
        (Flavour.AURORA_MYSQL, 768, 7000),
    ],
)
def test_max_connections_by_memory(flavour: Flavour, gib: int, connections: int) -> None:
    """RDS divides the memory by the engine's number, up to a cap; Aurora MySQL has a table."""
    assert limit_of_memory(flavour, gib * GIB).value == connections


@pytest.mark.parametrize(
    ("flavour", "most", "least", "connections"),
    [
        (Flavour.AURORA_MYSQL, 1, None, 90),
        (Flavour.AURORA_MYSQL, 20, 0.5, 2000),
        (Flavour.AURORA_POSTGRES, 16, 1, 3360),
        (Flavour.AURORA_POSTGRES, 16, 0.5, 2000),
        (Flavour.AURORA_POSTGRES, 8, 0, 1669),
        (Flavour.AURORA_POSTGRES, 128, None, 5000),
    ],
)
def test_max_connections_by_capacity(
    flavour: Flavour, most: float, least: float | None, connections: int
) -> None:
    """A serverless Aurora's limit follows its largest capacity; PostgreSQL's is capped where the
    least is a half.
    """
    assert limit_of_capacity(flavour, most, least).value == connections


def test_what_aws_s_tables_do_not_hold() -> None:
    """Too small, or no such thing on this engine: an error, never a guess."""
    with pytest.raises(ConfigurationError, match=r"0\.5 ACU"):
        limit_of_capacity(Flavour.AURORA_MYSQL, 0.5, None)
    with pytest.raises(ConfigurationError, match="no capacity units"):
        limit_of_capacity(Flavour.POSTGRES, 16, None)
    with pytest.raises(ConfigurationError, match="1 GiB"):
        limit_of_memory(Flavour.AURORA_MYSQL, GIB)


@pytest.mark.parametrize(
    ("name", "gib"),
    [
        ("db.t4g.micro", 1),
        ("db.t3.medium", 4),
        ("db.t3.large", 8),
        ("db.m6g.2xlarge", 32),
        ("db.r6gd.xlarge", 32),
        ("db.r5.24xlarge", 768),
        ("db.x2g.large", 32),
    ],
)
def test_memory_of_a_class(name: str, gib: int) -> None:
    """Within a family memory goes with the processors."""
    assert memory_of(name) == gib * GIB


@pytest.mark.parametrize(
    "name", ["db.r4.large", "db.m5.micro", "db.r5.2large", "r5.large", "db.r5.metal", ""]
)
def test_an_unknown_class_is_an_error(name: str) -> None:
    """Where the rule does not hold nothing is computed."""
    with pytest.raises(ConfigurationError, match="give its memory instead"):
        memory_of(name)


def test_thresholds() -> None:
    """What is usable, where the alarm fires, where pressure begins and ends, and what functions may
    take below that.
    """
    assert values(sized(reserved=5)) == {
        "max_connections": 100,
        "usable": 95,
        "alarm_at": 80,
        "pressure_at": 76,
        "relieved_at": 57,
        "for_functions": 70,
    }


def test_little_s_law() -> None:
    """50 requests a second of 200 ms keep 10 environments at work; 3 x sqrt(10) more cover the
    peak.
    """
    (share,) = sized(Load("checkout", 50, 0.2, 0.02)).shares
    assert {step.name: step.value for step in share.steps} == {
        "at_work": 10,
        "at_the_peak": 20,
        "reserved_concurrency": 20,
        "pool_size": 1,
        "requests_a_second_at_most": 100,
        "connections_behind_rds_proxy": 4,
    }
    assert [step.how for step in share.steps][:2] == [
        "50/s x 200ms, by Little's law",
        "10 + 3 x sqrt(10), requests coming at random",
    ]


def test_the_peak_is_never_nothing() -> None:
    """A function that is hardly ever called still needs one connection."""
    assert [peak(0), peak(0.0001), peak(1)] == [1, 1, 4]


def test_too_much_for_all_is_shared() -> None:
    """Where the peaks do not fit, each function gets the same part of its own, and at least one."""
    loads = [
        Load("large", 500, 1),
        Load("middle", 50, 1),
        *(Load(f"small{n}", 0.1, 0.1) for n in range(10)),
    ]
    sizing = sized(*loads)
    got = [share.reserved_concurrency for share in sizing.shares]
    assert sum(got) <= values(sizing)["for_functions"]
    assert got[0] > got[1] > got[2]
    assert got[2:] == [1] * 10
    how = {step.name: step.how for step in sizing.shares[0].steps}
    assert how["reserved_concurrency"] == "its part of 74: all peaks together are more"
    small = sized(Load("a", 10, 1), Load("b", 10, 1))
    assert [share.reserved_concurrency for share in small.shares] == [20, 20]


def test_nothing_left_is_an_error() -> None:
    """A database that is too small for anybody is told with the numbers."""
    with pytest.raises(ConfigurationError, match="of 8 connections 1 are left"):
        sized(Load("a", 1, 1), Load("b", 1, 1), limit=Step("max_connections", 8, ""))
    with pytest.raises(ConfigurationError, match="of 5 connections 0 are left"):
        sized(limit=Step("max_connections", 5, ""), reserved=5)


def test_json_has_every_step() -> None:
    """By name, with how it was reckoned and where from."""
    document = sized(
        Load("checkout", 50, 0.2), limit=limit_of_memory(Flavour.POSTGRES, 8 * GIB)
    ).to_json()
    assert document["steps"]["max_connections"]["value"] == 901
    assert document["steps"]["max_connections"]["source"].startswith("https://")
    assert document["functions"]["checkout"]["reserved_concurrency"]["value"] == 20
