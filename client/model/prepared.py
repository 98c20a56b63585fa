"""Records made ready for training: tokens, and the hidden states that enter the first adapted layer, computed once.

Everything below the first adapted layer is frozen, so its output for a record never changes during a job. Keeping it
turns a pass through 30 layers into a pass through the last 8. The states are as private as the records: they stay in
the site's memory, or in an unlinked temporary file where they are large.
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import reduce
from operator import or_
from typing import Self

import numpy as np
import torch
from torch import Tensor

from yoriai.client.base.cores import cores_of, side_by_side
from yoriai.client.base.pieces import Rows, Shape, filled
from yoriai.client.model.factor_model import ENTER_AT_ONCE, FactorModel, padded_tokens
from yoriai.client.model.limits import STATES_IN_MEMORY_BYTES
from yoriai.client.records.encoding import Example
from yoriai.errors import StorageError


@dataclass(frozen=True, eq=False)
class Batch:
    """Records that pass through the model at once, right-padded to one shape.

    Attributes:
        entering: (B, T, H) what the model reads of entering states; for an adapter, hidden states at its first layer.
        token_ids: (B, T) int64, padded with 0; where a record enters as one row, its first alone.
        targets: (B, K) int64 positions of the target tokens, padded with 0, which is never one.
        last: (B,) index of each record's last token.
        labels: (B,) int64, -1 without a label.
    """

    entering: Tensor
    token_ids: Tensor
    targets: Tensor
    last: Tensor
    labels: Tensor

    def take(self, rows: Sequence[int]) -> Self:
        """Some of the rows, in this order."""
        chosen = torch.tensor(rows, device=self.last.device)
        return type(self)(*(getattr(self, field.name)[chosen] for field in fields(self)))


@dataclass(frozen=True, eq=False)
class Piece:
    """A part of a sampled batch.

    Attributes:
        units: the unit of each of the batch's first rows; those after them are there to fill it up, and do not count.
    """

    batch: Batch
    units: list[int]

    @property
    def shape(self) -> Shape:
        """What its records are padded to."""
        return Shape(self.batch.token_ids.shape[1], self.batch.targets.shape[1])


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
        model: FactorModel,
        examples: Sequence[Example],
        *,
        known: dict[bytes, Tensor] | None,
        units: Sequence[Sequence[int]] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self._model = model
        self.examples = tuple(examples)
        self._units = None if units is None else [list(unit) for unit in units]
        self._shapes = [model.shape(example) for example in self.examples]
        self._states: list[Tensor] | None = None
        self._read: tuple[int, list[Tensor]] | None = None
        if known is not None:
            self._compute(known, progress)
            self._states = [known[example.content] for example in self.examples]

    @classmethod
    def together(cls, parts: Sequence["PreparedRecords"]) -> "PreparedRecords":
        """The records of several sites as if they were one's; their states are shared, not copied.

        The units of each part are numbered on from those of the parts before it.

        Args:
            parts: of one model, all with states that are kept or all without; at least one.
        """
        examples = [example for part in parts for example in part.examples]
        units: list[list[int]] = []
        start = 0
        for part in parts:
            own = part._units if part._units is not None else [[record] for record in range(len(part))]
            units += [[start + record for record in unit] for unit in own]
            start += len(part)
        found = cls(parts[0]._model, examples, known=None, units=units)
        if all(part._states is not None for part in parts):
            found._states = [state for part in parts for state in part._states or ()]
        return found

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def unit_count(self) -> int:
        """The number of units of privacy, which is what is drawn from. It must not leave the site."""
        return len(self.examples) if self._units is None else len(self._units)

    @property
    def by_owner(self) -> bool:
        """Whether a unit may have several records."""
        return self._units is not None

    def pieces(self, drawn: Sequence[int] | np.ndarray, rows: Callable[[Shape], Rows]) -> Iterator[Piece]:
        """Cut all records of the drawn units into pieces, each of units of one shape; see `yoriai.client.base.pieces`.

        A unit's shape is that of all its records together, and they come one after another, over as many pieces as they
        need.

        Args:
            rows: how many records of a shape make a piece.
        """
        for shape, members in self._by_shape(drawn):
            for piece, count in rows(shape).cut(members):
                batch = self._batch([record for record, _ in piece], shape)
                yield Piece(batch, [unit for _, unit in piece[:count]])

    def order(self, drawn: Sequence[int] | np.ndarray) -> list[int]:
        """The drawn units in the order in which `pieces` has them."""
        return [unit for _, members in self._by_shape(drawn) for unit in dict.fromkeys(unit for _, unit in members)]

    def _by_shape(self, drawn: Sequence[int] | np.ndarray) -> list[tuple[Shape, list[tuple[int, int]]]]:
        """The records of the drawn units by their unit's shape, as (record, unit)."""
        groups: dict[Shape, list[tuple[int, int]]] = {}
        for unit in sorted(int(unit) for unit in drawn):
            records = [unit] if self._units is None else self._units[unit]
            shape = reduce(or_, (self._shapes[record] for record in records))
            groups.setdefault(shape, []).extend((record, unit) for record in records)
        return sorted(groups.items())

    def by_length(self, indices: Sequence[int] | np.ndarray) -> list[int]:
        """The chosen records in the order in which they are measured."""
        return sorted((int(i) for i in indices), key=lambda i: (len(self.examples[i].token_ids), i))

    def kept_states(self) -> list[Tensor] | None:
        """The entering states of all records, each (rows, F), where they are kept."""
        return self._states

    def batches(self, indices: Sequence[int] | np.ndarray, physical_batch_size: int) -> Iterator[Batch]:
        """Cut the chosen records into batches of at most `physical_batch_size`; like-sized ones share one.

        For measuring: they are padded to the largest of each batch, whose neighbours move its last bits.
        """
        by_length = self.by_length(indices)
        for start in range(0, len(by_length), physical_batch_size):
            some = by_length[start : start + physical_batch_size]
            longest = max(len(self.examples[i].token_ids) for i in some)
            shape = reduce(or_, (self._shapes[i] for i in some))
            yield self._batch(some, Shape(longest, min(longest, shape.targets)))

    def _batch(self, records: list[int], shape: Shape) -> Batch:
        device = self._model.base.device
        chosen = [self.examples[i] for i in records]
        ids = filled([example.token_ids[: shape.tokens] for example in chosen], shape.tokens).to(device)
        targets = filled([np.flatnonzero(example.loss_mask) for example in chosen], shape.targets)
        return Batch(
            entering=self._entering(records, shape.tokens),
            token_ids=ids,
            targets=targets.to(device),
            last=torch.tensor([len(example.token_ids) - 1 for example in chosen], device=device),
            labels=torch.tensor([example.label for example in chosen], device=device),
        )

    def _entering(self, records: list[int], tokens: int) -> Tensor:
        """Their entering states, padded: (B, rows of `tokens` tokens, F)."""
        if self._states is None:
            return self._model.read(self._model.enter([self.examples[i] for i in records], tokens))
        read = self._read_states(self._states)
        states = [read[i] for i in records]
        padded = torch.zeros(len(records), self._model.state_rows(tokens), states[0].shape[1])
        for row, state in enumerate(states):
            padded[row, : len(state)] = state
        return padded.to(self._model.base.device)

    def _read_states(self, states: list[Tensor]) -> list[Tensor]:
        """What the model reads of each, for as long as it reads alike."""
        if self._read is None or self._read[0] != self._model.reading:
            kept = zip(self.examples, states, strict=True)
            self._read = self._model.reading, [self._model.read_once(one.content, state) for one, state in kept]
        return self._read[1]

    def _compute(self, known: dict[bytes, Tensor], progress: Callable[[int, int], None] | None) -> None:
        """Add the entering states (rows, F) of every record that is not known yet, as views into one block."""
        missing = {e.content: i for i, e in enumerate(self.examples) if e.content not in known}
        if not missing:
            return
        rows = [self._model.state_rows(len(self.examples[i].token_ids)) for i in missing.values()]
        block = _allocate(sum(rows), self._model.state_width)
        views = dict(zip(missing.values(), torch.split(block, rows), strict=True))
        by_tokens: dict[int, list[int]] = {}
        for i in views:
            by_tokens.setdefault(padded_tokens(self.examples[i], self._model.base), []).append(i)
        done, device = 0, self._model.base.device
        for tokens, records in sorted(by_tokens.items()):  # One length at a time: some bases keep what suits one.

            def enter(cut: tuple[list[int], int], tokens: int = tokens) -> None:
                piece, count = cut
                states = self._model.enter([self.examples[i] for i in piece], tokens).float().cpu()
                for row, i in enumerate(piece[:count]):
                    views[i].copy_(states[row, : len(views[i])])

            def tell(cut: tuple[list[int], int]) -> None:
                nonlocal done
                done += cut[1]
                if progress is not None:
                    progress(done, len(views))

            fit = self._model.enter_rows(tokens, ENTER_AT_ONCE)
            side_by_side(enter, list(fit.cut(records, cores_of(device))), device, tell)
        known.update({self.examples[i].content: view for i, view in views.items()})


def _allocate(tokens: int, hidden: int) -> Tensor:
    size_bytes = tokens * hidden * 4
    if size_bytes <= STATES_IN_MEMORY_BYTES:
        return torch.empty(tokens, hidden)
    try:
        file = tempfile.TemporaryFile(prefix="yoriai-prefix-")  # noqa: SIM115 - the mapping keeps the unlinked file alive
        # The whole of it now: a mapping that meets a full disk later on ends the process by a signal, without a word.
        os.posix_fallocate(file.fileno(), 0, size_bytes)
    except OSError as error:
        raise StorageError(
            f"the folder for temporary files has no room for the records' hidden states, {size_bytes / 1e6:.0f} MB",
            found=error.strerror or type(error).__name__,
            remedy="make room there, name another folder in TMPDIR, or set speed.prefix_cache = false",
        ) from error
    return torch.from_numpy(np.memmap(file, np.float32, "w+", shape=(tokens, hidden)))
