"""Rényi divergence of the Poisson-sampled Skellam mechanism at whole orders. Pure.

Let P be the noise alone, symmetric Skellam with variance V on each coordinate, and Q the noise shifted by one unit's
integer vector, of L2 norm D2 and L1 norm D1. Agarwal, Kairouz and Liu (2021, corollary to their main theorem) bound

    D_a(Q || P) <= a D2² / (2 V) + min(((2 a - 1) D2² + 6 D1) / (4 V²), 3 D1 / (2 V)).

The first summand is the divergence of a Gaussian of the same variance; the second is what being discrete costs, and
vanishes like 1 / V² once the noise is wide.

A unit that is drawn with probability q turns P into (1 - q) P + q Q. At a whole order the divergence of the mixture is
a finite sum, by the binomial theorem with E_P[(Q/P)^k] = exp((k - 1) D_k(Q || P)):

    exp((a - 1) D_a(mixture || P)) = sum over k of C(a, k) (1 - q)^(a - k) q^k exp((k - 1) D_k(Q || P)),

in which the summands of k = 0 and 1 are exact and the bound stands in for D_k in the others. No factor is lost, unlike
in the general bound for Poisson sampling. The other direction, a unit removed, costs no more:
docs/distributed-noise.md has the argument, and why random rounding of the vectors changes nothing.
"""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from yoriai.privacy.dp.events import SampledSkellam

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]


def sampled_skellam_divergences(event: SampledSkellam, orders: Sequence[int]) -> tuple[float, ...]:
    """Return a bound on the Rényi divergence of one step of `event`, in either direction, at each order.

    Guarantee: an upper bound up to the rounding of doubles, about 1e-12 relative; `event.steps` does not enter.
    Neighbouring relation: add or remove one unit.
    Sensitivity: the event's `squared_l2` and `l1`, for every outcome of the rounding.
    Assumes: the sites' true Skellam noise; honest noise of the event's variance on every coordinate; units drawn
        independently of each other and of the data.
    Does not cover: the error of the sampler's table, which `yoriai.privacy.dp.renyi` charges to delta.

    Args:
        event: the mechanism.
        orders: whole numbers, >= 2; not empty.

    Returns:
        One divergence an order, in the order given.

    Reference: Agarwal, Kairouz and Liu 2021; Mironov, Talwar and Zhang 2019, section 3.3, for the expansion.
    """
    return sampled_divergences(event.sampling_rate, lambda k: _shift_divergences(event, k), orders)


def sampled_divergences(
    sampling_rate: float, shift_divergences: "Callable[[FloatArray], FloatArray]", orders: Sequence[int]
) -> tuple[float, ...]:
    """Return the divergence of one Poisson-sampled step at each order, from those of the noise shifted by one unit.

    The finite sum above, for whatever noise. Relative rounding only, about 1e-12: a tiny divergence keeps its digits.

    Args:
        sampling_rate: q, in (0, 1].
        shift_divergences: D_k(Q || P), or a bound on it, at each of the orders k = 2, 3, ... given.
        orders: whole numbers, >= 2; not empty.
    """
    import numpy as np

    k = np.arange(2.0, max(orders) + 1.0)
    with np.errstate(over="ignore"):
        log_moments = (k - 1.0) * shift_divergences(k)
    if sampling_rate == 1.0:
        return tuple(float(log_moments[order - 2]) / (order - 1) for order in orders)
    # The weights C(a, k) (1 - q)^(a - k) q^k add up to 1. Taking that 1 out leaves positive summands exp(x) - 1 alone,
    # those of k = 0 and 1 vanish, and divergences far below a double's resolution of 1 keep all their digits.
    with np.errstate(divide="ignore"):  # What underflows is below any divergence that matters.
        log_gains = log_moments + np.log(-np.expm1(-log_moments))
    log_factorials = np.array([math.lgamma(n + 1.0) for n in range(max(orders) + 1)])
    log_drawn, log_not_drawn = math.log(sampling_rate), math.log1p(-sampling_rate)

    def divergence(order: int) -> float:
        some = slice(0, order - 1)  # k = 2 to order
        log_choices = log_factorials[order] - log_factorials[2 : order + 1] - log_factorials[some][::-1]
        log_terms = log_choices + (order - k[some]) * log_not_drawn + k[some] * log_drawn + log_gains[some]
        return float(np.logaddexp(0.0, np.logaddexp.reduce(log_terms))) / (order - 1)

    return tuple(divergence(order) for order in orders)


def _shift_divergences(event: SampledSkellam, orders: "FloatArray") -> "FloatArray":
    """Return the bound on D_a(Q || P) at each order; it increases with the order and with either norm."""
    import numpy as np

    v, d2_squared, d1 = float(event.variance), float(event.squared_l2), float(event.l1)
    gaussian = orders * d2_squared / (2.0 * v)
    discrete = np.minimum(((2.0 * orders - 1.0) * d2_squared + 6.0 * d1) / (4.0 * v * v), 3.0 * d1 / (2.0 * v))
    return np.asarray(gaussian + discrete)
