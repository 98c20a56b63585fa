"""The noise that a run began with, kept in its folder.

Calibrated anew, on a machine that rounds otherwise or by another version, it would differ by a little, and sites refuse
a run that does not keep the noise it was charged for.
"""

import json
from pathlib import Path
from typing import Final

from yoriai.errors import CheckpointError
from yoriai.privacy.dp.accounting import SampledGaussian
from yoriai.privacy.ledger.ledger import Ledger
from yoriai.system.run_files import write_run_file

_FILE: Final = "noise.json"


def begun_with(folder: Path, run_id: str) -> float | None:
    """The noise multiplier of a run that has begun; None for one that has not, and without privacy.

    Raises:
        CheckpointError: what the folder says is damaged.
    """
    path = folder / _FILE
    if not path.exists():
        return _charged(folder, run_id)
    try:
        return float(json.loads(path.read_bytes())["noise_multiplier"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged", found=type(error).__name__, remedy="start a new run") from error


def keep(folder: Path, noise_multiplier: float | None) -> None:
    """Before the first charge.

    Raises:
        CheckpointError: it cannot be written.
    """
    if noise_multiplier is not None and not (folder / _FILE).exists():
        write_run_file(folder / _FILE, json.dumps({"noise_multiplier": noise_multiplier}).encode())


def _charged(folder: Path, run_id: str) -> float | None:
    """Of a run of an earlier version, which kept it in its ledgers alone, as plain as this where no noise is shared."""
    for path in sorted((folder / "ledgers").glob("*.sqlite")):
        with Ledger.existing(path) as ledger:
            for charge in ledger.charges():
                if charge.job_id == run_id and isinstance(charge.event, SampledGaussian):
                    return charge.event.noise_multiplier
    return None
