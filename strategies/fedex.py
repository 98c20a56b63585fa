"""fedex: fedavg, with the error that averaging makes put into a dense remainder (FedEx-LoRA).

    Ā = Σ_k w_k A_k / Σ_k w_k,   B̄ likewise,   W ← W + Σ_k w_k B_k·A_k / Σ_k w_k − B̄·Ā,   A ← Ā,   B ← B̄
    W' = W_base + (alpha/r) · (W + B·A)

B_k and A_k are the current factors plus site k's update. A and B are those of fedavg to the bit; W makes W + B·A the
mean of the sites' own. What W takes up is the covariance of the factors over the sites, of rank up to r times their
number, so it outgrows every fixed rank.

Bytes a round and a map: up 4 · r · (in + out), down 4 · (out · in + r · (in + out)), for W is dense.
A sum does not suffice: Σ w_k B_k·A_k is not a function of Σ w_k B_k and Σ w_k A_k. Without secure aggregation only.
Sites of lower rank send zeros for the columns of B and rows of A that they do not train, and so keep the current ones.
Differential privacy: as under flora, each site's product of two noises enters, averaged over the sites. The part that
lands in W stays there, where no later round can train it away.

Reference: Singhal et al. 2025, FedEx-LoRA (arXiv 2410.09432).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from yoriai.strategies.adapter import AdapterState, weighted_mean
from yoriai.strategies.dense import FACTORS, TRAINED, add_products, dense_start, factored, site_adapters
from yoriai.strategies.factors import add_to_trainable, any_values


@dataclass(frozen=True)
class FedEx:
    """The `fedex` rule."""

    name: ClassVar[str] = "fedex"
    sum_suffices: ClassVar[bool] = False
    factors: ClassVar[tuple[str, ...]] = FACTORS
    moving: ClassVar[tuple[str, ...]] = FACTORS
    server_optimizers: ClassVar[tuple[str, ...]] = ("none",)
    initial = staticmethod(dense_start)
    verify = staticmethod(any_values)
    to_peft = staticmethod(factored)

    def trainable(self, round_index: int) -> tuple[str, ...]:
        """A and B in every round."""
        return TRAINED

    def combine_each(
        self, current: AdapterState, updates: Mapping[str, tuple[float, AdapterState]], round_index: int
    ) -> AdapterState:
        """A and B, each plus its mean update, and W plus what their product then lacks of the mean product.

        Raises:
            AdapterError: an update is not A and B alone, of the same shapes, a weight is negative or not finite, or
                all are zero.
        """
        sites = site_adapters(current, updates)
        averaged = add_to_trainable(current, weighted_mean(updates), TRAINED)
        tensors = dict(averaged.tensors)
        # The averages enter as they were rounded, so that W makes up for their rounding too.
        signed = [*sites, (-1.0, averaged)]
        for path in current.module_paths():
            terms = [(scale, adapter.factor(path, "B"), adapter.factor(path, "A")) for scale, adapter in signed]
            tensors[f"{path}:W"] = add_products(current.factor(path, "W"), terms)
        return AdapterState(tensors)
