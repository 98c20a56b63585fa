"""Tokenizer and weights of a base from its files: whole and finite, or refused with the cause by name.

transformers fills what is missing with random numbers and says so in a log at most. Such a base would be another one at
each load, and an adapter for it of no use.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from yoriai.errors import BaseModelError

_POINTER = b"version https://git-lfs"
_LONGEST_HEADER = 100_000_000  # As safetensors has it.
_EXPECTED = "a packaged base, a model folder, a .gguf file or a hub id that this machine can reach"


def load_tokenizer(name: str, place: str, **options: Any) -> Any:
    """The tokenizer.

    Args:
        name: of the base, for messages.
        place: a folder, or a hub id.
        options: `gguf_file`, for transformers.

    Raises:
        BaseModelError: there is none that loads.
    """
    try:
        return AutoTokenizer.from_pretrained(place, **options)
    except MemoryError:
        raise
    except Exception as error:  # The libraries raise all kinds, down to bare Exception.
        folder = Path(place)
        if folder.is_dir() and "gguf_file" not in options and not any(folder.glob("token*")):
            raise _refused(name, "no tokenizer in the folder", "copy the base's tokenizer files into it") from error
        raise _unloadable(name, place, error) from error


def load_weights(name: str, place: str, **options: Any) -> Any:
    """The model in fp32. Args and errors as `load_tokenizer`.

    Also refused if a tensor is missing or not finite, or if the folder holds a model that another library quantised.
    """
    if "gguf_file" not in options and (method := _quantised(Path(place))):
        raise BaseModelError(
            f"base model {name} is quantised, and no gradients were shown to come through it",
            found=method,
            expected="weights in floating point, or a .gguf file, which is dequantised as it is loaded",
            remedy="take the base's own weights: of nf4 a backward pass ran and no factor had a gradient",
        )
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            place, dtype=torch.float32, output_loading_info=True, **options
        )
    except MemoryError:
        raise
    except Exception as error:
        raise _unloadable(name, place, error) from error
    model, info = loaded
    if missing := sorted(info["missing_keys"]):
        found = f"{len(missing)} {'tensors are' if len(missing) > 1 else 'tensor is'} missing, first {missing[0]}"
        raise _refused(name, found, "fetch the whole base; in place of these it would have random weights")
    if bad := [key for key, weight in model.state_dict().items() if not bool(torch.isfinite(weight).all())]:
        found = f"values that are not finite in {len(bad)} of its tensors, first {bad[0]}"
        raise _refused(name, found, "fetch the base again, or take another")
    return model


def _unloadable(name: str, place: str, error: Exception) -> BaseModelError:
    """The error of a base that transformers does not load, by what can be seen in its folder."""
    folder = Path(place)
    if folder.is_dir():
        for found, remedy in _faults(folder):
            return _refused(name, found, remedy)
    return BaseModelError(
        f"base model {name} does not load",
        found=f"{type(error).__name__} from transformers",
        expected=_EXPECTED,
        remedy="check base.model, and that its files are whole; `yoriai fetch`, or at a site `yoriai site fetch SITE`, "
        "brings the packaged one",
    )


def _refused(name: str, found: str, remedy: str) -> BaseModelError:
    return BaseModelError(f"base model {name} does not load", found=found, remedy=remedy)


def _quantised(folder: Path) -> str:
    """By which method a base's own configuration says that its weights are quantised; empty if it does not."""
    try:
        settings = json.loads((folder / "config.json").read_bytes())["quantization_config"]
        return str(settings.get("bnb_4bit_quant_type") or settings.get("quant_method") or "an unnamed method")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ""


def _faults(folder: Path) -> Iterator[tuple[str, str]]:
    """What is wrong with the files of a base, and what would help."""
    if any(folder.glob("*.gguf")):
        return
    config = folder / "config.json"
    if not config.is_file():
        yield "no config.json in the folder", "name the folder that holds config.json, weights and tokenizer"
        return
    try:
        kind = json.loads(config.read_bytes()).get("model_type")
    except (ValueError, AttributeError):
        yield "config.json is no JSON object", "fetch the base again"
        return
    if not isinstance(kind, str):
        yield "config.json names no model_type", "fetch the base again"
        return
    files = sorted(path for pattern in ("*.safetensors", "*.bin") for path in folder.glob(pattern))
    if not files:
        yield "no weights in the folder (*.safetensors)", "copy the base's weights into it"
    for path in files:
        with path.open("rb") as file:
            start = file.read(len(_POINTER))
        if start == _POINTER:
            yield f"{path.name} is a Git LFS pointer, and no weights", "fetch the files themselves: git lfs pull"
        elif path.suffix == ".safetensors" and (lacking := _missing_bytes(path)):
            yield f"{path.name} is cut short or damaged: {lacking}", "fetch it again"


def _missing_bytes(path: Path) -> str:
    """How a safetensors file falls short of its own header; empty if it does not."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(size, _LONGEST_HEADER):
                return "its header is longer than the file"
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (struct.error, ValueError, KeyError, TypeError, AttributeError):
        return "its header cannot be read"
    return f"{size} bytes of {end}" if size != end else ""
