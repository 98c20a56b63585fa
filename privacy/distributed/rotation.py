"""A public random rotation that spreads a vector evenly over its coordinates: signs, then a Hadamard transform.

A clipped gradient may carry all its length in a few coordinates. The words of a secure sum are as wide as the largest
coordinate of a sum asks for, so the length is spread first (Ailon and Chazelle 2006; in federated learning Suresh et
al. 2017). The rotation is orthonormal: it changes neither a norm nor, once undone, what is learnt. It is public, and no
privacy rests on it.
"""

import math
from functools import cache
from hashlib import shake_256
from typing import Any

import numpy as np
import numpy.typing as npt

from yoriai.errors import ConfigError

SEED_BYTES = 32

# The transform as products with a small Hadamard matrix, one for each four factors of two, on pieces that stay in the
# second-level cache: for 40 rows of 32,768 eight times as fast as butterflies in place on one core, and for 2**24
# coordinates fifteen times. Matrices of 8 and of 32 were slower, those of 128 slower still.
_BLOCK_BITS = 4
_PIECE = 1 << 15


class Rotation:
    """x -> H D x / sqrt(size), with x padded by zeros to a power of two, D of random signs, H of Hadamard.

    In float64. The coordinator's sums have up to 32 bits, more than float32 holds; and whatever floating point does,
    the mechanism checks the norm of the integers that come out of it (`yoriai.privacy.distributed.rounding`), so that
    no error here bears on sensitivity. Each row is rotated by itself, in an order of operations that does not depend on
    the rows beside it: one record never changes the last bits of another one's.

    Signs: bit i of SHAKE-256 over a label and the seed, lowest bit of each byte first; 1 means minus. They are the
    same on every machine.

    Args:
        seed: 32 public bytes, drawn by somebody whom the gradients did not tell anything.
        n_params: coordinates n of a vector, >= 1.

    Raises:
        ConfigError: the seed has another length, or n_params is below 1.
    """

    def __init__(self, seed: bytes, n_params: int) -> None:
        if len(seed) != SEED_BYTES:
            raise ConfigError("seed of a rotation", found=f"{len(seed)} bytes", expected=f"{SEED_BYTES} bytes")
        if n_params < 1:
            raise ConfigError("coordinates of a rotation", found=str(n_params), expected="at least 1")
        self.n_params = n_params
        self.size = padded_size(n_params)
        stream = shake_256(b"yoriai rotation v1\0" + seed).digest((n_params + 7) // 8)
        bits = np.unpackbits(np.frombuffer(stream, dtype=np.uint8), count=n_params, bitorder="little")
        self._signs = 1 - 2 * bits.astype(np.int8)  # (n,)

    def apply(self, rows: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Return the rotated rows, (U, size) float64, of rows (U, n). Memory: the result and one piece.

        Raises:
            ConfigError: the rows do not have n coordinates.
        """
        if rows.ndim != 2 or rows.shape[1] != self.n_params:
            raise ConfigError("rows to rotate", found=f"shape {rows.shape}", expected=f"(units, {self.n_params})")
        rotated = np.zeros((len(rows), self.size))
        for row, out in zip(rows, rotated, strict=True):
            np.multiply(row, self._signs, out=out[: self.n_params])
            _transform(out)
        return rotated

    def invert(self, vector: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Return the vector (n,) whose rotation is `vector` (size,); what the padding gathered is dropped.

        Raises:
            ConfigError: the vector does not have `size` coordinates.
        """
        if vector.shape != (self.size,):
            raise ConfigError("a vector to rotate back", found=f"shape {vector.shape}", expected=f"({self.size},)")
        plain = vector.astype(np.float64)
        _transform(plain)
        return plain[: self.n_params] * self._signs


def padded_size(n_params: int) -> int:
    """Coordinates after the rotation: the least power of two that is at least n_params."""
    return 1 << (n_params - 1).bit_length()


def _transform(vector: npt.NDArray[np.float64]) -> None:
    """Multiply a vector (size,) by the orthonormal Hadamard matrix, in place.

    That matrix is the Kronecker product of small ones, each of which acts on some of the index's bits.
    """
    left, stride = vector.size.bit_length() - 1, 1
    while left:
        bits = min(_BLOCK_BITS, left)
        block = 1 << bits
        _multiply(vector.reshape(-1, block, stride), _hadamard(bits))
        left, stride = left - bits, stride * block


def _multiply(view: npt.NDArray[np.float64], matrix: npt.NDArray[np.float64]) -> None:
    """Multiply the middle axis of a view (lead, block, stride) by a symmetric matrix, a piece at a time, in place."""
    lead, block, stride = view.shape
    columns = min(stride, _PIECE // block)
    step = _PIECE // (block * columns)
    for first in range(0, lead, step):
        for column in range(0, stride, columns):
            piece = view[first : first + step, :, column : column + columns]
            # One product for all of them where the block's coordinates are neighbours, else one for each.
            piece[...] = (piece[:, :, 0] @ matrix)[:, :, None] if stride == 1 else matrix @ piece


@cache
def _hadamard(bits: int) -> npt.NDArray[np.float64]:
    """The orthonormal Hadamard matrix of Sylvester, (2**bits, 2**bits); `bits` is _BLOCK_BITS at most."""
    matrix = np.ones((1, 1))
    for _ in range(bits):
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix * math.sqrt(1.0 / len(matrix))
