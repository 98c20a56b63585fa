"""Each record's gradient of linear maps, from what enters a map and what comes back to it: a row a record.

A map y = x Wᵀ of a record's positions t has the gradient Σ_t g_t x_tᵀ, where g_t is that of the loss by y_t. Plain
training sums over records in the same product and keeps only the sum. Here each record's is put into its place in a
matrix that has the trained factors one after another, (N, n) float32. The product is taken in float32 whatever the pass
computed with. A whole gradient's norm is known only when the pass has ended, so clipping comes afterwards (`dpsgd.py`).

Assumes: losses are summed over records, records are the first axis of what enters and leaves a map, and each map has a
part in a pass once. Whoever passes a map twice is refused, since its rows would be those of two passes.
Does not cover: biases; gradients that differ with the other records of their batch before they come here, see
`yoriai.client.base.pieces`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from yoriai.errors import TrainingError

Block = tuple[slice, ...]
"""A part of a parameter, one slice an axis; () is all of it."""


@dataclass(frozen=True)
class _Place:
    """Where a factor's gradients stand in a row, and of which rows and columns of the factor they are."""

    number: int
    start: int
    rows: slice
    columns: slice


class RecordGradients:
    """Takes in what one backward pass leaves.

    What that saves for a block: memory and work for the gradients outside of it. What it does not save: the forward
    pass and the gradients of activations, which go through the whole factor.

    Args:
        weights: of the maps that train, each (out, in).
        blocks: rows and columns of each whose gradient is wanted; None for all of it.
        space: (M, n) float32 that nobody reads any more; gradients of up to M records are written there, since memory
            that comes fresh from the system costs more than what is written into it.
    """

    def __init__(
        self,
        weights: Sequence[nn.Parameter],
        blocks: Sequence[Block] | None = None,
        *,
        space: Tensor | None = None,
    ) -> None:
        chosen = [block or (slice(None), slice(None)) for block in blocks or [()] * len(weights)]
        shapes = [weight[block].shape for weight, block in zip(weights, chosen, strict=True)]
        ends = list(accumulate(map(math.prod, shapes), initial=0))
        self._places = {
            weight: _Place(number, ends[number], rows, columns)
            for number, (weight, (rows, columns)) in enumerate(zip(weights, chosen, strict=True))
        }
        self._entries = ends[-1]
        self._filled: set[int] = set()
        self._space = space
        self._matrix: Tensor | None = None

    def linear(self, entering: Tensor, weight: nn.Parameter, onto: Tensor | None = None) -> Tensor:
        """x Wᵀ, on top of `onto` if there is such: (N, ..., in) -> (N, ..., out). A frozen weight leaves no gradient.

        Args:
            onto: (N, ..., out), which is overwritten where autograd allows it.
        """
        place = self._places.get(weight) if weight.requires_grad else None
        result: Tensor = _Linear.apply(entering, weight, onto, self, place)  # type: ignore[no-untyped-call]
        return result

    def take(self) -> Tensor:
        """The gradients that one backward pass left, (N, n) float32, neither clipped nor safe; forgets them.

        Raises:
            TrainingError: a factor that trains got none.
        """
        if self._matrix is None or len(self._filled) != len(self._places):
            raise TrainingError(
                "a trained factor has no gradients of one backward pass",
                found=f"those of {len(self._filled)} of {len(self._places)} factors",
                expected="one forward, one backward, one piece",
            )
        taken, self._matrix = self._matrix, None
        self._filled.clear()
        return taken

    def _room(self, records: int, device: torch.device) -> Tensor:
        space, self._space = self._space, None
        if space is not None and len(space) >= records:
            return space[:records]
        return torch.empty(records, self._entries, device=device)

    def _put(self, place: _Place, coming_back: Tensor, entering: Tensor) -> None:
        """Add up a factor's gradient of each record. (N, ..., out) and (N, ..., in)."""
        back = _by_record(coming_back)[..., place.rows]
        into = _by_record(entering)[..., place.columns]
        if self._matrix is None:
            self._matrix = self._room(len(back), back.device)
        if len(back) != len(self._matrix):
            raise TrainingError("the trained factors have gradients of different numbers of records")
        if place.number in self._filled:
            raise TrainingError(
                "a trained factor has gradients of several passes", expected="one forward, one backward, one piece"
            )
        self._filled.add(place.number)
        shape = (len(back), back.shape[2], into.shape[2])
        stop = place.start + shape[1] * shape[2]
        # A batch of products in one call of the library, copied from the cache; into rows that lie apart it would be a
        # call a record, each of them shared out to threads anew.
        self._matrix[:, place.start : stop].view(shape).copy_(torch.bmm(back.transpose(1, 2), into))


class _Linear(torch.autograd.Function):
    """A linear map whose weight's gradient goes, by record, to `RecordGradients` and not to the weight."""

    @staticmethod
    def forward(
        ctx: Any,
        entering: Tensor,
        weight: Tensor,
        onto: Tensor | None,
        gradients: RecordGradients,
        place: _Place | None,
    ) -> Tensor:
        ctx.gradients, ctx.place, ctx.has_onto, ctx.entering_type = gradients, place, onto is not None, entering.dtype
        ctx.save_for_backward(weight, None if place is None else entering)
        if onto is None:
            return nn.functional.linear(entering, weight)
        # In one product with the sum: what each of them writes and reads again costs as much as a small rank's product.
        rows, columns = entering.flatten(0, -2).to(onto.dtype), weight.T.to(onto.dtype)
        if onto._is_view() or not onto.is_contiguous():  # Of a map with bias; autograd would have to copy its base.
            return torch.addmm(onto.flatten(0, -2), rows, columns).view(onto.shape)
        ctx.mark_dirty(onto)
        onto.view(-1, onto.shape[-1]).addmm_(rows, columns)
        return onto

    @staticmethod
    def backward(ctx: Any, coming_back: Tensor) -> tuple[Tensor | None, ...]:
        weight, entering = ctx.saved_tensors
        if ctx.place is not None:
            ctx.gradients._put(ctx.place, coming_back, entering)
        further = None
        if ctx.needs_input_grad[0]:
            further = (coming_back @ weight.to(coming_back.dtype)).to(ctx.entering_type)
        return further, None, coming_back if ctx.has_onto else None, None, None


def _by_record(values: Tensor) -> Tensor:
    """(N, ..., k) -> (N, positions, k) float32."""
    return values.detach().float().reshape(len(values), -1, values.shape[-1])
