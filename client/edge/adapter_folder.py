"""A trained folder as an export reads it: what it answers, and its LoRA factors under one scale and one rank."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from yoriai.client.session.export import HEAD_FILE, TASK_FILE
from yoriai.client.session.loading import read_task
from yoriai.errors import ConfigError

_PREFIX = "base_model.model."
Pair = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True)
class Factors:
    """What an adapter adds to each map: scale · B A.

    Attributes:
        pairs: A (rank, in) and B (out, rank) by the map's path in the base.
        scale: of all maps.
        rank: of all maps; a smaller one is filled up with zeros.
        own_rank: the job's; `rank` is above it where a rule left a dense remainder.
    """

    pairs: Mapping[str, Pair]
    scale: float
    rank: int
    own_rank: int

    @property
    def alpha(self) -> float:
        """PEFT's and llama.cpp's: the scale times the rank."""
        return self.scale * self.rank

    def delta(self, path: str) -> NDArray[np.float32]:
        """What one map's weight gets added, (out, in)."""
        a, b = self.pairs[path]
        return (self.scale * (b.astype(np.float64) @ a)).astype(np.float32)


@dataclass(frozen=True)
class AdapterFolder:
    """A folder that `yoriai.load` takes.

    Attributes:
        task: what task.json says.
        factors: None where a head was trained.
    """

    path: Path
    task: Mapping[str, Any]
    factors: Factors | None

    @property
    def base_name(self) -> str:
        """The base that it was trained on, as the job named it."""
        return str(self.task["base"]["name"])


def find_folder(place: Path) -> Path:
    """A run's adapter, or the folder itself. Raises ConfigError if there is neither."""
    for folder in (place / "adapter", place):
        if (folder / TASK_FILE).is_file():
            return folder
    raise ConfigError(
        f"{place} holds no trained adapter",
        expected="the folder of a run that is finished, or of an adapter",
        remedy="check the path",
    )


def read_folder(path: Path) -> AdapterFolder:
    """Read a folder whose files were looked at (`yoriai.client.model.adapter_audit`).

    Raises:
        AdapterError: it does not say what it answers.
    """
    task = read_task(path / TASK_FILE)
    return AdapterFolder(path, task, None if (path / HEAD_FILE).exists() else read_factors(path))


def read_factors(path: Path) -> Factors:
    """What PEFT would make of its two files: B takes up whatever scale a map has of its own.

    Args:
        path: a folder in PEFT's format that was looked at.
    """
    config = json.loads((path / "adapter_config.json").read_bytes())
    tensors = load_file(path / "adapter_model.safetensors")
    maps = sorted(name.removeprefix(_PREFIX).removesuffix(".lora_A.weight") for name in tensors if ".lora_A." in name)
    own_rank, scale = int(config["r"]), config["lora_alpha"] / config["r"]
    rank = max([own_rank, *(len(tensors[f"{_PREFIX}{one}.lora_A.weight"]) for one in maps)])
    pairs = {}
    for one in maps:
        a, b = (tensors[f"{_PREFIX}{one}.lora_{side}.weight"].astype(np.float32) for side in "AB")
        of_map = (config.get("alpha_pattern") or {}).get(one, config["lora_alpha"]) / len(a)
        missing = rank - len(a)
        a = np.pad(a, ((0, missing), (0, 0)))
        pairs[one] = (a, np.pad(b * np.float32(of_map / scale), ((0, 0), (0, missing))))
    return Factors(pairs, scale, rank, own_rank)
