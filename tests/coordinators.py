"""A federation with a coordinator whom its sites know: what signs a last adapter, and who verifies it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.serialization import Encoding

from yoriai import wire
from yoriai.privacy.identity.certificates import Authority, Trust, fingerprint, make_request
from yoriai.privacy.identity.coordinator_identity import (
    certify_coordinator,
    make_coordinator_request,
    read_coordinator_request,
)
from yoriai.privacy.identity.roster import Directory, Roster, RosterEntry, RosterMemory, read_roster, sign_roster
from yoriai.privacy.identity.signing_key import SigningKey, read_key, write_key
from yoriai.privacy.statements.instruction import SequenceMemory
from yoriai.server.round.rosters import SignedRoster
from yoriai.server.round.sealing import Sealer

if TYPE_CHECKING:
    from yoriai.client.site_identity import SiteIdentity

DAY = timedelta(days=1)


def asked(data: bytes) -> wire.Message:
    """What a coordinator asks, signed or not; nothing is verified."""
    message = wire.decode(data)
    return wire.decode(message.payload) if isinstance(message, wire.Instruction) else message


def save_identity(identity: "SiteIdentity", known: "Known", folder: Path) -> None:
    """Write what a site's process needs to be this member."""
    write_key(folder / "key", identity.key)
    (folder / "certificate.der").write_bytes(identity.certificate)
    (folder / "authority.der").write_bytes(known.authority.certificate.public_bytes(Encoding.DER))


def saved_identity(folder: Path) -> "SiteIdentity":
    """The member that was written there, in another process."""
    from yoriai.client.site_identity import SiteIdentity

    def trust() -> Trust:
        return Trust((folder / "authority.der").read_bytes(), None, now=datetime.now(UTC))

    certificate = (folder / "certificate.der").read_bytes()
    memory, taken = RosterMemory(folder / "seen"), SequenceMemory(folder / "coordinator.seen")
    return SiteIdentity(read_key(folder / "key"), certificate, trust, memory, taken)


def _authority() -> Authority:
    return Authority.create("miyagi", SigningKey.generate(), now=datetime.now(UTC), valid_for=DAY)


@dataclass(frozen=True)
class Known:
    """A CA that has certified one coordinator."""

    authority: Authority = field(default_factory=_authority)
    key: SigningKey = field(default_factory=SigningKey.generate)

    def certificate(
        self, federation: str = "miyagi", *, key: SigningKey | None = None, valid_for: timedelta = DAY
    ) -> bytes:
        """The coordinator's certificate."""
        request = read_coordinator_request(make_coordinator_request("hub", key or self.key))
        return certify_coordinator(self.authority, federation, request, now=datetime.now(UTC), valid_for=valid_for)

    def signing(self) -> tuple[SigningKey, bytes]:
        """What a coordinator signs with."""
        return self.key, self.certificate()

    def sealed(self, site: str, message: wire.Message) -> bytes:
        """The message as this coordinator's instruction to a site; another one each time."""
        return Sealer(self.signing(), message.run_id).sealed(site, wire.encode(message))

    def trust(self) -> Trust:
        """The pinned CA, as a site has it."""
        return Trust(self.authority.certificate.public_bytes(Encoding.DER), None, now=datetime.now(UTC))

    def identity(self, name: str, folder: Path) -> "SiteIdentity":
        """A member's identity."""
        from yoriai.client.site_identity import SiteIdentity

        key = SigningKey.generate()
        certificate = self.authority.sign_request(make_request(name, key), now=datetime.now(UTC), valid_for=DAY)
        memory, taken = RosterMemory(folder / f"{name}.seen"), SequenceMemory(folder / f"{name}.coordinator.seen")
        return SiteIdentity(key, certificate, self.trust, memory, taken)

    def signed_roster(self, members: "Mapping[str, SiteIdentity]", serial: int = 1) -> SignedRoster:
        """These members in a roster, each with weight 1."""
        entries = [RosterEntry(name, fingerprint(members[name].certificate).hex()) for name in sorted(members)]
        file = sign_roster(self.authority, Roster("miyagi", serial, datetime.now(UTC) + DAY, tuple(entries)))
        return SignedRoster(file, Directory(read_roster(file, self.trust()), self.trust()))
