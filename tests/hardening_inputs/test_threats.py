"""SECURITY.md is true: what it says is proven by tests that are there."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest

from lab import ROOT

PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
ROWS = [
    tuple(cell.strip() for cell in row.split(" | "))
    for row in re.findall(r"^\|(.*)\|$", PAGE, re.MULTILINE)
]
LINES = [cells for cells in ROWS if not cells[0].startswith(("they could", "it could", "---"))]


@cache
def defined_in(path: str) -> set[str]:
    tree = ast.parse((ROOT / "tests" / path).read_text(encoding="utf-8"))
    return {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


@pytest.mark.parametrize("cells", LINES, ids=lambda cells: cells[0][:40])
def test_every_threat_points_to_its_tests(cells: tuple[str, ...]) -> None:
    """Each line says who could do what, what stops it, and names at least one test that exists."""
    assert len(cells) == 3
    assert all(cells)
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", cells[2])
    assert named
    assert re.sub(r"`[\w/]+\.py::\w+`|\s", "", cells[2]) == ""
    for path, name in named:
        assert name in defined_in(path), f"{path}::{name}"


def test_the_lines_are_found() -> None:
    """The test above would prove nothing of a page whose tables it cannot read; every named test
    stands in one.
    """
    assert len(LINES) > 35
    assert sum(line.count("::test_") for _, _, line in LINES) == PAGE.count("::test_")
