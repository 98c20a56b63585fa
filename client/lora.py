"""LoRA on the base model: attach it through PEFT, and move an AdapterState in and out without loss.

The adapter sits on the last layers of the base (`lora.layers = "last:8"`), so everything before the first adapted
layer is a frozen function of the record. `AdaptedModel.prefix` computes it, `AdaptedModel.tail` carries on from
there; training repeats only the tail.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from opacus.grad_sample import GradSampleModule
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from yoriai.client.base_model import BaseModel
from yoriai.config import LoraSection
from yoriai.errors import BaseModelError
from yoriai.strategies.adapter import AdapterState

_ADAPTER = "default"  # PEFT's name for the only adapter


class CoreB(nn.Module):
    """The B side of the `core` rule: a trainable r×r core R between the fixed factors, B = U·R."""

    R: nn.Linear
    U: nn.Linear

    def __init__(self, rank: int, out_features: int) -> None:
        super().__init__()
        self.R = nn.Linear(rank, rank, bias=False)
        self.U = nn.Linear(rank, out_features, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """(…, r) -> (…, out)."""
        output: Tensor = self.U(self.R(hidden))
        return output


class AdaptedModel:
    """A base model with LoRA attached. One of them serves every site of a simulation in turn.

    Attributes:
        maps: adapted linear maps by their path in the base, as (out_features, in_features).
        first_layer: index of the first adapted decoder layer; everything before it is the prefix.
    """

    def __init__(self, base: BaseModel, lora: LoraSection, *, has_core: bool) -> None:
        self.base = base
        self.rank, self.alpha = lora.rank, lora.alpha
        layer_count = int(base.model.config.num_hidden_layers)
        chosen = _chosen_layers(lora.layers, layer_count)
        config = LoraConfig(
            r=lora.rank,
            lora_alpha=int(lora.alpha) if float(lora.alpha).is_integer() else lora.alpha,  # type: ignore[arg-type]
            lora_dropout=0.0,
            target_modules=list(lora.target_modules),
            layers_to_transform=chosen,
            task_type="CAUSAL_LM",
        )
        try:
            self.peft_model: Any = get_peft_model(base.model, config)
        except ValueError as error:
            raise BaseModelError(
                "lora.target_modules match no linear map of the base",
                found=", ".join(lora.target_modules),
                expected="names such as " + ", ".join(sorted(_linear_names(base.model))[:8]),
                remedy="correct lora.target_modules",
            ) from error
        self._layers = _lora_layers(self.peft_model)
        self.maps = {path: (int(m.out_features), int(m.in_features)) for path, m in self._layers.items()}
        self._check_rank(lora.rank)
        if has_core:
            for layer in self._layers.values():
                layer.lora_B[_ADAPTER] = CoreB(lora.rank, layer.out_features).to(base.device)
        self._hooked: tuple[str, ...] | None = None
        self.first_layer = min(chosen) if _uniform_layers(base.model.config) else 0
        backbone: nn.Module = base.model.model
        self.prefix_module = _slice_backbone(backbone, 0, self.first_layer, keep_norm=False)
        self.tail = GradSampleModule(
            _slice_backbone(backbone, self.first_layer, layer_count, keep_norm=True),
            batch_first=True,
            loss_reduction="sum",
            strict=False,
        )

    def _check_rank(self, rank: int) -> None:
        for path, shape in self.maps.items():
            if rank > min(shape):
                raise BaseModelError(
                    f"lora.rank is above the size of {path}",
                    found=f"rank {rank} on a map of {shape[0]}x{shape[1]}",
                    expected=f"at most {min(shape)}",
                    remedy="lower lora.rank or leave that map out of lora.target_modules",
                )

    def detach(self) -> None:
        """Take the adapter off the base again; this object is of no use afterwards."""
        self.tail.remove_hooks()
        self.peft_model.unload()

    def factor_parameters(self) -> dict[str, nn.Parameter]:
        """Every factor's parameter by the name that AdapterState gives it."""
        found: dict[str, nn.Parameter] = {}
        for path, layer in self._layers.items():
            found[f"{path}:A"] = layer.lora_A[_ADAPTER].weight
            b_side = layer.lora_B[_ADAPTER]
            if isinstance(b_side, CoreB):
                found[f"{path}:R"] = b_side.R.get_parameter("weight")
                found[f"{path}:U"] = b_side.U.get_parameter("weight")
            else:
                found[f"{path}:B"] = b_side.get_parameter("weight")
        return dict(sorted(found.items()))

    def set_trainable(self, factors: tuple[str, ...]) -> dict[str, nn.Parameter]:
        """Let only these factors (`A`, `B`, `R`) train; returns their parameters in the order of names."""
        trained = {}
        for name, parameter in self.factor_parameters().items():
            parameter.requires_grad_(name.rsplit(":", 1)[1] in factors)
            if parameter.requires_grad:
                trained[name] = parameter
        if factors != self._hooked:
            # Opacus hooks the maps that are trainable when it is told to, and fails on those that are frozen later.
            self.tail.remove_hooks()
            self.tail.add_hooks(loss_reduction="sum", batch_first=True)
            self._hooked = factors
        return trained

    @torch.no_grad()
    def load(self, state: AdapterState) -> None:
        """Write every factor of `state` into the model; its names and shapes must be the model's own."""
        parameters = self.factor_parameters()
        if set(parameters) != set(state.tensors):
            raise BaseModelError(
                "the adapter's factors are not those of this base and job", remedy="compare rule and lora settings"
            )
        for name, parameter in parameters.items():
            parameter.copy_(torch.from_numpy(np.array(state.tensors[name])))

    def state(self) -> AdapterState:
        """All factors as they stand, in fp32 on the CPU."""
        return AdapterState({n: p.detach().cpu().numpy().copy() for n, p in self.factor_parameters().items()})

    @torch.no_grad()
    def prefix(self, token_ids: Tensor) -> Tensor:
        """Hidden states that enter the first adapted layer. (B, T) int64 -> (B, T, H)."""
        hidden: Tensor = self.prefix_module(input_ids=token_ids, use_cache=False).last_hidden_state
        return hidden

    def final_hidden(self, entering: Tensor) -> Tensor:
        """Normalised hidden states after the last layer.

        (B, T, H) -> (B, T, H). Right padding needs no mask: attention is causal.
        """
        hidden: Tensor = self.tail(inputs_embeds=entering, use_cache=False).last_hidden_state
        return hidden

    def base_weight(self, path: str) -> Tensor:
        """The frozen weight (out, in) under one adapted map."""
        weight: Tensor = self._layers[path].get_base_layer().weight
        return weight


def svd_factors(model: AdaptedModel) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Truncated SVD of every adapted base weight: {path: (U_r·S_r (out, r), V_rᵀ (r, in))}.

    Computed once, when a job is submitted, and distributed as bytes: signs and last bits of an SVD differ between
    machines.
    """
    factors = {}
    for path in model.maps:
        left, singular, right = torch.linalg.svd(model.base_weight(path).double().cpu(), full_matrices=False)
        scaled = left[:, : model.rank] * singular[: model.rank]
        factors[path] = (scaled.float().numpy(), right[: model.rank].float().numpy())
    return factors


def save_peft(model: AdaptedModel, factors: AdapterState, folder: Path) -> None:
    """Write A and B factors in PEFT's own format, which `PeftModel.from_pretrained` loads.

    Args:
        factors: the A and B factors only, as a rule's `to_peft` returns them.
    """
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, tensor in factors.tensors.items():
        path, factor = name.rsplit(":", 1)
        tensors[f"base_model.model.{path}.lora_{factor}.weight"] = np.ascontiguousarray(tensor)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = copy.copy(model.peft_model.peft_config[_ADAPTER])
    config.inference_mode = True
    config.base_model_name_or_path = model.base.name
    config.save_pretrained(str(folder))


def _chosen_layers(setting: str, layer_count: int) -> list[int]:
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


def _uniform_layers(config: Any) -> bool:
    """Whether every decoder layer works alike, so that a slice of them can stand alone.

    Models with sliding-window layers pick each layer's mask by its index in the full stack; those run whole.
    """
    kinds: Any = getattr(config, "layer_types", None)
    return kinds is None or len(set(kinds)) == 1


def _slice_backbone(backbone: nn.Module, start: int, stop: int, *, keep_norm: bool) -> nn.Module:
    """A decoder that shares the backbone's weights and runs only its layers start..stop."""
    part = copy.copy(backbone)
    part._modules = dict(backbone._modules)
    part.layers = nn.ModuleList(list(backbone.layers)[start:stop])  # type: ignore[arg-type]
    if keep_norm:
        if start > 0:
            part.embed_tokens = (
                nn.Identity()
            )  # Embeddings enter from outside; the tail must not count the table as its own.
    else:
        part.norm = nn.Identity()
    return part


def _lora_layers(peft_model: nn.Module) -> Mapping[str, Any]:
    prefix = "base_model.model."
    return {
        name.removeprefix(prefix): module
        for name, module in sorted(peft_model.named_modules())
        if hasattr(module, "lora_A") and _ADAPTER in module.lora_A
    }


def _linear_names(model: nn.Module) -> set[str]:
    return {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
