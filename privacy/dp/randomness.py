"""Cryptographic randomness for sampling and noise; nothing here ever touches a statistical generator.

The stream is AES-256 in counter mode. `SystemSource` keys it from the operating system, `SeededSource` from a seed and
for tests only. Both run the same code from the stream on.

Floating-point attack. A Gaussian in floating point takes only some of the values near a point; which ones depends on
the centre, so the low bits of a noised sum may give the sum away (Mironov 2012, "On significance of the least
significant bits for differential privacy"; Jin et al. 2022 for Box-Muller). Two answers, against two attacks:

* Against inverting the sampler, here, that of Holohan and Braghin (2021, "Secure random sampling in differential
  privacy"), as in Opacus' secure mode: each Gaussian is (g1 + g2 + g3 + g4) / 2 of independent Box-Muller draws, so
  that inverting it means solving for eight uniforms of 53 bits.
* Against reading low bits, in `mechanisms.gaussian_mechanism`: a release is rounded to a public grid, every point of
  which each centre reaches in a great many ways.

What remains is bounded in docs/decisions/0009-floating-point-noise.md. It is not a proof of exact (epsilon, delta) in
finite precision. Timing is not covered.
"""

import math
import os
import threading
from hashlib import sha256
from typing import NoReturn, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from yoriai.privacy.dp.skellam import Int64Array, SkellamTable, Uint64Array

Float64Array: TypeAlias = npt.NDArray[np.float64]

# Gaussians made at a time: small enough that the temporaries stay in the cache, large enough to pay for the calls.
_BLOCK = 16_384

# Turns an integer of 53 bits into a float64 in [0, 1), exactly.
_UNIT = np.float64(2.0**-53)


class RandomSource(Protocol):
    """Where a mechanism takes its randomness from. No value is ever handed out twice."""

    def uniform(self, n: int) -> Float64Array:
        """Return n independent uniforms in [0, 1), shape (n,), multiples of 2**-53."""
        ...

    def gaussian(self, n: int) -> Float64Array:
        """Return n independent standard Gaussians, shape (n,)."""
        ...

    def words(self, n: int) -> Uint64Array:
        """Return n independent uniform words of 64 bits, shape (n,). Not to be written to."""
        ...

    def skellam(self, table: SkellamTable, n: int) -> Int64Array:
        """Return n independent draws from the table, shape (n,)."""
        ...


class _KeyedSource:
    """Words, uniforms and noise from one AES-256-CTR stream. Holds the key: never shown, copied or pickled."""

    def __init__(self, key: bytes, start: bytes) -> None:
        self._lock = threading.Lock()
        self._stream = _keystream(key, start)

    def uniform(self, n: int) -> Float64Array:
        """Return n independent uniforms in [0, 1), shape (n,), multiples of 2**-53.

        Raises:
            ValueError: n is negative.
        """
        return self._integers(n) * _UNIT

    def gaussian(self, n: int) -> Float64Array:
        """Return n independent standard Gaussians, shape (n,); |value| is below 17.2.

        Raises:
            ValueError: n is negative.
        """
        if n < 0:
            raise ValueError(f"cannot draw {n} Gaussians; expected at least 0")
        drawn = np.empty(n, dtype=np.float64)
        for first in range(0, n, _BLOCK):
            wanted = min(_BLOCK, n - first)
            drawn[first : first + wanted] = self._gaussian_block((wanted + 1) // 2)[:wanted]
        return drawn

    def _gaussian_block(self, half: int) -> Float64Array:
        """Return 2 * half Gaussians by Box-Muller; each sums draws of four different pairs."""
        uniforms = (self._integers(8 * half) * _UNIT).reshape(2, 4, half)
        # 1 - u lies in (0, 1]: its logarithm is finite.
        radius = np.sqrt(-2.0 * np.log(1.0 - uniforms[0]))
        angle = (2.0 * math.pi) * uniforms[1]
        block = np.empty((2, half), dtype=np.float64)
        np.sum(radius * np.cos(angle), axis=0, out=block[0])
        np.sum(radius * np.sin(angle), axis=0, out=block[1])
        block *= 0.5
        return block.reshape(-1)

    def words(self, n: int) -> Uint64Array:
        """Return n independent uniform words of 64 bits, shape (n,): the keystream itself. Not to be written to.

        Raises:
            ValueError: n is negative.
        """
        if n < 0:
            raise ValueError(f"cannot draw {n} words; expected at least 0")
        with self._lock:
            keystream = self._encryptor().update(bytes(8 * n))
        return np.frombuffer(keystream, dtype="<u8").astype(np.uint64, copy=False)

    def skellam(self, table: SkellamTable, n: int) -> Int64Array:
        """Return n independent draws from the table, shape (n,); see `SkellamTable.draw`.

        Raises:
            ValueError: n is negative.
        """
        return table.draw(self, n)

    def _integers(self, n: int) -> Uint64Array:
        """Return n independent integers of 53 bits."""
        return self.words(n) >> np.uint64(11)

    def _encryptor(self) -> CipherContext:
        return self._stream

    def __repr__(self) -> str:
        return f"{type(self).__name__}(<secret>)"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} must not be pickled or copied: the copy would repeat its noise")


class SystemSource(_KeyedSource):
    """The source for real data: a fresh AES-256 key from the operating system's generator.

    A process that was forked off draws a new key before its first value, so that parent and child never share noise.
    Before every sample and all noise, fresh entropy is folded into the key: a process that is taken back to an earlier
    snapshot of its memory draws others the second time. What remains: a snapshot of the whole machine takes the
    operating system's generator back too, where that is not told of it, and words for rounding are not drawn afresh.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        super().__init__(os.urandom(32), os.urandom(16))

    def uniform(self, n: int) -> Float64Array:
        """As every source does, from a fresh key."""
        self._fold_in()
        return super().uniform(n)

    def gaussian(self, n: int) -> Float64Array:
        """As every source does, from a fresh key."""
        self._fold_in()
        return super().gaussian(n)

    def skellam(self, table: SkellamTable, n: int) -> Int64Array:
        """As every source does, from a fresh key."""
        self._fold_in()
        return super().skellam(table, n)

    def _fold_in(self) -> None:
        """Hash the stream's next bytes together with fresh ones: as good as the better of the two."""
        with self._lock:
            key = sha256(b"yoriai fresh key\0" + self._encryptor().update(bytes(32)) + os.urandom(32)).digest()
            self._stream = _keystream(key, os.urandom(16))

    def _encryptor(self) -> CipherContext:
        if self._process != os.getpid():
            self._process = os.getpid()
            self._stream = _keystream(os.urandom(32), os.urandom(16))
        return self._stream


class SeededSource(_KeyedSource):
    """FOR TESTS ONLY: the same stream for the same seed, so whoever knows the seed can take the noise off again.

    Equal seeds give equal values for equal sequences of calls; other call sizes give other Gaussians.

    Args:
        seed: any bytes; hashed into the key.
    """

    def __init__(self, seed: bytes) -> None:
        super().__init__(sha256(b"yoriai test-only random source\0" + seed).digest(), bytes(16))


def _keystream(key: bytes, start: bytes) -> CipherContext:
    """Return an encryptor whose output on zeros is the AES-256-CTR keystream of `key` from counter `start`."""
    return Cipher(AES(key), CTR(start)).encryptor()
