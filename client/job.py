"""A job as a site has accepted it, and one round of it: pure values, worked out from job, roster and request alone."""

from dataclasses import dataclass

from yoriai import wire
from yoriai.client.lora import AdaptedModel
from yoriai.client.prepared import PreparedRecords
from yoriai.client.train import TrainingPlan
from yoriai.config import JobConfig
from yoriai.errors import AdapterError, PolicyError
from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.rule import get_rule


@dataclass(frozen=True)
class AcceptedJob:
    """A job that this site takes part in, and what was prepared for it.

    Attributes:
        start: the adapter of the offer, whose fixed factors hold for the whole job.
        weight: from the roster.
        offer: what was accepted, without the adapter.
    """

    run_id: str
    job: JobConfig
    model: AdaptedModel
    records: PreparedRecords
    start: AdapterState
    weight: int
    noise_multiplier: float | None
    offer: wire.JobOffer


@dataclass(frozen=True)
class Round:
    """A round that was asked for and may be trained: nothing of the records was looked at for it yet."""

    job: AcceptedJob
    index: int
    start: AdapterState
    plan: TrainingPlan


def round_of(site: str, accepted: AcceptedJob, request: wire.TrainRequest, physical_batch_size: int) -> Round:
    """What a request asks for, checked against the job; reserves nothing yet.

    Raises:
        AdapterError: the adapter is not the one of the digest, or does not fit the model.
        PolicyError: the job has no such round.
    """
    start = accepted.start.merged_with(AdapterState.from_bytes(request.payload))
    if start.digest() != request.adapter_digest:
        raise AdapterError("the adapter of this round is not the one that its digest names")
    if not 0 <= request.round_index < accepted.job.federation.rounds:
        raise PolicyError(
            f"site {site}: the job has no such round",
            found=f"round_index {request.round_index}",
            expected=f"0 to {accepted.job.federation.rounds - 1}",
        )
    accepted.model.check(start)
    plan = training_plan(
        accepted.job,
        request.round_index,
        weight=accepted.weight,
        noise_multiplier=accepted.noise_multiplier,
        physical_batch_size=physical_batch_size,
    )
    return Round(accepted, request.round_index, start, plan)


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
