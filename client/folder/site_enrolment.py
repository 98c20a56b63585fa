"""How a site becomes a member: its keys and its request, then the consortium's files, checked and installed.

Nothing is installed unless everything fits together. The CA's certificate is pinned with the first installation; from
then on files of another CA are refused, as are an older roster and an older revocation list than the site has seen.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from yoriai.client.folder.site_folder import SiteFolder
from yoriai.errors import IdentityError
from yoriai.privacy.identity.certificates import fingerprint
from yoriai.privacy.identity.enrolment import (
    Enrolment,
    Request,
    key_fingerprint,
    make_request,
    read_enrolment,
    read_request,
)
from yoriai.privacy.identity.node_key import NodeKey
from yoriai.privacy.identity.roster import Directory, Roster, read_roster
from yoriai.privacy.identity.signing_key import SigningKey, read_key, write_key
from yoriai.privacy.identity.trust_folder import (
    brought_or_installed,
    check_complete,
    install_trust_files,
    read_trust_file,
)
from yoriai.system.files import PRIVATE, write_atomically


def write_request(folder: SiteFolder) -> Request:
    """Write the site's request, with keys that are there already, or else new ones.

    Raises:
        ConfigError: this is no site's folder.
        IdentityError: a key file is damaged, or open to others.
        StorageError: a file cannot be written.
    """
    name = folder.config().name
    if not folder.identity_key.exists():
        write_key(folder.identity_key, SigningKey.generate())
    if not folder.node_key.exists():
        NodeKey.generate().write(folder.node_key)
    data = make_request(name, read_key(folder.identity_key), NodeKey.read(folder.node_key))
    write_atomically(folder.request(name), data, mode=PRIVATE)
    return read_request(data)


@dataclass(frozen=True)
class TrustFiles:
    """Files from the consortium, as bytes; None is one that was not brought."""

    certificate: bytes | None = None
    authority: bytes | None = None
    roster: bytes | None = None
    revocations: bytes | None = None

    @classmethod
    def read(
        cls, certificate: Path | None, authority: Path | None, roster: Path | None, revocations: Path | None
    ) -> "TrustFiles":
        """The files at these paths.

        Raises:
            StorageError: one cannot be read.
        """

        def brought(option: str, path: Path | None) -> bytes | None:
            return None if path is None else read_trust_file(option, path)

        return cls(
            brought("certificate", certificate),
            brought("authority", authority),
            brought("roster", roster),
            brought("revocations", revocations),
        )

    def beside(self, folder: SiteFolder) -> "TrustFiles":
        """These, and for those that were not brought, what is installed.

        Raises:
            ConfigError: one that must be there is neither.
        """
        whole = TrustFiles(
            brought_or_installed("certificate", self.certificate, folder.certificate),
            brought_or_installed("authority", self.authority, folder.authority),
            brought_or_installed("roster", self.roster, folder.roster),
            brought_or_installed("revocations", self.revocations, folder.revocations),
        )
        check_complete({"certificate": whole.certificate, "authority": whole.authority, "roster": whole.roster})
        return whole


@dataclass(frozen=True)
class Membership:
    """The consortium's files after they were found to fit together, and this site.

    Attributes:
        first: whether the CA is not pinned yet, and its fingerprint has to be compared.
    """

    enrolment: Enrolment
    roster: Roster
    authority_fingerprint: bytes
    trust_files: TrustFiles
    first: bool


def check_trust_files(folder: SiteFolder, trust_files: TrustFiles, *, now: datetime) -> Membership:
    """Check the consortium's files against each other, this site's keys, and what is installed. Writes nothing.

    Raises:
        ConfigError: a file is missing, or this is no site's folder.
        IdentityError: they are of another CA than the pinned one, older than what the site has seen, expired or
            altered, or for another site, or another key than this one's.
    """
    name = folder.config().name
    whole = trust_files.beside(folder)
    authority, certificate, signed = whole.authority or b"", whole.certificate or b"", whole.roster or b""
    trust = folder.trusted.trust_in(authority, whole.revocations, now=now)
    enrolment = read_enrolment(certificate, trust)
    _check_ours(folder, name, enrolment)
    roster = read_roster(signed, trust)
    Directory(roster, trust).check(roster.position(name), enrolment.certificate)
    return Membership(enrolment, roster, fingerprint(authority), whole, first=not folder.trusted.is_pinned)


def install(folder: SiteFolder, membership: Membership) -> None:
    """Install what `check_papers` has accepted; the certificate comes last. Interrupted, it is done once more.

    Raises:
        IdentityError: the roster is older than one that the site has seen.
        StorageError: a file cannot be written.
    """
    folder.memory().accept(membership.roster)
    trust_files = membership.trust_files
    install_trust_files(
        {
            folder.authority: trust_files.authority,
            folder.revocations: trust_files.revocations,
            folder.roster: trust_files.roster,
            folder.certificate: trust_files.certificate,
        }
    )


def _check_ours(folder: SiteFolder, name: str, enrolment: Enrolment) -> None:
    """The certificate file is for this site's name and both of its keys."""
    if enrolment.name != name:
        raise IdentityError(
            "the certificate is another site's", found=enrolment.name, expected=f"{name}, as in {folder.settings.name}"
        )
    again = f"send {folder.request(name).name} to the consortium again, and take the certificate made from it"
    if not folder.identity_key.exists() or not folder.node_key.exists():
        raise IdentityError("this site has no keys yet", remedy=f"yoriai site enrol {folder.path}, without files")
    own = read_key(folder.identity_key).public_key.public_bytes_raw()
    if own != enrolment.identity:
        raise IdentityError(
            "the certificate is for another key than this site's",
            found=f"{key_fingerprint(enrolment.identity)[:19]} …",
            expected=f"{key_fingerprint(own)[:19]} …",
            remedy=again,
        )
    if NodeKey.read(folder.node_key).public_text != enrolment.node_key:
        raise IdentityError("the certificate file has another node key than this site's", remedy=again)
