"""Conditional rounding: a bound on the norm that nothing breaks, the right expectation, no exception ever."""

import math
from decimal import ROUND_FLOOR, Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yoriai.privacy.distributed.rounding import REDRAWS, l1_bound, round_vector, squared_l2
from yoriai.privacy.dp.randomness import SeededSource


class Scripted:
    """Every coordinate with a fraction goes up for the first `ups` draws, and none after."""

    def __init__(self, ups: int) -> None:
        self.left, self.draws = ups, 0

    def words(self, n: int) -> np.ndarray:
        self.draws += 1
        self.left -= 1
        return np.full(n, 0 if self.left >= 0 else 2**64 - 1, dtype=np.uint64)


def _of_length(shape: str, size: int, seed: int) -> np.ndarray:
    """A direction of the named shape, of length 1."""
    vector = np.random.default_rng(seed).standard_normal(size)
    if shape == "spike":
        vector[1:] = 0.0
    if shape == "even":
        vector = np.sign(vector)
    return np.asarray(vector / np.linalg.norm(vector))


def _is_within_bounds(rounded: np.ndarray, scale: int) -> bool:
    exact = [int(value) for value in rounded]
    squares, absolutes = sum(value * value for value in exact), sum(map(abs, exact))
    return squares <= squared_l2(scale, len(exact)) and absolutes <= l1_bound(scale, len(exact))


@settings(deadline=None, max_examples=200)
@given(
    shape=st.sampled_from(["random", "spike", "even"]),
    size=st.sampled_from([1, 2, 3, 64, 1024]),
    scale=st.sampled_from([1, 2, 16, 500]),
    length=st.sampled_from([0.0, 1e-9, 0.7, 1.0, 1.0 + 1e-9, 1.3, 1.99, 3.0, 1e18, 1e200, math.inf, math.nan]),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_norms_of_integers_are_bounded_for_whatever_is_handed_in(
    shape: str, size: int, scale: int, length: float, seed: int
) -> None:
    with np.errstate(invalid="ignore"):
        vector = _of_length(shape, size, seed) * scale * length
    assert _is_within_bounds(round_vector(vector, scale, SeededSource(b"%d" % seed)), scale)


@settings(deadline=None, max_examples=50)
@given(size=st.sampled_from([1, 16, 1024, 4096]), level=st.integers(-3, 2), seed=st.integers(0, 2**32 - 1))
def test_the_bound_holds_where_every_coordinate_lies_half_way(size: int, level: int, seed: int) -> None:
    vector = np.full(size, level + 0.5)
    scale = math.ceil(np.linalg.norm(vector))
    rounded = round_vector(vector, scale, SeededSource(b"%d" % seed))
    assert _is_within_bounds(rounded, scale)
    assert np.abs(rounded - vector).max() == 0.5


@pytest.mark.parametrize("scale", [1, 7, 2897, 65536])
@pytest.mark.parametrize("size", [1, 2, 1000, 2**15, 2**24])
def test_the_bound_is_the_papers_rounded_down(scale: int, size: int) -> None:
    with localcontext() as context:
        context.prec, context.rounding = 60, ROUND_FLOOR
        s, d, beta = Decimal(scale), Decimal(size), Decimal("-0.5").exp()
        root = (-2 * beta.ln()).sqrt()
        likely = s**2 + d / 4 + root * (s + d.sqrt() / 2)
        trust_files = min(likely, (s + d.sqrt()) ** 2)
    # The logarithm of the exponential is off in the last places, which may matter where the bound is whole.
    assert squared_l2(scale, size) == math.floor(trust_files + Decimal("1e-30"))
    assert l1_bound(scale, size) == min(math.isqrt(size * squared_l2(scale, size)), squared_l2(scale, size))


def test_rounding_keeps_the_expectation() -> None:
    # Far below the bound, so that no drawing is rejected.
    fractions = np.array([0.0, 0.1, 0.25, 0.5, 0.9, 0.999, -0.1, -2.75, 7.3])
    times = 20_000
    vector = np.tile(fractions, times)
    mean = round_vector(vector, 10_000, SeededSource(b"mean")).reshape(times, -1).mean(0)
    spread = np.sqrt((fractions % 1) * (1 - fractions % 1) / times)
    assert (np.abs(mean - fractions) <= 5.0 * spread).all()


def test_a_vector_longer_than_a_block_is_rounded_with_fresh_bits_throughout() -> None:
    vector = np.full(150_001, 0.5)
    ups = round_vector(vector, 400, SeededSource(b"blocks"))
    assert abs(int(ups.sum()) - 75_000) < 1000
    assert not np.array_equal(ups[: 1 << 16], ups[1 << 16 : 1 << 17])


def test_a_rounding_that_is_too_long_is_drawn_again() -> None:
    vector = np.array([3.5] + [0.1] * 63)  # All up: 79, where at most 40 is allowed.
    source = Scripted(ups=5)
    np.testing.assert_array_equal(round_vector(vector, 4, source), np.floor(vector))
    assert source.draws == 6


def test_after_the_last_redraw_a_vector_is_rounded_towards_zero() -> None:
    vector = np.array([3.5, -2.0] + [0.01] * 62)
    source = Scripted(ups=10**9)
    np.testing.assert_array_equal(round_vector(vector, 5, source), [3, -2] + [0] * 62)
    assert source.draws == REDRAWS


@pytest.mark.parametrize("vector", [[7.9], [9.0], [math.nan], [math.inf], [-math.inf], [1e300]])
def test_a_vector_that_was_not_clipped_becomes_zero(vector: list[float]) -> None:
    np.testing.assert_array_equal(round_vector(np.array(vector), 4, SeededSource(b"long")), [0])


def test_the_vector_itself_is_left_alone() -> None:
    vector = np.array([0.5, -1.5])
    round_vector(vector, 4, SeededSource(b"same"))
    np.testing.assert_array_equal(vector, [0.5, -1.5])
