"""The benchmark measures real work: a small one must be exact and carry every figure."""

import json

from click.testing import CliRunner

from yoriai.cli import command
from yoriai.simulations.bench.secagg import bench_round, bench_secagg

FIGURES = ("upload_bytes_per_param", "site_seconds", "coordinator_seconds")


def test_a_small_benchmark_carries_every_figure() -> None:
    found = bench_secagg(20_000, 6, 1, 3, 16)
    assert {"params", "sites", "dropped", "bits", "peak_rss_mb", "flower", "ratio", *FIGURES} <= set(found)
    assert set(FIGURES) <= set(found["flower"])
    # 16 bits and the weights of six sites: 19 bits a value, and a few hundred bytes around them.
    assert 19 / 8 <= found["upload_bytes_per_param"] < 19 / 8 + 0.02
    assert found["flower"]["upload_bytes_per_param"] >= 8


def test_the_command_prints_json() -> None:
    arguments = ["bench", "secagg", "--params", "2000", "--sites", "4", "--dropped", "1", "--neighbours", "2", "--json"]
    result = CliRunner().invoke(command(), arguments)
    assert result.exit_code == 0
    assert json.loads(result.stdout)["params"] == 2000


def test_a_window_of_four_rounds_is_exact_and_its_rounds_take_four_exchanges_each() -> None:
    found = bench_round(500, 5, 1, window=4)
    assert found["exact"]
    assert found["round"]["exchanges"] == 4
    single = bench_round(500, 5, 1, window=1)
    assert single["round"]["exchanges"] == 7
    assert found["round"]["site_bytes"] < single["round"]["site_bytes"]
