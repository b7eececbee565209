"""How many connections there are and how many functions they are enough for, with the arithmetic.

Pure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reaper.client.fields import ConfigurationError
from reaper.model import Flavour
from reaper.rules import Rules

GIB = 2**30
# Connections for people, jobs and the reaper, where nobody says otherwise
OTHERS = 5
# An environment serves one request at a time, so a second connection would only wait
POOL = 1

RDS = "https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/CHAP_Limits.html#RDS_Limits.MaxConnections"
AURORA_MYSQL = "https://docs.aws.amazon.com/AmazonRDS/latest/AuroraUserGuide/AuroraMySQL.Managing.Performance.html#max_connections"
AURORA_POSTGRES = (
    "https://docs.aws.amazon.com/AmazonRDS/latest/AuroraUserGuide/"
    "AuroraPostgreSQL.Managing.html#AuroraPostgreSQL.Managing.MaxConnections"
)
SERVERLESS = (
    "https://docs.aws.amazon.com/AmazonRDS/latest/AuroraUserGuide/"
    "aurora-serverless-v2.setting-capacity.html#aurora-serverless-v2.max-connections"
)
RDS_RESERVED = "https://repost.aws/knowledge-center/rds-postgresql-error-connection-slots"


@dataclass(frozen=True)
class Step:
    """One line of the arithmetic: what comes out, and how."""

    name: str
    value: float
    how: str
    source: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {"value": self.value, "how": self.how, "source": self.source}


@dataclass(frozen=True)
class Load:
    """What a function has to do: `rate` requests a second, each an invocation of `duration`
    seconds.

    `response` are the seconds of it that the database takes to answer, all statements of a request
    together.
    """

    name: str
    rate: float
    duration: float
    response: float | None = None

    @property
    def at_work(self) -> float:
        """Environments at work on average: Little's law."""
        return round(self.rate * self.duration, 3)

    @property
    def peak(self) -> int:
        return peak(self.at_work)


@dataclass(frozen=True)
class Share:
    """What one function gets of the connections, and what it can do with them."""

    load: Load
    reserved_concurrency: int
    available: int

    @property
    def steps(self) -> tuple[Step, ...]:
        load = self.load
        steps = [
            Step(
                "at_work",
                load.at_work,
                f"{load.rate:g}/s x {_time(load.duration)}, by Little's law",
            ),
            Step("at_the_peak", load.peak, _how_peak(load.at_work)),
            Step("reserved_concurrency", self.reserved_concurrency, self._how),
            Step("pool_size", POOL, "an environment serves one request at a time"),
            Step(
                "requests_a_second_at_most",
                round(self.reserved_concurrency / load.duration, 1),
                f"{self.reserved_concurrency} / {_time(load.duration)}; Lambda refuses those "
                f"beyond",
            ),
        ]
        if load.response is not None:
            lent = round(load.rate * load.response, 3)
            how = f"{load.rate:g}/s x {_time(load.response)} = {lent:g}; {_how_peak(lent)}"
            steps.append(Step("connections_behind_rds_proxy", peak(lent), how))
        return tuple(steps)

    @property
    def _how(self) -> str:
        if self.reserved_concurrency == self.load.peak:
            return "its peak: one connection for each environment"
        return f"its part of {self.available}: all peaks together are more"


@dataclass(frozen=True)
class Sizing:
    """The whole sum."""

    steps: tuple[Step, ...]
    shares: tuple[Share, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "steps": {step.name: step.to_json() for step in self.steps},
            "functions": {
                share.load.name: {step.name: step.to_json() for step in share.steps}
                for share in self.shares
            },
        }


def size(limit: Step, reserved: int, others: int, loads: Sequence[Load], rules: Rules) -> Sizing:
    """What functions may take of a database's connections.

    Raises ConfigurationError where nothing is left for them.

    They stay below the threshold at which the reaper sees pressure: what is above it is room for a
    deploy, whose new environments come while the old ones still hold their connections.
    """
    total = int(limit.value)
    usable = total - reserved
    trigger, target = rules.trigger_utilization, rules.target_utilization
    pressure = math.ceil(usable * trigger)
    available = pressure - 1 - others
    if available < max(1, len(loads)):
        raise ConfigurationError(
            f"of {total} connections {max(0, available)} are left for functions: {reserved} are "
            f"reserved, "
            f"{others} are for others, and from {pressure} on there is pressure; take a larger "
            f"database, or a proxy"
        )
    alarm = math.ceil(total * trigger)
    steps = (
        limit,
        Step(
            "usable", usable, f"{total} - {reserved} reserved", RDS_RESERVED if reserved else None
        ),
        Step(
            "alarm_at",
            alarm,
            f"{trigger:.0%} of {total}; MaxConnections={total} AlarmPercent={100 * trigger:.0f}",
        ),
        Step("pressure_at", pressure, f"{trigger:.0%} of {usable}, trigger_utilization"),
        Step(
            "relieved_at",
            math.floor(usable * target),
            f"{target:.0%} of {usable}, target_utilization",
        ),
        Step(
            "for_functions",
            available,
            f"{pressure} - 1, which is below pressure, - {others} for others",
        ),
    )
    return Sizing(steps, shares(loads, available))


def shares(loads: Sequence[Load], available: int) -> tuple[Share, ...]:
    """Each its peak where they all fit; else each the same part of it, and never nothing."""
    wanted = sum(load.peak for load in loads)
    if wanted <= available:
        return tuple(Share(load, load.peak, available) for load in loads)
    # One each comes first
    spare = available - len(loads)
    return tuple(
        Share(load, 1 + spare * (load.peak - 1) // (wanted - len(loads)), available)
        for load in loads
    )


def peak(mean: float) -> int:
    """Where requests come at random, more than this are at work for a few thousandths of the time
    at most.
    """
    return max(1, math.ceil(mean + 3 * math.sqrt(mean)))


def _how_peak(mean: float) -> str:
    return f"{mean:g} + 3 x sqrt({mean:g}), requests coming at random"


def _time(seconds: float) -> str:
    return f"{1000 * seconds:g}ms" if seconds < 1 else f"{seconds:g}s"


def reserved_slots(flavour: Flavour) -> int:
    """Slots that an ordinary client cannot use: PostgreSQL's three for superusers, and RDS's own
    two.
    """
    return 3 + 2 if flavour in (Flavour.POSTGRES, Flavour.AURORA_POSTGRES) else 0


def limit_of_memory(flavour: Flavour, memory: float) -> Step:
    """max_connections as RDS and Aurora set it for so much memory, in bytes."""
    match flavour:
        case Flavour.AURORA_MYSQL:
            return _from_table(_AURORA_MYSQL, memory / GIB, "GiB", AURORA_MYSQL)
        case Flavour.AURORA_POSTGRES:
            return _from_formula(memory, 9531392, 5000, AURORA_POSTGRES)
        case Flavour.POSTGRES:
            return _from_formula(memory, 9531392, 5000, RDS)
        case Flavour.MARIADB:
            return _from_formula(memory, 25165760, 12000, RDS)
        case Flavour.MYSQL:
            return _from_formula(memory, 12582880, None, RDS)


def limit_of_capacity(flavour: Flavour, most: float, least: float | None) -> Step:
    """max_connections of an Aurora Serverless v2 that may grow to `most` capacity units, and shrink
    to `least`.
    """
    if flavour not in _SERVERLESS:
        raise ConfigurationError(f"{flavour} has no capacity units; Aurora Serverless v2 has")
    step = _from_table(_SERVERLESS[flavour], most, "ACU", SERVERLESS)
    if (
        flavour is Flavour.AURORA_POSTGRES
        and least is not None
        and least <= 0.5
        and step.value > _SMALL_LEAST
    ):
        how = f"{step.how}, but at most {_SMALL_LEAST} where the least is {least:g} ACU"
        return Step(step.name, _SMALL_LEAST, how, step.source)
    return step


def memory_of(instance_class: str) -> float:
    """The memory of `db.r6g.large` and its kin, in bytes: within a family it goes with the number
    of processors.
    """
    family, size = r"(t[234]g?|m[5-9]\w*|r[5-9]\w*|x2g)", r"(micro|small|medium|large|(\d*)xlarge)"
    found = re.fullmatch(rf"db\.{family}\.{size}", instance_class)
    if found is None or (found[2] in _SMALL and not found[1].startswith("t")):
        raise ConfigurationError(
            f"instance class {instance_class!r} is not known here; give its memory instead, as "
            f"AWS lists it"
        )
    if found[2] in _SMALL:
        return _SMALL[found[2]] * GIB
    processors = 2 if found[2] == "large" else 4 * int(found[3] or 1)
    return processors * _GIB_A_PROCESSOR[found[1][0]] * GIB


def _from_formula(memory: float, divisor: int, cap: int | None, source: str) -> Step:
    value, formula = int(memory // divisor), f"{memory / GIB:g} GiB / {divisor}"
    if cap is not None:
        value, formula = min(value, cap), f"LEAST({formula}, {cap})"
    return Step(
        "max_connections", value, f"{formula}; a little less, since RDS keeps some memory", source
    )


def _from_table(table: dict[float, int], given: float, unit: str, source: str) -> Step:
    rows = [row for row in table if row <= given]
    if not rows:
        raise ConfigurationError(f"{given:g} {unit}: AWS's table begins with {min(table):g} {unit}")
    return Step("max_connections", table[max(rows)], f"AWS's table, {max(rows):g} {unit}", source)


# GiB, of the classes t2 to t4g.
_SMALL = {"micro": 1, "small": 2, "medium": 4}
_GIB_A_PROCESSOR = {"t": 4, "m": 4, "r": 8, "x": 16}

# By GiB of memory: the classes of one size have the same limit in all families.
_AURORA_MYSQL: dict[float, int] = {
    2: 45, 4: 90, 8: 135, 16: 1000, 32: 2000, 64: 3000, 128: 4000, 256: 5000, 384: 6000, 512: 6000,
    768: 7000,
}  # fmt: skip
# By the largest capacity.
_SERVERLESS: dict[Flavour, dict[float, int]] = {
    Flavour.AURORA_MYSQL: {
        1: 90,
        4: 135,
        8: 1000,
        16: 2000,
        32: 3000,
        64: 4000,
        128: 5000,
        256: 6000,
    },
    Flavour.AURORA_POSTGRES: {1: 189, 4: 823, 8: 1669, 16: 3360, 32: 5000},
}
_SMALL_LEAST = 2000
