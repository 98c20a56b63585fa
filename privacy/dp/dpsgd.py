"""DP-SGD's release: the gradients of units, clipped over all trainable factors together, summed, noised once (Abadi et
al. 2016).

A unit is what is protected: one record, or one owner with all of their records. An owner's gradient is the sum of their
records' (as for users in McMahan et al. 2018, "Learning differentially private recurrent language models", with one
step in place of several), and that sum is clipped as one.

`record_gradients.py` makes the per-record gradients. Clipping, the sum over the pieces of a batch and the noise are
done here: the noise must come from a cryptographic stream, and a release must return the event that it costs.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from yoriai.errors import TrainingError
from yoriai.privacy.dp.accounting import SampledGaussian
from yoriai.privacy.dp.mechanisms import clip_factors, gaussian_mechanism
from yoriai.privacy.dp.randomness import RandomSource
from yoriai.privacy.dp.record_gradients import Block
from yoriai.privacy.dp.row_sums import add_scaled, norms

# A norm times its factor may be above the clip norm by this share: what rounding the factor and the product can do.
_ROUNDING = 2.0**-50


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
        squared; a row whose norm times its factor is too long counts as zero. So no row that is added is longer than
        `clip_norm` by more than 1e-11 of it, on a GPU by 1e-11 and n * 2^-54 (docs/decisions/0046). Each row is worked
        on by itself, so that not a bit of it depends on which others are there.
    Does not cover: a change of one record among an owner's, which moves the sum by up to twice `clip_norm`; gradients
        that differ with the other records of their batch before they come here. See `yoriai.client.base.pieces`.
    Edge cases: a unit whose gradient is not finite counts as zero; an empty batch sums to zero and is noised like any
        other.
    Memory: one vector of float64, and another while a unit has several records.

    Args:
        parameters: trainable tensors.
        clip_norm: bound on one unit's gradient norm; None sums without a bound, and such a sum cannot be released.
        blocks: block of each parameter that trains; None for all of it. What lies outside is neither counted in a
            unit's norm, nor summed, nor noised.
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
        chosen = [()] * len(parameters) if blocks is None else blocks
        entries = sum(parameter[block].numel() for parameter, block in zip(parameters, chosen, strict=True))
        self._rows, self._clip_norm = rows, clip_norm
        self._sum = torch.zeros(entries, dtype=torch.float64, device=parameters[0].device)
        self._begun: set[int] = set()
        self._open: tuple[int, Tensor] | None = None

    @torch.no_grad()
    def add_piece(self, gradients: Tensor, units: Sequence[int] | None = None, *, goes_on: bool = True) -> None:
        """Clip and add the gradients of whole units, from those of each record of a piece.

        Args:
            gradients: (N, n), of the blocks in the order of the parameters, as `RecordGradients.take` gives them.
            units: whose record each of the piece's first rows is, by any number; what lies after them does not count.
                None where every row is a unit of its own.
            goes_on: whether the records of the last unit may go on in the next piece; the unit stays open then.

        Raises:
            TrainingError: rows are of another length; there are more units than rows; or a unit comes back after
                another one.
        """
        if gradients.shape[1] != len(self._sum):
            raise TrainingError(
                "gradients are of another size than the trained factors",
                found=f"{gradients.shape[1]} numbers a record",
                expected=str(len(self._sum)),
            )
        if units is None:
            self._add(list(gradients))
            return
        if len(units) > len(gradients):
            raise TrainingError("a piece has fewer gradients than records")
        ended: list[Tensor] = []
        for unit, row in zip(units, gradients, strict=False):
            if self._open is not None and self._open[0] == unit:
                self._open = (unit, self._open[1].double().add_(row))
                continue
            self._check_new(unit)
            ended += self._taken()
            if ended and ended[-1].dtype == torch.float64:  # Of several records: a vector of its own, and never two.
                self._add(ended)
                ended = []
            self._open = (unit, row)
        if not goes_on:
            ended += self._taken()
        self._add(ended)
        if self._open is not None:  # On its own, so that the piece's memory is given back.
            self._open = (self._open[0], self._open[1].double())

    def _check_new(self, unit: int) -> None:
        if unit in self._begun:
            raise TrainingError(
                "a unit of privacy comes back in a batch, and would be clipped twice",
                expected="each owner's records one after another",
            )
        self._begun.add(unit)

    def end_unit(self) -> None:
        """Clip and add the open unit: all of its records are there. A batch's last one ends with the batch."""
        self._add(self._taken())

    def _taken(self) -> list[Tensor]:
        """The open unit's gradient, which is open no more; none if there is no such unit."""
        taken, self._open = self._open, None
        return [] if taken is None else [taken[1]]

    def _add(self, rows: Sequence[Tensor]) -> None:
        """Clip and add the gradients of whole units, each (n,) float32 or float64, in their order."""
        factors = [self._factor(norm) for norm in norms(rows)]
        if self._rows is None:
            counted = [(row, factor) for row, factor in zip(rows, factors, strict=True) if factor is not None]
            add_scaled(self._sum, [row for row, _ in counted], [factor for _, factor in counted])
            return
        for row, factor in zip(rows, factors, strict=True):
            finished = torch.zeros_like(self._sum) if factor is None else row.double() * factor
            self._rows.add(finished[None].cpu().numpy())

    def _factor(self, norm: float) -> float | None:
        """What a row of that norm is multiplied with; None where it is not finite or stays too long: it is zero then.

        The product's norm is the row's times the factor, but for a last bit of each number; so it is not measured anew.
        """
        if not math.isfinite(norm):
            return None
        if self._clip_norm is None:
            return 1.0
        factor = float(clip_factors(np.array([norm]), self._clip_norm)[0])
        return factor if norm * factor <= self._clip_norm * (1.0 + _ROUNDING) else None

    def add_rows(self, rows: np.ndarray) -> None:
        """Clip and add gradients that are given as rows (N, n), in the order of `flat`, as those of N records.

        For an audit's canaries: from here on they go the way that the gradients of real records go.
        """
        self.add_piece(torch.as_tensor(rows).to(self._sum.device, torch.float32))

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
