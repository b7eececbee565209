"""A reaper in a process of its own that waits in the middle of its sweep: the lock is taken, nobody
struck yet.

It prints a line when it is there. The next line on standard input has it go on; then it prints its
report.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from reaper.client.deadline import Deadline
from reaper.model import SweepTarget
from reaper.rules import Rules
from reaper.sweep import Observers, Sweep


def wait(_: Any) -> None:
    print(json.dumps("midway"), flush=True)
    sys.stdin.readline()


def main() -> None:
    order = json.loads(sys.stdin.readline())
    sweep = Sweep(
        target=SweepTarget.from_mapping(order["target"]),
        rules=Rules.from_json(order["rules"]),
        trigger="schedule",
        deadline=Deadline.after(120),
        observers=Observers(on_snapshot=wait),
    )
    print(json.dumps(sweep.run().to_json()), flush=True)


if __name__ == "__main__":
    main()
