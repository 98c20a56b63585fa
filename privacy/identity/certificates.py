"""Who is who: the federation CA, site certificates and revocations.

The CA belongs to the consortium of sites, not to the server's operator. It signs one X.509 certificate a site (Ed25519,
RFC 8032 and RFC 8410) and the roster (see `roster.py`). Sites pin the CA's certificate, so a server that brings its own
CA gets nowhere; a site that is given a wrong CA at installation is not protected, and no protocol can mend that.

The functions here take the time as an argument and touch no file.
"""

import hashlib
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from yoriai.errors import IdentityError
from yoriai.privacy.identity.public_keys import check_ed25519
from yoriai.privacy.identity.signing_key import SigningKey

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SKEW = timedelta(minutes=5)


def check_name(name: str) -> str:
    """Return a site's or federation's name if it is 1 to 64 letters, digits, dots, dashes and underscores.

    Raises:
        IdentityError: otherwise.
    """
    if not _NAME.fullmatch(name):
        raise IdentityError(
            "a name", found=repr(name[:80]), expected="1 to 64 of A-Z a-z 0-9 . _ -, a letter or digit first"
        )
    return name


def make_request(name: str, key: SigningKey) -> bytes:
    """Certificate request of a site, PEM: made where the key is, sent to the CA."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, check_name(name))])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key.for_x509(), None)
    return request.public_bytes(Encoding.PEM)


def fingerprint(certificate_der: bytes) -> bytes:
    """SHA-256 of a certificate's DER encoding, 32 bytes."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(certificate_der)
    return digest.finalize()


@dataclass(frozen=True)
class Authority:
    """The federation's CA: its key and self-signed certificate."""

    key: SigningKey
    certificate: x509.Certificate

    @classmethod
    def create(cls, federation: str, key: SigningKey, *, now: datetime, valid_for: timedelta) -> "Authority":
        """Make the CA of a federation; it may sign end certificates only (path length 0)."""
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, check_name(federation))])
        builder = _builder(subject, subject, key.public_key, now, valid_for)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_usage(authority=True), critical=True)
        return cls(key, builder.sign(key.for_x509(), None))

    def sign_request(self, request_pem: bytes, *, now: datetime, valid_for: timedelta) -> bytes:
        """Issue a site's certificate, DER. The operator has checked out of band that the request is the site's.

        Raises:
            IdentityError: if the request is malformed, not signed with its own key, or names nobody.
        """
        try:
            request = x509.load_pem_x509_csr(request_pem)
            public_key = request.public_key()
            valid = request.is_signature_valid
        except ValueError:
            raise IdentityError("a certificate request cannot be read", remedy="make it anew at the site") from None
        if not valid or not isinstance(public_key, Ed25519PublicKey):
            raise IdentityError("a certificate request does not prove its key", expected="an Ed25519 signature")
        return self.certify(_common_name(request.subject), public_key, now=now, valid_for=valid_for)

    def certify(self, name: str, public_key: Ed25519PublicKey, *, now: datetime, valid_for: timedelta) -> bytes:
        """Issue a site's certificate, DER, for a key that has proved itself.

        Raises:
            IdentityError: if the name is not a plain one, or the key is not canonical or of small order.
        """
        check_ed25519(public_key.public_bytes_raw())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, check_name(name))])
        builder = _builder(subject, self.certificate.subject, public_key, now, valid_for)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(authority=False), critical=True)
        return builder.sign(self.key.for_x509(), None).public_bytes(Encoding.DER)

    def revocation_list(
        self,
        certificates_der: Iterable[bytes],
        keys: Iterable[bytes] = (),
        *,
        number: int,
        now: datetime,
        valid_for: timedelta,
    ) -> bytes:
        """Sign the full list of revoked certificates, and of revoked coordinators' keys, DER.

        Args:
            certificates_der: of sites.
            keys: raw Ed25519 keys of coordinators, whose certificates are no X.509 ones and have no serial number.
            number: grows with every list.
            now, valid_for: from when, and how long, the list tells something.
        """
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.certificate.subject)
        builder = builder.last_update(now).next_update(now + valid_for)
        builder = builder.add_extension(x509.CRLNumber(number), critical=False)
        serials = [x509.load_der_x509_certificate(der).serial_number for der in certificates_der]
        for serial in (*serials, *map(_serial_of, keys)):
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(self.key.for_x509(), None).public_bytes(Encoding.DER)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: Ed25519PublicKey, now: datetime, valid_for: timedelta
) -> x509.CertificateBuilder:
    """What CA and site certificates share. Valid from five minutes ago, for clocks that are a little slow."""
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    # All 20 bytes that RFC 5280 allows, never fewer: equal runs then send messages of equal length.
    builder = builder.serial_number(1 << 158 | secrets.randbits(158))
    return builder.not_valid_before(now - _SKEW).not_valid_after(now + valid_for)


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority, key_cert_sign=authority, crl_sign=authority, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _common_name(subject: x509.Name) -> str:
    values = [str(attribute.value) for attribute in subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if len(values) != 1:
        raise IdentityError("a certificate's subject", expected="one common name")
    return check_name(values[0])


class Trust:
    """A pinned CA certificate and the newest revocation list: decides whether a certificate speaks for a name."""

    def __init__(
        self, authority_der: bytes, revocations_der: bytes | None, *, now: datetime, least_number: int = 0
    ) -> None:
        """Check the CA's own certificate and the list.

        Args:
            authority_der: the CA's certificate as installed at this site.
            revocations_der: the revocation list, or None where the roster alone says who takes part.
            now: current time, with a time zone.
            least_number: the highest list number seen before; an older list is refused.

        Raises:
            IdentityError: if either is not what the pinned CA signed, has expired, or is too old.
        """
        self.authority, self.authority_key = _authority(authority_der)
        self._authority_der, self.now = authority_der, now
        _check_window("the pinned CA", self.authority, now)
        self._revoked, self.revocation_number = self._read_revocations(revocations_der, least_number)

    @property
    def federation(self) -> str:
        """The federation's name, by the pinned CA's certificate."""
        return _common_name(self.authority.subject)

    def _read_revocations(self, der: bytes | None, least_number: int) -> tuple[frozenset[int], int]:
        if der is None:
            if least_number:
                raise IdentityError("no revocation list", expected=f"number {least_number} or later")
            return frozenset(), 0
        revocations = _load_revocations(der)
        if not revocations.is_signature_valid(self.authority_key) or revocations.issuer != self.authority.subject:
            raise IdentityError("the revocation list is not the federation CA's", remedy="fetch it from the consortium")
        # Only the federation's own tool signs these lists, and it always numbers them.
        number = revocations.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        if number < least_number:
            raise IdentityError(
                "the revocation list is older than one seen before",
                found=f"number {number}",
                expected=f"{least_number} or later",
                remedy="fetch the newest one from the consortium",
            )
        if revocations.next_update_utc is None or revocations.next_update_utc < self.now:
            raise IdentityError("the revocation list has expired", remedy="fetch a newer one from the consortium")
        return frozenset(entry.serial_number for entry in revocations), number

    def check(self, name: str, certificate_der: bytes) -> Ed25519PublicKey:
        """Return the public key of the site `name`.

        Raises:
            IdentityError: unless the certificate is a valid, unexpired, unrevoked end certificate of the CA for it,
                with a canonical key.
        """
        try:
            certificate, key = _end_certificate(self._authority_der, certificate_der)
        except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
            raise IdentityError(f"certificate of {name} was not issued by the federation CA") from None
        if key is None:
            raise IdentityError(f"certificate of {name} is not a site's signing certificate")
        if _common_name(certificate.subject) != name:
            raise IdentityError(f"certificate offered for {name} belongs to another site")
        _check_window(f"certificate of {name}", certificate, self.now)
        if certificate.serial_number in self._revoked:
            raise IdentityError(f"certificate of {name} is revoked", remedy="ask the consortium for a new one")
        return key

    def check_coordinator_key(self, identity: bytes) -> None:
        """Raise IdentityError if this coordinator's key (raw Ed25519, 32 bytes) is on the revocation list."""
        if _serial_of(identity) in self._revoked:
            raise IdentityError(
                "the coordinator's key is revoked",
                remedy="have the server make a request with a new key, and the consortium sign it",
            )


@lru_cache(maxsize=4)
def _authority(der: bytes) -> tuple[x509.Certificate, Ed25519PublicKey]:
    """A CA's own certificate, undamaged, and its key. Remembered, for every message that a site takes asks for it."""
    try:
        certificate = x509.load_der_x509_certificate(der)
    except ValueError:
        raise IdentityError("the pinned CA's certificate cannot be read", remedy="install it anew") from None
    key = certificate.public_key()
    if not isinstance(key, Ed25519PublicKey):
        raise IdentityError("the pinned CA has another kind of key", expected="Ed25519")
    try:
        # Anybody can sign for themselves: this finds damage on the way, before it is pinned, and nothing else.
        certificate.verify_directly_issued_by(certificate)
    except (ValueError, TypeError, InvalidSignature):
        raise IdentityError("the CA's certificate is damaged", remedy="bring it from the consortium anew") from None
    return certificate, key


@lru_cache(maxsize=4096)
def _end_certificate(authority_der: bytes, der: bytes) -> tuple[x509.Certificate, Ed25519PublicKey | None]:
    """A certificate that this CA issued, and its key if it may sign and nothing more.

    Remembered, for the sites of a simulation all look at each other's: it follows from these bytes alone. What depends
    on the time or the newest lists is for the caller, each time.
    """
    certificate = x509.load_der_x509_certificate(der)
    certificate.verify_directly_issued_by(x509.load_der_x509_certificate(authority_der))
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    key = certificate.public_key()
    if constraints.ca or not usage.digital_signature or not isinstance(key, Ed25519PublicKey):
        return certificate, None
    check_ed25519(key.public_bytes_raw())
    return certificate, key


def _serial_of(identity: bytes) -> int:
    """The number under which a coordinator's key stands in a revocation list: 159 bits of its hash, as X.509 allows.

    A site's certificate has a random number of as many bits, so that neither stands for the other.
    """
    digest = hashlib.sha256(b"yoriai/coordinator-key/1\0" + identity).digest()
    return int.from_bytes(digest[:20], "big") >> 1


def revocation_number(der: bytes) -> int:
    """The number of a revocation list that was verified when it was installed.

    Raises:
        IdentityError: it is none.
    """
    try:
        return _load_revocations(der).extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except (ValueError, x509.ExtensionNotFound):
        raise IdentityError("the revocation list has no number", remedy="fetch it from the consortium") from None


def _load_revocations(der: bytes) -> x509.CertificateRevocationList:
    try:
        return x509.load_der_x509_crl(der)
    except ValueError:
        raise IdentityError("the revocation list cannot be read", remedy="fetch it from the consortium") from None


def _check_window(what: str, certificate: x509.Certificate, now: datetime) -> None:
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise IdentityError(
            f"{what} is not valid today",
            found=f"{certificate.not_valid_before_utc:%Y-%m-%d} to {certificate.not_valid_after_utc:%Y-%m-%d}",
            remedy="check the clock, or have it renewed",
        )
