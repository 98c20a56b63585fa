"""The clipped gradients of one sampled batch, the step that every kind of training at a site begins with.

    draw the batch by Poisson sampling: units of privacy, each a record, or an owner with all of their records
    for each physical piece: forward, backward, clip each unit's gradient, add

Under privacy nothing that the records decide may stop a round, because a refusal is seen outside and is paid for by
nobody: a unit whose loss or gradient is not finite counts as zero. Whether the model computes at all is asked
beforehand, on public tokens (`FactorModel.check_output`).
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import torch
from torch import Tensor, nn

from yoriai.client.base.pieces import Rows as PieceRows
from yoriai.client.base.pieces import Shape, public_ids, rows_for
from yoriai.client.model.factor_model import FactorModel
from yoriai.client.model.prepared import Batch, PreparedRecords
from yoriai.client.model.tasks import TaskHead
from yoriai.client.training.plan import TrainingPlan
from yoriai.errors import TrainingError
from yoriai.privacy.dp.dpsgd import Block, ClippedGradientSum, Rows, block_gradients, take_gradients
from yoriai.privacy.dp.mechanisms import poisson_sample
from yoriai.privacy.dp.randomness import RandomSource
from yoriai.privacy.job_terms.noise import NoNoise
from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.rank_block import rank_block


class Canaries(Protocol):
    """Records of which there is nothing but a gradient: `yoriai audit` puts them in; no other training has any.

    They count as further records of the data set: drawn by the same Poisson sampling, clipped, summed and noised with
    the real ones.
    """

    def __len__(self) -> int:
        """How many there are."""

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """Gradients before the clip, (len(indices), d), over the rank's blocks in the order of the trained factors."""


@dataclass(frozen=True, eq=False)
class RoundGradients:
    """A model that stands at a round's adapter, and whose records' gradients are asked for.

    Attributes:
        trained: the parameters that train in this round, by name.
        blocks: the part of each that this site holds.
    """

    model: FactorModel
    records: PreparedRecords
    head: TaskHead
    plan: TrainingPlan
    trained: dict[str, nn.Parameter]
    blocks: dict[str, Block]

    @classmethod
    def at(
        cls, model: FactorModel, start: AdapterState, records: PreparedRecords, head: TaskHead, plan: TrainingPlan
    ) -> Self:
        """Load the round's adapter and open the factors that train."""
        model.load(start)
        trained = model.set_trainable(plan.factors)
        blocks = {name: rank_block(name, tuple(p.shape), plan.rank) for name, p in trained.items()}
        return cls(model, records, head, plan, trained, blocks)

    def batch(
        self, source: RandomSource, *, canaries: Canaries | None = None, rows: Rows | None = None
    ) -> ClippedGradientSum:
        """Draw a batch and sum its gradients over the rank's blocks, each unit's clipped; unclipped without privacy.

        Args:
            source: of the sampling.
            canaries: for an audit alone; see Canaries.
            rows: takes the units' clipped gradients in place of the sum.

        Raises:
            TrainingError: without privacy, a loss is not a number.
        """
        units = self.records.unit_count + (len(canaries) if canaries else 0)
        drawn = poisson_sample(source, units, self.plan.sampling_rate)
        return self.of_units(drawn, canaries=canaries, rows=rows)

    def of_units(
        self, drawn: np.ndarray, *, canaries: Canaries | None = None, rows: Rows | None = None
    ) -> ClippedGradientSum:
        """As `batch`, of units that were drawn already, by their numbers in rising order."""
        own, plan = self.records.unit_count, self.plan
        drawn, further = np.split(drawn, [np.searchsorted(drawn, own)])
        clip_norm = None if isinstance(plan.noise, NoNoise) else plan.clip_norm
        total = ClippedGradientSum(list(self.trained.values()), clip_norm, list(self.blocks.values()), rows=rows)
        with self.model.threads():
            for piece in self.records.pieces(drawn, self._rows):
                self._backward(piece.batch)
                total.add_piece(piece.units)
        if canaries is not None:
            for first in range(0, len(further), plan.physical_batch_size):
                total.add_rows(canaries.rows(further[first : first + plan.physical_batch_size] - own))
        total.end_unit()
        return total

    def _rows(self, shape: Shape) -> PieceRows:
        """How many records of a shape may pass at once, so that no gradient depends on the others."""
        most = self.plan.physical_batch_size
        key = ("gradients", shape, most, self.head, self.plan.factors, self.plan.rank)
        return self.model.rows(key, lambda: self._find_out(shape, most))

    def _find_out(self, shape: Shape, most: int) -> PieceRows:
        batch, trained = self._public_batch(shape, most), list(self.trained.values())

        def run(rows: Sequence[int]) -> Tensor:
            self._backward(batch.take(rows))
            return take_gradients(trained, list(self.blocks.values()))

        with self.model.stirred():
            return rows_for(run, shape.tokens, most, self.model.base.device)

    def _public_batch(self, shape: Shape, rows: int) -> Batch:
        """Records of random numbers, as far as the layers that train are concerned."""
        config, device = self.model.base.model.config, self.model.base.device
        held, width = self.model.state_rows(shape.tokens), self.model.read_width
        states = torch.randn(rows, held, width, generator=torch.Generator().manual_seed(1))
        ends = torch.arange(shape.tokens - shape.targets, shape.tokens)
        return Batch(
            entering=states.to(device),
            token_ids=public_ids(rows, shape.tokens, config.vocab_size).to(device),
            targets=ends.expand(rows, -1).to(device),
            last=torch.full((rows,), shape.tokens - 1, device=device),
            labels=torch.zeros(rows, dtype=torch.int64, device=device),
        )

    def _backward(self, piece: Batch) -> None:
        """Leave the per-record gradients of a physical piece behind."""
        device, plan = self.model.base.device, self.plan
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            hidden = self.head.hidden(self.model, piece)
        losses = self.head.losses(hidden, piece)  # In fp32: a prior is subtracted from logits of its own size.
        if isinstance(plan.noise, NoNoise) and not bool(torch.isfinite(losses).all()):
            raise TrainingError(
                "the loss of a record is not a number",
                expected="finite losses",
                remedy="lower the learning rate, or check the base model and the records",
            )
        held_only = {parameter: self.blocks[name] for name, parameter in self.trained.items()}
        with nullcontext() if plan.rank is None else block_gradients(self.model.tail, held_only):
            losses.sum().backward()  # type: ignore[no-untyped-call]
