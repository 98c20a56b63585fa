"""From a round's updates to the next adapter: every rule resumes to the bit, each lane has its own optimiser state."""

from pathlib import Path

import numpy as np
import pytest

from tests.server.faulty import (
    BASE_DIGEST,
    FakeSite,
    FaultyTransport,
    coordinator,
    federation,
    initial_adapter,
    small_job,
    update_of,
)
from yoriai.config import JobConfig, job_digest
from yoriai.server.round.registry import Checkpoint, factor_group_of
from yoriai.server.round.round_aggregate import RoundAggregate
from yoriai.server.round.server_step import take_server_step
from yoriai.strategies.adapter import AdapterState, difference, scaled, weighted_mean
from yoriai.strategies.rule import built_in_rules, get_rule
from yoriai.strategies.server_opt import OptState

RULES = tuple(rule.name for rule in built_in_rules())


def job_for(rule: str, optimizer: str = "", **settings: object) -> JobConfig:
    kind = optimizer or ("momentum" if "momentum" in get_rule(rule).server_optimizers else "none")
    more = {"federation__rounds": 4} if kind == "none" else {"federation__schedule": "cosine", "federation__rounds": 4}
    return small_job(federation__rule=rule, federation__server_optimizer=kind, **more, **settings)


def collected(*updates: AdapterState) -> RoundAggregate:
    weighted = {str(number): (1.0, update) for number, update in enumerate(updates)}
    return RoundAggregate(weighted_mean(weighted), tuple(weighted), {}, updates=weighted)


def drawn(rule: str, state: AdapterState, round_index: int, name: str = "a") -> AdapterState:
    return update_of(name, round_index, state).select(get_rule(rule).trainable(round_index))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_a_run_that_is_resumed_ends_with_the_bits_of_one_that_was_not(
    rule: str, stop_after: int, tmp_path: Path
) -> None:
    job, initial = job_for(rule), initial_adapter(rule)
    whole = coordinator(job, FaultyTransport(federation("abc")), tmp_path / "whole").run(initial)

    def stop(checkpoint: Checkpoint) -> None:
        if checkpoint.next_round == stop_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        coordinator(job, FaultyTransport(federation("abc")), tmp_path / "cut").run(initial, on_round=stop)
    resumed = coordinator(job, FaultyTransport(federation("abc")), tmp_path / "cut").run(initial)
    assert resumed.adapter == whole.adapter
    assert resumed.lanes == whole.lanes
    assert [r.adapter_digest for r in resumed.rounds] == [r.adapter_digest for r in whole.rounds]


@pytest.mark.parametrize("rule", RULES)
def test_a_request_brings_every_factor_that_moves_and_no_other(rule: str, tmp_path: Path) -> None:
    # The fake sites compare digests, so a factor that moved and did not travel would end the run.
    transport = FaultyTransport(federation("ab"))
    result = coordinator(job_for(rule), transport, tmp_path).run(initial_adapter(rule))
    fixed = set(get_rule(rule).factors) - set(get_rule(rule).moving)
    assert result.next_round == 4
    assert fixed == {"core": {"A", "U"}, "ffa": {"A"}}.get(rule, set())
    for factor in fixed:
        assert result.adapter.select((factor,)) == initial_adapter(rule).select((factor,))


def test_an_alternating_rule_has_one_optimizer_state_for_each_factor(tmp_path: Path) -> None:
    job = job_for("rolora", "adam")
    result = coordinator(job, FaultyTransport(federation("ab")), tmp_path).run(initial_adapter("rolora"))
    states = {name: OptState.from_bytes(factor_group.optimizer_state) for name, factor_group in result.lanes.items()}
    assert set(states) == {"A", "B"}
    for name, state in states.items():
        assert state.steps == 2
        assert state.first is not None
        assert state.first.factors() == (name,)


def test_momentum_is_carried_into_the_basis_that_fedsvd_turned_to() -> None:
    rule, job = get_rule("fedsvd"), job_for("fedsvd")
    before = initial_adapter("fedsvd")
    checkpoint = Checkpoint("run", job_digest(job, BASE_DIGEST), 0, before)
    update = drawn("fedsvd", before, 0)
    after, factor_group = take_server_step(job, rule, checkpoint, collected(update))
    moment = OptState.from_bytes(factor_group.optimizer_state).first
    assert moment is not None
    for path in before.module_paths():
        # What the moment does to the weight is the same in both bases.
        turned = moment.factor(path, "B") @ after.factor(path, "A")
        np.testing.assert_allclose(turned, update.factor(path, "B") @ before.factor(path, "A"), atol=1e-5)
        assert np.abs(moment.factor(path, "B") - update.factor(path, "B")).max() > 1e-3


@pytest.mark.parametrize("rule", ["flora", "fedex"])
def test_rules_that_need_single_updates_get_them(rule: str) -> None:
    job, before = job_for(rule), initial_adapter(rule)
    updates = [drawn(rule, before, 0, name) for name in "ab"]
    after, factor_group = take_server_step(
        job, get_rule(rule), Checkpoint("run", "job", 0, before), collected(*updates)
    )
    assert factor_group.optimizer_state == b""
    for path in before.module_paths():
        products = [
            (before.factor(path, "B") + u.factor(path, "B")) @ (before.factor(path, "A") + u.factor(path, "A"))
            for u in updates
        ]
        np.testing.assert_allclose(after.product(path), sum(products) / 2, atol=1e-5)


@pytest.mark.parametrize("aggregation", ["median", "trimmed_mean", "krum"])
def test_a_robust_aggregate_bears_a_site_that_sends_nonsense(aggregation: str, tmp_path: Path) -> None:
    def small(name: str, round_index: int, start: AdapterState) -> AdapterState:
        return scaled(update_of(name, round_index, start), 0.01)

    def wild(name: str, round_index: int, start: AdapterState) -> AdapterState:
        return scaled(update_of(name, round_index, start), 1e6)

    job = small_job(federation__aggregation=aggregation, federation__min_sites=5)
    sites = {name: FakeSite(name, small) for name in "abcd"} | {"e": FakeSite("e", wild)}
    result = coordinator(job, FaultyTransport(sites), tmp_path / aggregation).run(initial_adapter())
    moved = difference(result.adapter, initial_adapter()).flatten()
    assert 0 < np.abs(moved).max() < 1

    fooled = coordinator(small_job(federation__min_sites=5), FaultyTransport(sites), tmp_path / "mean")
    assert np.abs(difference(fooled.run(initial_adapter()).adapter, initial_adapter()).flatten()).max() > 1e4


def test_the_coordinator_bounds_what_a_site_did_not(tmp_path: Path) -> None:
    job = small_job(federation__update_norm_bound=0.5, federation__rounds=1)
    result = coordinator(job, FaultyTransport(federation("ab")), tmp_path).run(initial_adapter())
    assert 0 < result.rounds[0].update_norm <= 0.5


def test_lanes_are_named_by_what_trains_together() -> None:
    assert [factor_group_of(get_rule("rolora"), i) for i in range(3)] == ["B", "A", "B"]
    assert {factor_group_of(get_rule("fedavg"), i) for i in range(3)} == {"A+B"}
