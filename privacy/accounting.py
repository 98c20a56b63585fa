"""From mechanism events to (epsilon, delta), and back from a target epsilon to a noise multiplier. Pure.

Neighbouring relation throughout: add or remove one unit. Three accountants answer the same question:

* ``pld``: privacy-loss distributions (Koskela et al. 2020; Doroshenko et al. 2022, "connect the dots"), from
  dp_accounting. An upper bound; the default.
* ``prv``: privacy random variables (Gopi, Lee and Wutschitz 2021), from Opacus. Written by other people from another
  paper, so each of the two checks the other. An upper bound, by its own error estimate.
* ``rdp``: Rényi differential privacy (Mironov 2017; Mironov, Talwar and Zhang 2019), from dp_accounting, at whole
  orders. Looser; needed where parameters of later events depend on earlier results (see `yoriai.privacy.ledger`).

The heavy libraries are imported inside the functions: importing this module costs nothing.
"""

import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal, TypeAlias, get_args

from yoriai.errors import ConfigError

Accountant: TypeAlias = Literal["pld", "prv", "rdp"]

RELATIVE_TOLERANCE = 1e-3
LARGEST_NOISE_MULTIPLIER = 1e6

# Epsilon is computed on a grid. Its step follows the size of the answer (as RDP, which is cheap, bounds it), so that a
# small epsilon is not drowned by the grid and a large one does not take minutes and gigabytes.
_PLD_GRID_SHARE, _PLD_GRID_RANGE = 1e-4, (1e-5, 1e-2)
_PRV_GRID_SHARE, _PRV_GRID_RANGE = 2.5e-3, (1e-3, 1e-1)

# Above this RDP bound, which is an upper bound too and means no privacy anyway, the tight accountants are not asked:
# Opacus overflows, and the grid of a privacy-loss distribution takes minutes and gigabytes. A hostile job's tiny noise
# must not stall a site.
_LARGEST_TIGHT = 200.0

# Whole orders only: for these the divergence of the sampled Gaussian is a finite sum, whereas the series for
# fractional orders often fails to converge.
_RDP_ORDERS = (*range(2, 64), *range(64, 256, 8), 256, 320, 384, 512, 768, 1024)


@dataclass(frozen=True)
class SampledGaussian:
    """The event of `steps` Poisson-sampled Gaussian mechanisms, each run on a fresh sample.

    Args:
        sampling_rate: probability, in (0, 1], with which each unit takes part in one step.
        noise_multiplier: standard deviation of the noise over the L2 sensitivity (the clip norm); > 0.
        steps: number of such mechanisms; >= 1.

    Raises:
        ConfigError: a value is outside its range.
    """

    sampling_rate: float
    noise_multiplier: float
    steps: int = 1

    def __post_init__(self) -> None:
        if not 0.0 < self.sampling_rate <= 1.0:
            raise _out_of_range("sampling_rate", self.sampling_rate, "a probability above 0, at most 1")
        if not (math.isfinite(self.noise_multiplier) and self.noise_multiplier > 0.0):
            raise _out_of_range("noise_multiplier", self.noise_multiplier, "a finite number above 0")
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise _out_of_range("steps", self.steps, "a whole number of at least 1")


Event: TypeAlias = SampledGaussian

# Equal mechanisms merged and sorted: (sampling_rate, noise_multiplier, steps). Composition does not depend on the
# order, so one history has one key in the cache.
_History: TypeAlias = tuple[tuple[float, float, int], ...]


def epsilon(
    events: Iterable[tuple[Event, int] | Event],
    delta: float,
    accountant: Accountant = "pld",
) -> float:
    """Return the epsilon that a history of events costs at `delta`; 0.0 for an empty history.

    The answer is an upper bound up to the accountant's own floating-point error, and is cached by history.

    Args:
        events: events, or pairs of an event and how often it happened (0 is allowed).
        delta: in (0, 1).
        accountant: ``pld``, ``prv`` or ``rdp``.

    Raises:
        ConfigError: delta, accountant or a count is nonsense.
    """
    _check_delta(delta)
    _check_accountant(accountant)
    history = _merged(events)
    return _epsilon(history, delta, accountant) if history else 0.0


def answering(events: Iterable[tuple[Event, int] | Event], delta: float, accountant: Accountant = "pld") -> Accountant:
    """Return the accountant whose answer `epsilon` gives: the one asked for, or ``rdp`` where its bound is above 200.

    There the others are not asked. Arguments and errors are those of `epsilon`.
    """
    _check_delta(delta)
    _check_accountant(accountant)
    history = _merged(events)
    return "rdp" if history and _epsilon_rdp(history, delta) > _LARGEST_TIGHT else accountant


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
    by the same accountant.

    Args:
        epsilon: target, > 0 and finite.
        delta: in (0, 1).
        sampling_rate: in (0, 1].
        steps: over the whole job, >= 1.
        accountant: ``pld``, ``prv`` or ``rdp``.

    Raises:
        ConfigError: a value is nonsense, or no noise multiplier up to 1e6 reaches the target.
    """
    if not (math.isfinite(epsilon) and epsilon > 0.0):
        raise _out_of_range("epsilon", epsilon, "a finite number above 0")
    _check_delta(delta)
    _check_accountant(accountant)
    SampledGaussian(sampling_rate, 1.0, steps)
    return _calibrate(epsilon, delta, sampling_rate, steps, accountant)


def event_to_dict(event: Event) -> dict[str, Any]:
    """Return the event as plain values for JSON; `event_from_dict` is the inverse."""
    return {"kind": "sampled_gaussian", **asdict(event)}


def event_from_dict(values: Mapping[str, Any]) -> Event:
    """Read an event that `event_to_dict` wrote.

    Raises:
        ConfigError: the kind is unknown, a key is missing or superfluous, or a value is out of range.
    """
    if values.get("kind") != "sampled_gaussian":
        raise ConfigError("unknown privacy event", found=repr(values.get("kind")), expected="'sampled_gaussian'")
    keys = {"kind", "sampling_rate", "noise_multiplier", "steps"}
    if set(values) != keys:
        raise ConfigError("malformed privacy event", found=str(sorted(values)), expected=str(sorted(keys)))
    for key in ("sampling_rate", "noise_multiplier"):
        if isinstance(values[key], bool) or not isinstance(values[key], int | float):
            raise _out_of_range(key, values[key], "a number")
    return SampledGaussian(float(values["sampling_rate"]), float(values["noise_multiplier"]), values["steps"])


def _out_of_range(name: str, found: object, expected: str) -> ConfigError:
    return ConfigError(f"privacy accounting cannot use this {name}", found=repr(found), expected=expected)


def _check_delta(delta: float) -> None:
    if not 0.0 < delta < 1.0:
        raise _out_of_range("delta", delta, "a probability above 0 and below 1")


def _check_accountant(accountant: str) -> None:
    if accountant not in get_args(Accountant):
        raise _out_of_range("accountant", accountant, "one of " + ", ".join(get_args(Accountant)))


def _merged(events: Iterable[tuple[Event, int] | Event]) -> _History:
    steps: dict[tuple[float, float], int] = {}
    for item in events:
        event, count = item if isinstance(item, tuple) else (item, 1)
        if count < 0:
            raise _out_of_range("count of an event", count, "a whole number of at least 0")
        key = (float(event.sampling_rate), float(event.noise_multiplier))
        steps[key] = steps.get(key, 0) + event.steps * count
    return tuple((rate, noise, n) for (rate, noise), n in sorted(steps.items()) if n)


@lru_cache(maxsize=4096)
def _epsilon(history: _History, delta: float, accountant: Accountant) -> float:
    by_rdp = _epsilon_rdp(history, delta)
    if accountant == "rdp" or by_rdp > _LARGEST_TIGHT:
        return by_rdp
    if accountant == "pld":
        return _epsilon_pld(history, delta, _grid(by_rdp, _PLD_GRID_SHARE, _PLD_GRID_RANGE))
    return _epsilon_prv(history, delta, _grid(by_rdp, _PRV_GRID_SHARE, _PRV_GRID_RANGE))


def _grid(epsilon_bound: float, share: float, limits: tuple[float, float]) -> float:
    return min(max(share * epsilon_bound, limits[0]), limits[1])


def _compose(accountant: Any, history: _History) -> Any:
    import dp_accounting

    for rate, noise, steps in history:
        event = dp_accounting.GaussianDpEvent(noise)
        # Without sampling, the plain Gaussian is the same mechanism and the cheaper and more exact formula.
        accountant.compose(event if rate == 1.0 else dp_accounting.PoissonSampledDpEvent(rate, event), steps)
    return accountant


def _epsilon_rdp(history: _History, delta: float) -> float:
    import dp_accounting
    from dp_accounting import rdp

    relation = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
    accountant = _compose(rdp.RdpAccountant(_RDP_ORDERS, relation), history)
    return float(accountant.get_epsilon(delta))


def _epsilon_pld(history: _History, delta: float, grid: float) -> float:
    import dp_accounting
    from dp_accounting import pld

    relation = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
    accountant = _compose(pld.PLDAccountant(relation, value_discretization_interval=grid), history)
    return float(accountant.get_epsilon(delta))


def _epsilon_prv(history: _History, delta: float, grid: float) -> float:
    import numpy as np
    from opacus.accountants import PRVAccountant

    accountant: Any = PRVAccountant()
    accountant.history = [(noise, rate, steps) for rate, noise, steps in history]
    # Opacus warns of its own logarithm of zero at sampling_rate 1 and of the RDP order that it sizes its grid with;
    # neither bears on the bound.
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return float(accountant.get_epsilon(delta, eps_error=grid))


@lru_cache(maxsize=256)
def _calibrate(target: float, delta: float, sampling_rate: float, steps: int, accountant: Accountant) -> float:
    from scipy.optimize import brentq

    def excess(log_noise: float) -> float:
        """Logarithm of epsilon over the target: close to a straight line, so that few evaluations suffice."""
        cost = _epsilon(((sampling_rate, math.exp(log_noise), steps),), delta, accountant)
        return math.log(max(cost, 1e-300) / target)

    low = high = 0.0
    while excess(high) > 0.0:
        low, high = high, high + math.log(2.0)
        if high > math.log(LARGEST_NOISE_MULTIPLIER):
            expected = f"a target that a noise multiplier of {LARGEST_NOISE_MULTIPLIER:g} reaches"
            raise _out_of_range("epsilon", target, expected)
    while excess(low) <= 0.0:
        low, high = low - math.log(2.0), low
    root = brentq(excess, low, high, xtol=RELATIVE_TOLERANCE / 5, rtol=1e-12)
    # The root may lie on either side of the target: step up until the cost is covered.
    while excess(root) > 0.0:
        root += RELATIVE_TOLERANCE / 5
    return math.exp(root)
