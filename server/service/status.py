"""What `server status`, `job status` and the metrics show: plain values, read from the server's files."""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from yoriai.errors import RoundError, YoriaiError
from yoriai.server.flower.flower_control import FlowerControl
from yoriai.server.flower.nodes import NodeBook
from yoriai.server.folder.server_folder import ServerFolder
from yoriai.server.round.manifest import RoundRecord, summary_of
from yoriai.server.service.job_store import LIVE, JobStore, StoredJob
from yoriai.server.service.progress import read_progress

_PACE_ROUNDS = 3


def job_view(job: StoredJob) -> dict[str, Any]:
    """One job, as `job status --json` prints it.

    Raises:
        CheckpointError: its stored state is damaged.
    """
    state, progress = job.state(), read_progress(job.progress_file)
    done, rounds = summary_of(job.folder), job.prepared().job.federation.rounds
    left = rounds - done.rounds if state.phase in LIVE and not state.ending else 0
    return {
        "run": job.run_id,
        "phase": state.phase,
        "since": state.since,
        "starts": state.starts,
        "error": state.error,
        "ending": state.ending,
        "ended_early": done.ended_early,
        "flower_run": state.flower_run,
        "rounds": rounds,
        "rounds_done": done.rounds,
        "rounds_left": left,
        "seconds_left": _seconds_left(done.records, left, time.time() - progress.updated),
        "took_part": [
            {
                "round": record.round_index + 1,
                "sites": list(record.answered),
                "without": dict(record.refused),
                "seconds": record.seconds,
            }
            for record in done.records
        ],
        "adapter": done.adapter_digest,
        "delivered": list(done.delivered),
        "told": list(done.told),
        "progress": progress.model_dump(exclude={"schema_"}),
    }


def _seconds_left(records: Sequence[RoundRecord], left: int, at_work_s: float) -> float | None:
    """What the rounds that are left take, the one at work among them, at the pace of the last ones; None before one.

    Args:
        at_work_s: since the coordinator was last heard of, which the round at work has had already.
    """
    if not left or not records:
        return None
    pace = [record.seconds for record in records[-_PACE_ROUNDS:]]
    return max(0.0, left * sum(pace) / len(pace) - max(0.0, at_work_s))


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
        "sites": _with_absences(_sites(folder), read_progress(shown.progress_file).absent if live and shown else {}),
        "job": job_view(shown) if shown else None,
        "queue": [job.run_id for job in live[1:]],
    }


def _with_absences(sites: Mapping[str, str], absent: Mapping[str, str]) -> Mapping[str, str]:
    """A site whose node is connected may be out of the job at work all the same, for a reason that is known."""
    return {
        site: f"{state}, but takes no part: {absent[site]}" if state == "online" and site in absent else state
        for site, state in sites.items()
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
