"""What of a server needs somebody: by the console, by webhook and by mail alike. Read from the server's files."""

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from yoriai.alarms.alarm import Alarm, disk_alarms, expiry_alarms
from yoriai.config.alarms import ServerAlarms
from yoriai.errors import RoundError, YoriaiError
from yoriai.privacy.identity.coordinator_identity import read_coordinator_certificate
from yoriai.privacy.identity.trust_folder import read_trust_file
from yoriai.server.channels.schedule import in_production
from yoriai.server.flower.flower_control import FlowerControl, Seen
from yoriai.server.folder.server_folder import ServerFolder
from yoriai.server.jobs.job_store import JobStore, StoredJob
from yoriai.server.jobs.recording import records_of
from yoriai.server.round.manifest import summary_of
from yoriai.server.service.keeper_lock import keeper_of
from yoriai.server.service.status import Member, members_of
from yoriai.server.versions.verdicts import checks_of, drift

LOOK_EVERY_S = 300.0
_HOUR_S = 3600.0
_LAST_ROUNDS = 5


def server_alarms(folder: ServerFolder, members: Mapping[str, Member], *, is_kept: bool) -> list[Alarm]:
    """All that needs somebody now.

    Args:
        members: as they are known.
        is_kept: whether a keeper runs.
    """
    settings, now, store = folder.config().alarms, time.time(), JobStore(folder.jobs)
    found = [] if is_kept else [Alarm("not_running", "server", "The server does not run.")]
    found += _silent(members, settings, now)
    for job, state in store.states().items():
        if state.phase == "failed":
            found.append(Alarm("job_failed", job.run_id, "Job {run} has failed.", {"run": job.run_id}))
    for job in store.live()[:1]:
        found += _void(job)
    found += expiry_alarms(papers_of(folder), settings, now)
    certificates = {name: member.expires for name, member in members.items() if member.expires is not None}
    found += expiry_alarms(certificates, settings, now, of_sites=True)
    return [*found, *_drift(folder), *disk_alarms(shutil.disk_usage(folder.path).free, settings)]


def look(folder: ServerFolder) -> list[Alarm]:
    """As `server_alarms`, with what Flower says of the nodes now: a process of Flower's each time."""
    seen: Mapping[int, Seen] | None = None
    try:
        seen = FlowerControl(folder.flower_home).seen()
    except RoundError:
        seen = None
    return server_alarms(folder, members_of(folder, seen), is_kept=keeper_of(folder.run) is not None)


def papers_of(folder: ServerFolder) -> dict[str, float]:
    """When the server's own papers expire, in seconds since the epoch, as far as they can be read."""
    now, trusted, found = datetime.now(UTC), folder.trusted, {}

    def coordinator() -> datetime:
        file = read_trust_file("coordinator", trusted.certificate)
        return read_coordinator_certificate(file, trusted.trust(now), now=now).expires

    readers: dict[str, Callable[[], datetime]] = {
        "the coordinator's certificate": coordinator,
        "the roster": lambda: folder.signed_roster(now).directory.roster.expires,
        "the revocation list": lambda: trusted.revocations_expire(now),
        "the TLS certificate": lambda: _tls_expires(folder.tls_certificate),
    }
    for paper, read in readers.items():
        with suppress(YoriaiError, OSError, ValueError):
            found[paper] = read().timestamp()
    return found


def _tls_expires(path: Path) -> datetime:
    return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc


def _silent(members: Mapping[str, Member], settings: ServerAlarms, now: float) -> Iterator[Alarm]:
    for site, member in members.items():
        if member.state == "offline" and member.since is not None:
            hours = (now - member.since) / _HOUR_S
            if hours >= settings.silent_hours:
                values = {"site": site, "hours": int(hours)}
                yield Alarm("site_silent", site, "{site} has not been connected for {hours} h.", values)


def _drift(folder: ServerFolder) -> Iterator[Alarm]:
    """That what stands in production has come to answer worse, by the counts that sites gave."""
    if not folder.versions.is_file():
        return
    with records_of(folder) as records:
        held = in_production(records)
        if held is not None and drift(checks_of(records.db, held[1].run, held[0].number)) is not None:
            run = held[1].run
            yield Alarm("drift", run, "{run}, in production, has come to answer worse at the sites.", {"run": run})


def _void(job: StoredJob) -> Iterable[Alarm]:
    """Rounds of late that were begun again with other keys."""
    try:
        records = summary_of(job.folder).records[-_LAST_ROUNDS:]
    except YoriaiError:
        return
    for record in records:
        if record.voided:
            number = record.round_index + 1
            values = {"run": job.run_id, "round": number, "times": len(record.voided)}
            text = "Round {round} of {run} was void {times} times before it counted."
            yield Alarm("round_void", f"{job.run_id} {number}", text, values)
