"""The mutants: which wrongs are done to a line, and that the page of the survivors speaks of real
ones.
"""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from lab import ROOT
from tests.mutation.__main__ import PAGE, TESTS, listed
from tests.mutation.mutants import mutants


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("a < 1", ["a < 1 → a <= 1", "a < 1 → a >= 1", "1 → 2"]),
        ("a is None", ["a is None → a is not None"]),
        ("a and not b", ["a and (not b) → a or not b", "without a", "without not b", "not b → b"]),
        (
            "any(a for a in b if a)",
            ["any((a for a in b if a)) → all((a for a in b if a))", "without a"],
        ),
        ("f(a, b=c)", ["without b=c"]),
        ("a[1:]", ["1: → :", "1 → 2"]),
        ("{'a', 'b'}", ["without 'a'", "without 'b'"]),
        ("{1: True}", ["without 1", "1 → 2", "True → False"]),
        ("a if b else -c", ["a if b else -c → a", "a if b else -c → -c", "-c → c"]),
        ("re.match('a*b', c, re.DOTALL)", ["pattern without * after a", "re.DOTALL → 0"]),
    ],
)
def test_what_is_done_to_an_expression(source: str, said: list[str]) -> None:
    """Each operator, comparison, constant, member, keyword and part is mistaken, one at a time."""
    found = [mutant.name for mutant in mutants(ast.parse(f"x = {source}"))]
    assert set(said) <= {name.removeprefix("x: ") for name in found}


def test_what_is_done_to_a_statement() -> None:
    """Branches are always and never taken; what acts, raises or returns does not; types and
    docstrings are left.
    """
    source = '''
class A:
    def f(self, a: int = 1) -> int:
        """What it says."""
        if a:
            raise ValueError(f"a is {a + 1}")
        a += 1
        log(a)
        return a
'''
    assert [mutant.name for mutant in mutants(ast.parse(source))] == [
        "A.f: 1 → 2",
        "A.f: if a → if True",
        "A.f: if a → if False",
        "A.f: raise ValueError(f'a is {a + 1}') → pass",
        "A.f: a += 1 → pass",
        "A.f: a += 1 → a -= 1",
        "A.f: 1 → 2 (2)",
        "A.f: log(a) → pass",
        "A.f: return a → return None",
    ]


def test_a_mutant_does_what_it_says() -> None:
    """The change is made, and no other."""
    tree = ast.parse("x = 1 + 2")
    (mutant,) = (mutant for mutant in mutants(tree) if mutant.name == "x: 2 → 3")
    mutant.apply()
    assert ast.unparse(tree) == "x = 1 + 3"


def test_a_mutant_is_told_from_a_survivor() -> None:
    """Of ten wrongs in how long to try, the tests notice eight; the page explains why the other two
    are none.
    """
    command = [
        sys.executable,
        "-m",
        "tests.mutation",
        "--only",
        "Patience.",
        "reaper/client/retry.py",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "reaper/client/retry.py: 10 mutants, 2 survive, 2 of them explained\n"
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", TESTS)
def test_the_survivors_are_mutants(path: str) -> None:
    """What the page explains can still be done to the module; that it survives only `make mutants`
    can tell.
    """
    names = {
        mutant.name for mutant in mutants(ast.parse((ROOT / path).read_text(encoding="utf-8")))
    }
    assert listed(path, PAGE.read_text(encoding="utf-8")) <= names
