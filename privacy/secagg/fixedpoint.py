"""Fixed point: real values as integers of b bits, sums of them modulo 2^w, and w-bit words packed on the wire.

`FixedPoint`: a value x in [-R, R] becomes the level floor((x + R) / step + u), step = 2R / (2^b - 1), u uniform in
[0, 1): stochastic rounding, whose expectation is (x + R) / step. A level is at most 2^b - 1, a site's level times its
roster weight at most weight * (2^b - 1), and a sum over sites less than 2^b * (sum of weights) <= 2^w with
w = b + ceil(log2(sum of weights)). So the sum of the levels cannot wrap, whichever sites survive. Values beyond R are
moved to the edge and counted.

Clipping by the range and rounding come after the noise: they are post-processing and cost no privacy, and so is the
count of clipped coordinates. That count is summed securely too, and steers the next round's range.

`Integers`: sites give residues mod 2^w, all of weight 1, and the sum is their sum mod 2^w, in words of w bits however
many sites there are. Whether that sum can be read as an integer is for whoever chose w; nothing is clipped or counted.

Wire layout of a packed vector: blocks of `masks.BLOCK` values, the last one filled up with zeros to a multiple of 8
values. w is written as a sum of powers of two, the largest first (26 = 16 + 8 + 2), and a block is that many planes:
the lowest 16 bits of every value as little-endian 16-bit words, then the next 8 bits as bytes, then the next 2. A
plane narrower than a byte folds the block: with 2 bits, byte i holds values i, i + n/4, i + 2n/4 and i + 3n/4 of the
block, lowest bits first. A block of n values thus takes exactly n * w / 8 bytes and can be reached on its own.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yoriai.errors import ProtocolError
from yoriai.privacy.secagg.masks import BLOCK, RandomBits, Scratch, Words, for_each_block
from yoriai.privacy.secagg.secret import Guarded, SecretBytes
from yoriai.privacy.secagg.shamir import Entropy

MAX_BITS = 32
SMALLEST_MODULUS_BITS = 8
SMALLEST_RANGE, LARGEST_RANGE = 1e-30, 1e30
_MOST_CLIPPED, _FEW_CLIPPED = 1e-3, 1e-5


@dataclass(frozen=True)
class FixedPoint:
    """The public grid of a round: `bits` (2 to 32) levels a value over [-value_range, value_range]."""

    bits: int
    value_range: float

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= MAX_BITS:
            raise ProtocolError("bits of a quantised value", found=str(self.bits), expected=f"2 to {MAX_BITS}")
        # Beyond these the grid's step is no ordinary number, and whether rounding fails would depend on the values.
        if not SMALLEST_RANGE <= self.value_range <= LARGEST_RANGE:
            raise ProtocolError("range of quantised values", expected=f"{SMALLEST_RANGE:g} to {LARGEST_RANGE:g}")

    @property
    def top(self) -> int:
        """Highest level, 2^b - 1."""
        return (1 << self.bits) - 1

    @property
    def step(self) -> float:
        """Distance between two levels, in the unit of the values."""
        return 2.0 * self.value_range / self.top

    def word_bits(self, total_weight: int) -> int:
        """Bits w of a masked word for that sum of weights.

        Raises:
            ProtocolError: if the weights do not add up to at least 1, or the words would need more than 64 bits.
        """
        if total_weight < 1:
            raise ProtocolError("sum of weights", found=str(total_weight), expected="at least 1")
        width = self.bits + (total_weight - 1).bit_length()
        if width > 64:
            raise ProtocolError("masked words are too wide", found=f"{width} bits", expected="at most 64")
        return width

    def encode(self) -> bytes:
        """10 bytes that tell grids of any kind apart."""
        return struct.pack(">BBd", 1, self.bits, self.value_range)


@dataclass(frozen=True)
class Integers:
    """The ring Z mod 2^word_bits (8 to 32 bits) in place of a grid: residues in, the residues of their sum out."""

    word_bits: int

    def __post_init__(self) -> None:
        if not SMALLEST_MODULUS_BITS <= self.word_bits <= MAX_BITS:
            expected = f"{SMALLEST_MODULUS_BITS} to {MAX_BITS}"
            raise ProtocolError("bits of a residue", found=str(self.word_bits), expected=expected)

    @property
    def top(self) -> int:
        """Highest residue, 2^w - 1."""
        return (1 << self.word_bits) - 1

    def encode(self) -> bytes:
        """10 bytes that tell grids of any kind apart."""
        return struct.pack(">BBd", 2, self.word_bits, 0.0)


Grid = FixedPoint | Integers
"""What the words of a masked update stand for."""


def word_width(grid: Grid, weights: Sequence[int]) -> int:
    """Bits w of a masked word for members of these weights.

    Raises:
        ProtocolError: as `FixedPoint.word_bits`; or `Integers` and a weight other than 1, which would multiply noise.
    """
    if isinstance(grid, FixedPoint):
        return grid.word_bits(sum(weights))
    if heavy := [weight for weight in weights if weight != 1]:
        raise ProtocolError(
            "integers are summed with equal weights",
            found=f"{len(heavy)} sites of another weight",
            expected="weight 1 for every site",
            remedy="have the roster signed with weights of 1",
        )
    return grid.word_bits


class Quantised(Guarded):
    """An update on the grid: `levels` (n_params,) uint32 and the number of coordinates that the range clipped.

    On `Integers` the levels are residues, and `clipped` is 0.
    """

    __slots__ = ("clipped", "levels")

    def __init__(self, levels: NDArray[np.uint32], clipped: int) -> None:
        self.levels, self.clipped = levels, clipped


def quantise(values: NDArray[Any], grid: FixedPoint, entropy: Entropy, *, threads: int = 0) -> Quantised:
    """Round values to the grid stochastically.

    Args:
        values: (n_params,) float32 or float64, already noised.
        grid: the round's public grid.
        entropy: source of the rounding stream's key.
        threads: 0 for one a core.

    Raises:
        ProtocolError: if a value is not a number or infinite; nothing about the values is said.
    """
    if values.ndim != 1 or values.dtype not in (np.float32, np.float64):
        raise ProtocolError("an update to be quantised", expected="a flat array of float32 or float64")
    stream = RandomBits(SecretBytes(entropy(32)))
    levels = np.empty(values.size, dtype=np.uint32)
    clipped = np.zeros(-(-values.size // BLOCK), dtype=np.int64)

    def work(first: int, last: int) -> None:
        exact = values[first:last].astype(np.float64)
        largest = float(np.max(np.abs(exact)))
        if not math.isfinite(largest):
            raise ProtocolError("an update holds values that are not finite", remedy="train again; nothing was sent")
        if largest > grid.value_range:
            clipped[first // BLOCK] = np.count_nonzero(np.abs(exact) > grid.value_range)
            np.clip(exact, -grid.value_range, grid.value_range, out=exact)
        exact += grid.value_range
        exact *= 1.0 / grid.step
        exact += stream.block(first, Scratch(4 * exact.size), exact.size) * 2.0**-32
        # Rounding of the products above may lift a value at the very edge to 2^b: the top level is the last one.
        np.minimum(exact, grid.top, out=exact)
        levels[first:last] = exact

    for_each_block(values.size, work, threads)
    return Quantised(levels, int(clipped.sum()))


def mean_of_sum(total: Words, total_weight: int, grid: FixedPoint) -> NDArray[np.float64]:
    """Weighted mean of the survivors' values, (n_params,), from the opened sum of their weighted levels."""
    return total.astype(np.float64) * (grid.step / total_weight) - grid.value_range


def next_range(value_range: float, clipped: int, coordinates: int) -> float:
    """The next round's range from public values only: the opened number of clipped coordinates out of `coordinates`.

    More than one in 1,000 clipped: twice the range. Fewer than one in 100,000: nine tenths of it, so that the grid
    follows updates that get smaller. Between the two: unchanged.
    """
    if coordinates < 1 or not 0 <= clipped <= coordinates:
        raise ProtocolError("count of clipped coordinates", expected="0 to the number of summed coordinates")
    share = clipped / coordinates
    wanted = value_range * (2.0 if share > _MOST_CLIPPED else 0.9 if share < _FEW_CLIPPED else 1.0)
    return min(max(wanted, SMALLEST_RANGE), LARGEST_RANGE)


def word_dtype(width: int) -> "np.dtype[Any]":
    """Type of the words that carry w-bit sums in memory: 32 bits where they fit, else 64."""
    return np.dtype(np.uint32 if width <= 32 else np.uint64)


def padded(count: int) -> int:
    """Values on the wire for `count` values: the next multiple of 8."""
    return -(-count // 8) * 8


def packed_bytes(count: int, width: int) -> int:
    """Bytes of a packed vector of `count` words of `width` bits."""
    return padded(count) // 8 * width


def _planes(width: int) -> tuple[int, ...]:
    return tuple(size for size in (64, 32, 16) if width & size)


def _narrow_planes(width: int) -> tuple[int, ...]:
    return tuple(size for size in (8, 4, 2, 1) if width & size)


def _narrow_dtype(width: int) -> "np.dtype[Any]":
    """The planes of 8 bits and less are 15 bits at most: they are put together before they are widened."""
    return np.dtype(np.uint16 if width & 8 else np.uint8)


def pack_block(words: Words, width: int, out: NDArray[np.uint8]) -> None:
    """Write the low `width` bits of a block's words into `out`; sizes as `packed_bytes` says."""
    count = padded(words.size)
    if count != words.size:
        words = np.concatenate([words, np.zeros(count - words.size, dtype=words.dtype)])
    low = start = 0
    for size in _planes(width):
        part = words >> words.dtype.type(low) if low else words
        stop = start + count * size // 8
        out[start:stop] = part.astype(f"<u{size // 8}").view(np.uint8)
        low, start = low + size, stop
    if not width % 16:
        return
    narrow = (words >> words.dtype.type(low)).astype(_narrow_dtype(width))
    for size in _narrow_planes(width):
        stop = start + count * size // 8
        plane = narrow.astype(np.uint8) & np.uint8((1 << size) - 1)
        folded = plane.reshape(8 // size, -1)
        out[start:stop] = folded[0]
        for fold in range(1, 8 // size):
            out[start:stop] |= folded[fold] << np.uint8(fold * size)
        start = stop
        narrow >>= narrow.dtype.type(size)


def add_packed_block(total: Words, width: int, data: NDArray[np.uint8]) -> None:
    """Unpack one block and add it to `total` in place, modulo the word's own 2^32 or 2^64."""
    count = padded(total.size)
    low = start = 0
    for size in _planes(width):
        stop = start + count * size // 8
        _add_shifted(total, np.frombuffer(data[start:stop], dtype=f"<u{size // 8}"), low)
        low, start = low + size, stop
    if not width % 16:
        return
    narrow = np.zeros(count, dtype=_narrow_dtype(width))
    at = 0
    for size in _narrow_planes(width):
        stop = start + count * size // 8
        folded = narrow.reshape(8 // size, -1)
        for fold in range(8 // size):
            bits = (data[start:stop] >> np.uint8(fold * size)) & np.uint8((1 << size) - 1)
            folded[fold] |= np.left_shift(bits, at, dtype=narrow.dtype)
        at, start = at + size, stop
    _add_shifted(total, narrow, low)


def _add_shifted(total: Words, part: NDArray[Any], low: int) -> None:
    wide = part[: total.size].astype(total.dtype)
    if low:
        np.left_shift(wide, total.dtype.type(low), out=wide)
    np.add(total, wide, out=total)


def packed_span(first: int, last: int, width: int) -> slice:
    """Where the block of values `first` to `last` lies in a packed vector."""
    start = first // 8 * width
    return slice(start, start + packed_bytes(last - first, width))
