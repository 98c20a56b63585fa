"""Who takes part in a run: which sites were offered the job, accepted it, declined it, or could not be understood.

Those that accepted are asked through here too: one that was started anew has to be offered the job once more first.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from yoriai import wire
from yoriai.server.round.messenger import UNEXPECTED, Messenger
from yoriai.terminal import one_line

_LOOK_S = 1.0


@dataclass(frozen=True)
class Deadlines:
    """How long the coordinator waits for the sites' replies in each stage; see [deadlines] of the job.

    An offer is waited for so long only until a site has accepted the job, and afterwards as long as for keys, since
    those that are in it wait as well. A site whose answer came too late is prepared by then, and asked again before
    the next round. `gather_s` is for the sites that a run could begin without.
    """

    offer_s: float = 3600.0
    keys_s: float = 300.0
    train_s: float = 3600.0
    gather_s: float = 0.0


class Attendance:
    """The sites of a roster, by their answer to the offer.

    Args:
        sites: their names.
        messenger: to them.
        deadlines: for their replies.

    Attributes:
        accepted: sites that may be asked to train.
        absent: the others that were asked, and why they are not in it.
        declined: those of the absent that said no in words; they are not asked again.
        used_up: those of the declined that have no round of the run left, by their own word.
        waiting: those of the absent whose operator has not decided yet; they are asked again.
    """

    def __init__(self, sites: Sequence[str], messenger: Messenger, deadlines: Deadlines) -> None:
        self._sites, self._messenger, self._deadlines = tuple(sorted(sites)), messenger, deadlines
        self.accepted: set[str] = set()
        self.absent: dict[str, str] = {}
        self.declined: set[str] = set()
        self.used_up: set[str] = set()
        self.waiting: set[str] = set()

    @property
    def may_come(self) -> set[str]:
        """Sites that may accept later: those that have neither accepted nor declined, for whatever reason."""
        return set(self._sites) - self.accepted - self.declined

    def invite(self, offer: Callable[[], wire.JobOffer]) -> bool:
        """Offer the job to every site that has not answered an offer yet: all at first, then those out of reach.

        Sites that wait for their operator are asked again, too.

        Returns:
            Whether there was any such site.
        """
        unheard = sorted(self.may_come)
        reachable = self._messenger.reachable() if unheard else set()
        out_of_reach = set(unheard) - reachable
        self.waiting -= out_of_reach
        self.absent.update(dict.fromkeys(out_of_reach, "not connected"))
        self.offer(offer(), [site for site in unheard if site in reachable])
        return bool(unheard)

    def gather(
        self,
        offer: Callable[[], wire.JobOffer],
        *,
        least: int,
        is_first: bool,
        again_s: float,
        on_offer: Callable[[Mapping[str, str]], None] | None,
        is_over: Callable[[], bool],
    ) -> None:
        """Invite before a round, and wait for sites that may come.

        Without `least` sites there is no round: those that may come are waited for until the time for offers is over.
        With them, only the first round waits, and no longer than `gather_s`; who accepts later is in the next one. A
        site that has declined is never waited for, so that nothing is once all have answered.

        Args:
            least: sites that a round needs.
            is_first: whether it is the run's first round.
            again_s: wait between two offers.
            on_offer: called after each offer with the sites that do not take part so far, and why.
            is_over: whether there is nothing to wait for any more.
        """
        began = time.monotonic()
        while self.invite(offer):
            if on_offer is not None:
                on_offer(dict(self.absent))
            are_enough = len(self.accepted) >= least
            longest = self._deadlines.offer_s if not are_enough else self._deadlines.gather_s if is_first else 0.0
            left = began + longest - time.monotonic()
            if not self.may_come or left <= 0:
                return
            if not _waited(min(again_s, left), is_over):
                return

    def doubt(self, sites: Mapping[str, str]) -> None:
        """Offer the job to these sites once more before the next round, whatever they said: they fell silent.

        Args:
            sites: and in what way.
        """
        self.accepted -= sites.keys()
        self.absent.update(sites)

    def _note_used_up(self, replies: Mapping[str, wire.Reply]) -> None:
        """Have those of the sites that say so take part no more: they have no round left."""
        for site, reply in replies.items():
            if isinstance(reply, wire.Refusal) and reply.used_up:
                self.accepted.discard(site)
                self.declined.add(site)
                self.used_up.add(site)
                self.absent[site] = one_line(reply.reason)

    def too_few_left(self, least: int) -> str:
        """Why no further round can be had: fewer than `least` sites have one left. Empty as long as one may be had."""
        if len(self._sites) - len(self.used_up) >= least:
            return ""
        return f"{', '.join(sorted(self.used_up))} have used every round, the spare ones too; {least} sites are needed"

    def missing_of(self, chosen: Sequence[str]) -> dict[str, str]:
        """Why some of a round's sites are not in it; those that a round passes over are named in every round."""
        return {site: why for site, why in self.absent.items() if site in chosen or site in self.passed_over}

    @property
    def passed_over(self) -> set[str]:
        """Sites that there is no use in choosing for a round: they declined, or wait."""
        return self.declined | self.waiting

    def offer(self, offer: wire.JobOffer, sites: Sequence[str]) -> None:
        """Offer the job to these sites and note who accepts, who declines, who waits and who cannot be understood.

        Each gets back the newest commitment to its ledger that it sent.
        """
        payloads, heads = dict.fromkeys(sites, wire.encode(offer)), self._messenger.ledger_heads
        for site in payloads.keys() & heads.keys():
            payloads[site] = wire.encode(offer.model_copy(update={"ledger_head": heads[site]}))
        timeout_s = self._deadlines.keys_s if self.accepted else self._deadlines.offer_s
        replies, faults = self._messenger.ask("offer", payloads, timeout_s)
        for site in sites:
            reply = replies.get(site)
            self.accepted.discard(site)
            self.waiting.discard(site)
            self.absent.pop(site, None)
            if isinstance(reply, wire.Acceptance):
                self.accepted.add(site)
            elif isinstance(reply, wire.Refusal):
                (self.waiting if reply.waiting else self.declined).add(site)
                self.absent[site] = one_line(reply.reason)
            else:
                self.absent[site] = faults.get(site, UNEXPECTED)

    def ask(
        self,
        asked: Sequence[str],
        request: wire.TrainRequest | wire.WindowRequest,
        *,
        offer: Callable[[], wire.JobOffer],
    ) -> tuple[dict[str, wire.Reply], dict[str, str]]:
        """Send a request: the replies, and the reason of every site asked that sent none."""
        stage, data = request.stage, wire.encode(request)
        timeout_s = self._deadlines.keys_s if stage in wire.WINDOW_STAGES else self._deadlines.train_s
        replies, missing = self._messenger.ask(stage, dict.fromkeys(asked, data), timeout_s)
        self._note_used_up(replies)
        forgotten = [s for s, r in replies.items() if isinstance(r, wire.Refusal) and r.unknown_job]
        if forgotten:  # A site that was started anew no longer knows the job; it may look at the offer again.
            self.offer(offer(), forgotten)
            missing |= {site: self.absent[site] for site in forgotten if site in self.absent}
            back = [site for site in forgotten if site in self.accepted]
            again, faults = self._messenger.ask(stage, dict.fromkeys(back, data), timeout_s)
            self._note_used_up(again)
            replies = {site: reply for site, reply in replies.items() if site not in forgotten} | again
            missing |= faults
        return replies, {site: reason for site, reason in missing.items() if site not in replies}


def _waited(seconds: float, is_over: Callable[[], bool]) -> bool:
    """Wait so long; False if there was nothing to wait for any more."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if is_over():
            return False
        time.sleep(min(_LOOK_S, left))
    return True
