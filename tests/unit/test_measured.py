"""What the README says was measured stands in the results that `make bench` wrote."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.unit.build import ROOT

RESULTS = json.loads((ROOT / "benchmarks" / "results.json").read_text(encoding="utf-8"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
MEASURED = " ".join(re.search(r"^## Measured\n(.*?)^## ", README, re.DOTALL | re.MULTILINE)[1].split())  # type: ignore[index]


def sections(name: str) -> dict[str, dict[str, Any]]:
    return {section["title"]: section["raw"] for section in RESULTS[name]["sections"]}


@pytest.mark.parametrize(("measured", "told"), [("postgres18", "on PostgreSQL"), ("mysql", "on MySQL")])
def test_round_trips(measured: str, told: str) -> None:
    """Ours is one; SQLAlchemy's are those that were counted on each engine."""
    trips = sections("client")[f"The client: {measured}"]["round_trips"]
    assert f"A warm read is {trips['reaper.client']:.2f} round trip through this client" in MEASURED
    assert re.search(rf"{trips['SQLAlchemy']:.2f} {told}", MEASURED)


@pytest.mark.parametrize("measured", ["mysql", "mariadb", "postgres18"])
def test_what_was_lost_or_doubled(measured: str) -> None:
    """Who reports success with a row lost or doubled, and who does not, on every engine."""
    told = sections("fire")["Correctness under fire"][measured]
    for name, cases in told.items():
        if name.startswith("serverless-"):
            assert "success; 1 lost, 0 doubled" in cases["K1"]
            assert "success; 0 lost, 1 doubled" in cases["K2"]
        elif name != "reaper.client":
            assert cases["K1"].startswith("error")
            assert cases["K2"].startswith("error")
    assert told["reaper.client"]["K1"] == "success; right"
    assert told["reaper.client"]["K2"].startswith("error OutcomeUnknown")
    assert "report success with 1 row lost" in MEASURED
    assert "success with 1 row doubled" in MEASURED


def test_the_hour() -> None:
    """The reaper leaves the connections of the busy; a pool alone leaves all."""
    held = sections("client")["An hour of a hundred environments, simulated"]
    alone, busy = held["nothing but a pool"]["60"], held["the reaper, every 5 minutes"]["60"]
    assert f"Of {alone} environments of which {busy} are still busy" in MEASURED
    assert f"leaves the connections of those {busy}." in MEASURED


def test_there_are_no_other_figures() -> None:
    """No figure stands there that is not looked up above, but for names and the time that it takes."""
    known = {"1.00", "3.00", "4.00", "1", "100", "10"}
    assert set(re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.]*\d)", MEASURED)) <= known
