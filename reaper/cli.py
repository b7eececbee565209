"""The operator's command line: scan, kill, replay, grants, advise, size."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from functools import partial
from importlib.metadata import version
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.status import Status
from rich.table import Table
from rich.text import Text
from typer.exceptions import TyperException

from reaper.advice import Advice
from reaper.client.deadline import Clock, Deadline
from reaper.client.target import (
    Auth,
    ConfigurationError,
    EngineName,
    hide_passwords,
    hint,
    parse_json,
    redact,
    shown,
)
from reaper.client.target import printable as clean
from reaper.consult import consult, consult_proxy
from reaper.display import show_advice, show_paragraph, show_sizing
from reaper.engines import engine_for
from reaper.engines.mysql.kill_if_idle import LEAST_IDLE
from reaper.engines.snapshot_file import RawSnapshot
from reaper.environment import TARGETS, targets_from_environ
from reaper.grants import Account, Product, script, statements, usual_product
from reaper.model import Flavour, Snapshot, SweepTarget, SweepWarning, Verdict
from reaper.policy import Judgement, judge
from reaper.report import ErrorKind, Report, Victim, rounded, span
from reaper.request.events import SweepRequest, Trigger
from reaper.request.plan import Job, plan_command
from reaper.rules import RULE_NAMES, InTransaction, Rules, RulesPatch
from reaper.sizing import (
    GIB,
    OTHERS,
    Load,
    Step,
    limit_of_capacity,
    limit_of_memory,
    memory_of,
    reserved_slots,
)
from reaper.sizing import size as sized
from reaper.sweep import Observers, Sweep, blind_error

DONE, SWEEP_FAILED, BAD_USAGE = 0, 1, 2
# As a shell says it of Ctrl-C
_INTERRUPTED = 130

app = typer.Typer(
    help="Find and terminate the database sessions that frozen functions leave behind.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(text: object) -> float:
    """`200ms`, `90`, `90s`, `15m`, `2h`, `1d` in seconds; Typer sends defaults through here as
    well.
    """
    found = re.fullmatch(r"(\d{1,9}(?:\.\d+)?)(ms|[smhd]?)", str(text).strip())
    if not found:
        raise typer.BadParameter(f"{text!r} is no time; write 90s, 15m, 2h or 1d")
    return float(found[1]) * _UNITS[found[2] or "s"]


def gibibytes(text: object) -> float:
    """`8GiB`, `8G`, `8` or `512MiB` in bytes."""
    found = re.fullmatch(r"(\d{1,6}(?:\.\d+)?) ?([gm])?(?:i?b)?", str(text).strip().lower())
    if not found or not float(found[1]):
        raise typer.BadParameter(f"{text!r} is no memory; write 8GiB or 512MiB")
    return float(found[1]) * (GIB / 1024 if found[2] == "m" else GIB)


def _names_of_targets() -> list[str]:
    """For the shell's completion; AWS is not asked while somebody types."""
    try:
        return [
            target.name for target in targets_from_environ({TARGETS: os.environ.get(TARGETS, "")})
        ]
    # Told when the command runs
    except ConfigurationError:
        return []


_TARGET = typer.Argument(
    metavar="TARGET", help=f"A DSN, or a name from {TARGETS}.", autocompletion=_names_of_targets
)
Targets = Annotated[list[str], _TARGET]
Idle = Annotated[
    float | None,
    typer.Option("--idle", parser=seconds, metavar="TIME", help="Idle this long: a zombie."),
]
PressureIdle = Annotated[
    float | None, typer.Option(parser=seconds, metavar="TIME", help="The same under pressure.")
]
InTransactionIdle = Annotated[
    float | None,
    typer.Option(parser=seconds, metavar="TIME", help="Threshold of sessions in a transaction."),
]
OnlyPressure = Annotated[
    bool, typer.Option("--only-under-pressure", help="Act only where slots are scarce.")
]
MaxKills = Annotated[int | None, typer.Option(metavar="N", help="At most this many.")]
MinIdle = Annotated[
    int | None,
    typer.Option(metavar="N", help="Leave each user this many of its youngest idle sessions."),
]
Transactions = Annotated[
    InTransaction | None, typer.Option("--in-transaction", help="What to do with these.")
]
Who = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Only these; repeat for more, globs welcome."),
]
NotWho = Annotated[list[str] | None, typer.Option(metavar="NAME", help="Never these.")]
OtherRules = Annotated[
    str | None, typer.Option("--rules", metavar="JSON", help="Any rules, as an event has them.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Save = Annotated[Path | None, typer.Option(metavar="FILE", help="Save what was seen, for replay.")]
SaveSql = Annotated[
    bool, typer.Option("--save-sql", help="Save SQL text whole; it can hold personal data.")
]
Timeout = Annotated[
    float,
    typer.Option(
        parser=seconds, metavar="TIME", help="Give up after this long.", show_default="60s"
    ),
]


def _tell_version(asked: bool) -> None:
    if asked:
        print(f"reaper {version('reaper')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    _: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_tell_version, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(BAD_USAGE)


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
    looks: list[RawSnapshot] = []
    observers = Observers(looked=looks.append)
    jobs = _jobs(targets, SweepRequest(dry_run=True, rules=asked))
    reports = []
    for job in jobs:
        sweep = _sweep(job.target, job.rules, timeout, observers)
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
    jobs = _jobs(targets, SweepRequest(dry_run=False, rules=_asked(locals())))
    if not yes and not sys.stdin.isatty():
        raise ConfigurationError(
            "nobody to ask on standard input; say --yes to terminate without being asked"
        )
    reports = []
    for job in jobs:
        reports.append(_kill(job.target, job.rules, timeout, yes))
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
    look = RawSnapshot.from_file(_json_of(_text_of(file), str(file)))
    engine = engine_for(look.engine)
    snapshot = engine.read(look)
    judgement = judge(
        snapshot, RulesPatch.from_json(_rules_option(rules), "--rules").applied_to(_base_rules())
    )
    error = blind_error(engine) if snapshot.blind else None
    if as_json:
        _print_json(
            {
                "mode": judgement.mode,
                "error": {"kind": error.kind, "message": error.message} if error else None,
                "verdicts": [_verdict_json(verdict) for verdict in judgement.verdicts],
            }
        )
    else:
        _show_judgement(judgement)
        if error:
            _complain(f"{error.kind}: {error.message}")
    raise typer.Exit(SWEEP_FAILED if error else DONE)


@app.command()
def grants(
    engine: Annotated[EngineName, typer.Option(help="The target's engine.")],
    flavour: Annotated[Product | None, typer.Option(help="Who made or runs it.")] = None,
    user: Annotated[str, typer.Option(metavar="NAME", help="The account to make.")] = "reaper",
    host: Annotated[
        str | None, typer.Option(metavar="PATTERN", help="From where, on MySQL; % if not said.")
    ] = None,
    auth: Annotated[
        Auth, typer.Option(help="How it logs in; a secret is a password.")
    ] = Auth.PASSWORD,
    kill_if_idle: Annotated[
        bool, typer.Option("--kill-if-idle", help="The procedure, not the right to kill.")
    ] = False,
    least_idle: Annotated[
        float,
        typer.Option(
            parser=seconds, metavar="TIME", help="The procedure refuses whoever slept for less."
        ),
    ] = LEAST_IDLE,
    reserved: Annotated[
        bool, typer.Option("--reserved", help="PostgreSQL 16 and later: reserved slots.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print the SQL that makes the reaper's account.

    An administrator runs it; it needs no database.
    """
    account = Account(
        engine,
        flavour or usual_product(engine),
        user=user,
        host=host,
        auth=auth,
        kill_if_idle=kill_if_idle,
        least_idle=least_idle,
        reserved=reserved,
    )
    found = statements(account)
    if as_json:
        _print_json({"engine": engine, "flavour": account.product, "statements": found})
    else:
        print(script(found))


Memory = Annotated[
    float | None,
    typer.Option(parser=gibibytes, metavar="SIZE", help="The server's memory, such as 8GiB."),
]
InstanceClass = Annotated[
    str | None, typer.Option(metavar="CLASS", help="The same, as a class such as db.r6g.large.")
]


@app.command()
def advise(
    targets: Annotated[list[str] | None, _TARGET] = None,
    memory: Memory = None,
    instance_class: InstanceClass = None,
    proxy: Annotated[
        str | None, typer.Option(metavar="NAME", help="An RDS Proxy to look at; asks AWS.")
    ] = None,
    timeout: Timeout = 60.0,
    as_json: AsJson = False,
) -> None:
    """Say what to change about the server's settings, why, and how. Changes nothing."""
    if not targets and not proxy:
        raise ConfigurationError("nothing to look at; give a TARGET, or --proxy NAME")
    size_of = memory_of(instance_class) if instance_class and memory is None else memory
    asked = [_target(name) for name in targets or ()]
    found = []
    for target in asked:
        with _busy(f"looking at {target.name} ..."):
            found.append(consult(_sweep(target, Rules(), timeout, Observers()), size_of))
    if proxy:
        with _busy(f"asking AWS about {proxy} ..."):
            found.append(consult_proxy(proxy, Deadline.after(timeout)))
    if as_json:
        _print_json({"trigger": Trigger.MANUAL, "advice": [advice.to_json() for advice in found]})
    else:
        _show_all(found)
    raise typer.Exit(SWEEP_FAILED if any(advice.error for advice in found) else DONE)


def _show_all(found: Sequence[Advice]) -> None:
    for place, advice in enumerate(found):
        if advice.error:
            _complain(f"{advice.target}: {advice.error.kind}: {advice.error.message}")
        else:
            print("\n" * (place > 0), end="")
            show_advice(advice)


@app.command()
def size(
    engine: Annotated[EngineName, typer.Option(help="The database's engine.")],
    flavour: Annotated[Product | None, typer.Option(help="Who made or runs it.")] = None,
    memory: Memory = None,
    instance_class: InstanceClass = None,
    max_acu: Annotated[
        float | None,
        typer.Option(metavar="N", help="Or the most that an Aurora Serverless v2 grows to."),
    ] = None,
    min_acu: Annotated[
        float | None, typer.Option(metavar="N", help="And the least it shrinks to.")
    ] = None,
    max_connections: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Or the limit itself, where it was set by hand."),
    ] = None,
    reserved: Annotated[
        int | None,
        typer.Option(
            "--reserved-slots", metavar="N", min=0, help="Not for clients; as on RDS if not said."
        ),
    ] = None,
    others: Annotated[
        int, typer.Option(metavar="N", min=0, help="Connections for people, jobs, the reaper.")
    ] = OTHERS,
    function: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SPEC",
            help="NAME=RATE,DURATION[,RESPONSE]: requests a second, an invocation's time, the "
            "database's part of it.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Work out connections, alarms, concurrency and pool sizes. Needs no database."""
    which = _which(engine, flavour)
    said = [
        *([limit_of_memory(which, memory)] if memory is not None else ()),
        *(
            [limit_of_memory(which, memory_of(instance_class))]
            if instance_class is not None
            else ()
        ),
        *([limit_of_capacity(which, max_acu, min_acu)] if max_acu is not None else ()),
        *(
            [Step("max_connections", max_connections, "as you say")]
            if max_connections is not None
            else ()
        ),
    ]
    if len(said) != 1:
        raise ConfigurationError(
            "say how large it is: one of --memory, --instance-class, --max-acu, --max-connections"
        )
    loads = [_load(text) for text in function or ()]
    found = sized(
        said[0],
        reserved_slots(which) if reserved is None else reserved,
        others,
        loads,
        _base_rules(),
    )
    if as_json:
        _print_json(found.to_json())
    else:
        show_sizing(found)


_SIZED = {
    (EngineName.MYSQL, Product.MYSQL): Flavour.MYSQL,
    (EngineName.MYSQL, Product.RDS): Flavour.MYSQL,
    (EngineName.MYSQL, Product.AURORA): Flavour.AURORA_MYSQL,
    (EngineName.MYSQL, Product.MARIADB): Flavour.MARIADB,
    (EngineName.MYSQL, Product.RDS_MARIADB): Flavour.MARIADB,
    (EngineName.POSTGRES, Product.POSTGRES): Flavour.POSTGRES,
    (EngineName.POSTGRES, Product.RDS): Flavour.POSTGRES,
    (EngineName.POSTGRES, Product.AURORA): Flavour.AURORA_POSTGRES,
}


def _which(engine: EngineName, flavour: Product | None) -> Flavour:
    flavour = flavour or usual_product(engine)
    if (engine, flavour) not in _SIZED:
        known = [known for of_engine, known in _SIZED if of_engine is engine]
        raise ConfigurationError(f"--flavour is {flavour}; {engine} has {', '.join(known)}")
    return _SIZED[engine, flavour]


def _load(text: str) -> Load:
    name, _, rest = text.partition("=")
    try:
        rate, duration, *response = rest.split(",")
        load = Load(
            name, float(rate.removesuffix("/s")), seconds(duration), *map(seconds, response)
        )
    except (ValueError, TypeError, typer.BadParameter):
        load = None
    if not load or not name or not 0 < load.rate < 10**6 or not load.duration:
        raise ConfigurationError(
            f"--function is {text!r}; write checkout=50,200ms, or checkout=50,200ms,20ms"
        )
    return load


def main() -> None:
    """The console script: every expected error is one line, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        # Else a name in letters that it does not have would be an error
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(_status())


def _status() -> int:
    try:
        status = app(prog_name="reaper", standalone_mode=False)
        sys.stdout.flush()
    except ConfigurationError as problem:
        _complain(str(problem))
        return BAD_USAGE
    except TyperException as problem:
        context = getattr(problem, "ctx", None)
        see = context.command_path if context else "reaper"
        _complain(f"{' '.join(problem.format_message().split())} See {see} --help")
        return problem.exit_code
    except typer.Abort:
        _complain("stopped")
        return _INTERRUPTED
    # Whoever read our output has seen enough; the flush at exit must not complain either
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    return status or DONE


_OPTIONS = {
    "idle": "idle_seconds",
    "pressure_idle": "pressure_idle_seconds",
    "in_transaction_idle": "in_transaction_seconds",
    "allow_user": "allow_users",
    "protect_user": "protect_users",
}


def _asked(options: Mapping[str, Any]) -> RulesPatch:
    """The rules that the command line names."""
    # `is`: 0 seconds is an answer, and equal to False.
    given = {
        name: value
        for name, value in options.items()
        if value is not None and value is not False and value != []
    }
    named = {_OPTIONS.get(name, name): value for name, value in given.items()}
    given = _rules_option(options["rules"]) | {
        key: value for key, value in named.items() if key in RULE_NAMES
    }
    return RulesPatch.from_json(given, "command line")


def _rules_option(text: str | None) -> dict[str, Any]:
    found = _json_of(text, "--rules") if text else {}
    if not isinstance(found, dict):
        given = shown("--rules", found)
        raise ConfigurationError(
            f'--rules is {given}; give a JSON object such as {{"idle_seconds": 120}}'
        )
    return found


def _base_rules() -> Rules:
    return Rules.from_environ(os.environ)


def _jobs(named: Sequence[str], request: SweepRequest) -> list[Job]:
    """Every target with its final rules, all checked before the first connection."""
    targets = [_target(name) for name in named]
    return plan_command(request, targets, RulesPatch.from_environ(os.environ))


def _target(named: str) -> SweepTarget:
    if "://" in named:
        return SweepTarget.from_dsn(named)
    targets = {target.name: target for target in targets_from_environ(os.environ)}
    if named not in targets:
        # Perhaps a broken DSN
        raise ConfigurationError(f"unknown target {redact(named)!r}{hint(named, targets)}")
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
    target: SweepTarget,
    rules: Rules,
    timeout: float,
    observers: Observers,
    clock: Clock = time.monotonic,
) -> Sweep:
    deadline = Deadline.after(timeout, clock)
    return Sweep(
        target, rules, Trigger.MANUAL, deadline, two_looks=True, observers=observers, clock=clock
    )


def _run(sweep: Sweep) -> Report:
    with _busy(f"looking at {sweep.target.name} ..."):
        return sweep.run()


def _kill(target: SweepTarget, rules: Rules, timeout: float, yes: bool) -> Report:
    progress = Progress(console=_errors(), transient=True)
    task = progress.add_task("terminating", total=None)
    stopwatch = _Stopwatch()

    def approve(verdicts: Sequence[Verdict]) -> bool:
        if not yes:
            _errors().print(_table([Victim(verdict) for verdict in verdicts]))
            with stopwatch.pause():
                agreed = _agreed(f"Terminate these {len(verdicts)} on {clean(target.name)}?")
            if not agreed:
                return False
        progress.start()
        return True

    def struck(done: int, of: int) -> None:
        progress.update(task, completed=done, total=of)

    try:
        return _sweep(
            target, rules, timeout, Observers(approve=approve, struck=struck), stopwatch
        ).run()
    finally:
        if progress.live.is_started:
            progress.stop()


def _agreed(question: str) -> bool:
    try:
        return typer.confirm(question, err=True)
    # Ctrl-C is a no
    except typer.Abort:
        return False


def _save(file: Path, document: Mapping[str, Any]) -> None:
    try:
        # Who, and their SQL
        with open(file, "w", encoding="utf-8", opener=partial(os.open, mode=0o600)) as saved:
            saved.write(json.dumps(document, default=_plain, indent=1) + "\n")
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
        return parse_json(text)
    except ValueError as problem:
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
        _print_json(
            {
                "trigger": "manual",
                "dry_run": dry_run,
                "targets": [report.to_json() for report in reports],
            }
        )
    failed = any(report.error and report.error.kind is not ErrorKind.BUSY for report in reports)
    raise typer.Exit(SWEEP_FAILED if failed else DONE)


def _show(report: Report) -> None:
    """One sweep for people: the victims, then what was seen in one paragraph."""
    console = Console()
    if report.victims:
        console.print(_table(report.victims))
    if report.saw:
        first, *others = _summary(report, report.saw)
        console.print(Text(first))
        for line in others:
            show_paragraph(console, line)
    for warning in report.warnings:
        show_paragraph(console, f"{warning}: {_WARNINGS[SweepWarning(warning)]}", "yellow")
    if report.error:
        _complain(f"{report.target}: {report.error.kind}: {report.error.message}")


_WARNINGS = {
    SweepWarning.IDLE_UPPER_BOUND: "idle times are upper bounds; two looks two seconds apart "
    "confirm them",
    SweepWarning.NAMED_LOCKS_UNSEEN: "holders of GET_LOCK and LOCK TABLES cannot be seen, so they "
    "are not "
    "spared",
    SweepWarning.TRANSACTIONS_UNSEEN: "who has begun a transaction and run nothing in it cannot "
    "be seen, so "
    "is not spared",
    SweepWarning.TRANSACTIONS_STALE: "somebody reads innodb_trx all the time, so transactions "
    "cannot be seen "
    "and nobody is taken",
    SweepWarning.OWN_ACCOUNT_SHARED: "the application uses the reaper's account, so all its "
    "sessions are "
    "spared",
    SweepWarning.USER_LIMITS_UNSEEN: "per-user limits cannot be read, so a user at its own limit "
    "goes "
    "unnoticed",
    SweepWarning.NO_RIGHT_TO_TERMINATE: "this account could not terminate anybody",
    SweepWarning.RDS_PROXY_PROTECTED: "an RDS Proxy stands in front, so all sessions from its "
    "addresses are spared",
    SweepWarning.RDS_PROXY_SUBNETS_PROTECTED: "the RDS Proxy's addresses are not known, so all "
    "from its subnets are "
    "spared",
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


def _counted(counts: Mapping[Any, int]) -> str:
    return (
        f": {', '.join(f'{count} {name}' for name, count in sorted(counts.items()))}"
        if counts
        else ""
    )


def _table(victims: Sequence[Victim]) -> Table:
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
    """A name that gives way where the line is too short for all."""
    return Text(clean(name or "-"), no_wrap=True, overflow="ellipsis")


def _show_judgement(judgement: Judgement) -> None:
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
        f"terminated"
    )


def _print_json(document: Mapping[str, Any]) -> None:
    print(json.dumps(document, indent=2))


def _complain(message: str) -> None:
    # A word that was taken for an option or a command may have been a DSN.
    print(f"reaper: {clean(hide_passwords(message))}", file=sys.stderr)


def _errors() -> Console:
    return Console(stderr=True)


def _busy(what: str) -> Status:
    """Shown on a terminal meanwhile; as Text, for a plain string would be read as markup."""
    return _errors().status(Text(clean(what)))
