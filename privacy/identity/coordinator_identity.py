"""How sites know the coordinator's signature: its request to the consortium, and the consortium's answer.

    NAME.request        coordinator -> consortium    name and identity key; signed by that key
    coordinator.cert    consortium -> coordinator    federation, name, key and expiry; signed by the federation CA
                        coordinator -> sites         with every message and every statement that it signs

Both are laid out as in `signed_file.py`, each under a format of its own: a coordinator's certificate names no site, is
in no roster, and cannot be shown as a member's. The consortium compares the key's fingerprint over a channel of its
own, as it does with a site's.

A coordinator's key is revoked by the list that revokes sites' certificates, and is never certified again.

Not covered: a site that has not installed the newest revocation list. Whoever stole the key, and stands where the
server does, may ask there for all that the coordinator may, until the list comes or the certificate expires.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from yoriai.errors import IdentityError
from yoriai.privacy.identity.certificates import Authority, Trust, check_name
from yoriai.privacy.identity.enrolment import key_fingerprint
from yoriai.privacy.identity.public_keys import check_ed25519, ed25519_key
from yoriai.privacy.identity.signed_file import SignedFormat, canonical_json
from yoriai.privacy.identity.signing_key import SigningKey

_REQUEST = SignedFormat(
    "the coordinator's request", "application", 1, remedy="make it anew at the server: yoriai server enrol DIR"
)
_CERTIFICATE = SignedFormat(
    "the coordinator's certificate", "coordinator", 1, remedy="have the consortium sign the server's request again"
)


@dataclass(frozen=True)
class CoordinatorRequest:
    """What a coordinator asks for: a name and its identity key, 32 bytes."""

    name: str
    identity: bytes

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the identity key, in rows for reading aloud."""
        return key_fingerprint(self.identity)


@dataclass(frozen=True)
class CoordinatorCertificate:
    """A coordinator as the CA vouches for it.

    Attributes:
        federation: whose coordinator it is.
        name: its name, for logs.
        identity: its Ed25519 key, 32 bytes.
        expires: when the certificate does, in whole seconds UTC.
    """

    federation: str
    name: str
    identity: bytes
    expires: datetime

    def __post_init__(self) -> None:
        check_name(self.federation)
        check_name(self.name)
        check_ed25519(self.identity)
        if self.expires.utcoffset() != timedelta(0) or self.expires.microsecond:
            raise _malformed(_CERTIFICATE)

    @property
    def public_key(self) -> Ed25519PublicKey:
        """The identity key."""
        return ed25519_key(self.identity)

    @property
    def payload(self) -> bytes:
        """Canonical JSON, the bytes that are signed."""
        document = {"federation": self.federation, "name": self.name, "identity": self.identity.hex()}
        return canonical_json(document | {"expires": self.expires.isoformat()})


def make_coordinator_request(name: str, key: SigningKey) -> bytes:
    """The request's file; its signature proves that who made it holds the key.

    Raises:
        IdentityError: the name is not a plain one.
    """
    document = {"name": check_name(name), "identity": key.public_key.public_bytes_raw().hex()}
    return _REQUEST.seal(key, canonical_json(document))


def is_coordinator_request(data: bytes) -> bool:
    """Whether a file says that it is a coordinator's request rather than a site's; nothing is verified."""
    return data.startswith(_REQUEST.first_line[:-1])


def read_coordinator_request(data: bytes) -> CoordinatorRequest:
    """Parse a coordinator's request and verify that its own key signed it.

    Raises:
        IdentityError: it is malformed, altered, or of another version.
    """
    # The key that verifies lies in the payload itself, so this much is parsed first, and believed only afterwards.
    signature, payload = _REQUEST.split(data)
    try:
        fields = json.loads(payload)
        request = CoordinatorRequest(check_name(fields["name"]), bytes.fromhex(fields["identity"]))
        key = ed25519_key(request.identity)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        raise _malformed(_REQUEST) from None
    if payload != canonical_json({"name": request.name, "identity": request.identity.hex()}):
        raise _malformed(_REQUEST)
    _REQUEST.check(signature, payload, key)
    return request


def certify_coordinator(
    authority: Authority, federation: str, request: CoordinatorRequest, *, now: datetime, valid_for: timedelta
) -> bytes:
    """The file coordinator.cert."""
    expires = (now + valid_for).astimezone(UTC).replace(microsecond=0)
    certificate = CoordinatorCertificate(federation, request.name, request.identity, expires)
    return _CERTIFICATE.seal(authority.key, certificate.payload)


def read_coordinator_certificate(data: bytes, trust: Trust, *, now: datetime) -> CoordinatorCertificate:
    """Verify and parse a coordinator's certificate.

    Raises:
        IdentityError: the pinned CA did not sign it, it is malformed, it has expired, or its key was revoked.
    """
    payload = _CERTIFICATE.open(data, trust.authority_key)
    try:
        fields = json.loads(payload)
        certificate = CoordinatorCertificate(
            fields["federation"],
            fields["name"],
            bytes.fromhex(fields["identity"]),
            datetime.fromisoformat(fields["expires"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        raise _malformed(_CERTIFICATE) from None
    if certificate.payload != payload:
        raise _malformed(_CERTIFICATE)
    if now >= certificate.expires:
        raise IdentityError(
            "the coordinator's certificate has expired",
            found=f"{certificate.expires:%Y-%m-%d}",
            remedy="have the consortium sign the server's request again",
        )
    trust.check_coordinator_key(certificate.identity)
    return certificate


def certified_federation(data: bytes) -> str:
    """The federation that a coordinator's certificate names. Nothing is verified: for the certificate's own holder.

    Raises:
        IdentityError: it is no such certificate.
    """
    _, payload = _CERTIFICATE.split(data)
    try:
        return check_name(json.loads(payload)["federation"])
    except (KeyError, TypeError, ValueError, RecursionError):
        raise _malformed(_CERTIFICATE) from None


def _malformed(form: SignedFormat) -> IdentityError:
    return IdentityError(f"{form.what} is malformed", remedy=form.remedy)
