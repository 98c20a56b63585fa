"""Whether a job that keeps to the site's policy may begin: by its operator's word, or by the policy's."""

import hashlib
import json
from contextlib import suppress

from pydantic import ValidationError

from yoriai import wire
from yoriai.client.offer.job_book import JobBook
from yoriai.client.offer.job_entry import OVER, Terms
from yoriai.config import JobConfig, PolicySection, job_digest
from yoriai.errors import PolicyError, YoriaiError
from yoriai.privacy.dp.accounting import Costing, Event, event_to_dict
from yoriai.privacy.job_terms.noise import all_rounds


class Approval:
    """The operator's word about jobs, as a site asks for it.

    Args:
        site: its name, for messages.
        policy: `approve` says whether the operator is asked.
        book: where jobs and decisions are kept; None in a simulation, in which nobody is asked and nothing is kept.
    """

    def __init__(self, site: str, policy: PolicySection, book: JobBook | None) -> None:
        self._site, self._book = site, book
        self._asks = policy.approve == "ask"

    def waits(self, terms: Terms, *, rounds_done: int | None = None) -> bool:
        """Whether an offer on these terms, which are entered into the book, has to wait for the operator.

        Args:
            rounds_done: of the run, as the offer says it.

        Raises:
            PolicyError: the operator has refused the job, or its run has ended here.
        """
        if self._book is None:
            return False
        entry = self._book.consider(terms, rounds_done=rounds_done)
        self._check_open(terms.run_id, entry.state)
        return self._asks and entry.state == "waiting"

    def declined(self, offer: wire.JobOffer, reason: str) -> None:
        """Record that the site itself declines an offer, for its operator; what cannot be kept is not."""
        if self._book is not None:
            with suppress(YoriaiError, ValidationError):
                self._book.decline(_terms_so_far(offer), reason)

    def accepted(self, terms: Terms) -> None:
        """Record that the site takes part.

        Raises:
            PolicyError: the operator has refused the job meanwhile.
        """
        if self._book is not None:
            self._book.accept(terms, decided_by="policy.approve = auto")

    def check_still(self, run_id: str) -> None:
        """Raise PolicyError if the operator has taken their word back, or the run has ended."""
        entry = self._book.entry(run_id) if self._book is not None else None
        if entry is not None:
            self._check_open(run_id, entry.state)

    def is_over(self, run_id: str) -> bool:
        """Whether the operator has refused the run, or it has ended here."""
        entry = self._book.entry(run_id) if self._book is not None else None
        return entry is not None and entry.state in ("refused", *OVER)

    def waiting(self, run_id: str) -> wire.Refusal:
        """The answer to an offer that waits."""
        reason = f"waits for its operator: yoriai site approve DIR {run_id}"
        return wire.Refusal(run_id=run_id, site=self._site, reason=reason, waiting=True)

    def _check_open(self, run_id: str, state: str) -> None:
        if state == "refused":
            raise PolicyError(f"site {self._site}: its operator has refused run {run_id[:80]}")
        if state == "delivered":
            raise PolicyError(
                f"site {self._site}: run {run_id[:80]} has ended, and its last adapter is here",
                remedy="start a new run",
            )
        if state == "ended":
            raise PolicyError(f"site {self._site}: run {run_id[:80]} is over here", remedy="start a new run")


def _terms_so_far(offer: wire.JobOffer) -> Terms:
    """The terms of an offer that was declined, as it states them itself."""
    return Terms(
        run_id=offer.run_id,
        job=dict(offer.job),
        job_digest=hashlib.sha256(json.dumps([offer.base_digest, offer.job], sort_keys=True).encode()).hexdigest(),
        base_digest=offer.base_digest,
        noise_multiplier=offer.noise_multiplier,
        roster_serial=offer.roster.serial,
        weights=offer.roster.weights,
    )


def terms_of(
    offer: wire.JobOffer, job: JobConfig, event: Event | None, roster_digest: str = "", *, costing: Costing
) -> Terms:
    """What an offer asks of the site, for its operator.

    Args:
        offer: under secure aggregation with the signed roster's weights and ranks in place of its own.
        event: what one round costs this site, by its own count; None without privacy.
        roster_digest: of the signed roster (hex); empty without secure aggregation.
        costing: by which the site adds up.
    """
    cost = None
    if event is not None:
        cost = costing([(event, all_rounds(job))], job.privacy.delta, job.privacy.accountant)
    return Terms(
        run_id=offer.run_id,
        job=job.model_dump(mode="json", by_alias=True),
        job_digest=job_digest(job, offer.base_digest),
        base_digest=offer.base_digest,
        noise_multiplier=offer.noise_multiplier,
        roster_serial=offer.roster.serial,
        weights=offer.roster.weights,
        ranks=offer.roster.ranks,
        epsilon=cost.epsilon if cost else None,
        accountant=cost.accountant if cost else "",
        roster_digest=roster_digest,
        event=event_to_dict(event) if event is not None else None,
    )
