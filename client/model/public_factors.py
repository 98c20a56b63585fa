"""Fixed factors of `core` from public texts: the directions in which a task's texts move a map, and not its weight's.

    x into a map, δ = ∂loss/∂y at its output y = W x, over the tokens of public texts;
    C_x = E[x xᵀ] = V diag(λ) Vᵀ,   C_δ = E[δ δᵀ] = Q diag(μ) Qᵀ
    A = a · (diag(1 / √(λ_r + ρ λ̄)) V_rᵀ),   U = u · Q_r

with the r largest eigenvalues, their mean λ̄ over all, and a ridge ρ. The gradient of the core is Uᵀ δ (A x)ᵀ: the
right side has about equal size in each direction, as noise has, and the left side keeps the directions in which outputs
are wanted to move. a and u make A x and U as large, in the mean, as they are with the weight's SVD, whose rates
therefore serve.

Nothing here comes from a record: it costs no privacy. Kin: AdaDPS (Li et al. 2022, arXiv 2202.05963), K-FAC.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from yoriai.client.model.lora import AdaptedModel
from yoriai.client.model.prepared import PreparedRecords
from yoriai.client.model.tasks import TaskHead
from yoriai.client.records.encoding import Example
from yoriai.errors import ConfigError

RIDGE: Final = 0.1
_AT_ONCE: Final = 16
_TINY: Final = float(np.finfo(np.float32).tiny)

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """What public texts do at one map, summed over tokens.

    Attributes:
        tokens: how many.
        inputs: Σ x xᵀ, (in, in).
        gradients: Σ δ δᵀ, (out, out).
    """

    tokens: int
    inputs: Matrix
    gradients: Matrix


def moments(
    model: AdaptedModel,
    head: TaskHead,
    examples: Sequence[Example],
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Moments]:
    """Of every adapted map of the bare base, by path.

    Args:
        progress: called with (examples done, examples in all).

    Raises:
        ConfigError: no example holds a target, so nothing says how outputs are to move.
    """
    if not any(example.loss_mask.any() for example in examples):
        raise ConfigError("no public text is long enough to learn from", remedy="give longer ones in public.texts")
    records = PreparedRecords(model, examples, known=None)
    sums = {path: (np.zeros((into, into)), np.zeros((out, out))) for path, (out, into) in model.maps.items()}
    done = 0
    with model.untouched():
        for batch in records.batches(range(len(examples)), _AT_ONCE):
            with _watched(model) as seen:
                batch.entering.requires_grad_()  # Else nothing in the frozen tail would have a gradient.
                losses = head.losses(head.hidden(model, batch), batch).sum()
            gradients = torch.autograd.grad(losses, [y for _, y in seen.values()])
            real = torch.arange(batch.token_ids.shape[1], device=batch.last.device) <= batch.last[:, None]  # (B, T)
            for (path, (x, _)), delta in zip(seen.items(), gradients, strict=True):
                for total, rows in zip(sums[path], (x.detach()[real].double(), delta[real].double()), strict=True):
                    np.add(total, (rows.T @ rows).cpu().numpy(), out=total)
            done += len(batch.last)
            if progress is not None:
                progress(done, len(examples))
    tokens = sum(len(example.token_ids) for example in examples)
    return {path: Moments(tokens, *both) for path, both in sums.items()}


@contextmanager
def _watched(model: AdaptedModel) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Input and output of every adapted map, as passes go through."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(path: str) -> Any:
        def hook(_module: object, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen[path] = (inputs[0], output)

        return hook

    handles = [model.adapted_layer(path).register_forward_hook(keep(path)) for path in model.maps]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def public_factors(
    found: Moments, svd: tuple[NDArray[np.floating], NDArray[np.floating]]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(U (out, r), A (r, in)) of one map by the formula above.

    Args:
        svd: U_r S_r (out, r) and V_rᵀ (r, in) of its weight, whose sizes are kept.
    """
    left, right = svd[0].astype(np.float64), svd[1].astype(np.float64)
    rank = len(right)
    inputs = found.inputs / found.tokens
    values, vectors = np.linalg.eigh(inputs)
    kept = np.maximum(values[::-1][:rank], 0.0) + RIDGE * max(float(values.mean()), _TINY)
    into = vectors[:, ::-1][:, :rank].T / np.sqrt(kept)[:, None]
    into *= np.sqrt(np.trace(right @ inputs @ right.T) / np.trace(into @ inputs @ into.T))
    out = np.linalg.eigh(found.gradients)[1][:, ::-1][:, :rank]
    out = out * np.linalg.norm(left, axis=0).mean()
    return out.astype(np.float32), into.astype(np.float32)
