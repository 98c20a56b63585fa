"""Mechanisms: real neighbours against the declared sensitivity, the right noise and no other, the edge cases."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yoriai.errors import ConfigError, TrainingError
from yoriai.privacy.dp.accounting import SampledGaussian
from yoriai.privacy.dp.mechanisms import clip_factors, gaussian_mechanism, grid_step, poisson_sample
from yoriai.privacy.dp.randomness import SeededSource

N = 100_000


def _clipped_sum(rows: np.ndarray, clip_norm: float) -> np.ndarray:
    """Sum rows (units, n) as a caller does."""
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.sqrt(np.square(rows).sum(1))
    factors = clip_factors(norms, clip_norm)
    total: np.ndarray = factors @ np.nan_to_num(rows, nan=0.0, posinf=0.0, neginf=0.0)
    return total


def _has_standard_deviation(noise: np.ndarray, expected: float) -> bool:
    return abs(float(np.var(noise)) / expected**2 - 1.0) < 0.02


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([0.0, 1e-200, 1e-3, 1.0, 1e3, 1e200, math.inf, math.nan]),
    clip_norm=st.sampled_from([1e-3, 1.0, 50.0]),
    removed=st.integers(0, 7),
)
def test_the_clipped_sum_of_real_neighbours_moves_by_no_more_than_clip_norm(
    seed: int, scale: float, clip_norm: float, removed: int
) -> None:
    rows = np.random.default_rng(seed).standard_normal((8, 5))
    rows[removed] *= scale
    difference = _clipped_sum(rows, clip_norm) - _clipped_sum(np.delete(rows, removed, axis=0), clip_norm)
    assert np.linalg.norm(difference) <= clip_norm * (1 + 1e-12)


def test_the_declared_sensitivity_is_reached_so_that_it_cannot_be_stated_smaller() -> None:
    rows = np.array([[1.0, 0.0], [300.0, 400.0]])
    difference = _clipped_sum(rows, 2.0) - _clipped_sum(rows[:1], 2.0)
    assert np.linalg.norm(difference) == pytest.approx(2.0)


def test_rows_within_the_bound_are_left_alone_and_longer_ones_brought_to_it() -> None:
    factors = clip_factors(np.array([0.5, 2.0, 2.5, 8.0]), 2.0)
    np.testing.assert_allclose(factors, [1.0, 1.0, 0.8, 0.25])
    assert factors[1] == 1.0


def test_zero_rows_keep_factor_1_and_rows_that_are_not_finite_get_0() -> None:
    norms = np.array([0.0, math.nan, math.inf, 1.0], dtype=np.float32)
    np.testing.assert_array_equal(clip_factors(norms, 1.0), [1.0, 0.0, 0.0, 1.0])


def test_an_empty_batch_has_no_factors() -> None:
    assert clip_factors(np.empty(0), 1.0).shape == (0,)


@pytest.mark.parametrize("clip_norm", [0.0, -1.0, math.inf, math.nan])
def test_a_clip_norm_that_bounds_nothing_is_refused(clip_norm: float) -> None:
    with pytest.raises(ConfigError, match="clip_norm"):
        clip_factors(np.ones(1), clip_norm)
    with pytest.raises(ConfigError, match="clip_norm"):
        gaussian_mechanism(
            np.ones(1), clip_norm=clip_norm, noise_multiplier=1.0, sampling_rate=0.5, source=SeededSource(b"")
        )


@pytest.mark.parametrize("total", [np.zeros(N), np.full(N, 7.0)])
def test_the_mechanism_adds_the_noise_that_its_event_declares(total: np.ndarray) -> None:
    noised, event = gaussian_mechanism(
        total, clip_norm=0.5, noise_multiplier=3.0, sampling_rate=0.2, source=SeededSource(b"noise")
    )
    noise = noised - total
    assert event == SampledGaussian(sampling_rate=0.2, noise_multiplier=3.0, steps=1)
    assert abs(float(noise.mean())) < 5.0 * 1.5 / math.sqrt(N)
    assert _has_standard_deviation(noise, event.noise_multiplier * 0.5)
    assert not _has_standard_deviation(noise, event.noise_multiplier * 0.5 * 2 / 3)
    assert not _has_standard_deviation(noise, event.noise_multiplier * 0.5 * 3 / 2)


def _released(centre: float, seed: bytes) -> np.ndarray:
    """Releases of one value at a standard deviation of 1."""
    released, _ = gaussian_mechanism(
        np.full(N, centre), clip_norm=1.0, noise_multiplier=1.0, sampling_rate=1.0, source=SeededSource(seed)
    )
    return np.asarray(released)


def _odd_last_bits(values: np.ndarray) -> int:
    """How many of the values from 0.25 to 0.5 use the last bit that a double has there."""
    near = values[(values >= 0.25) & (values < 0.5)]
    assert len(near) > 0.05 * len(values)
    return int(np.count_nonzero((near * 2.0**54) % 2 == 1))


def test_the_last_bits_of_a_plain_sum_tell_neighbours_apart_and_those_of_a_release_do_not() -> None:
    """Mironov's attack: near 0.3 a sum around 1 has a bit less than one around 0, whose noise is short."""
    for seed in (b"first", b"second"):
        noise = SeededSource(seed).gaussian(N)
        assert _odd_last_bits(0.0 + noise) > 1000
        assert _odd_last_bits(1.0 + noise) == 0
        assert _odd_last_bits(_released(0.0, seed)) == _odd_last_bits(_released(1.0, seed)) == 0


@pytest.mark.parametrize("centre", [0.0, 1.0, -0.3, 1e-9])
def test_a_release_lies_on_a_public_grid_and_uses_all_of_it_whatever_the_sum(centre: float) -> None:
    steps = _released(centre, b"grid") / grid_step(1.0)
    np.testing.assert_array_equal(steps, np.rint(steps))
    for modulus in (2, 3, 8):
        counts = np.bincount(steps.astype(np.int64) % modulus, minlength=modulus)
        np.testing.assert_allclose(counts, N / modulus, atol=5 * math.sqrt(N / modulus))


@pytest.mark.parametrize(("deviation", "step"), [(1.0, 2.0**-16), (1.9, 2.0**-16), (2.0, 2.0**-15), (0.3, 2.0**-18)])
def test_the_grid_is_a_power_of_two_far_below_the_noise(deviation: float, step: float) -> None:
    assert grid_step(deviation) == step


def test_the_grid_adds_nothing_to_the_noise_that_is_charged() -> None:
    noise = SeededSource(b"same").gaussian(N)
    assert np.var(_released(0.0, b"same")) == pytest.approx(np.var(noise), rel=1e-6)


def test_noise_too_small_to_be_a_number_is_refused() -> None:
    with pytest.raises(ConfigError, match="noise_multiplier"):
        gaussian_mechanism(
            np.ones(1), clip_norm=1e-300, noise_multiplier=1e-10, sampling_rate=0.5, source=SeededSource(b"")
        )


def test_two_releases_of_one_sum_differ_almost_everywhere() -> None:
    """On the grid two of them meet about once in 2e5 coordinates."""
    source = SeededSource(b"twice")
    first, second = (
        gaussian_mechanism(np.zeros(1000), clip_norm=1.0, noise_multiplier=1.0, sampling_rate=1.0, source=source)[0]
        for _ in range(2)
    )
    assert np.count_nonzero(first == second) <= 2


def test_shape_and_type_of_the_sum_are_kept_and_the_sum_itself_is_not_touched() -> None:
    total = np.ones((3, 4), dtype=np.float32)
    noised, _ = gaussian_mechanism(
        total, clip_norm=1.0, noise_multiplier=1.0, sampling_rate=0.5, source=SeededSource(b"shape")
    )
    assert noised.shape == (3, 4)
    assert noised.dtype == np.float32
    np.testing.assert_array_equal(total, 1.0)


def test_the_sum_of_an_empty_batch_is_noised_and_charged_like_any_other() -> None:
    noised, event = gaussian_mechanism(
        _clipped_sum(np.empty((0, N)), 1.0), clip_norm=1.0, noise_multiplier=2.0, sampling_rate=0.1,
        source=SeededSource(b"empty"),
    )  # fmt: skip
    assert _has_standard_deviation(noised, 2.0)
    assert event.steps == 1


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_sum_that_is_not_finite_is_never_released(value: float) -> None:
    with pytest.raises(TrainingError, match="not finite"):
        gaussian_mechanism(
            np.array([1.0, value]), clip_norm=1.0, noise_multiplier=1.0, sampling_rate=0.5, source=SeededSource(b"")
        )


@pytest.mark.parametrize("noise_multiplier", [0.0, -1.0, math.nan])
def test_no_noise_is_not_a_mechanism(noise_multiplier: float) -> None:
    with pytest.raises(ConfigError, match="noise_multiplier"):
        gaussian_mechanism(
            np.ones(1), clip_norm=1.0, noise_multiplier=noise_multiplier, sampling_rate=0.5, source=SeededSource(b"")
        )


@pytest.mark.parametrize("rate", [0.01, 0.12, 0.9])
def test_each_unit_is_drawn_with_the_sampling_rate(rate: float) -> None:
    drawn = poisson_sample(SeededSource(b"poisson"), N, rate)
    assert len(drawn) == pytest.approx(N * rate, abs=5.0 * math.sqrt(N * rate * (1 - rate)))


def test_the_size_of_a_batch_varies_as_that_of_independent_draws_does() -> None:
    source = SeededSource(b"sizes")
    sizes = [len(poisson_sample(source, 100, 0.3)) for _ in range(4000)]
    assert np.var(sizes) == pytest.approx(100 * 0.3 * 0.7, rel=0.15)


def test_indices_are_increasing_distinct_and_in_range() -> None:
    drawn = poisson_sample(SeededSource(b"indices"), 1000, 0.5)
    assert drawn.dtype == np.int64
    assert (np.diff(drawn) > 0).all()
    assert drawn[0] >= 0
    assert drawn[-1] < 1000


def test_rate_1_draws_everybody_and_nobody_is_drawn_from_nobody() -> None:
    np.testing.assert_array_equal(poisson_sample(SeededSource(b""), 5, 1.0), [0, 1, 2, 3, 4])
    assert poisson_sample(SeededSource(b""), 0, 0.5).shape == (0,)


@pytest.mark.parametrize(("count", "rate"), [(5, 0.0), (5, 1.1), (5, math.nan), (-1, 0.5)])
def test_sampling_that_is_no_sampling_is_refused(count: int, rate: float) -> None:
    with pytest.raises(ConfigError):
        poisson_sample(SeededSource(b""), count, rate)


def test_noise_far_below_one_is_taken() -> None:
    noised, _ = gaussian_mechanism(
        np.zeros(8), clip_norm=1e-4, noise_multiplier=1.0, sampling_rate=0.5, source=SeededSource(b"small")
    )
    assert 0.0 < np.abs(noised).max() < 1e-2
