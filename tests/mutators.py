"""The mutants of a module: each is one small change that a test of the module should notice."""

import ast
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

_SWAPPED: dict[type[ast.AST], Callable[[], ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
}  # fmt: skip
_NAMES = {"any": "all", "all": "any", "min": "max", "max": "min"}


@dataclass(frozen=True)
class Mutant:
    """One change.

    Attributes:
        first, last: the lines of what is changed.
        outer: whether it is outside all functions, where an import reaches it and no test by itself.
        change: in words.
        source: the whole module with it.
    """

    first: int
    last: int
    outer: bool
    change: str
    source: str


def mutants(source: str) -> Iterator[Mutant]:
    """Every mutant of a module, in the order of its lines."""
    tree = ast.parse(source)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    for at, node in enumerate(_reached(tree)):
        for change, mutate in _changes(node):
            mutated = copy.deepcopy(tree)
            mutate(next(twin for index, twin in enumerate(_reached(mutated)) if index == at))
            before, after = (ast.unparse(one) for one in (tree, mutated))
            if before != after:
                first, last = change[0].lineno, change[0].end_lineno
                outer = not any(one.body[0].lineno <= first <= (one.end_lineno or 0) for one in functions)
                yield Mutant(first, last, outer, change[1], after)


def _reached(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that are mutated: not what an error says, nor text, nor annotations."""
    yield node
    if isinstance(node, ast.Raise | ast.JoinedStr):
        return
    for name, value in ast.iter_fields(node):
        if name not in ("annotation", "returns"):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from _reached(child)


Change = tuple[tuple[Any, str], Callable[[Any], object]]


def _changes(node: ast.AST) -> Iterator[Change]:
    """What is done to a node: where and what, and how to do it to its twin in a copy."""
    match node:
        case ast.Compare():
            for k, op in enumerate(node.ops):
                yield (node, f"{_name(op)} -> {_SWAPPED[type(op)].__name__}"), partial(_swap_comparison, k=k)  # type: ignore[attr-defined]
        case ast.BoolOp() | ast.BinOp() if type(node.op) in _SWAPPED:
            yield (node, f"{_name(node.op)} -> {_SWAPPED[type(node.op)].__name__}"), _swap_operator  # type: ignore[attr-defined]
        case ast.Constant(value=bool()):
            yield (node, f"{node.value} -> {not node.value}"), lambda twin: setattr(twin, "value", not twin.value)
        case ast.Constant(value=int() | float()):
            yield (node, f"{node.value} -> {node.value + 1}"), lambda twin: setattr(twin, "value", twin.value + 1)
        case ast.Name() if node.id in _NAMES:
            yield (node, f"{node.id} -> {_NAMES[node.id]}"), lambda twin: setattr(twin, "id", _NAMES[twin.id])
        case ast.If() | ast.While() | ast.IfExp() if not _flips(node.test):
            yield (node.test, "condition negated"), partial(_negate, field="test")
        case ast.Return(value=ast.Compare() | ast.BoolOp() | ast.UnaryOp(op=ast.Not())) if not _flips(node.value):
            yield (node.value, "answer negated"), partial(_negate, field="value")
    for block in ("body", "orelse", "finalbody"):
        statements = getattr(node, block, None)
        for k, one in enumerate(statements if isinstance(statements, list) else []):
            if isinstance(one, ast.Raise):
                yield (one, "raise removed"), partial(_remove, block=block, k=k)
            elif isinstance(one, ast.Expr) and isinstance(one.value, ast.Call):
                yield (one, f"{ast.unparse(one.value.func)}(...) removed"), partial(_remove, block=block, k=k)


def _name(node: ast.AST) -> str:
    return type(node).__name__


def _flips(test: ast.AST | None) -> bool:
    """Whether to swap a comparison is to negate it, so that a negation would be the same mutant twice."""
    exact = (ast.Eq, ast.NotEq, ast.In, ast.NotIn, ast.Is, ast.IsNot)
    return isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], exact)


def _swap_comparison(node: ast.Compare, k: int) -> None:
    node.ops[k] = _SWAPPED[type(node.ops[k])]()  # type: ignore[call-overload]


def _swap_operator(node: ast.BoolOp | ast.BinOp) -> None:
    node.op = _SWAPPED[type(node.op)]()  # type: ignore[assignment]


def _negate(node: ast.AST, field: str) -> None:
    setattr(node, field, ast.UnaryOp(ast.Not(), getattr(node, field)))


def _remove(node: ast.AST, block: str, k: int) -> None:
    getattr(node, block)[k] = ast.Pass()
