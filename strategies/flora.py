"""flora: each round's products are stacked into a dense remainder, and every site starts the next one afresh (FLoRA).

    W ← W + Σ_k w_k B_k·A_k / Σ_k w_k,   B ← 0,   A ← a new Kaiming start,   W' = W_base + (alpha/r) · (W + B·A)

B_k and A_k are the current factors plus site k's update. Stacked side by side, the factors of all sites are one product
of matrices of inner size Σ_k r_k. The paper sends the stack, and each site folds it into its base model; W is that sum,
kept apart so that the base keeps its digest. W outgrows every fixed rank.

The A of a round is drawn from the digest of the A before it, which goes back to the job's public seed: no state beside
the adapter, the same bits on every machine, and nothing that depends on a record.

Bytes a round and a map: up 4 · r · (in + out), down 4 · (out · in + r · (in + out)), for W is dense.
A sum does not suffice: Σ w_k B_k·A_k is not a function of Σ w_k B_k and Σ w_k A_k. Without secure aggregation only.
Sites of lower rank train the first columns of B and rows of A and send zeros for the others; B starts at zero, so what
they do not train adds nothing.
Differential privacy: both factors carry a site's noise before they meet, so W gets the product of two noises from each
site, averaged over the sites; and what noise enters W stays there, where no later round can train it away.

Reference: Wang et al. 2024, FLoRA (NeurIPS 2024, arXiv 2409.05976).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from yoriai.errors import AdapterError
from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.dense import FACTORS, TRAINED, add_products, dense_start, factored, site_adapters
from yoriai.strategies.factors import kaiming_uniform


@dataclass(frozen=True)
class FLoRA:
    """The `flora` rule."""

    name: ClassVar[str] = "flora"
    sum_suffices: ClassVar[bool] = False
    factors: ClassVar[tuple[str, ...]] = FACTORS
    moving: ClassVar[tuple[str, ...]] = FACTORS
    server_optimizers: ClassVar[tuple[str, ...]] = ("none",)
    initial = staticmethod(dense_start)
    to_peft = staticmethod(factored)

    def trainable(self, round_index: int) -> tuple[str, ...]:
        """A and B in every round."""
        return TRAINED

    def combine_each(
        self, current: AdapterState, updates: Mapping[str, tuple[float, AdapterState]], round_index: int
    ) -> AdapterState:
        """W plus the mean of the sites' products; B zero; A drawn from the digest of the A before.

        Raises:
            AdapterError: an update is not A and B alone, of the same shapes, a weight is negative or not finite, or
                all are zero.
        """
        sites = site_adapters(current, updates)
        seed = int(current.select(("A",)).digest(), 16)
        tensors = {}
        for path in current.module_paths():
            terms = [(share, adapter.factor(path, "B"), adapter.factor(path, "A")) for share, adapter in sites]
            tensors[f"{path}:W"] = add_products(current.factor(path, "W"), terms)
            rank, in_features = current.factor(path, "A").shape
            tensors[f"{path}:A"] = kaiming_uniform(path, rank, in_features, seed).astype(np.float32)
            tensors[f"{path}:B"] = np.zeros_like(current.factor(path, "B"))
        return AdapterState(tensors)

    def verify(self, offered: AdapterState, state: AdapterState) -> None:
        """B is zero, as at the start of every round; A and W can be anything.

        Raises:
            AdapterError: a B is not zero.
        """
        for path in state.module_paths():
            if state.factor(path, "B").any():
                raise AdapterError(f"B of the map {path} is not zero", expected="zero at the start of a flora round")
