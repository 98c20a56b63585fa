"""The mutation run tells a check that a test minds from one that no test can mind."""

import textwrap
from pathlib import Path

from tests.mutation import TESTS, mutants

ROOT = Path(__file__).parents[1]
CHECK = textwrap.dedent(
    """
    def check_rate(rate: float) -> None:
        if rate < 0.5:
            raise ValueError(f"below {0.5}")
    """
)


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


def test_what_an_error_says_is_not_mutated_and_lines_are_those_of_the_source() -> None:
    assert {(one.first, one.outer) for one in mutants(CHECK)} == {(3, False), (4, False)}


def test_every_module_of_the_table_and_its_tests_exist() -> None:
    for module, tests in TESTS.items():
        assert (ROOT / module).is_file()
        assert [test for test in tests if not (ROOT / "tests" / test).exists()] == []
