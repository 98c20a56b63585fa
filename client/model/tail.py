"""The layers that carry the adapter, run where a head looks: on every position, or on one a record.

A classifier reads one position of each record. In the last layer only its keys and values are needed at the others, so
queries, output and feed-forward part run on one row a record: of the last of four layers some 6 % of the work is left.
The result is the same, for training too, because what is left out touches neither loss nor gradients.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

# Subclasses compute something else in their forward pass, so the class must be this very one.
_KNOWN_LAYERS = (LlamaDecoderLayer,)


class Tail(nn.Module):
    """A slice of decoder layers with the final norm.

    Args:
        decoder: as `layers.slice_backbone` makes it.
    """

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder: Any = decoder
        last: Any = decoder.layers[-1]  # type: ignore[index]
        # Without a mask only this one is causal by itself: in others padding would reach the record before it.
        self.can_stop_early = type(last) in _KNOWN_LAYERS and last.self_attn.config._attn_implementation == "sdpa"

    def forward(self, entering: Tensor, at: Tensor | None = None) -> Tensor:
        """Normalised hidden states after the last layer.

        Args:
            entering: (B, T, H). Right padding needs no mask: attention is causal.
            at: (B,) int64 positions; None asks for all of them.

        Returns:
            (B, T, H), or (B, H) at the positions asked for.
        """
        if at is None or not self.can_stop_early:
            hidden: Tensor = self.decoder(inputs_embeds=entering, use_cache=False).last_hidden_state
            return hidden if at is None else hidden[torch.arange(len(at), device=at.device), at]
        positions = torch.arange(entering.shape[1], device=entering.device)[None]
        rotary = self.decoder.rotary_emb(entering, position_ids=positions)
        hidden = entering
        for layer in self.decoder.layers[:-1]:
            # No mask and more than one position: the attention of these layers is causal then.
            hidden = layer(hidden, attention_mask=None, position_ids=positions, position_embeddings=rotary)
        return self.decoder.norm(_layer_at(self.decoder.layers[-1], hidden, at, rotary))  # type: ignore[no-any-return]


def _layer_at(layer: Any, hidden: Tensor, at: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """One decoder layer's output at one position a record. hidden (B, T, H), at (B,) -> (B, H)."""
    rows = torch.arange(len(at), device=at.device)
    normed = layer.input_layernorm(hidden)
    residual = hidden[rows, at] + _attention_at(layer.self_attn, normed, at, rotary)
    out: Tensor = residual + layer.mlp(layer.post_attention_layernorm(residual)[:, None])[:, 0]
    return out


def _attention_at(attention: Any, normed: Tensor, at: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Attention from one position a record to all up to it. normed (B, T, H), at (B,) -> (B, H)."""
    rows, (cos, sin) = torch.arange(len(at), device=at.device), rotary  # cos, sin: (1, T, head_dim)

    def heads(projected: Tensor) -> Tensor:  # (B, T or 1, heads · head_dim) -> (B, heads, T or 1, head_dim)
        return projected.view(*projected.shape[:2], -1, attention.head_dim).transpose(1, 2)

    query = heads(attention.q_proj(normed[rows, at][:, None]))
    key, value = heads(attention.k_proj(normed)), heads(attention.v_proj(normed))
    query = _rotated(query, cos[0, at][:, None, None], sin[0, at][:, None, None])
    key = _rotated(key, cos[:, None], sin[:, None])
    seen = torch.arange(normed.shape[1], device=at.device) <= at[:, None]  # (B, T)
    mixed = functional.scaled_dot_product_attention(
        query, key, value, attn_mask=seen[:, None, None], scale=attention.scaling, enable_gqa=True
    )
    output: Tensor = attention.o_proj(mixed.transpose(1, 2).flatten(2))  # (B, 1, H)
    return output[:, 0]


def _rotated(vectors: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding (Su et al. 2021) in LLaMA's order: the halves of a head are the pairs' two parts."""
    first, second = vectors.chunk(2, dim=-1)
    return vectors * cos + torch.cat((-second, first), dim=-1) * sin
