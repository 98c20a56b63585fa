"""Shamir's sharing against values worked out elsewhere: by hand, by sympy, and by another way of interpolating."""

import hashlib
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.privacy.secagg.cohort import seeded
from yoriai.errors import ProtocolError
from yoriai.privacy.secagg.secret import SecretBytes
from yoriai.privacy.secagg.shamir import PRIME, combine, split

# sympy 1.14: Poly([c2, c1, c0, secret], x, modulus=2**256 + 297).eval(holder), c_i = SHA-512(str(i)) mod p, the
# secret SHA-256(b"secret").
GOLDEN = {
    1: "951682fffd80af3ab922e5777390e78981a0aab1a55d957632fe3981880fe860",
    2: "6468a5068fabbc748e304cf009c038bf7effd84e09d344f8d83c7bb73b06ec73",
    5: "52c73029018ffaabf7c05628b9b8b5ed6f02f2c3f2694f248994d69a4163c972",
    7: "ceb9c6be9badc2287d6d93ce68cb2f03fbc2a7bd6c768d30bc5ba089b8a4e28f",
    1000: "a0ac63280d71656c1315f405057c3285bd207670563f217d9ba22526e73ace6c",
}
SECRET = SecretBytes(hashlib.sha256(b"secret").digest())


def _scripted(values: list[int]):
    """An entropy source that makes the sharing draw exactly these coefficients, left-aligned in 33 bytes."""
    queue = [(value << 7).to_bytes(33, "big") for value in values]
    return lambda n: queue.pop(0)


def test_shares_equal_those_of_sympy() -> None:
    coefficients = [int.from_bytes(hashlib.sha512(b"%d" % i).digest(), "big") % PRIME for i in range(3)]
    shares = split(SECRET, 4, tuple(GOLDEN), _scripted(coefficients))
    assert {x: share.reveal().hex() for x, share in shares.items()} == {x: "00" + y for x, y in GOLDEN.items()}


@pytest.mark.parametrize("holders", list(combinations(GOLDEN, 4)))
def test_shares_of_sympy_give_the_secret(holders: tuple[int, ...]) -> None:
    shares = {x: SecretBytes(bytes.fromhex("00" + GOLDEN[x])) for x in holders}
    assert combine(shares, 4).reveal() == SECRET.reveal()


def test_a_line_worked_out_by_hand() -> None:
    # f(x) = 5 + 3x: f(1) = 8, f(2) = 11, and from these f(0) = 2 * 8 - 11 = 5.
    secret = SecretBytes((5).to_bytes(32, "big"))
    shares = split(secret, 2, (1, 2), _scripted([3]))
    assert [int.from_bytes(shares[x].reveal(), "big") for x in (1, 2)] == [8, 11]
    assert combine(shares, 2).reveal() == secret.reveal()


def test_the_modulus_passes_miller_and_rabin() -> None:
    # sympy 1.14 says nextprime(2**256) == 2**256 + 297; 40 bases of Miller and Rabin leave 2^-80.
    odd, twos = PRIME - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in range(2, 42):
        x = pow(base, odd, PRIME)
        powers = [pow(x, 2**i, PRIME) for i in range(twos)]
        assert x == 1 or PRIME - 1 in powers


def _newton(points: list[tuple[int, int]]) -> int:
    """Value at 0 by Newton's divided differences: another formula than the one under test."""
    xs, table = [x for x, _ in points], [y for _, y in points]
    for level in range(1, len(points)):
        for i in range(len(points) - 1, level - 1, -1):
            table[i] = (table[i] - table[i - 1]) * pow(xs[i] - xs[i - level], -1, PRIME) % PRIME
    value = 0
    for x, coefficient in zip(reversed(xs), reversed(table), strict=True):
        value = (value * -x + coefficient) % PRIME
    return value


@settings(max_examples=40, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.integers(1, 12), st.integers(0, 12), st.integers(0, 10**9))
def test_any_threshold_of_shares_gives_the_secret(secret: bytes, threshold: int, spare: int, seed: int) -> None:
    holders = tuple(range(3, 3 + threshold + spare))
    shares = split(SecretBytes(secret), threshold, holders, seeded(str(seed)))
    chosen = dict(list(shares.items())[spare:])
    assert combine(chosen, threshold).reveal() == secret
    points = [(x, int.from_bytes(share.reveal(), "big")) for x, share in chosen.items()]
    assert _newton(points) == int.from_bytes(secret, "big")


def test_one_share_less_than_the_threshold_is_refused_and_would_not_fit() -> None:
    shares = split(SECRET, 4, (1, 2, 3, 4), seeded("x"))
    few = {x: shares[x] for x in (1, 2, 3)}
    with pytest.raises(ProtocolError):
        combine(few, 4)
    assert _newton([(x, int.from_bytes(s.reveal(), "big")) for x, s in few.items()]) != int.from_bytes(
        SECRET.reveal(), "big"
    )


def test_shares_below_the_threshold_fit_every_secret() -> None:
    # Perfect secrecy: for two of three shares there is a third for any secret, so they say nothing.
    shares = split(SECRET, 3, (1, 2, 3), seeded("y"))
    points = [(x, int.from_bytes(shares[x].reveal(), "big")) for x in (1, 2)]
    for other in (b"a" * 32, b"b" * 32):
        third = _newton_at(3, [(0, int.from_bytes(other, "big")), *points])
        completed = {**{x: shares[x] for x in (1, 2)}, 3: SecretBytes(third.to_bytes(33, "big"))}
        assert combine(completed, 3).reveal() == other


def _newton_at(at: int, points: list[tuple[int, int]]) -> int:
    return _newton([((x - at) % PRIME, y) for x, y in points])


@pytest.mark.parametrize(
    ("threshold", "holders"), [(0, (1, 2)), (3, (1, 2)), (2, (1, 1)), (1, (0, 1)), (1, (PRIME,)), (1, ())]
)
def test_impossible_sharings_are_refused(threshold: int, holders: tuple[int, ...]) -> None:
    with pytest.raises(ProtocolError):
        split(SECRET, threshold, holders, seeded("z"))


def test_a_secret_of_another_length_is_refused() -> None:
    with pytest.raises(ProtocolError):
        split(SecretBytes(b"short"), 1, (1,), seeded("z"))


def test_a_share_outside_the_field_is_refused() -> None:
    with pytest.raises(ProtocolError):
        combine({1: SecretBytes(PRIME.to_bytes(33, "big"))}, 1)


def test_coefficients_are_drawn_again_when_they_are_not_in_the_field() -> None:
    shares = split(SECRET, 2, (1, 2), _scripted([PRIME, PRIME + 5, 1]))
    difference = int.from_bytes(shares[2].reveal(), "big") - int.from_bytes(shares[1].reveal(), "big")
    assert difference % PRIME == 1
