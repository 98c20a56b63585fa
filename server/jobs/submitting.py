"""Takes a job into the server's queue, after everything was checked that the server alone can check."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from yoriai.base_digest import difference
from yoriai.errors import ConfigError, YoriaiError
from yoriai.prepared_job import PreparedJob
from yoriai.privacy.job_terms.plain_roster import plain_roster
from yoriai.server.folder.server_folder import ServerFolder
from yoriai.server.jobs.job_store import JobStore, StoredJob
from yoriai.server.jobs.recording import note_submitted, records_of
from yoriai.server.round.rosters import check_roster
from yoriai.server.versions import catalogue
from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.fit import check_fit
from yoriai.system.users import operator_name


def submit(path: Path, prepared: PreparedJob, noise_of: Callable[[PreparedJob, int], float | None]) -> StoredJob:
    """Put a job into the queue of the server in this folder.

    Args:
        path: of the server.
        prepared: the job; what noise it has is worked out anew.
        noise_of: its noise multiplier among so many sites. The accountants need libraries that a server does not load.

    Raises:
        ConfigError: its settings do not go together, no noise reaches its epsilon, or the roster is too small for it.
        IdentityError: the server is not enrolled, or its roster has expired.
        StorageError: the folder cannot be written.
    """
    folder, job = ServerFolder(path), prepared.job
    folder.config()
    folder.check_user()
    now = datetime.now(UTC)
    folder.signing(now)
    signed = folder.signed_roster(now)
    roster = plain_roster(signed.directory.roster, job.lora.rank)
    check_fit(job)
    if len(roster.weights) < job.federation.min_sites:
        raise ConfigError(
            "the roster has too few sites for the job",
            found=str(len(roster.weights)),
            expected=f"at least {job.federation.min_sites} (federation.min_sites)",
            remedy="lower it, or have more sites signed",
        )
    check_roster(job, roster, signed)
    check_start(folder, prepared)
    complete = replace(prepared, noise_multiplier=noise_of(prepared, len(roster.weights)))
    stored = JobStore(folder.jobs).submit(complete, signed.file)
    with suppress(YoriaiError):  # The job is in the queue; what its end finds missing in the log is made up for then.
        note_submitted(folder, stored, by=operator_name())
    return stored


def check_start(folder: ServerFolder, prepared: PreparedJob) -> None:
    """See that a job which goes on from a version has that version's adapter, and that the version is this server's.

    Raises:
        ConfigError: otherwise.
        StorageError: the versions cannot be read.
    """
    start = prepared.job.base.start
    if start is None:
        return
    if AdapterState.from_bytes(prepared.adapter).digest() != start:
        raise ConfigError("the first adapter is not the one of base.start", remedy="prepare the job again, with --from")
    with records_of(folder) as records:
        parents = catalogue.with_digest(records.db, start)
    if not any(difference(prepared.base_digest, parent.statement.base_digest) is None for parent in parents):
        raise ConfigError(
            "the job goes on from what is no version of this server, or is one of another base",
            found=start[:16],
            remedy="yoriai server versions DIR lists them",
        )
