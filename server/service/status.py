"""What `server status`, `job status` and the metrics show: plain values, read from the server's files."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from yoriai.errors import RoundError, YoriaiError
from yoriai.server.flower.flower_control import FlowerControl
from yoriai.server.flower.nodes import NodeBook
from yoriai.server.folder.server_folder import ServerFolder
from yoriai.server.round.manifest import summary_of
from yoriai.server.service.job_store import JobStore, StoredJob
from yoriai.server.service.progress import read_progress


def job_view(job: StoredJob) -> dict[str, Any]:
    """One job, as `job status --json` prints it.

    Raises:
        CheckpointError: its stored state is damaged.
    """
    state, progress = job.state(), read_progress(job.progress_file)
    done = summary_of(job.folder)
    return {
        "run": job.run_id,
        "phase": state.phase,
        "since": state.since,
        "starts": state.starts,
        "error": state.error,
        "ending": state.ending,
        "ended_early": done.ended_early,
        "flower_run": state.flower_run,
        "rounds": job.prepared().job.federation.rounds,
        "rounds_done": done.rounds,
        "adapter": done.adapter_digest,
        "delivered": list(done.delivered),
        "told": list(done.told),
        "progress": progress.model_dump(exclude={"schema_"}),
    }


def server_view(folder: ServerFolder, *, is_kept: bool) -> dict[str, Any]:
    """The whole server, as `server status --json` prints it.

    Args:
        is_kept: whether a keeper runs.
    """
    store = JobStore(folder.jobs)
    live = store.live()
    shown = next(iter(live), None) or _last_at_work(store)
    return {
        "running": is_kept,
        "sites": _sites(folder),
        "job": job_view(shown) if shown else None,
        "queue": [job.run_id for job in live[1:]],
    }


def _last_at_work(store: JobStore) -> StoredJob | None:
    """The job that came to rest last, which need not be the one that was submitted last."""
    states = store.states()
    return max(states, key=lambda job: states[job].since, default=None)


def _sites(folder: ServerFolder) -> Mapping[str, str]:
    """Members by name: online, offline, not registered, barred and why, or unknown while Flower does not answer."""
    nodes = NodeBook.of(folder.flower_home).nodes()
    now = datetime.now(UTC)
    try:
        members, barred = folder.node_keys(now), folder.barred(now)
    except YoriaiError:
        members, barred = {}, {}
    try:
        online = FlowerControl(folder.flower_home).online()
        seen = {site: "online" if online.get(node.node_id) else "offline" for site, node in nodes.items()}
        found = dict.fromkeys(members, "not registered") | seen
    except RoundError:
        found = dict.fromkeys({*nodes, *members}, "unknown")
    found |= {site: "barred: no member any more" for site, node in nodes.items() if members and not node.is_wanted}
    found |= {site: f"barred: {reason}" for site, reason in barred.items()}
    return dict(sorted(found.items()))
