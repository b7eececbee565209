"""What people see of advice and of sizing: within 80 columns, coloured on a terminal alone."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill

from rich.console import Console
from rich.table import Table
from rich.text import Text

from reaper.advice import Advice, Finding, Severity
from reaper.client.target import printable as clean
from reaper.sizing import Sizing, Step

_STYLES = {Severity.HIGH: "bold red", Severity.MEDIUM: "yellow", Severity.LOW: "cyan"}


def show_paragraph(console: Console, text: str, style: str = "") -> None:
    """Indented and wrapped, without the spaces at the ends of lines that rich would put there."""
    filled = fill(text, console.width, initial_indent="  ", subsequent_indent="  ")
    console.print(Text(filled, style=style), soft_wrap=True)


def show_advice(advice: Advice) -> None:
    """Each finding as a paragraph.

    Statement and source stand on lines of their own, to be copied whole.
    """
    console = Console(highlight=False)
    count = len(advice.findings)
    said = (
        "nothing to change"
        if not count
        else "1 thing to change"
        if count == 1
        else f"{count} things to change"
    )
    console.print(Text(f"{clean(advice.target)}: {said}", style="bold"))
    for finding in advice.findings:
        _show_finding(console, finding)


def _show_finding(console: Console, finding: Finding) -> None:
    console.print()
    console.print(
        Text.assemble((finding.severity, _STYLES[finding.severity]), " ", (finding.rule, "bold"))
    )
    for paragraph in (finding.evidence, finding.advice):
        show_paragraph(console, clean(paragraph))
    for line in (*finding.statement.splitlines(), finding.source):
        console.print(Text(f"    {clean(line)}"), soft_wrap=True)


def show_sizing(sizing: Sizing) -> None:
    console = Console(highlight=False)
    console.print(_sum(sizing.steps))
    for share in sizing.shares:
        console.print()
        console.print(Text(clean(share.load.name), style="bold"))
        console.print(_sum(share.steps))
    sources = dict.fromkeys(step.source for step in sizing.steps if step.source)
    console.print()
    for source in sources:
        console.print(Text(source), soft_wrap=True)


def _sum(steps: Sequence[Step]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right")
    table.add_column(overflow="fold")
    for step in steps:
        table.add_row(
            step.name.replace("_", " "), Text(f"{step.value:.10g}", style="bold"), Text(step.how)
        )
    return table
