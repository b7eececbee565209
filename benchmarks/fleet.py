"""A fleet of 1,000 databases, simulated with the product's own numbers: time, backlog, cost. And
what one target takes, measured.

How many databases hang, and how long the others' sweeps take, are assumptions, and said so; the
rest is read from the template and the code, or measured here.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from math import ceil, inf
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import botocore

from lab.cloudformation import Stack
from lab.samples import report
from lab.servers import Proxy, Server, Sessions, Unavailable
from lab.servers.secure import authority, secure
from lab.targets import target
from reaper.client.deadline import RESERVE
from reaper.fleet import BATCH
from reaper.metrics import FEW, Tally, measures
from reaper.running import SIDE_BY_SIDE
from reaper.settings import TargetMetrics
from reaper.sweep import SECOND_LOOK

from .base import Bar, Effort, Section, Spread, Table
from .chart import chart
from .fanout import Database, Fanout, Fate, Platform, Product, Run, every
from .prices import HOURS, Usage

DATABASES = 1000
HANGING = 0.05
SEED = 6
# Schedules in an hour
SCHEDULES = 12
CONCURRENCY = (2, 3, 4, 5, 6, 7, 8, 10, 15, 20, 30, 50)
DRAWN = (2, 5, 7, 20)
# Half an hour after the first schedule, for an hour
OUTAGE = (1800.0, 5400.0)
FLEETS = (10, 30, 100, 300, 1000, 3000)
MINUTE = 60.0

# The sweep of an ordinary database waits about a third of a second for its server. One in five is a
# MySQL that does not tell how long a session has slept, and is looked at twice.
USUAL, SPREAD = 0.3, 0.6
LOOKED_AT_TWICE = 0.2
# Seconds of an invocation for each: ten take as long as the slowest of them
OF_A_BATCH = 0.25

# What a target may take, in the model and in the README; what is measured below must stay under it.
PROCESSOR_SECONDS, MEMORY_MB, LOG_BYTES, CONNECTIONS = 0.03, 1.0, 2560, 1

SERVERS = ("postgres18", "mariadb")
TARGETS, TURNS, SESSIONS = 10, 6, 10


def measure(effort: Effort) -> list[Section]:
    return [simulated(effort), taken(effort)]


# The model's input


@cache
def product(**parameters: str) -> Product:
    """The settings that the template deploys with these parameters."""
    stack = Stack({"Fleet": "true", **parameters})
    queue = stack.of_type("AWS::SQS::Queue")["FleetQueue"]
    (mapping,) = stack.of_type("AWS::Lambda::EventSourceMapping").values()
    (schedule,) = {
        found["ScheduleExpression"] for found in stack.of_type("AWS::Scheduler::Schedule").values()
    }
    (minutes,) = re.findall(r"^rate\((\d+) minutes?\)$", schedule)
    return Product(
        period=int(minutes) * MINUTE,
        timeout=float(stack.function["Timeout"]),
        reserve=RESERVE,
        side_by_side=SIDE_BY_SIDE,
        batch=int(mapping["BatchSize"]),
        sent_at_once=BATCH,
        concurrency=int(mapping["ScalingConfig"]["MaximumConcurrency"]),
        visibility=float(queue["VisibilityTimeout"]),
        tries=int(queue["RedrivePolicy"]["maxReceiveCount"]),
        stale=float(stack.planner["Environment"]["Variables"]["REAPER_STALE_SECONDS"]),
    )


def concurrency(databases: int, of: Product, hanging: float = HANGING) -> int:
    """The README's rule: as many invocations as sweep all databases that answer before the next
    schedule, although some hang.

    A database that hangs takes an invocation's whole time: all of them together when the outage
    begins, and each again at every attempt. SQS allows no fewer than two.
    """
    wasted = hanging * of.timeout / min(of.period, of.visibility)
    return max(2, ceil(databases * (wasted + OF_A_BATCH / of.period)))


def fleet(
    databases: int, hanging: float = 0.0, during: tuple[float, float] = (0.0, inf)
) -> list[Database]:
    """The same databases for the same arguments, whichever of them hang."""
    dice = Random(SEED)  # noqa: S311  seeded dice, not cryptography
    usual = [USUAL * dice.lognormvariate(0.0, SPREAD) for _ in range(databases)]
    twice, hang = (
        set(dice.sample(range(databases), round(databases * part)))
        for part in (LOOKED_AT_TWICE, hanging)
    )
    return [
        Database(
            usual=usual[place],
            extra=SECOND_LOOK if place in twice else 0.0,
            spread=SPREAD,
            processor=PROCESSOR_SECONDS,
            hangs=during if place in hang else (0.0, 0.0),
        )
        for place in range(databases)
    ]


def run(of: Product, databases: Sequence[Database], schedules: int = SCHEDULES) -> Run:
    return Fanout(of, Platform(), databases, SEED).simulate(schedules)


def usage(of: Run, schedules: int, of_target: TargetMetrics) -> Usage:
    """The usage of a month that goes like this run."""
    count, deployed = len(of.databases), of.product
    turns = HOURS * 3600 / deployed.period
    share = turns / schedules
    each = len(FEW) if of_target is TargetMetrics.FEW else ordinary_metrics()
    stack = Stack({"Fleet": "true"})
    memory = int(stack.function["MemorySize"]) / 1024
    sweeps = of.fates[Fate.SWEPT] + deployed.tries * of.fates[Fate.FAILED]
    return Usage(
        metrics=each * count + ordinary_metrics() + len(Tally(planned=1).measures()),
        alarms=len(stack.of_type("AWS::CloudWatch::Alarm")),
        gb_seconds=(of.billed * share + Platform.planning * turns) * memory,
        invocations=len(of.batches) * share + turns,
        sent=ceil(count / deployed.sent_at_once) * turns,
        schedules=turns,
        log_gb=sweeps * share * LOG_BYTES / 1e9,
    )


def ordinary_metrics() -> int:
    """The metrics of a sweep that saw the server and had nothing to do, without the time to the
    first freed slot.
    """
    return len(measures(replace(report(), pressure_remains=False)))


# The simulation's results


@dataclass(frozen=True)
class Trial:
    """What a concurrency achieves for 1,000 databases that answer, and for the same if 5 % hang
    from the start.
    """

    concurrency: int
    well: Run
    ill: Run

    def row(self) -> list[str]:
        cells = []
        for found in (self.well, self.ill):
            seconds = list(found.sweep_all().values())
            cells += [told(median(seconds)), told(max(seconds))]
        return [str(self.concurrency), *cells]


def told(seconds: float) -> str:
    return "never" if seconds == inf else f"{seconds:.0f}"


def trials(sizes: Sequence[int], schedules: int) -> Iterator[Trial]:
    for size in sizes:
        of = replace(product(), concurrency=size)
        yield Trial(
            size,
            run(of, fleet(DATABASES), schedules),
            run(of, fleet(DATABASES, HANGING), schedules),
        )


def and_the_rules(sizes: Sequence[int]) -> list[int]:
    return sorted({*sizes, concurrency(DATABASES, product())})


def simulated(effort: Effort) -> Section:
    section = Section(f"A fleet of {DATABASES:,}, simulated")
    schedules = SCHEDULES if effort.is_full else 6
    of = product()
    rule = concurrency(DATABASES, of)
    tried = list(trials(and_the_rules(CONCURRENCY if effort.is_full else DRAWN), schedules))
    (chosen,) = (trial for trial in tried if trial.concurrency == rule)
    worst = Spread([max(chosen.ill.sweep_all().values())])
    section.bars.append(
        Bar(
            f"{HANGING:.0%} hang, {rule} at once: until the others are swept",
            worst,
            of.period,
            " s",
        )
    )
    head = ("at once", "all answer: median", "worst", f"{HANGING:.0%} hang: median", "worst")
    title = (
        "Seconds until every database that answers is swept, "
        f"{schedules} schedules {of.period:.0f} s apart"
    )
    section.tables += [
        Table(title, head, [trial.row() for trial in tried]),
        Table(
            f"Dollars a month, {DATABASES:,} databases, {rule} at once", *dollars(chosen, schedules)
        ),
        Table(f"What a shorter timeout does where {HANGING:.0%} hang", *timeouts(schedules)),
    ]
    section.charts |= {
        "fleet-time.svg": time_chart(tried, of),
        "fleet-backlog.svg": backlog_chart(),
        "fleet-cost.svg": cost_chart(schedules),
    }
    section.notes.append(
        "A model of discrete events, the same at every run, with the template's own numbers: "
        "invocations of "
        f"{of.timeout:.0f} s at most and {of.batch} messages, tried again after "
        f"{of.visibility:.0f} s, {of.tries} "
        f"times in all, stale after {of.stale:.0f} s. Assumed: sweeps of {USUAL} s in the median, "
        f"lognormal; "
        f"{LOOKED_AT_TWICE:.0%} of the databases looked at twice; whoever hangs takes all the "
        f"time there is. Prices "
        "are the list's, us-east-1, without secrets and endpoints."
    )
    section.raw = {str(trial.concurrency): trial.row() for trial in tried}
    return section


def time_chart(tried: Sequence[Trial], of: Product) -> str:
    lines = {
        f"{HANGING:.0%} hang: worst": [
            (t.concurrency, max(t.ill.sweep_all().values())) for t in tried
        ],
        f"{HANGING:.0%} hang: median": [
            (t.concurrency, median(t.ill.sweep_all().values())) for t in tried
        ],
        "all answer: worst": [(t.concurrency, max(t.well.sweep_all().values())) for t in tried],
        "the next schedule": [(t.concurrency, of.period) for t in (tried[0], tried[-1])],
    }
    finite = {name: [point for point in line if point[1] < inf] for name, line in lines.items()}
    return chart(
        f"Sweeping {DATABASES:,} databases",
        finite,
        "invocations at once",
        "seconds until all are swept",
    )


def backlog_chart() -> str:
    """The messages that are left of a schedule when the next one comes."""
    lines = {f"{size} at once": backlog(size) for size in and_the_rules(DRAWN)}
    began, ended = (f"{at / MINUTE:.0f}" for at in OUTAGE)
    title = f"{HANGING:.0%} of {DATABASES:,} hang, minutes {began} to {ended}"
    return chart(
        title, lines, "minute", "messages waiting when the next schedule comes", is_log=False
    )


@cache
def backlog(size: int, schedules: int = 24) -> Sequence[tuple[float, float]]:
    of = replace(product(), concurrency=size)
    found = dict(every(run(of, fleet(DATABASES, HANGING, OUTAGE), schedules), 1.0))
    times = [turn * of.period - 1.0 for turn in range(1, schedules + 1)]
    return [((at + 1.0) / MINUTE, float(found.get(at, 0))) for at in times]


def dollars(chosen: Trial, schedules: int) -> tuple[Sequence[str], list[list[str]]]:
    columns = {
        "all metrics": usage(chosen.well, schedules, TargetMetrics.ALL).bill(),
        "few": usage(chosen.well, schedules, TargetMetrics.FEW).bill(),
        f"few, {HANGING:.0%} hang": usage(chosen.ill, schedules, TargetMetrics.FEW).bill(),
    }
    items = [item for item, price in columns["few"].items() if price]
    rows = [[item, *(f"{bill[item]:,.2f}" for bill in columns.values())] for item in items]
    return ("item", *columns), [
        *rows,
        ["all", *(f"{sum(bill.values()):,.0f}" for bill in columns.values())],
    ]


def timeouts(schedules: int) -> tuple[Sequence[str], list[list[str]]]:
    head = (
        "TimeoutSeconds",
        "FleetVisibilitySeconds",
        "at once, by the rule",
        "worst, seconds",
        "function, dollars",
    )
    return head, [
        with_timeout(*times, schedules)
        for times in ((60, 360), (30, 360), (30, 180), (20, 360), (20, 120))
    ]


def with_timeout(seconds: int, visible: int, schedules: int) -> list[str]:
    given = product(TimeoutSeconds=str(seconds), FleetVisibilitySeconds=str(visible))
    of = replace(given, concurrency=concurrency(DATABASES, given))
    found = run(of, fleet(DATABASES, HANGING), schedules)
    cost = usage(found, schedules, TargetMetrics.FEW).bill()["function"]
    return [
        str(seconds),
        str(visible),
        str(of.concurrency),
        told(max(found.sweep_all().values())),
        f"{cost:,.0f}",
    ]


def cost_chart(schedules: int) -> str:
    lines: dict[str, list[tuple[float, float]]] = {}
    for count in FLEETS:
        of = replace(product(), concurrency=concurrency(count, product()))
        well, ill = (run(of, fleet(count, hanging), schedules) for hanging in (0.0, HANGING))
        for name, found, of_target in (
            ("all metrics", well, TargetMetrics.ALL),
            ("few metrics", well, TargetMetrics.FEW),
        ):
            lines.setdefault(name, []).append(
                (count, usage(found, schedules, of_target).bill()["metrics"])
            )
        for name, found in ((f"the rest, {HANGING:.0%} hang", ill), ("the rest", well)):
            bill = usage(found, schedules, TargetMetrics.FEW).bill()
            lines.setdefault(name, []).append((count, sum(bill.values()) - bill["metrics"]))
    return chart("What a fleet costs", lines, "databases", "dollars a month")


# A real invocation, measured

# The function's process as Lambda runs it, but without the runtime client: the same batch again and
# again.
FUNCTION = """
import json, resource, sys, time
from lab.context import Context
from reaper.handler import lambda_handler

record = {"eventSource": "aws:sqs", "attributes": {"ApproximateReceiveCount": "1"}}
names, turns = sys.argv[2:], int(sys.argv[1])
bodies = {name: json.dumps({"targets": [name]}) for name in names}
event = {"Records": [record | {"messageId": n, "body": body} for n, body in bodies.items()]}
processor, errors = [], []
for turn in range(turns):
    began = time.process_time()
    reports = lambda_handler(event, Context(60, memory_mb=1024))["targets"]
    processor.append(time.process_time() - began)
    errors += [report["error"] for report in reports if report["error"]]
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"processor": processor[1:], "peak_mb": peak, "errors": errors}))
"""


@dataclass(frozen=True)
class Taken:
    """What invocations with this many targets took."""

    targets: int
    # Seconds, warm
    processor: float
    peak_mb: float
    # For each sweep
    log_bytes: float
    # For each sweep
    connections: float
    # Metrics of each target
    metrics: int


def invocations(
    server: Server, names: Sequence[str], turns: int, of_target: TargetMetrics
) -> Taken:
    """Run invocations with the same targets; on PostgreSQL each is a database of its own."""
    with Proxy(server.host, server.port) as proxy:
        keys = ("name", "database") if server.engine == "postgres" else ("name",)
        near = replace(proxy.through(server), host="localhost")
        tls = {"tls": "verify", "ca": str(bundle())}
        entries = [target(near, **tls, **dict.fromkeys(keys, name)) for name in names]
        settings = {"REAPER_TARGETS": json.dumps(entries), "REAPER_TARGET_METRICS": of_target}
        # The memory of a fleet's function
        settings |= {"REAPER_KEEP_SEAT": "false"}
        environ = {
            name: value for name, value in os.environ.items() if not name.startswith("REAPER_")
        }
        done = subprocess.run(
            [sys.executable, "-c", FUNCTION, str(turns), *names],
            env=environ | settings,
            capture_output=True,
            text=True,
            check=False,
        )
        accepted = proxy.counts.accepted
    if done.returncode:
        raise RuntimeError(f"the function ended with {done.returncode}: {done.stderr[-2000:]}")
    *log, last = done.stdout.splitlines()
    said: dict[str, Any] = json.loads(last)
    if said["errors"]:
        raise RuntimeError(f"sweeps failed: {said['errors'][0]}")
    sweeps = turns * len(names)
    size = sum(len(line.encode()) + 1 for line in log)
    processor = median(said["processor"])
    return Taken(
        len(names),
        processor,
        said["peak_mb"],
        size / sweeps,
        accepted / sweeps,
        metrics_of_a_target(log),
    )


@cache
def bundle() -> Path:
    """At least as many certificates as RDS's bundle has, including the server's own, for a login to
    read.
    """
    file = authority().folder / "bundle.pem"
    file.write_text(
        authority().ca.read_text() + Path(botocore.__file__).with_name("cacert.pem").read_text()
    )
    return file


def metrics_of_a_target(log: Sequence[str]) -> int:
    """The number of metrics that CloudWatch would create from the log for each target, which is
    what it charges for.
    """
    documents = [document for line in log if "_aws" in (document := json.loads(line))]
    names = {
        metric["Name"]
        for document in documents
        for directive in document["_aws"]["CloudWatchMetrics"]
        for dimensions in directive["Dimensions"]
        for metric in directive["Metrics"]
        if "Target" in dimensions
    }
    return len(names)


def of_one(
    server: Server, turns: int = TURNS, of_target: TargetMetrics = TargetMetrics.ALL
) -> dict[str, float]:
    """What one target takes: a ninth of the memory (MB) and processor time (ms) that ten take
    beyond one, and its share of the rest.
    """
    with ExitStack() as made:
        names = [f"target_{place}" for place in range(TARGETS)]
        for name in names if server.engine == "postgres" else ():
            server.query(f"CREATE DATABASE {name}")
            made.callback(server.query, f"DROP DATABASE {name} WITH (FORCE)")
        sessions = made.enter_context(Sessions(server))
        sessions.sleeping(SESSIONS)
        one, ten = (invocations(server, names[:count], turns, of_target) for count in (1, TARGETS))
    more = TARGETS - 1
    return {
        "processor": 1000 * (ten.processor - one.processor) / more,
        "memory": (ten.peak_mb - one.peak_mb) / more,
        "log": ten.log_bytes,
        "connections": ten.connections,
        "metrics": ten.metrics,
    }


def taken(effort: Effort) -> Section:
    section = Section("A fleet's target, measured")
    limits = {
        "processor": (1000 * PROCESSOR_SECONDS, " ms", "processor time, warm"),
        "memory": (MEMORY_MB, " MB", "memory beyond the function's own"),
        "log": (LOG_BYTES, " bytes", "log, metrics included"),
        "connections": (CONNECTIONS, "", "connections"),
        "metrics": (ordinary_metrics(), "", "metrics"),
    }
    for name in SERVERS if effort.is_full else SERVERS[:1]:
        try:
            rounds = [of_one(secure(name)) for _ in range(effort.rounds(5))]
        except Unavailable as missing:
            section.skipped.append(str(missing))
            continue
        for what, (most, unit, words) in limits.items():
            section.bars.append(
                Bar(f"{name}: {words}", Spread([found[what] for found in rounds]), most, unit)
            )
        section.raw[name] = rounds
    section.notes.append(
        f"An invocation with {TARGETS} targets against one with one, dry, {SESSIONS} sessions "
        f"idle, over TLS that is "
        "verified by a bundle of more than a hundred certificates. A session takes less than 4 KB "
        "more, which a test "
        "holds."
    )
    return section
