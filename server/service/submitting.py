"""Takes a job into the server's queue, after everything was checked that the server alone can check."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from yoriai.errors import ConfigError, YoriaiError
from yoriai.prepared_job import PreparedJob
from yoriai.privacy.job_terms.plain_roster import plain_roster
from yoriai.server.folder.server_folder import ServerFolder
from yoriai.server.round.rosters import check_roster
from yoriai.server.service.job_store import JobStore, StoredJob
from yoriai.server.service.recording import note_submitted
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
    complete = replace(prepared, noise_multiplier=noise_of(prepared, len(roster.weights)))
    stored = JobStore(folder.jobs).submit(complete, signed.file)
    with suppress(YoriaiError):  # The job is in the queue; what its end finds missing in the log is made up for then.
        note_submitted(folder, stored, by=operator_name())
    return stored
