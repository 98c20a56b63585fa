"""Canaries by name: what rides through a round, and what an attack finds, are exactly those that were drawn or in.

And candidates by name: each loss is that of its own record.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.world import write_sites
from yoriai.client.session.model_session import ModelSession
from yoriai.client.training.train import train_round
from yoriai.privacy.dp.randomness import SeededSource
from yoriai.simulations.audit.attack import Carrier, Dirac, GradientCanaries, Noiseless, attack, for_attack
from yoriai.simulations.audit.canary_audit import TINY_SETTINGS, attack_records
from yoriai.simulations.experiment.experiment import DataSource, Experiment, resolve

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook", "ignore:.is_gradient_checkpointing")

RECORDS, CANARIES = 3, 9
SETTINGS = TINY_SETTINGS | {
    "privacy.epsilon": 4.0,
    "training.sampling_rate": 0.5,
    "training.local_steps": 1,
    "federation.rounds": 2,
    "evaluation.every": 0,
    "speed.threads": 1,
    "speed.physical_batch_size": 2,
}


HEAD = {key: value for key, value in SETTINGS.items() if key != "federation.rule"} | {
    "task.head": "trained",
    "head.directions": 8,
    "head.words": 32,
}


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sites(tmp_path_factory.mktemp("canaries") / "sites", {"north": 12, "east": 12})


@pytest.fixture(scope="module")
def experiment(sites: Path) -> Experiment:
    return resolve(None, DataSource(path=sites), SETTINGS)


def carrier(experiment: Experiment, session: ModelSession, folder: Path, *, full_batch: bool) -> Carrier:
    job = for_attack(experiment.job, full_batch=full_batch)
    return Carrier(job, session, experiment.sites[0].train[:RECORDS], folder)


class Drawing:
    """A source that draws the units it is told to, and makes no noise."""

    def __init__(self, units: set[int]) -> None:
        self._units = units

    def uniform(self, n: int) -> np.ndarray:
        assert n == RECORDS + CANARIES
        return np.where([unit in self._units for unit in range(n)], 0.0, 0.999)

    def gaussian(self, n: int) -> np.ndarray:
        return np.zeros(n)


def seen_of(rides: Carrier, directions: Dirac, included: np.ndarray, units: set[int]) -> np.ndarray:
    """What one round that draws these units shows of every direction, in clip norms."""
    job, plan, bench = rides.job, rides.plan(), rides.session
    canaries = GradientCanaries(directions, included, 4.0 * plan.clip_norm)
    records = bench.prepare(rides.records, job)
    done = train_round(
        bench.model(job),
        bench.initial_adapter(job),
        records,
        bench.head(job),
        plan,
        source=Drawing(units),
        canaries=canaries,
    )
    return directions.products(done.update.flatten() * (-plan.divisor / plan.learning_rate / plan.clip_norm))


def named(rides: Carrier) -> tuple[Dirac, np.ndarray]:
    """Directions, and the canaries among them: each has its own name, which is not its place."""
    return Dirac(40, rides.dimension, SeededSource(b"named")), np.arange(40)[3::4][:CANARIES]


@pytest.mark.parametrize("drawn", [{0}, {CANARIES - 1}, {4}, {0, 3, 8}, {1, 2, 5, 6, 7}, set()])
def test_the_canaries_that_ride_through_a_round_are_exactly_those_that_were_drawn(
    experiment: Experiment, session: ModelSession, tmp_path: Path, drawn: set[int]
) -> None:
    rides = carrier(experiment, session, tmp_path, full_batch=False)
    directions, included = named(rides)
    units = {RECORDS - 1} | {RECORDS + place for place in drawn}
    without = seen_of(rides, directions, included, {RECORDS - 1})
    shift = seen_of(rides, directions, included, units) - without
    expected = np.zeros(40)
    expected[included[sorted(drawn)]] = 1.0
    np.testing.assert_allclose(shift, expected, atol=1e-3)


def test_canaries_ride_through_a_heads_round_as_through_an_adapters(
    sites: Path, session: ModelSession, tmp_path: Path
) -> None:
    rides = carrier(resolve(None, DataSource(path=sites), HEAD), session, tmp_path, full_batch=False)
    assert rides.job.trains_head
    directions, included = named(rides)
    drawn = {RECORDS + 2, RECORDS + 5}
    shift = seen_of(rides, directions, included, drawn) - seen_of(rides, directions, included, set())
    np.testing.assert_array_equal(np.flatnonzero(shift.round(3)), included[[2, 5]])


@pytest.mark.parametrize("seed", [b"one", b"two"])
def test_a_release_without_noise_shows_exactly_the_canaries_that_are_in(
    experiment: Experiment, session: ModelSession, tmp_path: Path, seed: bytes
) -> None:
    rides = carrier(experiment, session, tmp_path, full_batch=True)
    source = SeededSource(seed)
    directions = Dirac(60, rides.dimension, source)
    included = source.uniform(60) < 0.4
    quiet = Noiseless(source)
    nobody = attack(rides, directions, np.zeros(60, np.bool_), quiet).products[0]
    shift = attack(rides, directions, included, quiet).products[0] - nobody
    np.testing.assert_allclose(shift, included.astype(float), atol=1e-3)


def test_each_candidates_loss_is_its_own_however_they_are_batched(
    experiment: Experiment, session: ModelSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = experiment.job
    found = attack_records.candidates(job, experiment.sites, 24, SeededSource(b"losses"))
    monkeypatch.setattr(attack_records, "_BATCH", 5)
    together = attack_records.losses_before(job, session, found)
    monkeypatch.setattr(attack_records, "_BATCH", 1)
    alone = [
        attack_records.losses_before(job, session, replace(found, records=(record,)))[0] for record in found.records
    ]
    assert len({len(record.prompt or "") for record in found.records}) > 1
    assert len(set(np.round(alone, 6))) > 3
    np.testing.assert_allclose(together, alone, rtol=1e-4)
