"""A site's walk through one round of secure aggregation: bytes of a stage in, bytes of the same stage out.

The protocol itself is in `privacy/secagg`; this holds the stage object between messages. It lives in memory only: a
site that is started anew has dropped out of the round.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from yoriai import wire
from yoriai.config import PolicySection
from yoriai.errors import PolicyError, ProtocolError
from yoriai.privacy.identity import SigningKey, Trust
from yoriai.privacy.ledger import Ledger
from yoriai.privacy.ledger_witness import commit, committed
from yoriai.privacy.roster import Directory, RosterMemory, read_roster
from yoriai.privacy.secagg import Member, RoundTerms, SitePolicy, Update, advertise
from yoriai.privacy.secagg import site as stages
from yoriai.privacy.secagg.shamir import Entropy


@dataclass(frozen=True, repr=False)
class SiteIdentity:
    """Who a site is in the federation, and whom it trusts.

    Attributes:
        key: its private key.
        certificate: its own, DER, issued by the federation's CA.
        trust: the pinned CA and the newest revocation list, as of now.
        memory: the highest roster that it has accepted.
        entropy: random bytes for a round, by its index; tests only put in another source than the system's.
    """

    key: SigningKey
    certificate: bytes
    trust: Callable[[], Trust]
    memory: RosterMemory
    entropy: Callable[[int], Entropy] = lambda _: os.urandom

    def member(self, name: str, policy: PolicySection, offer: wire.JobOffer, round_index: int) -> Member:
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
            self.entropy(round_index),
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


class SecureRound:
    """One round at one site.

    Args:
        member: this site's identity and verified directory.
        terms: worked out by the site from the job that it accepted.
        make_update: trains and quantises; called once, in the stage `mask`, after all keys are agreed.
        spend: durable mark that the update is about to leave.
    """

    def __init__(
        self, member: Member, terms: RoundTerms, *, make_update: Callable[[], Update], spend: Callable[[bytes], None]
    ) -> None:
        self.terms = terms
        self._member, self._make_update, self._spend = member, make_update, spend
        self._stage: Any = None
        self._next = 0

    def answer(self, stage: str, payload: bytes) -> bytes:
        """Answer one stage. Each comes once and in order; after a refusal there is no way on.

        Raises:
            ProtocolError, PolicyError, IdentityError: as the stages of `privacy.secagg.site`.
        """
        if self._next >= len(wire.SECURE_STAGES) or stage != wire.SECURE_STAGES[self._next]:
            raise ProtocolError("a stage of secure aggregation out of order", remedy="start the round afresh")
        place, self._next = self._next, len(wire.SECURE_STAGES)  # Whatever fails below ends this round here.
        reply = _ANSWERS[stage](self, payload)
        self._next = place + 1
        return reply

    def _advertise(self, _: bytes) -> bytes:
        self._stage, reply = advertise(self._member, self.terms)
        return reply

    def _pass_on(self, payload: bytes) -> bytes:
        self._stage, reply = self._stage.step(payload)
        return bytes(reply)

    def _mask(self, payload: bytes) -> bytes:
        ready: stages.ReadyToMask = self._stage.step(payload)
        self._stage, reply = ready.step(self._make_update(), self._spend)
        return reply

    def _unmask(self, payload: bytes) -> bytes:
        agreed: stages.Agreed = self._stage
        self._stage = None
        return agreed.step(payload)


_ANSWERS: Mapping[str, Callable[[SecureRound, bytes], bytes]] = {
    "advertise": SecureRound._advertise,
    "sign": SecureRound._pass_on,
    "share": SecureRound._pass_on,
    "mask": SecureRound._mask,
    "agree": SecureRound._pass_on,
    "unmask": SecureRound._unmask,
}
