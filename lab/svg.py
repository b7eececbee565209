"""The one kit that draws SVG: texts, lines and scales, on a background of their own, so that a page
in dark mode does not swallow them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Protocol

INK, FAINT, GRID, GROUND, ALERT = "#1f2328", "#59636e", "#d8dee4", "#ffffff", "#cf222e"

# For the lines of a chart, by their order. None is red: ALERT is for limits.
COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#17becf", "#7f7f7f")

_FONT = "-apple-system,'Segoe UI','Noto Sans',Helvetica,Arial,sans-serif"


Point = tuple[float, float]


class Scale(Protocol):
    """Maps a value to its coordinate; `start` and `end` are the coordinates of its two ends."""

    @property
    def start(self) -> float: ...
    @property
    def end(self) -> float: ...

    def __call__(self, value: float) -> float: ...

    def ticks(self, most: int) -> list[float]:
        """Round values between the ends, in ascending order."""
        ...


@dataclass(frozen=True)
class Linear:
    """Maps values between `low` and `high` to coordinates between `start` and `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The coordinate, to a tenth of a pixel."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, most: int) -> list[float]:
        """Multiples of 1, 2 or 5 times a power of ten, with at most `most` steps between them."""
        span = self.high - self.low
        power = 10.0 ** math.floor(math.log10(span / most))
        step = next(power * n for n in (1, 2, 5, 10, 20) if span / (power * n) <= most)
        first, last = math.ceil(self.low / step), math.floor(self.high / step + 1e-9)
        return [step * n for n in range(first, last + 1)]


@dataclass(frozen=True)
class Logarithmic:
    """Like Linear, by the logarithm of the value: a power law comes out as a straight line."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The coordinate, to a tenth of a pixel; the value must be above zero."""
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, most: int) -> list[float]:
        """1, 2 and 5 times each power of ten, or the powers alone where that is more than
        `most`.
        """
        powers = [
            10.0**n
            for n in range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        ]
        fine = self._within(step * power for power in powers for step in (1, 2, 5))
        return fine if len(fine) <= most else self._within(powers)

    def _within(self, values: Iterable[float]) -> list[float]:
        return [value for value in values if self.low <= value <= self.high]


def colour(number: int) -> str:
    """The colour of a chart's line by its place, starting over when all are used."""
    return COLOURS[number % len(COLOURS)]


def label_of(value: float) -> str:
    """A tick's value as text: thousands grouped, and never in scientific notation from 10 up."""
    return f"{value:,.0f}" if value >= 10 and value == int(value) else f"{value:,g}"


def width_of(words: str, size: float = 13) -> float:
    """Roughly how wide a text is drawn, in pixels, in the wider of the usual fonts."""
    return len(words) * size * 0.6


def picture(width: float, height: float, title: str, description: str, parts: Iterable[str]) -> str:
    """A whole document. `title` and `description` are for screen readers."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
            f'viewBox="0 0 {width:g} {height:g}" role="img" aria-labelledby="title desc" '
            f'font-family="{_FONT}">',
            f'<title id="title">{escape(title)}</title>',
            f'<desc id="desc">{escape(description)}</desc>',
            box(0.5, 0.5, width - 1, height - 1, GROUND),
            *parts,
            "</svg>\n",
        ]
    )


def group(kind: str, parts: Iterable[str]) -> str:
    """Parts that belong together, under one class name."""
    return "\n".join([f'<g class="{kind}">', *parts, "</g>"])


def box(x: float, y: float, width: float, height: float, fill: str) -> str:
    """A rectangle with a border and round corners."""
    place = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'
    return f'<rect {place} rx="6" fill="{fill}" stroke="{GRID}"/>'


def swatch(x: float, y: float, fill: str) -> str:
    """The small square of a legend's entry."""
    return f'<rect x="{x:g}" y="{y:g}" width="11" height="11" rx="2" fill="{fill}"/>'


def text(
    x: float,
    y: float,
    words: str,
    *,
    kind: str = "",
    size: float = 13,
    fill: str = INK,
    anchor: str = "start",
) -> str:
    """Escaped text; `kind` becomes its class, and a title is set in bold."""
    known = f' class="{kind}"' if kind else ""
    weight = ' font-weight="600"' if kind == "title" else ""
    place = f'x="{x:g}" y="{y:g}" font-size="{size:g}" fill="{fill}" text-anchor="{anchor}"'
    return f"<text{known} {place}{weight}>{escape(words)}</text>"


def line(x1: float, y1: float, x2: float, y2: float, stroke: str = GRID, dashes: str = "") -> str:
    """A straight line, in the grid's colour unless told otherwise."""
    style = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="{stroke}"{style}/>'


def curve(points: Sequence[Point], stroke: str, width: float) -> str:
    """A line through all the points."""
    placed = " ".join(f"{x:g},{y:g}" for x, y in points)
    style = f'stroke="{stroke}" stroke-width="{width:g}" stroke-linejoin="round"'
    return f'<polyline points="{placed}" fill="none" {style}/>'


def dot(x: float, y: float, fill: str, radius: float) -> str:
    """A filled circle."""
    return f'<circle cx="{x:g}" cy="{y:g}" r="{radius:g}" fill="{fill}"/>'


def area(points: Sequence[Point], floor: float, fill: str) -> str:
    """The filled area between the points and a level below them."""
    placed = " ".join(
        f"{x:g},{y:g}" for x, y in [(points[0][0], floor), *points, (points[-1][0], floor)]
    )
    return f'<polygon points="{placed}" fill="{fill}"/>'


def levels(across: Scale, up: Scale, most: int) -> list[str]:
    """Horizontal lines at round values, each with its value on the left."""
    return [
        part
        for value in up.ticks(most)
        for part in (
            line(across.start, up(value), across.end, up(value)),
            text(
                across.start - 8, up(value) + 4, label_of(value), size=12, fill=FAINT, anchor="end"
            ),
        )
    ]


def uprights(across: Scale, up: Scale, values: Iterable[float]) -> list[str]:
    """Vertical lines at these values, each with its value below."""
    return [
        part
        for value in values
        for part in (
            line(across(value), up.end, across(value), up.start),
            _below(across(value), up.start + 16, label_of(value)),
        )
    ]


def seconds(across: Scale, y: float, most: int) -> list[str]:
    """The time below a chart, in seconds."""
    return [_below(across(time), y, f"{time:g} s") for time in across.ticks(most)]


def _below(x: float, y: float, words: str) -> str:
    return text(x, y, words, size=12, fill=FAINT, anchor="middle")
