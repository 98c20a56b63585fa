"""A run's own files in its folder: `job.toml` and `run.json` say what runs, `.lock` that it runs now."""

import fcntl
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from yoriai.config import JobConfig, job_to_toml, load_job
from yoriai.errors import CheckpointError, ConfigError
from yoriai.simulations.experiment.experiment import DataSource
from yoriai.system.files import room_for
from yoriai.system.run_files import write_run_file


@dataclass(frozen=True)
class StoredRun:
    """What a resumed run must know beside its job.

    Attributes:
        reason, labels_from_records: of the Experiment; the stored job has kind and labels settled already.
        records_digest: of the records it began with.
        samples: whether answers are shown side by side.
        each_alone: whether each site is trained alone too.
    """

    run_id: str
    data: DataSource
    engine: str
    compare: bool
    reason: str
    labels_from_records: bool
    records_digest: str
    samples: bool = True
    each_alone: bool = False


def must_be_free(folder: Path) -> None:
    """Refuse a place where a new run would mix with files that are there already, or that may not be written.

    Raises:
        ConfigError: it is a file, or a folder that holds something.
        CheckpointError: it cannot be written.
    """
    if (folder / "run.json").exists():
        raise ConfigError(
            f"{folder} holds a run already",
            remedy=f"carry it on with: yoriai simulate --resume {folder}; or choose another --out",
        )
    try:
        is_taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
        above = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        if not is_taken:
            tempfile.TemporaryFile(dir=above).close()  # Without a name; nothing of it stays.
    except OSError as error:
        raise _not_for_runs(folder, error) from error
    if is_taken:
        found = "a folder with other files" if folder.is_dir() else "a file"
        raise ConfigError(
            f"{folder} is taken",
            found=found,
            expected="a new or empty folder",
            remedy="choose another --out",
        )


def store(folder: Path, job: JobConfig, run: StoredRun) -> None:
    """Write what a new run is; the folder is made when missing."""
    write_run_file(folder / "job.toml", job_to_toml(job).encode())
    path = str(run.data.path.resolve()) if run.data.path else None
    stored = {**asdict(run), "data": {**asdict(run.data), "path": path}}
    write_run_file(folder / "run.json", json.dumps(stored, indent=1).encode())


def load(folder: Path) -> tuple[JobConfig, StoredRun]:
    """What the run in a folder is.

    Raises:
        CheckpointError: the folder holds no run.
        ConfigError: its job.toml is damaged.
    """
    try:
        stored: dict[str, Any] = json.loads((folder / "run.json").read_bytes())
        data = stored["data"]
        if (data.get("prompt_field"), data.get("response_field")) == ("prompt", "response"):
            data = {**data, "prompt_field": "", "response_field": ""}  # So runs once stored that nothing was named.
        # So runs once stored, or left out, that each site is trained alone if a head trains.
        if_head = stored.pop("alone", "each_alone" not in stored)
        source = DataSource(**{**data, "path": Path(data["path"]) if data["path"] else None})
        run = StoredRun(**{**stored, "data": source})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder} holds no run that can be resumed",
            found="no run.json" if isinstance(error, OSError) else "a damaged run.json",
            remedy="name the folder of a run",
        ) from error
    job = load_job(folder / "job.toml")
    return job, replace(run, each_alone=job.trains_head) if if_head else run


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of the run while this one works on it; the system lifts the lock if it dies.

    Raises:
        CheckpointError: another process works on the run, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise _not_for_runs(folder, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CheckpointError(
                f"another process works on the run in {folder}", remedy="wait for it, or end it, then resume"
            ) from None
        yield


def _not_for_runs(folder: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"the run's folder {folder} cannot be written",
        found=error.strerror or type(error).__name__,
        remedy=f"{room_for(error)}, or choose another folder with --out",
    )
