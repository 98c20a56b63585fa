"""Text files that somebody signs as a whole: a line that names the format and its version, the signature, the payload.

    yoriai-roster-1
    <signature of the payload, 128 hexadecimal digits>
    <payload>

The payload is parsed only after the signature over exactly these bytes has been verified, and each format signs under a
domain of its own. A file of an unknown version is refused by that version's name, whatever its layout below is.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from yoriai.errors import IdentityError
from yoriai.privacy.identity.signing_key import SigningKey, verify

# What may be quoted of a first line that somebody else wrote.
_QUOTABLE = re.compile(rb"yoriai-[a-z]{1,20}-[0-9]{1,9}")


class Signed(Protocol):
    """A value that can be signed."""

    @property
    def payload(self) -> bytes:
        """Canonical JSON, the bytes that are signed."""
        ...


_Statement = TypeVar("_Statement", bound=Signed)


def canonical_json(document: Mapping[str, object]) -> bytes:
    """The one encoding of a document in which it is signed: keys sorted, no spaces, ASCII."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


@dataclass(frozen=True)
class SignedFormat:
    """One kind of signed file.

    Attributes:
        what: its name in messages, such as "the roster".
        kind: one lower-case word, in the first line and in the domain of the signature.
        version: of the layout and the payload.
        remedy: what helps when a file is not what it should be.
    """

    what: str
    kind: str
    version: int
    remedy: str

    @property
    def first_line(self) -> bytes:
        """Names the format and its version."""
        return f"yoriai-{self.kind}-{self.version}".encode()

    def seal(self, key: SigningKey, payload: bytes) -> bytes:
        """The file with this payload."""
        return b"\n".join([self.first_line, key.sign(self._domain, payload).hex().encode(), payload])

    def split(self, data: bytes) -> tuple[bytes, bytes]:
        """Signature and payload of a file, neither of them verified.

        Raises:
            IdentityError: it is another kind of file, of another version, or has lines missing.
        """
        first, *rest = data.split(b"\n", 2)
        if first != self.first_line and _QUOTABLE.fullmatch(first):
            expected = self.first_line.decode()
            raise IdentityError(f"{self.what} is of another version or kind", found=first.decode(), expected=expected)
        try:
            if first != self.first_line or not re.fullmatch(rb"[0-9a-f]{128}", rest[0]):
                raise ValueError
            return bytes.fromhex(rest[0].decode("ascii")), rest[1]
        except (IndexError, ValueError):
            raise IdentityError(f"{self.what} cannot be read", remedy=self.remedy) from None

    def open(self, data: bytes, key: Ed25519PublicKey) -> bytes:
        """The payload of a file that `key` signed.

        Raises:
            IdentityError: it is not such a file, or not signed by this key.
        """
        signature, payload = self.split(data)
        self.check(signature, payload, key)
        return payload

    def check(self, signature: bytes, payload: bytes, key: Ed25519PublicKey) -> None:
        """Raise IdentityError unless `key` signed this payload as a file of this kind."""
        try:
            verify(key, self._domain, payload, signature)
        except IdentityError:
            raise IdentityError(f"{self.what} does not bear the right signature", remedy=self.remedy) from None

    def statements(
        self, make: Callable[..., _Statement]
    ) -> tuple[Callable[[SigningKey, _Statement], bytes], Callable[[bytes, Ed25519PublicKey], _Statement]]:
        """What signs and what reads files of this kind that hold a statement, made from the fields of their payload."""

        def sign(key: SigningKey, statement: _Statement) -> bytes:
            """The statement's file."""
            return self.seal(key, statement.payload)

        def read(data: bytes, public_key: Ed25519PublicKey) -> _Statement:
            """Verify and parse a statement.

            Raises:
                IdentityError: this key did not sign it, or it is malformed, in another encoding or of another version.
            """
            payload = self.open(data, public_key)
            statement = self._made(make, payload)
            if statement.payload != payload:
                raise self.malformed()
            return statement

        return sign, read

    def unverified(self, data: bytes, make: Callable[..., _Statement]) -> _Statement:
        """The statement in a file whose signature is not looked at.

        Raises:
            IdentityError: it is no such file.
        """
        return self._made(make, self.split(data)[1])

    def _made(self, make: Callable[..., _Statement], payload: bytes) -> _Statement:
        try:
            return make(**json.loads(payload))
        except (TypeError, ValueError, AttributeError, KeyError, RecursionError):
            raise self.malformed() from None

    def malformed(self) -> IdentityError:
        """The error of a file whose content is not what its kind has."""
        return IdentityError(f"{self.what} is malformed", remedy=self.remedy)

    @property
    def _domain(self) -> bytes:
        return f"yoriai/{self.kind}/{self.version}".encode()
