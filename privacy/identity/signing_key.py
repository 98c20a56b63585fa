"""Ed25519 signing keys (RFC 8032): what they sign, what verifies it, and the files that private ones are kept in.

Private keys are written once, with mode 0600, optionally under a passphrase (PKCS#8).
"""

from functools import lru_cache
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from yoriai.errors import IdentityError
from yoriai.system.key_file import read_private, write_private

# Above it a message is verified each time: remembering it would cost more memory than time.
_REMEMBERED_BYTES = 2048


class SigningKey:
    """An Ed25519 private key that signs under a domain: redacted in `repr`, and never pickled or copied."""

    __slots__ = ("_key",)

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def generate(cls) -> "SigningKey":
        """A fresh key from the operating system's generator."""
        return cls(Ed25519PrivateKey.generate())

    @property
    def public_key(self) -> Ed25519PublicKey:
        """The public half."""
        return self._key.public_key()

    def sign(self, domain: bytes, message: bytes) -> bytes:
        """Sign `domain`, a zero byte and `message`: a signature for one purpose is none for another. 64 bytes."""
        return self._key.sign(domain + b"\0" + message)

    def for_x509(self) -> Ed25519PrivateKey:
        """The key itself, for certificates and requests, which have an encoding of their own."""
        return self._key

    def __repr__(self) -> str:
        return "<SigningKey: redacted>"

    def __reduce_ex__(self, protocol: object) -> str | tuple[object, ...]:
        raise TypeError("a SigningKey can be neither pickled nor copied")


def verify(public_key: Ed25519PublicKey, domain: bytes, message: bytes, signature: bytes) -> None:
    """Check a signature of `SigningKey.sign`.

    Raises:
        IdentityError: if it is not the key's signature of this message for this domain.
    """
    signed = domain + b"\0" + message
    try:
        if len(signed) <= _REMEMBERED_BYTES:
            _verified(public_key.public_bytes_raw(), signed, signature)
        else:
            public_key.verify(signature, signed)
    except InvalidSignature:
        raise IdentityError("a signature does not fit its message", remedy="treat the message as forged") from None


@lru_cache(maxsize=16_384)
def _verified(public_key: bytes, signed: bytes, signature: bytes) -> None:
    """Verify once what many parties of one process are shown: a simulation's sites all check each other's keys.

    A function of its bytes alone, and what it raises is not remembered: a forgery is looked at each time.
    """
    Ed25519PublicKey.from_public_bytes(public_key).verify(signature, signed)


def write_key(path: Path, key: SigningKey, passphrase: bytes | None = None) -> None:
    """Write a private key to a new file with mode 0600.

    Raises:
        IdentityError: if the file exists; a key is never overwritten.
    """
    write_private(path, key_bytes(key, passphrase))


def key_bytes(key: SigningKey, passphrase: bytes | None = None) -> bytes:
    """A private key as its file has it."""
    cipher = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    return key.for_x509().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, cipher)


def read_key(path: Path, passphrase: bytes | None = None) -> SigningKey:
    """Read a private key.

    Raises:
        IdentityError: if others may read the file, the passphrase is wrong or missing, or it is no Ed25519 key.
    """
    data = read_private(path)
    try:
        key = load_pem_private_key(data, passphrase)
    except (ValueError, TypeError):
        raise IdentityError(f"key file {path} cannot be read", remedy="check the file and its passphrase") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise IdentityError(f"key file {path} holds another kind of key", expected="Ed25519")
    return SigningKey(key)
