"""Masks: long uniform vectors that both ends of a pair derive from one 32-byte agreement, a block at a time.

Generator: the AES-256-CTR keystream (NIST SP 800-38A) over zero bytes, counter starting at zero, read as
little-endian words of 32 bits (w <= 32) or 64 bits. A word taken mod 2^w stays uniform because 2^w divides 2^32 and
2^64. Every key is used for one vector of one round only, so a constant initial counter is safe; the vector and the
64-bit tail have separate keys. The counter makes every block reachable on its own, so a vector is never held as a
whole.

Keys: X25519 (RFC 7748), then HKDF-SHA256 (RFC 5869) with an `info` that the caller binds to the protocol version, run,
round, purpose, key set and both parties.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from yoriai.errors import ProtocolError
from yoriai.privacy.secagg.secret import Guarded, SecretBytes

Words = NDArray[np.uint32] | NDArray[np.uint64]

BLOCK = 1 << 16
"""Values a block: a multiple of 64, so that blocks fall on cipher blocks and on whole bytes of any packing; 256 KiB
of 32-bit words stay in the second-level cache."""

_AES_BLOCK = 16
_SHORT_BYTES = 4096


def derive(secret: SecretBytes, info: bytes, length: int = 32) -> SecretBytes:
    """HKDF-SHA256 without salt: the input is a uniform seed or an X25519 output, and `info` separates the uses."""
    return SecretBytes(HKDF(hashes.SHA256(), length, None, info).derive(secret.reveal()))


def agree(private_key: X25519PrivateKey, public_key: bytes) -> SecretBytes:
    """X25519 shared secret.

    Raises:
        ProtocolError: on a public key of small order (an all-zero secret that anybody could compute).
    """
    try:
        return SecretBytes(private_key.exchange(X25519PublicKey.from_public_bytes(public_key)))
    except ValueError as error:
        raise ProtocolError("a public key cannot be used for key agreement", remedy="the round is void") from error


class MaskKey(Guarded):
    """Keys of one mask: one for the vector of parameters, one for the 64-bit tail of counts.

    A short keystream is kept, for the other end of the pair where one process has both (`work.SharedWork`).
    """

    __slots__ = ("_kept", "_tail", "_vector")

    def __init__(self, secret: SecretBytes, info: bytes) -> None:
        keys = derive(secret, info, 64)
        self._vector, self._tail = SecretBytes(keys.reveal()[:32]), SecretBytes(keys.reveal()[32:])
        self._kept: dict[tuple[str, int], bytes] = {}

    def vector_into(self, first_byte: int, scratch: "Scratch", n_bytes: int) -> None:
        """Write the keystream of the vector from `first_byte` (a multiple of 16) into the scratch space."""
        if first_byte or n_bytes > _SHORT_BYTES:
            _keystream(self._vector, first_byte, scratch, n_bytes)
        else:
            self._short(self._vector, "vector", scratch, n_bytes)

    def tail(self, n_counts: int) -> NDArray[np.uint64]:
        """Mask of the tail, (n_counts,) words of 64 bits."""
        scratch = Scratch(8 * n_counts)
        self._short(self._tail, "tail", scratch, 8 * n_counts)
        return scratch.words(np.dtype("<u8"), n_counts).astype(np.uint64)

    def _short(self, key: SecretBytes, use: str, scratch: "Scratch", n_bytes: int) -> None:
        kept = self._kept.get((use, n_bytes))
        if kept is None:
            _keystream(key, 0, scratch, n_bytes)
            self._kept[use, n_bytes] = bytes(memoryview(scratch.out)[:n_bytes])
        else:
            scratch.out[:n_bytes] = kept


class Scratch:
    """A reusable buffer for one block of keystream, one a thread."""

    def __init__(self, n_bytes: int) -> None:
        self.zeros = memoryview(bytes(n_bytes))
        self.out = bytearray(n_bytes + _AES_BLOCK)

    def words(self, dtype: "np.dtype[Any]", count: int) -> NDArray[Any]:
        """View of the first `count` words; overwritten by the next use of the buffer."""
        return np.frombuffer(self.out, dtype=dtype, count=count)


def _keystream(key: SecretBytes, first_byte: int, scratch: Scratch, n_bytes: int) -> None:
    counter = (first_byte // _AES_BLOCK).to_bytes(_AES_BLOCK, "big")
    encryptor = Cipher(algorithms.AES(key.reveal()), modes.CTR(counter)).encryptor()
    encryptor.update_into(scratch.zeros[:n_bytes], scratch.out)


class RandomBits:
    """32-bit random words for stochastic rounding: an AES-256-CTR stream under one fresh key, reachable by block."""

    def __init__(self, key: SecretBytes) -> None:
        self._key = key

    def block(self, first: int, scratch: Scratch, count: int) -> NDArray[np.uint32]:
        """Words `first` to `first + count` of the stream, as a view of the scratch space; `first` a multiple of 4."""
        _keystream(self._key, 4 * first, scratch, 4 * count)
        return scratch.words(np.dtype("<u4"), count)


def add_masks(words: Words, first: int, signed: Sequence[tuple[int, MaskKey]], scratch: Scratch) -> None:
    """Add or subtract masks over one block in place, modulo the word's own 2^32 or 2^64.

    Args:
        words: (count,) uint32 or uint64, the block of the vector that starts at value `first`.
        first: index of the block's first value, a multiple of `BLOCK`.
        signed: (+1 or -1, key) pairs.
        scratch: at least `count` words of buffer.
    """
    size = words.dtype.itemsize
    order = words.dtype.newbyteorder("<")
    for sign, key in signed:
        key.vector_into(first * size, scratch, words.size * size)
        mask = scratch.words(order, words.size)
        if sign > 0:
            np.add(words, mask, out=words)
        else:
            np.subtract(words, mask, out=words)


def for_each_block(count: int, work: Callable[[int, int], None], threads: int = 0) -> None:
    """Call `work(first, last)` once for every block of a vector of `count` values.

    numpy releases the interpreter's lock over a block, so threads help with quantising and packing; the cipher holds
    it, so masks take as long on two threads as on one. 0 means one a core. A vector of one block stays on the calling
    thread.
    """
    spans = [(first, min(first + BLOCK, count)) for first in range(0, count, BLOCK)]
    workers = min(threads or os.cpu_count() or 1, len(spans))
    if workers <= 1:
        for first, last in spans:
            work(first, last)
        return
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(lambda span: work(*span), spans):
            pass
