"""The pictures of demo and benchmarks: what they show is what was counted, a person can read it,
and those in docs/ are up to date.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import pytest

from examples.demo.chart import chart
from examples.demo.dashboard import dashboard, flow, lines, widgets
from examples.demo.plot import plot
from examples.demo.record import Moment, Record, Sample, Sweep
from examples.demo.telling import Narrator
from lab import ROOT, svg

DRAWN = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.svg")}
CHARTS = {
    path.name: path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks").glob("*.svg")
}
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def record() -> Record:
    """Four workers, then twelve that fall asleep, a sweep, and one more."""
    counts = [(0, 0), (4, 0), *((4 + n, n) for n in range(1, 13)), (16, 12), (4, 0), (5, 1)]
    before = {"Utilization": 100.0, "Zombies": 12.0, "Terminated": 0.0, "OldestIdleSeconds": 3.5}
    after = {"Utilization": 31.25, "Zombies": 12.0, "Terminated": 12.0, "FirstFreedSeconds": 0.03}
    return Record(
        "PostgreSQL 18.4",
        limit=16,
        samples=[Sample(float(at), *count) for at, count in enumerate(counts)],
        moments=[
            Moment(13.0, "full"),
            Moment(13.1, "a newcomer is refused"),
            Moment(15.0, "for real: 12 terminated"),
        ],
        sweeps=[Sweep(14.0, before), Sweep(15.0, after)],
    )


# In the terminal


def test_each_column_shows_what_was_counted(record: Record) -> None:
    """From the floor up: as many working ones as there were then, upon them the idle ones, and
    nothing more.
    """
    drawn = [line.plain.ljust(80) for line in plot(record, 80)][1:17]
    for column in range(5, 80):
        sample = record.at(record.end * (column - 4.5) / 75)
        stack = "".join(line[column] for line in reversed(drawn)).rstrip(" ╌")
        assert stack == "█" * sample.working + "░" * sample.idle


@pytest.mark.parametrize(
    ("width", "encoding"), [(80, "utf-8"), (60, "utf-8"), (80, "ascii"), (80, "latin-1")]
)
def test_it_fits_the_terminal(record: Record, width: int, encoding: str) -> None:
    """No line is longer than there is room, whatever the encoding can say."""
    for line in plot(record, width, encoding):
        assert len(line.plain.encode(encoding).decode(encoding)) <= width


def test_every_moment_has_its_letter_and_its_words(record: Record) -> None:
    """The letters stand above the columns in the order of the story, even where two fall into
    one.
    """
    record.moments.append(Moment(15.0, "at the same time"))
    letters, *_, one, two, three, four = (line.plain for line in plot(record, 80))
    assert re.sub(" +", "", letters) == "abcd"
    assert two.split(maxsplit=3) == ["b", "13.1", "s", "a newcomer is refused"]
    assert [line.split()[0] for line in (one, two, three, four)] == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("environ", "is_coloured"),
    [({}, False), ({"FORCE_COLOR": "1"}, True), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False)],
)
def test_colours_are_for_terminals_that_want_them(
    record: Record,
    environ: dict[str, str],
    is_coloured: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A pipe gets plain text, and so does a terminal with NO_COLOR."""
    for name in ("FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm", **environ}.items():
        monkeypatch.setenv(name, value)
    Narrator().plot(record)
    assert ("\x1b[" in capsys.readouterr().out) == is_coloured


# As SVG


class Words(NamedTuple):
    """A text as it is drawn, with the room that it takes."""

    text: str
    left: float
    right: float
    top: float
    bottom: float

    def covers(self, other: Words) -> bool:
        beside = self.right <= other.left or other.right <= self.left
        return not beside and self.top < other.bottom and other.top < self.bottom

    def is_crossed(self, line: Mapping[str, str]) -> bool:
        x, top, bottom = (float(line[name]) for name in ("x1", "y1", "y2"))
        return self.left < x < self.right and top < self.bottom and self.top < bottom


def parsed(document: str) -> ElementTree.Element:
    return ElementTree.fromstring(document)  # noqa: S314  our own pictures


def words(document: str) -> Iterator[Words]:
    for found in parsed(document).iter(f"{SVG}text"):
        size, x, y = (float(found.attrib[name]) for name in ("font-size", "x", "y"))
        width = svg.width_of(found.text or "", size)
        left = x - width * {"start": 0, "middle": 0.5, "end": 1}[found.attrib["text-anchor"]]
        yield Words(found.text or "", left, left + width, y - 0.75 * size, y + 0.2 * size)


@pytest.mark.parametrize("name", ["demo.svg", "dashboard.svg", "now", *sorted(CHARTS)])
def test_every_word_can_be_read(name: str, record: Record) -> None:
    """No text lies on another one, under an upright line or outside the picture; none is smaller
    than 12 pixels.
    """
    document = chart(record) if name == "now" else (DRAWN | CHARTS)[name]
    width, height = (float(parsed(document).attrib[side]) for side in ("width", "height"))
    found = list(words(document))
    assert len(found) >= 10
    assert [
        (one.text, other.text)
        for one, other in itertools.combinations(found, 2)
        if one.covers(other)
    ] == []
    assert [
        one.text
        for one in found
        if one.left < 0 or one.right > width or one.top < 0 or one.bottom > height
    ] == []
    uprights = [
        line.attrib
        for line in parsed(document).iter(f"{SVG}line")
        if line.attrib["x1"] == line.attrib["x2"]
    ]
    assert [one.text for one in found for line in uprights if one.is_crossed(line)] == []
    assert min(map(float, re.findall(r'font-size="([\d.]+)"', document))) >= 12


@pytest.mark.parametrize("name", ["demo.svg", "dashboard.svg", *sorted(CHARTS)])
def test_it_is_a_picture_on_any_page(name: str) -> None:
    """A background under all of it, a title and a description for screen readers, and nothing that
    a page would refuse.
    """
    document = (DRAWN | CHARTS)[name]
    root = parsed(document)
    ground = next(root.iter(f"{SVG}rect"))
    assert float(ground.attrib["width"]) >= float(root.attrib["width"]) - 1
    assert float(ground.attrib["height"]) >= float(root.attrib["height"]) - 1
    assert ground.attrib["fill"] == svg.GROUND
    assert all(root.findtext(f"{SVG}{part}") for part in ("title", "desc"))
    assert not re.search(r"href|<script|<style|<image", document)


def test_there_are_no_others() -> None:
    """`make pictures` draws what docs/ holds."""
    assert set(DRAWN) == {"demo.svg", "dashboard.svg"}


# The dashboard


def said(document: str, kind: str) -> list[str]:
    """The texts of one kind, in their order; of a limit without its figure."""
    found = parsed(document).iter(f"{SVG}text")
    return [
        (text.text or "").partition(":")[0] for text in found if text.attrib.get("class") == kind
    ]


def test_the_dashboards_picture_is_the_templates(record: Record) -> None:
    """The picture in docs/ has the template's panels, their titles, metrics, alarms and lines;
    else: make pictures.
    """
    titles = [widget["properties"]["title"] for widget in widgets(record)]
    picture = DRAWN["dashboard.svg"]
    assert said(picture, "title") == titles
    assert picture.count('<g class="panel">') == len(titles)
    for kind in ("legend", "limit"):
        assert said(picture, kind) == said(dashboard(record), kind), (
            "the template has changed: make pictures"
        )
    assert "alarm" in said(picture, "limit")


def test_panels_do_not_overlap(record: Record) -> None:
    """They lie beside and below each other, as wide as a dashboard is."""
    places = list(flow(widgets(record)))
    for one, other in itertools.combinations(places, 2):
        assert (
            one.x + one.width <= other.x
            or one.y + one.height <= other.y
            or other.x + other.width <= one.x
        )
    assert len({place.x + place.width for place in places if place.x + place.width > 900}) == 1


def test_panels_show_the_demos_figures(record: Record) -> None:
    """Counts of the server where RDS counts, the sweeps' own metrics elsewhere, and nothing where
    there are none.
    """
    shown = {
        line.label: line.points
        for widget in widgets(record)
        if widget["type"] == "metric"
        for line in lines(widget["properties"], record)
    }
    assert shown["DatabaseConnections"] == [(sample.at, sample.taken) for sample in record.samples]
    assert shown["Zombies"] == [(14.0, 12.0), (15.0, 12.0)]
    assert shown["FirstFreedSeconds"] == [(15.0, 0.03)]
    assert shown["Throttles"] == []


def test_a_folder_of_its_own_for_what_is_drawn() -> None:
    """Where the demo puts its picture unless told otherwise is left out of the repository, and goes
    with make clean.
    """
    assert "build/" in (ROOT / ".gitignore").read_text().splitlines()
    assert re.search(r"^\trm -rf .*\bbuild\b", Path(ROOT / "Makefile").read_text(), re.MULTILINE)
