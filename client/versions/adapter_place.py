"""Where a last adapter lies at a site, and what lies beside it. Light: no model library is loaded for a list."""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from yoriai.errors import PolicyError, StorageError
from yoriai.system.files import cannot_write

# The complete adapter, of which the coordinator's statement names the digest; PEFT's own files hold a part of it.
VERSION = "version.safetensors"
STATEMENT, CERTIFICATE = "statement", "coordinator.cert"
EVALUATION = "evaluation.json"
EVALUATION_SCHEMA = 1
_DIGITS = 12
_LONGEST_STEM = 64
# Of the size of what is delivered: that much is written twice, complete and for PEFT, and as much again is left.
_ROOM = 4


def folder_of(adapters: Path, run_id: str, adapter_digest: str) -> Path:
    """Where a run's last adapter lies: named so that an operator finds it, by nothing that could lead elsewhere."""
    return adapters / f"{_stem(run_id)}-{adapter_digest[:_DIGITS]}"


def folders_of(adapters: Path, run_id: str) -> Iterator[Path]:
    """Where last adapters of a run lie, whatever their digest; there is one at most."""
    return adapters.glob(f"{_stem(run_id)}-{'[0-9a-f]' * _DIGITS}")


def check_room(site: str, folder: Path, size_bytes: int) -> None:
    """Make a folder for what a coordinator sends, and see that its disk bears it.

    What is left of the disk afterwards is for the ledger, which stands still without.

    Raises:
        PolicyError: it has too little room.
        StorageError: the folder cannot be made.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        free_bytes = shutil.disk_usage(folder).free
    except OSError as error:
        raise cannot_write(folder, error) from error
    if free_bytes < _ROOM * size_bytes:
        raise PolicyError(
            f"site {site}: its disk has too little room for the adapter",
            expected=f"{_ROOM * size_bytes} bytes free",
            remedy="have the site's operator make room, and deliver it again",
        )


def read_evaluation(folder: Path) -> dict[str, Any] | None:
    """What was measured for the adapter in a folder: task, before, after and what changed; None if nothing was.

    Raises:
        StorageError: the file is damaged, or of another version.
    """
    path = folder / EVALUATION
    try:
        document = json.loads(path.read_bytes())
        if document["schema"] != EVALUATION_SCHEMA:
            raise ValueError
        paired = document.get("paired")  # Missing in one of an earlier version.
        return {
            "task": document["task"],
            "before": dict(document["before"]),
            "after": dict(document["after"]),
            "paired": {name: int(paired[name]) for name in ("gained", "lost")} if paired is not None else None,
        }
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise StorageError(
            f"{path} is damaged, not readable or of another Yoriai version",
            found=type(error).__name__,
            remedy="move it away",
        ) from None


def _stem(run_id: str) -> str:
    """A run's id as it may stand in a file's name; one that had to be changed gets digits of its own."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", run_id)[:_LONGEST_STEM]
    return plain if plain == run_id else f"{plain}.{hashlib.sha256(run_id.encode()).hexdigest()[:_DIGITS]}"
