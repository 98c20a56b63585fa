"""The low-pass filter: what it passes, what it stops, at the edges and on short axes."""

import math

import numpy as np
import pytest

from yoriai.errors import AdapterError
from yoriai.strategies.lowpass import lowpass

LENGTHS = (1, 2, 3, 4, 5, 9, 100)


def smoothed(factor, along):
    """A factor whose features are the columns of `along` (directions, features), filtered and turned back."""
    values = np.asarray(along, np.float64)
    out = lowpass(f"layers.0.q:{factor}", values if factor == "A" else values.T)
    return out if factor == "A" else out.T


def wave(frequency, length):
    return np.cos(frequency * np.arange(length))[None, :]


@pytest.mark.parametrize("factor", ["A", "B"])
@pytest.mark.parametrize("length", LENGTHS)
def test_a_constant_stays(factor, length):
    constant = np.array([[0.1], [-7.3]]) * np.ones(length)
    assert np.allclose(smoothed(factor, constant), constant, rtol=1e-15, atol=0)


@pytest.mark.parametrize("factor", ["A", "B"])
@pytest.mark.parametrize("length", LENGTHS[1:])
def test_an_alternation_vanishes_up_to_the_edges(factor, length):
    assert np.abs(smoothed(factor, wave(math.pi, length))).max() < 1e-15


@pytest.mark.parametrize("factor", ["A", "B"])
def test_an_impulse_becomes_the_taps(factor):
    impulse = np.zeros((1, 9))
    impulse[0, 4] = 16
    assert smoothed(factor, impulse).tolist() == [[0, 0, 1, 4, 6, 4, 1, 0, 0]]


@pytest.mark.parametrize("factor", ["A", "B"])
def test_values_are_mirrored_about_the_last_one(factor):
    # Around (a, b, c): c b a b c b a. The first: (2c + 8b + 6a) / 16; the second: (b + 4a + 6b + 4c + b) / 16.
    assert smoothed(factor, [[16, 0, 0], [0, 16, 0], [0, 0, 16]]).tolist() == [[6, 4, 2], [8, 8, 8], [2, 4, 6]]


@pytest.mark.parametrize("frequency", [0.3, 1.0, 2.0, 3.0])
def test_a_wave_passes_by_the_fourth_power_of_the_cosine_of_half_its_frequency(frequency):
    out = smoothed("A", wave(frequency, 200))[:, 2:-2]
    assert np.allclose(out, math.cos(frequency / 2) ** 4 * wave(frequency, 200)[:, 2:-2], rtol=0, atol=1e-14)


def test_white_noise_keeps_the_sum_of_the_squared_taps_of_its_variance():
    noise = np.random.default_rng(0).standard_normal((1, 100_000))
    assert np.isclose(smoothed("A", noise)[:, 2:-2].var(), 70 / 256, rtol=0.02)


@pytest.mark.parametrize("factor", ["A", "B"])
@pytest.mark.parametrize("length", LENGTHS)
def test_the_filter_is_linear(factor, length):
    draw = np.random.default_rng(length)
    x, y = draw.standard_normal((3, length)), draw.standard_normal((3, length))
    both = 2.5 * smoothed(factor, x) - 0.5 * smoothed(factor, y)
    assert np.allclose(smoothed(factor, 2.5 * x - 0.5 * y), both, rtol=0, atol=1e-14)


@pytest.mark.parametrize("factor", ["A", "B"])
def test_directions_of_the_rank_do_not_mix(factor):
    values = np.random.default_rng(3).standard_normal((4, 20))
    apart = np.concatenate([smoothed(factor, row[None, :]) for row in values])
    assert np.array_equal(smoothed(factor, values), apart)


@pytest.mark.parametrize("shape", [(1, 6), (6, 1), (3, 6)])
@pytest.mark.parametrize("name", ["x:A", "x:B"])
def test_shape_stays_and_the_values_given_are_not_changed(name, shape):
    values = np.random.default_rng(4).standard_normal(shape)
    before = values.copy()
    assert lowpass(name, values).shape == shape
    assert np.array_equal(values, before)


@pytest.mark.parametrize("name", ["x:R", "x:U", "x:W", "no-factor"])
def test_a_factor_without_a_feature_axis_is_refused(name):
    with pytest.raises(AdapterError, match="no axis of features") as caught:
        lowpass(name, np.ones((3, 3)))
    assert "A, B" in caught.value.expected


@pytest.mark.parametrize("shape", [(3,), (0, 3), (3, 0), (1, 2, 3)])
def test_values_that_are_not_a_matrix_are_refused(shape):
    with pytest.raises(AdapterError, match="x:A"):
        lowpass("x:A", np.ones(shape))
