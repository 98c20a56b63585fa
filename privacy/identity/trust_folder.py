"""What site and server install from their consortium, each in the folder trust/ of its own.

    authority.der      the CA's certificate, pinned: files of another CA are refused from then on
    roster             the newest roster that was installed
    revocations.der    the newest revocation list; there may be none
    roster.seen        serial and digest of the newest roster that was accepted

An older roster and an older revocation list than were seen before are refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from yoriai.errors import ConfigError, IdentityError
from yoriai.privacy.identity.certificates import Trust, revocation_number
from yoriai.privacy.identity.roster import RosterMemory
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


def read_trust_file(option: str, path: Path) -> bytes:
    """A file of the consortium that was brought under this option.

    Raises:
        StorageError: it cannot be read, or is far too large to be one.
    """
    return read_carried(path, _KINDS[option])


def brought_or_installed(option: str, brought: bytes | None, place: Path) -> bytes | None:
    """What was brought, or else what is installed at `place`, or None.

    Raises:
        StorageError: what is installed cannot be read.
    """
    if brought is None and place.is_file():
        return read_carried(place, f"the installed {option}")
    return brought


def check_complete(trust_files: Mapping[str, bytes | None]) -> None:
    """Raise ConfigError unless each of these, by option, was brought or is installed."""
    missing = [f"--{option}" for option, data in trust_files.items() if data is None]
    if missing:
        raise ConfigError(
            "files of the consortium are missing", expected=", ".join(missing), remedy="bring them from there"
        )


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
        revocations = brought_or_installed("revocation list", None, self.revocations)
        return Trust(read_trust_file("authority", self.authority), revocations, now=now)

    def trust_in(self, authority: bytes, revocations: bytes | None, *, now: datetime) -> Trust:
        """The trust that these files would make, were they installed.

        Raises:
            IdentityError: another CA is pinned, the list is older than the installed one, or either has expired.
        """
        if self.is_pinned and self.authority.read_bytes() != authority:
            raise IdentityError(
                f"authority.der is not the CA that this {self.party} has pinned",
                remedy=f"ask the consortium; if it has truly begun anew, move the {self.party}'s folder trust/ away",
            )
        least = revocation_number(self.revocations.read_bytes()) if self.revocations.is_file() else 0
        return Trust(authority, revocations, now=now, least_number=least)


def install_trust_files(trust_files: Mapping[Path, bytes | None]) -> None:
    """Write files that were checked to their places, in order. Interrupted, it is done once more.

    Raises:
        StorageError: a file cannot be written.
    """
    for place, data in trust_files.items():
        if data is not None:
            write_atomically(place, data, mode=PRIVATE)
