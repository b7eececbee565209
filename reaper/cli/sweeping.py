"""One sweep from the command line: its target, the question before the kills, the progress."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import typer
from rich.progress import Progress

from reaper.cli.render import busy, errors, victims_table
from reaper.client.deadline import Clock, Deadline
from reaper.client.fields import ConfigurationError
from reaper.client.redaction import hint, redact
from reaper.client.redaction import printable as clean
from reaper.environment import targets_from_environ
from reaper.model import SweepTarget, Verdict
from reaper.report import Report, Victim
from reaper.request.events import SweepRequest, Trigger
from reaper.request.plan import Job, plan_command
from reaper.rules import Rules, RulesPatch
from reaper.sweep import Observers, Sweep


def jobs_for(named: Sequence[str], request: SweepRequest) -> list[Job]:
    """A job for each target, with its final rules.

    Raises ConfigurationError before the first connection if any of them is not understood.
    """
    targets = [target_of(name) for name in named]
    return plan_command(request, targets, RulesPatch.from_environ(os.environ))


def target_of(named: str) -> SweepTarget:
    """The target of a DSN, or the one that is configured by this name.

    Raises ConfigurationError for a name that is not configured.
    """
    if "://" in named:
        return SweepTarget.from_dsn(named)
    targets = {target.name: target for target in targets_from_environ(os.environ)}
    if named not in targets:
        # Redacted, since it may be a mistyped DSN with a password.
        raise ConfigurationError(f"unknown target {redact(named)!r}{hint(named, targets)}")
    return targets[named]


class _Stopwatch:
    """The monotonic clock, which stands still while the operator thinks."""

    def __init__(self) -> None:
        self._paused = 0.0

    def __call__(self) -> float:
        return time.monotonic() - self._paused

    @contextmanager
    def pause(self) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._paused += time.monotonic() - began


def sweep_of(
    target: SweepTarget,
    rules: Rules,
    timeout: float,
    observers: Observers,
    clock: Clock = time.monotonic,
) -> Sweep:
    """A sweep of the target that must end within `timeout` seconds."""
    deadline = Deadline.after(timeout, clock)
    return Sweep(
        target, rules, Trigger.MANUAL, deadline, two_looks=True, observers=observers, clock=clock
    )


def scan_one(sweep: Sweep) -> Report:
    """Run a sweep, with a spinner on a terminal."""
    with busy(f"looking at {sweep.target.name} ..."):
        return sweep.run()


def kill_one(target: SweepTarget, rules: Rules, timeout: float, yes: bool) -> Report:
    """Sweep a target, asking before the kills unless `yes`, with a progress bar on a terminal.

    The time that the operator takes to answer does not count towards the timeout.
    """
    progress = Progress(console=errors(), transient=True)
    task = progress.add_task("terminating", total=None)
    stopwatch = _Stopwatch()

    def approve(verdicts: Sequence[Verdict]) -> bool:
        if not yes:
            errors().print(victims_table([Victim(verdict) for verdict in verdicts]))
            with stopwatch.pause():
                agreed = _agreed(f"Terminate these {len(verdicts)} on {clean(target.name)}?")
            if not agreed:
                return False
        progress.start()
        return True

    def show_progress(done: int, of: int) -> None:
        progress.update(task, completed=done, total=of)

    try:
        return sweep_of(
            target, rules, timeout, Observers(approve=approve, on_progress=show_progress), stopwatch
        ).run()
    finally:
        if progress.live.is_started:
            progress.stop()


def _agreed(question: str) -> bool:
    try:
        return typer.confirm(question, err=True)
    # Ctrl-C at the question means no.
    except typer.Abort:
        return False
