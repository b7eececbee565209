"""The source keeps to its limits, and what counts it counts right."""

from __future__ import annotations

import ast

import pytest

from lab import ROOT
from release.figures import LIMITS, figures, length, module, modules

SOURCE = '''"""A module."""

from typing import Any  # noqa: F401


# Above its line.
def outer(a: Any, b: int) -> int:
    """What it does.

    In more lines.
    """
    # Not counted

    if a and b or (a and not b):  # trailing
        return [x for x in a if x][0]  # type: ignore[index]

    def inner() -> int:
        while b:
            pass
        return 1 if b else 0

    return inner()


class Holder:
    def empty(self) -> None:
        """Nothing but this."""
'''


@pytest.fixture(scope="module")
def measured() -> dict[str, tuple[float, str]]:
    return {
        figure.what: (figure.value, str(figure)) for figure in figures(modules(ROOT / "reaper"))
    }


@pytest.mark.parametrize("what", LIMITS)
def test_reaper_keeps_to_its_limits(what: str, measured: dict[str, tuple[float, str]]) -> None:
    """Each figure that `make figures` prints is within its limit."""
    value, told = measured[what]
    assert value <= LIMITS[what], told


def test_a_module_is_counted() -> None:
    """Comments for tools are none for readers, and docstrings are no code."""
    found = module("package/name.py", SOURCE)
    assert found.lines == len(SOURCE.splitlines())
    assert (found.anys, found.type_ignores, found.trailing_comments) == (2, 1, 1)
    assert found.code_lines == 11
    assert found.long_lines == 0
    assert module("name.py", "#" * 101 + "\n" + "#" * 100).long_lines == 1


def test_each_function_is_counted() -> None:
    """Functions within count for themselves; each `and`, `or`, branch, loop and filter adds one."""
    found = {each.name: each for each in module("package/name.py", SOURCE).functions}
    assert {name: each.complexity for name, each in found.items()} == {
        # if, and, or, and, comprehension, its filter
        "package.name.outer": 7,
        # while, conditional expression
        "package.name.outer.inner": 3,
        "package.name.Holder.empty": 1,
    }
    assert {name: each.lines for name, each in found.items()} == {
        "package.name.outer": 7,
        "package.name.outer.inner": 3,
        "package.name.Holder.empty": 0,
    }


def test_blank_lines_and_comments_make_no_function_longer() -> None:
    """A comment above its line, which the style asks for, must not cost anything."""
    (function,) = ast.parse("def f():\n    # why\n\n    return 1\n").body
    assert isinstance(function, ast.FunctionDef)
    assert length(function, {1, 4}) == 1
