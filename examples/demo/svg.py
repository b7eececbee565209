"""What the pictures are drawn with: text, lines, scales, on a ground of their own that no dark mode
swallows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

INK, FAINT, GRID, GROUND, ALERT = "#1f2328", "#59636e", "#d8dee4", "#ffffff", "#cf222e"

_FONT = "-apple-system,'Segoe UI','Noto Sans',Helvetica,Arial,sans-serif"


@dataclass(frozen=True)
class Scale:
    """From values between `low` and `high` to places between `start` and `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return round(
            self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1
        )

    def ticks(self, most: int) -> list[float]:
        """Round values, no more than `most` steps of 1, 2 or 5 times a power of ten."""
        power = 10.0 ** math.floor(math.log10((self.high - self.low) / most))
        step = next(
            power * n for n in (1, 2, 5, 10, 20) if (self.high - self.low) / (power * n) <= most
        )
        return [
            step * n
            for n in range(math.ceil(self.low / step), math.floor(self.high / step + 1e-9) + 1)
        ]


def width_of(words: str, size: float = 13) -> float:
    """About how wide a text comes out, in the wider of the usual fonts."""
    return len(words) * size * 0.6


def picture(width: float, height: float, title: str, description: str, parts: Iterable[str]) -> str:
    """A whole document; title and description are for those who do not see it."""
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
    return "\n".join([f'<g class="{kind}">', *parts, "</g>"])


def box(x: float, y: float, width: float, height: float, fill: str) -> str:
    """With a border and round corners."""
    place = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'
    return f'<rect {place} rx="6" fill="{fill}" stroke="{GRID}"/>'


def swatch(x: float, y: float, fill: str) -> str:
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
    known = f' class="{kind}"' if kind else ""
    weight = ' font-weight="600"' if kind == "title" else ""
    place = f'x="{x:g}" y="{y:g}" font-size="{size:g}" fill="{fill}" text-anchor="{anchor}"'
    return f"<text{known} {place}{weight}>{escape(words)}</text>"


def line(x1: float, y1: float, x2: float, y2: float, stroke: str = GRID, dashes: str = "") -> str:
    style = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="{stroke}"{style}/>'


def curve(points: Sequence[tuple[float, float]], stroke: str, width: float) -> str:
    placed = " ".join(f"{x:g},{y:g}" for x, y in points)
    style = f'stroke="{stroke}" stroke-width="{width:g}" stroke-linejoin="round"'
    return f'<polyline points="{placed}" fill="none" {style}/>'


def dot(x: float, y: float, fill: str, radius: float) -> str:
    return f'<circle cx="{x:g}" cy="{y:g}" r="{radius:g}" fill="{fill}"/>'


def area(points: Sequence[tuple[float, float]], floor: float, fill: str) -> str:
    """Between the points and a level below them."""
    placed = " ".join(
        f"{x:g},{y:g}" for x, y in [(points[0][0], floor), *points, (points[-1][0], floor)]
    )
    return f'<polygon points="{placed}" fill="{fill}"/>'


def levels(across: Scale, up: Scale, most: int) -> list[str]:
    """Horizontal lines at round values, each with its value."""
    return [
        part
        for value in up.ticks(most)
        for part in (
            line(across.start, up(value), across.end, up(value)),
            text(across.start - 8, up(value) + 4, f"{value:,g}", size=12, fill=FAINT, anchor="end"),
        )
    ]


def seconds(across: Scale, y: float, most: int) -> list[str]:
    """The time below a chart."""
    return [
        text(across(time), y, f"{time:g} s", size=12, fill=FAINT, anchor="middle")
        for time in across.ticks(most)
    ]
