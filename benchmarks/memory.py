"""The processor time of an invocation, hence its duration at each memory size; and its
peak memory.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import boto3
from moto import mock_aws

from lab.amazon import REGION, Amazon
from lab.artifact import AT_HAND, HOST, build
from lab.crowd import Crowd, held
from lab.lambdas import Code, Function
from lab.servers import start
from lab.targets import target

from .base import Effort, Section, Spread, Table
from .looking import cpu_seconds

SERVER = "postgres18"
SESSIONS, VICTIMS = 250, 100
ROUNDS = 5
# MB; the last one comes with a whole processor (AWS, "Configure Lambda function memory")
SIZES = (256, 512, 1024, 1769)
RULES = {"dry_run": False, "idle_seconds": 0, "max_kills": VICTIMS, "allow_users": ["app"]}


def measure(effort: Effort) -> list[Section]:
    code = build(AT_HAND, HOST)
    with ExitStack() as stack:
        server = stack.enter_context(start(SERVER, settings=held("postgres", (SESSIONS,))))
        stack.enter_context(mock_aws())
        amazon = stack.enter_context(Amazon())
        login = json.dumps({"username": "reaper", "password": ""})
        secret = boto3.client("secretsmanager", region_name=REGION).create_secret(
            Name="reaper", SecretString=login
        )
        environ = {
            **amazon.environ,
            "REAPER_TARGETS": json.dumps([target(server, secret=secret["ARN"])]),
            "REAPER_DRY_RUN": "false",
        }
        function = stack.enter_context(
            Function(Code([code.function.path], "reaper.handler.lambda_handler", environ))
        )
        taken: dict[str, list[float]] = {"first": [], "later": [], "peak": []}
        for _ in range(effort.rounds(ROUNDS)):
            function.close()
            for which in ("first", "later"):
                with Crowd(server, SESSIONS) as crowd:
                    crowd.doze()
                    taken[which].append(_processor_seconds(function))
            taken["peak"].append(_peak_mb(function.runtime.pid))
    return [_section(taken)]


def _processor_seconds(function: Function) -> float:
    """Processor seconds of the function's process for one invocation, including its start if it
    starts for it.
    """
    before = cpu_seconds(function.runtime.pid) if function.environment else 0.0
    invocation = function.invoke({"trigger": "manual", "rules": RULES})
    if invocation.error:
        raise RuntimeError(f"the function failed: {invocation.error}")
    (report,) = invocation.answer["targets"]
    if report["error"] or report["outcomes"] != {"terminated": VICTIMS}:
        raise RuntimeError(f"not {VICTIMS} were terminated: {report['error'] or report['counts']}")
    return cpu_seconds(function.runtime.pid) - before


def _peak_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return (
        int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
        / 1024
    )


def _section(taken: dict[str, list[float]]) -> Section:
    section = Section("Memory sizes", raw=dict(taken))
    seconds = {which: Spread(taken[which]).median for which in ("first", "later")}
    rows = [
        [f"{size:,} MB", *(f"{found * SIZES[-1] / size:.2f}" for found in seconds.values())]
        for size in SIZES
    ]
    title = (
        "Seconds of an invocation, by a processor's share: "
        f"{SESSIONS} sessions on {SERVER}, {VICTIMS} terminated"
    )
    section.tables.append(Table(title, ("memory", "the first", "a later one"), rows))
    section.notes.append(
        f"The built function took {Spread(taken['first']).told()} s of a processor for the first "
        f"invocation, its start "
        f"and the loading of boto3 and the driver included, and {Spread(taken['later']).told()} s "
        f"for a later one; its "
        f"process peaked at {Spread(taken['peak']).told(0)} MB. Lambda gives a processor's share "
        f"by memory, a whole "
        f"one at {SIZES[-1]:,} MB: the table is that division, not a measurement, and leaves out "
        f"all waiting."
    )
    return section
