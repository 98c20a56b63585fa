"""How the coordinator is enrolled: its request, then the consortium's files, checked against each other and installed.

Nothing is installed unless everything fits together. What sites keep to holds here too: the CA is pinned with the first
installation, and an older roster or revocation list than was seen is refused. The members' certificate files say which
node key speaks for which name; they come one by one, as members do, and the roster alone says whose count.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from yoriai.errors import IdentityError, StorageError
from yoriai.privacy.identity.certificates import Trust, fingerprint
from yoriai.privacy.identity.coordinator_identity import (
    CoordinatorCertificate,
    CoordinatorRequest,
    make_coordinator_request,
    read_coordinator_certificate,
    read_coordinator_request,
)
from yoriai.privacy.identity.enrolment import read_enrolment
from yoriai.privacy.identity.roster import Directory, Roster, read_roster
from yoriai.privacy.identity.signing_key import SigningKey, read_key, write_key
from yoriai.privacy.identity.trust_folder import (
    brought_or_installed,
    check_complete,
    install_trust_files,
    read_trust_file,
)
from yoriai.server.folder.server_folder import ServerFolder, check_own
from yoriai.system.files import PRIVATE, write_atomically


def write_request(folder: ServerFolder) -> CoordinatorRequest:
    """Write the coordinator's request, with the key that is there already, or else a new one.

    Raises:
        ConfigError: this is no server's folder.
        IdentityError: the key file is damaged, or open to others.
        StorageError: a file cannot be written.
    """
    name = folder.config().name
    if not folder.coordinator_key.exists():
        write_key(folder.coordinator_key, SigningKey.generate())
    data = make_coordinator_request(name, read_key(folder.coordinator_key))
    write_atomically(folder.request(name), data, mode=PRIVATE)
    return read_coordinator_request(data)


@dataclass(frozen=True)
class TrustFiles:
    """Files from the consortium, as bytes; None is one that was not brought.

    Attributes:
        members: certificate files of members, in any order.
    """

    coordinator: bytes | None = None
    authority: bytes | None = None
    roster: bytes | None = None
    revocations: bytes | None = None
    members: tuple[bytes, ...] = ()

    @classmethod
    def read(cls, paths: Mapping[str, Path | None], members: Sequence[Path]) -> "TrustFiles":
        """The files at these paths.

        Args:
            paths: by the names of the attributes; None is one that was not brought.
            members: certificate files, and folders of them.

        Raises:
            StorageError: one cannot be read, or a folder holds none.
        """
        brought = {option: read_trust_file(option, path) for option, path in paths.items() if path is not None}
        files = [file for path in members for file in _certificate_files(path)]
        return cls(members=tuple(read_trust_file("member", file) for file in files), **brought)

    def beside(self, folder: ServerFolder) -> "TrustFiles":
        """These, and for those of which there is one, what is installed where none was brought.

        Raises:
            ConfigError: one that must be there is neither.
        """
        whole = TrustFiles(
            brought_or_installed("coordinator", self.coordinator, folder.coordinator_certificate),
            brought_or_installed("authority", self.authority, folder.authority),
            brought_or_installed("roster", self.roster, folder.roster),
            brought_or_installed("revocations", self.revocations, folder.revocations),
            self.members,
        )
        check_complete({"coordinator": whole.coordinator, "authority": whole.authority, "roster": whole.roster})
        return whole


def _certificate_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(path.glob("*.cert"))
    if not found:
        raise StorageError(f"{path} holds no certificate file", expected="NAME.cert of each member")
    return found


@dataclass(frozen=True)
class Standing:
    """The consortium's files after they were found to fit together, and this coordinator.

    Attributes:
        members: the files to install, by the member's name.
        first: whether the CA is not pinned yet, and its fingerprint has to be compared.
    """

    certificate: CoordinatorCertificate
    roster: Roster
    authority_fingerprint: bytes
    trust_files: TrustFiles
    members: Mapping[str, bytes]
    first: bool


def check_trust_files(folder: ServerFolder, trust_files: TrustFiles, *, now: datetime) -> Standing:
    """Check the consortium's files against each other, the coordinator's key, and what is installed. Writes nothing.

    Raises:
        ConfigError: a file is missing, or this is no server's folder.
        IdentityError: they are of another CA than the pinned one, older than what was seen, expired or altered, for
            another coordinator or key than this one's, or of a member that the roster does not name with it.
    """
    whole = trust_files.beside(folder)
    authority, own, signed = whole.authority or b"", whole.coordinator or b"", whole.roster or b""
    trust = folder.trusted.trust_in(authority, whole.revocations, now=now)
    certificate = read_coordinator_certificate(own, trust, now=now)
    if not folder.coordinator_key.exists():
        raise IdentityError(
            "this coordinator has no key yet", remedy=f"yoriai server enrol {folder.path}, without files"
        )
    check_own(folder, read_key(folder.coordinator_key), certificate)
    roster = read_roster(signed, trust)
    if certificate.federation != roster.federation:
        raise IdentityError(
            "the coordinator's certificate is of another federation than the roster",
            found=certificate.federation,
            expected=roster.federation,
            remedy="take both from the same consortium",
        )
    members = _checked_members(whole.members, roster, trust)
    return Standing(certificate, roster, fingerprint(authority), whole, members, first=not folder.trusted.is_pinned)


def _checked_members(files: Sequence[bytes], roster: Roster, trust: Trust) -> dict[str, bytes]:
    directory = Directory(roster, trust)
    members: dict[str, bytes] = {}
    for data in files:
        enrolment = read_enrolment(data, trust)
        directory.check(roster.position(enrolment.name), enrolment.certificate)
        members[enrolment.name] = data
    return members


def install(folder: ServerFolder, standing: Standing) -> None:
    """Install what `check_papers` has accepted; the coordinator's certificate comes last.

    Interrupted, it is done once more.

    Raises:
        IdentityError: the roster is older than one that was seen.
        StorageError: a file cannot be written.
    """
    folder.trusted.memory().accept(standing.roster)
    trust_files = standing.trust_files
    install_trust_files(
        {
            folder.authority: trust_files.authority,
            folder.revocations: trust_files.revocations,
            folder.roster: trust_files.roster,
            **{folder.member(name): data for name, data in standing.members.items()},
            folder.coordinator_certificate: trust_files.coordinator,
        }
    )


def missing_members(folder: ServerFolder, *, now: datetime) -> list[str]:
    """Members of the installed roster that cannot connect, for want of a certificate file that holds."""
    known = folder.node_keys(now)
    return [entry.name for entry in folder.signed_roster(now).directory.roster.sites if entry.name not in known]
