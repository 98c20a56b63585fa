"""How much a job moves, from the messages themselves."""

from dataclasses import dataclass

from yoriai import wire
from yoriai.config import JobConfig
from yoriai.privacy.job_terms.noise import DistributedNoise, resolve_noise
from yoriai.privacy.secagg import FixedPoint
from yoriai.privacy.secagg.fixedpoint import packed_bytes
from yoriai.privacy.secagg.messages import HEADER_BYTES, SIGNATURE_BYTES
from yoriai.simulations.experiment.experiment import Experiment
from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.rule import CYCLE, largest_update, rule_of

# Of a masked update: its frame, the count of clipped values, the signature.
MASKED_OVERHEAD_BYTES = HEADER_BYTES + 8 + SIGNATURE_BYTES


@dataclass(frozen=True)
class Traffic:
    """Of one site.

    Attributes:
        bytes_offer: of the message that brings a site the job and the complete adapter, once.
        bytes_down, bytes_up: of one round's adapter to a site, and of the update from it, at most; the keys and shares
            of secure aggregation come on top.
        entries: values of an update on the wire, at most.
        word_bits: width of one masked value; None without secure aggregation.
    """

    bytes_offer: int
    bytes_down: int
    bytes_up: int
    entries: int
    word_bits: int | None


def traffic(experiment: Experiment, base_digest: str, adapter: AdapterState, noise: float | None) -> Traffic:
    """What each message of the job takes.

    Args:
        adapter: as large as the one before round 0; its values do not count.
        noise: the calibrated noise multiplier; None without privacy.
    """
    job, rule = experiment.job, rule_of(experiment.job)
    # Which factors move takes turns under some rules; the adapter of a request holds all that may have changed.
    moving = adapter.select(rule.moving)
    longest = max((adapter.select(rule.trainable(index)) for index in range(CYCLE)), key=lambda state: state.size_bytes)
    entries, word_bits = _words(experiment, largest_update(rule, adapter), noise)
    return Traffic(
        bytes_offer=len(wire.encode(_offer(experiment, base_digest, adapter, noise))),
        bytes_down=len(wire.encode(_request(job, moving))),
        bytes_up=len(wire.encode(_update(experiment, longest, entries, word_bits))),
        entries=entries,
        word_bits=word_bits,
    )


def _offer(experiment: Experiment, base_digest: str, adapter: AdapterState, noise: float | None) -> wire.JobOffer:
    return wire.JobOffer(
        run_id=_run_id(experiment.job),
        job=experiment.job.model_dump(mode="json", by_alias=True),
        roster=experiment.roster(),
        base_digest=base_digest,
        noise_multiplier=noise,
        payload=adapter.to_bytes(),
    )


def _request(job: JobConfig, moving: AdapterState) -> wire.TrainRequest:
    return wire.TrainRequest(
        run_id=_run_id(job),
        round_index=job.federation.rounds - 1,
        adapter_digest=moving.digest(),
        payload=moving.to_bytes(),
    )


def _words(experiment: Experiment, n_params: int, noise: float | None) -> tuple[int, int | None]:
    """Values of an update, and bits of each where it is masked."""
    job, weights = experiment.job, experiment.roster().weights
    resolved = resolve_noise(job, noise, n_params=n_params, sites=len(weights))
    if isinstance(resolved, DistributedNoise):
        return resolved.shares.size, resolved.shares.word_bits
    if not job.secure_aggregation.enabled:
        return n_params, None
    return n_params, FixedPoint(job.secure_aggregation.bits, 1.0).word_bits(sum(weights.values()))


def _update(experiment: Experiment, update: AdapterState, entries: int, word_bits: int | None) -> wire.Message:
    """A message of the size that an update has."""
    job = experiment.job
    names = {"run_id": _run_id(job), "site": max((site.name for site in experiment.sites), key=len)}
    last, slot = job.federation.rounds - 1, job.secure_aggregation.window - 1
    if word_bits is None:
        return wire.PlainUpdate(**names, round_index=last, payload=update.to_bytes())
    masked = bytes(MASKED_OVERHEAD_BYTES + packed_bytes(entries, word_bits))
    return wire.SecureReply(**names, window=last, slot=slot, stage="mask", payload=masked)


def _run_id(job: JobConfig) -> str:
    """As long as a run's own."""
    return f"{job.name}-{'0' * 12}"
