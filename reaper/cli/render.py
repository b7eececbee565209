"""What people see, within 80 columns and coloured on a terminal only; and the JSON documents."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from textwrap import fill
from typing import TypeVar

from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from reaper.advice import Advice, Finding, Severity
from reaper.client.redaction import hide_passwords
from reaper.client.redaction import printable as clean
from reaper.model import Snapshot, SweepWarning, Verdict
from reaper.policy import Judgement
from reaper.report import Report, Victim, rounded, span
from reaper.sizing import Sizing, Step

_Word = TypeVar("_Word", bound=StrEnum)

_STYLES = {Severity.HIGH: "bold red", Severity.MEDIUM: "yellow", Severity.LOW: "cyan"}


def show_paragraph(console: Console, text: str, style: str = "") -> None:
    """Print a text indented and wrapped, without the trailing spaces that rich would add."""
    filled = fill(text, console.width, initial_indent="  ", subsequent_indent="  ")
    console.print(Text(filled, style=style), soft_wrap=True)


def show_advice(advice: Advice) -> None:
    """Print each finding as a paragraph.

    Statement and source stand on lines of their own, so that they can be copied whole.
    """
    console = Console(highlight=False)
    match len(advice.findings):
        case 0:
            said = "nothing to change"
        case 1:
            said = "1 thing to change"
        case count:
            said = f"{count} things to change"
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
    """Print the arithmetic as tables, then its sources."""
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


def show_all(found: Sequence[Advice]) -> None:
    """Print the advice on each target; errors go to standard error."""
    for place, advice in enumerate(found):
        if advice.error:
            complain(f"{advice.target}: {advice.error.kind}: {advice.error.message}")
        else:
            print("\n" * (place > 0), end="")
            show_advice(advice)


def show_report(report: Report) -> None:
    """Print one sweep: its victims, then in short what was seen, its warnings, its error."""
    console = Console()
    if report.victims:
        console.print(victims_table(report.victims))
    if report.saw:
        first, *others = _summary(report, report.saw)
        console.print(Text(first))
        for line in others:
            show_paragraph(console, line)
    for warning in report.warnings:
        show_paragraph(console, f"{warning}: {WARNINGS[SweepWarning(warning)]}", "yellow")
    if report.error:
        complain(f"{report.target}: {report.error.kind}: {report.error.message}")


# What each warning means, for people.
WARNINGS = {
    SweepWarning.IDLE_UPPER_BOUND: (
        "idle times are upper bounds; two looks two seconds apart confirm them"
    ),
    SweepWarning.NAMED_LOCKS_UNSEEN: (
        "holders of GET_LOCK and LOCK TABLES cannot be seen, so they are not spared"
    ),
    SweepWarning.TRANSACTIONS_UNSEEN: (
        "who has begun a transaction and run nothing in it cannot be seen, so is not spared"
    ),
    SweepWarning.TRANSACTIONS_STALE: (
        "somebody reads innodb_trx all the time, so transactions cannot be seen and nobody is taken"
    ),
    SweepWarning.OWN_ACCOUNT_SHARED: (
        "the application uses the reaper's account, so all its sessions are spared"
    ),
    SweepWarning.USER_LIMITS_UNSEEN: (
        "per-user limits cannot be read, so a user at its own limit goes unnoticed"
    ),
    SweepWarning.NO_RIGHT_TO_TERMINATE: "this account could not terminate anybody",
    SweepWarning.RDS_PROXY_PROTECTED: (
        "an RDS Proxy stands in front, so all sessions from its addresses are spared"
    ),
    SweepWarning.RDS_PROXY_SUBNETS_PROTECTED: (
        "the RDS Proxy's addresses are not known, so all from its subnets are spared"
    ),
}


def _summary(report: Report, saw: Snapshot) -> tuple[str, ...]:
    used = f"{saw.used} connections used"
    if saw.utilization is not None:
        used = f"{saw.used} of {saw.usable} connections used ({saw.utilization:.0%})"
    freed = f"; {report.freed} slots freed" if report.outcomes and not report.dry_run else ""
    return (
        f"{clean(report.target)}: {used}, {report.mode}",
        f"{report.zombies} zombies{_counted(report.outcomes)}{freed}",
        f"spared{_counted(report.spared) or ': nobody'}",
    )


def _counted(counts: Mapping[_Word, int]) -> str:
    if not counts:
        return ""
    return f": {', '.join(f'{count} {name}' for name, count in sorted(counts.items()))}"


def victims_table(victims: Sequence[Victim]) -> Table:
    """The victims as a table, one line each."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    names = ("user", "from", "database", "application")
    for column in ("id", *names, "idle", "why", "what happened"):
        table.add_column(column, no_wrap=column not in names)
    for victim in victims:
        session = victim.session
        table.add_row(
            str(session.id),
            *map(_cut, (session.user, session.host, session.database, session.application)),
            span(session.idle_seconds),
            victim.verdict.reason,
            victim.outcome or "-",
        )
    return table


def _cut(name: str | None) -> Text:
    """A name that is cut where the line is too short for all columns."""
    return Text(clean(name or "-"), no_wrap=True, overflow="ellipsis")


def show_judgement(judgement: Judgement) -> None:
    """Print the verdict on every session, then how many would be terminated."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("id", "user", "idle", "action", "why"):
        table.add_column(column, no_wrap=column != "user")
    for verdict in judgement.verdicts:
        session = verdict.session
        table.add_row(
            str(session.id),
            _cut(session.user),
            span(session.idle_seconds),
            verdict.action,
            verdict.reason,
        )
    Console().print(table)
    Console().print(
        f"{judgement.mode}: {len(judgement.victims)} of {len(judgement.verdicts)} would be "
        "terminated"
    )


def verdict_json(verdict: Verdict) -> dict[str, object]:
    """One verdict of a replay."""
    return {
        "id": verdict.session.id,
        "action": verdict.action,
        "reason": verdict.reason,
        "idle_seconds": rounded(verdict.session.idle_seconds),
    }


def print_json(document: Mapping[str, object]) -> None:
    """Print a document on standard output, indented."""
    print(json.dumps(document, indent=2))


def complain(message: str) -> None:
    """Print one line on standard error.

    Passwords are hidden: a word that was taken for an option or a command may have been a DSN.
    """
    print(f"reaper: {clean(hide_passwords(message))}", file=sys.stderr)


def errors() -> Console:
    """A console on standard error."""
    return Console(stderr=True)


def busy(what: str) -> Status:
    """A spinner for a terminal, with the text beside it."""
    # As Text, since rich would read a plain string as markup.
    return errors().status(Text(clean(what)))
