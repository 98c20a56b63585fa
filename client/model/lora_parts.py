"""What an adapted map has beside PEFT's A and B: a core between fixed factors, a dense remainder, and its pass."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from yoriai.privacy.dp.record_gradients import RecordGradients


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


class RecordedMap:
    """An adapted map's forward pass: PEFT's own, and while records' gradients are wanted one that leaves them.

    y = W x + B (s · A x), and for a core y = W x + U (R (s · A x)): the scale s is applied where the values are few.

    Args:
        plain: PEFT's forward pass.
        linear: the base's map.
        factors: from what enters to what leaves.
        scale: alpha / rank.
    """

    def __init__(
        self, plain: Callable[..., Tensor], linear: Any, factors: Sequence[nn.Parameter], scale: float
    ) -> None:
        self._plain, self._linear, self._factors, self._scale = plain, linear, list(factors), scale
        self.recorded_by: RecordGradients | None = None

    def __call__(self, entering: Tensor, *more: Any, **options: Any) -> Tensor:
        """(..., in) -> (..., out)."""
        if self.recorded_by is None:
            return self._plain(entering, *more, **options)
        first, *middle, last = self._factors
        hidden = self.recorded_by.linear(entering, first) * self._scale
        for factor in middle:
            hidden = self.recorded_by.linear(hidden, factor)
        return self.recorded_by.linear(hidden, last, onto=self._linear(entering))
