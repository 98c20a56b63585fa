"""ffa: LoRA with A frozen, only B trained and averaged (FFA-LoRA).

    W' = W + (alpha/r) · B·A with A fixed from a public seed,   B ← B + Σ_k w_k ΔB_k / Σ_k w_k

Bytes a round, each way and a map: 4 · r · out. A never travels: every site makes the same bits from the seed.
A sum suffices: with A fixed the product is linear in B, so the mean of the products is the product of the means.
Differential privacy: noise enters once, linearly, and through a fixed A: no product of two noises. Its norm falls
against fedavg's with the square root of out/(in + out) at the same clip_norm. The price: B can only reach the r random
directions that A happens to read.

Reference: Sun et al. 2024, FFA-LoRA (ICLR 2024, arXiv 2403.12313).
"""

from dataclasses import dataclass
from typing import ClassVar

from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.factors import add_to_trainable, any_values, as_it_was, lora_start, plain_lora
from yoriai.strategies.server_opt import OF_ADAPTERS


@dataclass(frozen=True)
class FFA:
    """The `ffa` rule."""

    name: ClassVar[str] = "ffa"
    sum_suffices: ClassVar[bool] = True
    factors: ClassVar[tuple[str, ...]] = ("A", "B")
    moving: ClassVar[tuple[str, ...]] = ("B",)
    server_optimizers: ClassVar[tuple[str, ...]] = OF_ADAPTERS
    initial = staticmethod(lora_start)
    carried = staticmethod(as_it_was)
    verify = staticmethod(any_values)
    to_peft = staticmethod(plain_lora)

    def trainable(self, round_index: int) -> tuple[str, ...]:
        """B in every round."""
        return ("B",)

    def combine(self, current: AdapterState, mean_update: AdapterState, round_index: int) -> AdapterState:
        """B + mean update; A stays. Raises AdapterError unless the update is B alone, of the same shapes."""
        return add_to_trainable(current, mean_update, self.trainable(round_index))
