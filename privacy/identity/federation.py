"""A federation as its consortium keeps it: who is a member, who was, and what was last signed about both.

Everything here is a value and a step from one value to the next; `federation_folder.py` keeps them on a disk. The state
is itself signed by the CA, so that a member that somebody wrote into the file is not signed into the next roster.

One number counts every list that the CA signs, rosters (as their serial) and revocation lists (as theirs). It only
grows, also where a step issues a list of one kind only, and a state with the new number is durable before a list that
bears it is handed out.

A name has one certificate. A key speaks for one name, a site's or a coordinator's, and never again once it was revoked.
A request of a member with the same keys is a renewal.

Not covered: a consortium's folder that is restored from an old backup would count the same numbers again; sites refuse
lists of theirs, so the next roster must be given a higher serial by hand. Members that were revoked after the
backup must be revoked anew.
"""

import json
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding

from yoriai.errors import IdentityError
from yoriai.privacy.identity.certificates import Authority, Trust, check_name
from yoriai.privacy.identity.coordinator_identity import CoordinatorRequest
from yoriai.privacy.identity.enrolment import Enrolment, Request
from yoriai.privacy.identity.membership import (
    Coordinator,
    Member,
    MembershipTerms,
    Revoked,
    read_coordinator,
    read_member,
)
from yoriai.privacy.identity.roster import Roster, sign_roster
from yoriai.privacy.identity.signed_file import SignedFormat, canonical_json

# A revocation list tells nothing once it has expired, so that a site cannot be kept on an old one for good.
LISTS_VALID_FOR = timedelta(days=90)
LARGEST_NUMBER = 2**53
_FORMAT = SignedFormat("the federation's state", "federation", 1, remedy="restore the folder from its newest backup")


@dataclass(frozen=True)
class Federation:
    """The consortium's state after a step.

    Attributes:
        number: of the newest list that was signed.
        members: sorted by name.
        revoked: oldest first.
        revocations: the newest revocation list, DER.
        roster: the newest roster's file; empty before the first.
        coordinators: every key that was certified for one, oldest first.
    """

    name: str
    number: int
    members: tuple[Member, ...]
    revoked: tuple[Revoked, ...]
    revocations: bytes
    roster: bytes = b""
    coordinators: tuple[Coordinator, ...] = ()

    @classmethod
    def found(cls, authority: Authority, name: str, *, now: datetime) -> "Federation":
        """A federation without members, and its first revocation list."""
        return cls(check_name(name), 0, (), (), b"")._with_list(authority, now)

    def member(self, name: str) -> Member:
        """The member of that name.

        Raises:
            IdentityError: there is none.
        """
        for member in self.members:
            if member.name == name:
                return member
        known = ", ".join(member.name for member in self.members[:8])
        expected = f"one of: {known}" if known else "a member, and it has none yet"
        remedy = "a coordinator that an older Yoriai certified is entered by signing its request once more"
        raise IdentityError(f"{check_name(name)} is not a member of {self.name}", expected=expected, remedy=remedy)

    def check_request(self, request: Request, *, renew: bool) -> None:
        """Refuse a request that must not be signed as things are.

        Args:
            renew: whether a member of that name is to be replaced.

        Raises:
            IdentityError: the name has a certificate (or, with `renew`, has none), or a key speaks for somebody else
                or was revoked.
        """
        holder = {member.name: member for member in self.members}.get(request.name)
        if holder is not None and not renew:
            raise IdentityError(
                f"{request.name} has a certificate already",
                found=f"one for the key {holder.fingerprint[:19]} …, valid until {holder.enrolment.expires:%Y-%m-%d}",
                remedy="ask the site whether it has asked again; if so, --replace revokes the first one",
            )
        if holder is None and renew:
            raise IdentityError(f"{request.name} has no certificate to replace", remedy="leave --replace out")
        asked = {request.identity, request.node_key}
        for other in self.members:
            if other is not holder and asked & other.keys:
                raise IdentityError(
                    f"the request of {request.name} has a key that {other.name} holds",
                    remedy="have the site make keys of its own",
                )
        named = self.coordinator_keys(request.name)
        if named or any(request.identity == known.identity for known in self.coordinators):
            raise IdentityError(
                f"the request of {request.name} has a coordinator's {'name' if named else 'key'}",
                remedy="have the site made with a name and keys of its own",
            )
        current = holder.keys if holder else frozenset[bytes | str]()
        if any((asked - current) & old.keys for old in self.revoked):
            raise IdentityError(
                f"the request of {request.name} has a key that was revoked",
                remedy="have the site move its key files away, and make a request with new ones",
            )

    def admitted(
        self,
        authority: Authority,
        request: Request,
        terms: MembershipTerms,
        *,
        now: datetime,
        valid_for: timedelta,
        renew: bool = False,
    ) -> "Federation":
        """The federation with the requesting site as a member; somebody has compared the key's fingerprint with it.

        Raises:
            IdentityError: as `check_request`; terms that a roster cannot have; a certificate that outlives the CA.
        """
        self.check_request(request, renew=renew)
        check_ends(authority, request.name, now + valid_for)
        certificate = authority.certify(request.name, request.public_key, now=now, valid_for=valid_for)
        member = Member(Enrolment(self.name, request.name, certificate, request.node_key), terms)
        rest = self.without(authority, request.name, now=now) if renew else self
        return replace(rest, members=tuple(sorted((*rest.members, member), key=lambda one: one.name)))

    def without(self, authority: Authority, name: str, *, now: datetime) -> "Federation":
        """The federation without a member, whose certificate is on the next revocation list.

        Raises:
            IdentityError: there is no such member.
        """
        gone = self.member(name)
        rest = tuple(member for member in self.members if member is not gone)
        revoked = Revoked(gone.enrolment.certificate, gone.enrolment.node_key)
        return replace(self, members=rest, revoked=(*self.revoked, revoked))._with_list(authority, now)

    def check_coordinator(self, request: CoordinatorRequest) -> None:
        """Refuse a coordinator that would pass for a site, in logs by its name or in signatures by its key.

        Raises:
            IdentityError: the name or the key is a member's, or the key was revoked.
        """
        for member in self.members:
            if member.name == request.name or member.enrolment.identity == request.identity:
                raise IdentityError(
                    f"the coordinator's request has the name or the key of the member {member.name}",
                    remedy="have the server made with a name and a key of its own",
                )
        revoked = {known.identity for known in self.coordinators if known.revoked}
        if request.identity in revoked or any(request.identity in old.keys for old in self.revoked):
            raise IdentityError(
                "the coordinator's request has a key that was revoked",
                remedy="have the server's key file moved away, and a request made with a new one",
            )

    def with_coordinator(self, request: CoordinatorRequest) -> "Federation":
        """The federation that remembers whose key it certifies, so that it can be revoked.

        Raises:
            IdentityError: as `check_coordinator`.
        """
        self.check_coordinator(request)
        coordinator = Coordinator(request.name, request.identity)
        return replace(self, coordinators=tuple(dict.fromkeys((*self.coordinators, coordinator))))

    def coordinator_keys(self, name: str) -> list[bytes]:
        """The keys that hold for a coordinator of that name."""
        return [known.identity for known in self.coordinators if known.name == name and not known.revoked]

    def without_coordinator(self, authority: Authority, name: str, *, now: datetime) -> "Federation":
        """The federation in which no key of a coordinator holds any longer; all of them are on the next list.

        Raises:
            IdentityError: there is no such coordinator.
        """
        if not self.coordinator_keys(name):
            raise IdentityError(f"{check_name(name)} is not a coordinator of {self.name}")
        rest = tuple(replace(known, revoked=known.revoked or known.name == name) for known in self.coordinators)
        return replace(self, coordinators=rest)._with_list(authority, now)

    def with_roster(
        self, authority: Authority, *, now: datetime, valid_for: timedelta, serial: int | None = None
    ) -> "Federation":
        """The federation with a new roster of its members, and a new revocation list that is valid as long.

        Args:
            serial: the new one, higher than any before; None takes the next.

        Raises:
            IdentityError: there is no member, a member's certificate has expired, or the serial is not a higher one.
        """
        if not self.members:
            raise IdentityError(f"{self.name} has no members", remedy="sign a site's request first")
        number = self.number + 1 if serial is None else serial
        if not self.number < number < LARGEST_NUMBER:
            raise IdentityError(
                "the serial number of a roster only grows", found=str(number), expected=f"{self.number + 1} or more"
            )
        listed = replace(self, number=number - 1)._with_list(authority, now, valid_for)
        trust = Trust(authority.certificate.public_bytes(Encoding.DER), listed.revocations, now=now)
        for member in self.members:
            trust.check(member.name, member.enrolment.certificate)
        roster = Roster(self.name, number, now + valid_for, tuple(member.entry for member in self.members))
        return replace(listed, roster=sign_roster(authority, roster))

    def _with_list(self, authority: Authority, now: datetime, valid_for: timedelta = LISTS_VALID_FOR) -> "Federation":
        number = self.number + 1
        certificates = [old.certificate for old in self.revoked]
        keys = [known.identity for known in self.coordinators if known.revoked]
        signed = authority.revocation_list(certificates, keys, number=number, now=now, valid_for=valid_for)
        return replace(self, number=number, revocations=signed)

    @cached_property
    def payload(self) -> bytes:
        """Canonical JSON, the bytes that are signed."""
        members = [
            {
                "certificate": member.enrolment.certificate.hex(),
                "name": member.name,
                "node_key": member.enrolment.node_key,
                "rank": member.terms.rank,
                "weight": member.terms.weight,
            }
            for member in self.members
        ]
        document = {"name": self.name, "number": self.number, "members": members}
        revoked = [{"certificate": old.certificate.hex(), "node_key": old.node_key} for old in self.revoked]
        lists = {"revocations": self.revocations.hex(), "roster": self.roster.decode("ascii")}
        # Left out where there is none, so that a state of before coordinators were remembered keeps its bytes.
        known = [{**asdict(one), "identity": one.identity.hex()} for one in self.coordinators]
        coordinators = {"coordinators": known} if known else {}
        return canonical_json(document | {"revoked": revoked} | lists | coordinators)


def check_ends(authority: Authority, name: str, expires: datetime) -> None:
    """Raise IdentityError if a certificate would outlive the CA."""
    ends = authority.certificate.not_valid_after_utc
    if expires > ends:
        raise IdentityError(
            f"the certificate of {name} would outlive the federation CA",
            found=f"valid until {expires:%Y-%m-%d}",
            expected=f"until {ends:%Y-%m-%d} at most",
            remedy="have it valid for fewer days",
        )


def sign_federation(authority: Authority, federation: Federation) -> bytes:
    """The state's file."""
    return _FORMAT.seal(authority.key, federation.payload)


def read_federation(data: bytes, key: Ed25519PublicKey) -> Federation:
    """Verify and parse a state's file.

    Raises:
        IdentityError: the CA with this key did not sign it, or it is of another version.
    """
    payload = _FORMAT.open(data, key)
    try:
        document = json.loads(payload)
        federation = Federation(
            name=check_name(document["name"]),
            number=int(document["number"]),
            members=tuple(read_member(document["name"], fields) for fields in document["members"]),
            revoked=tuple(Revoked(bytes.fromhex(old["certificate"]), old["node_key"]) for old in document["revoked"]),
            revocations=bytes.fromhex(document["revocations"]),
            roster=document["roster"].encode("ascii"),
            coordinators=tuple(map(read_coordinator, document.get("coordinators", ()))),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise IdentityError("the signed state of the federation is malformed", remedy=_FORMAT.remedy) from None
    if federation.payload != payload:
        raise IdentityError("the signed state of the federation is not in canonical form", remedy=_FORMAT.remedy)
    return federation
