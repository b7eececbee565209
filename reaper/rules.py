"""The rules that decide which sessions are terminated, and the patches that override them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, Self

from reaper.client.fields import (
    ConfigurationError,
    count,
    flag,
    hosts,
    names,
    parse_json,
    reject_unknown_keys,
    seconds,
    share,
)
from reaper.client.redaction import hint, nearest, shown


class InTransaction(StrEnum):
    """What to do with sessions that sleep in an open transaction."""

    SPARE = "spare"
    TERMINATE = "terminate"


# Every type that a rule's value can have
RuleValue = bool | float | tuple[str, ...] | InTransaction


def _in_transaction(value: object, where: str) -> InTransaction:
    if value not in list(InTransaction):
        raise ConfigurationError(f"{where} is {shown(where, value)}; say 'spare' or 'terminate'")
    return InTransaction(str(value))


# Returns Any because that is how dataclasses.field is typed.
def _rule(default: RuleValue, read: Callable[[object, str], RuleValue]) -> Any:
    return field(default=default, metadata={"read": read})


@dataclass(frozen=True)
class Rules:
    """The policy's settings, all of them known, and the one owner of their defaults.

    In order: essential, pressure, limits, who, transactions. Times are in seconds, utilizations
    shares from 0 to 1.
    """

    dry_run: bool = _rule(True, flag)
    idle_seconds: float = _rule(900.0, seconds)
    only_under_pressure: bool = _rule(False, flag)

    trigger_utilization: float = _rule(0.8, share)
    pressure_idle_seconds: float = _rule(60.0, seconds)
    target_utilization: float = _rule(0.6, share)

    max_kills: int = _rule(500, count)
    min_idle_per_user: int = _rule(0, count)
    spread_seconds: float = _rule(0.0, seconds)

    allow_users: tuple[str, ...] = _rule((), names)
    allow_hosts: tuple[str, ...] = _rule((), hosts)
    allow_databases: tuple[str, ...] = _rule((), names)
    allow_applications: tuple[str, ...] = _rule((), names)
    protect_users: tuple[str, ...] = _rule((), names)
    protect_hosts: tuple[str, ...] = _rule((), hosts)
    protect_databases: tuple[str, ...] = _rule((), names)
    protect_applications: tuple[str, ...] = _rule((), names)

    in_transaction: InTransaction = _rule(InTransaction.SPARE, _in_transaction)
    in_transaction_seconds: float = _rule(3600.0, seconds)
    max_rollback_rows: int = _rule(100_000, count)

    @staticmethod
    def from_json(given: Mapping[str, Any], where: str = "rules") -> Rules:
        """The defaults with a JSON object's rules in their places.

        Raises ConfigurationError naming the bad key or value.
        """
        return RulesPatch.from_json(given, where).applied_to(Rules())

    @staticmethod
    def from_environ(environ: Mapping[str, str]) -> Rules:
        """The defaults with what the REAPER_<RULE> variables say in their places.

        Raises ConfigurationError naming the variable.
        """
        return RulesPatch.from_environ(environ).applied_to(Rules())


_RULES = {rule.name: rule for rule in fields(Rules)}
RULE_NAMES = tuple(_RULES)
_PROTECTIONS = tuple(name for name in RULE_NAMES if name.startswith("protect_"))

# These decide who else may be terminated, what may be rolled back, and whether a run is dry. Only
# people who may deploy the stack decide that.
_OF_THE_STACK = ("dry_run", "allow_", "in_transaction", "max_rollback_rows")
# The rules that the stack lets a database's tags and a queue's message set.
DELEGATED_RULES = tuple(name for name in RULE_NAMES if not name.startswith(_OF_THE_STACK))


@dataclass(frozen=True)
class RulesPatch:
    """The rules that one source overrides: an event, a target, its tags, a message, the variables
    or the command line.

    A patch is parsed and checked once, where it enters, by one of the `from_` methods. `overrides`
    holds its rules in the order of `Rules`, each with its checked value.
    """

    overrides: tuple[tuple[str, RuleValue], ...] = ()

    @classmethod
    def from_json(cls, given: Mapping[str, Any], where: str = "rules") -> Self:
        """Read a JSON object of rules.

        Raises ConfigurationError naming the bad key or value, after `where`.
        """
        reject_unknown_keys(given, RULE_NAMES, where)
        return cls._checked(given, lambda name: f"{where}: {name}")

    @classmethod
    def from_entry(cls, entry: Mapping[str, Any], where: str) -> Self:
        """Read the key `rules` of a JSON object; without it, or where it is null, nothing is
        overridden.
        """
        given = entry.get("rules")
        return cls() if given is None else cls.from_json(given, f"{where}: rules")

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """Read the REAPER_<RULE> variables. An empty one counts as not set; one whose name nearly
        is a rule's is an error.
        """
        variables = {name: f"REAPER_{name.upper()}" for name in RULE_NAMES}
        _reject_near_misses(environ, [*variables.values()])
        texts = {name: environ[key] for name, key in variables.items() if environ.get(key)}
        return cls.from_texts(texts, lambda name: variables[name])

    @classmethod
    def from_texts(cls, texts: Mapping[str, str], where: Callable[[str], str]) -> Self:
        """Read rules by name whose values are spelt as environment variables spell them.

        Raises ConfigurationError naming what `where` calls the rule with the bad value.
        """
        values = {name: _from_text(text, getattr(Rules, name)) for name, text in texts.items()}
        return cls._checked(values, where)

    @classmethod
    def _checked(cls, given: Mapping[str, object], where: Callable[[str], str]) -> Self:
        return cls(
            tuple(
                (name, _value(rule, given[name], where(name)))
                for name, rule in _RULES.items()
                if name in given
            )
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The rules that it overrides."""
        return tuple(name for name, _ in self.overrides)

    @property
    def dry_run(self) -> bool | None:
        """What it says of a dry run; None where it says nothing."""
        said = dict(self.overrides).get("dry_run")
        return said if isinstance(said, bool) else None

    def applied_to(self, rules: Rules) -> Rules:
        """These rules with the patch's in their places."""
        changes: dict[str, Any] = dict(self.overrides)
        return replace(rules, **changes)

    def applied_keeping_protections(self, rules: Rules) -> Rules:
        """The same, but the patch's protections are added to those that there are."""
        patched = self.applied_to(rules)
        kept: dict[str, Any] = {
            name: (*getattr(rules, name), *getattr(patched, name))
            for name in self.names
            if name in _PROTECTIONS
        }
        return replace(patched, **kept)

    def protecting_hosts(self, hosts: Iterable[str]) -> RulesPatch:
        """This patch with these hosts protected beside those that it protects already."""
        already = self.applied_to(Rules()).protect_hosts
        said = dict(self.overrides) | {"protect_hosts": tuple(dict.fromkeys((*already, *hosts)))}
        return RulesPatch(tuple((name, said[name]) for name in RULE_NAMES if name in said))

    def to_json(self) -> dict[str, object]:
        """The JSON object that `from_json` reads as this patch."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in self.overrides
        }


def check_delegated(names: Iterable[str], where: str, also: Iterable[str] = ()) -> None:
    """Raise ConfigurationError for the first of the names that only the stack may set, or that is
    no rule. `also` are names that are allowed in addition.
    """
    known = (*DELEGATED_RULES, *also)
    for name in names:
        if name not in known:
            why = "; only the stack may set it" if name in _RULES else hint(name, known)
            raise ConfigurationError(f"{where}: {name} may not be set here{why}")


def _value(rule: Field[Any], value: object, where: str) -> RuleValue:
    if value == [] and rule.name.startswith("allow_"):
        raise ConfigurationError(f"{where} is empty; leave it out to allow all")
    read: Callable[[object, str], RuleValue] = rule.metadata["read"]
    return read(value, where)


def _from_text(value: str, default: RuleValue) -> object:
    """An environment variable's text as the JSON value it stands for; a list may also be a,b,c."""
    if isinstance(default, str):
        return value
    try:
        return parse_json(value)
    except ValueError:
        if isinstance(default, tuple) and not value.lstrip().startswith("["):
            return [name.strip() for name in value.split(",") if name.strip()]
        return value


def _reject_near_misses(environ: Mapping[str, str], known: list[str]) -> None:
    for variable in environ:
        if not variable.startswith("REAPER_") or variable in known:
            continue
        # If a misspelt protection were ignored, sessions would be terminated that somebody wanted
        # to protect. So everything that begins like one is an error.
        is_careful = variable.removeprefix("REAPER_").startswith(("ALLOW", "DRY", "PROTECT"))
        if near := nearest(variable, known, cutoff=0.0 if is_careful else 0.9):
            raise ConfigurationError(f"unknown setting {variable}; did you mean {near}?")
