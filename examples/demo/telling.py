"""The demo's output: numbered steps on 80 columns, a table of victims, a JSON document made
readable.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from examples.demo.plot import plot
from examples.demo.record import Record

WIDTH = 80
INDENT = 3
_COLUMNS = ("id", "user", "host", "database", "application", "idle_seconds", "reason")


class Narrator:
    def __init__(self) -> None:
        self.console = Console(highlight=False)
        self.console.width = min(WIDTH, self.console.width)
        self.steps = 0

    def step(self, title: str) -> None:
        self.steps += 1
        self._print(f"\n{self.steps}  {title}", "bold cyan")

    def say(self, text: str, style: str = "") -> None:
        self._print(self._filled(text, INDENT), style)

    def quote(self, text: str) -> None:
        """Print a message of the server's or the handler's as a quotation."""
        self._print(self._filled(text, INDENT + 2), "yellow")

    def document(self, document: Mapping[str, Any]) -> None:
        """Print a JSON document on a few lines; _aws, which is long, on its own."""
        parts = [
            f"{json.dumps(key)}:{json.dumps(value, separators=(', ', ':'))}"
            for key, value in document.items()
        ]
        if "_aws" in document:
            parts[0] += ","
            text = parts[0] + "\n" + ", ".join(parts[1:])
        else:
            text = ", ".join(parts)
        self._print(self._filled("{" + text + "}", INDENT + 2), "yellow")

    def victims(self, victims: Sequence[Mapping[str, Any]]) -> None:
        """Print who, from where, idle for how long, and why. A column that this engine does not
        fill is left out.
        """
        shown = [column for column in _COLUMNS if any(victim[column] for victim in victims)]
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
        for column in shown:
            table.add_column(column, justify="right" if column == "idle_seconds" else "left")
        for victim in victims:
            table.add_row(
                *(f"{victim[c]:.1f}" if c == "idle_seconds" else str(victim[c]) for c in shown)
            )
        self.console.print(Padding(table, (0, 0, 0, INDENT + 2)))

    def plot(self, record: Record) -> None:
        for line in plot(record, self.console.width, self.console.encoding):
            self.console.print(line, soft_wrap=True)

    def _filled(self, text: str, indent: int) -> str:
        margin = " " * indent
        lines = (
            textwrap.fill(
                line,
                self.console.width,
                initial_indent=margin,
                subsequent_indent=margin,
                break_on_hyphens=False,
                # Not wrapped, so that a path can be copied
                break_long_words=False,
            )
            for line in text.splitlines()
        )
        return "\n".join(lines)

    def _print(self, text: str, style: str) -> None:
        self.console.print(text, style=style, markup=False, emoji=False, soft_wrap=True)


def abridged(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The EMF document with its list of names and units cut to the first one."""
    aws = metrics["_aws"]
    (directive,) = aws["CloudWatchMetrics"]
    first, *others = directive["Metrics"]
    shorter = {**directive, "Metrics": [first, f"... {len(others)} more"]}
    return {**metrics, "_aws": {**aws, "CloudWatchMetrics": [shorter]}}
