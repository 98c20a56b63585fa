"""One site's side of a run: policy, then ledger, then training, then the reply. Bytes in, bytes out.

The same object answers a simulation directly and, behind the site's daemon, a deployment. Whatever goes wrong becomes
a Refusal whose reason holds no data; nothing that was computed leaves unless the ledger marked it as released first.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass

from yoriai import wire
from yoriai.client.lora import AdaptedModel
from yoriai.client.prepared import PreparedRecords
from yoriai.client.records import SiteRecords
from yoriai.client.train import LocalUpdate, TrainingPlan, train_round
from yoriai.client.workbench import PrefixProgress, Workbench
from yoriai.config import JobConfig, SiteConfig
from yoriai.errors import AdapterError, PolicyError, RecordError, WireError, YoriaiError
from yoriai.privacy.accounting import SampledGaussian
from yoriai.privacy.ledger import Ledger
from yoriai.privacy.randomness import RandomSource, SystemSource
from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.rule import get_rule


@dataclass(frozen=True)
class SiteHooks:
    """What a simulation or a test may put in from outside; a deployed site takes the defaults.

    Attributes:
        randomness: source for one round, by run id and round index.
        on_prefix: progress of the prefix, in records.
        on_step: called after each local step.
    """

    randomness: Callable[[str, int], RandomSource] = lambda _run, _round: SystemSource()
    on_prefix: PrefixProgress | None = None
    on_step: Callable[[int], None] | None = None


@dataclass(frozen=True)
class _AcceptedJob:
    run_id: str
    job: JobConfig
    model: AdaptedModel
    records: PreparedRecords
    start: AdapterState
    weight: int
    noise_multiplier: float | None


class Site:
    """A site with its policy, records and ledger.

    Args:
        config: name and policy.
        records: only the training records are used here.
        workbench: base model and what is built on it.
        ledger: of this data set; None only where the policy allows jobs without privacy and nothing else is asked.
        hooks: see SiteHooks.
    """

    def __init__(
        self,
        config: SiteConfig,
        records: SiteRecords,
        *,
        workbench: Workbench,
        ledger: Ledger,
        hooks: SiteHooks | None = None,
    ) -> None:
        self.name = config.name
        self._policy, self._records = config.policy, records
        self._workbench, self._ledger = workbench, ledger
        self._hooks = hooks or SiteHooks()
        self._accepted: _AcceptedJob | None = None

    def handle(self, data: bytes) -> bytes:
        """Answer one message. Never raises on what another party sent, and never lets text of a record out."""
        run_id = ""
        try:
            message = wire.decode(data)
            run_id = message.run_id
            reply = self._answer(message)
        except YoriaiError as error:
            reply = wire.Refusal(run_id=run_id, site=self.name, reason=str(error))
        except Exception as error:  # The type alone: an unexpected message might quote a record.
            reply = wire.Refusal(run_id=run_id, site=self.name, reason=f"internal error: {type(error).__name__}")
        return wire.encode(reply)

    def _answer(self, message: wire.Message) -> wire.Message:
        if isinstance(message, wire.JobOffer):
            return self._consider(message)
        if isinstance(message, wire.TrainRequest):
            return self._train(message)
        raise WireError(f"a site does not answer messages of kind {message.kind}")

    def _consider(self, offer: wire.JobOffer) -> wire.Message:
        """Check a job against policy, base, records and budget, and prepare for it."""
        self._accepted = None
        job = JobConfig.model_validate_json(
            json.dumps(offer.job)
        )  # Strict models take a list for a tuple from JSON only.
        self._check_policy(job, offer)
        model = self._workbench.model(job)
        start = AdapterState.from_bytes(offer.payload)
        if set(start.tensors) != set(model.factor_parameters()):
            raise AdapterError("the job's adapter does not fit its own rule and lora settings")
        self._check_budget(job, offer)
        self._accepted = _AcceptedJob(
            run_id=offer.run_id,
            job=job,
            model=model,
            records=self._workbench.prepare(self._records.train, job, progress=self._hooks.on_prefix),
            start=start,
            weight=offer.roster.weights[self.name],
            noise_multiplier=offer.noise_multiplier,
        )
        return wire.Acceptance(run_id=offer.run_id, site=self.name)

    def _check_policy(self, job: JobConfig, offer: wire.JobOffer) -> None:
        policy, weights = self._policy, offer.roster.weights
        if self.name not in weights:
            raise PolicyError(f"site {self.name} is not in the roster", remedy="ask for a roster that names it")
        if job.federation.min_sites < policy.min_sites or len(weights) < policy.min_sites:
            raise PolicyError(
                f"site {self.name}: too few sites take part",
                found=f"{len(weights)} in the roster, {job.federation.min_sites} needed by the job",
                expected=f"at least {policy.min_sites} (policy.min_sites)",
            )
        if policy.base_digests and offer.base_digest not in policy.base_digests:
            raise PolicyError(f"site {self.name}: the base model is not one of policy.base_digests")
        if offer.base_digest != self._workbench.base.digest:
            raise PolicyError(
                f"site {self.name} has another base model",
                found=f"digest {self._workbench.base.digest[:16]}…",
                expected=f"{offer.base_digest[:16]}…",
                remedy="load the base that the job names",
            )
        private = job.privacy.noise != "none"
        if not private and not policy.allow_no_privacy:
            raise PolicyError(f"site {self.name}: policy forbids jobs without differential privacy")
        if private and offer.noise_multiplier is None:
            raise PolicyError(f"site {self.name}: the job promises noise, and its offer holds none")

    def _check_budget(self, job: JobConfig, offer: wire.JobOffer) -> None:
        """Have the ledger promise the rounds.

        Delta must be below one over the records: above it, one record may be published whole.
        """
        if offer.noise_multiplier is None:
            return
        if not self._records.train:
            raise RecordError(f"site {self.name} has no training records")
        if job.privacy.delta >= 1 / len(self._records.train):
            raise PolicyError(
                f"site {self.name}: privacy.delta is not below 1 / (records of this site)",
                found=f"{job.privacy.delta:g}",
                remedy="lower privacy.delta",
            )
        if job.privacy.delta > self._policy.delta:
            raise PolicyError(
                f"site {self.name}: privacy.delta is above the site's own",
                found=f"{job.privacy.delta:g}",
                expected=f"at most {self._policy.delta:g} (policy.delta)",
            )
        event = SampledGaussian(job.training.sampling_rate, offer.noise_multiplier, job.training.local_steps)
        self._ledger.approve(offer.run_id, event, job.federation.rounds + job.privacy.spare_rounds)

    def _train(self, request: wire.TrainRequest) -> wire.Message:
        accepted = self._accepted
        if accepted is None or accepted.run_id != request.run_id:
            return wire.Refusal(
                run_id=request.run_id,
                site=self.name,
                reason="this run's job is not known here; offer it again",
                unknown_job=True,
            )
        start = accepted.start.merged_with(AdapterState.from_bytes(request.payload))
        if start.digest() != request.adapter_digest:
            raise AdapterError("the adapter of this round is not the one that its digest names")
        plan = training_plan(
            accepted.job,
            request.round_index,
            weight=accepted.weight,
            noise_multiplier=accepted.noise_multiplier,
            physical_batch_size=self._workbench.speed.physical_batch_size,
        )
        event = plan.event()
        if event is not None:
            self._ledger.reserve(request.run_id, request.round_index, event)
        trained = self._run(accepted, start, plan, request)
        if event is not None:
            self._ledger.mark_released(request.run_id, request.round_index)
        return wire.PlainUpdate(
            run_id=request.run_id,
            round_index=request.round_index,
            site=self.name,
            payload=trained.update.to_bytes(),
        )

    def _run(
        self, accepted: _AcceptedJob, start: AdapterState, plan: TrainingPlan, request: wire.TrainRequest
    ) -> LocalUpdate:
        return train_round(
            accepted.model,
            start,
            accepted.records,
            self._workbench.head(accepted.job),
            plan,
            source=self._hooks.randomness(request.run_id, request.round_index),
            progress=self._hooks.on_step,
        )


def training_plan(
    job: JobConfig, round_index: int, *, weight: int, noise_multiplier: float | None, physical_batch_size: int
) -> TrainingPlan:
    """One round's plan at a site of this weight; a pure function of job and roster."""
    training = job.training
    return TrainingPlan(
        factors=get_rule(job.federation.rule).trainable(round_index),
        local_steps=training.local_steps,
        sampling_rate=training.sampling_rate,
        divisor=training.sampling_rate * weight * training.records_per_weight,
        optimizer=training.optimizer,
        learning_rate=training.learning_rate,
        clip_norm=job.privacy.clip_norm,
        noise_multiplier=noise_multiplier,
        physical_batch_size=physical_batch_size,
    )
