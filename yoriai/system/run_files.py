"""Files of a run, whose errors say that it can be resumed."""

from pathlib import Path

from yoriai.errors import CheckpointError, StorageError
from yoriai.system.files import write_atomically


def write_run_file(path: Path, data: bytes) -> Path:
    """Replace a file of a run, as `write_atomically`.

    Raises:
        CheckpointError: the disk is full or the place cannot be written.
    """
    try:
        return write_atomically(path, data)
    except StorageError as error:
        raise run_file_fault(path, error.found) from error


def run_file_fault(path: Path, found: str) -> CheckpointError:
    """The error of a file, or folder, of a run that cannot be written."""
    return CheckpointError(
        f"{path} cannot be written",
        found=found,
        remedy="make room or choose another folder, then resume; the last checkpoint is intact",
    )
