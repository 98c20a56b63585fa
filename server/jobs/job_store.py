"""The jobs of a server, each in a folder of its own, and what state each is in.

    jobs/RUN/prepared          the job, its base's digest and its first adapter, as they were submitted
    jobs/RUN/roster            the consortium's roster at that time; it stays the job's to its end
    jobs/RUN/state.json        see JobState; every writer changes it under the folder's lock
    jobs/RUN/progress.json     what the coordinator is at, written by it alone
    jobs/RUN/log.jsonl         its events
    jobs/RUN/metrics.jsonl     a line of figures a finished round, see round/metric_lines.py
    jobs/RUN/checkpoint.json   and adapters/, state/: the registry, see registry.py
    jobs/RUN/coordinator.lock  names the process that coordinates the job; there is never a second one

RUN names the job in ledgers and messages. It outlives Flower's runs: one that is begun again is a new run of Flower's
and the same RUN.
"""

import contextlib
import secrets
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from yoriai import wire
from yoriai.errors import CheckpointError, ConfigError, StorageError
from yoriai.prepared_job import PreparedJob, read_prepared
from yoriai.server.round.metric_lines import METRICS_FILE
from yoriai.system.files import PRIVATE, locked_folder, make_private_folder, sync, write_atomically
from yoriai.system.process_lock import Holder, hold, holder_of, let_go

# A job in one of these states is to be run, or is being run.
LIVE = ("queued", "starting", "running", "cancelling")
Phase = Literal["queued", "starting", "running", "cancelling", "finished", "ended", "failed", "cancelled"]
_LOCK_POLL_S = 0.5
# Starts in a row that stored no round, before a person has to look; and the pauses between them.
_MOST_FRUITLESS = 8
_FIRST_PAUSE_S = 5.0
_LONGEST_PAUSE_S = 60.0


class JobState(BaseModel):
    """Where a job stands.

    Attributes:
        phase: queued, starting (given to Flower), running, cancelling, finished, ended (early, with what was stored),
            failed or cancelled.
        submitted: when, UTC, ISO 8601; it orders the queue.
        flower_run: Flower's number of the present, or last, run.
        starts: how often it was given to Flower.
        fruitless: starts since a round was last stored.
        since: when it came into its phase, seconds since the epoch.
        not_before: not to be started before then, seconds since the epoch.
        error: the last one, in words.
        ending: it is to end early; the next coordinator, or the one at work, trains no further round.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    schema_: Literal[1] = Field(default=1, alias="schema")
    phase: Phase
    submitted: str
    flower_run: str = ""
    starts: int = 0
    fruitless: int = 0
    since: float = 0.0
    not_before: float = 0.0
    error: str = ""
    ending: bool = False


@dataclass(frozen=True)
class StoredJob:
    """One job's folder."""

    folder: Path

    @property
    def run_id(self) -> str:
        """Its name in ledgers, messages and commands."""
        return self.folder.name

    @property
    def roster_file(self) -> Path:
        """The consortium's roster, as it was when the job was submitted."""
        return self.folder / "roster"

    @property
    def progress_file(self) -> Path:
        """What the coordinator is at."""
        return self.folder / "progress.json"

    @property
    def log_file(self) -> Path:
        """The coordinator's events, JSON lines."""
        return self.folder / "log.jsonl"

    @property
    def metrics_file(self) -> Path:
        """Its figures by round, JSON lines."""
        return self.folder / METRICS_FILE

    def prepared(self) -> PreparedJob:
        """What was submitted."""
        return read_prepared((self.folder / "prepared").read_bytes())

    def state(self) -> JobState:
        """Where it stands.

        Raises:
            CheckpointError: its state is damaged, or of another version of Yoriai.
        """
        path = self.folder / "state.json"
        try:
            return JobState.model_validate_json(path.read_bytes())
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{path} is damaged, missing or of another Yoriai version",
                found=type(error).__name__,
                remedy="restore the folder from its backup",
            ) from None

    def change(self, *, only_from: tuple[Phase, ...] = (), **changes: Any) -> JobState:
        """Change the state durably, under the folder's lock.

        Args:
            only_from: phases in which the change may be made; none given: any. In another one nothing is changed.
            changes: fields of JobState.

        Returns:
            The state after it.
        """
        return self._changed(lambda _: changes, only_from)

    def begin_again(self, why: str, *, only_from: tuple[Phase, ...], is_fruitless: bool = True) -> JobState:
        """Put the job into the queue once more; for a person to look at, once too many starts stored no round.

        Args:
            why: what ended the last start.
            only_from: as in `change`.
            is_fruitless: whether the start counts as one of too many; one that waited for sites does not.
        """

        def changes(before: JobState) -> dict[str, Any]:
            fruitless = before.fruitless + is_fruitless
            return {
                "phase": "queued" if fruitless < _MOST_FRUITLESS else "failed",
                "fruitless": fruitless,
                "not_before": time.time() + min(_FIRST_PAUSE_S * 2**before.fruitless, _LONGEST_PAUSE_S),
                "error": why,
            }

        return self._changed(changes, only_from)

    @contextlib.contextmanager
    def coordinated(self, wait_s: float) -> Iterator[None]:
        """Be the one process that coordinates the job.

        Args:
            wait_s: how long to wait for another one that is ending, such as one that lost its SuperLink.

        Raises:
            StorageError: another one still does.
        """
        deadline = time.monotonic() + wait_s
        while True:
            try:
                lock = hold(self._lock)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise StorageError(
                        f"job {self.run_id} is coordinated by another process", remedy="stop that one"
                    ) from None
                time.sleep(_LOCK_POLL_S)
        try:
            yield
        finally:
            let_go(lock)

    def coordinator(self) -> Holder | None:
        """The process that coordinates the job now; None if there is none."""
        return holder_of(self._lock)

    @property
    def _lock(self) -> Path:
        return self.folder / "coordinator.lock"

    def _changed(self, changes: Callable[[JobState], dict[str, Any]], only_from: tuple[Phase, ...]) -> JobState:
        """Read, change and write the state while nobody else does."""
        with locked_folder(self.folder):
            before = self.state()
            if only_from and before.phase not in only_from:
                return before
            after = JobState.model_validate({**before.model_dump(by_alias=True), **changes(before)})
            if after.phase != before.phase:
                after = after.model_copy(update={"since": time.time()})
            self._write(after)
            return after

    def _write(self, state: JobState) -> None:
        write_atomically(
            self.folder / "state.json", state.model_dump_json(by_alias=True, indent=1).encode(), mode=PRIVATE
        )


class JobStore:
    """All jobs of a server.

    Args:
        folder: holds a folder a job; made when missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = make_private_folder(folder)

    def submit(self, prepared: PreparedJob, roster: bytes) -> StoredJob:
        """Put a job into the queue. It is there once this returns, and not half there before.

        Raises:
            StorageError: the disk is full, or the folder cannot be written.
        """
        now = datetime.now(UTC)
        run_id = f"{prepared.job.name}-{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        draft = StoredJob(make_private_folder(self._folder / f".{run_id}.part"))
        write_atomically(draft.folder / "prepared", wire.encode(prepared.as_message()), mode=PRIVATE)
        write_atomically(draft.roster_file, roster, mode=PRIVATE)
        draft._write(JobState(phase="queued", submitted=now.isoformat(), since=time.time()))
        draft.folder.rename(self._folder / run_id)
        sync(self._folder)
        return StoredJob(self._folder / run_id)

    def states(self) -> dict[StoredJob, JobState]:
        """All jobs, in the order in which they were submitted, and where each stands.

        One whose state cannot be read is left out, or it would keep the others from running; `find` has it.
        """
        found = []
        for job in self._folders():
            with contextlib.suppress(CheckpointError):
                found.append((job, job.state()))
        return dict(sorted(found, key=lambda entry: (entry[1].submitted, entry[0].run_id)))

    def jobs(self) -> list[StoredJob]:
        """All jobs, as `states` has them."""
        return list(self.states())

    def live(self) -> list[StoredJob]:
        """Those that are to be run, or are being run, in the order of their turn."""
        return [job for job, state in self.states().items() if state.phase in LIVE]

    def _folders(self) -> list[StoredJob]:
        return [StoredJob(path) for path in self._folder.iterdir() if path.is_dir() and not path.name.startswith(".")]

    def but(self, runs: Collection[str]) -> list[StoredJob]:
        """Those that are none of these runs, in the order of their names; no state is read."""
        return sorted((job for job in self._folders() if job.run_id not in runs), key=lambda job: job.run_id)

    def find(self, name: str) -> StoredJob:
        """The job with this RUN, or whose RUN alone begins so; an empty name is the last job.

        Raises:
            ConfigError: there is none, or more than one.
        """
        jobs = self.jobs()
        if not name and jobs:
            return jobs[-1]
        every = self._folders()
        found = [job for job in every if job.run_id == name] or [job for job in every if job.run_id.startswith(name)]
        if name and len(found) == 1:
            return found[0]
        raise ConfigError(
            f"{'no' if not found else 'more than one'} job {name[:80]!r} in {self._folder}",
            expected=", ".join(job.run_id for job in (found or jobs)[-5:]) or "a job that was submitted",
            remedy="name the job by its run; without a name the last one is meant",
        )
