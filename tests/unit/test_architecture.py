"""The house stands: imports point down, the client stands alone, nothing is named like a
dependency.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest

from lab import ROOT

PACKAGE = ROOT / "reaper"

# From the attic down; a module may import from the floors below its own.
FLOORS = (
    {"__main__"},
    {"cli", "handler"},
    {"advising", "running"},
    {"fleet", "sweep", "grants"},
    {"metrics", "request", "discovery", "advice", "sizing", "policy", "engines", "seat"},
    {"settings"},
    {"report", "message", "rds", "environment", "log", "invocation"},
    {"model"},
    {"rules"},
    {"client"},
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

RUNTIME = (
    "pymysql",
    "psycopg",
    "psycopg-binary",
    "aws-lambda-powertools",
    "boto3",
    "typer",
    "rich",
)
HEAVY = ("pymysql", "psycopg", "boto3", "botocore", "aws_lambda_powertools")


def rooms() -> Iterator[tuple[str, Path]]:
    """Every source file with the room it belongs to: the module or package directly under
    reaper/.
    """
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room != "__init__":
            yield room, path


def imported(path: Path) -> set[str]:
    """Absolute names of all that a file imports, wherever in it the import stands."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*above, *([node.module] if node.module else ())))
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def rooms_imported(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imported(path) if name.startswith("reaper.")}


def dependencies() -> set[str]:
    """Top-level names of everything that ships with the function or the command line."""
    waiting, distributions = list(RUNTIME), set()
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name not in distributions:
            distributions.add(name)
            wanted = [
                line
                for line in requires(name) or ()
                if "extra ==" not in line and "python_version" not in line
            ]
            waiting += [
                match[0]
                for line in wanted
                if (match := re.match(r"[\w-]+", line)) and ";" not in line
            ]
    return {
        top
        for top, owners in packages_distributions().items()
        if distributions & {owner.lower().replace("_", "-") for owner in owners}
    }


def test_every_room_has_a_floor() -> None:
    """A new module is given its place in the design before it is given imports."""
    assert {room for room, _ in rooms()} <= FLOOR.keys()


@pytest.mark.parametrize(
    ("room", "path"), [pytest.param(r, p, id=str(p.relative_to(ROOT))) for r, p in rooms()]
)
def test_imports_point_down(room: str, path: Path) -> None:
    """No module imports from its own floor or one above; inside a package they may see each
    other.
    """
    wrong = {other for other in rooms_imported(path) - {room} if FLOOR[other] <= FLOOR[room]}
    assert wrong == set()


def test_the_imports_are_really_read() -> None:
    """The test above would prove nothing if it saw no imports."""
    assert rooms_imported(PACKAGE / "handler.py") >= {
        "client",
        "log",
        "metrics",
        "report",
        "request",
        "running",
        "settings",
        "sweep",
    }


@pytest.mark.parametrize(
    "path", sorted((PACKAGE / "client").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT))
)
def test_the_client_stands_alone(path: Path) -> None:
    """The layer ships reaper/client and nothing else of reaper."""
    assert rooms_imported(path) <= {"client"}


def test_the_package_itself_imports_nothing_of_its_own() -> None:
    """`import reaper.client` runs reaper/__init__.py first."""
    assert imported(PACKAGE / "__init__.py") <= {"__future__.annotations"}


@pytest.mark.parametrize("folder", ["reaper", "reaper/client"])
def test_nothing_is_named_like_a_dependency(folder: str) -> None:
    """SAM's ParentPackages moves by name: `reaper/psycopg` would take the driver away with it."""
    names = {path.name.removesuffix(".py") for path in (ROOT / folder).iterdir()}
    assert names & dependencies() == set()


def test_the_dependencies_are_really_known() -> None:
    """The test above would prove nothing if it knew no names; transitive ones count."""
    named = {
        "pymysql",
        "psycopg",
        "psycopg_binary",
        "boto3",
        "botocore",
        "jmespath",
        "typing_extensions",
        "urllib3",
    }
    assert named | {"aws_lambda_powertools", "dateutil", "typer", "rich"} <= dependencies()


@pytest.mark.parametrize(
    "module",
    [
        "reaper.client",
        "reaper.policy",
        "reaper.request.plan",
        "reaper.discovery",
        "reaper.fleet",
        "reaper.engines",
    ],
)
def test_light_modules_load_nothing_heavy(module: str) -> None:
    """Drivers, boto3 and Powertools cost up to half a second of a cold start each: not for those
    who need none.
    """
    script = f"import sys, {module}; print(sorted({set(HEAVY)!r} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def importers(package: str, *folders: str) -> dict[str, set[str]]:
    """The files in these folders that import anything of a package, with what they import."""
    found = {
        str(path.relative_to(ROOT)): {
            name for name in imported(path) if name.partition(".")[0] == package
        }
        for folder in folders
        for path in sorted((ROOT / folder).rglob("*.py"))
    }
    return {path: names for path, names in found.items() if names}


SOURCES = ("reaper", "lab", "benchmarks", "examples", "release", "extension")


def test_nothing_but_tests_imports_from_tests() -> None:
    """What benchmarks and demo need, too, belongs in lab/; a test's helper serves tests only."""
    assert importers("tests", *SOURCES) == {}


def test_what_is_shipped_imports_nothing_that_it_is_tried_with() -> None:
    """Neither lab nor benchmarks, examples and release are in the function's package."""
    for package in ("lab", "benchmarks", "examples", "release"):
        assert importers(package, "reaper", "extension") == {}


def test_lab_serves_everybody() -> None:
    """lab/ may use reaper, and knows none of those that use lab."""
    for package in ("tests", "benchmarks", "examples"):
        assert importers(package, "lab") == {}


def test_those_who_import_are_really_found() -> None:
    """The tests above would prove nothing if they saw no imports."""
    assert "benchmarks/reaping.py" in importers("lab", *SOURCES)
    assert "tests/unit/test_architecture.py" in importers("lab", "tests")
