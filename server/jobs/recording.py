"""What happens at a server, written into its log as it happens; at a job's end its last adapter becomes a version.

A log that cannot be written stops no job: the fault goes to the job's own events, and what was missed is made up for
when the job is taken in, at its end or when versions are listed next. Only refusals that nobody noted stay missing.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from sqlite3 import Connection

from yoriai.errors import YoriaiError
from yoriai.privacy.identity.coordinator_identity import certified_federation
from yoriai.privacy.identity.signing_key import SigningKey, read_key
from yoriai.privacy.identity.trust_folder import read_trust_file
from yoriai.privacy.statements.version_statement import sign_version
from yoriai.server.folder.server_folder import ServerFolder
from yoriai.server.jobs.job_store import JobStore, StoredJob
from yoriai.server.round.manifest import summary_of
from yoriai.server.versions import catalogue
from yoriai.server.versions.database import opened, step, writing
from yoriai.server.versions.facts import last_of, sites_of, statement_of
from yoriai.server.versions.log import append, append_once
from yoriai.system.log import EventLog
from yoriai.system.users import operator_name

_OVER = ("finished", "ended")


@dataclass(frozen=True)
class Records:
    """A server's database of versions, channels and log, and the key that signs what comes into it."""

    folder: ServerFolder
    db: Connection
    key: SigningKey

    @property
    def federation(self) -> str:
        """Whose coordinator this is, by the certificate that is installed, expired or not."""
        return certified_federation(read_trust_file("coordinator", self.folder.trusted.certificate))


@contextmanager
def records_of(folder: ServerFolder) -> Iterator[Records]:
    """The records of a server, for this block.

    Raises:
        StorageError: they cannot be read or written.
        IdentityError: the coordinator's key cannot be read.
    """
    with opened(folder.versions) as db:
        yield Records(folder, db, read_key(folder.coordinator_key))


def note_submitted(folder: ServerFolder, job: StoredJob, *, by: str) -> None:
    """Note that a job came into the queue, and by whom.

    Raises:
        StorageError: it cannot be written.
    """
    with records_of(folder) as records, writing(records.db):
        append_once(records.db, records.key, "submitted", run=job.run_id, by=by)


def may_connect(folder: ServerFolder, now: datetime) -> set[str]:
    """The members that may connect now, by name; none before the first roster."""
    try:
        return set(folder.node_keys(now))
    except (YoriaiError, OSError):
        return set()


def note_members(folder: ServerFolder, before: Collection[str], now: datetime) -> None:
    """Note which members may connect that could not before the consortium's files were installed, and the reverse.

    Args:
        before: the names of those who could.

    Raises:
        StorageError: it cannot be written.
        IdentityError: the installed files do not hold.
    """
    after, barred = folder.node_keys(now).keys(), folder.barred(now)
    roster = folder.signed_roster(now).directory.roster.serial
    with records_of(folder) as records, writing(records.db):
        for site in sorted(after - set(before)):
            append(records.db, records.key, "enrolled", site=site, roster=roster, by=operator_name())
        for site in sorted(set(before) - after):
            why = barred.get(site, "it is not in the roster")
            append(records.db, records.key, "revoked", site=site, roster=roster, reason=why, by=operator_name())


class JobRecorder:
    """Writes a running job's rows, each once however often the job is begun again.

    Args:
        folder: of the server.
        job: the job.
        log: of the job, which is told what could not be written.
    """

    def __init__(self, folder: ServerFolder, job: StoredJob, log: EventLog) -> None:
        self._folder, self._job, self._log = folder, job, log
        self._told: set[tuple[str, str]] = set()

    def offered(self, accepted: Collection[str], declined: Mapping[str, str]) -> None:
        """Who has taken the job so far, and who said no, and why."""
        self._write("approved", dict.fromkeys(accepted, ""))
        self._write("refused", declined)

    def round_done(self, answered: Collection[str]) -> None:
        """Whose updates are in a round's sum."""
        self._write("joined", dict.fromkeys(answered, ""))

    def over(self) -> None:
        """The job is over: its last adapter becomes a version."""
        with self._forgiven(), records_of(self._folder) as records:
            take_in(records, self._job)

    def _write(self, event: str, sites: Mapping[str, str]) -> None:
        new = {site: why for site, why in sorted(sites.items()) if (event, site) not in self._told}
        if not new:
            return
        with self._forgiven(), records_of(self._folder) as records, writing(records.db):
            for site, why in new.items():
                append_once(records.db, records.key, event, run=self._job.run_id, site=site, reason=why or None)
        self._told |= {(event, site) for site in new}

    @contextmanager
    def _forgiven(self) -> Iterator[None]:
        try:
            yield
        except YoriaiError as error:
            self._log.event("not_recorded", error=str(error))


def take_in(records: Records, job: StoredJob) -> bool:
    """Make the last adapter of a job that is over a version; whether it became one now.

    Raises:
        CheckpointError: what the job stored is damaged.
        StorageError: it cannot be written.
    """
    state = job.state()
    if state.phase not in _OVER or not summary_of(job.folder).rounds:
        return False
    checkpoint = last_of(job.folder)
    if checkpoint is None:
        return False
    statement = statement_of(
        job.prepared(), checkpoint, federation=records.federation, ended=datetime.fromtimestamp(state.since, UTC)
    )
    sites, db, key, run = sites_of(checkpoint), records.db, records.key, job.run_id
    with writing(db):
        is_new = catalogue.add(db, run, statement.adapter_digest, sign_version(key, statement), sites)
        step("version added")
        append_once(db, key, "submitted", run=run)
        for site in sites:
            append_once(db, key, "joined", run=run, site=site)
        if is_new:
            append(db, key, "finished", run=run, adapter=statement.adapter_digest, rounds=statement.rounds)
        for site in sorted(site for site, digest in checkpoint.delivered.items() if digest):
            append_once(db, key, "delivered", run=run, site=site, adapter=statement.adapter_digest)
    return is_new


def take_in_all(records: Records) -> dict[str, str]:
    """Take in every job that is over and is no version yet, such as those of before there were any.

    Returns:
        By run, why a job could not be taken in.

    Raises:
        StorageError: the records cannot be written.
    """
    faults: dict[str, str] = {}
    known = catalogue.known_runs(records.db)
    for job in JobStore(records.folder.jobs).but(known):
        try:
            take_in(records, job)
        except YoriaiError as error:
            faults[job.run_id] = str(error)
    return faults
