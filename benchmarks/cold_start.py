"""What a cold start of the built function imports, against the sum of what it cannot do without."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from tests.deploy.artifact import AT_HAND, HOST, Build, build
from tests.deploy.lambdas import Code, Function, provided

from .base import Bar, Effort, Section, Spread, Table, interleaved, ratios

ROUNDS = 15
AT_MOST = 1.15

TIMED = """
from time import perf_counter
begun = perf_counter()
{imports}
print(1000 * (perf_counter() - begun))
"""
POWERTOOLS = """
from aws_lambda_powertools import Logger
from aws_lambda_powertools.metrics.provider.cloudwatch_emf.cloudwatch import AmazonCloudWatchEMFProvider
"""
SWEEP = """
from reaper.client.drivers import driver_for
from reaper.client.target import EngineName
from reaper.engines import engine_for
driver_for(EngineName("{0}")), engine_for(EngineName("{0}"))
"""
HANDLER = "import reaper.handler\n"
DRIVERS = {"mysql": "import pymysql\n", "postgres": "import psycopg\n"}
# What a sweep imports, and what it cannot do without.
PAIRS = {engine: (HANDLER + SWEEP.format(engine), POWERTOOLS + driver) for engine, driver in DRIVERS.items()}
ALONE = {
    "Powertools": POWERTOOLS,
    "PyMySQL": DRIVERS["mysql"],
    "psycopg": DRIVERS["postgres"],
    "reaper.handler": HANDLER,
    "both drivers in vain": HANDLER + "".join(DRIVERS.values()),
}
EMPTY = "def handler(event, context):\n    return event\n"


def measure(effort: Effort) -> list[Section]:
    built = build(AT_HAND, HOST)
    measures: dict[str, Callable[[], float]] = {
        name: partial(import_ms, imports, built) for name, imports in _imports().items()
    }
    with tempfile.TemporaryDirectory() as folder:
        for engine, (imports, _) in PAIRS.items():
            measures[f"{engine}: a sweep's imports, with .pyc"] = partial(import_ms, imports, built, folder)
            import_ms(imports, built, folder)  # which writes them
        (Path(folder) / "empty.py").write_text(EMPTY)
        measures["start of an empty function"] = partial(start_ms, Code([Path(folder)], "empty.handler"))
        reaper = Code([built.function.path], "reaper.handler.lambda_handler")
        measures["start of the reaper"] = partial(start_ms, reaper)
        taken = interleaved(measures, effort.rounds(ROUNDS))
    section = Section("Cold start")
    for engine in PAIRS:
        ours, bare = (taken[f"{engine}: {what}"] for what in ("a sweep's imports", "the bare ones"))
        what = f"{engine}: a sweep's imports / Powertools and the driver"
        section.bars.append(Bar(what, ratios(ours, bare), AT_MOST))
    rows = [[name, Spread(values).told(0)] for name, values in taken.items()]
    title = f"Milliseconds in a fresh process, the built artifact, Python {AT_HAND}, no .pyc, as on Lambda"
    section.tables.append(Table(title, ("what", "ms"), rows))
    section.notes.append(
        "The start of the reaper ends with its first answer, an error where no targets are set: with it come the "
        "runtime client and boto3's own start. `both drivers in vain` is what a start would cost if each were imported "
        "whether it is needed or not."
    )
    section.notes.append(_LIMIT)
    section.raw = dict(taken)
    return [section]


_LIMIT = (
    "Where the bar is missed: `sam build` puts no .pyc into the artifact and Lambda can write none, so every cold "
    "start compiles what it imports. A sweep imports neither the advice nor the planner "
    "nor the driver of another engine, what is left is what a sweep runs. With .pyc the "
    "same imports take what the table says; we ship none, for they hold for one version of Python only."
)


def _imports() -> Mapping[str, str]:
    pairs = {
        f"{engine}: {what}": imports
        for engine, pair in PAIRS.items()
        for what, imports in zip(("a sweep's imports", "the bare ones"), pair, strict=True)
    }
    return {**ALONE, **pairs}


def import_ms(imports: str, built: Build, compiled: str | None = None) -> float:
    """In a fresh process, with nothing to import from but the artifact and what Lambda provides.

    With a folder for compiled modules they are kept there; without, each is compiled, as where nothing can be written.
    """
    keeps = {"PYTHONPYCACHEPREFIX": compiled} if compiled else {"PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-S", "-c", TIMED.format(imports=imports)],
        env={"PYTHONPATH": os.pathsep.join(map(str, (built.function.path, provided())))} | keeps,
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def start_ms(code: Code) -> float:
    """From nothing to an answer under Lambda's runtime client; without targets the reaper's answer is an error."""
    with Function(code) as function:
        return 1000 * function.invoke({}).seconds
