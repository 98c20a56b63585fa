"""Quantisation, widths and packing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.privacy.secagg.cohort import seeded
from yoriai.errors import ProtocolError
from yoriai.privacy.secagg.fixedpoint import (
    FixedPoint,
    add_packed_block,
    mean_of_sum,
    next_range,
    pack_block,
    packed_bytes,
    packed_span,
    padded,
    quantise,
    word_dtype,
)
from yoriai.privacy.secagg.masks import BLOCK


def test_levels_cover_the_range_and_its_ends() -> None:
    grid = FixedPoint(8, 1.0)
    levels = quantise(np.array([-1.0, 1.0]), grid, seeded("a")).levels
    assert levels.tolist() == [0, 255]


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 32), st.floats(1e-6, 1e6), st.integers(0, 10**6))
def test_a_value_lands_on_one_of_the_two_levels_around_it(bits: int, value_range: float, seed: int) -> None:
    grid = FixedPoint(bits, value_range)
    values = np.random.default_rng(seed).uniform(-value_range, value_range, 64)
    exact = (values + value_range) / grid.step
    levels = quantise(values, grid, seeded(str(seed))).levels.astype(np.float64)
    assert np.all(np.abs(levels - exact) < 1 + 1e-6)


def test_rounding_is_unbiased() -> None:
    # 4 levels, so that each rounding moves by up to a third of the range: the mean must still be the value.
    grid, value, n = FixedPoint(2, 1.0), 0.23, 400_000
    quantised = quantise(np.full(n, value, dtype=np.float32), grid, seeded("bias"))
    back = quantised.levels * grid.step - grid.value_range
    assert abs(float(back.mean()) - value) < 5 * grid.step / 2 / np.sqrt(n)


def test_two_roundings_of_one_update_differ() -> None:
    values, grid = np.full(1000, 0.1), FixedPoint(3, 1.0)
    entropy = seeded("fresh")
    assert not np.array_equal(quantise(values, grid, entropy).levels, quantise(values, grid, entropy).levels)


def test_values_beyond_the_range_move_to_its_edge_and_are_counted() -> None:
    grid = FixedPoint(16, 1.0)
    quantised = quantise(np.array([1.5, -7.0, 0.5, 1.0, -1.0]), grid, seeded("a"))
    assert quantised.clipped == 2
    assert quantised.levels[:2].tolist() == [grid.top, 0]


def test_clipped_coordinates_are_counted_over_all_blocks() -> None:
    values = np.zeros(3 * BLOCK + 5, dtype=np.float32)
    values[[0, BLOCK, 3 * BLOCK + 4]] = 2.0
    assert quantise(values, FixedPoint(16, 1.0), seeded("a"), threads=2).clipped == 3


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ProtocolError, match="not finite"):
        quantise(np.array([0.0, bad], dtype=np.float32), FixedPoint(16, 1.0), seeded("a"))


@pytest.mark.parametrize("bits", [16, 24, 32])
def test_the_top_level_is_never_exceeded_even_with_the_highest_rounding(bits: int) -> None:
    for value_range in (1.0, 0.1, 1 / 3, 7e-5, 1e9):
        values = np.array([value_range, np.nextafter(value_range, 0)] * 8)
        levels = quantise(values, FixedPoint(bits, value_range), lambda n: b"\xff" * n).levels
        assert int(levels.max()) <= FixedPoint(bits, value_range).top


@pytest.mark.parametrize(
    ("bits", "total", "width"),
    [(16, 1, 16), (16, 2, 17), (16, 100, 23), (16, 1024, 26), (16, 1025, 27), (32, 2**32, 64)],
)
def test_width_is_bits_plus_the_rounded_up_logarithm_of_the_weights(bits: int, total: int, width: int) -> None:
    grid = FixedPoint(bits, 1.0)
    assert grid.word_bits(total) == width
    assert total * grid.top < 2**width


def test_words_of_more_than_64_bits_are_refused() -> None:
    with pytest.raises(ProtocolError):
        FixedPoint(32, 1.0).word_bits(2**32 + 1)


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 64), st.integers(1, 300), st.integers(0, 10**6))
def test_packing_keeps_exactly_the_low_bits(width: int, count: int, seed: int) -> None:
    dtype = word_dtype(width)
    words = np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, count, dtype=dtype, endpoint=True)
    packed = np.zeros(packed_bytes(count, width), dtype=np.uint8)
    pack_block(words, width, packed)
    total = np.zeros(count, dtype=dtype)
    add_packed_block(total, width, packed)
    assert np.array_equal(total, words & dtype.type((1 << width) - 1))


def test_the_wire_layout_is_the_documented_one() -> None:
    # w = 18 = 16 + 2: eight low words, then two bytes that fold values i, i + 2, i + 4, i + 6.
    words = np.array([0x1_0203, 0x2_0405, 3 << 16, 0, 1 << 16, 2 << 16, 0, 0x3_FFFF], dtype=np.uint32)
    packed = np.zeros(packed_bytes(8, 18), dtype=np.uint8)
    pack_block(words, 18, packed)
    low = bytes.fromhex("0302 0504 0000 0000 0000 0000 0000 ffff")
    assert packed.tobytes() == low + bytes([1 | 3 << 2 | 1 << 4 | 0 << 6, 2 | 0 << 2 | 2 << 4 | 3 << 6])


def test_a_block_can_be_reached_on_its_own() -> None:
    width, count = 23, 2 * BLOCK + 3
    words = np.arange(count, dtype=np.uint32) * np.uint32(2654435761)
    packed = np.zeros(packed_bytes(count, width), dtype=np.uint8)
    for first in range(0, count, BLOCK):
        last = min(first + BLOCK, count)
        pack_block(words[first:last], width, packed[packed_span(first, last, width)])
    total = np.zeros(3, dtype=np.uint32)
    add_packed_block(total, width, packed[packed_span(2 * BLOCK, count, width)])
    assert np.array_equal(total, words[2 * BLOCK :] & np.uint32(2**width - 1))


def test_upload_is_at_most_3_and_a_quarter_bytes_for_1024_sites_of_weight_1() -> None:
    n = 10_000_000
    assert padded(n) == n
    assert packed_bytes(n, FixedPoint(16, 1.0).word_bits(1024)) / n <= 3.25


def test_the_mean_is_within_half_a_step_of_the_weighted_mean() -> None:
    grid, rng = FixedPoint(16, 1.0), np.random.default_rng(0)
    values, weights = rng.uniform(-1, 1, (5, 2000)), np.array([1, 2, 3, 250, 255])
    entropy = seeded("mean")
    total = sum(
        np.uint64(w) * quantise(v, grid, entropy).levels.astype(np.uint64) for v, w in zip(values, weights, strict=True)
    )
    mean = mean_of_sum(total, int(weights.sum()), grid)
    assert np.abs(mean - weights @ values / weights.sum()).max() < grid.step


@pytest.mark.parametrize(("clipped", "factor"), [(0, 0.9), (9, 0.9), (10, 1.0), (1000, 1.0), (1001, 2.0), (10**6, 2.0)])
def test_the_range_follows_the_clipped_share(clipped: int, factor: float) -> None:
    assert next_range(0.5, clipped, 10**6) == pytest.approx(0.5 * factor)


@pytest.mark.parametrize(("clipped", "coordinates"), [(0, 0), (-1, 10), (11, 10), (2, 1)])
def test_a_share_that_cannot_be_moves_no_range(clipped: int, coordinates: int) -> None:
    with pytest.raises(ProtocolError, match="count of clipped coordinates"):
        next_range(0.5, clipped, coordinates)


@pytest.mark.parametrize(("clipped", "following"), [(0, 0.45), (1, 1.0)])
def test_the_range_of_a_single_coordinate_follows_it_too(clipped: int, following: float) -> None:
    assert next_range(0.5, clipped, 1) == following


@pytest.mark.parametrize(
    ("bits", "value_range"), [(1, 1.0), (33, 1.0), (16, 0.0), (16, float("inf")), (16, float("nan"))]
)
def test_impossible_grids_are_refused(bits: int, value_range: float) -> None:
    with pytest.raises(ProtocolError):
        FixedPoint(bits, value_range)
