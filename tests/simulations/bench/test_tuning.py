"""A step of full fine-tuning beside one of an adapter, a core and a head: each is measured whole."""

import re
from pathlib import Path

import pytest

from tests.commands import yoriai
from tests.world import save_tiny_base
from yoriai.client.base.base_model import choose_device, load_base
from yoriai.errors import EXIT_BAD_INPUT
from yoriai.simulations.bench.tuning import METHODS, measure

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook", "ignore:.is_gradient_checkpointing")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_base(tmp_path_factory.mktemp("base") / "base", hidden=128)


def test_full_fine_tuning_trains_every_weight_and_the_others_fewer(base: Path) -> None:
    model = load_base(str(base), device=choose_device("cpu")).model
    every = sum(parameter.numel() for parameter in model.parameters())
    trained = {method: measure(method, str(base), records=2, repeats=1, threads=1).trained for method in METHODS}
    assert trained["full"] == trained["full_clipped"] == every
    assert all(0 < trained[method] < every for method in ("lora", "core", "head"))


def test_the_command_measures_a_method_in_a_process_of_its_own(base: Path) -> None:
    small = ("--base", base, "--records", 2, "--repeats", 1, "--threads", 1)
    done = yoriai("bench", "tuning", *small, "--method", "full")
    assert done.code == 0, done.screen
    assert re.search(r"^full +[\d,]+ +[\d.]+ s +[\d.]+ s +[\d.]+ s +[\d,]+ MB$", done.screen, re.M)
    assert yoriai("bench", "tuning", *small, "--method", "half").code == EXIT_BAD_INPUT
