"""Who a site is in the federation, and whom it trusts."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from yoriai import wire
from yoriai.config import PolicySection
from yoriai.errors import PolicyError
from yoriai.privacy.identity.certificates import Trust
from yoriai.privacy.identity.roster import Directory, RosterMemory, read_roster
from yoriai.privacy.identity.signing_key import SigningKey
from yoriai.privacy.ledger.ledger import Ledger
from yoriai.privacy.ledger.witness import commit, committed
from yoriai.privacy.secagg import Member, SitePolicy
from yoriai.privacy.secagg.shamir import Entropy
from yoriai.privacy.secagg.work import OwnWork, Work
from yoriai.privacy.statements.instruction import SequenceMemory


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
        work: what its sums do in common with other parties of this process, which a simulation alone puts in.
    """

    key: SigningKey
    certificate: bytes
    trust: Callable[[], Trust]
    memory: RosterMemory
    taken: SequenceMemory
    entropy: Callable[[int], Entropy] = lambda _: os.urandom
    work: Work = field(default_factory=OwnWork)

    def member(self, name: str, policy: PolicySection, offer: wire.JobOffer, number: int) -> Member:
        """This site as a member of the offered roster.

        Raises:
            IdentityError: the roster is not the CA's, too old, or does not name the site with this certificate.
            PolicyError: the offer's plain weights are not those of the signed roster.
        """
        trust, file = self.trust(), offer.signed_roster.encode()
        directory = self.work.once(("roster", file), lambda: Directory(read_roster(file, trust), trust))
        roster = directory.roster
        position = roster.position(name)
        if roster.weights != offer.roster.weights:
            raise PolicyError(f"site {name}: the offer's weights are not those of the signed roster")
        directory.check(position, self.certificate)
        self.memory.accept(roster)
        return Member(
            self.key,
            self.certificate,
            position,
            directory,
            self.entropy(number),
            SitePolicy(min_sites=policy.min_sites, allow_counts=False),
            work=self.work,
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
