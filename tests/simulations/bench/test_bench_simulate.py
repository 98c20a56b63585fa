"""The benchmark of simulations trains real sites, and its JSON has the keys that scripts read."""

import json

import pytest
from typer.testing import CliRunner

from yoriai.cli import app
from yoriai.errors import ConfigError
from yoriai.simulations.bench.simulate import SimulatePlan, bench_simulate


def test_the_command_prints_the_engines_that_were_asked_for_and_null_for_the_others() -> None:
    arguments = ["bench", "simulate", "--sites", "4", "--rounds", "1", "--engine", "one-pass", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert (found["sites"], found["rounds"], found["in_process"], found["flower"]) == (4, 1, None, None)
    assert found["one_pass"].keys() == {"seconds", "site_rounds_per_s", "peak_memory_mb"}
    assert found["one_pass"]["site_rounds_per_s"] == pytest.approx(4 / found["one_pass"]["seconds"], rel=0.05)
    assert found["one_pass"]["peak_memory_mb"] > 50


@pytest.mark.parametrize(
    ("plan", "engines"), [(SimulatePlan(3), ("ray",)), (SimulatePlan(3, trains="everything"), ("inprocess",))]
)
def test_what_is_not_there_is_refused_before_anything_is_measured(plan: SimulatePlan, engines: tuple[str]) -> None:
    with pytest.raises(ConfigError, match="--"):
        bench_simulate(plan, engines, lambda _: None)
