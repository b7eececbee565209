"""Reads values of rows and contexts as servers and saved files give them: lenient where a server
may say anything, strict about a file's shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from reaper.client.fields import ConfigurationError
from reaper.client.redaction import shown
from reaper.model import Mark

Fetched = dict[str, Any]
"""A row that a statement of ours returned: the types of its columns are known from the statement.
"""

# Where a live look keeps a row's mark
MARK = "_mark"

Row = Mapping[str, object]
"""A row, or the facts around the rows, as a server or a saved file gave it: any value may be of any
type.
"""

# No server counts further
_LARGEST = 2**64


def number(value: object) -> float | None:
    """A finite number that the server or a saved file gave, None for anything else."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        found = float(value)  # type: ignore[arg-type]  # Decimal and text as well as int and float
    except (TypeError, ValueError, OverflowError):
        return None
    return found if abs(found) < float("inf") else None


def whole(value: object) -> int | None:
    """A number without its fraction, None for anything that is not a number."""
    if type(value) is int and abs(value) < _LARGEST:
        return value
    found = number(value)
    return None if found is None else int(found)


def name(given: object) -> str | None:
    """A name that the server or a saved file gave, None for anything that is not text."""
    return given if isinstance(given, str) else None


def mark_of(row: Row) -> Mark | None:
    """The mark that a live look gave the row; saved rows have none."""
    mark = row.get(MARK)
    return mark if isinstance(mark, Mark) else None


def names(given: Iterable[object]) -> frozenset[str]:
    """Those that are texts and not empty."""
    return frozenset(text for text in map(name, given) if text)


def mapping(given: Row, key: str) -> Mapping[object, object]:
    """An object in a saved file, empty where it is missing; raise ConfigurationError for anything
    else.
    """
    found = given.get(key)
    if found is not None and not isinstance(found, Mapping):
        raise ConfigurationError(f"snapshot: {key} is {shown(key, found)}, not an object with keys")
    return found or {}


def values(given: Row, key: str) -> Sequence[object]:
    """A list in a saved file, empty where it is missing; raise ConfigurationError for anything
    else.
    """
    found = given.get(key)
    if found is not None and not isinstance(found, list | tuple):
        raise ConfigurationError(f"snapshot: {key} is {shown(key, found)}, not a list")
    return found or ()


def objects(given: Row, key: str) -> Iterator[Row]:
    """The objects of a list in a saved file; raise ConfigurationError for any other item."""
    for item in values(given, key):
        if not isinstance(item, Mapping):
            raise ConfigurationError(
                f"snapshot: {key} is {shown(key, given[key])}, not a list of objects"
            )
        yield item


def limits(given: Row, key: str) -> dict[str, int]:
    """Connection limits by name, without those that limit nothing."""
    found = mapping(given, key)
    return {
        str(name): int(limit)
        for name, value in found.items()
        if (limit := number(value)) and limit > 0
    }
