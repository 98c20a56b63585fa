"""PEFT's folder and a merged model's, for transformers, PEFT, vLLM and Ollama."""

import json
from pathlib import Path
from typing import Final

import numpy as np
import torch
from safetensors.numpy import save_file

from yoriai.client.base.base_model import BaseModel
from yoriai.client.edge.adapter_folder import AdapterFolder, Factors

ADAPTER_FILES: Final = ("adapter_model.safetensors", "adapter_config.json")


def write_peft(source: AdapterFolder, factors: Factors, folder: Path) -> None:
    """Write an adapter in PEFT's format with one rank and one alpha for all maps: vLLM reads none of their patterns.

    Raises:
        OSError: it cannot be written.
    """
    weights, settings = (folder / name for name in ADAPTER_FILES)
    tensors = {}
    for path, (a, b) in factors.pairs.items():
        tensors[f"base_model.model.{path}.lora_A.weight"] = np.ascontiguousarray(a)
        tensors[f"base_model.model.{path}.lora_B.weight"] = np.ascontiguousarray(b)
    save_file(tensors, weights, metadata={"format": "pt"})
    config = json.loads((source.path / settings.name).read_bytes())
    alpha = round(factors.alpha, 9)
    config |= {"r": factors.rank, "lora_alpha": int(alpha) if alpha.is_integer() else alpha}
    config |= {"rank_pattern": {}, "alpha_pattern": {}, "base_model_name_or_path": source.base_name}
    settings.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


@torch.no_grad()
def write_merged_folder(base: BaseModel, factors: Factors, folder: Path) -> None:
    """Write the base with the adapter merged into it, fp32, in Hugging Face's layout with the tokenizer.

    The base's weights are changed, and it is of no further use.

    Raises:
        OSError: it cannot be written.
    """
    for path in factors.pairs:
        weight = base.model.get_submodule(path).weight
        weight += torch.from_numpy(factors.delta(path)).to(weight)
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
