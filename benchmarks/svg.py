"""Line charts as SVG, with both axes logarithmic: a straight line is a power of n, and its slope
the exponent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 640, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 170, 40, 50
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#17becf")

# Of the sizes that were measured; their labels must not touch
MOST_MARKED = 8

Points = Sequence[tuple[float, float]]


def chart(
    title: str, lines: Mapping[str, Points], across: str, up: str, is_log: bool = True
) -> str:
    """One line for each entry."""
    points = [point for line in lines.values() for point in line if not is_log or min(point) > 0]
    horizontal = _Axis([x for x, _ in points], LEFT, WIDTH - RIGHT, is_log)
    vertical = _Axis([y for _, y in points], HEIGHT - BOTTOM, TOP, is_log)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="sans-serif" '
        'font-size="12"><rect width="100%" height="100%" fill="#fff"/>',
        _text(LEFT, TOP - 18, title, size=14),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, across, anchor="middle"),
        _text(8, TOP - 4, up),
    ]
    measured = sorted({x for x, _ in points})
    parts += [
        _upright(horizontal.place(tick), _short(tick))
        for tick in (measured if is_log and len(measured) <= MOST_MARKED else horizontal.ticks)
    ]
    parts += [_level(vertical.place(tick), _short(tick)) for tick in vertical.ticks]
    for place, (name, line) in enumerate(lines.items()):
        colour = COLOURS[place % len(COLOURS)]
        placed = [
            (horizontal.place(x), vertical.place(y)) for x, y in line if not is_log or min(x, y) > 0
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in placed]
        parts.append(_text(WIDTH - RIGHT + 12, TOP + 16 * place + 8, name, fill=colour))
    return "\n".join([*parts, "</svg>", ""])


class _Axis:
    """Where a value goes between two ends, and the round values to mark."""

    def __init__(self, values: Iterable[float], start: float, end: float, is_log: bool) -> None:
        found = list(values) or [1.0]
        self._start, self._end, self._is_log = start, end, is_log
        self._low = min(found) if is_log else 0.0
        self._high = max(max(found), self._low * 1.01 + 1e-9)

    def place(self, value: float) -> float:
        low, high, at = (
            (math.log(v) if self._is_log else v) for v in (self._low, self._high, value)
        )
        return self._start + (self._end - self._start) * (at - low) / (high - low)

    @property
    def ticks(self) -> list[float]:
        if self._is_log:
            powers = range(math.floor(math.log10(self._low)), math.ceil(math.log10(self._high)) + 1)
            all_of_them = [step * 10.0**power for power in powers for step in (1, 2, 5)]
        else:
            step = 10.0 ** math.floor(math.log10(self._high)) / 2
            all_of_them = [step * place for place in range(int(self._high / step) + 1)]
        return [tick for tick in all_of_them if self._low <= tick <= self._high]


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:g}"


def _upright(x: float, label: str) -> str:
    line = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="#ddd"/>'
    return line + _text(x, HEIGHT - BOTTOM + 16, label, anchor="middle")


def _level(y: float, label: str) -> str:
    line = f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
    return line + _text(LEFT - 6, y + 4, label, anchor="end")


def _text(
    x: float, y: float, text: str, anchor: str = "start", size: int = 12, fill: str = "#222"
) -> str:
    how = f'text-anchor="{anchor}" font-size="{size}" fill="{fill}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {how}>{escape(text)}</text>'
