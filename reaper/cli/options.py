"""The options of the command line: their names, their values, and what they mean."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from reaper.client.fields import ConfigurationError, parse_json
from reaper.client.redaction import shown
from reaper.environment import TARGETS, targets_from_environ
from reaper.rules import InTransaction, RulesPatch
from reaper.sizing import GIB

_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(text: object) -> float:
    """`200ms`, `90`, `90s`, `15m`, `2h` or `1d` in seconds. Typer parses defaults with this as
    well, which need not be texts.

    Raises typer.BadParameter for anything else.
    """
    found = re.fullmatch(r"(\d{1,9}(?:\.\d+)?)(ms|[smhd]?)", str(text).strip())
    if not found:
        raise typer.BadParameter(f"{text!r} is no time; write 90s, 15m, 2h or 1d")
    return float(found[1]) * _UNITS[found[2] or "s"]


def gibibytes(text: object) -> float:
    """`8GiB`, `8G`, `8` or `512MiB` in bytes.

    Raises typer.BadParameter for anything else.
    """
    found = re.fullmatch(r"(\d{1,6}(?:\.\d+)?) ?([gm])?(?:i?b)?", str(text).strip().lower())
    if not found or not float(found[1]):
        raise typer.BadParameter(f"{text!r} is no memory; write 8GiB or 512MiB")
    return float(found[1]) * (GIB / 1024 if found[2] == "m" else GIB)


def _names_of_targets() -> list[str]:
    """For the shell's completion, which does not ask AWS while somebody types."""
    try:
        return [
            target.name for target in targets_from_environ({TARGETS: os.environ.get(TARGETS, "")})
        ]
    # The command itself will report it.
    except ConfigurationError:
        return []


TARGET = typer.Argument(
    metavar="TARGET", help=f"A DSN, or a name from {TARGETS}.", autocompletion=_names_of_targets
)
Targets = Annotated[list[str], TARGET]
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


Memory = Annotated[
    float | None,
    typer.Option(parser=gibibytes, metavar="SIZE", help="The server's memory, such as 8GiB."),
]
InstanceClass = Annotated[
    str | None, typer.Option(metavar="CLASS", help="The same, as a class such as db.r6g.large.")
]


# The options that `scan` and `kill` share: for each parameter the rule that it sets, its annotation
# and its default. `rules` can set any rule.
_RULE_OPTIONS: Mapping[str, tuple[str, Any, Any]] = {
    "idle": ("idle_seconds", Idle, None),
    "pressure_idle": ("pressure_idle_seconds", PressureIdle, None),
    "only_under_pressure": ("only_under_pressure", OnlyPressure, False),
    "max_kills": ("max_kills", MaxKills, None),
    "min_idle_per_user": ("min_idle_per_user", MinIdle, None),
    "in_transaction": ("in_transaction", Transactions, None),
    "in_transaction_idle": ("in_transaction_seconds", InTransactionIdle, None),
    "allow_user": ("allow_users", Who, None),
    "protect_user": ("protect_users", NotWho, None),
    "rules": ("", OtherRules, None),
}


def takes_rules(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the shared options added after its first parameter. It gets their values as
    one argument, `patch`.

    Typer reads a command's options from its signature, so that has to name them all.
    """

    def run(**given: Any) -> None:
        chosen = {name: given.pop(name) for name in _RULE_OPTIONS}
        command(patch=rules_patch(chosen), **given)

    own = [
        parameter.replace(annotation=get_type_hints(command, include_extras=True)[name])
        for name, parameter in inspect.signature(command).parameters.items()
        if name != "patch"
    ]
    shared = [
        inspect.Parameter(name, own[0].kind, default=default, annotation=annotation)
        for name, (_, annotation, default) in _RULE_OPTIONS.items()
    ]
    parameters = [own[0], *shared, *own[1:]]
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    signature = inspect.Signature(parameters)
    run.__signature__ = signature  # type: ignore[attr-defined]  # functions have one all the same
    return run


def rules_patch(chosen: Mapping[str, Any]) -> RulesPatch:
    """The rules that the options set; an option of its own takes precedence over --rules.

    Raises ConfigurationError for rules that are not understood.
    """
    given = rules_option(chosen["rules"])
    for name, (rule, _, default) in _RULE_OPTIONS.items():
        # Compared with the default, since 0 seconds is a value that somebody chose.
        if rule and chosen[name] is not default and chosen[name] != []:
            given[rule] = chosen[name]
    return RulesPatch.from_json(given, "command line")


def rules_option(text: str | None) -> dict[str, Any]:
    """The object that --rules holds; raise ConfigurationError for anything else."""
    found = json_of(text, "--rules") if text else {}
    if not isinstance(found, dict):
        given = shown("--rules", found)
        raise ConfigurationError(
            f'--rules is {given}; give a JSON object such as {{"idle_seconds": 120}}'
        )
    return found


def json_of(text: str, where: str) -> Any:
    """The JSON of a text; raise ConfigurationError, naming where the text stands, for others."""
    try:
        return parse_json(text)
    except ValueError as problem:
        raise ConfigurationError(f"{where} is not JSON: {problem}") from None
