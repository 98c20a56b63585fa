"""How the last adapter of a run was made, from what the run's folder and its job say; nothing is written here."""

from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from yoriai.config import JobConfig
from yoriai.errors import CheckpointError
from yoriai.prepared_job import PreparedJob
from yoriai.privacy.identity.signed_file import canonical_json
from yoriai.privacy.statements.version_statement import PrivacyFacts, SumFacts, VersionStatement
from yoriai.server.round.registry import Checkpoint, Registry
from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.rule import rule_of

_PACKAGES = ("yoriai", "cryptography", "flwr", "numpy", "safetensors")


def last_of(folder: Path) -> Checkpoint | None:
    """The last checkpoint of a run; None where no round was finished, for then there is no version.

    Raises:
        CheckpointError: it is damaged, or a file that it names is missing or altered.
    """
    checkpoint = Registry(folder).load()
    return checkpoint if checkpoint is not None and checkpoint.rounds else None


def sites_of(checkpoint: Checkpoint) -> tuple[str, ...]:
    """The sites that are in any round's sum, by name."""
    return tuple(sorted({site for record in checkpoint.rounds for site in record.answered}))


def statement_of(
    prepared: PreparedJob, checkpoint: Checkpoint, *, federation: str, ended: datetime
) -> VersionStatement:
    """What the coordinator states about the last adapter of a run that is over.

    Raises:
        CheckpointError: the run is of a version of Yoriai that did not note its base.
    """
    job, last = prepared.job, checkpoint.rounds[-1]
    if not checkpoint.base_digest:
        raise CheckpointError(
            f"run {checkpoint.run_id} is of a Yoriai that did not note its base", remedy="it cannot become a version"
        )
    noised, shared = job.privacy.noise != "none", job.privacy.noise == "distributed"
    return VersionStatement(
        federation=federation,
        adapter_digest=checkpoint.adapter.digest(),
        file_digest=sha256(checkpoint.adapter.to_bytes()).hexdigest(),
        parent=job.base.start or "",
        job=job.name,
        job_digest=checkpoint.job_digest,
        run_id=checkpoint.run_id,
        rounds=checkpoint.next_round,
        trained_by=job.trained_by,
        base_digest=checkpoint.base_digest,
        conditioning=conditioning_of(job, checkpoint.adapter),
        roster_digest=last.roster_digest,
        sites=len(sites_of(checkpoint)),
        privacy=PrivacyFacts(
            noise=job.privacy.noise,
            unit=job.privacy.unit,
            epsilon=job.privacy.epsilon if noised else None,
            delta=job.privacy.delta if noised else None,
            noise_multiplier=prepared.noise_multiplier if noised else None,
            colluding=job.privacy.colluding if shared else None,
        ),
        secure_sum=SumFacts(
            enabled=job.secure_aggregation.enabled,
            bits=job.secure_aggregation.bits if job.secure_aggregation.enabled else None,
            fewest_sites=min(len(record.answered) for record in checkpoint.rounds),
        ),
        software=_software(),
        ended=stamp(ended),
    )


def conditioning_of(job: JobConfig, adapter: AdapterState) -> str:
    """SHA-256 of what shaped the factors that no round trains: [public], texts by their digests, and those factors.

    The texts that come with Yoriai are told by its release. Empty where nothing is conditioned.
    """
    if not job.is_conditioned:
        return ""
    moving = rule_of(job).moving
    fixed = adapter.select(factor for factor in adapter.factors() if factor not in moving)
    public = job.public.model_dump(mode="json", exclude={"texts"})
    return sha256(canonical_json({"public": public, "factors": fixed.digest()})).hexdigest()


def stamp(when: datetime) -> str:
    """A time as statements have it: UTC, whole seconds."""
    return when.astimezone(UTC).replace(microsecond=0).isoformat()


def _software() -> dict[str, str]:
    """The releases of what this server works with; what is not installed is left out."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
