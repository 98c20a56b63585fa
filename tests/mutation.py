"""Mutation runs over the checks that protect a site: each check is broken in turn, and some test has to notice.

    python -m tests.mutation                                    every module of the table
    python -m tests.mutation client/offer/policy.py             one module
    python -m tests.mutation --sample 20 client/offer/policy.py

A mutant (`mutators.py`) is one small change to a copy of the tree; the working tree is never written to. A first run of
a module's tests finds which of them reach which line, and a mutant is then given those alone, the quickest first. Heavy
packages are imported once, and each mutant's tests run in a fork. docs/mutation.md lists who survived, each with a
reason.
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.mutators import Mutant, mutants

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("client", "privacy", "server", "simulations", "strategies", "tests", "yoriai")
HEAVY = ("torch", "opacus", "peft", "transformers", "scipy.stats", "dp_accounting", "flwr.app", "cryptography.x509")
MARKERS = "not slow and not deploy"
WORKERS = 2

_SECAGG = ("privacy/secagg",)
_LEDGER = ("privacy/test_ledger_rule.py", "privacy/test_ledger_order.py", "privacy/test_ledger_policy.py")
TESTS: dict[str, tuple[str, ...]] = {
    "client/offer/policy.py": (
        "client/site/test_site.py",
        "client/training/test_mixed_ranks.py",
        "simulations/run/test_distributed.py",
    ),
    "client/site/round_trainer.py": (
        "client/site/test_round_trainer.py",
        "client/site/test_site.py",
        "client/versions/test_delivery.py",
        "simulations/scenarios/test_secure_federation.py",
    ),
    "privacy/dp/dpsgd.py": ("privacy/test_dpsgd.py", "privacy/test_owner_sums.py", "client/training/test_train.py"),
    "privacy/dp/row_sums.py": ("privacy/test_row_sums.py", "privacy/test_dpsgd.py"),
    "privacy/dp/mechanisms.py": ("privacy/test_mechanisms.py", "privacy/test_dpsgd.py"),
    "privacy/ledger/rule.py": (*_LEDGER, "privacy/test_ledger.py"),
    "privacy/ledger/ledger.py": (
        *_LEDGER,
        "privacy/test_ledger.py",
        "privacy/test_ledger_format.py",
        "privacy/test_ledger_witness.py",
    ),
    "client/base/pieces.py": ("client/training/test_pieces.py", "client/records/test_units.py"),
    "client/versions/deliveries.py": ("client/versions/test_delivery.py", "simulations/run/test_approvals.py"),
    "client/versions/channel_inbox.py": ("client/versions/test_pull.py", "client/versions/test_judging.py"),
    "client/versions/counting.py": ("client/versions/test_judging.py",),
    "client/versions/judging.py": ("client/versions/test_judging.py",),
    "client/site/instructions.py": ("client/site/test_instructions.py",),
    "privacy/statements/instruction.py": ("privacy/test_instruction.py", "client/site/test_instructions.py"),
    **{f"privacy/secagg/{path.name}": _SECAGG for path in sorted((ROOT / "privacy" / "secagg").glob("[a-z]*.py"))},
}
"""The tests of each module, below tests/."""


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
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.setsid()
            os.chdir(tree)
            for stream in (1, 2):
                os.dup2(os.open(tree / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
            sys.path[:] = [str(tree), *(path for path in sys.path if Path(path).resolve() != ROOT)]
            os.environ["PYTHONPATH"] = str(tree)
            sys.modules.pop("tests", None)
            code = work()
        os._exit(code)
    end, gone = time.monotonic() + limit, 0
    try:
        while not gone and time.monotonic() < end:
            time.sleep(0.02)
            gone, status = os.waitpid(child, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if gone else None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # Whatever its tests started ends with it.
        if not gone:
            os.kill(child, signal.SIGKILL)  # It may have no group of its own yet.
            os.waitpid(child, 0)


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


def run(file: str, tests: list[str], sample: int | None = None) -> Generator[tuple[Mutant, str]]:
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


def end_tidily() -> None:
    """Have a signal end this process by its own exit, so that its tests end too and its copies of the tree go."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: sys.exit(128 + number))


def main() -> int:
    """Print every mutant's verdict and the counts of each module."""
    end_tidily()
    parser = argparse.ArgumentParser(description="Break the security checks one by one; a test has to notice.")
    parser.add_argument("files", nargs="*", default=list(TESTS), metavar="FILE", help="modules of the table")
    parser.add_argument("--sample", type=int, help="of each module, so many mutants, drawn at random")
    parser.add_argument("--tests", nargs="+", help="these test files in place of the table's")
    given = parser.parse_args()
    for name in HEAVY:
        __import__(name)
    for file in given.files:
        tests, count, survived, start = given.tests or [f"tests/{one}" for one in TESTS[file]], 0, 0, time.monotonic()
        with closing(run(file, tests, given.sample)) as verdicts:
            for mutant, verdict in verdicts:
                count, survived = count + 1, survived + (not verdict.startswith("killed"))
                print(f"{verdict:<13} {file}:{mutant.first}  {mutant.change}", flush=True)  # noqa: T201
        print(f"== {file}: {count - survived} of {count} killed, {time.monotonic() - start:.0f} s", flush=True)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
