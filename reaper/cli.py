"""The operator's command line: scan, kill, replay."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from reaper.client.deadline import Clock, Deadline
from reaper.client.target import ConfigurationError, hint
from reaper.engines import engine_for
from reaper.engines.base import Look
from reaper.fleet import TARGETS, targets_from_environ
from reaper.model import InTransaction, Rules, Snapshot, SweepTarget, Verdict
from reaper.policy import Judgement, judge
from reaper.report import ErrorKind, Report, Victim, rounded
from reaper.request import Trigger
from reaper.sweep import Observers, Sweep, blind_error

DONE, SWEEP_FAILED, BAD_USAGE = 0, 1, 2

app = typer.Typer(
    help="Find and terminate the database sessions that frozen functions leave behind.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(text: object) -> float:
    """`90`, `90s`, `15m`, `2h`, `1d` in seconds; Typer sends defaults through here as well."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d+)?)([smhd]?)", str(text).strip())
    if not found:
        raise typer.BadParameter(f"{text!r} is no time; write 90s, 15m, 2h or 1d")
    return float(found[1]) * _UNITS[found[2] or "s"]


Targets = Annotated[list[str], typer.Argument(metavar="TARGET...", help=f"A DSN, or a name from {TARGETS}.")]
Idle = Annotated[float | None, typer.Option("--idle", parser=seconds, metavar="TIME", help="Idle this long: a zombie.")]
PressureIdle = Annotated[float | None, typer.Option(parser=seconds, metavar="TIME", help="The same under pressure.")]
InTransactionIdle = Annotated[
    float | None, typer.Option(parser=seconds, metavar="TIME", help="Threshold of sessions in a transaction.")
]
OnlyPressure = Annotated[bool, typer.Option("--only-under-pressure", help="Act only where slots are scarce.")]
MaxKills = Annotated[int | None, typer.Option(help="At most this many.")]
MinIdle = Annotated[int | None, typer.Option(help="Leave each user this many of its youngest idle sessions.")]
Transactions = Annotated[InTransaction | None, typer.Option("--in-transaction", help="What to do with these.")]
Who = Annotated[list[str] | None, typer.Option(help="Only these; repeat for more, globs welcome.")]
NotWho = Annotated[list[str] | None, typer.Option(help="Never these.")]
OtherRules = Annotated[str | None, typer.Option("--rules", metavar="JSON", help="Any rules, as an event has them.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Save = Annotated[Path | None, typer.Option(metavar="FILE", help="Save what was seen, for replay.")]
SaveSql = Annotated[bool, typer.Option("--save-sql", help="Save SQL text whole; it can hold personal data.")]
Timeout = Annotated[float, typer.Option(parser=seconds, metavar="TIME", help="Give up after this long.")]


@app.command()
def scan(
    targets: Targets,
    idle: Idle = None,
    pressure_idle: PressureIdle = None,
    only_under_pressure: OnlyPressure = False,
    max_kills: MaxKills = None,
    min_idle_per_user: MinIdle = None,
    in_transaction: Transactions = None,
    in_transaction_idle: InTransactionIdle = None,
    allow_user: Who = None,
    protect_user: NotWho = None,
    rules: OtherRules = None,
    save: Save = None,
    save_sql: SaveSql = False,
    timeout: Timeout = 60.0,
    as_json: AsJson = False,
) -> None:
    """Show who would be terminated, and why. Changes nothing."""
    asked = _asked(locals())
    if save and len(targets) > 1:
        raise ConfigurationError("--save takes one target at a time")
    looks: list[Look] = []
    observers = Observers(looked=looks.append)
    settings = _settings(targets, asked)
    reports = []
    for target, base in settings:
        sweep = _sweep(target, replace(base, dry_run=True), timeout, observers)
        reports.append(_run(sweep))
        if not as_json:
            _show(reports[-1])
    if save and looks:
        _save(save, looks[0].to_file(save_sql))
    _finish(reports, as_json, dry_run=True)


@app.command()
def kill(
    targets: Targets,
    idle: Idle = None,
    pressure_idle: PressureIdle = None,
    only_under_pressure: OnlyPressure = False,
    max_kills: MaxKills = None,
    min_idle_per_user: MinIdle = None,
    in_transaction: Transactions = None,
    in_transaction_idle: InTransactionIdle = None,
    allow_user: Who = None,
    protect_user: NotWho = None,
    rules: OtherRules = None,
    timeout: Timeout = 60.0,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Terminate sleeping sessions, after asking. Each is looked at again right before."""
    asked = _asked(locals())
    if os.environ.get("REAPER_DRY_RUN") and _base_rules().dry_run:
        raise ConfigurationError("REAPER_DRY_RUN is true, so nothing is terminated; unset it, or use scan")
    if asked.get("dry_run"):
        raise ConfigurationError("--rules says dry_run true, so nothing is terminated; leave it out, or use scan")
    settings = _settings(targets, asked)
    for target, _ in settings:
        if target.rules.get("dry_run"):
            raise ConfigurationError(f"target {target.name!r} says dry_run true in its own rules; use scan")
    if not yes and not sys.stdin.isatty():
        raise ConfigurationError("nobody to ask on standard input; say --yes to terminate without being asked")
    reports = []
    for target, base in settings:
        reports.append(_kill(target, replace(base, dry_run=False), timeout, yes))
        if not as_json:
            _show(reports[-1])
    _finish(reports, as_json, dry_run=False)


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What scan --save wrote.")],
    rules: OtherRules = None,
    as_json: AsJson = False,
) -> None:
    """Judge a saved snapshot again, by these rules. Needs no database."""
    look = Look.from_file(_json_of(_text_of(file), str(file)))
    engine = engine_for(look.engine)
    snapshot = engine.read(look)
    judgement = judge(snapshot, _base_rules().override(_rules_option(rules), "--rules"))
    error = blind_error(engine) if snapshot.blind else None
    if as_json:
        _print_json({
            "mode": judgement.mode,
            "error": {"kind": error.kind, "message": error.message} if error else None,
            "verdicts": [_verdict_json(verdict) for verdict in judgement.verdicts],
        })
    else:
        _show_judgement(judgement)
        if error:
            _complain(f"{error.kind}: {error.message}")
    raise typer.Exit(SWEEP_FAILED if error else DONE)


def main() -> None:
    """The console script: every expected error is one line and exit status 2, never a traceback."""
    try:
        app()
    except ConfigurationError as problem:
        _complain(str(problem))
        sys.exit(BAD_USAGE)


_OPTIONS = {
    "idle": "idle_seconds",
    "pressure_idle": "pressure_idle_seconds",
    "in_transaction_idle": "in_transaction_seconds",
    "allow_user": "allow_users",
    "protect_user": "protect_users",
}


def _asked(options: Mapping[str, Any]) -> dict[str, Any]:
    """The rules that the command line names, by the rules' own keys."""
    known = {rule.name for rule in fields(Rules)}
    # `is`: 0 seconds is an answer, and equal to False.
    given = {name: value for name, value in options.items() if value is not None and value is not False and value != []}
    named = {_OPTIONS.get(name, name): value for name, value in given.items()}
    return _rules_option(options["rules"]) | {key: value for key, value in named.items() if key in known}


def _rules_option(text: str | None) -> dict[str, Any]:
    found = _json_of(text, "--rules") if text else {}
    if not isinstance(found, dict):
        raise ConfigurationError(f'--rules is {text!r}; give a JSON object such as {{"idle_seconds": 120}}')
    return found


def _base_rules() -> Rules:
    return Rules.from_environ(os.environ)


def _settings(named: Sequence[str], asked: Mapping[str, Any]) -> list[tuple[SweepTarget, Rules]]:
    """Every target with its rules, all checked before the first connection."""
    base = _base_rules()
    targets = [_target(name) for name in named]
    return [(target, base.override(target.rules).override(asked, "command line")) for target in targets]


def _target(named: str) -> SweepTarget:
    if "://" in named:
        return SweepTarget.from_dsn(named)
    targets = {target.name: target for target in targets_from_environ(os.environ)}
    if named not in targets:
        raise ConfigurationError(f"unknown target {named!r}{hint(named, targets)}")
    return targets[named]


class _Stopwatch:
    """The monotonic clock, standing still while the operator thinks."""

    def __init__(self) -> None:
        self._paused = 0.0

    def __call__(self) -> float:
        return time.monotonic() - self._paused

    @contextmanager
    def pause(self) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._paused += time.monotonic() - began


def _sweep(
    target: SweepTarget, rules: Rules, timeout: float, observers: Observers, clock: Clock = time.monotonic
) -> Sweep:
    deadline = Deadline.after(timeout, clock)
    return Sweep(target, rules, Trigger.MANUAL, deadline, two_looks=True, observers=observers, clock=clock)


def _run(sweep: Sweep) -> Report:
    with _errors().status(f"looking at {_clean(sweep.target.name)} ..."):
        return sweep.run()


def _kill(target: SweepTarget, rules: Rules, timeout: float, yes: bool) -> Report:
    progress = Progress(console=_errors(), transient=True)
    task = progress.add_task("terminating", total=None)
    stopwatch = _Stopwatch()

    def approve(verdicts: Sequence[Verdict]) -> bool:
        if not yes:
            _errors().print(_table([Victim(verdict) for verdict in verdicts]))
            with stopwatch.pause():
                agreed = _agreed(f"Terminate these {len(verdicts)} on {_clean(target.name)}?")
            if not agreed:
                return False
        progress.start()
        return True

    def struck(done: int, of: int) -> None:
        progress.update(task, completed=done, total=of)

    try:
        return _sweep(target, rules, timeout, Observers(approve=approve, struck=struck), stopwatch).run()
    finally:
        if progress.live.is_started:
            progress.stop()


def _agreed(question: str) -> bool:
    try:
        return typer.confirm(question, err=True)
    except typer.Abort:  # Ctrl-C is a no
        return False


def _save(file: Path, document: Mapping[str, Any]) -> None:
    try:
        file.write_text(json.dumps(document, default=_plain, indent=1) + "\n", encoding="utf-8")
    except OSError as problem:
        raise ConfigurationError(f"cannot write {file}: {problem.strerror}") from None


def _plain(value: object) -> object:
    """Numbers as numbers, everything else as text."""
    return float(value) if isinstance(value, Decimal) else str(value)


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise ConfigurationError(f"cannot read {file}: {problem}") from None


def _json_of(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise ConfigurationError(f"{where} is not JSON: {problem}") from None


def _verdict_json(verdict: Verdict) -> dict[str, Any]:
    return {
        "id": verdict.session.id,
        "action": verdict.action,
        "reason": verdict.reason,
        "idle_seconds": rounded(verdict.session.idle_seconds),
    }


def _finish(reports: Sequence[Report], as_json: bool, dry_run: bool) -> None:
    if as_json:
        _print_json({"trigger": "manual", "dry_run": dry_run, "targets": [report.to_json() for report in reports]})
    failed = any(report.error and report.error.kind is not ErrorKind.BUSY for report in reports)
    raise typer.Exit(SWEEP_FAILED if failed else DONE)


def _show(report: Report) -> None:
    """One sweep for people: the victims, then what was seen in one paragraph."""
    console = Console()
    if report.victims:
        console.print(_table(report.victims))
    if report.saw:
        console.print(Text(_summary(report, report.saw)), soft_wrap=True)
    for warning in report.warnings:
        console.print(Text(f"  {warning}: {_WARNINGS[warning]}", style="yellow"), soft_wrap=True)
    if report.error:
        _complain(f"{report.target}: {report.error.kind}: {report.error.message}")


_WARNINGS = {
    "idle_upper_bound": "idle times are upper bounds; two looks two seconds apart confirm them",
    "named_locks_unseen": "holders of GET_LOCK and LOCK TABLES cannot be seen, so they are not spared",
    "own_account_shared": "the application uses the reaper's account, so all its sessions are spared",
    "user_limits_unseen": "per-user limits cannot be read, so a user at its own limit goes unnoticed",
    "no_right_to_terminate": "this account could not terminate anybody",
}


def _summary(report: Report, saw: Snapshot) -> str:
    used = f"{saw.used} connections used"
    if saw.utilization is not None:
        used = f"{saw.used} of {saw.usable} connections used ({saw.utilization:.0%})"
    freed = f"; {report.freed} slots freed" if report.outcomes and not report.dry_run else ""
    return (
        f"{_clean(report.target)}: {used}, {report.mode}\n"
        f"  {report.zombies} zombies{_counted(report.outcomes)}{freed}\n"
        f"  spared{_counted(report.spared) or ': nobody'}"
    )


def _counted(counts: Mapping[Any, int]) -> str:
    return f": {', '.join(f'{count} {name}' for name, count in sorted(counts.items()))}" if counts else ""


def _table(victims: Sequence[Victim]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("id", "user", "from", "database", "application", "idle", "why", "what happened"):
        table.add_column(column, overflow="ellipsis", no_wrap=True)
    for victim in victims:
        session = victim.session
        names = (session.user, session.host, session.database, session.application)
        table.add_row(
            str(session.id),
            *(Text(_clean(name or "-")) for name in names),
            span(session.idle_seconds),
            victim.verdict.reason,
            victim.outcome or "-",
        )
    return table


def _show_judgement(judgement: Judgement) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("id", "user", "idle", "action", "why"):
        table.add_column(column, overflow="ellipsis", no_wrap=True)
    for verdict in judgement.verdicts:
        session = verdict.session
        user = Text(_clean(session.user or "-"))
        table.add_row(str(session.id), user, span(session.idle_seconds), verdict.action, verdict.reason)
    Console().print(table)
    Console().print(f"{judgement.mode}: {len(judgement.victims)} of {len(judgement.verdicts)} would be terminated")


def span(idle: float | None) -> str:
    """A time as people say it: 42s, 15m 3s, 2h 5m, 3d 4h."""
    if idle is None:
        return "?"
    left = int(idle)
    days, hours, minutes, secs = left // 86400, left // 3600 % 24, left // 60 % 60, left % 60
    units = [(days, "d"), (hours, "h"), (minutes, "m"), (secs, "s")]
    first = next((place for place, (count, _) in enumerate(units) if count), 3)
    return " ".join(f"{count}{unit}" for count, unit in units[first : first + 2] if count) or "0s"


def _clean(name: str) -> str:
    """A name somebody chose, safe to show: no control characters reach the terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)


def _print_json(document: Mapping[str, Any]) -> None:
    print(json.dumps(document, indent=2))


def _complain(message: str) -> None:
    print(f"reaper: {_clean(message)}", file=sys.stderr)


def _errors() -> Console:
    return Console(stderr=True)
