"""What a rule needs in an adapted map beside PEFT's A and B: a core between fixed factors, a dense remainder."""

from typing import Any

import torch
from torch import Tensor, nn


class CoreB(nn.Module):
    """The B side of the `core` rule: a trainable r×r core R between the fixed factors, B = U·R."""

    R: nn.Linear
    U: nn.Linear

    def __init__(self, rank: int, out_features: int) -> None:
        super().__init__()
        self.R = nn.Linear(rank, rank, bias=False)
        self.U = nn.Linear(rank, out_features, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """(…, r) -> (…, out)."""
        output: Tensor = self.U(self.R(hidden))
        return output


class Remainder:
    """What `flora` and `fedex` fold into the base: W (out, in), added to a map's weight at the adapter's scale.

    It never trains, so it lives in the base's weight and costs no pass of its own; the untouched weight is kept beside.

    Args:
        linear: the base's map.
        scale: alpha / rank.
    """

    def __init__(self, linear: Any, scale: float) -> None:
        self._weight: nn.Parameter = linear.weight
        self._untouched = self._weight.detach().clone()
        self._scale = scale
        self.W = nn.Parameter(torch.zeros_like(self._weight), requires_grad=False)

    @torch.no_grad()
    def fold(self) -> None:
        """Make the map's weight what W says."""
        self._weight.copy_(self._untouched + self._scale * self.W)

    @torch.no_grad()
    def unfold(self) -> None:
        """Give the map its own weight back; W stays."""
        self._weight.copy_(self._untouched)
