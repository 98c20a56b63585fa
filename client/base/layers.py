"""Which parts of a base are adapted: decoder layers, the linear maps in them, and slices that share their weights."""

import copy
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from yoriai.client.base.base_model import BaseModel
from yoriai.config import LoraSection
from yoriai.errors import BaseModelError
from yoriai.strategies.factors import Maps

_LAYER = re.compile(r"\.layers\.(\d+)\.")


def backbone_of(base: BaseModel) -> nn.Module:
    """The stack of decoder layers. Raises BaseModelError for a model of another build."""
    backbone: Any = getattr(base.model, "model", None)
    if not all(hasattr(backbone, part) for part in ("embed_tokens", "layers", "norm")):
        raise BaseModelError(
            f"base model {base.name} has another build than Yoriai knows",
            found=type(base.model).__name__,
            expected="a decoder such as LLaMA's: model.embed_tokens, model.layers, model.norm",
            remedy="choose another base",
        )
    return backbone  # type: ignore[no-any-return]


def output_logits(hidden: Tensor, output_embedding: Tensor, cap: float | None) -> Tensor:
    """What a base makes of its last hidden states: (..., H) and (V, H) -> (..., V).

    Args:
        cap: bound on every logit, as Gemma 2 has it (`output_cap`); None for none.
    """
    logits = hidden @ output_embedding.T
    return logits if cap is None else cap * torch.tanh(logits / cap)


def output_cap(config: Any) -> float | None:
    """The bound that a base puts on its logits; None if it has none."""
    cap: float | None = getattr(config, "final_logit_softcapping", None)
    return cap


def chosen_layers(setting: str, layer_count: int) -> list[int]:
    """Indices of the adapted layers. Raises BaseModelError when there are not so many."""
    if setting == "all":
        return list(range(layer_count))
    wanted = int(setting.removeprefix("last:"))
    if wanted > layer_count:
        raise BaseModelError(
            "lora.layers asks for more layers than the base has",
            found=setting,
            expected=f"at most last:{layer_count}",
            remedy='lower it, or write "all"',
        )
    return list(range(layer_count - wanted, layer_count))


def linear_maps(model: nn.Module) -> Maps:
    """The linear maps of the decoder layers of a base without an adapter, as {path: (out, in)}."""
    return {
        path: (module.out_features, module.in_features)
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and _LAYER.search(path)
    }


def adapted_maps(linear: Maps, lora: LoraSection, layer_count: int) -> Maps:
    """Those of the linear maps that a job adapts; every target names at least one, and all have the rank.

    Raises:
        BaseModelError: otherwise, or the base has fewer layers.
    """
    found = _find_maps(linear, lora.target_modules, chosen_layers(lora.layers, layer_count))
    _check_rank(lora.rank, found)
    return found


def _find_maps(linear: Maps, targets: Sequence[str], layers: Sequence[int]) -> Maps:
    inside = {path: shape for path, shape in linear.items() if int(_LAYER.findall(path)[0]) in layers}

    def named(path: str, target: str) -> bool:
        return path == target or path.endswith("." + target)

    if unmatched := [t for t in targets if not any(named(path, t) for path in inside)]:
        raise BaseModelError(
            "lora.target_modules match no linear map of the base's chosen layers",
            found=", ".join(unmatched),
            expected="names such as " + ", ".join(sorted({path.rsplit(".", 1)[-1] for path in inside})[:8]),
            remedy="correct lora.target_modules",
        )
    return {path: shape for path, shape in sorted(inside.items()) if any(named(path, t) for t in targets)}


def _check_rank(rank: int, maps: Maps) -> None:
    for path, shape in maps.items():
        if rank > min(shape):
            raise BaseModelError(
                f"lora.rank is above the size of {path}",
                found=f"rank {rank} on a map of {shape[0]}x{shape[1]}",
                expected=f"at most {min(shape)}",
                remedy="lower lora.rank or leave that map out of lora.target_modules",
            )


def uniform_layers(config: Any) -> bool:
    """Whether every decoder layer works alike, so that a slice of them can stand alone.

    Models with sliding-window layers pick each layer's mask by its index in the full stack; those run whole.
    """
    kinds: Any = getattr(config, "layer_types", None)
    return kinds is None or len(set(kinds)) == 1


def slice_backbone(backbone: nn.Module, start: int, stop: int, *, keep_norm: bool) -> nn.Module:
    """A decoder that shares the backbone's weights and runs only its layers start..stop."""
    part = copy.copy(backbone)
    part._modules = dict(backbone._modules)
    part.layers = nn.ModuleList(list(backbone.layers)[start:stop])  # type: ignore[arg-type]
    if keep_norm:
        # Embeddings enter from outside; the tail must not count the table as its own.
        part.embed_tokens = nn.Identity()
    else:
        part.norm = nn.Identity()
    return part
