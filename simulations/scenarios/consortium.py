"""A consortium for a simulation: a CA, certificate and key of coordinator and each simulated site, and the roster.

A real consortium keeps its CA off the network and each site its own key. Here all of them belong to one run and lie in
its folder, so that a resumed run, or a worker process, finds the same identities again. They are worth nothing outside
of it.
"""

import datetime
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from yoriai.privacy.identity.certificates import Authority, Trust, fingerprint
from yoriai.privacy.identity.coordinator_identity import (
    certify_coordinator,
    make_coordinator_request,
    read_coordinator_request,
)
from yoriai.privacy.identity.roster import Directory, Roster, RosterEntry, read_roster, sign_roster
from yoriai.privacy.identity.signing_key import SigningKey, key_bytes, read_key, write_key
from yoriai.server.round.rosters import SignedRoster
from yoriai.server.round.sealing import Signing
from yoriai.system.files import PRIVATE, sync_disk
from yoriai.system.run_files import run_file_fault, write_run_file

_VALID_FOR = datetime.timedelta(days=3650)


@dataclass(frozen=True)
class Consortium:
    """The identities of one run, in a folder.

    authority.der  roster  coordinator.key  coordinator.cert  sites/NAME.key  sites/NAME.der
    """

    folder: Path

    @classmethod
    def found(
        cls, folder: Path, weights: Mapping[str, int], *, federation: str, ranks: Mapping[str, int] | None = None
    ) -> "Consortium":
        """The consortium in a folder; made with these members when there is none yet.

        Args:
            ranks: of the sites that train less than a job's rank.

        Raises:
            CheckpointError: the disk is full or the place cannot be written.
        """
        consortium = cls(folder)
        if not (folder / "roster").exists():
            try:
                consortium._make(weights, federation, ranks or {})
            except OSError as error:
                raise run_file_fault(folder, error) from error
        return consortium

    def trust(self) -> Trust:
        """The pinned CA."""
        return Trust((self.folder / "authority.der").read_bytes(), None, now=_now())

    def roster_file(self) -> bytes:
        """The signed roster, as it travels."""
        return (self.folder / "roster").read_bytes()

    def roster(self) -> Roster:
        """The roster, verified."""
        return read_roster(self.roster_file(), self.trust())

    def signed_roster(self) -> SignedRoster:
        """The roster as the coordinator takes it."""
        return SignedRoster(self.roster_file(), Directory(self.roster(), self.trust()))

    def key(self, site: str) -> SigningKey:
        """A site's private key."""
        return read_key(self.folder / "sites" / f"{site}.key")

    def certificate(self, site: str) -> bytes:
        """A site's certificate, DER."""
        return (self.folder / "sites" / f"{site}.der").read_bytes()

    def signing(self) -> Signing:
        """With what the coordinator signs."""
        return read_key(self.folder / "coordinator.key"), (self.folder / "coordinator.cert").read_bytes()

    def _make(self, weights: Mapping[str, int], federation: str, ranks: Mapping[str, int]) -> None:
        """Create CA, sites and roster; the roster is written last, so that a half-made consortium is made anew.

        Before it, one wait for the disk makes the files of all sites durable.
        """
        sites = self.folder / "sites"
        sites.mkdir(parents=True, exist_ok=True)
        authority = Authority.create(federation, SigningKey.generate(), now=_now(), valid_for=_VALID_FOR)
        write_run_file(self.folder / "authority.der", authority.certificate.public_bytes(Encoding.DER))
        self._make_coordinator(authority, federation)
        entries = []
        for name, weight in sorted(weights.items()):
            key = SigningKey.generate()
            certificate = authority.certify(name, key.public_key, now=_now(), valid_for=_VALID_FOR)
            _write_unsynced(sites / f"{name}.key", key_bytes(key))
            _write_unsynced(sites / f"{name}.der", certificate)
            entries.append(RosterEntry(name, fingerprint(certificate).hex(), weight, ranks.get(name)))
        sync_disk(sites)
        roster = Roster(federation, 1, _now() + _VALID_FOR, tuple(entries))
        write_run_file(self.folder / "roster", sign_roster(authority, roster))

    def _make_coordinator(self, authority: Authority, federation: str) -> None:
        (self.folder / "coordinator.key").unlink(missing_ok=True)
        key = SigningKey.generate()
        write_key(self.folder / "coordinator.key", key)
        request = read_coordinator_request(make_coordinator_request("coordinator", key))
        certificate = certify_coordinator(authority, federation, request, now=_now(), valid_for=_VALID_FOR)
        write_run_file(self.folder / "coordinator.cert", certificate)


def _write_unsynced(path: Path, data: bytes) -> None:
    """Write a file that its owner alone may read, whatever was there; durable once the disk is synced."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE), "wb") as file:
        file.write(data)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
