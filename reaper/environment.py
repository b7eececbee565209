"""What the function's environment says: the stack's name, and the databases that are listed."""

from __future__ import annotations

from collections.abc import Mapping

from reaper.client.credentials import aws_client
from reaper.client.deadline import Deadline
from reaper.client.fields import ConfigurationError, parse_json
from reaper.model import SweepTarget

TARGETS, TARGETS_PARAMETER = "REAPER_TARGETS", "REAPER_TARGETS_PARAMETER"

_FOR_THE_PARAMETER = 10.0  # seconds


def stack_name(environ: Mapping[str, str]) -> str:
    """What metrics and logs call this stack."""
    return environ.get("REAPER_STACK") or environ.get("AWS_LAMBDA_FUNCTION_NAME") or "reaper"


def targets_from_environ(environ: Mapping[str, str]) -> list[SweepTarget]:
    """The configured targets; raise ConfigurationError naming the variable, the entry, the key and
    the value.
    """
    if text := environ.get(TARGETS):
        return parse_targets(text, TARGETS)
    if name := environ.get(TARGETS_PARAMETER):
        return parse_targets(_parameter(name), f"SSM parameter {name}")
    raise ConfigurationError(
        f"no targets: set {TARGETS} to a JSON list, or {TARGETS_PARAMETER} to an SSM parameter; "
        "those of a fleet are known to its planner alone"
    )


def parse_targets(text: str, where: str) -> list[SweepTarget]:
    """The targets in a JSON list, which has at least one, each with a name of its own.

    Raises ConfigurationError naming `where`, the entry, the key and the value.
    """
    try:
        given = parse_json(text)
    except ValueError as problem:
        # The list can hold a password: show no more of it than how it begins.
        raise ConfigurationError(
            f"{where} is not a JSON list ({problem}); it begins with {text[:8]!r}"
        ) from None
    if not isinstance(given, list):
        raise ConfigurationError(
            f"{where} is a JSON {type(given).__name__}; give a list of targets"
        )
    if not given:
        raise ConfigurationError(f"{where} is []; give at least one target")
    targets = [
        SweepTarget.from_mapping(entry, f"{where}[{place}]") for place, entry in enumerate(given)
    ]
    names = [target.name for target in targets]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigurationError(f"{where}: two targets are named {twice!r}")
    return targets


def _parameter(name: str) -> str:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        answer = aws_client("ssm", Deadline.after(_FOR_THE_PARAMETER)).get_parameter(
            Name=name, WithDecryption=True
        )
    except (BotoCoreError, ClientError) as problem:
        raise ConfigurationError(
            f"{TARGETS_PARAMETER} {name!r} cannot be read: {problem}"
        ) from None
    return str(answer["Parameter"]["Value"])
