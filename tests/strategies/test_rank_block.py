"""Which part of an adapter a rank holds, and means that divide every entry by those who hold it."""

import numpy as np
import pytest

from yoriai.errors import AdapterError
from yoriai.strategies.adapter import AdapterState, weighted_mean
from yoriai.strategies.rank_block import block_mean, block_size, corrections, divisors, rank_block, restricted_to_block

SHAPES = {"m:A": (3, 5), "m:B": (4, 3), "m:R": (3, 3)}


def filled(value: float) -> AdapterState:
    return AdapterState({name: np.full(shape, value, np.float32) for name, shape in SHAPES.items()})


def drawn(seed: int) -> AdapterState:
    generator = np.random.default_rng(seed)
    return AdapterState({name: generator.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()})


@pytest.mark.parametrize(
    ("name", "block"),
    [("m:A", np.s_[0:2, 0:5]), ("m:B", np.s_[0:4, 0:2]), ("m:R", np.s_[0:2, 0:2])],
)
def test_a_rank_holds_rows_of_a_columns_of_b_and_the_leading_block_of_r(name: str, block: tuple[slice, ...]) -> None:
    assert rank_block(name, SHAPES[name], 2) == block


@pytest.mark.parametrize("rank", [None, 3, 9])
def test_a_rank_that_is_not_below_the_adapters_holds_everything(rank: int | None) -> None:
    assert restricted_to_block(drawn(0), rank) == drawn(0)
    assert block_size(drawn(0), rank) == 15 + 12 + 9


def test_a_restricted_state_is_zero_outside_what_the_rank_holds() -> None:
    narrow = restricted_to_block(filled(1.0), 1)
    assert {name: tensor.sum() for name, tensor in narrow.tensors.items()} == {"m:A": 5, "m:B": 4, "m:R": 1}
    assert narrow.tensors["m:B"][:, 0].all()
    assert block_size(filled(1.0), 1) == 10


@pytest.mark.parametrize(("name", "rank"), [("m:U", 1), ("m:W", 2), ("m:B", 0)])
def test_a_factor_without_directions_or_a_rank_below_1_is_refused(name: str, rank: int) -> None:
    with pytest.raises(AdapterError):
        rank_block(name, (3, 3), rank)


def test_divisors_are_the_weights_of_those_who_hold_the_entry() -> None:
    found = divisors(filled(0.0), {"x": (5, 1), "y": (2, 2)})
    np.testing.assert_array_equal(found["m:B"], np.tile([7.0, 2.0, 0.0], (4, 1)))
    np.testing.assert_array_equal(found["m:R"], [[7, 2, 0], [2, 2, 0], [0, 0, 0]])


def test_every_column_of_the_mean_is_divided_by_the_weight_of_its_holders() -> None:
    updates = {
        "x": (5.0, restricted_to_block(filled(1.0), 1)),
        "y": (2.0, restricted_to_block(filled(8.0), 2)),
        "z": (1.0, filled(2.0)),
    }
    mean = block_mean(updates, {"x": 1, "y": 2})
    # (5·1 + 2·8 + 1·2) / 8, then (2·8 + 1·2) / 3, then z alone.
    expected = np.array([23 / 8, 6.0, 2.0], np.float32)
    np.testing.assert_array_equal(mean.tensors["m:B"], np.tile(expected, (4, 1)))
    np.testing.assert_array_equal(mean.tensors["m:A"], np.tile(expected[:, None], (1, 5)))


def test_a_column_that_nobody_holds_stays_zero() -> None:
    updates = {"x": (1.0, restricted_to_block(filled(1.0), 2)), "y": (3.0, restricted_to_block(filled(1.0), 1))}
    mean = block_mean(updates, {"x": 2, "y": 1})
    np.testing.assert_array_equal(mean.tensors["m:B"][0], [1.0, 1.0, 0.0])


def test_without_ranks_the_mean_is_the_weighted_mean_to_the_bit() -> None:
    updates = {"x": (3.0, drawn(1)), "y": (7.0, drawn(2)), "z": (11.0, drawn(3))}
    assert block_mean(updates, {}) == weighted_mean(updates)
    assert block_mean(updates, {"x": 3, "y": 9}) == weighted_mean(updates)


def test_the_order_of_the_sites_does_not_matter() -> None:
    updates = {"x": (3.0, restricted_to_block(drawn(1), 2)), "y": (7.0, drawn(2)), "z": (11.0, drawn(3))}
    assert block_mean(dict(reversed(updates.items())), {"x": 2}) == block_mean(updates, {"x": 2})


def test_an_update_beyond_its_sites_rank_is_refused() -> None:
    with pytest.raises(AdapterError, match="goes beyond the site's rank"):
        block_mean({"x": (1.0, drawn(1)), "y": (1.0, drawn(2))}, {"x": 2})


def test_corrections_turn_a_mean_over_all_into_one_over_the_holders() -> None:
    holders = {"x": (5.0, 1), "y": (2.0, 2), "z": (1.0, None)}
    updates = {site: (weight, restricted_to_block(drawn(7), rank)) for site, (weight, rank) in holders.items()}
    flat = weighted_mean(updates).flatten() * corrections(drawn(7), holders)
    np.testing.assert_allclose(flat, block_mean(updates, {"x": 1, "y": 2}).flatten(), rtol=1e-6)


def test_corrections_are_exactly_one_where_all_hold_and_zero_where_none_does() -> None:
    full = corrections(drawn(0), {"x": (3.0, None), "y": (7.0, 3), "z": (0.1, None)})
    assert (full == 1.0).all()
    part = drawn(0).unflatten(corrections(drawn(0), {"x": (1.0, 2), "y": (3.0, 1)}))
    np.testing.assert_array_equal(part.tensors["m:B"][0], [1.0, 4.0, 0.0])
