"""One site's side of a run: policy, then ledger, then training, then the reply. Bytes in, bytes out.

The same object answers a simulation directly and, behind the site's daemon, a deployment. Whatever goes wrong becomes
a Refusal whose reason holds no data; nothing that was computed leaves unless the ledger marked it as released first.

What an answer tells. Until the ledger has charged for a round, no answer depends on the records: a job is checked
against what the policy says of them, then shown to the operator, and only then is a record looked at; one that does not
fit is counted in the site's own log and trains nothing (`client/records/fitting.py`).
"""

import logging
import traceback

from yoriai import wire
from yoriai.client.model.prepared import PreparedRecords
from yoriai.client.offer.approval import Approval, terms_of
from yoriai.client.offer.charge_names import MARKS
from yoriai.client.offer.job_book import JobBook
from yoriai.client.offer.job_entry import Terms
from yoriai.client.offer.offer_bounds import check_bounds
from yoriai.client.offer.policy import (
    agreed_noise,
    check_base,
    check_membership,
    check_records,
    plain_rank,
    read_job,
    signed_rank,
)
from yoriai.client.records.records import SiteRecords
from yoriai.client.session.model_session import ModelSession
from yoriai.client.site.instructions import Instructions
from yoriai.client.site.job import AcceptedJob, round_of
from yoriai.client.site.round_trainer import RoundTrainer, SiteHooks
from yoriai.client.site.secure_round import SecureRounds
from yoriai.client.site_identity import SiteIdentity
from yoriai.client.training.train import LocalUpdate
from yoriai.client.versions.channel_inbox import ChannelInbox
from yoriai.client.versions.deliveries import Deliveries
from yoriai.config import JobConfig, SiteConfig
from yoriai.errors import (
    BudgetError,
    LedgerError,
    PolicyError,
    RecordError,
    StorageError,
    UsedUpError,
    WireError,
    YoriaiError,
)
from yoriai.privacy.dp.accounting import Event
from yoriai.privacy.job_terms.noise import round_event
from yoriai.privacy.job_terms.plain_roster import plain_roster
from yoriai.privacy.ledger.ledger import Ledger

_log = logging.getLogger("yoriai.site")


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
        channels: takes what the server's channels hold; None where nothing is kept.
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
        channels: ChannelInbox | None = None,
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
        self._approval = Approval(config.name, config.policy, book)
        self._instructions, self._deliveries = Instructions(config.name, identity), deliveries
        self._channels = channels
        self._hooks = hooks or SiteHooks()
        self._accepted: AcceptedJob | None = None
        self._trainer = RoundTrainer(config.name, ledger, self._hooks)
        self._secure = SecureRounds(config, identity, self._trainer)

    def handle(self, data: bytes) -> bytes:
        """Answer one message. Never raises on what another party sent, and never lets text of a record out."""
        run_id, message = "", None
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
            # A coordinator's screen bears a line; what a full ledger says is longer than that.
            reason = error.remedy_first() if isinstance(error, BudgetError) else str(error)
            if isinstance(message, wire.JobOffer):
                self._approval.declined(message, reason)
            reply = wire.Refusal(run_id=run_id, site=self.name, reason=reason, used_up=used_up)
        except Exception as error:  # The type alone: an unexpected message might quote a record.
            reason = f"internal error: {type(error).__name__}"
            place = traceback.extract_tb(error.__traceback__)[-1]
            self._hooks.on_fault(f"site {self.name}: {reason} at {place.filename}:{place.lineno}")
            reply = wire.Refusal(run_id=run_id, site=self.name, reason=reason)
        return wire.encode(reply)

    @property
    def accepted(self) -> AcceptedJob | None:
        """The job at hand; whoever plays several sites in one process may look at what each is to train."""
        return self._accepted

    def afterwards(self) -> None:
        """Judge versions that were asked about, unless a job is at hand, whose model would be lost."""
        if self._channels is not None and self._accepted is None:
            self._channels.work_off()

    def _answer(self, message: wire.Message) -> wire.Message:
        if isinstance(message, wire.JobOffer):
            return self._consider(message)
        if isinstance(message, wire.TrainRequest):
            return self._begin(message)
        if isinstance(message, wire.WindowRequest | wire.SecureStage):
            return self._go_on(message)
        if isinstance(message, wire.Delivery):
            return self._receive(message)
        if self._channels is not None and isinstance(message, wire.VersionFile):
            return self._channels.receive(message)
        if self._channels is not None and isinstance(message, wire.ChannelQuestion):
            return self._channels.answer(message)
        raise WireError(f"a site does not answer messages of kind {message.kind}")

    def _consider(self, offer: wire.JobOffer) -> wire.Message:
        """Check a job against policy, base, records and budget, and prepare for it."""
        if mark := next((mark for mark in MARKS if mark in offer.run_id), ""):
            raise PolicyError(f"site {self.name}: a run's id holds {mark}, which is kept for the site's own charges")
        job = read_job(self.name, self._policy, offer)
        check_bounds(self.name, job, offer, self._session.base.width)
        check_membership(self.name, self._policy, job, offer)
        if self._identity is not None and offer.ledger_head:
            self._identity.check_commitment(self.name, self._ledger, offer.ledger_head)
        roster_digest = ""
        if job.secure_aggregation.enabled:
            signed = self._secure.member(offer, 0).directory.roster
            rank = signed_rank(self.name, self._policy, job, signed)
            # From here on the consortium's word counts, whatever the offer repeats of it.
            offer = offer.model_copy(update={"roster": plain_roster(signed, job.lora.rank)})
            roster_digest = signed.digest.hex()
        elif self._policy.allow_plain_updates:
            rank = plain_rank(self.name, job, offer.roster.ranks)
        else:
            raise PolicyError(f"site {self.name}: policy forbids jobs without secure aggregation")
        check_base(self.name, self._policy, job, offer, self._session.base.digest)
        noise = agreed_noise(self.name, self._policy, job, offer, self._ledger.costing)
        event = round_event(job, noise)
        check_records(self.name, self._policy, job)
        self._session.check_task(job.task)
        terms = terms_of(offer, job, event, roster_digest, costing=self._ledger.costing)
        if self._asked_for(terms, offer.rounds_done):
            return self._approval.waiting(offer.run_id)
        start = self._hooks.read(None, offer.payload)
        self._session.check_adapter(job, start)
        model = self._session.model(job)  # From here on the model of a job at work is another's.
        head = self._session.head(job)  # Labels that the base cannot tell apart: refused before rounds are promised.
        self._take_part(terms, event, job)
        self._forget()  # Not before: an offer that waits, or is refused, leaves the job at hand and its keys alone.
        self._accepted = AcceptedJob(
            run_id=offer.run_id,
            job=job,
            model=model,
            head=head,
            records=self._ready(job),
            start=start,
            weight=offer.roster.weights[self.name],
            noise=noise,
            offer=offer.model_copy(update={"payload": b""}),
            rank=rank,
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
            self._trainer.promise(terms.run_id, event, job)
        try:
            self._approval.accepted(terms)
        except PolicyError:
            self._trainer.give_back(terms.run_id)
            raise

    def _asked_for(self, terms: Terms, rounds_done: int | None) -> bool:
        """Whether the job waits for the operator. Runs that are refused or over hold none of the budget any longer."""
        for run_id in self._trainer.open_runs():
            if self._approval.is_over(run_id):  # A kill, here or of a command, may have come before it was freed.
                self._trainer.give_back(run_id)
        return self._approval.waits(terms, rounds_done=rounds_done)

    def _forget(self) -> None:
        """Give up the job at hand, with the keys of its window."""
        self._accepted = None
        self._secure.forget()

    def _begin(self, request: wire.TrainRequest) -> wire.Message:
        """Train a round and answer with the update, masked where the job promises it."""
        accepted = self._job_of(request.run_id)
        if accepted is None:
            return self._unknown_job(request.run_id)
        this = round_of(self.name, accepted, request, self._session.speed.physical_batch_size, self._hooks.read)
        if accepted.job.secure_aggregation.enabled:
            return self._secure.train(this, request)
        self._trainer.charge(this)
        trained = self._trainer.train(this)
        self._trainer.mark_released(this)
        if not isinstance(trained, LocalUpdate):  # `check_fit` has no such job; a share of noise alone hides nothing.
            raise PolicyError(f"site {self.name}: a round whose noise is distributed leaves masked alone")
        return wire.PlainUpdate(
            run_id=request.run_id, round_index=this.index, site=self.name, payload=trained.update.to_bytes()
        )

    def _go_on(self, message: wire.WindowRequest | wire.SecureStage) -> wire.Message:
        """Answer a stage of secure aggregation other than the one that trains."""
        accepted = self._job_of(message.run_id)
        if accepted is None:
            return self._unknown_job(message.run_id)
        if isinstance(message, wire.SecureStage):
            return self._secure.answer(message)
        # A site that cannot pay for a round drops out before any other has masked for nothing.
        self._trainer.check_rounds_left(accepted)
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
        if not self._trainer.holds(accepted):  # Given back, and wanted again: what an offer promises is missing.
            self._accepted = None
            return None
        # Another job may have taken the session meanwhile; what was prepared for this one is then of no use.
        if self._session.model(accepted.job) is not accepted.model:
            self._accepted = None
            return None
        return accepted
