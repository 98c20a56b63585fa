"""head: one matrix on states of the frozen base, all that trains in a job with task.head = "trained".

    logits = H x / τ,   H ← H + Σ_k w_k ΔH_k / Σ_k w_k

Factors: `head:H` (labels, features), zero at first, trained; of each state that the head reads its public conditioning,
M (1, width) and D (directions, width), fixed. They are computed once, by a machine that has the base and the public
texts, and sent as bytes: eigenvectors are unique only up to signs, so sites that each took their own would average H
in different bases.

A sum suffices and is exact: the logits are linear in H. Bytes a round, each way: 4 · labels · features.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from yoriai.errors import AdapterError
from yoriai.strategies.adapter import AdapterState
from yoriai.strategies.factors import BaseFactors, Maps, add_to_trainable, any_values, as_it_was
from yoriai.strategies.server_opt import KINDS

HEAD_PATH = "head"


@dataclass(frozen=True)
class Head:
    """How a head is summed. It is no choice of federation.rule: a job whose head trains has no other."""

    name: ClassVar[str] = "head"
    sum_suffices: ClassVar[bool] = True
    factors: ClassVar[tuple[str, ...]] = ("D", "H", "M")
    moving: ClassVar[tuple[str, ...]] = ("H",)
    server_optimizers: ClassVar[tuple[str, ...]] = KINDS
    carried = staticmethod(as_it_was)
    verify = staticmethod(any_values)

    def trainable(self, round_index: int) -> tuple[str, ...]:
        """H in every round."""
        return ("H",)

    def initial(self, maps: Maps, rank: int, seed: int, base_factors: BaseFactors | None = None) -> AdapterState:
        """M and D of each state from `base_factors`, H zero; rank and seed are not used.

        Args:
            maps: the head as "head" -> (labels, features).
            base_factors: state -> (M (1, width), D (directions, width)).

        Raises:
            AdapterError: no conditioning, or values that are not finite.
        """
        if not base_factors:
            raise AdapterError("a head starts from public conditioning, and none was given")
        tensors: dict[str, NDArray[np.floating]] = {f"{HEAD_PATH}:H": np.zeros(maps[HEAD_PATH], np.float32)}
        for path, (mean, onto) in base_factors.items():
            tensors |= {f"{path}:M": mean, f"{path}:D": onto}
        state = AdapterState({name: np.asarray(tensor, np.float32) for name, tensor in tensors.items()})
        state.check_finite()
        return state

    def combine(self, current: AdapterState, mean_update: AdapterState, round_index: int) -> AdapterState:
        """H + mean update. Raises AdapterError unless the update is H alone, of the same shape."""
        return add_to_trainable(current, mean_update, self.trainable(round_index))

    def to_peft(self, state: AdapterState) -> AdapterState:
        """Raises AdapterError: a head adds nothing to the base's own maps, so no LoRA factors give the same."""
        raise AdapterError("a head that trains is no LoRA adapter", remedy="load its folder with yoriai.load")
