"""`python -m release pins | licences | sbom | figures | compiled BUILD | archives BUILD
ARCHITECTURE`: what make's goals run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from release import archives, bill, compiled, figures, licences, pins
from release.packages import shipped

DIST = pins.ROOT / "dist"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m release", description=__doc__)
    goals = parser.add_subparsers(dest="goal", required=True)
    for name in ("pins", "licences", "sbom", "figures"):
        goals.add_parser(name)
    goals.add_parser("compiled").add_argument("build", type=Path)
    packing = goals.add_parser("archives")
    packing.add_argument("build", type=Path)
    packing.add_argument("architecture")
    given = parser.parse_args()
    match given.goal:
        case "pins":
            pins.renew()
        case "licences":
            licences.LIST.write_text(licences.text(shipped()), encoding="utf-8")
        case "sbom":
            DIST.mkdir(exist_ok=True)
            (DIST / "reaper.cdx.json").write_text(bill.bill(shipped()), encoding="utf-8")
        case "figures":
            print(*figures.figures(figures.modules(pins.ROOT / "reaper")), sep="\n")
        case "compiled":
            for line in compiled.add(given.build):
                print(line)
        case _:
            print("\n".join(map(str, archives.publish(given.build, DIST, given.architecture))))


if __name__ == "__main__":
    main()
