"""Shamir's secret sharing over a prime field: the one primitive that Yoriai writes itself.

Source: A. Shamir, "How to share a secret", CACM 22(11), 1979. A secret s in GF(p) is the constant term of a uniformly
random polynomial of degree threshold - 1; the share of holder x is its value at x. Any `threshold` shares give s by
Lagrange interpolation at 0; fewer are independent of s.

p = 2^256 + 297, the smallest prime above 2^256, so that every 32-byte string is an element and a share is 33 bytes.

Does not cover: constant time (both sides run once a round on their own machine, on fresh secrets) and cheating
holders (a wrong share gives a wrong secret: the caller checks the result against a commitment or a public key).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

from yoriai.errors import ProtocolError
from yoriai.privacy.secagg.secret import SecretBytes

PRIME = 2**256 + 297
SECRET_BYTES = 32
SHARE_BYTES = 33
_FIELD_BITS = 257
_STEPS_APART = 8

Entropy = Callable[[int], bytes]
"""A source of n cryptographically random bytes: `os.urandom`, or a seeded stream in tests."""


def _field_element(entropy: Entropy) -> int:
    """Draw uniformly from GF(p): 257 random bits, again while they are p or more (about half the draws pass)."""
    while True:
        value = int.from_bytes(entropy(SHARE_BYTES), "big") >> (8 * SHARE_BYTES - _FIELD_BITS)
        if value < PRIME:
            return value


def split(secret: SecretBytes, threshold: int, holders: tuple[int, ...], entropy: Entropy) -> dict[int, SecretBytes]:
    """Share a 32-byte secret among holders, so that any `threshold` of them can rebuild it.

    Args:
        secret: 32 bytes.
        threshold: 1 to the number of holders.
        holders: distinct x coordinates, each from 1 to p - 1.
        entropy: source of the polynomial's coefficients.

    Returns:
        One 33-byte share a holder, by x coordinate.

    Raises:
        ProtocolError: on a secret of another length, coordinates that repeat or are out of range, or a threshold
            that no set of holders can meet.
    """
    if len(secret) != SECRET_BYTES:
        raise ProtocolError("a secret to be shared has the wrong length", expected=f"{SECRET_BYTES} bytes")
    if len(set(holders)) != len(holders) or not all(0 < x < PRIME for x in holders):
        raise ProtocolError("share holders repeat or are out of range", expected="distinct coordinates from 1")
    if not 1 <= threshold <= len(holders):
        raise ProtocolError("share threshold cannot be met", found=str(threshold), expected=f"1 to {len(holders)}")
    coefficients = [_field_element(entropy) for _ in range(threshold - 1)]
    coefficients.append(int.from_bytes(secret.reveal(), "big"))
    return {x: SecretBytes(_value_at(x, coefficients).to_bytes(SHARE_BYTES, "big")) for x in holders}


def _value_at(x: int, coefficients: Sequence[int]) -> int:
    """The polynomial's value mod p; the highest coefficient comes first. Its remainders are taken some steps apart."""
    y = 0
    for start in range(0, len(coefficients), _STEPS_APART):
        for coefficient in coefficients[start : start + _STEPS_APART]:
            y = y * x + coefficient
        y %= PRIME
    return y


def weights_at_zero(holders: tuple[int, ...]) -> tuple[int, ...]:
    """Lagrange weights l_i with s = sum l_i * y_i mod p; they depend on the coordinates only, so they can be reused."""
    # Coordinates are small beside p, so products of all of them are cheaper than remainders in between.
    every = math.prod(holders)
    denominators = [math.prod(other - x for other in holders if other != x) % PRIME for x in holders]
    return tuple(every // x * inverse % PRIME for x, inverse in zip(holders, _inverses(denominators), strict=True))


def _inverses(values: Sequence[int]) -> list[int]:
    """1/v mod p of each, none of them zero, by one inversion: of the product of all (Montgomery's trick)."""
    before = [1, *accumulate(values, lambda product, value: product * value % PRIME)]
    inverse = pow(before[-1], -1, PRIME)
    inverses = []
    for value, product in zip(reversed(values), reversed(before[:-1]), strict=True):
        inverses.append(inverse * product % PRIME)
        inverse = inverse * value % PRIME
    return inverses[::-1]


def combine(shares: Mapping[int, SecretBytes], threshold: int) -> SecretBytes:
    """Rebuild the secret from the `threshold` shares of the lowest coordinates.

    Raises:
        ProtocolError: with fewer shares than the threshold, or if the result is no 32-byte secret (a share is wrong).
            A wrong share is not always noticed here: check the secret against what its owner published.
    """
    if not 1 <= threshold <= len(shares):
        raise ProtocolError("too few shares of a secret", found=str(len(shares)), expected=f"at least {threshold}")
    holders = tuple(sorted(shares))[:threshold]
    values = [int.from_bytes(shares[x].reveal(), "big") for x in holders]
    if not all(0 < x < PRIME for x in holders) or not all(value < PRIME for value in values):
        raise ProtocolError("a share is not an element of the field")
    secret = sum(w * y for w, y in zip(weights_at_zero(holders), values, strict=True)) % PRIME
    if secret >= 2 ** (8 * SECRET_BYTES):
        raise ProtocolError("shares do not fit together", remedy="the round is void")
    return SecretBytes(secret.to_bytes(SECRET_BYTES, "big"))
