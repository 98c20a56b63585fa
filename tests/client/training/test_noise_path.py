"""The noise that leaves, by the whole path and from the system's own randomness: what its event says, and no other.

Two runs with zero gradients differ by their noise alone, so the difference of their updates has twice the variance
that the event declares. Over 300,000 entries a correct variance is estimated to 0.26 %, so 2 % is eight deviations.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.client.conftest import Attach, JobMaker
from tests.client.offices import Office, accepted, updated
from tests.client.rounds import PLAN, NoLoss, prepared
from yoriai import wire
from yoriai.client.records.records import Record, SiteRecords
from yoriai.client.session.model_session import ModelSession
from yoriai.client.site.round_trainer import SiteHooks
from yoriai.client.training.train import train_round
from yoriai.config import PolicySection, override
from yoriai.privacy.dp.randomness import SystemSource
from yoriai.privacy.job_terms.noise import LocalNoise
from yoriai.privacy.ledger.ledger import Ledger
from yoriai.strategies.rule import get_rule

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook", "ignore:.is_gradient_checkpointing")

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ENTRIES = 300_000


def fits(differences: np.ndarray, deviation: float) -> bool:
    """Whether differences of two updates have the variance of two noises of this deviation."""
    return abs(float(np.mean(differences**2)) / (2 * deviation**2) - 1) < 0.02


def judge(differences: np.ndarray, deviation: float) -> None:
    """The right noise is accepted; two thirds, half as much again, and the same noise twice are not."""
    assert len(differences) >= ENTRIES
    assert abs(float(differences.mean())) < 6 * deviation * np.sqrt(2 / len(differences))
    assert fits(differences, deviation)
    assert not fits(differences, deviation * 2 / 3)
    assert not fits(differences, deviation * 3 / 2)
    assert not fits(np.zeros(1), deviation)


@pytest.mark.parametrize("local_steps", [1, 3])
def test_two_trainings_without_gradients_differ_by_the_noise_of_their_event(attach: Attach, local_steps: int) -> None:
    model = attach("fedavg", rank=16, layers="all", target_modules=TARGETS)
    start = get_rule("fedavg").initial(model.maps, model.rank, 0)
    plan = replace(
        PLAN, factors=("A", "B"), local_steps=local_steps, sampling_rate=0.3, divisor=10.0, learning_rate=2.0,
        clip_norm=0.5, noise=LocalNoise(3.0),
    )  # fmt: skip
    records, differences = prepared(model), []
    while sum(map(len, differences)) < ENTRIES:
        pair = [train_round(model, start, records, NoLoss(), plan, source=SystemSource()) for _ in range(2)]
        first, second = (done.update.flatten().astype(float) for done in pair)
        differences.append(first - second)
        assert pair[0].event == pair[1].event == plan.event()
    event = plan.event()
    assert event is not None
    deviation = event.noise_multiplier * np.sqrt(event.steps) * plan.clip_norm * plan.learning_rate / plan.divisor
    judge(np.concatenate(differences), deviation)


def owned(count: int) -> SiteRecords:
    train = tuple(Record(prompt=f"p {n}", response="pump", owner="abcde"[n % 5]) for n in range(count))
    return SiteRecords("north", train, ())


@pytest.fixture
def office(session: ModelSession, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Office]:
    """A site whose policy protects the unit that the test asks for."""
    policy = PolicySection(epsilon_budget=1000.0, allow_plain_updates=True, unit=request.param)
    path, limits = tmp_path / "ledger.sqlite", {"epsilon_budget": 1000.0, "delta": 1e-5}
    with Ledger.open(path, dataset="north", **limits, unit=request.param) as ledger:
        yield Office(session, ledger, policy, owned(12))


@pytest.mark.parametrize("office", ["record", "owner"], indirect=True)
def test_two_runs_of_a_site_without_gradients_differ_by_the_noise_of_the_charged_event(
    office: Office, make_job: JobMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Job, ledger, training and the message that leaves, in the clear, with the site's own randomness."""
    job = make_job(
        federation__rule="fedavg", federation__server_optimizer="adam",
        lora__rank=16, lora__layers="all", lora__target_modules=TARGETS, lora__alpha=16.0,
        training__learning_rate=2.0, training__records_per_weight=3, privacy__clip_norm=0.5,
        privacy__unit=office.policy.unit,
    )  # fmt: skip
    office.site._trainer._hooks = SiteHooks()
    monkeypatch.setattr(office.bench, "head", lambda _job: NoLoss())
    start = office.bench.initial_adapter(job)
    job = override(job, {"federation.rounds": -(-ENTRIES // start.flatten().size)})
    runs: dict[str, list[np.ndarray]] = {"run-1": [], "run-2": []}
    for run, updates in runs.items():
        office.run = run
        accepted(office.offer(job, noise_multiplier=3.0))
        for index in range(job.federation.rounds):
            request = wire.TrainRequest(
                run_id=run, round_index=index, adapter_digest=start.digest(), payload=start.to_bytes()
            )
            updates.append(updated(office.send(request)).flatten().astype(float))
    differences = np.concatenate(runs["run-1"]) - np.concatenate(runs["run-2"])
    (event,) = {charge.event for charge in office.ledger.charges()}
    assert event.noise_multiplier == 3.0
    divisor = 0.5 * 2 * 3  # Sampling rate, weight in the roster, records or owners a weight stands for.
    judge(differences, event.noise_multiplier * 0.5 * 2.0 / divisor)
