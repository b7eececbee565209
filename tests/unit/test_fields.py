"""Fields that people fill in: what each reader takes, and what it says of anything else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from reaper.client import fields
from reaper.client.fields import ConfigurationError
from reaper.client.target import EngineName


def of_variable(value: str, where: str) -> bool:
    return fields.flag_from_variable({where: value}, where, "true")


@pytest.mark.parametrize(
    ("read", "yes", "no", "wrong"),
    [
        (fields.flag, [True], [False], ["true", "false", 1, 0, None, ""]),
        (fields.flag_from_tag, [True, "true"], [False, "false"], ["True", "yes", "", None]),
        # One that is empty counts as not set.
        (of_variable, ["true", ""], ["false"], ["True", "1", "no"]),
    ],
)
def test_three_ways_to_say_yes(
    read: Callable[[Any, str], bool], yes: list[Any], no: list[Any], wrong: list[Any]
) -> None:
    """JSON says it with a boolean, a tag with a boolean or its text, a variable with a text."""
    assert [read(value, "w") for value in yes] == [True] * len(yes)
    assert [read(value, "w") for value in no] == [False] * len(no)
    for value in wrong:
        with pytest.raises(ConfigurationError, match=r"^w is .*; say true or false$"):
            read(value, "w")


def test_a_variable_that_is_not_set() -> None:
    """Its default is what it says."""
    assert fields.flag_from_variable({}, "w", "true") is True
    assert fields.flag_from_variable({}, "w", "false") is False


@pytest.mark.parametrize(
    ("value", "expected"),
    [(["a"], True), (("a", "b"), True), ([], True), (["a", ""], False), ("a", False), ([1], False)],
)
def test_are_names(value: object, expected: bool) -> None:
    """A list of texts, none of them empty; a text is no list of its letters."""
    assert fields.are_names(value) is expected


@pytest.mark.parametrize("value", ["oracle", 5, ["mysql"], True])
def test_choice(value: object) -> None:
    """One of the words there are, or none at all; the error names them."""
    assert fields.choice({"engine": "mysql"}, "engine", EngineName, "w") is EngineName.MYSQL
    assert fields.choice({"engine": None}, "engine", EngineName, "w") is None
    with pytest.raises(ConfigurationError, match=r"^w: engine is .*; choose mysql, postgres$"):
        fields.choice({"engine": value}, "engine", EngineName, "w")


@pytest.mark.parametrize("value", ["", 5, ["a"]])
def test_text(value: object) -> None:
    """A text that is not empty, or none at all."""
    assert fields.text({"user": "reaper"}, "user", "w") == "reaper"
    assert fields.text({}, "user", "w") is None
    with pytest.raises(ConfigurationError, match=r"^w: user is .*; give it as a text$"):
        fields.text({"user": value}, "user", "w")


def test_a_dsn_in_a_text() -> None:
    """Refused where it holds a password, which is not shown; any other address is a text."""
    assert fields.text({"a": "mysql://u@h/d"}, "a", "w") == "mysql://u@h/d"
    assert fields.text({"a": "ops:shift@night"}, "a", "w") == "ops:shift@night"
    with pytest.raises(ConfigurationError, match="does not belong here") as refused:
        fields.text({"a": "mysql://u:hunter2@h/d"}, "a", "w")
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [('{"a": 1}', {"a": 1}), ("[1]", {}), ("", {}), ("{", {}), ("[" * 100_000, {})],
)
def test_object_or_empty(text: str, expected: dict[str, Any]) -> None:
    """What a secret holds is read or not, and never told."""
    assert fields.object_or_empty(text) == expected
