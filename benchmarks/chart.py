"""Line charts for the page of results.

Both axes are logarithmic unless told otherwise: a straight line is then a power of n, and its slope
the exponent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from lab import svg

# The plot's own edges; the picture grows to the right with its longest label.
LEFT, RIGHT, TOP, BOTTOM = 70, 470, 40, 350
HEIGHT = 400
_ROW, _SIZE = 16, 12

# Each size that was measured has an upright, unless there are so many that labels would touch.
MOST_MARKED = 8

Points = Sequence[svg.Point]


def chart(
    title: str, lines: Mapping[str, Points], across: str, up: str, is_log: bool = True
) -> str:
    """A picture with one line for each entry; `across` and `up` name the axes.

    A logarithmic chart leaves out the points that are not above zero.
    """
    shown = {
        name: [point for point in line if not is_log or min(point) > 0]
        for name, line in lines.items()
    }
    points = [point for line in shown.values() for point in line]
    horizontal = _scale([x for x, _ in points], LEFT, RIGHT, is_log)
    vertical = _scale([y for _, y in points], BOTTOM, TOP, is_log)
    measured = sorted({x for x, _ in points})
    is_marked = is_log and len(measured) <= MOST_MARKED
    write = partial(svg.text, size=_SIZE)
    return svg.picture(
        RIGHT + 20 + max(svg.width_of(name, _SIZE) for name in lines),
        HEIGHT,
        title,
        f"{up} by {across}: {', '.join(lines)}",
        [
            write(LEFT, TOP - 22, title, kind="title", size=14),
            write((LEFT + RIGHT) / 2, HEIGHT - 12, across, anchor="middle"),
            write(8, TOP - 8, up),
            *svg.uprights(horizontal, vertical, measured if is_marked else horizontal.ticks(13)),
            *svg.levels(horizontal, vertical, 20 if is_log else 8),
            *_drawn(shown, horizontal, vertical),
        ],
    )


def _scale(values: Sequence[float], start: float, end: float, is_log: bool) -> svg.Scale:
    low = min(values, default=1.0) if is_log else 0.0
    # Never two equal ends, which would divide by zero
    high = max(*values, low * 1.01 + 1e-9) if values else low + 1.0
    return (svg.Logarithmic if is_log else svg.Linear)(low, high, start, end)


def _drawn(lines: Mapping[str, Points], across: svg.Scale, up: svg.Scale) -> Iterator[str]:
    for place, (name, line) in enumerate(lines.items()):
        colour = svg.colour(place)
        placed = [(across(x), up(y)) for x, y in line]
        yield svg.curve(placed, colour, 2)
        yield from (svg.dot(x, y, colour, 3) for x, y in placed)
        yield svg.text(RIGHT + 12, TOP + _ROW * place + 8, name, size=_SIZE, fill=colour)
