"""TLS of the server: a CA that vouches for this one machine, and the certificate that it gives the machine.

    ca.crt, ca.key             made once; sites are given ca.crt, and trust nothing else for the server
    server.crt, server.key     for nginx, and for Flower's SuperLink behind it; made anew at each renewal
    public.crt, public.key     for nginx in place of these, where the plant brings a certificate of its own CA,
    public-ca.crt              which is then what sites are given

This is not the federation's CA, and no site's identity hangs on it. Who holds ca.key can stand between a site and the
server and see what the server sees, but no more. So it lies on the server, without a passphrase, and nobody has to be
there to renew.

EC P-256 with SHA-256 (FIPS 186-5), X.509 as in RFC 5280. The functions here touch no files.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from yoriai.errors import ConfigError, IdentityError

# nginx reaches the SuperLink under these, whatever the sites call the machine.
LOCAL_HOSTS = ("localhost", "127.0.0.1")
CA_VALID_FOR = timedelta(days=3650)
CERTIFICATE_VALID_FOR = timedelta(days=825)
_SKEW = timedelta(minutes=5)


@dataclass(frozen=True)
class KeyPair:
    """A certificate, with those that lead to its CA behind it, and its private key without a passphrase; both PEM."""

    certificate: bytes
    key: bytes = field(repr=False)

    @property
    def expires(self) -> datetime:
        """When the certificate does."""
        return x509.load_pem_x509_certificate(self.certificate).not_valid_after_utc


def make_authority(name: str, *, now: datetime) -> KeyPair:
    """A CA for the server of this name, which may sign end certificates only (path length 0)."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} TLS")])
    builder = _builder(subject, subject, key.public_key(), now, now + CA_VALID_FOR)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(authority=True), critical=True)
    return _pair(builder.sign(key, hashes.SHA256()), key)


def issue(authority: KeyPair, hosts: Sequence[str], *, now: datetime) -> KeyPair:
    """A certificate with a new key for a server at these hosts and, always, at this machine itself.

    It ends with the CA, where that is sooner than its own 825 days.

    Raises:
        IdentityError: the CA has expired, or its key is not the CA's.
    """
    issuer, issuer_key = _read(authority)
    if not isinstance(issuer_key, ec.EllipticCurvePrivateKey):
        raise IdentityError("the server's own CA has another kind of key", expected="EC P-256")
    if now >= issuer.not_valid_after_utc:
        raise IdentityError(
            "the server's own CA has expired",
            found=f"{issuer.not_valid_after_utc:%Y-%m-%d}",
            remedy="move the server's folder tls/ away and renew; every site is then given the new tls/ca.crt",
        )
    key = ec.generate_private_key(ec.SECP256R1())
    names = [_general_name(host) for host in dict.fromkeys((*hosts, *LOCAL_HOSTS))]
    # Clients go by the alternative names alone; a common name has at most 64 characters, a host may have more.
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Yoriai server")])
    ends = min(now + CERTIFICATE_VALID_FOR, issuer.not_valid_after_utc)
    builder = _builder(subject, issuer.subject, key.public_key(), now, ends)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(authority=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False
    )
    return _pair(builder.sign(issuer_key, hashes.SHA256()), key)


def check_brought(brought: KeyPair, authority: bytes, hosts: Sequence[str], *, now: datetime) -> None:
    """Check a certificate of the plant's own CA before it takes the public side.

    Args:
        brought: the certificate, with those between it and the CA behind it, and its key.
        authority: the CA's certificate, PEM, which sites will be given.
        hosts: by which sites reach the server; it must be made out to each.

    Raises:
        IdentityError: the key is another certificate's, or a site that trusts the CA would refuse the certificate.
        ConfigError: a file is not PEM, or the key has a passphrase.
    """
    _read(brought)
    leaf, *between = _certificates(brought.certificate, "the certificate")
    policy = PolicyBuilder().store(Store(_certificates(authority, "the CA's certificate"))).time(now)
    for host in hosts:
        name = _general_name(host)
        try:
            policy.build_server_verifier(name).verify(leaf, between)
        except VerificationError as error:
            raise IdentityError(
                f"sites that trust the CA would refuse the certificate for {host}",
                found=str(error)[:200],
                remedy="have it made out to every host, and bring those between it and the CA in the same file",
            ) from None


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, ends: datetime
) -> x509.CertificateBuilder:
    """What both kinds share. Valid from five minutes ago, for clocks that are a little slow."""
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - _SKEW).not_valid_after(ends)
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority, key_cert_sign=authority, crl_sign=authority, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _general_name(host: str) -> x509.DNSName | x509.IPAddress:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> KeyPair:
    written = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return KeyPair(certificate.public_bytes(Encoding.PEM), written)


def _read(pair: KeyPair) -> tuple[x509.Certificate, PrivateKeyTypes]:
    """Certificate and key, which belong together."""
    certificate = _certificates(pair.certificate, "the certificate")[0]
    try:
        key = load_pem_private_key(pair.key, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(
            "the certificate's key cannot be read",
            expected="a PEM file without a passphrase",
            remedy="nginx starts with nobody there to type one: write the key without it, mode 0600",
        ) from None
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*form) != certificate.public_key().public_bytes(*form):
        raise IdentityError("a TLS certificate and its key do not belong together", remedy="bring both of one pair")
    return certificate, key


def _certificates(pem: bytes, what: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise ConfigError(f"{what} cannot be read", expected="a PEM file", remedy="have it written as PEM") from None
