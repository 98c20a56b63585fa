"""Conditional stochastic rounding: a clipped vector becomes integers whose L2 norm has a bound that is certain.

Rounded up or down at random, a vector keeps its expectation, but may grow by up to sqrt(size) in length. Noise
calibrated to that worst case would be wasted; so a rounding that grew by more than is likely is drawn again (Kairouz,
Liu and Steinke 2021, "The distributed discrete Gaussian mechanism for federated learning with secure aggregation",
theorem 1 and algorithm 1). With s the integers in one clip norm and d coordinates, the squared norm is at most

    min{ s^2 + d/4 + sqrt(2 ln(1/beta)) (s + sqrt(d)/2), (s + sqrt(d))^2 }

with a probability of at least 1 - beta: the first by concentration, the second always. Here beta = exp(-1/2). That
makes the root 1, so that the first is never the larger one for s >= 1, and rejects at most 0.61 of the drawings. At
`skellam_shares`' scale it is 1 in 200 for a vector of full length, 1 in 8 where every coordinate ends in .5.
"""

import math

import numpy as np
import numpy.typing as npt

from yoriai.privacy.dp.randomness import RandomSource

REDRAWS = 64
"""All of them fail with a probability below 0.61**64 < 2e-14 a vector, one that was clipped."""

_BLOCK = 1 << 16


def squared_l2(scale: int, size: int) -> int:
    """Bound on the squared L2 norm of a rounded vector: the formula above, rounded down, exact.

    Args:
        scale: integers in one clip norm, s, >= 1.
        size: coordinates, d, >= 1.
    """
    return scale**2 + scale + (size + math.isqrt(4 * size)) // 4


def l1_bound(scale: int, size: int) -> int:
    """Bound on the L1 norm of a rounded vector: by Cauchy and Schwarz, and because |x| <= x^2 for whole numbers."""
    squared = squared_l2(scale, size)
    return min(math.isqrt(size * squared), squared)


def round_vector(vector: npt.NDArray[np.float64], scale: int, source: RandomSource) -> npt.NDArray[np.int64]:
    """Round a scaled vector to integers at random, with a squared L2 norm of at most `squared_l2(scale, size)`.

    Guarantee: the bound holds for whatever is handed in. It is checked in whole numbers on the result, so that no
        floating point, here or before, bears on it. No privacy by itself.
    Neighbouring relation: add or remove one unit, one vector.
    Sensitivity: the sum of rounded vectors moves by at most sqrt(squared_l2) in L2 and `l1_bound` in L1.
    Assumes: the caller scaled the clipped vector to a norm of at most `scale`; otherwise accuracy suffers, never the
        bound. Vectors are rounded one by one, each with draws of its own.
    Does not cover: timing. How often a rounding is drawn again depends on the vector.
    Event it costs: none by itself; the bounds enter that of the noise.
    Edge cases: a vector that is not finite, or longer than twice `scale`, becomes zero; one whose roundings are all
        too long is rounded towards zero, which makes no vector longer; one that is too long even then becomes zero.
        Nothing is raised: under privacy no record may decide whether a round goes on.

    A coordinate goes up with its fraction's probability, within 2**-32: 32 random bits decide. Privacy does not rest
    on that probability, only on the norm; and conditioning on the norm biases the result by more than that.

    Args:
        vector: (size,) float64, in integers a unit of length. Not changed.
        scale: integers in one clip norm.
        source: cryptographic randomness; half a word a coordinate and draw.

    Returns:
        (size,) int64.

    Reference: Kairouz, Liu and Steinke 2021, algorithm 1.
    """
    rounded = np.zeros(vector.size, dtype=np.int64)
    with np.errstate(over="ignore", invalid="ignore"):
        # Not by BLAS: it would wake its threads for a moment's work, and wait for them wherever the cores are taken.
        squared_norm = float(np.einsum("i,i->", vector, vector))
    # Not a number compares as false. What passes has squares that add up to far less than 2**63.
    if not squared_norm <= (2.0 * scale) ** 2:
        return rounded
    bound = squared_l2(scale, vector.size)
    for _ in range(REDRAWS):
        if _draw(vector, rounded, source) <= bound:
            return rounded
    rounded[...] = np.trunc(vector)
    if int(np.dot(rounded, rounded)) > bound:
        rounded[...] = 0
    return rounded


def _draw(vector: npt.NDArray[np.float64], rounded: npt.NDArray[np.int64], source: RandomSource) -> int:
    """Fill `rounded` with one stochastic rounding and return its squared L2 norm, exact."""
    squared = 0
    for first in range(0, vector.size, _BLOCK):
        values, out = vector[first : first + _BLOCK], rounded[first : first + _BLOCK]
        below = np.floor(values)
        bits = source.words((values.size + 1) // 2).view(np.uint32)[: values.size]
        out[...] = below
        out += bits * 2.0**-32 < values - below
        squared += int(np.dot(out, out))
    return squared
