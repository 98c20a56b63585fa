"""Next-token cross-entropy over a large vocabulary, without a row of logits as long as the vocabulary.

    loss(h, t) = log Σ_v exp(l_v) − l_t,   l_v = h · e_v, or cap · tanh(h · e_v / cap)
    ∂loss/∂h = Σ_v p_v l'_v e_v − l'_t e_t,   p = softmax(l),  l' = 1 − (l / cap)² or 1

The vocabulary is read in pieces, with the running maximum, sum and weighted sum of embeddings that attention kernels
keep (Dao et al. 2022, arXiv 2205.14135): the gradient is attention from h to the embeddings. So there are two products
with the vocabulary, as there were with whole rows; what is gone are the logits, their logarithms and the gradients of
both, 16 bytes a target and token of the vocabulary.
"""

from typing import Any

import torch
from torch import Tensor

from yoriai.client.model.limits import VOCABULARY_AT_ONCE


def token_losses(hidden: Tensor, output_embedding: Tensor, wanted: Tensor, cap: float | None = None) -> Tensor:
    """Cross-entropy of each wanted token.

    Args:
        hidden: (N, H) float32, the state before each.
        output_embedding: (V, H), frozen: no gradient reaches it.
        wanted: (N,) int64 tokens.
        cap: as `layers.output_logits`.

    Returns:
        (N,) nats. Row by row: no row's value depends on the others'.
    """
    losses: Tensor = _TokenLosses.apply(hidden, output_embedding, wanted, cap)  # type: ignore[no-untyped-call]
    return losses


class _TokenLosses(torch.autograd.Function):
    """The gradient is worked out with the loss, where one is wanted, and kept: (N, H)."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, embedding: Tensor, wanted: Tensor, cap: float | None) -> Tensor:
        own = embedding[wanted].float()
        of_wanted = (hidden * own).sum(1)
        if cap is not None:
            of_wanted = cap * torch.tanh(of_wanted / cap)
        top = torch.full_like(of_wanted, -torch.inf)
        total = torch.zeros_like(of_wanted)
        pulled = torch.zeros_like(hidden) if ctx.needs_input_grad[0] else None
        for part in map(Tensor.float, torch.split(embedding, VOCABULARY_AT_ONCE)):
            logits = hidden @ part.T  # (N, tokens of the part)
            if cap is not None:
                logits = torch.tanh_(logits.div_(cap)).mul_(cap)
            slope = None if cap is None or pulled is None else 1 - (logits / cap).square_()
            higher = torch.maximum(top, logits.amax(1))
            faded = torch.exp(top - higher)
            weights = logits.sub_(higher[:, None]).exp_()
            total = total * faded + weights.sum(1)
            if pulled is not None:
                pulled = pulled * faded[:, None] + (weights if slope is None else weights.mul_(slope)) @ part
            top = higher
        if pulled is not None:
            pull = own if cap is None else own * (1 - (of_wanted / cap) ** 2)[:, None]
            ctx.save_for_backward(pulled / total[:, None] - pull)
        return top + total.log() - of_wanted

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return grads[0][:, None] * gradient, None, None, None
