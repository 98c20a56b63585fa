"""Noise that the sites of a federation share: integers, a share of Skellam noise each, and their sum modulo 2^w.

The privacy mode `distributed` (Kairouz, Liu and Steinke 2021, with the noise of Agarwal, Kairouz and Liu 2021):

1. A site rotates, scales and rounds the clipped gradient of each sampled unit by itself, and adds up the integers.
2. It adds its share of noise to every coordinate, and enters the result, modulo 2^w, into a secure sum.
3. The coordinator opens the sum of all sites, and nothing else, and rotates it back.

Threat model: the coordinator and all but `honest` of the surviving sites pool what they know; they can take their own
shares off the sum, and the shares of the others are left, which are what is calibrated. The guarantee rests on the
secure sum showing no more than the sum.

Everything in `SkellamShares` follows from what the job says, nothing from records.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from yoriai.errors import ConfigError, SpentError
from yoriai.privacy.distributed.rotation import Rotation, padded_size
from yoriai.privacy.distributed.rounding import l1_bound, round_vector, squared_l2
from yoriai.privacy.dp.randomness import RandomSource
from yoriai.privacy.dp.skellam import SkellamTable, check_variance

LARGEST_WORD_BITS = 32
WRAP_PROBABILITY = 1e-9
"""That any coordinate of any round of a job wraps around, at most."""

# Integers in one clip norm, in square roots of the size. Rounding adds at most d/4 + s + sqrt(d)/2 to a squared norm of
# s^2: 0.1 % at 16 and, at a large size, 1.6 % at 4 and 25 % at 1, for two and four bits a word less.
_SCALE = 16


@dataclass(frozen=True)
class SkellamShares:
    """The public parameters of the mode; see `skellam_shares`.

    Attributes:
        size: coordinates after the rotation's padding.
        scale: integers in one clip norm.
        squared_l2: sensitivity of the integer sum, L2, squared.
        l1: sensitivity of the integer sum, L1.
        share_variance: of one site's share of the noise, a coordinate.
        honest: shares that the calibration counts on: the fewest survivors less the colluders.
        word_bits: w of the modulus 2^w.
    """

    size: int
    scale: int
    squared_l2: int
    l1: int
    share_variance: int
    honest: int
    word_bits: int

    @property
    def variance(self) -> int:
        """Of the noise that is charged for, a coordinate: that of the honest shares together."""
        return self.honest * self.share_variance


def skellam_shares(
    *, n_params: int, noise_multiplier: float, honest: int, sites: int, units: int, rounds: int
) -> SkellamShares:
    """Work out the parameters of a job's shared noise.

    The words are wide enough that all coordinates of all rounds stay in [-2^(w-1), 2^(w-1)) but for a probability of
    1e-9: a coordinate is the noise of all sites' shares, plus the rotated sum of the clipped vectors, which over the
    random signs is sub-Gaussian with variance proxy (units * scale)^2 / size, plus less than 1 a unit for rounding.
    Chernoff's bound is taken for noise and signal together.

    That assumes that the signs do not depend on the gradients, and at most `units` units in a round's batches. Where
    either fails a coordinate may wrap, which costs accuracy and never privacy: reduction modulo 2^w comes after the
    noise and looks at nothing else.

    Args:
        n_params: trained coordinates, >= 1.
        noise_multiplier: deviation of the honest noise over the L2 sensitivity of the rounded vectors, > 0.
        honest: the fewest surviving sites less those that may collude, >= 1.
        sites: the most sites in one sum, >= honest.
        units: the most units in one round over all sites, >= 1.
        rounds: of the whole job, >= 1.

    Raises:
        ConfigError: a value is out of range, a share's noise exceeds what `SkellamTable` takes, or a word would need
            more than 32 bits.
    """
    _check(noise_multiplier, n_params=n_params, honest=honest, sites=sites, units=units, rounds=rounds)
    size = padded_size(n_params)
    scale = math.isqrt(_SCALE**2 * size - 1) + 1
    squared = squared_l2(scale, size)
    share_variance = math.ceil(Fraction(noise_multiplier) ** 2 * squared / honest)
    check_variance(share_variance)
    proxy = (units * scale) ** 2 / size
    log_failure = math.log(WRAP_PROBABILITY / (2.0 * size * rounds))
    for bits in range(2, LARGEST_WORD_BITS + 1):
        distance = 2 ** (bits - 1) - units
        if distance > 0 and _log_tail(sites * share_variance, proxy, distance) <= log_failure:
            return SkellamShares(
                size=size,
                scale=scale,
                squared_l2=squared,
                l1=l1_bound(scale, size),
                share_variance=share_variance,
                honest=honest,
                word_bits=bits,
            )
    raise ConfigError(
        "the sums of shared noise need wider words",
        found=f"{sites} sites, {units} units, noise multiplier {noise_multiplier:g}",
        expected=f"sums that fit into {LARGEST_WORD_BITS} bits",
        remedy="lower the sampling rate or the number of trained parameters",
    )


class RoundedSum:
    """One round's integers at one site: every sampled unit's rotated, scaled, rounded gradient, and a share of noise.

    Guarantee: with the shares of `noise.honest` sites that keep to the protocol, (epsilon, delta)-differential privacy
        of the opened sum, for the pairs of the event below. One share alone gives less: a release must go into a
        secure sum, and nowhere else.
    Neighbouring relation: add or remove one unit.
    Sensitivity: sqrt(noise.squared_l2) in L2 and noise.l1 in L1, of the integers, whatever floating point did.
    Assumes: units drawn by Poisson sampling, each added once; secure aggregation modulo 2^w that opens only sums over
        at least `noise.honest` sites that neither collude nor cheat; `SkellamTable`'s and its source's assumptions.
    Does not cover: a unit held at several sites; timing; rows that differ with the other units of their batch before
        they come here, which `yoriai.client.base.pieces` prevents.
    Event it costs: a Poisson-sampled Skellam mechanism on noise.size coordinates with noise.variance and the two
        sensitivities, plus `SAMPLER_ERROR` for each draw at the honest sites.
    Edge cases: no unit added: the release is noise, and is charged all the same; a row that is zero: no special case;
        a row with NaN or infinity counts as zero; a row longer than clip_norm: see `rounding.round_vector`.
    Memory: 4 bytes a coordinate, and some 20 for the vector at hand.

    Args:
        noise: the job's parameters.
        rotation: the round's public rotation, of noise.size.
        clip_norm: bound on the L2 norm of each row, > 0.
        source: cryptographic randomness, for the rounding and the share.

    Raises:
        ConfigError: rotation or clip_norm does not fit.

    Reference: Kairouz, Liu and Steinke 2021, algorithm 1; Agarwal, Kairouz and Liu 2021.
    """

    def __init__(self, noise: SkellamShares, rotation: Rotation, clip_norm: float, source: RandomSource) -> None:
        _check_scaling(noise, rotation, clip_norm)
        self._noise, self._rotation, self._source = noise, rotation, source
        self._per_unit = noise.scale / clip_norm
        # Modulo 2^32, of which 2^w is a divisor.
        self._words: npt.NDArray[np.uint32] | None = np.zeros(noise.size, dtype=np.uint32)

    def add(self, rows: npt.NDArray[Any]) -> None:
        """Round and add clipped gradients (U, n), one a unit.

        Raises:
            ConfigError: the rows do not have the rotation's n coordinates.
            SpentError: the sum was released.
        """
        words = self._unspent()
        # A row that is not finite, or overflows here, becomes a zero vector at the rounding.
        with np.errstate(over="ignore", invalid="ignore"):
            for start in range(len(rows)):
                row = self._rotation.apply(rows[start : start + 1])[0]
                row *= self._per_unit
                words += round_vector(row, self._noise.scale, self._source).astype(np.uint32)

    def release(self, table: SkellamTable) -> npt.NDArray[np.uint32]:
        """Return (sum + share of noise) modulo 2^w, (size,) uint32; once, as two releases' mean has half the noise.

        Raises:
            ConfigError: the table is of another variance.
            SpentError: the sum was released before.
        """
        words = self._unspent()
        if table.variance != self._noise.share_variance:
            raise ConfigError(
                "table of a site's share of noise",
                found=f"variance {table.variance}",
                expected=f"variance {self._noise.share_variance}",
            )
        self._words = None
        words += self._source.skellam(table, self._noise.size).astype(np.uint32)
        words &= np.uint32(2**self._noise.word_bits - 1)
        return words

    def _unspent(self) -> npt.NDArray[np.uint32]:
        if self._words is None:
            raise SpentError("a round's sum with its share of noise was released", remedy="begin the round afresh")
        return self._words


def open_sum(
    total: npt.NDArray[np.unsignedinteger[Any]], noise: SkellamShares, rotation: Rotation, clip_norm: float
) -> npt.NDArray[np.float64]:
    """Return the noised sum of the clipped gradients, (n,), from the sum of the sites' releases.

    Post-processing of public values.

    Args:
        total: (size,) unsigned words; only their lowest w bits count.
        noise, rotation, clip_norm: those of the sites.

    Raises:
        ConfigError: rotation or clip_norm does not fit, or `total` has not `size` coordinates.
    """
    _check_scaling(noise, rotation, clip_norm)
    # Shifted to the top of a signed word and back, the highest of the w bits becomes the sign.
    spare = np.int64(64 - noise.word_bits)
    centred = (total.astype(np.uint64) << spare.astype(np.uint64)).view(np.int64) >> spare
    return rotation.invert(centred) * (clip_norm / noise.scale)


def _log_tail(variance: int, proxy: float, distance: int) -> float:
    """ln of Chernoff's bound on P(X + Y >= distance), X Skellam of that variance, Y sub-Gaussian with that proxy.

    The exponent V (cosh t - 1) + proxy t^2 / 2 - t distance bounds at every t > 0; bisection finds about the least.
    """
    low, high = 0.0, math.asinh(distance / variance)
    for _ in range(60):
        middle = (low + high) / 2.0
        too_far = variance * math.sinh(middle) + proxy * middle > distance
        low, high = (low, middle) if too_far else (middle, high)
    return 2.0 * variance * math.sinh(low / 2.0) ** 2 + proxy * low**2 / 2.0 - low * distance


def _check(noise_multiplier: float, **counts: int) -> None:
    if not (math.isfinite(noise_multiplier) and noise_multiplier > 0.0):
        raise ConfigError(
            "noise multiplier of shared noise", found=repr(noise_multiplier), expected="a finite number above 0"
        )
    for name, count in counts.items():
        if count < 1:
            raise ConfigError(f"{name} of shared noise", found=repr(count), expected="at least 1")
    if counts["sites"] < counts["honest"]:
        raise ConfigError(
            "sites of shared noise", found=str(counts["sites"]), expected=f"at least the {counts['honest']} honest ones"
        )


def _check_scaling(noise: SkellamShares, rotation: Rotation, clip_norm: float) -> None:
    if rotation.size != noise.size:
        raise ConfigError("size of a round's rotation", found=str(rotation.size), expected=str(noise.size))
    if not (math.isfinite(clip_norm) and clip_norm > 0.0):
        raise ConfigError("clip_norm does not fit", found=repr(clip_norm), expected="a finite number above 0")
