"""The two tight accountants, PLD and PRV, as others have written them, within bounds of work and of rounding. Pure.

No event takes long. The work grows with the points of a grid, and the points are bounded: where they would be too many
the grid is made coarser, which can only make the answer larger. What the arithmetic may lose is set aside from delta
beforehand. Numbers were measured with dp_accounting 0.6.0 and Opacus 1.6.0; docs/decisions/0020 has the reasons.

The heavy libraries are imported inside the functions: importing this module costs nothing.
"""

import math
import warnings
from contextlib import suppress
from typing import Any

from yoriai.privacy.dp.events import History, SampledGaussian
from yoriai.privacy.dp.renyi import best_epsilon, gaussian_dp_event

# Epsilon is computed on a grid. Its step follows the size of the answer (as RDP, which is cheap, bounds it), so that a
# small epsilon is not drowned by the grid and a large one does not take minutes and gigabytes.
_PLD_GRID_SHARE, _PLD_GRID_RANGE = 1e-4, (1e-5, 1e-2)
_PRV_GRID_SHARE, _PRV_GRID_RANGE = 2.5e-3, (1e-3, 1e-1)

# Most points of a grid, whatever the event: some 4 s and 0.3 GB, or 8 s and 0.8 GB, on one core.
_PLD_POINTS, _PRV_POINTS = 2**19, 2**22
# Opacus' choice of a domain is argued for errors in epsilon that are well below 1.
_LARGEST_PRV_GRID = 0.5

# What rounding may take from a delta that the tight accountants find, a step: doubles have 2^-53, and their Fourier
# transforms are raised to the power of the steps. Eight times what was seen against extended precision. It is set aside
# before they are asked, and they are not asked where it is no longer small beside delta.
ROUNDING, _LARGEST_ROUNDING_SHARE = 2.0**-49, 0.1
# Nor are they above an RDP bound that means no privacy anyway (Opacus overflows), nor at rates beside which 1 is no
# longer told from 1 + rate with enough digits.
_LARGEST_TIGHT = 200.0
_SMALLEST_TIGHT_RATE = 1e-6

# Of a Gaussian, in standard deviations: dp_accounting cuts tails of e^-50 off. Of a composition: tails of 1e-15.
_TAIL_DEVIATIONS, _COMPOSED_TAIL = 10.1, 1e-15


def can_be_asked(history: History, delta: float) -> bool:
    """Whether they have an answer that holds: of Gaussians alone, and where doubles suffice.

    Args:
        history: as `merged` returns it; not empty.
        delta: in (0, 1).
    """
    return (
        _rounding(history) <= _LARGEST_ROUNDING_SHARE * delta
        and all(isinstance(e, SampledGaussian) and e.sampling_rate >= _SMALLEST_TIGHT_RATE for e in history)
        and best_epsilon(history, delta) <= _LARGEST_TIGHT
    )


def epsilon_pld(history: History, delta: float) -> float:
    """Return epsilon by privacy-loss distributions; infinity where they find none.

    Args:
        history: as `merged` returns it, of a kind that `can_be_asked` about.
        delta: in (0, 1).
    """
    import dp_accounting
    from dp_accounting import pld

    relation, gaussians = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE, _gaussians(history)
    grid = _grid(history, delta, _PLD_GRID_SHARE, _PLD_GRID_RANGE)
    widest = max(2.0 * best_epsilon(history, _COMPOSED_TAIL), *map(_losses_of_one, gaussians))
    accountant = pld.PLDAccountant(relation, value_discretization_interval=max(grid, widest / _PLD_POINTS))
    try:
        for event in gaussians:
            accountant.compose(gaussian_dp_event(event), event.steps)
        # Infinity where the tails that were cut off exceed delta.
        return float(accountant.get_epsilon(delta - _rounding(history)))
    except (ValueError, OverflowError):  # Logarithms that cancel beside a rate of 1 - 1e-13, exponents out of range.
        return math.inf


def _losses_of_one(event: SampledGaussian) -> float:
    """Width, about, of the range of one step's privacy losses, tails cut off as dp_accounting does.

    The loss of a sampled Gaussian is ln(1 - q + q e^x) or its negative, x that of the Gaussian alone.
    """
    whole = (_TAIL_DEVIATIONS + 0.5 / event.noise_multiplier) / event.noise_multiplier
    if event.sampling_rate == 1.0:
        return 2.0 * whole
    above = max(0.0, whole + math.log(event.sampling_rate)) + math.log(2.0)
    return above + min(whole, -math.log1p(-event.sampling_rate))


def epsilon_prv(history: History, delta: float) -> float:
    """Return epsilon by privacy random variables; infinity where they find none.

    Args:
        history: as `merged` returns it, of a kind that `can_be_asked` about.
        delta: in (0, 1).
    """
    import numpy as np
    from opacus.accountants import PRVAccountant
    from opacus.accountants.analysis.prv import PoissonSubsampledGaussianPRV, compute_safe_domain_size

    gaussians, left = _gaussians(history), delta - _rounding(history)
    grid, delta_error = _grid(history, delta, _PRV_GRID_SHARE, _PRV_GRID_RANGE), left / 1000.0
    accountant: Any = PRVAccountant()
    accountant.history = [(e.noise_multiplier, e.sampling_rate, e.steps) for e in gaussians]
    # Opacus warns of its own logarithm of zero at sampling_rate 1 and of the RDP order that it sizes its grid with;
    # neither bears on the bound.
    with warnings.catch_warnings(), np.errstate(all="ignore"), suppress(ValueError, OverflowError, RuntimeError):
        warnings.simplefilter("ignore")
        half = compute_safe_domain_size(
            prvs=[PoissonSubsampledGaussianPRV(e.sampling_rate, e.noise_multiplier) for e in gaussians],
            max_self_compositions=[e.steps for e in gaussians],
            eps_error=grid,
            delta_error=delta_error,
        )
        # Gopi, Lee and Wutschitz 2021, theorem 5.5: points of a grid are this root times the width over the error.
        root = math.sqrt(sum(e.steps for e in gaussians) * math.log(12.0 / delta_error) / 2.0)
        grid = max(grid, 2.0 * half * root / _PRV_POINTS)
        if grid <= _LARGEST_PRV_GRID:
            # In this order, a NaN stays one, which is below no other answer.
            return max(float(accountant.get_epsilon(left, eps_error=grid, delta_error=delta_error)), 0.0)
    return math.inf  # Or its own checks of what floating point leaves of delta have failed.


def _gaussians(history: History) -> list[SampledGaussian]:
    """The events, all of which are Gaussians wherever a tight accountant answers."""
    return [event for event in history if isinstance(event, SampledGaussian)]


def _rounding(history: History) -> float:
    """What of delta is set aside."""
    return ROUNDING * sum(event.steps for event in history)


def _grid(history: History, delta: float, share: float, limits: tuple[float, float]) -> float:
    return min(max(share * best_epsilon(history, delta), limits[0]), limits[1])
