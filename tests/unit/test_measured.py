"""What the README says was measured stands in the results that `make bench` wrote."""

from __future__ import annotations

import json
import re
import statistics
from typing import Any

import pytest

from benchmarks import fire
from benchmarks.__main__ import NAMES, REPORT, report
from lab import ROOT

RESULTS = json.loads((ROOT / "benchmarks" / "results.json").read_text(encoding="utf-8"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
(_SECTION,) = re.findall(r"^## Measured\n(.*?)^## ", README, re.DOTALL | re.MULTILINE)
MEASURED = " ".join(_SECTION.split())


def sections(name: str) -> dict[str, dict[str, Any]]:
    return {section["title"]: section["raw"] for section in RESULTS[name]["sections"]}


def figures(pattern: str) -> list[float]:
    """What the README says, by the groups of a pattern that it must hold."""
    found = re.search(pattern, " ".join(README.split()))
    assert found, f"the README does not say {pattern}"
    return [float(figure) for figure in found.groups()]


@pytest.mark.parametrize(
    ("measured", "told"), [("postgres18", "on PostgreSQL"), ("mysql", "on MySQL")]
)
def test_round_trips(measured: str, told: str) -> None:
    """Ours is one; SQLAlchemy's are those that were counted on each engine."""
    trips = sections("client")[f"The client: {measured}"]["round_trips"]
    assert f"A warm read is {trips['reaper.client']:.2f} round trip through this client" in MEASURED
    assert re.search(rf"{trips['SQLAlchemy']:.2f} {told}", MEASURED)


@pytest.mark.parametrize("measured", ["mysql", "mariadb", "postgres18"])
def test_what_was_lost_or_doubled(measured: str) -> None:
    """Who reports success with a row lost or doubled, and who does not, on every engine."""
    told = sections("fire")["Correctness under fire"][measured]
    killed, unanswered = (
        "killed between two statements of a transaction",
        "the answer to an INSERT is lost",
    )
    for name, cases in told.items():
        if name.startswith("serverless-"):
            assert "success; 1 lost, 0 doubled" in cases[killed]
            assert "success; 0 lost, 1 doubled" in cases[unanswered]
        elif name != "reaper.client":
            assert cases[killed].startswith("error")
            assert cases[unanswered].startswith("error")
    assert told["reaper.client"][killed] == "success; right"
    assert told["reaper.client"][unanswered].startswith("error OutcomeUnknown")
    assert "report success with 1 row lost" in MEASURED
    assert "success with 1 row doubled" in MEASURED


def test_the_page_is_that_of_the_results() -> None:
    """RESULTS.md is what `python -m benchmarks --page` makes of results.json, not edited
    by hand.
    """
    assert REPORT.read_text(encoding="utf-8") == report({name: RESULTS[name] for name in NAMES})


def test_each_accident_is_told_by_what_it_shows() -> None:
    """The results name the cases as the benchmark does, on every engine and for every client."""
    told = sections("fire")["Correctness under fire"]
    assert {frozenset(cases) for clients in told.values() for cases in clients.values()} == {
        frozenset(fire.CASES)
    }


def test_the_hour() -> None:
    """The reaper leaves the connections of the busy; a pool alone leaves all."""
    held = sections("client")["An hour of a hundred environments, simulated"]
    alone, busy = held["nothing but a pool"]["60"], held["the reaper, every 5 minutes"]["60"]
    assert f"Of {alone} environments of which {busy} are still busy" in MEASURED
    assert f"leaves the connections of those {busy}." in MEASURED


def test_there_are_no_other_figures() -> None:
    """No figure stands there that is not looked up above, but for names and the time that it
    takes.
    """
    known = {"1.00", "3.00", "4.00", "1", "100", "10"}
    assert set(re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.]*\d)", MEASURED)) <= known


@pytest.mark.parametrize(
    ("told", "measured"),
    [
        (r"takes\]\(#measured\) ([\d.]+) s of a core", "first"),
        (r"A later one takes ([\d.]+) s", "later"),
        (r"the process peaks at (\d+) MB", "peak"),
    ],
)
def test_what_an_invocation_takes(told: str, measured: str) -> None:
    """The README's figures are those that were measured, within a quarter; another machine's need
    not be.
    """
    (figure,) = figures(told)
    assert figure == pytest.approx(
        statistics.median(sections("memory")["Memory sizes"][measured]), rel=0.25
    )


def test_the_seconds_at_a_size_follow_from_its_share_of_a_core() -> None:
    """A whole core at 1,769 MB, hence so much less at 256 MB and at 1 GB."""
    whole, *shares = figures(r"([\d.]+) s of a core: ([\d.]+) s at 256 MB, ([\d.]+) s at 1 GB")
    assert shares == pytest.approx([whole * 1769 / size for size in (256, 1024)], rel=0.1)


def test_what_the_extension_adds() -> None:
    """Less than 10 ms of a cold start, and 3 MB."""
    samples = sections("extension")["The extension"]["the extension"]
    assert "3 MB, and less than 10 ms of a cold start" in " ".join(README.split())
    assert statistics.median(sample["registered in ms"] for sample in samples) < 10
    assert statistics.median(sample["resident MB"] for sample in samples) == pytest.approx(
        3, abs=0.5
    )
