"""Rounds of several sites in one pass: each site's update is the one that it makes alone, bit for bit."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.client.conftest import Attach, JobMaker, start_for
from tests.client.rounds import PLAN, SEED, SpoiltLoss, examples, label_head, plan_for, prepared
from yoriai.client.model.lora import AdaptedModel
from yoriai.client.model.prepared import PreparedRecords
from yoriai.client.training.gradients import RoundGradients
from yoriai.client.training.one_pass import Part, train_together
from yoriai.client.training.plan import TrainingPlan
from yoriai.client.training.shared_round import sum_round
from yoriai.client.training.train import train_round
from yoriai.config import JobConfig
from yoriai.errors import TrainingError
from yoriai.privacy.dp.randomness import SeededSource
from yoriai.privacy.job_terms.noise import DistributedNoise, LocalNoise, NoNoise

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook", "ignore:.is_gradient_checkpointing")

# A site without records is one whose records do not fit the job.
SITES = ((0, 6), (2, 3), (0, 0), (1, 6))


def together(model: AdaptedModel, plans: list[TrainingPlan], head: Any = None) -> list[np.ndarray]:
    parts = [Part(records, plan, source(i)) for i, (records, plan) in enumerate(zip(own(model), plans, strict=True))]
    start = start_for(model, "core")
    return [done.values for done in train_together(model, start, head or label_head(), parts, lambda: SEED)]


def alone(model: AdaptedModel, plans: list[TrainingPlan]) -> list[np.ndarray]:
    start, found = start_for(model, "core"), []
    for i, (records, plan) in enumerate(zip(own(model), plans, strict=True)):
        if isinstance(plan.noise, DistributedNoise):
            at = RoundGradients.at(model, start, records, label_head(), plan)
            found.append(sum_round(at, rotation_seed=SEED, source=source(i)).values)
        else:
            found.append(train_round(model, start, records, label_head(), plan, source=source(i)).values)
    return found


def own(model: AdaptedModel) -> list[PreparedRecords]:
    """Each site's records; the first site protects owners, who have two each."""
    sites = [prepared(model, examples()[first:last]) for first, last in SITES]
    return [PreparedRecords(model, examples(), known={}, units=[[0, 3], [1, 4], [2, 5]]), *sites[1:]]


def source(site: int) -> SeededSource:
    return SeededSource(b"site %d" % site)


@pytest.fixture
def job(make_job: JobMaker) -> JobConfig:
    return make_job(
        privacy__noise="distributed",
        privacy__clip_norm=PLAN.clip_norm,
        secure_aggregation__enabled=True,
        federation__min_sites=3,
    )


@pytest.mark.parametrize(
    "plan",
    [
        lambda model, job: replace(PLAN, sampling_rate=0.6),
        lambda model, job: replace(PLAN, sampling_rate=0.6, optimizer="adam", proximal_mu=0.5, update_norm_bound=0.1),
        lambda model, job: replace(PLAN, noise=NoNoise(), sampling_rate=0.6),
        lambda model, job: replace(PLAN, rank=2),
        lambda model, job: plan_for(model, job, sampling_rate=0.6),
    ],
    ids=["local noise", "adam", "no noise", "lower rank", "distributed noise"],
)
def test_a_site_makes_in_company_what_it_makes_alone(
    attach: Attach, job: JobConfig, plan: Callable[[AdaptedModel, JobConfig], TrainingPlan]
) -> None:
    model = attach("core")
    plans = [replace(plan(model, job), divisor=1.0 + site) for site in range(len(SITES))]
    found, expected = together(model, plans), alone(model, plans)
    assert all(map(np.array_equal, found, expected))
    assert found[0].any()
    assert not np.array_equal(found[0], found[3])


def test_few_sums_at_a_time_give_the_same(attach: Attach, monkeypatch: pytest.MonkeyPatch) -> None:
    model, plans = attach("core"), [PLAN] * len(SITES)
    whole = together(model, plans)
    monkeypatch.setattr("yoriai.client.training.one_pass._ENTRIES_AT_ONCE", 2 * len(whole[0]))
    assert all(map(np.array_equal, together(model, plans), whole))


def test_further_steps_are_refused(attach: Attach) -> None:
    with pytest.raises(TrainingError, match="share one local step"):
        together(attach("core"), [replace(PLAN, local_steps=2)] * len(SITES))


def test_a_unit_that_is_not_finite_counts_as_zero_at_its_site_and_no_other(attach: Attach) -> None:
    model, plans = attach("core"), [replace(PLAN, noise=LocalNoise(1e-6))] * len(SITES)
    spoilt, whole = together(model, plans, SpoiltLoss(label_head(), 2)), together(model, plans)
    assert np.isfinite(np.concatenate(spoilt)).all()
    assert not np.array_equal(spoilt[1], whole[1])  # It holds a record of that label.


def test_without_privacy_a_loss_that_is_no_number_stops_the_pass(attach: Attach) -> None:
    with pytest.raises(TrainingError, match="not a number"):
        together(attach("core"), [replace(PLAN, noise=NoNoise())] * len(SITES), SpoiltLoss(label_head(), 2))
