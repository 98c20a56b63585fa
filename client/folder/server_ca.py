"""The CA of the server's TLS certificate, as the coordinator hands it to the sites.

It keeps strangers from reading along and from posing as the server. No site and no coordinator is known by it: for that
there is the consortium's CA, which is another one.
"""

from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from yoriai.client.folder.site_folder import SiteFolder
from yoriai.errors import IdentityError
from yoriai.privacy.identity.certificates import fingerprint
from yoriai.system.files import read_carried, write_atomically


@dataclass(frozen=True)
class ServerCa:
    """A CA's certificate file, checked.

    Attributes:
        data: the PEM file: one certificate, or those of several CAs.
        fingerprints: SHA-256 of each certificate.
        expires: when the first of them does.
    """

    data: bytes
    fingerprints: tuple[bytes, ...]
    expires: datetime


def read_server_ca(data: bytes, *, now: datetime) -> ServerCa:
    """Parse a CA's certificate file.

    Raises:
        IdentityError: it is none, holds a certificate that is no CA's, or one that is not valid now.
    """
    again = "take ca.crt from the coordinator once more"
    try:
        certificates = x509.load_pem_x509_certificates(data)
        authorities = [_is_authority(certificate) for certificate in certificates]
    except ValueError:
        raise IdentityError(
            "the server's CA file cannot be read", expected="certificates in PEM", remedy=again
        ) from None
    if not all(authorities):
        raise IdentityError(
            "the server's CA file holds a certificate that is no CA's",
            expected="the CA's certificate, not the server's own",
            remedy=again,
        )
    for certificate in certificates:
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            raise IdentityError(
                "the server's CA is not valid today",
                found=f"{certificate.not_valid_before_utc:%Y-%m-%d} to {certificate.not_valid_after_utc:%Y-%m-%d}",
                remedy=f"check the clock, or {again}",
            )
    prints = tuple(fingerprint(certificate.public_bytes(Encoding.DER)) for certificate in certificates)
    return ServerCa(data, prints, min(certificate.not_valid_after_utc for certificate in certificates))


def installed_ca(site: SiteFolder, *, now: datetime) -> ServerCa:
    """The CA that was installed.

    Raises:
        IdentityError: as `read_server_ca`.
        StorageError: there is none, or this user may not read it.
    """
    return read_server_ca(read_carried(site.server_ca, "the CA of the server's certificate"), now=now)


def install_ca(site: SiteFolder, ca: ServerCa) -> None:
    """Install it for the SuperNode.

    Raises:
        StorageError: it cannot be written.
    """
    write_atomically(site.server_ca, ca.data, mode=0o644)


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False
