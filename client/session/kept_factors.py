"""Fixed factors of public texts, kept on this machine: to pass the texts through the base takes half a minute.

What is kept is what would be made again. It is found by all that has a part in it: the base and its device, the texts,
the settings, the libraries, and the code itself, so that no change of it is answered by what an earlier one made.
Nothing of it comes from a record.
"""

import hashlib
import io
import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np

from yoriai.client.base import assets
from yoriai.client.base.base_model import BaseModel
from yoriai.config import JobConfig
from yoriai.errors import CheckpointError
from yoriai.strategies.factors import BaseFactors
from yoriai.system.run_files import write_run_file

# What takes less is made again: of a tiny base nothing is kept.
_WORTH_KEEPING_S: Final = 2.0
_ROOMS: Final = ("base", "model", "records", "session")  # Whose code has a part in it.


def kept_factors(base: BaseModel, job: JobConfig, texts: Sequence[str], make: Callable[[], BaseFactors]) -> BaseFactors:
    """What `make` makes of a job's public texts, or made earlier. A cache that fails costs time alone."""
    path = assets.cache_dir() / "public-factors" / f"{_asked(base, job, texts)}.npz"
    with suppress(OSError, ValueError, TypeError, KeyError, EOFError, BadZipFile):
        return _read(path)
    began = time.perf_counter()
    made = make()
    if time.perf_counter() - began >= _WORTH_KEEPING_S:
        with suppress(OSError, CheckpointError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_run_file(path, _written(made))
    return made


def _asked(base: BaseModel, job: JobConfig, texts: Sequence[str]) -> str:
    settings = [part.model_dump(mode="json") for part in (job.task, job.head, job.public, job.lora)]
    libraries = [metadata.version(name) for name in ("numpy", "peft", "tokenizers", "torch", "transformers")]
    asked = json.dumps([base.digest, str(base.device), settings, list(texts), libraries, _code()])
    return hashlib.sha256(asked.encode()).hexdigest()[:32]


@cache
def _code() -> str:
    """A digest of the modules that have a part in the factors."""
    client = Path(__file__).resolve().parents[1]
    files = [file for room in _ROOMS for file in sorted((client / room).glob("*.py"))]
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def _written(factors: BaseFactors) -> bytes:
    arrays: dict[str, Any] = {f"{path}|{side}": pair[side] for path, pair in factors.items() for side in (0, 1)}
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def _read(path: Path) -> BaseFactors:
    with np.load(path, allow_pickle=False) as stored:
        paths = dict.fromkeys(name.rpartition("|")[0] for name in stored.files)
        return {path: (stored[f"{path}|0"], stored[f"{path}|1"]) for path in paths}
