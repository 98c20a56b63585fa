"""One site's side of a run: policy, then ledger, then training, then the reply. Bytes in, bytes out.

The same object answers a simulation directly and, behind the site's daemon, a deployment. Whatever goes wrong becomes
a Refusal whose reason holds no data; nothing that was computed leaves unless the ledger marked it as released first.

What an answer tells. Until the ledger has charged for a round, no answer depends on the records: a job is checked
against what the policy says of them, then shown to the operator, and only then is a record looked at; one that does not
fit is counted in the site's own log and trains nothing (`client/records/fitting.py`).
"""

import logging
import traceback
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from yoriai import wire
from yoriai.client.model.model_session import ModelSession, PrefixProgress
from yoriai.client.model.prepared import PreparedRecords
from yoriai.client.offer.approval import Approval, terms_of
from yoriai.client.offer.job_book import JobBook, Terms
from yoriai.client.offer.offer_bounds import check_bounds
from yoriai.client.offer.policy import (
    check_base,
    check_membership,
    check_records,
    check_sharing,
    plain_rank,
    read_job,
    round_event,
    signed_rank,
)
from yoriai.client.records.records import SiteRecords
from yoriai.client.site.charging import Charging
from yoriai.client.site.deliveries import Deliveries
from yoriai.client.site.instructions import Instructions
from yoriai.client.site.job import AcceptedJob, Round, round_of, shares_of
from yoriai.client.site.paid import local_update, paid, shared_sum
from yoriai.client.site.personal import PERSONAL_MARK
from yoriai.client.site.secure import SiteIdentity
from yoriai.client.site.secure_round import Duties, SecureRounds
from yoriai.client.training.plan import Shares
from yoriai.client.training.shared_round import SharedSum
from yoriai.client.training.train import LocalUpdate
from yoriai.config import JobConfig, SiteConfig
from yoriai.errors import (
    LedgerError,
    PolicyError,
    RecordError,
    StorageError,
    UsedUpError,
    WireError,
    YoriaiError,
)
from yoriai.privacy.dp.accounting import Event
from yoriai.privacy.dp.randomness import RandomSource, SystemSource
from yoriai.privacy.job_terms.plain_roster import plain_roster
from yoriai.privacy.ledger.ledger import Ledger
from yoriai.privacy.secagg import Member
from yoriai.strategies.adapter import AdapterState

_log = logging.getLogger("yoriai.site")


@dataclass(frozen=True)
class SiteHooks:
    """What a simulation or a test may put in from outside; a deployed site takes the defaults.

    Attributes:
        randomness: source for one round, by run id and round index.
        on_prefix: progress of the prefix, in records.
        on_step: called after each local step.
        on_fault: called with a line for the site's own eyes when a message is refused for a fault of the records or
            of the code.
        train: makes the update of a round that is charged, as `local_update`.
        share: the same where the noise is distributed, as `shared_sum`.
    """

    randomness: Callable[[str, int], RandomSource] = lambda _run, _round: SystemSource()
    on_prefix: PrefixProgress | None = None
    on_step: Callable[[int], None] | None = None
    on_fault: Callable[[str], None] = _log.warning
    train: Callable[..., LocalUpdate] = local_update
    share: Callable[..., SharedSum] = shared_sum


class Site:
    """A site with its policy, records and ledger.

    Args:
        config: name and policy.
        records: only the training records are used here.
        session: base model and what is built on it.
        ledger: of this data set, at the policy's budget and delta.
        identity: key, certificate and trust, by which it knows its coordinator; None at a site that is no member.
        hooks: see SiteHooks.
        book: jobs and what the operator decided about them; None in a simulation, in which nobody is asked.
        deliveries: takes the last adapter of a job; None where none is delivered.
    """

    def __init__(
        self,
        config: SiteConfig,
        records: SiteRecords,
        *,
        session: ModelSession,
        ledger: Ledger,
        identity: SiteIdentity | None = None,
        hooks: SiteHooks | None = None,
        book: JobBook | None = None,
        deliveries: Deliveries | None = None,
    ) -> None:
        if ledger.unit != config.policy.unit:
            raise LedgerError(
                f"site {config.name}: its ledger counts for another unit than its policy",
                found=ledger.unit,
                expected=f"{config.policy.unit} (policy.unit)",
                remedy="open the ledger with the policy's own unit",
            )
        self.name = config.name
        self._policy, self._records = config.policy, records
        self._session, self._ledger, self._identity = session, ledger, identity
        self._charging, self._approval = Charging(config.name, ledger), Approval(config.name, config.policy, book)
        self._instructions, self._deliveries = Instructions(config.name, identity), deliveries
        self._hooks = hooks or SiteHooks()
        self._accepted: AcceptedJob | None = None
        duties = Duties(self._member, self._charging.charge, self._trained, self._shared, self._charging.mark_released)
        self._secure = SecureRounds(self.name, session.base.digest, duties)

    def handle(self, data: bytes) -> bytes:
        """Answer one message. Never raises on what another party sent, and never lets text of a record out."""
        run_id = ""
        try:
            message = self._instructions.opened(data)
            run_id = message.run_id
            with self._session.lock:  # Two rounds at once would mix their gradients in the one model.
                reply = self._answer(message)
                if self._identity is not None and not isinstance(reply, wire.Refusal):
                    head = self._identity.commitment(self.name, self._ledger)
                    reply = reply.model_copy(update={"ledger_head": head})
        except (RecordError, StorageError) as error:  # What may name a place of this machine stays on it.
            self._hooks.on_fault(f"site {self.name}: {error}")
            what = "records" if isinstance(error, RecordError) else "files"
            does = "do not fit the job" if isinstance(error, RecordError) else "cannot be read or written"
            reason = f"the {what} of site {self.name} {does}; its own log says where"
            reply = wire.Refusal(run_id=run_id, site=self.name, reason=reason)
        except YoriaiError as error:
            used_up = isinstance(error, UsedUpError)
            reply = wire.Refusal(run_id=run_id, site=self.name, reason=str(error), used_up=used_up)
        except Exception as error:  # The type alone: an unexpected message might quote a record.
            reason = f"internal error: {type(error).__name__}"
            place = traceback.extract_tb(error.__traceback__)[-1]
            self._hooks.on_fault(f"site {self.name}: {reason} at {place.filename}:{place.lineno}")
            reply = wire.Refusal(run_id=run_id, site=self.name, reason=reason)
        return wire.encode(reply)

    def _answer(self, message: wire.Message) -> wire.Message:
        if isinstance(message, wire.JobOffer):
            return self._consider(message)
        if isinstance(message, wire.TrainRequest):
            return self._begin(message)
        if isinstance(message, wire.WindowRequest | wire.SecureStage):
            return self._go_on(message)
        if isinstance(message, wire.Delivery):
            return self._receive(message)
        raise WireError(f"a site does not answer messages of kind {message.kind}")

    def _consider(self, offer: wire.JobOffer) -> wire.Message:
        """Check a job against policy, base, records and budget, and prepare for it."""
        if PERSONAL_MARK in offer.run_id:
            raise PolicyError(
                f"site {self.name}: a run's id holds {PERSONAL_MARK}, which is kept for the site's own runs"
            )
        job = read_job(self.name, self._policy, offer)
        check_bounds(self.name, job, offer, self._session.base.width)
        check_membership(self.name, self._policy, job, offer)
        if self._identity is not None and offer.ledger_head:
            self._identity.check_commitment(self.name, self._ledger, offer.ledger_head)
        roster_digest = ""
        if job.secure_aggregation.enabled:
            signed = self._member(offer, 0).directory.roster
            rank = signed_rank(self.name, self._policy, job, signed)
            # From here on the consortium's word counts, whatever the offer repeats of it.
            offer = offer.model_copy(update={"roster": plain_roster(signed, job.lora.rank)})
            roster_digest = signed.digest.hex()
        elif self._policy.allow_plain_updates:
            rank = plain_rank(self.name, job, offer.roster.ranks)
        else:
            raise PolicyError(f"site {self.name}: policy forbids jobs without secure aggregation")
        check_base(self.name, self._policy, job, offer, self._session.base.digest)
        shares = self._shares(job, offer)
        event = round_event(self.name, self._policy, job, offer, shares, self._ledger.costing)
        check_records(self.name, self._policy, job)
        self._session.check_task(job.task)
        terms = terms_of(offer, job, event, roster_digest, costing=self._ledger.costing)
        if self._asked_for(terms):
            return self._approval.waiting(offer.run_id)
        start = AdapterState.from_bytes(offer.payload)
        self._session.check_adapter(job, start)
        model = self._session.model(job)  # From here on the model of a job at work is another's.
        self._take_part(terms, event, job)
        self._forget()  # Not before: an offer that waits, or is refused, leaves the job at hand and its keys alone.
        self._accepted = AcceptedJob(
            run_id=offer.run_id,
            job=job,
            model=model,
            records=self._ready(job),
            start=start,
            weight=offer.roster.weights[self.name],
            noise_multiplier=offer.noise_multiplier,
            offer=offer.model_copy(update={"payload": b""}),
            rank=rank,
            shares=shares,
        )
        return wire.Acceptance(run_id=offer.run_id, site=self.name)

    def _ready(self, job: JobConfig) -> PreparedRecords:
        """The records, as far as they fit the job. The site's one look at them before it trains; it raises nothing."""
        return self._session.prepare_fitting(
            self._records.train,
            job,
            tell=lambda line: self._hooks.on_fault(f"site {self.name}: {line}"),
            progress=self._hooks.on_prefix,
        )

    def _take_part(self, terms: Terms, event: Event | None, job: JobConfig) -> None:
        """Have the ledger promise the rounds, and enter the job. Who gives it up meanwhile finds nothing held."""
        if event is not None:
            self._charging.approve(terms.run_id, event, job)
        try:
            self._approval.accepted(terms)
        except PolicyError:
            self._charging.give_back(terms.run_id)
            raise

    def _asked_for(self, terms: Terms) -> bool:
        """Whether the job waits for the operator. Runs that are refused or over hold none of the budget any longer."""
        for run_id in self._charging.open_runs():
            if self._approval.is_over(run_id):  # A kill, here or of a command, may have come before it was freed.
                self._charging.give_back(run_id)
        return self._approval.waits(terms)

    def _forget(self) -> None:
        """Give up the job at hand, with the keys of its window."""
        self._accepted = None
        self._secure.forget()

    def _shares(self, job: JobConfig, offer: wire.JobOffer) -> Shares | None:
        """The job's distributed noise, if that is its mode and the site agrees to it."""
        if job.privacy.noise != "distributed":
            return None
        check_sharing(self.name, self._policy, job, offer)
        return shares_of(job, AdapterState.from_bytes(offer.payload), offer.noise_multiplier, len(offer.roster.weights))

    def _member(self, offer: wire.JobOffer, number: int) -> Member:
        """This site as a party of one window, or of one round in it, as of now."""
        if self._identity is None:
            raise PolicyError(f"site {self.name} has no identity in the federation", remedy="enrol the site first")
        return self._identity.member(self.name, self._policy, offer, number)

    def _begin(self, request: wire.TrainRequest) -> wire.Message:
        """Train a round and answer with the update, masked where the job promises it."""
        accepted = self._job_of(request.run_id)
        if accepted is None:
            return self._unknown_job(request.run_id)
        this = round_of(self.name, accepted, request, self._session.speed.physical_batch_size)
        if accepted.job.secure_aggregation.enabled:
            return self._secure.train(this, request)
        self._charging.charge(this)
        update = self._trained(this)
        self._charging.mark_released(this)
        return wire.PlainUpdate(
            run_id=request.run_id, round_index=this.index, site=self.name, payload=update.to_bytes()
        )

    def _go_on(self, message: wire.WindowRequest | wire.SecureStage) -> wire.Message:
        """Answer a stage of secure aggregation other than the one that trains."""
        accepted = self._job_of(message.run_id)
        if accepted is None:
            return self._unknown_job(message.run_id)
        if isinstance(message, wire.SecureStage):
            return self._secure.answer(message)
        # A site that cannot pay for a round drops out before any other has masked for nothing.
        self._charging.check_rounds_left(accepted)
        return self._secure.open_window(accepted, message)

    def _receive(self, message: wire.Delivery) -> wire.Message:
        """Take a job's end, and its last adapter."""
        if self._deliveries is None:
            raise PolicyError(f"site {self.name} takes no adapters", remedy="enrol the site, and start its daemon anew")
        receipt = self._deliveries.receive(message)
        if self._accepted is not None and self._accepted.run_id == message.run_id:
            self._forget()
        return receipt

    def _unknown_job(self, run_id: str) -> wire.Refusal:
        reason = "this run's job is not known here; offer it again"
        return wire.Refusal(run_id=run_id, site=self.name, reason=reason, unknown_job=True)

    def _job_of(self, run_id: str) -> AcceptedJob | None:
        """The accepted job of a run, if it still stands."""
        accepted = self._accepted
        if accepted is None or accepted.run_id != run_id:
            return None
        self._approval.check_still(run_id)
        if not self._charging.holds(accepted):  # Given back, and wanted again: what an offer promises is missing.
            self._accepted = None
            return None
        # Another job may have taken the session meanwhile; what was prepared for this one is then of no use.
        if self._session.model(accepted.job) is not accepted.model:
            self._accepted = None
            return None
        return accepted

    def _trained(self, this: Round) -> AdapterState:
        """Train a round that is charged. The update may leave only after it is marked as released."""
        head, source = self._session.head(this.job.job), self._hooks.randomness(this.job.run_id, this.index)
        return paid(
            this, lambda: self._hooks.train(this, head, source, self._hooks.on_step), self._charging.mark_released
        ).update

    def _shared(self, this: Round, rotation_seed: bytes) -> np.ndarray:
        """The same where the noise is distributed: what the site enters into the secure sum, (size,) uint32."""
        head, source = self._session.head(this.job.job), self._hooks.randomness(this.job.run_id, this.index)
        return paid(
            this,
            lambda: self._hooks.share(this, head, source, self._hooks.on_step, rotation_seed=rotation_seed),
            self._charging.mark_released,
        ).residues
