"""LoRA on the base model: attach it through PEFT, and move an AdapterState in and out without loss.

The adapter sits on the last layers of the base (`lora.layers = "last:8"`), so everything before the first adapted
layer is a frozen function of the record. `AdaptedModel.prefix` computes it, `AdaptedModel.tail` carries on from
there; training repeats only the tail.
"""

import copy
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from opacus.grad_sample import GradSampleModule
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from yoriai.client.model.base_model import BaseModel
from yoriai.client.model.layers import (
    adapted_maps,
    backbone_of,
    chosen_layers,
    linear_maps,
    output_cap,
    output_logits,
    slice_backbone,
    uniform_layers,
)
from yoriai.client.model.lora_parts import CoreB, Remainder
from yoriai.client.model.magnitude import check_state, weight_norms
from yoriai.client.model.pieces import Rows, public_ids, rows_for
from yoriai.client.model.tail import Tail
from yoriai.config import LoraSection
from yoriai.errors import BaseModelError, TrainingError
from yoriai.strategies.adapter import AdapterState
from yoriai.system.files import replace_content

_ADAPTER = "default"  # PEFT's name for the only adapter


class AdaptedModel:
    """A base model with LoRA attached. One of them serves every site of a simulation in turn.

    Args:
        base: frozen, without an adapter.
        lora: which maps are adapted, and at which rank.
        factors: the rule's; R and W need parts that PEFT does not have.

    Attributes:
        maps: adapted linear maps by their path in the base, as (out_features, in_features).
        first_layer: index of the first adapted decoder layer; everything before it is the prefix.
    """

    def __init__(self, base: BaseModel, lora: LoraSection, *, factors: tuple[str, ...]) -> None:
        self.base = base
        self._lora, self.rank, self.alpha = lora, lora.rank, lora.alpha
        backbone = backbone_of(base)
        layer_count = int(base.model.config.num_hidden_layers)
        # All that may be wrong is found before PEFT changes the base, which is to serve other jobs after this one.
        self.maps = adapted_maps(linear_maps(base.model), lora, layer_count)
        self._factors = factors
        self._weight_norms = weight_norms(base.model, self.maps)
        chosen = chosen_layers(lora.layers, layer_count)
        config = LoraConfig(
            r=lora.rank,
            lora_alpha=int(lora.alpha) if float(lora.alpha).is_integer() else lora.alpha,  # type: ignore[arg-type]
            lora_dropout=0.0,
            target_modules=list(lora.target_modules),
            layers_to_transform=chosen,
            task_type="CAUSAL_LM",
        )
        self.peft_model: Any = get_peft_model(base.model, config)
        self._layers = _lora_layers(self.peft_model)
        if "R" in factors:
            for layer in self._layers.values():
                layer.lora_B[_ADAPTER] = CoreB(lora.rank, layer.out_features).to(base.device)
        self._remainders: dict[str, Remainder] = {}
        if "W" in factors:
            scale = lora.alpha / lora.rank
            self._remainders = {path: Remainder(m.get_base_layer(), scale) for path, m in self._layers.items()}
        self._hooked: tuple[str, ...] | None = None
        self._rows: dict[Hashable, Rows] = {}
        self.first_layer = min(chosen) if uniform_layers(base.model.config) else 0
        self.prefix_module = slice_backbone(backbone, 0, self.first_layer, keep_norm=False)
        self.tail = GradSampleModule(
            Tail(slice_backbone(backbone, self.first_layer, layer_count, keep_norm=True)),
            batch_first=True,
            loss_reduction="sum",
            strict=False,
        )
        # A few public tokens as they enter the tail, to see whether the model computes.
        self._probe_ids = torch.arange(1, 5, device=base.device)[None] % int(base.model.config.vocab_size)
        self._probe = self.prefix(self._probe_ids)
        self._check_split()

    @torch.no_grad()
    def _check_split(self) -> None:
        """Compare prefix, tail and output embedding with the untouched base in one piece.

        Architectures differ in what happens between their parts (scaled embeddings, scaled logits).
        """
        with self.untouched():
            expected = self.base.model(input_ids=self._probe_ids, use_cache=False).logits
            hidden = self.final_hidden(self._probe)
            output_embedding = self.base.model.get_output_embeddings().weight
            found = output_logits(hidden, output_embedding, output_cap(self.base.model.config))
            one = self.final_hidden(self._probe, torch.tensor([2], device=self.base.device))
        if not torch.allclose(one, hidden[:, 2], rtol=1e-3, atol=1e-3 * float(hidden.abs().max()), equal_nan=True):
            self.tail._module.can_stop_early = False
        if not torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()), equal_nan=True):
            self.detach()
            raise BaseModelError(
                f"base model {self.base.name} does not part into prefix, tail and output embedding",
                found=type(self.base.model).__name__,
                expected="an architecture such as LLaMA's",
                remedy="choose another base",
            )

    @torch.no_grad()
    def check_output(self) -> None:
        """Raise TrainingError if, with the adapter as loaded, public tokens give values that are not finite."""
        if not bool(torch.isfinite(self.final_hidden(self._probe)).all()):
            raise TrainingError(
                "with this round's adapter the model computes values that are not finite",
                expected="finite hidden states for a few fixed tokens, before any record is looked at",
                remedy="lower the learning rates, or check the base model",
            )

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """The bare base, for as long as the context lasts."""
        for remainder in self._remainders.values():
            remainder.unfold()
        try:
            with self.peft_model.disable_adapter():
                yield
        finally:
            for remainder in self._remainders.values():
                remainder.fold()

    def detach(self) -> None:
        """Take the adapter off the base again; this object is of no use afterwards."""
        for remainder in self._remainders.values():
            remainder.unfold()
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
            if path in self._remainders:
                found[f"{path}:W"] = self._remainders[path].W
        return dict(sorted(found.items()))

    def set_trainable(self, factors: tuple[str, ...]) -> dict[str, nn.Parameter]:
        """Let only these factors (`A`, `B`, `R`) train; returns their parameters in the order of names.

        Opacus keeps activations and counts of passes on the modules; what an interrupted pass left there goes.
        """
        trained = {}
        for name, parameter in self.factor_parameters().items():
            parameter.requires_grad_(name.rsplit(":", 1)[1] in factors)
            if parameter.requires_grad:
                trained[name] = parameter
            parameter._forward_counter = 0  # type: ignore[attr-defined]
            parameter.grad_sample = parameter.grad = None  # type: ignore[attr-defined]
            vars(parameter).pop("_current_grad_sample", None)
        self._mark_training()
        if factors != self._hooked:
            # Opacus hooks the maps that are trainable when it is told to, and fails on those that are frozen later.
            self.tail.remove_hooks()
            self.tail.add_hooks(loss_reduction="sum", batch_first=True)
            self._hooked = factors
        return trained

    def _mark_training(self) -> None:
        """Opacus watches modules in training mode; the base stays in evaluation mode, so that it drops nothing out."""
        self.tail.eval()
        for layer in self._layers.values():
            for side in (layer.lora_A[_ADAPTER], layer.lora_B[_ADAPTER]):
                for module in side.train().modules():
                    vars(module).pop("activations", None)
                    vars(module).pop("max_batch_len", None)

    def check(self, state: AdapterState) -> None:
        """Raise AdapterError unless the state holds every factor of this model, of its shape, finite, in proportion."""
        check_state(state, self.maps, self._weight_norms, self._lora, self._factors)

    @torch.no_grad()
    def load(self, state: AdapterState) -> None:
        """Write every factor of `state` into the model. Raises AdapterError as `check`."""
        self.check(state)
        for name, parameter in self.factor_parameters().items():
            parameter.copy_(torch.from_numpy(np.array(state.tensors[name])))
        for remainder in self._remainders.values():
            remainder.fold()

    def state(self) -> AdapterState:
        """All factors as they stand, in fp32 on the CPU."""
        return AdapterState({n: p.detach().cpu().numpy().copy() for n, p in self.factor_parameters().items()})

    def prefix_rows(self, tokens: int, most: int) -> Rows:
        """How many records of that many tokens, `most` at most, may pass through the prefix at once."""
        ids = public_ids(most, tokens, int(self.base.model.config.vocab_size)).to(self.base.device)
        return self.rows(
            ("prefix", tokens, most),
            lambda: rows_for(lambda chosen: self.prefix(ids[list(chosen)]).flatten(1), tokens, most, self.base.device),
        )

    def rows(self, key: Hashable, find_out: Callable[[], Rows]) -> Rows:
        """What `find_out` found for the key; it is asked once."""
        if key not in self._rows:
            self._rows[key] = find_out()
        return self._rows[key]

    @contextmanager
    def stirred(self) -> Iterator[None]:
        """Public random factors, for as long as the context lasts: with some of them zero, gradients would be."""
        generator, kept = torch.Generator().manual_seed(0), {}
        with torch.no_grad():
            for name, parameter in self.factor_parameters().items():
                kept[name] = parameter.clone()
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self.factor_parameters().items():
                    parameter.copy_(kept[name])

    @torch.no_grad()
    def prefix(self, token_ids: Tensor) -> Tensor:
        """Hidden states that enter the first adapted layer. (B, T) int64 -> (B, T, H)."""
        hidden: Tensor = self.prefix_module(input_ids=token_ids, use_cache=False).last_hidden_state
        return hidden

    def final_hidden(self, entering: Tensor, at: Tensor | None = None) -> Tensor:
        """Normalised hidden states after the last layer: (B, T, H) -> (B, T, H), or (B, H) at positions `at` (B,)."""
        hidden: Tensor = self.tail(entering, at)
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
        factors: the A and B factors only, as a rule's `to_peft` returns them. Their rank may be another than the
            job's, and differ from map to map; PEFT's alpha then grows with it, so that the scale stays.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    from safetensors.numpy import save

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, tensor in factors.tensors.items():
        path, factor = name.rsplit(":", 1)
        tensors[f"base_model.model.{path}.lora_{factor}.weight"] = np.ascontiguousarray(tensor)
    # By our own hand, for the system's own errors, and so that a full disk leaves the adapter of before.
    replace_content(folder / "adapter_model.safetensors", save(tensors, metadata={"format": "pt"}))
    config = copy.copy(model.peft_model.peft_config[_ADAPTER])
    config.inference_mode = True
    ranks = {path: factors.factor(path, "A").shape[0] for path in factors.module_paths()}
    config.rank_pattern = {path: rank for path, rank in ranks.items() if rank != model.rank}
    config.alpha_pattern = {path: model.alpha * rank / model.rank for path, rank in ranks.items() if rank != model.rank}
    config.base_model_name_or_path = model.base.name
    config.save_pretrained(str(folder))


def _lora_layers(peft_model: nn.Module) -> Mapping[str, Any]:
    prefix = "base_model.model."
    return {
        name.removeprefix(prefix): module
        for name, module in sorted(peft_model.named_modules())
        if hasattr(module, "lora_A") and _ADAPTER in module.lora_A
    }
