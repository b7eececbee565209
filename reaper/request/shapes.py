"""Readers of the JSON objects in AWS's events; each names the key and the value that is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from reaper.client.target import ConfigurationError, parse_json, shown


def is_object(value: object) -> bool:
    """Whether it is a JSON object."""
    return isinstance(value, Mapping)


def json_at(given: Mapping[str, Any], key: str) -> Any:
    """What the JSON text at a key says; raise ConfigurationError where it is none."""
    try:
        return parse_json(given.get(key))
    except (TypeError, ValueError) as problem:
        value = shown(key, given.get(key))
        raise ConfigurationError(
            f"event: {key} is {value}, which is not JSON ({problem})"
        ) from None


def object_at(given: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    """The object at a key; raise ConfigurationError where there is none."""
    value = given.get(key)
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{where}: {key} is {shown(key, value)}, not an object with keys")
    return value


def optional_object(given: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    """The same, but what is missing or null is an empty object."""
    return {} if given.get(key) is None else object_at(given, key, where)


def objects_at(given: Mapping[str, Any], key: str) -> Iterator[Mapping[str, Any]]:
    """The objects of the list at a key; what is missing or null is an empty list."""
    value = [] if given.get(key) is None else given[key]
    if not isinstance(value, list) or not all(map(is_object, value)):
        raise ConfigurationError(f"alarm: {key} is {shown(key, value)}, not a list of objects")
    yield from value
