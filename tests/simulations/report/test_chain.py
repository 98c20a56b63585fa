"""The chain of versions as a table and a page: scores at their heights, costs by each step, and nothing else's text."""

import json
import re
from pathlib import Path

import pytest

from tests.commands import yoriai
from yoriai.errors import EXIT_BAD_INPUT, ConfigError
from yoriai.simulations.report.chain import Link, chain_page, read_chain

FIRST = Link(run="a", ended="2026-11-01T00:00:00+00:00", rounds=3, accuracy=0.5, epsilon=4.0, delta=1e-5, together=4.1)
SECOND = FIRST.model_copy(update={"run": "b", "accuracy": 0.75, "together": 5.9})


def test_the_curve_rises_with_the_score_and_each_step_has_its_cost() -> None:
    page = chain_page([FIRST, SECOND]).decode()
    low, high = (float(y) for y in re.findall(r'<circle cx="[\d.]+" cy="([\d.]+)"', page))
    assert low > high  # Downwards, as pictures count.
    cells = re.findall(r"<td>(.*?)</td>", page)
    costs = (["0.500", "4.00", "4.10"], ["0.750", "4.00", "5.90"])
    assert cells == ["1", "a", "2026-11-01", "3", *costs[0], "2", "b", "2026-11-01", "3", *costs[1]]


def test_a_version_without_a_score_or_a_guarantee_is_in_the_table_and_not_on_the_curve() -> None:
    page = chain_page([FIRST, SECOND.model_copy(update={"accuracy": None, "epsilon": None, "together": None})]).decode()
    assert page.count("<circle") == 1
    assert page.count("no guarantee") == 2
    assert "not given" in page


def test_a_text_of_a_run_is_escaped_and_nothing_is_fetched() -> None:
    page = chain_page([FIRST.model_copy(update={"run": "<script>"})]).decode()
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert "http://" not in page.replace("http-equiv", "")


def test_what_holds_no_chain_is_read_as_something_else_and_a_broken_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "shown.json"
    path.write_text("{}")
    assert read_chain(path) is None
    path.write_text(json.dumps({"chain": [{"run": "a"}]}))
    with pytest.raises(ConfigError, match="no chain of versions"):
        read_chain(path)
    assert yoriai("report", path).code == EXIT_BAD_INPUT
