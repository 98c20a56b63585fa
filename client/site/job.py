"""A job as a site has accepted it, and one round of it: pure values, worked out from job, roster and request alone."""

from collections.abc import Callable
from dataclasses import dataclass

from yoriai import wire
from yoriai.client.model.factor_model import FactorModel
from yoriai.client.model.prepared import PreparedRecords
from yoriai.client.model.tasks import TaskHead
from yoriai.client.training.plan import TrainingPlan
from yoriai.config import JobConfig
from yoriai.errors import AdapterError, PolicyError
from yoriai.privacy.dp.events import Event
from yoriai.privacy.job_terms.noise import Noise
from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.learning_rate_schedule import schedule_factor
from yoriai.strategies.rule import rule_of


@dataclass(frozen=True)
class AcceptedJob:
    """A job that this site takes part in, and what was prepared for it.

    Attributes:
        start: the adapter of the offer, whose fixed factors hold for the whole job.
        weight: from the roster.
        noise: as the site itself resolved it.
        offer: what was accepted, without the adapter.
        rank: the directions that this site trains, by the roster; None for all of the job's.
    """

    run_id: str
    job: JobConfig
    model: FactorModel
    head: TaskHead
    records: PreparedRecords
    start: AdapterState
    weight: int
    noise: Noise
    offer: wire.JobOffer
    rank: int | None = None


@dataclass(frozen=True)
class Round:
    """A round that was asked for and may be trained: nothing of the records was looked at for it yet.

    Attributes:
        event: what it costs; None without privacy.
    """

    job: AcceptedJob
    index: int
    start: AdapterState
    plan: TrainingPlan
    event: Event | None


Read = Callable[[AdapterState | None, bytes], AdapterState]
"""See `started`."""


def started(before: AdapterState | None, payload: bytes) -> AdapterState:
    """The adapter that a message brings: whole, or the factors of `before` that it replaces.

    Raises:
        AdapterError: the bytes are none, or of other shapes.
    """
    found = AdapterState.from_bytes(payload)
    return found if before is None else before.merged_with(found)


def round_of(
    site: str, accepted: AcceptedJob, request: wire.TrainRequest, physical_batch_size: int, read: Read = started
) -> Round:
    """What a request asks for, checked against the job; reserves nothing yet.

    Args:
        read: as `started`, or what gives the same.

    Raises:
        AdapterError: the adapter is not the one of the digest, does not fit the model, or is none that the job's rule
            leads to.
        PolicyError: the job has no such round.
    """
    rule = rule_of(accepted.job)
    start = read(accepted.start, request.payload)
    if start.digest() != request.adapter_digest:
        raise AdapterError("the adapter of this round is not the one that its digest names")
    still = sorted(set(accepted.start.factors()) - set(rule.moving))
    if still and start.select(still) != accepted.start.select(still):
        raise AdapterError(
            f"the request changes factors that stand still under the rule {rule.name}",
            found=", ".join(still),
            expected=f"other values of {', '.join(rule.moving)} only",
        )
    if not 0 <= request.round_index < accepted.job.federation.rounds:
        raise PolicyError(
            f"site {site}: the job has no such round",
            found=f"round_index {request.round_index}",
            expected=f"0 to {accepted.job.federation.rounds - 1}",
        )
    plan = training_plan(
        accepted.job,
        request.round_index,
        weight=accepted.weight,
        noise=accepted.noise,
        physical_batch_size=physical_batch_size,
        rank=accepted.rank,
    )
    rule.verify(accepted.start, start)
    accepted.model.check(start)
    return Round(accepted, request.round_index, start, plan, plan.event())


def training_plan(
    job: JobConfig,
    round_index: int,
    *,
    weight: int,
    noise: Noise,
    physical_batch_size: int,
    rank: int | None = None,
) -> TrainingPlan:
    """One round's plan at a site of this weight and rank; a pure function of job and roster."""
    training = job.training
    return TrainingPlan(
        factors=rule_of(job).trainable(round_index),
        local_steps=training.local_steps,
        sampling_rate=training.sampling_rate,
        divisor=training.sampling_rate * weight * training.records_per_weight,
        optimizer=training.optimizer,
        learning_rate=training.learning_rate * schedule_factor(training.schedule, round_index, job.federation.rounds),
        clip_norm=job.privacy.clip_norm,
        noise=noise,
        physical_batch_size=physical_batch_size,
        rank=rank,
        proximal_mu=training.proximal_mu,
        lowpass=training.lowpass,
        update_norm_bound=job.federation.update_norm_bound,
    )
