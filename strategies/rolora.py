"""rolora: LoRA whose factors take turns, B in even rounds and A in odd ones, the other fixed (RoLoRA).

    even:  B ← B + Σ_k w_k ΔB_k / Σ_k w_k        odd:  A ← A + Σ_k w_k ΔA_k / Σ_k w_k        W' = W + (alpha/r) · B·A

B goes first: it is zero at the start, so that a first round of A would have no gradient.

Bytes a round and a map: up 4 · r · out or 4 · r · in, the factor that was trained; down 4 · r · (in + out).
A sum suffices: within a round one factor is fixed, the product is linear in the other, and so the mean of the products
is the product of the means. Unlike under ffa, A learns which directions to read.
Differential privacy: noise enters once a round, linearly, as under ffa. But it stays in the factor and meets the other
one's noise in the next round, so the product of two noises comes back over the rounds, if not within one.

Reference: Chen et al. 2024, RoLoRA (arXiv 2409.02346).
"""

from dataclasses import dataclass
from typing import ClassVar

from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.factors import BaseFactors, Maps, add_to_trainable, lora_start
from yoriai.strategies.server_opt import KINDS


@dataclass(frozen=True)
class RoLoRA:
    """The `rolora` rule."""

    name: ClassVar[str] = "rolora"
    sum_suffices: ClassVar[bool] = True
    factors: ClassVar[tuple[str, ...]] = ("A", "B")
    moving: ClassVar[tuple[str, ...]] = ("A", "B")
    server_optimizers: ClassVar[tuple[str, ...]] = KINDS

    def trainable(self, round_index: int) -> tuple[str, ...]:
        """B in rounds 0, 2, 4 …, A in the others."""
        return ("A",) if round_index % 2 else ("B",)

    def initial(self, maps: Maps, rank: int, seed: int, base_factors: BaseFactors | None = None) -> AdapterState:
        """A Kaiming-uniform from the public seed, B zero; `base_factors` is not used.

        Raises:
            AdapterError: the rank does not fit a map.
        """
        return lora_start(maps, rank, seed)

    def combine(self, current: AdapterState, mean_update: AdapterState, round_index: int) -> AdapterState:
        """The round's factor plus its mean update; the other stays, bit for bit.

        Raises:
            AdapterError: the update is not the round's factor alone, of the same shapes.
        """
        return add_to_trainable(current, mean_update, self.trainable(round_index))

    def carried(self, moment: AdapterState, before: AdapterState, after: AdapterState) -> AdapterState:
        """The moment itself: the entries of the trained factor keep their meaning, though the other one moves."""
        return moment

    def verify(self, offered: AdapterState, state: AdapterState) -> None:
        """Any values will do: in a few rounds either factor can go anywhere."""

    def to_peft(self, state: AdapterState) -> AdapterState:
        """A and B as they are."""
        return state.select(("A", "B"))
