"""The fleet's model keeps to the queue's rules, and what the README says of a thousand databases
follows from it.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import pairwise
from math import inf
from statistics import median

import pytest

from benchmarks import fleet
from benchmarks.fanout import Database, Fanout, Fate, Platform, Product, Run
from benchmarks.fleet import DATABASES, HANGING, SCHEDULES, concurrency, product
from benchmarks.prices import HOURS, METRIC, SECRET, SECRET_READ, tiered
from lab import ROOT
from lab.cloudformation import source
from reaper.metrics import FEW
from reaper.settings import TargetMetrics

README = (ROOT / "README.md").read_text(encoding="utf-8")
SECTION = README.partition("\n## A fleet\n")[2].partition("\n## ")[0]

# Rounder than the template's, so that times can be told by heart.
PLAIN = Product(
    period=300.0,
    timeout=60.0,
    reserve=2.0,
    side_by_side=16,
    batch=10,
    sent_at_once=10,
    concurrency=2,
    visibility=360.0,
    tries=3,
    stale=600.0,
)
AT_ONCE = Platform(cold_start=0.0, handover=0.0, planning=0.0, sending=0.0)
QUICK = Database(usual=1.0, spread=0.0, processor=0.0)
HANGS = replace(QUICK, hangs=(0.0, inf))


def run(databases: list[Database], schedules: int = 1, of: Product = PLAIN, seed: int = 1) -> Run:
    return Fanout(of, AT_ONCE, databases, seed).simulate(schedules)


@cache
def trial(size: int) -> fleet.Trial:
    (found,) = fleet.trials([size], SCHEDULES)
    return found


# The model


def test_the_same_seed_gives_the_same_run() -> None:
    """Nothing but the numbers and the seed decides: no clock, no order of a set."""
    databases = fleet.fleet(100, HANGING)
    one, again, other = (
        Fanout(PLAIN, Platform(), databases, seed).simulate(4) for seed in (1, 1, 2)
    )
    assert one == again
    assert one.done != other.done


@pytest.mark.parametrize("size", [2, 7])
@pytest.mark.parametrize("hanging", [0.0, 0.05, 0.3])
def test_no_message_is_lost(size: int, hanging: float) -> None:
    """Each that was sent is swept, or fails as often as it may be tried, or is dropped as stale;
    once.
    """
    of = replace(PLAIN, concurrency=size)
    found = Fanout(of, Platform(), fleet.fleet(300, hanging), 1).simulate(6)
    assert found.sent == 6 * 300
    assert Counter(done.message.number for done in found.done) == Counter(range(found.sent))
    assert {done.message.tries for done in found.done if done.fate is Fate.FAILED} <= {of.tries}
    assert all(done.message.tries == 1 for done in found.done if done.fate is Fate.STALE)
    assert (found.fates[Fate.FAILED] > 0) == (hanging > 0)


@pytest.mark.parametrize("size", [2, 11, 40])
def test_no_more_at_once_than_there_may_be(size: int) -> None:
    """Neither invocations, nor messages in one, nor sweeps of one database."""
    found = Fanout(
        replace(PLAIN, concurrency=size), Platform(), fleet.fleet(500, HANGING), 1
    ).simulate(4)
    ends = sorted(
        [(batch.received, 1) for batch in found.batches]
        + [(batch.ended, -1) for batch in found.batches]
    )
    busy = most = 0
    for _, change in ends:
        busy += change
        most = max(most, busy)
    assert most == size
    assert max(len(batch.messages) for batch in found.batches) == PLAIN.batch
    of_database: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for batch in found.batches:
        for database in {message.database for message in batch.messages}:
            failed = any(
                message.number in batch.failed
                for message in batch.messages
                if message.database == database
            )
            out_until = max(batch.ended, batch.received + PLAIN.visibility if failed else 0.0)
            of_database[database].append((batch.received, out_until))
    assert all(
        until <= begins
        for spans in of_database.values()
        for (_, until), (begins, _) in pairwise(spans)
    )


def test_one_who_hangs_takes_an_invocation_and_nobody_elses_sweep() -> None:
    """The nine beside it are swept within their own second; the invocation lasts to the end of its
    share.
    """
    found = run([HANGS, *[QUICK] * 9])
    first, *again = found.batches
    assert (first.seconds, len(first.messages)) == (58.0, 10)
    assert sorted(first.swept.values()) == [1.0] * 9
    assert [(batch.received, len(batch.messages)) for batch in again] == [(360.0, 1), (720.0, 1)]
    assert [(done.fate, done.at) for done in found.done[9:]] == [(Fate.FAILED, 1080.0)]


def test_what_waits_behind_it_is_tried_with_it() -> None:
    """SQS hands out all of a group at once; the second in the chain finds no time left, and fails
    as often.
    """
    found = run([HANGS], schedules=2)
    assert [[m.planned for m in batch.messages] for batch in found.batches] == [
        [0],
        [0, 300],
        [0, 300],
        [300],
    ]
    assert found.batches[1].seconds == 58.0
    assert [(done.message.planned, done.fate, done.at) for done in found.done] == [
        (0.0, Fate.FAILED, 1080.0),
        (300.0, Fate.FAILED, 1440.0),
    ]


def test_what_is_stale_is_dropped_unless_it_was_tried() -> None:
    """As the handler does it: one too old at its first turn is not swept, one that failed is tried
    however old.
    """
    found = run([HANGS], schedules=2, of=replace(PLAIN, stale=30.0))
    fates = [(done.message.planned, done.fate, done.message.tries) for done in found.done]
    assert fates == [(300.0, Fate.STALE, 1), (0.0, Fate.FAILED, 3)]


def test_few_invocations_share_many_messages() -> None:
    """Thirty at once for two invocations of ten: two go first, the third when one of them has
    ended.
    """
    found = run([QUICK] * 30)
    assert [(batch.received, batch.ended) for batch in found.batches] == [
        (0.0, 1.0),
        (0.0, 1.0),
        (1.0, 2.0),
    ]


def test_a_cold_start_counts_and_a_warm_one_does_not() -> None:
    """An environment that has waited for a schedule is warm still; one after a long pause is
    not.
    """
    cold = replace(AT_ONCE, cold_start=3.0)
    found = Fanout(PLAIN, cold, [QUICK], 1).simulate(2)
    assert [batch.seconds for batch in found.batches] == [4.0, 1.0]
    hourly = Fanout(replace(PLAIN, period=3600.0), cold, [QUICK], 1).simulate(2)
    assert [batch.seconds for batch in hourly.batches] == [4.0, 4.0]


def test_sweeps_share_a_processor() -> None:
    """Ten that wait for nobody take as long as their work does on what comes with the function's
    memory.
    """
    busy = replace(QUICK, usual=0.0, processor=0.1)
    (batch,) = run([busy] * 10).batches
    assert batch.seconds == pytest.approx(10 * 0.1 / AT_ONCE.processor_share)


def test_more_invocations_open_with_time() -> None:
    """After a pause Lambda begins with five, and adds five a second."""
    found = run([QUICK] * 100, of=replace(PLAIN, concurrency=10))
    assert [batch.received for batch in found.batches[:7]] == pytest.approx([0.0] * 5 + [0.2, 0.4])


# The product


def test_the_models_numbers_are_the_templates() -> None:
    """A parameter of the stack is one of the model; the rule asks for no fewer invocations than SQS
    allows.
    """
    times = {"TimeoutSeconds": "30", "FleetVisibilitySeconds": "90", "FleetStaleSeconds": "120"}
    changed = product(**times, FleetConcurrency="7", Schedule="rate(1 minute)")
    assert (changed.timeout, changed.visibility, changed.concurrency) == (30.0, 90.0, 7)
    assert (changed.stale, changed.period) == (120.0, 60.0)
    assert (changed.batch, changed.tries) == (10, 3)
    assert concurrency(1, product()) == source()["Parameters"]["FleetConcurrency"]["MinValue"]


@pytest.mark.parametrize(
    ("databases", "period", "timeout", "visibility"),
    [
        (100, 300, 60, 360),
        (300, 60, 30, 180),
        (300, 300, 120, 120),
        (1000, 300, 60, 360),
        (1000, 300, 20, 360),
        (1000, 300, 30, 180),
        (1000, 900, 120, 720),
    ],
)
def test_the_rule_keeps_up(databases: int, period: int, timeout: int, visibility: int) -> None:
    """With as many invocations as it says, whoever answers is swept before the next schedule,
    though 5 % hang.
    """
    of = replace(product(), period=period, timeout=timeout, visibility=visibility, stale=2 * period)
    of = replace(of, concurrency=concurrency(databases, of))
    assert max(fleet.run(of, fleet.fleet(databases, HANGING), 8).sweep_all().values()) <= period


def test_half_of_it_does_not() -> None:
    """The rule is no luxury: with half of what it says some databases are not swept at all."""
    half = concurrency(DATABASES, product()) // 2
    assert max(trial(half).ill.sweep_all().values()) == inf
    assert max(trial(half).well.sweep_all().values()) < product().period


# The bill


def test_volume_is_cheaper() -> None:
    """Each tier is paid at its own price."""
    assert tiered(0, METRIC) == 0
    assert tiered(10_000, METRIC) == pytest.approx(3000)
    assert tiered(18_000, METRIC) == pytest.approx(3000 + 800)
    assert tiered(1_100_000, METRIC) == pytest.approx(3000 + 24_000 + 37_500 + 2000)


def test_few_metrics_change_the_metrics_and_nothing_else() -> None:
    """A target's own go down to the short list; the stack's, and all other items, stay."""
    found = trial(concurrency(DATABASES, product())).well
    full, few = (
        fleet.usage(found, SCHEDULES, of_target)
        for of_target in (TargetMetrics.ALL, TargetMetrics.FEW)
    )
    assert full.metrics - few.metrics == DATABASES * (fleet.ordinary_metrics() - len(FEW))
    assert replace(full, metrics=0) == replace(few, metrics=0)


# The README


def rows(header: str) -> list[list[str]]:
    (found,) = re.findall(
        rf"^\| {re.escape(header)} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", SECTION, re.MULTILINE
    )
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in found.splitlines()]


def number(text: str) -> float:
    return float(re.sub(r"[^\d.]", "", text))


def test_the_readme_has_the_rule() -> None:
    """Its formula is the function's, with the share, the quarter of a second, and what comes of
    them.
    """
    (formula,) = re.findall(r"```text\n(FleetConcurrency = .*?)```", SECTION, re.DOTALL)
    assert f"{HANGING:.0%}".replace("%", " %") in formula
    assert f"{fleet.OF_A_BATCH:g} s" in formula
    least, for_all = concurrency(1, product()), concurrency(DATABASES, product())
    assert f"rounded up, {least} at least: {for_all} for {DATABASES:,} databases" in SECTION
    (default, most) = re.findall(r"the default of (\d+) is enough\s+for (\d+)", SECTION)[0]
    assert concurrency(int(most), product()) == product().concurrency == int(default)


def test_the_readmes_times_are_the_models() -> None:
    """Seconds by concurrency, in the table beside the picture."""
    said = rows("invocations at once")
    assert str(concurrency(DATABASES, product())) in [row[0] for row in said]
    for row in said:
        found = trial(int(row[0]))
        seconds = [list(run.sweep_all().values()) for run in (found.well, found.ill)]
        expected = [how(values) for values in seconds for how in (median, max)]
        assert [inf if "never" in cell else number(cell) for cell in row[1:]] == pytest.approx(
            expected, rel=0.1
        )


def test_the_readmes_bill_is_the_models() -> None:
    """Dollars a month for each item, and their sum."""
    _, expected = fleet.dollars(trial(concurrency(DATABASES, product())), SCHEDULES)
    said = rows(f"a month, {DATABASES:,} databases")
    assert [row[0] for row in said] == [row[0] for row in expected]
    for ours, theirs in zip(said, expected, strict=True):
        assert [number(cell) for cell in ours[1:]] == pytest.approx(
            [number(c) for c in theirs[1:]], rel=0.03, abs=0.6
        )
    reads = HOURS * 3600 / product().period * SECRET_READ
    assert f"${SECRET:.2f} for each, and ${reads:.2f} for reading it" in SECTION


def test_the_readmes_backlog() -> None:
    """What it says of the messages that pile up while some hang, and when they are gone."""
    (minutes,) = re.findall(r"within (\w+) minutes after the others answer again", SECTION)
    ((two, five),) = re.findall(
        r"above ([\d,]+) with two\s+invocations at once, near ([\d,]+) with five", SECTION
    )
    sizes = fleet.and_the_rules(fleet.DRAWN)
    most = {size: max(count for _, count in fleet.backlog(size)) for size in sizes}
    assert most[2] > number(two)
    assert most[5] == pytest.approx(number(five), rel=0.1)
    assert most[concurrency(DATABASES, product())] < 50
    over = fleet.OUTAGE[1] / fleet.MINUTE + {"twenty": 20}[minutes]
    assert all(count == 0 for size in sizes for at, count in fleet.backlog(size) if at >= over)


def test_the_readmes_shorter_timeout() -> None:
    """What it says of one: enough invocations by the rule, in time, and the function's price beside
    the default's.
    """
    words = (
        r"with (\d+) and (\d+) five\s+invocations at once do, and the function costs "
        r"\$(\d+) a month in place of \$(\d+)"
    )
    ((seconds, visible, cost, default),) = re.findall(words, SECTION)
    found = fleet.with_timeout(int(seconds), int(visible), SCHEDULES)
    assert found[2] == "5"
    assert number(found[3]) <= product().period
    prices = number(found[4]), number(fleet.with_timeout(60, 360, SCHEDULES)[4])
    assert (number(cost), number(default)) == pytest.approx(prices, rel=0.03)


def test_the_readmes_limits_are_those_that_are_measured() -> None:
    """What a target takes: the figures that the tests beside this one and the benchmark hold
    against real servers.
    """
    said = {row[0]: row[1] for row in rows("a target takes")}
    assert said["connections"].startswith(f"{fleet.CONNECTIONS} while")
    assert said["metrics"].startswith(f"{fleet.ordinary_metrics()}, or {len(FEW)} with")
    assert said["memory"].startswith(f"less than {fleet.MEMORY_MB:g} MB")
    assert said["log"].startswith(f"less than {fleet.LOG_BYTES / 1024:g} KB")
    assert said["processor"].startswith(f"less than {1000 * fleet.PROCESSOR_SECONDS:g} ms")


def points(picture: str) -> list[float]:
    return [
        float(at)
        for pair in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', picture)
        for at in pair
    ]


@pytest.mark.parametrize("name", ["fleet-time.svg", "fleet-backlog.svg", "fleet-cost.svg"])
def test_the_pictures_are_the_models(name: str) -> None:
    """Drawn anew they are the same; else: python -m benchmarks fleet."""
    assert f"](benchmarks/{name})" in SECTION
    sizes = fleet.and_the_rules(fleet.CONCURRENCY)
    pictures: dict[str, Callable[[], str]] = {
        "fleet-time.svg": lambda: fleet.time_chart([trial(size) for size in sizes], product()),
        "fleet-backlog.svg": fleet.backlog_chart,
        "fleet-cost.svg": lambda: fleet.cost_chart(SCHEDULES),
    }
    drawn = pictures[name]()
    kept = (ROOT / "benchmarks" / name).read_text()
    assert re.findall("<text.*", kept) == re.findall("<text.*", drawn)
    assert points(kept) == pytest.approx(points(drawn), abs=2)
