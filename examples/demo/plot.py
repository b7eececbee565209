"""The demo's connections over time as text, for a terminal or a pipe."""

from __future__ import annotations

from collections.abc import Iterator
from string import ascii_lowercase
from typing import NamedTuple

from rich.text import Text

from examples.demo.record import Moment, Record

# One row for each slot of the demo's servers
ROWS = 16
_MARGIN = 5
_STYLES = {"working": "green", "idle": "red"}


class Glyphs(NamedTuple):
    working: str
    idle: str
    limit: str
    side: str
    corner: str
    floor: str
    tick: str


_DRAWN = Glyphs("█", "░", "╌", "│", "└", "─", "┴")
_TYPED = Glyphs("#", ":", "-", "|", "+", "-", "+")


def plot(record: Record, width: int, encoding: str = "utf-8") -> list[Text]:
    """Each line of the picture, no longer than `width`.

    An encoding without block elements gets plain ASCII.
    """
    glyphs = _glyphs(encoding)
    columns = _columns(record, width - _MARGIN)
    return [
        Text(" " * _MARGIN + _letters(record, len(columns))),
        *_rows(record, columns, glyphs),
        *map(Text, _axis(record, len(columns), glyphs)),
        _legend(record, glyphs),
        *(
            Text(f"{letter:>4} {moment.at:5.1f} s  {moment.what}")
            for letter, moment in _lettered(record)
        ),
    ]


def _glyphs(encoding: str) -> Glyphs:
    try:
        "".join(_DRAWN).encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return _TYPED
    return _DRAWN


def _columns(record: Record, count: int) -> list[float]:
    """The time in the middle of each column."""
    return [record.end * (column + 0.5) / count for column in range(count)]


def _lettered(record: Record) -> Iterator[tuple[str, Moment]]:
    return zip(ascii_lowercase, record.moments, strict=False)


def _letters(record: Record, columns: int) -> str:
    """A letter at each moment's column. If two fall into one column, the later one moves to the
    right.
    """
    line = [" "] * columns
    for letter, (at, _) in _lettered(record):
        place = min(int(at / record.end * columns), columns - 1)
        while place < columns - 1 and line[place] != " ":
            place += 1
        line[place] = letter
    return "".join(line).rstrip()


def _rows(record: Record, columns: list[float], glyphs: Glyphs) -> Iterator[Text]:
    count = min(ROWS, record.limit)
    for row in range(count, 0, -1):
        level = row * record.limit / count
        label = f"{level:.0f}" if row % 4 == 0 or row == count else ""
        line = Text(f"{label:>{_MARGIN - 2}} {glyphs.side}")
        for time in columns:
            line.append(*_cell(record, time, level, glyphs))
        line.rstrip()
        yield line


def _cell(record: Record, time: float, level: float, glyphs: Glyphs) -> tuple[str, str | None]:
    sample = record.at(time)
    if level <= sample.working:
        return glyphs.working, _STYLES["working"]
    if level <= sample.taken:
        return glyphs.idle, _STYLES["idle"]
    return (glyphs.limit if level == record.limit else " "), None


def _axis(record: Record, columns: int, glyphs: Glyphs) -> tuple[str, str]:
    """The line below, and under it the seconds."""
    line, labels = [glyphs.floor] * columns, [" "] * (columns + _MARGIN)
    for second in range(0, int(record.end) + 1, 1 + int(record.end) // 8):
        place, label = int(second / record.end * columns), f"{second} s"
        if place + len(label) <= columns:
            line[place] = glyphs.tick
            labels[place + _MARGIN : place + _MARGIN + len(label)] = label
    return f"{'0':>{_MARGIN - 2}} {glyphs.corner}{''.join(line)}", "".join(labels).rstrip()


def _legend(record: Record, glyphs: Glyphs) -> Text:
    return Text(" " * _MARGIN).append_tokens(
        [
            (glyphs.working, _STYLES["working"]),
            (" working   ", None),
            (glyphs.idle, _STYLES["idle"]),
            (" idle   ", None),
            (glyphs.limit, None),
            (f" all {record.limit} slots", None),
        ]
    )
