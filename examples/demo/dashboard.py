"""The stack's dashboard as a picture: the template's panels as CloudWatch would place them, with
the demo's figures.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from examples.demo.record import Record
from lab import svg
from lab.cloudformation import Stack

# CloudWatch's dashboards are 24 units wide
UNIT_X, UNIT_Y, GAP = 40, 34, 8
_WIDTH = 24 * UNIT_X + GAP
_LEFT, _RIGHT, _HEAD, _SECONDS, _LEGEND_LINE = 52, 20, 40, 24, 18
_AT_REST = "#1a7f37"

Widget = Mapping[str, Any]


@dataclass(frozen=True)
class Line:
    """One metric of a panel; no points if the demo has no figures for it."""

    label: str
    points: Sequence[svg.Point]


@dataclass(frozen=True)
class Limit:
    """A constant that a panel shows as a line."""

    label: str
    value: float


@dataclass(frozen=True)
class Place:
    x: float
    y: float
    width: float
    height: float


def dashboard(record: Record) -> str:
    found = widgets(record)
    places = list(flow(found))
    return svg.picture(
        _WIDTH,
        max(place.y + place.height for place in places) + GAP,
        "The reaper's dashboard",
        "; ".join(widget["properties"]["title"] for widget in found),
        [
            svg.group("panel", panel(widget, place, record))
            for widget, place in zip(found, places, strict=True)
        ],
    )


def widgets(record: Record) -> list[Widget]:
    """The panels of a stack that is deployed for the demo's server."""
    stack = Stack({"Host": "shop.example.com", "MaxConnections": str(record.limit)}, name="demo")
    (found,) = stack.of_type("AWS::CloudWatch::Dashboard").values()
    return list(json.loads(found["DashboardBody"])["widgets"])


def flow(found: Sequence[Widget]) -> Iterator[Place]:
    """Place panels side by side while there is room, as CloudWatch does with those that name no
    place.
    """
    x = y = height = 0
    for widget in found:
        if x + widget["width"] > 24:
            x, y, height = 0, y + height, 0
        yield Place(
            x * UNIT_X + GAP,
            y * UNIT_Y + GAP,
            widget["width"] * UNIT_X - GAP,
            widget["height"] * UNIT_Y - GAP,
        )
        x, height = x + widget["width"], max(height, widget["height"])


def panel(widget: Widget, place: Place, record: Record) -> Iterator[str]:
    properties = widget["properties"]
    yield svg.box(place.x, place.y, place.width, place.height, svg.GROUND)
    yield svg.text(place.x + 14, place.y + 24, properties["title"], kind="title")
    if widget["type"] == "alarm":
        yield from _alarms(properties["alarms"], place)
    else:
        yield from _graph(properties, place, record)


def _alarms(arns: Sequence[str], place: Place) -> Iterator[str]:
    """The alarms, all of them OK: if one were still in alarm at the end, the demo would have failed
    before drawing.
    """
    room = (place.width - 14) / len(arns)
    for number, arn in enumerate(arns):
        x, y = place.x + 14 + number * room, place.y + place.height - 12
        yield svg.swatch(x, y - 10, _AT_REST)
        yield svg.text(
            x + 17,
            y,
            arn.strip("<>").removesuffix(".Arn").removesuffix("Alarm"),
            kind="legend",
            size=12,
        )


def _graph(properties: Widget, place: Place, record: Record) -> Iterator[str]:
    found = list(lines(properties, record))
    limits = list(limits_of(properties))
    legend = list(_legend(found, place))
    floor = place.y + place.height - _SECONDS - _LEGEND_LINE * len(legend) - 4
    across = svg.Linear(0, record.end, place.x + _LEFT, place.x + place.width - _RIGHT)
    up = svg.Linear(*_ends(properties, found, limits), floor, place.y + _HEAD)
    yield from svg.levels(across, up, 4)
    yield from svg.seconds(across, floor + 18, 6 if place.width < _WIDTH / 2 else 12)
    for limit in limits:
        yield svg.line(across.start, up(limit.value), across.end, up(limit.value), svg.ALERT, "7 4")
        label = f"{limit.label}: {limit.value:g}"
        yield svg.text(
            across.start + 6, up(limit.value) - 5, label, kind="limit", size=12, fill=svg.ALERT
        )
    for number, line in enumerate(found):
        # The lower line is wider, so that it can be seen where two lines coincide.
        yield from _drawn(line, number, 2 + 3 * (len(found) - 1 - number) / len(found), across, up)
    for row, entries in enumerate(legend):
        yield from _entries(
            entries, place, place.y + place.height - 10 - _LEGEND_LINE * (len(legend) - 1 - row)
        )


def _ends(
    properties: Widget, found: Sequence[Line], limits: Sequence[Limit]
) -> tuple[float, float]:
    said = properties.get("yAxis", {}).get("left", {})
    values = [value for line in found for _, value in line.points] + [
        limit.value for limit in limits
    ]
    highest = max(values, default=0)
    return said.get("min", 0), said.get("max", highest * 1.15 or 1)


def _drawn(
    line: Line, number: int, width: float, across: svg.Scale, up: svg.Scale
) -> Iterator[str]:
    placed = [(across(time), up(value)) for time, value in line.points]
    if placed:
        yield svg.curve(placed, svg.colour(number), width)
        yield from (svg.dot(x, y, svg.colour(number), width / 2 + 1) for x, y in placed)


def _legend(found: Sequence[Line], place: Place) -> Iterator[list[tuple[float, str, str]]]:
    """Rows of entries: the distance from the panel's edge, the colour, the label."""
    row: list[tuple[float, str, str]] = []
    x = 14.0
    for number, line in enumerate(found):
        width = svg.width_of(line.label, 12) + 32
        if row and x + width > place.width:
            yield row
            row, x = [], 14.0
        row.append((x, svg.colour(number), line.label))
        x += width
    yield row


def _entries(entries: Sequence[tuple[float, str, str]], place: Place, y: float) -> Iterator[str]:
    for x, colour, label in entries:
        yield svg.swatch(place.x + x, y - 10, colour)
        yield svg.text(place.x + x + 17, y, label, kind="legend", size=12)


def lines(properties: Widget, record: Record) -> Iterator[Line]:
    """The panel's metrics with their points. The demo has one target, so its figures are the
    stack's as well.
    """
    for row in properties["metrics"]:
        found = row[1] if isinstance(row[0], str) else _searched(row[0]["expression"])
        if found:
            yield Line(found, _figures(found, record))


def _searched(expression: str) -> str | None:
    found = re.match(r'SEARCH\(.*MetricName="(\w+)"', expression)
    return found and found[1]


def _figures(metric: str, record: Record) -> list[svg.Point]:
    if metric == "DatabaseConnections":
        return [(sample.at, float(sample.taken)) for sample in record.samples]
    return [(sweep.at, sweep.metrics[metric]) for sweep in record.sweeps if metric in sweep.metrics]


def limits_of(properties: Widget) -> Iterator[Limit]:
    """The panel's constants: its metric math, and its annotations."""
    known: dict[str, float] = {}
    for row in properties["metrics"]:
        if isinstance(row[0], dict) and not _searched(row[0]["expression"]):
            known[row[0]["id"]] = value = _constant(row[0]["expression"], known)
            yield Limit(row[0]["label"], value)
    for annotation in properties.get("annotations", {}).get("horizontal", ()):
        yield Limit(annotation["label"], annotation["value"])


def _constant(expression: str, known: Mapping[str, float]) -> float:
    """TIME_SERIES(16), or limit * 80 / 100 where limit is known."""
    if series := re.fullmatch(r"TIME_SERIES\((\d+)\)", expression):
        return float(series[1])
    if share := re.fullmatch(r"(\w+) \* (\d+) / (\d+)", expression):
        return known[share[1]] * int(share[2]) / int(share[3])
    raise ValueError(
        f"the dashboard's expression {expression!r} cannot be drawn; teach _constant to read it"
    )
