"""`python -m benchmarks [--quick] [--up-to=SESSIONS] [--only=SERVER] [NAME…]`: measure, and write
the page of results. `python -m benchmarks --page` writes the page again and measures nothing.

Quick tries everything out and writes nothing. Up to fewer sessions is for a machine that cannot
bear 16,000. Of reaping and looking one server can be measured again; the others' results stay.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lab.servers import Unavailable

from .base import IDLE, Effort, Section, machine, rest

# In the order of the report.
NAMES = (
    "reaping",
    "looking",
    "client",
    "fire",
    "cold_start",
    "memory",
    "extension",
    "emergency",
    "fleet",
)
CROWDED = ("reaping", "looking")
FOLDER = Path(__file__).parent
RAW, REPORT = FOLDER / "results.json", FOLDER / "RESULTS.md"
PACKAGES = ("PyMySQL", "psycopg", "SQLAlchemy", "psycopg-pool", "aws-lambda-powertools")

Measure = Callable[[Effort], Sequence[Section]]


def main(arguments: Sequence[str]) -> None:
    if "--page" in arguments:
        write_page(json.loads(RAW.read_text(encoding="utf-8")))
        return
    options = dict(given.removeprefix("--").split("=") for given in arguments if "=" in given)
    effort = Effort(
        "--quick" not in arguments,
        int(options.get("up-to", Effort.most)),
        only=options.get("only", Effort.only),
    )
    chosen = [name for name in arguments if not name.startswith("--")] or list(NAMES)
    if unknown := set(chosen) - set(NAMES):
        raise SystemExit(
            f"there is no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}"
        )
    # Each runs in a process of its own, since the garbage of one would slow the next
    if len(chosen) > 1:
        for name in chosen:
            subprocess.run(
                [sys.executable, "-m", "benchmarks", *set(arguments) - set(chosen), name],
                check=True,
            )
        return
    (name,) = chosen
    part = measured(name, effort)
    print("\n\n".join(section["markdown"] for section in part["sections"]), flush=True)
    if effort.is_full:
        known = json.loads(RAW.read_text()) if RAW.exists() else {}
        known[name] = _over(known[name], part) if effort.only and name in known else part
        RAW.write_text(json.dumps(known, indent=1, default=str) + "\n")
        write_page(known)


def write_page(known: Mapping[str, Any]) -> None:
    """Write RESULTS.md from what results.json holds."""
    REPORT.write_text(report({name: known[name] for name in NAMES if name in known}))


def _over(known: Mapping[str, Any], part: Mapping[str, Any]) -> dict[str, Any]:
    """The part, with those sections of the known one that were not measured again."""
    sections = {section["title"]: section for section in (*known["sections"], *part["sections"])}
    return {**part, "sections": list(sections.values())}


def measured(name: str, effort: Effort) -> dict[str, Any]:
    """One benchmark's sections, and the state of the machine. What cannot run here says so in a
    section.
    """
    print(f"--- {name}", flush=True)
    measure: Measure = import_module(f"benchmarks.{name}").measure
    rest()
    before, began = machine(), time.monotonic()
    try:
        sections = measure(effort)
    except Unavailable as missing:
        sections = [Section(name, skipped=[str(missing)])]
    if effort.is_full:
        for section in sections:
            for file, picture in section.charts.items():
                (FOLDER / file).write_text(picture)
    return {
        "up_to": effort.most,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - began),
        "machine": before,
        "load_after": machine()["load"],
        "versions": versions(),
        "sections": [kept(section) for section in sections],
    }


def kept(section: Section) -> dict[str, Any]:
    """What results.json holds of a section."""
    bars = [
        asdict(bar) | {"median": bar.spread.median, "reached": bar.is_reached}
        for bar in section.bars
    ]
    return {
        "title": section.title,
        "bars": bars,
        "raw": section.raw,
        "markdown": section.markdown(),
    }


def report(taken: Mapping[str, Any]) -> str:
    """The whole page of results, in Markdown."""
    newest = list(taken.values())[-1]
    last = newest["machine"]
    bars = [
        bar for part in taken.values() for section in part["sections"] for bar in section["bars"]
    ]
    missed = [
        (section["title"], bar)
        for part in taken.values()
        for section in part["sections"]
        for bar in section["bars"]
        if not bar["reached"]
    ]
    lines = [
        "# Measured",
        "Made by `make bench`, which writes this page, its pictures and `results.json`; not "
        "edited by hand. Each "
        "figure is the median of several rounds, with the middle half of them in brackets. What "
        "is compared was "
        "measured in turn, round by round, on the same server; ratios are taken within a round. "
        "Milliseconds are this "
        "machine's and say little elsewhere.",
        f"Machine: {last['processor']}, {last['cores']} cores, {last['memory_mb'] // 1024} GB, "
        f"{last['system']}; "
        f"Python {last['python']}; {newest['versions']}. Client and server share its cores.",
        *_rivals(taken),
        f"Each part begins when the processors have been idle for {IDLE:.0%} of a fifth of a "
        f"second, and so does each "
        "round of reaping. Load average over a minute, before and after, which still counts "
        "sessions that have ended: "
        + "; ".join(_load(name, part) for name, part in taken.items())
        + ".",
        *(_limited(taken)),
        f"Bars reached: {len(bars) - len(missed)} of {len(bars)}.",
    ]
    if missed:
        lines += [
            "Not reached (what lies within a tenth of its bar may lie on the other side in the "
            "next run):",
            "\n".join(f"- {title}: {_told(bar)}" for title, bar in missed),
        ]
    lines += [section["markdown"] for part in taken.values() for section in part["sections"]]
    return "\n\n".join(lines) + "\n"


def _rivals(taken: Mapping[str, Any]) -> list[str]:
    """The versions of the servers, and of the pt-kill that the reaper was compared with, as they
    told them.
    """
    raw = {
        s["title"].removeprefix("Reaping: "): s["raw"]
        for s in taken.get("reaping", {}).get("sections", ())
    }
    told = [f"{server}: {found['version']}" for server, found in raw.items() if "version" in found]
    told += sorted({f"pt-kill: {found['pt_kill']}" for found in raw.values() if "pt_kill" in found})
    return [f"Reaping's servers and rival: {'; '.join(told)}."] if told else []


def _limited(taken: Mapping[str, Any]) -> list[str]:
    """A note for each benchmark that was measured up to fewer sessions only."""
    small = {name: part["up_to"] for name, part in taken.items() if part["up_to"] < Effort.most}
    return [
        f"{name} was measured up to {most} sessions only."
        for name, most in small.items()
        if name in CROWDED
    ]


def _told(bar: Mapping[str, Any]) -> str:
    return f"{bar['what']}: {bar['median']:.2f}{bar['unit']}, at most {bar['most']:g}{bar['unit']}"


def _load(name: str, part: Mapping[str, Any]) -> str:
    before, after = part["machine"]["load"][0], part["load_after"][0]
    return f"{name} {before:.1f} and {after:.1f} ({part['seconds']} s)"


def versions() -> str:
    """The packages that are measured, as they are installed here."""
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


if __name__ == "__main__":
    main(sys.argv[1:])
