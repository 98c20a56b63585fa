"""Clip, sample, noise: the parts of DP-SGD (Abadi et al. 2016), each by itself. numpy only.

They meet in `yoriai.privacy.dp.dpsgd`; `gaussian_mechanism` returns its output together with the event that it costs.
"""

import math
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from yoriai.errors import ConfigError, TrainingError
from yoriai.privacy.dp.accounting import SampledGaussian
from yoriai.privacy.dp.randomness import RandomSource

FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]

# A release lies on a grid whose step is the deviation of the noise over 2**16, down to a power of two. So coarse that
# each step holds 2**30 doubles, for sums up to 64 deviations; so fine that it adds 2e-11 to the variance.
_GRID_BITS = 16
# Below it a grid would need exponents that a double does not have.
_LEAST_DEVIATION = 1e-200


def clip_factors(norms: FloatArray, clip_norm: float) -> npt.NDArray[np.float64]:
    """Return, for each unit, the factor that brings its gradient to an L2 norm of at most `clip_norm`.

    Guarantee: none by itself; it bounds the sensitivity that `gaussian_mechanism` relies on.
    Neighbouring relation: add or remove one unit (one row).
    Sensitivity: the sum of the rows times their factors moves by at most `clip_norm` in L2 between neighbours.
    Assumes: norms[i] is the L2 norm over all trainable coordinates of row i, taken in float64, and the product is too;
        the rounding of both (about 1e-15 relative) is neglected.
    Does not cover: a norm taken over a part of the coordinates; one unit that owns several rows.
    Event it costs: none.
    Edge cases:
        zero row: factor 1, and the row stays zero;
        row with NaN or infinity, or whose norm overflows: factor 0. The caller must still put `nan_to_num` on the rows
            before it multiplies, since 0 * NaN is NaN;
        empty batch: empty result.

    Args:
        norms: shape (units,), >= 0.
        clip_norm: bound on the L2 norm, > 0 and finite.

    Returns:
        Factors in [0, 1], shape (units,), float64.

    Raises:
        ConfigError: clip_norm is not a finite number above 0.

    Reference: Abadi et al. 2016, Algorithm 1, "Clip gradient".
    """
    _check_clip_norm(clip_norm)
    lengths = np.asarray(norms, dtype=np.float64)
    usable = np.isfinite(lengths)
    # A norm within the bound is replaced by the bound itself, so that its factor is exactly 1 and nothing divides by 0.
    factors = clip_norm / np.where(usable, np.maximum(lengths, clip_norm), np.inf)
    return np.asarray(factors, dtype=np.float64)


def poisson_sample(source: RandomSource, count: int, sampling_rate: float) -> npt.NDArray[np.int64]:
    """Return the indices of the units that take part in one step; each does, by itself, with `sampling_rate`.

    Guarantee: the independence that privacy amplification by sampling rests on (up to 2**-53 in the probability).
    Neighbouring relation: add or remove one unit; the choice of the others does not depend on it.
    Sensitivity: not applicable.
    Assumes: the sample, its size included, stays secret; a fresh draw for every step.
    Does not cover: fixed-size batches or shuffling, which cost more than the accountant would say; timing.
    Event it costs: none by itself; the rate enters the event of `gaussian_mechanism`.
    Edge cases: count 0, or nobody drawn: an empty array, and the step must still add its noise and be charged;
        sampling_rate 1: everybody.

    Args:
        source: cryptographic randomness; uses `count` uniforms.
        count: number of units, >= 0. It must not leave the site.
        sampling_rate: in (0, 1], from the job, never from the live count.

    Returns:
        Increasing indices in [0, count), int64.

    Raises:
        ConfigError: sampling_rate is outside (0, 1] or count is negative.

    Reference: Abadi et al. 2016, section 3.1; Mironov, Talwar and Zhang 2019.
    """
    if not 0.0 < sampling_rate <= 1.0:
        raise ConfigError(
            "sampling_rate does not fit", found=repr(sampling_rate), expected="a probability above 0, at most 1"
        )
    if count < 0:
        raise ConfigError("the number of units does not fit", found=repr(count), expected="at least 0")
    return np.flatnonzero(source.uniform(count) < sampling_rate).astype(np.int64, copy=False)


def gaussian_mechanism(
    total: FloatArray,
    *,
    clip_norm: float,
    noise_multiplier: float,
    sampling_rate: float,
    source: RandomSource,
) -> tuple[FloatArray, SampledGaussian]:
    """Add Gaussian noise of standard deviation noise_multiplier * clip_norm to every coordinate of a clipped sum.

    The result is rounded to a public grid, which takes away the low bits that would tell the sum (Mironov 2012). That
    is post-processing: it neither costs nor gains privacy on paper, and the event is that of the noise.

    Guarantee: (epsilon, delta)-differential privacy of the returned sum, for the pairs that
        `accounting.epsilon([event], delta)` gives.
    Neighbouring relation: add or remove one unit.
    Sensitivity: clip_norm in L2, of the sum over the sampled units.
    Assumes: every unit adds to `total` at most once, with an L2 norm of at most clip_norm (`clip_factors`); the units
        were drawn by `poisson_sample` at this sampling_rate, afresh for this step; the divisor that turns the sum into
        a mean comes from the job, not from the sample.
    Does not cover: one person who owns several units; one unit held at several sites; timing; the remainder of
        floating point that docs/decisions/0009-floating-point-noise.md bounds.
    Event it costs: SampledGaussian(sampling_rate, noise_multiplier), one step.
    Edge cases: empty batch: `total` is zero and the noise is added and charged all the same; zero row: no special
        case; NaN row: kept out by `clip_factors` with `nan_to_num`. A sum that is not finite all the same is refused,
        since it would be released as it stands.

    Args:
        total: clipped sum over the sampled units, any shape, float32 or float64. Not changed.
        clip_norm: bound on each unit's L2 norm, > 0.
        noise_multiplier: standard deviation of the noise over clip_norm, > 0.
        sampling_rate: in (0, 1], the rate the units were drawn with.
        source: cryptographic randomness; uses one Gaussian a coordinate.

    Returns:
        The noised sum on its grid, in the shape and type of `total` (addition and grid are in float64; the type comes
        after), and the event.

    Raises:
        ConfigError: a parameter is out of range, or the noise is too small to be a number.
        TrainingError: the sum holds a value that is not finite.

    Reference: Abadi et al. 2016, Algorithm 1, "Add noise"; Mironov 2012, section 5, for rounding to a grid.
    """
    _check_clip_norm(clip_norm)
    event = SampledGaussian(sampling_rate=sampling_rate, noise_multiplier=noise_multiplier)
    exact = np.asarray(total, dtype=np.float64)
    if not np.isfinite(exact).all():
        raise TrainingError(
            "the clipped gradient sum holds a value that is not finite",
            expected="rows made finite before they are multiplied by their clip factor",
        )
    deviation = noise_multiplier * clip_norm
    if not (math.isfinite(deviation) and deviation >= _LEAST_DEVIATION):
        raise ConfigError(
            "noise_multiplier * clip_norm does not fit", found=repr(deviation), expected=f"{_LEAST_DEVIATION:g} or more"
        )
    noise = source.gaussian(exact.size).reshape(exact.shape) * deviation
    return _on_grid(exact + noise, deviation).astype(np.asarray(total).dtype, copy=False), event


def grid_step(deviation: float) -> float:
    """The step of the grid that a release lies on: a power of two, a function of public values alone."""
    return math.ldexp(1.0, math.frexp(deviation)[1] - 1 - _GRID_BITS)


def _on_grid(values: FloatArray, deviation: float) -> FloatArray:
    """Round to the nearest multiple of the grid's step; the division and the product are exact."""
    step = grid_step(deviation)
    return np.asarray(np.rint(values / step) * step)


def _check_clip_norm(clip_norm: float) -> None:
    if not (math.isfinite(clip_norm) and clip_norm > 0.0):
        raise ConfigError("clip_norm does not fit", found=repr(clip_norm), expected="a finite number above 0")
