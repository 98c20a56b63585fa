"""Public keys as bytes: one encoding a key, and none of small order."""

from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from tests.privacy.secagg.cohort import NOW, YEAR, authority, certificate, signing_key, trust
from yoriai.errors import IdentityError
from yoriai.privacy.identity.coordinator_identity import CoordinatorCertificate
from yoriai.privacy.identity.enrolment import identity_of
from yoriai.privacy.identity.public_keys import check_ed25519, check_x25519
from yoriai.privacy.secagg.messages import Advertisement

P = 2**255 - 19
SMALL_X25519 = (
    0,
    1,
    P - 1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
)


def bytes_of(number: int) -> bytes:
    return number.to_bytes(32, "little")


def other_encodings(number: int) -> list[bytes]:
    """The top bit set, which X25519 ignores, and p more where that still fits into 255 bits."""
    more = [bytes_of(number + P)] if number < 19 else []
    return [bytes_of(number | 1 << 255), *more]


@pytest.mark.parametrize("number", [*SMALL_X25519, *(P + k for k in range(19)), 9 | 1 << 255, 2**256 - 1])
def test_an_x25519_key_of_small_order_or_in_a_second_encoding_is_refused(number: int) -> None:
    with pytest.raises(IdentityError, match="X25519 is not in its canonical encoding, or of small order"):
        check_x25519(bytes_of(number))


def test_the_second_encodings_that_are_refused_are_of_the_same_key() -> None:
    """What makes them dangerous where keys are compared as bytes: the library takes both for one key."""
    mine = X25519PrivateKey.generate()
    for number in (9, 16):
        first = mine.exchange(X25519PublicKey.from_public_bytes(bytes_of(number)))
        for other in other_encodings(number):
            assert mine.exchange(X25519PublicKey.from_public_bytes(other)) == first
            with pytest.raises(IdentityError):
                check_x25519(other)
        assert check_x25519(bytes_of(number)) == bytes_of(number)


@pytest.mark.parametrize("number", SMALL_X25519)
def test_a_point_of_small_order_agrees_with_nobody(number: int) -> None:
    with pytest.raises(ValueError, match="shared key"):
        X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(bytes_of(number)))


def small_edwards() -> list[int]:
    """y of all points of order 1, 2, 4 and 8: for order 8, x^2 = -y^2, so d y^4 + 2 y^2 - 1 = 0 on the curve."""
    d = -121665 * pow(121666, -1, P) % P
    found = {0, 1, P - 1}
    root = _root(4 + 4 * d)
    for square in ((-2 + root) * pow(2 * d, -1, P) % P, (-2 - root) * pow(2 * d, -1, P) % P):
        y = _root(square)
        if y * y % P == square:
            found |= {y, P - y}
    return sorted(found)


def _root(square: int) -> int:
    root = pow(square, (P + 3) // 8, P)
    return root if (root * root - square) % P == 0 else root * pow(2, (P - 1) // 4, P) % P


def test_every_ed25519_key_of_small_order_is_refused_whatever_its_sign() -> None:
    assert len(small_edwards()) == 5
    for y in small_edwards():
        for sign in (0, 1 << 255):
            with pytest.raises(IdentityError, match="Ed25519"):
                check_ed25519(bytes_of(y | sign))


@pytest.mark.parametrize("extra", range(19))
def test_an_ed25519_key_whose_coordinate_is_not_reduced_is_refused(extra: int) -> None:
    with pytest.raises(IdentityError, match="Ed25519"):
        check_ed25519(bytes_of(P + extra))


def test_one_signature_under_a_key_of_small_order_holds_for_many_messages() -> None:
    """Why such keys are refused: the identity as public key, and R = B·s."""
    private = Ed25519PrivateKey.generate()
    point = private.public_key().public_bytes_raw()
    neutral = Ed25519PublicKey.from_public_bytes(bytes_of(1))
    scalar = _scalar_of(private)
    neutral.verify(point + scalar, b"one message")
    neutral.verify(point + scalar, b"another")


def _scalar_of(private: Ed25519PrivateKey) -> bytes:
    import hashlib

    digest = bytearray(hashlib.sha512(private.private_bytes_raw()).digest()[:32])
    digest[0] &= 248
    digest[31] = digest[31] & 127 | 64
    order = 2**252 + 27742317777372353535851937790883648493
    return bytes_of(int.from_bytes(digest, "little") % order)


@pytest.mark.parametrize("check", [check_x25519, check_ed25519])
@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_key_of_another_length_is_refused(check: Callable[[bytes], bytes], length: int) -> None:
    with pytest.raises(IdentityError, match="32 bytes"):
        check(bytes([9] * length))


def test_keys_that_an_honest_generator_makes_are_taken() -> None:
    for _ in range(50):
        check_ed25519(Ed25519PrivateKey.generate().public_key().public_bytes_raw())
        check_x25519(X25519PrivateKey.generate().public_key().public_bytes_raw())


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("bad", [bytes_of(9 | 1 << 255), bytes_of(P + 9), bytes_of(1)])
def test_an_advertisement_with_such_a_key_is_refused_wherever_it_stands(place: int, bad: bytes) -> None:
    """A window's keys are compared as bytes ("no key twice"): the same key written otherwise would pass."""
    keys = [bytes_of(9), bytes_of(10), bytes_of(11)]
    keys[place] = bad
    body = Advertisement(keys[0], tuple(keys[1:]), b"certificate").encode()
    with pytest.raises(IdentityError, match="X25519"):
        Advertisement.decode(memoryview(body), 2)


@pytest.mark.parametrize("bad", [bytes_of(1), bytes_of(P + 3)])
def test_no_certificate_is_made_for_such_a_key_nor_taken(bad: bytes) -> None:
    key = Ed25519PublicKey.from_public_bytes(bad)
    with pytest.raises(IdentityError, match="Ed25519"):
        authority().certify("mallory", key, now=NOW, valid_for=YEAR)
    good, raw = certificate("mallory"), signing_key("mallory").public_key.public_bytes_raw()
    forged = good.replace(raw, bad)
    assert forged != good
    with pytest.raises(IdentityError, match="Ed25519"):
        identity_of(forged)
    with pytest.raises(IdentityError):
        trust().check("mallory", forged)
    with pytest.raises(IdentityError, match="Ed25519"):
        CoordinatorCertificate("federation", "hub", bad, NOW.replace(microsecond=0))
