"""Rows of MySQL's text protocol, cut in one loop: with PyMySQL four calls a cell are most of a long
list's time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pymysql.protocol import (
    NULL_COLUMN,
    UNSIGNED_INT24_COLUMN,
    UNSIGNED_INT64_COLUMN,
    UNSIGNED_SHORT_COLUMN,
)

Converter = tuple[str | None, Callable[[Any], Any] | None]
"""A cell's encoding, None for bytes; and what makes a value of the text."""

_WIDTHS = {UNSIGNED_SHORT_COLUMN: 2, UNSIGNED_INT24_COLUMN: 3, UNSIGNED_INT64_COLUMN: 8}
_END = 0xFE


def cut(packet: bytes, converters: Sequence[Converter]) -> tuple[Any, ...] | None:
    """The packet's values; None where it is not exactly one row of so many, and PyMySQL is to say
    what it is.
    """
    row: list[Any] = []
    at = 0
    try:
        for encoding, convert in converters:
            length = packet[at]
            at += 1
            if length >= NULL_COLUMN:
                if length == NULL_COLUMN:
                    row.append(None)
                    continue
                # The length itself follows
                start = at + _WIDTHS[length]
                length = int.from_bytes(packet[at:start], "little")
                at = start
            end = at + length
            cell: Any = packet[at:end]
            at = end
            if encoding is not None:
                cell = cell.decode(encoding)
            row.append(cell if convert is None else convert(cell))
    except (IndexError, KeyError):
        return None
    return tuple(row) if at == len(packet) else None


def by_bytes(encoding: str | None, convert: Callable[[Any], Any] | None) -> Converter:
    """Whole numbers and floating ones are read from bytes as they are from text."""
    return (None, convert) if convert in (int, float) else (encoding, convert)


def is_end(packet: bytes) -> bool:
    """Whether a packet ends the rows; a longer one of that kind is a row with a very long cell."""
    return packet[0] == _END and len(packet) < 9
