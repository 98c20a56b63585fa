"""Who takes part in a run: which sites were offered the job, accepted it, declined it, or could not be understood."""

from collections.abc import Callable, Sequence

from yoriai import wire
from yoriai.server.messenger import UNEXPECTED, Messenger, one_line


class Attendance:
    """The sites of a roster, by their answer to the offer.

    Attributes:
        accepted: sites that may be asked to train.
        absent: the others that were asked, and why they are not in it.
        declined: those of the absent that said no in words; they are not asked again.
    """

    def __init__(self, sites: Sequence[str], messenger: Messenger, timeout_s: float) -> None:
        self._sites, self._messenger, self._timeout_s = tuple(sorted(sites)), messenger, timeout_s
        self.accepted: set[str] = set()
        self.absent: dict[str, str] = {}
        self.declined: set[str] = set()

    def invite(self, offer: Callable[[], wire.JobOffer]) -> bool:
        """Offer the job to every site that has not answered an offer yet: all at first, then those out of reach.

        Returns:
            Whether there was any such site.
        """
        unheard = [site for site in self._sites if site not in self.accepted and site not in self.declined]
        reachable = self._messenger.reachable() if unheard else set()
        self.absent.update({site: "not connected" for site in unheard if site not in reachable})
        self.offer(offer(), [site for site in unheard if site in reachable])
        return bool(unheard)

    def missing_of(self, chosen: Sequence[str]) -> dict[str, str]:
        """Why some of a round's sites are not in it; those that declined for good are named in every round."""
        return {site: why for site, why in self.absent.items() if site in chosen or site in self.declined}

    def offer(self, offer: wire.JobOffer, sites: Sequence[str]) -> None:
        """Offer the job to these sites and note who accepts, who declines and who cannot be understood.

        Each gets back the newest commitment to its ledger that it sent.
        """
        payloads, heads = dict.fromkeys(sites, wire.encode(offer)), self._messenger.ledger_heads
        for site in payloads.keys() & heads.keys():
            payloads[site] = wire.encode(offer.model_copy(update={"ledger_head": heads[site]}))
        replies, faults = self._messenger.ask("offer", payloads, self._timeout_s)
        for site in sites:
            reply = replies.get(site)
            self.accepted.discard(site)
            self.absent.pop(site, None)
            if isinstance(reply, wire.Acceptance):
                self.accepted.add(site)
            elif isinstance(reply, wire.Refusal):
                self.declined.add(site)
                self.absent[site] = one_line(reply.reason)
            else:
                self.absent[site] = faults.get(site, UNEXPECTED)
