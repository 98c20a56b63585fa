"""The mean of a round in the clear: whose update counts, for which entries, and for how much."""

from collections.abc import Mapping

import numpy as np
import pytest

from yoriai import wire
from yoriai.errors import ConfigError, RoundError
from yoriai.server.round.round_aggregate import RoundAggregate, plain_mean
from yoriai.strategies.adapter import AdapterState, scaled, weighted_mean
from yoriai.strategies.rank_block import restricted_to_block

WEIGHTS = {"x": 5, "y": 2, "z": 1}


def state(seed: int) -> AdapterState:
    return AdapterState({"m:B": np.random.default_rng(seed).normal(size=(4, 3)).astype(np.float32)})


def mean(updates: Mapping[str, AdapterState], **more: object) -> RoundAggregate:
    replies = {
        site: wire.PlainUpdate(run_id="r", round_index=1, site=site, payload=update.to_bytes())
        for site, update in updates.items()
    }
    return plain_mean(replies, expected=state(0), round_index=1, weights=WEIGHTS, least=2, **more)  # type: ignore[arg-type]


@pytest.fixture
def updates() -> dict[str, AdapterState]:
    return {"x": restricted_to_block(state(1), 1), "y": restricted_to_block(state(2), 2), "z": state(3)}


def test_each_column_is_divided_by_the_weight_of_its_holders(updates: dict[str, AdapterState]) -> None:
    found = mean(updates, ranks={"x": 1, "y": 2}).mean_update.tensors["m:B"]
    x, y, z = (updates[site].tensors["m:B"].astype(float) for site in "xyz")
    np.testing.assert_allclose(found[:, 0], (5 * x + 2 * y + z)[:, 0] / 8, rtol=1e-6)
    np.testing.assert_allclose(found[:, 1], (2 * y + z)[:, 1] / 3, rtol=1e-6)
    np.testing.assert_array_equal(found[:, 2], z[:, 2])


def test_without_ranks_the_mean_is_the_weighted_one_to_the_bit(updates: dict[str, AdapterState]) -> None:
    expected = weighted_mean({site: (WEIGHTS[site], update) for site, update in updates.items()})
    assert mean(updates).mean_update == expected


def test_an_update_beyond_its_sites_rank_is_left_out_and_named(updates: dict[str, AdapterState]) -> None:
    found = mean({**updates, "y": state(4)}, ranks={"x": 1, "y": 2})
    assert found.answered == ("x", "z")
    assert "goes beyond the site's rank" in found.missing["y"]


def test_the_updates_themselves_are_handed_on_with_their_weights(updates: dict[str, AdapterState]) -> None:
    assert mean(updates).updates == {site: (WEIGHTS[site], update) for site, update in updates.items()}


def test_a_longer_update_is_scaled_down_whatever_its_site_sent(updates: dict[str, AdapterState]) -> None:
    huge = {**updates, "z": scaled(updates["z"], 1e6)}
    found = mean(huge, update_norm_bound=1e-3).updates
    assert found is not None
    norms = {site: float(np.linalg.norm(update.flatten().astype(float))) for site, (_, update) in found.items()}
    assert max(norms.values()) <= 1e-3
    assert norms["z"] == pytest.approx(1e-3)


def test_another_aggregate_takes_the_place_of_the_mean(updates: dict[str, AdapterState]) -> None:
    found = mean(updates, aggregate=lambda given: given["z"][1])
    assert found.mean_update == updates["z"]
    assert found.answered == ("x", "y", "z")


def test_ranks_do_not_go_with_another_aggregate(updates: dict[str, AdapterState]) -> None:
    with pytest.raises(ConfigError, match="weighted mean only"):
        mean(updates, ranks={"x": 1}, aggregate=lambda given: given["z"][1])


def test_too_few_updates_within_their_ranks_end_the_round(updates: dict[str, AdapterState]) -> None:
    with pytest.raises(RoundError, match="1 updates"):
        mean({"x": state(1), "y": state(2), "z": state(3)}, ranks={"x": 1, "y": 1})
