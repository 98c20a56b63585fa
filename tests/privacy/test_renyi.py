"""Rényi divergences of histories, what epsilon they give, and what the Skellam sampler's error takes of delta."""

import math
from dataclasses import replace
from decimal import Decimal, localcontext

import pytest
from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent, rdp

from yoriai.errors import ConfigError
from yoriai.privacy.dp.accounting import effective_accountant, epsilon
from yoriai.privacy.dp.events import SAMPLER_ERROR, Event, SampledGaussian, SampledSkellam
from yoriai.privacy.dp.renyi import ORDERS, epsilon_at_order, renyi_divergence

DELTA = 1e-5
# Noise of multiplier 1, so wide that being discrete hardly costs.
SKELLAM = SampledSkellam(0.12, variance=10**10, squared_l2=10**10, l1=10**7, coordinates=10**5, draws=10)


def test_divergences_of_both_kinds_add_up_step_by_step() -> None:
    gaussian = SampledGaussian(0.1, 1.0)
    alone = renyi_divergence([SKELLAM], 7), renyi_divergence([gaussian], 7)
    mixed: list[tuple[Event, int] | Event] = [(SKELLAM, 2), gaussian, replace(SKELLAM, steps=3)]
    assert renyi_divergence(mixed, 7) == pytest.approx(5 * alone[0] + alone[1], rel=1e-12)


def test_the_unsampled_gaussian_has_the_divergence_of_mironov() -> None:
    assert renyi_divergence([SampledGaussian(1.0, 5.0, 50)], 6) == pytest.approx(50 * 6 / (2 * 25))


def test_epsilon_by_rdp_is_the_least_over_the_orders() -> None:
    few_steps: list[tuple[Event, int]] = [(SKELLAM, 2), (SampledGaussian(0.1, 1.0), 1)]
    # Far above the best order the sampler's error, times so large an e^epsilon, leaves nothing of delta.
    assert epsilon(few_steps, DELTA) == min(epsilon_at_order(few_steps, DELTA, order) for order in range(2, 17))


def test_epsilon_at_one_order_is_the_conversion_of_canonne_kamath_and_steinke() -> None:
    history, order = [SampledGaussian(1.0, 5.0, 50)], 4
    # Proposition 12 solved for epsilon: log(1 - 1/a) - log(a delta) / (a - 1) on top of the divergence.
    expected = 4.0 + math.log(3 / 4) - math.log(4 * DELTA) / 3
    assert epsilon_at_order(history, DELTA, order) == pytest.approx(expected)


@pytest.mark.parametrize("order", [1, 0, -2, 2.0, True])
def test_an_order_that_is_not_whole_or_below_2_is_refused(order: int) -> None:
    with pytest.raises(ConfigError, match="order"):
        renyi_divergence([SKELLAM], order)
    with pytest.raises(ConfigError, match="order"):
        epsilon_at_order([SKELLAM], DELTA, order)


def _delta_at_order(divergence: float, cost: float, order: int) -> float:
    """Canonne, Kamath and Steinke 2020, proposition 12."""
    return math.exp(min(0.0, (order - 1) * (divergence - cost + math.log1p(-1 / order)) - math.log(order)))


@pytest.mark.parametrize("share", [1e-9, 1e-3, 0.3])
@pytest.mark.parametrize("gaussians", [0, 20])
def test_delta_covers_the_ideal_noise_and_the_sampler_s_error_together(share: float, gaussians: int) -> None:
    """However much of delta the table's error takes, what is left of it is what the ideal noise needs."""
    ideal: list[tuple[Event, int]] = [(SKELLAM, 20), (SampledGaussian(0.1, 1.0), gaussians)]
    error = share * DELTA / (1 + math.exp(epsilon(ideal, DELTA)))
    draws = math.ceil(error / (20 * SKELLAM.coordinates * SAMPLER_ERROR))
    real: list[tuple[Event, int]] = [(replace(SKELLAM, draws=draws), 20), ideal[1]]
    cost = epsilon(real, DELTA)
    needed = min(_delta_at_order(renyi_divergence(real, order), cost, order) for order in ORDERS)
    charge = (1 + math.exp(cost)) * draws * SKELLAM.coordinates * 20 * SAMPLER_ERROR
    assert charge >= 0.99 * share * DELTA
    assert needed + charge <= DELTA * (1 + 1e-9)
    assert needed + 3 * charge >= DELTA * (1 - 1e-9)


@pytest.mark.parametrize("event", [replace(SKELLAM, draws=2**80), replace(SKELLAM, variance=10**7, steps=50)])
def test_a_sampler_s_error_that_uses_up_delta_leaves_no_epsilon(event: SampledSkellam) -> None:
    """Either by its size, or because e^epsilon multiplies it."""
    assert epsilon([event], DELTA) == math.inf
    assert epsilon_at_order([event], DELTA, 2) == math.inf
    assert effective_accountant([event], DELTA) == "rdp"


def test_a_charge_that_outgrows_what_it_leaves_of_delta_leaves_no_epsilon() -> None:
    """At order 2, halving delta doubles e^epsilon: a first charge of 0.3 of delta never meets the rest."""
    error = 0.3 * DELTA / (1 + math.exp(epsilon_at_order([SKELLAM], DELTA, 2)))
    draws = round(error / (SKELLAM.coordinates * SAMPLER_ERROR))
    assert epsilon_at_order([replace(SKELLAM, draws=draws // 2)], DELTA, 2) < math.inf
    assert epsilon_at_order([replace(SKELLAM, draws=draws)], DELTA, 2) == math.inf


@pytest.mark.parametrize(("rate", "noise"), [(0.12, 0.8), (0.5, 3.0), (0.01, 0.5), (0.9, 1.5), (1.0, 2.0)])
def test_divergences_of_gaussians_are_those_of_dp_accounting(rate: float, noise: float) -> None:
    theirs = rdp.RdpAccountant(ORDERS, NeighboringRelation.ADD_OR_REMOVE_ONE)
    theirs.compose(PoissonSampledDpEvent(rate, GaussianDpEvent(noise)))
    ours = [renyi_divergence([SampledGaussian(rate, noise)], order) for order in ORDERS]
    assert ours == pytest.approx(list(theirs.rdp), rel=1e-9)


@pytest.mark.parametrize(("rate", "noise"), [(1e-6, 0.5), (1e-9, 3.0), (0.12, 1000.0), (1e-4, 1e4)])
@pytest.mark.parametrize("order", [2, 7, 64])
def test_a_tiny_divergence_keeps_its_digits(rate: float, noise: float, order: int) -> None:
    """The sum of Mironov, Talwar and Zhang 2019 in 80 digits, where doubles lose a divergence beside 1."""
    with localcontext(prec=80):
        q, one = Decimal(rate), Decimal(1)
        moment = sum(
            math.comb(order, k)
            * (one - q) ** (order - k)
            * q**k
            * (Decimal(k * (k - 1)) / 2 / Decimal(noise) ** 2).exp()
            for k in range(order + 1)
        )
        expected = float(Decimal(moment).ln() / (order - 1))
    assert renyi_divergence([SampledGaussian(rate, noise)], order) == pytest.approx(expected, rel=1e-10)
