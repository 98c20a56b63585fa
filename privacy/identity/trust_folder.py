"""What site and server install from their consortium, each in the folder trust/ of its own.

    site.cert          a site's own certificate file; at a server coordinator.cert, the coordinator's
    authority.der      the CA's certificate, pinned: files of another CA are refused from then on
    roster             the newest roster that was installed
    revocations.der    the newest revocation list; there may be none
    roster.seen        serial and digest of the newest roster that was accepted

Nothing is installed unless everything fits together. An older roster and an older revocation list than were seen before
are refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cryptography import x509

from yoriai.errors import ConfigError, IdentityError
from yoriai.privacy.identity.certificates import Trust, fingerprint, revocation_number
from yoriai.privacy.identity.coordinator_identity import CoordinatorCertificate
from yoriai.privacy.identity.enrolment import Enrolment, read_enrolment
from yoriai.privacy.identity.roster import Roster, RosterMemory, read_roster
from yoriai.system.files import PRIVATE, read_carried, write_atomically

# The files by the option that brings each.
_KINDS: Mapping[str, str] = {
    "authority": "the CA's certificate",
    "certificate": "the certificate file",
    "coordinator": "the coordinator's certificate",
    "member": "the certificate file",
    "revocations": "the revocation list",
    "roster": "the roster",
}
# The party's own certificate: the option that brings it, and its file.
_OWN: Mapping[str, tuple[str, str]] = {
    "site": ("certificate", "site.cert"),
    "server": ("coordinator", "coordinator.cert"),
}


def read_trust_file(option: str, path: Path) -> bytes:
    """A file of the consortium that was brought under this option.

    Raises:
        StorageError: it cannot be read, or is far too large to be one.
    """
    return read_carried(path, _KINDS[option])


def read_trust_files(paths: Mapping[str, Path | None]) -> dict[str, bytes]:
    """The files that were brought, by the option that brought each; None is one that was not.

    Raises:
        StorageError: one cannot be read.
    """
    return {option: read_trust_file(option, path) for option, path in paths.items() if path is not None}


@dataclass(frozen=True)
class Accepted:
    """The consortium's files after they were found to fit together, and their holder.

    Attributes:
        own: the holder's certificate.
        roster: the one to install.
        files: all that will be installed in trust/, by option.
        first: whether the CA is not pinned yet, and its fingerprint has to be compared.
        members: the members' certificate files to install, at a server, by their places.
    """

    own: Enrolment | CoordinatorCertificate
    roster: Roster
    files: Mapping[str, bytes]
    first: bool
    members: Mapping[Path, bytes] = field(default_factory=dict)

    @property
    def authority_fingerprint(self) -> bytes:
        """SHA-256 of the CA's certificate."""
        return fingerprint(self.files["authority"])


@dataclass(frozen=True)
class TrustFolder:
    """The folder trust/ of one party.

    Attributes:
        path: the folder.
        party: whose it is, "site" or "server", for messages and commands.
    """

    path: Path
    party: str

    @property
    def certificate(self) -> Path:
        """The party's own certificate file, as the consortium signed it."""
        return self.path / _OWN[self.party][1]

    @property
    def authority(self) -> Path:
        """The pinned CA's certificate, DER."""
        return self.path / "authority.der"

    @property
    def roster(self) -> Path:
        """The newest roster that was installed by hand."""
        return self.path / "roster"

    @property
    def revocations(self) -> Path:
        """The newest revocation list; there may be none."""
        return self.path / "revocations.der"

    @property
    def is_pinned(self) -> bool:
        """Whether a CA was pinned."""
        return self.authority.is_file()

    def memory(self) -> RosterMemory:
        """The highest roster that was accepted."""
        return RosterMemory(self.path / "roster.seen")

    def trust(self, now: datetime) -> Trust:
        """The pinned CA and the installed revocation list.

        Raises:
            IdentityError: no CA was pinned, or either has expired.
        """
        if not self.is_pinned:
            home = self.path.parent
            raise IdentityError(f"{home} has no certificate yet", remedy=f"yoriai {self.party} enrol {home}")
        revocations = _installed("revocation list", self.revocations)
        return Trust(read_trust_file("authority", self.authority), revocations, now=now)

    def enrolment(self, now: datetime) -> Enrolment:
        """A site's certificate file, verified.

        Raises:
            IdentityError: the site is not enrolled, or its certificate does not hold.
            StorageError: it cannot be read.
        """
        trust = self.trust(now)  # Its absence says more than that of the certificate file.
        return read_enrolment(read_trust_file("certificate", self.certificate), trust)

    def installed_roster(self, now: datetime) -> Roster:
        """The installed roster, verified.

        Raises:
            IdentityError: the pinned CA did not sign it, or it has expired.
            StorageError: it cannot be read.
        """
        trust = self.trust(now)
        return read_roster(read_trust_file("roster", self.roster), trust)

    def revocations_expire(self, now: datetime) -> datetime:
        """When the installed revocation list does.

        Raises:
            IdentityError: the pinned CA did not sign it, or it has expired.
            StorageError: it cannot be read.
        """
        self.trust(now)
        return x509.load_der_x509_crl(read_trust_file("revocations", self.revocations)).next_update_utc or now

    def completed(self, brought: Mapping[str, bytes]) -> dict[str, bytes]:
        """The files that were brought and, where none was, what is installed; by option. There may be no revocations.

        Raises:
            ConfigError: one that must be there is neither.
            StorageError: what is installed cannot be read.
        """
        places = {option: place for option, place in self._places().items() if option not in brought}
        installed = {option: _installed(option, place) for option, place in places.items()}
        missing = [f"--{option}" for option, data in installed.items() if data is None and option != "revocations"]
        if missing:
            raise ConfigError(
                "files of the consortium are missing", expected=", ".join(missing), remedy="bring them from there"
            )
        return {**brought, **{option: data for option, data in installed.items() if data is not None}}

    def trust_in(self, files: Mapping[str, bytes], *, now: datetime) -> Trust:
        """The trust that these files, by option, would make, were they installed.

        Raises:
            IdentityError: another CA is pinned, the list is older than the installed one, or either has expired.
        """
        if self.is_pinned and self.authority.read_bytes() != files["authority"]:
            raise IdentityError(
                f"authority.der is not the CA that this {self.party} has pinned",
                remedy=f"ask the consortium; if it has truly begun anew, move the {self.party}'s folder trust/ away",
            )
        least = revocation_number(self.revocations.read_bytes()) if self.revocations.is_file() else 0
        return Trust(files["authority"], files.get("revocations"), now=now, least_number=least)

    def install(self, accepted: Accepted) -> None:
        """Install what was accepted; the party's own certificate comes last. Interrupted, it is done once more.

        Raises:
            IdentityError: the roster is older than one that was seen.
            StorageError: a file cannot be written.
        """
        self.memory().accept(accepted.roster)
        own, *others = self._places().items()
        files = {place: accepted.files[option] for option, place in others if option in accepted.files}
        for place, data in {**files, **accepted.members, own[1]: accepted.files[own[0]]}.items():
            write_atomically(place, data, mode=PRIVATE, is_folders=True)  # A server at work reads them.

    def _places(self) -> Mapping[str, Path]:
        """Where the files that are brought lie, by option; the party's own certificate is the first."""
        others = {"authority": self.authority, "revocations": self.revocations, "roster": self.roster}
        return {_OWN[self.party][0]: self.certificate, **others}


def _installed(what: str, place: Path) -> bytes | None:
    return read_carried(place, f"the installed {what}") if place.is_file() else None
