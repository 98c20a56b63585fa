"""An adapter from elsewhere is looked at before anything loads it: files, tensors, values and sizes.

A folder may bring more than an adapter: pickles and Python files, which run their author's code when a library loads
them; a tokenizer or chat template of its own, which some programs take in place of the base's; settings under which
PEFT does something else than LoRA; whole matrices of the base; values so large or so odd that no training gave them.

*Faults* are reasons not to load it. *Warnings* are unusual and may be meant. Nothing here says whether the adapter is
any good, or that it was not trained to do harm: the coordinator's signature and the site's own test records are for
that.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from yoriai.client.model.magnitude import LARGEST_FACTOR
from yoriai.errors import AdapterError
from yoriai.strategies.adapter import AdapterState

WEIGHTS, CONFIG, HEAD = "adapter_model.safetensors", "adapter_config.json", "head.safetensors"
_PICKLES: Final = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz")
_CODE: Final = (".py", ".pyc", ".so", ".dll", ".dylib", ".sh")
_TOKENIZER: Final = ("tokenizer", "chat_template", "special_tokens_map", "added_tokens", "vocab", "merges")
_PREFIX: Final = "base_model.model."
_SIDES: Final = {".lora_A.weight": "A", ".lora_B.weight": "B"}
# What PEFT takes for something else than plain LoRA on linear maps, with the value under which it does not.
_PLAIN: Final[Mapping[str, Any]] = {
    "use_dora": False, "use_rslora": False, "bias": "none", "modules_to_save": None, "auto_mapping": None,
    "fan_in_fan_out": False, "trainable_token_indices": None, "target_parameters": None, "layer_replication": None,
    "lora_bias": False, "use_qalora": False, "alora_invocation_tokens": None, "arrow_config": None,
}  # fmt: skip
_UNUSUAL: Final = 30.0
"""Times the median over an adapter's maps: what one map adds is rarely above it."""


@dataclass
class Audit:
    """What was found.

    Attributes:
        kind: of what was looked at.
        digest: SHA-256 of the weights' file.
        size_bytes: of all its files.
        facts: what it says of itself, and what was measured.
        faults: why not to load it.
        warnings: what is unusual.
    """

    kind: str
    digest: str = ""
    size_bytes: int = 0
    facts: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def refuse(self) -> None:
        """Raise AdapterError, with the first fault, if there is one."""
        if self.faults:
            others = len(self.faults) - 1
            raise AdapterError(
                f"this {self.kind} is not loaded: {self.faults[0]}" + (f", and {others} more" if others else ""),
                remedy="look at it with `yoriai check-adapter`, and ask whoever it comes from",
            )


def audit_folder(folder: Path) -> Audit:
    """Look at the folder of an adapter or a head. Nothing of it is loaded by another library than safetensors."""
    found = Audit("head" if (folder / HEAD).is_file() else "adapter")
    files = [path for path in sorted(folder.rglob("*")) if not path.is_dir()] if folder.is_dir() else []
    found.size_bytes = sum(path.lstat().st_size for path in files)
    found.faults += _foreign_files(folder, files)
    found.warnings += [
        f"{path.name}: some programs take it in place of the base's"
        for path in files
        if path.name.startswith(_TOKENIZER)
    ]
    weights = folder / (HEAD if found.kind == "head" else WEIGHTS)
    if not weights.is_file():
        found.faults.append(f"there is no {weights.name}")
        return found
    found.digest = file_digest(weights)
    if found.kind == "head":
        _look_at_head(weights, found)
    else:
        _look_at_lora(weights, _config(folder / CONFIG, found), found)
    return found


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _foreign_files(folder: Path, files: list[Path]) -> Iterator[str]:
    """Files that are code, or become code when they are loaded."""
    for path in files:
        name = path.relative_to(folder)
        if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            yield f"{name} leads out of the folder"
        elif path.suffix.lower() in _PICKLES or (path.is_file() and _is_pickle(path)):
            yield f"{name} is a pickle, or is loaded as one: it runs its author's code"
        elif path.suffix.lower() in _CODE:
            yield f"{name} is code"


def _is_pickle(path: Path) -> bool:
    """By its first bytes: pickle from protocol 2 on, or the archive that torch.save makes.

    A safetensors file begins with a length, which may be such bytes; it is read by the library of its name alone.
    """
    if path.suffix == ".safetensors":
        return False
    with path.open("rb") as file:
        start = file.read(4)
    return (start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05") or start == b"PK\x03\x04"


def _config(path: Path, found: Audit) -> dict[str, Any]:
    """PEFT's settings; whatever makes them more than plain LoRA is a fault."""
    try:
        config = json.loads(path.read_bytes())
        if not isinstance(config, dict):
            raise ValueError
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
        if rank < 1 or not math.isfinite(alpha):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        found.faults.append(f"{path.name} is not there, or not PEFT's")
        return {}
    if config.get("peft_type") != "LORA":
        found.faults.append("another peft_type than LORA")
    if odd := [name for name, plain in _PLAIN.items() if config.get(name, plain) not in (plain, [], {}, None)]:
        found.faults.append(f"settings that do more than LoRA: {', '.join(odd)}")
    found.facts["rank"], found.facts["alpha"] = str(rank), f"{alpha:g}"
    return config


def _look_at_lora(path: Path, config: Mapping[str, Any], found: Audit) -> None:
    try:
        tensors = _read(path)
    except (SafetensorError, OSError, ValueError) as error:
        found.faults.append(f"{path.name} cannot be read ({type(error).__name__})")
        return
    pairs: dict[str, dict[str, np.ndarray]] = {}
    foreign = []
    for name, tensor in tensors.items():
        side = next((side for end, side in _SIDES.items() if name.endswith(end)), None)
        if side is None or not name.startswith(_PREFIX) or tensor.ndim != 2 or tensor.dtype != np.float32:
            foreign.append(name)
            continue
        map_name = name.removeprefix(_PREFIX).rpartition(".lora_")[0]
        pairs.setdefault(map_name, {})[side] = tensor
    if foreign:
        found.faults.append(f"{len(foreign)} tensors that do not belong, first {printable(foreign[0])}")
    if odd := [name for name, pair in pairs.items() if not _fits(pair)]:
        found.faults.append(f"{len(odd)} maps whose A and B do not go together, first {printable(odd[0])}")
    if config and not foreign and not odd:
        look_at_pairs({name: (pair["A"], pair["B"], _scale(config, name, pair)) for name, pair in pairs.items()}, found)


def _read(path: Path) -> dict[str, np.ndarray]:
    """All tensors; floats of whatever size as float32, so that the rest is told by its type."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping.
    return {
        name: (tensor.to(torch.float32) if tensor.is_floating_point() else tensor).numpy()
        for name, tensor in tensors.items()
    }


def _fits(pair: Mapping[str, np.ndarray]) -> bool:
    return pair.keys() == {"A", "B"} and pair["A"].shape[0] == pair["B"].shape[1] and pair["A"].size > 0


def _scale(config: Mapping[str, Any], name: str, pair: Mapping[str, np.ndarray]) -> float:
    return float((config.get("alpha_pattern") or {}).get(name, config["lora_alpha"])) / len(pair["A"])


def look_at_pairs(pairs: Mapping[str, tuple[np.ndarray, np.ndarray, float]], found: Audit) -> None:
    """Values of LoRA factors: finite, and of usual sizes.

    Args:
        pairs: A (r, in), B (out, r) and the scale of their product, by the map's name.
        found: takes what is seen.
    """
    found.facts["maps"] = str(len(pairs))
    if not pairs:
        found.faults.append("no map at all")
        return
    if bad := [name for name, (a, b, _) in pairs.items() if not (np.isfinite(a).all() and np.isfinite(b).all())]:
        found.faults.append(f"values that are not finite in {len(bad)} maps, first {printable(bad[0])}")
        return
    if large := [name for name, (a, b, _) in pairs.items() if max(map(_norm, (a, b))) > LARGEST_FACTOR]:
        found.faults.append(f"factors out of all proportion in {len(large)} maps, first {printable(large[0])}")
    added = {name: abs(scale) * _product_norm(a, b) for name, (a, b, scale) in pairs.items()}
    median, largest = float(np.median(list(added.values()))), max(added, key=added.__getitem__)
    found.facts["adds"] = f"norms {min(added.values()):.3g} to {added[largest]:.3g}, median {median:.3g}"
    if added[largest] == 0:
        found.warnings.append("every map adds nothing: it answers as the bare base")
    elif added[largest] > _UNUSUAL * median:
        found.warnings.append(f"{printable(largest)} adds {added[largest] / max(median, 1e-30):.3g} times the median")


def _look_at_head(path: Path, found: Audit) -> None:
    try:
        state = AdapterState.from_bytes(path.read_bytes())
        state.check_finite()
    except (AdapterError, OSError) as error:
        found.faults.append(error.what if isinstance(error, AdapterError) else f"{path.name} cannot be read")
        return
    if set(state.factors()) != {"D", "H", "M"} or "head" not in state.module_paths():
        found.faults.append(f"tensors that do not belong to a head: {', '.join(state.factors())}")
    if large := [name for name, tensor in state.tensors.items() if _norm(tensor) > LARGEST_FACTOR]:
        found.faults.append(f"factors out of all proportion: {large[0]}")
    found.facts["tensors"] = str(len(state.tensors))


def _norm(tensor: np.ndarray) -> float:
    return float(np.linalg.norm(tensor.astype(np.float64)))


def _product_norm(a: np.ndarray, b: np.ndarray) -> float:
    """Of B A, without making it: |BA|² is the trace of (B'B)(AA')."""
    left, right = b.astype(np.float64), a.astype(np.float64)
    return float(np.sqrt(max(0.0, np.sum((left.T @ left) * (right @ right.T)))))


def printable(text: str) -> str:
    """A name from elsewhere as it may stand on a screen."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:120]
