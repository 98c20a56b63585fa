"""Who is, or was, somebody in a federation: members with their terms, revoked certificates, coordinators' keys."""

from dataclasses import dataclass
from typing import Any

from yoriai.privacy.identity.certificates import check_name, fingerprint
from yoriai.privacy.identity.enrolment import Enrolment, identity_of, key_fingerprint
from yoriai.privacy.identity.public_keys import check_ed25519
from yoriai.privacy.identity.roster import RosterEntry


@dataclass(frozen=True)
class MembershipTerms:
    """How a member counts: its weight, 1 to 255, and the largest rank that it trains; None takes any job's."""

    weight: int = 1
    rank: int | None = None

    def check(self, name: str) -> None:
        """Raise IdentityError unless a roster may give these terms to the site of this name."""
        RosterEntry(name, "0" * 64, self.weight, self.rank)


@dataclass(frozen=True)
class Member:
    """A member and the terms that the next roster gives it."""

    enrolment: Enrolment
    terms: MembershipTerms

    def __post_init__(self) -> None:
        self.terms.check(self.name)

    @property
    def name(self) -> str:
        """Its name in the roster."""
        return self.enrolment.name

    @property
    def keys(self) -> frozenset[bytes | str]:
        """Identity key and node key."""
        return frozenset({self.enrolment.identity, self.enrolment.node_key})

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the identity key, in rows for reading aloud."""
        return key_fingerprint(self.enrolment.identity)

    @property
    def entry(self) -> RosterEntry:
        """Its line in the roster."""
        certificate = fingerprint(self.enrolment.certificate).hex()
        return RosterEntry(self.name, certificate, self.terms.weight, self.terms.rank)


@dataclass(frozen=True)
class Revoked:
    """A certificate (DER) that no longer holds, with the node key that went with it."""

    certificate: bytes
    node_key: str

    @property
    def keys(self) -> frozenset[bytes | str]:
        """Identity key and node key."""
        return frozenset({identity_of(self.certificate), self.node_key})


@dataclass(frozen=True)
class Coordinator:
    """A coordinator's key (raw Ed25519, 32 bytes) that was certified under a name, and whether it was revoked since."""

    name: str
    identity: bytes
    revoked: bool = False


def read_coordinator(fields: dict[str, Any]) -> Coordinator:
    """A coordinator's key from the federation's signed state. Raises IdentityError, or as its fields lack."""
    return Coordinator(check_name(fields["name"]), check_ed25519(bytes.fromhex(fields["identity"])), fields["revoked"])


def read_member(federation: str, fields: dict[str, Any]) -> Member:
    """A member from the federation's signed state. Raises IdentityError, or as its fields lack."""
    enrolment = Enrolment(federation, fields["name"], bytes.fromhex(fields["certificate"]), fields["node_key"])
    return Member(enrolment, MembershipTerms(fields["weight"], fields["rank"]))
