"""The rules: their defaults, and what puts others over them."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import fields, replace
from typing import Any

import pytest

from lab import ROOT
from reaper.client.fields import ConfigurationError
from reaper.rules import DELEGATED_RULES, InTransaction, Rules, RulesPatch, check_delegated

DEFAULTS: dict[str, object] = {
    "dry_run": True,
    "idle_seconds": 900,
    "only_under_pressure": False,
    "trigger_utilization": 0.8,
    "pressure_idle_seconds": 60,
    "target_utilization": 0.6,
    "max_kills": 500,
    "min_idle_per_user": 0,
    "spread_seconds": 0.0,
    **{
        f"{verb}_{kind}": ()
        for verb in ("allow", "protect")
        for kind in ("users", "hosts", "databases", "applications")
    },
    "in_transaction": "spare",
    "in_transaction_seconds": 3600,
    "max_rollback_rows": 100_000,
}

OTHERS: dict[str, tuple[Any, str]] = {
    "dry_run": (False, "false"),
    "idle_seconds": (120.5, "120.5"),
    "only_under_pressure": (True, "true"),
    "trigger_utilization": (0.9, "0.9"),
    "pressure_idle_seconds": (0, "0"),
    "target_utilization": (1, "1"),
    "max_kills": (0, "0"),
    "min_idle_per_user": (2, "2"),
    "spread_seconds": (30, "30"),
    "allow_users": (("app", "api_*"), "app,api_*"),
    "allow_hosts": (("10.0.0.0/16", "2001:db8::/32"), "10.0.0.0/16, 2001:db8::/32"),
    "allow_databases": (("orders",), "orders"),
    "allow_applications": (("a,b", "c"), '["a,b", "c"]'),
    "protect_users": (("root",), '["root"]'),
    "protect_hosts": (("10.0.1.15", "*.internal"), ' ["10.0.1.15", "*.internal"]'),
    "protect_databases": (("orders", "billing"), "orders,billing,"),
    "protect_applications": (("my app",), "my app"),
    "in_transaction": (InTransaction.TERMINATE, "terminate"),
    "in_transaction_seconds": (60, "60"),
    "max_rollback_rows": (5, "5"),
}

NUMBERS = [
    name for name, default in DEFAULTS.items() if isinstance(default, float) or type(default) is int
]
FLAGS = ["dry_run", "only_under_pressure"]
LISTS = [name for name, default in DEFAULTS.items() if default == ()]


def variable(rule: str) -> str:
    return f"REAPER_{rule.upper()}"


def test_defaults() -> None:
    """The defaults of the design's table, all of them and no others."""
    assert {f.name: getattr(Rules(), f.name) for f in fields(Rules)} == DEFAULTS


@pytest.mark.parametrize("name", list(DEFAULTS))
def test_every_rule_can_be_overridden(name: str) -> None:
    """By an event or a target, and by its environment variable; the other rules keep their
    values.
    """
    value, text = OTHERS[name]
    expected = replace(Rules(), **{name: value})
    assert expected != Rules()
    assert Rules.from_json({name: list(value) if isinstance(value, tuple) else value}) == expected
    assert Rules.from_environ({variable(name): text}) == expected


def test_the_later_override_wins() -> None:
    """Stack, target, event: each over the one before, an empty one changing nothing."""
    rules = Rules.from_environ({"REAPER_IDLE_SECONDS": "300", "REAPER_MAX_KILLS": "7"})
    patched = RulesPatch.from_json({"idle_seconds": 60}).applied_to(RulesPatch().applied_to(rules))
    assert patched == Rules(idle_seconds=60, max_kills=7)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize(
    "value", ["5", -1, -0.001, float("nan"), float("inf"), True, None, [], 10**10]
)
def test_a_number_is_a_number(name: str, value: object) -> None:
    """Text, negative, NaN, infinite, absurd and boolean values are errors naming the key and the
    value.
    """
    with pytest.raises(ConfigurationError) as caught:
        Rules.from_json({name: value})
    assert str(caught.value).startswith(f"rules: {name} is {value!r}; give ")


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize(
    "text", ["15m", "-1", "NaN", "Infinity", "-Infinity", "true", "null", "[5]", "1e99"]
)
def test_a_number_in_the_environment_is_a_number(name: str, text: str) -> None:
    """The same from the environment, naming the variable."""
    with pytest.raises(ConfigurationError, match=f"^{variable(name)} is "):
        Rules.from_environ({variable(name): text})


@pytest.mark.parametrize("name", ["max_kills", "min_idle_per_user", "max_rollback_rows"])
def test_a_count_is_whole(name: str) -> None:
    """Nobody terminates one and a half sessions."""
    with pytest.raises(ConfigurationError, match=f"{name} is 1.5; give a whole number"):
        Rules.from_json({name: 1.5})


@pytest.mark.parametrize("name", ["trigger_utilization", "target_utilization"])
def test_a_share_is_no_percentage(name: str) -> None:
    """80 instead of 0.8 would never trigger; 1 is allowed, 1.01 is not."""
    assert getattr(Rules.from_json({name: 1}), name) == 1
    with pytest.raises(ConfigurationError, match=rf"{name} is 1\.01; give a share from 0 to 1"):
        Rules.from_json({name: 1.01})


@pytest.mark.parametrize(
    ("name", "unit"),
    [("idle_seconds", "seconds"), ("trigger_utilization", "a share of the connections")],
)
def test_an_error_says_what_the_number_is(name: str, unit: str) -> None:
    """Its unit, and that nothing is the least."""
    with pytest.raises(ConfigurationError, match=f"give {unit} as a number, 0 or more$"):
        Rules.from_json({name: -1})


@pytest.mark.parametrize("name", ["idle_seconds", "max_kills"])
def test_a_number_is_at_most_a_billion(name: str) -> None:
    """The bound itself is allowed; what is beyond was mistyped."""
    assert getattr(Rules.from_json({name: 10**9}), name) == 10**9
    with pytest.raises(ConfigurationError, match=f"{name} is 1000000001; give "):
        Rules.from_json({name: 10**9 + 1})


@pytest.mark.parametrize("name", FLAGS)
@pytest.mark.parametrize(
    ("text", "value"),
    [("False", "'False'"), ("no", "'no'"), ("0", "0"), ("1", "1"), ("null", "None")],
)
def test_a_flag_is_true_or_false(name: str, text: str, value: str) -> None:
    """Whatever else is an error, never taken for false."""
    with pytest.raises(ConfigurationError) as caught:
        Rules.from_environ({variable(name): text})
    assert str(caught.value) == f"{variable(name)} is {value}; say true or false"


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("value", ["app", [""], [5], {"app": 1}, None, 5])
def test_a_list_is_a_list_of_names(name: str, value: object) -> None:
    """A text would be taken letter by letter, an empty name matches nobody."""
    with pytest.raises(ConfigurationError, match=f"^rules: {name} is "):
        Rules.from_json({name: value})


@pytest.mark.parametrize(
    ("names", "fits"),
    [
        (["a" * 255] * 1000, True),
        (["a" * 256], False),
        (["a"] * 1001, False),
    ],
    ids=["longest", "longer", "more"],
)
def test_a_list_is_not_endless(names: list[str], fits: bool) -> None:
    """Each session is compared with each name: a thousand of 255 letters, and no more."""
    if fits:
        assert Rules.from_json({"protect_users": names}).protect_users == tuple(names)
    else:
        with pytest.raises(ConfigurationError, match="at most 1000 names of 255 letters"):
            Rules.from_json({"protect_users": names})


def test_a_list_in_the_environment_may_have_gaps() -> None:
    """What stands between two commas and is nothing is no name."""
    environ = {"REAPER_PROTECT_USERS": "a, , b,"}
    assert Rules.from_environ(environ).protect_users == ("a", "b")


def test_a_word_in_the_environment_is_taken_as_it_stands() -> None:
    """Quotes are no part of it."""
    with pytest.raises(ConfigurationError, match="REAPER_IN_TRANSACTION is "):
        Rules.from_environ({"REAPER_IN_TRANSACTION": '"spare"'})


@pytest.mark.parametrize("text", ["[app", '["app"', '["app", 5]', '{"app": 1}', "5"])
def test_a_broken_list_in_the_environment_is_an_error(text: str) -> None:
    """What begins like JSON is JSON or an error, never a name with a bracket."""
    with pytest.raises(
        ConfigurationError, match=r"^REAPER_PROTECT_USERS is .*; give a list of names or globs$"
    ):
        Rules.from_environ({"REAPER_PROTECT_USERS": text})


@pytest.mark.parametrize("text", ["[]", ",", " "])
def test_an_empty_allow_list_in_the_environment_is_an_error(text: str) -> None:
    """The same from the environment: it must not quietly mean all."""
    with pytest.raises(ConfigurationError, match="REAPER_ALLOW_USERS is "):
        Rules.from_environ({"REAPER_ALLOW_USERS": text})


@pytest.mark.parametrize("name", [name for name in LISTS if name.startswith("allow_")])
def test_an_empty_allow_list_is_an_error(name: str) -> None:
    """Allow nobody or allow all: an empty list could be meant for either."""
    with pytest.raises(
        ConfigurationError, match=f"rules: {name} is empty; leave it out to allow all"
    ):
        Rules.from_json({name: []})


@pytest.mark.parametrize("name", ["allow_hosts", "protect_hosts"])
@pytest.mark.parametrize("host", ["10.0.0.0/33", "10.0.0/24/8", "2001:db8::/129", "a/b"])
def test_a_network_is_a_network(name: str, host: str) -> None:
    """A CIDR that is none would silently match nobody; one with bits beside its mask is one."""
    assert Rules.from_json({name: ["10.0.1.2/16"]})
    with pytest.raises(ConfigurationError, match=f"{name} holds '{host}', which is no network"):
        Rules.from_json({name: ["10.0.0.1", host]})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"idle_second": 5},
            "rules: unknown key 'idle_second' with value 5; did you mean 'idle_seconds'?",
        ),
        ({"dryrun": True}, "rules: unknown key 'dryrun' with value True; did you mean 'dry_run'?"),
        ({"password": "hunter2"}, "rules: unknown key 'password' with value ***"),
        (["dry_run"], "rules is list, not an object with keys"),
        (None, "rules is NoneType, not an object with keys"),
    ],
)
def test_unknown_rules_are_errors(given: Any, words: str) -> None:
    """A key that is nearly a rule is no rule; the error names it, its value and the nearest."""
    with pytest.raises(ConfigurationError) as caught:
        Rules.from_json(given)
    assert str(caught.value).startswith(words)


@pytest.mark.parametrize("value", ["kill", "", "SPARE", None, True, ["spare"]])
def test_in_transaction_is_spare_or_terminate(value: object) -> None:
    """A word that is neither is an error."""
    with pytest.raises(
        ConfigurationError, match=r"rules: in_transaction is .*; say 'spare' or 'terminate'"
    ):
        Rules.from_json({"in_transaction": value})


@pytest.mark.parametrize("rule", list(DEFAULTS))
def test_a_misspelt_variable_is_an_error(rule: str) -> None:
    """A variable that is nearly a rule's name is an error: ignored, it would leave the default in
    force.
    """
    name = variable(rule)
    for wrong in (name[:-1], name + "S", name.replace("_", "", 2).replace("REAPER", "REAPER_")):
        with pytest.raises(
            ConfigurationError, match=f"^unknown setting {wrong}; did you mean REAPER_"
        ):
            Rules.from_environ({wrong: "1"})


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("REAPER_ALLOWED", "REAPER_ALLOW_USERS"),
        ("REAPER_DRY", "REAPER_DRY_RUN"),
        ("REAPER_PROTECTED_ACCOUNTS", "REAPER_PROTECT_"),
    ],
)
def test_whoever_meant_to_spare_somebody_is_told(wrong: str, meant: str) -> None:
    """A variable that begins like a protection and is none is an error, however far it is from
    one.
    """
    with pytest.raises(ConfigurationError, match=f"unknown setting {wrong}; did you mean {meant}"):
        Rules.from_environ({wrong: "1"})
    # Only of our own variables
    assert Rules.from_environ({wrong.removeprefix("REAPER_"): "1"}) == Rules()


def test_other_variables_are_left_alone() -> None:
    """What is not the rules' is not the rules' business; an empty variable is an unset one."""
    names = (
        "TARGETS",
        "TARGETS_PARAMETER",
        "STACK",
        "MANUAL_KILL",
        "TEST_MYSQLD",
        "TEST_POSTGRES_DSN",
        "TEST_REQUIRE",
    )
    environ = {f"REAPER_{name}": "x" for name in names}
    assert (
        Rules.from_environ(environ | {"PATH": "/bin", "REAPER_DRY_RUN": "", "IDLE_SECONDS": "5"})
        == Rules()
    )


# Patches


PATCH: dict[str, Any] = {
    "max_kills": 7,
    "idle_seconds": 60,
    "protect_users": ["etl"],
    "in_transaction": "terminate",
}


def test_a_patch_says_what_it_overrides_and_nothing_else() -> None:
    """In the order of the rules, each with its checked value; it travels as JSON and is the same
    patch again.
    """
    patch = RulesPatch.from_json(PATCH)
    assert patch.names == ("idle_seconds", "max_kills", "protect_users", "in_transaction")
    assert dict(patch.overrides)["in_transaction"] is InTransaction.TERMINATE
    assert json.loads(json.dumps(patch.to_json())) == PATCH
    assert RulesPatch.from_json(patch.to_json()) == patch
    assert RulesPatch.from_environ({"REAPER_MAX_KILLS": "7"}) == RulesPatch((("max_kills", 7),))
    assert RulesPatch.from_environ({}) == RulesPatch()


def test_a_patchs_errors_say_rules_unless_told_better() -> None:
    """As those of `Rules` do."""
    with pytest.raises(ConfigurationError, match=r"^rules: max_kills is -1; "):
        RulesPatch.from_json({"max_kills": -1})


@pytest.mark.parametrize("entry", [{}, {"rules": None}, {"rules": {}}])
def test_an_entry_without_rules_overrides_nothing(entry: dict[str, Any]) -> None:
    """A target or an event may leave its rules out, or say null."""
    assert RulesPatch.from_entry(entry, "target 'a'") == RulesPatch()


def test_an_entrys_rules_are_named_with_their_place() -> None:
    """The error begins with where the rules stand."""
    with pytest.raises(ConfigurationError, match=r"^target 'a': rules: max_kills is -1; "):
        RulesPatch.from_entry({"rules": {"max_kills": -1}}, "target 'a'")
    assert RulesPatch.from_entry({"rules": PATCH}, "x") == RulesPatch.from_json(PATCH)


def test_texts_are_spelt_like_variables_and_named_by_the_caller() -> None:
    """As a database's tags are."""
    texts = {"protect_users": "etl", "idle_seconds": "60"}
    found = RulesPatch.from_texts(texts, lambda name: f"tag {name}")
    assert found.to_json() == {"idle_seconds": 60, "protect_users": ["etl"]}
    with pytest.raises(ConfigurationError, match=r"^tag idle_seconds is 'soon'"):
        RulesPatch.from_texts({"idle_seconds": "soon"}, lambda name: f"tag {name}")


@pytest.mark.parametrize("said", [True, False, None])
def test_a_patch_says_dry_run_or_nothing(said: bool | None) -> None:
    """Nothing is not false."""
    given = {"max_kills": 1} | ({} if said is None else {"dry_run": said})
    assert RulesPatch.from_json(given).dry_run is said


def test_protections_add_up() -> None:
    """A tag, a proxy, an event protect beside those whom the stack protects; the other rules take
    precedence over the stack's.
    """
    stack = Rules.from_json({"protect_users": ["billing"], "idle_seconds": 900})
    given = {"protect_users": ["etl"], "protect_hosts": ["10.0.0.7"], "idle_seconds": 60}
    found = RulesPatch.from_json(given).applied_keeping_protections(stack)
    assert (found.protect_users, found.protect_hosts, found.idle_seconds) == (
        ("billing", "etl"),
        ("10.0.0.7",),
        60,
    )
    assert RulesPatch.from_json({"protect_users": []}).applied_keeping_protections(stack) == stack


def test_hosts_are_protected_beside_those_that_are() -> None:
    """Each once, in order; the rest of the patch stays as it is."""
    patch = RulesPatch.from_json({"protect_hosts": ["10.0.0.1"], "max_rollback_rows": 5})
    found = patch.protecting_hosts(["10.0.0.2", "10.0.0.1"])
    assert found.to_json() == {"protect_hosts": ["10.0.0.1", "10.0.0.2"], "max_rollback_rows": 5}
    assert RulesPatch().protecting_hosts(["h"]) == RulesPatch.from_json({"protect_hosts": ["h"]})


def test_the_rules_that_may_travel() -> None:
    """All but those by which more would be terminated than the stack says, or in a dry run."""
    kept = {"dry_run", "in_transaction", "in_transaction_seconds", "max_rollback_rows"}
    kept |= {"allow_users", "allow_hosts", "allow_databases", "allow_applications"}
    assert not kept & set(DELEGATED_RULES)
    assert kept | set(DELEGATED_RULES) == {*DEFAULTS}


@pytest.mark.parametrize(
    ("rule", "why"),
    [("dry_run", "; only the stack may set it"), ("idle_second", "; did you mean 'idle_seconds'?")],
)
def test_a_rule_that_may_not_travel_says_why(rule: str, why: str) -> None:
    """One that there is belongs to the stack; one that there is not was misspelled."""
    with pytest.raises(ConfigurationError) as caught:
        check_delegated(["idle_seconds", rule], "tags")
    assert str(caught.value) == f"tags: {rule} may not be set here{why}"
    check_delegated(["idle_seconds", rule], "tags", also=(rule,))


# Where rules are parsed: the rules' own module, and the option that is a text of JSON.
PARSERS = {"rules.py"}
PARSING = {"rules_option"}


def untyped_rules(source: str) -> set[str]:
    """The names in a module that say they are rules and are annotated as a dict or a mapping."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.arg(name, ast.AST() as annotation):
                pass
            case ast.AnnAssign(ast.Name(name) | ast.Attribute(_, name), annotation):
                pass
            case ast.FunctionDef(name, returns=ast.AST() as annotation):
                pass
            case _:
                continue
        if "rules" in name and re.search(r"dict|Mapping", ast.unparse(annotation)):
            found.add(name)
    return found


def test_rules_travel_typed() -> None:
    """Beyond the parsers nobody hands on a dict of rules: it would have to be checked again."""
    package = ROOT / "reaper"
    found = {
        str(path.relative_to(package)): untyped_rules(path.read_text(encoding="utf-8")) - PARSING
        for path in sorted(package.rglob("*.py"))
        if path.name not in PARSERS
    }
    assert {module: names for module, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "source",
    [
        "class Request:\n    rules: Mapping[str, Any]",
        "def f(target_rules: dict[str, Any]): ...",
        "def _rules() -> dict[str, object]: ...",
    ],
)
def test_untyped_rules_are_found(source: str) -> None:
    """The test above would prove nothing if it saw none of these."""
    assert untyped_rules(source)
    assert not untyped_rules("def rules(rules: RulesPatch, found: dict[str, Any]) -> Rules: ...")
