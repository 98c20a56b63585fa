"""LoRA on the base model: attach it through PEFT, and move an AdapterState in and out without loss.

The adapter sits on the last layers of the base (`lora.layers = "last:8"`), so everything before the first adapted
layer is a frozen function of the record. `AdaptedModel.prefix` computes it, `AdaptedModel.tail` carries on from
there; training repeats only the tail.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from yoriai.client.base.base_model import BaseModel
from yoriai.client.base.layers import (
    adapted_maps,
    backbone_of,
    chosen_layers,
    linear_maps,
    output_cap,
    output_logits,
    slice_backbone,
    uniform_layers,
)
from yoriai.client.base.pieces import Shape, shape_of
from yoriai.client.model.factor_model import FactorModel
from yoriai.client.model.lora_parts import CoreB, RecordedMap, Remainder
from yoriai.client.model.magnitude import check_state, weight_norms
from yoriai.client.model.tail import Tail
from yoriai.client.records.encoding import Example
from yoriai.config import LoraSection
from yoriai.errors import BaseModelError, TrainingError
from yoriai.strategies.adapter import AdapterState

_ADAPTER = "default"  # PEFT's name for the only adapter


class AdaptedModel(FactorModel):
    """A base model with LoRA attached.

    Args:
        base: frozen, without an adapter.
        lora: which maps are adapted, and at which rank.
        factors: the rule's; R and W need parts that PEFT does not have.

    Attributes:
        maps: adapted linear maps by their path in the base, as (out_features, in_features).
        first_layer: index of the first adapted decoder layer; everything before it is the prefix.
    """

    def __init__(self, base: BaseModel, lora: LoraSection, *, factors: tuple[str, ...]) -> None:
        super().__init__(base)
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
        self._recorded = [_recorded(layer, lora.alpha / lora.rank) for layer in self._layers.values()]
        self._remainders: dict[str, Remainder] = {}
        if "W" in factors:
            scale = lora.alpha / lora.rank
            self._remainders = {path: Remainder(m.get_base_layer(), scale) for path, m in self._layers.items()}
        self.first_layer = min(chosen) if uniform_layers(base.model.config) else 0
        self.prefix_module = slice_backbone(backbone, 0, self.first_layer, keep_norm=False)
        self.peft_model.eval()
        self.tail: Tail = Tail(slice_backbone(backbone, self.first_layer, layer_count, keep_norm=True)).eval()
        self.state_width = int(base.model.config.hidden_size)
        # States depend on the base and on the layer they enter, not on the adapter: jobs may share them.
        self.states_key = ("layer", self.first_layer)
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
            self.tail.can_stop_early = False
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

    def _recorders(self) -> Iterator[RecordedMap]:
        yield from self._recorded

    def check(self, state: AdapterState) -> None:
        """Raise AdapterError unless the state holds every factor of this model, of its shape, finite, in proportion."""
        check_state(state, self.maps, self._weight_norms, self._lora, self._factors)

    def load(self, state: AdapterState) -> None:
        """Write every factor of `state` into the model. Raises AdapterError as `check`."""
        super().load(state)
        for remainder in self._remainders.values():
            remainder.fold()

    def shape(self, example: Example) -> Shape:
        """Tokens and targets, each rounded up to a ladder."""
        longest = self.base.context_tokens
        return shape_of(len(example.token_ids), int(example.loss_mask.sum()), longest=longest)

    def state_rows(self, tokens: int) -> int:
        """One a token."""
        return tokens

    def enter(self, examples: Sequence[Example], tokens: int) -> Tensor:
        """The prefix of each; see FactorModel."""
        return self.prefix(self._ids(examples, tokens))

    def peft_config(self) -> Any:
        """PEFT's own settings of the adapter."""
        return self.peft_model.peft_config[_ADAPTER]

    @torch.no_grad()
    def prefix(self, token_ids: Tensor) -> Tensor:
        """Hidden states that enter the first adapted layer. (B, T) int64 -> (B, T, H)."""
        hidden: Tensor = self.prefix_module(input_ids=token_ids, use_cache=False).last_hidden_state
        return hidden

    def final_hidden(self, entering: Tensor, at: Tensor | None = None) -> Tensor:
        """Normalised hidden states after the last layer: (B, T, H) -> (B, T, H), or (B, H) at positions `at` (B,)."""
        hidden: Tensor = self.tail(entering, at)
        return hidden

    def adapted_layer(self, path: str) -> nn.Module:
        """One adapted map, adapter included: from what enters it to what leaves it."""
        layer: nn.Module = self._layers[path]
        return layer

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


def _recorded(layer: Any, scale: float) -> RecordedMap:
    """Let a PEFT layer pass through the one that records."""
    b_side = layer.lora_B[_ADAPTER]
    maps = [layer.lora_A[_ADAPTER], *([b_side.R, b_side.U] if isinstance(b_side, CoreB) else [b_side])]
    factors = [factor.get_parameter("weight") for factor in maps]
    layer.forward = RecordedMap(layer.forward, layer.get_base_layer(), factors, scale)
    return layer.forward  # type: ignore[no-any-return]


def _lora_layers(peft_model: nn.Module) -> Mapping[str, Any]:
    prefix = "base_model.model."
    return {
        name.removeprefix(prefix): module
        for name, module in sorted(peft_model.named_modules())
        if hasattr(module, "lora_A") and _ADAPTER in module.lora_A
    }
