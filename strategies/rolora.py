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
from yoriai.strategies.factors import add_to_trainable, any_values, as_it_was, lora_start, plain_lora
from yoriai.strategies.server_opt import OF_ADAPTERS


@dataclass(frozen=True)
class RoLoRA:
    """The `rolora` rule."""

    name: ClassVar[str] = "rolora"
    sum_suffices: ClassVar[bool] = True
    factors: ClassVar[tuple[str, ...]] = ("A", "B")
    moving: ClassVar[tuple[str, ...]] = ("A", "B")
    server_optimizers: ClassVar[tuple[str, ...]] = OF_ADAPTERS
    initial = staticmethod(lora_start)
    carried = staticmethod(as_it_was)
    verify = staticmethod(any_values)
    to_peft = staticmethod(plain_lora)

    def trainable(self, round_index: int) -> tuple[str, ...]:
        """B in rounds 0, 2, 4 …, A in the others."""
        return ("A",) if round_index % 2 else ("B",)

    def combine(self, current: AdapterState, mean_update: AdapterState, round_index: int) -> AdapterState:
        """The round's factor plus its mean update; the other stays, bit for bit.

        Raises:
            AdapterError: the update is not the round's factor alone, of the same shapes.
        """
        return add_to_trainable(current, mean_update, self.trainable(round_index))
