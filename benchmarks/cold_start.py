"""What a cold start of the built function imports, compared with the sum of what it cannot do
without.

The function is measured as it is deployed, compiled; what it is compared with as `sam build` leaves
it, which is what anybody else's function has of it, and compiled as well.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from lab.artifact import AT_HAND, HOST, build
from lab.lambdas import Code, Function, provided

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
from aws_lambda_powertools.metrics.provider.cloudwatch_emf.cloudwatch import (
    AmazonCloudWatchEMFProvider,
)
"""
SWEEP = """
from reaper.client.drivers import driver_for
from reaper.client.target import EngineName
from reaper.engines import engine_for
driver_for(EngineName("{0}")), engine_for(EngineName("{0}"))
"""
HANDLER = "import reaper.handler\n"
DRIVERS = {"mysql": "import pymysql\n", "postgres": "import psycopg\n"}
# What a sweep imports, and what no sweep can do without.
PAIRS = {
    engine: (HANDLER + SWEEP.format(engine), POWERTOOLS + driver)
    for engine, driver in DRIVERS.items()
}
ALONE = {
    "Powertools": POWERTOOLS,
    "PyMySQL": DRIVERS["mysql"],
    "psycopg": DRIVERS["postgres"],
    "reaper.handler": HANDLER,
    "both drivers in vain": HANDLER + "".join(DRIVERS.values()),
}
HANDLES = "reaper.handler.lambda_handler"
EMPTY = "def handler(event, context):\n    return event\n"


def measure(effort: Effort) -> list[Section]:
    built = build(AT_HAND, HOST)
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain"
        shutil.copytree(built.function.path, plain, ignore=shutil.ignore_patterns("__pycache__"))
        (Path(folder) / "empty.py").write_text(EMPTY)
        compiled: dict[str, Callable[[], float]] = {
            f"{name}, compiled": partial(import_ms, imports, built.function.path)
            for name, imports in _imports().items()
        }
        as_built: dict[str, Callable[[], float]] = {
            name: partial(import_ms, imports, plain) for name, imports in _imports().items()
        }
        starts: dict[str, Callable[[], float]] = {
            "start of an empty function": partial(start_ms, Code([Path(folder)], "empty.handler")),
            "start of the reaper": partial(start_ms, Code([built.function.path], HANDLES)),
            "start of the reaper, not compiled": partial(start_ms, Code([plain], HANDLES)),
        }
        taken = interleaved({**as_built, **compiled, **starts}, effort.rounds(ROUNDS))
    section = Section("Cold start")
    rows = []
    for engine in PAIRS:
        ours, bare = (f"{engine}: {what}" for what in ("a sweep's imports", "the bare ones"))
        as_deployed = ratios(taken[f"{ours}, compiled"], taken[bare])
        section.bars.append(Bar(f"{ours} / Powertools and the driver", as_deployed, AT_MOST))
        both = (ratios(taken[f"{ours}{how}"], taken[f"{bare}{how}"]) for how in ("", ", compiled"))
        rows.append([engine, *(found.told() for found in (as_deployed, *both))])
    head = (
        "a sweep's imports / Powertools and the driver",
        "as deployed / as built",
        "both as built",
        "both compiled",
    )
    section.tables.append(Table("What our own modules add", head, rows))
    title = f"Milliseconds in a fresh process, the built artifact, Python {AT_HAND}"
    lines = [[name, Spread(values).told(0)] for name, values in taken.items()]
    section.tables.append(Table(title, ("what", "ms"), lines))
    section.notes += [_STARTS, _COMPILED]
    section.raw = dict(taken)
    return [section]


_STARTS = (
    "The start of the reaper ends with its first answer, an error where no targets are set: with "
    "it come the "
    "runtime client and boto3's own start. `both drivers in vain` is what a start would cost if "
    "each were imported "
    "whether it is needed or not."
)
_COMPILED = (
    "`sam build` leaves modules to be compiled, and Lambda, where nothing can be written, does so "
    "at each cold start; "
    "`make build` compiles them, ours and all that they need. The bar holds what is deployed "
    "against what anybody "
    "pays for Powertools and the driver alone. Compiled themselves these take half of that; of "
    "what then remains of "
    "our own most goes to the making of some forty dataclasses. A sweep imports neither "
    "the advice nor the planner nor the driver of another engine."
)


def _imports() -> Mapping[str, str]:
    pairs = {
        f"{engine}: {what}": imports
        for engine, pair in PAIRS.items()
        for what, imports in zip(("a sweep's imports", "the bare ones"), pair, strict=True)
    }
    return {**ALONE, **pairs}


def import_ms(imports: str, code: Path) -> float:
    """Milliseconds of an import in a fresh process that writes no cache and can import only the
    code and what Lambda provides.
    """
    done = subprocess.run(
        [sys.executable, "-S", "-c", TIMED.format(imports=imports)],
        env={
            "PYTHONPATH": os.pathsep.join(map(str, (code, provided()))),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def start_ms(code: Code) -> float:
    """Milliseconds from the start to an answer under Lambda's runtime client. Without targets the
    reaper's answer is an error.
    """
    with Function(code) as function:
        return 1000 * function.invoke({}).seconds
