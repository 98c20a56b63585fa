"""A federation in which two of four sites train two of four directions, under the secure sum and in the clear."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.simulations.miniature import Miniature
from yoriai.errors import RoundError
from yoriai.privacy.job_terms.round_terms import first_range
from yoriai.server.round.registry import Checkpoint
from yoriai.simulations.experiment.experiment import noise_multiplier
from yoriai.simulations.run.simulated_federation import Federation

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook", "ignore:.is_gradient_checkpointing")

# One round, its mean update added as it is, so that the adapter after it is the mean. B starts at zero.
SETTINGS = {
    "federation__rounds": 1,
    "federation__server_optimizer": "none",
    "federation__server_learning_rate": 1.0,
    "federation__schedule": "constant",
    "federation__rule": "ffa",
}
RANKS = {"east": 2, "west": 2}
SITES = ("east", "north", "south", "west")


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Miniature:
    return Miniature.make(tmp_path_factory.mktemp("mini"))


def federation(mini: Miniature, folder: Path, sites: tuple[str, ...] = SITES, **settings: object) -> Federation:
    """These sites of the miniature, of ranks 2, 4, 4 and 2."""
    whole = mini.federation(folder, **{**SETTINGS, **settings})
    weights = {site: whole.roster.weights[site] for site in sites}
    ranks = {site: rank for site, rank in RANKS.items() if site in sites}
    roster = whole.roster.model_copy(update={"weights": weights, "ranks": ranks})
    return replace(whole, sites=tuple(s for s in whole.sites if s.name in sites), roster=roster)


def trained(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    return {name: t.astype(float) for name, t in checkpoint.adapter.tensors.items() if name.endswith(":B")}


def test_columns_beyond_a_sites_rank_move_by_the_others_updates_alone(mini: Miniature, tmp_path: Path) -> None:
    """Beside a run of the others alone: the same noise, so the same updates, up to the grid."""
    every = federation(mini, tmp_path / "every")
    found = trained(mini.run(every).checkpoint)
    others = trained(mini.run(federation(mini, tmp_path / "others", ("north", "south"))).checkpoint)
    step = 2 * first_range(every.job, noise_multiplier(every.job), min(every.roster.weights.values())) / (2**16 - 1)
    for name, expected in others.items():
        # A zero lies between two levels of the grid, so each narrow site adds a rounding of its own to each entry.
        assert np.abs(found[name][:, 2:] - expected[:, 2:]).max() <= 4.01 * step
        assert np.abs(found[name][:, :2] - expected[:, :2]).max() > 100 * step
        assert np.abs(expected[:, 2:]).max() > 100 * step


def test_the_opened_mean_is_the_mean_in_the_clear_up_to_the_grid(mini: Miniature, tmp_path: Path) -> None:
    secure = federation(mini, tmp_path / "secure")
    opened = trained(mini.run(secure).checkpoint)
    plain = trained(mini.run(federation(mini, tmp_path / "plain", secure_aggregation__enabled=False)).checkpoint)
    step = 2 * first_range(secure.job, noise_multiplier(secure.job), min(secure.roster.weights.values())) / (2**16 - 1)
    assert max(np.abs(opened[name] - plain[name]).max() for name in plain) <= 4.01 * step


def test_a_roster_with_one_site_of_a_rank_trains_nothing(mini: Miniature, tmp_path: Path) -> None:
    with pytest.raises(RoundError, match=r"too few sites of the roster train rank 2"):
        mini.run(federation(mini, tmp_path / "thin", ("east", "north", "south")))
