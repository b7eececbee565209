"""The stack's own settings, read from the environment anew for each invocation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from reaper.client.fields import ConfigurationError, flag_from_variable
from reaper.environment import stack_name, targets_from_environ
from reaper.model import SweepTarget
from reaper.rules import Rules


class TargetMetrics(StrEnum):
    """How many metrics are published for each target, for each of which CloudWatch charges; the
    stack always has all of them.
    """

    ALL = "all"
    FEW = "few"


@dataclass(frozen=True)
class StackSettings:
    """What the stack says: its rules, its targets, and how the function behaves.

    `manual_kill` lets a manual event with `"dry_run": false` kill on a dry stack. `ca` names the
    certificates by which the targets that messages bring along are verified.
    """

    environ: Mapping[str, str] = field(repr=False)
    rules: Rules
    stack: str
    manual_kill: bool
    keep_seat: bool
    target_metrics: TargetMetrics
    ca: str | None

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> StackSettings:
        """Read the variables; raise ConfigurationError naming the one that is wrong."""
        return cls(
            environ=environ,
            rules=Rules.from_environ(environ),
            stack=stack_name(environ),
            manual_kill=flag_from_variable(environ, "REAPER_MANUAL_KILL", "false"),
            keep_seat=flag_from_variable(environ, "REAPER_KEEP_SEAT", "true"),
            target_metrics=_target_metrics(environ),
            ca=environ.get("REAPER_CA") or None,
        )

    @cached_property
    def targets(self) -> Sequence[SweepTarget]:
        """The listed targets; raises ConfigurationError where there is no list.

        Read on first use: a fleet's sweeps may have no list, since each message brings its own
        target.
        """
        return targets_from_environ(self.environ)


def _target_metrics(environ: Mapping[str, str]) -> TargetMetrics:
    value = environ.get("REAPER_TARGET_METRICS") or TargetMetrics.ALL
    if value not in list(TargetMetrics):
        raise ConfigurationError(
            f"REAPER_TARGET_METRICS is {value!r}; choose {' or '.join(TargetMetrics)}"
        )
    return TargetMetrics(value)
