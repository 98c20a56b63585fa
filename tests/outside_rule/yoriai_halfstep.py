"""halfstep: ffa that adds half of the mean update.

    B ← B + ½ Σ_k w_k ΔB_k / Σ_k w_k,   A fixed

Bytes a round, each way and a map: 4 · r · out. A sum suffices.
"""

from yoriai.strategies.adapter import AdapterState, add_scaled
from yoriai.strategies.factors import BaseFactors, Maps, lora_start


class HalfStep:
    """The `halfstep` rule."""

    name = "halfstep"
    sum_suffices = True
    factors = ("A", "B")
    moving = ("B",)
    server_optimizers = ("none",)

    def trainable(self, round_index: int) -> tuple[str, ...]:
        """B in every round."""
        return ("B",)

    def initial(self, maps: Maps, rank: int, seed: int, base_factors: BaseFactors | None = None) -> AdapterState:
        """A Kaiming-uniform from the public seed, B zero."""
        return lora_start(maps, rank, seed)

    def combine(self, current: AdapterState, mean_update: AdapterState, round_index: int) -> AdapterState:
        """B plus half the mean update."""
        return current.merged_with(add_scaled(current.select(("B",)), mean_update, 0.5))

    def carried(self, moment: AdapterState, before: AdapterState, after: AdapterState) -> AdapterState:
        """The moment itself."""
        return moment

    def verify(self, offered: AdapterState, state: AdapterState) -> None:
        """Any values will do."""

    def to_peft(self, state: AdapterState) -> AdapterState:
        """A and B as they are."""
        return state
