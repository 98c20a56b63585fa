"""One process's work on one job of the server: the coordinator, its log, and what becomes of the job.

It goes on from the last stored round, whichever of Flower's runs stored it. Whatever ends it leaves a state from which
the server knows what to do: begin again after a crash, wait after a round with too few sites, stop after an error that
only a person can mend.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

from yoriai.errors import AwayError, IdentityError, RoundError, StorageError, YoriaiError
from yoriai.privacy.identity.roster import Directory, Roster, read_roster
from yoriai.privacy.job_terms.plain_roster import plain_roster
from yoriai.server.channels.channel_post import ChannelPost
from yoriai.server.folder.server_folder import ServerFolder
from yoriai.server.jobs.job_store import StoredJob
from yoriai.server.jobs.progress import WatchedTransport
from yoriai.server.jobs.recording import JobRecorder
from yoriai.server.round.coordinator import Coordinator
from yoriai.server.round.manifest import summary_of
from yoriai.server.round.messenger import Transport
from yoriai.server.round.metric_lines import encoded, lines_of
from yoriai.server.round.registry import Checkpoint, Registry
from yoriai.server.round.rosters import SignedRoster
from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.rule import rule_of
from yoriai.system.files import PRIVATE, write_atomically
from yoriai.system.log import EventLog, LogFile

# A coordinator that lost its SuperLink needs this long at most to notice.
_OTHER_ENDS_S = 90.0
_CANCEL_POLL_S = 1.0

Connect = Callable[[threading.Event, Callable[[str, str, str], None]], Transport]
"""Opens the transport; given what stops every wait, and what is told of a reply that failed: site, stage, reason."""


def run_job(folder: ServerFolder, job: StoredJob, connect: Connect) -> None:
    """Coordinate a job to its end, or as far as it goes.

    Raises:
        YoriaiError: why it did not end; the job's state says so too.
    """
    with job.coordinated(_OTHER_ENDS_S):
        log = EventLog(LogFile(job.log_file), as_json=True)
        state = job.change(phase="running", only_from=("starting", "running"))
        if state.phase != "running":
            log.event("not_run", phase=state.phase)
            return
        stop = threading.Event()
        with _cancelled_by(job, stop):
            try:
                ended = _coordinate(folder, job, log, connect=connect, stop=stop)
            except AwayError as error:
                _give_up(job, log, str(error), again=True, is_fruitless=False)
                raise
            except (RoundError, IdentityError) as error:
                _give_up(job, log, str(error), again=True)
                raise
            except YoriaiError as error:
                _give_up(job, log, str(error), again=False)
                raise
            except Exception as error:  # What a site sent may be at the bottom of it, so its text is not logged.
                _give_up(job, log, type(error).__name__, again=True)
                raise
        early = ended.ended_early
        job.change(phase="ended" if early else "finished", error="", fruitless=0, ending=False)
        if early:
            log.event("ended", rounds=ended.next_round, reason=early)
        else:
            log.event("finished")
        JobRecorder(folder, job, log).over()


def _coordinate(
    folder: ServerFolder, job: StoredJob, log: EventLog, *, connect: Connect, stop: threading.Event
) -> Checkpoint:
    prepared = job.prepared()
    config = prepared.job
    signed = _signed_roster(folder, job, datetime.now(UTC))
    roster = plain_roster(signed.directory.roster, config.lora.rank)
    grid = connect(stop, lambda site, stage, why: log.event("failed", site=site, stage=stage, reason=why))
    transport = WatchedTransport(
        grid,
        log,
        job.progress_file,
        rounds=config.federation.rounds,
    )
    coordinator = Coordinator(
        config,
        roster,
        base_digest=prepared.base_digest,
        noise_multiplier=prepared.noise_multiplier,
        rule=rule_of(config),
        transport=transport,
        registry=Registry(job.folder),
        run_id=job.run_id,
        signed_roster=signed,
        signing=folder.signing(datetime.now(UTC)),
    )
    done = summary_of(job.folder).rounds
    for site, reason in sorted(folder.barred(datetime.now(UTC)).items()):
        log.event("barred", site=site, reason=reason)
    log.event("started", rounds_done=done, rounds=config.federation.rounds, sites=len(roster.weights))
    transport.begin_round(done + 1)

    recorder, post = JobRecorder(folder, job, log), ChannelPost(folder, log)
    post.bring(grid)

    def on_offer(absent: Mapping[str, str]) -> None:
        transport.note_absent(absent)
        there = coordinator.attendance
        recorder.offered(there.accepted, {site: absent[site] for site in there.declined if site in absent})

    def on_round(checkpoint: Checkpoint) -> None:
        _log_round(log, checkpoint)
        _write_metrics(job, checkpoint)
        recorder.round_done(checkpoint.rounds[-1].answered)
        job.change(fruitless=0, error="")
        transport.note_absent(dict(checkpoint.rounds[-1].refused))
        post.bring(grid)
        transport.begin_round(checkpoint.next_round + 1)

    ended = coordinator.run(
        AdapterState.from_bytes(prepared.adapter),
        on_round=on_round,
        on_offer=on_offer,
        on_void=lambda error: log.event("void", reason=str(error)),
        on_delivery=lambda missing: _log_missing(log, missing),
        end_asked=lambda: job.state().ending,
    )
    for site, digest in sorted(ended.delivered.items()):
        if digest:
            log.event("delivered", site=site, adapter=digest)
        else:
            log.event("told", site=site)
    return ended


def _signed_roster(folder: ServerFolder, job: StoredJob, now: datetime) -> SignedRoster:
    """The newest roster that has the job's members, weights and ranks; else the one that it was submitted with.

    Rosters expire, and a site that has seen a newer one refuses an older. An approval, and the noise, hang on who takes
    part and with what weight; every start opens new windows of keys anyway. Revocations of today count.
    """
    trust = folder.trusted.trust(now)
    data = job.roster_file.read_bytes()
    newest = folder.signed_roster(now)
    submitted = read_roster(data, trust, may_be_expired=True)
    if newest.file != data and _terms(newest.directory.roster) == _terms(submitted):
        return newest
    return SignedRoster(data, Directory(read_roster(data, trust), trust))


def _terms(roster: Roster) -> dict[str, tuple[int, int | None]]:
    """Weight and rank by member."""
    return {entry.name: (entry.weight, entry.rank) for entry in roster.sites}


def _give_up(job: StoredJob, log: EventLog, error: str, *, again: bool, is_fruitless: bool = True) -> None:
    """Leave the state in which the job now stands: cancelled, to be begun again, or for a person to look at."""
    if job.change(phase="cancelled", only_from=("cancelling",), error="").phase == "cancelled":
        log.event("cancelled")
        return
    if again:
        again = job.begin_again(error, only_from=("running",), is_fruitless=is_fruitless).phase == "queued"
    else:
        job.change(phase="failed", only_from=("running",), error=error)
    if again:
        log.event("paused", error=error)
    else:
        log.event("given_up", error=error)


def _log_round(log: EventLog, checkpoint: Checkpoint) -> None:
    record = checkpoint.rounds[-1]
    log.event(
        "round",
        round=checkpoint.next_round,
        answered=",".join(record.answered),
        missing=",".join(site for site, _ in record.refused) or None,
        seconds=round(record.seconds, 3),
        bytes_up=sum(record.bytes_up.values()),
        bytes_down=sum(record.bytes_down.values()),
        void=len(record.voided) or None,
        adapter=record.adapter_digest,
    )


def _write_metrics(job: StoredJob, checkpoint: Checkpoint) -> None:
    """Write the figures of all rounds so far. That it cannot be done stops no job."""
    with suppress(StorageError):
        write_atomically(job.metrics_file, encoded(lines_of(job.run_id, checkpoint.rounds)), mode=PRIVATE)


def _log_missing(log: EventLog, missing: Mapping[str, str]) -> None:
    for site, reason in sorted(missing.items()):
        log.event("not_delivered", site=site, reason=reason)


@contextmanager
def _cancelled_by(job: StoredJob, stop: threading.Event) -> Iterator[None]:
    """Set `stop` when somebody cancels the job meanwhile."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_CANCEL_POLL_S):
            if job.state().phase == "cancelling":
                stop.set()
                return

    watcher = threading.Thread(target=watch, name="cancel", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
