"""The server's metrics: rounds, seconds and bytes a stage, refusals, and which sites are connected."""

from collections.abc import Iterator

from yoriai.errors import YoriaiError
from yoriai.server.folder.server_folder import ServerFolder
from yoriai.server.jobs.job_store import JobStore, StoredJob
from yoriai.server.jobs.progress import Progress, read_progress
from yoriai.server.round.manifest import summary_of
from yoriai.system.metrics import Reading

_PHASES = ("queued", "starting", "running", "cancelling", "finished", "ended", "failed", "cancelled")
_RUN = ("run",)


def readings(folder: ServerFolder) -> Iterator[Reading]:
    """All metrics of a server as they stand; a job whose files cannot be read is left out."""
    stored = JobStore(folder.jobs).states()
    states = {job.run_id: state for job, state in stored.items()}
    jobs = {job.run_id: (job, read_progress(job.progress_file)) for job in stored}
    stages = {run: progress.stages for run, (_, progress) in jobs.items()}
    yield Reading(
        "job_phase",
        "1 for the phase that a job is in.",
        "gauge",
        {(run, phase): float(phase == state.phase) for run, state in states.items() for phase in _PHASES},
        ("run", "phase"),
    )
    yield Reading(
        "rounds",
        "Rounds of a job that are stored.",
        "counter",
        {(run,): float(_rounds_done(job)) for run, (job, _) in jobs.items()},
        _RUN,
    )
    yield Reading(
        "job_starts",
        "How often a job was given to Flower.",
        "counter",
        {(run,): float(state.starts) for run, state in states.items()},
        _RUN,
    )
    for name, meaning in (
        ("exchanges", "Exchanges with the sites."),
        ("seconds", "Seconds that exchanges with the sites took."),
        ("bytes_down", "Bytes of messages to the sites."),
        ("bytes_up", "Bytes of messages from the sites."),
        ("missing", "Replies that did not come."),
    ):
        values: dict[tuple[str, ...], float] = {
            (run, stage): float(getattr(count, name)) for run, by in stages.items() for stage, count in by.items()
        }
        yield Reading(f"stage_{name}", meaning, "counter", values, ("run", "stage"))
    yield Reading(
        "refusals",
        "Times that a site came to be absent, or to be absent for another reason.",
        "counter",
        {(run,): float(progress.refusals) for run, (_, progress) in jobs.items()},
        _RUN,
    )
    yield Reading(
        "site_connected",
        "1 for a site whose node was connected when a job at work last looked.",
        "gauge",
        {(run, site): 1.0 for run, (job, progress) in jobs.items() for site in _connected(job, progress)},
        ("run", "site"),
    )


def _rounds_done(job: StoredJob) -> int:
    try:
        return summary_of(job.folder).rounds
    except YoriaiError:
        return 0


def _connected(job: StoredJob, progress: Progress) -> list[str]:
    return progress.connected if job.coordinator() is not None else []
