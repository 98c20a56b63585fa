"""Public keys of Curve25519 as they are read: in their one canonical encoding, and not of small order.

The protocol compares public keys as bytes ("no key twice", "a key that was revoked"). X25519 ignores the top bit and
reduces modulo p (RFC 7748, section 5), so one key has up to four encodings of 32 bytes; a point of small order agrees
on zero with everybody. Ed25519 (RFC 8032, section 5.1.3) has second encodings only of points of small order and of
coordinates from p on, and under a key of small order one signature holds for many messages. So both kinds of bytes
are refused wherever a key comes in, and bytes then stand for keys one to one.

Not covered: that an Ed25519 key is a point of the curve at all; one that is not verifies nothing.
"""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from yoriai.errors import IdentityError

KEY_BYTES = 32
_PRIME = 2**255 - 19
_SIGN = 1 << 255
# u of the points of order 1, 2, 4 and 8 on the curve and on its twist.
_SMALL_MONTGOMERY = frozenset(
    {
        0,
        1,
        _PRIME - 1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
    }
)
# y of the points of order 1, 2, 4 and 8 of the Edwards curve; x is one of at most two.
_EIGHTH = 2707385501144840649318225287225658788936804267575313519463743609750303402022
_SMALL_EDWARDS = frozenset({0, 1, _PRIME - 1, _EIGHTH, _PRIME - _EIGHTH})


def check_x25519(data: bytes) -> bytes:
    """Return an X25519 public key's bytes if they are its canonical encoding and it is not of small order.

    Raises:
        IdentityError: otherwise.
    """
    u = int.from_bytes(data, "little")
    if len(data) != KEY_BYTES or u >= _PRIME or u in _SMALL_MONTGOMERY:
        raise _refused("X25519")
    return data


def check_ed25519(data: bytes) -> bytes:
    """Return an Ed25519 public key's bytes if they are its canonical encoding and it is not of small order.

    Raises:
        IdentityError: otherwise.
    """
    y = int.from_bytes(data, "little") & (_SIGN - 1)
    if len(data) != KEY_BYTES or y >= _PRIME or y in _SMALL_EDWARDS:
        raise _refused("Ed25519")
    return data


def ed25519_key(data: bytes) -> Ed25519PublicKey:
    """The Ed25519 public key in these bytes.

    Raises:
        IdentityError: as `check_ed25519`.
    """
    return Ed25519PublicKey.from_public_bytes(check_ed25519(data))


def _refused(kind: str) -> IdentityError:
    return IdentityError(
        f"a public key of {kind} is not in its canonical encoding, or of small order",
        expected=f"{KEY_BYTES} bytes that an honest generator makes",
        remedy="have its owner make a new key; tell the consortium who sent this one",
    )
