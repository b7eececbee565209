"""What every benchmark reports: bars and whether they are reached, tables, pictures, and the raw
figures.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

# Share of the processors' time that must be idle; the rest is for the measuring itself
IDLE = 0.9


@dataclass(frozen=True)
class Spread:
    """Samples as one figure: the median, with the first and third quartile."""

    samples: Sequence[float]

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def quartiles(self) -> tuple[float, float]:
        if len(self.samples) < 2:
            return self.median, self.median
        low, _, high = statistics.quantiles(self.samples, n=4, method="inclusive")
        return low, high

    def told(self, digits: int = 2) -> str:
        low, high = self.quartiles
        return f"{self.median:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """The ratios round by round, since within a round both had the same conditions."""
    return Spread([mine / other for mine, other in zip(ours, theirs, strict=True)])


def percentile(samples: Sequence[float], percent: float) -> float:
    """The smallest sample that this percentage of the samples does not exceed."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


@dataclass(frozen=True)
class Bar:
    """A limit that was set before anything was measured."""

    what: str
    spread: Spread
    most: float
    unit: str = ""

    @property
    def is_reached(self) -> bool:
        return self.spread.median <= self.most

    def row(self) -> list[str]:
        verdict = "yes" if self.is_reached else "**no**"
        return [self.what, f"{self.spread.told()}{self.unit}", f"{self.most:g}{self.unit}", verdict]


@dataclass(frozen=True)
class Table:
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        lines = [self.head, ["---"] * len(self.head), *self.rows]
        return "\n".join([f"{self.title}:\n", *("| " + " | ".join(line) + " |" for line in lines)])


@dataclass
class Section:
    """One benchmark's results.

    `charts` are pictures by file name; `skipped` says what this machine lacks.
    """

    title: str
    bars: list[Bar] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    charts: dict[str, str] = field(default_factory=dict)
    raw: dict[str, Any] = field(default_factory=dict)

    def markdown(self) -> str:
        parts = [f"## {self.title}"]
        if self.bars:
            rows = [bar.row() for bar in self.bars]
            head = ("ratio or time", "median (middle half)", "at most", "reached")
            parts.append(Table("Bars", head, rows).markdown())
        parts += [table.markdown() for table in self.tables]
        parts += [f"![{name.removesuffix('.svg')}]({name})" for name in self.charts]
        parts += self.notes
        parts += [f"Skipped: {line}." for line in self.skipped]
        return "\n\n".join(parts)


@dataclass(frozen=True)
class Effort:
    """How much to measure: all of it, or enough to see that everything runs."""

    is_full: bool = True
    # The most sessions, for a machine that cannot hold as many as the benchmarks ask for
    most: int = 16000
    # Only servers whose names contain this; earlier results of the others are kept
    only: str = ""

    def rounds(self, full: int) -> int:
        return full if self.is_full else min(full, 2)

    def servers(self, names: Sequence[str]) -> Sequence[str]:
        return [name for name in names if self.only in name]

    def sizes(self, full: Sequence[int]) -> Sequence[int]:
        return [size for size in full if size <= self.most] if self.is_full else full[:1]


def interleaved(measures: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Take every measure once a round, each round starting with another one, so that what else the
    machine does affects all alike.
    """
    taken: dict[str, list[T]] = {name: [] for name in measures}
    names = list(measures)
    for turn in range(rounds):
        for place in range(len(names)):
            name = names[(turn + place) % len(names)]
            taken[name].append(measures[name]())
    return taken


def rest(seconds: float = 0.2, patience: float = 30.0) -> None:
    """Wait until the processors have been nearly idle for this long, so that whatever came before
    is over.

    The load average, over a minute, says that late. Where the system does not tell, there is
    nothing to wait for.
    """
    give_up = time.monotonic() + patience
    before = _ticks()
    while before and time.monotonic() < give_up:
        # No event says that processors are idle, so their counters are compared over this time
        time.sleep(seconds)
        after = _ticks()
        passed = [now - then for now, then in zip(after, before, strict=True)]
        # Idle, and waiting for a disk
        if sum(passed[3:5]) >= IDLE * sum(passed):
            return
        before = after


def _ticks() -> list[int]:
    """The ticks of all processors since the start, by kind; empty where the system does
    not tell.
    """
    return [int(field) for line in _lines("/proc/stat")[:1] for field in line.split()[1:9]]


def machine() -> dict[str, Any]:
    """The machine that the figures were taken on, and its load."""
    lines = _lines("/proc/cpuinfo")
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    model = next(names, platform.machine())
    memory = next(
        (
            int(line.split()[1]) // 1024
            for line in _lines("/proc/meminfo")
            if line.startswith("MemTotal")
        ),
        0,
    )
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "memory_mb": memory,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load": os.getloadavg(),
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
