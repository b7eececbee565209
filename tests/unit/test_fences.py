"""What other packages keep to themselves is used in one module for each, and nowhere else."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from lab import ROOT

PACKAGE = ROOT / "reaper"
# Each of a package's private names stands in the module that is written against its versions.
FENCES = {
    "client/drivers/pymysql_internals.py",
    "client/drivers/psycopg_internals.py",
    "client/orm.py",
}
# Documented by the standard library under such a name: os._exit, and a named tuple's._replace.
DOCUMENTED = {"_exit", "_replace"}


def trees() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield (
            path.relative_to(PACKAGE).as_posix(),
            ast.parse(path.read_text(encoding="utf-8")),
        )


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def own_names() -> set[str]:
    """Every private name that this package itself defines or assigns."""
    found = set()
    for name, tree in trees():
        if name in FENCES:
            continue
        for node in ast.walk(tree):
            match node:
                case ast.FunctionDef(name=defined) | ast.ClassDef(name=defined):
                    found.add(defined)
                case ast.Attribute(ast.Name("self" | "cls"), attr, ast.Store()):
                    found.add(attr)
                case ast.Name(defined, ast.Store()):
                    found.add(defined)
    return {name for name in found if is_private(name)}


def private_names_used(tree: ast.Module) -> set[str]:
    """Private attributes that are read or set, and private modules and names that are imported."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            found.add(node.attr)
        elif isinstance(node, ast.ImportFrom):
            module = (node.module or "").split(".")
            names = [*module, *(alias.name for alias in node.names)]
            found |= {name for name in names if is_private(name)}
    return found


def test_only_the_fences_name_what_other_packages_hide() -> None:
    """Outside of them each private name is one of our own."""
    ours = own_names() | DOCUMENTED
    found = {name: private_names_used(tree) - ours for name, tree in trees() if name not in FENCES}
    assert {name: names for name, names in found.items() if names} == {}


def test_the_fences_are_needed() -> None:
    """Each of them names what its package hides, or the test above would prove nothing."""
    ours = own_names()
    assert all(private_names_used(tree) - ours for name, tree in trees() if name in FENCES)


# What PyMySQL's and psycopg's connections document as attributes to set; the last two are declared
# by our own subclasses of them.
MAY_BE_SET = {
    "autocommit",
    "cursor_factory",
    "prepare_threshold",
    "row_factory",
    "guard",
    "before_query",
}


def test_nothing_else_is_set_on_a_drivers_object() -> None:
    """A driver's connection is no bag of attributes: what is ours stands in objects of ours."""
    found = {
        f"{name}: {target.attr}"
        for name, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign | ast.AugAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Attribute) and is_raw(target.value)
        if target.attr not in MAY_BE_SET
    }
    assert found == set()


def is_raw(value: ast.expr) -> bool:
    """Whether an expression is a driver's connection, by the name that they all have here."""
    return (isinstance(value, ast.Name) and value.id == "raw") or (
        isinstance(value, ast.Attribute) and value.attr == "raw"
    )


@pytest.mark.parametrize(
    "source", ["connection._sock", "from psycopg._x import y", "from pymysql import _z"]
)
def test_a_private_name_is_seen(source: str) -> None:
    """The first test would pass for nothing if these were not found."""
    assert private_names_used(ast.parse(source))
