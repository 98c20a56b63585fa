"""The clipped gradients of one sampled batch, the step that every kind of training at a site begins with.

    draw the batch by Poisson sampling: units of privacy, each a record, or an owner with all of their records
    for each physical piece: forward, backward, clip each unit's gradient, add

Under privacy nothing that the records decide may stop a round, because a refusal is seen outside and is paid for by
nobody: a unit whose loss or gradient is not finite counts as zero. Whether the model computes at all is asked
beforehand, on public tokens (`FactorModel.check_output`).
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

import numpy as np
import torch
from torch import Tensor, nn

from yoriai.client.base.device_memory import fitting, memory_of
from yoriai.client.base.pieces import Rows as PieceRows
from yoriai.client.base.pieces import Shape, public_ids, rows_for
from yoriai.client.model.factor_model import FactorModel
from yoriai.client.model.prepared import Batch, Piece, PreparedRecords
from yoriai.client.model.tasks import TaskHead
from yoriai.client.training.plan import TrainingPlan
from yoriai.errors import TrainingError
from yoriai.privacy.dp.dpsgd import ClippedGradientSum, Rows
from yoriai.privacy.dp.mechanisms import poisson_sample
from yoriai.privacy.dp.randomness import RandomSource
from yoriai.privacy.dp.record_gradients import Block, RecordGradients
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
    _space: list[Tensor] = field(default_factory=list, init=False, repr=False)
    """The largest piece's gradients, once they are added; the next piece's are written over them."""

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
                for gradients, units in self._passed(piece):
                    total.add_piece(gradients, units, goes_on=self.records.by_owner)
                    if not self._space or len(self._space[0]) < len(gradients):
                        self._space[:] = [gradients]
                    del gradients  # What makes way for a larger piece, or for a trial, must not stay by this name.
        if canaries is not None:
            for first in range(0, len(further), plan.physical_batch_size):
                total.add_rows(canaries.rows(further[first : first + plan.physical_batch_size] - own))
        total.end_unit()
        return total

    def _passed(self, piece: Piece) -> Iterator[tuple[Tensor, list[int]]]:
        """Gradients of a piece's records and the units of the first of them; in smaller pieces where memory runs out.

        The logical batch stays what was drawn. Where rows may share pieces of any size, not a bit changes either.
        """
        shape, rows = piece.shape, len(piece.batch.last)
        if rows <= self._rows(shape).most:
            try:
                gradients = self._by_record(piece.batch, self._space_for(rows))
            except torch.OutOfMemoryError:
                gradients = None
            if gradients is not None:
                yield gradients, piece.units
                return
            self._halve(shape, rows)
        for chosen, count in self._rows(shape).cut(range(len(piece.units))):
            yield from self._passed(Piece(piece.batch.take(chosen), [piece.units[row] for row in chosen[:count]]))

    def _halve(self, shape: Shape, rows: int) -> None:
        """Let pieces of a shape have half as many records from here on, as many as do fit on public ones."""
        self._space.clear()
        if self.model.base.device.type == "cuda":
            torch.cuda.empty_cache()
        if rows == 1:
            raise _too_large(shape)
        self.model.keep_rows(self._key(shape), self._find_out(shape, rows // 2))

    def _key(self, shape: Shape) -> Hashable:
        return ("gradients", shape, self.plan.physical_batch_size, self.head, self.plan.factors, self.plan.rank)

    def _rows(self, shape: Shape) -> PieceRows:
        """How many records of a shape may pass at once, so that no gradient depends on the others."""
        return self.model.rows(self._key(shape), lambda: self._find_out(shape, self.plan.physical_batch_size))

    def _find_out(self, shape: Shape, most: int) -> PieceRows:
        self._space.clear()  # Its size is that of pieces that were drawn, and what fits must not follow from these.
        batch, device = self._public_batch(shape, most), self.model.base.device

        def run(rows: Sequence[int]) -> Tensor:
            return self._by_record(batch.take(rows))

        with self.model.stirred():
            try:
                fit = fitting(lambda count: run(range(count)), most, memory_of(device))
                return rows_for(run, shape.tokens, fit, device)
            except torch.OutOfMemoryError as error:
                raise _too_large(shape) from error

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

    def _space_for(self, rows: int) -> Tensor | None:
        """Where a piece's gradients may be written; what is too small for them makes way."""
        if self._space and len(self._space[0]) < rows:
            self._space.clear()
        return self._space[0] if self._space else None

    def _by_record(self, piece: Batch, space: Tensor | None = None) -> Tensor:
        """Each record's gradient over the rank's blocks, (B, n) float32: neither clipped nor safe.

        Args:
            space: that they may be written over.
        """
        device = self.model.base.device
        gradients = RecordGradients(list(self.trained.values()), list(self.blocks.values()), space=space)
        with (
            self.model.recording(gradients),
            torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"),
        ):
            hidden = self.head.hidden(self.model, piece)
        losses = self.head.losses(hidden, piece)  # In fp32: a prior is subtracted from logits of its own size.
        if isinstance(self.plan.noise, NoNoise) and not bool(torch.isfinite(losses).all()):
            raise TrainingError(
                "the loss of a record is not a number",
                expected="finite losses",
                remedy="lower the learning rate, or check the base model and the records",
            )
        losses.sum().backward()  # type: ignore[no-untyped-call]
        return gradients.take()


def _too_large(shape: Shape) -> TrainingError:
    return TrainingError(
        f"one record of {shape.tokens} tokens does not fit the device's memory in training",
        remedy="lower task.max_tokens or lora.layers, or train on a device with more memory",
    )
