"""Channels of a server as its commands change them, and the room that past rounds take."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from yoriai import wire
from yoriai.config import JobConfig
from yoriai.errors import CheckpointError, ConfigError
from yoriai.prepared_job import PreparedJob
from yoriai.privacy.statements.version_statement import read_version
from yoriai.server.jobs.job_store import StoredJob
from yoriai.server.jobs.recording import Records
from yoriai.server.round.manifest import read_manifest
from yoriai.server.versions import catalogue, promoting
from yoriai.server.versions.catalogue import Standing, Version
from yoriai.server.versions.database import writing
from yoriai.server.versions.facts import last_of
from yoriai.server.versions.log import append
from yoriai.server.versions.metrics import Audit, Metrics
from yoriai.server.versions.promoting import Promoted, Signer
from yoriai.strategies.adapter import AdapterState
from yoriai.system.users import operator_name


def promote(
    records: Records, name: str, channel: str, metrics: Metrics | None, *, force_why: str, audit: Audit | None = None
) -> Promoted:
    """Put a version into a channel; its adapter is read, and its statement verified, before that.

    Args:
        audit: of its job's settings; kept with the metrics, those that were given earlier if there are no new ones.

    Raises:
        PolicyError: the gate of its job refuses it.
        ConfigError, CheckpointError: as `promoting.promote` and `content_of`.
    """
    version = catalogue.find(records.db, name)
    job, _ = content_of(records, version)
    if audit is not None:
        known = metrics or Metrics.model_validate(version.metrics or {"adapter_digest": version.digest})
        metrics = known.model_copy(update={"audit": audit})
    signer = _signer(records)
    return promoting.promote(
        records.db, name, channel, gate=job.gate, metrics=metrics, signer=signer, force_why=force_why
    )


def roll_back(records: Records, channel: str, why: str) -> Promoted:
    """Put back what the channel held before, as `promoting.roll_back`."""
    return promoting.roll_back(records.db, channel, why=why, signer=_signer(records))


def content_of(records: Records, version: Version) -> tuple[JobConfig, AdapterState]:
    """The job and the adapter of a version, which are seen to be those of its statement.

    Raises:
        CheckpointError: they are gone, damaged, or others.
        IdentityError: the server's key has not signed the statement.
    """
    read_version(version.signed, records.key.public_key)
    job = StoredJob(records.folder.jobs / version.run)
    prepared, checkpoint = _prepared(job), last_of(job.folder)
    if checkpoint is None or checkpoint.adapter.digest() != version.digest:
        raise CheckpointError(
            f"the adapter of {version.run} is not the one of its version", remedy="restore the job from its backup"
        )
    return prepared.job, checkpoint.adapter


def exported(records: Records, channel: str) -> tuple[Version, wire.VersionFile]:
    """What a channel holds, as the file that sites take, noted in the log.

    Raises:
        ConfigError: the channel holds nothing, or as `version_file`.
        IdentityError, CheckpointError: as `version_file`.
    """
    row = catalogue.standing(records.db, channel)
    if row is None:
        raise ConfigError(f"{channel} holds no version", remedy="yoriai server promote DIR VERSION")
    version, file = catalogue.version(records.db, row.version), version_file(records, row)
    said = {"by": operator_name(), "channel": channel, "adapter": version.digest}
    with writing(records.db):
        append(records.db, records.key, "exported", run=version.run, **said)
    return version, file


def version_file(records: Records, row: Standing) -> wire.VersionFile:
    """What stands in a channel, with all that a site needs to verify it.

    Raises:
        ConfigError: this server has not all that the version goes back to.
        IdentityError: the coordinator's certificate does not hold now.
        CheckpointError: as `content_of`.
    """
    _, certificate = records.folder.signing(datetime.now(UTC))
    version = catalogue.version(records.db, row.version)
    lineage = list(catalogue.lineage(records.db, version))
    if (lineage or [version])[-1].statement.parent:
        raise ConfigError(f"this server lacks a version that {version.run} goes back to", remedy="restore its backup")
    job, adapter = content_of(records, version)
    return wire.VersionFile(
        run_id=version.run,
        certificate=certificate.decode(),
        promotion=row.signed.decode(),
        statement=version.signed.decode(),
        lineage=[parent.signed.decode() for parent in lineage],
        job=job.model_dump(mode="json", by_alias=True),
        payload=adapter.to_bytes(),
    )


def past_rounds(records: Records) -> Iterator[Path]:
    """The files of adapters that are no version: of rounds before the last, in jobs that are over."""
    for run in sorted(catalogue.known_runs(records.db)):
        folder = records.folder.jobs / run
        manifest = read_manifest(folder)
        if manifest is None:
            continue
        kept = set(manifest.adapter.factors.values())
        yield from (path for path in sorted((folder / "adapters").glob("*.safetensors")) if path.stem not in kept)


def _prepared(job: StoredJob) -> PreparedJob:
    try:
        return job.prepared()
    except OSError as error:
        raise CheckpointError(
            f"the job of {job.run_id} cannot be read",
            found=error.strerror or type(error).__name__,
            remedy="restore it from its backup",
        ) from error


def _signer(records: Records) -> Signer:
    return Signer(records.key, records.federation, operator_name(), datetime.now(UTC))


def check_reason(force: bool, why: str) -> str:
    """The reason of a promotion by force; empty without force.

    Raises:
        ConfigError: force without a reason, or a reason without force.
    """
    if force != bool(why.strip()):
        raise ConfigError("--force and --why go together", remedy="say why it is to stand there although it fails")
    return why.strip()
