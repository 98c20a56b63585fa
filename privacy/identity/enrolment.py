"""How a site becomes a member, as two files that are carried by hand: its request, and the consortium's answer.

    NAME.request   site -> consortium     both public keys and the name; signed by the identity key
    NAME.cert      consortium -> site     federation, name, X.509 certificate and node key; signed by the federation CA
                   consortium -> server   the same file: it says which node key speaks for which name

Both are laid out as in `signed_file.py`. A request proves that who made it holds both private keys, and nothing about
who that is: the consortium compares the identity key's fingerprint with the site over a channel of its own, such as the
telephone. The node key needs no comparing of its own, for the identity key has signed it.

Not covered: a site that is given a wrong CA certificate at installation. It compares that fingerprint as well.
"""

import json
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from hashlib import sha256

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from yoriai.errors import IdentityError
from yoriai.privacy.identity.certificates import Authority, Trust, check_name
from yoriai.privacy.identity.node_key import NodeKey, check_node_key, verify_node_proof
from yoriai.privacy.identity.public_keys import check_ed25519, ed25519_key
from yoriai.privacy.identity.signed_file import SignedFormat, canonical_json
from yoriai.privacy.identity.signing_key import SigningKey

_REQUEST = SignedFormat("the request", "request", 1, remedy="make it anew at the site: yoriai site enrol DIR")
_ENROLMENT = SignedFormat(
    "the certificate file", "enrolment", 1, remedy="take it and authority.der from the same consortium"
)
_KEY_CHARS = 64  # An Ed25519 public key in hexadecimal.


def grouped(digest: bytes) -> str:
    """A digest for reading aloud: lower-case hexadecimal, four groups of four a row."""
    text = digest.hex()
    groups = [text[at : at + 4] for at in range(0, len(text), 4)]
    return "\n".join(" ".join(groups[at : at + 4]) for at in range(0, len(groups), 4))


@dataclass(frozen=True)
class Request:
    """What a site asks for: a name, its identity key (32 bytes) and its node key (OpenSSH's line)."""

    name: str
    identity: bytes
    node_key: str

    @property
    def public_key(self) -> Ed25519PublicKey:
        """The identity key."""
        return ed25519_key(self.identity)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the identity key, in rows for reading aloud."""
        return key_fingerprint(self.identity)


def key_fingerprint(identity: bytes) -> str:
    """SHA-256 of a raw identity key, in rows for reading aloud: what site and consortium compare."""
    return grouped(sha256(identity).digest())


def make_request(name: str, key: SigningKey, node_key: NodeKey) -> bytes:
    """The request's file.

    Raises:
        IdentityError: the name is not a plain one.
    """
    identity = key.public_key.public_bytes_raw()
    proof = node_key.prove(_statement(check_name(name), identity))
    document = {"name": name, "node_key": node_key.public_text, "node_proof": proof.hex()}
    return _REQUEST.seal(key, identity.hex().encode() + b"\n" + canonical_json(document))


def read_request(data: bytes) -> Request:
    """Verify and parse a request's file.

    Raises:
        IdentityError: it is none, was changed, or does not prove one of its keys.
    """
    signature, payload = _REQUEST.split(data)
    head, _, body = payload.partition(b"\n")
    try:
        identity = bytes.fromhex(head[:_KEY_CHARS].decode("ascii"))
        key = ed25519_key(identity)
    except ValueError:
        raise _malformed("the request") from None
    _REQUEST.check(signature, payload, key)
    try:
        document = json.loads(body)
        name, node_key, proof = (document[field] for field in ("name", "node_key", "node_proof"))
        request = Request(check_name(name), identity, check_node_key(node_key))
        verify_node_proof(node_key, _statement(name, identity), bytes.fromhex(proof))
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        raise _malformed("the request") from None
    if payload != identity.hex().encode() + b"\n" + canonical_json(document) or len(document) != 3:
        raise _malformed("the request")
    return request


def _statement(name: str, identity: bytes) -> bytes:
    """What the node key signs: for whom it is. Another site that copies the public key cannot say the same."""
    return identity + name.encode()


@dataclass(frozen=True)
class Enrolment:
    """A member as the CA vouches for it: its name, its certificate (DER) and its node key (OpenSSH's line)."""

    federation: str
    name: str
    certificate: bytes
    node_key: str

    def __post_init__(self) -> None:
        check_name(self.federation)
        check_name(self.name)
        check_node_key(self.node_key)

    @cached_property
    def identity(self) -> bytes:
        """The certified identity key, 32 bytes."""
        return identity_of(self.certificate)

    @property
    def expires(self) -> datetime:
        """When the certificate does."""
        return x509.load_der_x509_certificate(self.certificate).not_valid_after_utc

    @property
    def payload(self) -> bytes:
        """Canonical JSON, the bytes that are signed."""
        document = {"federation": self.federation, "name": self.name, "node_key": self.node_key}
        return canonical_json(document | {"certificate": self.certificate.hex()})


def identity_of(certificate_der: bytes) -> bytes:
    """The Ed25519 key of a certificate, 32 bytes.

    Raises:
        IdentityError: it is no certificate, or of another kind of key, or of one that is not canonical.
    """
    try:
        key = x509.load_der_x509_certificate(certificate_der).public_key()
    except ValueError:
        raise _malformed("the certificate") from None
    if not isinstance(key, Ed25519PublicKey):
        raise IdentityError("the certificate is for another kind of key", expected="Ed25519")
    return check_ed25519(key.public_bytes_raw())


def sign_enrolment(authority: Authority, enrolment: Enrolment) -> bytes:
    """The file NAME.cert. The same member gives the same bytes."""
    return _ENROLMENT.seal(authority.key, enrolment.payload)


def read_enrolment(data: bytes, trust: Trust) -> Enrolment:
    """Verify and parse a file NAME.cert, and check the certificate in it.

    Raises:
        IdentityError: the pinned CA did not sign it, or the certificate is not valid, or revoked.
    """
    payload = _ENROLMENT.open(data, trust.authority_key)
    try:
        fields = json.loads(payload)
        certificate = bytes.fromhex(fields["certificate"])
        enrolment = Enrolment(fields["federation"], fields["name"], certificate, fields["node_key"])
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        raise _malformed("the certificate file") from None
    if enrolment.payload != payload:
        raise _malformed("the certificate file")
    trust.check(enrolment.name, enrolment.certificate)
    return enrolment


def _malformed(what: str) -> IdentityError:
    return IdentityError(f"{what} is malformed", remedy="have it made anew")
