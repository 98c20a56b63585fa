"""Skellam noise by table: the difference of two Poissons, exact to 2**-100, from a cryptographic stream.

A Skellam of variance V is X = A - B, A and B Poisson of mean V/2 each; P(X = k) = exp(-V) I_|k|(V), I the modified
Bessel function. The sum of independent ones is one whose variance is the sum of theirs, which is why sites can each add
a share of the noise of a whole federation (Agarwal, Kairouz and Liu 2021, "The Skellam mechanism for differentially
private federated learning").

Every number of a table is made with whole numbers. A sampler in floating point, as those of numerical libraries are,
gives other probabilities than the ones that are charged for, in the tails above all.
"""

import math
from bisect import bisect_left
from collections.abc import Iterator
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from yoriai.errors import ConfigError

Int64Array: TypeAlias = npt.NDArray[np.int64]
Uint64Array: TypeAlias = npt.NDArray[np.uint64]

LARGEST_VARIANCE = 2**34
"""A deviation of 131,072: a table of 1.7 million entries, made in some two seconds."""

# A magnitude is looked up by 127 bits, 63 of the word that also gives the sign and 64 of a second one.
_CUMULATIVE_BITS = 127
_TAIL_BITS = 126
_START_BITS = 192
# Draws made at a time, so that the temporaries stay in the cache.
_BLOCK = 1 << 16
# Cells of the guide into a table, as a power of two: at least so many that few cells hold a border, and no more than
# the cache holds. 10 million draws take 0.25 s at a deviation of 6,000, where a search of the whole table takes 1.45 s.
_GUIDE_BITS = (12, 20)


class WordSource(Protocol):
    """Whatever hands out uniform words, none of them twice."""

    def words(self, n: int) -> Uint64Array:
        """Return n independent uniform words of 64 bits, shape (n,)."""
        ...


class SkellamTable:
    """Inverse-CDF sampler of the symmetric Skellam of a whole variance V.

    Guarantee: a draw's total variation from the true Skellam is at most `events.SAMPLER_ERROR`. With N the last
    magnitude of the table, p the true probabilities, and Chernoff's P(X > N) <= 2**-126:

    * The tails that are cut off hold 2 P(X > N) <= 2**-125.
    * The weights y_k solve the recurrence y_{k-1} = y_{k+1} + (2k/V) y_k of the Bessel functions downwards from
      y_{N+1} = 0. Its solutions are I_k(V) and (-1)^k K_k(V), so that y_k is, up to a factor, I_k plus or minus
      I_{N+1} K_k / K_{N+1}; K_k grows with k, and each weight is off by at most p_{N+1} <= 2**-126 of the whole. All
      2N + 1 together: below 2**-104, as N < 2**21.
    * A step of the recurrence rounds down by less than 1. All its terms are positive: what is lost at y_{k-1} stays
      below the fraction 1 / y_{k-1} of every later weight. y_N is 2**192, y_{N-1} at least y_N 2N/V > 2**176, since
      N exceeds the deviation, and y_{k-1} >= y_{k+1}: N steps lose less than 2**-155.
    * Dividing by the weights' own sum at most doubles these distances, and the total variation is half of that.
    * The N cumulative values that are rounded down to multiples of 2**-127 move the total variation by less than
      N 2**-127 < 2**-106. The sign is one bit, and exact.

    The sum is below 2**-103. n draws are within n times that of n true ones; that, times 1 + exp(epsilon), is what
    the event has to add to delta.

    Assumes: the source's words are uniform and independent, as a cryptographic stream's are to whoever lacks its key.
    Does not cover: timing. How long a look-up takes hangs a little on where it ends.
    Event it costs: none by itself; see `yoriai.privacy.distributed.distributed_noise`.
    Edge cases: variance 1 is allowed, 0 is not, since no noise is no mechanism.

    Attributes:
        variance: V.
        high, low: (N + 1,) uint64; high * 2**64 + low is the floor of 2**127 P(|X| <= k) at index k, up to the error
            above. The last entry is 2**127. Public, and read-only: threads may share a table.

    Args:
        variance: whole, 1 to `LARGEST_VARIANCE`.

    Raises:
        ConfigError: the variance is not.

    Reference: Agarwal, Kairouz and Liu 2021; for the recurrence, NIST's Digital Library of Mathematical Functions,
    10.29.1.
    """

    def __init__(self, variance: int) -> None:
        check_variance(variance)
        self.variance = variance
        packed = bytearray()
        for value in _cumulative(variance):
            packed += value.to_bytes(16, "little")
        words = np.frombuffer(bytes(packed), dtype="<u8").reshape(-1, 2)
        halves = np.ascontiguousarray(words.T).astype(np.uint64, copy=False)
        halves.setflags(write=False)
        self.low, self.high = halves
        # The first entry that a look-up in each cell of equal probability can end at.
        bits = min(max(len(self.high).bit_length() + 2, _GUIDE_BITS[0]), _GUIDE_BITS[1])
        self._shift = np.uint64(63 - bits)
        cells = np.arange(1 << bits, dtype=np.uint64) << self._shift
        self._guide: Int64Array = np.searchsorted(self.high, cells).astype(np.int64)

    def draw(self, source: WordSource, n: int) -> Int64Array:
        """Return n independent draws, shape (n,). Takes one word a draw, and one more in fewer than one of 2**42 draws.

        Raises:
            ValueError: n is negative.
        """
        if n < 0:
            raise ValueError(f"cannot draw {n} Skellams; expected at least 0")
        drawn = np.empty(n, dtype=np.int64)
        for first in range(0, n, _BLOCK):
            block = drawn[first : first + _BLOCK]
            words = source.words(block.size)
            block[...] = self._magnitudes(words >> np.uint64(1), source)
            np.negative(block, out=block, where=(words & np.uint64(1)).astype(np.bool_))
        return drawn

    def _magnitudes(self, needles: Uint64Array, source: WordSource) -> Int64Array:
        """The least k whose cumulative value exceeds each needle of 63 bits and the 64 that follow it."""
        at = self._guide.take(needles >> self._shift)
        found = self.high.take(at)
        # Where a cell holds one border, as most do, one step settles it; the cells of the tail hold many.
        behind = np.flatnonzero(found < needles)
        at[behind] += 1
        found[behind] = self.high[at[behind]]
        behind = behind[found[behind] < needles[behind]]
        at[behind] = np.searchsorted(self.high, needles[behind])
        found[behind] = self.high[at[behind]]
        for tie in np.flatnonzero(found == needles):
            at[tie] = self._resolve(int(at[tie]), source)
        return at

    def _resolve(self, at: int, source: WordSource) -> int:
        """Go on from the first entry whose high word ties, by 64 further bits; the last entry ties with nothing."""
        high, further = self.high[at], source.words(1)[0]
        while self.high[at] == high and self.low[at] <= further:
            at += 1
        return at


def check_variance(variance: int) -> None:
    """Refuse a variance that no table is made for.

    Raises:
        ConfigError: it is no whole number from 1 to `LARGEST_VARIANCE`.
    """
    if isinstance(variance, bool) or not isinstance(variance, int) or not 1 <= variance <= LARGEST_VARIANCE:
        raise ConfigError(
            "variance of a site's Skellam noise",
            found=repr(variance),
            expected=f"a whole number from 1 to {LARGEST_VARIANCE}",
            remedy="lower the scale (fewer trained parameters), or the noise multiplier (a larger epsilon)",
        )


def _cumulative(variance: int) -> Iterator[int]:
    """2**127 P(|X| <= k), rounded down, for k = 0 to N; the last is 2**127."""
    weights = _weights(variance)
    running, total = weights[0], 2 * sum(weights) - weights[0]
    yield (running << _CUMULATIVE_BITS) // total
    for weight in weights[1:]:
        running += 2 * weight
        yield (running << _CUMULATIVE_BITS) // total


def _weights(variance: int) -> list[int]:
    """Whole numbers in proportion to P(X = k), k = 0 to N, by the downward recurrence; see `SkellamTable`."""
    last = _last_magnitude(variance)
    weights = [0] * (last + 1)
    weight, outer = 1 << _START_BITS, 0
    for k in range(last, 0, -1):
        weights[k] = weight
        weight, outer = outer + 2 * k * weight // variance, weight
    weights[0] = weight
    return weights


def _last_magnitude(variance: int) -> int:
    """The least N with P(X > N) <= 2**-126 by Chernoff; one bit is kept for the rounding of the bound itself."""
    target = -(_TAIL_BITS + 1) * math.log(2.0)
    # Far enough by Bernstein's inequality, for every variance.
    beyond = range(16 * math.isqrt(variance) + 200)
    return bisect_left(beyond, True, key=lambda k: _log_tail(variance, k + 1) <= target)


def _log_tail(variance: int, distance: int) -> float:
    """Chernoff's bound on ln P(X >= distance): min over t of V (cosh t - 1) - t distance, where sinh t = distance/V."""
    return distance**2 / (math.hypot(distance, variance) + variance) - distance * math.asinh(distance / variance)
