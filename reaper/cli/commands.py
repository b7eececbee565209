"""The commands: scan, kill, replay, grants, advise, size."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from reaper.advice import Advice
from reaper.advising import advise_rds_proxy, advise_target
from reaper.cli.options import (
    TARGET,
    AsJson,
    InstanceClass,
    Memory,
    OtherRules,
    Save,
    SaveSql,
    Targets,
    Timeout,
    json_of,
    rules_option,
    seconds,
    takes_rules,
)
from reaper.cli.render import (
    busy,
    complain,
    print_json,
    show_all,
    show_judgement,
    show_report,
    show_sizing,
    verdict_json,
)
from reaper.cli.size_options import flavour_of, limit_of, load_of
from reaper.cli.sweeping import jobs_for, kill_one, scan_one, sweep_of, target_of
from reaper.client.deadline import Deadline
from reaper.client.fields import ConfigurationError
from reaper.client.target import Auth, EngineName
from reaper.engines import engine_for
from reaper.engines.mysql.kill_if_idle import LEAST_IDLE
from reaper.engines.snapshot_file import RawSnapshot
from reaper.grants import Account, Product, script, statements, usual_product
from reaper.model import SweepTarget
from reaper.policy import judge
from reaper.report import ErrorKind, Report
from reaper.request.events import SweepRequest, Trigger
from reaper.rules import Rules, RulesPatch
from reaper.sizing import (
    OTHERS,
    memory_of,
    reserved_slots,
)
from reaper.sizing import size as sized
from reaper.sweep import Observers
from reaper.sweep.errors import blind_error

DONE, SWEEP_FAILED, BAD_USAGE = 0, 1, 2
app = typer.Typer(
    help="Find and terminate the database sessions that frozen functions leave behind.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


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
@takes_rules
def scan(
    targets: Targets,
    patch: RulesPatch,
    save: Save = None,
    save_sql: SaveSql = False,
    timeout: Timeout = 60.0,
    as_json: AsJson = False,
) -> None:
    """Show who would be terminated, and why. Changes nothing."""
    if save and len(targets) > 1:
        raise ConfigurationError("--save takes one target at a time")
    looks: list[RawSnapshot] = []
    observers = Observers(on_snapshot=looks.append)
    jobs = jobs_for(targets, SweepRequest(dry_run=True, rules=patch))
    reports = []
    for job in jobs:
        reports.append(scan_one(sweep_of(job.target, job.rules, timeout, observers)))
        if not as_json:
            show_report(reports[-1])
    if save and looks:
        _save(save, looks[0].to_file(save_sql))
    _finish(reports, as_json, dry_run=True)


@app.command()
@takes_rules
def kill(
    targets: Targets,
    patch: RulesPatch,
    timeout: Timeout = 60.0,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Terminate sleeping sessions, after asking. Each is looked at again right before."""
    jobs = jobs_for(targets, SweepRequest(dry_run=False, rules=patch))
    if not yes and not sys.stdin.isatty():
        raise ConfigurationError(
            "nobody to ask on standard input; say --yes to terminate without being asked"
        )
    reports = []
    for job in jobs:
        reports.append(kill_one(job.target, job.rules, timeout, yes))
        if not as_json:
            show_report(reports[-1])
    _finish(reports, as_json, dry_run=False)


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What scan --save wrote.")],
    rules: OtherRules = None,
    as_json: AsJson = False,
) -> None:
    """Judge a saved snapshot again, by these rules. Needs no database."""
    look = RawSnapshot.from_file(json_of(_text_of(file), str(file)))
    engine = engine_for(look.engine)
    snapshot = engine.read(look)
    judgement = judge(
        snapshot,
        RulesPatch.from_json(rules_option(rules), "--rules").applied_to(
            Rules.from_environ(os.environ)
        ),
    )
    error = blind_error(engine) if snapshot.blind else None
    if as_json:
        print_json(
            {
                "mode": judgement.mode,
                "error": {"kind": error.kind, "message": error.message} if error else None,
                "verdicts": [verdict_json(verdict) for verdict in judgement.verdicts],
            }
        )
    else:
        show_judgement(judgement)
        if error:
            complain(f"{error.kind}: {error.message}")
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
        print_json({"engine": engine, "flavour": account.product, "statements": found})
    else:
        print(script(found))


@app.command()
def advise(
    targets: Annotated[list[str] | None, TARGET] = None,
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
    if instance_class and memory is None:
        memory = memory_of(instance_class)
    known = [target_of(name) for name in targets or ()]
    found = [_advise_one(target, timeout, memory) for target in known]
    if proxy:
        with busy(f"asking AWS about {proxy} ..."):
            found.append(advise_rds_proxy(proxy, Deadline.after(timeout)))
    if as_json:
        print_json({"trigger": Trigger.MANUAL, "advice": [advice.to_json() for advice in found]})
    else:
        show_all(found)
    raise typer.Exit(SWEEP_FAILED if any(advice.error for advice in found) else DONE)


def _advise_one(target: SweepTarget, timeout: float, memory: float | None) -> Advice:
    with busy(f"looking at {target.name} ..."):
        return advise_target(sweep_of(target, Rules(), timeout, Observers()), memory)


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
    which = flavour_of(engine, flavour)
    limit = limit_of(which, memory, instance_class, (max_acu, min_acu), max_connections)
    loads = [load_of(text) for text in function or ()]
    found = sized(
        limit,
        reserved_slots(which) if reserved is None else reserved,
        others,
        loads,
        Rules.from_environ(os.environ),
    )
    if as_json:
        print_json(found.to_json())
    else:
        show_sizing(found)


def _save(file: Path, document: Mapping[str, object]) -> None:
    try:
        # For its owner alone, since it tells who runs which SQL.
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


def _finish(reports: Sequence[Report], as_json: bool, dry_run: bool) -> None:
    if as_json:
        print_json(
            {
                "trigger": "manual",
                "dry_run": dry_run,
                "targets": [report.to_json() for report in reports],
            }
        )
    failed = any(report.error and report.error.kind is not ErrorKind.BUSY for report in reports)
    raise typer.Exit(SWEEP_FAILED if failed else DONE)
