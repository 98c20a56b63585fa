"""The mutation run tells a check that a test minds from one that no test can mind."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tests.mutation import FOLDERS, TESTS
from tests.mutators import mutants

ROOT = Path(__file__).parents[1]
CHECK = textwrap.dedent(
    """
    def check_rate(rate: float) -> None:
        if rate < 0.5:
            raise ValueError(f"below {0.5}")
    """
)


# What a tree of its own needs, so that a run in it is over in seconds.
PYPROJECT = """
[tool.pytest.ini_options]
pythonpath = ["."]
addopts = ["--import-mode=importlib"]
markers = ["slow", "deploy"]
"""
TEST_OF_CHECK = """
import pytest
from yoriai.client.check import check_rate

def test_a_rate_of_a_tenth_is_refused_and_one_of_nine_tenths_is_taken():
    check_rate(0.9)
    with pytest.raises(ValueError):
        check_rate(0.1)
"""
RUN = """
from tests.mutation import end_tidily, run
end_tidily()
for mutant, verdict in run("client/check.py", ["tests/test_check.py"]):
    print(mutant.change, "=", verdict)
"""


@pytest.fixture
def small_tree(tmp_path: Path) -> Path:
    """A tree with one module and its test, and the mutation run as it is here."""
    tree = tmp_path / "tree"
    for folder in FOLDERS:
        (tree / folder).mkdir(parents=True)
    (tree / "yoriai" / "client").symlink_to("../client")
    for name in ("mutation.py", "mutators.py"):
        shutil.copy(ROOT / "tests" / name, tree / "tests")
    for package in ("yoriai", "client"):
        (tree / package / "__init__.py").touch()
    (tree / "pyproject.toml").write_text(PYPROJECT)
    (tree / "client" / "check.py").write_text(CHECK)
    (tree / "tests" / "test_check.py").write_text(TEST_OF_CHECK)
    (tmp_path / "temporary").mkdir()
    return tree


def start_run(tree: Path) -> "subprocess.Popen[str]":
    environment = {**os.environ, "TMPDIR": str(tree.parent / "temporary")}
    environment.pop("PYTHONPATH", None)
    return subprocess.Popen([sys.executable, "-c", RUN], cwd=tree, env=environment, stdout=subprocess.PIPE, text=True)


def _minds(source: str, *, low: float, high: float) -> bool:
    """Whether a test of the check that refuses `low` and takes `high` fails for this source."""
    names: dict[str, object] = {}
    exec(source, names)
    check = names["check_rate"]
    assert callable(check)
    try:
        check(high)
    except ValueError:
        return True
    try:
        check(low)
    except ValueError:
        return False
    return True


def test_a_mutant_of_a_known_check_is_killed_and_one_beyond_the_tests_reach_survives() -> None:
    verdicts = {one.change: _minds(one.source, low=0.1, high=0.9) for one in mutants(CHECK)}
    assert verdicts == {"condition negated": True, "raise removed": True, "Lt -> LtE": False, "0.5 -> 1.5": True}


def test_a_run_says_of_each_mutant_whether_its_tests_noticed_and_leaves_nothing_behind(small_tree: Path) -> None:
    said, _ = start_run(small_tree).communicate(timeout=300)
    assert sorted(said.splitlines()) == [
        "0.5 -> 1.5 = killed",
        "Lt -> LtE = SURVIVED",
        "condition negated = killed",
        "raise removed = killed",
    ]
    assert (small_tree / "client" / "check.py").read_text() == CHECK
    assert list((small_tree.parent / "temporary").glob("yoriai-*")) == []


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_stopped_takes_its_tests_and_its_copies_with_it(small_tree: Path, how: signal.Signals) -> None:
    # Unmutated the test is over at once; the first mutant that it fails for keeps it waiting.
    waits = f"""
import os, pathlib, pytest, time
from yoriai.client.check import check_rate

def test_waits():
    try:
        check_rate(0.9)
    except ValueError:
        place = pathlib.Path({str(small_tree / "at work")!r})
        place.with_suffix(".new").write_text(str(os.getpid()))
        place.with_suffix(".new").rename(place)
        time.sleep(600)
"""
    (small_tree / "tests" / "test_check.py").write_text(waits)
    started, place = start_run(small_tree), small_tree / "at work"
    try:
        while not place.exists():
            assert started.poll() is None
            time.sleep(0.05)
        started.send_signal(how)
        assert started.wait(timeout=300) != 0
    finally:
        started.kill()
        started.communicate()
    assert list((small_tree.parent / "temporary").glob("yoriai-*")) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(place.read_text()), 0)


def test_what_an_error_says_is_not_mutated_and_lines_are_those_of_the_source() -> None:
    assert {(one.first, one.outer) for one in mutants(CHECK)} == {(3, False), (4, False)}


def test_every_module_of_the_table_and_its_tests_exist() -> None:
    for module, tests in TESTS.items():
        assert (ROOT / module).is_file()
        assert [test for test in tests if not (ROOT / "tests" / test).exists()] == []
