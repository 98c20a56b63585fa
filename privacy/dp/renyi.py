"""Rényi divergences of histories at whole orders, and the (epsilon, delta) that follow from them. Pure.

Divergences of mechanisms add up order by order (Mironov 2017). Those of sampled mechanisms are the finite sum of
`yoriai.privacy.dp.skellam_rdp`, which keeps the digits of a tiny divergence; that of dp_accounting, a logarithm of sums
near 1, comes out below 0 at small rates. The conversion to (epsilon, delta) is dp_accounting's (Canonne, Kamath and
Steinke 2020, proposition 12).

Skellam noise is drawn from a table, so that what was released lies within a total-variation distance t of the ideal
that the divergences describe. If the ideal is (epsilon, d)-private, then for any neighbours and any set of outcomes
P'(S) <= P(S) + t <= e^epsilon Q(S) + d + t <= e^epsilon (Q'(S) + t) + d + t: what was released is private at
delta = d + (1 + e^epsilon) t. Epsilon is therefore read off at delta less (1 + e^epsilon) t.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache
from typing import Any

from yoriai.privacy.dp.events import (
    Event,
    History,
    SampledGaussian,
    SampledSkellam,
    merged,
    out_of_range,
    sampler_error,
)
from yoriai.privacy.dp.skellam_rdp import sampled_divergences, sampled_skellam_divergences

# Whole orders only: for these the divergence of a sampled mechanism is a finite sum, whereas the series for fractional
# orders often fails to converge, and the bound for Skellam noise holds for whole ones.
ORDERS = (*range(2, 64), *range(64, 256, 8), 256, 320, 384, 512, 768, 1024)


def renyi_divergence(events: Iterable[tuple[Event, int] | Event], order: int) -> float:
    """Return the Rényi divergence that a history comes to at one whole order; 0.0 for an empty history.

    The value holds for true Skellam noise. The sampler's error is not in it, since no divergence bounds it:
    `epsilon_at_order` charges it to delta.

    Args:
        events: events, or pairs of an event and how often it happened (0 is allowed).
        order: whole number, >= 2.

    Raises:
        ConfigError: order or a count is nonsense.
    """
    _check_order(order)
    return _divergences(merged(events), (order,))[0]


def epsilon_at_order(events: Iterable[tuple[Event, int] | Event], delta: float, order: int) -> float:
    """Return the epsilon that a history costs at `delta`, read off at this one order; 0.0 for an empty history.

    Never below the answer of `accounting.epsilon` by ``rdp``, which reads off the best of 92 orders. Infinity where the
    error of the Skellam sampler uses up delta.

    Args:
        events: events, or pairs of an event and how often it happened (0 is allowed).
        delta: in (0, 1).
        order: whole number, >= 2.

    Raises:
        ConfigError: delta, order or a count is nonsense.
    """
    check_delta(delta)
    _check_order(order)
    return _epsilon(merged(events), delta, (order,))


@lru_cache(maxsize=4096)
def best_epsilon(history: History, delta: float) -> float:
    """Return the least epsilon at `delta` over all of `ORDERS`; infinity where the sampler's error uses up delta.

    Args:
        history: as `merged` returns it.
        delta: in (0, 1).
    """
    return _epsilon(history, delta, ORDERS)


def check_delta(delta: float) -> None:
    """Raise ConfigError unless delta is a probability above 0 and below 1."""
    if not 0.0 < delta < 1.0:
        raise out_of_range("delta", delta, "a probability above 0 and below 1")


def gaussian_dp_event(event: SampledGaussian) -> Any:
    """Return dp_accounting's event for one step of a sampled Gaussian."""
    import dp_accounting

    noise = dp_accounting.GaussianDpEvent(event.noise_multiplier)
    # Without sampling, the plain Gaussian is the same mechanism and the cheaper and more exact formula.
    return noise if event.sampling_rate == 1.0 else dp_accounting.PoissonSampledDpEvent(event.sampling_rate, noise)


def _check_order(order: int) -> None:
    if isinstance(order, bool) or not isinstance(order, int) or order < 2:
        raise out_of_range("order", order, "a whole number of at least 2")


def _epsilon(history: History, delta: float, orders: tuple[int, ...]) -> float:
    from dp_accounting import rdp

    if not history:
        return 0.0
    divergences = _divergences(history, orders)
    return _charged(
        lambda left: float(rdp.compute_epsilon(orders, divergences, left)[0]), delta, sampler_error(history)
    )


def _charged(ideal_epsilon: Callable[[float], float], delta: float, error: float) -> float:
    """Return epsilon at delta less (1 + e^epsilon) * error; infinity if that leaves nothing.

    Epsilon stands on both sides. Twice the charge that follows from the last epsilon is set aside, until that covers
    the charge of the epsilon read off at what remains: at once, unless delta is nearly used up.
    """
    cost = ideal_epsilon(delta)
    while error > 0.0:
        if cost >= math.log(delta / error):
            return math.inf
        charge = 2.0 * (1.0 + math.exp(cost)) * error
        if charge >= delta:
            return math.inf
        cost = ideal_epsilon(delta - charge)
        if cost < math.log(delta / error) and (1.0 + math.exp(cost)) * error <= charge:
            break
    return cost


def _divergences(history: History, orders: tuple[int, ...]) -> tuple[float, ...]:
    columns = [(event.steps, _one_step(replace(event, steps=1), orders)) for event in history]
    return tuple(sum(steps * column[i] for steps, column in columns) for i in range(len(orders)))


@lru_cache(maxsize=4096)
def _one_step(event: Event, orders: tuple[int, ...]) -> tuple[float, ...]:
    if isinstance(event, SampledSkellam):
        return sampled_skellam_divergences(event, orders)
    # Of a Gaussian shifted by its sensitivity: k / (2 sigma^2). The other direction costs no more (Mironov, Talwar and
    # Zhang 2019, theorem 5).
    noise = event.noise_multiplier  # Twice a divisor: its square may be out of a double's range.
    return sampled_divergences(event.sampling_rate, lambda k: k / (2.0 * noise) / noise, orders)
