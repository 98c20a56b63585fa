"""Under secure aggregation too: what a hostile job opens carries the noise that was charged, and not less."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tests.client.hostile import like_the_noise, numbers
from tests.simulations.secure_world import World
from yoriai.privacy.dp.accounting import SampledGaussian, SampledSkellam

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook", "ignore:.is_gradient_checkpointing")

ENDS = {number.key: number.ends() for number in numbers()}
HOSTILE: dict[str, object] = {
    "privacy.clip_norm": ENDS["privacy.clip_norm"][0],
    "training.learning_rate": ENDS["training.learning_rate"][-1],
    "training.sampling_rate": 1.0,
    "training.local_steps": 1,
    "secure_aggregation.bits": 32,
    "privacy.epsilon": 1.0,
}


def opened(secure: World, seed: bytes) -> np.ndarray:
    """The mean update that the coordinator opens where sampling, noise and keys come from this seed. (n,)."""
    secure.specs = {name: replace(spec, noise_seed=seed) for name, spec in secure.specs.items()}
    secure.sites = {name: secure.build(name) for name in secure.specs}
    return (secure.trained(secure.run()) - secure.trained_at_start()).astype(np.float64)


@pytest.mark.parametrize(
    ("noise", "alpha"), [("local", ENDS["lora.alpha"][0]), ("distributed", ENDS["lora.alpha"][-1])]
)
def test_two_masked_runs_of_a_hostile_job_on_the_same_records_differ_by_the_noise_of_their_event(
    world: Callable[..., World], noise: str, alpha: float
) -> None:
    settings = {**HOSTILE, "lora.alpha": alpha, "privacy.noise": noise}
    if noise == "distributed":
        settings |= {"federation.min_sites": 4, "training.records_per_weight": 14}
    seen = []
    for seed in (b"one", b"other"):
        secure = world(seed.decode(), **settings)
        seen.append(opened(secure, seed))
    (event,) = {charge.event for charge in secure.ledgers["north"].charges()}
    sites, weights = len(secure.sites), sum(secure.federation.roster.weights.values())
    job = secure.job
    if noise == "local":
        assert isinstance(event, SampledGaussian)
        of_the_sum = event.noise_multiplier * np.sqrt(sites)
    else:
        assert isinstance(event, SampledSkellam)
        counted = sites - job.privacy.colluding
        of_the_sum = np.sqrt(event.variance * sites / counted / event.squared_l2)
    units = job.training.records_per_weight * weights
    deviation = of_the_sum * job.privacy.clip_norm * job.training.learning_rate / units
    like_the_noise((seen[0] - seen[1]) / deviation, 1.0, more=0.1)
