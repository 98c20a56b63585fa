"""The key with which a site's SuperNode shows itself to Flower: ECDSA on P-384, kept and carried in OpenSSH's format.

Flower's node authentication signs a time stamp with it, not the messages, so nothing of Yoriai's rests on it: it only
keeps strangers off the server's port. It is another key than the site's identity because another user holds it, who
may read neither records nor the identity.

SHA-384 (FIPS 180-4) with ECDSA (FIPS 186-5); the OpenSSH encoding of RFC 5656.
"""

from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
    load_ssh_public_key,
)

from yoriai.errors import IdentityError
from yoriai.system.key_file import read_private, write_private

_DOMAIN = b"yoriai/node-key/1"
_LONGEST = 400


class NodeKey:
    """A P-384 private key: redacted in `repr`, and never pickled or copied."""

    __slots__ = ("_key",)

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key

    @classmethod
    def generate(cls) -> "NodeKey":
        """A fresh key from the operating system's generator."""
        return cls(ec.generate_private_key(ec.SECP384R1()))

    @property
    def public_text(self) -> str:
        """The public half on one line, as `ssh-keygen` writes it, without a comment."""
        return _text(self._key.public_key())

    def prove(self, statement: bytes) -> bytes:
        """Sign a statement under this module's domain, DER: whoever asks for the key to be enrolled holds it."""
        return self._key.sign(_DOMAIN + b"\0" + statement, ec.ECDSA(hashes.SHA384()))

    def write(self, path: Path) -> None:
        """Write the key to a new file with mode 0600.

        Raises:
            IdentityError: if the file exists; a key is never overwritten.
            StorageError: it cannot be written.
        """
        write_private(path, self._key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))

    @classmethod
    def read(cls, path: Path) -> "NodeKey":
        """Read a key.

        Raises:
            IdentityError: if others may read the file, or it is no P-384 key.
            StorageError: it cannot be read.
        """
        data = read_private(path)
        try:
            key = load_ssh_private_key(data, None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise IdentityError(f"key file {path} cannot be read", expected="a key in OpenSSH's format") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
            raise IdentityError(f"key file {path} holds another kind of key", expected="ECDSA on P-384")
        return cls(key)

    def __repr__(self) -> str:
        return "<NodeKey: redacted>"

    def __reduce_ex__(self, protocol: object) -> str | tuple[object, ...]:
        raise TypeError("a NodeKey can be neither pickled nor copied")


def check_node_key(text: str) -> str:
    """Return a public key's line if it is one of P-384 in its only form: no comment, no other spacing.

    Raises:
        IdentityError: otherwise.
    """
    if _text(_load(text)) != text:
        raise _no_node_key()
    return text


def verify_node_proof(text: str, statement: bytes, proof: bytes) -> None:
    """Check a signature of `NodeKey.prove`.

    Raises:
        IdentityError: if the key of this line did not sign the statement.
    """
    try:
        _load(text).verify(proof, _DOMAIN + b"\0" + statement, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        raise IdentityError("a node key was not proved by its holder", remedy="make the request anew") from None


def _load(text: str) -> ec.EllipticCurvePublicKey:
    try:
        if len(text) > _LONGEST:
            raise ValueError
        key = load_ssh_public_key(text.encode("ascii"))
    except (ValueError, UnsupportedAlgorithm):
        raise _no_node_key() from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise _no_node_key()
    return key


def _text(key: ec.EllipticCurvePublicKey) -> str:
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode("ascii")


def _no_node_key() -> IdentityError:
    return IdentityError("a node key", expected="one line ecdsa-sha2-nistp384, without a comment")
