"""fedavg: both LoRA factors trained and averaged, each by itself (FedIT). The baseline that the other rules must beat.

    W' = W + (alpha/r) · B·A,   A ← A + Σ_k w_k ΔA_k / Σ_k w_k,   B ← B + Σ_k w_k ΔB_k / Σ_k w_k

Bytes a round, each way and a map: 4 · r · (in + out).
A sum suffices to compute this, but the result is not the mean of the sites' adapters: mean(B_k)·mean(A_k) differs from
mean(B_k·A_k) by the covariance of the factors over the sites, which grows with local steps and the sites' differences.
Differential privacy: A and B each carry noise, so W' gets two terms linear in it and the product of the two noises. The
product grows with the square of the noise and is the largest of the three once the noise exceeds the factors.

References: McMahan et al. 2017 (arXiv 1602.05629); Zhang et al. 2023, FedIT (arXiv 2305.05644).
"""

from dataclasses import dataclass
from typing import ClassVar

from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.factors import add_to_trainable, any_values, as_it_was, lora_start, plain_lora
from yoriai.strategies.server_opt import OF_ADAPTERS


@dataclass(frozen=True)
class FedAvg:
    """The `fedavg` rule."""

    name: ClassVar[str] = "fedavg"
    sum_suffices: ClassVar[bool] = True
    factors: ClassVar[tuple[str, ...]] = ("A", "B")
    moving: ClassVar[tuple[str, ...]] = ("A", "B")
    server_optimizers: ClassVar[tuple[str, ...]] = OF_ADAPTERS
    initial = staticmethod(lora_start)
    carried = staticmethod(as_it_was)
    verify = staticmethod(any_values)
    to_peft = staticmethod(plain_lora)

    def trainable(self, round_index: int) -> tuple[str, ...]:
        """A and B in every round."""
        return ("A", "B")

    def combine(self, current: AdapterState, mean_update: AdapterState, round_index: int) -> AdapterState:
        """A and B, each plus its mean update. Raises AdapterError unless names and shapes are the same."""
        return add_to_trainable(current, mean_update, self.trainable(round_index))
