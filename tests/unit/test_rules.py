"""The rules: their defaults, and what puts others over them."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from reaper.client.target import ConfigurationError
from reaper.model import InTransaction, Rules

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
    assert Rules().override({name: list(value) if isinstance(value, tuple) else value}) == expected
    assert Rules.from_environ({variable(name): text}) == expected


def test_the_later_override_wins() -> None:
    """Stack, target, event: each over the one before, an empty one changing nothing."""
    rules = Rules.from_environ({"REAPER_IDLE_SECONDS": "300", "REAPER_MAX_KILLS": "7"})
    assert rules.override({}).override({"idle_seconds": 60}) == Rules(idle_seconds=60, max_kills=7)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize(
    "value", ["5", -1, -0.001, float("nan"), float("inf"), True, None, [], 10**10]
)
def test_a_number_is_a_number(name: str, value: object) -> None:
    """Text, negative, NaN, infinite, absurd and boolean values are errors naming the key and the
    value.
    """
    with pytest.raises(ConfigurationError) as caught:
        Rules().override({name: value})
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
        Rules().override({name: 1.5})


@pytest.mark.parametrize("name", ["trigger_utilization", "target_utilization"])
def test_a_share_is_no_percentage(name: str) -> None:
    """80 instead of 0.8 would never trigger; 1 is allowed, 1.01 is not."""
    assert getattr(Rules().override({name: 1}), name) == 1
    with pytest.raises(ConfigurationError, match=rf"{name} is 1\.01; give a share from 0 to 1"):
        Rules().override({name: 1.01})


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
        Rules().override({name: value})


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
        Rules().override({name: []})


@pytest.mark.parametrize("name", ["allow_hosts", "protect_hosts"])
@pytest.mark.parametrize("host", ["10.0.0.0/33", "10.0.0/24/8", "2001:db8::/129", "a/b"])
def test_a_network_is_a_network(name: str, host: str) -> None:
    """A CIDR that is none would silently match nobody."""
    with pytest.raises(ConfigurationError, match=f"{name} holds '{host}', which is no network"):
        Rules().override({name: ["10.0.0.1", host]})


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
        Rules().override(given)
    assert str(caught.value).startswith(words)


@pytest.mark.parametrize("value", ["kill", "", "SPARE", None, True, ["spare"]])
def test_in_transaction_is_spare_or_terminate(value: object) -> None:
    """A word that is neither is an error."""
    with pytest.raises(
        ConfigurationError, match=r"rules: in_transaction is .*; say 'spare' or 'terminate'"
    ):
        Rules().override({"in_transaction": value})


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
