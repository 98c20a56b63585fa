"""A site's walk through a window of secure aggregation: bytes of a stage in, bytes of the same stage out.

The protocol itself is in `privacy/secagg`; this holds the stage object between messages. It lives in memory only: a
site that is started anew has dropped out of the window.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from yoriai import wire
from yoriai.config import PolicySection
from yoriai.errors import PolicyError, ProtocolError
from yoriai.privacy.identity.identity import SigningKey, Trust
from yoriai.privacy.identity.instruction import SequenceMemory
from yoriai.privacy.identity.roster import Directory, RosterMemory, read_roster
from yoriai.privacy.ledger.ledger import Ledger
from yoriai.privacy.ledger.witness import commit, committed
from yoriai.privacy.secagg import Member, ReadyToMask, SitePolicy, SiteWindow, SlotTerms, Update, WindowTerms, advertise
from yoriai.privacy.secagg.member import Spend
from yoriai.privacy.secagg.shamir import Entropy
from yoriai.privacy.secagg.slot import Agreed, Masked


@dataclass(frozen=True, repr=False)
class SiteIdentity:
    """Who a site is in the federation, and whom it trusts.

    Attributes:
        key: its private key.
        certificate: its own, DER, issued by the federation's CA.
        trust: the pinned CA and the newest revocation list, as of now.
        memory: the highest roster that it has accepted.
        taken: the highest sequence number that it has taken from its coordinator.
        entropy: random bytes for a window by its number, or for a round by its index, another stream with every call;
            tests only put in another source than the system's.
    """

    key: SigningKey
    certificate: bytes
    trust: Callable[[], Trust]
    memory: RosterMemory
    taken: SequenceMemory
    entropy: Callable[[int], Entropy] = lambda _: os.urandom

    def member(self, name: str, policy: PolicySection, offer: wire.JobOffer, number: int) -> Member:
        """This site as a member of the offered roster.

        Raises:
            IdentityError: the roster is not the CA's, too old, or does not name the site with this certificate.
            PolicyError: the offer's plain weights are not those of the signed roster.
        """
        trust = self.trust()
        roster = read_roster(offer.signed_roster.encode(), trust)
        position = roster.position(name)
        if {entry.name: entry.weight for entry in roster.sites} != offer.roster.weights:
            raise PolicyError(f"site {name}: the offer's weights are not those of the signed roster")
        directory = Directory(roster, trust)
        directory.check(position, self.certificate)
        self.memory.accept(roster)
        return Member(
            self.key,
            self.certificate,
            position,
            directory,
            self.entropy(number),
            SitePolicy(min_sites=policy.min_sites, allow_counts=False),
        )

    def commitment(self, name: str, ledger: Ledger) -> str:
        """The site's signature under its ledger as it stands, for the coordinator to keep and give back."""
        return commit(ledger.head().hash, name, self.key)

    def check_commitment(self, name: str, ledger: Ledger, commitment: str) -> None:
        """Refuse to work with a ledger that is older than what the site signed before.

        Raises:
            LedgerError: the ledger lacks the row that was signed.
            IdentityError: the commitment is not this site's.
        """
        ledger.must_hold(committed(commitment, name, self.key.public_key))


class SecureWindow:
    """One window at one site: its opening stage by stage, then its slots one after the other.

    What was answered in the newest slot is kept: whoever asks the same again gets the same bytes again, and nothing is
    trained, charged or signed for it.

    Args:
        member: this site's identity and verified directory, for the opening.
        terms: worked out by the site from the job that it accepted.
    """

    def __init__(self, member: Member, terms: WindowTerms) -> None:
        self.terms = terms
        self._member = member
        self._stage: Any = None
        self._next = 0
        self._window: SiteWindow | None = None
        self._slot: int | None = None
        self._said: dict[str, tuple[bytes, bytes]] = {}

    @property
    def is_open(self) -> bool:
        """Whether the opening is over, so that slots may be used."""
        return self._window is not None

    def open(self, stage: str, payload: bytes) -> bytes:
        """Answer one stage of the opening. Each comes once and in order; after a refusal there is no way on.

        Raises:
            ProtocolError, PolicyError, IdentityError: as the stages of `privacy.secagg.site`.
        """
        if self._next >= len(wire.WINDOW_STAGES) or stage != wire.WINDOW_STAGES[self._next]:
            raise ProtocolError("a stage of secure aggregation out of order", remedy="begin a new window")
        place, self._next = self._next, len(wire.WINDOW_STAGES)  # Whatever fails below ends the opening here.
        if place == 0:
            self._stage, reply = advertise(self._member, self.terms)
        else:
            self._stage, reply = self._stage.step(payload)
        self._next = place + 1
        if self._next == len(wire.WINDOW_STAGES):
            self._window, self._stage = self._stage, None
        return bytes(reply)

    def said(self, slot: int, stage: str, asked: bytes) -> bytes | None:
        """What was answered to the same bytes in the same stage of the newest slot; None if it was not asked so."""
        digest, reply = self._said.get(stage, (b"", b""))
        return reply if slot == self._slot and digest == hashlib.sha256(asked).digest() else None

    def begin(self, member: Member, terms: SlotTerms) -> ReadyToMask:
        """Take a slot; see `privacy.secagg.slot.Window.begin`."""
        if self._window is None:
            raise ProtocolError("the window is not open", remedy="begin a new window")
        ready = self._window.begin(member, terms)
        self._slot, self._stage, self._said = terms.slot, None, {}
        return ready

    def mask(self, ready: ReadyToMask, update: Update, spend: Spend, *, asked: bytes) -> bytes:
        """Mask the slot's update, after `spend` has marked it durably as about to leave."""
        self._stage, reply = ready.step(update, spend)
        return self._keep("mask", asked, reply)

    def close(self, slot: int, stage: str, payload: bytes) -> bytes:
        """Answer one of the stages after masking, each once.

        Raises:
            ProtocolError, PolicyError: as the stages of `privacy.secagg.slot`.
        """
        if (said := self.said(slot, stage, payload)) is not None:
            return said
        due = Masked if stage == "agree" else Agreed if stage == "unmask" else None
        if slot != self._slot or due is None or not isinstance(self._stage, due):
            raise ProtocolError("a stage of secure aggregation out of order", remedy="take the next slot")
        current, self._stage = self._stage, None  # Whatever fails below ends the slot here.
        if isinstance(current, Agreed):
            return self._keep(stage, payload, current.step(payload))
        self._stage, reply = current.step(payload)
        return self._keep(stage, payload, reply)

    def _keep(self, stage: str, asked: bytes, reply: bytes) -> bytes:
        self._said[stage] = hashlib.sha256(asked).digest(), reply
        return reply
