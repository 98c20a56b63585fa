"""The roster: which sites take part, by which certificate, and with which weight. Signed by the federation CA.

File: as in `signed_file.py`, of the kind `yoriai-roster-1`; the payload is JSON. A roster has a serial number and an
expiry; a site remembers the highest serial it has accepted and refuses a lower one, or the same one with other content
(a server could otherwise bring back a member that was removed). A name stands for one certificate, and a certificate
for one name.

In the protocol a site is its position in the roster, which is sorted by name.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from yoriai.errors import IdentityError, StorageError
from yoriai.privacy.identity.certificates import Authority, Trust, check_name, fingerprint
from yoriai.privacy.identity.signed_file import SignedFormat, canonical_json
from yoriai.system.files import PRIVATE, locked_beside, read_carried, write_atomically

_FORMAT = SignedFormat("the roster file", "roster", 1, remedy="fetch it from the consortium")
_SEEN = re.compile(rb"([0-9]{1,16}) ([0-9a-f]{64})\n?")
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
MAX_WEIGHT = 255
MAX_RANK = 65_535


@dataclass(frozen=True)
class RosterEntry:
    """A site: its name, the SHA-256 of its certificate (hex) and its integer weight, 1 to 255.

    `rank` is the largest that the site has memory for, 1 to 65,535; None takes any job's.
    """

    name: str
    certificate: str
    weight: int = 1
    rank: int | None = None

    def __post_init__(self) -> None:
        check_name(self.name)
        if type(self.weight) is not int or not 1 <= self.weight <= MAX_WEIGHT:
            raise IdentityError(f"weight of site {self.name}", found=repr(self.weight), expected=f"1 to {MAX_WEIGHT}")
        if type(self.certificate) is not str or not _FINGERPRINT.fullmatch(self.certificate):
            raise IdentityError(f"certificate fingerprint of site {self.name}", expected="64 lower-case hex digits")
        if self.rank is not None and (type(self.rank) is not int or not 1 <= self.rank <= MAX_RANK):
            raise IdentityError(f"rank of site {self.name}", found=repr(self.rank), expected=f"1 to {MAX_RANK}")

    def rank_in(self, full_rank: int) -> int:
        """The rank that the site trains in a job of `full_rank`; a larger one of its own counts as the job's."""
        return full_rank if self.rank is None else min(self.rank, full_rank)

    def fields(self) -> dict[str, str | int]:
        """What is signed. Without a rank there is no such field, so that rosters made before ranks keep their bytes."""
        fields: dict[str, str | int] = {"name": self.name, "certificate": self.certificate, "weight": self.weight}
        return fields if self.rank is None else {**fields, "rank": self.rank}


@dataclass(frozen=True)
class Roster:
    """The members of a federation at one serial number, sorted by name."""

    federation: str
    serial: int
    expires: datetime
    sites: tuple[RosterEntry, ...]

    def __post_init__(self) -> None:
        names = [entry.name for entry in self.sites]
        if names != sorted(set(names)) or len({entry.certificate for entry in self.sites}) != len(names):
            raise IdentityError("the roster", expected="sites sorted by name, one certificate a name")

    @cached_property
    def payload(self) -> bytes:
        """Canonical JSON, the bytes that are signed."""
        sites = [entry.fields() for entry in self.sites]
        document = {"federation": self.federation, "serial": self.serial, "sites": sites}
        document["expires"] = self.expires.isoformat()
        return canonical_json(document)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the payload, 32 bytes: what a round's terms name."""
        return hashlib.sha256(self.payload).digest()

    def position(self, name: str) -> int:
        """The site's number in the protocol.

        Raises:
            IdentityError: if the roster does not name it.
        """
        if name not in self._positions:
            raise IdentityError(f"site {name} is not in the roster", remedy="ask the consortium for a newer roster")
        return self._positions[name]

    @cached_property
    def weights(self) -> dict[str, int]:
        """Of each site by its name."""
        return {entry.name: entry.weight for entry in self.sites}

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {entry.name: position for position, entry in enumerate(self.sites)}


def sign_roster(authority: Authority, roster: Roster) -> bytes:
    """The roster's file, signed by the CA."""
    return _FORMAT.seal(authority.key, roster.payload)


def read_roster(data: bytes, trust: Trust, *, may_be_expired: bool = False) -> Roster:
    """Verify and parse a roster file. Also pass it to `RosterMemory.accept` before using it at a site.

    Args:
        data: the file's bytes.
        trust: whose signature counts, and at what time.
        may_be_expired: only to see what an older one said; never to work with it.

    Raises:
        IdentityError: if the pinned CA did not sign these bytes, they are not a roster, or it has expired.
    """
    payload = _FORMAT.open(data, trust.authority_key)
    try:
        document = json.loads(payload)
        sites = tuple(RosterEntry(e["name"], e["certificate"], e["weight"], e.get("rank")) for e in document["sites"])
        roster = Roster(document["federation"], document["serial"], datetime.fromisoformat(document["expires"]), sites)
    except (KeyError, TypeError, ValueError):
        raise IdentityError("the signed roster is malformed", remedy="ask the consortium to sign a new one") from None
    if roster.payload != payload:
        raise IdentityError("the signed roster is not in canonical form", remedy="have it signed anew")
    if roster.expires < trust.now and not may_be_expired:
        raise IdentityError("the roster has expired", found=f"{roster.expires:%Y-%m-%d}", remedy="fetch a newer one")
    return roster


class RosterMemory:
    """The highest roster serial that a site has accepted.

    Args:
        path: a small file, replaced atomically; None keeps it in this process alone, which is for simulations.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._in_memory: tuple[int, str] | None = None

    def accept(self, roster: Roster) -> None:
        """Remember the roster durably, or refuse it. Of several processes at once, each sees what the others wrote.

        Raises:
            IdentityError: if a higher serial was seen, or the same serial with other content.
            StorageError: the memory is damaged, or cannot be read or written.
        """
        now = (roster.serial, roster.digest.hex())
        if self._path is None:
            self._check_newer(roster, self._in_memory)
            self._in_memory = now
            return
        with locked_beside(self._path):
            seen = self._seen(self._path)
            self._check_newer(roster, seen)
            if seen != now:
                write_atomically(self._path, f"{now[0]} {now[1]}".encode(), mode=PRIVATE, is_folders=True)

    @staticmethod
    def _seen(path: Path) -> tuple[int, str] | None:
        """Serial and digest of the highest roster; None before the first."""
        if not path.exists():
            return None
        found = _SEEN.fullmatch(read_carried(path, "the memory of rosters"))
        if found is None:
            raise StorageError(
                f"{path}, which remembers the newest roster, is damaged",
                expected="a serial number and a digest",
                remedy="move the file away, and install the newest roster at once; the consortium knows its serial",
            )
        return int(found[1]), found[2].decode()

    @staticmethod
    def _check_newer(roster: Roster, seen: tuple[int, str] | None) -> None:
        if seen is None:
            return
        serial, digest = seen
        if roster.serial < serial:
            raise IdentityError(
                "the roster is older than one seen before",
                found=str(roster.serial),
                expected=f"{serial} or later",
                remedy="fetch the newest one from the consortium",
            )
        if roster.serial == serial and digest != roster.digest.hex():
            raise IdentityError("two rosters with one serial number", found=str(serial), remedy="tell the consortium")


class Directory:
    """Verified members of a round: the roster and the trust in its certificates, for lookups by position.

    A certificate's signature is checked once an object, so one directory may serve many parties of a simulation.
    """

    def __init__(self, roster: Roster, trust: Trust) -> None:
        self.roster = roster
        self._trust = trust
        self._keys: dict[int, Ed25519PublicKey] = {}

    def name(self, position: int) -> str:
        """Name of the site at a position.

        Raises:
            IdentityError: if there is none.
        """
        return self._entry(position).name

    def weight(self, position: int) -> int:
        """Roster weight of the site at a position."""
        return self._entry(position).weight

    def rank(self, position: int, full_rank: int) -> int:
        """The rank that the site at a position trains in a job of `full_rank`."""
        return self._entry(position).rank_in(full_rank)

    def check(self, position: int, certificate_der: bytes) -> Ed25519PublicKey:
        """Public key of the site at a position, if the certificate is the one that the roster names, and is valid.

        Raises:
            IdentityError: otherwise.
        """
        entry = self._entry(position)
        if fingerprint(certificate_der).hex() != entry.certificate:
            raise IdentityError(
                f"certificate of {entry.name} is not the one in the roster",
                remedy="take the newest certificate and the newest roster from the consortium",
            )
        if position not in self._keys:
            self._keys[position] = self._trust.check(entry.name, certificate_der)
        return self._keys[position]

    def _entry(self, position: int) -> RosterEntry:
        if not 0 <= position < len(self.roster.sites):
            raise IdentityError("a message from a site that is not in the roster", found=f"position {position}")
        return self.roster.sites[position]
