"""Which databases to sweep: from the environment, or from the SSM parameter it names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from reaper.client.target import ConfigurationError
from reaper.model import SweepTarget

TARGETS, TARGETS_PARAMETER = "REAPER_TARGETS", "REAPER_TARGETS_PARAMETER"


def targets_from_environ(environ: Mapping[str, str]) -> list[SweepTarget]:
    """The configured targets; raise ConfigurationError naming the variable, the entry, the key and the value."""
    if text := environ.get(TARGETS):
        return parse_targets(text, TARGETS)
    if name := environ.get(TARGETS_PARAMETER):
        return parse_targets(_parameter(name), f"SSM parameter {name}")
    raise ConfigurationError(f"no targets: set {TARGETS} to a JSON list, or {TARGETS_PARAMETER} to an SSM parameter")


def parse_targets(text: str, where: str) -> list[SweepTarget]:
    try:
        given = json.loads(text, object_pairs_hook=_no_key_twice)
    except ValueError as problem:
        # The list can hold a password: show no more of it than how it begins.
        raise ConfigurationError(f"{where} is not a JSON list ({problem}); it begins with {text[:8]!r}") from None
    if not isinstance(given, list):
        raise ConfigurationError(f"{where} is a JSON {type(given).__name__}; give a list of targets")
    if not given:
        raise ConfigurationError(f"{where} is []; give at least one target")
    targets = [SweepTarget.from_mapping(entry, f"{where}[{place}]") for place, entry in enumerate(given)]
    names = [target.name for target in targets]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigurationError(f"{where}: two targets are named {twice!r}")
    return targets


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} is given twice")
    return found


def _parameter(name: str) -> str:
    import boto3  # half a second on a cold start, so only where a parameter is asked for
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        answer = boto3.client("ssm").get_parameter(Name=name, WithDecryption=True)
    except (BotoCoreError, ClientError) as problem:
        raise ConfigurationError(f"{TARGETS_PARAMETER} {name!r} cannot be read: {problem}") from None
    return str(answer["Parameter"]["Value"])
