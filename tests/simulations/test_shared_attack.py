"""The audit where the noise is shared: it attacks the opened sum, less what colluding sites know of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.simulations.audits import SETTINGS, asked
from tests.world import write_sites
from yoriai.client.session.model_session import ModelSession
from yoriai.privacy.distributed import distributed_noise
from yoriai.privacy.distributed.distributed_noise import RoundedSum
from yoriai.privacy.dp.accounting import SampledSkellam
from yoriai.privacy.dp.randomness import SeededSource
from yoriai.privacy.dp.skellam import SkellamTable
from yoriai.simulations.audit.attack import Carrier, Dirac, Noiseless, attack, for_attack
from yoriai.simulations.audit.canary_audit import audit
from yoriai.simulations.experiment.experiment import DataSource, Experiment, resolve

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook", "ignore:.is_gradient_checkpointing")


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    sites = write_sites(tmp_path_factory.mktemp("audit") / "sites", {"north": 30, "east": 24, "west": 24, "south": 20})
    return resolve(None, DataSource(path=sites), SETTINGS | {"privacy.noise": "distributed"})


@pytest.fixture(scope="module")
def honest(experiment: Experiment, session: ModelSession) -> dict[str, Any]:
    return audit(experiment, session, asked())


def test_the_bound_of_honest_sites_is_above_nothing_and_below_the_ledger(honest: dict[str, Any]) -> None:
    assert honest["settings"]["noise"] == "distributed"
    assert 0.5 < honest["epsilon_lower_white_box"] < honest["epsilon_ledger"] <= 4.0
    assert honest["epsilon_ledger"] > 3.9
    assert not honest["refuted"]


def test_the_control_without_noise_makes_the_bound_jump(honest: dict[str, Any]) -> None:
    assert honest["control"]["epsilon_lower_white_box"] > 4.0
    assert honest["control_holds"]


def test_canaries_outside_see_the_noise_that_was_charged(honest: dict[str, Any]) -> None:
    for part in ("job_rounds", "full_step"):
        found = honest["white_box"][part]
        assert found["noise_multiplier_measured"] == pytest.approx(found["noise_multiplier"], rel=0.1)


@pytest.mark.parametrize("fault", ["one share missing", "shares of half the scale"])
def test_a_broken_share_is_caught(
    experiment: Experiment, session: ModelSession, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """Three honest shares are counted on; without one of them a third of the variance is missing."""
    right, calls = RoundedSum.release, []

    def broken(self: RoundedSum, table: SkellamTable) -> np.ndarray:
        calls.append(table)
        if fault == "one share missing" and len(calls) % 3 == 0:
            monkeypatch.setattr(self, "_source", Noiseless(self._source))
        elif fault == "shares of half the scale":
            monkeypatch.setattr(self, "_source", _Halved(self._source))
        return right(self, table)

    monkeypatch.setattr(distributed_noise.RoundedSum, "release", broken)
    found = audit(experiment, session, asked())
    assert found["refuted"]
    assert found["white_box"]["job_rounds"]["noise_refuted"]


class _Halved:
    """Draws noise of half the deviation."""

    def __init__(self, source: Any) -> None:
        self._source = source

    def skellam(self, table: SkellamTable, n: int) -> np.ndarray:
        return np.asarray(self._source.skellam(table, n) // 2)


def test_canaries_that_are_in_shift_their_products_by_the_clip_norm_and_others_not_at_all(
    experiment: Experiment, session: ModelSession, tmp_path: Path
) -> None:
    rides = Carrier(for_attack(experiment.job, full_batch=True), session, experiment.sites[0].train[:2], tmp_path)
    assert isinstance(rides.round_event, SampledSkellam)
    directions = Dirac(200, rides.dimension, SeededSource(b"d"))
    included = np.arange(200) % 2 == 0
    seen = attack(rides, directions, included, Noiseless(SeededSource(b"s")))
    products = seen.products[0]
    assert products[included].mean() - products[~included].mean() == pytest.approx(1.0, abs=0.1)
    assert products[~included].std() < 0.2
