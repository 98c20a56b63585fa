"""Mutation runs over the checks that protect a site: each check is broken in turn, and some test has to notice.

    python -m tests.mutation                            every module of the table
    python -m tests.mutation client/offer/policy.py           one module
    python -m tests.mutation --sample 20 client/offer/policy.py

A mutant is one small change to a copy of the tree; the working tree is never written to. A first run of a module's
tests finds which of them reach which line, and a mutant is then given those alone, the quickest first. Heavy packages
are imported once, and each mutant's tests run in a fork. docs/mutation.md lists who survived, each with a reason.
"""

import argparse
import ast
import copy
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("client", "privacy", "server", "simulations", "strategies", "tests", "yoriai")
HEAVY = ("torch", "opacus", "peft", "transformers", "scipy.stats", "dp_accounting", "flwr.app", "cryptography.x509")
MARKERS = "not slow and not deploy"
WORKERS = 2

_SECAGG = ("privacy/secagg",)
_LEDGER = ("privacy/test_ledger_rule.py", "privacy/test_ledger_order.py", "privacy/test_ledger_policy.py")
TESTS: dict[str, tuple[str, ...]] = {
    "client/offer/policy.py": ("client/test_site.py", "client/test_mixed_ranks.py", "simulations/test_distributed.py"),
    "client/site/charging.py": (
        "client/test_site.py",
        "client/test_delivery.py",
        "simulations/test_secure_federation.py",
    ),
    "privacy/dp/dpsgd.py": ("privacy/test_dpsgd.py", "privacy/test_owner_sums.py", "client/test_train.py"),
    "privacy/dp/mechanisms.py": ("privacy/test_mechanisms.py", "privacy/test_dpsgd.py"),
    "privacy/ledger/rule.py": (*_LEDGER, "privacy/test_ledger.py"),
    "privacy/ledger/ledger.py": (*_LEDGER, "privacy/test_ledger.py", "privacy/test_ledger_witness.py"),
    "client/model/pieces.py": ("client/test_pieces.py", "client/test_units.py"),
    "client/site/deliveries.py": ("client/test_delivery.py", "simulations/test_approvals.py"),
    "client/site/instructions.py": ("client/test_instructions.py",),
    "privacy/identity/instruction.py": ("privacy/test_instruction.py", "client/test_instructions.py"),
    **{f"privacy/secagg/{path.name}": _SECAGG for path in sorted((ROOT / "privacy" / "secagg").glob("[a-z]*.py"))},
}
"""The tests of each module, below tests/."""

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


class Reach:
    """A pytest plugin: which lines of a file each test reaches, and how long it takes."""

    def __init__(self, file: str) -> None:
        self.tests: dict[str, tuple[float, list[int]]] = {}
        self._file = file

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        lines: set[int] = set()

        def local(frame: Any, _: str, __: object) -> Any:
            lines.add(frame.f_lineno)
            return local

        start = time.monotonic()
        sys.settrace(lambda frame, *_: local if frame.f_code.co_filename.endswith(self._file) else None)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            self.tests[item.nodeid] = (time.monotonic() - start, sorted(lines))


class Chosen:
    """A pytest plugin: these tests alone, in this order."""

    def __init__(self, tests: list[str]) -> None:
        self._place = {test: place for place, test in enumerate(tests)}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted((item for item in items if item.nodeid in self._place), key=lambda i: self._place[i.nodeid])


def in_fork(tree: Path, work: Callable[[], int], limit: float) -> int | None:
    """What the work returns, in a process of its own at the tree; None past the limit, in seconds."""
    child = os.fork()
    if child == 0:
        code = 70
        with suppress(BaseException):
            os.setsid()
            os.chdir(tree)
            for stream in (1, 2):
                os.dup2(os.open(tree / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
            sys.path[:] = [str(tree), *(path for path in sys.path if Path(path).resolve() != ROOT)]
            os.environ["PYTHONPATH"] = str(tree)
            sys.modules.pop("tests", None)
            code = work()
        os._exit(code)
    end = time.monotonic() + limit
    try:
        while True:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > end:
                return None
            time.sleep(0.02)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # Whatever its tests started ends with it.


def _pytest(plugin: object, files: list[str]) -> int:
    return int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-m", MARKERS, *files], plugins=[plugin]))


def _measure(file: str, tests: list[str]) -> int:
    reach = Reach(f"yoriai/{file}")
    code = _pytest(reach, tests)
    Path("reach.json").write_text(json.dumps(reach.tests), encoding="utf-8")
    return code


def copy_tree(place: Path) -> Path:
    """A copy of what tests need, symlinks as they are."""
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, place / folder, symlinks=True)
    shutil.copy(ROOT / "pyproject.toml", place)
    return place


@dataclass(frozen=True)
class Judge:
    """Gives mutants of one file to the tests that reach them. One copy of the tree a process lies below `base`."""

    base: Path
    file: str
    reach: dict[str, tuple[float, list[int]]]

    def __call__(self, numbered: tuple[int, Mutant]) -> tuple[Mutant, str]:
        """The mutant with "killed", "killed (time)", "SURVIVED" or, if no test gets to its lines, "UNREACHED"."""
        number, mutant = numbered
        tree = self.base / str(os.getpid())
        if not tree.exists():
            copy_tree(tree)
        lines = set(range(mutant.first, mutant.last + 1))
        tests = [test for test, (_, hit) in self.reach.items() if mutant.outer or not lines.isdisjoint(hit)]
        if not tests:
            return mutant, "UNREACHED"
        tests.sort(key=lambda test: self.reach[test][0])
        path = tree / self.file
        honest = path.read_text(encoding="utf-8")
        path.write_text(mutant.source, encoding="utf-8")
        os.utime(path, (number, number))  # Compiled files of one size are told apart by it.
        limit = 30 + 5 * sum(self.reach[test][0] for test in tests)
        code = in_fork(tree, partial(_pytest, Chosen(tests), sorted({test.split("::")[0] for test in tests})), limit)
        path.write_text(honest, encoding="utf-8")
        if code in (4, 5, 70):
            raise RuntimeError(f"no test ran for {self.file}:{mutant.first}: {(tree / 'log').read_text()[-2000:]}")
        return mutant, "killed (time)" if code is None else "killed" if code else "SURVIVED"


def run(file: str, tests: list[str], sample: int | None = None) -> Iterator[tuple[Mutant, str]]:
    """Each mutant of a file with its verdict; of a random few if asked for, the same ones every time."""
    every = list(enumerate(mutants((ROOT / file).read_text(encoding="utf-8")), start=1))
    if sample is not None and sample < len(every):
        every = sorted(random.Random(0).sample(every, sample), key=lambda numbered: numbered[0])
    with tempfile.TemporaryDirectory(prefix="yoriai-mutants-") as folder:
        honest = copy_tree(Path(folder) / "honest")
        if in_fork(honest, partial(_measure, file, tests), 1800) != 0:
            raise RuntimeError(f"tests fail without a mutant: {(honest / 'log').read_text()[-2000:]}")
        reach = json.loads((honest / "reach.json").read_text(encoding="utf-8"))
        with multiprocessing.get_context("fork").Pool(WORKERS) as pool:
            yield from pool.imap(Judge(Path(folder), file, reach), every)


def main() -> int:
    """Print every mutant's verdict and the counts of each module."""
    parser = argparse.ArgumentParser(description="Break the security checks one by one; a test has to notice.")
    parser.add_argument("files", nargs="*", default=list(TESTS), metavar="FILE", help="modules of the table")
    parser.add_argument("--sample", type=int, help="of each module, so many mutants, drawn at random")
    parser.add_argument("--tests", nargs="+", help="these test files in place of the table's")
    given = parser.parse_args()
    for name in HEAVY:
        __import__(name)
    for file in given.files:
        tests, count, survived, start = given.tests or [f"tests/{one}" for one in TESTS[file]], 0, 0, time.monotonic()
        for mutant, verdict in run(file, tests, given.sample):
            count, survived = count + 1, survived + (not verdict.startswith("killed"))
            print(f"{verdict:<13} {file}:{mutant.first}  {mutant.change}", flush=True)  # noqa: T201
        print(f"== {file}: {count - survived} of {count} killed, {time.monotonic() - start:.0f} s", flush=True)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
