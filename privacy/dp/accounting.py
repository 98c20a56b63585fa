"""From mechanism events to (epsilon, delta), and back from a target epsilon to a noise multiplier. Pure.

Neighbouring relation throughout: add or remove one unit. Three accountants answer the same question:

* ``pld``: privacy-loss distributions (Koskela et al. 2020; Doroshenko et al. 2022, "connect the dots"), from
  dp_accounting. An upper bound; the default.
* ``prv``: privacy random variables (Gopi, Lee and Wutschitz 2021), from Opacus. Written by other people from another
  paper, so each of the two checks the other. An upper bound, by its own error estimate.
* ``rdp``: Rényi differential privacy (Mironov 2017; Mironov, Talwar and Zhang 2019), at whole orders (`renyi`). Looser;
  needed where parameters of later events depend on earlier results (see `yoriai.privacy.ledger.ledger`), and the only
  one for Skellam noise: a history with any of it is answered by ``rdp``, whoever was asked.

All three are upper bounds, so the smallest is one too: whoever asks for ``pld`` or ``prv`` gets the answer of ``rdp``
where that is smaller, or where the other cannot be asked (`tight`), and is told so (`cost`).

The heavy libraries are imported inside the functions: importing this module costs nothing.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, TypeAlias, get_args

from yoriai.privacy.dp import tight
from yoriai.privacy.dp.events import (
    SAMPLER_ERROR,
    Event,
    History,
    SampledGaussian,
    SampledSkellam,
    event_from_dict,
    event_to_dict,
    merged,
    out_of_range,
)
from yoriai.privacy.dp.renyi import (
    best_epsilon,
    check_delta,
    epsilon_at_order,
    renyi_divergence,
)

__all__ = [
    "SAMPLER_ERROR",
    "Accountant",
    "Cost",
    "Costing",
    "Event",
    "Events",
    "SampledGaussian",
    "SampledSkellam",
    "calibrate",
    "calibrate_skellam",
    "cost",
    "effective_accountant",
    "epsilon",
    "epsilon_at_order",
    "event_from_dict",
    "event_to_dict",
    "is_quick",
    "renyi_divergence",
]

Accountant: TypeAlias = Literal["pld", "prv", "rdp"]
Events: TypeAlias = Iterable[tuple[Event, int] | Event]

RELATIVE_TOLERANCE = 1e-3
# What calibration leaves of a target, so that another machine's accountant, which rounds otherwise, does not exceed it.
_LEFT: Final = 1e-6
# With less than a hundredth a single noised step tells a record from its absence for all practical purposes, whatever
# the sampling makes of the bound; sites refuse it.
SMALLEST_NOISE_MULTIPLIER, LARGEST_NOISE_MULTIPLIER = 1e-2, 1e6


@dataclass(frozen=True)
class Cost:
    """What a history costs, and whose answer that is.

    Attributes:
        epsilon: at the delta that was asked for; infinity where none holds.
        accountant: the one asked, or ``rdp`` where its answer is smaller or the other cannot be asked.
    """

    epsilon: float
    accountant: Accountant


Costing: TypeAlias = Callable[[Events, float, Accountant], Cost]
"""`cost`, or what does the same somewhere else."""


def cost(events: Events, delta: float, accountant: Accountant = "pld") -> Cost:
    """Return what a history of events costs at `delta`; nothing for an empty history.

    Arguments and errors are those of `epsilon`.
    """
    check_delta(delta)
    _check_accountant(accountant)
    history = merged(events)
    return _cost(history, delta, accountant) if history else Cost(0.0, accountant)


def is_quick(history: History, delta: float, accountant: Accountant) -> bool:
    """Whether the cost of a history, as `merged` returns it, is a matter of milliseconds: ``rdp`` alone is asked.

    Raises:
        ConfigError: delta or accountant is nonsense.
    """
    check_delta(delta)
    _check_accountant(accountant)
    return _asked(history, delta, accountant) == "rdp"


def epsilon(events: Events, delta: float, accountant: Accountant = "pld") -> float:
    """Return the epsilon that a history of events costs at `delta`; 0.0 for an empty history.

    Infinity where no epsilon holds: where the error of the Skellam sampler uses up delta. The answer is an upper bound
    up to the accountant's own floating-point error, never above that of ``rdp``, and is cached by history.

    Args:
        events: events, or pairs of an event and how often it happened (0 is allowed).
        delta: in (0, 1).
        accountant: ``pld``, ``prv`` or ``rdp``.

    Raises:
        ConfigError: delta, accountant or a count is nonsense.
    """
    return cost(events, delta, accountant).epsilon


def effective_accountant(events: Events, delta: float, accountant: Accountant = "pld") -> Accountant:
    """Return the accountant whose answer `epsilon` gives; see `Cost`. Arguments and errors are those of `epsilon`."""
    return cost(events, delta, accountant).accountant


def calibrate(
    *,
    epsilon: float,
    delta: float,
    sampling_rate: float,
    steps: int,
    accountant: Accountant = "pld",
) -> float:
    """Return the smallest noise multiplier whose `steps` sampled Gaussians cost at most `epsilon` at `delta`.

    The result is at most 1e-3 (relative) above the smallest, and never costs more than `epsilon` when it is evaluated
    by the same accountant. Where 0.01 suffices, nothing below is looked for.

    Args:
        epsilon: target, > 0 and finite.
        delta: in (0, 1).
        sampling_rate: in (0, 1].
        steps: over the whole job, >= 1.
        accountant: ``pld``, ``prv`` or ``rdp``.

    Raises:
        ConfigError: a value is nonsense, or no noise multiplier up to 1e6 reaches the target.
    """
    _check_target(epsilon)
    check_delta(delta)
    _check_accountant(accountant)
    SampledGaussian(sampling_rate, 1.0, steps)
    return _calibrate(epsilon, delta, sampling_rate, steps, accountant)


def calibrate_skellam(
    *,
    epsilon: float,
    delta: float,
    sampling_rate: float,
    steps: int,
    event_for: Callable[[float], SampledSkellam],
) -> float:
    """Return the smallest noise multiplier whose `steps` sampled Skellam mechanisms cost at most `epsilon` at `delta`.

    The result is at most 1e-3 (relative) above the smallest, and its event never costs more than `epsilon`. Noise
    multipliers with the same whole variance count as equal; where 0.01 suffices, nothing below is looked for.

    Args:
        epsilon: target, > 0 and finite.
        delta: in (0, 1).
        sampling_rate: in (0, 1].
        steps: how often the event happens over the whole job, >= 1.
        event_for: the event of one step at a wanted noise multiplier, with the variance and the bounds that rounding
            leaves; must cost no more the more noise is wanted. It is asked for up to twice the result.

    Raises:
        ConfigError: a value is nonsense, an event has another sampling rate, or no noise multiplier up to 1e6 reaches
            the target; whatever `event_for` raises.
    """
    _check_target(epsilon)
    check_delta(delta)
    SampledGaussian(sampling_rate, 1.0, steps)

    def needed(noise_multiplier: float) -> float:
        event = event_for(noise_multiplier)
        if event.sampling_rate != sampling_rate:
            raise out_of_range("event's sampling_rate", event.sampling_rate, f"that of the job, {sampling_rate!r}")
        return best_epsilon(merged([(event, steps)]), delta)

    return _least_noise(needed, epsilon)


def _check_target(epsilon: float) -> None:
    if not (math.isfinite(epsilon) and epsilon > 0.0):
        raise out_of_range("epsilon", epsilon, "a finite number above 0")


def _check_accountant(accountant: str) -> None:
    if accountant not in get_args(Accountant):
        raise out_of_range("accountant", accountant, "one of " + ", ".join(get_args(Accountant)))


def _asked(history: History, delta: float, accountant: Accountant) -> Accountant:
    """The accountant to ask beside ``rdp``; that one itself where no other can be."""
    return accountant if history and tight.can_be_asked(history, delta) else "rdp"


@lru_cache(maxsize=4096)
def _cost(history: History, delta: float, accountant: Accountant) -> Cost:
    by_rdp, who = best_epsilon(history, delta), _asked(history, delta, accountant)
    if who == "rdp":
        return Cost(by_rdp, "rdp")
    found = tight.epsilon_pld(history, delta) if who == "pld" else tight.epsilon_prv(history, delta)
    return Cost(found, who) if found <= by_rdp else Cost(by_rdp, "rdp")


@lru_cache(maxsize=256)
def _calibrate(target: float, delta: float, sampling_rate: float, steps: int, accountant: Accountant) -> float:
    def needed(noise_multiplier: float) -> float:
        return _cost((SampledGaussian(sampling_rate, noise_multiplier, steps),), delta, accountant).epsilon

    return _least_noise(needed, target)


def _least_noise(cost: Callable[[float], float], target: float) -> float:
    """Return a noise multiplier whose cost is at most `target`, within RELATIVE_TOLERANCE of the least such.

    Args:
        cost: epsilon of a noise multiplier; falls as it grows, steps are allowed.
        target: epsilon, > 0 and finite; all but _LEFT of it is used.

    Raises:
        ConfigError: LARGEST_NOISE_MULTIPLIER does not reach the target.
    """
    from scipy.optimize import brentq

    target *= 1.0 - _LEFT

    def excess(log_noise: float) -> float:
        """Logarithm of epsilon over the target: close to a straight line, so that few evaluations suffice."""
        return math.log(min(max(cost(math.exp(log_noise)), 1e-300), 1e300)) - math.log(target)

    if cost(SMALLEST_NOISE_MULTIPLIER) <= target:
        return SMALLEST_NOISE_MULTIPLIER
    low = high = 0.0
    while excess(high) > 0.0:
        low, high = high, high + math.log(2.0)
        if high > math.log(LARGEST_NOISE_MULTIPLIER):
            expected = f"a target that a noise multiplier of {LARGEST_NOISE_MULTIPLIER:g} reaches"
            raise out_of_range("epsilon", target, expected)
    while excess(low) <= 0.0:
        low, high = low - math.log(2.0), low
    root = brentq(excess, low, high, xtol=RELATIVE_TOLERANCE / 5, rtol=1e-12)
    # The root may lie on either side of the target: step up until the cost is covered.
    while excess(root) > 0.0:
        root += RELATIVE_TOLERANCE / 5
    return math.exp(root)
