"""DP-SGD's release: the gradients of units, clipped over all trainable factors together, summed, noised once (Abadi et
al. 2016).

A unit is what is protected: one record, or one owner with all of their records. An owner's gradient is the sum of their
records' (as for users in McMahan et al. 2018, "Learning differentially private recurrent language models", with one
step in place of several), and that sum is clipped as one.

Opacus computes the per-record gradients (`parameter.grad_sample`). Clipping, the sum over the pieces of a batch, the
noise and the public divisor are done here, because the noise must come from a cryptographic stream, the divisor must
not be the live batch size, and a release must return the event that it costs.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import torch
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn

from yoriai.errors import TrainingError
from yoriai.privacy.dp.accounting import SampledGaussian
from yoriai.privacy.dp.mechanisms import clip_factors, gaussian_mechanism
from yoriai.privacy.dp.randomness import RandomSource

Block = tuple[slice, ...]
"""A part of a parameter, one slice an axis; () is all of it."""


# Entries of gradients that are laid out as flat rows at a time, so that the copy stays small beside Opacus' own.
_ENTRIES_AT_A_TIME = 1 << 22
_CHUNK = 1 << 16
# A finished row may be longer than the clip norm by this share: far above what rounding does in float64, and far below
# what would matter beside the noise.
_ROUNDING = 1e-9


class Rows(Protocol):
    """What takes units' clipped gradients one by one, where their sum in floating point is not what is wanted."""

    def add(self, rows: np.ndarray) -> None:
        """Take in clipped gradients of whole units, (U, n) float64, in the order of `ClippedGradientSum.flat`."""


class ClippedGradientSum:
    """Sum of one logical batch's clipped gradients, one a unit, gathered in physical pieces.

    Neighbouring relation: add or remove one unit: a record, or an owner with all of their records.
    Sensitivity: one unit moves the sum by at most `clip_norm` in L2 norm over all parameters together.
    Assumes: each unit's records come one after another, in one batch once. A unit that comes back is refused, since
        it would have been clipped twice.
    Precision: norm, factor, product and sum are taken in float64, where no float32 overflows or vanishes when it is
        squared; each finished row's norm is taken once more, and a row that is too long counts as zero. Each row is
        worked on by itself, so that not a bit of it depends on which others are there.
    Does not cover: a change of one record among an owner's, which moves the sum by up to twice `clip_norm`; gradients
        that differ with the other records of their batch before they come here. See `yoriai.client.base.pieces`.
    Edge cases: a unit whose gradient is not finite counts as zero; an empty batch sums to zero and is noised like any
        other.
    Memory: beyond what Opacus fills, some units' rows at a time, and three vectors of float64.

    Args:
        parameters: trainable tensors, whose `grad_sample` (N, *shape) Opacus fills.
        clip_norm: bound on one unit's gradient norm; None sums without a bound, and such a sum cannot be released.
        blocks: block of each parameter that trains; None for all of it. What lies outside is neither counted in a
            unit's norm, nor summed, nor noised. See `block_gradients` for not computing it in the first place.
        rows: takes the clipped gradients in place of this object's own sum, which then stays zero.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        clip_norm: float | None,
        blocks: Sequence[Block] | None = None,
        *,
        rows: Rows | None = None,
    ) -> None:
        self._parameters = list(parameters)
        self._rows = rows
        self._blocks = [() for _ in self._parameters] if blocks is None else list(blocks)
        self._clip_norm = clip_norm
        self._shapes = [p[block].shape for p, block in zip(self._parameters, self._blocks, strict=True)]
        self._sum = torch.zeros(sum(map(math.prod, self._shapes)), dtype=torch.float64, device=parameters[0].device)
        self._begun: set[int] = set()
        self._open: tuple[int, Tensor] | None = None
        self._clear()  # What a round that broke off left behind belongs to no record of this batch.

    @torch.no_grad()
    def add_piece(self, units: Sequence[int] | None = None) -> None:
        """Take the per-record gradients that one backward pass left, clip and add those of whole units, clear them.

        Args:
            units: whose record each of the piece's first rows is, by any number; what lies after them does not count.
                None where every row is a unit of its own. The last unit of a piece stays open, because its records
                may go on in the next one.

        Raises:
            TrainingError: a parameter got no per-record gradients, or those of another number of records, or of
                several passes; there are more units than rows; or a unit comes back after another one.
        """
        gradients = [_grad_sample(p, block) for p, block in zip(self._parameters, self._blocks, strict=True)]
        if len({len(gradient) for gradient in gradients}) != 1:
            raise TrainingError("the trained factors hold gradients of different numbers of records")
        self._clear()
        if units is None:
            for row in _rows(gradients):
                self._add(row.double())
            return
        if len(units) > len(gradients[0]):
            raise TrainingError("a piece has fewer gradients than records")
        for unit, row in zip(units, _rows(gradients), strict=False):
            self._add_record(unit, row)

    def _add_record(self, unit: int, row: Tensor) -> None:
        """Add a record's row (n,) to its unit's, after ending the unit before it."""
        if self._open is not None and self._open[0] == unit:
            self._open[1].add_(row)
            return
        self._check_new(unit)
        self.end_unit()
        self._open = (unit, row.double())

    def _check_new(self, unit: int) -> None:
        if unit in self._begun:
            raise TrainingError(
                "a unit of privacy comes back in a batch, and would be clipped twice",
                expected="each owner's records one after another",
            )
        self._begun.add(unit)

    def end_unit(self) -> None:
        """Clip and add the open unit: all of its records are there. A batch's last one ends with the batch."""
        if self._open is not None:
            _, row = self._open
            self._open = None
            self._add(row)

    def _add(self, row: Tensor) -> None:
        """Clip and add the gradient of a whole unit, (n,) float64, which is overwritten."""
        finished = self._finished(row)
        if self._rows is not None:
            self._rows.add(finished[None].cpu().numpy())
            return
        for total, part in zip(_chunks(self._sum), _chunks(finished), strict=True):
            total.add_(part)

    def _finished(self, row: Tensor) -> Tensor:
        """A unit's row (n,) float64, clipped in place; zero where it is not finite, or still too long."""
        norm = _norm(row)
        if self._clip_norm is None:
            return row if math.isfinite(norm) else row.zero_()
        factor = float(clip_factors(np.array([norm]), self._clip_norm)[0])
        if factor == 1.0:
            return row
        for part in _chunks(row):
            part.mul_(factor)
        return row if _norm(row) <= self._clip_norm * (1.0 + _ROUNDING) else row.zero_()

    @torch.no_grad()
    def add_rows(self, rows: np.ndarray) -> None:
        """Clip and add gradients that are given as rows (N, n), in the order of `flat`, as those of N records.

        For an audit's canaries: from here on they go the way that Opacus' gradients of real records go.
        """
        start = 0
        for parameter, block, shape in zip(self._parameters, self._blocks, self._shapes, strict=True):
            samples = parameter.new_zeros((len(rows), *parameter.shape))
            stop = start + math.prod(shape)
            given = torch.as_tensor(rows[:, start:stop]).to(samples)
            samples[(slice(None), *block)] = given.view(len(rows), *shape)
            parameter.grad_sample = samples  # type: ignore[attr-defined]
            start = stop
        self.add_piece()

    def flat(self) -> np.ndarray:
        """The sum as one float64 vector (n,): blocks blocks in the order of the parameters. Private until noised.

        It ends the batch's last unit.
        """
        self.end_unit()
        return self._sum.cpu().numpy()

    def release(
        self, *, noise_multiplier: float, sampling_rate: float, source: RandomSource
    ) -> tuple[np.ndarray, SampledGaussian]:
        """The noised sum (n,) float64, together with the event that it costs.

        Guarantee, assumptions and reference are those of `mechanisms.gaussian_mechanism`; the units of the batch
        must have been drawn by Poisson sampling at `sampling_rate`, each with all of its records.
        """
        if self._clip_norm is None:
            raise TrainingError("an unclipped gradient sum has no sensitivity and cannot be released")
        return gaussian_mechanism(
            self.flat(),
            clip_norm=self._clip_norm,
            noise_multiplier=noise_multiplier,
            sampling_rate=sampling_rate,
            source=source,
        )

    def _clear(self) -> None:
        _clear(self._parameters)


@torch.no_grad()
def take_gradients(parameters: Sequence[nn.Parameter], blocks: Sequence[Block]) -> Tensor:
    """The per-record gradients that one backward pass left, (N, n) float32, neither clipped nor safe; clears them."""
    gradients = [_grad_sample(p, block) for p, block in zip(parameters, blocks, strict=True)]
    _clear(parameters)
    return torch.cat([gradient.flatten(1) for gradient in gradients], dim=1)


def _clear(parameters: Sequence[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.grad_sample = None  # type: ignore[attr-defined]
        parameter.grad = None


def split_like(
    vector: np.ndarray, parameters: Sequence[nn.Parameter], blocks: Sequence[Block] | None = None
) -> Iterator[Tensor]:
    """Cut a flat vector (n,) back into tensors of the parameters' shapes, types and devices; zero outside `blocks`."""
    start = 0
    for parameter, block in zip(parameters, blocks or [()] * len(parameters), strict=True):
        whole = torch.zeros_like(parameter)
        inside = whole[block]
        stop = start + inside.numel()
        inside.copy_(torch.from_numpy(vector[start:stop]).view(inside.shape))
        yield whole
        start = stop


@contextmanager
def block_gradients(network: GradSampleModule, blocks: Mapping[nn.Parameter, Block]) -> Iterator[None]:
    """Within it, Opacus computes the per-record gradients of linear maps for these blocks of their weights only.

    What that saves: memory and work for the gradients outside the blocks, N times the entries left out, which is what
    a rank costs in training beyond a plain forward pass. What it does not save: the forward pass and the gradients of
    activations, which go through the whole adapter.

    Args:
        blocks: block (rows, columns) of each weight that trains. Maps without bias.
    """

    def sampler(layer: nn.Linear, activations: list[Tensor], backprops: Tensor) -> dict[nn.Parameter, Tensor]:
        weight = layer.get_parameter("weight")
        if weight not in blocks:
            return {}
        rows, columns = blocks[weight]
        entering = activations[0][..., columns].to(backprops.dtype)  # (N, ..., in)
        return {weight: torch.einsum("n...i,n...j->nij", backprops[..., rows], entering)}

    # On this one module, in front of the table that all of Opacus shares.
    network.GRAD_SAMPLERS = {**GradSampleModule.GRAD_SAMPLERS, nn.Linear: sampler}
    try:
        yield
    finally:
        del network.GRAD_SAMPLERS


def _rows(gradients: Sequence[Tensor]) -> Iterator[Tensor]:
    """Each record's gradient as one flat row (n,), from what each parameter has of it, (N, *shape)."""
    entries = sum(gradient[0].numel() for gradient in gradients)
    at_a_time = max(1, _ENTRIES_AT_A_TIME // entries)
    for first in range(0, len(gradients[0]), at_a_time):
        yield from torch.cat([g[first : first + at_a_time].flatten(1) for g in gradients], dim=1)


def _norm(vector: Tensor) -> float:
    return math.sqrt(sum(map(_squared, _chunks(vector))))


def _squared(vector: Tensor) -> float:
    """Squared norm of a float64 vector.

    On a CPU not by torch: its threads, woken for each row, would wait for those of numpy's own library, which works on
    rows in turn with them where noise is distributed, and rows took seventy times as long.
    """
    if vector.device.type != "cpu":
        return float(torch.dot(vector, vector))
    values = vector.numpy()
    return float(np.einsum("i,i->", values, values))


def _chunks(vector: Tensor) -> Sequence[Tensor]:
    """A vector in pieces that stay in a core's cache while they are worked on; cut by its length alone."""
    whole = vector.device.type != "cpu" or len(vector) <= _CHUNK
    return (vector,) if whole else torch.split(vector, _CHUNK)


def _grad_sample(parameter: nn.Parameter, block: Block) -> Tensor:
    """Opacus' per-record gradients of a block of one parameter, (N, *shape of the block)."""
    samples = parameter.grad_sample  # type: ignore[attr-defined]
    if not isinstance(samples, Tensor):
        # A list holds several backward passes: whether its rows are the same records or others, nobody can tell.
        raise TrainingError(
            "a trained factor has no per-record gradients of one backward pass",
            found="several passes" if samples else "none",
            expected="one forward, one backward, one piece",
        )
    # Of gradients that were computed for the block alone, the same slices take everything.
    return samples[(slice(None), *block)].float()
