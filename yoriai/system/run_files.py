"""Files of a run, whose errors say that it can be resumed."""

from pathlib import Path

from yoriai.errors import CheckpointError
from yoriai.system.files import replace_content, room_for


def write_run_file(path: Path, data: bytes) -> Path:
    """Replace a file of a run, as `write_atomically`.

    Raises:
        CheckpointError: the disk is full or the place cannot be written.
    """
    try:
        return replace_content(path, data)
    except OSError as error:
        raise run_file_fault(path, error) from error


def run_file_fault(path: Path, error: OSError) -> CheckpointError:
    """The error of a file, or folder, of a run that cannot be written."""
    return CheckpointError(
        f"{path} cannot be written",
        found=error.strerror or type(error).__name__,
        remedy=f"{room_for(error)}, then resume; the last checkpoint is intact",
    )
