"""What `server status`, `job status` and the metrics show: plain values, read from the server's files."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from yoriai.errors import RoundError, YoriaiError
from yoriai.privacy.identity.enrolment import Enrolment
from yoriai.server.flower.flower_control import FlowerControl, Seen
from yoriai.server.flower.nodes import Node, NodeBook
from yoriai.server.folder.server_folder import ServerFolder
from yoriai.server.jobs.job_store import LIVE, JobStore, StoredJob
from yoriai.server.jobs.progress import read_progress
from yoriai.server.round.manifest import RoundRecord, summary_of

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
        "took_part": took_part(done.records),
        "adapter": done.adapter_digest,
        "delivered": list(done.delivered),
        "told": list(done.told),
        "progress": progress.model_dump(exclude={"schema_"}),
    }


def took_part(records: Sequence[RoundRecord]) -> list[dict[str, Any]]:
    """Who was in each round's sum, who was not and why, and how long it took: of a job, and of a simulation."""
    return [
        {
            "round": record.round_index + 1,
            "sites": list(record.answered),
            "without": dict(record.refused),
            "seconds": record.seconds,
        }
        for record in records
    ]


def _seconds_left(records: Sequence[RoundRecord], left: int, at_work_s: float) -> float | None:
    """What the rounds that are left take, the one at work among them, at the pace of the last ones; None before one.

    Args:
        at_work_s: since the coordinator was last heard of, which the round at work has had already.
    """
    if not left or not records:
        return None
    pace = [record.seconds for record in records[-_PACE_ROUNDS:]]
    return max(0.0, left * sum(pace) / len(pace) - max(0.0, at_work_s))


def server_view(folder: ServerFolder, *, is_kept: bool, sites: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The whole server, as `server status --json` prints it.

    Args:
        is_kept: whether a keeper runs.
        sites: the members' states, if they are known already; None asks Flower.
    """
    store = JobStore(folder.jobs)
    live = store.live()
    shown = next(iter(live), None) or _last_at_work(store)
    return {
        "running": is_kept,
        "sites": _with_absences(_sites(folder) if sites is None else sites, absent_in(live)),
        "job": job_view(shown) if shown else None,
        "queue": [job.run_id for job in live[1:]],
    }


def absent_in(live: Sequence[StoredJob]) -> Mapping[str, str]:
    """Who takes no part in the job at work, and why."""
    return read_progress(live[0].progress_file).absent if live else {}


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


@dataclass(frozen=True)
class Member:
    """A site as its server knows it.

    Attributes:
        state: online, offline, not registered, barred and why, or unknown while Flower does not answer.
        since: since when it is online or offline, in seconds since the epoch, where Flower says so.
        expires: when its certificate does, in seconds since the epoch; None without one that holds.
    """

    state: str
    since: float | None = None
    expires: float | None = None


def members_of(folder: ServerFolder, seen: Mapping[int, Seen] | None) -> dict[str, Member]:
    """Members of a server by name. Each certificate is read and verified once.

    Args:
        seen: Flower's nodes; None where it does not answer.
    """
    nodes = NodeBook.of(folder.flower_home).nodes()
    try:
        standing = folder.standing(datetime.now(UTC))
    except YoriaiError:
        standing = {}
    return {
        site: _member(standing.get(site), nodes.get(site), seen, bool(standing)) for site in sorted({*standing, *nodes})
    }


def _member(
    standing: Enrolment | str | None, node: Node | None, seen: Mapping[int, Seen] | None, has_roster: bool
) -> Member:
    """One member.

    Args:
        standing: its certificate, or why there is none that holds; None of one that is not in the roster.
        has_roster: whether there is a roster that holds.
    """
    known = seen.get(node.node_id) if seen is not None and node is not None else None
    since = known.since if known else None
    if isinstance(standing, str):
        return Member(f"barred: {standing}", since)
    expires = standing.expires.timestamp() if standing is not None else None
    if has_roster and node is not None and not node.is_wanted:
        return Member("barred: no member any more", since)
    if seen is None:
        return Member("unknown", None, expires)
    if node is None:
        return Member("not registered", None, expires)
    return Member("online" if known and known.online else "offline", since, expires)


def _sites(folder: ServerFolder) -> Mapping[str, str]:
    """Members by name, and how each stands."""
    try:
        seen = FlowerControl(folder.flower_home).seen()
    except RoundError:
        seen = None
    return {site: member.state for site, member in members_of(folder, seen).items()}
