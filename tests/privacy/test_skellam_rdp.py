"""The bound for sampled Skellam noise lies above the exact divergence, in both directions, and hardly above it."""

import math
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import ive, logsumexp

from yoriai.privacy.dp.accounting import SampledGaussian, renyi_divergence
from yoriai.privacy.dp.events import SampledSkellam
from yoriai.privacy.dp.renyi import ORDERS
from yoriai.privacy.dp.skellam_rdp import sampled_skellam_divergences

Array: TypeAlias = npt.NDArray[np.floating[Any]]

RATES = (0.001, 0.12, 0.5, 0.95, 1.0)
EXACT_ORDERS = (2, 3, 5, 12, 32)
# What summing up thousands of probabilities in doubles leaves of the smallest divergences, which are about 1e-10.
ROUNDING = 1e-13


def _event(rate: float, variance: int, *shift: int) -> SampledSkellam:
    squared_l2, l1 = sum(s * s for s in shift), sum(map(abs, shift))
    return SampledSkellam(rate, variance, squared_l2, l1, coordinates=len(shift), draws=1)


def _log_noise(variance: int, size: int) -> Array:
    """Logarithm of the probabilities of -size to size under symmetric Skellam noise, e^-V I_k(V).

    Neighbouring ones differ by the factor I_(k+1) / I_k = 1 / (2 (k + 1) / V + I_(k+2) / I_(k+1)), which downward
    recurrence gives to all digits, far beyond where the probabilities themselves are too small for a double.
    """
    ratios, ratio = np.zeros(size), 0.0
    for k in range(size + 100, -1, -1):
        ratio = 1.0 / (2.0 * (k + 1) / variance + ratio)
        if k < size:
            ratios[k] = ratio
    half = math.log(ive(0, variance)) + np.concatenate([[0.0], np.cumsum(np.log(ratios))])
    both = np.concatenate([half[:0:-1], half])
    assert logsumexp(both) == pytest.approx(0.0, abs=1e-12)
    return both


def _base_and_shifted(variance: int, shift: int) -> tuple[Array, Array]:
    """Log probabilities of the noise and of the noise moved by `shift`, wide enough for every order tested."""
    size = max(EXACT_ORDERS) * abs(shift) + 20 * math.isqrt(variance) + 60
    noise = _log_noise(variance, size + abs(shift))
    middle = slice(abs(shift), -abs(shift))
    return noise[middle], np.roll(noise, shift)[middle]


def _divergence(p: Array, q: Array, order: int) -> float:
    """D_order(P || Q) of log probabilities, summed up over all outcomes."""
    terms = order * p - (order - 1) * q
    edge = max(terms.flat[0], terms.flat[-1])
    assert edge < terms.max() - 30, "the outcomes left out must not matter"
    return float(logsumexp(terms)) / (order - 1)


def _mixture(base: Array, shifted: Array, rate: float) -> Array:
    if rate == 1.0:
        return shifted
    return np.asarray(np.logaddexp(math.log1p(-rate) + base, math.log(rate) + shifted))


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("variance", [1, 4, 30, 400, 10_000])
@pytest.mark.parametrize("shift", [1, 3, -10])
def test_the_bound_is_above_the_exact_divergence_in_both_directions(rate: float, variance: int, shift: int) -> None:
    base, shifted = _base_and_shifted(variance, shift)
    mixture = _mixture(base, shifted, rate)
    bounds = sampled_skellam_divergences(_event(rate, variance, shift), EXACT_ORDERS)
    for order, bound in zip(EXACT_ORDERS, bounds, strict=True):
        added, removed = _divergence(mixture, base, order), _divergence(base, mixture, order)
        assert bound >= added * (1 - 1e-9) - ROUNDING
        assert added >= removed * (1 - 1e-9) - ROUNDING


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize(("variance", "shift"), [(400, 1), (400, 3), (10_000, 20)])
def test_the_bound_is_within_one_percent_of_the_exact_divergence(rate: float, variance: int, shift: int) -> None:
    """Where order times shift stays well below the variance, so that noise a little wider would be noticed."""
    base, shifted = _base_and_shifted(variance, shift)
    mixture, orders = _mixture(base, shifted, rate), (2, 3, 5, 12)
    bounds = sampled_skellam_divergences(_event(rate, variance, shift), orders)
    for order, bound in zip(orders, bounds, strict=True):
        assert bound <= 1.01 * _divergence(mixture, base, order)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("variance", [4, 100])
def test_the_bound_holds_for_a_vector_by_its_two_norms(rate: float, variance: int) -> None:
    (base_x, shifted_x), (base_y, shifted_y) = _base_and_shifted(variance, 3), _base_and_shifted(variance, -2)
    base, shifted = np.add.outer(base_x, base_y), np.add.outer(shifted_x, shifted_y)
    mixture = _mixture(base, shifted, rate)
    orders = (2, 5, 12)
    bounds = sampled_skellam_divergences(_event(rate, variance, 3, -2), orders)
    for order, bound in zip(orders, bounds, strict=True):
        assert bound >= _divergence(mixture, base, order) * (1 - 1e-9)
        assert bound >= _divergence(base, mixture, order) * (1 - 1e-9)


@pytest.mark.parametrize("rate", RATES)
def test_a_vector_rounded_at_random_costs_no_more_than_its_longest_outcome(rate: float) -> None:
    base, down = _base_and_shifted(30, 2)
    up = _base_and_shifted(30, 3)
    size = min(len(base), len(up[0])) // 2
    base, down, long = (row[len(row) // 2 - size : len(row) // 2 + size + 1] for row in (base, down, up[1]))
    mixture = _mixture(base, _mixture(down, long, 0.4), rate)
    bounds = sampled_skellam_divergences(_event(rate, 30, 3), EXACT_ORDERS)
    for order, bound in zip(EXACT_ORDERS, bounds, strict=True):
        assert bound >= _divergence(mixture, base, order)
        assert bound >= _divergence(base, mixture, order)


@pytest.mark.parametrize("rate", [1e-4, 0.12, 1.0])
@pytest.mark.parametrize("noise", [0.7, 1.0, 4.0])
def test_wide_noise_costs_what_dp_accounting_says_of_a_gaussian_at_every_order(rate: float, noise: float) -> None:
    gaussian = SampledGaussian(rate, noise)
    gaps = []
    for squared_l2 in (10**4, 10**6, 10**8):
        event = SampledSkellam(rate, round(noise**2 * squared_l2), squared_l2, squared_l2, coordinates=1, draws=1)
        bounds = sampled_skellam_divergences(event, ORDERS)
        theirs = [renyi_divergence([gaussian], order) for order in ORDERS]
        gaps.append(max(abs(ours / other - 1) for ours, other in zip(bounds, theirs, strict=True)))
    # Being discrete costs like 1 / V: a hundred times the variance, a hundredth of the gap.
    assert gaps[0] < 0.1
    assert gaps[1] < gaps[0] / 50
    assert gaps[2] < gaps[1] / 50


@pytest.mark.parametrize(
    ("values", "order", "expected"),
    [((100, 9, 9), 4, 4 * 9 / 200 + (7 * 9 + 6 * 9) / 40_000), ((2, 100, 10), 8, 8 * 100 / 4 + 3 * 10 / 4)],
)
def test_without_sampling_the_bound_is_the_formula_of_agarwal_kairouz_and_liu(
    values: tuple[int, int, int], order: int, expected: float
) -> None:
    """Worked by hand, once for each of the two bounds of which the smaller counts."""
    event = SampledSkellam(1.0, *values, coordinates=50, draws=3)
    assert sampled_skellam_divergences(event, [order]) == pytest.approx((expected,), rel=1e-12)


def test_a_tiny_rate_leaves_the_first_summand_to_all_its_digits() -> None:
    rate, order = 1e-12, 10
    unsampled = sampled_skellam_divergences(_event(1.0, 400, 3), [2])[0]
    (sampled,) = sampled_skellam_divergences(_event(rate, 400, 3), [order])
    assert sampled == pytest.approx(order / 2 * rate**2 * math.expm1(unsampled), rel=1e-9)


def test_orders_come_back_as_they_were_asked_for() -> None:
    event = _event(0.12, 30, 3)
    shuffled = (64, 2, 1024, 7)
    alone = tuple(sampled_skellam_divergences(event, [order])[0] for order in shuffled)
    assert sampled_skellam_divergences(event, shuffled) == pytest.approx(alone, rel=1e-12)
