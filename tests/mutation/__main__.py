"""Run the unit tests of the decisions against every mutant; the survivors must be those of
SURVIVORS.md.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import resource
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from pathlib import Path
from types import CodeType, ModuleType

import pytest

from .mutants import Mutant, mutants

ROOT = Path(__file__).parents[2]
PAGE = Path(__file__).with_name("SURVIVORS.md")

# Each module, and the tests that must hold it.
TESTS = {
    "reaper/policy.py": ("test_policy.py",),
    "reaper/rules.py": ("test_rules.py",),
    "reaper/request/events.py": ("test_request_events.py", "test_message.py"),
    "reaper/request/alarms.py": ("test_request_events.py",),
    "reaper/client/fields.py": (
        "test_fields.py",
        "test_rules.py",
        "test_request_events.py",
        "test_target.py",
    ),
    "reaper/request/plan.py": ("test_request_plan.py", "test_request_events.py"),
    "reaper/message.py": ("test_message.py",),
    "reaper/client/retry.py": ("test_retry.py",),
    "reaper/client/statements.py": ("test_statements.py",),
}
# Of processor time; whoever takes more has been led astray
_SECONDS = 60


class _Changed(MetaPathFinder, Loader):
    """Imports one module as it was changed."""

    def __init__(self, path: str, code: CodeType) -> None:
        self._name, self._code = path.removesuffix(".py").replace("/", "."), code

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        return spec_from_loader(fullname, self) if fullname == self._name else None

    def exec_module(self, module: ModuleType) -> None:
        exec(self._code, module.__dict__)  # noqa: S102  it is our own, but for one change


def listed(path: str, page: str) -> set[str]:
    """The survivors that the page explains, by their names: the lines of its chapter's blocks."""
    _, _, chapter = page.partition(f"\n## {path}\n")
    blocks = re.findall(
        r"^```text\n(.*?)^```$", chapter.partition("\n## ")[0], re.MULTILINE | re.DOTALL
    )
    return {line for block in blocks for line in block.splitlines()}


def survives(path: str, tree: ast.Module, mutant: Mutant | None) -> bool:
    """Whether no test notices; without a mutant, whether the tests pass at all.

    In a process of its own.
    """
    if child := os.fork():
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status) == 0
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nothing, stream)
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
    if mutant:
        mutant.apply()
    sys.meta_path.insert(0, _Changed(path, compile(tree, path, "exec")))
    tests = [str(ROOT / "tests/unit" / name) for name in TESTS[path]]
    status = pytest.main(["-x", "-q", "--noconftest", "-p", "no:cacheprovider", *tests])
    os._exit(status)


def check(path: str, part: str) -> Iterator[str]:
    """What is wrong with the page: a survivor that it does not know, or one that is none (any
    more).

    Of the mutants only those are made whose names hold the part.
    """
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    if not survives(path, tree, None):
        sys.exit(f"{path}: its tests fail as it stands, so they can tell nothing of its mutants")
    everyone = [mutant for mutant in mutants(tree) if part in mutant.name]
    alive = {mutant.name for mutant in everyone if survives(path, tree, mutant)}
    known = {name for name in listed(path, PAGE.read_text(encoding="utf-8")) if part in name}
    print(
        f"{path}: {len(everyone)} mutants, {len(alive)} survive, {len(known)} of them explained",
        flush=True,
    )
    yield from (f"{path}: survives: {name}" for name in sorted(alive - known))
    yield from (
        f"{path}: is explained and does not survive: {name}" for name in sorted(known - alive)
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="of: " + ", ".join(TESTS))
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="of mutants whose names hold this"
    )
    asked = parser.parse_args(arguments)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    wrong = 0
    for path in asked.modules or TESTS:
        for line in check(path, asked.only):
            print(line, flush=True)
            wrong += 1
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
