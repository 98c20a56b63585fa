"""The benchmark of a private step: every way computes the same clipped sum, and is measured whole."""

import pytest
import torch

from tests.commands import yoriai
from yoriai.client.base.base_model import choose_device
from yoriai.errors import EXIT_BAD_INPUT
from yoriai.privacy.dp.randomness import SystemSource
from yoriai.simulations.bench.dpsgd import DpsgdPlan, _base, measure
from yoriai.simulations.bench.dpsgd_steps import STEPS, made

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook", "ignore:.is_gradient_checkpointing")

PLAN = DpsgdPlan("random-llama-tiny", "lora", 4, ("q_proj", "v_proj", "up_proj"), "last:1", 4, 16, threads=1, repeats=1)


@pytest.mark.parametrize("way", ["opacus", "opacus_ghost"])
def test_opacus_and_yoriai_sum_the_same_clipped_gradients(way: str) -> None:
    """So what they take for it may be compared."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        bench = made(PLAN, _base(PLAN.base, choose_device("cpu")))
    expected = torch.from_numpy(bench.gradients.batch(SystemSource()).flat())
    assert float(expected.norm()) > 0.1
    STEPS[way](bench)()
    found = torch.cat([parameter.grad.flatten() for parameter in bench.trained.values()])  # type: ignore[union-attr]
    assert float((found - expected).norm()) <= 1e-4 * float(expected.norm())


def test_a_way_is_measured_whole() -> None:
    cost = measure("yoriai", PLAN)
    assert cost.trained == 4 * (64 + 64 + 64 + 32 + 64 + 128)
    assert cost.median_s >= cost.step_s > 0
    assert cost.noise_s > 0
    assert cost.peak_memory_mb > 50


def test_a_way_that_there_is_not_is_refused() -> None:
    assert yoriai("bench", "dpsgd", "--base", PLAN.base, "--way", "half").code == EXIT_BAD_INPUT
    assert yoriai("bench", "dpsgd", "--base", PLAN.base, "--adapter", "half").code == EXIT_BAD_INPUT
