"""A site's round with distributed noise: what it enters into the secure sum, and what comes out when that is opened."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.client.conftest import LABELS, Attach, JobMaker, start_for
from tests.client.rounds import (
    PLAN,
    SEED,
    SITES,
    Given,
    NoLoss,
    Quiet,
    SpoiltLoss,
    examples,
    gradients,
    label_head,
    plan_for,
    prepared,
    update,
)
from yoriai.client.model.lora import AdaptedModel
from yoriai.client.model.prepared import PreparedRecords
from yoriai.client.training.gradients import RoundGradients
from yoriai.client.training.plan import TrainingPlan
from yoriai.client.training.shared_round import SharedSum, sum_round
from yoriai.config import JobConfig
from yoriai.errors import TrainingError
from yoriai.privacy.distributed.distributed_noise import open_sum
from yoriai.privacy.distributed.rotation import Rotation
from yoriai.privacy.dp.randomness import SeededSource
from yoriai.privacy.job_terms.noise import DistributedNoise, LocalNoise
from yoriai.strategies.rule import get_rule

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook", "ignore:.is_gradient_checkpointing")


@pytest.fixture
def job(make_job: JobMaker) -> JobConfig:
    return make_job(
        privacy__noise="distributed",
        privacy__clip_norm=PLAN.clip_norm,
        secure_aggregation__enabled=True,
        federation__min_sites=SITES,
        training__sampling_rate=1.0,
    )


def summed(model: AdaptedModel, plan: TrainingPlan, rule: str = "core", **more: Any) -> SharedSum:
    arguments: dict[str, Any] = {"records": prepared(model), "head": label_head(), "source": Quiet(b"1")} | more
    records, head = arguments.pop("records"), arguments.pop("head")
    at = RoundGradients.at(model, start_for(model, rule), records, head, plan)
    return sum_round(at, rotation_seed=SEED, **arguments)


def opened(plan: TrainingPlan, *sums: SharedSum) -> np.ndarray:
    assert isinstance(plan.noise, DistributedNoise)
    total = np.sum([one.residues for one in sums], axis=0, dtype=np.uint64)
    return open_sum(total, plan.noise.shares, Rotation(SEED, plan.noise.n_params), plan.clip_norm)


@pytest.mark.parametrize("rule", ["core", "fedavg", "ffa", "fedsvd", "rolora"])
def test_the_opened_sum_is_the_clipped_gradient_sum(attach: Attach, job: JobConfig, rule: str) -> None:
    model = attach(rule)
    plan = plan_for(model, job, rule)
    assert isinstance(plan.noise, DistributedNoise)
    found = opened(plan, summed(model, plan, rule))
    clipped = -update(model, rule, replace(plan, noise=LocalNoise(1.0))) * plan.divisor
    unit = plan.clip_norm / plan.noise.shares.scale  # One integer; six records are rounded by less than one each.
    np.testing.assert_allclose(found[: clipped.size], clipped, atol=6 * 5 * unit)
    assert np.linalg.norm(found[: clipped.size] - clipped) < 0.05 * np.linalg.norm(clipped)


def test_a_shorter_round_of_a_job_is_filled_up_with_zeros(attach: Attach, job: JobConfig) -> None:
    """rolora's A and B differ in length; noise and sensitivity are those of the longer one in both."""
    model = attach("rolora")
    lengths = [start_for(model, "rolora").select(get_rule("rolora").trainable(i)).n_params for i in (0, 1)]
    assert lengths[0] != lengths[1]
    plans = [plan_for(model, job, "rolora", index) for index in (0, 1)]
    assert plans[0].noise == plans[1].noise
    shorter = int(np.argmin(lengths))
    found = opened(plans[shorter], summed(model, plans[shorter], "rolora"))
    assert found.size == max(lengths)
    assert np.abs(found[min(lengths) :]).max() < 6 * 5 * PLAN.clip_norm / plans[0].noise.shares.scale  # type: ignore[union-attr]


def test_the_sum_of_the_sites_carries_the_noise_of_the_shares(attach: Attach, job: JobConfig) -> None:
    """Without gradients the opened sum is noise: 3 sites, of which 2 count, so the deviation is sqrt(3/2) times."""
    model = attach("fedavg", rank=16)
    plan = plan_for(model, job, "fedavg")
    assert isinstance(plan.noise, DistributedNoise)
    sums = [
        summed(model, plan, "fedavg", head=NoLoss(), source=SeededSource(b"%d" % (7 * r + site)))
        for r in range(4)
        for site in range(SITES)
    ]
    values = np.concatenate([opened(plan, *sums[3 * r : 3 * r + 3]) for r in range(4)])
    noise = plan.noise.shares
    expected = SITES * noise.share_variance * (plan.clip_norm / noise.scale) ** 2
    doubt = 5 * np.sqrt(2 / values.size)
    assert values.var() == pytest.approx(expected, rel=doubt)
    assert doubt < 1 / 6, "too few values to tell 2/3 and 3/2 of the noise"
    assert (
        noise.honest * noise.share_variance == plan.event().variance == pytest.approx(4.0 * noise.squared_l2, rel=0.01)
    )


def test_one_record_more_moves_the_integers_by_no_more_than_the_event_says(attach: Attach, job: JobConfig) -> None:
    """The same draws of rounding for the common records; the new one comes last."""
    model = attach("core")
    plan = plan_for(model, job)
    assert isinstance(plan.noise, DistributedNoise)
    few, more = examples(5), examples(6)
    sums = [summed(model, plan, records=prepared(model, chosen)).residues for chosen in (few, more)]
    bits = plan.noise.shares.word_bits
    moved = (sums[1].astype(np.int64) - sums[0] + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)
    assert 0 < int((moved**2).sum()) <= plan.event().squared_l2
    assert int(np.abs(moved).sum()) <= plan.event().l1


def test_an_owners_records_are_clipped_and_rounded_as_one(attach: Attach, job: JobConfig) -> None:
    model = attach("core")
    plan = plan_for(model, job)
    assert isinstance(plan.noise, DistributedNoise)
    alone = PreparedRecords(model, examples(4), known={}, units=[(0, 1, 2, 3)])
    residues = summed(model, plan, records=alone).residues
    bits = plan.noise.shares.word_bits
    centred = (residues.astype(np.int64) + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)
    assert 0.9 * plan.noise.shares.scale**2 < int((centred**2).sum()) <= plan.event().squared_l2


def test_a_record_whose_loss_is_not_a_number_counts_as_zero(attach: Attach, job: JobConfig) -> None:
    model = attach("core")
    plan = plan_for(model, job)
    spoilt = opened(plan, summed(model, plan, head=SpoiltLoss(label_head(), 0)))
    sound = [example for example in examples() if example.label != 0]
    others = opened(plan, summed(model, plan, records=prepared(model, sound)))
    assert len(sound) == 6 - 6 // len(LABELS)
    np.testing.assert_allclose(spoilt, others, atol=40 * PLAN.clip_norm / plan.noise.shares.scale)  # type: ignore[union-attr]


def test_canaries_ride_along(attach: Attach, job: JobConfig) -> None:
    model = attach("core")
    plan = plan_for(model, job)
    rows = gradients(model, 3, 10.0)
    found = opened(plan, summed(model, plan, head=NoLoss(), canaries=Given(rows)))
    expected = PLAN.clip_norm / 10.0 * rows.sum(0)
    np.testing.assert_allclose(found, expected, atol=20 * PLAN.clip_norm / plan.noise.shares.scale)  # type: ignore[union-attr]


def test_a_plan_without_shares_is_refused(attach: Attach) -> None:
    model = attach("core")
    with pytest.raises(TrainingError, match="not distributed"):
        summed(model, PLAN)


def test_the_event_of_a_sum_is_that_of_its_own_noise_and_rate_and_not_what_the_plan_says(
    attach: Attach, job: JobConfig
) -> None:
    model = attach("core")
    plan = plan_for(model, job)
    assert isinstance(plan.noise, DistributedNoise)
    assert summed(model, plan).event == plan.event()
    less = replace(plan.noise.shares, share_variance=plan.noise.shares.share_variance * 2 // 3)
    for other in (replace(plan, sampling_rate=0.5), replace(plan, noise=replace(plan.noise, shares=less))):
        assert summed(model, other).event != plan.event()
