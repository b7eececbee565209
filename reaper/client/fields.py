"""Reads the fields that a person or a service filled in: each reader returns what it promises or
raises ConfigurationError, which names the field and the value and says what to do.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from ipaddress import ip_network
from typing import Any, TypeGuard, TypeVar

from reaper.client.redaction import hide_passwords, hint, shown

_Kind = TypeVar("_Kind", bound=StrEnum)

_MOST = 10**9
# Each session is compared with each name, within the deadline.
_MOST_NAMES, _LONGEST_NAME = 1000, 255


class ConfigurationError(ValueError):
    """Something a person configured is wrong; the message says what, with which value, and what to
    do.
    """


# Objects and what stands at their keys.


def reject_unknown_keys(given: Mapping[str, object], known: Iterable[str], where: str) -> None:
    """Raise ConfigurationError for the first key that is not known, with the nearest one that
    is.
    """
    if not isinstance(given, Mapping):
        # Not its value: where a target is meant it may be a DSN with a password.
        raise ConfigurationError(f"{where} is {type(given).__name__}, not an object with keys")
    names = list(known)
    for key in given:
        if key not in names:
            name, value = shown("key", key), shown(str(key), given[key])
            raise ConfigurationError(
                f"{where}: unknown key {name} with value {value}{hint(key, names)}"
            )


def text(given: Mapping[str, object], key: str, where: str) -> str | None:
    """The text at a key, None where there is none; a DSN that holds a password is refused."""
    value = given.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{where}: {key} is {shown(key, value)}; give it as a text")
    # It would be shown in messages, as whatever it is taken for.
    if "://" in value and hide_passwords(value) != value:
        raise ConfigurationError(
            f"{where}: {key} is {shown(key, value)}; a DSN with its password does not belong here"
        )
    return value


def choice(given: Mapping[str, object], key: str, kinds: type[_Kind], where: str) -> _Kind | None:
    """The member of an enum that the value at a key names, None where there is no value."""
    value = given.get(key)
    if value is None:
        return None
    for kind in kinds:
        if kind == value:
            return kind
    raise ConfigurationError(f"{where}: {key} is {shown(key, value)}; choose {', '.join(kinds)}")


# JSON.


def parse_json(text: Any) -> Any:
    """What a JSON text says; raise ValueError where it is none, is nested too deeply, or gives a
    key twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_no_key_twice)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key {shown('key', key)} is given twice")
        found[key] = value
    return found


def object_or_empty(text: str) -> Mapping[str, Any]:
    """The JSON object in a secret's text; an empty one where there is none."""
    try:
        found = json.loads(text)
    # Not to be told: the error carries the whole secret.
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def is_object(value: object) -> bool:
    """Whether it is a JSON object."""
    return isinstance(value, Mapping)


def json_at(given: Mapping[str, object], key: str) -> Any:
    """What the JSON text at a key says; raise ConfigurationError where it is none."""
    try:
        return parse_json(given.get(key))
    except (TypeError, ValueError) as problem:
        value = shown(key, given.get(key))
        raise ConfigurationError(
            f"event: {key} is {value}, which is not JSON ({problem})"
        ) from None


def object_at(given: Mapping[str, object], key: str, where: str) -> Mapping[str, object]:
    """The object at a key; raise ConfigurationError where there is none."""
    value = given.get(key)
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{where}: {key} is {shown(key, value)}, not an object with keys")
    return value


def optional_object(given: Mapping[str, object], key: str, where: str) -> Mapping[str, object]:
    """The same, but what is missing or null is an empty object."""
    return {} if given.get(key) is None else object_at(given, key, where)


def objects_at(given: Mapping[str, object], key: str) -> Iterator[Mapping[str, object]]:
    """The objects of the list at a key; what is missing or null is an empty list."""
    value = [] if given.get(key) is None else given[key]
    if not isinstance(value, list) or not all(map(is_object, value)):
        raise ConfigurationError(f"alarm: {key} is {shown(key, value)}, not a list of objects")
    yield from value


# Values by themselves. `where` is what the error calls them.


def flag(value: object, where: str) -> bool:
    """A JSON boolean."""
    if not isinstance(value, bool):
        raise ConfigurationError(f"{where} is {shown(where, value)}; say true or false")
    return value


def flag_from_tag(value: object, where: str) -> bool:
    """A boolean, or the text of a tag that says one."""
    if value not in (True, False, "true", "false"):
        raise ConfigurationError(f"{where} is {value!r}; say true or false")
    return value in (True, "true")


def flag_from_variable(environ: Mapping[str, str], variable: str, default: str) -> bool:
    """What an environment variable says, or its default where it is empty or not set."""
    value = environ.get(variable) or default
    if value not in ("true", "false"):
        raise ConfigurationError(f"{variable} is {value!r}; say true or false")
    return value == "true"


def are_names(value: object) -> TypeGuard[Sequence[str]]:
    """Whether it is a list of texts, none of them empty."""
    return isinstance(value, list | tuple) and all(isinstance(name, str) and name for name in value)


def number(value: object, where: str, unit: str) -> float:
    """A finite number from 0 to a thousand million, in the unit that the error names."""
    # NaN fails every comparison, infinity the upper bound.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MOST:
        raise ConfigurationError(
            f"{where} is {shown(where, value)}; give {unit} as a number, 0 or more"
        )
    return value


def seconds(value: object, where: str) -> float:
    """A time in seconds."""
    return number(value, where, "seconds")


def share(value: object, where: str) -> float:
    """A share from 0 to 1."""
    found = number(value, where, "a share of the connections")
    if found > 1:
        raise ConfigurationError(
            f"{where} is {shown(where, value)}; give a share from 0 to 1, such as 0.8 for 80 %"
        )
    return found


def count(value: object, where: str) -> int:
    """A whole number, 0 or more."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST:
        raise ConfigurationError(
            f"{where} is {shown(where, value)}; give a whole number, 0 or more"
        )
    return value


def names(value: object, where: str) -> tuple[str, ...]:
    """A list of names or globs, neither too many nor too long."""
    if not are_names(value):
        raise ConfigurationError(f"{where} is {shown(where, value)}; give a list of names or globs")
    if len(value) > _MOST_NAMES or any(len(name) > _LONGEST_NAME for name in value):
        raise ConfigurationError(
            f"{where} is too long; give at most {_MOST_NAMES} names of {_LONGEST_NAME} letters"
        )
    return tuple(value)


def hosts(value: object, where: str) -> tuple[str, ...]:
    """The same for hosts, where one with a slash is a network."""
    found = names(value, where)
    for host in found:
        if "/" in host:
            try:
                ip_network(host, strict=False)
            except ValueError:
                raise ConfigurationError(
                    f"{where} holds {host!r}, which is no network such as 10.0.0.0/16"
                ) from None
    return found
