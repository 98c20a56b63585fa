"""Records made ready for training: tokens, and the hidden states that enter the first adapted layer, computed once.

Everything below the first adapted layer is frozen, so its output for a record never changes during a job. Keeping it
turns a pass through 30 layers into a pass through the last 8. The states are as private as the records: they stay in
the site's memory, or in an unlinked temporary file where they are large.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from yoriai.client.encoding import Example
from yoriai.client.lora import AdaptedModel

_MEMORY_LIMIT_BYTES = 512 * 1024 * 1024
_PREFIX_BATCH = 64


@dataclass(frozen=True, eq=False)
class Batch:
    """A piece of a batch, right-padded to its longest record.

    Attributes:
        entering: (B, T, H) hidden states at the first adapted layer.
        token_ids: (B, T) int64, padded with 0.
        loss_mask: (B, T) bool, True where the token is a target.
        last: (B,) index of each record's last token.
        labels: (B,) int64, -1 without a label.
    """

    entering: Tensor
    token_ids: Tensor
    loss_mask: Tensor
    last: Tensor
    labels: Tensor


class PreparedRecords:
    """Encoded records of one site and, when cached, their entering hidden states.

    Args:
        model: computes the prefix.
        examples: one a record.
        known: states by token row that were computed before, and where new ones are kept; None computes the prefix
            for every batch.
        units: the records of each unit of privacy, none empty; None where each record is one.
        progress: called with (records done, records in all).
    """

    def __init__(
        self,
        model: AdaptedModel,
        examples: Sequence[Example],
        *,
        known: dict[bytes, Tensor] | None,
        units: Sequence[Sequence[int]] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self._model = model
        self.examples = tuple(examples)
        self._units = None if units is None else [self._by_length(unit) for unit in units]
        self._states: list[Tensor] | None = None
        if known is not None:
            self._compute(known, progress)
            self._states = [known[example.token_ids.tobytes()] for example in self.examples]

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def unit_count(self) -> int:
        """The number of units of privacy, which is what is drawn from. It must not leave the site."""
        return len(self.examples) if self._units is None else len(self._units)

    def batches_of_units(
        self, drawn: Sequence[int] | np.ndarray, physical_batch_size: int
    ) -> Iterator[tuple[Batch, list[int] | None]]:
        """Cut all records of the drawn units into pieces of at most `physical_batch_size`.

        Each unit's records come one after another, over as many pieces as they need; units with like-sized longest
        records share a piece.

        Yields:
            A piece, and the unit of each of its rows; None for the latter where each record is a unit.
        """
        units = self._units
        if units is None:
            for batch in self.batches(drawn, physical_batch_size):
                yield batch, None
            return
        ordered = sorted((int(unit) for unit in drawn), key=lambda unit: (self._length(units[unit][-1]), unit))
        rows = [(index, unit) for unit in ordered for index in units[unit]]
        for start in range(0, len(rows), physical_batch_size):
            piece = rows[start : start + physical_batch_size]
            yield self._batch([index for index, _ in piece]), [unit for _, unit in piece]

    def batches(self, indices: Sequence[int] | np.ndarray, physical_batch_size: int) -> Iterator[Batch]:
        """Cut the chosen records into pieces of at most `physical_batch_size`; like-sized ones share a piece."""
        for piece in self._pieces(indices, physical_batch_size):
            yield self._batch(piece)

    def _pieces(self, indices: Sequence[int] | np.ndarray, size: int) -> Iterator[list[int]]:
        by_length = self._by_length(indices)
        for start in range(0, len(by_length), size):
            yield by_length[start : start + size]

    def _by_length(self, indices: Sequence[int] | np.ndarray) -> list[int]:
        return sorted((int(i) for i in indices), key=lambda i: (self._length(i), i))

    def _length(self, index: int) -> int:
        return len(self.examples[index].token_ids)

    def _batch(self, piece: list[int]) -> Batch:
        device = self._model.base.device
        chosen = [self.examples[i] for i in piece]
        longest = max(len(example.token_ids) for example in chosen)
        token_ids = np.zeros((len(piece), longest), np.int64)
        loss_mask = np.zeros((len(piece), longest), np.bool_)
        for row, example in enumerate(chosen):
            token_ids[row, : len(example.token_ids)] = example.token_ids
            loss_mask[row, : len(example.loss_mask)] = example.loss_mask
        ids = torch.from_numpy(token_ids).to(device)
        return Batch(
            entering=self._entering(piece, ids),
            token_ids=ids,
            loss_mask=torch.from_numpy(loss_mask).to(device),
            last=torch.tensor([len(example.token_ids) - 1 for example in chosen], device=device),
            labels=torch.tensor([example.label for example in chosen], device=device),
        )

    def _entering(self, piece: list[int], token_ids: Tensor) -> Tensor:
        if self._states is None:
            return self._model.prefix(token_ids)
        states = [self._states[i] for i in piece]
        padded = torch.zeros(*token_ids.shape, states[0].shape[1])  # (B, T, H)
        for row, state in enumerate(states):
            padded[row, : len(state)] = state
        return padded.to(token_ids.device)

    def _compute(self, known: dict[bytes, Tensor], progress: Callable[[int, int], None] | None) -> None:
        """Add the hidden states (T_i, H) of every record that is not known yet, as views into one block."""
        missing = {e.token_ids.tobytes(): i for i, e in enumerate(self.examples) if e.token_ids.tobytes() not in known}
        lengths = {i: len(self.examples[i].token_ids) for i in missing.values()}
        block = _allocate(sum(lengths.values()), int(self._model.base.model.config.hidden_size))
        start = done = 0
        for piece in self._pieces(list(lengths), _PREFIX_BATCH):
            ids = np.zeros((len(piece), max(lengths[i] for i in piece)), np.int64)
            for row, i in enumerate(piece):
                ids[row, : lengths[i]] = self.examples[i].token_ids
            states = self._model.prefix(torch.from_numpy(ids).to(self._model.base.device)).float().cpu()
            for row, i in enumerate(piece):
                view = block[start : start + lengths[i]]
                known[self.examples[i].token_ids.tobytes()] = view.copy_(states[row, : lengths[i]])
                start += lengths[i]
            done += len(piece)
            if progress is not None:
                progress(done, len(lengths))


def _allocate(tokens: int, hidden: int) -> Tensor:
    if tokens * hidden * 4 <= _MEMORY_LIMIT_BYTES:
        return torch.empty(tokens, hidden)
    file = tempfile.TemporaryFile(prefix="yoriai-prefix-")  # noqa: SIM115 - the mapping keeps the unlinked file alive
    return torch.from_numpy(np.memmap(file, np.float32, "w+", shape=(tokens, hidden)))
