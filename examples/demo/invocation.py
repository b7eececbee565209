"""One invocation of the reaper's real handler: a process of its own, its environment, an event, its
output.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from examples.demo.workers import DemoFailed
from lab.context import Context


@dataclass(frozen=True)
class Invocation:
    """What the handler printed, which is what CloudWatch Logs would receive, and what it reported
    of its target.
    """

    documents: list[dict[str, Any]]
    report: dict[str, Any]

    @property
    def victims(self) -> list[int]:
        return [victim["id"] for victim in self.report["victims"]]

    @property
    def terminations(self) -> list[dict[str, Any]]:
        return [document for document in self.documents if document.get("message") == "session"]

    @property
    def metrics(self) -> dict[str, Any]:
        return next(document for document in self.documents if "_aws" in document)

    @property
    def measures(self) -> dict[str, float]:
        """The metrics as CloudWatch reads them out of that line, by name."""
        (directive,) = self.metrics["_aws"]["CloudWatchMetrics"]
        return {metric["Name"]: self.metrics[metric["Name"]][0] for metric in directive["Metrics"]}


def invoke(event: Mapping[str, Any], settings: Mapping[str, str]) -> Invocation:
    """Run the handler on the event with these settings and no others; raise DemoFailed if it
    raises.
    """
    # A REAPER_DRY_RUN in the caller's shell would spoil the story.
    rest = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("REAPER_", "POWERTOOLS_"))
    }
    done = subprocess.run(
        [sys.executable, "-m", __name__, json.dumps(event)],
        env={**rest, **settings},
        capture_output=True,
        text=True,
        check=False,
        # Ctrl-C is for the demo, which then ends this process itself
        start_new_session=True,
    )
    if done.returncode:
        raise DemoFailed(
            f"the handler failed: {(done.stderr.strip().splitlines() or ['it said nothing'])[-1]}"
        )
    *logs, answer = map(json.loads, done.stdout.splitlines())
    (report,) = answer["targets"]
    return Invocation(logs, report)


if __name__ == "__main__":
    from reaper.handler import lambda_handler

    print(json.dumps(lambda_handler(json.loads(sys.argv[1]), Context(30))))
