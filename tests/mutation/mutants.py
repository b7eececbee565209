"""The small wrongs: from a module's source to its mutants. Pure."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import singledispatch
from typing import TypeVar

# To the neighbour across the boundary, and to the contrary.
_COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}
_CALLED_INSTEAD = {"any": "all", "all": "any", "min": "max", "max": "min"}

# One piece of a regular expression: an escape, a class, a look around, a group's beginning, a word,
# a sign.
_PIECE = re.compile(
    r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?<?[!=](?:\\.|[^()\\])*\)|\(\?:|[A-Za-z ]{2,}|\{[^}]*\}|.",
    re.DOTALL,
)

# Types do nothing when run; what a decorator does is not the module's decision.
_PASSED_OVER = ("annotation", "returns", "decorator_list")
_DEFINING = (ast.Module, ast.ClassDef)

_Member = TypeVar("_Member")


@dataclass(frozen=True)
class Mutant:
    """One change: in `holder`, its `field` (at `place`, if a list) becomes `instead`."""

    name: str
    holder: ast.AST
    field: str
    place: int | None
    instead: ast.AST

    def apply(self) -> None:
        """Change the tree that it was made from, for good."""
        if self.place is None:
            setattr(self.holder, self.field, self.instead)
        else:
            getattr(self.holder, self.field)[self.place] = self.instead


def mutants(tree: ast.Module) -> list[Mutant]:
    """All of a module's, in the order of its lines, each with a name of its own that outlives a
    change elsewhere.
    """
    found, seen = [], Counter[str]()
    for mutant in _below(tree, ""):
        seen[mutant.name] += 1
        again = f" ({seen[mutant.name]})" if seen[mutant.name] > 1 else ""
        found.append(replace(mutant, name=mutant.name + again))
    return found


def _below(holder: ast.AST, where: str) -> Iterator[Mutant]:
    for field, value in ast.iter_fields(holder):
        if field in _PASSED_OVER:
            continue
        children = enumerate(value) if isinstance(value, list) else [(None, value)]
        for place, node in children:
            if not isinstance(node, ast.AST) or _is_docstring(node) or _is_member(node, holder):
                continue
            inside = _name(node, holder, where)
            for said, instead in _wrongs(node):
                ast.fix_missing_locations(ast.copy_location(instead, node))
                yield Mutant(f"{inside}: {said}", holder, field, place, instead)
            # A message's words are for people; that it is raised is the rule.
            if not isinstance(node, ast.Raise | ast.JoinedStr):
                yield from _below(node, inside)


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_member(node: ast.AST, holder: ast.AST) -> bool:
    """To be missed from a set is wrong enough."""
    return isinstance(holder, ast.Set) and isinstance(node, ast.Constant)


def _name(node: ast.AST, holder: ast.AST, where: str) -> str:
    """Where a person would look: the function, the class, the constant of a module or a class."""
    match node:
        case ast.FunctionDef(name) | ast.ClassDef(name):
            return f"{where}.{name}".lstrip(".")
        case ast.Assign([ast.Name(name)]) | ast.AnnAssign(ast.Name(name)) if isinstance(
            holder, _DEFINING
        ):
            return f"{where}.{name}".lstrip(".")
    return where


def _wrongs(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """What is put in a node's place, each with what is said of it."""
    for instead in _others(node):
        yield f"{_short(node)} → {_short(instead)}", instead
    for member, less in _without_one(node):
        yield f"without {_short(member)}", less
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        for said, pattern in _without_a_piece(node.value):
            yield said, ast.Constant(pattern)


def _short(node: ast.AST) -> str:
    """Its code on one line; of a branch the condition."""
    return (
        f"if {ast.unparse(node.test)}"
        if isinstance(node, ast.If)
        else " ".join(ast.unparse(node).split())
    )


@singledispatch
def _others(node: ast.AST) -> Iterator[ast.AST]:
    """What a node of its kind is mistaken for."""
    if isinstance(node, ast.Expr | ast.Raise | ast.Continue):
        yield ast.Pass()


@_others.register
def _(node: ast.Compare) -> Iterator[ast.AST]:
    if len(node.ops) == 1:
        yield from (
            ast.Compare(node.left, [other()], node.comparators)
            for other in _COMPARISONS[type(node.ops[0])]
        )


@_others.register
def _(node: ast.BoolOp) -> Iterator[ast.AST]:
    yield ast.BoolOp(ast.And() if isinstance(node.op, ast.Or) else ast.Or(), node.values)


@_others.register
def _(node: ast.UnaryOp) -> Iterator[ast.AST]:
    yield node.operand


@_others.register
def _(node: ast.BinOp) -> Iterator[ast.AST]:
    if other := _ARITHMETIC.get(type(node.op)):
        yield ast.BinOp(node.left, other(), node.right)


@_others.register
def _(node: ast.AugAssign) -> Iterator[ast.AST]:
    yield ast.Pass()
    if other := _ARITHMETIC.get(type(node.op)):
        yield ast.AugAssign(node.target, other(), node.value)


@_others.register
def _(node: ast.IfExp) -> Iterator[ast.AST]:
    yield from (node.body, node.orelse)


@_others.register
def _(node: ast.If) -> Iterator[ast.AST]:
    yield from (ast.If(ast.Constant(value), node.body, node.orelse) for value in (True, False))


@_others.register
def _(node: ast.Slice) -> Iterator[ast.AST]:
    yield ast.Slice()


@_others.register
def _(node: ast.Return) -> Iterator[ast.AST]:
    if node.value is not None and not isinstance(node.value, ast.Constant):
        yield ast.Return(ast.Constant(None))


@_others.register
def _(node: ast.Call) -> Iterator[ast.AST]:
    match node.func:
        case ast.Name(name) if name in _CALLED_INSTEAD:
            yield ast.Call(ast.Name(_CALLED_INSTEAD[name], ast.Load()), node.args, [])
        case ast.Attribute(value, "lower" | "upper" | "strip"):
            yield value


@_others.register
def _(node: ast.Attribute) -> Iterator[ast.AST]:
    if isinstance(node.value, ast.Name) and node.value.id == "re" and node.attr.isupper():
        yield ast.Constant(0)


@_others.register
def _(node: ast.Constant) -> Iterator[ast.AST]:
    match node.value:
        case bool(value):
            yield ast.Constant(not value)
        case int(number) | float(number):
            yield ast.Constant(number + 1)
        case str(text) if not _is_pattern(text):
            yield ast.Constant(text + "~")


@singledispatch
def _without_one(node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    """What a node of its kind may have forgotten: each member, with the node that lacks it."""
    yield from ()


@_without_one.register
def _(node: ast.BoolOp) -> Iterator[tuple[ast.AST, ast.AST]]:
    for value, rest in _less_one(node.values):
        yield value, ast.BoolOp(node.op, rest) if len(rest) > 1 else rest[0]


@_without_one.register
def _(node: ast.Set) -> Iterator[tuple[ast.AST, ast.AST]]:
    yield from ((member, ast.Set(rest)) for member, rest in _less_one(node.elts))


@_without_one.register(ast.List)
@_without_one.register(ast.Tuple)
def _(node: ast.List | ast.Tuple) -> Iterator[tuple[ast.AST, ast.AST]]:
    if isinstance(node.ctx, ast.Load):
        yield from ((member, type(node)(rest, node.ctx)) for member, rest in _less_one(node.elts))


@_without_one.register
def _(node: ast.Dict) -> Iterator[tuple[ast.AST, ast.AST]]:
    for (key, keys), (value, values) in zip(
        _less_one(node.keys), _less_one(node.values), strict=True
    ):
        yield key or value, ast.Dict(keys, values)


@_without_one.register
def _(node: ast.Call) -> Iterator[tuple[ast.AST, ast.AST]]:
    yield from (
        (word, ast.Call(node.func, node.args, rest)) for word, rest in _less_one(node.keywords)
    )


@_without_one.register
def _(node: ast.comprehension) -> Iterator[tuple[ast.AST, ast.AST]]:
    for condition, rest in _less_one(node.ifs):
        yield condition, ast.comprehension(node.target, node.iter, rest, node.is_async)


def _less_one(members: list[_Member]) -> Iterator[tuple[_Member, list[_Member]]]:
    yield from (
        (member, members[:place] + members[place + 1 :]) for place, member in enumerate(members)
    )


def _is_pattern(text: str) -> bool:
    return bool(re.search(r"[\\*\[]", text))


def _without_a_piece(pattern: str) -> Iterator[tuple[str, str]]:
    """A regular expression without one of its pieces, as far as it still is one."""
    for piece in _PIECE.finditer(pattern) if _is_pattern(pattern) else ():
        before, after = pattern[: piece.start()], pattern[piece.end() :]
        try:
            re.compile(before + after)
        except re.error:
            continue
        yield f"pattern without {piece[0]} after {before[-12:] or 'nothing'}", before + after
