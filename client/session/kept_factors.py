"""Fixed factors of public texts, kept on this machine: to pass the texts through the base takes half a minute.

They are found by the base and its device, the texts, the settings, the libraries, and the code itself. Nothing of them
comes from a record.
"""

import io
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any, Final

import numpy as np

from yoriai.client.base.base_model import BaseModel
from yoriai.client.base.kept import Kept, code_digest
from yoriai.config import JobConfig
from yoriai.strategies.factors import BaseFactors

_ROOMS: Final = ("client/base", "client/model", "client/records", "client/session")  # Whose code has a part in them.
_LIBRARIES: Final = ("numpy", "peft", "tokenizers", "torch", "transformers")


def kept_factors(base: BaseModel, job: JobConfig, texts: Sequence[str], make: Callable[[], BaseFactors]) -> BaseFactors:
    """What `make` makes of a job's public texts, or made earlier. A cache that fails costs time alone."""
    settings = [part.model_dump(mode="json") for part in (job.task, job.head, job.public, job.lora)]
    libraries = [metadata.version(name) for name in _LIBRARIES]
    asked = [base.digest, str(base.device), settings, list(texts), libraries, code_digest(*_ROOMS)]
    return _KEPT.made(asked, make)


def _written(factors: BaseFactors) -> bytes:
    arrays: dict[str, Any] = {f"{path}|{side}": pair[side] for path, pair in factors.items() for side in (0, 1)}
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def _read(data: bytes) -> BaseFactors:
    with np.load(io.BytesIO(data), allow_pickle=False) as stored:
        paths = dict.fromkeys(name.rpartition("|")[0] for name in stored.files)
        return {path: (stored[f"{path}|0"], stored[f"{path}|1"]) for path in paths}


# What takes less is made again: of a tiny base nothing is kept.
_KEPT: Final = Kept("public-factors", _read, _written, worth_s=2.0)
