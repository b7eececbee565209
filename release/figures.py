"""The measures of the source in reaper/: how big, how branched, how typed, how commented."""

from __future__ import annotations

import ast
import io
import re
import statistics
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

COLUMNS = 100

# What the project holds itself to. A figure without a limit is told for information.
# Four are on their way to what the house wants, 8, 0, 12 and 400, and must not grow meanwhile.
LIMITS = {
    "Any per 1,000 lines": 16,
    "trailing comments per 100 lines of code": 1,
    "lines over 100 columns": 15,
    "type: ignore": 14,
    "lines of a function, median": 5,
    "lines of a function, nine in ten at most": 15,
    "lines of a function, longest": 40,
    "complexity, worst": 15,
    "lines of a module, largest": 480,
}

_FOR_TOOLS = re.compile(r"#\s*(noqa|type:|fmt:|pragma:|nosec)")
_LAYOUT = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
_BRANCHES = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.match_case)
_NAMED = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Measured(NamedTuple):
    """One function: its full name, its length in lines of code, and its complexity."""

    name: str
    lines: int
    complexity: int


@dataclass(frozen=True)
class Module:
    """What one file holds, as it was counted."""

    name: str
    lines: int
    code_lines: int
    long_lines: int
    trailing_comments: int
    type_ignores: int
    anys: int
    functions: tuple[Measured, ...]


class Figure(NamedTuple):
    """One measure: what it is, its value, and where the worst is found."""

    what: str
    value: float
    where: str = ""

    @property
    def is_kept(self) -> bool:
        """Whether the value is within its limit, if it has one."""
        return self.value <= LIMITS.get(self.what, self.value)

    def __str__(self) -> str:
        limit = f"at most {LIMITS[self.what]}" if self.what in LIMITS else ""
        verdict = "" if self.is_kept else "EXCEEDED"
        value = f"{self.value:,.1f}".removesuffix(".0")
        return f"{self.what:<42}{value:>8}  {limit:<12}{verdict:<9}{self.where}".rstrip()


def figures(modules: Iterable[Module]) -> list[Figure]:
    """All measures of these modules, first those that have limits."""
    found = list(modules)
    functions = [function for module in found for function in module.functions]
    lines = sum(module.lines for module in found)
    code = sum(module.code_lines for module in found)
    return [
        Figure("Any per 1,000 lines", 1000 * sum(module.anys for module in found) / lines),
        Figure(
            "trailing comments per 100 lines of code",
            100 * sum(module.trailing_comments for module in found) / code,
        ),
        Figure(f"lines over {COLUMNS} columns", sum(module.long_lines for module in found)),
        Figure("type: ignore", sum(module.type_ignores for module in found)),
        *_of_functions(functions),
        _largest(found),
        Figure("modules", len(found)),
        Figure("functions", len(functions)),
        Figure("lines", lines),
    ]


def _of_functions(functions: Sequence[Measured]) -> Iterator[Figure]:
    lengths = sorted(function.lines for function in functions)
    longest = max(functions, key=lambda function: function.lines)
    branched = max(functions, key=lambda function: function.complexity)
    yield Figure("lines of a function, median", statistics.median(lengths))
    yield Figure("lines of a function, nine in ten at most", lengths[len(lengths) * 9 // 10])
    yield Figure("lines of a function, longest", longest.lines, longest.name)
    yield Figure("complexity, worst", branched.complexity, branched.name)


def _largest(modules: Sequence[Module]) -> Figure:
    largest = max(modules, key=lambda module: module.lines)
    return Figure("lines of a module, largest", largest.lines, largest.name)


def modules(package: Path) -> Iterator[Module]:
    """Every module of a package, with those of the packages in it."""
    for path in sorted(package.rglob("*.py")):
        yield module(str(path.relative_to(package.parent)), path.read_text(encoding="utf-8"))


def module(name: str, source: str) -> Module:
    """The counts of one module's source."""
    tree, lines = ast.parse(source), source.splitlines()
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    comments = [token for token in tokens if token.type == tokenize.COMMENT]
    code = _code_lines(tokens) - _docstring_lines(tree)
    return Module(
        name,
        lines=len(lines),
        code_lines=len(code),
        long_lines=sum(len(line) > COLUMNS for line in lines),
        trailing_comments=sum(_is_trailing(comment) for comment in comments),
        type_ignores=sum("type: ignore" in comment.string for comment in comments),
        anys=sum(token.type == tokenize.NAME and token.string == "Any" for token in tokens),
        functions=tuple(_functions(tree, name.removesuffix(".py").replace("/", "."), code)),
    )


def complexity(function: Function) -> int:
    """Ways through a function: one, and one more for each branch, loop, handler, case, condition
    of a comprehension, and each further operand of `and` and `or`. Functions within count for
    themselves.
    """
    return 1 + sum(map(_ways, _own(function)))


def length(function: Function, code_lines: set[int]) -> int:
    """Lines of code in its body: without signature, docstring, comments and blank lines."""
    first, last = function.body[0].lineno, function.body[-1].end_lineno or 0
    return sum(first <= line <= last for line in code_lines)


def _ways(node: ast.AST) -> int:
    match node:
        case ast.BoolOp():
            return len(node.values) - 1
        case ast.comprehension():
            return 1 + len(node.ifs)
        case _:
            return isinstance(node, _BRANCHES)


def _own(function: Function) -> Iterator[ast.AST]:
    """The nodes of a function without those of functions within it."""
    waiting: list[ast.AST] = [function]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += [
            child
            for child in ast.iter_child_nodes(node)
            if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef))
        ]


def _functions(node: ast.AST, within: str, code: set[int]) -> Iterator[Measured]:
    for child in ast.iter_child_nodes(node):
        name = f"{within}.{child.name}" if hasattr(child, "name") else within
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield Measured(name, length(child, code), complexity(child))
        yield from _functions(child, name if isinstance(child, _NAMED) else within, code)


def _code_lines(tokens: Iterable[tokenize.TokenInfo]) -> set[int]:
    return {
        line
        for token in tokens
        if token.type not in _LAYOUT and token.type != tokenize.COMMENT
        for line in range(token.start[0], token.end[0] + 1)
    }


def _docstring_lines(tree: ast.AST) -> set[int]:
    return {
        line
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, *_NAMED)) and ast.get_docstring(node) is not None
        for line in range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)
    }


def _is_trailing(comment: tokenize.TokenInfo) -> bool:
    """Whether code stands before it, and it is for readers rather than for a tool."""
    stands_alone = not comment.line[: comment.start[1]].strip()
    return not stands_alone and not _FOR_TOOLS.match(comment.string)
