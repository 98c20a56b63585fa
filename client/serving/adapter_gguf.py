"""An adapter in llama.cpp's format, kept in the site's cache under the digest of what it was made from."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any, Final

import numpy as np
from gguf import GGUFReader, GGUFWriter
from numpy.typing import NDArray
from safetensors.numpy import load_file

from yoriai.errors import AdapterError
from yoriai.system.files import make_private_folder

_MAPS: Final = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_NAME = re.compile(r"base_model\.model\.(model\.layers\.([0-9]+)\.([a-z_]+\.[a-z_]+))\.lora_([AB])\.weight")


def write_adapter_gguf(folder: Path, base: Path, cache: Path) -> Path:
    """The adapter of a folder as a file for llama.cpp; written once.

    Args:
        folder: with PEFT's two files.
        base: the .gguf file of its base.
        cache: made when missing.

    Raises:
        AdapterError: the folder holds none, or the base's family is not one that this writes.
    """
    weights, settings = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    try:
        digest = hashlib.sha256(weights.read_bytes() + settings.read_bytes()).hexdigest()
        config = json.loads(settings.read_bytes())
    except (OSError, ValueError) as error:
        raise AdapterError(f"{folder} holds no adapter", found=type(error).__name__, remedy="check the path") from None
    path = make_private_folder(cache) / f"{digest[:32]}.gguf"
    if not path.exists():
        part = path.with_suffix(".part")
        _write(part, load_file(weights), config, base)
        part.replace(path)
    return path


def _write(path: Path, tensors: dict[str, NDArray[Any]], config: dict[str, Any], base: Path) -> None:
    reader = GGUFReader(base)
    heads = {
        name: reader.get_field(f"llama.attention.{key}")
        for name, key in (("attn_q", "head_count"), ("attn_k", "head_count_kv"))
    }
    if any(field is None for field in heads.values()):
        raise AdapterError("the base is not of the family llama", remedy="export the adapter merged")
    writer = GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 1.0)  # Each map's scale is in its B: llama.cpp divides by its rank.
    for name, tensor in sorted(tensors.items()):
        if (found := _NAME.fullmatch(name)) is None or found[3] not in _MAPS:
            raise AdapterError("llama.cpp has no name for a map of the adapter", found=name[:80])
        mapped, values = _MAPS[found[3]], tensor.astype(np.float32)
        if found[4] == "B":
            values *= np.float32((config.get("alpha_pattern") or {}).get(found[1], config["lora_alpha"]))
            field = heads.get(mapped)
            values = values if field is None else _permuted(values, int(field.contents()))
        writer.add_tensor(f"blk.{found[2]}.{mapped}.weight.lora_{found[4].lower()}", np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _permuted(tensor: NDArray[Any], heads: int) -> NDArray[Any]:
    """llama.cpp has the two halves of each head's rotary positions row beside row."""
    return tensor.reshape(heads, 2, len(tensor) // heads // 2, -1).swapaxes(1, 2).reshape(tensor.shape)
