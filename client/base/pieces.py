"""How a batch is cut into pieces that pass through the model at once, so that no record moves another's gradient.

A record's gradient must be a function of that record alone: clipping bounds what one record adds to a sum, and says
nothing about what it does to the rows of others. In floating point it may do something. Libraries choose an order of
additions by the shape of a matrix product, so a batch that is one row larger, or padded to a longer record, gives other
last bits everywhere, and a hostile adapter makes last bits large. Three things prevent it:

1. A piece holds units of one `Shape`. It follows from the unit's own records, rounded up to a ladder, and the unit's
   records are padded to it whoever else is there.
2. How many rows a piece has is either of no consequence for a row, or fixed. The order of operations depends on shapes
   and not on values. So if, on public random numbers, each row's gradient is the same to the bit at several sizes and
   in several places (`rows_for`), the order is the same, and then it is for any values. Intel's MKL promises this for
   its matrix products when asked for strict reproducibility, which is done below. Where the numbers say otherwise (a
   GPU, another library), every piece has the same number of rows, the last one filled up with copies that are thrown
   away; and where even a row's place matters, each record passes alone.
3. What comes after the model, sums and norms and clipping, works on each row by itself, in float64
   (`yoriai.privacy.dp.dpsgd`).

What remains: the sizes that were tried stand for those between them, as MKL's documentation says; a GPU's kernels are
asked the same question by the same check, and were not read.
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
import torch
from torch import Tensor

# Read by MKL at its first product; a process that made one before this line ends up with pieces of fixed size.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

_LEAST_TOKENS: Final = 16
# Tokens of a piece: enough that the weights' way from memory no longer counts, little enough to be checked quickly.
_TOKENS: Final = {"cpu": 768}
_TOKENS_ELSEWHERE: Final = 16_384
# Rows of a piece whose size is fixed: of small batches most of a larger one would be thrown away.
_FIXED: Final = {"cpu": 8}

T = TypeVar("T")


@dataclass(frozen=True, order=True)
class Shape:
    """What a record is padded to.

    Attributes:
        tokens: positions.
        targets: places for target tokens, at most `tokens`.
    """

    tokens: int
    targets: int

    def __or__(self, other: "Shape") -> "Shape":
        return Shape(max(self.tokens, other.tokens), max(self.targets, other.targets))


@dataclass(frozen=True)
class Rows:
    """How many records make a piece of one shape: at most `most`; `filled` up to exactly that, where need be."""

    most: int
    filled: bool = False

    def cut(self, items: Sequence[T], cores: int = 1) -> Iterator[tuple[list[T], int]]:
        """Pieces of items, and how many of each piece's count; the others repeat its first.

        Args:
            cores: that pieces are worked on by at once; where their size is of no consequence, none is left idle.
        """
        size = self.most
        if items and cores > 1 and not self.filled:
            turns = math.ceil(len(items) / (size * cores))
            size = math.ceil(len(items) / (turns * cores))
        for start in range(0, len(items), size):
            piece = list(items[start : start + size])
            missing = self.most - len(piece) if self.filled else 0
            yield piece + piece[:1] * missing, len(piece)


def shape_of(tokens: int, targets: int, *, longest: int) -> Shape:
    """The shape of a record.

    Args:
        tokens: of the record.
        targets: target tokens among them.
        longest: positions that the model has.
    """
    padded = max(tokens, min(_rung(tokens), longest))
    return Shape(padded, min(padded, 1 << max(0, targets - 1).bit_length()))


def _rung(tokens: int) -> int:
    """The next of 16, 24, 32, 48, ...: few shapes, so that pieces are large, and little padding."""
    power = max(_LEAST_TOKENS, 1 << max(0, tokens - 1).bit_length())
    return power * 3 // 4 if power > _LEAST_TOKENS and tokens <= power * 3 // 4 else power


def public_ids(rows: int, tokens: int, vocabulary: int) -> Tensor:
    """Token ids that say nothing, (rows, tokens) int64: the same ones every time."""
    return torch.randint(vocabulary, (rows, tokens), generator=torch.Generator().manual_seed(0))


def rows_for(run: Callable[[Sequence[int]], Tensor], tokens: int, most: int, device: torch.device) -> Rows:
    """Find out how the records of one shape may share pieces.

    Args:
        run: given numbers of public records, below `most`, passes them as one piece and returns what came out, a row
            each, (len(numbers), n).
        tokens: of each.
        most: records of a piece, at most.
        device: where it runs. Where its memory runs out, pieces have half as many.

    Raises:
        torch.OutOfMemoryError: it does with a single record.
    """
    most = max(1, min(most, _TOKENS.get(device.type, _TOKENS_ELSEWHERE) // tokens))
    while True:
        try:
            return _tried(run, most, device)
        except torch.OutOfMemoryError:
            if most == 1:
                raise
        most //= 2


def _tried(run: Callable[[Sequence[int]], Tensor], most: int, device: torch.device) -> Rows:
    everything = list(range(most))
    if _agree(run, everything, [everything[:1], everything[-1:], everything[-3:]]):
        return Rows(most)
    most = min(most, _FIXED.get(device.type, most))
    if _agree(run, everything[:most], [everything[:most][::-1], everything[1:most] + everything[:1]]):
        return Rows(most, filled=True)
    return Rows(1)


def _agree(run: Callable[[Sequence[int]], Tensor], whole: Sequence[int], others: Sequence[Sequence[int]]) -> bool:
    """Whether each record gives the same bits in every piece."""
    expected = run(whole)
    return all(torch.equal(run(other), expected[list(other)]) for other in others)


def filled(rows: Sequence[np.ndarray], width: int) -> Tensor:
    """Rows of integers, zeros behind them: (len(rows), width) int64."""
    padded = np.zeros((len(rows), width), np.int64)
    for row, values in enumerate(rows):
        padded[row, : len(values)] = values
    return torch.from_numpy(padded)
