"""What a round costs as a federation grows: one real site, the real coordinator, and bounds by the protocol's rule."""

import pytest

from yoriai.privacy.secagg.graph import plan
from yoriai.simulations.bench.secagg import bench_round
from yoriai.simulations.bench.secagg_scale import measure, sparse_plan, tolerated


def test_the_sum_is_exact_and_the_site_moves_what_a_site_among_real_ones_does() -> None:
    """In the complete graph every site moves the same, so one of a whole round of real sites is the measure."""
    found, whole = measure(8, params=300), bench_round(300, 8, 1)["stages"]
    assert found["exact"]
    assert set(found["stages"]) == set(whole)
    for label, stage in found["stages"].items():
        assert stage["bytes_down"] == pytest.approx(whole[label]["bytes_down"], rel=0.02, abs=8), label
        assert stage["bytes_up"] == pytest.approx(whole[label]["bytes_up"], rel=0.02, abs=8) or label == "mask", label
        assert min(stage["site_cpu_s"], stage["coordinator_cpu_s"]) > 0


def test_on_the_sparse_graph_the_sum_is_exact_too() -> None:
    assert measure(34, params=50)["exact"]


def test_a_plan_is_the_one_that_the_protocol_has_for_as_many_sites() -> None:
    assert sparse_plan(96) == (plan(96).holders, plan(96).threshold)


def test_groups_by_lot_bear_fewer_colluders_the_smaller_they_are() -> None:
    shares = [tolerated(10_000, group) for group in (100, 1000, 5000)]
    assert shares == sorted(shares)
    assert 0.05 < shares[0] < shares[-1] < 1 / 3
