"""From mechanism events to (epsilon, delta), and back from a target epsilon to a noise multiplier. Pure.

Neighbouring relation throughout: add or remove one unit. Three accountants answer the same question:

* ``pld``: privacy-loss distributions (Koskela et al. 2020; Doroshenko et al. 2022, "connect the dots"), from
  dp_accounting. An upper bound; the default.
* ``prv``: privacy random variables (Gopi, Lee and Wutschitz 2021), from Opacus. Written by other people from another
  paper, so each of the two checks the other. An upper bound, by its own error estimate.
* ``rdp``: Rényi differential privacy (Mironov 2017; Mironov, Talwar and Zhang 2019), from dp_accounting, at whole
  orders. Looser; needed where parameters of later events depend on earlier results (see `yoriai.privacy.ledger`), and
  the only one for Skellam noise: a history with any of it is answered by ``rdp``, whoever was asked.

The heavy libraries are imported inside the functions: importing this module costs nothing.
"""

import math
import warnings
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, Literal, TypeAlias, get_args

from yoriai.privacy.events import (
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
from yoriai.privacy.renyi import (
    best_epsilon,
    check_delta,
    epsilon_at_order,
    gaussian_dp_event,
    renyi_divergence,
)

__all__ = [
    "SAMPLER_ERROR",
    "Accountant",
    "Event",
    "SampledGaussian",
    "SampledSkellam",
    "answering",
    "calibrate",
    "calibrate_skellam",
    "epsilon",
    "epsilon_at_order",
    "event_from_dict",
    "event_to_dict",
    "renyi_divergence",
]

Accountant: TypeAlias = Literal["pld", "prv", "rdp"]

RELATIVE_TOLERANCE = 1e-3
SMALLEST_NOISE_MULTIPLIER, LARGEST_NOISE_MULTIPLIER = 1e-6, 1e6

# Epsilon is computed on a grid. Its step follows the size of the answer (as RDP, which is cheap, bounds it), so that a
# small epsilon is not drowned by the grid and a large one does not take minutes and gigabytes.
_PLD_GRID_SHARE, _PLD_GRID_RANGE = 1e-4, (1e-5, 1e-2)
_PRV_GRID_SHARE, _PRV_GRID_RANGE = 2.5e-3, (1e-3, 1e-1)

# Above this RDP bound, which is an upper bound too and means no privacy anyway, the tight accountants are not asked:
# Opacus overflows, and the grid of a privacy-loss distribution takes minutes and gigabytes. A hostile job's tiny noise
# must not stall a site.
_LARGEST_TIGHT = 200.0


def epsilon(
    events: Iterable[tuple[Event, int] | Event],
    delta: float,
    accountant: Accountant = "pld",
) -> float:
    """Return the epsilon that a history of events costs at `delta`; 0.0 for an empty history.

    Infinity where no epsilon holds: where the error of the Skellam sampler uses up delta. The answer is an upper bound
    up to the accountant's own floating-point error, and is cached by history.

    Args:
        events: events, or pairs of an event and how often it happened (0 is allowed).
        delta: in (0, 1).
        accountant: ``pld``, ``prv`` or ``rdp``.

    Raises:
        ConfigError: delta, accountant or a count is nonsense.
    """
    check_delta(delta)
    _check_accountant(accountant)
    history = merged(events)
    if not history:
        return 0.0
    return _epsilon(history, delta, accountant)


def answering(events: Iterable[tuple[Event, int] | Event], delta: float, accountant: Accountant = "pld") -> Accountant:
    """Return the accountant whose answer `epsilon` gives: the one asked for, or ``rdp`` where the others are not asked.

    That is where the history holds Skellam noise, and where the bound of ``rdp`` is above 200. Arguments and errors are
    those of `epsilon`.
    """
    check_delta(delta)
    _check_accountant(accountant)
    return _answering(merged(events), delta, accountant)


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
    by the same accountant. Where 1e-6 suffices, nothing below is looked for.

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
    multipliers with the same whole variance count as equal; where 1e-6 suffices, nothing below is looked for.

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

    def cost(noise_multiplier: float) -> float:
        event = event_for(noise_multiplier)
        if event.sampling_rate != sampling_rate:
            raise out_of_range("event's sampling_rate", event.sampling_rate, f"that of the job, {sampling_rate!r}")
        return best_epsilon(merged([(event, steps)]), delta)

    return _least_noise(cost, epsilon)


def _check_target(epsilon: float) -> None:
    if not (math.isfinite(epsilon) and epsilon > 0.0):
        raise out_of_range("epsilon", epsilon, "a finite number above 0")


def _check_accountant(accountant: str) -> None:
    if accountant not in get_args(Accountant):
        raise out_of_range("accountant", accountant, "one of " + ", ".join(get_args(Accountant)))


def _answering(history: History, delta: float, accountant: Accountant) -> Accountant:
    if any(isinstance(event, SampledSkellam) for event in history):
        return "rdp"
    return "rdp" if history and best_epsilon(history, delta) > _LARGEST_TIGHT else accountant


@lru_cache(maxsize=4096)
def _epsilon(history: History, delta: float, accountant: Accountant) -> float:
    by_rdp = best_epsilon(history, delta)
    who = _answering(history, delta, accountant)
    if who == "pld":
        return _epsilon_pld(history, delta, _grid(by_rdp, _PLD_GRID_SHARE, _PLD_GRID_RANGE))
    if who == "prv":
        return _epsilon_prv(history, delta, _grid(by_rdp, _PRV_GRID_SHARE, _PRV_GRID_RANGE))
    return by_rdp


def _grid(epsilon_bound: float, share: float, limits: tuple[float, float]) -> float:
    return min(max(share * epsilon_bound, limits[0]), limits[1])


def _epsilon_pld(history: History, delta: float, grid: float) -> float:
    import dp_accounting
    from dp_accounting import pld

    relation = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
    accountant = pld.PLDAccountant(relation, value_discretization_interval=grid)
    for event in _gaussians(history):
        accountant.compose(gaussian_dp_event(event), event.steps)
    return float(accountant.get_epsilon(delta))


def _epsilon_prv(history: History, delta: float, grid: float) -> float:
    import numpy as np
    from opacus.accountants import PRVAccountant

    accountant: Any = PRVAccountant()
    accountant.history = [(e.noise_multiplier, e.sampling_rate, e.steps) for e in _gaussians(history)]
    # Opacus warns of its own logarithm of zero at sampling_rate 1 and of the RDP order that it sizes its grid with;
    # neither bears on the bound.
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return float(accountant.get_epsilon(delta, eps_error=grid))


def _gaussians(history: History) -> list[SampledGaussian]:
    """The events, all of which are Gaussians wherever a tight accountant answers."""
    return [event for event in history if isinstance(event, SampledGaussian)]


@lru_cache(maxsize=256)
def _calibrate(target: float, delta: float, sampling_rate: float, steps: int, accountant: Accountant) -> float:
    def cost(noise_multiplier: float) -> float:
        return _epsilon((SampledGaussian(sampling_rate, noise_multiplier, steps),), delta, accountant)

    return _least_noise(cost, target)


def _least_noise(cost: Callable[[float], float], target: float) -> float:
    """Return a noise multiplier whose cost is at most `target`, within RELATIVE_TOLERANCE of the least such.

    Args:
        cost: epsilon of a noise multiplier; falls as it grows, steps are allowed.
        target: epsilon, > 0 and finite.

    Raises:
        ConfigError: LARGEST_NOISE_MULTIPLIER does not reach the target.
    """
    from scipy.optimize import brentq

    def excess(log_noise: float) -> float:
        """Logarithm of epsilon over the target: close to a straight line, so that few evaluations suffice."""
        return math.log(min(max(cost(math.exp(log_noise)), 1e-300), 1e300)) - math.log(target)

    low = high = 0.0
    while excess(high) > 0.0:
        low, high = high, high + math.log(2.0)
        if high > math.log(LARGEST_NOISE_MULTIPLIER):
            expected = f"a target that a noise multiplier of {LARGEST_NOISE_MULTIPLIER:g} reaches"
            raise out_of_range("epsilon", target, expected)
    while excess(low) <= 0.0:
        if low < math.log(SMALLEST_NOISE_MULTIPLIER):
            return math.exp(low)
        low, high = low - math.log(2.0), low
    root = brentq(excess, low, high, xtol=RELATIVE_TOLERANCE / 5, rtol=1e-12)
    # The root may lie on either side of the target: step up until the cost is covered.
    while excess(root) > 0.0:
        root += RELATIVE_TOLERANCE / 5
    return math.exp(root)
