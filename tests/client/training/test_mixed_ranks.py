"""A site that trains the leading directions only: what it clips, what it noises, and what it never computes."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
import torch

from tests.client.conftest import Attach, JobMaker, start_for
from tests.client.rounds import PLAN, CountingSource, NoLoss, examples, label_head, prepared
from yoriai.client.model.lora import AdaptedModel
from yoriai.client.offer.policy import plain_rank, signed_rank
from yoriai.client.site.job import training_plan
from yoriai.client.training.plan import TrainingPlan
from yoriai.client.training.train import train_round
from yoriai.config import PolicySection
from yoriai.errors import PolicyError
from yoriai.privacy.dp import record_gradients
from yoriai.privacy.dp.randomness import SeededSource
from yoriai.privacy.identity.roster import Roster, RosterEntry
from yoriai.privacy.job_terms.noise import LocalNoise, NoNoise
from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.rank_block import block_size, rank_block, restricted_to_block
from yoriai.strategies.rule import get_rule

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook", "ignore:.is_gradient_checkpointing")

RULES = ("core", "fedavg", "ffa")
RANK = 2


def update(model: AdaptedModel, rule: str, plan: TrainingPlan, **more: Any) -> AdapterState:
    """One round's update of a site, without noise unless `source` says otherwise."""
    arguments: dict[str, Any] = {"records": prepared(model), "head": label_head()} | more
    source = arguments.pop("source", CountingSource(silent=True))
    plan = replace(plan, factors=get_rule(rule).trainable(0))
    records, head = arguments["records"], arguments["head"]
    return train_round(model, start_for(model, rule), records, head, plan, source=source).update


@pytest.mark.parametrize("rule", RULES)
def test_the_private_step_clips_each_record_by_what_it_holds(attach: Attach, rule: str) -> None:
    """Against a loop over single records, whose gradients are restricted_to_block first and clipped then."""
    model, plan = attach(rule), replace(PLAN, rank=RANK, clip_norm=3e-4)
    records, head = prepared(model), label_head()
    model.load(start_for(model, rule))
    trained = model.set_trainable(get_rule(rule).trainable(0))
    sums = {name: np.zeros(tuple(p.shape)) for name, p in trained.items()}
    for index in range(len(records)):
        (batch,) = records.batches([index], 1)
        loss = head.losses(head.hidden(model, batch), batch).sum()
        row = dict(zip(trained, torch.autograd.grad(loss, list(trained.values())), strict=True))
        narrow = restricted_to_block(AdapterState({name: g.numpy() for name, g in row.items()}), RANK)
        norm = np.linalg.norm(narrow.flatten().astype(float))
        assert norm > plan.clip_norm
        for name, tensor in narrow.tensors.items():
            sums[name] -= tensor * (plan.clip_norm / norm)
    # Of a start at zero an update this short loses nothing to rounding; here it is small beside the adapter's values.
    found = update(model, rule, plan)
    for name, expected in sums.items():
        np.testing.assert_allclose(found.tensors[name], expected, rtol=1e-2, atol=1e-7)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_noise_is_drawn_for_held_entries_only_and_nothing_else_moves(attach: Attach, rule: str, optimizer: str) -> None:
    model, source = attach(rule), CountingSource()
    found = update(model, rule, replace(PLAN, rank=RANK, local_steps=2, optimizer=optimizer), source=source)
    size = block_size(found, RANK)
    assert size < found.flatten().size
    assert source.gaussians == [size, size]
    assert np.count_nonzero(found.flatten()) == size
    assert restricted_to_block(found, RANK) == found


@pytest.mark.parametrize("rule", RULES)
def test_gradients_outside_the_block_are_not_computed(
    attach: Attach, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, shapes = attach(rule), set()
    genuine = torch.bmm

    def watched(left: torch.Tensor, right: torch.Tensor, **more: Any) -> torch.Tensor:
        shapes.add((left.shape[1], right.shape[2]))
        return genuine(left, right, **more)

    monkeypatch.setattr(record_gradients.torch, "bmm", watched)
    update(model, rule, replace(PLAN, rank=RANK))
    trained = model.set_trainable(get_rule(rule).trainable(0))
    whole = {name: tuple(parameter.shape) for name, parameter in trained.items()}
    assert shapes == {tuple(part.stop for part in rank_block(name, shape, RANK)) for name, shape in whole.items()}
    assert not shapes & set(whole.values())


@pytest.mark.parametrize("rule", RULES)
def test_the_full_rank_trains_as_without_one_to_the_bit(attach: Attach, rule: str) -> None:
    model, plan = attach(rule), replace(PLAN, local_steps=2)
    whole = update(model, rule, plan, source=SeededSource(b"a"))
    assert update(model, rule, replace(plan, rank=model.rank), source=SeededSource(b"a")) == whole
    update(model, rule, replace(plan, rank=RANK))
    assert update(model, rule, plan, source=SeededSource(b"a")) == whole  # And a narrow round leaves nothing behind.


def test_without_privacy_the_rank_holds_as_well(attach: Attach) -> None:
    model = attach("fedavg")
    plan = replace(PLAN, noise=NoNoise())
    whole, narrow = update(model, "fedavg", plan), update(model, "fedavg", replace(plan, rank=RANK))
    np.testing.assert_allclose(narrow.flatten(), restricted_to_block(whole, RANK).flatten(), rtol=1e-4, atol=1e-7)


def test_dropping_a_record_moves_a_narrow_update_by_at_most_the_clip_norm(attach: Attach) -> None:
    model, plan, everything = attach("fedavg"), replace(PLAN, rank=1), examples()
    whole = update(model, "fedavg", plan).flatten()
    moved = []
    for i in range(len(everything)):
        others = prepared(model, everything[:i] + everything[i + 1 :])
        moved.append(np.linalg.norm(whole - update(model, "fedavg", plan, records=others).flatten()))
    assert PLAN.clip_norm * 0.99 < max(moved) <= PLAN.clip_norm * (1 + 1e-4)


def test_the_noise_on_held_entries_has_the_declared_deviation(attach: Attach) -> None:
    model = attach("fedavg", rank=16, layers="all", target_modules=("q_proj", "k_proj", "v_proj", "o_proj", "up_proj"))
    plan = replace(PLAN, rank=8, clip_norm=0.5, noise=LocalNoise(3.0), divisor=10.0)
    found = update(model, "fedavg", plan, head=NoLoss(), source=SeededSource(b"narrow")).flatten().astype(float)
    noise, deviation = found[found != 0], 3.0 * 0.5 / 10.0
    assert noise.size > 7_000
    assert abs((noise**2).sum() / deviation**2 - noise.size) < 5 * np.sqrt(2 * noise.size)


def test_a_sites_rank_comes_into_its_plan(make_job: JobMaker) -> None:
    plan = training_plan(make_job(), 0, weight=1, noise=LocalNoise(1.0), physical_batch_size=8, rank=3)
    assert plan.rank == 3


def _roster(**ranks: int | None) -> Roster:
    sites = (RosterEntry(name, f"{i:064x}", 1, rank) for i, (name, rank) in enumerate(sorted(ranks.items())))
    return Roster("federation", 1, datetime(2030, 1, 1, tzinfo=UTC), tuple(sites))


@pytest.mark.parametrize(("rank", "counts_as"), [(None, None), (2, 2), (4, None), (9, None)])
def test_only_a_rank_below_the_jobs_narrows_a_site(make_job: JobMaker, rank: int | None, counts_as: int | None) -> None:
    job, roster = make_job(), _roster(a=rank, b=rank, c=None, d=None)
    assert signed_rank("a", PolicySection(), job, roster) == counts_as
    assert plain_rank("a", job, {"a": rank} if rank else {}) == counts_as


def test_a_roster_in_which_a_rank_has_too_few_sites_is_refused(make_job: JobMaker) -> None:
    roster = _roster(a=2, b=2, c=None, d=None)
    assert signed_rank("b", PolicySection(min_sites=2), make_job(), roster) == 2
    with pytest.raises(PolicyError, match=r"train rank 2; found 2; expected at least 3"):
        signed_rank("b", PolicySection(min_sites=3), make_job(), roster)
