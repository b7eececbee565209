"""The demo's connections over time as a picture: who works, who is idle, the limit, and what
happened when.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from examples.demo.record import Moment, Record, Sample
from lab import svg

WIDTH, HEIGHT = 860, 420
LEFT, RIGHT, BOTTOM = 48, 24, 40
_HEAD, _LANE, _GAP = 46, 20, 6
_WORKING, _IDLE = "#4878a8", "#f0883e"


def chart(record: Record) -> str:
    across = svg.Linear(0, record.end, LEFT, WIDTH - RIGHT)
    lanes = lanes_of(record.moments, across)
    top = _HEAD + _LANE * (max(lanes, default=-1) + 1) + 22
    up = svg.Linear(0, record.limit, HEIGHT - BOTTOM, top)
    return svg.picture(
        WIDTH,
        HEIGHT,
        f"Connections of {record.server} during the demo",
        "; ".join(f"after {moment.at:.1f} s: {moment.what}" for moment in record.moments),
        [
            *_head(record),
            *svg.levels(across, up, 8),
            *_areas(record, across, up),
            *_limit(record, across, up),
            *_moments(record.moments, lanes, across),
            *svg.seconds(across, HEIGHT - BOTTOM + 20, 10),
        ],
    )


def _head(record: Record) -> Iterator[str]:
    yield svg.text(
        16, 28, f"Connections of {record.server}, as the server counts them", kind="title", size=16
    )
    x = WIDTH - RIGHT - 150
    for name, colour in (("working", _WORKING), ("idle", _IDLE)):
        yield svg.swatch(x, 18, colour)
        yield svg.text(x + 17, 28, name, kind="legend")
        x += 90


def _areas(record: Record, across: svg.Scale, up: svg.Scale) -> Iterator[str]:
    """The two areas, one above the other. A count holds until the next one."""
    working = _stairs(
        record.samples, [sample.working for sample in record.samples], record.end, across, up
    )
    taken = _stairs(
        record.samples, [sample.taken for sample in record.samples], record.end, across, up
    )
    yield svg.area(taken, up(0), _IDLE)
    yield svg.area(working, up(0), _WORKING)


def _stairs(
    samples: Sequence[Sample], counts: Sequence[int], end: float, across: svg.Scale, up: svg.Scale
) -> list[svg.Point]:
    until = [*(sample.at for sample in samples[1:]), end]
    steps = zip(samples, counts, until, strict=True)
    return [
        (across(time), up(count)) for sample, count, then in steps for time in (sample.at, then)
    ]


def _limit(record: Record, across: svg.Scale, up: svg.Scale) -> Iterator[str]:
    y = up(record.limit)
    yield svg.line(across.start, y, across.end, y, svg.ALERT, "7 4")
    yield svg.text(
        across.start + 6, y - 6, f"all {record.limit} slots", kind="legend", fill=svg.ALERT
    )


def lanes_of(moments: Sequence[Moment], across: svg.Scale) -> list[int]:
    """The lane of each label, counted from the lowest, such that no label covers another one or a
    pole.

    A label ends at its pole, which goes down from it: so it only has to be above those that it
    would reach.
    """
    lanes: list[int] = []
    for moment in moments:
        left = across(moment.at) - svg.width_of(moment.what) - 2 * _GAP
        reached = [
            lane
            for earlier, lane in zip(moments, lanes, strict=False)
            if across(earlier.at) >= left
        ]
        lanes.append(max(reached, default=-1) + 1)
    return lanes


def _moments(moments: Sequence[Moment], lanes: Sequence[int], across: svg.Scale) -> Iterator[str]:
    for moment, lane in zip(moments, lanes, strict=True):
        x, y = across(moment.at), _HEAD + _LANE * (max(lanes) - lane) + 14
        yield svg.line(x, y - 12, x, HEIGHT - BOTTOM, svg.INK, "2 3")
        yield svg.text(x - _GAP, y, moment.what, kind="moment", anchor="end")
